/* Reading everything back, once, at start. */
#include "store/store-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"

/* A text column; *BAD is set when memory is short. */
static char *text(sqlite3_stmt *st, int col, bool *bad)
{
    const unsigned char *t = sqlite3_column_text(st, col);
    char *s;

    if (t == NULL)
        return NULL;
    s = strdup((const char *)t);
    *bad |= s == NULL;
    return s;
}

static void *blob(sqlite3_stmt *st, int col, size_t *ret_len, bool *bad)
{
    const void *b = sqlite3_column_blob(st, col);
    size_t len = (size_t)sqlite3_column_bytes(st, col);
    void *p;

    *ret_len = 0;
    if (b == NULL)
        return NULL;
    p = malloc(len);
    if (p == NULL) {
        *bad = true;
        return NULL;
    }
    memcpy(p, b, len);
    *ret_len = len;
    return p;
}

static uint64_t number(sqlite3_stmt *st, int col)
{
    return (uint64_t)sqlite3_column_int64(st, col);
}

static const char select_boxes[] = "SELECT id, tenant, creator, dialect, image, image_digest, runner_id, request_id, "
                                   "echo, tags, command, args, cwd, user,"
                                   " env, layers, entry_json, reason, state, created_ns, started_ns, ended_ns, "
                                   "memory_bytes, disk_bytes, cpu_millis, pids,"
                                   " lifetime_s, has_exit, oom, exit_code, egress, flags, boot_id FROM box ORDER BY id";

static int read_box(sqlite3_stmt *st, struct box_record *r)
{
    const char *id = (const char *)sqlite3_column_text(st, 0);
    int state = sqlite3_column_int(st, 18), a, b, c;
    bool bad = false;

    if (id == NULL || strlen(id) >= sizeof r->id || state < 0 || state >= BOX_STATE_COUNT)
        return -EBADMSG;
    strcpy(r->id, id);
    r->state = (enum box_state)state;
    r->tenant = text(st, 1, &bad);
    r->creator = text(st, 2, &bad);
    r->dialect = text(st, 3, &bad);
    r->image = text(st, 4, &bad);
    r->image_digest = text(st, 5, &bad);
    r->runner_id = text(st, 6, &bad);
    r->request_id = text(st, 7, &bad);
    r->echo = blob(st, 8, &r->echo_len, &bad);
    a = store_column_list(st, 9, &r->tags);
    r->command = text(st, 10, &bad);
    b = store_column_list(st, 11, &r->args);
    r->cwd = text(st, 12, &bad);
    r->user = text(st, 13, &bad);
    r->env = blob(st, 14, &r->env_len, &bad);
    c = store_column_list(st, 15, &r->layers);
    r->entry_json = text(st, 16, &bad);
    r->reason = text(st, 17, &bad);
    r->created_ns = number(st, 19);
    r->started_ns = number(st, 20);
    r->ended_ns = number(st, 21);
    r->memory_bytes = number(st, 22);
    r->disk_bytes = number(st, 23);
    r->cpu_millis = (uint32_t)number(st, 24);
    r->pids = (uint32_t)number(st, 25);
    r->lifetime_s = (uint32_t)number(st, 26);
    r->has_exit = number(st, 27) != 0;
    r->oom = number(st, 28) != 0;
    r->exit_code = sqlite3_column_int(st, 29);
    r->egress = (uint32_t)number(st, 30);
    r->flags = (uint32_t)number(st, 31);
    r->boot_id = text(st, 32, &bad);
    if (bad || a == -ENOMEM || b == -ENOMEM || c == -ENOMEM)
        return -ENOMEM;
    return a < 0 || b < 0 || c < 0 ? -EBADMSG : 0;
}

/* Runs SQL and gives each row to ROW; WHAT names the rows for people. */
static int each_row(struct store *s, const char *sql, const char *what, int (*row)(sqlite3_stmt *st, void *arg),
                    void *arg, struct err *e)
{
    sqlite3 *db = store_reader(s, e);
    sqlite3_stmt *st = NULL;
    int rc, r = 0;

    if (db == NULL)
        return e != NULL ? e->code : -EBUSY;
    rc = sqlite3_prepare_v2(db, sql, -1, &st, NULL);
    if (rc != SQLITE_OK)
        return store_sqlite_err(db, rc, what, e);
    while (r == 0 && (rc = sqlite3_step(st)) == SQLITE_ROW)
        r = row(st, arg);
    if (r < 0)
        (void)err_set(e, r, r == -EBADMSG ? "%s: a record makes no sense; the database is damaged" : "%s: %m", what);
    else if (rc != SQLITE_DONE)
        r = store_sqlite_err(db, rc, what, e);
    (void)sqlite3_finalize(st); /* repeats the error of the step */
    return r;
}

struct box_sink {
    void (*each)(void *arg, struct box_record *r);
    void *arg;
};

static int box_row(sqlite3_stmt *st, void *arg)
{
    struct box_sink *k = arg;
    struct box_record *rec = calloc(1, sizeof *rec);
    int r;

    if (rec == NULL)
        return -ENOMEM;
    r = read_box(st, rec);
    if (r < 0) {
        box_record_free(rec);
        return r;
    }
    k->each(k->arg, rec);
    return 0;
}

int store_load_boxes(struct store *s, void (*each)(void *arg, struct box_record *r), void *arg, struct err *e)
{
    struct box_sink k = {each, arg};

    return each_row(s, select_boxes, "reading the sandboxes", box_row, &k, e);
}

struct image_sink {
    void (*each)(void *arg, struct image_record *r);
    void *arg;
};

static int image_row(sqlite3_stmt *st, void *arg)
{
    struct image_sink *k = arg;
    struct image_record *rec = calloc(1, sizeof *rec);
    bool bad = false;
    int r;

    if (rec == NULL)
        return -ENOMEM;
    rec->name = text(st, 0, &bad);
    rec->digest = text(st, 1, &bad);
    rec->config_json = text(st, 2, &bad);
    r = store_column_list(st, 3, &rec->layers);
    rec->bytes = number(st, 4);
    rec->created_ns = number(st, 5);
    if (bad)
        r = -ENOMEM;
    if (r < 0) {
        image_record_free(rec);
        return r;
    }
    k->each(k->arg, rec);
    return 0;
}

int store_load_images(struct store *s, void (*each)(void *arg, struct image_record *r), void *arg, struct err *e)
{
    struct image_sink k = {each, arg};

    return each_row(s, "SELECT name, digest, config_json, layers, bytes, created_ns FROM image ORDER BY name",
                    "reading the images", image_row, &k, e);
}

struct layer_sink {
    void (*each)(void *arg, const char *digest, uint64_t bytes);
    void *arg;
};

static int layer_row(sqlite3_stmt *st, void *arg)
{
    struct layer_sink *k = arg;
    const char *digest = (const char *)sqlite3_column_text(st, 0);

    if (digest == NULL)
        return -ENOMEM;
    k->each(k->arg, digest, number(st, 1));
    return 0;
}

int store_load_layers(struct store *s, void (*each)(void *arg, const char *digest, uint64_t bytes), void *arg,
                      struct err *e)
{
    struct layer_sink k = {each, arg};

    return each_row(s, "SELECT digest, bytes FROM layer ORDER BY digest", "reading the layers", layer_row, &k, e);
}
