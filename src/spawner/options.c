#include "spawner/options.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"

struct option_def {
    const char *name, *value; /* value: NULL for a switch */
    const char *help;
    int (*set)(struct options *opt, const char *value, struct err *e);
};

static int set_listen(struct options *opt, const char *value, struct err *e)
{
    struct sockaddr_storage addr;
    unsigned len;
    bool loopback;

    if (opt->listen_count == LISTEN_MAX)
        return err_typed(e, ERR_INVALID, NULL, "--listen can be given %d times at most", LISTEN_MAX);
    if (listen_parse(value, &addr, &len, &loopback, e) < 0)
        return e->code;
    opt->listen[opt->listen_count++] = value;
    return 0;
}

static int set_dir(const char **ret, const char *name, const char *value, struct err *e)
{
    if (value[0] != '/')
        return err_typed(e, ERR_INVALID, NULL, "%s needs an absolute path, not '%s'", name, value);
    *ret = value;
    return 0;
}

static int set_state_dir(struct options *opt, const char *value, struct err *e)
{
    return set_dir(&opt->state_dir, "--state-dir", value, e);
}

static int set_run_dir(struct options *opt, const char *value, struct err *e)
{
    return set_dir(&opt->run_dir, "--run-dir", value, e);
}

static int set_log_level(struct options *opt, const char *value, struct err *e)
{
    if (log_level_parse(value, &opt->log_level) < 0)
        return err_typed(e, ERR_INVALID, NULL, "--log-level is one of debug, info, warn, error, not '%s'", value);
    opt->log_level_word = value;
    return 0;
}

static int set_egress(struct options *opt, const char *value, struct err *e)
{
    static const char *const names[SP_E_COUNT] = {[SP_E_NONE] = "none", [SP_E_NAT] = "nat"};

    for (unsigned i = 0; i < SP_E_COUNT; i++) {
        if (strcmp(value, names[i]) == 0) {
            opt->egress = (enum sp_egress)i;
            opt->egress_given = true;
            return 0;
        }
    }
    return err_typed(e, ERR_INVALID, NULL, "--egress is one of nat, none, not '%s'", value);
}

static int set_cgroup(struct options *opt, const char *value, struct err *e)
{
    const char *path = value + strspn(value, "/");

    if (path[0] == '\0' || strlen(path) >= OPT_CGROUP_MAX || strstr(path, "..") != NULL)
        return err_typed(e, ERR_INVALID, NULL,
                         "--cgroup needs the name of a control group, such as silica.slice/silica-sandboxes.service, "
                         "not '%.80s'",
                         value);
    opt->cgroup = path;
    return 0;
}

static int set_number(uint64_t *ret, uint64_t min, uint64_t max, const char *name, const char *value, struct err *e)
{
    char *end;
    unsigned long long n;

    errno = 0;
    n = strtoull(value, &end, 10);
    if (value[0] < '0' || value[0] > '9' || *end != '\0' || errno != 0 || n < min || n > max)
        return err_typed(e, ERR_INVALID, NULL, "%s needs a number from %llu to %llu, not '%s'", name,
                         (unsigned long long)min, (unsigned long long)max, value);
    *ret = n;
    return 0;
}

static int set_max_sandboxes(struct options *opt, const char *value, struct err *e)
{
    return set_number(&opt->max_sandboxes, 1, OPT_BOXES_MAX, "--max-sandboxes", value, e);
}

static int set_size(uint64_t *ret, const char *name, const char *value, struct err *e)
{
    if (size_parse(value, ret) < 0 || *ret < 1 << 20 || *ret > 1ull << 50)
        return err_typed(e, ERR_INVALID, NULL, "%s needs a size from 1M to 1P, such as 512M or 10G, not '%s'", name,
                         value);
    return 0;
}

static int set_default_disk(struct options *opt, const char *value, struct err *e)
{
    return set_size(&opt->default_disk, "--default-disk", value, e);
}

static int set_default_memory(struct options *opt, const char *value, struct err *e)
{
    return set_size(&opt->default_memory, "--default-memory", value, e);
}

static int set_keep(struct options *opt, const char *value, struct err *e)
{
    (void)value;
    (void)e;
    opt->keep = true;
    return 0;
}

static int set_insecure_listen(struct options *opt, const char *value, struct err *e)
{
    (void)value;
    (void)e;
    opt->insecure_listen = true;
    return 0;
}

