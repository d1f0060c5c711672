/* A gRPC and HTTP server for tests: echoes, collects, streams, stalls and fails on request.
 *
 *   echo-server [limit=value]...     prints "PORT <n>" when it listens; SIGTERM drains and ends it
 *
 * Limits are those of struct http_limits, times in milliseconds (idle_ms, head_ms, sniff_ms). */
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "echo.pb-c.h"
#include "net/http.h"
#include "rpc/rpc.h"

static struct loop *the_loop;
static struct http_server *http;
static struct rpc_server *rpc;
static uint64_t gone[3], open_calls;

/* ------------------------------------------------------------------- gRPC */

struct state {
    struct rpc_call *call;
    struct timer timer;
    uint64_t total;
    uint32_t count, size, ms;
    bool half_closed;
};

static struct state *state_new(struct rpc_call *c)
{
    struct state *st = calloc(1, sizeof *st);

    if (st == NULL)
        abort();
    st->call = c;
    open_calls++;
    rpc_set_arg(c, st);
    return st;
}

static void state_free(struct state *st)
{
    timer_stop(&st->timer);
    open_calls--;
    free(st);
}

static void call_gone(struct rpc_call *c, enum rpc_why why)
{
    gone[why]++;
    if (rpc_arg(c) != NULL)
        state_free(rpc_arg(c));
}

static void reply_total(struct rpc_call *c, uint64_t total)
{
    Silica__Test__EchoReply reply = SILICA__TEST__ECHO_REPLY__INIT;

    reply.total = total;
    rpc_reply(c, &reply.base);
}

static void unary(struct rpc_call *c, const ProtobufCMessage *msg)
{
    const Silica__Test__EchoRequest *req = (const void *)msg;
    Silica__Test__EchoReply reply = SILICA__TEST__ECHO_REPLY__INIT;

    reply.data = req->data;
    reply.total = req->data.len;
    rpc_reply(c, &reply.base);
}

/* text is "KIND:REASON:message". */
static void fail(struct rpc_call *c, const ProtobufCMessage *msg)
{
    const Silica__Test__EchoRequest *req = (const void *)msg;
    struct err e;

    (void)err_typed(&e, (enum err_kind)req->count, req->size != 0 ? "FILE_NOT_FOUND" : NULL, "%s", req->text);
    if (req->size != 0)
        err_meta(&e, "filepath", "/x");
    rpc_finish(c, &e);
}

static void open_state(struct rpc_call *c)
{
    (void)state_new(c);
}

static void collect(struct rpc_call *c, const ProtobufCMessage *msg)
{
    struct state *st = rpc_arg(c);

    st->total += ((const Silica__Test__EchoRequest *)(const void *)msg)->data.len;
}

static void collect_end(struct rpc_call *c)
{
    struct state *st = rpc_arg(c);
    uint64_t total = st->total;

    state_free(st);
    reply_total(c, total);
}

static void unpause(struct timer *t)
{
    struct state *st = container_of(t, struct state, timer);

    rpc_pause(st->call, false);
}

/* Stops for MS after each message (the first message says how long; 0 = for ever). */
static void slow_collect(struct rpc_call *c, const ProtobufCMessage *msg)
{
    const Silica__Test__EchoRequest *req = (const void *)msg;
    struct state *st = rpc_arg(c);

    if (req->ms != 0)
        st->ms = req->ms;
    st->total += req->data.len;
    rpc_pause(c, true);
    if (st->ms != 0)
        (void)timer_start(the_loop, &st->timer, st->ms * NSEC_PER_MSEC, unpause);
}

static void bidi(struct rpc_call *c, const ProtobufCMessage *msg)
{
    const Silica__Test__EchoRequest *req = (const void *)msg;
    Silica__Test__EchoReply reply = SILICA__TEST__ECHO_REPLY__INIT;

    reply.data = req->data;
    if (rpc_send(c, &reply.base) < 0)
        abort();
    if (!rpc_writable(c))
        rpc_pause(c, true);
}

static void bidi_writable(struct rpc_call *c)
{
    rpc_pause(c, false);
}

static void bidi_end(struct rpc_call *c)
{
    state_free(rpc_arg(c));
    rpc_finish(c, NULL);
}

static void source_more(struct rpc_call *c)
{
    static const uint8_t tag[2] = {0x0a, 0};
    struct state *st = rpc_arg(c);

    while (st->count > 0 && rpc_writable(c)) {
        struct chunk *chunk = chunk_new(st->size);
        uint8_t prefix[8];
        size_t n = 0;

        if (chunk == NULL)
            abort();
        prefix[n++] = tag[0];
        for (uint32_t v = st->size;; v >>= 7) {
            prefix[n++] = (uint8_t)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
            if (v <= 0x7f)
                break;
        }
        memset(chunk->data + chunk->off, 'x', st->size);
        chunk->len = st->size;
        if (rpc_send_chunk(c, prefix, n, chunk) < 0)
            abort();
        st->count--;
    }
    if (st->count == 0) {
        state_free(st);
        rpc_finish(c, NULL);
    }
}

