/*
 * Numbers for Prometheus: histograms that any thread may add to, and the text that a scrape is answered with.
 *
 * Who owns a number keeps it, as relaxed atomics or behind a lock of its own, and writes it when asked (stk_*_metrics()); there is
 * no registry. So a number costs nothing but its own increment, and a scrape holds nobody up.
 *
 * The text is format 0.0.4, or OpenMetrics 1.0, which names the family of a counter without "_total" and has an end.
 */
#ifndef STOKER_METRICS_H
#define STOKER_METRICS_H

#include "stoker/buf.h"

#include <stdatomic.h>

/* ---- histograms */

enum { STK_BUCKETS_MAX = 20 };

/* What a histogram counts into. at: upper bounds, each belongs to its bucket, rising; a last bucket takes what is above them. */
struct stk_buckets {
    uint32_t
        per_unit; /* how many of what is observed make one of what is shown: 1000000 for microseconds shown as seconds */
    size_t n;     /* at most STK_BUCKETS_MAX */
    int64_t at[STK_BUCKETS_MAX];
};

/* Zero but for its buckets; nothing to release. */
struct stk_histogram {
    const struct stk_buckets *buckets;
    atomic_uint_fast64_t counts[STK_BUCKETS_MAX + 1], sum;
};

/* Any thread. What is below 0, since a clock was put back, counts as 0. */
void stk_histogram_observe(struct stk_histogram *h, int64_t value);
uint64_t stk_histogram_count(const struct stk_histogram *h);

/* ---- the text */

enum stk_metric_type { STK_COUNTER, STK_GAUGE, STK_HISTOGRAM };

struct stk_metrics {
    struct stk_buf text;
    bool openmetrics;
    const char *name; /* of the family that is being written */
    enum stk_metric_type type;
};

/* Labels of a sample: names and values in turn, values as they are (they are escaped). NULL: none. */
#define STK_LABELS(...) ((const char *const[]){ __VA_ARGS__, NULL })

/*
 * Begins a family; its samples follow, and those of no other until the next call. name: without "_total", which a counter gets;
 * borrowed until then. help: one line without a backslash. In what memory runs out is told by text.failed.
 */
void stk_metrics_family(struct stk_metrics *m, const char *name, enum stk_metric_type type, const char *help);
void stk_metrics_int(struct stk_metrics *m, const char *const *labels, int64_t value);
void stk_metrics_seconds(struct stk_metrics *m, const char *const *labels, int64_t us);
void stk_metrics_histogram(struct stk_metrics *m, const char *const *labels, const struct stk_histogram *h);
void stk_metrics_end(struct stk_metrics *m);

/* A family of one sample. */
void stk_metrics_one(struct stk_metrics *m, const char *name, enum stk_metric_type type, const char *help,
                     int64_t value);

/* This process by the usual names, process_*: what /proc tells of it. */
void stk_metrics_process(struct stk_metrics *m);

#endif
