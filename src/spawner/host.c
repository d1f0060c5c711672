/* The spawner's own place on the host: its mount namespace, its directories and locks, the programs it starts. */
#include "spawner/spawner.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <poll.h>
#include <pwd.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include "base/clock.h"
#include "base/id.h"

/* ---- facts -------------------------------------------------------------------------------------------------------- */

/* Reads a small file; always NUL-terminated. Returns its length or a negative errno. */
static ssize_t read_small(int dirfd, const char *path, char *buf, size_t cap)
{
    AUTO_FD fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);
    size_t len = 0;

    buf[0] = '\0';
    if (fd < 0)
        return -errno;
    while (len + 1 < cap) {
        ssize_t n = read(fd, buf + len, cap - 1 - len);

        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        len += (size_t)n;
    }
    buf[len] = '\0';
    return (ssize_t)len;
}

/* A number of /proc/PID/stat, by its place in proc(5); 0 when there is no such process. */
static uint64_t proc_stat(pid_t pid, int place)
{
    char path[40], buf[1024], *p;

    (void)snprintf(path, sizeof path, "/proc/%d/stat", pid);
    if (read_small(AT_FDCWD, path, buf, sizeof buf) <= 0)
        return 0;
    p = strrchr(buf, ')'); /* the name may hold anything, a ')' too */
    for (int field = 2; p != NULL && field < place; field++) {
        p = strchr(p, ' ');
        if (p != NULL)
            p++;
    }
    return p != NULL ? strtoull(p, NULL, 10) : 0;
}

uint64_t proc_start_ticks(pid_t pid)
{
    return proc_stat(pid, 22);
}

bool proc_is_child(pid_t pid)
{
    return proc_stat(pid, 4) == (uint64_t)getpid();
}

static void add_nameserver(struct spawner *sp, const char *word, size_t len)
{
    char addr[BOX_DNS_LEN];
    unsigned char bin[sizeof(struct in6_addr)];
    size_t used = strlen(sp->host_resolv);

    if (len == 0 || len >= sizeof addr || used + len + 2 > sizeof sp->host_resolv)
        return;
    memcpy(addr, word, len);
    addr[len] = '\0';
    /* A resolver on the host's loopback is out of a sandbox's reach. */
    if (strncmp(addr, "127.", 4) == 0 || strcmp(addr, "::1") == 0)
        return;
    if (inet_pton(AF_INET, addr, bin) != 1 && inet_pton(AF_INET6, addr, bin) != 1)
        return;
    (void)snprintf(sp->host_resolv + used, sizeof sp->host_resolv - used, "%s%s", used > 0 ? " " : "", addr);
}

static void read_nameservers(struct spawner *sp, const char *path)
{
    char buf[8192], *save = NULL;

    if (read_small(AT_FDCWD, path, buf, sizeof buf) <= 0)
        return;
    for (char *line = strtok_r(buf, "\n", &save); line != NULL; line = strtok_r(NULL, "\n", &save)) {
        static const char key[] = "nameserver";

        if (strncmp(line, key, sizeof key - 1) != 0)
            continue;
        line += sizeof key - 1;
        line += strspn(line, " \t");
        add_nameserver(sp, line, strcspn(line, " \t\r#"));
    }
}

void host_facts(struct spawner *sp)
{
    struct passwd *pw = getpwnam("silica");

    sp->daemon_uid = pw != NULL ? pw->pw_uid : DAEMON_UID_DEFAULT;
    sp->daemon_gid = pw != NULL ? pw->pw_gid : DAEMON_UID_DEFAULT;
    (void)read_small(AT_FDCWD, "/proc/sys/kernel/random/boot_id", sp->boot_id, sizeof sp->boot_id);
    sp->boot_id[strcspn(sp->boot_id, "\n")] = '\0';
    read_nameservers(sp, "/etc/resolv.conf");
    if (sp->host_resolv[0] == '\0')
        read_nameservers(sp, "/run/systemd/resolve/resolv.conf"); /* where systemd-resolved names the true ones */
}

/* ---- directories and locks ---------------------------------------------------------------------------------------- */

