/* needs: root, cgroup v2 mounted, memory, cpu and pids controllers in either version */
#include "bed.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "spawner/cgroup-internal.h"

enum { UID = SLOT_BASE + 7 * SLOT_UIDS };

static uint32_t features;
static unsigned fds;
static char tag[32], mounts[CG_CONTROLLERS + 1][CG_PATH_MAX];

static int setup(void **state)
{
    struct err e = {0};

    (void)state;
    fds = bed_fds();
    features = 0;
    (void)snprintf(tag, sizeof tag, "test%d", (int)getpid());
    assert_ok(cgs_init(tag, &features, &e), &e);
    for (unsigned c = 0; c < CG_CONTROLLERS; c++)
        if (cg_find_mount("cgroup", cg_controller_name[c], mounts[c]) < 0)
            mounts[c][0] = '\0';
    (void)cg_find_mount("cgroup2", NULL, mounts[CG_CONTROLLERS]);
    return 0;
}

static void no_directory_is_left(void)
{
    for (unsigned i = 0; i <= CG_CONTROLLERS; i++) {
        char path[CG_PATH_MAX + 64];

        (void)snprintf(path, sizeof path, "%.511s/silica-%s", mounts[i], tag);
        assert_int_equal(access(path, F_OK), -1);
    }
}

static int teardown(void **state)
{
    (void)state;
    cgs_fini();
    no_directory_is_left();
    assert_int_equal(bed_fds(), fds);
    return 0;
}

/* A child in the cgroup and its limits that runs FN. */
static pid_t start(const struct cg *cg, void (*fn)(void))
{
    struct clone_args args = {.flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (uint64_t)cg->init_fd};
    struct err e = {0};
    int go[2];
    char c;
    pid_t pid;

    assert_int_equal(pipe2(go, O_CLOEXEC), 0);
    pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
    if (pid == 0) {
        (void)close(go[1]);
        if (read(go[0], &c, 1) == 1)
            fn();
        _exit(0);
    }
    assert_true(pid > 0);
    assert_ok(cg_enter(cg, pid, &e), &e);
    assert_int_equal(write(go[1], "g", 1), 1);
    (void)close(go[0]);
    (void)close(go[1]);
    return pid;
}

static void create(struct cg *cg, const char *id, const struct cg_limits *lim)
{
    struct err e = {0};

    assert_ok(cg_create(cg, id, lim, UID, &e), &e);
}

static void close_cg(struct cg *cg)
{
    fd_closep(&cg->v2_fd);
    fd_closep(&cg->init_fd);
}

static void sleep_for_ever(void)
{
    for (;;)
        (void)pause();
}

static void odd_names_are_refused(void **state)
{
    const struct cg_limits lim = {0};
    struct err e = {0};
    struct cg cg;

    (void)state;
    assert_int_equal(cg_create(&cg, "../x", &lim, UID, &e), -EINVAL);
    assert_int_equal(cg_create(&cg, ".", &lim, UID, &e), -EINVAL);
    assert_int_equal(cg_create(&cg, "an-id-of-more-than-forty-characters-in-all", &lim, UID, &e), -EINVAL);
    create(&cg, "twice", &lim);
    close_cg(&cg);
    assert_int_equal(cg_create(&cg, "twice", &lim, UID, &e), -EEXIST);
    assert_ok(cg_remove("twice", &e), &e);
    assert_ok(cg_remove("never-was", &e), &e);
}

static void a_limit_that_the_host_cannot_keep_is_refused(void **state)
{
    const struct cg_limits lim = {.memory_max = 1 << 20};
    struct err e = {0};
    struct cg cg;

    (void)state;
    bool had = cg_host.has[CG_MEMORY];
    cg_host.has[CG_MEMORY] = false;
    assert_int_equal(cg_create(&cg, "x", &lim, UID, &e), -ENOSYS);
    assert_non_null(strstr(e.msg, "memory"));
    cg_host.has[CG_MEMORY] = had;
}

