/* The hostile program of tests/abuse: what a sandbox may not do, one group for each first argument. Runs inside a sandbox
 * only. */
#include "outcome.h"

#include <dirent.h>
#include <mqueue.h>
#include <arpa/inet.h>
#include <poll.h>
#include <sched.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

/* In a child, so that one that is allowed changes nothing for the next. */
#define IN_CHILD(what, expr) \
    do { \
        fflush(stdout); \
        if (fork() == 0) { \
            say(what, (long)(expr)); \
            _exit(0); \
        } \
        wait(NULL); \
    } while (0)

/* ---- system calls ------------------------------------------------------------------------------------------------ */

static int namespaces(void)
{
    static const struct {
        const char *name;
        int flag;
    } kinds[] = {{"user", CLONE_NEWUSER},     {"mount", CLONE_NEWNS}, {"pid", CLONE_NEWPID}, {"net", CLONE_NEWNET},
                 {"cgroup", CLONE_NEWCGROUP}, {"ipc", CLONE_NEWIPC},  {"uts", CLONE_NEWUTS}, {"time", 0x80}};
    char what[64];

    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        uint64_t args[11] = {(uint64_t)kinds[i].flag, 0, 0, 0, SIGCHLD};
        long r;

        snprintf(what, sizeof what, "unshare %s", kinds[i].name);
        IN_CHILD(what, syscall(SYS_unshare, kinds[i].flag));
        if (kinds[i].flag != 0x80) { /* to clone(2) that bit is part of the exit signal */
            snprintf(what, sizeof what, "clone %s", kinds[i].name);
            r = syscall(SYS_clone, kinds[i].flag | SIGCHLD, 0, 0, 0, 0);
            if (r == 0)
                _exit(0);
            say(what, r);
        }
        snprintf(what, sizeof what, "clone3 %s", kinds[i].name);
        r = syscall(SYS_clone3, args, 88);
        if (r == 0)
            _exit(0);
        say(what, r);
    }
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        char path[64];
        int fd;

        snprintf(path, sizeof path, "/proc/1/ns/%s", strcmp(kinds[i].name, "mount") == 0 ? "mnt" : kinds[i].name);
        snprintf(what, sizeof what, "setns %s", kinds[i].name);
        fd = open(path, O_RDONLY);
        IN_CHILD(what, fd < 0 ? -1 : syscall(SYS_setns, fd, 0));
        snprintf(what, sizeof what, "setns own %s", kinds[i].name);
        snprintf(path, sizeof path, "/proc/self/ns/%s", strcmp(kinds[i].name, "mount") == 0 ? "mnt" : kinds[i].name);
        fd = open(path, O_RDONLY);
        IN_CHILD(what, fd < 0 ? -1 : syscall(SYS_setns, fd, 0));
    }
    mkdir("/tmp/m", 0700);
    IN_CHILD("mount tmpfs", mount("x", "/tmp/m", "tmpfs", 0, ""));
    IN_CHILD("mount proc", mount("x", "/tmp/m", "proc", 0, ""));
    IN_CHILD("mount bind", mount("/etc", "/tmp/m", NULL, MS_BIND, NULL));
    IN_CHILD("mount cgroup", mount("x", "/tmp/m", "cgroup", 0, "memory"));
    IN_CHILD("mount cgroup2", mount("x", "/tmp/m", "cgroup2", 0, NULL));
    IN_CHILD("mount remount proc", mount("x", "/proc", NULL, MS_REMOUNT | MS_BIND, NULL));
    IN_CHILD("umount proc", umount2("/proc", MNT_DETACH));
    IN_CHILD("umount proc/kcore", umount2("/proc/kcore", MNT_DETACH));
    IN_CHILD("umount proc/sys", umount2("/proc/sys", MNT_DETACH));
    IN_CHILD("fsopen", syscall(SYS_fsopen, "tmpfs", 0));
    IN_CHILD("fspick", syscall(SYS_fspick, AT_FDCWD, "/", 0));
    IN_CHILD("open_tree", syscall(SYS_open_tree, AT_FDCWD, "/", 1 /* CLONE */));
    IN_CHILD("open_tree_attr", syscall(467, AT_FDCWD, "/", 1, NULL, 0));
    IN_CHILD("move_mount", syscall(SYS_move_mount, AT_FDCWD, "/proc", AT_FDCWD, "/tmp/m", 0));
    IN_CHILD("mount_setattr", syscall(SYS_mount_setattr, AT_FDCWD, "/", 0,
                                      "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 32));
    IN_CHILD("pivot_root", syscall(SYS_pivot_root, "/tmp", "/tmp/m"));
    IN_CHILD("statmount", syscall(457, "", NULL, 0, 0));
    IN_CHILD("listmount", syscall(458, "", NULL, 0, 0));
    IN_CHILD("listns", syscall(470, "", NULL, 0, 0));
    return 0;
}

static int syscalls(void)
{
    char buf[128] = {0};
    struct {
        void *base;
        size_t len;
    } iov = {buf, 8};

    IN_CHILD("io_uring_setup", syscall(SYS_io_uring_setup, 1, buf));
    IN_CHILD("io_uring_enter", syscall(SYS_io_uring_enter, 0, 0, 0, 0, NULL, 0));
    IN_CHILD("io_uring_register", syscall(SYS_io_uring_register, 0, 0, NULL, 0));
    IN_CHILD("userfaultfd", syscall(SYS_userfaultfd, O_CLOEXEC));
    IN_CHILD("userfaultfd user mode", syscall(SYS_userfaultfd, O_CLOEXEC | 1));
    IN_CHILD("bpf", syscall(SYS_bpf, 0, buf, sizeof buf));
    IN_CHILD("perf_event_open", syscall(SYS_perf_event_open, buf, 0, -1, -1, 0));
    IN_CHILD("keyctl", syscall(SYS_keyctl, 0, -3, 1));
    IN_CHILD("add_key", syscall(SYS_add_key, "user", "k", "v", 1, -3));
    IN_CHILD("request_key", syscall(SYS_request_key, "user", "k", NULL, 0));
    IN_CHILD("kcmp", syscall(SYS_kcmp, getpid(), getpid(), 0, 0, 0));
    IN_CHILD("pidfd_getfd", syscall(SYS_pidfd_getfd, (int)syscall(SYS_pidfd_open, getpid(), 0), 0, 0));
    IN_CHILD("process_vm_readv", syscall(SYS_process_vm_readv, getpid(), &iov, 1, &iov, 1, 0));
    IN_CHILD("process_vm_writev", syscall(SYS_process_vm_writev, getpid(), &iov, 1, &iov, 1, 0));
    IN_CHILD("process_madvise", syscall(SYS_process_madvise, 0, &iov, 1, 0, 0));
    IN_CHILD("personality no-randomize", syscall(SYS_personality, 0x0040000));
    IN_CHILD("personality read-implies-exec", syscall(SYS_personality, 0x0400000));
    IN_CHILD("modify_ldt", syscall(SYS_modify_ldt, 0, buf, sizeof buf));
    IN_CHILD("iopl", syscall(SYS_iopl, 3));
    IN_CHILD("ioperm", syscall(SYS_ioperm, 0x80, 1, 1));
    IN_CHILD("init_module", syscall(SYS_init_module, buf, sizeof buf, ""));
    IN_CHILD("finit_module", syscall(SYS_finit_module, 0, "", 0));
    IN_CHILD("delete_module", syscall(SYS_delete_module, "x", 0));
    IN_CHILD("kexec_load", syscall(SYS_kexec_load, 0, 0, NULL, 0));
    IN_CHILD("reboot", syscall(SYS_reboot, 0xfee1dead, 672274793, 0, NULL)); /* CAD off: harmless where it would work */
    IN_CHILD("swapon", syscall(SYS_swapon, "/no", 0));
    IN_CHILD("acct", syscall(SYS_acct, "/no"));
    IN_CHILD("quotactl", syscall(SYS_quotactl, 0, "/no", 0, NULL));
    IN_CHILD("settimeofday", syscall(SYS_settimeofday, NULL, NULL));
    IN_CHILD("clock_settime", syscall(SYS_clock_settime, 0, buf));
    IN_CHILD("sethostname", syscall(SYS_sethostname, "evil", 4));
    IN_CHILD("syslog", syscall(SYS_syslog, 3, buf, sizeof buf));
    IN_CHILD("vhangup", syscall(SYS_vhangup));
    IN_CHILD("lookup_dcookie", syscall(212, 0, buf, sizeof buf));
    IN_CHILD("fanotify_init", syscall(SYS_fanotify_init, 0, 0));
    IN_CHILD("mbind", syscall(SYS_mbind, NULL, 0, 0, NULL, 0, 0));
    IN_CHILD("move_pages", syscall(SYS_move_pages, 0, 0, NULL, NULL, NULL, 0));
    IN_CHILD("unknown 600", syscall(600));
    IN_CHILD("unknown 100000", syscall(100000));
    IN_CHILD("unknown -1", syscall(-1));
#ifdef __x86_64__
    IN_CHILD("x32 getpid", syscall(0x40000000 | 39));
    {
        long r;

        fflush(stdout);
        if (fork() == 0) {
            __asm__ volatile("int $0x80" : "=a"(r) : "a"(20 /* getpid of i386 */) : "memory", "r8", "r9", "r10", "r11");
            errno = r < 0 ? (int)-r : 0;
            say("int80 getpid", r < 0 ? -1 : 0);
            _exit(0);
        }
        wait(NULL);
    }
#endif
    return 0;
}

static int shocker(void)
{
    struct {
        unsigned bytes;
        int type;
        unsigned char handle[128];
    } h = {.bytes = 128};
    int mount_id, dir = open("/", O_RDONLY | O_DIRECTORY);

    say("name_to_handle_at", name_to_handle_at(dir, "etc", (struct file_handle *)&h, &mount_id, 0));
    say("open_by_handle_at", open_by_handle_at(dir, (struct file_handle *)&h, O_RDONLY));
    h.bytes = 8;
    h.type = 1;
    memcpy(h.handle, "\2\0\0\0\0\0\0\0", 8); /* inode 2: the root of an ext4 */
    say("open_by_handle_at root", open_by_handle_at(dir, (struct file_handle *)&h, O_RDONLY));
    return 0;
}

static int sockets(void)
{
    static const struct {
        const char *what;
        int family, type, protocol;
    } all[] = {
        {"vsock", 40, SOCK_STREAM, 0},
        {"alg", 38, SOCK_SEQPACKET, 0},
        {"packet", AF_PACKET, SOCK_RAW, 0x0300},
        {"packet dgram", AF_PACKET, SOCK_DGRAM, 0x0300},
        {"key", 15, SOCK_RAW, 2},
        {"bluetooth", 31, SOCK_RAW, 1},
        {"can", 29, SOCK_RAW, 1},
        {"xdp", 44, SOCK_RAW, 0},
        {"smc", 43, SOCK_STREAM, 0},
        {"tipc", 30, SOCK_STREAM, 0},
        {"rds", 21, SOCK_SEQPACKET, 0},
        {"qipcrtr", 42, SOCK_DGRAM, 0},
        {"kcm", 41, SOCK_DGRAM, 0},
        {"netlink usersock", AF_NETLINK, SOCK_RAW, 2},
        {"netlink firewall", AF_NETLINK, SOCK_RAW, 3},
        {"netlink sock_diag", AF_NETLINK, SOCK_RAW, 4},
        {"netlink xfrm", AF_NETLINK, SOCK_RAW, 6},
        {"netlink selinux", AF_NETLINK, SOCK_RAW, 7},
        {"netlink audit", AF_NETLINK, SOCK_RAW, 9},
        {"netlink connector", AF_NETLINK, SOCK_RAW, 11},
        {"netlink netfilter", AF_NETLINK, SOCK_RAW, 12},
        {"netlink uevent", AF_NETLINK, SOCK_RAW, 15},
        {"netlink generic", AF_NETLINK, SOCK_RAW, 16},
        {"netlink crypto", AF_NETLINK, SOCK_RAW, 21},
        {"raw icmp", AF_INET, SOCK_RAW, IPPROTO_ICMP},
        {"raw tcp", AF_INET, SOCK_RAW, IPPROTO_TCP},
        {"raw raw", AF_INET, SOCK_RAW, IPPROTO_RAW},
        {"raw icmp6", AF_INET6, SOCK_RAW, IPPROTO_ICMPV6},
        {"packet of inet", AF_INET, SOCK_PACKET, 0x0300},
        {"unix", AF_UNIX, SOCK_STREAM, 0},
        {"tcp", AF_INET, SOCK_STREAM, 0},
        {"icmp dgram", AF_INET, SOCK_DGRAM, IPPROTO_ICMP},
        {"udp", AF_INET, SOCK_DGRAM, 0},
        {"tcp6", AF_INET6, SOCK_STREAM, 0},
        {"netlink route", AF_NETLINK, SOCK_RAW, 0},
    };
    int pair[2];

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        say(all[i].what, socket(all[i].family, all[i].type, all[i].protocol));
    say("socketpair unix", socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    say("socketpair tipc", socketpair(30, SOCK_STREAM, 0, pair));
    return 0;
}

/* Configuring the network of the sandbox: the namespace is the host's. */
static int netadmin(void)
{
    struct {
        struct {
            uint32_t len;
            uint16_t type, flags;
            uint32_t seq, pid;
        } h;
        struct {
            uint8_t family, pad;
            uint16_t type;
            int32_t index;
            uint32_t flags, change;
        } i;
    } m = {{sizeof m, 16 /* RTM_NEWLINK */, 1 | 4, 1, 0}, {0, 0, 0, 1, 0, 1}};
    struct {
        uint32_t len;
        uint16_t type, flags;
        uint32_t seq, pid;
        int32_t error;
    } reply = {0};
    int s = socket(AF_NETLINK, SOCK_RAW, 0), on = 1, u = socket(AF_INET, SOCK_DGRAM, 0);
    char ifr[40] = "lo";

    send(s, &m, sizeof m, 0);
    recv(s, &reply, sizeof reply, MSG_TRUNC);
    errno = -reply.error;
    say("lo down", reply.error);
    ifr[16] = 0;
    say("SIOCSIFFLAGS", ioctl(u, 0x8914, ifr));
    say("IP_TRANSPARENT", setsockopt(u, SOL_IP, 19, &on, sizeof on));
    say("SO_MARK", setsockopt(u, SOL_SOCKET, 36, &on, sizeof on));
    say("SO_RCVBUFFORCE", setsockopt(u, SOL_SOCKET, 33, &on, sizeof on));
    return 0;
}

static int devices(void)
{
    static const struct {
        const char *what;
        mode_t type;
        unsigned major, minor;
    } all[] = {{"vda", S_IFBLK, 254, 0},   {"sda", S_IFBLK, 8, 0},   {"loop0", S_IFBLK, 7, 0},  {"mem", S_IFCHR, 1, 1},
               {"port", S_IFCHR, 1, 4},    {"kmsg", S_IFCHR, 1, 11}, {"kvm", S_IFCHR, 10, 232}, {"null", S_IFCHR, 1, 3},
               {"fuse", S_IFCHR, 10, 229}, {"tun", S_IFCHR, 10, 200}};
    char path[64];

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        static const char *const places[] = {"/tmp", "/dev", "/dev/shm"};

        for (unsigned k = 0; k < 3; k++) {
            char what[96];

            snprintf(path, sizeof path, "%s/dev-%s", places[k], all[i].what);
            snprintf(what, sizeof what, "mknod %s", path);
            say(what, mknod(path, all[i].type | 0666, makedev(all[i].major, all[i].minor)));
            unlink(path);
        }
    }
    mknod("/tmp/whiteout", S_IFCHR, makedev(0, 0)); /* allowed to anybody: no device has this number */
    say("open whiteout", open("/tmp/whiteout", O_RDWR));
    return 0;
}

static int tty(void)
{
    char c = 'x', sub = 2;
    int t = open("/dev/tty", O_RDWR);

    say("TIOCSTI", ioctl(0, TIOCSTI, &c));
    say("TIOCSTI /dev/tty", t < 0 ? -1 : ioctl(t, TIOCSTI, &c));
    say("TIOCLINUX", ioctl(0, 0x541C, &sub));
    say("TIOCSTI high bits", syscall(SYS_ioctl, 0, 0x100000000ull | 0x5412, &c));
    say("TIOCLINUX high bits", syscall(SYS_ioctl, 0, 0x100000000ull | 0x541C, &sub));
    say("TIOCCONS", ioctl(0, 0x541D));
    return 0;
}

/* ---- files and other processes ----------------------------------------------------------------------------------- */

/* Each argument is tried for reading and for writing. */
static int files(int argc, char **argv)
{
    char what[4200];

    for (int i = 0; i < argc; i++) {
        char buf[16];
        int fd = open(argv[i], O_RDONLY | O_NONBLOCK);
        ssize_t n = fd < 0 ? -1 : read(fd, buf, sizeof buf);

        snprintf(what, sizeof what, "read %s", argv[i]);
        if (n == 0)
            printf("%s: empty\n", what);
        else
            say(what, n);
        fd = open(argv[i], O_WRONLY);
        snprintf(what, sizeof what, "write %s", argv[i]);
        say(what, fd < 0 ? -1 : write(fd, "0", 1));
        if (fd >= 0)
            close(fd);
    }
    return 0;
}

static int pid1(void)
{
    const int signals[] = {SIGTERM, SIGINT, SIGSTOP, SIGTSTP, SIGABRT, SIGSEGV, SIGUSR1, SIGRTMIN + 1, SIGKILL};
    char buf[8], what[32];
    int pidfd = (int)syscall(SYS_pidfd_open, 1, 0), fd;
    static const char *const parts[] = {"mem",  "environ",     "maps", "stack", "syscall",
                                        "auxv", "personality", "io",   "exe"};

    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        char path[32];

        snprintf(path, sizeof path, "/proc/1/%s", parts[i]);
        snprintf(what, sizeof what, "read %s", parts[i]);
        fd = open(path, O_RDONLY);
        say(what, fd < 0 ? -1 : read(fd, buf, 1));
    }
    say("write mem", open("/proc/1/mem", O_RDWR));
    say("readlink fd", readlink("/proc/1/fd/3", buf, sizeof buf));
    say("open fd", open("/proc/1/fd/3", O_RDONLY));
    say("open root", open("/proc/1/root/etc", O_RDONLY));
    say("open cwd", open("/proc/1/cwd/etc", O_RDONLY));
    say("lower oom_score_adj", (fd = open("/proc/1/oom_score_adj", O_WRONLY)) < 0 ? -1 : write(fd, "-500", 4));
    say("ptrace attach", ptrace(PTRACE_ATTACH, 1, NULL, NULL));
    say("ptrace seize", ptrace(0x4206 /* SEIZE */, 1, NULL, NULL));
    say("prlimit", prlimit(1, RLIMIT_NOFILE, &(struct rlimit){1, 1}, NULL));
    say("setpriority", setpriority(PRIO_PROCESS, 1, -20));
    say("sched_setscheduler", syscall(SYS_sched_setscheduler, 1, SCHED_FIFO, &(int){1}));
    /* These are sent, and have no effect. */
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        (void)kill(1, signals[i]);
        (void)syscall(SYS_pidfd_send_signal, pidfd, signals[i], NULL, 0);
        (void)syscall(SYS_tgkill, 1, 1, signals[i]);
    }
    printf("signals: sent\n");
    return 0;
}

