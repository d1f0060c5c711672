/* gRPC over net/http.h: framing, deadlines, status and error details, method dispatch.
 *
 * A dialect registers a table of methods. Unary requests are decoded into protobuf-c messages from an arena that lives
 * as long as the call. Wire format: the gRPC HTTP/2 protocol document; error details: google.rpc.Status in
 * `grpc-status-details-bin`. Requests above the method's limit are RESOURCE_EXHAUSTED; unknown paths, compressed
 * messages and unbuilt methods are UNIMPLEMENTED with a sentence. Loop thread only. */
#pragma once

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "net/http.h"

enum {
    RPC_MSG_MAX = 100 << 20,     /* largest message, in and out */
    RPC_MSG_SMALL = 4 << 20,     /* default limit of a method */
    RPC_IN_TOTAL_MAX = 1 << 30,  /* bytes of unfinished and undelivered request messages of all calls */
    RPC_OUT_LARGE = 64 << 10,    /* a whole reply above this is refused ... */
    RPC_OUT_TOTAL_MAX = 1 << 29, /* ... when so many bytes of replies wait for slow peers */
    RPC_STATUS_MSG_MAX = 1024,   /* grpc-message bytes before percent-encoding: clients allow 8 KiB of trailers */
};

enum rpc_flags {
    RPC_CLIENT_STREAM = 1 << 0,
    RPC_SERVER_STREAM = 1 << 1,
    RPC_MUTATES = 1 << 2,
};

struct rpc_call;

enum rpc_why { RPC_GONE_RESET, RPC_GONE_CONN, RPC_GONE_DEADLINE };

struct rpc_method {
    const char *path; /* "/package.Service/Method" */
    unsigned flags;
    const ProtobufCMessageDescriptor *in; /* NULL with start NULL: UNIMPLEMENTED */
    size_t in_max;                        /* 0 = RPC_MSG_SMALL */
    /* Unary and server-stream methods: MSG is the one request. Client streams: called once for each message; MSG is
     * valid until this returns (arena reset) — for unary it is valid until rpc_finish. */
    void (*message)(struct rpc_call *c, const ProtobufCMessage *msg);
    /* Client streams only; may be NULL. `open` before the first message. */
    void (*open)(struct rpc_call *c);
    void (*half_close)(struct rpc_call *c);
    /* The send queue drained; streams only. */
    void (*writable)(struct rpc_call *c);
    /* The call ended before rpc_finish: reset, connection lost, or its deadline passed (the layer then answers
     * DEADLINE_EXCEEDED by itself after this returns). C must not be touched afterwards. */
    void (*gone)(struct rpc_call *c, enum rpc_why why);
};

/* Who calls; filled by the access layer before `open`/`message`. */
struct rpc_peer {
    const char *tenant;
    const char *key_name; /* for reasons and records; "local" on loopback without a key */
};

void rpc_set_arg(struct rpc_call *c, void *arg);
void *rpc_arg(const struct rpc_call *c);
const struct rpc_method *rpc_method_of(const struct rpc_call *c);
const struct rpc_peer *rpc_peer_of(const struct rpc_call *c);
void *rpc_service_data(const struct rpc_call *c); /* from rpc_service.data */
/* Nanoseconds left to the client's deadline, UINT64_MAX when there is none. */
uint64_t rpc_time_left(const struct rpc_call *c);
/* Arena of the call: freed with it. NULL when memory is short or above 8 MiB in small pieces. */
void *rpc_alloc(struct rpc_call *c, size_t n);

/* Packs and queues MSG. 0 or -EMSGSIZE/-ENOMEM (the call is then still the caller's to finish). */
int rpc_send(struct rpc_call *c, const ProtobufCMessage *msg);
/* Queues a message whose bytes are PREFIX (at most 24 bytes, copied into the chunk's headroom) followed by CHUNK's bytes;
 * takes CHUNK. For bulk output without a copy. */
int rpc_send_chunk(struct rpc_call *c, const void *prefix, size_t prefix_len, struct chunk *chunk);
bool rpc_writable(const struct rpc_call *c);
/* 0, or E when the server holds too many unread replies for a whole one of N bytes. rpc_reply() asks by itself; what is sent
 * piece by piece with rpc_writable() need not. */
int rpc_room(const struct rpc_call *c, size_t n, struct err *e);
/* Stops or resumes delivery of messages (client streams): back-pressure reaches the peer through its window. */
void rpc_pause(struct rpc_call *c, bool pause);

/* Ends the call: E NULL = OK. C is gone afterwards. */
void rpc_finish(struct rpc_call *c, const struct err *e);
/* rpc_send + rpc_finish(OK). */
void rpc_reply(struct rpc_call *c, const ProtobufCMessage *msg);

struct rpc_service {
    const struct rpc_method *methods;
    unsigned count;
    void *data;
    const char *error_domain;  /* ErrorInfo.domain, "cwsandbox.com" */
    const char *reason_prefix; /* "CWSANDBOX_": in front of err.reason in ErrorInfo.reason */
};
struct rpc_server;
/* AUTH decides who calls from the request's headers and peer; returns 0 with *RET_PEER filled (static or long-lived
 * strings) or a negative value with E filled. */
int rpc_server_new(struct loop *loop, const struct rpc_service *const *services, unsigned count,
                   int (*auth)(void *arg, const struct http_req *r, struct rpc_peer *ret_peer, struct err *e),
                   void *auth_arg, struct rpc_server **ret, struct err *e);
void rpc_server_free(struct rpc_server *s);
/* Instead of RPC_IN_TOTAL_MAX. */
void rpc_server_set_in_total(struct rpc_server *s, size_t max);
/* The handler to put into a route with content_type "application/grpc" and data = the server. */
extern const struct http_handler rpc_http_handler;

/* Status codes: https://grpc.github.io/grpc/core/md_doc_statuscodes.html */
enum rpc_code {
    RPC_OK = 0,
    RPC_CANCELLED = 1,
    RPC_UNKNOWN = 2,
    RPC_INVALID_ARGUMENT = 3,
    RPC_DEADLINE_EXCEEDED = 4,
    RPC_NOT_FOUND = 5,
    RPC_ALREADY_EXISTS = 6,
    RPC_PERMISSION_DENIED = 7,
    RPC_RESOURCE_EXHAUSTED = 8,
    RPC_FAILED_PRECONDITION = 9,
    RPC_ABORTED = 10,
    RPC_OUT_OF_RANGE = 11,
    RPC_UNIMPLEMENTED = 12,
    RPC_INTERNAL = 13,
    RPC_UNAVAILABLE = 14,
    RPC_DATA_LOSS = 15,
    RPC_UNAUTHENTICATED = 16,
};
enum rpc_code rpc_code_of(enum err_kind kind);
