#include "fake.h"

#include "loop/loop.h"

struct fake fake;
static struct cw_v1 dialect;
static const char *no_strings[] = {NULL};

CwBytes bytes(const char *text)
{
    return (CwBytes){.len = strlen(text), .data = (uint8_t *)(uintptr_t)text};
}

/* ---- rpc.h -------------------------------------------------------------------------------------------------------- */

struct rpc_call *fake_call(const char *name)
{
    struct rpc_call *c = calloc(1, sizeof *c);

    for (unsigned i = 0; c->method == NULL && i < cw_method_count; i++) {
        if (strcmp(strrchr(cw_methods[i].path, '/') + 1, name) == 0)
            c->method = &cw_methods[i];
    }
    assert_non_null(c->method);
    if (c->method->open != NULL)
        c->method->open(c);
    return c;
}

void fake_say_bytes(struct rpc_call *c, const void *data, size_t len)
{
    ProtobufCMessage *m = protobuf_c_message_unpack(c->method->in, NULL, len, data);

    assert_non_null(m);
    assert_false(c->finished);
    assert_true(c->msg_count < FAKE_SENT_MAX);
    c->msgs[c->msg_count++] = m;
    c->method->message(c, m);
}

void fake_say(struct rpc_call *c, const ProtobufCMessage *msg)
{
    size_t len = protobuf_c_message_get_packed_size(msg);
    uint8_t *data = malloc(len + 1);

    assert_ptr_equal(msg->descriptor, c->method->in);
    (void)protobuf_c_message_pack(msg, data);
    fake_say_bytes(c, data, len);
    free(data);
}

void fake_half_close(struct rpc_call *c)
{
    assert_false(c->finished);
    c->method->half_close(c);
}

void fake_gone(struct rpc_call *c, enum rpc_why why)
{
    assert_false(c->finished);
    c->finished = true;
    if (c->method->gone != NULL)
        c->method->gone(c, why);
}

void fake_call_free(struct rpc_call *c)
{
    assert_true(c->finished);
    for (unsigned i = 0; i < c->alloc_count; i++)
        free(c->allocs[i]);
    free(c->allocs);
    for (unsigned i = 0; i < c->msg_count; i++)
        protobuf_c_message_free_unpacked(c->msgs[i], NULL);
    for (unsigned i = 0; i < c->sent_count; i++)
        free(c->sent[i].data);
    free(c);
}

ProtobufCMessage *fake_sent(struct rpc_call *c, unsigned n, const ProtobufCMessageDescriptor *d)
{
    ProtobufCMessage *m;

    assert_true(n < c->sent_count);
    m = protobuf_c_message_unpack(d, NULL, c->sent[n].len, c->sent[n].data);
    assert_non_null(m);
    return m;
}

const char *fake_meta(const struct rpc_call *c, const char *key)
{
    for (unsigned i = 0; i < c->err.meta_count; i++) {
        if (strcmp(c->err.meta[i].key, key) == 0)
            return c->err.meta[i].value;
    }
    return NULL;
}

void rpc_set_arg(struct rpc_call *c, void *arg)
{
    c->arg = arg;
}

void *rpc_arg(const struct rpc_call *c)
{
    return c->arg;
}

const struct rpc_peer *rpc_peer_of(const struct rpc_call *c)
{
    static const struct rpc_peer peer = {.tenant = "default", .key_name = "local"};

    (void)c;
    return &peer;
}

void *rpc_service_data(const struct rpc_call *c)
{
    (void)c;
    return &dialect;
}

void *rpc_alloc(struct rpc_call *c, size_t n)
{
    c->allocs = realloc(c->allocs, (c->alloc_count + 1) * sizeof *c->allocs);
    return c->allocs[c->alloc_count++] = malloc(n);
}

static int put_sent(struct rpc_call *c, const void *a, size_t alen, const void *b, size_t blen)
{
    uint8_t *data = malloc(alen + blen + 1);

    assert_false(c->finished);
    assert_true(c->sent_count < FAKE_SENT_MAX);
    if (alen > 0)
        memcpy(data, a, alen);
    if (blen > 0)
        memcpy(data + alen, b, blen);
    c->sent[c->sent_count++] = (CwBytes){.len = alen + blen, .data = data};
    return 0;
}

int rpc_send(struct rpc_call *c, const ProtobufCMessage *msg)
{
    size_t len = protobuf_c_message_get_packed_size(msg);
    uint8_t *data = malloc(len + 1);

    if (c->send_error == 0) {
        (void)protobuf_c_message_pack(msg, data);
        (void)put_sent(c, data, len, NULL, 0);
    }
    free(data);
    return c->send_error;
}

int rpc_send_chunk(struct rpc_call *c, const void *prefix, size_t prefix_len, struct chunk *chunk)
{
    assert_true(prefix_len <= 24);
    if (c->send_error == 0)
        (void)put_sent(c, prefix, prefix_len, chunk->data + chunk->off, chunk->len);
    chunk_free(chunk);
    return c->send_error;
}

