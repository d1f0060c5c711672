/* The little of rtnetlink that network namespaces need (libmnl): links, addresses, routes. Spawner thread; each call is one
 * request and its acknowledgement, microseconds to a millisecond. */
#pragma once

#include <stdint.h>

#include "base/err.h"

struct rtnl;

/* A socket of the network namespace the caller is in; it stays with that namespace. */
int rtnl_open(struct rtnl **ret, struct err *e);
void rtnl_close(struct rtnl *r); /* NULL is fine */

/* A veth pair: NAME here, PEER (with interface index PEER_INDEX) in the namespace of PEER_NS_FD. */
int rtnl_veth(struct rtnl *r, const char *name, const char *peer, int peer_index, int peer_ns_fd, struct err *e);
int rtnl_up(struct rtnl *r, int index, struct err *e);
/* ADDR is an IPv4 address in host byte order. */
int rtnl_addr(struct rtnl *r, int index, uint32_t addr, unsigned prefix, struct err *e);
int rtnl_default_route(struct rtnl *r, int index, uint32_t gateway, struct err *e);
/* Removes a link by name; one that is not there is fine. */
int rtnl_del_link(struct rtnl *r, const char *name, struct err *e);
