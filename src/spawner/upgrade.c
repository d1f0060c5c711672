/* The running spawner becomes the program that is now on disk, in place: same pid, so sandboxes stay its children.
 *
 * silica-server has ended by then, nothing is being made and nothing is ending, and the table file holds all else; so the
 * state that must travel is numbers of open descriptors, as lines of text in a sealed memfd. */
#include "spawner/spawner.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum {
    UPGRADE_SEALS = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL,
    UPGRADE_STATE_MAX = 16 << 20,
    ARGV_MAX = 256
};

int upgrade_control(struct spawner *sp, const char *id)
{
    struct handed *h;
    int fd;

    HASH_FIND_STR(sp->handed, id, h);
    if (h == NULL)
        return -1;
    fd = h->fd;
    HASH_DEL(sp->handed, h);
    free(h);
    return fd;
}

void upgrade_forget(struct spawner *sp)
{
    struct handed *h, *next;

    HASH_ITER (hh, sp->handed, h, next) {
        fd_close(h->fd);
        HASH_DEL(sp->handed, h);
        free(h);
    }
}

static int take_over(int fd)
{
    return fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 ? -errno : 0;
}

static int load_line(struct spawner *sp, const char *line)
{
    struct handed *h;
    char id[SP_ID_MAX];
    unsigned at;
    int fd;

    if (sscanf(line, "listen %u %d", &at, &fd) == 2) {
        if (at >= LISTEN_MAX)
            return -EINVAL;
        sp->listen_fds[at] = fd;
        return take_over(fd);
    }
    if (sscanf(line, "run-lock %d", &fd) == 1) {
        sp->run_lock = fd;
        return take_over(fd);
    }
    if (sscanf(line, "state-lock %d", &fd) == 1) {
        sp->state_lock = fd;
        return take_over(fd);
    }
    if (sscanf(line, "box %39s %d", id, &fd) != 2 || !box_id_ok(id))
        return -EINVAL;
    h = calloc(1, sizeof *h);
    if (h == NULL)
        return -ENOMEM;
    memcpy(h->id, id, sizeof h->id);
    h->fd = fd;
    HASH_ADD_STR(sp->handed, id, h);
    return take_over(fd);
}

int upgrade_load(struct spawner *sp, struct err *e)
{
    AUTO_FD fd = (int)sp->opt.resume_fd;
    AUTO_FREE char *line = NULL;
    struct stat st;
    size_t cap = 0;
    FILE *f;
    int r = 0;

    if (fcntl(fd, F_GET_SEALS) != UPGRADE_SEALS || fstat(fd, &st) < 0 || st.st_size > UPGRADE_STATE_MAX)
        return err_typed(e, ERR_INVALID, NULL, "--resume-fd is for silicad itself: it finds no state there");
    f = fdopen(fd, "re");
    if (f == NULL)
        return err_set(e, errno, "state of the image before: %m");
    fd = -1;
    rewind(f);
    while (r == 0 && getline(&line, &cap, f) > 0)
        r = load_line(sp, line);
    (void)fclose(f);
    return r < 0 ? err_set(e, r, "state of the image before: %m") : 0;
}

static int pass(FILE *f, int fd, const char *line)
{
    if (fcntl(fd, F_SETFD, 0) < 0 || fprintf(f, "%s %d\n", line, fd) < 0)
        return -errno;
    return 0;
}

static int save(struct spawner *sp, FILE *f)
{
    struct box *box, *next;
    char line[64];
    int r = pass(f, sp->run_lock, "run-lock");

    if (r == 0)
        r = pass(f, sp->state_lock, "state-lock");
    for (unsigned i = 0; r == 0 && i < sp->opt.listen_count; i++) {
        (void)snprintf(line, sizeof line, "listen %u", i);
        r = pass(f, sp->listen_fds[i], line);
    }
    HASH_ITER (hh, sp->boxes, box, next) {
        if (r == 0 && box->state == BOX_LIVE) {
            (void)snprintf(line, sizeof line, "box %s", box->id);
            r = pass(f, box->control, line);
        }
    }
    if (r == 0 && fflush(f) != 0)
        r = -errno;
    return r;
}

static void unpass(struct spawner *sp)
{
    struct box *box, *next;

    (void)take_over(sp->run_lock);
    (void)take_over(sp->state_lock);
    for (unsigned i = 0; i < sp->opt.listen_count; i++)
        (void)take_over(sp->listen_fds[i]);
    HASH_ITER (hh, sp->boxes, box, next) {
        if (box->control >= 0)
            (void)take_over(box->control);
    }
}

static int exec_again(struct spawner *sp, int fd, struct err *e)
{
    const char *argv[ARGV_MAX];
    char number[16];
    unsigned n = 0;

    for (unsigned i = 0; sp->argv[i] != NULL && n + 3 < ARGV_MAX; i++) {
        if (strcmp(sp->argv[i], "--resume-fd") == 0 && sp->argv[i + 1] != NULL) {
            i++;
            continue;
        }
        argv[n++] = sp->argv[i];
    }
    (void)snprintf(number, sizeof number, "%d", fd);
    argv[n++] = "--resume-fd";
    argv[n++] = number;
    argv[n] = NULL;
    (void)execv(sp->exe, (char *const *)argv);
    return err_set(e, errno, "exec '%s': %m", sp->exe);
}

int upgrade_exec(struct spawner *sp, struct err *e)
{
    AUTO_FD fd = -1;
    FILE *f = NULL;
    int copy, r;

    /* Nothing but what is passed on below; libraries' own descriptors too. */
    (void)close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
    fd = memfd_create("silica-upgrade", MFD_ALLOW_SEALING);
    copy = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;
    f = copy >= 0 ? fdopen(copy, "we") : NULL;
    if (f == NULL) {
        r = err_set(e, errno, "memory for the state: %m");
        fd_close(copy);
        return r;
    }
    r = save(sp, f);
    (void)fclose(f); /* everything is flushed */
    if (r < 0)
        (void)err_set(e, r, "write down the state: %m");
    else if (fcntl(fd, F_ADD_SEALS, UPGRADE_SEALS) < 0)
        (void)err_set(e, errno, "seal the state: %m");
    else
        (void)exec_again(sp, fd, e);
    unpass(sp);
    return e->code;
}
