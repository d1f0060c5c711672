/* The merge of environment levels: see env.h for what the levels mean.
 *
 * A level is an array of variables sorted by name; a change builds the new array and the new merge beside the old ones
 * and swaps both in at the end, so that a refused change leaves no trace. The merge of all levels is kept between
 * changes, because every exec asks for it: an exec that brings no variables of its own costs one allocation and a copy.
 * Sorted means by the bytes of the name, a prefix first ("A" before "A1", whatever '=' compares to). */
#include "engine/env-internal.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"

/* An item and its place in the caller's list: later ones win. */
struct pick {
    const struct env_item *item;
    size_t order;
};

enum { QUOTE_SHOWN = 48, QUOTE_MAX = 4 * QUOTE_SHOWN + 8 };

const char *env_level_name(enum env_level l)
{
    static const char *const names[ENV_LEVELS] = {"system", "image", "sandbox", "session", "command"};

    assert(l < ENV_LEVELS);
    return names[l];
}

/* A name as an error shows it: one line, printable, bounded, whatever a client sent. */
static const char *quote(char out[QUOTE_MAX], const char *name, size_t len)
{
    size_t n = 0;

    for (size_t i = 0; i < len && i < QUOTE_SHOWN; i++) {
        unsigned char c = (unsigned char)name[i];

        if (c >= 0x20 && c < 0x7f && c != '\'' && c != '\\')
            out[n++] = (char)c;
        else
            n += (size_t)snprintf(out + n, QUOTE_MAX - n, "\\x%02x", c);
    }
    (void)snprintf(out + n, QUOTE_MAX - n, "%s", len > QUOTE_SHOWN ? "..." : "");
    return out;
}

static int name_cmp(const char *a, size_t alen, const char *b, size_t blen)
{
    size_t n = alen < blen ? alen : blen;
    int r = n > 0 ? memcmp(a, b, n) : 0;

    if (r != 0)
        return r;
    return alen < blen ? -1 : alen > blen;
}

static int var_cmp(const struct var *a, const struct var *b)
{
    return name_cmp(a->text, a->name_len, b->text, b->name_len);
}

static struct var *var_new(const char *name, size_t name_len, const char *value, size_t value_len, bool unset,
                           bool secret)
{
    struct var *v = malloc(sizeof *v + name_len + value_len + 2);

    if (v == NULL)
        return NULL;
    v->name_len = (uint32_t)name_len;
    v->value_len = (uint32_t)value_len;
    v->unset = unset;
    v->secret = secret;
    memcpy(v->text, name, name_len);
    v->text[name_len] = '=';
    if (value_len > 0)
        memcpy(v->text + name_len + 1, value, value_len);
    v->text[name_len + 1 + value_len] = '\0';
    return v;
}

static void var_free(struct var *v)
{
    /* A secret must not wait in the heap for the next core dump. */
    if (v != NULL && v->secret)
        explicit_bzero(v->text, env_var_size(v));
    free(v);
}

static void level_fini(struct level *l)
{
    for (size_t i = 0; i < l->count; i++)
        var_free(l->vars[i]);
    free(l->vars);
    *l = (struct level){0};
}

static int err_oom(struct err *e)
{
    return err_set(e, ENOMEM, "environment: %m");
}

/* ---- reading the levels together ------------------------------------------------------------------------------ */

struct walk {
    const struct env_set *s;
    size_t at[ENV_LEVELS];
};

/* The next name that any level knows: VARS[l] is what level l says about it, or NULL. False at the end. */
static bool walk_next(struct walk *w, const struct var *vars[ENV_LEVELS])
{
    const struct var *least = NULL;

    for (int l = 0; l < ENV_LEVELS; l++) {
        const struct level *lv = &w->s->levels[l];

        vars[l] = w->at[l] < lv->count ? lv->vars[w->at[l]] : NULL;
        if (vars[l] != NULL && (least == NULL || var_cmp(vars[l], least) < 0))
            least = vars[l];
    }
    if (least == NULL)
        return false;
    for (int l = 0; l < ENV_LEVELS; l++) {
        if (vars[l] != NULL && var_cmp(vars[l], least) != 0)
            vars[l] = NULL;
        else if (vars[l] != NULL)
            w->at[l]++;
    }
    return true;
}

