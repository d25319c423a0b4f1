#include "stoker/buf.h"
#include "stoker/clock.h"
#include "stoker/err.h"
#include "stoker/log.h"
#include "stoker/units.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

/* ---- err */

static void failing_is_one_statement(void **state)
{
    struct stk_err err = { .sys = 5 };

    (void)state;
    assert_int_equal(-1, stk_fail(NULL, STK_INVALID, "%d", 1));
    assert_int_equal(-1, stk_fail_sys(NULL, ENOENT, "x"));
    stk_err_prefix(NULL, "x");

    assert_int_equal(-1, stk_fail(&err, STK_CONFLICT, "job '%s' has ended", "j"));
    assert_int_equal(STK_CONFLICT, err.code);
    assert_int_equal(0, err.sys);
    assert_string_equal("job 'j' has ended", err.msg);

    assert_int_equal(-1, stk_fail_sys(&err, ENOENT, "open %s", "/x"));
    assert_int_equal(STK_INTERNAL, err.code);
    assert_int_equal(ENOENT, err.sys);
    assert_string_equal("open /x: No such file or directory", err.msg);
    stk_fail_sys(&err, ENOSPC, "write");
    assert_int_equal(STK_FULL, err.code);
    stk_fail_sys(&err, EDQUOT, "write");
    assert_int_equal(STK_FULL, err.code);

    stk_fail(&err, STK_NOT_FOUND, "no such file");
    stk_err_prefix(&err, "context '%s'", "a");
    assert_string_equal("context 'a': no such file", err.msg);
    assert_int_equal(STK_NOT_FOUND, err.code);
}

/* A cut message is still valid UTF-8, wherever the cut falls. */
static void long_messages_are_cut_between_characters(void **state)
{
    char text[400];
    struct stk_err err;

    (void)state;
    for (size_t shift = 0; shift < 4; shift++) {
        memset(text, 'a', shift);
        for (size_t i = shift; i + 4 < sizeof text; i += 4)
            memcpy(text + i, "\xf0\x9f\x94\xa5", 5);
        stk_fail(&err, STK_INVALID, "%s", text);
        assert_true(strlen(err.msg) > sizeof err.msg - 5);
        assert_true(stk_utf8_valid(err.msg, strlen(err.msg)));
        stk_err_prefix(&err, "xy");
        assert_memory_equal("xy: ", err.msg, 4);
        assert_true(stk_utf8_valid(err.msg, strlen(err.msg)));
        stk_err_prefix(&err, "%s", text);
        assert_true(stk_utf8_valid(err.msg, strlen(err.msg)));
        stk_fail_sys(&err, ENOENT, "%s", text);
        assert_true(stk_utf8_valid(err.msg, strlen(err.msg)));
    }
}

static void codes_have_names(void **state)
{
    (void)state;
    for (int c = STK_OK; c <= STK_INTERNAL; c++)
        assert_string_not_equal("unknown", stk_code_name((enum stk_code)c));
    assert_string_equal("unknown", stk_code_name((enum stk_code)99));
}

/* ---- buf */

static void buffer_grows(void **state)
{
    stk_auto_buf b = { 0 };
    stk_auto_free char *taken = NULL;

    (void)state;
    assert_null(b.data);
    assert_int_equal(0, stk_buf_add(&b, "", 0));
    assert_string_equal("", b.data);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(0, stk_buf_printf(&b, "%d,", i));
    assert_int_equal(0, stk_buf_add(&b, "a\0b", 3));
    assert_int_equal(0, stk_buf_add_str(&b, "end"));
    assert_int_equal(10 * 2 + 90 * 3 + 900 * 4 + 6, b.len);
    assert_memory_equal("0,1,2,", b.data, 6);
    assert_memory_equal("999,a\0bend", b.data + b.len - 10, 11); /* the NUL after it too */

    taken = stk_buf_steal(&b);
    assert_non_null(taken);
    assert_null(b.data);
    assert_int_equal(0, b.len);
    stk_auto_free char *empty = stk_buf_steal(&b);
    assert_string_equal("", empty);
}

