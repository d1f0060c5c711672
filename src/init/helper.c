/* Requests that take time: opening a file (in a child, since any part of a path may hang) and connecting to a port.
 * A helper that has answered may live on as a pump; HELPERS_MAX counts those too. */
#include "init/init-internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "init/kernel.h"

static struct helper *helper_new(struct init *in, uint64_t token, uint32_t timeout_ms)
{
    struct helper *h = in->helper_count < HELPERS_MAX ? calloc(1, sizeof *h) : NULL;

    if (h == NULL) {
        control_refuse(in, token, -EAGAIN, IN_ST_LIMIT,
                       "too many files and ports of the sandbox are being opened (64)");
        return NULL;
    }
    h->source.fd = -1;
    h->token = token;
    h->deadline = now_ms() + timeout_ms;
    list_append(&in->helpers, &h->all);
    in->helper_count++;
    return h;
}

static void close_fds(struct helper *h)
{
    while (h->nfds > 0)
        fd_close(h->fds[--h->nfds]);
}

/* Frees H once it has answered and its child is reaped. */
static void helper_settle(struct init *in, struct helper *h)
{
    if (!h->answered || h->pid != 0)
        return;
    list_remove(&h->all);
    in->helper_count--;
    close_fds(h);
    bury(in, &h->source);
}

static void helper_fail(struct init *in, struct helper *h, int code)
{
    unwatch(in, &h->source);
    h->code = code;
    h->ready = true;
}

static void helper_kill(struct helper *h)
{
    if (h->pid != 0)
        (void)kill(h->pid, SIGKILL); /* not reaped yet, so the pid is its own */
}

struct helper *helper_find_pid(struct init *in, int pid)
{
    for (struct link *l = in->helpers.next; l != &in->helpers; l = l->next) {
        struct helper *h = container_of(l, struct helper, all);

        if (h->pid == pid)
            return h;
    }
    return NULL;
}

void helper_reaped(struct init *in, struct helper *h)
{
    h->pid = 0;
    h->deadline = h->ready ? 0 : h->deadline;
    helper_settle(in, h);
}

void helper_expire(struct init *in, uint64_t now)
{
    for (struct link *l = in->helpers.next, *next; next = l->next, l != &in->helpers; l = next) {
        struct helper *h = container_of(l, struct helper, all);

        if (h->deadline == 0 || h->deadline > now)
            continue;
        h->deadline = 0;
        helper_kill(h);
        if (!h->ready)
            helper_fail(in, h, -ETIMEDOUT);
    }
}

void helper_drop_all(struct init *in)
{
    for (struct link *l = in->helpers.next, *next; next = l->next, l != &in->helpers; l = next) {
        struct helper *h = container_of(l, struct helper, all);

        helper_kill(h);
        unwatch(in, &h->source);
        h->ready = h->answered = true;
        h->deadline = 0;
        helper_settle(in, h);
    }
}

static int send_answer(struct init *in, struct helper *h)
{
    struct in_connected connected = {{0}};
    int r;

    if (h->code < 0)
        return control_send_failed(in, h->token, h->code, IN_ST_OPEN);
    if (h->is_connect)
        r = control_send_fds(in, IN_CONNECTED, h->token, &connected, sizeof connected, h->fds, h->nfds);
    else
        r = control_send_fds(in, IN_OPENED, h->token, &h->opened, sizeof h->opened, h->fds, h->nfds);
    if (r == -ETOOMANYREFS) { /* the sandbox's user has too many fds in flight */
        helper_kill(h);
        r = control_send_failed(in, h->token, -ETOOMANYREFS, IN_ST_LIMIT);
    }
    return r;
}

int helper_flush(struct init *in)
{
    for (struct link *l = in->helpers.next, *next; next = l->next, l != &in->helpers; l = next) {
        struct helper *h = container_of(l, struct helper, all);
        int r;

        if (!h->ready || h->answered)
            continue;
        r = send_answer(in, h);
        if (r < 0)
            return r;
        h->answered = true;
        close_fds(h);
        helper_settle(in, h);
    }
    return 0;
}

/* ---- open --------------------------------------------------------------------------------------------------------- */