/* Names of my descriptors beyond the first three, my own directory listing aside. */
static int fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    struct dirent *e;
    char path[300], to[300];

    while (d != NULL && (e = readdir(d)) != NULL) {
        int fd = atoi(e->d_name);
        ssize_t n;

        if (e->d_name[0] == '.' || fd < 3 || fd == dirfd(d))
            continue;
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        n = readlink(path, to, sizeof to - 1);
        to[n > 0 ? n : 0] = '\0';
        printf("fd %d: %s\n", fd, to);
    }
    printf("listed: ok\n");
    return 0;
}

static int ipc(int argc, char **argv)
{
    int id;
    char *p;
    mqd_t q;

    if (argc > 0 && strcmp(argv[0], "make") == 0) {
        id = shmget(0x51117ca, 4096, IPC_CREAT | 0666);
        p = shmat(id, NULL, 0);
        strcpy(p, "mine");
        say("shm", id);
        q = mq_open("/silica-abuse", O_CREAT | O_RDWR, 0666, NULL);
        say("mq", q);
        say("abstract", 0);
        {
            struct sockaddr_un a = {.sun_family = AF_UNIX, .sun_path = "\0silica-abuse"};
            int s = socket(AF_UNIX, SOCK_STREAM, 0);

            say("bind", bind(s, (struct sockaddr *)&a, 2 + 1 + 12));
            listen(s, 1);
        }
        id = open("/dev/shm/silica-abuse", O_CREAT | O_WRONLY, 0666);
        say("dev shm", write(id, "mine", 4));
        pause();
    }
    say("shm", shmget(0x51117ca, 4096, 0));
    q = mq_open("/silica-abuse", O_RDONLY);
    say("mq", q);
    say("dev shm", open("/dev/shm/silica-abuse", O_RDONLY));
    return 0;
}

