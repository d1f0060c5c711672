/* A silica-server for the tests of the spawner: speaks sp.h on SP_FD and a line protocol on its first listening socket.
 *
 * Commands (one a line):  create TOKEN ID DIGEST[,DIGEST...] [memory=N pids=N disk=N writable=N egress=N flags=N hostname=S]
 *   kill|stat|forget TOKEN ID    layer-rm TOKEN DIGEST    imager TOKEN PATH BYTES ENTRIES    say ID TEXT    drop ID
 *   raw HEX    exit N    mute
 * Events are kept and sent to every connection from the first one on, so a test may connect when it likes. */
#include <ctype.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "wire/sp.h"

enum { BOXES = 4096, CLIENTS = 8, IMAGERS = 32, LOG_MAX = 4 << 20 };

static struct {
    char id[SP_ID_MAX];
    int fd;
} boxes[BOXES];
static struct {
    int fd;
    size_t sent, len;
    char line[8192];
} clients[CLIENTS];
static struct {
    uint64_t token;
    char id[SP_ID_MAX];
} asked[BOXES];
static struct {
    int fd;
    unsigned long long token;
} imagers[IMAGERS];
static char *events;
static size_t events_len;
static uint64_t adopts_due;
static int listen_fd = SP_FD + 1;
static int muted;
static uint64_t buf[(WIRE_DATAGRAM_MAX + 7) / 8];

__attribute__((format(printf, 1, 2))) static void event(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    events_len += (size_t)vsnprintf(events + events_len, LOG_MAX - events_len, fmt, ap);
    va_end(ap);
    events[events_len++] = '\n';
    if (events_len > LOG_MAX - 8192)
        exit(99);
}

static void check(int r, const char *what)
{
    if (r < 0)
        event("SENDERROR %s %s", what, strerror(-r));
}

static void keep(const char *id, int fd)
{
    for (unsigned i = 0; i < BOXES; i++) {
        if (boxes[i].id[0] == '\0') {
            (void)snprintf(boxes[i].id, sizeof boxes[i].id, "%s", id);
            boxes[i].fd = fd;
            return;
        }
    }
    exit(98);
}

static int find(const char *id)
{
    for (unsigned i = 0; i < BOXES; i++) {
        if (strcmp(boxes[i].id, id) == 0 && id[0] != '\0')
            return (int)i;
    }
    return -1;
}

static void lose(const char *id)
{
    int i = find(id);

    if (i >= 0) {
        close(boxes[i].fd);
        boxes[i].id[0] = '\0';
    }
}

static void ready(void)
{
    struct sp_ready r = {0};

    check(wire_send(SP_FD, SP_READY, 0, &r, sizeof r, NULL, NULL, 0), "ready");
}

static int take(struct wire_msg *m)
{
    int fd = m->nfds > 0 ? m->fds[0] : -1;

    if (m->nfds > 0)
        m->fds[0] = -1;
    return fd;
}

static const char *id_of_token(uint64_t token)
{
    for (unsigned i = 0; i < BOXES; i++) {
        if (asked[i].token == token)
            return asked[i].id;
    }
    return "?";
}

static void from_spawner(void)
{
    struct wire_msg m;
    bool bad = false;
    int r = wire_recv(SP_FD, buf, WIRE_DATAGRAM_MAX, sp_body_size, &m);

    if (r <= 0)
        exit(r == 0 ? 0 : 97);
    unsigned long long token = m.head->token;
    switch (m.head->type) {
    case SP_HELLO: {
        const struct sp_hello *h = m.body;
        event("HELLO epoch=%llu adopt=%u slots=%u features=%u resolv=%s", (unsigned long long)h->epoch, h->adopt_count,
              h->slot_count, h->features, wire_get_str(&m, h->host_resolv, &bad));
        adopts_due = h->adopt_count;
        if (adopts_due == 0)
            ready();
        break;
    }
    case SP_ADOPT: {
        const struct sp_adopt *a = m.body;
        const char *id = wire_get_str(&m, a->id, &bad);
        event("ADOPT id=%s pid=%d slot=%u uid_base=%u writable=%u fds=%u", id, a->pid, a->slot, a->uid_base,
              a->writable, m.nfds);
        keep(id, take(&m));
        if (--adopts_due == 0)
            ready();
        break;
    }
    case SP_GONE: {
        const struct sp_gone *g = m.body;
        const char *id = wire_get_str(&m, g->id, &bad);
        event("GONE id=%s status=%d oom=%u cpu=%llu peak=%llu", id, g->status, g->oom_kills,
              (unsigned long long)g->cpu_us, (unsigned long long)g->memory_peak);
        lose(id);
        break;
    }
    case SP_CREATED: {
        const struct sp_created *c = m.body;
        event("CREATED token=%llu pid=%d slot=%u uid_base=%u writable=%u us_layer=%u us_clone=%u us_ready=%u "
              "us_total=%u fds=%u",
              token, c->pid, c->slot, c->uid_base, c->writable, c->us_layer, c->us_clone, c->us_ready, c->us_total,
              m.nfds);
        keep(id_of_token(token), take(&m));
        break;
    }
    case SP_FAILED: {
        const struct sp_failed *f = m.body;
        event("FAILED token=%llu code=%d kind=%u msg=%s", token, f->code, f->kind, wire_get_str(&m, f->msg, &bad));
        break;
    }
    case SP_STATS: {
        const struct sp_stats *s = m.body;
        event("STATS token=%llu memory=%llu max=%llu cpu=%llu pids=%u disk_used=%llu disk_max=%llu", token,
              (unsigned long long)s->memory_now, (unsigned long long)s->memory_max, (unsigned long long)s->cpu_us,
              s->pids_now, (unsigned long long)s->disk_used, (unsigned long long)s->disk_max);
        break;
    }
    case SP_DONE:
        event("DONE token=%llu", token);
        break;
    case SP_IMAGER_UP: {
        const struct sp_created_imager *up = m.body;
        event("IMAGER token=%llu pid=%d", token, up->pid);
        for (unsigned i = 0; i < IMAGERS; i++) {
            if (imagers[i].fd < 0) {
                imagers[i].fd = take(&m);
                imagers[i].token = token;
                break;
            }
        }
        break;
    }
    case SP_STOP: {
        const struct sp_stop *s = m.body;
        event("STOP keep=%u", s->keep);
        if (!muted)
            exit(0);
        break;
    }
    default:
        event("UNKNOWN type=%u", m.head->type);
    }
    wire_msg_fini(&m);
}

