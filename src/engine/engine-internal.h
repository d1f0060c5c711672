/* What the engine's files share. Loop thread only.
 *
 *   box.c      the life of a sandbox, its record, timers         spawner-link.c  wire/sp.h conversation
 *   proc.c     any process in a sandbox: main, exec, ...          init-link.c     wire/in.h conversation with one init
 *   exec.c     foreground processes with a caller                 log.c           main output: pipe -> segments, readers
 *   file.c     files through init                                 env.c           the merge of environment levels
 *   image.c    names, layers, import                              store/store.h   SQLite, on the database lane of the pool
 *   proc-main.c the main process                                  given-fd.c      descriptors that init gave
 *   exec-out.c, exec-in.c   its output, its input                 log-dir.c, log-reader.c  segments on disk, who reads them
 */
#pragma once

#include <sys/queue.h>
#include <uthash.h>

#include "engine/engine.h"
#include "engine/env.h"
#include "store/store.h"
#include "wire/in.h"
#include "wire/sp.h"

struct spawner_link;
struct init_link;
struct proc;
struct box_log;
struct known_user;
enum { KNOWN_USERS_MAX = 64 }; /* images and users whose numbers are remembered */

/* A cancellable callback. Embedded as the first member of an operation's own struct; op_drop() only sets the flag, the
 * owner frees the operation when it ends. */
struct op {
    bool dropped;
};

TAILQ_HEAD(box_list, box);
TAILQ_HEAD(waiter_list, waiter);

struct engine {
    struct loop *loop;
    struct engine_config config;
    struct store *store;
    struct spawner_link *spawner;
    struct box *boxes;               /* uthash by id: live and retained ones */
    struct box *by_request;          /* uthash by "tenant\0request_id" */
    struct image *images;            /* uthash by name */
    struct image_state *image_state; /* of image*.c: layers, imports */
    uint64_t epoch;
    uint64_t started_ns;
    uint32_t features;
    unsigned live; /* boxes not ended */
    uint64_t memory_promised;
    uint64_t next_token;
    bool stopping;
    struct timer reaper; /* retention */
    void (*ready)(void *arg);
    void (*stop)(void *arg, bool keep);
    void *arg;
    /* of engine.c and box*.c */
    struct box_list by_id;      /* every box, ascending id */
    struct box_list ended;      /* ended ones, oldest end first: what the reaper eats */
    struct waiter_list waiters; /* callbacks that belong to no box */
    char *boot_id;              /* of the host now */
    unsigned slot_count;        /* uid slots of the spawner */
    uint64_t cpu_promised;      /* millis */
    unsigned ended_count;       /* in `ended` */
    unsigned adopting;          /* boxes whose init has not told its table yet, and records being asked about */
    bool hello, served;         /* adoption has begun; ready() was called */
    struct timer adopt_wait;
    void (*shutdown_done)(void *arg);
    void *shutdown_arg;
    struct known_user *known_users; /* KNOWN_USERS_MAX places, of box-user.c; NULL before the first */
    unsigned known_users_next;
};

/* What the spawner holds of a sandbox. */
enum box_hold { BOX_HOLD_NONE, BOX_HOLD_CREATING, BOX_HOLD_LIVE, BOX_HOLD_KILLING };
/* How far the end of a sandbox has come: its log is drained, then its record is committed, then everybody is told. */
enum box_end { BOX_END_NONE, BOX_END_DRAINING, BOX_END_RECORDING, BOX_END_SHOWN };

struct box {
    UT_hash_handle hh, hh_request;
    struct engine *en;
    char id[ID_MAX];
    struct box_record *rec; /* the durable part: store/store.h */
    enum box_state state;
    struct init_link *init; /* NULL before SP_CREATED and after SP_GONE */
    struct env_set *env;    /* levels system, image, sandbox; see env.h */
    struct proc *main;
    struct box_log *log;
    struct proc *procs; /* uthash by token */
    unsigned proc_count;
    uint64_t next_token; /* tokens of processes; persisted high-water through IN_TABLE on adoption */
    uint32_t uid, gid, ngroups, groups[IN_GROUPS_MAX]; /* of the image's USER, resolved by init at start */
    char *home;
    bool stop_asked; /* a stop is under way: its reason wins */
    char *stop_reason;
    struct timer grace, lifetime;
    struct waiter_list waiters; /* pending create/stop/remove callbacks */
    /* of box*.c */
    TAILQ_ENTRY(box) by_id, by_end;
    char *request_key; /* "tenant\0request_id" */
    size_t request_key_len;
    enum box_hold hold;
    enum box_end end;
    bool usable;                       /* uid and environment are known: things can run */
    bool adopted;                      /* of an earlier silicad; until its init has told its table */
    bool counted;                      /* in en->live and the promises */
    bool main_over;                    /* its exit is in rec */
    bool unrecorded;                   /* its first write failed: it must go without a trace */
    bool forget_due;                   /* the spawner waits for SP_FORGET */
    bool loaded;                       /* made by an earlier silicad */
    bool deleting;                     /* its record is on the way out */
    bool removing;                     /* its record is being deleted: nobody finds it any more */
    uint64_t write_seq, committed_seq; /* writes of the record: made, committed */
    uint64_t end_seq;                  /* the write that makes the end known */
    struct op *oom_op;                 /* asking whether memory ran out */
    char *failure;                     /* why it is being killed, when that was not asked for */
    /* of exec.c */
    uint32_t oom_seen; /* OOM kills that were told to somebody already */
};

