/* A layer store of the test's own, and the imager run on it as the spawner runs it: root of a user namespace over the store
 * range, in mount, pid and network namespaces of its own. Needs root. */
#pragma once

#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "base/buf.h"
#include "wire/im.h"

enum { WORLD_UID_BASE = 999934464 };

struct world {
    char dir[64]; /* holds `store` and `canary` */
    int store;
    const char *imager;
};

struct answer {
    int type; /* enum im_type; 0 = none */
    struct im_layer layer;
    char digest[80];
    char notes[2048]; /* one a line */
    unsigned kind;    /* of a failure */
    char msg[1024];
};

struct running {
    pid_t outer, imager; /* the process that made the pid namespace, the imager as the host sees it */
    int result;
};

/* False when the machine cannot run these tests (a failure with TESTS_MUST_RUN=1). */
bool world_can_run(void);
void world_init(struct world *w, const char *imager);
void world_fini(struct world *w);

void world_start(struct world *w, int input, uint64_t max_bytes, uint64_t max_entries, struct running *ret);
void world_wait(struct running *r, struct answer *ret);
/* Both, with ARCHIVE as a file. Limits 0 = 1 GiB, 1000000. Afterwards the store holds no temporary directory and the canary
 * is as it was. */
void world_run(struct world *w, const struct buf *archive, uint64_t max_bytes, uint64_t max_entries,
               struct answer *ret);
/* An fd of the layer that A names. */
int world_layer(struct world *w, const struct answer *a);
bool world_has_tmp(struct world *w);
/* lstat of PATH in a layer; ids as they are inside the store range. */
struct stat world_stat(int layer, const char *path);
/* Contents of a small file. */
const char *world_read(int layer, const char *path);
