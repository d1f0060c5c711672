/* The end of a sandbox.
 *
 * Main's end (or a failure) is turned into a state and a reason; the log is drained; the record is committed; then everybody
 * sees it, and only then is what is left killed: init still knows main's exit until that moment, so a crash of ours before
 * the commit loses nothing. A kill that comes first (a stop whose grace is over, a lost init) is recorded at SP_GONE. */
#include "engine/box-internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"

static void shown(struct box *b);
static void settle(struct box *b);

/* ---- the record ------------------------------------------------------------------------------------------------- */

/* Nobody finds it by its request any more. */
static void drop_request_key(struct box *b)
{
    if (b->request_key == NULL)
        return;
    HASH_DELETE(hh_request, b->en->by_request, b);
    free(take_ptr(b->request_key));
}

/* The first write failed: the sandbox goes, and nobody will have seen it. */
static void vanish(struct box *b, const struct err *e)
{
    log_error(b->id, "the sandbox cannot be recorded and is taken back: %s", e->msg);
    b->unrecorded = true;
    b->removing = true;
    b->usable = false;
    drop_request_key(b);
    timer_stop(&b->grace);
    timer_stop(&b->lifetime);
    b->end = BOX_END_SHOWN;
    box_set_state(b, BOX_FAILED);
    box_kill(b);
    settle(b);
}

static void written(void *arg, const struct err *e)
{
    struct box *b = arg;

    b->committed_seq++;
    if (e != NULL) {
        waiters_write_failed(b, b->committed_seq, e);
        if (b->committed_seq == 1 && !b->unrecorded) {
            vanish(b, e);
            return;
        }
        if (!b->unrecorded)
            log_error(b->id, "%s", e->msg);
    }
    waiters_check(b); /* the record may have been the last thing they waited for */
    if (b->end == BOX_END_RECORDING && b->committed_seq >= b->end_seq)
        shown(b);
    else
        settle(b);
    /* B may be gone */
}

int box_write(struct box *b)
{
    bool first = b->write_seq == 0;
    int r;

    r = first ? store_put_box(b->en->store, b->rec, written, b) : store_update_box(b->en->store, b->rec, written, b);
    if (r == 0)
        b->write_seq++;
    else
        log_error(b->id, "recording the sandbox: %s", r == -EAGAIN ? "too many writes are waiting" : "out of memory");
    return r;
}

int box_set_reason(struct box *b, const char *reason)
{
    char *copy = strdup(reason != NULL ? reason : "");

    if (copy == NULL)
        return -ENOMEM;
    for (char *p = copy; *p != '\0'; p++) {
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            *p = '?'; /* it quotes names that images and callers chose, and is shown as one line */
    }
    free(b->rec->reason);
    b->rec->reason = copy;
    return 0;
}

/* ---- the end becomes known -------------------------------------------------------------------------------------- */

static void drained(struct box *b)
{
    if (b->end != BOX_END_DRAINING)
        return;
    b->end = BOX_END_RECORDING;
    (void)box_write(b); /* refused: the end is shown all the same, and made up for at the next start */
    b->end_seq = b->write_seq;
    if (b->write_seq != 0 && b->committed_seq >= b->end_seq)
        shown(b);
}

void box_end(struct box *b, enum box_state s, const char *reason)
{
    if (b->end != BOX_END_NONE)
        return;
    if (b->stop_asked) {
        s = BOX_TERMINATED;
        reason = b->stop_reason;
    }
    b->usable = false;
    timer_stop(&b->grace);
    timer_stop(&b->lifetime);
    op_drop(b->oom_op);
    b->oom_op = NULL;
    b->rec->state = s;
    b->rec->ended_ns = clock_wall();
    (void)box_set_reason(b, reason); /* short of memory: the reason stays as it was */
    b->end = BOX_END_DRAINING;
    if (b->log != NULL)
        box_log_finish(b->log, drained);
    else
        drained(b);
}

void box_fail(struct box *b, const char *fmt, ...)
{
    char reason[BOX_REASON_MAX];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(reason, sizeof reason, fmt, ap); /* a cut sentence is still one */
    va_end(ap);
    box_end(b, BOX_FAILED, reason);
}

void box_end_now(struct box *b, const char *reason)
{
    if (b->end == BOX_END_NONE && b->main_over)
        box_end_by_main(b);
    if (b->end == BOX_END_DRAINING)
        drained(b);
    if (reason != NULL)
        box_end(b, BOX_TERMINATED, reason);
}

