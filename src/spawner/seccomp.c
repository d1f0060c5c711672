/* The system call filter of a sandbox, made once at start.
 *
 * An allow list by name, in the spirit of the profile container engines give a container with default capabilities.
 * Three answers to everything else: EPERM for calls that exist and are refused, ENOSYS for what we do not know (a libc then
 * falls back) and for other ABIs of the machine (32-bit, x32), EAFNOSUPPORT for address families.
 *
 * Two things here are not what they seem. clone3 is allowed, although its flags are out of a filter's sight: init needs
 * CLONE_INTO_CGROUP, and each process it starts gets a second filter, installed by init as the last thing before exec,
 * that answers ENOSYS to clone3. And sync(2) succeeds without doing anything: it would write back all file systems of the
 * host, while a sandbox's own layer dies with it (fsync is there for files that live longer).
 *
 * Attaching a filter costs the kernel a run for each system call number, so its shape matters: a balanced tree over ranges
 * of numbers; checks of arguments hang off its leaves. */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "spawner/drivers.h"

#if defined(__x86_64__)
#define OUR_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OUR_ARCH AUDIT_ARCH_AARCH64
#else
#error "seccomp.c knows the argument layout of x86-64 and arm64 only"
#endif
_Static_assert(__BYTE_ORDER == __LITTLE_ENDIAN, "the low half of an argument comes first");

enum {
    NUMBERS = 512, /* the table of system calls; above: ENOSYS, as are x32's numbers (from 0x40000000 on) */
    PROGRAM_MAX = 512,
    JUMP_MAX = 255,               /* of a conditional jump */
    NAMESPACE_FLAGS = 0x7e020000, /* all CLONE_NEW* of clone(2); CLONE_NEWTIME is clone3's */
};

/* What happens to a system call. The first ones end the program, the others look at arguments. */
enum action {
    DO_ENOSYS, /* what is in neither list */
    DO_EPERM,
    DO_AFNOSUPPORT,
    DO_NOTHING, /* success */
    DO_ALLOW,
    CHECK_CLONE,
    CHECK_PERSONALITY,
    CHECK_SOCKET,
    CHECK_SOCKETPAIR,
    CHECK_IOCTL,
    ACTIONS,
};

