/* Who the user of a sandbox is.
 *
 * Init looks it up in the sandbox's own /etc/passwd and /etc/group. In a new sandbox these are the image's, and an image is named by
 * the digests of its layers: the answer is remembered for the next sandbox of the same image and user, which saves a round trip to
 * an init that is just starting. In an adopted sandbox they may have been changed, so it is asked, and not remembered. */
#include "engine/box-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/fd.h"

/* HOME is the owner's. */
struct user {
    uint32_t uid, gid, ngroups, groups[IN_GROUPS_MAX];
    const char *home;
};

/* ---- what is remembered ------------------------------------------------------------------------------------------- */

struct known_user {
    char *key, *home;
    struct user user;
};

static void forget(struct known_user *k)
{
    free(k->key);
    free(k->home);
    *k = (struct known_user){0};
}

/* The layers, then the user: digests and a NUL-free name, one a line. NULL: out of memory. */
static char *key_of(const struct box *b)
{
    size_t len = 1 + (b->rec->user != NULL ? strlen(b->rec->user) : 0), at = 0;
    char *key;

    for (char *const *l = b->rec->layers; l != NULL && *l != NULL; l++)
        len += strlen(*l) + 1;
    key = malloc(len);
    if (key == NULL)
        return NULL;
    for (char *const *l = b->rec->layers; l != NULL && *l != NULL; l++) {
        size_t n = strlen(*l);

        memcpy(key + at, *l, n);
        key[at + n] = '\n';
        at += n + 1;
    }
    memcpy(key + at, b->rec->user != NULL ? b->rec->user : "", len - at);
    return key;
}

static const struct user *recall(const struct box *b)
{
    AUTO_FREE char *key = key_of(b);

    for (unsigned i = 0; key != NULL && b->en->known_users != NULL && i < KNOWN_USERS_MAX; i++)
        if (b->en->known_users[i].key != NULL && strcmp(b->en->known_users[i].key, key) == 0)
            return &b->en->known_users[i].user;
    return NULL;
}

/* Short of memory: it is asked again. */
static void remember(const struct box *b, const struct user *u)
{
    struct engine *en = b->en;
    struct known_user k = {.key = key_of(b), .home = strdup(u->home), .user = *u}, *place;

    if (en->known_users == NULL)
        en->known_users = calloc(KNOWN_USERS_MAX, sizeof *en->known_users);
    if (k.key == NULL || k.home == NULL || en->known_users == NULL || recall(b) != NULL) {
        forget(&k);
        return;
    }
    k.user.home = k.home;
    place = &en->known_users[en->known_users_next++ % KNOWN_USERS_MAX];
    forget(place);
    *place = k;
}

void known_users_free(struct engine *en)
{
    for (unsigned i = 0; en->known_users != NULL && i < KNOWN_USERS_MAX; i++)
        forget(&en->known_users[i]);
    free(en->known_users);
    en->known_users = NULL;
}

/* ---- asking -------------------------------------------------------------------------------------------------------- */

struct user_ask {
    struct engine *en;
    char id[ID_MAX];
    void (*done)(struct box *b);
    bool fresh; /* no process has run yet: the answer is the image's */
};

static int take_user(struct box *b, const struct user *u, struct err *e)
{
    if (box_env_system(b, u->home, e) < 0)
        return e->code;
    free(b->home);
    b->home = strdup(u->home);
    if (b->home == NULL)
        return err_set(e, ENOMEM, "%m");
    b->uid = u->uid;
    b->gid = u->gid;
    b->ngroups = u->ngroups;
    memcpy(b->groups, u->groups, sizeof b->groups);
    return 0;
}

static int read_answer(const struct wire_msg *m, struct user *ret, struct err *e)
{
    const struct in_user_is *u = m->body;
    const char *home;
    bool bad = false;

    home = wire_get_str(m, u->home, &bad);
    if (bad || u->ngroups > IN_GROUPS_MAX)
        return err_set(e, EBADMSG, "the sandbox's init sent a user that makes no sense");
    *ret = (struct user){.uid = u->uid, .gid = u->gid, .ngroups = u->ngroups};
    memcpy(ret->groups, u->groups, sizeof ret->groups);
    ret->home = home != NULL && home[0] == '/' ? home : "/";
    return 0;
}

static void user_answered(void *arg, const struct err *e, struct wire_msg *m)
{
    struct user_ask *ask = arg;
    void (*done)(struct box * b) = ask->done;
    struct box *b = box_by_id(ask->en, ask->id);
    struct user user;
    struct err bad;
    const char *why = "";
    bool wrong = false, fresh = ask->fresh;

    free(ask);
    if (b == NULL || b->end != BOX_END_NONE || b->hold != BOX_HOLD_LIVE)
        return; /* it is ending: nobody waits for the answer */
    if (e != NULL) {
        if (e->kind != ERR_UNAVAILABLE) /* the link broke: box_init_lost() tells that story */
            box_fail(b, "user '%s': %s", b->rec->user != NULL ? b->rec->user : "", e->msg);
        return;
    }
    if (m->head->type == IN_FAILED) {
        why = wire_get_str(m, ((const struct in_failed *)m->body)->msg, &wrong);
        box_fail(b, "user '%s': %s", b->rec->user != NULL ? b->rec->user : "",
                 why != NULL && !wrong ? why : "the image does not know this user");
        return;
    }
    if (m->head->type != IN_USER_IS) {
        box_fail(b, "the sandbox's init answered a question with something else");
        return;
    }
    if (read_answer(m, &user, &bad) < 0 || take_user(b, &user, &bad) < 0) {
        box_fail(b, "%s", bad.msg);
        return;
    }
    if (fresh)
        remember(b, &user);
    done(b);
}

static void ask_user(struct box *b, bool fresh, void (*done)(struct box *b))
{
    struct wire_tail tail = {0};
    struct in_user req = {.user = wire_put_str(&tail, b->rec->user)};
    struct user_ask *ask = calloc(1, sizeof *ask);
    struct err e;
    int r;

    if (ask == NULL) {
        box_fail(b, "out of memory");
        wire_tail_fini(&tail);
        return;
    }
    ask->en = b->en;
    memcpy(ask->id, b->id, sizeof ask->id);
    ask->done = done;
    ask->fresh = fresh;
    r = init_ask(b->init, IN_USER, 0, &req, sizeof req, &tail, user_answered, ask, &e);
    wire_tail_fini(&tail);
    if (r < 0) {
        free(ask);
        box_fail(b, "user '%s': %s", b->rec->user != NULL ? b->rec->user : "", e.msg);
    }
}

void box_ask_user(struct box *b, void (*done)(struct box *b))
{
    ask_user(b, false, done);
}

void box_find_user(struct box *b, void (*done)(struct box *b))
{
    const struct user *u = recall(b);
    struct err e;

    if (u == NULL) {
        ask_user(b, true, done);
        return;
    }
    if (take_user(b, u, &e) < 0)
        box_fail(b, "%s", e.msg);
    else
        done(b);
}
