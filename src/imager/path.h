/* Names that come out of an archive: cleaning them for use, and writing them into sentences. Pure. */
#pragma once

#include <limits.h>
#include <stddef.h>

#include "base/err.h"

enum {
    PATH_CLEAN_MAX = PATH_MAX, /* with NUL: what openat2(2) takes */
    PATH_NAME_MAX = NAME_MAX,  /* one component */
    PATH_SHOW_MAX = 128,       /* with NUL: a name in a message */
};

/* Writes RAW without leading slashes, "." components and doubled slashes to OUT; "" is the root of the layer. ERR_INVALID
 * for "..", an empty or missing name, a component above PATH_NAME_MAX and a path that does not fit. */
int path_clean(const char *raw, char out[PATH_CLEAN_MAX], struct err *e);

/* Splits a clean PATH at its last slash: the parent ("" = root) goes to PARENT. Returns the last component. */
const char *path_split(const char *path, char parent[PATH_CLEAN_MAX]);

/* RAW for people: quotes, bytes that are not printable ASCII as \xNN, cut with "..." when long. Returns OUT. */
const char *path_show(const char *raw, char out[PATH_SHOW_MAX]);
