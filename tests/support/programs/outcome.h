/* How the hostile programs of tests/abuse say what happened. Lines are "WHAT: OUTCOME"; the outcome is "ok" when the thing was
 * allowed and the name of the errno when it was not. */
#pragma once
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static const char *name_of(int e)
{
    static const struct {
        int e;
        const char *name;
    } names[] = {
        {EPERM, "EPERM"},
        {ENOENT, "ENOENT"},
        {ESRCH, "ESRCH"},
        {EINTR, "EINTR"},
        {EIO, "EIO"},
        {ENXIO, "ENXIO"},
        {EBADF, "EBADF"},
        {EAGAIN, "EAGAIN"},
        {ENOMEM, "ENOMEM"},
        {EACCES, "EACCES"},
        {EBUSY, "EBUSY"},
        {EEXIST, "EEXIST"},
        {EXDEV, "EXDEV"},
        {ENODEV, "ENODEV"},
        {ENOTDIR, "ENOTDIR"},
        {EINVAL, "EINVAL"},
        {EMFILE, "EMFILE"},
        {ENFILE, "ENFILE"},
        {ENOTTY, "ENOTTY"},
        {ETXTBSY, "ETXTBSY"},
        {ENOSPC, "ENOSPC"},
        {EROFS, "EROFS"},
        {ENOSYS, "ENOSYS"},
        {EAFNOSUPPORT, "EAFNOSUPPORT"},
        {ELOOP, "ELOOP"},
        {EOPNOTSUPP, "EOPNOTSUPP"},
        {EPROTONOSUPPORT, "EPROTONOSUPPORT"},
        {ENETUNREACH, "ENETUNREACH"},
        {EHOSTUNREACH, "EHOSTUNREACH"},
        {ECONNREFUSED, "ECONNREFUSED"},
        {ETIMEDOUT, "ETIMEDOUT"},
        {EFAULT, "EFAULT"},
        {ESOCKTNOSUPPORT, "ESOCKTNOSUPPORT"},
        {EADDRNOTAVAIL, "EADDRNOTAVAIL"},
        {ENODATA, "ENODATA"},
        {ENETDOWN, "ENETDOWN"},
        {EDQUOT, "EDQUOT"},
    };
    static char other[16];

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (names[i].e == e)
            return names[i].name;
    snprintf(other, sizeof other, "errno %d", e);
    return other;
}

static void say(const char *what, long r)
{
    printf("%s: %s\n", what, r >= 0 ? "ok" : name_of(errno));
    fflush(stdout);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}
