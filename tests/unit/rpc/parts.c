/* The parts under a call: frames, status trailers, timeouts, the arena, decoding without a copy. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "echo.pb-c.h"
#include "rpc/arena.h"
#include "rpc/frame.h"
#include "rpc/status.h"
#include "rpc/unpack.h"

/* ------------------------------------------------------------------- frames */

static void a_message_above_the_limit_is_refused_before_it_comes(void **state)
{
    static const uint8_t prefix[] = {0, 0, 0, 0, 11};
    struct rpc_frame f = {.max = 10};
    const uint8_t *p = prefix;
    size_t len = sizeof prefix;
    struct rpc_piece piece;
    struct err e = {0};

    (void)state;
    assert_true(rpc_frame_next(&f, &p, &len, &piece, &e) < 0);
    assert_int_equal(e.kind, ERR_EXHAUSTED);
    assert_string_equal(e.msg, "the request message has 11 bytes; this method takes at most 10");
    assert_null(f.data);
}

static void a_compressed_message_is_refused(void **state)
{
    static const uint8_t prefixes[2][5] = {{1, 0, 0, 0, 1}, {2, 0, 0, 0, 1}};
    static const enum err_kind kinds[] = {ERR_UNIMPLEMENTED, ERR_INVALID};

    (void)state;
    for (int i = 0; i < 2; i++) {
        struct rpc_frame f = {.max = 10};
        const uint8_t *p = prefixes[i];
        size_t len = 5;
        struct rpc_piece piece;
        struct err e = {0};

        assert_true(rpc_frame_next(&f, &p, &len, &piece, &e) < 0);
        assert_int_equal(e.kind, kinds[i]);
    }
}

static void all_calls_together_may_hold_so_much(void **state)
{
    static const uint8_t bytes[] = {0, 0, 0, 0, 9, 1, 2, 3, 4};
    size_t total = 0, len = sizeof bytes;
    struct rpc_frame a = {.max = 10, .total = &total, .total_max = 7}, b = a;
    const uint8_t *p = bytes;
    struct rpc_piece piece;
    struct err e = {0};

    (void)state;
    assert_int_equal(rpc_frame_next(&a, &p, &len, &piece, &e), 0);
    assert_int_equal(total, 4);
    p = bytes;
    len = sizeof bytes;
    assert_true(rpc_frame_next(&b, &p, &len, &piece, &e) < 0);
    assert_int_equal(e.kind, ERR_EXHAUSTED);
    rpc_frame_fini(&b);
    rpc_frame_fini(&a);
    assert_int_equal(total, 0);
}

static void messages_cut_anywhere_are_the_same(void **state)
{
    static const uint8_t bytes[] = {0, 0, 0, 0, 3, 'a', 'b', 'c', 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 'd'};

    (void)state;
    for (size_t step = 1; step <= sizeof bytes; step++) {
        size_t total = 0, seen = 0, n = 0;
        struct rpc_frame f = {.max = 10, .total = &total, .total_max = 100};
        uint8_t got[8];

        for (size_t at = 0; at < sizeof bytes; at += step) {
            const uint8_t *p = bytes + at;
            size_t len = sizeof bytes - at < step ? sizeof bytes - at : step;
            struct rpc_piece piece;
            struct err e;

            while (rpc_frame_next(&f, &p, &len, &piece, &e) == 1) {
                seen++;
                memcpy(got + n, piece.data, piece.len);
                n += piece.len;
                if (piece.own != NULL)
                    total -= piece.len;
                free(piece.own);
            }
            assert_int_equal(len, 0);
        }
        assert_int_equal(seen, 3);
        assert_memory_equal(got, "abcd", 4);
        assert_int_equal(total, 0);
    }
}

/* ------------------------------------------------------------------- status */

static const struct rpc_service service = {.error_domain = "cwsandbox.com", .reason_prefix = "CWSANDBOX_"};

static const char *field(const struct rpc_status *s, const char *name)
{
    for (unsigned i = 0; i < s->count; i++) {
        if (strcmp(s->fields[i].name, name) == 0)
            return s->fields[i].value;
    }
    return NULL;
}

