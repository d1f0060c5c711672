/* The command line of silicad. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "spawner/options.h"

static struct options opt;
static struct err e;

static int parse(const char *const *words)
{
    const char *argv[40] = {"silicad"};
    int n = 1;

    for (; words[n - 1] != NULL; n++)
        argv[n] = words[n - 1];
    e = (struct err){0};
    return options_parse(&opt, n, (char *const *)argv, &e);
}

#define PARSE(...) parse((const char *const[]){__VA_ARGS__, NULL})

static void unknown_options_are_named(void **state)
{
    (void)state;
    assert_int_equal(PARSE("--frobnicate"), -EINVAL);
    assert_non_null(strstr(e.msg, "there is no option '--frobnicate'"));
    assert_int_equal(PARSE("listen"), -EINVAL);
    assert_int_equal(PARSE("--"), -EINVAL);
    assert_int_equal(PARSE("-h"), -EINVAL);
}

static void missing_and_surplus_values_are_refused(void **state)
{
    (void)state;
    assert_int_equal(PARSE("--listen"), -EINVAL);
    assert_string_equal(e.msg, "--listen needs a value: ADDR:PORT");
    assert_int_equal(PARSE("--state-dir="), -EINVAL);
    assert_int_equal(PARSE("--keep=yes"), -EINVAL);
    assert_string_equal(e.msg, "--keep takes no value");
}

static void what_is_not_built_is_refused_in_words(void **state)
{
    static const char *const names[] = {"--docker-socket", "--api-key-file", "--tls-cert", "--tls-key", "--config"};

    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        assert_true(PARSE(names[i], "/x") < 0);
        assert_int_equal(e.kind, ERR_UNIMPLEMENTED);
        assert_non_null(strstr(e.msg, names[i]));
    }
}

static void bad_values_are_refused(void **state)
{
    static const char *const bad[][2] = {
        {"--listen", "7878"},
        {"--listen", "example.org:80"},
        {"--listen", "127.0.0.1:65536"},
        {"--listen", "127.0.0.1:"},
        {"--listen", "127.0.0.1:-1"},
        {"--listen", "[::1:80"},
        {"--listen", "[]:80"},
        {"--state-dir", "relative"},
        {"--run-dir", "./x"},
        {"--log-level", "loud"},
        {"--egress", "user"},
        {"--max-sandboxes", "0"},
        {"--max-sandboxes", "100001"},
        {"--max-sandboxes", "1x"},
        {"--max-sandboxes", "99999999999999999999"},
        {"--default-disk", "0"},
        {"--default-disk", "10X"},
        {"--default-disk", "-1G"},
        {"--default-disk", "2P"},
        {"--default-memory", "100K"},
        {"--default-memory", "1GG"},
        {"--cgroup", "/"},
        {"--cgroup", "a/../b"},
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        if (PARSE(bad[i][0], bad[i][1]) != -EINVAL)
            fail_msg("%s %s was accepted", bad[i][0], bad[i][1]);
        assert_true(e.msg[0] != '\0');
    }
}

static void listening_often_has_a_limit(void **state)
{
    const char *words[2 * LISTEN_MAX + 3];
    unsigned n = 0;

    (void)state;
    for (unsigned i = 0; i < LISTEN_MAX; i++) {
        words[n++] = "--listen";
        words[n++] = "127.0.0.1:0";
    }
    words[n] = NULL;
    assert_int_equal(parse(words), 0);
    words[n++] = "--listen";
    words[n++] = "127.0.0.1:0";
    words[n] = NULL;
    assert_int_equal(parse(words), -EINVAL);
}

static void defaults_are_the_documented_ones(void **state)
{
    static const char *const none[] = {NULL};

    (void)state;
    assert_int_equal(parse(none), 0);
    assert_int_equal(opt.listen_count, 1);
    assert_string_equal(opt.listen[0], "127.0.0.1:7878");
    assert_string_equal(opt.state_dir, "/var/lib/silica");
    assert_string_equal(opt.run_dir, "/run/silica");
    assert_null(opt.cgroup);
    assert_int_equal(opt.default_disk, 10ull << 30);
    assert_int_equal(opt.default_memory, 0);
    assert_false(opt.keep);
}

static void values_come_after_a_blank_or_an_equals_sign(void **state)
{
    (void)state;
    assert_int_equal(
        PARSE("--listen=[::1]:1", "--listen", "127.0.0.2:2", "--default-disk=512M", "--keep", "--egress", "none"), 0);
    assert_int_equal(opt.listen_count, 2);
    assert_int_equal(opt.default_disk, 512ull << 20);
    assert_true(opt.keep && opt.egress_given && opt.egress == SP_E_NONE);
    assert_int_equal(PARSE("--cgroup", "/a.slice/b.service"), 0);
    assert_string_equal(opt.cgroup, "a.slice/b.service");
}

static void loopback_is_told_from_the_rest(void **state)
{
    static const struct {
        const char *word;
        bool loopback;
    } cases[] = {{"127.0.0.1:1", true}, {"127.255.0.9:1", true},        {"localhost:1", true},
                 {"[::1]:1", true},     {"0.0.0.0:1", false},           {"10.0.0.1:1", false},
                 {"[::]:1", false},     {"[::ffff:127.0.0.1]:1", false}};

    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        struct sockaddr_storage addr;
        unsigned len;
        bool loopback;

        assert_int_equal(listen_parse(cases[i].word, &addr, &len, &loopback, &e), 0);
        assert_int_equal(loopback, cases[i].loopback);
    }
}

static void sizes_have_binary_units(void **state)
{
    uint64_t n = 0;

    (void)state;
    assert_int_equal(size_parse("4096", &n), 0);
    assert_int_equal(n, 4096);
    assert_int_equal(size_parse("64KiB", &n), 0);
    assert_int_equal(n, 65536);
    assert_int_equal(size_parse("10G", &n), 0);
    assert_int_equal(n, 10ull << 30);
    assert_int_equal(size_parse("99999999P", &n), -EINVAL);
    assert_int_equal(size_parse("", &n), -EINVAL);
    assert_int_equal(size_parse(" 1", &n), -EINVAL);
    assert_int_equal(size_parse("1KB", &n), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unknown_options_are_named),
        cmocka_unit_test(missing_and_surplus_values_are_refused),
        cmocka_unit_test(what_is_not_built_is_refused_in_words),
        cmocka_unit_test(bad_values_are_refused),
        cmocka_unit_test(listening_often_has_a_limit),
        cmocka_unit_test(defaults_are_the_documented_ones),
        cmocka_unit_test(values_come_after_a_blank_or_an_equals_sign),
        cmocka_unit_test(loopback_is_told_from_the_rest),
        cmocka_unit_test(sizes_have_binary_units),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
