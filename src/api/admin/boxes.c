/* Sandboxes in the admin API. */
#include "api/admin/admin-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { LIST_LIMIT = 500, GRACE_DEFAULT_S = 10, GRACE_MAX_S = 86400 };

static void put_box(struct jw *j, const struct box_info *b)
{
    jw_object(j);
    jw_kstr(j, "id", b->id);
    jw_kstr(j, "state", box_state_name(b->state));
    jw_kstr(j, "reason", b->reason);
    jw_kstr(j, "image", b->image);
    jw_kstr(j, "image_digest", b->image_digest);
    jw_kstr(j, "dialect", b->dialect);
    jw_kstr(j, "runner_id", b->runner_id);
    jw_ktime(j, "created", b->created_ns);
    jw_ktime(j, "started", b->started_ns);
    jw_ktime(j, "ended", b->ended_ns);
    jw_key(j, "exit_code");
    if (b->has_exit)
        jw_int(j, b->exit_code);
    else
        jw_null(j);
    jw_kbool(j, "oom", b->oom);
    jw_kuint(j, "memory_bytes", b->memory_bytes);
    jw_kuint(j, "disk_bytes", b->disk_bytes);
    jw_kuint(j, "cpu_millis", b->cpu_millis);
    jw_kuint(j, "pids", b->pids);
    jw_kuint(j, "lifetime_seconds", b->lifetime_s);
    jw_key(j, "tags");
    jw_array(j);
    for (const char *const *t = b->tags; *t != NULL; t++)
        jw_str(j, *t);
    jw_array_end(j);
    jw_object_end(j);
}

static void list_one(void *arg, const struct box_info *b)
{
    put_box(arg, b);
}

void admin_box_list(struct admin_req *q)
{
    struct box_filter f = {.state = -1, .limit = LIST_LIMIT};
    char all[4], after[ID_MAX];
    struct jw *j = admin_json(q);
    bool more = false;
    struct err e;

    f.ended = admin_query(q, "all", all, sizeof all) && strcmp(all, "1") == 0;
    if (admin_query(q, "after", after, sizeof after))
        f.after = after;
    jw_object(j);
    jw_key(j, "sandboxes");
    jw_array(j);
    if (engine_box_list(q->admin->en, admin_tenant(q), &f, list_one, j, &more, &e) < 0) {
        admin_fail(q, &e);
        return;
    }
    jw_array_end(j);
    jw_kbool(j, "more", more);
    jw_object_end(j);
    admin_send(q, 200);
}

void admin_box_get(struct admin_req *q)
{
    struct box_info info;
    struct err e;

    if (engine_box_get(q->admin->en, admin_tenant(q), q->id, &info, &e) < 0) {
        admin_fail(q, &e);
        return;
    }
    put_box(admin_json(q), &info);
    admin_send(q, 200);
}

static void explain_one(void *arg, const struct env_explained *v)
{
    struct jw *j = arg;

    jw_object(j);
    jw_kstr(j, "name", v->name);
    jw_kstr(j, "value", v->value);
    jw_kstr(j, "level", env_level_name(v->level));
    jw_kbool(j, "secret", v->secret);
    jw_key(j, "shadowed");
    jw_array(j);
    for (unsigned i = 0; i < v->shadowed_count; i++) {
        jw_object(j);
        jw_kstr(j, "level", env_level_name(v->shadowed[i].level));
        jw_kstr(j, "value", v->shadowed[i].value);
        jw_object_end(j);
    }
    jw_array_end(j);
    jw_object_end(j);
}

void admin_box_env(struct admin_req *q)
{
    struct jw *j = admin_json(q);
    struct err e;

    jw_object(j);
    jw_kstr(j, "sandbox", q->id);
    jw_key(j, "variables");
    jw_array(j);
    if (engine_env_explain(q->admin->en, admin_tenant(q), q->id, explain_one, j, &e) < 0) {
        admin_fail(q, &e);
        return;
    }
    jw_array_end(j);
    jw_object_end(j);
    admin_send(q, 200);
}

static void box_done(void *arg, const struct err *e, const struct box_info *info)
{
    struct admin_req *q = arg;
    struct jw *j;

    if (e != NULL) {
        admin_fail(q, e);
        return;
    }
    j = admin_json(q);
    if (info != NULL) {
        put_box(j, info);
    } else {
        jw_object(j);
        jw_kstr(j, "id", q->id);
        jw_object_end(j);
    }
    admin_send(q, 200);
}

void admin_box_stop(struct admin_req *q)
{
    unsigned long grace = GRACE_DEFAULT_S;
    char text[16], *end;
    struct err e;

    if (admin_query(q, "grace", text, sizeof text)) {
        errno = 0;
        grace = strtoul(text, &end, 10);
        if (errno != 0 || end == text || *end != '\0' || *text == '-' || grace > GRACE_MAX_S) {
            (void)err_typed(&e, ERR_INVALID, NULL, "grace must be a number of seconds up to %d", GRACE_MAX_S);
            admin_fail(q, &e);
            return;
        }
    }
    admin_wait(q,
               engine_box_stop(q->admin->en, admin_tenant(q), q->id, (uint32_t)grace, "stopped by local", box_done, q));
}

void admin_box_remove(struct admin_req *q)
{
    char force[4];

    admin_wait(q,
               engine_box_remove(q->admin->en, admin_tenant(q), q->id,
                                 admin_query(q, "force", force, sizeof force) && strcmp(force, "1") == 0, box_done, q));
}
