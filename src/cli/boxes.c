/* ps, env, stop, rm, version: verbs over the admin API. */
#include "cli/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/id.h"

/* "/admin/v1/sandboxes/ID<SUFFIX>". An argument that is no id never becomes part of a path. */
static int box_path(const char *id, const char *suffix, char *out, size_t cap, struct err *e)
{
    if (!id_valid(id, strlen(id), "sb"))
        return err_typed(e, ERR_INVALID, NULL, "'%s' is not a sandbox id (see silica ps)", id);
    (void)snprintf(out, cap, "/admin/v1/sandboxes/%s%s", id, suffix);
    return 0;
}

static const char *text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));

    return s != NULL ? s : "";
}

static void print_box(const json_t *b)
{
    char created[32], state[40], image[80], reason[200];
    const json_t *code = json_object_get(b, "exit_code");

    cli_age(json_object_get(b, "created"), created);
    if (json_is_integer(code))
        (void)snprintf(state, sizeof state, "%s (%d)", text_of(b, "state"), (int)json_integer_value(code));
    else
        (void)snprintf(state, sizeof state, "%s", text_of(b, "state"));
    printf("%-30s  %-16s  %-20s  %-16s  %s\n", text_of(b, "id"), state,
           cli_clean(text_of(b, "image"), image, sizeof image), created,
           cli_clean(text_of(b, "reason"), reason, sizeof reason));
}

int verb_ps(const struct cli *c, int argc, char **argv)
{
    bool all = argc == 2 && (strcmp(argv[1], "-a") == 0 || strcmp(argv[1], "--all") == 0), more = true;
    char path[128], after[ID_MAX] = "";
    json_t *every = json_array();
    struct err e;

    if (argc > 2 || (argc == 2 && !all))
        return cli_usage(cli_verb("ps"));
    while (more) {
        json_t *reply, *list, *row;
        size_t i;

        (void)snprintf(path, sizeof path, "/admin/v1/sandboxes?all=%d%s%s", all, after[0] != '\0' ? "&after=" : "",
                       after);
        if (cli_http(c, "GET", path, NULL, -1, &reply, &e) < 0)
            return cli_fail(&e);
        list = json_object_get(reply, "sandboxes");
        more = json_is_true(json_object_get(reply, "more")) && json_array_size(list) > 0;
        json_array_foreach(list, i, row)(void) snprintf(after, sizeof after, "%s", text_of(row, "id"));
        (void)json_array_extend(every, list);
        json_decref(reply);
    }
    if (c->json) {
        cli_print_json(every);
    } else {
        json_t *row;
        size_t i;

        printf("%-30s  %-16s  %-20s  %-16s  %s\n", "SANDBOX", "STATE", "IMAGE", "CREATED", "REASON");
        json_array_foreach(every, i, row) print_box(row);
    }
    json_decref(every);
    return 0;
}

static void print_variable(const json_t *v)
{
    const json_t *shadow = json_object_get(v, "shadowed"), *row;
    const char *value = json_string_value(json_object_get(v, "value"));
    char line[4096];
    size_t i;

    printf("%s=%s  [%s%s]", text_of(v, "name"), value != NULL ? cli_clean(value, line, sizeof line) : "",
           text_of(v, "level"), value == NULL ? ", unset" : "");
    json_array_foreach(shadow, i, row)
    {
        value = json_string_value(json_object_get(row, "value"));
        printf("  (%s: %s)", text_of(row, "level"), value != NULL ? cli_clean(value, line, sizeof line) : "unset");
    }
    putchar('\n');
}

int verb_env(const struct cli *c, int argc, char **argv)
{
    json_t *reply, *row;
    char path[128];
    struct err e;
    size_t i;

    if (argc != 2)
        return cli_usage(cli_verb("env"));
    if (box_path(argv[1], "/env", path, sizeof path, &e) < 0 || cli_http(c, "GET", path, NULL, -1, &reply, &e) < 0)
        return cli_fail(&e);
    if (c->json)
        cli_print_json(reply);
    else
        json_array_foreach(json_object_get(reply, "variables"), i, row) print_variable(row);
    json_decref(reply);
    return 0;
}

/* METHOD on every id; prints each id that worked, goes on after one that did not. */
static int each_box(const struct cli *c, const char *method, const char *suffix, int argc, char **argv)
{
    int failed = 0;

    for (int i = 0; i < argc; i++) {
        json_t *reply;
        char path[128];
        struct err e;

        if (box_path(argv[i], suffix, path, sizeof path, &e) < 0 ||
            cli_http(c, method, path, NULL, -1, &reply, &e) < 0) {
            (void)cli_fail(&e);
            failed = CLI_EXIT_FAILED;
            continue;
        }
        if (c->json)
            cli_print_json(reply);
        else
            puts(argv[i]);
        json_decref(reply);
    }
    return failed;
}

int verb_stop(const struct cli *c, int argc, char **argv)
{
    char suffix[48] = "/stop";
    int i = 1;

    if (argc > 2 && strcmp(argv[1], "--grace") == 0) {
        char grace[24];

        if (strlen(argv[2]) > 10 || cli_query_escape(argv[2], grace, sizeof grace) < 0)
            return cli_usage(cli_verb("stop"));
        (void)snprintf(suffix, sizeof suffix, "/stop?grace=%s", grace);
        i = 3;
    }
    if (i >= argc || argv[i][0] == '-')
        return cli_usage(cli_verb("stop"));
    return each_box(c, "POST", suffix, argc - i, argv + i);
}

int verb_rm(const struct cli *c, int argc, char **argv)
{
    bool force = argc > 1 && (strcmp(argv[1], "-f") == 0 || strcmp(argv[1], "--force") == 0);
    int i = force ? 2 : 1;

    if (i >= argc || argv[i][0] == '-')
        return cli_usage(cli_verb("rm"));
    return each_box(c, "DELETE", force ? "?force=1" : "", argc - i, argv + i);
}

int verb_version(const struct cli *c, int argc, char **argv)
{
    json_t *reply, *row;
    struct err e;
    size_t i;

    (void)argv;
    if (argc != 1)
        return cli_usage(cli_verb("version"));
    if (cli_http(c, "GET", "/admin/v1/version", NULL, -1, &reply, &e) < 0) {
        printf("silica %s\n", SILICA_VERSION);
        return cli_fail(&e);
    }
    if (c->json) {
        (void)json_object_set_new(reply, "client", json_string(SILICA_VERSION));
        cli_print_json(reply);
    } else {
        printf("silica %s\nsilicad %s at %s:%s, runner %s, %d of %d sandboxes\nfeatures:", SILICA_VERSION,
               text_of(reply, "version"), c->host, c->port, text_of(reply, "runner_id"),
               (int)json_integer_value(json_object_get(reply, "sandboxes")),
               (int)json_integer_value(json_object_get(reply, "sandboxes_max")));
        json_array_foreach(json_object_get(reply, "features"), i, row) printf(" %s", json_string_value(row));
        putchar('\n');
    }
    json_decref(reply);
    return 0;
}
