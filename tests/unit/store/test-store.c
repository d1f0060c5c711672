/* The store: what is refused at start, and what comes back after it. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "base/fd.h"
#include "store/store.h"

struct fixture {
    char dir[64], db[96];
    struct loop *loop;
    struct store *store;
    unsigned calls, failures;
    int order[16];
    struct err last;
};

static void fx_open(struct fixture *f)
{
    struct err e = {0};

    assert_int_equal(loop_new(&f->loop, &e), 0);
    if (store_open(f->loop, f->dir, &f->store, &e) < 0)
        fail_msg("%s", e.msg);
}

static void fx_close(struct fixture *f)
{
    store_close(f->store);
    f->store = NULL;
    loop_free(f->loop);
    f->loop = NULL;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);

    strcpy(f->dir, "/tmp/silica-store-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    (void)snprintf(f->db, sizeof f->db, "%s/db/silica.db", f->dir);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    static const char *const files[] = {"/db/silica.db", "/db/silica.db-wal", "/db/silica.db-shm", "/db", ""};
    struct fixture *f = *state;
    char path[128];

    fx_close(f);
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        (void)snprintf(path, sizeof path, "%s%s", f->dir, files[i]);
        (void)remove(path); /* some were never made */
    }
    free(f);
    return 0;
}

