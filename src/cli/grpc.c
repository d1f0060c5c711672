#include "cli/grpc.h"

#include <fcntl.h>
#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"

enum { REPLY_MSG_MAX = 100 << 20, WINDOW = 16 << 20, PREFIX = 5, WIRE_READ = 256 << 10 };

struct grpc {
    nghttp2_session *session;
    char authority[300];
    int fd;
    int32_t stream;
    struct buf out; /* gRPC frames of the request */
    size_t sent;    /* of out */
    bool half_closed, deferred;
    struct buf in; /* gRPC frames of the reply not yet whole */
    int (*message)(void *arg, const uint8_t *data, size_t len);
    void *arg;
    bool ended, have_status;
    int status, callback_error;
    uint32_t reset;
    char text[ERR_MSG_MAX];
    uint8_t *wire; /* read buffer */
};

static ssize_t send_cb(nghttp2_session *s, const uint8_t *data, size_t len, int flags, void *arg)
{
    struct grpc *g = arg;
    ssize_t n;

    (void)s;
    (void)flags;
    do {
        n = send(g->fd, data, len, MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN ? NGHTTP2_ERR_WOULDBLOCK : NGHTTP2_ERR_CALLBACK_FAILURE;
    return n;
}

/* grpc-message is percent-encoded UTF-8 (the gRPC protocol document). */
static void unescape(const uint8_t *in, size_t len, char *out, size_t cap)
{
    size_t n = 0;

    for (size_t i = 0; i < len && n + 1 < cap; i++) {
        unsigned v;
        char hex[3] = {0};

        if (in[i] == '%' && i + 2 < len) {
            memcpy(hex, in + i + 1, 2);
            if (sscanf(hex, "%2x", &v) == 1) {
                out[n++] = (char)v;
                i += 2;
                continue;
            }
        }
        out[n++] = (char)in[i];
    }
    out[n] = '\0';
}

static int header_cb(nghttp2_session *s, const nghttp2_frame *f, const uint8_t *name, size_t name_len,
                     const uint8_t *value, size_t value_len, uint8_t flags, void *arg)
{
    struct grpc *g = arg;

    (void)s;
    (void)f;
    (void)flags;
    if (name_len == 11 && memcmp(name, "grpc-status", 11) == 0) {
        g->status = atoi((const char *)value); /* nghttp2 ends values with a NUL */
        g->have_status = true;
    } else if (name_len == 12 && memcmp(name, "grpc-message", 12) == 0) {
        unescape(value, value_len, g->text, sizeof g->text);
    }
    return 0;
}

/* Hands out whole messages; keeps the rest. */
static int split(struct grpc *g)
{
    size_t at = 0;

    while (g->in.len - at >= PREFIX) {
        const uint8_t *p = g->in.data + at;
        size_t len = (size_t)p[1] << 24 | (size_t)p[2] << 16 | (size_t)p[3] << 8 | p[4];

        if (p[0] != 0 || len > REPLY_MSG_MAX)
            return -EBADMSG;
        if (g->in.len - at < PREFIX + len)
            break;
        g->callback_error = g->message(g->arg, p + PREFIX, len);
        if (g->callback_error < 0)
            return g->callback_error;
        at += PREFIX + len;
    }
    buf_consume(&g->in, at);
    return 0;
}

static int data_cb(nghttp2_session *s, uint8_t flags, int32_t stream, const uint8_t *data, size_t len, void *arg)
{
    struct grpc *g = arg;

    (void)s;
    (void)flags;
    if (stream != g->stream)
        return 0;
    if (buf_append(&g->in, data, len) < 0 || split(g) < 0)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    return 0;
}

static int close_cb(nghttp2_session *s, int32_t stream, uint32_t code, void *arg)
{
    struct grpc *g = arg;

    (void)s;
    if (stream == g->stream) {
        g->ended = true;
        g->reset = code;
    }
    return 0;
}

static ssize_t body_cb(nghttp2_session *s, int32_t stream, uint8_t *buf, size_t len, uint32_t *flags,
                       nghttp2_data_source *src, void *arg)
{
    struct grpc *g = arg;
    size_t n = g->out.len - g->sent;

    (void)s;
    (void)stream;
    (void)src;
    if (n > len)
        n = len;
    if (n == 0 && !g->half_closed) {
        g->deferred = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    if (n > 0)
        memcpy(buf, g->out.data + g->sent, n);
    g->sent += n;
    if (g->sent == g->out.len) {
        g->sent = g->out.len = 0;
        if (g->half_closed)
            *flags |= NGHTTP2_DATA_FLAG_EOF;
    }
    return (ssize_t)n;
}

int grpc_open(const struct cli *c, struct grpc **ret, struct err *e)
{
    nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
                                         {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, WINDOW}};
    nghttp2_session_callbacks *cb;
    struct grpc *g;
    int fd = cli_connect(c, e);

    if (fd < 0)
        return fd;
    g = calloc(1, sizeof *g);
    if (g != NULL)
        g->wire = malloc(WIRE_READ);
    if (g == NULL || g->wire == NULL || nghttp2_session_callbacks_new(&cb) != 0) {
        fd_close(fd);
        grpc_close(g);
        return err_set(e, ENOMEM, "%m");
    }
    g->fd = fd;
    (void)fcntl(fd, F_SETFL, O_NONBLOCK);
    (void)snprintf(g->authority, sizeof g->authority, "%s:%s", c->host, c->port);
    nghttp2_session_callbacks_set_send_callback(cb, send_cb);
    nghttp2_session_callbacks_set_on_header_callback(cb, header_cb);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, data_cb);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, close_cb);
    (void)nghttp2_session_client_new(&g->session, cb, g);
    nghttp2_session_callbacks_del(cb);
    (void)nghttp2_submit_settings(g->session, NGHTTP2_FLAG_NONE, settings, ARRAY_LEN(settings));
    (void)nghttp2_session_set_local_window_size(g->session, NGHTTP2_FLAG_NONE, 0, WINDOW);
    *ret = g;
    return 0;
}

