/* One overlay for a sandbox.
 *
 * The layers are named by fds in every mode: as fds where the kernel takes them, else as numbers in /proc/self/fd. So
 * no name is ever escaped, a digest's 64 characters cost nothing, and 128 layers fit where a page is the limit (the
 * classic string) for as long as numbers are short. Nothing is left on disk for it.
 *
 * Options: `userxattr` because layers are unpacked by an imager that is root of a user namespace only, `volatile` because
 * the writable layer is thrown away with the sandbox: without it a sync(2) inside would wait for our disk. `xino=on`
 * keeps st_dev one and the same over all files (find -xdev, du -x, tar --one-file-system), at the price of a line in the
 * kernel log for each mount; "auto" gives it up where a file system has no uuid. */
#include "spawner/overlay-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "spawner/mnt.h"

enum {
    FSCONFIG_STRING_MAX = 255,     /* the kernel's limit for one value of fsconfig(2) */
    MOUNT_DATA_MAX = 4095,         /* of mount(2): a page */
    LOWER_MAX = SP_LAYERS_MAX + 1, /* the skeleton of a read-only sandbox is one more */
    SKELETON_MODE = 0755,
};

static enum ovl_mode the_mode;

void overlay_set_mode(enum ovl_mode mode)
{
    the_mode = mode;
}

enum ovl_mode overlay_mode(void)
{
    return the_mode;
}

bool overlay_by_fd(void)
{
    return the_mode == OVL_BY_FD;
}

static int own(int dirfd, const char *name, struct err *e)
{
    /* The store range is what the slot's mount maps to the sandbox's root. */
    if (fchownat(dirfd, name, STORE_BASE, STORE_BASE, AT_SYMLINK_NOFOLLOW) < 0)
        return err_set(e, errno, "give '%s' to the store's user: %m", name);
    return 0;
}

int overlay_skeleton(int layers_dirfd, struct err *e)
{
    static const char *const dirs[] = {OVL_SKELETON, OVL_SKELETON "/dev", OVL_SKELETON "/proc", OVL_SKELETON "/sys",
                                       OVL_SKELETON "/etc"};
    static const char *const files[] = {OVL_SKELETON "/etc/resolv.conf", OVL_SKELETON "/etc/hosts",
                                        OVL_SKELETON "/etc/hostname"};
    int r;

    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        if (mkdirat(layers_dirfd, dirs[i], SKELETON_MODE) < 0 && errno != EEXIST)
            return err_set(e, errno, "make directory '%s' in the layer store: %m", dirs[i]);
        r = own(layers_dirfd, dirs[i], e);
        if (r < 0)
            return r;
        if (fchmodat(layers_dirfd, dirs[i], SKELETON_MODE, 0) < 0) /* whatever the umask was */
            return err_set(e, errno, "set the mode of '%s': %m", dirs[i]);
    }
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        AUTO_FD fd = openat(layers_dirfd, files[i], O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);

        if (fd < 0)
            return err_set(e, errno, "make file '%s' in the layer store: %m", files[i]);
        r = own(layers_dirfd, files[i], e);
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- the three ways ---------------------------------------------------------------------------------------------- */

struct dirs {
    int lower[LOWER_MAX]; /* highest first, as overlay wants them */
    unsigned count;
    int upper, work; /* -1 = read-only */
};

