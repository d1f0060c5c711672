/* Errors: what went wrong, for humans and for dialects.
 *
 * Functions return 0 or a negative errno and fill a `struct err` on the caller's stack. Everything that can reach
 * a client carries a kind (which dialects map to their status codes) and, where the contract knows one, a reason:
 * a static machine-readable word such as "SANDBOX_NOT_FOUND". No allocation, no ownership: a struct err is copied
 * freely. Thread: any, one struct err per thread of use. */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum err_kind {
    ERR_NONE = 0,
    ERR_INTERNAL, /* our fault or the host's; the default for err_set() */
    ERR_INVALID,  /* the request can never work */
    ERR_NOT_FOUND,
    ERR_EXISTS,
    ERR_PRECONDITION, /* not in this state */
    ERR_PERMISSION,
    ERR_UNAUTHENTICATED,
    ERR_EXHAUSTED,   /* a limit or quota */
    ERR_UNAVAILABLE, /* retrying may help */
    ERR_DEADLINE,
    ERR_CANCELLED,
    ERR_UNIMPLEMENTED,
    ERR_KIND_COUNT,
};

enum { ERR_MSG_MAX = 480, ERR_META_MAX = 3, ERR_META_VALUE_MAX = 160 };

struct err {
    int code; /* negative errno, 0 = no error */
    enum err_kind kind;
    const char *reason;    /* static string or NULL */
    char msg[ERR_MSG_MAX]; /* always NUL-terminated */
    struct {
        const char *key; /* static string */
        char value[ERR_META_VALUE_MAX];
    } meta[ERR_META_MAX];
    unsigned meta_count;
};

/* Fills E (kind ERR_INTERNAL, no reason) and returns -ABS(CODE). "%m" in FMT means strerror(CODE). E may be NULL. */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* As err_set with a kind and a reason; the code is the kind's errno (ERR_NOT_FOUND: ENOENT and so on). */
int err_typed(struct err *e, enum err_kind kind, const char *reason, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Puts "text: " in front of the message and returns E->code. */
int err_ctx(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Attaches KEY (static) = VALUE (copied, cut at ERR_META_VALUE_MAX - 1 bytes at a character boundary). */
void err_meta(struct err *e, const char *key, const char *value);

/* The lower-case word for a kind ("not found"), for logs. */
const char *err_kind_name(enum err_kind kind);

#ifdef __clang_analyzer__
/* What the analyzer cannot see in another file: the result is negative, always. */
#define err_set(...) ((void)(err_set)(__VA_ARGS__), -1)
#define err_typed(...) ((void)(err_typed)(__VA_ARGS__), -1)
#define err_ctx(...) ((void)(err_ctx)(__VA_ARGS__), -1)
#endif
