/* deps: engine; sources: tests/unit/engine/fake-init.c */
/* What an init that was taken over may answer: a stream of datagrams with any type, token, body, tail and descriptors, while a
 * process is being started, a user looked up and a file opened. It may end the sandbox and nothing else. */
#include "fake-init.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct fake f; /* one for all inputs: a loop and a folder cost more than an input */

static bool silent(struct fake *who, struct wire_msg *m)
{
    (void)m;
    (void)who;
    return true;
}

static void ignore_ready(struct box *b)
{
    (void)b;
}

static void on_answer(void *arg, const struct err *e, struct wire_msg *m)
{
    bool bad = false;

    (void)arg;
    assert((e == NULL) != (m == NULL));
    if (m != NULL && m->head->type == IN_USER_IS) /* what was checked is safe to use */
        assert(wire_get_str(m, ((const struct in_user_is *)m->body)->home, &bad) != NULL && !bad);
}

static void on_file(void *arg, const struct err *e, struct chunk *content)
{
    (void)arg;
    (void)e;
    chunk_free(content);
}

static bool on_output(struct exec *x, int stream, struct chunk *c, void *arg)
{
    (void)x;
    (void)stream;
    (void)arg;
    chunk_free(c);
    return true;
}

static void on_ended(struct exec *x, const struct exec_result *res, void *arg)
{
    (void)x;
    (void)res;
    *(struct exec **)arg = NULL;
}

static void on_failed(struct exec *x, const struct err *e, void *arg)
{
    (void)x;
    assert(e->code < 0 && e->msg[0] != '\0');
    *(struct exec **)arg = NULL;
}

static const struct exec_ops ops = {.output = on_output, .ended = on_ended, .failed = on_failed};

/* Reads integers of the input; zeros at its end. */
struct bytes {
    const uint8_t *at;
    size_t left;
};

static uint8_t next(struct bytes *b)
{
    return b->left > 0 ? b->left--, *b->at++ : 0;
}

static void send_one(int sock, struct bytes *b, const int *pool)
{
    static const uint16_t types[] = {IN_TABLE,  IN_ENTRY, IN_USER_IS,   IN_SPAWNED, IN_EXITED,
                                     IN_OPENED, IN_OK,    IN_CONNECTED, IN_FAILED,  IN_ACK};
    _Alignas(8) uint8_t body[512] = {0};
    struct wire_tail t = {0};
    uint16_t type = types[next(b) % ARRAY_LEN(types)];
    uint64_t token = ((uint64_t)FAKE_EPOCH << 32) * (next(b) % 2) + next(b);
    int body_len = in_body_size(type), fds[4];
    unsigned nfds = next(b) % 4;
    uint8_t tail_len = next(b);

    for (unsigned i = 0; i < nfds; i++)
        fds[i] = pool[next(b) % 4];
    for (int i = 0; i < body_len; i++)
        body[i] = next(b);
    if (tail_len > 0 && b->left >= tail_len) {
        (void)wire_put_mem(&t, (const char *)b->at, tail_len);
        b->at += tail_len;
        b->left -= tail_len;
    }
    (void)wire_send(sock, type, token, body, (size_t)body_len, &t, fds, nfds);
    wire_tail_fini(&t);
}

static void ask_everything(struct exec **x)
{
    const char *const argv[] = {"true", NULL};
    struct exec_spec spec = {.tenant = "local", .box = "sb-test", .argv = argv, .stdin_open = true};
    struct wire_tail t = {0};
    struct in_user q = {.user = wire_put_str(&t, "someone")};
    struct err e = {0};

    (void)engine_exec(&f.en, &spec, &ops, x, x, &e);
    (void)init_ask(f.box.init, IN_USER, 0, &q, sizeof q, &t, on_answer, NULL, &e);
    (void)engine_file_read(&f.en, "local", "sb-test", "/x", 4096, on_file, NULL);
    wire_tail_fini(&t);
}

static void clean(void)
{
    (void)rmdir(f.dir); /* nothing is written in it: no file is opened for writing */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int pool[4];
    struct bytes b = {data, size};
    struct in_table table = {.epoch = FAKE_EPOCH};
    struct exec *x = NULL;
    struct err e = {0};
    int fds[2];

    if (f.loop == NULL) {
        fake_open(&f);
        (void)atexit(clean);
        if (pipe2(pool, O_CLOEXEC | O_NONBLOCK) < 0)
            return 0;
        pool[2] = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
        pool[3] = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
    }
    /* A conversation of its own for each input. */
    init_link_free(f.box.init);
    io_stop(&f.io);
    fd_close(f.fd);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
        return 0;
    f.fd = fds[1];
    f.on_message = silent;
    f.box.next_token = 0;
    if (init_link_new(&f.box, fds[0], ignore_ready, &f.box.init, &e) < 0)
        return 0;
    (void)io_start(f.loop, &f.io, f.fd, EPOLLIN, f.io.cb);
    if (next(&b) % 4 != 0) {
        (void)wire_send(f.fd, IN_TABLE, 0, &table, sizeof table, NULL, NULL, 0);
        fake_turn(&f);
        ask_everything(&x);
    }
    while (b.left > 0)
        send_one(f.fd, &b, pool);
    for (int i = 0; i < 3; i++)
        fake_turn(&f);

    if (x != NULL)
        exec_abandon(x);
    init_link_free(f.box.init);
    f.box.init = NULL;
    procs_lost(&f.box);
    box_log_free(f.box.log);
    f.box.log = NULL;
    fake_turn(&f);
    assert(f.box.proc_count == 0 && f.box.procs == NULL);
    return 0;
}
