/* Times spawn -> IN_SPAWNED -> IN_EXITED over the control socket at fd 3. argv: rounds, program. Prints the medians of
 * "exec'd" and of "ended", then the 99th percentile of "ended", in microseconds. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "wire/in.h"

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

/* The type of the next message; its fds are closed. */
static int next(void)
{
    static _Alignas(8) char buf[WIRE_DATAGRAM_MAX];
    struct wire_msg m;
    struct pollfd p = {.fd = IN_FD, .events = POLLIN};
    int type;

    if (poll(&p, 1, 5000) != 1 || wire_recv(IN_FD, buf, sizeof buf, in_body_size, &m) != 1)
        exit(1);
    type = m.head->type;
    wire_msg_fini(&m);
    return type;
}

int main(int argc, char **argv)
{
    int n = argc > 2 ? atoi(argv[1]) : 0;
    double *up = calloc((size_t)n + 1, sizeof *up), *ended = calloc((size_t)n + 1, sizeof *ended);
    const char *args[] = {argv[2], "true", NULL}, *env[] = {"PATH=/bin", NULL};

    for (int i = 0; i < n; i++) {
        struct in_spawn s = {.kind = IN_EXEC};
        struct wire_tail tail = {0};
        struct in_ack ack = {0};
        uint64_t token = 1000000u + (unsigned)i;
        double t = now_us();

        s.cwd = wire_put_str(&tail, "/");
        s.argv = wire_put_vec(&tail, args);
        s.env = wire_put_vec(&tail, env);
        if (wire_send(IN_FD, IN_SPAWN, token, &s, sizeof s, &tail, NULL, 0) < 0 || next() != IN_SPAWNED)
            return 1;
        up[i] = now_us() - t;
        if (next() != IN_EXITED)
            return 1;
        ended[i] = now_us() - t;
        wire_tail_fini(&tail);
        if (wire_send(IN_FD, IN_ACK, token, &ack, sizeof ack, NULL, NULL, 0) < 0)
            return 1;
    }
    qsort(up, (size_t)n, sizeof *up, by_size);
    qsort(ended, (size_t)n, sizeof *ended, by_size);
    printf("%.1f %.1f %.1f\n", up[n / 2], ended[n / 2], ended[n * 99 / 100]);
    return 0;
}
