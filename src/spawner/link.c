/* The socket to silica-server: requests in, answers and events out.
 *
 * Answers wait in a queue when the socket is full; while anything waits, or CREATES_MAX creations are under way, no
 * further request is read, so the queue is bounded by what one silicad may ask for at a time. Events of sandboxes are
 * not queued at all: a box that has something to tell is on the `untold` list, however long nobody listens. */
#include "spawner/spawner.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/statfs.h>

enum { BODY_MAX = 128, REQUESTS_PER_TURN = 32 };

struct outmsg {
    TAILQ_ENTRY(outmsg) link;
    uint16_t type;
    uint64_t token;
    size_t body_len;
    struct wire_tail tail;
    int fd;
    uint64_t body[BODY_MAX / sizeof(uint64_t)];
};

static void outmsg_free(struct outmsg *m)
{
    wire_tail_fini(&m->tail);
    fd_close(m->fd);
    free(m);
}

static void link_interest(struct spawner *sp)
{
    bool waiting = !TAILQ_EMPTY(&sp->out) || !TAILQ_EMPTY(&sp->untold);
    bool full = !TAILQ_EMPTY(&sp->out) || sp->creating >= CREATES_MAX;

    if (sp->link.active)
        (void)io_set(&sp->link, (full ? 0u : EPOLLIN) | (waiting ? EPOLLOUT : 0u)); /* fails for no registered fd */
}

/* ---- out ------------------------------------------------------------------------------------------------------------ */

static int tell_adopt(struct box *box)
{
    struct wire_tail tail = {0};
    struct sp_adopt a = {
        .pid = box->pid,
        .slot = (uint32_t)box->slot,
        .uid_base = box->uid_base,
        .writable = box->layer.driver,
        .started_ns = box->started_ns,
        .id = wire_put_str(&tail, box->id),
    };
    int r = wire_send(box->sp->link.fd, SP_ADOPT, 0, &a, sizeof a, &tail, &box->control, 1);

    wire_tail_fini(&tail);
    return r;
}

static int tell_gone(struct box *box)
{
    struct wire_tail tail = {0};
    struct sp_gone g = {
        .status = box->status,
        .oom_kills = box->oom_kills,
        .cpu_us = box->cpu_us,
        .memory_peak = box->memory_peak,
        .id = wire_put_str(&tail, box->id),
    };
    int r = wire_send(box->sp->link.fd, SP_GONE, 0, &g, sizeof g, &tail, NULL, 0);

    wire_tail_fini(&tail);
    return r;
}

void link_untell(struct box *box)
{
    if (!box->is_untold)
        return;
    box->is_untold = false;
    TAILQ_REMOVE(&box->sp->untold, box, untold);
}

static int pump_box(struct box *box)
{
    int r = 0;

    if (box->adopt_due) {
        r = tell_adopt(box);
        if (r < 0)
            return r;
        box->adopt_due = false;
    }
    if (box->state == BOX_GONE) {
        fd_closep(&box->control);
        r = tell_gone(box);
        if (r < 0)
            return r;
    }
    link_untell(box);
    return 0;
}

static void pump(struct spawner *sp)
{
    struct outmsg *m;
    struct box *box;
    int r = 0;

    while (sp->link.active && r == 0 && (m = TAILQ_FIRST(&sp->out)) != NULL) {
        r = wire_send(sp->link.fd, m->type, m->token, m->body, m->body_len, &m->tail, &m->fd, m->fd >= 0 ? 1 : 0);
        if (r == 0) {
            TAILQ_REMOVE(&sp->out, m, link);
            outmsg_free(m);
        }
    }
    while (sp->link.active && r == 0 && (box = TAILQ_FIRST(&sp->untold)) != NULL)
        r = pump_box(box);
    if (r < 0 && r != -EAGAIN && r != -EPIPE && r != -ECONNRESET)
        log_warn(NULL, "cannot write to silica-server: %s", strerror(-r)); /* its death is handled when it is reaped */
    if (r < 0 && r != -EAGAIN)
        link_close(sp);
    link_interest(sp);
}

void link_send(struct spawner *sp, uint16_t type, uint64_t token, const void *body, size_t body_len,
               struct wire_tail *tail, int fd)
{
    struct outmsg *m;

    assert(body_len <= BODY_MAX);
    if (!sp->link.active)
        return;
    if (TAILQ_EMPTY(&sp->out)) {
        int r = wire_send(sp->link.fd, type, token, body, body_len, tail, &fd, fd >= 0 ? 1 : 0);

        if (r != -EAGAIN) {
            if (r < 0) {
                log_warn(NULL, "cannot answer silica-server: %s", strerror(-r));
                link_close(sp);
            }
            return;
        }
    }
    m = calloc(1, sizeof *m);
    if (m == NULL || (fd >= 0 && (fd = fcntl(fd, F_DUPFD_CLOEXEC, FD_RESERVED)) < 0)) {
        free(m);
        server_distrust(sp, "an answer to it cannot be kept: memory or descriptors are short");
        return;
    }
    m->type = type;
    m->token = token;
    m->body_len = body_len;
    memcpy(m->body, body, body_len);
    m->fd = fd;
    if (tail != NULL)
        m->tail = *tail;
    if (tail != NULL)
        *tail = (struct wire_tail){0};
    TAILQ_INSERT_TAIL(&sp->out, m, link);
    link_interest(sp);
}

