/* What the spawner's life cycle (create.c, table.c) asks of the kernel-facing drivers.
 *
 * The spawner is one thread, root, and parses no outside bytes. A creation runs in this order, nothing of it blocking:
 *
 *   slot_take -> layer_take (writable) -> overlay_make -> cg_create -> netns_take -> clone3 [child: rootfs_enter, exec init]
 *
 * and is undone in reverse by the *_release calls, each of which accepts what was never taken. Pools are refilled from
 * the spawner's event loop when it is idle (pool_refill functions return true while there is more to do). All functions
 * return 0 or a negative errno and fill E. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "wire/sp.h"

/* ---- uid slots (slot.c) ------------------------------------------------------------------------------------------
 * Slot N owns the host uids and gids [SLOT_BASE + N * 65536, + 65536). Blocks of slots are locked host-wide (OFD lock in
 * /run/silica-slots, one byte a slot block) so that two daemons never share a range. The store range (layer files) is one
 * fixed range of its own, shared by all daemons. */
enum { SLOT_UIDS = 65536, SLOT_BLOCK = 1024 };
#define SLOT_BASE 1000000000u /* first slot's first uid; the store range is [STORE_BASE, +65536) */
#define STORE_BASE (SLOT_BASE - SLOT_UIDS)
#define DAEMON_UID_DEFAULT (STORE_BASE - 1)
struct slot {
    int index; /* -1 = none */
    uint32_t uid_base;
    int layers_fd; /* the layers directory, idmapped to this slot: detached mount (O_PATH), or -1 when only the path works */
    char layers_path
        [192]; /* how to name it in a mount option when fds do not work (a path in the spawner's own mount ns) */
};
int slots_init(int layers_dirfd, const char *run_dir, uint32_t *ret_count, struct err *e);
int slot_take(struct slot *ret, struct err *e); /* -EAGAIN typed ERR_EXHAUSTED when all are in use */
/* After a restart of the spawner: slot INDEX is in use. */
int slot_claim(int index, struct err *e);
/* The idmapped mount may be dropped once the overlay holds what it needs; the slot stays taken. */
void slot_drop_mount(struct slot *s);
void slot_release(int index);
bool slots_refill(void);
void slots_fini(void);
/* An fd of a user namespace that maps [0, 65536) to UID_BASE. */
int userns_open(uint32_t uid_base, int *ret_fd, struct err *e);

/* ---- the writable layer (layer.c, layer-loop.c, layer-tmpfs.c, layer-prjquota.c) --------------------------------- */
struct layer {
    enum sp_writable driver; /* SP_W_AUTO = none */
    int dir_fd;              /* O_DIRECTORY of a directory that holds `upper` and `work`, owned by the slot's root */
    char dir_path[192];      /* for mount options on kernels where an fd will not do */
    uint64_t bytes;
    void *priv;
};
struct layer_driver {
    const char *name;
    bool (*probe)(const char *state_dir);
    int (*take)(struct layer *l, uint64_t bytes, uint32_t uid_base, struct err *e);
    /* The overlay is mounted: drop fds and mount-table entries that are not needed any more. */
    void (*settle)(struct layer *l);
    void (*release)(struct layer *l); /* the data is gone afterwards */
    bool (*refill)(void);
    void (*fini)(void);
    /* NULL where the data dies with its last mount anyway, and where statfs(2) tells. */
    void (*key)(const struct layer *l, char *out);
    int (*claim)(struct layer *l, const char *key, uint32_t uid_base, struct err *e);
    int (*usage)(const struct layer *l, uint64_t *ret_used, uint64_t *ret_max);
};
/* After slots_init(): where a layer is mounted depends on how overlay takes it. */
int layers_init(const char *state_dir, const char *run_dir, uint32_t *features, struct err *e);
int layer_take(struct layer *l, enum sp_writable want, uint64_t bytes, uint32_t uid_base, struct err *e);
void layer_settle(struct layer *l);
void layer_release(struct layer *l);
/* For the next spawner: what names L's data (kept in the table file), and the way back. After a claim layer_release()
 * works on *L as if this process had taken it. */
enum { LAYER_KEY_MAX = 64 };
void layer_key(const struct layer *l, char out[LAYER_KEY_MAX]);
int layer_claim(struct layer *l, enum sp_writable driver, const char *key, uint64_t bytes, uint32_t uid_base,
                struct err *e);
/* Bytes used and available in all; -ENOTSUP when the driver cannot tell (loop and tmpfs once they are settled: statfs of the
 * sandbox's root, /proc/<init>/root, tells the same then). */
int layer_usage(const struct layer *l, uint64_t *ret_used, uint64_t *ret_max);
bool layers_refill(void);
void layers_fini(void);
enum { LAYER_DISK_DEFAULT_GIB = 10, LAYER_POOL = 16 };

/* One overlay over LAYERS (digests, lowest first) with L on top; READONLY = no upper. *RET_MNT is a detached mount. */
int overlay_make(const struct slot *s, const struct layer *l, const char *const *digests, unsigned count, bool readonly,
                 int *ret_mnt, struct err *e);
/* True when layers are given to overlay by fd (kernel 6.13); known after slots_init(). */
bool overlay_by_fd(void);

/* ---- cgroups (cgroup.c, cgroup-v2.c, cgroup-v1.c) ----------------------------------------------------------------
 * v2 is always there for membership (on a hybrid host without controllers). Layout: <v2 mount>/<own cgroup or slice>/
 * silica-<run tag>/<sandbox id>. The directory <id> belongs to the sandbox's root (cgroup.procs, cgroup.threads and
 * the directory only), so that init can make one child per process; controllers are NOT delegated. v1 controllers, where
 * they are not on v2: <mount>/silica-<run tag>/<id>. */
