/* Any process in a sandbox: planning, starting, signalling, the end.
 *
 * A process exists here from the moment it is planned until its last callback; what init still answers about it afterwards
 * finds a shell of it (`gone`). The plan is checked against the limits of execve(2) before anything is sent, so that a refusal
 * can name the argument or variable; values of variables never appear in a message. Loop thread only. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fd.h"
#include "engine/init-link.h"
#include "engine/proc-internal.h"
#include "engine/utf8.h"

struct proc_plan {
    struct in_spawn body;
    struct wire_tail tail;
    /* With a user of its own the environment is merged when that user's home is known. */
    struct env_set *env;
    struct env_item *items;
    size_t item_count;
};

enum { ARGV0_SHOWN = 200, INIT_MSG_SHOWN = 200, POINTER_SIZE = 8 };

static void plan_free(struct proc_plan *plan)
{
    if (plan == NULL)
        return;
    wire_tail_fini(&plan->tail);
    env_free(plan->env);
    free(plan->items);
    free(plan);
}

/* ---- life ---------------------------------------------------------------------------------------------------------- */

static void release(struct proc *p)
{
    if (!p->gone || p->asks > 0)
        return;
    plan_free(p->plan);
    free(p->argv0);
    free(p);
}

/* Out of the box's table; what still arrives about it has no effect. */
static void detach(struct proc *p)
{
    if (p->gone)
        return;
    HASH_DELETE(hh, p->box->procs, p);
    p->box->proc_count--;
    p->gone = true;
}

void proc_free(struct proc *p)
{
    if (p == NULL)
        return;
    detach(p);
    release(p);
}

struct proc *proc_known(struct box *b, uint64_t token, enum in_kind kind, const struct proc_ops *ops)
{
    struct proc *p = calloc(1, sizeof *p);

    if (p == NULL)
        return NULL;
    *p = (struct proc){.box = b, .token = token, .kind = kind, .ops = ops};
    HASH_ADD(hh, b->procs, token, sizeof p->token, p);
    b->proc_count++;
    return p;
}

static void fail(struct proc *p, const struct in_failed *why, const struct err *e)
{
    p->asks++; /* survives what the callback does */
    detach(p);
    p->ops->failed(p, why, e);
    p->asks--;
    release(p);
}

static void end(struct proc *p, const struct in_exited *x)
{
    p->asks++;
    detach(p);
    p->ops->exited(p, x);
    p->asks--;
    release(p);
}

void box_end_error(const struct box *b, struct err *e)
{
    const char *why = b->stop_reason != NULL ? b->stop_reason : b->failure;

    if (b->en->stopping) {
        (void)err_typed(e, ERR_UNAVAILABLE, NULL, "the daemon is stopping");
        return;
    }
    if (why == NULL && b->rec != NULL && b->rec->reason != NULL && b->rec->reason[0] != '\0')
        why = b->rec->reason;
    (void)err_typed(e, ERR_CANCELLED, NULL, "sandbox %s was terminated%s%s", b->id, why != NULL ? ": " : "",
                    why != NULL ? why : "");
}

void proc_result(const struct proc *p, const struct in_exited *x, struct exec_result *ret)
{
    *ret = (struct exec_result){.cause = EXEC_UNKNOWN, .start_ns = p->start_ns, .end_ns = clock_wall()};
    if (x == NULL || x->cause == IN_C_UNKNOWN)
        return;

    ret->cause = x->cause == IN_C_EXITED ? EXEC_EXITED : EXEC_SIGNALED;
    ret->signal = x->cause == IN_C_SIGNALED ? x->code : 0;
    ret->code = x->cause == IN_C_SIGNALED ? 128 + x->code : x->code;
    ret->start_ns = x->start_ns;
    ret->end_ns = x->end_ns;
    ret->cpu_us = x->utime_us + x->stime_us;
    ret->maxrss_kib = x->maxrss_kib;
}

/* ---- why it did not start -------------------------------------------------------------------------------------------- */

/* TEXT comes from outside: control bytes and what is not UTF-8 have no business in a message. */
static void put_clean(char *out, size_t cap, const char *text)
{
    size_t n = strnlen(text, cap - 1);

    memcpy(out, text, n);
    n -= utf8_cut((const uint8_t *)out, n);
    out[n] = '\0';
    for (size_t i = 0; i < n;) {
        size_t len = utf8_len((const uint8_t *)out + i, n - i);

        if (len == 0 || (unsigned char)out[i] < 0x20 || out[i] == 0x7f)
            out[i] = '?';
        i += len != 0 ? len : 1;
    }
}

