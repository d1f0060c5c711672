/* The engine's images on a real store, with the spawner and the imager played by the test. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "engine/image-internal.h"
#include "wire/im.h"

#define HEX16 "0123456789abcdef"
static const char A[] = "a" HEX16 HEX16 HEX16 "0123456789abcde";
static const char B[] = "b" HEX16 HEX16 HEX16 "0123456789abcde";
static const char C[] = "c" HEX16 HEX16 HEX16 "0123456789abcde";

/* ---- the test's spawner ---------------------------------------------------------------------------------------------- */

static struct {
    bool down;
    int asked; /* imagers */
    void (*up)(void *arg, const struct err *e, int fd);
    void *up_arg;
    bool hold_rm, rm_fails, stop_at_rm;
    char removed[8][65];
    int removed_count;
    void (*rm_done)(void *arg, const struct err *e);
    void *rm_arg;
    struct defer turn;
    struct op op;
} sp;
static struct engine en;

struct op *spawner_imager(struct spawner_link *l, const struct sp_imager *req, int fd,
                          void (*cb)(void *arg, const struct err *e, int result_fd), void *arg)
{
    (void)l;
    assert_int_equal(req->op, SP_IM_LAYER);
    assert_true(req->max_bytes > 0 && req->max_entries > 0);
    (void)close(fd);
    sp.asked++;
    if (sp.down)
        return NULL;
    sp.up = cb;
    sp.up_arg = arg;
    return &sp.op;
}

static void rm_turn(struct defer *d)
{
    struct err e;

    (void)d;
    (void)err_typed(&e, ERR_PRECONDITION, NULL, "a sandbox uses it");
    sp.rm_done(sp.rm_arg, sp.rm_fails ? &e : NULL);
}

struct op *spawner_layer_rm(struct spawner_link *l, const char *digest, void (*cb)(void *arg, const struct err *e),
                            void *arg)
{
    (void)l;
    if (sp.down)
        return NULL;
    (void)snprintf(sp.removed[sp.removed_count++], 65, "%s", digest);
    sp.rm_done = cb;
    sp.rm_arg = arg;
    if (sp.stop_at_rm)
        loop_stop(en.loop);
    if (!sp.hold_rm)
        defer_start(en.loop, &sp.turn, rm_turn);
    return &sp.op;
}

/* The imager that was asked for last answers: MSG failed, or DIGEST; neither: it dies. */
static void imager_answers(const char *digest, const char *msg)
{
    const char *const notes[] = {"1 device node was left out", NULL};
    struct wire_tail tail = {0};
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    if (msg != NULL) {
        struct im_failed body = {.code = -28, .kind = ERR_EXHAUSTED, .msg = wire_put_str(&tail, msg)};

        assert_int_equal(wire_send(pair[1], IM_FAILED, 0, &body, sizeof body, &tail, NULL, 0), 0);
    } else if (digest != NULL) {
        struct im_layer body = {.unpacked_bytes = 1000, .entries = 1, .tar_bytes = 2048};

        body.digest = wire_put_str(&tail, digest);
        body.notes = wire_put_vec(&tail, notes);
        assert_int_equal(wire_send(pair[1], IM_LAYER, 0, &body, sizeof body, &tail, NULL, 0), 0);
    }
    wire_tail_fini(&tail);
    (void)close(pair[1]);
    sp.up(sp.up_arg, NULL, pair[0]);
}

/* ---- callers ------------------------------------------------------------------------------------------------------------ */

static struct {
    int calls, want;
    struct err err; /* code 0 = success */
    char digest[65], name[256], note[64];
    uint64_t bytes;
} got;

static void count(const struct err *e)
{
    got.err = e != NULL ? *e : (struct err){0};
    if (++got.calls == got.want)
        loop_stop(en.loop);
}

static void on_layer(void *arg, const struct err *e, const char *digest, uint64_t bytes, const char *const *notes)
{
    (void)arg;
    (void)snprintf(got.digest, sizeof got.digest, "%s", digest != NULL ? digest : "");
    (void)snprintf(got.note, sizeof got.note, "%s", notes[0] != NULL ? notes[0] : "");
    got.bytes = bytes;
    count(e);
}

static void on_image(void *arg, const struct err *e, const struct image_info *info)
{
    (void)arg;
    (void)snprintf(got.name, sizeof got.name, "%s", info != NULL ? info->name : "");
    count(e);
}

