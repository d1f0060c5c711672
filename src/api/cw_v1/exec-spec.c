/* What StreamExec and Exec ask for in the same words. */
#include "api/cw_v1/cw-internal.h"

int cw_exec_spec(struct rpc_call *c, const CwBytes *sandbox_id, const CwBytes *command, size_t command_count,
                 CwStringEntry *const *env, size_t env_count, const CwBytes *container, struct exec_spec *ret,
                 struct err *e)
{
    struct env_item *items = NULL;
    int r = cw_sandbox_id(c, sandbox_id, &ret->box, e);

    if (r < 0)
        return r;
    if (command_count == 0)
        return cw_invalid(e, "command", "missing");
    /* The engine limits the length: it knows what the environment adds. */
    r = cw_texts(c, command, command_count, CW_ARGS_MAX, CW_SPEC_MAX, "command", &ret->argv, e);
    if (r == 0)
        r = cw_env(c, env, env_count, "env", &items, e);
    if (r == 0)
        r = cw_container_check(c, ret->box, container, e);
    ret->tenant = cw_tenant(c);
    ret->env = items;
    ret->env_count = env_count;
    return r;
}

void cw_exec_unknown(struct err *e)
{
    (void)err_typed(e, ERR_UNAVAILABLE, NULL,
                    "how the command ended is not known: its sandbox or the server ended first");
}
