/* CreateSandbox, field by field: each row changes one thing in a good request, and says what becomes of it. */
#include "fake.h"

/* A request whose parts a row may change. */
struct request {
    CwSandboxSpec spec;
    CwContainer container, second;
    CwContainer *containers[2];
    CwNetworkOptions network;
    CwSecurityContext security;
    CwResources resources, requests, limits;
    CwResourceRequirements requirements;
    Coreweave__Sandbox__V1__Gpu gpu;
    CwBytes texts[101];
    CwBytes request_id, display_name;
    int control;
    /* one message of each kind that is only looked at for being there */
    Coreweave__Sandbox__V1__SandboxVolume volume, *volumes[1];
    Coreweave__Sandbox__V1__Service service, *services[1];
    Coreweave__Sandbox__V1__ObjectStorageAccess storage;
    Coreweave__Sandbox__V1__FileMount file, *files[1];
    Coreweave__Sandbox__V1__VolumeMount mount, *mounts[1];
    Coreweave__Sandbox__V1__ImagePullCredentials credentials;
    Coreweave__Sandbox__V1__Probe probe;
    Coreweave__Sandbox__V1__EgressRule egress, *egresses[1];
    Coreweave__Sandbox__V1__IngressRule ingress, *ingresses[1];
    CwSecretStoreReference store, *stores[1];
    Coreweave__Sandbox__V1__SecretMapping secret, *secrets[1];
    CwStringEntry entry, *entries[1];
};

static void request_init(struct request *q)
{
    memset(q, 0, sizeof *q);
    q->spec = (CwSandboxSpec)CW_INIT(SANDBOX_SPEC);
    q->container = q->second = (CwContainer)CW_INIT(CONTAINER);
    q->network = (CwNetworkOptions)CW_INIT(NETWORK_OPTIONS);
    q->security = (CwSecurityContext)CW_INIT(SECURITY_CONTEXT);
    q->resources = q->requests = q->limits = (CwResources)CW_INIT(RESOURCES);
    q->requirements = (CwResourceRequirements)CW_INIT(RESOURCE_REQUIREMENTS);
    coreweave__sandbox__v1__gpu__init(&q->gpu);
    q->volume = (Coreweave__Sandbox__V1__SandboxVolume)CW_INIT(SANDBOX_VOLUME);
    q->service = (Coreweave__Sandbox__V1__Service)CW_INIT(SERVICE);
    q->storage = (Coreweave__Sandbox__V1__ObjectStorageAccess)CW_INIT(OBJECT_STORAGE_ACCESS);
    q->file = (Coreweave__Sandbox__V1__FileMount)CW_INIT(FILE_MOUNT);
    q->mount = (Coreweave__Sandbox__V1__VolumeMount)CW_INIT(VOLUME_MOUNT);
    q->credentials = (Coreweave__Sandbox__V1__ImagePullCredentials)CW_INIT(IMAGE_PULL_CREDENTIALS);
    q->probe = (Coreweave__Sandbox__V1__Probe)CW_INIT(PROBE);
    coreweave__sandbox__v1__egress_rule__init(&q->egress);
    q->ingress = (Coreweave__Sandbox__V1__IngressRule)CW_INIT(INGRESS_RULE);
    q->store = (CwSecretStoreReference)CW_INIT(SECRET_STORE_REFERENCE);
    q->secret = (Coreweave__Sandbox__V1__SecretMapping)CW_INIT(SECRET_MAPPING);
    q->entry = (CwStringEntry)CW_INIT(STRING_ENTRY);
    q->volumes[0] = &q->volume;
    q->services[0] = &q->service;
    q->files[0] = &q->file;
    q->mounts[0] = &q->mount;
    q->egresses[0] = &q->egress;
    q->ingresses[0] = &q->ingress;
    q->stores[0] = &q->store;
    q->secrets[0] = &q->secret;
    q->entries[0] = &q->entry;
    q->containers[0] = &q->container;
    q->containers[1] = &q->second;
    q->spec.containers = q->containers;
    q->spec.n_containers = 1;
    q->container.name = bytes("main");
    q->container.image = bytes("python:3.11");
    q->requirements.requests = &q->requests;
    q->requirements.limits = &q->limits;
}

