/* The child is a plain copy of the spawner (one thread, a sound heap), asked through a socket pair. It has no exit signal, so the
 * spawner's SIGCHLD handling never sees it, and ends with the other side of the socket, however that went away. */
#include "spawner/egress-maker.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/slice.h"

enum {
    DEATHS_MAX = 3, /* after which it is not started again */
    WORDS_MAX = 240,
    NETNS_FDS = 2,
};

struct question {
    uint32_t driver, lease;
};
struct answer {
    struct question what;
    int32_t code;
    char words[WORDS_MAX];
};

static struct {
    int sock;
    pid_t pid;
    unsigned due, deaths;
} g = {.sock = -1};

/* ---- the child ------------------------------------------------------------------------------------------------------ */

static bool answer(int sock, const struct answer *a, const struct netns *n)
{
    union {
        char space[CMSG_SPACE(NETNS_FDS * sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    struct iovec io = {(void *)(uintptr_t)a, sizeof *a};
    struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1};

    if (a->code == 0) {
        const int fds[NETNS_FDS] = {n->fd, n->sysfs_fd};
        struct cmsghdr *c;

        m.msg_control = control.space;
        m.msg_controllen = sizeof control.space;
        c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof fds);
        memcpy(CMSG_DATA(c), fds, sizeof fds);
    }
    return sendmsg(sock, &m, MSG_NOSIGNAL) >= 0;
}

static void serve(int sock, int (*make)(struct netns *n, struct err *e))
{
    struct question q;

    while (recv(sock, &q, sizeof q, 0) == (ssize_t)sizeof q) {
        struct netns n = {.fd = -1, .sysfs_fd = -1, .driver = (enum sp_egress)q.driver, .lease = q.lease};
        struct answer a = {.what = q};
        struct err e = {0};
        bool heard;

        a.code = make(&n, &e);
        (void)memcpy(a.words, e.msg, sizeof a.words < sizeof e.msg ? sizeof a.words : sizeof e.msg);
        a.words[sizeof a.words - 1] = '\0';
        heard = answer(sock, &a, &n);
        netns_close(&n);
        if (!heard)
            return;
    }
}

static void close_others(int a, int b)
{
    int low = a < b ? a : b, high = a < b ? b : a;

    /* 5.9; cannot fail with sound numbers. stderr stays: that is where a crash would tell. */
    if (low > STDERR_FILENO + 1)
        (void)syscall(SYS_close_range, STDERR_FILENO + 1, low - 1, 0);
    if (high > low + 1)
        (void)syscall(SYS_close_range, low + 1, high - 1, 0);
    (void)syscall(SYS_close_range, high + 1, ~0u, 0);
}

int maker_start(void (*prepare)(void), int (*make)(struct netns *n, struct err *e), int keep, struct err *e)
{
    int pair[2];
    pid_t pid;

    if (g.sock >= 0)
        return 0;
    if (g.deaths >= DEATHS_MAX)
        return err_set(e, ENOTSUP, "the maker of network namespaces has died too often");
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return err_set(e, errno, "make a socket pair: %m");
    pid = (pid_t)syscall(SYS_clone, 0, 0, 0, 0, 0);
    if (pid == 0) {
        (void)prctl(PR_SET_NAME, "silica-nets"); /* a name for ps */
        /* Its waking must not push a creation off its processor. */
        slice_ask(0);
        (void)sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){0});
        close_others(pair[1], keep);
        prepare();
        serve(pair[1], make);
        _exit(0);
    }
    fd_close(pair[1]);
    if (pid < 0) {
        int r = err_set(e, errno, "start the maker of network namespaces: %m");

        fd_close(pair[0]);
        return r;
    }
    g.sock = pair[0];
    g.pid = pid;
    g.due = 0;
    return 0;
}

/* ---- the spawner's side --------------------------------------------------------------------------------------------- */

bool maker_runs(void)
{
    return g.sock >= 0;
}

bool maker_ask(enum sp_egress driver, uint32_t lease)
{
    const struct question q = {.driver = driver, .lease = lease};

    if (g.sock < 0 || g.due == MAKER_DUE_MAX ||
        send(g.sock, &q, sizeof q, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)sizeof q)
        return false;
    g.due++;
    return true;
}

static void take_fds(struct msghdr *m, struct netns *n)
{
    struct cmsghdr *c = CMSG_FIRSTHDR(m);
    int fds[NETNS_FDS];

    if (c == NULL || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof fds))
        return;
    memcpy(fds, CMSG_DATA(c), sizeof fds);
    n->fd = fds[0];
    n->sysfs_fd = fds[1];
}

int maker_receive(struct netns *n, bool wait, struct err *e)
{
    union {
        char space[CMSG_SPACE(NETNS_FDS * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct answer a;
    struct iovec io = {&a, sizeof a};
    struct msghdr m = {
        .msg_iov = &io, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof control.space};
    ssize_t got;

    if (g.sock < 0)
        return err_set(e, ENOTCONN, "there is no maker of network namespaces");
    if (g.due == 0)
        return 0;
    do
        got = recvmsg(g.sock, &m, MSG_CMSG_CLOEXEC | (wait ? 0 : MSG_DONTWAIT));
    while (got < 0 && errno == EINTR);
    if (got < 0 && errno == EAGAIN)
        return 0;
    *n = (struct netns){.fd = -1, .sysfs_fd = -1};
    if (got > 0)
        take_fds(&m, n);
    if (got == (ssize_t)sizeof a && (a.code < 0 || (n->fd >= 0 && n->sysfs_fd >= 0))) {
        g.due--;
        n->driver = (enum sp_egress)a.what.driver;
        n->lease = a.what.lease;
        if (a.code == 0)
            return 1;
        return err_set(e, a.code, "%.*s", WORDS_MAX, a.words);
    }
    netns_close(n);
    g.deaths++;
    maker_stop();
    return err_set(e, ECONNRESET, "the maker of network namespaces has died");
}

void maker_stop(void)
{
    if (g.sock < 0)
        return;
    fd_closep(&g.sock);
    while (waitpid(g.pid, NULL, __WCLONE) < 0 && errno == EINTR)
        ; /* ECHILD: somebody has reaped it */
    g.due = 0;
}
