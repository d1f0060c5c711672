/* Imagers, which turn hostile archives into layers, and the removal of layers.
 *
 * Both run as root of a user namespace over the store range and nothing else, so that no archive, and no tree that came
 * out of one, is ever touched with the host's privileges. */
#include "spawner/spawner.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/slice.h"

enum {
    IMAGER_INPUT_FD = 3,
    IMAGER_RESULT_FD = 4,
    IMAGER_LAYERS_FD = 5,
    IMAGER_NOFILE = 1024,
    IO_CLASS_IDLE = 3 << 13, /* see ioprio_set(2): glibc has no names for it */
    IO_WHO_PROCESS = 1,
};
#define IMAGER_MEMORY_MAX (2ull << 30)

struct imager {
    LIST_ENTRY(imager) link;
    struct jail jail;
    struct spawner *sp;
    uint64_t token, epoch;
    int result; /* silicad's end, until it has been sent */
    bool answered;
    /* for the child */
    int input, child_result;
    uint64_t max_bytes;
    char bytes_text[24], entries_text[24];
};

/* ---- the child ------------------------------------------------------------------------------------------------------ */

static int run_imager(void *arg, const char **ret_where)
{
    struct imager *im = arg;
    const struct rlimit memory = {IMAGER_MEMORY_MAX, IMAGER_MEMORY_MAX}, size = {im->max_bytes, im->max_bytes},
                        files = {IMAGER_NOFILE, IMAGER_NOFILE};
    const char *const argv[] = {"silica-imager", "layer",          "--max-bytes", im->bytes_text,
                                "--max-entries", im->entries_text, NULL};
    const char *const env[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", NULL};

    *ret_where = "prepare silica-imager";
    if (dup2(im->sp->null_fd, STDIN_FILENO) < 0 || dup2(im->sp->null_fd, STDOUT_FILENO) < 0 ||
        dup2(im->input, IMAGER_INPUT_FD) < 0 || dup2(im->child_result, IMAGER_RESULT_FD) < 0 ||
        dup2(im->sp->layers_fd, IMAGER_LAYERS_FD) < 0)
        return -errno;
    if (setrlimit(RLIMIT_AS, &memory) < 0 || setrlimit(RLIMIT_FSIZE, &size) < 0 || setrlimit(RLIMIT_NOFILE, &files) < 0)
        return -errno;
    /* Unlike a sandbox it is of no use to anybody when the spawner is gone. */
    if (chdir("/") < 0 || prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -errno;
    (void)umask(0);
    slice_ask(0);
    *ret_where = "exec silica-imager";
    (void)syscall(SYS_execveat, im->sp->program_imager, "", argv, env, AT_EMPTY_PATH);
    return -errno;
}

/* ---- the parent ----------------------------------------------------------------------------------------------------- */

static void answer(struct imager *im, const struct err *e)
{
    struct sp_created_imager up = {.pid = im->jail.pid};
    struct spawner *sp = im->sp;

    if (im->answered)
        return;
    im->answered = true;
    if (im->epoch == sp->epoch && e->code == 0)
        link_send(sp, SP_IMAGER_UP, im->token, &up, sizeof up, NULL, im->result);
    else if (im->epoch == sp->epoch)
        link_fail(sp, im->token, e);
    fd_closep(&im->result);
}

static void imager_up(struct jail *j, int code, const char *where)
{
    struct imager *im = container_of(j, struct imager, jail);
    struct err e = {0};

    if (code < 0) {
        (void)err_set(&e, code, "start of the imager: %s: %m", where);
        log_warn(NULL, "%s", e.msg);
        (void)kill(j->pid, SIGKILL);
    }
    answer(im, &e);
}

static void imager_free(struct imager *im)
{
    jail_stop(&im->jail);
    fd_close(im->result);
    fd_close(im->input);
    fd_close(im->child_result);
    free(im);
}

static struct imager *imager_new(struct spawner *sp, uint64_t token, const struct sp_imager *req, int input,
                                 struct err *e)
{
    struct imager *im = calloc(1, sizeof *im);
    int pair[2];

    if (im == NULL || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        (void)err_set(e, im == NULL ? ENOMEM : errno, "prepare an imager: %m");
        fd_close(input);
        free(im);
        return NULL;
    }
    im->sp = sp;
    im->token = token;
    im->epoch = sp->epoch;
    im->result = pair[0];
    im->child_result = pair[1];
    im->input = input;
    im->max_bytes = req->max_bytes;
    (void)fcntl(im->result, F_SETFL, O_NONBLOCK); /* cannot fail on a socket of our own */
    (void)snprintf(im->bytes_text, sizeof im->bytes_text, "%llu", (unsigned long long)req->max_bytes);
    (void)snprintf(im->entries_text, sizeof im->entries_text, "%llu", (unsigned long long)req->max_entries);
    return im;
}

void imager_start(struct spawner *sp, uint64_t token, const struct sp_imager *req, int input)
{
    struct jail_plan plan = {
        .flags = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS,
        .uid_base = STORE_BASE,
        .cgroup_fd = -1,
        .netns_fd = -1,
        .run = run_imager,
    };
    struct err e = {0};
    struct imager *im;

    if (sp->imager_count >= IMAGERS_MAX) {
        fd_close(input);
        (void)err_typed(&e, ERR_EXHAUSTED, NULL, "%d imagers run already; try again later", IMAGERS_MAX);
        link_fail(sp, token, &e);
        return;
    }
    im = imager_new(sp, token, req, input, &e);
    if (im == NULL) {
        link_fail(sp, token, &e);
        return;
    }
    plan.arg = im;
    if (jail_start(sp, &im->jail, &plan, imager_up, &e) < 0) {
        answer(im, &e);
        imager_free(im); /* a child that was cloned all the same is reaped as a stranger */
        return;
    }
    fd_closep(&im->input);
    fd_closep(&im->child_result);
    LIST_INSERT_HEAD(&sp->imagers, im, link);
    sp->imager_count++;
}

bool imager_reaped(struct spawner *sp, pid_t pid, int status)
{
    struct imager *im;

    if (pid == sp->remover) {
        sp->remover = 0;
        if (sp->sweep_again)
            layers_sweep(sp);
        return true;
    }
    LIST_FOREACH (im, &sp->imagers, link) {
        if (im->jail.pid == pid)
            break;
    }
    if (im == NULL)
        return false;
    if (im->jail.io.active)
        jail_flush(&im->jail);
    LIST_REMOVE(im, link);
    imager_free(im);
    sp->imager_count--;
    sp->imager_failed |= !WIFEXITED(status) || WEXITSTATUS(status) != 0;
    /* With none at work every temporary directory is a dead one's. */
    if (sp->imager_count == 0 && sp->imager_failed && sp->stage == SP_RUNNING)
        layers_sweep(sp);
    supervisor_progress(sp);
    return true;
}

void imagers_kill(struct spawner *sp)
{
    struct imager *im;

    LIST_FOREACH (im, &sp->imagers, link)
        (void)kill(im->jail.pid, SIGKILL);
}

/* ---- removal of layers ---------------------------------------------------------------------------------------------- */

/* Removes the entries of a directory; subdirectories are moved up to TOP first, so that a tree of any depth needs two
 * descriptors and no recursion. */
static int empty_dir(int top, int dir, uint64_t *seq)
{
    DIR *d = fdopendir(dir);
    struct dirent *de;
    char name[40];

    if (d == NULL) {
        fd_close(dir);
        return -errno;
    }
    while ((de = readdir(d)) != NULL) {
        if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0)
            continue;
        if (unlinkat(dirfd(d), de->d_name, 0) == 0)
            continue;
        (void)snprintf(name, sizeof name, ".del-%llu", (unsigned long long)(*seq)++);
        (void)renameat(dirfd(d), de->d_name, top, name);
    }
    (void)closedir(d);
    return 0;
}

static bool one_pass(int top, uint64_t *seq)
{
    int fd = openat(top, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    struct dirent *de;
    bool removed = false;

    while (d != NULL && (de = readdir(d)) != NULL) {
        int dir;

        if (strncmp(de->d_name, ".del-", 5) != 0)
            continue;
        dir = openat(top, de->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (dir >= 0)
            (void)empty_dir(top, dir, seq);
        if (unlinkat(top, de->d_name, dir >= 0 ? AT_REMOVEDIR : 0) == 0)
            removed = true;
    }
    if (d != NULL)
        (void)closedir(d);
    return removed;
}

static int run_remover(void *arg, const char **ret_where)
{
    struct spawner *sp = arg;
    uint64_t seq = sp->del_seq;

    (void)ret_where;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    slice_ask(0);
    (void)setpriority(PRIO_PROCESS, 0, 19);
    (void)syscall(SYS_ioprio_set, IO_WHO_PROCESS, 0, IO_CLASS_IDLE);
    while (one_pass(sp->layers_fd, &seq))
        ;
    _exit(0);
}

static void remover_runs(struct jail *j, int code, const char *where)
{
    (void)j;
    (void)code; /* it never execs; a slow one is no failure */
    (void)where;
}

static void start_remover(struct spawner *sp)
{
    static struct jail jail;
    const struct jail_plan plan = {
        .uid_base = STORE_BASE, .cgroup_fd = -1, .netns_fd = -1, .run = run_remover, .arg = sp};
    struct err e = {0};

    jail_stop(&jail);
    if (jail_start(sp, &jail, &plan, remover_runs, &e) < 0)
        log_warn(NULL, "removed layers stay on disk until silicad starts again: %s", e.msg);
    else
        sp->remover = jail.pid;
    sp->del_seq += 1ull << 32; /* the names it uses are not ours */
}

static int set_aside(struct spawner *sp, const char *name)
{
    char to[40];

    if (sp->del_seq == 0)
        sp->del_seq = clock_wall();
    (void)snprintf(to, sizeof to, ".del-%llu", (unsigned long long)sp->del_seq++);
    return renameat(sp->layers_fd, name, sp->layers_fd, to) < 0 ? -errno : 0;
}

void layers_sweep(struct spawner *sp)
{
    int fd = openat(sp->layers_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    struct dirent *de;
    bool any = false;

    sp->sweep_again = sp->remover != 0;
    while (d != NULL && (de = readdir(d)) != NULL) {
        if (strncmp(de->d_name, ".del-", 5) == 0)
            any = true;
        else if (sp->imager_count == 0 && strncmp(de->d_name, ".tmp-", 5) == 0)
            any |= set_aside(sp, de->d_name) == 0;
    }
    if (d != NULL)
        (void)closedir(d);
    if (sp->imager_count == 0)
        sp->imager_failed = false;
    if (any && sp->remover == 0)
        start_remover(sp);
}

int layer_remove(struct spawner *sp, const char *digest, struct err *e)
{
    int r;

    if (layer_in_use(sp, digest)) {
        (void)err_typed(e, ERR_PRECONDITION, NULL, "layer %s is in use by a sandbox", digest);
        return e->code = -EBUSY; /* what sp.h promises */
    }
    r = set_aside(sp, digest);
    if (r == -ENOENT)
        return err_typed(e, ERR_NOT_FOUND, NULL, "there is no layer %s", digest);
    if (r < 0)
        return err_set(e, r, "remove layer %s: %m", digest);
    layers_sweep(sp);
    return 0;
}
