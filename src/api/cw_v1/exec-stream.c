/* StreamExec: one process, its streams as messages.
 *
 *   WAITING --init--> STARTING --started--> READY --ended--> exit, OK
 *
 * The process is spawned with an open stdin in every case: a client without input half-closes right after init, which
 * closes it. `ready` goes out when the process has been started, and in front of anything else. Output travels as the
 * chunks that were read, behind a hand-made prefix, so that bulk data is never copied; when the peer reads slowly,
 * reading from the process stops. A stream never ends well without `exit`: clients take that for exit code 0. */
#include "api/cw_v1/cw-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

struct stream {
    struct rpc_call *call;
    struct exec *exec; /* NULL before init */
    bool ready, tty, input_closed;
};

enum { PREFIX_MAX = 24 };

/* Ends the call; ST is gone. X was taken from ST before when it is dead already. */
static void stream_end(struct stream *st, const struct err *e)
{
    struct rpc_call *c = st->call;

    if (st->exec != NULL)
        exec_abandon(st->exec);
    rpc_set_arg(c, NULL);
    free(st);
    rpc_finish(c, e);
}

static void stream_broken(struct stream *st, int r)
{
    struct err e = {0};

    (void)err_set(&e, r, "send to the client: %m");
    stream_end(st, &e);
}

static int send_ready(struct stream *st)
{
    CwExecStreamResponse msg = CW_INIT(EXEC_STREAM_RESPONSE);
    CwExecStreamReady ready = CW_INIT(EXEC_STREAM_READY);
    CwTimestamp now = cw_time(clock_wall());

    if (st->ready)
        return 0;
    st->ready = true;
    ready.ready_time = &now;
    msg.message_case = COREWEAVE__SANDBOX__V1__EXEC_STREAM_RESPONSE__MESSAGE_READY;
    msg.ready = &ready;
    return rpc_send(st->call, &msg.base);
}

static size_t varint(uint8_t *out, size_t v)
{
    size_t n = 0;

    for (; v >= 0x80; v >>= 7)
        out[n++] = (uint8_t)(v | 0x80);
    out[n++] = (uint8_t)v;
    return n;
}

/* ExecStreamResponse{output{stream, data}} up to where the LEN bytes of data follow. */
static size_t output_prefix(uint8_t out[PREFIX_MAX], int stream, size_t len)
{
    uint8_t inner[PREFIX_MAX / 2];
    size_t n = 0, m = 0;

    inner[m++] = 1 << 3 | 0; /* output.stream, varint */
    inner[m++] = (uint8_t)stream;
    inner[m++] = 2 << 3 | 2; /* output.data, length-delimited */
    m += varint(inner + m, len);

    out[n++] = 2 << 3 | 2; /* message.output, length-delimited */
    n += varint(out + n, m + len);
    memcpy(out + n, inner, m);
    return n + m;
}

/* ---- from the engine ------------------------------------------------------------------------------------------------- */

static void on_started(struct exec *x, void *arg)
{
    struct stream *st = arg;
    int r = send_ready(st);

    (void)x;
    if (r < 0)
        stream_broken(st, r);
}

static bool on_output(struct exec *x, int stream, struct chunk *chunk, void *arg)
{
    struct stream *st = arg;
    uint8_t prefix[PREFIX_MAX];
    int r = send_ready(st);

    (void)x;
    if (r < 0) {
        chunk_free(chunk);
        stream_broken(st, r);
        return false;
    }
    if (chunk->len == 0) {
        chunk_free(chunk);
        return rpc_writable(st->call);
    }
    r = rpc_send_chunk(st->call, prefix, output_prefix(prefix, stream, chunk->len), chunk);
    if (r < 0) {
        stream_broken(st, r);
        return false;
    }
    return rpc_writable(st->call);
}

static void on_stdin_drained(struct exec *x, void *arg)
{
    struct stream *st = arg;

    (void)x;
    rpc_pause(st->call, false);
}

static void on_ended(struct exec *x, const struct exec_result *res, void *arg)
{
    struct stream *st = arg;
    CwExecStreamResponse msg = CW_INIT(EXEC_STREAM_RESPONSE);
    CwExecStreamExit end = CW_INIT(EXEC_STREAM_EXIT);
    CwTimestamp when = cw_time(res->end_ns != 0 ? res->end_ns : clock_wall());
    struct err e = {0};
    int r;

    (void)x;
    st->exec = NULL; /* the engine frees it */
    if (res->cause == EXEC_UNKNOWN) {
        cw_exec_unknown(&e);
        stream_end(st, &e);
        return;
    }
    end.exit_code = res->code;
    end.completed_time = &when;
    msg.message_case = COREWEAVE__SANDBOX__V1__EXEC_STREAM_RESPONSE__MESSAGE_EXIT;
    msg.exit = &end;
    r = send_ready(st);
    if (r == 0)
        r = rpc_send(st->call, &msg.base);
    if (r < 0)
        stream_broken(st, r);
    else
        stream_end(st, NULL);
}

