/* Writable layers: which driver, how much of the disk may be given away, and what all drivers do alike. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "base/fd.h"
#include "spawner/keeper.h"
#include "spawner/layer-internal.h"
#include "spawner/mnt.h"
#include "spawner/overlay-internal.h"

struct layer_host layer_host = {.boxes_fd = -1};

/* In the order of preference for SP_W_AUTO; tmpfs only when asked for, its pages are the sandbox's memory. */
static const struct {
    const struct layer_driver *driver;
    uint32_t feature;
    bool automatic, on_disk;
} table[SP_W_COUNT] = {
    [SP_W_PRJQUOTA] = {&layer_prjquota, SP_FEAT_PRJQUOTA, true, true},
    [SP_W_LOOP] = {&layer_loop, SP_FEAT_LOOP, true, true},
    [SP_W_TMPFS] = {&layer_tmpfs, 0, false, false},
};
static bool works[SP_W_COUNT];

/* ---- shared by drivers -------------------------------------------------------------------------------------------- */

int layer_adopt_mount(struct layer *l, int mnt, struct err *e)
{
    int r;

    l->dir_path[0] = '\0';
    if (!overlay_by_fd()) {
        static_assert(sizeof l->dir_path == MNT_PLACE_MAX, "a layer's place is a mount's place");
        do /* the keeper counts for itself */
            r = mnt_park(mnt, layer_host.run_dir, "layers", layer_host.serial++, l->dir_path, e);
        while (r == -EEXIST);
        if (r < 0) {
            fd_close(mnt);
            return r;
        }
    }
    l->dir_fd = mnt;
    return 0;
}

int layer_make_dirs(struct layer *l, struct err *e)
{
    if (mkdirat(l->dir_fd, "upper", 0755) < 0 || mkdirat(l->dir_fd, "work", 0755) < 0)
        return err_set(e, errno, "make the directories of a writable layer: %m");
    return 0;
}

int layer_give(struct layer *l, uint32_t uid_base, struct err *e)
{
    static const char *const names[] = {"upper", "work"};

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (fchmodat(l->dir_fd, names[i], 0755, 0) < 0 ||
            fchownat(l->dir_fd, names[i], uid_base, uid_base, AT_SYMLINK_NOFOLLOW) < 0)
            return err_set(e, errno, "give the writable layer to uid %u: %m", uid_base);
    }
    return 0;
}

void layer_drop_mount(struct layer *l)
{
    mnt_unpark(l->dir_path);
    keeper_discard(&l->dir_fd);
}

uint64_t layer_inodes(uint64_t bytes)
{
    uint64_t n = bytes / LAYER_INODE_RATIO;

    return n < LAYER_INODES_MIN ? LAYER_INODES_MIN : n;
}

/* ---- the disk ----------------------------------------------------------------------------------------------------- */

static int check_reserve(struct err *e)
{
    struct statfs st;
    uint64_t avail, total, keep;

    if (fstatfs(layer_host.boxes_fd, &st) < 0)
        return err_set(e, errno, "look at the free space of '%s': %m", layer_host.state_dir);

    avail = (uint64_t)st.f_bavail * (uint64_t)st.f_bsize;
    total = (uint64_t)st.f_blocks * (uint64_t)st.f_bsize;
    keep = total / LAYER_RESERVE_PART < LAYER_RESERVE_BYTES ? total / LAYER_RESERVE_PART : LAYER_RESERVE_BYTES;
    if (avail < keep)
        return err_typed(
            e, ERR_EXHAUSTED, NULL,
            "the disk under '%s' has %llu MiB left and %llu MiB are kept in reserve: no room for a new sandbox",
            layer_host.state_dir, (unsigned long long)(avail >> 20), (unsigned long long)(keep >> 20));
    return 0;
}

static int sane_size(uint64_t *bytes, struct err *e)
{
    if (*bytes == 0)
        *bytes = (uint64_t)LAYER_DISK_DEFAULT_GIB << 30;
    if (*bytes > LAYER_BYTES_MAX)
        return err_typed(e, ERR_INVALID, NULL, "a writable layer of %llu bytes is above the limit of %llu",
                         (unsigned long long)*bytes, (unsigned long long)LAYER_BYTES_MAX);
    if (*bytes < LAYER_BYTES_MIN)
        *bytes = LAYER_BYTES_MIN;
    *bytes = (*bytes + LAYER_BLOCK - 1) / LAYER_BLOCK * LAYER_BLOCK;
    return 0;
}

/* ---- for others --------------------------------------------------------------------------------------------------- */

