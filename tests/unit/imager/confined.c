/* The imager as a process: what it can reach, and what it leaves behind when it is not allowed to end well. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tar.h"
#include "world.h"

static struct world w;
static int pipe_in; /* write end of the archive's pipe */
static struct running r;

/* Starts an imager that has read one entry and waits for more. */
static int setup(void **state)
{
    struct buf b = {0};
    int fds[2];

    (void)state;
    world_init(&w, getenv("SILICA_IMAGER"));
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    pipe_in = fds[1];
    world_start(&w, fds[0], 1 << 20, 100, &r);
    (void)close(fds[0]);
    tar_add(&b, &(struct tar_entry){.name = "first", .data = "x"});
    assert_int_equal(write(pipe_in, b.data, b.len), (ssize_t)b.len);
    buf_fini(&b);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    world_fini(&w);
    return 0;
}

static void pause_ms(int ms)
{
    (void)poll(NULL, 0, ms);
}

/* The only child of PID, waited for. */
static pid_t child_of(pid_t pid)
{
    char path[64];
    int child = 0;

    (void)snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)pid, (int)pid);
    for (int i = 0; i < 500 && child == 0; i++) {
        FILE *f = fopen(path, "re");

        if (f == NULL || fscanf(f, "%d", &child) != 1)
            pause_ms(10);
        if (f != NULL)
            (void)fclose(f);
    }
    assert_true(child > 0);
    return child;
}

static void field_of(pid_t pid, const char *key, char *out, size_t cap)
{
    char path[64], line[256];
    FILE *f;

    (void)snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    f = fopen(path, "re");
    assert_non_null(f);
    out[0] = '\0';
    while (fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, key, strlen(key)) == 0 && line[strlen(key)] == ':')
            (void)snprintf(out, cap, "%s", strtok(line + strlen(key) + 1, " \t\n"));
    }
    (void)fclose(f);
}

static void expect(pid_t pid, const char *key, const char *value)
{
    char got[64];

    /* It confines itself while we look. */
    for (int i = 0; i < 500; i++) {
        field_of(pid, key, got, sizeof got);
        if (strcmp(got, value) == 0)
            return;
        pause_ms(10);
    }
    assert_string_equal(got, value);
}

static void link_of(pid_t pid, const char *what, char out[256])
{
    char path[64];
    ssize_t n;

    (void)snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, what);
    n = readlink(path, out, 255);
    out[n > 0 ? n : 0] = '\0';
}

static void finish(void)
{
    struct buf b = {0};
    struct answer a;

    tar_end(&b);
    assert_int_equal(write(pipe_in, b.data, b.len), (ssize_t)b.len);
    buf_fini(&b);
    (void)close(pipe_in);
    world_wait(&r, &a);
    (void)close(world_layer(&w, &a));
    assert_false(world_has_tmp(&w));
}

static void the_unpacker_sees_nothing_but_its_directory(void **state)
{
    static const char prefix[] = "/store/.tmp-";
    pid_t pid = child_of(r.imager);
    char link[256], path[64], name[300];
    struct dirent *ent;
    DIR *d;

    (void)state;
    expect(pid, "Seccomp", "2");
    expect(pid, "NoNewPrivs", "1");
    expect(pid, "CapEff", "000000008000001b");
    expect(pid, "CapBnd", "000000008000001b");
    link_of(pid, "root", link);
    assert_non_null(strstr(link, prefix));
    (void)snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    d = opendir(path);
    assert_non_null(d);
    while ((ent = readdir(d)) != NULL) {
        (void)snprintf(name, sizeof name, "fd/%s", ent->d_name);
        if (ent->d_name[0] == '.')
            continue;
        link_of(pid, name, link);
        if (strncmp(link, w.dir, strlen(w.dir)) == 0)
            assert_non_null(strstr(link, prefix)); /* of the store it has only this */
    }
    (void)closedir(d);

    expect(r.imager, "Seccomp", "2");
    expect(r.imager, "NoNewPrivs", "1");
    expect(r.imager, "CapEff", "000000008000001b");
    finish();
}

