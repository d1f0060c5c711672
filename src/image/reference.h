/* Names of images.
 *
 *   [HOST[:PORT]/]PATH[:TAG][@sha256:DIGEST]
 *
 * The first component is a host when it has a dot or a port or is "localhost". docker.io is what a name without a host
 * means, "library/" what a docker.io name of one component means, ":latest" what no tag means: "python:3.11",
 * "docker.io/python:3.11" and "docker.io/library/python:3.11" are one name, and the shortest form is the one that is kept. Pure. */
#pragma once

#include <stdbool.h>

#include "base/err.h"

enum {
    IMAGE_NAME_MAX = 256, /* with NUL */
    IMAGE_TAG_MAX = 128,
    IMAGE_DIGEST_LEN = 64, /* hex of sha256 */
};

struct image_reference {
    char name[IMAGE_NAME_MAX];         /* "python:3.11": without a digest, always with a tag */
    char digest[IMAGE_DIGEST_LEN + 1]; /* "" = none given */
    bool tagged;                       /* the tag was written out */
};

/* ERR_INVALID with a sentence that says what is wrong. */
int image_reference_parse(const char *text, struct image_reference *ret, struct err *e);
