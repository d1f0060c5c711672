/* CWSandbox v1 (package coreweave.sandbox.v1): what the published `cwsandbox` clients speak.
 *
 * A codec: it checks and decodes requests, calls engine/engine.h, encodes answers. It owns no process, file or timer of a
 * sandbox. docs/dialects/cwsandbox-v1.md lists every method and every field of CreateSandbox with what becomes of it.
 * Loop thread only. */
#pragma once

#include "engine/engine.h"
#include "rpc/rpc.h"

struct cw_v1;

enum { CW_V1_SERVICES_MAX = 1 };

/* ENGINE must outlive *RET. */
int cw_v1_new(struct engine *engine, struct cw_v1 **ret, struct err *e);
/* For rpc_server_new(): fills RET, returns how many. They belong to D. */
unsigned cw_v1_services(const struct cw_v1 *d, const struct rpc_service *ret[CW_V1_SERVICES_MAX]);
/* After the RPC server is gone. NULL is fine. */
void cw_v1_free(struct cw_v1 *d);
