/* File descriptors that came from an init: a claim, checked before use, and read and written without trusting their flags.
 *
 * The other side holds the same open file description and could clear O_NONBLOCK at any moment, so a plain read(2) could
 * stop the loop for ever. Pipes are therefore read by vmsplice(2) with SPLICE_F_NONBLOCK, which is per call, copies into
 * the buffer and costs what read(2) costs (0.32 against 0.29 us for 1 KiB, 5.7 against 5.5 us for 64 KiB); preadv2 with
 * RWF_NOWAIT cannot do pipes before Linux 6.4. A pty has no such call: its flag is looked at before each use, which leaves
 * a window to an init that is fully taken over. Thread: any. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum given_kind {
    GIVEN_PIPE_READ,
    GIVEN_PIPE_WRITE,
    GIVEN_PTY_MASTER,
    GIVEN_FILE_READ,
    GIVEN_FILE_WRITE,
    GIVEN_SOCKET
};

/* True when FD is what KIND says: type and access mode; a file must be regular, on a file system of the kernel's own (a FUSE
 * file could block for ever), and not O_PATH. */
bool given_fd_is(int fd, enum given_kind kind);
/* Makes FD non-blocking. 0 or a negative errno. */
int given_fd_prepare(int fd);

/* Bytes, 0 at end of file (a hung-up pty too), -EAGAIN, or another negative errno. Never blocks on a pipe. */
ssize_t given_fd_read(int fd, bool pty, void *buf, size_t len);
ssize_t given_fd_write(int fd, bool pty, const void *buf, size_t len);
/* What a pipe holds now. */
size_t given_fd_pending(int fd);
