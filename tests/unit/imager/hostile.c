/* Archives that want out, or want too much: each is refused with a sentence, and nothing of it stays. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <archive.h>
#include <archive_entry.h>

#include "base/err.h"
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
    DIR *d = fdopendir(dup(w.store));
    struct dirent *ent;

    (void)state;
    rewinddir(d);
    while ((ent = readdir(d)) != NULL)
        assert_int_equal(ent->d_name[0], '.'); /* no layer came of it */
    (void)closedir(d);
    world_fini(&w);
    return 0;
}

/* Runs B, which is freed, and expects this failure; WORDS must be in its message. */
static void refused_with(struct buf *b, uint64_t bytes, uint64_t entries, enum err_kind kind, const char *words)
{
    struct answer a;

    world_run(&w, b, bytes, entries, &a);
    buf_fini(b);
    assert_int_equal(a.type, IM_FAILED);
    if (strstr(a.msg, words) == NULL)
        assert_string_equal(a.msg, words);
    assert_int_equal(a.kind, kind);
}

static void refused(struct buf *b, const char *words)
{
    tar_end(b);
    refused_with(b, 0, 0, ERR_INVALID, words);
}

static void one(const struct tar_entry *e, const char *words)
{
    struct buf b = {0};

    tar_add(&b, e);
    refused(&b, words);
}

static void what_is_no_tar_is_refused(void **state)
{
    struct buf b = {0};

    (void)state;
    refused_with(&b, 0, 0, ERR_INVALID, "the input is empty");
    assert_int_equal(buf_printf(&b, "hello"), 0);
    refused_with(&b, 0, 0, ERR_INVALID, "the input is not a tar archive (plain, gzip or zstd)");
    for (int i = 0; i < 5000; i++)
        assert_int_equal(buf_printf(&b, "%d garbage\n", i * 7919), 0);
    refused_with(&b, 0, 0, ERR_INVALID, "the input is not a tar archive (plain, gzip or zstd)");
    assert_int_equal(buf_printf(&b, "hello"), 0);
    tar_compress(&b, "gzip");
    refused_with(&b, 0, 0, ERR_INVALID, "the input is not a tar archive (plain, gzip or zstd)");
    assert_int_equal(buf_append(&b, "\x1f\x8b\x08\x00garbage-garbage-garbage", 28), 0);
    refused_with(&b, 0, 0, ERR_INVALID, "damaged");
    assert_int_equal(buf_append(&b, "\x28\xb5\x2f\xfdgarbage-garbage-garbage", 27), 0);
    refused_with(&b, 0, 0, ERR_INVALID, "damaged");
}

static void dot_dot_is_refused_wherever_it_stands(void **state)
{
    (void)state;
    one(&(struct tar_entry){.name = "../canary", .data = "gone"}, "entry '../canary': a name with '..' could lead out");
    one(&(struct tar_entry){.name = "a/../../canary", .data = "gone"}, "a name with '..'");
    one(&(struct tar_entry){.name = "a/..", .type = '5'}, "a name with '..'");
    one(&(struct tar_entry){.name = "/../canary", .type = '2', .link = "x"}, "a name with '..'");
    one(&(struct tar_entry){.name = ".wh..."}, "whiteout without a name");
    one(&(struct tar_entry){.name = "a/.wh.."}, "whiteout without a name");
    one(&(struct tar_entry){.name = ".wh."}, "whiteout without a name");
    one(&(struct tar_entry){.name = ".wh.a/b", .data = "x"}, "in a directory with the name of a whiteout");
}

