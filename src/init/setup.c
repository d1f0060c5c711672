/* What init does once, before it reads its first request. Failing here ends init, and with it the sandbox: a sandbox
 * without its seccomp filter or with a readable init must not run anything. */
#include "init/init-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include "init/caps.h"
#include "init/kernel.h"

#ifndef PR_CAP_AMBIENT
#define PR_CAP_AMBIENT 47
#define PR_CAP_AMBIENT_CLEAR_ALL 4
#endif

static _Noreturn void give_up(void)
{
    /* There is nobody to tell: stdio is /dev/null and the control socket carries answers only. The spawner sees the code. */
    _exit(EXIT_SETUP);
}

static void own_signals(void)
{
    sigset_t chld;

    /* What the spawner ignored would be ignored by every process of the sandbox too. As PID 1, init does not need handlers:
     * the kernel drops what has none, whoever inside sends it. */
    for (int s = 1; s < NSIG; s++)
        (void)k_signal_default(s); /* fails for SIGKILL and SIGSTOP */
    sigemptyset(&chld);
    sigaddset(&chld, SIGCHLD);
    if (sigprocmask(SIG_SETMASK, &chld, NULL) < 0)
        give_up();
}

/* The kernel lets a process change the limits of another one whose ids are all its own. Root of the sandbox could so take
 * init's descriptors away, and with them the killing of trees. A saved gid that no process has besides two others forbids
 * it; whoever init starts sets all of them anew (child_become). */
static void own_ids(void)
{
    if (syscall(SYS_setresgid, -1, -1, PLAN_SANDBOX_IDS - 1) < 0)
        give_up();
}

/* The bounding set shrinks here, once, for all descendants: on exec the kernel gives a uid 0 program exactly the bounding
 * set and another uid nothing. Inheritable and ambient sets stay empty, else they would outlive a change of uid. */
static void own_capabilities(void)
{
    struct k_cap_header h = {K_CAP_VERSION_3, 0};
    struct k_cap_data d[2];

    for (int cap = 0; cap <= K_CAP_LAST_POSSIBLE && prctl(PR_CAPBSET_READ, cap) >= 0; cap++) {
        if ((CAPS_SANDBOX >> cap & 1) == 0 && prctl(PR_CAPBSET_DROP, cap) < 0)
            give_up();
    }
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 || syscall(SYS_capget, &h, d) < 0)
        give_up();
    d[0].inheritable = d[1].inheritable = 0;
    if (syscall(SYS_capset, &h, d) < 0)
        give_up();
}

static void own_seccomp(void)
{
    struct k_sock_filter *code;
    struct stat st;
    size_t len;

    if (fstat(IN_SECCOMP_FD, &st) < 0 || st.st_size <= 0 || st.st_size % (off_t)sizeof *code != 0)
        give_up();
    len = (size_t)st.st_size / sizeof *code;
    code = len <= K_BPF_MAXINSNS ? malloc((size_t)st.st_size) : NULL;
    if (code == NULL || pread(IN_SECCOMP_FD, code, (size_t)st.st_size, 0) != (ssize_t)st.st_size)
        give_up();
    /* No no_new_privs: sudo, su and ping work inside. CAP_SYS_ADMIN of our user namespace is what allows that. */
    if (k_seccomp_filter(code, (unsigned short)len) < 0)
        give_up();
    free(code);
    (void)close(IN_SECCOMP_FD); /* not needed again */
}

/* A directory of a kernel file system, looked up while nobody but the spawner has touched the mounts. */
static int kernel_dir(const char *path, long magic)
{
    int fd = open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct statfs fs;

    if (fd < 0)
        return -1;
    if (fstatfs(fd, &fs) < 0 || (long)fs.f_type != magic) {
        (void)close(fd);
        return -1;
    }
    return fd;
}

static void own_files(struct init *in)
{
    struct rlimit all;

    for (int fd = IN_FD; fd <= IN_LISTEN_FD; fd++) {
        if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 && fd != IN_LISTEN_FD)
            give_up();
    }
    (void)k_close_range(IN_LISTEN_FD + 1, ~0u); /* the spawner leaves nothing there */
    in->null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    in->root_fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (in->null_fd < 0 || in->root_fd < 0)
        give_up();
    /* The sandbox's own /dev/null instead of the host's, for programs that get no stdin too. */
    for (int fd = 0; fd < 3; fd++) {
        if (dup2(in->null_fd, fd) < 0)
            give_up();
    }
    in->proc_fd = kernel_dir("/proc", K_PROC_MAGIC);
    in->pts_fd = kernel_dir("/dev/pts", K_DEVPTS_MAGIC);
    in->cgroup_fd = IN_CGROUP_FD;
    in->inotify_fd = -1;

    if (getrlimit(RLIMIT_NOFILE, &in->nofile) < 0)
        give_up();
    all = in->nofile;
    all.rlim_cur = all.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &all); /* with fewer, fewer processes fit: they are refused one by one */
}

static void own_loop(struct init *in)
{
    sigset_t chld;

    list_init(&in->procs);
    list_init(&in->starting);
    list_init(&in->sendq);
    list_init(&in->entryq);
    list_init(&in->helpers);
    list_init(&in->strays);
    list_init(&in->unwatched);

    in->epoll = epoll_create1(EPOLL_CLOEXEC);
    sigemptyset(&chld);
    sigaddset(&chld, SIGCHLD);
    in->children = (struct source){.fd = signalfd(-1, &chld, SFD_CLOEXEC | SFD_NONBLOCK), .ready = reap_ready};
    in->strays_source = (struct source){.fd = -1, .ready = cgroup_event};
    in->control = (struct source){.fd = IN_FD, .ready = control_ready};
    in->listener = (struct source){.fd = IN_LISTEN_FD, .ready = control_accept};
    in->control_events = EPOLLIN;
    if (in->epoll < 0 || in->children.fd < 0 || watch(in, &in->children, EPOLLIN) < 0)
        give_up();
    if (fcntl(IN_FD, F_SETFL, O_RDWR | O_NONBLOCK) < 0 || watch(in, &in->control, EPOLLIN) < 0)
        give_up();
    /* Without a listener the sandbox works, but does not survive the end of both spawner and silicad. */
    if (fcntl(IN_LISTEN_FD, F_SETFL, O_RDWR | O_NONBLOCK) < 0 || watch(in, &in->listener, EPOLLIN) < 0)
        in->listener.fd = -1;
}

void setup(struct init *in)
{
    if (getpid() != 1)
        give_up();
    /* Nobody inside may trace init, read its memory or its /proc files. */
    if (prctl(PR_SET_DUMPABLE, 0) < 0 || prctl(PR_SET_NAME, "silica-init") < 0)
        give_up();
    own_signals();
    own_files(in);
    own_ids();
    own_capabilities();
    own_seccomp();
    if (chdir("/") < 0)
        give_up();
    own_loop(in);
}
