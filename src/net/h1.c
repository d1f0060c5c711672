/* HTTP/1.1 (RFC 9112): one request at a time, pipelined ones wait in h1.in.
 *
 * Reading stops while a request is being answered, so a peer cannot pile up more than one read's worth. Whatever could be
 * read in two ways ends the connection after a refusal: a request smuggled past us would act with its neighbour's rights. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "net/net-internal.h"

enum { COPY_MAX = 512 }; /* payload up to this many bytes is cheaper to copy than to refer to */

/* Writes a refusal that no handler sees; the connection ends after it. */
static int refuse(struct conn *c, unsigned status, const char *why)
{
    AUTO_FREE char *json = refusal_json(err_kind_name(status >= 501 ? ERR_UNIMPLEMENTED : ERR_INVALID), NULL, why);
    char head[256];
    int n;

    if (json == NULL)
        return -ENOMEM;
    n = snprintf(head, sizeof head,
                 "HTTP/1.1 %u %s\r\ndate: %s\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n"
                 "connection: close\r\n\r\n",
                 status, status_phrase(status), server_date(c->server), strlen(json));
    if (outq_copy(&c->out, head, (size_t)n) < 0 || outq_copy(&c->out, json, strlen(json)) < 0)
        return -ENOMEM;
    return -EPROTO;
}

void h1_open(struct conn *c)
{
    c->codec = &codec_h1;
    buf_init(&c->h1.in, c->server->limits.head_max + 2 * CONN_READ);
}

/* A whole head of LEN bytes is at P. */
static int begin(struct conn *c, const uint8_t *p, size_t len)
{
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    struct h1 *h = &c->h1;
    unsigned fields_max = c->server->limits.headers_max, status;
    struct http_req *r = req_new(c);
    struct h1_head head;
    const char *why;
    char *text;

    if (r == NULL)
        return -ENOMEM;
    text = req_text(r, len);
    if (text == NULL || req_fields_grow(r, h->scan.lines < fields_max ? h->scan.lines : fields_max) < 0) {
        req_free(r);
        return -ENOMEM;
    }
    memcpy(text, p, len);
    status = h1_head_parse(text, len, r->fields, r->fields_cap < fields_max ? r->fields_cap : fields_max, &head, &why);
    if (status != 0) {
        req_free(r);
        return refuse(c, status, why);
    }

    c->heads++;
    r->method = head.method;
    r->path = head.path;
    r->query = head.query;
    r->field_count = head.field_count;
    r->keep_alive = head.keep_alive;
    r->http10 = head.minor == 0;
    r->body_done = head.length == 0;
    h->left = head.length;
    h->chunked = (struct h1_chunked){0};
    h->scan = (struct h1_scan){0};
    h->req = r;
    req_start(r);
    if (head.expect_continue && !r->replied && !r->ended && outq_copy(&c->out, go_on, sizeof go_on - 1) < 0)
        return -ENOMEM;
    return 0;
}

static int read_head(struct conn *c, const uint8_t **p, size_t *n)
{
    size_t max = c->server->limits.head_max;
    ssize_t len = h1_scan(&c->h1.scan, *p, *n);
    int r;

    if (len < 0)
        return refuse(c, 400, "a request head must be lines that end with CR LF");
    if ((len == 0 && *n > max) || (size_t)len > max)
        return refuse(c, 431, "the request head is larger than this server takes");
    if (len == 0)
        return 0;
    r = begin(c, *p, (size_t)len);
    *p += len;
    *n -= (size_t)len;
    return r < 0 ? r : 1;
}

