/* Routing, bodies and replies of the admin API. */
#include "api/admin/admin-internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "wire/sp.h"

static void req_free(struct admin_req *q)
{
    op_drop(q->op);
    layer_upload_free(q->upload);
    buf_fini(&q->body);
    buf_fini(&q->out);
    free(q);
}

struct jw *admin_json(struct admin_req *q)
{
    jw_begin(&q->json, &q->out);
    return &q->json;
}

void admin_send(struct admin_req *q, unsigned status)
{
    struct err e;
    int r = jw_end(&q->json);

    q->op = NULL;
    if (r < 0) {
        (void)err_set(&e, r, "cannot build the reply: %m");
        http_reply_err(q->http, &e);
    } else {
        http_reply_json(q->http, status, (const char *)q->out.data);
    }
    req_free(q);
}

void admin_fail(struct admin_req *q, const struct err *e)
{
    q->op = NULL;
    http_reply_err(q->http, e);
    req_free(q);
}

void admin_wait(struct admin_req *q, struct op *op)
{
    struct err e;

    if (op != NULL) {
        q->op = op;
        return;
    }
    (void)err_typed(&e, ERR_EXHAUSTED, NULL, "out of memory");
    admin_fail(q, &e);
}

const char *admin_tenant(const struct admin_req *q)
{
    (void)q;
    return "default"; /* keys, and with them tenants, do not exist yet: everybody on loopback is this one */
}

bool admin_query(const struct admin_req *q, const char *name, char *out, size_t cap)
{
    return http_query_get(q->http, name, out, cap) >= 0;
}

static void version(struct admin_req *q)
{
    static const struct {
        uint32_t bit;
        const char *name;
    } features[] = {
        {SP_FEAT_CG2_CONTROLLERS, "cgroup2-controllers"},
        {SP_FEAT_CG1_MEMORY, "cgroup1-memory"},
        {SP_FEAT_CG1_CPU, "cgroup1-cpu"},
        {SP_FEAT_CG1_PIDS, "cgroup1-pids"},
        {SP_FEAT_PRJQUOTA, "project-quota"},
        {SP_FEAT_LOOP, "loop-layers"},
        {SP_FEAT_OVL_FD, "overlay-by-fd"},
        {SP_FEAT_NAT, "nat"},
        {SP_FEAT_NAT6, "nat6"},
    };
    struct jw *j = admin_json(q);
    struct runner_info ri;

    engine_runner(q->admin->en, &ri);
    jw_object(j);
    jw_kstr(j, "version", SILICA_VERSION);
    jw_kstr(j, "runner_id", ri.runner_id);
    jw_kuint(j, "epoch", ri.epoch);
    jw_ktime(j, "started", ri.started_ns);
    jw_kuint(j, "sandboxes", ri.boxes_live);
    jw_kuint(j, "sandboxes_max", ri.boxes_max);
    jw_kuint(j, "cpu_millis_total", ri.cpu_millis_total);
    jw_kuint(j, "cpu_millis_free", ri.cpu_millis_free);
    jw_kuint(j, "memory_total", ri.memory_total);
    jw_kuint(j, "memory_free", ri.memory_free);
    jw_key(j, "features");
    jw_array(j);
    for (unsigned i = 0; i < sizeof features / sizeof *features; i++) {
        if ((ri.features & features[i].bit) != 0)
            jw_str(j, features[i].name);
    }
    jw_array_end(j);
    jw_object_end(j);
    admin_send(q, 200);
}

static const struct admin_call calls[] = {
    {"GET", "/admin/v1/version", version, NULL, false},
    {"GET", "/admin/v1/images", admin_image_list, NULL, false},
    {"PUT", "/admin/v1/images", admin_image_put, NULL, true},
    {"DELETE", "/admin/v1/images", admin_image_remove, NULL, false},
    {"POST", "/admin/v1/layers", NULL, admin_layer_stream, true},
    {"GET", "/admin/v1/sandboxes", admin_box_list, NULL, false},
    {"GET", "/admin/v1/sandboxes/*", admin_box_get, NULL, false},
    {"GET", "/admin/v1/sandboxes/*/env", admin_box_env, NULL, false},
    {"POST", "/admin/v1/sandboxes/*/stop", admin_box_stop, NULL, false},
    {"DELETE", "/admin/v1/sandboxes/*", admin_box_remove, NULL, false},
};

/* Compares PATH with PATTERN; the segment at "*" goes to ID. */
static bool matches(const char *pattern, const char *path, char id[ID_MAX])
{
    for (; *pattern != '\0'; pattern++) {
        size_t n;

        if (*pattern != '*') {
            if (*path++ != *pattern)
                return false;
            continue;
        }
        n = strcspn(path, "/");
        if (n == 0 || n >= ID_MAX)
            return false;
        memcpy(id, path, n);
        id[n] = '\0';
        path += n;
    }
    return *path == '\0';
}

