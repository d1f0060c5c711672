/* A strict decoder for chunked bodies (RFC 9112 section 7.1). */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum {
    H1_CHUNK_EXT_MAX = 1024,     /* bytes of chunk extensions in one body; they are skipped */
    H1_CHUNK_TRAILER_MAX = 8192, /* bytes of trailer fields; they are checked and skipped */
};

/* A zeroed struct is a decoder at the beginning of a body. */
struct h1_chunked {
    unsigned state;
    unsigned digits;
    uint64_t left; /* bytes of the current chunk still to come */
    size_t ext, trailer;
    size_t line; /* bytes of the current trailer line */
    int colon;
};

/* Takes bytes from *P (*LEN), which move on. Returns 1 with the next piece of the body in *RET, 2 at the end of the body
 * (what follows is left in *P), 0 when all bytes were used, -EBADMSG. */
int h1_chunked_next(struct h1_chunked *d, const uint8_t **p, size_t *len, const uint8_t **ret, size_t *ret_len);
