/* A strict parser for HTTP/1.1 request heads (RFC 9112), working in place. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/http.h"

struct h1_scan {
    size_t at;      /* bytes already looked at */
    unsigned lines; /* line ends seen */
};

/* Looks for the end of a head in LEN bytes, going on where the last call stopped. Returns the length of the head with its
 * empty line, 0 = more bytes are needed, -EBADMSG on a bare CR, a bare LF or a NUL. Empty lines in front of the request
 * are part of the head. */
ssize_t h1_scan(struct h1_scan *s, const uint8_t *data, size_t len);

struct h1_head {
    const char *method, *path, *query;
    unsigned field_count;
    unsigned minor; /* HTTP/1.<minor> */
    int64_t length; /* of the body; 0 = none, -1 = chunked */
    bool keep_alive;
    bool expect_continue;
};

/* Parses a whole head of LEN bytes (as h1_scan found it); TEXT is changed: strings end with NULs and names become lower
 * case, and everything in RET and FIELDS points into it. Returns 0 or the HTTP status to refuse with (400, 417, 431, 501, 505)
 * and a sentence in *RET_WHY. */
unsigned h1_head_parse(char *text, size_t len, struct http_field *fields, unsigned fields_max, struct h1_head *ret,
                       const char **ret_why);
