/* Whole files of a sandbox, read and written from outside.
 *
 * Init opens the path as the sandbox's own user inside its root and passes the descriptor of a regular file, whose bytes move
 * on a pool thread (a disk may take its time), or one end of a pipe behind which a helper copies what could block, which
 * the loop reads and writes. The sandbox may change the file meanwhile: no size is believed, what is read never exceeds the
 * caller's limit. Loop thread, except for run_*(). */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/fd.h"
#include "engine/given-fd.h"
#include "engine/init-link.h"

enum {
    FILE_PIECE = 1 << 20,     /* one read or write */
    FILE_DEADLINE_MS = 30000, /* from the request to the last byte */
    FILE_GROW = 64 << 10,
    FILE_PATH_SHOWN = 200,
    PUMP_TURN = 16, /* reads a turn */
};

struct file_op {
    struct op op; /* first: the caller's handle */
    struct engine *en;
    char *path;
    bool write, told, pumped;
    uint64_t max;
    uint8_t *data; /* to be written */
    size_t len, done;
    struct chunk *content;
    int fd, verdict_fd; /* verdict_fd: where a pump says how it went, or -1 */
    struct err err;     /* code 0: fine */
    file_cb cb;
    void *arg;
    struct work work;
    struct io io;
    struct timer deadline;
    struct defer later;
    unsigned pending; /* the answer of init, the pool: who will still come back with F */
};

/* ---- errors ------------------------------------------------------------------------------------------------------------ */

static const struct {
    int code;
    enum err_kind kind;
    const char *reason, *text;
} file_errors[] = {
    {ENOENT, ERR_NOT_FOUND, "FILE_NOT_FOUND", "does not exist"},
    {EISDIR, ERR_PRECONDITION, "FILE_IS_DIRECTORY", "is a directory"},
    {EACCES, ERR_PERMISSION, "FILE_PERMISSION_DENIED", NULL},
    {EPERM, ERR_PERMISSION, "FILE_PERMISSION_DENIED", NULL},
    {EROFS, ERR_PERMISSION, "FILE_PERMISSION_DENIED", NULL},
    {ELOOP, ERR_INVALID, "FILE_IO_FAILED", NULL},
    {ENAMETOOLONG, ERR_INVALID, "FILE_IO_FAILED", NULL},
    {ENOTDIR, ERR_INVALID, "FILE_IO_FAILED", NULL},
    {EAGAIN, ERR_EXHAUSTED, "FILE_IO_FAILED", "cannot be opened: the sandbox has no process left for it"},
    {ETIMEDOUT, ERR_DEADLINE, "FILE_IO_FAILED", "did not answer in time"},
};

static void set_error(struct file_op *f, int code)
{
    if (code < 0)
        code = -code;
    for (size_t i = 0; i < ARRAY_LEN(file_errors); i++) {
        if (file_errors[i].code != code)
            continue;
        (void)err_typed(&f->err, file_errors[i].kind, file_errors[i].reason, "file '%.*s'%s %s", FILE_PATH_SHOWN,
                        f->path, file_errors[i].text != NULL ? "" : ":",
                        file_errors[i].text != NULL ? file_errors[i].text : strerror(code));
        f->err.code = -code;
        err_meta(&f->err, "filepath", f->path);
        return;
    }
    (void)err_typed(&f->err, ERR_INTERNAL, "FILE_IO_FAILED", "%s file '%.*s': %s", f->write ? "write" : "read",
                    FILE_PATH_SHOWN, f->path, strerror(code));
    f->err.code = -code;
    err_meta(&f->err, "filepath", f->path);
}

static void put_number(struct file_op *f, const char *key, uint64_t v)
{
    char text[24];

    (void)snprintf(text, sizeof text, "%" PRIu64, v);
    err_meta(&f->err, key, text);
}

static void set_too_large(struct file_op *f, uint64_t size)
{
    (void)err_typed(&f->err, ERR_EXHAUSTED, "FILE_TOO_LARGE",
                    "file '%.*s' has %" PRIu64 " bytes; at most %" PRIu64 " can be %s at once", FILE_PATH_SHOWN,
                    f->path, size, f->max, f->write ? "written" : "read");
    err_meta(&f->err, "filepath", f->path);
    put_number(f, "size_bytes", size);
    put_number(f, "max_size_bytes", f->max);
}

