/* HTTP/2 (RFC 9113) by libnghttp2: every call into that library is in this file.
 *
 * Receiving. Window updates are ours. A stream gets its credit back when its handler has taken the bytes, the connection
 * at once, so that one stopped reader never stops its neighbours; only when the paused streams of a connection hold
 * conn_window / 2 together is the whole connection held back.
 *
 * Sending. Replies wait as chunks on their request. nghttp2 decides whose turn it is (round robin) and how much the
 * windows allow; send_data() then moves that much into conn.out without copying. Nothing is framed beyond CONN_OUT_SOFT,
 * so control frames never wait behind more than that.
 *
 * Trailers are submitted from inside the read callback, with the last bytes: submitted earlier they would overtake them. */
#include <nghttp2/nghttp2.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fd.h"
#include "net/net-internal.h"

enum {
    COPY_MAX = 512,    /* payload up to this many bytes is cheaper to copy than to refer to */
    REPLY_FIELDS = 62, /* fields of one reply, beside :status and content-length */
    ACKS_MAX = 1000,   /* SETTINGS and PING acknowledgements the peer leaves unread */
    SETTINGS_MAX = 32, /* entries in one SETTINGS frame */
    CONTINUATIONS_MAX = 8,
    HEAD_EXCESS = 4,     /* a head this many times the limit is an attack, not a mistake */
    QUEUED_FRAME = 1024, /* what a queued control frame counts against conn_out_max */
    HELD_CHUNK = 4096,
};

static const uint8_t drain_ping[8] = "drain me"; /* exactly eight bytes, no NUL needed */

static ssize_t frame_limit(nghttp2_session *session, uint8_t type, int32_t id, int32_t conn_window,
                           int32_t stream_window, uint32_t frame_max, void *arg)
{
    (void)session, (void)type, (void)id, (void)conn_window, (void)stream_window, (void)arg;
    return frame_max < H2_FRAME_MAX ? frame_max : H2_FRAME_MAX;
}

/* Ends the session with a reason; nothing the peer sends counts any more. */
static void terminate(struct conn *c, uint32_t code)
{
    if (c->h2.terminated)
        return;
    c->h2.terminated = true;
    if (nghttp2_session_terminate_session(c->h2.session, code) != 0)
        conn_lose(c);
}

/* Counts something a peer may do now and then but not all the time. */
static void account(struct conn *c, unsigned *counter, unsigned limit)
{
    uint64_t now = loop_now(c->server->loop);

    if (now - c->h2.minute >= 60 * NSEC_PER_SEC) {
        c->h2.minute = now;
        c->h2.resets = c->h2.noise = 0;
    }
    if (++*counter > limit)
        terminate(c, NGHTTP2_ENHANCE_YOUR_CALM);
}

static void account_noise(struct conn *c)
{
    account(c, &c->h2.noise, c->server->limits.pings_per_min);
}

static void account_reset(struct conn *c)
{
    account(c, &c->h2.resets, c->server->limits.resets_per_min);
}

/* -------------------------------------------------------------------- heads */

