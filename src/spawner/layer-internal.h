/* Between layer.c and its drivers. */
#pragma once

#include "spawner/drivers.h"

struct layer_host {
    int boxes_fd; /* <state dir>/boxes */
    char state_dir[256];
    char run_dir[192];
    unsigned serial; /* names of parked layers */
};
extern struct layer_host layer_host;

extern const struct layer_driver layer_loop, layer_tmpfs, layer_prjquota;

enum {
    LAYER_BLOCK = 4096,
    LAYER_INODE_RATIO = 16 << 10, /* bytes of a layer for one inode */
    LAYER_INODES_MIN = 2048,
};
#define LAYER_BYTES_MIN (4ull << 20)  /* smaller ones are rounded up: a file system needs room for itself */
#define LAYER_BYTES_MAX (16ull << 40) /* ext4 with 4 KiB blocks and 32-bit block numbers */
/* New layers are refused when the disk has less free than RESERVE_BYTES or 1/RESERVE_PART of itself, the smaller one. */
#define LAYER_RESERVE_BYTES (1ull << 30)
enum { LAYER_RESERVE_PART = 20 };

/* The mount MNT becomes L's directory: parked first where overlay needs a place. Takes MNT. */
int layer_adopt_mount(struct layer *l, int mnt, struct err *e);
/* Makes `upper` and `work` in L's directory. */
int layer_make_dirs(struct layer *l, struct err *e);
/* Gives them to UID_BASE. */
int layer_give(struct layer *l, uint32_t uid_base, struct err *e);
/* Closes the fd and takes the mount off its place: what most drivers do to settle. */
void layer_drop_mount(struct layer *l);
uint64_t layer_inodes(uint64_t bytes);

/* layer-loop.c: an ext4 in a file of the state directory, or of memory. */
int loop_make(struct layer *l, uint64_t bytes, bool in_memory, struct err *e);
/* layer-tmpfs.c: how it is done on a kernel whose tmpfs has no user.* attributes; for tests. */
void layer_tmpfs_set_fallback(bool on);
