/* A request for a sandbox: checked against every limit, then turned into a record and an environment. */
#include "engine/box-internal.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"

/* Both are read once: every create asks, and each reading opens a file. */
uint64_t host_memory(void)
{
    static uint64_t bytes;
    long pages, size;

    if (bytes != 0)
        return bytes;
    pages = sysconf(_SC_PHYS_PAGES);
    size = sysconf(_SC_PAGESIZE);
    if (pages > 0 && size > 0)
        bytes = (uint64_t)pages * (uint64_t)size;
    return bytes;
}

uint32_t host_cpu_millis(void)
{
    static uint32_t millis;
    long n;

    if (millis != 0)
        return millis;
    n = sysconf(_SC_NPROCESSORS_ONLN);
    millis = n > 0 ? (uint32_t)n * 1000 : 1000;
    return millis;
}

static int invalid(struct err *e, const char *what, size_t limit, const char *unit)
{
    return err_typed(e, ERR_INVALID, "INVALID_REQUEST", "%s: the limit is %zu %s", what, limit, unit);
}

static int check_str(const char *s, const char *what, size_t max, struct err *e)
{
    if (s != NULL && strlen(s) > max)
        return invalid(e, what, max, "bytes");
    return 0;
}

static int check_tags(const char *const *tags, struct err *e)
{
    size_t n = 0;

    for (; tags != NULL && tags[n] != NULL; n++) {
        if (n == BOX_TAGS_MAX)
            return invalid(e, "too many tags", BOX_TAGS_MAX, "tags");
        if (strlen(tags[n]) > BOX_TAG_LEN_MAX)
            return invalid(e, "a tag is too long", BOX_TAG_LEN_MAX, "bytes");
    }
    return 0;
}

static int check_args(const struct box_spec *s, struct err *e)
{
    size_t total = s->command != NULL ? strlen(s->command) + 1 : 0;

    if (total > IN_ARG_MAX)
        return invalid(e, "the command is too long", IN_ARG_MAX - 1, "bytes");
    for (size_t n = 0; s->args != NULL && s->args[n] != NULL; n++) {
        size_t len = strlen(s->args[n]) + 1;

        if (len > IN_ARG_MAX)
            return invalid(e, "an argument is too long", IN_ARG_MAX - 1, "bytes");
        total += len;
        if (n >= IN_ARGC_MAX - 1 || total > IN_ARGS_TOTAL_MAX)
            return invalid(e, "the arguments are too long", IN_ARGS_TOTAL_MAX, "bytes in all");
    }
    return 0;
}

static int check_sizes(struct engine *en, const struct box_spec *s, struct err *e)
{
    uint64_t memory = host_memory();
    uint32_t cpu = host_cpu_millis();

    if (memory != 0 && s->memory_bytes > memory)
        return err_typed(e, ERR_INVALID, "RESOURCE_CEILING_EXCEEDED",
                         "memory of %llu bytes was asked for; this machine has %llu",
                         (unsigned long long)s->memory_bytes, (unsigned long long)memory);
    if (s->cpu_millis > cpu)
        return err_typed(e, ERR_INVALID, "RESOURCE_CEILING_EXCEEDED", "cpu of %um was asked for; this machine has %um",
                         s->cpu_millis, cpu);
    if (s->memory_bytes != 0 && s->memory_bytes < BOX_MEMORY_MIN)
        return err_typed(e, ERR_INVALID, "INVALID_REQUEST", "memory of %llu bytes was asked for; the least is %d",
                         (unsigned long long)s->memory_bytes, BOX_MEMORY_MIN);
    if (s->cpu_millis != 0 && s->cpu_millis < BOX_CPU_MILLIS_MIN)
        return err_typed(e, ERR_INVALID, "INVALID_REQUEST", "cpu of %um was asked for; the least is %dm", s->cpu_millis,
                         BOX_CPU_MILLIS_MIN);
    if (en->config.max_lifetime_s != 0 && s->lifetime_s > en->config.max_lifetime_s)
        return err_typed(e, ERR_INVALID, "INVALID_REQUEST", "a lifetime of %u s was asked for; the longest is %u s",
                         s->lifetime_s, en->config.max_lifetime_s);
    return 0;
}

