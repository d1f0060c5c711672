/* User namespaces made of nothing but their maps: for idmapped mounts. */
#pragma once

#include <stdint.h>

#include "base/err.h"

/* Maps [INSIDE, +COUNT) to [OUTSIDE, +COUNT), uids and gids alike; OWNER is the host uid that owns it (and whose per-user
 * limits it counts against). */
int userns_make(uint32_t inside, uint32_t outside, uint32_t count, uint32_t owner, int *ret_fd, struct err *e);
