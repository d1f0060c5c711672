/* silica-imager: unpacks one archive into one layer of the store, and answers.
 *
 *   silica-imager layer --max-bytes N --max-entries N
 *
 * The spawner starts it as root of a user namespace over the store range, in namespaces of its own, with the archive at
 * fd 3, the result socket at fd 4 and the store's directory at fd 5 (wire/im.h, wire/sp.h). */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <openssl/crypto.h>

#include "imager/supervise.h"

enum { INPUT_FD = 3, RESULT_FD, STORE_FD };

static int parse_count(const char *word, uint64_t *ret)
{
    unsigned long long n;
    char *end;

    errno = 0;
    n = strtoull(word, &end, 10);
    if (errno != 0 || *word < '0' || *word > '9' || *end != '\0' || n == 0 || n > INT64_MAX)
        return -EINVAL;
    *ret = n;
    return 0;
}

static int usage(void)
{
    (void)fputs("usage: silica-imager layer --max-bytes N --max-entries N\n"
                "It is started by silicad, with the archive, a socket and the layer store as fds 3, 4 and 5.\n",
                stderr);
    return 2;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"max-bytes", required_argument, NULL, 'b'},
        {"max-entries", required_argument, NULL, 'n'},
        {NULL, 0, NULL, 0},
    };
    struct supervise s = {.input = INPUT_FD, .result = RESULT_FD, .store = STORE_FD};
    int opt;

    while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (opt != 'b' && opt != 'n')
            return usage();
        if (parse_count(optarg, opt == 'b' ? &s.limits.bytes : &s.limits.entries) < 0)
            return usage();
    }
    if (optind != argc - 1 || strcmp(argv[optind], "layer") != 0 || s.limits.bytes == 0 || s.limits.entries == 0)
        return usage();
    for (int fd = INPUT_FD; fd <= STORE_FD; fd++) {
        if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
            return usage();
    }

    /* No umask: modes are the archive's. SIGPIPE: an asker who has left is an error code. No configuration file decides
     * how a digest is computed, and there is none beneath the root this is about to take. */
    (void)umask(0);
    (void)signal(SIGPIPE, SIG_IGN);
    if (OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, NULL) != 1)
        return 1;
    return supervise(&s) < 0 ? 1 : 0;
}
