#include "fake-init.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>

static struct fake *now; /* the one fake of this process, for what box.c would do */

/* ---- what the rest of the engine would do -------------------------------------------------------------------------------- */

void op_drop(struct op *op)
{
    if (op != NULL)
        op->dropped = true;
}

int box_find(struct engine *en, const char *tenant, const char *id, struct box **ret, struct err *e)
{
    (void)en;
    if (strcmp(id, now->box.id) != 0 || strcmp(tenant, now->rec.tenant) != 0)
        return err_typed(e, ERR_NOT_FOUND, "SANDBOX_NOT_FOUND", "there is no sandbox '%s'", id);
    *ret = &now->box;
    return 0;
}

int box_find_running(struct engine *en, const char *tenant, const char *id, struct box **ret, struct err *e)
{
    int r = box_find(en, tenant, id, ret, e);

    if (r == 0 && now->box.state != BOX_RUNNING)
        r = err_typed(e, ERR_PRECONDITION, "SANDBOX_NOT_RUNNING", "sandbox %s is not running", id);
    return r;
}

void box_main_started(struct box *b, uint64_t start_ns)
{
    (void)b;
    (void)start_ns;
    now->started++;
}

void box_main_failed(struct box *b, const struct err *e)
{
    (void)b;
    now->main_failed++;
    now->main_err = *e;
}

void box_main_ended(struct box *b, const struct exec_result *res)
{
    (void)b;
    now->main_ended++;
    now->main_res = *res;
}

void box_init_lost(struct box *b, const struct err *e)
{
    (void)b;
    now->lost++;
    now->lost_err = *e;
}

struct stat_op {
    struct op op;
    struct defer d;
    void (*cb)(void *arg, const struct err *e, const struct sp_stats *s);
    void *arg;
};

static void stat_answer(struct defer *d)
{
    struct stat_op *o = container_of(d, struct stat_op, d);
    struct sp_stats s = {.oom_kills = now->oom_kills};

    if (!o->op.dropped)
        o->cb(o->arg, NULL, &s);
    free(o);
}

struct op *spawner_stat(struct spawner_link *l, const char *id,
                        void (*cb)(void *arg, const struct err *e, const struct sp_stats *s), void *arg)
{
    struct stat_op *o = calloc(1, sizeof *o);

    (void)l;
    assert_string_equal(id, now->box.id);
    now->stats++;
    o->cb = cb;
    o->arg = arg;
    defer_start(now->loop, &o->d, stat_answer);
    return &o->op;
}

/* ---- talking ----------------------------------------------------------------------------------------------------------------- */

void fake_send(struct fake *f, uint16_t type, uint64_t token, const void *body, size_t len, const int *fds,
               unsigned nfds)
{
    int r = wire_send(f->fd, type, token, body, len, NULL, fds, nfds);

    if (r < 0 && r != -EPIPE)
        fail_msg("fake init: send: %s", strerror(-r));
}

static void send_text(struct fake *f, uint16_t type, uint64_t token, const void *body, size_t len,
                      const struct wire_tail *t)
{
    int r = wire_send(f->fd, type, token, body, len, t, NULL, 0);

    if (r < 0)
        fail_msg("fake init: send: %s", strerror(-r));
}

void fake_fail(struct fake *f, uint64_t token, int code, uint32_t stage, const char *text)
{
    struct wire_tail t = {0};
    struct in_failed x = {.code = -code, .stage = stage, .msg = wire_put_str(&t, text)};

    send_text(f, IN_FAILED, token, &x, sizeof x, &t);
    wire_tail_fini(&t);
}

void fake_exit(struct fake *f, uint64_t token, uint32_t cause, int code)
{
    struct in_exited x = {
        .cause = cause, .code = code, .start_ns = 1, .end_ns = 2, .utime_us = 3, .stime_us = 4, .maxrss_kib = 5};

    fake_send(f, IN_EXITED, token, &x, sizeof x, NULL, 0);
}

/* ---- processes ----------------------------------------------------------------------------------------------------------------- */

