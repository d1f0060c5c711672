/* needs: root (to install a filter without no_new_privs) */
#include "bed.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "spawner/drivers.h"

static struct sock_filter *program;
static unsigned instructions;

static int setup(void **state)
{
    struct err e = {0};
    int fd;

    assert_int_equal(bed_group(state), 0);
    assert_ok(seccomp_build(&fd, &instructions, &e), &e);
    assert_int_equal(write(fd, "x", 1), -1); /* sealed */
    assert_int_equal(ftruncate(fd, 0), -1);
    program = mmap(NULL, instructions * sizeof *program, PROT_READ, MAP_PRIVATE, fd, 0);
    assert_true(program != MAP_FAILED);
    (void)close(fd);
    return 0;
}

static int install(void)
{
    const struct sock_fprog prog = {.len = (unsigned short)instructions, .filter = program};

    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog);
}

/* What ANSWER says under the filter: 0 or an errno. In a child. */
static int under_filter(long (*call)(void))
{
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        long r;

        if (install() < 0)
            _exit(250);
        errno = 0;
        r = call();
        _exit(r < 0 ? errno : 0);
    }
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (!WIFEXITED(status))
        fail_msg("killed by signal %d", WTERMSIG(status));
    return WEXITSTATUS(status);
}

/* ---- an interpreter, so that every number is tried with every interesting argument ---------------------------------- */

static uint32_t run_program(const struct seccomp_data *d)
{
    uint32_t a = 0;

    for (unsigned pc = 0; pc < instructions; pc++) {
        const struct sock_filter *i = &program[pc];
        bool yes;

        switch (i->code) {
        case BPF_LD | BPF_W | BPF_ABS:
            memcpy(&a, (const char *)d + i->k, sizeof a);
            continue;
        case BPF_RET | BPF_K:
            return i->k;
        case BPF_JMP | BPF_JA:
            pc += i->k;
            continue;
        case BPF_JMP | BPF_JEQ | BPF_K:
            yes = a == i->k;
            break;
        case BPF_JMP | BPF_JGE | BPF_K:
            yes = a >= i->k;
            break;
        case BPF_JMP | BPF_JSET | BPF_K:
            yes = (a & i->k) != 0;
            break;
        default:
            fail_msg("instruction %u has the unexpected code %#x", pc, i->code);
            return 0;
        }
        pc += yes ? i->jt : i->jf;
    }
    fail_msg("ran off the end");
    return 0;
}

static uint32_t answer(uint32_t arch, int nr, uint64_t a0, uint64_t a1, uint64_t a2)
{
    const struct seccomp_data d = {.nr = nr, .arch = arch, .args = {a0, a1, a2}};

    return run_program(&d);
}

#if defined(__x86_64__)
enum { X32_BIT = 0x40000000 };
static const uint32_t arch = AUDIT_ARCH_X86_64, other_arch = AUDIT_ARCH_I386;
#else
enum { X32_BIT = 0x40000000 };
static const uint32_t arch = AUDIT_ARCH_AARCH64, other_arch = AUDIT_ARCH_ARM;
#endif
#define ALLOW SECCOMP_RET_ALLOW
#define REFUSE(e) (SECCOMP_RET_ERRNO | (e))

static void other_abis_and_unknown_numbers_do_not_exist(void **state)
{
    (void)state;
    for (int nr = 0; nr < 1024; nr++) {
        assert_int_equal(answer(other_arch, nr, 0, 0, 0), REFUSE(ENOSYS));
        assert_int_equal(answer(arch, nr | X32_BIT, 0, 0, 0), REFUSE(ENOSYS));
    }
    for (int nr = 470; nr < 5000; nr++)
        assert_int_equal(answer(arch, nr, 0, 0, 0), REFUSE(ENOSYS));
    assert_int_equal(answer(arch, -1, 0, 0, 0), REFUSE(ENOSYS));
    assert_int_equal(answer(arch, 0x7fffffff, 0, 0, 0), REFUSE(ENOSYS));
}

static void what_reaches_the_host_is_refused(void **state)
{
    static const int refused[] = {
        SYS_mount,
        SYS_umount2,
        SYS_pivot_root,
        SYS_move_mount,
        SYS_open_tree,
        SYS_fsopen,
        SYS_fsconfig,
        SYS_fsmount,
        SYS_fspick,
        SYS_mount_setattr,
        SYS_unshare,
        SYS_setns,
        SYS_bpf,
        SYS_perf_event_open,
        SYS_userfaultfd,
        SYS_io_uring_setup,
        SYS_io_uring_enter,
        SYS_io_uring_register,
        SYS_keyctl,
        SYS_add_key,
        SYS_request_key,
        SYS_kcmp,
        SYS_pidfd_getfd,
        SYS_process_vm_readv,
        SYS_process_vm_writev,
        SYS_open_by_handle_at,
        SYS_init_module,
        SYS_finit_module,
        SYS_delete_module,
        SYS_kexec_load,
        SYS_reboot,
        SYS_swapon,
        SYS_swapoff,
        SYS_syslog,
        SYS_acct,
        SYS_quotactl,
        SYS_settimeofday,
        SYS_clock_settime,
        SYS_sethostname,
        SYS_setdomainname,
        SYS_vhangup,
        SYS_fanotify_init,
        SYS_lookup_dcookie,
#if defined(__x86_64__)
        SYS_modify_ldt,
        SYS_iopl,
        SYS_ioperm,
        SYS_uselib,
        SYS_kexec_file_load,
#endif
    };

    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        if (answer(arch, refused[i], 0, 0, 0) != REFUSE(EPERM))
            fail_msg("call %d is answered with %#x", refused[i], answer(arch, refused[i], 0, 0, 0));
}