int mkdir_owned(int dirfd, const char *path, mode_t mode, uint32_t uid, struct err *e)
{
    AUTO_FD fd = -1;
    struct stat st;

    if (mkdirat(dirfd, path, 0700) < 0 && errno != EEXIST)
        return err_set(e, errno, "make directory '%s': %m", path);
    fd = openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_set(e, errno, "open directory '%s': %m", path);
    if ((st.st_uid != uid || st.st_gid != uid) && fchown(fd, uid, uid) < 0)
        return err_set(e, errno, "give directory '%s' to uid %u: %m", path, uid);
    if ((st.st_mode & 07777) != mode && fchmod(fd, mode) < 0)
        return err_set(e, errno, "set the mode of directory '%s': %m", path);
    return take_fd(&fd);
}

static int mkdir_parents(const char *path, struct err *e)
{
    char part[PATH_MAX];

    if (strlen(path) >= sizeof part - 64)
        return err_typed(e, ERR_INVALID, NULL, "the path '%.80s...' is too long", path);
    for (const char *p = path + 1; (p = strchr(p, '/')) != NULL; p++) {
        (void)snprintf(part, sizeof part, "%.*s", (int)(p - path), path);
        if (mkdir(part, 0755) < 0 && errno != EEXIST)
            return err_set(e, errno, "make directory '%s': %m", part);
    }
    return 0;
}

static int make_sub(int dirfd, const char *name, mode_t mode, uint32_t uid, int *ret_fd, struct err *e)
{
    int fd = mkdir_owned(dirfd, name, mode, uid, e);

    if (fd < 0)
        return fd;
    if (ret_fd != NULL)
        *ret_fd = fd;
    else
        fd_close(fd);
    return 0;
}

static int read_runner_id(struct spawner *sp, struct err *e)
{
    AUTO_FD fd = -1;
    char text[RUNNER_ID_MAX];

    if (read_small(sp->state_fd, "runner-id", text, sizeof text) > 0) {
        text[strcspn(text, "\n")] = '\0';
        if (box_id_ok(text)) {
            memcpy(sp->runner_id, text, sizeof sp->runner_id);
            return 0;
        }
    }
    id_new(sp->runner_id, "run");
    fd = openat(sp->state_fd, "runner-id", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0 || dprintf(fd, "%s\n", sp->runner_id) < 0)
        return err_set(e, errno, "write '%s/runner-id': %m", sp->opt.state_dir);
    return 0;
}

/* Names our cgroups and network interfaces: the same for every daemon of one run dir, short enough for an interface. */
static void make_tag(struct spawner *sp)
{
    char real[PATH_MAX];
    uint32_t h = 2166136261u;

    if (realpath(sp->opt.run_dir, real) == NULL)
        (void)snprintf(real, sizeof real, "%s", sp->opt.run_dir);
    for (const char *p = real; *p != '\0'; p++)
        h = (h ^ (uint8_t)*p) * 16777619u;
    (void)snprintf(sp->tag, sizeof sp->tag, "%08x", h);
}

int host_dirs(struct spawner *sp, struct err *e)
{
    if (make_sub(AT_FDCWD, sp->opt.state_dir, 0711, 0, &sp->state_fd, e) < 0 ||
        make_sub(AT_FDCWD, sp->opt.run_dir, 0700, 0, &sp->run_fd, e) < 0 ||
        make_sub(sp->state_fd, "db", 0700, sp->daemon_uid, NULL, e) < 0 ||
        make_sub(sp->state_fd, "logs", 0700, sp->daemon_uid, NULL, e) < 0 ||
        make_sub(sp->state_fd, "layers", 0700, STORE_BASE, &sp->layers_fd, e) < 0 ||
        make_sub(sp->run_fd, "box", 0700, 0, &sp->box_fd, e) < 0)
        return e->code;
    make_tag(sp);
    return read_runner_id(sp, e);
}

