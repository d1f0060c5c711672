/* What an exec costs at the least: vfork + execve + wait of a program, timed where this runs. Outside for a peer that is a
 * program of its own (bwrap, docker), inside a sandbox for the floor of an exec there.
 *
 * usage: floor ROUNDS PAUSE PROGRAM [ARG...]. PAUSE: milliseconds between rounds. One line per round: microseconds. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int main(int argc, char **argv)
{
    int rounds = argc > 3 ? atoi(argv[1]) : 0, pause_ms = rounds > 0 ? atoi(argv[2]) : 0;
    const struct timespec gap = {pause_ms / 1000, pause_ms % 1000 * 1000000L};
    double *us = calloc((size_t)rounds + 1, sizeof *us);

    if (rounds <= 0 || us == NULL)
        return 2;
    for (int i = 0; i < rounds; i++) {
        uint64_t t0 = now_ns();
        int status;
        pid_t pid = vfork();

        if (pid == 0) {
            (void)execv(argv[3], argv + 3);
            _exit(127);
        }
        if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
            return 1;
        us[i] = (double)(now_ns() - t0) / 1e3;
        if (pause_ms > 0)
            (void)nanosleep(&gap, NULL); /* cut short: the next round begins early */
    }
    for (int i = 0; i < rounds; i++)
        (void)printf("%.1f\n", us[i]);
    free(us);
    return 0;
}
