/* Create, Get, List and Delete: what clients see of a sandbox, and how calls end. */
#include "fake.h"

#include "descriptors.h"

static struct rpc_call *get(const char *id)
{
    struct rpc_call *c = fake_call("GetSandbox");
    CwGetSandboxRequest req = CW_INIT(GET_SANDBOX_REQUEST);

    req.sandbox_id = bytes(id);
    fake_say(c, &req.base);
    return c;
}

static struct rpc_call *delete (const char *id, void (*change)(CwDeleteSandboxRequest *req))
{
    struct rpc_call *c = fake_call("DeleteSandbox");
    CwDeleteSandboxRequest req = CW_INIT(DELETE_SANDBOX_REQUEST);

    req.sandbox_id = bytes(id);
    if (change != NULL)
        change(&req);
    fake_say(c, &req.base);
    return c;
}

static struct rpc_call *list(void (*change)(CwListSandboxesRequest *req))
{
    struct rpc_call *c = fake_call("ListSandboxes");
    CwListSandboxesRequest req = CW_INIT(LIST_SANDBOXES_REQUEST);

    if (change != NULL)
        change(&req);
    fake_say(c, &req.base);
    return c;
}

static void an_id_that_cannot_be_one_is_not_found(void **state)
{
    static const struct {
        const char *id, *says;
        enum err_kind kind;
    } rows[] = {
        {"", "sandbox_id: missing", ERR_INVALID},
        {"sb-9", "there is no sandbox 'sb-9'", ERR_NOT_FOUND},
        {"../etc", "there is no sandbox '../etc'", ERR_NOT_FOUND},
        {"a b", "there is no sandbox 'a b'", ERR_NOT_FOUND},
        {"\xff\x1b[31m", "there is no sandbox '\\xff\\x1b[31m'", ERR_NOT_FOUND},
        {"0123456789012345678901234567890123456789012345678901234567890123456789",
         "there is no sandbox '01234567890123456789012345678901234567890123456789012345...'", ERR_NOT_FOUND},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct rpc_call *c = get(rows[i].id);

        assert_string_equal(c->err.msg, rows[i].says);
        assert_int_equal(c->err.kind, rows[i].kind);
        if (rows[i].kind == ERR_NOT_FOUND)
            assert_string_equal(c->err.reason, "SANDBOX_NOT_FOUND");
        fake_call_free(c);
    }
}

static void each_state_has_its_number_and_none_is_zero(void **state)
{
    static const int numbers[BOX_STATE_COUNT] = {1, 2, 8, 5, 3, 4, 6};

    (void)state;
    for (int s = 0; s < BOX_STATE_COUNT; s++) {
        assert_int_equal(cw_state((enum box_state)s), numbers[s]);
        fake.boxes[0] = fake_box("sb-1", (enum box_state)s);
        fake.box_count = 1;
        struct rpc_call *c = get("sb-1");
        CwSandbox *box = (CwSandbox *)fake_sent(c, 0, SANDBOX_D);

        assert_int_equal(box->status->state, numbers[s]);
        assert_int_equal(box->status->container_statuses[0]->state, numbers[s]);
        protobuf_c_message_free_unpacked(&box->base, NULL);
        fake_call_free(c);
    }
}

static void an_exit_code_of_zero_is_present(void **state)
{
    struct rpc_call *c;
    CwSandbox *box;

    (void)state;
    fake.boxes[fake.box_count++] = fake_box("sb-1", BOX_COMPLETED);
    fake.boxes[fake.box_count++] = fake_box("sb-2", BOX_RUNNING);
    fake.boxes[0].has_exit = true;
    fake.boxes[0].ended_ns = 5000000007;
    fake.boxes[0].reason = "exited 0";

    c = get("sb-1");
    box = (CwSandbox *)fake_sent(c, 0, SANDBOX_D);
    assert_int_equal(box->status->_exit_code_case, COREWEAVE__SANDBOX__V1__SANDBOX_STATUS___EXIT_CODE_EXIT_CODE);
    assert_int_equal(box->status->exit_code, 0);
    assert_int_equal(box->status->end_time->seconds, 5);
    assert_int_equal(box->status->end_time->nanos, 7);
    assert_string_equal(box->status->state_reason, "exited 0");
    protobuf_c_message_free_unpacked(&box->base, NULL);
    fake_call_free(c);

    c = get("sb-2");
    box = (CwSandbox *)fake_sent(c, 0, SANDBOX_D);
    assert_int_equal(box->status->_exit_code_case, 0);
    assert_null(box->status->end_time);
    assert_null(box->status->start_time);
    protobuf_c_message_free_unpacked(&box->base, NULL);
    fake_call_free(c);
}

