/* The input of a foreground process: a queue in front of its pipe or terminal.
 *
 * The descriptor is watched only while something waits. A process that closed its input, or has ended, swallows the rest in
 * silence, as a shell's pipe would with SIGPIPE ignored. Loop thread only. */
#include "engine/exec-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <termios.h>

#include "base/fd.h"
#include "engine/given-fd.h"

enum { EOF_CHAR = 4 /* ^D, when the terminal has none set */, EXEC_BUSY_INPUT = 64 << 10 };

void exec_in_init(struct exec_in *in)
{
    *in = (struct exec_in){.fd = -1};
    STAILQ_INIT(&in->blocks);
}

static void drop_queue(struct exec_in *in)
{
    struct exec_block *k;

    while ((k = STAILQ_FIRST(&in->blocks)) != NULL) {
        STAILQ_REMOVE_HEAD(&in->blocks, link);
        free(k);
    }
    in->queued = 0;
}

void exec_in_fini(struct exec_in *in)
{
    io_stop(&in->io);
    drop_queue(in);
    fd_close(in->fd);
    in->fd = -1;
    in->wanted = false;
}

static void tell_drained(struct exec *x)
{
    if (!x->in.full || x->in.queued > EXEC_STDIN_HIGH / 2)
        return;
    x->in.full = false;
    if (x->ops->stdin_drained != NULL)
        x->ops->stdin_drained(x, x->arg);
}

static bool append(struct exec_in *in, const void *data, size_t len)
{
    struct exec_block *k = malloc(sizeof *k + len);

    if (k == NULL)
        return false;
    k->off = 0;
    k->len = len;
    memcpy(k->data, data, len);
    STAILQ_INSERT_TAIL(&in->blocks, k, link);
    in->queued += len;
    return true;
}

/* In canonical mode an EOF character ends the line that is being typed, and only a second one, on an empty line, is an end of
 * file; a program in raw mode gets it as a key, once. */
static void queue_eof(struct exec_in *in)
{
    struct termios t;
    uint8_t keys[2];
    bool known = tcgetattr(in->fd, &t) == 0;

    keys[0] = keys[1] = known && t.c_cc[VEOF] != _POSIX_VDISABLE ? t.c_cc[VEOF] : EOF_CHAR;
    (void)append(in, keys,
                 in->mid_line && known && (t.c_lflag & ICANON) != 0 ? 2
                                                                    : 1); /* no memory: the caller can close again */
}

static void close_now(struct exec_in *in)
{
    if (in->pty && in->wanted) {
        in->wanted = false;
        queue_eof(in);
        if (in->queued > 0)
            return; /* flushed like input; then it comes here again */
    }
    exec_in_fini(in);
}

static void on_writable(struct io *io, uint32_t events);

/* Writes what is queued; false when the process does not take any more. */
static bool flush(struct exec *x)
{
    struct exec_in *in = &x->in;
    struct exec_block *k;
    ssize_t n;

    while ((k = STAILQ_FIRST(&in->blocks)) != NULL) {
        n = given_fd_write(in->fd, in->pty, k->data + k->off, k->len);
        if (n == -EAGAIN || n == 0)
            return in->io.active || io_start(x->en->loop, &in->io, in->fd, EPOLLOUT, on_writable) == 0;
        if (n < 0)
            return false;
        k->off += (size_t)n;
        k->len -= (size_t)n;
        in->queued -= (size_t)n;
        if (k->len == 0) {
            STAILQ_REMOVE_HEAD(&in->blocks, link);
            free(k);
        }
    }
    io_stop(&in->io);
    return true;
}

static void progress(struct exec *x)
{
    struct exec_in *in = &x->in;

    if (in->fd < 0)
        return;
    if (!flush(x))
        exec_in_fini(in);
    else if (in->queued == 0 && in->closing)
        close_now(in);
    if (in->fd >= 0 && in->queued > 0 && !in->io.active && !flush(x)) /* the EOF character that was just queued */
        exec_in_fini(in);
}

static void on_writable(struct io *io, uint32_t events)
{
    struct exec *x = container_of(container_of(io, struct exec_in, io), struct exec, in);

    (void)events; /* an error is what the write says */
    exec_enter(x);
    progress(x);
    tell_drained(x);
    exec_leave(x);
}

void exec_in_start(struct exec *x, int fd, bool pty)
{
    x->in.fd = fd;
    x->in.pty = pty;
    if (fd < 0 || given_fd_prepare(fd) < 0)
        exec_in_fini(&x->in);
    else
        progress(x);
    tell_drained(x);
}

bool exec_write(struct exec *x, const void *data, size_t len)
{
    struct exec_in *in = &x->in;
    const uint8_t *at = data;
    ssize_t n = 0;

    if (!in->wanted || in->closing || len == 0)
        return true;
    in->mid_line = at[len - 1] != '\n';
    if (in->fd >= 0 && in->queued == 0) {
        n = given_fd_write(in->fd, in->pty, at, len);
        if (n < 0 && n != -EAGAIN) {
            exec_in_fini(in);
            return true;
        }
        if (n < 0)
            n = 0;
    }
    if ((size_t)n == len)
        return true;

    if (!in->enlarged && !in->pty && in->fd >= 0 && len >= EXEC_BUSY_INPUT) {
        in->enlarged = true;
        (void)fcntl(in->fd, F_SETPIPE_SZ, EXEC_PIPE_SIZE); /* as for output */
    }
    if (!append(in, at + n, len - (size_t)n)) {
        /* A hole in the input would be worse than an end that everybody sees. */
        if (x->proc != NULL)
            (void)proc_kill(x->proc, 9, true, NULL); /* fails only with the link, which ends the exec too */
        exec_in_fini(in);
        return true;
    }
    if (in->fd >= 0 && !flush(x))
        exec_in_fini(in);
    in->full = in->queued > EXEC_STDIN_HIGH;
    return !in->full;
}

void exec_close_stdin(struct exec *x)
{
    if (!x->in.wanted || x->in.closing)
        return;
    x->in.closing = true;
    if (x->in.queued == 0)
        progress(x);
}
