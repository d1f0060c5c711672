/* deps: rpc echo_pb */
/* gRPC reassembly and decoding: the cuts must not matter, and a grafted field must equal a copied one. */
#include <stdlib.h>
#include <string.h>

#include "echo.pb-c.h"
#include "rpc/arena.h"
#include "rpc/frame.h"
#include "rpc/status.h"
#include "rpc/unpack.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX = 1 << 20 };

/* Decodes BODY both ways; DATA is grown to where grafting begins. */
static void decode(const uint8_t *body, size_t len)
{
    const ProtobufCMessageDescriptor *desc = &silica__test__echo_request__descriptor;
    Silica__Test__EchoRequest *a, *b;
    struct rpc_arena x, y;

    rpc_arena_init(&x, MAX + RPC_ARENA_SMALL_MAX);
    rpc_arena_init(&y, MAX + RPC_ARENA_SMALL_MAX);
    a = (void *)rpc_unpack(&x, desc, body, len, true);
    b = (void *)rpc_unpack(&y, desc, body, len, false);
    if ((a == NULL) != (b == NULL) && !x.full && !y.full)
        abort();
    if (a != NULL && b != NULL &&
        (a->data.len != b->data.len || (a->data.len > 0 && memcmp(a->data.data, b->data.data, a->data.len) != 0) ||
         a->count != b->count || a->n_items != b->n_items || strcmp(a->text, b->text) != 0))
        abort();
    rpc_arena_fini(&x);
    rpc_arena_fini(&y);
}

static void decode_grown(const uint8_t *body, size_t len)
{
    static uint8_t big[RPC_GRAFT_MIN + 8192];
    static const uint8_t field[] = {0x0a, 0x80, 0x80, 0x10}; /* data, 256 KiB */
    size_t before = len / 2;

    if (len > 4000)
        return;
    memcpy(big, body, before);
    memcpy(big + before, field, sizeof field);
    memcpy(big + before + sizeof field + RPC_GRAFT_MIN, body + before, len - before);
    decode(big, before + sizeof field + RPC_GRAFT_MIN + len - before);
}

/* The sum of all messages and the final result. */
static uint64_t reassemble(const uint8_t *data, size_t size, size_t step)
{
    size_t total = 0, at = 0;
    struct rpc_frame f = {.max = MAX, .total = &total, .total_max = MAX};
    struct err e = {0};
    uint64_t sum = 0;
    int r = 0;

    while (at < size && r >= 0) {
        const uint8_t *p = data + at;
        size_t len = size - at < step ? size - at : step, all = len;
        struct rpc_piece piece;

        while ((r = rpc_frame_next(&f, &p, &len, &piece, &e)) == 1) {
            for (size_t i = 0; i < piece.len; i++)
                sum = sum * 31 + piece.data[i];
            sum = sum * 31 + piece.len + 7;
            if (step > size) {
                decode(piece.data, piece.len);
                decode_grown(piece.data, piece.len);
            }
            if (piece.own != NULL)
                total -= piece.len;
            free(piece.own);
        }
        at += all - len;
    }
    rpc_frame_fini(&f);
    if (total != 0)
        abort();
    return sum * 31 + (uint64_t)e.kind;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct rpc_status status;
    static const struct rpc_service service = {.error_domain = "d", .reason_prefix = "P_"};
    char text[64] = {0};
    struct err e;
    uint64_t ns;

    if (reassemble(data, size, size + 1) != reassemble(data, size, 1) ||
        reassemble(data, size, 3) != reassemble(data, size, 7))
        abort();
    memcpy(text, data, size < sizeof text - 1 ? size : sizeof text - 1);
    (void)rpc_timeout_parse(text, &ns);
    (void)err_typed(&e, ERR_INTERNAL, "REASON", "%s", text);
    err_meta(&e, "key", text);
    rpc_status_fill(&status, &e, &service, true);
    return 0;
}
