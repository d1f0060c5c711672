/* What init needs of the kernel's uapi and musl's headers do not carry. Names have a K_ or k_ in front, so that the
 * parts of init that are also compiled natively for tests do not meet the definitions of glibc. */
#pragma once

#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

struct k_open_how {
    uint64_t flags, mode, resolve;
};
#define K_RESOLVE_NO_XDEV 0x01
#define K_RESOLVE_NO_MAGICLINKS 0x02
#define K_RESOLVE_IN_ROOT 0x10

struct k_clone_args {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};
#define K_CLONE_INTO_CGROUP 0x200000000ull

struct k_sock_filter {
    uint16_t code;
    uint8_t jt, jf;
    uint32_t k;
};
struct k_sock_fprog {
    unsigned short len;
    const struct k_sock_filter *filter;
};
#define K_BPF_LD_W_ABS 0x20 /* BPF_LD | BPF_W | BPF_ABS */
#define K_BPF_JEQ_K 0x15    /* BPF_JMP | BPF_JEQ | BPF_K */
#define K_BPF_RET_K 0x06    /* BPF_RET | BPF_K */
#define K_SECCOMP_SET_MODE_FILTER 1
#define K_SECCOMP_RET_ERRNO 0x00050000u
#define K_SECCOMP_RET_ALLOW 0x7fff0000u
#define K_BPF_MAXINSNS 4096

#define K_CAP_VERSION_3 0x20080522u
struct k_cap_header {
    uint32_t version;
    int pid;
};
struct k_cap_data {
    uint32_t effective, permitted, inheritable;
};
#define K_CAP_LAST_POSSIBLE 63

/* File systems, from linux/magic.h. */
#define K_DEVPTS_MAGIC 0x1cd1
#define K_PROC_MAGIC 0x9fa0
#define K_SYSFS_MAGIC 0x62656572
#define K_CGROUP_MAGIC 0x27e0eb
#define K_CGROUP2_MAGIC 0x63677270
#define K_TMPFS_MAGIC 0x01021994
#define K_EXT4_MAGIC 0xef53
#define K_XFS_MAGIC 0x58465342
#define K_BTRFS_MAGIC 0x9123683e
#define K_OVERLAY_MAGIC 0x794c7630

#define K_TIOCGPTPEER 0x5441

static inline int k_openat2(int dir, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve)
{
    struct k_open_how how = {flags, mode, resolve};

    return (int)syscall(SYS_openat2, dir, path, &how, sizeof how);
}

/* Like fork(2): the child goes on here with a copy of the caller's memory. */
static inline pid_t k_clone3(const struct k_clone_args *args)
{
    return (pid_t)syscall(SYS_clone3, args, sizeof *args);
}

/* Past the C library, which keeps three signals for its threads and refuses to touch them. An all-zero struct
 * kernel_sigaction is SIG_DFL, no flags, an empty mask, whatever the order of its members. */
static inline int k_signal_default(int signo)
{
    const unsigned long dfl[4] = {0};

    return (int)syscall(SYS_rt_sigaction, signo, dfl, NULL, 8);
}

static inline int k_close_range(unsigned first, unsigned last)
{
    return (int)syscall(SYS_close_range, first, last, 0);
}

static inline int k_seccomp_filter(const struct k_sock_filter *code, unsigned short len)
{
    struct k_sock_fprog prog = {len, code};

    return (int)syscall(SYS_seccomp, K_SECCOMP_SET_MODE_FILTER, 0, &prog);
}

static inline int k_capset(uint64_t permitted)
{
    struct k_cap_header h = {K_CAP_VERSION_3, 0};
    struct k_cap_data d[2] = {
        {.effective = (uint32_t)permitted, .permitted = (uint32_t)permitted},
        {.effective = (uint32_t)(permitted >> 32), .permitted = (uint32_t)(permitted >> 32)},
    };

    return (int)syscall(SYS_capset, &h, d);
}
