/* What the files of this dialect share. */
#pragma once

#include "api/cw_v1/cw_v1.h"
#include "api/cw_v1/msg.h"
#include "engine/engine.h"
#include "rpc/rpc.h"

/* Limits on what a request may say; the engine's own limits (argv, environment, lifetime, sandboxes) come after them. */
enum {
    CW_ID_MAX = 64, /* bytes of a sandbox, runner or store name in a request */
    CW_REQUEST_ID_MAX = 128,
    CW_SPEC_MAX = 1 << 20, /* bytes of a SandboxSpec: it is kept with the record */
    CW_TAGS_MAX = 64,
    CW_TAG_MAX = 256, /* bytes of one */
    CW_ANNOTATIONS_MAX = 1024,
    CW_RUNNER_IDS_MAX = 100,
    CW_ARGS_MAX = 65536, /* strings of a command line */
    CW_NAME_MAX = 253,   /* container name */
    CW_IMAGE_MAX = 512,
    CW_PATH_MAX = 4095, /* PATH_MAX without its NUL */
    CW_PAGE_DEFAULT = 100,
    CW_PAGE_MAX = 1000,
    CW_PAGE_BYTES_MAX = 16 << 20,     /* a page of a list ends early above this */
    CW_EXEC_OUTPUT_DEFAULT = 8 << 20, /* unary Exec: kept bytes of each stream */
    CW_EXEC_OUTPUT_MAX = 32 << 20,
    CW_EXEC_KEPT_MAX = 1 << 29, /* of all calls of Exec together, until they are answered */
    CW_TTY_SIZE_MAX = 65535,
};

#define CW_RUNNER_GROUP "silica"
#define CW_RUNTIME_CLASS "silica"
#define CW_DEFAULT_CONTAINER "main"
#define CW_DIALECT "cw_v1"

struct cw_v1 {
    struct engine *engine;
    size_t exec_kept; /* see CW_EXEC_KEPT_MAX */
    struct rpc_service service;
};

static inline struct cw_v1 *cw_of(const struct rpc_call *c)
{
    return rpc_service_data(c);
}

static inline const char *cw_tenant(const struct rpc_call *c)
{
    return rpc_peer_of(c)->tenant;
}

/* ---- text.c: bytes of a request, checked ------------------------------------------------------------------------- */

typedef ProtobufCBinaryData CwBytes;