static struct rpc_call *request_send(struct request *q)
{
    struct rpc_call *c = fake_call("CreateSandbox");
    CwCreateSandboxRequest req = CW_INIT(CREATE_SANDBOX_REQUEST);
    CwSandbox box = CW_INIT(SANDBOX);
    uint8_t *packed = malloc(protobuf_c_message_get_packed_size(&q->spec.base) + 1);

    box.spec = (CwBytes){.len = protobuf_c_message_pack(&q->spec.base, packed), .data = packed};
    box.display_name = q->display_name;
    box.control = q->control;
    req.sandbox = &box;
    req.request_id = q->request_id;
    fake_say(c, &req.base);
    free(packed);
    return c;
}

static char long_text[4 << 20];

static CwBytes letters(size_t n)
{
    memset(long_text, 'x', sizeof long_text);
    return (CwBytes){.len = n, .data = (uint8_t *)long_text};
}

static CwBytes *one(struct request *q, CwBytes b)
{
    q->texts[0] = b;
    return q->texts;
}

static CwBytes *many(struct request *q, size_t n)
{
    for (size_t i = 0; i < n; i++)
        q->texts[i] = bytes("t");
    return q->texts;
}

#define SET(q, name, NAME, v) \
    ((q)->security._##name##_case = COREWEAVE__SANDBOX__V1__SECURITY_CONTEXT___##NAME##_##NAME, \
     (q)->security.name = (v), (q)->container.security_context = &(q)->security)
#define DENY(q, name, NAME, v) \
    ((q)->network._##name##_case = COREWEAVE__SANDBOX__V1__NETWORK_OPTIONS___##NAME##_##NAME, (q)->network.name = (v), \
     (q)->spec.network = &(q)->network)
#define REQUIRE(q, what, field, text) \
    ((q)->what.field = bytes(text), (q)->container.resource_requirements = &(q)->requirements)
#define ROW(id, change) \
    static void id(struct request *q) \
    { \
        change; \
    }

ROW(no_containers, (q->spec.n_containers = 0, q->spec.max_lifetime_seconds = 1))
ROW(two_containers, q->spec.n_containers = 2)
ROW(no_image, q->container.image = (CwBytes){0})
ROW(image_with_space, q->container.image = bytes("a b"))
ROW(image_with_newline, q->container.image = bytes("a\nb"))
ROW(image_not_utf8, q->container.image = bytes("a\xff"))
ROW(image_with_nul, q->container.image = ((CwBytes){.len = 3, .data = (uint8_t *)(uintptr_t) "a\0b"}))
ROW(image_too_long, q->container.image = letters(CW_IMAGE_MAX + 1))
ROW(other_primary, q->spec.primary_container = bytes("web"))
ROW(init_container, (q->spec.init_containers = q->containers, q->spec.n_init_containers = 1))
ROW(network_id, (q->spec.network_ids = one(q, bytes("n")), q->spec.n_network_ids = 1))
ROW(with_volume, (q->spec.volumes = q->volumes, q->spec.n_volumes = 1))
ROW(with_service, (q->spec.services = q->services, q->spec.n_services = 1))
ROW(with_storage, q->spec.object_storage_access = &q->storage)
ROW(with_file, (q->container.files = q->files, q->container.n_files = 1))
ROW(with_mount, (q->container.volume_mounts = q->mounts, q->container.n_volume_mounts = 1))
ROW(with_credentials, q->container.image_pull_credentials = &q->credentials)
ROW(with_probe, q->container.startup_probe = &q->probe)
ROW(network_config, q->spec.network_config_id = bytes("n"))
ROW(secrets, (q->container.secret_stores = q->stores, q->container.n_secret_stores = 1,
              q->store.store_name = bytes("team"), q->store.secrets = q->secrets, q->store.n_secrets = 1,
              q->secret.path = bytes("KEY\n"), q->secret.env_var = bytes("K")))
