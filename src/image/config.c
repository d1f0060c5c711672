#include "image/config.h"

#include <errno.h>
#include <jansson.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"

#define AUTO_JSON json_auto_t

enum { LISTS = 3, WORDS = 2 };
static const char *const list_keys[LISTS] = {"env", "entrypoint", "cmd"};
static const char *const word_keys[WORDS] = {"workdir", "user"};

/* ---- parsing ------------------------------------------------------------------------------------------------------ */

static int refuse(const char *key, const char *why, struct err *e)
{
    return err_typed(e, ERR_INVALID, NULL, "the image's configuration: %s %s", key, why);
}

static int check_keys(const json_t *root, struct err *e)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)root, key, value)
    {
        bool known = false;

        for (int i = 0; i < LISTS; i++)
            known |= strcmp(key, list_keys[i]) == 0;
        for (int i = 0; i < WORDS; i++)
            known |= strcmp(key, word_keys[i]) == 0;
        if (!known)
            return err_typed(e, ERR_INVALID, NULL,
                             "the image's configuration has '%.40s'; known are env, entrypoint, cmd, workdir and user",
                             key);
    }
    return 0;
}

/* Adds the room that ROOT needs to *COUNT pointers and *BYTES of text. */
static int measure(const json_t *root, size_t *count, size_t *bytes, struct err *e)
{
    for (int i = 0; i < LISTS; i++) {
        const json_t *list = json_object_get(root, list_keys[i]), *item;
        size_t at;

        if (list == NULL || json_is_null(list))
            continue;
        if (!json_is_array(list))
            return refuse(list_keys[i], "must be a list of strings", e);
        if (json_array_size(list) > IMAGE_STRINGS_MAX)
            return err_typed(e, ERR_EXHAUSTED, NULL, "the image's configuration: %s has more than %d entries",
                             list_keys[i], IMAGE_STRINGS_MAX);
        json_array_foreach(list, at, item)
        {
            if (!json_is_string(item))
                return refuse(list_keys[i], "must be a list of strings", e);
            *bytes += json_string_length(item) + 1;
        }
        *count += json_array_size(list) + 1;
    }
    for (int i = 0; i < WORDS; i++) {
        const json_t *word = json_object_get(root, word_keys[i]);

        if (word == NULL || json_is_null(word))
            continue;
        if (!json_is_string(word))
            return refuse(word_keys[i], "must be a string", e);
        *bytes += json_string_length(word) + 1;
    }
    return 0;
}

static const char *put_text(const json_t *s, char **at)
{
    char *start = *at;
    size_t len = json_string_length(s) + 1;

    memcpy(start, json_string_value(s), len);
    *at += len;
    return start;
}

static const char *const *put_list(const json_t *root, const char *key, const char ***slots, char **at)
{
    const json_t *list = json_object_get(root, key), *item;
    const char **start = *slots;
    size_t i;

    if (json_array_size(list) == 0) /* 0 for what is not a list, too */
        return NULL;
    json_array_foreach(list, i, item) * (*slots)++ = put_text(item, at);
    *(*slots)++ = NULL;
    return start;
}

static const char *put_word(const json_t *root, const char *key, char **at)
{
    const json_t *word = json_object_get(root, key);

    return json_string_length(word) == 0 ? NULL : put_text(word, at); /* 0 for what is not a string, too */
}

int image_config_parse(const char *json, size_t len, struct image_config **ret, struct err *e)
{
    AUTO_JSON *root = NULL;
    size_t count = 0, bytes = 0;
    struct image_config *c;
    const char **slots;
    json_error_t why;
    char *at;
    int r;

    if (len > IMAGE_CONFIG_BYTES_MAX)
        return err_typed(e, ERR_EXHAUSTED, NULL, "the image's configuration is larger than %d bytes",
                         IMAGE_CONFIG_BYTES_MAX);
    root = json_loadb(json, len, JSON_REJECT_DUPLICATES, &why); /* refuses NUL in strings */
    if (!json_is_object(root))
        return err_typed(e, ERR_INVALID, NULL, "the image's configuration is not a JSON object%s%.200s",
                         root == NULL ? ": " : "", root == NULL ? why.text : "");
    r = check_keys(root, e);
    if (r == 0)
        r = measure(root, &count, &bytes, e);
    if (r < 0)
        return r;

    c = malloc(sizeof *c + count * sizeof(char *) + bytes);
    if (c == NULL)
        return err_set(e, ENOMEM, "%m");
    slots = (const char **)(c + 1);
    at = (char *)(slots + count);
    *c = (struct image_config){
        .env = put_list(root, "env", &slots, &at),
        .entrypoint = put_list(root, "entrypoint", &slots, &at),
        .cmd = put_list(root, "cmd", &slots, &at),
        .workdir = put_word(root, "workdir", &at),
        .user = put_word(root, "user", &at),
    };
    *ret = c;
    return 0;
}

