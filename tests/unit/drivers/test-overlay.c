/* needs: root, overlayfs, an idmappable file system under /var/tmp, tmpfs with user attributes (6.6) */
#include "bed.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "spawner/overlay-internal.h"

static struct bed bed;
static char names[SP_LAYERS_MAX + 1][SP_DIGEST_LEN + 1];
static const char *digests[SP_LAYERS_MAX + 1];

/* What a kernel of today does, and what older ones make us do: today's can do it too. */
static int setup_mode(enum ovl_mode mode)
{
    uint32_t count, features = 0;
    struct err e = {0};

    bed_open(&bed);
    assert_ok(slots_init(bed.layers_fd, bed.run, &count, &e), &e);
    if (mode != OVL_UNKNOWN)
        overlay_set_mode(mode);
    assert_ok(layers_init(bed.state, bed.run, &features, &e), &e);
    for (unsigned i = 0; i < SP_LAYERS_MAX + 1; i++) {
        (void)snprintf(names[i], sizeof names[i], "%064x", i + 10);
        digests[i] = names[i];
    }
    return 0;
}

static int setup(void **state)
{
    (void)state;
    return setup_mode(OVL_UNKNOWN);
}

static int setup_by_path(void **state)
{
    (void)state;
    return setup_mode(OVL_BY_PATH);
}

static int setup_classic(void **state)
{
    (void)state;
    return setup_mode(OVL_CLASSIC);
}

static int teardown(void **state)
{
    (void)state;
    layers_fini();
    slots_fini();
    bed_close(&bed);
    return 0;
}

static void read_text(int dirfd, const char *path, char out[64])
{
    int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);
    ssize_t n;

    assert_true(fd >= 0);
    n = read(fd, out, 63);
    assert_true(n >= 0);
    out[n] = '\0';
    (void)close(fd);
}

static void assert_text(int dirfd, const char *path, const char *text)
{
    char have[64];

    read_text(dirfd, path, have);
    assert_string_equal(have, text);
}

static void bad_layers_are_refused_with_a_reason(void **state)
{
    struct err e = {0};
    struct slot s;
    struct layer l;
    const char *odd[] = {"../../../../etc"};
    int mnt;

    (void)state;
    assert_ok(slot_take(&s, &e), &e);
    assert_ok(layer_take(&l, SP_W_TMPFS, 0, s.uid_base, &e), &e);
    assert_int_equal(overlay_make(&s, &l, digests, 1, false, &mnt, &e), -ENOENT);
    assert_int_equal(e.kind, ERR_NOT_FOUND);
    assert_non_null(strstr(e.msg, digests[0]));
    assert_int_equal(overlay_make(&s, &l, odd, 1, false, &mnt, &e), -EINVAL);
    assert_int_equal(overlay_make(&s, &l, digests, 0, false, &mnt, &e), -EINVAL);
    assert_int_equal(overlay_make(&s, &l, digests, SP_LAYERS_MAX + 1, false, &mnt, &e), -EINVAL);
    layer_release(&l);
    slot_drop_mount(&s);
    slot_release(s.index);
}

