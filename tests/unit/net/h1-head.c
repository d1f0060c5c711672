/* The strict HTTP/1.1 head parser: what it must refuse, then what it must understand. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "net/h1-head.h"

#define OK "Host: a\r\n\r\n"

static struct http_field fields[16];
static struct h1_head head;
static char text[4096];

/* Scans and parses S (N bytes); 0 or the status it is refused with. */
static unsigned parse_n(const char *s, size_t n)
{
    struct h1_scan scan = {0};
    const char *why;
    ssize_t len = h1_scan(&scan, (const uint8_t *)s, n);

    if (len < 0)
        return 400;
    assert_true(len > 0);
    memcpy(text, s, (size_t)len);
    return h1_head_parse(text, (size_t)len, fields, 16, &head, &why);
}

static unsigned parse(const char *s)
{
    return parse_n(s, strlen(s));
}

static void malformed_heads_are_refused(void **state)
{
    static const struct {
        const char *head;
        unsigned status;
    } cases[] = {
        {"GET / HTTP/1.1\nHost: a\n\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\n b: folded\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\n: empty\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nno-colon\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nna\tme: x\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nn(me: x\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nx: \x01\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nx: \x7f\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400},
        {"GET /\r\n" OK, 400},
        {"GET  / HTTP/1.1\r\n" OK, 400},
        {"GET / HTTP/1.1 \r\n" OK, 400},
        {" GET / HTTP/1.1\r\n" OK, 400},
        {"G(T / HTTP/1.1\r\n" OK, 400},
        {"ABCDEFGHIJKLMNOPQRSTUVWXYZ / HTTP/1.1\r\n" OK, 400},
        {"GET a HTTP/1.1\r\n" OK, 400},
        {"GET /a#b HTTP/1.1\r\n" OK, 400},
        {"GET /a\xc3\xa4 HTTP/1.1\r\n" OK, 400},
        {"GET * HTTP/1.1\r\n" OK, 400},
        {"GET http:// HTTP/1.1\r\n" OK, 400},
        {"GET http://u@h/ HTTP/1.1\r\n" OK, 400},
        {"GET ftp://h/ HTTP/1.1\r\n" OK, 400},
        {"GET / http/1.1\r\n" OK, 400},
        {"GET / HTTP/1.10\r\n" OK, 400},
        {"GET / HTTP/1.2\r\n" OK, 505},
        {"GET / HTTP/2.0\r\n" OK, 505},
        {"CONNECT a:1 HTTP/1.1\r\n" OK, 501},
        {"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n" OK, 400},
        {"POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n" OK, 400},
        {"POST / HTTP/1.1\r\nContent-Length: +1\r\n" OK, 400},
        {"POST / HTTP/1.1\r\nContent-Length: -1\r\n" OK, 400},
        {"POST / HTTP/1.1\r\nContent-Length: 0x1\r\n" OK, 400},
        {"POST / HTTP/1.1\r\nContent-Length:\r\n" OK, 400},
        {"POST / HTTP/1.1\r\nContent-Length: 9999999999999999999\r\n" OK, 400},
        {"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n" OK, 400},
        {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n" OK, 400},
        {"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n" OK, 501},
        {"POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n" OK, 501},
        {"POST / HTTP/1.1\r\nTransfer-Encoding:\r\n" OK, 501},
        {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n" OK, 400},
        {"POST / HTTP/1.1\r\nExpect: tea\r\n" OK, 417},
        {"GET / "
         "HTTP/"
         "1.1\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\n" OK,
         431},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        unsigned status = parse(cases[i].head);

        if (status != cases[i].status)
            fail_msg("%u instead of %u for: %s", status, cases[i].status, cases[i].head);
    }
    assert_int_equal(parse_n("GET /\0 HTTP/1.1\r\n" OK, 17 + sizeof OK), 400);
}

static void a_head_cut_anywhere_is_waited_for(void **state)
{
    static const char s[] = "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
    struct h1_scan scan = {0};

    (void)state;
    for (size_t n = 0; n < sizeof s - 5; n++)
        assert_int_equal(h1_scan(&scan, (const uint8_t *)s, n), 0);
    assert_int_equal(h1_scan(&scan, (const uint8_t *)s, sizeof s - 1), sizeof s - 5);
}

static void an_ordinary_head_is_understood(void **state)
{
    (void)state;
    assert_int_equal(parse("POST /a/b?c=d&e HTTP/1.1\r\nHOST: Ex.org:80\r\nX-Y:  v w \t\r\nContent-Length: 12\r\n"
                           "Expect: 100-Continue\r\n\r\n"),
                     0);
    assert_string_equal(head.method, "POST");
    assert_string_equal(head.path, "/a/b");
    assert_string_equal(head.query, "c=d&e");
    assert_int_equal(head.field_count, 4);
    assert_string_equal(fields[0].name, "host");
    assert_string_equal(fields[0].value, "Ex.org:80");
    assert_string_equal(fields[1].name, "x-y");
    assert_string_equal(fields[1].value, "v w");
    assert_int_equal(head.length, 12);
    assert_true(head.expect_continue);
    assert_true(head.keep_alive);
    assert_int_equal(head.minor, 1);
}

static void chunked_and_close_are_understood(void **state)
{
    (void)state;
    assert_int_equal(parse("POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\nConnection: te, Close\r\n" OK), 0);
    assert_int_equal(head.length, -1);
    assert_false(head.keep_alive);
    assert_int_equal(parse("GET / HTTP/1.0\r\n\r\n"), 0);
    assert_false(head.keep_alive);
    assert_int_equal(head.minor, 0);
    assert_int_equal(parse("OPTIONS * HTTP/1.1\r\n" OK), 0);
    assert_string_equal(head.path, "*");
}

static void an_absolute_target_names_the_host(void **state)
{
    (void)state;
    assert_int_equal(parse("GET http://real.org:8/p?q HTTP/1.1\r\nHost: other\r\n\r\n"), 0);
    assert_string_equal(head.path, "/p");
    assert_string_equal(head.query, "q");
    assert_string_equal(fields[0].value, "real.org:8");
    assert_int_equal(parse("GET http://real.org?q HTTP/1.1\r\nHost: other\r\n\r\n"), 0);
    assert_string_equal(head.path, "/");
    assert_string_equal(head.query, "q");
    assert_string_equal(fields[0].value, "real.org");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(malformed_heads_are_refused),       cmocka_unit_test(a_head_cut_anywhere_is_waited_for),
        cmocka_unit_test(an_ordinary_head_is_understood),    cmocka_unit_test(chunked_and_close_are_understood),
        cmocka_unit_test(an_absolute_target_names_the_host),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