static void on_failed(struct exec *x, const struct err *e, void *arg)
{
    struct stream *st = arg;

    (void)x;
    st->exec = NULL;
    stream_end(st, e);
}

static const struct exec_ops stream_ops = {
    .started = on_started,
    .output = on_output,
    .stdin_drained = on_stdin_drained,
    .ended = on_ended,
    .failed = on_failed,
};

/* ---- from the client --------------------------------------------------------------------------------------------------- */

void cw_stream_exec_open(struct rpc_call *c)
{
    struct stream *st = calloc(1, sizeof *st);
    struct err e = {0};

    if (st == NULL) {
        (void)err_typed(&e, ERR_EXHAUSTED, NULL, "not enough memory for the request");
        rpc_finish(c, &e);
        return;
    }
    st->call = c;
    rpc_set_arg(c, st);
}

static int take_size(uint32_t rows, uint32_t cols, uint16_t *ret_rows, uint16_t *ret_cols, struct err *e)
{
    if (rows > CW_TTY_SIZE_MAX || cols > CW_TTY_SIZE_MAX)
        return cw_invalid(e, "tty_width", "a terminal of %u x %u characters, the limit is %d", cols, rows,
                          CW_TTY_SIZE_MAX);
    *ret_rows = rows != 0 ? (uint16_t)rows : 24; /* 0 = unknown */
    *ret_cols = cols != 0 ? (uint16_t)cols : 80;
    return 0;
}

static int take_init(struct stream *st, const CwExecStreamInit *init, struct err *e)
{
    struct exec_spec spec = {.tty = init->tty, .stdin_open = true};
    int r;

    if (st->exec != NULL)
        return cw_invalid(e, "init", "came twice");
    r = cw_exec_spec(st->call, &init->sandbox_id, init->command, init->n_command, init->env, init->n_env,
                     &init->container, &spec, e);
    if (r == 0 && init->tty)
        r = take_size(init->tty_height, init->tty_width, &spec.rows, &spec.cols, e);
    if (r < 0)
        return r;
    st->tty = init->tty;
    return engine_exec(cw_of(st->call)->engine, &spec, &stream_ops, st, &st->exec, e);
}

static int take_stdin(struct stream *st, const CwBytes *data, struct err *e)
{
    if (st->input_closed)
        return cw_invalid(e, "stdin", "came after close");
    if (data->len > 0 && !exec_write(st->exec, data->data, data->len))
        rpc_pause(st->call, true);
    return 0;
}

static int take_resize(struct stream *st, const CwExecStreamResize *size, struct err *e)
{
    uint16_t rows = 0, cols = 0;
    int r;

    if (!st->tty)
        return cw_invalid(e, "resize", "the command has no terminal");
    r = take_size(size->height, size->width, &rows, &cols, e);
    if (r == 0)
        exec_resize(st->exec, rows, cols);
    return r;
}

static void close_input(struct stream *st)
{
    if (st->input_closed)
        return;
    st->input_closed = true;
    exec_close_stdin(st->exec);
}

static int take(struct stream *st, const CwExecStreamRequest *req, struct err *e)
{
    if (st->exec == NULL && req->message_case != COREWEAVE__SANDBOX__V1__EXEC_STREAM_REQUEST__MESSAGE_INIT)
        return cw_invalid(e, "init", "must be the first message");
    switch (req->message_case) {
    case COREWEAVE__SANDBOX__V1__EXEC_STREAM_REQUEST__MESSAGE_INIT:
        return take_init(st, req->init, e);
    case COREWEAVE__SANDBOX__V1__EXEC_STREAM_REQUEST__MESSAGE_STDIN:
        return take_stdin(st, &req->stdin, e);
    case COREWEAVE__SANDBOX__V1__EXEC_STREAM_REQUEST__MESSAGE_RESIZE:
        return take_resize(st, req->resize, e);
    case COREWEAVE__SANDBOX__V1__EXEC_STREAM_REQUEST__MESSAGE_CLOSE:
        close_input(st);
        return 0;
    default:
        break;
    }
    return cw_unbuilt(e, "message", "a kind of message that this server does not know");
}

void cw_stream_exec(struct rpc_call *c, const ProtobufCMessage *msg)
{
    struct stream *st = rpc_arg(c);
    struct err e = {0};

    if (take(st, (const CwExecStreamRequest *)msg, &e) < 0)
        stream_end(st, &e);
}

void cw_stream_exec_half_close(struct rpc_call *c)
{
    struct stream *st = rpc_arg(c);
    struct err e = {0};

    if (st->exec != NULL) {
        close_input(st);
        return;
    }
    (void)cw_invalid(&e, "init", "missing");
    stream_end(st, &e);
}

void cw_stream_exec_writable(struct rpc_call *c)
{
    struct stream *st = rpc_arg(c);

    if (st != NULL && st->exec != NULL)
        exec_resume(st->exec);
}

void cw_stream_exec_gone(struct rpc_call *c, enum rpc_why why)
{
    struct stream *st = rpc_arg(c);

    (void)why;
    if (st == NULL)
        return;
    if (st->exec != NULL)
        exec_abandon(st->exec);
    free(st);
}
