/* One connection: bytes between its socket and its codec, and its end.
 *
 * Everything a loop turn produces for a connection (replies of several streams, window updates, acknowledgements) is
 * written by one deferred call, conn_turn(), so that a busy connection costs one writev a turn. conn_turn() is also the
 * only place that frees a connection. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/fd.h"
#include "net/net-internal.h"

static const char preface[H2_PREFACE + 1] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

static void conn_turn(struct defer *d);
static void conn_ready(struct io *io, uint32_t events);

struct conn *conn_new(struct http_server *s, int fd, const struct sockaddr_storage *peer)
{
    struct conn *c = calloc(1, sizeof *c);

    if (c == NULL)
        return NULL;
    c->server = s;
    c->fd = fd;
    c->peer = *peer;
    c->due = DUE_NONE;
    TAILQ_INIT(&c->reqs);
    TAILQ_INIT(&c->resumes);
    TAILQ_INIT(&c->blocked);
    if (fd >= 0 && io_start(s->loop, &c->io, fd, EPOLLIN, conn_ready) < 0) {
        free(c);
        return NULL;
    }
    TAILQ_INSERT_TAIL(&s->conns, c, link);
    s->conn_count++;
    server_due(c, DUE_SNIFF, 0);
    return c;
}

/* A request whose handler still counts on it. */
static struct http_req *first_live(struct conn *c)
{
    for (struct http_req *r = TAILQ_FIRST(&c->reqs); r != NULL; r = TAILQ_NEXT(r, link)) {
        if (!r->ended)
            return r;
    }
    return NULL;
}

static void tell_gone(struct conn *c)
{
    struct http_req *r;

    /* A handler that hears of one loss may end other requests of this connection: start over each time. */
    while ((r = first_live(c)) != NULL)
        req_gone(r, true);
}

void conn_free(struct conn *c)
{
    struct http_server *s = c->server;
    struct http_req *r;

    c->dead = true;
    tell_gone(c);
    while ((r = TAILQ_FIRST(&c->reqs)) != NULL)
        req_free(r);
    if (c->codec != NULL)
        c->codec->fini(c);
    server_due(c, DUE_NONE, 0);
    defer_stop(&c->turn);
    io_stop(&c->io);
    fd_close(c->fd);
    outq_fini(&c->out);
    TAILQ_REMOVE(&s->conns, c, link);
    s->conn_count--;
    free(c);
    server_conn_gone(s);
}

void conn_kick(struct conn *c)
{
    if (!c->turn.queued)
        defer_start(c->server->loop, &c->turn, conn_turn);
}

void conn_lose(struct conn *c)
{
    c->dead = true;
    conn_kick(c);
}

void conn_finish(struct conn *c)
{
    c->closing = true;
    conn_kick(c);
}

/* What a codec's negative answer means. */
static void conn_failed(struct conn *c, int r)
{
    if (r == -ENOMEM || r == -ENOBUFS)
        conn_lose(c);
    else if (!c->closing)
        conn_finish(c);
}

static int sniff(struct conn *c, const uint8_t **data, size_t *len)
{
    while (*len > 0 && c->sniffed < H2_PREFACE && **data == (uint8_t)preface[c->sniffed]) {
        c->sniffed++;
        (*data)++;
        (*len)--;
    }
    if (c->sniffed < H2_PREFACE) {
        if (*len == 0)
            return 0;
        h1_open(c);
    } else {
        int r = h2_open(c);

        if (r < 0)
            return r;
    }
    /* Replay what was held back while it could have been either. */
    return c->sniffed > 0 ? c->codec->feed(c, (const uint8_t *)preface, c->sniffed) : 0;
}

void conn_feed(struct conn *c, const uint8_t *data, size_t len)
{
    int r = 0;

    if (c->dead || c->closing)
        return;
    if (c->codec == NULL)
        r = sniff(c, &data, &len);
    if (r == 0 && c->codec != NULL && len > 0)
        r = c->codec->feed(c, data, len);
    if (r < 0)
        conn_failed(c, r);
    conn_kick(c);
}

bool conn_pump(struct conn *c)
{
    if (c->codec != NULL && !c->dead) {
        int r = c->codec->pump(c);

        if (r < 0)
            conn_failed(c, r);
    }
    return c->out.bytes > 0;
}

void conn_unblock(struct conn *c)
{
    size_t low = c->server->limits.out_low;
    struct http_req *r = TAILQ_FIRST(&c->blocked);

    while (r != NULL) {
        if (c->codec->backlog(r) >= low) {
            r = TAILQ_NEXT(r, blocked_link);
            continue;
        }
        TAILQ_REMOVE(&c->blocked, r, blocked_link);
        r->blocked = false;
        if (!r->ended && r->route->handler->writable != NULL)
            r->route->handler->writable(r);
        r = TAILQ_FIRST(&c->blocked); /* the call may have changed the list */
    }
}

