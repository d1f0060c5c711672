/* No network but `lo`: no route, no address, nothing to lease. */
#include "spawner/egress-internal.h"

static int none_make(struct netns *n, struct err *e)
{
    return netns_make(n, NULL, NULL, e);
}

static bool none_probe(const char *tag, uint32_t *features, struct err *e)
{
    struct netns n = {.fd = -1, .sysfs_fd = -1, .driver = SP_E_NONE};

    (void)tag;
    (void)features;
    if (none_make(&n, e) < 0)
        return false;
    netns_close(&n);
    return true;
}

const struct egress_driver egress_none = {
    .name = "none",
    .probe = none_probe,
    .make = none_make,
};