/* No size_bytes: clients that see one fetch the file as a stream instead, and this one may have no end. */
static void set_endless(struct file_op *f)
{
    (void)err_typed(&f->err, ERR_EXHAUSTED, "FILE_TOO_LARGE",
                    "file '%.*s' gives more than the %" PRIu64
                    " bytes that can be read at once, and does not say how many",
                    FILE_PATH_SHOWN, f->path, f->max);
    err_meta(&f->err, "filepath", f->path);
    put_number(f, "max_size_bytes", f->max);
}

/* ---- the end ----------------------------------------------------------------------------------------------------------- */

static void tell(struct file_op *f)
{
    if (f->told)
        return;
    f->told = true;
    if (f->op.dropped)
        return;
    f->cb(f->arg, f->err.code != 0 ? &f->err : NULL, f->err.code == 0 ? take_ptr(f->content) : NULL);
}

/* F is over for its caller; it is freed when nobody comes back with it any more. */
static void finish(struct file_op *f)
{
    io_stop(&f->io);
    timer_stop(&f->deadline);
    tell(f);
    if (f->pending > 0)
        return;
    defer_stop(&f->later);
    fd_close(f->fd);
    fd_close(f->verdict_fd);
    chunk_free(f->content);
    free(f->data);
    free(f->path);
    free(f);
}

static void on_later(struct defer *d)
{
    finish(container_of(d, struct file_op, later));
}

static void on_deadline(struct timer *t)
{
    struct file_op *f = container_of(t, struct file_op, deadline);

    set_error(f, ETIMEDOUT);
    finish(f);
}

/* ---- regular files, on the pool ---------------------------------------------------------------------------------------- */

/* Room for one byte more than what is there: the byte that shows that a file has grown. */
static int grow(struct file_op *f, size_t cap)
{
    struct chunk *c = chunk_new(cap);

    if (c == NULL)
        return -ENOMEM;
    if (f->content != NULL) {
        memcpy(c->data + c->off, f->content->data + f->content->off, f->content->len);
        c->len = f->content->len;
        chunk_free(f->content);
    }
    f->content = c;
    return 0;
}

static void run_read(struct work *w)
{
    struct file_op *f = container_of(w, struct file_op, work);
    struct stat st;
    ssize_t n;
    int r;

    if (fstat(f->fd, &st) < 0) {
        set_error(f, errno);
        return;
    }
    if (st.st_size < 0 || (uint64_t)st.st_size > f->max) {
        set_too_large(f, (uint64_t)st.st_size);
        return;
    }
    r = grow(f, (size_t)st.st_size + 1);
    while (r == 0) {
        struct chunk *c = f->content;
        size_t room = c->cap - c->len;

        if (room == 0) {
            r = grow(f, c->cap * 2 + FILE_GROW < f->max + 1 ? c->cap * 2 + FILE_GROW : f->max + 1);
            continue;
        }
        n = pread(f->fd, c->data + c->off + c->len, room < FILE_PIECE ? room : FILE_PIECE, (off_t)c->len);
        if (n == 0)
            return;
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            r = -errno;
        else
            c->len += (size_t)n;
        if (c->len > f->max) {
            set_too_large(f, c->len);
            return;
        }
    }
    set_error(f, r);
}

static void run_write(struct work *w)
{
    struct file_op *f = container_of(w, struct file_op, work);
    ssize_t n;

    while (f->done < f->len) {
        size_t left = f->len - f->done;

        n = pwrite(f->fd, f->data + f->done, left < FILE_PIECE ? left : FILE_PIECE, (off_t)f->done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            set_error(f, n < 0 ? errno : EIO);
            return;
        }
        f->done += (size_t)n;
    }
    if (close(take_fd(&f->fd)) < 0 && errno != EINTR) /* some file systems say only here that they are full */
        set_error(f, errno);
}

static void on_work(struct work *w)
{
    struct file_op *f = container_of(w, struct file_op, work);

    f->pending--;
    finish(f);
}

