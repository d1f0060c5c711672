/* The engine: sandboxes, processes in them, their files, logs and environment; images. What every dialect calls.
 *
 * Calls take ids and values and copy what they keep. An operation that takes time returns a handle and calls back
 * later, always from the loop, never before it returned; dropping the handle means "do not call me". Records are
 * durable before the caller is told. Tenants never meet: an id of another tenant is "not found". Errors carry the reason
 * words of the contract (without a dialect's prefix): SANDBOX_NOT_FOUND, SANDBOX_NOT_RUNNING, FILE_NOT_FOUND,
 * FILE_IS_DIRECTORY, FILE_PERMISSION_DENIED, FILE_TOO_LARGE, FILE_IO_FAILED. Loop thread only. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/id.h"
#include "loop/loop.h"

struct engine;
struct op; /* a pending callback */

/* "Do not call me": the operation itself goes on. NULL is fine. */
void op_drop(struct op *op);

/* ---- configuration -------------------------------------------------------------------------------------------- */

struct engine_config {
    const char *state_dir;
    const char *runner_id;         /* of this machine; records carry it */
    uint64_t retention_ns;         /* ended records and their logs: 24 h */
    uint32_t default_lifetime_s;   /* when a request names none; 0 = no limit. Default 86400 */
    uint32_t max_lifetime_s;       /* 2592000 (30 days): above is refused */
    uint64_t default_disk_bytes;   /* 10 GiB */
    uint64_t default_memory_bytes; /* 2 GiB */
    uint32_t default_cpu_millis;   /* 0 = all cores */
    uint32_t default_pids;         /* 4096 */
    uint64_t log_max_bytes;        /* 64 MiB of main output kept for a sandbox */
    unsigned boxes_max;            /* 4096 live sandboxes */
    unsigned execs_max;            /* 1024 processes of ours in one sandbox */
    unsigned create_hold_ms;       /* 250: a create answers early once the sandbox has left "creating" */
    unsigned stop_hold_ms;         /* 150: likewise a stop, once it is terminal */
    const char *default_egress;    /* "nat" or "none" */
    unsigned retained_max;         /* 20000 ended records in memory; the oldest go first when there are more */
};
void engine_config_default(struct engine_config *c);

/* SPAWNER_FD: the socket of wire/sp.h; the engine reads SP_HELLO and adopts before READY is called (once). */
int engine_new(struct loop *loop, const struct engine_config *config, int spawner_fd, void (*ready)(void *arg),
               void (*stop)(void *arg, bool keep), void *arg, struct engine **ret, struct err *e);
/* Tells the spawner that we serve. */
int engine_announce(struct engine *en, struct err *e);
/* SIGTERM: ends calls (their dialects see ERR_UNAVAILABLE), records why each sandbox ends (unless KEEP), flushes, then DONE. */
void engine_shutdown(struct engine *en, bool keep, void (*done)(void *arg), void *arg);
void engine_free(struct engine *en);

/* ---- sandboxes ------------------------------------------------------------------------------------------------ */

enum box_state {
    BOX_CREATING,
    BOX_RUNNING,
    BOX_PAUSED,
    BOX_TERMINATING,
    BOX_COMPLETED,
    BOX_FAILED,
    BOX_TERMINATED,
    BOX_STATE_COUNT,
};
static inline bool box_state_ended(enum box_state s)
{
    return s == BOX_COMPLETED || s == BOX_FAILED || s == BOX_TERMINATED;
}
const char *box_state_name(enum box_state s); /* "running" */

/* One environment entry as a caller gives it. */
enum env_op {
    ENV_SET,
    ENV_UNSET /* hides lower levels */,
    ENV_RESET /* falls back to lower levels */,
    ENV_SKIP /* null at command level */
};
struct env_item {
    const char *name, *value;   /* value only for ENV_SET */
    size_t name_len, value_len; /* bytes; both are checked for NUL */
    enum env_op op;
};

enum box_egress { BOX_EGRESS_DEFAULT, BOX_EGRESS_NONE, BOX_EGRESS_NAT };

struct box_spec {
    const char *tenant;
    const char *creator; /* key name, for reasons */
    const char *dialect; /* "cw_v1" */
    const void *echo;    /* the dialect's own copy of the request, kept with the record and given back */
    size_t echo_len;
    const char *request_id;  /* idempotency, NULL = none: same tenant + id gives the first sandbox */
    const char *image;       /* a name, never empty */
    const char *command;     /* NULL: the image's entrypoint */
    const char *const *args; /* NULL: the image's cmd if command is NULL too, else none. NULL-terminated */
    const char *cwd;         /* NULL: the image's, else "/" */
    const char *user;        /* NULL: the image's, else root. "name[:group]" or "uid[:gid]" */
    const struct env_item *env;
    size_t env_count;
    const char *const *tags; /* NULL-terminated, may be NULL */
    uint64_t memory_bytes;   /* 0 = default */
    uint32_t cpu_millis;     /* 0 = default */
    uint32_t pids;           /* 0 = default */
    uint64_t disk_bytes;     /* 0 = default */
    uint32_t lifetime_s;     /* 0 = default */
    enum box_egress egress;
    bool readonly_root, no_new_privs;
    bool writable_tmpfs;
};

