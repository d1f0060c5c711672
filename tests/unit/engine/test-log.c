/* The log of a main process: pipe to segments, readers, disk full, re-opening. */
#include "fake-init.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "engine/log-internal.h"

struct logs {
    struct fake f;
    int pipe; /* where main writes */
    unsigned finished;
    /* a reader */
    struct log_reader *r;
    struct buf got;
    unsigned chunks, ended;
    uint64_t when;
    struct err err;
    bool stop_each, stopped, close_in_data;
};

static bool have_mounts;

static void open_log(struct logs *s)
{
    struct err e = {0};
    int p[2];

    assert_int_equal(pipe2(p, O_CLOEXEC), 0);
    s->pipe = p[1];
    assert_int_equal(box_log_open(&s->f.box, p[0], &s->f.box.log, &e), 0);
}

static int setup(void **state)
{
    struct logs *s = calloc(1, sizeof *s);

    fake_open(&s->f);
    UNTIL(&s->f, s->f.ready == 1);
    open_log(s);
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    struct logs *s = *state;

    if (s->r != NULL)
        log_close(s->r);
    fd_close(s->pipe);
    fake_close(&s->f);
    buf_fini(&s->got);
    free(s);
    return 0;
}

static bool on_data(struct log_reader *r, struct chunk *c, uint64_t when_ns, void *arg)
{
    struct logs *s = arg;

    assert_true(c->len > 0 && c->len <= LOG_CHUNK_MAX);
    assert_int_equal(s->ended, 0);
    s->chunks++;
    if (s->when == 0)
        s->when = when_ns;
    assert_int_equal(buf_append(&s->got, c->data + c->off, c->len), 0);
    chunk_free(c);
    if (s->close_in_data) {
        log_close(r);
        s->r = NULL;
    }
    s->stopped = s->stop_each;
    return !s->stop_each;
}

static void on_end(struct log_reader *r, const struct err *e, void *arg)
{
    struct logs *s = arg;

    (void)r;
    s->ended++;
    s->err = e != NULL ? *e : (struct err){0};
    s->r = NULL;
}

static const struct log_ops ops = {on_data, on_end};

static void start(struct logs *s, struct log_spec spec)
{
    struct err e = {0};

    s->got.len = 0;
    s->chunks = s->ended = 0;
    s->when = 0;
    spec.tenant = "local";
    spec.box = "sb-test";
    if (engine_logs(&s->f.en, &spec, &ops, s, &s->r, &e) < 0)
        fail_msg("%s", e.msg);
}

static void say(struct logs *s, const char *text)
{
    assert_int_equal(write(s->pipe, text, strlen(text)), strlen(text));
}

static const char *got(struct logs *s)
{
    assert_int_equal(buf_append(&s->got, "", 1), 0);
    s->got.len--;
    return (const char *)s->got.data;
}

static const char *all(struct logs *s, struct log_spec spec)
{
    start(s, spec);
    UNTIL(&s->f, s->ended == 1);
    if (s->err.code != 0)
        fail_msg("%s", s->err.msg);
    return got(s);
}

static void on_finished(struct box *b)
{
    container_of(container_of(b, struct fake, box), struct logs, f)->finished++;
}

static void finish(struct logs *s)
{
    unsigned ended = s->ended;

    s->finished = 0;
    box_log_finish(s->f.box.log, on_finished);
    assert_int_equal(s->finished, 0);
    UNTIL(&s->f, s->finished == 1);
    assert_int_equal(s->ended, ended); /* a follower is let go when the end can be asked for, and it cannot yet */
    box_log_ended(s->f.box.log);
}

/* The daemon dies and comes back: the pipe lives on with init. */
static void reopen(struct logs *s, int keep)
{
    struct err e = {0};
    int dup = fcntl(keep, F_DUPFD_CLOEXEC, 0);

    assert_true(dup >= 0);
    while (s->f.box.log->busy)
        fake_turn(&s->f);
    box_log_free(s->f.box.log);
    s->f.box.log = NULL;
    assert_int_equal(box_log_open(&s->f.box, dup, &s->f.box.log, &e), 0);
}

