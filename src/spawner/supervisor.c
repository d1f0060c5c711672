/* Start, signals and stop of the process that supervises everything. */
#include "spawner/spawner.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/securebits.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/slice.h"

static const int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGCHLD};

/* ---- start ---------------------------------------------------------------------------------------------------------- */

static int become_supervisor(struct spawner *sp, struct err *e)
{
    struct rlimit rl;
    sigset_t set;
    ssize_t n;
    int fd;

    if (geteuid() != 0)
        return err_typed(e, ERR_PERMISSION, NULL,
                         "silicad must be started as root: it makes namespaces and control groups");
    /* What programs call this process; the sandboxes' server has the name silicad. */
    (void)prctl(PR_SET_NAME, "silica-spawner", 0, 0, 0);
    (void)umask(022);
    sigemptyset(&set);
    for (unsigned i = 0; i < ARRAY_LEN(signals); i++)
        sigaddset(&set, signals[i]);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return err_set(e, errno, "block signals: %m");
    (void)signal(SIGPIPE, SIG_IGN);

    /* See jail.c: the spawner takes other uids for the time of a clone and must keep its capabilities. */
    if (prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP) < 0)
        return err_set(e, errno, "keep capabilities over a change of uid: %m");
    n = readlink("/proc/self/exe", sp->exe, sizeof sp->exe - 1);
    if (n < 0)
        return err_set(e, errno, "find my own program file: %m");

    if (getrlimit(RLIMIT_NOFILE, &rl) == 0) {
        rl.rlim_cur = rl.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &rl);
        sp->nofile = rl.rlim_max;
    }
    fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0)
        (void)!write(fd, "-900\n", 5); /* a container may forbid it; then we are as likely a victim as anybody */
    fd_close(fd);

    /* Children are given fds at fixed low numbers; ours are all above them, so that no dup2 hits one that is still needed. */
    do {
        fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    } while (fd >= 0 && fd < FD_RESERVED);
    sp->null_fd = fd;
    return fd < 0 ? err_set(e, errno, "open /dev/null: %m") : 0;
}

static int start_drivers(struct spawner *sp, struct err *e)
{
    unsigned instructions;

    if (slots_init(sp->layers_fd, sp->opt.run_dir, &sp->slot_count, e) < 0)
        return err_ctx(e, "uid ranges");
    sp->up_slots = true;
    cgs_parent(sp->opt.cgroup);
    if (cgs_init(sp->tag, &sp->features, e) < 0)
        return err_ctx(e, "control groups");
    sp->up_cgs = true;
    if (layers_init(sp->opt.state_dir, sp->opt.run_dir, &sp->features, e) < 0)
        return err_ctx(e, "writable disks");
    sp->up_layers = true;
    if (egress_init(sp->tag, &sp->features, e) < 0)
        return err_ctx(e, "network");
    sp->up_egress = true;
    if (rootfs_init(e) < 0)
        return err_ctx(e, "root file system");
    sp->up_rootfs = true;
    if (seccomp_build(&sp->seccomp_fd, &instructions, e) < 0)
        return err_ctx(e, "system call filter");
    if (sp->opt.egress == SP_E_NAT && (sp->features & SP_FEAT_NAT) == 0) {
        if (sp->opt.egress_given)
            return err_typed(e, ERR_PRECONDITION, NULL,
                             "--egress nat does not work on this host; see the messages above");
        log_warn(NULL, "this host cannot give sandboxes a network (nat); they get none unless that changes");
        sp->opt.egress = SP_E_NONE;
    }
    return 0;
}

static void warn_open_door(const struct spawner *sp)
{
    struct sockaddr_storage addr;
    struct err e = {0};
    unsigned len;
    bool loopback, all_loopback = true;

    for (unsigned i = 0; i < sp->opt.listen_count; i++) {
        if (listen_parse(sp->opt.listen[i], &addr, &len, &loopback, &e) == 0)
            all_loopback &= loopback;
    }
    if (all_loopback)
        log_info(NULL, "there are no API keys: serving this machine only");
    else
        log_warn(
            NULL,
            "there are no API keys and --insecure-listen was given: whoever reaches the port can run programs here");
}

