/* What the files of the sandbox's life share (box.c, box-*.c, engine.c). Loop thread only.
 *
 *   box.c          created -> running; main's fate; stop and the timers
 *   box-end.c      the end: log drained, record committed, resources released, retention, removal
 *   box-adopt.c    records at start, sandboxes of an earlier silicad
 *   box-spec.c     a request checked and turned into a record
 *   box-waiters.c  callers who wait for a sandbox
 *   box-list.c     looking: get, list, find
 *
 * Two things move apart from the shown state: `hold` is what the spawner has of the sandbox, `end` how far its end has
 * been made known. A sandbox can be ended and still held (being torn down), never the other way round for long. */
#pragma once

#include "engine/engine-internal.h"

enum {
    BOX_TAGS_MAX = 64,
    BOX_TAG_LEN_MAX = 256,
    BOX_REQUEST_ID_MAX = 256,
    BOX_IMAGE_NAME_MAX = 512,
    BOX_USER_MAX = 256,
    BOX_ECHO_MAX = 1 << 20,
    BOX_MEMORY_MIN = 4 << 20,
    BOX_CPU_MILLIS_MIN = 10,   /* the kernel's least quota: 1 ms in 100 ms */
    BOX_LIFETIME_GRACE_S = 10, /* between TERM and the end when the lifetime is over, or a stop is taken up again */
    BOX_ADOPT_WAIT_MS = 1000,  /* we serve after this, even when an init has not answered */
    BOX_REAP_BATCH = 64,       /* removals a turn */
    BOX_REAP_RETRY_S = 60,     /* after a removal that failed */
    BOX_REASON_MAX = 400,
    BOX_KILL_RETRY_MS = 1000, /* after a kill that the spawner did not get */
};

/* ---- box.c ------------------------------------------------------------------------------------------------------ */
struct box *box_new(struct engine *en,
                    struct box_record *rec); /* takes REC; in the tables; NULL when memory is short */
void box_free(struct box *b);                /* out of the tables; no kernel object is touched */
void box_set_state(struct box *b, enum box_state s);
void box_count(struct box *b);
void box_uncount(struct box *b);
/* Asks init who the sandbox's user is; DONE when b->uid.. and the environment are there, else box_fail(). */
void box_ask_user(struct box *b, void (*done)(struct box *b));
/* The same for a sandbox in which nothing has run yet: DONE may be called at once, when the image's user is known. */
void box_find_user(struct box *b, void (*done)(struct box *b));
void known_users_free(struct engine *en);
/* A stop, of whoever: TERM now, everything at the end of the grace. Joins one that is under way. */
void box_stop(struct box *b, uint32_t grace_s, const char *why);
/* TERM to main, or the kill when there is no main. */
void box_terminate(struct box *b);
void box_start_lifetime(struct box *b);

/* ---- box-end.c -------------------------------------------------------------------------------------------------- */
/* Writes the record: the first time all of it, then what changes. Refused (logged) only when the store's queue is full. */
int box_write(struct box *b);
/* Begins the end, unless it has begun. A stop that was asked for makes it TERMINATED with its own reason. */
void box_end(struct box *b, enum box_state s, const char *reason);
/* As box_end(), from the exit that rec holds. */
void box_end_by_main(struct box *b);
/* Something of ours or of the host went wrong: FAILED. */
void box_fail(struct box *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Kills everything in it; the end follows at SP_GONE if it is not known already. */
void box_kill(struct box *b);
/* The spawner did not get the kill, or refused it: once more, in a while. */
void box_kill_failed(struct box *b);
/* At shutdown, when nothing is heard of B any more: records an end that is known, else REASON as the end (NULL: none). */
void box_end_now(struct box *b, const char *reason);
/* Of an ended record from the store. */
void box_retain(struct box *b);
void boxes_reap(struct engine *en);
int box_set_reason(struct box *b, const char *reason);
/* The spawner has nothing of it any more. */
void box_release(struct box *b);

/* ---- box-adopt.c ------------------------------------------------------------------------------------------------ */
int boxes_load(struct engine *en, struct err *e);
void box_adopt_settled(struct box *b);

/* ---- box-spec.c ------------------------------------------------------------------------------------------------- */
int box_spec_check(struct engine *en, const struct box_spec *s, struct err *e);
/* *RET_ENV has the levels image and sandbox and what is known of system. An image that cannot be had is not an error:
 * *RET_FAILURE then says why (malloc'd). */
int box_spec_record(struct engine *en, const struct box_spec *s, struct box_record **ret, struct env_set **ret_env,
                    char **ret_failure, struct err *e);
int box_env_system(struct box *b, const char *home, struct err *e);
uint64_t host_memory(void);
uint32_t host_cpu_millis(void);

/* ---- box-waiters.c ---------------------------------------------------------------------------------------------- */
enum waiter_kind { WAIT_CREATE, WAIT_STOP, WAIT_REMOVE, WAIT_NOTHING };
struct waiter {
    struct op op; /* first: the caller's handle */
    TAILQ_ENTRY(waiter) link;
    struct engine *en;
    struct box *box; /* NULL: only tells an error */
    enum waiter_kind kind;
    box_cb cb;
    void *arg;
    uint64_t need; /* write of the record that must be committed first */
    bool held;     /* it has waited long enough */
    struct timer hold;
    struct defer fire;
    bool failed;
    struct err err;
};
/* NULL when memory is short. B may be NULL. Fires later, never from within. */
struct waiter *waiter_new(struct engine *en, struct box *b, enum waiter_kind kind, box_cb cb, void *arg);
void waiter_hold(struct waiter *w, unsigned ms);
/* Ends W with E, soon. */
void waiter_fail(struct waiter *w, const struct err *e);
/* Those whose time has come are told, at the end of the turn. */
void waiters_check(struct box *b);
/* The write SEQ failed: who needed it is told. */
void waiters_write_failed(struct box *b, uint64_t seq, const struct err *e);
/* Tells everybody at once (E NULL: the record as it is) and forgets them. From the loop only. */
void waiters_flush(struct box *b, const struct err *e);
void waiters_fail_all(struct engine *en, const struct err *e);
void waiters_drop(struct waiter_list *list);

/* ---- box-list.c ------------------------------------------------------------------------------------------------- */
void box_fill_info(struct box *b, struct box_info *ret);
struct box *box_by_id(struct engine *en, const char *id);
/* Where a record stands in the order of ids. */
void box_insert_by_id(struct box *b);
int engine_serving(struct engine *en, struct err *e);
