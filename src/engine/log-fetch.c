/* The next chunk for a reader of a log. Pool threads only.
 *
 * Everything is read from the files, which are in the page cache while they are young. A writer may append, rotate and
 * delete meanwhile: the list of segments is taken anew for each chunk, and a segment that vanished in between is as if it had
 * vanished before. */
#include "engine/log-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/clock.h"
#include "base/fd.h"
#include "engine/utf8.h"

enum { TAIL_BLOCK = 64 << 10, STAMP_TEXT = 31 /* "2026-01-02T03:04:05.123456789Z " */, RELIST_MAX = 4 };

/* The segments as one file. */
struct cursor {
    const char *dir;
    struct log_segs segs;
    size_t seg_at, idx_at; /* which ones are open */
    int seg, idx;
    uint64_t lo, hi, ns; /* bytes lo..hi-1 arrived at ns; hi 0 = not known */
};

static void cursor_fini(struct cursor *c)
{
    fd_close(c->seg);
    fd_close(c->idx);
    free(c->segs.v);
}

static uint64_t first_of(const struct cursor *c)
{
    return c->segs.n > 0 ? c->segs.v[0].start : 0;
}

static uint64_t end_of(const struct cursor *c)
{
    return c->segs.n > 0 ? c->segs.v[c->segs.n - 1].start + c->segs.v[c->segs.n - 1].size : 0;
}

/* The segment that holds OFF, which is not below the first. */
static size_t find_seg(const struct cursor *c, uint64_t off)
{
    size_t i = c->segs.n - 1;

    while (i > 0 && c->segs.v[i].start > off)
        i--;
    return i;
}

static int open_file(struct cursor *c, size_t i, const char *ext, int *fd, size_t *at)
{
    int r;

    if (*fd >= 0 && *at == i)
        return 0;
    fd_close(*fd);
    *fd = -1;
    r = log_file_open(c->dir, c->segs.v[i].start, ext, O_RDONLY);
    if (r < 0)
        return r;
    *fd = r;
    *at = i;
    return 0;
}

/* Up to LEN bytes from OFF, across segments; fewer only at the end. -ENOENT when the segment was deleted meanwhile. */
static ssize_t cursor_read(struct cursor *c, uint64_t off, uint8_t *buf, size_t len)
{
    size_t got = 0;

    while (got < len && off < end_of(c)) {
        size_t i = find_seg(c, off), want;
        uint64_t in = off - c->segs.v[i].start;
        ssize_t n;
        int r;

        if (in >= c->segs.v[i].size) /* a hole between segments: files were removed by hand */
            return got > 0 ? (ssize_t)got : -EIO;
        r = open_file(c, i, "seg", &c->seg, &c->seg_at);
        if (r < 0)
            return got > 0 ? (ssize_t)got : r;
        want = c->segs.v[i].size - in < len - got ? (size_t)(c->segs.v[i].size - in) : len - got;
        n = pread(c->seg, buf + got, want, (off_t)in);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return got > 0 ? (ssize_t)got : n < 0 ? -errno : -EIO;
        got += (size_t)n;
        off += (uint64_t)n;
    }
    return (ssize_t)got;
}

/* ---- times --------------------------------------------------------------------------------------------------------------- */

static bool read_stamp(struct cursor *c, size_t at, struct log_stamp *ret)
{
    return pread(c->idx, ret, sizeof *ret, (off_t)(at * sizeof *ret)) == (ssize_t)sizeof *ret;
}

static size_t stamp_count(const struct cursor *c)
{
    struct stat st;

    return fstat(c->idx, &st) == 0 && st.st_size > 0 ? (size_t)st.st_size / sizeof(struct log_stamp) : 0;
}

