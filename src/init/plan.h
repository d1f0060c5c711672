/* Requests of silicad, checked: every field has been validated and every string is terminated, inside the message and
 * within its limit. A plan borrows its strings from the message it was read from; only the arrays are its own. */
#pragma once

#include "wire/in.h"

struct identity {
    uint32_t uid, gid, ngroups;
    uint32_t groups[IN_GROUPS_MAX];
};

struct spawn_plan {
    uint32_t kind, flags;
    struct identity who;
    uint16_t rows, cols;
    bool cwd_create;
    const char *cwd;
    const char **argv, **env; /* NULL-terminated */
    const char *
        *sh_argv; /* "/bin/sh", room for the script's path, argv[1]...: for a program without a format of its own */
};

struct open_plan {
    uint32_t flags, mode, timeout_ms;
    struct identity who;
    char path[IN_PATH_MAX]; /* absolute */
};

enum {
    PLAN_OPEN_TIMEOUT_MS = 10000,
    PLAN_OPEN_TIMEOUT_MAX_MS = 600000,
    PLAN_SANDBOX_IDS = 65536, /* uids and gids of one sandbox; -1 and everything above is refused */
};

/* These return 0, or a negative errno with *RET_WHY a sentence (static) and *RET_STAGE where it belongs. */
int plan_spawn(const struct wire_msg *m, struct spawn_plan *ret, uint32_t *ret_stage, const char **ret_why);
void plan_spawn_fini(struct spawn_plan *p);
int plan_open(const struct wire_msg *m, struct open_plan *ret, uint32_t *ret_stage, const char **ret_why);

/* The value of NAME in the NULL-terminated ENV, or NULL. */
const char *plan_getenv(const char *const *env, const char *name);

#define PLAN_DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* Walks a PATH: writes the next candidate for NAME to BUF and moves *CURSOR on. An empty element is the current
 * directory. Returns false at the end. Candidates that do not fit are passed over. */
bool plan_next_candidate(const char **cursor, const char *name, char *buf, size_t cap);