/* A picture of a sandbox; pointers live until the next call into the engine. */
struct box_info {
    char id[ID_MAX];
    const char *tenant, *dialect, *image, *image_digest, *runner_id;
    enum box_state state;
    const char *reason; /* "" while nothing is to be said; for ended ones why */
    const void *echo;
    size_t echo_len;
    const char *const *tags;                   /* NULL-terminated, never NULL */
    uint64_t created_ns, started_ns, ended_ns; /* wall clock; 0 = not yet */
    bool has_exit;
    int exit_code; /* 128 + N for a signal */
    uint64_t memory_bytes, disk_bytes;
    uint32_t cpu_millis, pids, lifetime_s;
    bool oom;
};

/* Called when the record is durable and the sandbox has left CREATING, or create_hold_ms passed. */
typedef void (*box_cb)(void *arg, const struct err *e, const struct box_info *info);
struct op *engine_box_create(struct engine *en, const struct box_spec *spec, box_cb cb, void *arg);
/* 0 or SANDBOX_NOT_FOUND. */
int engine_box_get(struct engine *en, const char *tenant, const char *id, struct box_info *ret, struct err *e);
struct box_filter {
    const char *const *tags; /* all must be there; NULL-terminated, may be NULL */
    int state;               /* enum box_state or -1 */
    bool ended;              /* include ended ones */
    const char *after;       /* id: exclusive cursor, NULL = from the start */
    unsigned limit;          /* 0 = 100 */
};
/* Calls EACH in order of id. *RET_MORE: there are more after the last one. */
int engine_box_list(struct engine *en, const char *tenant, const struct box_filter *f,
                    void (*each)(void *arg, const struct box_info *info), void *arg, bool *ret_more, struct err *e);
/* TERM to the main process, everything killed after GRACE_S. WHY becomes the reason ("deleted by local"). An ended sandbox
 * answers at once with its record. NO_SUCH: SANDBOX_NOT_FOUND. */
struct op *engine_box_stop(struct engine *en, const char *tenant, const char *id, uint32_t grace_s, const char *why,
                           box_cb cb, void *arg);
/* Forgets an ended sandbox and its logs (silica rm). A live one is ERR_PRECONDITION unless FORCE, which stops it first. */
struct op *engine_box_remove(struct engine *en, const char *tenant, const char *id, bool force, box_cb cb, void *arg);

/* ---- processes ------------------------------------------------------------------------------------------------ */

struct exec;
struct exec_spec {
    const char *tenant, *box;
    const char *const *argv;    /* NULL-terminated, at least one */
    const struct env_item *env; /* command level */
    size_t env_count;
    const char *cwd, *user; /* NULL: the sandbox's */
    bool tty, stdin_open, merge;
    uint16_t rows, cols; /* 0 = 24 x 80 */
};
enum exec_cause { EXEC_EXITED, EXEC_SIGNALED, EXEC_NOT_STARTED, EXEC_UNKNOWN };
struct exec_result {
    enum exec_cause cause;
    int code; /* shell convention: exit code, 128 + N, 127 not found, 126 not executable */
    int signal;
    bool oom;
    uint64_t start_ns, end_ns, out_bytes, err_bytes;
    uint64_t cpu_us, maxrss_kib;
};
struct exec_ops {
    void (*started)(struct exec *x, void *arg);
    /* STREAM 1 or 2. Takes CHUNK. Return false to stop delivery until exec_resume(). */
    bool (*output)(struct exec *x, int stream, struct chunk *chunk, void *arg);
    void (*stdin_drained)(struct exec *x, void *arg); /* room again after exec_write returned false */
    /* After all output. A program that cannot be started ends with EXEC_NOT_STARTED, after an `output` on stream 2 that says
     * so in a shell's words. X is freed after this returns. */
    void (*ended)(struct exec *x, const struct exec_result *res, void *arg);
    /* The sandbox or the daemon ended before the process's fate was known. X is freed after this returns. */
    void (*failed)(struct exec *x, const struct err *e, void *arg);
};
int engine_exec(struct engine *en, const struct exec_spec *spec, const struct exec_ops *ops, void *arg,
                struct exec **ret, struct err *e);
/* Copies LEN bytes. Returns false when the queue is above EXEC_STDIN_HIGH: go on after stdin_drained. After the process
 * has ended or closed its stdin, bytes are dropped. */
enum { EXEC_STDIN_HIGH = 256 << 10, EXEC_READ_SIZE = 64 << 10 };
bool exec_write(struct exec *x, const void *data, size_t len);
/* End of input once the queue is written; on a tty the terminal's EOF character. */
void exec_close_stdin(struct exec *x);
void exec_resize(struct exec *x, uint16_t rows, uint16_t cols);
void exec_resume(struct exec *x);
int exec_signal(struct exec *x, int signo, struct err *e);
/* The caller is gone: kills the tree; no more callbacks; X must not be used again. */
void exec_abandon(struct exec *x);

