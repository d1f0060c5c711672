#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void cli_print_json(const json_t *j)
{
    char *text = json_dumps(j, JSON_COMPACT | JSON_ENCODE_ANY);

    if (text != NULL)
        puts(text);
    free(text);
}

const char *cli_clean(const char *s, char *out, size_t cap)
{
    size_t n = 0;

    for (; *s != '\0' && n + 1 < cap; s++)
        out[n++] = (unsigned char)*s < 0x20 || *s == 0x7f ? '?' : *s;
    out[n] = '\0';
    return out;
}

void cli_age(const json_t *time_value, char out[32])
{
    static const struct {
        long seconds;
        const char *name;
    } units[] = {{86400, "day"}, {3600, "hour"}, {60, "minute"}, {1, "second"}};
    const char *text = json_string_value(time_value);
    struct tm tm = {0};
    long age;

    (void)snprintf(out, 32, "-");
    if (text == NULL || strptime(text, "%Y-%m-%dT%H:%M:%S", &tm) == NULL)
        return;
    age = (long)(time(NULL) - timegm(&tm));
    for (unsigned i = 0; i < sizeof units / sizeof *units; i++) {
        if (age >= units[i].seconds || i == 3) {
            long n = age < 0 ? 0 : age / units[i].seconds;

            (void)snprintf(out, 32, "%ld %s%s ago", n, units[i].name, n == 1 ? "" : "s");
            return;
        }
    }
}

void cli_size(uint64_t bytes, char out[16])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double v = (double)bytes;
    unsigned u = 0;

    for (; v >= 1024 && u < 4; u++)
        v /= 1024;
    (void)snprintf(out, 16, u == 0 ? "%.0f %s" : "%.1f %s", v, units[u]);
}

int cli_parse_size(const char *text, uint64_t *ret, struct err *e)
{
    static const struct {
        const char *suffix;
        uint64_t factor;
    } units[] = {{"", 1},           {"K", 1000},        {"Ki", 1ull << 10},   {"M", 1000000},    {"Mi", 1ull << 20},
                 {"G", 1000000000}, {"Gi", 1ull << 30}, {"T", 1000000000000}, {"Ti", 1ull << 40}};
    char *end;
    double v;

    errno = 0;
    v = strtod(text, &end);
    for (unsigned i = 0; errno == 0 && end != text && v >= 0 && i < sizeof units / sizeof *units; i++) {
        if (strcmp(end, units[i].suffix) == 0 && v * (double)units[i].factor < 9e18) {
            *ret = (uint64_t)(v * (double)units[i].factor);
            return 0;
        }
    }
    return err_typed(e, ERR_INVALID, NULL, "'%s' is not a size (examples: 512Mi, 1.5G, 1048576)", text);
}
