/* needs: root, /run writable, an idmappable file system under /var/tmp */
#include "bed.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "spawner/overlay-internal.h"
#include "spawner/slot-internal.h"

static struct bed bed;
static uint32_t count;

static int setup(void **state)
{
    struct err e = {0};

    (void)state;
    bed_open(&bed);
    assert_ok(slots_init(bed.layers_fd, bed.run, &count, &e), &e);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    slots_fini();
    bed_close(&bed);
    return 0;
}

static void claiming_a_slot_that_is_not_there_or_in_use_is_refused(void **state)
{
    struct err e = {0};
    struct slot s;

    (void)state;
    assert_int_equal(slot_claim(-1, &e), -ERANGE);
    assert_int_equal(slot_claim(1 << 20, &e), -ERANGE);
    assert_ok(slot_take(&s, &e), &e);
    assert_int_equal(slot_claim(s.index, &e), -EEXIST);
    slot_drop_mount(&s);
    slot_release(s.index);
    assert_ok(slot_claim(s.index, &e), &e);
    slot_release(s.index);
}

static void files_of_the_store_belong_to_the_slot(void **state)
{
    struct err e = {0};
    struct slot s;
    struct stat st;

    (void)state;
    bed_layer_file(&bed, "x", "root", "", 0);
    bed_layer_file(&bed, "x", "user", "", 1000);
    bed_layer_file(&bed, "x", "last", "", SLOT_UIDS - 1);
    bed_layer_file(&bed, "x", "foreign", "", 0);
    assert_int_equal(fchownat(bed.layers_fd, "x/foreign", 0, 0, 0), 0);

    assert_ok(slot_take(&s, &e), &e);
    assert_int_equal(s.uid_base, SLOT_BASE + (uint32_t)s.index * SLOT_UIDS);
    assert_int_equal(fstatat(s.layers_fd, "x/root", &st, 0), 0);
    assert_int_equal(st.st_uid, s.uid_base);
    assert_int_equal(st.st_gid, s.uid_base);
    assert_int_equal(fstatat(s.layers_fd, "x/user", &st, 0), 0);
    assert_int_equal(st.st_uid, s.uid_base + 1000);
    assert_int_equal(fstatat(s.layers_fd, "x/last", &st, 0), 0);
    assert_int_equal(st.st_uid, s.uid_base + SLOT_UIDS - 1);
    assert_int_equal(fstatat(s.layers_fd, "x/foreign", &st, 0), 0);
    assert_int_equal(st.st_uid, 65534);
    assert_int_equal(openat(s.layers_fd, "x/new", O_WRONLY | O_CREAT, 0600), -1);
    assert_int_equal(errno, EROFS);
    slot_drop_mount(&s);
    slot_release(s.index);
}

static void a_freed_slot_is_the_last_to_be_taken_again(void **state)
{
    struct err e = {0};
    struct slot a, b;

    (void)state;
    assert_ok(slot_take(&a, &e), &e);
    slot_drop_mount(&a);
    slot_release(a.index);
    assert_ok(slot_take(&b, &e), &e);
    assert_int_not_equal(a.index, b.index);
    slot_drop_mount(&b);
    slot_release(b.index);
}

static void a_pool_makes_taking_fast(void **state)
{
    struct err e = {0};
    struct slot s[16];
    uint64_t t;

    (void)state;
    t = clock_mono();
    while (slots_refill())
        ;
    print_message("slot: %llu us to make one", (unsigned long long)((clock_mono() - t) / 16000));
    t = clock_mono();
    for (int i = 0; i < 16; i++)
        assert_ok(slot_take(&s[i], &e), &e);
    print_message(", %llu ns to take one\n", (unsigned long long)((clock_mono() - t) / 16));
    for (int i = 0; i < 16; i++) {
        slot_drop_mount(&s[i]);
        slot_release(s[i].index);
    }
}