static const struct var *highest(const struct var *const vars[ENV_LEVELS], int *ret_level)
{
    for (int l = ENV_LEVELS - 1; l >= 0; l--) {
        if (vars[l] != NULL) {
            *ret_level = l;
            return vars[l];
        }
    }
    return NULL;
}

static int err_too_many(struct err *e, size_t count, const char *name, size_t name_len)
{
    char q[QUOTE_MAX];

    return err_typed(e, ERR_INVALID, NULL,
                     "the environment has %zu variables, the limit is %d; the first one too many is '%s'", count,
                     ENV_COUNT_MAX, quote(q, name, name_len));
}

static int err_too_large(struct err *e, size_t bytes, const char *name, size_t name_len)
{
    char q[QUOTE_MAX];

    return err_typed(e, ERR_INVALID, NULL,
                     "the environment is %zu bytes in all, the limit is %d; the largest variable is '%s'", bytes,
                     ENV_TOTAL_MAX, quote(q, name, name_len));
}

static int merged_check(const struct merged *m, struct err *e)
{
    const struct var *largest = NULL;

    if (m->count > ENV_COUNT_MAX)
        return err_too_many(e, m->count, m->vars[ENV_COUNT_MAX]->text, m->vars[ENV_COUNT_MAX]->name_len);
    if (m->bytes <= ENV_TOTAL_MAX)
        return 0;
    for (size_t i = 0; i < m->count; i++) {
        if (largest == NULL || env_var_size(m->vars[i]) > env_var_size(largest))
            largest = m->vars[i];
    }
    return err_too_large(e, m->bytes, largest->text, largest->name_len);
}

/* Fills M->vars, which has room for all variables of all levels of S. */
static void merged_fill(const struct env_set *s, struct merged *m)
{
    struct walk w = {.s = s};
    const struct var *vars[ENV_LEVELS];
    int level;

    m->count = m->bytes = 0;
    while (walk_next(&w, vars)) {
        const struct var *v = highest(vars, &level);

        if (v == NULL || v->unset)
            continue;
        m->vars[m->count++] = v;
        m->bytes += env_var_size(v);
    }
}

/* Merges all levels of S as they are now into a new array. */
static int merged_build(const struct env_set *s, struct merged *ret, struct err *e)
{
    struct merged m = {0};
    size_t most = 1;

    for (int l = 0; l < ENV_LEVELS; l++)
        most += s->levels[l].count;
    m.vars = calloc(most, sizeof *m.vars);
    if (m.vars == NULL)
        return err_oom(e);
    merged_fill(s, &m);
    *ret = m;
    return 0;
}