static int read_body(struct conn *c, const uint8_t **p, size_t *n)
{
    struct h1 *h = &c->h1;
    struct http_req *r = h->req;
    const uint8_t *piece = *p;
    size_t len;

    if (h->left < 0) {
        int rc = h1_chunked_next(&h->chunked, p, n, &piece, &len);

        if (rc < 0) /* once the handler replies it can only be cut */
            return r->replied ? -EPIPE : refuse(c, 400, "the chunked body is malformed");
        if (rc == 0)
            return 0;
        if (rc == 2)
            r->body_done = true;
        else
            req_body(r, piece, len);
        return 1;
    }
    len = (uint64_t)h->left < *n ? (size_t)h->left : *n;
    *p += len;
    *n -= len;
    h->left -= (int64_t)len;
    r->body_done = h->left == 0;
    req_body(r, piece, len);
    return 1;
}

/* The reply is queued: on to the next request, if there can be one. */
static int finish_req(struct conn *c)
{
    struct http_req *r = c->h1.req;
    bool again = r->body_done && r->keep_alive && !c->draining;

    c->h1.req = NULL;
    req_free(r);
    return again ? 1 : -EPIPE;
}

/* Goes as far as bytes and handlers allow. */
static int h1_run(struct conn *c, const uint8_t **p, size_t *n)
{
    int rc = 1;

    while (rc > 0 && !c->dead) {
        struct http_req *r = c->h1.req;

        if (r == NULL) {
            rc = *n > 0 ? read_head(c, p, n) : 0;
        } else if (r->ended) {
            rc = finish_req(c);
        } else if (r->paused) {
            rc = 0;
        } else if (!r->body_done) {
            rc = *n > 0 ? read_body(c, p, n) : 0;
        } else if (!r->eof_told) {
            req_half_close(r);
        } else {
            rc = 0;
        }
    }
    return rc;
}

static int h1_feed(struct conn *c, const uint8_t *data, size_t len)
{
    struct buf *in = &c->h1.in;
    bool held = in->len > 0;
    const uint8_t *p = data;
    size_t n = len;
    int rc;

    if (held) {
        if (buf_append(in, data, len) < 0)
            return -ENOBUFS;
        p = in->data;
        n = in->len;
    }
    rc = h1_run(c, &p, &n);
    if (held)
        buf_consume(in, in->len - n);
    else if (n > 0 && rc == 0 && buf_append(in, p, n) < 0)
        rc = -ENOBUFS;
    if (in->len == 0)
        buf_fini(in);
    return rc;
}

static int h1_advance(struct conn *c)
{
    struct http_req *r = TAILQ_FIRST(&c->resumes);

    if (r != NULL) {
        TAILQ_REMOVE(&c->resumes, r, resume_link);
        r->resuming = false;
    }
    /* With nothing buffered there may still be an end to tell or a finished request to release. */
    return h1_feed(c, NULL, 0);
}

static int h1_pump(struct conn *c)
{
    (void)c;
    return 0; /* replies are framed as they are sent */
}

static bool h1_want_read(const struct conn *c)
{
    const struct http_req *r = c->h1.req;

    return r == NULL || (!r->body_done && !r->paused && !r->ended);
}

static enum due h1_due(const struct conn *c, uint64_t *ret_seq)
{
    if (c->h1.req != NULL)
        return DUE_NONE;
    *ret_seq = c->h1.in.len > 0 ? c->heads : c->served;
    return c->h1.in.len > 0 ? DUE_HEAD : DUE_IDLE;
}

static void h1_expired(struct conn *c, enum due due)
{
    if (due == DUE_HEAD)
        (void)refuse(c, 408, "the request head took too long"); /* without memory it closes without a word */
    conn_finish(c);
}

static void h1_drain(struct conn *c)
{
    if (c->h1.req == NULL)
        conn_finish(c); /* else its reply is the last */
}

static void h1_fini(struct conn *c)
{
    buf_fini(&c->h1.in);
}

static int put_field(struct outq *q, const char *name, const char *value)
{
    if (outq_copy(q, name, strlen(name)) < 0 || outq_copy(q, ": ", 2) < 0 || outq_copy(q, value, strlen(value)) < 0)
        return -ENOMEM;
    return outq_copy(q, "\r\n", 2);
}

