/* The conversation with one init (wire/in.h).
 *
 * The code at the other end is ours, but it lives with the sandbox and could be taken over by it one day: whatever arrives is
 * a claim. An answer must belong to a question that is open and be of the type the question has; counts and types of
 * descriptors must fit; numbers must be in range. Anything else is a broken protocol, which ends the sandbox and nothing
 * more. The callbacks see only messages that passed.
 *
 * After a restart the socket may still hold messages meant for the silicad before us; they are dropped until the table of
 * our own epoch arrives. Init repeats what matters after that table. */
#include "engine/init-link.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/queue.h>

#include "base/fd.h"
#include "base/log.h"
#include "engine/given-fd.h"

/* A question that waits for its answer. */
struct ask {
    UT_hash_handle hh;
    uint64_t token;
    uint16_t type;
    uint32_t detail; /* IN_SPAWN: flags, IN_OPEN: flags */
    init_cb cb;
    void *arg;
};

/* A message the socket had no room for. */
struct unsent {
    STAILQ_ENTRY(unsent) link;
    uint16_t type;
    uint64_t token;
    size_t body_len, size;
    struct wire_tail tail;
    uint8_t body[];
};
STAILQ_HEAD(unsent_list, unsent);

enum phase { WAIT_TABLE, ENTRIES, TALKING };

struct init_link {
    struct box *box;
    struct engine *en;
    int fd;
    struct io io;
    struct ask *asks;
    unsigned ask_count;
    struct unsent_list unsent;
    unsigned unsent_count;
    size_t unsent_bytes;
    enum phase phase;
    unsigned entries_left;
    void (*ready)(struct box *b);
    struct defer lost_later;
    struct err why;
    bool lost;   /* nothing more is sent or received */
    bool *freed; /* set by init_link_free() while a message is being handled */
};

enum { MESSAGES_PER_TURN = 16 };

static const struct {
    uint16_t question, answer;
} pairs[] = {
    {IN_USER, IN_USER_IS}, {IN_SPAWN, IN_SPAWNED}, {IN_KILL, IN_OK}, {IN_OPEN, IN_OPENED}, {IN_CONNECT, IN_CONNECTED},
};

static int answer_of(uint16_t question)
{
    for (size_t i = 0; i < ARRAY_LEN(pairs); i++) {
        if (pairs[i].question == question)
            return pairs[i].answer;
    }
    return -1;
}

/* ---- the end ------------------------------------------------------------------------------------------------------- */

static void tell_lost(struct defer *d)
{
    struct init_link *l = container_of(d, struct init_link, lost_later);

    box_init_lost(l->box, &l->why);
}

/* The box hears of it from the loop, never from inside a call it made itself. */
static void lose(struct init_link *l, const struct err *why)
{
    if (l->lost)
        return;
    l->lost = true;
    l->why = *why;
    io_stop(&l->io);
    defer_start(l->en->loop, &l->lost_later, tell_lost);
}

static void broke_protocol(struct init_link *l, const char *what)
{
    struct err e = {0};

    (void)err_typed(&e, ERR_INTERNAL, NULL, "the init of sandbox %s broke its protocol: %s", l->box->id, what);
    lose(l, &e);
}

/* ---- sending ------------------------------------------------------------------------------------------------------- */

static void unsent_free(struct unsent *u)
{
    wire_tail_fini(&u->tail);
    free(u);
}

static int queue_message(struct init_link *l, uint16_t type, uint64_t token, const void *body, size_t body_len,
                         const struct wire_tail *tail)
{
    size_t tail_len = tail != NULL ? tail->len : 0;
    size_t size = sizeof(struct unsent) + body_len + tail_len;
    struct unsent *u;

    if (type != IN_KILL && (l->unsent_count >= INIT_UNSENT_MAX || l->unsent_bytes > INIT_UNSENT_BYTES ||
                            size > INIT_UNSENT_BYTES - l->unsent_bytes))
        return -EAGAIN;
    u = calloc(1, sizeof *u + body_len);
    if (u == NULL)
        return -ENOMEM;
    *u = (struct unsent){.type = type, .token = token, .body_len = body_len, .size = size};
    memcpy(u->body, body, body_len);
    if (tail_len > 0) {
        u->tail.data = malloc(tail_len);
        if (u->tail.data == NULL) {
            free(u);
            return -ENOMEM;
        }
        memcpy(u->tail.data, tail->data, tail_len);
        u->tail.len = u->tail.cap = tail_len;
    }
    STAILQ_INSERT_TAIL(&l->unsent, u, link);
    l->unsent_count++;
    l->unsent_bytes += size;
    (void)io_set(&l->io, EPOLLIN | EPOLLOUT); /* cannot fail on a started source */
    return 0;
}