ROW(empty_secrets, (q->container.secret_stores = q->stores, q->container.n_secret_stores = 1))
ROW(bad_mode, q->spec.mode = 3)
ROW(negative_mode, q->spec.mode = -1)
ROW(instance_type, q->spec.instance_type = bytes("gd-8xh100"))
ROW(other_runtime, q->spec.runtime_class = bytes("kata"))
ROW(gpu_runtime, q->spec.runtime_class_selection = 4)
ROW(other_runner, (q->spec.runner_ids = one(q, bytes("rn-2")), q->spec.n_runner_ids = 1))
ROW(blank_runner, (q->spec.runner_ids = one(q, bytes("")), q->spec.n_runner_ids = 1))
ROW(many_runners, (q->spec.runner_ids = many(q, 101), q->spec.n_runner_ids = 101))
ROW(egress_rule, (q->spec.network = &q->network, q->network.egress = q->egresses, q->network.n_egress = 1,
                  q->egress.destination_case = COREWEAVE__SANDBOX__V1__EGRESS_RULE__DESTINATION_DNS_NAME,
                  q->egress.dns_name = bytes("pypi.org")))
ROW(egress_both, (DENY(q, deny_egress, DENY_EGRESS, 1), q->network.egress = q->egresses, q->network.n_egress = 1))
ROW(ingress_rule, (q->spec.network = &q->network, q->network.ingress = q->ingresses, q->network.n_ingress = 1))
ROW(dns_mode, (q->spec.network = &q->network, q->network.dns_egress = 3))
ROW(dns_denied, (q->spec.network = &q->network, q->network.dns_egress = 2))
ROW(dns_only, (DENY(q, deny_egress, DENY_EGRESS, 1), q->network.dns_egress = 1))
ROW(privileged, SET(q, privileged, PRIVILEGED, 1))
ROW(cap_add, (q->container.security_context = &q->security, q->security.capabilities_add = one(q, bytes("SYS_ADMIN")),
              q->security.n_capabilities_add = 1))
ROW(cap_drop, (q->container.security_context = &q->security, q->security.capabilities_drop = one(q, bytes("ALL")),
               q->security.n_capabilities_drop = 1))
ROW(unconfined, (q->container.security_context = &q->security, q->security.seccomp_profile = bytes("Unconfined")))
ROW(group_alone, SET(q, run_as_group, RUN_AS_GROUP, 5))
ROW(user_minus_one, SET(q, run_as_user, RUN_AS_USER, UINT32_MAX))
ROW(group_minus_one, (SET(q, run_as_user, RUN_AS_USER, 1), SET(q, run_as_group, RUN_AS_GROUP, UINT32_MAX)))
ROW(both_resources, (q->container.resources = &q->resources, q->container.resource_requirements = &q->requirements))
ROW(bad_cpu, REQUIRE(q, limits, cpu, "two"))
ROW(bad_memory, REQUIRE(q, requests, memory, "1 GB"))
ROW(zero_cpu, REQUIRE(q, limits, cpu, "0"))
ROW(above_limit, (REQUIRE(q, limits, cpu, "1"), REQUIRE(q, requests, cpu, "1500m")))
ROW(memory_above_limit, (REQUIRE(q, limits, memory, "1Gi"), REQUIRE(q, requests, memory, "2Gi")))
ROW(too_many_cores, REQUIRE(q, requests, cpu, "4.5"))
ROW(too_much_memory, REQUIRE(q, requests, memory, "9Gi"))
ROW(gpu, (q->limits.gpu = &q->gpu, q->gpu.count = 1, q->container.resource_requirements = &q->requirements))
ROW(negative_gpu, (q->limits.gpu = &q->gpu, q->gpu.count = -1, q->container.resource_requirements = &q->requirements))
ROW(relative_cwd, q->container.working_dir = bytes("srv"))
ROW(long_cwd, (q->container.working_dir = letters(CW_PATH_MAX + 1), long_text[0] = '/'))
ROW(command_not_utf8, q->container.command = bytes("\xc3("))
ROW(arg_not_utf8, (q->container.args = one(q, bytes("\xed\xa0\x80")), q->container.n_args = 1))
ROW(negative_lifetime, q->spec.max_lifetime_seconds = -1)
ROW(many_tags, (q->spec.tags = many(q, 65), q->spec.n_tags = 65))
ROW(long_tag, (q->spec.tags = one(q, letters(CW_TAG_MAX + 1)), q->spec.n_tags = 1))
ROW(tag_not_utf8, (q->spec.tags = one(q, bytes("\xf5")), q->spec.n_tags = 1))
ROW(bad_annotation, (q->entry.key = bytes("k"), q->entry.value = bytes("\xff"), q->spec.annotations = q->entries,
                     q->spec.n_annotations = 1))
