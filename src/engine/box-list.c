/* Looking at sandboxes: get, list, find, explain. Other tenants' ids and unknown ones answer alike. */
#include "engine/box-internal.h"

#include <string.h>

#include "base/fd.h"

const char *box_state_name(enum box_state s)
{
    static const char *const names[BOX_STATE_COUNT] = {
        [BOX_CREATING] = "creating",       [BOX_RUNNING] = "running",     [BOX_PAUSED] = "paused",
        [BOX_TERMINATING] = "terminating", [BOX_COMPLETED] = "completed", [BOX_FAILED] = "failed",
        [BOX_TERMINATED] = "terminated",
    };

    return s < BOX_STATE_COUNT ? names[s] : "unknown";
}

struct box *box_by_id(struct engine *en, const char *id)
{
    struct box *b;

    HASH_FIND_STR(en->boxes, id, b);
    return b;
}

void box_insert_by_id(struct box *b)
{
    struct box *p;

    /* Ids grow with time: the place is at or near the end. */
    TAILQ_FOREACH_REVERSE(p, &b->en->by_id, box_list, by_id)
    if (strcmp(p->id, b->id) < 0)
        break;
    if (p != NULL)
        TAILQ_INSERT_AFTER(&b->en->by_id, p, b, by_id);
    else
        TAILQ_INSERT_HEAD(&b->en->by_id, b, by_id);
}

int engine_serving(struct engine *en, struct err *e)
{
    if (en->stopping)
        return err_typed(e, ERR_UNAVAILABLE, "RUNNER_UNAVAILABLE", "the daemon is stopping");
    return 0;
}

int box_find(struct engine *en, const char *tenant, const char *id, struct box **ret, struct err *e)
{
    struct box *b;
    int r = engine_serving(en, e);

    if (r < 0)
        return r;
    b = box_by_id(en, id);
    if (b == NULL || b->removing || strcmp(b->rec->tenant, tenant) != 0)
        return err_typed(e, ERR_NOT_FOUND, "SANDBOX_NOT_FOUND", "there is no sandbox '%.*s'", ID_MAX, id);
    *ret = b;
    return 0;
}

int box_find_running(struct engine *en, const char *tenant, const char *id, struct box **ret, struct err *e)
{
    struct box *b;
    int r = box_find(en, tenant, id, &b, e);

    if (r < 0)
        return r;
    if (b->state == BOX_RUNNING && b->usable) {
        *ret = b;
        return 0;
    }
    if (b->state == BOX_RUNNING && b->end == BOX_END_NONE && !b->main_over && b->hold != BOX_HOLD_KILLING)
        return err_typed(e, ERR_UNAVAILABLE, "RUNNER_UNAVAILABLE",
                         "sandbox %s is being taken over after a restart; try again", b->id);
    if (b->state == BOX_RUNNING)
        return err_typed(e, ERR_PRECONDITION, "SANDBOX_NOT_RUNNING", "sandbox %s is ending", b->id);
    if (box_state_ended(b->state) && b->rec->reason[0] != '\0')
        return err_typed(e, ERR_PRECONDITION, "SANDBOX_NOT_RUNNING", "sandbox %s is %s (%.300s)", b->id,
                         box_state_name(b->state), b->rec->reason);
    return err_typed(e, ERR_PRECONDITION, "SANDBOX_NOT_RUNNING", "sandbox %s is %s", b->id, box_state_name(b->state));
}

void box_fill_info(struct box *b, struct box_info *ret)
{
    static const char *const no_tags[] = {NULL};
    const struct box_record *r = b->rec;
    bool ended = box_state_ended(b->state);

    *ret = (struct box_info){
        .tenant = r->tenant,
        .dialect = r->dialect,
        .image = r->image,
        .image_digest = r->image_digest,
        .runner_id = r->runner_id,
        .state = b->state,
        /* What is known of an end counts once it is recorded. */
        .reason = ended || b->state == BOX_TERMINATING ? r->reason : "",
        .echo = r->echo,
        .echo_len = r->echo_len,
        .tags = r->tags != NULL ? (const char *const *)r->tags : no_tags,
        .created_ns = r->created_ns,
        .started_ns = r->started_ns,
        .ended_ns = ended ? r->ended_ns : 0,
        .has_exit = ended && r->has_exit,
        .exit_code = ended && r->has_exit ? r->exit_code : 0,
        .memory_bytes = r->memory_bytes,
        .disk_bytes = r->disk_bytes,
        .cpu_millis = r->cpu_millis,
        .pids = r->pids,
        .lifetime_s = r->lifetime_s,
        .oom = ended && r->oom,
    };
    memcpy(ret->id, b->id, sizeof ret->id);
}

int engine_box_get(struct engine *en, const char *tenant, const char *id, struct box_info *ret, struct err *e)
{
    struct box *b;
    int r = box_find(en, tenant, id, &b, e);

    if (r == 0)
        box_fill_info(b, ret);
    return r;
}

static bool has_tag(const struct box *b, const char *tag)
{
    for (char **t = b->rec->tags; t != NULL && *t != NULL; t++)
        if (strcmp(*t, tag) == 0)
            return true;
    return false;
}

static bool matches(const struct box *b, const char *tenant, const struct box_filter *f)
{
    if (b->removing || strcmp(b->rec->tenant, tenant) != 0)
        return false;
    if (f->state >= 0) {
        if (b->state != (enum box_state)f->state)
            return false;
    } else if (!f->ended && box_state_ended(b->state)) {
        return false;
    }
    for (const char *const *t = f->tags; t != NULL && *t != NULL; t++)
        if (!has_tag(b, *t))
            return false;
    return true;
}

/* The first sandbox behind the cursor, which may name one that is gone. */
static struct box *first_after(struct engine *en, const char *after)
{
    struct box *b;

    if (after == NULL || after[0] == '\0')
        return TAILQ_FIRST(&en->by_id);
    b = box_by_id(en, after);
    if (b != NULL)
        return TAILQ_NEXT(b, by_id);
    TAILQ_FOREACH (b, &en->by_id, by_id)
        if (strcmp(b->id, after) > 0)
            break;
    return b;
}

int engine_box_list(struct engine *en, const char *tenant, const struct box_filter *f,
                    void (*each)(void *arg, const struct box_info *info), void *arg, bool *ret_more, struct err *e)
{
    unsigned limit = f->limit != 0 ? f->limit : 100, n = 0;
    struct box_info info;
    int r = engine_serving(en, e);

    if (r < 0)
        return r;
    *ret_more = false;
    for (struct box *b = first_after(en, f->after); b != NULL; b = TAILQ_NEXT(b, by_id)) {
        if (!matches(b, tenant, f))
            continue;
        if (n++ == limit) {
            *ret_more = true;
            break;
        }
        box_fill_info(b, &info);
        each(arg, &info);
    }
    return 0;
}

int engine_env_explain(struct engine *en, const char *tenant, const char *id,
                       void (*each)(void *arg, const struct env_explained *v), void *arg, struct err *e)
{
    struct box *b;
    int r = box_find(en, tenant, id, &b, e);

    if (r < 0)
        return r;
    if (b->env == NULL)
        return err_typed(e, ERR_PRECONDITION, "SANDBOX_NOT_RUNNING", "sandbox %s is %s and has no environment any more",
                         b->id, box_state_name(b->state));
    env_explain(b->env, each, arg);
    return 0;
}
