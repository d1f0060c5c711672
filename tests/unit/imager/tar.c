#include "tar.h"

#include <archive.h>
#include <archive_entry.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void pad(struct buf *b)
{
    static const uint8_t zeros[512];

    assert_int_equal(buf_append(b, zeros, (512 - b->len % 512) % 512), 0);
}

static void header(struct buf *b, const struct tar_entry *e, char type, const char *name, uint64_t size)
{
    char h[512] = {0};
    unsigned sum = 0;

    (void)snprintf(h, 101, "%s", name);
    (void)snprintf(h + 100, 8, "%07o", e->mode != 0 ? e->mode : type == '5' ? 0755 : 0644);
    (void)snprintf(h + 108, 8, "%07o", e->uid);
    (void)snprintf(h + 116, 8, "%07o", e->gid);
    (void)snprintf(h + 124, 12, "%011llo", (unsigned long long)size);
    (void)snprintf(h + 136, 12, "%011lo", (unsigned long)e->mtime);
    h[156] = type;
    if (e->link != NULL)
        (void)snprintf(h + 157, 101, "%s", e->link);
    memcpy(h + 257, "ustar\00000", 8);
    memcpy(h + 329, "0000001\0000000003", 15);
    if (e->raw_size != NULL && type != 'x')
        memcpy(h + 124, e->raw_size, 12);
    memset(h + 148, ' ', 8);
    for (int i = 0; i < 512; i++)
        sum += (unsigned char)h[i];
    (void)snprintf(h + 148, 7, "%06o", sum);
    assert_int_equal(buf_append(b, h, sizeof h), 0);
}

/* "LENGTH KEY=VALUE\n", where LENGTH counts itself. */
static void record(struct buf *b, const char *key, const char *value)
{
    size_t rest = strlen(key) + strlen(value) + 3, len = rest + 1;
    char digits[24];

    while (len != rest + (size_t)snprintf(digits, sizeof digits, "%zu", len))
        len++;
    assert_int_equal(buf_printf(b, "%s %s=%s\n", digits, key, value), 0);
}

void tar_add(struct buf *b, const struct tar_entry *e)
{
    char type = e->type != 0 ? e->type : '0', key[128];
    uint64_t size = type != '0' ? 0 : e->size != 0 || e->data == NULL ? e->size : strlen(e->data);
    struct buf pax = {0};

    if (strlen(e->name) > 100)
        record(&pax, "path", e->name);
    if (e->link != NULL && strlen(e->link) > 100)
        record(&pax, "linkpath", e->link);
    for (int i = 0; i < 3 && e->xattr[i][0] != NULL; i++) {
        (void)snprintf(key, sizeof key, "SCHILY.xattr.%s", e->xattr[i][0]);
        record(&pax, key, e->xattr[i][1]);
    }
    if (pax.len > 0) {
        header(b, e, 'x', "PaxHeaders/x", pax.len);
        assert_int_equal(buf_append(b, pax.data, pax.len), 0);
        pad(b);
    }
    buf_fini(&pax);
    header(b, e, type, e->name, size);
    if (e->raw_size != NULL || size == 0)
        return;
    assert_int_equal(buf_reserve(b, size), 0);
    if (e->data != NULL)
        memcpy(b->data + b->len, e->data, size);
    else
        memset(b->data + b->len, 0, size);
    b->len += size;
    pad(b);
}

void tar_end(struct buf *b)
{
    static const uint8_t zeros[1024];

    assert_int_equal(buf_append(b, zeros, sizeof zeros), 0);
}

static la_ssize_t collect(struct archive *a, void *arg, const void *data, size_t len)
{
    (void)a;
    return buf_append(arg, data, len) == 0 ? (la_ssize_t)len : -1;
}

void tar_compress(struct buf *b, const char *filter)
{
    struct archive *a = archive_write_new();
    struct archive_entry *entry = archive_entry_new();
    struct buf out = {0};

    assert_int_equal(archive_write_add_filter_by_name(a, filter), ARCHIVE_OK);
    assert_int_equal(archive_write_set_format_raw(a), ARCHIVE_OK);
    assert_int_equal(archive_write_set_bytes_in_last_block(a, 1), ARCHIVE_OK); /* no padding */
    assert_int_equal(archive_write_open(a, &out, NULL, collect, NULL), ARCHIVE_OK);
    archive_entry_set_filetype(entry, AE_IFREG);
    assert_int_equal(archive_write_header(a, entry), ARCHIVE_OK);
    assert_int_equal(archive_write_data(a, b->data, b->len), (la_ssize_t)b->len);
    assert_int_equal(archive_write_close(a), ARCHIVE_OK);
    (void)archive_write_free(a); /* closed */
    archive_entry_free(entry);
    buf_fini(b);
    *b = out;
}
