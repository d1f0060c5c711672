/* StreamExec and Exec: order of frames, back-pressure both ways, and that no end is ever mistaken for success. */
#include "fake.h"

#include "descriptors.h"

static CwBytes argv[] = {{3, (uint8_t *)"cat"}, {1, (uint8_t *)"-"}};

static struct rpc_call *start(void (*change)(CwExecStreamInit *init))
{
    struct rpc_call *c = fake_call("StreamExec");
    CwExecStreamRequest req = CW_INIT(EXEC_STREAM_REQUEST);
    CwExecStreamInit init = CW_INIT(EXEC_STREAM_INIT);

    init.sandbox_id = bytes("sb-1");
    init.command = argv;
    init.n_command = 2;
    if (change != NULL)
        change(&init);
    req.message_case = COREWEAVE__SANDBOX__V1__EXEC_STREAM_REQUEST__MESSAGE_INIT;
    req.init = &init;
    fake_say(c, &req.base);
    return c;
}

static void say_stdin(struct rpc_call *c, const char *text)
{
    CwExecStreamRequest req = CW_INIT(EXEC_STREAM_REQUEST);

    req.message_case = COREWEAVE__SANDBOX__V1__EXEC_STREAM_REQUEST__MESSAGE_STDIN;
    req.stdin = bytes(text);
    fake_say(c, &req.base);
}

static void say_resize(struct rpc_call *c, uint32_t width, uint32_t height)
{
    CwExecStreamRequest req = CW_INIT(EXEC_STREAM_REQUEST);
    CwExecStreamResize size = CW_INIT(EXEC_STREAM_RESIZE);

    size.width = width;
    size.height = height;
    req.message_case = COREWEAVE__SANDBOX__V1__EXEC_STREAM_REQUEST__MESSAGE_RESIZE;
    req.resize = &size;
    fake_say(c, &req.base);
}

static void say_close(struct rpc_call *c)
{
    fake_say_bytes(c, "\x22\x00", 2);
}

static void out(int stream, const char *text)
{
    (void)fake.exec.ops->output(&fake.exec, stream, fake_chunk(text), fake.exec.arg);
}

static void end(int code)
{
    struct exec_result res = {.cause = EXEC_EXITED, .code = code, .end_ns = 1000000001};

    fake.exec.live = false;
    fake.exec.ops->ended(&fake.exec, &res, fake.exec.arg);
}

/* "ready", "1:text", "exit 3" for the Nth frame. */
static void assert_frame(struct rpc_call *c, unsigned n, const char *want)
{
    CwExecStreamResponse *m = (CwExecStreamResponse *)fake_sent(c, n, STREAM_D);
    char got[64] = "?";

    switch (m->message_case) {
    case COREWEAVE__SANDBOX__V1__EXEC_STREAM_RESPONSE__MESSAGE_READY:
        (void)snprintf(got, sizeof got, "%s", m->ready->ready_time->seconds > 0 ? "ready" : "ready without time");
        break;
    case COREWEAVE__SANDBOX__V1__EXEC_STREAM_RESPONSE__MESSAGE_OUTPUT:
        (void)snprintf(got, sizeof got, "%d:%.*s", m->output->stream, (int)m->output->data.len,
                       (char *)m->output->data.data);
        break;
    case COREWEAVE__SANDBOX__V1__EXEC_STREAM_RESPONSE__MESSAGE_EXIT:
        (void)snprintf(got, sizeof got, "exit %d at %lld", m->exit->exit_code,
                       (long long)m->exit->completed_time->seconds);
        break;
    default:
        break;
    }
    assert_string_equal(got, want);
    protobuf_c_message_free_unpacked(&m->base, NULL);
}

static void no_command(CwExecStreamInit *i)
{
    i->n_command = 0;
}
static void no_id(CwExecStreamInit *i)
{
    i->sandbox_id = (CwBytes){0};
}
static CwBytes bad_argv[] = {{1, (uint8_t *)"\xff"}};
static void bad_command(CwExecStreamInit *i)
{
    i->command = bad_argv;
    i->n_command = 1;
}
static void wide(CwExecStreamInit *i)
{
    i->tty = 1;
    i->tty_width = 65536;
}
static void other_container(CwExecStreamInit *i)
{
    i->container = bytes("web");
}

