/* Whole files through an init that opens them below a temporary directory. */
#include "fake-init.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

struct files {
    struct fake f;
    unsigned done;
    struct err err;
    struct buf content;
    bool got;
};

static int setup(void **state)
{
    struct files *s = calloc(1, sizeof *s);

    fake_open(&s->f);
    UNTIL(&s->f, s->f.ready == 1);
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    struct files *s = *state;

    fake_close(&s->f);
    buf_fini(&s->content);
    free(s);
    return 0;
}

static void on_done(void *arg, const struct err *e, struct chunk *c)
{
    struct files *s = arg;

    s->done++;
    s->err = e != NULL ? *e : (struct err){0};
    if (c != NULL) {
        s->got = true;
        assert_int_equal(buf_append(&s->content, c->data + c->off, c->len), 0);
        chunk_free(c);
    }
}

static void read_file(struct files *s, const char *path, uint64_t max)
{
    s->done = 0;
    s->content.len = 0;
    s->got = false;
    assert_non_null(engine_file_read(&s->f.en, "local", "sb-test", path, max, on_done, s));
    assert_int_equal(s->done, 0);
    UNTIL(&s->f, s->done == 1);
}

static void write_file(struct files *s, const char *path, const void *data, size_t len)
{
    s->done = 0;
    assert_non_null(engine_file_write(&s->f.en, "local", "sb-test", path, data, len, on_done, s));
    assert_int_equal(s->done, 0);
    UNTIL(&s->f, s->done == 1);
}

static void expect(struct files *s, enum err_kind kind, const char *reason, const char *path)
{
    assert_int_equal(s->err.kind, kind);
    assert_string_equal(s->err.reason, reason);
    assert_string_equal(s->err.meta[0].key, "filepath");
    assert_string_equal(s->err.meta[0].value, path);
    assert_false(s->got);
}

static void empty_and_endless_paths_are_refused(void **state)
{
    struct files *s = *state;
    char path[IN_PATH_MAX + 1];

    read_file(s, "", 100);
    assert_int_equal(s->err.kind, ERR_INVALID);
    memset(path, 'a', IN_PATH_MAX);
    path[IN_PATH_MAX] = '\0';
    read_file(s, path, 100);
    assert_int_equal(s->err.kind, ERR_INVALID);
}

static void unknown_and_foreign_sandboxes_are_refused_later_not_within(void **state)
{
    struct files *s = *state;

    assert_non_null(engine_file_read(&s->f.en, "other", "sb-test", "/x", 1, on_done, s));
    assert_int_equal(s->done, 0);
    UNTIL(&s->f, s->done == 1);
    assert_string_equal(s->err.reason, "SANDBOX_NOT_FOUND");
}

static void a_missing_file_is_not_found(void **state)
{
    struct files *s = *state;

    read_file(s, "/missing", 100);
    expect(s, ERR_NOT_FOUND, "FILE_NOT_FOUND", "/missing");
}

static void a_directory_is_no_file(void **state)
{
    struct files *s = *state;

    read_file(s, "/", 100);
    expect(s, ERR_PRECONDITION, "FILE_IS_DIRECTORY", "/");
}

static bool refuse_open(struct fake *f, struct wire_msg *m)
{
    if (m->head->type != IN_OPEN)
        return false;
    fake_fail(f, m->head->token, (int)f->oom_kills, IN_ST_OPEN, "no");
    return true;
}

static void errors_of_the_kernel_keep_their_meaning(void **state)
{
    static const struct {
        int code;
        enum err_kind kind;
        const char *reason;
    } cases[] = {
        {EACCES, ERR_PERMISSION, "FILE_PERMISSION_DENIED"},
        {EROFS, ERR_PERMISSION, "FILE_PERMISSION_DENIED"},
        {ELOOP, ERR_INVALID, "FILE_IO_FAILED"},
        {ENOTDIR, ERR_INVALID, "FILE_IO_FAILED"},
        {ENOSPC, ERR_INTERNAL, "FILE_IO_FAILED"},
        {ETIMEDOUT, ERR_DEADLINE, "FILE_IO_FAILED"},
    };
    struct files *s = *state;

    s->f.on_message = refuse_open;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        s->f.oom_kills = (uint32_t)cases[i].code;
        write_file(s, "/x", "y", 1);
        expect(s, cases[i].kind, cases[i].reason, "/x");
        if (cases[i].code == ENOSPC)
            assert_string_equal(s->err.msg, "write file '/x': No space left on device");
    }
}

