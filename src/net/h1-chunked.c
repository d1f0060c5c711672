#include "net/h1-chunked.h"

#include <errno.h>

#include "net/text.h"

enum state { SIZE, EXT, SIZE_LF, DATA, DATA_CR, DATA_LF, TRAILER, TRAILER_LF, DONE };

static int hex(uint8_t ch)
{
    if (ch >= '0' && ch <= '9')
        return ch - '0';
    ch |= 0x20;
    return ch >= 'a' && ch <= 'f' ? ch - 'a' + 10 : -1;
}

static int step_size(struct h1_chunked *d, uint8_t ch)
{
    int v = hex(ch);

    if (v >= 0) {
        /* 15 digits: no size overflows, and none is real either. */
        if (++d->digits > 15)
            return -EBADMSG;
        d->left = d->left << 4 | (uint64_t)v;
        return 0;
    }
    if (d->digits == 0 || (ch != ';' && ch != '\r'))
        return -EBADMSG;
    d->state = ch == ';' ? EXT : SIZE_LF;
    return 0;
}

static int step_ext(struct h1_chunked *d, uint8_t ch)
{
    if (ch == '\r') {
        d->state = SIZE_LF;
        return 0;
    }
    if ((ch < 0x20 && ch != '\t') || ch == 0x7f || ++d->ext > H1_CHUNK_EXT_MAX)
        return -EBADMSG;
    return 0;
}

static int step_trailer(struct h1_chunked *d, uint8_t ch)
{
    if (++d->trailer > H1_CHUNK_TRAILER_MAX)
        return -EBADMSG;
    if (ch == '\r') {
        if (d->line > 0 && !d->colon)
            return -EBADMSG;
        d->state = TRAILER_LF;
        return 0;
    }
    if (!d->colon) {
        if (ch == ':' && d->line > 0)
            d->colon = 1;
        else if (!http_tchar(ch))
            return -EBADMSG;
    } else if ((ch < 0x20 && ch != '\t') || ch == 0x7f) {
        return -EBADMSG;
    }
    d->line++;
    return 0;
}

static int step_lf(struct h1_chunked *d, uint8_t ch)
{
    if (ch != '\n')
        return -EBADMSG;
    if (d->state == SIZE_LF) {
        d->state = d->left > 0 ? DATA : TRAILER;
        d->digits = 0;
    } else if (d->state == DATA_LF) {
        d->state = SIZE;
    } else {
        d->state = d->line > 0 ? TRAILER : DONE;
        d->line = 0;
        d->colon = 0;
    }
    return 0;
}

static int step(struct h1_chunked *d, uint8_t ch)
{
    switch ((enum state)d->state) {
    case SIZE:
        return step_size(d, ch);
    case EXT:
        return step_ext(d, ch);
    case DATA_CR:
        d->state = DATA_LF;
        return ch == '\r' ? 0 : -EBADMSG;
    case TRAILER:
        return step_trailer(d, ch);
    case SIZE_LF:
    case DATA_LF:
    case TRAILER_LF:
        return step_lf(d, ch);
    case DATA:
    case DONE:
        break;
    }
    return -EBADMSG;
}

int h1_chunked_next(struct h1_chunked *d, const uint8_t **p, size_t *len, const uint8_t **ret, size_t *ret_len)
{
    while (d->state != DONE) {
        int r;

        if (*len == 0)
            return 0;
        if (d->state == DATA) {
            size_t n = d->left < *len ? (size_t)d->left : *len;

            *ret = *p;
            *ret_len = n;
            *p += n;
            *len -= n;
            d->left -= n;
            if (d->left == 0)
                d->state = DATA_CR;
            return 1;
        }
        r = step(d, **p);
        if (r < 0)
            return r;
        (*p)++;
        (*len)--;
    }
    return 2;
}