/* The name of an abstract socket to connect to. */
static int abstract(char *name)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int s = socket(AF_UNIX, SOCK_STREAM, 0);

    snprintf(a.sun_path + 1, sizeof a.sun_path - 1, "%s", name);
    say("connect",
        connect(s, (struct sockaddr *)&a, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name))));
    return 0;
}

static int bind_path(char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    say("bind", bind(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&a, sizeof a));
    return 0;
}

/* For SECONDS: opens for writing what any process of this sandbox runs, through every way there is. */
static int exe_race(int seconds)
{
    double end = now() + seconds;
    long tried = 0, opened = 0;
    struct stat mine, st;

    if (stat("/proc/self/exe", &mine) < 0)
        return 1;
    while (now() < end) {
        DIR *d = opendir("/proc");
        struct dirent *e;

        while (d != NULL && (e = readdir(d)) != NULL) {
            char path[64], again[64];
            int handle, fd;

            if (e->d_name[0] < '0' || e->d_name[0] > '9')
                continue;
            snprintf(path, sizeof path, "/proc/%.20s/exe", e->d_name);
            handle = open(path, O_PATH);
            tried++;
            if (handle < 0)
                continue;
            if (fstat(handle, &st) < 0 || (st.st_dev == mine.st_dev && st.st_ino == mine.st_ino) ||
                strcmp(e->d_name, "1") == 0 || st.st_nlink > 0) {
                /* Only what is in no file system of ours is of interest: the runtime's own program. PID 1 in any case. */
                if (strcmp(e->d_name, "1") != 0) {
                    close(handle);
                    continue;
                }
            }
            snprintf(again, sizeof again, "/proc/self/fd/%d", handle);
            for (int i = 0; i < 3; i++) {
                tried++;
                fd = open(i == 0 ? path : again, i == 2 ? O_WRONLY | O_TRUNC : O_RDWR);
                if (fd >= 0) {
                    if (write(fd, "#!evil\n", 7) == 7)
                        opened++;
                    close(fd);
                }
            }
            close(handle);
        }
        if (d != NULL)
            closedir(d);
    }
    printf("written: %ld\ntried: %ld\n", opened, tried);
    return 0;
}