static int on_begin_frame(nghttp2_session *session, const nghttp2_frame_hd *hd, void *arg)
{
    struct conn *c = arg;

    (void)session;
    if (hd->type == NGHTTP2_PRIORITY)
        account_noise(c); /* obsolete; on_frame_recv never sees it */
    if (hd->type != NGHTTP2_CONTINUATION)
        c->h2.in_headers = hd->type == NGHTTP2_HEADERS;
    if (hd->type == NGHTTP2_HEADERS)
        c->heads++;
    return 0;
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
    static const nghttp2_extpri fair = {.urgency = NGHTTP2_EXTPRI_DEFAULT_URGENCY, .inc = 1};
    struct conn *c = arg;
    struct http_req *r;

    if (frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0;
    r = req_new(c);
    if (r == NULL)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    r->stream_id = frame->hd.stream_id;
    if (nghttp2_session_set_stream_user_data(session, r->stream_id, r) != 0) {
        req_free(r);
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    }
    /* "Incremental" for everyone: without it nghttp2 serves a stream until it is dry before it looks at the next. */
    (void)nghttp2_session_change_extpri_stream_priority(session, r->stream_id, &fair, 1); /* worst case: less fair */
    return 0;
}

static char *keep(struct http_req *r, const uint8_t *s, size_t len)
{
    char *copy = req_text(r, len + 1);

    if (copy == NULL)
        return NULL;
    memcpy(copy, s, len);
    copy[len] = '\0';
    return copy;
}

static int add_field(struct http_req *r, const uint8_t *name, size_t namelen, const uint8_t *value, size_t valuelen)
{
    char *v = keep(r, value, valuelen), *n;

    if (v == NULL)
        return -ENOMEM;
    if (namelen > 0 && name[0] == ':') {
        if (namelen == 5 && memcmp(name, ":path", 5) == 0)
            r->path = v;
        else if (namelen == 7 && memcmp(name, ":method", 7) == 0)
            r->method = v;
        else if (namelen != 10 || memcmp(name, ":authority", 10) != 0)
            return 0;
        else
            return add_field(r, (const uint8_t *)"host", 4, value, valuelen);
        return 0;
    }
    n = keep(r, name, namelen);
    if (n == NULL || req_fields_grow(r, r->field_count + 1) < 0)
        return -ENOMEM;
    r->fields[r->field_count++] = (struct http_field){.name = n, .value = v};
    return 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t namelen,
                     const uint8_t *value, size_t valuelen, uint8_t flags, void *arg)
{
    struct conn *c = arg;
    const struct http_limits *limits = &c->server->limits;
    struct http_req *r = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);

    (void)flags;
    if (r == NULL)
        return 0;
    r->head_bytes += namelen + valuelen + 32; /* as RFC 9113 10.5.1 counts */
    if (r->head_bytes > HEAD_EXCESS * limits->head_max)
        terminate(c, NGHTTP2_ENHANCE_YOUR_CALM);
    if (frame->headers.cat != NGHTTP2_HCAT_REQUEST)
        return 0; /* nobody reads request trailers */
    if (r->head_bytes > limits->head_max || r->field_count == limits->headers_max) {
        r->refuse = 431;
        return 0;
    }
    return add_field(r, name, namelen, value, valuelen) == 0 ? 0 : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

/* Malformed fields make the request malformed; nghttp2 alone would drop them silently. */
static int on_invalid_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t namelen,
                             const uint8_t *value, size_t valuelen, uint8_t flags, void *arg)
{
    (void)session, (void)frame, (void)name, (void)namelen, (void)value, (void)valuelen, (void)flags, (void)arg;
    return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

static void on_request(struct http_req *r)
{
    char *query = strchr(r->path, '?');

    if (query != NULL) {
        *query = '\0';
        r->query = query + 1;
    }
    if (strcmp(r->method, "CONNECT") == 0)
        req_refuse(r, 501, "CONNECT is not offered");
    else
        req_start(r);
}

static void on_eof(struct http_req *r)
{
    r->eof = true;
    if (!r->paused)
        req_half_close(r);
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
    struct conn *c = arg;
    struct http_req *r = NULL;

    if (frame->hd.stream_id != 0)
        r = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    switch (frame->hd.type) {
    case NGHTTP2_HEADERS:
        c->h2.in_headers = false;
        if (r != NULL && frame->headers.cat == NGHTTP2_HCAT_REQUEST)
            on_request(r);
        break;
    case NGHTTP2_DATA:
        if (frame->hd.length == 0 && !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM))
            account_noise(c);
        break;
    case NGHTTP2_RST_STREAM:
        account_reset(c);
        break;
    case NGHTTP2_SETTINGS:
        if (!(frame->hd.flags & NGHTTP2_FLAG_ACK)) {
            c->h2.got_settings = true;
            account_noise(c);
        }
        break;
    case NGHTTP2_PING:
        if (!(frame->hd.flags & NGHTTP2_FLAG_ACK))
            account_noise(c);
        else if (c->h2.draining && memcmp(frame->ping.opaque_data, drain_ping, sizeof drain_ping) == 0 &&
                 nghttp2_submit_goaway(session, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(session),
                                       NGHTTP2_NO_ERROR, NULL, 0) != 0)
            conn_lose(c);
        break;
    default:
        break;
    }
    if (r != NULL && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) &&
        (frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA))
        on_eof(r);
    return 0;
}

static int on_invalid_frame(nghttp2_session *session, const nghttp2_frame *frame, int code, void *arg)
{
    struct conn *c = arg;

    (void)session, (void)frame, (void)code;
    c->h2.in_headers = false;
    account_noise(c);
    return 0;
}

