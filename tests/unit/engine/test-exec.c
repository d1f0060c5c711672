/* Foreground processes through a real loop, real pipes and real programs; only init is a fake. */
#include "fake-init.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

struct sink {
    struct fake f;
    struct exec *x;
    struct buf out[2];
    unsigned chunks, started, drained, ended, failed;
    bool stop_each; /* refuse after each chunk */
    bool stopped;
    bool abandon_on_output;
    bool count_only;
    uint64_t bytes;
    size_t cap_seen;
    struct exec_result res;
    struct err err;
    unsigned chunks_at_end;
};

static void on_started(struct exec *x, void *arg)
{
    struct sink *s = arg;

    (void)x;
    s->started++;
}

static bool on_output(struct exec *x, int stream, struct chunk *c, void *arg)
{
    struct sink *s = arg;

    assert_int_equal(s->ended + s->failed, 0);
    assert_true(c->len > 0);
    s->chunks++;
    s->bytes += c->len;
    if (!s->count_only)
        assert_int_equal(buf_append(&s->out[stream - 1], c->data + c->off, c->len), 0);
    chunk_free(c);
    if (s->abandon_on_output) {
        exec_abandon(x);
        s->x = NULL;
        return true;
    }
    s->stopped = s->stop_each;
    return !s->stop_each;
}

static void on_drained(struct exec *x, void *arg)
{
    struct sink *s = arg;

    (void)x;
    s->drained++;
}

static void on_ended(struct exec *x, const struct exec_result *res, void *arg)
{
    struct sink *s = arg;

    (void)x;
    s->ended++;
    s->res = *res;
    s->x = NULL;
}

static void on_failed(struct exec *x, const struct err *e, void *arg)
{
    struct sink *s = arg;

    (void)x;
    s->failed++;
    s->err = *e;
    s->x = NULL;
}

static const struct exec_ops ops = {on_started, on_output, on_drained, on_ended, on_failed};

static int setup(void **state)
{
    struct sink *s = calloc(1, sizeof *s);

    fake_open(&s->f);
    UNTIL(&s->f, s->f.ready == 1);
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    struct sink *s = *state;

    if (s->x != NULL)
        exec_abandon(s->x);
    fake_close(&s->f);
    buf_fini(&s->out[0]);
    buf_fini(&s->out[1]);
    free(s);
    return 0;
}

static int start(struct sink *s, struct exec_spec spec, struct err *e)
{
    spec.tenant = "local";
    spec.box = "sb-test";
    return engine_exec(&s->f.en, &spec, &ops, s, &s->x, e);
}

#define ARGV(...) ((const char *const[]){__VA_ARGS__, NULL})
#define SH(text) ARGV("sh", "-c", text)

static void run(struct sink *s, struct exec_spec spec)
{
    struct err e = {0};

    if (start(s, spec, &e) < 0)
        fail_msg("%s", e.msg);
    UNTIL(&s->f, s->ended + s->failed > 0);
}

static const char *text(struct sink *s, int stream)
{
    assert_int_equal(buf_append(&s->out[stream - 1], "", 1), 0);
    s->out[stream - 1].len--;
    return (const char *)s->out[stream - 1].data;
}

/* ---- refusals ------------------------------------------------------------------------------------------------------------------ */

static void an_empty_command_is_refused(void **state)
{
    struct sink *s = *state;
    struct err e = {0};

    assert_true(start(s, (struct exec_spec){.argv = ARGV("")}, &e) < 0);
    assert_int_equal(e.kind, ERR_INVALID);
    assert_string_equal(e.msg, "the command is empty");
    assert_int_equal(s->f.box.proc_count, 0);
}

static void an_argument_above_the_kernels_limit_is_named(void **state)
{
    struct sink *s = *state;
    char *big = malloc(IN_ARG_MAX + 1);
    struct err e = {0};

    memset(big, 'a', IN_ARG_MAX);
    big[IN_ARG_MAX] = '\0';
    assert_true(start(s, (struct exec_spec){.argv = ARGV("echo", "x", big)}, &e) < 0);
    assert_int_equal(e.kind, ERR_INVALID);
    assert_string_equal(e.msg, "argument 2 is 131072 bytes long; the limit of the kernel is 131071");
    free(big);
}

