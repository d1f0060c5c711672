#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "init/plan.h"

/* A message as wire_recv leaves it. */
struct parcel {
    struct wire_head head;
    struct wire_tail tail;
    struct wire_msg m;
};

static const char *const sh[] = {"sh", "-c", "true", NULL}, *const env[] = {"A=1", "PATH=/x", NULL};

static struct in_spawn good_spawn(struct parcel *p)
{
    struct in_spawn s = {.kind = IN_EXEC};

    *p = (struct parcel){.head = {.token = 7}};
    s.cwd = wire_put_str(&p->tail, "/tmp");
    s.argv = wire_put_vec(&p->tail, sh);
    s.env = wire_put_vec(&p->tail, env);
    return s;
}

static void seal(struct parcel *p, const void *body)
{
    p->m = (struct wire_msg){.head = &p->head, .body = body, .tail = p->tail.data, .tail_len = p->tail.len};
}

/* Reads and frees; returns the result. */
static int spawn(struct parcel *p, const struct in_spawn *s, uint32_t *stage)
{
    struct spawn_plan plan;
    const char *why = NULL;
    int r;

    seal(p, s);
    r = plan_spawn(&p->m, &plan, stage, &why);
    if (r == 0)
        plan_spawn_fini(&plan);
    else
        assert_true(strlen(why) > 10);
    wire_tail_fini(&p->tail);
    return r;
}

static void fields_out_of_range_are_refused(void **state)
{
    struct parcel p;
    struct in_spawn s;
    uint32_t stage;

    (void)state;
#define REFUSED(change, code, where) \
    do { \
        s = good_spawn(&p); \
        change; \
        assert_int_equal(spawn(&p, &s, &stage), -(code)); \
        assert_int_equal(stage, where); \
    } while (0)
    REFUSED(p.head.token = 0, EINVAL, IN_ST_OTHER);
    REFUSED(s.kind = 0, EINVAL, IN_ST_OTHER);
    REFUSED(s.kind = IN_KIND_COUNT, EINVAL, IN_ST_OTHER);
    REFUSED(s.flags = 1u << 31, EINVAL, IN_ST_OTHER);
    REFUSED(s.flags = IN_S_TTY | IN_S_MERGE, EINVAL, IN_ST_OTHER);
    REFUSED(s.uid = UINT32_MAX, EINVAL, IN_ST_USER);
    REFUSED(s.gid = 65536, EINVAL, IN_ST_USER);
    REFUSED(s.ngroups = IN_GROUPS_MAX + 1, EINVAL, IN_ST_USER);
    REFUSED((s.ngroups = 1, s.groups[0] = UINT32_MAX), EINVAL, IN_ST_USER);
    REFUSED(s.cwd.off = UINT32_MAX, EINVAL, IN_ST_CWD);
    REFUSED(s.cwd.len--, EINVAL, IN_ST_CWD);
    REFUSED(s.argv.count = 0, EINVAL, IN_ST_LIMIT);
    REFUSED(s.argv.count = IN_ARGC_MAX + 1, E2BIG, IN_ST_LIMIT);
    REFUSED(s.argv.count++, EINVAL, IN_ST_LIMIT);
    REFUSED(s.env.bytes += 1000, EINVAL, IN_ST_LIMIT);
#undef REFUSED
}

static void the_strings_limits_are_exact(void **state)
{
    char *one = malloc(IN_ARG_MAX + 1);
    const char *vec[] = {"x", one, NULL}, *many[18];
    struct parcel p;
    struct in_spawn s;
    uint32_t stage;

    (void)state;
    memset(one, 'a', IN_ARG_MAX);
    one[IN_ARG_MAX] = '\0'; /* one too many */
    s = good_spawn(&p);
    s.argv = wire_put_vec(&p.tail, vec);
    assert_int_equal(spawn(&p, &s, &stage), -E2BIG);
    one[IN_ARG_MAX - 1] = '\0';
    s = good_spawn(&p);
    s.argv = wire_put_vec(&p.tail, vec);
    assert_int_equal(spawn(&p, &s, &stage), 0);

    for (int i = 0; i < 16; i++)
        many[i] = one;
    many[16] = NULL; /* 16 x 128 KiB is exactly the limit, so without environment it fits */
    s = good_spawn(&p);
    s.argv = wire_put_vec(&p.tail, many);
    assert_int_equal(spawn(&p, &s, &stage), -E2BIG);
    s = good_spawn(&p);
    s.argv = wire_put_vec(&p.tail, many);
    s.env = (struct wire_vec){0};
    assert_int_equal(spawn(&p, &s, &stage), 0);
    free(one);
}

static void a_long_working_directory_is_refused(void **state)
{
    char path[IN_PATH_MAX + 1];
    struct parcel p;
    struct in_spawn s = good_spawn(&p);
    uint32_t stage;

    (void)state;
    memset(path, '/', sizeof path);
    path[IN_PATH_MAX] = '\0';
    s.cwd = wire_put_str(&p.tail, path);
    assert_int_equal(spawn(&p, &s, &stage), -ENAMETOOLONG);
    s = good_spawn(&p);
    s.cwd = wire_put_str(&p.tail, "tmp");
    assert_int_equal(spawn(&p, &s, &stage), -EINVAL);
    assert_int_equal(stage, IN_ST_CWD);
}