/* ---- box.c ------------------------------------------------------------------------------------------------------ */
/* Record fields of entry_json: {"entrypoint": ["..."], "cmd": ["..."]}; a missing key means that the image has none. rec->user and
 * rec->cwd are the effective ones (request, else image); NULL = root, "/". b->uid.., b->home and the system level of b->env are
 * set before box_start_main(); SYSTEM = PATH, HOME, HOSTNAME, LANG. */
enum { BOX_REC_TMPFS = 1 << 16 /* rec->flags: the writable layer is a tmpfs */ };
/* A live sandbox that can run things, or SANDBOX_NOT_FOUND / SANDBOX_NOT_RUNNING (message says the state and why). */
int box_find_running(struct engine *en, const char *tenant, const char *id, struct box **ret, struct err *e);
int box_find(struct engine *en, const char *tenant, const char *id, struct box **ret, struct err *e);
/* From proc.c: the main process started / could not start / ended. An end may be reported as EXEC_UNKNOWN when the sandbox went
 * first. Called during adoption too. After box_main_ended() B stays valid until the loop turns. */
void box_main_started(struct box *b, uint64_t start_ns);
void box_main_failed(struct box *b, const struct err *e);
void box_main_ended(struct box *b, const struct exec_result *res);
/* From init-link.c: the control socket reached end of file or broke its protocol (init is dead or mad): kill the sandbox. */
void box_init_lost(struct box *b, const struct err *e);
/* From spawner-link.c. FDS as in sp.h; the callee takes them. */
void box_created(struct box *b, const struct sp_created *c, int control_fd);
void box_create_failed(struct box *b, const struct err *e);
void box_gone(struct engine *en, const char *id, const struct sp_gone *g);
void box_adopt(struct engine *en, const char *id, const struct sp_adopt *a, int control_fd);
void boxes_adopt_done(
    struct engine *en); /* records that say "live" but were neither adopted nor gone: host restarted or lost */

/* ---- spawner-link.c --------------------------------------------------------------------------------------------- */
int spawner_link_new(struct engine *en, int fd, struct spawner_link **ret, struct err *e);
void spawner_link_free(struct spawner_link *l);
int spawner_ready(struct spawner_link *l, struct err *e);
/* The answer arrives at box_created / box_create_failed. LAYERS NULL-terminated. */
int spawner_create(struct spawner_link *l, struct box *b, const char *const *layers, struct err *e);
int spawner_kill(struct spawner_link *l, const char *id, struct err *e);
int spawner_forget(struct spawner_link *l, const char *id, struct err *e);
/* CB gets the answer or an error; B may have ended meanwhile. */
struct op *spawner_stat(struct spawner_link *l, const char *id,
                        void (*cb)(void *arg, const struct err *e, const struct sp_stats *s), void *arg);
/* FD is taken. RESULT_FD of the answer is the callee's. */
struct op *spawner_imager(struct spawner_link *l, const struct sp_imager *req, int fd,
                          void (*cb)(void *arg, const struct err *e, int result_fd), void *arg);
struct op *spawner_layer_rm(struct spawner_link *l, const char *digest, void (*cb)(void *arg, const struct err *e),
                            void *arg);

/* ---- init-link.c ------------------------------------------------------------------------------------------------ */
/* FD is taken. Sends IN_HELLO at once. READY when the table is complete: every IN_ENTRY was given to proc_adopt(). */
int init_link_new(struct box *b, int fd, void (*ready)(struct box *b), struct init_link **ret, struct err *e);
void init_link_free(struct init_link *l); /* pending callbacks get ERR_UNAVAILABLE */
/* Asks; CB gets the answer message (fds to be taken from it) or an error (IN_FAILED arrives as M with its type: CB looks).
 * TOKEN 0: a fresh one is chosen. */