static void on_child(struct io *io, uint32_t events)
{
    struct fake_proc *p = container_of(io, struct fake_proc, io);
    siginfo_t si = {0};

    (void)events;
    if (p->f->hold_exits) {
        io_stop(&p->io);
        return;
    }
    if (waitid(P_PIDFD, (id_t)p->pidfd, &si, WEXITED) < 0)
        fail_msg("fake init: wait: %s", strerror(errno));
    io_stop(&p->io);
    (void)close(p->pidfd);
    p->used = false;
    fake_exit(p->f, p->token, si.si_code == CLD_EXITED ? IN_C_EXITED : IN_C_SIGNALED, si.si_status);
}

static void in_child(const struct in_spawn *s, const char **argv, const char **env, const char *cwd, int in, int out,
                     int err, int status)
{
    int code;

    (void)setsid();
    if ((s->flags & IN_S_TTY) != 0)
        (void)ioctl(out, TIOCSCTTY, 0);
    (void)dup2(in, 0);
    (void)dup2(out, 1);
    (void)dup2(err, 2);
    (void)signal(SIGPIPE, SIG_DFL);
    if (chdir(cwd) < 0) {
        code = errno | IN_ST_CWD << 16;
        (void)!write(status, &code, sizeof code);
        _exit(1);
    }
    (void)execvpe(argv[0], (char **)argv, (char **)env);
    code = errno | IN_ST_EXEC << 16;
    (void)!write(status, &code, sizeof code);
    _exit(1);
}

static void remember(struct fake *f, const char **env, const char *cwd)
{
    size_t n = 0, i;

    for (i = 0; f->env != NULL && f->env[i] != NULL; i++)
        free(f->env[i]);
    free(f->env);
    while (env[n] != NULL)
        n++;
    f->env = calloc(n + 1, sizeof *f->env);
    for (i = 0; i < n; i++)
        f->env[i] = strdup(env[i]);
    (void)snprintf(f->cwd, sizeof f->cwd, "%s", cwd);
}