/* SandboxSpec{containers[0]{name web, image i, resource_requirements{requests{cpu 0.50}, limits{cpu 1, memory 1Gi}}}} and a
 * field 99 of a later client. */
static const uint8_t echo[] = {
    0x0a, 0x23, 0x0a, 0x03, 'w', 'e', 'b',  0x12, 0x01, 'i',  0x5a, 0x19, 0x0a, 0x06,
    0x0a, 0x04, '0',  '.',  '5', '0', 0x12, 0x0f, 0x0a, 0x04, '1',  '.',  '0',  '0',
    0x12, 0x07, '1',  '.',  '0', '0', '0',  'G',  'i',  0x9a, 0x06, 0x01, 'x',
};

static void the_spec_and_its_amounts_come_back_as_they_were(void **state)
{
    struct rpc_call *c;
    CwSandbox *box;
    CwResourceRequirements *rr;

    (void)state;
    fake.boxes[fake.box_count++] = fake_box("sb-1", BOX_RUNNING);
    fake.boxes[0].echo = echo;
    fake.boxes[0].echo_len = sizeof echo;
    fake.boxes[0].cpu_millis = 1000;
    c = get("sb-1");
    box = (CwSandbox *)fake_sent(c, 0, SANDBOX_D);
    assert_int_equal(box->spec.len, sizeof echo);
    assert_memory_equal(box->spec.data, echo, sizeof echo);
    rr = box->status->effective_resource_requirements;
    assert_true(cw_is(&rr->requests->cpu, "0.50"));
    assert_int_equal(rr->requests->memory.len, 0);
    assert_true(cw_is(&rr->limits->cpu, "1.00"));
    assert_true(cw_is(&rr->limits->memory, "1.000Gi"));
    assert_true(cw_is(&box->status->container_statuses[0]->name, "web"));
    assert_string_equal(box->status->runner_id, "rn-1");
    assert_string_equal(box->status->runner_group_id, "silica");
    assert_string_equal(box->status->effective_runtime_class, "silica");
    assert_int_equal(box->status->effective_max_lifetime_seconds, 86400);
    protobuf_c_message_free_unpacked(&box->base, NULL);
    fake_call_free(c);
}

static void limits_nobody_named_are_told_as_they_apply(void **state)
{
    struct rpc_call *c;
    CwSandbox *box;
    CwSandboxSpec *spec;

    (void)state;
    fake.boxes[fake.box_count++] = fake_box("sb-1", BOX_RUNNING);
    fake.boxes[0].dialect = "admin";
    fake.boxes[0].echo = "{}";
    fake.boxes[0].echo_len = 2;
    fake.boxes[0].cpu_millis = 1500;
    c = get("sb-1");
    box = (CwSandbox *)fake_sent(c, 0, SANDBOX_D);
    assert_true(cw_is(&box->status->effective_resource_requirements->limits->cpu, "1500m"));
    assert_true(cw_is(&box->status->effective_resource_requirements->limits->memory, "2147483648"));
    spec = (CwSandboxSpec *)protobuf_c_message_unpack(SPEC_D, NULL, box->spec.len, box->spec.data);
    assert_non_null(spec); /* made from what is known: another dialect's words never go out */
    assert_true(cw_is(&spec->containers[0]->name, "main"));
    assert_true(cw_is(&spec->containers[0]->image, "python:3.11"));
    protobuf_c_message_free_unpacked(&spec->base, NULL);
    protobuf_c_message_free_unpacked(&box->base, NULL);
    fake_call_free(c);
}

