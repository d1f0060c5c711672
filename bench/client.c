/* A client that measures. One connection, one call at a time; each verb prints one line of numbers a round, microseconds
 * unless it says otherwise.
 *
 *   client PORT create IMAGE ROUNDS PAUSE [keep]  round trip of CreateSandbox, time to main exec'd as the server tells it, state,
 *                                                 round trip of DeleteSandbox. With `keep` nothing is deleted and the id is
 *                                                 printed instead of the last number. PAUSE: milliseconds between rounds
 *   client PORT run IMAGE ROUNDS PAUSE            CreateSandbox with `true`, its log to the end, its exit code
 *   client PORT once IMAGE ROUNDS PAUSE           CreateSandbox, StreamExec of `true` up to its exit code; deleted untimed
 *   client PORT exec ID ROUNDS                    StreamExec of `true`, up to its exit code
 *   client PORT pour ID MIB                       StreamExec of `pour`: bytes and seconds
 *   client PORT delete ID...                      DeleteSandbox of each */
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "base/clock.h"
#include "cli/grpc.h"
#include "cw_v1_sandbox.pb-c.h"

#define SERVICE "/coreweave.sandbox.v1.SandboxService/"
#define PROGRAM_TRUE "/bin/true"
#define PROGRAM_IDLE "/bin/idle"
#define PROGRAM_POUR "/bin/pour"

enum { ID_TEXT = 64, SPEC_MAX = 4096 };

typedef Coreweave__Sandbox__V1__Sandbox sandbox;

static ProtobufCBinaryData text(const char *s)
{
    return (ProtobufCBinaryData){.len = strlen(s), .data = (uint8_t *)(uintptr_t)s};
}

static double us_since(uint64_t t0)
{
    return (double)(clock_mono() - t0) / 1e3;
}

__attribute__((noreturn)) static void die(const struct err *e)
{
    (void)fprintf(stderr, "bench: %s\n", e->msg);
    exit(1);
}

/* What grpc.c asks for; the command line has its own, with names and all. */
int cli_connect(const struct cli *c, struct err *e)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(c->port))};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
        return err_set(e, errno, "cannot reach silicad at port %s: %m", c->port);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* only speed */
    return fd;
}

/* Between two rounds: what is measured is how long one takes, not how many fit in a second. */
static void pause_ms(int ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000L};

    if (ms > 0)
        (void)nanosleep(&t, NULL); /* a signal ends us anyway */
}

/* ---- calls ---------------------------------------------------------------------------------------------------------- */

/* The reply is the caller's to free. */
static sandbox *create(struct grpc *g, const char *image, const char *program)
{
    Coreweave__Sandbox__V1__SandboxSpec spec = COREWEAVE__SANDBOX__V1__SANDBOX_SPEC__INIT;
    Coreweave__Sandbox__V1__Container main = COREWEAVE__SANDBOX__V1__CONTAINER__INIT, *mains[] = {&main};
    Coreweave__Sandbox__V1__CreateSandboxRequest req = COREWEAVE__SANDBOX__V1__CREATE_SANDBOX_REQUEST__INIT;
    sandbox box = COREWEAVE__SANDBOX__V1__SANDBOX__INIT;
    uint8_t packed[SPEC_MAX];
    ProtobufCMessage *reply;
    struct err e = {0};

    main.name = spec.primary_container = text("main");
    main.image = text(image);
    main.command = text(program);
    spec.containers = mains;
    spec.n_containers = 1;
    box.spec.len = coreweave__sandbox__v1__sandbox_spec__pack(&spec, packed);
    box.spec.data = packed;
    req.sandbox = &box;
    if (grpc_unary(g, SERVICE "CreateSandbox", &req.base, &coreweave__sandbox__v1__sandbox__descriptor, &reply, &e) < 0)
        die(&e);
    return (sandbox *)reply;
}

static sandbox *get(struct grpc *g, ProtobufCBinaryData id)
{
    Coreweave__Sandbox__V1__GetSandboxRequest req = COREWEAVE__SANDBOX__V1__GET_SANDBOX_REQUEST__INIT;
    ProtobufCMessage *reply;
    struct err e = {0};

    req.sandbox_id = id;
    if (grpc_unary(g, SERVICE "GetSandbox", &req.base, &coreweave__sandbox__v1__sandbox__descriptor, &reply, &e) < 0)
        die(&e);
    return (sandbox *)reply;
}

