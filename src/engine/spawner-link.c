/* The conversation with the spawner (wire/sp.h).
 *
 * Requests wait in a table by token for their one answer. Sending never blocks: what the socket does not take now is queued, in
 * order, up to a limit. When the spawner is gone (end of file) or talks nonsense, the engine is told to stop and to keep
 * the sandboxes: they live on, and the next spawner hands them to the next silicad. Loop thread only. */
#include "engine/box-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/fd.h"
#include "base/log.h"

enum {
    SPAWNER_QUEUE_MAX = 8192,    /* messages that the socket has not taken yet */
    SPAWNER_READ_BATCH = 32,     /* messages read in one go, so that the loop stays fair */
    SPAWNER_ADOPT_MAX = 1 << 20, /* beyond any number of sandboxes a host can have */
};

/* A message on its way out. */
struct sp_out {
    STAILQ_ENTRY(sp_out) link;
    uint16_t type;
    uint64_t token;
    int fd;
    struct wire_tail tail;
    size_t body_len;
    uint64_t body[]; /* aligned for any message */
};
STAILQ_HEAD(sp_outs, sp_out);

/* A question whose answer is awaited. */
struct sp_ask {
    struct op op; /* first: the caller's handle */
    UT_hash_handle hh;
    uint64_t token;
    uint16_t type;
    char id[SP_ID_MAX]; /* SP_CREATE, SP_KILL */
    void (*stat)(void *arg, const struct err *e, const struct sp_stats *s);
    void (*imager)(void *arg, const struct err *e, int result_fd);
    void (*done)(void *arg, const struct err *e);
    void *arg;
};

struct spawner_link {
    struct engine *en;
    struct io io;
    int fd;
    struct sp_ask *asks;
    struct sp_outs out;
    unsigned out_count;
    uint32_t adopt_left;
    bool hello, adopted, broken;
    uint64_t *buf; /* WIRE_DATAGRAM_MAX bytes, aligned */
};

/* ---- sending ---------------------------------------------------------------------------------------------------- */

static void out_free(struct sp_out *o)
{
    wire_tail_fini(&o->tail);
    fd_close(o->fd);
    free(o);
}

/* Takes TAIL and FD over into the queue. */
static int queue(struct spawner_link *l, uint16_t type, uint64_t token, const void *body, size_t body_len,
                 struct wire_tail *tail, int fd, struct err *e)
{
    struct sp_out *o;

    if (l->out_count >= SPAWNER_QUEUE_MAX)
        return err_typed(e, ERR_UNAVAILABLE, "RUNNER_OVERLOADED",
                         "the supervisor does not keep up: %d messages wait for it", SPAWNER_QUEUE_MAX);
    o = calloc(1, sizeof *o + body_len);
    if (o == NULL)
        return err_set(e, ENOMEM, "%m");
    o->fd = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;
    if (fd >= 0 && o->fd < 0) {
        int code = errno;

        free(o);
        return err_set(e, code, "keeping a file for the supervisor: %m");
    }
    o->type = type;
    o->token = token;
    o->body_len = body_len;
    memcpy(o->body, body, body_len);
    if (tail != NULL) {
        o->tail = *tail;
        *tail = (struct wire_tail){0};
    }
    STAILQ_INSERT_TAIL(&l->out, o, link);
    l->out_count++;
    (void)io_set(&l->io, EPOLLIN | EPOLLOUT); /* a source that is started stays usable */
    return 0;
}

/* Sends or queues. FD and what is in TAIL stay the caller's to release. */
static int send_msg(struct spawner_link *l, uint16_t type, uint64_t token, const void *body, size_t body_len,
                    struct wire_tail *tail, int fd, struct err *e)
{
    int r;

    if (l->broken)
        return err_typed(e, ERR_UNAVAILABLE, "RUNNER_UNAVAILABLE", "the supervisor is gone");
    if (!STAILQ_EMPTY(&l->out))
        return queue(l, type, token, body, body_len, tail, fd, e);
    r = wire_send(l->fd, type, token, body, body_len, tail, &fd, fd >= 0 ? 1 : 0);
    if (r == -EAGAIN)
        return queue(l, type, token, body, body_len, tail, fd, e);
    if (r < 0)
        return err_set(e, r, "talking to the supervisor: %m");
    return 0;
}

