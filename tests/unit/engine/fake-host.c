#include "fake-host.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ftw.h>

/* ---- images ------------------------------------------------------------------------------------------------------- */

static const char digest[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

int images_load(struct engine *en, struct err *e)
{
    (void)en;
    (void)e;
    return 0;
}

void images_free(struct engine *en)
{
    (void)en;
}

void images_box_released(struct engine *en)
{
    (void)en;
}

int engine_image_get(struct engine *en, const char *name, struct image_info *ret, struct err *e)
{
    static const char *const layers[] = {digest, NULL}, *const env[] = {"FROM_IMAGE=1", "PATH=/image/bin", NULL};
    static const char *const entry[] = {"/entry", NULL}, *const cmd[] = {"cmd", NULL};

    (void)en;
    if (strcmp(name, "good") != 0)
        return err_typed(e, ERR_NOT_FOUND, NULL, "image '%s' is not here; tried: %s", name, name);
    *ret = (struct image_info){.name = "good",
                               .digest = "d",
                               .layers = layers,
                               .config = {.env = env, .entrypoint = entry, .cmd = cmd, .workdir = "/w", .user = "app"}};
    return 0;
}

/* ---- init ---------------------------------------------------------------------------------------------------------- */

static void say(int fd, uint16_t type, uint64_t token, const void *body, size_t len, struct wire_tail *tail, int *fds,
                unsigned n)
{
    int r = wire_send(fd, type, token, body, len, tail, fds, n);

    if (r < 0 && r != -EPIPE && r != -ECONNRESET)
        fail_msg("wire_send %u: %s", type, strerror(-r));
    if (tail != NULL) {
        wire_tail_fini(tail);
        *tail = (struct wire_tail){0};
    }
}

static void init_failed(struct fake_box *f, uint64_t token, int code, uint32_t stage, const char *msg)
{
    struct wire_tail tail = {0};
    struct in_failed x = {.code = code, .stage = stage, .msg = wire_put_str(&tail, msg)};

    say(f->init_fd, IN_FAILED, token, &x, sizeof x, &tail, NULL, 0);
}

static void init_hello(struct fake_box *f, const struct wire_msg *m)
{
    const struct in_hello *hello = m->body;
    struct in_table t = {.epoch = hello->epoch, .count = f->main != 0};
    struct in_entry x = {
        .kind = IN_MAIN, .state = f->main_ended ? IN_ENDED : IN_RUNNING, .pid = 2, .flags = IN_S_MERGE};

    if (f->h->no_table)
        return;
    say(f->init_fd, IN_TABLE, m->head->token, &t, sizeof t, NULL, NULL, 0);
    if (f->main == 0)
        return;
    say(f->init_fd, IN_ENTRY, f->main, &x, sizeof x, NULL, &f->out_read, f->main_ended ? 0 : 1);
    if (f->main_ended)
        say(f->init_fd, IN_EXITED, f->main, &f->exited, sizeof f->exited, NULL, NULL, 0);
}

static void init_user(struct fake_box *f, const struct wire_msg *m)
{
    const struct in_user *u = m->body;
    struct wire_tail tail = {0};
    struct in_user_is is = {.uid = 1000, .gid = 1001, .home = wire_put_str(&tail, "/home/app")};
    bool bad = false;
    const char *user = wire_get_str(m, u->user, &bad);

    assert_false(bad);
    f->h->users++;
    (void)snprintf(f->user, sizeof f->user, "%s", user != NULL ? user : "");
    if (f->h->fail_user) {
        init_failed(f, m->head->token, -ENOENT, IN_ST_USER, "no such user in /etc/passwd");
        wire_tail_fini(&tail);
    } else if (f->h->hold_user) {
        wire_tail_fini(&tail);
    } else {
        say(f->init_fd, IN_USER_IS, m->head->token, &is, sizeof is, &tail, NULL, 0);
    }
}

static void init_spawn(struct fake_box *f, const struct wire_msg *m)
{
    const struct in_spawn *s = m->body;
    struct in_spawned is = {.pid = 2};
    int p[2];

    f->h->spawns++;
    if (f->h->fail_spawn) {
        init_failed(f, m->head->token, -ENOENT, IN_ST_EXEC, "no such file");
        return;
    }
    assert_int_equal(s->kind, IN_MAIN);
    assert_int_equal(s->uid, 1000);
    assert_int_equal(pipe2(p, O_CLOEXEC), 0);
    f->main = m->head->token;
    f->out = p[1];
    f->out_read = p[0];
    say(f->init_fd, IN_SPAWNED, m->head->token, &is, sizeof is, NULL, &p[0], 1);
}

void fake_main_exit(struct fake_box *f, uint32_t cause, int code)
{
    f->main_ended = true;
    fd_close(take_fd(&f->out));
    f->exited =
        (struct in_exited){.pid = 2, .cause = cause, .code = code, .start_ns = clock_wall(), .end_ns = clock_wall()};
    say(f->init_fd, IN_EXITED, f->main, &f->exited, sizeof f->exited, NULL, NULL, 0);
}

static void init_kill(struct fake_box *f, const struct wire_msg *m)
{
    const struct in_kill *k = m->body;
    struct in_ok ok = {0};

    say(f->init_fd, IN_OK, m->head->token, &ok, sizeof ok, NULL, NULL, 0);
    if (m->head->token != f->main || k->signal != 15)
        return;
    f->h->terms++;
    if (!f->h->ignore_term && !f->main_ended)
        fake_main_exit(f, IN_C_SIGNALED, 15);
}

static void init_readable(struct io *io, uint32_t events)
{
    struct fake_box *f = container_of(io, struct fake_box, io);
    static uint64_t buf[WIRE_DATAGRAM_MAX / 8 + 1];
    struct wire_msg m;
    int r;

    (void)events;
    while (f->alive && (r = wire_recv(f->init_fd, buf, WIRE_DATAGRAM_MAX, in_body_size, &m)) != -EAGAIN) {
        if (r <= 0) { /* silicad is gone */
            io_stop(&f->io);
            return;
        }
        switch (m.head->type) {
        case IN_HELLO:
            init_hello(f, &m);
            break;
        case IN_USER:
            init_user(f, &m);
            break;
        case IN_SPAWN:
            init_spawn(f, &m);
            break;
        case IN_KILL:
            init_kill(f, &m);
            break;
        case IN_ACK:
            f->h->acks++;
            break;
        default:
            fail_msg("init got %u", m.head->type);
        }
        wire_msg_fini(&m);
    }
}

/* ---- spawner ------------------------------------------------------------------------------------------------------- */

struct fake_box *fake_find(struct host *h, const char *id)
{
    for (size_t i = 0; i < FAKE_BOXES; i++)
        if (h->boxes[i].used && strcmp(h->boxes[i].id, id) == 0)
            return &h->boxes[i];
    return NULL;
}

static void sp_failed(struct host *h, uint64_t token, int code, enum err_kind kind, const char *msg)
{
    struct wire_tail tail = {0};
    struct sp_failed x = {.code = code, .kind = kind, .msg = wire_put_str(&tail, msg)};

    say(h->fd, SP_FAILED, token, &x, sizeof x, &tail, NULL, 0);
}

static void sp_done(struct host *h, uint64_t token)
{
    struct sp_ready nothing = {0};

    say(h->fd, SP_DONE, token, &nothing, sizeof nothing, NULL, NULL, 0);
}

static struct fake_box *fake_new(struct host *h, const char *id)
{
    struct fake_box *f = NULL;
    int p[2];

    for (size_t i = 0; i < FAKE_BOXES && f == NULL; i++)
        if (!h->boxes[i].used)
            f = &h->boxes[i];
    assert_non_null(f);
    *f = (struct fake_box){.h = h, .used = true, .alive = true, .out = -1, .out_read = -1};
    (void)snprintf(f->id, sizeof f->id, "%s", id);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, p), 0);
    f->init_fd = p[0];
    f->daemon_fd = p[1];
    assert_int_equal(io_start(h->loop, &f->io, f->init_fd, EPOLLIN, init_readable), 0);
    return f;
}

