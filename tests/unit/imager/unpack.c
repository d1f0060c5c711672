/* What an honest archive becomes. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "tar.h"
#include "world.h"

static struct world w;

static int setup(void **state)
{
    (void)state;
    world_init(&w, getenv("SILICA_IMAGER"));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    world_fini(&w);
    return 0;
}

static void digest_of(const struct buf *b, char out[65])
{
    uint8_t sum[32];

    assert_int_equal(EVP_Digest(b->data, b->len, sum, NULL, EVP_sha256(), NULL), 1);
    for (int i = 0; i < 32; i++)
        (void)snprintf(out + 2 * i, 3, "%02x", sum[i]);
}

/* Unpacks B, which is freed, and opens the layer. */
static int unpack(struct buf *b, struct answer *a)
{
    tar_end(b);
    world_run(&w, b, 0, 0, a);
    buf_fini(b);
    return world_layer(&w, a);
}

static void an_empty_archive_is_an_empty_layer_named_by_its_digest(void **state)
{
    struct buf b = {0};
    char digest[65];
    struct answer a;
    struct stat st;
    int layer;

    (void)state;
    tar_end(&b);
    digest_of(&b, digest);
    world_run(&w, &b, 0, 0, &a);
    layer = world_layer(&w, &a);
    assert_string_equal(a.digest, digest);
    assert_int_equal(a.layer.entries, 0);
    assert_int_equal(a.layer.tar_bytes, 1024);
    assert_string_equal(a.notes, "");
    st = world_stat(layer, ".");
    assert_int_equal(st.st_mode & 07777, 0755);
    assert_int_equal(st.st_uid, 0);
    assert_int_equal(st.st_gid, 0);
    (void)close(layer);
    buf_fini(&b);
}

static void the_same_content_is_stored_once_whatever_its_compression(void **state)
{
    struct buf b = {0};
    struct answer plain, gzip, zstd, again;
    int layer;

    (void)state;
    tar_add(&b, &(struct tar_entry){.name = "f", .size = 300000});
    tar_end(&b);
    world_run(&w, &b, 0, 0, &plain);
    world_run(&w, &b, 0, 0, &again);
    tar_compress(&b, "gzip");
    world_run(&w, &b, 0, 0, &gzip);
    assert_string_equal(plain.digest, again.digest);
    assert_string_equal(plain.digest, gzip.digest);
    assert_int_equal(plain.layer.tar_bytes, gzip.layer.tar_bytes);
    buf_fini(&b);

    tar_add(&b, &(struct tar_entry){.name = "f", .size = 300000});
    tar_end(&b);
    tar_compress(&b, "zstd");
    world_run(&w, &b, 0, 0, &zstd);
    assert_string_equal(plain.digest, zstd.digest);
    assert_int_equal(zstd.layer.unpacked_bytes, 300000);
    buf_fini(&b);
    layer = world_layer(&w, &zstd);
    assert_int_equal(world_stat(layer, "f").st_size, 300000);
    (void)close(layer);
}

static void owners_modes_and_times_are_kept(void **state)
{
    struct buf b = {0};
    struct answer a;
    struct stat st;
    int layer;

    (void)state;
    tar_add(&b, &(struct tar_entry){.name = "./", .type = '5', .mode = 0711, .uid = 7, .mtime = 1111});
    tar_add(&b, &(struct tar_entry){.name = "./d", .type = '5', .mode = 01777, .uid = 5, .gid = 6, .mtime = 2222});
    tar_add(&b, &(struct tar_entry){.name = "./d/su", .mode = 06755, .uid = 0, .gid = 42, .data = "x", .mtime = 3333});
    tar_add(&b, &(struct tar_entry){.name = "./d/max", .mode = 0400, .uid = 65535, .gid = 65535, .mtime = 1});
    tar_add(&b, &(struct tar_entry){.name = "./d/link", .type = '2', .link = "su", .uid = 9, .mtime = 4444});
    tar_add(&b, &(struct tar_entry){.name = "./d/fifo", .type = '6', .mode = 0620, .gid = 5, .mtime = 5555});
    tar_add(&b, &(struct tar_entry){.name = "./ro", .type = '5', .mode = 0500, .mtime = 6666});
    tar_add(&b, &(struct tar_entry){.name = "./ro/in", .data = "x"});
    layer = unpack(&b, &a);

    st = world_stat(layer, ".");
    assert_int_equal(st.st_mode & 07777, 0711);
    assert_int_equal(st.st_uid, 7);
    assert_int_equal(st.st_mtime, 1111);
    st = world_stat(layer, "d");
    assert_int_equal(st.st_mode & 07777, 01777);
    assert_int_equal(st.st_uid, 5);
    assert_int_equal(st.st_mtime, 2222);
    st = world_stat(layer, "d/su");
    assert_int_equal(st.st_mode & 07777, 06755);
    assert_int_equal(st.st_gid, 42);
    assert_int_equal(st.st_mtime, 3333);
    assert_int_equal(world_stat(layer, "d/max").st_uid, 65535);
    st = world_stat(layer, "d/link");
    assert_true(S_ISLNK(st.st_mode));
    assert_int_equal(st.st_uid, 9);
    assert_int_equal(st.st_mtime, 4444);
    st = world_stat(layer, "d/fifo");
    assert_true(S_ISFIFO(st.st_mode));
    assert_int_equal(st.st_mode & 07777, 0620);
    assert_int_equal(st.st_gid, 5);
    assert_int_equal(world_stat(layer, "ro").st_mtime, 6666);
    (void)close(layer);
}

