/* What the files of src/net share: server, connection, request, and the two codecs.
 *
 *   listener ─▶ conn ─ sniff ─▶ codec (h1.c | h2.c) ─▶ http_req ─▶ handler
 *
 * A conn is transport-neutral: bytes go in by conn_feed(), come out of conn.out. conn.c alone touches the socket, and
 * only it ends a connection: codecs and handlers mark (closing, dead), conn_turn() at the end of the loop's turn acts.
 * That is why a handler may end any request, its own included, from any callback. */
#pragma once

#include <sys/queue.h>

#include "net/h1-chunked.h"
#include "net/h1-head.h"
#include "net/http.h"
#include "net/outq.h"

enum {
    CONN_READ = 64 << 10,      /* bytes asked of one recv */
    CONN_READS_PER_EVENT = 4,  /* then others have their turn */
    CONN_OUT_SOFT = 256 << 10, /* framed ahead of the socket */
    CONN_WRITE_TURN = 1 << 20, /* bytes written in one turn, for fairness */
    CONN_IOV = 64,
    H2_PREFACE = 24,
    H2_INTERNAL_ERROR = 2,
    LISTEN_ACCEPTS = 64,     /* connections accepted in one event */
    H2_FRAME_MAX = 64 << 10, /* DATA frames we send, if the peer takes them */
    H2_FRAME_IN = 64 << 10,  /* MAX_FRAME_SIZE we announce */
};

/* Deadlines of a connection: each kind has one duration, so that appending keeps its list ordered. */
enum due { DUE_SNIFF, DUE_HEAD, DUE_IDLE, DUE_LINGER, DUE_COUNT, DUE_NONE = DUE_COUNT };

struct chunkq {
    struct chunk *head, **tail;
    size_t bytes;
};

struct conn;

/* Strings of a request; they do not move. */
struct text {
    struct text *next;
    size_t used, cap;
    char data[];
};

struct http_req {
    struct conn *conn;
    const struct http_route *route; /* NULL until the head is complete */
    void *arg;
    TAILQ_ENTRY(http_req) link;
    TAILQ_ENTRY(http_req) resume_link, blocked_link;

    const char *method, *path, *query;
    struct http_field *fields;
    unsigned field_count;
    struct text *text; /* the bytes behind all of the above */

    bool started;  /* the handler owns it */
    bool replied;  /* the head of the reply is queued */
    bool ended;    /* no more callbacks: http_end, http_abort or gone */
    bool paused;   /* by http_pause */
    bool resuming; /* on conn.resumes */
    bool blocked;  /* on conn.blocked: `writable` is owed */
    bool eof, eof_told;
    bool lost;          /* the connection is */
    bool no_body;       /* of the reply: HEAD, 204, 304 */
    bool closing_reply; /* whole reply at hand: HTTP/1.1 can say at once whether the connection will close */

    /* HTTP/2 */
    int32_t stream_id;
    size_t head_bytes;
    unsigned fields_cap;
    unsigned refuse;    /* status to answer with once the head is complete */
    struct chunkq held; /* body bytes that came while paused */
    size_t uncredited;  /* delivered while being paused */
    struct chunkq out;  /* reply bytes not yet framed */
    struct http_field *trailers;
    unsigned trailer_count;
    bool split;    /* part of out's first chunk is framed already */
    bool deferred; /* nghttp2 waits for nghttp2_session_resume_data */
    bool fin;      /* END_STREAM goes with the head of the reply */

    /* HTTP/1.1 */
    int64_t reply_left; /* bytes owed under content-length, -1 = chunked or until close */
    bool chunked, keep_alive, body_done, http10;
};

TAILQ_HEAD(req_list, http_req);

struct h1 {
    struct buf in;
    struct h1_scan scan;
    struct h1_chunked chunked;
    struct http_req *req; /* one at a time */
    int64_t left;         /* body bytes still to come, -1 = chunked */
};

struct h2 {
    struct nghttp2_session *session;
    bool in_headers; /* a header block is being received */
    bool got_settings;
    bool draining, pinged, terminated;
    size_t held;     /* body bytes held for paused streams */
    size_t owed;     /* connection credit withheld because of them */
    uint64_t minute; /* start of the accounting window */
    unsigned resets, noise;
};

/* How a protocol does what http.h promises. Codecs never touch the socket. */
struct codec {
    /* Takes LEN bytes. 0, or negative: the connection has to end once its output is flushed. */
    int (*feed)(struct conn *c, const uint8_t *data, size_t len);
    /* Frames queued replies into conn.out up to CONN_OUT_SOFT. 0 or negative as above. */
    int (*pump)(struct conn *c);
    /* What the connection may be waiting for; SEQ changes with progress. */
    enum due (*due)(const struct conn *c, uint64_t *ret_seq);
    /* A deadline has passed while DUE was what the codec said. */
    void (*expired)(struct conn *c, enum due due);
    /* After handlers acted outside of feed: resumed bodies, the next pipelined request. 0 or negative as above. */
    int (*advance)(struct conn *c);
    bool (*want_read)(const struct conn *c);
    /* Refuses new requests; the connection closes when the open ones are done. */
    void (*drain)(struct conn *c);
    void (*fini)(struct conn *c);
    int (*reply)(struct http_req *r, unsigned status, const struct http_field *fields, unsigned count, int64_t length);
    void (*send)(struct http_req *r, struct chunk *chunk);
    void (*end)(struct http_req *r, const struct http_field *trailers, unsigned count);
    void (*abort)(struct http_req *r, uint32_t code);
    size_t (*backlog)(const struct http_req *r);
};
extern const struct codec codec_h1, codec_h2;

