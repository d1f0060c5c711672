/* The nat driver: pooled network namespaces, each with one veth to the host, addresses of a host-wide lease, and a
 * masquerade on the way out.
 *
 * A namespace belongs to the host's user namespace, so nothing inside a sandbox can change its addresses, routes or
 * sysctls, forge a source address or open a raw socket. Addresses: egress-nat.h. There is no IPv6 route in it: a connect to an
 * IPv6 address says ENETUNREACH at once. Spawner thread. */
#include "spawner/egress-nat.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "spawner/egress-internal.h"
#include "spawner/nat-rules.h"
#include "spawner/rtnl.h"

enum { BLOCKS_MAX = 64 }; /* 65,536 leases for one spawner */

static struct {
    struct rtnl *host;
    int lock_fd;
    char prefix[8];
    unsigned block[BLOCKS_MAX]; /* indices of the blocks this process holds */
    unsigned blocks;
    uint8_t used[BLOCKS_MAX][NAT_BLOCK / 8], ours[BLOCKS_MAX][NAT_BLOCK / 8]; /* ours: was given out by this process */
    unsigned cursor;                                                          /* of the search for a free lease */
} nat = {.lock_fd = -1};

static bool lock_block(unsigned block)
{
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)block, .l_len = 1};

    return fcntl(nat.lock_fd, F_OFD_SETLK, &l) == 0;
}

static int hold_block(unsigned block, struct err *e)
{
    if (nat.blocks == BLOCKS_MAX)
        return err_typed(e, ERR_EXHAUSTED, NULL, "all %d address leases of this spawner are in use",
                         BLOCKS_MAX * NAT_BLOCK);
    if (!lock_block(block))
        return err_typed(e, ERR_EXHAUSTED, NULL, "address block %u belongs to another daemon", block);
    nat.block[nat.blocks] = block;
    memset(nat.used[nat.blocks], 0, sizeof nat.used[0]);
    memset(nat.ours[nat.blocks], 0, sizeof nat.ours[0]);
    nat.blocks++;
    return 0;
}

/* A lease is never 0: 0 means "none" in struct netns. */
static int lease_take(uint32_t *ret, struct err *e)
{
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned b = 0; b < nat.blocks; b++) {
            for (unsigned n = 0; n < NAT_BLOCK; n++) {
                /* Round-robin: what has just been given back still has its interface for a moment. */
                unsigned i = (nat.cursor + n) % NAT_BLOCK;
                uint32_t lease = nat.block[b] * NAT_BLOCK + i;

                if (lease == 0 || (nat.used[b][i / 8] >> (i % 8) & 1) != 0)
                    continue;
                nat.used[b][i / 8] |= (uint8_t)(1u << (i % 8));
                nat.ours[b][i / 8] |= (uint8_t)(1u << (i % 8));
                nat.cursor = i + 1;
                *ret = lease;
                return 0;
            }
        }
        for (unsigned b = 0; round == 0 && b < NAT_LEASES / NAT_BLOCK; b++) {
            bool mine = false;

            for (unsigned k = 0; k < nat.blocks; k++)
                mine = mine || nat.block[k] == b;
            if (!mine && hold_block(b, e) == 0)
                break;
        }
    }
    return err_typed(e, ERR_EXHAUSTED, NULL, "no address lease is free");
}

static void lease_drop(uint32_t lease)
{
    for (unsigned b = 0; b < nat.blocks; b++) {
        if (nat.block[b] == lease / NAT_BLOCK)
            nat.used[b][lease % NAT_BLOCK / 8] &= (uint8_t) ~(1u << (lease % 8));
    }
}

static void ifname(uint32_t lease, char out[IFNAMSIZ])
{
    (void)snprintf(out, IFNAMSIZ, "%s%x", nat.prefix, lease);
}

static int write_file(const char *path, const char *value)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC), r = 0;

    if (fd < 0)
        return -errno;
    if (write(fd, value, strlen(value)) < 0)
        r = -errno;
    fd_close(fd);
    return r;
}

/* The sandbox's side: an address, the way out. GUEST is a socket of that namespace. */
static int set_up_inside(struct rtnl *guest, uint32_t lease, struct err *e)
{
    uint32_t host_addr = NAT_NET + 2 * lease;
    int r = rtnl_up(guest, 1, e);

    if (r == 0)
        r = rtnl_addr(guest, NAT_PEER_INDEX, host_addr + 1, 31, e);
    if (r == 0)
        r = rtnl_up(guest, NAT_PEER_INDEX, e);
    if (r == 0)
        r = rtnl_default_route(guest, NAT_PEER_INDEX, host_addr, e);
    return r;
}

static int set_up_host(const char *name, uint32_t lease, struct err *e)
{
    unsigned index = if_nametoindex(name);
    char path[96];
    int r;

    if (index == 0)
        return err_set(e, errno, "interface %s: %m", name);
    /* Strict reverse path: only the lease's own address comes in here. No IPv6 on this link, not even link-local. */
    (void)snprintf(path, sizeof path, "/proc/sys/net/ipv4/conf/%s/rp_filter", name);
    (void)write_file(path, "1");
    (void)snprintf(path, sizeof path, "/proc/sys/net/ipv6/conf/%s/disable_ipv6", name);
    (void)write_file(path, "1"); /* absent on a kernel without IPv6 */
    r = rtnl_addr(nat.host, (int)index, NAT_NET + 2 * lease, 31, e);
    return r == 0 ? rtnl_up(nat.host, (int)index, e) : r;
}

