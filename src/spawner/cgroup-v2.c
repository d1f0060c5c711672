/* Cgroup v2: membership on every host, limits where it has the controllers.
 *
 * Where our directory goes: below the cgroup that was given (the service's unit gives a sibling of its own, which is not
 * emptied when the service restarts), else below our own cgroup when the host's manager delegated that to us (systemd
 * marks it with an extended attribute), else at the top of the hierarchy, beside the manager's own directories, as
 * container engines without a manager's help do; there sandboxes outlive the service. A delegated cgroup has us in it, and
 * a cgroup with processes cannot hand controllers to its children, so we then move to a leaf first. */
#include "spawner/cgroup-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/fd.h"

#define LEAF "supervisor"
enum { CHILDREN_MAX = 8192 }; /* cgroups below one sandbox: IN_PROCS_MAX and some that are just being removed */

static bool delegated(const char *dir)
{
    static const char *const marks[] = {"trusted.delegate", "user.delegate"};
    char value[4];

    for (size_t i = 0; i < ARRAY_LEN(marks); i++)
        if (getxattr(dir, marks[i], value, sizeof value) >= 1 && value[0] == '1')
            return true;
    return false;
}

/* The directory that ours goes into. */
static void choose_parent(char out[CG_PATH_MAX], bool *ret_delegated)
{
    char own[CG_PATH_MAX], dir[2 * CG_PATH_MAX];
    size_t len;

    *ret_delegated = false;
    if (cg_host.v2_given != NULL) {
        (void)snprintf(out, CG_PATH_MAX, "%s/%s", cg_host.v2_mount, cg_host.v2_given);
        return;
    }
    (void)snprintf(out, CG_PATH_MAX, "%s", cg_host.v2_mount);
    if (cg_own(NULL, own) < 0 || strcmp(own, "/") == 0 || strstr(own, "/..") != NULL)
        return;

    len = (size_t)snprintf(dir, sizeof dir, "%s%s", cg_host.v2_mount, own);
    if (len > strlen("/" LEAF) && strcmp(dir + len - strlen("/" LEAF), "/" LEAF) == 0)
        dir[len - strlen("/" LEAF)] = '\0'; /* we moved there in a life before (re-exec) */
    if (strlen(dir) < CG_PATH_MAX && delegated(dir)) {
        memcpy(out, dir, strlen(dir) + 1);
        *ret_delegated = true;
    }
}

static int move_to_leaf(int parent)
{
    if (mkdirat(parent, LEAF, 0755) < 0 && errno != EEXIST)
        return -errno;
    return cg_write(parent, LEAF, "cgroup.procs", "0");
}

/* Hands the controllers that DIR has to its children. *RET_HAS says which. */
static int enable(int dir, bool ret_has[CG_CONTROLLERS], struct err *e)
{
    char text[CG_TEXT_MAX], word[16];
    int r;

    r = cg_read(dir, ".", "cgroup.controllers", text);
    if (r < 0)
        return err_set(e, r, "read the cgroup controllers: %m");
    text[strcspn(text, "\n")] = '\0';
    for (unsigned c = 0; c < CG_CONTROLLERS; c++) {
        const char *at = strstr(text, cg_controller_name[c]);
        size_t len = strlen(cg_controller_name[c]);

        /* "cpu" is also the beginning of "cpuset". */
        while (at != NULL && !((at == text || at[-1] == ' ') && (at[len] == ' ' || at[len] == '\0')))
            at = strstr(at + 1, cg_controller_name[c]);
        ret_has[c] = at != NULL;
        if (at == NULL)
            continue;
        (void)snprintf(word, sizeof word, "+%s", cg_controller_name[c]);
        r = cg_write(dir, ".", "cgroup.subtree_control", word);
        if (r == -EBUSY)
            return r;
        if (r == -EINVAL) { /* cpu, while a real-time task is outside of the root: a host without that limit then */
            ret_has[c] = false;
            continue;
        }
        if (r < 0)
            return err_set(e, r, "enable the %s controller of cgroup v2: %m", cg_controller_name[c]);
    }
    return 0;
}

static int enable_in_parent(bool *has, const char *path, bool is_delegated, struct err *e)
{
    int r;

    if (is_delegated) {
        r = move_to_leaf(cg_host.v2_parent_fd);
        if (r < 0)
            return err_set(e, r, "move to '%s/" LEAF "': %m", path);
    }
    r = enable(cg_host.v2_parent_fd, has, e);
    if (r == -EBUSY && !is_delegated &&
        cg_host.v2_given == NULL) { /* the top of a cgroup namespace: we may be what is in the way */
        r = move_to_leaf(cg_host.v2_parent_fd);
        if (r == 0)
            r = enable(cg_host.v2_parent_fd, has, e);
    }
    if (r == -EBUSY)
        return err_set(e, r,
                       "the cgroup '%s' has processes of others in it, so its controllers cannot be given to sandboxes",
                       path);
    return r;
}

