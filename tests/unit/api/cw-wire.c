/* The test vectors of the contract (Annex B): what clients send is read as they mean it, what we send is byte for byte what
 * they expect. */
#include "fake.h"

#define VECTOR_SECONDS 1700000000ull /* the instant in the vectors */

static CwBytes unhex(const char *hex)
{
    CwBytes b = {.len = strlen(hex) / 2, .data = malloc(strlen(hex) / 2 + 1)};

    for (size_t i = 0; i < b.len; i++) {
        char two[3] = {hex[2 * i], hex[2 * i + 1], '\0'};

        b.data[i] = (uint8_t)strtoul(two, NULL, 16);
    }
    return b;
}

static void assert_hex(const void *data, size_t len, const char *hex)
{
    CwBytes want = unhex(hex);

    assert_int_equal(len, want.len);
    assert_memory_equal(data, want.data, len);
    free(want.data);
}

static void assert_packs_to(const ProtobufCMessage *msg, const char *hex)
{
    uint8_t data[256];

    assert_true(protobuf_c_message_get_packed_size(msg) <= sizeof data);
    assert_hex(data, protobuf_c_message_pack(msg, data), hex);
}

static void say_hex(struct rpc_call *c, const char *hex)
{
    CwBytes b = unhex(hex);

    fake_say_bytes(c, b.data, b.len);
    free(b.data);
}

static void a_create_request_is_read(void **state)
{
    static const char spec_hex[] =
        "0a4c0a046d61696e120b707974686f6e3a332e31311a05736c6565702208696e66696e6974792a060a014112"
        "01625a1e0a0d0a043530306d12053235364d69120d0a043530306d12053235364d6912046d61696e28"
        "3c42027431";
    struct rpc_call *c = fake_call("CreateSandbox");
    struct err e;

    (void)state;
    say_hex(
        c,
        "0a5c125a0a4c0a046d61696e120b707974686f6e3a332e31311a05736c6565702208696e66696e6974792a060a01411201625a1e0a0d0a"
        "043530306d12053235364d69120d0a043530306d12053235364d6912046d61696e283c420274311203722d31");
    assert_false(c->finished);
    assert_string_equal(fake.spec_text,
                        "tenant=default\ncreator=local\ndialect=cw_v1\nrequest_id=r-1\nimage=python:3.11\n"
                        "command=sleep\narg=infinity\nenv=A=b\ntag=t1\nmemory=268435456\ncpu=500\nlifetime=60\n");
    assert_hex(fake.echo.data, fake.echo.len, spec_hex);
    (void)err_typed(&e, ERR_UNAVAILABLE, NULL, "over");
    fake.op.box(c, &e, NULL);
    fake_call_free(c);
}

static void get_and_delete_requests_are_read(void **state)
{
    struct rpc_call *c = fake_call("GetSandbox");

    (void)state;
    fake.boxes[fake.box_count++] = fake_box("sb-1", BOX_RUNNING);
    say_hex(c, "0a0473622d31");
    assert_int_equal(c->err.code, 0);
    fake_call_free(c);

    c = fake_call("DeleteSandbox");
    say_hex(c, "0a0473622d31100a");
    assert_int_equal(fake.grace, 10);
    fake.op.box(c, NULL, &fake.boxes[0]);
    assert_int_equal(c->err.code, 0);
    fake_call_free(c);
}

static void sandboxes_are_written(void **state)
{
    CwSandbox box = CW_INIT(SANDBOX);
    CwSandboxStatus status = CW_INIT(SANDBOX_STATUS);
    CwTimestamp start = cw_time(VECTOR_SECONDS * 1000000000);
    char runner[] = "r1";

    (void)state;
    box.sandbox_id = bytes("sb-1");
    box.status = &status;
    status.state = cw_state(BOX_COMPLETED);
    status._exit_code_case = COREWEAVE__SANDBOX__V1__SANDBOX_STATUS___EXIT_CODE_EXIT_CODE;
    assert_packs_to(&box.base, "0a0473622d311a0408034800");

    status = (CwSandboxStatus)CW_INIT(SANDBOX_STATUS);
    status.state = cw_state(BOX_RUNNING);
    status.start_time = &start;
    status.runner_id = runner;
    assert_packs_to(&box.base, "0a0473622d311a0e080222060880e2cfaa066a027231");
}

