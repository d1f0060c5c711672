/* CPU, memory and GPUs of a container.
 *
 * Limits are what the kernel enforces. A request is a promise: it must fit this machine, and where no limit is given the
 * limit is the server's default or the request, whichever is more. The strings themselves are echoed by status.c. */
#include "api/cw_v1/cw-internal.h"

#include <stdio.h>

#define PART_FIELD_MAX 96

/* One Resources message, parsed; 0 = not given. */
struct part {
    uint32_t cpu_millis;
    uint64_t memory_bytes;
};

static int part_read(const CwResources *r, const char *field, struct part *ret, struct err *e)
{
    char at[PART_FIELD_MAX], q[CW_QUOTE_MAX];
    struct part p = {0};

    *ret = p;
    if (r == NULL)
        return 0;
    if (r->gpu != NULL && r->gpu->count < 0) {
        return cw_invalid(e, "sandbox.spec.containers[0].resource_requirements", "a GPU count of %lld",
                          (long long)r->gpu->count);
    }
    if (r->gpu != NULL && r->gpu->count > 0)
        return err_typed(e, ERR_PRECONDITION, "NO_SUITABLE_RUNNER", "%s.gpu: this server has no GPUs", field);
    if (r->cpu.len > 0 && cw_parse_cpu(&r->cpu, &p.cpu_millis) < 0) {
        (void)snprintf(at, sizeof at, "%s.cpu", field);
        return cw_invalid(e, at, "'%s' is not an amount of CPU such as '500m' or '2.5'", cw_quote(q, &r->cpu));
    }
    if (r->memory.len > 0 && cw_parse_memory(&r->memory, &p.memory_bytes) < 0) {
        (void)snprintf(at, sizeof at, "%s.memory", field);
        return cw_invalid(e, at, "'%s' is not an amount of memory such as '256Mi' or '4Gi'", cw_quote(q, &r->memory));
    }
    *ret = p;
    return 0;
}

static int fits(const struct part *request, const struct runner_info *runner, struct err *e)
{
    if (request->cpu_millis > runner->cpu_millis_total)
        return err_typed(e, ERR_PRECONDITION, "NO_SUITABLE_RUNNER",
                         "%u millicores of CPU are requested, this server has %u", request->cpu_millis,
                         runner->cpu_millis_total);
    if (request->memory_bytes > runner->memory_total)
        return err_typed(e, ERR_PRECONDITION, "NO_SUITABLE_RUNNER",
                         "%llu bytes of memory are requested, this server has %llu",
                         (unsigned long long)request->memory_bytes, (unsigned long long)runner->memory_total);
    return 0;
}

int cw_resources_read(const CwContainer *k, const struct runner_info *runner, struct box_spec *ret, struct err *e)
{
    static const char *const field = "sandbox.spec.containers[0].resource_requirements";
    struct part request = {0}, limit = {0};
    int r = 0;

    if (k->resources != NULL && k->resource_requirements != NULL)
        return cw_invalid(e, field, "excludes resources");
    if (k->resources != NULL) {
        r = part_read(k->resources, "sandbox.spec.containers[0].resources", &limit, e);
        request = limit;
    } else if (k->resource_requirements != NULL) {
        r = part_read(k->resource_requirements->requests, "sandbox.spec.containers[0].resource_requirements.requests",
                      &request, e);
        if (r == 0)
            r = part_read(k->resource_requirements->limits, "sandbox.spec.containers[0].resource_requirements.limits",
                          &limit, e);
    }
    if (r < 0)
        return r;
    if (limit.cpu_millis != 0 && request.cpu_millis > limit.cpu_millis)
        return cw_invalid(e, field, "the CPU request is above its limit");
    if (limit.memory_bytes != 0 && request.memory_bytes > limit.memory_bytes)
        return cw_invalid(e, field, "the memory request is above its limit");
    r = fits(&request, runner, e);
    if (r < 0)
        return r;

    ret->cpu_millis = limit.cpu_millis;
    ret->memory_bytes = limit.memory_bytes;
    /* A default of 0 means "all cores", which no request exceeds. */
    if (limit.cpu_millis == 0 && runner->default_cpu_millis != 0 && request.cpu_millis > runner->default_cpu_millis)
        ret->cpu_millis = request.cpu_millis;
    if (limit.memory_bytes == 0 && request.memory_bytes > runner->default_memory_bytes)
        ret->memory_bytes = request.memory_bytes;
    return 0;
}
