/* A streaming JSON writer (RFC 8259) into a struct buf: no tree is built.
 *
 * Strings are escaped; bytes that are not UTF-8 become U+FFFD, so the output is always valid. An error (memory, the
 * buffer's limit, nesting above JSON_DEPTH_MAX) sticks and is told by json_end(). Thread: one at a time. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"

enum { JSON_DEPTH_MAX = 32 };

struct json {
    struct buf *out;
    int failed; /* negative errno, 0 = fine */
    unsigned depth;
    bool comma[JSON_DEPTH_MAX];
    bool after_key;
};

void json_begin(struct json *j, struct buf *out);
void json_object(struct json *j);
void json_object_end(struct json *j);
void json_array(struct json *j);
void json_array_end(struct json *j);
/* KEY is a name inside an object; the value is written next. */
void json_key(struct json *j, const char *key);
void json_str(struct json *j, const char *s); /* NULL = null */
void json_mem(struct json *j, const char *s, size_t len);
void json_int(struct json *j, int64_t v);
void json_uint(struct json *j, uint64_t v);
void json_bool(struct json *j, bool v);
void json_null(struct json *j);
/* Key and value at once. */
void json_kstr(struct json *j, const char *key, const char *s);
void json_kint(struct json *j, const char *key, int64_t v);
void json_kuint(struct json *j, const char *key, uint64_t v);
void json_kbool(struct json *j, const char *key, bool v);
/* Wall-clock nanoseconds as RFC 3339 text, null for 0. */
void json_ktime(struct json *j, const char *key, uint64_t ns);
/* 0 or the negative errno of the first failure. The buffer then ends with a NUL that does not count. */
int json_end(struct json *j);