ROW(long_request_id, q->request_id = letters(129))
ROW(request_id_not_utf8, q->request_id = bytes("\xff"))
ROW(display_name, q->display_name = bytes("mine"))
ROW(engine_control, q->control = 2)
ROW(huge_spec, (q->entry.key = bytes("k"), q->entry.value = letters(CW_SPEC_MAX), q->spec.annotations = q->entries,
                q->spec.n_annotations = 1))

#define K "sandbox.spec.containers[0]"
static const struct {
    void (*change)(struct request *q);
    enum err_kind kind;
    const char *reason, *field, *says;
} refused[] = {
    {no_containers, ERR_INVALID, NULL, "sandbox.spec.containers", "missing"},
    {two_containers, ERR_UNIMPLEMENTED, "NOT_IMPLEMENTED", "sandbox.spec.containers", "2 containers in one sandbox"},
    {no_image, ERR_INVALID, NULL, K ".image", "missing"},
    {image_with_space, ERR_INVALID, NULL, K ".image", "'a b' is not an image name"},
    {image_with_newline, ERR_INVALID, NULL, K ".image", "'a\\x0ab' is not an image name"},
    {image_not_utf8, ERR_INVALID, NULL, K ".image", "'a\\xff' is not valid UTF-8"},
    {image_with_nul, ERR_INVALID, NULL, K ".image", "'a\\x00b' contains a NUL byte"},
    {image_too_long, ERR_INVALID, NULL, K ".image", "513 bytes long, the limit is 512"},
    {other_primary, ERR_INVALID, NULL, "sandbox.spec.primary_container", "'web' is not the name of the container"},
    {init_container, ERR_UNIMPLEMENTED, "NOT_IMPLEMENTED", "sandbox.spec.init_containers", "not supported"},
    {network_id, ERR_UNIMPLEMENTED, "NOT_IMPLEMENTED", "sandbox.spec.network_ids", "not supported"},
    {with_volume, ERR_UNIMPLEMENTED, "NOT_IMPLEMENTED", "sandbox.spec.volumes", "not supported"},
    {with_service, ERR_UNIMPLEMENTED, "NOT_IMPLEMENTED", "sandbox.spec.services", "not supported"},
    {with_storage, ERR_UNIMPLEMENTED, "NOT_IMPLEMENTED", "sandbox.spec.object_storage_access", "not supported"},
    {with_file, ERR_UNIMPLEMENTED, "NOT_IMPLEMENTED", K ".files", "WriteFile"},
    {with_mount, ERR_UNIMPLEMENTED, "NOT_IMPLEMENTED", K ".volume_mounts", "not supported"},
    {with_credentials, ERR_UNIMPLEMENTED, "NOT_IMPLEMENTED", K ".image_pull_credentials", "not supported"},
    {with_probe, ERR_UNIMPLEMENTED, "NOT_IMPLEMENTED", K ".startup_probe", "not supported"},
    {network_config, ERR_UNIMPLEMENTED, "NOT_IMPLEMENTED", "sandbox.spec.network_config_id", "not supported"},
    {secrets, ERR_PRECONDITION, "SECRET_STORE_NOT_PROVISIONED", NULL,
     "secret stores are not configured on this server: store 'team', secret 'KEY\\x0a'"},
    {empty_secrets, ERR_PRECONDITION, "SECRET_STORE_NOT_PROVISIONED", NULL, "store '', secret ''"},
    {bad_mode, ERR_INVALID, NULL, "sandbox.spec.mode", "3 is not a mode"},
    {negative_mode, ERR_INVALID, NULL, "sandbox.spec.mode", "-1 is not a mode"},
    {instance_type, ERR_PRECONDITION, "NO_SUITABLE_RUNNER", "sandbox.spec.instance_type", "no instance types"},
    {other_runtime, ERR_INVALID, NULL, "sandbox.spec.runtime_class", "'kata' is not known"},
    {gpu_runtime, ERR_PRECONDITION, "NO_SUITABLE_RUNNER", "sandbox.spec.runtime_class_selection",
     "default runtime class"},
    {other_runner, ERR_PRECONDITION, "NO_SUITABLE_RUNNER", "sandbox.spec.runner_ids", "none of the named runners"},
    {blank_runner, ERR_INVALID, NULL, "sandbox.spec.runner_ids", "empty"},
    {many_runners, ERR_INVALID, NULL, "sandbox.spec.runner_ids", "101 entries, the limit is 100"},
    {egress_rule, ERR_PRECONDITION, "PLACEMENT_CONSTRAINT_UNSATISFIED", NULL, "cannot limit outbound traffic by rules"},
    {egress_both, ERR_INVALID, NULL, "sandbox.spec.network.egress", "exclude each other"},
    {ingress_rule, ERR_UNIMPLEMENTED, "NOT_IMPLEMENTED", "sandbox.spec.network.ingress", "not supported"},
    {dns_mode, ERR_INVALID, NULL, "sandbox.spec.network.dns_egress", "3 is not a mode"},
    {dns_denied, ERR_PRECONDITION, "PLACEMENT_CONSTRAINT_UNSATISFIED", NULL, "use deny_egress"},
    {dns_only, ERR_PRECONDITION, "PLACEMENT_CONSTRAINT_UNSATISFIED", NULL, "cannot allow name resolution alone"},
    {privileged, ERR_INVALID, NULL, K ".security_context.privileged", "no privileged sandboxes"},
    {cap_add, ERR_INVALID, NULL, K ".security_context.capabilities_add", "'SYS_ADMIN'"},
    {cap_drop, ERR_UNIMPLEMENTED, "NOT_IMPLEMENTED", K ".security_context.capabilities_drop", "'ALL'"},
    {unconfined, ERR_INVALID, NULL, K ".security_context.seccomp_profile", "'Unconfined' is not offered"},
    {group_alone, ERR_INVALID, NULL, K ".security_context.run_as_group", "needs run_as_user"},
    {user_minus_one, ERR_INVALID, NULL, K ".security_context.run_as_user", "4294967295 is not a user id"},
    {group_minus_one, ERR_INVALID, NULL, K ".security_context.run_as_group", "4294967295 is not a group id"},
    {both_resources, ERR_INVALID, NULL, K ".resource_requirements", "excludes resources"},
    {bad_cpu, ERR_INVALID, NULL, K ".resource_requirements.limits.cpu", "'two' is not an amount of CPU"},
    {bad_memory, ERR_INVALID, NULL, K ".resource_requirements.requests.memory", "'1 GB' is not an amount of memory"},
    {zero_cpu, ERR_INVALID, NULL, K ".resource_requirements.limits.cpu", "'0' is not an amount"},
    {above_limit, ERR_INVALID, NULL, K ".resource_requirements", "CPU request is above its limit"},
    {memory_above_limit, ERR_INVALID, NULL, K ".resource_requirements", "memory request is above its limit"},
    {too_many_cores, ERR_PRECONDITION, "NO_SUITABLE_RUNNER", NULL,
     "4500 millicores of CPU are requested, this server has 4000"},
    {too_much_memory, ERR_PRECONDITION, "NO_SUITABLE_RUNNER", NULL, "this server has 8589934592"},
    {gpu, ERR_PRECONDITION, "NO_SUITABLE_RUNNER", NULL, "no GPUs"},
    {negative_gpu, ERR_INVALID, NULL, K ".resource_requirements", "GPU count of -1"},
    {relative_cwd, ERR_INVALID, NULL, K ".working_dir", "'srv' is not an absolute path"},
    {long_cwd, ERR_INVALID, NULL, K ".working_dir", "the limit is 4095"},
    {command_not_utf8, ERR_INVALID, NULL, K ".command", "not valid UTF-8"},
    {arg_not_utf8, ERR_INVALID, NULL, K ".args", "not valid UTF-8"},
    {negative_lifetime, ERR_INVALID, NULL, "sandbox.spec.max_lifetime_seconds", "-1 is negative"},
    {many_tags, ERR_INVALID, NULL, "sandbox.spec.tags", "65 entries, the limit is 64"},
    {long_tag, ERR_INVALID, NULL, "sandbox.spec.tags", "257 bytes long, the limit is 256"},
    {tag_not_utf8, ERR_INVALID, NULL, "sandbox.spec.tags", "not valid UTF-8"},
    {bad_annotation, ERR_INVALID, NULL, "sandbox.spec.annotations", "not valid UTF-8"},
    {long_request_id, ERR_INVALID, NULL, "request_id", "129 bytes long, the limit is 128"},
    {request_id_not_utf8, ERR_INVALID, NULL, "request_id", "not valid UTF-8"},
    {display_name, ERR_UNIMPLEMENTED, "NOT_IMPLEMENTED", "sandbox.display_name", "not supported"},
    {engine_control, ERR_UNIMPLEMENTED, "NOT_IMPLEMENTED", "sandbox.control", "server itself"},
    {huge_spec, ERR_INVALID, NULL, "sandbox.spec", "the limit is 1048576"},
};

