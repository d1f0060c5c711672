/* Builds tar archives byte by byte, also ones that no honest program would write. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

struct tar_entry {
    const char *name;
    char type; /* '0' file, '1' hard link, '2' symbolic link, '3' '4' devices, '5' directory, '6' FIFO; 0 = '0' */
    const char *link;
    unsigned mode; /* 0 = 0644, 0755 for directories */
    unsigned uid, gid;
    const char *data; /* NULL = SIZE bytes of zeros */
    uint64_t size;    /* 0 = strlen(data) */
    long mtime;
    const char *xattr[3][2]; /* name, value */
    const char *raw_size;    /* 12 bytes instead of the size */
};

void tar_add(struct buf *b, const struct tar_entry *e);
void tar_end(struct buf *b);
/* Replaces B by itself compressed: "gzip" or "zstd". */
void tar_compress(struct buf *b, const char *filter);