static void signal_came(struct sig *s, int signo);

static int start(struct spawner *sp, struct err *e)
{
    if (become_supervisor(sp, e) < 0)
        return e->code;
    if (sp->opt.resume_fd != 0 && upgrade_load(sp, e) < 0)
        return e->code;
    host_facts(sp);
    /* Directories are opened in the mount namespace they are used in: a mount is only cloned from its own. */
    if (host_mounts(sp, e) < 0 || host_dirs(sp, e) < 0 || host_lock(sp, e) < 0)
        return e->code;
    if (sp->opt.resume_fd == 0)
        host_end_old_server(sp);
    if (host_listen(sp, e) < 0 || host_programs(sp, e) < 0)
        return e->code;
    warn_open_door(sp);
    sp->recv_buf = aligned_alloc(64, (WIRE_DATAGRAM_MAX + 63) / 64 * 64);
    if (sp->recv_buf == NULL)
        return err_set(e, ENOMEM, "receive buffer: %m");
    if (loop_new(&sp->loop, e) < 0)
        return e->code;
    if (sig_start(sp->loop, &sp->sig, signals, ARRAY_LEN(signals), signal_came) < 0)
        return err_set(e, errno, "signalfd: %m");
    if (start_drivers(sp, e) < 0 || adopt_all(sp, e) < 0 || table_start(sp, e) < 0)
        return e->code;
    layers_sweep(sp);
    return server_start(sp, e);
}

/* ---- while it runs -------------------------------------------------------------------------------------------------- */

static void reap(struct spawner *sp)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        struct box *box = box_by_pid(sp, pid);

        if (box != NULL)
            box_reaped(box, status);
        else if (!server_reaped(sp, pid, status) && !imager_reaped(sp, pid, status))
            log_debug(NULL, "process %d, a child of no one any more, has ended", pid);
    }
}

static void stop_asked(struct spawner *sp)
{
    if (sp->stage == SP_STOPPING_SERVER || sp->stage == SP_STOPPING_BOXES)
        return;
    log_info(NULL, "stopping%s", sp->opt.keep ? "; the sandboxes stay" : "");
    host_notify(sp, "STOPPING=1");
    sp->stage = SP_STOPPING_SERVER;
    server_stop(sp, sp->opt.keep);
}

static void signal_came(struct sig *s, int signo)
{
    struct spawner *sp = container_of(s, struct spawner, sig);

    switch (signo) {
    case SIGCHLD:
        reap(sp);
        break;
    case SIGTERM:
    case SIGINT:
        stop_asked(sp);
        break;
    case SIGUSR1: /* before SIGTERM when both have come: signals are taken lowest number first */
        if (sp->stage == SP_RUNNING || sp->stage == SP_UPGRADING)
            sp->opt.keep = true;
        stop_asked(sp);
        break;
    case SIGUSR2:
        if (sp->stage != SP_RUNNING)
            break;
        log_info(NULL, "upgrading in place");
        sp->stage = SP_UPGRADING;
        server_stop(sp, true);
        break;
    default:
        log_info(NULL, "SIGHUP: there is no configuration to read again");
    }
}

static void refill_turn(struct defer *d);

/* Children make what goes into most pools: they are asked, whatever is under way. What is made here is one unit a turn, and
 * nothing while a sandbox is being made or put away: a creation waits for one unit at most. */
static void refill(struct spawner *sp)
{
    bool more = layers_refill();

    more |= egress_refill();
    if (sp->creating > 0 || !TAILQ_EMPTY(&sp->releasing))
        return; /* supervisor_idle() comes again when that is over */
    more |= slots_refill();
    if (more)
        defer_start(sp->loop, &sp->refill_turn, refill_turn);
}

