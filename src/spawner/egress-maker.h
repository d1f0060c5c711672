/* A child of the spawner that makes network namespaces for the pools: making one waits for locks that the whole host's networks
 * share, while the spawner's loop must not wait for anything.
 *
 * Nothing depends on it: where it is missing, the spawner makes them itself. */
#pragma once

#include "spawner/egress-internal.h"

enum { MAKER_DUE_MAX = 2 * NETNS_POOL };

/* MAKE runs in the child for each maker_ask(): N has its driver and its lease. PREPARE, once and first of all, opens there what
 * MAKE needs; all other descriptors but KEEP are closed before it. */
int maker_start(void (*prepare)(void), int (*make)(struct netns *n, struct err *e), int keep, struct err *e);
bool maker_runs(void);
/* False when it takes no more now. */
bool maker_ask(enum sp_egress driver, uint32_t lease);
/* 1: *N has come. 0: nothing yet (never with WAIT). Negative: N's driver and lease say which could not be made, or
 * (maker_runs() says so) the child is dead and nothing comes any more. */
int maker_receive(struct netns *n, bool wait, struct err *e);
/* Ends it, once it has finished what it does. */
void maker_stop(void);