static void arguments_above_two_mebibytes_are_refused(void **state)
{
    struct sink *s = *state;
    const char *argv[34] = {"true"};
    char *big = malloc(100000);
    struct err e = {0};

    memset(big, 'a', 99999);
    big[99999] = '\0';
    for (int i = 1; i < 33; i++)
        argv[i] = big;
    assert_true(start(s, (struct exec_spec){.argv = argv}, &e) < 0);
    assert_int_equal(e.kind, ERR_INVALID);
    assert_non_null(strstr(e.msg, "argument 21"));
    free(big);
}

static void an_environment_that_no_longer_fits_names_the_variable_and_not_its_value(void **state)
{
    struct sink *s = *state;
    const char *argv[22] = {"true"};
    char *big = malloc(100000), *value = malloc(120001);
    struct env_item item = {.name = "HUGE", .name_len = 4, .value = value, .value_len = 120000, .op = ENV_SET};
    struct err e = {0};

    memset(big, 'a', 99999);
    big[99999] = '\0';
    memset(value, 'v', 120000);
    value[120000] = '\0';
    for (int i = 1; i < 20; i++)
        argv[i] = big;
    /* 19 x 100 kB fit, with 120 kB of environment more they still do; with one argument more they do not */
    run(s, (struct exec_spec){.argv = argv, .env = &item, .env_count = 1});
    assert_int_equal(s->res.cause, EXEC_EXITED);
    s->ended = 0;
    argv[20] = big;
    assert_true(start(s, (struct exec_spec){.argv = argv, .env = &item, .env_count = 1}, &e) < 0);
    assert_non_null(strstr(e.msg, "\"HUGE\""));
    assert_null(strstr(e.msg, "vvv"));
    free(big);
    free(value);
}

static void a_relative_working_directory_is_refused(void **state)
{
    struct sink *s = *state;
    struct err e = {0};

    assert_true(start(s, (struct exec_spec){.argv = ARGV("true"), .cwd = "tmp"}, &e) < 0);
    assert_int_equal(e.kind, ERR_INVALID);
}

static void one_more_than_execs_max_is_refused(void **state)
{
    struct sink *s = *state;
    struct exec *x[8];
    struct err e = {0};

    for (int i = 0; i < 8; i++) {
        assert_int_equal(start(s, (struct exec_spec){.argv = ARGV("sleep", "100")}, &e), 0);
        x[i] = s->x;
    }
    assert_true(start(s, (struct exec_spec){.argv = ARGV("true")}, &e) < 0);
    assert_int_equal(e.kind, ERR_EXHAUSTED);
    for (int i = 0; i < 8; i++)
        exec_abandon(x[i]);
    s->x = NULL;
    UNTIL(&s->f, fake_quiet(&s->f) && s->f.box.proc_count == 0);
    assert_int_equal(s->f.acks, 8);
}

static void a_sandbox_that_does_not_run_refuses(void **state)
{
    struct sink *s = *state;
    struct err e = {0};

    s->f.box.state = BOX_COMPLETED;
    assert_true(start(s, (struct exec_spec){.argv = ARGV("true")}, &e) < 0);
    assert_string_equal(e.reason, "SANDBOX_NOT_RUNNING");
}

/* ---- not started ------------------------------------------------------------------------------------------------------------------ */

static void a_program_that_does_not_exist_is_127_in_a_shells_words(void **state)
{
    struct sink *s = *state;

    run(s, (struct exec_spec){.argv = ARGV("no-such-program")});
    assert_int_equal(s->ended, 1);
    assert_int_equal(s->started, 0);
    assert_int_equal(s->res.cause, EXEC_NOT_STARTED);
    assert_int_equal(s->res.code, 127);
    assert_string_equal(text(s, 2), "silica: exec: \"no-such-program\": executable file not found in PATH\n");
}

