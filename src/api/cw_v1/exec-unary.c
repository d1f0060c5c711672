/* Exec: a command without input, its whole output in one answer. What is above the cap of a stream is counted and dropped,
 * and the answer says so. */
#include "api/cw_v1/cw-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct run {
    struct cw_v1 *cw;
    struct rpc_call *call;
    struct exec *exec;
    struct buf out[2];
    uint64_t produced[2];
    size_t cap;
};

static void run_free(struct run *run)
{
    run->cw->exec_kept -= run->out[0].len + run->out[1].len;
    buf_fini(&run->out[0]);
    buf_fini(&run->out[1]);
    free(run);
}

static void run_end(struct run *run, const struct err *e)
{
    struct rpc_call *c = run->call;

    if (run->exec != NULL)
        exec_abandon(run->exec);
    run_free(run);
    rpc_finish(c, e);
}

static bool on_output(struct exec *x, int stream, struct chunk *chunk, void *arg)
{
    struct run *run = arg;
    unsigned i = stream == 2;
    size_t room = run->cap - run->out[i].len, n = chunk->len < room ? chunk->len : room;
    struct err e = {0};
    int r;

    (void)x;
    if (run->cw->exec_kept + n > CW_EXEC_KEPT_MAX)
        r = err_typed(
            &e, ERR_EXHAUSTED, NULL,
            "the server keeps %d MiB of output for commands that are not answered yet; use StreamExec, or try "
            "again later",
            CW_EXEC_KEPT_MAX >> 20);
    else if ((r = buf_append(&run->out[i], chunk->data + chunk->off, n)) < 0)
        (void)err_set(&e, r, "keep the command's output: %m");
    else
        run->cw->exec_kept += n;
    run->produced[i] += chunk->len;
    chunk_free(chunk);
    if (r < 0) {
        run_end(run, &e);
        return false;
    }
    return true;
}

static void on_ended(struct exec *x, const struct exec_result *res, void *arg)
{
    struct run *run = arg;
    CwExecResponse reply = CW_INIT(EXEC_RESPONSE);
    struct rpc_call *c = run->call;
    struct err e = {0};

    (void)x;
    run->exec = NULL; /* the engine frees it */
    if (res->cause == EXEC_UNKNOWN) {
        cw_exec_unknown(&e);
        run_end(run, &e);
        return;
    }
    reply.stdout = (CwBytes){.len = run->out[0].len, .data = run->out[0].data};
    reply.stderr = (CwBytes){.len = run->out[1].len, .data = run->out[1].data};
    reply.exit_code = res->code;
    reply.stdout_truncated = run->produced[0] > run->out[0].len;
    reply.stderr_truncated = run->produced[1] > run->out[1].len;
    reply.stdout_bytes_produced = (int64_t)run->produced[0];
    reply.stderr_bytes_produced = (int64_t)run->produced[1];
    rpc_reply(c, &reply.base);
    run_free(run);
}

static void on_failed(struct exec *x, const struct err *e, void *arg)
{
    struct run *run = arg;

    (void)x;
    run->exec = NULL;
    run_end(run, e);
}

static void on_started(struct exec *x, void *arg)
{
    (void)x;
    (void)arg; /* the answer tells everything */
}

static void on_stdin_drained(struct exec *x, void *arg)
{
    (void)x;
    (void)arg; /* there is no input */
}

static const struct exec_ops run_ops = {
    .started = on_started,
    .output = on_output,
    .stdin_drained = on_stdin_drained,
    .ended = on_ended,
    .failed = on_failed,
};

static int exec_read(struct run *run, const CwExecRequest *req, struct err *e)
{
    struct exec_spec spec = {0};
    int r;

    if (req->max_output_bytes < 0)
        return cw_invalid(e, "max_output_bytes", "%d is negative", req->max_output_bytes);
    run->cap = req->max_output_bytes == 0 ? CW_EXEC_OUTPUT_DEFAULT : (size_t)req->max_output_bytes;
    if (run->cap > CW_EXEC_OUTPUT_MAX)
        run->cap = CW_EXEC_OUTPUT_MAX; /* the answer's flags and totals tell when that mattered */
    r = cw_exec_spec(run->call, &req->sandbox_id, req->command, req->n_command, req->env, req->n_env, &req->container,
                     &spec, e);
    return r < 0 ? r : engine_exec(cw_of(run->call)->engine, &spec, &run_ops, run, &run->exec, e);
}

void cw_exec(struct rpc_call *c, const ProtobufCMessage *msg)
{
    struct run *run = calloc(1, sizeof *run);
    struct err e = {0};

    if (run == NULL) {
        (void)err_typed(&e, ERR_EXHAUSTED, NULL, "not enough memory for the request");
        rpc_finish(c, &e);
        return;
    }
    run->cw = cw_of(c);
    run->call = c;
    rpc_set_arg(c, run);
    if (exec_read(run, (const CwExecRequest *)msg, &e) < 0)
        run_end(run, &e);
}

void cw_exec_gone(struct rpc_call *c, enum rpc_why why)
{
    struct run *run = rpc_arg(c);

    (void)why;
    exec_abandon(run->exec);
    run_free(run);
}
