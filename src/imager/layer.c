#include "imager/layer.h"

#include <archive.h>
#include <archive_entry.h>
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/fd.h"
#include "imager/path.h"
#include "imager/place.h"

/* What is left out, counted, with the first example for the note. */
enum skip { SKIP_DEVICE, SKIP_SOCKET, SKIP_XATTR, SKIP_ACL, SKIP_FFLAGS, SKIP_ROOT_OPAQUE, SKIP_COUNT };
struct skipped {
    uint32_t count;
    char first[PATH_SHOW_MAX];
};

struct job {
    struct place place;
    struct input *in;
    struct err in_error; /* what made a read callback fail */
    struct archive *tar;
    const struct layer_limits *limits;
    uint64_t bytes, entries;
    struct skipped skipped[SKIP_COUNT];
};

static const struct {
    const char *one, *many, *why;
} skip_words[SKIP_COUNT] = {
    [SKIP_DEVICE] = {"device node was", "device nodes were", "left out, sandboxes get their own /dev"},
    [SKIP_SOCKET] = {"socket was", "sockets were", "left out, nobody listens on it"},
    [SKIP_XATTR] = {"extended attribute was", "extended attributes were",
                    "removed, only user.* and security.capability are kept"},
    [SKIP_ACL] = {"access control list was", "access control lists were", "removed, only permission bits are kept"},
    [SKIP_FFLAGS] = {"entry's file flags were", "entries' file flags were", "ignored"},
    [SKIP_ROOT_OPAQUE] = {"opaque mark was", "opaque marks were", "left out, it has no effect on the root directory"},
};

