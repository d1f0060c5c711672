/* Files, logs, discovery, and the table of methods. */
#include "fake.h"

#include "descriptors.h"

/* ---- files ---- */

static struct rpc_call *read_file(const char *path)
{
    struct rpc_call *c = fake_call("ReadFile");
    CwReadFileRequest req = CW_INIT(READ_FILE_REQUEST);

    req.sandbox_id = bytes("sb-1");
    req.path = bytes(path);
    fake_say(c, &req.base);
    return c;
}

static struct rpc_call *write_file(CwBytes content)
{
    struct rpc_call *c = fake_call("WriteFile");
    CwWriteFileRequest req = CW_INIT(WRITE_FILE_REQUEST);

    req.sandbox_id = bytes("sb-1");
    req.path = bytes("/tmp/a");
    req.content = content;
    fake_say(c, &req.base);
    return c;
}

static void a_wrong_path_is_refused(void **state)
{
    static const struct {
        const char *path, *says;
    } rows[] = {
        {"", "path: missing"},
        {"a/b", "path: 'a/b' is not an absolute path"},
        {"/\xc0\xaf", "path: '/\\xc0\\xaf' is not valid UTF-8"},
    };
    static const uint8_t nul[] = {0x0a, 0x04, 's', 'b', '-', '1', 0x12, 0x04, '/', 'a', 0x00, 'b'};
    struct rpc_call *c;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        c = read_file(rows[i].path);
        assert_string_equal(c->err.msg, rows[i].says);
        assert_string_equal(fake_meta(c, "field"), "path");
        fake_call_free(c);
    }
    c = fake_call("ReadFile");
    fake_say_bytes(c, nul, sizeof nul);
    assert_string_equal(c->err.msg, "path: '/a\\x00b' contains a NUL byte");
    fake_call_free(c);
    assert_int_equal(fake.reads, 0);
}

static void content_above_the_limit_is_refused_so_that_clients_stream(void **state)
{
    CwBytes big = {.len = ENGINE_FILE_MAX + 1, .data = calloc(1, ENGINE_FILE_MAX + 1)};
    struct rpc_call *c = write_file(big);

    (void)state;
    assert_string_equal(c->err.reason, "FILE_TOO_LARGE");
    assert_int_equal(c->err.kind, ERR_EXHAUSTED);
    assert_string_equal(fake_meta(c, "filepath"), "/tmp/a");
    assert_string_equal(fake_meta(c, "size_bytes"), "33554433");
    assert_string_equal(fake_meta(c, "max_size_bytes"), "33554432");
    assert_int_equal(fake.writes, 0);
    fake_call_free(c);
    free(big.data);
}

static void file_errors_keep_their_reason(void **state)
{
    struct rpc_call *c = read_file("/x");
    struct err e;

    (void)state;
    (void)err_typed(&e, ERR_NOT_FOUND, "FILE_NOT_FOUND", "no such file");
    err_meta(&e, "filepath", "/x");
    fake.op.file(c, &e, NULL);
    assert_string_equal(c->err.reason, "FILE_NOT_FOUND");
    assert_string_equal(fake_meta(c, "filepath"), "/x");
    fake_call_free(c);
}

static void a_file_is_read_whole(void **state)
{
    static const size_t sizes[] = {0, 1, 127, 128, 16383, 16384, 2097152};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct rpc_call *c = read_file("/etc/hosts");
        struct chunk *chunk = chunk_new(sizes[i]);
        CwReadFileResponse *m;

        memset(chunk->data + chunk->off, 'q', sizes[i]);
        chunk->len = sizes[i];
        fake.op.file(c, NULL, chunk);
        assert_int_equal(c->err.code, 0);
        assert_string_equal(fake.path, "/etc/hosts");
        m = (CwReadFileResponse *)fake_sent(c, 0, FILE_D);
        assert_int_equal(m->content.len, sizes[i]);
        protobuf_c_message_free_unpacked(&m->base, NULL);
        fake_call_free(c);
    }
}

