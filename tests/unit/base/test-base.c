#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/id.h"
#include "base/json.h"
#include "base/log.h"

static void an_error_carries_kind_reason_and_text(void **state)
{
    struct err e = {0};

    (void)state;
    assert_int_equal(err_typed(&e, ERR_NOT_FOUND, "SANDBOX_NOT_FOUND", "no sandbox '%s'", "x"), -ENOENT);
    assert_int_equal(e.kind, ERR_NOT_FOUND);
    assert_string_equal(e.reason, "SANDBOX_NOT_FOUND");
    assert_string_equal(e.msg, "no sandbox 'x'");
    assert_int_equal(err_ctx(&e, "get"), -ENOENT);
    assert_string_equal(e.msg, "get: no sandbox 'x'");
    assert_int_equal(err_set(&e, EACCES, "open: %m"), -EACCES);
    assert_string_equal(e.msg, "open: Permission denied");
    assert_int_equal(err_set(NULL, 0, "nothing"), -EIO);
}

static void a_long_context_is_cut_not_overrun(void **state)
{
    struct err e = {0};
    char text[2000];

    (void)state;
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    (void)err_set(&e, EIO, "%s", text);
    assert_int_equal(strlen(e.msg), ERR_MSG_MAX - 1);
    (void)err_ctx(&e, "%s", text);
    assert_int_equal(strlen(e.msg), ERR_MSG_MAX - 1);
}

static void metadata_is_cut_at_a_character(void **state)
{
    struct err e = {0};
    char value[ERR_META_VALUE_MAX + 10];

    (void)state;
    memset(value, 'x', sizeof value);
    memcpy(value + ERR_META_VALUE_MAX - 2, "\xe2\x82\xac", 3); /* a euro sign across the limit */
    value[sizeof value - 1] = '\0';
    for (int i = 0; i < ERR_META_MAX + 2; i++)
        err_meta(&e, "filepath", value);
    assert_int_equal(e.meta_count, ERR_META_MAX);
    assert_int_equal(strlen(e.meta[0].value), ERR_META_VALUE_MAX - 2);
}

static void a_buffer_refuses_to_pass_its_limit(void **state)
{
    struct buf b;

    (void)state;
    buf_init(&b, 10);
    assert_int_equal(buf_append(&b, "0123456789a", 11), -EMSGSIZE);
    assert_int_equal(b.len, 0);
    assert_int_equal(buf_append(&b, "0123456789", 10), 0);
    assert_int_equal(buf_append(&b, "x", 1), -EMSGSIZE);
    buf_consume(&b, 4);
    assert_memory_equal(b.data, "456789", 6);
    buf_consume(&b, 400);
    assert_int_equal(b.len, 0);
    buf_fini(&b);
}

static void identifiers_sort_by_time_and_validate(void **state)
{
    char a[ID_MAX], b[ID_MAX];

    (void)state;
    id_new(a, "sb");
    id_new(b, "sb");
    assert_string_not_equal(a, b);
    assert_true(strncmp(a, b, 12) <= 0);
    assert_true(id_valid(a, strlen(a), "sb"));
    assert_false(id_valid(a, strlen(a), "ls"));
    assert_false(id_valid("sb-../../../../../../../../x", 29, "sb"));
    assert_false(id_valid("sb-", 3, "sb"));
    a[5] = 'U';
    assert_false(id_valid(a, strlen(a), "sb"));
}

static void log_levels_parse(void **state)
{
    enum log_level l;

    (void)state;
    assert_int_equal(log_level_parse("loud", &l), -EINVAL);
    assert_int_equal(log_level_parse("warn", &l), 0);
    assert_int_equal(l, LOG_L_WARN);
}

static void json_is_valid_whatever_the_strings_hold(void **state)
{
    struct buf b = {0};
    struct jw j;

    (void)state;
    jw_begin(&j, &b);
    jw_object(&j);
    jw_kstr(&j, "a\"b", "x\x01\xff\xe2\x82\xac\xed\xa0\x80\\");
    jw_key(&j, "list");
    jw_array(&j);
    jw_int(&j, -1);
    jw_uint(&j, UINT64_MAX);
    jw_bool(&j, true);
    jw_str(&j, NULL);
    jw_array_end(&j);
    jw_ktime(&j, "t", 1700000000123456789ull);
    jw_object_end(&j);
    assert_int_equal(jw_end(&j), 0);
    assert_string_equal((char *)b.data,
                        "{\"a\\\"b\":\"x\\u0001\xef\xbf\xbd\xe2\x82\xac\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\\\\\","
                        "\"list\":[-1,18446744073709551615,true,null],\"t\":\"2023-11-14T22:13:20.123456Z\"}");
    buf_fini(&b);
}

static void json_nesting_has_a_limit(void **state)
{
    struct buf b = {0};
    struct jw j;

    (void)state;
    jw_begin(&j, &b);
    for (int i = 0; i <= JW_DEPTH_MAX; i++)
        jw_array(&j);
    assert_int_equal(jw_end(&j), -EOVERFLOW);
    jw_begin(&j, &b);
    jw_object(&j);
    assert_int_equal(jw_end(&j), -EINVAL);
    buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_error_carries_kind_reason_and_text),   cmocka_unit_test(a_long_context_is_cut_not_overrun),
        cmocka_unit_test(metadata_is_cut_at_a_character),          cmocka_unit_test(a_buffer_refuses_to_pass_its_limit),
        cmocka_unit_test(identifiers_sort_by_time_and_validate),   cmocka_unit_test(log_levels_parse),
        cmocka_unit_test(json_is_valid_whatever_the_strings_hold), cmocka_unit_test(json_nesting_has_a_limit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
