#include "imager/place.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/fd.h"
#include "imager/tree.h"

enum { DIR_FLAGS = O_RDONLY | O_DIRECTORY };

/* One directory in place.dirs, followed by LEN bytes of path with their NUL. */
struct dir_time {
    int64_t sec;
    int32_t nsec;
    uint32_t len;
};

void place_init(struct place *p, int root, size_t dirs_bytes)
{
    *p = (struct place){.root = root, .parent = -1};
    buf_init(&p->dirs, dirs_bytes != 0 ? dirs_bytes : PLACE_DIRS_BYTES_MAX);
}

void place_fini(struct place *p)
{
    fd_closep(&p->parent);
    buf_fini(&p->dirs);
}

int place_fail(struct err *e, int code, const char *what)
{
    int n = code < 0 ? -code : code;

    if (n == ENOSPC || n == EDQUOT)
        return err_typed(e, ERR_EXHAUSTED, NULL, "%s: the disk that holds the layers is full", what);
    return err_set(e, n, "%s: %m", what);
}

static void forget_parent(struct place *p)
{
    fd_closep(&p->parent);
    p->parent_path[0] = '\0';
}

/* Only whiteouts are character devices in a layer: devices of archives are not made. */
static bool is_whiteout(const struct stat *st)
{
    return S_ISCHR(st->st_mode) && st->st_rdev == makedev(0, 0);
}

static int mark_opaque(int fd, struct err *e)
{
    if (fsetxattr(fd, "user.overlay.opaque", "y", 1, 0) < 0)
        return place_fail(e, errno, "cannot mark a directory as opaque");
    return 0;
}

/* Removes whatever NAME in PARENT is, to make room. *RET_WHITEOUT: it was a whiteout. */
static int clear(struct place *p, int parent, const char *name, bool *ret_whiteout, struct err *e)
{
    struct stat st;
    int r;

    *ret_whiteout = false;
    if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : place_fail(e, errno, "cannot look at what it replaces");
    r = tree_remove(parent, name, e);
    if (r < 0)
        return r;
    if (S_ISDIR(st.st_mode))
        forget_parent(p); /* it may lie in what is gone */
    *ret_whiteout = is_whiteout(&st);
    return 0;
}

/* Opens the directory NAME in PARENT, making it when it is not there. A directory where this layer has a whiteout is a new
 * one: it must not show what the lower layers have in theirs. */
static int enter(struct place *p, int parent, const char *name, bool replace, int *ret_fd, struct err *e)
{
    bool whiteout = false;
    struct stat st;
    int fd, r;

    if (mkdirat(parent, name, 0755) < 0) {
        if (errno != EEXIST)
            return place_fail(e, errno, "cannot make the directory");
        if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            return place_fail(e, errno, "cannot look at what is there");
        if (!S_ISDIR(st.st_mode)) {
            char shown[PATH_SHOW_MAX];

            if (!replace && !is_whiteout(&st))
                return err_typed(e, ERR_INVALID, NULL, "its path goes through %s, which is %s", path_show(name, shown),
                                 S_ISLNK(st.st_mode) ? "a symbolic link" : "not a directory");
            r = clear(p, parent, name, &whiteout, e);
            if (r < 0)
                return r;
            if (mkdirat(parent, name, 0755) < 0)
                return place_fail(e, errno, "cannot make the directory");
        }
    }
    fd = tree_open(parent, name, DIR_FLAGS, 0);
    if (fd < 0)
        return place_fail(e, fd, "cannot open the directory");
    r = whiteout ? mark_opaque(fd, e) : 0;
    if (r < 0) {
        fd_close(fd);
        return r;
    }
    *ret_fd = fd;
    return 0;
}

/* Walks PATH from the root of the layer, making what is missing. */
static int walk(struct place *p, const char *path, int *ret_fd, struct err *e)
{
    AUTO_FD at = tree_open(p->root, "", DIR_FLAGS, 0);
    char name[PATH_NAME_MAX + 1];

    if (at < 0)
        return place_fail(e, at, "cannot open the layer");
    while (*path != '\0') {
        size_t n = strcspn(path, "/");
        int next = -1, r;

        memcpy(name, path, n);
        name[n] = '\0';
        r = enter(p, at, name, false, &next, e);
        if (r < 0)
            return r;
        fd_closep(&at);
        at = next;
        path += n + (path[n] == '/');
    }
    *ret_fd = take_fd(&at);
    return 0;
}

