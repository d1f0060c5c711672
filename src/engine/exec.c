/* Foreground processes with a caller: from engine_exec() to ended() or failed().
 *
 *   starting --IN_SPAWNED--> running --IN_EXITED--> over: what its pipes held at that moment is read, then ended()
 *
 * A background child that keeps a pipe open is not waited for. The caller's silence (exec_abandon) kills the tree. */
#include "engine/exec-internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/clock.h"
#include "base/fd.h"
#include "engine/init-link.h"
#include "engine/proc-internal.h"

/* ---- holding --------------------------------------------------------------------------------------------------------- */

static void release(struct exec *x)
{
    defer_stop(&x->kick);
    exec_out_fini(&x->out[0]);
    exec_out_fini(&x->out[1]);
    exec_in_fini(&x->in);
    op_drop(x->stat);
    free(x);
}

void exec_enter(struct exec *x)
{
    x->busy++;
}

void exec_leave(struct exec *x)
{
    if (--x->busy == 0 && x->dead)
        release(x);
}

/* No callback after this; freed by the exec_leave() that must follow. */
static void die(struct exec *x)
{
    x->dead = true;
}

/* ---- the end --------------------------------------------------------------------------------------------------------- */

static void finish(struct exec *x)
{
    x->res.out_bytes = x->out[0].bytes;
    x->res.err_bytes = x->out[1].bytes;
    x->ops->ended(x, &x->res, x->arg);
    die(x);
}

static void on_stat(void *arg, const struct err *e, const struct sp_stats *s)
{
    struct exec *x = arg;
    struct box *b;

    x->stat = NULL;
    exec_enter(x);
    HASH_FIND (hh, x->en->boxes, x->box_id, strlen(x->box_id), b)
        ;
    /* A count that grew since anybody was told: one kill is blamed on one process. */
    if (e == NULL && b != NULL && s->oom_kills > b->oom_seen) {
        b->oom_seen = s->oom_kills;
        x->res.oom = true;
    }
    finish(x);
    exec_leave(x);
}

/* SIGKILL, or a shell that says so of its child, may have been the kernel's OOM killer. */
static bool perhaps_oom(const struct exec_result *res)
{
    return (res->cause == EXEC_SIGNALED && res->signal == SIGKILL) ||
           (res->cause == EXEC_EXITED && res->code == 128 + SIGKILL);
}

static void fail(struct exec *x, const struct err *e)
{
    x->ops->failed(x, e, x->arg);
    die(x);
}

void exec_check_end(struct exec *x)
{
    struct err e = {0};

    if (!x->over || x->dead || x->finishing || x->paused || x->out[0].fd >= 0 || x->out[1].fd >= 0)
        return;
    x->finishing = true;
    if (x->torn) {
        (void)err_typed(&e, ERR_EXHAUSTED, NULL,
                        "output of the command in sandbox %s was lost: the daemon could not read it", x->box_id);
        fail(x, &e);
        return;
    }
    if (perhaps_oom(&x->res)) {
        x->stat = spawner_stat(x->en->spawner, x->box_id, on_stat, x);
        if (x->stat != NULL)
            return;
    }
    finish(x);
}

/* ---- from proc.c ------------------------------------------------------------------------------------------------------ */

static void send_size(struct exec *x)
{
    struct winsize ws = {.ws_row = x->rows, .ws_col = x->cols};

    x->resized = false;
    (void)ioctl(x->out[0].fd, TIOCSWINSZ, &ws); /* a terminal that is going away has no size to care about */
}

static void on_started(struct proc *p, int in, int out, int err_fd)
{
    struct exec *x = p->owner;
    struct err e = {0};
    int r;

    exec_enter(x);
    r = exec_out_start(&x->out[0], out, x->tty);
    if (r == 0 && err_fd >= 0)
        r = exec_out_start(&x->out[1], take_fd(&err_fd), false);
    if (x->tty && r == 0) {
        in = fcntl(out, F_DUPFD_CLOEXEC, 0); /* one descriptor cannot be watched twice */
        r = in < 0 ? -errno : 0;
    }
    if (r < 0) {
        fd_close(in);
        fd_close(err_fd);
        x->proc = NULL;
        proc_abandon(p);
        (void)err_set(&e, r, "watch the output of a process in sandbox %s: %m", x->box_id);
        fail(x, &e);
        exec_leave(x);
        return;
    }
    if (x->resized)
        send_size(x);
    exec_in_start(x, in, x->tty);
    if (!x->dead && x->ops->started != NULL)
        x->ops->started(x, x->arg);
    exec_leave(x);
}

/* In a shell's words: 127 not found, 126 found but no use. */
static void say_not_started(struct exec *x, const struct in_failed *why, const struct err *e)
{
    size_t cap = strlen(e->msg) + sizeof "silica: \r\n";
    struct chunk *c = chunk_new(cap);

    x->over = true;
    x->res.cause = EXEC_NOT_STARTED;
    x->res.code = why->stage == IN_ST_EXEC && why->code == -ENOENT ? 127 : 126;
    x->res.start_ns = x->res.end_ns = clock_wall();
    if (c != NULL) { /* without memory the code has to do */
        c->len = (size_t)snprintf((char *)c->data + c->off, cap, "silica: %s%s", e->msg, x->tty ? "\r\n" : "\n");
        x->out[1].bytes += c->len;
        exec_deliver(x, 2, c);
    }
}

