/* What proc.c and proc-main.c share. */
#pragma once

#include "engine/engine-internal.h"

/* Where a process that came with an entry of the table continues. FDS are taken. */
void main_adopt(struct proc *p, const struct in_entry *en, int *fds, unsigned nfds);
/* A process that exists already. NULL when memory is short. */
struct proc *proc_known(struct box *b, uint64_t token, enum in_kind kind, const struct proc_ops *ops);
/* Sorts FDS, which fit FLAGS (enum in_spawn_flags), into stdin, stdout or master, stderr; -1 where absent. */
void proc_take_fds(uint32_t flags, int *fds, int out[3]);
/* From an exit to what callers get. X NULL: unknown. */
void proc_result(const struct proc *p, const struct in_exited *x, struct exec_result *ret);
