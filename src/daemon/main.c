/* silicad, the unprivileged daemon: one loop that serves every dialect.
 *
 * The spawner starts it with the listening sockets and the link at SP_FD. Order: options, loop, engine (reads SP_HELLO,
 * adopts what lives), confinement, then listening and SP_READY. End: SP_STOP from the spawner (SIGTERM of the service), or
 * the link's end of file (the spawner died: sandboxes live on and the next spawner finds them). */
#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "api/admin/admin.h"
#include "api/cw_v1/cw_v1.h"
#include "base/clock.h"
#include "base/log.h"
#include "daemon/confine.h"
#include "daemon/options.h"
#include "rpc/rpc.h"
#include "wire/sp.h"

enum { ROUTES_MAX = 16, DRAIN_S = 5, MALLOC_LARGE = 256 << 10, MALLOC_TRIM = 1 << 20 };

struct daemon {
    struct options options;
    struct loop *loop;
    struct engine *engine;
    struct admin *admin;
    struct cw_v1 *cw_v1;
    struct rpc_server *rpc;
    struct http_server *http;
    struct http_route routes[ROUTES_MAX];
    bool stopping, drained, engine_down;
    int exit_code;
};

static void fail(struct daemon *d, const struct err *e)
{
    log_error(NULL, "%s", e->msg);
    d->exit_code = 1;
    loop_stop(d->loop);
}

/* Without keys there is one tenant, and the spawner has refused any address but loopback. */
static int auth(void *arg, const struct http_req *r, struct rpc_peer *ret_peer, struct err *e)
{
    (void)arg;
    (void)r;
    (void)e;
    *ret_peer = (struct rpc_peer){.tenant = "default", .key_name = "local"};
    return 0;
}

static int build_server(struct daemon *d, struct err *e)
{
    static const struct rpc_service *services[CW_V1_SERVICES_MAX];
    const struct http_route *admin;
    unsigned n = 0, admin_count, service_count;
    int r;

    r = cw_v1_new(d->engine, &d->cw_v1, e);
    if (r == 0)
        r = admin_new(d->engine, &d->admin, e);
    if (r < 0)
        return r;
    service_count = cw_v1_services(d->cw_v1, services);
    r = rpc_server_new(d->loop, services, service_count, auth, d, &d->rpc, e);
    if (r < 0)
        return r;

    d->routes[n++] = (struct http_route){
        .prefix = "/", .content_type = "application/grpc", .handler = &rpc_http_handler, .data = d->rpc};
    admin = admin_routes(d->admin, &admin_count);
    memcpy(&d->routes[n], admin, admin_count * sizeof *admin);
    n += admin_count;
    r = http_server_new(d->loop, d->routes, n, NULL, &d->http, e);
    for (unsigned i = 0; r == 0 && i < d->options.listen_count; i++)
        r = http_server_listen_fd(d->http, d->options.listen_fds[i], e);
    return r;
}

static void engine_ready(void *arg)
{
    struct daemon *d = arg;
    struct err e;

    if (confine(&e) < 0 || build_server(d, &e) < 0 || engine_announce(d->engine, &e) < 0)
        fail(d, &e);
}

static void maybe_leave(struct daemon *d)
{
    if (d->drained && d->engine_down)
        loop_stop(d->loop);
}

static void drained(void *arg)
{
    struct daemon *d = arg;

    d->drained = true;
    maybe_leave(d);
}

static void engine_down(void *arg)
{
    struct daemon *d = arg;

    d->engine_down = true;
    maybe_leave(d);
}

static void stop_asked(void *arg, bool keep)
{
    struct daemon *d = arg;

    if (d->stopping)
        return;
    d->stopping = true;
    log_info(NULL, "stopping; sandboxes %s", keep ? "keep running" : "end");
    engine_shutdown(d->engine, keep, engine_down, d);
    if (d->http != NULL)
        http_server_drain(d->http, DRAIN_S * NSEC_PER_SEC, drained, d);
    else
        drained(d);
}

static int run(struct daemon *d, struct err *e)
{
    int r = loop_new(&d->loop, e);

    if (r == 0)
        r = engine_new(d->loop, &d->options.engine, SP_FD, engine_ready, stop_asked, d, &d->engine, e);
    if (r < 0)
        return r;
    r = loop_run(d->loop);
    if (r < 0)
        return err_set(e, r, "event loop: %m");
    return 0;
}

int main(int argc, char **argv)
{
    static struct daemon d; /* zeroed; one per process */
    struct err e;
    sigset_t quiet;

    (void)prctl(PR_SET_NAME, "silicad", 0, 0, 0); /* cosmetic */
    log_init("silicad", LOG_L_INFO);
    if (options_parse(argc, argv, &d.options, &e) < 0) {
        log_error(NULL, "%s", e.msg);
        return 2;
    }
    log_init("silicad", d.options.log_level);

    /* The spawner speaks over SP_FD; a terminal's ^C or a stray TERM to the group must not race it. */
    sigemptyset(&quiet);
    sigaddset(&quiet, SIGINT);
    sigaddset(&quiet, SIGTERM);
    sigaddset(&quiet, SIGHUP);
    (void)sigprocmask(SIG_BLOCK, &quiet, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    /* Large messages go back to the kernel when they are done: glibc's moving threshold would keep tens of MiB. */
    (void)mallopt(M_MMAP_THRESHOLD, MALLOC_LARGE);
    (void)mallopt(M_TRIM_THRESHOLD, MALLOC_TRIM);

    if (run(&d, &e) < 0) {
        log_error(NULL, "%s", e.msg);
        d.exit_code = 1;
    }
    http_server_free(d.http);
    rpc_server_free(d.rpc);
    cw_v1_free(d.cw_v1);
    admin_free(d.admin);
    engine_free(d.engine);
    loop_free(d.loop);
    return d.exit_code;
}
