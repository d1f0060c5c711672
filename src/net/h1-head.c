#include "net/h1-head.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "net/text.h"

enum { METHOD_MAX = 24 };

struct parser {
    char *at, *end;
    struct http_field *fields;
    unsigned fields_max;
    struct h1_head *head;
    const char *why;
    const char *authority; /* of an absolute-form target */
    const char *host, *length, *coding, *expect;
    bool close;
};

ssize_t h1_scan(struct h1_scan *s, const uint8_t *data, size_t len)
{
    while (s->at < len) {
        uint8_t ch = data[s->at];
        bool after_cr = s->at > 0 && data[s->at - 1] == '\r';

        if (ch == '\0' || after_cr != (ch == '\n'))
            return -EBADMSG;
        s->at++;
        if (ch != '\n')
            continue;
        s->lines++;
        /* An empty line ends the head, unless nothing but empty lines came before it. */
        if (s->at >= 4 && data[s->at - 3] == '\n' && s->at > 2 * (size_t)s->lines)
            return (ssize_t)s->at;
    }
    return 0;
}

static unsigned refuse(struct parser *p, unsigned status, const char *why)
{
    p->why = why;
    return status;
}

/* Cuts the next line off; its CR becomes NUL. h1_scan saw to it that every line ends with CRLF. */
static char *next_line(struct parser *p, char **ret_end)
{
    char *line = p->at, *cr = memchr(line, '\r', (size_t)(p->end - line));

    if (cr == NULL || cr + 1 >= p->end)
        return NULL;
    *cr = '\0';
    *ret_end = cr;
    p->at = cr + 2;
    return line;
}

static bool authority_ok(const char *s)
{
    if (*s == '\0')
        return false;
    for (; *s != '\0'; s++) {
        unsigned char ch = (unsigned char)*s;

        /* No user info: it only ever serves to deceive. */
        if (ch <= 0x20 || ch >= 0x7f || strchr("/?#@\\\"<>^`{|}", ch) != NULL)
            return false;
    }
    return true;
}

static unsigned parse_target(struct parser *p, char *target)
{
    char *path = target, *query;

    for (char *s = target; *s != '\0'; s++) {
        if (*s <= 0x20 || *s >= 0x7f || *s == '#')
            return refuse(p, 400, "the request target holds a character that must be percent-encoded");
    }
    if (strncasecmp(target, "http://", 7) == 0 || strncasecmp(target, "https://", 8) == 0) {
        char *host = strchr(target, ':') + 3;

        path = host + strcspn(host, "/?");
        /* Shift the authority one to the left, over the last slash, to make room for its NUL. */
        memmove(host - 1, host, (size_t)(path - host));
        host[path - host - 1] = '\0';
        p->authority = host - 1;
        if (!authority_ok(p->authority))
            return refuse(p, 400, "the request target has no valid host");
    }
    query = strchr(path, '?');
    if (query != NULL)
        *query++ = '\0';
    if (*path == '\0' && p->authority != NULL)
        path = (char *)(uintptr_t) "/";
    if (*path != '/' && !(strcmp(path, "*") == 0 && strcmp(p->head->method, "OPTIONS") == 0))
        return refuse(p, 400, "the request target must be a path or an absolute URL");
    p->head->path = path;
    p->head->query = query != NULL ? query : "";
    return 0;
}

static unsigned parse_request_line(struct parser *p)
{
    char *end, *line = next_line(p, &end), *target, *version;

    if (line == NULL)
        return refuse(p, 400, "the request line is not complete");
    target = strchr(line, ' ');
    version = target != NULL ? strchr(target + 1, ' ') : NULL;
    if (version == NULL || strchr(version + 1, ' ') != NULL)
        return refuse(p, 400, "the request line must be method, target and version");
    *target++ = '\0';
    *version++ = '\0';

    for (const char *s = line; *s != '\0'; s++) {
        if (!http_tchar((unsigned char)*s))
            return refuse(p, 400, "the method is not a token");
    }
    if (*line == '\0' || strlen(line) > METHOD_MAX)
        return refuse(p, 400, "the method is not a token of 1 to 24 characters");
    p->head->method = line;

    if (strncmp(version, "HTTP/", 5) != 0 || strlen(version) != 8 || version[6] != '.')
        return refuse(p, 400, "the request line must end with HTTP/1.1");
    if (version[5] != '1' || (version[7] != '0' && version[7] != '1'))
        return refuse(p, 505, "only HTTP/1.0, HTTP/1.1 and HTTP/2 are spoken here");
    p->head->minor = version[7] == '1';
    if (strcmp(line, "CONNECT") == 0)
        return refuse(p, 501, "CONNECT is not offered");
    return parse_target(p, target);
}

/* True when the comma-separated LIST holds WORD. */
static bool list_has(const char *list, const char *word)
{
    size_t n = strlen(word);

    while (*list != '\0') {
        size_t len;

        list += strspn(list, " \t,");
        len = strcspn(list, " \t,");
        if (len == n && strncasecmp(list, word, n) == 0)
            return true;
        list += len;
    }
    return false;
}