static void symbolic_links_are_never_walked_through(void **state)
{
    struct buf b = {0};

    (void)state;
    tar_add(&b, &(struct tar_entry){.name = "out", .type = '2', .link = "../.."});
    tar_add(&b, &(struct tar_entry){.name = "out/canary", .data = "gone"});
    refused(&b, "entry 'out/canary': its path goes through 'out', which is a symbolic link");

    /* Two links, neither of which leads out by itself. */
    tar_add(&b, &(struct tar_entry){.name = "a/b", .type = '5'});
    tar_add(&b, &(struct tar_entry){.name = "a/b/up", .type = '2', .link = "../.."});
    tar_add(&b, &(struct tar_entry){.name = "chain", .type = '2', .link = "a/b/up/.."});
    tar_add(&b, &(struct tar_entry){.name = "chain/canary", .data = "gone"});
    refused(&b, "'chain', which is a symbolic link");

    tar_add(&b, &(struct tar_entry){.name = "abs", .type = '2', .link = "/"});
    tar_add(&b, &(struct tar_entry){.name = "abs/tmp", .type = '5', .mode = 0777});
    refused(&b, "'abs', which is a symbolic link");

    /* The parent was opened for the entry before, then replaced. */
    tar_add(&b, &(struct tar_entry){.name = "d/first", .data = "1"});
    tar_add(&b, &(struct tar_entry){.name = "d", .type = '2', .link = ".."});
    tar_add(&b, &(struct tar_entry){.name = "d/second", .data = "2"});
    refused(&b, "'d', which is a symbolic link");

    tar_add(&b, &(struct tar_entry){.name = "s", .type = '2', .link = ".."});
    tar_add(&b, &(struct tar_entry){.name = "s/.wh.canary"});
    refused(&b, "'s', which is a symbolic link");
    tar_add(&b, &(struct tar_entry){.name = "s", .type = '2', .link = "."});
    tar_add(&b, &(struct tar_entry){.name = "s/.wh..wh..opq"});
    refused(&b, "'s', which is a symbolic link");
    tar_add(&b, &(struct tar_entry){.name = "file", .data = "x"});
    tar_add(&b, &(struct tar_entry){.name = "file/in", .data = "x"});
    refused(&b, "'file', which is not a directory");
}

static void hard_links_reach_only_files_of_the_layer(void **state)
{
    struct buf b = {0};

    (void)state;
    one(&(struct tar_entry){.name = "h", .type = '1', .link = "../canary"}, "hard link to a name that is refused");
    one(&(struct tar_entry){.name = "h", .type = '1', .link = "/etc/passwd"},
        "entry 'h': it is a hard link to 'etc/passwd', which is not in the archive before it");
    one(&(struct tar_entry){.name = "h", .type = '1', .link = "h"}, "hard link to itself");
    tar_add(&b, &(struct tar_entry){.name = "s", .type = '2', .link = ".."});
    tar_add(&b, &(struct tar_entry){.name = "h", .type = '1', .link = "s/canary"});
    refused(&b, "'s/canary', which is not in the archive before it");
    tar_add(&b, &(struct tar_entry){.name = "d", .type = '5'});
    tar_add(&b, &(struct tar_entry){.name = "h", .type = '1', .link = "d"});
    refused(&b, "which is a directory");
    tar_add(&b, &(struct tar_entry){.name = ".wh.gone"});
    tar_add(&b, &(struct tar_entry){.name = "h", .type = '1', .link = "gone"});
    refused(&b, "which is not in the archive before it");
    tar_add(&b, &(struct tar_entry){.name = "d/f", .data = "x"});
    tar_add(&b, &(struct tar_entry){.name = "d", .type = '1', .link = "d/f"});
    refused(&b, "which it replaces");
}

/* The victims stay outside: a link to them is made, then written "over". */
static void replacing_a_link_does_not_touch_what_it_points_to(void **state)
{
    struct buf b = {0};
    struct answer a;
    int layer;

    (void)state;
    tar_add(&b, &(struct tar_entry){.name = "l", .type = '2', .link = "../../canary"});
    tar_add(&b, &(struct tar_entry){.name = "h", .type = '1', .link = "l"});
    tar_add(&b, &(struct tar_entry){.name = "l", .data = "mine", .mode = 0777, .uid = 3});
    tar_add(&b, &(struct tar_entry){.name = "h", .data = "mine, too", .mode = 0777, .uid = 3});
    tar_end(&b);
    world_run(&w, &b, 0, 0, &a); /* checks the canary */
    buf_fini(&b);
    layer = world_layer(&w, &a);
    assert_string_equal(world_read(layer, "l"), "mine");
    (void)close(layer);
    assert_int_equal(renameat(w.store, a.digest, w.store, ".done"), 0);
}

static void owners_beyond_the_store_range_are_refused(void **state)
{
    (void)state;
    one(&(struct tar_entry){.name = "f", .uid = 65536}, "entry 'f': its owner 65536:0 is above 65535");
    one(&(struct tar_entry){.name = "f", .gid = 2000000}, "its owner 0:2000000 is above 65535");
}

