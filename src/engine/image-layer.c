/* Layers: importing one through an imager, and removing those that nobody uses. */
#include "engine/image-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "wire/im.h"

/* One import: waits for its turn, then for the imager to be started, for its answer, for the record. */
struct import {
    struct op op;
    TAILQ_ENTRY(import) link;
    struct image_state *st;
    bool running; /* in st->importing */
    int input;    /* until the imager has it */
    int result;   /* of the imager; -1 before and after */
    struct io io;
    struct defer fire; /* tells a failure that was known at once */
    struct err err;
    layer_cb cb;
    void *arg;
    struct im_layer layer;
    char digest[IMAGE_DIGEST_LEN + 1];
    char **notes;
};

/* ---- the table ------------------------------------------------------------------------------------------------------ */

struct layer *layer_find(struct image_state *st, const char *digest)
{
    struct layer *l;

    HASH_FIND_STR(st->layers, digest, l);
    return l;
}

int layer_add(struct image_state *st, const char *digest, uint64_t bytes, struct layer **ret)
{
    struct layer *l = layer_find(st, digest);

    if (l == NULL) {
        if (strlen(digest) != IMAGE_DIGEST_LEN)
            return -EINVAL;
        l = calloc(1, sizeof *l);
        if (l == NULL)
            return -ENOMEM;
        memcpy(l->digest, digest, sizeof l->digest);
        HASH_ADD_STR(st->layers, digest, l);
    }
    l->bytes = bytes;
    *ret = l;
    return 0;
}

/* ---- removal ---------------------------------------------------------------------------------------------------------- */

struct removal {
    TAILQ_ENTRY(removal) link;
    struct image_state *st;
    struct layer *layer;
};

static void start_waiting(struct image_state *st);

static void removal_ended(struct removal *rm)
{
    struct image_state *st = rm->st;

    TAILQ_REMOVE(&st->removals, rm, link);
    free(rm);
    if (--st->removing > 0)
        return;
    start_waiting(st);
    image_ops_collected(st);
}

static void removed(void *arg, const struct err *e)
{
    struct removal *rm = arg;
    struct layer *l = rm->layer;

    if (e == NULL) {
        HASH_DEL(rm->st->layers, l);
        free(l);
    } else {
        /* It is still there, so it must be known, to be removed another time. */
        log_warn(NULL, "layer %s stays: %s", l->digest, e->msg);
        l->removing = false;
        if (store_put_layer(rm->st->en->store, l->digest, l->bytes, NULL, NULL) < 0)
            log_error(NULL, "layer %s is not recorded: the database takes no more writes", l->digest);
    }
    removal_ended(rm);
}

/* The record goes first: a crash in between leaves a directory nobody knows, which an import of the same content takes over,
 * and never a record without its directory. */
static void record_removed(void *arg, const struct err *e)
{
    struct removal *rm = arg;
    struct err down;

    if (e != NULL) {
        log_warn(NULL, "layer %s stays: %s", rm->layer->digest, e->msg);
        rm->layer->removing = false;
        removal_ended(rm);
        return;
    }
    if (spawner_layer_rm(rm->st->en->spawner, rm->layer->digest, removed, rm) == NULL) {
        (void)err_typed(&down, ERR_UNAVAILABLE, NULL, "the spawner cannot be asked");
        removed(rm, &down);
    }
}

static void start_removal(struct image_state *st, struct layer *l)
{
    struct removal *rm = malloc(sizeof *rm);

    if (rm == NULL)
        return; /* the next collection finds it again */
    *rm = (struct removal){.st = st, .layer = l};
    if (store_del_layer(st->en->store, l->digest, record_removed, rm) < 0) {
        free(rm);
        return; /* likewise */
    }
    TAILQ_INSERT_TAIL(&st->removals, rm, link);
    l->removing = true;
    st->removing++;
}

void layers_named(struct image_state *st, char *const *layers)
{
    for (; *layers != NULL; layers++) {
        struct layer *l = layer_find(st, *layers);

        if (l != NULL)
            l->fresh_until = 0;
    }
}

static void mark(struct image_state *st, char *const *layers)
{
    for (; layers != NULL && *layers != NULL; layers++) {
        struct layer *l = layer_find(st, *layers);

        if (l != NULL)
            l->used = true;
    }
}

