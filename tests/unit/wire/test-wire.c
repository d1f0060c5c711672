#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "wire/in.h"
#include "wire/sp.h"

static _Alignas(8) char buffer[WIRE_DATAGRAM_MAX];

struct pair {
    int a, b;
};

static int setup(void **state)
{
    static struct pair p;
    int sv[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, sv) < 0)
        return -1;
    p = (struct pair){sv[0], sv[1]};
    *state = &p;
    return 0;
}

static int teardown(void **state)
{
    struct pair *p = *state;

    close(p->a);
    close(p->b);
    return 0;
}

static void a_wrong_magic_size_or_type_is_refused(void **state)
{
    struct pair *p = *state;
    struct {
        struct wire_head h;
        struct sp_kill k;
        char tail[8];
    } m = {.h = {.magic = WIRE_MAGIC, .version = WIRE_VERSION, .type = SP_KILL, .size = sizeof m}};
    struct wire_msg msg;

    m.h.magic ^= 1;
    assert_int_equal(send(p->a, &m, sizeof m, 0), sizeof m);
    assert_int_equal(wire_recv(p->b, buffer, sizeof buffer, sp_body_size, &msg), -EBADMSG);
    m.h.magic ^= 1;
    m.h.size++;
    assert_int_equal(send(p->a, &m, sizeof m, 0), sizeof m);
    assert_int_equal(wire_recv(p->b, buffer, sizeof buffer, sp_body_size, &msg), -EBADMSG);
    m.h.size--;
    m.h.type = 999;
    assert_int_equal(send(p->a, &m, sizeof m, 0), sizeof m);
    assert_int_equal(wire_recv(p->b, buffer, sizeof buffer, sp_body_size, &msg), -EBADMSG);
    m.h.type = SP_CREATE; /* its body is longer than what is there */
    assert_int_equal(send(p->a, &m, sizeof m, 0), sizeof m);
    assert_int_equal(wire_recv(p->b, buffer, sizeof buffer, sp_body_size, &msg), -EBADMSG);
    m.h.type = SP_KILL;
    m.h.version = WIRE_VERSION + 1;
    assert_int_equal(send(p->a, &m, sizeof m, 0), sizeof m);
    assert_int_equal(wire_recv(p->b, buffer, sizeof buffer, sp_body_size, &msg), -EBADMSG);
    m.h.version = WIRE_VERSION;
    assert_int_equal(send(p->a, &m, sizeof m, 0), sizeof m);
    assert_int_equal(wire_recv(p->b, buffer, sizeof buffer, sp_body_size, &msg), 1);
    wire_msg_fini(&msg);
}

static void a_datagram_larger_than_the_buffer_is_refused(void **state)
{
    struct pair *p = *state;
    char *big = calloc(1, sizeof buffer + 100);
    struct wire_msg msg;

    assert_int_equal(send(p->a, big, sizeof buffer + 100, 0), sizeof buffer + 100);
    assert_int_equal(wire_recv(p->b, buffer, sizeof buffer, sp_body_size, &msg), -EBADMSG);
    free(big);
}

static void strings_outside_the_tail_are_refused(void **state)
{
    const char tail[] = "abc\0de\0"; /* abc, de, and the literal's own NUL */
    struct wire_msg m = {.tail = tail, .tail_len = 7};
    bool bad = false;

    (void)state;
    assert_string_equal(wire_get_str(&m, (struct wire_str){0, 3}, &bad), "abc");
    assert_string_equal(wire_get_str(&m, (struct wire_str){4, 2}, &bad), "de");
    assert_null(wire_get_str(&m, (struct wire_str){0, 0}, &bad));
    assert_false(bad);
    assert_null(wire_get_str(&m, (struct wire_str){4, 3}, &bad)); /* no room for the NUL */
    assert_true(bad);
    bad = false;
    assert_null(wire_get_str(&m, (struct wire_str){0, 6}, &bad)); /* a NUL inside */
    assert_true(bad);
    bad = false;
    assert_null(wire_get_str(&m, (struct wire_str){UINT32_MAX, 1}, &bad));
    assert_true(bad);
    bad = false;
    assert_null(wire_get_str(&m, (struct wire_str){1, UINT32_MAX}, &bad));
    assert_true(bad);
}