/* clang-format off */
static const char *const allowed[] = {
    "accept", "accept4", "access", "adjtimex", "alarm", "arch_prctl", "bind", "brk", "cachestat", "capget",
    "capset", "chdir", "chmod", "chown", "chroot", "clock_adjtime", "clock_getres", "clock_gettime",
    "clock_nanosleep", "clone3", "close", "close_range", "connect", "copy_file_range", "creat", "dup", "dup2",
    "dup3", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_pwait2", "epoll_wait", "eventfd",
    "eventfd2", "execve", "execveat", "exit", "exit_group", "faccessat", "faccessat2", "fadvise64", "fallocate",
    "fanotify_mark", "fchdir", "fchmod", "fchmodat", "fchmodat2", "fchown", "fchownat", "fcntl", "fdatasync",
    "fgetxattr", "flistxattr", "flock", "fork", "fremovexattr", "fsetxattr", "fstat", "fstatfs", "fsync",
    "ftruncate", "futex", "futex_waitv", "futimesat", "get_robust_list", "get_thread_area", "getcpu", "getcwd",
    "getdents", "getdents64", "getegid", "geteuid", "getgid", "getgroups", "getitimer", "getpeername", "getpgid",
    "getpgrp", "getpid", "getppid", "getpriority", "getrandom", "getresgid", "getresuid", "getrlimit", "getrusage",
    "getsid", "getsockname", "getsockopt", "gettid", "gettimeofday", "getuid", "getxattr", "inotify_add_watch",
    "inotify_init", "inotify_init1", "inotify_rm_watch", "io_cancel", "io_destroy", "io_getevents", "io_pgetevents",
    "io_setup", "io_submit", "ioprio_get", "ioprio_set", "kill", "landlock_add_rule", "landlock_create_ruleset",
    "landlock_restrict_self", "lchown", "lgetxattr", "link", "linkat", "listen", "listxattr", "llistxattr",
    "lremovexattr", "lseek", "lsetxattr", "lstat", "madvise", "map_shadow_stack", "membarrier", "memfd_create",
    "memfd_secret", "mincore", "mkdir", "mkdirat", "mknod", "mknodat", "mlock", "mlock2", "mlockall", "mmap",
    "mprotect", "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedsend", "mq_unlink", "mremap",
    "msgctl", "msgget", "msgrcv", "msgsnd", "msync", "munlock", "munlockall", "munmap", "name_to_handle_at",
    "nanosleep", "newfstatat", "open", "openat", "openat2", "pause", "pidfd_open", "pidfd_send_signal", "pipe",
    "pipe2", "pkey_alloc", "pkey_free", "pkey_mprotect", "poll", "ppoll", "prctl", "pread64", "preadv", "preadv2",
    "prlimit64", "process_mrelease", "pselect6", "ptrace", "pwrite64", "pwritev", "pwritev2", "read", "readahead",
    "readlink", "readlinkat", "readv", "recvfrom", "recvmmsg", "recvmsg", "remap_file_pages", "removexattr",
    "rename", "renameat", "renameat2", "restart_syscall", "rmdir", "rseq", "rt_sigaction", "rt_sigpending",
    "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_tgsigqueueinfo",
    "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity", "sched_getattr", "sched_getparam",
    "sched_getscheduler", "sched_rr_get_interval", "sched_setaffinity", "sched_setattr", "sched_setparam",
    "sched_setscheduler", "sched_yield", "seccomp", "select", "semctl", "semget", "semop", "semtimedop", "sendfile",
    "sendmmsg", "sendmsg", "sendto", "set_robust_list", "set_thread_area", "set_tid_address", "setfsgid",
    "setfsuid", "setgid", "setgroups", "setitimer", "setpgid", "setpriority", "setregid", "setresgid", "setresuid",
    "setreuid", "setrlimit", "setsid", "setsockopt", "setuid", "setxattr", "shmat", "shmctl", "shmdt", "shmget",
    "shutdown", "sigaltstack", "signalfd", "signalfd4", "splice", "stat", "statfs", "statx", "symlink", "symlinkat",
    "sync_file_range", "syncfs", "sysinfo", "tee", "tgkill", "time", "timer_create", "timer_delete",
    "timer_getoverrun", "timer_gettime", "timer_settime", "timerfd_create", "timerfd_gettime", "timerfd_settime",
    "times", "tkill", "truncate", "umask", "uname", "unlink", "unlinkat", "utime", "utimensat", "utimes", "vfork",
    "vmsplice", "wait4", "waitid", "write", "writev",
};

/* Younger than the library that knows the names; these numbers are the same on all architectures. */
static const uint16_t allowed_numbers[] = {
    454, /* futex_wake */
    455, /* futex_wait */
    456, /* futex_requeue */
    462, /* mseal */
    463, /* setxattrat */
    464, /* getxattrat */
    465, /* listxattrat */
    466, /* removexattrat */
};

static const char *const refused[] = {
    "_sysctl", "acct", "add_key", "bpf", "clock_settime", "delete_module", "fanotify_init", "finit_module",
    "fsconfig", "fsmount", "fsopen", "fspick", "get_mempolicy", "init_module", "io_uring_enter",
    "io_uring_register", "io_uring_setup", "ioperm", "iopl", "kcmp", "kexec_file_load", "kexec_load", "keyctl",
    "lookup_dcookie", "mbind", "migrate_pages", "modify_ldt", "mount", "mount_setattr", "move_mount", "move_pages",
    "nfsservctl", "open_by_handle_at", "open_tree", "perf_event_open", "pidfd_getfd", "pivot_root",
    "process_madvise", "process_vm_readv", "process_vm_writev", "quotactl", "quotactl_fd", "reboot", "request_key",
    "set_mempolicy", "set_mempolicy_home_node", "setdomainname", "sethostname", "setns", "settimeofday", "swapoff",
    "swapon", "sysfs", "syslog", "umount2", "unshare", "uselib", "userfaultfd", "ustat", "vhangup",
};
/* clang-format on */

static const struct {
    const char *name;
    enum action action;
} special[] = {
    {"clone", CHECK_CLONE},   {"ioctl", CHECK_IOCTL},           {"personality", CHECK_PERSONALITY},
    {"socket", CHECK_SOCKET}, {"socketpair", CHECK_SOCKETPAIR}, {"sync", DO_NOTHING},
};