static void a_file_is_refused_while_too_many_replies_wait(void **state)
{
    struct rpc_call *c = read_file("/big");
    struct chunk *chunk = chunk_new(RPC_OUT_LARGE + 1);

    (void)state;
    memset(chunk->data + chunk->off, 'q', RPC_OUT_LARGE + 1);
    chunk->len = RPC_OUT_LARGE + 1;
    c->no_room = true;
    fake.op.file(c, NULL, chunk);
    assert_int_equal(c->err.kind, ERR_EXHAUSTED);
    assert_int_equal(c->sent_count, 0);
    fake_call_free(c);
}

static void a_file_is_written(void **state)
{
    struct rpc_call *c = write_file(bytes("data"));

    (void)state;
    assert_int_equal(fake.content.len, 4);
    fake.op.file(c, NULL, NULL);
    assert_int_equal(c->err.code, 0);
    fake_call_free(c);

    c = write_file((CwBytes){0}); /* an empty file */
    assert_int_equal(fake.content.len, 0);
    fake_gone(c, RPC_GONE_RESET);
    assert_true(fake.op.dropped);
    fake_call_free(c);
}

/* ---- logs ---- */

static struct rpc_call *logs(void (*change)(CwStreamLogsRequest *req))
{
    struct rpc_call *c = fake_call("StreamLogs");
    CwStreamLogsRequest req = CW_INIT(STREAM_LOGS_REQUEST);

    req.sandbox_id = bytes("sb-1");
    if (change != NULL)
        change(&req);
    fake_say(c, &req.base);
    return c;
}

static CwTimestamp when = CW_TIMESTAMP_INIT;
static void negative_tail(CwStreamLogsRequest *r)
{
    r->tail_lines = -1;
}
static void bad_nanos(CwStreamLogsRequest *r)
{
    when.seconds = 1;
    when.nanos = 1000000000;
    r->since_time = &when;
}
static void resume(CwStreamLogsRequest *r)
{
    r->resume_log_session_id = bytes("ls-1");
    r->follow = 1;
}
static void everything(CwStreamLogsRequest *r)
{
    when.seconds = 5;
    when.nanos = 6;
    r->since_time = &when;
    r->follow = r->timestamps = 1;
    r->tail_lines = 10;
}
static void before_the_epoch(CwStreamLogsRequest *r)
{
    when.seconds = -5;
    when.nanos = 0;
    r->since_time = &when;
}
static void far_future(CwStreamLogsRequest *r)
{
    when.seconds = INT64_MAX;
    when.nanos = 0;
    r->since_time = &when;
}

static void a_wrong_request_for_logs_is_refused(void **state)
{
    struct rpc_call *c = logs(negative_tail);

    (void)state;
    assert_string_equal(c->err.msg, "tail_lines: -1 is negative");
    fake_call_free(c);
    c = logs(bad_nanos);
    assert_non_null(strstr(c->err.msg, "since_time: 1000000000"));
    fake_call_free(c);
    (void)err_typed(&fake.refuse, ERR_NOT_FOUND, "SANDBOX_NOT_FOUND", "no");
    c = logs(NULL);
    assert_string_equal(c->err.reason, "SANDBOX_NOT_FOUND");
    fake_call_free(c);
}

static void a_session_cannot_be_resumed_and_the_stream_says_so(void **state)
{
    struct rpc_call *c = logs(resume);
    CwLogEntry *m;

    (void)state;
    assert_int_equal(c->err.code, 0); /* in the stream, not as a status */
    m = (CwLogEntry *)fake_sent(c, 0, LOG_D);
    assert_string_equal(m->error->code, "SESSION_NOT_FOUND");
    assert_int_equal(fake.log_opens, 0);
    protobuf_c_message_free_unpacked(&m->base, NULL);
    fake_call_free(c);
}