static void delete (struct grpc *g, ProtobufCBinaryData id)
{
    Coreweave__Sandbox__V1__DeleteSandboxRequest req = COREWEAVE__SANDBOX__V1__DELETE_SANDBOX_REQUEST__INIT;
    ProtobufCMessage *reply;
    struct err e = {0};

    req.sandbox_id = id;
    if (grpc_unary(g, SERVICE "DeleteSandbox", &req.base, &coreweave__sandbox__v1__delete_sandbox_response__descriptor,
                   &reply, &e) < 0)
        die(&e);
    protobuf_c_message_free_unpacked(reply, NULL);
}

static int log_message(void *arg, const uint8_t *data, size_t len)
{
    (void)arg;
    (void)data;
    (void)len;
    return 0;
}

static void follow(struct grpc *g, ProtobufCBinaryData id)
{
    Coreweave__Sandbox__V1__StreamLogsRequest req = COREWEAVE__SANDBOX__V1__STREAM_LOGS_REQUEST__INIT;
    struct err e = {0};
    int r;

    req.sandbox_id = id;
    req.follow = true;
    r = grpc_start(g, SERVICE "StreamLogs", log_message, NULL, &e);
    if (r == 0)
        r = grpc_send(g, &req.base, &e);
    if (r == 0)
        r = grpc_half_close(g, &e);
    while (r == 0)
        r = grpc_turn(g, NULL, -1, &e);
    if (r < 0)
        die(&e);
}

struct exec {
    bool have_exit;
    int code;
    uint64_t bytes;
};

static int exec_message(void *arg, const uint8_t *data, size_t len)
{
    Coreweave__Sandbox__V1__ExecStreamResponse *m =
        coreweave__sandbox__v1__exec_stream_response__unpack(NULL, len, data);
    struct exec *x = arg;

    if (m == NULL)
        return -EBADMSG;
    if (m->message_case == COREWEAVE__SANDBOX__V1__EXEC_STREAM_RESPONSE__MESSAGE_OUTPUT)
        x->bytes += m->output->data.len;
    if (m->message_case == COREWEAVE__SANDBOX__V1__EXEC_STREAM_RESPONSE__MESSAGE_EXIT) {
        x->have_exit = true;
        x->code = m->exit->exit_code;
    }
    coreweave__sandbox__v1__exec_stream_response__free_unpacked(m, NULL);
    return 0;
}

static struct exec exec(struct grpc *g, const char *id, const char *const *argv, size_t argc)
{
    Coreweave__Sandbox__V1__ExecStreamRequest req = COREWEAVE__SANDBOX__V1__EXEC_STREAM_REQUEST__INIT;
    Coreweave__Sandbox__V1__ExecStreamInit init = COREWEAVE__SANDBOX__V1__EXEC_STREAM_INIT__INIT;
    ProtobufCBinaryData args[4];
    struct exec x = {0};
    struct err e = {0};
    int r;

    for (size_t i = 0; i < argc; i++)
        args[i] = text(argv[i]);
    init.sandbox_id = text(id);
    init.command = args;
    init.n_command = argc;
    req.message_case = COREWEAVE__SANDBOX__V1__EXEC_STREAM_REQUEST__MESSAGE_INIT;
    req.init = &init;
    r = grpc_start(g, SERVICE "StreamExec", exec_message, &x, &e);
    if (r == 0)
        r = grpc_send(g, &req.base, &e);
    if (r == 0)
        r = grpc_half_close(g, &e);
    while (r == 0)
        r = grpc_turn(g, NULL, -1, &e);
    if (r > 0 && (!x.have_exit || x.code != 0))
        r = err_set(&e, EIO, "%s in %s: no exit code, or %d", argv[0], id, x.code);
    if (r < 0)
        die(&e);
    return x;
}

/* ---- verbs ---------------------------------------------------------------------------------------------------------- */

static double between(const Google__Protobuf__Timestamp *a, const Google__Protobuf__Timestamp *b)
{
    if (a == NULL || b == NULL)
        return -1;
    return (double)(b->seconds - a->seconds) * 1e6 + (double)(b->nanos - a->nanos) / 1e3;
}