static int h1_reply(struct http_req *r, unsigned status, const struct http_field *fields, unsigned count,
                    int64_t length)
{
    struct conn *c = r->conn;
    char line[160];
    int n, rc;

    r->keep_alive = r->keep_alive && !c->draining && (r->body_done || !r->closing_reply);
    r->chunked = length < 0 && !r->http10 && !r->no_body;
    r->reply_left = r->no_body ? 0 : length;
    if (length < 0 && r->http10)
        r->keep_alive = false;

    n = snprintf(line, sizeof line, "HTTP/1.1 %u %s\r\ndate: %s\r\n", status, status_phrase(status),
                 server_date(c->server));
    rc = outq_copy(&c->out, line, (size_t)n);
    for (unsigned i = 0; rc == 0 && i < count; i++)
        rc = put_field(&c->out, fields[i].name, fields[i].value);
    if (rc == 0 && length >= 0 && status != 204 && status != 304) {
        (void)snprintf(line, sizeof line, "%lld", (long long)length);
        rc = put_field(&c->out, "content-length", line);
    }
    if (rc == 0 && r->chunked)
        rc = put_field(&c->out, "transfer-encoding", "chunked");
    if (rc == 0 && !r->keep_alive)
        rc = put_field(&c->out, "connection", "close");
    return rc == 0 ? outq_copy(&c->out, "\r\n", 2) : rc;
}

static int put_payload(struct outq *q, struct chunk *chunk)
{
    int rc;

    if (chunk->len > COPY_MAX)
        rc = outq_ref(q, chunk->data + chunk->off, chunk->len, chunk);
    else
        rc = outq_copy(q, chunk->data + chunk->off, chunk->len);
    if (chunk->len <= COPY_MAX || rc < 0)
        chunk_free(chunk);
    return rc;
}

static void h1_send(struct http_req *r, struct chunk *chunk)
{
    struct conn *c = r->conn;
    char line[24];
    int rc = 0;

    if (r->chunked) {
        int n = snprintf(line, sizeof line, "%zx\r\n", chunk->len);

        rc = outq_copy(&c->out, line, (size_t)n);
    } else if (r->reply_left >= 0) {
        /* More than the head promised would be read as the next reply. */
        if ((uint64_t)r->reply_left < chunk->len)
            chunk->len = (size_t)r->reply_left;
        r->reply_left -= (int64_t)chunk->len;
    }
    if (rc == 0)
        rc = put_payload(&c->out, chunk);
    else
        chunk_free(chunk);
    if (rc == 0 && r->chunked)
        rc = outq_copy(&c->out, "\r\n", 2);
    if (rc < 0)
        conn_lose(c);
}

static void h1_end(struct http_req *r, const struct http_field *trailers, unsigned count)
{
    struct conn *c = r->conn;

    (void)trailers;
    (void)count; /* refused by contract */
    if (!r->replied && http_reply(r, 200, NULL, 0, 0) < 0)
        return;
    if (r->chunked && outq_copy(&c->out, "0\r\n\r\n", 5) < 0)
        conn_lose(c);
    /* Less than the head promised: only the end of the connection can tell the peer. */
    if (!r->chunked && r->reply_left > 0)
        r->keep_alive = false;
}

static void h1_abort(struct http_req *r, uint32_t code)
{
    (void)code;
    conn_lose(r->conn);
}

static size_t h1_backlog(const struct http_req *r)
{
    return r->conn->out.bytes;
}

const struct codec codec_h1 = {
    .feed = h1_feed,
    .pump = h1_pump,
    .advance = h1_advance,
    .want_read = h1_want_read,
    .due = h1_due,
    .expired = h1_expired,
    .drain = h1_drain,
    .fini = h1_fini,
    .reply = h1_reply,
    .send = h1_send,
    .end = h1_end,
    .abort = h1_abort,
    .backlog = h1_backlog,
};
