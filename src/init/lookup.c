/* IN_USER: reads the sandbox's /etc/passwd and /etc/group. In init itself, which must not block: only a regular file on
 * the root file system is read, never one on another mount (which might be a network or FUSE file system). */
#include "init/init-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "init/kernel.h"
#include "init/user.h"

enum { LOOKUP_TRIES = 128 };

static int open_text(const struct init *in, const char *path)
{
    int fd = -1;

    for (int i = 0; i < LOOKUP_TRIES; i++) {
        fd = k_openat2(in->root_fd, path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0,
                       K_RESOLVE_IN_ROOT | K_RESOLVE_NO_MAGICLINKS | K_RESOLVE_NO_XDEV);
        if (fd >= 0 || errno != EAGAIN)
            break;
    }
    return fd < 0 ? -errno : fd;
}

static int refuse(char *why, int code, const char *path, const char *what)
{
    (void)snprintf(why, USER_WHY_MAX, "the image's /%s %s", path, what);
    return code;
}

/* *RET is NULL when there is no such file; else free() it. */
static int read_text(const struct init *in, const char *path, char **ret, size_t *ret_len, char *why)
{
    AUTO_FD fd = open_text(in, path);
    AUTO_FREE char *text = NULL;
    struct stat st;
    ssize_t n;

    *ret = NULL;
    *ret_len = 0;
    if (fd == -ENOENT || fd == -ENOTDIR)
        return 0;
    if (fd == -EXDEV)
        return refuse(why, fd, path, "is on another file system than its root");
    if (fd < 0)
        return refuse(why, fd, path, "cannot be opened");
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        return refuse(why, -EINVAL, path, "is not a regular file");
    if (st.st_size > USER_FILE_MAX)
        return refuse(why, -EFBIG, path, "is larger than 1 MiB");
    if (st.st_size == 0)
        return 0;
    text = malloc((size_t)st.st_size);
    if (text == NULL)
        return refuse(why, -ENOMEM, path, "does not fit into memory");
    n = read(fd, text, (size_t)st.st_size);
    if (n < 0)
        return refuse(why, -errno, path, "cannot be read");
    *ret_len = (size_t)n;
    *ret = take_ptr(text);
    return 0;
}

static void answer(struct init *in, uint64_t token, const struct user_result *u)
{
    struct wire_tail tail = {0};
    struct in_user_is is = {.uid = u->who.uid, .gid = u->who.gid, .ngroups = u->who.ngroups};

    memcpy(is.groups, u->who.groups, sizeof is.groups);
    is.home = wire_put_str(&tail, u->home);
    if (u->name[0] != '\0')
        is.name = wire_put_str(&tail, u->name);
    if (tail.failed) {
        wire_tail_fini(&tail);
        control_refuse(in, token, -ENOMEM, IN_ST_USER, "out of memory");
        return;
    }
    control_answer_tail(in, IN_USER_IS, token, &is, sizeof is, &tail);
}

void user_request(struct init *in, const struct wire_msg *m)
{
    AUTO_FREE char *passwd = NULL;
    AUTO_FREE char *group = NULL;
    size_t passwd_len, group_len;
    struct user_result u;
    char why[USER_WHY_MAX];
    bool bad = false;
    const char *spec = wire_get_str(m, ((const struct in_user *)m->body)->user, &bad);
    int r = 0;

    if (bad) {
        control_refuse(in, m->head->token, -EINVAL, IN_ST_USER, "malformed user");
        return;
    }
    r = read_text(in, "etc/passwd", &passwd, &passwd_len, why);
    if (r == 0)
        r = read_text(in, "etc/group", &group, &group_len, why);
    if (r == 0)
        r = user_resolve(spec != NULL ? spec : "", passwd, passwd_len, group, group_len, &u, why);
    if (r < 0)
        control_refuse(in, m->head->token, r, IN_ST_USER, why);
    else
        answer(in, m->head->token, &u);
}