static int v2_init(struct err *e)
{
    char parent[CG_PATH_MAX];
    bool is_delegated;
    int r;

    if (cg_find_mount("cgroup2", NULL, cg_host.v2_mount) < 0)
        return err_typed(e, ERR_UNIMPLEMENTED, NULL, "no cgroup v2 hierarchy is mounted on this host");
    choose_parent(parent, &is_delegated);

    cg_host.v2_parent_fd = cg_open_dir(AT_FDCWD, parent);
    if (cg_host.v2_parent_fd < 0)
        return err_set(e, cg_host.v2_parent_fd, "open the cgroup '%s': %m", parent);
    r = enable_in_parent(cg_host.v2_has, parent, is_delegated, e);
    if (r < 0)
        return r;

    if (mkdirat(cg_host.v2_parent_fd, cg_host.dir, 0755) < 0 && errno != EEXIST)
        return err_set(e, errno, "make the cgroup '%s/%s': %m", parent, cg_host.dir);
    cg_host.v2_fd = cg_open_dir(cg_host.v2_parent_fd, cg_host.dir);
    if (cg_host.v2_fd < 0)
        return err_set(e, cg_host.v2_fd, "open the cgroup '%s/%s': %m", parent, cg_host.dir);
    return enable(cg_host.v2_fd, cg_host.v2_has, e);
}

/* ---- one sandbox -------------------------------------------------------------------------------------------------- */

static int give(const char *id, const char *name, uint32_t uid)
{
    char path[SP_ID_MAX + 32];

    (void)snprintf(path, sizeof path, "%s%s%s", id, name[0] != '\0' ? "/" : "", name);
    return fchownat(cg_host.v2_fd, path, uid, uid, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

static int set_limits(const char *id, const struct cg_limits *lim)
{
    char text[48];
    int r = 0;

    if (cg_host.v2_has[CG_MEMORY] && lim->memory_max != 0)
        r = cg_write_u64(cg_host.v2_fd, id, "memory.max", lim->memory_max);
    if (r == 0 && cg_host.v2_has[CG_MEMORY]) {
        r = cg_write(cg_host.v2_fd, id, "memory.swap.max", "0");
        if (r == -ENOENT) /* a kernel without swap accounting */
            r = 0;
    }
    if (r == 0 && cg_host.v2_has[CG_CPU] && lim->cpu_quota_us != 0) {
        (void)snprintf(text, sizeof text, "%llu %llu", (unsigned long long)lim->cpu_quota_us,
                       (unsigned long long)(lim->cpu_period_us != 0 ? lim->cpu_period_us : 100000));
        r = cg_write(cg_host.v2_fd, id, "cpu.max", text);
    }
    if (r == 0 && cg_host.v2_has[CG_CPU] && lim->cpu_weight != 0)
        r = cg_write_u64(cg_host.v2_fd, id, "cpu.weight", lim->cpu_weight);
    if (r == 0 && cg_host.v2_has[CG_PIDS] && lim->pids_max != 0)
        r = cg_write_u64(cg_host.v2_fd, id, "pids.max", lim->pids_max);
    return r;
}

static int v2_create(const char *id, const struct cg_limits *lim, uint32_t uid_base, struct err *e)
{
    static const char *const given[] = {"", "cgroup.procs", "cgroup.threads"};
    int r = 0;

    if (mkdirat(cg_host.v2_fd, id, 0755) < 0)
        return err_set(e, errno, "make the cgroup of '%s': %m", id);
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(given); i++)
        r = give(id, given[i], uid_base);
    if (r == 0)
        r = cg_write_u64(cg_host.v2_fd, id, "cgroup.max.descendants", CHILDREN_MAX);
    if (r == 0)
        r = set_limits(id, lim);
    if (r < 0) {
        (void)cg_remove_tree(cg_host.v2_fd, id); /* empty: it goes */
        return err_set(e, r, "set the limits of '%s': %m", id);
    }
    return 0;
}

static void v2_stats(const char *id, struct sp_stats *st)
{
    int d = cg_host.v2_fd;

    /* Usage of time is there without the controller too. */
    st->cpu_us = cg_read_key(d, id, "cpu.stat", "usage_usec");
    if (cg_host.v2_has[CG_MEMORY]) {
        st->memory_now = cg_read_u64(d, id, "memory.current");
        st->memory_peak = cg_read_u64(d, id, "memory.peak");
        st->memory_max = cg_read_u64(d, id, "memory.max");
        st->oom_kills = (uint32_t)cg_read_key(d, id, "memory.events", "oom_kill");
    }
    if (cg_host.v2_has[CG_PIDS])
        st->pids_now = (uint32_t)cg_read_u64(d, id, "pids.current");
}

static int v2_remove(const char *id)
{
    return cg_remove_tree(cg_host.v2_fd, id);
}

static void v2_fini(void)
{
    if (cg_host.v2_parent_fd >= 0)
        (void)unlinkat(cg_host.v2_parent_fd, cg_host.dir, AT_REMOVEDIR); /* stays while sandboxes live on */
    fd_closep(&cg_host.v2_fd);
    fd_closep(&cg_host.v2_parent_fd);
    memset(cg_host.v2_has, 0, sizeof cg_host.v2_has);
}

const struct cg_driver cg_v2 = {
    .name = "v2",
    .init = v2_init,
    .create = v2_create,
    .stats = v2_stats,
    .remove = v2_remove,
    .fini = v2_fini,
};
