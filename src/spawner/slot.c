/* Slots: which host uids a sandbox has, and how it sees the layers.
 *
 * All layers are stored under one range of uids (STORE_BASE). A slot's mount of the layers directory is idmapped so that
 * this range appears as the slot's own: one mount for a sandbox, however many layers it has. Making it takes a user
 * namespace, so SLOT_POOL slots are kept ready.
 *
 * Two daemons of a host must not share uids. Each locks whole blocks of slots, one byte a block, in a file of the host
 * (open file description locks: they die with the spawner). Sandboxes outlive a spawner that dies, so a block is also
 * taken when a process has a uid of it: the process table is the truth, there is no record to go stale.
 *
 * Slots are given out round-robin: a uid that has just been somebody's is the last to be somebody else's. */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "spawner/keeper.h"
#include "spawner/mnt.h"
#include "spawner/overlay-internal.h"
#include "spawner/slot-internal.h"
#include "spawner/userns.h"

enum {
    SLOT_POOL = 16,
    BLOCKS = (0x7fffffffu - SLOT_BASE) / SLOT_UIDS /
             SLOT_BLOCK, /* uids stay below 2^31: some programs think they are signed */
    BLOCKS_OURS = 4,     /* at most: 4096 sandboxes of one daemon. Adopted ones may add to it */
    WORD = 64,
};

struct block {
    bool ours;
    unsigned taken;
    uint64_t map[SLOT_BLOCK / WORD];
};

static struct {
    int lock_fd, layers_fd;
    char run_dir[MNT_PLACE_MAX];
    struct block blocks[BLOCKS];
    unsigned ours;
    unsigned cursor;
    struct slot pool[SLOT_POOL];
    unsigned ready;
} g = {.lock_fd = -1, .layers_fd = -1};

/* ---- blocks ------------------------------------------------------------------------------------------------------ */

static int lock_block(int block, short type)
{
    struct flock lk = {.l_type = type, .l_whence = SEEK_SET, .l_start = block, .l_len = 1};

    return fcntl(g.lock_fd, F_OFD_SETLK, &lk) < 0 ? -errno : 0;
}

/* The blocks that hold a uid of a live process, as a bit set. */
static uint32_t blocks_in_use(void)
{
    uint32_t set = 0;
    struct dirent *d;
    struct stat st;
    DIR *proc = opendir("/proc");

    static_assert(BLOCKS <= 32, "one bit a block");
    if (proc == NULL)
        return 0; /* the locks still hold */
    while ((d = readdir(proc)) != NULL) {
        if (d->d_name[0] < '1' || d->d_name[0] > '9' || fstatat(dirfd(proc), d->d_name, &st, 0) < 0)
            continue;
        if (st.st_uid >= SLOT_BASE && (st.st_uid - SLOT_BASE) / SLOT_UIDS / SLOT_BLOCK < BLOCKS)
            set |= 1u << ((st.st_uid - SLOT_BASE) / SLOT_UIDS / SLOT_BLOCK);
    }
    (void)closedir(proc);
    return set;
}

static int add_block(struct err *e)
{
    uint32_t in_use = blocks_in_use();

    if (g.ours >= BLOCKS_OURS)
        return err_typed(e, ERR_EXHAUSTED, NULL, "all %u uid ranges of this daemon are in use by sandboxes",
                         g.ours * SLOT_BLOCK);
    for (int b = 0; b < BLOCKS; b++) {
        if (g.blocks[b].ours || (in_use & 1u << b) != 0 || lock_block(b, F_WRLCK) < 0)
            continue;
        g.blocks[b].ours = true;
        g.ours++;
        g.cursor = (unsigned)b * SLOT_BLOCK;
        return 0;
    }
    return err_typed(e, ERR_EXHAUSTED, NULL, "all %d blocks of uids of this host are in use by other daemons", BLOCKS);
}