void grpc_close(struct grpc *g)
{
    if (g == NULL)
        return;
    nghttp2_session_del(g->session);
    fd_close(g->fd);
    buf_fini(&g->in);
    buf_fini(&g->out);
    free(g->wire);
    free(g);
}

#define NV(n, v) \
    { \
        (uint8_t *)(uintptr_t)(n), (uint8_t *)(uintptr_t)(v), strlen(n), strlen(v), NGHTTP2_NV_FLAG_NONE \
    }

int grpc_start(struct grpc *g, const char *path, int (*message)(void *arg, const uint8_t *data, size_t len), void *arg,
               struct err *e)
{
    nghttp2_nv nv[] = {NV(":method", "POST"),
                       NV(":scheme", "http"),
                       NV(":path", path),
                       NV(":authority", g->authority),
                       NV("content-type", "application/grpc"),
                       NV("te", "trailers"),
                       NV("user-agent", "silica/" SILICA_VERSION)};
    nghttp2_data_provider body = {.read_callback = body_cb};

    buf_init(&g->in, REPLY_MSG_MAX + WINDOW);
    buf_init(&g->out, REPLY_MSG_MAX + WINDOW);
    g->sent = 0;
    g->half_closed = g->deferred = g->ended = g->have_status = false;
    g->text[0] = '\0';
    g->message = message;
    g->arg = arg;
    g->callback_error = 0;
    g->stream = nghttp2_submit_request(g->session, NULL, nv, ARRAY_LEN(nv), &body, NULL);
    if (g->stream < 0)
        return err_typed(e, ERR_UNAVAILABLE, NULL, "cannot start the call: %s", nghttp2_strerror(g->stream));
    return 0;
}

static void wake(struct grpc *g)
{
    if (g->deferred) {
        g->deferred = false;
        (void)nghttp2_session_resume_data(g->session, g->stream); /* fails only when the stream is gone */
    }
}

int grpc_send(struct grpc *g, const ProtobufCMessage *msg, struct err *e)
{
    size_t len = protobuf_c_message_get_packed_size(msg);
    uint8_t head[PREFIX] = {0, (uint8_t)(len >> 24), (uint8_t)(len >> 16), (uint8_t)(len >> 8), (uint8_t)len};
    int r = buf_append(&g->out, head, sizeof head);

    if (r == 0)
        r = buf_reserve(&g->out, len);
    if (r < 0)
        return err_set(e, r, "the message is too large: %m");
    (void)protobuf_c_message_pack(msg, g->out.data + g->out.len);
    g->out.len += len;
    wake(g);
    return 0;
}

int grpc_half_close(struct grpc *g, struct err *e)
{
    (void)e;
    g->half_closed = true;
    wake(g);
    return 0;
}

