/* The root file system of a sandbox: from a detached overlay to a mount namespace with nothing of the host in it, and on
 * into init.
 *
 * All of this happens before any process of the sandbox exists, on an overlay nobody else has, so nothing races with us;
 * what is hostile is what the image says: its /dev may be a link to /proc, its /etc/resolv.conf one to a file of procfs.
 * So every target inside the image is opened without following links and mounted on by fd; what is no directory or
 * regular file is replaced in the writable layer. Names below a file system that we have just mounted ourselves are safe.
 *
 * The child has all capabilities, but only in its own user namespace: it reaches nothing of the host that its uid, which
 * owns nothing there, could not. Device nodes therefore come from a tmpfs that the parent made (rootfs_prepare): real ones,
 * no bind mounts to keep. Async-signal-safe calls only, no allocation. */
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/fd.h"
#include "spawner/drivers.h"
#include "spawner/mnt.h"
#include "wire/in.h"

enum {
    HIGH_FD = 512, /* above every number that the exec'd init gets, also when the parent's table is crowded */
    INIT_EXEC_FD = IN_LISTEN_FD + 1,
    NOFILE_MAX = 1 << 20,
    TTY_GID = 5, /* of Debian and most others; devpts gives its nodes to it */
    SHM_DEFAULT = 64 << 20,
};
#define DEV_SIZE "1m"
#define DEV_INODES "1024"

/* ---- the parent's part ------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    unsigned major, minor;
} devices[] = {{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}};

int rootfs_prepare(struct rootfs_plan *p, uint32_t uid_base, struct err *e)
{
    char uid[16];
    const struct mnt_opt opts[] = {{"source", "dev"},
                                   {"size", DEV_SIZE},
                                   {"nr_inodes", DEV_INODES},
                                   {"mode", "0755"},
                                   {"uid", uid},
                                   {"gid", uid},
                                   {NULL}};
    mode_t mask;
    int r;

    p->dev_fd = -1;
    (void)snprintf(uid, sizeof uid, "%u", uid_base);
    r = mnt_make("tmpfs", opts, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, &p->dev_fd, e);
    if (r < 0)
        return err_ctx(e, "/dev of the sandbox");

    mask = umask(0);
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(devices); i++) {
        const char *name = devices[i].name;

        if (mknodat(p->dev_fd, name, S_IFCHR | 0666, makedev(devices[i].major, devices[i].minor)) < 0 ||
            fchownat(p->dev_fd, name, uid_base, uid_base, AT_SYMLINK_NOFOLLOW) < 0)
            r = err_set(e, errno, "make the device '%s' of the sandbox: %m", name);
    }
    (void)umask(mask);
    if (r < 0)
        rootfs_unprepare(p);
    return r;
}

void rootfs_unprepare(struct rootfs_plan *p)
{
    fd_closep(&p->dev_fd);
}

int rootfs_init(struct err *e)
{
    struct rootfs_plan p = {.dev_fd = -1};
    AUTO_FD null = -1;
    int r;

    /* A host that forbids device nodes (a container without CAP_MKNOD) is better told at start. */
    r = rootfs_prepare(&p, SLOT_BASE, e);
    if (r < 0)
        return r;
    null = openat(p.dev_fd, "null", O_RDWR | O_CLOEXEC);
    if (null < 0)
        r = err_set(e, errno, "device nodes made here do not work: %m");
    rootfs_unprepare(&p);
    return r;
}

void rootfs_fini(void)
{
}

/* ---- small steps of the child's part ------------------------------------------------------------------------------- */

static int safe_open(int dirfd, const char *name, uint64_t flags)
{
    struct open_how how = {
        .flags = flags | O_CLOEXEC,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    };
    int fd = (int)syscall(SYS_openat2, dirfd, name, &how, sizeof how);

    return fd < 0 ? -errno : fd;
}

struct option {
    const char *key, *value; /* value NULL = a flag; key NULL ends */
};