static void on_failed(struct proc *p, const struct in_failed *why, const struct err *e)
{
    struct exec *x = p->owner;

    x->proc = NULL;
    x->box = NULL;
    exec_enter(x);
    if (why != NULL && (why->stage == IN_ST_EXEC || why->stage == IN_ST_CWD || why->stage == IN_ST_USER)) {
        say_not_started(x, why, e);
        exec_check_end(x);
    } else {
        fail(x, e);
    }
    exec_leave(x);
}

static void on_exited(struct proc *p, const struct in_exited *how)
{
    struct exec *x = p->owner;
    struct err e = {0};

    exec_enter(x);
    if (how == NULL) {
        box_end_error(x->box, &e);
        x->proc = NULL;
        x->box = NULL;
        fail(x, &e);
        exec_leave(x);
        return;
    }

    proc_result(p, how, &x->res);
    x->proc = NULL;
    x->box = NULL;
    x->over = true;
    exec_in_fini(&x->in);
    if (x->in.full && x->ops->stdin_drained != NULL) {
        x->in.full = false;
        x->ops->stdin_drained(x, x->arg);
    }
    for (int i = 0; i < 2; i++)
        exec_out_last(&x->out[i]);
    for (int i = 0; i < 2 && !x->dead; i++)
        exec_out_read(&x->out[i]);
    if (!x->dead)
        exec_check_end(x);
    exec_leave(x);
}

static const struct proc_ops exec_proc_ops = {on_started, on_failed, on_exited};

/* ---- the caller's side ------------------------------------------------------------------------------------------------- */

int engine_exec(struct engine *en, const struct exec_spec *spec, const struct exec_ops *ops, void *arg,
                struct exec **ret, struct err *e)
{
    struct proc_spec ps = {
        .kind = IN_EXEC,
        .argv = spec->argv,
        .env = spec->env,
        .env_count = spec->env_count,
        .cwd = spec->cwd,
        .user = spec->user,
        .tty = spec->tty,
        .stdin_open = spec->stdin_open && !spec->tty,
        .merge = spec->merge && !spec->tty,
        .rows = spec->rows,
        .cols = spec->cols,
    };
    struct exec *x;
    struct box *b;
    int r;

    assert(ops->output != NULL && ops->ended != NULL && ops->failed != NULL);
    r = box_find_running(en, spec->tenant, spec->box, &b, e);
    if (r < 0)
        return r;
    if (b->proc_count >= en->config.execs_max)
        return err_typed(e, ERR_EXHAUSTED, NULL,
                         "sandbox %s runs %u commands, which is the limit; try again when one has ended", b->id,
                         b->proc_count);

    x = calloc(1, sizeof *x);
    if (x == NULL)
        return err_set(e, ENOMEM, "out of memory");
    *x = (struct exec){.en = en, .box = b, .ops = ops, .arg = arg, .tty = spec->tty};
    memcpy(x->box_id, b->id, sizeof x->box_id);
    exec_out_init(x, 1);
    exec_out_init(x, 2);
    exec_in_init(&x->in);
    x->in.wanted = spec->stdin_open || spec->tty;

    r = proc_spawn(b, &ps, &exec_proc_ops, x, &x->proc, e);
    if (r < 0) {
        release(x);
        return r;
    }
    *ret = x;
    return 0;
}

void exec_resize(struct exec *x, uint16_t rows, uint16_t cols)
{
    if (!x->tty || x->over)
        return;
    x->rows = rows != 0 ? rows : 24;
    x->cols = cols != 0 ? cols : 80;
    x->resized = true;
    if (x->out[0].fd >= 0)
        send_size(x);
}

/* Later, not here: the caller may be in the middle of its own output callback. */
static void on_kick(struct defer *d)
{
    struct exec *x = container_of(d, struct exec, kick);
    struct err e = {0};

    exec_enter(x);
    for (int i = 0; i < 2; i++) {
        if (x->paused || x->dead)
            break;
        if (exec_out_continue(&x->out[i]) < 0) {
            if (x->proc != NULL)
                proc_abandon(take_ptr(x->proc));
            (void)err_set(&e, ENOMEM, "watch the output of a process in sandbox %s: %m", x->box_id);
            fail(x, &e);
            break;
        }
        exec_out_read(&x->out[i]);
    }
    if (!x->dead)
        exec_check_end(x);
    exec_leave(x);
}

void exec_resume(struct exec *x)
{
    if (!x->paused || x->dead)
        return;
    x->paused = false;
    defer_start(x->en->loop, &x->kick, on_kick);
}

int exec_signal(struct exec *x, int signo, struct err *e)
{
    return x->proc != NULL ? proc_kill(x->proc, signo, false, e) : 0; /* it has ended: nobody is left to be told */
}

void exec_abandon(struct exec *x)
{
    if (x == NULL || x->dead)
        return;
    if (x->proc != NULL)
        proc_abandon(take_ptr(x->proc));
    x->box = NULL;
    /* Close at once, also inside a callback: a process that ignores its end must not write into a void of ours. */
    exec_in_fini(&x->in);
    exec_out_fini(&x->out[0]);
    exec_out_fini(&x->out[1]);
    defer_stop(&x->kick);
    die(x);
    if (x->busy == 0)
        release(x);
}
