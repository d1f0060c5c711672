/* A PID 1 for the tests of the spawner: answers words on its control socket, and takes a new one at IN_LISTEN_FD.
 *
 *   ping      pong
 *   ids       uid, gid, pid, whether the fds of the contract are open, the cgroup
 *   cat:PATH  the first bytes of a file
 *   write:PATH the errno of creating it
 *   fork      a child that sleeps for ever and ignores what it can
 *   die:N     exit(N) */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CONTROL = 3, LISTEN = 6 };

static void cat(const char *path, char *out, size_t cap)
{
    int fd = open(path, O_RDONLY);
    ssize_t n = fd >= 0 ? read(fd, out, cap - 1) : -1;

    if (n < 0)
        n = snprintf(out, cap, "error %d", errno);
    out[n] = '\0';
    for (char *p = out; *p != '\0'; p++) {
        if (*p == '\n')
            *p = '|';
    }
    if (fd >= 0)
        close(fd);
}

static void answer(char *word, char *out, size_t cap)
{
    if (strcmp(word, "ping") == 0) {
        (void)snprintf(out, cap, "pong");
    } else if (strcmp(word, "ids") == 0) {
        char cgroup[1024];
        int open_fds = 0;

        for (int fd = 0; fd < 64; fd++)
            open_fds += fcntl(fd, F_GETFD) >= 0;
        cat("/proc/self/cgroup", cgroup, sizeof cgroup);
        (void)snprintf(out, cap, "uid=%u gid=%u pid=%d fds=%d cgroup=%s", getuid(), getgid(), getpid(), open_fds,
                       cgroup);
    } else if (strncmp(word, "cat:", 4) == 0) {
        cat(word + 4, out, cap);
    } else if (strncmp(word, "write:", 6) == 0) {
        int fd = open(word + 6, O_WRONLY | O_CREAT | O_EXCL, 0600);

        (void)snprintf(out, cap, "errno=%d", fd < 0 ? errno : 0);
        if (fd >= 0)
            close(fd);
    } else if (strcmp(word, "fork") == 0) {
        if (fork() == 0) {
            (void)setsid();
            for (int s = 1; s < 32; s++)
                (void)signal(s, SIG_IGN);
            for (;;)
                (void)pause();
        }
        (void)snprintf(out, cap, "forked");
    } else if (strncmp(word, "die:", 4) == 0) {
        exit(atoi(word + 4));
    } else {
        (void)snprintf(out, cap, "what?");
    }
}

int main(void)
{
    for (;;) {
        struct pollfd p[2] = {{.fd = CONTROL, .events = POLLIN}, {.fd = LISTEN, .events = POLLIN}};
        char word[4096], out[4096];
        ssize_t n;

        (void)poll(p, 2, -1);
        if (p[1].revents != 0) {
            int fd = accept(LISTEN, NULL, NULL);

            if (fd >= 0) {
                (void)dup2(fd, CONTROL);
                close(fd);
                continue;
            }
        }
        if (p[0].revents == 0)
            continue;
        n = recv(CONTROL, word, sizeof word - 1, MSG_DONTWAIT);
        if (n <= 0) {
            (void)poll(&p[1], 1, -1); /* end of file: only a new spawner can come */
            continue;
        }
        word[n] = '\0';
        answer(word, out, sizeof out);
        (void)!send(CONTROL, out, strlen(out), MSG_NOSIGNAL);
    }
}