static void vectors_must_match_their_count_and_bytes(void **state)
{
    const char tail[] = "a\0bc\0";
    struct wire_msg m = {.tail = tail, .tail_len = 5};
    const char **v;
    bool bad = false;

    (void)state;
    v = wire_get_vec(&m, (struct wire_vec){0, 2, 5}, 10, &bad);
    assert_non_null(v);
    assert_string_equal(v[0], "a");
    assert_string_equal(v[1], "bc");
    assert_null(v[2]);
    free(v);
    const struct wire_vec wrong[] = {{0, 3, 5}, {0, 1, 5},          {0, 2, 4}, {0, 2, 6},
                                     {4, 2, 2}, {UINT32_MAX, 1, 1}, {0, 11, 5}};
    for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        bad = false;
        assert_null(wire_get_vec(&m, wrong[i], 10, &bad));
        assert_true(bad);
    }
}

static void a_large_tail_travels_in_a_sealed_memfd(void **state)
{
    struct pair *p = *state;
    struct wire_tail t = {0};
    struct in_spawn s = {.kind = IN_EXEC};
    char *big = malloc(100001);
    const char *argv[] = {big, "x", "", NULL}, **v;
    struct wire_msg m;
    bool bad = false;

    memset(big, 'z', 100000);
    big[100000] = '\0';
    s.cwd = wire_put_str(&t, "");
    s.argv = wire_put_vec(&t, argv);
    assert_int_equal(wire_send(p->a, IN_SPAWN, 7, &s, sizeof s, &t, &p->a, 1), 0);
    assert_int_equal(wire_recv(p->b, buffer, sizeof buffer, in_body_size, &m), 1);
    assert_int_equal(m.nfds, 1);
    assert_int_equal(m.head->token, 7);
    memcpy(&s, m.body, sizeof s);
    assert_string_equal(wire_get_str(&m, s.cwd, &bad), "");
    v = wire_get_vec(&m, s.argv, 3, &bad);
    assert_false(bad);
    assert_string_equal(v[0], big);
    assert_string_equal(v[2], "");
    free(v);
    free(big);
    wire_msg_fini(&m);
    wire_tail_fini(&t);
}

static void an_unsealed_memfd_is_refused(void **state)
{
    struct pair *p = *state;
    struct {
        struct wire_head h;
        struct sp_kill k;
    } m = {
        .h = {.magic = WIRE_MAGIC, .version = WIRE_VERSION, .type = SP_KILL, .size = sizeof m, .flags = WIRE_F_MEMFD}};
    int fd = memfd_create("x", MFD_CLOEXEC);
    char control[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec iov = {&m, sizeof m};
    struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&h);
    struct wire_msg msg;

    assert_int_equal(write(fd, "abc", 4), 4);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    assert_int_equal(sendmsg(p->a, &h, 0), sizeof m);
    assert_int_equal(wire_recv(p->b, buffer, sizeof buffer, sp_body_size, &msg), -EBADMSG);
    h.msg_control = NULL; /* and one with no fd at all */
    h.msg_controllen = 0;
    assert_int_equal(sendmsg(p->a, &h, 0), sizeof m);
    assert_int_equal(wire_recv(p->b, buffer, sizeof buffer, sp_body_size, &msg), -EBADMSG);
    close(fd);
}

static void a_tail_above_the_limit_fails_to_send(void **state)
{
    struct pair *p = *state;
    struct wire_tail t = {0};
    struct sp_kill k = {0};
    char *big = calloc(1, WIRE_TAIL_MAX);

    memset(big, 'a', WIRE_TAIL_MAX - 1);
    k.id = wire_put_str(&t, big);
    assert_int_equal(wire_send(p->a, SP_KILL, 1, &k, sizeof k, &t, NULL, 0), 0);
    (void)wire_put_str(&t, "one more");
    assert_int_equal(wire_send(p->a, SP_KILL, 1, &k, sizeof k, &t, NULL, 0), -E2BIG);
    free(big);
    wire_tail_fini(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_wrong_magic_size_or_type_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_datagram_larger_than_the_buffer_is_refused, setup, teardown),
        cmocka_unit_test(strings_outside_the_tail_are_refused),
        cmocka_unit_test(vectors_must_match_their_count_and_bytes),
        cmocka_unit_test_setup_teardown(a_large_tail_travels_in_a_sealed_memfd, setup, teardown),
        cmocka_unit_test_setup_teardown(an_unsealed_memfd_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_tail_above_the_limit_fails_to_send, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
