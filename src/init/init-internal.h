/* What the parts of silica-init share.
 *
 * One thread, one epoll loop, one struct init. Nothing here waits for the sandbox: whatever might (opening a path,
 * reading a device, reaching exec) happens in a child, and the loop hears of it through a pipe or socket. Memory is
 * bounded: processes by IN_PROCS_MAX, helpers by HELPERS_MAX, answers by "to do" marks in those tables instead of queued
 * messages. While silicad does not read its socket, init does not read silicad's requests. */
#pragma once

#include <signal.h>
#include <sys/resource.h>

#include "base/fd.h"
#include "init/list.h"
#include "init/plan.h"

struct init;

/* Something epoll watches. Freed only at the end of a turn (see bury), since one batch of events may name it twice. */
struct source {
    int fd;    /* -1 = not watched */
    bool dead; /* events that are still in the batch are for nobody */
    void (*ready)(struct init *in, struct source *s, uint32_t events);
    struct source *next_grave;
};

/* oom_score_adj of what init starts; its own stays 0. */
#define OOM_SCORE_MAIN "100"
#define OOM_SCORE_COMMAND "200"

enum {
    HELPERS_MAX = 64,         /* opens, pumps and connects at a time */
    SPAWN_TIMEOUT_MS = 10000, /* from clone to exec */
    REAP_PER_TURN = 512,      /* children reaped before the control socket is looked at again */
    REQUESTS_PER_TURN = 16,   /* requests read before everything else gets its turn */
    TABLE_BUCKETS = 512,
    STRAY_RETRIES = 4,    /* old cgroups looked at again whenever a process ends */
    NAME_MAX_BYTES = 255, /* of one file name */
    EXIT_SETUP = 70,      /* init's own exit codes: something it was given is missing or refused */
};

/* What is still to be told to silicad about a process; sent in this order. */
enum todo { TODO_ENTRY = 1 << 0, TODO_SPAWNED = 1 << 1, TODO_FAILED = 1 << 2, TODO_EXITED = 1 << 3 };

enum proc_state {
    PROC_STARTING, /* cloned, not yet known to have reached exec */
    PROC_UP,       /* exec succeeded */
    PROC_FAILED,   /* never reached exec */
};

/* A process silicad asked for. It stays until it is reaped and silicad has acknowledged it (or is not to hear of it). */
struct proc {
    struct source status; /* read end of the pipe that closes on exec; first member */
    struct link all, starting, sendq, entryq;
    struct proc *next_token, *next_pid;
    uint64_t token, epoch, deadline; /* deadline: monotonic ms, while starting */
    uint32_t kind, flags;
    enum proc_state state;
    unsigned todo;
    bool reaped, forgotten; /* forgotten: silicad has acknowledged it, or must not hear of it any more */
    int fds[3];             /* ends for silicad, in the order of in_spawned */
    unsigned nfds;
    int fail_code;
    uint32_t fail_stage;
    struct in_exited end; /* pid and start_ns from the beginning */
};

/* A child cgroup that outlived its process because descendants live in it. */
struct stray {
    struct link all;
    uint64_t token;
    int watch; /* inotify watch on its cgroup.events, or -1 */
};

/* An open or connect under way, or a pump that still moves bytes. */
enum { OPEN_FDS_MAX = 2 }; /* a file, or a pump's data and its verdict */
struct helper {
    struct source source; /* the child's socket, or the socket being connected; first member */
    struct link all;
    uint64_t token, deadline; /* monotonic ms, 0 = none */
    int pid;                  /* of the child that is not yet reaped; 0 = none */
    bool is_connect, v6, ready, answered;
    uint32_t port;
    int fds[OPEN_FDS_MAX]; /* to hand over with the answer */
    unsigned nfds;
    int code; /* negative errno, 0 = fine */
    struct in_opened opened;
};

struct init {
    int epoll, root_fd, proc_fd, pts_fd, null_fd, cgroup_fd, inotify_fd;
    struct source control, listener, children, strays_source;
    bool greeted;            /* the control connection has begun with a HELLO */
    bool blocked;            /* the control socket is full: nothing is read until everything is sent */
    uint32_t control_events; /* what epoll watches on it */
    uint64_t epoch;
    uint64_t retry_at; /* monotonic ms: try to send again although no event will tell; 0 = not needed */

    /* The one answer that is not derived from a table. */
    bool held;
    uint16_t held_type;
    uint64_t held_token;
    char held_body[sizeof(struct in_user_is)];
    size_t held_len;
    struct wire_tail held_tail;

    struct proc *by_token[TABLE_BUCKETS], *by_pid[TABLE_BUCKETS];
    struct link procs, starting, sendq, entryq, helpers, strays, unwatched;
    unsigned proc_count, stray_count, helper_count;
    bool reap_more;
    struct source *graves;
    struct rlimit nofile; /* as given to the sandbox's processes; init itself raises its own */
};