/* ---- formatting ---------------------------------------------------------------------------------------------------- */

static int list_json(const char *key, const char *const *list, json_t **ret, struct err *e)
{
    AUTO_JSON *array = json_array();

    for (size_t i = 0; list != NULL && list[i] != NULL; i++) {
        json_t *s = json_string(list[i]);

        if (s == NULL)
            return refuse(key, "has text that is not UTF-8", e);
        if (i == IMAGE_STRINGS_MAX) {
            json_decref(s);
            return err_typed(e, ERR_EXHAUSTED, NULL, "the image's configuration: %s has more than %d entries", key,
                             IMAGE_STRINGS_MAX);
        }
        if (json_array_append_new(array, s) < 0)
            return err_set(e, ENOMEM, "%m");
    }
    if (array == NULL)
        return err_set(e, ENOMEM, "%m");
    *ret = take_ptr(array);
    return 0;
}

static int check_meaning(const struct image_config *c, struct err *e)
{
    for (size_t i = 0; c->env != NULL && c->env[i] != NULL; i++) {
        if (c->env[i][0] == '=' || strchr(c->env[i], '=') == NULL)
            return refuse("env", "must be a list of NAME=value", e);
    }
    if (c->workdir != NULL && c->workdir[0] != '\0' && c->workdir[0] != '/')
        return refuse("workdir", "must be an absolute path", e);
    return 0;
}

int image_config_format(const struct image_config *c, char **ret, struct err *e)
{
    const char *const *const lists[LISTS] = {c->env, c->entrypoint, c->cmd};
    const char *const words[WORDS] = {c->workdir, c->user};
    AUTO_JSON *root = json_object();
    char *text;
    int r;

    r = check_meaning(c, e);
    for (int i = 0; r == 0 && i < LISTS; i++) {
        json_t *list = NULL;

        r = list_json(list_keys[i], lists[i], &list, e);
        if (r == 0 && json_object_set_new(root, list_keys[i], list) < 0)
            r = err_set(e, ENOMEM, "%m");
    }
    for (int i = 0; r == 0 && i < WORDS; i++) {
        json_t *word = json_string(words[i] != NULL ? words[i] : "");

        if (word == NULL)
            r = refuse(word_keys[i], "has text that is not UTF-8", e);
        else if (json_object_set_new(root, word_keys[i], word) < 0)
            r = err_set(e, ENOMEM, "%m");
    }
    if (r < 0)
        return r;
    text = json_dumps(root, JSON_COMPACT | JSON_SORT_KEYS);
    if (text == NULL)
        return err_set(e, ENOMEM, "%m");
    if (strlen(text) > IMAGE_CONFIG_BYTES_MAX) {
        free(text);
        return err_typed(e, ERR_EXHAUSTED, NULL, "the image's configuration is larger than %d bytes",
                         IMAGE_CONFIG_BYTES_MAX);
    }
    *ret = text;
    return 0;
}

int image_digest(const char *const *layers, const char *config_json, char out[IMAGE_DIGEST_LEN + 1], struct err *e)
{
    AUTO_JSON *root = json_object(), *list = json_array(), *config = json_loads(config_json, 0, NULL);
    AUTO_FREE char *text = NULL;
    uint8_t sum[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    bool ok = config != NULL;

    for (size_t i = 0; layers[i] != NULL; i++)
        ok = ok && json_array_append_new(list, json_string(layers[i])) == 0;
    ok = ok && json_object_set(root, "layers", list) == 0 && json_object_set(root, "config", config) == 0;
    if (ok)
        text = json_dumps(root, JSON_COMPACT | JSON_SORT_KEYS);
    if (text == NULL || EVP_Digest(text, strlen(text), sum, &len, EVP_sha256(), NULL) != 1 ||
        len * 2 != IMAGE_DIGEST_LEN)
        return err_set(e, ENOMEM, "cannot compute the image's digest: %m");
    for (unsigned i = 0; i < len; i++)
        (void)snprintf(out + 2 * i, 3, "%02x", sum[i]);
    return 0;
}
