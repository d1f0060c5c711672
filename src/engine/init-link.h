/* What the files around proc.c need of init-link.c beyond engine-internal.h. */
#pragma once

#include <assert.h>

#include "engine/engine-internal.h"

enum {
    INIT_ASKS_MAX = 8192,   /* questions without an answer, of one sandbox */
    INIT_UNSENT_MAX = 4096, /* messages that wait for room in its socket */
    INIT_UNSENT_BYTES = 16 << 20,
};

/* A token for a process: unique for the life of the sandbox, because the epoch is its upper half. */
uint64_t init_token(struct init_link *l);
/* Why things end that were under way in B: its reason as ERR_CANCELLED, ERR_UNAVAILABLE when only the daemon stops. */
void box_end_error(const struct box *b, struct err *e);
