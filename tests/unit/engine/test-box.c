/* The life of a sandbox, driven through a spawner and inits that live in the test. */
#include "fake-host.h"

#include <errno.h>

/* What a callback brought. */
struct told {
    unsigned calls;
    bool failed;
    struct err e;
    struct box_info info;
    char reason[512];
};

static void tell(void *arg, const struct err *e, const struct box_info *info)
{
    struct told *t = arg;

    t->calls++;
    t->failed = e != NULL;
    if (e != NULL) {
        t->e = *e;
        return;
    }
    t->info = *info;
    (void)snprintf(t->reason, sizeof t->reason, "%s", info->reason);
}

static struct box_spec spec_of(const char *tenant)
{
    return (struct box_spec){.tenant = tenant, .creator = "key", .dialect = "cw_v1", .image = "good"};
}

static void create_with(struct host *h, const struct box_spec *s, struct told *t)
{
    *t = (struct told){0};
    assert_non_null(engine_box_create(h->en, s, tell, t));
    assert_int_equal(t->calls, 0); /* never before it returned */
    UNTIL(h, t->calls == 1);
}

static void create(struct host *h, struct told *t)
{
    struct box_spec s = spec_of("t1");

    create_with(h, &s, t);
}

static enum box_state state_of(struct host *h, const char *id)
{
    struct box_info info;
    struct err e;

    if (engine_box_get(h->en, "t1", id, &info, &e) < 0)
        fail_msg("%s", e.msg);
    return info.state;
}

static struct box_info get(struct host *h, const char *id)
{
    struct box_info info;
    struct err e;

    assert_int_equal(engine_box_get(h->en, "t1", id, &info, &e), 0);
    return info;
}

static void running(struct host *h, struct told *t)
{
    create(h, t);
    assert_false(t->failed);
    assert_int_equal(t->info.state, BOX_RUNNING);
}

static void stop(struct host *h, const char *id, uint32_t grace, struct told *t)
{
    *t = (struct told){0};
    assert_non_null(engine_box_stop(h->en, "t1", id, grace, "deleted by key", tell, t));
    assert_int_equal(t->calls, 0);
}

static void released(struct host *h, unsigned live)
{
    struct runner_info r;

    UNTIL(h, (engine_runner(h->en, &r), r.boxes_live == live));
}

/* ---- create: refused ------------------------------------------------------------------------------------------------ */

static void refused(struct host *h, const struct box_spec *s, enum err_kind kind, const char *reason, const char *words)
{
    struct told t;
    unsigned creates = h->creates;

    create_with(h, s, &t);
    assert_true(t.failed);
    assert_int_equal(t.e.kind, kind);
    assert_string_equal(t.e.reason, reason);
    assert_non_null(strstr(t.e.msg, words));
    assert_int_equal(h->creates, creates);
}

static void a_request_beyond_a_limit_is_refused(void **state)
{
    struct host *h = *state;
    const char *many[BOX_TAGS_MAX + 2] = {NULL}, *one[] = {NULL, NULL};
    char *big = malloc(IN_ARG_MAX + 2);
    struct box_spec s = spec_of("t1");

    memset(big, 'x', IN_ARG_MAX + 1);
    big[IN_ARG_MAX + 1] = '\0';
    host_start(h);
    s.image = "";
    refused(h, &s, ERR_INVALID, "INVALID_REQUEST", "image");
    s = spec_of("t1");
    for (int i = 0; i <= BOX_TAGS_MAX; i++)
        many[i] = "t";
    s.tags = many;
    refused(h, &s, ERR_INVALID, "INVALID_REQUEST", "64 tags");
    s = spec_of("t1");
    one[0] = big;
    s.args = one;
    refused(h, &s, ERR_INVALID, "INVALID_REQUEST", "argument");
    s = spec_of("t1");
    s.tags = one;
    refused(h, &s, ERR_INVALID, "INVALID_REQUEST", "tag is too long");
    s = spec_of("t1");
    s.lifetime_s = h->config.max_lifetime_s + 1;
    refused(h, &s, ERR_INVALID, "INVALID_REQUEST", "lifetime");
    s = spec_of("t1");
    s.memory_bytes = host_memory() + 1;
    refused(h, &s, ERR_INVALID, "RESOURCE_CEILING_EXCEEDED", "memory");
    s = spec_of("t1");
    s.memory_bytes = 1;
    refused(h, &s, ERR_INVALID, "INVALID_REQUEST", "least");
    s = spec_of("t1");
    s.cpu_millis = host_cpu_millis() + 1;
    refused(h, &s, ERR_INVALID, "RESOURCE_CEILING_EXCEEDED", "cpu");
    s = spec_of("t1");
    s.cpu_millis = 1;
    refused(h, &s, ERR_INVALID, "INVALID_REQUEST", "least");
    s = spec_of("t1");
    s.cwd = "here";
    refused(h, &s, ERR_INVALID, "INVALID_REQUEST", "absolute");
    s = spec_of("t1");
    s.echo = big;
    s.echo_len = BOX_ECHO_MAX + 1;
    refused(h, &s, ERR_INVALID, "INVALID_REQUEST", "too big");
    s = spec_of("t1");
    s.request_id = big;
    refused(h, &s, ERR_INVALID, "INVALID_REQUEST", "request id");
    s = spec_of("t1");
    s.user = big;
    refused(h, &s, ERR_INVALID, "INVALID_REQUEST", "user");
    s = spec_of("t1");
    s.image = big;
    refused(h, &s, ERR_INVALID, "INVALID_REQUEST", "name");
    free(big);
}