/* A POSIX lock: it belongs to this process alone (children never hold it) and survives an exec. */
static int lock_file(int dirfd, const char *name, const char *dir, const char *what, int *ret_fd, struct err *e)
{
    for (;;) {
        struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
        AUTO_FD fd = openat(dirfd, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
        struct stat st;

        if (fd < 0)
            return err_set(e, errno, "open '%s/%s': %m", dir, name);
        if (fcntl(fd, F_SETLK, &fl) < 0) {
            pid_t owner = 0;

            if (fcntl(fd, F_GETLK, &fl) == 0 && fl.l_type != F_UNLCK)
                owner = fl.l_pid;
            return err_typed(e, ERR_PRECONDITION, NULL, "another silicad (process %d) uses the %s '%s'", owner, what,
                             dir);
        }
        if (fstat(fd, &st) == 0 && st.st_nlink == 0)
            continue; /* its last owner removed it just before we had the lock: the lock is on nothing */
        *ret_fd = take_fd(&fd);
        return 0;
    }
}

int host_lock(struct spawner *sp, struct err *e)
{
    char text[24];
    int n;

    if (sp->run_lock >= 0)
        return 0; /* handed over by the image before this one */
    if (lock_file(sp->run_fd, "silicad.pid", sp->opt.run_dir, "run directory", &sp->run_lock, e) < 0 ||
        lock_file(sp->state_fd, "lock", sp->opt.state_dir, "state directory", &sp->state_lock, e) < 0)
        return e->code;
    n = snprintf(text, sizeof text, "%d\n", getpid());
    if (ftruncate(sp->run_lock, 0) < 0 || pwrite(sp->run_lock, text, (size_t)n, 0) != n)
        return err_set(e, errno, "write '%s/silicad.pid': %m", sp->opt.run_dir);
    return 0;
}

/* ---- the mount namespace ------------------------------------------------------------------------------------------ */

enum { NEEDED_MAX = 24, MOUNTS_MAX = 4096 };

/* True when PATH lies at or below MOUNT. */
static bool below(const char *path, const char *mount)
{
    size_t n = strlen(mount);

    return strcmp(mount, "/") == 0 || (strncmp(path, mount, n) == 0 && (path[n] == '\0' || path[n] == '/'));
}

static bool mount_needed(const char *mount, char needed[][PATH_MAX], unsigned count)
{
    if (below(mount, "/sys/fs/cgroup"))
        return true;
    for (unsigned i = 0; i < count; i++) {
        if (below(needed[i], mount))
            return true;
    }
    return false;
}

static unsigned list_needed(const struct spawner *sp, char needed[][PATH_MAX])
{
    const char *notify = getenv("NOTIFY_SOCKET");
    const char *const paths[] = {
        "/proc",
        "/sys/fs/cgroup",
        "/dev",
        "/run",
        "/etc/resolv.conf",
        "/usr/lib",
        "/usr/libexec",
        "/usr/sbin",
        "/usr/bin",
        "/lib",
        "/lib64",
        "/bin",
        "/etc/ssl",
        "/etc/passwd",
        "/proc/self/exe",
        sp->opt.state_dir,
        sp->opt.run_dir,
        sp->opt.server,
        sp->opt.imager,
        notify != NULL && notify[0] == '/' ? notify : NULL,
    };
    unsigned n = 0;

    _Static_assert(ARRAY_LEN(paths) <= NEEDED_MAX, "room for every path");
    for (unsigned i = 0; i < ARRAY_LEN(paths); i++) {
        if (paths[i] != NULL && realpath(paths[i], needed[n]) != NULL)
            n++;
    }
    return n;
}

/* Mount points in /proc/self/mountinfo write blanks as \040. */
static void unescape(char *s)
{
    char *out = s;

    for (; *s != '\0'; s++) {
        if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] != '\0' && s[3] != '\0') {
            *out++ = (char)((s[1] - '0') * 64 + (s[2] - '0') * 8 + (s[3] - '0'));
            s += 3;
        } else {
            *out++ = *s;
        }
    }
    *out = '\0';
}

/* The cost of CLONE_NEWNS grows with the mount table (70 microseconds a hundred mounts), so everything the spawner and
 * its children have no use for is detached here. Other namespaces do not notice. */