static void a_file_that_cannot_be_executed_is_126(void **state)
{
    struct sink *s = *state;

    run(s, (struct exec_spec){.argv = ARGV("/etc/passwd")});
    assert_int_equal(s->res.code, 126);
    assert_string_equal(text(s, 2), "silica: exec: \"/etc/passwd\": Permission denied\n");
}

static void a_missing_working_directory_is_126(void **state)
{
    struct sink *s = *state;

    run(s, (struct exec_spec){.argv = ARGV("true"), .cwd = "/no/such"});
    assert_int_equal(s->res.code, 126);
    assert_string_equal(text(s, 2), "silica: the working directory cannot be used: No such file or directory\n");
}

static void an_unknown_user_is_126(void **state)
{
    struct sink *s = *state;

    run(s, (struct exec_spec){.argv = ARGV("true"), .user = "nobody-here"});
    assert_int_equal(s->res.code, 126);
    assert_string_equal(text(s, 2), "silica: the user cannot be used: no user 'nobody-here' in /etc/passwd\n");
    assert_int_equal(s->f.spawns, 0);
}

static bool no_more_processes(struct fake *f, struct wire_msg *m)
{
    if (m->head->type != IN_SPAWN)
        return false;
    fake_fail(f, m->head->token, EAGAIN, IN_ST_FORK, "clone");
    return true;
}

static void the_process_limit_is_named(void **state)
{
    struct sink *s = *state;

    s->f.on_message = no_more_processes;
    run(s, (struct exec_spec){.argv = ARGV("true")});
    assert_int_equal(s->failed, 1);
    assert_int_equal(s->err.kind, ERR_EXHAUSTED);
    assert_string_equal(s->err.msg, "sandbox sb-test has reached its limit of 64 processes");
}

/* ---- results ------------------------------------------------------------------------------------------------------------------------ */

static void exit_codes_and_streams_arrive(void **state)
{
    struct sink *s = *state;

    run(s, (struct exec_spec){.argv = SH("echo out; echo err >&2; exit 42")});
    assert_int_equal(s->started, 1);
    assert_int_equal(s->res.cause, EXEC_EXITED);
    assert_int_equal(s->res.code, 42);
    assert_string_equal(text(s, 1), "out\n");
    assert_string_equal(text(s, 2), "err\n");
    assert_int_equal(s->res.out_bytes, 4);
    assert_int_equal(s->res.err_bytes, 4);
    assert_int_equal(s->res.cpu_us, 7);
    UNTIL(&s->f, s->f.acks == 1);
}

static void merged_output_keeps_its_order(void **state)
{
    struct sink *s = *state;

    run(s, (struct exec_spec){.argv = SH("echo 1; echo 2 >&2; echo 3"), .merge = true});
    assert_string_equal(text(s, 1), "1\n2\n3\n");
}

static void a_signal_is_128_plus_its_number(void **state)
{
    struct sink *s = *state;

    run(s, (struct exec_spec){.argv = SH("kill -TERM $$")});
    assert_int_equal(s->res.cause, EXEC_SIGNALED);
    assert_int_equal(s->res.signal, SIGTERM);
    assert_int_equal(s->res.code, 143);
    assert_false(s->res.oom);
    assert_int_equal(s->f.stats, 0);
}

static void sigkill_without_an_oom_kill_is_not_out_of_memory(void **state)
{
    struct sink *s = *state;

    s->f.oom_kills = s->f.box.oom_seen = 3;
    run(s, (struct exec_spec){.argv = SH("kill -KILL $$")});
    assert_int_equal(s->res.code, 137);
    assert_false(s->res.oom);
    assert_int_equal(s->f.stats, 1);
}

static void an_oom_kill_is_reported_once(void **state)
{
    struct sink *s = *state;

    s->f.oom_kills = 1;
    run(s, (struct exec_spec){.argv = SH("kill -KILL $$")});
    assert_true(s->res.oom);
    s->ended = 0;
    run(s, (struct exec_spec){.argv = SH("kill -KILL $$")});
    assert_false(s->res.oom);
}

