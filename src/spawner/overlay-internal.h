/* How this kernel takes the layers of an overlay; chosen once by trying. Shared by slot.c, the layer drivers and tests. */
#pragma once

#include "spawner/drivers.h"

enum ovl_mode {
    OVL_UNKNOWN,
    OVL_BY_FD,   /* 6.13: FSCONFIG_SET_FD, detached mounts are fine */
    OVL_BY_PATH, /* 6.7: `lowerdir+` with a path; layers must be mounted somewhere. Goes away with kernels before 6.13 */
    OVL_CLASSIC, /* one `lowerdir=a:b:c`. Goes away with kernels before 6.7 */
    OVL_MODE_COUNT,
};

/* The lowest layer of a read-only sandbox: nothing but the directories and files that get mounted over. It lives beside
 * the layers, so that the slot's idmapped mount shows it too. */
#define OVL_SKELETON ".mountpoints"

int overlay_skeleton(int layers_dirfd, struct err *e);
/* True when an overlay can be made over the layers below the mount LAYERS_FD in this mode. */
bool overlay_probe(int layers_fd, enum ovl_mode mode);
void overlay_set_mode(enum ovl_mode mode);
enum ovl_mode overlay_mode(void);