static void what_cannot_be_honoured_is_refused_by_name(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        struct request q;
        struct rpc_call *c;
        const char *field;

        request_init(&q);
        refused[i].change(&q);
        c = request_send(&q);
        if (!c->finished || fake.creates != 0)
            fail_msg("row %zu (%s) was accepted", i, refused[i].says);
        if (strstr(c->err.msg, refused[i].says) == NULL || c->err.kind != refused[i].kind)
            fail_msg("row %zu: kind %d '%s', not kind %d '%s'", i, c->err.kind, c->err.msg, refused[i].kind,
                     refused[i].says);
        if (refused[i].reason != NULL)
            assert_string_equal(c->err.reason, refused[i].reason);
        else
            assert_null(c->err.reason);
        field = fake_meta(c, "field");
        if (refused[i].field != NULL && (field == NULL || strcmp(field, refused[i].field) != 0))
            fail_msg("row %zu: field '%s', not '%s'", i, field != NULL ? field : "(none)", refused[i].field);
        fake_call_free(c);
    }
}

ROW(plain, (void)q)
ROW(full_command, (q->container.command = bytes("/bin/sh"), q->texts[0] = bytes("-c"), q->texts[1] = bytes(""),
                   q->container.args = q->texts, q->container.n_args = 2, q->container.working_dir = bytes("/srv")))
