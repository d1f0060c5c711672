/* The environment of everything that runs in a sandbox: five levels, one merge.
 *
 * Levels from lowest to highest: system, image, sandbox, session, command (enum env_level). At each level a variable can
 * be SET, UNSET (hides every lower level) or RESET (says nothing: lower levels decide). ENV_SKIP at command level is a
 * null that a client sent: ignored. An empty value is a value. Names: not empty, no '=', no NUL; values: no NUL. No
 * kernel object, no I/O: pure. Loop thread only; property-tested against tests/unit/engine-env/env_model.py. */
#pragma once

#include "engine/engine.h"

enum {
    ENV_NAME_MAX = 32 << 10,
    ENV_STRING_MAX = (128 << 10) - 1, /* "NAME=value" without the NUL: MAX_ARG_STRLEN of execve(2) */
    ENV_TOTAL_MAX = 1 << 20,          /* bytes of a merged environment, NULs included; argv has the rest of 2 MiB */
    ENV_COUNT_MAX = 16384,
};

struct env_set; /* levels with their variables */

int env_new(struct env_set **ret);
/* A copy that shares nothing. */
int env_clone(const struct env_set *s, struct env_set **ret);
void env_free(struct env_set *s); /* NULL is fine */

/* Applies ITEMS in order to LEVEL (later ones win). All or nothing: on an error (ERR_INVALID, naming the
 * variable) the set is unchanged. SECRET marks the values for explain. */
int env_apply(struct env_set *s, enum env_level level, const struct env_item *items, size_t count, bool secret,
              struct err *e);
/* "NAME=value" strings of an image; entries without '=' or with an empty name are skipped and counted in *RET_SKIPPED. */
int env_apply_strings(struct env_set *s, enum env_level level, const char *const *strings, unsigned *ret_skipped,
                      struct err *e);
/* Forgets everything LEVEL says. */
void env_clear(struct env_set *s, enum env_level level);

/* The environment for one command: S plus ITEMS at command level. *RET is one allocation (free() it): a NULL-terminated
 * array of "NAME=value" sorted by name, followed by the strings. ERR_INVALID names the variable. */
int env_merge(const struct env_set *s, const struct env_item *items, size_t count, char ***ret, struct err *e);
/* The value NAME would have, or NULL. */
const char *env_lookup(const struct env_set *s, const char *name);
void env_explain(const struct env_set *s, void (*each)(void *arg, const struct env_explained *v), void *arg);
/* For records: all levels as one blob and back. Secret variables are left out as a whole. */
int env_pack(const struct env_set *s, struct buf *out);
int env_unpack(const void *data, size_t len, struct env_set **ret, struct err *e);
