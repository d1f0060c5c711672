/* deps: base wire; sources: src/spawner/table.c src/spawner/validate.c */
/* The table file of the spawner. */
#include <string.h>

#include "spawner/table.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned sum;

static void each(void *arg, const struct table_rec *rec, const uint8_t (*digests)[TABLE_DIGEST])
{
    (void)arg;
    sum += (unsigned)strlen(rec->id) + (unsigned)strlen(rec->layer_key);
    for (unsigned i = 0; i < rec->layer_count; i++)
        sum += digests[i][0] + digests[i][TABLE_DIGEST - 1];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    (void)table_parse(data, size, "boot", each, NULL);
    return 0;
}
