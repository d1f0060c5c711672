/* The command line of the unprivileged daemon. The spawner is its only caller; people use `silicad`. */
#pragma once

#include "base/log.h"
#include "engine/engine.h"

enum { LISTEN_FDS_MAX = 16 };

struct options {
    int listen_fds[LISTEN_FDS_MAX];
    unsigned listen_count;
    enum log_level log_level;
    struct engine_config engine;
};

/* 0 or a negative errno with a sentence in E. Strings of RET point into ARGV. */
int options_parse(int argc, char **argv, struct options *ret, struct err *e);
