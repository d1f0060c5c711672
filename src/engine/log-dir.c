/* The files of a log: listing, appending with rotation, removing. Pool threads only: a disk may block. */
#include "engine/log-internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/fd.h"

enum { NAME_DIGITS = 20, LOST_LINE_MAX = 160, NULL_PIECE = 1 << 20 };

/* ---- listing ----------------------------------------------------------------------------------------------------------- */

static bool parse_name(const char *name, const char *ext, uint64_t *ret)
{
    uint64_t v = 0;

    for (int i = 0; i < NAME_DIGITS; i++) {
        if (name[i] < '0' || name[i] > '9' || v > (UINT64_MAX - 9) / 10)
            return false;
        v = v * 10 + (uint64_t)(name[i] - '0');
    }
    if (name[NAME_DIGITS] != '.' || strcmp(name + NAME_DIGITS + 1, ext) != 0)
        return false;
    *ret = v;
    return true;
}

static void file_name(char out[LOG_NAME_MAX], uint64_t start, const char *ext)
{
    (void)snprintf(out, LOG_NAME_MAX, "%020" PRIu64 ".%s", start, ext);
}

static int by_start(const void *a, const void *b)
{
    const struct log_seg *x = a, *y = b;

    return x->start < y->start ? -1 : x->start > y->start;
}

static uint64_t size_at(int dir, uint64_t start, const char *ext)
{
    char name[LOG_NAME_MAX];
    struct stat st;

    file_name(name, start, ext);
    return fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_size > 0 ? (uint64_t)st.st_size : 0;
}

int log_segs_list(const char *dir, struct log_segs *ret)
{
    struct log_segs segs = {0};
    struct dirent *d;
    struct log_seg *v;
    uint64_t start;
    DIR *h;
    int r = 0;

    h = opendir(dir);
    if (h == NULL) {
        *ret = segs;
        return errno == ENOENT ? 0 : -errno;
    }
    while ((d = readdir(h)) != NULL) {
        if (!parse_name(d->d_name, "seg", &start))
            continue;
        v = realloc(segs.v, (segs.n + 1) * sizeof *v);
        if (v == NULL) {
            r = -ENOMEM;
            break;
        }
        segs.v = v;
        segs.v[segs.n++] = (struct log_seg){start, size_at(dirfd(h), start, "seg"), size_at(dirfd(h), start, "idx")};
    }
    (void)closedir(h);
    if (r < 0) {
        free(segs.v);
        return r;
    }
    if (segs.n > 1)
        qsort(segs.v, segs.n, sizeof *segs.v, by_start);
    *ret = segs;
    return 0;
}

int log_file_open(const char *dir, uint64_t start, const char *ext, int flags)
{
    AUTO_FREE char *path = NULL;
    char name[LOG_NAME_MAX];
    int fd;

    file_name(name, start, ext);
    if (asprintf(&path, "%s/%s", dir, name) < 0) {
        path = NULL;
        return -ENOMEM;
    }
    fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW, 0600);
    return fd < 0 ? -errno : fd;
}

static void remove_segment(const char *dir, uint64_t start)
{
    static const char *const exts[] = {"seg", "idx"};
    AUTO_FREE char *path = NULL;
    char name[LOG_NAME_MAX];

    for (size_t i = 0; i < ARRAY_LEN(exts); i++) {
        file_name(name, start, exts[i]);
        free(take_ptr(path));
        if (asprintf(&path, "%s/%s", dir, name) < 0) {
            path = NULL;
            return;
        }
        (void)unlink(path); /* what stays is found at the next rotation */
    }
}

int log_dir_remove(const char *dir)
{
    struct dirent *d;
    DIR *h = opendir(dir);
    int r = 0;

    if (h == NULL)
        return errno == ENOENT ? 0 : -errno;
    while ((d = readdir(h)) != NULL) {
        if (d->d_name[0] != '.' && unlinkat(dirfd(h), d->d_name, 0) < 0 && errno != ENOENT)
            r = -errno;
    }
    (void)closedir(h);
    return rmdir(dir) < 0 && errno != ENOENT && r == 0 ? -errno : r;
}

