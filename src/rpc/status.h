/* How a call's end travels: grpc-status, grpc-message, grpc-status-details-bin; and grpc-timeout. */
#pragma once

#include "rpc/rpc.h"

enum {
    RPC_DETAILS_MAX = 3072,                               /* encoded google.rpc.Status */
    RPC_DETAILS_TEXT = (RPC_DETAILS_MAX + 2) / 3 * 4 + 1, /* in base64, with the NUL */
    RPC_TRAILERS = 4,
};

/* Fields that point into the struct itself: do not copy it. */
struct rpc_status {
    struct http_field fields[RPC_TRAILERS];
    unsigned count;
    char code[4];
    char message[3 * RPC_STATUS_MSG_MAX + 1];
    char details[RPC_DETAILS_TEXT];
};

/* Fills S for E (NULL = OK). SERVICE may be NULL: no details then. TRAILERS_ONLY puts the content-type in front. */
void rpc_status_fill(struct rpc_status *s, const struct err *e, const struct rpc_service *service, bool trailers_only);
const char *rpc_code_name(enum rpc_code code);
/* Parses a grpc-timeout value into nanoseconds: 1 to 8 digits and a unit of H M S m u n. 0 or -EINVAL. */
int rpc_timeout_parse(const char *s, uint64_t *ret_ns);
