/* The connection and the queue of writes.
 *
 * One batch at a time is on the database lane: what is queued meanwhile becomes the next batch, so that a burst costs few
 * commits and a lone write waits for nobody. A statement that fails takes only its own write down; a commit that fails
 * takes the batch. The loop thread owns everything but the connection, which belongs to whoever runs the batch. */
#include "store/store-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/stat.h>

#include "base/fd.h"

enum {
    STORE_QUEUE_MAX = 65536, /* writes waiting; more are refused with -EAGAIN */
    STORE_BATCH_MAX = 1024,  /* writes in one transaction */
};

enum write_kind {
    W_PUT_BOX,
    W_UPDATE_BOX,
    W_DEL_BOX,
    W_PUT_IMAGE,
    W_DEL_IMAGE,
    W_PUT_LAYER,
    W_DEL_LAYER,
    W_FLUSH,
    W_KINDS
};

struct write {
    STAILQ_ENTRY(write) link;
    enum write_kind kind;
    struct box_record *box;
    struct image_record *image;
    char *key;
    uint64_t bytes;
    store_done done;
    void *arg;
    struct err *failed;
};
STAILQ_HEAD(write_list, write);

struct batch {
    struct work work;
    struct store *store; /* NULL once the store was closed; loop thread only */
    struct write_list writes;
    /* under the lock of `sync` */
    struct sync *sync;
    bool ran;
};

/* Outlives the store when a batch's DONE is still to come. */
struct sync {
    pthread_mutex_t lock;
    pthread_cond_t ran;
};

struct store {
    struct loop *loop;
    sqlite3 *db;
    sqlite3_stmt *stmts[W_KINDS]; /* prepared at first use, by whoever runs the batch */
    struct write_list queued;
    unsigned queued_count;
    struct batch *running;
    struct sync *sync;
};

static const struct {
    const char *sql, *what;
} kinds[W_KINDS] = {
    [W_PUT_BOX] =
        {"INSERT OR REPLACE INTO box VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
         "recording the sandbox"},
    [W_UPDATE_BOX] =
        {"UPDATE box SET state=?2, reason=?3, started_ns=?4, ended_ns=?5, has_exit=?6, exit_code=?7, oom=?8 "
         "WHERE id=?1",
         "updating the sandbox's record"},
    [W_DEL_BOX] = {"DELETE FROM box WHERE id=?1", "deleting the sandbox's record"},
    [W_PUT_IMAGE] = {"INSERT OR REPLACE INTO image VALUES (?,?,?,?,?,?)", "recording the image"},
    [W_DEL_IMAGE] = {"DELETE FROM image WHERE name=?1", "deleting the image's record"},
    [W_PUT_LAYER] = {"INSERT OR REPLACE INTO layer VALUES (?,?)", "recording the layer"},
    [W_DEL_LAYER] = {"DELETE FROM layer WHERE digest=?1", "deleting the layer's record"},
};

/* Of a write whose own words found no room: a failure must not pass for success. */
static struct err unsaid = {
    .code = -ENOMEM, .kind = ERR_EXHAUSTED, .msg = "writing to the database failed, and there is no memory to say why"};

static void write_free(struct write *w)
{
    if (w == NULL)
        return;
    box_record_free(w->box);
    image_record_free(w->image);
    free(w->key);
    if (w->failed != &unsaid)
        free(w->failed);
    free(w);
}

/* ---- on the lane ---------------------------------------------------------------------------------------------- */

static void write_fail(struct write *w, const struct err *e)
{
    if (w->failed == NULL || w->failed == &unsaid)
        w->failed = malloc(sizeof *w->failed);
    if (w->failed != NULL)
        *w->failed = *e;
    else
        w->failed = &unsaid;
}

static int bind_text(sqlite3_stmt *st, int col, const char *s)
{
    return s != NULL ? sqlite3_bind_text(st, col, s, -1, SQLITE_STATIC) : sqlite3_bind_null(st, col);
}

static int bind_blob(sqlite3_stmt *st, int col, const void *p, size_t len)
{
    if (p == NULL)
        return sqlite3_bind_null(st, col);
    return len != 0 ? sqlite3_bind_blob64(st, col, p, len, SQLITE_STATIC) : sqlite3_bind_zeroblob(st, col, 0);
}