static void a_populated_cgroup_is_not_removed(void **state)
{
    const struct cg_limits lim = {0};
    struct err e = {0};
    struct cg cg;
    bool populated;
    pid_t pid;
    int fd;

    (void)state;
    create(&cg, "busy", &lim);
    assert_ok(cg_populated("busy", &populated, &e), &e);
    assert_false(populated);
    pid = start(&cg, sleep_for_ever);
    close_cg(&cg);
    assert_ok(cg_populated("busy", &populated, &e), &e);
    assert_true(populated);
    assert_int_equal(cg_remove("busy", &e), -EBUSY);
    assert_int_equal(kill(pid, 0), 0);

    assert_ok(cg_events_fd("busy", &fd, &e), &e);
    char text[256];
    assert_true(pread(fd, text, sizeof text, 0) > 0);
    assert_ok(cg_kill("busy", &e), &e);
    struct pollfd p = {.fd = fd, .events = POLLPRI};
    assert_int_equal(poll(&p, 1, 2000), 1);
    (void)close(fd);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_ok(cg_populated("busy", &populated, &e), &e);
    assert_false(populated);
    assert_ok(cg_remove("busy", &e), &e);
}

static void init_may_make_a_cgroup_for_each_process(void **state)
{
    const struct cg_limits lim = {0};
    struct err e = {0};
    struct stat st;
    struct cg cg;
    pid_t pid;
    int status;

    (void)state;
    create(&cg, "box", &lim);
    assert_int_equal(fstat(cg.v2_fd, &st), 0);
    assert_int_equal(st.st_uid, UID);
    assert_int_equal(fstatat(cg.v2_fd, "cgroup.procs", &st, 0), 0);
    assert_int_equal(st.st_uid, UID);
    assert_int_equal(fstatat(cg.v2_fd, "cgroup.max.descendants", &st, 0), 0);
    assert_int_equal(st.st_uid, 0);

    pid = fork();
    if (pid == 0) {
        struct clone_args args = {.flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD};
        struct clone_args in = {.flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (uint64_t)cg.init_fd};
        pid_t init = (pid_t)syscall(SYS_clone3, &in, sizeof in), child;
        int sub, st2 = 0;

        if (init != 0) {
            (void)waitpid(init, &st2, 0);
            _exit(WEXITSTATUS(st2));
        }
        if (setresgid(UID, UID, UID) < 0 || setresuid(UID, UID, UID) < 0)
            _exit(1);
        if (mkdirat(cg.v2_fd, "p1", 0755) < 0)
            _exit(2);
        sub = openat(cg.v2_fd, "p1", O_RDONLY | O_DIRECTORY);
        args.cgroup = (uint64_t)sub;
        child = (pid_t)syscall(SYS_clone3, &args, sizeof args);
        if (child == 0)
            _exit(0);
        if (child < 0)
            _exit(3);
        (void)waitpid(child, &st2, 0);
        if (openat(cg.v2_fd, "cgroup.subtree_control", O_WRONLY) >= 0)
            _exit(4);
        _exit(0);
    }
    (void)waitpid(pid, &status, 0);
    assert_int_equal(WEXITSTATUS(status), 0);
    close_cg(&cg);
    assert_ok(cg_remove("box", &e), &e); /* p1 goes too */
}

static void fork_until_refused(void)
{
    for (int i = 0; i < 40; i++) {
        pid_t pid = fork();

        if (pid == 0)
            sleep_for_ever();
        if (pid < 0)
            _exit(errno == EAGAIN ? i : 99);
    }
    _exit(100);
}

static void processes_end_at_their_limit(void **state)
{
    const struct cg_limits lim = {.pids_max = 10};
    struct err e = {0};
    struct sp_stats st;
    struct cg cg;
    int status;
    pid_t pid;

    (void)state;
    create(&cg, "forks", &lim);
    pid = start(&cg, fork_until_refused);
    close_cg(&cg);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(WEXITSTATUS(status), 9);
    assert_ok(cg_stats("forks", &st, &e), &e);
    assert_int_equal(st.pids_now, 9);

    uint64_t t = clock_mono();
    bool populated = true;
    assert_ok(cg_kill("forks", &e), &e);
    while (populated && clock_mono() - t < 2 * NSEC_PER_SEC)
        assert_ok(cg_populated("forks", &populated, &e), &e);
    assert_false(populated);
    assert_ok(cg_remove("forks", &e), &e);
}

static void use_64_mib(void)
{
    size_t n = 64 << 20;
    char *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p != MAP_FAILED)
        memset(p, 1, n);
    _exit(0);
}