static void names_beyond_the_limits_are_refused(void **state)
{
    char name[4200];

    (void)state;
    memset(name, 'n', 256);
    name[256] = '\0';
    one(&(struct tar_entry){.name = name, .data = "x"}, "a name is longer than 255 bytes");
    for (size_t i = 0; i < 4096; i++)
        name[i] = i % 2 == 0 ? 'd' : '/';
    memcpy(name + 4094, "dd", 3);
    one(&(struct tar_entry){.name = name, .data = "x"}, "the path is longer than 4095 bytes");
    name[4095] = '\0';
    one(&(struct tar_entry){.name = name, .data = "x", .uid = 65536}, "its owner");
    one(&(struct tar_entry){.name = "./.", .data = "x"}, "the root of the layer can only be a directory");
    one(&(struct tar_entry){.name = ".", .type = '2', .link = "x"}, "the root of the layer can only be a directory");
}

static void a_deep_tree_is_removed_when_the_archive_fails_late(void **state)
{
    char name[4096];
    struct buf b = {0};

    (void)state;
    for (size_t i = 0; i < 4094; i++)
        name[i] = i % 2 == 0 ? 'd' : '/';
    name[4093] = '\0';
    for (size_t n = 1; n < 4090; n += 40) {
        char c = name[n];

        name[n] = '\0';
        tar_add(&b, &(struct tar_entry){.name = name, .type = '5', .mode = 01});
        name[n] = c;
    }
    tar_add(&b, &(struct tar_entry){.name = name, .data = "x"});
    tar_add(&b, &(struct tar_entry){.name = "..", .data = "x"});
    refused(&b, "a name with '..'");
}

static void more_entries_than_the_limit_are_refused(void **state)
{
    struct buf b = {0};

    (void)state;
    for (int i = 0; i < 11; i++)
        tar_add(&b, &(struct tar_entry){.name = "same"});
    tar_end(&b);
    refused_with(&b, 0, 10, ERR_EXHAUSTED, "the archive has more than 10 entries, the limit");
}

static void more_bytes_than_the_limit_are_refused_before_they_are_written(void **state)
{
    struct buf b = {0};

    (void)state;
    tar_add(&b, &(struct tar_entry){.name = "a", .size = 600});
    tar_add(&b, &(struct tar_entry){.name = "b", .size = 401});
    tar_end(&b);
    refused_with(&b, 1000, 0, ERR_EXHAUSTED,
                 "entry 'b': with its 401 bytes the layer would be larger than its limit of 1000");
    /* The declared size alone is enough, the content may never come. */
    tar_add(&b, &(struct tar_entry){.name = "a", .raw_size = "77777777777"});
    refused_with(&b, 1000, 0, ERR_EXHAUSTED, "larger than its limit of 1000 bytes");
}

static void sizes_that_overflow_are_refused(void **state)
{
    static const char *const sizes[] = {
        "\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff",       /* 2^63 - 1 */
        "\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff",       /* 2^64 - 1 */
        "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", /* -1 */
        "\xff\0\0\0\x80\0\0\0\0\0\0\0",
    };
    struct buf b = {0};
    struct answer a;

    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        tar_add(&b, &(struct tar_entry){.name = "big", .raw_size = sizes[i]});
        tar_end(&b);
        world_run(&w, &b, 0, 0, &a);
        buf_fini(&b);
        assert_int_equal(a.type, IM_FAILED);
        assert_true(a.kind == ERR_EXHAUSTED || a.kind == ERR_INVALID);
    }
}

static la_ssize_t collect(struct archive *a, void *arg, const void *data, size_t len)
{
    (void)a;
    return buf_append(arg, data, len) == 0 ? (la_ssize_t)len : -1;
}

