/* The sandboxes of a spawner before this one.
 *
 * The table file names them; a pid counts only with its start time. A sandbox whose init can be reached lives on as if
 * nothing had happened; what cannot be reached is ended, and its end is told. What has a control group and is in no table
 * was being made when that spawner died, and is ended too. */
#include "spawner/spawner.h"

#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

struct found {
    struct table_rec rec;
    char (*digests)[SP_DIGEST_LEN + 1];
    UT_hash_handle hh;
};

struct adoption {
    struct spawner *sp;
    struct found *all;
    bool failed;
};

static void found_free(struct found *f)
{
    free(f->digests);
    free(f);
}

static void bin_to_hex(const uint8_t bin[TABLE_DIGEST], char out[SP_DIGEST_LEN + 1])
{
    for (unsigned i = 0; i < TABLE_DIGEST; i++)
        (void)snprintf(out + 2 * (size_t)i, 3, "%02x", bin[i]);
}

/* The last record of an id counts. */
static void on_record(void *arg, const struct table_rec *rec, const uint8_t (*digests)[TABLE_DIGEST])
{
    struct adoption *ad = arg;
    struct found *f;

    if (rec->state == TABLE_EPOCH) {
        if (rec->epoch > ad->sp->epoch)
            ad->sp->epoch = rec->epoch;
        return;
    }
    HASH_FIND (hh, ad->all, rec->id, strlen(rec->id), f)
        ;
    if (f != NULL) {
        HASH_DEL(ad->all, f);
        found_free(f);
    }
    if (rec->state == TABLE_FORGOTTEN)
        return;
    f = calloc(1, sizeof *f);
    if (f != NULL)
        f->digests = calloc(rec->layer_count + 1, sizeof *f->digests);
    if (f == NULL || f->digests == NULL) {
        free(f);
        ad->failed = true;
        return;
    }
    f->rec = *rec;
    for (unsigned i = 0; i < rec->layer_count; i++)
        bin_to_hex(digests[i], f->digests[i]);
    HASH_ADD_KEYPTR(hh, ad->all, f->rec.id, strlen(f->rec.id), f);
}

/* ---- one sandbox ---------------------------------------------------------------------------------------------------- */

static void init_died(struct io *io, uint32_t events)
{
    struct box *box = container_of(io, struct box, pid_io);

    (void)events;
    box_reaped(box, -1); /* its status went to whoever is its parent now */
}

static int reach_init(struct box *box, struct err *e)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    AUTO_FD fd = upgrade_control(box->sp, box->id);
    int n;

    if (fd >= 0) {
        box->control = take_fd(&fd);
        return 0;
    }
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    n = snprintf(un.sun_path, sizeof un.sun_path, "/proc/self/fd/%d/%s.sock", box->sp->box_fd, box->id);
    if (fd < 0 ||
        connect(fd, (struct sockaddr *)&un, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)n + 1)) < 0)
        return err_set(e, errno, "reach its init: %m");
    box->control = take_fd(&fd);
    return 0;
}

/* Finds the process; afterwards its death is an event. */
static int find_init(struct box *box, struct err *e)
{
    AUTO_FD pidfd = -1;
    int r;

    /* The pidfd first: after it the start time proves whom it names. */
    pidfd = (int)syscall(SYS_pidfd_open, box->pid, 0);
    if (pidfd < 0 || proc_start_ticks(box->pid) != box->start_ticks)
        return err_set(e, ESRCH, "its init is dead");
    if (proc_is_child(box->pid)) { /* after an upgrade in place; unless it was adopted before that */
        box->child = true;
        box_set_pid(box, box->pid);
        return 0;
    }
    r = io_start(box->sp->loop, &box->pid_io, pidfd, EPOLLIN, init_died);
    if (r < 0)
        return err_set(e, r, "watch its init: %m");
    pidfd = -1; /* box->pid_io has it */
    return 0;
}

static void claim(struct box *box, const struct table_rec *rec)
{
    struct err e = {0};

    if (slot_claim(rec->slot, &e) == 0)
        box->slot = rec->slot;
    else
        log_error(box->id, "its uid range cannot be claimed: %s", e.msg);
    if (rec->writable != SP_W_AUTO && layer_claim(&box->layer, (enum sp_writable)rec->writable, rec->layer_key,
                                                  rec->disk_bytes, rec->uid_base, &e) < 0) {
        log_error(box->id, "its disk cannot be claimed: %s", e.msg);
        box->layer = (struct layer){.dir_fd = -1};
    }
    if (netns_claim((enum sp_egress)rec->egress, rec->lease, &e) == 0)
        box->has_egress = true;
    else
        log_error(box->id, "its network cannot be claimed: %s", e.msg);
    box->has_cgroup = true;
}

static void adopt_one(struct spawner *sp, const struct found *f, struct err *e)
{
    const struct table_rec *rec = &f->rec;
    struct box *box = box_new(sp, rec->id, (const char(*)[SP_DIGEST_LEN + 1]) f->digests, rec->layer_count);
    struct err why = {0};

    if (box == NULL) {
        (void)err_set(e, ENOMEM, "adopt sandbox %s: %m", rec->id);
        return;
    }
    box->pid = rec->pid;
    box->start_ticks = rec->start_ticks;
    box->uid_base = rec->uid_base;
    box->egress = (enum sp_egress)rec->egress;
    box->lease = rec->lease;
    box->disk_bytes = rec->disk_bytes;
    box->started_ns = rec->started_ns;
    box->status = rec->status;
    box->oom_kills = rec->oom_kills;
    box->cpu_us = rec->cpu_us;
    box->memory_peak = rec->memory_peak;
    if (rec->state == TABLE_GONE) {
        box->state = BOX_GONE;
        sp->gone++;
        return;
    }
    claim(box, rec);
    box->state = BOX_LIVE;
    if (find_init(box, &why) < 0) {
        box->reaped = true;
        box->status = -1;
    } else if (rec->state == TABLE_LIVE && reach_init(box, &why) == 0) {
        log_info(box->id, "sandbox taken over: process %d", box->pid);
        return;
    }
    log_warn(box->id, "sandbox of an earlier silicad is ended: %s", why.code != 0 ? why.msg : "nobody was told of it");
    box_end(box);
}

static void on_cgroup(void *arg, const char *id)
{
    struct adoption *ad = arg;
    struct box *box;

    if (!box_id_ok(id) || box_find(ad->sp, id) != NULL)
        return;
    log_warn(id, "a sandbox that is in no table is ended");
    box = box_new(ad->sp, id, NULL, 0);
    if (box == NULL) {
        ad->failed = true;
        return;
    }
    box->has_cgroup = true;
    box_end(box);
}

int adopt_all(struct spawner *sp, struct err *e)
{
    struct adoption ad = {.sp = sp};
    struct found *f, *next;

    if (table_load(sp, on_record, &ad, e) < 0)
        return e->code;
    HASH_ITER (hh, ad.all, f, next) {
        adopt_one(sp, f, e);
        HASH_DEL(ad.all, f);
        found_free(f);
    }
    upgrade_forget(sp);
    if (e->code == 0)
        (void)cgs_list(on_cgroup, &ad, e);
    if (e->code == 0 && ad.failed)
        (void)err_set(e, ENOMEM, "adopt the sandboxes of an earlier silicad: %m");
    return e->code;
}
