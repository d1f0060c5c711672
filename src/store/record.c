/* Copies of records, and lists as blobs. */
#include "store/store-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"

void store_list_free(char **list)
{
    if (list == NULL)
        return;
    for (char **p = list; *p != NULL; p++)
        free(*p);
    free(list);
}

int store_list_copy(char *const *list, char ***ret)
{
    size_t n = 0;
    char **copy;

    if (list == NULL) {
        *ret = NULL;
        return 0;
    }
    while (list[n] != NULL)
        n++;
    copy = calloc(n + 1, sizeof *copy);
    if (copy == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        copy[i] = strdup(list[i]);
        if (copy[i] == NULL) {
            store_list_free(copy);
            return -ENOMEM;
        }
    }
    *ret = copy;
    return 0;
}

void box_record_free(struct box_record *r)
{
    if (r == NULL)
        return;
    free(r->tenant);
    free(r->creator);
    free(r->dialect);
    free(r->image);
    free(r->image_digest);
    free(r->runner_id);
    free(r->request_id);
    free(r->echo);
    store_list_free(r->tags);
    free(r->command);
    store_list_free(r->args);
    free(r->cwd);
    free(r->user);
    free(r->env);
    store_list_free(r->layers);
    free(r->entry_json);
    free(r->reason);
    free(r->boot_id);
    free(r);
}

static int copy_str(const char *s, char **ret)
{
    *ret = NULL;
    if (s == NULL)
        return 0;
    *ret = strdup(s);
    return *ret != NULL ? 0 : -ENOMEM;
}

static int copy_mem(const void *p, size_t len, void **ret)
{
    *ret = NULL;
    if (p == NULL)
        return 0;
    *ret = malloc(len != 0 ? len : 1);
    if (*ret == NULL)
        return -ENOMEM;
    if (len != 0)
        memcpy(*ret, p, len);
    return 0;
}

int box_record_copy(const struct box_record *r, struct box_record **ret)
{
    struct box_record *c = malloc(sizeof *c);
    const struct {
        const char *from;
        char **to;
    } strings[] = {
        {r->tenant, &c->tenant},
        {r->creator, &c->creator},
        {r->dialect, &c->dialect},
        {r->image, &c->image},
        {r->image_digest, &c->image_digest},
        {r->runner_id, &c->runner_id},
        {r->request_id, &c->request_id},
        {r->command, &c->command},
        {r->cwd, &c->cwd},
        {r->user, &c->user},
        {r->entry_json, &c->entry_json},
        {r->reason, &c->reason},
        {r->boot_id, &c->boot_id},
    };
    bool bad = false;

    if (c == NULL)
        return -ENOMEM;
    *c = *r;
    c->tags = c->args = c->layers = NULL;
    for (size_t i = 0; i < ARRAY_LEN(strings); i++)
        bad |= copy_str(strings[i].from, strings[i].to) < 0;
    bad |= copy_mem(r->echo, r->echo_len, &c->echo) < 0;
    bad |= copy_mem(r->env, r->env_len, &c->env) < 0;
    bad |= store_list_copy(r->tags, &c->tags) < 0;
    bad |= store_list_copy(r->args, &c->args) < 0;
    bad |= store_list_copy(r->layers, &c->layers) < 0;
    if (bad) {
        box_record_free(c);
        return -ENOMEM;
    }
    *ret = c;
    return 0;
}

void image_record_free(struct image_record *r)
{
    if (r == NULL)
        return;
    free(r->name);
    free(r->digest);
    free(r->config_json);
    store_list_free(r->layers);
    free(r);
}

int image_record_copy(const struct image_record *r, struct image_record **ret)
{
    struct image_record *c = calloc(1, sizeof *c);
    bool bad;

    if (c == NULL)
        return -ENOMEM;
    c->bytes = r->bytes;
    c->created_ns = r->created_ns;
    bad = copy_str(r->name, &c->name) < 0;
    bad |= copy_str(r->digest, &c->digest) < 0;
    bad |= copy_str(r->config_json, &c->config_json) < 0;
    bad |= store_list_copy(r->layers, &c->layers) < 0;
    if (bad) {
        image_record_free(c);
        return -ENOMEM;
    }
    *ret = c;
    return 0;
}

int store_bind_list(sqlite3_stmt *st, int col, char *const *list)
{
    size_t len = 0;
    char *blob, *p;

    if (list == NULL)
        return sqlite3_bind_null(st, col);
    for (char *const *s = list; *s != NULL; s++)
        len += strlen(*s) + 1;
    if (len == 0)
        return sqlite3_bind_zeroblob(st, col, 0);
    p = blob = malloc(len);
    if (blob == NULL)
        return SQLITE_NOMEM;
    for (char *const *s = list; *s != NULL; s++)
        p = stpcpy(p, *s) + 1;
    return sqlite3_bind_blob64(st, col, blob, len, free);
}

int store_column_list(sqlite3_stmt *st, int col, char ***ret)
{
    const char *blob, *end;
    char **list;
    size_t n = 0;

    *ret = NULL;
    if (sqlite3_column_type(st, col) == SQLITE_NULL)
        return 0;
    blob = sqlite3_column_blob(st, col);
    if (blob == NULL)
        blob = ""; /* how SQLite gives an empty blob */
    end = blob + sqlite3_column_bytes(st, col);
    if (end != blob && end[-1] != '\0')
        return -EBADMSG;
    for (const char *p = blob; p < end; p += strlen(p) + 1)
        n++;
    list = calloc(n + 1, sizeof *list);
    if (list == NULL)
        return -ENOMEM;
    n = 0;
    for (const char *p = blob; p < end; p += strlen(p) + 1) {
        list[n] = strdup(p);
        if (list[n++] == NULL) {
            store_list_free(list);
            return -ENOMEM;
        }
    }
    *ret = list;
    return 0;
}
