/* The child behind IN_OPEN: becomes the user, resolves the path as that user, and passes the fd of a regular file. What
 * could block its reader or has no size (FIFO, device, a file of procfs or of an unknown file system) is pumped through a
 * pipe instead, so that nobody else ever reads from it. Runs with a copy of init's memory; system calls only. */
#include "init/init-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include "init/kernel.h"

enum { LOOKUP_TRIES = 128, SOCK_FD = 3, PUMP_BYTES = 32 << 10 };

/* What the child found. */
struct target {
    int fd; /* -1: a FIFO to write to that has no reader yet */
    struct stat st;
    long fs;
};

static void report(int sock, const struct open_result *res, const int *fds, unsigned nfds)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int[OPEN_FDS_MAX]))];
    } control = {0};
    struct iovec iov = {(void *)(uintptr_t)res, sizeof *res};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

    if (nfds > 0) {
        struct cmsghdr *c;

        msg.msg_control = control.bytes;
        msg.msg_controllen = CMSG_SPACE(nfds * sizeof *fds);
        c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(nfds * sizeof *fds);
        memcpy(CMSG_DATA(c), fds, nfds * sizeof *fds);
    }
    if (sendmsg(sock, &msg, MSG_NOSIGNAL) < 0)
        _exit(1); /* init reports EIO when nothing came */
}

static _Noreturn void fail(int sock, int code)
{
    struct open_result res = {.code = code};

    report(sock, &res, NULL, 0);
    _exit(0);
}

static int open_path(int root, const char *path, uint64_t flags, uint64_t mode)
{
    int fd = -1;

    for (int i = 0; i < LOOKUP_TRIES; i++) {
        fd = k_openat2(root, path, flags | O_CLOEXEC, mode, K_RESOLVE_IN_ROOT | K_RESOLVE_NO_MAGICLINKS);
        if (fd >= 0 || errno != EAGAIN)
            break;
    }
    return fd < 0 ? -errno : fd;
}

static int make_parents(int root, const char *path)
{
    char dir[IN_PATH_MAX];
    const char *slash = strrchr(path, '/');
    size_t len = (size_t)(slash - path); /* the path is absolute */
    int fd;

    memcpy(dir, path, len);
    memcpy(dir + len, "/", 2); /* there is room: the slash was there */
    fd = child_open_dir(root, dir, true);
    if (fd < 0)
        return fd;
    (void)close(fd);
    return 0;
}

/* A FIFO without a reader and a socket both say ENXIO. */
static int open_unread_fifo(int root, const char *path, struct target *t)
{
    AUTO_FD fd = open_path(root, path, O_PATH, 0);

    if (fd < 0)
        return fd;
    if (fstat(fd, &t->st) < 0)
        return -errno;
    t->fd = -1;
    return S_ISFIFO(t->st.st_mode) ? 0 : -ENXIO;
}

static int open_target(int root, const struct open_plan *p, struct target *t)
{
    bool writes = (p->flags & IN_O_WRITE) != 0;
    uint64_t flags = O_NONBLOCK | O_NOCTTY, mode = 0;
    struct statfs fs;
    int r;

    if (writes) {
        if (p->path[strlen(p->path) - 1] == '/')
            return -EISDIR;
        flags |= O_WRONLY | O_CREAT;
        flags |= (p->flags & IN_O_APPEND) != 0 ? O_APPEND : 0;
        flags |= (p->flags & IN_O_EXCL) != 0 ? O_EXCL : 0;
        mode = p->mode;
    }
    r = open_path(root, p->path, flags, mode);
    if (r == -ENOENT && (p->flags & IN_O_PARENTS) != 0) {
        r = make_parents(root, p->path);
        if (r == 0)
            r = open_path(root, p->path, flags, mode);
    }
    /* Debian's fs.protected_regular: in a sticky directory such as /tmp nobody, root included, may open somebody else's file
     * with O_CREAT. What is there needs no creating. */
    if (r == -EACCES && writes && (p->flags & IN_O_EXCL) == 0) {
        int there = open_path(root, p->path, flags & ~(uint64_t)O_CREAT, 0);

        if (there >= 0 || there == -ENXIO)
            r = there;
    }
    if (r == -ENXIO && writes)
        return open_unread_fifo(root, p->path, t);
    if (r < 0)
        return r;

    t->fd = r;
    if (fstat(t->fd, &t->st) < 0 || fstatfs(t->fd, &fs) < 0)
        return -errno;
    if (S_ISDIR(t->st.st_mode))
        return -EISDIR;
    t->fs = (long)fs.f_type;
    /* Not O_TRUNC, which would reach devices and files that are about to be pumped as well. */
    if (writes && (p->flags & IN_O_APPEND) == 0 && S_ISREG(t->st.st_mode) && t->st.st_size > 0 &&
        (ftruncate(t->fd, 0) < 0 || fstat(t->fd, &t->st) < 0))
        return -errno;
    return 0;
}