static void created(struct host *h, uint64_t token, struct fake_box *f)
{
    struct sp_created c = {.pid = 100, .uid_base = 100000};

    say(h->fd, SP_CREATED, token, &c, sizeof c, NULL, &f->daemon_fd, 1);
}

void fake_answer_held(struct host *h)
{
    created(h, h->held_token, fake_find(h, h->held_id));
    h->held_token = 0;
}

/* Everything of it is gone, except that nobody has been told. */
static void dies(struct fake_box *f)
{
    f->alive = false;
    io_stop(&f->io);
    fd_close(take_fd(&f->init_fd));
    fd_close(take_fd(&f->daemon_fd));
    fd_close(take_fd(&f->out));
    fd_close(take_fd(&f->out_read));
    f->gone_due = true;
}

static void say_gone(struct fake_box *f)
{
    struct wire_tail tail = {0};
    struct sp_gone g = {.status = 9, .oom_kills = f->h->oom_kills, .id = wire_put_str(&tail, f->id)};

    say(f->h->fd, SP_GONE, 0, &g, sizeof g, &tail, NULL, 0);
}

void fake_gone(struct fake_box *f)
{
    if (f->alive)
        dies(f);
    say_gone(f);
}

void fake_init_dies(struct fake_box *f)
{
    io_stop(&f->io);
    fd_close(take_fd(&f->init_fd));
}

