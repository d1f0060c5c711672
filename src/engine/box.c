/* The life of a sandbox: asked for, created, its main process, stop.
 *
 * SP_CREATE leaves at the same time as the record goes to the database: a caller hears of the sandbox when both the record
 * is committed and it has left CREATING, or its patience is over. If the commit fails, the sandbox goes without a trace. */
#include "engine/box-internal.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"

/* What may follow what, as clients see it. An end is final. */
static const bool box_may[BOX_STATE_COUNT][BOX_STATE_COUNT] = {
    [BOX_CREATING] = {[BOX_RUNNING] = true,
                      [BOX_TERMINATING] = true,
                      [BOX_COMPLETED] = true,
                      [BOX_FAILED] = true,
                      [BOX_TERMINATED] = true},
    [BOX_RUNNING] = {[BOX_PAUSED] = true,
                     [BOX_TERMINATING] = true,
                     [BOX_COMPLETED] = true,
                     [BOX_FAILED] = true,
                     [BOX_TERMINATED] = true},
    [BOX_PAUSED] = {[BOX_RUNNING] = true,
                    [BOX_TERMINATING] = true,
                    [BOX_COMPLETED] = true,
                    [BOX_FAILED] = true,
                    [BOX_TERMINATED] = true},
    [BOX_TERMINATING] = {[BOX_TERMINATED] = true, [BOX_COMPLETED] = true, [BOX_FAILED] = true},
};

void box_set_state(struct box *b, enum box_state s)
{
    if (b->state == s)
        return;
    assert(box_may[b->state][s]);
    b->state = s;
}

/* ---- objects ---------------------------------------------------------------------------------------------------- */

static int set_request_key(struct box *b)
{
    size_t t, q;

    if (b->rec->request_id == NULL)
        return 0;
    t = strlen(b->rec->tenant);
    q = strlen(b->rec->request_id);
    b->request_key = malloc(t + q + 2);
    if (b->request_key == NULL)
        return -ENOMEM;
    memcpy(b->request_key, b->rec->tenant, t + 1);
    memcpy(b->request_key + t + 1, b->rec->request_id, q + 1);
    b->request_key_len = t + 1 + q;
    return 0;
}

static struct box *find_request(struct engine *en, const char *tenant, const char *request_id)
{
    AUTO_FREE char *key = NULL;
    struct box *b = NULL;
    size_t t = strlen(tenant), q = strlen(request_id);

    key = malloc(t + q + 2);
    if (key == NULL)
        return NULL;
    memcpy(key, tenant, t + 1);
    memcpy(key + t + 1, request_id, q + 1);
    HASH_FIND (hh_request, en->by_request, key, t + 1 + q, b)
        ;
    return b;
}

struct box *box_new(struct engine *en, struct box_record *rec)
{
    struct box *b = calloc(1, sizeof *b), *same = NULL;

    if (b == NULL) {
        box_record_free(rec);
        return NULL;
    }
    b->en = en;
    b->rec = rec;
    b->state = rec->state;
    b->next_token = 1;
    memcpy(b->id, rec->id, sizeof b->id);
    TAILQ_INIT(&b->waiters);
    if (set_request_key(b) < 0) {
        box_record_free(rec);
        free(b);
        return NULL;
    }
    HASH_ADD_STR(en->boxes, id, b);
    if (b->request_key != NULL) {
        HASH_FIND (hh_request, en->by_request, b->request_key, b->request_key_len, same)
            ;
        if (same == NULL)
            HASH_ADD_KEYPTR(hh_request, en->by_request, b->request_key, b->request_key_len, b);
        else
            free(take_ptr(b->request_key)); /* only an edited database has two; the first one keeps the name */
    }
    box_insert_by_id(b);
    return b;
}

