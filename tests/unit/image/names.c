/* Image names, configurations, digests. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image/config.h"
#include "image/reference.h"

static void names_that_cannot_be_are_refused(void **state)
{
    static const char *const bad[] = {
        "",
        " ",
        ":",
        "@",
        "a:",
        ":tag",
        "a/",
        "/a",
        "a//b",
        "A",
        "python:3.11:1",
        "a b",
        "a\nb",
        "../a",
        "a/../b",
        "a.",
        ".a",
        "a..b",
        "a___b",
        "-a",
        "a-",
        "_a",
        "a@",
        "a@sha256:",
        "a@sha256:12",
        "a@md5:00",
        "a:-x",
        "a:.x",
        "a:b/c",
        "host:x/a",
        "host:/a",
        "host:123456/a",
        "-host.de/a",
        "a..de/b",
        "docker.io/",
        "docker.io",
        "docker.io/library/",
        "a\xff",
        "caf\xc3\xa9",
        "a@sha256:ABCDEF0123456789012345678901234567890123456789012345678901234567",
        "a:b@c",
        "host.de./a",
    };
    struct image_reference ref;
    struct err e;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int r = image_reference_parse(bad[i], &ref, &e);

        /* "docker.io" alone is a fine name of a repository. */
        if (strcmp(bad[i], "docker.io") == 0) {
            assert_int_equal(r, 0);
            continue;
        }
        if (r == 0)
            print_message("accepted: '%s'\n", bad[i]);
        assert_true(r < 0);
        assert_int_equal(e.kind, ERR_INVALID);
        assert_non_null(strstr(e.msg, "image name"));
        assert_null(strchr(e.msg, '\n'));
    }
}

static void the_short_form_is_the_name(void **state)
{
    static const char *const good[][2] = {
        {"python:3.11", "python:3.11"},
        {"docker.io/library/python:3.11", "python:3.11"},
        {"docker.io/python:3.11", "python:3.11"},
        {"index.docker.io/library/python:3.11", "python:3.11"},
        {"library/python:3.11", "python:3.11"},
        {"python", "python:latest"},
        {"docker.io/org/app", "org/app:latest"},
        {"library/org/app", "library/org/app:latest"},
        {"ghcr.io/Org/x", NULL},
        {"ghcr.io/org/x:V1.2-rc_3", "ghcr.io/org/x:V1.2-rc_3"},
        {"localhost/x", "localhost/x:latest"},
        {"localhost:5000/library/x", "localhost:5000/library/x:latest"},
        {"Registry.Example:443/a__b/c---d/e.f_g:_", "Registry.Example:443/a__b/c---d/e.f_g:_"},
        {"library/", NULL},
        /* Without its host this would be read as a name of the host a.b. */
        {"index.docker.io/a.b/c", "docker.io/a.b/c:latest"},
        {"docker.io/a.b", "a.b:latest"},
    };
    struct image_reference ref;
    struct err e;

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        int r = image_reference_parse(good[i][0], &ref, &e);

        assert_int_equal(r == 0, good[i][1] != NULL);
        if (r == 0)
            assert_string_equal(ref.name, good[i][1]);
    }
}

static void names_have_limits(void **state)
{
    struct image_reference ref;
    char name[600];
    struct err e;

    (void)state;
    memset(name, 'a', sizeof name);
    memcpy(name + 126, ":", 1);
    name[127 + 128] = '\0';
    assert_int_equal(image_reference_parse(name, &ref, &e), 0);
    assert_int_equal(strlen(ref.name), 255);
    memset(name, 'a', sizeof name);
    memcpy(name + 10, ":", 1);
    name[11 + 129] = '\0';
    assert_true(image_reference_parse(name, &ref, &e) < 0);
    assert_non_null(strstr(e.msg, "1 to 128"));
    memset(name, 'a', sizeof name);
    name[249] = '\0'; /* ":latest" makes it 256 */
    assert_true(image_reference_parse(name, &ref, &e) < 0);
    assert_non_null(strstr(e.msg, "longer than 255 bytes"));
    name[249] = 'a';
    name[599] = '\0';
    assert_true(image_reference_parse(name, &ref, &e) < 0);
    assert_non_null(strstr(e.msg, "longer than 255 bytes"));
}

static void a_digest_is_kept_apart(void **state)
{
    static const char text[] = "python@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    struct image_reference ref;
    struct err e;

    (void)state;
    assert_int_equal(image_reference_parse(text, &ref, &e), 0);
    assert_string_equal(ref.name, "python:latest");
    assert_string_equal(ref.digest, text + 14);
    assert_false(ref.tagged);
}

static int parse(const char *json, struct image_config **ret, struct err *e)
{
    return image_config_parse(json, strlen(json), ret, e);
}

static void configurations_that_are_not_understood_are_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "[]",
        "null",
        "{",
        "{\"env\": \"A=1\"}",
        "{\"env\": [1]}",
        "{\"cmd\": {}}",
        "{\"user\": 1}",
        "{\"workdir\": []}",
        "{\"Env\": []}",
        "{\"volumes\": []}",
        "{\"user\": \"a\", \"user\": \"b\"}",
        "{\"cmd\": [\"a\\u0000b\"]}",
        "{} x",
        "{\"cmd\": [null]}",
        "{\"user\": \"\xff\"}",
    };
    struct image_config *c;
    struct err e;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (parse(bad[i], &c, &e) == 0)
            print_message("accepted: %s\n", bad[i]);
        assert_true(parse(bad[i], &c, &e) < 0);
        assert_int_equal(e.kind, ERR_INVALID);
    }
}

