/* Shared by the files of the spawner that are not drivers.
 *
 *   main.c       options, then supervisor_run()
 *   supervisor.c start-up, signals, the stop
 *   host.c       the spawner's own place: mount namespace, directories, locks, facts of the host
 *   server.c     silica-server: start, death, restart
 *   link.c       the socket to silica-server: requests in, answers and events out
 *   create.c     a request becomes a live sandbox; jail.c clones, slim.c makes that cheap
 *   end.c        a sandbox that ends, up to SP_GONE
 *   box.c        the table of sandboxes, in memory and on disk (table.c reads and writes its records)
 *   adopt.c      the sandboxes of a spawner before this one; upgrade.c makes one out of the running one
 *   imager.c     imagers and the removal of layers
 *
 * One thread, one loop, one struct spawner. Nothing here waits: what takes time is an event. */
#pragma once

#include <limits.h>
#include <signal.h>
#include <uthash.h>

#include "base/fd.h"
#include "base/log.h"
#include "loop/loop.h"
#include "spawner/drivers.h"
#include "spawner/options.h"
#include "spawner/table.h"
#include "spawner/validate.h"

enum {
    CREATES_MAX = 128, /* creations under way; further requests stay in the socket */
    IMAGERS_MAX = 16,
    GONE_MAX = 65536,     /* ended sandboxes that silicad has not acknowledged; above: no new ones */
    JAIL_DEADLINE_S = 10, /* from clone to exec */
    END_WARN_S = 10,      /* a sandbox that is not dead after this is reported, and waited for */
    SERVER_STOP_S = 10,   /* for silica-server to finish after SP_STOP */
    STOP_S = 60,          /* for all sandboxes to be gone after that */
    RAPID_DEATHS = 5,     /* deaths of silica-server within RAPID_WINDOW_S that start the back-off */
    RAPID_WINDOW_S = 10,
    BACKOFF_MIN_MS = 100,
    BACKOFF_MAX_MS = 5000,
    FD_RESERVED = 16, /* low numbers that our own fds never have, so that children can be given them */
    RUNNER_ID_MAX = 64,
    REFILL_DELAY_MS = 5, /* from a creation, or an end, to the refill of the pools */
};

struct spawner;
struct box;

/* ---- jail.c: a child in namespaces of its own --------------------------------------------------------------------- */
struct jail {
    struct spawner *sp;
    pid_t pid;
    struct io io;
    struct timer deadline;
    /* Once, from the loop: CODE 0 when the child has exec'd (or died just then), else a negative errno and where. */
    void (*done)(struct jail *j, int code, const char *where);
};
struct jail_plan {
    uint64_t flags;    /* CLONE_NEW* without NEWUSER and NEWNET of a netns_fd */
    uint32_t uid_base; /* uid and gid 0..65535 inside; also the owner of the user namespace */
    int cgroup_fd;     /* or -1 */
    int netns_fd;      /* or -1 */
    /* In the parent, before the child may run on: negative = kill it. */
    int (*before_go)(void *arg, pid_t pid, struct err *e);
    /* In the child, as root of its namespaces; async-signal-safe calls only. Does not return on success. */
    int (*run)(void *arg, const char **ret_where);
    void *arg;
};
/* On failure J->pid may be set: that child is being killed and will be reaped like any other. */
int jail_start(struct spawner *sp, struct jail *j, const struct jail_plan *plan,
               void (*done)(struct jail *j, int code, const char *where), struct err *e);
/* The child is dead: handles what it left to say. DONE is called. */
void jail_flush(struct jail *j);
/* Forgets the child (does not kill it). Fine on a zeroed one. */
void jail_stop(struct jail *j);
/* slim.c: once, when start-up is over: makes clones cheap. Children have no nftables, seccomp or name service afterwards. */
void spawner_slim(void);
/* In a child: signals are those of a fresh process, and no descriptor above 2 survives exec unless it is put there anew. */
void child_reset(void);

/* ---- box.c ---------------------------------------------------------------------------------------------------------- */
struct layer_use {
    char digest[SP_DIGEST_LEN + 1];
    unsigned boxes;
    UT_hash_handle hh;
};

enum box_state { BOX_CREATING, BOX_LIVE, BOX_ENDING, BOX_GONE };

/* A creation under way; freed when it has been answered. */
struct creation {
    struct jail jail;
    uint64_t token, epoch;
    uint64_t t0, t_layer, t_clone;
    int init_control; /* init's end until the clone */
    int code;         /* of the failure */
    enum err_kind kind;
    char why[ERR_MSG_MAX];
};

