/* A sandbox as clients see it: the engine's picture plus the spec that its creator sent.
 *
 * The spec goes back byte for byte as it came; it is unpacked here only for what the status repeats of it (the container's
 * name and the amounts of resources, as the exact strings of the request). */
#include "api/cw_v1/cw-internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

CwState cw_state(enum box_state s)
{
    static const CwState states[BOX_STATE_COUNT] = {
        [BOX_CREATING] = CW_STATE(CREATING),     [BOX_RUNNING] = CW_STATE(RUNNING),
        [BOX_PAUSED] = CW_STATE(PAUSED),         [BOX_TERMINATING] = CW_STATE(TERMINATING),
        [BOX_COMPLETED] = CW_STATE(COMPLETED),   [BOX_FAILED] = CW_STATE(FAILED),
        [BOX_TERMINATED] = CW_STATE(TERMINATED),
    };

    return states[s];
}

int cw_state_filter(int32_t state, int *ret)
{
    if (state == CW_STATE(PENDING) || state == CW_STATE(PREPARING))
        return -ENOENT;
    for (int s = 0; s < BOX_STATE_COUNT; s++) {
        if ((int32_t)cw_state((enum box_state)s) == state) {
            *ret = s;
            return 0;
        }
    }
    return -EINVAL;
}

CwTimestamp cw_time(uint64_t ns)
{
    CwTimestamp t = CW_TIMESTAMP_INIT;

    t.seconds = (int64_t)(ns / NSEC_PER_SEC);
    t.nanos = (int32_t)(ns % NSEC_PER_SEC);
    return t;
}

static CwBytes bytes_of(const char *text)
{
    return (CwBytes){.len = strlen(text),
                     .data = (uint8_t *)(uintptr_t)text}; /* protobuf-c has no const; nothing writes */
}

/* A sandbox made through another dialect has no spec of ours: one that says what is known. */
static int make_spec(struct cw_view *v, const struct box_info *info)
{
    CwSandboxSpec spec = CW_INIT(SANDBOX_SPEC);
    CwContainer container = CW_INIT(CONTAINER);
    CwContainer *containers[] = {&container};
    CwBytes *tags;
    size_t n = 0;

    while (info->tags[n] != NULL)
        n++;
    tags = calloc(n + 1, sizeof *tags);
    if (tags == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++)
        tags[i] = bytes_of(info->tags[i]);
    container.name = bytes_of(CW_DEFAULT_CONTAINER);
    container.image = bytes_of(info->image);
    spec.containers = containers;
    spec.n_containers = 1;
    spec.tags = tags;
    spec.n_tags = n;

    v->msg.spec.len = protobuf_c_message_get_packed_size(&spec.base);
    v->made_spec = malloc(v->msg.spec.len);
    if (v->made_spec != NULL)
        (void)protobuf_c_message_pack(&spec.base, v->made_spec);
    v->msg.spec.data = v->made_spec;
    free(tags);
    return v->made_spec != NULL ? 0 : -ENOMEM;
}

static int view_spec(struct cw_view *v, const struct box_info *info)
{
    if (strcmp(info->dialect, CW_DIALECT) == 0) {
        v->spec = coreweave__sandbox__v1__sandbox_spec__unpack(NULL, info->echo_len, info->echo);
        if (v->spec != NULL && v->spec->n_containers > 0) {
            v->msg.spec = (CwBytes){.len = info->echo_len, .data = (uint8_t *)(uintptr_t)info->echo};
            return 0;
        }
    }
    return make_spec(v, info);
}

/* What was asked for, with the limits that apply where none was given. */
static void view_resources(struct cw_view *v, const struct box_info *info)
{
    const CwContainer *k = v->spec != NULL && v->spec->n_containers > 0 ? v->spec->containers[0] : NULL;
    const CwResourceRequirements *asked = k != NULL ? k->resource_requirements : NULL;

    if (k != NULL && k->resources != NULL) {
        v->status.effective_resources = k->resources;
        return;
    }
    v->requirements = (CwResourceRequirements)CW_INIT(RESOURCE_REQUIREMENTS);
    v->limits = (CwResources)CW_INIT(RESOURCES);
    if (asked != NULL) {
        v->requirements.requests = asked->requests;
        if (asked->limits != NULL) {
            v->limits.cpu = asked->limits->cpu;
            v->limits.memory = asked->limits->memory;
        }
    }
    if (v->limits.cpu.len == 0 && info->cpu_millis > 0) {
        (void)snprintf(v->cpu, sizeof v->cpu, "%um", info->cpu_millis);
        v->limits.cpu = bytes_of(v->cpu);
    }
    if (v->limits.memory.len == 0 && info->memory_bytes > 0) {
        (void)snprintf(v->memory, sizeof v->memory, "%llu", (unsigned long long)info->memory_bytes);
        v->limits.memory = bytes_of(v->memory);
    }
    v->requirements.limits = &v->limits;
    v->status.effective_resource_requirements = &v->requirements;
}

