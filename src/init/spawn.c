/* Starting a process, the parent's side: pipes or pty, cgroup, clone, and the wait for exec by way of the status pipe.
 * docs/decisions/0002 says why the child gets a copy of init's memory and does not share it. */
#include "init/init-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>

#include "base/clock.h"
#include "init/kernel.h"

/* A pipe whose end for silicad (PARENT: 0 = read end, 1 = write end) does not block. */
static int make_pipe(unsigned parent, int *ret_ours, int *ret_childs)
{
    int p[2];

    if (pipe2(p, O_CLOEXEC) < 0)
        return -errno;
    (void)fcntl(p[parent], F_SETFL, (parent == 0 ? O_RDONLY : O_WRONLY) | O_NONBLOCK); /* a valid flag of a valid fd */
    *ret_ours = p[parent];
    *ret_childs = p[1 - parent];
    return 0;
}

static int make_pty(struct init *in, const struct spawn_plan *plan, struct proc *p, struct child_io *io)
{
    struct winsize ws = {.ws_row = plan->rows, .ws_col = plan->cols};
    int unlock = 0, master, peer;

    /* From the devpts directory itself and through the master: no name in /dev is trusted. */
    if (in->pts_fd < 0)
        return -ENODEV;
    master = openat(in->pts_fd, "ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (master < 0)
        return -errno;
    p->fds[p->nfds++] = master;
    if (ioctl(master, TIOCSPTLCK, &unlock) < 0 || ioctl(master, TIOCSWINSZ, &ws) < 0)
        return -errno;
    peer = ioctl(master, K_TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (peer < 0)
        return -errno;
    io->tty = io->fds[0] = io->fds[1] = io->fds[2] = peer;
    return 0;
}

static int make_pipes(const struct spawn_plan *plan, struct proc *p, struct child_io *io)
{
    int r = 0;

    if ((plan->flags & IN_S_STDIN) != 0)
        r = make_pipe(1, &p->fds[p->nfds], &io->fds[0]);
    if (r < 0)
        return r;
    p->nfds += (plan->flags & IN_S_STDIN) != 0;
    r = make_pipe(0, &p->fds[p->nfds], &io->fds[1]);
    if (r < 0)
        return r;
    p->nfds++;
    io->fds[2] = io->fds[1];
    if ((plan->flags & IN_S_MERGE) != 0)
        return 0;
    r = make_pipe(0, &p->fds[p->nfds], &io->fds[2]);
    if (r < 0)
        return r;
    p->nfds++;
    return 0;
}

static void close_childs_ends(struct child_io *io)
{
    for (int i = 0; i < 3; i++) {
        bool twice = i > 0 && io->fds[i] == io->fds[i - 1];

        if (io->fds[i] >= 0 && !twice)
            (void)close(io->fds[i]); /* the child has its own */
    }
    if (io->status >= 0)
        (void)close(io->status);
}

/* Clones into the new cgroup. Returns the pid or -errno with *RET_STAGE. */
static int clone_child(struct init *in, const struct spawn_plan *plan, uint64_t token, const struct child_io *io)
{
    struct k_clone_args args = {.flags = K_CLONE_INTO_CGROUP, .exit_signal = SIGCHLD};
    int cgroup, r, pid;

    r = cgroup_make(in, token, &cgroup);
    if (r < 0)
        return r;
    args.cgroup = (uint64_t)cgroup;
    pid = k_clone3(&args);
    if (pid == 0)
        child_run(in, plan, io);
    r = pid < 0 ? -errno : pid;
    (void)close(cgroup);
    if (r < 0)
        cgroup_drop(in, token);
    return r;
}

/* On failure P still has to be freed with its fds. */
static int start(struct init *in, const struct spawn_plan *plan, struct proc *p, uint32_t *ret_stage)
{
    struct child_io io = {.fds = {-1, -1, -1}, .tty = -1, .status = -1};
    int r, pid, status = -1;

    *ret_stage = IN_ST_LIMIT;
    r = (plan->flags & IN_S_TTY) != 0 ? make_pty(in, plan, p, &io) : make_pipes(plan, p, &io);
    if (r == 0)
        r = make_pipe(0, &status, &io.status);
    if (r == 0) {
        *ret_stage = IN_ST_FORK;
        p->status.fd = status;
        p->end.start_ns = clock_wall();
        pid = clone_child(in, plan, p->token, &io);
        if (pid < 0)
            r = pid;
        else
            p->end.pid = pid;
    }
    close_childs_ends(&io);
    if (r < 0)
        return r;

    p->status.ready = spawn_status;
    p->deadline = now_ms() + SPAWN_TIMEOUT_MS;
    proc_insert(in, p);
    list_append(&in->starting, &p->starting);
    if (watch(in, &p->status, EPOLLIN) < 0) { /* out of memory or of watches: nobody would hear of it */
        p->state = PROC_FAILED;
        p->fail_code = -errno;
        p->fail_stage = IN_ST_LIMIT;
        cgroup_kill(in, p->token);
        list_remove(&p->starting);
        unwatch(in, &p->status);
        proc_todo(in, p, TODO_FAILED);
    }
    return 0;
}

static const char *why_not_started(int code, uint32_t stage)
{
    if (stage == IN_ST_FORK && code == -EAGAIN)
        return "the sandbox has as many processes as it may have";
    if (stage == IN_ST_FORK && code == -ENOMEM)
        return "the sandbox has no memory left for another process";
    if (code == -EMFILE || code == -ENFILE)
        return "the sandbox has as many open pipes as it may have";
    if (code == -ENODEV)
        return "the sandbox has no /dev/pts to make a terminal in";
    return "the process could not be created";
}

void spawn_request(struct init *in, const struct wire_msg *m)
{
    struct spawn_plan plan;
    struct proc *p;
    uint64_t token = m->head->token;
    uint32_t stage;
    const char *why;
    int r = plan_spawn(m, &plan, &stage, &why);

    if (r < 0) {
        control_refuse(in, token, r, stage, why);
        return;
    }
    p = NULL;
    if (proc_find(in, token) != NULL) {
        control_refuse(in, token, -EEXIST, IN_ST_OTHER, "the token names another process already");
    } else if (in->proc_count + in->stray_count >= IN_PROCS_MAX || (p = calloc(1, sizeof *p)) == NULL) {
        control_refuse(in, token, -EAGAIN, IN_ST_LIMIT,
                       "the sandbox has as many commands, running or not yet collected, as it may have (4096)");
    } else {
        p->status.fd = -1;
        p->token = token;
        p->epoch = in->epoch;
        p->kind = plan.kind;
        p->flags = plan.flags;
        r = start(in, &plan, p, &stage);
        if (r < 0) {
            proc_close_fds(p);
            fd_close(p->status.fd);
            free(p);
            control_refuse(in, token, r, stage, why_not_started(r, stage));
        }
    }
    plan_spawn_fini(&plan);
}

static void failed(struct init *in, struct proc *p, int code, uint32_t stage)
{
    p->state = PROC_FAILED;
    p->fail_code = code;
    p->fail_stage = stage;
    proc_close_fds(p);
    proc_todo(in, p, TODO_FAILED);
}

void spawn_status(struct init *in, struct source *s, uint32_t events)
{
    struct proc *p = container_of(s, struct proc, status);
    struct child_status st;
    ssize_t n = read(s->fd, &st, sizeof st);

    (void)events;
    if (n < 0 && errno == EAGAIN)
        return;
    list_remove(&p->starting);
    unwatch(in, s);
    if (n == (ssize_t)sizeof st) {
        failed(in, p, st.code, st.stage);
        return;
    }
    /* Closed without a word: exec has happened, or the child was killed before it. The latter's end says SIGKILL. */
    p->state = PROC_UP;
    proc_todo(in, p, TODO_SPAWNED | (p->reaped ? TODO_EXITED : 0u));
}

void spawn_expire(struct init *in, uint64_t now)
{
    while (!list_empty(&in->starting)) {
        struct proc *p = container_of(in->starting.next, struct proc, starting);

        if (p->deadline > now)
            return; /* all have the same time, so the first is the next */
        cgroup_kill(in, p->token);
        list_remove(&p->starting);
        unwatch(in, &p->status);
        failed(in, p, -ETIMEDOUT, IN_ST_CWD); /* before exec, only looking up the directory can take long */
    }
}