/* COUNT layers, each with a file of its own and one they all have; the life of a writable overlay over them. */
static void whole_life(unsigned count)
{
    struct err e = {0};
    struct slot s;
    struct layer l;
    struct stat st;
    char path[80], text[16];
    uint64_t t, dev;
    int mnt, fd;

    for (unsigned i = 0; i < count; i++) {
        (void)snprintf(path, sizeof path, "dir/only-%u", i);
        (void)snprintf(text, sizeof text, "%u", i);
        bed_layer_file(&bed, digests[i], path, text, i);
        bed_layer_file(&bed, digests[i], "dir/all", text, 0);
    }
    assert_ok(slot_take(&s, &e), &e);
    assert_ok(layer_take(&l, SP_W_TMPFS, 64 << 20, s.uid_base, &e), &e);
    t = clock_mono();
    assert_ok(overlay_make(&s, &l, digests, count, false, &mnt, &e), &e);
    print_message("overlay of %u layers, way %d: %llu us\n", count, (int)overlay_mode(),
                  (unsigned long long)((clock_mono() - t) / 1000));
    /* It stands alone from here on. */
    slot_drop_mount(&s);
    layer_settle(&l);
    assert_int_equal(l.dir_fd, -1);

    (void)snprintf(text, sizeof text, "%u", count - 1);
    assert_text(mnt, "dir/all", text);
    for (unsigned i = 0; i < count; i += 7) {
        (void)snprintf(path, sizeof path, "dir/only-%u", i);
        assert_int_equal(fstatat(mnt, path, &st, 0), 0);
        assert_int_equal(st.st_uid, s.uid_base + i);
    }
    assert_int_equal(fstatat(mnt, ".", &st, 0), 0);
    assert_int_equal(st.st_uid, s.uid_base);

    /* One file system to whoever looks at st_dev. */
    dev = st.st_dev;
    assert_int_equal(fstatat(mnt, "dir/only-0", &st, 0), 0);
    assert_int_equal(st.st_dev, dev);

    /* Copy up, new file, whiteout, directory in the place of one below (opaque). */
    fd = openat(mnt, "dir/only-0", O_WRONLY | O_TRUNC | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "changed", 7), 7);
    (void)close(fd);
    assert_text(mnt, "dir/only-0", "changed");
    assert_int_equal(fstatat(mnt, "dir/only-0", &st, 0), 0);
    assert_int_equal(st.st_uid, s.uid_base);
    assert_int_equal(unlinkat(mnt, "dir/all", 0), 0);
    assert_int_equal(fstatat(mnt, "dir/all", &st, 0), -1);
    (void)snprintf(path, sizeof path, "exec /bin/rm -rf /proc/%d/fd/%d/dir", (int)getpid(), mnt);
    assert_int_equal(system(path), 0);
    assert_int_equal(mkdirat(mnt, "dir", 0755), 0);
    assert_int_equal(fstatat(mnt, "dir/only-0", &st, 0), -1);

    (void)close(mnt);
    layer_release(&l);
    slot_release(s.index);
}

static void a_writable_root_over_three_layers(void **state)
{
    (void)state;
    whole_life(3);
}

static void a_writable_root_over_as_many_layers_as_there_may_be(void **state)
{
    (void)state;
    whole_life(SP_LAYERS_MAX);
}

static void a_read_only_root_has_no_upper_layer_but_mount_points(void **state)
{
    struct err e = {0};
    struct slot s;
    struct stat st;
    int mnt;

    (void)state;
    bed_layer_file(&bed, digests[0], "file", "x", 0); /* an image of one layer, without /dev, /proc, /sys and /etc */
    assert_ok(slot_take(&s, &e), &e);
    assert_ok(overlay_make(&s, NULL, digests, 1, true, &mnt, &e), &e);
    slot_drop_mount(&s);
    assert_text(mnt, "file", "x");
    assert_int_equal(fstatat(mnt, "dev", &st, 0), 0);
    assert_int_equal(st.st_uid, s.uid_base);
    assert_int_equal(fstatat(mnt, "etc/resolv.conf", &st, 0), 0);
    assert_int_equal(openat(mnt, "new", O_WRONLY | O_CREAT | O_CLOEXEC, 0600), -1);
    assert_int_equal(errno, EROFS);
    (void)close(mnt);
    slot_release(s.index);
}

#define TESTS_OF(how) \
    cmocka_unit_test_setup_teardown(bad_layers_are_refused_with_a_reason, how, teardown), \
        cmocka_unit_test_setup_teardown(a_writable_root_over_three_layers, how, teardown), \
        cmocka_unit_test_setup_teardown(a_writable_root_over_as_many_layers_as_there_may_be, how, teardown), \
        cmocka_unit_test_setup_teardown(a_read_only_root_has_no_upper_layer_but_mount_points, how, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {TESTS_OF(setup), TESTS_OF(setup_by_path), TESTS_OF(setup_classic)};

    return cmocka_run_group_tests(tests, bed_group, NULL);
}
