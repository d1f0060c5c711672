#include "daemon/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int number(const char *name, const char *text, uint64_t max, uint64_t *ret, struct err *e)
{
    char *end;

    errno = 0;
    *ret = strtoull(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || *text == '-' || *ret > max)
        return err_typed(e, ERR_INVALID, NULL, "%s: '%s' is not a number up to %llu", name, text,
                         (unsigned long long)max);
    return 0;
}

static int set_listen(struct options *o, const char *v, struct err *e)
{
    uint64_t n;
    int r = number("--listen-fd", v, 1 << 20, &n, e);

    if (r < 0)
        return r;
    if (o->listen_count == LISTEN_FDS_MAX)
        return err_typed(e, ERR_INVALID, NULL, "more than %d listening sockets", LISTEN_FDS_MAX);
    o->listen_fds[o->listen_count++] = (int)n;
    return 0;
}

static int set_state_dir(struct options *o, const char *v, struct err *e)
{
    (void)e;
    o->engine.state_dir = v;
    return 0;
}

static int set_runner(struct options *o, const char *v, struct err *e)
{
    (void)e;
    o->engine.runner_id = v;
    return 0;
}

static int set_log_level(struct options *o, const char *v, struct err *e)
{
    if (log_level_parse(v, &o->log_level) < 0)
        return err_typed(e, ERR_INVALID, NULL, "--log-level: '%s' is none of debug, info, warn, error", v);
    return 0;
}

static int set_egress(struct options *o, const char *v, struct err *e)
{
    if (strcmp(v, "nat") != 0 && strcmp(v, "none") != 0)
        return err_typed(e, ERR_INVALID, NULL, "--egress: '%s' is none of nat, none", v);
    o->engine.default_egress = v;
    return 0;
}

static int set_boxes(struct options *o, const char *v, struct err *e)
{
    uint64_t n;
    int r = number("--boxes-max", v, 100000, &n, e);

    if (r == 0)
        o->engine.boxes_max = (unsigned)n;
    return r;
}

static int set_disk(struct options *o, const char *v, struct err *e)
{
    return number("--default-disk-bytes", v, UINT64_MAX / 2, &o->engine.default_disk_bytes, e);
}

static int set_memory(struct options *o, const char *v, struct err *e)
{
    return number("--default-memory-bytes", v, UINT64_MAX / 2, &o->engine.default_memory_bytes, e);
}

static int ignore(struct options *o, const char *v, struct err *e)
{
    (void)o;
    (void)v;
    (void)e;
    return 0; /* --run-dir belongs to the spawner; it is passed so that `ps` shows which daemon this is */
}

static const struct {
    const char *name;
    int (*set)(struct options *o, const char *value, struct err *e);
} table[] = {
    {"--listen-fd", set_listen}, {"--state-dir", set_state_dir},     {"--run-dir", ignore},
    {"--runner-id", set_runner}, {"--log-level", set_log_level},     {"--egress", set_egress},
    {"--boxes-max", set_boxes},  {"--default-disk-bytes", set_disk}, {"--default-memory-bytes", set_memory},
};

int options_parse(int argc, char **argv, struct options *ret, struct err *e)
{
    *ret = (struct options){.log_level = LOG_L_INFO};
    engine_config_default(&ret->engine);

    for (int i = 1; i < argc; i++) {
        const char *name = argv[i];
        size_t n = strcspn(name, "=");
        const char *value = name[n] == '=' ? name + n + 1 : argv[++i]; /* argv ends with NULL */
        unsigned k = 0;
        int r;

        while (k < sizeof table / sizeof *table && (strlen(table[k].name) != n || strncmp(table[k].name, name, n) != 0))
            k++;
        if (k == sizeof table / sizeof *table)
            return err_typed(e, ERR_INVALID, NULL, "unknown option '%.*s'", (int)n, name);
        if (value == NULL)
            return err_typed(e, ERR_INVALID, NULL, "%s needs a value", table[k].name);
        r = table[k].set(ret, value, e);
        if (r < 0)
            return r;
    }
    if (ret->engine.state_dir == NULL || ret->engine.runner_id == NULL || ret->listen_count == 0)
        return err_typed(e, ERR_INVALID, NULL,
                         "--state-dir, --runner-id and --listen-fd are needed (this program is started by silicad)");
    return 0;
}
