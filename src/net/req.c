/* The request as handlers see it: accessors, flow of body and reply, whole replies. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/fd.h"
#include "base/json.h"
#include "net/net-internal.h"
#include "net/text.h"

enum { TEXT_BLOCK = 1024 - sizeof(struct text), FIELDS_FIRST = 16 };

void chunkq_init(struct chunkq *q)
{
    *q = (struct chunkq){.tail = &q->head};
}

void chunkq_push(struct chunkq *q, struct chunk *c)
{
    c->next = NULL;
    *q->tail = c;
    q->tail = &c->next;
    q->bytes += c->len;
}

struct chunk *chunkq_pop(struct chunkq *q)
{
    struct chunk *c = q->head;

    if (c == NULL)
        return NULL;
    q->head = c->next;
    if (q->head == NULL)
        q->tail = &q->head;
    c->next = NULL;
    q->bytes -= c->len;
    return c;
}

void chunkq_clear(struct chunkq *q)
{
    struct chunk *c;

    while ((c = chunkq_pop(q)) != NULL)
        chunk_free(c);
}

struct http_req *req_new(struct conn *c)
{
    struct http_req *r = calloc(1, sizeof *r);

    if (r == NULL)
        return NULL;
    r->conn = c;
    r->method = r->path = r->query = "";
    r->keep_alive = true;
    chunkq_init(&r->held);
    chunkq_init(&r->out);
    TAILQ_INSERT_TAIL(&c->reqs, r, link);
    c->req_count++;
    c->server->req_count++;
    return r;
}

void req_free(struct http_req *r)
{
    struct conn *c = r->conn;

    if (r->resuming)
        TAILQ_REMOVE(&c->resumes, r, resume_link);
    if (r->blocked)
        TAILQ_REMOVE(&c->blocked, r, blocked_link);
    TAILQ_REMOVE(&c->reqs, r, link);
    c->req_count--;
    c->served++;
    c->server->req_count--;
    chunkq_clear(&r->held);
    chunkq_clear(&r->out);
    while (r->text != NULL) {
        struct text *next = r->text->next;

        free(r->text);
        r->text = next;
    }
    free(r->fields);
    free(r->trailers);
    free(r);
}

char *req_text(struct http_req *r, size_t n)
{
    struct text *t = r->text;

    if (t == NULL || t->cap - t->used < n) {
        size_t cap = n > TEXT_BLOCK ? n : TEXT_BLOCK;

        t = malloc(sizeof *t + cap);
        if (t == NULL)
            return NULL;
        t->next = r->text;
        t->used = 0;
        t->cap = cap;
        r->text = t;
    }
    t->used += n;
    return t->data + t->used - n;
}

int req_fields_grow(struct http_req *r, unsigned cap)
{
    struct http_field *fields;

    if (cap <= r->fields_cap)
        return 0;
    if (cap < FIELDS_FIRST)
        cap = FIELDS_FIRST;
    if (cap < 2 * r->fields_cap)
        cap = 2 * r->fields_cap;
    fields = realloc(r->fields, cap * sizeof *fields);
    if (fields == NULL)
        return -ENOMEM;
    r->fields = fields;
    r->fields_cap = cap;
    return 0;
}

static bool route_path_fits(const struct http_route *route, const char *path)
{
    size_t n = strlen(route->prefix);

    if (n > 0 && route->prefix[n - 1] == '/')
        return strncmp(path, route->prefix, n) == 0;
    return strcmp(path, route->prefix) == 0;
}

/* The first route that fits, or NULL with the status that says why there is none. */
static const struct http_route *route_find(const struct http_req *r, unsigned *ret_status)
{
    const struct http_server *s = r->conn->server;
    const char *type = http_header(r, "content-type");

    *ret_status = 404;
    for (unsigned i = 0; i < s->route_count; i++) {
        const struct http_route *route = &s->routes[i];

        if (!route_path_fits(route, r->path))
            continue;
        if (route->content_type != NULL &&
            (type == NULL || strncasecmp(type, route->content_type, strlen(route->content_type)) != 0))
            continue;
        if (route->method != NULL && strcmp(route->method, r->method) != 0) {
            *ret_status = 405;
            continue;
        }
        return route;
    }
    return NULL;
}

void req_start(struct http_req *r)
{
    unsigned status = r->refuse;

    if (status == 431) {
        req_refuse(r, 431, "the request's header fields are larger than this server takes");
        return;
    }
    if (r->conn->server->req_count > r->conn->server->limits.requests_max) {
        req_refuse(r, 503, "too many requests are open on this server; try again later");
        return;
    }
    r->route = route_find(r, &status);
    if (r->route == NULL) {
        req_refuse(r, status, status == 405 ? "this path does not take that method" : "there is nothing at this path");
        return;
    }
    r->started = true;
    r->route->handler->start(r);
}

void req_body(struct http_req *r, const uint8_t *data, size_t len)
{
    if (r->started && !r->ended && r->route->handler->body != NULL)
        r->route->handler->body(r, data, len);
}

