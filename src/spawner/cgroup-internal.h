/* Between cgroup.c and its two drivers. Both are called for every sandbox: v2 always owns membership, each of the three
 * controllers belongs to whichever hierarchy the host gave it to. */
#pragma once

#include "spawner/drivers.h"

enum cg_controller { CG_MEMORY, CG_CPU, CG_PIDS, CG_CONTROLLERS };
extern const char *const cg_controller_name[CG_CONTROLLERS];

enum { CG_PATH_MAX = 512, CG_TEXT_MAX = 4096 };

struct cg_host {
    char dir[64];             /* "silica-<tag>" */
    bool has[CG_CONTROLLERS]; /* some driver has it */
    const char *v2_given;     /* by cgs_parent(), or NULL */
    char v2_mount[CG_PATH_MAX];
    int v2_fd; /* <v2 mount>/.../silica-<tag> */
    int v2_parent_fd;
    bool v2_has[CG_CONTROLLERS];
    int v1_fd[CG_CONTROLLERS]; /* <v1 mount>/.../silica-<tag>, or -1 */
    int v1_parent_fd[CG_CONTROLLERS];
};
extern struct cg_host cg_host;

struct cg_driver {
    const char *name;
    int (*init)(struct err *e);
    int (*create)(const char *id, const struct cg_limits *lim, uint32_t uid_base, struct err *e);
    int (*enter)(const char *id, pid_t pid, struct err *e);
    void (*stats)(const char *id, struct sp_stats *st); /* fills what it knows */
    int (*remove)(const char *id);                      /* 0 also when there is none */
    void (*fini)(void);
};
extern const struct cg_driver cg_v1, cg_v2;

/* Files of a cgroup. NAME is relative to DIRFD. */
int cg_open_dir(int dirfd, const char *name);
int cg_write(int dirfd, const char *id, const char *name, const char *text);
int cg_write_u64(int dirfd, const char *id, const char *name, uint64_t value);
/* Reads up to CG_TEXT_MAX - 1 bytes and terminates them. */
int cg_read(int dirfd, const char *id, const char *name, char text[CG_TEXT_MAX]);
/* The number a file consists of; "max" and what cannot be read give 0. */
uint64_t cg_read_u64(int dirfd, const char *id, const char *name);
/* The number behind KEY in a file of "key number" lines, 0 when there is none. */
uint64_t cg_read_key(int dirfd, const char *id, const char *name, const char *key);
/* Removes NAME and all cgroups below it. */
int cg_remove_tree(int dirfd, const char *name);
/* The mount point of a hierarchy: FSTYPE "cgroup2", or "cgroup" with CONTROLLER among its options. -ENOENT. */
int cg_find_mount(const char *fstype, const char *controller, char out[CG_PATH_MAX]);
/* Our own cgroup, "/..." : CONTROLLER of v1, or NULL for v2. */
int cg_own(const char *controller, char out[CG_PATH_MAX]);
