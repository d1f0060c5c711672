/* The archive as it arrives: decompression, the digest of the uncompressed stream, and a limit on its length.
 *
 *   fd -> [libarchive "raw": gzip, zstd or plain] -> sha256, count -> input_next()
 *
 * The digest covers the stream to its very end, also what follows the end mark of the tar. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

enum { INPUT_DIGEST_MAX = 65 }; /* hex of sha256 with NUL */

struct input;

/* FD stays the caller's. MAX: bytes of the uncompressed stream. */
int input_new(int fd, uint64_t max, struct input **ret, struct err *e);
void input_free(struct input *in);
/* The next piece, valid until the next call. Returns its size, 0 at the end, or a negative errno with E filled. After an
 * error every call returns the same. */
ssize_t input_next(struct input *in, const void **ret, struct err *e);
uint64_t input_bytes(const struct input *in);
/* After input_next() returned 0, once. */
int input_digest(struct input *in, char out[INPUT_DIGEST_MAX], struct err *e);
