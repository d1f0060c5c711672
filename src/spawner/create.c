/* A request becomes a live sandbox.
 *
 * Everything up to the clone happens in one go, undone in reverse when a step fails. From the clone on the sandbox is a
 * box with a process: a failure takes the road of every end (end.c), and the answer follows when all is released. */
#include "spawner/spawner.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/clock.h"

enum { FILE_TEXT_MAX = 1024 };

/* What lives from the first step to the clone only. */
struct making {
    struct spawner *sp;
    struct box *box;
    const struct box_plan *plan;
    struct slot slot;
    struct netns net;
    struct cg cg;
    int mnt, listen_fd;
    int tasks[CG_TASKS_MAX];
    struct rootfs_plan rootfs;
    char resolv[FILE_TEXT_MAX], hosts[FILE_TEXT_MAX];
};

static uint32_t us_since(uint64_t t0)
{
    uint64_t us = (clock_mono() - t0) / 1000;

    return us > UINT32_MAX ? UINT32_MAX : (uint32_t)us;
}

static void fill_files(struct making *mk)
{
    const struct box_plan *p = mk->plan;
    size_t n = 0;

    for (unsigned i = 0; i < p->dns_count; i++)
        n += (size_t)snprintf(mk->resolv + n, sizeof mk->resolv - n, "nameserver %s\n", p->dns[i]);
    if (p->dns_count == 0 && p->egress != SP_E_NONE) {
        const char *s = mk->sp->host_resolv;

        while (*s != '\0' && n + 80 < sizeof mk->resolv) {
            size_t len = strcspn(s, " ");

            n += (size_t)snprintf(mk->resolv + n, sizeof mk->resolv - n, "nameserver %.*s\n", (int)len, s);
            s += len;
            s += strspn(s, " ");
        }
    }
    (void)snprintf(mk->hosts, sizeof mk->hosts,
                   "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t%s\n", p->hostname);
}

/* Where init finds the next spawner. The name goes through /proc/self/fd: a run dir may be longer than sun_path. */
static int make_listener(struct making *mk, struct err *e)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    AUTO_FD fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    int n = snprintf(un.sun_path, sizeof un.sun_path, "/proc/self/fd/%d/%s.sock", mk->sp->box_fd, mk->plan->id);

    if (fd < 0 ||
        bind(fd, (struct sockaddr *)&un, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)n + 1)) < 0 ||
        listen(fd, 4) < 0)
        return err_set(e, errno, "the socket for the next spawner: %m");
    mk->listen_fd = take_fd(&fd);
    return 0;
}

/* The socket pair between silicad and init. silicad's end is kept, for the silicad after this one. */
static int make_control(struct making *mk, struct err *e)
{
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return err_set(e, errno, "the control socket: %m");
    if (fcntl(pair[0], F_SETFL, O_NONBLOCK) < 0) {
        fd_close(pair[0]);
        fd_close(pair[1]);
        return err_set(e, errno, "the control socket: %m");
    }
    mk->box->control = pair[0];
    mk->box->creation->init_control = pair[1];
    return 0;
}

static int take_disk(struct making *mk, struct err *e)
{
    struct box *box = mk->box;
    const struct box_plan *p = mk->plan;

    if ((p->flags & SP_BOX_READONLY_ROOT) != 0)
        return 0;
    box->disk_bytes = p->disk_bytes != 0 ? p->disk_bytes : mk->sp->opt.default_disk;
    return layer_take(&box->layer, p->writable, box->disk_bytes, box->uid_base, e);
}