static void hard_links_share_one_file(void **state)
{
    struct buf b = {0};
    struct answer a;
    int layer;

    (void)state;
    tar_add(&b, &(struct tar_entry){.name = "bin/a", .data = "text"});
    tar_add(&b, &(struct tar_entry){.name = "bin/b", .type = '1', .link = "./bin/a"});
    tar_add(&b, &(struct tar_entry){.name = "c", .type = '1', .link = "/bin/b"});
    layer = unpack(&b, &a);
    assert_int_equal(world_stat(layer, "c").st_ino, world_stat(layer, "bin/a").st_ino);
    assert_int_equal(world_stat(layer, "c").st_nlink, 3);
    assert_int_equal(a.layer.entries, 3);
    (void)close(layer);
}

static void later_entries_replace_earlier_ones_of_any_kind(void **state)
{
    struct buf b = {0};
    struct answer a;
    struct stat st;
    int layer;

    (void)state;
    tar_add(&b, &(struct tar_entry){.name = "x", .data = "first"});
    tar_add(&b, &(struct tar_entry){.name = "x", .data = "second"});
    tar_add(&b, &(struct tar_entry){.name = "dir/sub/deep", .data = "1"});
    tar_add(&b, &(struct tar_entry){.name = "dir", .data = "now a file"});
    tar_add(&b, &(struct tar_entry){.name = "y", .type = '2', .link = "x"});
    tar_add(&b, &(struct tar_entry){.name = "y", .type = '5', .mode = 0700});
    tar_add(&b, &(struct tar_entry){.name = "y/in", .data = "kept"});
    tar_add(&b, &(struct tar_entry){.name = "y", .type = '5', .mode = 0750});
    tar_add(&b, &(struct tar_entry){.name = "z/a", .data = "1"});
    tar_add(&b, &(struct tar_entry){.name = "z", .type = '2', .link = "y"});
    layer = unpack(&b, &a);
    assert_string_equal(world_read(layer, "x"), "second");
    assert_string_equal(world_read(layer, "dir"), "now a file");
    assert_string_equal(world_read(layer, "y/in"), "kept");
    st = world_stat(layer, "y");
    assert_int_equal(st.st_mode & 07777, 0750);
    assert_true(S_ISLNK(world_stat(layer, "z").st_mode));
    (void)close(layer);
}

