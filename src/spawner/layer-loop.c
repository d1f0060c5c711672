/* A writable layer as a small ext4 file system of its own, in a sparse file behind a loop device.
 *
 * A template is made once per size by the real mkfs.ext4; a layer is a copy of its few dozen KiB of data. Neither has a
 * name on disk (O_TMPFILE) and the loop device clears itself with its last user, so whatever dies, in whatever order,
 * leaves nothing. The mount is detached; the overlay keeps what it needs of it.
 *
 * The layer dies with its sandbox, so nothing in it is made to survive a crash: no journal, no barriers. Making one costs
 * over a millisecond, so LAYER_POOL are kept ready (see "the pools"). */
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "spawner/keeper.h"
#include "spawner/layer-internal.h"
#include "spawner/mnt.h"

/* Little metadata, nothing that a throw-away layer would need to survive a crash. */
static const char mkfs_features[] =
    "extent,flex_bg,uninit_bg,dir_index,dir_nlink,extra_isize,ext_attr,filetype,huge_file,sparse_super2,"
    "^has_journal,^resize_inode,^metadata_csum,^64bit,^orphan_file";

enum {
    TEMPLATES = 16,  /* sizes remembered; the one longest unused makes room */
    LOOP_TRIES = 32, /* others may take the free device we were told of */
    MKFS_FD = 3,
    POOLS = 3,
    LAYER_POOL_SPARE = 4,
};

struct template
{
    uint64_t bytes; /* 0 = none */
    int fd;
    unsigned used;
};

struct pool {
    uint64_t bytes; /* 0 = none */
    struct layer layers[LAYER_POOL];
    unsigned ready, due, used;
};

static struct {
    int control_fd;
    struct template templates[TEMPLATES];
    unsigned clock;
    struct pool pools[POOLS];
    uint64_t missed; /* the last size asked for that has no pool */
} g = {.control_fd = -1};

/* A file without a name in the boxes directory. */
static int anonymous_file(struct err *e)
{
    static const char spare[] = "nameless";
    int fd = openat(layer_host.boxes_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) { /* overlayfs before 6.3 and others without O_TMPFILE */
        fd = openat(layer_host.boxes_fd, spare, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        (void)unlinkat(layer_host.boxes_fd, spare, 0); /* also one left by a crash: the next try works */
    }
    if (fd < 0)
        return err_set(e, errno, "make a file in '%s/boxes': %m", layer_host.state_dir);
    return fd;
}

static int memory_file(struct err *e)
{
    int fd = memfd_create("silica-layer", MFD_CLOEXEC);

    return fd < 0 ? err_set(e, errno, "make a memfd for a layer: %m") : fd;
}

/* ---- templates ---------------------------------------------------------------------------------------------------- */

/* Runs mkfs.ext4 on FD. What it says on stderr ends in E. */
static int run_mkfs(int fd, uint64_t bytes, struct err *e)
{
    char path[] = "/proc/self/fd/3", blocks[24], inodes[24], words[160] = "";
    /* No journal and nothing lazily initialised: the layer is thrown away. Few, packed metadata blocks: they are all a
     * copy has to copy. -m 0: root is not special in a sandbox. */
    const char *const argv[] = {
        "mkfs.ext4", "-q",   "-F",          "-b",  "4096",
        "-m",        "0",    "-I",          "256", "-N",
        inodes,      "-O",   mkfs_features, "-E",  "lazy_itable_init=1,nodiscard,packed_meta_blocks=1,num_backup_sb=0",
        path,        blocks, NULL};
    const char *const env[] = {"PATH=/usr/sbin:/sbin:/usr/bin:/bin", "MKE2FS_CONFIG=/dev/null", "LC_ALL=C", NULL};
    posix_spawn_file_actions_t fa;
    posix_spawnattr_t attr;
    AUTO_FD said = memfd_create("mkfs", MFD_CLOEXEC);
    sigset_t none;
    int r, status;
    pid_t pid;

    if (said < 0)
        return err_set(e, errno, "make a memfd: %m");
    (void)snprintf(blocks, sizeof blocks, "%llu", (unsigned long long)(bytes / LAYER_BLOCK));
    (void)snprintf(inodes, sizeof inodes, "%llu", (unsigned long long)layer_inodes(bytes));

    (void)sigemptyset(&none);
    (void)posix_spawnattr_init(&attr);
    (void)posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
    (void)posix_spawnattr_setsigmask(&attr, &none);
    (void)posix_spawn_file_actions_init(&fa);
    r = posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDWR, 0);
    if (r == 0)
        r = posix_spawn_file_actions_adddup2(&fa, 0, 1);
    if (r == 0)
        r = posix_spawn_file_actions_adddup2(&fa, said, 2);
    if (r == 0)
        r = posix_spawn_file_actions_adddup2(&fa, fd, MKFS_FD); /* also when they are equal: drops close-on-exec */
    static const char *const programs[] = {"/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"};
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(programs); i++) {
        r = posix_spawn(&pid, programs[i], &fa, &attr, (char *const *)argv, (char *const *)env);
        if (r != ENOENT)
            break;
        r = i + 1 < ARRAY_LEN(programs) ? 0 : r;
    }
    (void)posix_spawn_file_actions_destroy(&fa);
    (void)posix_spawnattr_destroy(&attr);
    if (r != 0)
        return err_set(e, r, "run mkfs.ext4 (Debian package e2fsprogs): %m");

    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return err_set(e, errno, "wait for mkfs.ext4: %m");
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;

    ssize_t n = pread(said, words, sizeof words - 1, 0);
    words[n > 0 ? n : 0] = '\0';
    words[strcspn(words, "\n")] = '\0';
    return err_set(e, EIO, "mkfs.ext4 could not make a file system of %llu bytes: %s", (unsigned long long)bytes,
                   words);
}