static int prepare(struct making *mk, struct err *e)
{
    const char *digests[SP_LAYERS_MAX];
    struct spawner *sp = mk->sp;
    struct box *box = mk->box;
    const struct box_plan *p = mk->plan;
    bool readonly = (p->flags & SP_BOX_READONLY_ROOT) != 0;

    for (unsigned i = 0; i < p->layer_count; i++)
        digests[i] = p->layers[i];
    if (slot_take(&mk->slot, e) < 0)
        return err_ctx(e, "uid range");
    box->slot = mk->slot.index;
    box->uid_base = mk->slot.uid_base;
    if (take_disk(mk, e) < 0)
        return err_ctx(e, "writable disk");
    if (overlay_make(&mk->slot, readonly ? NULL : &box->layer, digests, p->layer_count, readonly, &mk->mnt, e) < 0)
        return err_ctx(e, "root file system");
    if (!readonly)
        layer_settle(&box->layer);
    slot_drop_mount(&mk->slot);
    box->creation->t_layer = clock_mono();
    box->has_cgroup = true; /* half-made counts: cg_remove accepts it */
    if (cg_create(&mk->cg, p->id, &p->limits, box->uid_base, e) < 0 || cg_open_tasks(&mk->cg, mk->tasks, e) < 0)
        return err_ctx(e, "control group");
    if (netns_take(&mk->net, p->egress, e) < 0)
        return err_ctx(e, "network");
    box->has_egress = true;
    box->egress = mk->net.driver;
    box->lease = mk->net.lease;
    if (make_listener(mk, e) < 0 || make_control(mk, e) < 0)
        return e->code;
    fill_files(mk);
    mk->rootfs = (struct rootfs_plan){
        .root_mnt = mk->mnt,
        .sysfs_fd = mk->net.sysfs_fd,
        .cgroup_fd = mk->cg.v2_fd,
        .control_fd = box->creation->init_control,
        .seccomp_fd = sp->seccomp_fd,
        .listen_fd = mk->listen_fd,
        .init_fd = sp->program_init,
        .dev_fd = -1,
        .mount_point = -1,
        .hostname = p->hostname,
        .resolv = mk->resolv,
        .hosts = mk->hosts,
        .shm_bytes = p->shm_bytes,
        .readonly_root = readonly,
    };
    return rootfs_prepare(&mk->rootfs, box->uid_base, e) < 0 ? err_ctx(e, "devices") : 0;
}

static void making_fini(struct making *mk)
{
    rootfs_unprepare(&mk->rootfs);
    fd_close(mk->mnt);
    fd_close(mk->listen_fd);
    fd_close(mk->net.fd);
    fd_close(mk->net.sysfs_fd);
    cg_close_tasks(mk->tasks);
    fd_close(mk->cg.v2_fd);
    fd_close(mk->cg.init_fd);
    if (mk->box->creation != NULL)
        fd_closep(&mk->box->creation->init_control);
    slot_drop_mount(&mk->slot);
}

/* In the parent: the child exists and waits. From here on the next spawner can find it. */
static int before_go(void *arg, pid_t pid, struct err *e)
{
    struct making *mk = arg;
    struct box *box = mk->box;

    box_set_pid(box, pid);
    box->child = true;
    box->start_ticks = proc_start_ticks(pid);
    box->started_ns = clock_wall();
    /* As ending: a sandbox whose creation was never answered is nobody's. */
    return box_record(box, TABLE_ENDING, e);
}

/* In the child. Its cgroup namespace is made by rootfs_enter_and_exec(): it begins where the process is then. */
static int enter(void *arg, const char **ret_where)
{
    const struct making *mk = arg;
    int r = cg_enter_self(mk->tasks);

    if (r < 0) {
        *ret_where = "enter the control group";
        return r;
    }
    if ((mk->plan->flags & SP_BOX_NO_NEW_PRIVS) != 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
        *ret_where = "set no_new_privs";
        return -errno;
    }
    return rootfs_enter_and_exec(&mk->rootfs, ret_where);
}

static void created(struct box *box)
{
    struct creation *c = box->creation;
    struct sp_created a = {
        .pid = box->pid,
        .slot = (uint32_t)box->slot,
        .uid_base = box->uid_base,
        .writable = box->layer.driver,
        .us_layer = (uint32_t)((c->t_layer - c->t0) / 1000),
        .us_clone = (uint32_t)((c->t_clone - c->t0) / 1000),
        .us_ready = us_since(c->t0),
    };
    struct spawner *sp = box->sp;

    box->state = BOX_LIVE;
    box->creation = NULL;
    sp->creating--;
    a.us_total = us_since(c->t0);
    link_send(sp, SP_CREATED, c->token, &a, sizeof a, NULL, box->control);
    log_info(box->id, "sandbox made in %u us (disk %u, clone %u): process %d", a.us_total, a.us_layer, a.us_clone,
             box->pid);
    free(c);
    link_resume(sp);
    supervisor_progress(sp);
    supervisor_idle(sp); /* what it took from the pools */
}

static void creation_blame(struct box *box, const struct err *e)
{
    struct creation *c = box->creation;

    if (c->code != 0)
        return; /* the first reason is the true one */
    c->code = e->code < 0 ? e->code : -EIO;
    c->kind = e->kind;
    memcpy(c->why, e->msg, sizeof c->why);
}

