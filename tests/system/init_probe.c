/* What test_init.py runs inside of a sandbox; static, so that the root file system can be almost empty. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static int bench_child(void *arg)
{
    char *argv[] = {(char *)arg, "true", NULL}, *env[] = {NULL};

    execve(argv[0], argv, env);
    _exit(127);
}

/* The floor under an exec: vfork + execve + wait of this same program. Prints the median in microseconds. */
static int bench(char *self, int n)
{
    static char stack[65536] __attribute__((aligned(16)));
    double *took = calloc((size_t)n, sizeof *took);

    for (int i = 0; i < n; i++) {
        double t = now_us();
        int status, pid = clone(bench_child, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, self);

        if (pid < 0 || waitpid(pid, &status, 0) != pid)
            return 1;
        took[i] = now_us() - t;
    }
    qsort(took, (size_t)n, sizeof *took, by_size);
    printf("%.1f %.1f\n", took[n / 2], took[n * 99 / 100]);
    return 0;
}

/* N children of children that end after their parent has. */
static int orphans(int n)
{
    for (int i = 0; i < n; i++) {
        int pid = fork();

        if (pid < 0)
            return 1;
        if (pid == 0) {
            if (fork() == 0)
                _exit(0);
            _exit(0);
        }
        waitpid(pid, NULL, 0);
    }
    return 0;
}

/* Never gives up, unlike a shell's. */
static int bomb(void)
{
    for (;;)
        (void)!fork();
}

static int make_socket(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    strncpy(a.sun_path, path, sizeof a.sun_path - 1);
    return bind(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&a, sizeof a) < 0;
}

static int storm(int sig)
{
    puts("up");
    fflush(stdout);
    for (;;)
        (void)kill(-1, sig);
}

/* Says "hi" to the first who connects to PORT of loopback. */
static int greet(int family, int port)
{
    struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_in6 a6 = {
        .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int one = 1, fd = socket(family, SOCK_STREAM, 0), c;

    a4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, family == AF_INET ? (struct sockaddr *)&a4 : (struct sockaddr *)&a6,
             family == AF_INET ? sizeof a4 : sizeof a6) < 0 ||
        listen(fd, 1) < 0)
        return 1;
    puts("ready");
    fflush(stdout);
    c = accept(fd, NULL, NULL);
    return write(c, "hi\n", 3) == 3 ? 0 : 1;
}

static int try_clone3(void)
{
    long r = syscall(SYS_clone3, NULL, 0);

    printf("%d\n", r < 0 ? errno : 0);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 2 || strcmp(argv[1], "true") == 0)
        return 0;
    if (strcmp(argv[1], "bench") == 0)
        return bench(argv[0], atoi(argv[2]));
    if (strcmp(argv[1], "orphans") == 0)
        return orphans(atoi(argv[2]));
    if (strcmp(argv[1], "clone3") == 0)
        return try_clone3();
    if (strcmp(argv[1], "bomb") == 0)
        return bomb();
    if (strcmp(argv[1], "socket") == 0)
        return make_socket(argv[2]);
    if (strcmp(argv[1], "storm") == 0)
        return storm(atoi(argv[2]));
    if (strcmp(argv[1], "greet4") == 0)
        return greet(AF_INET, atoi(argv[2]));
    if (strcmp(argv[1], "greet6") == 0)
        return greet(AF_INET6, atoi(argv[2]));
    if (strcmp(argv[1], "abort") == 0)
        abort();
    return 2;
}
