/* Whom an image's USER names: init's own reader of /etc/passwd and /etc/group, on text already in memory. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "init/plan.h"

enum {
    USER_FILE_MAX = 1 << 20, /* bytes of /etc/passwd or /etc/group that are read; a larger file is refused */
    USER_LINE_MAX = 4096,    /* longer lines are passed over */
    USER_NAME_MAX = 256,     /* with NUL */
    USER_WHY_MAX = 400,
};

struct user_result {
    struct identity who;
    char home[IN_PATH_MAX];   /* "/" when there is no entry */
    char name[USER_NAME_MAX]; /* "" when there is no entry */
};

/* Reads SPEC: "", "name", "uid", either with ":group" or ":gid" after it, or ":group" alone. PASSWD or GROUP is NULL
 * when the image has no such file. The primary group is also the first supplementary one; further ones come from
 * membership unless SPEC names a group. Returns 0 or a negative errno with a sentence in WHY (USER_WHY_MAX bytes). */
int user_resolve(const char *spec, const char *passwd, size_t passwd_len, const char *group, size_t group_len,
                 struct user_result *ret, char *why);