static void a_wrong_init_is_refused(void **state)
{
    static const struct {
        void (*change)(CwExecStreamInit *i);
        const char *says;
    } rows[] = {
        {no_command, "command: missing"},
        {no_id, "sandbox_id: missing"},
        {bad_command, "command: '\\xff' is not valid UTF-8"},
        {wide, "tty_width: a terminal of 65536 x 0 characters, the limit is 65535"},
        {other_container, "container: sandbox sb-1 has no container 'web'"},
    };

    (void)state;
    fake.boxes[fake.box_count++] = fake_box("sb-1", BOX_RUNNING);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct rpc_call *c = start(rows[i].change);

        assert_true(c->finished);
        assert_string_equal(c->err.msg, rows[i].says);
        assert_int_equal(c->err.kind, ERR_INVALID);
        fake_call_free(c);
    }
    assert_int_equal(fake.execs, 0);
}

static void messages_out_of_order_are_refused(void **state)
{
    struct rpc_call *c = fake_call("StreamExec");

    (void)state;
    say_stdin(c, "x");
    assert_string_equal(c->err.msg, "init: must be the first message");
    fake_call_free(c);

    c = fake_call("StreamExec");
    fake_half_close(c);
    assert_string_equal(c->err.msg, "init: missing");
    fake_call_free(c);

    c = start(NULL);
    fake_say_bytes(c, "\x0a\x00", 2); /* a second init */
    assert_string_equal(c->err.msg, "init: came twice");
    assert_true(fake.exec.abandoned);
    fake_call_free(c);

    c = start(NULL);
    say_close(c);
    say_stdin(c, "x");
    assert_string_equal(c->err.msg, "stdin: came after close");
    fake_call_free(c);

    c = start(NULL);
    say_resize(c, 80, 24);
    assert_string_equal(c->err.msg, "resize: the command has no terminal");
    fake_call_free(c);

    c = start(NULL);
    fake_say_bytes(c, "\x2a\x00", 2); /* field 5: unknown */
    assert_int_equal(c->err.kind, ERR_UNIMPLEMENTED);
    fake_call_free(c);
}

static void a_refusal_of_the_engine_ends_the_stream_with_its_reason(void **state)
{
    struct rpc_call *c;

    (void)state;
    (void)err_typed(&fake.refuse, ERR_PRECONDITION, "SANDBOX_NOT_RUNNING", "sandbox sb-1 is completed");
    c = start(NULL);
    assert_string_equal(c->err.reason, "SANDBOX_NOT_RUNNING");
    assert_int_equal(c->sent_count, 0);
    fake_call_free(c);
}

static void an_unknown_end_is_an_error_not_a_code(void **state)
{
    struct rpc_call *c = start(NULL);
    struct exec_result res = {.cause = EXEC_UNKNOWN};
    struct err e;

    (void)state;
    fake.exec.live = false;
    fake.exec.ops->ended(&fake.exec, &res, fake.exec.arg);
    assert_int_equal(c->err.kind, ERR_UNAVAILABLE);
    assert_int_equal(c->sent_count, 0);
    fake_call_free(c);

    c = start(NULL);
    fake.exec.live = false;
    (void)err_typed(&e, ERR_UNAVAILABLE, NULL, "the server stops");
    fake.exec.ops->failed(&fake.exec, &e, fake.exec.arg);
    assert_string_equal(c->err.msg, "the server stops");
    fake_call_free(c);
}

static void frames_come_in_the_order_of_the_contract(void **state)
{
    struct rpc_call *c = start(NULL);

    (void)state;
    assert_int_equal(c->sent_count, 0); /* not before the process runs */
    fake.exec.ops->started(&fake.exec, fake.exec.arg);
    out(1, "hello");
    out(2, "oops");
    end(3);
    assert_int_equal(c->err.code, 0);
    assert_int_equal(c->sent_count, 4);
    assert_frame(c, 0, "ready");
    assert_frame(c, 1, "1:hello");
    assert_frame(c, 2, "2:oops");
    assert_frame(c, 3, "exit 3 at 1");
    assert_false(fake.exec.abandoned); /* the engine frees what ended */
    fake_call_free(c);
}

static void a_program_that_cannot_start_is_ready_too(void **state)
{
    struct rpc_call *c = start(NULL);

    (void)state;
    out(2, "nope: not found\n");
    end(127);
    assert_frame(c, 0, "ready");
    assert_frame(c, 1, "2:nope: not found\n");
    assert_frame(c, 2, "exit 127 at 1");
    fake_call_free(c);
}

