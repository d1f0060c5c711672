#include "base/buf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void buf_init(struct buf *b, size_t limit)
{
    *b = (struct buf){.limit = limit};
}

void buf_fini(struct buf *b)
{
    free(b->data);
    *b = (struct buf){.limit = b->limit};
}

int buf_reserve(struct buf *b, size_t n)
{
    size_t limit = b->limit != 0 ? b->limit : BUF_LIMIT_DEFAULT;
    size_t want, cap;
    uint8_t *p;

    if (n > limit || b->len > limit - n)
        return -EMSGSIZE;
    want = b->len + n;
    if (want <= b->cap)
        return 0;

    cap = b->cap != 0 ? b->cap : 256;
    while (cap < want)
        cap *= 2;
    p = realloc(b->data, cap);
    if (p == NULL)
        return -ENOMEM;
    b->data = p;
    b->cap = cap;
    return 0;
}

int buf_append(struct buf *b, const void *data, size_t n)
{
    int r = buf_reserve(b, n);

    if (r < 0)
        return r;
    if (n > 0)
        memcpy(b->data + b->len, data, n);
    b->len += n;
    return 0;
}

int buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap;
    int n, r;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0)
        return -EINVAL;
    r = buf_reserve(b, (size_t)n + 1);
    if (r < 0)
        return r;
    va_start(ap, fmt);
    (void)vsnprintf((char *)b->data + b->len, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->len += (size_t)n;
    return 0;
}

void buf_consume(struct buf *b, size_t n)
{
    if (n >= b->len) {
        b->len = 0;
        return;
    }
    memmove(b->data, b->data + n, b->len - n);
    b->len -= n;
}

struct chunk *chunk_new(size_t cap)
{
    struct chunk *c = malloc(sizeof *c + CHUNK_HEADROOM + cap);

    if (c == NULL)
        return NULL;
    c->next = NULL;
    c->off = CHUNK_HEADROOM;
    c->len = 0;
    c->cap = cap;
    return c;
}

void chunk_free(struct chunk *c)
{
    free(c);
}