static int set_dir(int fs, enum ovl_mode mode, const char *key, int fd, struct err *e)
{
    char path[32];
    int r;

    if (mode == OVL_BY_FD) {
        r = fsconfig(fs, FSCONFIG_SET_FD, key, NULL, fd);
    } else {
        (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        r = fsconfig(fs, FSCONFIG_SET_STRING, key, path, 0);
    }
    if (r < 0) {
        r = err_set(e, errno, "give overlay its %s: %m", key);
        mnt_kernel_words(fs, e);
    }
    return r;
}

/* "12:13:14", to be resolved in /proc/self/fd. */
static int lower_string(const struct dirs *d, char *out, size_t cap, struct err *e)
{
    size_t len = 0;

    for (unsigned i = 0; i < d->count; i++) {
        len += (size_t)snprintf(out + len, cap - len, "%s%d", i > 0 ? ":" : "", d->lower[i]);
        if (len >= cap)
            return err_typed(e, ERR_INVALID, NULL, "the image has too many layers for this kernel (%u)", d->count);
    }
    return 0;
}

static int set_common(int fs, bool readonly, struct err *e)
{
    static const struct mnt_opt common[] = {
        {"userxattr", NULL}, {"index", "off"}, {"metacopy", "off"}, {"xino", "on"}, {NULL}};
    int r = 0;

    for (const struct mnt_opt *o = common; r == 0 && o->key != NULL; o++)
        r = fsconfig(fs, o->value != NULL ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG, o->key, o->value, 0);
    if (r == 0 && !readonly)
        r = fsconfig(fs, FSCONFIG_SET_FLAG, "volatile", NULL, 0);
    if (r == 0)
        r = fsconfig(fs, FSCONFIG_SET_STRING, "source", "silica", 0);
    if (r < 0) {
        r = err_set(e, errno, "set overlay options: %m");
        mnt_kernel_words(fs, e);
    }
    return r;
}

static uint64_t mount_attrs(bool readonly)
{
    return MOUNT_ATTR_NODEV | (readonly ? MOUNT_ATTR_RDONLY : 0);
}

static int create(int fs, bool readonly, int *ret_mnt, struct err *e)
{
    int fd, r;

    if (fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0) {
        r = err_set(e, errno, "make the overlay: %m");
        mnt_kernel_words(fs, e);
        return r;
    }
    fd = fsmount(fs, FSMOUNT_CLOEXEC, (unsigned)mount_attrs(readonly));
    if (fd < 0)
        return err_set(e, errno, "mount the overlay: %m");
    *ret_mnt = fd;
    return 0;
}

static int make_plus(const struct dirs *d, enum ovl_mode mode, bool readonly, int *ret_mnt, struct err *e)
{
    AUTO_FD fs = fsopen("overlay", FSOPEN_CLOEXEC);
    int r = 0;

    if (fs < 0)
        return err_set(e, errno, "open overlay: %m");
    for (unsigned i = 0; r == 0 && i < d->count; i++)
        r = set_dir(fs, mode, "lowerdir+", d->lower[i], e);
    if (r == 0 && !readonly)
        r = set_dir(fs, mode, "upperdir", d->upper, e);
    if (r == 0 && !readonly)
        r = set_dir(fs, mode, "workdir", d->work, e);
    if (r == 0)
        r = set_common(fs, readonly, e);
    if (r == 0)
        r = create(fs, readonly, ret_mnt, e);
    return r;
}

/* With cwd in /proc/self/fd. */
static int make_classic_fsconfig(const struct dirs *d, const char *lower, bool readonly, int *ret_mnt, struct err *e)
{
    AUTO_FD fs = fsopen("overlay", FSOPEN_CLOEXEC);
    char number[16];
    int r;

    if (fs < 0)
        return err_set(e, errno, "open overlay: %m");
    r = fsconfig(fs, FSCONFIG_SET_STRING, "lowerdir", lower, 0);
    if (r == 0 && !readonly) {
        (void)snprintf(number, sizeof number, "%d", d->upper);
        r = fsconfig(fs, FSCONFIG_SET_STRING, "upperdir", number, 0);
    }
    if (r == 0 && !readonly) {
        (void)snprintf(number, sizeof number, "%d", d->work);
        r = fsconfig(fs, FSCONFIG_SET_STRING, "workdir", number, 0);
    }
    if (r < 0) {
        r = err_set(e, errno, "give overlay its layers: %m");
        mnt_kernel_words(fs, e);
        return r;
    }
    r = set_common(fs, readonly, e);
    if (r < 0)
        return r;
    return create(fs, readonly, ret_mnt, e);
}

/* With cwd in /proc/self/fd. More layers than fsconfig takes in one value: mount(2) takes a page, but wants a place. It is
 * put on PLACE, a directory of the slot's own mount, and taken off again at once; nobody else looks in there. */
static int make_classic_mount(const struct dirs *d, const char *lower, const char *place, bool readonly, int *ret_mnt,
                              struct err *e)
{
    char data[MOUNT_DATA_MAX + 1];
    int fd, n, r;

    n = snprintf(data, sizeof data, "lowerdir=%s,userxattr,index=off,metacopy=off,xino=on", lower);
    if (n < (int)sizeof data && !readonly)
        n += snprintf(data + n, sizeof data - (size_t)n, ",upperdir=%d,workdir=%d,volatile", d->upper, d->work);
    if (n >= (int)sizeof data)
        return err_typed(e, ERR_INVALID, NULL, "the image has too many layers for this kernel (%u)", d->count);

    if (mount("silica", place, "overlay", MS_NODEV | (readonly ? MS_RDONLY : 0), data) < 0)
        return err_set(e, errno, "mount the overlay of %u layers: %m", d->count);
    fd = open_tree(AT_FDCWD, place, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    r = fd < 0 ? err_set(e, errno, "take the overlay of %u layers: %m", d->count) : 0;
    (void)umount2(place, MNT_DETACH); /* the clone holds it, or nothing does */
    if (r == 0)
        *ret_mnt = fd;
    return r;
}

static int make_classic(const struct dirs *d, const char *place, bool readonly, int *ret_mnt, struct err *e)
{
    char lower[MOUNT_DATA_MAX + 1];
    AUTO_FD cwd = -1;
    int r;

    r = lower_string(d, lower, sizeof lower, e);
    if (r < 0)
        return r;
    cwd = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (cwd < 0 || chdir("/proc/self/fd") < 0)
        return err_set(e, errno, "go to /proc/self/fd: %m");

    if (strlen(lower) <= FSCONFIG_STRING_MAX)
        r = make_classic_fsconfig(d, lower, readonly, ret_mnt, e);
    else
        r = make_classic_mount(d, lower, place, readonly, ret_mnt, e);

    if (fchdir(cwd) < 0)
        (void)!chdir("/"); /* ours was removed meanwhile; any will do */
    return r;
}

static int make(enum ovl_mode mode, const struct dirs *d, const char *place, bool readonly, int *ret_mnt, struct err *e)
{
    if (mode == OVL_CLASSIC)
        return make_classic(d, place, readonly, ret_mnt, e);
    return make_plus(d, mode, readonly, ret_mnt, e);
}

/* ---- for others -------------------------------------------------------------------------------------------------- */

static int open_dir(int dirfd, const char *name)
{
    /* Not O_PATH: FSCONFIG_SET_FD takes those only from 6.14 on. */
    return openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

static void dirs_close(struct dirs *d)
{
    for (unsigned i = 0; i < d->count; i++)
        fd_close(d->lower[i]);
    fd_close(d->upper);
    fd_close(d->work);
}

bool overlay_probe(int layers_fd, enum ovl_mode mode)
{
    struct dirs d = {.upper = -1, .work = -1};
    AUTO_FD mnt = -1;

    /* Two directories that do not contain each other, without an upper one. */
    d.lower[0] = open_dir(layers_fd, OVL_SKELETON "/dev");
    d.lower[1] = open_dir(layers_fd, OVL_SKELETON "/proc");
    d.count = 2;
    if (d.lower[0] >= 0 && d.lower[1] >= 0)
        (void)make(mode, &d, NULL, true, &mnt, NULL); /* the answer is in mnt */
    dirs_close(&d);
    return mnt >= 0;
}

static bool digest_sound(const char *digest)
{
    return strspn(digest, "0123456789abcdef") == SP_DIGEST_LEN && digest[SP_DIGEST_LEN] == '\0';
}

static int open_layers(struct dirs *d, int layers_fd, const char *const *digests, unsigned count, bool readonly,
                       struct err *e)
{
    if (count == 0 || count > SP_LAYERS_MAX)
        return err_typed(e, ERR_INVALID, NULL, "an image has 1 to %d layers, not %u", SP_LAYERS_MAX, count);

    for (unsigned i = count; i-- > 0;) {
        if (!digest_sound(digests[i]))
            return err_typed(e, ERR_INVALID, NULL, "layer %u of the image has a name that is not a digest", i);
        d->lower[d->count] = open_dir(layers_fd, digests[i]);
        if (d->lower[d->count] < 0 && errno == ENOENT)
            return err_typed(e, ERR_NOT_FOUND, NULL, "layer %s of the image is not on this machine", digests[i]);
        if (d->lower[d->count] < 0)
            return err_set(e, errno, "open layer %s: %m", digests[i]);
        d->count++;
    }
    if (readonly) {
        d->lower[d->count] = open_dir(layers_fd, OVL_SKELETON);
        if (d->lower[d->count] < 0)
            return err_set(e, errno, "open the mount point layer: %m");
        d->count++;
    }
    return 0;
}

int overlay_make(const struct slot *s, const struct layer *l, const char *const *digests, unsigned count, bool readonly,
                 int *ret_mnt, struct err *e)
{
    char place[sizeof s->layers_path + sizeof OVL_SKELETON + 8];
    struct dirs d = {.upper = -1, .work = -1};
    int r;

    r = open_layers(&d, s->layers_fd, digests, count, readonly, e);
    if (r == 0 && !readonly) {
        d.upper = open_dir(l->dir_fd, "upper");
        d.work = open_dir(l->dir_fd, "work");
        if (d.upper < 0 || d.work < 0)
            r = err_set(e, errno, "open the writable layer: %m");
    }
    (void)snprintf(place, sizeof place, "%s/" OVL_SKELETON "/dev", s->layers_path);
    if (r == 0)
        r = make(the_mode, &d, place, readonly, ret_mnt, e);
    dirs_close(&d);
    return r;
}