/* --------------------------------------------------------------- flow of bodies */

/* Gives connection credit back, unless too much is held for paused streams. */
static void credit_conn(struct conn *c, size_t n)
{
    c->h2.owed += n;
    if (c->h2.owed == 0 || c->h2.held > c->server->limits.conn_window / 2)
        return;
    if (nghttp2_session_consume_connection(c->h2.session, c->h2.owed) != 0)
        conn_lose(c);
    c->h2.owed = 0;
}

static void credit_stream(struct http_req *r, size_t n)
{
    if (n > 0 && nghttp2_session_consume_stream(r->conn->h2.session, r->stream_id, n) != 0)
        conn_lose(r->conn);
}

/* Hands bytes to the handler; they are credited unless it paused. */
static void deliver(struct http_req *r, const uint8_t *data, size_t len)
{
    req_body(r, data, len);
    if (r->paused)
        r->uncredited += len;
    else
        credit_stream(r, len);
}

static int hold(struct http_req *r, const uint8_t *data, size_t len)
{
    struct chunk *last = r->held.head != NULL ? container_of(r->held.tail, struct chunk, next) : NULL;
    size_t room = last != NULL ? last->cap - last->len : 0, n = len < room ? len : room;
    struct chunk *more = NULL;

    if (n < len) {
        more = chunk_new(len - n > HELD_CHUNK ? len - n : HELD_CHUNK);
        if (more == NULL)
            return -ENOMEM;
    }
    if (n > 0) {
        memcpy(last->data + last->off + last->len, data, n);
        last->len += n;
        r->held.bytes += n;
    }
    if (more != NULL) {
        memcpy(more->data + more->off, data + n, len - n);
        more->len = len - n;
        chunkq_push(&r->held, more);
    }
    r->conn->h2.held += len;
    return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t len, void *arg)
{
    struct conn *c = arg;
    struct http_req *r = nghttp2_session_get_stream_user_data(session, id);

    (void)flags;
    if (r != NULL && !r->ended && (r->paused || r->held.head != NULL)) {
        if (hold(r, data, len) < 0)
            return NGHTTP2_ERR_CALLBACK_FAILURE;
    } else if (r != NULL) {
        deliver(r, data, len);
    }
    credit_conn(c, len);
    return 0;
}

static void resume(struct http_req *r)
{
    struct conn *c = r->conn;
    size_t n = r->uncredited;
    struct chunk *held;

    r->uncredited = 0;
    credit_stream(r, n);
    while (!r->paused && (held = chunkq_pop(&r->held)) != NULL) {
        c->h2.held -= held->len;
        deliver(r, held->data + held->off, held->len);
        chunk_free(held);
    }
    credit_conn(c, 0);
    if (!r->paused && r->eof)
        req_half_close(r);
}

static int on_stream_close(nghttp2_session *session, int32_t id, uint32_t code, void *arg)
{
    struct conn *c = arg;
    struct http_req *r = nghttp2_session_get_stream_user_data(session, id);

    (void)code;
    if (r == NULL)
        return 0;
    req_gone(r, false);
    c->h2.held -= r->held.bytes;
    if (r->split) {
        /* Frames in conn.out still point into the first chunk: it goes with them. */
        struct chunk *first = chunkq_pop(&r->out);

        if (outq_ref(&c->out, NULL, 0, first) < 0)
            return NGHTTP2_ERR_CALLBACK_FAILURE; /* FIRST leaks, but only when the process is out of memory */
    }
    req_free(r);
    credit_conn(c, 0);
    return 0;
}

/* ------------------------------------------------------------------- sending */

static nghttp2_nv nv(const char *name, const char *value)
{
    return (nghttp2_nv){.name = (uint8_t *)(uintptr_t)name,
                        .value = (uint8_t *)(uintptr_t)value,
                        .namelen = strlen(name),
                        .valuelen = strlen(value),
                        .flags = NGHTTP2_NV_FLAG_NONE}; /* copied: none of ours outlives the call */
}

