/* Timers: a binary heap of pointers, ordered by due time. */
#include "loop/loop-internal.h"

#include <errno.h>
#include <stdlib.h>

static void place(struct loop *loop, size_t at, struct timer *t)
{
    loop->heap[at] = t;
    t->slot = at + 1;
}

static void sift_up(struct loop *loop, size_t at)
{
    struct timer *t = loop->heap[at];

    while (at > 0 && loop->heap[(at - 1) / 2]->due > t->due) {
        place(loop, at, loop->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    place(loop, at, t);
}

static void sift_down(struct loop *loop, size_t at)
{
    struct timer *t = loop->heap[at];

    for (;;) {
        size_t kid = 2 * at + 1;

        if (kid >= loop->heap_len)
            break;
        if (kid + 1 < loop->heap_len && loop->heap[kid + 1]->due < loop->heap[kid]->due)
            kid++;
        if (loop->heap[kid]->due >= t->due)
            break;
        place(loop, at, loop->heap[kid]);
        at = kid;
    }
    place(loop, at, t);
}

int timer_start(struct loop *loop, struct timer *t, uint64_t ns, void (*cb)(struct timer *t))
{
    timer_stop(t);
    if (loop->heap_len == loop->heap_cap) {
        size_t cap = loop->heap_cap != 0 ? loop->heap_cap * 2 : 64;
        struct timer **heap = realloc(loop->heap, cap * sizeof *heap);

        if (heap == NULL)
            return -ENOMEM;
        loop->heap = heap;
        loop->heap_cap = cap;
    }
    t->loop = loop;
    t->cb = cb;
    t->due = ns > UINT64_MAX - loop->now ? UINT64_MAX : loop->now + ns;
    loop->heap[loop->heap_len] = t;
    sift_up(loop, loop->heap_len++);
    return 0;
}

void timer_stop(struct timer *t)
{
    struct loop *loop = t->loop;
    size_t at;

    if (t->slot == 0)
        return;
    at = t->slot - 1;
    t->slot = 0;
    loop->heap_len--;
    if (at == loop->heap_len)
        return;
    place(loop, at, loop->heap[loop->heap_len]);
    sift_down(loop, at);
    sift_up(loop, loop->heap[at]->slot - 1);
}

uint64_t timers_wait(struct loop *loop)
{
    if (loop->heap_len == 0)
        return UINT64_MAX;
    return loop->heap[0]->due > loop->now ? loop->heap[0]->due - loop->now : 0;
}

void timers_run(struct loop *loop)
{
    uint64_t now = loop->now;

    /* `now` is fixed: a timer that restarts itself with 0 runs again in the next turn. */
    for (size_t budget = loop->heap_len; budget > 0 && loop->heap_len > 0 && loop->heap[0]->due <= now; budget--) {
        struct timer *t = loop->heap[0];

        timer_stop(t);
        t->cb(t);
    }
}
