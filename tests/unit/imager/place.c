/* The unpacking library in this process (under the sanitizers, too): limits that need a place of their own. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "imager/layer.h"
#include "imager/path.h"
#include "imager/tree.h"
#include "tar.h"
#include "world.h"

static int archive_fd(struct buf *b)
{
    int fd = memfd_create("tar", MFD_CLOEXEC);

    tar_end(b);
    assert_int_equal(write(fd, b->data, b->len), (ssize_t)b->len);
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    buf_fini(b);
    return fd;
}

static void names_of_directories_have_a_limit(void **state)
{
    const struct layer_limits limits = {.bytes = 1000, .entries = 1000, .dirs_bytes = 100};
    char dir[] = "/tmp/silica-place-XXXXXX";
    struct layer_result res;
    struct buf b = {0};
    struct err e;
    int fd, in, tmp;

    (void)state;
    assert_non_null(mkdtemp(dir));
    fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int i = 0; i < 10; i++)
        tar_add(&b, &(struct tar_entry){.name = "directory", .type = '5'});
    in = archive_fd(&b);
    assert_true(layer_unpack(fd, in, &limits, &res, &e) < 0);
    assert_int_equal(e.kind, ERR_EXHAUSTED);
    assert_string_equal(e.msg, "entry 'directory': the names of the archive's directories need more than 100 bytes");
    (void)close(in);
    (void)close(fd);
    tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(tree_remove(tmp, strrchr(dir, '/') + 1, &e), 0);
    (void)close(tmp);
}

/* In a child with a mount namespace of its own: a store of 1 MiB. */
static void a_full_disk_is_told_in_words(void **state)
{
    const struct layer_limits limits = {.bytes = 1 << 30, .entries = 1000};
    char dir[] = "/tmp/silica-place-XXXXXX", text[ERR_MSG_MAX] = "";
    struct buf b = {0};
    int status, in, out[2];
    pid_t pid;

    (void)state;
    assert_non_null(mkdtemp(dir));
    tar_add(&b, &(struct tar_entry){.name = "big", .size = 4 << 20});
    in = archive_fd(&b);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    pid = fork();
    if (pid == 0) {
        struct layer_result res;
        struct err e = {0};
        int fd;

        if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
            mount("tmpfs", dir, "tmpfs", 0, "size=1m") < 0)
            _exit(2);
        fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (layer_unpack(fd, in, &limits, &res, &e) == 0 || e.kind != ERR_EXHAUSTED)
            _exit(3);
        _exit(write(out[1], e.msg, strlen(e.msg)) > 0 ? 0 : 4);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_true(read(out[0], text, sizeof text - 1) > 0);
    assert_string_equal(text, "entry 'big': cannot write the file: the disk that holds the layers is full");
    (void)close(in);
    (void)close(out[0]);
    (void)close(out[1]);
    assert_int_equal(rmdir(dir), 0);
}

static void names_are_cleaned(void **state)
{
    static const char *const cases[][2] = {
        {"/", ""},      {"./", ""},
        {".", ""},      {"a", "a"},
        {"/a", "a"},    {"./a/./b//c/", "a/b/c"},
        {"...", "..."}, {"a/.b/..c", "a/.b/..c"},
    };
    char out[PATH_CLEAN_MAX];
    struct err e;

    (void)state;
    assert_true(path_clean("", out, &e) < 0);
    assert_true(path_clean(NULL, out, &e) < 0);
    assert_true(path_clean("..", out, &e) < 0);
    assert_true(path_clean("a/../b", out, &e) < 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(path_clean(cases[i][0], out, &e), 0);
        assert_string_equal(out, cases[i][1]);
    }
}

static void names_in_messages_cannot_break_lines_or_terminals(void **state)
{
    char out[PATH_SHOW_MAX], longer[500];

    (void)state;
    assert_string_equal(path_show("a\n\x1b[31m'\\\xff", out), "'a\\x0a\\x1b[31m\\x27\\x5c\\xff'");
    memset(longer, '\n', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    assert_true(strlen(path_show(longer, out)) < PATH_SHOW_MAX);
    assert_string_equal(out + strlen(out) - 4, "...'");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_of_directories_have_a_limit),
        cmocka_unit_test(a_full_disk_is_told_in_words),
        cmocka_unit_test(names_are_cleaned),
        cmocka_unit_test(names_in_messages_cannot_break_lines_or_terminals),
    };

    return world_can_run() ? cmocka_run_group_tests(tests, NULL, NULL) : 77;
}
