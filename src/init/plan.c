/* Reading requests. No system call is made here, so that all of it can be tested and fuzzed natively. */
#include "init/plan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int refuse(int code, const char *why, const char **ret_why)
{
    *ret_why = why;
    return -code;
}

static int read_identity(uint32_t uid, uint32_t gid, uint32_t ngroups, const uint32_t *groups, struct identity *ret,
                         const char **ret_why)
{
    if (uid >= PLAN_SANDBOX_IDS || gid >= PLAN_SANDBOX_IDS)
        return refuse(EINVAL, "a sandbox has uids and gids from 0 to 65535", ret_why);
    if (ngroups > IN_GROUPS_MAX)
        return refuse(EINVAL, "too many supplementary groups", ret_why);
    for (uint32_t i = 0; i < ngroups; i++) {
        if (groups[i] >= PLAN_SANDBOX_IDS)
            return refuse(EINVAL, "a sandbox has gids from 0 to 65535", ret_why);
        ret->groups[i] = groups[i];
    }
    ret->uid = uid;
    ret->gid = gid;
    ret->ngroups = ngroups;
    return 0;
}

/* Adds the sizes of VEC's strings to *TOTAL. */
static int check_strings(const char *const *vec, size_t *total, const char **ret_why)
{
    for (; *vec != NULL; vec++) {
        size_t n = strlen(*vec) + 1;

        if (n > IN_ARG_MAX)
            return refuse(E2BIG, "one argument or environment variable is longer than 128 KiB", ret_why);
        *total += n;
        if (*total > IN_ARGS_TOTAL_MAX)
            return refuse(E2BIG, "arguments and environment are together longer than 2 MiB", ret_why);
    }
    return 0;
}

static int check_flags(uint32_t kind, uint32_t flags, const char **ret_why)
{
    if (kind == 0 || kind >= IN_KIND_COUNT)
        return refuse(EINVAL, "unknown kind of process", ret_why);
    if ((flags & ~(uint32_t)(IN_S_STDIN | IN_S_TTY | IN_S_MERGE | IN_S_NO_NEW_PRIVS)) != 0)
        return refuse(EINVAL, "unknown flags", ret_why);
    if ((flags & IN_S_TTY) != 0 && (flags & (IN_S_STDIN | IN_S_MERGE)) != 0)
        return refuse(EINVAL, "a terminal replaces the pipes for stdin and output", ret_why);
    return 0;
}

static int read_cwd(const char *cwd, const char **ret, const char **ret_why)
{
    *ret = cwd != NULL ? cwd : "/";
    if ((*ret)[0] != '/')
        return refuse(EINVAL, "the working directory must be an absolute path", ret_why);
    if (strlen(*ret) >= IN_PATH_MAX)
        return refuse(ENAMETOOLONG, "the working directory's path is longer than 4095 bytes", ret_why);
    return 0;
}

/* The vectors themselves: present, within their limits. */
static int read_args(const struct wire_msg *m, const struct in_spawn *s, struct spawn_plan *p, const char **ret_why)
{
    bool bad = false;
    size_t argc, total = 0;
    int r;

    if (s->argv.count == 0)
        return refuse(EINVAL, "a command needs at least one word", ret_why);
    if (s->argv.count > IN_ARGC_MAX || s->env.count > IN_ARGC_MAX)
        return refuse(E2BIG, "more than 65536 arguments or environment variables", ret_why);
    p->argv = wire_get_vec(m, s->argv, IN_ARGC_MAX, &bad);
    p->env = wire_get_vec(m, s->env, IN_ARGC_MAX, &bad);
    if (bad || p->argv == NULL || p->env == NULL)
        return refuse(EINVAL, "malformed arguments or environment", ret_why);
    r = check_strings(p->argv, &total, ret_why);
    if (r == 0)
        r = check_strings(p->env, &total, ret_why);
    if (r < 0)
        return r;

    argc = s->argv.count;
    p->sh_argv = calloc(argc + 2, sizeof *p->sh_argv);
    if (p->sh_argv == NULL)
        return refuse(ENOMEM, "out of memory", ret_why);
    p->sh_argv[0] = "/bin/sh";
    for (size_t i = 1; i < argc; i++)
        p->sh_argv[i + 1] = p->argv[i];
    return 0;
}

int plan_spawn(const struct wire_msg *m, struct spawn_plan *ret, uint32_t *ret_stage, const char **ret_why)
{
    const struct in_spawn *s = m->body;
    struct spawn_plan p = {.kind = s->kind, .flags = s->flags, .rows = s->rows, .cols = s->cols};
    const char *cwd;
    bool bad = false;
    int r;

    *ret_stage = IN_ST_OTHER;
    if (m->head->token == 0)
        return refuse(EINVAL, "a process needs a token other than 0", ret_why);
    r = check_flags(p.kind, p.flags, ret_why);
    if (r < 0)
        return r;

    *ret_stage = IN_ST_USER;
    r = read_identity(s->uid, s->gid, s->ngroups, s->groups, &p.who, ret_why);
    if (r < 0)
        return r;

    *ret_stage = IN_ST_CWD;
    p.cwd_create = s->cwd_create != 0;
    cwd = wire_get_str(m, s->cwd, &bad);
    if (bad)
        return refuse(EINVAL, "malformed working directory", ret_why);
    r = read_cwd(cwd, &p.cwd, ret_why);
    if (r < 0)
        return r;

    *ret_stage = IN_ST_LIMIT;
    r = read_args(m, s, &p, ret_why);
    if (r < 0) {
        plan_spawn_fini(&p);
        return r;
    }
    *ret = p;
    return 0;
}

