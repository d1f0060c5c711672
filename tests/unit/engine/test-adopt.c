/* What becomes of sandboxes when silicad dies, at each step of their life, and when the host or the spawner does. */
#include "fake-host.h"

#include <errno.h>
#include <sys/socket.h>

struct told {
    unsigned calls;
    bool failed;
    struct err e;
    struct box_info info;
};

static void tell(void *arg, const struct err *e, const struct box_info *info)
{
    struct told *t = arg;

    t->calls++;
    t->failed = e != NULL;
    if (e != NULL)
        t->e = *e;
    else
        t->info = *info;
}

static void create(struct host *h, struct told *t)
{
    struct box_spec s = {.tenant = "t1", .creator = "key", .dialect = "cw_v1", .image = "good", .request_id = NULL};

    *t = (struct told){0};
    assert_non_null(engine_box_create(h->en, &s, tell, t));
    UNTIL(h, t->calls == 1);
    assert_false(t->failed);
}

static struct box_info get(struct host *h, const char *id)
{
    struct box_info info;
    struct err e;

    if (engine_box_get(h->en, "t1", id, &info, &e) < 0)
        fail_msg("%s", e.msg);
    return info;
}

static void until_ended(struct host *h, const char *id, enum box_state want, const char *words)
{
    UNTIL(h, box_state_ended(get(h, id).state));
    assert_int_equal(get(h, id).state, want);
    if (strstr(get(h, id).reason, words) == NULL)
        fail_msg("reason is '%s', not '%s'", get(h, id).reason, words);
}

static void a_running_sandbox_runs_on_and_its_end_is_seen(void **state)
{
    struct host *h = *state;
    struct told t;
    struct box *b;
    struct box_info before;
    struct err e;

    host_start(h);
    create(h, &t);
    before = get(h, t.info.id);
    host_crash(h);
    host_start(h);
    assert_int_equal(get(h, t.info.id).state, BOX_RUNNING);
    assert_true(get(h, t.info.id).started_ns == before.started_ns);
    assert_int_equal(box_find_running(h->en, "t1", t.info.id, &b, &e), 0); /* ready means that things can run again */
    assert_int_equal(b->uid, 1000);
    assert_string_equal(b->home, "/home/app");
    assert_string_equal(env_lookup(b->env, "FROM_IMAGE"), "1");
    assert_int_equal(h->en->live, 1);
    assert_int_equal(h->spawns, 1);
    fake_main_exit(fake_find(h, t.info.id), IN_C_EXITED, 4);
    until_ended(h, t.info.id, BOX_COMPLETED, "exited 4");
    UNTIL(h, h->en->live == 0);
}

static void an_exit_while_we_were_away_is_known(void **state)
{
    struct host *h = *state;
    struct told t;

    host_start(h);
    create(h, &t);
    host_crash(h);
    fake_main_exit(fake_find(h, t.info.id), IN_C_EXITED, 6);
    host_crash(h);
    host_start(h);
    until_ended(h, t.info.id, BOX_COMPLETED, "exited 6");
    assert_int_equal(get(h, t.info.id).exit_code, 6);
}

static void an_exit_whose_record_was_not_committed_is_told_again(void **state)
{
    struct host *h = *state;
    struct told t;

    host_start(h);
    create(h, &t);
    fake_main_exit(fake_find(h, t.info.id), IN_C_EXITED, 7);
    host_crash(h); /* before a turn of the loop: nobody read it */
    host_start(h);
    until_ended(h, t.info.id, BOX_COMPLETED, "exited 7");
}

static void a_crash_between_the_record_and_the_kill_ends_in_the_kill(void **state)
{
    struct host *h = *state;
    struct told t;

    host_start(h);
    create(h, &t);
    host_crash(h);
    host_sql(h, "UPDATE box SET state = 4, reason = 'exited 8', has_exit = 1, exit_code = 8, ended_ns = created_ns");
    host_start(h);
    assert_int_equal(get(h, t.info.id).state, BOX_COMPLETED);
    UNTIL(h, h->kills == 1 && h->forgets == 1);
    assert_int_equal(get(h, t.info.id).exit_code, 8);
    assert_int_equal(h->en->live, 0);
}

static void a_crash_before_the_running_state_is_recorded_does_no_harm(void **state)
{
    struct host *h = *state;
    struct told t;

    host_start(h);
    create(h, &t);
    host_crash(h);
    host_sql(h, "UPDATE box SET state = 0, started_ns = 0");
    host_start(h);
    assert_int_equal(get(h, t.info.id).state, BOX_RUNNING);
    assert_true(get(h, t.info.id).started_ns != 0);
}

