/* The log of a main process: its pipe is moved into files.
 *
 * Bytes go from the pipe to the page cache by splice(2) and never through our memory. The copying itself is short, but a file
 * system that writes back may hold up any write, so each batch is a job of the pool (one in flight for a log): the loop
 * only sees that the pipe is readable. A job costs some 40 us around the copy; a process that writes more meanwhile is moved up
 * to 1 MiB at a time. No file is held open in between: an idle sandbox costs its pipe and nothing else.
 *
 * A log that nobody writes to has no files at all. */
#include "engine/log-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "engine/given-fd.h"

char *log_dir_path(const struct engine *en, const char *id)
{
    char *path;

    return asprintf(&path, "%s/logs/%s", en->config.state_dir, id) < 0 ? NULL : path;
}

static void release(struct box_log *l)
{
    io_stop(&l->io);
    timer_stop(&l->retry);
    defer_stop(&l->later);
    fd_close(l->fd);
    free(l->dir);
    free(l);
}

static void submit(struct box_log *l, size_t limit);
static void finish_step(struct box_log *l);

static void on_readable(struct io *io, uint32_t events)
{
    struct box_log *l = container_of(io, struct box_log, io);

    if (given_fd_pending(l->fd) == 0) { /* an end without a word makes no files */
        if ((events & EPOLLHUP) != 0) {
            io_stop(&l->io);
            fd_close(take_fd(&l->fd));
        }
        return;
    }
    io_stop(&l->io);
    submit(l, LOG_BATCH_MAX);
}

/* Waits for bytes. */
static void watch(struct box_log *l)
{
    if (l->fd < 0 || l->busy || io_start(l->en->loop, &l->io, l->fd, EPOLLIN, on_readable) == 0)
        return;
    log_error(l->box->id, "the output of the main process cannot be watched: %s", strerror(errno));
    fd_close(take_fd(&l->fd));
}

static void finished(struct box_log *l)
{
    void (*done)(struct box * b) = l->done;

    l->finished = true;
    fd_close(take_fd(&l->fd));
    log_readers_wake(l); /* there may be more to read; that it was the last comes with box_log_ended() */
    l->done = NULL;
    if (done != NULL)
        done(l->box); /* may free L */
}

static void run_batch(struct work *w)
{
    struct box_log *l = container_of(w, struct box_log, work);

    log_write(&l->writer, l->fd, l->limit, &l->batch);
}

static void report_loss(struct box_log *l)
{
    if (l->writer.lost > 0 && l->lost == 0)
        log_error(l->box->id, "output of the main process is being lost: %s", strerror(l->writer.lost_code));
    l->lost = l->writer.lost;
    l->lost_code = l->writer.lost_code;
}

static void on_batch(struct work *w)
{
    struct box_log *l = container_of(w, struct box_log, work);

    l->busy = false;
    if (l->dead) {
        release(l);
        return;
    }
    l->rounds++;
    l->end = l->writer.start + l->writer.size;
    report_loss(l);
    if (l->batch.eof)
        fd_close(take_fd(&l->fd));
    else if (l->batch.moved >= LOG_PIPE_SIZE / 4 && !l->enlarged) {
        l->enlarged = true;
        (void)fcntl(l->fd, F_SETPIPE_SZ,
                    LOG_PIPE_SIZE); /* above the user's share it stays as it is: slower, not wrong */
    }
    if (l->finishing && (l->draining || l->fd < 0)) {
        finished(l);
        return;
    }
    log_readers_wake(l);
    if (l->finishing)
        finish_step(l);
    else
        watch(l);
}

static void on_retry(struct timer *t)
{
    struct box_log *l = container_of(t, struct box_log, retry);

    submit(l, l->limit);
}

static void submit(struct box_log *l, size_t limit)
{
    l->limit = limit;
    if (work_submit(l->en->loop, &l->work, run_batch, on_batch) == 0) {
        l->busy = true;
        return;
    }
    if (timer_start(l->en->loop, &l->retry, LOG_RETRY_MS * NSEC_PER_MSEC, on_retry) < 0)
        watch(l); /* no memory either: the pipe reminds us */
}

