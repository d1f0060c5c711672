/* silica-server: started as an unprivileged uid, watched, started again when it dies. */
#include "spawner/spawner.h"

#include <assert.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/clock.h"

extern char **environ;

enum { ARGS_MAX = 32 + 2 * LISTEN_MAX, ARG_TEXT = 64 };

struct server_args {
    const char *argv[ARGS_MAX];
    char text[LISTEN_MAX + 8][ARG_TEXT];
    unsigned count, texts;
    const char **env;
};

static void add(struct server_args *a, const char *name, const char *value)
{
    assert(a->count + 3 < ARGS_MAX);
    a->argv[a->count++] = name;
    a->argv[a->count++] = value;
}

static void add_number(struct server_args *a, const char *name, uint64_t value)
{
    char *text = a->text[a->texts++];

    assert(a->texts <= ARRAY_LEN(a->text));
    (void)snprintf(text, ARG_TEXT, "%llu", (unsigned long long)value);
    add(a, name, text);
}

/* What the service manager said to this process is not for its children. */
static bool env_passes(const char *var)
{
    static const char *const ours[] = {
        "NOTIFY_SOCKET=", "LISTEN_FDS=", "LISTEN_PID=", "LISTEN_FDNAMES=", "WATCHDOG_USEC=", "WATCHDOG_PID="};

    for (unsigned i = 0; i < ARRAY_LEN(ours); i++) {
        if (strncmp(var, ours[i], strlen(ours[i])) == 0)
            return false;
    }
    return true;
}

static int fill_args(struct spawner *sp, struct server_args *a, struct err *e)
{
    size_t n = 0, out = 0;

    memset(a, 0, sizeof *a);
    a->argv[a->count++] = "silica-server";
    for (unsigned i = 0; i < sp->opt.listen_count; i++)
        add_number(a, "--listen-fd", SP_FD + 1 + i);
    add(a, "--state-dir", sp->opt.state_dir);
    add(a, "--run-dir", sp->opt.run_dir);
    add(a, "--runner-id", sp->runner_id);
    add(a, "--log-level", sp->opt.log_level_word);
    add(a, "--egress", sp->opt.egress == SP_E_NAT ? "nat" : "none");
    add_number(a, "--boxes-max", sp->opt.max_sandboxes != 0 ? sp->opt.max_sandboxes : sp->slot_count);
    if (sp->opt.default_disk != 0)
        add_number(a, "--default-disk-bytes", sp->opt.default_disk);
    if (sp->opt.default_memory != 0)
        add_number(a, "--default-memory-bytes", sp->opt.default_memory);

    while (environ != NULL && environ[n] != NULL)
        n++;
    a->env = calloc(n + 1, sizeof *a->env);
    if (a->env == NULL)
        return err_set(e, ENOMEM, "environment of silica-server: %m");
    for (size_t i = 0; i < n; i++) {
        if (env_passes(environ[i]))
            a->env[out++] = environ[i];
    }
    return 0;
}

/* ---- the child, up to exec ------------------------------------------------------------------------------------------ */

static int drop_privileges(const struct spawner *sp)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {0};

    for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++) {
        if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
            return -errno;
    }
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
        return -errno;
    if (syscall(SYS_setgroups, 0, NULL) < 0 ||
        syscall(SYS_setresgid, sp->daemon_gid, sp->daemon_gid, sp->daemon_gid) < 0 ||
        syscall(SYS_setresuid, sp->daemon_uid, sp->daemon_uid, sp->daemon_uid) < 0)
        return -errno;
    /* The spawner keeps capabilities over a change of uid; here that ends, for good. */
    if (prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP_LOCKED |
                                     SECBIT_KEEP_CAPS_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE |
                                     SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED) < 0)
        return -errno;
    if (syscall(SYS_capset, &head, none) < 0)
        return -errno;
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : 0;
}

/* It parses what strangers send, so it goes before the spawner does, but after every sandbox. */
static void write_oom_score(void)
{
    static const char score[] = "-500\n";
    AUTO_FD fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

    if (fd >= 0)
        (void)!write(fd, score, sizeof score - 1); /* as good as it gets */
}

/* SP_FD and the listening sockets behind it. The sources are all at FD_RESERVED or above. */
static int place_fds(const struct spawner *sp, int link)
{
    if (dup2(link, SP_FD) < 0)
        return -errno;
    for (unsigned i = 0; i < sp->opt.listen_count; i++) {
        if (dup2(sp->listen_fds[i], SP_FD + 1 + (int)i) < 0)
            return -errno;
    }
    return 0;
}

__attribute__((noreturn)) static void child(const struct spawner *sp, const struct server_args *a, int link)
{
    const struct rlimit files = {sp->nofile, sp->nofile};
    const char *step = "set up";
    int r;

    child_reset();
    (void)setsid();
    (void)umask(0077);
    (void)setrlimit(RLIMIT_NOFILE, &files);
    write_oom_score();
    r = chdir("/") < 0 ? -errno : place_fds(sp, link);
    if (r == 0) {
        step = "drop privileges";
        r = drop_privileges(sp);
    }
    if (r == 0) {
        step = "exec";
        (void)syscall(SYS_execveat, sp->program_server, "", a->argv, a->env, AT_EMPTY_PATH);
        r = -errno;
    }
    log_error(NULL, "silica-server cannot start: %s: %s", step, strerror(-r));
    _exit(126);
}