static void a_crash_while_starting_fails_the_sandbox(void **state)
{
    struct host *h = *state;
    struct told t;

    h->hold_user = true;
    h->config.create_hold_ms = 10;
    host_start(h);
    create(h, &t);
    assert_int_equal(t.info.state, BOX_CREATING);
    host_crash(h);
    h->hold_user = false;
    host_start(h);
    until_ended(h, t.info.id, BOX_FAILED, "interrupted while starting");
    UNTIL(h, h->kills == 1 && h->en->live == 0);
}

static void a_crash_before_the_record_ends_the_sandbox(void **state)
{
    struct host *h = *state;
    struct told t;
    struct box_info info;
    struct err e;

    host_start(h);
    create(h, &t);
    host_crash(h);
    host_sql(h, "DELETE FROM box");
    host_start(h);
    UNTIL(h, h->kills == 1 && h->forgets == 1);
    assert_int_equal(engine_box_get(h->en, "t1", t.info.id, &info, &e), -ENOENT);
}

static void a_stop_that_was_under_way_goes_on(void **state)
{
    struct host *h = *state;
    struct told t, u = {0};

    h->ignore_term = true;
    h->config.stop_hold_ms = 10;
    host_start(h);
    create(h, &t);
    assert_non_null(engine_box_stop(h->en, "t1", t.info.id, 60, "deleted by key", tell, &u));
    UNTIL(h, u.calls == 1);
    assert_int_equal(u.info.state, BOX_TERMINATING);
    host_crash(h);
    h->ignore_term = false;
    host_start(h);
    until_ended(h, t.info.id, BOX_TERMINATED, "deleted by key");
    assert_int_equal(get(h, t.info.id).exit_code, 143);
}

static void gone_while_we_were_away_invents_no_exit_code(void **state)
{
    struct host *h = *state;
    struct told t;

    host_start(h);
    create(h, &t);
    host_crash(h);
    {
        struct fake_box *f = fake_find(h, t.info.id);

        host_lose(h, t.info.id);
        f->used = f->gone_due = true;
    }
    host_start(h);
    until_ended(h, t.info.id, BOX_FAILED, "ended while the daemon was away");
    assert_false(get(h, t.info.id).has_exit);
    UNTIL(h, h->forgets == 1);
}

static void a_gone_that_comes_late_is_waited_for(void **state)
{
    struct host *h = *state;
    struct told t;
    struct fake_box *f;

    host_start(h);
    create(h, &t);
    host_crash(h);
    f = fake_find(h, t.info.id);
    host_lose(h, t.info.id);
    f->used = f->gone_due = h->hold_gone = true;
    h->oom_kills = 1;
    host_start(h);
    assert_int_equal(h->stats, 1); /* it was asked about, and is known as a dead one */
    assert_int_equal(get(h, t.info.id).state, BOX_RUNNING);
    fake_gone(f);
    until_ended(h, t.info.id, BOX_FAILED, "out of memory");
}

static void what_the_spawner_does_not_know_is_lost(void **state)
{
    struct host *h = *state;
    struct told t;

    host_start(h);
    create(h, &t);
    host_crash(h);
    host_lose(h, t.info.id);
    host_start(h);
    until_ended(h, t.info.id, BOX_FAILED, "lost: the supervisor no longer knew it");
    assert_int_equal(h->en->live, 0);
}

static void after_a_reboot_nothing_is_left_and_that_is_said(void **state)
{
    struct host *h = *state;
    struct told t;

    host_start(h);
    create(h, &t);
    host_crash(h);
    host_lose(h, t.info.id);
    h->boot_id = "boot-2";
    host_start(h);
    until_ended(h, t.info.id, BOX_FAILED, "host restarted");
}

static void an_init_without_an_answer_does_not_hold_up_the_others(void **state)
{
    struct host *h = *state;
    struct told t;
    struct box *b;
    struct err e;

    host_start(h);
    create(h, &t);
    host_crash(h);
    h->no_table = true;
    host_start(h);
    assert_int_equal(get(h, t.info.id).state, BOX_RUNNING);
    assert_true(box_find_running(h->en, "t1", t.info.id, &b, &e) < 0);
    assert_int_equal(e.kind, ERR_UNAVAILABLE);
    h->no_table = false;
    create(h, &t);
    assert_int_equal(t.info.state, BOX_RUNNING);
}