static void log_frames_carry_one_session_and_exact_offsets(void **state)
{
    struct rpc_call *c = logs(everything);
    CwLogEntry *a, *b;

    (void)state;
    assert_true(fake.log.follow && fake.log.timestamps);
    assert_int_equal(fake.log.tail_lines, 10);
    assert_int_equal(fake.log.since_ns, 5000000006);
    assert_true(fake.reader.ops->data(&fake.reader, fake_chunk("one\n"), 7000000000, fake.reader.arg));
    c->stuck = true;
    assert_false(fake.reader.ops->data(&fake.reader, fake_chunk("second\n"), 0, fake.reader.arg));
    c->method->writable(c);
    assert_true(fake.reader.resumed);
    fake.reader.live = false;
    fake.reader.ops->ended(&fake.reader, NULL, fake.reader.arg);
    assert_int_equal(c->err.code, 0);
    assert_int_equal(c->sent_count, 2);
    a = (CwLogEntry *)fake_sent(c, 0, LOG_D);
    b = (CwLogEntry *)fake_sent(c, 1, LOG_D);
    assert_true(cw_is(&a->data, "one\n"));
    assert_int_equal(a->next_log_offset, 4);
    assert_int_equal(a->timestamp->seconds, 7);
    assert_int_equal(b->next_log_offset, 11);
    assert_null(b->timestamp);
    assert_string_equal(a->log_session_id, b->log_session_id);
    assert_true(id_valid(a->log_session_id, strlen(a->log_session_id), "ls"));
    protobuf_c_message_free_unpacked(&a->base, NULL);
    protobuf_c_message_free_unpacked(&b->base, NULL);
    fake_call_free(c);
}

static void instants_out_of_range_mean_everything_or_nothing(void **state)
{
    struct rpc_call *c = logs(before_the_epoch);

    (void)state;
    assert_int_equal(fake.log.since_ns, 0);
    fake_gone(c, RPC_GONE_RESET);
    assert_true(fake.reader.closed);
    fake_call_free(c);
    c = logs(far_future);
    assert_true(fake.log.since_ns == UINT64_MAX);
    fake_gone(c, RPC_GONE_RESET);
    fake_call_free(c);
}

/* ---- discovery ---- */

static struct rpc_call *runners(void (*change)(CwListAvailableRunnersRequest *req))
{
    struct rpc_call *c = fake_call("ListAvailableRunners");
    CwListAvailableRunnersRequest req = CW_INIT(LIST_AVAILABLE_RUNNERS_REQUEST);

    if (change != NULL)
        change(&req);
    fake_say(c, &req.base);
    return c;
}

static void full(CwListAvailableRunnersRequest *r)
{
    r->view = 2;
    r->healthy_only = 1;
    r->page_size = 100;
    r->runner_group_id = bytes("silica");
}
static void other_group(CwListAvailableRunnersRequest *r)
{
    r->runner_group_id = bytes("gpu");
}
static void with_gpu(CwListAvailableRunnersRequest *r)
{
    r->gpu_type = bytes("A100");
}
static void other_arch(CwListAvailableRunnersRequest *r)
{
    r->architecture = bytes("s390x");
}
static void public_ports(CwListAvailableRunnersRequest *r)
{
    r->service_visibility = 1;
}
static void bad_view(CwListAvailableRunnersRequest *r)
{
    r->view = 3;
}
static void some_token(CwListAvailableRunnersRequest *r)
{
    r->page_token = bytes("x");
}

static unsigned count_runners(void (*change)(CwListAvailableRunnersRequest *r))
{
    struct rpc_call *c = runners(change);
    CwListAvailableRunnersResponse *m = (CwListAvailableRunnersResponse *)fake_sent(c, 0, RUNNERS_D);
    unsigned n = (unsigned)m->n_runners;

    protobuf_c_message_free_unpacked(&m->base, NULL);
    fake_call_free(c);
    return n;
}

static void filters_for_what_is_not_offered_find_nothing(void **state)
{
    struct rpc_call *c = runners(bad_view);

    (void)state;
    assert_string_equal(c->err.msg, "view: 3 is not a view");
    fake_call_free(c);
    c = runners(some_token);
    assert_int_equal(c->err.kind, ERR_INVALID);
    fake_call_free(c);
    assert_int_equal(count_runners(other_group), 0);
    assert_int_equal(count_runners(with_gpu), 0);
    assert_int_equal(count_runners(other_arch), 0);
    assert_int_equal(count_runners(public_ports), 0);
    assert_int_equal(count_runners(NULL), 1);
    fake.runner.healthy = false;
    assert_int_equal(count_runners(full), 0);
    assert_int_equal(count_runners(NULL), 1);
}

