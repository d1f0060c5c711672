#include "wire/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* From linux/fcntl.h and linux/memfd.h, which musl's headers may lack. */
#ifndef F_ADD_SEALS
#define F_ADD_SEALS (1024 + 9)
#define F_GET_SEALS (1024 + 10)
#endif
#ifndef F_SEAL_SEAL
#define F_SEAL_SEAL 0x0001
#define F_SEAL_SHRINK 0x0002
#define F_SEAL_GROW 0x0004
#define F_SEAL_WRITE 0x0008
#endif
#ifndef MFD_CLOEXEC
#define MFD_CLOEXEC 0x0001U
#define MFD_ALLOW_SEALING 0x0002U
#endif

#define SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

void wire_tail_fini(struct wire_tail *t)
{
    free(t->data);
    *t = (struct wire_tail){0};
}

static bool grow(struct wire_tail *t, size_t n)
{
    size_t cap = t->cap != 0 ? t->cap : 512;
    char *p;

    if (t->failed || n > WIRE_TAIL_MAX || t->len > WIRE_TAIL_MAX - n) {
        t->failed = true;
        return false;
    }
    while (cap < t->len + n)
        cap *= 2;
    if (cap == t->cap)
        return true;
    p = realloc(t->data, cap);
    if (p == NULL) {
        t->failed = true;
        return false;
    }
    t->data = p;
    t->cap = cap;
    return true;
}

struct wire_str wire_put_mem(struct wire_tail *t, const char *s, size_t len)
{
    struct wire_str r = {0};

    if (s == NULL || len >= WIRE_TAIL_MAX || !grow(t, len + 1)) {
        if (s != NULL)
            t->failed = true;
        return r;
    }
    r.off = (uint32_t)t->len;
    r.len = (uint32_t)len;
    memcpy(t->data + t->len, s, len);
    t->data[t->len + len] = '\0';
    t->len += len + 1;
    /* {0,0} means absent: an empty string at offset 0 would read as absent, so it moves one byte up. */
    if (len == 0 && r.off == 0 && grow(t, 1)) {
        t->data[t->len] = '\0';
        t->len++;
        r.off = 1;
    }
    return r;
}

struct wire_str wire_put_str(struct wire_tail *t, const char *s)
{
    return wire_put_mem(t, s, s != NULL ? strlen(s) : 0);
}

struct wire_vec wire_put_vec(struct wire_tail *t, const char *const *vec)
{
    struct wire_vec v = {.off = (uint32_t)t->len};

    for (; vec != NULL && *vec != NULL; vec++) {
        size_t n = strlen(*vec) + 1;

        if (!grow(t, n))
            return (struct wire_vec){0};
        memcpy(t->data + t->len, *vec, n);
        t->len += n;
        v.count++;
    }
    v.bytes = (uint32_t)t->len - v.off;
    return v;
}

static int tail_memfd(const struct wire_tail *tail)
{
    int fd = (int)syscall(SYS_memfd_create, "silica-message", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    size_t done = 0;

    if (fd < 0)
        return -errno;
    while (done < tail->len) {
        ssize_t n = write(fd, tail->data + done, tail->len - done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            int code = n < 0 ? errno : EIO;

            close(fd);
            return -code;
        }
        done += (size_t)n;
    }
    if (fcntl(fd, F_ADD_SEALS, SEALS) < 0) {
        int code = errno;

        close(fd);
        return -code;
    }
    return fd;
}

int wire_send(int sock, uint16_t type, uint64_t token, const void *body, size_t body_len, const struct wire_tail *tail,
              const int *fds, unsigned nfds)
{
    struct wire_head head = {.magic = WIRE_MAGIC, .version = WIRE_VERSION, .type = type, .token = token};
    size_t tail_len = tail != NULL ? tail->len : 0;
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * WIRE_FDS_MAX)];
    } control;
    int all[WIRE_FDS_MAX];
    struct iovec iov[3];
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};
    int memfd = -1, r = 0;
    ssize_t n;

    if (tail != NULL && tail->failed)
        return -E2BIG;
    if (nfds + (tail_len > WIRE_INLINE_MAX) > WIRE_FDS_MAX ||
        body_len > WIRE_DATAGRAM_MAX - WIRE_INLINE_MAX - sizeof head)
        return -EINVAL;
    if (nfds > 0)
        memcpy(all, fds, nfds * sizeof *fds);
    if (tail_len > WIRE_INLINE_MAX) {
        memfd = tail_memfd(tail);
        if (memfd < 0)
            return memfd;
        all[nfds++] = memfd;
        head.flags |= WIRE_F_MEMFD;
        tail_len = 0;
    }

    head.size = (uint32_t)(sizeof head + body_len + tail_len);
    iov[0] = (struct iovec){&head, sizeof head};
    iov[1] = (struct iovec){(void *)(uintptr_t)body, body_len};
    if (tail_len > 0) {
        iov[2] = (struct iovec){tail->data, tail_len};
        msg.msg_iovlen = 3;
    }
    if (nfds > 0) {
        struct cmsghdr *c;

        memset(&control, 0, sizeof control);
        msg.msg_control = control.bytes;
        msg.msg_controllen = CMSG_SPACE(sizeof(int) * nfds);
        c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * nfds);
        memcpy(CMSG_DATA(c), all, sizeof(int) * nfds);
    }
    do {
        n = sendmsg(sock, &msg, MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        r = -errno;
    if (memfd >= 0)
        close(memfd);
    return r;
}

/* The tail of a large message, copied: the sender keeps no writable mapping of a sealed memfd, so a mapping is safe too,
 * and saves the copy. */
static int map_tail(struct wire_msg *m)
{
    struct stat st;
    int fd, seals;

    if (m->nfds == 0)
        return -EBADMSG;
    fd = m->fds[m->nfds - 1];
    seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & SEALS) != SEALS || fstat(fd, &st) < 0 || st.st_size <= 0 || st.st_size > WIRE_TAIL_MAX)
        return -EBADMSG;
    m->map_len = (size_t)st.st_size;
    m->map = mmap(NULL, m->map_len, PROT_READ, MAP_PRIVATE, fd, 0);
    if (m->map == MAP_FAILED) {
        m->map = NULL;
        return -ENOMEM;
    }
    m->tail = m->map;
    m->tail_len = m->map_len;
    close(fd);
    m->nfds--;
    return 0;
}

