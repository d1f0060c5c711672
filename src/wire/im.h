/* The imager's answer: one message on its result socket, sent once, then end of file. End of file without a message
 * means that the imager died. */
#pragma once

#include "wire/wire.h"

enum im_type { IM_LAYER = 1, IM_FAILED };

struct im_layer {
    uint64_t tar_bytes, unpacked_bytes, entries;
    uint32_t skipped_devices, stripped_xattrs;
    struct wire_str digest; /* sha256 of the uncompressed tar, lower-case hex */
    struct wire_vec notes;  /* sentences for people: what was skipped */
    uint32_t pad;
};
struct im_failed {
    int32_t code;
    uint32_t kind; /* enum err_kind */
    struct wire_str msg;
};
int im_body_size(uint16_t type);