static void mark(unsigned index, bool taken)
{
    struct block *b = &g.blocks[index / SLOT_BLOCK];
    uint64_t bit = 1ull << index % WORD;
    uint64_t *word = &b->map[index % SLOT_BLOCK / WORD];

    if (((*word & bit) != 0) == taken)
        return;
    *word ^= bit;
    b->taken += taken ? 1 : -1;
}

/* The next free index after the cursor, or -1. */
static int next_free(void)
{
    for (unsigned n = 0; n < BLOCKS * SLOT_BLOCK; n++) {
        unsigned i = (g.cursor + n) % (BLOCKS * SLOT_BLOCK);
        const struct block *b = &g.blocks[i / SLOT_BLOCK];

        if (!b->ours || b->taken == SLOT_BLOCK) {
            n += SLOT_BLOCK - 1 - i % SLOT_BLOCK; /* to the end of this block */
            continue;
        }
        if ((b->map[i % SLOT_BLOCK / WORD] & 1ull << i % WORD) == 0)
            return (int)i;
    }
    return -1;
}

/* ---- one slot ---------------------------------------------------------------------------------------------------- */

static int idmap(uint32_t uid_base, int *ret_mnt, struct err *e)
{
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_IDMAP | MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV};
    AUTO_FD userns = -1, mnt = -1;
    int r;

    /* "Inside" of the map is what is on disk, "outside" what is seen. */
    r = userns_make(STORE_BASE, uid_base, SLOT_UIDS, 0, &userns, e);
    if (r < 0)
        return r;
    mnt = open_tree(g.layers_fd, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    if (mnt < 0)
        return err_set(e, errno, "clone the mount of the layer store: %m");
    attr.userns_fd = (uint64_t)userns;
    if (mount_setattr(mnt, "", AT_EMPTY_PATH, &attr, sizeof attr) < 0)
        return err_set(e, errno, "map the layer store's ids (its file system must allow idmapped mounts): %m");
    *ret_mnt = take_fd(&mnt);
    return 0;
}

static int slot_make(struct slot *ret, struct err *e)
{
    struct slot s = {.index = -1, .layers_fd = -1};
    int index, r;

    index = next_free();
    if (index < 0) {
        r = add_block(e);
        if (r < 0)
            return r;
        index = next_free();
    }

    s.index = index;
    s.uid_base = SLOT_BASE + (uint32_t)index * SLOT_UIDS;
    r = idmap(s.uid_base, &s.layers_fd, e);
    if (r < 0)
        return r;
    if (!overlay_by_fd()) {
        r = slot_park(&s, g.run_dir, e);
        if (r < 0) {
            fd_close(s.layers_fd);
            return r;
        }
    }

    mark((unsigned)index, true);
    g.cursor = (unsigned)index + 1;
    *ret = s;
    return 0;
}

int slot_park(struct slot *s, const char *run_dir, struct err *e)
{
    char path[MNT_PLACE_MAX];
    int r = mnt_park(s->layers_fd, run_dir, "slots", (unsigned)s->index, path, e);

    if (r < 0)
        return r;
    if (strlen(path) >= sizeof s->layers_path) {
        mnt_unpark(path);
        return err_set(e, ENAMETOOLONG, "the run directory's name '%s' is too long", run_dir);
    }
    memcpy(s->layers_path, path, strlen(path) + 1);
    return 0;
}

/* ---- for others -------------------------------------------------------------------------------------------------- */

/* Which way overlay takes layers is asked with a real slot mount: first detached, then at a place. */
static int choose_mode(struct err *e)
{
    struct slot s = {.index = 0};
    int r;

    overlay_set_mode(OVL_UNKNOWN);
    r = idmap(SLOT_BASE, &s.layers_fd, e);
    if (r < 0)
        return r;
    if (overlay_probe(s.layers_fd, OVL_BY_FD)) {
        overlay_set_mode(OVL_BY_FD);
    } else {
        r = slot_park(&s, g.run_dir, e);
        for (enum ovl_mode m = OVL_BY_PATH; r == 0 && overlay_mode() == OVL_UNKNOWN && m < OVL_MODE_COUNT; m++)
            if (overlay_probe(s.layers_fd, m))
                overlay_set_mode(m);
        if (r == 0 && overlay_mode() == OVL_UNKNOWN)
            r = err_typed(e, ERR_UNIMPLEMENTED, NULL,
                          "overlayfs takes no idmapped layers here (it needs Linux 5.19 and a local file system under "
                          "the state directory)");
    }
    slot_drop_mount(&s);
    return r;
}

