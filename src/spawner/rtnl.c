#include "spawner/rtnl.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct rtnl {
    struct mnl_socket *sock;
    uint32_t seq;
    unsigned port;
    char buf[8192];
};

int rtnl_open(struct rtnl **ret, struct err *e)
{
    struct rtnl *r = calloc(1, sizeof *r);

    if (r == NULL)
        return err_set(e, ENOMEM, "rtnetlink: %m");
    r->sock = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);
    if (r->sock == NULL || mnl_socket_bind(r->sock, 0, MNL_SOCKET_AUTOPID) < 0) {
        int code = errno;

        rtnl_close(r);
        return err_set(e, code, "rtnetlink: %m");
    }
    r->port = mnl_socket_get_portid(r->sock);
    *ret = r;
    return 0;
}

void rtnl_close(struct rtnl *r)
{
    if (r == NULL)
        return;
    if (r->sock != NULL)
        (void)mnl_socket_close(r->sock); /* nothing useful can be done about an error here */
    free(r);
}

static struct nlmsghdr *begin(struct rtnl *r, uint16_t type, uint16_t flags)
{
    struct nlmsghdr *h = mnl_nlmsg_put_header(r->buf);

    h->nlmsg_type = type;
    h->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags);
    h->nlmsg_seq = ++r->seq;
    return h;
}

/* Sends and waits for the acknowledgement: the kernel answers within the call, so this does not block. */
static int talk(struct rtnl *r, struct nlmsghdr *h)
{
    char answer[8192];
    ssize_t n;

    if (mnl_socket_sendto(r->sock, h, h->nlmsg_len) < 0)
        return -errno;
    n = mnl_socket_recvfrom(r->sock, answer, sizeof answer);
    if (n < 0)
        return -errno;
    if (mnl_cb_run(answer, (size_t)n, r->seq, r->port, NULL, NULL) < 0)
        return -errno;
    return 0;
}

int rtnl_veth(struct rtnl *r, const char *name, const char *peer, int peer_index, int peer_ns_fd, struct err *e)
{
    struct nlmsghdr *h = begin(r, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
    struct ifinfomsg *i = mnl_nlmsg_put_extra_header(h, sizeof *i), *pi;
    struct nlattr *info, *data, *inner;
    int code;

    i->ifi_family = AF_UNSPEC;
    mnl_attr_put_strz(h, IFLA_IFNAME, name);
    info = mnl_attr_nest_start(h, IFLA_LINKINFO);
    mnl_attr_put_str(h, IFLA_INFO_KIND, "veth");
    data = mnl_attr_nest_start(h, IFLA_INFO_DATA);
    inner = mnl_attr_nest_start(h, VETH_INFO_PEER);
    pi = mnl_nlmsg_put_extra_header(h, sizeof *pi); /* the peer's own header comes before its attributes */
    pi->ifi_index = peer_index;
    mnl_attr_put_strz(h, IFLA_IFNAME, peer);
    mnl_attr_put_u32(h, IFLA_NET_NS_FD, (uint32_t)peer_ns_fd);
    mnl_attr_nest_end(h, inner);
    mnl_attr_nest_end(h, data);
    mnl_attr_nest_end(h, info);
    code = talk(r, h);
    return code < 0 ? err_set(e, code, "making the veth pair %s: %m", name) : 0;
}

int rtnl_up(struct rtnl *r, int index, struct err *e)
{
    struct nlmsghdr *h = begin(r, RTM_NEWLINK, 0);
    struct ifinfomsg *i = mnl_nlmsg_put_extra_header(h, sizeof *i);
    int code;

    i->ifi_family = AF_UNSPEC;
    i->ifi_index = index;
    i->ifi_flags = IFF_UP;
    i->ifi_change = IFF_UP;
    code = talk(r, h);
    return code < 0 ? err_set(e, code, "bringing up interface %d: %m", index) : 0;
}

int rtnl_addr(struct rtnl *r, int index, uint32_t addr, unsigned prefix, struct err *e)
{
    struct nlmsghdr *h = begin(r, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL);
    struct ifaddrmsg *a = mnl_nlmsg_put_extra_header(h, sizeof *a);
    int code;

    a->ifa_family = AF_INET;
    a->ifa_prefixlen = (uint8_t)prefix;
    a->ifa_scope = RT_SCOPE_UNIVERSE;
    a->ifa_index = (uint32_t)index;
    mnl_attr_put_u32(h, IFA_LOCAL, htonl(addr));
    mnl_attr_put_u32(h, IFA_ADDRESS, htonl(addr));
    code = talk(r, h);
    return code < 0 ? err_set(e, code, "giving interface %d its address: %m", index) : 0;
}

int rtnl_default_route(struct rtnl *r, int index, uint32_t gateway, struct err *e)
{
    struct nlmsghdr *h = begin(r, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL);
    struct rtmsg *m = mnl_nlmsg_put_extra_header(h, sizeof *m);
    int code;

    m->rtm_family = AF_INET;
    m->rtm_table = RT_TABLE_MAIN;
    m->rtm_protocol = RTPROT_BOOT;
    m->rtm_scope = RT_SCOPE_UNIVERSE;
    m->rtm_type = RTN_UNICAST;
    mnl_attr_put_u32(h, RTA_GATEWAY, htonl(gateway));
    mnl_attr_put_u32(h, RTA_OIF, (uint32_t)index);
    code = talk(r, h);
    return code < 0 ? err_set(e, code, "default route: %m") : 0;
}

int rtnl_del_link(struct rtnl *r, const char *name, struct err *e)
{
    struct nlmsghdr *h = begin(r, RTM_DELLINK, 0);
    struct ifinfomsg *i = mnl_nlmsg_put_extra_header(h, sizeof *i);
    int code;

    i->ifi_family = AF_UNSPEC;
    mnl_attr_put_strz(h, IFLA_IFNAME, name);
    code = talk(r, h);
    if (code == -ENODEV)
        return 0;
    return code < 0 ? err_set(e, code, "removing interface %s: %m", name) : 0;
}