static void a_reason_that_is_not_utf8_still_travels(void **state)
{
    struct rpc_call *c;
    CwSandbox *box;

    (void)state;
    fake.boxes[fake.box_count++] = fake_box("sb-1", BOX_FAILED);
    fake.boxes[0].reason = "no \xffprogram";
    c = get("sb-1");
    box = (CwSandbox *)fake_sent(c, 0, SANDBOX_D);
    assert_string_equal(box->status->state_reason, "no ?program");
    protobuf_c_message_free_unpacked(&box->base, NULL);
    fake_call_free(c);
}

/* ---- list ---- */

static CwBytes texts[101];

static void negative_page(CwListSandboxesRequest *r)
{
    r->page_size = -1;
}
static void bad_token(CwListSandboxesRequest *r)
{
    r->page_token = bytes("../");
}
static void bad_state(CwListSandboxesRequest *r)
{
    r->state = 77;
}
static void descending(CwListSandboxesRequest *r)
{
    r->sort_direction = 1;
}
static void bad_tag(CwListSandboxesRequest *r)
{
    texts[0] = bytes("\xff");
    r->tags = texts;
    r->n_tags = 1;
}
static void many_runners(CwListSandboxesRequest *r)
{
    r->runner_ids = texts;
    r->n_runner_ids = 101;
}

static void a_list_that_cannot_be_understood_is_refused(void **state)
{
    static const struct {
        void (*change)(CwListSandboxesRequest *r);
        const char *says;
        enum err_kind kind;
    } rows[] = {
        {negative_page, "page_size: -1 is negative", ERR_INVALID},
        {bad_token, "page_token: not a token of this server", ERR_INVALID},
        {bad_state, "state: 77 is not a state", ERR_INVALID},
        {descending, "sort_direction: sandboxes are listed in the order of their creation", ERR_UNIMPLEMENTED},
        {bad_tag, "tags: '\\xff' is not valid UTF-8", ERR_INVALID},
        {many_runners, "runner_ids: 101 entries, the limit is 100", ERR_INVALID},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct rpc_call *c = list(rows[i].change);

        assert_string_equal(c->err.msg, rows[i].says);
        assert_int_equal(c->err.kind, rows[i].kind);
        fake_call_free(c);
    }
}

static void two_a_page(CwListSandboxesRequest *r)
{
    r->page_size = 2;
}
static void second_page(CwListSandboxesRequest *r)
{
    r->page_size = 2;
    r->page_token = bytes("sb-2");
}
static void huge_page(CwListSandboxesRequest *r)
{
    r->page_size = 100000;
}
static void completed(CwListSandboxesRequest *r)
{
    r->state = 3;
}
static void running(CwListSandboxesRequest *r)
{
    r->state = 2;
}
static void pending(CwListSandboxesRequest *r)
{
    r->state = 7;
}
static void all(CwListSandboxesRequest *r)
{
    r->show_terminated = 1;
    texts[0] = bytes("a");
    texts[1] = bytes("b");
    r->tags = texts;
    r->n_tags = 2;
}
static void elsewhere(CwListSandboxesRequest *r)
{
    texts[0] = bytes("rn-2");
    r->runner_ids = texts;
    r->n_runner_ids = 1;
}
static void here(CwListSandboxesRequest *r)
{
    texts[0] = bytes("rn-1");
    r->runner_ids = texts;
    r->n_runner_ids = 1;
}
static void with_volume(CwListSandboxesRequest *r)
{
    texts[0] = bytes("v");
    r->volume_ids = texts;
    r->n_volume_ids = 1;
}