static void sql(struct fixture *f, const char *text)
{
    sqlite3 *db;

    assert_int_equal(sqlite3_open(f->db, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, text, NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

static void refused(struct fixture *f, const char *word)
{
    struct store *s = NULL;
    struct err e = {0};
    struct loop *loop;

    assert_int_equal(loop_new(&loop, &e), 0);
    assert_true(store_open(loop, f->dir, &s, &e) < 0);
    assert_non_null(strstr(e.msg, word));
    assert_non_null(strstr(e.msg, "silica.db"));
    loop_free(loop);
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

static void a_damaged_database_is_refused(void **state)
{
    struct fixture *f = *state;
    FILE *out;

    fx_open(f);
    fx_close(f);
    out = fopen(f->db, "w");
    assert_non_null(out);
    for (int i = 0; i < 4096; i++)
        (void)fputs("not a database", out);
    (void)fclose(out);
    refused(f, "damaged");
}

static void a_newer_database_is_refused(void **state)
{
    struct fixture *f = *state;

    fx_open(f);
    fx_close(f);
    sql(f, "PRAGMA user_version = 99");
    refused(f, "newer Silica");
}

static void a_foreign_database_is_refused(void **state)
{
    struct fixture *f = *state;

    fx_open(f);
    fx_close(f);
    sql(f, "PRAGMA application_id = 7");
    refused(f, "not a database of Silica");
}

static void ignore_box(void *arg, struct box_record *r)
{
    (void)arg;
    box_record_free(r);
}

static void a_record_of_an_unknown_state_is_refused(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};

    fx_open(f);
    fx_close(f);
    sql(f,
        "INSERT INTO box VALUES ('sb-1','t','c','d','i','','r',NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'',77,"
        "0,0,0,0,0,0,0,0,0,0,0,0,0,'')");
    fx_open(f);
    assert_int_equal(store_load_boxes(f->store, ignore_box, NULL, &e), -EBADMSG);
    assert_non_null(strstr(e.msg, "makes no sense"));
}

static void a_list_without_its_end_is_refused(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};

    fx_open(f);
    fx_close(f);
    sql(f, "INSERT INTO box VALUES "
           "('sb-1','t','c','d','i','','r',NULL,NULL,x'616263',NULL,NULL,NULL,NULL,NULL,NULL,NULL,'',1,"
           "0,0,0,0,0,0,0,0,0,0,0,0,0,'')");
    fx_open(f);
    assert_int_equal(store_load_boxes(f->store, ignore_box, NULL, &e), -EBADMSG);
}

/* ---- writing and reading ------------------------------------------------------------------------------------------- */

static char *const tags[] = {(char *)"a", (char *)"", (char *)"\xff\xfe raw", NULL};
static char *const nothing[] = {NULL};

static void sample(struct box_record *r, const char *id)
{
    *r = (struct box_record){
        .tenant = (char *)"t",
        .creator = (char *)"key",
        .dialect = (char *)"cw_v1",
        .image = (char *)"python:3.11",
        .image_digest = (char *)"d1",
        .runner_id = (char *)"r",
        .request_id = (char *)"req",
        .echo = (void *)"\0\1\2",
        .echo_len = 3,
        .tags = (char **)tags,
        .command = (char *)"sleep",
        .args = (char **)nothing,
        .user = (char *)"nobody",
        .env = (void *)"env",
        .env_len = 3,
        .layers = NULL,
        .entry_json = (char *)"{}",
        .reason = (char *)"",
        .state = BOX_RUNNING,
        .created_ns = 1700000000000000001,
        .memory_bytes = UINT64_C(1) << 62,
        .pids = 4096,
        .egress = 1,
        .flags = 1u << 16,
        .boot_id = (char *)"boot",
    };
    strcpy(r->id, id);
}

struct call {
    struct fixture *f;
    int number;
    unsigned until;
};

static void done(void *arg, const struct err *e)
{
    struct call *c = arg;
    struct fixture *f = c->f;

    if (f->calls < ARRAY_LEN(f->order))
        f->order[f->calls] = c->number;
    f->calls++;
    if (e != NULL) {
        f->failures++;
        f->last = *e;
    }
    if (c->until != 0 && f->calls >= c->until)
        loop_stop(f->loop);
}

struct found {
    unsigned n;
    struct box_record *first;
};

static void keep_first(void *arg, struct box_record *r)
{
    struct found *k = arg;

    if (k->n++ == 0)
        k->first = r;
    else
        box_record_free(r);
}

static void a_record_comes_back_whole(void **state)
{
    struct fixture *f = *state;
    struct call c = {f, 1, 1};
    struct box_record r;
    struct found k = {0};
    struct err e;

    fx_open(f);
    sample(&r, "sb-1");
    assert_int_equal(store_put_box(f->store, &r, done, &c), 0);
    assert_int_equal(f->calls, 0); /* never before it returned */
    assert_int_equal(loop_run(f->loop), 0);
    assert_int_equal(f->failures, 0);
    fx_close(f);

    fx_open(f);
    assert_int_equal(store_load_boxes(f->store, keep_first, &k, &e), 0);
    assert_int_equal(k.n, 1);
    assert_string_equal(k.first->id, "sb-1");
    assert_string_equal(k.first->request_id, "req");
    assert_int_equal(k.first->echo_len, 3);
    assert_memory_equal(k.first->echo, "\0\1\2", 3);
    assert_string_equal(k.first->tags[1], "");
    assert_string_equal(k.first->tags[2], "\xff\xfe raw");
    assert_null(k.first->tags[3]);
    assert_non_null(k.first->args); /* an empty list is not a missing one */
    assert_null(k.first->args[0]);
    assert_null(k.first->layers);
    assert_null(k.first->cwd);
    assert_string_equal(k.first->user, "nobody");
    assert_true(k.first->memory_bytes == UINT64_C(1) << 62);
    assert_true(k.first->created_ns == 1700000000000000001);
    assert_int_equal(k.first->flags, 1u << 16);
    assert_int_equal(k.first->state, BOX_RUNNING);
    assert_string_equal(k.first->boot_id, "boot");
    box_record_free(k.first);
}

static void an_update_changes_the_end_and_nothing_else(void **state)
{
    struct fixture *f = *state;
    struct call c = {f, 1, 2};
    struct box_record r;
    struct found k = {0};
    struct err e;

    fx_open(f);
    sample(&r, "sb-1");
    assert_int_equal(store_put_box(f->store, &r, done, &c), 0);
    r.state = BOX_COMPLETED;
    r.reason = (char *)"exited 3";
    r.has_exit = true;
    r.exit_code = 3;
    r.ended_ns = 5;
    r.tenant = (char *)"somebody else";
    assert_int_equal(store_update_box(f->store, &r, done, &c), 0);
    assert_int_equal(loop_run(f->loop), 0);
    fx_close(f);

    fx_open(f);
    assert_int_equal(store_load_boxes(f->store, keep_first, &k, &e), 0);
    assert_int_equal(k.first->state, BOX_COMPLETED);
    assert_string_equal(k.first->reason, "exited 3");
    assert_int_equal(k.first->exit_code, 3);
    assert_true(k.first->has_exit);
    assert_string_equal(k.first->tenant, "t");
    box_record_free(k.first);
}

static void an_update_of_no_record_fails_alone(void **state)
{
    struct fixture *f = *state;
    struct call c = {f, 1, 2};
    struct box_record r;

    fx_open(f);
    sample(&r, "sb-none");
    assert_int_equal(store_update_box(f->store, &r, done, &c), 0);
    strcpy(r.id, "sb-1");
    assert_int_equal(store_put_box(f->store, &r, done, &c), 0);
    assert_int_equal(loop_run(f->loop), 0);
    assert_int_equal(f->failures, 1);
    assert_int_equal(f->last.kind, ERR_NOT_FOUND);
}

static void callbacks_come_in_order_and_flush_is_last(void **state)
{
    struct fixture *f = *state;
    struct call c[4];
    struct box_record r;

    fx_open(f);
    sample(&r, "sb-1");
    for (int i = 0; i < 4; i++)
        c[i] = (struct call){f, i, i == 3 ? 4 : 0};
    assert_int_equal(store_put_box(f->store, &r, done, &c[0]), 0);
    assert_int_equal(store_put_layer(f->store, "l1", 10, done, &c[1]), 0);
    assert_int_equal(store_del_box(f->store, "sb-1", done, &c[2]), 0);
    assert_int_equal(store_flush(f->store, done, &c[3]), 0);
    assert_int_equal(loop_run(f->loop), 0);
    assert_int_equal(f->failures, 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(f->order[i], i);
}

static void closing_writes_what_is_queued(void **state)
{
    struct fixture *f = *state;
    struct box_record r;
    struct found k = {0};
    char id[ID_MAX];
    struct err e;

    fx_open(f);
    for (int i = 0; i < 2000; i++) {
        (void)snprintf(id, sizeof id, "sb-%d", i);
        sample(&r, id);
        assert_int_equal(store_put_box(f->store, &r, NULL, NULL), 0);
    }
    fx_close(f);
    fx_open(f);
    assert_int_equal(store_load_boxes(f->store, keep_first, &k, &e), 0);
    assert_int_equal(k.n, 2000);
    box_record_free(k.first);
}

static void a_queue_that_is_full_refuses(void **state)
{
    struct fixture *f = *state;
    int r = 0;
    unsigned n = 0;

    fx_open(f);
    while (n < 200000 && (r = store_put_layer(f->store, "same", n, NULL, NULL)) == 0)
        n++;
    /* The lane takes 1024 at a time and its DONE needs the loop, which does not run here. */
    assert_int_equal(r, -EAGAIN);
    assert_in_range(n, 65536, 65536 + 2 * 1024);
}

static void see_image(void *arg, struct image_record *r)
{
    unsigned *n = arg;

    (*n)++;
    assert_string_equal(r->name, "python:3.11");
    assert_string_equal(r->layers[0], "l1");
    image_record_free(r);
}

static void see_layer(void *arg, const char *digest, uint64_t bytes)
{
    unsigned *n = arg;

    (*n)++;
    assert_string_equal(digest, "l1");
    assert_int_equal(bytes, 10);
}

static void images_and_layers_come_back(void **state)
{
    struct fixture *f = *state;
    char *layers[] = {(char *)"l1", NULL};
    struct image_record m = {
        .name = (char *)"python:3.11", .digest = (char *)"d", .config_json = (char *)"{}", .layers = layers};
    unsigned images = 0, found_layers = 0;
    struct err e;

    fx_open(f);
    assert_int_equal(store_put_image(f->store, &m, NULL, NULL), 0);
    m.name = (char *)"gone";
    assert_int_equal(store_put_image(f->store, &m, NULL, NULL), 0);
    assert_int_equal(store_del_image(f->store, "gone", NULL, NULL), 0);
    assert_int_equal(store_put_layer(f->store, "l1", 10, NULL, NULL), 0);
    assert_int_equal(store_put_layer(f->store, "l2", 11, NULL, NULL), 0);
    assert_int_equal(store_del_layer(f->store, "l2", NULL, NULL), 0);
    fx_close(f);
    fx_open(f);
    assert_int_equal(store_load_images(f->store, see_image, &images, &e), 0);
    assert_int_equal(store_load_layers(f->store, see_layer, &found_layers, &e), 0);
    assert_int_equal(images, 1);
    assert_int_equal(found_layers, 1);
}

static void only_the_owner_may_read_it(void **state)
{
    struct fixture *f = *state;
    struct stat st;
    char wal[128];

    (void)umask(0);
    fx_open(f);
    assert_int_equal(stat(f->db, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    (void)snprintf(wal, sizeof wal, "%s-wal", f->db);
    assert_int_equal(stat(wal, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_damaged_database_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_newer_database_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_foreign_database_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_record_of_an_unknown_state_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_list_without_its_end_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_record_comes_back_whole, setup, teardown),
        cmocka_unit_test_setup_teardown(an_update_changes_the_end_and_nothing_else, setup, teardown),
        cmocka_unit_test_setup_teardown(an_update_of_no_record_fails_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(callbacks_come_in_order_and_flush_is_last, setup, teardown),
        cmocka_unit_test_setup_teardown(closing_writes_what_is_queued, setup, teardown),
        cmocka_unit_test_setup_teardown(a_queue_that_is_full_refuses, setup, teardown),
        cmocka_unit_test_setup_teardown(images_and_layers_come_back, setup, teardown),
        cmocka_unit_test_setup_teardown(only_the_owner_may_read_it, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