static void a_good_request_is_read_whole(void **state)
{
    struct parcel p;
    struct in_spawn s = good_spawn(&p);
    struct spawn_plan plan;
    const char *why;
    uint32_t stage;

    (void)state;
    s.uid = 65535;
    s.ngroups = 2;
    s.groups[1] = 12;
    s.cwd = (struct wire_str){0};
    seal(&p, &s);
    assert_int_equal(plan_spawn(&p.m, &plan, &stage, &why), 0);
    assert_string_equal(plan.cwd, "/");
    assert_string_equal(plan.argv[2], "true");
    assert_null(plan.argv[3]);
    assert_string_equal(plan.sh_argv[0], "/bin/sh");
    assert_string_equal(plan.sh_argv[2], "-c");
    assert_string_equal(plan.sh_argv[3], "true");
    assert_null(plan.sh_argv[4]);
    assert_int_equal(plan.who.groups[1], 12);
    assert_string_equal(plan_getenv(plan.env, "PATH"), "/x");
    assert_null(plan_getenv(plan.env, "PAT"));
    plan_spawn_fini(&plan);
    wire_tail_fini(&p.tail);
}

static int open_path(const char *path, const char *cwd, uint32_t flags, struct open_plan *plan)
{
    struct parcel p = {0};
    struct in_open o = {.flags = flags};
    const char *why;
    uint32_t stage;
    int r;

    o.path = wire_put_str(&p.tail, path);
    o.cwd = wire_put_str(&p.tail, cwd);
    seal(&p, &o);
    r = plan_open(&p.m, plan, &stage, &why);
    wire_tail_fini(&p.tail);
    return r;
}

static void paths_are_joined_within_their_limit(void **state)
{
    char cwd[IN_PATH_MAX], name[IN_PATH_MAX];
    struct open_plan plan;

    (void)state;
    assert_int_equal(open_path("", "/", IN_O_READ, &plan), -ENOENT);
    assert_int_equal(open_path("x", "rel", IN_O_READ, &plan), -EINVAL);
    assert_int_equal(open_path("x", NULL, IN_O_READ, &plan), 0);
    assert_string_equal(plan.path, "//x");
    assert_int_equal(open_path("a/../b", "/home", IN_O_READ, &plan), 0);
    assert_string_equal(plan.path, "/home/a/../b");
    assert_int_equal(open_path("/abs", "rel", IN_O_READ, &plan), 0);
    assert_string_equal(plan.path, "/abs");
    assert_int_equal(plan.mode, 0644);
    assert_int_equal(plan.timeout_ms, PLAN_OPEN_TIMEOUT_MS);

    memset(cwd, '/', sizeof cwd);
    cwd[IN_PATH_MAX - 101] = '\0';
    memset(name, 'n', sizeof name);
    name[99] = '\0'; /* 3995 + 1 + 99 + NUL = 4096 */
    assert_int_equal(open_path(name, cwd, IN_O_READ, &plan), 0);
    name[99] = 'n';
    name[100] = '\0';
    assert_int_equal(open_path(name, cwd, IN_O_READ, &plan), -ENAMETOOLONG);
    name[100] = 'n';
    name[IN_PATH_MAX - 1] = '\0';
    name[0] = '/';
    assert_int_equal(open_path(name, cwd, IN_O_READ, &plan), 0);
    assert_int_equal(open_path(name + 1, cwd, IN_O_READ, &plan), -ENAMETOOLONG);
}

static void a_file_is_read_or_written(void **state)
{
    static const uint32_t bad[] = {0,
                                   IN_O_READ | IN_O_WRITE,
                                   IN_O_APPEND,
                                   IN_O_READ | IN_O_APPEND,
                                   IN_O_READ | IN_O_PARENTS,
                                   IN_O_WRITE | 1u << 30};
    struct open_plan plan;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(open_path("/x", NULL, bad[i], &plan), -EINVAL);
    assert_int_equal(open_path("/x", NULL, IN_O_WRITE | IN_O_PARENTS | IN_O_APPEND | IN_O_EXCL, &plan), 0);
}

static void path_search_visits_every_element_once(void **state)
{
    static const char *const want[] = {"/a/ls", "./ls", "b/ls", "./ls"};
    const char *cursor = "/a::b:";
    char buf[16];
    size_t n = 0;

    (void)state;
    while (plan_next_candidate(&cursor, "ls", buf, sizeof buf))
        assert_string_equal(buf, want[n++]);
    assert_int_equal(n, 4);
    cursor = "/much-too-long-for-it:/ok";
    assert_true(plan_next_candidate(&cursor, "ls", buf, sizeof buf));
    assert_string_equal(buf, "/ok/ls");
    assert_false(plan_next_candidate(&cursor, "ls", buf, sizeof buf));
    cursor = "/12345678901:/123456789012"; /* 12 + 1 + 2 + NUL just fits */
    assert_true(plan_next_candidate(&cursor, "ls", buf, sizeof buf));
    assert_false(plan_next_candidate(&cursor, "ls", buf, sizeof buf));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_out_of_range_are_refused),       cmocka_unit_test(the_strings_limits_are_exact),
        cmocka_unit_test(a_long_working_directory_is_refused),   cmocka_unit_test(a_good_request_is_read_whole),
        cmocka_unit_test(paths_are_joined_within_their_limit),   cmocka_unit_test(a_file_is_read_or_written),
        cmocka_unit_test(path_search_visits_every_element_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