static void sp_message(struct host *h, const struct wire_msg *m)
{
    const struct sp_create *c = m->body;
    struct sp_stats stats = {.oom_kills = h->oom_kills};
    struct fake_box *f = NULL;
    bool bad = false;
    const char *id = NULL, **layers;

    if (m->head->type == SP_CREATE)
        id = wire_get_str(m, c->id, &bad);
    else if (m->head->type == SP_KILL || m->head->type == SP_STAT || m->head->type == SP_FORGET)
        id = wire_get_str(m, ((const struct sp_kill *)m->body)->id, &bad);
    assert_false(bad);
    if (id != NULL)
        f = fake_find(h, id);
    switch (m->head->type) {
    case SP_READY:
        h->readies++;
        sp_done(h, m->head->token);
        break;
    case SP_CREATE:
        h->creates++;
        if (h->fail_create) {
            sp_failed(h, m->head->token, -ENOSPC, ERR_EXHAUSTED, "no room for the writable layer");
            break;
        }
        f = fake_new(h, id);
        f->plan = *c;
        layers = wire_get_vec(m, c->layers, SP_LAYERS_MAX, &bad);
        assert_false(bad);
        (void)snprintf(f->layer, sizeof f->layer, "%s", layers[0]);
        free(layers);
        if (h->hold_create) {
            h->held_token = m->head->token;
            (void)snprintf(h->held_id, sizeof h->held_id, "%s", id);
        } else {
            created(h, m->head->token, f);
        }
        break;
    case SP_KILL:
        h->kills++;
        if (f == NULL || !f->alive) {
            sp_failed(h, m->head->token, -ENOENT, ERR_NOT_FOUND, "no such sandbox");
            break;
        }
        if (h->refuse_kill) {
            h->refuse_kill = false;
            sp_failed(h, m->head->token, -ENOMEM, ERR_INTERNAL, "no memory");
            break;
        }
        sp_done(h, m->head->token);
        dies(f);
        if (!h->hold_gone)
            say_gone(f);
        break;
    case SP_STAT:
        h->stats++;
        if (h->hold_stat)
            break;
        if (f != NULL && f->alive)
            say(h->fd, SP_STATS, m->head->token, &stats, sizeof stats, NULL, NULL, 0);
        else if (f != NULL)
            sp_failed(h, m->head->token, -EBUSY, ERR_PRECONDITION, "it is not running");
        else
            sp_failed(h, m->head->token, -ENOENT, ERR_NOT_FOUND, "no such sandbox");
        break;
    case SP_FORGET:
        h->forgets++;
        if (f != NULL)
            f->used = f->gone_due = false;
        sp_done(h, m->head->token);
        break;
    default:
        fail_msg("spawner got %u", m->head->type);
    }
}

static void sp_readable(struct io *io, uint32_t events)
{
    struct host *h = container_of(io, struct host, io);
    static uint64_t buf[WIRE_DATAGRAM_MAX / 8 + 1];
    struct wire_msg m;
    int r;

    (void)events;
    /* Few at a time: the answers must fit into the socket that this same thread empties. */
    for (int n = 0; n < 8 && h->fd >= 0 && (r = wire_recv(h->fd, buf, WIRE_DATAGRAM_MAX, sp_body_size, &m)) != -EAGAIN;
         n++) {
        if (r <= 0) {
            io_stop(&h->io);
            return;
        }
        sp_message(h, &m);
        wire_msg_fini(&m);
    }
}

void host_listen(struct host *h)
{
    assert_int_equal(io_start(h->loop, &h->io, h->fd, EPOLLIN, sp_readable), 0);
}

/* ---- the machine ---------------------------------------------------------------------------------------------------- */

static void ticked(struct timer *t)
{
    loop_stop(t->loop);
}

