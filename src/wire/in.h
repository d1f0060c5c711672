/* silicad <-> silica-init, the PID 1 of one sandbox.
 *
 * One SOCK_SEQPACKET pair per sandbox, made by the spawner. Init finds its end at IN_FD. Both ends are in trusted
 * code, but a sandbox could one day take over its init: silicad validates everything it receives here and treats it
 * as a claim about that one sandbox only.
 *
 *   silicad                              init
 *   IN_HELLO {epoch}                 ->         drops requests of older epochs; foreground processes of older epochs are
 *                                               killed as trees; answers:
 *                                    <- IN_TABLE {count}, then count x IN_ENTRY (+ fds), then nothing: normal traffic
 *   IN_USER {text}                   -> IN_USER_IS | IN_FAILED
 *   IN_SPAWN {...}                   -> IN_SPAWNED + [fds] | IN_FAILED
 *   IN_EXITED {token...} event       ->silicad; kept and repeated after the next HELLO until IN_ACK {token}
 *   IN_KILL, IN_OPEN ...             -> IN_OK | IN_OPENED + [fd] | IN_FAILED
 *
 * A peer that sends something malformed, or anything before HELLO, is cut off: init closes the connection, keeps
 * everything running and waits for the next one on IN_LISTEN_FD. A HELLO of an older epoch than the newest seen is not
 * answered. Spawns, opens and connects that were not answered yet are undone by the HELLO of a newer epoch.
 *
 * Tokens of spawned processes are chosen by silicad, unique for the life of the sandbox, and name the process for
 * ever after (never a pid: pids are reused). */
#pragma once

#include "wire/wire.h"

enum {
    IN_FD = 3,         /* where init finds its socket */
    IN_CGROUP_FD = 4,  /* O_DIRECTORY fd of the sandbox's cgroup v2 directory, owned by the sandbox's root */
    IN_SECCOMP_FD = 5, /* sealed memfd with the BPF program (array of struct sock_filter) */
    IN_LISTEN_FD =
        6, /* listening SOCK_SEQPACKET socket. At end of file on IN_FD (spawner and silicad are gone) init accepts ONE
                         * new connection here, which takes the place of IN_FD (also when it comes before end of file on the old
                         * one: the newest wins) and starts with IN_HELLO. Only root of the host can reach its path. */
    IN_GROUPS_MAX = 64,
    IN_ARG_MAX = 128 << 10,      /* one string, with NUL (MAX_ARG_STRLEN) */
    IN_ARGS_TOTAL_MAX = 2 << 20, /* argv + env with NULs */
    IN_ARGC_MAX = 65536,
    IN_PATH_MAX = 4096,
    IN_PROCS_MAX = 4096, /* spawned and not yet acknowledged */
};

enum in_type {
    IN_HELLO = 1, /* silicad -> init */
    IN_USER,
    IN_SPAWN,
    IN_KILL,
    IN_ACK,
    IN_OPEN,
    IN_CONNECT,
    IN_CLOSE_STDIN,

    IN_TABLE = 64, /* init -> silicad */
    IN_ENTRY,
    IN_USER_IS,
    IN_SPAWNED,
    IN_EXITED,
    IN_OPENED,
    IN_CONNECTED,
    IN_OK,
    IN_FAILED,
};

enum in_kind {
    IN_MAIN = 1, /* its end is the sandbox's end; silicad decides that */
    IN_EXEC,     /* foreground: killed as a tree when its silicad dies */
    IN_SESSION,  /* a persistent shell */
    IN_BACKGROUND,
    IN_TERMINAL, /* a pty that outlives its reader */
    IN_KIND_COUNT,
};

enum in_spawn_flags {
    IN_S_STDIN = 1 << 0, /* a pipe for stdin; else /dev/null */
    IN_S_TTY = 1 << 1,   /* a pty: one fd for everything; excludes the others */
    IN_S_MERGE = 1 << 2, /* stdout and stderr are one pipe (the order of writes is kept) */
    IN_S_NO_NEW_PRIVS = 1 << 3,
};

struct in_hello {
    uint64_t epoch;
};
struct in_table {
    uint64_t epoch;
    uint32_t count; /* IN_ENTRY messages that follow */
    uint32_t pad;
};
enum in_state { IN_RUNNING = 1, IN_ENDED };
/* + fds of a main, session, background or terminal process, as in in_spawned, also of one that has ended: what it wrote
 * may still be in its pipes. After IN_CLOSE_STDIN the flags come without IN_S_STDIN. A foreground process that ended
 * unacknowledged comes without fds, and so does any process whose fds could not be passed. */
struct in_entry {
    uint32_t kind, state;
    int32_t pid;
    uint32_t flags; /* in_spawn_flags */
};