static void refill_turn(struct defer *d)
{
    struct spawner *sp = container_of(d, struct spawner, refill_turn);

    if (sp->stage == SP_RUNNING)
        refill(sp);
}

static void refill_due(struct timer *t)
{
    struct spawner *sp = container_of(t, struct spawner, refill_timer);

    if (sp->stage == SP_RUNNING)
        refill(sp);
}

/* A moment later: the processors belong to the sandbox that has just been cloned, up to its first program. */
void supervisor_idle(struct spawner *sp)
{
    if (!timer_active(&sp->refill_timer) &&
        timer_start(sp->loop, &sp->refill_timer, REFILL_DELAY_MS * NSEC_PER_MSEC, refill_due) < 0)
        defer_start(sp->loop, &sp->refill_turn, refill_turn); /* no memory for a timer */
}

static void print_ready(struct spawner *sp)
{
    char line[LISTEN_MAX * 64 + 16] = "READY";
    size_t n = strlen(line);

    for (unsigned i = 0; i < sp->opt.listen_count; i++) {
        struct sockaddr_storage addr;
        socklen_t len = sizeof addr;
        char host[INET6_ADDRSTRLEN] = "";

        if (getsockname(sp->listen_fds[i], (struct sockaddr *)&addr, &len) < 0)
            continue;
        if (addr.ss_family == AF_INET6) {
            const struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&addr;

            (void)inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof host);
            n += (size_t)snprintf(line + n, sizeof line - n, " http://[%s]:%u", host, ntohs(in6->sin6_port));
        } else {
            const struct sockaddr_in *in4 = (struct sockaddr_in *)&addr;

            (void)inet_ntop(AF_INET, &in4->sin_addr, host, sizeof host);
            n += (size_t)snprintf(line + n, sizeof line - n, " http://%s:%u", host, ntohs(in4->sin_port));
        }
    }
    (void)dprintf(STDERR_FILENO, "%s\n", line);
}

void supervisor_ready(struct spawner *sp)
{
    sp->server_ready = true;
    if (sp->ready_told)
        return;
    sp->ready_told = true;
    print_ready(sp);
    host_notify(sp, "READY=1");
}

/* ---- stop and upgrade ----------------------------------------------------------------------------------------------- */

static unsigned boxes_between(const struct spawner *sp)
{
    struct box *box, *next;
    unsigned n = 0;

    HASH_ITER (hh, sp->boxes, box, next)
        n += box->state == BOX_CREATING || box->state == BOX_ENDING;
    return n;
}

static void stopped(struct spawner *sp)
{
    timer_stop(&sp->stop_timer);
    loop_stop(sp->loop);
}

static void stop_late(struct timer *t)
{
    struct spawner *sp = container_of(t, struct spawner, stop_timer);
    struct box *box, *next;

    HASH_ITER (hh, sp->boxes, box, next) {
        if (box->state != BOX_GONE)
            log_error(box->id, "still not gone after %d s; leaving it to the next silicad", STOP_S);
    }
    sp->failed = true;
    loop_stop(sp->loop);
}

static void try_upgrade(struct spawner *sp)
{
    struct err e = {0};

    (void)upgrade_exec(sp, &e);
    log_error(NULL, "no upgrade: %s; going on as before", e.msg);
    sp->stage = SP_RUNNING;
    e = (struct err){0};
    if (server_start(sp, &e) < 0) {
        log_error(NULL, "%s", e.msg);
        sp->failed = true;
        loop_stop(sp->loop);
    }
}

static void progress(struct defer *d)
{
    struct spawner *sp = container_of(d, struct spawner, progress);

    if (sp->stage == SP_STOPPING_BOXES && (sp->opt.keep ? boxes_between(sp) : boxes_alive(sp)) == 0 &&
        sp->imager_count == 0)
        stopped(sp);
    else if (sp->stage == SP_UPGRADING && sp->server == 0 && boxes_between(sp) == 0 && sp->imager_count == 0)
        try_upgrade(sp);
}