static void source(struct rpc_call *c, const ProtobufCMessage *msg)
{
    const Silica__Test__EchoRequest *req = (const void *)msg;
    struct state *st = state_new(c);

    st->count = req->count;
    st->size = req->size;
    source_more(c);
}

static void late(struct timer *t)
{
    struct state *st = container_of(t, struct state, timer);
    struct rpc_call *c = st->call;

    state_free(st);
    reply_total(c, 1);
}

/* Answers after MS; 0 = never. */
static void hang(struct rpc_call *c, const ProtobufCMessage *msg)
{
    const Silica__Test__EchoRequest *req = (const void *)msg;
    struct state *st = state_new(c);

    if (req->ms != 0)
        (void)timer_start(the_loop, &st->timer, req->ms * NSEC_PER_MSEC, late);
}

static void early_error(struct rpc_call *c, const ProtobufCMessage *msg)
{
    struct err e;

    (void)msg;
    state_free(rpc_arg(c));
    (void)err_typed(&e, ERR_PRECONDITION, NULL, "not now");
    rpc_finish(c, &e);
}

static uint64_t rss_kib(void)
{
    unsigned long size, pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");

    if (f == NULL || fscanf(f, "%lu %lu", &size, &pages) != 2)
        abort();
    (void)fclose(f);
    return pages * (unsigned long)sysconf(_SC_PAGESIZE) / 1024;
}

static void counters(struct rpc_call *c, const ProtobufCMessage *msg)
{
    Silica__Test__Counters reply = SILICA__TEST__COUNTERS__INIT;
    struct rusage ru;

    (void)msg;
    (void)getrusage(RUSAGE_SELF, &ru);
    reply.gone_reset = gone[RPC_GONE_RESET];
    reply.gone_conn = gone[RPC_GONE_CONN];
    reply.gone_deadline = gone[RPC_GONE_DEADLINE];
    reply.open_calls = open_calls;
    reply.rss_kib = rss_kib();
    reply.cpu_us = (uint64_t)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) * 1000000 + (uint64_t)ru.ru_utime.tv_usec +
                   (uint64_t)ru.ru_stime.tv_usec;
    rpc_reply(c, &reply.base);
}

#define IN &silica__test__echo_request__descriptor
static const struct rpc_method methods[] = {
    {"/silica.test.Echo/Unary", .in = IN, .message = unary},
    {"/silica.test.Echo/Big", .in = IN, .in_max = RPC_MSG_MAX, .message = unary},
    {"/silica.test.Echo/Fail", .in = IN, .message = fail},
    {"/silica.test.Echo/Collect", RPC_CLIENT_STREAM, IN, 0, collect, open_state, collect_end, NULL, call_gone},
    {"/silica.test.Echo/SlowCollect", RPC_CLIENT_STREAM, IN, 0, slow_collect, open_state, collect_end, NULL, call_gone},
    {"/silica.test.Echo/Bidi", RPC_CLIENT_STREAM | RPC_SERVER_STREAM, IN, 0, bidi, open_state, bidi_end, bidi_writable,
     call_gone},
    {"/silica.test.Echo/Source", RPC_SERVER_STREAM, IN, 0, source, NULL, NULL, source_more, call_gone},
    {"/silica.test.Echo/Hang", .in = IN, .message = hang, .gone = call_gone},
    {"/silica.test.Echo/EarlyError", RPC_CLIENT_STREAM, IN, 0, early_error, open_state, collect_end, NULL, call_gone},
    {"/silica.test.Echo/Counters", .in = IN, .message = counters},
    {"/silica.test.Echo/Unbuilt"},
};
static const struct rpc_service echo_service = {methods, ARRAY_LEN(methods), NULL, "cwsandbox.com", "CWSANDBOX_"};

static int auth(void *arg, const struct http_req *r, struct rpc_peer *ret_peer, struct err *e)
{
    const char *value = http_header(r, "authorization");

    (void)arg;
    if (value != NULL && strcmp(value, "Bearer wrong") == 0)
        return err_typed(e, ERR_UNAUTHENTICATED, NULL, "this key is not known");
    *ret_peer = (struct rpc_peer){"test", "local"};
    return 0;
}

/* ------------------------------------------------------------------- HTTP */

static void hello(struct http_req *r)
{
    char name[32] = "world", text[64];

    (void)http_query_get(r, "name", name, sizeof name);
    (void)snprintf(text, sizeof text, "hello %s\n", name);
    http_reply_simple(r, 200, "text/plain", text, strlen(text));
}

static void echo_start(struct http_req *r)
{
    const struct http_field type = {"content-type", "application/octet-stream"};

    (void)http_reply(r, 200, &type, 1, -1);
}

static void echo_body(struct http_req *r, const uint8_t *data, size_t len)
{
    struct chunk *chunk = chunk_new(len);

    if (chunk == NULL)
        abort();
    memcpy(chunk->data + chunk->off, data, len);
    chunk->len = len;
    if (!http_send(r, chunk))
        http_pause(r, true);
}

