/* A child shares nothing but descriptors: it is a plain copy of the spawner (one thread, a sound heap) in the same
 * namespaces, asked through a socket pair. It has no exit signal, so the spawner's SIGCHLD handling never sees it, and ends
 * with the other side of the socket, however that went away.
 *
 * There are several because their work is waiting, mostly (for the loop driver's threads and for grace periods): they all
 * read from one socket, and whoever is free takes the next message. */
#include "spawner/keeper.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/slice.h"

enum {
    KEEPERS = 3,
    DUE_MAX = 32,
    LATER_MAX = 16,
    LATER_MS = 10,
    PATIENCE_MS = 2000, /* a layer takes some milliseconds */
    DEATHS_MAX = 3,     /* after which it is not started again */
    WORDS_MAX = 240,
};

enum op { OP_MAKE = 1, OP_CLOSE };

struct question {
    uint32_t op, pad;
    uint64_t bytes;
};
struct answer {
    uint64_t bytes;
    int32_t code, pad;
    char path[192];
    char words[WORDS_MAX];
};

static struct {
    int sock;
    pid_t pids[KEEPERS]; /* 0 = none */
    unsigned due, deaths;
} g = {.sock = -1};

/* ---- messages ------------------------------------------------------------------------------------------------------ */

static int put(int sock, const void *data, size_t len, int fd, int flags)
{
    union {
        char space[CMSG_SPACE(sizeof fd)];
        struct cmsghdr align;
    } control = {0};
    struct iovec io = {(void *)(uintptr_t)data, len};
    struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1};

    if (fd >= 0) {
        m.msg_control = control.space;
        m.msg_controllen = sizeof control.space;
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(c), &fd, sizeof fd);
    }
    return sendmsg(sock, &m, flags | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* The length; 0 at the end. *RET_FD is -1 or the receiver's. */
static ssize_t get(int sock, void *data, size_t len, int *ret_fd, int flags)
{
    union {
        char space[CMSG_SPACE(sizeof *ret_fd)];
        struct cmsghdr align;
    } control;
    struct iovec io = {data, len};
    struct msghdr m = {
        .msg_iov = &io, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof control.space};
    struct cmsghdr *c;
    ssize_t n;

    *ret_fd = -1;
    do
        n = recvmsg(sock, &m, flags | MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    c = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;
    if (c != NULL && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
        memcpy(ret_fd, CMSG_DATA(c), sizeof *ret_fd);
    return n < 0 ? -errno : n;
}

/* ---- the child ------------------------------------------------------------------------------------------------------- */

static int by_number(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

static void close_others(int sock, const int *keep, unsigned count)
{
    int list[KEEPER_KEEP_MAX + 1];
    int next = 3; /* stderr stays: that is where a crash would tell */

    memcpy(list, keep, count * sizeof list[0]);
    list[count++] = sock;
    qsort(list, count, sizeof list[0], by_number);
    for (unsigned i = 0; i < count; i++) {
        if (list[i] > next)
            (void)syscall(SYS_close_range, next, list[i] - 1, 0); /* 5.9; cannot fail with sound numbers */
        if (list[i] >= next)
            next = list[i] + 1;
    }
    (void)syscall(SYS_close_range, next, ~0u, 0); /* as above */
}

static void answer_with_layer(int sock, uint64_t bytes, int (*make)(struct layer *l, uint64_t bytes, struct err *e))
{
    struct layer l = {.dir_fd = -1};
    struct answer a = {.bytes = bytes};
    struct err e = {0};

    a.code = make(&l, bytes, &e);
    memcpy(a.path, l.dir_path, sizeof a.path);
    memcpy(a.words, e.msg, sizeof a.words);
    a.words[sizeof a.words - 1] = '\0';
    if (put(sock, &a, sizeof a, a.code < 0 ? -1 : l.dir_fd, 0) < 0)
        _exit(0); /* nobody is there any more */
    fd_close(l.dir_fd);
}

static void serve(int sock, int (*make)(struct layer *l, uint64_t bytes, struct err *e))
{
    struct pollfd p = {.fd = sock, .events = POLLIN};
    int later[LATER_MAX], count = 0, fd;
    struct question q;
    ssize_t n;

    for (;;) {
        /* Descriptors are closed a moment after they came: the spawner's own copies must be gone first, else it is its
         * close that waits. */
        if (count == LATER_MAX || (count > 0 && poll(&p, 1, LATER_MS) == 0))
            while (count > 0)
                fd_close(later[--count]);
        n = get(sock, &q, sizeof q, &fd, count > 0 ? MSG_DONTWAIT : 0);
        if (n == -EAGAIN)
            continue; /* another one took it */
        if (n != (ssize_t)sizeof q)
            return;
        if (fd >= 0)
            later[count++] = fd;
        if (q.op == OP_MAKE)
            answer_with_layer(sock, q.bytes, make);
    }
}

int keeper_start(int (*make)(struct layer *l, uint64_t bytes, struct err *e), const int *keep, unsigned count,
                 struct err *e)
{
    int pair[2];

    _Static_assert(sizeof(((struct answer *)0)->path) == sizeof(((struct layer *)0)->dir_path), "a path fits");
    if (count > KEEPER_KEEP_MAX || g.deaths >= DEATHS_MAX)
        return err_set(e, ENOTSUP, "the keeper has died too often");
    /* What an image of the spawner before an upgrade in place has left: exit_signal 0 marks children of this kind. */
    while (waitpid(-1, NULL, __WCLONE | WNOHANG) > 0)
        ;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return err_set(e, errno, "make a socket pair: %m");
    for (unsigned i = 0; i < KEEPERS; i++) {
        pid_t pid = (pid_t)syscall(SYS_clone, 0, 0, 0, 0, 0);

        if (pid == 0) {
            (void)prctl(PR_SET_NAME, "silica-keeper"); /* a name for ps */
            /* Its waking must not push a creation off its processor. */
            slice_ask(0);
            (void)sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){0});
            close_others(pair[1], keep, count);
            serve(pair[1], make);
            _exit(0);
        }
        g.pids[i] = pid > 0 ? pid : 0;
    }
    fd_close(pair[1]);
    if (g.pids[0] == 0) { /* one is enough */
        int r = err_set(e, errno, "start the keeper: %m");

        fd_close(pair[0]);
        return r;
    }
    g.sock = pair[0];
    g.due = 0;
    return 0;
}

/* ---- the spawner's side ---------------------------------------------------------------------------------------------- */

bool keeper_runs(void)
{
    return g.sock >= 0;
}

unsigned keeper_due(void)
{
    return g.due;
}

void keeper_stop(void)
{
    if (g.sock < 0)
        return;
    fd_closep(&g.sock);
    for (unsigned i = 0; i < KEEPERS; i++) {
        while (g.pids[i] > 0 && waitpid(g.pids[i], NULL, __WCLONE) < 0 && errno == EINTR)
            ;
        g.pids[i] = 0;
    }
    g.due = 0;
}

bool keeper_ask(uint64_t bytes)
{
    const struct question q = {.op = OP_MAKE, .bytes = bytes};

    if (g.sock < 0 || g.due == DUE_MAX || put(g.sock, &q, sizeof q, -1, MSG_DONTWAIT) < 0)
        return false;
    g.due++;
    return true;
}

int keeper_receive(struct layer *l, bool wait, struct err *e)
{
    struct pollfd p = {.fd = g.sock, .events = POLLIN};
    struct answer a;
    ssize_t n;
    int fd;

    if (g.sock < 0)
        return err_set(e, ENOTCONN, "there is no keeper");
    if (g.due == 0)
        return 0;
    if (wait && poll(&p, 1, PATIENCE_MS) == 0)
        n = 0, fd = -1; /* one of them has died with a question of ours */
    else
        n = get(g.sock, &a, sizeof a, &fd, wait ? 0 : MSG_DONTWAIT);
    if (n == -EAGAIN)
        return 0;
    if (n != (ssize_t)sizeof a) {
        fd_close(fd);
        g.deaths++;
        keeper_stop();
        return err_set(e, ECONNRESET, "the keeper has died");
    }

    g.due--;
    *l = (struct layer){.dir_fd = fd, .bytes = a.bytes};
    if (a.code < 0)
        return err_set(e, a.code, "%.*s", WORDS_MAX, a.words);
    memcpy(l->dir_path, a.path, sizeof l->dir_path);
    return 1;
}

void keeper_discard(int *fd)
{
    const struct question q = {.op = OP_CLOSE};

    /* Our own copy is not the last one then. When this fails it is, and we wait ourselves. */
    if (*fd >= 0 && g.sock >= 0)
        (void)put(g.sock, &q, sizeof q, *fd, MSG_DONTWAIT);
    fd_closep(fd);
}
