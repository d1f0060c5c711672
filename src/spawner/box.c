/* The table of sandboxes: in memory by id and by pid, on disk for the next spawner. */
#include "spawner/spawner.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { TABLE_SLACK = 1 << 20, TABLE_READ_MAX = 256 << 20 };

struct box *box_find(struct spawner *sp, const char *id)
{
    struct box *box;

    HASH_FIND_STR(sp->boxes, id, box);
    return box;
}

struct box *box_by_pid(struct spawner *sp, pid_t pid)
{
    struct box *box;

    HASH_FIND (by_pid, sp->pids, &pid, sizeof pid, box)
        ;
    return box;
}

void box_set_pid(struct box *box, pid_t pid)
{
    box->pid = pid;
    box->hashed_pid = true;
    HASH_ADD(by_pid, box->sp->pids, pid, sizeof box->pid, box);
}

void box_clear_pid(struct box *box)
{
    if (!box->hashed_pid)
        return;
    box->hashed_pid = false;
    HASH_DELETE(by_pid, box->sp->pids, box);
}

/* ---- layers in use -------------------------------------------------------------------------------------------------- */

static struct layer_use *layer_ref(struct spawner *sp, const char *digest)
{
    struct layer_use *use;

    HASH_FIND_STR(sp->layer_uses, digest, use);
    if (use == NULL) {
        use = calloc(1, sizeof *use);
        if (use == NULL)
            return NULL;
        memcpy(use->digest, digest, SP_DIGEST_LEN + 1);
        HASH_ADD_STR(sp->layer_uses, digest, use);
    }
    use->boxes++;
    return use;
}

static void layer_unref(struct spawner *sp, struct layer_use *use)
{
    if (--use->boxes > 0)
        return;
    HASH_DEL(sp->layer_uses, use);
    free(use);
}

void box_drop_layers(struct box *box)
{
    while (box->layer_count > 0)
        layer_unref(box->sp, box->layers[--box->layer_count]);
}

bool layer_in_use(struct spawner *sp, const char *digest)
{
    struct layer_use *use;

    HASH_FIND_STR(sp->layer_uses, digest, use);
    return use != NULL;
}

/* ---- boxes ---------------------------------------------------------------------------------------------------------- */

struct box *box_new(struct spawner *sp, const char *id, const char (*digests)[SP_DIGEST_LEN + 1], unsigned count)
{
    struct box *box = calloc(1, sizeof *box);

    if (box == NULL)
        return NULL;
    box->sp = sp;
    box->control = -1;
    box->status = -1;
    box->slot = -1;
    box->layer.dir_fd = -1;
    memcpy(box->id, id, strlen(id) + 1);
    HASH_ADD_STR(sp->boxes, id, box);
    box->layers = calloc(count > 0 ? count : 1, sizeof(struct layer_use *));
    while (box->layers != NULL && box->layer_count < count) {
        struct layer_use *use = layer_ref(sp, digests[box->layer_count]);

        if (use == NULL)
            break;
        box->layers[box->layer_count++] = use;
    }
    if (box->layers == NULL || box->layer_count < count) {
        box_free(box);
        return NULL;
    }
    return box;
}

void box_free(struct box *box)
{
    if (box == NULL)
        return;
    if (box->state == BOX_GONE)
        box->sp->gone--;
    link_untell(box);
    box_clear_pid(box);
    HASH_DEL(box->sp->boxes, box);
    box_drop_layers(box);
    free(box->layers);
    timer_stop(&box->timer);
    fd_close(box->control);
    free(box->creation);
    free(box);
}

/* ---- the table file ------------------------------------------------------------------------------------------------- */

static void hex_to_bin(const char *hex, uint8_t out[TABLE_DIGEST])
{
    for (unsigned i = 0; i < TABLE_DIGEST; i++) {
        char two[3] = {hex[2 * i], hex[2 * i + 1], '\0'};

        out[i] = (uint8_t)strtoul(two, NULL, 16);
    }
}

/* Room for the largest record. */
union rec_buf {
    struct table_rec rec;
    uint8_t bytes[sizeof(struct table_rec) + SP_LAYERS_MAX * TABLE_DIGEST];
};

static size_t fill_record(const struct box *box, enum table_state state, union rec_buf *buf)
{
    struct table_rec *r = &buf->rec;

    *r = (struct table_rec){
        .state = state,
        .pid = box->pid,
        .slot = box->slot,
        .start_ticks = box->start_ticks,
        .uid_base = box->uid_base,
        .writable = box->layer.driver,
        .egress = box->egress,
        .lease = box->lease,
        .disk_bytes = box->disk_bytes,
        .started_ns = box->started_ns,
        .status = box->status,
        .oom_kills = box->oom_kills,
        .cpu_us = box->cpu_us,
        .memory_peak = box->memory_peak,
    };
    memcpy(r->id, box->id, sizeof r->id);
    if (state == TABLE_LIVE || state == TABLE_ENDING) {
        if (box->layer.driver != SP_W_AUTO)
            layer_key(&box->layer, r->layer_key);
        r->layer_count = box->layer_count;
        for (unsigned i = 0; i < box->layer_count; i++)
            hex_to_bin(box->layers[i]->digest, buf->bytes + sizeof *r + (size_t)i * TABLE_DIGEST);
    }
    return table_seal(r);
}

