/* Images and layers in the admin API. A layer's body goes to the imager through a pipe, as fast as the imager takes it:
 * while the pipe is full, the peer is not read. */
#include "api/admin/admin-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/fd.h"

enum { NAME_MAX_BYTES = 512, LAYERS_MAX = 128, WORDS_MAX = 4096, PIPE_BYTES = 1 << 20 };

static void put_words(struct jw *j, const char *key, const char *const *words)
{
    jw_key(j, key);
    jw_array(j);
    for (; words != NULL && *words != NULL; words++)
        jw_str(j, *words);
    jw_array_end(j);
}

static void put_image(void *arg, const struct image_info *i)
{
    struct jw *j = arg;

    jw_object(j);
    jw_kstr(j, "name", i->name);
    jw_kstr(j, "digest", i->digest);
    jw_kuint(j, "bytes", i->bytes);
    jw_ktime(j, "created", i->created_ns);
    put_words(j, "layers", i->layers);
    jw_key(j, "config");
    jw_object(j);
    put_words(j, "env", i->config.env);
    put_words(j, "entrypoint", i->config.entrypoint);
    put_words(j, "cmd", i->config.cmd);
    jw_kstr(j, "workdir", i->config.workdir);
    jw_kstr(j, "user", i->config.user);
    jw_object_end(j);
    jw_object_end(j);
}

void admin_image_list(struct admin_req *q)
{
    struct jw *j = admin_json(q);
    struct err e;

    jw_object(j);
    jw_key(j, "images");
    jw_array(j);
    if (engine_image_list(q->admin->en, put_image, j, &e) < 0) {
        admin_fail(q, &e);
        return;
    }
    jw_array_end(j);
    jw_object_end(j);
    admin_send(q, 200);
}

static void image_done(void *arg, const struct err *e, const struct image_info *info)
{
    struct admin_req *q = arg;
    struct jw *j;

    if (e != NULL) {
        admin_fail(q, e);
        return;
    }
    j = admin_json(q);
    if (info != NULL) {
        put_image(j, info);
    } else {
        jw_object(j);
        jw_object_end(j);
    }
    admin_send(q, 200);
}

/* A JSON array of strings as a NULL-terminated array that borrows them. NULL with *RET_BAD when it is anything else. */
static const char **words_of(const json_t *array, size_t max, bool *ret_bad)
{
    const char **words;
    size_t n = json_array_size(array);

    if (array == NULL || json_is_null(array))
        return NULL;
    if (!json_is_array(array) || n > max) {
        *ret_bad = true;
        return NULL;
    }
    words = calloc(n + 1, sizeof *words);
    for (size_t i = 0; words != NULL && i < n; i++) {
        words[i] = json_string_value(json_array_get(array, i));
        if (words[i] == NULL)
            *ret_bad = true;
    }
    if (words == NULL || *ret_bad) {
        *ret_bad = true;
        free(words);
        return NULL;
    }
    return words;
}

static const char *word_of(const json_t *v, bool *ret_bad)
{
    if (v == NULL || json_is_null(v))
        return NULL;
    *ret_bad |= !json_is_string(v);
    return json_string_value(v);
}

static bool no_strangers(json_t *object, const char *const *known, struct err *e)
{
    const char *key;
    json_t *value;

    json_object_foreach(object, key, value)
    {
        const char *const *k = known;

        while (*k != NULL && strcmp(*k, key) != 0)
            k++;
        if (*k == NULL) {
            (void)err_typed(e, ERR_INVALID, NULL, "unknown field '%s'", key);
            return false;
        }
    }
    return true;
}

static void put_parsed(struct admin_req *q, const char *name, json_t *root)
{
    static const char *const top[] = {"layers", "config", NULL};
    static const char *const fields[] = {"env", "entrypoint", "cmd", "workdir", "user", NULL};
    json_t *config = json_object_get(root, "config");
    struct image_config c = {0};
    const char **layers, **env, **entrypoint, **cmd;
    bool bad = false;
    struct err e;

    if (!no_strangers(root, top, &e) || (config != NULL && !no_strangers(config, fields, &e))) {
        admin_fail(q, &e);
        return;
    }
    layers = words_of(json_object_get(root, "layers"), LAYERS_MAX, &bad);
    c.env = env = words_of(json_object_get(config, "env"), WORDS_MAX, &bad);
    c.entrypoint = entrypoint = words_of(json_object_get(config, "entrypoint"), WORDS_MAX, &bad);
    c.cmd = cmd = words_of(json_object_get(config, "cmd"), WORDS_MAX, &bad);
    c.workdir = word_of(json_object_get(config, "workdir"), &bad);
    c.user = word_of(json_object_get(config, "user"), &bad);
    bad |= config != NULL && !json_is_object(config) && !json_is_null(config);
    if (bad || layers == NULL) {
        (void)err_typed(&e, ERR_INVALID, NULL,
                        "an image is {\"layers\": [digest...], \"config\": {env, entrypoint, cmd: lists of strings; "
                        "workdir, user: strings}}");
        admin_fail(q, &e);
    } else {
        admin_wait(q, engine_image_put(q->admin->en, name, layers, &c, image_done, q));
    }
    free(layers);
    free(env);
    free(entrypoint);
    free(cmd);
}

