/* The processes silicad asked for, and their cgroups.
 *
 * A struct proc lives from clone until it is both reaped and forgotten: acknowledged by silicad, or of no interest to it
 * (it never reached exec, or belongs to a silicad that is gone). What silicad is to be told are marks in `todo`; the lists
 * sendq and entryq only say who has marks, so nothing is copied and nothing can be lost.. */
#include "init/init-internal.h"

#include <errno.h>
#include <sys/wait.h>

static unsigned bucket(uint64_t key)
{
    return (unsigned)(key % TABLE_BUCKETS);
}

struct proc *proc_find(struct init *in, uint64_t token)
{
    struct proc *p = in->by_token[bucket(token)];

    while (p != NULL && p->token != token)
        p = p->next_token;
    return p;
}

struct proc *proc_find_pid(struct init *in, int pid)
{
    struct proc *p = in->by_pid[bucket((unsigned)pid)];

    while (p != NULL && p->end.pid != pid)
        p = p->next_pid;
    return p;
}

void proc_insert(struct init *in, struct proc *p)
{
    p->next_token = in->by_token[bucket(p->token)];
    in->by_token[bucket(p->token)] = p;
    p->next_pid = in->by_pid[bucket((unsigned)p->end.pid)];
    in->by_pid[bucket((unsigned)p->end.pid)] = p;
    list_append(&in->procs, &p->all);
    in->proc_count++;
}

/* A reaped pid may be used again by the kernel. */
static void drop_pid(struct init *in, struct proc *p)
{
    struct proc **at = &in->by_pid[bucket((unsigned)p->end.pid)];

    while (*at != p)
        at = &(*at)->next_pid;
    *at = p->next_pid;
}

static void drop_token(struct init *in, struct proc *p)
{
    struct proc **at = &in->by_token[bucket(p->token)];

    while (*at != p)
        at = &(*at)->next_token;
    *at = p->next_token;
}

void proc_close_fds(struct proc *p)
{
    for (unsigned i = 0; i < p->nfds; i++)
        (void)close(p->fds[i]); /* pipes and ptys: nothing to be told */
    p->nfds = 0;
}

void proc_settle(struct init *in, struct proc *p)
{
    if (!p->reaped || !p->forgotten || p->todo != 0)
        return;
    drop_token(in, p);
    list_remove(&p->all);
    list_remove(&p->starting);
    list_remove(&p->sendq);
    list_remove(&p->entryq);
    proc_close_fds(p);
    in->proc_count--;
    bury(in, &p->status);
}

void proc_todo(struct init *in, struct proc *p, unsigned todo)
{
    p->todo |= todo;
    if (!list_has(&p->sendq))
        list_append(&in->sendq, &p->sendq);
}

void proc_forget(struct init *in, struct proc *p)
{
    p->forgotten = true;
    p->todo = 0;
    list_remove(&p->sendq);
    list_remove(&p->entryq);
    list_remove(&p->starting);
    unwatch(in, &p->status);
    proc_close_fds(p);
    proc_settle(in, p);
}

void proc_reaped(struct init *in, struct proc *p, int status, const struct rusage *used, uint64_t now_ns)
{
    p->reaped = true;
    drop_pid(in, p);
    cgroup_drop(in, p->token);

    p->end.end_ns = now_ns;
    p->end.cause = WIFSIGNALED(status) ? IN_C_SIGNALED : IN_C_EXITED;
    p->end.code = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
    p->end.core_dumped = WIFSIGNALED(status) && WCOREDUMP(status);
    p->end.utime_us = (uint64_t)used->ru_utime.tv_sec * 1000000 + (uint64_t)used->ru_utime.tv_usec;
    p->end.stime_us = (uint64_t)used->ru_stime.tv_sec * 1000000 + (uint64_t)used->ru_stime.tv_usec;
    p->end.maxrss_kib = (uint64_t)used->ru_maxrss;
    if (p->state == PROC_UP && !p->forgotten)
        proc_todo(in, p, TODO_EXITED);
    proc_settle(in, p);
}

/* ---- telling silicad ---------------------------------------------------------------------------------------------- */