/* The sentence for an IN_FAILED, and its kind. */
static void start_error(const struct proc *p, const struct wire_msg *m, struct err *e)
{
    const struct in_failed *f = m->body;
    const struct box *b = p->box;
    char said[INIT_MSG_SHOWN];
    const char *text;
    bool bad = false;
    int code = -f->code;

    text = wire_get_str(m, f->msg, &bad);
    put_clean(said, sizeof said, text != NULL ? text : strerror(code));

    switch (f->stage) {
    case IN_ST_EXEC:
        if (code == ENOENT && strchr(p->argv0, '/') == NULL)
            (void)err_typed(e, ERR_INVALID, NULL, "exec: \"%s\": executable file not found in PATH", p->argv0);
        else
            (void)err_typed(e, ERR_INVALID, NULL, "exec: \"%s\": %s", p->argv0, strerror(code));
        break;
    case IN_ST_CWD:
        (void)err_typed(e, ERR_INVALID, NULL, "the working directory cannot be used: %s", said);
        break;
    case IN_ST_USER:
        (void)err_typed(e, ERR_INVALID, NULL, "the user cannot be used: %s", said);
        break;
    case IN_ST_FORK:
        if (code == EAGAIN)
            (void)err_typed(e, ERR_EXHAUSTED, NULL, "sandbox %s has reached its limit of %u processes", b->id,
                            b->rec->pids);
        else if (code == ENOMEM)
            (void)err_typed(e, ERR_EXHAUSTED, NULL, "sandbox %s has no memory left for another process", b->id);
        else
            (void)err_set(e, code, "start a process in sandbox %s: %s", b->id, said);
        break;
    case IN_ST_LIMIT:
        (void)err_typed(e, ERR_EXHAUSTED, NULL, "sandbox %s: %s", b->id, said);
        break;
    default:
        (void)err_set(e, code, "start a process in sandbox %s: %s", b->id, said);
        break;
    }
}

/* ---- signals --------------------------------------------------------------------------------------------------------- */

static int send_kill(struct proc *p, struct err *e);

static void on_killed(void *arg, const struct err *e, struct wire_msg *m)
{
    struct proc *p = arg;

    (void)m; /* OK, or a failure nobody could do more about: the exit is what counts */
    p->asks--;
    p->killing = false;
    if (e == NULL && !p->gone && (p->kill_tree || p->signals != 0))
        (void)send_kill(p, NULL); /* fails only with the link, which ends the process here too */
    release(p);
}

/* The next signal that is due: one question at a time, since the answer is found by the token of the process. */
static int send_kill(struct proc *p, struct err *e)
{
    struct in_kill k = {0};
    int r;

    if (p->kill_tree) {
        k.tree = 1;
        k.signal = 9;
    } else {
        k.signal = (uint32_t)__builtin_ctzll(p->signals) + 1;
    }
    if (p->box->init == NULL)
        return err_typed(e, ERR_UNAVAILABLE, NULL, "sandbox %s has ended", p->box->id);
    r = init_ask(p->box->init, IN_KILL, p->token, &k, sizeof k, NULL, on_killed, p, e);
    if (r < 0)
        return r;

    if (p->kill_tree) {
        p->kill_tree = false;
        p->signals = 0;
    } else {
        p->signals &= p->signals - 1;
    }
    p->killing = true;
    p->asks++;
    return 0;
}

int proc_kill(struct proc *p, int signo, bool tree, struct err *e)
{
    if (!tree && (signo < 1 || signo > 64))
        return err_typed(e, ERR_INVALID, NULL, "%d is not a signal", signo);
    if (p->gone)
        return 0;
    if (tree)
        p->kill_tree = true;
    else
        p->signals |= 1ull << (signo - 1);
    return !p->running || p->killing ? 0 : send_kill(p, e);
}

/* ---- starting -------------------------------------------------------------------------------------------------------- */

void proc_take_fds(uint32_t flags, int *fds, int out[3])
{
    unsigned at = 0;

    out[0] = out[1] = out[2] = -1;
    if ((flags & IN_S_TTY) != 0) {
        out[1] = take_fd(&fds[0]);
        return;
    }
    if ((flags & IN_S_STDIN) != 0)
        out[0] = take_fd(&fds[at++]);
    out[1] = take_fd(&fds[at++]);
    if ((flags & IN_S_MERGE) == 0)
        out[2] = take_fd(&fds[at++]);
}

