/* Amounts of CPU and memory. */
#include "fake.h"

static void what_is_not_an_amount_is_refused(void **state)
{
    static const char *const bad[] = {"",
                                      " 1",
                                      "1 ",
                                      "-1",
                                      "+1",
                                      "0",
                                      "0m",
                                      "0.0",
                                      ".5",
                                      "5.",
                                      "1e3",
                                      "0x10",
                                      "1,5",
                                      "m",
                                      "1mm",
                                      "1.5m",
                                      "1MB",
                                      "1gi",
                                      "1 Gi",
                                      "1KI",
                                      "1K",
                                      "Gi",
                                      "1.Gi",
                                      "∞",
                                      "1Gi ",
                                      "1.1234567890",
                                      "99999999999999999999",
                                      "9223372036854775808",
                                      "9000Pi"};
    uint64_t bytes_;
    uint32_t millis;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        CwBytes b = bytes(bad[i]);

        if (cw_parse_memory(&b, &bytes_) != -22)
            fail_msg("memory '%s' was taken", bad[i]);
        if (cw_parse_cpu(&b, &millis) != -22)
            fail_msg("cpu '%s' was taken", bad[i]);
    }
}

static void an_amount_with_a_nul_is_refused(void **state)
{
    CwBytes b = {.len = 2, .data = (uint8_t *)(uintptr_t) "1\0"};
    uint64_t bytes_;

    (void)state;
    assert_true(cw_parse_memory(&b, &bytes_) < 0);
}

static void cpu_is_read_in_thousandths(void **state)
{
    static const struct {
        const char *text;
        uint32_t millis;
    } good[] = {{"500m", 500}, {"2", 2000},      {"2.5", 2500}, {"0.1", 100},   {"1m", 1},
                {"0.0001", 1}, {"1.2345", 1235}, {"64", 64000}, {"00002", 2000}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        CwBytes b = bytes(good[i].text);
        uint32_t millis = 0;

        assert_int_equal(cw_parse_cpu(&b, &millis), 0);
        assert_int_equal(millis, good[i].millis);
    }
}

static void memory_is_read_with_its_suffix(void **state)
{
    static const struct {
        const char *text;
        uint64_t size;
    } good[] = {{"1024", 1024},        {"256Mi", 256ull << 20}, {"4Gi", 4ull << 30},   {"1G", 1000000000},
                {"1k", 1000},          {"1Ki", 1024},           {"1.5Gi", 3ull << 29}, {"0.5Ki", 512},
                {"2T", 2000000000000}, {"1Ti", 1ull << 40},     {"1.0000001k", 1001}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        CwBytes b = bytes(good[i].text);
        uint64_t size = 0;

        assert_int_equal(cw_parse_memory(&b, &size), 0);
        assert_int_equal(size, good[i].size);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_an_amount_is_refused),
        cmocka_unit_test(an_amount_with_a_nul_is_refused),
        cmocka_unit_test(cpu_is_read_in_thousandths),
        cmocka_unit_test(memory_is_read_with_its_suffix),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