static int template_get(uint64_t bytes, int *ret_fd, struct err *e)
{
    struct template *oldest = &g.templates[0];
    AUTO_FD fd = -1;
    int r;

    for (unsigned i = 0; i < TEMPLATES; i++) {
        struct template *t = &g.templates[i];

        if (t->bytes == bytes) {
            t->used = ++g.clock;
            *ret_fd = t->fd;
            return 0;
        }
        if (t->used < oldest->used)
            oldest = t;
    }

    fd = anonymous_file(e);
    if (fd < 0)
        return fd;
    if (ftruncate(fd, (off_t)bytes) < 0)
        return err_set(e, errno, "make a file of %llu bytes: %m", (unsigned long long)bytes);
    r = run_mkfs(fd, bytes, e);
    if (r < 0)
        return r;

    if (oldest->bytes != 0)
        fd_close(oldest->fd);
    *oldest = (struct template){.bytes = bytes, .fd = take_fd(&fd), .used = ++g.clock};
    *ret_fd = oldest->fd;
    return 0;
}

static ssize_t copy_block(int from, int to, off_t at, off_t end)
{
    char block[LAYER_BLOCK];
    ssize_t n = pread(from, block, end - at < (off_t)sizeof block ? (size_t)(end - at) : sizeof block, at);

    return n <= 0 ? n : pwrite(to, block, (size_t)n, at);
}

/* The data of FROM and its holes. */
static int copy_sparse(int from, int to, uint64_t bytes)
{
    off_t data = 0, hole;

    if (ftruncate(to, (off_t)bytes) < 0)
        return -errno;
    for (;;) {
        data = lseek(from, data, SEEK_DATA);
        if (data < 0)
            return errno == ENXIO ? 0 : -errno; /* ENXIO: only a hole is left */
        hole = lseek(from, data, SEEK_HOLE);
        if (hole < 0)
            return -errno;
        while (data < hole) {
            off_t in = data, out = data;
            ssize_t n = copy_file_range(from, &in, to, &out, (size_t)(hole - data), 0);

            if (n < 0 && (errno == EXDEV || errno == EOPNOTSUPP || errno == EINVAL)) /* between two file systems */
                n = copy_block(from, to, data, hole);
            if (n <= 0)
                return n == 0 ? -EIO : -errno;
            data += n;
        }
    }
}

/* ---- one layer ---------------------------------------------------------------------------------------------------- */

