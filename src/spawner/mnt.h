/* Small pieces of the new mount API that the drivers share: making a detached mount, cloning one, parking one where
 * the kernel wants a mount with a place. Spawner only (it builds error sentences); the child has its own in rootfs.c. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct mnt_opt {
    const char *key;   /* NULL ends a list */
    const char *value; /* NULL = a flag */
};

/* fsopen + OPTS + create + fsmount with ATTR (MOUNT_ATTR_*). *RET_FD is a detached mount. On failure E has the kernel's
 * own words too. */
int mnt_make(const char *fstype, const struct mnt_opt *opts, uint64_t attr, int *ret_fd, struct err *e);
/* Puts what the kernel said on the context FSFD (from fsopen) behind E's message. */
void mnt_kernel_words(int fsfd, struct err *e);

/* A place of its own for a detached mount, in the spawner's mount namespace: DIR/<KIND>/<N>. -EEXIST when it is taken. */
enum { MNT_PLACE_MAX = 192 };
int mnt_park(int mnt_fd, const char *dir, const char *kind, unsigned n, char ret_path[MNT_PLACE_MAX], struct err *e);
/* Undoes mnt_park; an empty path is fine. */
void mnt_unpark(char path[MNT_PLACE_MAX]);
/* Unmounts and removes what a spawner before us left in DIR/<KIND>. */
void mnt_unpark_all(const char *dir, const char *kind);
