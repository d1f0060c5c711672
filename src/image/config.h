/* The configuration of an image as JSON and as struct image_config, and the digest that names both it and its layers. */
#pragma once

#include <stddef.h>

#include "base/err.h"
#include "engine/engine.h"
#include "image/reference.h"

enum {
    IMAGE_CONFIG_BYTES_MAX = 1 << 20, /* of its JSON */
    IMAGE_STRINGS_MAX = 4096,         /* in one list */
    IMAGE_LAYERS_MAX = 128,
};

/* Parses {"env": [], "entrypoint": [], "cmd": [], "workdir": "", "user": ""}; missing, null and empty mean "none". *RET is
 * one allocation (free() it). ERR_INVALID for anything else. */
int image_config_parse(const char *json, size_t len, struct image_config **ret, struct err *e);
/* Its canonical JSON: every key, sorted, no spaces. *RET is the caller's to free. ERR_INVALID for text that is not UTF-8, an env
 * entry without a name, a workdir that is not absolute, and ERR_EXHAUSTED above the limits. */
int image_config_format(const struct image_config *c, char **ret, struct err *e);
/* sha256 over the canonical JSON of LAYERS (digests, NULL-terminated) and CONFIG_JSON (of image_config_format). */
int image_digest(const char *const *layers, const char *config_json, char out[IMAGE_DIGEST_LEN + 1], struct err *e);