void box_free(struct box *b)
{
    struct engine *en;

    if (b == NULL)
        return;
    en = b->en;
    waiters_drop(&b->waiters);
    timer_stop(&b->grace);
    timer_stop(&b->lifetime);
    op_drop(b->oom_op);
    box_uncount(b);
    box_adopt_settled(b);
    procs_lost(b);
    init_link_free(b->init);
    box_log_free(b->log);
    HASH_DEL(en->boxes, b);
    if (b->request_key != NULL)
        HASH_DELETE(hh_request, en->by_request, b);
    TAILQ_REMOVE(&en->by_id, b, by_id);
    if (b->by_end.tqe_prev != NULL) {
        TAILQ_REMOVE(&en->ended, b, by_end);
        en->ended_count--;
    }
    env_free(b->env);
    box_record_free(b->rec);
    free(b->request_key);
    free(b->stop_reason);
    free(b->failure);
    free(b->home);
    free(b);
}

void box_count(struct box *b)
{
    if (b->counted)
        return;
    b->counted = true;
    b->en->live++;
    b->en->memory_promised += b->rec->memory_bytes;
    b->en->cpu_promised += b->rec->cpu_millis;
}

void box_uncount(struct box *b)
{
    if (!b->counted)
        return;
    b->counted = false;
    b->en->live--;
    b->en->memory_promised -= b->rec->memory_bytes;
    b->en->cpu_promised -= b->rec->cpu_millis;
}

/* ---- create ----------------------------------------------------------------------------------------------------- */

static int room_for_one(struct engine *en, struct err *e)
{
    unsigned max = en->config.boxes_max;

    if (en->slot_count != 0 && en->slot_count < max)
        max = en->slot_count;
    if (en->live >= max)
        return err_typed(e, ERR_EXHAUSTED, "RUNNER_CAPACITY_EXHAUSTED",
                         "this machine runs %u sandboxes, which is its limit; try again when one has ended", en->live);
    return 0;
}

/* Makes and starts it. */
static int create(struct engine *en, const struct box_spec *spec, struct box **ret, struct err *e)
{
    AUTO_FREE char *failure = NULL;
    struct box_record *rec;
    struct env_set *env;
    struct box *b;
    struct err why;
    int r;

    r = box_spec_check(en, spec, e);
    if (r == 0)
        r = room_for_one(en, e);
    if (r == 0)
        r = box_spec_record(en, spec, &rec, &env, &failure, e);
    if (r < 0)
        return r;
    b = box_new(en, rec);
    if (b == NULL) {
        env_free(env);
        return err_set(e, ENOMEM, "%m");
    }
    b->env = env;
    if (failure != NULL)
        box_fail(b, "%s", failure); /* the one write there is says so */
    else
        (void)box_write(b); /* looked at below */
    if (b->write_seq == 0) {
        box_free(b);
        return err_typed(e, ERR_EXHAUSTED, "RUNNER_OVERLOADED", "too many records are waiting for the disk; try again");
    }
    if (failure == NULL) {
        box_count(b);
        b->hold = BOX_HOLD_CREATING;
        if (spawner_create(en->spawner, b, (const char *const *)b->rec->layers, &why) < 0)
            box_create_failed(b, &why);
    }
    *ret = b;
    return 0;
}

struct op *engine_box_create(struct engine *en, const struct box_spec *spec, box_cb cb, void *arg)
{
    struct box *b = NULL;
    struct waiter *w;
    struct err e = {0};
    int r;

    r = engine_serving(en, &e);
    if (r == 0 && spec->request_id != NULL)
        b = find_request(en, spec->tenant, spec->request_id);
    if (r == 0 && b == NULL)
        r = create(en, spec, &b, &e);
    w = waiter_new(en, r == 0 ? b : NULL, WAIT_CREATE, cb, arg);
    if (w == NULL)
        return NULL;
    if (r < 0) {
        waiter_fail(w, &e);
    } else {
        w->need = 1; /* the first write of a record is the whole of it */
        waiter_hold(w, en->config.create_hold_ms);
    }
    return &w->op;
}

