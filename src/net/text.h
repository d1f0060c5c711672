/* Small text forms: UTF-8 made safe, percent decoding, tokens. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* Length of the valid UTF-8 sequence at S (LEN > 0 bytes left), 0 when there is none. */
size_t utf8_len(const char *s, size_t len);
/* Copies SRC to OUT (CAP > 0 bytes with the NUL), bytes that are not UTF-8 as '?', cut at a character boundary. Returns
 * the length. */
size_t utf8_clean(char *out, size_t cap, const char *src);
/* Decodes percent escapes and '+' of LEN bytes into OUT (NUL-terminated). Length, -EINVAL (bad escape, NUL), -EMSGSIZE. */
int query_decode(const char *s, size_t len, char *out, size_t cap);
/* RFC 9110 token characters. */
bool http_tchar(unsigned char ch);
/* True for what a field value may hold: no control characters but tab. */
bool http_value_ok(const char *s);
bool http_name_ok(const char *s);