/* What is in the pipe now is the rest; a background child of main may keep it open and full for ever. */
static void finish_step(struct box_log *l)
{
    size_t left = l->fd >= 0 ? given_fd_pending(l->fd) : 0;

    io_stop(&l->io);
    timer_stop(&l->retry);
    if (left == 0) {
        finished(l);
        return;
    }
    l->draining = true;
    submit(l, left);
}

static void on_finish(struct defer *d)
{
    struct box_log *l = container_of(d, struct box_log, later);

    if (l->finished)
        finished(l);
    else if (!l->busy)
        finish_step(l);
}

int box_log_open(struct box *b, int out_fd, struct box_log **ret, struct err *e)
{
    uint64_t total = b->en->config.log_max_bytes, seg = total / LOG_SEGMENTS_KEPT;
    AUTO_FD fd = out_fd;
    struct box_log *l;
    int r;

    if (fd >= 0) {
        r = given_fd_prepare(fd);
        if (r < 0)
            return err_set(e, r, "the output of the main process: %m");
    }
    l = calloc(1, sizeof *l);
    if (l == NULL)
        return err_set(e, ENOMEM, "out of memory");
    *l = (struct box_log){.box = b, .en = b->en, .fd = -1, .dir = log_dir_path(b->en, b->id)};
    LIST_INIT(&l->readers);
    if (l->dir == NULL) {
        release(l);
        return err_set(e, ENOMEM, "out of memory");
    }
    l->writer = (struct log_writer){
        .dir = l->dir,
        .total_max = total,
        .seg_max = seg > LOG_SEGMENT_MAX   ? LOG_SEGMENT_MAX
                   : seg < LOG_SEGMENT_MIN ? LOG_SEGMENT_MIN
                                           : seg,
    };
    if (fd >= 0) {
        r = io_start(b->en->loop, &l->io, fd, EPOLLIN, on_readable);
        if (r < 0) {
            release(l);
            return err_set(e, r, "watch the output of the main process: %m");
        }
    } else {
        l->finished = true;
    }
    l->fd = take_fd(&fd);
    *ret = l;
    return 0;
}

void box_log_finish(struct box_log *l, void (*done)(struct box *b))
{
    l->done = done;
    if (!l->finishing) {
        l->finishing = true;
        timer_stop(&l->retry);
    }
    defer_start(l->en->loop, &l->later, on_finish);
}

void box_log_ended(struct box_log *l)
{
    if (l == NULL)
        return;
    l->ended = true;
    log_readers_wake(l);
}

void box_log_free(struct box_log *l)
{
    if (l == NULL)
        return;
    l->done = NULL;
    log_readers_detach(l);
    if (l->busy) { /* the job has the pipe and the files; it comes back */
        l->dead = true;
        defer_stop(&l->later);
        timer_stop(&l->retry);
        return;
    }
    release(l);
}

/* ---- removal ----------------------------------------------------------------------------------------------------------- */

struct removal {
    struct work work;
    char *dir;
};

static void run_removal(struct work *w)
{
    struct removal *m = container_of(w, struct removal, work);
    int r = log_dir_remove(m->dir);

    if (r < 0)
        log_warn(NULL, "the log directory %s cannot be removed: %s", m->dir, strerror(-r));
}

static void on_removed(struct work *w)
{
    struct removal *m = container_of(w, struct removal, work);

    free(m->dir);
    free(m);
}

int box_log_remove(struct engine *en, const char *id)
{
    struct removal *m = calloc(1, sizeof *m);
    int r = -ENOMEM;

    if (m == NULL)
        return r;
    m->dir = log_dir_path(en, id);
    if (m->dir != NULL)
        r = work_submit(en->loop, &m->work, run_removal, on_removed);
    if (r < 0)
        on_removed(&m->work);
    return r;
}
