/* The conversation with an init that breaks the rules, and with one that is slow. */
#include "fake-init.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

struct seen {
    struct fake f;
    unsigned answers, errors;
    struct err err;
    unsigned proc_started, proc_failed, proc_exited;
};

static int setup(void **state)
{
    struct seen *s = calloc(1, sizeof *s);

    fake_open(&s->f);
    *state = s;
    return 0;
}

static int ready(void **state)
{
    struct seen *s;

    (void)setup(state);
    s = *state;
    UNTIL(&s->f, s->f.ready == 1);
    return 0;
}

static int teardown(void **state)
{
    struct seen *s = *state;

    fake_close(&s->f);
    free(s);
    return 0;
}

static void on_answer(void *arg, const struct err *e, struct wire_msg *m)
{
    struct seen *s = arg;

    s->answers++;
    if (e != NULL) {
        assert_null(m);
        s->errors++;
        s->err = *e;
    }
}

static bool silent(struct fake *f, struct wire_msg *m)
{
    f->last_token = m->head->token;
    return true;
}

static void p_started(struct proc *p, int in, int out, int err_fd)
{
    struct seen *s = p->owner;

    s->proc_started++;
    fd_close(in);
    fd_close(out);
    fd_close(err_fd);
}

static void p_failed(struct proc *p, const struct in_failed *why, const struct err *e)
{
    struct seen *s = p->owner;

    (void)why;
    s->proc_failed++;
    s->err = *e;
}

static void p_exited(struct proc *p, const struct in_exited *x)
{
    struct seen *s = p->owner;

    (void)x;
    s->proc_exited++;
}

static const struct proc_ops p_ops = {p_started, p_failed, p_exited};

static struct proc *spawn(struct seen *s, bool stdin_open)
{
    const char *const argv[] = {"sleep", "100", NULL};
    struct proc_spec spec = {.kind = IN_EXEC, .argv = argv, .stdin_open = stdin_open};
    struct proc *p;
    struct err e = {0};

    s->f.on_message = silent;
    assert_int_equal(proc_spawn(&s->f.box, &spec, &p_ops, s, &p, &e), 0);
    s->f.last_token = 0;
    UNTIL(&s->f, s->f.last_token == p->token);
    return p;
}

static void expect_lost(struct seen *s, const char *what)
{
    char want[128];

    UNTIL(&s->f, s->f.lost == 1);
    (void)snprintf(want, sizeof want, "the init of sandbox sb-test broke its protocol: %s", what);
    assert_string_equal(s->f.lost_err.msg, want);
    TURNS(&s->f, 5);
    assert_int_equal(s->f.lost, 1);
    /* What was asked is answered when the box lets go. */
    init_link_free(s->f.box.init);
    s->f.box.init = NULL;
}

/* ---- greeting ------------------------------------------------------------------------------------------------------------------ */

static bool garbage(struct fake *f, struct wire_msg *m)
{
    (void)m;
    (void)!send(f->fd, "garbage", 7, MSG_NOSIGNAL);
    return true;
}

static void garbage_ends_the_sandbox(void **state)
{
    struct seen *s = *state;

    s->f.on_message = garbage;
    expect_lost(s, "a malformed message");
    assert_int_equal(s->f.ready, 0);
}

static void an_init_that_dies_is_reported_once(void **state)
{
    struct seen *s = *state;

    UNTIL(&s->f, s->f.ready == 1);
    io_stop(&s->f.io);
    (void)close(s->f.fd);
    s->f.fd = -1;
    UNTIL(&s->f, s->f.lost == 1);
    assert_string_equal(s->f.lost_err.msg, "its control socket was closed");
    TURNS(&s->f, 5);
    assert_int_equal(s->f.lost, 1);
}

static bool old_messages_first(struct fake *f, struct wire_msg *m)
{
    struct in_table old = {.epoch = FAKE_EPOCH - 1, .count = 1}, now = {.epoch = FAKE_EPOCH};
    struct in_entry en = {.kind = IN_EXEC, .state = IN_RUNNING};
    struct in_ok ok = {0};

    assert_int_equal(m->head->type, IN_HELLO);
    fake_send(f, IN_OK, 99, &ok, sizeof ok, NULL, 0);
    fake_exit(f, 98, IN_C_EXITED, 0);
    fake_send(f, IN_TABLE, 0, &old, sizeof old, NULL, 0);
    fake_send(f, IN_ENTRY, 5, &en, sizeof en, NULL, 0);
    fake_send(f, IN_TABLE, 0, &now, sizeof now, NULL, 0);
    f->on_message = NULL;
    return true;
}