void plan_spawn_fini(struct spawn_plan *p)
{
    free(p->argv);
    free(p->env);
    free(p->sh_argv);
    p->argv = p->env = p->sh_argv = NULL;
}

/* CWD + "/" + PATH, or PATH when it is absolute. ".." is left to the kernel: it means what it means on the file system. */
static int join_path(const char *cwd, const char *path, char *buf, size_t cap, const char **ret_why)
{
    size_t c, n = strlen(path);
    int r;

    if (n == 0)
        return refuse(ENOENT, "the path is empty", ret_why);
    if (path[0] == '/') {
        if (n >= cap)
            return refuse(ENAMETOOLONG, "the path is longer than 4095 bytes", ret_why);
        memcpy(buf, path, n + 1);
        return 0;
    }
    r = read_cwd(cwd, &cwd, ret_why);
    if (r < 0)
        return r;
    c = strlen(cwd);
    if (n >= cap || c >= cap - n - 1)
        return refuse(ENAMETOOLONG, "the path is longer than 4095 bytes", ret_why);
    memcpy(buf, cwd, c);
    buf[c] = '/';
    memcpy(buf + c + 1, path, n + 1);
    return 0;
}

int plan_open(const struct wire_msg *m, struct open_plan *ret, uint32_t *ret_stage, const char **ret_why)
{
    const uint32_t known = IN_O_READ | IN_O_WRITE | IN_O_PARENTS | IN_O_APPEND | IN_O_EXCL;
    const struct in_open *o = m->body;
    const char *path, *cwd;
    bool bad = false;
    int r;

    *ret_stage = IN_ST_OPEN;
    if ((o->flags & ~known) != 0 || (o->flags & (IN_O_READ | IN_O_WRITE)) == 0 ||
        (o->flags & (IN_O_READ | IN_O_WRITE)) == (IN_O_READ | IN_O_WRITE))
        return refuse(EINVAL, "a file is opened either for reading or for writing", ret_why);
    if ((o->flags & IN_O_READ) != 0 && (o->flags & ~(uint32_t)IN_O_READ) != 0)
        return refuse(EINVAL, "flags that only make sense for writing", ret_why);
    if ((o->mode & ~07777u) != 0)
        return refuse(EINVAL, "a file mode has only the bits 07777", ret_why);
    ret->flags = o->flags;
    ret->mode = o->mode != 0 ? o->mode : 0644;
    ret->timeout_ms = o->timeout_ms != 0 ? o->timeout_ms : PLAN_OPEN_TIMEOUT_MS;
    if (ret->timeout_ms > PLAN_OPEN_TIMEOUT_MAX_MS)
        ret->timeout_ms = PLAN_OPEN_TIMEOUT_MAX_MS;

    *ret_stage = IN_ST_USER;
    r = read_identity(o->uid, o->gid, o->ngroups, o->groups, &ret->who, ret_why);
    if (r < 0)
        return r;

    *ret_stage = IN_ST_OPEN;
    path = wire_get_str(m, o->path, &bad);
    cwd = wire_get_str(m, o->cwd, &bad);
    if (bad || path == NULL)
        return refuse(EINVAL, "malformed path", ret_why);
    return join_path(cwd, path, ret->path, sizeof ret->path, ret_why);
}

const char *plan_getenv(const char *const *env, const char *name)
{
    size_t n = strlen(name);

    for (; *env != NULL; env++) {
        if (strncmp(*env, name, n) == 0 && (*env)[n] == '=')
            return *env + n + 1;
    }
    return NULL;
}

bool plan_next_candidate(const char **cursor, const char *name, char *buf, size_t cap)
{
    size_t name_len = strlen(name);

    while (*cursor != NULL) {
        const char *dir = *cursor, *colon = strchr(dir, ':');
        size_t dir_len = colon != NULL ? (size_t)(colon - dir) : strlen(dir);

        *cursor = colon != NULL ? colon + 1 : NULL;
        if (dir_len == 0) {
            dir = ".";
            dir_len = 1;
        }
        if (name_len >= cap || dir_len >= cap - name_len - 1)
            continue;
        memcpy(buf, dir, dir_len);
        buf[dir_len] = '/';
        memcpy(buf + dir_len + 1, name, name_len + 1);
        return true;
    }
    return false;
}