ROW(variables, (q->entry.key = bytes("A"), q->entry.value = bytes("x=y"),
                q->container.environment_variables = q->entries, q->container.n_environment_variables = 1))
ROW(other_name, (q->container.name = bytes("web"), q->spec.primary_container = bytes("web")))
ROW(this_runner, (q->texts[0] = bytes("rn-0"), q->texts[1] = bytes("rn-1"), q->spec.runner_ids = q->texts,
                  q->spec.n_runner_ids = 2, q->spec.mode = 2))
ROW(runtime, (q->spec.runtime_class = bytes("silica"), q->spec.runtime_class_selection = 1))
ROW(no_egress, DENY(q, deny_egress, DENY_EGRESS, 1))
ROW(default_egress, DENY(q, deny_egress, DENY_EGRESS, 0))
ROW(no_ingress, DENY(q, deny_ingress, DENY_INGRESS, 1))
ROW(user_and_group, (SET(q, run_as_user, RUN_AS_USER, 1000), SET(q, run_as_group, RUN_AS_GROUP, 0)))
ROW(root_user, SET(q, run_as_user, RUN_AS_USER, 0))
ROW(locked_down, (SET(q, privileged, PRIVILEGED, 0), SET(q, allow_privilege_escalation, ALLOW_PRIVILEGE_ESCALATION, 0),
                  SET(q, read_only_root_filesystem, READ_ONLY_ROOT_FILESYSTEM, 1),
                  q->security.seccomp_profile = bytes("RuntimeDefault")))
ROW(may_escalate, SET(q, allow_privilege_escalation, ALLOW_PRIVILEGE_ESCALATION, 1))
ROW(old_resources,
    (q->container.resources = &q->resources, q->resources.cpu = bytes("2"), q->resources.memory = bytes("4Gi")))