static void nat_that_the_machine_lacks_is_refused(void **state)
{
    struct host *h = *state;
    struct box_spec s = spec_of("t1");
    struct told t;

    h->features = 0;
    host_start(h);
    s.egress = BOX_EGRESS_NAT;
    refused(h, &s, ERR_PRECONDITION, "PLACEMENT_CONSTRAINT_UNSATISFIED", "NAT");
    create(h, &t); /* who does not ask gets what there is */
    assert_int_equal(fake_find(h, t.info.id)->plan.egress, SP_E_NONE);
}

static void the_sandbox_above_the_limit_is_refused_until_one_ends(void **state)
{
    struct host *h = *state;
    struct box_spec s = spec_of("t1");
    struct told t, u;

    h->config.boxes_max = 2;
    host_start(h);
    running(h, &t);
    running(h, &u);
    refused(h, &s, ERR_EXHAUSTED, "RUNNER_CAPACITY_EXHAUSTED", "limit");
    stop(h, t.info.id, 0, &u);
    released(h, 1);
    running(h, &t);
}

static void the_spawners_slots_are_a_limit_too(void **state)
{
    struct host *h = *state;
    struct box_spec s = spec_of("t1");
    struct told t;

    h->slots = 1;
    host_start(h);
    running(h, &t);
    refused(h, &s, ERR_EXHAUSTED, "RUNNER_CAPACITY_EXHAUSTED", "limit");
}

static void an_image_that_is_not_here_fails_the_sandbox(void **state)
{
    struct host *h = *state;
    struct box_spec s = spec_of("t1");
    struct told t;

    host_start(h);
    s.image = "nope:1";
    create_with(h, &s, &t);
    assert_false(t.failed);
    assert_int_equal(t.info.state, BOX_FAILED);
    assert_non_null(strstr(t.reason, "tried: nope:1"));
    assert_non_null(strstr(t.reason, "silica image build"));
    assert_int_equal(h->creates, 0);
    released(h, 0);
}

static void a_spawner_that_refuses_fails_the_sandbox(void **state)
{
    struct host *h = *state;
    struct told t;

    h->fail_create = true;
    host_start(h);
    create(h, &t);
    assert_int_equal(t.info.state, BOX_FAILED);
    assert_string_equal(t.reason, "no room for the writable layer");
    assert_false(t.info.has_exit);
    released(h, 0);
}

static void an_unknown_user_fails_the_sandbox_and_releases_it(void **state)
{
    struct host *h = *state;
    struct told t;

    h->fail_user = true;
    host_start(h);
    create(h, &t);
    assert_int_equal(t.info.state, BOX_FAILED);
    assert_string_equal(t.reason, "user 'app': no such user in /etc/passwd");
    released(h, 0);
    UNTIL(h, h->kills == 1 && h->forgets == 1);
    assert_int_equal(h->spawns, 0);
}

static void a_main_that_cannot_start_fails_the_sandbox_and_releases_it(void **state)
{
    struct host *h = *state;
    struct box_spec s = spec_of("t1");
    struct told t;

    h->fail_spawn = true;
    host_start(h);
    s.command = "foo";
    create_with(h, &s, &t);
    assert_int_equal(t.info.state, BOX_FAILED);
    assert_non_null(strstr(t.reason, "foo"));
    released(h, 0);
    UNTIL(h, h->forgets == 1);
}

