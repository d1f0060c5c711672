/* Removal without recursion: directories found inside a victim are moved up to its top and emptied there in turn, so
 * that neither the stack nor the number of fds depends on how deep an archive nested them. */
#include "imager/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"

int tree_open(int dir, const char *path, uint64_t flags, unsigned mode)
{
    struct open_how how = {
        .flags = flags | O_CLOEXEC | O_NOFOLLOW,
        .mode = mode,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV,
    };
    long fd;

    do
        fd = syscall(SYS_openat2, dir, *path != '\0' ? path : ".", &how, sizeof how);
    while (fd < 0 && errno == EINTR);
    return fd < 0 ? -errno : (int)fd;
}

static DIR *open_dir(int dir, const char *name)
{
    int fd = tree_open(dir, name, O_RDONLY | O_DIRECTORY, 0);
    DIR *d;

    if (fd < 0) {
        errno = -fd;
        return NULL;
    }
    d = fdopendir(fd);
    if (d == NULL)
        fd_close(fd);
    return d;
}

/* Moves the directory NAME in FROM to TOP under a name nobody uses. */
static int move_up(int from, const char *name, int top, uint64_t *serial)
{
    char fresh[32];

    for (;;) {
        (void)snprintf(fresh, sizeof fresh, "r%llx", (unsigned long long)(*serial)++);
        if (renameat2(from, name, top, fresh, RENAME_NOREPLACE) == 0)
            return 0;
        if (errno != EEXIST)
            return -errno;
    }
}

/* Empties D, a directory in TOP: files go, directories move up to TOP. */
static int empty_into(DIR *d, int top, uint64_t *serial)
{
    struct dirent *ent;
    int r;

    while (errno = 0, (ent = readdir(d)) != NULL) {
        if (strcmp(ent->d_name, ".") == 0 || strcmp(ent->d_name, "..") == 0)
            continue;
        if (unlinkat(dirfd(d), ent->d_name, 0) == 0 || errno == ENOENT)
            continue;
        if (errno != EISDIR && errno != EPERM)
            return -errno;
        if (unlinkat(dirfd(d), ent->d_name, AT_REMOVEDIR) == 0)
            continue;
        r = move_up(dirfd(d), ent->d_name, top, serial);
        if (r < 0)
            return r;
    }
    return -errno;
}

/* One pass over TOP. *RET_LEFT: something was there, so another pass has to look for what was moved up meanwhile. */
static int pass(int dir, const char *name, uint64_t *serial, bool *ret_left)
{
    DIR *top = open_dir(dir, name), *sub;
    struct dirent *ent;
    int r = 0;

    if (top == NULL)
        return -errno;
    *ret_left = false;
    while (errno = 0, (ent = readdir(top)) != NULL) {
        if (strcmp(ent->d_name, ".") == 0 || strcmp(ent->d_name, "..") == 0)
            continue;
        *ret_left = true;
        if (unlinkat(dirfd(top), ent->d_name, 0) == 0 || errno == ENOENT)
            continue;
        if (errno != EISDIR && errno != EPERM) {
            r = -errno;
            break;
        }
        sub = open_dir(dirfd(top), ent->d_name);
        if (sub == NULL) {
            r = -errno;
            break;
        }
        r = empty_into(sub, dirfd(top), serial);
        (void)closedir(sub); /* only read from */
        if (r < 0)
            break;
        if (unlinkat(dirfd(top), ent->d_name, AT_REMOVEDIR) < 0) {
            r = -errno;
            break;
        }
    }
    if (r == 0 && ent == NULL)
        r = -errno;
    (void)closedir(top); /* only read from */
    return r;
}

int tree_remove(int dir, const char *name, struct err *e)
{
    uint64_t serial = 0;
    bool left = true;
    int r = 0;

    if (unlinkat(dir, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno != EISDIR && errno != EPERM)
        return err_set(e, errno, "cannot remove '%s': %m", name);
    while (left && r == 0)
        r = pass(dir, name, &serial, &left);
    if (r == 0 && unlinkat(dir, name, AT_REMOVEDIR) < 0)
        r = -errno;
    if (r < 0 && r != -ENOENT)
        return err_set(e, r, "cannot remove the directory '%s': %m", name);
    return 0;
}