static void on_spawned(void *arg, const struct err *e, struct wire_msg *m)
{
    struct proc *p = arg;
    struct err why = {0};
    uint32_t flags;
    int fds[3];

    p->asks--;
    if (p->gone) {
        release(p);
        return;
    }
    if (e != NULL) {
        fail(p, NULL, e);
        return;
    }
    if (m->head->type == IN_FAILED) {
        start_error(p, m, &why);
        fail(p, m->body, &why);
        return;
    }

    p->running = true;
    p->start_ns = clock_wall();
    flags = p->plan->body.flags;
    plan_free(take_ptr(p->plan));
    proc_take_fds(flags, m->fds, fds);
    if ((p->kill_tree || p->signals != 0) && !p->killing)
        (void)send_kill(p, NULL); /* as in on_killed() */
    p->ops->started(p, fds[0], fds[1], fds[2]);
}

static int send_spawn(struct proc *p, struct err *e)
{
    struct proc_plan *plan = p->plan;
    int r;

    if (plan->tail.failed)
        return err_set(e, ENOMEM, "out of memory");
    if (p->box->init == NULL)
        return err_typed(e, ERR_UNAVAILABLE, NULL, "sandbox %s has ended", p->box->id);
    r = init_ask(p->box->init, IN_SPAWN, p->token, &plan->body, sizeof plan->body, &plan->tail, on_spawned, p, e);
    if (r < 0)
        return r;
    p->asks++;
    wire_tail_fini(&plan->tail); /* sent or copied: the flags are all that is needed from here on */
    return 0;
}

static void set_user(struct in_spawn *s, uint32_t uid, uint32_t gid, const uint32_t *groups, uint32_t n)
{
    s->uid = uid;
    s->gid = gid;
    s->ngroups = n;
    memcpy(s->groups, groups, n * sizeof *groups);
}

static int put_env(struct proc_plan *plan, const struct env_set *set, const struct env_item *items, size_t count,
                   struct err *e)
{
    AUTO_FREE char **merged = NULL;
    int r = env_merge(set, items, count, &merged, e);

    if (r == 0)
        plan->body.env = wire_put_vec(&plan->tail, (const char *const *)merged);
    return r;
}

static void on_user(void *arg, const struct err *e, struct wire_msg *m)
{
    struct proc *p = arg;
    struct proc_plan *plan = p->plan;
    struct err why = {0};
    bool bad = false;
    int r;

    p->asks--;
    if (p->gone) {
        release(p);
        return;
    }
    if (e != NULL) {
        fail(p, NULL, e);
        return;
    }
    if (p->kill_tree) {
        (void)err_typed(&why, ERR_CANCELLED, NULL, "the process was killed before it started");
        fail(p, NULL, &why);
        return;
    }
    if (m->head->type == IN_FAILED) {
        struct in_failed f = *(const struct in_failed *)m->body;

        start_error(p, m, &why);
        f.stage = IN_ST_USER;
        fail(p, &f, &why);
        return;
    }

    const struct in_user_is *u = m->body;
    const char *home = wire_get_str(m, u->home, &bad);
    struct env_item item = {.name = "HOME", .name_len = 4, .value = home, .value_len = strlen(home), .op = ENV_SET};

    set_user(&plan->body, u->uid, u->gid, u->groups, u->ngroups);
    r = env_apply(plan->env, ENV_SYSTEM, &item, 1, false, &why);
    if (r == 0)
        r = put_env(plan, plan->env, plan->items, plan->item_count, &why);
    if (r == 0)
        r = send_spawn(p, &why);
    if (r < 0)
        fail(p, NULL, &why);
}

/* ---- planning -------------------------------------------------------------------------------------------------------- */

static int check_argv(const char *const *argv, size_t *ret_bytes, struct err *e)
{
    size_t total = 0, n, i;

    if (argv == NULL || argv[0] == NULL || argv[0][0] == '\0')
        return err_typed(e, ERR_INVALID, NULL, "the command is empty");
    for (i = 0; argv[i] != NULL; i++) {
        if (i == IN_ARGC_MAX)
            return err_typed(e, ERR_INVALID, NULL, "the command has more than %d arguments", IN_ARGC_MAX);
        n = strlen(argv[i]) + 1;
        if (n > IN_ARG_MAX)
            return err_typed(e, ERR_INVALID, NULL, "argument %zu is %zu bytes long; the limit of the kernel is %d", i,
                             n - 1, IN_ARG_MAX - 1);
        total += n + POINTER_SIZE;
        if (total > IN_ARGS_TOTAL_MAX)
            return err_typed(e, ERR_INVALID, NULL, "the arguments up to argument %zu pass the limit of %d bytes in all",
                             i, IN_ARGS_TOTAL_MAX);
    }
    *ret_bytes = total;
    return 0;
}