static void a_record_that_cannot_be_written_takes_the_sandbox_back(void **state)
{
    struct host *h = *state;
    struct told t;
    struct box_info info;
    struct err e;

    host_start(h);
    host_sql(h, "CREATE TRIGGER no BEFORE INSERT ON box BEGIN SELECT RAISE(FAIL, 'no room'); END");
    create(h, &t);
    assert_true(t.failed);
    assert_non_null(strstr(t.e.msg, "recording"));
    released(h, 0);
    UNTIL(h, h->forgets == h->creates);
    UNTIL(h, h->en->boxes == NULL);
    assert_int_equal(engine_box_get(h->en, "t1", "sb-none", &info, &e), -ENOENT);
}

/* ---- create: granted ------------------------------------------------------------------------------------------------- */

static void explain_seen(void *arg, const struct env_explained *v)
{
    char *all = arg;

    (void)snprintf(all + strlen(all), 4096 - strlen(all), "%s=%s;", v->name, v->value != NULL ? v->value : "(unset)");
}

static void a_created_sandbox_runs_and_says_what_it_is(void **state)
{
    struct host *h = *state;
    const char *tags[] = {"a", "b", NULL};
    const struct env_item env[] = {{.name = "MINE", .name_len = 4, .value = "2", .value_len = 1}};
    struct box_spec s = spec_of("t1");
    struct fake_box *f;
    struct runner_info r;
    struct told t;
    char all[4096] = "", want[128];
    struct err e;

    host_start(h);
    s.tags = tags;
    s.env = env;
    s.env_count = 1;
    s.cpu_millis = 500;
    s.memory_bytes = 32 << 20;
    s.echo = "echo";
    s.echo_len = 4;
    s.readonly_root = true;
    s.writable_tmpfs = true;
    create_with(h, &s, &t);
    assert_int_equal(t.info.state, BOX_RUNNING);
    assert_true(id_valid(t.info.id, strlen(t.info.id), "sb"));
    f = fake_find(h, t.info.id);
    assert_int_equal(f->plan.memory_max, 32 << 20);
    assert_int_equal(f->plan.cpu_quota_us, 50000);
    assert_int_equal(f->plan.cpu_period_us, 100000);
    assert_int_equal(f->plan.pids_max, h->config.default_pids);
    assert_int_equal(f->plan.flags, SP_BOX_READONLY_ROOT);
    assert_int_equal(f->plan.writable, SP_W_TMPFS);
    assert_int_equal(f->plan.egress, SP_E_NAT);
    assert_string_equal(f->user, "app");
    assert_int_equal(strlen(f->layer), 64);
    assert_string_equal(t.info.tags[1], "b");
    assert_memory_equal(t.info.echo, "echo", 4);
    assert_true(t.info.started_ns >= t.info.created_ns);
    assert_string_equal(t.info.runner_id, "runner-1");
    assert_int_equal(engine_env_explain(h->en, "t1", t.info.id, explain_seen, all, &e), 0);
    (void)snprintf(want, sizeof want, "FROM_IMAGE=1;HOME=/home/app;HOSTNAME=%s;LANG=C.UTF-8;MINE=2;PATH=/image/bin;",
                   t.info.id);
    assert_string_equal(all, want);
    engine_runner(h->en, &r);
    assert_int_equal(r.boxes_live, 1);
    assert_true(r.memory_free == r.memory_total - (32 << 20));
    assert_int_equal(r.cpu_millis_free, r.cpu_millis_total - 500);
}

static void a_create_answers_early_when_it_takes_long(void **state)
{
    struct host *h = *state;
    struct told t;

    h->config.create_hold_ms = 20;
    h->hold_create = true;
    host_start(h);
    create(h, &t);
    assert_false(t.failed);
    assert_int_equal(t.info.state, BOX_CREATING);
    fake_answer_held(h);
    UNTIL(h, state_of(h, t.info.id) == BOX_RUNNING);
}

/* The database is slower than the sandbox: the answer follows its commit, not the end of the caller's patience. */
static void a_create_is_answered_when_its_record_comes_last(void **state)
{
    struct host *h = *state;
    struct told t;

    h->config.create_hold_ms = 60000;
    host_start(h);
    host_sql(h, "CREATE VIEW slow AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 500000) "
                "SELECT x FROM c");
    host_sql(h, "CREATE TRIGGER slow BEFORE INSERT ON box BEGIN SELECT max(x) FROM slow; END");
    create(h, &t);
    assert_int_equal(t.info.state, BOX_RUNNING);
}