static int attach_loop(int backing, char ret_dev[32], int *ret_fd, struct err *e)
{
    struct loop_config cfg = {.fd = (uint32_t)backing, .block_size = LAYER_BLOCK, .info.lo_flags = LO_FLAGS_AUTOCLEAR};

    for (int i = 0; i < LOOP_TRIES; i++) {
        AUTO_FD fd = -1;
        int n = ioctl(g.control_fd, LOOP_CTL_GET_FREE);

        if (n < 0)
            return err_set(e, errno, "get a loop device: %m");
        (void)snprintf(ret_dev, 32, "/dev/loop%d", n);
        fd = open(ret_dev, O_RDWR | O_CLOEXEC);
        if (fd < 0 && errno != ENXIO && errno != ENOENT) /* these two: removed by somebody meanwhile */
            return err_set(e, errno, "open '%s': %m", ret_dev);
        if (fd >= 0 && ioctl(fd, LOOP_CONFIGURE, &cfg) == 0) {
            *ret_fd = take_fd(&fd);
            return 0;
        }
        if (fd >= 0 && errno != EBUSY)
            return err_set(e, errno, "set up '%s': %m", ret_dev);
    }
    return err_typed(e, ERR_UNAVAILABLE, NULL, "other programs took every loop device this host offered in %d tries",
                     LOOP_TRIES);
}

int loop_make(struct layer *l, uint64_t bytes, bool in_memory, struct err *e)
{
    AUTO_FD backing = -1, loop = -1;
    int template = -1, mnt, r;
    char dev[32];
    /* noinit_itable: no kernel thread that zeroes inode tables behind our back. */
    const struct mnt_opt opts[] = {{"source", dev},           {"noinit_itable", NULL}, {"nobarrier", NULL},
                                   {"noauto_da_alloc", NULL}, {"errors", "continue"},  {NULL}};

    if (g.control_fd < 0)
        return err_typed(e, ERR_UNIMPLEMENTED, NULL, "this host has no loop devices");
    r = template_get(bytes, &template, e);
    if (r < 0)
        return r;
    backing = in_memory ? memory_file(e) : anonymous_file(e);
    if (backing < 0)
        return backing;
    r = copy_sparse(template, backing, bytes);
    if (r < 0)
        return err_set(e, r, "copy an empty file system of %llu bytes: %m", (unsigned long long)bytes);

    r = attach_loop(backing, dev, &loop, e);
    if (r == 0)
        r = mnt_make("ext4", opts, MOUNT_ATTR_NODEV | MOUNT_ATTR_NOATIME, &mnt, e);
    if (r == 0)
        r = layer_adopt_mount(l, mnt, e);
    if (r < 0)
        return r;

    r = layer_make_dirs(l, e);
    if (r < 0)
        layer_drop_mount(l);
    return r;
}

/* ---- the pools ------------------------------------------------------------------------------------------------------
 * One for each of the sizes that are asked for, POOLS at most. The one used last is kept full, the others have a few. A size
 * gets a pool when it is asked for twice in a row of sizes that have none. */

static int make_for_pool(struct layer *l, uint64_t bytes, struct err *e)
{
    return loop_make(l, bytes, false, e);
}

static void start_keeper(void)
{
    int keep[TEMPLATES + 2] = {layer_host.boxes_fd, g.control_fd};
    unsigned n = 2;

    for (unsigned i = 0; i < TEMPLATES && n < KEEPER_KEEP_MAX; i++)
        if (g.templates[i].bytes != 0)
            keep[n++] = g.templates[i].fd;
    (void)keeper_start(make_for_pool, keep, n, NULL); /* without it layers are made here */
}

static struct pool *pool_of(uint64_t bytes)
{
    for (unsigned i = 0; i < POOLS; i++)
        if (g.pools[i].bytes == bytes)
            return &g.pools[i];
    return NULL;
}

static void pool_empty(struct pool *p)
{
    while (p->ready > 0)
        layer_drop_mount(&p->layers[--p->ready]);
    *p = (struct pool){0};
}

/* The pool for a layer of BYTES, if that size has or now gets one. */
static struct pool *pool_admit(uint64_t bytes)
{
    struct pool *p = pool_of(bytes), *oldest = &g.pools[0];

