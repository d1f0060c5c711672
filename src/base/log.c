#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *who = "silica";
static enum log_level threshold = LOG_L_INFO;
static int tty = -1;

static const char *const names[] = {"debug", "info", "warn", "error"};

void log_init(const char *name, enum log_level level)
{
    who = name;
    threshold = level;
    tty = isatty(STDERR_FILENO);
}

enum log_level log_level_get(void)
{
    return threshold;
}

int log_level_parse(const char *word, enum log_level *ret)
{
    for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(word, names[i]) == 0) {
            *ret = (enum log_level)i;
            return 0;
        }
    }
    return -EINVAL;
}

/* RFC 8259 string body; control characters and DEL are escaped so that a hostile name cannot forge a line. */
static size_t escape(char *out, size_t cap, const char *in)
{
    size_t n = 0;

    for (const unsigned char *p = (const unsigned char *)in; *p != '\0' && n + 7 < cap; p++) {
        if (*p == '"' || *p == '\\') {
            out[n++] = '\\';
            out[n++] = (char)*p;
        } else if (*p < 0x20 || *p == 0x7f) {
            n += (size_t)snprintf(out + n, cap - n, "\\u%04x", *p);
        } else {
            out[n++] = (char)*p;
        }
    }
    out[n] = '\0';
    return n;
}

void log_line(enum log_level level, const char *sandbox, const char *fmt, ...)
{
    char msg[1024], esc[2200], id[200], line[2800];
    struct timespec ts;
    struct tm tm;
    char when[40];
    va_list ap;
    int n, saved = errno;

    if (level < threshold)
        return;

    va_start(ap, fmt);
    (void)vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    (void)escape(esc, sizeof esc, msg);
    (void)clock_gettime(CLOCK_REALTIME, &ts);
    (void)gmtime_r(&ts.tv_sec, &tm);
    (void)strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &tm);

    if (sandbox != NULL)
        (void)escape(id, sizeof id, sandbox);
    if (tty > 0)
        n = snprintf(line, sizeof line, "%s.%03ldZ %-5s %s: %s%s%s\n", when, ts.tv_nsec / 1000000, names[level], who,
                     sandbox != NULL ? id : "", sandbox != NULL ? ": " : "", esc);
    else
        n = snprintf(line, sizeof line,
                     "{\"time\":\"%s.%06ldZ\",\"level\":\"%s\",\"process\":\"%s\"%s%s%s,\"msg\":\"%s\"}\n", when,
                     ts.tv_nsec / 1000, names[level], who, sandbox != NULL ? ",\"sandbox\":\"" : "",
                     sandbox != NULL ? id : "", sandbox != NULL ? "\"" : "", esc);
    if (n >= (int)sizeof line)
        n = (int)sizeof line - 1;
    (void)!write(STDERR_FILENO, line, (size_t)n); /* a log that cannot be written has nowhere to complain */
    errno = saved;
}