/* 0, or why the message was not taken. */
static int send_message(struct init_link *l, uint16_t type, uint64_t token, const void *body, size_t body_len,
                        const struct wire_tail *tail)
{
    int r;

    if (l->lost)
        return -EPIPE;
    if (tail != NULL && tail->failed)
        return -E2BIG;
    r = l->unsent_count > 0 ? -EAGAIN : wire_send(l->fd, type, token, body, body_len, tail, NULL, 0);
    return r == -EAGAIN ? queue_message(l, type, token, body, body_len, tail) : r;
}

static void flush(struct init_link *l)
{
    struct unsent *u;
    struct err e = {0};
    int r;

    while ((u = STAILQ_FIRST(&l->unsent)) != NULL) {
        r = wire_send(l->fd, u->type, u->token, u->body, u->body_len, u->tail.len > 0 ? &u->tail : NULL, NULL, 0);
        if (r == -EAGAIN)
            return;
        if (r < 0) {
            (void)err_set(&e, r, "the init of sandbox %s cannot be reached: %m", l->box->id);
            lose(l, &e);
            return;
        }
        STAILQ_REMOVE_HEAD(&l->unsent, link);
        l->unsent_count--;
        l->unsent_bytes -= u->size;
        unsent_free(u);
    }
    (void)io_set(&l->io, EPOLLIN);
}

static uint64_t fresh_token(struct box *b)
{
    uint64_t floor = b->en->epoch << 32;

    if (b->next_token < floor)
        b->next_token = floor;
    return ++b->next_token;
}

uint64_t init_token(struct init_link *l)
{
    return fresh_token(l->box);
}

int init_ask(struct init_link *l, uint16_t type, uint64_t token, const void *body, size_t body_len,
             const struct wire_tail *tail, init_cb cb, void *arg, struct err *e)
{
    struct ask *a, *clash;
    int r;

    assert(answer_of(type) >= 0);
    /* A kill is never refused: there is one at most for each process, and whoever gives a process up does not ask again. */
    if (l->ask_count >= INIT_ASKS_MAX && type != IN_KILL)
        return err_typed(e, ERR_EXHAUSTED, NULL, "sandbox %s has %u requests under way, which is the limit", l->box->id,
                         l->ask_count);
    if (token == 0)
        token = fresh_token(l->box);
    HASH_FIND (hh, l->asks, &token, sizeof token, clash)
        ;
    if (clash != NULL) /* two signals to one process: the caller may ask again once the first is answered */
        return err_typed(e, ERR_UNAVAILABLE, NULL, "a request about this process of sandbox %s is under way",
                         l->box->id);

    a = calloc(1, sizeof *a);
    if (a == NULL)
        return err_set(e, ENOMEM, "out of memory");
    *a = (struct ask){.token = token, .type = type, .cb = cb, .arg = arg};
    if (type == IN_SPAWN)
        a->detail = ((const struct in_spawn *)body)->flags;
    else if (type == IN_OPEN)
        a->detail = ((const struct in_open *)body)->flags;

    r = send_message(l, type, token, body, body_len, tail);
    if (r < 0) {
        free(a);
        if (r == -EAGAIN || r == -EPIPE || r == -ECONNRESET)
            return err_typed(e, ERR_UNAVAILABLE, NULL, "sandbox %s does not take requests any more", l->box->id);
        return err_set(e, r, "send a request to sandbox %s: %m", l->box->id);
    }
    HASH_ADD(hh, l->asks, token, sizeof a->token, a);
    l->ask_count++;
    return 0;
}

int init_tell(struct init_link *l, uint16_t type, uint64_t token, const void *body, size_t body_len)
{
    struct err e = {0};
    int r = send_message(l, type, token, body, body_len, NULL);

    if (r < 0 && !l->lost) { /* an init that lets its mail pile up is as bad as a dead one */
        (void)err_set(&e, r, "the init of sandbox %s does not read its messages: %m", l->box->id);
        lose(l, &e);
    }
    return r;
}

/* ---- checking ------------------------------------------------------------------------------------------------------ */

/* FDS of a process that was started with FLAGS. */
static bool fds_fit(const int *fds, unsigned n, uint32_t flags)
{
    unsigned at = 0;

    if ((flags & IN_S_TTY) != 0)
        return n == 1 && given_fd_is(fds[0], GIVEN_PTY_MASTER);

    if ((flags & IN_S_STDIN) != 0) {
        if (at >= n || !given_fd_is(fds[at++], GIVEN_PIPE_WRITE))
            return false;
    }
    if (at >= n || !given_fd_is(fds[at++], GIVEN_PIPE_READ))
        return false;
    if ((flags & IN_S_MERGE) == 0) {
        if (at >= n || !given_fd_is(fds[at++], GIVEN_PIPE_READ))
            return false;
    }
    return at == n;
}