static void run_for(int calls)
{
    got.calls = 0;
    got.want = calls;
    got.err = (struct err){0};
    assert_int_equal(loop_run(en.loop), 0);
    assert_int_equal(got.calls, calls);
}

static struct op *import(void)
{
    return engine_layer_import(&en, open("/dev/null", O_RDONLY | O_CLOEXEC), on_layer, NULL);
}

static void imported(const char *digest)
{
    assert_non_null(import());
    imager_answers(digest, NULL);
    run_for(1);
    assert_int_equal(got.err.code, 0);
    assert_string_equal(got.digest, digest);
}

static void put(const char *name, const char *const *layers)
{
    const struct image_config config = {.cmd = (const char *const[]){"sh", NULL}};

    assert_non_null(engine_image_put(&en, name, layers, &config, on_image, NULL));
    run_for(1);
}

static void put_fine(const char *name, const char *one, const char *two)
{
    put(name, (const char *const[]){one, two, NULL});
    assert_string_equal(got.err.msg, "");
    assert_int_equal(got.err.code, 0);
}

static void removed(const char *name)
{
    assert_non_null(engine_image_remove(&en, name, on_image, NULL));
    run_for(1);
    assert_int_equal(got.err.code, 0);
}

/* A put does not wait for the layers that it leaves behind: runs until the spawner was asked to remove N in all. */
static void wait_removed(int n)
{
    sp.stop_at_rm = true;
    while (sp.removed_count < n)
        assert_int_equal(loop_run(en.loop), 0);
    sp.stop_at_rm = false;
    assert_int_equal(sp.removed_count, n);
}

/* ---- a world -------------------------------------------------------------------------------------------------------------- */

static char dir[64];

static void open_store(void)
{
    struct err e;

    en = (struct engine){0};
    assert_int_equal(loop_new(&en.loop, &e), 0);
    if (store_open(en.loop, dir, &en.store, &e) < 0)
        fail_msg("%s", e.msg);
    assert_int_equal(images_load(&en, &e), 0);
}

static void close_store(void)
{
    en.stopping = true;
    defer_stop(&sp.turn);
    store_close(en.store);
    images_free(&en);
    loop_free(en.loop);
}

static int setup(void **state)
{
    (void)state;
    memset(&sp, 0, sizeof sp);
    (void)snprintf(dir, sizeof dir, "/tmp/silica-image-XXXXXX");
    assert_non_null(mkdtemp(dir));
    open_store();
    return 0;
}

static int teardown(void **state)
{
    char cmd[96];

    (void)state;
    close_store();
    (void)snprintf(cmd, sizeof cmd, "rm -r '%s'", dir);
    return system(cmd);
}

/* ---- imports ---------------------------------------------------------------------------------------------------------------- */

static void an_import_that_fails_says_why(void **state)
{
    (void)state;
    assert_non_null(import());
    imager_answers(NULL, "the archive has more than 10 entries, the limit");
    run_for(1);
    assert_int_equal(got.err.kind, ERR_EXHAUSTED);
    assert_string_equal(got.err.msg, "the archive has more than 10 entries, the limit");

    assert_non_null(import());
    imager_answers(NULL, NULL);
    run_for(1);
    assert_string_equal(got.err.msg, "the imager died before it answered");

    assert_non_null(import());
    imager_answers("../../etc", NULL);
    run_for(1);
    assert_string_equal(got.err.msg, "the imager's answer is malformed");

    sp.down = true;
    assert_non_null(import());
    run_for(1);
    assert_int_equal(got.err.kind, ERR_UNAVAILABLE);
}

static void an_import_names_the_layer_and_what_was_skipped(void **state)
{
    (void)state;
    imported(A);
    assert_int_equal(got.bytes, 1000);
    assert_string_equal(got.note, "1 device node was left out");
}

static void imports_wait_for_their_turn_up_to_a_limit(void **state)
{
    (void)state;
    for (int i = 0; i < LAYER_IMPORTS_MAX + LAYER_IMPORTS_WAITING_MAX; i++)
        assert_non_null(import());
    assert_int_equal(sp.asked, LAYER_IMPORTS_MAX);
    assert_non_null(import());
    run_for(1);
    assert_int_equal(got.err.kind, ERR_EXHAUSTED);
    assert_non_null(strstr(got.err.msg, "64 layers are waiting"));
    imager_answers(A, NULL);
    run_for(1);
    assert_int_equal(sp.asked, LAYER_IMPORTS_MAX + 1);
}