void box_create_failed(struct box *b, const struct err *e)
{
    b->hold = BOX_HOLD_NONE;
    box_fail(b, "%s", e->msg);
    box_release(b);
}

static void user_known(struct box *b);

/* The question that follows the greeting is under way already. */
static void init_ready(struct box *b)
{
    (void)b;
}

void box_created(struct box *b, const struct sp_created *c, int control_fd)
{
    struct err e;

    (void)c; /* pid, slot and phases are the spawner's affair */
    b->hold = BOX_HOLD_LIVE;
    if (b->end != BOX_END_NONE || b->stop_asked || b->unrecorded || b->en->stopping) {
        fd_close(control_fd); /* it was asked to end before it began */
        if (!b->en->stopping)
            box_kill(b);
        return;
    }
    if (init_link_new(b, control_fd, init_ready, &b->init, &e) < 0)
        box_fail(b, "cannot talk to the sandbox's init: %s", e.msg);
    else
        box_find_user(b, user_known); /* at once: init answers in order, and its table is empty */
}

/* ---- the user is known: main -------------------------------------------------------------------------------------- */

static void user_known(struct box *b)
{
    struct err e;

    if (b->stop_asked)
        return; /* the kill is on its way */
    if (box_start_main(b, &e) < 0)
        box_main_failed(b, &e);
}

void box_main_started(struct box *b, uint64_t start_ns)
{
    if (b->end != BOX_END_NONE || b->en->stopping || b->adopted)
        return; /* ending; or box-adopt.c goes on when the whole table and the user are known */
    if (b->rec->started_ns == 0)
        b->rec->started_ns = start_ns != 0 ? start_ns : clock_wall();
    b->usable = true;
    if (!b->stop_asked) {
        b->rec->state = BOX_RUNNING;
        box_set_state(b, BOX_RUNNING);
        box_start_lifetime(b);
    }
    (void)box_write(b); /* refused: adoption would find main running and say the same */
    waiters_check(b);
}

void box_main_failed(struct box *b, const struct err *e)
{
    b->main = NULL;
    if (!b->en->stopping)
        box_fail(b, "the main process cannot be started: %s", e->msg);
}

/* ---- main's end ------------------------------------------------------------------------------------------------- */

void box_end_by_main(struct box *b)
{
    char reason[BOX_REASON_MAX];
    int code = b->rec->exit_code;

    if (b->rec->oom)
        (void)snprintf(reason, sizeof reason, "out of memory");
    else if (code > 128)
        (void)snprintf(reason, sizeof reason, "killed by signal %d", code - 128);
    else
        (void)snprintf(reason, sizeof reason, "exited %d", code);
    box_end(b, BOX_COMPLETED, reason);
}

static void oom_answered(void *arg, const struct err *e, const struct sp_stats *s)
{
    struct box *b = arg;

    b->oom_op = NULL;
    if (b->end != BOX_END_NONE)
        return;
    b->rec->oom = e == NULL && s->oom_kills > b->oom_seen; /* not one that a command was told of */
    box_end_by_main(b);
}

void box_main_ended(struct box *b, const struct exec_result *res)
{
    char reason[BOX_REASON_MAX];

    b->main = NULL;
    if (b->end != BOX_END_NONE || b->en->stopping || b->main_over)
        return;
    if (res->cause != EXEC_EXITED && res->cause != EXEC_SIGNALED)
        return; /* not known: SP_GONE says what can be said */
    b->main_over = true;
    b->usable = false;
    b->rec->has_exit = true;
    b->rec->exit_code = res->cause == EXEC_SIGNALED ? 128 + res->signal : res->code;
    b->rec->oom = res->oom;
    if (b->rec->started_ns == 0)
        b->rec->started_ns = res->start_ns;
    if (res->cause == EXEC_EXITED || b->stop_asked || res->signal != SIGKILL || res->oom || b->hold != BOX_HOLD_LIVE) {
        if (res->cause == EXEC_EXITED) { /* 137 may be an exit code too: do not call it a signal */
            (void)snprintf(reason, sizeof reason, "exited %d", res->code);
            box_end(b, BOX_COMPLETED, reason);
        } else {
            box_end_by_main(b);
        }
        return;
    }
    b->oom_op = spawner_stat(b->en->spawner, b->id, oom_answered, b);
    if (b->oom_op == NULL)
        box_end_by_main(b);
}