int box_spec_check(struct engine *en, const struct box_spec *s, struct err *e)
{
    int r;

    if (s->image == NULL || s->image[0] == '\0')
        return err_typed(e, ERR_INVALID, "INVALID_REQUEST", "an image must be named");
    if (s->echo_len > BOX_ECHO_MAX)
        return invalid(e, "the request is too big to be kept", BOX_ECHO_MAX, "bytes");
    if ((r = check_str(s->image, "the image's name is too long", BOX_IMAGE_NAME_MAX, e)) < 0 ||
        (r = check_str(s->request_id, "the request id is too long", BOX_REQUEST_ID_MAX, e)) < 0 ||
        (r = check_str(s->user, "the user is too long", BOX_USER_MAX, e)) < 0 ||
        (r = check_str(s->cwd, "the working directory is too long", IN_PATH_MAX - 1, e)) < 0 ||
        (r = check_tags(s->tags, e)) < 0 || (r = check_args(s, e)) < 0 || (r = check_sizes(en, s, e)) < 0)
        return r;
    if (s->cwd != NULL && s->cwd[0] != '\0' && s->cwd[0] != '/')
        return err_typed(e, ERR_INVALID, "INVALID_REQUEST", "the working directory '%s' is not absolute", s->cwd);
    if (s->egress == BOX_EGRESS_NAT && (en->features & SP_FEAT_NAT) == 0)
        return err_typed(e, ERR_PRECONDITION, "PLACEMENT_CONSTRAINT_UNSATISFIED",
                         "egress by NAT was asked for, which this machine cannot give");
    return 0;
}

/* ---- the record --------------------------------------------------------------------------------------------------- */

/* Copies of strings; the first failure sticks. */
static char *dup_or(const char *s, const char *other, bool *bad)
{
    char *c;

    if (s == NULL || s[0] == '\0')
        s = other;
    if (s == NULL)
        return NULL;
    c = strdup(s);
    *bad |= c == NULL;
    return c;
}

static char **dup_list(const char *const *list, bool *bad)
{
    size_t n = 0;
    char **copy;

    while (list != NULL && list[n] != NULL)
        n++;
    copy = calloc(n + 1, sizeof *copy);
    if (copy == NULL) {
        *bad = true;
        return NULL;
    }
    for (size_t i = 0; i < n; i++) {
        copy[i] = strdup(list[i]);
        *bad |= copy[i] == NULL;
        if (copy[i] == NULL)
            break;
    }
    return copy;
}

static json_t *json_list(const char *const *list)
{
    json_t *a = json_array();

    for (; *list != NULL; list++) /* an image's JSON is UTF-8; what is not cannot be here */
        (void)json_array_append_new(a, json_string(*list));
    return a;
}

static char *entry_json(const struct image_config *c, bool *bad)
{
    json_t *o = json_object();
    char *text;

    if (c->entrypoint != NULL)
        *bad |= json_object_set_new(o, "entrypoint", json_list(c->entrypoint)) < 0;
    if (c->cmd != NULL)
        *bad |= json_object_set_new(o, "cmd", json_list(c->cmd)) < 0;
    text = json_dumps(o, JSON_COMPACT);
    json_decref(o);
    *bad |= text == NULL;
    return text;
}

static uint32_t egress_of(const struct engine *en, enum box_egress asked)
{
    if (asked == BOX_EGRESS_NAT)
        return SP_E_NAT;
    if (asked == BOX_EGRESS_NONE || strcmp(en->config.default_egress, "none") == 0)
        return SP_E_NONE;
    return (en->features & SP_FEAT_NAT) != 0 ? SP_E_NAT : SP_E_NONE; /* the default is what the machine can give */
}

static void fill_sizes(const struct engine *en, const struct box_spec *s, struct box_record *r)
{
    const struct engine_config *c = &en->config;
    uint64_t memory = host_memory();

    r->memory_bytes = s->memory_bytes != 0 ? s->memory_bytes : c->default_memory_bytes;
    if (memory != 0 && r->memory_bytes > memory)
        r->memory_bytes = memory; /* a default never refuses anybody */
    r->disk_bytes = s->disk_bytes != 0 ? s->disk_bytes : c->default_disk_bytes;
    r->cpu_millis = s->cpu_millis != 0 ? s->cpu_millis : c->default_cpu_millis;
    if (r->cpu_millis > host_cpu_millis())
        r->cpu_millis = host_cpu_millis();
    r->pids = s->pids != 0 ? s->pids : c->default_pids;
    r->lifetime_s = s->lifetime_s != 0 ? s->lifetime_s : c->default_lifetime_s;
    r->egress = egress_of(en, s->egress);
    r->flags = (s->readonly_root ? SP_BOX_READONLY_ROOT : 0) | (s->no_new_privs ? SP_BOX_NO_NEW_PRIVS : 0) |
               (s->writable_tmpfs ? BOX_REC_TMPFS : 0);
}

