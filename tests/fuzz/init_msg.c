/* deps: wire; sources: src/init/plan.c */
/* Requests to init: the first byte chooses the type, a body and a tail follow. Whatever they say, a plan holds only what it
 * promises, or there is a sentence. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "init/plan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use_spawn(const struct wire_msg *m)
{
    struct spawn_plan p;
    uint32_t stage;
    const char *why = NULL;
    char file[IN_PATH_MAX];
    size_t argc = 0;

    if (plan_spawn(m, &p, &stage, &why) < 0) {
        assert(why != NULL);
        return;
    }
    assert(p.cwd[0] == '/' && strlen(p.cwd) < IN_PATH_MAX && p.who.ngroups <= IN_GROUPS_MAX);
    while (p.argv[argc] != NULL)
        assert(strlen(p.argv[argc++]) < IN_ARG_MAX);
    assert(argc >= 1 && p.sh_argv[argc + 1] == NULL);
    why = plan_getenv(p.env, "PATH");
    while (plan_next_candidate(&why, p.argv[0], file, sizeof file))
        assert(strlen(file) < sizeof file);
    plan_spawn_fini(&p);
}

static void use_open(const struct wire_msg *m)
{
    static struct open_plan p;
    uint32_t stage;
    const char *why = NULL;

    if (plan_open(m, &p, &stage, &why) < 0)
        assert(why != NULL);
    else
        assert(p.path[0] == '/' && strlen(p.path) < IN_PATH_MAX && (p.mode & ~07777u) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct wire_head head = {.token = 1};
    struct wire_msg m = {.head = &head};
    char *body, *tail;
    size_t body_len, tail_len;

    if (size < 1)
        return 0;
    body_len = (data[0] & 1) != 0 ? sizeof(struct in_spawn) : sizeof(struct in_open);
    if (size - 1 < body_len)
        return 0;
    tail_len = size - 1 - body_len;
    body = malloc(body_len);
    tail = malloc(tail_len > 0 ? tail_len : 1); /* exact copies, so that a read past their end is seen */
    memcpy(body, data + 1, body_len);
    if (tail_len > 0)
        memcpy(tail, data + 1 + body_len, tail_len);
    m.body = body;
    m.body_len = body_len;
    m.tail = tail;
    m.tail_len = tail_len;
    if ((data[0] & 1) != 0)
        use_spawn(&m);
    else
        use_open(&m);
    free(body);
    free(tail);
    return 0;
}