static bool opened_fits(const struct ask *a, const struct wire_msg *m)
{
    const struct in_opened *o = m->body;
    bool write = (a->detail & IN_O_WRITE) != 0;

    if (m->nfds < 1 || o->pumped > 1)
        return false;
    if (o->pumped) /* an init of the release before sends no verdict */
        return given_fd_is(m->fds[0], write ? GIVEN_PIPE_WRITE : GIVEN_PIPE_READ) &&
               (m->nfds == 1 || (m->nfds == 2 && given_fd_is(m->fds[1], GIVEN_PIPE_READ)));
    return m->nfds == 1 && given_fd_is(m->fds[0], write ? GIVEN_FILE_WRITE : GIVEN_FILE_READ);
}

/* NULL when M is a proper answer to A. */
static const char *answer_flaw(const struct ask *a, const struct wire_msg *m)
{
    bool bad = false;

    if (m->head->type == IN_FAILED) {
        const struct in_failed *f = m->body;

        (void)wire_get_str(m, f->msg, &bad);
        return bad || m->nfds != 0 || f->code >= 0 || f->code < -4095 ? "a malformed failure" : NULL;
    }
    if (m->head->type != answer_of(a->type))
        return "an answer of the wrong type";

    switch (m->head->type) {
    case IN_SPAWNED:
        return fds_fit(m->fds, m->nfds, a->detail) ? NULL : "a process with the wrong descriptors";
    case IN_OPENED:
        return opened_fits(a, m) ? NULL : "a file with the wrong descriptor";
    case IN_CONNECTED:
        return m->nfds == 1 && given_fd_is(m->fds[0], GIVEN_SOCKET) ? NULL : "a connection without a socket";
    case IN_USER_IS: {
        const struct in_user_is *u = m->body;

        (void)wire_get_str(m, u->name, &bad);
        if (m->nfds != 0 || u->ngroups > IN_GROUPS_MAX || wire_get_str(m, u->home, &bad) == NULL || bad)
            return "a malformed user";
        return NULL;
    }
    default:
        return m->nfds == 0 ? NULL : "descriptors nobody asked for";
    }
}

static bool exit_fits(const struct in_exited *x)
{
    switch (x->cause) {
    case IN_C_UNKNOWN:
        return true;
    case IN_C_EXITED:
        return x->code >= 0 && x->code <= 255;
    case IN_C_SIGNALED:
        return x->code >= 1 && x->code <= 64;
    default:
        return false;
    }
}

/* NULL when M may follow in the table. */
static const char *entry_flaw(struct init_link *l, const struct wire_msg *m)
{
    const struct in_entry *en = m->body;
    uint64_t token = m->head->token;
    struct proc *p;

    if (en->kind == 0 || en->kind >= IN_KIND_COUNT || (en->state != IN_RUNNING && en->state != IN_ENDED))
        return "a table entry of an unknown kind";
    if (token == 0 || token >= l->en->epoch << 32)
        return "a table entry from the future";
    HASH_FIND (hh, l->box->procs, &token, sizeof token, p)
        ;
    if (p != NULL || (en->kind == IN_MAIN && l->box->main != NULL))
        return "the same table entry twice";
    if (m->nfds > 0 && !fds_fit(m->fds, m->nfds, en->flags))
        return "a table entry with the wrong descriptors";
    return NULL;
}

/* ---- receiving ----------------------------------------------------------------------------------------------------- */

static void on_answer(struct init_link *l, struct wire_msg *m)
{
    uint64_t token = m->head->token;
    const char *flaw;
    struct ask *a;

    HASH_FIND (hh, l->asks, &token, sizeof token, a)
        ;
    if (a == NULL) {
        broke_protocol(l, "an answer to a question that was not asked");
        return;
    }
    flaw = answer_flaw(a, m);
    if (flaw != NULL) {
        broke_protocol(l, flaw); /* the question is answered with an error when the link is freed */
        return;
    }

    HASH_DELETE(hh, l->asks, a);
    l->ask_count--;
    a->cb(a->arg, NULL, m);
    free(a);
}

static void on_table(struct init_link *l, const struct wire_msg *m)
{
    const struct in_table *t = m->body;

    if (t->epoch != l->en->epoch) /* the answer to a silicad before us */
        return;
    if (t->count > IN_PROCS_MAX) {
        broke_protocol(l, "a table of impossible length");
        return;
    }
    l->entries_left = t->count;
    l->phase = ENTRIES;
}

static void on_entry(struct init_link *l, struct wire_msg *m)
{
    const char *flaw = m->head->type == IN_ENTRY ? entry_flaw(l, m) : "a table with a hole";

    if (flaw != NULL) {
        broke_protocol(l, flaw);
        return;
    }
    l->entries_left--;
    proc_adopt(l->box, m->head->token, m->body, m->fds, m->nfds);
}