static void the_full_view_has_resources_and_the_basic_one_has_not(void **state)
{
    CwListAvailableRunnersResponse *m;
    struct rpc_call *c = runners(NULL);

    (void)state;
    m = (CwListAvailableRunnersResponse *)fake_sent(c, 0, RUNNERS_D);
    assert_null(m->runners[0]->resources);
    assert_int_equal(m->runners[0]->capabilities->n_supported_architectures, 1);
    assert_int_equal(m->runners[0]->connected_at->seconds, 1767225600);
    assert_string_equal(m->runners[0]->organization_id, "default");
    assert_string_equal(m->next_page_token, "");
    protobuf_c_message_free_unpacked(&m->base, NULL);
    fake_call_free(c);

    c = runners(full);
    m = (CwListAvailableRunnersResponse *)fake_sent(c, 0, RUNNERS_D);
    assert_int_equal(m->runners[0]->resources->available_cpu_millicores, 2500);
    assert_int_equal(m->runners[0]->resources->available_memory_bytes, 5ll << 30);
    assert_int_equal(m->runners[0]->resources->running_sandboxes, 3);
    assert_int_equal(m->runners[0]->capabilities->max_cpu_millicores, 4000);
    protobuf_c_message_free_unpacked(&m->base, NULL);
    fake_call_free(c);
}

static struct rpc_call *runner(const char *id, const char *organization, int view)
{
    struct rpc_call *c = fake_call("GetAvailableRunner");
    CwGetAvailableRunnerRequest req = CW_INIT(GET_AVAILABLE_RUNNER_REQUEST);

    req.runner_id = bytes(id);
    req.organization_id = bytes(organization);
    req.view = view;
    fake_say(c, &req.base);
    return c;
}

static void one_runner_is_found_by_its_id(void **state)
{
    struct rpc_call *c = runner("rn-2", "default", 0);
    CwAvailableRunner *m;

    (void)state;
    assert_string_equal(c->err.reason, "RUNNER_NOT_FOUND");
    fake_call_free(c);
    c = runner("rn-1", "others", 0);
    assert_string_equal(c->err.reason, "RUNNER_NOT_FOUND");
    fake_call_free(c);
    c = runner("", "default", 0);
    assert_string_equal(c->err.msg, "runner_id: missing");
    fake_call_free(c);
    for (int view = 0; view <= 2; view++) {
        c = runner("rn-1", "default", view);
        m = (CwAvailableRunner *)fake_sent(c, 0, RUNNER_D);
        assert_int_equal(m->resources != NULL, view != 1); /* unspecified is the full view here */
        protobuf_c_message_free_unpacked(&m->base, NULL);
        fake_call_free(c);
    }
}

/* ---- the table ---- */

static void a_method_without_a_handler_has_no_request_either(void **state)
{
    (void)state;
    for (unsigned i = 0; i < cw_method_count; i++) {
        const struct rpc_method *m = &cw_methods[i];

        assert_int_equal(m->in == NULL, m->message == NULL); /* so that the RPC layer answers UNIMPLEMENTED */
        for (unsigned k = 0; k < i; k++)
            assert_string_not_equal(m->path, cw_methods[k].path);
        if ((m->flags & (RPC_CLIENT_STREAM | RPC_SERVER_STREAM)) != 0) {
            assert_non_null(m->writable);
            assert_non_null(m->gone);
        }
    }
}

#define T(f) cmocka_unit_test_setup_teardown(f, fake_reset, fake_clear)
int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_wrong_path_is_refused),
        T(content_above_the_limit_is_refused_so_that_clients_stream),
        T(file_errors_keep_their_reason),
        T(a_file_is_read_whole),
        T(a_file_is_refused_while_too_many_replies_wait),
        T(a_file_is_written),
        T(a_wrong_request_for_logs_is_refused),
        T(a_session_cannot_be_resumed_and_the_stream_says_so),
        T(log_frames_carry_one_session_and_exact_offsets),
        T(instants_out_of_range_mean_everything_or_nothing),
        T(filters_for_what_is_not_offered_find_nothing),
        T(the_full_view_has_resources_and_the_basic_one_has_not),
        T(one_runner_is_found_by_its_id),
        T(a_method_without_a_handler_has_no_request_either),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
