/* Stands in for init in test-rootfs.c: says what it finds, one "name=value" line after the other, on the control socket.
 * Static musl, like init. With the word "quick" as the host name it only says hello. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <termios.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "wire/in.h"

static void say(const char *name, const char *fmt, ...)
{
    char line[2048];
    va_list ap;
    int n;

    n = snprintf(line, sizeof line, "%s=", name);
    va_start(ap, fmt);
    n += vsnprintf(line + n, sizeof line - (size_t)n, fmt, ap);
    va_end(ap);
    if (n > (int)sizeof line - 1)
        n = sizeof line - 1;
    (void)!send(IN_FD, line, (size_t)n, MSG_NOSIGNAL);
}

static void say_file(const char *name, const char *path)
{
    char text[1024] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);

    if (fd >= 0)
        (void)close(fd);
    if (n < 0)
        say(name, "error %s", strerror(errno));
    else
        say(name, "%.*s", (int)n, text);
}

static void say_write(const char *name, const char *path)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0) {
        say(name, "open: %s", strerror(errno));
        return;
    }
    say(name, "%s", write(fd, "1", 1) == 1 ? "ok" : strerror(errno));
    (void)close(fd);
}

static void say_create(const char *name, const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    say(name, "%s", fd >= 0 ? "ok" : strerror(errno));
    if (fd >= 0)
        (void)close(fd);
}

static void say_dir(const char *name, const char *path)
{
    char text[1024] = "";
    struct dirent *d;
    DIR *list = opendir(path);

    if (list == NULL) {
        say(name, "error %s", strerror(errno));
        return;
    }
    while ((d = readdir(list)) != NULL) {
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0 || atoi(d->d_name) == dirfd(list))
            continue;
        if (strlen(text) + strlen(d->d_name) + 2 < sizeof text) {
            strcat(text, d->d_name);
            strcat(text, " ");
        }
    }
    (void)closedir(list);
    say(name, "%s", text);
}

static void say_devices(void)
{
    static const char *const names[] = {"null", "zero", "full", "random", "urandom", "tty"};
    char byte = 'x';

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char path[32], label[32];
        struct stat st;

        (void)snprintf(path, sizeof path, "/dev/%s", names[i]);
        (void)snprintf(label, sizeof label, "dev-%s", names[i]);
        if (stat(path, &st) < 0)
            say(label, "error %s", strerror(errno));
        else
            say(label, "%o %u:%u %u %u", st.st_mode, major(st.st_rdev), minor(st.st_rdev), st.st_uid, st.st_gid);
    }
    int fd = open("/dev/zero", O_RDWR | O_CLOEXEC);
    ssize_t n = read(fd, &byte, 1);
    say("read-zero", "%d %d", (int)n, byte);
    (void)close(fd);
    fd = open("/dev/full", O_RDWR | O_CLOEXEC);
    say("write-full", "%s", write(fd, "x", 1) < 0 ? strerror(errno) : "ok");
    (void)close(fd);
    say("mknod-mem", "%s", mknod("/dev/mem", S_IFCHR | 0666, makedev(1, 1)) < 0 ? strerror(errno) : "ok");
    say("mknod-root", "%s", mknod("/mem", S_IFCHR | 0666, makedev(1, 1)) < 0 ? strerror(errno) : "ok");
}

static void say_tty(void)
{
    int master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC), slave = -1, unlock = 0, n = -1;
    char path[32];

    if (master >= 0 && ioctl(master, TIOCSPTLCK, &unlock) == 0 && ioctl(master, TIOCGPTN, &n) == 0) {
        (void)snprintf(path, sizeof path, "/dev/pts/%d", n);
        slave = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
    }
    say("pty", "%d %s", n, slave >= 0 ? "ok" : strerror(errno));
    (void)close(master);
    (void)close(slave);
}

static void say_limits(void)
{
    struct rlimit files, core;

    (void)getrlimit(RLIMIT_NOFILE, &files);
    (void)getrlimit(RLIMIT_CORE, &core);
    say("nofile", "%d", files.rlim_cur == files.rlim_max);
    say("core", "%d", core.rlim_max <= 1);
}

static void say_fs(const char *name, const char *path)
{
    struct statfs st;

    if (statfs(path, &st) < 0)
        say(name, "error %s", strerror(errno));
    else
        say(name, "%lx %llu", (unsigned long)st.f_type,
            (unsigned long long)st.f_blocks * (unsigned long long)st.f_bsize);
}

int main(int argc, char *argv[], char *envp[])
{
    struct utsname u;
    char cwd[256];
    mqd_t q;
    mode_t mask;

    (void)uname(&u);
    if (strcmp(u.nodename, "quick") == 0) {
        say("hello", "1");
        return 0;
    }
    say("argv", "%d %s %d", argc, argv[0], envp[0] != NULL);
    say("ids", "%d %d %d %d %d", getpid(), (int)getuid(), (int)getegid(), getgroups(0, NULL), getsid(0));
    say("hostname", "%s", u.nodename);
    say("cwd", "%s", getcwd(cwd, sizeof cwd));
    mask = umask(022);
    say("umask", "%o", mask);
    say_dir("fds", "/proc/self/fd");
    for (int fd = 0; fd < 7; fd++) {
        char path[32], label[16], to[256];
        ssize_t n;

        (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        n = readlink(path, to, sizeof to - 1);
        to[n > 0 ? n : 0] = '\0';
        (void)snprintf(label, sizeof label, "fd%d", fd);
        say(label, "%s", to);
    }
    say_dir("root", "/");
    say_dir("dev", "/dev");
    say_devices();
    say_tty();
    say_limits();
    say_create("shm", "/dev/shm/x");
    say_fs("shm-size", "/dev/shm");
    q = mq_open("/q", O_RDWR | O_CREAT, 0600, NULL);
    say("mqueue", "%s", q >= 0 ? "ok" : strerror(errno));
    say_file("hosts", "/etc/hosts");
    say_file("resolv", "/etc/resolv.conf");
    say_file("etc-hostname", "/etc/hostname");
    say_write("write-hosts", "/etc/hosts");
    say_fs("proc", "/proc");
    say_fs("sys", "/sys");
    say_file("kcore", "/proc/kcore");
    say_file("keys", "/proc/keys");
    say_file("timer_list", "/proc/timer_list");
    say_dir("acpi", "/proc/acpi");
    say_file("ostype", "/proc/sys/kernel/ostype");
    say_write("write-core_pattern", "/proc/sys/kernel/core_pattern");
    say_write("write-sysrq", "/proc/sysrq-trigger");
    say_write("write-oom", "/proc/self/oom_score_adj");
    say_dir("firmware", "/sys/firmware");
    say_dir("cgroup", "/sys/fs/cgroup");
    say_create("create-cgroup", "/sys/fs/cgroup/x");
    say_create("create-sys", "/sys/kernel/x");
    say_file("port-start", "/proc/sys/net/ipv4/ip_unprivileged_port_start");
    say_dir("net", "/sys/class/net");
    say_create("create-root", "/new-file");
    say_create("create-dev", "/dev/new-file");
    say_file("own-cgroup", "/proc/self/cgroup");
    say_file("uid_map", "/proc/self/uid_map");
    say_file("mountinfo", "/proc/self/mountinfo");
    {
        FILE *f = fopen("/proc/self/mountinfo", "re");
        char line[1024];

        while (f != NULL && fgets(line, sizeof line, f) != NULL)
            say("mount", "%s", line);
    }
    say("setuid-root", "%s", faccessat(AT_FDCWD, "/etc", W_OK, AT_EACCESS) == 0 ? "writable" : strerror(errno));
    say("end", "1");
    (void)argc;
    return 7;
}
