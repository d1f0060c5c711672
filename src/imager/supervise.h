/* The half of the imager that parses nothing: it makes the temporary directory, lets a child fill it, gives it its
 * final name and answers. */
#pragma once

#include "base/err.h"
#include "imager/layer.h"

struct supervise {
    int input;  /* the archive */
    int result; /* SOCK_SEQPACKET: one message of wire/im.h; its other end closed = give up */
    int store;  /* O_DIRECTORY of the layers */
    struct layer_limits limits;
};

/* Returns 0 when an answer was sent (also one that says "failed"), a negative errno when nobody wanted it any more. */
int supervise(const struct supervise *s);