static void the_lifetime_counts_on_through_a_crash(void **state)
{
    struct host *h = *state;
    struct told t;

    h->config.default_lifetime_s = 3600;
    host_start(h);
    create(h, &t);
    host_crash(h);
    host_sql(h, "UPDATE box SET started_ns = started_ns - 3600000000000");
    host_start(h);
    until_ended(h, t.info.id, BOX_TERMINATED, "lifetime reached");
}

static void tokens_of_a_new_silicad_are_new(void **state)
{
    struct host *h = *state;
    struct told t;
    uint64_t token;

    host_start(h);
    create(h, &t);
    token = fake_find(h, t.info.id)->main;
    host_crash(h);
    host_start(h);
    create(h, &t);
    assert_true(fake_find(h, t.info.id)->main > token);
}

/* ---- the spawner's end, ours ------------------------------------------------------------------------------------------ */

static void a_dead_spawner_stops_the_daemon_and_keeps_the_sandboxes(void **state)
{
    struct host *h = *state;
    struct told t;

    host_start(h);
    create(h, &t);
    io_stop(&h->io);
    fd_close(take_fd(&h->fd));
    UNTIL(h, h->stop_calls == 1);
    assert_true(h->stop_keep);
    assert_int_equal(get(h, t.info.id).state, BOX_RUNNING);
    TURNS(h, 5);
    assert_int_equal(h->stop_calls, 1);
}

static void nonsense_from_the_spawner_stops_the_daemon(void **state)
{
    struct host *h = *state;

    host_start(h);
    assert_true(send(h->fd, "nonsense", 8, 0) == 8);
    UNTIL(h, h->stop_calls == 1);
    assert_true(h->stop_keep);
}

static void an_answer_to_nothing_stops_the_daemon(void **state)
{
    struct host *h = *state;
    struct sp_stats s = {0};

    host_start(h);
    assert_int_equal(wire_send(h->fd, SP_STATS, 4711, &s, sizeof s, NULL, NULL, 0), 0);
    UNTIL(h, h->stop_calls == 1);
}

static void an_id_that_is_a_path_stops_the_daemon(void **state)
{
    struct host *h = *state;
    struct wire_tail tail = {0};
    struct sp_gone g = {.id = wire_put_str(&tail, "../../etc")};

    host_start(h);
    assert_int_equal(wire_send(h->fd, SP_GONE, 0, &g, sizeof g, &tail, NULL, 0), 0);
    wire_tail_fini(&tail);
    UNTIL(h, h->stop_calls == 1);
}

static void sigterm_reaches_the_daemon(void **state)
{
    struct host *h = *state;
    struct sp_stop s = {.keep = 0};

    host_start(h);
    assert_int_equal(wire_send(h->fd, SP_STOP, 0, &s, sizeof s, NULL, NULL, 0), 0);
    UNTIL(h, h->stop_calls == 1);
    assert_false(h->stop_keep);
}

static void done(void *arg)
{
    (*(unsigned *)arg)++;
}

static void a_shutdown_tells_who_waits_and_records_why(void **state)
{
    struct host *h = *state;
    struct box_spec s = {.tenant = "t1", .creator = "key", .dialect = "cw_v1", .image = "good"};
    struct told t, u = {0};
    struct box_info info;
    struct err e;
    unsigned finished = 0;

    host_start(h);
    create(h, &t);
    h->hold_create = true;
    assert_non_null(engine_box_create(h->en, &s, tell, &u));
    engine_shutdown(h->en, false, done, &finished);
    assert_int_equal(finished, 0);
    UNTIL(h, finished == 1);
    assert_int_equal(u.calls, 1);
    assert_int_equal(u.e.kind, ERR_UNAVAILABLE);
    assert_true(engine_box_get(h->en, "t1", t.info.id, &info, &e) < 0);
    assert_int_equal(e.kind, ERR_UNAVAILABLE);
    host_crash(h);
    host_lose(h, t.info.id); /* the spawner ends what we left */
    host_start(h);
    assert_int_equal(get(h, t.info.id).state, BOX_TERMINATED);
    assert_string_equal(get(h, t.info.id).reason, "daemon stopped");
}

static void a_shutdown_that_keeps_leaves_the_sandboxes_to_the_next(void **state)
{
    struct host *h = *state;
    struct told t;
    unsigned finished = 0;

    host_start(h);
    create(h, &t);
    engine_shutdown(h->en, true, done, &finished);
    UNTIL(h, finished == 1);
    host_crash(h);
    host_start(h);
    assert_int_equal(get(h, t.info.id).state, BOX_RUNNING);
    assert_int_equal(h->kills, 0);
}