/* Remembers the fields that frame the message; each may appear once. */
static unsigned note_field(struct parser *p, const char *name, const char *value)
{
    const struct {
        const char *name, **slot, *why;
    } once[] = {
        {"host", &p->host, "more than one Host field"},
        {"content-length", &p->length, "more than one Content-Length field"},
        {"transfer-encoding", &p->coding, "more than one Transfer-Encoding field"},
        {"expect", &p->expect, "more than one Expect field"},
    };

    for (size_t i = 0; i < sizeof once / sizeof once[0]; i++) {
        if (strcmp(name, once[i].name) != 0)
            continue;
        if (*once[i].slot != NULL)
            return refuse(p, 400, once[i].why);
        *once[i].slot = value;
    }
    if (strcmp(name, "connection") == 0 && list_has(value, "close"))
        p->close = true;
    return 0;
}

static unsigned parse_field(struct parser *p, char *line, char *end)
{
    char *colon = line, *value;
    struct http_field *f;

    while (http_tchar((unsigned char)*colon)) {
        if (*colon >= 'A' && *colon <= 'Z')
            *colon = (char)(*colon | 0x20);
        colon++;
    }
    /* Also refuses a line that begins with white space (obsolete folding) and white space before the colon. */
    if (colon == line || *colon != ':')
        return refuse(p, 400, "a header field is not 'name: value'");
    *colon = '\0';
    value = colon + 1;
    while (*value == ' ' || *value == '\t')
        value++;
    while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
        *--end = '\0';
    if (!http_value_ok(value))
        return refuse(p, 400, "a header field holds a control character");

    if (p->head->field_count == p->fields_max)
        return refuse(p, 431, "too many header fields");
    f = &p->fields[p->head->field_count++];
    f->name = line;
    f->value = value;
    return note_field(p, line, value);
}

static unsigned parse_length(struct parser *p)
{
    int64_t n = 0;

    if (p->length != NULL && p->coding != NULL)
        return refuse(p, 400, "both Content-Length and Transfer-Encoding");
    if (p->coding != NULL) {
        if (p->head->minor == 0)
            return refuse(p, 400, "Transfer-Encoding in HTTP/1.0");
        if (strcasecmp(p->coding, "chunked") != 0)
            return refuse(p, 501, "the only transfer coding understood is chunked");
        p->head->length = -1;
        return 0;
    }
    if (p->length == NULL)
        return 0;
    if (p->length[0] == '\0' || strlen(p->length) > 18)
        return refuse(p, 400, "Content-Length is not a number of 1 to 18 digits");
    for (const char *s = p->length; *s != '\0'; s++) {
        if (*s < '0' || *s > '9')
            return refuse(p, 400, "Content-Length is not a number of 1 to 18 digits");
        n = n * 10 + (*s - '0');
    }
    p->head->length = n;
    return 0;
}

static unsigned parse_meaning(struct parser *p)
{
    struct h1_head *h = p->head;
    unsigned status = parse_length(p);

    if (status != 0)
        return status;
    if (p->host == NULL && h->minor == 1)
        return refuse(p, 400, "no Host field");
    if (p->host != NULL && p->host[0] != '\0' && !authority_ok(p->host))
        return refuse(p, 400, "the Host field is not a host");
    if (p->authority != NULL) {
        /* RFC 9112 3.2.2: the target's host counts, whatever the field says. */
        for (unsigned i = 0; i < h->field_count; i++) {
            if (strcmp(p->fields[i].name, "host") == 0)
                p->fields[i].value = p->authority;
        }
    }
    h->keep_alive = h->minor == 1 && !p->close;
    if (p->expect != NULL) {
        if (strcasecmp(p->expect, "100-continue") != 0)
            return refuse(p, 417, "the only expectation understood is 100-continue");
        h->expect_continue = h->minor == 1 && h->length != 0;
    }
    return 0;
}

unsigned h1_head_parse(char *text, size_t len, struct http_field *fields, unsigned fields_max, struct h1_head *ret,
                       const char **ret_why)
{
    struct parser p = {
        .at = text, .end = text + len, .fields = fields, .fields_max = fields_max, .head = ret, .why = ""};
    unsigned status;

    *ret = (struct h1_head){0};
    while (p.end - p.at >= 2 && p.at[0] == '\r' && p.at[1] == '\n')
        p.at += 2;
    status = parse_request_line(&p);
    while (status == 0) {
        char *end, *line = next_line(&p, &end);

        if (line == NULL)
            status = refuse(&p, 400, "the head does not end with an empty line");
        else if (line == end)
            break;
        else
            status = parse_field(&p, line, end);
    }
    if (status == 0)
        status = parse_meaning(&p);
    *ret_why = p.why;
    return status;
}