static void an_error_with_a_reason_has_the_details_of_the_contract(void **state)
{
    static struct rpc_status s;
    struct err e;

    (void)state;
    (void)err_typed(&e, ERR_NOT_FOUND, "FILE_NOT_FOUND", "no such file");
    err_meta(&e, "filepath", "/x");
    rpc_status_fill(&s, &e, &service, true);
    assert_int_equal(s.count, 4);
    assert_string_equal(s.fields[0].name, "content-type");
    assert_string_equal(field(&s, "grpc-status"), "5");
    assert_string_equal(field(&s, "grpc-message"), "no such file");
    assert_string_equal(
        field(&s, "grpc-status-details-bin"),
        "CAUSDG5vIHN1Y2ggZmlsZRplCih0eXBlLmdvb2dsZWFwaXMuY29tL2dvb2dsZS5ycGMuRXJyb3JJbmZvEjkKGENXU0FOREJPWF9"
        "GSUxFX05PVF9GT1VORBINY3dzYW5kYm94LmNvbRoOCghmaWxlcGF0aBICL3g");
}

static void messages_are_percent_encoded_and_cut_at_a_character(void **state)
{
    static struct rpc_status s;
    struct err e;

    (void)state;
    (void)err_typed(&e, ERR_INVALID, NULL, "100%% \n\xc3\xa4\xff~");
    rpc_status_fill(&s, &e, &service, false);
    assert_int_equal(s.count, 2);
    assert_string_equal(field(&s, "grpc-status"), "3");
    assert_string_equal(field(&s, "grpc-message"), "100%25 %0A%C3%A4?~");
}

static void the_largest_trailers_stay_below_8_kib(void **state)
{
    static struct rpc_status s;
    char big[2 * ERR_MSG_MAX];
    struct err e;
    size_t all = 0;

    (void)state;
    memset(big, 0, sizeof big);
    for (size_t i = 0; i + 3 < sizeof big; i += 2)
        memcpy(big + i, "\xc3\xa4", 2);
    (void)err_typed(&e, ERR_INTERNAL, "A_REASON_THAT_IS_RATHER_LONG_FOR_A_REASON", "%s", big);
    for (int i = 0; i < ERR_META_MAX; i++)
        err_meta(&e, "a_metadata_key_of_quite_some_length", big);
    rpc_status_fill(&s, &e, &service, true);
    assert_int_equal(s.count, 4);
    for (unsigned i = 0; i < s.count; i++)
        all += strlen(s.fields[i].name) + strlen(s.fields[i].value) + 32;
    assert_true(all < 8192);
}

static void every_kind_has_its_code(void **state)
{
    static const struct {
        enum err_kind kind;
        int code;
    } want[] = {
        {ERR_INVALID, 3},    {ERR_NOT_FOUND, 5},        {ERR_EXISTS, 6},         {ERR_PRECONDITION, 9},
        {ERR_PERMISSION, 7}, {ERR_UNAUTHENTICATED, 16}, {ERR_EXHAUSTED, 8},      {ERR_UNAVAILABLE, 14},
        {ERR_DEADLINE, 4},   {ERR_CANCELLED, 1},        {ERR_UNIMPLEMENTED, 12}, {ERR_INTERNAL, 13},
        {ERR_NONE, 13},      {ERR_KIND_COUNT, 13},
    };

    (void)state;
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++)
        assert_int_equal(rpc_code_of(want[i].kind), want[i].code);
}

static void timeouts_are_parsed_strictly(void **state)
{
    static const char *const bad[] = {"",    "S",          "5",   "5s",   "5 S",  "-5S",
                                      "+5S", "123456789S", "5SS", "0x5S", "5.0S", "5d"};
    static const struct {
        const char *s;
        uint64_t ns;
    } good[] = {
        {"5M", 300000000000},
        {"15S", 15000000000},
        {"306S", 306000000000},
        {"15100m", 15100000000},
        {"7u", 7000},
        {"99999999n", 99999999},
        {"0S", 0},
        {"99999999H", UINT64_MAX},
    };
    uint64_t ns;

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(rpc_timeout_parse(bad[i], &ns), -EINVAL);
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_int_equal(rpc_timeout_parse(good[i].s, &ns), 0);
        assert_true(ns == good[i].ns);
    }
}

/* ------------------------------------------------------------------- memory */