/* The parent directory of PATH, made when it is missing. *RET_FD stays P's, *RET_NAME points into PATH. */
static int parent_of(struct place *p, const char *path, int *ret_fd, const char **ret_name, struct err *e)
{
    char parent[PATH_CLEAN_MAX];
    const char *name = path_split(path, parent);
    int fd, r;

    if (*name == '\0')
        return err_typed(e, ERR_INVALID, NULL, "the root of the layer can only be a directory");
    if (p->parent < 0 || strcmp(parent, p->parent_path) != 0) {
        fd = tree_open(p->root, parent, DIR_FLAGS, 0);
        if (fd < 0) {
            r = walk(p, parent, &fd, e);
            if (r < 0)
                return r;
        }
        forget_parent(p);
        p->parent = fd;
        memcpy(p->parent_path, parent, strlen(parent) + 1);
    }
    *ret_fd = p->parent;
    *ret_name = name;
    return 0;
}

/* parent_of() with NAME cleared away. */
static int make_room(struct place *p, const char *path, int *ret_fd, const char **ret_name, struct err *e)
{
    bool whiteout;
    int r;

    r = parent_of(p, path, ret_fd, ret_name, e);
    if (r < 0)
        return r;
    r = clear(p, *ret_fd, *ret_name, &whiteout, e);
    if (r < 0)
        return r;
    return parent_of(p, path, ret_fd, ret_name, e); /* clearing may have closed it */
}

int place_finish(int fd, const struct place_meta *m, struct err *e)
{
    const struct timespec times[2] = {m->mtime, m->mtime};

    /* The owner first: a change of owner drops set-user-id. */
    if (fchown(fd, m->uid, m->gid) < 0)
        return place_fail(e, errno, "cannot set its owner");
    if (fchmod(fd, m->mode) < 0)
        return place_fail(e, errno, "cannot set its mode");
    if (futimens(fd, times) < 0)
        return place_fail(e, errno, "cannot set its time");
    return 0;
}

static int remember_time(struct place *p, const char *path, const struct place_meta *m, struct err *e)
{
    struct dir_time t = {m->mtime.tv_sec, (int32_t)m->mtime.tv_nsec, (uint32_t)strlen(path) + 1};
    int r;

    r = buf_append(&p->dirs, &t, sizeof t);
    if (r == 0)
        r = buf_append(&p->dirs, path, t.len);
    if (r == -EMSGSIZE)
        return err_typed(e, ERR_EXHAUSTED, NULL, "the names of the archive's directories need more than %zu bytes",
                         p->dirs.limit);
    return r < 0 ? err_set(e, r, "cannot remember its time: %m") : 0;
}

int place_dir(struct place *p, const char *path, const struct place_meta *m, int *ret_fd, struct err *e)
{
    AUTO_FD fd = -1;
    const char *name;
    int parent, r;

    if (*path == '\0') {
        fd = tree_open(p->root, "", DIR_FLAGS, 0);
        if (fd < 0)
            return place_fail(e, fd, "cannot open the layer");
    } else {
        r = parent_of(p, path, &parent, &name, e);
        if (r < 0)
            return r;
        r = enter(p, parent, name, true, &fd, e);
        if (r < 0)
            return r;
    }
    r = place_finish(fd, m, e);
    if (r < 0)
        return r;
    r = remember_time(p, path, m, e);
    if (r < 0)
        return r;
    *ret_fd = take_fd(&fd);
    return 0;
}

int place_file(struct place *p, const char *path, int *ret_fd, struct err *e)
{
    const char *name;
    int parent, fd, r;

    r = make_room(p, path, &parent, &name, e);
    if (r < 0)
        return r;
    fd = tree_open(parent, name, O_WRONLY | O_CREAT | O_EXCL, 0600);
    if (fd < 0)
        return place_fail(e, fd, "cannot make the file");
    *ret_fd = fd;
    return 0;
}

/* Owner and time of something that is not opened. */
static int finish_at(int parent, const char *name, const struct place_meta *m, struct err *e)
{
    const struct timespec times[2] = {m->mtime, m->mtime};

    if (fchownat(parent, name, m->uid, m->gid, AT_SYMLINK_NOFOLLOW) < 0)
        return place_fail(e, errno, "cannot set its owner");
    if (utimensat(parent, name, times, AT_SYMLINK_NOFOLLOW) < 0)
        return place_fail(e, errno, "cannot set its time");
    return 0;
}