static void a_dropped_import_is_not_reported_but_done(void **state)
{
    struct op *op = import();

    (void)state;
    op->dropped = true;
    imager_answers(A, NULL);
    assert_non_null(import());
    imager_answers(B, NULL);
    run_for(1);
    assert_string_equal(got.digest, B);
    put_fine("a", A, NULL);
}

/* ---- images ------------------------------------------------------------------------------------------------------------------- */

static void an_image_of_nothing_or_of_unknown_layers_is_refused(void **state)
{
    const char *many[IMAGE_LAYERS_MAX + 2] = {NULL};

    (void)state;
    put("x", (const char *const[]){A, NULL});
    assert_int_equal(got.err.kind, ERR_NOT_FOUND);
    put("x", (const char *const[]){NULL});
    assert_int_equal(got.err.kind, ERR_INVALID);
    imported(A);
    for (int i = 0; i <= IMAGE_LAYERS_MAX; i++)
        many[i] = A;
    put("x", many);
    assert_string_equal(got.err.msg, "an image has 1 to 128 layers");
    put("X", (const char *const[]){A, NULL});
    assert_int_equal(got.err.kind, ERR_INVALID);
    put("x@sha256:" HEX16 HEX16 HEX16 HEX16, (const char *const[]){A, NULL});
    assert_int_equal(got.err.kind, ERR_INVALID);
}

static void an_image_is_found_by_all_its_names_also_after_a_restart(void **state)
{
    struct image_info info;
    char digest[65], name[128];
    struct err e;

    (void)state;
    imported(A);
    imported(B);
    put_fine("docker.io/library/python:3.11", A, B);
    assert_string_equal(got.name, "python:3.11");
    close_store();
    open_store();
    assert_int_equal(engine_image_get(&en, "python:3.11", &info, &e), 0);
    assert_int_equal(engine_image_get(&en, "docker.io/python:3.11", &info, &e), 0);
    assert_string_equal(info.name, "python:3.11");
    assert_string_equal(info.layers[0], A);
    assert_string_equal(info.layers[1], B);
    assert_null(info.layers[2]);
    assert_string_equal(info.config.cmd[0], "sh");
    assert_null(info.config.entrypoint);
    assert_int_equal(info.bytes, 2000);
    (void)snprintf(digest, sizeof digest, "%s", info.digest);
    (void)snprintf(name, sizeof name, "python@sha256:%s", digest);
    assert_int_equal(engine_image_get(&en, name, &info, &e), 0);
    (void)snprintf(name, sizeof name, "python:3.12@sha256:%s", digest);
    assert_int_equal(engine_image_get(&en, name, &info, &e), -2);
    assert_int_equal(engine_image_get(&en, "python", &info, &e), -2);
    assert_string_equal(e.msg, "there is no image 'python:latest' on this machine");
    assert_true(engine_image_get(&en, "Python", &info, &e) < 0);
    assert_int_equal(e.kind, ERR_INVALID);
}

static void collect_names(void *arg, const struct image_info *info)
{
    (void)snprintf((char *)arg + strlen(arg), 100 - strlen(arg), "%s ", info->name);
}

static void images_are_listed_by_name(void **state)
{
    char names[100] = "";
    struct err e;

    (void)state;
    imported(A);
    put_fine("zoo", A, NULL);
    put_fine("bee", A, NULL);
    put_fine("cat:1", A, NULL);
    assert_int_equal(engine_image_list(&en, collect_names, names, &e), 0);
    assert_string_equal(names, "bee:latest cat:1 zoo:latest ");
}

static void removing_an_unknown_image_is_refused(void **state)
{
    (void)state;
    assert_non_null(engine_image_remove(&en, "nothing", on_image, NULL));
    run_for(1);
    assert_int_equal(got.err.kind, ERR_NOT_FOUND);
    imported(A);
    put_fine("a", A, NULL);
    assert_non_null(engine_image_remove(&en, "a", on_image, NULL));
    assert_non_null(engine_image_remove(&en, "a", on_image, NULL)); /* the second finds nothing left */
    run_for(2);
    assert_int_equal(sp.removed_count, 1);
}