static int connect_to_host(struct netns *n, struct rtnl *guest, struct err *e)
{
    char name[IFNAMSIZ];
    int r;

    ifname(n->lease, name);
    (void)rtnl_del_link(nat.host, name, e); /* of a spawner that died between two steps */
    r = rtnl_veth(nat.host, name, "eth0", NAT_PEER_INDEX, n->fd, e);
    if (r == 0)
        r = set_up_host(name, n->lease, e);
    if (r == 0)
        r = set_up_inside(guest, n->lease, e);
    if (r < 0) {
        struct err ignored; /* the first failure is the one to tell */

        (void)rtnl_del_link(nat.host, name, &ignored);
    }
    return r;
}

static int open_guest(void *arg, struct err *e)
{
    return rtnl_open(arg, e);
}

static int nat_make(struct netns *n, struct err *e)
{
    struct rtnl *guest = NULL;
    int r = 0;

    if (nat.host == NULL)
        r = rtnl_open(&nat.host, e);
    if (r == 0)
        r = netns_make(n, open_guest, &guest, e);
    if (r == 0)
        r = connect_to_host(n, guest, e);
    rtnl_close(guest);
    if (r < 0)
        netns_close(n);
    return r;
}

/* The socket is the spawner's, whose answers must not come here: it has been closed, and another is opened when needed. */
static void nat_open(void)
{
    nat.host = NULL;
}

/* The pair of interfaces goes with the namespace, as soon as the kernel gets to it; removing it here would wait for that. Should
 * the lease be used again before, connect_to_host() removes it. */
static void nat_release(uint32_t lease)
{
    lease_drop(lease);
}

/* What this process has given out and got back. A lease it knows nothing of may be a living sandbox's. */
static bool is_stale(unsigned long lease)
{
    for (unsigned b = 0; b < nat.blocks; b++) {
        unsigned at = lease % NAT_BLOCK;

        if (nat.block[b] == lease / NAT_BLOCK)
            return ((nat.ours[b][at / 8] & ~nat.used[b][at / 8]) >> (at % 8) & 1) != 0;
    }
    return false;
}

/* Interfaces of sandboxes that have just gone: nothing is left behind at the end. */
static void remove_stale(void)
{
    struct if_nameindex *all = if_nameindex();
    size_t len = strlen(nat.prefix);

    for (const struct if_nameindex *i = all; i != NULL && i->if_index != 0; i++) {
        struct err e;
        char *end;
        unsigned long lease;

        if (strncmp(i->if_name, nat.prefix, len) != 0)
            continue;
        lease = strtoul(i->if_name + len, &end, 16);
        if (*end == '\0' && is_stale(lease))
            (void)rtnl_del_link(nat.host, i->if_name, &e); /* it may have gone meanwhile */
    }
    if (all != NULL)
        if_freenameindex(all);
}

static bool any_lease(void)
{
    for (unsigned b = 0; b < nat.blocks; b++) {
        for (unsigned i = 0; i < sizeof nat.used[0]; i++) {
            if (nat.used[b][i] != 0)
                return true;
        }
    }
    return false;
}

/* Sandboxes that are kept running keep their leases and the rules: the next spawner of this tag takes them over. */
static void nat_fini(void)
{
    if (nat.host != NULL)
        remove_stale();
    nat_rules_fini(any_lease());
    rtnl_close(nat.host);
    fd_close(nat.lock_fd);
    nat.host = NULL;
    nat.lock_fd = -1;
    nat.blocks = 0;
}

static int try_one(struct err *e)
{
    struct netns n = {.fd = -1, .sysfs_fd = -1, .driver = SP_E_NAT};
    int r = lease_take(&n.lease, e);

    if (r < 0)
        return r;
    r = nat_make(&n, e);
    netns_close(&n);
    lease_drop(n.lease);
    return r;
}

static bool nat_probe(const char *tag, uint32_t *features, struct err *e)
{
    nat.lock_fd = open(NAT_LOCK_FILE, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (nat.lock_fd < 0) {
        (void)err_set(e, errno, NAT_LOCK_FILE ": %m");
        return false;
    }
    (void)snprintf(nat.prefix, sizeof nat.prefix, NAT_IFNAME_ALL "%.3s", tag);
    if (rtnl_open(&nat.host, e) < 0 || nat_rules_init(tag, nat.prefix, e) < 0 || try_one(e) < 0) {
        nat_fini();
        return false;
    }
    *features |= SP_FEAT_NAT;
    return true;
}

static int nat_claim(uint32_t lease, struct err *e)
{
    if (lease == 0 || lease >= NAT_LEASES)
        return err_typed(e, ERR_INVALID, NULL, "lease %u is out of range", lease);
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned b = 0; b < nat.blocks; b++) {
            if (nat.block[b] != lease / NAT_BLOCK)
                continue;
            nat.used[b][lease % NAT_BLOCK / 8] |= (uint8_t)(1u << (lease % 8));
            return 0;
        }
        if (round == 0) {
            int r = hold_block(lease / NAT_BLOCK, e);

            if (r < 0)
                return r;
        }
    }
    return 0;
}

const struct egress_driver egress_nat = {
    .name = "nat",
    .probe = nat_probe,
    .lease = lease_take,
    .claim = nat_claim,
    .release = nat_release,
    .make = nat_make,
    .open = nat_open,
    .fini = nat_fini,
};
