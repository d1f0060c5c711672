#include "init/user.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Part of a line; not terminated. */
struct span {
    const char *s;
    size_t len;
};

struct account {
    struct span name, home;
    uint32_t uid, gid;
};

__attribute__((format(printf, 3, 4))) static int refuse(char *why, int code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(why, USER_WHY_MAX, fmt, ap); /* a cut sentence is still one */
    va_end(ap);
    return -code;
}

static bool span_is(struct span a, const char *b)
{
    return a.len == strlen(b) && memcmp(a.s, b, a.len) == 0;
}

static bool all_digits(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (s[i] < '0' || s[i] > '9')
            return false;
    }
    return len > 0;
}

/* An id of the sandbox; false for anything else, however long it is. */
static bool parse_id(const char *s, size_t len, uint32_t *ret)
{
    uint32_t n = 0;

    if (!all_digits(s, len))
        return false;
    for (size_t i = 0; i < len; i++) {
        n = n * 10 + (uint32_t)(s[i] - '0');
        if (n >= PLAN_SANDBOX_IDS)
            return false;
    }
    *ret = n;
    return true;
}

/* The next line of [*P, END) that is not too long, without its newline. */
static bool next_line(const char **p, const char *end, struct span *ret)
{
    while (*p < end) {
        const char *nl = memchr(*p, '\n', (size_t)(end - *p));
        size_t len = (size_t)((nl != NULL ? nl : end) - *p);

        ret->s = *p;
        ret->len = len;
        *p = nl != NULL ? nl + 1 : end;
        if (len < USER_LINE_MAX && memchr(ret->s, '\0', len) == NULL)
            return true;
    }
    return false;
}

/* Splits LINE at C. Returns the number of parts, at most MAX; the last part keeps what is left. */
static unsigned split(struct span line, char c, struct span *parts, unsigned max)
{
    unsigned n = 0;

    for (;;) {
        const char *sep = n + 1 < max ? memchr(line.s, c, line.len) : NULL;

        parts[n].s = line.s;
        parts[n].len = sep != NULL ? (size_t)(sep - line.s) : line.len;
        n++;
        if (sep == NULL)
            return n;
        line.len -= (size_t)(sep + 1 - line.s);
        line.s = sep + 1;
    }
}

/* name:password:uid:gid:comment:home:shell. By name first: a name may consist of digits. */
static bool find_account(const char *text, size_t len, const char *name, bool by_uid, uint32_t uid, struct account *ret)
{
    const char *p = text, *end = text + len;
    struct span line, f[7];

    while (next_line(&p, end, &line)) {
        struct account a;

        if (split(line, ':', f, 7) < 6 || f[0].len == 0 || f[0].len >= USER_NAME_MAX)
            continue;
        if (!parse_id(f[2].s, f[2].len, &a.uid) || !parse_id(f[3].s, f[3].len, &a.gid))
            continue;
        if (by_uid ? a.uid != uid : !span_is(f[0], name))
            continue;
        a.name = f[0];
        a.home = f[5];
        *ret = a;
        return true;
    }
    return false;
}

/* name:password:gid:members */
static bool find_group(const char *text, size_t len, const char *name, uint32_t *ret)
{
    const char *p = text, *end = text + len;
    struct span line, f[4];

    while (next_line(&p, end, &line)) {
        if (split(line, ':', f, 4) >= 3 && span_is(f[0], name) && parse_id(f[2].s, f[2].len, ret))
            return true;
    }
    return false;
}

static bool is_member(struct span members, const char *name)
{
    struct span m[2];
    unsigned n;

    do {
        n = split(members, ',', m, 2);
        if (span_is(m[0], name))
            return true;
        members = m[n - 1];
    } while (n == 2);
    return false;
}

/* False when there are too many. */
static bool add_group(struct identity *who, uint32_t gid)
{
    for (uint32_t i = 0; i < who->ngroups; i++) {
        if (who->groups[i] == gid)
            return true;
    }
    if (who->ngroups == IN_GROUPS_MAX)
        return false;
    who->groups[who->ngroups++] = gid;
    return true;
}

static bool add_memberships(const char *text, size_t len, const char *name, struct identity *who)
{
    const char *p = text, *end = text + len;
    struct span line, f[4];
    uint32_t gid;

    while (next_line(&p, end, &line)) {
        if (split(line, ':', f, 4) < 4 || !parse_id(f[2].s, f[2].len, &gid) || !is_member(f[3], name))
            continue;
        if (!add_group(who, gid))
            return false;
    }
    return true;
}

/* What may stand for a user or a group. Images from elsewhere hold odd USER strings, and some runtimes read "-1" or a
 * huge number as root: here each is an error before any file is looked at. */