static void layers_that_others_use_stay(void **state)
{
    struct box_record rec = {.layers = (char *[]){(char *)C, NULL}};
    struct box box = {.rec = &rec, .state = BOX_RUNNING};
    struct image_info info;
    struct err e;

    (void)state;
    imported(A);
    imported(B);
    put_fine("one", A, B);
    put_fine("two", A, NULL);
    removed("one");
    assert_string_equal(got.name, "one:latest");
    assert_int_equal(sp.removed_count, 1);
    assert_string_equal(sp.removed[0], B);
    assert_int_equal(engine_image_get(&en, "two", &info, &e), 0);

    /* A live sandbox of a removed image, then an ended one. */
    imported(C);
    put_fine("three", C, NULL);
    (void)snprintf(box.id, sizeof box.id, "sb-1");
    HASH_ADD_STR(en.boxes, id, &box);
    removed("three");
    assert_int_equal(sp.removed_count, 1);
    box.state = BOX_COMPLETED;
    box.hold = BOX_HOLD_KILLING;
    removed("two");
    assert_int_equal(sp.removed_count, 2);
    assert_string_equal(sp.removed[1], A);
    images_box_released(&en); /* of another one */
    assert_int_equal(sp.removed_count, 2);
    box.hold = BOX_HOLD_NONE;
    images_box_released(&en);
    wait_removed(3);
    assert_string_equal(sp.removed[2], C);
    HASH_DEL(en.boxes, &box);
}

static void a_layer_that_waits_for_its_image_stays(void **state)
{
    (void)state;
    imported(A);
    put_fine("a", A, NULL);
    imported(B);
    removed("a");
    assert_int_equal(sp.removed_count, 1);
    put_fine("b", B, NULL);

    /* One whose image never came goes with the next import; that one's time begins anew. */
    imported(A);
    layer_find(en.image_state, A)->fresh_until = 1;
    imported(C);
    assert_true(layer_find(en.image_state, A)->fresh_until > 1);
    layer_find(en.image_state, A)->fresh_until = 1;
    assert_non_null(import());
    imager_answers(NULL, "not this time");
    wait_removed(2);
    assert_string_equal(sp.removed[1], A);
}

static void a_name_that_moves_on_leaves_its_old_layers(void **state)
{
    (void)state;
    imported(A);
    imported(B);
    put_fine("app", A, NULL);
    put_fine("app", B, NULL);
    wait_removed(1);
    assert_string_equal(sp.removed[0], A);
    put("again", (const char *const[]){A, NULL});
    assert_int_equal(got.err.kind, ERR_NOT_FOUND);
}

static void a_layer_that_cannot_be_removed_stays_known(void **state)
{
    (void)state;
    imported(A);
    put_fine("a", A, NULL);
    sp.rm_fails = true;
    removed("a");
    put_fine("b", A, NULL);
    close_store();
    open_store();
    put_fine("c", A, NULL);
}

static void an_import_waits_while_layers_are_removed(void **state)
{
    (void)state;
    imported(A);
    put_fine("a", A, NULL);
    sp.hold_rm = true;
    assert_non_null(engine_image_remove(&en, "a", on_image, NULL));
    wait_removed(1);
    sp.asked = 0;
    assert_non_null(import());
    assert_int_equal(sp.asked, 0);
    sp.rm_done(sp.rm_arg, NULL);
    assert_int_equal(sp.asked, 1);
    imager_answers(A, NULL);
    run_for(1);
    assert_string_equal(got.digest, A);
    put_fine("a", A, NULL);
}

static void layers_are_not_removed_while_one_is_imported(void **state)
{
    (void)state;
    imported(A);
    put_fine("a", A, NULL);
    assert_non_null(import());
    removed("a");
    assert_int_equal(sp.removed_count, 0);
    imager_answers(A, NULL); /* the very content: it is fresh again */
    run_for(1);
    put_fine("b", A, NULL);
    assert_int_equal(sp.removed_count, 0);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(an_import_that_fails_says_why),
        T(an_import_names_the_layer_and_what_was_skipped),
        T(imports_wait_for_their_turn_up_to_a_limit),
        T(a_dropped_import_is_not_reported_but_done),
        T(an_image_of_nothing_or_of_unknown_layers_is_refused),
        T(an_image_is_found_by_all_its_names_also_after_a_restart),
        T(images_are_listed_by_name),
        T(removing_an_unknown_image_is_refused),
        T(layers_that_others_use_stay),
        T(a_layer_that_waits_for_its_image_stays),
        T(a_name_that_moves_on_leaves_its_old_layers),
        T(a_layer_that_cannot_be_removed_stays_known),
        T(an_import_waits_while_layers_are_removed),
        T(layers_are_not_removed_while_one_is_imported),
    };

    log_init("test", LOG_L_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