static void lost(struct spawner_link *l, uint64_t token, int code);

static void flush(struct spawner_link *l)
{
    struct sp_out *o;
    int r;

    while ((o = STAILQ_FIRST(&l->out)) != NULL) {
        r = wire_send(l->fd, o->type, o->token, o->body, o->body_len, &o->tail, &o->fd, o->fd >= 0 ? 1 : 0);
        if (r == -EAGAIN)
            return;
        STAILQ_REMOVE_HEAD(&l->out, link);
        l->out_count--;
        if (r < 0)
            lost(l, o->token, r);
        out_free(o);
    }
    (void)io_set(&l->io, EPOLLIN); /* see queue() */
}

/* ---- questions -------------------------------------------------------------------------------------------------- */

static struct sp_ask *ask_new(struct spawner_link *l, uint16_t type, const char *id)
{
    struct sp_ask *a = calloc(1, sizeof *a);

    if (a == NULL)
        return NULL;
    a->type = type;
    a->token = l->en->next_token++;
    if (id != NULL)
        memcpy(a->id, id, strnlen(id, sizeof a->id - 1));
    HASH_ADD(hh, l->asks, token, sizeof a->token, a);
    return a;
}

static void ask_free(struct spawner_link *l, struct sp_ask *a)
{
    HASH_DEL(l->asks, a);
    free(a);
}

/* Sends the question A (NULL: no memory for it). On failure A is gone. */
static int ask_send(struct spawner_link *l, struct sp_ask *a, const void *body, size_t body_len, struct wire_tail *tail,
                    int fd, struct err *e)
{
    int r;

    if (a == NULL)
        return err_set(e, ENOMEM, "%m");
    r = send_msg(l, a->type, a->token, body, body_len, tail, fd, e);
    if (r < 0)
        ask_free(l, a);
    return r;
}

/* Tells whoever asked that it came to nothing. */
static void ask_failed(struct spawner_link *l, struct sp_ask *a, const struct err *e)
{
    struct sp_gone nothing = {.status = -1};
    struct box *b;

    switch (a->type) {
    case SP_CREATE:
        b = box_by_id(l->en, a->id);
        if (b != NULL)
            box_create_failed(b, e);
        break;
    case SP_KILL:
        b = box_by_id(l->en, a->id);
        if (e->code != -ENOENT)
            log_error(a->id, "the supervisor cannot end the sandbox: %s", e->msg);
        else if (b != NULL &&
                 b->hold == BOX_HOLD_KILLING) /* not known there: as dead as can be, or SP_GONE came before */
            box_gone(l->en, a->id, &nothing);
        if (e->code != -ENOENT && b != NULL)
            box_kill_failed(b);
        break;
    case SP_STAT:
        if (!a->op.dropped)
            a->stat(a->arg, e, NULL);
        break;
    case SP_IMAGER:
        if (!a->op.dropped)
            a->imager(a->arg, e, -1);
        break;
    case SP_LAYER_RM:
        if (!a->op.dropped)
            a->done(a->arg, e);
        break;
    default: /* SP_FORGET comes again with the next start; SP_READY cannot be refused */
        break;
    }
}

/* A question that never got through is answered here: nobody else would. When the spawner is gone the end of the socket
 * says it for all. */
static void lost(struct spawner_link *l, uint64_t token, int code)
{
    struct sp_ask *a;
    struct err e;

    HASH_FIND (hh, l->asks, &token, sizeof token, a)
        ;
    if (a == NULL || l->broken || code == -EPIPE || code == -ECONNRESET)
        return;
    (void)err_set(&e, code, "talking to the supervisor: %m");
    HASH_DEL(l->asks, a);
    ask_failed(l, a, &e);
    free(a);
}