static void one_write_is_one_chunk(void **state)
{
    struct sink *s = *state;
    struct err e = {0};

    assert_int_equal(
        start(s, (struct exec_spec){.argv = SH("echo one; read x; echo two; read x; echo three"), .stdin_open = true},
              &e),
        0);
    UNTIL(&s->f, s->chunks == 1);
    exec_write(s->x, "\n", 1);
    UNTIL(&s->f, s->chunks == 2);
    exec_write(s->x, "\n", 1);
    UNTIL(&s->f, s->ended == 1);
    assert_int_equal(s->chunks, 3);
    assert_string_equal(text(s, 1), "one\ntwo\nthree\n");
}

static void environment_cwd_and_user_reach_the_process(void **state)
{
    struct sink *s = *state;
    const struct env_item items[] = {
        {.name = "A", .name_len = 1, .value = "1 2", .value_len = 3, .op = ENV_SET},
        {.name = "B", .name_len = 1, .op = ENV_SKIP},
    };

    run(s, (struct exec_spec){.argv = SH("echo $A; pwd"), .env = items, .env_count = 2, .cwd = "/usr"});
    assert_string_equal(text(s, 1), "1 2\n/usr\n");
    assert_string_equal(fake_env(&s->f, "HOME"), "/root");
    s->ended = 0;
    run(s, (struct exec_spec){.argv = ARGV("true"), .env = items, .env_count = 2, .user = "someone"});
    assert_string_equal(s->f.user, "someone");
    assert_string_equal(fake_env(&s->f, "HOME"), "/home/of-user");
    assert_string_equal(fake_env(&s->f, "A"), "1 2");
    assert_null(fake_env(&s->f, "B"));
    assert_null(fake_env(&s->f, "TERM"));
}

static void a_large_command_line_arrives_whole(void **state)
{
    struct sink *s = *state;
    char *big = malloc(100001);

    memset(big, 'x', 100000);
    big[100000] = '\0';
    run(s, (struct exec_spec){.argv = ARGV("sh", "-c", "echo ${#1} ${#2}", "-", big, big)});
    assert_string_equal(text(s, 1), "100000 100000\n");
    free(big);
}

/* ---- output -------------------------------------------------------------------------------------------------------------------------- */

static void a_hundred_megabytes_arrive_exactly_and_without_growth(void **state)
{
    struct sink *s = *state;

    s->count_only = true;
    run(s, (struct exec_spec){.argv = SH("head -c 100000000 /dev/zero; echo done >&2")});
    assert_int_equal(s->bytes, 100000000 + 5);
    assert_int_equal(s->res.out_bytes, 100000000);
}

static void a_caller_that_stops_holds_the_process_back(void **state)
{
    struct sink *s = *state;
    struct err e = {0};
    unsigned before;

    s->count_only = s->stop_each = true;
    assert_int_equal(start(s, (struct exec_spec){.argv = SH("head -c 3000000 /dev/zero")}, &e), 0);
    UNTIL(&s->f, s->stopped);
    before = s->chunks;
    TURNS(&s->f, 20);
    assert_int_equal(s->chunks, before); /* nothing while stopped */
    assert_int_equal(s->ended, 0);
    while (s->ended == 0) {
        UNTIL(&s->f, s->stopped || s->ended);
        s->stopped = false;
        if (s->x != NULL)
            exec_resume(s->x);
    }
    assert_int_equal(s->bytes, 3000000);
}

static void the_end_waits_for_a_caller_that_stopped(void **state)
{
    struct sink *s = *state;
    struct err e = {0};

    s->stop_each = true;
    assert_int_equal(start(s, (struct exec_spec){.argv = SH("echo x")}, &e), 0);
    UNTIL(&s->f, s->stopped && fake_quiet(&s->f));
    TURNS(&s->f, 20);
    assert_int_equal(s->ended, 0);
    exec_resume(s->x);
    UNTIL(&s->f, s->ended == 1);
}