static void messages_meant_for_an_earlier_silicad_are_dropped(void **state)
{
    struct seen *s = *state;

    s->f.on_message = old_messages_first;
    UNTIL(&s->f, s->f.ready == 1);
    assert_int_equal(s->f.box.proc_count, 0);
    assert_int_equal(s->f.acks, 0); /* init repeats that exit */
    assert_int_equal(s->f.lost, 0);
}

static bool table_of_two(struct fake *f, struct wire_msg *m)
{
    struct in_table t = {.epoch = FAKE_EPOCH, .count = 2};
    struct in_entry main_entry = {.kind = IN_MAIN, .state = IN_RUNNING, .flags = IN_S_MERGE};
    struct in_entry session = {.kind = IN_SESSION, .state = IN_RUNNING, .flags = IN_S_MERGE};
    int p[2];

    if (m->head->type != IN_HELLO)
        return false;
    assert_int_equal(pipe2(p, O_CLOEXEC), 0);
    fake_send(f, IN_TABLE, 0, &t, sizeof t, NULL, 0);
    fake_send(f, IN_ENTRY, (3ull << 32) + 1, &main_entry, sizeof main_entry, p, 1);
    fake_send(f, IN_ENTRY, (3ull << 32) + 2, &session, sizeof session, p, 1);
    (void)!write(p[1], "hello\n", 6);
    (void)close(p[0]);
    (void)close(p[1]);
    return true;
}

static void an_adopted_main_goes_on_and_unknown_kinds_are_killed(void **state)
{
    struct seen *s = *state;

    s->f.on_message = table_of_two;
    UNTIL(&s->f, s->f.ready == 1);
    assert_int_equal(s->f.started, 1);
    assert_non_null(s->f.box.main);
    assert_non_null(s->f.box.log);
    UNTIL(&s->f, s->f.tree_kills == 1);
    fake_exit(&s->f, (3ull << 32) + 2, IN_C_SIGNALED, 9);
    fake_exit(&s->f, (3ull << 32) + 1, IN_C_EXITED, 3);
    UNTIL(&s->f, s->f.main_ended == 1);
    assert_int_equal(s->f.main_res.code, 3);
    assert_int_equal(s->f.acks, 1); /* main's exit stays with init until it is recorded */
    assert_null(s->f.box.main);
}

static bool future_entry(struct fake *f, struct wire_msg *m)
{
    struct in_table t = {.epoch = FAKE_EPOCH, .count = 1};
    struct in_entry en = {.kind = IN_EXEC, .state = IN_RUNNING};

    (void)m;
    fake_send(f, IN_TABLE, 0, &t, sizeof t, NULL, 0);
    fake_send(f, IN_ENTRY, (uint64_t)FAKE_EPOCH << 32, &en, sizeof en, NULL, 0);
    return true;
}

static void a_token_that_could_be_ours_is_refused_in_the_table(void **state)
{
    struct seen *s = *state;

    s->f.on_message = future_entry;
    expect_lost(s, "a table entry from the future");
}

static bool short_table(struct fake *f, struct wire_msg *m)
{
    struct in_table t = {.epoch = FAKE_EPOCH, .count = 1};

    (void)m;
    fake_send(f, IN_TABLE, 0, &t, sizeof t, NULL, 0);
    fake_exit(f, 1, IN_C_EXITED, 0);
    return true;
}

static void a_table_with_a_hole_is_refused(void **state)
{
    struct seen *s = *state;

    s->f.on_message = short_table;
    expect_lost(s, "a table with a hole");
}

static bool endless_table(struct fake *f, struct wire_msg *m)
{
    struct in_table t = {.epoch = FAKE_EPOCH, .count = IN_PROCS_MAX + 1};

    (void)m;
    fake_send(f, IN_TABLE, 0, &t, sizeof t, NULL, 0);
    return true;
}

static void a_table_of_impossible_length_is_refused(void **state)
{
    struct seen *s = *state;

    s->f.on_message = endless_table;
    expect_lost(s, "a table of impossible length");
}