static const struct var *vars_find(const struct var *const *vars, size_t count, const char *name, size_t len)
{
    size_t lo = 0, hi = count;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int r = name_cmp(name, len, vars[mid]->text, vars[mid]->name_len);

        if (r == 0)
            return vars[mid];
        if (r < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}

/* ---- items ------------------------------------------------------------------------------------------------------ */

static int item_check(const struct env_item *it, struct err *e)
{
    size_t value_len = it->op == ENV_SET ? it->value_len : 0;
    char q[QUOTE_MAX];

    if (it->name_len == 0)
        return err_typed(e, ERR_INVALID, NULL, "an environment variable has an empty name");
    (void)quote(q, it->name, it->name_len);
    if (memchr(it->name, '\0', it->name_len) != NULL)
        return err_typed(e, ERR_INVALID, NULL, "the name of environment variable '%s' contains a NUL byte", q);
    if (memchr(it->name, '=', it->name_len) != NULL)
        return err_typed(e, ERR_INVALID, NULL, "the name of environment variable '%s' contains '='", q);
    if (value_len > 0 && memchr(it->value, '\0', value_len) != NULL)
        return err_typed(e, ERR_INVALID, NULL, "the value of environment variable '%s' contains a NUL byte", q);
    if (it->name_len > ENV_NAME_MAX)
        return err_typed(e, ERR_INVALID, NULL, "the name of environment variable '%s' is %zu bytes, the limit is %d", q,
                         it->name_len, ENV_NAME_MAX);
    if (value_len > ENV_STRING_MAX || it->name_len + 1 + value_len > ENV_STRING_MAX)
        return err_typed(e, ERR_INVALID, NULL, "environment variable '%s' is %zu bytes with its name, the limit is %d",
                         q, it->name_len + 1 + value_len, ENV_STRING_MAX);
    return 0;
}

static int pick_cmp(const void *a, const void *b)
{
    const struct pick *x = a, *y = b;
    int r = name_cmp(x->item->name, x->item->name_len, y->item->name, y->item->name_len);

    if (r != 0)
        return r;
    return x->order < y->order ? -1 : 1;
}

/* Checks ITEMS and sorts them by name, the last one of a name alone. *RET is the caller's to free, NULL when none is left. */
static int picks_from(const struct env_item *items, size_t count, struct pick **ret, size_t *ret_count, struct err *e)
{
    AUTO_FREE struct pick *picks = NULL;
    size_t n = 0, kept = 0;
    char q[QUOTE_MAX];
    int r;

    *ret = NULL;
    *ret_count = 0;
    if (count == 0)
        return 0;
    if (count > ENV_COUNT_MAX)
        return err_typed(e, ERR_INVALID, NULL,
                         "%zu environment variables were given, the limit is %d; the first one too many is '%s'", count,
                         ENV_COUNT_MAX, quote(q, items[ENV_COUNT_MAX].name, items[ENV_COUNT_MAX].name_len));
    picks = calloc(count, sizeof *picks);
    if (picks == NULL)
        return err_oom(e);
    for (size_t i = 0; i < count; i++) {
        if (items[i].op == ENV_SKIP)
            continue;
        r = item_check(&items[i], e);
        if (r < 0)
            return r;
        picks[n++] = (struct pick){&items[i], i};
    }
    qsort(picks, n, sizeof *picks, pick_cmp);
    for (size_t i = 0; i < n; i++) {
        if (i + 1 < n && name_cmp(picks[i].item->name, picks[i].item->name_len, picks[i + 1].item->name,
                                  picks[i + 1].item->name_len) == 0)
            continue;
        picks[kept++] = picks[i];
    }
    *ret = take_ptr(picks);
    *ret_count = kept;
    return 0;
}

static struct var *var_of_item(const struct env_item *it, bool secret)
{
    bool set = it->op == ENV_SET;

    return var_new(it->name, it->name_len, it->value, set ? it->value_len : 0, !set, set && secret);
}

/* ---- sets ------------------------------------------------------------------------------------------------------- */

int env_new(struct env_set **ret)
{
    struct env_set *s = calloc(1, sizeof *s);

    if (s == NULL)
        return -ENOMEM;
    *ret = s;
    return 0;
}

void env_free(struct env_set *s)
{
    if (s == NULL)
        return;
    for (int l = 0; l < ENV_LEVELS; l++)
        level_fini(&s->levels[l]);
    free(s->merged.vars);
    free(s);
}

static int level_copy(const struct level *from, struct level *to)
{
    if (from->count == 0)
        return 0;
    to->vars = calloc(from->count, sizeof *to->vars);
    if (to->vars == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < from->count; i++) {
        const struct var *v = from->vars[i];

        to->vars[i] = var_new(v->text, v->name_len, env_var_value(v), v->value_len, v->unset, v->secret);
        if (to->vars[i] == NULL)
            return -ENOMEM;
        to->count++;
    }
    return 0;
}

int env_clone(const struct env_set *s, struct env_set **ret)
{
    struct env_set *c = NULL;
    int r = env_new(&c);

    for (int l = 0; r == 0 && l < ENV_LEVELS; l++)
        r = level_copy(&s->levels[l], &c->levels[l]);
    if (r == 0)
        r = merged_build(c, &c->merged, NULL);
    if (r < 0) {
        env_free(c);
        return r;
    }
    *ret = c;
    return 0;
}

/* A change of one level, prepared beside it. */
struct change {
    struct level next;
    struct var **fresh, **dropped; /* made for `next`; no longer in it */
    size_t nfresh, ndropped;
};

/* SAVED: the change became real, so the dropped ones die; else the fresh ones do. */
static void change_fini(struct change *c, bool saved)
{
    struct var **dead = saved ? c->dropped : c->fresh;
    size_t count = saved ? c->ndropped : c->nfresh;

    for (size_t i = 0; i < count; i++)
        var_free(dead[i]);
    free(c->fresh);
    free(c->dropped);
    if (!saved)
        free(c->next.vars);
}

static int change_build(struct change *c, const struct level *old, const struct pick *picks, size_t count, bool secret,
                        struct err *e)
{
    size_t i = 0, k = 0;

    c->next.vars = calloc(old->count + count, sizeof *c->next.vars);
    c->fresh = calloc(count, sizeof *c->fresh);
    c->dropped = calloc(count, sizeof *c->dropped);
    if (c->next.vars == NULL || c->fresh == NULL || c->dropped == NULL)
        return err_oom(e);

    while (i < old->count || k < count) {
        const struct env_item *it = k < count ? picks[k].item : NULL;
        int r = it == NULL ? -1 : 1;

        if (it != NULL && i < old->count)
            r = name_cmp(old->vars[i]->text, old->vars[i]->name_len, it->name, it->name_len);
        if (r < 0) {
            c->next.vars[c->next.count++] = old->vars[i++];
            continue;
        }
        if (r == 0)
            c->dropped[c->ndropped++] = old->vars[i++];
        k++;
        if (it->op == ENV_RESET)
            continue;
        c->fresh[c->nfresh] = var_of_item(it, secret);
        if (c->fresh[c->nfresh] == NULL)
            return err_oom(e);
        c->next.vars[c->next.count++] = c->fresh[c->nfresh++];
    }
    return 0;
}

int env_change(struct env_set *s, enum env_level level, const struct env_item *items, size_t count, bool secret,
               bool check, struct err *e)
{
    AUTO_FREE struct pick *picks = NULL;
    struct env_set next = *s;
    struct change c = {0};
    size_t npicks;
    char q[QUOTE_MAX];
    int r;

    assert(level < ENV_LEVELS);
    r = picks_from(items, count, &picks, &npicks, e);
    if (r < 0 || npicks == 0)
        return r;

    next.merged = (struct merged){0};
    r = change_build(&c, &s->levels[level], picks, npicks, secret, e);
    if (r == 0 && c.next.count > ENV_COUNT_MAX)
        r = err_typed(e, ERR_INVALID, NULL,
                      "the %s level would have %zu environment variables, the limit is %d; the last one is '%s'",
                      env_level_name(level), c.next.count, ENV_COUNT_MAX,
                      quote(q, c.next.vars[c.next.count - 1]->text, c.next.vars[c.next.count - 1]->name_len));
    if (r == 0) {
        next.levels[level] = c.next;
        r = merged_build(&next, &next.merged, e);
    }
    if (r == 0 && check)
        r = merged_check(&next.merged, e);
    if (r < 0) {
        free(next.merged.vars);
        change_fini(&c, false);
        return r;
    }
    free(s->levels[level].vars);
    free(s->merged.vars);
    *s = next;
    change_fini(&c, true);
    return 0;
}

int env_apply(struct env_set *s, enum env_level level, const struct env_item *items, size_t count, bool secret,
              struct err *e)
{
    return env_change(s, level, items, count, secret, true, e);
}

int env_apply_strings(struct env_set *s, enum env_level level, const char *const *strings, unsigned *ret_skipped,
                      struct err *e)
{
    AUTO_FREE struct env_item *items = NULL;
    size_t total = 0, n = 0;
    unsigned skipped = 0;
    int r;

    while (strings != NULL && strings[total] != NULL)
        total++;
    items = calloc(total + 1, sizeof *items);
    if (items == NULL)
        return err_oom(e);
    for (size_t i = 0; i < total; i++) {
        const char *eq = strchr(strings[i], '=');

        if (eq == NULL || eq == strings[i]) {
            skipped++;
            continue;
        }
        items[n++] = (struct env_item){.name = strings[i],
                                       .name_len = (size_t)(eq - strings[i]),
                                       .value = eq + 1,
                                       .value_len = strlen(eq + 1),
                                       .op = ENV_SET};
    }
    r = env_apply(s, level, items, n, false, e);
    if (r == 0 && ret_skipped != NULL)
        *ret_skipped = skipped;
    return r;
}

void env_clear(struct env_set *s, enum env_level level)
{
    assert(level < ENV_LEVELS);
    level_fini(&s->levels[level]);
    /* In place, so that it cannot fail: the array has room for what all levels held when it was made, and only
     * env_apply() adds. It is NULL as long as nothing was ever applied. */
    if (s->merged.vars != NULL)
        merged_fill(s, &s->merged);
}

/* ---- the result --------------------------------------------------------------------------------------------------- */

/* What one name comes to under the command's own items; a NULL value means that it is absent. */
struct entry {
    const char *name, *value;
    size_t name_len, value_len;
};

static struct entry entry_of_var(const struct var *v)
{
    return (struct entry){v->text, env_var_value(v), v->name_len, v->value_len};
}

/* A reset at command level drops what the set itself says there: the levels below decide. */
static const struct var *find_below_command(const struct env_set *s, const struct env_item *it)
{
    for (int l = ENV_COMMAND - 1; l >= 0; l--) {
        const struct var *v =
            vars_find((const struct var *const *)s->levels[l].vars, s->levels[l].count, it->name, it->name_len);

        if (v != NULL)
            return v->unset ? NULL : v;
    }
    return NULL;
}

static bool entry_of_item(const struct env_set *s, const struct env_item *it, struct entry *ret)
{
    const struct var *v;

    switch (it->op) {
    case ENV_SET:
        *ret = (struct entry){it->name, it->value_len > 0 ? it->value : "", it->name_len, it->value_len};
        return true;
    case ENV_RESET:
        v = find_below_command(s, it);
        if (v == NULL)
            return false;
        *ret = entry_of_var(v);
        return true;
    case ENV_UNSET:
    case ENV_SKIP:
        break;
    }
    return false;
}

static int entries_check(const struct entry *entries, size_t count, size_t bytes, struct err *e)
{
    const struct entry *largest = NULL;

    if (count > ENV_COUNT_MAX)
        return err_too_many(e, count, entries[ENV_COUNT_MAX].name, entries[ENV_COUNT_MAX].name_len);
    if (bytes <= ENV_TOTAL_MAX)
        return 0;
    for (size_t i = 0; i < count; i++) {
        if (largest == NULL || entries[i].name_len + entries[i].value_len > largest->name_len + largest->value_len)
            largest = &entries[i];
    }
    return err_too_large(e, bytes, largest->name, largest->name_len);
}

/* The array and its strings in one allocation. BYTES: of all strings with their NULs. */
static int block_build(const struct entry *entries, size_t count, size_t bytes, char ***ret, struct err *e)
{
    char **block = malloc((count + 1) * sizeof *block + bytes);
    char *p;

    if (block == NULL)
        return err_oom(e);
    p = (char *)(block + count + 1);
    for (size_t i = 0; i < count; i++) {
        const struct entry *n = &entries[i];

        block[i] = p;
        memcpy(p, n->name, n->name_len);
        p += n->name_len;
        *p++ = '=';
        memcpy(p, n->value, n->value_len);
        p += n->value_len;
        *p++ = '\0';
    }
    block[count] = NULL;
    *ret = block;
    return 0;
}

/* No items of its own: what the set has merged already. */
static int merge_plain(const struct merged *m, char ***ret, struct err *e)
{
    char **block;
    char *p;
    int r = merged_check(m, e);

    if (r < 0)
        return r;
    block = malloc((m->count + 1) * sizeof *block + m->bytes);
    if (block == NULL)
        return err_oom(e);
    p = (char *)(block + m->count + 1);
    for (size_t i = 0; i < m->count; i++) {
        block[i] = p;
        memcpy(p, m->vars[i]->text, env_var_size(m->vars[i]));
        p += env_var_size(m->vars[i]);
    }
    block[m->count] = NULL;
    *ret = block;
    return 0;
}

int env_merge(const struct env_set *s, const struct env_item *items, size_t count, char ***ret, struct err *e)
{
    AUTO_FREE struct pick *picks = NULL;
    AUTO_FREE struct entry *entries = NULL;
    const struct merged *m = &s->merged;
    size_t npicks, n = 0, bytes = 0, i = 0, k = 0;
    int r = picks_from(items, count, &picks, &npicks, e);

    if (r < 0)
        return r;
    if (npicks == 0)
        return merge_plain(m, ret, e);

    entries = calloc(m->count + npicks, sizeof *entries);
    if (entries == NULL)
        return err_oom(e);
    while (i < m->count || k < npicks) {
        const struct env_item *it = k < npicks ? picks[k].item : NULL;

        r = it == NULL ? -1 : 1;
        if (it != NULL && i < m->count)
            r = name_cmp(m->vars[i]->text, m->vars[i]->name_len, it->name, it->name_len);
        if (r < 0) {
            entries[n] = entry_of_var(m->vars[i++]);
        } else {
            if (r == 0)
                i++;
            k++;
            if (!entry_of_item(s, it, &entries[n]))
                continue;
        }
        bytes += entries[n].name_len + entries[n].value_len + 2;
        n++;
    }
    r = entries_check(entries, n, bytes, e);
    return r < 0 ? r : block_build(entries, n, bytes, ret, e);
}

const char *env_lookup(const struct env_set *s, const char *name)
{
    const struct var *v = vars_find(s->merged.vars, s->merged.count, name, strlen(name));

    return v != NULL ? env_var_value(v) : NULL;
}

static const char *shown(const struct var *v)
{
    if (v->unset)
        return NULL;
    return v->secret ? "\u2022\u2022\u2022" : env_var_value(v);
}

void env_explain(const struct env_set *s, void (*each)(void *arg, const struct env_explained *v), void *arg)
{
    char name[ENV_NAME_MAX + 1];
    struct walk w = {.s = s};
    const struct var *vars[ENV_LEVELS];
    int level;

    while (walk_next(&w, vars)) {
        const struct var *v = highest(vars, &level);
        struct env_explained x = {.name = name, .level = (enum env_level)level, .value = shown(v), .secret = v->secret};

        memcpy(name, v->text, v->name_len);
        name[v->name_len] = '\0';
        for (int l = level - 1; l >= 0; l--) {
            if (vars[l] == NULL)
                continue;
            x.shadowed[x.shadowed_count].level = (enum env_level)l;
            x.shadowed[x.shadowed_count++].value = shown(vars[l]);
        }
        each(arg, &x);
    }
}
