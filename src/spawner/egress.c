/* Network namespaces: which driver, and what all of them share.
 *
 * A namespace belongs to the host's user namespace, not to the sandbox's: nobody inside can configure it (Docker's
 * default capabilities have no CAP_NET_ADMIN either). That is also why its sysfs is mounted here, by us. It is made for one
 * sandbox and never used again: nothing of one can reach the next. Making one takes up to tens of milliseconds on a busy
 * host, hence the pools, and the child that fills them (egress-maker.h). */
#include "spawner/egress-maker.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "spawner/mnt.h"

static const struct egress_driver *const table[SP_E_COUNT] = {
    [SP_E_NONE] = &egress_none,
    [SP_E_NAT] = &egress_nat,
};
static bool works[SP_E_COUNT];
static struct pool {
    struct netns ns[NETNS_POOL];
    uint32_t asked[NETNS_POOL]; /* the leases of those that are due */
    unsigned ready, due;        /* due: asked for, not come yet */
} pools[SP_E_COUNT];
static int home_fd = -1; /* the namespace the spawner itself is in */

/* ---- making one --------------------------------------------------------------------------------------------------- */

/* Programs in a sandbox may listen on any port and ping without privilege. */
static const struct {
    const char *path, *value;
} sysctls[] = {
    {"/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"},
    {"/proc/sys/net/ipv4/ping_group_range", "0 2147483647"},
};

static int lo_up(void)
{
    struct ifreq ifr = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    AUTO_FD sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (sock < 0)
        return -errno;
    return ioctl(sock, SIOCSIFFLAGS, &ifr) < 0 ? -errno : 0;
}

static int write_sysctl(const char *path, const char *value)
{
    AUTO_FD fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    return write(fd, value, strlen(value)) < 0 ? -errno : 0;
}

/* In the new namespace. */
static int furnish(struct netns *n, int (*setup)(void *arg, struct err *e), void *arg, struct err *e)
{
    int r;

    n->fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (n->fd < 0)
        return err_set(e, errno, "open the new network namespace: %m");
    r = lo_up();
    if (r < 0)
        return err_set(e, r, "bring up 'lo' in a network namespace: %m");
    for (size_t i = 0; i < ARRAY_LEN(sysctls); i++) {
        r = write_sysctl(sysctls[i].path, sysctls[i].value);
        if (r < 0)
            return err_set(e, r, "write '%s': %m", sysctls[i].path);
    }
    r = mnt_make("sysfs", (const struct mnt_opt[]){{NULL}},
                 MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC, &n->sysfs_fd, e);
    if (r < 0)
        return r;
    return setup != NULL ? setup(arg, e) : 0;
}

int netns_make(struct netns *n, int (*setup)(void *arg, struct err *e), void *arg, struct err *e)
{
    int r;

    if (unshare(CLONE_NEWNET) < 0)
        return err_set(e, errno, "make a network namespace: %m");
    r = furnish(n, setup, arg, e);
    if (setns(home_fd, CLONE_NEWNET) < 0) {
        /* A spawner that goes on in a sandbox's network would serve the world from there. */
        log_error(NULL, "cannot return to the host's network namespace: %s", strerror(errno));
        abort();
    }
    if (r < 0)
        netns_close(n);
    return r;
}

void netns_close(struct netns *n)
{
    fd_closep(&n->fd);
    fd_closep(&n->sysfs_fd);
}

/* ---- the pools ---------------------------------------------------------------------------------------------------- */

static int make(struct netns *n, struct err *e)
{
    return table[n->driver]->make(n, e);
}

/* In the child. */
static void open_drivers(void)
{
    for (unsigned i = 0; i < SP_E_COUNT; i++)
        if (works[i] && table[i]->open != NULL)
            table[i]->open();
}

static void drop(struct netns *n)
{
    netns_close(n);
    netns_release(n->driver, n->lease);
}

/* The one with LEASE has come, or never will. */
static void no_longer_due(enum sp_egress driver, uint32_t lease)
{
    struct pool *p = &pools[driver];

    for (unsigned i = 0; i < p->due; i++) {
        if (p->asked[i] == lease) {
            p->asked[i] = p->asked[--p->due];
            return;
        }
    }
}

/* The helper is gone, and with it what it was making: the leases are free. */
static void none_due(void)
{
    for (unsigned i = 0; i < SP_E_COUNT; i++) {
        while (pools[i].due > 0)
            netns_release((enum sp_egress)i, pools[i].asked[--pools[i].due]);
    }
}

