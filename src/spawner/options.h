/* The command line of silicad: one table gives the parser and the help. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/log.h"
#include "wire/sp.h"

enum { LISTEN_MAX = 16, OPT_BOXES_MAX = 100000, OPT_CGROUP_MAX = 256 };

struct options {
    const char *listen[LISTEN_MAX]; /* as given; points into argv */
    unsigned listen_count;
    const char *state_dir, *run_dir;
    const char *cgroup; /* relative to the cgroup v2 mount; NULL = where cgroup-v2.c finds it best */
    const char *log_level_word;
    enum log_level log_level;
    enum sp_egress egress;
    bool egress_given;
    bool keep, insecure_listen, version, help;
    uint64_t max_sandboxes;             /* 0 = as many as there are uid slots */
    uint64_t default_disk;              /* bytes */
    uint64_t default_memory;            /* bytes, 0 = unlimited */
    const char *server, *init, *imager; /* other binaries than the ones beside ours; for tests */
    uint64_t resume_fd;                 /* after an upgrade in place: where the old image left its state; 0 = none */
};

/* Fills *OPT (defaults first) from ARGV. 0, or -EINVAL with a sentence for the user in E. Allocates nothing. */
int options_parse(struct options *opt, int argc, char *const argv[], struct err *e);
/* The text of --help, to fd 1. */
void options_help(void);

/* "10G", "512M", "64KiB", "4096": bytes. 0 or -EINVAL. */
int size_parse(const char *word, uint64_t *ret);

struct sockaddr_storage;
/* "127.0.0.1:7878", "[::1]:7878" or "localhost:7878". *RET_LOOPBACK tells whether only this machine can reach it. */
int listen_parse(const char *word, struct sockaddr_storage *ret, unsigned *ret_len, bool *ret_loopback, struct err *e);
