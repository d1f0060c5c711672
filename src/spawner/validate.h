/* Checks everything silicad asks for. silicad may be compromised: whatever it sends, it gets nothing but a sandbox, and
 * paths are only built from what passed here. */
#pragma once

#include "spawner/drivers.h"

enum {
    BOX_DNS_MAX = 8,
    BOX_DNS_LEN = 46, /* an IPv6 address in text, with NUL */
};
#define BOX_MEMORY_MIN (4ull << 20) /* below this not even init starts */
#define BOX_BYTES_MAX (1ull << 50)
#define BOX_DISK_MIN (1ull << 20)
#define BOX_PIDS_MIN 4ull
#define BOX_PIDS_MAX (4ull << 20)
#define BOX_PERIOD_MIN 1000ull
#define BOX_PERIOD_MAX 1000000ull
#define BOX_QUOTA_MIN 1000ull
#define BOX_CPUS_MAX 8192ull
#define IMAGER_BYTES_MAX (1ull << 46)
#define IMAGER_ENTRIES_MAX (100ull << 20)

/* A request to make a sandbox after all checks. */
struct box_plan {
    char id[SP_ID_MAX];
    char hostname[SP_HOSTNAME_MAX];
    struct cg_limits limits;
    uint64_t disk_bytes, shm_bytes; /* 0 = default */
    enum sp_writable writable;
    enum sp_egress egress;
    uint32_t flags;
    unsigned layer_count, dns_count;
    char layers[SP_LAYERS_MAX][SP_DIGEST_LEN + 1];
    char dns[BOX_DNS_MAX][BOX_DNS_LEN];
};

bool box_id_ok(const char *id);
bool digest_ok(const char *digest);
bool hostname_ok(const char *name);
/* All return 0 or -EINVAL (kind ERR_INVALID) with a sentence. */
int validate_create(const struct wire_msg *m, struct box_plan *ret, struct err *e);
int validate_imager(const struct wire_msg *m, struct err *e);
/* The id of SP_KILL, SP_STAT and SP_FORGET (one wire_str as body). */
int validate_id(const struct wire_msg *m, char ret[SP_ID_MAX], struct err *e);
int validate_digest(const struct wire_msg *m, char ret[SP_DIGEST_LEN + 1], struct err *e);
