/* The table file: what the next spawner must know of the live sandboxes when this one dies.
 *
 * One file in the run dir, written by root only: a head with the host's boot id, then records, the last one of an id
 * counts. Records are appended with one write(2); a record torn by a crash ends the reading, nothing more. The file is
 * rewritten when it starts and when mostly old records fill it. It is read as if it were hostile: a wrong byte may cost
 * a record, never an out-of-bounds access or a wrong kill (pids are checked against their start time). */
#pragma once

#include "spawner/drivers.h"

enum { TABLE_BOOT_MAX = 40, TABLE_DIGEST = 32, TABLE_MAGIC = 0x51C1AB1E, TABLE_VERSION = 1 };

enum table_state {
    TABLE_EPOCH = 1, /* no sandbox: `epoch` is the one of the silicad being started */
    TABLE_LIVE,
    TABLE_ENDING, /* to be killed and released */
    TABLE_GONE,   /* released; silicad has not acknowledged */
    TABLE_FORGOTTEN,
    TABLE_STATE_COUNT,
};

struct table_rec {
    uint32_t magic, size; /* of the record with its digests */
    uint32_t sum;         /* over all that follows this field */
    uint32_t state;       /* enum table_state */
    uint64_t epoch;
    char id[SP_ID_MAX];
    int32_t pid, slot;
    uint64_t start_ticks; /* of PID, see proc_start_ticks() */
    uint32_t uid_base, writable;
    uint32_t egress, lease;
    uint64_t disk_bytes, started_ns;
    char layer_key[LAYER_KEY_MAX];
    int32_t status;
    uint32_t oom_kills;
    uint64_t cpu_us, memory_peak;
    uint32_t layer_count, pad; /* digests (32 bytes each) that follow */
};
_Static_assert(sizeof(struct table_rec) == 208, "table file: no padding");

struct table_head {
    uint32_t magic, version;
    char boot_id[TABLE_BOOT_MAX];
};

/* Calls EACH for every sound record of DATA in order. Returns the number of bytes that are sound, 0 when the head is of
 * another boot, another version, or no table at all. DIGESTS: rec->layer_count of them. */
size_t table_parse(const uint8_t *data, size_t len, const char *boot_id,
                   void (*each)(void *arg, const struct table_rec *rec, const uint8_t (*digests)[TABLE_DIGEST]),
                   void *arg);
/* Fills magic, size and sum; REC->layer_count digests follow REC in memory. Returns the size. */
size_t table_seal(struct table_rec *rec);
