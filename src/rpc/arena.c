#include "rpc/arena.h"

#include <stdalign.h>
#include <stdlib.h>

enum { BLOCK_FIRST = 2048, BLOCK_MAX = 64 << 10, ALIGN = 16 };

struct rpc_block {
    struct rpc_block *next;
    size_t used, cap;
    alignas(ALIGN) uint8_t data[];
};

void rpc_arena_init(struct rpc_arena *a, size_t large_max)
{
    *a = (struct rpc_arena){.large_max = large_max};
}

static void free_list(struct rpc_block *b)
{
    while (b != NULL) {
        struct rpc_block *next = b->next;

        free(b);
        b = next;
    }
}

void rpc_arena_reset(struct rpc_arena *a)
{
    struct rpc_block *b = a->blocks;

    /* One small block is kept: a stream of messages then allocates nothing. */
    if (b != NULL && b->next == NULL && b->cap <= BLOCK_FIRST) {
        b->used = 0;
    } else {
        free_list(b);
        a->blocks = NULL;
    }
    free_list(a->large);
    a->large = NULL;
    a->small = a->large_bytes = 0;
    a->full = false;
}

void rpc_arena_fini(struct rpc_arena *a)
{
    rpc_arena_reset(a);
    free_list(a->blocks);
    a->blocks = NULL;
}

static void *alloc_large(struct rpc_arena *a, size_t n)
{
    struct rpc_block *b;

    if (n > a->large_max || a->large_bytes > a->large_max - n)
        return NULL;
    b = malloc(sizeof *b + n);
    if (b == NULL)
        return NULL;
    b->cap = n;
    b->used = n;
    b->next = a->large;
    a->large = b;
    a->large_bytes += n;
    return b->data;
}

static void *alloc_small(struct rpc_arena *a, size_t n)
{
    struct rpc_block *b = a->blocks;

    n = (n + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    if (a->small + n > RPC_ARENA_SMALL_MAX)
        return NULL;
    if (b == NULL || b->cap - b->used < n) {
        size_t cap = b == NULL ? BLOCK_FIRST : b->cap < BLOCK_MAX ? 2 * b->cap : BLOCK_MAX;

        if (cap < n)
            cap = n;
        b = malloc(sizeof *b + cap);
        if (b == NULL)
            return NULL;
        b->cap = cap;
        b->used = 0;
        b->next = a->blocks;
        a->blocks = b;
    }
    b->used += n;
    a->small += n;
    return b->data + b->used - n;
}

void *rpc_arena_alloc(struct rpc_arena *a, size_t n)
{
    void *p = n >= RPC_ARENA_LARGE ? alloc_large(a, n) : alloc_small(a, n > 0 ? n : 1);

    if (p == NULL)
        a->full = true;
    return p;
}

void rpc_arena_release(struct rpc_arena *a, void *p)
{
    struct rpc_block **at = &a->large;

    while (*at != NULL && (void *)(*at)->data != p)
        at = &(*at)->next;
    if (*at != NULL) {
        struct rpc_block *b = *at;

        *at = b->next;
        a->large_bytes -= b->cap;
        free(b);
    }
}

static void *pb_alloc(void *arg, size_t n)
{
    return rpc_arena_alloc(arg, n);
}

static void pb_free(void *arg, void *p)
{
    if (p != NULL)
        rpc_arena_release(arg, p);
}

ProtobufCAllocator rpc_arena_allocator(struct rpc_arena *a)
{
    return (ProtobufCAllocator){.alloc = pb_alloc, .free = pb_free, .allocator_data = a};
}