static void a_dropped_create_goes_on_without_a_word(void **state)
{
    struct host *h = *state;
    struct box_spec s = spec_of("t1");
    struct told t = {0};

    host_start(h);
    op_drop(engine_box_create(h->en, &s, tell, &t));
    UNTIL(h, h->spawns == 1);
    TURNS(h, 5);
    assert_int_equal(t.calls, 0);
    assert_int_equal(h->en->live, 1);
}

static void a_repeated_request_gives_the_first_sandbox(void **state)
{
    struct host *h = *state;
    struct box_spec s = spec_of("t1"), other = spec_of("t2");
    struct told t, u;

    host_start(h);
    s.request_id = other.request_id = "r-1";
    create_with(h, &s, &t);
    create_with(h, &s, &u);
    assert_string_equal(t.info.id, u.info.id);
    create_with(h, &other, &u);
    assert_string_not_equal(t.info.id, u.info.id);
    assert_int_equal(h->creates, 2);
    host_crash(h);
    host_start(h);
    create_with(h, &s, &u);
    assert_string_equal(t.info.id, u.info.id);
    assert_int_equal(h->creates, 2);
}

/* ---- the end of main -------------------------------------------------------------------------------------------------- */

static void main_ends(struct host *h, uint32_t cause, int code, enum box_state want, int exit_code, const char *reason)
{
    struct told t;
    struct box_info info;

    running(h, &t);
    fake_main_exit(fake_find(h, t.info.id), cause, code);
    UNTIL(h, box_state_ended(state_of(h, t.info.id)));
    info = get(h, t.info.id);
    assert_int_equal(info.state, want);
    assert_true(info.has_exit);
    assert_int_equal(info.exit_code, exit_code);
    assert_string_equal(info.reason, reason);
    assert_true(info.ended_ns >= info.started_ns);
    released(h, 0);
}

static void the_end_of_main_is_the_end_of_the_sandbox(void **state)
{
    struct host *h = *state;

    host_start(h);
    main_ends(h, IN_C_EXITED, 3, BOX_COMPLETED, 3, "exited 3");
    main_ends(h, IN_C_EXITED, 0, BOX_COMPLETED, 0, "exited 0");
    main_ends(h, IN_C_EXITED, 137, BOX_COMPLETED, 137, "exited 137");
    main_ends(h, IN_C_SIGNALED, 11, BOX_COMPLETED, 139, "killed by signal 11");
    main_ends(h, IN_C_SIGNALED, 9, BOX_COMPLETED, 137, "killed by signal 9");
    assert_int_equal(h->acks, 0); /* init keeps main's exit until it is killed */
    h->oom_kills = 1;
    main_ends(h, IN_C_SIGNALED, 9, BOX_COMPLETED, 137, "out of memory");
    assert_int_equal(h->kills, 6);
    UNTIL(h, h->forgets == 6);
}

static void an_oom_kill_that_a_command_was_told_of_is_not_mains(void **state)
{
    struct host *h = *state;
    struct told t;

    host_start(h);
    h->oom_kills = 1;
    running(h, &t);
    box_by_id(h->en, t.info.id)->oom_seen = 1;
    fake_main_exit(fake_find(h, t.info.id), IN_C_SIGNALED, 9);
    UNTIL(h, state_of(h, t.info.id) == BOX_COMPLETED);
    assert_string_equal(get(h, t.info.id).reason, "killed by signal 9");
    assert_false(get(h, t.info.id).oom);
}

static void a_stop_after_an_oom_kill_is_a_stop(void **state)
{
    struct host *h = *state;
    struct told t, u;

    host_start(h);
    h->oom_kills = 1;
    running(h, &t);
    stop(h, t.info.id, 0, &u);
    UNTIL(h, state_of(h, t.info.id) == BOX_TERMINATED);
    assert_string_equal(get(h, t.info.id).reason, "deleted by key");
    assert_false(get(h, t.info.id).oom);
    UNTIL(h, u.calls == 1);
}

static void a_kill_that_did_not_get_through_is_repeated(void **state)
{
    struct host *h = *state;
    struct told t, u;

    host_start(h);
    running(h, &t);
    h->refuse_kill = true;
    stop(h, t.info.id, 0, &u);
    UNTIL(h, h->forgets == 1);
    assert_int_equal(h->kills, 2);
    assert_int_equal(state_of(h, t.info.id), BOX_TERMINATED);
    UNTIL(h, u.calls == 1);
}