/* The record is committed (or cannot be): the state is what everybody sees from now on. */
static void shown(struct box *b)
{
    b->end = BOX_END_SHOWN;
    box_set_state(b, b->rec->state);
    box_log_ended(b->log);
    box_retain(b);
    waiters_check(b);
    if (b->hold == BOX_HOLD_LIVE && !b->en->stopping)
        box_kill(b);
    box_adopt_settled(b);
    settle(b);
}

/* ---- release ---------------------------------------------------------------------------------------------------- */

static void kill_again(struct timer *t)
{
    box_kill(container_of(t, struct box, grace));
}

void box_kill_failed(struct box *b)
{
    if (b->hold != BOX_HOLD_KILLING || b->en->stopping)
        return;
    b->hold = BOX_HOLD_LIVE;
    if (timer_start(b->en->loop, &b->grace, BOX_KILL_RETRY_MS * NSEC_PER_MSEC, kill_again) < 0)
        log_error(b->id, "no memory for the timer of the kill: the sandbox lives until the daemon starts again");
}

void box_kill(struct box *b)
{
    struct err e;

    timer_stop(&b->grace);
    if (b->hold != BOX_HOLD_LIVE)
        return; /* nothing there yet (box_created() looks again), or it is dying */
    b->hold = BOX_HOLD_KILLING;
    b->usable = false;
    if (spawner_kill(b->en->spawner, b->id, &e) < 0) {
        log_error(b->id, "cannot have the sandbox killed: %s", e.msg);
        box_kill_failed(b);
    }
}

void box_release(struct box *b)
{
    struct engine *en = b->en;

    b->hold = BOX_HOLD_NONE;
    box_uncount(b);
    init_link_free(b->init);
    b->init = NULL;
    procs_lost(b);
    box_adopt_settled(b);
    settle(b);               /* may free B */
    images_box_released(en); /* layers that only this sandbox used can go now */
}

static void gone_reason(struct box *b, const struct sp_gone *g)
{
    /* A kill that a command was told of is not main's; and a stop needs no other cause. */
    bool oom = g->oom_kills > b->oom_seen && !b->stop_asked;

    if (b->main_over) { /* killed by signal 9, and the question whether memory ran out is still open */
        b->rec->oom = oom;
        box_end_by_main(b);
    } else if (oom) {
        b->rec->oom = true;
        box_fail(b, "out of memory");
    } else if (b->failure != NULL) {
        box_fail(b, "%s", b->failure);
    } else if (b->loaded && b->init == NULL) {
        box_fail(b, "ended while the daemon was away");
    } else {
        box_fail(b, "the sandbox ended unexpectedly");
    }
}

void box_gone(struct engine *en, const char *id, const struct sp_gone *g)
{
    struct box *b = box_by_id(en, id);
    struct err e;

    if (b == NULL) {
        if (spawner_forget(en->spawner, id, &e) < 0)
            log_warn(id, "cannot tell the supervisor to forget the sandbox: %s", e.msg);
        return;
    }
    b->forget_due = true;
    if (b->end == BOX_END_NONE && !en->stopping)
        gone_reason(b, g);
    box_release(b);
}

/* What an ended sandbox needs no more in memory; the database has it. */
static void compact(struct box *b)
{
    struct box_record *r = b->rec;

    box_log_free(b->log); /* who reads it goes on from the files */
    b->log = NULL;
    env_free(b->env);
    b->env = NULL;
    free(take_ptr(r->env));
    r->env_len = 0;
    free(take_ptr(r->entry_json));
    free(take_ptr(r->command));
    free(take_ptr(b->home));
    store_list_free(r->args);
    store_list_free(r->layers);
    r->args = r->layers = NULL;
}

static void delete_now(struct box *b);
static void reap(struct timer *t);

/* Looks what can be done once the end is known and the spawner has let go. */
static void settle(struct box *b)
{
    struct waiter *w;
    struct err e;

    if (b->hold != BOX_HOLD_NONE || b->end != BOX_END_SHOWN || b->deleting)
        return;
    if (b->forget_due) {
        b->forget_due = false;
        if (spawner_forget(b->en->spawner, b->id, &e) < 0)
            log_warn(b->id, "cannot tell the supervisor to forget the sandbox: %s", e.msg);
    }
    if (b->committed_seq != b->write_seq)
        return; /* written() comes back */
    compact(b);
    if (b->unrecorded) {
        (void)err_typed(&e, ERR_UNAVAILABLE, NULL, "the sandbox's record could not be written");
        waiters_flush(b, &e);
        (void)box_log_remove(b->en, b->id); /* it may have none */
        box_free(b);
        return;
    }
    TAILQ_FOREACH (w, &b->waiters, link) {
        if (w->kind == WAIT_REMOVE) {
            delete_now(b);
            return;
        }
    }
    if (!timer_active(&b->en->reaper))
        (void)timer_start(b->en->loop, &b->en->reaper, 0, reap); /* short of memory: the next end tries again */
}