static int check_part(const char *what, const char *s, char *why)
{
    uint32_t id;
    size_t len = strlen(s);

    if (len == 0)
        return refuse(why, EINVAL, "the %s is empty", what);
    if (len >= USER_NAME_MAX)
        return refuse(why, EINVAL, "the %s is longer than 255 bytes", what);
    for (size_t i = 0; i < len; i++) {
        if (s[i] <= ' ' || s[i] > '~' || strchr(":/,\\\"'", s[i]) != NULL)
            return refuse(why, EINVAL, "the %s holds a character that is not allowed in names", what);
    }
    if (s[0] == '-' || s[0] == '+')
        return refuse(why, EINVAL, "the %s '%s' is neither a name nor a number from 0 to 65535", what, s);
    if (all_digits(s, len) && !parse_id(s, len, &id))
        return refuse(why, EINVAL, "the %s '%.40s' is above 65535, the last id of a sandbox", what, s);
    return 0;
}

/* Copies SPEC's two parts. *HAS_GROUP tells whether there is a colon. */
static int split_spec(const char *spec, char *user, char *group, bool *has_group, char *why)
{
    const char *colon = strchr(spec, ':');
    size_t user_len = colon != NULL ? (size_t)(colon - spec) : strlen(spec);
    int r;

    *has_group = colon != NULL;
    if (colon != NULL && strchr(colon + 1, ':') != NULL)
        return refuse(why, EINVAL, "a user is written name, uid, name:group or uid:gid, with one colon at most");
    if (user_len >= USER_NAME_MAX || (colon != NULL && strlen(colon + 1) >= USER_NAME_MAX))
        return refuse(why, EINVAL, "the user or group is longer than 255 bytes");
    memcpy(user, spec, user_len);
    user[user_len] = '\0';
    if (user_len > 0) {
        r = check_part("user", user, why);
        if (r < 0)
            return r;
    }
    if (colon != NULL) {
        (void)strcpy(group, colon + 1); /* measured above */
        return check_part("group", group, why);
    }
    return 0;
}

static int resolve_user(const char *user, const char *passwd, size_t len, struct user_result *r, char *why)
{
    struct account a;
    uint32_t uid = 0;
    bool numeric = user[0] == '\0' || parse_id(user, strlen(user), &uid), found = false;

    if (passwd != NULL && user[0] != '\0')
        found = find_account(passwd, len, user, false, 0, &a);
    if (passwd != NULL && !found && numeric)
        found = find_account(passwd, len, NULL, true, uid, &a);
    if (!found && !numeric) {
        if (passwd == NULL)
            return refuse(why, ENOENT, "the image has no /etc/passwd, so user '%s' cannot be looked up", user);
        return refuse(why, ENOENT, "the image's /etc/passwd has no user '%s'", user);
    }
    r->who.uid = found ? a.uid : uid;
    r->who.gid = found ? a.gid : 0;
    if (!found)
        return 0;
    memcpy(r->name, a.name.s, a.name.len); /* find_account() has checked the length */
    r->name[a.name.len] = '\0';
    if (a.home.len > 0 && a.home.len < sizeof r->home && a.home.s[0] == '/') {
        memcpy(r->home, a.home.s, a.home.len);
        r->home[a.home.len] = '\0';
    }
    return 0;
}

static int resolve_group(const char *name, const char *group, size_t len, uint32_t *ret, char *why)
{
    if (group != NULL && find_group(group, len, name, ret))
        return 0;
    if (parse_id(name, strlen(name), ret))
        return 0;
    if (group == NULL)
        return refuse(why, ENOENT, "the image has no /etc/group, so group '%s' cannot be looked up", name);
    return refuse(why, ENOENT, "the image's /etc/group has no group '%s'", name);
}

int user_resolve(const char *spec, const char *passwd, size_t passwd_len, const char *group, size_t group_len,
                 struct user_result *ret, char *why)
{
    char user_part[USER_NAME_MAX], group_part[USER_NAME_MAX];
    bool has_group;
    int r;

    memset(&ret->who, 0, sizeof ret->who);
    (void)strcpy(ret->home, "/");
    ret->name[0] = '\0';

    r = split_spec(spec, user_part, group_part, &has_group, why);
    if (r == 0)
        r = resolve_user(user_part, passwd, passwd_len, ret, why);
    if (r == 0 && has_group)
        r = resolve_group(group_part, group, group_len, &ret->who.gid, why);
    if (r < 0)
        return r;

    (void)add_group(&ret->who, ret->who.gid); /* the first one always fits */
    if (!has_group && group != NULL && ret->name[0] != '\0' && !add_memberships(group, group_len, ret->name, &ret->who))
        return refuse(why, E2BIG, "user '%s' is in more than %d groups", ret->name, IN_GROUPS_MAX);
    return 0;
}
