/* Structured log lines on stderr: one JSON object a line, or a short text form on a terminal.
 *
 * log_* is for where a story ends (an RPC handler, main), not for library functions. Values are escaped; a secret
 * never belongs in one. Thread: any; one write(2) per line. */
#pragma once

enum log_level { LOG_L_DEBUG, LOG_L_INFO, LOG_L_WARN, LOG_L_ERROR };

/* WHO is the process name in each line ("silicad", "silica-spawner"); static string. */
void log_init(const char *who, enum log_level level);
/* Parses "debug", "info", "warn", "error"; returns 0 or -EINVAL. */
int log_level_parse(const char *word, enum log_level *ret);
enum log_level log_level_get(void);

/* SANDBOX may be NULL. */
void log_line(enum log_level level, const char *sandbox, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#define log_debug(sandbox, ...) \
    do { \
        if (log_level_get() <= LOG_L_DEBUG) \
            log_line(LOG_L_DEBUG, sandbox, __VA_ARGS__); \
    } while (0)
#define log_info(sandbox, ...) log_line(LOG_L_INFO, sandbox, __VA_ARGS__)
#define log_warn(sandbox, ...) log_line(LOG_L_WARN, sandbox, __VA_ARGS__)
#define log_error(sandbox, ...) log_line(LOG_L_ERROR, sandbox, __VA_ARGS__)
