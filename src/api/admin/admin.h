/* The admin API: what `silica` needs beyond the dialects, JSON over HTTP below /admin/v1.
 *
 *   GET    /healthz                               "ok" while the loop turns
 *   GET    /admin/v1/version                      version, runner, features, capacity
 *   GET    /admin/v1/images                       list
 *   PUT    /admin/v1/images?name=N                {"layers": [digest...], "config": {env, entrypoint, cmd, workdir, user}}
 *   DELETE /admin/v1/images?name=N
 *   POST   /admin/v1/layers                       body: a tar, plain or compressed; answers {"digest", "bytes", "notes"}
 *   GET    /admin/v1/sandboxes?all=1&after=ID     list, in order of id
 *   GET    /admin/v1/sandboxes/ID
 *   GET    /admin/v1/sandboxes/ID/env             every variable with the level that decided and what it shadows
 *   POST   /admin/v1/sandboxes/ID/stop?grace=S
 *   DELETE /admin/v1/sandboxes/ID?force=1
 *
 * A request that a browser could have been tricked into (one with an Origin header, or whose Host is neither an address
 * nor localhost) is refused. Loop thread only. */
#pragma once

#include "engine/engine.h"
#include "net/http.h"

enum { ADMIN_BODY_MAX = 4 << 20 }; /* JSON bodies; a layer's body is bounded by the imager */

struct admin;

int admin_new(struct engine *en, struct admin **ret, struct err *e);
void admin_free(struct admin *a);
/* To be put into a server's table: handlers with data = A. *RET_COUNT routes, alive as long as A. */
const struct http_route *admin_routes(const struct admin *a, unsigned *ret_count);