static void exec_messages_are_read(void **state)
{
    struct rpc_call *c = fake_call("StreamExec");

    (void)state;
    say_hex(c, "0a100a0473622d3112046563686f12026869");
    assert_string_equal(fake.exec_text, "box=sb-1\narg=echo\narg=hi\nstdin=1\n");
    say_hex(c, "1202780a");
    assert_int_equal(fake.exec.input.len, 2);
    assert_memory_equal(fake.exec.input.data, "x\n", 2);
    say_hex(c, "2200");
    assert_true(fake.exec.input_closed);
    fake_gone(c, RPC_GONE_RESET);
    assert_true(fake.exec.abandoned);
    fake_call_free(c);
}

static void exec_messages_are_written(void **state)
{
    struct rpc_call *c = fake_call("StreamExec");
    CwExecStreamResponse msg = CW_INIT(EXEC_STREAM_RESPONSE);
    CwExecStreamReady ready = CW_INIT(EXEC_STREAM_READY);
    CwExecStreamExit end = CW_INIT(EXEC_STREAM_EXIT);
    CwTimestamp when = cw_time(VECTOR_SECONDS * 1000000000);

    (void)state;
    say_hex(c, "0a100a0473622d3112046563686f12026869");
    assert_true(fake.exec.ops->output(&fake.exec, 1, fake_chunk("hi\n"), fake.exec.arg));
    assert_int_equal(c->sent_count, 2); /* ready came first */
    assert_hex(c->sent[1].data, c->sent[1].len, "12070801120368690a");
    fake_gone(c, RPC_GONE_DEADLINE);
    fake_call_free(c);

    ready.ready_time = &when;
    msg.message_case = COREWEAVE__SANDBOX__V1__EXEC_STREAM_RESPONSE__MESSAGE_READY;
    msg.ready = &ready;
    assert_packs_to(&msg.base, "0a080a060880e2cfaa06");
    msg.message_case = COREWEAVE__SANDBOX__V1__EXEC_STREAM_RESPONSE__MESSAGE_EXIT;
    msg.exit = &end;
    assert_packs_to(&msg.base, "1a00");
    end.exit_code = 42;
    assert_packs_to(&msg.base, "1a02082a");
}

static void log_entries_are_written(void **state)
{
    CwLogEntry entry = CW_INIT(LOG_ENTRY);
    CwLogStreamError error = CW_INIT(LOG_STREAM_ERROR);
    char session[] = "L1", message[] = "no such session", code[] = "SESSION_NOT_FOUND";

    (void)state;
    entry.data = bytes("abc\n");
    entry.log_session_id = session;
    entry.next_log_offset = 4;
    assert_packs_to(&entry.base, "0a046162630a1a024c312004");
    entry = (CwLogEntry)CW_INIT(LOG_ENTRY);
    error.message = message;
    error.code = code;
    entry.error = &error;
    assert_packs_to(&entry.base, "2a240a0f6e6f20737563682073657373696f6e121153455353494f4e5f4e4f545f464f554e44");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_create_request_is_read, fake_reset, fake_clear),
        cmocka_unit_test_setup_teardown(get_and_delete_requests_are_read, fake_reset, fake_clear),
        cmocka_unit_test_setup_teardown(sandboxes_are_written, fake_reset, fake_clear),
        cmocka_unit_test_setup_teardown(exec_messages_are_read, fake_reset, fake_clear),
        cmocka_unit_test_setup_teardown(exec_messages_are_written, fake_reset, fake_clear),
        cmocka_unit_test_setup_teardown(log_entries_are_written, fake_reset, fake_clear),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