void admin_image_put(struct admin_req *q)
{
    char name[NAME_MAX_BYTES];
    json_error_t why;
    json_t *root;
    struct err e;

    if (!admin_query(q, "name", name, sizeof name)) {
        (void)err_typed(&e, ERR_INVALID, NULL, "the image's name is missing or too long (?name=...)");
        admin_fail(q, &e);
        return;
    }
    root = json_loadb((const char *)q->body.data, q->body.len, JSON_REJECT_DUPLICATES, &why);
    if (!json_is_object(root)) {
        (void)err_typed(&e, ERR_INVALID, NULL, "the body is not a JSON object: %s",
                        root == NULL ? why.text : "wrong type");
        admin_fail(q, &e);
    } else {
        put_parsed(q, name, root);
    }
    json_decref(root);
}

void admin_image_remove(struct admin_req *q)
{
    char name[NAME_MAX_BYTES];
    struct err e;

    if (!admin_query(q, "name", name, sizeof name)) {
        (void)err_typed(&e, ERR_INVALID, NULL, "the image's name is missing or too long (?name=...)");
        admin_fail(q, &e);
        return;
    }
    admin_wait(q, engine_image_remove(q->admin->en, name, image_done, q));
}

/* ---- layers --------------------------------------------------------------------------------------------------- */

struct layer_upload {
    struct admin_req *q;
    struct io io;
    int fd;          /* write end; -1 once everything is written or the imager has gone */
    struct buf rest; /* what the pipe did not take; the peer is paused meanwhile */
    bool ended;      /* the peer has sent everything */
};

void layer_upload_free(struct layer_upload *u)
{
    if (u == NULL)
        return;
    io_stop(&u->io);
    fd_close(u->fd);
    buf_fini(&u->rest);
    free(u);
}

static void close_pipe(struct layer_upload *u)
{
    io_stop(&u->io);
    fd_close(u->fd);
    u->fd = -1;
}

/* Writes DATA; returns how much the pipe took. EPIPE: the imager has seen enough, its answer says why. */
static size_t offer(struct layer_upload *u, const uint8_t *data, size_t len)
{
    size_t done = 0;

    while (u->fd >= 0 && done < len) {
        ssize_t n = write(u->fd, data + done, len - done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return done;
        if (n < 0) {
            close_pipe(u);
            break;
        }
        done += (size_t)n;
    }
    return u->fd < 0 ? len : done;
}

static void pipe_ready(struct io *io, uint32_t events)
{
    struct layer_upload *u = container_of(io, struct layer_upload, io);

    if ((events & EPOLLERR) != 0) { /* no reader any more */
        close_pipe(u);
        u->rest.len = 0;
    } else {
        buf_consume(&u->rest, offer(u, u->rest.data, u->rest.len));
        if (u->rest.len > 0)
            return;
    }
    if (u->fd >= 0)
        (void)io_set(&u->io, 0);
    if (u->ended)
        close_pipe(u);
    else
        http_pause(u->q->http, false);
}

void layer_upload_body(struct admin_req *q, const uint8_t *data, size_t len)
{
    struct layer_upload *u = q->upload;
    size_t done = offer(u, data, len);

    if (done == len)
        return;
    if (buf_append(&u->rest, data + done, len - done) < 0) {
        close_pipe(u); /* the imager sees a cut archive and says so */
        return;
    }
    http_pause(q->http, true);
    (void)io_set(&u->io, EPOLLOUT);
}

void layer_upload_end(struct admin_req *q)
{
    q->upload->ended = true;
    if (q->upload->rest.len == 0)
        close_pipe(q->upload);
}

static void layer_done(void *arg, const struct err *e, const char *digest, uint64_t bytes, const char *const *notes)
{
    struct admin_req *q = arg;
    struct jw *j;

    if (e != NULL) {
        admin_fail(q, e);
        return;
    }
    j = admin_json(q);
    jw_object(j);
    jw_kstr(j, "digest", digest);
    jw_kuint(j, "bytes", bytes);
    put_words(j, "notes", notes);
    jw_object_end(j);
    admin_send(q, 200);
}

void admin_layer_stream(struct admin_req *q)
{
    struct layer_upload *u = calloc(1, sizeof *u);
    int fds[2] = {-1, -1};
    struct err e;

    if (u == NULL || pipe2(fds, O_CLOEXEC) < 0) {
        free(u);
        (void)err_typed(&e, ERR_EXHAUSTED, NULL, "no pipe for the layer");
        admin_fail(q, &e);
        return;
    }
    u->q = q;
    u->fd = fds[1];
    (void)fcntl(fds[1], F_SETPIPE_SZ, PIPE_BYTES);       /* only speed */
    (void)fcntl(fds[1], F_SETFL, O_NONBLOCK | O_WRONLY); /* the imager's end stays blocking */
    q->upload = u;
    if (io_start(http_loop(q->http), &u->io, u->fd, 0, pipe_ready) < 0) {
        fd_close(fds[0]);
        (void)err_typed(&e, ERR_EXHAUSTED, NULL, "no descriptor for the layer");
        admin_fail(q, &e);
        return;
    }
    admin_wait(q, engine_layer_import(q->admin->en, fds[0], layer_done, q));
}