static int bind_put_box(sqlite3_stmt *st, const struct box_record *r)
{
    const char *const head[] = {r->id,    r->tenant,       r->creator,   r->dialect,
                                r->image, r->image_digest, r->runner_id, r->request_id};
    const int64_t numbers[] = {r->state,
                               (int64_t)r->created_ns,
                               (int64_t)r->started_ns,
                               (int64_t)r->ended_ns,
                               (int64_t)r->memory_bytes,
                               (int64_t)r->disk_bytes,
                               r->cpu_millis,
                               r->pids,
                               r->lifetime_s,
                               r->has_exit,
                               r->oom,
                               r->exit_code,
                               r->egress,
                               r->flags};
    int rc = SQLITE_OK, col = 1;

    for (size_t i = 0; i < ARRAY_LEN(head); i++)
        rc |= bind_text(st, col++, head[i]);
    rc |= bind_blob(st, col++, r->echo, r->echo_len);
    rc |= store_bind_list(st, col++, r->tags);
    rc |= bind_text(st, col++, r->command);
    rc |= store_bind_list(st, col++, r->args);
    rc |= bind_text(st, col++, r->cwd);
    rc |= bind_text(st, col++, r->user);
    rc |= bind_blob(st, col++, r->env, r->env_len);
    rc |= store_bind_list(st, col++, r->layers);
    rc |= bind_text(st, col++, r->entry_json);
    rc |= bind_text(st, col++, r->reason);
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++)
        rc |= sqlite3_bind_int64(st, col++, numbers[i]);
    rc |= bind_text(st, col, r->boot_id);
    return rc;
}

static int bind_update_box(sqlite3_stmt *st, const struct box_record *r)
{
    int rc = bind_text(st, 1, r->id);

    rc |= sqlite3_bind_int64(st, 2, r->state);
    rc |= bind_text(st, 3, r->reason);
    rc |= sqlite3_bind_int64(st, 4, (int64_t)r->started_ns);
    rc |= sqlite3_bind_int64(st, 5, (int64_t)r->ended_ns);
    rc |= sqlite3_bind_int64(st, 6, r->has_exit);
    rc |= sqlite3_bind_int64(st, 7, r->exit_code);
    rc |= sqlite3_bind_int64(st, 8, r->oom);
    return rc;
}

static int bind_write(sqlite3_stmt *st, const struct write *w)
{
    const struct image_record *m = w->image;
    int rc;

    switch (w->kind) {
    case W_PUT_BOX:
        return bind_put_box(st, w->box);
    case W_UPDATE_BOX:
        return bind_update_box(st, w->box);
    case W_PUT_IMAGE:
        rc = bind_text(st, 1, m->name);
        rc |= bind_text(st, 2, m->digest);
        rc |= bind_text(st, 3, m->config_json);
        rc |= store_bind_list(st, 4, m->layers);
        rc |= sqlite3_bind_int64(st, 5, (int64_t)m->bytes);
        return rc | sqlite3_bind_int64(st, 6, (int64_t)m->created_ns);
    case W_PUT_LAYER:
        rc = bind_text(st, 1, w->key);
        return rc | sqlite3_bind_int64(st, 2, (int64_t)w->bytes);
    default:
        return bind_text(st, 1, w->key);
    }
}

static void run_write(struct store *s, struct write *w)
{
    sqlite3_stmt **st = &s->stmts[w->kind];
    struct err e;
    int rc = SQLITE_OK;

    if (w->kind == W_FLUSH)
        return;
    if (*st == NULL)
        rc = sqlite3_prepare_v3(s->db, kinds[w->kind].sql, -1, SQLITE_PREPARE_PERSISTENT, st, NULL);
    if (rc == SQLITE_OK && bind_write(*st, w) != SQLITE_OK)
        rc = SQLITE_NOMEM; /* the only way a bind of ours fails, values too big for SQLite apart */
    if (rc == SQLITE_OK)
        rc = sqlite3_step(*st);
    if (rc != SQLITE_DONE) {
        (void)store_sqlite_err(s->db, rc, kinds[w->kind].what, &e);
        write_fail(w, &e);
    } else if (w->kind == W_UPDATE_BOX && sqlite3_changes(s->db) == 0) {
        (void)err_typed(&e, ERR_NOT_FOUND, NULL, "updating the sandbox's record: there is none for '%s'", w->box->id);
        write_fail(w, &e);
    }
    if (*st != NULL) {
        (void)sqlite3_reset(*st); /* repeats the error of the step */
        (void)sqlite3_clear_bindings(*st);
    }
}

static void fail_all(struct write_list *list, const struct err *e)
{
    struct write *w;

    STAILQ_FOREACH (w, list, link)
        write_fail(w, e);
}