static void holes_count(void **state)
{
    struct archive *a = archive_write_new();
    struct archive_entry *e = archive_entry_new();
    struct buf b = {0};

    (void)state;
    assert_int_equal(archive_write_set_format_pax(a), ARCHIVE_OK);
    assert_int_equal(archive_write_open(a, &b, NULL, collect, NULL), ARCHIVE_OK);
    archive_entry_set_pathname(e, "sparse");
    archive_entry_set_filetype(e, AE_IFREG);
    archive_entry_set_size(e, 1ll << 40);
    archive_entry_sparse_add_entry(e, 0, 512);
    assert_int_equal(archive_write_header(a, e), ARCHIVE_OK);
    for (int i = 0; i < 512; i++)
        assert_int_equal(archive_write_data(a, "x", 1), 1);
    (void)archive_write_free(a); /* complains about the bytes of the hole, which nobody needs */
    archive_entry_free(e);
    assert_true(b.len < 100000);
    refused_with(&b, 0, 0, ERR_EXHAUSTED, "with its 1099511627776 bytes the layer would be larger");
}

static void a_bomb_stops_at_the_limit(void **state)
{
    struct buf b = {0};

    (void)state;
    /* 64 MiB of zeros are an empty tar with a long tail: the tail counts. */
    assert_int_equal(buf_reserve(&b, 64 << 20), 0);
    memset(b.data, 0, 64 << 20);
    b.len = 64 << 20;
    tar_compress(&b, "gzip");
    assert_true(b.len < 100000);
    refused_with(&b, 1 << 20, 100, ERR_EXHAUSTED,
                 "the archive is longer than 2506752 bytes, the most that its limits allow");

    tar_add(&b, &(struct tar_entry){.name = "zeros", .size = 64 << 20});
    tar_end(&b);
    tar_compress(&b, "zstd");
    refused_with(&b, 1 << 20, 100, ERR_EXHAUSTED, "with its 67108864 bytes the layer would be larger");

    /* A long header instead of a long file. */
    for (int i = 0; i < 2000; i++)
        assert_int_equal(buf_append(&b, "comment comment comment comment ", 32), 0);
    assert_int_equal(buf_append(&b, "", 1), 0);
    char *text = strdup((char *)b.data);
    b.len = 0;
    for (int i = 0; i < 100; i++)
        tar_add(&b, &(struct tar_entry){.name = "same", .xattr = {{"user.long", text}}});
    free(text);
    tar_end(&b);
    tar_compress(&b, "gzip");
    refused_with(&b, 1 << 20, 100, ERR_EXHAUSTED, "the archive is longer than");
}

static void a_cut_archive_is_refused_wherever_it_was_cut(void **state)
{
    struct buf b = {0};

    (void)state;
    tar_add(&b, &(struct tar_entry){.name = "a", .data = "x"});
    refused_with(&b, 0, 0, ERR_INVALID, "the archive ends without its end mark after 1 entries: it was cut off");
    tar_add(&b, &(struct tar_entry){.name = "a", .size = 5000});
    b.len = 3000;
    refused_with(&b, 0, 0, ERR_INVALID, "damaged");
    tar_add(&b, &(struct tar_entry){.name = "a", .size = 5000});
    b.len = 300;
    refused_with(&b, 0, 0, ERR_INVALID, "not a tar archive");
    for (int i = 0; i < 500; i++)
        tar_add(&b, &(struct tar_entry){.name = "a", .data = "some text", .mtime = i * 7919});
    tar_end(&b);
    tar_compress(&b, "gzip");
    b.len -= 100;
    refused_with(&b, 0, 0, ERR_INVALID, "damaged");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_no_tar_is_refused),
        cmocka_unit_test(dot_dot_is_refused_wherever_it_stands),
        cmocka_unit_test(symbolic_links_are_never_walked_through),
        cmocka_unit_test(hard_links_reach_only_files_of_the_layer),
        cmocka_unit_test(replacing_a_link_does_not_touch_what_it_points_to),
        cmocka_unit_test(owners_beyond_the_store_range_are_refused),
        cmocka_unit_test(names_beyond_the_limits_are_refused),
        cmocka_unit_test(a_deep_tree_is_removed_when_the_archive_fails_late),
        cmocka_unit_test(more_entries_than_the_limit_are_refused),
        cmocka_unit_test(more_bytes_than_the_limit_are_refused_before_they_are_written),
        cmocka_unit_test(sizes_that_overflow_are_refused),
        cmocka_unit_test(holes_count),
        cmocka_unit_test(a_bomb_stops_at_the_limit),
        cmocka_unit_test(a_cut_archive_is_refused_wherever_it_was_cut),
    };

    return world_can_run() ? cmocka_run_group_tests(tests, setup, teardown) : 77;
}