static int set_version(struct options *opt, const char *value, struct err *e)
{
    (void)value;
    (void)e;
    opt->version = true;
    return 0;
}

static int set_help(struct options *opt, const char *value, struct err *e)
{
    (void)value;
    (void)e;
    opt->help = true;
    return 0;
}

static int set_server(struct options *opt, const char *value, struct err *e)
{
    return set_dir(&opt->server, "--server", value, e);
}

static int set_init(struct options *opt, const char *value, struct err *e)
{
    return set_dir(&opt->init, "--init", value, e);
}

static int set_imager(struct options *opt, const char *value, struct err *e)
{
    return set_dir(&opt->imager, "--imager", value, e);
}

static int set_resume_fd(struct options *opt, const char *value, struct err *e)
{
    return set_number(&opt->resume_fd, 3, 1 << 20, "--resume-fd", value, e);
}

static int refuse_unbuilt(struct options *opt, const char *value, struct err *e)
{
    (void)opt;
    (void)value;
    return err_typed(e, ERR_UNIMPLEMENTED, NULL, "this release of silicad has no support for it");
}

static const struct option_def defs[] = {
    {"listen", "ADDR:PORT", "serve here; may be given several times (default 127.0.0.1:7878)", set_listen},
    {"state-dir", "DIR", "images, records and logs (default /var/lib/silica)", set_state_dir},
    {"run-dir", "DIR", "sockets and the table of live sandboxes (default /run/silica)", set_run_dir},
    {"cgroup", "PATH", "make the sandboxes' control groups below this one of cgroup v2, which nobody else may use",
     set_cgroup},
    {"egress", "nat|none", "how sandboxes reach the network unless they ask otherwise (default nat, where it works)",
     set_egress},
    {"max-sandboxes", "N", "most sandboxes at a time (default: as many as there are uid ranges)", set_max_sandboxes},
    {"default-disk", "SIZE", "writable disk of a sandbox that asks for none (default 10G)", set_default_disk},
    {"default-memory", "SIZE", "memory of a sandbox that asks for none (default 2G)", set_default_memory},
    {"keep", NULL, "on SIGTERM leave the sandboxes running; the next silicad takes them over", set_keep},
    {"insecure-listen", NULL,
     "allow --listen on an address that other machines can reach although nobody has to "
     "prove who they are",
     set_insecure_listen},
    {"log-level", "LEVEL", "debug, info, warn or error (default info)", set_log_level},
    {"docker-socket", "PATH", "not in this release", refuse_unbuilt},
    {"api-key-file", "FILE", "not in this release", refuse_unbuilt},
    {"tls-cert", "FILE", "not in this release", refuse_unbuilt},
    {"tls-key", "FILE", "not in this release", refuse_unbuilt},
    {"config", "FILE", "not in this release", refuse_unbuilt},
    {"server", "PATH", "for tests: another silica-server", set_server},
    {"init", "PATH", "for tests: another silica-init", set_init},
    {"imager", "PATH", "for tests: another silica-imager", set_imager},
    {"resume-fd", "N", "used by silicad itself when it upgrades in place", set_resume_fd},
    {"version", NULL, "print the version and exit", set_version},
    {"help", NULL, "print this text and exit", set_help},
};

static const struct option_def *find(const char *name, size_t len)
{
    for (unsigned i = 0; i < ARRAY_LEN(defs); i++) {
        if (strlen(defs[i].name) == len && memcmp(defs[i].name, name, len) == 0)
            return &defs[i];
    }
    return NULL;
}

static int parse_one(struct options *opt, int argc, char *const argv[], int *at, struct err *e)
{
    const char *word = argv[*at], *eq, *value = NULL;
    const struct option_def *def;
    size_t len;

    if (strncmp(word, "--", 2) != 0 || word[2] == '\0')
        return err_typed(e, ERR_INVALID, NULL, "'%s' is not an option; see silicad --help", word);
    eq = strchr(word, '=');
    len = eq != NULL ? (size_t)(eq - word) - 2 : strlen(word) - 2;
    def = find(word + 2, len);
    if (def == NULL)
        return err_typed(e, ERR_INVALID, NULL, "there is no option '%.*s'; see silicad --help", (int)(len + 2), word);
    if (def->value == NULL && eq != NULL)
        return err_typed(e, ERR_INVALID, NULL, "--%s takes no value", def->name);
    if (def->value != NULL) {
        if (eq != NULL)
            value = eq + 1;
        else if (*at + 1 < argc)
            value = argv[++*at];
        if (value == NULL || value[0] == '\0')
            return err_typed(e, ERR_INVALID, NULL, "--%s needs a value: %s", def->name, def->value);
    }
    if (def->set(opt, value, e) < 0) {
        if (def->set == refuse_unbuilt)
            return err_ctx(e, "--%s", def->name);
        return e->code;
    }
    return 0;
}

