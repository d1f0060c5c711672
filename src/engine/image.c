/* Names of images: an image is a list of layers and a configuration under a name. The table in memory follows the
 * store: it changes when a write is committed, so that nobody sees an image that a crash would take back. */
#include "engine/image-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"

/* A put or a removal under way. */
struct image_op {
    struct op op;
    TAILQ_ENTRY(image_op) link;
    struct image_state *st;
    struct defer fire; /* tells a failure that was known at once */
    struct err err;
    image_cb cb;
    void *arg;
    struct image_record *rec; /* put: what is written; removal: its name */
    struct image *removed;
    bool collecting; /* a removal that waits for its layers */
};

/* ---- the table -------------------------------------------------------------------------------------------------- */

static void image_free(struct image *i)
{
    if (i == NULL)
        return;
    image_record_free(i->rec);
    free(i->config);
    free(i);
}

/* Takes REC. */
static int image_new(struct image_record *rec, struct image **ret, struct err *e)
{
    struct image *i = calloc(1, sizeof *i);
    int r;

    if (i == NULL) {
        image_record_free(rec);
        return err_set(e, ENOMEM, "%m");
    }
    i->rec = rec;
    r = image_config_parse(rec->config_json, strlen(rec->config_json), &i->config, e);
    if (r < 0) {
        image_free(i);
        return r;
    }
    *ret = i;
    return 0;
}

static struct image *find(struct engine *en, const char *name)
{
    struct image *i;

    HASH_FIND_STR(en->images, name, i);
    return i;
}

/* Takes I; an image of this name is replaced. */
static void insert(struct engine *en, struct image *i)
{
    struct image *old = find(en, i->rec->name);

    if (old != NULL) {
        HASH_DEL(en->images, old);
        image_free(old);
    }
    HASH_ADD_KEYPTR(hh, en->images, i->rec->name, strlen(i->rec->name), i);
}

static void fill_info(const struct image *i, struct image_info *ret)
{
    *ret = (struct image_info){
        .name = i->rec->name,
        .digest = i->rec->digest,
        .layers = (const char *const *)i->rec->layers,
        .config = *i->config,
        .bytes = i->rec->bytes,
        .created_ns = i->rec->created_ns,
    };
}

/* "python:3.11" and "python:latest" are of one repository. */
static bool same_repository(const char *a, const char *b)
{
    size_t n = (size_t)(strrchr(a, ':') - a);

    return n == (size_t)(strrchr(b, ':') - b) && memcmp(a, b, n) == 0;
}

static int find_reference(struct engine *en, const char *text, struct image **ret, struct err *e)
{
    struct image_reference ref;
    struct image *i, *next;
    int r;

    r = image_reference_parse(text, &ref, e);
    if (r < 0)
        return r;
    if (ref.digest[0] == '\0') {
        *ret = find(en, ref.name);
        return *ret != NULL ? 0 : err_typed(e, ERR_NOT_FOUND, NULL, "there is no image '%s' on this machine", ref.name);
    }
    HASH_ITER (hh, en->images, i, next) {
        if (strcmp(i->rec->digest, ref.digest) == 0 &&
            (ref.tagged ? strcmp(i->rec->name, ref.name) == 0 : same_repository(i->rec->name, ref.name))) {
            *ret = i;
            return 0;
        }
    }
    return err_typed(e, ERR_NOT_FOUND, NULL, "there is no image '%s' with digest sha256:%s on this machine", ref.name,
                     ref.digest);
}

int engine_image_get(struct engine *en, const char *name, struct image_info *ret, struct err *e)
{
    struct image *i;
    int r;

    r = find_reference(en, name, &i, e);
    if (r < 0)
        return r;
    fill_info(i, ret);
    return 0;
}

static int by_name(const struct image *a, const struct image *b)
{
    return strcmp(a->rec->name, b->rec->name);
}

int engine_image_list(struct engine *en, void (*each)(void *arg, const struct image_info *info), void *arg,
                      struct err *e)
{
    struct image *i, *next;

    (void)e; /* reading memory cannot fail */
    HASH_SRT(hh, en->images, by_name);
    HASH_ITER (hh, en->images, i, next) {
        struct image_info info;

        fill_info(i, &info);
        each(arg, &info);
    }
    return 0;
}

/* ---- operations -------------------------------------------------------------------------------------------------- */

