/* How long the scheduler lets a task run before another may: EEVDF's slice (Linux 6.12; before that the request changes nothing).
 *
 * A short slice is not more of the processor: it is an earlier turn. What works in short bursts for somebody who waits asks for
 * one, so that a create does not queue behind each compiler of a busy host at each of its steps. Children inherit it: whoever
 * starts a program of somebody else gives it up there. Async-signal-safe. */
#pragma once

#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SLICE_SHORT_NS 100000u /* the shortest there is */

/* As in the kernel; libc has none. */
struct slice_attr {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
};

/* NS 0: the host's own. Another scheduling class than the ordinary one is somebody's decision and stays as it is. */
static inline void slice_ask(uint64_t ns)
{
    struct slice_attr a = {.size = sizeof a};

    if (syscall(SYS_sched_getattr, 0, &a, sizeof a, 0) != 0 || a.policy != 0)
        return;
    a.size = sizeof a;
    a.flags = 0;
    a.runtime = ns;
    (void)syscall(SYS_sched_setattr, 0, &a, 0); /* refused: it takes its turn with the others */
}
