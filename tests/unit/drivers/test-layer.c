/* needs: root, loop devices, mkfs.ext4, tmpfs with user attributes (6.6); project quotas where the kernel has them */
#include "bed.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/clock.h"
#include "spawner/layer-internal.h"
#include "spawner/overlay-internal.h"

enum { UID = SLOT_BASE + 5 * SLOT_UIDS };

static struct bed bed;
static uint32_t features;

static void open_with(enum ovl_mode mode, const char *state_dir)
{
    struct err e = {0};

    overlay_set_mode(mode);
    features = 0;
    assert_ok(layers_init(state_dir, bed.run, &features, &e), &e);
}

static int setup(void **state)
{
    (void)state;
    bed_open(&bed);
    open_with(OVL_BY_FD, bed.state);
    return 0;
}

static int setup_parked(void **state)
{
    (void)state;
    bed_open(&bed);
    open_with(OVL_BY_PATH, bed.state);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    layers_fini();
    bed_close(&bed);
    return 0;
}

/* Writes until the file system says no; returns the bytes. */
static uint64_t fill(int dirfd, const char *path, int *ret_errno)
{
    static char block[1 << 16];
    uint64_t all = 0;
    int fd = openat(dirfd, path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    ssize_t n;

    assert_true(fd >= 0);
    memset(block, 'x', sizeof block);
    while ((n = write(fd, block, sizeof block)) > 0)
        all += (uint64_t)n;
    *ret_errno = errno;
    (void)close(fd);
    return all;
}

static void assert_ready(const struct layer *l)
{
    struct stat st;

    assert_true(l->dir_fd >= 0);
    assert_int_equal(fstatat(l->dir_fd, "upper", &st, 0), 0);
    assert_int_equal(st.st_uid, UID);
    assert_int_equal(st.st_gid, UID);
    assert_int_equal(st.st_mode, S_IFDIR | 0755);
    assert_int_equal(fstatat(l->dir_fd, "work", &st, 0), 0);
    assert_int_equal(st.st_uid, UID);
}

static void impossible_layers_are_refused(void **state)
{
    struct err e = {0};
    struct layer l;

    (void)state;
    assert_int_equal(layer_take(&l, SP_W_LOOP, LAYER_BYTES_MAX + 1, UID, &e), -EINVAL);
    assert_int_equal(e.kind, ERR_INVALID);
    assert_int_equal(layer_take(&l, SP_W_COUNT, 0, UID, &e), -ENOSYS);
    if ((features & SP_FEAT_PRJQUOTA) == 0) {
        assert_int_equal(layer_take(&l, SP_W_PRJQUOTA, 0, UID, &e), -ENOSYS);
        assert_non_null(strstr(e.msg, "project quotas"));
    }
    assert_int_equal(l.driver, SP_W_AUTO);
    layer_release(&l); /* what was never taken can be released */
}

static void a_full_disk_refuses_new_layers(void **state)
{
    struct err e = {0};
    char state_dir[96], filler[128];
    struct layer l;
    int fd;

    (void)state;
    layers_fini();
    (void)snprintf(state_dir, sizeof state_dir, "%s/small", bed.dir);
    assert_int_equal(mkdir(state_dir, 0700), 0);
    assert_int_equal(mount("small", state_dir, "tmpfs", 0, "size=64m"), 0);
    open_with(OVL_BY_FD, state_dir);
    assert_ok(layer_take(&l, SP_W_LOOP, 16 << 20, UID, &e), &e);
    layer_release(&l);

    (void)snprintf(filler, sizeof filler, "%s/filler", state_dir);
    fd = open(filler, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(posix_fallocate(fd, 0, 61 << 20), 0); /* less than 5 % are left */
    (void)close(fd);
    assert_int_equal(layer_take(&l, SP_W_LOOP, 16 << 20, UID, &e), -ENOSPC);
    assert_int_equal(e.kind, ERR_EXHAUSTED);
    assert_non_null(strstr(e.msg, "in reserve"));
    assert_ok(layer_take(&l, SP_W_TMPFS, 1 << 20, UID, &e), &e); /* takes no disk */
    layer_release(&l);

    layers_fini();
    (void)bed_loops_settled(&bed);
    assert_int_equal(umount2(state_dir, MNT_DETACH), 0);
    open_with(OVL_BY_FD, bed.state);
}

static void a_loop_layer_ends_at_its_size(void **state)
{
    struct err e = {0};
    uint64_t used, max, bytes;
    struct layer l;
    int why;

    (void)state;
    assert_ok(layer_take(&l, SP_W_LOOP, 32 << 20, UID, &e), &e);
    assert_ready(&l);
    assert_int_equal(bed_loops(&bed), 2); /* this one and the first of the pool */
    assert_int_equal(layer_usage(&l, &used, &max), 0);
    assert_true(max > 28 << 20 && max <= 32 << 20);
    bytes = fill(l.dir_fd, "upper/big", &why);
    assert_int_equal(why, ENOSPC);
    assert_true(bytes > 28 << 20 && bytes <= 32 << 20);
    layer_settle(&l);
    assert_int_equal(l.dir_fd, -1);
    assert_int_equal(layer_usage(&l, &used, &max), -ENOTSUP);
    layer_release(&l);
}

static void a_tmpfs_layer_ends_at_its_size(void **state)
{
    struct err e = {0};
    struct layer l;
    uint64_t bytes;
    int why;

    (void)state;
    assert_ok(layer_take(&l, SP_W_TMPFS, 8 << 20, UID, &e), &e);
    assert_ready(&l);
    bytes = fill(l.dir_fd, "upper/big", &why);
    assert_int_equal(why, ENOSPC);
    assert_true(bytes > 7 << 20 && bytes <= 8 << 20);
    layer_release(&l);
}

static void a_layer_in_memory_works_without_attributes_of_tmpfs(void **state)
{
    struct err e = {0};
    struct layer l;
    char path[64];
    uint64_t bytes;
    int why;

    (void)state;
    layer_tmpfs_set_fallback(true);
    assert_ok(layer_take(&l, SP_W_TMPFS, 8 << 20, UID, &e), &e);
    assert_ready(&l);
    assert_int_equal(bed_loops(&bed), 1); /* the one of the disk's pool: this file is not on disk */
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d/upper", l.dir_fd);
    assert_int_equal(setxattr(path, "user.overlay.opaque", "y", 1, 0), 0);
    bytes = fill(l.dir_fd, "upper/big", &why);
    assert_int_equal(why, ENOSPC);
    assert_true(bytes > 6 << 20 && bytes <= 8 << 20);
    layer_release(&l);
}

static void a_small_or_odd_size_is_rounded_up(void **state)
{
    struct err e = {0};
    struct layer l;

    (void)state;
    assert_ok(layer_take(&l, SP_W_LOOP, 1, UID, &e), &e);
    assert_int_equal(l.bytes, LAYER_BYTES_MIN);
    layer_release(&l);
    assert_ok(layer_take(&l, SP_W_LOOP, (20 << 20) + 1, UID, &e), &e);
    assert_int_equal(l.bytes, (20 << 20) + LAYER_BLOCK);
    assert_ready(&l);
    layer_release(&l);
}

static void a_loop_layer_holds_attributes_and_many_small_files(void **state)
{
    struct err e = {0};
    struct layer l;
    char name[32], path[128];

    (void)state;
    assert_ok(layer_take(&l, SP_W_LOOP, 64 << 20, UID, &e), &e);
    for (int i = 0; i < 2000; i++) {
        (void)snprintf(name, sizeof name, "upper/%d", i);
        assert_int_equal(mknodat(l.dir_fd, name, S_IFREG | 0644, 0), 0);
    }
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d/upper", l.dir_fd);
    assert_int_equal(setxattr(path, "user.overlay.opaque", "y", 1, 0), 0);
    layer_release(&l);
}

static void the_default_comes_from_the_pool(void **state)
{
    struct err e = {0};
    struct layer l[LAYER_POOL + 1];
    struct statfs st;
    uint64_t t;

    (void)state;
    t = clock_mono();
    (void)layers_refill();
    print_message("loop layer: %llu us to ask for %d", (unsigned long long)((clock_mono() - t) / 1000), LAYER_POOL - 1);
    while (bed_loops(&bed) < LAYER_POOL && clock_mono() - t < 5 * NSEC_PER_SEC)
        (void)usleep(1000);
    print_message(", %llu us to make one", (unsigned long long)((clock_mono() - t) / 1000 / (LAYER_POOL - 1)));
    (void)layers_refill();
    assert_int_equal(bed_loops(&bed), LAYER_POOL);
    for (unsigned i = 0; i < LAYER_POOL + 1; i++) {
        t = clock_mono();
        assert_ok(layer_take(&l[i], SP_W_AUTO, 0, UID, &e), &e);
        if (i == 0)
            print_message(", %llu us to take one\n", (unsigned long long)((clock_mono() - t) / 1000));
        assert_ready(&l[i]);
        assert_int_equal(l[i].bytes, (uint64_t)LAYER_DISK_DEFAULT_GIB << 30);
    }
    assert_int_equal(fstatfs(l[0].dir_fd, &st), 0);
    assert_true((uint64_t)st.f_blocks * (uint64_t)st.f_bsize > 95ull * LAYER_DISK_DEFAULT_GIB * (1 << 30) / 100);
    t = clock_mono();
    for (unsigned i = 0; i < LAYER_POOL + 1; i++)
        layer_release(&l[i]);
    print_message("loop layer: %llu us to release one\n",
                  (unsigned long long)((clock_mono() - t) / 1000 / (LAYER_POOL + 1)));
}

static void an_empty_layer_takes_little_of_the_disk(void **state)
{
    struct statfs before, after;
    struct err e = {0};
    struct layer l;

    (void)state;
    layers_fini();
    (void)bed_loops_settled(&bed);
    char state_dir[96];
    (void)snprintf(state_dir, sizeof state_dir, "%s/own", bed.dir);
    assert_int_equal(mkdir(state_dir, 0700), 0);
    assert_int_equal(mount("own", state_dir, "tmpfs", 0, "size=1g"), 0);
    open_with(OVL_BY_FD, state_dir); /* a template and a layer for the pool */
    assert_int_equal(statfs(state_dir, &before), 0);
    assert_ok(layer_take(&l, SP_W_LOOP, (uint64_t)LAYER_DISK_DEFAULT_GIB << 30, UID, &e), &e);
    (void)layers_refill();
    while (bed_loops(&bed) < LAYER_POOL + 1)
        (void)usleep(1000);
    assert_int_equal(statfs(state_dir, &after), 0);
    uint64_t each = (uint64_t)(before.f_bfree - after.f_bfree) * (uint64_t)after.f_bsize / LAYER_POOL;
    print_message("loop layer: %llu KiB of disk each\n", (unsigned long long)each >> 10);
    assert_true(each < 512 << 10);
    layer_release(&l);
    layers_fini();
    (void)bed_loops_settled(&bed);
    assert_int_equal(umount2(state_dir, MNT_DETACH), 0);
    open_with(OVL_BY_FD, bed.state);
}

static void sizes_seen_before_are_fast(void **state)
{
    struct err e = {0};
    struct layer l;
    uint64_t t[3];

    (void)state;
    for (int i = 0; i < 3; i++) {
        t[i] = clock_mono();
        assert_ok(layer_take(&l, SP_W_LOOP, 1ull << 30, UID, &e), &e);
        t[i] = clock_mono() - t[i];
        layer_release(&l);
    }
    print_message("loop layer of a new size: %llu us, again: %llu us\n", (unsigned long long)t[0] / 1000,
                  (unsigned long long)t[2] / 1000);
    /* More sizes than are remembered. */
    for (uint64_t i = 0; i < 20; i++) {
        assert_ok(layer_take(&l, SP_W_LOOP, (8 + i) << 20, UID, &e), &e);
        layer_release(&l);
    }
}

static void a_size_in_demand_gets_a_pool(void **state)
{
    const uint64_t sizes[] = {40 << 20, 40 << 20, 50 << 20, 50 << 20, 60 << 20, 60 << 20, 40 << 20, 40 << 20};
    struct err e = {0};
    struct layer l;
    uint64_t t;

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        assert_ok(layer_take(&l, SP_W_LOOP, sizes[i], UID, &e), &e);
        assert_int_equal(l.bytes, sizes[i]);
        assert_ready(&l);
        layer_release(&l);
        (void)layers_refill();
    }
    (void)usleep(300000);
    (void)layers_refill();
    t = clock_mono();
    assert_ok(layer_take(&l, SP_W_LOOP, 40 << 20, UID, &e), &e);
    print_message("loop layer of a size in demand: %llu us\n", (unsigned long long)(clock_mono() - t) / 1000);
    assert_ready(&l);
    layer_release(&l);
}

static void a_spawner_that_is_killed_leaves_no_loop_device(void **state)
{
    int ready[2], status;
    struct err e = {0};
    struct layer l;
    char go;
    pid_t pid;

    (void)state;
    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    layers_fini();
    assert_int_equal(bed_loops_settled(&bed), 0);
    pid = fork();
    if (pid == 0) {
        features = 0;
        if (layers_init(bed.state, bed.run, &features, &e) == 0 && layer_take(&l, SP_W_LOOP, 16 << 20, UID, &e) == 0)
            (void)!write(ready[1], "g", 1);
        for (;;)
            (void)pause();
    }
    (void)close(ready[1]);
    assert_int_equal(read(ready[0], &go, 1), 1);
    (void)close(ready[0]);
    assert_true(bed_loops(&bed) >= 2);
    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, &status, 0);
    assert_int_equal(bed_loops_settled(&bed), 0);
    open_with(OVL_BY_FD, bed.state);
}

