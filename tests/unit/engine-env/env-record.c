/* Environments in records: what a damaged record does, and what a secret leaves behind. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "engine/env.h"

static const struct env_item items[] = {
    {.name = "PATH", .name_len = 4, .value = "/bin", .value_len = 4, .op = ENV_SET},
    {.name = "EMPTY", .name_len = 5, .value = "", .value_len = 0, .op = ENV_SET},
    {.name = "GONE", .name_len = 4, .op = ENV_UNSET},
};
static const struct env_item secret = {
    .name = "TOKEN", .name_len = 5, .value = "s3cr3t", .value_len = 6, .op = ENV_SET};

static struct buf packed(void)
{
    struct env_set *s;
    struct buf b = {0};

    assert_int_equal(env_new(&s), 0);
    assert_int_equal(env_apply(s, ENV_SANDBOX, items, ARRAY_LEN(items), false, NULL), 0);
    assert_int_equal(env_apply(s, ENV_SANDBOX, &secret, 1, true, NULL), 0);
    assert_int_equal(env_pack(s, &b), 0);
    env_free(s);
    return b;
}

static void a_record_cut_anywhere_is_refused(void **state)
{
    struct buf b = packed();
    struct env_set *s = NULL;

    (void)state;
    for (size_t len = 0; len < b.len; len++) {
        struct err e = {0};

        assert_true(env_unpack(b.data, len, &s, &e) < 0);
        assert_string_equal(e.msg, "the environment in a record is damaged");
        assert_null(s);
    }
    buf_fini(&b);
}

static void a_record_with_one_byte_too_many_is_refused(void **state)
{
    struct buf b = packed();
    struct env_set *s = NULL;

    (void)state;
    assert_int_equal(buf_append(&b, "", 1), 0);
    assert_true(env_unpack(b.data, b.len, &s, NULL) < 0);
    buf_fini(&b);
}

static void a_flipped_byte_never_crashes(void **state)
{
    struct buf b = packed();

    (void)state;
    for (size_t i = 0; i < b.len; i++) {
        for (int bit = 0; bit < 8; bit++) {
            struct env_set *s = NULL;

            b.data[i] ^= (uint8_t)(1 << bit);
            (void)env_unpack(b.data, b.len, &s, NULL);
            env_free(s);
            b.data[i] ^= (uint8_t)(1 << bit);
        }
    }
    buf_fini(&b);
}

static void a_secret_is_not_in_the_record(void **state)
{
    struct buf b = packed();
    struct env_set *s = NULL;

    (void)state;
    assert_null(memmem(b.data, b.len, "s3cr3t", 6));
    assert_null(memmem(b.data, b.len, "TOKEN", 5));
    assert_int_equal(env_unpack(b.data, b.len, &s, NULL), 0);
    assert_null(env_lookup(s, "TOKEN"));
    assert_string_equal(env_lookup(s, "PATH"), "/bin");
    assert_string_equal(env_lookup(s, "EMPTY"), "");
    env_free(s);
    buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_record_cut_anywhere_is_refused),
        cmocka_unit_test(a_record_with_one_byte_too_many_is_refused),
        cmocka_unit_test(a_flipped_byte_never_crashes),
        cmocka_unit_test(a_secret_is_not_in_the_record),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
