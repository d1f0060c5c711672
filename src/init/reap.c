/* Ends: of the processes silicad asked for, of init's helpers, and of every orphan of the sandbox. And ends on request. */
#include "init/init-internal.h"

#include <errno.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#include "base/clock.h"

void reap_ready(struct init *in, struct source *s, uint32_t events)
{
    struct signalfd_siginfo info[8];

    (void)events;
    (void)!read(s->fd, info, sizeof info); /* SIGCHLD says "some", so who they are does not matter */
    in->reap_more = true;
}

/* A flood of orphans is worked off in portions, with a look at the control socket between them. */
void reap_children(struct init *in)
{
    uint64_t now = clock_wall();

    for (int i = 0; i < REAP_PER_TURN; i++) {
        struct rusage used;
        struct proc *p;
        struct helper *h;
        int status, pid = wait4(-1, &status, WNOHANG, &used);

        if (pid <= 0) {
            in->reap_more = false;
            return;
        }
        p = proc_find_pid(in, pid);
        if (p != NULL) {
            proc_reaped(in, p, status, &used, now);
            continue;
        }
        h = helper_find_pid(in, pid);
        if (h != NULL)
            helper_reaped(in, h);
    }
}

void kill_request(struct init *in, const struct wire_msg *m)
{
    const struct in_kill *k = m->body;
    struct proc *p = proc_find(in, m->head->token);
    struct in_ok ok = {0};

    if (k->tree > 1 || (k->tree == 0 && (k->signal < 1 || k->signal >= NSIG))) {
        control_refuse(in, m->head->token, -EINVAL, IN_ST_OTHER, "a signal is a number from 1 to 64");
        return;
    }
    if (k->tree == 1) {
        cgroup_kill(in, m->head->token); /* also after the process's own end, while descendants live */
    } else if (p != NULL && !p->reaped) {
        /* Not reaped: neither its pid nor its group can belong to anybody else. Before setsid there is no group yet. */
        if (kill(-p->end.pid, (int)k->signal) < 0 && errno == ESRCH)
            (void)kill(p->end.pid, (int)k->signal); /* a zombie takes it as well */
    }
    control_answer(in, IN_OK, m->head->token, &ok, sizeof ok);
}
