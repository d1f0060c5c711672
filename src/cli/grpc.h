/* A gRPC client for one call at a time over one cleartext HTTP/2 connection (libnghttp2), driven by poll(2).
 *
 * Used by the command line and by the benchmarks. Not for many calls at once. */
#pragma once

#include <poll.h>
#include <protobuf-c/protobuf-c.h>

#include "cli/cli.h"

struct grpc;

int grpc_open(const struct cli *c, struct grpc **ret, struct err *e);
void grpc_close(struct grpc *g); /* NULL is fine */

/* Starts a call. MESSAGE gets each whole message of the reply; its return value below 0 ends grpc_turn with it. */
int grpc_start(struct grpc *g, const char *path, int (*message)(void *arg, const uint8_t *data, size_t len), void *arg,
               struct err *e);
/* Queues one message of the request. */
int grpc_send(struct grpc *g, const ProtobufCMessage *msg, struct err *e);
/* The request is complete. */
int grpc_half_close(struct grpc *g, struct err *e);
/* Bytes of the request not yet written: callers stop reading their input above some mark. */
size_t grpc_backlog(const struct grpc *g);
/* Waits for the connection or for EXTRA (may be NULL; its revents are filled) and moves bytes. Returns 1 when the call has ended
 * well, 0 to go on, or a negative errno with the call's status in E. */
int grpc_turn(struct grpc *g, struct pollfd *extra, int timeout_ms, struct err *e);
/* One unary call: sends IN, unpacks the reply with OUT (free with protobuf_c_message_free_unpacked). */
int grpc_unary(struct grpc *g, const char *path, const ProtobufCMessage *in, const ProtobufCMessageDescriptor *out,
               ProtobufCMessage **ret, struct err *e);
