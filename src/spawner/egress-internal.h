/* Between egress.c and its drivers. */
#pragma once

#include "spawner/drivers.h"

struct egress_driver {
    const char *name;
    /* Once at start; false = not on this host (E says why, for a log line). Adds its bits to *FEATURES. */
    bool (*probe)(const char *tag, uint32_t *features, struct err *e);
    /* What a namespace is to be made with; NULL where there is nothing to lease. */
    int (*lease)(uint32_t *ret, struct err *e);
    int (*claim)(uint32_t lease, struct err *e);
    void (*release)(uint32_t lease);
    /* Makes N, whose lease is set. In the spawner, or in a child that has called OPEN (NULL: needs nothing) and knows of the
     * driver what was known when it was cloned. */
    int (*make)(struct netns *n, struct err *e);
    void (*open)(void);
    void (*fini)(void);
};
extern const struct egress_driver egress_none, egress_nat;

/* A new network namespace with `lo` up and the sysctls every sandbox has, and its sysfs, into N, whose driver and lease stay.
 * SETUP, which may be NULL, runs inside of it (the calling thread is in the namespace then) for what a driver adds. */
int netns_make(struct netns *n, int (*setup)(void *arg, struct err *e), void *arg, struct err *e);
void netns_close(struct netns *n);
