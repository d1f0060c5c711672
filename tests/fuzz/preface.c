/* deps: net */
/* Sniffing and HTTP/1.1: a connection fed at once and byte by byte must choose the same protocol and answer alike. */
#include "conn-driver.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t sum;

static void hello(struct http_req *r)
{
    http_reply_simple(r, 200, "text/plain", "hello\n", 6);
}

static void echo_start(struct http_req *r)
{
    (void)http_reply(r, 200, NULL, 0, -1);
}

static void echo_body(struct http_req *r, const uint8_t *data, size_t len)
{
    struct chunk *chunk = chunk_new(len);

    for (size_t i = 0; i < len; i++)
        sum = sum * 31 + data[i];
    if (chunk == NULL)
        return;
    memcpy(chunk->data + chunk->off, data, len);
    chunk->len = len;
    if (!http_send(r, chunk))
        http_pause(r, true);
}

static void echo_writable(struct http_req *r)
{
    http_pause(r, false);
}

static void echo_end(struct http_req *r)
{
    http_end(r, NULL, 0);
}

static const struct http_handler hello_handler = {.start = hello};
static const struct http_handler echo_handler = {
    .start = echo_start, .body = echo_body, .half_close = echo_end, .writable = echo_writable};
static const struct http_route routes[] = {{"/h", "GET", NULL, &hello_handler, NULL},
                                           {"/", NULL, NULL, &echo_handler, NULL}};

static bool reads(const struct conn *c)
{
    return !c->closing && (c->codec == NULL || c->codec->want_read(c));
}

/* Which codec, how many requests, which body bytes. */
static uint64_t run(const uint8_t *data, size_t size, size_t step)
{
    struct conn *c = connect_one();
    uint64_t result;

    sum = 0;
    for (size_t at = 0; at < size && !gone();) {
        size_t n = size - at < step ? size - at : step;

        if (!reads(c)) {
            /* Paused, or being answered: output has to go first. */
            take(c, SIZE_MAX);
            turn();
            if (gone() || !reads(c))
                break;
            continue;
        }
        conn_feed(c, data + at, n);
        at += n;
        turn();
        if (!gone())
            take(c, SIZE_MAX);
        turn();
    }
    result = gone() ? 1 : (uint64_t)(uintptr_t)c->codec * 31 + c->heads * 7 + c->closing;
    hang_up(c);
    return result * 31 + sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (server == NULL)
        start_server(routes, 2);
    if (size > 4096)
        return 0;
    (void)run(data, size, 5);
    /* HTTP/2 counts floods and times by the loop's turns, so only what came in is compared for HTTP/1.1. */
    if (size >= H2_PREFACE && memcmp(data, "PRI * HTTP/2.0", 14) == 0) {
        (void)run(data, size, 1);
        (void)run(data, size, size);
    } else if (run(data, size, 1) != run(data, size, size > 0 ? size : 1)) {
        abort();
    }
    return 0;
}
