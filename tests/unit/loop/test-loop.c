#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "loop/loop.h"

static struct loop *loop;
static int calls;

static int setup(void **state)
{
    struct err e;

    (void)state;
    calls = 0;
    return loop_new(&loop, &e);
}

static int teardown(void **state)
{
    (void)state;
    loop_free(loop);
    return 0;
}

static struct io ios[2];

static void stop_both(struct io *io, uint32_t events)
{
    (void)io;
    (void)events;
    calls++;
    io_stop(&ios[0]);
    io_stop(&ios[1]);
    loop_stop(loop);
}

static void an_event_of_a_stopped_source_is_dropped(void **state)
{
    int a[2], b[2];

    (void)state;
    assert_int_equal(pipe(a) | pipe(b), 0);
    assert_int_equal(write(a[1], "x", 1) + write(b[1], "x", 1), 2);
    assert_int_equal(io_start(loop, &ios[0], a[0], EPOLLIN, stop_both), 0);
    assert_int_equal(io_start(loop, &ios[1], b[0], EPOLLIN, stop_both), 0);
    assert_int_equal(loop_run(loop), 0);
    assert_int_equal(calls, 1); /* both were ready in one turn */
    for (int i = 0; i < 2; i++) {
        close(a[i]);
        close(b[i]);
    }
}

static int order[8], order_len;
static struct timer timers[4];

static void note_timer(struct timer *t)
{
    order[order_len++] = (int)(t - timers);
    if (order_len == 3)
        loop_stop(loop);
}

static void timers_fire_in_order_and_stopped_ones_do_not(void **state)
{
    (void)state;
    order_len = 0;
    assert_int_equal(timer_start(loop, &timers[0], 9 * NSEC_PER_MSEC, note_timer), 0);
    assert_int_equal(timer_start(loop, &timers[1], 3 * NSEC_PER_MSEC, note_timer), 0);
    assert_int_equal(timer_start(loop, &timers[2], 1 * NSEC_PER_MSEC, note_timer), 0);
    assert_int_equal(timer_start(loop, &timers[3], 5 * NSEC_PER_MSEC, note_timer), 0);
    timer_stop(&timers[2]);
    timer_stop(&timers[2]);
    assert_false(timer_active(&timers[2]));
    assert_int_equal(loop_run(loop), 0);
    assert_int_equal(order[0], 1);
    assert_int_equal(order[1], 3);
    assert_int_equal(order[2], 0);
}

static void many_timers_keep_the_heap_ordered(void **state)
{
    struct timer *t = calloc(2000, sizeof *t);
    unsigned seed = 7;

    (void)state;
    order_len = 4; /* note_timer must not stop the loop: these never fire */
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 2000; i++)
            assert_int_equal(
                timer_start(loop, &t[i], (1000 + (uint64_t)(rand_r(&seed) % 100000)) * NSEC_PER_SEC, note_timer), 0);
        for (int i = round; i < 2000; i += 3)
            timer_stop(&t[i]);
    }
    for (int i = 0; i < 2000; i++)
        timer_stop(&t[i]);
    free(t);
}

static struct defer defers[3];

static void note_defer(struct defer *d)
{
    order[order_len++] = (int)(d - defers);
    if (d == &defers[0]) {
        defer_stop(&defers[2]);
        defer_start(loop, &defers[0], note_defer); /* next turn */
    }
    if (order_len == 3)
        loop_stop(loop);
}

static void deferred_calls_run_once_in_order_and_can_be_stopped(void **state)
{
    (void)state;
    order_len = 0;
    for (int i = 0; i < 3; i++)
        defer_start(loop, &defers[i], note_defer);
    defer_start(loop, &defers[1], note_defer);
    assert_int_equal(loop_run(loop), 0);
    assert_int_equal(order[0], 0);
    assert_int_equal(order[1], 1);
    assert_int_equal(order[2], 0);
    defer_stop(&defers[0]);
}

struct job {
    struct work w;
    int n;
};
static int lane_last = -1;
static volatile int lane_inside;
static int done_count;

