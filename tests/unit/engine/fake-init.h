/* An init in the test's own loop, at the other end of a socketpair: it answers as wire/in.h says, with real processes, pipes,
 * terminals and files of the host, or wrongly when a test asks for that. The box around it is bare: box.c is not linked, what it
 * would be told is kept here. */
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
#include "engine/init-link.h"

enum { FAKE_PROCS = 64, FAKE_EPOCH = 7 };

struct fake;

struct fake_proc {
    struct fake *f;
    bool used;
    uint64_t token;
    pid_t pid;
    int pidfd;
    struct io io;
};

struct fake {
    struct loop *loop;
    struct timer tick;
    char dir[64];
    struct engine en;
    struct box box;
    struct box_record rec;
    int fd; /* init's end */
    struct io io;
    struct fake_proc procs[FAKE_PROCS];
    /* what goes wrong: true = the message was dealt with by the test */
    bool (*on_message)(struct fake *f, struct wire_msg *m);
    unsigned table_count; /* entries the table promises; the test sends them */
    bool hold_exits;
    uint32_t oom_kills;
    /* what was seen */
    unsigned ready, lost, acks, kills, tree_kills, spawns, stats, started, main_failed, main_ended;
    uint64_t last_token;
    struct err lost_err, main_err;
    struct exec_result main_res;
    char cwd[256], user[64];
    char **env; /* of the last spawn */
};

void fake_open(struct fake *f);
void fake_close(struct fake *f);
void fake_turn(struct fake *f);
/* To silicad. */
void fake_send(struct fake *f, uint16_t type, uint64_t token, const void *body, size_t len, const int *fds,
               unsigned nfds);
void fake_fail(struct fake *f, uint64_t token, int code, uint32_t stage, const char *text);
void fake_exit(struct fake *f, uint64_t token, uint32_t cause, int code);
/* Nobody of the processes it started is left. */
bool fake_quiet(struct fake *f);
/* The value NAME had in the last spawn, or NULL. */
const char *fake_env(struct fake *f, const char *name);

#define UNTIL(f, cond) \
    do { \
        uint64_t until_ = clock_mono() + 20 * NSEC_PER_SEC; \
        while (!(cond)) { \
            if (clock_mono() > until_) \
                fail_msg("waited in vain for: %s", #cond); \
            fake_turn(f); \
        } \
    } while (0)
#define TURNS(f, n) \
    do { \
        for (int turn_ = 0; turn_ < (n); turn_++) \
            fake_turn(f); \
    } while (0)