int options_parse(struct options *opt, int argc, char *const argv[], struct err *e)
{
    *opt = (struct options){
        .state_dir = "/var/lib/silica",
        .run_dir = "/run/silica",
        .log_level_word = "info",
        .log_level = LOG_L_INFO,
        .egress = SP_E_NAT,
        .default_disk = 10ull << 30,
    };
    for (int i = 1; i < argc; i++) {
        if (parse_one(opt, argc, argv, &i, e) < 0)
            return e->code;
    }
    if (opt->listen_count == 0)
        opt->listen[opt->listen_count++] = "127.0.0.1:7878";
    return 0;
}

void options_help(void)
{
    (void)printf("Usage: silicad [OPTION]...\n"
                 "Starts isolated sandboxes on this machine and serves them over the network.\n\n");
    for (unsigned i = 0; i < ARRAY_LEN(defs); i++) {
        char left[64];

        (void)snprintf(left, sizeof left, "--%s%s%s", defs[i].name, defs[i].value != NULL ? " " : "",
                       defs[i].value != NULL ? defs[i].value : "");
        (void)printf("  %-24s %s\n", left, defs[i].help);
    }
    (void)printf(
        "\nSIGTERM ends everything (with --keep: all but the sandboxes), SIGUSR1 all but the sandboxes. SIGUSR2 "
        "replaces\nthe running program by the one now on disk, without touching the sandboxes.\n");
}

int size_parse(const char *word, uint64_t *ret)
{
    static const char units[] = "KMGTP";
    const char *unit;
    char *end;
    unsigned long long n;

    errno = 0;
    n = strtoull(word, &end, 10);
    if (word[0] < '0' || word[0] > '9' || errno != 0)
        return -EINVAL;
    if (*end != '\0') {
        unsigned shift;

        unit = strchr(units, *end);
        if (unit == NULL)
            return -EINVAL;
        shift = 10 * (unsigned)(unit - units + 1);
        if (end[1] != '\0' && strcmp(end + 1, "iB") != 0 && strcmp(end + 1, "i") != 0)
            return -EINVAL;
        if (n > UINT64_MAX >> shift)
            return -EINVAL;
        n <<= shift;
    }
    *ret = n;
    return 0;
}

static int bad_listen(const char *word, struct err *e)
{
    return err_typed(e, ERR_INVALID, NULL,
                     "--listen needs a numeric address and a port, such as 127.0.0.1:7878 or [::1]:7878, not '%s'",
                     word);
}

int listen_parse(const char *word, struct sockaddr_storage *ret, unsigned *ret_len, bool *ret_loopback, struct err *e)
{
    const char *colon = strrchr(word, ':');
    char host[64];
    uint64_t port;
    size_t len;

    if (colon == NULL || (size_t)(colon - word) >= sizeof host ||
        set_number(&port, 0, 65535, "port", colon + 1, NULL) < 0)
        return bad_listen(word, e);
    len = (size_t)(colon - word);
    memcpy(host, word, len);
    host[len] = '\0';
    memset(ret, 0, sizeof *ret);
    if (host[0] == '[' && len > 2 && host[len - 1] == ']') {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ret;

        host[len - 1] = '\0';
        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons((uint16_t)port);
        if (inet_pton(AF_INET6, host + 1, &in6->sin6_addr) != 1)
            return bad_listen(word, e);
        *ret_loopback = IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
        *ret_len = sizeof *in6;
    } else {
        struct sockaddr_in *in4 = (struct sockaddr_in *)ret;

        in4->sin_family = AF_INET;
        in4->sin_port = htons((uint16_t)port);
        if (inet_pton(AF_INET, strcmp(host, "localhost") == 0 ? "127.0.0.1" : host, &in4->sin_addr) != 1)
            return bad_listen(word, e);
        *ret_loopback = (ntohl(in4->sin_addr.s_addr) >> 24) == 127;
        *ret_len = sizeof *in4;
    }
    return 0;
}