static void the_end_is_recorded_before_the_rest_is_killed(void **state)
{
    struct host *h = *state;
    struct told t;

    host_start(h);
    running(h, &t);
    h->hold_gone = true;
    fake_main_exit(fake_find(h, t.info.id), IN_C_EXITED, 5);
    UNTIL(h, h->kills == 1);
    assert_int_equal(state_of(h, t.info.id), BOX_COMPLETED);
    assert_int_equal(h->en->live, 1); /* not yet released */
    host_crash(h);
    h->hold_gone = false;
    host_start(h); /* SP_GONE comes again, for a record that says it all */
    assert_int_equal(get(h, t.info.id).exit_code, 5);
    UNTIL(h, h->forgets == 1);
}

static void gone_while_the_question_about_memory_is_open(void **state)
{
    struct host *h = *state;
    struct told t;

    host_start(h);
    running(h, &t);
    h->hold_stat = true;
    h->oom_kills = 2;
    fake_main_exit(fake_find(h, t.info.id), IN_C_SIGNALED, 9);
    UNTIL(h, h->stats == 1);
    fake_gone(fake_find(h, t.info.id));
    UNTIL(h, state_of(h, t.info.id) == BOX_COMPLETED);
    assert_string_equal(get(h, t.info.id).reason, "out of memory");
    assert_true(get(h, t.info.id).oom);
    assert_int_equal(get(h, t.info.id).exit_code, 137);
}

static void a_dead_init_fails_the_sandbox(void **state)
{
    struct host *h = *state;
    struct told t;

    host_start(h);
    running(h, &t);
    fake_init_dies(fake_find(h, t.info.id));
    UNTIL(h, state_of(h, t.info.id) == BOX_FAILED);
    assert_non_null(strstr(get(h, t.info.id).reason, "init died"));
    assert_false(get(h, t.info.id).has_exit);
    assert_int_equal(h->kills, 1);
    released(h, 0);
}

static void a_sandbox_that_goes_by_itself_is_failed_with_a_reason(void **state)
{
    struct host *h = *state;
    struct told t;

    host_start(h);
    running(h, &t);
    fake_gone(fake_find(h, t.info.id));
    UNTIL(h, state_of(h, t.info.id) == BOX_FAILED);
    assert_string_not_equal(get(h, t.info.id).reason, "");
    released(h, 0);
    UNTIL(h, h->forgets == 1);
}

/* ---- stop ------------------------------------------------------------------------------------------------------------- */

static void stopping_an_unknown_sandbox_is_not_found(void **state)
{
    struct host *h = *state;
    struct told t, u;

    host_start(h);
    running(h, &t);
    stop(h, "sb-nope", 1, &u);
    UNTIL(h, u.calls == 1);
    assert_true(u.failed);
    assert_string_equal(u.e.reason, "SANDBOX_NOT_FOUND");
    assert_non_null(engine_box_stop(h->en, "t2", t.info.id, 1, "x", tell, &u));
    UNTIL(h, u.calls == 2);
    assert_string_equal(u.e.reason, "SANDBOX_NOT_FOUND");
    assert_int_equal(state_of(h, t.info.id), BOX_RUNNING);
}

static void a_stop_terminates_main_and_is_terminated(void **state)
{
    struct host *h = *state;
    struct told t, u;
    uint64_t began;

    host_start(h);
    running(h, &t);
    began = clock_mono();
    stop(h, t.info.id, 10, &u);
    assert_int_equal(state_of(h, t.info.id), BOX_TERMINATING); /* at once */
    UNTIL(h, u.calls == 1);
    assert_int_equal(u.info.state, BOX_TERMINATED);
    assert_string_equal(u.reason, "deleted by key");
    assert_true(u.info.has_exit);
    assert_int_equal(u.info.exit_code, 143);
    assert_true(clock_mono() - began < 300 * NSEC_PER_MSEC);
    assert_int_equal(h->terms, 1);
    released(h, 0);
    stop(h, t.info.id, 10, &u); /* an ended one answers at once, with its record */
    UNTIL(h, u.calls == 1);
    assert_int_equal(u.info.state, BOX_TERMINATED);
}