static void flushed(struct logs *s)
{
    struct box_log *l = s->f.box.log;

    UNTIL(&s->f, !l->busy && (l->fd < 0 || l->io.active));
    TURNS(&s->f, 2);
    UNTIL(&s->f, !l->busy);
}

/* ---- refusals -------------------------------------------------------------------------------------------------------------------- */

static void unknown_sandboxes_have_no_log(void **state)
{
    struct logs *s = *state;
    struct log_spec spec = {.tenant = "other", .box = "sb-test"};
    struct err e = {0};

    assert_true(engine_logs(&s->f.en, &spec, &ops, s, &s->r, &e) < 0);
    assert_string_equal(e.reason, "SANDBOX_NOT_FOUND");
}

static void following_a_sandbox_that_is_being_created_is_for_later(void **state)
{
    struct logs *s = *state;
    struct log_spec spec = {.tenant = "local", .box = "sb-test", .follow = true};
    struct err e = {0};

    box_log_free(s->f.box.log);
    s->f.box.log = NULL;
    s->f.box.state = BOX_CREATING;
    assert_true(engine_logs(&s->f.en, &spec, &ops, s, &s->r, &e) < 0);
    assert_int_equal(e.kind, ERR_UNAVAILABLE);
    assert_string_equal(all(s, (struct log_spec){0}), "");
}

static void one_reader_above_the_limit_is_refused(void **state)
{
    struct logs *s = *state;
    struct log_spec spec = {.tenant = "local", .box = "sb-test", .follow = true};
    struct log_reader *r[LOG_READERS_MAX];
    struct err e = {0};

    for (int i = 0; i < LOG_READERS_MAX; i++)
        assert_int_equal(engine_logs(&s->f.en, &spec, &ops, s, &r[i], &e), 0);
    assert_true(engine_logs(&s->f.en, &spec, &ops, s, &s->r, &e) < 0);
    assert_int_equal(e.kind, ERR_EXHAUSTED);
    for (int i = 0; i < LOG_READERS_MAX; i++)
        log_close(r[i]);
    s->r = NULL;
}

/* ---- reading --------------------------------------------------------------------------------------------------------------------- */

static void an_empty_log_ends_at_once_and_has_no_files(void **state)
{
    struct logs *s = *state;
    char path[128];

    assert_string_equal(all(s, (struct log_spec){0}), "");
    (void)snprintf(path, sizeof path, "%s/logs", s->f.dir);
    assert_true(access(path, F_OK) < 0);
    (void)close(take_fd(&s->pipe)); /* main ends without a word */
    UNTIL(&s->f, s->f.box.log->fd < 0);
    finish(s);
    assert_true(access(path, F_OK) < 0);
}

static void what_was_written_before_the_call_is_seen(void **state)
{
    struct logs *s = *state;

    for (int i = 0; i < 50; i++) {
        char line[32];

        (void)snprintf(line, sizeof line, "line %d\n", i);
        say(s, line); /* still in the pipe when the reader comes */
        assert_non_null(strstr(all(s, (struct log_spec){0}), line));
    }
}

static void an_unfinished_line_is_given_at_the_end(void **state)
{
    struct logs *s = *state;

    say(s, "one\ntwo");
    assert_string_equal(all(s, (struct log_spec){0}), "one\ntwo");
}

static void tail_counts_lines(void **state)
{
    struct logs *s = *state;

    say(s, "1\n2\n3\n");
    assert_string_equal(all(s, (struct log_spec){.tail_lines = 1}), "3\n");
    assert_string_equal(all(s, (struct log_spec){.tail_lines = 2}), "2\n3\n");
    assert_string_equal(all(s, (struct log_spec){.tail_lines = 3}), "1\n2\n3\n");
    assert_string_equal(all(s, (struct log_spec){.tail_lines = 99}), "1\n2\n3\n");
    say(s, "4");
    assert_string_equal(all(s, (struct log_spec){.tail_lines = 1}), "4");
    assert_string_equal(all(s, (struct log_spec){.tail_lines = 2}), "3\n4");
}