static void spawn(struct fake *f, struct wire_msg *m)
{
    const struct in_spawn *s = m->body;
    struct in_spawned up = {0};
    bool bad = false, tty = (s->flags & IN_S_TTY) != 0, merge = (s->flags & IN_S_MERGE) != 0;
    const char **argv = wire_get_vec(m, s->argv, IN_ARGC_MAX, &bad), **env = wire_get_vec(m, s->env, 65536, &bad);
    const char *cwd = wire_get_str(m, s->cwd, &bad);
    int in[2] = {-1, -1}, out[2] = {-1, -1}, err[2] = {-1, -1}, status[2], code = 0, fds[3];
    struct fake_proc *p = f->procs;
    unsigned n = 0;

    assert_false(bad);
    f->spawns++;
    f->last_token = m->head->token;
    remember(f, env, cwd);
    while (p->used)
        p++;
    if (tty) {
        struct winsize ws = {.ws_row = s->rows, .ws_col = s->cols};

        out[0] = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
        assert_int_equal(unlockpt(out[0]), 0);
        out[1] = ioctl(out[0], TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
        (void)ioctl(out[0], TIOCSWINSZ, &ws);
    } else {
        if ((s->flags & IN_S_STDIN) != 0)
            assert_int_equal(pipe2(in, O_CLOEXEC), 0);
        else
            in[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
        assert_int_equal(pipe2(out, O_CLOEXEC), 0);
        if (!merge)
            assert_int_equal(pipe2(err, O_CLOEXEC), 0);
    }
    assert_int_equal(pipe2(status, O_CLOEXEC), 0);
    p->pid = fork();
    if (p->pid == 0)
        in_child(s, argv, env, cwd, tty ? out[1] : in[0], out[1], tty || merge ? out[1] : err[1], status[1]);
    (void)close(status[1]);
    (void)!read(status[0], &code, sizeof code);
    (void)close(status[0]);
    fd_close(in[0]);
    fd_close(out[1]);
    fd_close(err[1]);

    if (code != 0) {
        (void)waitpid(p->pid, NULL, 0);
        fake_fail(f, m->head->token, code & 0xffff, (uint32_t)code >> 16, strerror(code & 0xffff));
    } else {
        p->used = true;
        p->f = f;
        p->token = m->head->token;
        p->pidfd = (int)syscall(SYS_pidfd_open, p->pid, 0);
        (void)fcntl(p->pidfd, F_SETFD, FD_CLOEXEC);
        up.pid = p->pid;
        if (in[1] >= 0)
            fds[n++] = in[1];
        fds[n++] = out[0];
        if (err[0] >= 0)
            fds[n++] = err[0];
        fake_send(f, IN_SPAWNED, p->token, &up, sizeof up, fds, n);
        (void)io_start(f->loop, &p->io, p->pidfd, EPOLLIN, on_child);
    }
    fd_close(in[1]);
    fd_close(out[0]);
    fd_close(err[0]);
    free(argv);
    free(env);
}

static void do_kill(struct fake *f, const struct wire_msg *m)
{
    const struct in_kill *k = m->body;
    struct in_ok ok = {0};

    f->kills++;
    f->tree_kills += k->tree;
    for (struct fake_proc *p = f->procs; p < f->procs + FAKE_PROCS; p++) {
        if (p->used && p->token == m->head->token)
            (void)kill(-p->pid, k->tree ? SIGKILL : (int)k->signal);
    }
    fake_send(f, IN_OK, m->head->token, &ok, sizeof ok, NULL, 0);
}

/* ---- users and files -------------------------------------------------------------------------------------------------------------- */

static void user(struct fake *f, const struct wire_msg *m)
{
    const struct in_user *u = m->body;
    bool bad = false;
    const char *name = wire_get_str(m, u->user, &bad);
    struct wire_tail t = {0};
    struct in_user_is is = {.uid = 1234, .gid = 1235, .ngroups = 1, .groups = {77}};

    (void)snprintf(f->user, sizeof f->user, "%s", name);
    if (strcmp(name, "nobody-here") == 0) {
        fake_fail(f, m->head->token, ENOENT, IN_ST_USER, "no user 'nobody-here' in /etc/passwd");
        return;
    }
    is.home = wire_put_str(&t, "/home/of-user");
    is.name = wire_put_str(&t, name);
    send_text(f, IN_USER_IS, m->head->token, &is, sizeof is, &t);
    wire_tail_fini(&t);
}

static void open_file(struct fake *f, const struct wire_msg *m)
{
    const struct in_open *o = m->body;
    bool bad = false, write = (o->flags & IN_O_WRITE) != 0;
    const char *path = wire_get_str(m, o->path, &bad), *cwd = wire_get_str(m, o->cwd, &bad);
    struct in_opened is = {0};
    char full[2 * IN_PATH_MAX];
    struct stat st;
    int fd;

    (void)snprintf(full, sizeof full, "%s%s%s%s", f->dir, path[0] == '/' ? "" : cwd, path[0] == '/' ? "" : "/", path);
    fd = open(full, (write ? O_WRONLY | O_CREAT | O_TRUNC : O_RDONLY | O_NONBLOCK) | O_CLOEXEC, 0644);
    if (fd < 0 || fstat(fd, &st) < 0) {
        fake_fail(f, m->head->token, errno, IN_ST_OPEN, strerror(errno));
        return;
    }
    if (S_ISDIR(st.st_mode)) {
        fake_fail(f, m->head->token, EISDIR, IN_ST_OPEN, "a directory");
    } else {
        is.size = (uint64_t)st.st_size;
        is.pumped = S_ISFIFO(st.st_mode);
        fake_send(f, IN_OPENED, m->head->token, &is, sizeof is, &fd, 1);
    }
    (void)close(fd);
}

/* ---- the loop ---------------------------------------------------------------------------------------------------------------------- */

static void on_io(struct io *io, uint32_t events)
{
    static _Alignas(8) char buffer[WIRE_DATAGRAM_MAX];
    struct fake *f = container_of(io, struct fake, io);
    struct in_table t = {.epoch = FAKE_EPOCH, .count = f->table_count};
    struct wire_msg m;
    int r = wire_recv(f->fd, buffer, sizeof buffer, in_body_size, &m);

    (void)events;
    if (r <= 0) {
        if (r != -EAGAIN)
            io_stop(&f->io);
        return;
    }
    if (f->on_message == NULL || !f->on_message(f, &m)) {
        switch (m.head->type) {
        case IN_HELLO:
            fake_send(f, IN_TABLE, 0, &t, sizeof t, NULL, 0);
            break;
        case IN_USER:
            user(f, &m);
            break;
        case IN_SPAWN:
            spawn(f, &m);
            break;
        case IN_KILL:
            do_kill(f, &m);
            break;
        case IN_OPEN:
            open_file(f, &m);
            break;
        case IN_ACK:
            f->acks++;
            break;
        default:
            fail_msg("fake init: message %u", m.head->type);
        }
    }
    wire_msg_fini(&m);
}

static void on_tick(struct timer *t)
{
    loop_stop(container_of(t, struct fake, tick)->loop);
}

void fake_turn(struct fake *f)
{
    (void)timer_start(f->loop, &f->tick, NSEC_PER_MSEC, on_tick);
    (void)loop_run(f->loop);
}

static void on_ready(struct box *b)
{
    container_of(b, struct fake, box)->ready++;
}

bool fake_quiet(struct fake *f)
{
    for (int i = 0; i < FAKE_PROCS; i++) {
        if (f->procs[i].used)
            return false;
    }
    return true;
}

const char *fake_env(struct fake *f, const char *name)
{
    size_t n = strlen(name);

    for (size_t i = 0; f->env != NULL && f->env[i] != NULL; i++) {
        if (strncmp(f->env[i], name, n) == 0 && f->env[i][n] == '=')
            return f->env[i] + n + 1;
    }
    return NULL;
}

void fake_open(struct fake *f)
{
    const struct env_item items[] = {
        {.name = "PATH", .name_len = 4, .value = "/usr/bin:/bin", .value_len = 13, .op = ENV_SET},
        {.name = "HOME", .name_len = 4, .value = "/root", .value_len = 5, .op = ENV_SET},
    };
    struct err e = {0};
    int fds[2];

    *f = (struct fake){0};
    now = f;
    (void)signal(SIGPIPE, SIG_IGN);
    assert_int_equal(loop_new(&f->loop, &e), 0);
    strcpy(f->dir, "/tmp/silica-fake-init-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    f->en.loop = f->loop;
    f->en.epoch = FAKE_EPOCH;
    f->en.config.state_dir = f->dir;
    f->en.config.log_max_bytes = 64 << 20;
    f->en.config.execs_max = 8;
    strcpy(f->box.id, "sb-test");
    f->rec.tenant = (char *)"local";
    f->rec.image = (char *)"debian:12";
    f->rec.cwd = (char *)"/";
    f->rec.pids = 64;
    f->box.rec = &f->rec;
    f->box.en = &f->en;
    f->box.state = BOX_RUNNING;
    assert_int_equal(env_new(&f->box.env), 0);
    assert_int_equal(env_apply(f->box.env, ENV_SYSTEM, items, 2, false, &e), 0);
    HASH_ADD_STR(f->en.boxes, id, &f->box);

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
    f->fd = fds[1];
    (void)fcntl(f->fd, F_SETFL, O_NONBLOCK);
    assert_int_equal(io_start(f->loop, &f->io, f->fd, EPOLLIN, on_io), 0);
    assert_int_equal(init_link_new(&f->box, fds[0], on_ready, &f->box.init, &e), 0);
}

void fake_close(struct fake *f)
{
    char cmd[128];

    f->hold_exits = false;
    for (int i = 0; i < FAKE_PROCS; i++) {
        struct fake_proc *p = &f->procs[i];

        if (!p->used)
            continue;
        (void)kill(-p->pid, SIGKILL);
        (void)waitpid(p->pid, NULL, 0);
        io_stop(&p->io);
        (void)close(p->pidfd);
    }
    init_link_free(f->box.init);
    f->box.init = NULL;
    procs_lost(&f->box);
    box_log_free(f->box.log);
    HASH_DEL(f->en.boxes, &f->box);
    TURNS(f, 3);
    timer_stop(&f->tick);
    io_stop(&f->io);
    fd_close(f->fd);
    env_free(f->box.env);
    for (size_t i = 0; f->env != NULL && f->env[i] != NULL; i++)
        free(f->env[i]);
    free(f->env);
    loop_free(f->loop);
    (void)snprintf(cmd, sizeof cmd, "rm -rf %s", f->dir);
    assert_int_equal(system(cmd), 0);
}