static void a_message_that_explodes_in_memory_is_refused(void **state)
{
    enum { ITEMS = 500000 };
    struct rpc_arena a;
    uint8_t *bytes = malloc(2 * ITEMS);

    (void)state;
    for (int i = 0; i < ITEMS; i++) {
        bytes[2 * i] = 0x32; /* field 6, an empty EchoItem: two bytes here, a struct there */
        bytes[2 * i + 1] = 0;
    }
    rpc_arena_init(&a, 64 << 20);
    assert_null(rpc_unpack(&a, &silica__test__echo_request__descriptor, bytes, 2 * ITEMS, false));
    assert_true(a.full);
    rpc_arena_reset(&a);
    assert_non_null(rpc_unpack(&a, &silica__test__echo_request__descriptor, bytes, 2 * 1000, false));
    rpc_arena_fini(&a);
    free(bytes);
}

static void arena_limits_hold_and_reset_starts_over(void **state)
{
    struct rpc_arena a;
    size_t n = 0;
    void *big;

    (void)state;
    rpc_arena_init(&a, 1 << 20);
    while (rpc_arena_alloc(&a, 1000) != NULL)
        n++;
    assert_true(n > 8000 && n < 8400);
    assert_true(a.full);
    rpc_arena_reset(&a);
    assert_non_null(rpc_arena_alloc(&a, 1000));
    assert_null(rpc_arena_alloc(&a, (1 << 20) + 1));
    big = rpc_arena_alloc(&a, 1 << 20);
    assert_non_null(big);
    assert_null(rpc_arena_alloc(&a, 1 << 20));
    rpc_arena_release(&a, big);
    assert_non_null(rpc_arena_alloc(&a, 1 << 20));
    rpc_arena_fini(&a);
}

static size_t pack(uint8_t *out, size_t data_len, bool twice)
{
    Silica__Test__EchoRequest req = SILICA__TEST__ECHO_REQUEST__INIT;
    uint8_t *data = malloc(data_len);
    size_t n;

    memset(data, 'd', data_len);
    req.data.data = data;
    req.data.len = data_len;
    req.count = 7;
    req.text = (char *)(uintptr_t) "text";
    n = silica__test__echo_request__pack(&req, out);
    if (twice) {
        memcpy(out + n, "\x0a\x02hi", 4);
        n += 4;
    }
    free(data);
    return n;
}

static void a_large_field_is_not_copied(void **state)
{
    uint8_t *bytes = malloc(1 << 20);
    size_t n = pack(bytes, 600000, false);
    const Silica__Test__EchoRequest *req;
    struct rpc_arena a;

    (void)state;
    rpc_arena_init(&a, 1 << 20);
    req = (const void *)rpc_unpack(&a, &silica__test__echo_request__descriptor, bytes, n, true);
    assert_non_null(req);
    assert_int_equal(req->data.len, 600000);
    assert_true(req->data.data > bytes && req->data.data < bytes + n);
    assert_int_equal(req->count, 7);
    assert_string_equal(req->text, "text");
    rpc_arena_reset(&a);

    /* Not when the bytes go away, and not when the field comes twice: the last one wins. */
    req = (const void *)rpc_unpack(&a, &silica__test__echo_request__descriptor, bytes, n, false);
    assert_non_null(req);
    assert_false(req->data.data > bytes && req->data.data < bytes + n);
    rpc_arena_reset(&a);
    n = pack(bytes, 600000, true);
    req = (const void *)rpc_unpack(&a, &silica__test__echo_request__descriptor, bytes, n, true);
    assert_non_null(req);
    assert_int_equal(req->data.len, 2);
    rpc_arena_fini(&a);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_message_above_the_limit_is_refused_before_it_comes),
        cmocka_unit_test(a_compressed_message_is_refused),
        cmocka_unit_test(all_calls_together_may_hold_so_much),
        cmocka_unit_test(messages_cut_anywhere_are_the_same),
        cmocka_unit_test(an_error_with_a_reason_has_the_details_of_the_contract),
        cmocka_unit_test(messages_are_percent_encoded_and_cut_at_a_character),
        cmocka_unit_test(the_largest_trailers_stay_below_8_kib),
        cmocka_unit_test(every_kind_has_its_code),
        cmocka_unit_test(timeouts_are_parsed_strictly),
        cmocka_unit_test(a_message_that_explodes_in_memory_is_refused),
        cmocka_unit_test(arena_limits_hold_and_reset_starts_over),
        cmocka_unit_test(a_large_field_is_not_copied),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