static void a_main_that_ignores_term_is_killed_after_the_grace(void **state)
{
    struct host *h = *state;
    struct told t, u;

    h->ignore_term = true;
    h->config.stop_hold_ms = 20;
    host_start(h);
    running(h, &t);
    stop(h, t.info.id, 1, &u);
    UNTIL(h, u.calls == 1);
    assert_int_equal(u.info.state, BOX_TERMINATING); /* early, while it is under way */
    assert_int_equal(h->kills, 0);
    UNTIL(h, state_of(h, t.info.id) == BOX_TERMINATED);
    assert_int_equal(h->kills, 1);
    assert_string_equal(get(h, t.info.id).reason, "deleted by key");
    assert_false(get(h, t.info.id).has_exit); /* nobody saw it */
}

static void a_second_stop_joins_and_its_smaller_grace_wins(void **state)
{
    struct host *h = *state;
    struct told t, u, v;

    h->ignore_term = true;
    h->config.stop_hold_ms = 5000;
    host_start(h);
    running(h, &t);
    stop(h, t.info.id, 60, &u);
    UNTIL(h, h->terms == 1);
    v = (struct told){0};
    assert_non_null(engine_box_stop(h->en, "t1", t.info.id, 0, "another reason", tell, &v));
    UNTIL(h, u.calls == 1 && v.calls == 1);
    assert_int_equal(u.info.state, BOX_TERMINATED);
    assert_int_equal(v.info.state, BOX_TERMINATED);
    assert_string_equal(v.reason, "deleted by key"); /* the first one's */
    assert_int_equal(h->terms, 1);
}

static void a_stop_during_creation_kills_what_comes_of_it(void **state)
{
    struct host *h = *state;
    struct box_spec s = spec_of("t1");
    struct told t = {0}, u;

    h->hold_create = true;
    host_start(h);
    assert_non_null(engine_box_create(h->en, &s, tell, &t));
    UNTIL(h, h->creates == 1);
    stop(h, h->held_id, 10, &u);
    fake_answer_held(h);
    UNTIL(h, u.calls == 1 && t.calls == 1);
    assert_int_equal(u.info.state, BOX_TERMINATED);
    assert_int_equal(h->spawns, 0);
    released(h, 0);
}

static void a_stop_during_a_creation_that_fails_is_terminated(void **state)
{
    struct host *h = *state;
    struct box_spec s = spec_of("t1");
    struct told t = {0}, u;

    h->fail_create = true;
    host_start(h);
    assert_non_null(engine_box_create(h->en, &s, tell, &t));
    stop(h, TAILQ_FIRST(&h->en->by_id)->id, 0, &u);
    UNTIL(h, u.calls == 1 && t.calls == 1);
    assert_int_equal(u.info.state, BOX_TERMINATED);
    released(h, 0);
}

static void the_user_of_an_image_is_looked_up_once(void **state)
{
    struct host *h = *state;
    struct told a, b;
    struct box *one, *two;

    h->fail_user = true;
    host_start(h);
    create(h, &a);
    assert_int_equal(a.info.state, BOX_FAILED);
    assert_int_equal(h->users, 1);
    h->fail_user = false; /* a failure is not remembered */
    create(h, &a);
    assert_int_equal(h->users, 2);
    create(h, &b);
    assert_int_equal(h->users, 2);
    assert_int_equal(b.info.state, BOX_RUNNING);
    one = box_by_id(h->en, a.info.id);
    two = box_by_id(h->en, b.info.id);
    assert_int_equal(one->uid, two->uid);
    assert_int_equal(one->gid, two->gid);
    assert_int_equal(one->ngroups, two->ngroups);
    assert_string_equal(one->home, two->home);
}

static void a_stop_while_the_user_is_looked_up_kills_at_once(void **state)
{
    struct host *h = *state;
    struct box_spec s = spec_of("t1");
    struct told t = {0}, u;

    h->hold_user = true;
    host_start(h);
    assert_non_null(engine_box_create(h->en, &s, tell, &t));
    UNTIL(h, h->users == 1);
    stop(h, TAILQ_FIRST(&h->en->by_id)->id, 60, &u);
    UNTIL(h, u.calls == 1);
    assert_int_equal(u.info.state, BOX_TERMINATED);
    released(h, 0);
}

static void a_kill_the_spawner_knows_nothing_of_is_an_end(void **state)
{
    struct host *h = *state;
    struct told t, u;

    host_start(h);
    running(h, &t);
    host_lose(h, t.info.id); /* and the socket closes */
    stop(h, t.info.id, 0, &u);
    UNTIL(h, u.calls == 1);
    UNTIL(h, state_of(h, t.info.id) == BOX_TERMINATED);
    released(h, 0);
}

