/* Shared by loop.c, timer.c and work.c. */
#pragma once

#include <pthread.h>

#include "loop/loop.h"

TAILQ_HEAD(defer_list, defer);
STAILQ_HEAD(work_list, work);

struct work_pool {
    pthread_t threads[WORK_THREADS];
    unsigned started;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct work_list queue, finished;
    bool lane_busy[WORK_LANES];
    bool quit;
    unsigned queued;  /* under the lock */
    unsigned pending; /* submitted and not yet done; loop thread only */
    int event_fd;
    struct io io;
};

struct loop {
    int epoll_fd;
    bool stop;
    uint64_t now;
    uint32_t next_id;
    struct timer **heap;
    size_t heap_len, heap_cap;
    struct defer_list defers;
    struct work_pool *pool;
};

/* Nanoseconds until the first timer is due, 0 when one is, UINT64_MAX when there is none. */
uint64_t timers_wait(struct loop *loop);
void timers_run(struct loop *loop);
void work_pool_free(struct loop *loop);