static void a_background_child_that_keeps_the_pipe_is_not_waited_for(void **state)
{
    struct sink *s = *state;
    uint64_t begin = clock_mono();

    run(s, (struct exec_spec){.argv = SH("sleep 30 & echo started")});
    assert_string_equal(text(s, 1), "started\n");
    assert_int_equal(s->res.code, 0);
    assert_true(clock_mono() - begin < 5 * NSEC_PER_SEC);
}

static void a_background_child_that_floods_the_pipe_is_not_waited_for(void **state)
{
    struct sink *s = *state;

    s->count_only = true;
    run(s, (struct exec_spec){.argv = SH("yes & sleep 0.1")});
    assert_int_equal(s->res.code, 0);
}

static void what_was_written_before_the_exit_is_not_lost(void **state)
{
    struct sink *s = *state;

    s->count_only = true;
    for (int i = 0; i < 20; i++) {
        s->bytes = s->ended = 0;
        run(s, (struct exec_spec){.argv = SH("head -c 60000 /dev/zero; head -c 60000 /dev/zero >&2")});
        assert_int_equal(s->bytes, 120000);
    }
}

static void characters_are_not_cut(void **state)
{
    struct sink *s = *state;

    /* Two bytes of a three-byte character, the third a moment later. */
    run(s, (struct exec_spec){.argv = SH("printf 'a\\342\\202'; printf '\\254b'")});
    assert_string_equal(text(s, 1), "a\xe2\x82\xac"
                                    "b");
    s->ended = s->chunks = 0;
    s->out[0].len = 0;
    /* One that is never finished: given as it is. */
    run(s, (struct exec_spec){.argv = SH("printf 'a\\342\\202'")});
    assert_string_equal(text(s, 1), "a\xe2\x82");
}

static void half_a_character_does_not_block_a_dialogue(void **state)
{
    struct sink *s = *state;
    struct err e = {0};

    assert_int_equal(
        start(s, (struct exec_spec){.argv = SH("printf 'q\\303'; read x; echo $x"), .stdin_open = true}, &e), 0);
    UNTIL(&s->f, s->bytes == 2);
    exec_write(s->x, "hi\n", 3);
    UNTIL(&s->f, s->ended == 1);
    assert_string_equal(text(s, 1), "q\303hi\n");
}

/* ---- input ----------------------------------------------------------------------------------------------------------------------------- */

static void input_written_before_the_start_arrives(void **state)
{
    struct sink *s = *state;
    struct err e = {0};

    assert_int_equal(start(s, (struct exec_spec){.argv = ARGV("cat"), .stdin_open = true}, &e), 0);
    assert_true(exec_write(s->x, "early ", 6));
    assert_true(exec_write(s->x, "bird\n", 5));
    exec_close_stdin(s->x);
    UNTIL(&s->f, s->ended == 1);
    assert_string_equal(text(s, 1), "early bird\n");
    assert_int_equal(s->res.code, 0);
}

static void much_input_is_queued_with_a_limit_and_arrives_whole(void **state)
{
    struct sink *s = *state;
    struct err e = {0};
    char *block = calloc(1, 65536);
    unsigned sent = 0, told = 0;

    assert_int_equal(start(s, (struct exec_spec){.argv = SH("sleep 0.05; wc -c"), .stdin_open = true}, &e), 0);
    while (sent < 200) {
        sent++;
        if (!exec_write(s->x, block, 65536)) {
            told++;
            s->drained = 0;
            UNTIL(&s->f, s->drained == 1);
        }
    }
    exec_close_stdin(s->x);
    UNTIL(&s->f, s->ended == 1);
    assert_string_equal(text(s, 1), "13107200\n");
    assert_true(told > 0);
    free(block);
}

static void input_that_nobody_reads_is_dropped_in_silence(void **state)
{
    struct sink *s = *state;
    struct err e = {0};
    char *block = calloc(1, 65536);

    assert_int_equal(start(s, (struct exec_spec){.argv = SH("exec 0<&-; sleep 0.2; echo ok"), .stdin_open = true}, &e),
                     0);
    UNTIL(&s->f, s->started == 1);
    for (int i = 0; i < 100 && s->x != NULL; i++) {
        if (!exec_write(s->x, block, 65536))
            UNTIL(&s->f, s->drained > 0 || s->ended);
        fake_turn(&s->f);
    }
    UNTIL(&s->f, s->ended == 1);
    assert_string_equal(text(s, 1), "ok\n");
    free(block);
}