void box_init_lost(struct box *b, const struct err *e)
{
    b->usable = false;
    if (b->end != BOX_END_NONE || b->hold != BOX_HOLD_LIVE || b->main_over || b->en->stopping)
        return; /* as it should be: we killed it, or main's end is known and the rest follows */
    if (b->failure == NULL &&
        asprintf(&b->failure, "init died: %.300s", e != NULL ? e->msg : "the socket was closed") < 0)
        b->failure = NULL;
    box_kill(b);
}

/* ---- stop ------------------------------------------------------------------------------------------------------- */

static void grace_over(struct timer *t)
{
    box_kill(container_of(t, struct box, grace));
}

static void lifetime_over(struct timer *t)
{
    box_stop(container_of(t, struct box, lifetime), BOX_LIFETIME_GRACE_S, "lifetime reached");
}

void box_start_lifetime(struct box *b)
{
    uint64_t now = clock_wall(), since = b->rec->started_ns != 0 ? b->rec->started_ns : b->rec->created_ns, due;

    if (b->rec->lifetime_s == 0)
        return;
    due = since + b->rec->lifetime_s * NSEC_PER_SEC;
    if (timer_start(b->en->loop, &b->lifetime, due > now ? due - now : 0, lifetime_over) < 0)
        log_error(b->id, "no memory for the timer of the lifetime");
}

void box_terminate(struct box *b)
{
    struct err e;

    if (b->main == NULL) {
        box_kill(b); /* nothing that could act on a TERM */
        return;
    }
    if (proc_kill(b->main, SIGTERM, false, &e) < 0) {
        log_warn(b->id, "cannot send TERM to the main process: %s", e.msg);
        box_kill(b);
    }
}

void box_stop(struct box *b, uint32_t grace_s, const char *why)
{
    uint64_t now = clock_mono(), due = now + grace_s * NSEC_PER_SEC;
    bool first = !b->stop_asked;

    if (b->end != BOX_END_NONE || b->main_over)
        return; /* it is ending by itself */
    if (first) {
        b->stop_asked = true;
        b->stop_reason = strdup(why != NULL ? why : "");
        timer_stop(&b->lifetime);
        (void)box_set_reason(b, b->stop_reason); /* short of memory: the reason stays empty */
        b->rec->state = BOX_TERMINATING;
        box_set_state(b, BOX_TERMINATING);
        (void)box_write(b); /* refused: it is stopped all the same, and its end is written */
    }
    if (grace_s == 0) {
        box_kill(b);
        return;
    }
    if (!timer_active(&b->grace) || due < b->grace.due) {
        if (timer_start(b->en->loop, &b->grace, due - now, grace_over) < 0)
            box_kill(b);
    }
    if (first && b->hold == BOX_HOLD_LIVE && !b->adopted)
        box_terminate(b); /* an adopted one gets its TERM when init has told us of main */
}

struct op *engine_box_stop(struct engine *en, const char *tenant, const char *id, uint32_t grace_s, const char *why,
                           box_cb cb, void *arg)
{
    struct box *b = NULL;
    struct waiter *w;
    struct err e;
    int r = box_find(en, tenant, id, &b, &e);

    if (r == 0)
        box_stop(b, grace_s, why);
    w = waiter_new(en, r == 0 ? b : NULL, WAIT_STOP, cb, arg);
    if (w == NULL)
        return NULL;
    if (r < 0)
        waiter_fail(w, &e);
    else
        waiter_hold(w, en->config.stop_hold_ms);
    return &w->op;
}
