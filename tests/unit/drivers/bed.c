#include "bed.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "spawner/drivers.h"

int bed_group(void **state)
{
    (void)state;
    if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
        (void)fprintf(stderr, "these tests make mounts, loop devices and cgroups: they need root\n");
        return -1;
    }
    return 0;
}

void bed_open(struct bed *b)
{
    memset(b, 0, sizeof *b);
    (void)snprintf(b->dir, sizeof b->dir, "/var/tmp/silica-drivers.XXXXXX");
    assert_non_null(mkdtemp(b->dir));
    assert_int_equal(chmod(b->dir, 0711), 0);
    (void)snprintf(b->state, sizeof b->state, "%s/state", b->dir);
    (void)snprintf(b->run, sizeof b->run, "%s/run", b->dir);
    assert_int_equal(mkdir(b->state, 0711), 0);
    assert_int_equal(mkdir(b->run, 0700), 0);

    char layers[96];
    (void)snprintf(layers, sizeof layers, "%s/layers", b->state);
    assert_int_equal(mkdir(layers, 0711), 0);
    b->mounts = bed_mounts();
    b->fds = bed_fds();
    b->layers_fd = open(layers, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(b->layers_fd >= 0);
}

void bed_close(struct bed *b)
{
    (void)close(b->layers_fd);
    assert_int_equal(bed_fds(), b->fds);
    assert_int_equal(bed_mounts(), b->mounts);
    assert_int_equal(bed_loops_settled(b), 0);
    bed_rm(b->dir);
    assert_int_equal(access(b->dir, F_OK), -1);
}

unsigned bed_mounts(void)
{
    FILE *f = fopen("/proc/self/mountinfo", "re");
    unsigned n = 0;
    int c;

    assert_non_null(f);
    while ((c = getc(f)) != EOF)
        n += c == '\n';
    (void)fclose(f);
    return n;
}

unsigned bed_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    unsigned n = 0;

    assert_non_null(d);
    while (readdir(d) != NULL)
        n++;
    (void)closedir(d);
    return n;
}

unsigned bed_loops(const struct bed *b)
{
    DIR *d = opendir("/sys/block");
    struct dirent *ent;
    unsigned n = 0;

    assert_non_null(d);
    while ((ent = readdir(d)) != NULL) {
        char path[320], text[512] = "";
        FILE *f;

        if (strncmp(ent->d_name, "loop", 4) != 0)
            continue;
        (void)snprintf(path, sizeof path, "/sys/block/%s/loop/backing_file", ent->d_name);
        f = fopen(path, "re");
        if (f == NULL)
            continue; /* not in use */
        n += fgets(text, sizeof text, f) != NULL && strncmp(text, b->dir, strlen(b->dir)) == 0;
        (void)fclose(f);
    }
    (void)closedir(d);
    return n;
}

unsigned bed_loops_settled(const struct bed *b)
{
    const struct timespec pause = {.tv_nsec = 20 * 1000 * 1000};
    unsigned n = 0;

    for (int i = 0; i < 100 && (n = bed_loops(b)) > 0; i++)
        (void)nanosleep(&pause, NULL);
    return n;
}

void bed_layer_dir(const struct bed *b, const char *digest)
{
    if (mkdirat(b->layers_fd, digest, 0755) < 0)
        assert_int_equal(errno, EEXIST);
    assert_int_equal(fchownat(b->layers_fd, digest, STORE_BASE, STORE_BASE, 0), 0);
}

void bed_layer_file(const struct bed *b, const char *digest, const char *path, const char *text, unsigned uid)
{
    char full[256];
    int fd;

    bed_layer_dir(b, digest);
    (void)snprintf(full, sizeof full, "%s/%s", digest, path);
    for (char *slash = strchr(full + strlen(digest) + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        (void)mkdirat(b->layers_fd, full, 0755);
        assert_int_equal(fchownat(b->layers_fd, full, STORE_BASE, STORE_BASE, 0), 0);
        *slash = '/';
    }
    fd = openat(b->layers_fd, full, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    assert_int_equal(fchown(fd, STORE_BASE + uid, STORE_BASE + uid), 0);
    (void)close(fd);
}

static int rm_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    (void)remove(path);
    return 0;
}

void bed_rm(const char *path)
{
    (void)nftw(path, rm_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}