static ssize_t read_data(nghttp2_session *session, int32_t id, uint8_t *buf, size_t length, uint32_t *flags,
                         nghttp2_data_source *source, void *arg)
{
    struct http_req *r = source->ptr;
    size_t n = length < r->out.bytes ? length : r->out.bytes;
    nghttp2_nv nva[REPLY_FIELDS];

    (void)buf, (void)arg;
    if (r->lost)
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE; /* cut short: it must not look complete */
    if (n == 0 && !r->ended) {
        r->deferred = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    if (!r->ended || n < r->out.bytes)
        return (ssize_t)n;
    *flags |= NGHTTP2_DATA_FLAG_EOF;
    if (r->trailer_count == 0)
        return (ssize_t)n;
    *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
    for (unsigned i = 0; i < r->trailer_count; i++)
        nva[i] = nv(r->trailers[i].name, r->trailers[i].value);
    if (nghttp2_submit_trailer(session, id, nva, r->trailer_count) != 0)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    return (ssize_t)n;
}

/* Moves LEN bytes of R's reply into the output queue. */
static int move_out(struct conn *c, struct http_req *r, size_t len)
{
    while (len > 0) {
        struct chunk *ch = r->out.head;
        const uint8_t *p = ch->data + ch->off;
        size_t n = len < ch->len ? len : ch->len;
        bool whole = n == ch->len, copy = n <= COPY_MAX && !r->split;

        if (copy ? outq_copy(&c->out, p, n) < 0 : outq_ref(&c->out, p, n, whole ? ch : NULL) < 0)
            return -ENOMEM;
        len -= n;
        if (whole) {
            (void)chunkq_pop(&r->out); /* it is CH */
            r->split = false;
            if (copy)
                chunk_free(ch);
        } else {
            ch->off += n;
            ch->len -= n;
            r->out.bytes -= n;
            r->split = r->split || !copy;
        }
    }
    return 0;
}

static int send_data(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *framehd, size_t length,
                     nghttp2_data_source *source, void *arg)
{
    struct conn *c = arg;

    (void)session, (void)frame;
    if (outq_copy(&c->out, framehd, 9) < 0 || move_out(c, source->ptr, length) < 0)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    return c->out.bytes >= CONN_OUT_SOFT ? NGHTTP2_ERR_PAUSE : 0;
}

static int on_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
    struct conn *c = arg;
    int32_t id = frame->hd.stream_id;

    if (frame->hd.type == NGHTTP2_RST_STREAM) {
        uint32_t code = frame->rst_stream.error_code;

        c->h2.in_headers = false;
        /* A peer can also make us reset its streams, by errors: it costs us as much. */
        if (code == NGHTTP2_PROTOCOL_ERROR || code == NGHTTP2_FLOW_CONTROL_ERROR || code == NGHTTP2_STREAM_CLOSED ||
            code == NGHTTP2_REFUSED_STREAM || code == NGHTTP2_FRAME_SIZE_ERROR)
            account_reset(c);
    } else if (frame->hd.type == NGHTTP2_GOAWAY && c->h2.draining && !c->h2.pinged) {
        /* Only now: a PING submitted along with it would overtake it. */
        c->h2.pinged = true;
        if (nghttp2_submit_ping(session, NGHTTP2_FLAG_NONE, drain_ping) != 0)
            return NGHTTP2_ERR_CALLBACK_FAILURE;
    } else if ((frame->hd.type == NGHTTP2_DATA || frame->hd.type == NGHTTP2_HEADERS) &&
               (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) &&
               nghttp2_session_get_stream_remote_close(session, id) == 0) {
        /* The reply is complete and the peer still sends: tell it to stop (RFC 9113 8.1). */
        if (nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, id, NGHTTP2_NO_ERROR) != 0)
            return NGHTTP2_ERR_CALLBACK_FAILURE;
    }
    return 0;
}

/* ------------------------------------------------------------------- the codec */

