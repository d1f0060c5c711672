/* Cgroups of sandboxes: what both versions share, and who does what.
 *
 * Init lives in <id> itself and makes one child cgroup for each process it starts. It is not in a leaf of its own because
 * its cgroup namespace must begin at <id>: where cgroup2 is mounted with `nsdelegate` (systemd does) the kernel clones
 * into no cgroup outside the cloner's namespace, and a namespace begins where its maker is. No controller is enabled
 * below <id>, so processes and children may be side by side there. */
#include "spawner/cgroup-internal.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"

struct cg_host cg_host = {.v2_fd = -1, .v2_parent_fd = -1, .v1_fd = {-1, -1, -1}, .v1_parent_fd = {-1, -1, -1}};

const char *const cg_controller_name[CG_CONTROLLERS] = {[CG_MEMORY] = "memory", [CG_CPU] = "cpu", [CG_PIDS] = "pids"};

static const struct cg_driver *const drivers[] = {&cg_v2, &cg_v1};

enum { NAME_BYTES = SP_ID_MAX + 40, DEPTH_MAX = 8 };

/* ---- files -------------------------------------------------------------------------------------------------------- */

int cg_open_dir(int dirfd, const char *name)
{
    int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

static int file_open(int dirfd, const char *id, const char *name, int flags)
{
    char path[NAME_BYTES];
    int fd;

    if (snprintf(path, sizeof path, "%s/%s", id, name) >= (int)sizeof path)
        return -ENAMETOOLONG;
    fd = openat(dirfd, path, flags | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int cg_write(int dirfd, const char *id, const char *name, const char *text)
{
    AUTO_FD fd = file_open(dirfd, id, name, O_WRONLY);

    if (fd < 0)
        return fd;
    return write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

int cg_write_u64(int dirfd, const char *id, const char *name, uint64_t value)
{
    char text[24];

    (void)snprintf(text, sizeof text, "%llu", (unsigned long long)value);
    return cg_write(dirfd, id, name, text);
}

int cg_read(int dirfd, const char *id, const char *name, char text[CG_TEXT_MAX])
{
    AUTO_FD fd = file_open(dirfd, id, name, O_RDONLY);
    ssize_t n;

    text[0] = '\0';
    if (fd < 0)
        return fd;
    n = read(fd, text, CG_TEXT_MAX - 1);
    if (n < 0)
        return -errno;
    text[n] = '\0';
    return 0;
}

uint64_t cg_read_u64(int dirfd, const char *id, const char *name)
{
    char text[CG_TEXT_MAX];

    if (cg_read(dirfd, id, name, text) < 0 || !isdigit((unsigned char)text[0]))
        return 0;
    return strtoull(text, NULL, 10);
}

uint64_t cg_read_key(int dirfd, const char *id, const char *name, const char *key)
{
    char text[CG_TEXT_MAX];
    size_t len = strlen(key);

    (void)cg_read(dirfd, id, name, text); /* empty when it fails */
    for (const char *line = text; line != NULL && *line != '\0'; line = strchr(line, '\n'), line += line != NULL)
        if (strncmp(line, key, len) == 0 && line[len] == ' ')
            return strtoull(line + len + 1, NULL, 10);
    return 0;
}

static int remove_tree(int dirfd, const char *name, unsigned depth)
{
    struct dirent *d;
    DIR *list;
    int fd, r = 0;

    if (unlinkat(dirfd, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
        return 0;
    if (errno != EBUSY || depth == DEPTH_MAX)
        return -errno;

    fd = cg_open_dir(dirfd, name);
    if (fd < 0)
        return fd == -ENOENT ? 0 : fd;
    list = fdopendir(fd);
    if (list == NULL) {
        fd_close(fd);
        return -ENOMEM;
    }
    while (r == 0 && (d = readdir(list)) != NULL)
        if (d->d_type == DT_DIR && d->d_name[0] != '.')
            r = remove_tree(fd, d->d_name, depth + 1);
    (void)closedir(list);
    if (r < 0)
        return r;
    return unlinkat(dirfd, name, AT_REMOVEDIR) < 0 && errno != ENOENT ? -errno : 0;
}

int cg_remove_tree(int dirfd, const char *name)
{
    return remove_tree(dirfd, name, 0);
}

/* ---- where hierarchies are ----------------------------------------------------------------------------------------- */

/* mountinfo writes space, tab, newline and backslash as three octal digits. */
static void unescape(char *s)
{
    char *out = s;

    while (*s != '\0') {
        if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] >= '0' && s[2] <= '7' && s[3] >= '0' && s[3] <= '7') {
            *out++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
            s += 4;
        } else {
            *out++ = *s++;
        }
    }
    *out = '\0';
}

static bool has_word(const char *list, const char *word, const char *separators)
{
    size_t len = strlen(word);

    while (*list != '\0') {
        size_t n = strcspn(list, separators);

        if (n == len && strncmp(list, word, len) == 0)
            return true;
        list += n + (list[n] != '\0');
    }
    return false;
}

/* "36 35 98:0 /root /mount/point rw,... shared:1 - cgroup2 source rw,..." */
int cg_find_mount(const char *fstype, const char *controller, char out[CG_PATH_MAX])
{
    char *line = NULL;
    size_t cap = 0;
    int r = -ENOENT;
    FILE *f = fopen("/proc/self/mountinfo", "re");

    if (f == NULL)
        return -errno;
    while (r == -ENOENT && getline(&line, &cap, f) > 0) {
        char root[CG_PATH_MAX], point[CG_PATH_MAX], type[32], options[CG_PATH_MAX];
        const char *tail = strstr(line, " - ");

        if (tail == NULL || sscanf(line, "%*d %*d %*s %511s %511s", root, point) != 2 ||
            sscanf(tail, " - %31s %*s %511s", type, options) != 2)
            continue;
        if (strcmp(type, fstype) != 0 || (controller != NULL && !has_word(options, controller, ",")))
            continue;
        unescape(point);
        (void)snprintf(out, CG_PATH_MAX, "%s", point);
        r = 0;
    }
    free(line);
    (void)fclose(f);
    return r;
}

/* "4:memory:/path", "0::/path" */
int cg_own(const char *controller, char out[CG_PATH_MAX])
{
    char *line = NULL;
    size_t cap = 0;
    int r = -ENOENT;
    FILE *f = fopen("/proc/self/cgroup", "re");

    if (f == NULL)
        return -errno;
    while (r == -ENOENT && getline(&line, &cap, f) > 0) {
        char *names = strchr(line, ':'), *path = names != NULL ? strchr(names + 1, ':') : NULL;

        if (path == NULL)
            continue;
        *path++ = '\0';
        names++;
        path[strcspn(path, "\n")] = '\0';
        if (controller == NULL ? line[0] != '0' || *names != '\0' : !has_word(names, controller, ","))
            continue;
        r = (size_t)snprintf(out, CG_PATH_MAX, "%s", path) < CG_PATH_MAX ? 0 : -ENAMETOOLONG;
    }
    free(line);
    (void)fclose(f);
    return r;
}

/* ---- for others --------------------------------------------------------------------------------------------------- */

void cgs_parent(const char *path)
{
    cg_host.v2_given = path;
}

int cgs_init(const char *tag, uint32_t *features, struct err *e)
{
    static const uint32_t v1_features[CG_CONTROLLERS] = {SP_FEAT_CG1_MEMORY, SP_FEAT_CG1_CPU, SP_FEAT_CG1_PIDS};
    unsigned on_v2 = 0;
    int r;

    if ((size_t)snprintf(cg_host.dir, sizeof cg_host.dir, "silica-%s", tag) >= sizeof cg_host.dir)
        return err_set(e, ENAMETOOLONG, "the cgroup tag '%s' is too long", tag);

    for (size_t i = 0; i < ARRAY_LEN(drivers); i++) {
        r = drivers[i]->init(e);
        if (r < 0) {
            cgs_fini();
            return r;
        }
    }
    for (unsigned c = 0; c < CG_CONTROLLERS; c++) {
        cg_host.has[c] = cg_host.v2_has[c] || cg_host.v1_fd[c] >= 0;
        on_v2 += cg_host.v2_has[c];
        if (cg_host.v1_fd[c] >= 0)
            *features |= v1_features[c];
    }
    if (on_v2 == CG_CONTROLLERS)
        *features |= SP_FEAT_CG2_CONTROLLERS;
    return 0;
}

static int check_limits(const struct cg_limits *lim, struct err *e)
{
    const bool wanted[CG_CONTROLLERS] = {
        [CG_MEMORY] = lim->memory_max != 0,
        [CG_CPU] = lim->cpu_quota_us != 0,
        [CG_PIDS] = lim->pids_max != 0,
    };

    for (unsigned c = 0; c < CG_CONTROLLERS; c++)
        if (wanted[c] && !cg_host.has[c])
            return err_typed(e, ERR_UNIMPLEMENTED, NULL,
                             "this host cannot limit a sandbox's %s: it has no such cgroup controller",
                             cg_controller_name[c]);
    return 0;
}

int cg_create(struct cg *cg, const char *id, const struct cg_limits *lim, uint32_t uid_base, struct err *e)
{
    int r;

    *cg = (struct cg){.v2_fd = -1, .init_fd = -1};
    if ((size_t)snprintf(cg->id, sizeof cg->id, "%s", id) >= sizeof cg->id || strchr(id, '/') != NULL || id[0] == '.')
        return err_set(e, EINVAL, "'%s' cannot be the name of a cgroup", id);
    r = check_limits(lim, e);
    if (r < 0)
        return r;

    for (size_t i = 0; i < ARRAY_LEN(drivers); i++) {
        r = drivers[i]->create(id, lim, uid_base, e);
        if (r < 0) {
            while (i-- > 0)
                (void)drivers[i]->remove(id); /* empty: it goes */
            return r;
        }
    }

    cg->v2_fd = cg_open_dir(cg_host.v2_fd, id);
    cg->init_fd = cg->v2_fd < 0 ? -1 : fcntl(cg->v2_fd, F_DUPFD_CLOEXEC, 3);
    if (cg->init_fd < 0) {
        r = err_set(e, errno, "open the cgroup of '%s': %m", id);
        fd_closep(&cg->v2_fd);
        (void)cg_remove(id, NULL); /* empty: it goes */
        return r;
    }
    return 0;
}

int cg_enter(const struct cg *cg, pid_t pid, struct err *e)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < ARRAY_LEN(drivers); i++)
        if (drivers[i]->enter != NULL)
            r = drivers[i]->enter(cg->id, pid, e);
    return r;
}

int cg_kill(const char *id, struct err *e)
{
    int r = cg_write(cg_host.v2_fd, id, "cgroup.kill", "1");

    return r < 0 ? err_set(e, r, "kill the processes of '%s': %m", id) : 0;
}

int cg_events_fd(const char *id, int *ret_fd, struct err *e)
{
    int fd = file_open(cg_host.v2_fd, id, "cgroup.events", O_RDONLY);

    if (fd < 0)
        return err_set(e, fd, "watch the cgroup of '%s': %m", id);
    *ret_fd = fd;
    return 0;
}

int cg_populated(const char *id, bool *ret, struct err *e)
{
    char text[CG_TEXT_MAX];
    int r = cg_read(cg_host.v2_fd, id, "cgroup.events", text);

    if (r < 0)
        return err_set(e, r, "look at the cgroup of '%s': %m", id);
    *ret = strstr(text, "populated 1") != NULL;
    return 0;
}

int cg_stats(const char *id, struct sp_stats *ret, struct err *e)
{
    if (faccessat(cg_host.v2_fd, id, F_OK, 0) < 0)
        return err_set(e, errno, "look at the cgroup of '%s': %m", id);
    *ret = (struct sp_stats){0};
    for (size_t i = 0; i < ARRAY_LEN(drivers); i++)
        drivers[i]->stats(id, ret);
    return 0;
}

int cg_remove(const char *id, struct err *e)
{
    int r = 0;

    /* v2 first: it says whether anybody is left. */
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(drivers); i++)
        r = drivers[i]->remove(id);
    return r < 0 ? err_set(e, r, "remove the cgroup of '%s': %m", id) : 0;
}

int cgs_list(void (*each)(void *arg, const char *id), void *arg, struct err *e)
{
    struct dirent *d;
    DIR *list;
    int fd = cg_open_dir(cg_host.v2_fd, ".");

    list = fd < 0 ? NULL : fdopendir(fd);
    if (list == NULL) {
        int r = err_set(e, fd < 0 ? fd : errno, "list our cgroups: %m");

        fd_close(fd);
        return r;
    }
    while ((d = readdir(list)) != NULL)
        if (d->d_type == DT_DIR && d->d_name[0] != '.' && strlen(d->d_name) < SP_ID_MAX)
            each(arg, d->d_name);
    (void)closedir(list);
    return 0;
}

void cgs_fini(void)
{
    for (size_t i = 0; i < ARRAY_LEN(drivers); i++)
        drivers[i]->fini();
    memset(cg_host.has, 0, sizeof cg_host.has);
}
