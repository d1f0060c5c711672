/* A child in namespaces of its own.
 *
 * The user namespace belongs to the euid of whoever makes it, and the kernel counts what is made inside (inotify
 * instances, nested namespaces, ...) against that uid. So the spawner takes the sandbox's base uid for the clone.
 * SECBIT_NO_SETUID_FIXUP, set at start, lets it keep its capabilities meanwhile.
 *
 * One stream socket pair does three things: the child waits on it until its id maps are written, reports a failure
 * through it, and closes it by exec. A spawner that dies closes it too, and the child leaves. */
#include "spawner/spawner.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "base/clock.h"

struct jail_report {
    int32_t code;
    char where[60];
};

void child_reset(void)
{
    sigset_t none;

    for (int s = 1; s < NSIG; s++) {
        if (s != SIGKILL && s != SIGSTOP)
            (void)signal(s, SIG_DFL); /* EINVAL for the two that libc keeps */
    }
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    /* Ours are close-on-exec from birth; libnftables' socket is not. */
    (void)close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
}

static void set_limit(int resource, rlim_t soft, rlim_t hard)
{
    struct rlimit rl = {soft, hard};

    (void)setrlimit(resource, &rl); /* a host that forbids it keeps its own limit */
}

__attribute__((noreturn)) static void child_main(const struct jail_plan *plan, int sock)
{
    struct jail_report report = {0};
    const char *where = "waiting for the spawner";
    char go;
    int r;

    if (read(sock, &go, 1) != 1)
        _exit(120);
    child_reset();
    set_limit(RLIMIT_CORE, 1, 1); /* 1, not 0: to the kernel that is also "not to the host's core collector" */
    /* Raw calls: libc's would look for threads to tell. */
    if (syscall(SYS_setgroups, 0, NULL) < 0 || syscall(SYS_setresgid, 0, 0, 0) < 0 ||
        syscall(SYS_setresuid, 0, 0, 0) < 0) {
        r = -errno;
        where = "become root of the user namespace";
    } else {
        (void)setsid();
        r = plan->run(plan->arg, &where);
    }
    report.code = r;
    for (unsigned i = 0; where != NULL && where[i] != '\0' && i + 1 < sizeof report.where; i++)
        report.where[i] = where[i];
    (void)!send(sock, &report, sizeof report, MSG_NOSIGNAL); /* the spawner sees the end of the socket in any case */
    _exit(121);
}

static int write_proc(int dirfd, const char *name, const char *text)
{
    AUTO_FD fd = openat(dirfd, name, O_WRONLY | O_CLOEXEC);
    size_t len = strlen(text);

    if (fd < 0)
        return -errno;
    return write(fd, text, len) == (ssize_t)len ? 0 : -errno;
}

static int write_maps(pid_t pid, const struct jail_plan *plan, struct err *e)
{
    char path[32], map[48];
    AUTO_FD dir = -1;
    int r;

    (void)snprintf(path, sizeof path, "/proc/%d", pid);
    dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return err_set(e, errno, "open '%s': %m", path);
    (void)snprintf(map, sizeof map, "0 %u %d\n", plan->uid_base, SLOT_UIDS);
    r = write_proc(dir, "uid_map", map);
    if (r == 0)
        r = write_proc(dir, "gid_map", map);
    if (r < 0)
        return err_set(e, r, "map the ids of process %d: %m", pid);
    (void)write_proc(dir, "oom_score_adj", "0\n"); /* ours is low; theirs must not be */
    return 0;
}

static void jail_finish(struct jail *j, int code, const char *where)
{
    jail_stop(j);
    j->done(j, code, where);
}

static void jail_event(struct io *io, uint32_t events)
{
    struct jail *j = container_of(io, struct jail, io);
    struct jail_report report = {0};
    ssize_t n = recv(io->fd, &report, sizeof report, MSG_DONTWAIT);

    (void)events;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    report.where[sizeof report.where - 1] = '\0';
    if (n == (ssize_t)sizeof report)
        jail_finish(j, report.code < 0 ? report.code : -EIO, report.where);
    else
        jail_finish(j, 0, NULL);
}

