/* The event loop: epoll, timers, deferred calls, signals, and a pool for work that may block.
 *
 * One loop per process, one thread. Sources are embedded in their owners; starting and stopping never allocates.
 * A callback may stop or free any source, its own included: events already fetched for a stopped source are dropped.
 * Nothing on the loop blocks or sleeps; what could block goes to work_submit(). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "base/err.h"

struct loop;

int loop_new(struct loop **ret_loop, struct err *e);
/* Waits for pool threads to finish what they run; all sources must be stopped. NULL is fine. */
void loop_free(struct loop *loop);
/* Runs until loop_stop(). Returns 0 or a negative errno of epoll_wait. */
int loop_run(struct loop *loop);
void loop_stop(struct loop *loop);
/* CLOCK_MONOTONIC nanoseconds, read once per turn. */
uint64_t loop_now(const struct loop *loop);

/* File descriptors. EVENTS: EPOLLIN, EPOLLOUT, EPOLLRDHUP; level-triggered. ERR and HUP always arrive. The fd stays the
 * owner's and must be stopped before it is closed. */
struct io {
    struct loop *loop;
    int fd;
    uint32_t events;
    uint32_t id; /* private */
    bool active;
    void (*cb)(struct io *io, uint32_t events);
};
int io_start(struct loop *loop, struct io *io, int fd, uint32_t events, void (*cb)(struct io *io, uint32_t events));
/* No system call when nothing changes. EVENTS may be 0 (only ERR and HUP arrive). */
int io_set(struct io *io, uint32_t events);
/* Fine on a stopped or zeroed source. */
void io_stop(struct io *io);

/* Timers: one-shot, a binary heap; the deadline is CLOCK_MONOTONIC nanoseconds. */
struct timer {
    struct loop *loop;
    uint64_t due;
    size_t slot; /* private: heap index + 1, 0 = stopped */
    void (*cb)(struct timer *t);
};
/* Restarts a running timer. NS from now; 0 = next turn. Returns 0 or -ENOMEM. */
int timer_start(struct loop *loop, struct timer *t, uint64_t ns, void (*cb)(struct timer *t));
void timer_stop(struct timer *t);
static inline bool timer_active(const struct timer *t)
{
    return t->slot != 0;
}

/* Deferred calls: run once at the end of the current turn, in order. */
struct defer {
    TAILQ_ENTRY(defer) link;
    struct loop *loop;
    bool queued;
    void (*cb)(struct defer *d);
};
void defer_start(struct loop *loop, struct defer *d, void (*cb)(struct defer *d));
void defer_stop(struct defer *d);

/* Blocking work: RUN on a pool thread, then DONE on the loop. A cancelled job may still run, but DONE is called
 * anyway, always exactly once: free the job there. */
enum { WORK_THREADS = 3, WORK_QUEUE_MAX = 65536 };
struct work {
    STAILQ_ENTRY(work) link;
    struct loop *loop;
    void (*run)(struct work *w);
    void (*done)(struct work *w);
    unsigned lane; /* jobs of one lane (0 = none) run one after the other in order of submission */
};
enum { WORK_LANE_DB = 1, WORK_LANES = 2 };
/* Returns 0, or -EAGAIN when WORK_QUEUE_MAX jobs wait (DONE is not called then). A lane is not refused: who has it hands in
 * one job at a time, and nobody would remind it of a refused one. */
int work_submit(struct loop *loop, struct work *w, void (*run)(struct work *w), void (*done)(struct work *w));

/* Signals by signalfd. The caller has blocked them already. */
struct sig {
    struct io io;
    void (*cb)(struct sig *s, int signo);
};
int sig_start(struct loop *loop, struct sig *s, const int *signos, unsigned count,
              void (*cb)(struct sig *s, int signo));
void sig_stop(struct sig *s);
