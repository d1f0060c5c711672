#include "rpc/frame.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Reads the prefix; its claim is checked before anything is allocated for it. */
static int read_prefix(struct rpc_frame *f, const uint8_t **p, size_t *len, struct err *e)
{
    while (f->prefix_len<RPC_PREFIX && * len> 0) {
        f->prefix[f->prefix_len++] = **p;
        (*p)++;
        (*len)--;
    }
    if (f->prefix_len < RPC_PREFIX)
        return 0;
    if (f->prefix[0] == 1)
        return err_typed(e, ERR_UNIMPLEMENTED, NULL, "compression is not supported: send messages uncompressed");
    if (f->prefix[0] != 0)
        return err_typed(e, ERR_INVALID, NULL, "a gRPC message begins with the flag byte %u, which means nothing",
                         f->prefix[0]);
    f->size = (size_t)f->prefix[1] << 24 | (size_t)f->prefix[2] << 16 | (size_t)f->prefix[3] << 8 | f->prefix[4];
    if (f->size > f->max)
        return err_typed(e, ERR_EXHAUSTED, NULL, "the request message has %zu bytes; this method takes at most %zu",
                         f->size, f->max);
    return 1;
}

static int store(struct rpc_frame *f, const uint8_t **p, size_t *len, struct err *e)
{
    size_t n = f->size - f->got < *len ? f->size - f->got : *len;

    if (f->data == NULL) {
        f->data = malloc(f->size); /* not touched before bytes have come: a claim alone costs no memory */
        if (f->data == NULL)
            return err_typed(e, ERR_EXHAUSTED, NULL, "no memory for a request message of %zu bytes", f->size);
    }
    if (f->total != NULL && *f->total + n > f->total_max)
        return err_typed(e, ERR_EXHAUSTED, NULL,
                         "the server holds too many bytes of unfinished requests; try again later");
    if (f->total != NULL)
        *f->total += n;
    memcpy(f->data + f->got, *p, n);
    f->got += n;
    *p += n;
    *len -= n;
    return 0;
}

static void next(struct rpc_frame *f)
{
    f->prefix_len = 0;
    f->data = NULL;
    f->size = f->got = 0;
}

int rpc_frame_next(struct rpc_frame *f, const uint8_t **p, size_t *len, struct rpc_piece *ret, struct err *e)
{
    int r;

    if (f->prefix_len < RPC_PREFIX) {
        r = read_prefix(f, p, len, e);
        if (r <= 0)
            return r;
    }
    if (f->data == NULL && *len >= f->size) {
        *ret = (struct rpc_piece){.data = *p, .len = f->size};
        *p += f->size;
        *len -= f->size;
        next(f);
        return 1;
    }
    if (*len == 0)
        return 0;
    r = store(f, p, len, e);
    if (r < 0 || f->got < f->size)
        return r;
    *ret = (struct rpc_piece){.data = f->data, .len = f->size, .own = f->data};
    next(f);
    return 1;
}

void rpc_frame_fini(struct rpc_frame *f)
{
    if (f->total != NULL)
        *f->total -= f->got;
    free(f->data);
    next(f);
}
