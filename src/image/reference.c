#include "image/reference.h"

#include <stdio.h>
#include <string.h>

#define LOWER "abcdefghijklmnopqrstuvwxyz"
#define UPPER "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define DIGIT "0123456789"

/* A part of the text being parsed. */
struct span {
    const char *at;
    size_t len;
};

static bool only(struct span s, const char *set)
{
    for (size_t i = 0; i < s.len; i++) {
        if (s.at[i] == '\0' || strchr(set, s.at[i]) == NULL)
            return false;
    }
    return true;
}

static bool is(struct span s, const char *word)
{
    return s.len == strlen(word) && memcmp(s.at, word, s.len) == 0;
}

/* Takes what stands before the first SEP off S, and SEP with it. Everything when there is none. */
static struct span cut(struct span *s, char sep)
{
    const char *p = s->len != 0 ? memchr(s->at, sep, s->len) : NULL;
    struct span head = {s->at, p != NULL ? (size_t)(p - s->at) : s->len};
    size_t gone = head.len + (p != NULL);

    *s = (struct span){s->at + gone, s->len - gone};
    return head;
}

static int refuse(const char *text, const char *why, struct err *e)
{
    char shown[80];
    size_t n = 0;

    for (; *text != '\0' && n < sizeof shown - 4; text++)
        shown[n++] = *text > 0x20 && *text < 0x7f ? *text : '?';
    memcpy(shown + n, *text != '\0' ? "..." : "", *text != '\0' ? 4 : 1);
    return err_typed(e, ERR_INVALID, NULL, "image name '%s': %s", shown, why);
}

static bool is_host(struct span s)
{
    return is(s, "localhost") || (s.len != 0 && (memchr(s.at, '.', s.len) != NULL || memchr(s.at, ':', s.len) != NULL));
}

/* What to write for docker.io before PATH: nothing, unless the path would then be read as a host's. */
static struct span short_host(struct span path)
{
    size_t len = path.len;
    struct span first = cut(&path, '/');

    return first.len != len && is_host(first) ? (struct span){"docker.io", 9} : (struct span){"", 0};
}

static bool host_valid(struct span s)
{
    struct span name = cut(&s, ':');
    bool port = name.at + name.len != s.at;

    if (port && (s.len == 0 || s.len > 5 || !only(s, DIGIT)))
        return false;
    while (name.len != 0) {
        struct span label = cut(&name, '.');

        if (label.len == 0 || !only(label, LOWER UPPER DIGIT "-") || label.at[0] == '-' ||
            label.at[label.len - 1] == '-')
            return false;
        if (name.len == 0 && label.at + label.len != name.at)
            return false; /* ended by a dot */
    }
    return true;
}

/* Lower-case words, joined by one ".", one or two "_", or any number of "-". */
static bool component_valid(struct span s)
{
    size_t i = 0;

    for (;;) {
        size_t word = i, sep;

        while (i < s.len && strchr(LOWER DIGIT, s.at[i]) != NULL && s.at[i] != '\0')
            i++;
        if (i == word)
            return false;
        if (i == s.len)
            return true;
        sep = i;
        while (i < s.len && s.at[i] == s.at[sep] && strchr("._-", s.at[i]) != NULL && s.at[i] != '\0')
            i++;
        if (i == sep || (s.at[sep] == '.' && i - sep > 1) || (s.at[sep] == '_' && i - sep > 2))
            return false;
    }
}

static int parse_digest(const char *text, struct span s, char out[IMAGE_DIGEST_LEN + 1], struct err *e)
{
    if (s.len != 7 + IMAGE_DIGEST_LEN || memcmp(s.at, "sha256:", 7) != 0 ||
        !only((struct span){s.at + 7, IMAGE_DIGEST_LEN}, DIGIT "abcdef"))
        return refuse(text, "what follows '@' must be sha256: and 64 hex digits", e);
    memcpy(out, s.at + 7, IMAGE_DIGEST_LEN);
    out[IMAGE_DIGEST_LEN] = '\0';
    return 0;
}

static int parse_tag(const char *text, struct span tag, struct err *e)
{
    if (tag.len == 0 || tag.len > IMAGE_TAG_MAX)
        return refuse(text, "a tag has 1 to 128 characters", e);
    if (!only(tag, LOWER UPPER DIGIT "_.-") || tag.at[0] == '.' || tag.at[0] == '-')
        return refuse(text, "a tag has letters, digits, '_', '.' and '-', and begins with a letter, a digit or '_'", e);
    return 0;
}

static int parse_path(const char *text, struct span path, struct err *e)
{
    do {
        struct span part = cut(&path, '/');

        if (!component_valid(part))
            return refuse(text, "a part of a name has lower-case letters and digits, joined by '.', '_', '__' or '-'",
                          e);
        if (path.len == 0 && part.at + part.len != path.at)
            return refuse(text, "it ends with a slash", e);
    } while (path.len != 0);
    return 0;
}

int image_reference_parse(const char *text, struct image_reference *ret, struct err *e)
{
    struct image_reference ref = {.digest = ""};
    struct span rest = {text, strlen(text)}, name, host = {text, 0}, tag, first;
    const char *colon;
    int r, n;

    if (rest.len == 0)
        return err_typed(e, ERR_INVALID, NULL, "an image name is empty");
    if (rest.len >= IMAGE_NAME_MAX + IMAGE_DIGEST_LEN)
        return refuse(text, "it is longer than 255 bytes", e);
    name = cut(&rest, '@');
    if (name.len != strlen(text)) {
        r = parse_digest(text, rest, ref.digest, e);
        if (r < 0)
            return r;
    }

    /* Only a colon after the last slash is a tag's: the other one is a port's. */
    first = name;
    first = cut(&first, '/');
    if (first.len != name.len && is_host(first)) {
        host = cut(&name, '/');
        if (!host_valid(host))
            return refuse(text, "its host is not a host name with an optional port", e);
        if (is(host, "docker.io") || is(host, "index.docker.io"))
            host = short_host(name);
    }
    colon = name.len != 0 ? memchr(name.at, ':', name.len) : NULL;
    tag = (struct span){"latest", 6};
    if (colon != NULL) {
        tag = (struct span){colon + 1, (size_t)(name.at + name.len - colon - 1)};
        name.len = (size_t)(colon - name.at);
        ref.tagged = true;
    }
    r = parse_tag(text, tag, e);
    if (r == 0)
        r = parse_path(text, name, e);
    if (r < 0)
        return r;
    if (host.len == 0 && name.len > 8 && memcmp(name.at, "library/", 8) == 0 &&
        memchr(name.at + 8, '/', name.len - 8) == NULL)
        name = (struct span){name.at + 8, name.len - 8};

    n = snprintf(ref.name, sizeof ref.name, "%.*s%s%.*s:%.*s", (int)host.len, host.at, host.len != 0 ? "/" : "",
                 (int)name.len, name.at, (int)tag.len, tag.at);
    if (n >= (int)sizeof ref.name)
        return refuse(text, "it is longer than 255 bytes", e);
    *ret = ref;
    return 0;
}
