/* The greedy program of tests/abuse: processes, memory, processor, disk and output without measure, one kind for each first
 * argument. Runs inside a sandbox only. */
#include "outcome.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int fork_bomb(int seconds)
{
    double end = now() + seconds;
    long made = 0;

    signal(SIGTERM, SIG_IGN);
    while (now() < end) {
        pid_t pid = fork();

        if (pid > 0)
            made++;
        if (pid < 0)
            usleep(1000);
    }
    (void)made;
    pause();
    return 0;
}

static void *idle(void *arg)
{
    (void)arg;
    pause();
    return NULL;
}

static int thread_bomb(void)
{
    pthread_attr_t attr;
    pthread_t t;
    long n = 0;
    int r;

    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 16 << 10);
    while ((r = pthread_create(&t, &attr, idle, NULL)) == 0 && n < 200000)
        n++;
    printf("threads: %ld\nlast: %s\n", n, name_of(r));
    return 0;
}

static int children(int n) /* how many processes there can be: each waits for the end of a pipe */
{
    int p[2], made = 0;
    char c;

    if (pipe(p) < 0)
        return 1;
    for (; made < n; made++) {
        pid_t pid = fork();

        if (pid < 0)
            break;
        if (pid == 0) {
            close(p[1]);
            (void)!read(p[0], &c, 1);
            _exit(0);
        }
    }
    printf("children: %d\nlast: %s\n", made, made < n ? name_of(errno) : "ok");
    return 0;
}

static int memory(char *kind, long mib)
{
    char name[64], *p;
    long done = 0;
    int fd = -1, i;

    fprintf(stderr, "%s\n", kind);
    if (strcmp(kind, "anon") == 0 || strcmp(kind, "mlock") == 0) {
        for (; done < mib; done++) {
            p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (p == MAP_FAILED || (kind[0] == 'm' && mlock(p, 1 << 20) < 0))
                break;
            memset(p, 1, 1 << 20);
        }
    } else if (strcmp(kind, "tmpfs") == 0 || strcmp(kind, "memfd") == 0) {
        static char block[1 << 20];

        memset(block, 1, sizeof block);
        fd = kind[0] == 'm' ? memfd_create("x", 0) : open("/dev/shm/big", O_CREAT | O_WRONLY, 0600);
        for (; done < mib; done++)
            if (write(fd, block, sizeof block) != sizeof block)
                break;
    } else if (strcmp(kind, "cache") == 0) { /* page cache: must be reclaimed, never the end of the sandbox */
        static char block[1 << 20];

        for (; done < mib; done++) {
            if (done % 64 == 0) {
                snprintf(name, sizeof name, "/tmp/cache");
                fd = open(name, O_CREAT | O_TRUNC | O_WRONLY, 0600);
            }
            if (write(fd, block, sizeof block) != sizeof block)
                break;
        }
    } else if (strcmp(kind, "pipes") == 0) {
        static char block[65536];

        for (; done < mib; done++)
            for (i = 0; i < 16; i++) {
                int p2[2];

                if (pipe2(p2, O_NONBLOCK) < 0)
                    goto out;
                if (write(p2[1], block, sizeof block) < 0)
                    goto out;
            }
    } else if (strcmp(kind, "sockets") == 0) {
        static char block[65536];

        for (; done < mib; done++)
            for (i = 0; i < 8; i++) {
                int s[2];

                if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s) < 0)
                    goto out;
                while (write(s[0], block, sizeof block) > 0)
                    ;
            }
    } else if (strcmp(kind, "slab") == 0) { /* about a KiB of kernel memory each */
        for (; done < mib; done++)
            for (i = 0; i < 1024; i++) {
                int e = i % 3 == 0 ? epoll_create1(0) : i % 3 == 1 ? eventfd(0, 0) : inotify_init();

                if (e < 0)
                    goto out;
            }
    } else if (strcmp(kind, "dentries") == 0) { /* names that do not exist: unbounded but reclaimable */
        for (; done < mib; done++)
            for (i = 0; i < 4096; i++) {
                snprintf(name, sizeof name, "/tmp/no-%ld-%d", done, i);
                (void)!access(name, F_OK);
            }
    } else if (strcmp(kind, "huge") == 0) {
        p = mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
        done = p == MAP_FAILED ? 0 : mib;
    } else {
        return 2;
    }
out:
    printf("mib: %ld\nlast: %s\n", done, name_of(errno));
    return 0;
}

static void tick(int signo)
{
    (void)signo;
}

static void *spin(void *arg)
{
    volatile uint64_t n = 0;

    for (;;)
        n++;
    return arg;
}

