/* A writable layer as a directory of the state directory's own file system, with a project quota (XFS or ext4 mounted
 * with `prjquota`): the cheapest driver, where the kernel and the administrator offer it.
 *
 * The project's number is the sandbox's first uid, which no other sandbox of the host has. Unlike the other drivers the
 * data does not go by itself: release moves it to the trash, and a child empties that. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/quota.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "spawner/layer-internal.h"

enum { NAME_BYTES = 24 };
#define TRASH "trash"

static struct {
    pid_t reaper;
    unsigned serial;
    bool dirty;
} g;

static long quota(unsigned cmd, uint32_t id, void *arg)
{
    return syscall(SYS_quotactl_fd, layer_host.boxes_fd, QCMD(cmd, PRJQUOTA), id, arg);
}

static void name_of(uint32_t uid_base, char out[NAME_BYTES])
{
    (void)snprintf(out, NAME_BYTES, "q-%u", uid_base);
}

static int set_limit(uint32_t id, uint64_t bytes, uint64_t inodes)
{
    struct if_dqblk q = {
        .dqb_bhardlimit = bytes >> 10,
        .dqb_ihardlimit = inodes,
        .dqb_valid = QIF_BLIMITS | QIF_ILIMITS,
    };

    return quota(Q_SETQUOTA, id, &q) < 0 ? -errno : 0;
}

static int set_project(int fd, uint32_t id)
{
    struct fsxattr x;

    if (ioctl(fd, FS_IOC_FSGETXATTR, &x) < 0)
        return -errno;
    x.fsx_projid = id;
    x.fsx_xflags |= FS_XFLAG_PROJINHERIT;
    return ioctl(fd, FS_IOC_FSSETXATTR, &x) < 0 ? -errno : 0;
}

/* ---- the trash ---------------------------------------------------------------------------------------------------- */

/* Removes what is in DIR of the trash, but for directories that hold something: those become entries of the trash of their
 * own. So it takes neither recursion nor many fds, however deep somebody has nested directories. */
