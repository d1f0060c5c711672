/* An engine and an RPC layer that do nothing by themselves: tests drive the dialect between the two. */
#pragma once

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/cw_v1/cw-internal.h"
#include "base/fd.h"

enum { FAKE_SENT_MAX = 64 };

/* ---- the RPC side ------------------------------------------------------------------------------------------------ */

struct rpc_call {
    const struct rpc_method *method;
    void *arg;
    void **allocs;
    unsigned alloc_count;
    ProtobufCMessage *msgs[FAKE_SENT_MAX]; /* unpacked requests */
    unsigned msg_count;
    CwBytes sent[FAKE_SENT_MAX];
    unsigned sent_count;
    bool finished, stuck /* not writable */, paused, no_room /* for a large reply */;
    struct err err; /* code 0 = OK */
    int send_error; /* what rpc_send and rpc_send_chunk return, when not 0 */
};

/* Starts a call of the dialect's method NAME ("GetSandbox"); its `open` runs. */
struct rpc_call *fake_call(const char *name);
/* Delivers a message as its wire bytes. */
void fake_say(struct rpc_call *c, const ProtobufCMessage *msg);
void fake_say_bytes(struct rpc_call *c, const void *data, size_t len);
void fake_half_close(struct rpc_call *c);
void fake_gone(struct rpc_call *c, enum rpc_why why); /* unless finished */
/* Checks that it is over. */
void fake_call_free(struct rpc_call *c);
/* The Nth message that was sent, unpacked as D; free with protobuf_c_message_free_unpacked(m, NULL). */
ProtobufCMessage *fake_sent(struct rpc_call *c, unsigned n, const ProtobufCMessageDescriptor *d);
const char *fake_meta(const struct rpc_call *c, const char *key); /* of the error, or NULL */

/* ---- the engine side ---------------------------------------------------------------------------------------------- */

struct op {
    bool dropped, live;
    box_cb box;
    file_cb file;
    void *arg;
};

struct exec {
    const struct exec_ops *ops;
    void *arg;
    bool live, abandoned, input_closed, resumed;
    struct buf input;
    bool input_full;
    uint16_t rows, cols;
};

struct log_reader {
    const struct log_ops *ops;
    void *arg;
    bool live, closed, resumed;
};

/* What the dialect asked for last, and what the fake answers. */
struct fake {
    struct box_info boxes[8]; /* known sandboxes, in the order of their ids */
    unsigned box_count;
    unsigned creates, stops, execs, reads, writes, log_opens;
    char *spec_text; /* of the last create, one line a field */
    struct buf echo;
    char *exec_text; /* of the last exec */
    struct box_filter filter;
    uint32_t grace;
    char why[128], path[256];
    struct buf content;
    struct op op;
    bool no_memory;    /* operations return NULL */
    struct err refuse; /* engine_exec and engine_logs fail with it, when its code is not 0 */
    struct exec exec;
    struct log_reader reader;
    struct log_spec log;
    struct runner_info runner;
};
extern struct fake fake;

/* Forgets everything; cmocka setup. */
int fake_reset(void **state);
int fake_clear(void **state);
struct box_info fake_box(const char *id, enum box_state state);
struct chunk *fake_chunk(const char *text);

/* Shorthands. */
CwBytes bytes(const char *text);
