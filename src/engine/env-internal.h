/* What env.c (levels, merge, explain) and env-record.c (packing) share. */
#pragma once

#include "engine/env.h"

/* What one level says about one name. */
struct var {
    uint32_t name_len, value_len;
    bool unset, secret;
    char text[]; /* "NAME=value" and a NUL; "NAME=" when unset */
};

struct level {
    struct var **vars;
    size_t count;
};

/* The variables that win, sorted; pointers into the levels. */
struct merged {
    const struct var **vars;
    size_t count;
    size_t bytes; /* of the strings, NULs included */
};

struct env_set {
    struct level levels[ENV_LEVELS];
    struct merged merged;
};

static inline const char *env_var_value(const struct var *v)
{
    return v->text + v->name_len + 1;
}

/* Bytes of "NAME=value" and its NUL. */
static inline size_t env_var_size(const struct var *v)
{
    return (size_t)v->name_len + 1 + v->value_len + 1;
}

/* As env_apply(). CHECK: refuse a merge above the limits; not for records, whose levels arrive one by one. */
int env_change(struct env_set *s, enum env_level level, const struct env_item *items, size_t count, bool secret,
               bool check, struct err *e);
