/* The connection to silicad.
 *
 * Only one connection counts, the newest. Its first message is HELLO; a peer that sends anything malformed, or anything
 * else first, is not a silicad: its connection is closed and init waits for the next one on IN_LISTEN_FD. Nothing is
 * answered to it, since what it asked cannot be known. Processes never notice. */
#include "init/init-internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

/* The kernel has no memory for a message: no event tells when it has again. */
enum { RETRY_MS = 100 };

static void watch_control(struct init *in)
{
    uint32_t events = in->retry_at != 0 ? 0 : in->blocked ? EPOLLOUT : EPOLLIN;
    struct epoll_event ev = {.events = events, .data.ptr = &in->control};

    if (in->control.fd >= 0 && events != in->control_events &&
        epoll_ctl(in->epoll, EPOLL_CTL_MOD, in->control.fd, &ev) == 0)
        in->control_events = events;
}

static void drop_held(struct init *in)
{
    wire_tail_fini(&in->held_tail);
    in->held = false;
}

/* Marks in the tables stay: the next HELLO sorts out what they are worth. */
static void control_close(struct init *in)
{
    unwatch(in, &in->control);
    drop_held(in);
    in->greeted = in->blocked = false;
    in->retry_at = 0;
}

void control_accept(struct init *in, struct source *s, uint32_t events)
{
    int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct ucred peer;
    socklen_t len = sizeof peer;

    (void)events;
    if (fd < 0)
        return;
    /* The socket's path is outside of the sandbox. Should it ever be reachable from inside all the same: processes of
     * our own pid namespace have a pid here, those outside have none. */
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 || peer.pid != 0) {
        (void)close(fd);
        return;
    }
    control_close(in);
    in->control.fd = fd;
    in->control_events = EPOLLIN;
    if (watch(in, &in->control, EPOLLIN) < 0)
        control_close(in);
}

/* Sends one message. Returns 0, -EAGAIN (the socket is full, reading stops until it is not), -ETOOMANYREFS (the fds cannot
 * be passed now), or -EPIPE with the connection closed. */
static int control_send(struct init *in, uint16_t type, uint64_t token, const void *body, size_t len,
                        const struct wire_tail *tail, const int *fds, unsigned nfds)
{
    int r = wire_send(in->control.fd, type, token, body, len, tail, fds, nfds);

    switch (r) {
    case 0:
    case -ETOOMANYREFS:
        return r;
    case -ENOBUFS:
    case -ENOMEM:
        in->retry_at = now_ms() + RETRY_MS;
        in->blocked = true;
        return -EAGAIN;
    case -EAGAIN:
        in->blocked = true;
        return r;
    default:
        control_close(in);
        return -EPIPE;
    }
}

void control_answer_tail(struct init *in, uint16_t type, uint64_t token, const void *body, size_t len,
                         struct wire_tail *tail)
{
    /* Answers come from reading, and nothing is read while one is held. */
    if (in->control.fd < 0 || in->held || control_send(in, type, token, body, len, tail, NULL, 0) != -EAGAIN) {
        wire_tail_fini(tail);
        return;
    }
    in->held = true;
    in->held_type = type;
    in->held_token = token;
    in->held_len = len;
    memcpy(in->held_body, body, len);
    in->held_tail = *tail;
}

void control_answer(struct init *in, uint16_t type, uint64_t token, const void *body, size_t len)
{
    struct wire_tail none = {0};

    control_answer_tail(in, type, token, body, len, &none);
}

void control_refuse(struct init *in, uint64_t token, int code, uint32_t stage, const char *why)
{
    struct wire_tail tail = {0};
    struct in_failed f = {.code = code, .stage = stage};

    f.msg = wire_put_str(&tail, why);
    if (tail.failed) {
        wire_tail_fini(&tail);
        f.msg = (struct wire_str){0};
    }
    control_answer_tail(in, IN_FAILED, token, &f, sizeof f, &tail);
}

static const char *const stage_text[] = {
    [IN_ST_OTHER] = "the process could not be set up",       [IN_ST_FORK] = "the process could not be created",
    [IN_ST_CWD] = "the working directory cannot be entered", [IN_ST_USER] = "the user cannot be assumed",
    [IN_ST_EXEC] = "the program cannot be executed",         [IN_ST_OPEN] = "the file cannot be opened",
    [IN_ST_LIMIT] = "a limit of the sandbox was reached",
};

