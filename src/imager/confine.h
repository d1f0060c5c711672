/* What the imager takes from itself before it looks at an archive. */
#pragma once

#include <stdint.h>

#include "base/err.h"

enum {
    CONFINE_MEMORY_MAX = 512 << 20, /* address space; a zstd window may take 128 MiB of it */
    CONFINE_FDS_MAX = 256,
    CONFINE_CPU_SECONDS = 1800,
};

enum confine_role {
    CONFINE_SUPERVISOR, /* names and removes directories of the store, watches the unpacker */
    CONFINE_UNPACKER,   /* parses; sees nothing but the directory it fills */
};

/* DIR becomes the root and the working directory. Needs CAP_SYS_CHROOT. */
int confine_root(int dir, struct err *e);
/* Resource limits; no file grows above FILE_MAX bytes. */
int confine_limits(uint64_t file_max, struct err *e);
/* Last: drops capabilities, sets no_new_privs, installs the system call filter. For the life of the process. */
int confine_role(enum confine_role role, struct err *e);