static void since_begins_with_the_first_line_that_began_then(void **state)
{
    struct logs *s = *state;
    uint64_t middle;

    say(s, "old\nbegun ");
    flushed(s);
    TURNS(&s->f, 5);
    middle = clock_wall();
    TURNS(&s->f, 5);
    say(s, "earlier\nnew\nnewer\n");
    flushed(s);
    assert_string_equal(all(s, (struct log_spec){.since_ns = middle}), "new\nnewer\n");
    assert_string_equal(all(s, (struct log_spec){.since_ns = 1}), "old\nbegun earlier\nnew\nnewer\n");
    assert_string_equal(all(s, (struct log_spec){.since_ns = clock_wall() + NSEC_PER_SEC}), "");
    assert_string_equal(all(s, (struct log_spec){.since_ns = middle, .tail_lines = 1}), "newer\n");
    assert_string_equal(all(s, (struct log_spec){.since_ns = middle, .tail_lines = 3}), "new\nnewer\n");
}

static uint64_t parse_time(const char *text)
{
    struct tm tm = {0};
    unsigned ns;
    char z;

    assert_int_equal(sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2d.%9u%c", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &tm.tm_hour,
                            &tm.tm_min, &tm.tm_sec, &ns, &z),
                     8);
    assert_int_equal(z, 'Z');
    assert_int_equal(text[30], ' ');
    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    return (uint64_t)timegm(&tm) * NSEC_PER_SEC + ns;
}

static void timestamps_are_of_the_first_byte_of_a_line(void **state)
{
    struct logs *s = *state;
    uint64_t t0, t1, t2;
    const char *text;

    t0 = clock_wall();
    say(s, "first\nsec");
    flushed(s);
    TURNS(&s->f, 5);
    t1 = clock_wall();
    say(s, "ond\nthird\n");
    flushed(s);
    t2 = clock_wall();
    text = all(s, (struct log_spec){.timestamps = true});
    assert_int_equal(strlen(text), 3 * 31 + strlen("first\nsecond\nthird\n"));
    assert_true(parse_time(text) >= t0 && parse_time(text) < t1);
    assert_int_equal(s->when, parse_time(text));
    assert_memory_equal(text + 31, "first\n", 6);
    assert_true(parse_time(text + 37) < t1);
    assert_memory_equal(text + 37 + 31, "second\n", 7);
    assert_true(parse_time(text + 75) >= t1 && parse_time(text + 75) <= t2);
    assert_memory_equal(text + 75 + 31, "third\n", 6);
}

static void a_long_line_is_cut_between_characters(void **state)
{
    struct logs *s = *state;
    size_t len = 3 * 200000 + 1;
    char *line = malloc(len + 1);

    for (size_t i = 0; i + 3 < len; i += 3)
        memcpy(line + i, "\xe2\x82\xac", 3);
    line[len - 1] = '\n';
    line[len] = '\0';
    (void)fcntl(s->pipe, F_SETFL, O_NONBLOCK);
    for (size_t at = 0; at < len;) {
        ssize_t n = write(s->pipe, line + at, len - at);

        at += n > 0 ? (size_t)n : 0;
        fake_turn(&s->f);
    }
    start(s, (struct log_spec){.timestamps = true});
    s->stop_each = true;
    UNTIL(&s->f, s->stopped);
    assert_true(s->got.len > 200000 && s->got.len < 270000);
    assert_int_equal((s->got.len - 31) % 3, 0);
    s->stop_each = false;
    log_resume(s->r);
    UNTIL(&s->f, s->ended == 1);
    assert_int_equal(s->got.len, len + 31);
    assert_memory_equal(s->got.data + 31, line, len);
    free(line);
}

