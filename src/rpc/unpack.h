/* Decoding of request messages into a call's arena. */
#pragma once

#include "rpc/arena.h"

enum { RPC_GRAFT_MIN = 256 << 10 };

/* Decodes LEN bytes as DESC. STAYS: the bytes live as long as the message, so that one large bytes field of the top level
 * (a file's content) may point into them instead of being copied. NULL: malformed, or a->full. */
ProtobufCMessage *rpc_unpack(struct rpc_arena *a, const ProtobufCMessageDescriptor *desc, const uint8_t *data,
                             size_t len, bool stays);