void req_half_close(struct http_req *r)
{
    if (r->eof_told)
        return;
    r->eof_told = true;
    if (r->started && !r->ended && r->route->handler->half_close != NULL)
        r->route->handler->half_close(r);
}

void req_gone(struct http_req *r, bool lost)
{
    if (r->ended)
        return;
    r->ended = true;
    r->lost = lost;
    if (r->started && r->route->handler->gone != NULL)
        r->route->handler->gone(r);
}

void *http_route_data(const struct http_req *r)
{
    return r->route->data;
}

void http_set_arg(struct http_req *r, void *arg)
{
    r->arg = arg;
}

void *http_arg(const struct http_req *r)
{
    return r->arg;
}

struct loop *http_loop(const struct http_req *r)
{
    return r->conn->server->loop;
}

const char *http_method(const struct http_req *r)
{
    return r->method;
}

const char *http_path(const struct http_req *r)
{
    return r->path;
}

const char *http_query(const struct http_req *r)
{
    return r->query;
}

int http_query_get(const struct http_req *r, const char *name, char *out, size_t cap)
{
    size_t n = strlen(name);

    for (const char *p = r->query; *p != '\0';) {
        size_t len = strcspn(p, "&");

        if (len >= n && strncmp(p, name, n) == 0 && (len == n || p[n] == '='))
            return query_decode(len == n ? "" : p + n + 1, len == n ? 0 : len - n - 1, out, cap);
        p += len + (p[len] == '&');
    }
    return -ENOENT;
}

const char *http_header(const struct http_req *r, const char *name)
{
    for (unsigned i = 0; i < r->field_count; i++) {
        if (strcmp(r->fields[i].name, name) == 0)
            return r->fields[i].value;
    }
    return NULL;
}

const struct http_field *http_headers(const struct http_req *r, unsigned *ret_count)
{
    *ret_count = r->field_count;
    return r->fields;
}

bool http_is_h2(const struct http_req *r)
{
    return r->conn->codec == &codec_h2;
}

bool http_conn_lost(const struct http_req *r)
{
    return r->lost;
}

const struct sockaddr_storage *http_peer(const struct http_req *r)
{
    return &r->conn->peer;
}

void http_pause(struct http_req *r, bool pause)
{
    if (r->paused == pause)
        return;
    r->paused = pause;
    if (pause || r->resuming)
        return;
    r->resuming = true;
    TAILQ_INSERT_TAIL(&r->conn->resumes, r, resume_link);
    conn_kick(r->conn);
}

int http_reply(struct http_req *r, unsigned status, const struct http_field *fields, unsigned count, int64_t length)
{
    int rc;

    if (r->replied || status < 200 || status > 999)
        return -EINVAL;
    for (unsigned i = 0; i < count; i++) {
        if (!http_name_ok(fields[i].name) || !http_value_ok(fields[i].value))
            return -EINVAL;
    }
    r->no_body = strcmp(r->method, "HEAD") == 0 || status == 204 || status == 304;
    rc = r->conn->codec->reply(r, status, fields, count, length);
    if (rc == 0)
        r->replied = true;
    else if (rc == -ENOMEM)
        conn_lose(r->conn);
    conn_kick(r->conn);
    return rc;
}

bool http_send(struct http_req *r, struct chunk *chunk)
{
    struct conn *c = r->conn;

    assert(r->replied && !r->ended);
    if (chunk->len == 0 || r->no_body || r->fin || c->dead) {
        chunk_free(chunk);
        return !r->blocked;
    }
    c->codec->send(r, chunk);
    if (!r->blocked && c->codec->backlog(r) > c->server->limits.out_high) {
        r->blocked = true;
        TAILQ_INSERT_TAIL(&c->blocked, r, blocked_link);
    }
    conn_kick(c);
    return !r->blocked;
}

bool http_writable(const struct http_req *r)
{
    return !r->blocked;
}

size_t http_backlog(const struct http_req *r)
{
    return r->conn->codec->backlog(r);
}

size_t http_server_backlog(const struct http_req *r)
{
    const struct conn *c;
    const struct http_req *other;
    size_t sum = 0;

    TAILQ_FOREACH (c, &r->conn->server->conns, link) {
        sum += c->out.bytes;
        TAILQ_FOREACH (other, &c->reqs, link)
            sum += other->out.bytes; /* HTTP/1.1 has nothing there */
    }
    return sum;
}

void http_end(struct http_req *r, const struct http_field *trailers, unsigned count)
{
    struct conn *c = r->conn;

    assert(!r->ended);
    r->ended = true;
    c->codec->end(r, trailers, count);
    conn_kick(c);
}

void http_abort(struct http_req *r, uint32_t h2_code)
{
    struct conn *c = r->conn;

    assert(!r->ended);
    r->ended = true;
    c->codec->abort(r, h2_code);
    conn_kick(c);
}

