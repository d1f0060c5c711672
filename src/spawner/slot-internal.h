#pragma once

#include "spawner/drivers.h"

#define SLOT_LOCK_FILE "/run/silica-slots"

/* Gives the slot's mount a place in the spawner's mount namespace: RUN_DIR/slots/<index>. */
int slot_park(struct slot *s, const char *run_dir, struct err *e);
