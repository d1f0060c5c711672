/* needs: root; everything the other tests of this folder need, and network namespaces. PROBE_INIT names the program that
 * plays init.
 *
 * The whole sequence of a creation, once for good and a hundred times for the clock. */
#include "bed.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <linux/securebits.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "spawner/drivers.h"

enum { REPORT_MAX = 64 << 10, ROUNDS = 100 };

static struct bed bed;
static int init_fd = -1, seccomp_fd = -1, home_netns = -1;
static char tag[32], report[REPORT_MAX];
static const char *const digest = "00000000000000000000000000000000000000000000000000000000000000aa";

struct box {
    struct slot slot;
    struct layer layer;
    struct cg cg;
    struct netns net;
    struct rootfs_plan plan;
    int tasks[CG_TASKS_MAX];
    int mnt, control, listen_fd;
    pid_t pid;
    char where[64];
    uint64_t us[8]; /* slot, layer, overlay, settle, cgroup, netns, clone to exec, exec to hello */
};
static const char *const phase[] = {"slot", "layer", "overlay", "settle", "cgroup", "netns", "prepare", "clone..exec"};

/* ---- the parts that the spawner proper has its own files for ------------------------------------------------------- */

static int load_init(void)
{
    const char *path = getenv("PROBE_INIT");
    static char data[1 << 20];
    int in, out;
    ssize_t n;

    if (path == NULL)
        fail_msg("PROBE_INIT is not set");
    in = open(path, O_RDONLY | O_CLOEXEC);
    if (in < 0)
        fail_msg("cannot open %s", path);
    n = read(in, data, sizeof data);
    assert_true(n > 0);
    (void)close(in);
    out = memfd_create("probe-init", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(write(out, data, (size_t)n), n);
    assert_int_equal(fcntl(out, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE), 0);
    return out;
}

static void write_map(pid_t pid, const char *which, uint32_t base)
{
    char path[64], text[64];
    int fd;

    (void)snprintf(path, sizeof path, "/proc/%d/%s", pid, which);
    (void)snprintf(text, sizeof text, "0 %u %u\n", base, SLOT_UIDS);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    (void)close(fd);
}

/* In the sandbox's namespaces; FDS: go ahead (read), report a failure (write). */
static void child(struct box *b, int sock)
{
    const char *where = "before the start";
    char text[96], c;
    int r;

    if (read(sock, &c, 1) != 1)
        _exit(120);
    r = cg_enter_self(b->tasks);
    if (r == 0)
        r = rootfs_enter_and_exec(&b->plan, &where);
    (void)snprintf(text, sizeof text, "%d %s", -r, where);
    (void)!write(sock, text, strlen(text));
    _exit(121);
}

static int start_child(struct box *b)
{
    struct clone_args args = {
        .flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_INTO_CGROUP,
        .exit_signal = SIGCHLD,
        .cgroup = (uint64_t)b->cg.init_fd,
    };
    int pair[2], r = 0;
    char text[96];
    ssize_t n;

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    assert_int_equal(setns(b->net.fd, CLONE_NEWNET), 0);
    assert_int_equal(syscall(SYS_setresuid, -1, b->slot.uid_base, -1), 0);
    b->pid = (pid_t)syscall(SYS_clone3, &args, sizeof args);
    if (b->pid == 0) {
        (void)close(pair[0]);
        child(b, pair[1]);
    }
    assert_int_equal(syscall(SYS_setresuid, -1, 0, -1), 0);
    assert_int_equal(setns(home_netns, CLONE_NEWNET), 0);
    assert_true(b->pid > 0);
    (void)close(pair[1]);
    write_map(b->pid, "uid_map", b->slot.uid_base);
    write_map(b->pid, "gid_map", b->slot.uid_base);
    assert_int_equal(write(pair[0], "g", 1), 1);
    n = read(pair[0], text, sizeof text - 1);
    if (n > 0) {
        int skip = 0;

        text[n] = '\0';
        (void)sscanf(text, "%d %n", &r, &skip);
        (void)snprintf(b->where, sizeof b->where, "%s", text + skip);
    }
    (void)close(pair[0]);
    return -r;
}

/* ---- the sequence --------------------------------------------------------------------------------------------------- */

static uint64_t lap(uint64_t *t)
{
    uint64_t now = clock_mono(), d = now - *t;

    *t = now;
    return d / 1000;
}

/* 0, or what the child said, with b->where. */
static int box_start(struct box *b, const char *id, const char *hostname, bool readonly, bool with_sysfs,
                     enum sp_writable writable)
{
    const struct cg_limits lim = {.memory_max = 256 << 20, .pids_max = 100};
    struct err e = {0};
    int pair[2], r;
    uint64_t t = clock_mono();

    memset(b, 0, sizeof *b);
    for (unsigned i = 0; i < CG_TASKS_MAX; i++)
        b->tasks[i] = -1;
    b->mnt = -1;
    assert_ok(slot_take(&b->slot, &e), &e);
    b->us[0] = lap(&t);
    if (!readonly)
        assert_ok(layer_take(&b->layer, writable, 0, b->slot.uid_base, &e), &e);
    b->us[1] = lap(&t);
    assert_ok(overlay_make(&b->slot, &b->layer, &digest, 1, readonly, &b->mnt, &e), &e);
    b->us[2] = lap(&t);
    layer_settle(&b->layer);
    slot_drop_mount(&b->slot);
    b->us[3] = lap(&t);
    assert_ok(cg_create(&b->cg, id, &lim, b->slot.uid_base, &e), &e);
    assert_ok(cg_open_tasks(&b->cg, b->tasks, &e), &e);
    b->us[4] = lap(&t);
    assert_ok(netns_take(&b->net, SP_E_NONE, &e), &e);
    b->us[5] = lap(&t);

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    b->control = pair[0];
    b->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    b->plan = (struct rootfs_plan){
        .root_mnt = b->mnt,
        .sysfs_fd = with_sysfs ? b->net.sysfs_fd : -1,
        .cgroup_fd = b->cg.v2_fd,
        .control_fd = pair[1],
        .seccomp_fd = seccomp_fd,
        .listen_fd = b->listen_fd,
        .init_fd = init_fd,
        .mount_point = -1,
        .hostname = hostname,
        .resolv = "nameserver 192.0.2.1\n",
        .hosts = "127.0.0.1 localhost\n",
        .shm_bytes = 1 << 20,
        .readonly_root = readonly,
    };
    assert_ok(rootfs_prepare(&b->plan, b->slot.uid_base, &e), &e);
    b->us[6] = lap(&t);
    r = start_child(b);
    b->us[7] = lap(&t);
    rootfs_unprepare(&b->plan);
    cg_close_tasks(b->tasks);
    fd_closep(&b->mnt);
    fd_closep(&b->cg.v2_fd);
    fd_closep(&b->cg.init_fd);
    fd_closep(&b->net.fd);
    fd_closep(&b->net.sysfs_fd);
    fd_closep(&b->listen_fd);
    (void)close(pair[1]);
    return r;
}

/* Everything init says, one line after the other; returns its exit status. */
static int box_end(struct box *b)
{
    struct err e = {0};
    size_t len = 0;
    ssize_t n;
    int status, r;

    report[len++] = '\n';
    while ((n = recv(b->control, report + len, REPORT_MAX - len - 2, 0)) > 0) {
        len += (size_t)n;
        if (report[len - 1] != '\n')
            report[len++] = '\n';
    }
    report[len] = '\0';
    (void)close(b->control);
    assert_int_equal(waitpid(b->pid, &status, 0), b->pid);
    for (int i = 0; (r = cg_remove(b->cg.id, &e)) == -EBUSY && i < 1000; i++)
        (void)usleep(1000);
    assert_ok(r, &e);
    layer_release(&b->layer);
    netns_release(SP_E_NONE, b->net.lease);
    slot_release(b->slot.index);
    return status;
}

static void assert_said(const char *line)
{
    char want[1024];

    (void)snprintf(want, sizeof want, "\n%s\n", line);
    if (strstr(report, want) == NULL) {
        const char *at;

        (void)snprintf(want, sizeof want, "\n%.*s=", (int)strcspn(line, "="), line);
        at = strstr(report, want);
        fail_msg("expected %s, init said: %.200s", line, at != NULL ? at + 1 : "nothing");
    }
}

/* NAME was tried and did not work; how it is refused depends on the kernel. */
static void assert_refused(const char *name)
{
    char want[64];
    const char *at;

    (void)snprintf(want, sizeof want, "\n%s=", name);
    at = strstr(report, want);
    assert_non_null(at);
    at += strlen(want);
    if (strncmp(at, "ok", 2) == 0)
        fail_msg("%s was allowed", name);
}

/* Reads as nothing, or is not there at all. */
static void assert_hidden(const char *name)
{
    char want[64];
    const char *at;

    (void)snprintf(want, sizeof want, "\n%s=", name);
    at = strstr(report, want);
    assert_non_null(at);
    at += strlen(want);
    if (*at != '\n' && strncmp(at, "error No such file", 18) != 0)
        fail_msg("%s says %.80s", name, at);
}

/* From the lists of cgroups and mounts on. */
static void assert_not_said(const char *part)
{
    const char *at = strstr(report, "\nown-cgroup=");

    assert_non_null(at);
    at = strstr(at, part);
    if (at != NULL)
        fail_msg("init said: %.200s", at);
}

static void image_file(const char *path, const char *text)
{
    bed_layer_file(&bed, digest, path, text, 0);
}

static void image_link(const char *path, const char *to)
{
    char full[256];

    bed_layer_dir(&bed, digest);
    (void)snprintf(full, sizeof full, "%s/%s", digest, path);
    assert_int_equal(symlinkat(to, bed.layers_fd, full), 0);
    assert_int_equal(fchownat(bed.layers_fd, full, STORE_BASE, STORE_BASE, AT_SYMLINK_NOFOLLOW), 0);
}

/* ---- group ---------------------------------------------------------------------------------------------------------- */

static int setup(void **state)
{
    struct err e = {0};
    uint32_t features = 0, count;
    unsigned instructions;

    (void)state;
    bed_open(&bed);
    init_fd = load_init();
    (void)snprintf(tag, sizeof tag, "testr%d", (int)getpid());
    home_netns = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    assert_ok(slots_init(bed.layers_fd, bed.run, &count, &e), &e);
    assert_ok(layers_init(bed.state, bed.run, &features, &e), &e);
    assert_ok(cgs_init(tag, &features, &e), &e);
    assert_ok(egress_init(tag, &features, &e), &e);
    assert_ok(rootfs_init(&e), &e);
    assert_ok(seccomp_build(&seccomp_fd, &instructions, &e), &e);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    rootfs_fini();
    egress_fini();
    cgs_fini();
    layers_fini();
    slots_fini();
    fd_closep(&seccomp_fd);
    fd_closep(&init_fd);
    fd_closep(&home_netns);
    bed_close(&bed);
    return 0;
}

static void check_everything(bool readonly)
{
    assert_said("end=1");
    assert_said("argv=1 silica-init 0");
    assert_said("ids=1 0 0 0 1");
    assert_said("hostname=box-1");
    assert_said("cwd=/");
    assert_said("umask=22");
    assert_said("nofile=1");
    assert_said("core=1");
    /* Nothing but what init is to have. */
    assert_said("fds=0 1 2 3 4 5 6 ");
    assert_said("fd0=/dev/null");
    assert_said("fd2=/dev/null");
    assert_non_null(strstr(report, "\nfd5=/memfd:silica-seccomp"));

    assert_said("dev-null=20666 1:3 0 0");
    assert_said("dev-tty=20666 5:0 0 0");
    assert_said("dev-urandom=20666 1:9 0 0");
    assert_said("read-zero=1 0");
    assert_said("write-full=No space left on device");
    assert_said("mknod-mem=Operation not permitted");
    assert_said(readonly ? "mknod-root=Read-only file system" : "mknod-root=Operation not permitted");
    assert_said("pty=0 ok");
    assert_said("shm=ok");
    assert_said("shm-size=1021994 1048576");
    assert_said("mqueue=ok");

    assert_said("hosts=127.0.0.1 localhost");
    assert_said("resolv=nameserver 192.0.2.1");
    assert_said("etc-hostname=box-1");
    assert_said("write-hosts=ok");

    assert_non_null(strstr(report, "\nproc=9fa0 "));
    assert_hidden("kcore");
    assert_hidden("keys");
    assert_hidden("timer_list");
    assert_hidden("acpi");
    assert_hidden("firmware");
    assert_said("ostype=Linux");
    assert_refused("write-core_pattern");
    assert_refused("write-sysrq");
    assert_non_null(strstr(report, " /proc/sys ro,"));
    assert_said("write-oom=ok");
    assert_said("cgroup=");
    assert_said("create-cgroup=Read-only file system");
    assert_said(readonly ? "create-root=Read-only file system" : "create-root=ok");
    assert_said("create-dev=ok");
    /* Nothing of the host's tree. */
    assert_not_said(bed.dir);
    assert_not_said("/var/tmp");
    assert_not_said("mount=0 ");
    assert_not_said("silica-test");
    assert_non_null(strstr(report, "0::/\n"));
}

static void a_plain_image(void **state)
{
    struct box b;

    (void)state;
    image_file("bin/x", "x");
    image_file("etc/hosts", "image");
    image_file("dev/x", "");
    image_file("proc/x", "");
    if (box_start(&b, "plain", "box-1", false, true, SP_W_LOOP) < 0)
        fail_msg("%s", b.where);
    assert_int_equal(WEXITSTATUS(box_end(&b)), 7);
    check_everything(false);
    assert_said("net=lo ");
    assert_said("port-start=0");
    assert_said("create-sys=Read-only file system");
    assert_non_null(strstr(report, "\nsys=62656572 "));
    if (getenv("VERBOSE") != NULL)
        print_message("%s\n", report);
}

static void an_empty_image(void **state)
{
    struct box b;

    (void)state;
    bed_layer_dir(&bed, digest);
    if (box_start(&b, "empty", "box-1", false, true, SP_W_TMPFS) < 0)
        fail_msg("%s", b.where);
    (void)box_end(&b);
    check_everything(false);
    assert_said("root=sys proc etc dev ");
}

static void a_read_only_root(void **state)
{
    struct box b;

    (void)state;
    image_file("bin/x", "x");
    if (box_start(&b, "readonly", "box-1", true, true, SP_W_AUTO) < 0)
        fail_msg("%s", b.where);
    (void)box_end(&b);
    check_everything(true);
}

static void no_sysfs(void **state)
{
    struct box b;

    (void)state;
    image_file("bin/x", "x");
    if (box_start(&b, "nosys", "box-1", false, false, SP_W_TMPFS) < 0)
        fail_msg("%s", b.where);
    (void)box_end(&b);
    assert_said("end=1");
    assert_said("create-sys=No such file or directory");
    assert_non_null(strstr(report, "\nsys=1021994 ")); /* an empty tmpfs */
}

/* A3, A4, A6, A8 of the abuse cases: an image whose mount points are links to where they must not lead. */
static void an_image_full_of_links(void **state)
{
    struct box b;

    (void)state;
    image_file("real/x", "x");
    image_link("dev", "/proc/self/fd");
    image_link("proc", "/sys");
    image_link("sys", "/dev");
    image_file("etc/passwd", "root:x:0:0::/:/bin/sh\n");
    image_link("etc/resolv.conf", "/proc/sys/kernel/core_pattern");
    image_link("etc/hosts", "../../../../../../proc/self/environ");
    image_link("etc/hostname", "loop");
    image_link("etc/loop", "hostname");
    if (box_start(&b, "links", "box-1", false, true, SP_W_LOOP) < 0)
        fail_msg("%s", b.where);
    (void)box_end(&b);
    check_everything(false);
}

static void files_where_directories_belong(void **state)
{
    struct box b;

    (void)state;
    image_file("dev", "");
    image_file("proc", "");
    image_file("sys", "");
    image_file("etc/hosts/not-a-file", "");
    if (box_start(&b, "files", "box-1", false, true, SP_W_TMPFS) < 0)
        assert_string_equal(b.where, "make /etc/hosts"); /* a directory with something in it stays */
    else
        fail_msg("a directory of the image was overwritten");
    (void)box_end(&b);
}

static void an_etc_that_is_a_link_within_the_image(void **state)
{
    struct box b;

    (void)state;
    image_file("usr/etc/hosts", "image");
    image_link("etc", "usr/etc");
    if (box_start(&b, "etclink", "box-1", false, true, SP_W_TMPFS) < 0)
        fail_msg("%s", b.where);
    (void)box_end(&b);
    check_everything(false);
}

static void links_under_a_read_only_root_are_refused(void **state)
{
    struct box b;

    (void)state;
    image_link("dev", "/proc/self/fd");
    assert_int_equal(box_start(&b, "rolinks", "box-1", true, true, SP_W_AUTO), -EROFS);
    assert_string_equal(b.where, "mount /dev");
    (void)box_end(&b);
}

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

/* Helpers fill the pools of layers and networks: until nothing has been added for a while. */
static void fill_pools(void)
{
    int before = -1;

    for (unsigned quiet = 0, turns = 0; quiet < 10 && turns < 200; turns++) {
        while (slots_refill() || layers_refill() || egress_refill())
            ;
        quiet = bed_fds() == before ? quiet + 1 : 0;
        before = bed_fds();
        (void)usleep(20000);
    }
}

static void a_hundred_of_them(void **state)
{
    static uint64_t us[9][ROUNDS];
    unsigned mounts = bed_mounts(), fds;
    struct box b;
    char id[16];

    (void)state;
    image_file("etc/hosts", "");
    image_file("etc/hostname", "");
    image_file("etc/resolv.conf", "");
    image_file("dev/x", "");
    image_file("proc/x", "");
    image_file("sys/x", "");
    fill_pools();
    fds = bed_fds();
    for (int i = 0; i < ROUNDS; i++) {
        (void)snprintf(id, sizeof id, "n-%d", i);
        if (box_start(&b, id, "quick", false, true, SP_W_LOOP) < 0)
            fail_msg("%s", b.where);
        for (int p = 0; p < 8; p++) {
            us[p][i] = b.us[p];
            us[8][i] += b.us[p];
        }
        (void)box_end(&b);
        while (slots_refill() || layers_refill() || egress_refill())
            ;
    }
    fill_pools();
    assert_int_equal(bed_fds(), fds);
    assert_int_equal(bed_mounts(), mounts);
    for (int p = 0; p < 9; p++) {
        qsort(us[p], ROUNDS, sizeof us[p][0], by_size);
        print_message("%-12s p50 %llu us, p99 %llu us\n", p < 8 ? phase[p] : "all",
                      (unsigned long long)us[p][ROUNDS / 2], (unsigned long long)us[p][ROUNDS * 99 / 100]);
    }
}

static int group(void **state)
{
    /* As the spawner does: another euid for a moment, without losing capabilities. */
    if (bed_group(state) < 0)
        return -1;
    return prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(files_where_directories_belong, setup, teardown),
        cmocka_unit_test_setup_teardown(links_under_a_read_only_root_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_plain_image, setup, teardown),
        cmocka_unit_test_setup_teardown(an_empty_image, setup, teardown),
        cmocka_unit_test_setup_teardown(a_read_only_root, setup, teardown),
        cmocka_unit_test_setup_teardown(no_sysfs, setup, teardown),
        cmocka_unit_test_setup_teardown(an_image_full_of_links, setup, teardown),
        cmocka_unit_test_setup_teardown(an_etc_that_is_a_link_within_the_image, setup, teardown),
        cmocka_unit_test_setup_teardown(a_hundred_of_them, setup, teardown),
    };

    return cmocka_run_group_tests(tests, group, NULL);
}
