/* Time, in nanoseconds: wall (for people and records) and monotonic (for timers and durations). */
#pragma once

#include <stdint.h>
#include <time.h>

#define NSEC_PER_SEC 1000000000ull
#define NSEC_PER_MSEC 1000000ull

static inline uint64_t clock_ns(clockid_t id)
{
    struct timespec ts;

    (void)clock_gettime(id, &ts); /* cannot fail for these ids */
    return (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
}

static inline uint64_t clock_wall(void)
{
    return clock_ns(CLOCK_REALTIME);
}

static inline uint64_t clock_mono(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}