static void jail_done(struct jail *j, int code, const char *where)
{
    struct creation *c = container_of(j, struct creation, jail);
    struct box *box = box_by_pid(j->sp, j->pid);
    struct err e = {0};

    if (box == NULL || box->creation != c)
        return; /* it was reaped before; its end is under way */
    if (code == 0 && box->state != BOX_CREATING)
        return; /* killed on request; the answer comes when it is released */
    if (code < 0)
        (void)err_set(&e, code, "%s: %m", where);
    else
        (void)box_record(box, TABLE_LIVE, &e);
    if (e.code == 0 && c->epoch == j->sp->epoch) {
        created(box);
        return;
    }
    if (e.code == 0)
        (void)err_typed(&e, ERR_CANCELLED, NULL, "the silicad that asked for it is gone");
    creation_blame(box, &e);
    box_end(box);
}

void create_failed(struct box *box)
{
    struct creation *c = box->creation;
    struct spawner *sp = box->sp;
    struct err e = {.code = c->code, .kind = c->kind};

    jail_stop(&c->jail);
    memcpy(e.msg, c->why, sizeof e.msg);
    if (c->code == 0)
        (void)err_typed(&e, ERR_CANCELLED, NULL, "the sandbox was killed while it was being made");
    box->creation = NULL;
    sp->creating--;
    log_warn(box->id, "sandbox not made: %s", e.msg);
    if (c->epoch == sp->epoch)
        link_fail(sp, c->token, &e);
    free(c);
    link_resume(sp);
    supervisor_progress(sp);
    supervisor_idle(sp); /* what it took from the pools */
}

static int admit(struct spawner *sp, const struct box_plan *plan, struct err *e)
{
    if (box_find(sp, plan->id) != NULL)
        return err_typed(e, ERR_EXISTS, NULL, "there is a sandbox %s already", plan->id);
    if (sp->opt.max_sandboxes != 0 && HASH_COUNT(sp->boxes) - sp->gone >= sp->opt.max_sandboxes)
        return err_typed(e, ERR_EXHAUSTED, NULL, "this machine runs %llu sandboxes at most (--max-sandboxes)",
                         (unsigned long long)sp->opt.max_sandboxes);
    if (sp->gone >= GONE_MAX)
        return err_typed(e, ERR_EXHAUSTED, NULL, "%d ended sandboxes wait to be acknowledged", GONE_MAX);
    return 0;
}

static int clone_box(struct making *mk, struct err *e)
{
    struct creation *c = mk->box->creation;
    const struct jail_plan jail = {
        .flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS,
        .uid_base = mk->box->uid_base,
        .cgroup_fd = mk->cg.v2_fd,
        .netns_fd = mk->net.fd,
        .before_go = before_go,
        .run = enter,
        .arg = mk,
    };
    int r = jail_start(mk->sp, &c->jail, &jail, jail_done, e);

    c->t_clone = clock_mono();
    if (r < 0 && c->jail.pid > 0 && mk->box->pid == 0) {
        box_set_pid(mk->box, c->jail.pid); /* killed before it was known: it is waited for all the same */
        mk->box->child = true;
    }
    return r;
}

void create_start(struct spawner *sp, uint64_t token, const struct box_plan *plan)
{
    struct making mk = {
        .sp = sp,
        .plan = plan,
        .slot = {.index = -1, .layers_fd = -1},
        .net = {.fd = -1, .sysfs_fd = -1},
        .cg = {.v2_fd = -1, .init_fd = -1},
        .mnt = -1,
        .listen_fd = -1,
        .tasks = {-1, -1, -1},
        .rootfs = {.dev_fd = -1},
    };
    struct creation *c;
    struct err e = {0};
    uint64_t t0 = clock_mono();

    if (admit(sp, plan, &e) < 0) {
        link_fail(sp, token, &e);
        return;
    }
    c = calloc(1, sizeof *c);
    mk.box = c != NULL ? box_new(sp, plan->id, plan->layers, plan->layer_count) : NULL;
    if (mk.box == NULL) {
        free(c);
        (void)err_set(&e, ENOMEM, "a new sandbox: %m");
        link_fail(sp, token, &e);
        return;
    }
    *c = (struct creation){.token = token, .epoch = sp->epoch, .t0 = t0, .init_control = -1};
    mk.box->creation = c;
    sp->creating++;
    if (prepare(&mk, &e) < 0 || clone_box(&mk, &e) < 0) {
        creation_blame(mk.box, &e);
        making_fini(&mk);
        box_end(mk.box);
    } else {
        making_fini(&mk);
    }
    supervisor_idle(sp);
}
