/* The turn of the loop: wait, dispatch descriptors, run due timers, run deferred calls.
 *
 * A callback may free the source of an event that was fetched in the same epoll_wait. epoll's user data therefore is
 * not trusted alone: stopping a source during dispatch clears its pending event (see dispatch_clear). */
#include "loop/loop-internal.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"

enum { EVENTS_PER_TURN = 128 };

/* The events of the turn being dispatched; one loop per thread. */
static __thread struct epoll_event *turn;
static __thread int turn_len, turn_at;

int loop_new(struct loop **ret_loop, struct err *e)
{
    struct loop *loop = calloc(1, sizeof *loop);

    if (loop == NULL)
        return err_set(e, ENOMEM, "event loop: %m");
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->epoll_fd < 0) {
        int code = errno;

        free(loop);
        return err_set(e, code, "epoll_create1: %m");
    }
    TAILQ_INIT(&loop->defers);
    loop->now = clock_mono();
    *ret_loop = loop;
    return 0;
}

void loop_free(struct loop *loop)
{
    if (loop == NULL)
        return;
    work_pool_free(loop);
    fd_close(loop->epoll_fd);
    free(loop->heap);
    free(loop);
}

uint64_t loop_now(const struct loop *loop)
{
    return loop->now;
}

void loop_stop(struct loop *loop)
{
    loop->stop = true;
}

static void run_defers(struct loop *loop)
{
    struct defer mark = {.queued = true}, *d;

    if (TAILQ_EMPTY(&loop->defers))
        return;
    /* What a deferred call defers runs in the next turn, so that descriptors are not starved: the mark ends this one. */
    TAILQ_INSERT_TAIL(&loop->defers, &mark, link);
    while ((d = TAILQ_FIRST(&loop->defers)) != &mark) {
        TAILQ_REMOVE(&loop->defers, d, link);
        d->queued = false;
        d->cb(d);
    }
    TAILQ_REMOVE(&loop->defers, &mark, link);
}

static int wait_ms(struct loop *loop)
{
    uint64_t ns;

    if (!TAILQ_EMPTY(&loop->defers))
        return 0;
    ns = timers_wait(loop);
    if (ns == UINT64_MAX)
        return -1;
    /* Rounded up: waking early would only spin. */
    ns = (ns + NSEC_PER_MSEC - 1) / NSEC_PER_MSEC;
    return ns > 3600000 ? 3600000 : (int)ns;
}

int loop_run(struct loop *loop)
{
    struct epoll_event events[EVENTS_PER_TURN];

    loop->stop = false;
    while (!loop->stop) {
        int n = epoll_wait(loop->epoll_fd, events, EVENTS_PER_TURN, wait_ms(loop));

        if (n < 0 && errno != EINTR)
            return -errno;
        loop->now = clock_mono();
        turn = events;
        turn_len = n > 0 ? n : 0;
        for (turn_at = 0; turn_at < turn_len; turn_at++) {
            struct io *io = events[turn_at].data.ptr;

            if (io != NULL)
                io->cb(io, events[turn_at].events);
        }
        turn = NULL;
        timers_run(loop);
        run_defers(loop);
    }
    return 0;
}

static void dispatch_clear(const struct io *io)
{
    for (int i = turn_at + 1; turn != NULL && i < turn_len; i++) {
        if (turn[i].data.ptr == io)
            turn[i].data.ptr = NULL;
    }
}

int io_start(struct loop *loop, struct io *io, int fd, uint32_t events, void (*cb)(struct io *io, uint32_t events))
{
    struct epoll_event ev = {.events = events, .data.ptr = io};

    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0)
        return -errno;
    io->loop = loop;
    io->fd = fd;
    io->events = events;
    io->cb = cb;
    io->active = true;
    return 0;
}

int io_set(struct io *io, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = io};

    if (!io->active)
        return -EBADF;
    if (io->events == events)
        return 0;
    if (epoll_ctl(io->loop->epoll_fd, EPOLL_CTL_MOD, io->fd, &ev) < 0)
        return -errno;
    io->events = events;
    return 0;
}

void io_stop(struct io *io)
{
    if (!io->active)
        return;
    io->active = false;
    (void)epoll_ctl(io->loop->epoll_fd, EPOLL_CTL_DEL, io->fd, NULL); /* the fd is valid by contract */
    dispatch_clear(io);
}

void defer_start(struct loop *loop, struct defer *d, void (*cb)(struct defer *d))
{
    d->loop = loop;
    d->cb = cb;
    if (d->queued)
        return;
    d->queued = true;
    TAILQ_INSERT_TAIL(&loop->defers, d, link);
}

void defer_stop(struct defer *d)
{
    if (!d->queued)
        return;
    d->queued = false;
    TAILQ_REMOVE(&d->loop->defers, d, link);
}

static void sig_ready(struct io *io, uint32_t events)
{
    struct sig *s = container_of(io, struct sig, io);
    struct signalfd_siginfo si;

    (void)events;
    while (io->active && read(io->fd, &si, sizeof si) == (ssize_t)sizeof si)
        s->cb(s, (int)si.ssi_signo);
}

int sig_start(struct loop *loop, struct sig *s, const int *signos, unsigned count, void (*cb)(struct sig *s, int signo))
{
    sigset_t set;
    int fd, r;

    sigemptyset(&set);
    for (unsigned i = 0; i < count; i++)
        sigaddset(&set, signos[i]);
    fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        return -errno;
    s->cb = cb;
    r = io_start(loop, &s->io, fd, EPOLLIN, sig_ready);
    if (r < 0)
        fd_close(fd);
    return r;
}

void sig_stop(struct sig *s)
{
    if (!s->io.active)
        return;
    io_stop(&s->io);
    fd_close(s->io.fd);
    s->io.fd = -1;
}
