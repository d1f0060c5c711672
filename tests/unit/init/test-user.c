#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "init/user.h"

static const char passwd[] = "root:x:0:0:root:/root:/bin/sh\n"
                             "# a comment\n"
                             "broken:x:12\n"
                             "far:x:70000:0::/far:/bin/sh\n"
                             "word:x:abc:0::/:/bin/sh\n"
                             "ada:x:1000:100:Ada,,,:/home/ada:/bin/sh\n"
                             "1234:x:4321:4321::/digits:/bin/sh\n"
                             "noshell:x:7:8:c:/srv\n"
                             "relative:x:9:9::home:/bin/sh\n"
                             "ada:x:2000:2000::/second:/bin/sh";
static const char group[] = "root:x:0:\n"
                            "users:x:100:\n"
                            "wheel:x:10:root,ada\n"
                            "adalike:x:11:adam,xada\n"
                            "again:x:10:ada\n"
                            "lab:x:12:,ada,\n"
                            "huge:x:99999999999:ada\n"
                            "last:x:13:ada";

static int resolve(const char *spec, struct user_result *u, char *why)
{
    return user_resolve(spec, passwd, sizeof passwd - 1, group, sizeof group - 1, u, why);
}

static void odd_specs_are_refused_with_a_sentence(void **state)
{
    static const char *const odd[] = {"0:0:0",   "-1",   "65536", "4294967295",  "4294967296", "18446744073709551616",
                                      "ada:",    ":",    "::",    "ada:-1",      "ada:65536",  "\xc3\xa4",
                                      "a b",     "a\nb", "a/b",   "../etc",      "+5",         "ada:gr\xc3\xbcn",
                                      "ada,bob", "0x0",  "1e3",   "no-such-one", "ada:nogrp",  "far"};
    struct user_result u;
    char why[USER_WHY_MAX];

    (void)state;
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        why[0] = '\0';
        assert_true(resolve(odd[i], &u, why) < 0);
        assert_true(strlen(why) > 10);
    }
}

static void an_overlong_spec_is_refused(void **state)
{
    static char spec[100000];
    struct user_result u;
    char why[USER_WHY_MAX];

    (void)state;
    memset(spec, 'a', sizeof spec - 1);
    assert_int_equal(resolve(spec, &u, why), -EINVAL);
    spec[3] = ':';
    assert_int_equal(resolve(spec, &u, why), -EINVAL);
    memset(spec, '9', sizeof spec - 1);
    spec[200] = '\0';
    assert_int_equal(resolve(spec, &u, why), -EINVAL);
}

static void a_name_needs_its_file(void **state)
{
    struct user_result u;
    char why[USER_WHY_MAX];

    (void)state;
    assert_int_equal(user_resolve("ada", NULL, 0, NULL, 0, &u, why), -ENOENT);
    assert_string_equal(why, "the image has no /etc/passwd, so user 'ada' cannot be looked up");
    assert_int_equal(user_resolve("5:lab", NULL, 0, NULL, 0, &u, why), -ENOENT);
    assert_string_equal(why, "the image has no /etc/group, so group 'lab' cannot be looked up");
    assert_int_equal(user_resolve("5:6", NULL, 0, NULL, 0, &u, why), 0);
    assert_int_equal(u.who.uid, 5);
    assert_int_equal(u.who.gid, 6);
    assert_string_equal(u.home, "/");
    assert_string_equal(u.name, "");
}

static void nobody_named_is_root(void **state)
{
    struct user_result u;
    char why[USER_WHY_MAX];

    (void)state;
    assert_int_equal(resolve("", &u, why), 0);
    assert_int_equal(u.who.uid, 0);
    assert_string_equal(u.home, "/root");
    assert_int_equal(u.who.ngroups, 2);
    assert_int_equal(u.who.groups[1], 10);
    assert_int_equal(resolve(":lab", &u, why), 0);
    assert_int_equal(u.who.gid, 12);
}

