/* A streaming JSON writer (RFC 8259) into a struct buf: no tree is built.
 *
 * Strings are escaped; bytes that are not UTF-8 become U+FFFD, so the output is always valid. An error (memory, the
 * buffer's limit, nesting above JW_DEPTH_MAX) sticks and is told by jw_end(). Thread: one at a time. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

enum { JW_DEPTH_MAX = 32 };

struct jw {
    struct buf *out;
    int failed; /* negative errno, 0 = fine */
    unsigned depth;
    bool comma[JW_DEPTH_MAX];
    bool after_key;
};

void jw_begin(struct jw *j, struct buf *out);
void jw_object(struct jw *j);
void jw_object_end(struct jw *j);
void jw_array(struct jw *j);
void jw_array_end(struct jw *j);
/* KEY is a name inside an object; the value is written next. */
void jw_key(struct jw *j, const char *key);
void jw_str(struct jw *j, const char *s); /* NULL = null */
void jw_mem(struct jw *j, const char *s, size_t len);
void jw_int(struct jw *j, int64_t v);
void jw_uint(struct jw *j, uint64_t v);
void jw_bool(struct jw *j, bool v);
void jw_null(struct jw *j);
/* Key and value at once. */
void jw_kstr(struct jw *j, const char *key, const char *s);
void jw_kint(struct jw *j, const char *key, int64_t v);
void jw_kuint(struct jw *j, const char *key, uint64_t v);
void jw_kbool(struct jw *j, const char *key, bool v);
/* Wall-clock nanoseconds as RFC 3339 text, null for 0. */
void jw_ktime(struct jw *j, const char *key, uint64_t ns);
/* 0 or the negative errno of the first failure. The buffer then ends with a NUL that does not count. */
int jw_end(struct jw *j);
