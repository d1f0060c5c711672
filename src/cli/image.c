/* silica image: build from a recipe, import a rootfs tar, list, remove. */
#include "cli/cli.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"

enum { CONFIG_MAX = 1 << 20 };

static int put_image(const struct cli *c, const char *name, const char *digest, const json_t *config, json_t **ret,
                     struct err *e)
{
    json_t *body = json_pack("{s:[s], s:O}", "layers", digest, "config", config);
    char *text = json_dumps(body, JSON_COMPACT);
    char query[1600], path[1700];
    int r;

    json_decref(body);
    if (text == NULL)
        return err_typed(e, ERR_INVALID, NULL, "the image's configuration is not valid");
    if (cli_query_escape(name, query, sizeof query) < 0) {
        free(text);
        return err_typed(e, ERR_INVALID, NULL, "the image's name is too long");
    }
    (void)snprintf(path, sizeof path, "/admin/v1/images?name=%s", query);
    r = cli_http(c, "PUT", path, text, -1, ret, e);
    free(text);
    return r;
}

static int import(const struct cli *c, const char *name, const char *file, const char *config_file, struct err *e)
{
    AUTO_FD fd = strcmp(file, "-") == 0 ? dup(STDIN_FILENO) : open(file, O_RDONLY | O_CLOEXEC);
    json_t *layer, *image, *config, *row;
    json_error_t why;
    const char *digest;
    size_t i;
    int r;

    if (fd < 0)
        return err_set(e, errno, "%s: %m", file);
    config = config_file != NULL ? json_load_file(config_file, JSON_REJECT_DUPLICATES, &why) : json_object();
    if (!json_is_object(config)) {
        json_decref(config);
        return err_typed(e, ERR_INVALID, NULL, "%s: %s", config_file, config == NULL ? why.text : "not a JSON object");
    }
    r = cli_http(c, "POST", "/admin/v1/layers", NULL, fd, &layer, e);
    if (r < 0) {
        json_decref(config);
        return err_ctx(e, "%s", file);
    }
    digest = json_string_value(json_object_get(layer, "digest"));
    json_array_foreach(json_object_get(layer, "notes"), i, row)
        fprintf(stderr, "silica: note: %s\n", json_string_value(row));
    r = digest != NULL ? put_image(c, name, digest, config, &image, e)
                       : err_typed(e, ERR_INTERNAL, NULL, "the daemon named no layer");
    if (r == 0) {
        if (c->json)
            cli_print_json(image);
        else
            printf("%s\n", name);
        json_decref(image);
    }
    json_decref(config);
    json_decref(layer);
    return r;
}

static int verb_import(const struct cli *c, int argc, char **argv)
{
    const char *config = NULL;
    struct err e;

    if (argc == 5 && strcmp(argv[3], "--config") == 0)
        config = argv[4];
    else if (argc != 3)
        return cli_usage(cli_verb("image"));
    return import(c, argv[1], argv[2], config, &e) < 0 ? cli_fail(&e) : 0;
}

/* The program that turns a recipe into a tar: beside this one in a build tree, or where `make install` puts it. */
static int find_builder(char *out, size_t cap, struct err *e)
{
    static const char *const places[] = {"../tools/build-image", "../libexec/silica/build-image"};
    char self[1024];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    char *slash;

    if (n < 0)
        return err_set(e, errno, "/proc/self/exe: %m");
    self[n] = '\0';
    slash = strrchr(self, '/');
    *slash = '\0';
    for (unsigned i = 0; i < ARRAY_LEN(places); i++) {
        if ((size_t)snprintf(out, cap, "%s/%s", self, places[i]) < cap && access(out, X_OK) == 0)
            return 0;
    }
    return err_typed(e, ERR_NOT_FOUND, NULL, "the image builder (build-image) is not installed beside silica");
}

