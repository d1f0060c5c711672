#include "rpc/status.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "net/text.h"

/* Clients announce 8 KiB for all trailers: a full message, percent-encoded, and its details must fit. */
static_assert(3 * ERR_MSG_MAX + (ERR_MSG_MAX + ERR_META_MAX * (ERR_META_VALUE_MAX + 80) + 512) * 4 / 3 < 8 * 1024 - 512,
              "trailers fit into 8 KiB");
static_assert((int)ERR_MSG_MAX <= (int)RPC_STATUS_MSG_MAX, "an error's message is never cut by the wire limit alone");

static const struct {
    enum rpc_code code;
    const char *name;
} by_kind[ERR_KIND_COUNT] = {
    [ERR_NONE] = {RPC_OK, "OK"},
    [ERR_INTERNAL] = {RPC_INTERNAL, "INTERNAL"},
    [ERR_INVALID] = {RPC_INVALID_ARGUMENT, "INVALID_ARGUMENT"},
    [ERR_NOT_FOUND] = {RPC_NOT_FOUND, "NOT_FOUND"},
    [ERR_EXISTS] = {RPC_ALREADY_EXISTS, "ALREADY_EXISTS"},
    [ERR_PRECONDITION] = {RPC_FAILED_PRECONDITION, "FAILED_PRECONDITION"},
    [ERR_PERMISSION] = {RPC_PERMISSION_DENIED, "PERMISSION_DENIED"},
    [ERR_UNAUTHENTICATED] = {RPC_UNAUTHENTICATED, "UNAUTHENTICATED"},
    [ERR_EXHAUSTED] = {RPC_RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED"},
    [ERR_UNAVAILABLE] = {RPC_UNAVAILABLE, "UNAVAILABLE"},
    [ERR_DEADLINE] = {RPC_DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"},
    [ERR_CANCELLED] = {RPC_CANCELLED, "CANCELLED"},
    [ERR_UNIMPLEMENTED] = {RPC_UNIMPLEMENTED, "UNIMPLEMENTED"},
};

enum rpc_code rpc_code_of(enum err_kind kind)
{
    /* A failed call must never look like a success, whatever its author forgot. */
    return kind > ERR_NONE && kind < ERR_KIND_COUNT ? by_kind[kind].code : RPC_INTERNAL;
}

const char *rpc_code_name(enum rpc_code code)
{
    for (size_t i = 0; i < sizeof by_kind / sizeof by_kind[0]; i++) {
        if (by_kind[i].code == code)
            return by_kind[i].name;
    }
    return "UNKNOWN";
}

static void percent_encode(char *out, const char *s)
{
    static const char hex[] = "0123456789ABCDEF";

    for (; *s != '\0'; s++) {
        unsigned char ch = (unsigned char)*s;

        if (ch >= 0x20 && ch <= 0x7e && ch != '%') {
            *out++ = (char)ch;
            continue;
        }
        *out++ = '%';
        *out++ = hex[ch >> 4];
        *out++ = hex[ch & 15];
    }
    *out = '\0';
}

static void base64(char *out, const uint8_t *p, size_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    for (; n > 0; p += 3, n -= n < 3 ? n : 3) {
        uint32_t v = (uint32_t)p[0] << 16 | (n > 1 ? (uint32_t)p[1] << 8 : 0) | (n > 2 ? p[2] : 0);

        *out++ = digits[v >> 18];
        *out++ = digits[v >> 12 & 63];
        if (n > 1)
            *out++ = digits[v >> 6 & 63];
        if (n > 2)
            *out++ = digits[v & 63];
    }
    *out = '\0'; /* no padding: the gRPC specification asks senders to leave it out */
}

/* A writer of protobuf fields into a fixed buffer; FULL instead of an overrun. */
struct pb {
    uint8_t *at, *end;
    bool full;
};

static void pb_varint(struct pb *w, uint64_t v)
{
    do {
        if (w->at == w->end) {
            w->full = true;
            return;
        }
        *w->at++ = (uint8_t)(v & 0x7f) | (v > 0x7f ? 0x80 : 0);
        v >>= 7;
    } while (v > 0);
}

static void pb_bytes(struct pb *w, unsigned field, const void *data, size_t n)
{
    pb_varint(w, field << 3 | 2);
    pb_varint(w, n);
    if ((size_t)(w->end - w->at) < n) {
        w->full = true;
        return;
    }
    memcpy(w->at, data, n);
    w->at += n;
}

static void pb_string(struct pb *w, unsigned field, const char *s)
{
    pb_bytes(w, field, s, strlen(s));
}

/* google.rpc.ErrorInfo { reason = 1; domain = 2; map<string, string> metadata = 3 } */
static void put_error_info(struct pb *w, const struct err *e, const struct rpc_service *service)
{
    char reason[128];

    (void)snprintf(reason, sizeof reason, "%s%s", service->reason_prefix != NULL ? service->reason_prefix : "",
                   e->reason);
    pb_string(w, 1, reason);
    pb_string(w, 2, service->error_domain);
    for (unsigned i = 0; i < e->meta_count; i++) {
        uint8_t room[ERR_META_VALUE_MAX + 80];
        struct pb entry = {room, room + sizeof room, false};
        char value[ERR_META_VALUE_MAX];

        (void)utf8_clean(value, sizeof value, e->meta[i].value);
        pb_string(&entry, 1, e->meta[i].key);
        pb_string(&entry, 2, value);
        if (!entry.full)
            pb_bytes(w, 3, room, (size_t)(entry.at - room));
    }
}

/* google.rpc.Status { code = 1; message = 2; repeated Any details = 3 } with one Any { type_url = 1; value = 2 }. */
static bool put_details(char *out, const struct err *e, const char *message, const struct rpc_service *service)
{
    uint8_t info[1024], any[1200], all[RPC_DETAILS_MAX];
    struct pb wi = {info, info + sizeof info, false}, wa = {any, any + sizeof any, false},
              ws = {all, all + sizeof all, false};

    put_error_info(&wi, e, service);
    pb_string(&wa, 1, "type.googleapis.com/google.rpc.ErrorInfo");
    pb_bytes(&wa, 2, info, (size_t)(wi.at - info));
    pb_varint(&ws, 1 << 3);
    pb_varint(&ws, rpc_code_of(e->kind));
    pb_string(&ws, 2, message);
    pb_bytes(&ws, 3, any, (size_t)(wa.at - any));
    if (wi.full || wa.full || ws.full)
        return false;
    base64(out, all, (size_t)(ws.at - all));
    return true;
}

void rpc_status_fill(struct rpc_status *s, const struct err *e, const struct rpc_service *service, bool trailers_only)
{
    char message[RPC_STATUS_MSG_MAX + 1];

    s->count = 0;
    if (trailers_only)
        s->fields[s->count++] = (struct http_field){"content-type", "application/grpc"};
    (void)snprintf(s->code, sizeof s->code, "%u", e != NULL ? (unsigned)rpc_code_of(e->kind) : 0);
    s->fields[s->count++] = (struct http_field){"grpc-status", s->code};
    if (e == NULL)
        return;

    (void)utf8_clean(message, sizeof message, e->msg);
    percent_encode(s->message, message);
    if (s->message[0] != '\0')
        s->fields[s->count++] = (struct http_field){"grpc-message", s->message};
    if (e->reason != NULL && service != NULL && service->error_domain != NULL &&
        put_details(s->details, e, message, service))
        s->fields[s->count++] = (struct http_field){"grpc-status-details-bin", s->details};
}

int rpc_timeout_parse(const char *s, uint64_t *ret_ns)
{
    static const struct {
        char unit;
        uint64_t ns;
    } units[] = {
        {'H', 3600 * NSEC_PER_SEC},
        {'M', 60 * NSEC_PER_SEC},
        {'S', NSEC_PER_SEC},
        {'m', NSEC_PER_MSEC},
        {'u', 1000},
        {'n', 1},
    };
    uint64_t v = 0;
    unsigned digits = 0;

    while (*s >= '0' && *s <= '9' && digits < 9) {
        v = v * 10 + (uint64_t)(*s++ - '0');
        digits++;
    }
    if (digits == 0 || digits > 8 || s[0] == '\0' || s[1] != '\0')
        return -EINVAL;
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (units[i].unit == *s) {
            /* 99999999 hours do not overflow 64 bits of nanoseconds by more than saturation can mend. */
            *ret_ns = v > UINT64_MAX / units[i].ns ? UINT64_MAX : v * units[i].ns;
            return 0;
        }
    }
    return -EINVAL;
}