static int take_fds(struct msghdr *msg, struct wire_msg *m)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c != NULL; c = CMSG_NXTHDR(msg, c)) {
        unsigned n;

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        n = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        for (unsigned i = 0; i < n; i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
            if (m->nfds < WIRE_FDS_MAX)
                m->fds[m->nfds++] = fd;
            else
                close(fd);
        }
    }
    return (msg->msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 ? -EBADMSG : 0;
}

static int check(const struct wire_head *h, size_t got, int (*body_size)(uint16_t type), struct wire_msg *m)
{
    int body;

    if (got < sizeof *h || h->magic != WIRE_MAGIC || h->size != got || (h->flags & ~(uint32_t)WIRE_F_MEMFD) != 0)
        return -EBADMSG;
    if (h->version != WIRE_VERSION && h->version + 1 != WIRE_VERSION)
        return -EBADMSG;
    body = body_size(h->type);
    if (body < 0 || got - sizeof *h < (size_t)body)
        return -EBADMSG;
    m->head = h;
    m->body = (const char *)h + sizeof *h;
    m->body_len = (size_t)body;
    m->tail = (const char *)m->body + body;
    m->tail_len = got - sizeof *h - (size_t)body;
    if ((h->flags & WIRE_F_MEMFD) != 0)
        return m->tail_len == 0 ? map_tail(m) : -EBADMSG;
    return 0;
}

int wire_recv(int sock, void *buf, size_t cap, int (*body_size)(uint16_t type), struct wire_msg *m)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * WIRE_FDS_MAX)];
    } control;
    struct iovec iov = {buf, cap};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    ssize_t n;
    int r;

    memset(m, 0, sizeof *m);
    do {
        n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;

    r = take_fds(&msg, m);
    if (n == 0 && m->nfds == 0 && r == 0)
        return 0;
    if (r == 0)
        r = check(buf, (size_t)n, body_size, m);
    if (r < 0) {
        wire_msg_fini(m);
        return r;
    }
    return 1;
}

void wire_msg_fini(struct wire_msg *m)
{
    for (unsigned i = 0; i < m->nfds; i++) {
        if (m->fds[i] >= 0)
            close(m->fds[i]);
    }
    if (m->map != NULL)
        munmap(m->map, m->map_len);
    memset(m, 0, sizeof *m);
}

const char *wire_get_str(const struct wire_msg *m, struct wire_str s, bool *ret_bad)
{
    const char *p;

    if (s.off == 0 && s.len == 0)
        return NULL;
    if (s.off >= m->tail_len || s.len >= m->tail_len - s.off) {
        *ret_bad = true;
        return NULL;
    }
    p = m->tail + s.off;
    if (p[s.len] != '\0' || memchr(p, '\0', s.len) != NULL) {
        *ret_bad = true;
        return NULL;
    }
    return p;
}

const char **wire_get_vec(const struct wire_msg *m, struct wire_vec v, unsigned max, bool *ret_bad)
{
    const char **vec, *p, *end;

    if (v.count > max || v.off > m->tail_len || v.bytes > m->tail_len - v.off || v.count > v.bytes)
        goto bad;
    p = m->tail + v.off;
    end = p + v.bytes;
    if (v.bytes > 0 && end[-1] != '\0')
        goto bad;
    vec = calloc((size_t)v.count + 1, sizeof *vec);
    if (vec == NULL)
        goto bad;
    for (uint32_t i = 0; i < v.count; i++) {
        if (p >= end) {
            free(vec);
            goto bad;
        }
        vec[i] = p;
        p += strlen(p) + 1; /* ends inside: the last byte is a NUL */
    }
    if (p != end) {
        free(vec);
        goto bad;
    }
    return vec;

bad:
    *ret_bad = true;
    return NULL;
}
