/* What the engine's files share. Loop thread only.
 *
 *   box.c      the life of a sandbox, its record, timers         spawner-link.c  wire/sp.h conversation
 *   proc.c     any process in a sandbox: main, exec, ...          init-link.c     wire/in.h conversation with one init
 *   exec.c     foreground processes with a caller                 log.c           main output: pipe -> segments, readers
 *   file.c     files through init                                 env.c           the merge of environment levels
 *   image.c    names, layers, import                              store/store.h   SQLite, on the database lane of the pool
 */
#pragma once

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

/* A cancellable callback. Embedded as the first member of an operation's own struct. */
struct op {
    bool dropped;
};

struct engine {
    struct loop *loop;
    struct engine_config config;
    struct store *store;
    struct spawner_link *spawner;
    struct box *boxes;      /* uthash by id: live and retained ones */
    struct box *by_request; /* uthash by "tenant\0request_id" */
    struct image *images;   /* uthash by name */
    uint64_t epoch;
    uint64_t started_ns;
    uint32_t features;
    unsigned live;          /* boxes not ended */
    uint64_t memory_promised;
    uint64_t next_token;
    bool stopping;
    struct timer reaper;    /* retention */
    void (*ready)(void *arg);
    void (*stop)(void *arg, bool keep);
    void *arg;
};

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
    struct proc *procs;     /* uthash by token */
    unsigned proc_count;
    uint64_t next_token;    /* tokens of processes; persisted high-water through IN_TABLE on adoption */
    uint32_t uid, gid, ngroups, groups[IN_GROUPS_MAX]; /* of the image's USER, resolved by init at start */
    char *home;
    bool stop_asked;        /* a stop is under way: its reason wins */
    char *stop_reason;
    struct timer grace, lifetime;
    struct waiter *waiters; /* pending create/stop/remove callbacks */
};

/* ---- box.c ------------------------------------------------------------------------------------------------------ */
/* A live sandbox that can run things, or SANDBOX_NOT_FOUND / SANDBOX_NOT_RUNNING (message says the state and why). */
int box_find_running(struct engine *en, const char *tenant, const char *id, struct box **ret, struct err *e);
int box_find(struct engine *en, const char *tenant, const char *id, struct box **ret, struct err *e);
/* From proc.c: the main process started / could not start / ended. */
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
void boxes_adopt_done(struct engine *en); /* records that say "live" but were neither adopted nor gone: host restarted or lost */

/* ---- spawner-link.c --------------------------------------------------------------------------------------------- */
int spawner_link_new(struct engine *en, int fd, struct spawner_link **ret, struct err *e);
void spawner_link_free(struct spawner_link *l);
int spawner_ready(struct spawner_link *l, struct err *e);
/* The answer arrives at box_created / box_create_failed. LAYERS NULL-terminated. */
int spawner_create(struct spawner_link *l, struct box *b, const char *const *layers, struct err *e);
int spawner_kill(struct spawner_link *l, const char *id, struct err *e);
int spawner_forget(struct spawner_link *l, const char *id, struct err *e);
/* CB gets the answer or an error; B may have ended meanwhile. */
struct op *spawner_stat(struct spawner_link *l, const char *id, void (*cb)(void *arg, const struct err *e, const struct sp_stats *s), void *arg);
/* FD is taken. RESULT_FD of the answer is the callee's. */
struct op *spawner_imager(struct spawner_link *l, const struct sp_imager *req, int fd,
                          void (*cb)(void *arg, const struct err *e, int result_fd), void *arg);
struct op *spawner_layer_rm(struct spawner_link *l, const char *digest, void (*cb)(void *arg, const struct err *e), void *arg);

/* ---- init-link.c ------------------------------------------------------------------------------------------------ */
/* FD is taken. Sends IN_HELLO at once. READY when the table is complete: every IN_ENTRY was given to proc_adopt(). */
int init_link_new(struct box *b, int fd, void (*ready)(struct box *b), struct init_link **ret, struct err *e);
void init_link_free(struct init_link *l); /* pending callbacks get ERR_UNAVAILABLE */
/* Asks; CB gets the answer message (fds to be taken from it) or an error (IN_FAILED arrives as M with its type: CB looks).
 * TOKEN 0: a fresh one is chosen. */
typedef void (*init_cb)(void *arg, const struct err *e, struct wire_msg *m);
int init_ask(struct init_link *l, uint16_t type, uint64_t token, const void *body, size_t body_len, const struct wire_tail *tail,
             init_cb cb, void *arg, struct err *e);
/* No answer wanted (IN_ACK). */
int init_tell(struct init_link *l, uint16_t type, uint64_t token, const void *body, size_t body_len);

/* ---- proc.c: one process, of any kind ---------------------------------------------------------------------------- */
struct proc_spec {
    enum in_kind kind;
    const char *const *argv;
    const struct env_item *env; /* command level */
    size_t env_count;
    const char *cwd;      /* NULL = the sandbox's */
    const char *user;     /* NULL = the sandbox's */
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
};
/* Merges the environment, checks limits (ERR_INVALID naming the variable), sends IN_SPAWN. */
int proc_spawn(struct box *b, const struct proc_spec *s, const struct proc_ops *ops, void *owner, struct proc **ret, struct err *e);
/* An entry of IN_TABLE after adoption; FDS as in proc_ops.started. Main goes to its log, unknown kinds are killed. */
void proc_adopt(struct box *b, uint64_t token, const struct in_entry *en, int *fds, unsigned nfds);
void proc_exited(struct box *b, uint64_t token, const struct in_exited *x); /* from init-link.c; acks */
int proc_kill(struct proc *p, int signo, bool tree, struct err *e);
void procs_lost(struct box *b); /* the sandbox is gone: exited(NULL) for all */
void proc_free(struct proc *p);

/* Starts the main process: argv from command/args/image, output into the log; calls box_main_*. */
int box_start_main(struct box *b, struct err *e);

/* ---- log.c ------------------------------------------------------------------------------------------------------ */
/* Opens (or re-opens after adoption) the log of B. OUT_FD (pipe read end, -1 for an ended sandbox) is taken. */
int box_log_open(struct box *b, int out_fd, struct box_log **ret, struct err *e);
/* The main process has ended: drain what is in the pipe, then end followers. */
void box_log_finish(struct box_log *l, void (*done)(struct box *b));
void box_log_free(struct box_log *l); /* files stay */
int box_log_remove(struct engine *en, const char *id); /* files go */
