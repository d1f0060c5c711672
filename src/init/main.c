/* silica-init: PID 1 of one sandbox. See init-internal.h for the rules and wire/in.h for what it is asked. */
#include "init/init-internal.h"

#include <stdlib.h>
#include <sys/epoll.h>

#include "base/clock.h"

uint64_t now_ms(void)
{
    return clock_mono() / NSEC_PER_MSEC;
}

int watch(struct init *in, struct source *s, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = s};

    return epoll_ctl(in->epoll, EPOLL_CTL_ADD, s->fd, &ev);
}

void unwatch(struct init *in, struct source *s)
{
    if (s->fd < 0)
        return;
    (void)epoll_ctl(in->epoll, EPOLL_CTL_DEL, s->fd, NULL); /* may never have been added */
    (void)close(s->fd);
    s->fd = -1;
}

void bury(struct init *in, struct source *s)
{
    unwatch(in, s);
    s->dead = true;
    s->next_grave = in->graves;
    in->graves = s;
}

static void free_graves(struct init *in)
{
    while (in->graves != NULL) {
        struct source *s = in->graves;

        in->graves = s->next_grave;
        free(s);
    }
}

/* Milliseconds until something has to be looked at without an event, -1 = never. */
static int next_timeout(const struct init *in, uint64_t now)
{
    uint64_t first = UINT64_MAX;

    if (in->reap_more)
        return 0;
    if (in->retry_at != 0)
        first = in->retry_at;
    if (!list_empty(&in->starting)) {
        const struct proc *p = container_of(in->starting.next, struct proc, starting);

        if (p->deadline < first)
            first = p->deadline;
    }
    for (const struct link *l = in->helpers.next; l != &in->helpers; l = l->next) {
        const struct helper *h = container_of(l, struct helper, all);

        if (h->deadline != 0 && h->deadline < first)
            first = h->deadline;
    }
    if (first == UINT64_MAX)
        return -1;
    return first > now ? (int)(first - now) : 0;
}

static void turn(struct init *in)
{
    struct epoll_event ev[32];
    uint64_t now = now_ms();
    int n = epoll_wait(in->epoll, ev, ARRAY_LEN(ev), next_timeout(in, now));

    for (int i = 0; i < n; i++) {
        struct source *s = ev[i].data.ptr;

        if (!s->dead && s->fd >= 0)
            s->ready(in, s, ev[i].events);
    }
    now = now_ms();
    if (in->reap_more)
        reap_children(in);
    spawn_expire(in, now);
    helper_expire(in, now);
    if (in->retry_at == 0 || in->retry_at <= now)
        control_flush(in);
    free_graves(in);
}

int main(void)
{
    static struct init in;

    setup(&in);
    for (;;)
        turn(&in);
}
