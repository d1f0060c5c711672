/* A SandboxSpec is read field by field: honoured, or refused with the field's name. Nothing is silently ignored, except
 * fields that this server's schema does not know, which the contract asks to be skipped.
 *
 * Kinds of refusal: what can never be right is ERR_INVALID; what is not built is ERR_UNIMPLEMENTED; what another machine
 * might offer is ERR_PRECONDITION with a placement reason, so that a client that may place elsewhere does so. */
#include "api/cw_v1/cw-internal.h"

#include <stdio.h>
#include <string.h>

#include "base/fd.h"

#define CONTAINER "sandbox.spec.containers[0]"

/* What a reader of one part of the spec gets. */
struct reading {
    struct rpc_call *c;
    const CwSandboxSpec *spec;
    const CwContainer *container;
    const struct runner_info *runner;
    struct box_spec *out;
};

static int no_runner(struct err *e, const char *field, const char *why)
{
    int r = err_typed(e, ERR_PRECONDITION, "NO_SUITABLE_RUNNER", "%s: %s", field, why);

    err_meta(e, "field", field);
    return r;
}

/* ---- what is not built: present means refused ---------------------------------------------------------------------- */

static int read_unbuilt(struct reading *rd, struct err *e)
{
    const CwSandboxSpec *s = rd->spec;
    const CwContainer *k = rd->container;
    const struct {
        bool present;
        const char *field, *why;
    } refused[] = {
        {s->n_init_containers > 0, "sandbox.spec.init_containers", "init containers are not supported by this server"},
        {s->n_volumes > 0, "sandbox.spec.volumes", "volumes are not supported by this server"},
        {s->n_services > 0, "sandbox.spec.services", "services and their ports are not supported by this server"},
        {s->n_network_ids > 0, "sandbox.spec.network_ids", "shared networks are not supported by this server"},
        {s->object_storage_access != NULL, "sandbox.spec.object_storage_access",
         "object storage is not supported by this server"},
        {s->network_config_id.len > 0, "sandbox.spec.network_config_id",
         "stored network configurations are not supported by this server"},
        {k->n_files > 0, CONTAINER ".files",
         "mounted files are not supported by this server; write them with WriteFile after the start"},
        {k->n_volume_mounts > 0, CONTAINER ".volume_mounts", "volumes are not supported by this server"},
        {k->image_pull_credentials != NULL, CONTAINER ".image_pull_credentials",
         "pulling from registries is not supported by this server"},
        {k->startup_probe != NULL, CONTAINER ".startup_probe", "startup probes are not supported by this server"},
    };

    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        if (refused[i].present)
            return cw_unbuilt(e, refused[i].field, "%s", refused[i].why);
    }
    return 0;
}

/* Refused even when a reference is empty or half filled: a sandbox without the secret it asked for must not start. */
static int read_secrets(struct reading *rd, struct err *e)
{
    static const CwBytes none = {0};
    const CwContainer *k = rd->container;
    const CwSecretStoreReference *ref;
    char store[CW_QUOTE_MAX], secret[CW_QUOTE_MAX];

    if (k->n_secret_stores == 0)
        return 0;
    ref = k->secret_stores[0];
    return err_typed(e, ERR_PRECONDITION, "SECRET_STORE_NOT_PROVISIONED",
                     "secret stores are not configured on this server: store '%s', secret '%s'",
                     cw_quote(store, &ref->store_name),
                     cw_quote(secret, ref->n_secrets > 0 ? &ref->secrets[0]->path : &none));
}

/* ---- placement ------------------------------------------------------------------------------------------------------- */