static void exit_zero_is_sent(void **state)
{
    struct rpc_call *c = start(NULL);

    (void)state;
    end(0);
    assert_int_equal(c->sent_count, 2);
    assert_frame(c, 1, "exit 0 at 1");
    fake_call_free(c);
}

static void output_of_every_size_keeps_its_bytes(void **state)
{
    static const size_t sizes[] = {1,   120, 121,   122,   123,   124,   125,     126,    127,
                                   128, 129, 16370, 16383, 16384, 65536, 2097151, 2097152};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct rpc_call *c = start(NULL);
        struct chunk *chunk = chunk_new(sizes[i]);
        CwExecStreamResponse *m;

        memset(chunk->data + chunk->off, 'z', sizes[i]);
        chunk->len = sizes[i];
        assert_true(fake.exec.ops->output(&fake.exec, 1, chunk, fake.exec.arg));
        m = (CwExecStreamResponse *)fake_sent(c, 1, STREAM_D);
        assert_int_equal(m->output->data.len, sizes[i]);
        assert_int_equal(m->output->data.data[sizes[i] - 1], 'z');
        protobuf_c_message_free_unpacked(&m->base, NULL);
        fake_gone(c, RPC_GONE_CONN);
        fake_call_free(c);
    }
}

static void a_slow_reader_stops_the_process(void **state)
{
    struct rpc_call *c = start(NULL);

    (void)state;
    c->stuck = true;
    assert_false(fake.exec.ops->output(&fake.exec, 1, fake_chunk("x"), fake.exec.arg));
    assert_int_equal(c->sent_count, 2); /* this one was taken */
    c->stuck = false;
    c->method->writable(c);
    assert_true(fake.exec.resumed);
    fake_gone(c, RPC_GONE_RESET);
    fake_call_free(c);
}

static void a_full_stdin_stops_the_sender(void **state)
{
    struct rpc_call *c = start(NULL);

    (void)state;
    fake.exec.input_full = true;
    say_stdin(c, "abc");
    assert_true(c->paused);
    fake.exec.ops->stdin_drained(&fake.exec, fake.exec.arg);
    assert_false(c->paused);
    fake_gone(c, RPC_GONE_RESET);
    fake_call_free(c);
}

static void half_close_is_end_of_input_and_not_the_end(void **state)
{
    struct rpc_call *c = start(NULL);

    (void)state;
    assert_non_null(strstr(fake.exec_text, "stdin=1"));
    fake_half_close(c);
    assert_true(fake.exec.input_closed);
    assert_false(c->finished);
    end(0);
    fake_call_free(c);

    c = start(NULL);
    say_close(c);
    say_close(c);
    fake_half_close(c); /* once is enough: the fake refuses a write after it */
    end(0);
    fake_call_free(c);
}

static void a_caller_who_leaves_kills_the_tree(void **state)
{
    static const enum rpc_why whys[] = {RPC_GONE_RESET, RPC_GONE_CONN, RPC_GONE_DEADLINE};
    struct rpc_call *c;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(whys); i++) {
        c = start(NULL);
        fake_gone(c, whys[i]);
        assert_true(fake.exec.abandoned);
        fake_call_free(c);
    }
    c = fake_call("StreamExec"); /* before init */
    fake_gone(c, RPC_GONE_RESET);
    fake_call_free(c);
}

static void a_send_that_fails_ends_the_process_and_the_call(void **state)
{
    struct rpc_call *c = start(NULL);

    (void)state;
    c->send_error = -12;
    assert_false(fake.exec.ops->output(&fake.exec, 1, fake_chunk("x"), fake.exec.arg));
    assert_true(fake.exec.abandoned);
    assert_true(c->finished && c->err.code == -12);
    fake_call_free(c);

    c = start(NULL);
    fake.exec.ops->started(&fake.exec, fake.exec.arg);
    c->send_error = -12;
    end(0);
    assert_true(c->err.code == -12); /* never OK without exit */
    fake_call_free(c);
}

static void plain_tty(CwExecStreamInit *i)
{
    i->tty = 1;
}
static void sized_tty(CwExecStreamInit *i)
{
    i->tty = 1;
    i->tty_width = 120;
    i->tty_height = 40;
}

