/* What a compromised silicad cannot ask for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <string.h>

#include "base/fd.h"
#include "spawner/validate.h"

#define A16 "aaaaaaaaaaaaaaaa"
#define DIGEST A16 A16 A16 A16
#define OTHER A16 A16 A16 "aaaaaaaaaaaaaaab"

static struct sp_create good;
static struct wire_tail tail;
static struct box_plan plan;
static struct err e;

static int fresh(void **state)
{
    const char *const layers[] = {DIGEST, OTHER, NULL};
    const char *const dns[] = {"10.0.0.1", "fe80::1", NULL};

    (void)state;
    tail = (struct wire_tail){0};
    good = (struct sp_create){0};
    good.id = wire_put_str(&tail, "sbx-01hx");
    good.hostname = wire_put_str(&tail, "web.example");
    good.layers = wire_put_vec(&tail, layers);
    good.dns = wire_put_vec(&tail, dns);
    e = (struct err){0};
    return 0;
}

static int done(void **state)
{
    (void)state;
    wire_tail_fini(&tail);
    return 0;
}

static int check(const struct sp_create *c)
{
    const struct wire_head head = {.type = SP_CREATE};
    struct wire_msg m = {.head = &head, .body = c, .body_len = sizeof *c, .tail = tail.data, .tail_len = tail.len};

    e = (struct err){0};
    return validate_create(&m, &plan, &e);
}

static void refused(const struct sp_create *c, const char *word)
{
    assert_int_equal(check(c), -EINVAL);
    assert_int_equal(e.kind, ERR_INVALID);
    if (strstr(e.msg, word) == NULL)
        fail_msg("'%s' does not speak of '%s'", e.msg, word);
}

static void bad_ids_are_refused(void **state)
{
    static const char *const bad[] = {"",     ".",   "..",       "a/b",
                                      "../x", "A",   "a.b",      "-a",
                                      "a b",  "a\n", "\xc3\xa4", "a1234567890123456789012345678901234567890"};

    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        struct sp_create c = good;

        c.id = wire_put_str(&tail, bad[i]);
        refused(&c, "id");
    }
    assert_true(box_id_ok("a"));
    assert_true(box_id_ok("123456789012345678901234567890123456789"));
}

static void strings_outside_the_tail_are_refused(void **state)
{
    struct sp_create c = good;

    (void)state;
    c.id = (struct wire_str){.off = 0xfffffff0u, .len = 32};
    refused(&c, "id");
    c = good;
    c.layers.off = 0xffffffffu;
    refused(&c, "layers");
    c = good;
    c.layers.count = 1;
    refused(&c, "layers");
    c = good;
    c.dns.bytes = 0x7fffffff;
    refused(&c, "nameservers");
    c = good;
    c.id = (struct wire_str){0};
    refused(&c, "id");
}

static void bad_host_names_are_refused(void **state)
{
    static const char *const bad[] = {"",
                                      "-a",
                                      "a-",
                                      ".a",
                                      "a.",
                                      "a..b",
                                      "a b",
                                      "a\nnameserver 1.2.3.4",
                                      "a/b",
                                      "a_b",
                                      "a123456789012345678901234567890123456789012345678901234567890123"};

    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        struct sp_create c = good;

        c.hostname = wire_put_str(&tail, bad[i]);
        refused(&c, "host name");
    }
}

static void bad_layers_are_refused(void **state)
{
    static const char *const upper[] = {"A"
                                        "aaaaaaaaaaaaaaa" A16 A16 A16,
                                        NULL},
                             *const path[] = {"../../../etc", NULL}, *const longer[] = {DIGEST "a", NULL},
                             *const twice[] = {DIGEST, OTHER, DIGEST, NULL};
    static const char *const *const bad[] = {upper, path, longer};
    const char *many[SP_LAYERS_MAX + 2];
    struct sp_create c = good;

    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        c.layers = wire_put_vec(&tail, bad[i]);
        refused(&c, "digest");
    }
    c.layers = wire_put_vec(&tail, twice);
    refused(&c, "twice");
    c.layers = (struct wire_vec){0};
    refused(&c, "at least one layer");
    for (unsigned i = 0; i <= SP_LAYERS_MAX; i++)
        many[i] = DIGEST;
    many[SP_LAYERS_MAX + 1] = NULL;
    c.layers = wire_put_vec(&tail, many);
    refused(&c, "longer than 128");
}

static void nameservers_are_addresses(void **state)
{
    static const char *const bad[] = {"example.org", "1.2.3", "1.2.3.4\noptions debug", "fe80::1%eth0", ""};
    struct sp_create c = good;
    const char *many[BOX_DNS_MAX + 2];

    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        const char *const vec[] = {bad[i], NULL};

        c.dns = wire_put_vec(&tail, vec);
        refused(&c, "nameserver");
    }
    for (unsigned i = 0; i <= BOX_DNS_MAX; i++)
        many[i] = "1.1.1.1";
    many[BOX_DNS_MAX + 1] = NULL;
    c.dns = wire_put_vec(&tail, many);
    refused(&c, "longer than 8");
}

static void numbers_have_limits(void **state)
{
    static const struct {
        size_t off;
        uint64_t value;
        const char *word;
    } bad[] = {
        {offsetof(struct sp_create, memory_max), BOX_MEMORY_MIN - 1, "memory"},
        {offsetof(struct sp_create, memory_max), UINT64_MAX, "memory"},
        {offsetof(struct sp_create, cpu_period_us), 999, "period"},
        {offsetof(struct sp_create, cpu_period_us), 1000001, "period"},
        {offsetof(struct sp_create, cpu_quota_us), 999, "quota"},
        {offsetof(struct sp_create, cpu_quota_us), 1ull << 62, "quota"},
        {offsetof(struct sp_create, pids_max), 3, "process"},
        {offsetof(struct sp_create, pids_max), BOX_PIDS_MAX + 1, "process"},
        {offsetof(struct sp_create, disk_bytes), BOX_DISK_MIN - 1, "disk"},
        {offsetof(struct sp_create, disk_bytes), BOX_BYTES_MAX + 1, "disk"},
        {offsetof(struct sp_create, shm_bytes), 1, "shm"},
        {offsetof(struct sp_create, shm_bytes), UINT64_MAX, "shm"},
    };
    struct sp_create c;

    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        c = good;
        memcpy((char *)&c + bad[i].off, &bad[i].value, sizeof bad[i].value);
        refused(&c, bad[i].word);
    }
    c = good;
    c.cpu_weight = 10001;
    refused(&c, "weight");
}

static void unknown_drivers_flags_and_reserved_fields_are_refused(void **state)
{
    struct sp_create c = good;

    (void)state;
    c.writable = SP_W_COUNT;
    refused(&c, "writable");
    c = good;
    c.egress = SP_E_COUNT;
    refused(&c, "egress");
    c = good;
    c.flags = 1u << 31;
    refused(&c, "flags");
    c = good;
    c.pad2 = 1;
    refused(&c, "reserved");
}

static void descriptors_that_nobody_asked_for_are_refused(void **state)
{
    const struct wire_head head = {.type = SP_CREATE};
    struct wire_msg m = {.head = &head,
                         .body = &good,
                         .body_len = sizeof good,
                         .tail = tail.data,
                         .tail_len = tail.len,
                         .fds = {0},
                         .nfds = 1};

    (void)state;
    assert_int_equal(validate_create(&m, &plan, &e), -EINVAL);
}

static void a_sound_request_becomes_a_plan(void **state)
{
    (void)state;
    good.memory_max = 64ull << 20;
    good.flags = SP_BOX_READONLY_ROOT | SP_BOX_NO_NEW_PRIVS;
    assert_int_equal(check(&good), 0);
    assert_string_equal(plan.id, "sbx-01hx");
    assert_string_equal(plan.hostname, "web.example");
    assert_int_equal(plan.layer_count, 2);
    assert_string_equal(plan.layers[1], OTHER);
    assert_int_equal(plan.dns_count, 2);
    assert_string_equal(plan.dns[1], "fe80::1");
    assert_int_equal(plan.limits.memory_max, 64ull << 20);
    assert_int_equal(plan.limits.cpu_period_us, 100000);
    assert_int_equal(plan.limits.cpu_weight, 100);
    assert_int_equal(plan.shm_bytes, 64ull << 20);
}

static void the_imager_takes_one_pipe_or_file(void **state)
{
    const struct wire_head head = {.type = SP_IMAGER};
    struct sp_imager im = {.op = SP_IM_LAYER, .max_bytes = 1, .max_entries = 1};
    struct wire_msg m = {.head = &head, .body = &im, .body_len = sizeof im};
    AUTO_FD dir = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC), file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

    (void)state;
    assert_int_equal(validate_imager(&m, &e), -EINVAL);
    m.nfds = 1;
    m.fds[0] = dir;
    assert_int_equal(validate_imager(&m, &e), -EINVAL);
    m.fds[0] = file;
    assert_int_equal(validate_imager(&m, &e), 0);
    im.max_bytes = 0;
    assert_int_equal(validate_imager(&m, &e), -EINVAL);
    im.max_bytes = IMAGER_BYTES_MAX + 1;
    assert_int_equal(validate_imager(&m, &e), -EINVAL);
    im.max_bytes = 1;
    im.max_entries = IMAGER_ENTRIES_MAX + 1;
    assert_int_equal(validate_imager(&m, &e), -EINVAL);
    im.max_entries = 1;
    im.op = SP_IM_COUNT;
    assert_int_equal(validate_imager(&m, &e), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(bad_ids_are_refused, fresh, done),
        cmocka_unit_test_setup_teardown(strings_outside_the_tail_are_refused, fresh, done),
        cmocka_unit_test_setup_teardown(bad_host_names_are_refused, fresh, done),
        cmocka_unit_test_setup_teardown(bad_layers_are_refused, fresh, done),
        cmocka_unit_test_setup_teardown(nameservers_are_addresses, fresh, done),
        cmocka_unit_test_setup_teardown(numbers_have_limits, fresh, done),
        cmocka_unit_test_setup_teardown(unknown_drivers_flags_and_reserved_fields_are_refused, fresh, done),
        cmocka_unit_test_setup_teardown(descriptors_that_nobody_asked_for_are_refused, fresh, done),
        cmocka_unit_test_setup_teardown(a_sound_request_becomes_a_plan, fresh, done),
        cmocka_unit_test_setup_teardown(the_imager_takes_one_pipe_or_file, fresh, done),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