int rpc_room(const struct rpc_call *c, size_t n, struct err *e)
{
    return c->no_room && n > RPC_OUT_LARGE ? err_typed(e, ERR_EXHAUSTED, NULL, "no room") : 0;
}

bool rpc_writable(const struct rpc_call *c)
{
    return !c->stuck;
}

void rpc_pause(struct rpc_call *c, bool pause)
{
    c->paused = pause;
}

void rpc_finish(struct rpc_call *c, const struct err *e)
{
    assert_false(c->finished);
    c->finished = true;
    if (e != NULL)
        c->err = *e;
    if (e != NULL)
        assert_true(e->code < 0);
}

void rpc_reply(struct rpc_call *c, const ProtobufCMessage *msg)
{
    assert_int_equal(rpc_send(c, msg), 0);
    rpc_finish(c, NULL);
}

/* ---- engine.h: sandboxes ------------------------------------------------------------------------------------------- */

static void add(struct buf *b, const char *key, const char *value)
{
    if (value != NULL)
        assert_int_equal(buf_printf(b, "%s=%s\n", key, value), 0);
}

static void add_number(struct buf *b, const char *key, unsigned long long v)
{
    if (v != 0)
        assert_int_equal(buf_printf(b, "%s=%llu\n", key, v), 0);
}

static void add_list(struct buf *b, const char *key, const char *const *list)
{
    for (; list != NULL && *list != NULL; list++)
        add(b, key, *list);
}

static void add_env(struct buf *b, const struct env_item *items, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(items[i].op, ENV_SET);
        assert_int_equal(buf_printf(b, "env=%.*s=%.*s\n", (int)items[i].name_len, items[i].name,
                                    (int)items[i].value_len, items[i].value != NULL ? items[i].value : ""),
                         0);
    }
}

static char *text_of(struct buf *b)
{
    assert_int_equal(buf_append(b, "", 1), 0);
    return (char *)b->data;
}

static struct op *take_op(box_cb box, file_cb file, void *arg)
{
    if (fake.no_memory)
        return NULL;
    fake.op = (struct op){.live = true, .box = box, .file = file, .arg = arg};
    return &fake.op;
}

void op_drop(struct op *op)
{
    if (op != NULL)
        op->dropped = true;
}

struct op *engine_box_create(struct engine *en, const struct box_spec *s, box_cb cb, void *arg)
{
    struct buf b = {0};

    (void)en;
    fake.creates++;
    add(&b, "tenant", s->tenant);
    add(&b, "creator", s->creator);
    add(&b, "dialect", s->dialect);
    add(&b, "request_id", s->request_id);
    add(&b, "image", s->image);
    add(&b, "command", s->command);
    add_list(&b, "arg", s->args);
    add(&b, "cwd", s->cwd);
    add(&b, "user", s->user);
    add_env(&b, s->env, s->env_count);
    add_list(&b, "tag", s->tags);
    add_number(&b, "memory", s->memory_bytes);
    add_number(&b, "cpu", s->cpu_millis);
    add_number(&b, "lifetime", s->lifetime_s);
    add_number(&b, "egress", s->egress);
    add_number(&b, "readonly_root", s->readonly_root);
    add_number(&b, "no_new_privs", s->no_new_privs);
    free(fake.spec_text);
    fake.spec_text = text_of(&b);
    fake.echo.len = 0;
    assert_int_equal(buf_append(&fake.echo, s->echo, s->echo_len), 0);
    return take_op(cb, NULL, arg);
}

struct box_info fake_box(const char *id, enum box_state state)
{
    struct box_info info = {
        .tenant = "default",
        .dialect = "cw_v1",
        .image = "python:3.11",
        .image_digest = "",
        .runner_id = "rn-1",
        .state = state,
        .reason = "",
        .tags = no_strings,
        .created_ns = 1,
        .memory_bytes = 2147483648,
        .lifetime_s = 86400,
    };

    (void)snprintf(info.id, sizeof info.id, "%s", id);
    return info;
}

static int missing(struct err *e, const char *id)
{
    return err_typed(e, ERR_NOT_FOUND, "SANDBOX_NOT_FOUND", "there is no sandbox '%s'", id);
}

int engine_box_get(struct engine *en, const char *tenant, const char *id, struct box_info *ret, struct err *e)
{
    (void)en;
    assert_string_equal(tenant, "default");
    for (unsigned i = 0; i < fake.box_count; i++) {
        if (strcmp(fake.boxes[i].id, id) == 0) {
            *ret = fake.boxes[i];
            return 0;
        }
    }
    return missing(e, id);
}

int engine_box_list(struct engine *en, const char *tenant, const struct box_filter *f,
                    void (*each)(void *arg, const struct box_info *info), void *arg, bool *ret_more, struct err *e)
{
    unsigned n = 0;

    (void)en;
    (void)tenant;
    (void)e;
    fake.filter = *f;
    *ret_more = false;
    for (unsigned i = 0; i < fake.box_count; i++) {
        if (f->after != NULL && strcmp(fake.boxes[i].id, f->after) <= 0)
            continue;
        if (n++ == f->limit) {
            *ret_more = true;
            break;
        }
        each(arg, &fake.boxes[i]);
    }
    return 0;
}

