/* A spawner and inits that live in the test's own loop, on socketpairs: they answer as wire/sp.h and wire/in.h say, and do
 * wrong what a test asks for. The engine under test is the real one; images come from a table here. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/fd.h"
#include "engine/box-internal.h"

enum { FAKE_BOXES = 64 };

struct host;

/* One sandbox as the spawner and its init see it. */
struct fake_box {
    struct host *h;
    char id[SP_ID_MAX];
    bool used, alive;
    bool gone_due; /* ended, SP_FORGET not seen */
    int init_fd;   /* init's end of the control socket */
    int daemon_fd; /* the spawner's copy of silicad's end, for adoption */
    struct io io;
    uint64_t main; /* token, 0 = not started */
    bool main_ended;
    struct in_exited exited;
    int out;      /* main's write end of the log */
    int out_read; /* init's copy of the read end */
    struct sp_create plan;
    char layer[65], user[64];
};

struct host {
    struct loop *loop;
    struct timer tick;
    char dir[64];
    struct engine *en;
    struct engine_config config;
    int fd;
    struct io io;
    uint64_t epoch;
    const char *boot_id;
    uint32_t features, slots;
    struct fake_box boxes[FAKE_BOXES];
    /* what goes wrong */
    bool fail_create, hold_create, hold_user, fail_user, fail_spawn, ignore_term, hold_gone, no_table, hold_stat,
        refuse_kill /* once */, silent /* no SP_HELLO */;
    uint64_t held_token;
    char held_id[SP_ID_MAX];
    uint32_t oom_kills;
    /* what was seen */
    unsigned readies, creates, kills, forgets, stats, terms, acks, users, spawns;
    unsigned ready_calls, stop_calls;
    bool stop_keep;
};

void host_open(struct host *h);
/* Ends everything and removes the files. */
void host_close(struct host *h);
/* A silicad: SP_HELLO, SP_ADOPT, SP_GONE, until it is ready (unless it is told not to wait). */
void host_start(struct host *h);
void host_start_nowait(struct host *h);
/* The spawner reads again after a test has stopped h->io. */
void host_listen(struct host *h);
/* As SIGKILL, except that what was handed to the database is in it. */
void host_crash(struct host *h);
/* Gone while nobody looked. */
void host_lose(struct host *h, const char *id);
void host_sql(struct host *h, const char *text);
struct fake_box *fake_find(struct host *h, const char *id);
void fake_main_exit(struct fake_box *f, uint32_t cause, int code);
void fake_answer_held(struct host *h);
void fake_init_dies(struct fake_box *f);
/* The kill without being asked: SP_GONE. */
void fake_gone(struct fake_box *f);
/* One turn of the loop, at most 2 ms when nothing happens. */
void host_turn(struct host *h);

#define UNTIL(h, cond) \
    do { \
        uint64_t until_ = clock_mono() + 5 * NSEC_PER_SEC; \
        while (!(cond)) { \
            if (clock_mono() > until_) \
                fail_msg("waited in vain for: %s", #cond); \
            host_turn(h); \
        } \
    } while (0)
#define TURNS(h, n) \
    do { \
        for (int turn_ = 0; turn_ < (n); turn_++) \
            host_turn(h); \
    } while (0)
