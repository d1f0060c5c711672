/* Opening and removing what lies beneath a directory, whatever a hostile archive has put there. */
#pragma once

#include <stdint.h>

#include "base/err.h"

/* Opens PATH ("" = DIR itself) beneath DIR: no symbolic link in any component, no way out, no other mount. FLAGS and MODE as
 * for open(2); close-on-exec is added. Returns the fd or a negative errno (-ELOOP: a symbolic link). */
int tree_open(int dir, const char *path, uint64_t flags, unsigned mode);

/* Removes NAME (one component) in DIR and everything below, following nothing. Uses three fds and no recursion however deep
 * the tree is. A NAME that does not exist is fine. */
int tree_remove(int dir, const char *name, struct err *e);