/* ---- answers --------------------------------------------------------------------------------------------------------------------- */

static void an_answer_to_no_question_ends_the_sandbox(void **state)
{
    struct seen *s = *state;
    struct in_ok ok = {0};

    fake_send(&s->f, IN_OK, 12345, &ok, sizeof ok, NULL, 0);
    expect_lost(s, "an answer to a question that was not asked");
}

static void an_answer_of_the_wrong_type_ends_the_sandbox_and_fails_the_process(void **state)
{
    struct seen *s = *state;
    struct proc *p = spawn(s, false);
    struct in_ok ok = {0};

    fake_send(&s->f, IN_OK, p->token, &ok, sizeof ok, NULL, 0);
    expect_lost(s, "an answer of the wrong type");
    assert_int_equal(s->proc_failed, 1);
    assert_int_equal(s->f.box.proc_count, 0);
}

static void a_question_back_ends_the_sandbox(void **state)
{
    struct seen *s = *state;
    struct in_ack a = {0};

    fake_send(&s->f, IN_ACK, 1, &a, sizeof a, NULL, 0);
    expect_lost(s, "a message that only silicad sends");
}

/* FDS of the wrong kind as the answer to a spawn with stdin. */
static void wrong_fds(struct seen *s, const int *fds, unsigned n)
{
    struct proc *p = spawn(s, true);
    struct in_spawned up = {0};

    fake_send(&s->f, IN_SPAWNED, p->token, &up, sizeof up, fds, n);
    expect_lost(s, "a process with the wrong descriptors");
    assert_int_equal(s->proc_failed, 1);
    assert_int_equal(s->proc_started, 0);
}

static void too_few_descriptors_are_refused(void **state)
{
    int p[2];

    assert_int_equal(pipe2(p, O_CLOEXEC), 0);
    wrong_fds(*state, (int[]){p[1], p[0]}, 2);
    (void)close(p[0]);
    (void)close(p[1]);
}

static void a_pipe_the_wrong_way_round_is_refused(void **state)
{
    int p[2];

    assert_int_equal(pipe2(p, O_CLOEXEC), 0);
    wrong_fds(*state, (int[]){p[0], p[0], p[0]}, 3);
    (void)close(p[0]);
    (void)close(p[1]);
}

static void a_file_instead_of_a_pipe_is_refused(void **state)
{
    int p[2], fd = open("/etc/passwd", O_RDONLY | O_CLOEXEC);

    assert_int_equal(pipe2(p, O_CLOEXEC), 0);
    wrong_fds(*state, (int[]){p[1], fd, p[0]}, 3);
    (void)close(p[0]);
    (void)close(p[1]);
    (void)close(fd);
}

static void a_path_descriptor_is_refused(void **state)
{
    int p[2], fd = open("/dev/null", O_PATH | O_CLOEXEC);

    assert_int_equal(pipe2(p, O_CLOEXEC), 0);
    wrong_fds(*state, (int[]){p[1], p[0], fd}, 3);
    (void)close(p[0]);
    (void)close(p[1]);
    (void)close(fd);
}

static void a_malformed_exit_ends_the_sandbox(void **state)
{
    struct seen *s = *state;

    fake_exit(&s->f, 5, IN_C_EXITED, 256);
    expect_lost(s, "a malformed exit");
}

static void a_failure_that_claims_success_ends_the_sandbox(void **state)
{
    struct seen *s = *state;
    struct proc *p = spawn(s, false);
    struct in_failed x = {.code = 0};

    fake_send(&s->f, IN_FAILED, p->token, &x, sizeof x, NULL, 0);
    expect_lost(s, "a malformed failure");
}

static void an_exit_of_an_unknown_process_is_acknowledged(void **state)
{
    struct seen *s = *state;

    fake_exit(&s->f, 77, IN_C_EXITED, 0);
    UNTIL(&s->f, s->f.acks == 1);
    assert_int_equal(s->f.lost, 0);
}

static void an_exit_before_the_start_is_ignored(void **state)
{
    struct seen *s = *state;
    struct proc *p = spawn(s, false);

    fake_exit(&s->f, p->token, IN_C_EXITED, 0);
    TURNS(&s->f, 5);
    assert_int_equal(s->proc_exited, 0);
    proc_abandon(p);
}