int h2_server_init(struct http_server *s)
{
    nghttp2_session_callbacks *cbs;
    nghttp2_option *o;

    if (nghttp2_session_callbacks_new(&s->h2_callbacks) != 0 || nghttp2_option_new(&s->h2_option) != 0)
        return -ENOMEM;
    cbs = s->h2_callbacks;
    nghttp2_session_callbacks_set_on_begin_frame_callback(cbs, on_begin_frame);
    nghttp2_session_callbacks_set_on_begin_headers_callback(cbs, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(cbs, on_header);
    nghttp2_session_callbacks_set_on_invalid_header_callback(cbs, on_invalid_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cbs, on_frame_recv);
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(cbs, on_invalid_frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cbs, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(cbs, on_stream_close);
    nghttp2_session_callbacks_set_on_frame_send_callback(cbs, on_frame_send);
    nghttp2_session_callbacks_set_send_data_callback(cbs, send_data);
    nghttp2_session_callbacks_set_data_source_read_length_callback(cbs, frame_limit);

    o = s->h2_option;
    nghttp2_option_set_no_auto_window_update(o, 1);
    nghttp2_option_set_no_closed_streams(o, 1);
    nghttp2_option_set_max_outbound_ack(o, ACKS_MAX);
    nghttp2_option_set_max_settings(o, SETTINGS_MAX);
    nghttp2_option_set_max_continuations(o, CONTINUATIONS_MAX);
    /* The library's own limit kills busy gRPC clients, who reset every cancelled call; ours (account_reset) answers first. */
    nghttp2_option_set_stream_reset_rate_limit(o, 2ull * s->limits.resets_per_min, s->limits.resets_per_min / 30 + 1);
    return 0;
}

void h2_server_fini(struct http_server *s)
{
    nghttp2_session_callbacks_del(s->h2_callbacks);
    nghttp2_option_del(s->h2_option);
}

int h2_open(struct conn *c)
{
    const struct http_limits *limits = &c->server->limits;
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, limits->streams_max},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, (uint32_t)limits->stream_window},
        {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, H2_FRAME_IN},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, (uint32_t)limits->head_max},
        {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1},
    };

    c->h2 = (struct h2){.minute = loop_now(c->server->loop)};
    if (nghttp2_session_server_new2(&c->h2.session, c->server->h2_callbacks, c, c->server->h2_option) != 0)
        return -ENOMEM;
    c->codec = &codec_h2;
    if (nghttp2_submit_settings(c->h2.session, NGHTTP2_FLAG_NONE, settings, ARRAY_LEN(settings)) != 0 ||
        nghttp2_session_set_local_window_size(c->h2.session, NGHTTP2_FLAG_NONE, 0, (int32_t)limits->conn_window) != 0)
        return -ENOMEM;
    return 0;
}

static bool finished(const struct conn *c)
{
    return !nghttp2_session_want_read(c->h2.session) && !nghttp2_session_want_write(c->h2.session);
}

static int h2_feed(struct conn *c, const uint8_t *data, size_t len)
{
    ssize_t n = nghttp2_session_mem_recv(c->h2.session, data, len);

    if (n < 0)
        return -ENOBUFS; /* flooded, or no memory; for mere protocol errors nghttp2 queues a GOAWAY and returns LEN */
    if (nghttp2_session_get_outbound_queue_size(c->h2.session) * QUEUED_FRAME + c->out.bytes >
        c->server->limits.conn_out_max)
        return -ENOBUFS;
    return c->h2.terminated || finished(c) ? -EPROTO : 0;
}

static int h2_pump(struct conn *c)
{
    while (c->out.bytes < CONN_OUT_SOFT) {
        const uint8_t *p;
        ssize_t n = nghttp2_session_mem_send(c->h2.session, &p);

        if (n < 0)
            return -ENOMEM;
        if (n == 0)
            break;
        if (outq_copy(&c->out, p, (size_t)n) < 0)
            return -ENOMEM;
    }
    return c->h2.terminated || finished(c) ? -EPIPE : 0;
}

static int h2_advance(struct conn *c)
{
    struct http_req *r;

    while ((r = TAILQ_FIRST(&c->resumes)) != NULL) {
        TAILQ_REMOVE(&c->resumes, r, resume_link);
        r->resuming = false;
        if (!r->paused && !r->ended)
            resume(r);
    }
    return 0;
}

static bool h2_want_read(const struct conn *c)
{
    (void)c;
    return true; /* windows do the stopping: acknowledgements and updates must come through */
}

static enum due h2_due(const struct conn *c, uint64_t *ret_seq)
{
    const struct http_req *oldest = TAILQ_FIRST(&c->reqs);

    if (oldest != NULL && oldest->started)
        return DUE_NONE;
    if (c->h2.in_headers || !c->h2.got_settings) {
        *ret_seq = c->heads;
        return DUE_HEAD;
    }
    *ret_seq = c->served;
    return oldest == NULL ? DUE_IDLE : DUE_NONE;
}

static void h2_expired(struct conn *c, enum due due)
{
    terminate(c, due == DUE_HEAD ? NGHTTP2_ENHANCE_YOUR_CALM : NGHTTP2_NO_ERROR);
}

