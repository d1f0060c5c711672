#include "spawner/table.h"

#include <string.h>

#include "spawner/validate.h"

enum { TABLE_REC_MAGIC = 0x51C1AB1F };

/* FNV-1a: tells a torn record from a whole one. It is no protection against root, the only one who can write here. */
static uint32_t sum_of(const uint8_t *p, size_t len)
{
    uint32_t h = 2166136261u;

    for (size_t i = 0; i < len; i++)
        h = (h ^ p[i]) * 16777619u;
    return h;
}

static const size_t sum_from = offsetof(struct table_rec, state);

size_t table_seal(struct table_rec *rec)
{
    size_t size = sizeof *rec + (size_t)rec->layer_count * TABLE_DIGEST;

    rec->magic = TABLE_REC_MAGIC;
    rec->size = (uint32_t)size;
    rec->sum = sum_of((const uint8_t *)rec + sum_from, size - sum_from);
    return size;
}

static bool sound(const struct table_rec *r)
{
    if (r->state == TABLE_EPOCH)
        return r->epoch != 0 && r->layer_count == 0;
    if (r->state == 0 || r->state >= TABLE_STATE_COUNT)
        return false;
    if (memchr(r->id, '\0', sizeof r->id) == NULL || !box_id_ok(r->id))
        return false;
    if (memchr(r->layer_key, '\0', sizeof r->layer_key) == NULL)
        return false;
    if (r->state != TABLE_LIVE && r->state != TABLE_ENDING)
        return true;
    return r->pid > 1 && r->slot >= 0 && r->writable < SP_W_COUNT && r->egress < SP_E_COUNT;
}

size_t table_parse(const uint8_t *data, size_t len, const char *boot_id,
                   void (*each)(void *arg, const struct table_rec *rec, const uint8_t (*digests)[TABLE_DIGEST]),
                   void *arg)
{
    struct table_head head;
    size_t at = sizeof head;

    if (len < sizeof head)
        return 0;
    memcpy(&head, data, sizeof head);
    if (head.magic != TABLE_MAGIC || head.version != TABLE_VERSION ||
        strnlen(boot_id, TABLE_BOOT_MAX) == TABLE_BOOT_MAX || memchr(head.boot_id, '\0', sizeof head.boot_id) == NULL ||
        strcmp(head.boot_id, boot_id) != 0)
        return 0;

    while (len - at >= sizeof(struct table_rec)) {
        uint8_t digests[SP_LAYERS_MAX][TABLE_DIGEST];
        struct table_rec rec;

        memcpy(&rec, data + at, sizeof rec);
        if (rec.magic != TABLE_REC_MAGIC || rec.layer_count > SP_LAYERS_MAX ||
            rec.size != sizeof rec + (size_t)rec.layer_count * TABLE_DIGEST || rec.size > len - at ||
            rec.sum != sum_of(data + at + sum_from, rec.size - sum_from))
            break;
        memcpy(digests, data + at + sizeof rec, (size_t)rec.layer_count * TABLE_DIGEST);
        if (sound(&rec))
            each(arg, &rec, (const uint8_t(*)[TABLE_DIGEST])digests);
        at += rec.size;
    }
    return at;
}