static void view_times(struct cw_view *v, const struct box_info *info)
{
    struct {
        uint64_t ns;
        CwTimestamp *t, **field;
    } times[] = {
        {info->created_ns, &v->created, &v->status.create_time},
        {info->started_ns, &v->started, &v->status.start_time},
        {info->ended_ns, &v->ended, &v->status.end_time},
    };

    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++) {
        if (times[i].ns == 0)
            continue;
        *times[i].t = cw_time(times[i].ns);
        *times[i].field = times[i].t;
    }
}

/* A reason may quote what a sandbox printed or was named. A client refuses a whole reply for one invalid string in it. */
static char *view_reason(struct cw_view *v, const char *reason)
{
    CwBytes raw = bytes_of(reason);

    if (cw_is_utf8(reason))
        return (char *)(uintptr_t)reason;
    for (size_t i = 0; i < raw.len && i + 1 < sizeof v->reason; i++)
        v->reason[i] = raw.data[i] < 0x80 ? (char)raw.data[i] : '?';
    return v->reason; /* zeroed behind the text */
}

int cw_view_init(struct cw_view *v, const struct box_info *info)
{
    int r;

    memset(v, 0, sizeof *v);
    v->msg = (CwSandbox)CW_INIT(SANDBOX);
    v->status = (CwSandboxStatus)CW_INIT(SANDBOX_STATUS);
    v->container = (CwContainerStatus)CW_INIT(CONTAINER_STATUS);
    r = view_spec(v, info);
    if (r < 0) {
        cw_view_fini(v);
        return r;
    }

    v->msg.sandbox_id = bytes_of(info->id);
    v->msg.status = &v->status;
    v->status.state = cw_state(info->state);
    v->status.state_reason = view_reason(v, info->reason);
    v->status.runner_id = (char *)(uintptr_t)info->runner_id;
    v->status.runner_group_id = (char *)(uintptr_t)CW_RUNNER_GROUP;
    v->status.effective_runtime_class = (char *)(uintptr_t)CW_RUNTIME_CLASS;
    v->status.effective_max_lifetime_seconds = info->lifetime_s > INT32_MAX ? INT32_MAX : (int32_t)info->lifetime_s;
    if (info->has_exit) {
        /* With presence, so that 0 is sent as well: a client that misses it polls on. */
        v->status._exit_code_case = COREWEAVE__SANDBOX__V1__SANDBOX_STATUS___EXIT_CODE_EXIT_CODE;
        v->status.exit_code = info->exit_code;
    }
    view_times(v, info);
    view_resources(v, info);

    v->container.name =
        v->spec != NULL && v->spec->n_containers > 0 ? v->spec->containers[0]->name : bytes_of(CW_DEFAULT_CONTAINER);
    v->container.state = v->status.state;
    v->container.exit_code = info->has_exit ? info->exit_code : 0;
    v->containers[0] = &v->container;
    v->status.container_statuses = v->containers;
    v->status.n_container_statuses = 1;
    return 0;
}

void cw_view_fini(struct cw_view *v)
{
    if (v->spec != NULL)
        coreweave__sandbox__v1__sandbox_spec__free_unpacked(v->spec, NULL);
    free(v->made_spec);
    v->spec = NULL;
    v->made_spec = NULL;
}

void cw_reply_sandbox(struct rpc_call *c, const struct box_info *info)
{
    struct cw_view v;
    struct err e = {0};

    if (cw_view_init(&v, info) < 0) {
        (void)err_set(&e, ENOMEM, "read the record of sandbox %s: %m", info->id);
        rpc_finish(c, &e);
        return;
    }
    rpc_reply(c, &v.msg.base);
    cw_view_fini(&v);
}