/* main.c */
uint64_t now_ms(void);
int watch(struct init *in, struct source *s, uint32_t events);
/* Stops watching and closes; the memory may be named by events of this turn until bury(). */
void unwatch(struct init *in, struct source *s);
/* Frees S (first member of its struct) at the end of the turn. */
void bury(struct init *in, struct source *s);

/* control.c: the connection to silicad. */
void control_ready(struct init *in, struct source *s, uint32_t events);
void control_accept(struct init *in, struct source *s, uint32_t events);
/* Sends what is to be sent, until the socket is full. */
void control_flush(struct init *in);
void control_answer(struct init *in, uint16_t type, uint64_t token, const void *body, size_t len);
/* Takes TAIL over. */
void control_answer_tail(struct init *in, uint16_t type, uint64_t token, const void *body, size_t len,
                         struct wire_tail *tail);
/* One message straight from a table. Returns 0, -EAGAIN (full: keep the mark), -ETOOMANYREFS (the fds cannot be passed), or
 * -EPIPE (the connection is gone). */
int control_send_fds(struct init *in, uint16_t type, uint64_t token, const void *body, size_t len, const int *fds,
                     unsigned nfds);
int control_send_failed(struct init *in, uint64_t token, int code, uint32_t stage);
void control_refuse(struct init *in, uint64_t token, int code, uint32_t stage, const char *why);

/* table.c: processes. */
struct proc *proc_find(struct init *in, uint64_t token);
struct proc *proc_find_pid(struct init *in, int pid);
void proc_insert(struct init *in, struct proc *p);

void proc_close_fds(struct proc *p);
void proc_todo(struct init *in, struct proc *p, unsigned todo);
/* P has been reaped: notes how it ended. */
void proc_reaped(struct init *in, struct proc *p, int status, const struct rusage *used, uint64_t now_ns);
/* Frees P once nobody needs it any more. */
void proc_settle(struct init *in, struct proc *p);
/* Silicad is not to hear of P again. */
void proc_forget(struct init *in, struct proc *p);
/* A silicad of EPOCH said HELLO. Marks the entries to send and returns how many there are. */
uint32_t proc_greet(struct init *in, uint64_t epoch, bool newer);
/* These return 0 when everything is sent, or what control_send_fds returned. */
int proc_flush_entries(struct init *in);
int proc_flush(struct init *in);
/* cgroup.c */
/* SIGKILL to everything in the process's cgroup. Harmless when there is none. */
void cgroup_kill(struct init *in, uint64_t token);
/* Makes the cgroup for TOKEN; *RET_FD is its directory. */
int cgroup_make(struct init *in, uint64_t token, int *ret_fd);
/* Removes it, now or when its last process has gone. */
void cgroup_drop(struct init *in, uint64_t token);
void cgroup_event(struct init *in, struct source *s, uint32_t events);

/* spawn.c, child.c */
void spawn_request(struct init *in, const struct wire_msg *m);
void spawn_status(struct init *in, struct source *s, uint32_t events);
void spawn_expire(struct init *in, uint64_t now);

struct child_status {
    int32_t code;
    uint32_t stage;
};
struct child_io {
    int fds[3]; /* become 0, 1, 2; -1 = /dev/null */
    int tty;    /* the pty's other end, or -1 */
    int status;
};
_Noreturn void child_run(const struct init *in, const struct spawn_plan *p, const struct child_io *io);
/* Becomes WHO for good. UMASK is set too. Returns 0 or -errno. */
int child_become(const struct identity *who, bool no_new_privs);
/* Opens PATH's directory for O_PATH use, making what is missing (0755) when MAKE is set. Returns an fd or -errno. */
int child_open_dir(int root, const char *path, bool make);

/* reap.c */
void reap_children(struct init *in);
void reap_ready(struct init *in, struct source *s, uint32_t events);
void kill_request(struct init *in, const struct wire_msg *m);

/* helper.c, open.c */
void open_request(struct init *in, const struct wire_msg *m);
void connect_request(struct init *in, const struct wire_msg *m);
void helper_reaped(struct init *in, struct helper *h);
struct helper *helper_find_pid(struct init *in, int pid);
void helper_expire(struct init *in, uint64_t now);
void helper_drop_all(struct init *in);
/* Sends the answers that are due. Returns -EAGAIN when the socket is full. */
int helper_flush(struct init *in);
enum open_pumping {
    OPEN_NO_PUMP,      /* a regular file was handed out; the child is done */
    OPEN_PUMP_BOUNDED, /* the child moves bytes until its deadline at the latest */
    OPEN_PUMP_TO_END,  /* ... as long as it takes */
};
struct open_result {
    int32_t code; /* negative errno, or 0: one fd comes with it, or two when it is pumped */
    uint32_t pumping;
    struct in_opened opened;
};
_Noreturn void open_run(const struct open_plan *p, int sock);

/* lookup.c */
void user_request(struct init *in, const struct wire_msg *m);

/* setup.c: everything that is done once. Exits on failure. */
void setup(struct init *in);