static void arguments_decide_where_they_must(void **state)
{
    static const uint64_t namespaces[] = {CLONE_NEWNS,   CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC,
                                          CLONE_NEWUSER, CLONE_NEWPID,    CLONE_NEWNET};
    static const uint32_t bad_families[] = {AF_VSOCK, AF_ALG, AF_PACKET, AF_TIPC,   AF_BLUETOOTH,
                                            AF_KEY,   AF_XDP, AF_RDS,    AF_UNSPEC, 0xffff};
    const uint64_t high = 0xdeadbeefull << 32; /* the kernel does not look at it, so it must not fool the filter */

    (void)state;
    assert_int_equal(answer(arch, SYS_clone, SIGCHLD, 0, 0), ALLOW);
    assert_int_equal(answer(arch, SYS_clone, CLONE_VM | CLONE_THREAD | CLONE_SIGHAND, 0, 0), ALLOW);
    for (size_t i = 0; i < sizeof namespaces / sizeof namespaces[0]; i++)
        assert_int_equal(answer(arch, SYS_clone, high | namespaces[i] | SIGCHLD, 0, 0), REFUSE(EPERM));
    assert_int_equal(answer(arch, SYS_clone3, 0, 0, 0), ALLOW);

    assert_int_equal(answer(arch, SYS_ioctl, 0, TCGETS, 0), ALLOW);
    assert_int_equal(answer(arch, SYS_ioctl, 0, TIOCSTI, 0), REFUSE(EPERM));
    assert_int_equal(answer(arch, SYS_ioctl, 0, high | TIOCSTI, 0), REFUSE(EPERM));
    assert_int_equal(answer(arch, SYS_ioctl, 0, high | TIOCLINUX, 0), REFUSE(EPERM));

    assert_int_equal(answer(arch, SYS_personality, 0, 0, 0), ALLOW);
    assert_int_equal(answer(arch, SYS_personality, 0xffffffff, 0, 0), ALLOW);
    assert_int_equal(answer(arch, SYS_personality, 0x20008, 0, 0), ALLOW);
    assert_int_equal(answer(arch, SYS_personality, ADDR_NO_RANDOMIZE, 0, 0), REFUSE(EPERM));

    assert_int_equal(answer(arch, SYS_socket, AF_UNIX, SOCK_STREAM, 0), ALLOW);
    assert_int_equal(answer(arch, SYS_socket, AF_INET, SOCK_STREAM, 0), ALLOW);
    assert_int_equal(answer(arch, SYS_socket, AF_INET6, SOCK_DGRAM, 17), ALLOW);
    assert_int_equal(answer(arch, SYS_socket, AF_NETLINK, SOCK_RAW, NETLINK_ROUTE), ALLOW);
    for (int proto = 1; proto < 32; proto++)
        assert_int_equal(answer(arch, SYS_socket, AF_NETLINK, SOCK_RAW, (uint64_t)proto), REFUSE(EAFNOSUPPORT));
    for (size_t i = 0; i < sizeof bad_families / sizeof bad_families[0]; i++) {
        assert_int_equal(answer(arch, SYS_socket, high | bad_families[i], SOCK_STREAM, 0), REFUSE(EAFNOSUPPORT));
        assert_int_equal(answer(arch, SYS_socketpair, bad_families[i], SOCK_STREAM, 0), REFUSE(EAFNOSUPPORT));
    }
    assert_int_equal(answer(arch, SYS_socketpair, AF_UNIX, SOCK_STREAM, 0), ALLOW);
    assert_int_equal(answer(arch, SYS_sync, 0, 0, 0), REFUSE(0));
}

