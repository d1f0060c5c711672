/* From clone to exec: runs in the new process, with a copy of init's memory. System calls only, no allocation.
 *
 * The order matters. What needs init's privileges comes first (terminal, OOM score, seccomp); then every fd of init is
 * closed, so that neither the program nor a working directory like /proc/self/fd/4 finds one; then the user is assumed;
 * and only then are paths of the sandbox touched, with that user's rights. */
#include "init/init-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include "base/slice.h"
#include "init/caps.h"
#include "init/kernel.h"

enum {
    STATUS_FD = 3,
    LOOKUP_TRIES = 128, /* openat2 says EAGAIN when something was renamed on the way */
};

static _Noreturn void fail(int status, int code, uint32_t stage)
{
    struct child_status st = {code, stage};

    (void)!write(status, &st, sizeof st); /* nobody is left to tell */
    _exit(127);
}

/* clone3 takes its flags by pointer, where seccomp cannot see them. libc then falls back to clone, whose flags init's own
 * filter checks. Init needs clone3 itself, hence this second filter in each child. */
static int refuse_clone3(void)
{
    static const struct k_sock_filter code[] = {
        {K_BPF_LD_W_ABS, 0, 0, 0}, /* seccomp_data.nr; 435 is clone3 on every architecture */
        {K_BPF_JEQ_K, 0, 1, SYS_clone3},
        {K_BPF_RET_K, 0, 0, K_SECCOMP_RET_ERRNO | ENOSYS},
        {K_BPF_RET_K, 0, 0, K_SECCOMP_RET_ALLOW},
    };

    return k_seccomp_filter(code, ARRAY_LEN(code)) < 0 ? -errno : 0;
}

static int take_stdio(const struct child_io *io, uid_t uid)
{
    if (setsid() < 0)
        return -errno;
    if (io->tty >= 0 && (ioctl(io->tty, TIOCSCTTY, 0) < 0 || fchown(io->tty, uid, (gid_t)-1) < 0))
        return -errno;
    for (int i = 0; i < 3; i++) {
        if (io->fds[i] >= 0 && dup2(io->fds[i], i) < 0)
            return -errno;
    }
    return 0;
}

/* Leaves 0, 1, 2 and the status pipe, as STATUS_FD. */
static int close_inherited(int status)
{
    if (status != STATUS_FD && dup3(status, STATUS_FD, O_CLOEXEC) < 0)
        return -errno;
    return k_close_range(STATUS_FD + 1, ~0u) < 0 ? -errno : 0;
}

/* Init last, the main process before it, commands first: memory that belongs to descriptors (pipes, memfds, sockets) counts
 * for no process, and a main process that is killed for it takes the sandbox along. */