static uint64_t option(char *const words[], unsigned n, const char *name)
{
    size_t len = strlen(name);

    for (unsigned i = 0; i < n; i++) {
        if (strncmp(words[i], name, len) == 0 && words[i][len] == '=')
            return strtoull(words[i] + len + 1, NULL, 10);
    }
    return 0;
}

static void create(char *const words[], unsigned n)
{
    struct wire_tail tail = {0};
    struct sp_create c = {
        .memory_max = option(words, n, "memory"),
        .pids_max = option(words, n, "pids"),
        .disk_bytes = option(words, n, "disk"),
        .writable = (uint32_t)option(words, n, "writable"),
        .egress = (uint32_t)option(words, n, "egress"),
        .flags = (uint32_t)option(words, n, "flags"),
        .cpu_quota_us = option(words, n, "quota"),
    };
    const char *layers[SP_LAYERS_MAX + 2] = {0};
    unsigned count = 0;
    char *save = NULL;

    for (unsigned i = 0; i < BOXES; i++) {
        if (asked[i].token == 0) {
            asked[i].token = strtoull(words[1], NULL, 10);
            (void)snprintf(asked[i].id, sizeof asked[i].id, "%s", words[2]);
            break;
        }
    }
    for (char *s = strtok_r(words[3], ",", &save); s != NULL && count <= SP_LAYERS_MAX; s = strtok_r(NULL, ",", &save))
        layers[count++] = s;
    c.id = wire_put_str(&tail, words[2]);
    c.hostname = wire_put_str(&tail, NULL);
    for (unsigned i = 4; i < n; i++) {
        if (strncmp(words[i], "hostname=", 9) == 0)
            c.hostname = wire_put_str(&tail, words[i] + 9);
    }
    c.layers = wire_put_vec(&tail, layers);
    c.dns = wire_put_vec(&tail, NULL);
    check(wire_send(SP_FD, SP_CREATE, strtoull(words[1], NULL, 10), &c, sizeof c, &tail, NULL, 0), "create");
    wire_tail_fini(&tail);
}

static void by_string(uint16_t type, const char *token, const char *s)
{
    struct wire_tail tail = {0};
    struct wire_str str = wire_put_str(&tail, s);

    check(wire_send(SP_FD, type, strtoull(token, NULL, 10), &str, sizeof str, &tail, NULL, 0), "request");
    wire_tail_fini(&tail);
}

static void imager(char *const words[])
{
    struct sp_imager im = {
        .op = SP_IM_LAYER, .max_bytes = strtoull(words[3], NULL, 10), .max_entries = strtoull(words[4], NULL, 10)};
    int fd = open(words[2], O_RDONLY);

    if (fd < 0)
        event("SENDERROR imager %s", words[2]);
    check(wire_send(SP_FD, SP_IMAGER, strtoull(words[1], NULL, 10), &im, sizeof im, NULL, &fd, 1), "imager");
    close(fd);
}

static void say(const char *id, const char *text)
{
    struct pollfd p;
    char answer[4096];
    ssize_t n;
    int i = find(id);

    if (i < 0) {
        event("SAID id=%s no such box", id);
        return;
    }
    if (send(boxes[i].fd, text, strlen(text), MSG_NOSIGNAL) < 0) {
        event("SAID id=%s error", id);
        return;
    }
    p = (struct pollfd){.fd = boxes[i].fd, .events = POLLIN};
    (void)poll(&p, 1, 5000);
    n = recv(boxes[i].fd, answer, sizeof answer - 1, MSG_DONTWAIT);
    answer[n > 0 ? n : 0] = '\0';
    event("SAID id=%s %s", id, n > 0 ? answer : n == 0 ? "eof" : "silence");
}

