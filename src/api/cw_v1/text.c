/* Text of a request: checked before anything else looks at it.
 *
 * protobuf-c hands over bytes. Here they become C strings: valid UTF-8 (RFC 3629), no NUL, bounded. Errors name the
 * field, and quote hostile text so that it fits on a line of a log or a terminal. */
#include "api/cw_v1/cw-internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/env.h"

enum { QUOTE_SHOWN = 56 };

const char *cw_quote(char out[CW_QUOTE_MAX], const CwBytes *b)
{
    size_t n = 0;

    for (size_t i = 0; i < b->len && i < QUOTE_SHOWN; i++) {
        unsigned char ch = b->data[i];

        if (ch >= 0x20 && ch < 0x7f && ch != '\'' && ch != '\\')
            out[n++] = (char)ch;
        else
            n += (size_t)snprintf(out + n, CW_QUOTE_MAX - n, "\\x%02x", ch);
    }
    (void)snprintf(out + n, CW_QUOTE_MAX - n, "%s", b->len > QUOTE_SHOWN ? "..." : "");
    return out;
}

bool cw_is(const CwBytes *b, const char *text)
{
    return b->len == strlen(text) && (b->len == 0 || memcmp(b->data, text, b->len) == 0);
}

int cw_invalid(struct err *e, const char *field, const char *fmt, ...)
{
    char text[ERR_MSG_MAX];
    va_list ap;
    int r;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    r = err_typed(e, ERR_INVALID, NULL, "%s: %s", field, text);
    err_meta(e, "field", field);
    return r;
}

int cw_unbuilt(struct err *e, const char *field, const char *fmt, ...)
{
    char text[ERR_MSG_MAX];
    va_list ap;
    int r;

    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    r = err_typed(e, ERR_UNIMPLEMENTED, "NOT_IMPLEMENTED", "%s: %s", field, text);
    err_meta(e, "field", field);
    return r;
}

/* Length of the character at P, 0 when there is none (RFC 3629: no overlong forms, no surrogates, up to U+10FFFF). */
static size_t utf8_char(const uint8_t *p, size_t left)
{
    uint8_t c = p[0], low = 0x80, high = 0xbf;
    size_t n = c < 0x80 ? 1 : c >= 0xc2 && c <= 0xdf ? 2 : (c & 0xf0) == 0xe0 ? 3 : c >= 0xf0 && c <= 0xf4 ? 4 : 0;

    if (n == 0 || n > left)
        return 0;
    if (c == 0xe0)
        low = 0xa0;
    if (c == 0xed)
        high = 0x9f;
    if (c == 0xf0)
        low = 0x90;
    if (c == 0xf4)
        high = 0x8f;
    for (size_t i = 1; i < n; i++, low = 0x80, high = 0xbf) {
        if (p[i] < low || p[i] > high)
            return 0;
    }
    return n;
}

int cw_text_check(const CwBytes *b, size_t max, const char *field, struct err *e)
{
    char q[CW_QUOTE_MAX];

    if (b->len > max)
        return cw_invalid(e, field, "%zu bytes long, the limit is %zu", b->len, max);
    for (size_t i = 0; i < b->len;) {
        size_t n = utf8_char(b->data + i, b->len - i);

        if (n == 0)
            return cw_invalid(e, field, "'%s' is not valid UTF-8", cw_quote(q, b));
        if (b->data[i] == '\0')
            return cw_invalid(e, field, "'%s' contains a NUL byte", cw_quote(q, b));
        i += n;
    }
    return 0;
}

bool cw_is_utf8(const char *text)
{
    const uint8_t *p = (const uint8_t *)text;
    size_t n;

    for (size_t left = strlen(text); left > 0; p += n, left -= n) {
        n = utf8_char(p, left);
        if (n == 0)
            return false;
    }
    return true;
}

int cw_alloc(struct rpc_call *c, size_t count, size_t size, void **ret, struct err *e)
{
    void *p = NULL;
    size_t bytes;

    if (!__builtin_mul_overflow(count, size, &bytes))
        p = rpc_alloc(c, bytes > 0 ? bytes : 1);
    if (p == NULL)
        return err_typed(e, ERR_EXHAUSTED, NULL, "not enough memory for the request");
    memset(p, 0, bytes);
    *ret = p;
    return 0;
}

