/* Children of the spawner that do what takes milliseconds, so that the spawner's loop does not: they make writable layers
 * for the pool, and close the last descriptor of a mount (the kernel then waits for a grace period).
 *
 * Nothing depends on it: where it is missing or busy, the spawner does the same itself. */
#pragma once

#include <stdbool.h>

#include "spawner/drivers.h"

enum { KEEPER_KEEP_MAX = 8 };
/* MAKE runs in a child, once for each keeper_ask(). KEEP: the descriptors that it needs; the children close all others. */
int keeper_start(int (*make)(struct layer *l, uint64_t bytes, struct err *e), const int *keep, unsigned count,
                 struct err *e);
bool keeper_runs(void);
/* Asks for one more layer of BYTES; false when the keeper takes no more now. */
bool keeper_ask(uint64_t bytes);
/* How many were asked for and have not come. */
unsigned keeper_due(void);
/* 1: *L has come; 0: nothing yet (never with WAIT); negative: one of L->bytes could not be made, or (keeper_runs() says so)
 * the keeper is dead and nothing comes any more. */
int keeper_receive(struct layer *l, bool wait, struct err *e);
/* Closes *FD; not here if possible. */
void keeper_discard(int *fd);
/* Ends them and waits until they have finished what they were given. */
void keeper_stop(void);
