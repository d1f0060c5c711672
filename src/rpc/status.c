#include "rpc/status.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "net/text.h"

/* Clients announce 8 KiB for all trailers: a full message, percent-encoded, and its details must fit. */
static_assert(3 * ERR_MSG_MAX + (2 * ERR_MSG_MAX + (ERR_META_MAX + 1) * (ERR_META_VALUE_MAX + 80) + 640) * 4 / 3 <
                  8 * 1024 - 512,
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

/* The field that a refused request got wrong, as its dialect named it; NULL for any other error. */
static const char *wrong_field(const struct err *e)
{
    for (unsigned i = 0; e->kind == ERR_INVALID && i < e->meta_count; i++) {
        if (strcmp(e->meta[i].key, "field") == 0)
            return e->meta[i].value;
    }
    return NULL;
}

/* google.rpc.BadRequest { repeated FieldViolation field_violations = 1 } with FieldViolation { field = 1; description = 2 } */
static void put_bad_request(struct pb *w, const char *field, const char *message)
{
    uint8_t room[ERR_META_VALUE_MAX + ERR_MSG_MAX + 64];
    struct pb violation = {room, room + sizeof room, false};
    char clean[ERR_META_VALUE_MAX];

    (void)utf8_clean(clean, sizeof clean, field);
    pb_string(&violation, 1, clean);
    pb_string(&violation, 2, message);
    w->full = w->full || violation.full;
    pb_bytes(w, 1, room, (size_t)(violation.at - room));
}

/* google.protobuf.Any { type_url = 1; value = 2 } as field 3 of W */
static void put_any(struct pb *w, const char *type, const uint8_t *value, size_t len)
{
    uint8_t room[1200];
    struct pb any = {room, room + sizeof room, false};

    pb_string(&any, 1, type);
    pb_bytes(&any, 2, value, len);
    w->full = w->full || any.full;
    pb_bytes(w, 3, room, (size_t)(any.at - room));
}

/* google.rpc.Status { code = 1; message = 2; repeated Any details = 3 } */
static bool put_details(char *out, const struct err *e, const char *message, const struct rpc_service *service)
{
    uint8_t part[1024], all[RPC_DETAILS_MAX];
    struct pb w = {all, all + sizeof all, false};
    const char *field = wrong_field(e);

    pb_varint(&w, 1 << 3);
    pb_varint(&w, rpc_code_of(e->kind));
    pb_string(&w, 2, message);
    if (e->reason != NULL) {
        struct pb info = {part, part + sizeof part, false};

        put_error_info(&info, e, service);
        w.full = w.full || info.full;
        put_any(&w, "type.googleapis.com/google.rpc.ErrorInfo", part, (size_t)(info.at - part));
    }
    if (field != NULL) {
        struct pb bad = {part, part + sizeof part, false};

        put_bad_request(&bad, field, message);
        w.full = w.full || bad.full;
        put_any(&w, "type.googleapis.com/google.rpc.BadRequest", part, (size_t)(bad.at - part));
    }
    if (w.full)
        return false;
    base64(out, all, (size_t)(w.at - all));
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
    if ((e->reason != NULL || wrong_field(e) != NULL) && service != NULL && service->error_domain != NULL &&
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