/* DNS rebinding and cross-site requests: a page in a browser on this machine can reach loopback too. */
static int check_origin(const struct http_req *r, struct err *e)
{
    const char *host = http_header(r, "host"), *end;
    unsigned char addr[16];
    char name[64];
    size_t n;

    if (http_header(r, "origin") != NULL)
        return err_typed(e, ERR_PERMISSION, "CROSS_ORIGIN", "the admin API does not answer requests from web pages");
    if (host == NULL)
        host = http_header(r, ":authority");
    if (host == NULL)
        return 0; /* HTTP/1.0 or an HTTP/2 request without an authority: no browser sends these */
    if (*host == '[') {
        host++;
        end = strchr(host, ']');
    } else {
        end = strrchr(host, ':');
    }
    n = end != NULL ? (size_t)(end - host) : strlen(host);
    if (n < sizeof name) {
        memcpy(name, host, n);
        name[n] = '\0';
        if (strcasecmp(name, "localhost") == 0 || inet_pton(AF_INET, name, addr) == 1 ||
            inet_pton(AF_INET6, name, addr) == 1)
            return 0;
    }
    return err_typed(e, ERR_PERMISSION, "HOST_NOT_ALLOWED", "the admin API answers to addresses and localhost only");
}

static const struct admin_call *find_call(const struct http_req *r, char id[ID_MAX], struct err *e)
{
    bool path_known = false;

    for (unsigned i = 0; i < sizeof calls / sizeof *calls; i++) {
        if (!matches(calls[i].pattern, http_path(r), id))
            continue;
        path_known = true;
        if (strcmp(calls[i].method, http_method(r)) == 0)
            return &calls[i];
    }
    (void)err_typed(e, path_known ? ERR_UNIMPLEMENTED : ERR_NOT_FOUND, NULL,
                    path_known ? "method %s is not available here" : "no such call: %s %s", http_method(r),
                    http_path(r));
    return NULL;
}

static void on_start(struct http_req *r)
{
    struct admin_req *q;
    struct err e;

    if (check_origin(r, &e) < 0) {
        http_reply_err(r, &e);
        return;
    }
    q = calloc(1, sizeof *q);
    if (q == NULL) {
        (void)err_typed(&e, ERR_EXHAUSTED, NULL, "out of memory");
        http_reply_err(r, &e);
        return;
    }
    q->http = r;
    q->admin = http_route_data(r);
    buf_init(&q->body, ADMIN_BODY_MAX);
    q->call = find_call(r, q->id, &e);
    if (q->call == NULL) {
        admin_fail(q, &e);
        return;
    }
    http_set_arg(r, q);
    if (q->call->stream != NULL)
        q->call->stream(q);
    else if (!q->call->has_body)
        q->call->run(q);
}

static void on_body(struct http_req *r, const uint8_t *data, size_t len)
{
    struct admin_req *q = http_arg(r);
    struct err e;

    if (q->upload != NULL) {
        layer_upload_body(q, data, len);
        return;
    }
    if (q->call->has_body && buf_append(&q->body, data, len) < 0) {
        (void)err_typed(&e, ERR_EXHAUSTED, NULL, "the body is larger than %d bytes", ADMIN_BODY_MAX);
        admin_fail(q, &e);
    }
}

static void on_half_close(struct http_req *r)
{
    struct admin_req *q = http_arg(r);

    if (q == NULL || !q->call->has_body)
        return;
    if (q->upload != NULL)
        layer_upload_end(q);
    else
        q->call->run(q);
}

static void on_gone(struct http_req *r)
{
    struct admin_req *q = http_arg(r);

    if (q != NULL)
        req_free(q);
}

static const struct http_handler handler = {
    .start = on_start, .body = on_body, .half_close = on_half_close, .gone = on_gone};

static void health_start(struct http_req *r)
{
    http_reply_simple(r, 200, "text/plain", "ok\n", 3);
}

static const struct http_handler health = {.start = health_start};

int admin_new(struct engine *en, struct admin **ret, struct err *e)
{
    struct admin *a = calloc(1, sizeof *a);

    if (a == NULL)
        return err_set(e, ENOMEM, "admin API: %m");
    a->en = en;
    a->routes[0] = (struct http_route){.prefix = "/admin/v1/", .handler = &handler, .data = a};
    a->routes[1] = (struct http_route){.prefix = "/healthz", .method = "GET", .handler = &health, .data = a};
    *ret = a;
    return 0;
}

void admin_free(struct admin *a)
{
    free(a);
}

const struct http_route *admin_routes(const struct admin *a, unsigned *ret_count)
{
    *ret_count = sizeof a->routes / sizeof *a->routes;
    return a->routes;
}
