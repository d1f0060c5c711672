/* deps: rpc echo_pb */
/* A whole HTTP/2 connection with gRPC calls behind it. The first byte says how the rest is cut and read.
 *
 * The handlers do all that handlers may: answer at once, later, in pieces, with pauses, abort, end each other. */
#include "conn-driver.h"

#include "echo.pb-c.h"
#include "rpc/rpc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct http_req *parked; /* by /late, ended by the next request */

static void late_start(struct http_req *r)
{
    struct http_req *other = parked;

    parked = r;
    if (other != NULL)
        http_reply_simple(other, 200, "text/plain", "late\n", 5);
}

static void late_gone(struct http_req *r)
{
    if (parked == r)
        parked = NULL;
}

static void abort_start(struct http_req *r)
{
    http_abort(r, 8);
}

static void echo_start(struct http_req *r)
{
    (void)http_reply(r, 200, NULL, 0, -1);
}

static void echo_body(struct http_req *r, const uint8_t *data, size_t len)
{
    struct chunk *chunk = chunk_new(len);

    if (chunk == NULL)
        return;
    memcpy(chunk->data + chunk->off, data, len);
    chunk->len = len;
    http_pause(r, true);
    (void)http_send(r, chunk);
    if (http_writable(r))
        http_pause(r, false);
}

static void echo_writable(struct http_req *r)
{
    http_pause(r, false);
}

static void echo_end(struct http_req *r)
{
    const struct http_field trailer = {"x-end", "yes"};

    http_end(r, &trailer, 1);
}

static void unary(struct rpc_call *c, const ProtobufCMessage *msg)
{
    Silica__Test__EchoReply reply = SILICA__TEST__ECHO_REPLY__INIT;

    reply.data = ((const Silica__Test__EchoRequest *)(const void *)msg)->data;
    rpc_reply(c, &reply.base);
}

static void bidi(struct rpc_call *c, const ProtobufCMessage *msg)
{
    const Silica__Test__EchoRequest *req = (const void *)msg;
    Silica__Test__EchoReply reply = SILICA__TEST__ECHO_REPLY__INIT;
    struct err e;

    reply.data = req->data;
    if (rpc_send(c, &reply.base) < 0 || req->count == 1) {
        (void)err_typed(&e, ERR_NOT_FOUND, "REASON", "%s", req->text);
        rpc_finish(c, &e);
        return;
    }
    rpc_pause(c, true);
    if (req->count != 2 && rpc_writable(c))
        rpc_pause(c, false);
}

static void bidi_writable(struct rpc_call *c)
{
    rpc_pause(c, false);
}

static void bidi_end(struct rpc_call *c)
{
    rpc_finish(c, NULL);
}

static void call_gone(struct rpc_call *c, enum rpc_why why)
{
    (void)c;
    (void)why;
}

#define IN &silica__test__echo_request__descriptor
static const struct rpc_method methods[] = {
    {"/U", .in = IN, .message = unary},
    {"/B", RPC_CLIENT_STREAM | RPC_SERVER_STREAM, IN, 0, bidi, NULL, bidi_end, bidi_writable, call_gone},
};
static const struct rpc_service service = {methods, 2, NULL, "d", "P_"};
static const struct http_handler late_handler = {.start = late_start, .gone = late_gone};
static const struct http_handler abort_handler = {.start = abort_start};
static const struct http_handler echo_handler = {
    .start = echo_start, .body = echo_body, .half_close = echo_end, .writable = echo_writable};
static struct http_route routes[] = {
    {"/", NULL, "application/grpc", &rpc_http_handler, NULL},
    {"/l", NULL, NULL, &late_handler, NULL},
    {"/a", NULL, NULL, &abort_handler, NULL},
    {"/e", NULL, NULL, &echo_handler, NULL},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t start[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0";
    const struct rpc_service *services[] = {&service};
    struct rpc_server *rpc;
    struct conn *c;
    size_t step, room;
    struct err e;

    if (server == NULL) {
        start_server(routes, 4);
        if (rpc_server_new(the_loop, services, 1, NULL, NULL, &rpc, &e) < 0)
            abort();
        routes[0].data = rpc;
    }
    if (size < 1)
        return 0;
    step = (size_t)1 << (data[0] & 15);
    room = data[0] & 16 ? 10 : SIZE_MAX; /* a peer that hardly reads */
    c = connect_one();
    conn_feed(c, start, sizeof start); /* with the literal's NUL: an empty SETTINGS frame */
    for (size_t at = 1; at < size && !gone(); at += step) {
        conn_feed(c, data + at, size - at < step ? size - at : step);
        turn();
        if (!gone())
            take(c, room);
        if (!gone() && (data[0] & 32) && at > size / 2)
            conn_drain(c);
        turn();
    }
    hang_up(c);
    parked = NULL;
    return 0;
}
