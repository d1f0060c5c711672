/* A place for tests of kernel objects: a mount namespace of our own, a state and a run directory, and the proof at the end
 * that nothing is left of them. Root only; cmocka's assertions inside. */
#pragma once

#include <stdarg.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/err.h"

struct bed {
    char dir[64], state[80], run[80];
    int layers_fd;
    unsigned mounts; /* in our mount namespace when the bed was made */
    unsigned fds;
};

/* The group setup of every test program: enters a mount namespace of its own. Fails when it is not root. */
int bed_group(void **state);
void bed_open(struct bed *b);
/* Fails when a mount, a loop device or a file descriptor is left. */
void bed_close(struct bed *b);

unsigned bed_mounts(void);
unsigned bed_fds(void);
/* Loop devices whose file is below the bed's directory. */
unsigned bed_loops(const struct bed *b);
/* Waits until the kernel has given those back (it does so after the fact), at most two seconds. */
unsigned bed_loops_settled(const struct bed *b);

/* A layer "<c repeated 64 times>" with a file NAME = TEXT owned by the store's uid + UID. */
void bed_layer_dir(const struct bed *b, const char *digest);
void bed_layer_file(const struct bed *b, const char *digest, const char *path, const char *text, unsigned uid);
/* Removes PATH and what is below. */
void bed_rm(const char *path);

/* "function failed: sentence" */
#define assert_ok(call, e) \
    do { \
        int assert_ok_ = (call); \
        if (assert_ok_ < 0) \
            fail_msg("%s: %d %s", #call, assert_ok_, (e)->msg); \
    } while (0)