static int new_mount(const char *type, const struct option *opts, uint64_t attr)
{
    int fs = fsopen(type, FSOPEN_CLOEXEC), fd = -1, saved;

    if (fs < 0)
        return -errno;
    for (; opts->key != NULL; opts++)
        if (fsconfig(fs, opts->value != NULL ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG, opts->key, opts->value, 0) < 0)
            break;
    if (opts->key == NULL && fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
        fd = fsmount(fs, FSMOUNT_CLOEXEC, (unsigned)attr);
    saved = errno;
    (void)close(fs);
    return fd < 0 ? -saved : fd;
}

/* Puts the detached mount MNT on what TARGET, an O_PATH fd, names. */
static int put_on(int mnt, int target)
{
    return move_mount(mnt, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0 ? -errno : 0;
}

/* Puts MNT on NAME of a file system that we mounted ourselves. */
static int put_at(int mnt, int dirfd, const char *name)
{
    int target = safe_open(dirfd, name, O_PATH | O_NOFOLLOW), r;

    if (target < 0)
        return target;
    r = put_on(mnt, target);
    (void)close(target);
    return r;
}

/* A clone of what is mounted at NAME, with ATTR set. */
static int clone_of(int dirfd, const char *name, uint64_t attr)
{
    struct mount_attr set = {.attr_set = attr};
    int fd = open_tree(dirfd, name, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW), r;

    if (fd < 0)
        return -errno;
    if (attr != 0 && mount_setattr(fd, "", AT_EMPTY_PATH, &set, sizeof set) < 0) {
        r = -errno;
        (void)close(fd);
        return r;
    }
    return fd;
}

/* Mounts a clone of SRC_DIR/SRC on DST_DIR/DST. A target that is not there needs no mask: fine. */
static int cover(int src_dir, const char *src, int dst_dir, const char *dst, uint64_t attr)
{
    int target = safe_open(dst_dir, dst, O_PATH | O_NOFOLLOW), fd, r;

    if (target < 0)
        return target == -ENOENT ? 0 : target;
    fd = clone_of(src_dir, src, attr);
    r = fd < 0 ? fd : put_on(fd, target);
    if (fd >= 0)
        (void)close(fd);
    (void)close(target);
    return r;
}

static int is_of_type(int fd, mode_t type)
{
    struct stat st;

    return fstat(fd, &st) < 0 ? -errno : (st.st_mode & S_IFMT) == type;
}

/* An O_PATH fd of NAME in the image's directory DIRFD, which becomes a directory or an empty file of that name if it is
 * anything else. -EROFS when it would have to but the root is read-only. */
static int image_target(int dirfd, const char *name, mode_t type)
{
    int fd = safe_open(dirfd, name, O_PATH | O_NOFOLLOW), r;

    if (fd >= 0) {
        r = is_of_type(fd, type);
        if (r == 1)
            return fd;
        (void)close(fd);
        if (r < 0)
            return r;
        if (unlinkat(dirfd, name, 0) < 0 && (errno != EISDIR || unlinkat(dirfd, name, AT_REMOVEDIR) < 0))
            return -errno;
    } else if (fd != -ENOENT) {
        return fd;
    }

    if (type == S_IFDIR ? mkdirat(dirfd, name, 0755) < 0 : mknodat(dirfd, name, S_IFREG | 0644, 0) < 0)
        return -errno;
    return safe_open(dirfd, name, O_PATH | O_NOFOLLOW);
}

static int check_fs(int dirfd, const char *name, long magic)
{
    struct statfs st;
    int fd = safe_open(dirfd, name, O_PATH | O_DIRECTORY), r;

    if (fd < 0)
        return fd;
    r = fstatfs(fd, &st) < 0 ? -errno : st.f_type == magic ? 0 : -ESTALE;
    (void)close(fd);
    return r;
}

/* ---- the file systems ------------------------------------------------------------------------------------------------
 * Each step sets *WHERE first: it names the step when it fails. */

struct child {
    const struct rootfs_plan *plan;
    const char **where;
    int root, dev, proc, sys;
    int empty; /* an attached, empty, read-only tmpfs to clone from, or -1 */
};

static const uint64_t no_all = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;

/* Covers the directory NAME with nothing. */
static int hide_dir(struct child *c, int dirfd, const char *name)
{
    static const struct option opts[] = {
        {"source", "none"}, {"size", "4k"}, {"nr_inodes", "2"}, {"mode", "0555"}, {NULL}};
    int target, r;

    if (c->empty >= 0)
        return cover(c->empty, ".", dirfd, name, 0); /* "." of a mount is the mount; its flags are kept */

    target = safe_open(dirfd, name, O_PATH | O_DIRECTORY);
    if (target < 0)
        return target == -ENOENT ? 0 : target;
    c->empty = new_mount("tmpfs", opts, no_all | MOUNT_ATTR_RDONLY);
    r = c->empty < 0 ? c->empty : put_on(c->empty, target);
    (void)close(target);
    return r;
}

static int attach_root(struct child *c)
{
    const char *place = c->plan->mount_point_path != NULL ? c->plan->mount_point_path : "/sys";

    /* The host's mounts need not be made private: a mount namespace that is made together with a user namespace has none
     * that propagates back (the kernel makes them slaves), and they are gone in a moment. */
    *c->where = "mount the root file system";
    if (move_mount(c->plan->root_mnt, "", AT_FDCWD, place, MOVE_MOUNT_F_EMPTY_PATH) < 0)
        return -errno;
    c->root = c->plan->root_mnt;
    return fchdir(c->root) < 0 ? -errno : 0;
}

static int mount_on_image(struct child *c, int mnt, const char *name)
{
    int target, r;

    if (mnt < 0)
        return mnt;
    target = image_target(c->root, name, S_IFDIR);
    if (target < 0)
        return target;
    r = put_on(mnt, target);
    (void)close(target);
    return r;
}

static int mount_dev(struct child *c)
{
    static const struct {
        const char *name, *to;
    } links[] = {{"fd", "/proc/self/fd"},
                 {"stdin", "/proc/self/fd/0"},
                 {"stdout", "/proc/self/fd/1"},
                 {"stderr", "/proc/self/fd/2"},
                 {"ptmx", "pts/ptmx"}};
    static const char *const dirs[] = {"pts", "shm", "mqueue"};
    int r;

    *c->where = "mount /dev";
    r = mount_on_image(c, c->plan->dev_fd, "dev");
    if (r < 0)
        return r;
    c->dev = c->plan->dev_fd;
    for (size_t i = 0; i < ARRAY_LEN(links); i++)
        if (symlinkat(links[i].to, c->dev, links[i].name) < 0)
            return -errno;
    for (size_t i = 0; i < ARRAY_LEN(dirs); i++)
        if (mkdirat(c->dev, dirs[i], 0755) < 0)
            return -errno;
    return 0;
}

/* DECIMAL of N, NUL-terminated; snprintf is not async-signal-safe by the book. */
static void decimal(uint64_t n, char out[24])
{
    char digits[24];
    unsigned len = 0;

    do {
        digits[len++] = (char)('0' + n % 10);
        n /= 10;
    } while (n != 0);
    for (unsigned i = 0; i < len; i++)
        out[i] = digits[len - 1 - i];
    out[len] = '\0';
}

static int mount_in_dev(struct child *c, int mnt, const char *name)
{
    int r = mnt < 0 ? mnt : put_at(mnt, c->dev, name);

    if (mnt >= 0)
        (void)close(mnt);
    return r;
}

static int mount_dev_parts(struct child *c)
{
    static const struct option pts[] = {{"source", "devpts"}, {"newinstance", NULL}, {"ptmxmode", "0666"},
                                        {"mode", "0620"},     {"gid", "5"},          {NULL}};
    static const struct option mqueue[] = {{"source", "mqueue"}, {NULL}};
    char bytes[24];
    const struct option shm[] = {{"source", "shm"}, {"size", bytes}, {"mode", "1777"}, {NULL}};
    int r;

    _Static_assert(TTY_GID == 5, "the text above");
    decimal(c->plan->shm_bytes != 0 ? c->plan->shm_bytes : SHM_DEFAULT, bytes);

    *c->where = "mount /dev/pts";
    r = mount_in_dev(c, new_mount("devpts", pts, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC), "pts");
    if (r < 0)
        return r;
    *c->where = "mount /dev/shm";
    r = mount_in_dev(c, new_mount("tmpfs", shm, no_all), "shm");
    if (r < 0)
        return r;
    *c->where = "mount /dev/mqueue";
    r = mount_in_dev(c, new_mount("mqueue", mqueue, no_all), "mqueue");
    return r == -ENODEV ? 0 : r; /* a kernel without POSIX message queues */
}

static int mount_proc(struct child *c)
{
    static const struct option opts[] = {{"source", "proc"}, {NULL}};
    /* What tells about the host, or changes it. Programs read much of /proc/sys; nobody writes there. */
    static const char *const hidden_files[] = {"kcore",      "keys",        "latency_stats",
                                               "timer_list", "timer_stats", "sched_debug"};
    static const char *const hidden_dirs[] = {"scsi", "acpi", "asound"};
    static const char *const readonly[] = {"bus", "fs", "irq", "sys", "sysrq-trigger"};
    int r;

    *c->where = "mount /proc";
    c->proc = new_mount("proc", opts, no_all);
    r = mount_on_image(c, c->proc, "proc");
    if (r == 0)
        r = check_fs(c->root, "proc", PROC_SUPER_MAGIC);
    if (r < 0)
        return r;

    *c->where = "mask parts of /proc";
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(hidden_files); i++)
        r = cover(c->dev, "null", c->proc, hidden_files[i], 0);
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(hidden_dirs); i++)
        r = hide_dir(c, c->proc, hidden_dirs[i]);
    *c->where = "make parts of /proc read-only";
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(readonly); i++)
        r = cover(c->proc, readonly[i], c->proc, readonly[i], MOUNT_ATTR_RDONLY);
    return r == -ENOENT ? 0 : r;
}