int layers_init(const char *state_dir, const char *run_dir, uint32_t *features, struct err *e)
{
    AUTO_FD state = -1;

    if ((size_t)snprintf(layer_host.state_dir, sizeof layer_host.state_dir, "%s", state_dir) >=
            sizeof layer_host.state_dir ||
        (size_t)snprintf(layer_host.run_dir, sizeof layer_host.run_dir, "%s", run_dir) >= sizeof layer_host.run_dir)
        return err_set(e, ENAMETOOLONG, "the names of the state and run directories are too long");

    state = open(state_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (state < 0)
        return err_set(e, errno, "open the state directory '%s': %m", state_dir);
    if (mkdirat(state, "boxes", 0700) < 0 && errno != EEXIST)
        return err_set(e, errno, "make '%s/boxes': %m", state_dir);
    layer_host.boxes_fd = openat(state, "boxes", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (layer_host.boxes_fd < 0)
        return err_set(e, errno, "open '%s/boxes': %m", state_dir);

    mnt_unpark_all(run_dir, "layers");
    if (overlay_by_fd())
        *features |= SP_FEAT_OVL_FD;
    for (unsigned i = 0; i < SP_W_COUNT; i++) {
        works[i] = table[i].driver != NULL && table[i].driver->probe(state_dir);
        if (works[i])
            *features |= table[i].feature;
    }
    return 0;
}

static int choose(enum sp_writable want, enum sp_writable *ret, struct err *e)
{
    if (want != SP_W_AUTO) {
        if (want >= SP_W_COUNT || !works[want])
            return err_typed(e, ERR_UNIMPLEMENTED, NULL, "this host cannot make a writable layer with %s",
                             want < SP_W_COUNT ? table[want].driver->name : "an unknown driver");
        *ret = want;
        return 0;
    }
    for (unsigned i = 0; i < SP_W_COUNT; i++) {
        if (works[i] && table[i].automatic) {
            *ret = (enum sp_writable)i;
            return 0;
        }
    }
    return err_typed(
        e, ERR_UNIMPLEMENTED, NULL,
        "this host has neither project quotas nor loop devices; ask for a writable layer in memory (tmpfs)");
}

int layer_take(struct layer *l, enum sp_writable want, uint64_t bytes, uint32_t uid_base, struct err *e)
{
    enum sp_writable which = SP_W_AUTO;
    int r;

    *l = (struct layer){.driver = SP_W_AUTO, .dir_fd = -1};
    r = choose(want, &which, e);
    if (r == 0)
        r = sane_size(&bytes, e);
    if (r == 0 && table[which].on_disk)
        r = check_reserve(e);
    if (r == 0)
        r = table[which].driver->take(l, bytes, uid_base, e);
    if (r < 0) {
        *l = (struct layer){.driver = SP_W_AUTO, .dir_fd = -1};
        return r;
    }
    l->driver = which;
    l->bytes = bytes;
    return 0;
}

static const struct layer_driver *driver_of(const struct layer *l)
{
    return l->driver < SP_W_COUNT ? table[l->driver].driver : NULL;
}

void layer_settle(struct layer *l)
{
    const struct layer_driver *d = driver_of(l);

    if (d != NULL)
        d->settle(l);
}

void layer_release(struct layer *l)
{
    const struct layer_driver *d = driver_of(l);

    if (d != NULL)
        d->release(l);
    *l = (struct layer){.driver = SP_W_AUTO, .dir_fd = -1};
}

void layer_key(const struct layer *l, char out[LAYER_KEY_MAX])
{
    const struct layer_driver *d = driver_of(l);

    out[0] = '\0';
    if (d != NULL && d->key != NULL)
        d->key(l, out);
}

int layer_claim(struct layer *l, enum sp_writable driver, const char *key, uint64_t bytes, uint32_t uid_base,
                struct err *e)
{
    const struct layer_driver *d;

    *l = (struct layer){.driver = driver, .dir_fd = -1, .bytes = bytes};
    d = driver_of(l);
    if (d == NULL) {
        *l = (struct layer){.driver = SP_W_AUTO, .dir_fd = -1};
        return driver == SP_W_AUTO ? 0 : err_set(e, EINVAL, "there is no driver %d for writable layers", (int)driver);
    }
    return d->claim != NULL ? d->claim(l, key, uid_base, e) : 0;
}

int layer_usage(const struct layer *l, uint64_t *ret_used, uint64_t *ret_max)
{
    const struct layer_driver *d = driver_of(l);
    struct statfs st;

    if (d != NULL && d->usage != NULL)
        return d->usage(l, ret_used, ret_max);
    if (l->dir_fd < 0 || fstatfs(l->dir_fd, &st) < 0)
        return -ENOTSUP;
    *ret_used = (uint64_t)(st.f_blocks - st.f_bfree) * (uint64_t)st.f_bsize;
    *ret_max = (uint64_t)st.f_blocks * (uint64_t)st.f_bsize;
    return 0;
}

bool layers_refill(void)
{
    bool more = false;

    for (unsigned i = 0; i < SP_W_COUNT; i++)
        if (works[i] && table[i].driver->refill != NULL)
            more |= table[i].driver->refill();
    return more;
}

void layers_fini(void)
{
    for (unsigned i = 0; i < SP_W_COUNT; i++)
        if (works[i] && table[i].driver->fini != NULL)
            table[i].driver->fini();
    memset(works, 0, sizeof works);
    if (layer_host.run_dir[0] != '\0')
        mnt_unpark_all(layer_host.run_dir, "layers");
    fd_closep(&layer_host.boxes_fd);
}
