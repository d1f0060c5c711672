/* Callers who wait for a sandbox: create, stop, remove.
 *
 * A waiter is told at the end of the turn in which its condition came true, so that a dialect is never called back from
 * within its own call. It is told once and freed; a dropped one is freed without a word. */
#include "engine/box-internal.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/fd.h"

static struct waiter_list *home_of(struct waiter *w)
{
    return w->box != NULL ? &w->box->waiters : &w->en->waiters;
}

static void waiter_free(struct waiter *w)
{
    TAILQ_REMOVE(home_of(w), w, link);
    timer_stop(&w->hold);
    defer_stop(&w->fire);
    free(w);
}

struct waiter *waiter_new(struct engine *en, struct box *b, enum waiter_kind kind, box_cb cb, void *arg)
{
    struct waiter *w = calloc(1, sizeof *w);

    if (w == NULL)
        return NULL;
    w->en = en;
    w->box = b;
    w->kind = kind;
    w->cb = cb;
    w->arg = arg;
    w->need = b != NULL ? b->write_seq : 0;
    TAILQ_INSERT_TAIL(home_of(w), w, link);
    return w;
}

/* Tells W now; E NULL: the record. */
static void tell(struct waiter *w, const struct err *e)
{
    struct box_info info;
    box_cb cb = w->op.dropped ? NULL : w->cb;
    void *arg = w->arg;
    struct err copy;
    struct box *b = w->box;

    if (w->failed)
        e = &w->err;
    if (e != NULL)
        copy = *e;
    waiter_free(w); /* before the call: the callee may ask for the next thing, or stop the engine */
    if (cb == NULL)
        return;
    if (e != NULL) {
        cb(arg, &copy, NULL);
        return;
    }
    box_fill_info(b, &info);
    cb(arg, NULL, &info);
}

static void fire(struct defer *d)
{
    tell(container_of(d, struct waiter, fire), NULL);
}

static bool due(const struct waiter *w)
{
    const struct box *b = w->box;

    if (w->failed)
        return true;
    if (b == NULL || b->committed_seq < w->need)
        return false;
    switch (w->kind) {
    case WAIT_CREATE:
        return b->state != BOX_CREATING || w->held;
    case WAIT_STOP:
        return box_state_ended(b->state) || w->held;
    case WAIT_REMOVE: /* told when the record is gone */
    case WAIT_NOTHING:
        break;
    }
    return false;
}

static void check(struct waiter *w)
{
    if (!w->fire.queued && due(w))
        defer_start(w->en->loop, &w->fire, fire);
}

void waiters_check(struct box *b)
{
    struct waiter *w;

    TAILQ_FOREACH (w, &b->waiters, link)
        check(w);
}

static void held(struct timer *t)
{
    struct waiter *w = container_of(t, struct waiter, hold);

    w->held = true;
    check(w);
}

void waiter_hold(struct waiter *w, unsigned ms)
{
    if (timer_start(w->en->loop, &w->hold, ms * NSEC_PER_MSEC, held) < 0)
        w->held = true; /* without a timer: answer as soon as the record is durable */
    check(w);
}

void waiter_fail(struct waiter *w, const struct err *e)
{
    w->failed = true;
    w->err = *e;
    check(w);
}

void waiters_write_failed(struct box *b, uint64_t seq, const struct err *e)
{
    struct waiter *w;

    TAILQ_FOREACH (w, &b->waiters, link)
        if (w->need == seq && w->kind != WAIT_REMOVE)
            waiter_fail(w, e);
}

void waiters_flush(struct box *b, const struct err *e)
{
    struct waiter *w;

    while ((w = TAILQ_FIRST(&b->waiters)) != NULL)
        tell(w, e);
}

void waiters_fail_all(struct engine *en, const struct err *e)
{
    struct waiter *w;
    struct box *b;

    TAILQ_FOREACH (b, &en->by_id, by_id)
        TAILQ_FOREACH (w, &b->waiters, link)
            waiter_fail(w, e);
    TAILQ_FOREACH (w, &en->waiters, link)
        waiter_fail(w, e);
}

void waiters_drop(struct waiter_list *list)
{
    struct waiter *w;

    while ((w = TAILQ_FIRST(list)) != NULL) {
        TAILQ_REMOVE(list, w, link);
        timer_stop(&w->hold);
        defer_stop(&w->fire);
        free(w);
    }
}
