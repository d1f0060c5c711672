#include "imager/input.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { INPUT_READ_SIZE = 256 << 10 };

struct input {
    int fd;
    struct archive *raw;
    EVP_MD_CTX *hash;
    uint64_t compressed, bytes, max;
    bool ended;
    struct err failed; /* code 0 = none yet */
    uint8_t buf[INPUT_READ_SIZE];
};

static la_ssize_t read_fd(struct archive *raw, void *arg, const void **ret)
{
    struct input *in = arg;
    ssize_t n;

    do
        n = read(in->fd, in->buf, sizeof in->buf);
    while (n < 0 && errno == EINTR);
    if (n < 0) {
        archive_set_error(raw, errno, "cannot read the input");
        return ARCHIVE_FATAL;
    }
    in->compressed += (uint64_t)n;
    *ret = in->buf;
    return n;
}

static int setup(struct input *in, struct err *e)
{
    in->raw = archive_read_new();
    in->hash = EVP_MD_CTX_new();
    if (in->raw == NULL || in->hash == NULL || EVP_DigestInit_ex(in->hash, EVP_sha256(), NULL) != 1)
        return err_set(e, ENOMEM, "cannot prepare reading: %m");
    /* Anything but ARCHIVE_OK would mean that libarchive wants to run a program to decompress. */
    if (archive_read_support_filter_gzip(in->raw) != ARCHIVE_OK ||
        archive_read_support_filter_zstd(in->raw) != ARCHIVE_OK ||
        archive_read_support_format_raw(in->raw) != ARCHIVE_OK)
        return err_set(e, ENOSYS, "libarchive was built without gzip or zstd");
    return 0;
}

int input_new(int fd, uint64_t max, struct input **ret, struct err *e)
{
    struct input *in = calloc(1, sizeof *in);
    int r;

    if (in == NULL)
        return err_set(e, ENOMEM, "cannot prepare reading: %m");
    in->fd = fd;
    in->max = max;
    r = setup(in, e);
    if (r < 0) {
        input_free(in);
        return r;
    }
    *ret = in;
    return 0;
}

void input_free(struct input *in)
{
    if (in == NULL)
        return;
    if (in->raw != NULL)
        (void)archive_read_free(in->raw); /* only read from */
    EVP_MD_CTX_free(in->hash);            /* accepts NULL */
    free(in);
}

static int fail(struct input *in)
{
    int code = archive_errno(in->raw);
    const char *why = archive_error_string(in->raw);

    if (in->compressed == 0)
        return err_typed(&in->failed, ERR_INVALID, NULL, "the input is empty: a tar archive has at least 1024 bytes");
    if (code == ENOMEM)
        return err_typed(&in->failed, ERR_EXHAUSTED, NULL,
                         "decompressing the archive needs more memory than is allowed");
    return err_typed(&in->failed, ERR_INVALID, NULL, "the archive is damaged: %s",
                     why != NULL ? why : "unknown reason");
}

/* Opened late, by the first read: finding the compression reads from the fd. */
static int start(struct input *in)
{
    struct archive_entry *entry;

    if (archive_read_open(in->raw, in, NULL, read_fd, NULL) != ARCHIVE_OK ||
        archive_read_next_header(in->raw, &entry) != ARCHIVE_OK)
        return fail(in);
    return 0;
}

ssize_t input_next(struct input *in, const void **ret, struct err *e)
{
    bool first = in->compressed == 0;
    la_int64_t offset;
    size_t size = 0;
    int r = ARCHIVE_OK;

    if (in->failed.code == 0 && !in->ended && first)
        (void)start(in); /* the error is in in->failed */
    while (in->failed.code == 0 && !in->ended && size == 0) {
        r = archive_read_data_block(in->raw, ret, &size, &offset);
        if (r == ARCHIVE_EOF)
            in->ended = true;
        else if (r != ARCHIVE_OK)
            (void)fail(in);
    }
    if (in->failed.code == 0 && size > in->max - in->bytes)
        (void)err_typed(&in->failed, ERR_EXHAUSTED, NULL,
                        "the archive is longer than %llu bytes, the most that its limits allow",
                        (unsigned long long)in->max);
    if (in->failed.code == 0 && EVP_DigestUpdate(in->hash, *ret, size) != 1)
        (void)err_set(&in->failed, ENOMEM, "cannot compute the digest: %m");
    if (in->failed.code != 0) {
        *e = in->failed;
        return in->failed.code;
    }
    in->bytes += size;
    return (ssize_t)size;
}

uint64_t input_bytes(const struct input *in)
{
    return in->bytes;
}

int input_digest(struct input *in, char out[INPUT_DIGEST_MAX], struct err *e)
{
    uint8_t sum[EVP_MAX_MD_SIZE];
    unsigned len = 0;

    if (EVP_DigestFinal_ex(in->hash, sum, &len) != 1 || len * 2 + 1 != INPUT_DIGEST_MAX)
        return err_set(e, EIO, "cannot compute the digest");
    for (unsigned i = 0; i < len; i++)
        (void)snprintf(out + 2 * i, 3, "%02x", sum[i]);
    return 0;
}
