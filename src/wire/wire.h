/* Messages between our processes.
 *
 * Every message is one SOCK_SEQPACKET datagram: a wire_head, a fixed-layout body and a tail of strings. Nothing carries
 * a pointer; a string is an offset into the tail. The receiver validates every field before use: the sender may be
 * compromised (silicad towards the spawner) or hostile (a sandbox that took over its init, towards silicad).
 *
 *   +-----------+----------------+---------------------------+
 *   | wire_head | body (by type) | tail: NUL-terminated text |     head.size = all of it
 *   +-----------+----------------+---------------------------+
 *
 * A message whose tail is above WIRE_INLINE_MAX travels as head + body with WIRE_F_MEMFD set and its tail in a sealed
 * memfd, always the LAST fd of the message. Both processes run on one machine: integers are native-endian.
 * Used by musl and glibc alike: no GNU headers here. Thread: none shared. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    WIRE_MAGIC = 0x51C1CA01,
    WIRE_VERSION = 1, /* a receiver serves this version and the one before */
    WIRE_INLINE_MAX = 64 << 10,
    WIRE_TAIL_MAX = 8 << 20, /* an argv + env may be 2 MiB (limit of execve), plans are smaller */
    WIRE_DATAGRAM_MAX = WIRE_INLINE_MAX + 4096,
    WIRE_FDS_MAX = 8,
};

enum wire_flags { WIRE_F_MEMFD = 1 };

struct wire_head {
    uint32_t magic;
    uint16_t version;
    uint16_t type;  /* enum sp_type or enum in_type */
    uint32_t size;  /* bytes of this datagram, head included */
    uint32_t flags; /* enum wire_flags */
    uint64_t token; /* chosen by the asker, repeated in the answer; 0 for events */
};
_Static_assert(sizeof(struct wire_head) == 24, "wire protocol: no padding");

/* LEN bytes at OFF of the tail, followed by a NUL. Contains no other NUL (validated). {0,0} = absent. */
struct wire_str {
    uint32_t off, len;
};
/* COUNT NUL-terminated strings one after the other, BYTES in all, at OFF of the tail. */
struct wire_vec {
    uint32_t off, count, bytes;
};

/* A received message. `body` points into the receive buffer, `tail` into it or into a private copy of the memfd. */
struct wire_msg {
    const struct wire_head *head;
    const void *body;
    size_t body_len;
    const char *tail;
    size_t tail_len;
    int fds[WIRE_FDS_MAX]; /* owned by the message until taken: take_fd(&m->fds[i]) */
    unsigned nfds;
    void *map; /* private; freed by wire_msg_fini */
    size_t map_len;
};

/* Builds a tail: offsets are handed out as strings are added. Zeroed = empty. Grows by realloc. */
struct wire_tail {
    char *data;
    size_t len, cap;
    bool failed; /* out of memory or above WIRE_TAIL_MAX; wire_send then fails with -E2BIG/-ENOMEM */
};
void wire_tail_fini(struct wire_tail *t);
/* S may be NULL (absent). */
struct wire_str wire_put_str(struct wire_tail *t, const char *s);
struct wire_str wire_put_mem(struct wire_tail *t, const char *s, size_t len);
/* VEC is NULL-terminated; NULL = empty. */
struct wire_vec wire_put_vec(struct wire_tail *t, const char *const *vec);

/* Sends one message. TAIL may be NULL. Returns 0, -EAGAIN when the socket is full and SOCK is non-blocking, or another
 * negative errno; nothing is sent in part. FDS stay the caller's. */
int wire_send(int sock, uint16_t type, uint64_t token, const void *body, size_t body_len, const struct wire_tail *tail,
              const int *fds, unsigned nfds);

/* Receives one message into BUF (at least WIRE_DATAGRAM_MAX bytes, 8-aligned). BODY_SIZE(type) gives the exact body size
 * of a type, or a negative number for a type that is unknown, which is -EBADMSG. Returns 1 with *M filled (free with
 * wire_msg_fini), 0 at end of file, -EAGAIN, -EBADMSG for anything malformed (MSG_TRUNC, MSG_CTRUNC, bad magic, size or
 * version, unsealed memfd), or another negative errno. */
int wire_recv(int sock, void *buf, size_t cap, int (*body_size)(uint16_t type), struct wire_msg *m);
void wire_msg_fini(struct wire_msg *m);

/* The string, or NULL when it is absent; *RET_BAD is set (never cleared) when it lies outside the tail, is not
 * terminated or holds a NUL. */
const char *wire_get_str(const struct wire_msg *m, struct wire_str s, bool *ret_bad);
/* A fresh NULL-terminated array of pointers into the tail (free() the array only), or NULL with *RET_BAD set when it is
 * malformed or has more than MAX strings. */
const char **wire_get_vec(const struct wire_msg *m, struct wire_vec v, unsigned max, bool *ret_bad);