typedef void (*init_cb)(void *arg, const struct err *e, struct wire_msg *m);
int init_ask(struct init_link *l, uint16_t type, uint64_t token, const void *body, size_t body_len,
             const struct wire_tail *tail, init_cb cb, void *arg, struct err *e);
/* No answer wanted (IN_ACK). */
int init_tell(struct init_link *l, uint16_t type, uint64_t token, const void *body, size_t body_len);

/* ---- image.c ---------------------------------------------------------------------------------------------------- */
/* Once, at start: fills en->images (and the layers) from the store. */
int images_load(struct engine *en, struct err *e);
void images_free(struct engine *en);
/* A sandbox has let go of its layers (box_release): those that only it used are removed. */
void images_box_released(struct engine *en);

/* ---- proc.c: one process, of any kind ---------------------------------------------------------------------------- */
struct proc_spec {
    enum in_kind kind;
    const char *const *argv;
    const struct env_item *env; /* command level */
    size_t env_count;
    const char *cwd;  /* NULL = the sandbox's */
    const char *user; /* NULL = the sandbox's */
    bool tty, stdin_open, merge, cwd_create;
    uint16_t rows, cols;
};
struct proc_ops {
    /* FDS: [stdin], stdout/pty master, [stderr]; -1 where absent; taken by the callee. */
    void (*started)(struct proc *p, int in, int out, int err_fd);
    void (*failed)(struct proc *p, const struct in_failed *why, const struct err *e); /* WHY NULL: the link failed */
    void (*exited)(struct proc *p, const struct in_exited *x); /* X NULL: unknown, the sandbox ended first */
};
struct proc {
    UT_hash_handle hh;
    struct box *box;
    uint64_t token;
    enum in_kind kind;
    const struct proc_ops *ops;
    void *owner;
    uint64_t start_ns;
    /* of proc.c */
    char *argv0;             /* for messages */
    struct proc_plan *plan;  /* until it is sent */
    bool running;            /* IN_SPAWNED has arrived */
    bool gone;               /* its callbacks are over; freed with the last answer about it */
    bool killing, kill_tree; /* an IN_KILL is under way; the next one is for the tree */
    uint64_t signals;        /* bit N - 1: signal N is to be sent when that can be done */
    unsigned asks;           /* answers of init that will name it */
};
/* Merges the environment, checks limits (ERR_INVALID naming the variable), sends IN_SPAWN. */
int proc_spawn(struct box *b, const struct proc_spec *s, const struct proc_ops *ops, void *owner, struct proc **ret,
               struct err *e);
/* An entry of IN_TABLE after adoption; FDS as in proc_ops.started. Main goes to its log and becomes b->main (an ended one too:
 * its IN_EXITED follows), unknown kinds are killed. */
void proc_adopt(struct box *b, uint64_t token, const struct in_entry *en, int *fds, unsigned nfds);
/* From init-link.c; acks, except for IN_MAIN: init keeps that exit, so that a crash of ours before it is recorded loses
 * nothing; the sandbox is killed once it is. */
void proc_exited(struct box *b, uint64_t token, const struct in_exited *x);
/* Kept until it can be delivered: a process that is still starting gets it then. */
int proc_kill(struct proc *p, int signo, bool tree, struct err *e);
/* The owner is gone: no more callbacks; the tree is killed, now or as soon as it has started, its exit acknowledged in silence. */
void proc_abandon(struct proc *p);
/* The sandbox is gone, or the daemon stops (en->stopping): exited(NULL) for all. b->main is NULL afterwards. */
void procs_lost(struct box *b);
void proc_free(struct proc *p);

/* Starts the main process: argv from command/args/image, output into the log; calls box_main_*. */
int box_start_main(struct box *b, struct err *e);

/* ---- log.c ------------------------------------------------------------------------------------------------------ */
/* Opens (or re-opens after adoption) the log of B. OUT_FD (pipe read end, -1 for an ended sandbox) is taken. */
int box_log_open(struct box *b, int out_fd, struct box_log **ret, struct err *e);
/* The main process has ended: drain what is in the pipe, then end followers. */
void box_log_finish(struct box_log *l, void (*done)(struct box *b));
/* The end of the sandbox is visible: followers are told that there is no more. Not before, or they would ask how it ended and
 * hear that it runs. NULL is fine. */
void box_log_ended(struct box_log *l);
/* Files stay. Readers end with ERR_UNAVAILABLE. NULL is fine. */
void box_log_free(struct box_log *l);
int box_log_remove(struct engine *en, const char *id); /* files go */