void layers_collect(struct image_state *st)
{
    uint64_t now = loop_now(st->en->loop);
    struct image *i, *next_image;
    struct layer *l, *next;
    struct box *b, *next_box;

    st->collect_due = st->importing_count > 0;
    if (st->collect_due || st->en->stopping)
        return;
    st->box_keeps = false;
    HASH_ITER (hh, st->layers, l, next) {
        l->used = l->pins > 0 || l->fresh_until > now;
        l->by_box = false;
    }
    HASH_ITER (hh, st->en->images, i, next_image)
        mark(st, i->rec->layers);
    HASH_ITER (hh, st->en->boxes, b, next_box) {
        if (box_state_ended(b->state) && b->hold == BOX_HOLD_NONE)
            continue;
        for (char **d = b->rec->layers; d != NULL && *d != NULL; d++) {
            l = layer_find(st, *d);
            if (l != NULL)
                l->by_box = true;
        }
    }
    HASH_ITER (hh, st->layers, l, next) {
        if (l->used || l->removing)
            continue;
        if (l->by_box)
            st->box_keeps = true;
        else
            start_removal(st, l);
    }
}

void images_box_released(struct engine *en)
{
    struct image_state *st = en->image_state;

    if (st != NULL && st->box_keeps)
        layers_collect(st);
}

/* ---- import ------------------------------------------------------------------------------------------------------------ */

static void import_free(struct import *im)
{
    struct image_state *st = im->st;

    if (im->running) {
        TAILQ_REMOVE(&st->importing, im, link);
        st->importing_count--;
    } else {
        TAILQ_REMOVE(&st->waiting, im, link);
        st->waiting_count--;
    }
    defer_stop(&im->fire);
    io_stop(&im->io);
    fd_close(im->input);
    fd_close(im->result);
    store_list_free(im->notes);
    free(im);
}

/* The end, of whatever kind: E NULL is success. */
static void tell(struct import *im, const struct err *e)
{
    static const char *const none[] = {NULL};
    struct image_state *st = im->st;

    if (!im->op.dropped && e != NULL)
        im->cb(im->arg, e, NULL, 0, none);
    else if (!im->op.dropped)
        im->cb(im->arg, NULL, im->digest, im->layer.unpacked_bytes,
               im->notes != NULL ? (const char *const *)im->notes : none);
    import_free(im);
    start_waiting(st);
    if (st->importing_count == 0)
        layers_collect(st);
}

static void fire(struct defer *d)
{
    struct import *im = container_of(d, struct import, fire);

    tell(im, &im->err);
}

/* The layers of one image arrive one after the other: its time to be named begins anew with each. */
static void keep_fresh(struct image_state *st, struct layer *newest)
{
    uint64_t until = loop_now(st->en->loop) + LAYER_FRESH_S * NSEC_PER_SEC;
    struct layer *l, *next;

    newest->fresh_until = until;
    HASH_ITER (hh, st->layers, l, next) {
        if (l->fresh_until != 0)
            l->fresh_until = until;
    }
}

static void recorded(void *arg, const struct err *e)
{
    struct import *im = arg;
    struct err why;
    struct layer *l;

    if (e == NULL && layer_add(im->st, im->digest, im->layer.unpacked_bytes, &l) < 0) {
        (void)err_set(&why, ENOMEM, "%m");
        e = &why;
    }
    if (e == NULL)
        keep_fresh(im->st, l);
    tell(im, e);
}

static int copy_notes(struct import *im, const struct wire_msg *m, bool *bad)
{
    AUTO_FREE const char **notes = wire_get_vec(m, im->layer.notes, LAYER_NOTES_KEPT_MAX, bad);
    size_t n = 0;

    if (*bad)
        return -EBADMSG;
    while (notes[n] != NULL)
        n++;
    im->notes = calloc(n + 1, sizeof *im->notes);
    for (size_t i = 0; im->notes != NULL && i < n; i++) {
        im->notes[i] = strdup(notes[i]);
        if (im->notes[i] == NULL)
            return -ENOMEM;
    }
    return im->notes != NULL ? 0 : -ENOMEM;
}

static int take_layer(struct import *im, const struct wire_msg *m, struct err *e)
{
    const char *digest;
    bool bad = false;
    int r;

    im->layer = *(const struct im_layer *)m->body;
    digest = wire_get_str(m, im->layer.digest, &bad);
    if (bad || digest == NULL || strlen(digest) != IMAGE_DIGEST_LEN ||
        strspn(digest, "0123456789abcdef") != IMAGE_DIGEST_LEN)
        return err_set(e, EBADMSG, "the imager's answer is malformed");
    memcpy(im->digest, digest, sizeof im->digest);
    r = copy_notes(im, m, &bad);
    if (r < 0)
        return bad ? err_set(e, EBADMSG, "the imager's answer is malformed") : err_set(e, ENOMEM, "%m");
    return 0;
}

static int take_failure(const struct wire_msg *m, struct err *e)
{
    const struct im_failed *f = m->body;
    bool bad = false;
    const char *msg = wire_get_str(m, f->msg, &bad);

    if (bad || msg == NULL || f->code >= 0 || f->kind == ERR_NONE || f->kind >= ERR_KIND_COUNT)
        return err_set(e, EBADMSG, "the imager's answer is malformed");
    (void)err_set(e, f->code, "%s", msg);
    e->kind = (enum err_kind)f->kind;
    return e->code;
}

