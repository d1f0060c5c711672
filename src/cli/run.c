/* run, exec, logs: verbs over the CWSandbox v1 dialect, the same calls that its other clients make. */
#include "cli/grpc.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "base/fd.h"
#include "cw_v1_sandbox.pb-c.h"

#define SERVICE "/coreweave.sandbox.v1.SandboxService/"
enum { ITEMS_MAX = 1024, STDIN_PIECE = 64 << 10, STDIN_AHEAD = 1 << 20 };

typedef Coreweave__Sandbox__V1__StringEntry string_entry;

static ProtobufCBinaryData bytes_of(const char *s)
{
    return (ProtobufCBinaryData){.len = s != NULL ? strlen(s) : 0, .data = (uint8_t *)(uintptr_t)s};
}

/* Environment entries and other lists given on the command line. */
struct lists {
    string_entry entries[ITEMS_MAX], *env[ITEMS_MAX];
    size_t env_count;
    ProtobufCBinaryData tags[ITEMS_MAX], args[ITEMS_MAX];
    size_t tag_count;
};

/* "NAME=value", or "NAME": the value it has here. */
static int add_env(struct lists *l, const char *text, struct err *e)
{
    const char *eq = strchr(text, '='), *value = eq != NULL ? eq + 1 : getenv(text);
    string_entry *s;

    if (l->env_count == ITEMS_MAX)
        return err_typed(e, ERR_INVALID, NULL, "more than %d variables", ITEMS_MAX);
    if (value == NULL)
        return err_typed(e, ERR_INVALID, NULL, "-e %s: there is no such variable here; write NAME=value", text);
    s = &l->entries[l->env_count];
    coreweave__sandbox__v1__string_entry__init(s);
    s->key = bytes_of(text);
    s->key.len = eq != NULL ? (size_t)(eq - text) : strlen(text);
    s->value = bytes_of(value);
    l->env[l->env_count++] = s;
    return 0;
}

/* A number from 1 on, and nothing else: "1h" is no 1. */
static int parse_count(const char *option, const char *text, int *ret, struct err *e)
{
    char *end;
    long n;

    errno = 0;
    n = strtol(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || n < 1 || n > INT_MAX)
        return err_typed(e, ERR_INVALID, NULL, "%s needs a number from 1 on, not '%s'", option, text);
    *ret = (int)n;
    return 0;
}