void supervisor_progress(struct spawner *sp)
{
    if (sp->stage == SP_STOPPING_BOXES || sp->stage == SP_UPGRADING)
        defer_start(sp->loop, &sp->progress, progress);
}

void supervisor_server_ended(struct spawner *sp)
{
    struct box *box, *next;

    if (sp->stage == SP_STOPPING_SERVER) {
        sp->stage = SP_STOPPING_BOXES;
        imagers_kill(sp);
        if (!sp->opt.keep) {
            HASH_ITER (hh, sp->boxes, box, next)
                box_end(box);
        }
        (void)timer_start(sp->loop, &sp->stop_timer, STOP_S * NSEC_PER_SEC, stop_late);
    }
    supervisor_progress(sp);
}

static void remove_files(struct spawner *sp)
{
    static const char *const files[] = {"table", "table.new", "server"};

    for (unsigned i = 0; i < ARRAY_LEN(files); i++)
        (void)unlinkat(sp->run_fd, files[i], 0);
}

/* Gives back what the daemon itself has. With sandboxes left alive, what they use must stay; the next silicad finds it. */
static void finish(struct spawner *sp)
{
    /* Before the table was read nobody knows what lives. */
    bool clean = sp->table_fd >= 0 && boxes_alive(sp) == 0;
    struct box *box, *next;

    HASH_ITER (hh, sp->boxes, box, next)
        box_free(box);
    if (clean) {
        if (sp->up_slots)
            slots_fini();
        if (sp->up_layers)
            layers_fini();
        if (sp->up_egress)
            egress_fini();
        if (sp->up_cgs)
            cgs_fini();
        if (sp->up_rootfs)
            rootfs_fini();
        remove_files(sp);
    }
    if (sp->run_lock >= 0) {
        (void)unlinkat(sp->run_fd, "silicad.pid", 0);
        (void)unlinkat(sp->run_fd, "box", AT_REMOVEDIR); /* not while sandboxes have sockets there */
        (void)rmdir(sp->opt.run_dir);                    /* nor while anybody keeps something here */
    }
    sig_stop(&sp->sig);
    free(sp->recv_buf);
    loop_free(sp->loop);
}

int supervisor_run(const struct options *opt, char *const argv[])
{
    static struct spawner spawner;
    struct spawner *sp = &spawner;
    struct err e = {0};
    int r;

    sp->opt = *opt;
    sp->argv = argv;
    sp->state_fd = sp->run_fd = sp->box_fd = sp->layers_fd = sp->state_lock = sp->run_lock = -1;
    sp->netns_fd = sp->table_fd = sp->seccomp_fd = sp->null_fd = -1;
    for (unsigned i = 0; i < LISTEN_MAX; i++)
        sp->listen_fds[i] = -1;
    TAILQ_INIT(&sp->out);
    TAILQ_INIT(&sp->untold);
    TAILQ_INIT(&sp->releasing);
    LIST_INIT(&sp->imagers);

    slice_ask(SLICE_SHORT_NS); /* silicad and init inherit it */
    r = start(sp, &e);
    if (r < 0) {
        log_error(NULL, "%s", e.msg);
        sp->failed = true;
        if (sp->server > 0)
            (void)kill(sp->server, SIGKILL);
        /* What was adopted before the failure lives on, for a start that succeeds. */
        finish(sp);
        return 1;
    }
    spawner_slim();
    supervisor_idle(sp);
    reap(sp); /* children that ended while an upgrade was under way */
    r = loop_run(sp->loop);
    if (r < 0) {
        log_error(NULL, "event loop: %s", strerror(-r));
        sp->failed = true;
    }
    finish(sp);
    return sp->failed ? 1 : 0;
}