/* ---- retention and removal -------------------------------------------------------------------------------------- */

static void delete_failed(struct box *b, const struct err *e)
{
    struct waiter *w;

    log_error(b->id, "%s", e->msg);
    b->removing = b->deleting = false;
    TAILQ_FOREACH (w, &b->waiters, link)
        if (w->kind == WAIT_REMOVE)
            waiter_fail(w, e);
    (void)timer_start(b->en->loop, &b->en->reaper, BOX_REAP_RETRY_S * NSEC_PER_SEC, reap); /* see box_retain() */
}

static void deleted(void *arg, const struct err *e)
{
    struct box *b = arg;

    if (e != NULL) {
        delete_failed(b, e);
        return;
    }
    waiters_flush(b, NULL);
    box_free(b);
}

static void delete_now(struct box *b)
{
    struct err e;

    b->deleting = b->removing = true;
    drop_request_key(b);
    (void)box_log_remove(b->en, b->id); /* the record decides: a log that stays is removed at the next try */
    if (store_del_box(b->en->store, b->id, deleted, b) < 0) {
        (void)err_typed(&e, ERR_EXHAUSTED, NULL, "deleting the sandbox's record: too many writes are waiting");
        delete_failed(b, &e);
    }
}

static void reap(struct timer *t)
{
    boxes_reap(container_of(t, struct engine, reaper));
}

void box_retain(struct box *b)
{
    struct engine *en = b->en;
    struct box *p;

    TAILQ_FOREACH_REVERSE(p, &en->ended, box_list, by_end)
    if (p->rec->ended_ns <= b->rec->ended_ns)
        break;
    if (p != NULL)
        TAILQ_INSERT_AFTER(&en->ended, p, b, by_end);
    else
        TAILQ_INSERT_HEAD(&en->ended, b, by_end);
    en->ended_count++;
    if (!timer_active(&en->reaper) || en->ended_count > en->config.retained_max || p == NULL)
        (void)timer_start(en->loop, &en->reaper, 0, reap); /* short of memory: the next end tries again */
}

void boxes_reap(struct engine *en)
{
    uint64_t now = clock_wall(), next = UINT64_MAX;
    unsigned over = en->ended_count > en->config.retained_max ? en->ended_count - en->config.retained_max : 0, n = 0;
    struct box *b;

    if (en->stopping)
        return;
    TAILQ_FOREACH (b, &en->ended, by_end) {
        uint64_t due = b->rec->ended_ns + en->config.retention_ns;

        if (due > now && over == 0) {
            next = due - now;
            break;
        }
        if (over > 0)
            over--;
        if (b->hold != BOX_HOLD_NONE || b->removing || b->committed_seq != b->write_seq)
            continue;
        if (n++ == BOX_REAP_BATCH) {
            next = NSEC_PER_MSEC;
            break;
        }
        delete_now(b);
    }
    if (next != UINT64_MAX)
        (void)timer_start(en->loop, &en->reaper, next, reap); /* short of memory: the next end tries again */
}

struct op *engine_box_remove(struct engine *en, const char *tenant, const char *id, bool force, box_cb cb, void *arg)
{
    struct box *b = NULL;
    struct waiter *w;
    struct err e;
    int r = box_find(en, tenant, id, &b, &e);

    if (r == 0 && !box_state_ended(b->state) && !force)
        r = err_typed(&e, ERR_PRECONDITION, "SANDBOX_RUNNING", "sandbox %s is %s; stop it first", b->id,
                      box_state_name(b->state));
    w = waiter_new(en, r == 0 ? b : NULL, r == 0 ? WAIT_REMOVE : WAIT_NOTHING, cb, arg);
    if (w == NULL)
        return NULL;
    if (r < 0) {
        waiter_fail(w, &e);
        return &w->op;
    }
    if (!box_state_ended(b->state))
        box_stop(b, 0, "removed");
    settle(b);
    return &w->op;
}
