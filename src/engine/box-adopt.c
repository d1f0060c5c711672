/* What was there before us: records from the database, sandboxes that outlived an earlier silicad.
 *
 * At start every record that is not ended is either adopted (SP_ADOPT), reported gone (SP_GONE), of another boot of the host,
 * or unknown to the spawner. The last is certain only after a question: SP_GONE may still be under way. An adopted sandbox is used again when its init has told its table, where main either runs, has ended or is missing. */
#include "engine/box-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"

/* ---- records at start ------------------------------------------------------------------------------------------- */

struct loading {
    struct engine *en;
    int r;
};

static void load_one(void *arg, struct box_record *rec)
{
    struct loading *l = arg;
    struct engine *en = l->en;
    struct box *b = box_new(en, rec);
    struct err e;

    if (b == NULL) {
        l->r = -ENOMEM;
        return;
    }
    b->loaded = true;
    b->write_seq = b->committed_seq = 1;
    if (box_state_ended(b->state)) {
        b->end = BOX_END_SHOWN;
        box_retain(b);
        box_release(b); /* nothing is held: only what it needs no more goes */
        return;
    }
    if (rec->state == BOX_TERMINATING) {
        b->stop_asked = true;
        b->stop_reason = strdup(rec->reason);
    }
    if (env_unpack(rec->env, rec->env_len, &b->env, &e) < 0) {
        log_warn(b->id, "the environment in the record cannot be read: %s", e.msg);
        if (env_new(&b->env) < 0)
            l->r = -ENOMEM;
    }
}

int boxes_load(struct engine *en, struct err *e)
{
    struct loading l = {.en = en};
    int r = store_load_boxes(en->store, load_one, &l, e);

    if (r == 0 && l.r < 0)
        r = err_set(e, l.r, "reading the sandboxes: %m");
    return r;
}

/* ---- ready ------------------------------------------------------------------------------------------------------- */

static void serve(struct engine *en)
{
    if (en->served || en->stopping)
        return;
    en->served = true;
    timer_stop(&en->adopt_wait);
    if (en->ready != NULL)
        en->ready(en->arg);
}

static void waited_enough(struct timer *t)
{
    struct engine *en = container_of(t, struct engine, adopt_wait);

    if (en->adopting > 0)
        log_warn(NULL, "%u sandboxes have not answered yet; serving without them", en->adopting);
    serve(en);
}

static void one_less(struct engine *en)
{
    en->adopting--;
    if (en->adopting == 0 && en->hello && !en->served && !en->stopping)
        (void)timer_start(en->loop, &en->adopt_wait, 0, waited_enough); /* it runs already: cannot fail */
}

void box_adopt_settled(struct box *b)
{
    if (!b->adopted)
        return;
    b->adopted = false;
    one_less(b->en);
}

/* ---- adopted sandboxes -------------------------------------------------------------------------------------------- */

static void user_known(struct box *b)
{
    b->usable = true;
    if (b->rec->state == BOX_CREATING) { /* main was started, and we died before that was recorded */
        if (b->rec->started_ns == 0)
            b->rec->started_ns = clock_wall();
        b->rec->state = BOX_RUNNING;
        box_set_state(b, BOX_RUNNING);
        (void)box_write(b); /* refused: the next adoption says it again */
    }
    box_adopt_settled(b);
    if (!b->stop_asked)
        box_start_lifetime(b);
    waiters_check(b);
}

/* Init has told its table. */
static void table_known(struct box *b)
{
    if (b->end != BOX_END_NONE || b->main_over) {
        box_adopt_settled(b);
        return;
    }
    if (b->main == NULL) {
        if (b->state == BOX_CREATING)
            box_fail(b, "interrupted while starting: the daemon died before the main process ran");
        else
            box_fail(b, "the main process ended while the daemon was away, nobody knows how");
        return;
    }
    if (b->stop_asked) { /* the stop goes on; how much of its grace was left is not known */
        box_adopt_settled(b);
        box_stop(b, BOX_LIFETIME_GRACE_S, b->stop_reason);
        box_terminate(b);
        return;
    }
    box_ask_user(b, user_known);
}

void box_adopt(struct engine *en, const char *id, const struct sp_adopt *a, int control_fd)
{
    struct box *b = box_by_id(en, id);
    struct err e;

    if (b == NULL || b->hold != BOX_HOLD_NONE) {
        log_warn(id, "%s",
                 b == NULL ? "no record of this sandbox: it is ended" : "the supervisor handed over a sandbox twice");
        fd_close(control_fd);
        if (b == NULL && spawner_kill(en->spawner, id, &e) < 0)
            log_error(id, "cannot have the sandbox killed: %s", e.msg);
        return;
    }
    b->hold = BOX_HOLD_LIVE;
    box_count(b);
    if (b->end != BOX_END_NONE) { /* recorded, but we died before the kill */
        fd_close(control_fd);
        box_kill(b);
        return;
    }
    if (b->rec->started_ns == 0)
        b->rec->started_ns = a->started_ns;
    b->adopted = true;
    en->adopting++;
    if (init_link_new(b, control_fd, table_known, &b->init, &e) < 0)
        box_fail(b, "cannot talk to the sandbox's init: %s", e.msg);
}

/* ---- records nobody claimed --------------------------------------------------------------------------------------- */

struct orphan {
    struct engine *en;
    char id[ID_MAX];
};

static void orphan_answered(void *arg, const struct err *e, const struct sp_stats *s)
{
    struct orphan *o = arg;
    struct engine *en = o->en;
    struct box *b = box_by_id(en, o->id);

    (void)s;
    free(o);
    if (b != NULL && b->end == BOX_END_NONE && b->hold == BOX_HOLD_NONE && !en->stopping) {
        if (e == NULL) { /* it lives, but without a socket there is no way in */
            b->hold = BOX_HOLD_LIVE;
            box_count(b);
            b->failure = strdup("lost: the supervisor did not hand it over");
            box_kill(b);
        } else if (e->code == -ENOENT) {
            box_fail(b, "lost: the supervisor no longer knew it");
        } /* else it is known as a dead one, and SP_GONE is on its way */
    }
    one_less(en);
}

static void ask_about(struct box *b)
{
    struct orphan *o = calloc(1, sizeof *o);

    if (o == NULL) {
        box_fail(b, "lost: the supervisor no longer knew it");
        return;
    }
    o->en = b->en;
    memcpy(o->id, b->id, sizeof o->id);
    b->en->adopting++;
    if (spawner_stat(b->en->spawner, b->id, orphan_answered, o) == NULL) {
        free(o);
        b->en->adopting--;
        box_fail(b, "lost: the supervisor no longer knew it");
    }
}

void boxes_adopt_done(struct engine *en)
{
    struct box *b;

    TAILQ_FOREACH (b, &en->by_id, by_id) {
        if (b->end != BOX_END_NONE || b->hold != BOX_HOLD_NONE)
            continue;
        if (b->rec->boot_id == NULL || en->boot_id == NULL || strcmp(b->rec->boot_id, en->boot_id) != 0)
            box_fail(b, "host restarted");
        else
            ask_about(b);
    }
    en->hello = true;
    if (timer_start(en->loop, &en->adopt_wait, en->adopting > 0 ? BOX_ADOPT_WAIT_MS * NSEC_PER_MSEC : 0,
                    waited_enough) < 0)
        serve(en);
}