static void when_the_asker_leaves_nothing_stays(void **state)
{
    pid_t pid = child_of(r.imager);
    int status;

    (void)state;
    assert_true(world_has_tmp(&w));
    (void)close(r.result);
    assert_int_equal(waitpid(r.outer, &status, 0), r.outer);
    assert_false(world_has_tmp(&w));
    assert_int_equal(kill(pid, 0), -1);
    (void)close(pipe_in);
}

static void a_killed_unpacker_is_reported_and_cleaned_up(void **state)
{
    struct answer a;

    (void)state;
    assert_int_equal(kill(child_of(r.imager), SIGSEGV), 0);
    world_wait(&r, &a);
    assert_int_equal(a.type, IM_FAILED);
    assert_string_equal(a.msg, "the unpacker was killed by signal 11");
    assert_false(world_has_tmp(&w));
    (void)close(pipe_in);
}

static void a_stop_and_a_continue_change_nothing(void **state)
{
    pid_t pids[2] = {r.imager, child_of(r.imager)};

    (void)state;
    expect(pids[0], "Seccomp", "2");
    expect(pids[1], "Seccomp", "2");
    for (int i = 0; i < 2; i++)
        assert_int_equal(kill(pids[i], SIGSTOP), 0);
    for (int i = 0; i < 2; i++)
        expect(pids[i], "State", "T");
    for (int i = 0; i < 2; i++)
        assert_int_equal(kill(pids[i], SIGCONT), 0);
    pause_ms(50);
    finish();
}

static void the_next_imager_removes_what_a_killed_one_left(void **state)
{
    struct buf b = {0};
    struct answer a;
    int status, busy;

    (void)state;
    (void)child_of(r.imager);
    assert_int_equal(kill(r.imager, SIGKILL), 0);
    assert_int_equal(waitpid(r.outer, &status, 0), r.outer);
    (void)close(r.result);
    (void)close(pipe_in);
    assert_true(world_has_tmp(&w));

    /* One that somebody still works on is not touched. */
    assert_int_equal(mkdirat(w.store, ".tmp-busy", 0755), 0);
    busy = openat(w.store, ".tmp-busy", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(fchown(busy, WORLD_UID_BASE, WORLD_UID_BASE), 0);
    assert_int_equal(flock(busy, LOCK_EX), 0);
    tar_end(&b);
    int fd = memfd_create("tar", MFD_CLOEXEC);
    assert_int_equal(write(fd, b.data, b.len), (ssize_t)b.len);
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    world_start(&w, fd, 1 << 20, 100, &r);
    world_wait(&r, &a);
    (void)close(world_layer(&w, &a));
    assert_int_equal(faccessat(w.store, ".tmp-busy", F_OK, 0), 0);
    (void)close(busy);
    assert_int_equal(unlinkat(w.store, ".tmp-busy", AT_REMOVEDIR), 0);
    assert_false(world_has_tmp(&w));
    (void)close(fd);
    buf_fini(&b);
}

static void wrong_arguments_are_explained(void **state)
{
    static const char *const wrong[][6] = {
        {"layer", NULL},
        {"layer", "--max-bytes", "0", "--max-entries", "1", NULL},
        {"layer", "--max-bytes", "-1", "--max-entries", "1", NULL},
        {"layer", "--max-bytes", "1x", "--max-entries", "1", NULL},
        {"image", "--max-bytes", "1", "--max-entries", "1", NULL},
        {"--what", NULL},
    };

    (void)state;
    finish();
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        pid_t pid = fork();
        int status;

        if (pid == 0) {
            const char *argv[8] = {"silica-imager"};

            for (int k = 0; k < 6 && wrong[i][k] != NULL; k++)
                argv[k + 1] = wrong[i][k];
            (void)dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), 2);
            (void)execv(w.imager, (char *const *)argv);
            _exit(126);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 2);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_unpacker_sees_nothing_but_its_directory, setup, teardown),
        cmocka_unit_test_setup_teardown(when_the_asker_leaves_nothing_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(a_killed_unpacker_is_reported_and_cleaned_up, setup, teardown),
        cmocka_unit_test_setup_teardown(a_stop_and_a_continue_change_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(the_next_imager_removes_what_a_killed_one_left, setup, teardown),
        cmocka_unit_test_setup_teardown(wrong_arguments_are_explained, setup, teardown),
    };

    return world_can_run() ? cmocka_run_group_tests(tests, NULL, NULL) : 77;
}