static void raw(const char *hex)
{
    unsigned char out[4096];
    size_t n = 0;

    for (; isxdigit((unsigned char)hex[0]) && isxdigit((unsigned char)hex[1]) && n < sizeof out; hex += 2) {
        char two[3] = {hex[0], hex[1], '\0'};
        out[n++] = (unsigned char)strtoul(two, NULL, 16);
    }
    (void)!send(SP_FD, out, n, MSG_NOSIGNAL);
}

static void command(char *line)
{
    char *words[32], *save = NULL;
    unsigned n = 0;

    for (char *w = strtok_r(line, " ", &save); w != NULL && n < 32; w = strtok_r(NULL, " ", &save))
        words[n++] = w;
    if (n >= 4 && strcmp(words[0], "create") == 0)
        create(words, n);
    else if (n == 3 && strcmp(words[0], "kill") == 0)
        by_string(SP_KILL, words[1], words[2]);
    else if (n == 3 && strcmp(words[0], "stat") == 0)
        by_string(SP_STAT, words[1], words[2]);
    else if (n == 3 && strcmp(words[0], "forget") == 0)
        by_string(SP_FORGET, words[1], words[2]);
    else if (n == 3 && strcmp(words[0], "layer-rm") == 0)
        by_string(SP_LAYER_RM, words[1], words[2]);
    else if (n == 5 && strcmp(words[0], "imager") == 0)
        imager(words);
    else if (n == 3 && strcmp(words[0], "say") == 0)
        say(words[1], words[2]);
    else if (n == 2 && strcmp(words[0], "raw") == 0)
        raw(words[1]);
    else if (n == 2 && strcmp(words[0], "exit") == 0)
        exit(atoi(words[1]));
    else if (n == 1 && strcmp(words[0], "mute") == 0)
        muted = 1;
    else
        event("BADCOMMAND %s", n > 0 ? words[0] : "");
}

static void from_client(unsigned i)
{
    char *nl;
    ssize_t n = recv(clients[i].fd, clients[i].line + clients[i].len, sizeof clients[i].line - clients[i].len - 1,
                     MSG_DONTWAIT);

    if (n <= 0) {
        close(clients[i].fd);
        clients[i].fd = -1;
        return;
    }
    clients[i].len += (size_t)n;
    clients[i].line[clients[i].len] = '\0';
    while ((nl = strchr(clients[i].line, '\n')) != NULL) {
        *nl = '\0';
        command(clients[i].line);
        clients[i].len -= (size_t)(nl + 1 - clients[i].line);
        memmove(clients[i].line, nl + 1, clients[i].len + 1);
    }
}

static void from_imager(unsigned i)
{
    char text[65536];

    event("RESULT token=%llu bytes=%zd", imagers[i].token, recv(imagers[i].fd, text, sizeof text, MSG_DONTWAIT));
    close(imagers[i].fd);
    imagers[i].fd = -1;
}

static void accept_client(void)
{
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);

    for (unsigned i = 0; fd >= 0 && i < CLIENTS; i++) {
        if (clients[i].fd < 0) {
            clients[i].fd = fd;
            clients[i].sent = clients[i].len = 0;
            return;
        }
    }
    close(fd);
}

int main(int argc, char *argv[])
{
    events = malloc(LOG_MAX);
    for (unsigned i = 0; i < CLIENTS; i++)
        clients[i].fd = -1;
    for (unsigned i = 0; i < IMAGERS; i++)
        imagers[i].fd = -1;
    event("START uid=%u gid=%u nnp=%d ngroups=%d", getuid(), getgid(), prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0),
          getgroups(0, NULL));
    for (int i = 1; i < argc; i++)
        event("ARG %s", argv[i]);
    for (;;) {
        struct pollfd p[2 + CLIENTS + IMAGERS] = {{.fd = SP_FD, .events = POLLIN}, {.fd = listen_fd, .events = POLLIN}};

        for (unsigned i = 0; i < CLIENTS; i++) {
            if (clients[i].fd >= 0 && clients[i].sent < events_len) {
                ssize_t n = send(clients[i].fd, events + clients[i].sent, events_len - clients[i].sent, MSG_NOSIGNAL);
                clients[i].sent += n > 0 ? (size_t)n : 0;
            }
            p[2 + i] = (struct pollfd){.fd = clients[i].fd, .events = POLLIN};
        }
        for (unsigned i = 0; i < IMAGERS; i++)
            p[2 + CLIENTS + i] = (struct pollfd){.fd = imagers[i].fd, .events = POLLIN};
        (void)poll(p, 2 + CLIENTS + IMAGERS, -1);
        for (unsigned i = 0; i < IMAGERS; i++) {
            if (imagers[i].fd >= 0 && p[2 + CLIENTS + i].revents != 0)
                from_imager(i);
        }
        if (p[0].revents != 0)
            from_spawner();
        if (p[1].revents != 0)
            accept_client();
        for (unsigned i = 0; i < CLIENTS; i++) {
            if (clients[i].fd >= 0 && p[2 + i].revents != 0)
                from_client(i);
        }
    }
}
