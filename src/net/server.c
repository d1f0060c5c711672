/* Listeners, the deadlines of all connections on one timer, and the end of a server. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "net/net-internal.h"

enum {
    ACCEPT_RETRY_MS = 500, /* after the process ran out of descriptors or memory */
    LINGER_MS = 2000,
    /* A host that vanished without a word is noticed after two minutes. */
    KEEPALIVE_IDLE_S = 60,
    KEEPALIVE_INTERVAL_S = 15,
    KEEPALIVE_COUNT = 4,
};

const struct http_limits http_limits_default = {
    .head_max = 32 << 10,
    .headers_max = 100,
    .conns_max = 4096,
    .streams_max = 256,
    .requests_max = 16384,
    .stream_window = 1 << 20,
    .conn_window = 16 << 20,
    .out_high = 512 << 10,
    .out_low = 128 << 10,
    .conn_out_max = 8 << 20,
    .resets_per_min = 12000,
    .pings_per_min = 6000,
    .sniff_ns = 10 * NSEC_PER_SEC,
    .head_ns = 10 * NSEC_PER_SEC,
    .idle_ns = 600 * NSEC_PER_SEC,
};

static void listener_ready(struct io *io, uint32_t events);
static void due_fire(struct timer *t);

int http_server_new(struct loop *loop, const struct http_route *routes, unsigned count,
                    const struct http_limits *limits, struct http_server **ret, struct err *e)
{
    struct http_server *s = calloc(1, sizeof *s);

    if (s == NULL)
        return err_set(e, ENOMEM, "HTTP server: %m");
    s->loop = loop;
    s->routes = routes;
    s->route_count = count;
    s->limits = limits != NULL ? *limits : http_limits_default;
    s->accepting = true;
    TAILQ_INIT(&s->listeners);
    TAILQ_INIT(&s->conns);
    for (int i = 0; i < DUE_COUNT; i++)
        TAILQ_INIT(&s->due[i]);
    if (h2_server_init(s) < 0) {
        http_server_free(s);
        return err_set(e, ENOMEM, "HTTP/2: %m");
    }
    *ret = s;
    return 0;
}

static void listeners_close(struct http_server *s)
{
    struct listener *l;

    while ((l = TAILQ_FIRST(&s->listeners)) != NULL) {
        TAILQ_REMOVE(&s->listeners, l, link);
        io_stop(&l->io);
        fd_close(l->fd);
        free(l);
    }
    timer_stop(&s->accept_retry);
}

void http_server_free(struct http_server *s)
{
    struct conn *c;

    if (s == NULL)
        return;
    s->done = NULL; /* who frees does not want to be told */
    listeners_close(s);
    while ((c = TAILQ_FIRST(&s->conns)) != NULL)
        conn_free(c);
    timer_stop(&s->due_timer);
    timer_stop(&s->drain_timer);
    defer_stop(&s->drain_done);
    h2_server_fini(s);
    free(s);
}

int http_server_listen_fd(struct http_server *s, int fd, struct err *e)
{
    struct listener *l = calloc(1, sizeof *l);
    int flags = fcntl(fd, F_GETFL), r;

    if (l == NULL)
        return err_set(e, ENOMEM, "listener: %m");
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
        r = errno;
        free(l);
        return err_set(e, r, "listening socket: %m");
    }
    l->server = s;
    l->fd = fd;
    r = io_start(s->loop, &l->io, fd, EPOLLIN, listener_ready);
    if (r < 0) {
        free(l);
        return err_set(e, r, "watch the listening socket: %m");
    }
    TAILQ_INSERT_TAIL(&s->listeners, l, link);
    return 0;
}

static void set_accepting(struct http_server *s, bool on)
{
    struct listener *l;

    if (s->accepting == on)
        return;
    s->accepting = on;
    TAILQ_FOREACH (l, &s->listeners, link)
        (void)io_set(&l->io, on ? EPOLLIN : 0); /* the descriptor is watched already: this cannot run short */
}

static void accept_again(struct timer *t)
{
    set_accepting(container_of(t, struct http_server, accept_retry), true);
}

static void tune(int fd, const struct sockaddr_storage *peer)
{
    static const int on = 1, idle = KEEPALIVE_IDLE_S, interval = KEEPALIVE_INTERVAL_S, count = KEEPALIVE_COUNT;

    if (peer->ss_family != AF_INET && peer->ss_family != AF_INET6)
        return;
    /* Without any of these the connection works, only less well. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
}

/* Makes room by ending the connection that has been without a request for longest. False when all are in use. */
static bool evict_idle(struct http_server *s)
{
    struct conn *c = TAILQ_FIRST(&s->due[DUE_IDLE]);

    if (c == NULL || c->closing)
        return false;
    server_due(c, DUE_NONE, 0);
    conn_expired(c, DUE_IDLE);
    return true;
}

static void listener_ready(struct io *io, uint32_t events)
{
    struct listener *l = container_of(io, struct listener, io);
    struct http_server *s = l->server;

    (void)events;
    for (int i = 0; i < LISTEN_ACCEPTS; i++) {
        struct sockaddr_storage peer = {0};
        socklen_t len = sizeof peer;
        int fd;

        if (s->conn_count >= s->limits.conns_max) {
            /* Whoever waits in the backlog is served when a connection ends. */
            (void)evict_idle(s);
            set_accepting(s, false);
            return;
        }
        fd = accept4(l->fd, (struct sockaddr *)&peer, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
                log_warn(NULL, "cannot accept connections: %s; trying again in %d ms", strerror(errno),
                         ACCEPT_RETRY_MS);
                set_accepting(s, false);
                (void)timer_start(s->loop, &s->accept_retry, ACCEPT_RETRY_MS * NSEC_PER_MSEC, accept_again);
            }
            if (errno == EINTR || errno == ECONNABORTED)
                continue;
            return;
        }
        tune(fd, &peer);
        if (conn_new(s, fd, &peer) == NULL)
            fd_close(fd);
    }
}