static int mount_sys(struct child *c)
{
    static const char *const hidden[] = {"fs/cgroup", "firmware", "devices/virtual/powercap"};
    int r;

    *c->where = "mount /sys";
    if (c->plan->sysfs_fd < 0) {
        r = image_target(c->root, "sys", S_IFDIR);
        if (r < 0)
            return r;
        (void)close(r);
        return hide_dir(c, c->root, "sys");
    }

    c->sys = c->plan->sysfs_fd;
    r = mount_on_image(c, c->sys, "sys");
    if (r == 0)
        r = check_fs(c->root, "sys", SYSFS_MAGIC);
    *c->where = "mask parts of /sys";
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(hidden); i++)
        r = hide_dir(c, c->sys, hidden[i]);
    return r;
}

/* ---- files of /etc --------------------------------------------------------------------------------------------------- */

/* A file of our own, bound over NAME. It is written to the tmpfs of /dev, where its name goes away again (it must have one
 * while it is bound). */
static int bind_text(struct child *c, int etc, const char *name, const char *text, const char *end)
{
    struct iovec parts[] = {{(void *)(uintptr_t)text, strlen(text)}, {(void *)(uintptr_t)end, strlen(end)}};
    int fd, target, r;

    fd = openat(c->dev, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0)
        return -errno;
    r = writev(fd, parts, ARRAY_LEN(parts)) == (ssize_t)(parts[0].iov_len + parts[1].iov_len) ? 0 : -EIO;
    (void)close(fd);
    if (r < 0)
        return r;

    target = image_target(etc, name, S_IFREG);
    if (target < 0)
        return target;
    fd = clone_of(c->dev, name, 0);
    r = fd < 0 ? fd : put_on(fd, target);
    if (fd >= 0)
        (void)close(fd);
    (void)close(target);
    if (r == 0 && unlinkat(c->dev, name, 0) < 0)
        r = -errno;
    return r;
}