ROW(no_gpus, (q->limits.gpu = &q->gpu, REQUIRE(q, limits, cpu, "1")))
ROW(small_request, REQUIRE(q, requests, memory, "256Mi"))
ROW(large_request, REQUIRE(q, requests, memory, "3Gi"))
ROW(lifetime, q->spec.max_lifetime_seconds = 60)
ROW(tags, (q->spec.tags = many(q, 64), q->spec.n_tags = 64, q->texts[0] = letters(CW_TAG_MAX)))

#define HEAD "tenant=default\ncreator=local\ndialect=cw_v1\nimage=python:3.11\n"
static const struct {
    void (*change)(struct request *q);
    const char *asks;
} accepted[] = {
    {plain, HEAD},
    {full_command, HEAD "command=/bin/sh\narg=-c\narg=\ncwd=/srv\n"},
    {variables, HEAD "env=A=x=y\n"},
    {other_name, HEAD},
    {this_runner, HEAD},
    {runtime, HEAD},
    {no_egress, HEAD "egress=1\n"},
    {default_egress, HEAD},
    {no_ingress, HEAD},
    {user_and_group, HEAD "user=1000:0\n"},
    {root_user, HEAD "user=0\n"},
    {locked_down, HEAD "readonly_root=1\nno_new_privs=1\n"},
    {may_escalate, HEAD},
    {old_resources, HEAD "memory=4294967296\ncpu=2000\n"},
    {no_gpus, HEAD "cpu=1000\n"},
    {small_request, HEAD},
    {large_request, HEAD "memory=3221225472\n"},
    {lifetime, HEAD "lifetime=60\n"},
};

static void what_is_accepted_is_honoured(void **state)
{
    for (size_t i = 0; i < ARRAY_LEN(accepted); i++) {
        struct box_info info = fake_box("sb-1", BOX_CREATING);
        struct request q;
        struct rpc_call *c;

        (void)fake_reset(state);
        request_init(&q);
        accepted[i].change(&q);
        c = request_send(&q);
        if (fake.creates != 1)
            fail_msg("row %zu was refused: %s", i, c->err.msg);
        assert_string_equal(fake.spec_text, accepted[i].asks);
        info.echo = fake.echo.data;
        info.echo_len = fake.echo.len;
        fake.op.box(c, NULL, &info);
        assert_int_equal(c->err.code, 0);
        fake_call_free(c);
    }
}

static void a_limit_itself_is_within_the_limit(void **state)
{
    struct box_info info = fake_box("sb-1", BOX_CREATING);
    struct request q;
    struct rpc_call *c;

    (void)state;
    request_init(&q);
    tags(&q);
    q.request_id = letters(CW_REQUEST_ID_MAX);
    c = request_send(&q);
    assert_int_equal(fake.creates, 1);
    fake.op.box(c, NULL, &info);
    fake_call_free(c);
}

static void a_spec_that_cannot_be_decoded_is_refused(void **state)
{
    /* CreateSandboxRequest{sandbox{spec}} with a spec that stops inside a field */
    static const uint8_t cut[] = {0x0a, 0x04, 0x12, 0x02, 0x0a, 0x7f};
    struct rpc_call *c = fake_call("CreateSandbox");

    (void)state;
    fake_say_bytes(c, cut, sizeof cut);
    assert_string_equal(c->err.msg, "sandbox.spec: cannot be decoded");
    assert_int_equal(c->err.kind, ERR_INVALID);
    fake_call_free(c);
}

static void an_empty_request_is_refused(void **state)
{
    struct rpc_call *c = fake_call("CreateSandbox");

    (void)state;
    fake_say_bytes(c, "", 0);
    assert_string_equal(c->err.msg, "sandbox.spec: missing");
    fake_call_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_cannot_be_honoured_is_refused_by_name, fake_reset, fake_clear),
        cmocka_unit_test_setup_teardown(what_is_accepted_is_honoured, fake_reset, fake_clear),
        cmocka_unit_test_setup_teardown(a_limit_itself_is_within_the_limit, fake_reset, fake_clear),
        cmocka_unit_test_setup_teardown(a_spec_that_cannot_be_decoded_is_refused, fake_reset, fake_clear),
        cmocka_unit_test_setup_teardown(an_empty_request_is_refused, fake_reset, fake_clear),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
