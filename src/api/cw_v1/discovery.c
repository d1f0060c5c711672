/* Discovery: one runner, this machine. Its owner is the tenant who asks. */
#include "api/cw_v1/cw-internal.h"

#include <string.h>

#if defined(__x86_64__)
#define ARCHITECTURE "amd64"
#elif defined(__aarch64__)
#define ARCHITECTURE "arm64"
#else
#error "name this architecture as OCI does"
#endif

/* A runner and its parts; keep it in place while MSG is used. */
struct runner_view {
    CwAvailableRunner msg;
    CwRunnerCapabilitySummary capabilities;
    CwRunnerResourceSummary resources;
    CwTimestamp connected;
    char *architectures[1];
};

static char *text(const char *s)
{
    return (char *)(uintptr_t)s; /* protobuf-c has no const; nothing writes */
}

static void runner_view_init(struct runner_view *v, const struct rpc_call *c, const struct runner_info *info, bool full)
{
    v->msg = (CwAvailableRunner)CW_INIT(AVAILABLE_RUNNER);
    v->capabilities = (CwRunnerCapabilitySummary)CW_INIT(RUNNER_CAPABILITY_SUMMARY);
    v->resources = (CwRunnerResourceSummary)CW_INIT(RUNNER_RESOURCE_SUMMARY);
    v->connected = cw_time(info->started_ns);
    v->architectures[0] = text(ARCHITECTURE);

    v->msg.runner_id = text(info->runner_id);
    v->msg.runner_group_id = text(CW_RUNNER_GROUP);
    v->msg.organization_id = text(cw_tenant(c));
    v->msg.healthy = info->healthy;
    v->msg.connected_at = &v->connected;

    v->capabilities.max_cpu_millicores = info->cpu_millis_total;
    v->capabilities.max_memory_bytes = (int64_t)info->memory_total;
    v->capabilities.supported_architectures = v->architectures;
    v->capabilities.n_supported_architectures = 1;
    v->msg.capabilities = &v->capabilities;

    v->resources.available_cpu_millicores = info->cpu_millis_free;
    v->resources.available_memory_bytes = (int64_t)info->memory_free;
    v->resources.running_sandboxes = (int32_t)info->boxes_live;
    if (full)
        v->msg.resources = &v->resources;
}

static int view_check(int32_t view, struct err *e)
{
    if (view < 0 || view > COREWEAVE__SANDBOX__V1__RUNNER_VIEW__RUNNER_VIEW_FULL)
        return cw_invalid(e, "view", "%d is not a view", view);
    return 0;
}

static int list_check(const CwListAvailableRunnersRequest *req, struct err *e)
{
    if (req->page_size < 0)
        return cw_invalid(e, "page_size", "%d is negative", req->page_size);
    if (req->page_token.len > 0)
        return cw_invalid(e, "page_token", "not a token of this server");
    if (req->service_visibility < 0 || req->service_visibility > 3)
        return cw_invalid(e, "service_visibility", "%d is not a visibility", req->service_visibility);
    return view_check(req->view, e);
}

static bool wanted(const CwListAvailableRunnersRequest *req, const struct runner_info *info)
{
    if (req->runner_group_id.len > 0 && !cw_is(&req->runner_group_id, CW_RUNNER_GROUP))
        return false;
    if (req->architecture.len > 0 && !cw_is(&req->architecture, ARCHITECTURE))
        return false;
    if (req->gpu_type.len > 0 || req->service_visibility != 0)
        return false; /* neither is offered */
    return info->healthy || !req->healthy_only;
}

void cw_list_runners(struct rpc_call *c, const ProtobufCMessage *msg)
{
    const CwListAvailableRunnersRequest *req = (const CwListAvailableRunnersRequest *)msg;
    CwListAvailableRunnersResponse reply = CW_INIT(LIST_AVAILABLE_RUNNERS_RESPONSE);
    CwAvailableRunner *runners[1];
    struct runner_info info;
    struct runner_view v;
    struct err e = {0};

    if (list_check(req, &e) < 0) {
        rpc_finish(c, &e);
        return;
    }
    engine_runner(cw_of(c)->engine, &info);
    if (wanted(req, &info)) {
        runner_view_init(&v, c, &info, req->view == COREWEAVE__SANDBOX__V1__RUNNER_VIEW__RUNNER_VIEW_FULL);
        runners[0] = &v.msg;
        reply.runners = runners;
        reply.n_runners = 1;
    }
    rpc_reply(c, &reply.base);
}

void cw_get_runner(struct rpc_call *c, const ProtobufCMessage *msg)
{
    const CwGetAvailableRunnerRequest *req = (const CwGetAvailableRunnerRequest *)msg;
    struct runner_info info;
    struct runner_view v;
    char q[CW_QUOTE_MAX];
    struct err e = {0};
    int r = view_check(req->view, &e);

    engine_runner(cw_of(c)->engine, &info);
    if (r == 0 && req->runner_id.len == 0)
        r = cw_invalid(&e, "runner_id", "missing");
    if (r == 0 && (!cw_is(&req->runner_id, info.runner_id) || !cw_is(&req->organization_id, cw_tenant(c))))
        r = err_typed(&e, ERR_NOT_FOUND, "RUNNER_NOT_FOUND", "there is no runner '%s' in this organization",
                      cw_quote(q, &req->runner_id));
    if (r < 0) {
        rpc_finish(c, &e);
        return;
    }
    runner_view_init(&v, c, &info, req->view != COREWEAVE__SANDBOX__V1__RUNNER_VIEW__RUNNER_VIEW_BASIC);
    rpc_reply(c, &v.msg.base);
}
