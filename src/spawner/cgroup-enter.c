/* How init gets into its v1 cgroups in microseconds.
 *
 * Writing a pid into cgroup.procs write-locks the lock that every fork and exit of the host reads: the kernel waits for a
 * grace period, 6 to 20 ms as measured. A thread that moves itself (0 into `tasks`, since Linux 5.19) needs no such lock, and
 * init's one thread is all there is of it. So the child does it, with descriptors that root has opened: the kernel checks
 * the credentials of the opener. (v2 has CLONE_INTO_CGROUP.) */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/fd.h"
#include "spawner/cgroup-internal.h"

_Static_assert((int)CG_TASKS_MAX == (int)CG_CONTROLLERS, "one descriptor a controller");

void cg_close_tasks(int fds[CG_TASKS_MAX])
{
    for (unsigned i = 0; i < CG_TASKS_MAX; i++)
        fd_closep(&fds[i]);
}

int cg_open_tasks(const struct cg *cg, int ret_fds[CG_TASKS_MAX], struct err *e)
{
    for (unsigned c = 0; c < CG_CONTROLLERS; c++) {
        char path[SP_ID_MAX + 8];

        if (cg_host.v1_fd[c] < 0)
            continue;
        (void)snprintf(path, sizeof path, "%s/tasks", cg->id);
        ret_fds[c] = openat(cg_host.v1_fd[c], path, O_WRONLY | O_CLOEXEC);
        if (ret_fds[c] < 0)
            return err_set(e, errno, "open the %s cgroup of '%s': %m", cg_controller_name[c], cg->id);
    }
    return 0;
}

int cg_enter_self(const int fds[CG_TASKS_MAX])
{
    for (unsigned i = 0; i < CG_TASKS_MAX; i++) {
        if (fds[i] >= 0 && write(fds[i], "0", 1) != 1)
            return -errno;
    }
    return 0;
}
