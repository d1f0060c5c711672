/* deps: image */
/* Image names and configurations: what is accepted is canonical, parses again to the same, and keeps to its limits. The first
 * byte chooses which. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "image/config.h"
#include "image/reference.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void name(const uint8_t *data, size_t size)
{
    struct image_reference ref, again;
    char *text = strndup((const char *)data, size);
    struct err e = {0};

    assert(text != NULL);
    if (image_reference_parse(text, &ref, &e) == 0) {
        assert(strlen(ref.name) < IMAGE_NAME_MAX && strchr(ref.name, ':') != NULL);
        assert(strspn(ref.name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/:") ==
               strlen(ref.name));
        assert(strstr(ref.name, "..") == NULL || strchr(ref.name, ':') < strstr(ref.name, ".."));
        assert(image_reference_parse(ref.name, &again, &e) == 0 && strcmp(ref.name, again.name) == 0);
    } else {
        assert(e.kind == ERR_INVALID && e.msg[0] != '\0');
    }
    free(text);
}

static void config(const uint8_t *data, size_t size)
{
    struct image_config *c, *again;
    char *json, *same;
    struct err e = {0};

    if (image_config_parse((const char *)data, size, &c, &e) < 0)
        return;
    if (image_config_format(c, &json, &e) == 0) {
        assert(image_config_parse(json, strlen(json), &again, &e) == 0);
        assert(image_config_format(again, &same, &e) == 0 && strcmp(json, same) == 0);
        free(again);
        free(same);
        free(json);
    }
    free(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 0)
        ((data[0] & 1) != 0 ? name : config)(data + 1, size - 1);
    return 0;
}