static void tokens_carry_the_epoch(void **state)
{
    struct seen *s = *state;
    struct proc *p = spawn(s, false);

    assert_true(p->token >> 32 == FAKE_EPOCH);
    proc_abandon(p);
}

/* ---- a slow init --------------------------------------------------------------------------------------------------------------------- */

static bool count_users(struct fake *f, struct wire_msg *m)
{
    bool bad = false;
    const char *name = wire_get_str(m, ((const struct in_user *)m->body)->user, &bad);

    assert_int_equal(strlen(name), 1000);
    f->spawns++;
    return true;
}

static void questions_wait_for_room_and_arrive_in_order(void **state)
{
    struct seen *s = *state;
    struct wire_tail t = {0};
    struct in_user q;
    char name[1001];
    struct err e = {0};

    memset(name, 'n', 1000);
    name[1000] = '\0';
    q.user = wire_put_str(&t, name);
    s->f.on_message = count_users;
    io_stop(&s->f.io);
    for (int i = 0; i < 2000; i++) /* more than the socket takes */
        assert_int_equal(init_ask(s->f.box.init, IN_USER, 0, &q, sizeof q, &t, on_answer, s, &e), 0);
    wire_tail_fini(&t);
    TURNS(&s->f, 3);
    assert_int_equal(io_start(s->f.loop, &s->f.io, s->f.fd, s->f.io.events, s->f.io.cb), 0);
    UNTIL(&s->f, s->f.spawns == 2000);
    init_link_free(s->f.box.init);
    s->f.box.init = NULL;
    assert_int_equal(s->answers, 2000);
    assert_int_equal(s->errors, 2000);
}

static void questions_above_the_limit_are_refused(void **state)
{
    struct seen *s = *state;
    struct in_kill k = {.signal = 9, .tree = 1};
    struct in_user q = {0};
    struct err e = {0};
    int r = 0, n = 0;

    io_stop(&s->f.io);
    while (r == 0 && n <= INIT_ASKS_MAX) {
        r = init_ask(s->f.box.init, IN_USER, 0, &q, sizeof q, NULL, on_answer, s, &e);
        n += r == 0;
    }
    assert_true(r < 0);
    assert_true(n <= INIT_ASKS_MAX);
    assert_true(e.kind == ERR_EXHAUSTED || e.kind == ERR_UNAVAILABLE);
    assert_int_equal(s->f.lost, 0);
    /* A process must be killed all the same: nobody asks for it twice. */
    assert_int_equal(init_ask(s->f.box.init, IN_KILL, 1, &k, sizeof k, NULL, on_answer, s, &e), 0);
}

static void an_init_that_never_reads_is_lost(void **state)
{
    struct seen *s = *state;
    struct in_ack a = {0};

    io_stop(&s->f.io);
    for (int i = 0; i < 2 * INIT_UNSENT_MAX; i++) {
        if (init_tell(s->f.box.init, IN_ACK, 1, &a, sizeof a) < 0)
            break;
    }
    UNTIL(&s->f, s->f.lost == 1);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define R(name) cmocka_unit_test_setup_teardown(name, ready, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(garbage_ends_the_sandbox),
        T(an_init_that_dies_is_reported_once),
        T(messages_meant_for_an_earlier_silicad_are_dropped),
        T(an_adopted_main_goes_on_and_unknown_kinds_are_killed),
        T(a_token_that_could_be_ours_is_refused_in_the_table),
        T(a_table_with_a_hole_is_refused),
        T(a_table_of_impossible_length_is_refused),
        R(an_answer_to_no_question_ends_the_sandbox),
        R(an_answer_of_the_wrong_type_ends_the_sandbox_and_fails_the_process),
        R(a_question_back_ends_the_sandbox),
        R(too_few_descriptors_are_refused),
        R(a_pipe_the_wrong_way_round_is_refused),
        R(a_file_instead_of_a_pipe_is_refused),
        R(a_path_descriptor_is_refused),
        R(a_malformed_exit_ends_the_sandbox),
        R(a_failure_that_claims_success_ends_the_sandbox),
        R(an_exit_of_an_unknown_process_is_acknowledged),
        R(an_exit_before_the_start_is_ignored),
        R(tokens_carry_the_epoch),
        R(questions_wait_for_room_and_arrive_in_order),
        R(questions_above_the_limit_are_refused),
        R(an_init_that_never_reads_is_lost),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
