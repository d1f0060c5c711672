/* Identifiers: globally unique, sortable by time (ULID layout: 48 bits of milliseconds, 80 random bits, Crockford's
 * base 32, in lower case), with a short prefix. Safe as file names, host names and URL parts. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

enum { ID_MAX = 40 }; /* bytes including the NUL */

/* Writes "<prefix>-<26 characters>" to OUT. PREFIX is at most 8 characters. */
void id_new(char out[ID_MAX], const char *prefix);
/* True when S (LEN bytes) is PREFIX, a dash and 26 characters of the alphabet. */
bool id_valid(const char *s, size_t len, const char *prefix);