struct cg {
    int v2_fd;   /* O_DIRECTORY of <id>; init inherits a copy */
    int init_fd; /* for CLONE_INTO_CGROUP of init: <id> itself, see cgroup.c; closed after the clone */
    char id[SP_ID_MAX];
};
struct cg_limits {
    uint64_t memory_max, cpu_quota_us, cpu_period_us, pids_max;
    uint32_t cpu_weight;
};
/* Before cgs_init(): put ours below PATH, relative to the v2 mount, whatever cgroup we are in ourselves. Not copied. */
void cgs_parent(const char *path);
int cgs_init(const char *tag, uint32_t *features, struct err *e);
int cg_create(struct cg *cg, const char *id, const struct cg_limits *lim, uint32_t uid_base, struct err *e);
/* Puts PID into the v1 controllers (nothing on pure v2); before the child execs. */
int cg_enter(const struct cg *cg, pid_t pid, struct err *e);
/* The quick way (cgroup-enter.c): the parent opens, the child enters with async-signal-safe calls. Descriptors are -1 before
 * and where there is nothing to enter. */
enum { CG_TASKS_MAX = 3 };
int cg_open_tasks(const struct cg *cg, int ret_fds[CG_TASKS_MAX], struct err *e);
int cg_enter_self(const int fds[CG_TASKS_MAX]);
void cg_close_tasks(int fds[CG_TASKS_MAX]);
/* cgroup.kill on the whole sandbox; returns at once. */
int cg_kill(const char *id, struct err *e);
/* An fd that becomes readable (EPOLLPRI) when the cgroup's populated state changes, and the state now. */
int cg_events_fd(const char *id, int *ret_fd, struct err *e);
int cg_populated(const char *id, bool *ret, struct err *e);
int cg_stats(const char *id, struct sp_stats *ret, struct err *e);
/* Removes all directories of the sandbox, children included. -EBUSY while it is populated. */
int cg_remove(const char *id, struct err *e);
/* Names of sandboxes that have a cgroup under our tag (for cleaning after a crash of the spawner). */
int cgs_list(void (*each)(void *arg, const char *id), void *arg, struct err *e);
void cgs_fini(void);

/* ---- network namespaces (egress.c, egress-none.c, egress-nat.c) ---------------------------------------------------
 * Pooled: made before they are needed. sysctls inside: ip_unprivileged_port_start=0, ping_group_range open. */
struct netns {
    int fd;       /* nsfs fd; closed by the caller after the clone */
    int sysfs_fd; /* a detached, read-only sysfs mount of that namespace, or -1 */
    enum sp_egress driver;
    uint32_t lease; /* address lease of nat, 0 = none */
};
int egress_init(const char *tag, uint32_t *features, struct err *e);
int netns_take(struct netns *n, enum sp_egress driver, struct err *e);
/* After a restart of the spawner. */
int netns_claim(enum sp_egress driver, uint32_t lease, struct err *e);
/* The sandbox is gone: the lease may be used again. */
void netns_release(enum sp_egress driver, uint32_t lease);
bool egress_refill(void);
void egress_fini(void);
enum { NETNS_POOL = 16 };

/* ---- the root file system (rootfs.c). In the parent: rootfs_init() once, then rootfs_prepare() for each sandbox before the
 * clone, rootfs_unprepare() after it (both when it worked and when it failed). ------------------------------------- */
struct rootfs_plan;
int rootfs_init(struct err *e);
/* Makes P->dev_fd: a detached tmpfs with the device nodes (real ones: the child may not make any). */
int rootfs_prepare(struct rootfs_plan *p, uint32_t uid_base, struct err *e);
void rootfs_unprepare(struct rootfs_plan *p);
void rootfs_fini(void);

/* ---- inside the child (rootfs.c): runs between clone3 and exec of init, in the new namespaces, with full capabilities
 * there; async-signal-safe calls only, no allocation. Everything it needs was prepared by the parent. */
struct rootfs_plan {
    int root_mnt;    /* detached overlay */
    int sysfs_fd;    /* or -1 */
    int cgroup_fd;   /* v2 directory, becomes IN_CGROUP_FD */
    int control_fd;  /* becomes IN_FD */
    int seccomp_fd;  /* becomes IN_SECCOMP_FD */
    int listen_fd;   /* becomes IN_LISTEN_FD: where init finds a new spawner when the old one has died */
    int init_fd;     /* sealed memfd with silica-init; execveat */
    int dev_fd;      /* from rootfs_prepare() */
    int mount_point; /* not used: an fd of the parent's mount namespace cannot be mounted on */
    const char
        *mount_point_path; /* NULL = /sys of the host's tree, which every uid reaches (a 0700 run dir is out of reach of
                                   * the child: its capabilities end at its own user namespace) */
    const char *hostname;
    const char *resolv,
        *hosts; /* contents to write to /etc/resolv.conf and /etc/hosts inside (tmpfs files bound over) */
    uint64_t shm_bytes;
    bool readonly_root;
};
/* In a child with a user and a mount namespace of its own, its ids mapped, its signals at their defaults. Never returns on
 * success. On failure returns a negative errno with *RET_WHERE naming the step (static string). */
int rootfs_enter_and_exec(const struct rootfs_plan *p, const char **ret_where);

/* ---- seccomp (seccomp.c): builds the program once, as a balanced tree of ranges, into a sealed memfd ------------- */
int seccomp_build(int *ret_memfd, unsigned *ret_instructions, struct err *e);