int cw_text(struct rpc_call *c, const CwBytes *b, size_t max, const char *field, const char **ret, struct err *e)
{
    void *copy = NULL;
    int r = cw_text_check(b, max, field, e);

    if (r == 0)
        r = cw_alloc(c, b->len + 1, 1, &copy, e);
    if (r < 0)
        return r;
    if (b->len > 0)
        memcpy(copy, b->data, b->len);
    *ret = copy;
    return 0;
}

int cw_texts(struct rpc_call *c, const CwBytes *b, size_t count, size_t count_max, size_t max, const char *field,
             const char *const **ret, struct err *e)
{
    void *mem = NULL;
    const char **texts;
    int r;

    if (count == 0)
        return 0;
    if (count > count_max)
        return cw_invalid(e, field, "%zu entries, the limit is %zu", count, count_max);
    r = cw_alloc(c, count + 1, sizeof *texts, &mem, e);
    texts = mem;
    for (size_t i = 0; r == 0 && i < count; i++)
        r = cw_text(c, &b[i], max, field, &texts[i], e);
    if (r < 0)
        return r;
    *ret = texts;
    return 0;
}

int cw_sandbox_id(struct rpc_call *c, const CwBytes *b, const char **ret, struct err *e)
{
    char q[CW_QUOTE_MAX];

    if (b->len == 0)
        return cw_invalid(e, "sandbox_id", "missing");
    for (size_t i = 0; i < b->len && i <= CW_ID_MAX; i++) {
        uint8_t ch = b->data[i];
        bool plain = (ch >= '0' && ch <= '9') || (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || ch == '-' ||
                     ch == '_' || ch == '.';

        if (!plain || i == CW_ID_MAX)
            return err_typed(e, ERR_NOT_FOUND, "SANDBOX_NOT_FOUND", "there is no sandbox '%s'", cw_quote(q, b));
    }
    return cw_text(c, b, CW_ID_MAX, "sandbox_id", ret, e);
}

int cw_path(struct rpc_call *c, const CwBytes *b, const char *field, const char **ret, struct err *e)
{
    char q[CW_QUOTE_MAX];

    if (b->len == 0)
        return cw_invalid(e, field, "missing");
    if (b->data[0] != '/')
        return cw_invalid(e, field, "'%s' is not an absolute path", cw_quote(q, b));
    return cw_text(c, b, CW_PATH_MAX, field, ret, e);
}

int cw_env(struct rpc_call *c, CwStringEntry *const *entries, size_t count, const char *field, struct env_item **ret,
           struct err *e)
{
    struct env_item *items;
    void *mem = NULL;
    int r;

    if (count == 0)
        return 0;
    if (count > ENV_COUNT_MAX)
        return cw_invalid(e, field, "%zu variables, the limit is %d", count, ENV_COUNT_MAX);
    r = cw_alloc(c, count, sizeof *items, &mem, e);
    if (r < 0)
        return r;
    items = mem;
    for (size_t i = 0; i < count; i++) {
        items[i] = (struct env_item){
            .name = (const char *)entries[i]->key.data,
            .name_len = entries[i]->key.len,
            .value = (const char *)entries[i]->value.data,
            .value_len = entries[i]->value.len,
            .op = ENV_SET,
        };
    }
    *ret = items;
    return 0;
}

int cw_container_check(struct rpc_call *c, const char *sandbox, const CwBytes *container, struct err *e)
{
    struct box_info info;
    struct cw_view v;
    char q[CW_QUOTE_MAX];
    bool same;
    int r;

    if (container->len == 0)
        return 0;
    r = engine_box_get(cw_of(c)->engine, cw_tenant(c), sandbox, &info, e);
    if (r < 0)
        return r;
    if (cw_view_init(&v, &info) < 0)
        return err_set(e, ENOMEM, "read the record of sandbox %s: %m", sandbox);
    same =
        container->len == v.container.name.len && memcmp(container->data, v.container.name.data, container->len) == 0;
    cw_view_fini(&v);
    if (!same)
        return cw_invalid(e, "container", "sandbox %s has no container '%s'", sandbox, cw_quote(q, container));
    return 0;
}