/* ENV against what the arguments left of the kernel's limit, which counts pointers too. */
static int check_env(char *const *env, size_t used, struct err *e)
{
    for (size_t i = 0; env[i] != NULL; i++) {
        used += strlen(env[i]) + 1 + POINTER_SIZE;
        if (used > IN_ARGS_TOTAL_MAX)
            return err_typed(
                e, ERR_INVALID, NULL,
                "the arguments and the environment up to variable \"%.*s\" pass the limit of %d bytes in all",
                (int)strcspn(env[i], "=") < ARGV0_SHOWN ? (int)strcspn(env[i], "=") : ARGV0_SHOWN, env[i],
                IN_ARGS_TOTAL_MAX);
    }
    return 0;
}

/* Names and values in one allocation with the array. */
static int copy_items(const struct env_item *items, size_t count, struct env_item **ret)
{
    size_t bytes = count * sizeof *items;
    struct env_item *copy;
    char *at;

    for (size_t i = 0; i < count; i++)
        bytes += items[i].name_len + items[i].value_len + 2;
    copy = calloc(1, bytes + 1);
    if (copy == NULL)
        return -ENOMEM;
    at = (char *)(copy + count);
    for (size_t i = 0; i < count; i++) {
        copy[i] = items[i];
        memcpy(at, items[i].name, items[i].name_len);
        copy[i].name = at;
        at += items[i].name_len + 1;
        if (items[i].value != NULL) {
            memcpy(at, items[i].value, items[i].value_len);
            copy[i].value = at;
        }
        at += items[i].value_len + 1;
    }
    *ret = copy;
    return 0;
}

/* A terminal needs TERM; at the lowest level, so that everybody's word counts more, an "unset" included. */
static int default_term(struct env_set *set, struct err *e)
{
    const struct env_item item = {.name = "TERM", .name_len = 4, .value = "xterm", .value_len = 5, .op = ENV_SET};

    return env_lookup(set, "TERM") != NULL ? 0 : env_apply(set, ENV_SYSTEM, &item, 1, false, e);
}

static uint32_t spawn_flags(const struct box *b, const struct proc_spec *s)
{
    uint32_t flags = (b->rec->flags & SP_BOX_NO_NEW_PRIVS) != 0 ? IN_S_NO_NEW_PRIVS : 0;

    if (s->tty)
        return flags | IN_S_TTY;
    return flags | (s->stdin_open ? IN_S_STDIN : 0) | (s->merge ? IN_S_MERGE : 0);
}

static int check_cwd(const char *cwd, struct err *e)
{
    if (cwd[0] != '/')
        return err_typed(e, ERR_INVALID, NULL, "the working directory must be an absolute path");
    if (strlen(cwd) >= IN_PATH_MAX)
        return err_typed(e, ERR_INVALID, NULL, "the working directory is longer than %d bytes", IN_PATH_MAX - 1);
    return 0;
}

/* Everything that can be refused is refused here. OWN_USER: the environment is put in later. */
static int make_plan(struct box *b, const struct proc_spec *s, bool own_user, struct proc_plan *plan, struct err *e)
{
    const char *cwd = s->cwd != NULL && s->cwd[0] != '\0' ? s->cwd : b->rec->cwd;
    AUTO_FREE char **merged = NULL;
    size_t bytes = 0;
    int r;

    if (cwd == NULL || cwd[0] == '\0')
        cwd = "/";
    r = check_argv(s->argv, &bytes, e);
    if (r == 0)
        r = check_cwd(cwd, e);
    if (r < 0)
        return r;

    if (own_user || s->tty) {
        if (env_clone(b->env, &plan->env) < 0)
            return err_set(e, ENOMEM, "out of memory");
        r = s->tty ? default_term(plan->env, e) : 0;
        if (r < 0)
            return r;
    }
    r = env_merge(plan->env != NULL ? plan->env : b->env, s->env, s->env_count, &merged, e);
    if (r == 0)
        r = check_env(merged, bytes, e);
    if (r < 0)
        return r;

    plan->body = (struct in_spawn){
        .kind = s->kind,
        .flags = spawn_flags(b, s),
        .rows = s->rows != 0 ? s->rows : 24,
        .cols = s->cols != 0 ? s->cols : 80,
        .cwd_create = s->cwd_create ? 1 : 0,
    };
    plan->body.cwd = wire_put_str(&plan->tail, cwd);
    plan->body.argv = wire_put_vec(&plan->tail, s->argv);
    if (own_user) {
        plan->item_count = s->env_count;
        r = copy_items(s->env, s->env_count, &plan->items);
        return r < 0 ? err_set(e, r, "out of memory") : 0;
    }
    plan->body.env = wire_put_vec(&plan->tail, (const char *const *)merged);
    set_user(&plan->body, b->uid, b->gid, b->groups, b->ngroups);
    return 0;
}

