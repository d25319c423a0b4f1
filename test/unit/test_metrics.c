/* Histograms and the text of a scrape. */
#include "stoker/metrics.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static const struct stk_buckets seconds = { 1000000, 3, { 500, 1000000, 2500000 } };
static const struct stk_buckets sizes = { 1, 2, { 1, 8 } };

static void assert_text(struct stk_metrics *m, const char *expected)
{
    assert_false(m->text.failed);
    assert_string_equal(m->text.data, expected);
    stk_buf_done(&m->text);
}

static void a_bound_belongs_to_its_bucket(void **state)
{
    struct stk_metrics m = { 0 };
    struct stk_histogram h = { .buckets = &seconds };

    (void)state;
    stk_histogram_observe(&h, 500);
    stk_histogram_observe(&h, 501);
    stk_histogram_observe(&h, 2500000);
    stk_histogram_observe(&h, 2500001);
    stk_histogram_observe(&h, -7); /* a clock was put back */
    assert_int_equal(5, stk_histogram_count(&h));
    stk_metrics_family(&m, "x_seconds", STK_HISTOGRAM, "Time.");
    stk_metrics_histogram(&m, NULL, &h);
    assert_text(&m, "# HELP x_seconds Time.\n"
                    "# TYPE x_seconds histogram\n"
                    "x_seconds_bucket{le=\"0.0005\"} 2\n"
                    "x_seconds_bucket{le=\"1.0\"} 3\n"
                    "x_seconds_bucket{le=\"2.5\"} 4\n"
                    "x_seconds_bucket{le=\"+Inf\"} 5\n"
                    "x_seconds_sum 5.001002\n"
                    "x_seconds_count 5\n");
}

static void sizes_are_whole_and_labels_come_before_the_bound(void **state)
{
    struct stk_metrics m = { 0 };
    struct stk_histogram h = { .buckets = &sizes };

    (void)state;
    stk_histogram_observe(&h, 8);
    stk_metrics_family(&m, "x", STK_HISTOGRAM, "Size.");
    stk_metrics_histogram(&m, STK_LABELS("route", "/a/{b}", "method", "GET"), &h);
    assert_text(&m, "# HELP x Size.\n"
                    "# TYPE x histogram\n"
                    "x_bucket{route=\"/a/{b}\",method=\"GET\",le=\"1.0\"} 0\n"
                    "x_bucket{route=\"/a/{b}\",method=\"GET\",le=\"8.0\"} 1\n"
                    "x_bucket{route=\"/a/{b}\",method=\"GET\",le=\"+Inf\"} 1\n"
                    "x_sum{route=\"/a/{b}\",method=\"GET\"} 8.0\n"
                    "x_count{route=\"/a/{b}\",method=\"GET\"} 1\n");
}

static void values_of_labels_are_escaped(void **state)
{
    struct stk_metrics m = { 0 };

    (void)state;
    stk_metrics_family(&m, "x", STK_GAUGE, "A gauge.");
    stk_metrics_int(&m, STK_LABELS("a", "back\\slash", "b", "\"quoted\"", "c", "two\nlines", "d", ""), -3);
    assert_text(&m, "# HELP x A gauge.\n"
                    "# TYPE x gauge\n"
                    "x{a=\"back\\\\slash\",b=\"\\\"quoted\\\"\",c=\"two\\nlines\",d=\"\"} -3\n");
}

/* The text of one counter in both forms. */
static void openmetrics_names_the_family_without_total(void **state)
{
    struct stk_metrics plain = { 0 }, open = { .openmetrics = true };

    (void)state;
    stk_metrics_family(&plain, "x_seconds", STK_COUNTER, "Time.");
    stk_metrics_seconds(&plain, NULL, 1500000);
    stk_metrics_end(&plain);
    assert_text(&plain, "# HELP x_seconds_total Time.\n# TYPE x_seconds_total counter\nx_seconds_total 1.5\n");
    stk_metrics_one(&open, "x", STK_COUNTER, "Things.", 7);
    stk_metrics_end(&open);
    assert_text(&open, "# HELP x Things.\n# TYPE x counter\nx_total 7\n# EOF\n");
}

static void *observe_many(void *arg)
{
    for (int i = 0; i < 20000; i++)
        stk_histogram_observe(arg, i % 10);
    return NULL;
}

/* While others add to it, the text of a histogram is whole: its last bucket is its count. */
static void threads_lose_nothing(void **state)
{
    enum { THREADS = 4 };
    struct stk_histogram h = { .buckets = &sizes };
    pthread_t threads[THREADS];

    (void)state;
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(0, pthread_create(&threads[i], NULL, observe_many, &h));
    for (int i = 0; i < 50; i++) {
        struct stk_metrics m = { 0 };
        unsigned long last, count;

        stk_metrics_family(&m, "x", STK_HISTOGRAM, "Size.");
        stk_metrics_histogram(&m, NULL, &h);
        assert_int_equal(1, sscanf(strstr(m.text.data, "+Inf\"} "), "+Inf\"} %lu", &last));
        assert_int_equal(1, sscanf(strstr(m.text.data, "x_count "), "x_count %lu", &count));
        assert_int_equal(last, count);
        stk_buf_done(&m.text);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(THREADS * 20000, stk_histogram_count(&h));
    assert_int_equal(THREADS * 20000 / 10 * 45, atomic_load(&h.sum));
}

/* What the kernel says of this very process; the name of a program may look like the end of one. */
static void the_process_is_told(void **state)
{
    struct stk_metrics m = { 0 };
    double resident, started, descriptors;

    (void)state;
    assert_int_equal(0, pthread_setname_np(pthread_self(), "a) R 1 (b"));
    stk_metrics_process(&m);
    assert_int_equal(1, sscanf(strstr(m.text.data, "\nprocess_resident_memory_bytes ") + 1,
                               "process_resident_memory_bytes %lf", &resident));
    assert_int_equal(1, sscanf(strstr(m.text.data, "\nprocess_start_time_seconds ") + 1,
                               "process_start_time_seconds %lf", &started));
    assert_int_equal(1, sscanf(strstr(m.text.data, "\nprocess_open_fds ") + 1, "process_open_fds %lf", &descriptors));
    assert_true(resident > 100000 && resident < 1e11);
    assert_true(started > 1.6e9 && started <= (double)time(NULL) + 1);
    assert_true(descriptors >= 3 && descriptors < 1000);
    stk_buf_done(&m.text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bound_belongs_to_its_bucket),
        cmocka_unit_test(sizes_are_whole_and_labels_come_before_the_bound),
        cmocka_unit_test(values_of_labels_are_escaped),
        cmocka_unit_test(openmetrics_names_the_family_without_total),
        cmocka_unit_test(threads_lose_nothing),
        cmocka_unit_test(the_process_is_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