static int bind_etc(struct child *c)
{
    const struct {
        const char *name, *text, *end;
    } files[] = {
        {"resolv.conf", c->plan->resolv, ""}, {"hosts", c->plan->hosts, ""}, {"hostname", c->plan->hostname, "\n"}};
    struct open_how how = {
        .flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
        /* An image may keep its /etc elsewhere: a link is followed, but not out of the image, nor into a file system that
         * was mounted on it. */
        .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV,
    };
    int etc, r = 0;

    *c->where = "open /etc";
    etc = (int)syscall(SYS_openat2, c->root, "etc", &how, sizeof how);
    if (etc < 0)
        etc = image_target(c->root, "etc", S_IFDIR);
    if (etc < 0)
        return etc;

    for (size_t i = 0; r == 0 && i < ARRAY_LEN(files); i++) {
        static const char *const where[] = {"make /etc/resolv.conf", "make /etc/hosts", "make /etc/hostname"};

        *c->where = where[i];
        if (files[i].text != NULL)
            r = bind_text(c, etc, files[i].name, files[i].text, files[i].end);
    }
    (void)close(etc);
    return r;
}

/* ---- leaving the host ------------------------------------------------------------------------------------------------ */

static int leave_host(struct child *c)
{
    struct mount_attr readonly = {.attr_set = MOUNT_ATTR_RDONLY};

    *c->where = "make the root file system read-only";
    if (c->plan->readonly_root && mount_setattr(c->root, "", AT_EMPTY_PATH, &readonly, sizeof readonly) < 0)
        return -errno;

    *c->where = "leave the host's file systems";
    if (fchdir(c->root) < 0 || syscall(SYS_pivot_root, ".", ".") < 0)
        return -errno;
    /* The old root is now on top of the new one, at ".". */
    if (umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
        return -errno;

    *c->where = "set the host name";
    if (c->plan->hostname != NULL && sethostname(c->plan->hostname, strlen(c->plan->hostname)) < 0)
        return -errno;
    *c->where = "leave the host's cgroups";
    return unshare(CLONE_NEWCGROUP) < 0 ? -errno : 0;
}

static int become_plain(struct child *c)
{
    struct rlimit nofile;

    (void)setsid(); /* fails for a leader, which is what we want to be */
    (void)umask(022);

    *c->where = "set resource limits";
    if (getrlimit(RLIMIT_NOFILE, &nofile) < 0)
        return -errno;
    if (nofile.rlim_max > NOFILE_MAX)
        nofile.rlim_max = NOFILE_MAX;
    nofile.rlim_cur = nofile.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &nofile) < 0)
        return -errno;
    /* 1, not 0: to the kernel that is also "never to a pipe", so that no core of a sandbox ends at the host's collector. */
    (void)setrlimit(RLIMIT_CORE, &(struct rlimit){1, 1}); /* refused only where the host has less already */

    *c->where = "become root of the sandbox";
    if (syscall(SYS_setgroups, 0, NULL) < 0 || syscall(SYS_setresgid, 0, 0, 0) < 0 ||
        syscall(SYS_setresuid, 0, 0, 0) < 0)
        return -errno;
    return 0;
}

