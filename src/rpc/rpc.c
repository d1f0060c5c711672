/* Calls: from an HTTP/2 request to a method's callbacks and back to trailers.
 *
 * A unary method runs when its one message is complete and the client has finished its side, so that "none" and "two"
 * are errors rather than surprises. Callbacks may finish the call they are called for: `busy` keeps the struct alive until
 * the outermost frame of this file returns. */
#include "rpc/rpc.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <uthash.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "rpc/arena.h"
#include "rpc/frame.h"
#include "rpc/status.h"
#include "rpc/unpack.h"

struct entry {
    const char *path;
    const struct rpc_method *method;
    const struct rpc_service *service;
    UT_hash_handle hh;
};

struct rpc_server {
    struct loop *loop;
    struct entry *by_path, *entries;
    int (*auth)(void *arg, const struct http_req *r, struct rpc_peer *ret_peer, struct err *e);
    void *auth_arg;
    size_t in_total, in_total_max;
};

struct rpc_call {
    struct rpc_server *server;
    const struct rpc_service *service; /* NULL for unknown paths */
    const struct rpc_method *method;
    struct http_req *req; /* NULL once the call has ended */
    void *arg;
    struct rpc_peer peer;
    uint64_t began, deadline; /* deadline: UINT64_MAX = none */
    struct timer timer;
    struct defer resume;
    struct rpc_arena own, msgs; /* the handler's pieces; decoded messages */
    struct rpc_frame frame;
    uint8_t *raw;                /* the bytes of the current message, when they were reassembled */
    size_t raw_len;              /* counted in server->in_total */
    struct buf rest;             /* what followed the message after which the handler paused */
    const ProtobufCMessage *msg; /* unary: waits for the client's end */
    unsigned busy;
    bool opened; /* the handler knows the call */
    bool replied;
    bool paused;
};

static bool client_streams(const struct rpc_call *c)
{
    return (c->method->flags & RPC_CLIENT_STREAM) != 0;
}

static void drop_message(struct rpc_call *c)
{
    rpc_arena_reset(&c->msgs);
    c->server->in_total -= c->raw_len;
    free(c->raw);
    c->raw = NULL;
    c->raw_len = 0;
}

static void call_free(struct rpc_call *c)
{
    timer_stop(&c->timer);
    defer_stop(&c->resume);
    drop_message(c);
    rpc_arena_fini(&c->msgs);
    rpc_arena_fini(&c->own);
    rpc_frame_fini(&c->frame);
    buf_fini(&c->rest);
    free(c);
}

static void leave(struct rpc_call *c)
{
    if (--c->busy == 0 && c->req == NULL)
        call_free(c);
}

static void log_end(const struct rpc_call *c, const char *path, const char *status, const char *message)
{
    log_debug(NULL, "%s: %s%s%s in %llu us", path, status, message[0] != '\0' ? ", " : "", message,
              (unsigned long long)((clock_mono() - c->began) / 1000));
}

/* Ends the call with E (NULL = OK). The caller holds `busy`. */
static void finish(struct rpc_call *c, const struct err *e)
{
    static const struct http_field ok = {"grpc-status", "0"};
    struct rpc_status status;

    log_end(c, http_path(c->req), rpc_code_name(e != NULL ? rpc_code_of(e->kind) : RPC_OK), e != NULL ? e->msg : "");
    if (e == NULL && c->replied) {
        http_end(c->req, &ok, 1);
    } else {
        rpc_status_fill(&status, e, c->service, !c->replied);
        http_end(c->req, status.fields, status.count);
    }
    c->req = NULL;
}

/* Ends a call the handler may be working on. The caller holds `busy`. */
static void fail(struct rpc_call *c, const struct err *e, enum rpc_why why)
{
    if (c->opened && c->method->gone != NULL)
        c->method->gone(c, why);
    c->opened = false;
    finish(c, e);
}

static void deadline_passed(struct timer *t)
{
    struct rpc_call *c = container_of(t, struct rpc_call, timer);
    struct err e;

    c->busy++;
    (void)err_typed(&e, ERR_DEADLINE, NULL, "deadline exceeded");
    fail(c, &e, RPC_GONE_DEADLINE);
    leave(c);
}

static int start_deadline(struct rpc_call *c, struct err *e)
{
    const char *value = http_header(c->req, "grpc-timeout");
    uint64_t ns;

    c->deadline = UINT64_MAX;
    if (value == NULL)
        return 0;
    if (rpc_timeout_parse(value, &ns) < 0)
        return err_typed(e, ERR_INVALID, NULL, "the grpc-timeout '%.32s' is not 1 to 8 digits and a unit of HMSmun",
                         value);
    if (ns > UINT64_MAX - loop_now(c->server->loop))
        return 0;
    c->deadline = loop_now(c->server->loop) + ns;
    if (timer_start(c->server->loop, &c->timer, ns, deadline_passed) < 0)
        return err_typed(e, ERR_EXHAUSTED, NULL, "no memory for a timer");
    return 0;
}