/* PER_LINUX and PER_LINUX32, each with and without UNAME26, and the question what it is now. Not ADDR_NO_RANDOMIZE. */
static const uint32_t personalities[] = {0x0, 0x0008, 0x20000, 0x20008, 0xffffffff};

static const uint32_t families[] = {AF_UNIX, AF_INET, AF_INET6};

/* ---- the program, built from its end ------------------------------------------------------------------------------
 * BPF jumps forward only. Built backward, everything a jump can lead to exists already; index 0 is the last instruction. */
struct program {
    struct sock_filter insn[PROGRAM_MAX];
    unsigned len;
    unsigned label[ACTIONS]; /* where to go for an action */
    bool full;
};

static unsigned emit(struct program *p, struct sock_filter insn)
{
    if (p->len == PROGRAM_MAX) {
        p->full = true;
        return 0;
    }
    p->insn[p->len] = insn;
    return p->len++;
}

/* The jump from the next instruction to TARGET. */
static unsigned distance(const struct program *p, unsigned target)
{
    return p->len - target - 1;
}

/* A place from which TARGET is reached, near enough for one of the next two instructions. */
static unsigned near(struct program *p, unsigned target)
{
    if (distance(p, target) < JUMP_MAX)
        return target;
    return emit(p, (struct sock_filter)BPF_STMT(BPF_JMP | BPF_JA, distance(p, target)));
}

static unsigned near_action(struct program *p, enum action a)
{
    unsigned at = p->label[a];

    if (distance(p, at) < JUMP_MAX)
        return at;
    if (a <= DO_ALLOW)
        at = emit(p, p->insn[at]); /* a return is as short as the jump to it */
    else
        at = near(p, at);
    p->label[a] = at;
    return at;
}

static unsigned emit_jump(struct program *p, unsigned op, uint32_t k, unsigned yes, unsigned no)
{
    yes = near(p, yes);
    no = near(p, no);
    return emit(p, (struct sock_filter){.code = (uint16_t)(BPF_JMP | op | BPF_K),
                                        .jt = (uint8_t)distance(p, yes),
                                        .jf = (uint8_t)distance(p, no),
                                        .k = k});
}

static unsigned emit_load(struct program *p, size_t offset)
{
    return emit(p, (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset));
}

/* All checked arguments are 32-bit ones to the kernel, so their high halves say nothing. */
static unsigned emit_load_arg(struct program *p, unsigned n)
{
    return emit_load(p, offsetof(struct seccomp_data, args) + n * sizeof(uint64_t));
}

/* argument N one of LIST ? yes : no */
static unsigned emit_member(struct program *p, const uint32_t *list, size_t count, unsigned yes, unsigned no)
{
    for (size_t i = count; i-- > 0;)
        no = emit_jump(p, BPF_JEQ, list[i], yes, no);
    return no;
}

static void emit_actions(struct program *p)
{
    static const uint32_t answer[] = {
        [DO_ENOSYS] = SECCOMP_RET_ERRNO | ENOSYS,
        [DO_EPERM] = SECCOMP_RET_ERRNO | EPERM,
        [DO_AFNOSUPPORT] = SECCOMP_RET_ERRNO | EAFNOSUPPORT,
        [DO_NOTHING] = SECCOMP_RET_ERRNO | 0,
        [DO_ALLOW] = SECCOMP_RET_ALLOW,
    };
    static const uint32_t ttys[] = {TIOCSTI, TIOCLINUX};
    unsigned allow, eperm, af, netlink;

    for (unsigned a = 0; a <= DO_ALLOW; a++)
        p->label[a] = emit(p, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, answer[a]));
    allow = p->label[DO_ALLOW];
    eperm = p->label[DO_EPERM];
    af = p->label[DO_AFNOSUPPORT];

    (void)emit_jump(p, BPF_JSET, NAMESPACE_FLAGS, eperm, allow);
    p->label[CHECK_CLONE] = emit_load_arg(p, 0);

    (void)emit_member(p, personalities, ARRAY_LEN(personalities), allow, eperm);
    p->label[CHECK_PERSONALITY] = emit_load_arg(p, 0);

    (void)emit_member(p, ttys, ARRAY_LEN(ttys), eperm, allow);
    p->label[CHECK_IOCTL] = emit_load_arg(p, 1);

    (void)emit_jump(p, BPF_JEQ, AF_UNIX, allow, af);
    p->label[CHECK_SOCKETPAIR] = emit_load_arg(p, 0);

    /* Of netlink, the protocol that getaddrinfo(3) and getifaddrs(3) use. */
    (void)emit_jump(p, BPF_JEQ, NETLINK_ROUTE, allow, af);
    netlink = emit_load_arg(p, 2);
    netlink = emit_jump(p, BPF_JEQ, AF_NETLINK, netlink, af);
    (void)emit_member(p, families, ARRAY_LEN(families), allow, netlink);
    p->label[CHECK_SOCKET] = emit_load_arg(p, 0);
}