void jail_flush(struct jail *j)
{
    jail_event(&j->io, 0);
}

static void jail_late(struct timer *t)
{
    struct jail *j = container_of(t, struct jail, deadline);

    jail_finish(j, -ETIMEDOUT, "start of the first process");
}

void jail_stop(struct jail *j)
{
    timer_stop(&j->deadline);
    if (j->io.active) {
        int fd = j->io.fd;

        io_stop(&j->io);
        fd_close(fd);
    }
}

/* The euid and the network namespace of the spawner are another's between these two. Both are back whatever happens;
 * a spawner that could not come back must not go on. */
static int borrow(const struct jail_plan *plan, struct err *e)
{
    if (plan->netns_fd >= 0 && setns(plan->netns_fd, CLONE_NEWNET) < 0)
        return err_set(e, errno, "enter the network namespace: %m");
    if (syscall(SYS_setresgid, -1, plan->uid_base, -1) < 0 || syscall(SYS_setresuid, -1, plan->uid_base, -1) < 0)
        return err_set(e, errno, "take uid %u for the clone: %m", plan->uid_base);
    return 0;
}

static void give_back(const struct spawner *sp, const struct jail_plan *plan)
{
    int saved = errno;

    if (syscall(SYS_setresuid, -1, 0, -1) < 0 || syscall(SYS_setresgid, -1, 0, -1) < 0 ||
        (plan->netns_fd >= 0 && setns(sp->netns_fd, CLONE_NEWNET) < 0)) {
        log_error(NULL, "cannot come back from a clone: %s", strerror(errno));
        abort();
    }
    errno = saved;
}

int jail_start(struct spawner *sp, struct jail *j, const struct jail_plan *plan,
               void (*done)(struct jail *j, int code, const char *where), struct err *e)
{
    struct clone_args args = {
        .flags = CLONE_NEWUSER | plan->flags | (plan->cgroup_fd >= 0 ? CLONE_INTO_CGROUP : 0),
        .exit_signal = SIGCHLD,
        .cgroup = (uint64_t)(plan->cgroup_fd >= 0 ? plan->cgroup_fd : 0),
    };
    int pair[2], r;
    pid_t pid = -1;

    j->pid = 0;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return err_set(e, errno, "socket pair for the clone: %m");
    r = borrow(plan, e);
    if (r == 0) {
        pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
        if (pid == 0) {
            (void)close(pair[0]); /* else the death of the spawner would go unnoticed */
            child_main(plan, pair[1]);
        }
        if (pid < 0)
            r = err_set(e, errno, "clone into new namespaces: %m");
    }
    give_back(sp, plan);
    fd_close(pair[1]);
    if (r < 0) {
        fd_close(pair[0]);
        return r;
    }

    j->sp = sp;
    j->pid = pid;
    j->done = done;
    r = write_maps(pid, plan, e);
    if (r == 0 && plan->before_go != NULL)
        r = plan->before_go(plan->arg, pid, e);
    if (r == 0 && send(pair[0], "g", 1, MSG_NOSIGNAL) != 1)
        r = err_set(e, errno, "release the cloned process: %m");
    if (r == 0) {
        r = io_start(sp->loop, &j->io, pair[0], EPOLLIN, jail_event);
        if (r < 0)
            (void)err_set(e, r, "wait for the cloned process: %m");
        else if (timer_start(sp->loop, &j->deadline, JAIL_DEADLINE_S * NSEC_PER_SEC, jail_late) < 0)
            r = err_set(e, ENOMEM, "wait for the cloned process: %m");
    }
    if (r < 0) {
        /* The caller reaps it as any child: the pid stays ours until then. */
        (void)kill(pid, SIGKILL);
        if (j->io.active)
            jail_stop(j);
        else
            fd_close(pair[0]);
    }
    return r;
}