static int read_runner_ids(struct reading *rd, struct err *e)
{
    const CwSandboxSpec *s = rd->spec;
    bool here = s->n_runner_ids == 0;
    int r = 0;

    if (s->n_runner_ids > CW_RUNNER_IDS_MAX)
        return cw_invalid(e, "sandbox.spec.runner_ids", "%zu entries, the limit is %d", s->n_runner_ids,
                          CW_RUNNER_IDS_MAX);
    for (size_t i = 0; r == 0 && i < s->n_runner_ids; i++) {
        if (s->runner_ids[i].len == 0)
            return cw_invalid(e, "sandbox.spec.runner_ids", "an entry is empty");
        r = cw_text_check(&s->runner_ids[i], CW_NAME_MAX, "sandbox.spec.runner_ids", e);
        here = here || cw_is(&s->runner_ids[i], rd->runner->runner_id);
    }
    if (r < 0)
        return r;
    return here ? 0 : no_runner(e, "sandbox.spec.runner_ids", "none of the named runners is here");
}

static int read_placement(struct reading *rd, struct err *e)
{
    const CwSandboxSpec *s = rd->spec;
    char q[CW_QUOTE_MAX];

    /* One machine serves both pools. */
    if (s->mode < 0 || s->mode > COREWEAVE__SANDBOX__V1__SANDBOX_MODE__SANDBOX_MODE_CKS)
        return cw_invalid(e, "sandbox.spec.mode", "%d is not a mode", s->mode);
    if (s->instance_type.len > 0)
        return no_runner(e, "sandbox.spec.instance_type", "this server has no instance types");
    if (s->runtime_class.len > 0 && !cw_is(&s->runtime_class, CW_RUNTIME_CLASS))
        return cw_invalid(e, "sandbox.spec.runtime_class",
                          "'%s' is not known here; the only runtime class is '" CW_RUNTIME_CLASS "'",
                          cw_quote(q, &s->runtime_class));
    /* 1 asks for the default isolation of a machine without GPUs, which is what there is. */
    if (s->runtime_class_selection != 0 && s->runtime_class_selection != 1)
        return no_runner(e, "sandbox.spec.runtime_class_selection", "only the default runtime class is offered here");
    return read_runner_ids(rd, e);
}

/* ---- network ----------------------------------------------------------------------------------------------------------- */

static int read_network(struct reading *rd, struct err *e)
{
    const CwNetworkOptions *n = rd->spec->network;
    bool deny;

    if (n == NULL)
        return 0;
    deny = n->_deny_egress_case != COREWEAVE__SANDBOX__V1__NETWORK_OPTIONS___DENY_EGRESS__NOT_SET && n->deny_egress;
    if (deny && n->n_egress > 0)
        return cw_invalid(e, "sandbox.spec.network.egress", "rules and deny_egress exclude each other");
    if (n->n_egress > 0)
        return err_typed(
            e, ERR_PRECONDITION, "PLACEMENT_CONSTRAINT_UNSATISFIED",
            "sandbox.spec.network.egress: this server cannot limit outbound traffic by rules; it can only allow or "
            "deny all of it");
    if (n->n_ingress > 0)
        return cw_unbuilt(e, "sandbox.spec.network.ingress", "ingress rules are not supported by this server");
    if (n->dns_egress < 0 || n->dns_egress > 2)
        return cw_invalid(e, "sandbox.spec.network.dns_egress", "%d is not a mode", n->dns_egress);
    if (n->dns_egress == 2 && !deny)
        return err_typed(
            e, ERR_PRECONDITION, "PLACEMENT_CONSTRAINT_UNSATISFIED",
            "sandbox.spec.network.dns_egress: this server cannot deny name resolution alone; use deny_egress");
    if (n->dns_egress == 1 && deny)
        return err_typed(e, ERR_PRECONDITION, "PLACEMENT_CONSTRAINT_UNSATISFIED",
                         "sandbox.spec.network.dns_egress: this server cannot allow name resolution alone");
    /* deny_egress false is the wish for the server's default, as absence is. deny_ingress needs nothing done: it is about
     * ports of services, no service exists, and nothing outside reaches a sandbox's network. */
    rd->out->egress = deny ? BOX_EGRESS_NONE : BOX_EGRESS_DEFAULT;
    return 0;
}

/* ---- the container --------------------------------------------------------------------------------------------------- */