int spawner_create(struct spawner_link *l, struct box *b, const char *const *layers, struct err *e)
{
    const struct box_record *r = b->rec;
    struct wire_tail tail = {0};
    struct sp_create req = {
        .memory_max = r->memory_bytes,
        .cpu_quota_us = r->cpu_millis * 100ull, /* of a period of 100 ms */
        .cpu_period_us = r->cpu_millis != 0 ? 100000 : 0,
        .pids_max = r->pids,
        .disk_bytes = r->disk_bytes,
        .writable = (r->flags & BOX_REC_TMPFS) != 0 ? SP_W_TMPFS : SP_W_AUTO,
        .egress = r->egress,
        .flags = r->flags & (SP_BOX_READONLY_ROOT | SP_BOX_NO_NEW_PRIVS),
        .id = wire_put_str(&tail, b->id),
        .hostname = wire_put_str(&tail, b->id),
        .layers = wire_put_vec(&tail, layers),
    };
    int ret = ask_send(l, ask_new(l, SP_CREATE, b->id), &req, sizeof req, &tail, -1, e);

    wire_tail_fini(&tail);
    return ret;
}

int spawner_kill(struct spawner_link *l, const char *id, struct err *e)
{
    struct wire_tail tail = {0};
    struct sp_kill req = {.id = wire_put_str(&tail, id)};
    int r = ask_send(l, ask_new(l, SP_KILL, id), &req, sizeof req, &tail, -1, e);

    wire_tail_fini(&tail);
    return r;
}

int spawner_forget(struct spawner_link *l, const char *id, struct err *e)
{
    struct wire_tail tail = {0};
    struct sp_forget req = {.id = wire_put_str(&tail, id)};
    int r = ask_send(l, ask_new(l, SP_FORGET, id), &req, sizeof req, &tail, -1, e);

    wire_tail_fini(&tail);
    return r;
}

int spawner_ready(struct spawner_link *l, struct err *e)
{
    struct sp_ready req = {0};

    return ask_send(l, ask_new(l, SP_READY, NULL), &req, sizeof req, NULL, -1, e);
}

struct op *spawner_stat(struct spawner_link *l, const char *id,
                        void (*cb)(void *arg, const struct err *e, const struct sp_stats *s), void *arg)
{
    struct wire_tail tail = {0};
    struct sp_stat req = {.id = wire_put_str(&tail, id)};
    struct sp_ask *a = ask_new(l, SP_STAT, id);
    struct err e;
    int r;

    if (a != NULL) {
        a->stat = cb;
        a->arg = arg;
    }
    r = ask_send(l, a, &req, sizeof req, &tail, -1, &e);
    wire_tail_fini(&tail);
    return r < 0 ? NULL : &a->op;
}

struct op *spawner_imager(struct spawner_link *l, const struct sp_imager *req, int fd,
                          void (*cb)(void *arg, const struct err *e, int result_fd), void *arg)
{
    struct sp_ask *a = ask_new(l, SP_IMAGER, NULL);
    struct err e;
    int r;

    if (a != NULL) {
        a->imager = cb;
        a->arg = arg;
    }
    r = ask_send(l, a, req, sizeof *req, NULL, fd, &e);
    fd_close(fd);
    return r < 0 ? NULL : &a->op;
}

struct op *spawner_layer_rm(struct spawner_link *l, const char *digest, void (*cb)(void *arg, const struct err *e),
                            void *arg)
{
    struct wire_tail tail = {0};
    struct sp_layer_rm req = {.digest = wire_put_str(&tail, digest)};
    struct sp_ask *a = ask_new(l, SP_LAYER_RM, NULL);
    struct err e;
    int r;

    if (a != NULL) {
        a->done = cb;
        a->arg = arg;
    }
    r = ask_send(l, a, &req, sizeof req, &tail, -1, &e);
    wire_tail_fini(&tail);
    return r < 0 ? NULL : &a->op;
}

/* ---- receiving -------------------------------------------------------------------------------------------------- */

