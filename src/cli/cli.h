/* `silica`: the command line. One process, one command, blocking calls.
 *
 * Exit codes follow docker's: 0 fine, 1 the command failed, 125 silica itself failed before anything ran, 126/127 the
 * program in the sandbox could not be started, else the program's own code. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"

enum { CLI_EXIT_FAILED = 1, CLI_EXIT_USAGE = 125, CLI_EXIT_SILICA = 125 };

struct cli {
    char host[256];
    char port[8];
    bool json; /* --json */
};

struct verb {
    const char *name, *usage, *summary;
    int (*run)(const struct cli *c, int argc, char **argv); /* argv[0] is the verb; returns the exit code */
};

/* "http://host:port" into C. */
int cli_parse_url(struct cli *c, const char *url, struct err *e);
/* Prints "silica: ..." and returns CLI_EXIT_SILICA. */
int cli_fail(const struct err *e);
int cli_usage(const struct verb *v);
const struct verb *cli_verb(const char *name);
extern const struct verb cli_verbs[];
extern const unsigned cli_verb_count;

/* A connected TCP socket, blocking, or a negative errno with the address in E. */
int cli_connect(const struct cli *c, struct err *e);

/* ---- http.c: the admin API ------------------------------------------------------------------------------------- */

/* One request. BODY_FD >= 0: the body is streamed from there (chunked); else BODY (may be NULL). PROGRESS: bytes sent so far on
 * a terminal. On success *RET is the reply's JSON (caller: json_decref). A reply that is an error becomes E. */
int cli_http(const struct cli *c, const char *method, const char *path, const char *body, int body_fd, json_t **ret,
             struct err *e);
/* Percent-encodes S into OUT for a query value. */
int cli_query_escape(const char *s, char *out, size_t cap);

/* ---- output ------------------------------------------------------------------------------------------------------ */

/* Prints J as one line of JSON. */
void cli_print_json(const json_t *j);
/* "2 minutes ago" from an RFC 3339 time; "-" when absent. */
void cli_age(const json_t *time, char out[32]);
void cli_size(uint64_t bytes, char out[16]);
/* S with control characters shown as '?': names come from outside. */
const char *cli_clean(const char *s, char *out, size_t cap);
/* "512Mi", "1.5G", "1024": bytes. */
int cli_parse_size(const char *text, uint64_t *ret, struct err *e);

/* ---- verbs ----------------------------------------------------------------------------------------------------- */
int verb_run(const struct cli *c, int argc, char **argv);
int verb_exec(const struct cli *c, int argc, char **argv);
int verb_logs(const struct cli *c, int argc, char **argv);
int verb_ps(const struct cli *c, int argc, char **argv);
int verb_env(const struct cli *c, int argc, char **argv);
int verb_stop(const struct cli *c, int argc, char **argv);
int verb_rm(const struct cli *c, int argc, char **argv);
int verb_image(const struct cli *c, int argc, char **argv);
int verb_version(const struct cli *c, int argc, char **argv);
