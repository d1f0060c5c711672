/* A user namespace exists as long as a process or an fd is in it, and only a process can make one. So a child is cloned
 * that does just that and waits to be killed, while we write the maps and open the fd. The child shares our memory (no
 * page tables are copied) and has an exit signal of 0: it never shows up in the spawner's SIGCHLD handling. */
#include "spawner/userns.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "spawner/drivers.h"

enum { CHILD_STACK = 16 << 10 };

static int wait_to_be_killed(void *arg)
{
    (void)arg;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* no child of ours may outlive us */
    for (;;)
        (void)pause();
    return 0;
}

/* The owner of a user namespace is the effective uid of its maker. Raw calls: glibc's would tell other threads, and we
 * have none. The securebit keeps our capabilities, some hosts allow user namespaces to the privileged only. */
static int become(uint32_t uid)
{
    return (int)syscall(SYS_setresuid, -1, uid, -1);
}

static pid_t clone_as(uint32_t owner)
{
    static char stack[CHILD_STACK] __attribute__((aligned(16)));
    int bits = -1;
    pid_t pid;
    int saved;

    if (owner != 0) {
        bits = prctl(PR_GET_SECUREBITS);
        if (bits < 0 || prctl(PR_SET_SECUREBITS, (unsigned long)bits | SECBIT_NO_SETUID_FIXUP) < 0)
            return -1;
        if (become(owner) < 0) {
            saved = errno;
            (void)prctl(PR_SET_SECUREBITS, bits); /* what we had before is always allowed */
            errno = saved;
            return -1;
        }
    }

    pid = clone(wait_to_be_killed, stack + sizeof stack, CLONE_NEWUSER | CLONE_VM, NULL);
    saved = errno;
    if (owner != 0) {
        (void)become(0);                      /* our real uid is 0: cannot fail */
        (void)prctl(PR_SET_SECUREBITS, bits); /* as above */
    }
    errno = saved;
    return pid;
}

static int write_map(pid_t pid, const char *which, const char *text)
{
    char path[48];
    AUTO_FD fd = -1;

    (void)snprintf(path, sizeof path, "/proc/%d/%s", pid, which);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    return write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

int userns_make(uint32_t inside, uint32_t outside, uint32_t count, uint32_t owner, int *ret_fd, struct err *e)
{
    char text[48], path[48];
    int fd = -1, r;
    pid_t pid;

    pid = clone_as(owner);
    if (pid < 0)
        return err_set(e, errno, "make a user namespace: %m");

    (void)snprintf(text, sizeof text, "%u %u %u\n", inside, outside, count);
    r = write_map(pid, "uid_map", text);
    if (r == 0)
        r = write_map(pid, "gid_map", text);
    if (r < 0) {
        err_set(e, r, "map %u ids from %u in a user namespace: %m", count, outside);
    } else {
        (void)snprintf(path, sizeof path, "/proc/%d/ns/user", pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            r = err_set(e, errno, "open a user namespace: %m");
    }

    (void)kill(pid, SIGKILL); /* it is ours until it is waited for */
    while (waitpid(pid, NULL, __WCLONE) < 0 && errno == EINTR)
        ;
    if (r == 0)
        *ret_fd = fd;
    return r;
}

int userns_open(uint32_t uid_base, int *ret_fd, struct err *e)
{
    return userns_make(0, uid_base, SLOT_UIDS, uid_base, ret_fd, e);
}