struct op *engine_box_stop(struct engine *en, const char *tenant, const char *id, uint32_t grace_s, const char *why,
                           box_cb cb, void *arg)
{
    (void)en;
    (void)tenant;
    (void)id;
    fake.stops++;
    fake.grace = grace_s;
    (void)snprintf(fake.why, sizeof fake.why, "%s", why);
    return take_op(cb, NULL, arg);
}

/* ---- engine.h: the rest --------------------------------------------------------------------------------------------- */

int engine_exec(struct engine *en, const struct exec_spec *s, const struct exec_ops *ops, void *arg, struct exec **ret,
                struct err *e)
{
    struct buf b = {0};

    (void)en;
    fake.execs++;
    if (fake.refuse.code != 0) {
        *e = fake.refuse;
        return e->code;
    }
    add(&b, "box", s->box);
    add_list(&b, "arg", s->argv);
    add_env(&b, s->env, s->env_count);
    add_number(&b, "tty", s->tty);
    add_number(&b, "stdin", s->stdin_open);
    free(fake.exec_text);
    fake.exec_text = text_of(&b);
    buf_fini(&fake.exec.input);
    fake.exec = (struct exec){.ops = ops, .arg = arg, .live = true, .rows = s->rows, .cols = s->cols};
    *ret = &fake.exec;
    return 0;
}

bool exec_write(struct exec *x, const void *data, size_t len)
{
    assert_true(x->live && !x->input_closed);
    assert_int_equal(buf_append(&x->input, data, len), 0);
    return !x->input_full;
}

void exec_close_stdin(struct exec *x)
{
    assert_true(x->live);
    x->input_closed = true;
}

void exec_resize(struct exec *x, uint16_t rows, uint16_t cols)
{
    x->rows = rows;
    x->cols = cols;
}

void exec_resume(struct exec *x)
{
    x->resumed = true;
}

void exec_abandon(struct exec *x)
{
    assert_true(x->live);
    x->live = false;
    x->abandoned = true;
}

struct op *engine_file_read(struct engine *en, const char *tenant, const char *box, const char *path, uint64_t max,
                            file_cb cb, void *arg)
{
    (void)en;
    (void)tenant;
    (void)box;
    assert_int_equal(max, ENGINE_FILE_MAX);
    fake.reads++;
    (void)snprintf(fake.path, sizeof fake.path, "%s", path);
    return take_op(NULL, cb, arg);
}

struct op *engine_file_write(struct engine *en, const char *tenant, const char *box, const char *path, const void *data,
                             size_t len, file_cb cb, void *arg)
{
    (void)en;
    (void)tenant;
    (void)box;
    fake.writes++;
    (void)snprintf(fake.path, sizeof fake.path, "%s", path);
    fake.content.len = 0;
    assert_int_equal(buf_append(&fake.content, data, len), 0);
    return take_op(NULL, cb, arg);
}

int engine_logs(struct engine *en, const struct log_spec *spec, const struct log_ops *ops, void *arg,
                struct log_reader **ret, struct err *e)
{
    (void)en;
    fake.log_opens++;
    if (fake.refuse.code != 0) {
        *e = fake.refuse;
        return e->code;
    }
    fake.log = *spec;
    fake.reader = (struct log_reader){.ops = ops, .arg = arg, .live = true};
    *ret = &fake.reader;
    return 0;
}

void log_resume(struct log_reader *r)
{
    r->resumed = true;
}

void log_close(struct log_reader *r)
{
    assert_true(r->live);
    r->live = false;
    r->closed = true;
}

void engine_runner(struct engine *en, struct runner_info *ret)
{
    (void)en;
    *ret = fake.runner;
}

/* ---- set-up ----------------------------------------------------------------------------------------------------------- */

int fake_clear(void **state)
{
    (void)state;
    free(fake.spec_text);
    free(fake.exec_text);
    buf_fini(&fake.echo);
    buf_fini(&fake.content);
    buf_fini(&fake.exec.input);
    memset(&fake, 0, sizeof fake);
    return 0;
}

int fake_reset(void **state)
{
    (void)fake_clear(state);
    fake.runner = (struct runner_info){
        .runner_id = "rn-1",
        .started_ns = 1767225600000000000,
        .cpu_millis_total = 4000,
        .cpu_millis_free = 2500,
        .memory_total = 8ull << 30,
        .memory_free = 5ull << 30,
        .boxes_live = 3,
        .boxes_max = 4096,
        .healthy = true,
        .default_memory_bytes = 2ull << 30,
    };
    return 0;
}

struct chunk *fake_chunk(const char *text)
{
    size_t len = strlen(text);
    struct chunk *c = chunk_new(len + 1);

    memcpy(c->data + c->off, text, len);
    c->len = len;
    return c;
}
