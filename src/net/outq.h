/* What waits for a socket: a queue of segments that point into chunks, written by one writev.
 *
 * Payload is never copied: a chunk that is cut into several frames is referred to by several segments, and the last of
 * them owns it. Small things (frame headers, heads, short payloads) are gathered in copy chunks of the queue. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/buf.h"

struct outq_seg {
    const uint8_t *data;
    size_t len;
    struct chunk *own; /* freed when this segment has been written; NULL when a later one owns the bytes */
};

struct outq {
    struct outq_seg *segs; /* a ring; CAP is a power of two or 0 */
    size_t head, count, cap;
    size_t bytes;
    struct chunk *copy; /* the newest copy chunk with room; owned by the segment COPY_SEQ */
    uint64_t copy_seq, head_seq;
};

/* A zeroed struct outq is empty. */
void outq_fini(struct outq *q);
/* Appends a copy of N bytes. 0 or -ENOMEM. */
int outq_copy(struct outq *q, const void *data, size_t n);
/* Appends a reference; takes OWN on success only. LEN may be 0 to hand over a chunk that earlier segments refer to. */
int outq_ref(struct outq *q, const uint8_t *data, size_t len, struct chunk *own);
/* Fills at most MAX vectors from the front; returns how many. */
unsigned outq_iov(const struct outq *q, struct iovec *iov, unsigned max);
/* Drops N written bytes from the front. */
void outq_consume(struct outq *q, size_t n);
