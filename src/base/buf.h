/* A growable byte buffer with a limit, and reference-free chunks that travel between layers.
 *
 * A buf keeps LEN bytes at DATA; it never holds more than LIMIT (0 = BUF_LIMIT_DEFAULT). Thread: one at a time. */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum { BUF_LIMIT_DEFAULT = 128 << 20 };

struct buf {
    uint8_t *data;
    size_t len, cap, limit;
};

/* A zeroed struct buf is valid and empty. */
void buf_init(struct buf *b, size_t limit);
void buf_fini(struct buf *b);
/* Makes room for N more bytes at data + len. 0, -ENOMEM, or -EMSGSIZE above the limit. */
int buf_reserve(struct buf *b, size_t n);
int buf_append(struct buf *b, const void *data, size_t n);
int buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Drops the first N bytes (N <= len). */
void buf_consume(struct buf *b, size_t n);

/* A piece of output on its way to a client: whoever holds it owns it. Bytes are data[off .. off+len); a codec may
 * write its framing into the headroom in front. */
struct chunk {
    struct chunk *next;
    size_t off, len, cap;
    uint8_t data[];
};

enum { CHUNK_HEADROOM = 32 };

/* A chunk with room for CAP bytes behind CHUNK_HEADROOM bytes of headroom (off = CHUNK_HEADROOM, len = 0). NULL when
 * memory is short. */
struct chunk *chunk_new(size_t cap);
void chunk_free(struct chunk *c);