/* Takes in what has been made; waits for the first one of DRIVER when WAIT. */
static void collect(bool wait, enum sp_egress driver)
{
    bool failed = false;

    while (maker_runs()) {
        struct netns n = {.fd = -1, .sysfs_fd = -1};
        bool now = wait && !failed && pools[driver].ready == 0 && pools[driver].due > 0;
        struct err e = {0};
        int r = maker_receive(&n, now, &e);

        if (r == 0)
            return;
        if (r < 0) {
            log_warn(NULL, "network namespace for the pool: %s", e.msg);
            failed = true;
            if (!maker_runs())
                break;
            netns_release(n.driver, n.lease);
        }
        no_longer_due(n.driver, n.lease);
        if (r > 0 && pools[n.driver].ready < NETNS_POOL)
            pools[n.driver].ns[pools[n.driver].ready++] = n;
        else if (r > 0)
            drop(&n);
    }
    none_due(); /* it has died */
}

static int lease_of(enum sp_egress driver, uint32_t *ret, struct err *e)
{
    *ret = 0;
    return table[driver]->lease != NULL ? table[driver]->lease(ret, e) : 0;
}

/* One that is made here and now. */
static int make_here(struct netns *n, enum sp_egress driver, struct err *e)
{
    int r;

    *n = (struct netns){.fd = -1, .sysfs_fd = -1, .driver = driver};
    r = lease_of(driver, &n->lease, e);
    if (r < 0)
        return r;
    r = make(n, e);
    if (r < 0)
        netns_release(driver, n->lease);
    return r;
}

/* Asks for as many as are missing. False when none could be asked for. */
static bool ask(enum sp_egress driver)
{
    struct pool *p = &pools[driver];
    bool any = false;

    while (p->ready + p->due < NETNS_POOL) {
        uint32_t lease;

        if (lease_of(driver, &lease, NULL) < 0)
            break; /* whoever asks for a network will get the reason */
        if (!maker_ask(driver, lease)) {
            netns_release(driver, lease);
            break;
        }
        p->asked[p->due++] = lease;
        any = true;
    }
    return any;
}

/* ---- for others --------------------------------------------------------------------------------------------------- */

int egress_init(const char *tag, uint32_t *features, struct err *e)
{
    home_fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (home_fd < 0)
        return err_set(e, errno, "open our network namespace: %m");

    for (unsigned i = 0; i < SP_E_COUNT; i++) {
        struct err why = {0};

        works[i] = table[i] != NULL && table[i]->probe(tag, features, &why);
        if (table[i] != NULL && !works[i])
            log_warn(NULL, "no sandbox with network '%s' on this host: %s", table[i]->name, why.msg);
    }
    if (!works[SP_E_NONE]) {
        egress_fini();
        return err_typed(e, ERR_UNIMPLEMENTED, NULL, "this host lets us make no network namespaces");
    }
    return 0;
}

static const struct egress_driver *driver_of(enum sp_egress driver)
{
    return driver < SP_E_COUNT && works[driver] ? table[driver] : NULL;
}

int netns_take(struct netns *n, enum sp_egress driver, struct err *e)
{
    const struct egress_driver *d = driver_of(driver);
    struct pool *p;

    *n = (struct netns){.fd = -1, .sysfs_fd = -1, .driver = driver};
    if (d == NULL)
        return err_typed(e, ERR_UNIMPLEMENTED, NULL, "this host cannot give a sandbox a network of kind '%s'",
                         driver < SP_E_COUNT && table[driver] != NULL ? table[driver]->name : "nat");
    p = &pools[driver];
    if (p->ready == 0)
        collect(true, driver);
    if (p->ready == 0)
        return make_here(n, driver, e);
    *n = p->ns[--p->ready];
    return 0;
}

int netns_claim(enum sp_egress driver, uint32_t lease, struct err *e)
{
    const struct egress_driver *d = driver_of(driver);

    if (d == NULL)
        return err_set(e, ENOTSUP, "network driver %d of a living sandbox does not work any more", (int)driver);
    return d->claim != NULL ? d->claim(lease, e) : 0;
}

void netns_release(enum sp_egress driver, uint32_t lease)
{
    const struct egress_driver *d = driver_of(driver);

    if (d != NULL && d->release != NULL)
        d->release(lease);
}

bool egress_refill(void)
{
    bool here = false;

    (void)maker_start(open_drivers, make, home_fd, NULL); /* where it cannot be had, they are made here */
    if (maker_runs())
        collect(false, SP_E_NONE);
    for (unsigned i = 0; i < SP_E_COUNT; i++) {
        struct pool *p = &pools[i];

        if (!works[i] || p->ready + p->due >= NETNS_POOL || ask((enum sp_egress)i) || maker_runs() || here)
            continue;
        if (make_here(&p->ns[p->ready], (enum sp_egress)i, NULL) < 0)
            continue; /* whoever asks for one will get the reason */
        p->ready++;
        here = true;
    }
    return here; /* the others come by themselves, and are taken in when they are needed */
}

void egress_fini(void)
{
    maker_stop();
    none_due();
    for (unsigned i = 0; i < SP_E_COUNT; i++) {
        while (pools[i].ready > 0)
            drop(&pools[i].ns[--pools[i].ready]);
        if (works[i] && table[i]->fini != NULL)
            table[i]->fini();
    }
    memset(works, 0, sizeof works);
    fd_closep(&home_fd);
}
