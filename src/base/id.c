#include "base/id.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

static const char alphabet[] = "0123456789abcdefghjkmnpqrstvwxyz";

void id_new(char out[ID_MAX], const char *prefix)
{
    struct timespec ts;
    uint8_t rnd[10];
    uint64_t ms;
    char text[27];

    (void)clock_gettime(CLOCK_REALTIME, &ts);
    ms = (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
    if (getrandom(rnd, sizeof rnd, 0) != (ssize_t)sizeof rnd)
        abort(); /* cannot happen once the pool is seeded; a guessable id must never be handed out */

    for (int i = 9; i >= 0; i--, ms >>= 5)
        text[i] = alphabet[ms & 31];
    for (int half = 0; half < 2; half++) {
        uint64_t v = 0;

        for (int i = 0; i < 5; i++)
            v = v << 8 | rnd[half * 5 + i];
        for (int i = 7; i >= 0; i--, v >>= 5)
            text[10 + half * 8 + i] = alphabet[v & 31];
    }
    text[26] = '\0';
    (void)snprintf(out, ID_MAX, "%.8s-%s", prefix, text);
}

bool id_valid(const char *s, size_t len, const char *prefix)
{
    size_t p = strlen(prefix);

    if (len != p + 27 || memcmp(s, prefix, p) != 0 || s[p] != '-')
        return false;
    for (size_t i = p + 1; i < len; i++) {
        if (s[i] == '\0' || strchr(alphabet, s[i]) == NULL)
            return false;
    }
    return true;
}
