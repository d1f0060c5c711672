/* Short names for the generated messages of proto/cw_v1_*.proto. */
#pragma once

#include "cw_v1_discovery.pb-c.h"
#include "cw_v1_sandbox.pb-c.h"

#define CW_MSG(name) typedef Coreweave__Sandbox__V1__##name Cw##name

CW_MSG(AvailableRunner);
CW_MSG(Container);
CW_MSG(ContainerStatus);
CW_MSG(CreateSandboxRequest);
CW_MSG(DeleteSandboxRequest);
CW_MSG(DeleteSandboxResponse);
CW_MSG(EgressRule);
CW_MSG(ExecRequest);
CW_MSG(ExecResponse);
CW_MSG(ExecStreamExit);
CW_MSG(ExecStreamInit);
CW_MSG(ExecStreamReady);
CW_MSG(ExecStreamRequest);
CW_MSG(ExecStreamResize);
CW_MSG(ExecStreamResponse);
CW_MSG(GetAvailableRunnerRequest);
CW_MSG(GetSandboxRequest);
CW_MSG(ListAvailableRunnersRequest);
CW_MSG(ListAvailableRunnersResponse);
CW_MSG(ListSandboxesRequest);
CW_MSG(ListSandboxesResponse);
CW_MSG(LogEntry);
CW_MSG(LogStreamError);
CW_MSG(NetworkOptions);
CW_MSG(ReadFileRequest);
CW_MSG(ReadFileResponse);
CW_MSG(ResourceRequirements);
CW_MSG(Resources);
CW_MSG(RunnerCapabilitySummary);
CW_MSG(RunnerResourceSummary);
CW_MSG(Sandbox);
CW_MSG(SandboxSpec);
CW_MSG(SandboxStatus);
CW_MSG(SecretStoreReference);
CW_MSG(SecurityContext);
CW_MSG(State);
CW_MSG(StreamLogsRequest);
CW_MSG(StringEntry);
CW_MSG(WriteFileRequest);
CW_MSG(WriteFileResponse);
typedef Google__Protobuf__Timestamp CwTimestamp;

#define CW_INIT(NAME) COREWEAVE__SANDBOX__V1__##NAME##__INIT
#define CW_STATE(NAME) COREWEAVE__SANDBOX__V1__STATE__STATE_##NAME
#define CW_TIMESTAMP_INIT GOOGLE__PROTOBUF__TIMESTAMP__INIT
