/* silicad <-> spawner.
 *
 * One SOCK_SEQPACKET pair, made by the spawner before it execs silicad, which finds its end at SP_FD. The spawner owns
 * pids, uid slots, cgroups, mounts, namespaces; silicad owns meaning. Every request is answered exactly once, by its
 * token. Order of a life:
 *
 *   spawner                                        silicad
 *   SP_HELLO {epoch, boot id, limits, adopt_count} ->
 *   SP_ADOPT {id ...} + [control socket]  x count  ->     (live sandboxes of an earlier silicad)
 *   SP_GONE  {id, status ...}             x n      ->     (ended while nobody was listening; repeated until SP_FORGET)
 *                                         <- SP_READY      (listening; the spawner now says READY to the world)
 *                                         <- SP_CREATE     SP_CREATED + [control socket] or SP_FAILED
 *                                         <- SP_KILL / SP_STAT / SP_IMAGER ...
 *   SP_GONE {id ...}  (init is dead, everything is released; sent once everything is) ->
 *                                         <- SP_FORGET {id}
 *   SP_STOP {keep}    (SIGTERM)           ->               silicad ends calls, records, flushes, exits 0
 */
#pragma once

#include "wire/wire.h"

enum {
    SP_FD = 3,      /* the fd silicad finds the spawner at */
    SP_ID_MAX = 40, /* with NUL; [a-z0-9-] only */
    SP_LAYERS_MAX = 128,
    SP_DIGEST_LEN = 64,   /* lower-case hex of sha256 */
    SP_HOSTNAME_MAX = 64, /* with NUL */
};

enum sp_type {
    SP_HELLO = 1, /* spawner -> silicad */
    SP_ADOPT,
    SP_GONE,
    SP_STOP,
    SP_CREATED,
    SP_FAILED,
    SP_STATS,
    SP_DONE,      /* plain positive answer */
    SP_IMAGER_UP, /* the imager runs: + [result socket] */

    SP_READY = 64, /* silicad -> spawner */
    SP_CREATE,
    SP_KILL,
    SP_STAT,
    SP_FORGET,
    SP_IMAGER,
    SP_LAYER_RM,
};

/* Features found by probing, for records and `silica version`; bits of sp_hello.features. */
enum sp_feature {
    SP_FEAT_CG2_CONTROLLERS = 1 << 0, /* pure v2: memory, cpu, pids are v2 */
    SP_FEAT_CG1_MEMORY = 1 << 1,
    SP_FEAT_CG1_CPU = 1 << 2,
    SP_FEAT_CG1_PIDS = 1 << 3,
    SP_FEAT_PRJQUOTA = 1 << 4,
    SP_FEAT_LOOP = 1 << 5,
    SP_FEAT_OVL_FD = 1 << 6, /* overlay layers by fd */
    SP_FEAT_NAT = 1 << 7,
    SP_FEAT_NAT6 = 1 << 8,
};

enum sp_writable { SP_W_AUTO, SP_W_PRJQUOTA, SP_W_LOOP, SP_W_TMPFS, SP_W_COUNT };
enum sp_egress { SP_E_NONE, SP_E_NAT, SP_E_COUNT };
enum sp_box_flags {
    SP_BOX_READONLY_ROOT = 1 << 0,
    SP_BOX_NO_NEW_PRIVS = 1 << 1,
};

struct sp_hello {
    uint64_t epoch;    /* grows by one for every silicad the spawner starts; never 0 */
    uint32_t features; /* enum sp_feature */
    uint32_t adopt_count;
    uint32_t slot_count; /* uid slots = most sandboxes at a time */
    uint32_t pad;
    struct wire_str boot_id;
    struct wire_str host_resolv; /* nameservers in use by the host, space separated */
};

/* A sandbox to make. All sizes in bytes, 0 = unlimited (or the driver's default for disk). */
struct sp_create {
    uint64_t memory_max;    /* swap is not given */
    uint64_t cpu_quota_us;  /* per cpu_period_us; 0 = unlimited */
    uint64_t cpu_period_us; /* 0 = 100000 */
    uint64_t pids_max;
    uint64_t disk_bytes; /* the writable layer; 0 = default */
    uint64_t shm_bytes;  /* /dev/shm; 0 = 64 MiB */
    uint32_t writable;   /* enum sp_writable */
    uint32_t egress;     /* enum sp_egress */
    uint32_t flags;      /* enum sp_box_flags */
    uint32_t cpu_weight; /* cgroup v2 scale 1..10000; 0 = 100 */
    struct wire_str id;  /* SP_ID_MAX */
    struct wire_str hostname;
    struct wire_vec layers; /* digests, lowest layer first, 1..SP_LAYERS_MAX */
    struct wire_vec dns;    /* nameserver addresses for resolv.conf; empty = the host's */
    uint32_t pad;
    uint32_t pad2;
};

/* + fds [control socket: SOCK_SEQPACKET to init, see in.h]. Phases in microseconds since the request was read. */
struct sp_created {
    int32_t pid; /* of init, in the host's pid namespace */
    uint32_t slot;
    uint32_t uid_base; /* host uid of the sandbox's root */
    uint32_t writable; /* driver used */
    uint32_t us_layer, us_clone, us_ready, us_total;
};

struct sp_failed {
    int32_t code;  /* negative errno */
    uint32_t kind; /* enum err_kind */
    struct wire_str msg;
};

/* + fds [control socket]. */
struct sp_adopt {
    int32_t pid;
    uint32_t slot;
    uint32_t uid_base;
    uint32_t writable;
    uint64_t started_ns; /* CLOCK_REALTIME */
    struct wire_str id;
};

/* Init is dead and nothing of the sandbox is left (processes, mounts, cgroups, namespace, layer). */
struct sp_gone {
    int32_t status;               /* wait(2) status of init; -1 unknown */
    uint32_t oom_kills;           /* of the whole sandbox */
    uint64_t cpu_us, memory_peak; /* 0 = not known */
    struct wire_str id;
};

/* Kill everything in the sandbox at once (cgroup.kill) and release it. Answer SP_DONE at once, SP_GONE when finished.
 * Unknown id: SP_FAILED ENOENT. */
struct sp_kill {
    struct wire_str id;
};
struct sp_stat {
    struct wire_str id;
};
struct sp_forget {
    struct wire_str id;
};
struct sp_stats {
    uint64_t memory_now, memory_peak, memory_max;
    uint64_t cpu_us;
    uint64_t disk_used, disk_max;
    uint32_t pids_now, oom_kills;
};
struct sp_stop {
    uint32_t keep; /* 1: sandboxes stay; 0: they will all be ended after silicad has exited */
    uint32_t pad;
};
struct sp_ready {
    uint32_t pad[2];
};

enum sp_imager_op { SP_IM_LAYER = 1, /* one tar -> one layer */ SP_IM_COUNT };

/* Start an imager in its own namespaces, root of the store range only. fds: [input: pipe or regular file].
 * SP_IMAGER_UP + [result socket] when it runs: one im.h message arrives there, then end of file. Killing = closing the
 * result socket. */
struct sp_imager {
    uint32_t op;
    uint32_t pad;
    uint64_t max_bytes; /* unpacked size limit */
    uint64_t max_entries;
};
/* Remove a layer directory that no live sandbox uses (SP_FAILED EBUSY otherwise). Answer SP_DONE. */
struct sp_layer_rm {
    struct wire_str digest;
};
struct sp_created_imager {
    int32_t pid;
    uint32_t pad;
};

/* Exact body size of a type, -1 for an unknown type. For wire_recv. */
int sp_body_size(uint16_t type);
