/* deps: base wire; sources: src/spawner/validate.c */
/* A request for a sandbox as a compromised silicad would send it: body, then tail. */
#include <string.h>

#include "spawner/validate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct wire_head head = {.type = SP_CREATE};
    static struct box_plan plan;
    struct sp_create c;
    struct wire_msg m = {.head = &head, .body = &c, .body_len = sizeof c};
    struct err e = {0};

    if (size < sizeof c)
        return 0;
    memcpy(&c, data, sizeof c);
    m.tail = (const char *)data + sizeof c;
    m.tail_len = size - sizeof c;
    if (validate_create(&m, &plan, &e) == 0 &&
        (!box_id_ok(plan.id) || !hostname_ok(plan.hostname) || plan.layer_count == 0))
        __builtin_trap();
    return 0;
}