void link_fail(struct spawner *sp, uint64_t token, const struct err *e)
{
    struct wire_tail tail = {0};
    struct sp_failed f = {
        .code = e->code < 0 ? e->code : -EIO,
        .kind = e->kind != ERR_NONE ? e->kind : ERR_INTERNAL,
        .msg = wire_put_str(&tail, e->msg),
    };

    link_send(sp, SP_FAILED, token, &f, sizeof f, &tail, -1);
    wire_tail_fini(&tail);
}

void link_done(struct spawner *sp, uint64_t token)
{
    const struct sp_ready nothing = {0}; /* SP_DONE has the body of SP_READY: none to speak of */

    if (token != 0)
        link_send(sp, SP_DONE, token, &nothing, sizeof nothing, NULL, -1);
}

void link_tell(struct box *box)
{
    struct spawner *sp = box->sp;

    if (!sp->link.active || box->is_untold)
        return;
    box->is_untold = true;
    TAILQ_INSERT_TAIL(&sp->untold, box, untold);
    pump(sp);
}

/* ---- in ------------------------------------------------------------------------------------------------------------- */

static int on_ready(struct spawner *sp, struct wire_msg *m, struct err *e)
{
    (void)e;
    supervisor_ready(sp);
    link_done(sp, m->head->token);
    return 0;
}

static int on_create(struct spawner *sp, struct wire_msg *m, struct err *e)
{
    struct box_plan *plan;

    if (sp->stage != SP_RUNNING)
        return err_typed(e, ERR_UNAVAILABLE, NULL, "silicad is stopping");
    plan = malloc(sizeof *plan);
    if (plan == NULL)
        return err_set(e, ENOMEM, "plan of a sandbox: %m");
    if (validate_create(m, plan, e) == 0)
        create_start(sp, m->head->token, plan);
    free(plan);
    return e->code;
}

static int find_box(struct spawner *sp, struct wire_msg *m, struct box **ret, struct err *e)
{
    char id[SP_ID_MAX];

    if (validate_id(m, id, e) < 0)
        return e->code;
    *ret = box_find(sp, id);
    if (*ret == NULL)
        return err_typed(e, ERR_NOT_FOUND, NULL, "there is no sandbox %s", id);
    return 0;
}

static int on_kill(struct spawner *sp, struct wire_msg *m, struct err *e)
{
    struct box *box;

    if (find_box(sp, m, &box, e) < 0)
        return e->code;
    link_done(sp, m->head->token);
    box_end(box);
    return 0;
}

/* 0 = not known. */
static void disk_usage(const struct box *box, struct sp_stats *stats)
{
    struct statfs fs;
    char path[40];

    if (layer_usage(&box->layer, &stats->disk_used, &stats->disk_max) == 0)
        return;
    stats->disk_used = stats->disk_max = 0;
    (void)snprintf(path, sizeof path, "/proc/%d/root", box->pid);
    if (box->layer.driver == SP_W_AUTO || statfs(path, &fs) < 0)
        return;
    stats->disk_max = fs.f_blocks * (uint64_t)fs.f_bsize;
    stats->disk_used = (fs.f_blocks - fs.f_bfree) * (uint64_t)fs.f_bsize;
}

static int on_stat(struct spawner *sp, struct wire_msg *m, struct err *e)
{
    struct sp_stats stats = {0};
    struct box *box;

    if (find_box(sp, m, &box, e) < 0)
        return e->code;
    if (box->state != BOX_LIVE)
        return err_typed(e, ERR_PRECONDITION, NULL, "sandbox %s is not running", box->id);
    if (cg_stats(box->id, &stats, e) < 0)
        return e->code;
    disk_usage(box, &stats);
    link_send(sp, SP_STATS, m->head->token, &stats, sizeof stats, NULL, -1);
    return 0;
}

static int on_forget(struct spawner *sp, struct wire_msg *m, struct err *e)
{
    char id[SP_ID_MAX];
    struct box *box;

    if (validate_id(m, id, e) < 0)
        return e->code;
    box = box_find(sp, id);
    if (box != NULL && box->state != BOX_GONE)
        return err_typed(e, ERR_PRECONDITION, NULL, "sandbox %s is not gone", id);
    if (box != NULL) {
        if (box_record(box, TABLE_FORGOTTEN, e) < 0)
            log_warn(id, "it will be reported once more: %s", e->msg);
        *e = (struct err){0};
        box_free(box);
    }
    link_done(sp, m->head->token);
    return 0;
}

