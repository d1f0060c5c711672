/* Options before the verb, the table of verbs, help. */
#include "cli/cli.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"

#define URL_DEFAULT "http://127.0.0.1:7878"

const struct verb cli_verbs[] = {
    {"run",
     "run [-d] [--rm] [-e NAME=VALUE]... [--tag T]... [--memory SIZE] [--cpu N] [--network nat|none] [-w DIR] [-u "
     "USER]\n"
     "           [--lifetime SECONDS] IMAGE [COMMAND [ARG...]]",
     "start a sandbox and show what its main process prints", verb_run},
    {"exec", "exec [-i] [-t] [-e NAME=VALUE]... SANDBOX COMMAND [ARG...]", "run a command in a sandbox", verb_exec},
    {"ps", "ps [-a]", "list sandboxes", verb_ps},
    {"logs", "logs [-f] [-t] [--tail N] SANDBOX", "show the main process's output", verb_logs},
    {"env", "env SANDBOX", "show every variable and the level that decided it", verb_env},
    {"stop", "stop [--grace SECONDS] SANDBOX...", "end sandboxes", verb_stop},
    {"rm", "rm [-f] SANDBOX...", "forget ended sandboxes and their logs", verb_rm},
    {"image",
     "image build RECIPE [--name NAME] | image import NAME FILE.tar [--config FILE.json] | image list | image rm "
     "NAME...",
     "build, import, list and remove images", verb_image},
    {"version", "version", "show the versions of this program and of the daemon", verb_version},
};
const unsigned cli_verb_count = ARRAY_LEN(cli_verbs);

const struct verb *cli_verb(const char *name)
{
    for (unsigned i = 0; i < cli_verb_count; i++) {
        if (strcmp(cli_verbs[i].name, name) == 0)
            return &cli_verbs[i];
    }
    return NULL;
}

int cli_fail(const struct err *e)
{
    char clean[ERR_MSG_MAX];

    fprintf(stderr, "silica: %s\n", cli_clean(e->msg, clean, sizeof clean));
    return CLI_EXIT_SILICA;
}

int cli_usage(const struct verb *v)
{
    fprintf(stderr, "usage: silica %s\n", v->usage);
    return CLI_EXIT_USAGE;
}

int cli_parse_url(struct cli *c, const char *url, struct err *e)
{
    const char *p = url, *colon, *end;

    if (strncmp(p, "https://", 8) == 0)
        return err_typed(e, ERR_UNIMPLEMENTED, NULL, "%s: https is not built yet", url);
    if (strncmp(p, "http://", 7) == 0)
        p += 7;
    end = p + strcspn(p, "/");
    if (*p == '[') {
        colon = memchr(p, ']', (size_t)(end - p));
        if (colon == NULL || (size_t)(colon - p) > sizeof c->host)
            return err_typed(e, ERR_INVALID, NULL, "'%s' is not a URL", url);
        (void)snprintf(c->host, sizeof c->host, "%.*s", (int)(colon - p - 1), p + 1);
        colon++;
    } else {
        colon = memchr(p, ':', (size_t)(end - p));
        if (colon == NULL)
            colon = end;
        if (colon == p || (size_t)(colon - p) >= sizeof c->host)
            return err_typed(e, ERR_INVALID, NULL, "'%s' is not a URL", url);
        (void)snprintf(c->host, sizeof c->host, "%.*s", (int)(colon - p), p);
    }
    if (colon == end)
        (void)snprintf(c->port, sizeof c->port, "80");
    else if (*colon != ':' || end - colon < 2 || (size_t)(end - colon) > sizeof c->port)
        return err_typed(e, ERR_INVALID, NULL, "'%s' has no valid port", url);
    else
        (void)snprintf(c->port, sizeof c->port, "%.*s", (int)(end - colon - 1), colon + 1);
    if (*end == '/' && end[1] != '\0')
        return err_typed(e, ERR_INVALID, NULL, "'%s': a URL without a path is expected", url);
    return 0;
}

int cli_connect(const struct cli *c, struct err *e)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list, *a;
    int fd = -1, code = 0, one = 1, r;

    r = getaddrinfo(c->host, c->port, &hints, &list);
    if (r != 0)
        return err_typed(e, ERR_UNAVAILABLE, NULL, "%s:%s: %s", c->host, c->port, gai_strerror(r));
    for (a = list; a != NULL && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
        if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) < 0) {
            code = errno;
            fd_close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(list);
    if (fd < 0)
        return err_set(e, code, "cannot reach the daemon at %s:%s: %s (is silicad running? see --url)", c->host,
                       c->port, strerror(code));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* only speed */
    return fd;
}

static void help(FILE *out)
{
    fprintf(out, "usage: silica [--url URL] [--json] COMMAND ...\n\n");
    for (unsigned i = 0; i < cli_verb_count; i++)
        fprintf(out, "  %-8s %s\n", cli_verbs[i].name, cli_verbs[i].summary);
    fprintf(out, "\nThe daemon is at --url, else $SILICA_URL, else " URL_DEFAULT ".\n");
}

int main(int argc, char **argv)
{
    const char *url = getenv("SILICA_URL");
    struct cli c = {0};
    const struct verb *v;
    struct err e;
    int i = 1;

    (void)signal(SIGPIPE, SIG_IGN);
    for (; i < argc && argv[i][0] == '-'; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            c.json = true;
        } else if (strcmp(argv[i], "--url") == 0 && i + 1 < argc) {
            url = argv[++i];
        } else if (strncmp(argv[i], "--url=", 6) == 0) {
            url = argv[i] + 6;
        } else if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            help(stdout);
            return 0;
        } else if (strcmp(argv[i], "--version") == 0) {
            printf("silica %s\n", SILICA_VERSION);
            return 0;
        } else {
            fprintf(stderr, "silica: unknown option '%s'\n", argv[i]);
            return CLI_EXIT_USAGE;
        }
    }
    if (i == argc) {
        help(stderr);
        return CLI_EXIT_USAGE;
    }
    if (cli_parse_url(&c, url != NULL && *url != '\0' ? url : URL_DEFAULT, &e) < 0)
        return cli_fail(&e);
    v = cli_verb(argv[i]);
    if (v == NULL) {
        fprintf(stderr, "silica: there is no command '%s'\n", argv[i]);
        help(stderr);
        return CLI_EXIT_USAGE;
    }
    for (int k = i + 1; k < argc && argv[k][0] == '-'; k++) { /* --json and --help may follow the verb as well */
        if (strcmp(argv[k], "--help") == 0) {
            printf("usage: silica %s\n\n%s\n", v->usage, v->summary);
            return 0;
        }
        if (strcmp(argv[k], "--json") == 0) {
            c.json = true;
            memmove(&argv[k], &argv[k + 1], (size_t)(argc - k) * sizeof *argv);
            argc--;
            k--;
        }
    }
    return v->run(&c, argc - i, argv + i);
}
