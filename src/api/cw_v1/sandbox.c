/* CreateSandbox, GetSandbox, ListSandboxes, DeleteSandbox. */
#include "api/cw_v1/cw-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"

/* ---- waiting for the engine ---------------------------------------------------------------------------------------- */

void cw_op_gone(struct rpc_call *c, enum rpc_why why)
{
    (void)why;
    op_drop(
        rpc_arg(c)); /* the sandbox's own story goes on: a create that its caller did not wait for is still a create */
}

void cw_op_wait(struct rpc_call *c, struct op *op)
{
    struct err e = {0};

    if (op != NULL) {
        rpc_set_arg(c, op);
        return;
    }
    (void)err_typed(&e, ERR_EXHAUSTED, NULL, "not enough memory for the request");
    rpc_finish(c, &e);
}

/* ---- create ----------------------------------------------------------------------------------------------------------- */

static void created(void *arg, const struct err *e, const struct box_info *info)
{
    struct rpc_call *c = arg;

    if (e != NULL)
        rpc_finish(c, e);
    else
        cw_reply_sandbox(c, info);
}

static void *arena_alloc(void *data, size_t size)
{
    return rpc_alloc(data, size);
}

static void arena_free(void *data, void *p)
{
    (void)data;
    (void)p; /* freed with the call */
}

static int create_read(struct rpc_call *c, const CwCreateSandboxRequest *req, struct box_spec *ret, struct err *e)
{
    ProtobufCAllocator arena = {.alloc = arena_alloc, .free = arena_free, .allocator_data = c};
    const CwSandbox *box = req->sandbox;
    struct runner_info runner;
    CwSandboxSpec *spec;
    int r = 0;

    if (box == NULL || box->spec.len == 0)
        return cw_invalid(e, "sandbox.spec", "missing");
    if (box->display_name.len > 0)
        return cw_unbuilt(e, "sandbox.display_name", "display names are not supported by this server");
    if (box->control < 0 || box->control > 1)
        return cw_unbuilt(e, "sandbox.control", "only sandboxes controlled by the server itself are supported");
    if (box->spec.len > CW_SPEC_MAX)
        return cw_invalid(e, "sandbox.spec", "%zu bytes, the limit is %d", box->spec.len, CW_SPEC_MAX);
    spec = coreweave__sandbox__v1__sandbox_spec__unpack(&arena, box->spec.len, box->spec.data);
    if (spec == NULL)
        return cw_invalid(e, "sandbox.spec", "cannot be decoded");
    if (req->request_id.len > 0)
        r = cw_text(c, &req->request_id, CW_REQUEST_ID_MAX, "request_id", &ret->request_id, e);
    if (r < 0)
        return r;
    engine_runner(cw_of(c)->engine, &runner);
    r = cw_spec_read(c, spec, &runner, ret, e);
    ret->tenant = cw_tenant(c);
    ret->creator = rpc_peer_of(c)->key_name;
    ret->dialect = CW_DIALECT;
    ret->echo = box->spec.data;
    ret->echo_len = box->spec.len;
    return r;
}

void cw_create_sandbox(struct rpc_call *c, const ProtobufCMessage *msg)
{
    struct box_spec spec = {0};
    struct err e = {0};

    if (create_read(c, (const CwCreateSandboxRequest *)msg, &spec, &e) < 0) {
        rpc_finish(c, &e);
        return;
    }
    cw_op_wait(c, engine_box_create(cw_of(c)->engine, &spec, created, c));
}

/* ---- get ------------------------------------------------------------------------------------------------------------- */

void cw_get_sandbox(struct rpc_call *c, const ProtobufCMessage *msg)
{
    const CwGetSandboxRequest *req = (const CwGetSandboxRequest *)msg;
    struct box_info info;
    struct err e = {0};
    const char *id;
    int r = cw_sandbox_id(c, &req->sandbox_id, &id, &e);

    if (r == 0)
        r = engine_box_get(cw_of(c)->engine, cw_tenant(c), id, &info, &e);
    if (r < 0)
        rpc_finish(c, &e);
    else
        cw_reply_sandbox(c, &info);
}

/* ---- list ------------------------------------------------------------------------------------------------------------- */