static void start_work(struct file_op *f)
{
    /* From here on the job owns F->err: the deadline must not write into it. A local disk always answers in the end. */
    timer_stop(&f->deadline);
    if (work_submit(f->en->loop, &f->work, f->write ? run_write : run_read, on_work) < 0) {
        (void)err_typed(&f->err, ERR_EXHAUSTED, "FILE_IO_FAILED", "too many file operations are waiting; try again");
        err_meta(&f->err, "filepath", f->path);
        finish(f);
        return;
    }
    f->pending++;
}

/* ---- pumped files, on the loop ----------------------------------------------------------------------------------------- */

/* False when F is finished. */
static bool pump_in(struct file_op *f)
{
    struct chunk *c = f->content;
    ssize_t n;

    if (c == NULL || c->len == c->cap) {
        size_t cap = c == NULL ? FILE_GROW : c->cap * 2;

        if (grow(f, cap < f->max + 1 ? cap : f->max + 1) < 0) {
            set_error(f, ENOMEM);
            return false;
        }
        c = f->content;
    }
    n = given_fd_read(f->fd, false, c->data + c->off + c->len, c->cap - c->len);
    if (n == -EAGAIN)
        return true;
    if (n < 0)
        set_error(f, (int)n);
    if (n <= 0)
        return false;
    c->len += (size_t)n;
    if (c->len <= f->max)
        return true;
    set_endless(f);
    return false;
}

static bool pump_out(struct file_op *f)
{
    ssize_t n = f->done < f->len ? given_fd_write(f->fd, false, f->data + f->done, f->len - f->done) : 0;

    if (n == -EAGAIN)
        return true;
    if (n < 0) {
        set_error(f, (int)n);
        return false;
    }
    f->done += (size_t)n;
    return f->done < f->len;
}

static void on_verdict(struct io *io, uint32_t events)
{
    struct file_op *f = container_of(io, struct file_op, io);
    int32_t code = 0;
    ssize_t n = given_fd_read(f->verdict_fd, false, &code, sizeof code);

    (void)events;
    if (n == -EAGAIN)
        return;
    if (n == 0)
        set_error(f, ETIMEDOUT); /* init ended the pump, or somebody inside did */
    else if (n != (ssize_t)sizeof code || code > 0 || code < -4095)
        set_error(f, EIO);
    else if (code < 0)
        set_error(f, code);
    finish(f);
}

/* Everything is moved as far as the pipe goes, or the pipe is broken: the pump knows what became of it. */
static void pump_over(struct file_op *f)
{
    int r;

    if (f->verdict_fd < 0 || (f->err.code != 0 && !f->write)) {
        finish(f);
        return;
    }
    io_stop(&f->io);
    fd_closep(&f->fd); /* its end of input */
    r = given_fd_prepare(f->verdict_fd);
    if (r == 0)
        r = io_start(f->en->loop, &f->io, f->verdict_fd, EPOLLIN, on_verdict);
    if (r < 0) {
        set_error(f, r);
        finish(f);
    }
}

static void on_pump(struct io *io, uint32_t events)
{
    struct file_op *f = container_of(io, struct file_op, io);

    (void)events;
    for (unsigned i = 0; i < PUMP_TURN; i++) {
        if (!(f->write ? pump_out(f) : pump_in(f))) {
            pump_over(f);
            return;
        }
        if (f->write || given_fd_pending(f->fd) == 0)
            return;
    }
}

static void start_pump(struct file_op *f)
{
    int r = given_fd_prepare(f->fd);

    if (r == 0)
        r = io_start(f->en->loop, &f->io, f->fd, f->write ? EPOLLOUT : EPOLLIN, on_pump);
    if (r < 0) {
        set_error(f, r);
        finish(f);
    }
}

/* ---- opening ------------------------------------------------------------------------------------------------------------- */

