/* The pool for work that may block. Threads start with the first job, so that a process that never submits one (the
 * spawner) stays single-threaded. */
#include "loop/loop-internal.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/fd.h"

/* The first job whose lane is free, taken from the queue; NULL when there is none. Under the lock. */
static struct work *next_job(struct work_pool *p)
{
    struct work *w;

    STAILQ_FOREACH (w, &p->queue, link) {
        if (w->lane != 0 && p->lane_busy[w->lane])
            continue;
        STAILQ_REMOVE(&p->queue, w, work, link);
        if (w->lane != 0)
            p->lane_busy[w->lane] = true;
        p->queued--;
        return w;
    }
    return NULL;
}

static void *thread_main(void *arg)
{
    struct work_pool *p = arg;

    (void)pthread_mutex_lock(&p->lock);
    for (;;) {
        struct work *w = next_job(p);
        uint64_t one = 1;

        if (w == NULL) {
            if (p->quit)
                break;
            (void)pthread_cond_wait(&p->wake, &p->lock);
            continue;
        }
        (void)pthread_mutex_unlock(&p->lock);
        w->run(w);
        (void)pthread_mutex_lock(&p->lock);
        if (w->lane != 0) {
            p->lane_busy[w->lane] = false;
            (void)pthread_cond_signal(&p->wake); /* the next of this lane may wait */
        }
        STAILQ_INSERT_TAIL(&p->finished, w, link);
        (void)!write(p->event_fd, &one, sizeof one); /* fails only when it is readable already */
    }
    (void)pthread_mutex_unlock(&p->lock);
    return NULL;
}

static void jobs_finished(struct io *io, uint32_t events)
{
    struct work_pool *p = container_of(io, struct work_pool, io);
    struct work_list done = STAILQ_HEAD_INITIALIZER(done);
    uint64_t n;
    struct work *w;

    (void)events;
    (void)!read(p->event_fd, &n, sizeof n);
    (void)pthread_mutex_lock(&p->lock);
    STAILQ_CONCAT(&done, &p->finished);
    (void)pthread_mutex_unlock(&p->lock);
    while ((w = STAILQ_FIRST(&done)) != NULL) {
        STAILQ_REMOVE_HEAD(&done, link);
        p->pending--;
        w->done(w);
    }
}

static int pool_new(struct loop *loop)
{
    struct work_pool *p = calloc(1, sizeof *p);
    sigset_t all, old;

    if (p == NULL)
        return -ENOMEM;
    STAILQ_INIT(&p->queue);
    STAILQ_INIT(&p->finished);
    (void)pthread_mutex_init(&p->lock, NULL);
    (void)pthread_cond_init(&p->wake, NULL);
    p->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (p->event_fd < 0 || io_start(loop, &p->io, p->event_fd, EPOLLIN, jobs_finished) < 0) {
        fd_close(p->event_fd);
        free(p);
        return -EAGAIN;
    }
    loop->pool = p;
    sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old); /* signals belong to the loop thread */
    while (p->started < WORK_THREADS && pthread_create(&p->threads[p->started], NULL, thread_main, p) == 0)
        p->started++;
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (p->started == 0) {
        work_pool_free(loop);
        return -EAGAIN;
    }
    return 0;
}

int work_submit(struct loop *loop, struct work *w, void (*run)(struct work *w), void (*done)(struct work *w))
{
    struct work_pool *p;
    int r;

    if (loop->pool == NULL) {
        r = pool_new(loop);
        if (r < 0)
            return r;
    }
    p = loop->pool;
    w->loop = loop;
    w->run = run;
    w->done = done;
    (void)pthread_mutex_lock(&p->lock);
    if (p->queued >= WORK_QUEUE_MAX && w->lane == 0) {
        (void)pthread_mutex_unlock(&p->lock);
        return -EAGAIN;
    }
    p->queued++;
    STAILQ_INSERT_TAIL(&p->queue, w, link);
    (void)pthread_cond_signal(&p->wake);
    (void)pthread_mutex_unlock(&p->lock);
    p->pending++;
    return 0;
}

void work_pool_free(struct loop *loop)
{
    struct work_pool *p = loop->pool;

    if (p == NULL)
        return;
    (void)pthread_mutex_lock(&p->lock);
    p->quit = true;
    (void)pthread_cond_broadcast(&p->wake);
    (void)pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->started; i++)
        (void)pthread_join(p->threads[i], NULL);
    jobs_finished(&p->io, 0); /* DONE is called exactly once, also for the last ones */
    io_stop(&p->io);
    fd_close(p->event_fd);
    (void)pthread_mutex_destroy(&p->lock);
    (void)pthread_cond_destroy(&p->wake);
    free(p);
    loop->pool = NULL;
}
