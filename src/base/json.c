#include "base/json.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"

static void put(struct jw *j, const void *data, size_t len)
{
    int r;

    if (j->failed < 0)
        return;
    r = buf_append(j->out, data, len);
    if (r < 0)
        j->failed = r;
}

static void before_value(struct jw *j)
{
    if (j->after_key) {
        j->after_key = false;
        return;
    }
    if (j->depth > 0 && j->comma[j->depth - 1])
        put(j, ",", 1);
    if (j->depth > 0)
        j->comma[j->depth - 1] = true;
}

static void open_level(struct jw *j, const char *mark)
{
    before_value(j);
    if (j->depth == JW_DEPTH_MAX) {
        j->failed = -EOVERFLOW;
        return;
    }
    j->comma[j->depth++] = false;
    put(j, mark, 1);
}

static void close_level(struct jw *j, const char *mark)
{
    if (j->depth == 0) {
        j->failed = -EINVAL;
        return;
    }
    j->depth--;
    put(j, mark, 1);
}

/* Bytes of the UTF-8 character at P (RFC 3629), 0 when it is not one. */
static size_t utf8_len(const unsigned char *p, size_t left)
{
    size_t n;
    uint32_t c;

    if (p[0] < 0x80)
        return 1;
    n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : p[0] >= 0xc2 ? 2 : 0;
    if (n == 0 || p[0] > 0xf4 || left < n)
        return 0;
    c = p[0] & (0xffu >> (n + 1));
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (p[i] & 0x3f);
    }
    if ((n == 3 && (c < 0x800 || (c >= 0xd800 && c < 0xe000))) || (n == 4 && (c < 0x10000 || c > 0x10ffff)))
        return 0;
    return n;
}

static void put_string(struct jw *j, const char *s, size_t len)
{
    const unsigned char *p = (const unsigned char *)s;
    size_t plain = 0;

    put(j, "\"", 1);
    for (size_t i = 0; i < len;) {
        size_t n = utf8_len(p + i, len - i);
        char esc[8];

        if (n > 0 && p[i] >= 0x20 && p[i] != '"' && p[i] != '\\' && p[i] != 0x7f) {
            i += n;
            plain += n;
            continue;
        }
        put(j, s + i - plain, plain);
        plain = 0;
        if (n == 0)
            put(j, "\xef\xbf\xbd", 3);
        else if (p[i] == '"' || p[i] == '\\')
            put(j, (char[]){'\\', (char)p[i]}, 2);
        else
            put(j, esc, (size_t)snprintf(esc, sizeof esc, "\\u%04x", p[i]));
        i++;
    }
    put(j, s + len - plain, plain);
    put(j, "\"", 1);
}

void jw_begin(struct jw *j, struct buf *out)
{
    *j = (struct jw){.out = out};
}

void jw_object(struct jw *j)
{
    open_level(j, "{");
}

void jw_object_end(struct jw *j)
{
    close_level(j, "}");
}

void jw_array(struct jw *j)
{
    open_level(j, "[");
}

void jw_array_end(struct jw *j)
{
    close_level(j, "]");
}

void jw_key(struct jw *j, const char *key)
{
    before_value(j);
    put_string(j, key, strlen(key));
    put(j, ":", 1);
    j->after_key = true;
}

void jw_mem(struct jw *j, const char *s, size_t len)
{
    before_value(j);
    put_string(j, s, len);
}

void jw_str(struct jw *j, const char *s)
{
    if (s == NULL)
        jw_null(j);
    else
        jw_mem(j, s, strlen(s));
}

static void put_word(struct jw *j, const char *word)
{
    before_value(j);
    put(j, word, strlen(word));
}

void jw_int(struct jw *j, int64_t v)
{
    char text[24];

    (void)snprintf(text, sizeof text, "%lld", (long long)v);
    put_word(j, text);
}

void jw_uint(struct jw *j, uint64_t v)
{
    char text[24];

    (void)snprintf(text, sizeof text, "%llu", (unsigned long long)v);
    put_word(j, text);
}

void jw_bool(struct jw *j, bool v)
{
    put_word(j, v ? "true" : "false");
}

void jw_null(struct jw *j)
{
    put_word(j, "null");
}

void jw_kstr(struct jw *j, const char *key, const char *s)
{
    jw_key(j, key);
    jw_str(j, s);
}

void jw_kint(struct jw *j, const char *key, int64_t v)
{
    jw_key(j, key);
    jw_int(j, v);
}

void jw_kuint(struct jw *j, const char *key, uint64_t v)
{
    jw_key(j, key);
    jw_uint(j, v);
}

void jw_kbool(struct jw *j, const char *key, bool v)
{
    jw_key(j, key);
    jw_bool(j, v);
}

void jw_ktime(struct jw *j, const char *key, uint64_t ns)
{
    time_t sec = (time_t)(ns / NSEC_PER_SEC);
    char day[32], text[48];
    struct tm tm;

    jw_key(j, key);
    if (ns == 0) {
        jw_null(j);
        return;
    }
    (void)gmtime_r(&sec, &tm);
    (void)strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &tm);
    (void)snprintf(text, sizeof text, "%s.%06uZ", day, (unsigned)(ns % NSEC_PER_SEC / 1000));
    jw_str(j, text);
}

int jw_end(struct jw *j)
{
    if (j->failed == 0 && j->depth != 0)
        j->failed = -EINVAL;
    if (j->failed == 0 && buf_reserve(j->out, 1) == 0)
        j->out->data[j->out->len] = '\0';
    return j->failed;
}