    if (p == NULL && bytes == g.missed) {
        for (unsigned i = 1; i < POOLS; i++)
            if (g.pools[i].used < oldest->used)
                oldest = &g.pools[i];
        pool_empty(oldest);
        p = oldest;
        p->bytes = bytes;
    }
    if (p == NULL)
        g.missed = bytes;
    else
        p->used = ++g.clock;
    return p;
}

static unsigned pool_target(const struct pool *p)
{
    for (unsigned i = 0; i < POOLS; i++)
        if (g.pools[i].used > p->used)
            return LAYER_POOL_SPARE;
    return LAYER_POOL;
}

static void nothing_is_due(void)
{
    for (unsigned i = 0; i < POOLS; i++)
        g.pools[i].due = 0;
}

/* Takes in what the keeper has made. With WANTED: waits until that pool has one, or none is due for it. */
static void collect(const struct pool *wanted)
{
    struct layer l;
    struct pool *p;
    int r;

    while (keeper_due() > 0) {
        bool wait = wanted != NULL && wanted->ready == 0 && wanted->due > 0;

        r = keeper_receive(&l, wait, NULL);
        if (r < 0 && !keeper_runs())
            nothing_is_due();
        if (r == 0 || !keeper_runs())
            return;
        p = pool_of(l.bytes);
        if (p != NULL && p->due > 0)
            p->due--;
        if (r > 0 && p != NULL && p->ready < LAYER_POOL)
            p->layers[p->ready++] = l;
        else if (r > 0)
            layer_drop_mount(&l); /* its pool is gone or full */
    }
}

static bool loop_probe(const char *state_dir)
{
    struct pool *p = &g.pools[0];

    (void)state_dir;
    g.control_fd = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    if (g.control_fd < 0)
        return false;
    *p = (struct pool){.bytes = (uint64_t)LAYER_DISK_DEFAULT_GIB << 30, .used = ++g.clock};
    if (make_for_pool(&p->layers[0], p->bytes, NULL) < 0) {
        fd_closep(&g.control_fd);
        return false;
    }
    p->ready = 1;
    start_keeper();
    return true;
}

static int loop_take(struct layer *l, uint64_t bytes, uint32_t uid_base, struct err *e)
{
    struct pool *p = pool_admit(bytes);
    int r;

    if (p != NULL && p->ready == 0)
        collect(p);
    if (p != NULL && p->ready > 0) {
        *l = p->layers[--p->ready];
    } else {
        r = loop_make(l, bytes, false, e);
        if (r < 0)
            return r;
    }
    r = layer_give(l, uid_base, e);
    if (r < 0)
        layer_drop_mount(l);
    return r;
}

static bool refill_here(struct pool *p)
{
    if (p->ready >= pool_target(p) || make_for_pool(&p->layers[p->ready], p->bytes, NULL) < 0)
        return false; /* whoever asks for a layer will get the reason */
    p->ready++;
    return true;
}

static bool loop_refill(void)
{
    bool more = false;

    if (g.control_fd < 0)
        return false;
    if (!keeper_runs())
        start_keeper();
    collect(NULL);
    for (unsigned i = 0; i < POOLS; i++) {
        struct pool *p = &g.pools[i];

        if (p->bytes == 0)
            continue;
        if (!keeper_runs())
            more |= refill_here(p);
        else /* they come by themselves, and are taken in when they are needed */
            while (p->ready + p->due < pool_target(p) && keeper_ask(p->bytes))
                p->due++;
    }
    return more;
}

static void loop_fini(void)
{
    struct layer l;

    while (keeper_runs() && keeper_due() > 0)
        if (keeper_receive(&l, true, NULL) > 0)
            layer_drop_mount(&l);
    for (unsigned i = 0; i < POOLS; i++)
        pool_empty(&g.pools[i]);
    keeper_stop();
    for (unsigned i = 0; i < TEMPLATES; i++)
        if (g.templates[i].bytes != 0)
            fd_close(g.templates[i].fd);
    memset(g.templates, 0, sizeof g.templates);
    fd_closep(&g.control_fd);
}

const struct layer_driver layer_loop = {
    .name = "a loop device",
    .probe = loop_probe,
    .take = loop_take,
    .settle = layer_drop_mount,
    .release = layer_drop_mount,
    .refill = loop_refill,
    .fini = loop_fini,
};