/* Writes until the socket is full, nothing is left, or others should have their turn. */
static void conn_flush(struct conn *c)
{
    struct iovec iov[CONN_IOV];
    size_t wrote = 0;

    c->want_out = false;
    while (conn_pump(c) && !c->dead) {
        struct msghdr msg = {.msg_iov = iov, .msg_iovlen = outq_iov(&c->out, iov, CONN_IOV)};
        size_t asked = 0;
        ssize_t n;

        for (size_t i = 0; i < msg.msg_iovlen; i++)
            asked += iov[i].iov_len;
        n = sendmsg(c->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            c->want_out = true;
            return;
        }
        if (n < 0) {
            conn_lose(c);
            return;
        }
        outq_consume(&c->out, (size_t)n);
        wrote += (size_t)n;
        c->written += (size_t)n;
        conn_unblock(c);
        if ((size_t)n < asked || wrote >= CONN_WRITE_TURN) {
            c->want_out = true;
            return;
        }
    }
}

/* Our last byte is out: tell the peer, then read on for a while. Closing with unread input would send a reset, and a
 * reset makes the peer drop the reply it has not read yet. */
static void conn_shutdown(struct conn *c)
{
    c->shut = true;
    if (c->peer_eof || shutdown(c->fd, SHUT_WR) < 0)
        c->dead = true;
}

static void conn_settle(struct conn *c)
{
    uint32_t events = c->want_out ? EPOLLOUT : 0;
    uint64_t seq = 0;
    enum due due;

    if (c->closing) {
        due = c->shut ? DUE_LINGER : DUE_IDLE;
        seq = c->written;
    } else {
        due = c->codec != NULL ? c->codec->due(c, &seq) : DUE_SNIFF;
    }
    server_due(c, due, seq);

    if (c->fd < 0)
        return;
    if (!c->peer_eof && (c->closing || c->codec == NULL || c->codec->want_read(c)))
        events |= EPOLLIN;
    else if (!c->peer_eof && !c->hangup_seen)
        events |= EPOLLRDHUP;
    if (io_set(&c->io, events) < 0)
        c->dead = true;
}

static void conn_turn(struct defer *d)
{
    struct conn *c = container_of(d, struct conn, turn);

    if (!c->dead && !c->closing && c->codec != NULL) {
        int r = c->codec->advance(c);

        if (r < 0)
            conn_failed(c, r);
    }
    if (!c->dead && c->closing)
        tell_gone(c);
    if (!c->dead && c->fd >= 0)
        conn_flush(c);
    if (!c->dead && c->closing && !c->shut && c->out.bytes == 0 && c->fd >= 0) {
        tell_gone(c); /* flushing may have closed it */
        conn_shutdown(c);
    }
    if (!c->dead)
        conn_settle(c);
    if (c->dead)
        conn_free(c);
}

/* The peer has shut down its side. A client that does so while it waits for a reply is taken for gone: a full close looks
 * the same, and whatever runs for a client that left must end. */
static void conn_eof(struct conn *c)
{
    c->peer_eof = true;
    if (c->shut || first_live(c) != NULL)
        conn_lose(c);
    else
        conn_finish(c);
}

static void conn_read(struct conn *c)
{
    uint8_t *scratch = c->server->scratch;

    for (int i = 0; i < CONN_READS_PER_EVENT && !c->dead; i++) {
        ssize_t n = recv(c->fd, scratch, CONN_READ, MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            if (errno != EAGAIN && errno != EWOULDBLOCK)
                conn_lose(c);
            return;
        }
        if (n == 0) {
            conn_eof(c);
            return;
        }
        conn_feed(c, scratch, (size_t)n);
        if (n < CONN_READ || (c->codec != NULL && !c->closing && !c->codec->want_read(c)))
            return;
    }
}

static void conn_ready(struct io *io, uint32_t events)
{
    struct conn *c = container_of(io, struct conn, io);
    int unread = 0;

    conn_kick(c);
    if (events & (EPOLLERR | EPOLLHUP)) {
        conn_lose(c);
    } else if (events & EPOLLIN) {
        conn_read(c);
    } else if (events & EPOLLRDHUP) {
        /* Pipelined requests may wait in front of the end: they are answered before it counts. */
        if (ioctl(c->fd, FIONREAD, &unread) == 0 && unread > 0)
            c->hangup_seen = true;
        else
            conn_eof(c);
    }
}

void conn_drain(struct conn *c)
{
    if (c->draining || c->closing)
        return;
    c->draining = true;
    if (c->codec == NULL)
        conn_lose(c);
    else
        c->codec->drain(c);
    conn_kick(c);
}

void conn_expired(struct conn *c, enum due due)
{
    if (c->closing || c->codec == NULL)
        conn_lose(c);
    else
        c->codec->expired(c, due);
    conn_kick(c);
}