static int ask_user(struct proc *p, const char *user, struct err *e)
{
    struct wire_tail tail = {0};
    struct in_user q = {.user = wire_put_str(&tail, user)};
    int r;

    r = init_ask(p->box->init, IN_USER, 0, &q, sizeof q, &tail, on_user, p, e);
    wire_tail_fini(&tail);
    if (r == 0)
        p->asks++;
    return r;
}

int proc_spawn(struct box *b, const struct proc_spec *s, const struct proc_ops *ops, void *owner, struct proc **ret,
               struct err *e)
{
    const char *user = s->user != NULL && s->user[0] != '\0' ? s->user : NULL;
    struct proc_plan *plan;
    struct proc *p;
    int r;

    if (b->init == NULL)
        return err_typed(e, ERR_PRECONDITION, "SANDBOX_NOT_RUNNING", "sandbox %s is not running", b->id);
    if (user != NULL && strlen(user) >= IN_PATH_MAX)
        return err_typed(e, ERR_INVALID, NULL, "the user name is longer than %d bytes", IN_PATH_MAX - 1);

    plan = calloc(1, sizeof *plan);
    if (plan == NULL)
        return err_set(e, ENOMEM, "out of memory");
    r = make_plan(b, s, user != NULL, plan, e);
    if (r < 0) {
        plan_free(plan);
        return r;
    }

    p = proc_known(b, init_token(b->init), s->kind, ops);
    if (p == NULL) {
        plan_free(plan);
        return err_set(e, ENOMEM, "out of memory");
    }
    p->owner = owner;
    p->plan = plan;
    p->argv0 = malloc(ARGV0_SHOWN + 1);
    if (p->argv0 == NULL) {
        proc_free(p);
        return err_set(e, ENOMEM, "out of memory");
    }
    put_clean(p->argv0, ARGV0_SHOWN + 1, s->argv[0]);

    r = user != NULL ? ask_user(p, user, e) : send_spawn(p, e);
    if (r < 0) {
        proc_free(p);
        return r;
    }
    *ret = p;
    return 0;
}

/* ---- nobody's processes ---------------------------------------------------------------------------------------------- */

static void silent_started(struct proc *p, int in, int out, int err_fd)
{
    (void)p;
    fd_close(in);
    fd_close(out);
    fd_close(err_fd);
}

static void silent_failed(struct proc *p, const struct in_failed *why, const struct err *e)
{
    (void)p;
    (void)why;
    (void)e;
}

static void silent_exited(struct proc *p, const struct in_exited *x)
{
    (void)p;
    (void)x;
}

static const struct proc_ops silent_ops = {silent_started, silent_failed, silent_exited};

void proc_abandon(struct proc *p)
{
    if (p == NULL || p->gone)
        return;
    p->ops = &silent_ops;
    p->owner = NULL;
    (void)proc_kill(p, 9, true, NULL); /* fails only with the link: the whole sandbox ends then */
}

void proc_adopt(struct box *b, uint64_t token, const struct in_entry *en, int *fds, unsigned nfds)
{
    struct proc *p = proc_known(b, token, en->kind, &silent_ops);

    if (p == NULL) /* its exit will be acknowledged as that of a process nobody knows */
        return;
    p->running = true;
    if (en->kind == IN_MAIN)
        main_adopt(p, en, fds, nfds);
    else if (en->kind != IN_EXEC &&
             en->state == IN_RUNNING) /* init kills foreground processes of a dead epoch itself */
        proc_abandon(p);
}

/* ---- the end --------------------------------------------------------------------------------------------------------- */

void proc_exited(struct box *b, uint64_t token, const struct in_exited *x)
{
    struct in_ack ack = {0};
    struct proc *p;

    HASH_FIND (hh, b->procs, &token, sizeof token, p)
        ;
    if (p != NULL && !p->running) /* a claim about a process that init has not started yet */
        return;
    if ((p == NULL || p->kind != IN_MAIN) && b->init != NULL)
        (void)init_tell(b->init, IN_ACK, token, &ack, sizeof ack); /* a failure is the link's, which reports it */
    if (p != NULL)
        end(p, x);
}

void procs_lost(struct box *b)
{
    struct err e = {0};
    struct proc *p;

    box_end_error(b, &e);
    while ((p = b->procs) != NULL) {
        if (p->running)
            end(p, NULL);
        else
            fail(p, NULL, &e);
    }
}
