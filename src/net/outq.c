#include "net/outq.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    COPY_CHUNK = 4096 - sizeof(struct chunk) - CHUNK_HEADROOM - 16, /* one page with the allocator's header */
    RING_MIN = 16,
    RING_KEEP = 64, /* an empty queue gives larger rings back */
};

static struct outq_seg *seg_at(const struct outq *q, size_t i)
{
    return &q->segs[(q->head + i) & (q->cap - 1)];
}

static int ring_grow(struct outq *q)
{
    size_t cap = q->cap != 0 ? q->cap * 2 : RING_MIN;
    struct outq_seg *segs = malloc(cap * sizeof *segs);

    if (segs == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < q->count; i++)
        segs[i] = *seg_at(q, i);
    free(q->segs);
    q->segs = segs;
    q->cap = cap;
    q->head = 0;
    return 0;
}

static int seg_push(struct outq *q, const uint8_t *data, size_t len, struct chunk *own)
{
    if (q->count == q->cap) {
        int r = ring_grow(q);

        if (r < 0)
            return r;
    }
    *seg_at(q, q->count++) = (struct outq_seg){.data = data, .len = len, .own = own};
    q->bytes += len;
    return 0;
}

static void seg_pop(struct outq *q)
{
    struct outq_seg *s = seg_at(q, 0);

    if (s->own != NULL) {
        if (s->own == q->copy)
            q->copy = NULL;
        chunk_free(s->own);
    }
    q->head = (q->head + 1) & (q->cap - 1);
    q->head_seq++;
    q->count--;
}

void outq_fini(struct outq *q)
{
    while (q->count > 0)
        seg_pop(q);
    free(q->segs);
    *q = (struct outq){0};
}

/* Appends up to the room left in the copy chunk. */
static int copy_some(struct outq *q, const uint8_t *data, size_t n)
{
    struct chunk *c = q->copy;
    uint64_t last = q->head_seq + q->count - 1;
    uint8_t *at = c->data + c->off + c->len;

    memcpy(at, data, n);
    c->len += n;
    if (q->copy_seq == last) {
        seg_at(q, q->count - 1)->len += n;
        q->bytes += n;
        return 0;
    }
    if (seg_push(q, at, n, c) < 0) {
        c->len -= n;
        return -ENOMEM;
    }
    seg_at(q, (size_t)(q->copy_seq - q->head_seq))->own = NULL;
    q->copy_seq = last + 1;
    return 0;
}

int outq_copy(struct outq *q, const void *data, size_t n)
{
    const uint8_t *p = data;

    while (n > 0) {
        struct chunk *c = q->copy;
        size_t room = c != NULL ? c->cap - c->len : 0, k;

        if (room == 0) {
            c = chunk_new(COPY_CHUNK);
            if (c == NULL)
                return -ENOMEM;
            if (seg_push(q, c->data + c->off, 0, c) < 0) {
                chunk_free(c);
                return -ENOMEM;
            }
            q->copy = c;
            q->copy_seq = q->head_seq + q->count - 1;
            room = c->cap;
        }
        k = n < room ? n : room;
        if (copy_some(q, p, k) < 0)
            return -ENOMEM;
        p += k;
        n -= k;
    }
    return 0;
}

int outq_ref(struct outq *q, const uint8_t *data, size_t len, struct chunk *own)
{
    if (q->count == 0 && len == 0) {
        chunk_free(own); /* nothing refers to it any more */
        return 0;
    }
    return seg_push(q, data, len, own);
}

unsigned outq_iov(const struct outq *q, struct iovec *iov, unsigned max)
{
    unsigned n = 0;

    for (size_t i = 0; i < q->count && n < max; i++) {
        const struct outq_seg *s = seg_at(q, i);

        if (s->len > 0)
            iov[n++] = (struct iovec){.iov_base = (void *)(uintptr_t)s->data, .iov_len = s->len};
    }
    return n;
}

void outq_consume(struct outq *q, size_t n)
{
    q->bytes -= n;
    while (q->count > 0) {
        struct outq_seg *s = seg_at(q, 0);

        if (n < s->len) {
            s->data += n;
            s->len -= n;
            return;
        }
        n -= s->len;
        seg_pop(q);
    }
    if (q->cap > RING_KEEP) {
        free(q->segs);
        q->segs = NULL;
        q->cap = q->head = 0;
    }
}
