/* The table of methods: everything that published clients can call. An entry without a handler is not built; the RPC layer
 * answers UNIMPLEMENTED for it, as for a path that is not here. */
#include "api/cw_v1/cw-internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/fd.h"

#define SANDBOX_SERVICE "/coreweave.sandbox.v1.SandboxService/"
#define DISCOVERY_SERVICE "/coreweave.sandbox.v1.DiscoveryService/"
#define SETTINGS_SERVICE "/coreweave.sandbox.v1.SettingsService/"
#define TEMPLATE_SERVICE "/coreweave.sandbox.v1.SandboxTemplateService/"
#define VOLUME_SERVICE "/coreweave.sandbox.v1.VolumeService/"
#define DATA_PLANE_SERVICE "/coreweave.sandbox.v1.SandboxDataPlaneService/"
#define IN(name) &coreweave__sandbox__v1__##name##__descriptor

const struct rpc_method cw_methods[] = {
    {.path = SANDBOX_SERVICE "CreateSandbox",
     .flags = RPC_MUTATES,
     .in = IN(create_sandbox_request),
     .message = cw_create_sandbox,
     .gone = cw_op_gone},
    {.path = SANDBOX_SERVICE "GetSandbox", .in = IN(get_sandbox_request), .message = cw_get_sandbox},
    {.path = SANDBOX_SERVICE "ListSandboxes", .in = IN(list_sandboxes_request), .message = cw_list_sandboxes},
    {.path = SANDBOX_SERVICE "DeleteSandbox",
     .flags = RPC_MUTATES,
     .in = IN(delete_sandbox_request),
     .message = cw_delete_sandbox,
     .gone = cw_op_gone},
    {.path = SANDBOX_SERVICE "Exec",
     .flags = RPC_MUTATES,
     .in = IN(exec_request),
     .message = cw_exec,
     .gone = cw_exec_gone},
    {.path = SANDBOX_SERVICE "StreamExec",
     .flags = RPC_MUTATES | RPC_CLIENT_STREAM | RPC_SERVER_STREAM,
     .in = IN(exec_stream_request),
     .open = cw_stream_exec_open,
     .message = cw_stream_exec,
     .half_close = cw_stream_exec_half_close,
     .writable = cw_stream_exec_writable,
     .gone = cw_stream_exec_gone},
    {.path = SANDBOX_SERVICE "StreamLogs",
     .flags = RPC_SERVER_STREAM,
     .in = IN(stream_logs_request),
     .message = cw_stream_logs,
     .writable = cw_stream_logs_writable,
     .gone = cw_stream_logs_gone},
    {.path = SANDBOX_SERVICE "WriteFile",
     .flags = RPC_MUTATES,
     .in = IN(write_file_request),
     .in_max = RPC_MSG_MAX,
     .message = cw_write_file,
     .gone = cw_op_gone},
    {.path = SANDBOX_SERVICE "ReadFile", .in = IN(read_file_request), .message = cw_read_file, .gone = cw_op_gone},
    {.path = DISCOVERY_SERVICE "ListAvailableRunners",
     .in = IN(list_available_runners_request),
     .message = cw_list_runners},
    {.path = DISCOVERY_SERVICE "GetAvailableRunner", .in = IN(get_available_runner_request), .message = cw_get_runner},

    /* Not built. */
    {.path = SANDBOX_SERVICE "CreateSandboxFromTemplate"},
    {.path = SANDBOX_SERVICE "CreateSandboxFromFile"},
    {.path = SANDBOX_SERVICE "GetSandboxBuildLogs"},
    {.path = SANDBOX_SERVICE "PurgeSandboxes"},
    {.path = SANDBOX_SERVICE "ConnectSandbox"}, /* clients then come through this endpoint, for 30 s at a time */
    {.path = SANDBOX_SERVICE "CreateFileSystemSnapshot"},
    {.path = SANDBOX_SERVICE "GetFileSystemSnapshot"},
    {.path = SANDBOX_SERVICE "ListFileSystemSnapshots"},
    {.path = SANDBOX_SERVICE "DeleteFileSystemSnapshot"},
    {.path = DATA_PLANE_SERVICE "Exec"},
    {.path = DATA_PLANE_SERVICE "StreamExec"},
    {.path = DATA_PLANE_SERVICE "StreamLogs"},
    {.path = DATA_PLANE_SERVICE "WriteFile"},
    {.path = DATA_PLANE_SERVICE "ReadFile"},
    {.path = SETTINGS_SERVICE "GetObjectStorageWifConfig"},
    {.path = SETTINGS_SERVICE "UpdateObjectStorageWifConfig"},
    {.path = SETTINGS_SERVICE "DeleteObjectStorageWifConfig"},
    {.path = SETTINGS_SERVICE "GetFileSystemSnapshotBucketConfig"},
    {.path = SETTINGS_SERVICE "UpdateFileSystemSnapshotBucketConfig"},
    {.path = SETTINGS_SERVICE "GetBuildStorageConfig"},
    {.path = SETTINGS_SERVICE "UpdateBuildStorageConfig"},
    {.path = SETTINGS_SERVICE "CreateSecretStore"},
    {.path = SETTINGS_SERVICE "GetSecretStore"},
    {.path = SETTINGS_SERVICE "ListSecretStores"},
    {.path = SETTINGS_SERVICE "UpdateSecretStore"},
    {.path = SETTINGS_SERVICE "DeleteSecretStore"},
    {.path = TEMPLATE_SERVICE "CreateSandboxTemplate"},
    {.path = TEMPLATE_SERVICE "GetSandboxTemplate"},
    {.path = TEMPLATE_SERVICE "ListSandboxTemplates"},
    {.path = TEMPLATE_SERVICE "UpdateSandboxTemplate"},
    {.path = TEMPLATE_SERVICE "DeleteSandboxTemplate"},
    {.path = VOLUME_SERVICE "CreateVolume"},
    {.path = VOLUME_SERVICE "GetVolume"},
    {.path = VOLUME_SERVICE "ListVolumes"},
    {.path = VOLUME_SERVICE "UpdateVolume"},
    {.path = VOLUME_SERVICE "DeleteVolume"},
    {.path = VOLUME_SERVICE "ValidateVolume"},
};
const unsigned cw_method_count = ARRAY_LEN(cw_methods);

int cw_v1_new(struct engine *engine, struct cw_v1 **ret, struct err *e)
{
    struct cw_v1 *d = calloc(1, sizeof *d);

    if (d == NULL)
        return err_set(e, ENOMEM, "CWSandbox dialect: %m");
    d->engine = engine;
    d->service = (struct rpc_service){
        .methods = cw_methods,
        .count = cw_method_count,
        .data = d,
        .error_domain = "cwsandbox.com",
        .reason_prefix = "CWSANDBOX_",
    };
    *ret = d;
    return 0;
}

unsigned cw_v1_services(const struct cw_v1 *d, const struct rpc_service *ret[CW_V1_SERVICES_MAX])
{
    ret[0] = &d->service;
    return 1;
}

void cw_v1_free(struct cw_v1 *d)
{
    free(d);
}
