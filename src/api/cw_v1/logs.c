/* StreamLogs: output of the main process, without sessions kept: a request to resume one is answered in the stream, as the
 * contract has it, and the client starts anew. */
#include "api/cw_v1/cw-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

struct tail {
    struct rpc_call *call;
    struct log_reader *reader;
    char session[ID_MAX];
    uint64_t offset; /* bytes sent */
};

/* Ends the call; T is gone. */
static void tail_end(struct tail *t, const struct err *e)
{
    struct rpc_call *c = t->call;

    if (t->reader != NULL)
        log_close(t->reader);
    rpc_set_arg(c, NULL);
    free(t);
    rpc_finish(c, e);
}

static bool on_data(struct log_reader *r, struct chunk *chunk, uint64_t when_ns, void *arg)
{
    struct tail *t = arg;
    CwLogEntry entry = CW_INIT(LOG_ENTRY);
    CwTimestamp when = cw_time(when_ns);
    struct err e = {0};
    int sent;

    (void)r;
    t->offset += chunk->len;
    entry.data = (CwBytes){.len = chunk->len, .data = chunk->data + chunk->off};
    if (when_ns != 0)
        entry.timestamp = &when;
    entry.log_session_id = t->session;
    entry.next_log_offset = t->offset;
    sent = chunk->len > 0 ? rpc_send(t->call, &entry.base) : 0;
    chunk_free(chunk);
    if (sent < 0) {
        (void)err_set(&e, sent, "send to the client: %m");
        tail_end(t, &e);
        return false;
    }
    return rpc_writable(t->call);
}

static void on_end(struct log_reader *r, const struct err *e, void *arg)
{
    struct tail *t = arg;

    (void)r;
    t->reader = NULL; /* the engine frees it */
    tail_end(t, e);
}

static const struct log_ops tail_ops = {.data = on_data, .ended = on_end};

static void no_session(struct rpc_call *c)
{
    CwLogEntry entry = CW_INIT(LOG_ENTRY);
    CwLogStreamError error = CW_INIT(LOG_STREAM_ERROR);
    char message[] = "this server keeps no log sessions", code[] = "SESSION_NOT_FOUND";

    error.message = message;
    error.code = code;
    entry.error = &error;
    rpc_reply(c, &entry.base);
}

static int since(const CwTimestamp *t, uint64_t *ret_ns, struct err *e)
{
    if (t == NULL)
        return 0;
    if (t->nanos < 0 || t->nanos > 999999999)
        return cw_invalid(e, "since_time", "%d is not a number of nanoseconds below a second", t->nanos);
    /* Before 1970 means everything; after what 64 bits of nanoseconds hold (the year 2554) means nothing. */
    if (t->seconds < 0)
        *ret_ns = 0;
    else if ((uint64_t)t->seconds >= UINT64_MAX / NSEC_PER_SEC)
        *ret_ns = UINT64_MAX;
    else
        *ret_ns = (uint64_t)t->seconds * NSEC_PER_SEC + (uint64_t)t->nanos;
    return 0;
}

static int logs_read(struct rpc_call *c, const CwStreamLogsRequest *req, struct log_spec *ret, struct err *e)
{
    int r = cw_sandbox_id(c, &req->sandbox_id, &ret->box, e);

    if (r == 0)
        r = cw_container_check(c, ret->box, &req->container, e);
    if (r == 0 && req->tail_lines < 0)
        r = cw_invalid(e, "tail_lines", "%d is negative", req->tail_lines);
    if (r == 0)
        r = since(req->since_time, &ret->since_ns, e);
    ret->tenant = cw_tenant(c);
    ret->follow = req->follow;
    ret->timestamps = req->timestamps;
    ret->tail_lines = (uint32_t)req->tail_lines;
    return r;
}

void cw_stream_logs(struct rpc_call *c, const ProtobufCMessage *msg)
{
    const CwStreamLogsRequest *req = (const CwStreamLogsRequest *)msg;
    struct log_spec spec = {0};
    struct tail *t = NULL;
    struct err e = {0};
    int r = logs_read(c, req, &spec, &e);

    if (r == 0 && req->resume_log_session_id.len > 0) {
        no_session(c);
        return;
    }
    if (r == 0) {
        t = calloc(1, sizeof *t);
        if (t == NULL)
            r = err_typed(&e, ERR_EXHAUSTED, NULL, "not enough memory for the request");
    }
    if (r < 0) {
        rpc_finish(c, &e);
        return;
    }
    t->call = c;
    id_new(t->session, "ls");
    rpc_set_arg(c, t);
    if (engine_logs(cw_of(c)->engine, &spec, &tail_ops, t, &t->reader, &e) < 0)
        tail_end(t, &e);
}

void cw_stream_logs_writable(struct rpc_call *c)
{
    struct tail *t = rpc_arg(c);

    if (t != NULL && t->reader != NULL)
        log_resume(t->reader);
}

void cw_stream_logs_gone(struct rpc_call *c, enum rpc_why why)
{
    struct tail *t = rpc_arg(c);

    (void)why;
    if (t == NULL)
        return;
    if (t->reader != NULL)
        log_close(t->reader);
    free(t);
}