static void job_run(struct work *w)
{
    struct job *j = container_of(w, struct job, w);

    if (w->lane != 0) {
        if (__atomic_add_fetch(&lane_inside, 1, __ATOMIC_SEQ_CST) != 1 || j->n != lane_last + 1)
            abort();
        lane_last = j->n;
        (void)__atomic_sub_fetch(&lane_inside, 1, __ATOMIC_SEQ_CST);
    }
}

static void job_done(struct work *w)
{
    free(container_of(w, struct job, w));
    if (++done_count == 2000)
        loop_stop(loop);
}

static void jobs_of_a_lane_run_one_by_one_in_order(void **state)
{
    (void)state;
    lane_last = -1;
    done_count = 0;
    for (int i = 0; i < 2000; i++) {
        struct job *j = calloc(1, sizeof *j);

        j->n = i / 2;
        j->w.lane = i % 2 == 0 ? WORK_LANE_DB : 0;
        assert_int_equal(work_submit(loop, &j->w, job_run, job_done), 0);
    }
    assert_int_equal(loop_run(loop), 0);
    assert_int_equal(lane_last, 999);
}

static int gate[2];
static unsigned gated_left;

static void wait_at_the_gate(struct work *w)
{
    char c;

    (void)w;
    (void)!read(gate[0], &c, 1); /* end of file opens it for all */
}

static void gated(struct work *w)
{
    (void)w;
    if (--gated_left == 0)
        loop_stop(loop);
}

static void a_full_queue_refuses_jobs_but_no_lane(void **state)
{
    struct work *jobs = calloc(WORK_QUEUE_MAX + 2 * WORK_THREADS, sizeof *jobs), database = {.lane = WORK_LANE_DB};
    unsigned n = 0;

    (void)state;
    assert_int_equal(pipe(gate), 0);
    while (work_submit(loop, &jobs[n], wait_at_the_gate, gated) == 0)
        assert_true(++n < WORK_QUEUE_MAX + 2 * WORK_THREADS);
    assert_true(n >= WORK_QUEUE_MAX);
    assert_int_equal(work_submit(loop, &database, wait_at_the_gate, gated), 0);
    gated_left = n + 1;
    (void)close(gate[1]);
    assert_int_equal(loop_run(loop), 0);
    (void)close(gate[0]);
    free(jobs);
}

static void done_is_called_for_jobs_pending_at_the_end(void **state)
{
    struct loop *mine;
    struct err e;

    (void)state;
    done_count = 0;
    lane_last = -1;
    assert_int_equal(loop_new(&mine, &e), 0);
    for (int i = 0; i < 50; i++) {
        struct job *j = calloc(1, sizeof *j);

        assert_int_equal(work_submit(mine, &j->w, job_run, job_done), 0);
    }
    loop_free(mine);
    assert_int_equal(done_count, 50);
}

static void on_signal(struct sig *s, int signo)
{
    (void)s;
    calls = signo;
    loop_stop(loop);
}

static void signals_arrive_on_the_loop(void **state)
{
    struct sig s = {0};
    const int signos[] = {SIGUSR1};
    sigset_t set;

    (void)state;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    assert_int_equal(sigprocmask(SIG_BLOCK, &set, NULL), 0);
    assert_int_equal(sig_start(loop, &s, signos, 1, on_signal), 0);
    assert_int_equal(raise(SIGUSR1), 0);
    assert_int_equal(loop_run(loop), 0);
    assert_int_equal(calls, SIGUSR1);
    sig_stop(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_event_of_a_stopped_source_is_dropped, setup, teardown),
        cmocka_unit_test_setup_teardown(timers_fire_in_order_and_stopped_ones_do_not, setup, teardown),
        cmocka_unit_test_setup_teardown(many_timers_keep_the_heap_ordered, setup, teardown),
        cmocka_unit_test_setup_teardown(deferred_calls_run_once_in_order_and_can_be_stopped, setup, teardown),
        cmocka_unit_test_setup_teardown(jobs_of_a_lane_run_one_by_one_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(a_full_queue_refuses_jobs_but_no_lane, setup, teardown),
        cmocka_unit_test_setup_teardown(done_is_called_for_jobs_pending_at_the_end, setup, teardown),
        cmocka_unit_test_setup_teardown(signals_arrive_on_the_loop, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
