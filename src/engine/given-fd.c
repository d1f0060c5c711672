#include "engine/given-fd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <termios.h>
#include <unistd.h>

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif
#ifndef ZFS_SUPER_MAGIC
#define ZFS_SUPER_MAGIC 0x2fc12fc1
#endif

/* Local file systems: their pages come from this kernel, so a read ends. A list of the good ones, because a new file
 * system with a server behind it must not be trusted by default. */
static bool fs_is_local(int fd)
{
    struct statfs st;

    if (fstatfs(fd, &st) < 0)
        return false;
    switch ((unsigned long)st.f_type) {
    case OVERLAYFS_SUPER_MAGIC:
    case EXT4_SUPER_MAGIC:
    case XFS_SUPER_MAGIC:
    case BTRFS_SUPER_MAGIC:
    case TMPFS_MAGIC:
    case RAMFS_MAGIC:
    case F2FS_SUPER_MAGIC:
    case ZFS_SUPER_MAGIC:
        return true;
    default:
        return false;
    }
}

bool given_fd_is(int fd, enum given_kind kind)
{
    struct stat st;
    unsigned pty;
    int flags, mode;

    flags = fcntl(fd, F_GETFL);
    if (flags < 0 || (flags & O_PATH) != 0 || fstat(fd, &st) < 0)
        return false;
    mode = flags & O_ACCMODE;

    switch (kind) {
    case GIVEN_PIPE_READ:
        return S_ISFIFO(st.st_mode) && mode == O_RDONLY;
    case GIVEN_PIPE_WRITE:
        return S_ISFIFO(st.st_mode) && mode == O_WRONLY;
    case GIVEN_PTY_MASTER: /* the ioctl knows no other device */
        return S_ISCHR(st.st_mode) && mode == O_RDWR && ioctl(fd, TIOCGPTN, &pty) == 0;
    case GIVEN_FILE_READ:
        return S_ISREG(st.st_mode) && mode != O_WRONLY && fs_is_local(fd);
    case GIVEN_FILE_WRITE:
        return S_ISREG(st.st_mode) && mode != O_RDONLY && fs_is_local(fd);
    case GIVEN_SOCKET:
        return S_ISSOCK(st.st_mode);
    }
    return false;
}

int given_fd_prepare(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0 || ((flags & O_NONBLOCK) == 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0))
        return -errno;
    return 0;
}

static bool may_block(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    return flags < 0 || (flags & O_NONBLOCK) == 0;
}

ssize_t given_fd_read(int fd, bool pty, void *buf, size_t len)
{
    struct iovec iov = {buf, len};
    ssize_t n;

    if (!pty) {
        n = vmsplice(fd, &iov, 1, SPLICE_F_NONBLOCK);
        return n < 0 ? -errno : n;
    }

    if (may_block(fd))
        return -EBADFD;
    n = read(fd, buf, len);
    if (n < 0 && errno == EIO)
        return 0; /* how a pty master says that nobody has the terminal open any more */
    return n < 0 ? -errno : n;
}

ssize_t given_fd_write(int fd, bool pty, const void *buf, size_t len)
{
    struct iovec iov = {(void *)buf, len};
    ssize_t n;

    if (!pty) {
        n = pwritev2(fd, &iov, 1, -1, RWF_NOWAIT);
        if (n >= 0)
            return n;
        if (errno != EOPNOTSUPP) /* Linux before 6.4: fall through */
            return -errno;
    }
    if (may_block(fd))
        return -EBADFD;
    n = write(fd, buf, len);
    return n < 0 ? -errno : n;
}

size_t given_fd_pending(int fd)
{
    int n;

    return ioctl(fd, FIONREAD, &n) == 0 && n > 0 ? (size_t)n : 0;
}