static void raise_oom_score(const struct init *in, uint32_t kind)
{
    int fd = openat(in->proc_fd, "self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    const char *score = kind == IN_MAIN ? OOM_SCORE_MAIN : OOM_SCORE_COMMAND;

    if (fd < 0)
        return; /* a sandbox without /proc: the kernel then weighs init like the rest, by size, and init is small */
    (void)!write(fd, score, strlen(score));
    (void)close(fd);
}

int child_become(const struct identity *who, bool no_new_privs)
{
    uint64_t caps = who->uid == 0 ? CAPS_SANDBOX : 0;

    /* Directly: libc's functions would look for threads to take along. */
    if (syscall(SYS_setgroups, (size_t)who->ngroups, who->groups) < 0 ||
        syscall(SYS_setresgid, who->gid, who->gid, who->gid) < 0 ||
        syscall(SYS_setresuid, who->uid, who->uid, who->uid) < 0)
        return -errno;
    if (k_capset(caps) < 0)
        return -errno;
    if (no_new_privs && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -errno;
    return 0;
}

static int open_dir(int root, const char *path)
{
    int fd = -1;

    for (int i = 0; i < LOOKUP_TRIES; i++) {
        fd = k_openat2(root, path, O_PATH | O_DIRECTORY | O_CLOEXEC, 0, K_RESOLVE_IN_ROOT | K_RESOLVE_NO_MAGICLINKS);
        if (fd >= 0 || errno != EAGAIN)
            break;
    }
    return fd < 0 ? -errno : fd;
}

int child_open_dir(int root, const char *path, bool make)
{
    char prefix[IN_PATH_MAX];
    size_t at = 0, len = strlen(path);
    int fd = open_dir(root, path), parent;

    if (fd != -ENOENT || !make || len >= sizeof prefix)
        return fd;
    memcpy(prefix, path, len + 1);
    parent = open_dir(root, "/");
    while (parent >= 0) {
        size_t begin = at + strspn(path + at, "/");

        at = begin + strcspn(path + begin, "/");
        if (begin == at)
            return parent; /* the path is used up */
        /* Each prefix is looked up from the root again: a link swapped in meanwhile cannot lead out of it. */
        prefix[at] = '\0';
        fd = open_dir(root, prefix);
        if (fd == -ENOENT && (mkdirat(parent, prefix + begin, 0755) == 0 || errno == EEXIST))
            fd = open_dir(root, prefix);
        else if (fd == -ENOENT)
            fd = -errno;
        prefix[at] = path[at];
        (void)close(parent);
        parent = fd;
    }
    return parent;
}

static int enter_cwd(const struct spawn_plan *p)
{
    int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), fd;

    if (root < 0)
        return -errno;
    fd = child_open_dir(root, p->cwd, p->cwd_create);
    if (fd < 0)
        return fd;
    if (fchdir(fd) < 0)
        return -errno;
    (void)close(fd);
    (void)close(root);
    return 0;
}

/* Returns only on failure, with -errno. */
static int exec_file(const struct spawn_plan *p, const char *file)
{
    (void)execve(file, (char *const *)(uintptr_t)p->argv, (char *const *)(uintptr_t)p->env);
    if (errno == ENOEXEC) { /* a script without #!, as execvp(3) runs it */
        p->sh_argv[1] = file;
        (void)execve("/bin/sh", (char *const *)(uintptr_t)p->sh_argv, (char *const *)(uintptr_t)p->env);
        errno = ENOEXEC;
    }
    return -errno;
}

/* Like execvp(3): an entry that may not be executed is remembered, and reported when nothing better is found. */
static int exec_search(const struct spawn_plan *p)
{
    const char *name = p->argv[0], *path = plan_getenv(p->env, "PATH");
    char file[IN_PATH_MAX];
    bool denied = false;

    if (name[0] == '\0')
        return -ENOENT;
    if (strchr(name, '/') != NULL)
        return exec_file(p, name);
    if (strlen(name) > NAME_MAX_BYTES)
        return -ENAMETOOLONG;
    if (path == NULL)
        path = PLAN_DEFAULT_PATH;
    while (plan_next_candidate(&path, name, file, sizeof file)) {
        int r = exec_file(p, file);

        if (r == -EACCES)
            denied = true;
        else if (r != -ENOENT && r != -ENOTDIR)
            return r;
    }
    return denied ? -EACCES : -ENOENT;
}

_Noreturn void child_run(const struct init *in, const struct spawn_plan *p, const struct child_io *io)
{
    sigset_t none;
    int r, status = io->status;

    r = take_stdio(io, p->who.uid);
    if (r == 0) {
        raise_oom_score(in, p->kind);
        r = close_inherited(status);
        if (r == 0)
            status = STATUS_FD;
    }
    if (r == 0)
        r = setrlimit(RLIMIT_NOFILE, &in->nofile) < 0 ? -errno : 0;
    if (r == 0)
        r = refuse_clone3();
    if (r < 0)
        fail(status, r, IN_ST_OTHER);

    (void)umask(022);
    r = child_become(&p->who, (p->flags & IN_S_NO_NEW_PRIVS) != 0);
    if (r < 0)
        fail(status, r, IN_ST_USER);
    r = enter_cwd(p);
    if (r < 0)
        fail(status, r, IN_ST_CWD);

    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL); /* dispositions are the defaults already; both arguments are valid */
    slice_ask(0);
    fail(status, exec_search(p), IN_ST_EXEC);
}
