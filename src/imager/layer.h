/* One tar into one layer directory. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "imager/input.h"

enum {
    LAYER_UID_MAX = 65535,        /* of the store range: a larger id cannot be shown in a sandbox */
    LAYER_ENTRY_OVERHEAD = 4096,  /* bytes of stream an entry may take beyond its content, on average */
    LAYER_STREAM_SLACK = 1 << 20, /* padding after the end mark */
    LAYER_NOTES_MAX = 8,
    LAYER_NOTE_MAX = 320,
};

struct layer_limits {
    uint64_t bytes; /* of all files unpacked, holes included */
    uint64_t entries;
    size_t dirs_bytes; /* of names of directories; 0 = PLACE_DIRS_BYTES_MAX */
};

struct layer_result {
    uint64_t tar_bytes, unpacked_bytes, entries;
    uint32_t skipped_devices, stripped_xattrs;
    char digest[INPUT_DIGEST_MAX];
    char notes[LAYER_NOTES_MAX][LAYER_NOTE_MAX]; /* sentences, the first NOTE_COUNT */
    unsigned note_count;
};

/* Unpacks the tar (plain, gzip or zstd) read from IN beneath DIR, an empty directory. Errors say which entry and why:
 * ERR_INVALID for what an archive must not hold, ERR_EXHAUSTED for limits and a full disk. After an error DIR holds a part.
 * The locale must be "C": with another one libarchive rewrites names (it normalizes UTF-8). */
int layer_unpack(int dir, int in, const struct layer_limits *limits, struct layer_result *ret, struct err *e);