static void what_init_and_programs_need_is_allowed(void **state)
{
    static const int needed[] = {
        SYS_read,
        SYS_write,
        SYS_openat,
        SYS_openat2,
        SYS_close,
        SYS_close_range,
        SYS_clone3,
        SYS_execve,
        SYS_execveat,
        SYS_seccomp,
        SYS_prctl,
        SYS_capset,
        SYS_capget,
        SYS_setresuid,
        SYS_setresgid,
        SYS_setgroups,
        SYS_mkdirat,
        SYS_unlinkat,
        SYS_wait4,
        SYS_waitid,
        SYS_pidfd_open,
        SYS_pidfd_send_signal,
        SYS_epoll_pwait,
        SYS_signalfd4,
        SYS_memfd_create,
        SYS_sendmsg,
        SYS_recvmsg,
        SYS_splice,
        SYS_chroot,
        SYS_mknodat,
        SYS_ptrace,
        SYS_futex,
        SYS_rseq,
        SYS_getrandom,
        SYS_statx,
        SYS_faccessat2,
        SYS_copy_file_range,
        SYS_membarrier,
        SYS_landlock_create_ruleset,
        SYS_shmget,
        SYS_mq_open,
        SYS_timer_create,
        SYS_inotify_init1,
        SYS_prlimit64,
        SYS_sched_setaffinity,
        SYS_epoll_pwait2,
        SYS_futex_waitv,
    };

    (void)state;
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++)
        if (answer(arch, needed[i], 0, 0, 0) != ALLOW)
            fail_msg("call %d is answered with %#x", needed[i], answer(arch, needed[i], 0, 0, 0));
}

/* ---- and the kernel's opinion --------------------------------------------------------------------------------------- */

static long do_unshare(void)
{
    return unshare(CLONE_NEWUSER);
}
static long do_keyctl(void)
{
    return syscall(SYS_keyctl, 0, -3, 0, 0, 0);
}
static long do_vsock(void)
{
    return socket(AF_VSOCK, SOCK_STREAM, 0);
}
static long do_inet(void)
{
    return socket(AF_INET, SOCK_STREAM, 0);
}
static long do_sync(void)
{
    return syscall(SYS_sync);
}
static long do_unknown(void)
{
    return syscall(511);
}
#if defined(__x86_64__)
static long do_x32(void)
{
    return syscall(X32_BIT | SYS_getpid);
}
static long do_int80(void)
{
    long r = 20; /* getpid of i386 */

    __asm__ volatile("int $0x80" : "+a"(r) : : "memory", "r8", "r9", "r10", "r11");
    if (r < 0) {
        errno = (int)-r;
        return -1;
    }
    return r;
}
#endif
static long do_thread_and_exec(void)
{
    return system("/bin/sh -c '/bin/true & wait; exec /bin/true'") == 0 ? 0 : -1;
}

static void the_kernel_agrees(void **state)
{
    (void)state;
    assert_int_equal(under_filter(do_unshare), EPERM);
    assert_int_equal(under_filter(do_keyctl), EPERM);
    assert_int_equal(under_filter(do_vsock), EAFNOSUPPORT);
    assert_int_equal(under_filter(do_inet), 0);
    assert_int_equal(under_filter(do_sync), 0);
    assert_int_equal(under_filter(do_unknown), ENOSYS);
#if defined(__x86_64__)
    assert_int_equal(under_filter(do_x32), ENOSYS);
    assert_int_equal(under_filter(do_int80), ENOSYS);
#endif
    assert_int_equal(under_filter(do_thread_and_exec), 0);
}

static void installing_it_is_cheap(void **state)
{
    uint64_t best = UINT64_MAX, call = UINT64_MAX, bare = UINT64_MAX, t;

    (void)state;
    assert_true(instructions < 300);
    for (int i = 0; i < 20; i++) {
        uint64_t *took = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        pid_t pid = fork();

        if (pid == 0) {
            t = clock_mono();
            for (int n = 0; n < 1000; n++)
                (void)syscall(SYS_getppid);
            took[2] = clock_mono() - t;
            t = clock_mono();
            took[3] = (uint64_t)install();
            took[0] = clock_mono() - t;
            t = clock_mono();
            for (int n = 0; n < 1000; n++)
                (void)syscall(SYS_getppid);
            took[1] = clock_mono() - t;
            _exit(0);
        }
        (void)waitpid(pid, NULL, 0);
        assert_int_equal(took[3], 0);
        best = took[0] < best ? took[0] : best;
        call = took[1] < call ? took[1] : call;
        bare = took[2] < bare ? took[2] : bare;
        (void)munmap(took, 4096);
    }
    print_message("seccomp: %u instructions, %llu us to install, a system call takes %llu ns (%llu without)\n",
                  instructions, (unsigned long long)best / 1000, (unsigned long long)call / 1000,
                  (unsigned long long)bare / 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(other_abis_and_unknown_numbers_do_not_exist),
        cmocka_unit_test(what_reaches_the_host_is_refused),
        cmocka_unit_test(arguments_decide_where_they_must),
        cmocka_unit_test(what_init_and_programs_need_is_allowed),
        cmocka_unit_test(the_kernel_agrees),
        cmocka_unit_test(installing_it_is_cheap),
    };

    return cmocka_run_group_tests(tests, setup, NULL);
}
