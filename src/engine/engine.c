/* The engine as a whole: configuration, start, shutdown, the machine. */
#include "engine/box-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"

void op_drop(struct op *op)
{
    if (op != NULL)
        op->dropped = true;
}

void engine_config_default(struct engine_config *c)
{
    *c = (struct engine_config){
        .state_dir = "/var/lib/silica",
        .runner_id = "local",
        .retention_ns = 24ull * 3600 * NSEC_PER_SEC,
        .default_lifetime_s = 86400,
        .max_lifetime_s = 30 * 86400,
        .default_disk_bytes = 10ull << 30,
        .default_memory_bytes = 2ull << 30,
        .default_cpu_millis = 0,
        .default_pids = 4096,
        .log_max_bytes = 64 << 20,
        .boxes_max = 4096,
        .execs_max = 1024,
        .create_hold_ms = 250,
        .stop_hold_ms = 150,
        .default_egress = "nat",
        .retained_max = 20000,
    };
}

static int copy_config(struct engine *en, const struct engine_config *c, struct err *e)
{
    en->config = *c;
    en->config.state_dir = strdup(c->state_dir);
    en->config.runner_id = strdup(c->runner_id);
    en->config.default_egress = strdup(c->default_egress);
    if (en->config.state_dir == NULL || en->config.runner_id == NULL || en->config.default_egress == NULL)
        return err_set(e, ENOMEM, "%m");
    if (strcmp(c->default_egress, "nat") != 0 && strcmp(c->default_egress, "none") != 0)
        return err_typed(e, ERR_INVALID, NULL, "egress '%s' is neither \"nat\" nor \"none\"", c->default_egress);
    return 0;
}

int engine_new(struct loop *loop, const struct engine_config *config, int spawner_fd, void (*ready)(void *arg),
               void (*stop)(void *arg, bool keep), void *arg, struct engine **ret, struct err *e)
{
    struct engine *en = calloc(1, sizeof *en);
    int r;

    if (en == NULL) {
        fd_close(spawner_fd);
        return err_set(e, ENOMEM, "%m");
    }
    en->loop = loop;
    en->ready = ready;
    en->stop = stop;
    en->arg = arg;
    en->started_ns = clock_wall();
    en->next_token = 1;
    TAILQ_INIT(&en->by_id);
    TAILQ_INIT(&en->ended);
    TAILQ_INIT(&en->waiters);
    r = copy_config(en, config, e);
    if (r == 0)
        r = store_open(loop, en->config.state_dir, &en->store, e);
    if (r == 0)
        r = images_load(en, e);
    if (r == 0)
        r = boxes_load(en, e);
    if (r == 0)
        r = spawner_link_new(en, spawner_fd, &en->spawner, e); /* takes the fd in any case */
    else
        fd_close(spawner_fd);
    if (r < 0) {
        engine_free(en);
        return r;
    }
    *ret = en;
    return 0;
}

int engine_announce(struct engine *en, struct err *e)
{
    return spawner_ready(en->spawner, e);
}

void engine_free(struct engine *en)
{
    struct box *b;

    if (en == NULL)
        return;
    en->stopping = true; /* what is freed must not start anything */
    timer_stop(&en->reaper);
    timer_stop(&en->adopt_wait);
    spawner_link_free(en->spawner);
    en->spawner = NULL;
    store_close(en->store);
    while ((b = TAILQ_FIRST(&en->by_id)) != NULL)
        box_free(b);
    waiters_drop(&en->waiters);
    images_free(en);
    timer_stop(&en->adopt_wait); /* the last adopted box may have started it */
    free((char *)en->config.state_dir);
    free((char *)en->config.runner_id);
    free((char *)en->config.default_egress);
    known_users_free(en);
    free(en->boot_id);
    free(en);
}

/* ---- shutdown ----------------------------------------------------------------------------------------------------- */

static void shutdown_finished(struct timer *t)
{
    struct engine *en = container_of(t, struct engine, adopt_wait);

    if (en->shutdown_done != NULL)
        en->shutdown_done(en->shutdown_arg);
}

static void flushed(void *arg, const struct err *e)
{
    struct engine *en = arg;

    if (e != NULL)
        log_error(NULL, "the last records were not written: %s", e->msg);
    if (timer_start(en->loop, &en->adopt_wait, 0, shutdown_finished) < 0)
        shutdown_finished(&en->adopt_wait);
}

/* Ends the calls into B; its processes go on as far as we are concerned. */
static void end_calls(struct box *b)
{
    b->usable = false;
    timer_stop(&b->grace);
    timer_stop(&b->lifetime);
    op_drop(b->oom_op);
    b->oom_op = NULL;
    procs_lost(b);
    init_link_free(b->init);
    b->init = NULL;
    box_log_free(b->log);
    b->log = NULL;
}

void engine_shutdown(struct engine *en, bool keep, void (*done)(void *arg), void *arg)
{
    struct box *b;
    struct err e;

    if (en->stopping)
        return; /* once is enough: the first one's DONE comes */
    en->stopping = true;
    en->shutdown_done = done;
    en->shutdown_arg = arg;
    (void)engine_serving(en, &e); /* the words for those who wait */
    waiters_fail_all(en, &e);
    timer_stop(&en->reaper);
    timer_stop(&en->adopt_wait);
    TAILQ_FOREACH (b, &en->by_id, by_id) {
        end_calls(b);
        box_end_now(b, keep ? NULL : "daemon stopped");
    }
    if (store_flush(en->store, flushed, en) < 0) {
        (void)err_set(&e, ENOMEM, "%m");
        flushed(en, &e);
    }
}

/* ---- the machine -------------------------------------------------------------------------------------------------- */

void engine_runner(struct engine *en, struct runner_info *ret)
{
    uint64_t memory = host_memory();
    uint32_t cpu = host_cpu_millis();

    *ret = (struct runner_info){
        .runner_id = en->config.runner_id,
        .started_ns = en->started_ns,
        .cpu_millis_total = cpu,
        .cpu_millis_free = en->cpu_promised < cpu ? (uint32_t)(cpu - en->cpu_promised) : 0,
        .memory_total = memory,
        .memory_free = en->memory_promised < memory ? memory - en->memory_promised : 0,
        .default_memory_bytes = en->config.default_memory_bytes,
        .default_cpu_millis = en->config.default_cpu_millis,
        .boxes_live = en->live,
        .boxes_max = en->config.boxes_max,
        .healthy = !en->stopping && en->hello,
        .features = en->features,
        .epoch = en->epoch,
    };
}