static void pages_and_filters_are_passed_on(void **state)
{
    static const struct {
        void (*change)(CwListSandboxesRequest *r);
        unsigned count, limit;
        const char *next;
        int box_state;
        bool ended;
    } rows[] = {
        {NULL, 3, 100, "", -1, false},
        {two_a_page, 2, 2, "sb-2", -1, false},
        {second_page, 1, 2, "", -1, false},
        {huge_page, 3, 1000, "", -1, false},
        {completed, 3, 100, "", BOX_COMPLETED, true},
        {running, 3, 100, "", BOX_RUNNING, false},
        {pending, 0, 0, "", 0, false},
        {all, 3, 100, "", -1, true},
        {elsewhere, 0, 100, "", -1, false},
        {here, 3, 100, "", -1, false},
        {with_volume, 0, 100, "", -1, false},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        CwListSandboxesResponse *reply;
        struct rpc_call *c;

        (void)fake_reset(state);
        for (; fake.box_count < 3; fake.box_count++) {
            char id[] = {'s', 'b', '-', (char)('1' + fake.box_count), '\0'};

            fake.boxes[fake.box_count] = fake_box(id, BOX_RUNNING);
        }
        c = list(rows[i].change);
        reply = (CwListSandboxesResponse *)fake_sent(c, 0, LIST_D);
        if (reply->n_sandboxes != rows[i].count || strcmp(reply->next_page_token, rows[i].next) != 0)
            fail_msg("row %zu: %zu sandboxes, next '%s'", i, reply->n_sandboxes, reply->next_page_token);
        assert_int_equal(fake.filter.limit, rows[i].limit);
        assert_int_equal(fake.filter.state, rows[i].box_state);
        assert_int_equal(fake.filter.ended, rows[i].ended);
        protobuf_c_message_free_unpacked(&reply->base, NULL);
        fake_call_free(c);
    }
}

static void a_page_ends_early_when_its_bytes_are_many(void **state)
{
    /* Three sandboxes whose specs fill more than a page: SandboxSpec{containers[0]{}, annotations...} is any bytes here, led
     * by an empty container and then one unknown field. */
    size_t len = CW_PAGE_BYTES_MAX / 2;
    uint8_t *big = calloc(1, len);
    CwListSandboxesResponse *reply;
    struct rpc_call *c;
    size_t n = 0, rest;

    (void)state;
    big[n++] = 0x0a; /* containers[0], empty */
    big[n++] = 0x00;
    big[n++] = 0x9a; /* field 99, length-delimited */
    big[n++] = 0x06;
    rest = len - n - 4;
    for (int i = 0; i < 4; i++)
        big[n++] = (uint8_t)((rest >> (7 * i) & 0x7f) | (i < 3 ? 0x80 : 0));
    for (; fake.box_count < 3; fake.box_count++) {
        char id[] = {'s', 'b', '-', (char)('1' + fake.box_count), '\0'};

        fake.boxes[fake.box_count] = fake_box(id, BOX_RUNNING);
        fake.boxes[fake.box_count].echo = big;
        fake.boxes[fake.box_count].echo_len = len;
    }
    c = list(NULL);
    reply = (CwListSandboxesResponse *)fake_sent(c, 0, LIST_D);
    assert_int_equal(reply->n_sandboxes, 1);
    assert_string_equal(reply->next_page_token, "sb-1");
    protobuf_c_message_free_unpacked(&reply->base, NULL);
    fake_call_free(c);
    free(big);
}

/* ---- delete ---- */

static void negative_grace(CwDeleteSandboxRequest *r)
{
    r->grace_period_seconds = -1;
}
static void with_snapshot(CwDeleteSandboxRequest *r)
{
    texts[0] = bytes("workspace");
    r->snapshot_volumes = texts;
    r->n_snapshot_volumes = 1;
}
static void snapshot_or_missing(CwDeleteSandboxRequest *r)
{
    with_snapshot(r);
    r->allow_missing = 1;
}
static void missing_ok(CwDeleteSandboxRequest *r)
{
    r->allow_missing = 1;
    r->grace_period_seconds = 7;
}