/* Everything that can refuse a call before its first message. */
static int open_call(struct rpc_call *c, struct err *e)
{
    const struct entry *entry;
    const char *path = http_path(c->req);
    int r;

    HASH_FIND_STR(c->server->by_path, path, entry);
    if (entry == NULL)
        return err_typed(e, ERR_UNIMPLEMENTED, NULL, "unknown method %.200s", path);
    c->service = entry->service;
    c->method = entry->method;
    r = start_deadline(c, e);
    if (r < 0)
        return r;
    if (c->server->auth != NULL) {
        r = c->server->auth(c->server->auth_arg, c->req, &c->peer, e);
        if (r < 0)
            return r;
    }
    if (c->method->in == NULL || c->method->message == NULL)
        return err_typed(e, ERR_UNIMPLEMENTED, NULL, "method %s is not implemented by this server", c->method->path);
    c->frame.max = c->method->in_max != 0 ? c->method->in_max : RPC_MSG_SMALL;
    c->msgs.large_max = c->frame.max + RPC_ARENA_SMALL_MAX;
    return 0;
}

static bool content_type_ok(const char *type)
{
    static const char grpc[] = "application/grpc";

    if (type == NULL || strncasecmp(type, grpc, sizeof grpc - 1) != 0)
        return false;
    type += sizeof grpc - 1;
    return *type == '\0' || *type == ';' || *type == ' ' ||
           (strncasecmp(type, "+proto", 6) == 0 && (type[6] == '\0' || type[6] == ';' || type[6] == ' '));
}

/* False when the request is no gRPC call; it has been answered then. */
static bool is_call(struct http_req *r)
{
    struct err e;

    if (!content_type_ok(http_header(r, "content-type"))) {
        static const char text[] = "this server takes application/grpc and application/grpc+proto\n";

        http_reply_simple(r, 415, "text/plain", text, sizeof text - 1);
        return false;
    }
    if (!http_is_h2(r) || strcmp(http_method(r), "POST") != 0) {
        (void)err_typed(&e, ERR_INVALID, NULL, "gRPC calls are POST requests over HTTP/2");
        http_reply_err(r, &e);
        return false;
    }
    return true;
}

static void on_start(struct http_req *r)
{
    struct rpc_server *s = http_route_data(r);
    struct rpc_call *c;
    struct err e;

    if (!is_call(r))
        return;
    c = calloc(1, sizeof *c);
    if (c == NULL) {
        http_abort(r, 11 /* ENHANCE_YOUR_CALM */);
        return;
    }
    c->server = s;
    c->req = r;
    c->began = clock_mono();
    c->frame.total = &s->in_total;
    c->frame.total_max = s->in_total_max;
    rpc_arena_init(&c->own, RPC_ARENA_SMALL_MAX);
    rpc_arena_init(&c->msgs, RPC_ARENA_SMALL_MAX);
    http_set_arg(r, c);

    c->busy++;
    if (open_call(c, &e) < 0) {
        finish(c, &e);
    } else if (client_streams(c)) {
        c->opened = true;
        if (c->method->open != NULL)
            c->method->open(c);
    }
    leave(c);
}

/* A message is complete. The caller holds `busy`. */
static void got_message(struct rpc_call *c, const struct rpc_piece *piece)
{
    const ProtobufCMessage *msg;
    struct err e;

    c->raw = piece->own;
    c->raw_len = piece->own != NULL ? piece->len : 0;
    msg = rpc_unpack(&c->msgs, c->method->in, piece->data, piece->len, piece->own != NULL);
    if (msg == NULL) {
        if (c->msgs.full)
            (void)err_typed(&e, ERR_EXHAUSTED, NULL,
                            "the request message needs more memory to decode than a call may use");
        else
            (void)err_typed(&e, ERR_INVALID, NULL, "the request is not a valid %s message", c->method->in->name);
        fail(c, &e, RPC_GONE_RESET);
    } else if (client_streams(c)) {
        c->method->message(c, msg);
        drop_message(c);
    } else {
        c->msg = msg;
    }
}