static void reply_whole(struct http_req *r, unsigned status, const struct http_field *fields, unsigned count,
                        const void *data, size_t len)
{
    struct chunk *chunk = NULL;

    if (len > 0) {
        chunk = chunk_new(len);
        if (chunk == NULL) {
            http_abort(r, H2_INTERNAL_ERROR);
            return;
        }
        memcpy(chunk->data + chunk->off, data, len);
        chunk->len = len;
    }
    r->closing_reply = true;
    if (http_reply(r, status, fields, count, (int64_t)len) < 0) {
        chunk_free(chunk);
        http_abort(r, H2_INTERNAL_ERROR);
        return;
    }
    if (chunk != NULL)
        (void)http_send(r, chunk); /* the reply ends here: nobody waits for `writable` */
    http_end(r, NULL, 0);
}

void http_reply_simple(struct http_req *r, unsigned status, const char *content_type, const void *data, size_t len)
{
    const struct http_field type = {"content-type", content_type};

    reply_whole(r, status, &type, content_type != NULL ? 1 : 0, data, len);
}

void http_reply_json(struct http_req *r, unsigned status, const char *text)
{
    http_reply_simple(r, status, "application/json", text, strlen(text));
}

char *refusal_json(const char *kind, const char *reason, const char *message)
{
    struct buf b = {0};
    struct jw j;

    jw_begin(&j, &b);
    jw_object(&j);
    jw_key(&j, "error");
    jw_object(&j);
    jw_kstr(&j, "kind", kind);
    jw_kstr(&j, "reason", reason);
    jw_kstr(&j, "message", message);
    jw_object_end(&j);
    jw_object_end(&j);
    if (jw_end(&j) < 0) {
        buf_fini(&b);
        return NULL;
    }
    return (char *)b.data;
}

/* ALLOW: the methods a 405 has to name, else NULL. */
static void reply_error(struct http_req *r, unsigned status, const char *allow, enum err_kind kind, const char *reason,
                        const char *message)
{
    const struct http_field fields[] = {{"content-type", "application/json"}, {"allow", allow}};
    AUTO_FREE char *json = refusal_json(err_kind_name(kind), reason, message);

    if (json == NULL)
        http_abort(r, H2_INTERNAL_ERROR);
    else
        reply_whole(r, status, fields, allow != NULL ? 2 : 1, json, strlen(json));
}

/* The methods of the routes that R's path fits, "GET, POST". */
static void list_methods(const struct http_req *r, char *out, size_t cap)
{
    const struct http_server *s = r->conn->server;
    size_t len = 0;

    out[0] = '\0';
    for (unsigned i = 0; i < s->route_count; i++) {
        const struct http_route *route = &s->routes[i];

        if (route->method != NULL && route_path_fits(route, r->path) && len + strlen(route->method) + 3 < cap)
            len += (size_t)snprintf(out + len, cap - len, "%s%s", len > 0 ? ", " : "", route->method);
    }
}

void req_refuse(struct http_req *r, unsigned status, const char *text)
{
    static const struct {
        unsigned status;
        enum err_kind kind;
    } kinds[] = {{404, ERR_NOT_FOUND}, {431, ERR_EXHAUSTED}, {501, ERR_UNIMPLEMENTED}, {503, ERR_UNAVAILABLE}};
    enum err_kind kind = ERR_INVALID;
    char allow[96];

    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        if (kinds[i].status == status)
            kind = kinds[i].kind;
    }
    if (status == 405)
        list_methods(r, allow, sizeof allow);
    reply_error(r, status, status == 405 ? allow : NULL, kind, NULL, text);
}

void http_reply_err(struct http_req *r, const struct err *e)
{
    static const unsigned status[ERR_KIND_COUNT] = {
        [ERR_NONE] = 500,          [ERR_INTERNAL] = 500,     [ERR_INVALID] = 400,    [ERR_NOT_FOUND] = 404,
        [ERR_EXISTS] = 409,        [ERR_PRECONDITION] = 409, [ERR_PERMISSION] = 403, [ERR_UNAUTHENTICATED] = 401,
        [ERR_EXHAUSTED] = 429,     [ERR_UNAVAILABLE] = 503,  [ERR_DEADLINE] = 504,   [ERR_CANCELLED] = 499,
        [ERR_UNIMPLEMENTED] = 501,
    };

    reply_error(r, e->kind < ERR_KIND_COUNT ? status[e->kind] : 500, NULL, e->kind, e->reason, e->msg);
}

const char *status_phrase(unsigned status)
{
    static const struct {
        unsigned status;
        const char *phrase;
    } phrases[] = {
        {200, "OK"},
        {201, "Created"},
        {202, "Accepted"},
        {204, "No Content"},
        {206, "Partial Content"},
        {301, "Moved Permanently"},
        {302, "Found"},
        {304, "Not Modified"},
        {307, "Temporary Redirect"},
        {308, "Permanent Redirect"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {410, "Gone"},
        {413, "Content Too Large"},
        {415, "Unsupported Media Type"},
        {416, "Range Not Satisfiable"},
        {417, "Expectation Failed"},
        {422, "Unprocessable Content"},
        {426, "Upgrade Required"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {499, "Client Closed Request"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"},
        {507, "Insufficient Storage"},
    };

    for (size_t i = 0; i < ARRAY_LEN(phrases); i++) {
        if (phrases[i].status == status)
            return phrases[i].phrase;
    }
    return "Status";
}