static enum table_state state_of(const struct box *box)
{
    if (box->state == BOX_GONE)
        return TABLE_GONE;
    return box->state == BOX_LIVE ? TABLE_LIVE : TABLE_ENDING;
}

static int append(int fd, const void *data, size_t len, struct err *e)
{
    ssize_t n = write(fd, data, len);

    if (n == (ssize_t)len)
        return 0;
    return err_set(e, n < 0 ? errno : ENOSPC, "write the table of sandboxes: %m");
}

/* A fresh file with what lives now, put in the place of the old one at once. */
int table_start(struct spawner *sp, struct err *e)
{
    struct table_head head = {.magic = TABLE_MAGIC, .version = TABLE_VERSION};
    union rec_buf buf = {.rec = {.state = TABLE_EPOCH, .epoch = sp->epoch}};
    AUTO_FD fd = openat(sp->run_fd, "table.new", O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    uint64_t total = sizeof head;
    struct box *box, *next;
    size_t n;

    if (fd < 0)
        return err_set(e, errno, "write '%s/table.new': %m", sp->opt.run_dir);
    memcpy(head.boot_id, sp->boot_id, sizeof head.boot_id);
    if (append(fd, &head, sizeof head, e) < 0)
        return e->code;
    if (sp->epoch != 0) {
        n = table_seal(&buf.rec);
        total += n;
        if (append(fd, &buf, n, e) < 0)
            return e->code;
    }
    HASH_ITER (hh, sp->boxes, box, next) {
        if (box->pid == 0 && box->state != BOX_GONE)
            continue; /* not cloned yet */
        n = fill_record(box, state_of(box), &buf);
        total += n;
        if (append(fd, &buf, n, e) < 0)
            return e->code;
    }
    if (renameat(sp->run_fd, "table.new", sp->run_fd, "table") < 0)
        return err_set(e, errno, "replace '%s/table': %m", sp->opt.run_dir);
    fd_close(sp->table_fd);
    sp->table_fd = take_fd(&fd);
    sp->table_bytes = sp->table_live_bytes = total;
    return 0;
}

static int table_append(struct spawner *sp, const void *data, size_t len, struct err *e)
{
    if (append(sp->table_fd, data, len, e) < 0) {
        /* Cut off what was written in part: what comes after a torn record is not read. */
        (void)!ftruncate(sp->table_fd, (off_t)sp->table_bytes);
        return e->code;
    }
    sp->table_bytes += len;
    if (sp->table_bytes > 2 * sp->table_live_bytes + TABLE_SLACK) {
        struct err ignored = {0};

        /* The old file still holds everything; the next append tries again. */
        if (table_start(sp, &ignored) < 0)
            log_warn(NULL, "the table of sandboxes cannot be compacted: %s", ignored.msg);
    }
    return 0;
}

int box_record(struct box *box, enum table_state state, struct err *e)
{
    union rec_buf buf;
    size_t n = fill_record(box, state, &buf);

    return table_append(box->sp, &buf, n, e);
}

int epoch_record(struct spawner *sp, struct err *e)
{
    union rec_buf buf = {.rec = {.state = TABLE_EPOCH, .epoch = sp->epoch}};
    size_t n = table_seal(&buf.rec);

    return table_append(sp, &buf, n, e);
}

int table_load(struct spawner *sp,
               void (*each)(void *arg, const struct table_rec *rec, const uint8_t (*digests)[TABLE_DIGEST]), void *arg,
               struct err *e)
{
    AUTO_FD old = openat(sp->run_fd, "table", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    AUTO_FREE uint8_t *data = NULL;
    struct stat st;
    size_t len = 0;

    if (old < 0 && errno != ENOENT)
        return err_set(e, errno, "open '%s/table': %m", sp->opt.run_dir);
    if (old >= 0) {
        if (fstat(old, &st) < 0 || st.st_size > TABLE_READ_MAX)
            return err_set(e, EFBIG, "'%s/table' is not a table of sandboxes", sp->opt.run_dir);
        data = malloc((size_t)st.st_size + 1);
        if (data == NULL)
            return err_set(e, ENOMEM, "read '%s/table': %m", sp->opt.run_dir);
        while (len < (size_t)st.st_size) {
            ssize_t n = read(old, data + len, (size_t)st.st_size - len);

            if (n <= 0)
                break;
            len += (size_t)n;
        }
        if (table_parse(data, len, sp->boot_id, each, arg) < len)
            log_warn(NULL, "the table of sandboxes is of another boot, or its end is damaged");
    }
    return 0;
}
