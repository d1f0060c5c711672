/* deps: wire; sources: src/init/user.c */
/* The image's /etc/passwd and /etc/group and its USER, whatever they hold: "USER\0passwd\0group". What comes out is a user
 * of the sandbox or a sentence. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "init/user.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct user_result u;
    const uint8_t *nul = memchr(data, '\0', size), *second;
    size_t left, passwd_len, group_len;
    char why[USER_WHY_MAX] = "", *passwd, *group;
    int r;

    if (nul == NULL)
        return 0;
    left = size - (size_t)(nul + 1 - data);
    second = memchr(nul + 1, '\0', left);
    passwd_len = second != NULL ? (size_t)(second - nul - 1) : left;
    group_len = second != NULL ? left - passwd_len - 1 : 0;
    passwd = malloc(passwd_len + 1); /* exact copies, so that a read past their end is seen */
    group = malloc(group_len + 1);
    memcpy(passwd, nul + 1, passwd_len);
    if (group_len > 0)
        memcpy(group, second + 1, group_len);
    passwd = realloc(passwd, passwd_len > 0 ? passwd_len : 1);
    group = realloc(group, group_len > 0 ? group_len : 1);

    r = user_resolve((const char *)data, passwd, passwd_len, second != NULL ? group : NULL, group_len, &u, why);
    if (r == 0) {
        assert(u.who.uid < PLAN_SANDBOX_IDS && u.who.gid < PLAN_SANDBOX_IDS);
        assert(u.who.ngroups >= 1 && u.who.ngroups <= IN_GROUPS_MAX && u.who.groups[0] == u.who.gid);
        assert(u.home[0] == '/' && strlen(u.name) < USER_NAME_MAX);
    } else {
        assert(why[0] != '\0' && strlen(why) < USER_WHY_MAX);
    }
    free(passwd);
    free(group);
    return 0;
}
