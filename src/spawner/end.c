/* The end of a sandbox, whatever ended it: kill, wait until nothing of it runs, release, tell.
 *
 *   box_end()        everything in its cgroup is killed
 *   box_reaped()     init is dead (SIGCHLD, or its pidfd when it is not our child)
 *   cgroup event     the cgroup is empty
 *   release_one()    one sandbox a turn of the loop: an unmount may take a millisecond, and creations must not wait for
 *                    a thousand of them
 *   SP_GONE          only now; kept until silicad forgets it */
#include "spawner/spawner.h"

#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>

#include "base/clock.h"

enum { REMOVE_RETRY_MS = 20 };

static void continue_end(struct box *box);

static void stop_io(struct io *io)
{
    int fd = io->fd;

    if (!io->active)
        return;
    io_stop(io);
    fd_close(fd);
}

static void late(struct timer *t)
{
    struct box *box = container_of(t, struct box, timer);

    log_warn(box->id, "not dead %d s after it was killed: a process of it hangs in the kernel; waiting", END_WARN_S);
}

/* Reading the file is what re-arms the event. */
static void cgroup_event(struct io *io, uint32_t events)
{
    struct box *box = container_of(io, struct box, cg_io);
    char buf[256];

    (void)events;
    (void)!pread(io->fd, buf, sizeof buf, 0);
    continue_end(box);
}

static int watch_cgroup(struct box *box, struct err *e)
{
    int fd, r;
    char buf[256];

    if (box->cg_io.active)
        return 0;
    if (cg_events_fd(box->id, &fd, e) < 0)
        return e->code;
    (void)!pread(fd, buf, sizeof buf, 0);
    r = io_start(box->sp->loop, &box->cg_io, fd, EPOLLPRI, cgroup_event);
    if (r < 0) {
        fd_close(fd);
        return err_set(e, r, "watch the control group: %m");
    }
    return 0;
}

static void release_retry(struct timer *t)
{
    struct box *box = container_of(t, struct box, timer);

    continue_end(box);
}

/* Gives back everything; false: the cgroup is still busy, which only a kernel that is late with its bookkeeping answers. */
static bool release(struct box *box)
{
    struct spawner *sp = box->sp;
    struct sp_stats stats = {0};
    struct err e = {0};
    char name[SP_ID_MAX + 8];

    if (box->has_cgroup) {
        if (cg_stats(box->id, &stats, &e) == 0) {
            box->oom_kills = stats.oom_kills;
            box->cpu_us = stats.cpu_us;
            box->memory_peak = stats.memory_peak;
        }
        e = (struct err){0};
        if (cg_remove(box->id, &e) < 0) {
            if (e.code == -EBUSY)
                return false;
            log_warn(box->id, "its control group stays: %s", e.msg);
        }
        box->has_cgroup = false;
    }
    if (box->layer.driver != SP_W_AUTO)
        layer_release(&box->layer);
    box->layer = (struct layer){.dir_fd = -1};
    if (box->has_egress)
        netns_release(box->egress, box->lease);
    box->has_egress = false;
    if (box->slot >= 0)
        slot_release(box->slot);
    box->slot = -1;
    (void)snprintf(name, sizeof name, "%s.sock", box->id);
    (void)unlinkat(sp->box_fd, name, 0); /* ENOENT when the creation never got there */
    return true;
}

static void gone(struct box *box)
{
    struct spawner *sp = box->sp;
    struct err e = {0};

    stop_io(&box->cg_io);
    stop_io(&box->pid_io);
    timer_stop(&box->timer);
    if (box->creation != NULL) {
        if (box->pid != 0)
            (void)box_record(box, TABLE_FORGOTTEN,
                             &e); /* else the next spawner finds a dead pid, and cleans what is clean */
        create_failed(box);
        box_free(box);
        return;
    }
    if (!box->adopt_due)
        fd_closep(&box->control);
    box_drop_layers(box);
    box->state = BOX_GONE;
    sp->gone++;
    if (box_record(box, TABLE_GONE, &e) < 0)
        log_warn(box->id, "%s", e.msg);
    log_info(box->id, "sandbox gone");
    link_tell(box);
}

static void release_some(struct defer *d)
{
    struct spawner *sp = container_of(d, struct spawner, release);
    struct box *box = TAILQ_FIRST(&sp->releasing);

    if (box != NULL) {
        TAILQ_REMOVE(&sp->releasing, box, releasing);
        box->is_releasing = false;
        if (release(box))
            gone(box);
        else
            (void)timer_start(sp->loop, &box->timer, REMOVE_RETRY_MS * NSEC_PER_MSEC, release_retry);
    }
    if (!TAILQ_EMPTY(&sp->releasing))
        defer_start(sp->loop, d, release_some);
    supervisor_progress(sp);
    supervisor_idle(sp);
}

static bool still_populated(struct box *box)
{
    struct err e = {0};
    bool populated = false;

    if (!box->has_cgroup)
        return false;
    if (cg_populated(box->id, &populated, &e) < 0)
        return false; /* there is no such cgroup (any more) */
    if (populated && watch_cgroup(box, &e) < 0) {
        log_warn(box->id, "%s", e.msg);
        (void)timer_start(box->sp->loop, &box->timer, REMOVE_RETRY_MS * NSEC_PER_MSEC, release_retry);
    }
    /* Between the first look and the watch it may have become empty. */
    return populated && (cg_populated(box->id, &populated, &e) < 0 || populated);
}

static void continue_end(struct box *box)
{
    if (box->state != BOX_ENDING || box->is_releasing || !box->reaped || still_populated(box))
        return;
    stop_io(&box->cg_io);
    timer_stop(&box->timer);
    box->is_releasing = true;
    TAILQ_INSERT_TAIL(&box->sp->releasing, box, releasing);
    defer_start(box->sp->loop, &box->sp->release, release_some);
}

/* Beside the cgroup's kill, which misses a process that has not entered it yet. The pid of a child is not reused before it
 * is reaped; any other process is named by its pidfd. */
static void kill_init(struct box *box)
{
    if (box->child && box->pid > 0)
        (void)kill(box->pid, SIGKILL);
    else if (box->pid_io.active)
        (void)syscall(SYS_pidfd_send_signal, box->pid_io.fd, SIGKILL, NULL, 0);
}

void box_end(struct box *box)
{
    struct err e = {0};

    if (box->state == BOX_GONE || box->is_releasing)
        return;
    if (box->state != BOX_ENDING) {
        box->state = BOX_ENDING;
        if (box->pid == 0)
            box->reaped = true;
        (void)timer_start(box->sp->loop, &box->timer, END_WARN_S * NSEC_PER_SEC, late);
    }
    if (box->has_cgroup && cg_kill(box->id, &e) < 0 && box->pid > 0 && e.code != -ENOENT)
        log_warn(box->id, "%s", e.msg);
    if (!box->reaped)
        kill_init(box);
    continue_end(box);
}

void box_reaped(struct box *box, int status)
{
    struct err e = {0};
    struct creation *c = box->creation;

    box_clear_pid(box);
    box->reaped = true;
    box->status = status;
    stop_io(&box->pid_io);
    if (c != NULL && c->jail.io.active) {
        box_set_pid(box, box->pid); /* its last word, if any, is in the socket, and is looked up by pid */
        jail_flush(&c->jail);
        box_clear_pid(box);
    }
    if (box->state == BOX_LIVE && box_record(box, TABLE_ENDING, &e) < 0)
        log_warn(box->id, "%s", e.msg);
    box_end(box);
}

unsigned boxes_alive(const struct spawner *sp)
{
    return HASH_COUNT(sp->boxes) - sp->gone;
}