static void drop_mounts(const struct spawner *sp)
{
    char(*needed)[PATH_MAX] = calloc(NEEDED_MAX, sizeof *needed);
    FILE *f = fopen("/proc/self/mountinfo", "re");
    char *line = NULL, *points[MOUNTS_MAX];
    size_t cap = 0;
    unsigned count = 0, need;

    if (needed != NULL && f != NULL) {
        while (count < MOUNTS_MAX && getline(&line, &cap, f) > 0) {
            char *save = NULL, *word = strtok_r(line, " ", &save);

            for (int i = 0; i < 4 && word != NULL; i++)
                word = strtok_r(NULL, " ", &save);
            if (word != NULL && (points[count] = strdup(word)) != NULL)
                unescape(points[count++]);
        }
        need = list_needed(sp, needed);
        while (count > 0) {
            char *point = points[--count]; /* last mounted first: children go before their parents */

            if (!mount_needed(point, needed, need))
                (void)umount2(point, MNT_DETACH | UMOUNT_NOFOLLOW); /* one that stays costs a microsecond */
            free(point);
        }
    }
    free(line);
    if (f != NULL)
        (void)fclose(f);
    free(needed);
}

int host_mounts(struct spawner *sp, struct err *e)
{
    /* They must exist before the mounts they lie on can be told from the others. */
    if (mkdir_parents(sp->opt.state_dir, e) < 0 || mkdir_parents(sp->opt.run_dir, e) < 0)
        return e->code;
    if (mkdir(sp->opt.state_dir, 0711) < 0 && errno != EEXIST)
        return err_set(e, errno, "make '%s': %m", sp->opt.state_dir);
    if (mkdir(sp->opt.run_dir, 0700) < 0 && errno != EEXIST)
        return err_set(e, errno, "make '%s': %m", sp->opt.run_dir);
    if (sp->opt.resume_fd == 0) { /* the image before this one has made it already */
        if (unshare(CLONE_NEWNS) < 0)
            return err_set(e, errno, "make a mount namespace: %m");
        if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
            return err_set(e, errno, "make the mount namespace private: %m");
        drop_mounts(sp);
    }
    sp->netns_fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (sp->netns_fd < 0)
        return err_set(e, errno, "open the network namespace of the host: %m");
    return 0;
}

/* ---- programs ----------------------------------------------------------------------------------------------------- */

/* Opened once, as root: the daemon's uid need not be able to reach the folder. */
static int open_program(const char *given, const char *name, int *ret_fd, struct err *e)
{
    char exe[PATH_MAX], path[PATH_MAX + 64];
    static const char *const places[] = {"", "../libexec/silica/"};
    ssize_t n;

    if (given != NULL) {
        *ret_fd = open(given, O_RDONLY | O_CLOEXEC);
        return *ret_fd >= 0 ? 0 : err_set(e, errno, "open '%s': %m", given);
    }
    n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n < 0)
        return err_set(e, errno, "find my own program file: %m");
    exe[n] = '\0';
    *(strrchr(exe, '/') + 1) = '\0';
    for (unsigned i = 0; i < ARRAY_LEN(places); i++) {
        (void)snprintf(path, sizeof path, "%s%s%s", exe, places[i], name);
        *ret_fd = open(path, O_RDONLY | O_CLOEXEC);
        if (*ret_fd >= 0)
            return 0;
    }
    return err_set(e, ENOENT,
                   "there is no %s beside silicad ('%s') nor in ../libexec/silica: the installation is incomplete",
                   name, exe);
}

/* Init runs from a sealed copy in memory: /proc/1/exe of a sandbox leads to nothing that could be overwritten, and an
 * upgrade of the file does not reach into sandboxes that are being made. */
