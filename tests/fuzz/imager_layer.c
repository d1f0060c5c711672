/* deps: imager */
/* Any bytes as a layer, unpacked by the real code into a directory in memory: outside of it nothing may change. The first byte
 * says whether headers get their checksum made right (else few inputs would come far), and whether the limits are tight. */
#include <assert.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "imager/layer.h"
#include "imager/tree.h"

enum { FIX_SUMS = 1, TIGHT = 2, INPUT_MAX = 64 << 10 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char base_name[] = "/dev/shm/silica-fuzz-XXXXXX";
static int base = -1;

static void leave(void)
{
    int shm = open("/dev/shm", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct err e;

    (void)tree_remove(shm, base_name + strlen("/dev/shm/"), &e);
    (void)close(shm);
}

static void enter(void)
{
    int fd;

    assert(mkdtemp(base_name) != NULL);
    base = open(base_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    fd = openat(base, "canary", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert(base >= 0 && fd >= 0 && write(fd, "untouched", 9) == 9);
    (void)close(fd);
    (void)atexit(leave);
    (void)umask(0);
}

static void check_outside(void)
{
    char text[16] = "";
    int fd = openat(base, "canary", O_RDONLY | O_NOFOLLOW | O_CLOEXEC), entries = 0;
    DIR *d = fdopendir(openat(base, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    struct stat st;

    assert(read(fd, text, sizeof text) == 9 && strcmp(text, "untouched") == 0);
    assert(fstat(fd, &st) == 0 && st.st_nlink == 1 && st.st_uid == geteuid() && (st.st_mode & 07777) == 0600);
    (void)close(fd);
    while (readdir(d) != NULL)
        entries++;
    (void)closedir(d);
    assert(entries == 4); /* ".", "..", "canary", "layer" */
}

/* Makes every block that a reader would take for a header look like one. */
static void fix_sums(uint8_t *p, size_t len)
{
    for (size_t at = 0; at + 512 <= len;) {
        uint8_t *h = p + at;
        unsigned sum = 0;
        char size[13] = "";

        memcpy(h + 257, "ustar\00000", 8);
        memset(h + 148, ' ', 8);
        for (int i = 0; i < 512; i++)
            sum += h[i];
        (void)snprintf((char *)h + 148, 7, "%06o", sum);
        memcpy(size, h + 124, 12);
        at += 512 + ((strtoul(size, NULL, 8) & 0xffff) + 511) / 512 * 512;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t buf[INPUT_MAX + 1024];
    struct layer_limits limits = {.bytes = 1 << 20, .entries = 200};
    struct layer_result res = {0};
    struct err e = {0};
    int fd, dir;

    if (base < 0)
        enter();
    if (size < 1 || size > INPUT_MAX)
        return 0;
    if ((data[0] & TIGHT) != 0)
        limits = (struct layer_limits){.bytes = 600, .entries = 3, .dirs_bytes = 64};
    memset(buf, 0, sizeof buf);
    memcpy(buf, data + 1, size - 1);
    if ((data[0] & FIX_SUMS) != 0)
        fix_sums(buf, size - 1);

    fd = memfd_create("tar", MFD_CLOEXEC);
    /* With an end mark: what comes before is to count, not that there is none. */
    assert(fd >= 0 && write(fd, buf, (size + 510) / 512 * 512 + 1024) > 0 && lseek(fd, 0, SEEK_SET) == 0);
    assert(mkdirat(base, "layer", 0755) == 0);
    dir = openat(base, "layer", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (layer_unpack(dir, fd, &limits, &res, &e) < 0) {
        assert(e.code < 0 && e.kind != ERR_NONE && e.msg[0] != '\0');
        for (const char *p = e.msg; *p != '\0'; p++)
            assert((unsigned char)*p >= 0x20 && (unsigned char)*p < 0x7f);
    } else {
        assert(strlen(res.digest) == 64 && res.entries <= limits.entries && res.unpacked_bytes <= limits.bytes);
    }
    (void)close(dir);
    (void)close(fd);
    check_outside();
    assert(tree_remove(base, "layer", &e) == 0);
    return 0;
}