static bool is_kept(const struct proc *p)
{
    return p->kind != IN_EXEC;
}

uint32_t proc_greet(struct init *in, uint64_t epoch, bool newer)
{
    uint32_t count = 0;

    for (struct link *l = in->procs.next, *next; next = l->next, l != &in->procs; l = next) {
        struct proc *p = container_of(l, struct proc, all);
        bool foreign = newer && p->epoch < epoch;

        if (p->forgotten)
            continue;
        /* A spawn nobody was answered about never happened; a foreground process ends with the client it was for. */
        if (foreign && (p->state != PROC_UP || (!is_kept(p) && !p->reaped))) {
            cgroup_kill(in, p->token);
            proc_forget(in, p);
            continue;
        }
        if (p->state != PROC_UP || (!is_kept(p) && !p->reaped))
            continue; /* this silicad knows: it spoke to us on another connection */
        /* It ended, of the hangup of its terminal perhaps, and nobody heard of it: what it left behind goes the same way. */
        if (foreign && !is_kept(p))
            cgroup_kill(in, p->token);
        p->todo = TODO_ENTRY;
        if (!list_has(&p->entryq))
            list_append(&in->entryq, &p->entryq);
        list_remove(&p->sendq);
        count++;
    }
    return count;
}

static int send_entry(struct init *in, struct proc *p)
{
    struct in_entry e = {p->kind, p->reaped ? IN_ENDED : IN_RUNNING, p->end.pid, p->flags};
    int r = control_send_fds(in, IN_ENTRY, p->token, &e, sizeof e, p->fds, p->nfds);

    /* The sandbox's user has too many fds in flight in its own sockets. Without fds silicad still learns that it runs. */
    if (r == -ETOOMANYREFS)
        r = control_send_fds(in, IN_ENTRY, p->token, &e, sizeof e, NULL, 0);
    return r;
}

int proc_flush_entries(struct init *in)
{
    while (!list_empty(&in->entryq)) {
        struct proc *p = container_of(in->entryq.next, struct proc, entryq);
        int r = send_entry(in, p);

        if (r < 0)
            return r;
        list_remove(&p->entryq);
        p->todo &= ~(unsigned)TODO_ENTRY;
        if (p->reaped)
            proc_todo(in, p, TODO_EXITED);
    }
    return 0;
}

static int send_spawned(struct init *in, struct proc *p)
{
    struct in_spawned s = {.pid = p->end.pid};
    int r = control_send_fds(in, IN_SPAWNED, p->token, &s, sizeof s, p->fds, p->nfds);

    if (r == 0) {
        p->todo &= ~(unsigned)TODO_SPAWNED;
        if (!is_kept(p))
            proc_close_fds(p);
    }
    if (r == -ETOOMANYREFS) { /* nobody could read what it writes */
        cgroup_kill(in, p->token);
        p->state = PROC_FAILED;
        p->fail_code = -ETOOMANYREFS;
        p->fail_stage = IN_ST_LIMIT;
        p->todo = TODO_FAILED;
        r = 0;
    }
    return r;
}

static int send_marks(struct init *in, struct proc *p)
{
    int r = 0;

    if ((p->todo & TODO_SPAWNED) != 0)
        r = send_spawned(in, p);
    if (r == 0 && (p->todo & TODO_FAILED) != 0) {
        r = control_send_failed(in, p->token, p->fail_code, p->fail_stage);
        if (r == 0) {
            p->todo = 0;
            p->forgotten = true;
            proc_close_fds(p);
        }
    }
    if (r == 0 && (p->todo & TODO_EXITED) != 0) {
        r = control_send_fds(in, IN_EXITED, p->token, &p->end, sizeof p->end, NULL, 0);
        if (r == 0)
            p->todo &= ~(unsigned)TODO_EXITED;
    }
    return r;
}

int proc_flush(struct init *in)
{
    while (!list_empty(&in->sendq)) {
        struct proc *p = container_of(in->sendq.next, struct proc, sendq);
        int r = send_marks(in, p);

        if (r < 0)
            return r;
        list_remove(&p->sendq);
        proc_settle(in, p);
    }
    return 0;
}