static void on_opened(void *arg, const struct err *e, struct wire_msg *m)
{
    struct file_op *f = arg;

    f->pending--;
    if (f->told) { /* the deadline was faster */
        finish(f);
        return;
    }
    if (e != NULL) {
        f->err = *e;
        finish(f);
        return;
    }
    if (m->head->type == IN_FAILED) {
        set_error(f, ((const struct in_failed *)m->body)->code);
        finish(f);
        return;
    }
    f->fd = take_fd(&m->fds[0]); /* checked by init-link.c */
    if (m->nfds > 1)
        f->verdict_fd = take_fd(&m->fds[1]);
    f->pumped = ((const struct in_opened *)m->body)->pumped != 0;
    if (f->pumped)
        start_pump(f);
    else
        start_work(f);
}

static int check_path(const char *path, struct err *e)
{
    if (path == NULL || path[0] == '\0')
        return err_typed(e, ERR_INVALID, NULL, "the file path is empty");
    if (strlen(path) >= IN_PATH_MAX) {
        (void)err_typed(e, ERR_INVALID, "FILE_IO_FAILED", "the file path is longer than %d bytes", IN_PATH_MAX - 1);
        err_meta(e, "filepath", path);
        return e->code;
    }
    return 0;
}

static int ask_open(struct file_op *f, struct box *b, struct err *e)
{
    struct wire_tail tail = {0};
    struct in_open q = {
        .flags = f->write ? IN_O_WRITE | IN_O_PARENTS : IN_O_READ,
        .uid = b->uid,
        .gid = b->gid,
        .ngroups = b->ngroups,
    };
    int r;

    if (b->init == NULL)
        return err_typed(e, ERR_PRECONDITION, "SANDBOX_NOT_RUNNING", "sandbox %s is not running", b->id);
    memcpy(q.groups, b->groups, sizeof q.groups);
    q.path = wire_put_str(&tail, f->path);
    q.cwd = wire_put_str(&tail, b->rec->cwd != NULL && b->rec->cwd[0] != '\0' ? b->rec->cwd : "/");
    r = init_ask(b->init, IN_OPEN, 0, &q, sizeof q, &tail, on_opened, f, e);
    wire_tail_fini(&tail);
    if (r == 0)
        f->pending++;
    return r;
}

/* The operation, already under way or about to tell why not. DATA NULL: read. */
static struct op *start(struct engine *en, const char *tenant, const char *box, const char *path, uint64_t max,
                        const void *data, size_t len, file_cb cb, void *arg)
{
    struct file_op *f = calloc(1, sizeof *f);
    struct box *b;
    int r;

    if (f == NULL)
        return NULL;
    *f = (struct file_op){
        .en = en, .write = data != NULL, .max = max, .len = len, .fd = -1, .verdict_fd = -1, .cb = cb, .arg = arg};
    r = check_path(path, &f->err);
    if (r == 0)
        r = box_find_running(en, tenant, box, &b, &f->err);
    if (r == 0 && (f->path = strdup(path)) == NULL)
        r = err_set(&f->err, ENOMEM, "out of memory");
    if (r == 0 && data != NULL) {
        if (len > max) {
            set_too_large(f, len);
            r = f->err.code;
        } else if ((f->data = malloc(len + 1)) == NULL) {
            r = err_set(&f->err, ENOMEM, "out of memory");
        } else {
            memcpy(f->data, data, len);
        }
    }
    if (r == 0)
        r = timer_start(en->loop, &f->deadline, FILE_DEADLINE_MS * NSEC_PER_MSEC, on_deadline);
    if (r == 0)
        r = ask_open(f, b, &f->err);
    if (r < 0) {
        if (f->err.code == 0)
            (void)err_set(&f->err, r, "%m");
        defer_start(en->loop, &f->later, on_later);
    }
    return &f->op;
}

struct op *engine_file_read(struct engine *en, const char *tenant, const char *box, const char *path, uint64_t max,
                            file_cb cb, void *arg)
{
    return start(en, tenant, box, path, max, NULL, 0, cb, arg);
}

struct op *engine_file_write(struct engine *en, const char *tenant, const char *box, const char *path, const void *data,
                             size_t len, file_cb cb, void *arg)
{
    return start(en, tenant, box, path, ENGINE_FILE_MAX, data != NULL ? data : "", len, cb, arg);
}