static void the_lifetime_ends_a_sandbox(void **state)
{
    struct host *h = *state;
    struct box_spec s = spec_of("t1");
    struct told t;

    host_start(h);
    s.lifetime_s = 1;
    create_with(h, &s, &t);
    assert_int_equal(t.info.state, BOX_RUNNING);
    UNTIL(h, state_of(h, t.info.id) == BOX_TERMINATED);
    assert_string_equal(get(h, t.info.id).reason, "lifetime reached");
    assert_int_equal(h->terms, 1);
}

/* ---- looking and removing ----------------------------------------------------------------------------------------------- */

struct listed {
    unsigned n;
    char ids[8][ID_MAX];
};

static void list_one(void *arg, const struct box_info *info)
{
    struct listed *l = arg;

    strcpy(l->ids[l->n++], info->id);
}

static struct listed list(struct host *h, const char *tenant, struct box_filter f, bool *more)
{
    struct listed l = {0};
    struct err e;

    assert_int_equal(engine_box_list(h->en, tenant, &f, list_one, &l, more, &e), 0);
    return l;
}

static void a_list_knows_tenant_state_tags_and_where_it_was(void **state)
{
    struct host *h = *state;
    const char *ab[] = {"a", "b", NULL}, *a[] = {"a", NULL}, *c[] = {"c", NULL};
    struct box_spec s = spec_of("t1"), other = spec_of("t2");
    struct told t[3], u;
    struct listed l;
    bool more;

    host_start(h);
    s.tags = ab;
    create_with(h, &s, &t[0]);
    s.tags = a;
    create_with(h, &s, &t[1]);
    s.tags = c;
    create_with(h, &s, &t[2]);
    create_with(h, &other, &u);
    fake_main_exit(fake_find(h, t[2].info.id), IN_C_EXITED, 0);
    UNTIL(h, state_of(h, t[2].info.id) == BOX_COMPLETED);

    l = list(h, "t1", (struct box_filter){.state = -1}, &more);
    assert_int_equal(l.n, 2);
    assert_true(strcmp(l.ids[0], l.ids[1]) < 0);
    assert_false(more);
    l = list(h, "t1", (struct box_filter){.state = -1, .ended = true}, &more);
    assert_int_equal(l.n, 3);
    l = list(h, "t1", (struct box_filter){.state = BOX_COMPLETED}, &more); /* a state of ended ones widens by itself */
    assert_int_equal(l.n, 1);
    l = list(h, "t1", (struct box_filter){.state = -1, .tags = ab}, &more);
    assert_int_equal(l.n, 1);
    assert_string_equal(l.ids[0], t[0].info.id);
    l = list(h, "t1", (struct box_filter){.state = -1, .ended = true, .limit = 2}, &more);
    assert_int_equal(l.n, 2);
    assert_true(more);
    l = list(h, "t1", (struct box_filter){.state = -1, .ended = true, .limit = 2, .after = l.ids[1]}, &more);
    assert_int_equal(l.n, 1);
    assert_false(more);
    l = list(h, "t1", (struct box_filter){.state = -1, .ended = true, .after = "sb-0"},
             &more); /* a cursor that is gone */
    assert_int_equal(l.n, 3);
    l = list(h, "t3", (struct box_filter){.state = -1, .ended = true}, &more);
    assert_int_equal(l.n, 0);
}

static void other_tenants_and_ended_sandboxes_run_nothing(void **state)
{
    struct host *h = *state;
    struct told t;
    struct box *b;
    struct box_info info;
    struct err e;

    host_start(h);
    running(h, &t);
    assert_int_equal(engine_box_get(h->en, "t2", t.info.id, &info, &e), -ENOENT);
    assert_string_equal(e.reason, "SANDBOX_NOT_FOUND");
    assert_int_equal(box_find_running(h->en, "t1", t.info.id, &b, &e), 0);
    fake_main_exit(fake_find(h, t.info.id), IN_C_EXITED, 3);
    UNTIL(h, state_of(h, t.info.id) == BOX_COMPLETED);
    assert_true(box_find_running(h->en, "t1", t.info.id, &b, &e) < 0);
    assert_int_equal(e.kind, ERR_PRECONDITION);
    assert_string_equal(e.reason, "SANDBOX_NOT_RUNNING");
    assert_non_null(strstr(e.msg, "is completed (exited 3)"));
}