void host_turn(struct host *h)
{
    assert_int_equal(timer_start(h->loop, &h->tick, 2 * NSEC_PER_MSEC, ticked), 0);
    assert_int_equal(loop_run(h->loop), 0);
}

static void on_ready(void *arg)
{
    ((struct host *)arg)->ready_calls++;
}

static void on_stop(void *arg, bool keep)
{
    struct host *h = arg;

    h->stop_calls++;
    h->stop_keep = keep;
}

void host_open(struct host *h)
{
    struct err e;

    *h = (struct host){.fd = -1, .boot_id = "boot-1", .features = SP_FEAT_NAT, .slots = 64};
    strcpy(h->dir, "/tmp/silica-engine-XXXXXX");
    assert_non_null(mkdtemp(h->dir));
    assert_int_equal(loop_new(&h->loop, &e), 0);
    engine_config_default(&h->config);
    h->config.state_dir = h->dir;
    h->config.runner_id = "runner-1";
    h->config.default_memory_bytes = 64 << 20;
}

void host_start_nowait(struct host *h)
{
    struct wire_tail tail = {0};
    struct sp_hello hello = {.features = h->features, .slot_count = h->slots};
    struct err e = {0};
    int p[2];

    hello.epoch = ++h->epoch;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, p), 0);
    h->fd = p[0];
    assert_int_equal(io_start(h->loop, &h->io, h->fd, EPOLLIN, sp_readable), 0);
    for (size_t i = 0; i < FAKE_BOXES; i++)
        hello.adopt_count += h->boxes[i].used && h->boxes[i].alive;
    hello.boot_id = wire_put_str(&tail, h->boot_id);
    if (!h->silent)
        say(h->fd, SP_HELLO, 0, &hello, sizeof hello, &tail, NULL, 0);
    wire_tail_fini(&tail);
    for (size_t i = 0; i < FAKE_BOXES; i++) {
        struct fake_box *f = &h->boxes[i];
        struct sp_adopt a = {.pid = 100, .started_ns = clock_wall()};

        if (!f->used || !f->alive)
            continue;
        a.id = wire_put_str(&tail, f->id);
        say(h->fd, SP_ADOPT, 0, &a, sizeof a, &tail, &f->daemon_fd, 1);
        io_stop(&f->io);
        assert_int_equal(io_start(h->loop, &f->io, f->init_fd, EPOLLIN, init_readable), 0);
    }
    for (size_t i = 0; i < FAKE_BOXES; i++)
        if (h->boxes[i].used && h->boxes[i].gone_due && !h->hold_gone)
            say_gone(&h->boxes[i]);
    if (engine_new(h->loop, &h->config, p[1], on_ready, on_stop, h, &h->en, &e) < 0)
        fail_msg("%s", e.msg);
}

void host_start(struct host *h)
{
    unsigned calls = h->ready_calls;
    struct err e;

    host_start_nowait(h);
    UNTIL(h, h->ready_calls == calls + 1);
    assert_int_equal(engine_announce(h->en, &e), 0);
}

static void drain(int fd)
{
    char buf[4096];

    while (fd >= 0 && recv(fd, buf, sizeof buf, MSG_DONTWAIT) > 0)
        ;
}

void host_crash(struct host *h)
{
    engine_free(h->en);
    h->en = NULL;
    io_stop(&h->io);
    fd_close(take_fd(&h->fd));
    for (size_t i = 0; i < FAKE_BOXES; i++)
        if (h->boxes[i].used && h->boxes[i].alive) /* what init had said to the dead one is lost with it */
            drain(h->boxes[i].daemon_fd), drain(h->boxes[i].init_fd);
}

void host_lose(struct host *h, const char *id)
{
    struct fake_box *f = fake_find(h, id);

    dies(f);
    f->used = false;
}

void host_sql(struct host *h, const char *text)
{
    char path[128];
    sqlite3 *db;

    (void)snprintf(path, sizeof path, "%s/db/silica.db", h->dir);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, text, NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *w)
{
    (void)st;
    (void)flag;
    (void)w;
    return remove(path);
}

void host_close(struct host *h)
{
    engine_free(h->en);
    io_stop(&h->io);
    fd_close(h->fd);
    for (size_t i = 0; i < FAKE_BOXES; i++)
        if (h->boxes[i].used && h->boxes[i].alive)
            dies(&h->boxes[i]);
    timer_stop(&h->tick);
    loop_free(h->loop);
    (void)nftw(h->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS); /* all of it is ours */
}