/* How many stamps of the open index begin at or before KEY (BY_TIME: are older than KEY); they are in order of both. */
static size_t stamps_below(struct cursor *c, size_t n, uint64_t key, bool by_time)
{
    size_t lo = 0, hi = n;
    struct log_stamp st;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        bool below;

        if (!read_stamp(c, mid, &st))
            return lo;
        below = by_time ? st.ns < key : (st.off & ~LOG_STAMP_LINE) <= key;
        if (below)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* When the byte at OFF arrived; 0 when the index is gone. */
static uint64_t time_of(struct cursor *c, uint64_t off)
{
    struct log_stamp st;
    size_t i, n, at;

    if (off >= c->lo && off < c->hi)
        return c->ns;
    i = find_seg(c, off);
    if (open_file(c, i, "idx", &c->idx, &c->idx_at) < 0)
        return 0;
    n = stamp_count(c);
    at = stamps_below(c, n, off, false);
    if (at == 0 || !read_stamp(c, at - 1, &st))
        return 0;
    c->lo = st.off & ~LOG_STAMP_LINE;
    c->ns = st.ns;
    c->hi = at < n && read_stamp(c, at, &st) ? st.off & ~LOG_STAMP_LINE : c->segs.v[i].start + c->segs.v[i].size;
    return c->ns;
}

/* The first byte that arrived at SINCE or later; the end when there is none. */
static uint64_t offset_since(struct cursor *c, uint64_t since)
{
    struct log_stamp st;

    for (size_t i = 0; i < c->segs.n; i++) {
        size_t n, at;

        if (open_file(c, i, "idx", &c->idx, &c->idx_at) < 0)
            continue;
        n = stamp_count(c);
        at = stamps_below(c, n, since, true);
        if (at < n && read_stamp(c, at, &st))
            return st.off & ~LOG_STAMP_LINE;
    }
    return end_of(c);
}

static void put_time(struct chunk *c, uint64_t ns)
{
    time_t s = (time_t)(ns / NSEC_PER_SEC);
    char text[STAMP_TEXT + 32];
    struct tm tm;

    (void)gmtime_r(&s, &tm); /* fails beyond the year 2^31 only */
    (void)snprintf(text, sizeof text, "%04d-%02d-%02dT%02d:%02d:%02d.%09uZ ", tm.tm_year + 1900, tm.tm_mon + 1,
                   tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, (unsigned)(ns % NSEC_PER_SEC));
    memcpy(c->data + c->off + c->len, text, STAMP_TEXT);
    c->len += STAMP_TEXT;
}

/* ---- where to begin -------------------------------------------------------------------------------------------------------- */

/* The oldest segment may begin in the middle of a line. *RET_SKIP: the rest of it is not shown, which is so when its end is
 * near; else at least no character is cut. */
static int align_first(struct cursor *c, uint64_t *pos, bool *ret_skip)
{
    AUTO_FREE uint8_t *buf = NULL;
    struct log_stamp st;
    ssize_t n;

    if (open_file(c, 0, "idx", &c->idx, &c->idx_at) == 0 && read_stamp(c, 0, &st) && (st.off & LOG_STAMP_LINE) != 0)
        return 0;
    buf = malloc(LOG_ALIGN_MAX);
    if (buf == NULL)
        return -ENOMEM;
    n = cursor_read(c, *pos, buf, LOG_ALIGN_MAX);
    if (n < 0)
        return (int)n;
    if (memchr(buf, '\n', (size_t)n) != NULL) {
        *ret_skip = true;
        return 0;
    }
    for (int i = 0; i < 3 && i < n && (buf[i] & 0xc0) == 0x80; i++)
        (*pos)++;
    return 0;
}

/* Where the last LINES lines before STOP begin; an unfinished last line counts. */
static int tail_start(struct cursor *c, uint64_t stop, uint32_t lines, uint64_t *ret)
{
    AUTO_FREE uint8_t *buf = malloc(TAIL_BLOCK);
    uint64_t first = first_of(c), at = stop;
    uint64_t seen = 0;

    if (buf == NULL)
        return -ENOMEM;
    while (at > first) {
        size_t len = at - first < TAIL_BLOCK ? (size_t)(at - first) : TAIL_BLOCK;
        ssize_t n = cursor_read(c, at - len, buf, len);

        if (n < 0)
            return (int)n;
        for (ssize_t i = n - 1; i >= 0; i--) {
            uint64_t off = at - len + (uint64_t)i;

            if (buf[i] != '\n' || off + 1 == stop) /* the end of the last line begins no other */
                continue;
            if (++seen == lines) {
                *ret = off + 1;
                return 0;
            }
        }
        at -= len;
    }
    *ret = first;
    return 0;
}

static int begin(struct log_fetch *f, struct cursor *c)
{
    uint64_t end = end_of(c), first = first_of(c), pos = first, since;
    bool skip = false;
    uint8_t before;
    int r = 0;

    f->stop_at = f->follow ? UINT64_MAX : end;
    if (end == first)
        goto out;
    if (f->tail > 0)
        r = tail_start(c, end, f->tail, &pos);
    if (r == 0 && f->since > 0) {
        since = offset_since(c, f->since);
        if (since > pos) {
            pos = since;
            if (pos > first) /* a line whose beginning is older is older */
                skip = cursor_read(c, pos - 1, &before, 1) == 1 && before != '\n';
        }
    }
    if (r == 0 && pos == first && first > 0)
        r = align_first(c, &pos, &skip);
    if (r < 0)
        return r;
out:
    f->pos = pos;
    f->skipping = skip;
    f->mid_line = skip;
    f->begun = true;
    return 0;
}

/* ---- lines ------------------------------------------------------------------------------------------------------------------- */

/* What of a line, or of the rest of one, LEN bytes at DATA, is handed over now; 0 = not now. LAST: no more bytes follow here. */
static size_t line_part(const struct log_fetch *f, const uint8_t *data, size_t len, bool complete, bool last,
                        bool alone)
{
    if (complete)
        return len;
    if (!last) /* the buffer ends in it: next time, unless it is longer than a buffer */
        return alone ? len - utf8_cut(data, len) : 0;
    if (f->final)
        return len;
    return f->partial ? len - utf8_cut(data, len) : 0;
}

/* Copies lines from RAW (N bytes at F->pos) into F->chunk. LAST: the files end with RAW. */
static void take_lines(struct log_fetch *f, struct cursor *c, const uint8_t *raw, size_t n, bool last)
{
    struct chunk *out = f->chunk;
    size_t i = 0;

    while (i < n) {
        const uint8_t *nl = memchr(raw + i, '\n', n - i);
        size_t len = nl != NULL ? (size_t)(nl - raw) - i + 1 : n - i, room, part;
        bool starts = !f->mid_line;
        uint64_t when;

        if (f->skipping || (starts && f->since > 0 && time_of(c, f->pos + i) < f->since)) {
            f->skipping = f->mid_line = nl == NULL;
            i += len;
            continue;
        }
        part = line_part(f, raw + i, len, nl != NULL, last, i == 0);
        if (part == 0) {
            f->partial_left = last;
            break;
        }
        room = out->cap - out->len;
        if (starts && f->timestamps)
            room = room > STAMP_TEXT ? room - STAMP_TEXT : 0;
        if (part > room) {
            if (out->len > 0)
                break;
            part = room - utf8_cut(raw + i, room); /* a line longer than a chunk */
        }
        when = out->len == 0 || (starts && f->timestamps) ? time_of(c, f->pos + i) : 0;
        if (out->len == 0)
            f->when_ns = when;
        if (starts && f->timestamps)
            put_time(out, when);
        memcpy(out->data + out->off + out->len, raw + i, part);
        out->len += part;
        i += part;
        f->mid_line = !(nl != NULL && part == len);
        if (starts)
            f->since = 0; /* times do not go back: everything later is wanted */
    }
    f->pos += i;
}

/* The reader was slower than the writer, and what it would have read next is deleted. */
static void tell_gap(struct log_fetch *f, struct cursor *c)
{
    struct chunk *out = f->chunk;
    uint64_t first = first_of(c);
    bool skip = false;
    int n;

    n = snprintf((char *)out->data + out->off, out->cap,
                 "%s[silica: %" PRIu64 " bytes of older output are no longer kept]\n",
                 f->mid_line && !f->skipping ? "\n" : "", first - f->pos);
    out->len = n > 0 ? (size_t)n : 0;
    f->pos = first;
    f->mid_line = false;
    (void)align_first(c, &f->pos, &skip); /* what it cannot read the next fetch cannot either, and says so */
    f->skipping = f->mid_line = skip;
    f->when_ns = time_of(c, f->pos);
}

static int fetch(struct log_fetch *f, struct cursor *c)
{
    AUTO_FREE uint8_t *raw = NULL;
    uint64_t end;
    size_t want;
    ssize_t n;
    int r;

    r = log_segs_list(f->dir, &c->segs);
    if (r == 0 && !f->begun)
        r = begin(f, c);
    if (r < 0)
        return r;
    f->seen_end = end_of(c);
    end = f->seen_end < f->stop_at ? f->seen_end : f->stop_at;
    f->at_end = f->pos >= end;
    if (f->at_end)
        return 0;

    f->chunk = chunk_new(LOG_CHUNK_MAX);
    raw = malloc(LOG_CHUNK_MAX);
    if (f->chunk == NULL || raw == NULL)
        return -ENOMEM;
    if (f->pos < first_of(c)) {
        tell_gap(f, c);
        return 0;
    }
    while (f->chunk->len == 0 && f->pos < end) { /* more than once only while skipping */
        want = end - f->pos < LOG_CHUNK_MAX ? (size_t)(end - f->pos) : LOG_CHUNK_MAX;
        n = cursor_read(c, f->pos, raw, want);
        if (n < 0)
            return (int)n;
        take_lines(f, c, raw, (size_t)n, f->pos + (uint64_t)n == end);
        if (f->partial_left)
            break;
    }
    f->at_end = f->pos >= end || f->partial_left;
    return 0;
}

/* A chunk of its size: most are small, and a slow client keeps them for long. */
static void shrink(struct log_fetch *f)
{
    struct chunk *c = f->chunk, *small;

    if (c == NULL || c->len > c->cap / 2)
        return;
    if (c->len == 0) {
        chunk_free(take_ptr(f->chunk));
        return;
    }
    small = chunk_new(c->len);
    if (small == NULL)
        return;
    memcpy(small->data + small->off, c->data + c->off, c->len);
    small->len = c->len;
    chunk_free(c);
    f->chunk = small;
}

void log_fetch(struct log_fetch *f)
{
    int r = 0;

    for (int i = 0; i < RELIST_MAX; i++) {
        struct cursor c = {.dir = f->dir, .seg = -1, .idx = -1};

        f->chunk = NULL;
        f->partial_left = false;
        r = fetch(f, &c);
        cursor_fini(&c);
        if (r < 0)
            chunk_free(take_ptr(f->chunk));
        if (r != -ENOENT) /* deleted between listing and opening */
            break;
    }
    shrink(f);
    f->failed = r;
}