static void a_reader_that_stops_gets_nothing_until_it_goes_on(void **state)
{
    struct logs *s = *state;
    char block[4096];
    unsigned chunks = 0;

    memset(block, 'x', sizeof block);
    block[4095] = '\n';
    for (int i = 0; i < 200; i++) {
        assert_int_equal(write(s->pipe, block, sizeof block), sizeof block);
        flushed(s);
    }
    s->stop_each = true;
    start(s, (struct log_spec){0});
    while (s->ended == 0) {
        UNTIL(&s->f, s->stopped || s->ended);
        if (s->ended)
            break;
        assert_int_equal(s->chunks, ++chunks);
        TURNS(&s->f, 5);
        assert_int_equal(s->chunks, chunks);
        assert_int_equal(s->ended, 0);
        s->stopped = false;
        log_resume(s->r);
    }
    assert_int_equal(s->got.len, 200 * 4096);
    assert_true(chunks >= 3);
}

static void a_finite_reader_of_a_busy_log_ends(void **state)
{
    struct logs *s = *state;

    (void)fcntl(s->pipe, F_SETFL, O_NONBLOCK);
    start(s, (struct log_spec){0});
    for (int i = 0; i < 2000 && s->ended == 0; i++) {
        (void)!write(s->pipe, "more and more\n", 14);
        fake_turn(&s->f);
    }
    assert_int_equal(s->ended, 1);
}

/* ---- following ------------------------------------------------------------------------------------------------------------------------ */

static void a_follower_sees_lines_as_they_come_and_the_end(void **state)
{
    struct logs *s = *state;

    say(s, "before\n");
    start(s, (struct log_spec){.follow = true});
    UNTIL(&s->f, strcmp(got(s), "before\n") == 0);
    say(s, "after\n");
    UNTIL(&s->f, strcmp(got(s), "before\nafter\n") == 0);
    TURNS(&s->f, 5);
    assert_int_equal(s->ended, 0);
    say(s, "last");
    finish(s);
    UNTIL(&s->f, s->ended == 1);
    assert_int_equal(s->err.code, 0);
    assert_string_equal(got(s), "before\nafter\nlast");
    /* The ended sandbox still has it, also for who "follows". */
    s->f.box.state = BOX_COMPLETED;
    assert_string_equal(all(s, (struct log_spec){.follow = true}), "before\nafter\nlast");
    box_log_free(s->f.box.log);
    s->f.box.log = NULL;
    assert_string_equal(all(s, (struct log_spec){.tail_lines = 2}), "after\nlast");
}

/* Keeps a thread of the pool until the pipe is closed. */
struct blocker {
    struct work work;
    int fd;
    bool done;
};

static void block(struct work *w)
{
    char c;

    (void)!read(container_of(w, struct blocker, work)->fd, &c, 1);
}

static void unblocked(struct work *w)
{
    container_of(w, struct blocker, work)->done = true;
}

static void a_follower_that_reads_while_the_sandbox_ends_and_goes_is_told(void **state)
{
    struct logs *s = *state;
    struct blocker b[WORK_THREADS] = {0};
    int p[2];

    say(s, "all\n");
    s->finished = 0;
    box_log_finish(s->f.box.log, on_finished);
    UNTIL(&s->f, s->finished == 1);
    assert_int_equal(pipe2(p, O_CLOEXEC), 0);
    for (int i = 0; i < WORK_THREADS; i++) {
        b[i].fd = p[0];
        assert_int_equal(work_submit(s->f.en.loop, &b[i].work, block, unblocked), 0);
    }
    start(s, (struct log_spec){.follow = true});
    TURNS(&s->f, 2); /* it asks for a chunk, which no thread can fetch yet */
    box_log_ended(s->f.box.log);
    box_log_free(s->f.box.log);
    s->f.box.log = NULL;
    TURNS(&s->f, 2);
    assert_int_equal(s->ended, 0);
    (void)close(p[1]);
    UNTIL(&s->f, s->ended == 1);
    assert_int_equal(s->err.code, 0);
    assert_string_equal(got(s), "all\n");
    for (int i = 0; i < WORK_THREADS; i++)
        UNTIL(&s->f, b[i].done);
    (void)close(p[0]);
}