static bool is_opaque(int layer, const char *path)
{
    char c = 0;
    int fd = openat(layer, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool r = fgetxattr(fd, "user.overlay.opaque", &c, 1) == 1 && c == 'y';

    (void)close(fd);
    return r;
}

static bool is_whiteout(int layer, const char *path)
{
    struct stat st = world_stat(layer, path);

    return S_ISCHR(st.st_mode) && st.st_rdev == makedev(0, 0);
}

static void whiteouts_hide_lower_layers_and_never_this_one(void **state)
{
    struct buf b = {0};
    struct answer a;
    int layer;

    (void)state;
    tar_add(&b, &(struct tar_entry){.name = "etc/.wh.gone"});
    tar_add(&b, &(struct tar_entry){.name = "opaque/.wh..wh..opq"});
    tar_add(&b, &(struct tar_entry){.name = "mine", .data = "mine"});
    tar_add(&b, &(struct tar_entry){.name = ".wh.mine"});
    tar_add(&b, &(struct tar_entry){.name = "fresh/a", .data = "a"});
    tar_add(&b, &(struct tar_entry){.name = ".wh.fresh"});
    tar_add(&b, &(struct tar_entry){.name = ".wh.again"});
    tar_add(&b, &(struct tar_entry){.name = "again", .type = '5'});
    tar_add(&b, &(struct tar_entry){.name = ".wh.implied"});
    tar_add(&b, &(struct tar_entry){.name = "implied/a", .data = "a"});
    tar_add(&b, &(struct tar_entry){.name = ".wh.file"});
    tar_add(&b, &(struct tar_entry){.name = "file", .data = "file"});
    tar_add(&b, &(struct tar_entry){.name = ".wh..wh.plnk"});
    tar_add(&b, &(struct tar_entry){.name = ".wh..wh..opq"});
    tar_add(&b, &(struct tar_entry){.name = "plain", .type = '5'});
    layer = unpack(&b, &a);
    assert_true(is_whiteout(layer, "etc/gone"));
    assert_true(is_opaque(layer, "opaque"));
    assert_string_equal(world_read(layer, "mine"), "mine");
    assert_string_equal(world_read(layer, "fresh/a"), "a");
    assert_true(is_opaque(layer, "fresh"));
    assert_true(is_opaque(layer, "again"));
    assert_true(is_opaque(layer, "implied"));
    assert_string_equal(world_read(layer, "file"), "file");
    assert_false(is_opaque(layer, "plain"));
    assert_false(is_opaque(layer, "."));
    assert_int_equal(faccessat(layer, ".wh..wh.plnk", F_OK, AT_SYMLINK_NOFOLLOW), -1);
    assert_int_equal(faccessat(layer, "opaque/.wh..wh..opq", F_OK, AT_SYMLINK_NOFOLLOW), -1);
    assert_non_null(strstr(a.notes, "opaque mark"));
    (void)close(layer);
}

static void attributes_that_mean_something_to_overlays_are_removed_and_counted(void **state)
{
    static const char caps[] = "\1\1\1\2\4\1\1\1\1\1\1\1\1\1\1\1\1\1\1\1"; /* no NUL may be in a record's value here */
    struct buf b = {0};
    struct answer a;
    char value[32] = "";
    int layer, fd;

    (void)state;
    tar_add(&b, &(struct tar_entry){
                    .name = "d",
                    .type = '5',
                    .xattr = {{"user.overlay.opaque", "y"}, {"trusted.overlay.opaque", "y"}, {"user.dir", "ok"}}});
    tar_add(&b, &(struct tar_entry){
                    .name = "f",
                    .data = "x",
                    .xattr = {{"user.kept", "value"}, {"security.selinux", "label"}, {"user.overlay.redirect", "/"}}});
    tar_add(&b, &(struct tar_entry){.name = "l", .type = '2', .link = "f", .xattr = {{"user.on.link", "x"}}});
    tar_add(&b, &(struct tar_entry){.name = "badcap", .data = "x", .xattr = {{"security.capability", caps}}});
    layer = unpack(&b, &a);
    assert_int_equal(a.layer.stripped_xattrs, 6);
    assert_non_null(strstr(a.notes, "6 extended attributes were removed"));
    assert_false(is_opaque(layer, "d"));
    fd = openat(layer, "f", O_RDONLY | O_CLOEXEC);
    assert_int_equal(fgetxattr(fd, "user.kept", value, sizeof value), 5);
    assert_string_equal(value, "value");
    (void)close(fd);
    fd = openat(layer, "d", O_RDONLY | O_CLOEXEC);
    assert_int_equal(fgetxattr(fd, "user.dir", value, sizeof value), 2);
    assert_int_equal(fgetxattr(fd, "trusted.overlay.opaque", value, sizeof value), -1);
    (void)close(fd);
    (void)close(layer);
}

static void file_capabilities_are_kept_for_the_store_range(void **state)
{
    /* struct vfs_cap_data, revision 2: CAP_NET_RAW permitted and effective. As a pax record with NULs in it. */
    static const uint8_t caps[20] = {1, 0, 0, 2, 0, 0x20};
    static const char key[] = "50 SCHILY.xattr.security.capability=";
    struct buf b = {0}, pax = {0};
    struct answer a;
    uint32_t v3[6];
    int layer, fd;

    (void)state;
    assert_int_equal(buf_printf(&pax, "%zu SCHILY.xattr.security.capability=", sizeof key - 1 + sizeof caps + 1), 0);
    assert_int_equal(buf_append(&pax, caps, sizeof caps), 0);
    assert_int_equal(buf_append(&pax, "\n", 2), 0);
    tar_add(&b, &(struct tar_entry){.name = "PaxHeaders/x", .data = (char *)pax.data, .size = pax.len - 1});
    b.data[156] = 'x'; /* the type; the checksum follows */
    (void)memset(b.data + 148, ' ', 8);
    unsigned sum = 0;
    for (int i = 0; i < 512; i++)
        sum += b.data[i];
    (void)snprintf((char *)b.data + 148, 7, "%06o", sum);
    tar_add(&b, &(struct tar_entry){.name = "ping", .mode = 0755, .uid = 3, .data = "x"});
    layer = unpack(&b, &a);
    assert_int_equal(a.layer.stripped_xattrs, 0);
    fd = openat(layer, "ping", O_RDONLY | O_CLOEXEC);
    assert_int_equal(fgetxattr(fd, "security.capability", v3, sizeof v3), 24);
    assert_int_equal(v3[0], 0x03000001);
    assert_int_equal(v3[1], 0x2000);
    assert_int_equal(v3[5], WORLD_UID_BASE);
    (void)close(fd);
    (void)close(layer);
    buf_fini(&pax);
}

static void names_keep_their_bytes(void **state)
{
    /* "e" with a combining accent: some readers of archives would compose it. And bytes that are no UTF-8 at all. */
    static const char *const names[] = {"cafe\xcc\x81", "caf\xc3\xa9", "\xff\xfe bad", "new\nline", " ", "-rf", "a\\b"};
    char longer[200];
    struct buf b = {0};
    struct answer a;
    int layer;

    (void)state;
    memset(longer, 'n', sizeof longer);
    memcpy(longer + 190, "e\xcc\x81", 4);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        tar_add(&b, &(struct tar_entry){.name = names[i], .data = names[i]});
    tar_add(&b, &(struct tar_entry){.name = longer, .data = "long"});
    tar_add(&b, &(struct tar_entry){.name = "l", .type = '2', .link = longer});
    layer = unpack(&b, &a);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_string_equal(world_read(layer, names[i]), names[i]);
    assert_string_equal(world_read(layer, longer), "long");
    assert_int_equal(world_stat(layer, "l").st_size, strlen(longer));
    (void)close(layer);
}

static void devices_are_left_out_and_reported(void **state)
{
    struct buf b = {0};
    struct answer a;
    int layer;

    (void)state;
    tar_add(&b, &(struct tar_entry){.name = "dev/null", .type = '3'});
    tar_add(&b, &(struct tar_entry){.name = "dev/sda", .type = '4'});
    tar_add(&b, &(struct tar_entry){.name = "ok"});
    layer = unpack(&b, &a);
    assert_int_equal(a.layer.skipped_devices, 2);
    assert_string_equal(a.notes,
                        "2 device nodes were left out, sandboxes get their own /dev (the first is 'dev/null')\n");
    assert_int_equal(faccessat(layer, "dev/null", F_OK, AT_SYMLINK_NOFOLLOW), -1);
    (void)close(layer);
}

static void a_hundred_thousand_entries_are_fine(void **state)
{
    struct buf b = {0};
    struct answer a;
    char name[64];

    (void)state;
    for (int i = 0; i < 100000; i++) {
        (void)snprintf(name, sizeof name, "d%d/sub", i % 100); /* few inodes: the disk is not what is tested */
        tar_add(&b, &(struct tar_entry){.name = name, .type = '5'});
    }
    (void)close(unpack(&b, &a));
    assert_int_equal(a.layer.entries, 100000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_archive_is_an_empty_layer_named_by_its_digest),
        cmocka_unit_test(the_same_content_is_stored_once_whatever_its_compression),
        cmocka_unit_test(owners_modes_and_times_are_kept),
        cmocka_unit_test(hard_links_share_one_file),
        cmocka_unit_test(later_entries_replace_earlier_ones_of_any_kind),
        cmocka_unit_test(whiteouts_hide_lower_layers_and_never_this_one),
        cmocka_unit_test(attributes_that_mean_something_to_overlays_are_removed_and_counted),
        cmocka_unit_test(file_capabilities_are_kept_for_the_store_range),
        cmocka_unit_test(names_keep_their_bytes),
        cmocka_unit_test(devices_are_left_out_and_reported),
        cmocka_unit_test(a_hundred_thousand_entries_are_fine),
    };

    return world_can_run() ? cmocka_run_group_tests(tests, setup, teardown) : 77;
}