static void skip(struct job *j, enum skip what, const char *example)
{
    struct skipped *s = &j->skipped[what];

    if (s->count++ == 0)
        (void)path_show(example, s->first);
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

static la_ssize_t next_block(struct archive *tar, void *arg, const void **ret)
{
    struct job *j = arg;
    ssize_t n = input_next(j->in, ret, &j->in_error);

    if (n < 0) {
        archive_set_error(tar, -j->in_error.code, "%s", j->in_error.msg);
        return ARCHIVE_FATAL;
    }
    return n;
}

/* libarchive said that it cannot go on: our own reader's reason comes first. */
static int read_failed(struct job *j, struct err *e)
{
    const char *why = archive_error_string(j->tar);

    if (j->in_error.code != 0) {
        *e = j->in_error;
        return e->code;
    }
    if (archive_errno(j->tar) == ENOMEM)
        return err_typed(e, ERR_EXHAUSTED, NULL, "reading the archive needs more memory than is allowed");
    if (archive_format(j->tar) == 0)
        return err_typed(e, ERR_INVALID, NULL, "the input is not a tar archive (plain, gzip or zstd)");
    return err_typed(e, ERR_INVALID, NULL, "the archive is damaged: %s", why != NULL ? why : "unknown reason");
}

static int open_tar(struct job *j, struct err *e)
{
    j->tar = archive_read_new();
    if (j->tar == NULL)
        return err_set(e, ENOMEM, "cannot prepare reading: %m");
    if (archive_read_support_format_tar(j->tar) != ARCHIVE_OK)
        return err_set(e, ENOSYS, "libarchive was built without tar");
    if (archive_read_open(j->tar, j, NULL, next_block, NULL) != ARCHIVE_OK)
        return read_failed(j, e);
    return 0;
}

/* ---- one entry --------------------------------------------------------------------------------------------------- */

static int meta_of(struct archive_entry *entry, struct place_meta *m, struct err *e)
{
    la_int64_t uid = archive_entry_uid(entry), gid = archive_entry_gid(entry);
    long nsec = archive_entry_mtime_nsec(entry);

    if (uid < 0 || uid > LAYER_UID_MAX || gid < 0 || gid > LAYER_UID_MAX)
        return err_typed(e, ERR_INVALID, NULL, "its owner %lld:%lld is above %d, the largest id in a sandbox",
                         (long long)uid, (long long)gid, LAYER_UID_MAX);
    *m = (struct place_meta){
        .uid = (uint32_t)uid,
        .gid = (uint32_t)gid,
        .mode = archive_entry_perm(entry) & 07777,
        .mtime = {.tv_sec = archive_entry_mtime(entry), .tv_nsec = nsec >= 0 && nsec < 1000000000L ? nsec : 0},
    };
    return 0;
}

static bool xattr_wanted(const char *name)
{
    if (strncmp(name, "user.", 5) == 0)
        return strncmp(name, "user.overlay.", 13) != 0;
    return strcmp(name, "security.capability") == 0;
}

/* Sets what is wanted on FD (-1: nothing can be set on this kind of file) and counts the rest. */
static int put_xattrs(struct job *j, struct archive_entry *entry, int fd, struct err *e)
{
    const char *name, *path = archive_entry_pathname(entry);
    const void *value;
    size_t size;

    (void)archive_entry_xattr_reset(entry); /* returns the count */
    while (archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK) {
        if (name == NULL || fd < 0 || !xattr_wanted(name)) {
            skip(j, SKIP_XATTR, path);
            continue;
        }
        if (fsetxattr(fd, name, value, size, 0) == 0)
            continue;
        /* What this file system or these rights cannot hold is removed; a full disk is not that. */
        if (errno == EDQUOT || errno == EIO || errno == ENOMEM)
            return place_fail(e, errno, "cannot set an extended attribute");
        skip(j, SKIP_XATTR, path);
    }
    if ((archive_entry_acl_types(entry) &
         (ARCHIVE_ENTRY_ACL_TYPE_ACCESS | ARCHIVE_ENTRY_ACL_TYPE_DEFAULT | ARCHIVE_ENTRY_ACL_TYPE_NFS4)) != 0)
        skip(j, SKIP_ACL, path);
    if (archive_entry_fflags_text(entry) != NULL)
        skip(j, SKIP_FFLAGS, path);
    return 0;
}

static int write_at(int fd, const void *data, size_t len, off_t at, struct err *e)
{
    const uint8_t *p = data;

    while (len > 0) {
        ssize_t n = pwrite(fd, p, len, at);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return place_fail(e, errno, "cannot write the file");
        p += n;
        len -= (size_t)n;
        at += n;
    }
    return 0;
}

static int copy_content(struct job *j, int fd, uint64_t size, struct err *e)
{
    uint64_t end = 0;

    for (;;) {
        const void *data;
        la_int64_t at;
        size_t len;
        int r = archive_read_data_block(j->tar, &data, &len, &at);

        if (r == ARCHIVE_EOF)
            break;
        if (r < ARCHIVE_WARN)
            return read_failed(j, e);
        if (at < 0 || (uint64_t)at > size || len > size - (uint64_t)at)
            return err_typed(e, ERR_INVALID, NULL, "it holds data beyond its size of %" PRIu64 " bytes", size);
        r = write_at(fd, data, len, at, e);
        if (r < 0)
            return r;
        if ((uint64_t)at + len > end)
            end = (uint64_t)at + len;
    }
    if (end < size && ftruncate(fd, (off_t)size) < 0) /* a hole at the end */
        return place_fail(e, errno, "cannot set the size of the file");
    return 0;
}

static int put_file(struct job *j, struct archive_entry *entry, const char *path, const struct place_meta *m,
                    struct err *e)
{
    la_int64_t size = archive_entry_size(entry);
    AUTO_FD fd = -1;
    int r;

    /* The declared size counts, before a byte is written: holes cost whoever reads them. */
    if (size < 0)
        return err_typed(e, ERR_INVALID, NULL, "its size is negative");
    if ((uint64_t)size > j->limits->bytes - j->bytes)
        return err_typed(e, ERR_EXHAUSTED, NULL,
                         "with its %lld bytes the layer would be larger than its limit of %" PRIu64 " bytes",
                         (long long)size, j->limits->bytes);
    j->bytes += (uint64_t)size;

    r = place_file(&j->place, path, &fd, e);
    if (r < 0)
        return r;
    r = copy_content(j, fd, (uint64_t)size, e);
    if (r < 0)
        return r;
    r = place_finish(fd, m, e);
    if (r < 0)
        return r;
    /* After the owner: changing that drops security.capability. The time of content is not touched by attributes. */
    return put_xattrs(j, entry, fd, e);
}

static int put_dir(struct job *j, struct archive_entry *entry, const char *path, const struct place_meta *m,
                   struct err *e)
{
    AUTO_FD fd = -1;
    int r;

    r = place_dir(&j->place, path, m, &fd, e);
    if (r < 0)
        return r;
    return put_xattrs(j, entry, fd, e);
}

static int put_symlink(struct job *j, struct archive_entry *entry, const char *path, const struct place_meta *m,
                       struct err *e)
{
    const char *target = archive_entry_symlink(entry);
    int r;

    r = place_symlink(&j->place, path, target != NULL ? target : "", m, e);
    if (r < 0)
        return r;
    return put_xattrs(j, entry, -1, e);
}

static int put_fifo(struct job *j, struct archive_entry *entry, const char *path, const struct place_meta *m,
                    struct err *e)
{
    int r;

    r = place_fifo(&j->place, path, m, e);
    if (r < 0)
        return r;
    return put_xattrs(j, entry, -1, e);
}

static int skip_device(struct job *j, struct archive_entry *entry, const char *path, const struct place_meta *m,
                       struct err *e)
{
    (void)entry, (void)m, (void)e;
    skip(j, SKIP_DEVICE, path);
    return 0;
}

static int skip_socket(struct job *j, struct archive_entry *entry, const char *path, const struct place_meta *m,
                       struct err *e)
{
    (void)entry, (void)m, (void)e;
    skip(j, SKIP_SOCKET, path);
    return 0;
}

static const struct {
    mode_t type;
    int (*put)(struct job *j, struct archive_entry *entry, const char *path, const struct place_meta *m, struct err *e);
} kinds[] = {
    {AE_IFREG, put_file},    {AE_IFDIR, put_dir},     {AE_IFLNK, put_symlink},  {AE_IFIFO, put_fifo},
    {AE_IFCHR, skip_device}, {AE_IFBLK, skip_device}, {AE_IFSOCK, skip_socket},
};

static int put_kind(struct job *j, struct archive_entry *entry, const char *path, struct err *e)
{
    mode_t type = archive_entry_filetype(entry);
    struct place_meta m;
    int r;

    r = meta_of(entry, &m, e);
    if (r < 0)
        return r;
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        if (kinds[i].type == type)
            return kinds[i].put(j, entry, path, &m, e);
    }
    return err_typed(e, ERR_INVALID, NULL, "it is of a kind that cannot be unpacked");
}