size_t grpc_backlog(const struct grpc *g)
{
    return g->out.len - g->sent;
}

static int outcome(struct grpc *g, struct err *e)
{
    static const enum err_kind kinds[] = {
        ERR_NONE,          ERR_CANCELLED,  ERR_INTERNAL,    ERR_INVALID,      ERR_DEADLINE,       ERR_NOT_FOUND,
        ERR_EXISTS,        ERR_PERMISSION, ERR_EXHAUSTED,   ERR_PRECONDITION, ERR_INTERNAL,       ERR_INTERNAL,
        ERR_UNIMPLEMENTED, ERR_INTERNAL,   ERR_UNAVAILABLE, ERR_INTERNAL,     ERR_UNAUTHENTICATED};

    buf_fini(&g->in);
    buf_fini(&g->out);
    if (!g->have_status)
        return err_typed(e, ERR_UNAVAILABLE, NULL, "the daemon dropped the call (HTTP/2 code %u)", g->reset);
    if (g->status == 0)
        return 1;
    return err_typed(e, g->status > 0 && g->status < (int)ARRAY_LEN(kinds) ? kinds[g->status] : ERR_INTERNAL, NULL,
                     "%s", g->text[0] != '\0' ? g->text : "the call failed");
}

static int receive(struct grpc *g, struct err *e)
{
    for (;;) {
        ssize_t n = recv(g->fd, g->wire, WIRE_READ, 0), used;

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return 0;
        if (n <= 0)
            return err_typed(e, ERR_UNAVAILABLE, NULL, "the daemon closed the connection");
        used = nghttp2_session_mem_recv(g->session, g->wire, (size_t)n);
        if (g->callback_error < 0)
            return err_set(e, g->callback_error, "output: %m");
        if (used < 0)
            return err_typed(e, ERR_UNAVAILABLE, NULL, "HTTP/2: %s", nghttp2_strerror((int)used));
        if (n < WIRE_READ || g->ended)
            return 0;
    }
}

int grpc_turn(struct grpc *g, struct pollfd *extra, int timeout_ms, struct err *e)
{
    struct pollfd p[2] = {{.fd = g->fd, .events = POLLIN}, {.fd = -1}};
    int r = nghttp2_session_send(g->session);

    if (r < 0)
        return err_typed(e, ERR_UNAVAILABLE, NULL, "the connection to the daemon broke");
    if (g->ended)
        return outcome(g, e);
    if (nghttp2_session_want_write(g->session))
        p[0].events |= POLLOUT;
    if (extra != NULL)
        p[1] = *extra;
    if (poll(p, 2, timeout_ms) < 0 && errno != EINTR)
        return err_set(e, errno, "poll: %m");
    if (extra != NULL)
        extra->revents = p[1].revents;
    if ((p[0].revents & ~POLLOUT) != 0) {
        r = receive(g, e);
        if (r < 0)
            return r;
    }
    if (nghttp2_session_send(g->session) < 0)
        return err_typed(e, ERR_UNAVAILABLE, NULL, "the connection to the daemon broke");
    return g->ended ? outcome(g, e) : 0;
}

struct unary {
    const ProtobufCMessageDescriptor *out;
    ProtobufCMessage *msg;
};

static int unary_message(void *arg, const uint8_t *data, size_t len)
{
    struct unary *u = arg;

    if (u->msg != NULL)
        return -EBADMSG;
    u->msg = protobuf_c_message_unpack(u->out, NULL, len, data);
    return u->msg != NULL ? 0 : -EBADMSG;
}

int grpc_unary(struct grpc *g, const char *path, const ProtobufCMessage *in, const ProtobufCMessageDescriptor *out,
               ProtobufCMessage **ret, struct err *e)
{
    struct unary u = {.out = out};
    int r = grpc_start(g, path, unary_message, &u, e);

    if (r == 0)
        r = grpc_send(g, in, e);
    if (r == 0)
        r = grpc_half_close(g, e);
    while (r == 0)
        r = grpc_turn(g, NULL, -1, e);
    if (r > 0 && u.msg == NULL)
        r = err_typed(e, ERR_INTERNAL, NULL, "the daemon's answer is empty");
    if (r < 0) {
        if (u.msg != NULL)
            protobuf_c_message_free_unpacked(u.msg, NULL);
        return r;
    }
    *ret = u.msg;
    return 0;
}
