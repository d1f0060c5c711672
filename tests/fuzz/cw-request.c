/* deps: api_cw_v1 base cmocka; sources: tests/unit/api/fake.c; include: tests/unit/api */
/* Requests of the CWSandbox dialect: the first byte picks a method, the rest is the message. Whatever it says, the call
 * ends once, and nothing reaches the engine that its rules forbid (the fake checks them). */
#include "fake.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct rpc_method *pick(unsigned n)
{
    unsigned built = 0;

    for (unsigned i = 0; i < cw_method_count; i++)
        built += cw_methods[i].in != NULL;
    n %= built;
    for (unsigned i = 0;; i++) {
        if (cw_methods[i].in != NULL && n-- == 0)
            return &cw_methods[i];
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct rpc_method *m;
    ProtobufCMessage *msg;
    struct rpc_call *c;

    if (size == 0)
        return 0;
    m = pick(data[0]);
    msg = protobuf_c_message_unpack(m->in, NULL, size - 1, data + 1);
    if (msg == NULL)
        return 0;
    protobuf_c_message_free_unpacked(msg, NULL);

    (void)fake_reset(NULL);
    fake.boxes[fake.box_count++] = fake_box("sb-1", BOX_RUNNING);
    c = fake_call(strrchr(m->path, '/') + 1);
    fake_say_bytes(c, data + 1, size - 1);
    if (fake.spec_text != NULL) { /* what was accepted is read again from its echo by every Get */
        struct box_info info = fake_box("sb-2", BOX_RUNNING);
        struct cw_view v;

        info.echo = fake.echo.data;
        info.echo_len = fake.echo.len;
        assert_int_equal(cw_view_init(&v, &info), 0);
        assert_int_equal(v.msg.spec.len, fake.echo.len);
        cw_view_fini(&v);
    }
    if (!c->finished)
        fake_gone(c, RPC_GONE_RESET);
    fake_call_free(c);
    (void)fake_clear(NULL);
    return 0;
}
