/* The firewall side of the nat driver: one nftables table for this spawner, and what it takes to be forwarded at all. */
#pragma once

#include <stdbool.h>

#include "base/err.h"

/* Interfaces of ours are called PREFIX*. Makes the table (replacing one a dead spawner of the same tag left) and turns on
 * IPv4 forwarding when it is off. On a host that drops forwarded packets by default (Docker's FORWARD chain), an accept rule
 * for our interfaces is put in front of that chain. */
int nat_rules_init(const char *tag, const char *prefix, struct err *e);
/* Takes back all of it, unless KEEP: then only what this process holds is freed. */
void nat_rules_fini(bool keep);