static void a_terminal_has_a_size(void **state)
{
    struct rpc_call *c = start(plain_tty);

    (void)state;
    assert_non_null(strstr(fake.exec_text, "tty=1"));
    assert_int_equal(fake.exec.cols, 80);
    assert_int_equal(fake.exec.rows, 24);
    say_resize(c, 100, 30);
    assert_int_equal(fake.exec.cols, 100);
    assert_int_equal(fake.exec.rows, 30);
    fake_gone(c, RPC_GONE_RESET);
    fake_call_free(c);

    c = start(sized_tty);
    assert_int_equal(fake.exec.cols, 120);
    assert_int_equal(fake.exec.rows, 40);
    fake_gone(c, RPC_GONE_RESET);
    fake_call_free(c);
}

/* ---- Exec ---- */

static struct rpc_call *run(int32_t max)
{
    struct rpc_call *c = fake_call("Exec");
    CwExecRequest req = CW_INIT(EXEC_REQUEST);

    req.sandbox_id = bytes("sb-1");
    req.command = argv;
    req.n_command = 2;
    req.max_output_bytes = max;
    fake_say(c, &req.base);
    return c;
}

static void a_run_is_refused_like_a_stream(void **state)
{
    struct rpc_call *c = run(-1);

    (void)state;
    assert_string_equal(c->err.msg, "max_output_bytes: -1 is negative");
    fake_call_free(c);
    (void)err_typed(&fake.refuse, ERR_NOT_FOUND, "SANDBOX_NOT_FOUND", "no");
    c = run(0);
    assert_string_equal(c->err.reason, "SANDBOX_NOT_FOUND");
    fake_call_free(c);
}

static void a_run_answers_with_everything(void **state)
{
    struct rpc_call *c = run(4);
    CwExecResponse *m;

    (void)state;
    assert_null(strstr(fake.exec_text, "stdin=1"));
    out(1, "abc");
    out(2, "E");
    out(1, "def");
    end(9);
    m = (CwExecResponse *)fake_sent(c, 0, EXEC_D);
    assert_true(cw_is(&m->stdout, "abcd"));
    assert_true(cw_is(&m->stderr, "E"));
    assert_int_equal(m->exit_code, 9);
    assert_true(m->stdout_truncated);
    assert_false(m->stderr_truncated);
    assert_int_equal(m->stdout_bytes_produced, 6);
    assert_int_equal(m->stderr_bytes_produced, 1);
    protobuf_c_message_free_unpacked(&m->base, NULL);
    fake_call_free(c);
}

static void a_run_whose_caller_left_is_killed(void **state)
{
    struct rpc_call *c = run(0);

    (void)state;
    out(1, "abc");
    fake_gone(c, RPC_GONE_DEADLINE);
    assert_true(fake.exec.abandoned);
    fake_call_free(c);
}

static void the_output_of_all_runs_has_a_limit(void **state)
{
    struct rpc_call *c = run(0);
    struct cw_v1 *cw = rpc_service_data(c);

    (void)state;
    cw->exec_kept = CW_EXEC_KEPT_MAX - 6;
    out(1, "abc");
    out(2, "def");
    assert_false(c->finished);
    assert_false(fake.exec.ops->output(&fake.exec, 1, fake_chunk("g"), fake.exec.arg));
    assert_true(fake.exec.abandoned);
    assert_int_equal(c->err.kind, ERR_EXHAUSTED);
    assert_int_equal(cw->exec_kept, CW_EXEC_KEPT_MAX - 6); /* given back */
    cw->exec_kept = 0;
    fake_call_free(c);
}

#define T(f) cmocka_unit_test_setup_teardown(f, fake_reset, fake_clear)
int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_wrong_init_is_refused),
        T(messages_out_of_order_are_refused),
        T(a_refusal_of_the_engine_ends_the_stream_with_its_reason),
        T(an_unknown_end_is_an_error_not_a_code),
        T(frames_come_in_the_order_of_the_contract),
        T(a_program_that_cannot_start_is_ready_too),
        T(exit_zero_is_sent),
        T(output_of_every_size_keeps_its_bytes),
        T(a_slow_reader_stops_the_process),
        T(a_full_stdin_stops_the_sender),
        T(half_close_is_end_of_input_and_not_the_end),
        T(a_caller_who_leaves_kills_the_tree),
        T(a_send_that_fails_ends_the_process_and_the_call),
        T(a_terminal_has_a_size),
        T(a_run_is_refused_like_a_stream),
        T(a_run_answers_with_everything),
        T(a_run_whose_caller_left_is_killed),
        T(the_output_of_all_runs_has_a_limit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
