/* No network but `lo`: no route, no address, nothing to lease. */
#include <string.h>

#include "spawner/egress-internal.h"

static struct {
    struct netns pool[NETNS_POOL];
    unsigned ready;
} g;

static bool none_probe(const char *tag, uint32_t *features, struct err *e)
{
    (void)tag;
    (void)features;
    if (netns_make(&g.pool[0], NULL, NULL, e) < 0)
        return false;
    g.ready = 1;
    return true;
}

static int none_take(struct netns *n, struct err *e)
{
    if (g.ready == 0)
        return netns_make(n, NULL, NULL, e);
    *n = g.pool[--g.ready];
    return 0;
}

static bool none_refill(void)
{
    if (g.ready == NETNS_POOL || netns_make(&g.pool[g.ready], NULL, NULL, NULL) < 0)
        return false; /* whoever asks for one will get the reason */
    g.ready++;
    return g.ready < NETNS_POOL;
}

static void none_fini(void)
{
    while (g.ready > 0)
        netns_close(&g.pool[--g.ready]);
}

const struct egress_driver egress_none = {
    .name = "none",
    .probe = none_probe,
    .take = none_take,
    .refill = none_refill,
    .fini = none_fini,
};