static void configurations_have_limits(void **state)
{
    const size_t big = IMAGE_CONFIG_BYTES_MAX + 1, count = IMAGE_STRINGS_MAX + 1;
    const char **list = calloc(count + 1, sizeof *list);
    char *text = malloc(big + 1), *json = NULL;
    struct image_config *c, many = {.cmd = list};
    struct err e;
    size_t at;

    (void)state;
    memset(text, ' ', big);
    text[big] = '\0';
    assert_true(image_config_parse(text, big, &c, &e) < 0);
    assert_int_equal(e.kind, ERR_EXHAUSTED);
    at = (size_t)sprintf(text, "{\"cmd\": [");
    for (size_t i = 0; i < count; i++) {
        list[i] = "x";
        at += (size_t)sprintf(text + at, "%s\"x\"", i > 0 ? "," : "");
    }
    (void)sprintf(text + at, "]}");
    assert_true(parse(text, &c, &e) < 0);
    assert_string_equal(e.msg, "the image's configuration: cmd has more than 4096 entries");
    assert_true(image_config_format(&many, &json, &e) < 0);
    assert_string_equal(e.msg, "the image's configuration: cmd has more than 4096 entries");
    memset(text, 'x', big);
    text[big] = '\0';
    assert_true(image_config_format(&(struct image_config){.user = text}, &json, &e) < 0);
    assert_int_equal(e.kind, ERR_EXHAUSTED);
    free(text);
    free(list);
}

static void what_makes_no_sense_is_not_stored(void **state)
{
    const char *const no_equals[] = {"A=1", "B", NULL}, *const no_name[] = {"=x", NULL},
                      *const not_utf8[] = {"A=\xff", NULL};
    struct err e;
    char *json;

    (void)state;
    assert_true(image_config_format(&(struct image_config){.env = no_equals}, &json, &e) < 0);
    assert_string_equal(e.msg, "the image's configuration: env must be a list of NAME=value");
    assert_true(image_config_format(&(struct image_config){.env = no_name}, &json, &e) < 0);
    assert_true(image_config_format(&(struct image_config){.env = not_utf8}, &json, &e) < 0);
    assert_true(image_config_format(&(struct image_config){.user = "\xff"}, &json, &e) < 0);
    assert_true(image_config_format(&(struct image_config){.workdir = "relative"}, &json, &e) < 0);
}

static void a_configuration_survives_the_round_trip(void **state)
{
    static const char canonical[] =
        "{\"cmd\":[\"-c\",\"\"],\"entrypoint\":[\"/bin/"
        "sh\"],\"env\":[\"A=1\",\"EMPTY=\",\"B=x=y\"],\"user\":\"1000:1000\",\"workdir\":\"/srv\"}";
    struct image_config *c = NULL;
    struct err e;
    char *json;

    (void)state;
    assert_int_equal(parse("{\"workdir\": \"/srv\", \"user\": \"1000:1000\", \"env\": [\"A=1\", \"EMPTY=\", \"B=x=y\"],"
                           " \"cmd\": [\"-c\", \"\"], \"entrypoint\": [\"/bin/sh\"]}",
                           &c, &e),
                     0);
    assert_string_equal(c->env[2], "B=x=y");
    assert_null(c->env[3]);
    assert_string_equal(c->cmd[1], "");
    assert_string_equal(c->workdir, "/srv");
    assert_int_equal(image_config_format(c, &json, &e), 0);
    assert_string_equal(json, canonical);
    free(json);
    free(c);

    assert_int_equal(parse("{\"env\": [], \"user\": \"\", \"cmd\": null}", &c, &e), 0);
    assert_null(c->env);
    assert_null(c->user);
    assert_null(c->cmd);
    assert_int_equal(image_config_format(c, &json, &e), 0);
    assert_string_equal(json, "{\"cmd\":[],\"entrypoint\":[],\"env\":[],\"user\":\"\",\"workdir\":\"\"}");
    free(json);
    free(c);
}

static void a_digest_names_layers_and_configuration(void **state)
{
    const char *const one[] = {"aa", NULL}, *const two[] = {"aa", "bb", NULL};
    char a[65], b[65], c[65], again[65];
    struct err e;

    (void)state;
    assert_int_equal(image_digest(one, "{\"cmd\":[],\"user\":\"\"}", a, &e), 0);
    assert_int_equal(image_digest(one, "{ \"user\": \"\", \"cmd\": [] }", again, &e), 0);
    assert_int_equal(image_digest(two, "{\"cmd\":[],\"user\":\"\"}", b, &e), 0);
    assert_int_equal(image_digest(one, "{\"cmd\":[],\"user\":\"x\"}", c, &e), 0);
    /* Computed by another program: it must never change, records hold it. */
    assert_string_equal(a, "f94bc71b1448bb358b5f1cd89329e7a72ae3594e895815851ac9917ec31d817d");
    assert_string_equal(a, again);
    assert_string_not_equal(a, b);
    assert_string_not_equal(a, c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_that_cannot_be_are_refused),
        cmocka_unit_test(the_short_form_is_the_name),
        cmocka_unit_test(names_have_limits),
        cmocka_unit_test(a_digest_is_kept_apart),
        cmocka_unit_test(configurations_that_are_not_understood_are_refused),
        cmocka_unit_test(configurations_have_limits),
        cmocka_unit_test(what_makes_no_sense_is_not_stored),
        cmocka_unit_test(a_configuration_survives_the_round_trip),
        cmocka_unit_test(a_digest_names_layers_and_configuration),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