static int hog(int threads)
{
    struct itimerspec fast = {{0, 1000}, {0, 1000}};
    struct sigevent sev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGALRM};
    pthread_t t;
    timer_t timer;

    say("nice -20", setpriority(PRIO_PROCESS, 0, -20));
    say("fifo", syscall(SYS_sched_setscheduler, 0, SCHED_FIFO, &(int){50}));
    say("rr", syscall(SYS_sched_setscheduler, 0, SCHED_RR, &(int){1}));
    {
        struct {
            uint32_t size, policy;
            uint64_t flags;
            int32_t nice;
            uint32_t priority;
            uint64_t runtime, deadline, period;
        } deadline = {48, 6, 0, 0, 0, 900000, 1000000, 1000000};

        say("deadline", syscall(SYS_sched_setattr, 0, &deadline, 0));
    }
    say("ioprio rt", syscall(SYS_ioprio_set, 1, 0, 1 << 13));
    printf("spinning: ok\n");
    fflush(stdout);
    signal(SIGALRM, tick);
    for (int i = 0; i < 4; i++)
        if (timer_create(CLOCK_MONOTONIC, &sev, &timer) == 0)
            timer_settime(timer, 0, &fast, NULL);
    for (int i = 1; i < threads; i++)
        pthread_create(&t, NULL, spin, NULL);
    spin(NULL);
    return 0;
}

static int fsync_storm(int seconds)
{
    double end = now() + seconds;
    char block[4096] = {0};
    long n = 0;
    int fd = open("/tmp/storm", O_CREAT | O_WRONLY, 0600), slash = open("/", O_RDONLY);

    printf("storm: ok\n");
    fflush(stdout);
    while (now() < end) {
        (void)!pwrite(fd, block, sizeof block, (n % 1000) * 4096);
        fsync(fd);
        sync();
        syncfs(slash);
        n++;
    }
    printf("syncs: %ld\n", n);
    return 0;
}

/* MIB of bytes: in lines of no end, or one by one. */
static int output(char *how, long mib)
{
    static char block[1 << 20];

    if (strcmp(how, "bytes") == 0) {
        for (long i = 0; i < mib << 20; i++)
            if (write(1, "x", 1) != 1)
                return 1;
        return 0;
    }
    for (size_t i = 0; i < sizeof block; i++)
        block[i] = (char)i; /* binary, no line ends of use */
    for (long i = 0; i < mib; i++)
        for (size_t done = 0; done < sizeof block;) {
            ssize_t n = write(1, block + done, sizeof block - done);

            if (n <= 0)
                return 1;
            done += (size_t)n;
        }
    return 0;
}

/* N orphans, as fast as they come. They die at once: PID 1 has to bury them. */
static int orphans(long n)
{
    long made = 0;

    while (made < n) {
        pid_t pid = fork();

        if (pid == 0) {
            /* A child that leaves children behind: ten orphans for one wait of ours. */
            for (int i = 0; i < 10; i++)
                if (fork() == 0)
                    _exit(0);
            _exit(0);
        }
        if (pid < 0) {
            usleep(1000);
            continue;
        }
        waitpid(pid, NULL, 0);
        made += 10;
    }
    printf("orphans: %ld\n", made);
    return 0;
}

/* A daemon as the books teach, that ignores everything it can and keeps our stdout. */
static int stubborn(void)
{
    if (fork() > 0)
        return 0;
    setsid();
    if (fork() > 0)
        _exit(0);
    for (int s = 1; s < 65; s++)
        signal(s, SIG_IGN);
    prctl(PR_SET_NAME, "stubborn");
    if (fork() == 0)
        for (;;)
            pause();
    for (;;)
        pause();
}

static int inotify(int n)
{
    int made = 0, watches = 0;
    char path[64];

    for (; made < n; made++) {
        int fd = inotify_init1(0);

        if (fd < 0)
            break;
        snprintf(path, sizeof path, "/tmp/w%d", made);
        mkdir(path, 0700);
        watches += inotify_add_watch(fd, path, IN_ALL_EVENTS) >= 0;
    }
    printf("instances: %d\nwatches: %d\n", made, watches);
    fflush(stdout);
    pause();
    return 0;
}

int main(int argc, char **argv)
{
    const char *c = argc > 1 ? argv[1] : "";
    char *a2 = argc > 2 ? argv[2] : "0", *a3 = argc > 3 ? argv[3] : "0";

#define CASE(name, call) \
    if (strcmp(c, name) == 0) \
    return call
    CASE("fork-bomb", fork_bomb(atoi(a2)));
    CASE("thread-bomb", thread_bomb());
    CASE("children", children(atoi(a2)));
    CASE("memory", memory(a2, atol(a3)));
    CASE("hog", hog(atoi(a2)));
    CASE("fsync-storm", fsync_storm(atoi(a2)));
    CASE("output", output(a2, atol(a3)));
    CASE("orphans", orphans(atol(a2)));
    CASE("stubborn", stubborn());
    CASE("inotify", inotify(atoi(a2)));
    return 64;
}