static void memory_ends_at_its_limit(void **state)
{
    const struct cg_limits lim = {.memory_max = 32 << 20};
    struct err e = {0};
    struct sp_stats st;
    struct cg cg;
    int status;
    pid_t pid;

    (void)state;
    create(&cg, "hungry", &lim);
    pid = start(&cg, use_64_mib);
    close_cg(&cg);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_ok(cg_stats("hungry", &st, &e), &e);
    assert_int_equal(st.oom_kills, 1);
    assert_int_equal(st.memory_max, 32 << 20);
    assert_true(st.memory_peak > 16 << 20 && st.memory_peak <= 32 << 20);
    assert_ok(cg_remove("hungry", &e), &e);
}

static void burn(void)
{
    uint64_t end = clock_mono() + 300 * NSEC_PER_MSEC;

    while (clock_mono() < end)
        ;
}

static void time_ends_at_its_quota(void **state)
{
    const struct cg_limits lim = {.cpu_quota_us = 20000, .cpu_period_us = 100000, .cpu_weight = 50};
    struct err e = {0};
    struct sp_stats st;
    struct cg cg;
    pid_t pid;

    (void)state;
    create(&cg, "busy-loop", &lim);
    pid = start(&cg, burn);
    close_cg(&cg);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_ok(cg_stats("busy-loop", &st, &e), &e);
    assert_true(st.cpu_us > 5000 && st.cpu_us < 150000); /* a fifth of 300 ms, and the last slice */
    assert_ok(cg_remove("busy-loop", &e), &e);
}

static void count_names(void *arg, const char *id)
{
    unsigned *seen = arg;

    if (strcmp(id, "left-1") == 0 || strcmp(id, "left-2") == 0)
        (*seen)++;
}

static void what_a_dead_spawner_left_is_found(void **state)
{
    const struct cg_limits lim = {0};
    struct err e = {0};
    struct cg cg;
    unsigned seen = 0;

    (void)state;
    create(&cg, "left-1", &lim);
    close_cg(&cg);
    create(&cg, "left-2", &lim);
    close_cg(&cg);
    cgs_fini(); /* does not remove what is in use */
    assert_ok(cgs_init(tag, &features, &e), &e);
    assert_ok(cgs_list(count_names, &seen, &e), &e);
    assert_int_equal(seen, 2);
    assert_ok(cg_remove("left-1", &e), &e);
    assert_ok(cg_remove("left-2", &e), &e);
}

static void making_and_removing_is_cheap(void **state)
{
    const struct cg_limits lim = {.memory_max = 1 << 30, .pids_max = 1000, .cpu_quota_us = 100000};
    uint64_t made = 0, entered = 0, removed = 0, t;
    struct err e = {0};
    struct cg cg;
    char id[16];
    pid_t pid;

    (void)state;
    for (int i = 0; i < 50; i++) {
        (void)snprintf(id, sizeof id, "t%d", i);
        t = clock_mono();
        create(&cg, id, &lim);
        made += clock_mono() - t;
        pid = start(&cg, sleep_for_ever);
        close_cg(&cg);
        t = clock_mono();
        assert_ok(cg_kill(id, &e), &e);
        entered += clock_mono() - t;
        (void)waitpid(pid, NULL, 0);
        t = clock_mono();
        while (cg_remove(id, &e) == -EBUSY)
            ;
        removed += clock_mono() - t;
    }
    print_message("cgroup: %llu us to make, %llu us to kill, %llu us to remove\n", (unsigned long long)made / 50000,
                  (unsigned long long)entered / 50000, (unsigned long long)removed / 50000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(odd_names_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_limit_that_the_host_cannot_keep_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_populated_cgroup_is_not_removed, setup, teardown),
        cmocka_unit_test_setup_teardown(init_may_make_a_cgroup_for_each_process, setup, teardown),
        cmocka_unit_test_setup_teardown(processes_end_at_their_limit, setup, teardown),
        cmocka_unit_test_setup_teardown(memory_ends_at_its_limit, setup, teardown),
        cmocka_unit_test_setup_teardown(time_ends_at_its_quota, setup, teardown),
        cmocka_unit_test_setup_teardown(what_a_dead_spawner_left_is_found, setup, teardown),
        cmocka_unit_test_setup_teardown(making_and_removing_is_cheap, setup, teardown),
    };

    return cmocka_run_group_tests(tests, bed_group, NULL);
}