/* Takes bytes of the request. The caller holds `busy`. */
static void take(struct rpc_call *c, const uint8_t *data, size_t len)
{
    struct rpc_piece piece;
    struct err e;
    int r = 1;

    while (r > 0 && c->req != NULL && !c->paused) {
        r = rpc_frame_next(&c->frame, &data, &len, &piece, &e);
        if (r > 0 && c->msg != NULL) {
            if (piece.own != NULL)
                c->server->in_total -= piece.len;
            free(piece.own);
            r = err_typed(&e, ERR_UNIMPLEMENTED, NULL, "method %s takes one request message, the client sent more",
                          c->method->path);
        }
        if (r > 0)
            got_message(c, &piece);
    }
    if (r < 0)
        fail(c, &e, RPC_GONE_RESET);
    else if (c->req != NULL && c->paused && len > 0 && buf_append(&c->rest, data, len) < 0) {
        (void)err_typed(&e, ERR_EXHAUSTED, NULL, "no memory for a request message");
        fail(c, &e, RPC_GONE_RESET);
    }
}

static void on_body(struct http_req *r, const uint8_t *data, size_t len)
{
    struct rpc_call *c = http_arg(r);

    c->busy++;
    take(c, data, len);
    leave(c);
}

static void on_half_close(struct http_req *r)
{
    struct rpc_call *c = http_arg(r);
    struct err e;

    c->busy++;
    if (c->frame.prefix_len > 0) {
        (void)err_typed(&e, ERR_INVALID, NULL, "the request ended in the middle of a message");
        fail(c, &e, RPC_GONE_RESET);
    } else if (client_streams(c)) {
        if (c->method->half_close != NULL)
            c->method->half_close(c);
    } else if (c->msg == NULL) {
        (void)err_typed(&e, ERR_UNIMPLEMENTED, NULL, "method %s takes one request message, the client sent none",
                        c->method->path);
        fail(c, &e, RPC_GONE_RESET);
    } else {
        c->opened = true;
        c->method->message(c, c->msg);
    }
    leave(c);
}

static void on_writable(struct http_req *r)
{
    struct rpc_call *c = http_arg(r);

    if (!c->opened || c->method->writable == NULL)
        return;
    c->busy++;
    c->method->writable(c);
    leave(c);
}

static void on_gone(struct http_req *r)
{
    struct rpc_call *c = http_arg(r);

    c->busy++;
    log_end(c, http_path(r), "CANCELLED", http_conn_lost(r) ? "connection lost" : "reset by the client");
    if (c->opened && c->method->gone != NULL)
        c->method->gone(c, http_conn_lost(r) ? RPC_GONE_CONN : RPC_GONE_RESET);
    c->req = NULL;
    leave(c);
}

const struct http_handler rpc_http_handler = {
    .start = on_start,
    .body = on_body,
    .half_close = on_half_close,
    .writable = on_writable,
    .gone = on_gone,
};

void rpc_set_arg(struct rpc_call *c, void *arg)
{
    c->arg = arg;
}

void *rpc_arg(const struct rpc_call *c)
{
    return c->arg;
}

const struct rpc_method *rpc_method_of(const struct rpc_call *c)
{
    return c->method;
}

const struct rpc_peer *rpc_peer_of(const struct rpc_call *c)
{
    return &c->peer;
}

void *rpc_service_data(const struct rpc_call *c)
{
    return c->service->data;
}

uint64_t rpc_time_left(const struct rpc_call *c)
{
    uint64_t now = loop_now(c->server->loop);

    if (c->deadline == UINT64_MAX)
        return UINT64_MAX;
    return c->deadline > now ? c->deadline - now : 0;
}

void *rpc_alloc(struct rpc_call *c, size_t n)
{
    return rpc_arena_alloc(&c->own, n);
}

/* The head of the reply goes with the first message, so that a call that fails before needs one frame only. */
static int start_reply(struct rpc_call *c)
{
    static const struct http_field type = {"content-type", "application/grpc"};
    int r;

    if (c->replied)
        return 0;
    r = http_reply(c->req, 200, &type, 1, -1);
    if (r == 0)
        c->replied = true;
    return r;
}