/* ---- the parent ------------------------------------------------------------------------------------------------------ */

static void start_again(struct timer *t)
{
    struct spawner *sp = container_of(t, struct spawner, server_timer);
    struct err e = {0};

    if (sp->stage != SP_RUNNING)
        return;
    if (server_start(sp, &e) < 0) {
        log_error(NULL, "%s", e.msg);
        (void)timer_start(sp->loop, &sp->server_timer, BACKOFF_MAX_MS * NSEC_PER_MSEC, start_again);
    }
}

int server_start(struct spawner *sp, struct err *e)
{
    struct server_args args;
    int pair[2];
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return err_set(e, errno, "socket pair for silica-server: %m");
    sp->epoch++;
    if (fcntl(pair[0], F_SETFL, O_NONBLOCK) < 0 || epoch_record(sp, e) < 0 || fill_args(sp, &args, e) < 0) {
        fd_close(pair[0]);
        fd_close(pair[1]);
        return e->code != 0 ? e->code : err_set(e, errno, "socket pair for silica-server: %m");
    }
    pid = fork();
    if (pid == 0)
        child(sp, &args, pair[1]);
    free(args.env);
    fd_close(pair[1]);
    if (pid < 0) {
        fd_close(pair[0]);
        return err_set(e, errno, "start silica-server: %m");
    }
    sp->server = pid;
    sp->server_ready = false;
    sp->server_stopping = false;
    host_write_server_pid(sp, pid);
    log_debug(NULL, "silica-server is process %d, epoch %llu", pid, (unsigned long long)sp->epoch);
    return link_open(sp, pair[0], e);
}

/* Milliseconds until the next start: at once, unless it dies again and again. */
static unsigned backoff(struct spawner *sp)
{
    uint64_t now = clock_mono();

    if (sp->deaths == 0 || now - sp->first_death > RAPID_WINDOW_S * NSEC_PER_SEC) {
        sp->first_death = now;
        sp->deaths = 0;
        sp->backoff_ms = 0;
    }
    if (++sp->deaths < RAPID_DEATHS)
        return 0;
    sp->first_death = now; /* the window stretches while it goes on */
    sp->backoff_ms = sp->backoff_ms == 0 ? BACKOFF_MIN_MS : sp->backoff_ms * 2;
    if (sp->backoff_ms > BACKOFF_MAX_MS)
        sp->backoff_ms = BACKOFF_MAX_MS;
    return sp->backoff_ms;
}

static void cancel_creations(struct spawner *sp)
{
    struct box *box, *next;

    HASH_ITER (hh, sp->boxes, box, next) {
        if (box->creation != NULL)
            box_end(box);
    }
}

bool server_reaped(struct spawner *sp, pid_t pid, int status)
{
    unsigned ms;

    if (pid != sp->server)
        return false;
    sp->server = 0;
    link_close(sp);
    timer_stop(&sp->server_timer);
    imagers_kill(sp);
    cancel_creations(sp);
    (void)unlinkat(sp->run_fd, "server", 0);
    if (sp->stage != SP_RUNNING) {
        supervisor_server_ended(sp);
        return true;
    }
    ms = backoff(sp);
    log_error(NULL, "silica-server ended (%s %d); starting it again%s", WIFSIGNALED(status) ? "signal" : "exit status",
              WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), ms > 0 ? " after a pause" : "");
    if (!sp->ready_told && sp->deaths >= RAPID_DEATHS) {
        log_error(NULL, "silica-server does not come up; giving up");
        sp->failed = true;
        sp->stage = SP_STOPPING_SERVER;
        sp->opt.keep = true; /* sandboxes of an earlier silicad are not the ones to pay */
        supervisor_server_ended(sp);
        return true;
    }
    (void)timer_start(sp->loop, &sp->server_timer, ms * NSEC_PER_MSEC, start_again);
    return true;
}

void server_distrust(struct spawner *sp, const char *why)
{
    if (!sp->link.active)
        return;
    log_error(NULL, "silica-server is not to be trusted any more: %s; ending it", why);
    link_close(sp);
    if (sp->server > 0)
        (void)kill(sp->server, SIGKILL);
}

static void stop_late(struct timer *t)
{
    struct spawner *sp = container_of(t, struct spawner, server_timer);

    log_warn(NULL, "silica-server did not end within %d s; killing it", SERVER_STOP_S);
    if (sp->server > 0)
        (void)kill(sp->server, SIGKILL);
}

void server_stop(struct spawner *sp, bool keep)
{
    struct sp_stop stop = {.keep = keep};

    timer_stop(&sp->server_timer);
    if (sp->server <= 0) {
        supervisor_server_ended(sp);
        return;
    }
    sp->server_stopping = true;
    link_send(sp, SP_STOP, 0, &stop, sizeof stop, NULL, -1);
    (void)timer_start(sp->loop, &sp->server_timer, SERVER_STOP_S * NSEC_PER_SEC, stop_late);
}
