/* deps: net */
/* The chunked decoder: whole and byte by byte must agree on the body and on where it ends. */
#include <stdlib.h>
#include <string.h>

#include "net/h1-chunked.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct result {
    int r;
    size_t used, len;
    uint8_t *body;
};

static struct result decode(const uint8_t *data, size_t size, size_t step)
{
    struct result res = {.body = malloc(size + 1)};
    struct h1_chunked d = {0};

    if (res.body == NULL)
        abort();
    while (res.used < size && res.r == 0) {
        const uint8_t *p = data + res.used, *piece;
        size_t left = size - res.used < step ? size - res.used : step, all = left, n;

        while ((res.r = h1_chunked_next(&d, &p, &left, &piece, &n)) == 1) {
            if (n == 0 || piece < data || piece + n > data + size)
                abort();
            memcpy(res.body + res.len, piece, n);
            res.len += n;
        }
        res.used += all - left;
    }
    return res;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct result a = decode(data, size, size + 1), b = decode(data, size, 1);

    if (a.r != b.r || a.used != b.used || a.len != b.len || memcmp(a.body, b.body, a.len) != 0)
        abort();
    free(a.body);
    free(b.body);
    return 0;
}
