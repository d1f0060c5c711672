/* Addresses and names of the nat driver. A lease N is the /31 at NAT_NET + 2 N: the host's end first, the sandbox's second. */
#pragma once

/* Of RFC 6598's shared address space: neither public nor anybody's private range. */
#define NAT_NET 0x64600000u /* 100.96.0.0 */
#define NAT_NET_TEXT "100.96.0.0/12"
#define NAT_IFNAME_ALL "sil" /* every daemon's interfaces; one daemon's: "sil" and three characters of its tag */
enum {
    NAT_LEASES = 1 << 19,
    NAT_BLOCK = 1024, /* leases are locked host-wide by the block, one byte of NAT_LOCK_FILE each */
    NAT_PEER_INDEX = 2,
};
#define NAT_LOCK_FILE "/run/silica-nat"