static void empty_dir(int trash, const char *name)
{
    static unsigned moved;
    char to[48];
    struct dirent *d;
    DIR *list;
    int fd = openat(trash, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    list = fd < 0 ? NULL : fdopendir(fd);
    if (list == NULL) {
        fd_close(fd);
        return;
    }
    while ((d = readdir(list)) != NULL) {
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
            continue;
        if (unlinkat(fd, d->d_name, 0) == 0 || errno != EISDIR || unlinkat(fd, d->d_name, AT_REMOVEDIR) == 0)
            continue;
        (void)snprintf(to, sizeof to, "%d.%u", (int)getpid(), moved++);
        (void)renameat(fd, d->d_name, trash, to); /* what cannot be moved stays for the next start */
    }
    (void)closedir(list);
}

static bool empty_trash_once(int trash)
{
    bool progress = false;
    struct dirent *d;
    DIR *list;
    int fd = openat(trash, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    list = fd < 0 ? NULL : fdopendir(fd);
    if (list == NULL) {
        fd_close(fd);
        return false;
    }
    while ((d = readdir(list)) != NULL) {
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
            continue;
        empty_dir(trash, d->d_name);
        if (unlinkat(trash, d->d_name, AT_REMOVEDIR) == 0)
            progress = true;
    }
    (void)closedir(list);
    return progress;
}

/* Our memory is copied (we have one thread, so the heap is sound in the child) and no SIGCHLD is sent: the spawner need
 * not know of this child. */
static void start_reaper(void)
{
    int fd;

    g.dirty = false;
    g.reaper = (pid_t)syscall(SYS_clone, 0, 0, 0, 0, 0);
    if (g.reaper != 0)
        return;

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* the next spawner goes on */
    fd = openat(layer_host.boxes_fd, TRASH, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    while (fd >= 0 && empty_trash_once(fd))
        ;
    _exit(0);
}

static bool prjquota_refill(void)
{
    if (g.reaper > 0 && waitpid(g.reaper, NULL, __WCLONE | WNOHANG) != 0)
        g.reaper = 0;
    if (g.reaper <= 0 && g.dirty)
        start_reaper();
    return false; /* the child works on its own; it is looked at again with the next sandbox */
}

static int throw_away(const char *name)
{
    char to[sizeof TRASH + 40];

    (void)snprintf(to, sizeof to, TRASH "/%d.%u", (int)getpid(), g.serial++);
    if (renameat(layer_host.boxes_fd, name, layer_host.boxes_fd, to) < 0)
        return -errno;
    g.dirty = true;
    return 0;
}

/* ---- the driver --------------------------------------------------------------------------------------------------- */

static bool prjquota_probe(const char *state_dir)
{
    struct if_dqinfo info;

    (void)state_dir;
    if (quota(Q_GETINFO, 0, &info) < 0)
        return false;
    if (mkdirat(layer_host.boxes_fd, TRASH, 0700) < 0 && errno != EEXIST)
        return false;
    g.dirty = true; /* a spawner before us may not have come to the end of it */
    return true;
}

static int prjquota_take(struct layer *l, uint64_t bytes, uint32_t uid_base, struct err *e)
{
    char name[NAME_BYTES];
    int r;

    name_of(uid_base, name);
    if (mkdirat(layer_host.boxes_fd, name, 0700) < 0) {
        if (errno != EEXIST || throw_away(name) < 0 || mkdirat(layer_host.boxes_fd, name, 0700) < 0)
            return err_set(e, errno, "make the directory of a writable layer: %m");
    }
    l->dir_fd = openat(layer_host.boxes_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (l->dir_fd < 0)
        return err_set(e, errno, "open the directory of a writable layer: %m");

    l->priv = (void *)(uintptr_t)uid_base;
    r = set_project(l->dir_fd, uid_base);
    if (r == 0)
        r = set_limit(uid_base, bytes, layer_inodes(bytes));
    if (r < 0)
        err_set(e, r, "limit the writable layer to %llu bytes by project quota: %m", (unsigned long long)bytes);
    if (r == 0)
        r = layer_make_dirs(l, e);
    if (r == 0)
        r = layer_give(l, uid_base, e);
    if (r < 0) {
        fd_closep(&l->dir_fd);
        (void)throw_away(name); /* else the next start finds it */
    }
    return r;
}

static void prjquota_release(struct layer *l)
{
    uint32_t id = (uint32_t)(uintptr_t)l->priv;
    char name[NAME_BYTES];

    fd_closep(&l->dir_fd);
    name_of(id, name);
    (void)throw_away(name);
    (void)set_limit(id, 0, 0); /* no limit: only a number is left behind */
}

static void prjquota_key(const struct layer *l, char *out)
{
    name_of((uint32_t)(uintptr_t)l->priv, out);
}

static int prjquota_claim(struct layer *l, const char *key, uint32_t uid_base, struct err *e)
{
    char name[NAME_BYTES];

    name_of(uid_base, name);
    if (strcmp(name, key) != 0)
        return err_set(e, EINVAL, "the writable layer '%s' is not that of uid %u", key, uid_base);
    l->priv = (void *)(uintptr_t)uid_base;
    return 0;
}

static int prjquota_usage(const struct layer *l, uint64_t *ret_used, uint64_t *ret_max)
{
    struct if_dqblk q;

    if (quota(Q_GETQUOTA, (uint32_t)(uintptr_t)l->priv, &q) < 0)
        return -errno;
    *ret_used = q.dqb_curspace;
    *ret_max = q.dqb_bhardlimit << 10;
    return 0;
}

static void prjquota_fini(void)
{
    /* Synchronously: a daemon that was told to leave nothing leaves nothing. */
    if (g.reaper > 0)
        (void)waitpid(g.reaper, NULL, __WCLONE);
    if (g.dirty) {
        start_reaper();
        if (g.reaper > 0)
            (void)waitpid(g.reaper, NULL, __WCLONE);
    }
    g.reaper = 0;
}

static void prjquota_settle(struct layer *l)
{
    fd_closep(&l->dir_fd);
}

const struct layer_driver layer_prjquota = {
    .name = "project quotas",
    .probe = prjquota_probe,
    .take = prjquota_take,
    .settle = prjquota_settle,
    .release = prjquota_release,
    .refill = prjquota_refill,
    .fini = prjquota_fini,
    .key = prjquota_key,
    .claim = prjquota_claim,
    .usage = prjquota_usage,
};
