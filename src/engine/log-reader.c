/* Readers of a main process's log: engine_logs().
 *
 * A reader is always in one of these: a job of its own fetches the next chunk; its caller said "stop"; it waits for the
 * writer (followers), or for one writer's round before it begins; it is over. It lives on when the log object goes away
 * after the end of the sandbox: the files are all it needs. Loop thread only. */
#include "engine/log-internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fd.h"
#include "engine/given-fd.h"

struct log_reader {
    LIST_ENTRY(log_reader) link; /* while `log` is set */
    struct engine *en;
    struct box_log *log; /* NULL: the files are complete */
    const struct log_ops *ops;
    void *arg;
    char *dir;
    struct work work;
    struct log_fetch fetch;
    bool busy;     /* a job has `fetch` */
    bool paused;   /* until log_resume() */
    bool idle;     /* at the end of the files, waiting for the writer */
    bool complete; /* everything was fetched: the end is next */
    bool told_lost;
    bool lost_log; /* the log went away before its end */
    bool calling, dead;
    uint64_t start_round; /* begins once the log has done so many rounds, so that it sees what was written before */
    uint64_t partial_end; /* an unfinished line that ends there has been waited for */
    struct timer partial;
    struct defer kick;
};

static void go(struct log_reader *r);

static void unlink_log(struct log_reader *r)
{
    if (r->log == NULL)
        return;
    LIST_REMOVE(r, link);
    r->log->reader_count--;
    r->log = NULL;
}

static void release(struct log_reader *r)
{
    unlink_log(r);
    timer_stop(&r->partial);
    defer_stop(&r->kick);
    if (r->busy || r->calling) { /* freed by whoever has it */
        r->dead = true;
        return;
    }
    chunk_free(r->fetch.chunk);
    free(r->dir);
    free(r);
}

static void end(struct log_reader *r, const struct err *e)
{
    r->calling = true;
    r->ops->ended(r, e, r->arg);
    r->calling = false;
    release(r);
}

/* False when the caller wants no more now, or R is dead. */
static bool deliver(struct log_reader *r, struct chunk *c, uint64_t when)
{
    bool more;

    r->calling = true;
    more = r->ops->data(r, c, when, r->arg);
    r->calling = false;
    if (r->dead) {
        release(r);
        return false;
    }
    r->paused = !more;
    return more;
}

/* Output that the disk never took has no place in the files yet. False as deliver(). */
static bool tell_lost(struct log_reader *r)
{
    struct chunk *c;

    if (r->told_lost || r->log == NULL || r->log->lost == 0)
        return true;
    r->told_lost = true;
    c = chunk_new(256);
    if (c == NULL)
        return true;
    if (r->fetch.mid_line)
        c->data[c->off + c->len++] = '\n';
    c->len += log_lost_line((char *)c->data + c->off + c->len, c->cap - c->len, r->log->lost, r->log->lost_code);
    return deliver(r, c, clock_wall());
}

static void run_fetch(struct work *w)
{
    log_fetch(&container_of(w, struct log_reader, work)->fetch);
}

static void on_partial(struct timer *t)
{
    struct log_reader *r = container_of(t, struct log_reader, partial);

    if (r->busy || r->paused) {
        r->partial_end = 0; /* if it is still unfinished then, it is waited for once more */
        return;
    }
    r->fetch.partial = true;
    go(r);
}

/* At the end of what is there. */
static void wait_for_more(struct log_reader *r)
{
    /* It came while we read: more, the end, or even the end of the log object. */
    if (r->log == NULL || r->log->end > r->fetch.seen_end || r->log->ended) {
        go(r);
        return;
    }
    r->idle = true;
    if (r->fetch.partial_left && r->partial_end != r->fetch.seen_end && !timer_active(&r->partial)) {
        r->partial_end = r->fetch.seen_end;
        if (timer_start(r->en->loop, &r->partial, LOG_PARTIAL_MS * NSEC_PER_MSEC, on_partial) < 0)
            on_partial(&r->partial); /* no memory for a timer: rather early than never */
    }
}

static void proceed(struct log_reader *r)
{
    struct err e = {0};

    if (r->paused)
        return;
    if (r->lost_log) {
        (void)err_typed(&e, ERR_UNAVAILABLE, NULL, "the daemon is stopping");
        end(r, &e);
        return;
    }
    if (r->complete) {
        if (tell_lost(r))
            end(r, NULL);
        return;
    }
    if (r->fetch.at_end)
        wait_for_more(r);
    else
        go(r);
}

