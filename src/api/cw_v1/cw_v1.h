/* The CWSandbox v1 dialect: gRPC package coreweave.sandbox.v1 as a codec over the engine. Loop thread only. */
#pragma once

#include "engine/engine.h"
#include "rpc/rpc.h"

enum { CW_V1_SERVICES_MAX = 8 };

struct cw_v1;

int cw_v1_new(struct engine *en, struct cw_v1 **ret, struct err *e);
void cw_v1_free(struct cw_v1 *d); /* NULL is fine */
/* Fills OUT (room for CW_V1_SERVICES_MAX) with services that live as long as D; returns how many. */
unsigned cw_v1_services(struct cw_v1 *d, const struct rpc_service **out);
