#include "net/text.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>

size_t utf8_len(const char *s, size_t len)
{
    const uint8_t *p = (const uint8_t *)s;
    uint32_t cp;
    size_t n;

    if (p[0] < 0x80)
        return 1;
    if (p[0] >= 0xc2 && p[0] <= 0xdf)
        n = 2, cp = p[0] & 0x1f;
    else if ((p[0] & 0xf0) == 0xe0)
        n = 3, cp = p[0] & 0x0f;
    else if (p[0] >= 0xf0 && p[0] <= 0xf4)
        n = 4, cp = p[0] & 0x07;
    else
        return 0;
    if (n > len)
        return 0;
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
        cp = cp << 6 | (p[i] & 0x3f);
    }
    if ((n == 3 && cp < 0x800) || (n == 4 && (cp < 0x10000 || cp > 0x10ffff)) || (cp >= 0xd800 && cp <= 0xdfff))
        return 0;
    return n;
}

size_t utf8_clean(char *out, size_t cap, const char *src)
{
    size_t left = strlen(src), len = 0;

    while (left > 0) {
        size_t n = utf8_len(src, left);

        if (len + (n > 0 ? n : 1) >= cap)
            break;
        if (n == 0) {
            out[len++] = '?';
            n = 1;
        } else {
            memcpy(out + len, src, n);
            len += n;
        }
        src += n;
        left -= n;
    }
    out[len] = '\0';
    return len;
}

static int hex(char ch)
{
    if (ch >= '0' && ch <= '9')
        return ch - '0';
    if (ch >= 'a' && ch <= 'f')
        return ch - 'a' + 10;
    if (ch >= 'A' && ch <= 'F')
        return ch - 'A' + 10;
    return -1;
}

int query_decode(const char *s, size_t len, char *out, size_t cap)
{
    size_t n = 0;

    for (size_t i = 0; i < len; i++) {
        char ch = s[i];

        if (ch == '+') {
            ch = ' ';
        } else if (ch == '%') {
            int hi = len - i > 2 ? hex(s[i + 1]) : -1, lo = len - i > 2 ? hex(s[i + 2]) : -1;

            if (hi < 0 || lo < 0 || (hi == 0 && lo == 0))
                return -EINVAL;
            ch = (char)(hi << 4 | lo);
            i += 2;
        }
        if (n + 1 >= cap)
            return -EMSGSIZE;
        out[n++] = ch;
    }
    if (cap == 0)
        return -EMSGSIZE;
    out[n] = '\0';
    return (int)n;
}

bool http_tchar(unsigned char ch)
{
    if ((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9'))
        return true;
    return ch != '\0' && strchr("!#$%&'*+-.^_`|~", ch) != NULL;
}

bool http_name_ok(const char *s)
{
    if (*s == '\0')
        return false;
    for (; *s != '\0'; s++) {
        if (!http_tchar((unsigned char)*s) || (*s >= 'A' && *s <= 'Z'))
            return false;
    }
    return true;
}

bool http_value_ok(const char *s)
{
    for (; *s != '\0'; s++) {
        unsigned char ch = (unsigned char)*s;

        if ((ch < 0x20 && ch != '\t') || ch == 0x7f)
            return false;
    }
    return true;
}
