/* Runs scripts of operations from env_test.py against engine/env.h: one line in, one line out. Bytes are hex; "@N" is N
 * letters v. An answer is "ok ..." or "err KIND MESSAGE-HEX". */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "engine/env.h"

static struct env_set *set;

static size_t unhex(const char *text, size_t len, char **ret)
{
    size_t n = 0;

    if (len > 0 && text[0] == '@') {
        n = strtoul(text + 1, NULL, 10);
        *ret = malloc(n + 1);
        memset(*ret, 'v', n);
        return n;
    }
    *ret = malloc(len / 2 + 1);
    for (size_t i = 0; i + 1 < len; i += 2) {
        char two[3] = {text[i], text[i + 1], '\0'};

        (*ret)[n++] = (char)strtoul(two, NULL, 16);
    }
    (*ret)[n] = '\0';
    return n;
}

static void put_hex(const char *data, size_t len)
{
    for (size_t i = 0; i < len; i++)
        printf("%02x", (unsigned char)data[i]);
}

static void put_value(const char *value)
{
    putchar(value != NULL ? '=' : '-');
    if (value != NULL)
        put_hex(value, strlen(value));
}

static void put_err(const struct err *e)
{
    printf("err %s ", e->kind == ERR_INVALID ? "invalid" : e->kind == ERR_EXHAUSTED ? "exhausted" : "other");
    put_hex(e->msg, strlen(e->msg));
}

/* "op:name:value ..." to the end of the line. */
static struct env_item *items_parse(char *text, size_t *ret_count)
{
    static const char *const ops[] = {
        [ENV_SET] = "set", [ENV_UNSET] = "unset", [ENV_RESET] = "reset", [ENV_SKIP] = "skip"};
    struct env_item *items = NULL;
    size_t n = 0;
    char *save, *tok;

    for (tok = strtok_r(text, " ", &save); tok != NULL; tok = strtok_r(NULL, " ", &save)) {
        char *name = strchr(tok, ':') + 1, *value = strchr(name, ':') + 1;
        char *bytes;

        items = realloc(items, (n + 1) * sizeof *items);
        items[n] = (struct env_item){0};
        for (unsigned o = 0; o < ARRAY_LEN(ops); o++) {
            if (strncmp(tok, ops[o], strlen(ops[o])) == 0)
                items[n].op = (enum env_op)o;
        }
        items[n].name_len = unhex(name, (size_t)(value - 1 - name), &bytes);
        items[n].name = bytes;
        items[n].value_len = unhex(value, strlen(value), &bytes);
        items[n].value = bytes;
        n++;
    }
    *ret_count = n;
    return items;
}

static void items_free(struct env_item *items, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free((void *)items[i].name);
        free((void *)items[i].value);
    }
    free(items);
}

static void run_apply(char *args)
{
    enum env_level level = (enum env_level)strtoul(args, &args, 10);
    bool secret = strtoul(args, &args, 10) != 0;
    struct err e = {0};
    size_t n;
    struct env_item *items = items_parse(args, &n);

    if (env_apply(set, level, items, n, secret, &e) < 0)
        put_err(&e);
    else
        printf("ok");
    items_free(items, n);
}

static void run_strings(char *args)
{
    enum env_level level = (enum env_level)strtoul(args, &args, 10);
    char *strings[16] = {0}, *save;
    unsigned n = 0, skipped = 0;
    struct err e = {0};

    for (char *tok = strtok_r(args, " ", &save); tok != NULL && n < 15; tok = strtok_r(NULL, " ", &save))
        (void)unhex(tok + 1, strlen(tok + 1), &strings[n++]);
    if (env_apply_strings(set, level, (const char *const *)strings, &skipped, &e) < 0)
        put_err(&e);
    else
        printf("ok %u", skipped);
    while (n > 0)
        free(strings[--n]);
}

static void run_merge(char *args)
{
    struct err e = {0};
    char **env = NULL;
    size_t n;
    struct env_item *items = items_parse(args, &n);

    if (env_merge(set, items, n, &env, &e) < 0) {
        put_err(&e);
    } else {
        printf("ok");
        for (size_t i = 0; env[i] != NULL; i++) {
            putchar(' ');
            put_hex(env[i], strlen(env[i]));
        }
        free(env);
    }
    items_free(items, n);
}

static void put_explained(void *arg, const struct env_explained *v)
{
    (void)arg;
    putchar(' ');
    put_hex(v->name, strlen(v->name));
    printf(",%d,%d,", v->level, v->secret);
    put_value(v->value);
    for (unsigned i = 0; i < v->shadowed_count; i++) {
        printf(",%d", v->shadowed[i].level);
        put_value(v->shadowed[i].value);
    }
}

static void run_repack(void)
{
    struct buf b = {0};
    struct env_set *back = NULL;
    struct err e = {0};

    if (env_pack(set, &b) < 0)
        printf("err pack");
    else if (env_unpack(b.data, b.len, &back, &e) < 0)
        put_err(&e);
    else
        printf("ok");
    buf_fini(&b);
    env_free(set);
    set = back;
}

static void run_clone(void)
{
    struct env_set *copy = NULL;

    printf(env_clone(set, &copy) == 0 ? "ok" : "err clone");
    env_free(set);
    set = copy;
}

static void run_lookup(char *args)
{
    char *name;

    (void)unhex(args, strlen(args), &name);
    printf("ok ");
    put_value(env_lookup(set, name));
    free(name);
}

static void run(char *line)
{
    char *args = line + strcspn(line, " ");

    if (*args != '\0')
        *args++ = '\0';
    if (strcmp(line, "new") == 0) {
        env_free(set);
        printf(env_new(&set) == 0 ? "ok" : "err new");
    } else if (strcmp(line, "apply") == 0) {
        run_apply(args);
    } else if (strcmp(line, "strings") == 0) {
        run_strings(args);
    } else if (strcmp(line, "clear") == 0) {
        env_clear(set, (enum env_level)strtoul(args, NULL, 10));
        printf("ok");
    } else if (strcmp(line, "merge") == 0) {
        run_merge(args);
    } else if (strcmp(line, "lookup") == 0) {
        run_lookup(args);
    } else if (strcmp(line, "explain") == 0) {
        printf("ok");
        env_explain(set, put_explained, NULL);
    } else if (strcmp(line, "repack") == 0) {
        run_repack();
    } else if (strcmp(line, "clone") == 0) {
        run_clone();
    } else {
        printf("err unknown");
    }
    putchar('\n');
    (void)fflush(stdout);
}

int main(void)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;

    while ((n = getline(&line, &cap, stdin)) > 0) {
        line[strcspn(line, "\n")] = '\0';
        run(line);
    }
    free(line);
    env_free(set);
    return 0;
}