static int write_all(int fd, const void *data, size_t len)
{
    const char *p = data;

    while (len > 0) {
        ssize_t n = write(fd, p, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

/* ---- exec ---------------------------------------------------------------------------------------------------------- */

struct exec_state {
    bool ready, have_exit;
    int code;
    char error[ERR_MSG_MAX];
};

static int exec_message(void *arg, const uint8_t *data, size_t len)
{
    Coreweave__Sandbox__V1__ExecStreamResponse *m =
        coreweave__sandbox__v1__exec_stream_response__unpack(NULL, len, data);
    struct exec_state *x = arg;
    int r = 0;

    if (m == NULL)
        return -EBADMSG;
    switch ((int)m->message_case) {
    case COREWEAVE__SANDBOX__V1__EXEC_STREAM_RESPONSE__MESSAGE_READY:
        x->ready = true;
        break;
    case COREWEAVE__SANDBOX__V1__EXEC_STREAM_RESPONSE__MESSAGE_OUTPUT:
        r = write_all((int)m->output->stream == 2 ? STDERR_FILENO : STDOUT_FILENO, m->output->data.data,
                      m->output->data.len);
        break;
    case COREWEAVE__SANDBOX__V1__EXEC_STREAM_RESPONSE__MESSAGE_EXIT:
        x->have_exit = true;
        x->code = m->exit->exit_code;
        break;
    case COREWEAVE__SANDBOX__V1__EXEC_STREAM_RESPONSE__MESSAGE_ERROR:
        (void)snprintf(x->error, sizeof x->error, "%s", m->error->message);
        break;
    default:
        break;
    }
    coreweave__sandbox__v1__exec_stream_response__free_unpacked(m, NULL);
    return r;
}

static struct termios saved_tty;
static volatile sig_atomic_t resized;

static void on_winch(int signo)
{
    (void)signo;
    resized = 1;
}

static void restore_tty(void)
{
    (void)tcsetattr(STDIN_FILENO, TCSADRAIN, &saved_tty);
}

/* Keys go to the sandbox as they are typed; the terminal is given back at exit whatever happens. */
static int raw_tty(struct err *e)
{
    struct sigaction winch = {.sa_handler = on_winch};
    struct termios t;

    if (tcgetattr(STDIN_FILENO, &saved_tty) < 0)
        return err_typed(e, ERR_INVALID, NULL, "-t needs a terminal on standard input");
    t = saved_tty;
    cfmakeraw(&t);
    (void)atexit(restore_tty);
    (void)sigaction(SIGWINCH, &winch, NULL); /* without SA_RESTART: poll returns */
    if (tcsetattr(STDIN_FILENO, TCSADRAIN, &t) < 0)
        return err_set(e, errno, "terminal: %m");
    return 0;
}

static int send_resize(struct grpc *g, struct err *e)
{
    Coreweave__Sandbox__V1__ExecStreamRequest m = COREWEAVE__SANDBOX__V1__EXEC_STREAM_REQUEST__INIT;
    Coreweave__Sandbox__V1__ExecStreamResize size = COREWEAVE__SANDBOX__V1__EXEC_STREAM_RESIZE__INIT;
    struct winsize w;

    resized = 0;
    if (ioctl(STDIN_FILENO, TIOCGWINSZ, &w) < 0)
        return 0;
    size.width = w.ws_col;
    size.height = w.ws_row;
    m.message_case = COREWEAVE__SANDBOX__V1__EXEC_STREAM_REQUEST__MESSAGE_RESIZE;
    m.resize = &size;
    return grpc_send(g, &m.base, e);
}

/* One read of our standard input to the sandbox. Returns 1 at its end. */
static int pump_stdin(struct grpc *g, struct err *e)
{
    Coreweave__Sandbox__V1__ExecStreamRequest m = COREWEAVE__SANDBOX__V1__EXEC_STREAM_REQUEST__INIT;
    uint8_t data[STDIN_PIECE];
    ssize_t n = read(STDIN_FILENO, data, sizeof data);

    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return 0;
    if (n < 0) /* not an end: the command must not take what came so far for all of it */
        return err_set(e, errno, "read standard input: %m");
    if (n == 0) {
        (void)grpc_half_close(g, e);
        return 1;
    }
    m.message_case = COREWEAVE__SANDBOX__V1__EXEC_STREAM_REQUEST__MESSAGE_STDIN;
    m.stdin = (ProtobufCBinaryData){.len = (size_t)n, .data = data};
    return grpc_send(g, &m.base, e);
}

static int exec_loop(struct grpc *g, struct exec_state *x, bool input, bool tty, struct err *e)
{
    bool open = input;
    int r = 0;

    while (r == 0) {
        struct pollfd in = {.fd = open && x->ready && grpc_backlog(g) < STDIN_AHEAD ? STDIN_FILENO : -1,
                            .events = POLLIN};

        if (tty && resized)
            r = send_resize(g, e);
        if (r == 0)
            r = grpc_turn(g, &in, -1, e);
        if (r == 0 && in.revents != 0) {
            int end = pump_stdin(g, e);

            if (end < 0)
                r = end;
            else if (end > 0)
                open = false;
        }
    }
    return r;
}

static int do_exec(const struct cli *c, Coreweave__Sandbox__V1__ExecStreamInit *init, bool input, struct err *e)
{
    Coreweave__Sandbox__V1__ExecStreamRequest m = COREWEAVE__SANDBOX__V1__EXEC_STREAM_REQUEST__INIT;
    struct exec_state x = {0};
    struct grpc *g;
    int r = grpc_open(c, &g, e);

    if (r < 0)
        return r;
    m.message_case = COREWEAVE__SANDBOX__V1__EXEC_STREAM_REQUEST__MESSAGE_INIT;
    m.init = init;
    r = grpc_start(g, SERVICE "StreamExec", exec_message, &x, e);
    if (r == 0)
        r = grpc_send(g, &m.base, e);
    if (r == 0 && !input)
        r = grpc_half_close(g, e);
    if (r == 0)
        r = exec_loop(g, &x, input, init->tty, e);
    grpc_close(g);
    if (r < 0)
        return r;
    if (x.error[0] != '\0')
        return err_typed(e, ERR_INTERNAL, NULL, "%s", x.error);
    if (!x.have_exit)
        return err_typed(e, ERR_INTERNAL, NULL, "the daemon ended the call without an exit code");
    return x.code;
}

int verb_exec(const struct cli *c, int argc, char **argv)
{
    Coreweave__Sandbox__V1__ExecStreamInit init = COREWEAVE__SANDBOX__V1__EXEC_STREAM_INIT__INIT;
    static struct lists l;
    bool input = false;
    struct winsize w;
    struct err e;
    int i = 1, r;

    for (; i < argc && argv[i][0] == '-' && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "-i") == 0) {
            input = true;
        } else if (strcmp(argv[i], "-t") == 0) {
            init.tty = true;
        } else if (strcmp(argv[i], "-it") == 0 || strcmp(argv[i], "-ti") == 0) {
            input = true;
            init.tty = true;
        } else if (strcmp(argv[i], "-e") == 0 && i + 1 < argc) {
            if (add_env(&l, argv[++i], &e) < 0)
                return cli_fail(&e);
        } else {
            return cli_usage(cli_verb("exec"));
        }
    }
    if (i < argc && strcmp(argv[i], "--") == 0)
        i++;
    if (argc - i < 2 || argc - i - 1 > ITEMS_MAX)
        return cli_usage(cli_verb("exec"));
    init.sandbox_id = bytes_of(argv[i]);
    for (int k = i + 1; k < argc; k++)
        l.args[k - i - 1] = bytes_of(argv[k]);
    init.command = l.args;
    init.n_command = (size_t)(argc - i - 1);
    init.env = l.env;
    init.n_env = l.env_count;
    if (init.tty && ioctl(STDIN_FILENO, TIOCGWINSZ, &w) == 0) {
        init.tty_width = w.ws_col;
        init.tty_height = w.ws_row;
    }
    if (init.tty && input && raw_tty(&e) < 0)
        return cli_fail(&e);
    r = do_exec(c, &init, input, &e);
    return r < 0 ? cli_fail(&e) : r;
}

/* ---- logs ---------------------------------------------------------------------------------------------------------- */

struct log_state {
    char error[ERR_MSG_MAX];
};

static int log_message(void *arg, const uint8_t *data, size_t len)
{
    Coreweave__Sandbox__V1__LogEntry *m = coreweave__sandbox__v1__log_entry__unpack(NULL, len, data);
    struct log_state *s = arg;
    int r;

    if (m == NULL)
        return -EBADMSG;
    if (m->error != NULL)
        (void)snprintf(s->error, sizeof s->error, "%s", m->error->message);
    r = write_all(STDOUT_FILENO, m->data.data, m->data.len);
    coreweave__sandbox__v1__log_entry__free_unpacked(m, NULL);
    return r;
}

static int do_logs(const struct cli *c, Coreweave__Sandbox__V1__StreamLogsRequest *req, struct err *e)
{
    struct log_state s = {0};
    struct grpc *g;
    int r = grpc_open(c, &g, e);

    if (r < 0)
        return r;
    r = grpc_start(g, SERVICE "StreamLogs", log_message, &s, e);
    if (r == 0)
        r = grpc_send(g, &req->base, e);
    if (r == 0)
        r = grpc_half_close(g, e);
    while (r == 0)
        r = grpc_turn(g, NULL, -1, e);
    grpc_close(g);
    if (r > 0 && s.error[0] != '\0')
        return err_typed(e, ERR_INTERNAL, NULL, "%s", s.error);
    return r < 0 ? r : 0;
}

int verb_logs(const struct cli *c, int argc, char **argv)
{
    Coreweave__Sandbox__V1__StreamLogsRequest req = COREWEAVE__SANDBOX__V1__STREAM_LOGS_REQUEST__INIT;
    struct err e;
    int i = 1, r = 0;

    for (; r == 0 && i < argc && argv[i][0] == '-'; i++) {
        if (strcmp(argv[i], "-f") == 0)
            req.follow = true;
        else if (strcmp(argv[i], "-t") == 0)
            req.timestamps = true;
        else if (strcmp(argv[i], "--tail") == 0 && i + 1 < argc)
            r = parse_count("--tail", argv[++i], &req.tail_lines, &e);
        else
            return cli_usage(cli_verb("logs"));
    }
    if (r < 0)
        return cli_fail(&e);
    if (i + 1 != argc)
        return cli_usage(cli_verb("logs"));
    req.sandbox_id = bytes_of(argv[i]);
    return do_logs(c, &req, &e) < 0 ? cli_fail(&e) : 0;
}

/* ---- run ----------------------------------------------------------------------------------------------------------- */

struct run_options {
    bool detach, remove;
    const char *memory, *cpu, *cwd, *user;
    int network; /* -1 not given, 0 none, 1 nat */
    int lifetime;
};

static int parse_run(struct run_options *o, struct lists *l, int argc, char **argv, int *ret_i, struct err *e)
{
    int i = 1, r = 0;

    *o = (struct run_options){.network = -1};
    for (; r == 0 && i < argc && argv[i][0] == '-'; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;

        if (strcmp(name, "--") == 0) {
            i++;
            break;
        }
        if (strcmp(name, "-d") == 0) {
            o->detach = true;
            continue;
        }
        if (strcmp(name, "--rm") == 0) {
            o->remove = true;
            continue;
        }
        if (value == NULL)
            return err_typed(e, ERR_INVALID, NULL, "%s: unknown option, or its value is missing", name);
        i++;
        if (strcmp(name, "-e") == 0)
            r = add_env(l, value, e);
        else if (strcmp(name, "--tag") == 0 && l->tag_count < ITEMS_MAX)
            l->tags[l->tag_count++] = bytes_of(value);
        else if (strcmp(name, "--memory") == 0)
            o->memory = value;
        else if (strcmp(name, "--cpu") == 0)
            o->cpu = value;
        else if (strcmp(name, "-w") == 0)
            o->cwd = value;
        else if (strcmp(name, "-u") == 0)
            o->user = value;
        else if (strcmp(name, "--lifetime") == 0)
            r = parse_count(name, value, &o->lifetime, e);
        else if (strcmp(name, "--network") == 0 && strcmp(value, "none") == 0)
            o->network = 0;
        else if (strcmp(name, "--network") == 0 && strcmp(value, "nat") == 0)
            o->network = 1;
        else
            r = err_typed(e, ERR_INVALID, NULL, "%s %s: unknown option or value", name, value);
    }
    *ret_i = i;
    return r;
}

static int set_user(Coreweave__Sandbox__V1__SecurityContext *sc, const char *user, struct err *e)
{
    unsigned uid, gid;
    char rest;

    if (sscanf(user, "%u:%u%c", &uid, &gid, &rest) == 2) {
        sc->_run_as_group_case = COREWEAVE__SANDBOX__V1__SECURITY_CONTEXT___RUN_AS_GROUP_RUN_AS_GROUP;
        sc->run_as_group = gid;
    } else if (sscanf(user, "%u%c", &uid, &rest) != 1) {
        return err_typed(e, ERR_INVALID, NULL, "-u %s: a number is expected, UID or UID:GID", user);
    }
    sc->_run_as_user_case = COREWEAVE__SANDBOX__V1__SECURITY_CONTEXT___RUN_AS_USER_RUN_AS_USER;
    sc->run_as_user = uid;
    return 0;
}

static int create(struct grpc *g, Coreweave__Sandbox__V1__SandboxSpec *spec, char id[64], struct err *e)
{
    Coreweave__Sandbox__V1__CreateSandboxRequest req = COREWEAVE__SANDBOX__V1__CREATE_SANDBOX_REQUEST__INIT;
    Coreweave__Sandbox__V1__Sandbox box = COREWEAVE__SANDBOX__V1__SANDBOX__INIT, *got;
    AUTO_FREE uint8_t *packed = malloc(coreweave__sandbox__v1__sandbox_spec__get_packed_size(spec) + 1);
    ProtobufCMessage *reply;
    int r;

    if (packed == NULL)
        return err_set(e, ENOMEM, "%m");
    box.spec.len = coreweave__sandbox__v1__sandbox_spec__pack(spec, packed);
    box.spec.data = packed;
    req.sandbox = &box;
    r = grpc_unary(g, SERVICE "CreateSandbox", &req.base, &coreweave__sandbox__v1__sandbox__descriptor, &reply, e);
    if (r < 0)
        return r;
    got = (Coreweave__Sandbox__V1__Sandbox *)reply;
    (void)snprintf(id, 64, "%.*s", (int)got->sandbox_id.len, (const char *)got->sandbox_id.data);
    protobuf_c_message_free_unpacked(reply, NULL);
    return 0;
}

/* The main process's end as an exit code: its own, or 125 when it never ran. */
static int final_code(struct grpc *g, const char *id, struct err *e)
{
    Coreweave__Sandbox__V1__GetSandboxRequest req = COREWEAVE__SANDBOX__V1__GET_SANDBOX_REQUEST__INIT;
    Coreweave__Sandbox__V1__SandboxStatus *s;
    ProtobufCMessage *reply;
    int r;

    req.sandbox_id = bytes_of(id);
    r = grpc_unary(g, SERVICE "GetSandbox", &req.base, &coreweave__sandbox__v1__sandbox__descriptor, &reply, e);
    if (r < 0)
        return r;
    s = ((Coreweave__Sandbox__V1__Sandbox *)reply)->status;
    if (s != NULL && s->_exit_code_case != 0)
        r = s->exit_code;
    else
        r = err_typed(e, ERR_INTERNAL, NULL, "%s ended without an exit code: %s", id, s != NULL ? s->state_reason : "");
    protobuf_c_message_free_unpacked(reply, NULL);
    return r;
}

static int follow_to_end(const struct cli *c, struct grpc *g, const char *id, struct err *e)
{
    Coreweave__Sandbox__V1__StreamLogsRequest req = COREWEAVE__SANDBOX__V1__STREAM_LOGS_REQUEST__INIT;
    int r;

    req.sandbox_id = bytes_of(id);
    req.follow = true;
    r = do_logs(c, &req, e);
    /* A sandbox that failed to start has no log to follow; its record says why. */
    if (r < 0 && e->kind != ERR_PRECONDITION)
        return r;
    return final_code(g, id, e);
}

static int run(const struct cli *c, const struct run_options *o, Coreweave__Sandbox__V1__SandboxSpec *spec,
               struct err *e)
{
    struct grpc *g;
    char id[64];
    int r = grpc_open(c, &g, e);

    if (r < 0)
        return r;
    r = create(g, spec, id, e);
    if (r == 0 && o->detach)
        puts(id);
    else if (r == 0)
        r = follow_to_end(c, g, id, e);
    grpc_close(g);
    if (o->remove && r >= 0 && !o->detach) {
        struct err ignored; /* the sandbox has ended; its record goes with the retention time at the latest */
        char path[128];
        json_t *reply = NULL;

        (void)snprintf(path, sizeof path, "/admin/v1/sandboxes/%s?force=1", id);
        (void)cli_http(c, "DELETE", path, NULL, -1, &reply, &ignored);
        json_decref(reply);
    }
    return r;
}

int verb_run(const struct cli *c, int argc, char **argv)
{
    Coreweave__Sandbox__V1__SandboxSpec spec = COREWEAVE__SANDBOX__V1__SANDBOX_SPEC__INIT;
    Coreweave__Sandbox__V1__Container box = COREWEAVE__SANDBOX__V1__CONTAINER__INIT, *boxes[] = {&box};
    Coreweave__Sandbox__V1__ResourceRequirements need = COREWEAVE__SANDBOX__V1__RESOURCE_REQUIREMENTS__INIT;
    Coreweave__Sandbox__V1__Resources limits = COREWEAVE__SANDBOX__V1__RESOURCES__INIT;
    Coreweave__Sandbox__V1__SecurityContext sc = COREWEAVE__SANDBOX__V1__SECURITY_CONTEXT__INIT;
    Coreweave__Sandbox__V1__NetworkOptions net = COREWEAVE__SANDBOX__V1__NETWORK_OPTIONS__INIT;
    static struct lists l;
    struct run_options o;
    struct err e;
    int i = 0, r;

    if (parse_run(&o, &l, argc, argv, &i, &e) < 0)
        return cli_fail(&e);
    if (i >= argc || argc - i > ITEMS_MAX)
        return cli_usage(cli_verb("run"));
    box.name = spec.primary_container = bytes_of("main");
    box.image = bytes_of(argv[i]);
    if (i + 1 < argc)
        box.command = bytes_of(argv[i + 1]);
    for (int k = i + 2; k < argc; k++)
        l.args[box.n_args++] = bytes_of(argv[k]);
    box.args = l.args;
    box.environment_variables = l.env;
    box.n_environment_variables = l.env_count;
    box.working_dir = bytes_of(o.cwd);
    if (o.memory != NULL || o.cpu != NULL) {
        limits.memory = bytes_of(o.memory);
        limits.cpu = bytes_of(o.cpu);
        need.limits = &limits;
        box.resource_requirements = &need;
    }
    if (o.user != NULL) {
        if (set_user(&sc, o.user, &e) < 0)
            return cli_fail(&e);
        box.security_context = &sc;
    }
    if (o.network >= 0) {
        net._deny_egress_case = COREWEAVE__SANDBOX__V1__NETWORK_OPTIONS___DENY_EGRESS_DENY_EGRESS;
        net.deny_egress = o.network == 0;
        spec.network = &net;
    }
    spec.containers = boxes;
    spec.n_containers = 1;
    spec.tags = l.tags;
    spec.n_tags = l.tag_count;
    spec.max_lifetime_seconds = o.lifetime;
    r = run(c, &o, &spec, &e);
    return r < 0 ? cli_fail(&e) : r;
}