struct box {
    struct spawner *sp;
    UT_hash_handle hh;     /* by id */
    UT_hash_handle by_pid; /* while `pid` is not reaped */
    TAILQ_ENTRY(box) untold;
    TAILQ_ENTRY(box) releasing;
    char id[SP_ID_MAX];
    enum box_state state;
    bool reaped, child, hashed_pid, is_untold, adopt_due, has_slot, has_egress, has_cgroup, is_releasing;
    pid_t pid;
    uint64_t start_ticks, started_ns, disk_bytes;
    int slot;
    uint32_t uid_base;
    struct layer layer;
    enum sp_egress egress;
    uint32_t lease;
    int control; /* a duplicate of silicad's end, for the next silicad */
    struct io pid_io, cg_io;
    struct timer timer;
    unsigned layer_count;
    struct layer_use **layers;
    struct creation *creation;
    int32_t status;
    uint32_t oom_kills;
    uint64_t cpu_us, memory_peak;
};
TAILQ_HEAD(box_list, box);

/* All return NULL when there is none. */
struct box *box_find(struct spawner *sp, const char *id);
struct box *box_by_pid(struct spawner *sp, pid_t pid);
/* A box in state CREATING with nothing in it but references to its layers. NULL: out of memory. */
struct box *box_new(struct spawner *sp, const char *id, const char (*digests)[SP_DIGEST_LEN + 1], unsigned count);
/* Everything it held has been released. */
void box_free(struct box *box);
void box_set_pid(struct box *box, pid_t pid);
void box_clear_pid(struct box *box);
/* Its layers may be removed from now on. */
void box_drop_layers(struct box *box);
bool layer_in_use(struct spawner *sp, const char *digest);
/* Appends the box as STATE to the table file. */
int box_record(struct box *box, enum table_state state, struct err *e);
int epoch_record(struct spawner *sp, struct err *e);
/* Reads the sandboxes of an earlier spawner. */
int table_load(struct spawner *sp,
               void (*each)(void *arg, const struct table_rec *rec, const uint8_t (*digests)[TABLE_DIGEST]), void *arg,
               struct err *e);
/* Starts a fresh file with all boxes there are. */
int table_start(struct spawner *sp, struct err *e);

/* ---- link.c ------------------------------------------------------------------------------------------------------- */
struct outmsg;
TAILQ_HEAD(outmsg_list, outmsg);
/* A new silicad: HELLO, then all live and gone sandboxes. FD is taken. */
int link_open(struct spawner *sp, int fd, struct err *e);
void link_close(struct spawner *sp);
/* Queues one message; FDS are duplicated by the kernel or taken, as TAKE says. Dropped when there is no silicad. */
void link_send(struct spawner *sp, uint16_t type, uint64_t token, const void *body, size_t body_len,
               struct wire_tail *tail, int fd);
void link_fail(struct spawner *sp, uint64_t token, const struct err *e);
void link_done(struct spawner *sp, uint64_t token);
/* The box has something to tell: adopted, or gone. */
void link_tell(struct box *box);
void link_untell(struct box *box);
/* Reads on after a pause for too many creations. */
void link_resume(struct spawner *sp);

/* ---- create.c, end.c ---------------------------------------------------------------------------------------------- */
void create_start(struct spawner *sp, uint64_t token, const struct box_plan *plan);
/* Answers a creation with a failure; the box is free of it afterwards. */
void create_failed(struct box *box);
/* Kills and releases; any number of times, in any state. */
void box_end(struct box *box);
/* Init is dead. */
void box_reaped(struct box *box, int status);
unsigned boxes_alive(const struct spawner *sp);

/* ---- imager.c ----------------------------------------------------------------------------------------------------- */
void imager_start(struct spawner *sp, uint64_t token, const struct sp_imager *req, int input);
/* True when PID was an imager or a remover of layers. */
bool imager_reaped(struct spawner *sp, pid_t pid, int status);
void imagers_kill(struct spawner *sp);
int layer_remove(struct spawner *sp, const char *digest, struct err *e);
/* Removes what dead imagers and dead removers left. */
void layers_sweep(struct spawner *sp);