/* The state directory on an ext4 with project quotas, made in a file. */
static void a_project_quota_ends_a_layer_at_its_size(void **state)
{
    char cmd[512], dir[96], box[192];
    struct err e = {0};
    uint64_t used, max, bytes;
    struct layer l, claimed;
    char key[LAYER_KEY_MAX];
    int why, upper;

    (void)state;
    layers_fini();
    (void)snprintf(dir, sizeof dir, "%s/quota", bed.dir);
    assert_int_equal(mkdir(dir, 0700), 0);
    (void)snprintf(cmd, sizeof cmd,
                   "truncate -s 256M %s/img && mkfs.ext4 -q -O quota,project -E quotatype=prjquota %s/img && "
                   "mount -o loop,prjquota %s/img %s 2>%s/why",
                   bed.dir, bed.dir, bed.dir, dir, bed.dir);
    if (system(cmd) != 0) {
        open_with(OVL_BY_FD, bed.state);
        print_message("this kernel has no project quotas: not tried\n");
        skip(); /* the loop driver takes over on such hosts; that is tested above */
    }
    open_with(OVL_BY_FD, dir);
    assert_int_not_equal(features & SP_FEAT_PRJQUOTA, 0);
    assert_ok(layer_take(&l, SP_W_AUTO, 16 << 20, UID, &e), &e);
    assert_int_equal(l.driver, SP_W_PRJQUOTA);
    assert_ready(&l);
    upper = openat(l.dir_fd, "upper", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(setresuid(-1, UID, -1), 0); /* root may go beyond a quota */
    bytes = fill(upper, "big", &why);
    assert_int_equal(setresuid(-1, 0, -1), 0);
    (void)close(upper);
    assert_int_equal(why, EDQUOT);
    assert_true(bytes > 15 << 20 && bytes <= 16 << 20);
    layer_key(&l, key);
    layer_settle(&l);
    assert_int_equal(layer_usage(&l, &used, &max), 0);
    assert_int_equal(max, 16 << 20);

    /* The next spawner. */
    assert_ok(layer_claim(&claimed, SP_W_PRJQUOTA, key, 16 << 20, UID, &e), &e);
    layer_release(&claimed);
    (void)snprintf(box, sizeof box, "%s/boxes/%s", dir, key);
    assert_int_equal(access(box, F_OK), -1);
    layers_fini();
    (void)snprintf(cmd, sizeof cmd, "test -z \"$(ls %s/boxes/trash)\" && umount %s", dir, dir);
    assert_int_equal(system(cmd), 0);
    open_with(OVL_BY_FD, bed.state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(impossible_layers_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_full_disk_refuses_new_layers, setup, teardown),
        cmocka_unit_test_setup_teardown(a_loop_layer_ends_at_its_size, setup, teardown),
        cmocka_unit_test_setup_teardown(a_loop_layer_ends_at_its_size, setup_parked, teardown),
        cmocka_unit_test_setup_teardown(a_tmpfs_layer_ends_at_its_size, setup, teardown),
        cmocka_unit_test_setup_teardown(a_tmpfs_layer_ends_at_its_size, setup_parked, teardown),
        cmocka_unit_test_setup_teardown(a_layer_in_memory_works_without_attributes_of_tmpfs, setup, teardown),
        cmocka_unit_test_setup_teardown(a_small_or_odd_size_is_rounded_up, setup, teardown),
        cmocka_unit_test_setup_teardown(a_loop_layer_holds_attributes_and_many_small_files, setup, teardown),
        cmocka_unit_test_setup_teardown(the_default_comes_from_the_pool, setup, teardown),
        cmocka_unit_test_setup_teardown(an_empty_layer_takes_little_of_the_disk, setup, teardown),
        cmocka_unit_test_setup_teardown(sizes_seen_before_are_fast, setup, teardown),
        cmocka_unit_test_setup_teardown(a_size_in_demand_gets_a_pool, setup, teardown),
        cmocka_unit_test_setup_teardown(a_spawner_that_is_killed_leaves_no_loop_device, setup, teardown),
        cmocka_unit_test_setup_teardown(a_project_quota_ends_a_layer_at_its_size, setup, teardown),
    };

    return cmocka_run_group_tests(tests, bed_group, NULL);
}
