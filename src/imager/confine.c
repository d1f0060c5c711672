/* The imager is root of a user namespace that owns the store range and nothing else. An archive that takes over the
 * unpacker through a bug of a decompressor gets: one directory that will be thrown away, no network, no program to
 * start, no other process to see. */
#include "imager/confine.h"

#include <errno.h>
#include <linux/capability.h>
#include <seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"

/* The sanitizers' own run time needs more calls and terabytes of address space. */
#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(memory_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

enum {
    BOTH = 1 << CONFINE_SUPERVISOR | 1 << CONFINE_UNPACKER,
    UNPACKER = 1 << CONFINE_UNPACKER,
    SUPERVISOR = 1 << CONFINE_SUPERVISOR
};

static const struct {
    int nr;
    unsigned roles;
} allowed[] = {
    {SCMP_SYS(brk), BOTH},
    {SCMP_SYS(clock_gettime), BOTH},
    {SCMP_SYS(close), BOTH},
    {SCMP_SYS(exit), BOTH},
    {SCMP_SYS(exit_group), BOTH},
    {SCMP_SYS(fcntl), BOTH},
    {SCMP_SYS(fstat), BOTH},
    {SCMP_SYS(futex), BOTH},
    {SCMP_SYS(getdents64), BOTH},
    {SCMP_SYS(getpid), BOTH},
    {SCMP_SYS(getrandom), BOTH},
    {SCMP_SYS(gettid), BOTH},
    {SCMP_SYS(lseek), BOTH},
    {SCMP_SYS(madvise), BOTH},
    {SCMP_SYS(mremap), BOTH},
    {SCMP_SYS(munmap), BOTH},
    {SCMP_SYS(newfstatat), BOTH},
    {SCMP_SYS(openat2), BOTH},
    {SCMP_SYS(read), BOTH},
    {SCMP_SYS(renameat2), BOTH},
    {SCMP_SYS(restart_syscall), BOTH}, /* a call that was interrupted by a stop */
    {SCMP_SYS(rt_sigaction), BOTH},
    {SCMP_SYS(rt_sigprocmask), BOTH},
    {SCMP_SYS(rt_sigreturn), BOTH},
    {SCMP_SYS(sendmsg), BOTH},
    {SCMP_SYS(tgkill), BOTH}, /* abort() */
    {SCMP_SYS(unlinkat), BOTH},
    {SCMP_SYS(write), BOTH},
    {SCMP_SYS(syncfs), SUPERVISOR},
    {SCMP_SYS(fchmod), UNPACKER},
    {SCMP_SYS(fchown), UNPACKER},
    {SCMP_SYS(fchownat), UNPACKER},
    {SCMP_SYS(fsetxattr), UNPACKER},
    {SCMP_SYS(ftruncate), UNPACKER},
    {SCMP_SYS(linkat), UNPACKER},
    {SCMP_SYS(mkdirat), UNPACKER},
    {SCMP_SYS(mknodat), UNPACKER},
    {SCMP_SYS(pwrite64), UNPACKER},
    {SCMP_SYS(symlinkat), UNPACKER},
    {SCMP_SYS(utimensat), UNPACKER},
    {SCMP_SYS(kill), SUPERVISOR},
    {SCMP_SYS(poll), SUPERVISOR},
    {SCMP_SYS(recvmsg), SUPERVISOR},
    {SCMP_SYS(sendto), SUPERVISOR},
    {SCMP_SYS(wait4), SUPERVISOR},
};

int confine_root(int dir, struct err *e)
{
    if (fchdir(dir) < 0 || chroot(".") < 0)
        return err_set(e, errno, "cannot make its directory the root: %m");
    return 0;
}

int confine_limits(uint64_t file_max, struct err *e)
{
    const struct {
        __rlimit_resource_t what;
        uint64_t max;
    } limits[] = {
        {RLIMIT_AS, SANITIZED ? RLIM_INFINITY : CONFINE_MEMORY_MAX},
        {RLIMIT_NOFILE, CONFINE_FDS_MAX},
        {RLIMIT_FSIZE, file_max},
        {RLIMIT_CPU, CONFINE_CPU_SECONDS},
        {RLIMIT_CORE, 0},
    };

    for (size_t i = 0; i < ARRAY_LEN(limits); i++) {
        struct rlimit now, l = {limits[i].max, limits[i].max};

        if (getrlimit(limits[i].what, &now) < 0)
            return err_set(e, errno, "cannot read a resource limit: %m");
        if (l.rlim_max > now.rlim_max) /* what we were given is tighter */
            l.rlim_cur = l.rlim_max = now.rlim_max;
        if (setrlimit(limits[i].what, &l) < 0)
            return err_set(e, errno, "cannot set a resource limit: %m");
    }
    /* A write above RLIMIT_FSIZE then fails with EFBIG, which is an error with words. */
    (void)signal(SIGXFSZ, SIG_IGN);
    return 0;
}

/* What placing files needs. Whiteouts (0:0 character devices) need no capability; other nodes are never made. */
static int drop_capabilities(struct err *e)
{
    static const int kept[] = {CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, CAP_SETFCAP};
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{0}, {0}};
    uint64_t set = 0;

    for (size_t i = 0; i < ARRAY_LEN(kept); i++)
        set |= 1ull << kept[i];
    for (int cap = 0; cap <= CAP_LAST_CAP; cap++) {
        if ((set >> cap & 1) == 0 && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0 &&
            errno != EINVAL) /* EINVAL: older kernel */
            return err_set(e, errno, "cannot drop a capability: %m");
    }
    for (int i = 0; i < 2; i++)
        data[i].permitted = data[i].effective = (uint32_t)(set >> 32 * i);
    if (syscall(SYS_capset, &head, data) < 0)
        return err_set(e, errno, "cannot drop capabilities: %m");
    return 0;
}

static int filter(enum confine_role role, struct err *e)
{
    /* Not "kill": a C library that tries a newer call first must be able to fall back. Nothing is gained by what gets
     * through this list, whatever the answer for the rest is. */
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
    int r = ctx != NULL ? 0 : -ENOMEM;

    for (size_t i = 0; r == 0 && i < ARRAY_LEN(allowed); i++) {
        if ((allowed[i].roles & 1u << role) != 0)
            r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, allowed[i].nr, 0);
    }
    /* Memory, but none that can be executed. */
    if (r == 0)
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    if (r == 0)
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    if (r == 0)
        r = seccomp_load(ctx);
    if (ctx != NULL)
        seccomp_release(ctx);
    return r < 0 ? err_set(e, r, "cannot install the system call filter: %m") : 0;
}

int confine_role(enum confine_role role, struct err *e)
{
    int r;

    r = drop_capabilities(e);
    if (r < 0)
        return r;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
        return err_set(e, errno, "cannot confine itself: %m");
    return SANITIZED ? 0 : filter(role, e);
}