static struct image_op *op_new(struct engine *en, image_cb cb, void *arg)
{
    struct image_op *o = calloc(1, sizeof *o);

    if (o == NULL)
        return NULL;
    o->st = en->image_state;
    o->cb = cb;
    o->arg = arg;
    TAILQ_INSERT_TAIL(&o->st->ops, o, link);
    return o;
}

static void op_free(struct image_op *o)
{
    TAILQ_REMOVE(&o->st->ops, o, link);
    defer_stop(&o->fire);
    image_record_free(o->rec);
    image_free(o->removed);
    free(o);
}

static void tell(struct image_op *o, const struct err *e, const struct image *i)
{
    struct image_info info;

    if (i != NULL)
        fill_info(i, &info);
    if (!o->op.dropped)
        o->cb(o->arg, e, i != NULL ? &info : NULL);
    op_free(o);
}

static void fire(struct defer *d)
{
    struct image_op *o = container_of(d, struct image_op, fire);

    tell(o, &o->err, NULL);
}

/* What failed before anything was started: told at the end of the turn. */
static struct op *failed(struct image_op *o)
{
    defer_start(o->st->en->loop, &o->fire, fire);
    return &o->op;
}

/* ---- put ----------------------------------------------------------------------------------------------------------- */

static int copy_layers(struct image_state *st, const char *const *layers, struct image_record *rec, struct err *e)
{
    size_t n = 0;

    while (layers != NULL && layers[n] != NULL && n <= IMAGE_LAYERS_MAX)
        n++;
    if (n == 0 || n > IMAGE_LAYERS_MAX)
        return err_typed(e, ERR_INVALID, NULL, "an image has 1 to %d layers", IMAGE_LAYERS_MAX);
    rec->layers = calloc(n + 1, sizeof *rec->layers);
    if (rec->layers == NULL)
        return err_set(e, ENOMEM, "%m");
    for (size_t i = 0; i < n; i++) {
        const struct layer *l = layer_find(st, layers[i]);

        if (l == NULL || l->removing)
            return err_typed(e, ERR_NOT_FOUND, NULL, "there is no layer '%.80s' on this machine", layers[i]);
        rec->bytes += l->bytes;
        rec->layers[i] = strdup(l->digest);
        if (rec->layers[i] == NULL)
            return err_set(e, ENOMEM, "%m");
    }
    return 0;
}

static int make_record(struct image_op *o, const char *name, const char *const *layers,
                       const struct image_config *config, struct err *e)
{
    struct image_record *rec = o->rec = calloc(1, sizeof *rec);
    char digest[IMAGE_DIGEST_LEN + 1];
    struct image_reference ref;
    int r;

    if (rec == NULL)
        return err_set(e, ENOMEM, "%m");
    r = image_reference_parse(name, &ref, e);
    if (r < 0)
        return r;
    if (ref.digest[0] != '\0')
        return err_typed(e, ERR_INVALID, NULL, "an image is given a name, not a digest: leave out '@sha256:...'");
    r = image_config_format(config, &rec->config_json, e);
    if (r == 0)
        r = copy_layers(o->st, layers, rec, e);
    if (r == 0)
        r = image_digest((const char *const *)rec->layers, rec->config_json, digest, e);
    if (r < 0)
        return r;
    rec->name = strdup(ref.name);
    rec->digest = strdup(digest);
    rec->created_ns = clock_wall();
    return rec->name != NULL && rec->digest != NULL ? 0 : err_set(e, ENOMEM, "%m");
}

/* Layers of an image that is being written are in use already. */
static void pin(struct image_op *o, bool on)
{
    for (char **d = o->rec->layers; *d != NULL; d++) {
        struct layer *l = layer_find(o->st, *d);

        if (l == NULL)
            continue;
        l->pins += on ? 1 : -1;
    }
}

static void put_done(void *arg, const struct err *e)
{
    struct image_op *o = arg;
    struct image *i = NULL;
    struct err bad;

    pin(o, false);
    if (e == NULL && image_new(take_ptr(o->rec), &i, &bad) < 0)
        e = &bad;
    if (e != NULL) {
        tell(o, e, NULL);
        return;
    }
    insert(o->st->en, i);
    layers_named(o->st, i->rec->layers);
    layers_collect(o->st); /* an image of this name may have left some */
    tell(o, NULL, i);
}