static int seal_program(int file, int *ret_fd, struct err *e)
{
    AUTO_FD fd =
        (int)syscall(SYS_memfd_create, "silica-init", MFD_CLOEXEC | MFD_ALLOW_SEALING | 0x0010U /* MFD_EXEC */);
    char buf[65536];
    ssize_t n;

    if (fd < 0 && errno == EINVAL) /* kernels before 6.3 have no MFD_EXEC: every memfd may be executed */
        fd = (int)syscall(SYS_memfd_create, "silica-init", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return err_set(e, errno, "memory for silica-init: %m");
    while ((n = read(file, buf, sizeof buf)) > 0) {
        if (write(fd, buf, (size_t)n) != n)
            return err_set(e, errno, "copy silica-init: %m");
    }
    if (n < 0)
        return err_set(e, errno, "read silica-init: %m");
    if (fchmod(fd, 0555) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0)
        return err_set(e, errno, "seal silica-init: %m");
    *ret_fd = take_fd(&fd);
    return 0;
}

int host_programs(struct spawner *sp, struct err *e)
{
    AUTO_FD init = -1;

    if (open_program(sp->opt.server, "silica-server", &sp->program_server, e) < 0 ||
        open_program(sp->opt.imager, "silica-imager", &sp->program_imager, e) < 0 ||
        open_program(sp->opt.init, "silica-init", &init, e) < 0)
        return e->code;
    return seal_program(init, &sp->program_init, e);
}

/* ---- sockets ------------------------------------------------------------------------------------------------------ */

static int listen_one(struct spawner *sp, const char *word, int *ret_fd, struct err *e)
{
    struct sockaddr_storage addr;
    AUTO_FD fd = -1;
    unsigned len;
    bool loopback;
    int one = 1;

    if (listen_parse(word, &addr, &len, &loopback, e) < 0)
        return e->code;
    if (!loopback && !sp->opt.insecure_listen)
        return err_typed(
            e, ERR_PERMISSION, NULL,
            "refusing to listen on %s: other machines could reach it, and there are no API keys, so anybody "
            "there could run programs here. Listen on a loopback address, or say --insecure-listen if that "
            "is what you want",
            word);
    fd = socket(addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_set(e, errno, "socket for %s: %m", word);
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one); /* only for a quick restart */
    if (addr.ss_family == AF_INET6)
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one); /* [::] beside 0.0.0.0 */
    if (bind(fd, (struct sockaddr *)&addr, len) < 0)
        return err_set(e, errno, "bind %s: %m", word);
    if (listen(fd, SOMAXCONN) < 0)
        return err_set(e, errno, "listen on %s: %m", word);
    *ret_fd = take_fd(&fd);
    return 0;
}

int host_listen(struct spawner *sp, struct err *e)
{
    for (unsigned i = 0; i < sp->opt.listen_count; i++) {
        if (sp->listen_fds[i] < 0 && listen_one(sp, sp->opt.listen[i], &sp->listen_fds[i], e) < 0)
            return e->code;
    }
    return 0;
}

void host_notify(struct spawner *sp, const char *text)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    AUTO_FD fd = -1;
    size_t len;

    (void)sp;
    if (path == NULL || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof un.sun_path)
        return;
    len = strlen(path);
    memcpy(un.sun_path, path, len);
    if (path[0] == '@')
        un.sun_path[0] = '\0';
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && sendto(fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT, (struct sockaddr *)&un,
                          (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)) < 0)
        log_warn(NULL, "the service manager could not be told '%s': %s", text, strerror(errno));
}

/* ---- a silica-server that outlived its spawner -------------------------------------------------------------------- */

void host_write_server_pid(struct spawner *sp, pid_t pid)
{
    AUTO_FD fd = openat(sp->run_fd, "server", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    if (fd < 0 || dprintf(fd, "%d %llu\n", pid, (unsigned long long)proc_start_ticks(pid)) < 0)
        log_warn(NULL, "cannot write '%s/server': %s", sp->opt.run_dir, strerror(errno));
}

void host_end_old_server(struct spawner *sp)
{
    char text[64];
    AUTO_FD pidfd = -1;
    struct pollfd p;
    unsigned long long ticks;
    int pid;

    if (read_small(sp->run_fd, "server", text, sizeof text) <= 0 || sscanf(text, "%d %llu", &pid, &ticks) != 2 ||
        pid <= 1 || ticks == 0)
        return;
    /* The pidfd first: after it the start time proves whom it names. */
    pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (pidfd < 0 || proc_start_ticks(pid) != ticks)
        return;
    /* It sees the end of its socket and ends by itself; a hung one is killed. Nothing else runs here yet, so waiting is fine. */
    p = (struct pollfd){.fd = pidfd, .events = POLLIN};
    if (poll(&p, 1, 3000) == 0) {
        log_warn(NULL, "the silica-server of an earlier silicad (process %d) does not end; killing it", pid);
        (void)syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
        (void)poll(&p, 1, 5000);
    }
}