static void on_fetch(struct work *w)
{
    struct log_reader *r = container_of(w, struct log_reader, work);
    struct err e = {0};

    r->busy = false;
    if (r->dead) {
        release(r);
        return;
    }
    if (r->fetch.failed < 0) {
        (void)err_set(&e, r->fetch.failed, "read the log: %m");
        end(r, &e);
        return;
    }
    r->complete = r->fetch.at_end && r->fetch.final;
    r->fetch.partial = false;
    if (r->fetch.chunk != NULL && !deliver(r, take_ptr(r->fetch.chunk), r->fetch.when_ns))
        return;
    proceed(r);
}

/* Fetches the next chunk, unless something speaks against it. */
static void go(struct log_reader *r)
{
    struct err e = {0};

    if (r->busy || r->paused || r->complete)
        return;
    if (r->log != NULL && !r->log->finished && r->log->rounds < r->start_round) {
        r->idle = true;
        return;
    }
    r->idle = false;
    r->fetch.final = !r->fetch.follow || r->log == NULL || r->log->ended;
    if (work_submit(r->en->loop, &r->work, run_fetch, on_fetch) < 0) {
        (void)err_typed(&e, ERR_EXHAUSTED, NULL, "too many jobs are waiting; try again");
        end(r, &e);
        return;
    }
    r->busy = true;
}

static void on_kick(struct defer *d)
{
    struct log_reader *r = container_of(d, struct log_reader, kick);

    if (r->busy) /* it looks again when the job is done */
        return;
    if (!r->lost_log && (r->idle || !r->fetch.begun))
        go(r);
    else
        proceed(r);
}

void log_readers_wake(struct box_log *l)
{
    struct log_reader *r;

    /* Through defers: a caller may close any reader of L in its callback. */
    LIST_FOREACH (r, &l->readers, link) {
        if (r->idle && !r->kick.queued)
            defer_start(l->en->loop, &r->kick, on_kick);
    }
}

void log_readers_detach(struct box_log *l)
{
    struct log_reader *r;

    while ((r = LIST_FIRST(&l->readers)) != NULL) {
        r->lost_log = !l->ended;
        unlink_log(r);
        if (!r->busy && !r->paused)
            defer_start(r->en->loop, &r->kick, on_kick);
    }
}

/* ---- the caller's side ------------------------------------------------------------------------------------------------- */

static int may_follow(const struct box *b, struct err *e)
{
    if (b->log != NULL || box_state_ended(b->state))
        return 0;
    return err_typed(e, ERR_UNAVAILABLE, NULL,
                     "sandbox %s is still being created; its log can be followed once it runs", b->id);
}

int engine_logs(struct engine *en, const struct log_spec *spec, const struct log_ops *ops, void *arg,
                struct log_reader **ret, struct err *e)
{
    struct log_reader *r;
    struct box_log *l;
    struct box *b;
    int code;

    assert(ops->data != NULL && ops->ended != NULL);
    code = box_find(en, spec->tenant, spec->box, &b, e);
    if (code == 0 && spec->follow)
        code = may_follow(b, e);
    if (code < 0)
        return code;
    l = b->log;
    if (l != NULL && l->reader_count >= LOG_READERS_MAX)
        return err_typed(e, ERR_EXHAUSTED, NULL, "the log of sandbox %s has %u readers, which is the limit", b->id,
                         l->reader_count);

    r = calloc(1, sizeof *r);
    if (r == NULL)
        return err_set(e, ENOMEM, "out of memory");
    *r = (struct log_reader){.en = en, .ops = ops, .arg = arg, .dir = log_dir_path(en, b->id)};
    if (r->dir == NULL) {
        free(r);
        return err_set(e, ENOMEM, "out of memory");
    }
    r->fetch = (struct log_fetch){
        .dir = r->dir,
        .follow = spec->follow,
        .timestamps = spec->timestamps,
        .tail = spec->tail_lines,
        .since = spec->since_ns,
    };
    if (l != NULL && !l->ended) {
        r->log = l;
        LIST_INSERT_HEAD(&l->readers, r, link);
        l->reader_count++;
        /* What the process has written is seen, even if it is still in the pipe: a job under way may have passed it. */
        if (l->fd >= 0 && (l->busy || given_fd_pending(l->fd) > 0))
            r->start_round = l->rounds + (l->busy ? 2 : 1);
        if (l->busy && given_fd_pending(l->fd) == 0)
            r->start_round = l->rounds + 1;
    }
    defer_start(en->loop, &r->kick, on_kick);
    *ret = r;
    return 0;
}

void log_resume(struct log_reader *r)
{
    if (!r->paused || r->dead)
        return;
    r->paused = false;
    defer_start(r->en->loop, &r->kick, on_kick);
}

void log_close(struct log_reader *r)
{
    if (r == NULL || r->dead)
        return;
    release(r);
}