static void what_is_written_is_read_back(void **state)
{
    struct files *s = *state;
    size_t len = (20 << 20) + 17;
    uint8_t *data = malloc(len);

    for (size_t i = 0; i < len; i++)
        data[i] = (uint8_t)(i * 7 + i / 4096);
    write_file(s, "/big", data, len);
    assert_int_equal(s->err.code, 0);
    read_file(s, "/big", len);
    assert_int_equal(s->err.code, 0);
    assert_int_equal(s->content.len, len);
    assert_memory_equal(s->content.data, data, len);
    write_file(s, "/big", "", 0);
    read_file(s, "/big", len);
    assert_true(s->got);
    assert_int_equal(s->content.len, 0);
    free(data);
}

static void a_relative_path_begins_at_the_working_directory(void **state)
{
    struct files *s = *state;
    char path[128];

    (void)snprintf(path, sizeof path, "%s/srv", s->f.dir);
    assert_int_equal(mkdir(path, 0700), 0);
    s->f.rec.cwd = (char *)"/srv";
    write_file(s, "f", "x", 1);
    assert_int_equal(s->err.code, 0);
    read_file(s, "/srv/f", 10);
    assert_int_equal(s->content.len, 1);
    s->f.rec.cwd = (char *)"/";
}

static void a_file_above_the_limit_says_its_size(void **state)
{
    struct files *s = *state;

    write_file(s, "/f", "12345678901", 11);
    read_file(s, "/f", 10);
    expect(s, ERR_EXHAUSTED, "FILE_TOO_LARGE", "/f");
    assert_string_equal(s->err.meta[1].key, "size_bytes");
    assert_string_equal(s->err.meta[1].value, "11");
    assert_string_equal(s->err.meta[2].key, "max_size_bytes");
    assert_string_equal(s->err.meta[2].value, "10");
    read_file(s, "/f", 11);
    assert_int_equal(s->content.len, 11);
}

static void a_sparse_file_of_exbibytes_is_only_too_large(void **state)
{
    struct files *s = *state;
    char path[128];

    (void)snprintf(path, sizeof path, "%s/sparse", s->f.dir);
    write_file(s, "/sparse", "x", 1);
    assert_int_equal(truncate(path, 1ll << 40), 0);
    read_file(s, "/sparse", 1 << 20);
    expect(s, ERR_EXHAUSTED, "FILE_TOO_LARGE", "/sparse");
}

static void a_write_above_the_limit_is_refused_before_anything_is_opened(void **state)
{
    struct files *s = *state;
    uint8_t *data = calloc(1, ENGINE_FILE_MAX + 1);
    char path[128];

    write_file(s, "/f", data, ENGINE_FILE_MAX + 1);
    expect(s, ERR_EXHAUSTED, "FILE_TOO_LARGE", "/f");
    (void)snprintf(path, sizeof path, "%s/f", s->f.dir);
    assert_true(access(path, F_OK) < 0);
    free(data);
}

/* ---- pumped ---------------------------------------------------------------------------------------------------------------------- */

static int pump_write_end = -1;

static bool pumped(struct fake *f, struct wire_msg *m)
{
    struct in_opened is = {.pumped = 1};
    int p[2], mine;

    if (m->head->type != IN_OPEN)
        return false;
    assert_int_equal(pipe2(p, O_CLOEXEC), 0);
    mine = (((const struct in_open *)m->body)->flags & IN_O_WRITE) != 0 ? 1 : 0;
    fake_send(f, IN_OPENED, m->head->token, &is, sizeof is, &p[mine], 1);
    (void)close(p[mine]);
    pump_write_end = p[1 - mine];
    return true;
}

static void a_pumped_file_is_read_to_its_end(void **state)
{
    struct files *s = *state;

    s->f.on_message = pumped;
    assert_non_null(engine_file_read(&s->f.en, "local", "sb-test", "/proc/x", 100000, on_done, s));
    UNTIL(&s->f, pump_write_end >= 0);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(write(pump_write_end, "0123456789", 10), 10);
        fake_turn(&s->f);
    }
    (void)close(take_fd(&pump_write_end));
    UNTIL(&s->f, s->done == 1);
    assert_int_equal(s->err.code, 0);
    assert_int_equal(s->content.len, 1000);
}

static int verdict_end = -1;