/* The child's one message; end of file without it means that somebody in the sandbox killed it. */
static void open_ready(struct init *in, struct source *s, uint32_t events)
{
    struct helper *h = container_of(s, struct helper, source);
    struct open_result res;
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int[OPEN_FDS_MAX]))];
    } control;
    struct iovec iov = {&res, sizeof res};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    ssize_t n = recvmsg(s->fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    struct cmsghdr *c;

    (void)events;
    if (n < 0 && errno == EAGAIN)
        return;
    unwatch(in, s);
    h->ready = true;
    c = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
    if (c != NULL && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
        h->nfds = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof h->fds[0]);
        memcpy(h->fds, CMSG_DATA(c), h->nfds * sizeof h->fds[0]); /* as many as there was room for, at most */
    }
    if (n != (ssize_t)sizeof res || (res.code == 0 && h->nfds != (res.pumping == OPEN_NO_PUMP ? 1 : 2))) {
        h->code = -EIO;
        helper_kill(h);
        return;
    }
    h->code = res.code;
    h->opened = res.opened;
    if (res.pumping != OPEN_PUMP_BOUNDED)
        h->deadline = 0;
}

void open_request(struct init *in, const struct wire_msg *m)
{
    static struct open_plan plan; /* 4 KiB and more, too much for the stack of a small process */
    struct k_clone_args args = {.exit_signal = SIGCHLD};
    struct helper *h;
    uint32_t stage;
    const char *why;
    int pair[2], pid, r = plan_open(m, &plan, &stage, &why);

    if (r < 0) {
        control_refuse(in, m->head->token, r, stage, why);
        return;
    }
    h = helper_new(in, m->head->token, plan.timeout_ms);
    if (h == NULL)
        return;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        helper_fail(in, h, -errno);
        return;
    }
    pid = k_clone3(&args);
    if (pid == 0)
        open_run(&plan, pair[1]);
    r = pid < 0 ? -errno : 0;
    (void)close(pair[1]); /* the child's */
    h->source.fd = pair[0];
    h->source.ready = open_ready;
    h->pid = pid > 0 ? pid : 0;
    if (r == 0 && watch(in, &h->source, EPOLLIN) < 0)
        r = -errno;
    if (r < 0) {
        helper_kill(h);
        helper_fail(in, h, r);
    }
}

/* ---- connect ------------------------------------------------------------------------------------------------------ */

static void connect_ready(struct init *in, struct source *s, uint32_t events);

/* Begins to connect. Returns 0, or -errno when this family is out of the question. Loopback never makes connect(2) itself
 * wait, so this one needs no child. */
static int connect_begin(struct init *in, struct helper *h)
{
    struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)h->port)};
    struct sockaddr_in6 a6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)h->port)};
    int fd = socket(h->v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), r;

    if (fd < 0)
        return -errno;
    a4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    a6.sin6_addr.s6_addr[15] = 1;
    r = h->v6 ? connect(fd, (struct sockaddr *)&a6, sizeof a6) : connect(fd, (struct sockaddr *)&a4, sizeof a4);
    if (r < 0 && errno != EINPROGRESS) {
        r = -errno;
        (void)close(fd);
        return r;
    }
    h->source.fd = fd;
    h->source.ready = connect_ready;
    if (watch(in, &h->source, EPOLLOUT) < 0) {
        r = -errno;
        unwatch(in, &h->source);
        return r;
    }
    return 0;
}

static void connect_ready(struct init *in, struct source *s, uint32_t events)
{
    struct helper *h = container_of(s, struct helper, source);
    socklen_t len = sizeof h->code;

    (void)events;
    if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &h->code, &len) < 0)
        h->code = errno;
    if (h->code == 0) {
        h->fds[0] = fcntl(s->fd, F_DUPFD_CLOEXEC, 0);
        h->nfds = h->fds[0] < 0 ? 0 : 1;
        h->code = h->nfds == 0 ? errno : 0;
    }
    h->code = -h->code;
    unwatch(in, s);
    if (h->code < 0 && !h->v6) {
        h->v6 = true;
        if (connect_begin(in, h) == 0)
            return; /* should it fail too, its own error is as good */
    }
    h->ready = true;
    h->deadline = 0;
}

void connect_request(struct init *in, const struct wire_msg *m)
{
    const struct in_connect *c = m->body;
    uint32_t timeout = c->timeout_ms != 0 ? c->timeout_ms : PLAN_OPEN_TIMEOUT_MS;
    struct helper *h;
    int r;

    if (c->port < 1 || c->port > 65535) {
        control_refuse(in, m->head->token, -EINVAL, IN_ST_OPEN, "a port is a number from 1 to 65535");
        return;
    }
    h = helper_new(in, m->head->token, timeout < PLAN_OPEN_TIMEOUT_MAX_MS ? timeout : PLAN_OPEN_TIMEOUT_MAX_MS);
    if (h == NULL)
        return;
    h->is_connect = true;
    h->port = c->port;
    r = connect_begin(in, h);
    if (r < 0) {
        h->v6 = true;
        if (connect_begin(in, h) < 0)
            helper_fail(in, h, r);
    }
}