static void a_follower_waits_a_moment_for_the_end_of_a_line(void **state)
{
    struct logs *s = *state;

    start(s, (struct log_spec){.follow = true, .timestamps = true});
    say(s, "dots ");
    flushed(s);
    TURNS(&s->f, 3);
    say(s, "and\n");
    UNTIL(&s->f, s->got.len > 0);
    assert_int_equal(s->chunks, 1);
    assert_int_equal(s->got.len, 31 + 9);
    say(s, "prompt> ");
    UNTIL(&s->f, s->chunks == 2); /* it does not wait for ever */
    say(s, "answer\n");
    UNTIL(&s->f, s->chunks == 3);
    assert_non_null(strstr(got(s), "Z prompt> answer\n"));
    assert_int_equal(s->got.len, 31 + 9 + 31 + 15);
}

static void half_a_character_is_not_given_to_a_follower(void **state)
{
    struct logs *s = *state;

    start(s, (struct log_spec){.follow = true});
    say(s, "a\xe2\x82");
    UNTIL(&s->f, s->got.len == 1);
    TURNS(&s->f, 100);
    assert_int_equal(s->got.len, 1);
    say(s, "\xac");
    UNTIL(&s->f, s->got.len == 4);
    say(s, "\xe2");
    finish(s); /* the rest of it will never come */
    UNTIL(&s->f, s->ended == 1);
    assert_string_equal(got(s), "a\xe2\x82\xac\xe2");
}

static void a_follower_with_a_time_in_the_future_gets_what_comes_then(void **state)
{
    struct logs *s = *state;
    uint64_t when = clock_wall() + 100 * NSEC_PER_MSEC;

    say(s, "now\n");
    start(s, (struct log_spec){.follow = true, .since_ns = when});
    flushed(s);
    while (clock_wall() <= when)
        fake_turn(&s->f);
    assert_int_equal(s->chunks, 0);
    say(s, "then\n");
    UNTIL(&s->f, s->chunks == 1);
    assert_string_equal(got(s), "then\n");
}

static void closing_inside_data_is_fine(void **state)
{
    struct logs *s = *state;

    s->close_in_data = true;
    say(s, "x\n");
    start(s, (struct log_spec){.follow = true});
    UNTIL(&s->f, s->r == NULL);
    say(s, "y\n");
    TURNS(&s->f, 10);
    assert_int_equal(s->chunks, 1);
    assert_int_equal(s->f.box.log->reader_count, 0);
}

static void the_end_of_the_daemon_ends_followers(void **state)
{
    struct logs *s = *state;

    start(s, (struct log_spec){.follow = true});
    TURNS(&s->f, 3);
    box_log_free(s->f.box.log);
    s->f.box.log = NULL;
    UNTIL(&s->f, s->ended == 1);
    assert_int_equal(s->err.kind, ERR_UNAVAILABLE);
}