struct range {
    uint32_t first;
    enum action action;
};

static unsigned emit_tree(struct program *p, const struct range *ranges, unsigned count)
{
    unsigned half = count / 2, above, below;

    if (count == 1)
        return near_action(p, ranges[0].action);
    above = emit_tree(p, ranges + half, count - half);
    below = emit_tree(p, ranges, half);
    return emit_jump(p, BPF_JGE, ranges[half].first, above, below);
}

/* ---- from names to ranges ------------------------------------------------------------------------------------------ */

static void set(uint8_t table[NUMBERS], const char *name, enum action a)
{
    int nr = seccomp_syscall_resolve_name(name);

    if (nr >= 0 && nr < NUMBERS) /* negative: this architecture has no such call */
        table[nr] = (uint8_t)a;
}

static unsigned make_ranges(struct range ranges[NUMBERS + 1])
{
    uint8_t table[NUMBERS] = {0};
    unsigned n = 0;

    _Static_assert(DO_ENOSYS == 0, "what is in no list");
    for (size_t i = 0; i < ARRAY_LEN(allowed); i++)
        set(table, allowed[i], DO_ALLOW);
    for (size_t i = 0; i < ARRAY_LEN(allowed_numbers); i++)
        table[allowed_numbers[i]] = DO_ALLOW;
    for (size_t i = 0; i < ARRAY_LEN(special); i++)
        set(table, special[i].name, special[i].action);
    for (size_t i = 0; i < ARRAY_LEN(refused); i++)
        set(table, refused[i], DO_EPERM);

    for (uint32_t nr = 0; nr < NUMBERS; nr++)
        if (nr == 0 || table[nr] != table[nr - 1])
            ranges[n++] = (struct range){nr, (enum action)table[nr]};
    ranges[n++] = (struct range){NUMBERS, DO_ENOSYS};
    return n;
}

static int make_program(struct program *p)
{
    struct range ranges[NUMBERS + 1];
    unsigned root, enosys;

    emit_actions(p);
    root = emit_tree(p, ranges, make_ranges(ranges));
    if (root != p->len - 1)
        root = emit(p, (struct sock_filter)BPF_STMT(BPF_JMP | BPF_JA, distance(p, root)));
    root = emit_load(p, offsetof(struct seccomp_data, nr));
    enosys = near_action(p, DO_ENOSYS);
    (void)emit_jump(p, BPF_JEQ, OUR_ARCH, root, enosys);
    (void)emit_load(p, offsetof(struct seccomp_data, arch));
    return p->full ? -E2BIG : 0;
}

int seccomp_build(int *ret_memfd, unsigned *ret_instructions, struct err *e)
{
    struct sock_filter forward[PROGRAM_MAX];
    struct program p = {0};
    AUTO_FD fd = -1;
    size_t bytes;
    int r;

    r = make_program(&p);
    if (r < 0)
        return err_set(e, r, "the system call filter has more than %d instructions", PROGRAM_MAX);
    for (unsigned i = 0; i < p.len; i++)
        forward[i] = p.insn[p.len - 1 - i];

    fd = memfd_create("silica-seccomp", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return err_set(e, errno, "make a memfd for the system call filter: %m");
    bytes = p.len * sizeof forward[0];
    if (write(fd, forward, bytes) != (ssize_t)bytes)
        return err_set(e, errno, "write the system call filter: %m");
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0)
        return err_set(e, errno, "seal the system call filter: %m");

    *ret_memfd = take_fd(&fd);
    *ret_instructions = p.len;
    return 0;
}