int slots_init(int layers_dirfd, const char *run_dir, uint32_t *ret_count, struct err *e)
{
    int r;

    if ((size_t)snprintf(g.run_dir, sizeof g.run_dir, "%s", run_dir) >= sizeof g.run_dir)
        return err_set(e, ENAMETOOLONG, "the run directory's name '%s' is too long", run_dir);
    g.layers_fd = fcntl(layers_dirfd, F_DUPFD_CLOEXEC, 3);
    if (g.layers_fd < 0)
        return err_set(e, errno, "keep the layer store open: %m");
    g.lock_fd = open(SLOT_LOCK_FILE, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (g.lock_fd < 0)
        return err_set(e, errno, "open '%s', the lock of uid ranges: %m", SLOT_LOCK_FILE);

    mnt_unpark_all(run_dir, "slots");
    r = overlay_skeleton(g.layers_fd, e);
    if (r == 0)
        r = choose_mode(e);
    if (r == 0)
        r = add_block(e);
    if (r < 0) {
        slots_fini();
        return r;
    }
    *ret_count = BLOCKS_OURS * SLOT_BLOCK;
    return 0;
}

int slot_take(struct slot *ret, struct err *e)
{
    if (g.ready == 0)
        return slot_make(ret, e);

    *ret = g.pool[0];
    g.ready--;
    memmove(&g.pool[0], &g.pool[1], g.ready * sizeof g.pool[0]);
    return 0;
}

int slot_claim(int index, struct err *e)
{
    if (index < 0 || index >= BLOCKS * SLOT_BLOCK)
        return err_set(e, ERANGE, "there is no uid slot %d", index);

    struct block *b = &g.blocks[index / SLOT_BLOCK];
    if (!b->ours) {
        int r = lock_block(index / SLOT_BLOCK, F_WRLCK);

        if (r < 0)
            return err_set(e, r, "another daemon has taken the uids of slot %d: %m", index);
        b->ours = true;
        g.ours++;
    }
    if ((b->map[index % SLOT_BLOCK / WORD] & 1ull << index % WORD) != 0)
        return err_set(e, EEXIST, "uid slot %d is in use already", index);
    mark((unsigned)index, true);
    return 0;
}

void slot_drop_mount(struct slot *s)
{
    if (s->layers_path[0] != '\0') {
        char path[MNT_PLACE_MAX];

        (void)snprintf(path, sizeof path, "%s", s->layers_path);
        mnt_unpark(path);
        s->layers_path[0] = '\0';
    }
    keeper_discard(&s->layers_fd);
}

void slot_release(int index)
{
    if (index >= 0 && index < BLOCKS * SLOT_BLOCK)
        mark((unsigned)index, false);
}

bool slots_refill(void)
{
    if (g.lock_fd < 0 || g.ready == SLOT_POOL)
        return false;
    /* A pool is no reason to take another block: the last slots are made when they are asked for. */
    if (next_free() < 0 || slot_make(&g.pool[g.ready], NULL) < 0)
        return false;
    g.ready++;
    return g.ready < SLOT_POOL;
}

void slots_fini(void)
{
    for (unsigned i = 0; i < g.ready; i++)
        slot_drop_mount(&g.pool[i]);
    if (g.run_dir[0] != '\0')
        mnt_unpark_all(g.run_dir, "slots");
    fd_closep(&g.lock_fd); /* and with it the locks */
    fd_closep(&g.layers_fd);
    memset(&g, 0, sizeof g);
    g.lock_fd = g.layers_fd = -1;
}