static int exec_init(struct child *c)
{
    const struct {
        int from, to, flags;
    } fds[] = {
        {c->plan->control_fd, IN_FD, 0},
        {c->plan->cgroup_fd, IN_CGROUP_FD, 0},
        {c->plan->seccomp_fd, IN_SECCOMP_FD, 0},
        {c->plan->listen_fd, IN_LISTEN_FD, 0},
        {c->plan->init_fd, INIT_EXEC_FD, O_CLOEXEC},
    };
    static char name[] = "silica-init";
    static char *const argv[] = {name, NULL}, *const env[] = {NULL};
    int high[ARRAY_LEN(fds)], null;

    *c->where = "arrange the descriptors of init";
    null = open("/dev/null", O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (null < 0)
        return -errno;
    null = fcntl(null, F_DUPFD_CLOEXEC, HIGH_FD);
    if (null < 0)
        return -errno;
    /* First out of the way, all of them: a source may have the number of another's destination. */
    for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
        high[i] = fds[i].from < 0 ? -1 : fcntl(fds[i].from, F_DUPFD_CLOEXEC, HIGH_FD);
        if (high[i] < 0 && fds[i].from >= 0)
            return -errno;
    }
    for (int fd = 0; fd < 3; fd++)
        if (dup2(null, fd) < 0)
            return -errno;
    for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
        if (high[i] < 0)
            (void)close(fds[i].to); /* init sees that it has none */
        else if (dup3(high[i], fds[i].to, fds[i].flags) < 0)
            return -errno;
    }
    /* Also the way to report a failure; the kernel closes it at exec, and so tells the parent that all is well. */
    if (syscall(SYS_close_range, INIT_EXEC_FD + 1, ~0u, CLOSE_RANGE_CLOEXEC) < 0)
        return -errno;

    *c->where = "execute init";
    (void)syscall(SYS_execveat, INIT_EXEC_FD, "", argv, env, AT_EMPTY_PATH);
    return -errno;
}

int rootfs_enter_and_exec(const struct rootfs_plan *p, const char **ret_where)
{
    static int (*const steps[])(struct child * c) = {
        attach_root, mount_dev, bind_etc, mount_dev_parts, mount_proc, mount_sys, leave_host, become_plain, exec_init,
    };
    struct child c = {.plan = p, .where = ret_where, .root = -1, .dev = -1, .proc = -1, .sys = -1, .empty = -1};
    int r = 0;

    (void)umask(0); /* modes below are meant as they are written */
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(steps); i++)
        r = steps[i](&c);
    return r;
}