/* In two steps: a notice and a PING; the acknowledgement of the PING says that the peer has read the notice, and the
 * GOAWAY after it names the last request. What was sent in between is still served. */
static void h2_drain(struct conn *c)
{
    c->h2.draining = true;
    if (nghttp2_submit_shutdown_notice(c->h2.session) != 0)
        conn_lose(c);
}

static void h2_fini(struct conn *c)
{
    nghttp2_session_del(c->h2.session);
}

static int h2_reply(struct http_req *r, unsigned status, const struct http_field *fields, unsigned count,
                    int64_t length)
{
    const nghttp2_data_provider body = {.source.ptr = r, .read_callback = read_data};
    nghttp2_nv nva[REPLY_FIELDS + 2];
    char code[16], size[24];
    size_t n = 0;

    if (count > REPLY_FIELDS)
        return -E2BIG;
    (void)snprintf(code, sizeof code, "%u", status);
    nva[n++] = nv(":status", code);
    for (unsigned i = 0; i < count; i++)
        nva[n++] = nv(fields[i].name, fields[i].value);
    if (length >= 0 && status != 204 && status != 304) {
        (void)snprintf(size, sizeof size, "%lld", (long long)length);
        nva[n++] = nv("content-length", size);
    }
    r->fin = length == 0 || r->no_body;
    if (nghttp2_submit_response(r->conn->h2.session, r->stream_id, nva, n, r->fin ? NULL : &body) != 0)
        return -ENOMEM;
    return 0;
}

static void h2_resume_data(struct http_req *r)
{
    if (!r->deferred)
        return;
    r->deferred = false;
    if (nghttp2_session_resume_data(r->conn->h2.session, r->stream_id) == NGHTTP2_ERR_NOMEM)
        conn_lose(r->conn);
}

static void h2_send(struct http_req *r, struct chunk *chunk)
{
    chunkq_push(&r->out, chunk);
    h2_resume_data(r);
}

/* The fields in one block, strings and all, that lives until the end of the request. */
static int trailers_keep(struct http_req *r, const struct http_field *fields, unsigned count)
{
    size_t size = count * sizeof *fields;
    char *at;

    for (unsigned i = 0; i < count; i++)
        size += strlen(fields[i].name) + strlen(fields[i].value) + 2;
    r->trailers = malloc(size);
    if (r->trailers == NULL)
        return -ENOMEM;
    at = (char *)(r->trailers + count);
    for (unsigned i = 0; i < count; i++) {
        r->trailers[i].name = at;
        at = stpcpy(at, fields[i].name) + 1;
        r->trailers[i].value = at;
        at = stpcpy(at, fields[i].value) + 1;
    }
    r->trailer_count = count;
    return 0;
}

static void h2_end(struct http_req *r, const struct http_field *trailers, unsigned count)
{
    struct conn *c = r->conn;
    nghttp2_nv nva[REPLY_FIELDS + 1];

    if (count > REPLY_FIELDS)
        count = REPLY_FIELDS; /* no caller has a tenth of that */
    if (r->replied) {
        if (!r->fin && count > 0 && trailers_keep(r, trailers, count) < 0)
            conn_lose(c);
        h2_resume_data(r);
        return;
    }
    nva[0] = nv(":status", "200");
    for (unsigned i = 0; i < count; i++)
        nva[i + 1] = nv(trailers[i].name, trailers[i].value);
    if (nghttp2_submit_response(c->h2.session, r->stream_id, nva, count + 1, NULL) != 0)
        conn_lose(c);
}

static void h2_abort(struct http_req *r, uint32_t code)
{
    if (nghttp2_submit_rst_stream(r->conn->h2.session, NGHTTP2_FLAG_NONE, r->stream_id, code) != 0)
        conn_lose(r->conn);
}

static size_t h2_backlog(const struct http_req *r)
{
    return r->out.bytes;
}

const struct codec codec_h2 = {
    .feed = h2_feed,
    .pump = h2_pump,
    .advance = h2_advance,
    .want_read = h2_want_read,
    .due = h2_due,
    .expired = h2_expired,
    .drain = h2_drain,
    .fini = h2_fini,
    .reply = h2_reply,
    .send = h2_send,
    .end = h2_end,
    .abort = h2_abort,
    .backlog = h2_backlog,
};
