/* Two processes, because an archive is hostile and the store is shared: the unpacker, which runs libarchive, is
 * chrooted into the one directory it fills and holds no fd of the store, so that a takeover of it cannot touch
 * another layer. It also cannot leave a mess: whatever ends it, the supervisor removes the directory.
 *
 * A temporary directory belongs to whoever holds its lock (flock); one without an owner is what a killed imager has
 * left, and the next imager removes it. */
#include "imager/supervise.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "imager/confine.h"
#include "imager/tree.h"
#include "wire/im.h"

#define TMP_PREFIX ".tmp-"
enum { TMP_NAME_MAX = sizeof TMP_PREFIX + 16, TMP_TRIES = 16 };

/* ---- the temporary directory ------------------------------------------------------------------------------------- */

/* Takes the directory NAME if nobody owns it. Returns its locked fd or a negative errno. */
static int own(int store, const char *name)
{
    AUTO_FD fd = tree_open(store, name, O_RDONLY | O_DIRECTORY, 0);
    struct stat st;

    if (fd < 0)
        return take_fd(&fd);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        return -errno;
    /* Whoever had it before may have removed it between our open and our lock. */
    if (fstat(fd, &st) < 0 || st.st_nlink == 0)
        return -ENOENT;
    return take_fd(&fd);
}

static void remove_orphans(int store)
{
    int fd = tree_open(store, "", O_RDONLY | O_DIRECTORY, 0);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    struct dirent *ent;

    if (d == NULL) {
        fd_close(fd);
        return; /* the next imager tries again */
    }
    while ((ent = readdir(d)) != NULL) {
        struct err ignored; /* likewise: it takes nothing but space */
        AUTO_FD owned = -1;

        if (strncmp(ent->d_name, TMP_PREFIX, strlen(TMP_PREFIX)) != 0)
            continue;
        owned = own(store, ent->d_name);
        if (owned >= 0)
            (void)tree_remove(store, ent->d_name, &ignored);
    }
    (void)closedir(d); /* only read from */
}

static int make_tmp(int store, char name[TMP_NAME_MAX], int *ret_fd, struct err *e)
{
    for (int i = 0; i < TMP_TRIES; i++) {
        uint64_t serial;
        int fd;

        if (getrandom(&serial, sizeof serial, 0) != sizeof serial)
            return err_set(e, errno, "cannot get random bytes: %m");
        (void)snprintf(name, TMP_NAME_MAX, TMP_PREFIX "%016llx", (unsigned long long)serial);
        if (mkdirat(store, name, 0755) < 0) {
            if (errno == ENOSPC || errno == EDQUOT)
                return err_typed(e, ERR_EXHAUSTED, NULL, "the disk that holds the layers is full");
            if (errno != EEXIST)
                return err_set(e, errno, "cannot make a directory in the layer store: %m");
            continue;
        }
        fd = own(store, name); /* an imager that cleans up may have been faster */
        if (fd >= 0) {
            *ret_fd = fd;
            return 0;
        }
    }
    return err_set(e, EBUSY, "cannot make a directory in the layer store: %m");
}

/* ---- the unpacker -------------------------------------------------------------------------------------------------- */

static void send_failed(int sock, const struct err *e)
{
    struct im_failed body = {.code = e->code, .kind = e->kind};
    struct wire_tail tail = {0};

    body.msg = wire_put_str(&tail, e->msg);
    (void)wire_send(sock, IM_FAILED, 0, &body, sizeof body, &tail, NULL, 0); /* nobody left to tell */
    wire_tail_fini(&tail);
}

static int send_layer(int sock, const struct layer_result *res)
{
    struct im_layer body = {
        .tar_bytes = res->tar_bytes,
        .unpacked_bytes = res->unpacked_bytes,
        .entries = res->entries,
        .skipped_devices = res->skipped_devices,
        .stripped_xattrs = res->stripped_xattrs,
    };
    const char *notes[LAYER_NOTES_MAX + 1] = {NULL};
    struct wire_tail tail = {0};
    int r;

    for (unsigned i = 0; i < res->note_count; i++)
        notes[i] = res->notes[i];
    body.digest = wire_put_str(&tail, res->digest);
    body.notes = wire_put_vec(&tail, notes);
    r = wire_send(sock, IM_LAYER, 0, &body, sizeof body, &tail, NULL, 0);
    wire_tail_fini(&tail);
    return r;
}

/* Never returns. DIR is the only directory it keeps. */
__attribute__((noreturn)) static void unpacker(const struct supervise *s, int dir, int sock)
{
    struct layer_result res;
    struct err e = {0};
    int r;

    fd_close(s->store);
    fd_close(s->result);
    r = prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0 ? err_set(&e, errno, "cannot tie itself to its parent: %m") : 0;
    if (r == 0)
        r = confine_root(dir, &e);
    if (r == 0)
        r = confine_limits(s->limits.bytes, &e);
    if (r == 0)
        r = confine_role(CONFINE_UNPACKER, &e);
    if (r == 0)
        r = layer_unpack(dir, s->input, &s->limits, &res, &e);
    if (r < 0)
        send_failed(sock, &e);
    else
        r = send_layer(sock, &res);
    _exit(r < 0 ? 1 : 0);
}

