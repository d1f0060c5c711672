#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    int code;
    const char *name;
} kinds[ERR_KIND_COUNT] = {
    [ERR_NONE] = {0, "none"},
    [ERR_INTERNAL] = {EIO, "internal"},
    [ERR_INVALID] = {EINVAL, "invalid"},
    [ERR_NOT_FOUND] = {ENOENT, "not found"},
    [ERR_EXISTS] = {EEXIST, "exists"},
    [ERR_PRECONDITION] = {EBUSY, "failed precondition"},
    [ERR_PERMISSION] = {EACCES, "permission denied"},
    [ERR_UNAUTHENTICATED] = {EPERM, "unauthenticated"},
    [ERR_EXHAUSTED] = {ENOSPC, "exhausted"},
    [ERR_UNAVAILABLE] = {EAGAIN, "unavailable"},
    [ERR_DEADLINE] = {ETIMEDOUT, "deadline exceeded"},
    [ERR_CANCELLED] = {ECANCELED, "cancelled"},
    [ERR_UNIMPLEMENTED] = {ENOSYS, "unimplemented"},
};

__attribute__((format(printf, 5, 0))) static int fill(struct err *e, int code, enum err_kind kind, const char *reason,
                                                      const char *fmt, va_list ap)
{
    if (code < 0)
        code = -code;
    if (code == 0)
        code = EIO;
    if (e == NULL)
        return -code;

    e->code = -code;
    e->kind = kind;
    e->reason = reason;
    e->meta_count = 0;
    errno = code;                                    /* for %m */
    (void)vsnprintf(e->msg, sizeof e->msg, fmt, ap); /* a cut message is still a message */
    return -code;
}

int(err_set)(struct err *e, int code, const char *fmt, ...)
{
    va_list ap;
    int r;

    va_start(ap, fmt);
    r = fill(e, code, ERR_INTERNAL, NULL, fmt, ap);
    va_end(ap);
    return r;
}

int(err_typed)(struct err *e, enum err_kind kind, const char *reason, const char *fmt, ...)
{
    va_list ap;
    int r;

    va_start(ap, fmt);
    r = fill(e, kinds[kind].code, kind, reason, fmt, ap);
    va_end(ap);
    return r;
}

int(err_ctx)(struct err *e, const char *fmt, ...)
{
    char head[ERR_MSG_MAX], all[2 * ERR_MSG_MAX + 4];
    va_list ap;

    if (e == NULL)
        return -EIO;

    va_start(ap, fmt);
    (void)vsnprintf(head, sizeof head, fmt, ap);
    va_end(ap);
    (void)snprintf(all, sizeof all, "%s: %s", head, e->msg);
    memcpy(e->msg, all, sizeof e->msg);
    e->msg[sizeof e->msg - 1] = '\0';
    return e->code;
}

void err_meta(struct err *e, const char *key, const char *value)
{
    size_t n;

    if (e == NULL || e->meta_count == ERR_META_MAX)
        return;

    n = strnlen(value, ERR_META_VALUE_MAX);
    if (n == ERR_META_VALUE_MAX) {
        n = ERR_META_VALUE_MAX - 1;
        while (n > 0 && ((unsigned char)value[n] & 0xc0) == 0x80) /* RFC 3629: do not cut a character */
            n--;
    }
    e->meta[e->meta_count].key = key;
    memcpy(e->meta[e->meta_count].value, value, n);
    e->meta[e->meta_count].value[n] = '\0';
    e->meta_count++;
}

const char *err_kind_name(enum err_kind kind)
{
    return kind < ERR_KIND_COUNT ? kinds[kind].name : "unknown";
}
