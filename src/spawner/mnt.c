#include "spawner/mnt.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"

void mnt_kernel_words(int fsfd, struct err *e)
{
    char line[256];
    ssize_t n;

    if (e == NULL)
        return;

    /* One message a read, "e overlay: why"; the last error is the telling one but the first is the cause. */
    n = read(fsfd, line, sizeof line - 1);
    if (n <= 2)
        return;
    line[n] = '\0';
    line[strcspn(line, "\n")] = '\0';

    size_t have = strlen(e->msg);
    (void)snprintf(e->msg + have, sizeof e->msg - have, " (%s)", line + 2); /* a cut message is still a message */
}

int mnt_make(const char *fstype, const struct mnt_opt *opts, uint64_t attr, int *ret_fd, struct err *e)
{
    AUTO_FD fs = -1;
    int fd, r;

    fs = fsopen(fstype, FSOPEN_CLOEXEC);
    if (fs < 0)
        return err_set(e, errno, "open a %s file system: %m", fstype);

    for (const struct mnt_opt *o = opts; o != NULL && o->key != NULL; o++) {
        if (fsconfig(fs, o->value != NULL ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG, o->key, o->value, 0) < 0) {
            r = err_set(e, errno, "set %s option '%s': %m", fstype, o->key);
            mnt_kernel_words(fs, e);
            return r;
        }
    }
    if (fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0) {
        r = err_set(e, errno, "make a %s file system: %m", fstype);
        mnt_kernel_words(fs, e);
        return r;
    }

    fd = fsmount(fs, FSMOUNT_CLOEXEC, (unsigned)attr);
    if (fd < 0)
        return err_set(e, errno, "mount a %s file system: %m", fstype);

    *ret_fd = fd;
    return 0;
}

static int make_dir(const char *path, struct err *e)
{
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return err_set(e, errno, "make directory '%s': %m", path);
    return 0;
}

int mnt_park(int mnt_fd, const char *dir, const char *kind, unsigned n, char ret_path[MNT_PLACE_MAX], struct err *e)
{
    char path[MNT_PLACE_MAX];
    int r;

    if (snprintf(path, sizeof path, "%s/%s", dir, kind) >= (int)sizeof path - 12)
        return err_set(e, ENAMETOOLONG, "the run directory's name '%s' is too long for mount options", dir);
    r = make_dir(path, e);
    if (r < 0)
        return r;

    (void)snprintf(path + strlen(path), sizeof path - strlen(path), "/%u", n);
    if (mkdir(path, 0700) < 0)
        return err_set(e, errno, "make directory '%s': %m", path);

    if (move_mount(mnt_fd, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) < 0) {
        r = err_set(e, errno, "mount on '%s': %m", path);
        (void)rmdir(path);
        return r;
    }

    memcpy(ret_path, path, sizeof path);
    return 0;
}

void mnt_unpark(char path[MNT_PLACE_MAX])
{
    if (path[0] == '\0')
        return;
    (void)umount2(path, MNT_DETACH); /* fails only when it is gone already */
    (void)rmdir(path);               /* the next start tries again */
    path[0] = '\0';
}

void mnt_unpark_all(const char *dir, const char *kind)
{
    char path[MNT_PLACE_MAX], place[MNT_PLACE_MAX + 16];
    struct dirent *d;
    DIR *list;

    if (snprintf(path, sizeof path, "%s/%s", dir, kind) >= (int)sizeof path)
        return;
    list = opendir(path);
    if (list == NULL)
        return; /* nothing was ever parked */

    while ((d = readdir(list)) != NULL) {
        if (d->d_name[0] < '0' || d->d_name[0] > '9' || strlen(d->d_name) > 10)
            continue;
        (void)snprintf(place, sizeof place, "%s/%.10s", path, d->d_name);
        (void)umount2(place, MNT_DETACH); /* usually not a mount any more: the namespace died with its spawner */
        (void)rmdir(place);
    }
    (void)closedir(list);
    (void)rmdir(path);
}
