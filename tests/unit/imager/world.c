#include "world.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "imager/tree.h"

#define CANARY "untouched"

bool world_can_run(void)
{
    const char *must = getenv("TESTS_MUST_RUN");

    if (geteuid() == 0)
        return true;
    (void)fprintf(stderr, "needs root\n");
    if (must != NULL && strcmp(must, "1") == 0)
        exit(1);
    return false;
}

static int open_file(const char *dir, const char *name, int flags)
{
    char path[128];

    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    return open(path, flags | O_CLOEXEC, 0644);
}

void world_init(struct world *w, const char *imager)
{
    char path[128];
    int fd;

    (void)snprintf(w->dir, sizeof w->dir, "/tmp/silica-imager-XXXXXX");
    assert_non_null(mkdtemp(w->dir));
    assert_int_equal(chmod(w->dir, 0711), 0);
    (void)snprintf(path, sizeof path, "%s/store", w->dir);
    assert_int_equal(mkdir(path, 0711), 0);
    assert_int_equal(chown(path, WORLD_UID_BASE, WORLD_UID_BASE), 0);
    w->store = open_file(w->dir, "store", O_RDONLY | O_DIRECTORY);
    assert_true(w->store >= 0);
    fd = open_file(w->dir, "canary", O_WRONLY | O_CREAT);
    assert_int_equal(write(fd, CANARY, strlen(CANARY)), strlen(CANARY));
    /* Within reach of the imager's ids, so that only its own care protects it. */
    assert_int_equal(fchown(fd, WORLD_UID_BASE, WORLD_UID_BASE), 0);
    (void)close(fd);
    assert_non_null(imager); /* SILICA_IMAGER, set by meson */
    w->imager = imager;
}

void world_fini(struct world *w)
{
    const char *name = strrchr(w->dir, '/') + 1;
    int tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct err e;

    (void)close(w->store);
    assert_int_equal(tree_remove(tmp, name, &e), 0);
    (void)close(tmp);
}

static void write_map(pid_t pid, const char *which)
{
    char path[64], line[64];
    int fd, n;

    (void)snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, which);
    n = snprintf(line, sizeof line, "0 %d 65536\n", WORLD_UID_BASE);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_int_equal(write(fd, line, (size_t)n), n);
    (void)close(fd);
}

/* In the first process of the pid namespace. Only calls that may fail visibly: the test sees no answer then. */
static void exec_imager(const struct world *w, int input, int result, uint64_t max_bytes, uint64_t max_entries)
{
    char bytes[32], entries[32];
    const int fds[] = {fcntl(input, F_DUPFD, 20), fcntl(result, F_DUPFD, 20), fcntl(w->store, F_DUPFD, 20)};

    (void)snprintf(bytes, sizeof bytes, "%llu", (unsigned long long)max_bytes);
    (void)snprintf(entries, sizeof entries, "%llu", (unsigned long long)max_entries);
    for (int i = 0; i < 3; i++)
        (void)dup2(fds[i], 3 + i);
    (void)close_range(6, ~0U, 0);
    (void)execl(w->imager, w->imager, "layer", "--max-bytes", bytes, "--max-entries", entries, NULL);
    _exit(126);
}

static void outer(const struct world *w, int sync, int input, int result, uint64_t max_bytes, uint64_t max_entries)
{
    char c = 0;
    pid_t pid;
    int status;

    /* The test's end of the archive's pipe, above all: as long as it is open here, the imager waits for more. */
    for (int fd = 3; fd < 256; fd++) {
        if (fd != sync && fd != input && fd != result && fd != w->store)
            (void)close(fd);
    }
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC) < 0 ||
        write(sync, &c, 1) != 1 || read(sync, &c, 1) != 1 || setgroups(0, NULL) < 0 || setgid(0) < 0 || setuid(0) < 0)
        _exit(125);
    pid = fork();
    if (pid == 0)
        exec_imager(w, input, result, max_bytes, max_entries);
    (void)close(result);
    (void)close(input);
    if (write(sync, &pid, sizeof pid) != sizeof pid || waitpid(pid, &status, 0) != pid)
        _exit(125);
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

