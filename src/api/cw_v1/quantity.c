/* Amounts as Kubernetes writes them: digits, an optional fraction, an optional suffix. Nothing else: no sign, no space,
 * no exponent, and no amount of zero, which no limit can mean. */
#include "api/cw_v1/cw-internal.h"

#include <errno.h>
#include <string.h>

enum { SUFFIX_MAX = 2, FRACTION_DIGITS_MAX = 9 };

/* B = (WHOLE + FRACTION / 10^9) SUFFIX. */
struct amount {
    uint64_t whole;
    uint64_t fraction; /* of 10^9 */
    char suffix[SUFFIX_MAX + 1];
};

static int amount_parse(const CwBytes *b, struct amount *ret)
{
    struct amount a = {0};
    size_t i = 0, digits = 0, places = 0;

    for (; i < b->len && b->data[i] >= '0' && b->data[i] <= '9'; i++, digits++) {
        if (__builtin_mul_overflow(a.whole, 10, &a.whole) ||
            __builtin_add_overflow(a.whole, b->data[i] - '0', &a.whole))
            return -EINVAL;
    }
    if (digits == 0)
        return -EINVAL;
    if (i < b->len && b->data[i] == '.') {
        for (i++; i < b->len && b->data[i] >= '0' && b->data[i] <= '9'; i++, places++) {
            if (places < FRACTION_DIGITS_MAX)
                a.fraction = a.fraction * 10 + (uint64_t)(b->data[i] - '0');
        }
        if (places == 0 || places > FRACTION_DIGITS_MAX)
            return -EINVAL;
        for (; places < FRACTION_DIGITS_MAX; places++)
            a.fraction *= 10;
    }
    if (b->len - i > SUFFIX_MAX)
        return -EINVAL;
    if (b->len > i)
        memcpy(a.suffix, b->data + i, b->len - i);
    if (memchr(a.suffix, '\0', b->len - i) != NULL)
        return -EINVAL; /* "1\0" must not pass for "1" */
    *ret = a;
    return 0;
}

/* A times UNIT, rounded up. */
static int amount_scale(const struct amount *a, uint64_t unit, uint64_t *ret)
{
    unsigned __int128 v =
        (unsigned __int128)a->whole * unit + ((unsigned __int128)a->fraction * unit + 999999999) / 1000000000;

    if (v == 0 || v > INT64_MAX)
        return -EINVAL;
    *ret = (uint64_t)v;
    return 0;
}

int cw_parse_cpu(const CwBytes *b, uint32_t *ret_millis)
{
    struct amount a;
    uint64_t millis;
    int r = amount_parse(b, &a);

    if (r < 0)
        return r;
    if (strcmp(a.suffix, "m") == 0 && a.fraction == 0)
        r = amount_scale(&a, 1, &millis);
    else if (a.suffix[0] == '\0')
        r = amount_scale(&a, 1000, &millis);
    else
        r = -EINVAL;
    if (r < 0 || millis > UINT32_MAX)
        return -EINVAL;
    *ret_millis = (uint32_t)millis;
    return 0;
}

int cw_parse_memory(const CwBytes *b, uint64_t *ret_bytes)
{
    static const struct {
        const char *suffix;
        uint64_t unit;
    } units[] = {
        {"", 1},
        {"k", 1000},
        {"M", 1000000},
        {"G", 1000000000},
        {"T", 1000000000000},
        {"P", 1000000000000000},
        {"Ki", 1ull << 10},
        {"Mi", 1ull << 20},
        {"Gi", 1ull << 30},
        {"Ti", 1ull << 40},
        {"Pi", 1ull << 50},
    };
    struct amount a;
    int r = amount_parse(b, &a);

    if (r < 0)
        return r;
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (strcmp(a.suffix, units[i].suffix) == 0)
            return amount_scale(&a, units[i].unit, ret_bytes);
    }
    return -EINVAL;
}
