/* Records in SQLite: WAL, synchronous=NORMAL, one writer on the database lane of the loop's pool.
 *
 * A write is asynchronous: DONE runs on the loop once it is committed. Writes are committed in the order they were made;
 * those that arrive together share a transaction. Reads happen once, at open. Loop thread only. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/engine.h"
#include "loop/loop.h"

struct store;

/* The durable part of a sandbox. One allocation tree: box_record_free(). Strings are never NULL unless said. */
struct box_record {
    char id[ID_MAX];
    char *tenant, *creator, *dialect, *image, *image_digest, *runner_id;
    char *request_id; /* may be NULL */
    void *echo;
    size_t echo_len;
    char **tags;      /* NULL-terminated */
    char *command;    /* NULL = entrypoint */
    char **args;      /* may be NULL */
    char *cwd, *user; /* may be NULL */
    void *env;        /* env_pack() */
    size_t env_len;
    char **layers;    /* digests */
    char *entry_json; /* image entrypoint/cmd at the time of creation: {"entrypoint": [], "cmd": []} */
    char *reason;
    enum box_state state;
    uint64_t created_ns, started_ns, ended_ns;
    uint64_t memory_bytes, disk_bytes;
    uint32_t cpu_millis, pids, lifetime_s;
    bool has_exit, oom;
    int exit_code;
    uint32_t egress, flags; /* enum sp_egress, sp_box_flags; tmpfs */
    char *boot_id;          /* of the host when it was created */
};
void box_record_free(struct box_record *r);
void store_list_free(char **list); /* a NULL-terminated list of malloc'd strings; NULL is fine */

struct image_record {
    char *name, *digest, *config_json; /* config_json: {"env":[],"entrypoint":[],"cmd":[],"workdir":"","user":""} */
    char **layers;
    uint64_t bytes, created_ns;
};
void image_record_free(struct image_record *r);

typedef void (*store_done)(void *arg, const struct err *e);

/* Opens or makes <state_dir>/db/silica.db and brings its schema up to date. Blocking: start-up only. */
int store_open(struct loop *loop, const char *state_dir, struct store **ret, struct err *e);
/* Waits for queued writes; their DONE callbacks are not called any more. NULL is fine. */
void store_close(struct store *s);
/* DONE once every write made before is committed (or has failed: E is that of the flush itself). */
int store_flush(struct store *s, store_done done, void *arg);
/* Blocking, at start-up. EACH takes the record. */
int store_load_boxes(struct store *s, void (*each)(void *arg, struct box_record *r), void *arg, struct err *e);
int store_load_images(struct store *s, void (*each)(void *arg, struct image_record *r), void *arg, struct err *e);
int store_load_layers(struct store *s, void (*each)(void *arg, const char *digest, uint64_t bytes), void *arg,
                      struct err *e);

/* The record is copied before the call returns. DONE may be NULL. */
int store_put_box(struct store *s, const struct box_record *r, store_done done, void *arg);
/* Only state, reason, times, exit, oom. */
int store_update_box(struct store *s, const struct box_record *r, store_done done, void *arg);
int store_del_box(struct store *s, const char *id, store_done done, void *arg);
int store_put_image(struct store *s, const struct image_record *r, store_done done, void *arg);
int store_del_image(struct store *s, const char *name, store_done done, void *arg);
int store_put_layer(struct store *s, const char *digest, uint64_t bytes, store_done done, void *arg);
int store_del_layer(struct store *s, const char *digest, store_done done, void *arg);