static void without_stdin_the_process_reads_an_end_of_file(void **state)
{
    struct sink *s = *state;

    run(s, (struct exec_spec){.argv = ARGV("cat")});
    assert_int_equal(s->res.code, 0);
}

/* ---- terminals ---------------------------------------------------------------------------------------------------------------------------- */

static void a_terminal_has_a_size_a_name_and_an_end_of_file(void **state)
{
    struct sink *s = *state;
    struct err e = {0};

    assert_int_equal(start(s,
                           (struct exec_spec){.argv = SH("stty -echo; stty size; echo $TERM; cat; echo end"),
                                              .tty = true,
                                              .stdin_open = true,
                                              .rows = 30,
                                              .cols = 90},
                           &e),
                     0);
    UNTIL(&s->f, strstr(text(s, 1), "xterm") != NULL);
    exec_write(s->x, "line\npart", 9);
    exec_close_stdin(s->x); /* in the middle of a line */
    UNTIL(&s->f, s->ended == 1);
    assert_string_equal(text(s, 1), "30 90\r\nxterm\r\nline\r\npartend\r\n");
    assert_int_equal(s->res.code, 0);
}

static void a_resize_reaches_the_terminal(void **state)
{
    struct sink *s = *state;
    struct err e = {0};

    assert_int_equal(start(s,
                           (struct exec_spec){.argv = SH("stty -echo; read x; stty size; read x; stty size"),
                                              .tty = true,
                                              .stdin_open = true},
                           &e),
                     0);
    exec_resize(s->x, 10, 20); /* before it has started */
    UNTIL(&s->f, s->started == 1);
    TURNS(&s->f, 50);
    exec_write(s->x, "\n", 1);
    UNTIL(&s->f, strstr(text(s, 1), "10 20") != NULL);
    exec_resize(s->x, 11, 0);
    exec_write(s->x, "\n", 1);
    UNTIL(&s->f, s->ended == 1);
    assert_non_null(strstr(text(s, 1), "11 80"));
}

static void a_missing_program_on_a_terminal_is_told(void **state)
{
    struct sink *s = *state;

    run(s, (struct exec_spec){.argv = ARGV("no-such"), .tty = true});
    assert_int_equal(s->res.code, 127);
    assert_string_equal(text(s, 2), "silica: exec: \"no-such\": executable file not found in PATH\r\n");
}

static void terminal_output_is_whole_at_the_end(void **state)
{
    struct sink *s = *state;

    for (int i = 0; i < 20; i++) {
        s->out[0].len = s->ended = 0;
        run(s, (struct exec_spec){.argv = SH("seq 1 500"), .tty = true});
        assert_non_null(strstr(text(s, 1), "\r\n500\r\n"));
    }
}

static int stolen_master = -1, stolen_slave = -1;

