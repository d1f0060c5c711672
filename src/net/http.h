/* One request/response model over HTTP/1.1 (RFC 9112) and HTTP/2 (RFC 9113), cleartext, on one port.
 *
 * The net layer sniffs each connection (24-byte HTTP/2 preface against anything else, byte by byte, with a deadline),
 * parses heads strictly, and hands a `struct http_req` to the first route that matches. Flow control is manual: request
 * bytes are credited back to the peer only as the handler consumes them; reply bytes are queued up to a high-water mark
 * and the handler is told when to go on. Every quantity a peer can grow has a limit below. Loop thread only. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/buf.h"
#include "base/err.h"
#include "loop/loop.h"

/* Limits (defaults; struct http_limits lets tests lower them). */
struct http_limits {
    size_t head_max;       /* 32 KiB: one request head, all header bytes (HPACK-decoded for HTTP/2) */
    unsigned headers_max;  /* 100 header fields */
    unsigned conns_max;    /* 4096 connections */
    unsigned streams_max;  /* 256 concurrent HTTP/2 streams a connection */
    unsigned requests_max; /* 16384 requests open on all connections; above: 503 */
    size_t stream_window;  /* 1 MiB: HTTP/2 receive window of a stream */
    size_t conn_window;    /* 16 MiB; also what paused streams of a connection may hold before all of it is stopped */
    size_t out_high, out_low; /* 512 KiB / 128 KiB: reply bytes queued on one request before `writable` goes false */
    size_t conn_out_max;      /* 8 MiB of framed replies and control frames (1 KiB each) a peer leaves unread: closed */
    unsigned resets_per_min;  /* 12000: peer RST_STREAMs a minute before GOAWAY ENHANCE_YOUR_CALM */
    unsigned pings_per_min;   /* 6000: PING + SETTINGS a minute */
    uint64_t sniff_ns, head_ns; /* 10 s: time for preface and for one head (slow-loris) */
    uint64_t idle_ns;           /* 10 min without a request: closed (HTTP/2: GOAWAY first) */
};
extern const struct http_limits http_limits_default;

struct http_req;

struct http_field {
    const char *name, *value; /* NUL-terminated, validated; names in lower case */
};

/* What a handler implements; every member but `start` may be NULL. After `gone` or http_end() the request must not be
 * touched: it is freed by the net layer. */
struct http_handler {
    /* The head is complete. The handler sets req's arg and, if it wants a body, waits for `body`. */
    void (*start)(struct http_req *r);
    /* Bytes of the body, in order. They are consumed when this returns unless http_pause(r, true) was called, which stops
     * further delivery (and, in time, the peer) after this piece. */
    void (*body)(struct http_req *r, const uint8_t *data, size_t len);
    /* The peer has finished its side. May come before or after the reply has begun. */
    void (*half_close)(struct http_req *r);
    /* The reply queue fell below out_low again after http_writable() was false. */
    void (*writable)(struct http_req *r);
    /* The peer reset the stream or the connection is lost, before http_end(). Last call for R. */
    void (*gone)(struct http_req *r);
};

struct http_route {
    const char *prefix; /* path prefix; "/" at the end means any below */
    /* NULL = any method. */
    const char *method;
    /* When set, the content-type must begin with it ("application/grpc"). */
    const char *content_type;
    const struct http_handler *handler;
    void *data; /* http_route_data() */
};

void *http_route_data(const struct http_req *r);
void http_set_arg(struct http_req *r, void *arg);
void *http_arg(const struct http_req *r);
struct loop *http_loop(const struct http_req *r);

const char *http_method(const struct http_req *r);
const char *http_path(const struct http_req *r);  /* percent-decoded? no: as sent, without the query */
const char *http_query(const struct http_req *r); /* as sent, "" if none */
/* Decodes one query parameter into OUT (NUL-terminated). Length, -ENOENT, -EINVAL, -EMSGSIZE. */
int http_query_get(const struct http_req *r, const char *name, char *out, size_t cap);
/* First field of that name (lower case) or NULL. */
const char *http_header(const struct http_req *r, const char *name);
const struct http_field *http_headers(const struct http_req *r, unsigned *ret_count);
bool http_is_h2(const struct http_req *r);
/* In `gone`: true when the connection was lost, false when the peer reset this stream alone. */
bool http_conn_lost(const struct http_req *r);
const struct sockaddr_storage *http_peer(const struct http_req *r);

/* Body delivery off and on. Turning it on may call `body` before it returns only from the loop, never recursively. */
void http_pause(struct http_req *r, bool pause);

/* Sends the head of the reply. LENGTH -1 = unknown (chunked on HTTP/1.1). */
int http_reply(struct http_req *r, unsigned status, const struct http_field *fields, unsigned count, int64_t length);
/* Queues a piece of the body; takes CHUNK in every case. Returns false when the queue is above out_high: go on after
 * `writable` (the piece was still accepted). */
bool http_send(struct http_req *r, struct chunk *chunk);
bool http_writable(const struct http_req *r);
/* Bytes queued and not yet framed (HTTP/2) or written (HTTP/1.1); a connection frames at most 256 KiB ahead. */
size_t http_backlog(const struct http_req *r);
/* Bytes of all replies of this server that are not written yet. Looks at every request: for replies that are large. */
size_t http_server_backlog(const struct http_req *r);
/* Ends the reply, with trailers on HTTP/2 (refused on HTTP/1.1: COUNT must be 0). Without a preceding http_reply() on
 * HTTP/2, sends one HEADERS frame that carries FIELDS and END_STREAM ("trailers-only", :status 200). If the peer's side
 * is still open it is told to stop (RST_STREAM NO_ERROR on HTTP/2 after the reply; Connection: close on HTTP/1.1). R is
 * gone afterwards. */
void http_end(struct http_req *r, const struct http_field *trailers, unsigned count);
/* Drops the request at once: RST_STREAM(CODE) or close. */
void http_abort(struct http_req *r, uint32_t h2_code);

/* Whole replies: sets content-length and ends. http_reply_json takes a NUL-terminated text. */
void http_reply_simple(struct http_req *r, unsigned status, const char *content_type, const void *data, size_t len);
void http_reply_json(struct http_req *r, unsigned status, const char *text);
/* {"error": {"kind": ..., "reason": ..., "message": ...}} with the status that fits e->kind. */
void http_reply_err(struct http_req *r, const struct err *e);

struct http_server;
/* ROUTES and LIMITS must outlive the server; LIMITS NULL = defaults. Routes are tried in order. */
int http_server_new(struct loop *loop, const struct http_route *routes, unsigned count,
                    const struct http_limits *limits, struct http_server **ret, struct err *e);
/* Adopts a listening socket (the server closes it). */
int http_server_listen_fd(struct http_server *s, int fd, struct err *e);
/* Graceful end: listeners closed, GOAWAY sent, DONE called when no request is left or after TIMEOUT_NS. */
void http_server_drain(struct http_server *s, uint64_t timeout_ns, void (*done)(void *arg), void *arg);
void http_server_free(struct http_server *s);
