#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "net/h1-chunked.h"

static char body[65536];
static size_t body_len, left;

/* Decodes N bytes of S, STEP at a time; returns the last result, 0 when more is awaited. */
static int decode(const char *s, size_t n, size_t step)
{
    struct h1_chunked d = {0};
    size_t at = 0;

    body_len = 0;
    while (at < n) {
        const uint8_t *p = (const uint8_t *)s + at, *piece;
        size_t len = n - at < step ? n - at : step, all = len, piece_len;
        int r;

        while ((r = h1_chunked_next(&d, &p, &len, &piece, &piece_len)) == 1) {
            memcpy(body + body_len, piece, piece_len);
            body_len += piece_len;
        }
        at += all - len;
        left = n - at;
        if (r != 0)
            return r;
    }
    return 0;
}

static void malformed_bodies_are_refused(void **state)
{
    static const char *const cases[] = {
        "\r\n",
        "g\r\n",
        "1\n",
        "1\rx",
        "-1\r\n",
        "0x1\r\n",
        " 1\r\n",
        "1 \r\n",
        "1\r\nab",
        "1\r\na\n",
        "1\r\na\rb",
        "1;a\n",
        "1;a\x01\r\n",
        "0\r\nno colon\r\n",
        "0\r\n: v\r\n",
        "0\r\na b: c\r\n",
        "0\r\na: \x01\r\n",
        "0\r\na\n",
        "0\r\n\n",
        "1;\r\r\n",
        "fffffffffffffffff\r\n",
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (size_t step = 1; step < 4; step++) {
            if (decode(cases[i], strlen(cases[i]), step) != -EBADMSG)
                fail_msg("accepted: %s", cases[i]);
        }
    }
}

static void extensions_and_trailers_are_limited(void **state)
{
    static char s[2 * H1_CHUNK_TRAILER_MAX];

    (void)state;
    memset(s, 'x', sizeof s);
    memcpy(s, "1;", 2);
    assert_int_equal(decode(s, H1_CHUNK_EXT_MAX + 2, 100), 0);
    assert_int_equal(decode(s, H1_CHUNK_EXT_MAX + 3, 100), -EBADMSG);
    memcpy(s, "0\r\na:", 5);
    assert_int_equal(decode(s, H1_CHUNK_TRAILER_MAX + 3, 100), 0);
    assert_int_equal(decode(s, H1_CHUNK_TRAILER_MAX + 4, 100), -EBADMSG);
}

static void a_body_cut_anywhere_is_the_same(void **state)
{
    static const char s[] = "5\r\nhello\r\n001;ext=\"x\"\r\n \r\nA\r\n0123456789\r\n0\r\nTrailer: v\r\nB:\r\n\r\nnext";

    (void)state;
    for (size_t step = 1; step < sizeof s; step++) {
        assert_int_equal(decode(s, sizeof s - 1, step), 2);
        assert_int_equal(body_len, 16);
        assert_memory_equal(body, "hello 0123456789", 16);
        assert_int_equal(left, 4);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(malformed_bodies_are_refused),
        cmocka_unit_test(extensions_and_trailers_are_limited),
        cmocka_unit_test(a_body_cut_anywhere_is_the_same),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
