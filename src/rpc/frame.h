/* Reassembly of gRPC messages: a flag byte, a 32-bit length, the message; cut anywhere into DATA frames. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum { RPC_PREFIX = 5 };

struct rpc_frame {
    size_t max;               /* largest message */
    size_t *total, total_max; /* bytes held here and by other streams together; TOTAL may be NULL */
    uint8_t prefix[RPC_PREFIX];
    unsigned prefix_len;
    uint8_t *data; /* a message that came in pieces */
    size_t size, got;
};

struct rpc_piece {
    const uint8_t *data;
    size_t len;
    uint8_t *own; /* not NULL: DATA is this allocation, now the caller's to free, with LEN to take off *total */
};

/* Takes bytes from *P (*LEN), which move on. Returns 1 with the next message in *RET, 0 when all bytes were used, or a negative value
 * with E filled. Without OWN the message lies within the caller's bytes. */
int rpc_frame_next(struct rpc_frame *f, const uint8_t **p, size_t *len, struct rpc_piece *ret, struct err *e);
/* Frees a part of a message. */
void rpc_frame_fini(struct rpc_frame *f);