static void on_message(struct init_link *l, struct wire_msg *m)
{
    const bool *freed = l->freed; /* outlives L */

    switch (l->phase) {
    case WAIT_TABLE:
        if (m->head->type == IN_TABLE)
            on_table(l, m);
        break;
    case ENTRIES:
        on_entry(l, m);
        break;
    case TALKING:
        if (m->head->type == IN_EXITED) {
            if (m->nfds != 0 || !exit_fits(m->body))
                broke_protocol(l, "a malformed exit");
            else
                proc_exited(l->box, m->head->token, m->body);
        } else if (m->head->type <= IN_ENTRY) { /* our own questions, or a second table */
            broke_protocol(l, "a message that only silicad sends");
        } else {
            on_answer(l, m);
        }
        return;
    }
    if (!*freed && l->phase == ENTRIES && l->entries_left == 0 && !l->lost) {
        l->phase = TALKING;
        l->ready(l->box);
    }
}

/* One message. False when there is none, or the link is gone or lost. */
static bool receive(struct init_link *l)
{
    /* Loop thread only, and a callback never receives: one buffer for all sandboxes, not 68 KiB for each. */
    static _Alignas(8) uint8_t buffer[WIRE_DATAGRAM_MAX];
    struct err e = {0};
    struct wire_msg m;
    bool freed = false;
    int r;

    r = wire_recv(l->fd, buffer, sizeof buffer, in_body_size, &m);
    if (r == -EAGAIN || r == -EINTR)
        return false;
    if (r == 0) {
        (void)err_typed(&e, ERR_UNAVAILABLE, NULL, "its control socket was closed");
        lose(l, &e);
        return false;
    }
    if (r < 0) {
        if (r == -EBADMSG)
            broke_protocol(l, "a malformed message");
        else {
            (void)err_set(&e, r, "read from the init of sandbox %s: %m", l->box->id);
            lose(l, &e);
        }
        return false;
    }

    l->freed = &freed;
    on_message(l, &m);
    wire_msg_fini(&m);
    if (freed)
        return false;
    l->freed = NULL;
    return !l->lost;
}

static void on_io(struct io *io, uint32_t events)
{
    struct init_link *l = container_of(io, struct init_link, io);

    if ((events & EPOLLOUT) != 0) {
        flush(l);
        if (l->lost)
            return;
    }
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) == 0)
        return;
    for (unsigned i = 0; i < MESSAGES_PER_TURN; i++) {
        if (!receive(l))
            return;
    }
}

/* ---- life ---------------------------------------------------------------------------------------------------------- */

int init_link_new(struct box *b, int fd, void (*ready)(struct box *b), struct init_link **ret, struct err *e)
{
    AUTO_FD own = fd;
    struct in_hello hello = {.epoch = b->en->epoch};
    struct init_link *l;
    int r;

    if (hello.epoch == 0 || hello.epoch > UINT32_MAX)
        return err_set(e, EINVAL, "epoch %" PRIu64 " is out of range", hello.epoch);
    r = given_fd_prepare(own);
    if (r < 0)
        return err_set(e, r, "control socket of sandbox %s: %m", b->id);

    l = calloc(1, sizeof *l);
    if (l == NULL)
        return err_set(e, ENOMEM, "out of memory");
    *l = (struct init_link){.box = b, .en = b->en, .fd = -1, .ready = ready, .phase = WAIT_TABLE};
    STAILQ_INIT(&l->unsent);

    r = io_start(b->en->loop, &l->io, own, EPOLLIN, on_io);
    if (r < 0) {
        free(l);
        return err_set(e, r, "watch the control socket of sandbox %s: %m", b->id);
    }
    l->fd = take_fd(&own);
    r = send_message(l, IN_HELLO, 0, &hello, sizeof hello, NULL);
    if (r < 0) {
        init_link_free(l);
        return err_set(e, r, "greet the init of sandbox %s: %m", b->id);
    }
    *ret = l;
    return 0;
}

void init_link_free(struct init_link *l)
{
    struct unsent *u;
    struct ask *a, *next;
    struct err e = {0};

    if (l == NULL)
        return;
    if (l->freed != NULL)
        *l->freed = true;
    l->lost = true; /* a callback below that asks something new is refused */
    io_stop(&l->io);
    defer_stop(&l->lost_later);
    fd_close(l->fd);

    box_end_error(l->box, &e);
    HASH_ITER (hh, l->asks, a, next) {
        HASH_DELETE(hh, l->asks, a);
        a->cb(a->arg, &e, NULL);
        free(a);
    }
    while ((u = STAILQ_FIRST(&l->unsent)) != NULL) {
        STAILQ_REMOVE_HEAD(&l->unsent, link);
        unsent_free(u);
    }
    free(l);
}
