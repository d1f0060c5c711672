/* Memory of one call: allocated piece by piece, freed at once.
 *
 * Small pieces are cut from blocks and count against SMALL_MAX: decoding can need many times the bytes of a message (an
 * empty sub-message is two bytes on the wire and a struct in memory). Large pieces are single allocations under LARGE_MAX. */
#pragma once

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    RPC_ARENA_SMALL_MAX = 8 << 20,
    RPC_ARENA_LARGE = 32 << 10, /* from here on a piece is an allocation of its own */
};

struct rpc_block;

struct rpc_arena {
    struct rpc_block *blocks, *large;
    size_t small, large_bytes, large_max;
    bool full; /* a limit was hit, or memory was short */
};

void rpc_arena_init(struct rpc_arena *a, size_t large_max);
/* Frees all pieces; the arena can be used again. */
void rpc_arena_reset(struct rpc_arena *a);
/* As reset, and gives the first block back too. */
void rpc_arena_fini(struct rpc_arena *a);
/* NULL above a limit or when memory is short. */
void *rpc_arena_alloc(struct rpc_arena *a, size_t n);
/* Gives back a large piece early; small ones stay until reset. */
void rpc_arena_release(struct rpc_arena *a, void *p);
/* An allocator over A for protobuf-c; it points to A. */
ProtobufCAllocator rpc_arena_allocator(struct rpc_arena *a);