void world_start(struct world *w, int input, uint64_t max_bytes, uint64_t max_entries, struct running *ret)
{
    int sync[2], result[2];
    char c;

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sync), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, result), 0);
    ret->outer = fork();
    if (ret->outer == 0)
        outer(w, sync[1], input, result[1], max_bytes, max_entries);
    (void)close(sync[1]);
    (void)close(result[1]);
    assert_int_equal(read(sync[0], &c, 1), 1);
    write_map(ret->outer, "uid_map");
    write_map(ret->outer, "gid_map");
    assert_int_equal(write(sync[0], &c, 1), 1);
    assert_int_equal(read(sync[0], &ret->imager, sizeof ret->imager), sizeof ret->imager);
    (void)close(sync[0]);
    ret->result = result[0];
}

void world_wait(struct running *r, struct answer *ret)
{
    static _Alignas(8) uint8_t buf[WIRE_DATAGRAM_MAX];
    struct wire_msg m = {0};
    bool bad = false;
    int status, got;

    *ret = (struct answer){0};
    got = wire_recv(r->result, buf, sizeof buf, im_body_size, &m);
    assert_true(got >= 0);
    if (got == 1 && m.head->type == IM_LAYER) {
        const char **notes;

        ret->type = IM_LAYER;
        ret->layer = *(const struct im_layer *)m.body;
        (void)snprintf(ret->digest, sizeof ret->digest, "%s", wire_get_str(&m, ret->layer.digest, &bad));
        notes = wire_get_vec(&m, ret->layer.notes, 64, &bad);
        for (const char **n = notes; n != NULL && *n != NULL; n++)
            (void)snprintf(ret->notes + strlen(ret->notes), sizeof ret->notes - strlen(ret->notes), "%s\n", *n);
        free(notes);
    } else if (got == 1) {
        const struct im_failed *f = m.body;

        ret->type = IM_FAILED;
        ret->kind = f->kind;
        assert_true(f->code < 0);
        (void)snprintf(ret->msg, sizeof ret->msg, "%s", wire_get_str(&m, f->msg, &bad));
    }
    assert_false(bad);
    wire_msg_fini(&m);
    assert_int_equal(waitpid(r->outer, &status, 0), r->outer);
    if (got == 1)
        assert_int_equal(status, 0);
    (void)close(r->result);
}

static void check_canary(struct world *w)
{
    char text[32] = "";
    int fd = open_file(w->dir, "canary", O_RDONLY);
    struct stat st;

    assert_int_equal(read(fd, text, sizeof text - 1), strlen(CANARY));
    assert_string_equal(text, CANARY);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_nlink, 1);
    assert_int_equal(st.st_mode & 07777, 0644);
    (void)close(fd);
}

bool world_has_tmp(struct world *w)
{
    DIR *d = fdopendir(openat(w->store, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    struct dirent *ent;
    bool found = false;

    while ((ent = readdir(d)) != NULL)
        found |= strncmp(ent->d_name, ".tmp-", 5) == 0;
    (void)closedir(d);
    return found;
}

void world_run(struct world *w, const struct buf *archive, uint64_t max_bytes, uint64_t max_entries, struct answer *ret)
{
    int fd = memfd_create("archive", MFD_CLOEXEC);
    struct running r;

    for (size_t at = 0; at < archive->len;) {
        ssize_t n = write(fd, archive->data + at, archive->len - at);

        assert_true(n > 0);
        at += (size_t)n;
    }
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    world_start(w, fd, max_bytes != 0 ? max_bytes : 1 << 30, max_entries != 0 ? max_entries : 1000000, &r);
    world_wait(&r, ret);
    (void)close(fd);
    assert_false(world_has_tmp(w));
    check_canary(w);
}

int world_layer(struct world *w, const struct answer *a)
{
    int fd;

    if (a->type != IM_LAYER)
        print_message("answer: %s\n", a->msg);
    assert_string_equal(a->msg, "");
    assert_int_equal(a->type, IM_LAYER);
    fd = openat(w->store, a->digest, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

struct stat world_stat(int layer, const char *path)
{
    struct stat st = {0};

    assert_int_equal(fstatat(layer, path, &st, AT_SYMLINK_NOFOLLOW), 0);
    st.st_uid -= WORLD_UID_BASE;
    st.st_gid -= WORLD_UID_BASE;
    return st;
}

const char *world_read(int layer, const char *path)
{
    static char text[256];
    int fd = openat(layer, path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    ssize_t n;

    assert_true(fd >= 0);
    n = read(fd, text, sizeof text - 1);
    assert_true(n >= 0);
    text[n] = '\0';
    (void)close(fd);
    return text;
}
