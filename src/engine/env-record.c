/* Environments in records: a set as one blob and back.
 *
 * One byte of version, then for each level its count and its variables, in host byte order: a record does not leave its
 * machine. A secret variable is left out as a whole: after a restart the store it came from has to give it again. */
#include "engine/env-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"

enum { PACK_VERSION = 1, PACK_UNSET = 1 };

struct packed {
    uint32_t name_len, value_len, flags;
};

int env_pack(const struct env_set *s, struct buf *out)
{
    size_t start = out->len;
    uint8_t version = PACK_VERSION;
    int r = buf_append(out, &version, sizeof version);

    for (int l = 0; r == 0 && l < ENV_LEVELS; l++) {
        const struct level *lv = &s->levels[l];
        uint32_t count = 0;

        for (size_t i = 0; i < lv->count; i++)
            count += !lv->vars[i]->secret;
        r = buf_append(out, &count, sizeof count);
        for (size_t i = 0; r == 0 && i < lv->count; i++) {
            const struct var *v = lv->vars[i];
            struct packed p = {v->name_len, v->value_len, v->unset ? PACK_UNSET : 0};

            if (v->secret)
                continue;
            r = buf_append(out, &p, sizeof p);
            if (r == 0)
                r = buf_append(out, v->text, v->name_len);
            if (r == 0)
                r = buf_append(out, env_var_value(v), v->value_len);
        }
    }
    if (r < 0)
        out->len = start;
    return r;
}

struct reader {
    const uint8_t *p;
    size_t left;
};

static const void *take(struct reader *rd, size_t n)
{
    const void *p = rd->p;

    if (n > rd->left)
        return NULL;
    rd->p += n;
    rd->left -= n;
    return p;
}

static int damaged(struct err *e)
{
    return err_set(e, EBADMSG, "the environment in a record is damaged");
}

static int level_unpack(struct env_set *s, enum env_level level, struct reader *rd, struct err *e)
{
    AUTO_FREE struct env_item *items = NULL;
    const void *p = take(rd, sizeof(uint32_t));
    struct packed k;
    uint32_t count;

    if (p == NULL)
        return damaged(e);
    memcpy(&count, p, sizeof count);
    if (count > ENV_COUNT_MAX)
        return damaged(e);
    items = calloc((size_t)count + 1, sizeof *items);
    if (items == NULL)
        return err_set(e, ENOMEM, "environment: %m");
    for (uint32_t i = 0; i < count; i++) {
        p = take(rd, sizeof k);
        if (p == NULL)
            return damaged(e);
        memcpy(&k, p, sizeof k);
        items[i].op = k.flags & PACK_UNSET ? ENV_UNSET : ENV_SET;
        items[i].name_len = k.name_len;
        items[i].value_len = k.value_len;
        items[i].name = take(rd, k.name_len);
        items[i].value = items[i].name != NULL ? take(rd, k.value_len) : NULL;
        if (items[i].value == NULL)
            return damaged(e);
    }
    return env_change(s, level, items, count, false, false, e);
}

int env_unpack(const void *data, size_t len, struct env_set **ret, struct err *e)
{
    struct reader rd = {data, len};
    const uint8_t *version = take(&rd, 1);
    struct env_set *s;
    int r;

    if (version == NULL || *version != PACK_VERSION)
        return damaged(e);
    if (env_new(&s) < 0)
        return err_set(e, ENOMEM, "environment: %m");
    for (int l = 0; l < ENV_LEVELS; l++) {
        r = level_unpack(s, (enum env_level)l, &rd, e);
        if (r < 0) {
            env_free(s);
            return r;
        }
    }
    if (rd.left != 0) {
        env_free(s);
        return damaged(e);
    }
    *ret = s;
    return 0;
}