struct op *engine_image_put(struct engine *en, const char *name, const char *const *layers,
                            const struct image_config *config, image_cb cb, void *arg)
{
    struct image_op *o = op_new(en, cb, arg);
    int r;

    if (o == NULL)
        return NULL;
    r = make_record(o, name, layers, config, &o->err);
    if (r < 0)
        return failed(o);
    pin(o, true);
    r = store_put_image(en->store, o->rec, put_done, o);
    if (r < 0) {
        pin(o, false);
        (void)err_typed(&o->err, ERR_UNAVAILABLE, NULL, "the database takes no more writes at the moment; try again");
        return failed(o);
    }
    return &o->op;
}

/* ---- remove -------------------------------------------------------------------------------------------------------- */

static void remove_done(void *arg, const struct err *e)
{
    struct image_op *o = arg;
    struct err gone;
    struct image *i;

    if (e != NULL) {
        tell(o, e, NULL);
        return;
    }
    i = find(o->st->en, o->rec->name);
    if (i == NULL) { /* another removal was faster */
        (void)err_typed(&gone, ERR_NOT_FOUND, NULL, "there is no image '%s' on this machine", o->rec->name);
        tell(o, &gone, NULL);
        return;
    }
    HASH_DEL(o->st->en->images, i);
    o->removed = i;
    o->collecting = true;
    layers_collect(o->st);
    if (o->st->removing == 0)
        image_ops_collected(o->st);
}

void image_ops_collected(struct image_state *st)
{
    struct image_op *o;

    /* From the start after each one: a callback may ask for the next thing. */
    do {
        TAILQ_FOREACH (o, &st->ops, link) {
            if (o->collecting)
                break;
        }
        if (o != NULL)
            tell(o, NULL, o->removed);
    } while (o != NULL && st->removing == 0);
}

struct op *engine_image_remove(struct engine *en, const char *name, image_cb cb, void *arg)
{
    struct image_op *o = op_new(en, cb, arg);
    struct image *i;

    if (o == NULL)
        return NULL;
    if (find_reference(en, name, &i, &o->err) < 0)
        return failed(o);
    o->rec = calloc(1, sizeof *o->rec);
    if (o->rec == NULL || (o->rec->name = strdup(i->rec->name)) == NULL) {
        (void)err_set(&o->err, ENOMEM, "%m");
        return failed(o);
    }
    if (store_del_image(en->store, o->rec->name, remove_done, o) < 0) {
        (void)err_typed(&o->err, ERR_UNAVAILABLE, NULL, "the database takes no more writes at the moment; try again");
        return failed(o);
    }
    return &o->op;
}

/* ---- start and end --------------------------------------------------------------------------------------------------- */

static void load_layer(void *arg, const char *digest, uint64_t bytes)
{
    struct layer *l;

    if (layer_add(arg, digest, bytes, &l) < 0)
        log_error(NULL, "layer %.64s is not used: no memory for it", digest);
}

static void load_image(void *arg, struct image_record *rec)
{
    struct image_state *st = arg;
    struct image *i;
    struct err e;

    if (image_new(rec, &i, &e) < 0) {
        log_error(NULL, "an image is not used, its record is damaged: %s", e.msg);
        return;
    }
    insert(st->en, i);
}

int images_load(struct engine *en, struct err *e)
{
    struct image_state *st = calloc(1, sizeof *st);
    int r;

    if (st == NULL)
        return err_set(e, ENOMEM, "%m");
    st->en = en;
    TAILQ_INIT(&st->ops);
    TAILQ_INIT(&st->importing);
    TAILQ_INIT(&st->waiting);
    TAILQ_INIT(&st->removals);
    en->image_state = st;
    r = store_load_layers(en->store, load_layer, st, e);
    if (r == 0)
        r = store_load_images(en->store, load_image, st, e);
    return r;
}

void images_free(struct engine *en)
{
    struct image_state *st = en->image_state;
    struct image *i, *next;
    struct layer *l, *after;
    struct image_op *o;

    HASH_ITER (hh, en->images, i, next) {
        HASH_DEL(en->images, i);
        image_free(i);
    }
    if (st == NULL)
        return;
    imports_free(st);
    while ((o = TAILQ_FIRST(&st->ops)) != NULL)
        op_free(o);
    HASH_ITER (hh, st->layers, l, after) {
        HASH_DEL(st->layers, l);
        free(l);
    }
    free(st);
    en->image_state = NULL;
}