/* One transaction for all of LIST. */
static void run_list(struct store *s, struct write_list *list)
{
    struct write *w;
    struct err e;
    int rc;

    rc = sqlite3_exec(s->db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
    if (rc != SQLITE_OK) {
        (void)store_sqlite_err(s->db, rc, "writing to the database", &e);
        fail_all(list, &e);
        return;
    }
    STAILQ_FOREACH (w, list, link)
        run_write(s, w);
    if (sqlite3_get_autocommit(s->db) !=
        0) { /* a full disk makes SQLite roll back by itself: nothing of the batch is kept */
        (void)err_typed(&e, ERR_EXHAUSTED, NULL, "writing to the database: the transaction was rolled back");
        STAILQ_FOREACH (w, list, link)
            if (w->failed == NULL)
                write_fail(w, &e);
        return;
    }
    rc = sqlite3_exec(s->db, "COMMIT", NULL, NULL, NULL);
    if (rc != SQLITE_OK) {
        (void)store_sqlite_err(s->db, rc, "writing to the database", &e);
        fail_all(list, &e);
        (void)sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL); /* may be over already */
    }
}

static void batch_run(struct work *work)
{
    struct batch *b = container_of(work, struct batch, work);

    /* The store cannot go away: store_close() waits for `ran`. */
    run_list(b->store, &b->writes);
    (void)pthread_mutex_lock(&b->sync->lock);
    b->ran = true;
    (void)pthread_cond_signal(&b->sync->ran);
    (void)pthread_mutex_unlock(&b->sync->lock);
}

/* ---- on the loop ----------------------------------------------------------------------------------------------- */

static void sync_free(struct sync *y)
{
    (void)pthread_mutex_destroy(&y->lock);
    (void)pthread_cond_destroy(&y->ran);
    free(y);
}

static void batch_free(struct batch *b)
{
    struct write *w;

    while ((w = STAILQ_FIRST(&b->writes)) != NULL) {
        STAILQ_REMOVE_HEAD(&b->writes, link);
        write_free(w);
    }
    free(b);
}

static void kick(struct store *s);

static void batch_done(struct work *work)
{
    struct batch *b = container_of(work, struct batch, work);
    struct store *s = b->store;
    struct write *w;

    if (s == NULL) { /* closed meanwhile: what is left belongs to us */
        sync_free(b->sync);
        batch_free(b);
        return;
    }
    s->running = NULL;
    kick(s);
    while ((w = STAILQ_FIRST(&b->writes)) != NULL) {
        STAILQ_REMOVE_HEAD(&b->writes, link);
        if (w->done != NULL)
            w->done(w->arg, w->failed);
        write_free(w);
    }
    batch_free(b);
}

/* Sends what is queued to the lane, unless a batch is there. */
static void kick(struct store *s)
{
    struct batch *b;
    struct write *w;
    unsigned n;

    if (s->running != NULL || STAILQ_EMPTY(&s->queued))
        return;
    b = calloc(1, sizeof *b);
    if (b == NULL)
        return; /* the next write tries again; a lack of memory this small does not last */
    b->store = s;
    b->sync = s->sync;
    b->work.lane = WORK_LANE_DB;
    STAILQ_INIT(&b->writes);
    for (n = 0; n < STORE_BATCH_MAX && (w = STAILQ_FIRST(&s->queued)) != NULL; n++) {
        STAILQ_REMOVE_HEAD(&s->queued, link);
        STAILQ_INSERT_TAIL(&b->writes, w, link);
    }
    if (work_submit(s->loop, &b->work, batch_run, batch_done) < 0) {
        STAILQ_CONCAT(&b->writes, &s->queued); /* back where they were: the pool is full, the next write tries again */
        STAILQ_CONCAT(&s->queued, &b->writes);
        free(b);
        return;
    }
    s->queued_count -= n;
    s->running = b;
}

static int enqueue(struct store *s, struct write *w, int r, store_done done, void *arg)
{
    if (w == NULL || r < 0) {
        write_free(w);
        return -ENOMEM;
    }
    if (s->queued_count >= STORE_QUEUE_MAX) {
        write_free(w);
        return -EAGAIN;
    }
    w->done = done;
    w->arg = arg;
    STAILQ_INSERT_TAIL(&s->queued, w, link);
    s->queued_count++;
    kick(s);
    return 0;
}

static struct write *write_new(enum write_kind kind)
{
    struct write *w = calloc(1, sizeof *w);

    if (w != NULL)
        w->kind = kind;
    return w;
}

static int write_key(struct store *s, enum write_kind kind, const char *key, uint64_t bytes, store_done done, void *arg)
{
    struct write *w = write_new(kind);

    if (w != NULL) {
        w->key = strdup(key);
        w->bytes = bytes;
    }
    return enqueue(s, w, w != NULL && w->key == NULL ? -ENOMEM : 0, done, arg);
}

int store_put_box(struct store *s, const struct box_record *r, store_done done, void *arg)
{
    struct write *w = write_new(W_PUT_BOX);

    return enqueue(s, w, w != NULL ? box_record_copy(r, &w->box) : 0, done, arg);
}

