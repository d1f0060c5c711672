/* File descriptors and heap pointers that release themselves at the end of their scope. */
#pragma once

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* Closes FD if it is not negative; errno is kept. */
static inline void fd_close(int fd)
{
    int saved = errno;

    if (fd >= 0)
        (void)close(fd); /* nothing useful can be done about an error here */
    errno = saved;
}

static inline void fd_closep(int *fd)
{
    fd_close(*fd);
    *fd = -1;
}

static inline int take_fd(int *fd)
{
    int r = *fd;

    *fd = -1;
    return r;
}

static inline void freep(void *p)
{
    free(*(void **)p);
}

#define AUTO_FD __attribute__((cleanup(fd_closep))) int
#define AUTO_FREE __attribute__((cleanup(freep)))

#define take_ptr(p) \
    ({ \
        __typeof__(p) take_ptr_ = (p); \
        (p) = NULL; \
        take_ptr_; \
    })

#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
