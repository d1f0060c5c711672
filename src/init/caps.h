/* The capabilities a sandbox's root has inside its user namespace: the set people know from Docker. */
#pragma once

#include <stdint.h>

#define CAP_BIT(n) (1ull << (n))
#define CAPS_SANDBOX \
    (CAP_BIT(0)    /* chown */ \
     | CAP_BIT(1)  /* dac_override */ \
     | CAP_BIT(3)  /* fowner */ \
     | CAP_BIT(4)  /* fsetid */ \
     | CAP_BIT(5)  /* kill */ \
     | CAP_BIT(6)  /* setgid */ \
     | CAP_BIT(7)  /* setuid */ \
     | CAP_BIT(8)  /* setpcap */ \
     | CAP_BIT(10) /* net_bind_service */ \
     | CAP_BIT(13) /* net_raw */ \
     | CAP_BIT(18) /* sys_chroot */ \
     | CAP_BIT(27) /* mknod */ \
     | CAP_BIT(29) /* audit_write */ \
     | CAP_BIT(31) /* setfcap */)
