/* Puts files into the directory of a layer. This is the code that faces hostile names: every parent directory is
 * resolved beneath the layer with no symbolic link on the way, every last component is made new (O_EXCL) or replaced
 * without following it. Paths are clean (path.h). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "base/buf.h"
#include "base/err.h"
#include "imager/path.h"

/* Bytes kept for the times of directories, which are set when everything is in place. */
enum { PLACE_DIRS_BYTES_MAX = 64 << 20 };

struct place {
    int root;   /* the layer; the caller's */
    int parent; /* the last parent that was opened, -1 = none: most entries share theirs with the one before */
    char parent_path[PATH_CLEAN_MAX];
    struct buf dirs; /* path and time of directories, in a form of place.c */
};

struct place_meta {
    uint32_t uid, gid;
    mode_t mode; /* permission bits */
    struct timespec mtime;
};

/* DIRS_BYTES: 0 = PLACE_DIRS_BYTES_MAX. */
void place_init(struct place *p, int root, size_t dirs_bytes);
void place_fini(struct place *p);

/* Makes or keeps a directory. *RET_FD, for extended attributes, is the caller's. */
int place_dir(struct place *p, const char *path, const struct place_meta *m, int *ret_fd, struct err *e);
/* Makes an empty file to be written through *RET_FD (the caller's), then finished. */
int place_file(struct place *p, const char *path, int *ret_fd, struct err *e);
int place_finish(int fd, const struct place_meta *m, struct err *e);
int place_symlink(struct place *p, const char *path, const char *target, const struct place_meta *m, struct err *e);
int place_fifo(struct place *p, const char *path, const struct place_meta *m, struct err *e);
/* TARGET is clean, too. It must be in this layer already. */
int place_link(struct place *p, const char *path, const char *target, struct err *e);
/* PATH hides what lower layers have under this name; what this layer itself has stays. */
int place_whiteout(struct place *p, const char *path, struct err *e);
/* The directory PATH hides everything lower layers have in it. */
int place_opaque(struct place *p, const char *path, struct err *e);
/* Sets the times of directories. Last. */
int place_times(struct place *p, struct err *e);

/* Fills E for a failed file operation: a full disk is ERR_EXHAUSTED, everything else ERR_INTERNAL. */
int place_fail(struct err *e, int code, const char *what);