int store_update_box(struct store *s, const struct box_record *r, store_done done, void *arg)
{
    struct write *w = write_new(W_UPDATE_BOX);
    struct box_record part = {.reason = r->reason,
                              .state = r->state,
                              .started_ns = r->started_ns,
                              .ended_ns = r->ended_ns,
                              .has_exit = r->has_exit,
                              .oom = r->oom,
                              .exit_code = r->exit_code};

    memcpy(part.id, r->id, sizeof part.id);
    return enqueue(s, w, w != NULL ? box_record_copy(&part, &w->box) : 0, done, arg);
}

int store_del_box(struct store *s, const char *id, store_done done, void *arg)
{
    return write_key(s, W_DEL_BOX, id, 0, done, arg);
}

int store_put_image(struct store *s, const struct image_record *r, store_done done, void *arg)
{
    struct write *w = write_new(W_PUT_IMAGE);

    return enqueue(s, w, w != NULL ? image_record_copy(r, &w->image) : 0, done, arg);
}

int store_del_image(struct store *s, const char *name, store_done done, void *arg)
{
    return write_key(s, W_DEL_IMAGE, name, 0, done, arg);
}

int store_put_layer(struct store *s, const char *digest, uint64_t bytes, store_done done, void *arg)
{
    return write_key(s, W_PUT_LAYER, digest, bytes, done, arg);
}

int store_del_layer(struct store *s, const char *digest, store_done done, void *arg)
{
    return write_key(s, W_DEL_LAYER, digest, 0, done, arg);
}

int store_flush(struct store *s, store_done done, void *arg)
{
    return enqueue(s, write_new(W_FLUSH), 0, done, arg);
}

/* ---- open and close -------------------------------------------------------------------------------------------- */

/* Makes the folder and the file before SQLite does: it would use the umask, and gives the modes of the file to the ones beside it. */
static int make_file(const char *state_dir, char **ret_path, struct err *e)
{
    AUTO_FREE char *dir = NULL, *path = NULL;
    AUTO_FD fd = -1;

    if (asprintf(&dir, "%s/db", state_dir) < 0 || asprintf(&path, "%s/silica.db", dir) < 0)
        return err_set(e, ENOMEM, "opening the database: %m");
    if (mkdir(dir, 0700) < 0 && errno != EEXIST)
        return err_set(e, errno, "make folder '%s': %m (every folder above it must be searchable by uid %u)", dir,
                       geteuid());
    fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set(e, errno, "open database '%s': %m", path);
    if (fchmod(fd, 0600) < 0)
        return err_set(e, errno, "protect database '%s': %m", path);
    *ret_path = take_ptr(path);
    return 0;
}

int store_open(struct loop *loop, const char *state_dir, struct store **ret, struct err *e)
{
    AUTO_FREE char *path = NULL;
    struct store *s;
    int r, rc;

    r = make_file(state_dir, &path, e);
    if (r < 0)
        return r;
    s = calloc(1, sizeof *s);
    if (s == NULL || (s->sync = calloc(1, sizeof *s->sync)) == NULL) {
        free(s);
        return err_set(e, ENOMEM, "opening the database: %m");
    }
    (void)pthread_mutex_init(&s->sync->lock, NULL);
    (void)pthread_cond_init(&s->sync->ran, NULL);
    s->loop = loop;
    STAILQ_INIT(&s->queued);
    rc = sqlite3_open_v2(path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, NULL);
    if (rc != SQLITE_OK) {
        r = store_sqlite_err(s->db, rc, "opening the database", e);
        (void)err_ctx(e, "%s", path);
    } else {
        r = store_schema_prepare(s->db, path, e);
    }
    if (r < 0) {
        store_close(s);
        return r;
    }
    *ret = s;
    return 0;
}

sqlite3 *store_reader(struct store *s, struct err *e)
{
    if (s->running != NULL) {
        (void)err_set(e, EBUSY, "reading the database: writes have begun");
        return NULL;
    }
    return s->db;
}

void store_close(struct store *s)
{
    struct batch *b;
    struct write *w;

    if (s == NULL)
        return;
    b = s->running;
    if (b != NULL) {
        (void)pthread_mutex_lock(&s->sync->lock);
        while (!b->ran)
            (void)pthread_cond_wait(&s->sync->ran, &s->sync->lock);
        (void)pthread_mutex_unlock(&s->sync->lock);
        b->store = NULL; /* its DONE is still to come and frees it */
    }
    if (!STAILQ_EMPTY(&s->queued))
        run_list(s, &s->queued);
    while ((w = STAILQ_FIRST(&s->queued)) != NULL) {
        STAILQ_REMOVE_HEAD(&s->queued, link);
        write_free(w);
    }
    for (size_t i = 0; i < ARRAY_LEN(s->stmts); i++)
        (void)sqlite3_finalize(s->stmts[i]); /* repeats the error of the last step */
    (void)sqlite3_close(s->db);
    if (b == NULL)
        sync_free(s->sync);
    free(s);
}