static void a_name_brings_its_groups_once_each(void **state)
{
    static const uint32_t want[] = {100, 10, 12, 13};
    struct user_result u;
    char why[USER_WHY_MAX];

    (void)state;
    assert_int_equal(resolve("ada", &u, why), 0);
    assert_int_equal(u.who.uid, 1000);
    assert_int_equal(u.who.gid, 100);
    assert_string_equal(u.home, "/home/ada");
    assert_string_equal(u.name, "ada");
    assert_int_equal(u.who.ngroups, 4);
    assert_memory_equal(u.who.groups, want, sizeof want);
    assert_int_equal(resolve("1000", &u, why), 0);
    assert_string_equal(u.name, "ada");
    assert_int_equal(u.who.ngroups, 4);
}

static void a_named_group_replaces_memberships(void **state)
{
    struct user_result u;
    char why[USER_WHY_MAX];

    (void)state;
    assert_int_equal(resolve("ada:lab", &u, why), 0);
    assert_int_equal(u.who.gid, 12);
    assert_int_equal(u.who.ngroups, 1);
    assert_int_equal(u.who.groups[0], 12);
    assert_int_equal(resolve("ada:4000", &u, why), 0);
    assert_int_equal(u.who.gid, 4000);
}

static void a_name_of_digits_wins_over_a_number(void **state)
{
    struct user_result u;
    char why[USER_WHY_MAX];

    (void)state;
    assert_int_equal(resolve("1234", &u, why), 0);
    assert_int_equal(u.who.uid, 4321);
    assert_int_equal(resolve("4321", &u, why), 0);
    assert_string_equal(u.name, "1234");
}

static void unusual_entries_are_read_or_passed_over(void **state)
{
    struct user_result u;
    char why[USER_WHY_MAX];

    (void)state;
    assert_int_equal(resolve("noshell", &u, why), 0);
    assert_string_equal(u.home, "/srv");
    assert_int_equal(resolve("relative", &u, why), 0);
    assert_string_equal(u.home, "/");
    assert_int_equal(resolve("broken", &u, why), -ENOENT);
    assert_int_equal(resolve("word", &u, why), -ENOENT);
}

static void long_lines_and_nul_bytes_hide_nothing_else(void **state)
{
    static char text[3 * USER_LINE_MAX];
    struct user_result u;
    char why[USER_WHY_MAX];
    size_t n;

    (void)state;
    memset(text, 'x', sizeof text);
    n = 2 * USER_LINE_MAX;
    n += (size_t)sprintf(text + n, "\nbad:x:1:1:%c:/:\nada:x:5:5::/:/bin/sh\n", '\0') - 0;
    memcpy(text + USER_LINE_MAX / 2, ":x:0:0::/:", 10);
    assert_int_equal(user_resolve("ada", text, n, NULL, 0, &u, why), 0);
    assert_int_equal(u.who.uid, 5);
    assert_int_equal(user_resolve("bad", text, n, NULL, 0, &u, why), -ENOENT);
}

static void the_65th_group_is_refused(void **state)
{
    char text[65 * 24] = "", why[USER_WHY_MAX];
    struct user_result u;
    size_t n = 0;

    (void)state;
    for (int i = 0; i < IN_GROUPS_MAX - 1; i++)
        n += (size_t)sprintf(text + n, "g%d:x:%d:ada\n", i, 200 + i);
    assert_int_equal(user_resolve("ada", passwd, sizeof passwd - 1, text, n, &u, why), 0);
    assert_int_equal(u.who.ngroups, IN_GROUPS_MAX);
    n += (size_t)sprintf(text + n, "one-more:x:900:ada\n");
    assert_int_equal(user_resolve("ada", passwd, sizeof passwd - 1, text, n, &u, why), -E2BIG);
    assert_string_equal(why, "user 'ada' is in more than 64 groups");
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(odd_specs_are_refused_with_a_sentence),
        cmocka_unit_test(an_overlong_spec_is_refused),
        cmocka_unit_test(a_name_needs_its_file),
        cmocka_unit_test(nobody_named_is_root),
        cmocka_unit_test(a_name_brings_its_groups_once_each),
        cmocka_unit_test(a_named_group_replaces_memberships),
        cmocka_unit_test(a_name_of_digits_wins_over_a_number),
        cmocka_unit_test(unusual_entries_are_read_or_passed_over),
        cmocka_unit_test(long_lines_and_nul_bytes_hide_nothing_else),
        cmocka_unit_test(the_65th_group_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
