#include "rpc/unpack.h"

#include <stdlib.h>
#include <string.h>

#include "base/fd.h"

/* A field of the top level: its number, and where its tag and its payload are. */
struct field {
    uint64_t id;
    unsigned wire;
    const uint8_t *tag, *data;
    size_t len;
};

static bool varint(const uint8_t **p, const uint8_t *end, uint64_t *ret)
{
    uint64_t v = 0;

    for (unsigned shift = 0; shift < 64 && *p < end; shift += 7) {
        uint8_t b = *(*p)++;

        v |= (uint64_t)(b & 0x7f) << shift;
        if (b < 0x80) {
            *ret = v;
            return true;
        }
    }
    return false;
}

/* Reads the field at *P. False at what only the real decoder should judge. */
static bool next_field(const uint8_t **p, const uint8_t *end, struct field *ret)
{
    uint64_t tag, len;

    ret->tag = *p;
    if (!varint(p, end, &tag))
        return false;
    ret->id = tag >> 3;
    ret->wire = tag & 7;
    switch (ret->wire) {
    case PROTOBUF_C_WIRE_TYPE_VARINT:
        ret->data = *p;
        if (!varint(p, end, &len))
            return false;
        ret->len = (size_t)(*p - ret->data);
        return true;
    case PROTOBUF_C_WIRE_TYPE_64BIT:
        len = 8;
        break;
    case PROTOBUF_C_WIRE_TYPE_32BIT:
        len = 4;
        break;
    case PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED:
        if (!varint(p, end, &len))
            return false;
        break;
    default:
        return false;
    }
    if (len > (uint64_t)(end - *p))
        return false;
    ret->data = *p;
    ret->len = (size_t)len;
    *p += len;
    return true;
}

static const ProtobufCFieldDescriptor *graftable(const ProtobufCMessageDescriptor *desc, const struct field *f)
{
    const ProtobufCFieldDescriptor *d;

    if (f->wire != PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED || f->len < RPC_GRAFT_MIN || f->id > UINT32_MAX)
        return NULL;
    d = protobuf_c_message_descriptor_get_field(desc, (unsigned)f->id);
    if (d == NULL || d->type != PROTOBUF_C_TYPE_BYTES || (d->flags & PROTOBUF_C_FIELD_FLAG_ONEOF))
        return NULL;
    return d->label == PROTOBUF_C_LABEL_NONE || d->label == PROTOBUF_C_LABEL_OPTIONAL ? d : NULL;
}

/* Finds the one field that is worth grafting, and none else of its number: the last of several would have to win. */
static const ProtobufCFieldDescriptor *find(const ProtobufCMessageDescriptor *desc, const uint8_t *data, size_t len,
                                            struct field *ret)
{
    const ProtobufCFieldDescriptor *found = NULL;
    const uint8_t *p = data, *end = data + len;
    struct field f;

    while (p < end) {
        const ProtobufCFieldDescriptor *d;

        if (!next_field(&p, end, &f))
            return NULL;
        d = graftable(desc, &f);
        if (d != NULL && found == NULL) {
            found = d;
            *ret = f;
        } else if (found != NULL && f.id == found->id) {
            return NULL;
        }
    }
    if (found == NULL)
        return NULL;
    /* A small one of the same number may have come before. */
    for (p = data; p < ret->tag;) {
        if (!next_field(&p, end, &f) || f.id == found->id)
            return NULL;
    }
    return found;
}

ProtobufCMessage *rpc_unpack(struct rpc_arena *a, const ProtobufCMessageDescriptor *desc, const uint8_t *data,
                             size_t len, bool stays)
{
    ProtobufCAllocator allocator = rpc_arena_allocator(a);
    const ProtobufCFieldDescriptor *d = NULL;
    AUTO_FREE uint8_t *rest = NULL;
    ProtobufCMessage *msg;
    struct field f;
    size_t before, after;

    if (stays && len >= RPC_GRAFT_MIN)
        d = find(desc, data, len, &f);
    if (d == NULL)
        return protobuf_c_message_unpack(desc, &allocator, len, data);

    /* Decode what is around the field, then let the field point into the received bytes. */
    before = (size_t)(f.tag - data);
    after = (size_t)(data + len - (f.data + f.len));
    rest = malloc(before + after + 1);
    if (rest == NULL) {
        a->full = true;
        return NULL;
    }
    memcpy(rest, data, before);
    memcpy(rest + before, f.data + f.len, after);
    msg = protobuf_c_message_unpack(desc, &allocator, before + after, rest);
    if (msg == NULL)
        return NULL;
    *(ProtobufCBinaryData *)(void *)((uint8_t *)msg + d->offset) =
        (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)f.data, .len = f.len};
    if (d->label == PROTOBUF_C_LABEL_OPTIONAL)
        *(protobuf_c_boolean *)(void *)((uint8_t *)msg + d->quantifier_offset) = 1;
    return msg;
}