int place_symlink(struct place *p, const char *path, const char *target, const struct place_meta *m, struct err *e)
{
    const char *name;
    int parent, r;

    r = make_room(p, path, &parent, &name, e);
    if (r < 0)
        return r;
    if (symlinkat(target, parent, name) < 0)
        return errno == ENAMETOOLONG || errno == ENOENT
                   ? err_typed(e, ERR_INVALID, NULL, "its target is empty or longer than 4095 bytes")
                   : place_fail(e, errno, "cannot make the symbolic link");
    return finish_at(parent, name, m, e);
}

int place_fifo(struct place *p, const char *path, const struct place_meta *m, struct err *e)
{
    const char *name;
    int parent, r;

    r = make_room(p, path, &parent, &name, e);
    if (r < 0)
        return r;
    /* The mode is complete here because there is no umask, and a chown leaves the plain bits alone. */
    if (mknodat(parent, name, S_IFIFO | (m->mode & 0777), 0) < 0)
        return place_fail(e, errno, "cannot make the FIFO");
    return finish_at(parent, name, m, e);
}

int place_link(struct place *p, const char *path, const char *target, struct err *e)
{
    char folder[PATH_CLEAN_MAX], shown[PATH_SHOW_MAX];
    const char *base = path_split(target, folder), *name;
    AUTO_FD from = -1;
    struct stat st;
    int parent, r;

    if (strcmp(path, target) == 0)
        return err_typed(e, ERR_INVALID, NULL, "it is a hard link to itself");
    from = tree_open(p->root, folder, DIR_FLAGS, 0);
    if (from < 0 || *base == '\0' || fstatat(from, base, &st, AT_SYMLINK_NOFOLLOW) < 0 || is_whiteout(&st))
        return err_typed(e, ERR_INVALID, NULL, "it is a hard link to %s, which is not in the archive before it",
                         path_show(target, shown));
    if (S_ISDIR(st.st_mode))
        return err_typed(e, ERR_INVALID, NULL, "it is a hard link to %s, which is a directory",
                         path_show(target, shown));
    r = make_room(p, path, &parent, &name, e);
    if (r < 0)
        return r;
    if (linkat(from, base, parent, name, 0) < 0)
        return errno == ENOENT ? err_typed(e, ERR_INVALID, NULL, "it is a hard link to %s, which it replaces",
                                           path_show(target, shown))
                               : place_fail(e, errno, "cannot make the hard link");
    return 0;
}

int place_whiteout(struct place *p, const char *path, struct err *e)
{
    AUTO_FD fd = -1;
    const char *name;
    struct stat st;
    int parent, r;

    r = parent_of(p, path, &parent, &name, e);
    if (r < 0)
        return r;
    if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        if (!S_ISDIR(st.st_mode))
            return 0;
        fd = tree_open(parent, name, DIR_FLAGS, 0);
        return fd < 0 ? place_fail(e, fd, "cannot open the directory") : mark_opaque(fd, e);
    }
    if (mknodat(parent, name, S_IFCHR, makedev(0, 0)) < 0)
        return place_fail(e, errno, "cannot make the whiteout");
    return 0;
}

int place_opaque(struct place *p, const char *path, struct err *e)
{
    AUTO_FD fd = -1;
    int r;

    r = walk(p, path, &fd, e);
    if (r < 0)
        return r;
    return mark_opaque(fd, e);
}

int place_times(struct place *p, struct err *e)
{
    struct dir_time t;

    for (size_t at = 0; at < p->dirs.len; at += sizeof t + t.len) {
        const char *path;
        AUTO_FD fd = -1;

        memcpy(&t, p->dirs.data + at, sizeof t);
        path = (const char *)p->dirs.data + at + sizeof t;
        fd = tree_open(p->root, path, DIR_FLAGS, 0);
        if (fd < 0)
            continue; /* a later entry replaced it */

        const struct timespec times[2] = {{t.sec, t.nsec}, {t.sec, t.nsec}};
        if (futimens(fd, times) < 0)
            return place_fail(e, errno, "cannot set the time of a directory");
    }
    return 0;
}
