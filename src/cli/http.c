/* A plain HTTP/1.1 client for the admin API: one request a connection, the reply is JSON. */
#include "cli/cli.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"

enum { REPLY_MAX = 64 << 20, PIECE = 256 << 10 };

int cli_query_escape(const char *s, char *out, size_t cap)
{
    size_t n = 0;

    for (; *s != '\0'; s++) {
        if (n + 4 > cap)
            return -EMSGSIZE;
        if (isalnum((unsigned char)*s) || strchr("-._~/:", *s) != NULL)
            out[n++] = *s;
        else
            n += (size_t)snprintf(out + n, cap - n, "%%%02X", (unsigned char)*s);
    }
    out[n] = '\0';
    return 0;
}

static int send_all(int fd, const void *data, size_t len)
{
    const char *p = data;

    while (len > 0) {
        ssize_t n = send(fd, p, len, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

/* The body of a file in chunks (RFC 9112 section 7.1). A daemon that answers early closes its side: that is no failure
 * here, its reply says why. */
static int send_file(int fd, int body_fd, struct err *e)
{
    AUTO_FREE char *piece = malloc(PIECE);
    bool tty = isatty(STDERR_FILENO);
    uint64_t total = 0;
    char head[32];

    if (piece == NULL)
        return err_set(e, ENOMEM, "%m");
    for (;;) {
        ssize_t n = read(body_fd, piece, PIECE);
        int len;

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(e, errno, "reading the file: %m");
        len = snprintf(head, sizeof head, "%zx\r\n", (size_t)n);
        if (send_all(fd, head, (size_t)len) < 0 || send_all(fd, piece, (size_t)n) < 0 || send_all(fd, "\r\n", 2) < 0 ||
            n == 0)
            break;
        total += (uint64_t)n;
        if (tty)
            fprintf(stderr, "\r%llu MiB sent", (unsigned long long)(total >> 20));
    }
    if (tty)
        fprintf(stderr, "\r\033[K");
    return 0;
}

static int read_reply(int fd, struct buf *b, struct err *e)
{
    for (;;) {
        ssize_t n;

        if (buf_reserve(b, 64 << 10) < 0)
            return err_typed(e, ERR_EXHAUSTED, NULL, "the daemon's reply is too large");
        n = recv(fd, b->data + b->len, 64 << 10, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(e, errno, "reading the daemon's reply: %m");
        if (n == 0)
            return 0;
        b->len += (size_t)n;
    }
}

static int unchunk(char *body, size_t *len)
{
    size_t in = 0, out = 0;

    for (;;) {
        char *end;
        unsigned long n;

        if (in >= *len)
            return -EBADMSG;
        n = strtoul(body + in, &end, 16);
        end = memchr(end, '\n', (size_t)(body + *len - end));
        if (end == NULL)
            return -EBADMSG;
        in = (size_t)(end + 1 - body);
        if (n == 0)
            break;
        if (n > *len - in)
            return -EBADMSG;
        memmove(body + out, body + in, n);
        out += n;
        in += n + 2;
    }
    *len = out;
    return 0;
}

/* Status and JSON of a whole reply. */
static int parse_reply(struct buf *b, json_t **ret, struct err *e)
{
    json_error_t why;
    const char *message;
    char *body;
    size_t len;
    int status;

    if (buf_append(b, "", 1) < 0)
        return err_set(e, ENOMEM, "%m");
    b->len--;
    body = strstr((char *)b->data, "\r\n\r\n");
    if (body == NULL || sscanf((char *)b->data, "HTTP/1.%*d %d", &status) != 1)
        return err_typed(e, ERR_UNAVAILABLE, NULL,
                         b->len == 0 ? "the daemon closed the connection without an answer"
                                     : "what answers there does not speak HTTP");
    *body = '\0';
    body += 4;
    len = b->len - (size_t)(body - (char *)b->data);
    if (strcasestr((char *)b->data, "\r\ntransfer-encoding: chunked") != NULL && unchunk(body, &len) < 0)
        return err_typed(e, ERR_UNAVAILABLE, NULL, "the daemon's reply was cut");
    *ret = json_loadb(body, len, JSON_DECODE_ANY, &why);
    if (status >= 200 && status < 300 && *ret != NULL)
        return 0;
    message = json_string_value(json_object_get(json_object_get(*ret, "error"), "message"));
    (void)err_typed(e, ERR_INTERNAL, NULL, "%s",
                    message != NULL ? message : "the daemon's answer makes no sense (is this a Silica daemon?)");
    json_decref(*ret);
    *ret = NULL;
    return e->code;
}

int cli_http(const struct cli *c, const char *method, const char *path, const char *body, int body_fd, json_t **ret,
             struct err *e)
{
    AUTO_FD fd = cli_connect(c, e);
    struct buf b;
    char length[64];
    int r;

    if (fd < 0)
        return fd;
    buf_init(&b, REPLY_MAX);
    if (body_fd >= 0)
        (void)snprintf(length, sizeof length, "Transfer-Encoding: chunked\r\n");
    else if (body != NULL)
        (void)snprintf(length, sizeof length, "Content-Length: %zu\r\n", strlen(body));
    else
        length[0] = '\0';
    r = buf_printf(&b, "%s %s HTTP/1.1\r\nHost: %s%s%s\r\nConnection: close\r\n%s\r\n%s", method, path,
                   strchr(c->host, ':') != NULL ? "[" : "", c->host, strchr(c->host, ':') != NULL ? "]" : "", length,
                   body != NULL && body_fd < 0 ? body : "");
    if (r == 0)
        r = send_all(fd, b.data, b.len);
    if (r < 0)
        (void)err_set(e, r, "sending to the daemon: %m");
    else if (body_fd >= 0)
        r = send_file(fd, body_fd, e);
    b.len = 0;
    if (r == 0)
        r = read_reply(fd, &b, e);
    if (r == 0)
        r = parse_reply(&b, ret, e);
    buf_fini(&b);
    return r;
}