static void answered(struct io *io, uint32_t events)
{
    struct import *im = container_of(io, struct import, io);
    AUTO_FREE void *buf = aligned_alloc(8, WIRE_DATAGRAM_MAX);
    struct wire_msg m = {0};
    struct err e;
    int r;

    (void)events; /* end of file is a message of its own: none */
    r = buf != NULL ? wire_recv(im->result, buf, WIRE_DATAGRAM_MAX, im_body_size, &m) : -ENOMEM;
    if (r == -EAGAIN)
        return;
    io_stop(io);
    fd_closep(&im->result);
    if (r == 0)
        r = err_typed(&e, ERR_INTERNAL, NULL, "the imager died before it answered");
    else if (r < 0)
        r = err_set(&e, r, "cannot read the imager's answer: %m");
    else if (m.head->type == IM_FAILED)
        r = take_failure(&m, &e);
    else
        r = take_layer(im, &m, &e);
    wire_msg_fini(&m);
    if (r == 0 && store_put_layer(im->st->en->store, im->digest, im->layer.unpacked_bytes, recorded, im) < 0)
        r = err_typed(&e, ERR_UNAVAILABLE, NULL, "the database takes no more writes at the moment; try again");
    if (r < 0)
        tell(im, &e);
}

static void imager_up(void *arg, const struct err *e, int result_fd)
{
    struct import *im = arg;
    struct err why;
    int r;

    if (e != NULL) {
        why = *e;
        (void)err_ctx(&why, "cannot start an imager");
        tell(im, &why);
        return;
    }
    im->result = result_fd;
    (void)fcntl(result_fd, F_SETFL, O_NONBLOCK); /* cannot fail on a socket; EPOLLIN would do without */
    r = io_start(im->st->en->loop, &im->io, result_fd, EPOLLIN, answered);
    if (r < 0) {
        (void)err_set(&why, r, "cannot wait for the imager: %m");
        tell(im, &why);
    }
}

static void start(struct import *im)
{
    const struct sp_imager req = {.op = SP_IM_LAYER, .max_bytes = LAYER_UNPACKED_MAX, .max_entries = LAYER_ENTRIES_MAX};
    struct image_state *st = im->st;

    TAILQ_REMOVE(&st->waiting, im, link);
    st->waiting_count--;
    TAILQ_INSERT_TAIL(&st->importing, im, link);
    st->importing_count++;
    im->running = true;
    if (spawner_imager(st->en->spawner, &req, take_fd(&im->input), imager_up, im) == NULL) {
        (void)err_typed(&im->err, ERR_UNAVAILABLE, NULL, "cannot start an imager: the spawner cannot be asked");
        defer_start(st->en->loop, &im->fire, fire);
    }
}

static void start_waiting(struct image_state *st)
{
    struct import *im, *next;

    if (st->removing > 0 || st->en->stopping)
        return;
    for (im = TAILQ_FIRST(&st->waiting); im != NULL && st->importing_count < LAYER_IMPORTS_MAX; im = next) {
        next = TAILQ_NEXT(im, link);
        if (!im->fire.queued) /* it was refused and is about to be told */
            start(im);
    }
}

struct op *engine_layer_import(struct engine *en, int fd, layer_cb cb, void *arg)
{
    struct image_state *st = en->image_state;
    struct import *im = calloc(1, sizeof *im);

    if (im == NULL) {
        fd_close(fd);
        return NULL;
    }
    im->st = st;
    im->input = fd;
    im->result = -1;
    im->cb = cb;
    im->arg = arg;
    TAILQ_INSERT_TAIL(&st->waiting, im, link);
    st->waiting_count++;
    if (st->waiting_count > LAYER_IMPORTS_WAITING_MAX) {
        (void)err_typed(&im->err, ERR_EXHAUSTED, NULL, "%d layers are waiting to be unpacked already; try again later",
                        LAYER_IMPORTS_WAITING_MAX);
        defer_start(en->loop, &im->fire, fire);
        return &im->op;
    }
    start_waiting(st);
    return &im->op;
}

/* The spawner's link and the store are closed: nothing calls back any more. */
void imports_free(struct image_state *st)
{
    struct removal *rm;
    struct import *im;

    while ((rm = TAILQ_FIRST(&st->removals)) != NULL) {
        TAILQ_REMOVE(&st->removals, rm, link);
        free(rm);
    }
    while ((im = TAILQ_FIRST(&st->importing)) != NULL)
        import_free(im);
    while ((im = TAILQ_FIRST(&st->waiting)) != NULL)
        import_free(im);
}
