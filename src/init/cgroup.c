/* The child cgroups of processes.
 *
 * Each process has one, p<token>, which names its descendants whatever they do to hide. One that is not empty when its
 * process is reaped becomes a stray: inotify on its cgroup.events tells when the last descendant has gone. */
#include "init/init-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/stat.h>

/* Last: it defines IN_OPEN, which wire/in.h has as a message; that one is not used in this file. */
#include <sys/inotify.h>

enum {
    CGROUP_NAME_MAX = 48, /* "p" + 20 digits + "/cgroup.events" */
    EXIT_KILL = 71,       /* init's exit code, beside EXIT_SETUP: a process it was to kill could not be reached */
};

static void cgroup_name(char *buf, uint64_t token, const char *file)
{
    (void)snprintf(buf, CGROUP_NAME_MAX, "p%llu%s", (unsigned long long)token, file); /* always fits */
}

int cgroup_make(struct init *in, uint64_t token, int *ret_fd)
{
    char name[CGROUP_NAME_MAX];
    int fd, code;

    cgroup_name(name, token, "");
    if (mkdirat(in->cgroup_fd, name, 0755) < 0)
        return -errno;
    fd = openat(in->cgroup_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        code = errno;
        (void)unlinkat(in->cgroup_fd, name, AT_REMOVEDIR);
        return -code;
    }
    *ret_fd = fd;
    return 0;
}

static int open_kill(struct init *in, const char *name)
{
    int fd = openat(in->cgroup_fd, name, O_WRONLY | O_CLOEXEC);

    if (fd < 0 && errno == EMFILE) { /* init's table is full of pipes: one descriptor is kept for this */
        fd_closep(&in->null_fd);
        fd = openat(in->cgroup_fd, name, O_WRONLY | O_CLOEXEC);
    }
    return fd < 0 ? -errno : fd;
}

void cgroup_kill(struct init *in, uint64_t token)
{
    char name[CGROUP_NAME_MAX];
    int fd;

    cgroup_name(name, token, "/cgroup.kill");
    fd = open_kill(in, name);
    if (fd == -ENOENT || fd == -ENODEV)
        return; /* everything in it has ended */
    if (fd < 0)
        _exit(EXIT_KILL);     /* what cannot be ended alone ends with its sandbox: it must not run on */
    (void)!write(fd, "1", 1); /* fails only when the directory has just been removed */
    (void)close(fd);
    if (in->null_fd < 0)
        in->null_fd = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0); /* without it the next one may be the last */
}

/* True when the directory is gone. */
static bool cgroup_remove(struct init *in, uint64_t token)
{
    char name[CGROUP_NAME_MAX];

    cgroup_name(name, token, "");
    return unlinkat(in->cgroup_fd, name, AT_REMOVEDIR) == 0 || errno == ENOENT;
}

static int watch_stray(struct init *in, uint64_t token)
{
    char name[CGROUP_NAME_MAX];
    int wd;

    if (in->inotify_fd < 0) {
        in->inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
        if (in->inotify_fd < 0)
            return -1;
        in->strays_source.fd = in->inotify_fd;
        (void)watch(in, &in->strays_source, EPOLLIN); /* without it the retries of cgroup_drop() remain */
    }
    /* inotify takes paths only. Nothing else of init depends on where it stands; children go to their own directory. */
    cgroup_name(name, token, "/cgroup.events");
    if (fchdir(in->cgroup_fd) < 0)
        return -1;
    wd = inotify_add_watch(in->inotify_fd, name, IN_MODIFY);
    (void)fchdir(in->root_fd); /* cannot fail: an open directory we own */
    return wd;
}

static bool stray_try(struct init *in, struct stray *s)
{
    if (!cgroup_remove(in, s->token))
        return false;
    if (s->watch >= 0)
        (void)inotify_rm_watch(in->inotify_fd, s->watch); /* mostly gone with the file */
    list_remove(&s->all);
    in->stray_count--;
    free(s);
    return true;
}

/* Where inotify could not help (its limits are the sandbox's), strays are found here: a few each time, in turns. */
static void try_unwatched(struct init *in)
{
    for (unsigned i = 0; i < STRAY_RETRIES && !list_empty(&in->unwatched); i++) {
        struct stray *s = container_of(in->unwatched.next, struct stray, all);

        if (!stray_try(in, s)) {
            list_remove(&s->all);
            list_append(&in->unwatched, &s->all);
        }
    }
}

void cgroup_drop(struct init *in, uint64_t token)
{
    struct stray *s;

    try_unwatched(in);
    if (cgroup_remove(in, token))
        return;
    s = calloc(1, sizeof *s);
    if (s == NULL)
        return; /* the spawner removes it with the sandbox */
    s->token = token;
    s->watch = watch_stray(in, token);
    list_append(s->watch >= 0 ? &in->strays : &in->unwatched, &s->all);
    in->stray_count++;
    (void)stray_try(in, s); /* it may have become empty before the watch was there */
}

void cgroup_event(struct init *in, struct source *src, uint32_t events)
{
    union {
        struct inotify_event align;
        char bytes[2048];
    } buf;
    ssize_t n = read(src->fd, buf.bytes, sizeof buf.bytes);

    (void)events;
    for (ssize_t at = 0; at + (ssize_t)sizeof(struct inotify_event) <= n;) {
        const struct inotify_event *e = (const void *)(buf.bytes + at);

        at += (ssize_t)(sizeof *e + e->len);
        for (struct link *l = in->strays.next; l != &in->strays; l = l->next) {
            struct stray *s = container_of(l, struct stray, all);

            if (s->watch == e->wd) {
                (void)stray_try(in, s);
                break;
            }
        }
    }
}
