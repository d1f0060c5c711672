/* The output queue against a plain buffer, with random pieces and random writes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "net/outq.h"
#include "net/text.h"

enum { ALL = 1 << 20 };

static uint8_t want[ALL], got[ALL];
static size_t want_len, got_len;

static void put_random(struct outq *q, unsigned *seed)
{
    size_t n = (size_t)rand_r(seed) % 700;
    struct chunk *c;

    for (size_t i = 0; i < n; i++)
        want[want_len + i] = (uint8_t)rand_r(seed);
    if (rand_r(seed) % 3 != 0) {
        assert_int_equal(outq_copy(q, want + want_len, n), 0);
    } else {
        /* In two segments, the second of which owns the chunk. */
        size_t first = n / 3;

        c = chunk_new(n);
        memcpy(c->data + c->off, want + want_len, n);
        c->len = n;
        assert_int_equal(outq_ref(q, c->data + c->off, first, NULL), 0);
        assert_int_equal(outq_copy(q, "", 0), 0);
        assert_int_equal(outq_ref(q, c->data + c->off + first, n - first, c), 0);
    }
    want_len += n;
}

static void take_random(struct outq *q, unsigned *seed)
{
    struct iovec iov[8];
    unsigned count = outq_iov(q, iov, 8);
    size_t all = 0, n;

    for (unsigned i = 0; i < count; i++)
        all += iov[i].iov_len;
    n = all == 0 ? 0 : (size_t)rand_r(seed) % (all + 1);
    for (size_t i = 0, left = n; left > 0; i++) {
        size_t k = left < iov[i].iov_len ? left : iov[i].iov_len;

        memcpy(got + got_len, iov[i].iov_base, k);
        got_len += k;
        left -= k;
    }
    outq_consume(q, n);
}

static void bytes_come_out_as_they_went_in(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 20; round++) {
        struct outq q = {0};
        unsigned seed = round;

        want_len = got_len = 0;
        for (int i = 0; i < 500; i++) {
            if (want_len < ALL - 1000)
                put_random(&q, &seed);
            if (rand_r(&seed) % 2 == 0)
                take_random(&q, &seed);
            assert_int_equal(q.bytes, want_len - got_len);
        }
        if (round % 2 == 0) {
            while (q.bytes > 0)
                take_random(&q, &seed);
            assert_int_equal(want_len, got_len);
        }
        assert_memory_equal(want, got, got_len);
        outq_fini(&q); /* half of the rounds leave bytes: the leak checker watches */
    }
}

static void broken_text_becomes_valid_text(void **state)
{
    char out[8];

    (void)state;
    assert_int_equal(utf8_clean(out, sizeof out, "a\xff\xc3+"), 4);
    assert_string_equal(out, "a??+");
    assert_int_equal(utf8_clean(out, sizeof out, "abcdef\xc3\xa4"), 6); /* the last character does not fit whole */
    assert_string_equal(out, "abcdef");
    assert_int_equal(utf8_clean(out, sizeof out, "\xed\xa0\x80"), 3); /* a surrogate */
    assert_string_equal(out, "???");
    assert_int_equal(utf8_clean(out, sizeof out, "\xf4\x90\x80\x80"), 4); /* above U+10FFFF */
    assert_int_equal(utf8_clean(out, sizeof out, "\xc0\x80"), 2);         /* overlong */
    assert_int_equal(utf8_clean(out, sizeof out, "\xe2\x82"), 2);         /* cut */
}

static void query_escapes_are_decoded_or_refused(void **state)
{
    char out[8];

    (void)state;
    assert_true(query_decode("%", 1, out, sizeof out) < 0);
    assert_true(query_decode("%4", 2, out, sizeof out) < 0);
    assert_true(query_decode("%zz", 3, out, sizeof out) < 0);
    assert_true(query_decode("%00", 3, out, sizeof out) < 0);
    assert_true(query_decode("12345678", 8, out, sizeof out) < 0);
    assert_int_equal(query_decode("a+%41%2b", 8, out, sizeof out), 4);
    assert_string_equal(out, "a A+");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_come_out_as_they_went_in),
        cmocka_unit_test(broken_text_becomes_valid_text),
        cmocka_unit_test(query_escapes_are_decoded_or_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