static void a_background_child_that_floods_the_pipe_does_not_hold_the_end(void **state)
{
    struct logs *s = *state;
    pid_t pid = fork();

    if (pid == 0) {
        (void)dup2(s->pipe, 1);
        (void)execlp("yes", "yes", NULL);
        _exit(1);
    }
    UNTIL(&s->f, s->f.box.log->end > 0);
    finish(s);
    (void)kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/* ---- files -------------------------------------------------------------------------------------------------------------------------------- */

static uint64_t disk_use(struct logs *s, uint64_t *ret_first, uint64_t *ret_end)
{
    struct log_segs segs;
    uint64_t total = 0;

    assert_int_equal(log_segs_list(s->f.box.log->dir, &segs), 0);
    for (size_t i = 0; i < segs.n; i++)
        total += segs.v[i].size + segs.v[i].index_size;
    if (ret_first != NULL)
        *ret_first = segs.n > 0 ? segs.v[0].start : 0;
    if (ret_end != NULL)
        *ret_end = segs.n > 0 ? segs.v[segs.n - 1].start + segs.v[segs.n - 1].size : 0;
    free(segs.v);
    return total;
}

/* A byte that tells its offset. */
static uint8_t byte_at(uint64_t off)
{
    return off % 61 == 60 ? '\n' : (uint8_t)('!' + (off * 2654435761u >> 7) % 90);
}

static void bytes_and_offsets_are_exact_whatever_the_sizes(void **state)
{
    struct logs *s = *state;
    unsigned seed = 12345;
    uint64_t total = 0, first, end;
    uint8_t *block = malloc(60000);
    int keep;

    s->f.en.config.log_max_bytes = 256 << 10; /* segments of 64 KiB */
    box_log_free(s->f.box.log);
    fd_close(s->pipe);
    open_log(s);
    keep = fcntl(s->f.box.log->fd, F_DUPFD_CLOEXEC, 0);
    for (int i = 0; i < 400; i++) {
        size_t len = 1 + (size_t)rand_r(&seed) % (rand_r(&seed) % 4 == 0 ? 50000 : 200);

        for (size_t k = 0; k < len; k++)
            block[k] = byte_at(total + k);
        assert_int_equal(write(s->pipe, block, len), len);
        total += len;
        if (i % 3 == 0)
            flushed(s);
        else
            UNTIL(&s->f, s->f.box.log->fd < 0 || s->f.box.log->busy == false);
        if (i % 50 == 49)
            reopen(s, keep);
        flushed(s);
        assert_true(disk_use(s, NULL, NULL) <= s->f.en.config.log_max_bytes + LOG_INDEX_MAX);
    }
    finish(s);
    (void)disk_use(s, &first, &end);
    assert_int_equal(end, total);
    assert_true(first > 0);
    assert_true(total - first >= (256 << 10) - 2 * (64 << 10));

    (void)all(s, (struct log_spec){0});
    assert_true(s->got.len > 0 && s->got.len <= total - first);
    assert_true(total - first - s->got.len <= 61); /* only the rest of a line whose beginning is gone */
    for (size_t i = 0; i < s->got.len; i++)
        assert_int_equal(s->got.data[i], byte_at(total - s->got.len + i));
    (void)close(keep);
    free(block);
}

static void a_slow_reader_is_told_what_it_missed(void **state)
{
    struct logs *s = *state;
    char line[1024];

    s->f.en.config.log_max_bytes = 64 << 10;
    box_log_free(s->f.box.log);
    fd_close(s->pipe);
    open_log(s);
    memset(line, 'l', sizeof line);
    line[1023] = '\n';
    s->stop_each = true;
    say(s, "first\n");
    start(s, (struct log_spec){.follow = true});
    UNTIL(&s->f, s->stopped);
    for (int i = 0; i < 300; i++) {
        assert_int_equal(write(s->pipe, line, sizeof line), sizeof line);
        flushed(s);
    }
    s->stop_each = s->stopped = false;
    log_resume(s->r);
    finish(s);
    UNTIL(&s->f, s->ended == 1);
    assert_non_null(strstr(got(s), "first\n[silica: "));
    assert_non_null(strstr(got(s), " bytes of older output are no longer kept]\nlll"));
}

static void many_small_writes_do_not_make_a_large_index(void **state)
{
    struct logs *s = *state;
    struct stat st;
    char path[256];

    for (int i = 0; i < 3000; i++) {
        say(s, "\n");
        UNTIL(&s->f, !s->f.box.log->busy);
    }
    flushed(s);
    (void)snprintf(path, sizeof path, "%s/%020u.idx", s->f.box.log->dir, 0);
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_size < 1000 * 16 * 30); /* one a millisecond at most */
    assert_int_equal(strlen(all(s, (struct log_spec){0})), 3000);
}

