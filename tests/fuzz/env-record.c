/* deps: base; sources: src/engine/env.c src/engine/env-record.c */
/* Environments read back from records: whatever the bytes say, a set comes back whole or not at all, and merging it
 * works. */
#include <stdint.h>
#include <stdlib.h>

#include "engine/env.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct env_set *s = NULL;
    char **env = NULL;

    if (env_unpack(data, size, &s, NULL) < 0)
        return 0;
    if (env_merge(s, NULL, 0, &env, NULL) == 0)
        free(env);
    env_free(s);
    return 0;
}