/* A terminal whose master can be made to block behind silicad's back: it must not be read then. */
static bool start_on_a_shared_terminal(struct fake *f, struct wire_msg *m)
{
    struct in_spawned up = {.pid = 1000};

    if (m->head->type != IN_SPAWN)
        return false;
    stolen_master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    assert_int_equal(unlockpt(stolen_master), 0);
    stolen_slave = ioctl(stolen_master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    f->last_token = m->head->token;
    fake_send(f, IN_SPAWNED, m->head->token, &up, sizeof up, &stolen_master, 1);
    return true;
}

static void output_that_cannot_be_read_is_no_success(void **state)
{
    struct sink *s = *state;
    struct err e = {0};

    s->f.on_message = start_on_a_shared_terminal;
    assert_int_equal(start(s, (struct exec_spec){.argv = ARGV("x"), .tty = true}, &e), 0);
    UNTIL(&s->f, s->started == 1);
    assert_int_equal(fcntl(stolen_master, F_SETFL, O_RDWR), 0);
    assert_int_equal(write(stolen_slave, "word", 4), 4);
    UNTIL(&s->f, s->f.tree_kills == 1);
    fake_exit(&s->f, s->f.last_token, IN_C_EXITED, 0);
    UNTIL(&s->f, s->ended + s->failed > 0);
    assert_int_equal(s->failed, 1);
    assert_int_equal(s->err.kind, ERR_EXHAUSTED);
    (void)close(take_fd(&stolen_master));
    (void)close(take_fd(&stolen_slave));
}

static void a_set_term_wins(void **state)
{
    struct sink *s = *state;
    const struct env_item item = {.name = "TERM", .name_len = 4, .value = "vt100", .value_len = 5, .op = ENV_SET};

    run(s, (struct exec_spec){.argv = ARGV("true"), .tty = true, .env = &item, .env_count = 1});
    assert_string_equal(fake_env(&s->f, "TERM"), "vt100");
}

/* ---- leaving -------------------------------------------------------------------------------------------------------------------------------- */

static void abandoning_kills_the_tree_and_acknowledges_the_exit(void **state)
{
    struct sink *s = *state;
    struct err e = {0};

    assert_int_equal(start(s, (struct exec_spec){.argv = SH("sleep 100 & sleep 100")}, &e), 0);
    UNTIL(&s->f, s->started == 1);
    exec_abandon(s->x);
    s->x = NULL;
    UNTIL(&s->f, fake_quiet(&s->f) && s->f.acks == 1);
    assert_int_equal(s->f.tree_kills, 1);
    assert_int_equal(s->f.box.proc_count, 0);
    assert_int_equal(s->ended + s->failed, 0);
}

static void abandoning_while_starting_kills_as_soon_as_it_runs(void **state)
{
    struct sink *s = *state;
    struct err e = {0};

    assert_int_equal(start(s, (struct exec_spec){.argv = ARGV("sleep", "100")}, &e), 0);
    exec_abandon(s->x);
    s->x = NULL;
    UNTIL(&s->f, s->f.tree_kills == 1 && fake_quiet(&s->f) && s->f.acks == 1);
    assert_int_equal(s->started, 0);
    assert_int_equal(s->f.box.proc_count, 0);
}

static void abandoning_while_the_user_is_looked_up_starts_nothing(void **state)
{
    struct sink *s = *state;
    struct err e = {0};

    assert_int_equal(start(s, (struct exec_spec){.argv = ARGV("sleep", "100"), .user = "someone"}, &e), 0);
    exec_abandon(s->x);
    s->x = NULL;
    UNTIL(&s->f, s->f.box.proc_count == 0);
    assert_int_equal(s->f.spawns, 0);
}

static void abandoning_inside_a_callback_is_fine(void **state)
{
    struct sink *s = *state;
    struct err e = {0};

    s->abandon_on_output = true;
    assert_int_equal(start(s, (struct exec_spec){.argv = SH("yes")}, &e), 0);
    UNTIL(&s->f, s->x == NULL && fake_quiet(&s->f) && s->f.acks == 1);
    assert_int_equal(s->chunks, 1);
}

static void signals_arrive_in_spite_of_each_other(void **state)
{
    struct sink *s = *state;
    struct err e = {0};

    assert_int_equal(
        start(s,
              (struct exec_spec){
                  .argv = SH("trap 'echo usr1' USR1; trap 'echo usr2' USR2; echo up; while :; do sleep 0.01; done")},
              &e),
        0);
    UNTIL(&s->f, strstr(text(s, 1), "up") != NULL);
    assert_int_equal(exec_signal(s->x, SIGUSR1, &e), 0);
    assert_int_equal(exec_signal(s->x, SIGUSR2, &e), 0);
    UNTIL(&s->f, strstr(text(s, 1), "usr1") != NULL && strstr(text(s, 1), "usr2") != NULL);
    assert_int_equal(s->f.kills, 2);
    assert_true(exec_signal(s->x, 65, &e) < 0);
}

static void the_end_of_the_sandbox_ends_the_call_with_its_reason(void **state)
{
    struct sink *s = *state;
    struct err e = {0};
    struct init_link *l = s->f.box.init;

    assert_int_equal(start(s, (struct exec_spec){.argv = ARGV("sleep", "100")}, &e), 0);
    UNTIL(&s->f, s->started == 1);
    s->f.box.stop_reason = (char *)"deleted by local";
    s->f.box.init = NULL;
    init_link_free(l);
    procs_lost(&s->f.box);
    s->f.box.stop_reason = NULL;
    assert_int_equal(s->failed, 1);
    assert_int_equal(s->err.kind, ERR_CANCELLED);
    assert_string_equal(s->err.msg, "sandbox sb-test was terminated: deleted by local");
}

static void the_end_of_the_daemon_ends_the_call_as_unavailable(void **state)
{
    struct sink *s = *state;
    struct err e = {0};

    assert_int_equal(start(s, (struct exec_spec){.argv = ARGV("sleep", "100")}, &e), 0);
    s->f.en.stopping = true; /* still starting */
    procs_lost(&s->f.box);
    s->f.en.stopping = false;
    assert_int_equal(s->failed, 1);
    assert_int_equal(s->err.kind, ERR_UNAVAILABLE);
    UNTIL(&s->f, s->f.spawns == 1);
    TURNS(&s->f, 3);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(an_empty_command_is_refused),
        T(an_argument_above_the_kernels_limit_is_named),
        T(arguments_above_two_mebibytes_are_refused),
        T(an_environment_that_no_longer_fits_names_the_variable_and_not_its_value),
        T(a_relative_working_directory_is_refused),
        T(one_more_than_execs_max_is_refused),
        T(a_sandbox_that_does_not_run_refuses),
        T(a_program_that_does_not_exist_is_127_in_a_shells_words),
        T(a_file_that_cannot_be_executed_is_126),
        T(a_missing_working_directory_is_126),
        T(an_unknown_user_is_126),
        T(the_process_limit_is_named),
        T(exit_codes_and_streams_arrive),
        T(merged_output_keeps_its_order),
        T(a_signal_is_128_plus_its_number),
        T(sigkill_without_an_oom_kill_is_not_out_of_memory),
        T(an_oom_kill_is_reported_once),
        T(one_write_is_one_chunk),
        T(environment_cwd_and_user_reach_the_process),
        T(a_large_command_line_arrives_whole),
        T(a_hundred_megabytes_arrive_exactly_and_without_growth),
        T(a_caller_that_stops_holds_the_process_back),
        T(the_end_waits_for_a_caller_that_stopped),
        T(a_background_child_that_keeps_the_pipe_is_not_waited_for),
        T(a_background_child_that_floods_the_pipe_is_not_waited_for),
        T(what_was_written_before_the_exit_is_not_lost),
        T(characters_are_not_cut),
        T(half_a_character_does_not_block_a_dialogue),
        T(input_written_before_the_start_arrives),
        T(much_input_is_queued_with_a_limit_and_arrives_whole),
        T(input_that_nobody_reads_is_dropped_in_silence),
        T(without_stdin_the_process_reads_an_end_of_file),
        T(a_terminal_has_a_size_a_name_and_an_end_of_file),
        T(a_resize_reaches_the_terminal),
        T(a_missing_program_on_a_terminal_is_told),
        T(terminal_output_is_whole_at_the_end),
        T(output_that_cannot_be_read_is_no_success),
        T(a_set_term_wins),
        T(abandoning_kills_the_tree_and_acknowledges_the_exit),
        T(abandoning_while_starting_kills_as_soon_as_it_runs),
        T(abandoning_while_the_user_is_looked_up_starts_nothing),
        T(abandoning_inside_a_callback_is_fine),
        T(signals_arrive_in_spite_of_each_other),
        T(the_end_of_the_sandbox_ends_the_call_with_its_reason),
        T(the_end_of_the_daemon_ends_the_call_as_unavailable),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