static void removal_leaves_nothing(void **state)
{
    struct logs *s = *state;
    char path[128];

    say(s, "x\n");
    flushed(s);
    (void)snprintf(path, sizeof path, "%s/logs/sb-test", s->f.dir);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(box_log_remove(&s->f.en, "sb-test"), 0);
    UNTIL(&s->f, access(path, F_OK) < 0);
    assert_int_equal(box_log_remove(&s->f.en, "sb-unknown"), 0);
    TURNS(&s->f, 5);
}

static void a_full_disk_is_told_and_does_not_stop_the_process(void **state)
{
    struct logs *s = *state;
    char path[128], block[4096];
    struct buf *g = &s->got;
    int fd;

    if (!have_mounts) {
        if (getenv("TESTS_MUST_RUN") != NULL)
            fail_msg("needs a mount namespace of its own (root)");
        skip();
    }
    (void)snprintf(path, sizeof path, "%s/logs", s->f.dir);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(mount("tmpfs", path, "tmpfs", 0, "size=256k"), 0);
    say(s, "begin\nhalf a line");
    flushed(s);
    strcat(path, "/ballast");
    fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    memset(block, 'b', sizeof block);
    while (write(fd, block, sizeof block) > 0)
        ;
    (void)close(fd);
    memset(block, 'x', sizeof block);
    for (int i = 0; i < 100; i++) { /* far more than a pipe holds */
        assert_int_equal(write(s->pipe, block, sizeof block), sizeof block);
        flushed(s);
    }
    assert_true(s->f.box.log->lost > 0);
    /* Said to who reads now, ... */
    (void)all(s, (struct log_spec){0});
    assert_non_null(strstr(got(s), " bytes of output were lost here: No space left on device]\n"));
    /* ... and in the log once there is room again. */
    assert_int_equal(unlink(path), 0);
    say(s, "after\n");
    flushed(s);
    assert_int_equal(s->f.box.log->lost, 0);
    (void)all(s, (struct log_spec){0});
    assert_memory_equal(g->data, "begin\nhalf a line", 17);
    assert_non_null(strstr(got(s), "\n[silica: "));
    assert_non_null(strstr(got(s), " bytes of output were lost here: No space left on device]\nafter\n"));
    *strrchr(path, '/') = '\0';
    assert_int_equal(umount2(path, MNT_DETACH), 0);
}

/* ---- main ------------------------------------------------------------------------------------------------------------------------------------ */

static int setup_main(void **state)
{
    struct logs *s = calloc(1, sizeof *s);

    s->pipe = -1;
    fake_open(&s->f);
    UNTIL(&s->f, s->f.ready == 1);
    *state = s;
    return 0;
}

static void start_main(struct logs *s)
{
    struct err e = {0};

    if (box_start_main(&s->f.box, &e) < 0)
        fail_msg("%s", e.msg);
    UNTIL(&s->f, s->f.started + s->f.main_failed == 1);
}

static void an_image_without_a_command_is_refused(void **state)
{
    struct logs *s = *state;
    struct err e = {0};

    s->f.rec.entry_json = (char *)"{\"cmd\":[]}";
    assert_true(box_start_main(&s->f.box, &e) < 0);
    assert_string_equal(e.msg, "image debian:12 has no command of its own and none was given");
}

static void a_main_program_that_does_not_exist_fails_the_sandbox(void **state)
{
    struct logs *s = *state;

    s->f.rec.command = (char *)"nothing-like-this";
    start_main(s);
    assert_int_equal(s->f.main_failed, 1);
    assert_string_equal(s->f.main_err.msg, "exec: \"nothing-like-this\": executable file not found in PATH");
    assert_null(s->f.box.main);
}

