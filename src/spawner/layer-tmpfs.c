/* A writable layer in memory: counted as the sandbox's memory, gone with it, no disk involved.
 *
 * An overlay that keeps its marks in user.* attributes needs them in its upper layer, and tmpfs has them since 6.6. On
 * kernels before that it is an ext4 in a file of memory. Goes away with them. */
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/fd.h"
#include "spawner/layer-internal.h"
#include "spawner/mnt.h"

static bool fallback;

static int make(uint64_t bytes, int *ret_mnt, struct err *e)
{
    char size[24], inodes[24];
    const struct mnt_opt opts[] = {
        {"source", "silica"}, {"size", size}, {"nr_inodes", inodes}, {"mode", "0755"}, {NULL}};

    (void)snprintf(size, sizeof size, "%llu", (unsigned long long)bytes);
    (void)snprintf(inodes, sizeof inodes, "%llu", (unsigned long long)layer_inodes(bytes));
    return mnt_make("tmpfs", opts, MOUNT_ATTR_NODEV, ret_mnt, e);
}

static bool has_user_attributes(void)
{
    AUTO_FD mnt = -1, dir = -1;

    if (make(LAYER_BYTES_MIN, &mnt, NULL) < 0)
        return false;
    dir = openat(mnt, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return dir >= 0 && fsetxattr(dir, "user.silica", "y", 1, 0) == 0;
}

static bool tmpfs_probe(const char *state_dir)
{
    struct layer l = {.dir_fd = -1};

    (void)state_dir;
    fallback = !has_user_attributes();
    if (fallback && loop_make(&l, LAYER_BYTES_MIN, true, NULL) < 0)
        return false;
    layer_drop_mount(&l);
    return true;
}

void layer_tmpfs_set_fallback(bool on)
{
    fallback = on;
}

static int take_tmpfs(struct layer *l, uint64_t bytes, struct err *e)
{
    int mnt, r;

    r = make(bytes, &mnt, e);
    if (r == 0)
        r = layer_adopt_mount(l, mnt, e);
    if (r < 0)
        return r;
    r = layer_make_dirs(l, e);
    if (r < 0)
        layer_drop_mount(l);
    return r;
}

static int tmpfs_take(struct layer *l, uint64_t bytes, uint32_t uid_base, struct err *e)
{
    int r = fallback ? loop_make(l, bytes, true, e) : take_tmpfs(l, bytes, e);

    if (r < 0)
        return r;
    r = layer_give(l, uid_base, e);
    if (r < 0)
        layer_drop_mount(l);
    return r;
}

const struct layer_driver layer_tmpfs = {
    .name = "tmpfs",
    .probe = tmpfs_probe,
    .take = tmpfs_take,
    .settle = layer_drop_mount,
    .release = layer_drop_mount,
};
