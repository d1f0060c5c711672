/* What the files of the main process's log share.
 *
 *   log.c         pipe -> files, one job at a time          log-reader.c  callers of engine_logs(), loop side
 *   log-dir.c     segments and their index (pool thread)    log-fetch.c   the next chunk of a reader (pool thread)
 *
 * On disk: <state_dir>/logs/<sandbox>/<offset of its first byte, 20 digits>.seg, and beside each segment an .idx with struct
 * log_stamp records: from this offset on the bytes arrived at that time. A stamp is written before the bytes it
 * describes, so the size of a segment is the truth after a crash and every byte has a stamp. Offsets are absolute: bytes kept
 * since the sandbox began, those deleted since included. */
#pragma once

#include <sys/queue.h>

#include "engine/engine-internal.h"

enum {
    LOG_SEGMENT_MAX = 4 << 20,
    LOG_INDEX_MAX = 1 << 20,   /* of one segment: full of one-byte writes it ends early */
    LOG_SEGMENT_MIN = 4 << 10, /* when log_max_bytes is small */
    LOG_SEGMENTS_KEPT = 4,     /* at least: a segment is at most this part of log_max_bytes */
    LOG_BATCH_MAX = 1 << 20,   /* moved by one job */
    LOG_STAMP_NS = 1000000,    /* stamps are at least this far apart */
    LOG_CHUNK_MAX = 256 << 10,
    LOG_ALIGN_MAX = 64 << 10, /* how far the oldest kept line is looked for */
    LOG_NAME_MAX = 32,
    LOG_PIPE_SIZE = 256 << 10, /* of a busy main process */
    LOG_RETRY_MS = 10,         /* when the pool takes no more jobs */
    LOG_PARTIAL_MS = 50,       /* a follower waits this long for the end of a line */
    LOG_READERS_MAX = 64,      /* of one live sandbox */
};

struct log_stamp {
    uint64_t off; /* with LOG_STAMP_LINE in the first one of a segment that begins a line */
    uint64_t ns;  /* wall clock, never going back */
};
_Static_assert(sizeof(struct log_stamp) == 16, "log index: no padding");
#define LOG_STAMP_LINE (1ull << 63)

struct log_seg {
    uint64_t start, size, index_size;
};
struct log_segs {
    struct log_seg *v; /* ascending */
    size_t n;
};

/* ---- log-dir.c: pool thread ---------------------------------------------------------------------------------------- */
/* The segments of the directory DIR; none when it does not exist. Free V. */
int log_segs_list(const char *dir, struct log_segs *ret);
/* The file of a segment: EXT "seg" or "idx". Negative errno. */
int log_file_open(const char *dir, uint64_t start, const char *ext, int flags);
int log_dir_remove(const char *dir);

struct log_writer {
    const char *dir;
    uint64_t total_max, seg_max;
    bool opened;
    bool at_line;                     /* the last segment begins with a line */
    uint64_t start, size, index_size; /* of the last segment */
    uint64_t stamp_off, stamp_ns;     /* of the last stamp */
    uint64_t lost;                    /* bytes since the disk took the last one */
    int lost_code;                    /* why */
};
struct log_batch {
    size_t moved; /* out of the pipe, lost ones included */
    bool eof;
};
/* Moves up to LIMIT bytes out of the pipe IN, without waiting for more. What the disk does not take is counted in W->lost and
 * said in the log as soon as it takes something again: a full disk must not stop the sandbox. */
void log_write(struct log_writer *w, int in, size_t limit, struct log_batch *ret);
/* The line that says so; LEN bytes in OUT (at least 160). */
size_t log_lost_line(char *out, size_t cap, uint64_t lost, int code);

/* ---- log-fetch.c: pool thread ---------------------------------------------------------------------------------------- */
struct log_fetch {
    const char *dir;
    bool follow, timestamps;
    bool final;   /* nothing more will come: an unfinished line or character is given as it is */
    bool partial; /* give an unfinished line, as far as its characters are whole */
    uint32_t tail;
    uint64_t since;
    /* where it stands */
    bool begun;
    uint64_t pos, stop_at;
    bool mid_line, skipping; /* inside a line; one that is not wanted */
    /* what came of it */
    struct chunk *chunk; /* NULL: nothing */
    uint64_t when_ns;
    uint64_t seen_end; /* of the files */
    bool at_end, partial_left;
    int failed; /* negative errno */
};
void log_fetch(struct log_fetch *f);

/* ---- log.c, log-reader.c: loop ----------------------------------------------------------------------------------------- */
LIST_HEAD(log_readers, log_reader);

struct box_log {
    struct box *box;
    struct engine *en;
    int fd; /* the pipe; the job's while one runs */
    struct io io;
    char *dir;
    struct work work;
    struct log_writer writer; /* the job's while one runs */
    struct log_batch batch;
    size_t limit;
    bool busy, enlarged, draining, finishing, finished, dead;
    bool ended;      /* everybody can see that the sandbox has ended: who follows is let go */
    uint64_t end;    /* of the files; 0 before the first job */
    uint64_t rounds; /* jobs finished */
    uint64_t lost;
    int lost_code;
    void (*done)(struct box *b);
    struct defer later;
    struct timer retry;
    struct log_readers readers;
    unsigned reader_count;
};
char *log_dir_path(const struct engine *en, const char *id);
/* Something is new in L: its readers look. */
void log_readers_wake(struct box_log *l);
/* L goes away. */
void log_readers_detach(struct box_log *l);