static void the_image_says_what_runs(void **state)
{
    struct logs *s = *state;

    s->f.rec.entry_json = (char *)"{\"entrypoint\":[\"sh\",\"-c\"],\"cmd\":[\"echo from cmd; echo err >&2; exit 5\"]}";
    start_main(s);
    UNTIL(&s->f, s->f.main_ended == 1);
    assert_int_equal(s->f.main_res.code, 5);
    assert_int_equal(s->f.acks, 0);
    finish(s);
    assert_string_equal(all(s, (struct log_spec){0}), "from cmd\nerr\n");
}

static void arguments_replace_cmd_and_a_command_replaces_both(void **state)
{
    struct logs *s = *state;
    char *args[] = {(char *)"-c", (char *)"echo from args", NULL};

    s->f.rec.entry_json = (char *)"{\"entrypoint\":[\"sh\"],\"cmd\":[\"-c\",\"echo from cmd\"]}";
    s->f.rec.args = args;
    start_main(s);
    UNTIL(&s->f, s->f.main_ended == 1);
    finish(s);
    assert_string_equal(all(s, (struct log_spec){0}), "from args\n");
    box_log_free(s->f.box.log);
    s->f.box.log = NULL;
    s->f.started = s->f.main_ended = 0;
    s->f.rec.command = (char *)"echo";
    s->f.rec.args = NULL;
    start_main(s);
    UNTIL(&s->f, s->f.main_ended == 1);
    finish(s);
    assert_string_equal(all(s, (struct log_spec){0}), "from args\n\n");
}

static void a_signal_before_the_start_is_delivered_after_it(void **state)
{
    struct logs *s = *state;
    struct err e = {0};
    char *args[] = {(char *)"100", NULL};

    s->f.rec.command = (char *)"sleep";
    s->f.rec.args = args;
    assert_int_equal(box_start_main(&s->f.box, &e), 0);
    assert_int_equal(proc_kill(s->f.box.main, SIGTERM, false, &e), 0);
    UNTIL(&s->f, s->f.main_ended == 1);
    assert_int_equal(s->f.main_res.cause, EXEC_SIGNALED);
    assert_int_equal(s->f.main_res.code, 143);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define M(name) cmocka_unit_test_setup_teardown(name, setup_main, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(unknown_sandboxes_have_no_log),
        T(following_a_sandbox_that_is_being_created_is_for_later),
        T(one_reader_above_the_limit_is_refused),
        T(an_empty_log_ends_at_once_and_has_no_files),
        T(what_was_written_before_the_call_is_seen),
        T(an_unfinished_line_is_given_at_the_end),
        T(tail_counts_lines),
        T(since_begins_with_the_first_line_that_began_then),
        T(timestamps_are_of_the_first_byte_of_a_line),
        T(a_long_line_is_cut_between_characters),
        T(a_reader_that_stops_gets_nothing_until_it_goes_on),
        T(a_finite_reader_of_a_busy_log_ends),
        T(a_follower_sees_lines_as_they_come_and_the_end),
        T(a_follower_that_reads_while_the_sandbox_ends_and_goes_is_told),
        T(a_follower_waits_a_moment_for_the_end_of_a_line),
        T(half_a_character_is_not_given_to_a_follower),
        T(a_follower_with_a_time_in_the_future_gets_what_comes_then),
        T(closing_inside_data_is_fine),
        T(the_end_of_the_daemon_ends_followers),
        T(a_background_child_that_floods_the_pipe_does_not_hold_the_end),
        T(bytes_and_offsets_are_exact_whatever_the_sizes),
        T(a_slow_reader_is_told_what_it_missed),
        T(many_small_writes_do_not_make_a_large_index),
        T(removal_leaves_nothing),
        T(a_full_disk_is_told_and_does_not_stop_the_process),
        M(an_image_without_a_command_is_refused),
        M(a_main_program_that_does_not_exist_fails_the_sandbox),
        M(the_image_says_what_runs),
        M(arguments_replace_cmd_and_a_command_replaces_both),
        M(a_signal_before_the_start_is_delivered_after_it),
    };

    /* Mounts of these tests are nobody else's and end with this process. */
    have_mounts = unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
