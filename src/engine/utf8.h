/* Where UTF-8 may be cut (RFC 3629). Pure. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Bytes at the end of DATA that begin a character which LEN cuts off: 0 to 3. What can never become a character counts as 0. */
static inline size_t utf8_cut(const uint8_t *data, size_t len)
{
    for (size_t back = 1; back <= 3 && back <= len; back++) {
        uint8_t c = data[len - back];
        size_t need;

        if ((c & 0xc0) == 0x80)
            continue;
        need = c >= 0xc2 && c <= 0xdf ? 2 : (c & 0xf0) == 0xe0 ? 3 : c >= 0xf0 && c <= 0xf4 ? 4 : 1;
        return need > back ? back : 0;
    }
    return 0;
}

/* Length of the valid character at the start of DATA (LEN > 0), or 0. */
static inline size_t utf8_len(const uint8_t *data, size_t len)
{
    uint8_t c = data[0];
    size_t need = c < 0x80 ? 1 : c >= 0xc2 && c <= 0xdf ? 2 : (c & 0xf0) == 0xe0 ? 3 : c >= 0xf0 && c <= 0xf4 ? 4 : 0;

    if (need == 0 || need > len)
        return 0;
    for (size_t i = 1; i < need; i++) {
        if ((data[i] & 0xc0) != 0x80)
            return 0;
    }
    if (need >= 3 && ((c == 0xe0 && data[1] < 0xa0) || (c == 0xed && data[1] > 0x9f) || (c == 0xf0 && data[1] < 0x90) ||
                      (c == 0xf4 && data[1] > 0x8f)))
        return 0;
    return need;
}