static void two_daemons_do_not_share_a_block(void **state)
{
    struct err e = {0};
    struct slot s;
    int pipes[2], other = -1, status;
    pid_t pid;

    (void)state;
    assert_ok(slot_take(&s, &e), &e);
    assert_int_equal(pipe(pipes), 0);
    pid = fork();
    if (pid == 0) {
        struct slot mine = {.index = -1};

        /* A daemon of its own. It may close what it inherited of ours: the parent still has the open file of the lock. */
        slots_fini();
        if (slots_init(bed.layers_fd, bed.run, &count, &e) == 0)
            (void)slot_take(&mine, &e);
        (void)!write(pipes[1], &mine.index, sizeof mine.index);
        _exit(0);
    }
    assert_int_equal(read(pipes[0], &other, sizeof other), (ssize_t)sizeof other);
    (void)waitpid(pid, &status, 0);
    assert_true(other >= 0);
    assert_int_not_equal(other / SLOT_BLOCK, s.index / SLOT_BLOCK);
    (void)close(pipes[0]);
    (void)close(pipes[1]);
    slot_drop_mount(&s);
    slot_release(s.index);
}

static void uids_of_living_processes_are_left_alone(void **state)
{
    struct err e = {0};
    struct slot s;
    int block, ready[2];
    char go;
    pid_t pid;

    (void)state;
    assert_ok(slot_take(&s, &e), &e);
    block = s.index / SLOT_BLOCK;
    slot_drop_mount(&s);
    assert_int_equal(pipe(ready), 0);
    pid = fork();
    if (pid == 0) {
        if (setresuid(s.uid_base + 5, s.uid_base + 5, s.uid_base + 5) == 0)
            (void)!write(ready[1], "g", 1);
        for (;;)
            (void)pause();
    }
    assert_int_equal(read(ready[0], &go, 1), 1);
    (void)close(ready[0]);
    (void)close(ready[1]);

    /* The spawner dies and comes back; the sandbox lives. */
    slots_fini();
    assert_ok(slots_init(bed.layers_fd, bed.run, &count, &e), &e);
    assert_ok(slot_take(&s, &e), &e);
    assert_int_not_equal(s.index / SLOT_BLOCK, block);
    slot_drop_mount(&s);

    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, NULL, 0);
}

static void a_slot_can_have_a_place(void **state)
{
    struct err e = {0};
    char path[256];
    struct slot s;
    struct stat st;

    (void)state;
    bed_layer_file(&bed, "x", "root", "", 0);
    assert_ok(slot_take(&s, &e), &e);
    if (s.layers_path[0] == '\0')
        assert_ok(slot_park(&s, bed.run, &e), &e);
    (void)snprintf(path, sizeof path, "%s/x/root", s.layers_path);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_uid, s.uid_base);
    slot_drop_mount(&s);
    assert_int_equal(stat(path, &st), -1);
    slot_release(s.index);
}

static void a_user_namespace_belongs_to_the_sandbox(void **state)
{
    struct err e = {0};
    uid_t owner = 0;
    int fd;

    (void)state;
    assert_ok(userns_open(SLOT_BASE, &fd, &e), &e);
    assert_int_equal(ioctl(fd, NS_GET_OWNER_UID, &owner), 0);
    assert_int_equal(owner, SLOT_BASE);
    assert_int_equal(geteuid(), 0);
    (void)close(fd);
}

/* Last: it takes all there are. */
static void taking_more_than_all_is_refused(void **state)
{
    struct err e = {0};
    struct slot s;
    uint32_t taken = 0;
    int r;

    (void)state;
    assert_true(count >= SLOT_BLOCK);
    while ((r = slot_take(&s, &e)) == 0 && taken <= count) {
        slot_drop_mount(&s);
        taken++;
        assert_true(s.uid_base + SLOT_UIDS - 1 < 1u << 31);
    }
    assert_int_equal(e.kind, ERR_EXHAUSTED);
    /* Fewer only when other daemons of this host hold blocks. */
    assert_true(taken == count || (taken >= SLOT_BLOCK && strstr(e.msg, "other daemons") != NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(claiming_a_slot_that_is_not_there_or_in_use_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(files_of_the_store_belong_to_the_slot, setup, teardown),
        cmocka_unit_test_setup_teardown(a_freed_slot_is_the_last_to_be_taken_again, setup, teardown),
        cmocka_unit_test_setup_teardown(a_pool_makes_taking_fast, setup, teardown),
        cmocka_unit_test_setup_teardown(two_daemons_do_not_share_a_block, setup, teardown),
        cmocka_unit_test_setup_teardown(uids_of_living_processes_are_left_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(a_slot_can_have_a_place, setup, teardown),
        cmocka_unit_test_setup_teardown(a_user_namespace_belongs_to_the_sandbox, setup, teardown),
        cmocka_unit_test_setup_teardown(taking_more_than_all_is_refused, setup, teardown),
    };

    return cmocka_run_group_tests(tests, bed_group, NULL);
}