/* Look up an image USER ("", "name", "uid", "name:group", "uid:gid") in the sandbox's /etc/passwd and /etc/group. */
struct in_user {
    struct wire_str user;
};
struct in_user_is {
    uint32_t uid, gid, ngroups;
    uint32_t groups[IN_GROUPS_MAX];
    uint32_t pad;
    struct wire_str home; /* "/" when there is no entry */
    struct wire_str name; /* absent when there is no entry */
};

/* token = the new process's name, not 0. CWD is absolute; absent = "/". fds back, all non-blocking: TTY: [master]; else
 * [stdin write end, if IN_S_STDIN], [stdout read end], [stderr read end, unless IN_S_MERGE]. The program is searched
 * along PATH of ENV when argv[0] has no slash. */
struct in_spawn {
    uint32_t kind, flags;
    uint32_t uid, gid, ngroups;
    uint32_t groups[IN_GROUPS_MAX];
    uint16_t rows, cols; /* TTY */
    struct wire_str cwd; /* must exist, except that a missing one is made when cwd_create is 1 */
    uint32_t cwd_create;
    struct wire_vec argv; /* at least one string */
    struct wire_vec env;  /* complete; init adds nothing */
};
struct in_spawned {
    int32_t pid; /* in the sandbox's pid namespace */
    uint32_t pad;
};

/* Where a request failed: `stage` decides what a dialect tells its user. */
enum in_stage {
    IN_ST_OTHER,
    IN_ST_FORK, /* clone: EAGAIN = pids limit */
    IN_ST_CWD,
    IN_ST_USER,
    IN_ST_EXEC, /* ENOENT = 127, EACCES/ENOEXEC = 126 in a shell's words */
    IN_ST_OPEN,
    IN_ST_LIMIT, /* IN_PROCS_MAX, IN_ARG_MAX ... */
};
struct in_failed {
    int32_t code; /* negative errno */
    uint32_t stage;
    struct wire_str msg;
};

enum in_cause { IN_C_UNKNOWN, IN_C_EXITED, IN_C_SIGNALED };
/* An event; token names the process. Everything it wrote is in its pipes already. */
struct in_exited {
    int32_t pid;
    uint32_t cause;
    int32_t code; /* exit code or signal number */
    uint32_t core_dumped;
    uint64_t start_ns, end_ns; /* CLOCK_REALTIME */
    uint64_t utime_us, stime_us;
    uint64_t maxrss_kib;
};

/* token = the process. signal 1..64. tree = 1: SIGKILL to everything that descends from it, whatever it did to hide
 * (`signal` is ignored); 0: the process group of the process. Answer IN_OK with ESRCH-free meaning: an ended process is OK. */
struct in_kill {
    uint32_t signal, tree;
};
struct in_ack {
    uint64_t pad;
};

enum in_open_flags {
    IN_O_READ = 1 << 0,
    IN_O_WRITE = 1 << 1,   /* create or truncate */
    IN_O_PARENTS = 1 << 2, /* make missing parent directories (0755) */
    IN_O_APPEND = 1 << 3,
    IN_O_EXCL = 1 << 4,
};
/* Opens a file as the given user inside the sandbox's root, never through magic links. A path that is not absolute is
 * taken relative to CWD. Done in a child of init with a deadline: a stuck file system answers ETIMEDOUT.
 * Answer IN_OPENED + [fd]. The fd is of a regular file, or a pipe pumped by a helper when `pumped` is 1 (a FIFO, a
 * device, a procfs file or one of a file system init does not know, which could block or have no size). The pipe is
 * non-blocking; for anything but files of the kernel's own file systems the helper ends at the deadline. A pump's answer has
 * a second fd, a pipe that gives an int32_t once everything has been moved: 0, or the negative errno that stopped it. End of
 * file without it: the pump was cut off, and what came is not the whole. Directories: IN_FAILED EISDIR. */
struct in_open {
    uint32_t flags, mode; /* mode for creation, 0 = 0644 */
    uint32_t uid, gid, ngroups;
    uint32_t groups[IN_GROUPS_MAX];
    uint32_t timeout_ms; /* 0 = 10000 */
    struct wire_str path, cwd;
};
struct in_opened {
    uint64_t size;
    uint32_t mode; /* st_mode */
    uint32_t pumped;
    uint32_t uid, gid; /* inside the sandbox */
    uint64_t mtime_ns;
};
/* Connect to 127.0.0.1 (then ::1) PORT inside the sandbox's network namespace. Answer IN_CONNECTED + [socket], or
 * IN_FAILED with connect's errno. */
struct in_connect {
    uint32_t port, timeout_ms;
};
struct in_connected {
    uint32_t pad[2];
};
/* token = a process with IN_S_STDIN. Init keeps a duplicate of the write end (see in_entry), so closing the one silicad
 * holds is not yet an end of file for the process: this drops init's duplicate. No answer. */
struct in_close_stdin {
    uint64_t pad;
};
struct in_ok {
    uint32_t pad[2];
};

int in_body_size(uint16_t type);