/* As above, with a second pipe for how it went. */
static bool pumped_with_verdict(struct fake *f, struct wire_msg *m)
{
    struct in_opened is = {.pumped = 1};
    int data[2], verdict[2], mine;

    if (m->head->type != IN_OPEN)
        return false;
    assert_int_equal(pipe2(data, O_CLOEXEC), 0);
    assert_int_equal(pipe2(verdict, O_CLOEXEC), 0);
    mine = (((const struct in_open *)m->body)->flags & IN_O_WRITE) != 0 ? 1 : 0;
    fake_send(f, IN_OPENED, m->head->token, &is, sizeof is, (const int[]){data[mine], verdict[0]}, 2);
    (void)close(data[mine]);
    (void)close(verdict[0]);
    pump_write_end = data[1 - mine];
    verdict_end = verdict[1];
    return true;
}

static void tell_verdict(int32_t code)
{
    assert_int_equal(write(verdict_end, &code, sizeof code), sizeof code);
    (void)close(take_fd(&verdict_end));
}

static void a_pump_that_is_cut_off_is_no_end_of_file(void **state)
{
    struct files *s = *state;

    s->f.on_message = pumped_with_verdict;
    assert_non_null(engine_file_read(&s->f.en, "local", "sb-test", "/fifo", 100000, on_done, s));
    UNTIL(&s->f, pump_write_end >= 0);
    assert_int_equal(write(pump_write_end, "half", 4), 4);
    (void)close(take_fd(&pump_write_end));
    (void)close(take_fd(&verdict_end));
    UNTIL(&s->f, s->done == 1);
    expect(s, ERR_DEADLINE, "FILE_IO_FAILED", "/fifo");
}

static void a_pump_that_fails_to_read_says_why(void **state)
{
    struct files *s = *state;

    s->f.on_message = pumped_with_verdict;
    assert_non_null(engine_file_read(&s->f.en, "local", "sb-test", "/proc/x", 100000, on_done, s));
    UNTIL(&s->f, pump_write_end >= 0);
    tell_verdict(-EACCES);
    (void)close(take_fd(&pump_write_end));
    UNTIL(&s->f, s->done == 1);
    expect(s, ERR_PERMISSION, "FILE_PERMISSION_DENIED", "/proc/x");
}

static void a_pumped_write_is_done_when_the_pump_says_so(void **state)
{
    static const int32_t codes[] = {-EINVAL, 0};
    struct files *s = *state;
    char got[8];

    for (unsigned i = 0; i < 2; i++) {
        s->done = 0;
        s->f.on_message = pumped_with_verdict;
        assert_non_null(engine_file_write(&s->f.en, "local", "sb-test", "/proc/x", "abc", 3, on_done, s));
        UNTIL(&s->f, pump_write_end >= 0);
        for (unsigned k = 0; k < 20; k++)
            fake_turn(&s->f);
        assert_int_equal(s->done, 0);
        assert_int_equal(read(pump_write_end, got, sizeof got), 3);
        assert_int_equal(read(pump_write_end, got, sizeof got), 0);
        tell_verdict(codes[i]);
        (void)close(take_fd(&pump_write_end));
        UNTIL(&s->f, s->done == 1);
        if (codes[i] != 0)
            expect(s, ERR_INTERNAL, "FILE_IO_FAILED", "/proc/x");
        else
            assert_int_equal(s->err.code, 0);
    }
}

static void a_pumped_file_stops_at_the_limit(void **state)
{
    struct files *s = *state;
    char block[4096] = {0};

    s->f.on_message = pumped;
    assert_non_null(engine_file_read(&s->f.en, "local", "sb-test", "/dev/zero", 10000, on_done, s));
    UNTIL(&s->f, pump_write_end >= 0);
    (void)fcntl(pump_write_end, F_SETFL, O_NONBLOCK);
    while (s->done == 0) {
        (void)!write(pump_write_end, block, sizeof block);
        fake_turn(&s->f);
    }
    expect(s, ERR_EXHAUSTED, "FILE_TOO_LARGE", "/dev/zero");
    assert_int_equal(s->err.meta_count, 2); /* no size: it has none */
    assert_string_equal(s->err.meta[1].key, "max_size_bytes");
    (void)close(take_fd(&pump_write_end));
}

static void a_pumped_write_arrives_whole(void **state)
{
    struct files *s = *state;
    size_t len = 300000, got = 0;
    char *data = calloc(1, len), block[65536];

    s->f.on_message = pumped;
    assert_non_null(engine_file_write(&s->f.en, "local", "sb-test", "/fifo", data, len, on_done, s));
    UNTIL(&s->f, pump_write_end >= 0);
    (void)fcntl(pump_write_end, F_SETFL, O_NONBLOCK);
    while (got < len) {
        ssize_t n = read(pump_write_end, block, sizeof block);

        got += n > 0 ? (size_t)n : 0;
        fake_turn(&s->f);
    }
    UNTIL(&s->f, s->done == 1);
    assert_int_equal(s->err.code, 0);
    (void)close(take_fd(&pump_write_end));
    free(data);
}

