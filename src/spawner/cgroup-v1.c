/* Cgroup v1: limits only, for the controllers that a hybrid host keeps there. Goes away with such hosts.
 *
 * A process gets in by its pid, after the clone (there is no CLONE_INTO_CGROUP for v1); its children are born into the
 * same directory and nobody inside can leave: no hierarchy is visible there. */
#include "spawner/cgroup-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"

static int open_base(enum cg_controller c, const char *parent)
{
    int fd;

    cg_host.v1_parent_fd[c] = cg_open_dir(AT_FDCWD, parent);
    if (cg_host.v1_parent_fd[c] < 0)
        return cg_host.v1_parent_fd[c];
    if (mkdirat(cg_host.v1_parent_fd[c], cg_host.dir, 0755) < 0 && errno != EEXIST)
        fd = -errno;
    else
        fd = cg_open_dir(cg_host.v1_parent_fd[c], cg_host.dir);
    if (fd < 0) {
        fd_closep(&cg_host.v1_parent_fd[c]);
        return fd;
    }
    cg_host.v1_fd[c] = fd;
    return 0;
}

static int v1_init(struct err *e)
{
    char mount[CG_PATH_MAX], own[CG_PATH_MAX], path[2 * CG_PATH_MAX];
    int r;

    for (unsigned c = 0; c < CG_CONTROLLERS; c++) {
        if (cg_host.v2_has[c] || cg_find_mount("cgroup", cg_controller_name[c], mount) < 0)
            continue;
        r = open_base(c, mount);
        if ((r == -EACCES || r == -EPERM || r == -EROFS) && cg_own(cg_controller_name[c], own) == 0) {
            (void)snprintf(path, sizeof path, "%s%s", mount, own); /* the top is not ours: below ourselves then */
            r = open_base(c, path);
        }
        if (r < 0)
            return err_set(e, r, "make a cgroup in '%s': %m", mount);
    }
    return 0;
}

static int set_memory(int dir, const char *id, uint64_t max)
{
    int r;

    if (max == 0)
        return 0;
    r = cg_write_u64(dir, id, "memory.limit_in_bytes", max);
    if (r == 0)
        r = cg_write_u64(dir, id, "memory.memsw.limit_in_bytes", max); /* memory and swap together: no swap */
    return r == -ENOENT ? 0 : r;                                       /* a kernel without swap accounting */
}

static int set_cpu(int dir, const char *id, const struct cg_limits *lim)
{
    int r = 0;

    if (lim->cpu_quota_us != 0) {
        r = cg_write_u64(dir, id, "cpu.cfs_period_us", lim->cpu_period_us != 0 ? lim->cpu_period_us : 100000);
        if (r == 0)
            r = cg_write_u64(dir, id, "cpu.cfs_quota_us", lim->cpu_quota_us);
    }
    if (r == 0 && lim->cpu_weight != 0 && lim->cpu_weight != 100) {
        uint64_t shares = (uint64_t)lim->cpu_weight * 1024 / 100; /* 100 and 1024 are the defaults of the two scales */

        r = cg_write_u64(dir, id, "cpu.shares", shares < 2 ? 2 : shares);
    }
    return r;
}

static int v1_remove(const char *id)
{
    int r = 0;

    for (unsigned c = 0; c < CG_CONTROLLERS; c++) {
        if (cg_host.v1_fd[c] < 0)
            continue;
        int q = cg_remove_tree(cg_host.v1_fd[c], id);

        if (q < 0)
            r = q;
    }
    return r;
}

static int v1_create(const char *id, const struct cg_limits *lim, uint32_t uid_base, struct err *e)
{
    int r = 0;

    (void)uid_base; /* nothing of v1 is delegated */
    for (unsigned c = 0; r == 0 && c < CG_CONTROLLERS; c++) {
        int dir = cg_host.v1_fd[c];

        if (dir < 0)
            continue;
        if (mkdirat(dir, id, 0755) < 0 && errno != EEXIST) /* two controllers may share a hierarchy */
            r = -errno;
        else if (c == CG_MEMORY)
            r = set_memory(dir, id, lim->memory_max);
        else if (c == CG_CPU)
            r = set_cpu(dir, id, lim);
        else if (c == CG_PIDS && lim->pids_max != 0)
            r = cg_write_u64(dir, id, "pids.max", lim->pids_max);
        if (r < 0) {
            err_set(e, r, "set the %s limits of '%s': %m", cg_controller_name[c], id);
            (void)v1_remove(id); /* empty: it goes */
        }
    }
    return r;
}

static int v1_enter(const char *id, pid_t pid, struct err *e)
{
    for (unsigned c = 0; c < CG_CONTROLLERS; c++) {
        int r = cg_host.v1_fd[c] < 0 ? 0 : cg_write_u64(cg_host.v1_fd[c], id, "cgroup.procs", (uint64_t)pid);

        if (r < 0)
            return err_set(e, r, "put the sandbox '%s' under its %s limits: %m", id, cg_controller_name[c]);
    }
    return 0;
}

static void v1_stats(const char *id, struct sp_stats *st)
{
    int mem = cg_host.v1_fd[CG_MEMORY], pids = cg_host.v1_fd[CG_PIDS];

    if (mem >= 0) {
        st->memory_now = cg_read_u64(mem, id, "memory.usage_in_bytes");
        st->memory_peak = cg_read_u64(mem, id, "memory.max_usage_in_bytes");
        st->memory_max = cg_read_u64(mem, id, "memory.limit_in_bytes");
        if (st->memory_max >= 1ull << 62) /* what v1 shows for "no limit" */
            st->memory_max = 0;
        st->oom_kills = (uint32_t)cg_read_key(mem, id, "memory.oom_control", "oom_kill");
    }
    if (pids >= 0)
        st->pids_now = (uint32_t)cg_read_u64(pids, id, "pids.current");
}

static void v1_fini(void)
{
    for (unsigned c = 0; c < CG_CONTROLLERS; c++) {
        if (cg_host.v1_parent_fd[c] >= 0)
            (void)unlinkat(cg_host.v1_parent_fd[c], cg_host.dir, AT_REMOVEDIR); /* stays while sandboxes live on */
        fd_closep(&cg_host.v1_fd[c]);
        fd_closep(&cg_host.v1_parent_fd[c]);
    }
}

const struct cg_driver cg_v1 = {
    .name = "v1",
    .init = v1_init,
    .create = v1_create,
    .enter = v1_enter,
    .stats = v1_stats,
    .remove = v1_remove,
    .fini = v1_fini,
};