struct conn {
    struct http_server *server;
    TAILQ_ENTRY(conn) link;
    TAILQ_ENTRY(conn) due_link;
    struct io io;
    int fd; /* -1: driven by hand (fuzzing) */
    struct defer turn;
    const struct codec *codec; /* NULL while sniffing */
    unsigned sniffed;          /* bytes of the preface seen */
    struct outq out;
    struct req_list reqs, resumes, blocked;
    unsigned req_count;
    uint64_t heads, served, written; /* heads begun, requests finished, bytes sent: progress for the deadlines */
    enum due due;
    uint64_t due_from, due_seq;
    bool closing;  /* flush, then shut down and linger */
    bool shut;     /* our side is shut down */
    bool dead;     /* free at the next turn */
    bool want_out; /* the socket is full */
    bool peer_eof;
    bool hangup_seen; /* EPOLLRDHUP with bytes still unread: it tells no more */
    bool draining;
    union {
        struct h1 h1;
        struct h2 h2;
    };
    struct sockaddr_storage peer;
};

TAILQ_HEAD(conn_list, conn);

struct listener {
    TAILQ_ENTRY(listener) link;
    struct http_server *server;
    struct io io;
    int fd;
};

TAILQ_HEAD(listener_list, listener);

struct http_server {
    struct loop *loop;
    const struct http_route *routes;
    unsigned route_count;
    struct http_limits limits;
    struct listener_list listeners;
    bool accepting;
    struct timer accept_retry;
    struct conn_list conns, due[DUE_COUNT];
    unsigned conn_count, req_count;
    struct timer due_timer;
    struct nghttp2_session_callbacks *h2_callbacks;
    struct nghttp2_option *h2_option;
    char date[32]; /* of the second DATE_AT */
    int64_t date_at;
    bool draining;
    struct timer drain_timer;
    struct defer drain_done;
    void (*done)(void *arg);
    void *done_arg;
    uint8_t scratch[CONN_READ];
};

/* conn.c */
struct conn *conn_new(struct http_server *s, int fd, const struct sockaddr_storage *peer);
/* Bytes from the peer. Never fails: what is wrong becomes a refusal in `out` and a closing connection. */
void conn_feed(struct conn *c, const uint8_t *data, size_t len);
/* Asks for a turn: output, resumed bodies, death. */
void conn_kick(struct conn *c);
/* Frames output; true when there is some. */
bool conn_pump(struct conn *c);
/* The connection is lost: its next turn tells every handler and frees it. */
void conn_lose(struct conn *c);
/* Its next turn tells every handler; output is flushed, then the connection ends. */
void conn_finish(struct conn *c);
/* A deadline has passed. */
void conn_expired(struct conn *c, enum due due);
void conn_drain(struct conn *c);
void conn_free(struct conn *c);
/* Calls `writable` where it is owed. */
void conn_unblock(struct conn *c);

/* h1.c, h2.c */
void h1_open(struct conn *c);
int h2_open(struct conn *c);
int h2_server_init(struct http_server *s);
void h2_server_fini(struct http_server *s);

/* server.c */
void server_due(struct conn *c, enum due due, uint64_t seq);
void server_conn_gone(struct http_server *s);
const char *server_date(struct http_server *s);

/* req.c */
struct http_req *req_new(struct conn *c);
void req_free(struct http_req *r);
/* Room for N bytes that lives as long as the request. */
char *req_text(struct http_req *r, size_t n);
/* Makes room for one more field. */
int req_fields_grow(struct http_req *r, unsigned cap);
/* The head is complete: finds the route and calls `start`, or answers. */
void req_start(struct http_req *r);
void req_body(struct http_req *r, const uint8_t *data, size_t len);
void req_half_close(struct http_req *r);
/* `gone`, unless the handler is done with it. */
void req_gone(struct http_req *r, bool lost);
/* Answers in the handler's place: {"error": ...} with STATUS. */
void req_refuse(struct http_req *r, unsigned status, const char *text);
/* The body of a refusal; caller frees. NULL when memory is short. */
char *refusal_json(const char *kind, const char *reason, const char *message);
const char *status_phrase(unsigned status);

void chunkq_init(struct chunkq *q);
void chunkq_push(struct chunkq *q, struct chunk *c);
struct chunk *chunkq_pop(struct chunkq *q);
void chunkq_clear(struct chunkq *q);