static bool has_control(const char *text)
{
    for (const unsigned char *p = (const unsigned char *)text; *p != '\0'; p++) {
        if (*p <= 0x20 || *p == 0x7f)
            return true;
    }
    return false;
}

static int read_names(struct reading *rd, struct err *e)
{
    const CwContainer *k = rd->container;
    const CwBytes *primary = &rd->spec->primary_container;
    char q[CW_QUOTE_MAX], q2[CW_QUOTE_MAX];
    int r = cw_text_check(&k->name, CW_NAME_MAX, CONTAINER ".name", e);

    if (r == 0)
        r = cw_text_check(primary, CW_NAME_MAX, "sandbox.spec.primary_container", e);
    if (r == 0)
        r = cw_text(rd->c, &k->image, CW_IMAGE_MAX, CONTAINER ".image", &rd->out->image, e);
    if (r < 0)
        return r;
    if (k->image.len == 0)
        return cw_invalid(e, CONTAINER ".image", "missing");
    if (has_control(rd->out->image))
        return cw_invalid(e, CONTAINER ".image", "'%s' is not an image name", cw_quote(q, &k->image));
    if (primary->len > 0 && (primary->len != k->name.len || memcmp(primary->data, k->name.data, primary->len) != 0))
        return cw_invalid(e, "sandbox.spec.primary_container", "'%s' is not the name of the container, which is '%s'",
                          cw_quote(q, primary), cw_quote(q2, &k->name));
    return 0;
}

static int read_command(struct reading *rd, struct err *e)
{
    const CwContainer *k = rd->container;
    int r = 0;

    /* Lengths of command, args and environment together are the engine's to limit: it knows what the image adds. */
    if (k->command.len > 0)
        r = cw_text(rd->c, &k->command, CW_SPEC_MAX, CONTAINER ".command", &rd->out->command, e);
    if (r == 0)
        r = cw_texts(rd->c, k->args, k->n_args, CW_ARGS_MAX, CW_SPEC_MAX, CONTAINER ".args", &rd->out->args, e);
    if (r == 0 && k->working_dir.len > 0)
        r = cw_path(rd->c, &k->working_dir, CONTAINER ".working_dir", &rd->out->cwd, e);
    return r;
}

static int read_environment(struct reading *rd, struct err *e)
{
    const CwContainer *k = rd->container;
    struct env_item *items = NULL;
    int r = cw_env(rd->c, k->environment_variables, k->n_environment_variables, CONTAINER ".environment_variables",
                   &items, e);

    rd->out->env = items;
    rd->out->env_count = k->n_environment_variables;
    return r;
}

#define SECURITY CONTAINER ".security_context"
#define IS_SET(m, NAME, name) ((m)->_##name##_case != COREWEAVE__SANDBOX__V1__SECURITY_CONTEXT___##NAME##__NOT_SET)

static int read_user(struct reading *rd, const CwSecurityContext *s, struct err *e)
{
    bool user = IS_SET(s, RUN_AS_USER, run_as_user), group = IS_SET(s, RUN_AS_GROUP, run_as_group);
    void *mem = NULL;
    char *text;
    int r;

    if (!user && !group)
        return 0;
    if (!user)
        return cw_invalid(e, SECURITY ".run_as_group", "needs run_as_user");
    if (s->run_as_user == UINT32_MAX)
        return cw_invalid(e, SECURITY ".run_as_user", "%u is not a user id", s->run_as_user);
    if (group && s->run_as_group == UINT32_MAX)
        return cw_invalid(e, SECURITY ".run_as_group", "%u is not a group id", s->run_as_group);
    r = cw_alloc(rd->c, 24, 1, &mem, e);
    if (r < 0)
        return r;
    text = mem;
    if (group)
        (void)snprintf(text, 24, "%u:%u", s->run_as_user, s->run_as_group);
    else
        (void)snprintf(text, 24, "%u", s->run_as_user);
    rd->out->user = text;
    return 0;
}