static void a_full_socket_delays_and_loses_nothing(void **state)
{
    struct host *h = *state;
    struct box_spec s = {.tenant = "t1", .creator = "key", .dialect = "cw_v1", .image = "good"};
    static struct told t[48];
    int size = 1; /* the kernel's least */

    host_start(h);
    memset(t, 0, sizeof t);
    io_stop(&h->io); /* the spawner is busy */
    (void)setsockopt(h->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    for (size_t i = 0; i < ARRAY_LEN(t); i++)
        assert_non_null(engine_box_create(h->en, &s, tell, &t[i]));
    TURNS(h, 3);
    assert_int_equal(h->creates, 0);
    host_listen(h);
    UNTIL(h, h->creates == ARRAY_LEN(t));
    for (size_t i = 0; i < ARRAY_LEN(t); i++)
        UNTIL(h, t[i].calls == 1 && !t[i].failed);
}

static void a_queue_to_the_spawner_that_is_full_refuses(void **state)
{
    struct host *h = *state;
    struct err e;
    unsigned n = 0;

    host_start(h);
    io_stop(&h->io);
    while (n < 100000 && spawner_forget(h->en->spawner, "sb-x", &e) == 0)
        n++;
    assert_true(n >= 8192 && n < 100000);
    assert_int_equal(e.kind, ERR_UNAVAILABLE);
    assert_string_equal(e.reason, "RUNNER_OVERLOADED");
    host_listen(h);
    UNTIL(h, h->forgets == n); /* and what was taken arrives */
}

static void a_claim_of_a_million_sandboxes_stops_the_daemon(void **state)
{
    struct host *h = *state;
    struct sp_hello hello = {.epoch = 9, .adopt_count = UINT32_MAX};

    h->silent = true;
    host_start_nowait(h);
    assert_int_equal(wire_send(h->fd, SP_HELLO, 0, &hello, sizeof hello, NULL, NULL, 0), 0);
    UNTIL(h, h->stop_calls == 1);
    assert_int_equal(h->ready_calls, 0);
}

static void an_end_that_is_known_at_shutdown_is_recorded(void **state)
{
    struct host *h = *state;
    struct told t;
    unsigned finished = 0;

    h->hold_stat = true;
    host_start(h);
    create(h, &t);
    fake_main_exit(fake_find(h, t.info.id), IN_C_SIGNALED, 9);
    UNTIL(h, h->stats == 1); /* main's end is known, its cause is being asked for */
    engine_shutdown(h->en, true, done, &finished);
    UNTIL(h, finished == 1);
    host_crash(h);
    h->hold_stat = false;
    host_start(h);
    assert_int_equal(get(h, t.info.id).state, BOX_COMPLETED);
    assert_int_equal(get(h, t.info.id).exit_code, 137);
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
        T(a_crash_while_starting_fails_the_sandbox),
        T(a_crash_before_the_record_ends_the_sandbox),
        T(gone_while_we_were_away_invents_no_exit_code),
        T(a_gone_that_comes_late_is_waited_for),
        T(what_the_spawner_does_not_know_is_lost),
        T(after_a_reboot_nothing_is_left_and_that_is_said),
        T(a_running_sandbox_runs_on_and_its_end_is_seen),
        T(an_exit_while_we_were_away_is_known),
        T(an_exit_whose_record_was_not_committed_is_told_again),
        T(a_crash_between_the_record_and_the_kill_ends_in_the_kill),
        T(a_crash_before_the_running_state_is_recorded_does_no_harm),
        T(a_stop_that_was_under_way_goes_on),
        T(an_init_without_an_answer_does_not_hold_up_the_others),
        T(the_lifetime_counts_on_through_a_crash),
        T(tokens_of_a_new_silicad_are_new),
        T(a_dead_spawner_stops_the_daemon_and_keeps_the_sandboxes),
        T(nonsense_from_the_spawner_stops_the_daemon),
        T(an_answer_to_nothing_stops_the_daemon),
        T(an_id_that_is_a_path_stops_the_daemon),
        T(sigterm_reaches_the_daemon),
        T(a_shutdown_tells_who_waits_and_records_why),
        T(a_shutdown_that_keeps_leaves_the_sandboxes_to_the_next),
        T(a_full_socket_delays_and_loses_nothing),
        T(a_queue_to_the_spawner_that_is_full_refuses),
        T(a_claim_of_a_million_sandboxes_stops_the_daemon),
        T(an_end_that_is_known_at_shutdown_is_recorded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