static int run_builder(const char *builder, const char *recipe, const char *tar, struct err *e)
{
    pid_t pid = fork();
    int status;

    if (pid < 0)
        return err_set(e, errno, "fork: %m");
    if (pid == 0) {
        (void)dup2(STDERR_FILENO, STDOUT_FILENO); /* progress must not mix with our output */
        execl(builder, builder, recipe, tar, (char *)NULL);
        _exit(127);
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return err_typed(e, ERR_INTERNAL, NULL, "building '%s' failed (see above)", recipe);
    return 0;
}

static int build(const struct cli *c, const char *recipe, const char *name, struct err *e)
{
    char dir[] = "/var/tmp/silica-build-XXXXXX", builder[1200], tar[64], config[80];
    int r;

    r = find_builder(builder, sizeof builder, e);
    if (r < 0)
        return r;
    if (mkdtemp(dir) == NULL)
        return err_set(e, errno, "%s: %m", dir);
    (void)snprintf(tar, sizeof tar, "%s/rootfs.tar", dir);
    (void)snprintf(config, sizeof config, "%s/rootfs.json", dir);
    r = run_builder(builder, recipe, tar, e);
    if (r == 0)
        r = import(c, name, tar, config, e);
    (void)unlink(tar);
    (void)unlink(config);
    (void)rmdir(dir);
    return r;
}

static int verb_build(const struct cli *c, int argc, char **argv)
{
    const char *name;
    struct err e;

    if (argc == 4 && strcmp(argv[2], "--name") == 0)
        name = argv[3];
    else if (argc == 2)
        name = argv[1];
    else
        return cli_usage(cli_verb("image"));
    return build(c, argv[1], name, &e) < 0 ? cli_fail(&e) : 0;
}

static int verb_list(const struct cli *c, int argc, char **argv)
{
    json_t *reply, *row;
    struct err e;
    size_t i;

    (void)argv;
    if (argc != 1)
        return cli_usage(cli_verb("image"));
    if (cli_http(c, "GET", "/admin/v1/images", NULL, -1, &reply, &e) < 0)
        return cli_fail(&e);
    if (c->json) {
        cli_print_json(json_object_get(reply, "images"));
    } else {
        printf("%-30s  %-12s  %10s  %s\n", "IMAGE", "DIGEST", "SIZE", "CREATED");
        json_array_foreach(json_object_get(reply, "images"), i, row)
        {
            char size[16], age[32], name[260];
            const char *digest = json_string_value(json_object_get(row, "digest"));

            cli_size((uint64_t)json_integer_value(json_object_get(row, "bytes")), size);
            cli_age(json_object_get(row, "created"), age);
            printf("%-30s  %.12s  %10s  %s\n",
                   cli_clean(json_string_value(json_object_get(row, "name")), name, sizeof name),
                   digest != NULL ? digest : "", size, age);
        }
    }
    json_decref(reply);
    return 0;
}

static int verb_remove(const struct cli *c, int argc, char **argv)
{
    int failed = 0;

    if (argc < 2)
        return cli_usage(cli_verb("image"));
    for (int i = 1; i < argc; i++) {
        char query[1600], path[1700];
        json_t *reply;
        struct err e;
        int r = cli_query_escape(argv[i], query, sizeof query);

        (void)snprintf(path, sizeof path, "/admin/v1/images?name=%s", query);
        if (r < 0)
            (void)err_typed(&e, ERR_INVALID, NULL, "the image's name is too long");
        else
            r = cli_http(c, "DELETE", path, NULL, -1, &reply, &e);
        if (r < 0) {
            (void)cli_fail(&e);
            failed = CLI_EXIT_FAILED;
            continue;
        }
        puts(argv[i]);
        json_decref(reply);
    }
    return failed;
}

int verb_image(const struct cli *c, int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(const struct cli *c, int argc, char **argv);
    } subs[] = {
        {"build", verb_build}, {"import", verb_import}, {"list", verb_list}, {"ls", verb_list}, {"rm", verb_remove}};

    for (unsigned i = 0; argc > 1 && i < ARRAY_LEN(subs); i++) {
        if (strcmp(subs[i].name, argv[1]) == 0)
            return subs[i].run(c, argc - 1, argv + 1);
    }
    return cli_usage(cli_verb("image"));
}