/* ---- appending ----------------------------------------------------------------------------------------------------------- */

/* Files of the last segment, open for one batch. */
struct open_seg {
    int seg, idx;
};

static int make_dirs(const char *dir)
{
    AUTO_FREE char *parent = strdup(dir);
    char *slash;

    if (parent == NULL)
        return -ENOMEM;
    slash = strrchr(parent, '/');
    if (slash != NULL)
        *slash = '\0';
    if (mkdir(dir, 0700) == 0 || errno == EEXIST)
        return 0;
    if (errno != ENOENT || (mkdir(parent, 0700) < 0 && errno != EEXIST))
        return -errno;
    return mkdir(dir, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

/* Takes up where the files end. */
static int writer_open(struct log_writer *w)
{
    struct log_segs segs;
    struct log_stamp st;
    int r, fd;

    r = make_dirs(w->dir);
    if (r == 0)
        r = log_segs_list(w->dir, &segs);
    if (r < 0)
        return r;
    if (segs.n > 0) {
        const struct log_seg *last = &segs.v[segs.n - 1];

        w->start = last->start;
        w->size = last->size;
        w->index_size = last->index_size - last->index_size % sizeof st;
        fd = log_file_open(w->dir, w->start, "idx", O_RDONLY);
        if (fd >= 0 && w->index_size > 0 &&
            pread(fd, &st, sizeof st, (off_t)(w->index_size - sizeof st)) == (ssize_t)sizeof st) {
            w->stamp_off = st.off & ~LOG_STAMP_LINE;
            w->stamp_ns = st.ns;
        }
        fd_close(fd);
    }
    w->at_line = segs.n == 0; /* else of no use: that segment has its first stamp */
    free(segs.v);
    w->opened = true;
    return 0;
}

static void close_seg(struct open_seg *s)
{
    fd_close(s->seg);
    fd_close(s->idx);
    s->seg = s->idx = -1;
}

static int open_seg(struct log_writer *w, struct open_seg *s)
{
    s->seg = log_file_open(w->dir, w->start, "seg", O_RDWR | O_CREAT);
    if (s->seg < 0)
        return s->seg;
    s->idx = log_file_open(w->dir, w->start, "idx", O_RDWR | O_CREAT);
    if (s->idx < 0) {
        int r = s->idx;

        close_seg(s);
        return r;
    }
    return 0;
}

/* The oldest segments go until the next one fits too. */
static void make_room(const struct log_writer *w)
{
    struct log_segs segs;
    uint64_t total = w->seg_max;

    if (log_segs_list(w->dir, &segs) < 0)
        return; /* the next rotation finds them */
    for (size_t i = 0; i < segs.n; i++)
        total += segs.v[i].size + segs.v[i].index_size;
    for (size_t i = 0; i + 1 < segs.n && total > w->total_max; i++) {
        total -= segs.v[i].size + segs.v[i].index_size;
        remove_segment(w->dir, segs.v[i].start);
    }
    free(segs.v);
}

static bool ends_line(const struct log_writer *w, int seg)
{
    char c;

    return w->size == 0 ? w->start == 0 : pread(seg, &c, 1, (off_t)(w->size - 1)) == 1 && c == '\n';
}

static int rotate(struct log_writer *w, struct open_seg *s)
{
    w->at_line = ends_line(w, s->seg);
    close_seg(s);
    w->start += w->size;
    w->size = w->index_size = 0;
    make_room(w);
    return open_seg(w, s);
}

/* Bytes from here on arrived now. A stamp after which nothing came is moved instead. */
static int stamp(struct log_writer *w, int idx)
{
    uint64_t now = clock_wall(), end = w->start + w->size;
    struct log_stamp st;
    bool first = w->index_size == 0, again = !first && w->stamp_off == end;
    ssize_t n;

    if (now < w->stamp_ns) /* the clock was set back: times of lines do not go back with it */
        now = w->stamp_ns;
    if (!first && now - w->stamp_ns < LOG_STAMP_NS)
        return 0;
    if (again)
        w->index_size -= sizeof st;
    st = (struct log_stamp){end | (w->index_size == 0 && w->at_line ? LOG_STAMP_LINE : 0), now};
    n = pwrite(idx, &st, sizeof st, (off_t)w->index_size);
    if (n != (ssize_t)sizeof st) {
        w->index_size += again ? sizeof st : 0;
        return n < 0 ? -errno : -ENOSPC;
    }
    w->index_size += sizeof st;
    w->stamp_off = end;
    w->stamp_ns = now;
    return 0;
}

size_t log_lost_line(char *out, size_t cap, uint64_t lost, int code)
{
    int n = snprintf(out, cap, "[silica: %" PRIu64 " bytes of output were lost here: %s]\n", lost, strerror(code));

    return n > 0 && (size_t)n < cap ? (size_t)n : 0;
}

/* The disk takes bytes again: says what is missing before going on. */
static int write_lost(struct log_writer *w, const struct open_seg *s)
{
    char text[LOST_LINE_MAX] = "\n";
    bool fresh = ends_line(w, s->seg);
    size_t len = log_lost_line(text + 1, sizeof text - 1, w->lost, w->lost_code) + 1;
    const char *at = fresh ? text + 1 : text;
    ssize_t n;

    len -= fresh ? 1 : 0;
    n = pwrite(s->seg, at, len, (off_t)w->size);
    if (n != (ssize_t)len) {
        int code = n < 0 ? errno : ENOSPC;

        (void)!ftruncate(s->seg, (off_t)w->size); /* half a line would be read as output */
        return -code;
    }
    w->size += len;
    w->lost = 0;
    return 0;
}

/* What cannot be kept still has to leave the pipe. */
static ssize_t discard(struct log_writer *w, int in, size_t len, int code)
{
    AUTO_FD null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    ssize_t n;

    if (null < 0)
        return -errno;
    n = splice(in, NULL, null, NULL, len < NULL_PIECE ? len : NULL_PIECE, SPLICE_F_NONBLOCK);
    if (n > 0) {
        w->lost += (uint64_t)n;
        w->lost_code = -code;
    }
    return n < 0 ? -errno : n;
}

/* One piece, at most LEN bytes: its size, 0 at end of file, -EAGAIN, or why the disk did not take it. */
static ssize_t keep(struct log_writer *w, struct open_seg *s, int in, size_t len)
{
    off_t at;
    ssize_t n;
    int r = 0;

    if (s->seg < 0)
        r = open_seg(w, s);
    if (r == 0 && (w->size >= w->seg_max || w->index_size >= LOG_INDEX_MAX))
        r = rotate(w, s);
    if (r == 0)
        r = stamp(w, s->idx);
    if (r == 0 && w->lost > 0)
        r = write_lost(w, s);
    if (r < 0)
        return r;
    if (w->size >= w->seg_max)
        return -EINTR; /* the lost line filled it: once more */

    at = (off_t)w->size;
    n = splice(in, NULL, s->seg, &at, len < w->seg_max - w->size ? len : w->seg_max - w->size,
               SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
    if (n > 0)
        w->size += (uint64_t)n;
    return n < 0 ? -errno : n;
}

void log_write(struct log_writer *w, int in, size_t limit, struct log_batch *ret)
{
    struct open_seg s = {-1, -1};
    ssize_t n;

    *ret = (struct log_batch){0};
    while (ret->moved < limit) {
        n = w->opened ? 0 : writer_open(w);
        if (n == 0)
            n = keep(w, &s, in, limit - ret->moved);
        if (n == -EINTR)
            continue;
        if (n < 0 && n != -EAGAIN)
            n = discard(w, in, limit - ret->moved, (int)n);
        if (n == 0)
            ret->eof = true;
        if (n <= 0)
            break;
        ret->moved += (size_t)n;
    }
    close_seg(&s);
}