/* Ids from the spawner are looked up, logged and used in paths: only what an id may be. NULL when it is not one. */
static const char *get_id(const struct wire_msg *m, struct wire_str s, bool *ret_bad)
{
    const char *id = wire_get_str(m, s, ret_bad);

    if (id == NULL || id[0] == '\0' || strlen(id) >= SP_ID_MAX ||
        strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789-") != strlen(id))
        *ret_bad = true;
    return *ret_bad ? NULL : id;
}

static void adoption_complete(struct spawner_link *l)
{
    l->adopted = true;
    boxes_adopt_done(l->en);
}

static int on_hello(struct spawner_link *l, struct wire_msg *m)
{
    const struct sp_hello *h = m->body;
    struct engine *en = l->en;
    bool bad = false;
    const char *boot = wire_get_str(m, h->boot_id, &bad);

    if (bad || l->hello || h->epoch == 0 || h->adopt_count > SPAWNER_ADOPT_MAX)
        return -EBADMSG;
    l->hello = true;
    l->adopt_left = h->adopt_count;
    en->epoch = h->epoch;
    en->features = h->features;
    en->slot_count = h->slot_count;
    en->boot_id = strdup(boot != NULL ? boot : "");
    if (en->boot_id == NULL)
        return -ENOMEM;
    if (strcmp(en->config.default_egress, "nat") == 0 && (h->features & SP_FEAT_NAT) == 0)
        log_warn(NULL, "this machine cannot give egress by NAT: sandboxes that do not ask for it have no network");
    if (l->adopt_left == 0)
        adoption_complete(l);
    return 0;
}

static int on_adopt(struct spawner_link *l, struct wire_msg *m)
{
    const struct sp_adopt *a = m->body;
    bool bad = false;
    const char *id = get_id(m, a->id, &bad);

    if (bad || !l->hello || l->adopt_left == 0 || m->nfds != 1)
        return -EBADMSG;
    l->adopt_left--;
    box_adopt(l->en, id, a, take_fd(&m->fds[0]));
    if (l->adopt_left == 0)
        adoption_complete(l);
    return 0;
}

static int on_gone(struct spawner_link *l, struct wire_msg *m)
{
    const struct sp_gone *g = m->body;
    bool bad = false;
    const char *id = get_id(m, g->id, &bad);

    if (bad || !l->hello)
        return -EBADMSG;
    box_gone(l->en, id, g);
    return 0;
}

static void fill_failure(const struct wire_msg *m, struct err *e)
{
    const struct sp_failed *f = m->body;
    bool bad = false;
    const char *msg = wire_get_str(m, f->msg, &bad);
    enum err_kind kind = f->kind > ERR_NONE && f->kind < ERR_KIND_COUNT ? (enum err_kind)f->kind : ERR_INTERNAL;

    (void)err_typed(e, kind, NULL, "%.400s", msg != NULL && !bad ? msg : "the supervisor refused without a word");
    e->code = f->code < 0 ? f->code : -EIO;
}

static int answer_created(struct spawner_link *l, struct sp_ask *a, struct wire_msg *m)
{
    struct box *b = box_by_id(l->en, a->id);
    struct err e;

    if (m->nfds != 1)
        return -EBADMSG;
    if (b != NULL)
        box_created(b, m->body, take_fd(&m->fds[0]));
    else if (spawner_kill(l, a->id, &e) < 0) /* cannot be: a sandbox is kept until its answer is here */
        log_error(a->id, "cannot have the sandbox killed: %s", e.msg);
    return 0;
}

static int answer_imager(struct sp_ask *a, struct wire_msg *m)
{
    if (m->nfds != 1)
        return -EBADMSG;
    if (!a->op.dropped)
        a->imager(a->arg, NULL, take_fd(&m->fds[0]));
    return 0;
}

/* Which answer fits which question, SP_FAILED apart, which fits all. */
static const uint16_t fits[][2] = {
    {SP_READY, SP_DONE},  {SP_CREATE, SP_CREATED}, {SP_KILL, SP_DONE},        {SP_STAT, SP_STATS},
    {SP_FORGET, SP_DONE}, {SP_LAYER_RM, SP_DONE},  {SP_IMAGER, SP_IMAGER_UP},
};

static bool answer_fits(const struct sp_ask *a, uint16_t type)
{
    for (size_t i = 0; i < ARRAY_LEN(fits); i++)
        if (fits[i][0] == a->type && fits[i][1] == type)
            return true;
    return type == SP_FAILED;
}

static int on_answer(struct spawner_link *l, struct wire_msg *m)
{
    struct sp_ask *a;
    struct err e;
    uint64_t token = m->head->token;
    int r = 0;

    HASH_FIND (hh, l->asks, &token, sizeof token, a)
        ;
    if (a == NULL || !answer_fits(a, m->head->type))
        return -EBADMSG;
    HASH_DEL(l->asks, a); /* the callee may ask again, or stop the engine */
    switch (m->head->type) {
    case SP_FAILED:
        fill_failure(m, &e);
        ask_failed(l, a, &e);
        break;
    case SP_CREATED:
        r = answer_created(l, a, m);
        break;
    case SP_STATS:
        if (!a->op.dropped)
            a->stat(a->arg, NULL, m->body);
        break;
    case SP_IMAGER_UP:
        r = answer_imager(a, m);
        break;
    default: /* SP_DONE */
        if (a->type == SP_LAYER_RM && !a->op.dropped)
            a->done(a->arg, NULL);
        break;
    }
    free(a);
    return r;
}

static int on_message(struct spawner_link *l, struct wire_msg *m)
{
    switch (m->head->type) {
    case SP_HELLO:
        return on_hello(l, m);
    case SP_ADOPT:
        return on_adopt(l, m);
    case SP_GONE:
        return on_gone(l, m);
    case SP_STOP:
        if (l->en->stop != NULL)
            l->en->stop(l->en->arg, ((const struct sp_stop *)m->body)->keep != 0);
        return 0;
    default:
        return on_answer(l, m);
    }
}

/* The spawner is gone, or not in its right mind. */
static void broken(struct spawner_link *l, const char *why)
{
    if (l->broken)
        return;
    l->broken = true;
    io_stop(&l->io);
    log_error(NULL, "%s; stopping, the sandboxes live on", why);
    if (l->en->stop != NULL)
        l->en->stop(l->en->arg, true);
}

static void readable(struct io *io, uint32_t events)
{
    struct spawner_link *l = container_of(io, struct spawner_link, io);
    struct wire_msg m;
    int r = 0;

    if ((events & EPOLLOUT) != 0)
        flush(l);
    for (unsigned n = 0; n < SPAWNER_READ_BATCH && !l->broken; n++) {
        r = wire_recv(l->fd, l->buf, WIRE_DATAGRAM_MAX, sp_body_size, &m);
        if (r == -EAGAIN || r == -EINTR)
            return;
        if (r == 0) {
            broken(l, "the supervisor is gone");
            return;
        }
        if (r == 1) {
            r = on_message(l, &m);
            wire_msg_fini(&m);
        }
        if (r < 0) {
            broken(l, r == -EBADMSG ? "the supervisor sent a message that makes no sense"
                                    : "the supervisor cannot be heard");
            return;
        }
    }
}

int spawner_link_new(struct engine *en, int fd, struct spawner_link **ret, struct err *e)
{
    struct spawner_link *l = calloc(1, sizeof *l);
    int flags = fcntl(fd, F_GETFL), r;

    if (l == NULL) {
        fd_close(fd);
        return err_set(e, ENOMEM, "%m");
    }
    l->en = en;
    l->fd = fd;
    STAILQ_INIT(&l->out);
    l->buf = malloc(WIRE_DATAGRAM_MAX);
    if (l->buf == NULL)
        r = err_set(e, ENOMEM, "%m");
    else if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        r = err_set(e, errno, "the supervisor's socket: %m");
    else if ((r = io_start(en->loop, &l->io, fd, EPOLLIN, readable)) < 0)
        (void)err_set(e, r, "the supervisor's socket: %m");
    if (r < 0) {
        spawner_link_free(l);
        return r;
    }
    *ret = l;
    return 0;
}

void spawner_link_free(struct spawner_link *l)
{
    struct sp_ask *a, *next;
    struct sp_out *o;
    struct err e;

    if (l == NULL)
        return;
    l->broken = true; /* nobody asks any more */
    io_stop(&l->io);
    (void)err_typed(&e, ERR_UNAVAILABLE, "RUNNER_UNAVAILABLE", "the daemon is stopping");
    HASH_ITER (hh, l->asks, a, next) {
        HASH_DEL(l->asks, a);
        if (a->type != SP_CREATE && a->type != SP_KILL) /* a sandbox is not ended by our leaving */
            ask_failed(l, a, &e);
        free(a);
    }
    while ((o = STAILQ_FIRST(&l->out)) != NULL) {
        STAILQ_REMOVE_HEAD(&l->out, link);
        out_free(o);
    }
    fd_close(l->fd);
    free(l->buf);
    free(l);
}
