/* The table file, read as if somebody hostile had written it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "spawner/table.h"

#define BOOT "2b3c0000-0000-4000-8000-000000000001"

static uint8_t file[1 << 16];
static size_t len;
static unsigned seen;
static struct table_rec last;

static void count(void *arg, const struct table_rec *rec, const uint8_t (*digests)[TABLE_DIGEST])
{
    (void)arg;
    for (unsigned i = 0; i < rec->layer_count; i++)
        assert_int_equal(digests[i][31], i); /* every digest can be read, and is the one that was written */
    last = *rec;
    seen++;
}

static int fresh(void **state)
{
    struct table_head head = {.magic = TABLE_MAGIC, .version = TABLE_VERSION, .boot_id = BOOT};

    (void)state;
    memcpy(file, &head, sizeof head);
    len = sizeof head;
    seen = 0;
    return 0;
}

static struct table_rec live(const char *id)
{
    struct table_rec r = {.state = TABLE_LIVE, .pid = 77, .slot = 3, .layer_count = 2, .writable = SP_W_LOOP};

    strncpy(r.id, id, sizeof r.id - 1);
    return r;
}

static void put(const struct table_rec *r)
{
    union {
        struct table_rec rec;
        uint8_t bytes[sizeof(struct table_rec) + SP_LAYERS_MAX * TABLE_DIGEST];
    } buf = {0};
    size_t n;

    buf.rec = *r;
    for (unsigned i = 0; i < r->layer_count; i++)
        buf.bytes[sizeof *r + i * TABLE_DIGEST + 31] = (uint8_t)i;
    n = table_seal(&buf.rec);
    memcpy(file + len, buf.bytes, n);
    len += n;
}

static size_t parse(void)
{
    /* An exact copy: a sanitizer then sees a read behind its end. */
    uint8_t *copy = malloc(len > 0 ? len : 1);
    size_t r;

    assert_non_null(copy);
    memcpy(copy, file, len);
    seen = 0;
    r = table_parse(copy, len, BOOT, count, NULL);
    free(copy);
    return r;
}

static void another_boot_or_version_is_no_table(void **state)
{
    struct table_rec r = live("a");
    struct table_head *head = (struct table_head *)file;

    (void)state;
    put(&r);
    assert_int_equal(table_parse(file, len, "other", count, NULL), 0);
    head->version++;
    assert_int_equal(parse(), 0);
    head->version--;
    memset(head->boot_id, 'x', sizeof head->boot_id);
    assert_int_equal(parse(), 0);
    assert_int_equal(seen, 0);
    len = 10;
    assert_int_equal(parse(), 0);
    len = 0;
    assert_int_equal(parse(), 0);
}

static void every_cut_is_survived(void **state)
{
    struct table_rec r = live("a");
    size_t full, one;

    (void)state;
    put(&r);
    one = len;
    put(&r);
    full = len;
    for (len = 0; len < full; len++) {
        size_t got = parse();

        assert_true(got <= len);
        assert_int_equal(seen, len >= one ? 1 : 0);
    }
    assert_int_equal(parse(), full);
    assert_int_equal(seen, 2);
}

static void every_flipped_byte_is_survived(void **state)
{
    struct table_rec r = live("a");

    (void)state;
    put(&r);
    put(&r);
    for (size_t i = sizeof(struct table_head); i < len; i++) {
        file[i] ^= 0x41;
        (void)parse();
        assert_true(seen < 2);
        file[i] ^= 0x41;
    }
}

static void sealed_nonsense_is_skipped(void **state)
{
    static const char *const ids[] = {"", "../x", "A", "a/b"};
    struct table_rec r;

    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(ids); i++) {
        r = live(ids[i]);
        put(&r);
    }
    r = live("a");
    memset(r.id, 'a', sizeof r.id);
    put(&r);
    r = live("a");
    r.pid = 1;
    put(&r);
    r.pid = -1;
    put(&r);
    r = live("a");
    r.slot = -1;
    put(&r);
    r = live("a");
    r.writable = SP_W_COUNT;
    put(&r);
    r = live("a");
    r.egress = SP_E_COUNT;
    put(&r);
    r = live("a");
    r.state = TABLE_STATE_COUNT;
    put(&r);
    r = live("a");
    memset(r.layer_key, 'k', sizeof r.layer_key);
    put(&r);
    r = (struct table_rec){.state = TABLE_EPOCH, .epoch = 0};
    put(&r);
    assert_int_equal(parse(), len);
    assert_int_equal(seen, 0);
}

static void too_many_layers_end_the_reading(void **state)
{
    struct table_rec r = live("a");
    struct table_rec *at = (struct table_rec *)(file + len);

    (void)state;
    put(&r);
    at->layer_count = SP_LAYERS_MAX + 1;
    assert_true(parse() < len);
    at->layer_count = 0xffffffffu;
    assert_true(parse() < len);
    at->size = 0xffffffffu;
    assert_true(parse() < len);
    assert_int_equal(seen, 0);
}

static void what_is_written_is_read(void **state)
{
    struct table_rec r = live("sbx-1");

    (void)state;
    r.layer_count = SP_LAYERS_MAX;
    r.start_ticks = 123456;
    put(&r);
    assert_int_equal(parse(), len);
    assert_int_equal(seen, 1);
    assert_string_equal(last.id, "sbx-1");
    assert_int_equal(last.pid, 77);
    assert_int_equal(last.start_ticks, 123456);
    r = (struct table_rec){.state = TABLE_EPOCH, .epoch = 9};
    put(&r);
    assert_int_equal(parse(), len);
    assert_int_equal(last.epoch, 9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(another_boot_or_version_is_no_table, fresh),
        cmocka_unit_test_setup(every_cut_is_survived, fresh),
        cmocka_unit_test_setup(every_flipped_byte_is_survived, fresh),
        cmocka_unit_test_setup(sealed_nonsense_is_skipped, fresh),
        cmocka_unit_test_setup(too_many_layers_end_the_reading, fresh),
        cmocka_unit_test_setup(what_is_written_is_read, fresh),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