static int start_unpacker(const struct supervise *s, int dir, pid_t *ret_pid, int *ret_sock, struct err *e)
{
    int pair[2];
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return err_set(e, errno, "cannot make a socket: %m");
    pid = fork();
    if (pid < 0) {
        int r = err_set(e, errno, "cannot start the unpacker: %m");

        fd_close(pair[0]);
        fd_close(pair[1]);
        return r;
    }
    if (pid == 0) {
        fd_close(pair[0]);
        unpacker(s, dir, pair[1]);
    }
    fd_close(pair[1]);
    *ret_pid = pid;
    *ret_sock = pair[0];
    return 0;
}

/* ---- the supervisor -------------------------------------------------------------------------------------------------- */

static void died(int status, struct err *e)
{
    if (WIFSIGNALED(status) && (WTERMSIG(status) == SIGXCPU || WTERMSIG(status) == SIGKILL))
        (void)err_typed(e, ERR_EXHAUSTED, NULL, "unpacking the archive took more memory or time than is allowed");
    else if (WIFSIGNALED(status))
        (void)err_set(e, EIO, "the unpacker was killed by signal %d", WTERMSIG(status));
    else
        (void)err_set(e, EIO, "the unpacker ended without an answer");
}

static bool is_digest(const char *s)
{
    return s != NULL && strlen(s) == 64 && strspn(s, "0123456789abcdef") == 64;
}

/* The unpacker's answer is a claim: it is checked before the directory gets the name it asks for. */
static int adopt(const struct supervise *s, const struct wire_msg *m, const char *tmp, struct err *e)
{
    const struct im_layer *body = m->body;
    const char *digest;
    bool bad = m->nfds != 0;

    if (m->head->type == IM_FAILED)
        return -ECANCELED; /* it says why itself */
    digest = wire_get_str(m, body->digest, &bad);
    if (bad || !is_digest(digest))
        return err_set(e, EBADMSG, "the unpacker's answer is malformed");
    /* A name in the store is a promise about content, and a power cut must not break it. */
    if (syncfs(s->store) < 0)
        return err_set(e, errno, "cannot write the layer to disk: %m");
    if (renameat2(s->store, tmp, s->store, digest, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EEXIST)
        return err_set(e, errno, "cannot give the layer its name: %m");
    return tree_remove(s->store, tmp, e); /* the store has this content already */
}

/* Waits for an answer of the unpacker or for the asker to go away. Returns 1 with *M filled, 0 at the unpacker's end, or
 * -ECANCELED. */
static int await(const struct supervise *s, int sock, void *buf, size_t cap, struct wire_msg *m)
{
    struct pollfd fds[] = {{.fd = sock, .events = POLLIN}, {.fd = s->result}};

    for (;;) {
        if (poll(fds, ARRAY_LEN(fds), -1) < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        if (fds[1].revents != 0)
            return -ECANCELED;
        if (fds[0].revents != 0)
            return wire_recv(sock, buf, cap, im_body_size, m);
    }
}

static int run(const struct supervise *s, const char *tmp, pid_t pid, int sock, struct err *e)
{
    static _Alignas(8) uint8_t buf[WIRE_DATAGRAM_MAX];
    struct wire_msg m = {0};
    struct err cleaning;
    int status = 0, got, r;

    got = await(s, sock, buf, sizeof buf, &m);
    if (got != 0)
        (void)kill(pid, SIGKILL); /* it has nothing more to say; nothing may change under the rename */
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (got == -ECANCELED)
        r = got;
    else if (got < 0)
        r = err_set(e, got, "cannot read the unpacker's answer: %m");
    else if (got == 0) {
        died(status, e);
        r = e->code;
    } else
        r = adopt(s, &m, tmp, e);

    if (r < 0)
        (void)tree_remove(s->store, tmp, &cleaning); /* what stays is an orphan for the next imager */
    if (got == 1 && (r == 0 || m.head->type == IM_FAILED))
        r = send(s->result, buf, m.head->size, MSG_NOSIGNAL) < 0 ? -errno : 0;
    else if (r < 0 && got != -ECANCELED) {
        send_failed(s->result, e);
        r = 0;
    }
    wire_msg_fini(&m);
    return r;
}

int supervise(const struct supervise *s)
{
    char tmp[TMP_NAME_MAX];
    AUTO_FD dir = -1, sock = -1;
    struct err e = {0};
    pid_t pid = -1;
    int r;

    r = confine_root(s->store, &e);
    if (r == 0) {
        remove_orphans(s->store);
        r = make_tmp(s->store, tmp, &dir, &e);
    }
    if (r == 0)
        r = start_unpacker(s, dir, &pid, &sock, &e);
    fd_close(s->input); /* the unpacker's: who writes it must see when that ends */
    if (r < 0) {
        if (dir >= 0)
            (void)unlinkat(s->store, tmp, AT_REMOVEDIR); /* empty; else an orphan for the next imager */
        send_failed(s->result, &e);
        return 0;
    }
    r = confine_role(CONFINE_SUPERVISOR, &e);
    if (r < 0) {
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, NULL, 0); /* it is killed: nothing else can come */
        (void)unlinkat(s->store, tmp, AT_REMOVEDIR);
        send_failed(s->result, &e);
        return 0;
    }
    return run(s, tmp, pid, sock, &e);
}
