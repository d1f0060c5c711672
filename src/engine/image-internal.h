/* Images and layers of the engine: what image.c (names) and image-layer.c (layers, imports, removal) share. Loop thread only.
 *
 * A layer is used by images and by live sandboxes. It may be removed when nobody uses it, nobody is about to (pins), and it
 * was not imported just now (its image is still to be named). Imports and removals of layers never overlap: an import may find
 * that the store has its content already, and a removal under way would take that away again. */
#pragma once

#include <sys/queue.h>

#include "engine/engine-internal.h"
#include "image/config.h"
#include "image/reference.h"

enum {
    LAYER_IMPORTS_MAX = 2,          /* imagers at a time */
    LAYER_IMPORTS_WAITING_MAX = 64, /* above: ERR_EXHAUSTED */
    LAYER_ENTRIES_MAX = 2000000,
    LAYER_FRESH_S = 600, /* how long a layer without an image is kept for its image to be named */
    LAYER_NOTES_KEPT_MAX = 64,
};
#define LAYER_UNPACKED_MAX (64ull << 30)

struct image {
    UT_hash_handle hh; /* by rec->name */
    struct image_record *rec;
    struct image_config *config;
};

struct layer {
    UT_hash_handle hh; /* by digest */
    char digest[IMAGE_DIGEST_LEN + 1];
    uint64_t bytes;
    unsigned pins;        /* images being named that use it */
    uint64_t fresh_until; /* loop_now(); 0 = old */
    bool used, by_box;    /* of one collection */
    bool removing;
};

struct image_op;
struct import;
struct removal;
TAILQ_HEAD(image_op_list, image_op);
TAILQ_HEAD(import_list, import);
TAILQ_HEAD(removal_list, removal);

struct image_state {
    struct engine *en;
    struct layer *layers;
    struct image_op_list ops;              /* puts and removals of images */
    struct import_list importing, waiting; /* imports that run, and those whose turn comes */
    struct removal_list removals;
    unsigned importing_count, waiting_count, removing;
    bool collect_due; /* when the last import has ended */
    bool box_keeps;   /* the last collection left a layer only because of a sandbox */
};

/* ---- image.c ---------------------------------------------------------------------------------------------------- */
/* A collection has ended: tells those whose removal of an image waited for it. */
void image_ops_collected(struct image_state *st);

/* ---- image-layer.c ---------------------------------------------------------------------------------------------- */
struct layer *layer_find(struct image_state *st, const char *digest);
int layer_add(struct image_state *st, const char *digest, uint64_t bytes, struct layer **ret);
/* LAYERS have got an image: they need no time to get one any more. */
void layers_named(struct image_state *st, char *const *layers);
/* Starts the removal of all layers that nobody uses; image_ops_collected() is called when st->removing is 0 again. */
void layers_collect(struct image_state *st);
void imports_free(struct image_state *st);
