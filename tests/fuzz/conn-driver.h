/* A server without sockets for fuzzers: bytes in, turns of the loop, bytes out. Included by preface.c and h2_conn.c. */
#pragma once

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "net/net-internal.h"

static struct loop *the_loop;
static struct http_server *server;

static void stop(struct timer *t)
{
    loop_stop(t->loop);
}

/* One turn of the loop, without waiting. */
static void turn(void)
{
    static struct timer t;

    if (timer_start(the_loop, &t, 0, stop) < 0 || loop_run(the_loop) < 0)
        abort();
}

static void start_server(const struct http_route *routes, unsigned count)
{
    static struct http_limits limits;
    struct err e;

    limits = http_limits_default;
    limits.out_high = 4096; /* reached by small inputs */
    limits.out_low = 1024;
    limits.stream_window = 65536;
    limits.conn_window = 131072;
    limits.head_max = 8192;
    limits.resets_per_min = 50;
    limits.pings_per_min = 50;
    log_init("fuzz", LOG_L_ERROR);
    if (loop_new(&the_loop, &e) < 0 || http_server_new(the_loop, routes, count, &limits, &server, &e) < 0)
        abort();
}

static struct conn *connect_one(void)
{
    const struct sockaddr_storage peer = {0};
    struct conn *c = conn_new(server, -1, &peer);

    if (c == NULL)
        abort();
    return c;
}

static bool gone(void)
{
    return server->conn_count == 0;
}

/* Frames and drops what waits for the peer, at most MAX bytes. */
static void take(struct conn *c, size_t max)
{
    if (!conn_pump(c) || c->dead)
        return;
    outq_consume(&c->out, c->out.bytes < max ? c->out.bytes : max);
    conn_unblock(c);
}

static void hang_up(struct conn *c)
{
    if (!gone())
        conn_lose(c);
    turn();
    if (!gone() || server->req_count != 0)
        abort();
}
