/* What the daemon gives up once its listeners, its database and its link to the spawner are open. */
#pragma once

#include "base/err.h"

/* Refuses to run with privileges, sets no_new_privs, makes the process undumpable (its memory may hold what clients
 * send) and installs a seccomp allow-list: no exec, no new namespaces, no mounts, no ptrace, no raw sockets. */
int confine(struct err *e);