static void measure_create(struct grpc *g, const char *image, int rounds, int pause, bool keep)
{
    for (int i = 0; i < rounds; i++) {
        uint64_t t0 = clock_mono();
        sandbox *box = create(g, image, PROGRAM_IDLE);
        double took = us_since(t0), inside = between(box->status->create_time, box->status->start_time);
        int state = (int)box->status->state;

        (void)printf("%.1f %.1f %d ", took, inside, state);
        if (keep) {
            (void)printf("%.*s\n", (int)box->sandbox_id.len, (const char *)box->sandbox_id.data);
        } else {
            t0 = clock_mono();
            delete (g, box->sandbox_id);
            (void)printf("%.1f\n", us_since(t0));
        }
        protobuf_c_message_free_unpacked(&box->base, NULL);
        pause_ms(pause);
    }
}

static void measure_run(struct grpc *g, const char *image, int rounds, int pause)
{
    for (int i = 0; i < rounds; i++) {
        uint64_t t0 = clock_mono();
        sandbox *box = create(g, image, PROGRAM_TRUE), *end;

        follow(g, box->sandbox_id);
        end = get(g, box->sandbox_id);
        if (end->status->_exit_code_case == 0 || end->status->exit_code != 0) {
            struct err e = {0};

            (void)err_set(&e, EIO, "the sandbox ended with state %d: %s", (int)end->status->state,
                          end->status->state_reason);
            die(&e);
        }
        (void)printf("%.1f\n", us_since(t0));
        protobuf_c_message_free_unpacked(&end->base, NULL);
        protobuf_c_message_free_unpacked(&box->base, NULL);
        pause_ms(pause);
    }
}

static void measure_once(struct grpc *g, const char *image, int rounds, int pause)
{
    const char *const argv[] = {PROGRAM_TRUE};

    for (int i = 0; i < rounds; i++) {
        uint64_t t0 = clock_mono();
        sandbox *box = create(g, image, PROGRAM_IDLE);
        char id[ID_TEXT];

        (void)snprintf(id, sizeof id, "%.*s", (int)box->sandbox_id.len, (const char *)box->sandbox_id.data);
        (void)exec(g, id, argv, 1);
        (void)printf("%.1f\n", us_since(t0));
        delete (g, box->sandbox_id);
        protobuf_c_message_free_unpacked(&box->base, NULL);
        pause_ms(pause);
    }
}

static void measure_exec(struct grpc *g, const char *id, int rounds)
{
    const char *const argv[] = {PROGRAM_TRUE};

    for (int i = 0; i < rounds; i++) {
        uint64_t t0 = clock_mono();

        (void)exec(g, id, argv, 1);
        (void)printf("%.1f\n", us_since(t0));
    }
}

static void measure_pour(struct grpc *g, const char *id, const char *mib)
{
    const char *const argv[] = {PROGRAM_POUR, mib};
    uint64_t t0 = clock_mono();
    struct exec x = exec(g, id, argv, 2);

    (void)printf("%" PRIu64 " %.6f\n", x.bytes, us_since(t0) / 1e6);
}

int main(int argc, char **argv)
{
    struct cli c = {.host = "127.0.0.1"};
    struct grpc *g;
    struct err e = {0};
    const char *verb = argc > 2 ? argv[2] : "";

    if (argc < 4)
        return 2;
    (void)snprintf(c.port, sizeof c.port, "%s", argv[1]);
    if (grpc_open(&c, &g, &e) < 0)
        die(&e);
    if (strcmp(verb, "create") == 0 && argc >= 6)
        measure_create(g, argv[3], atoi(argv[4]), atoi(argv[5]), argc > 6);
    else if (strcmp(verb, "run") == 0 && argc == 6)
        measure_run(g, argv[3], atoi(argv[4]), atoi(argv[5]));
    else if (strcmp(verb, "once") == 0 && argc == 6)
        measure_once(g, argv[3], atoi(argv[4]), atoi(argv[5]));
    else if (strcmp(verb, "exec") == 0 && argc == 5)
        measure_exec(g, argv[3], atoi(argv[4]));
    else if (strcmp(verb, "pour") == 0 && argc == 5)
        measure_pour(g, argv[3], argv[4]);
    else if (strcmp(verb, "delete") == 0)
        for (int i = 3; i < argc; i++)
            delete (g, text(argv[i]));
    else
        return 2;
    grpc_close(g);
    return 0;
}
