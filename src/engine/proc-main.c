/* The main process of a sandbox: its command line, its output into the log, its end to box.c. Loop thread only. */
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fd.h"
#include "engine/proc-internal.h"

enum { ENTRY_STRINGS_MAX = IN_ARGC_MAX };

static void main_started(struct proc *p, int in, int out, int err_fd)
{
    struct box *b = p->box;
    struct err e = {0};

    fd_close(in);
    fd_close(err_fd);
    if (b->log == NULL && box_log_open(b, out, &b->log, &e) < 0) {
        /* Without its log it would stop at a full pipe: better no sandbox than one that hangs for no visible reason. */
        (void)err_ctx(&e, "open the log");
        b->main = NULL;
        proc_abandon(p);
        box_main_failed(b, &e);
        return;
    }
    box_main_started(b, p->start_ns);
}

static void main_failed(struct proc *p, const struct in_failed *why, const struct err *e)
{
    struct box *b = p->box;

    (void)why;
    b->main = NULL;
    if (!b->en->stopping)
        box_main_failed(b, e);
}

static void main_exited(struct proc *p, const struct in_exited *x)
{
    struct box *b = p->box;
    struct exec_result res;

    b->main = NULL;
    if (x == NULL && b->en->stopping) /* the process lives on or ends with the daemon; that is not its end to record */
        return;
    proc_result(p, x, &res);
    box_main_ended(b, &res);
}

static const struct proc_ops main_ops = {main_started, main_failed, main_exited};

void main_adopt(struct proc *p, const struct in_entry *en, int *fds, unsigned nfds)
{
    struct box *b = p->box;
    int own[3] = {-1, -1, -1};
    struct err e = {0};

    p->ops = &main_ops;
    p->start_ns = b->rec->started_ns != 0 ? b->rec->started_ns : clock_wall(); /* we died before that was recorded */
    b->main = p;
    if (nfds > 0)
        proc_take_fds(en->flags, fds, own);
    fd_close(own[0]);
    fd_close(own[2]);
    if (b->log == NULL && box_log_open(b, own[1], &b->log, &e) < 0) {
        b->main = NULL;
        proc_abandon(p);
        (void)err_ctx(&e, "open the log");
        box_main_failed(b, &e);
        return;
    }
    box_main_started(b, p->start_ns);
}

/* ---- the command line ------------------------------------------------------------------------------------------------ */

/* A list of strings that grows; the strings are borrowed. */
struct words {
    const char **v;
    size_t n;
};

static int words_add(struct words *w, const char *s)
{
    const char **v;

    if (w->n == ENTRY_STRINGS_MAX)
        return -E2BIG;
    v = realloc(w->v, (w->n + 2) * sizeof *v);
    if (v == NULL)
        return -ENOMEM;
    w->v = v;
    w->v[w->n++] = s;
    w->v[w->n] = NULL;
    return 0;
}

static int words_add_json(struct words *w, const json_t *array)
{
    size_t i;
    json_t *v;
    int r = 0;

    json_array_foreach((json_t *)array, i, v)
    {
        if (!json_is_string(v))
            return -EINVAL;
        r = words_add(w, json_string_value(v));
        if (r < 0)
            return r;
    }
    return 0;
}

static int words_add_vec(struct words *w, char *const *vec)
{
    int r = 0;

    for (; vec != NULL && *vec != NULL && r == 0; vec++)
        r = words_add(w, *vec);
    return r;
}

/* As people know it from containers: a command replaces entrypoint and cmd; arguments alone replace cmd. */
static int main_argv(const struct box_record *rec, const json_t *entry, struct words *w)
{
    int r;

    if (rec->command != NULL) {
        r = words_add(w, rec->command);
        return r < 0 ? r : words_add_vec(w, rec->args);
    }
    r = words_add_json(w, json_object_get(entry, "entrypoint"));
    if (r < 0)
        return r;
    return rec->args != NULL ? words_add_vec(w, rec->args) : words_add_json(w, json_object_get(entry, "cmd"));
}

int box_start_main(struct box *b, struct err *e)
{
    struct box_record *rec = b->rec;
    struct words w = {0};
    json_t *entry = NULL;
    struct proc *p;
    int r = 0;

    if (rec->entry_json != NULL && rec->entry_json[0] != '\0') {
        entry = json_loads(rec->entry_json, JSON_REJECT_DUPLICATES, NULL);
        if (entry == NULL)
            r = -EINVAL;
    }
    if (r == 0)
        r = main_argv(rec, entry, &w);

    if (r < 0) {
        (void)err_set(e, r, "the command of image %s cannot be read: %m", rec->image);
    } else if (w.n == 0 || w.v[0][0] == '\0') {
        r = err_typed(e, ERR_INVALID, NULL, "image %s has no command of its own and none was given", rec->image);
    } else {
        const struct proc_spec s = {.kind = IN_MAIN, .argv = w.v, .merge = true, .cwd_create = true};

        r = proc_spawn(b, &s, &main_ops, NULL, &p, e);
        if (r == 0)
            b->main = p;
    }
    free(w.v);
    json_decref(entry);
    return r;
}