/* ---- hostile --------------------------------------------------------------------------------------------------------------------- */

static bool open_dir(struct fake *f, struct wire_msg *m)
{
    struct in_opened is = {.size = 5};
    int fd;

    if (m->head->type != IN_OPEN)
        return false;
    fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    fake_send(f, IN_OPENED, m->head->token, &is, sizeof is, &fd, 1);
    (void)close(fd);
    return true;
}

static bool open_proc(struct fake *f, struct wire_msg *m)
{
    struct in_opened is = {.size = 5};
    int fd;

    if (m->head->type != IN_OPEN)
        return false;
    fd = open("/proc/version", O_RDONLY | O_CLOEXEC); /* regular by its mode, but no disk answers here */
    fake_send(f, IN_OPENED, m->head->token, &is, sizeof is, &fd, 1);
    (void)close(fd);
    return true;
}

static bool open_for_reading_only(struct fake *f, struct wire_msg *m)
{
    struct in_opened is = {.size = 5};
    int fd;

    if (m->head->type != IN_OPEN)
        return false;
    fd = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
    fake_send(f, IN_OPENED, m->head->token, &is, sizeof is, &fd, 1);
    (void)close(fd);
    return true;
}

static void lying(struct files *s, bool (*liar)(struct fake *f, struct wire_msg *m), bool write)
{
    s->f.on_message = liar;
    if (write)
        assert_non_null(engine_file_write(&s->f.en, "local", "sb-test", "/x", "y", 1, on_done, s));
    else
        assert_non_null(engine_file_read(&s->f.en, "local", "sb-test", "/x", 10, on_done, s));
    UNTIL(&s->f, s->f.lost == 1);
    assert_string_equal(s->f.lost_err.msg,
                        "the init of sandbox sb-test broke its protocol: a file with the wrong descriptor");
    assert_int_equal(s->done, 0);
    init_link_free(s->f.box.init);
    s->f.box.init = NULL;
    assert_int_equal(s->done, 1);
    assert_int_equal(s->err.kind, ERR_CANCELLED);
}

static void a_directory_as_a_file_ends_the_sandbox(void **state)
{
    lying(*state, open_dir, false);
}

static void a_file_system_that_could_block_ends_the_sandbox(void **state)
{
    lying(*state, open_proc, false);
}

static void a_descriptor_that_cannot_be_written_ends_the_sandbox(void **state)
{
    lying(*state, open_for_reading_only, true);
}

static bool ignore(struct fake *f, struct wire_msg *m)
{
    (void)f;
    return m->head->type == IN_OPEN;
}

static void a_dropped_operation_does_not_call_back(void **state)
{
    struct files *s = *state;
    struct op *op;

    write_file(s, "/f", "x", 1);
    s->done = 0;
    op = engine_file_read(&s->f.en, "local", "sb-test", "/f", 10, on_done, s);
    op_drop(op);
    TURNS(&s->f, 20);
    assert_int_equal(s->done, 0);
    s->f.on_message = ignore;
    op = engine_file_read(&s->f.en, "local", "sb-test", "/f", 10, on_done, s);
    op_drop(op);
    TURNS(&s->f, 3);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(empty_and_endless_paths_are_refused),
        T(unknown_and_foreign_sandboxes_are_refused_later_not_within),
        T(a_missing_file_is_not_found),
        T(a_directory_is_no_file),
        T(errors_of_the_kernel_keep_their_meaning),
        T(what_is_written_is_read_back),
        T(a_relative_path_begins_at_the_working_directory),
        T(a_file_above_the_limit_says_its_size),
        T(a_sparse_file_of_exbibytes_is_only_too_large),
        T(a_write_above_the_limit_is_refused_before_anything_is_opened),
        T(a_pumped_file_is_read_to_its_end),
        T(a_pump_that_is_cut_off_is_no_end_of_file),
        T(a_pump_that_fails_to_read_says_why),
        T(a_pumped_write_is_done_when_the_pump_says_so),
        T(a_pumped_file_stops_at_the_limit),
        T(a_pumped_write_arrives_whole),
        T(a_directory_as_a_file_ends_the_sandbox),
        T(a_file_system_that_could_block_ends_the_sandbox),
        T(a_descriptor_that_cannot_be_written_ends_the_sandbox),
        T(a_dropped_operation_does_not_call_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
