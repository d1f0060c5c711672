#include "imager/path.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static int refuse(const char *raw, const char *why, struct err *e)
{
    char shown[PATH_SHOW_MAX];

    return err_typed(e, ERR_INVALID, NULL, "entry %s: %s", path_show(raw, shown), why);
}

int path_clean(const char *raw, char out[PATH_CLEAN_MAX], struct err *e)
{
    const char *p = raw;
    size_t len = 0;

    if (raw == NULL || *raw == '\0')
        return err_typed(e, ERR_INVALID, NULL, "the archive has an entry without a name");

    while (*p != '\0') {
        size_t n = strcspn(p, "/");

        if (n == 2 && memcmp(p, "..", 2) == 0)
            return refuse(raw, "a name with '..' could lead out of the layer", e);
        if (n > PATH_NAME_MAX)
            return refuse(raw, "a name is longer than 255 bytes", e);
        if (n > 0 && !(n == 1 && *p == '.')) {
            if (len + 1 + n + 1 > PATH_CLEAN_MAX)
                return refuse(raw, "the path is longer than 4095 bytes", e);
            if (len > 0)
                out[len++] = '/';
            memcpy(out + len, p, n);
            len += n;
        }
        p += n;
        while (*p == '/')
            p++;
    }
    out[len] = '\0';
    return 0;
}

const char *path_split(const char *path, char parent[PATH_CLEAN_MAX])
{
    const char *slash = strrchr(path, '/');
    size_t n = slash != NULL ? (size_t)(slash - path) : 0;

    memcpy(parent, path, n);
    parent[n] = '\0';
    return slash != NULL ? slash + 1 : path;
}

const char *path_show(const char *raw, char out[PATH_SHOW_MAX])
{
    const size_t tail = sizeof "...'";
    size_t len = 0;

    out[len++] = '\'';
    for (const char *p = raw; *p != '\0'; p++) {
        unsigned char c = (unsigned char)*p;
        bool plain = c >= 0x20 && c < 0x7f && c != '\\' && c != '\'';

        if (len + 4 + tail > PATH_SHOW_MAX) {
            memcpy(out + len, "...", 3);
            len += 3;
            break;
        }
        if (plain)
            out[len++] = (char)c;
        else
            len += (size_t)snprintf(out + len, PATH_SHOW_MAX - len, "\\x%02x", c);
    }
    out[len++] = '\'';
    out[len] = '\0';
    return out;
}
