/* deps: net */
/* The head parser: any bytes; what is accepted must be consistent, however it is cut. */
#include <stdlib.h>
#include <string.h>

#include "net/h1-head.h"
#include "net/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FIELDS = 64 };

static void check(const struct h1_head *h, const struct http_field *fields)
{
    if (h->method[0] == '\0' || (h->path[0] != '/' && h->path[0] != '*') || h->length < -1 || h->minor > 1)
        abort();
    for (unsigned i = 0; i < h->field_count; i++) {
        if (!http_name_ok(fields[i].name) || !http_value_ok(fields[i].value))
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct h1_scan whole = {0}, cut = {0};
    ssize_t len = h1_scan(&whole, data, size), again = 0;
    struct http_field fields[FIELDS];
    struct h1_head head;
    const char *why;
    char *text;

    for (size_t n = 1; n <= size && again == 0; n++)
        again = h1_scan(&cut, data, n);
    if (again != len)
        abort();
    if (len <= 0)
        return 0;
    text = malloc((size_t)len);
    if (text == NULL)
        return 0;
    memcpy(text, data, (size_t)len);
    if (h1_head_parse(text, (size_t)len, fields, FIELDS, &head, &why) == 0)
        check(&head, fields);
    else if (why[0] == '\0')
        abort(); /* a refusal says why */
    free(text);
    return 0;
}
