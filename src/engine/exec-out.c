/* The output of a foreground process: pipe or terminal -> chunks.
 *
 * One read is one chunk and is handed over at once: people watch programs write. Only the first bytes of a character that is
 * cut off wait for the rest, and not for long, since they may as well be binary data of a program that expects an answer.
 * A caller that says "stop" stops the reading, so the pipe fills and the process waits: nothing is buffered here. */
#include "engine/exec-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/clock.h"
#include "base/fd.h"
#include "engine/given-fd.h"
#include "engine/utf8.h"

void exec_out_init(struct exec *x, int stream)
{
    x->out[stream - 1] = (struct exec_out){.exec = x, .stream = stream, .fd = -1};
}

static void on_readable(struct io *io, uint32_t events)
{
    struct exec_out *o = container_of(io, struct exec_out, io);
    struct exec *x = o->exec;

    (void)events;
    exec_enter(x);
    exec_out_read(o);
    exec_check_end(x);
    exec_leave(x);
}

int exec_out_start(struct exec_out *o, int fd, bool pty)
{
    int r = given_fd_prepare(fd);

    o->fd = fd;
    o->pty = pty;
    return r < 0 ? r : exec_out_continue(o);
}

/* Not io_set(0): a hang-up would be reported again and again while nobody reads. */
void exec_out_pause(struct exec_out *o)
{
    io_stop(&o->io);
}

int exec_out_continue(struct exec_out *o)
{
    if (o->fd < 0 || o->io.active)
        return 0;
    return io_start(o->exec->en->loop, &o->io, o->fd, EPOLLIN, on_readable);
}

void exec_out_fini(struct exec_out *o)
{
    io_stop(&o->io);
    timer_stop(&o->hold);
    fd_close(o->fd);
    o->fd = -1;
}

void exec_deliver(struct exec *x, int stream, struct chunk *c)
{
    if (x->ops->output(x, stream, c, x->arg) || x->dead)
        return;
    x->paused = true;
    exec_out_pause(&x->out[0]);
    exec_out_pause(&x->out[1]);
}

static void lose_output(struct exec *x)
{
    /* Not in silence: the process ends, and its caller is told that it failed whatever its exit code is (exec_check_end). */
    x->torn = true;
    if (x->proc != NULL)
        (void)proc_kill(x->proc, 9, true, NULL); /* fails only with the link, which ends the exec too */
}

/* The held bytes, as they are. */
static void deliver_held(struct exec_out *o)
{
    struct chunk *c;

    timer_stop(&o->hold);
    if (o->held_len == 0)
        return;
    c = chunk_new(o->held_len);
    if (c == NULL) {
        o->held_len = 0;
        lose_output(o->exec);
        return;
    }
    memcpy(c->data + c->off, o->held, o->held_len);
    c->len = o->held_len;
    o->held_len = 0;
    exec_deliver(o->exec, o->stream, c);
}

static void on_hold(struct timer *t)
{
    struct exec_out *o = container_of(t, struct exec_out, hold);
    struct exec *x = o->exec;

    if (x->paused) /* they come with the next read */
        return;
    exec_enter(x);
    deliver_held(o);
    exec_leave(x);
}

static void finish_stream(struct exec_out *o)
{
    deliver_held(o);
    exec_out_fini(o);
}

/* LEN bytes in C, of which *SCRATCH is taken when they fill it well; else they are copied into their size. */
static void deliver_read(struct exec_out *o, struct chunk **scratch, size_t len)
{
    struct chunk *c = *scratch, *small;

    c->len = len;
    if (len <= EXEC_COPY_MAX && (small = chunk_new(len)) != NULL) {
        memcpy(small->data + small->off, c->data + c->off, len);
        small->len = len;
        c = small;
    } else {
        *scratch = NULL;
    }
    exec_deliver(o->exec, o->stream, c);
}

static void enlarge(struct exec_out *o)
{
    if (o->enlarged || o->pty)
        return;
    o->enlarged = true;
    (void)fcntl(o->fd, F_SETPIPE_SZ, EXEC_PIPE_SIZE); /* above the user's share it stays as it is: slower, not wrong */
}

/* One read. False when there is no more to do now. */
static bool read_once(struct exec_out *o, struct chunk **scratch)
{
    struct exec *x = o->exec;
    size_t want = EXEC_READ_SIZE, len, cut;
    struct chunk *c = *scratch;
    ssize_t n;

    if (x->over && o->left < want)
        want = o->left;
    if (want == 0) {
        finish_stream(o);
        return false;
    }
    if (c == NULL) {
        c = *scratch = chunk_new(sizeof o->held + EXEC_READ_SIZE);
        if (c == NULL) {
            lose_output(x);
            exec_out_fini(o);
            return false;
        }
    }

    n = given_fd_read(o->fd, o->pty, c->data + c->off + o->held_len, want);
    if (n == -EAGAIN && !x->over)
        return false;
    if (n < 0 && n != -EAGAIN) /* no fault of the process's, and nothing is known of what it wrote */
        lose_output(x);
    if (n <= 0) {
        finish_stream(o);
        return false;
    }
    o->bytes += (size_t)n;
    if (x->over)
        o->left -= (size_t)n;
    else if ((size_t)n == want)
        enlarge(o);

    timer_stop(&o->hold);
    memcpy(c->data + c->off, o->held, o->held_len);
    len = o->held_len + (size_t)n;
    cut = x->over && o->left == 0 ? 0 : utf8_cut(c->data + c->off, len);
    memcpy(o->held, c->data + c->off + len - cut, cut);
    o->held_len = (unsigned)cut;
    if (len > cut)
        deliver_read(o, scratch, len - cut);
    return true;
}

void exec_out_read(struct exec_out *o)
{
    struct exec *x = o->exec;
    struct chunk *scratch = NULL;

    for (unsigned i = 0; i < EXEC_READS_PER_TURN; i++) {
        if (o->fd < 0 || x->paused || x->dead || !read_once(o, &scratch))
            break;
    }
    chunk_free(scratch);
    if (x->dead)
        return;
    if (o->fd >= 0 && x->over && o->left == 0 && o->held_len == 0)
        exec_out_fini(o);
    if (o->fd >= 0 && o->held_len > 0 && !timer_active(&o->hold) &&
        timer_start(x->en->loop, &o->hold, EXEC_HOLD_MS * NSEC_PER_MSEC, on_hold) < 0 && !x->paused)
        deliver_held(o); /* no memory for a timer: rather cut than late */
}

void exec_out_last(struct exec_out *o)
{
    if (o->fd >= 0)
        o->left = o->pty ? EXEC_DRAIN_PTY : given_fd_pending(o->fd);
}