/* ---- server.c ----------------------------------------------------------------------------------------------------- */
int server_start(struct spawner *sp, struct err *e);
bool server_reaped(struct spawner *sp, pid_t pid, int status);
/* It does not follow the protocol: it is compromised or mad. */
void server_distrust(struct spawner *sp, const char *why);
/* Asks it to end, kills it after SERVER_STOP_S; supervisor_server_ended() follows. */
void server_stop(struct spawner *sp, bool keep);

/* ---- adopt.c, upgrade.c ------------------------------------------------------------------------------------------- */
int adopt_all(struct spawner *sp, struct err *e);
/* The control socket that the image before this one left for ID, or -1; the caller's. */
int upgrade_control(struct spawner *sp, const char *id);
/* Closes what was handed over and nobody asked for. */
void upgrade_forget(struct spawner *sp);
int upgrade_load(struct spawner *sp, struct err *e);
/* Becomes the program now on disk. Returns only on failure. */
int upgrade_exec(struct spawner *sp, struct err *e);

/* ---- host.c ------------------------------------------------------------------------------------------------------- */
/* Called in this order. */
int host_mounts(struct spawner *sp, struct err *e);
int host_dirs(struct spawner *sp, struct err *e);
int host_lock(struct spawner *sp, struct err *e);
int host_programs(struct spawner *sp, struct err *e);
int host_listen(struct spawner *sp, struct err *e);
void host_facts(struct spawner *sp);
void host_notify(struct spawner *sp, const char *text);
/* The start time of PID in clock ticks since boot, 0 when there is no such process. */
uint64_t proc_start_ticks(pid_t pid);
bool proc_is_child(pid_t pid);
int mkdir_owned(int dirfd, const char *path, mode_t mode, uint32_t uid, struct err *e);
/* Ends a silica-server that outlived its spawner: it still holds the listening sockets. */
void host_end_old_server(struct spawner *sp);
void host_write_server_pid(struct spawner *sp, pid_t pid);

/* ---- supervisor.c ------------------------------------------------------------------------------------------------- */
int supervisor_run(const struct options *opt, char *const argv[]);
void supervisor_server_ended(struct spawner *sp);
void supervisor_ready(struct spawner *sp);
/* A box is gone or a creation is answered: look whether a stop or an upgrade can go on. */
void supervisor_progress(struct spawner *sp);
/* Pools are refilled soon. */
void supervisor_idle(struct spawner *sp);

enum sp_stage { SP_RUNNING, SP_STOPPING_SERVER, SP_STOPPING_BOXES, SP_UPGRADING };

struct spawner {
    struct options opt;
    char *const *argv;
    struct loop *loop;
    struct sig sig;
    enum sp_stage stage;
    bool failed; /* exit status 1 */
    struct timer stop_timer;
    struct defer progress;
    struct defer refill_turn, release;
    struct timer refill_timer;

    /* the host */
    int state_fd, run_fd, box_fd, layers_fd; /* directories: state, run, run/box, state/layers */
    int state_lock, run_lock;
    int netns_fd; /* our own */
    char boot_id[TABLE_BOOT_MAX];
    char runner_id[RUNNER_ID_MAX];
    char tag[16];
    char host_resolv[512];
    int program_server, program_imager, program_init, seccomp_fd;
    int listen_fds[LISTEN_MAX];
    uint32_t daemon_uid, daemon_gid;
    uint64_t nofile;
    uint32_t features, slot_count;
    int null_fd;
    bool up_slots, up_layers, up_cgs, up_egress, up_rootfs;

    /* silica-server */
    pid_t server;
    uint64_t epoch;
    bool ready_told, server_ready, server_stopping;
    unsigned deaths; /* within the window that began at first_death */
    uint64_t first_death;
    unsigned backoff_ms;
    struct timer server_timer;
    struct io link;
    struct outmsg_list out;
    struct box_list untold;
    unsigned paused; /* reading of requests is paused */
    void *recv_buf;

    /* sandboxes */
    struct box *boxes, *pids;
    struct layer_use *layer_uses;
    struct box_list releasing;
    unsigned creating, gone;
    int table_fd;
    uint64_t table_bytes, table_live_bytes;

    /* imagers and layer removal */
    LIST_HEAD(imager_list, imager) imagers;
    unsigned imager_count;
    bool sweep_again, imager_failed;
    pid_t remover;
    uint64_t del_seq;

    /* upgrade in place */
    char exe[PATH_MAX]; /* where our program file was when we started */
    struct handed {
        char id[SP_ID_MAX];
        int fd;
        UT_hash_handle hh;
    } * handed;
};
