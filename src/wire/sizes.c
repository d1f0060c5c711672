/* Body sizes by message type, and the proof that no body has padding the compiler chose: fixed layouts only. */
#include "wire/im.h"
#include "wire/in.h"
#include "wire/sp.h"

#define LAYOUT(type, bytes) _Static_assert(sizeof(struct type) == (bytes), "wire protocol: layout of " #type)

LAYOUT(sp_hello, 40);
LAYOUT(sp_create, 112);
LAYOUT(sp_created, 32);
LAYOUT(sp_failed, 16);
LAYOUT(sp_adopt, 32);
LAYOUT(sp_gone, 32);
LAYOUT(sp_stats, 56);
LAYOUT(sp_imager, 24);
LAYOUT(im_layer, 56);
LAYOUT(im_failed, 16);
LAYOUT(in_user_is, 288);
LAYOUT(in_spawn, 316);
LAYOUT(in_exited, 56);
LAYOUT(in_open, 296);
LAYOUT(in_opened, 32);
LAYOUT(in_failed, 16);

int sp_body_size(uint16_t type)
{
    switch ((enum sp_type)type) {
    case SP_HELLO:
        return sizeof(struct sp_hello);
    case SP_ADOPT:
        return sizeof(struct sp_adopt);
    case SP_GONE:
        return sizeof(struct sp_gone);
    case SP_STOP:
        return sizeof(struct sp_stop);
    case SP_CREATED:
        return sizeof(struct sp_created);
    case SP_FAILED:
        return sizeof(struct sp_failed);
    case SP_STATS:
        return sizeof(struct sp_stats);
    case SP_DONE:
    case SP_READY:
        return sizeof(struct sp_ready);
    case SP_IMAGER_UP:
        return sizeof(struct sp_created_imager);
    case SP_CREATE:
        return sizeof(struct sp_create);
    case SP_KILL:
        return sizeof(struct sp_kill);
    case SP_STAT:
        return sizeof(struct sp_stat);
    case SP_FORGET:
        return sizeof(struct sp_forget);
    case SP_IMAGER:
        return sizeof(struct sp_imager);
    case SP_LAYER_RM:
        return sizeof(struct sp_layer_rm);
    }
    return -1;
}

int im_body_size(uint16_t type)
{
    switch ((enum im_type)type) {
    case IM_LAYER:
        return sizeof(struct im_layer);
    case IM_FAILED:
        return sizeof(struct im_failed);
    }
    return -1;
}

int in_body_size(uint16_t type)
{
    switch ((enum in_type)type) {
    case IN_HELLO:
        return sizeof(struct in_hello);
    case IN_USER:
        return sizeof(struct in_user);
    case IN_SPAWN:
        return sizeof(struct in_spawn);
    case IN_KILL:
        return sizeof(struct in_kill);
    case IN_ACK:
        return sizeof(struct in_ack);
    case IN_OPEN:
        return sizeof(struct in_open);
    case IN_CONNECT:
        return sizeof(struct in_connect);
    case IN_CLOSE_STDIN:
        return sizeof(struct in_close_stdin);
    case IN_TABLE:
        return sizeof(struct in_table);
    case IN_ENTRY:
        return sizeof(struct in_entry);
    case IN_USER_IS:
        return sizeof(struct in_user_is);
    case IN_SPAWNED:
        return sizeof(struct in_spawned);
    case IN_EXITED:
        return sizeof(struct in_exited);
    case IN_OPENED:
        return sizeof(struct in_opened);
    case IN_CONNECTED:
        return sizeof(struct in_connected);
    case IN_OK:
        return sizeof(struct in_ok);
    case IN_FAILED:
        return sizeof(struct in_failed);
    }
    return -1;
}