/* File systems whose regular files have a size, never block for long and can be handed out. */
static bool is_plain(const struct target *t)
{
    static const long plain[] = {K_OVERLAY_MAGIC, K_TMPFS_MAGIC, K_EXT4_MAGIC, K_XFS_MAGIC, K_BTRFS_MAGIC};

    if (t->fd < 0 || !S_ISREG(t->st.st_mode))
        return false;
    for (size_t i = 0; i < ARRAY_LEN(plain); i++) {
        if ((uint32_t)t->fs == (uint32_t)plain[i])
            return true;
    }
    return false;
}

/* Kernel file systems answer by themselves: only a reader that does not read can make the pump take long. */
static bool is_kernels(const struct target *t)
{
    return t->fd >= 0 && S_ISREG(t->st.st_mode) &&
           (t->fs == K_PROC_MAGIC || t->fs == K_SYSFS_MAGIC || t->fs == K_CGROUP_MAGIC || t->fs == K_CGROUP2_MAGIC);
}

static int write_all(int fd, const char *buf, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, buf, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        buf += n;
        len -= (size_t)n;
    }
    return 0;
}

/* From the file to the pipe, until end of file or until the reader has gone (SIGPIPE, or POLLERR while the file is silent). */
static int pump_out(int file, int pipe_end)
{
    static char buf[PUMP_BYTES];

    for (;;) {
        struct pollfd p[2] = {{.fd = file, .events = POLLIN}, {.fd = pipe_end}};
        ssize_t n;
        int r;

        if (poll(p, 2, -1) < 0 || p[1].revents != 0)
            return -EPIPE;
        n = read(file, buf, sizeof buf);
        if (n < 0 && errno == EAGAIN)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : 0;
        r = write_all(pipe_end, buf, (size_t)n);
        if (r < 0)
            return r;
    }
}

static int pump_in(int pipe_end, int file)
{
    static char buf[PUMP_BYTES];
    ssize_t n;

    (void)signal(SIGPIPE, SIG_IGN); /* a FIFO whose reader leaves: an error to tell */
    while ((n = read(pipe_end, buf, sizeof buf)) > 0) {
        int r = write_all(file, buf, (size_t)n);

        if (r < 0)
            return r;
    }
    return n < 0 ? -errno : 0;
}

static void set_blocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    (void)fcntl(fd, F_SETFL, flags & ~O_NONBLOCK); /* cannot fail on an fd just opened */
}

/* READS: from the sandbox's file. */
static _Noreturn void run_pump(int root, const struct open_plan *p, struct target *t, struct open_result *res, int sock)
{
    bool reads = (p->flags & IN_O_READ) != 0;
    int pipe_ends[2], verdict[2], ours;
    int32_t code;

    if (pipe2(pipe_ends, O_CLOEXEC) < 0 || pipe2(verdict, O_CLOEXEC | O_NONBLOCK) < 0)
        fail(sock, -errno);
    res->pumping = is_kernels(t) ? OPEN_PUMP_TO_END : OPEN_PUMP_BOUNDED;
    res->opened.pumped = 1;
    ours = pipe_ends[reads ? 1 : 0];
    (void)fcntl(pipe_ends[reads ? 0 : 1], F_SETFL, (reads ? O_RDONLY : O_WRONLY) | O_NONBLOCK); /* a fresh pipe */
    report(sock, res, (const int[]){pipe_ends[reads ? 0 : 1], verdict[0]}, 2);
    (void)close(pipe_ends[reads ? 0 : 1]); /* else its other end would never see end of file */
    (void)close(verdict[0]);
    (void)close(sock);
    if (!reads && t->fd < 0)
        t->fd = open_path(root, p->path, O_WRONLY | O_NOCTTY, 0); /* waits for a reader, until init's deadline */
    else if (!reads)
        set_blocking(t->fd);
    if (t->fd < 0)
        code = t->fd;
    else
        code = reads ? pump_out(t->fd, ours) : pump_in(ours, t->fd);
    (void)!write(verdict[1], &code, sizeof code); /* an empty pipe: there is room */
    _exit(0);
}

_Noreturn void open_run(const struct open_plan *p, int sock)
{
    struct open_result res = {0};
    struct target t = {.fd = -1};
    int root, r;

    if (sock != SOCK_FD && dup3(sock, SOCK_FD, O_CLOEXEC) < 0)
        _exit(1);
    sock = SOCK_FD;
    /* Nothing of init's is within reach of a path from here on. */
    if (k_close_range(SOCK_FD + 1, ~0u) < 0)
        _exit(1);
    (void)umask(0); /* the mode asked for is the mode given */
    r = child_become(&p->who, true);
    if (r < 0)
        fail(sock, r);
    root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root < 0)
        fail(sock, -errno);
    r = open_target(root, p, &t);
    if (r < 0)
        fail(sock, r);

    res.opened = (struct in_opened){
        .size = (uint64_t)t.st.st_size,
        .mode = t.st.st_mode,
        .uid = t.st.st_uid,
        .gid = t.st.st_gid,
        .mtime_ns = (uint64_t)t.st.st_mtim.tv_sec * 1000000000u + (uint64_t)t.st.st_mtim.tv_nsec,
    };
    if (!is_plain(&t))
        run_pump(root, p, &t, &res, sock);
    set_blocking(t.fd);
    report(sock, &res, &t.fd, 1);
    _exit(0);
}