/* For SECONDS: exchanges A and B as fast as possible. */
static int swap(char *a, char *b, int seconds)
{
    double end = now() + seconds;
    long n = 0;

    while (now() < end)
        for (int i = 0; i < 100; i++)
            n += syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, 2 /* EXCHANGE */) == 0;
    printf("swaps: %ld\n", n);
    return 0;
}

/* Sets the file capability CAP_SYS_ADMIN (as root of the namespace would) on PATH. */
static int setcap(char *path)
{
    struct {
        uint32_t magic, permitted, inheritable, permitted_high, inheritable_high;
    } cap = {0x02000001, 0xffffffff, 0xffffffff, 0x1ff, 0x1ff};

    say("setcap", setxattr(path, "security.capability", &cap, sizeof cap, 0));
    return 0;
}

/* ---- network ------------------------------------------------------------------------------------------------------ */

/* ADDR PORT [tcp|udp] [ms]: "ok", "ok: what was read", the errno, or "timeout". */
static int dial(char *addr, char *port, const char *how, int ms)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    struct sockaddr_in6 a6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)atoi(port))};
    int v6 = strchr(addr, ':') != NULL, udp = strcmp(how, "udp") == 0, on = 1, r, e = 0;
    int s = socket(v6 ? AF_INET6 : AF_INET, (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK, 0);
    struct pollfd p = {s, POLLOUT, 0};
    socklen_t len = sizeof e;
    char buf[512];

    setsockopt(s, SOL_SOCKET, SO_BROADCAST, &on, sizeof on);
    if (v6 ? inet_pton(AF_INET6, addr, &a6.sin6_addr) != 1 : inet_pton(AF_INET, addr, &a.sin_addr) != 1)
        return 2;
    r = connect(s, v6 ? (struct sockaddr *)&a6 : (struct sockaddr *)&a, v6 ? sizeof a6 : sizeof a);
    if (r < 0 && errno != EINPROGRESS) {
        say("connect", -1);
        return 0;
    }
    if (!udp && r < 0) {
        if (poll(&p, 1, ms) == 0) {
            printf("connect: timeout\n");
            return 0;
        }
        getsockopt(s, SOL_SOCKET, SO_ERROR, &e, &len);
        if (e != 0) {
            errno = e;
            say("connect", -1);
            return 0;
        }
    }
    say("connect", 0);
    r = (int)send(s, "ping\n", 5, MSG_NOSIGNAL);
    if (!udp)
        shutdown(s, SHUT_WR);
    say("send", r);
    p.events = POLLIN;
    if (poll(&p, 1, ms) == 0) {
        printf("answer: timeout\n");
        return 0;
    }
    r = (int)recv(s, buf, sizeof buf - 1, 0);
    if (r < 0) {
        say("answer", -1);
        return 0;
    }
    buf[r] = '\0';
    buf[strcspn(buf, "\n")] = '\0';
    printf("answer: %s\n", buf);
    return 0;
}

