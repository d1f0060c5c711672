#include "spawner/nat-rules.h"

#include <errno.h>
#include <fcntl.h>
#include <nftables/libnftables.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "spawner/egress-nat.h"

#define FORWARD_SYSCTL "/proc/sys/net/ipv4/ip_forward"
#define FORWARD_COMMENT "silica"

static struct {
    struct nft_ctx *ctx;
    char table[48], prefix[16];
    bool made, guard, beside_filter;
} rules;

/* Runs COMMANDS as one transaction; the output stays in the context until the next run. */
static int run(const char *commands, struct err *e)
{
    if (nft_run_cmd_from_buffer(rules.ctx, commands) != 0)
        return err_set(e, EIO, "nftables: %.200s", nft_ctx_get_error_buffer(rules.ctx));
    return 0;
}

/* Forwarding is the host's, daemons come and go: who turned it on leaves a mark in the lock file, the last to leave turns it
 * off again. While the mark stands nothing but our own traffic is forwarded: the host was no router and does not become one. */
static int mark(char value, char *ret_old)
{
    AUTO_FD fd = open(NAT_LOCK_FILE, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

    *ret_old = '\0';
    if (fd < 0)
        return -errno;
    (void)!pread(fd, ret_old, 1, NAT_LEASES); /* nothing there yet: no mark */
    return value != '\0' && pwrite(fd, &value, 1, NAT_LEASES) != 1 ? -errno : 0;
}

static int set_forwarding(const char *value, char *ret_old)
{
    AUTO_FD fd = open(FORWARD_SYSCTL, O_RDWR | O_CLOEXEC);

    if (fd < 0 || pread(fd, ret_old, 1, 0) != 1)
        return -errno;
    return *ret_old != *value && pwrite(fd, value, 1, 0) != 1 ? -errno : 0;
}

static int turn_on_forwarding(struct err *e)
{
    char old, marked;
    int r = set_forwarding("1", &old);

    if (r == 0)
        r = mark(old == '0' ? 'x' : '\0', &marked);
    if (r < 0)
        return err_set(e, r, "turning on IPv4 forwarding: %m");
    rules.guard = old == '0' || marked == 'x';
    return 0;
}

static void turn_off_forwarding(void)
{
    char old;
    struct err e;

    if (!rules.guard || run("list tables inet", &e) < 0 ||
        strstr(nft_ctx_get_output_buffer(rules.ctx), "table inet silica_") != NULL)
        return;
    (void)set_forwarding("0", &old);
    (void)mark('-', &old);
}

/* What leaves a sandbox goes to the world, not to this machine, not to its neighbours, not to a metadata service. A
 * refusal is told at once (ECONNREFUSED, EHOSTUNREACH) instead of a silence that looks like a slow network. TCP gets a reset:
 * the kernel sends about one ICMP error a second to one address, and the rest of them would be that silence. */
static int make_table(struct err *e)
{
    char text[2600];

    (void)snprintf(text, sizeof text,
                   "table inet %1$s { }\n"
                   "delete table inet %1$s\n"
                   "table inet %1$s {\n"
                   "  chain refuse {\n"
                   "    meta l4proto tcp reject with tcp reset\n"
                   "    reject with icmpx type admin-prohibited\n"
                   "  }\n"
                   "  chain outbound {\n"
                   "    oifname \"" NAT_IFNAME_ALL "*\" goto refuse\n"
                   "    ip daddr { 0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, 100.100.100.200, 168.63.129.16, %3$s, "
                   "224.0.0.0/4, 240.0.0.0/4 }"
                   " goto refuse\n"
                   "    accept\n"
                   "  }\n"
                   "  chain forward {\n"
                   "    type filter hook forward priority filter; policy accept;\n"
                   "    iifname \"%2$s*\" ip version 4 goto outbound\n"
                   "    iifname \"%2$s*\" drop\n"
                   "    oifname \"%2$s*\" ct state established,related accept\n"
                   "    oifname \"%2$s*\" drop\n"
                   "    %4$s\n"
                   "  }\n"
                   "  chain input {\n"
                   "    type filter hook input priority filter; policy accept;\n"
                   "    iifname \"%2$s*\" ct state established,related accept\n"
                   "    iifname \"%2$s*\" goto refuse\n"
                   "  }\n"
                   "  chain postrouting {\n"
                   "    type nat hook postrouting priority srcnat; policy accept;\n"
                   "    ip saddr %3$s oifname != \"" NAT_IFNAME_ALL "*\" masquerade\n"
                   "  }\n"
                   "}\n",
                   rules.table, rules.prefix, NAT_NET_TEXT,
                   rules.guard ? "iifname != \"" NAT_IFNAME_ALL "*\" oifname != \"" NAT_IFNAME_ALL "*\" drop" : "");
    return run(text, e);
}

/* A drop in any chain of the hook is final, so an accept in our own table does not help where another table's policy is
 * drop: the accept has to stand in that chain. Absent table or chain: nothing to do. */
static void stand_beside_filter(void)
{
    char text[256];
    struct err e;

    if (run("list chain ip filter FORWARD", &e) < 0)
        return;
    (void)snprintf(
        text, sizeof text,
        "insert rule ip filter FORWARD oifname \"%1$s*\" ct state established,related accept comment \"%2$s\"\n"
        "insert rule ip filter FORWARD iifname \"%1$s*\" accept comment \"%2$s\"\n",
        rules.prefix, FORWARD_COMMENT);
    rules.beside_filter = run(text, &e) == 0;
}

/* Removes the rules that name our interfaces, by handle. */
static void leave_filter(void)
{
    char *save = NULL, *copy, mine[32];
    struct err e;

    nft_ctx_output_set_flags(rules.ctx, NFT_CTX_OUTPUT_HANDLE);
    if (run("list chain ip filter FORWARD", &e) < 0)
        return;
    (void)snprintf(mine, sizeof mine, "\"%s*\"", rules.prefix);
    copy = strdup(nft_ctx_get_output_buffer(rules.ctx));
    for (char *line = copy != NULL ? strtok_r(copy, "\n", &save) : NULL; line != NULL;
         line = strtok_r(NULL, "\n", &save)) {
        const char *handle = strstr(line, "# handle ");
        char text[96];

        if (handle == NULL || strstr(line, mine) == NULL)
            continue;
        (void)snprintf(text, sizeof text, "delete rule ip filter FORWARD handle %lu", strtoul(handle + 9, NULL, 10));
        (void)run(text, &e); /* somebody else may have flushed the chain meanwhile */
    }
    free(copy);
}

int nat_rules_init(const char *tag, const char *prefix, struct err *e)
{
    int r;

    rules.ctx = nft_ctx_new(NFT_CTX_DEFAULT);
    if (rules.ctx == NULL)
        return err_set(e, ENOMEM, "nftables: %m");
    (void)nft_ctx_buffer_output(rules.ctx);
    (void)nft_ctx_buffer_error(rules.ctx);
    (void)snprintf(rules.table, sizeof rules.table, "silica_%s", tag);
    (void)snprintf(rules.prefix, sizeof rules.prefix, "%s", prefix);
    leave_filter(); /* of a spawner with this tag that died */
    r = turn_on_forwarding(e);
    if (r == 0)
        r = make_table(e);
    if (r < 0) {
        nat_rules_fini(false);
        return r;
    }
    rules.made = true;
    stand_beside_filter();
    return 0;
}

void nat_rules_fini(bool keep)
{
    char text[96];
    struct err e;

    if (rules.ctx == NULL)
        return;
    if (rules.beside_filter && !keep)
        leave_filter();
    if (rules.made && !keep) {
        (void)snprintf(text, sizeof text, "delete table inet %s", rules.table);
        (void)run(text, &e); /* gone already: fine */
    }
    if (!keep)
        turn_off_forwarding();
    nft_ctx_free(rules.ctx);
    memset(&rules, 0, sizeof rules);
}