enum { CW_QUOTE_MAX = 256 };
/* B as an error shows it: printable, on one line, cut when long. */
const char *cw_quote(char out[CW_QUOTE_MAX], const CwBytes *b);
bool cw_is(const CwBytes *b, const char *text);
bool cw_is_utf8(const char *text);
/* ERR_INVALID that names FIELD in the sentence and as meta "field". Returns the negative code. */
int cw_invalid(struct err *e, const char *field, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* ERR_UNIMPLEMENTED, reason NOT_IMPLEMENTED. */
int cw_unbuilt(struct err *e, const char *field, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Valid UTF-8 without NUL, at most MAX bytes: else cw_invalid(). */
int cw_text_check(const CwBytes *b, size_t max, const char *field, struct err *e);
/* As above, then a NUL-terminated copy in C's arena. */
int cw_text(struct rpc_call *c, const CwBytes *b, size_t max, const char *field, const char **ret, struct err *e);
/* A NULL-terminated array of them; *RET stays NULL when COUNT is 0. */
int cw_texts(struct rpc_call *c, const CwBytes *b, size_t count, size_t count_max, size_t max, const char *field,
             const char *const **ret, struct err *e);
/* Arena memory, zeroed; an error that says so when there is none. */
int cw_alloc(struct rpc_call *c, size_t count, size_t size, void **ret, struct err *e);
/* A sandbox id: missing is ERR_INVALID, what cannot be one is SANDBOX_NOT_FOUND. */
int cw_sandbox_id(struct rpc_call *c, const CwBytes *b, const char **ret, struct err *e);
/* An absolute path. */
int cw_path(struct rpc_call *c, const CwBytes *b, const char *field, const char **ret, struct err *e);
/* A map of variables as items that point into the request. */
int cw_env(struct rpc_call *c, CwStringEntry *const *entries, size_t count, const char *field, struct env_item **ret,
           struct err *e);
/* CONTAINER is empty or the name of the sandbox's one container. */
int cw_container_check(struct rpc_call *c, const char *sandbox, const CwBytes *container, struct err *e);

/* ---- quantity.c: Kubernetes-style amounts ------------------------------------------------------------------------- */

/* "500m", "2", "2.5": thousandths of a core, at least 1. 0 or -EINVAL. */
int cw_parse_cpu(const CwBytes *b, uint32_t *ret_millis);
/* "1024", "1.5Gi", "256Mi", "4G": bytes, rounded up, at least 1. Suffixes: none k M G T P, Ki Mi Gi Ti Pi. 0 or -EINVAL. */
int cw_parse_memory(const CwBytes *b, uint64_t *ret_bytes);

/* ---- spec.c: SandboxSpec -> struct box_spec ------------------------------------------------------------------------ */

/* Everything that RET points to lives in C's arena or in SPEC. Refuses with the field's name what cannot be honoured. */
int cw_spec_read(struct rpc_call *c, const CwSandboxSpec *spec, const struct runner_info *runner, struct box_spec *ret,
                 struct err *e);
/* resources of a container: spec-resources.c. */
int cw_resources_read(const CwContainer *k, const struct runner_info *runner, struct box_spec *ret, struct err *e);

/* ---- status.c: struct box_info -> Sandbox --------------------------------------------------------------------------- */

/* A Sandbox message and all its parts. Keep the struct in place while MSG is used; points into INFO. */
struct cw_view {
    CwSandbox msg;
    CwSandboxStatus status;
    CwTimestamp created, started, ended;
    CwContainerStatus container;
    CwContainerStatus *containers[1];
    CwResourceRequirements requirements;
    CwResources limits;
    char cpu[32], memory[32];
    char reason[ERR_MSG_MAX]; /* only when the engine's cannot travel */
    CwSandboxSpec *spec;      /* unpacked echo, or NULL */
    uint8_t *made_spec;       /* packed spec of a sandbox of another dialect */
};
/* 0 or -ENOMEM. */
int cw_view_init(struct cw_view *v, const struct box_info *info);
void cw_view_fini(struct cw_view *v);
/* Replies with the sandbox and ends the call. */
void cw_reply_sandbox(struct rpc_call *c, const struct box_info *info);
CwState cw_state(enum box_state s);
/* The engine's state for a filter: 0 and *RET, -ENOENT for a state that no sandbox here is ever in, -EINVAL for no state. */
int cw_state_filter(int32_t state, int *ret);
CwTimestamp cw_time(uint64_t ns);

/* ---- the methods ------------------------------------------------------------------------------------------------------ */

void cw_create_sandbox(struct rpc_call *c, const ProtobufCMessage *msg);
void cw_get_sandbox(struct rpc_call *c, const ProtobufCMessage *msg);
void cw_list_sandboxes(struct rpc_call *c, const ProtobufCMessage *msg);
void cw_delete_sandbox(struct rpc_call *c, const ProtobufCMessage *msg);
/* `gone` of the unary methods that wait for a struct op. */
void cw_op_gone(struct rpc_call *c, enum rpc_why why);
/* Remembers OP for cw_op_gone(); NULL: memory was short, the call is ended here. */
void cw_op_wait(struct rpc_call *c, struct op *op);

void cw_stream_exec_open(struct rpc_call *c);
void cw_stream_exec(struct rpc_call *c, const ProtobufCMessage *msg);
void cw_stream_exec_half_close(struct rpc_call *c);
void cw_stream_exec_writable(struct rpc_call *c);
void cw_stream_exec_gone(struct rpc_call *c, enum rpc_why why);

void cw_exec(struct rpc_call *c, const ProtobufCMessage *msg);
void cw_exec_gone(struct rpc_call *c, enum rpc_why why);
/* The part that StreamExec and Exec share: who, what, with which environment. */
int cw_exec_spec(struct rpc_call *c, const CwBytes *sandbox_id, const CwBytes *command, size_t command_count,
                 CwStringEntry *const *env, size_t env_count, const CwBytes *container, struct exec_spec *ret,
                 struct err *e);
/* The sentence for a command whose fate is not known. */
void cw_exec_unknown(struct err *e);

void cw_stream_logs(struct rpc_call *c, const ProtobufCMessage *msg);
void cw_stream_logs_writable(struct rpc_call *c);
void cw_stream_logs_gone(struct rpc_call *c, enum rpc_why why);

void cw_read_file(struct rpc_call *c, const ProtobufCMessage *msg);
void cw_write_file(struct rpc_call *c, const ProtobufCMessage *msg);

void cw_list_runners(struct rpc_call *c, const ProtobufCMessage *msg);
void cw_get_runner(struct rpc_call *c, const ProtobufCMessage *msg);

/* The method table, for the server and for the documentation. */
extern const struct rpc_method cw_methods[];
extern const unsigned cw_method_count;