/* Sizes that wrap are refused before anything is copied; what was there stays, and the buffer says that it failed. */
static void buffer_remembers_that_it_failed(void **state)
{
    struct stk_buf b = { 0 };

    (void)state;
    assert_int_equal(0, stk_buf_add_str(&b, "kept"));
    assert_int_equal(-1, stk_buf_add(&b, "x", SIZE_MAX - 2));
    assert_true(b.failed);
    assert_int_equal(-1, stk_buf_add_str(&b, "more"));
    assert_int_equal(-1, stk_buf_printf(&b, "more"));
    assert_string_equal("kept", b.data);
    assert_null(stk_buf_steal(&b));
    assert_null(b.data);
    assert_false(b.failed);
}

static void *drop_refs(void *text)
{
    for (int i = 0; i < 10000; i++)
        stk_text_unref(stk_text_ref(text));
    stk_text_unref(text);
    return NULL;
}

static void texts_are_shared(void **state)
{
    struct stk_text *t = stk_text_new("a\0b", 3);
    pthread_t threads[4];

    (void)state;
    assert_int_equal(3, stk_text_len(t));
    assert_memory_equal("a\0b", stk_text_data(t), 4);
    for (size_t i = 0; i < STK_LEN(threads); i++)
        assert_int_equal(0, pthread_create(&threads[i], NULL, drop_refs, stk_text_ref(t)));
    for (size_t i = 0; i < STK_LEN(threads); i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(3, stk_text_len(t));
    stk_text_unref(t);

    assert_null(stk_text_ref(NULL));
    assert_null(stk_text_data(NULL));
    assert_int_equal(0, stk_text_len(NULL));
    stk_text_unref(NULL);
    assert_null(stk_text_new("", SIZE_MAX));
}

/* ---- numbers */

static void unsigned_numbers(void **state)
{
    static const char *const bad[] = {
        "", " 1", "1 ", "+1", "-1", "1.0", "0x1", "1e3", "a", "18446744073709551616", "99999999999999999999"
    };
    struct stk_err err;
    uint64_t n = 7;

    (void)state;
    assert_int_equal(0, stk_parse_u64("0", 0, UINT64_MAX, &n, NULL));
    assert_true(n == 0);
    assert_int_equal(0, stk_parse_u64("18446744073709551615", 0, UINT64_MAX, &n, NULL));
    assert_true(n == UINT64_MAX);
    assert_int_equal(0, stk_parse_u64("0010", 10, 10, &n, NULL));
    assert_true(n == 10);
    for (size_t i = 0; i < STK_LEN(bad); i++) {
        assert_int_equal(-1, stk_parse_u64(bad[i], 0, UINT64_MAX, &n, &err));
        assert_int_equal(STK_INVALID, err.code);
    }
    assert_int_equal(-1, stk_parse_u64("9", 10, 20, &n, &err));
    assert_string_equal("9 is not between 10 and 20", err.msg);
    assert_int_equal(-1, stk_parse_u64("21", 10, 20, &n, &err));
    assert_true(n == 10); /* written only on success */
}

static void signed_numbers(void **state)
{
    static const char *const bad[] = {
        "", "-", "+", "--1", "+-1", "- 1", "9223372036854775808", "-9223372036854775809"
    };
    int64_t n = 7;

    (void)state;
    assert_int_equal(0, stk_parse_i64("-9223372036854775808", INT64_MIN, INT64_MAX, &n, NULL));
    assert_true(n == INT64_MIN);
    assert_int_equal(0, stk_parse_i64("9223372036854775807", INT64_MIN, INT64_MAX, &n, NULL));
    assert_true(n == INT64_MAX);
    assert_int_equal(0, stk_parse_i64("-0", -1, 1, &n, NULL));
    assert_true(n == 0);
    assert_int_equal(0, stk_parse_i64("+5", 5, 5, &n, NULL));
    assert_true(n == 5);
    for (size_t i = 0; i < STK_LEN(bad); i++)
        assert_int_equal(-1, stk_parse_i64(bad[i], INT64_MIN, INT64_MAX, &n, NULL));
    assert_int_equal(-1, stk_parse_i64("-2", -1, 1, &n, NULL));
    assert_true(n == 5);
}

/* ---- UTF-8 */

static void utf8(void **state)
{
    static const char *const good[] = { "",
                                        "a",
                                        "\x7f",
                                        "\xc2\x80",
                                        "\xdf\xbf",
                                        "\xe0\xa0\x80",
                                        "\xed\x9f\xbf",
                                        "\xee\x80\x80",
                                        "\xef\xbf\xbf",
                                        "\xf0\x90\x80\x80",
                                        "\xf4\x8f\xbf\xbf",
                                        "a\xc3\xa4z" };
    static const char *const bad[] = {
        "\x80", /* a continuation byte alone */
        "\xc3", /* cut */
        "\xe2\x82",
        "\xf0\x9f\x94",
        "\xc3(",
        "\xe2(\xa1",
        "\xf0\x9f(\xa5",
        "\xc0\x80",
        "\xc1\xbf",
        "\xe0\x9f\xbf",
        "\xf0\x8f\xbf\xbf", /* overlong */
        "\xed\xa0\x80",
        "\xed\xbf\xbf", /* surrogates */
        "\xf4\x90\x80\x80",
        "\xf5\x80\x80\x80",
        "\xf8\x88\x80\x80\x80",
        "\xfe",
        "\xff", /* past U+10FFFF */
        "a\xffz",
    };

    (void)state;
    for (size_t i = 0; i < STK_LEN(good); i++)
        assert_true(stk_utf8_valid(good[i], strlen(good[i])));
    for (size_t i = 0; i < STK_LEN(bad); i++)
        if (stk_utf8_valid(bad[i], strlen(bad[i])))
            fail_msg("bad[%zu] passed", i);
    assert_false(stk_utf8_valid("a\0b", 3));
}

static void utf8_cut(void **state)
{
    static const char text[] = "a\xc3\xa4\xf0\x9f\x94\xa5";
    static const size_t want[] = { 0, 1, 1, 3, 3, 3, 3, 7, 7 };

    (void)state;
    for (size_t max = 0; max < STK_LEN(want); max++)
        assert_int_equal(want[max], stk_utf8_cut(text, max));
    assert_int_equal(0, stk_utf8_cut("", 5));
}

/* ---- ids, cleanup */

static void uuids(void **state)
{
    char a[STK_UUID_MAX], b[STK_UUID_MAX], hex[17];

    (void)state;
    for (int i = 0; i < 100; i++) {
        assert_ptr_equal(a, stk_uuid(a));
        assert_int_equal(36, strlen(a));
        assert_int_equal(36, strspn(a, "0123456789abcdef-"));
        assert_int_equal('-', a[8]);
        assert_int_equal('-', a[13]);
        assert_int_equal('7', a[14]); /* time-ordered */
        assert_int_equal('-', a[18]);
        assert_non_null(strchr("89ab", a[19]));
        assert_int_equal('-', a[23]);
        assert_string_not_equal(a, stk_uuid(b));
    }
    stk_random_hex(hex, 8);
    assert_int_equal(16, strlen(hex));
    assert_int_equal(16, strspn(hex, "0123456789abcdef"));
}

static void stealing_leaves_nothing_to_clean_up(void **state)
{
    stk_auto_fd fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    stk_auto_free char *text = strdup("x");
    int taken = stk_steal_fd(&fd);
    char *stolen = stk_steal_ptr(&text);

    (void)state;
    assert_true(taken >= 0);
    assert_int_equal(-1, fd);
    assert_null(text);
    assert_string_equal("x", stolen);
    free(stolen);
    close(taken);
    {
        stk_auto_fd inner = open("/dev/null", O_RDONLY | O_CLOEXEC);

        taken = inner;
    }
    assert_int_equal(-1, fcntl(taken, F_GETFD));
}

/* ---- clock */

static void times_are_printed(void **state)
{
    char buf[STK_TIME_MAX];
    static const struct {
        const char *zone, *want;
    } local[] = {
        { "UTC0", "2016-06-19T10:57:12.196Z" },
        { "IST-5:30", "2016-06-19T16:27:12.196+05:30" },
        { "NST3:30", "2016-06-19T07:27:12.196-03:30" },
        { "XXX0:30", "2016-06-19T10:27:12.196-00:30" },
    };
    const int64_t then = 1466333832196999;

    (void)state;
    assert_string_equal("1970-01-01T00:00:00.000Z", stk_time_utc(buf, 0));
    assert_string_equal("2013-05-29T00:00:00.000Z", stk_time_utc(buf, 1369785600000000));
    assert_string_equal("2016-06-19T10:57:12.196Z", stk_time_utc(buf, then)); /* cut, not rounded */
    assert_string_equal("1969-12-31T23:59:59.999Z", stk_time_utc(buf, -1));
    assert_string_equal("1969-12-31T23:59:59.000Z", stk_time_utc(buf, -1000000));
    for (size_t i = 0; i < STK_LEN(local); i++) {
        setenv("TZ", local[i].zone, 1);
        tzset();
        assert_string_equal(local[i].want, stk_time_local(buf, then));
    }
    unsetenv("TZ");
    tzset();
}

static void deadlines_are_monotonic(void **state)
{
    int64_t before = stk_mono_us();
    struct timespec t = stk_mono_deadline(1500);
    int64_t after = stk_mono_us(), us = (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;

    (void)state;
    assert_true(before <= after);
    assert_true(us >= before + 1500000 && us <= after + 1500000);
    assert_in_range(t.tv_nsec, 0, 999999999);
    assert_true(stk_mono_deadline(-1).tv_sec > t.tv_sec + 365 * 86400);
    assert_true(stk_mono_deadline(INT64_MAX).tv_sec > t.tv_sec + 365 * 86400);
    assert_true(stk_mono_ms() >= before / 1000);
    assert_true(stk_wall_us() > 1700000000000000);
}

/* ---- log */

static char logged[8192];

/* What a call writes on standard error. */
#define CAPTURE(...)                                        \
    do {                                                    \
        int pipe_fds[2], saved = dup(STDERR_FILENO);        \
        ssize_t got;                                        \
        assert_int_equal(0, pipe2(pipe_fds, O_NONBLOCK));   \
        dup2(pipe_fds[1], STDERR_FILENO);                   \
        __VA_ARGS__;                                        \
        dup2(saved, STDERR_FILENO);                         \
        close(saved);                                       \
        close(pipe_fds[1]);                                 \
        got = read(pipe_fds[0], logged, sizeof logged - 1); \
        logged[got > 0 ? got : 0] = '\0';                   \
        close(pipe_fds[0]);                                 \
    } while (0)

static void log_lines(void **state)
{
    (void)state;
    CAPTURE(stk_info("job", "moved", "from", "QUEUED", "to", "STARTING", "why", (const char *)NULL, "n", "1"));
    assert_int_equal('T', logged[10]);
    assert_int_equal('Z', logged[23]);
    assert_string_equal(" info  job     moved from=QUEUED to=STARTING n=1\n", logged + 24);

    CAPTURE(stk_debug("job", "hidden"));
    assert_string_equal("", logged);
    stk_log_set_level(STK_LOG_DEBUG);
    CAPTURE(stk_debug("job", "shown"));
    assert_string_equal(" debug job     shown\n", logged + 24);
    stk_log_set_level(STK_LOG_ERROR);
    CAPTURE(stk_warn("job", "hidden"));
    assert_string_equal("", logged);
    CAPTURE(stk_error("http", "shown"));
    assert_string_equal(" error http    shown\n", logged + 24);
    stk_log_set_level(STK_LOG_INFO);
}

/* Whatever a client puts into a value, a line stays one line and its pairs stay its own. */
static void log_values_are_escaped(void **state)
{
    (void)state;
    CAPTURE(stk_info("m", "x", "k", ""));
    assert_string_equal("x k=\"\"\n", logged + 38 + 1);
    CAPTURE(stk_info("m", "x", "k", "a b"));
    assert_string_equal("x k=\"a b\"\n", logged + 39);
    CAPTURE(stk_info("m", "x", "k", "a=b"));
    assert_string_equal("x k=\"a=b\"\n", logged + 39);
    CAPTURE(stk_info("m", "x", "k", "a\"\\\n\r\t\x1b\x7f"));
    assert_string_equal("x k=\"a\\\"\\\\\\n\\x0d\\x09\\x1b\\x7f\"\n", logged + 39);
    for (int c = 1; c < 0x20; c++) {
        const char value[] = { 'a', (char)c, '\0' };

        CAPTURE(stk_info("m", "x", "k", value));
        assert_ptr_equal(logged + strlen(logged) - 1,
                         strpbrk(logged, "\001\002\003\004\005\006\007\010\011\012\013\014\015\016"
                                         "\017\020\021\022\023\024\025\026\027\030\031\032\033"
                                         "\034\035\036\037"));
    }
    CAPTURE(stk_info("m", "x", "k", "\xc3\xa4"));
    assert_string_equal("x k=\xc3\xa4\n", logged + 39);
}

static void long_log_lines_are_cut(void **state)
{
    static char value[10000];

    (void)state;
    memset(value, 'v', sizeof value - 1);
    CAPTURE(stk_info("m", "x", "k", value, "l", "w"));
    assert_int_equal(4096, strlen(logged));
    assert_int_equal('\n', logged[4095]);
}

static void log_levels_have_names(void **state)
{
    enum stk_log_level level = STK_LOG_ERROR;

    (void)state;
    assert_int_equal(0, stk_log_level_parse("debug", &level));
    assert_int_equal(STK_LOG_DEBUG, level);
    assert_int_equal(0, stk_log_level_parse("warn", &level));
    assert_int_equal(STK_LOG_WARN, level);
    assert_int_equal(-1, stk_log_level_parse("WARN", &level));
    assert_int_equal(-1, stk_log_level_parse("", &level));
    assert_int_equal(STK_LOG_WARN, level);
}

static void durations(void **state)
{
    static const struct {
        const char *text;
        int64_t ms;
    } good[] = {
        { "0", 0 },          { "1500", 1500 },        { "500ms", 500 },      { "30s", 30000 },
        { "30 s", 30000 },   { "5min", 300000 },      { "5m", 300000 },      { "1h", 3600000 },
        { "2d", 172800000 }, { "10 seconds", 10000 }, { "1 minute", 60000 }, { "0s", 0 },
    };
    static const char *const bad[] = {
        "",   "s",   "-1s",  "1.5s", "1 fortnight", "1s ",   "1 s s",    "99999999999999999999",
        "1w", "1e3", "0x10", " 1s",  "1sm",         "4000d", "1 sec ond"
    };
    int64_t ms;

    (void)state;
    for (size_t i = 0; i < STK_LEN(good); i++) {
        assert_int_equal(0, stk_parse_duration_ms(good[i].text, &ms));
        assert_int_equal(good[i].ms, ms);
    }
    for (size_t i = 0; i < STK_LEN(bad); i++)
        assert_int_equal(-1, stk_parse_duration_ms(bad[i], &ms));
}

static void sizes(void **state)
{
    static const struct {
        const char *text;
        int64_t bytes;
    } good[] = {
        { "0", 0 },
        { "100", 100 },
        { "64k", 65536 },
        { "512m", INT64_C(512) << 20 },
        { "2g", INT64_C(2) << 30 },
        { "2G", INT64_C(2) << 30 },
        { "1GiB", INT64_C(1) << 30 },
        { "100 MB", INT64_C(100) << 20 },
        { "1t", INT64_C(1) << 40 },
        { "7 bytes", 7 },
    };
    static const char *const bad[] = { "", "m", "-1m", "1.5g", "1 gig", "9999999t", "1x", "1m ", "1mm" };
    int64_t bytes;

    (void)state;
    for (size_t i = 0; i < STK_LEN(good); i++) {
        assert_int_equal(0, stk_parse_size(good[i].text, &bytes));
        assert_int_equal(good[i].bytes, bytes);
    }
    for (size_t i = 0; i < STK_LEN(bad); i++)
        assert_int_equal(-1, stk_parse_size(bad[i], &bytes));
}

static void times_are_read(void **state)
{
    static const struct {
        const char *text;
        int64_t us;
    } right[] = {
        { "1970-01-01T00:00:00Z", 0 },
        { "1970-01-01T00:00:00.000001Z", 1 },
        { "2013-05-29T12:34:56.789Z", 1369830896789000 },
        { "2013-05-29t12:34:56.7z", 1369830896700000 },
        { "2013-05-29 14:34:56+02:00", 1369830896000000 },
        { "2013-05-29T07:04:56-05:30", 1369830896000000 },
        { "2000-02-29T00:00:00Z", 951782400000000 },
        { "9999-12-31T23:59:59.999999Z", 253402300799999999 },
    };
    static const char *const wrong[] = {
        "",
        "2013",
        "2013-05-29",
        "2013-05-29T12:34:56",
        "2013-05-29T12:34Z",
        "2013-05-29T12:34:56.Z",
        "2013-05-29T12:34:56.1234567Z",
        "2013-05-29T12:34:56Zx",
        "2013-05-29T24:00:00Z",
        "2013-13-01T00:00:00Z",
        "2013-02-29T00:00:00Z",
        "1900-01-01T00:00:00Z",
        "+013-05-29T12:34:56Z",
        "2013-05-29T12:34:56+2:00",
        "2013-05-29T12:34:56 02:00",
    };
    int64_t us;

    (void)state;
    for (size_t i = 0; i < STK_LEN(right); i++) {
        assert_int_equal(0, stk_time_parse(right[i].text, &us));
        assert_int_equal(right[i].us, us);
    }
    for (size_t i = 0; i < STK_LEN(wrong); i++) {
        if (stk_time_parse(wrong[i], &us) == 0)
            fail_msg("'%s' is taken", wrong[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(times_are_read),
        cmocka_unit_test(failing_is_one_statement),
        cmocka_unit_test(long_messages_are_cut_between_characters),
        cmocka_unit_test(codes_have_names),
        cmocka_unit_test(buffer_grows),
        cmocka_unit_test(buffer_remembers_that_it_failed),
        cmocka_unit_test(texts_are_shared),
        cmocka_unit_test(unsigned_numbers),
        cmocka_unit_test(signed_numbers),
        cmocka_unit_test(durations),
        cmocka_unit_test(sizes),
        cmocka_unit_test(utf8),
        cmocka_unit_test(utf8_cut),
        cmocka_unit_test(uuids),
        cmocka_unit_test(stealing_leaves_nothing_to_clean_up),
        cmocka_unit_test(times_are_printed),
        cmocka_unit_test(deadlines_are_monotonic),
        cmocka_unit_test(log_lines),
        cmocka_unit_test(log_values_are_escaped),
        cmocka_unit_test(long_log_lines_are_cut),
        cmocka_unit_test(log_levels_have_names),
    };

    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