static uint64_t due_after(const struct http_server *s, enum due due)
{
    switch (due) {
    case DUE_SNIFF:
        return s->limits.sniff_ns;
    case DUE_HEAD:
        return s->limits.head_ns;
    case DUE_IDLE:
        return s->limits.idle_ns;
    case DUE_LINGER:
        return LINGER_MS * NSEC_PER_MSEC;
    case DUE_COUNT:
        break;
    }
    return UINT64_MAX;
}

/* One timer for all: it is left alone while it is early enough, so that requests cost no timer work. */
static void due_arm(struct http_server *s)
{
    uint64_t now = loop_now(s->loop), first = UINT64_MAX;

    for (int i = 0; i < DUE_COUNT; i++) {
        const struct conn *c = TAILQ_FIRST(&s->due[i]);

        if (c != NULL && c->due_from + due_after(s, (enum due)i) < first)
            first = c->due_from + due_after(s, (enum due)i);
    }
    if (first == UINT64_MAX)
        timer_stop(&s->due_timer);
    else if (!timer_active(&s->due_timer) || s->due_timer.due > first)
        (void)timer_start(s->loop, &s->due_timer, first > now ? first - now : 0,
                          due_fire); /* retried at the next event */
}

static void due_fire(struct timer *t)
{
    struct http_server *s = container_of(t, struct http_server, due_timer);
    uint64_t now = loop_now(s->loop);

    for (int i = 0; i < DUE_COUNT; i++) {
        struct conn *c;

        while ((c = TAILQ_FIRST(&s->due[i])) != NULL && c->due_from + due_after(s, (enum due)i) <= now) {
            server_due(c, DUE_NONE, 0);
            conn_expired(c, (enum due)i);
        }
    }
    due_arm(s);
}

void server_due(struct conn *c, enum due due, uint64_t seq)
{
    struct http_server *s = c->server;

    if (c->due == due && (due == DUE_NONE || c->due_seq == seq))
        return;
    if (c->due != DUE_NONE)
        TAILQ_REMOVE(&s->due[c->due], c, due_link);
    c->due = due;
    c->due_seq = seq;
    c->due_from = loop_now(s->loop);
    if (due != DUE_NONE) {
        TAILQ_INSERT_TAIL(&s->due[due], c, due_link);
        due_arm(s);
    }
}

static void drain_finished(struct defer *d)
{
    struct http_server *s = container_of(d, struct http_server, drain_done);
    void (*done)(void *arg) = s->done;

    s->done = NULL;
    if (done != NULL)
        done(s->done_arg); /* may free the server */
}

void server_conn_gone(struct http_server *s)
{
    if (s->conn_count == 0) {
        timer_stop(&s->due_timer);
        if (s->draining && s->done != NULL) {
            timer_stop(&s->drain_timer);
            defer_start(s->loop, &s->drain_done, drain_finished);
        }
    }
    if (s->conn_count < s->limits.conns_max && !timer_active(&s->accept_retry))
        set_accepting(s, true);
}

static void drain_late(struct timer *t)
{
    struct http_server *s = container_of(t, struct http_server, drain_timer);
    struct conn *c;

    TAILQ_FOREACH (c, &s->conns, link)
        conn_lose(c);
}

void http_server_drain(struct http_server *s, uint64_t timeout_ns, void (*done)(void *arg), void *arg)
{
    struct conn *c;

    listeners_close(s);
    s->draining = true;
    s->done = done;
    s->done_arg = arg;
    TAILQ_FOREACH (c, &s->conns, link)
        conn_drain(c);
    if (s->conn_count == 0)
        defer_start(s->loop, &s->drain_done, drain_finished);
    else if (timer_start(s->loop, &s->drain_timer, timeout_ns, drain_late) < 0)
        drain_late(&s->drain_timer); /* no memory to wait: now, then */
}

const char *server_date(struct http_server *s)
{
    time_t now = (time_t)(clock_wall() / NSEC_PER_SEC);
    struct tm tm;

    if (s->date_at != (int64_t)now && gmtime_r(&now, &tm) != NULL) {
        (void)strftime(s->date, sizeof s->date, "%a, %d %b %Y %H:%M:%S GMT",
                       &tm); /* the C locale: nobody sets another */
        s->date_at = (int64_t)now;
    }
    return s->date;
}