/* Puts the gRPC prefix in front of CHUNK's bytes and sends it. */
static int send_framed(struct rpc_call *c, struct chunk *chunk)
{
    size_t n = chunk->len;
    const uint8_t prefix[RPC_PREFIX] = {0, (uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n};
    int r = start_reply(c);

    if (r < 0) {
        chunk_free(chunk);
        return r;
    }
    chunk->off -= RPC_PREFIX;
    chunk->len += RPC_PREFIX;
    memcpy(chunk->data + chunk->off, prefix, RPC_PREFIX);
    (void)http_send(c->req, chunk); /* the caller asks rpc_writable() */
    return 0;
}

int rpc_send(struct rpc_call *c, const ProtobufCMessage *msg)
{
    size_t n = protobuf_c_message_get_packed_size(msg);
    struct chunk *chunk;

    if (n > RPC_MSG_MAX)
        return -EMSGSIZE;
    chunk = chunk_new(n);
    if (chunk == NULL)
        return -ENOMEM;
    chunk->len = protobuf_c_message_pack(msg, chunk->data + chunk->off);
    return send_framed(c, chunk);
}

int rpc_send_chunk(struct rpc_call *c, const void *prefix, size_t prefix_len, struct chunk *chunk)
{
    if (prefix_len + RPC_PREFIX > chunk->off) {
        chunk_free(chunk);
        return -EINVAL;
    }
    if (chunk->len > RPC_MSG_MAX - prefix_len) {
        chunk_free(chunk);
        return -EMSGSIZE;
    }
    chunk->off -= prefix_len;
    chunk->len += prefix_len;
    if (prefix_len > 0)
        memcpy(chunk->data + chunk->off, prefix, prefix_len);
    return send_framed(c, chunk);
}

bool rpc_writable(const struct rpc_call *c)
{
    return http_writable(c->req);
}

static void resume(struct defer *d)
{
    struct rpc_call *c = container_of(d, struct rpc_call, resume);
    struct buf rest = c->rest;

    if (c->paused)
        return;
    c->busy++;
    c->rest = (struct buf){0};
    take(c, rest.data, rest.len);
    buf_fini(&rest);
    if (c->req != NULL && !c->paused)
        http_pause(c->req, false);
    leave(c);
}

void rpc_pause(struct rpc_call *c, bool pause)
{
    if (c->paused == pause)
        return;
    c->paused = pause;
    if (pause)
        http_pause(c->req, true);
    else
        defer_start(c->server->loop, &c->resume, resume);
}

void rpc_finish(struct rpc_call *c, const struct err *e)
{
    assert(c->req != NULL);
    c->busy++;
    finish(c, e);
    leave(c);
}

int rpc_room(const struct rpc_call *c, size_t n, struct err *e)
{
    if (n <= RPC_OUT_LARGE || http_server_backlog(c->req) + n <= RPC_OUT_TOTAL_MAX)
        return 0;
    return err_typed(e, ERR_EXHAUSTED, NULL,
                     "the server holds %d MiB of replies that clients do not read; try again later",
                     RPC_OUT_TOTAL_MAX >> 20);
}

void rpc_reply(struct rpc_call *c, const ProtobufCMessage *msg)
{
    struct err e;
    int r;

    if (rpc_room(c, protobuf_c_message_get_packed_size(msg), &e) < 0) {
        rpc_finish(c, &e);
        return;
    }
    r = rpc_send(c, msg);
    if (r == 0) {
        rpc_finish(c, NULL);
        return;
    }
    if (r == -EMSGSIZE)
        (void)err_typed(&e, ERR_EXHAUSTED, NULL, "the reply is larger than %d MiB", RPC_MSG_MAX >> 20);
    else
        (void)err_typed(&e, ERR_EXHAUSTED, NULL, "no memory for the reply");
    rpc_finish(c, &e);
}

int rpc_server_new(struct loop *loop, const struct rpc_service *const *services, unsigned count,
                   int (*auth)(void *arg, const struct http_req *r, struct rpc_peer *ret_peer, struct err *e),
                   void *auth_arg, struct rpc_server **ret, struct err *e)
{
    struct rpc_server *s = calloc(1, sizeof *s);
    size_t total = 0, at = 0;

    if (s == NULL)
        return err_set(e, ENOMEM, "RPC server: %m");
    for (unsigned i = 0; i < count; i++)
        total += services[i]->count;
    s->loop = loop;
    s->auth = auth;
    s->auth_arg = auth_arg;
    s->in_total_max = RPC_IN_TOTAL_MAX;
    s->entries = calloc(total + 1, sizeof *s->entries);
    if (s->entries == NULL) {
        free(s);
        return err_set(e, ENOMEM, "RPC methods: %m");
    }
    for (unsigned i = 0; i < count; i++) {
        for (unsigned k = 0; k < services[i]->count; k++) {
            struct entry *entry = &s->entries[at++];

            entry->method = &services[i]->methods[k];
            entry->service = services[i];
            entry->path = entry->method->path;
            HASH_ADD_KEYPTR(hh, s->by_path, entry->path, strlen(entry->path), entry);
        }
    }
    *ret = s;
    return 0;
}

void rpc_server_set_in_total(struct rpc_server *s, size_t max)
{
    s->in_total_max = max;
}

void rpc_server_free(struct rpc_server *s)
{
    if (s == NULL)
        return;
    HASH_CLEAR(hh, s->by_path);
    free(s->entries);
    free(s);
}