static void a_delete_that_cannot_be_done_as_asked_is_refused(void **state)
{
    static const struct {
        void (*change)(CwDeleteSandboxRequest *r);
        enum err_kind kind;
        const char *reason;
    } rows[] = {
        {negative_grace, ERR_INVALID, NULL},
        {with_snapshot, ERR_PRECONDITION, "FSS_NOT_SUPPORTED"},
        {snapshot_or_missing, ERR_INVALID, "INVALID_REQUEST"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct rpc_call *c = delete ("sb-1", rows[i].change);

        assert_int_equal(c->err.kind, rows[i].kind);
        if (rows[i].reason != NULL)
            assert_string_equal(c->err.reason, rows[i].reason);
        fake_call_free(c);
    }
    assert_int_equal(fake.stops, 0);
}

static void a_missing_sandbox_is_an_error_unless_allowed(void **state)
{
    CwDeleteSandboxResponse *reply;
    struct rpc_call *c;
    struct err e;

    (void)state;
    (void)err_typed(&e, ERR_NOT_FOUND, "SANDBOX_NOT_FOUND", "there is no sandbox 'sb-1'");
    c = delete ("sb-1", NULL);
    fake.op.box(c, &e, NULL);
    assert_int_equal(c->err.kind, ERR_NOT_FOUND);
    fake_call_free(c);

    c = delete ("sb-1", missing_ok);
    fake.op.box(c, &e, NULL);
    assert_int_equal(c->err.code, 0);
    reply = (CwDeleteSandboxResponse *)fake_sent(c, 0, DELETE_D);
    assert_null(reply->sandbox); /* how a client learns that it was gone */
    protobuf_c_message_free_unpacked(&reply->base, NULL);
    fake_call_free(c);

    c = delete ("no such", missing_ok);
    assert_int_equal(c->err.code, 0);
    fake_call_free(c);
}

static void a_deleted_sandbox_comes_with_the_answer(void **state)
{
    struct rpc_call *c = delete ("sb-1", missing_ok);
    struct box_info info = fake_box("sb-1", BOX_TERMINATING);
    CwDeleteSandboxResponse *reply;

    (void)state;
    assert_int_equal(fake.grace, 7);
    assert_string_equal(fake.why, "deleted by local");
    assert_false(c->finished);
    fake.op.box(c, NULL, &info);
    reply = (CwDeleteSandboxResponse *)fake_sent(c, 0, DELETE_D);
    assert_int_equal(reply->sandbox->status->state, 5);
    protobuf_c_message_free_unpacked(&reply->base, NULL);
    fake_call_free(c);
}

static void a_caller_who_left_is_not_called_back(void **state)
{
    struct rpc_call *c = delete ("sb-1", NULL);

    (void)state;
    fake_gone(c, RPC_GONE_DEADLINE);
    assert_true(fake.op.dropped);
    fake_call_free(c);
}

static void short_memory_ends_the_call(void **state)
{
    struct rpc_call *c;

    (void)state;
    fake.no_memory = true;
    c = delete ("sb-1", NULL);
    assert_int_equal(c->err.kind, ERR_EXHAUSTED);
    fake_call_free(c);
}

#define T(f) cmocka_unit_test_setup_teardown(f, fake_reset, fake_clear)
int main(void)
{
    const struct CMUnitTest tests[] = {
        T(an_id_that_cannot_be_one_is_not_found),
        T(each_state_has_its_number_and_none_is_zero),
        T(an_exit_code_of_zero_is_present),
        T(the_spec_and_its_amounts_come_back_as_they_were),
        T(limits_nobody_named_are_told_as_they_apply),
        T(a_reason_that_is_not_utf8_still_travels),
        T(a_list_that_cannot_be_understood_is_refused),
        T(pages_and_filters_are_passed_on),
        T(a_page_ends_early_when_its_bytes_are_many),
        T(a_delete_that_cannot_be_done_as_asked_is_refused),
        T(a_missing_sandbox_is_an_error_unless_allowed),
        T(a_deleted_sandbox_comes_with_the_answer),
        T(a_caller_who_left_is_not_called_back),
        T(short_memory_ends_the_call),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