static int fill(const struct engine *en, const struct box_spec *s, const struct image_info *image, struct box_record *r)
{
    static const struct image_config no_config;
    const struct image_config *c = image != NULL ? &image->config : &no_config;
    bool bad = false;

    id_new(r->id, "sb");
    r->tenant = dup_or(s->tenant, "", &bad);
    r->creator = dup_or(s->creator, "", &bad);
    r->dialect = dup_or(s->dialect, "", &bad);
    r->image = dup_or(s->image, "", &bad);
    r->image_digest = dup_or(image != NULL ? image->digest : NULL, "", &bad);
    r->runner_id = dup_or(en->config.runner_id, "", &bad);
    r->request_id = dup_or(s->request_id, NULL, &bad);
    r->command = dup_or(s->command, NULL, &bad);
    r->cwd = dup_or(s->cwd, c->workdir, &bad);
    r->user = dup_or(s->user, c->user, &bad);
    r->reason = dup_or("", "", &bad);
    r->boot_id = dup_or(en->boot_id, "", &bad);
    r->tags = dup_list(s->tags, &bad);
    r->layers = dup_list(image != NULL ? image->layers : NULL, &bad);
    r->args = s->args != NULL ? dup_list(s->args, &bad) : NULL;
    r->entry_json = entry_json(c, &bad);
    if (s->echo_len > 0) {
        r->echo = malloc(s->echo_len);
        bad |= r->echo == NULL;
        if (r->echo != NULL) {
            memcpy(r->echo, s->echo, s->echo_len);
            r->echo_len = s->echo_len;
        }
    }
    r->state = BOX_CREATING;
    r->created_ns = clock_wall();
    fill_sizes(en, s, r);
    return bad ? -ENOMEM : 0;
}

static int fill_env(const struct box_spec *s, const struct image_info *image, struct box_record *r,
                    struct env_set **ret, struct err *e)
{
    const struct env_item hostname = {.name = "HOSTNAME", .name_len = 8, .value = r->id, .value_len = strlen(r->id)};
    static const char *const defaults[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                                           "LANG=C.UTF-8", NULL};
    struct env_set *env = NULL;
    struct buf packed = {0};
    unsigned skipped;
    int r0;

    r0 = env_new(&env);
    if (r0 < 0)
        return err_set(e, r0, "%m");
    r0 = env_apply_strings(env, ENV_SYSTEM, defaults, &skipped, e);
    if (r0 == 0)
        r0 = env_apply(env, ENV_SYSTEM, &hostname, 1, false, e);
    if (r0 == 0 && image != NULL && image->config.env != NULL)
        r0 = env_apply_strings(env, ENV_IMAGE, image->config.env, &skipped, e);
    if (r0 == 0)
        r0 = env_apply(env, ENV_SANDBOX, s->env, s->env_count, false, e);
    if (r0 == 0 && (r0 = env_pack(env, &packed)) < 0)
        (void)err_set(e, r0, "packing the environment: %m");
    if (r0 < 0) {
        buf_fini(&packed);
        env_free(env);
        return r0;
    }
    r->env = packed.data; /* malloc'd, ours from here */
    r->env_len = packed.len;
    *ret = env;
    return 0;
}

int box_spec_record(struct engine *en, const struct box_spec *s, struct box_record **ret, struct env_set **ret_env,
                    char **ret_failure, struct err *e)
{
    struct image_info info, *image = NULL;
    struct box_record *rec = calloc(1, sizeof *rec);
    AUTO_FREE char *failure = NULL;
    struct err why;
    int r;

    if (rec == NULL)
        return err_set(e, ENOMEM, "%m");
    if (engine_image_get(en, s->image, &info, &why) == 0) {
        image = &info;
    } else if (asprintf(&failure, "%.360s%s", why.msg,
                        why.kind == ERR_NOT_FOUND && strstr(why.msg, "silica image") == NULL
                            ? " (`silica image build` or `silica image import` provides one)"
                            : "") < 0) {
        failure = NULL;
        box_record_free(rec);
        return err_set(e, ENOMEM, "%m");
    }
    r = fill(en, s, image, rec);
    if (r < 0)
        (void)err_set(e, r, "%m");
    if (r == 0)
        r = fill_env(s, image, rec, ret_env, e);
    if (r < 0) {
        box_record_free(rec);
        return r;
    }
    *ret = rec;
    *ret_failure = take_ptr(failure);
    return 0;
}

int box_env_system(struct box *b, const char *home, struct err *e)
{
    const struct env_item item = {.name = "HOME", .name_len = 4, .value = home, .value_len = strlen(home)};

    return env_apply(b->env, ENV_SYSTEM, &item, 1, false, e);
}