/* A page in the making: sandboxes are packed one by one, because the engine's picture of each lives only until the next. */
struct page {
    const CwListSandboxesRequest *req;
    CwBytes *rows;
    size_t count, bytes;
    char last[ID_MAX]; /* id after which the next page starts */
    bool cut;          /* full by bytes: what follows belongs to the next page */
    int error;
};

static bool row_wanted(const CwListSandboxesRequest *req, const struct box_info *info)
{
    bool wanted = req->n_runner_ids == 0;

    for (size_t i = 0; !wanted && i < req->n_runner_ids; i++)
        wanted = cw_is(&req->runner_ids[i], info->runner_id);
    return wanted && req->n_volume_ids == 0; /* no sandbox has a registered volume */
}

static void page_add(void *arg, const struct box_info *info)
{
    struct page *p = arg;
    struct cw_view v;
    CwBytes row;

    if (p->error < 0 || p->cut)
        return;
    if (!row_wanted(p->req, info)) {
        memcpy(p->last, info->id, sizeof p->last);
        return;
    }
    p->error = cw_view_init(&v, info);
    if (p->error < 0)
        return;
    row.len = protobuf_c_message_get_packed_size(&v.msg.base);
    row.data = NULL;
    if (p->count > 0 && p->bytes + row.len > CW_PAGE_BYTES_MAX) {
        p->cut = true;
    } else {
        row.data = malloc(row.len);
        if (row.data == NULL)
            p->error = -ENOMEM;
    }
    if (row.data != NULL) {
        (void)protobuf_c_message_pack(&v.msg.base, row.data);
        p->rows[p->count++] = row;
        p->bytes += row.len;
        memcpy(p->last, info->id, sizeof p->last);
    }
    cw_view_fini(&v);
}

static int list_limit(const CwListSandboxesRequest *req, unsigned *ret, struct err *e)
{
    if (req->page_size < 0)
        return cw_invalid(e, "page_size", "%d is negative", req->page_size);
    *ret = req->page_size == 0 ? CW_PAGE_DEFAULT : (unsigned)req->page_size;
    if (*ret > CW_PAGE_MAX)
        *ret = CW_PAGE_MAX;
    return 0;
}

static int list_cursor(struct rpc_call *c, const CwListSandboxesRequest *req, const char **ret, struct err *e)
{
    struct err ignored = {0};

    if (req->page_token.len == 0)
        return 0;
    /* A token is the id of the last sandbox of the page before, also when that one is gone by now. */
    if (cw_sandbox_id(c, &req->page_token, ret, &ignored) < 0)
        return cw_invalid(e, "page_token", "not a token of this server");
    return 0;
}

/* *RET_NONE: the filter can match nothing. */
static int list_filter(struct rpc_call *c, const CwListSandboxesRequest *req, struct box_filter *ret, bool *ret_none,
                       struct err *e)
{
    int r = list_limit(req, &ret->limit, e);

    if (r == 0)
        r = list_cursor(c, req, &ret->after, e);
    if (r == 0)
        r = cw_texts(c, req->tags, req->n_tags, CW_TAGS_MAX, CW_TAG_MAX, "tags", &ret->tags, e);
    if (r < 0)
        return r;
    if (req->n_runner_ids > CW_RUNNER_IDS_MAX)
        return cw_invalid(e, "runner_ids", "%zu entries, the limit is %d", req->n_runner_ids, CW_RUNNER_IDS_MAX);
    if (req->sort_direction != 0 && req->sort_direction != 2)
        return cw_unbuilt(e, "sort_direction", "sandboxes are listed in the order of their creation");
    ret->state = -1;
    ret->ended = req->show_terminated;
    if (req->state == 0)
        return 0;
    r = cw_state_filter(req->state, &ret->state);
    if (r == -EINVAL)
        return cw_invalid(e, "state", "%d is not a state", req->state);
    *ret_none = r == -ENOENT;
    ret->ended = ret->ended || (r == 0 && box_state_ended((enum box_state)ret->state));
    return 0;
}

static void list_reply(struct rpc_call *c, struct page *p, bool more)
{
    CwListSandboxesResponse reply = CW_INIT(LIST_SANDBOXES_RESPONSE);

    reply.sandboxes = p->rows;
    reply.n_sandboxes = p->count;
    if (more || p->cut)
        reply.next_page_token = p->last;
    rpc_reply(c, &reply.base);
}