/* ---- files ---------------------------------------------------------------------------------------------------- */

enum { ENGINE_FILE_MAX = 32 << 20 }; /* unary file calls */
/* CHUNK (content) is the callee's; NULL on error. */
typedef void (*file_cb)(void *arg, const struct err *e, struct chunk *content);
/* Above MAX: FILE_TOO_LARGE with meta filepath, size_bytes, max_size_bytes. */
struct op *engine_file_read(struct engine *en, const char *tenant, const char *box, const char *path, uint64_t max,
                            file_cb cb, void *arg);
/* Copies DATA. Parents are made. */
struct op *engine_file_write(struct engine *en, const char *tenant, const char *box, const char *path, const void *data,
                             size_t len, file_cb cb, void *arg);

/* ---- logs of the main process ------------------------------------------------------------------------------------ */

struct log_reader;
struct log_spec {
    const char *tenant, *box;
    bool follow, timestamps;
    uint32_t tail_lines; /* 0 = from the start */
    uint64_t since_ns;   /* wall clock, 0 = all */
};
struct log_ops {
    /* Takes CHUNK: whole lines while possible, never a cut UTF-8 character unless the data itself is invalid. Return false to
     * stop until log_resume(). */
    bool (*data)(struct log_reader *r, struct chunk *chunk, uint64_t when_ns, void *arg);
    /* E NULL: the end. R is freed after this returns. */
    void (*ended)(struct log_reader *r, const struct err *e, void *arg);
};
int engine_logs(struct engine *en, const struct log_spec *spec, const struct log_ops *ops, void *arg,
                struct log_reader **ret, struct err *e);
void log_resume(struct log_reader *r);
void log_close(struct log_reader *r);

/* ---- environment ------------------------------------------------------------------------------------------------ */

enum env_level { ENV_SYSTEM, ENV_IMAGE, ENV_SANDBOX, ENV_SESSION, ENV_COMMAND, ENV_LEVELS };
const char *env_level_name(enum env_level l);
struct env_explained {
    const char *name;
    const char *value;       /* NULL: unset by `level` */
    enum env_level level;    /* who decided */
    bool secret;             /* value is then "•••" */
    unsigned shadowed_count; /* lower levels that had something to say, highest first */
    struct {
        enum env_level level;
        const char *value; /* NULL = unset */
    } shadowed[ENV_LEVELS];
};
/* Sorted by name. */
int engine_env_explain(struct engine *en, const char *tenant, const char *box,
                       void (*each)(void *arg, const struct env_explained *v), void *arg, struct err *e);

/* ---- images --------------------------------------------------------------------------------------------------- */

struct image_config {
    const char *const *env;        /* "NAME=value", NULL-terminated, may be NULL */
    const char *const *entrypoint; /* NULL = none */
    const char *const *cmd;
    const char *workdir, *user; /* NULL = none */
};
struct image_info {
    const char *name;          /* "python:3.11" */
    const char *digest;        /* sha256 hex of the canonical record of layers + config */
    const char *const *layers; /* lowest first */
    struct image_config config;
    uint64_t bytes, created_ns;
};
/* Unpacks a tar read from FD (taken: a pipe or file, closed in every case) into the layer store. */
typedef void (*layer_cb)(void *arg, const struct err *e, const char *digest, uint64_t bytes, const char *const *notes);
struct op *engine_layer_import(struct engine *en, int fd, layer_cb cb, void *arg);
/* Names (or renames) layers + config. Unknown layer: ERR_NOT_FOUND. */
typedef void (*image_cb)(void *arg, const struct err *e, const struct image_info *info);
struct op *engine_image_put(struct engine *en, const char *name, const char *const *layers,
                            const struct image_config *config, image_cb cb, void *arg);
int engine_image_get(struct engine *en, const char *name, struct image_info *ret, struct err *e);
int engine_image_list(struct engine *en, void (*each)(void *arg, const struct image_info *info), void *arg,
                      struct err *e);
/* Layers that no image and no live sandbox uses are removed as well. */
struct op *engine_image_remove(struct engine *en, const char *name, image_cb cb, void *arg);

/* ---- the machine ------------------------------------------------------------------------------------------------ */

struct runner_info {
    const char *runner_id;
    uint64_t started_ns;
    uint32_t cpu_millis_total, cpu_millis_free;
    uint64_t memory_total, memory_free;
    unsigned boxes_live, boxes_max;
    bool healthy;
    uint32_t features; /* enum sp_feature */
    uint64_t epoch;
    uint64_t default_memory_bytes; /* of a sandbox that names no limit */
    uint32_t default_cpu_millis;   /* 0 = all cores */
};
void engine_runner(struct engine *en, struct runner_info *ret);