static void a_live_sandbox_is_removed_only_by_force(void **state)
{
    struct host *h = *state;
    struct told t, u = {0};
    struct box_info info;
    struct err e;

    host_start(h);
    running(h, &t);
    assert_non_null(engine_box_remove(h->en, "t1", t.info.id, false, tell, &u));
    UNTIL(h, u.calls == 1);
    assert_int_equal(u.e.kind, ERR_PRECONDITION);
    assert_non_null(engine_box_remove(h->en, "t1", t.info.id, true, tell, &u));
    UNTIL(h, u.calls == 2);
    assert_false(u.failed);
    assert_int_equal(u.info.state, BOX_TERMINATED);
    assert_int_equal(engine_box_get(h->en, "t1", t.info.id, &info, &e), -ENOENT);
    host_crash(h);
    host_start(h);
    assert_int_equal(engine_box_get(h->en, "t1", t.info.id, &info, &e), -ENOENT);
}

static void ended_records_go_when_their_time_is_over(void **state)
{
    struct host *h = *state;
    struct told t;

    h->config.retention_ns = 200 * NSEC_PER_MSEC;
    host_start(h);
    running(h, &t);
    fake_main_exit(fake_find(h, t.info.id), IN_C_EXITED, 0);
    UNTIL(h, h->forgets == 1);
    assert_non_null(h->en->boxes);
    UNTIL(h, h->en->boxes == NULL);
}

static void the_oldest_ended_record_goes_when_there_are_too_many(void **state)
{
    struct host *h = *state;
    struct told t[3];
    struct box_info info;
    struct err e;

    h->config.retained_max = 2;
    host_start(h);
    for (int i = 0; i < 3; i++) {
        running(h, &t[i]);
        fake_main_exit(fake_find(h, t[i].info.id), IN_C_EXITED, 0);
        UNTIL(h, h->forgets == (unsigned)i + 1);
    }
    UNTIL(h, engine_box_get(h->en, "t1", t[0].info.id, &info, &e) < 0);
    assert_int_equal(state_of(h, t[2].info.id), BOX_COMPLETED);
}

static int setup(void **state)
{
    struct host *h = malloc(sizeof *h);

    host_open(h);
    *state = h;
    return 0;
}

static int teardown(void **state)
{
    host_close(*state);
    free(*state);
    return 0;
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_request_beyond_a_limit_is_refused),
        T(nat_that_the_machine_lacks_is_refused),
        T(the_sandbox_above_the_limit_is_refused_until_one_ends),
        T(the_spawners_slots_are_a_limit_too),
        T(an_image_that_is_not_here_fails_the_sandbox),
        T(a_spawner_that_refuses_fails_the_sandbox),
        T(an_unknown_user_fails_the_sandbox_and_releases_it),
        T(a_main_that_cannot_start_fails_the_sandbox_and_releases_it),
        T(a_record_that_cannot_be_written_takes_the_sandbox_back),
        T(a_created_sandbox_runs_and_says_what_it_is),
        T(a_create_answers_early_when_it_takes_long),
        T(a_create_is_answered_when_its_record_comes_last),
        T(a_dropped_create_goes_on_without_a_word),
        T(a_repeated_request_gives_the_first_sandbox),
        T(the_end_of_main_is_the_end_of_the_sandbox),
        T(an_oom_kill_that_a_command_was_told_of_is_not_mains),
        T(a_stop_after_an_oom_kill_is_a_stop),
        T(a_kill_that_did_not_get_through_is_repeated),
        T(the_end_is_recorded_before_the_rest_is_killed),
        T(gone_while_the_question_about_memory_is_open),
        T(a_dead_init_fails_the_sandbox),
        T(a_sandbox_that_goes_by_itself_is_failed_with_a_reason),
        T(stopping_an_unknown_sandbox_is_not_found),
        T(a_stop_terminates_main_and_is_terminated),
        T(a_main_that_ignores_term_is_killed_after_the_grace),
        T(a_second_stop_joins_and_its_smaller_grace_wins),
        T(a_stop_during_creation_kills_what_comes_of_it),
        T(a_stop_during_a_creation_that_fails_is_terminated),
        T(the_user_of_an_image_is_looked_up_once),
        T(a_stop_while_the_user_is_looked_up_kills_at_once),
        T(a_kill_the_spawner_knows_nothing_of_is_an_end),
        T(the_lifetime_ends_a_sandbox),
        T(a_list_knows_tenant_state_tags_and_where_it_was),
        T(other_tenants_and_ended_sandboxes_run_nothing),
        T(a_live_sandbox_is_removed_only_by_force),
        T(ended_records_go_when_their_time_is_over),
        T(the_oldest_ended_record_goes_when_there_are_too_many),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