int control_send_failed(struct init *in, uint64_t token, int code, uint32_t stage)
{
    struct wire_tail tail = {0};
    struct in_failed f = {.code = code, .stage = stage};
    char why[160];
    int r;

    (void)snprintf(why, sizeof why, "%s: %s", stage_text[stage < ARRAY_LEN(stage_text) ? stage : 0], strerror(-code));
    f.msg = wire_put_str(&tail, why);
    r = control_send(in, IN_FAILED, token, &f, sizeof f, tail.failed ? NULL : &tail, NULL, 0);
    wire_tail_fini(&tail);
    return r;
}

int control_send_fds(struct init *in, uint16_t type, uint64_t token, const void *body, size_t len, const int *fds,
                     unsigned nfds)
{
    return control_send(in, type, token, body, len, NULL, fds, nfds);
}

static int flush_held(struct init *in)
{
    int r;

    if (!in->held)
        return 0;
    r = control_send(in, in->held_type, in->held_token, in->held_body, in->held_len, &in->held_tail, NULL, 0);
    if (r == 0)
        drop_held(in);
    return r;
}

void control_flush(struct init *in)
{
    if (in->control.fd < 0 || !in->greeted)
        return;
    in->retry_at = 0;
    in->blocked = false;
    /* The table comes whole before anything else. */
    if (flush_held(in) == 0 && proc_flush_entries(in) == 0 && proc_flush(in) == 0)
        (void)helper_flush(in); /* what it means is in in->blocked and in->control.fd */
    watch_control(in);
}

static void hello(struct init *in, uint64_t epoch)
{
    struct in_table t = {.epoch = epoch};
    bool newer = epoch > in->epoch;

    in->epoch = epoch;
    in->greeted = true;
    if (newer)
        helper_drop_all(in);
    t.count = proc_greet(in, epoch, newer);
    control_answer(in, IN_TABLE, 0, &t, sizeof t);
    control_flush(in); /* entries before the answer to whatever was asked together with HELLO */
}

static void ack(struct init *in, const struct wire_msg *m)
{
    struct proc *p = proc_find(in, m->head->token);

    if (p != NULL && p->reaped && p->state == PROC_UP && (p->todo & ~(unsigned)TODO_EXITED) == 0)
        proc_forget(in, p);
}

static void close_stdin(struct init *in, const struct wire_msg *m)
{
    struct proc *p = proc_find(in, m->head->token);

    if (p != NULL && (p->flags & IN_S_STDIN) != 0 && p->nfds > 0 && (p->todo & TODO_SPAWNED) == 0) {
        (void)close(p->fds[0]); /* a pipe: nothing to be told */
        p->nfds--;
        memmove(p->fds, p->fds + 1, p->nfds * sizeof *p->fds);
        p->flags &= ~(uint32_t)IN_S_STDIN;
    }
}

static int handle(struct init *in, const struct wire_msg *m)
{
    if (m->head->type == IN_HELLO) {
        uint64_t epoch = ((const struct in_hello *)m->body)->epoch;

        if (epoch == 0)
            return -EBADMSG;
        if (epoch >= in->epoch) /* else: from a silicad that has been replaced */
            hello(in, epoch);
        return 0;
    }
    if (!in->greeted)
        return -EBADMSG;
    switch (m->head->type) {
    case IN_USER:
        user_request(in, m);
        return 0;
    case IN_SPAWN:
        spawn_request(in, m);
        return 0;
    case IN_KILL:
        kill_request(in, m);
        return 0;
    case IN_ACK:
        ack(in, m);
        return 0;
    case IN_OPEN:
        open_request(in, m);
        return 0;
    case IN_CONNECT:
        connect_request(in, m);
        return 0;
    case IN_CLOSE_STDIN:
        close_stdin(in, m);
        return 0;
    default: /* one of our own answers */
        return -EBADMSG;
    }
}

void control_ready(struct init *in, struct source *s, uint32_t events)
{
    static _Alignas(8) char buf[WIRE_DATAGRAM_MAX];

    if (in->blocked) {
        /* Sending finds out whether the peer is still there. */
        if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0)
            control_flush(in);
        return;
    }
    for (int i = 0; i < REQUESTS_PER_TURN && s->fd >= 0 && !in->blocked; i++) {
        struct wire_msg m;
        int r = wire_recv(s->fd, buf, sizeof buf, in_body_size, &m);

        if (r == -EAGAIN)
            return;
        if (r == 1) {
            r = handle(in, &m);
            wire_msg_fini(&m);
            if (r == 0)
                continue;
        }
        control_close(in); /* end of file, an error, or not a silicad */
        return;
    }
}