static int read_security(struct reading *rd, struct err *e)
{
    const CwSecurityContext *s = rd->container->security_context;
    char q[CW_QUOTE_MAX];

    if (s == NULL)
        return 0;
    if (IS_SET(s, PRIVILEGED, privileged) && s->privileged)
        return cw_invalid(e, SECURITY ".privileged", "this server runs no privileged sandboxes");
    if (s->n_capabilities_add > 0)
        return cw_invalid(e, SECURITY ".capabilities_add", "this server adds no capabilities ('%s')",
                          cw_quote(q, &s->capabilities_add[0]));
    if (s->n_capabilities_drop > 0)
        return cw_unbuilt(e, SECURITY ".capabilities_drop",
                          "dropping capabilities is not supported by this server ('%s')",
                          cw_quote(q, &s->capabilities_drop[0]));
    if (s->seccomp_profile.len > 0 && !cw_is(&s->seccomp_profile, "RuntimeDefault"))
        return cw_invalid(e, SECURITY ".seccomp_profile", "'%s' is not offered; the only profile is 'RuntimeDefault'",
                          cw_quote(q, &s->seccomp_profile));
    rd->out->readonly_root =
        IS_SET(s, READ_ONLY_ROOT_FILESYSTEM, read_only_root_filesystem) && s->read_only_root_filesystem;
    rd->out->no_new_privs =
        IS_SET(s, ALLOW_PRIVILEGE_ESCALATION, allow_privilege_escalation) && !s->allow_privilege_escalation;
    return read_user(rd, s, e);
}

static int read_resources(struct reading *rd, struct err *e)
{
    return cw_resources_read(rd->container, rd->runner, rd->out, e);
}

/* ---- labels and lifetime ----------------------------------------------------------------------------------------------- */

static int read_labels(struct reading *rd, struct err *e)
{
    const CwSandboxSpec *s = rd->spec;
    int r = cw_texts(rd->c, s->tags, s->n_tags, CW_TAGS_MAX, CW_TAG_MAX, "sandbox.spec.tags", &rd->out->tags, e);

    if (r == 0 && s->n_annotations > CW_ANNOTATIONS_MAX)
        return cw_invalid(e, "sandbox.spec.annotations", "%zu entries, the limit is %d", s->n_annotations,
                          CW_ANNOTATIONS_MAX);
    /* Annotations mean nothing to the server: the echo of the spec carries them. */
    for (size_t i = 0; r == 0 && i < s->n_annotations; i++) {
        r = cw_text_check(&s->annotations[i]->key, CW_SPEC_MAX, "sandbox.spec.annotations", e);
        if (r == 0)
            r = cw_text_check(&s->annotations[i]->value, CW_SPEC_MAX, "sandbox.spec.annotations", e);
    }
    return r;
}

static int read_lifetime(struct reading *rd, struct err *e)
{
    if (rd->spec->max_lifetime_seconds < 0)
        return cw_invalid(e, "sandbox.spec.max_lifetime_seconds", "%d is negative", rd->spec->max_lifetime_seconds);
    rd->out->lifetime_s = (uint32_t)rd->spec->max_lifetime_seconds;
    return 0;
}

int cw_spec_read(struct rpc_call *c, const CwSandboxSpec *spec, const struct runner_info *runner, struct box_spec *ret,
                 struct err *e)
{
    static int (*const readers[])(struct reading * rd, struct err * e) = {
        read_names,       read_unbuilt,  read_secrets,   read_placement, read_network,  read_command,
        read_environment, read_security, read_resources, read_labels,    read_lifetime,
    };
    struct reading rd = {.c = c, .spec = spec, .runner = runner, .out = ret};
    int r = 0;

    if (spec->n_containers == 0)
        return cw_invalid(e, "sandbox.spec.containers", "missing");
    if (spec->n_containers > 1)
        return cw_unbuilt(e, "sandbox.spec.containers", "%zu containers in one sandbox; this server runs one",
                          spec->n_containers);
    rd.container = spec->containers[0];
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(readers); i++)
        r = readers[i](&rd, e);
    return r;
}
