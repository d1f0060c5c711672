/* What exec.c, exec-out.c and exec-in.c share. Loop thread only.
 *
 * Callbacks may abandon the exec they are called for. Whatever the loop or proc.c calls here therefore holds it with
 * exec_enter() and lets go with exec_leave(), which frees an abandoned one; in between `dead` is looked at after each
 * callback. */
#pragma once

#include "engine/engine-internal.h"

enum {
    EXEC_READS_PER_TURN = 4,  /* of one stream: a flood of one exec does not starve the others */
    EXEC_COPY_MAX = 32 << 10, /* up to this a read is copied into a chunk of its size, above the buffer goes itself */
    EXEC_PIPE_SIZE = 1 << 20, /* of a busy pipe */
    EXEC_DRAIN_PTY = 1 << 20, /* read from a terminal after the end of its process */
    EXEC_HOLD_MS = 10,        /* the first bytes of a character wait this long for the rest of it */
};

struct exec_out {
    struct exec *exec;
    int stream; /* 1 or 2 */
    int fd;
    bool pty, enlarged;
    struct io io;
    struct timer hold;
    uint8_t held[3]; /* the beginning of a character */
    unsigned held_len;
    size_t left; /* once the process is over: what is still to be read */
    uint64_t bytes;
};

struct exec_block {
    STAILQ_ENTRY(exec_block) link;
    size_t off, len;
    uint8_t data[];
};
STAILQ_HEAD(exec_blocks, exec_block);

struct exec_in {
    int fd;
    bool pty, enlarged;
    bool wanted;  /* takes input at all */
    bool closing; /* no input after what is queued */
    bool full;    /* the caller waits for stdin_drained */
    bool mid_line;
    struct io io;
    struct exec_blocks blocks;
    size_t queued;
};

struct exec {
    struct engine *en;
    struct box *box;   /* NULL once the process is over */
    struct proc *proc; /* likewise */
    char box_id[ID_MAX];
    const struct exec_ops *ops;
    void *arg;
    bool tty;
    bool paused; /* until exec_resume() */
    bool over;   /* its fate is known; output may be left */
    bool finishing;
    bool torn; /* output was lost: no exit code can make up for that */
    bool dead;
    unsigned busy;
    bool resized;
    uint16_t rows, cols;
    struct exec_out out[2];
    struct exec_in in;
    struct exec_result res;
    struct defer kick;
    struct op *stat;
};

void exec_enter(struct exec *x);
void exec_leave(struct exec *x);
/* After anything that may have been the last thing. */
void exec_check_end(struct exec *x);

/* exec-out.c */
void exec_out_init(struct exec *x, int stream);
int exec_out_start(struct exec_out *o, int fd, bool pty);
/* Reads what is there, a few times. */
void exec_out_read(struct exec_out *o);
void exec_out_pause(struct exec_out *o);
int exec_out_continue(struct exec_out *o);
/* The process is over: what the pipe holds now is still to come, nothing later. */
void exec_out_last(struct exec_out *o);
void exec_out_fini(struct exec_out *o);
/* Hands C to the caller. */
void exec_deliver(struct exec *x, int stream, struct chunk *c);

/* exec-in.c */
void exec_in_init(struct exec_in *in);
void exec_in_start(struct exec *x, int fd, bool pty);
void exec_in_fini(struct exec_in *in);