int main(int argc, char **argv)
{
    const char *c = argc > 1 ? argv[1] : "";
    char *a2 = argc > 2 ? argv[2] : "0", *a3 = argc > 3 ? argv[3] : "0", *a4 = argc > 4 ? argv[4] : "0";

#define CASE(name, call) \
    if (strcmp(c, name) == 0) \
    return call
    CASE("namespaces", namespaces());
    CASE("syscalls", syscalls());
    CASE("shocker", shocker());
    CASE("sockets", sockets());
    CASE("netadmin", netadmin());
    CASE("devices", devices());
    CASE("tty", tty());
    CASE("files", files(argc - 2, argv + 2));
    CASE("pid1", pid1());
    CASE("fds", fds());
    CASE("ipc", ipc(argc - 2, argv + 2));
    CASE("abstract", abstract(a2));
    CASE("bind", bind_path(a2));
    CASE("exe-race", exe_race(atoi(a2)));
    CASE("swap", swap(a2, a3, atoi(a4)));
    CASE("setcap", setcap(a2));
    CASE("dial", dial(a2, a3, argc > 4 ? a4 : "tcp", argc > 5 ? atoi(argv[5]) : 2000));
    CASE("id", (printf("uid: %d\neuid: %d\n", getuid(), geteuid()), 0));
    return 64;
}