static int on_imager(struct spawner *sp, struct wire_msg *m, struct err *e)
{
    if (sp->stage != SP_RUNNING)
        return err_typed(e, ERR_UNAVAILABLE, NULL, "silicad is stopping");
    if (validate_imager(m, e) < 0)
        return e->code;
    imager_start(sp, m->head->token, m->body, take_fd(&m->fds[0]));
    return 0;
}

static int on_layer_rm(struct spawner *sp, struct wire_msg *m, struct err *e)
{
    char digest[SP_DIGEST_LEN + 1];

    if (validate_digest(m, digest, e) < 0 || layer_remove(sp, digest, e) < 0)
        return e->code;
    link_done(sp, m->head->token);
    return 0;
}

/* A negative result is answered with SP_FAILED; else the handler has answered, or will. */
static const struct {
    uint16_t type;
    int (*handle)(struct spawner *sp, struct wire_msg *m, struct err *e);
} requests[] = {
    {SP_READY, on_ready},   {SP_CREATE, on_create}, {SP_KILL, on_kill},         {SP_STAT, on_stat},
    {SP_FORGET, on_forget}, {SP_IMAGER, on_imager}, {SP_LAYER_RM, on_layer_rm},
};

static void dispatch(struct spawner *sp, struct wire_msg *m)
{
    struct err e = {0};

    for (unsigned i = 0; i < ARRAY_LEN(requests); i++) {
        if (requests[i].type != m->head->type)
            continue;
        if (requests[i].handle(sp, m, &e) < 0) {
            log_warn(NULL, "request %u of silica-server is refused: %s", m->head->type, e.msg);
            link_fail(sp, m->head->token, &e);
        }
        return;
    }
    server_distrust(sp, "it sent a message that only the spawner sends");
}

static void link_event(struct io *io, uint32_t events)
{
    struct spawner *sp = container_of(io, struct spawner, link);
    struct wire_msg m;

    if ((events & EPOLLOUT) != 0)
        pump(sp);
    for (unsigned i = 0; i < REQUESTS_PER_TURN && sp->link.active && (io->events & EPOLLIN) != 0; i++) {
        int r = wire_recv(io->fd, sp->recv_buf, WIRE_DATAGRAM_MAX, sp_body_size, &m);

        if (r == -EAGAIN)
            return;
        if (r == 0 || r == -ECONNRESET) {
            link_close(sp); /* it is ending; what follows comes when it is reaped */
            return;
        }
        if (r < 0) {
            server_distrust(sp, "it sent a malformed message");
            return;
        }
        dispatch(sp, &m);
        wire_msg_fini(&m);
        link_interest(sp);
    }
    if ((events & (EPOLLHUP | EPOLLERR)) != 0 && sp->link.active && (io->events & EPOLLIN) == 0)
        link_close(sp);
}

void link_resume(struct spawner *sp)
{
    link_interest(sp);
}

/* ---- a silicad comes and goes --------------------------------------------------------------------------------------- */

int link_open(struct spawner *sp, int fd, struct err *e)
{
    struct wire_tail tail = {0};
    struct sp_hello hello = {.epoch = sp->epoch, .features = sp->features, .slot_count = sp->slot_count};
    struct box *box, *next;
    int r;

    r = io_start(sp->loop, &sp->link, fd, EPOLLIN, link_event);
    if (r < 0) {
        fd_close(fd);
        return err_set(e, r, "watch the socket of silica-server: %m");
    }
    if (sp->opt.max_sandboxes != 0 && sp->opt.max_sandboxes < hello.slot_count)
        hello.slot_count = (uint32_t)sp->opt.max_sandboxes;
    HASH_ITER (hh, sp->boxes, box, next) {
        box->adopt_due = box->state == BOX_LIVE;
        if (box->adopt_due)
            hello.adopt_count++;
    }
    hello.boot_id = wire_put_str(&tail, sp->boot_id);
    hello.host_resolv = wire_put_str(&tail, sp->host_resolv);
    link_send(sp, SP_HELLO, 0, &hello, sizeof hello, &tail, -1);
    wire_tail_fini(&tail);
    /* All that live before all that are gone: HELLO's count says when silicad has seen the first kind. */
    for (int gone = 0; gone <= 1; gone++) {
        HASH_ITER (hh, sp->boxes, box, next) {
            if (gone ? box->state == BOX_GONE : box->adopt_due) {
                box->is_untold = true;
                TAILQ_INSERT_TAIL(&sp->untold, box, untold);
            }
        }
    }
    pump(sp);
    return 0;
}

void link_close(struct spawner *sp)
{
    struct outmsg *m;
    struct box *box, *next;
    int fd = sp->link.fd;

    if (!sp->link.active)
        return;
    io_stop(&sp->link);
    fd_close(fd);
    while ((m = TAILQ_FIRST(&sp->out)) != NULL) {
        TAILQ_REMOVE(&sp->out, m, link);
        outmsg_free(m);
    }
    HASH_ITER (hh, sp->boxes, box, next) {
        link_untell(box);
        box->adopt_due = false;
    }
}