void cw_list_sandboxes(struct rpc_call *c, const ProtobufCMessage *msg)
{
    struct page p = {.req = (const CwListSandboxesRequest *)msg};
    struct box_filter filter = {0};
    bool more = false, none = false;
    struct err e = {0};
    int r = list_filter(c, p.req, &filter, &none, &e);

    if (r == 0 && !none) {
        p.rows = calloc(filter.limit, sizeof *p.rows);
        if (p.rows == NULL)
            r = err_set(&e, ENOMEM, "list sandboxes: %m");
        else
            r = engine_box_list(cw_of(c)->engine, cw_tenant(c), &filter, page_add, &p, &more, &e);
        if (r == 0 && p.error < 0)
            r = err_set(&e, p.error, "list sandboxes: %m");
    }
    if (r < 0)
        rpc_finish(c, &e);
    else
        list_reply(c, &p, more);
    for (size_t i = 0; i < p.count; i++)
        free(p.rows[i].data);
    free(p.rows);
}

/* ---- delete ------------------------------------------------------------------------------------------------------------ */

static void deleted(void *arg, const struct err *e, const struct box_info *info)
{
    struct rpc_call *c = arg;
    CwDeleteSandboxResponse reply = CW_INIT(DELETE_SANDBOX_RESPONSE);
    struct err oom = {0};
    struct cw_view v;

    if (e != NULL) {
        rpc_finish(c, e);
        return;
    }
    if (cw_view_init(&v, info) < 0) {
        (void)err_set(&oom, ENOMEM, "read the record of sandbox %s: %m", info->id);
        rpc_finish(c, &oom);
        return;
    }
    reply.sandbox = &v.msg;
    rpc_reply(c, &reply.base);
    cw_view_fini(&v);
}

static bool is_missing(const struct err *e)
{
    return e->kind == ERR_NOT_FOUND && e->reason != NULL && strcmp(e->reason, "SANDBOX_NOT_FOUND") == 0;
}

/* allow_missing: an empty reply is how a client learns that the sandbox was gone already. */
static void deleted_or_missing(void *arg, const struct err *e, const struct box_info *info)
{
    CwDeleteSandboxResponse reply = CW_INIT(DELETE_SANDBOX_RESPONSE);

    if (e != NULL && is_missing(e))
        rpc_reply(arg, &reply.base);
    else
        deleted(arg, e, info);
}

static int delete_check(const CwDeleteSandboxRequest *req, struct err *e)
{
    if (req->grace_period_seconds < 0)
        return cw_invalid(e, "grace_period_seconds", "%d is negative", req->grace_period_seconds);
    if (req->request_id.len > CW_REQUEST_ID_MAX)
        return cw_invalid(e, "request_id", "%zu bytes long, the limit is %d", req->request_id.len, CW_REQUEST_ID_MAX);
    if (req->n_snapshot_volumes == 0)
        return 0;
    if (req->allow_missing)
        return err_typed(e, ERR_INVALID, "INVALID_REQUEST", "allow_missing and snapshot_volumes exclude each other");
    return err_typed(e, ERR_PRECONDITION, "FSS_NOT_SUPPORTED", "snapshots of volumes are not supported by this server");
}

void cw_delete_sandbox(struct rpc_call *c, const ProtobufCMessage *msg)
{
    const CwDeleteSandboxRequest *req = (const CwDeleteSandboxRequest *)msg;
    box_cb done = req->allow_missing ? deleted_or_missing : deleted;
    char why[128];
    struct err e = {0};
    const char *id;
    int r = delete_check(req, &e);

    if (r == 0)
        r = cw_sandbox_id(c, &req->sandbox_id, &id, &e);
    if (r < 0) {
        done(c, &e, NULL);
        return;
    }
    (void)snprintf(why, sizeof why, "deleted by %s", rpc_peer_of(c)->key_name);
    cw_op_wait(c,
               engine_box_stop(cw_of(c)->engine, cw_tenant(c), id, (uint32_t)req->grace_period_seconds, why, done, c));
}