static int put_link(struct job *j, struct archive_entry *entry, const char *path, struct err *e)
{
    char target[PATH_CLEAN_MAX];
    int r;

    r = path_clean(archive_entry_hardlink(entry), target, e);
    if (r < 0)
        return err_ctx(e, "it is a hard link to a name that is refused");
    return place_link(&j->place, path, target, e);
}

/* Names that say what lower layers must not show: ".wh.NAME", and ".wh..wh..opq" for a whole directory. */
static int put_whiteout(struct job *j, char *path, struct err *e)
{
    char parent[PATH_CLEAN_MAX];
    const char *name = path_split(path, parent) + 4;
    size_t at;

    if (strcmp(name, ".wh..opq") == 0) {
        if (parent[0] != '\0')
            return place_opaque(&j->place, parent, e);
        skip(j, SKIP_ROOT_OPAQUE, path);
        return 0;
    }
    if (strncmp(name, ".wh.", 4) == 0)
        return 0; /* bookkeeping of an old file system that invented these names: means nothing to anybody else */
    if (*name == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return err_typed(e, ERR_INVALID, NULL, "it is a whiteout without a name");
    at = strlen(parent) + (parent[0] != '\0');
    memmove(path + at, name, strlen(name) + 1);
    return place_whiteout(&j->place, path, e);
}

static int put_entry(struct job *j, struct archive_entry *entry, struct err *e)
{
    char path[PATH_CLEAN_MAX], parent[PATH_CLEAN_MAX];
    int r;

    r = path_clean(archive_entry_pathname(entry), path, e);
    if (r < 0)
        return r;
    if (strncmp(path_split(path, parent), ".wh.", 4) == 0)
        r = put_whiteout(j, path, e);
    else if (strncmp(parent, ".wh.", 4) == 0 || strstr(parent, "/.wh.") != NULL)
        r = err_typed(e, ERR_INVALID, NULL, "it lies in a directory with the name of a whiteout");
    else if (archive_entry_hardlink(entry) != NULL)
        r = put_link(j, entry, path, e);
    else
        r = put_kind(j, entry, path, e);
    if (r < 0) {
        char shown[PATH_SHOW_MAX];

        return err_ctx(e, "entry %s", path_show(archive_entry_pathname(entry), shown));
    }
    return 0;
}

/* ---- the whole ---------------------------------------------------------------------------------------------------- */

/* Reads what follows the end mark, which belongs to the digest, and makes sure that there was one. */
static int finish_stream(struct job *j, struct err *e)
{
    uint64_t mark = (uint64_t)archive_read_header_position(j->tar);
    const void *data;
    ssize_t n;

    while ((n = input_next(j->in, &data, e)) > 0) {
    }
    if (n < 0)
        return (int)n;
    if (mark + 512 > input_bytes(j->in))
        return err_typed(e, ERR_INVALID, NULL,
                         "the archive ends without its end mark after %" PRIu64 " entries: it was cut off", j->entries);
    return 0;
}

static int unpack_all(struct job *j, struct err *e)
{
    struct archive_entry *entry;
    int r;

    r = open_tar(j, e);
    if (r < 0)
        return r;
    /* A warning is about names that are not ASCII or about a header we do not use; the bytes are as in the archive. */
    while ((r = archive_read_next_header(j->tar, &entry)) == ARCHIVE_OK || r == ARCHIVE_WARN) {
        if (j->entries == j->limits->entries)
            return err_typed(e, ERR_EXHAUSTED, NULL, "the archive has more than %" PRIu64 " entries, the limit",
                             j->limits->entries);
        j->entries++;
        r = put_entry(j, entry, e);
        if (r < 0)
            return r;
    }
    if (r != ARCHIVE_EOF)
        return read_failed(j, e);
    r = finish_stream(j, e);
    if (r < 0)
        return r;
    return place_times(&j->place, e);
}

static void write_notes(const struct job *j, struct layer_result *ret)
{
    for (int i = 0; i < SKIP_COUNT; i++) {
        const struct skipped *s = &j->skipped[i];

        if (s->count > 0)
            (void)snprintf(ret->notes[ret->note_count++], LAYER_NOTE_MAX, "%" PRIu32 " %s %s (%s%s)", s->count,
                           s->count == 1 ? skip_words[i].one : skip_words[i].many, skip_words[i].why,
                           s->count == 1 ? "" : "the first is ", s->first);
    }
}
static_assert((int)SKIP_COUNT <= (int)LAYER_NOTES_MAX, "every kind of note has room");

/* The stream may be as long as the content and the headers that the limits allow, in any case less than 2^63. */
static uint64_t stream_max(const struct layer_limits *l)
{
    uint64_t heads, sum;

    if (__builtin_mul_overflow(l->entries, (uint64_t)LAYER_ENTRY_OVERHEAD, &heads) ||
        __builtin_add_overflow(l->bytes, heads, &sum) ||
        __builtin_add_overflow(sum, (uint64_t)LAYER_STREAM_SLACK, &sum) || sum > INT64_MAX)
        return INT64_MAX;
    return sum;
}

int layer_unpack(int dir, int in, const struct layer_limits *limits, struct layer_result *ret, struct err *e)
{
    struct job *j = calloc(1, sizeof *j);
    int r;

    if (j == NULL)
        return err_set(e, ENOMEM, "cannot prepare unpacking: %m");
    j->limits = limits;
    place_init(&j->place, dir, limits->dirs_bytes);
    r = input_new(in, stream_max(limits), &j->in, e);
    if (r == 0)
        r = unpack_all(j, e);
    if (r == 0) {
        *ret = (struct layer_result){
            .tar_bytes = input_bytes(j->in),
            .unpacked_bytes = j->bytes,
            .entries = j->entries,
            .skipped_devices = j->skipped[SKIP_DEVICE].count,
            .stripped_xattrs = j->skipped[SKIP_XATTR].count,
        };
        write_notes(j, ret);
        r = input_digest(j->in, ret->digest, e);
    }
    if (j->tar != NULL)
        (void)archive_read_free(j->tar); /* only read from */
    input_free(j->in);
    place_fini(&j->place);
    free(j);
    return r;
}