static void echo_writable(struct http_req *r)
{
    http_pause(r, false);
}

static void echo_end(struct http_req *r)
{
    http_end(r, NULL, 0);
}

static void refuse_upload(struct http_req *r)
{
    struct err e;

    (void)err_typed(&e, ERR_PRECONDITION, "NOT_NOW", "not \"now\"");
    http_reply_err(r, &e);
}

/* Never answers. */
static void stall(struct http_req *r)
{
    (void)r;
    open_calls++;
}

static void stall_gone(struct http_req *r)
{
    (void)r;
    open_calls--;
    gone[RPC_GONE_CONN]++;
}

static const struct http_handler stall_handler = {.start = stall, .gone = stall_gone};
static const struct http_handler hello_handler = {.start = hello};
static const struct http_handler refuse_handler = {.start = refuse_upload};
static const struct http_handler echo_handler = {
    .start = echo_start, .body = echo_body, .half_close = echo_end, .writable = echo_writable};

static struct http_route routes[] = {
    {"/", NULL, "application/grpc", &rpc_http_handler, NULL}, {"/hello", "GET", NULL, &hello_handler, NULL},
    {"/hello", "HEAD", NULL, &hello_handler, NULL},           {"/echo", "POST", NULL, &echo_handler, NULL},
    {"/refuse", "POST", NULL, &refuse_handler, NULL},         {"/stall", NULL, NULL, &stall_handler, NULL},
};

/* ------------------------------------------------------------------- program */

static void drained(void *arg)
{
    (void)arg;
    loop_stop(the_loop);
}

static void on_signal(struct sig *s, int signo)
{
    (void)s;
    (void)signo;
    http_server_drain(http, 3 * NSEC_PER_SEC, drained, NULL);
}

static void set_limit(struct http_limits *l, const char *arg)
{
    const struct {
        const char *name;
        size_t *size;
        unsigned *number;
        uint64_t *ms;
    } known[] = {
        {"head_max=", &l->head_max, NULL, NULL},
        {"headers_max=", NULL, &l->headers_max, NULL},
        {"conns_max=", NULL, &l->conns_max, NULL},
        {"requests_max=", NULL, &l->requests_max, NULL},
        {"stream_window=", &l->stream_window, NULL, NULL},
        {"conn_window=", &l->conn_window, NULL, NULL},
        {"conn_out_max=", &l->conn_out_max, NULL, NULL},
        {"resets_per_min=", NULL, &l->resets_per_min, NULL},
        {"pings_per_min=", NULL, &l->pings_per_min, NULL},
        {"sniff_ms=", NULL, NULL, &l->sniff_ns},
        {"head_ms=", NULL, NULL, &l->head_ns},
        {"idle_ms=", NULL, NULL, &l->idle_ns},
    };

    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        size_t n = strlen(known[i].name);
        unsigned long v;

        if (strncmp(arg, known[i].name, n) != 0)
            continue;
        v = strtoul(arg + n, NULL, 10);
        if (known[i].size != NULL)
            *known[i].size = v;
        if (known[i].number != NULL)
            *known[i].number = (unsigned)v;
        if (known[i].ms != NULL)
            *known[i].ms = v * NSEC_PER_MSEC;
        return;
    }
    (void)fprintf(stderr, "unknown limit %s\n", arg);
    exit(2);
}

static int listen_loopback(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof addr;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof addr) < 0 || listen(fd, 1024) < 0 ||
        getsockname(fd, (struct sockaddr *)&addr, &len) < 0) {
        perror("listen");
        exit(1);
    }
    (void)printf("PORT %u\n", ntohs(addr.sin_port));
    (void)fflush(stdout);
    return fd;
}

int main(int argc, char **argv)
{
    static const int signos[] = {SIGTERM};
    const struct rpc_service *services[] = {&echo_service};
    struct http_limits limits = http_limits_default;
    struct sig sig = {0};
    struct err e = {0};
    sigset_t set;

    log_init("echo-server", LOG_L_INFO);
    for (int i = 1; i < argc; i++)
        set_limit(&limits, argv[i]);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    (void)sigprocmask(SIG_BLOCK, &set, NULL);

    if (loop_new(&the_loop, &e) < 0 || rpc_server_new(the_loop, services, 1, auth, NULL, &rpc, &e) < 0) {
        (void)fprintf(stderr, "%s\n", e.msg);
        return 1;
    }
    routes[0].data = rpc;
    if (http_server_new(the_loop, routes, ARRAY_LEN(routes), &limits, &http, &e) < 0 ||
        http_server_listen_fd(http, listen_loopback(), &e) < 0) {
        (void)fprintf(stderr, "%s\n", e.msg);
        return 1;
    }
    if (sig_start(the_loop, &sig, signos, 1, on_signal) < 0)
        return 1;
    (void)loop_run(the_loop);
    http_server_free(http);
    rpc_server_free(rpc);
    sig_stop(&sig);
    loop_free(the_loop);
    return 0;
}
