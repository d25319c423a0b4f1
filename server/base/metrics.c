#include "stoker/metrics.h"

#include <inttypes.h>
#include <string.h>

/* ---- histograms */

void stk_histogram_observe(struct stk_histogram *h, int64_t value)
{
    size_t i = 0;

    if (value < 0)
        value = 0;
    while (i < h->buckets->n && value > h->buckets->at[i])
        i++;
    atomic_fetch_add_explicit(&h->counts[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum, (uint64_t)value, memory_order_relaxed);
}

uint64_t stk_histogram_count(const struct stk_histogram *h)
{
    uint64_t n = 0;

    for (size_t i = 0; i <= h->buckets->n; i++)
        n += atomic_load_explicit(&h->counts[i], memory_order_relaxed);
    return n;
}

/* ---- the text */

static const char *const type_names[] = {
    [STK_COUNTER] = "counter",
    [STK_GAUGE] = "gauge",
    [STK_HISTOGRAM] = "histogram",
};

void stk_metrics_family(struct stk_metrics *m, const char *name, enum stk_metric_type type, const char *help)
{
    const char *suffix = type == STK_COUNTER && !m->openmetrics ? "_total" : "";

    m->name = name;
    m->type = type;
    stk_buf_printf(&m->text, "# HELP %s%s %s\n# TYPE %s%s %s\n", name, suffix, help, name, suffix, type_names[type]);
}

static void add_escaped(struct stk_buf *out, const char *value)
{
    for (size_t len; *value; value += len) {
        len = strcspn(value, "\\\"\n");
        stk_buf_add(out, value, len);
        if (!value[len])
            return;
        stk_buf_add_str(out, value[len] == '\n' ? "\\n" : value[len] == '"' ? "\\\"" : "\\\\");
        len++;
    }
}

/* The number of `what` is shown with decimals as far as it has them, and one at least: as OpenMetrics wants bounds to be. */
static void add_decimal(struct stk_buf *out, uint64_t value, uint32_t per_unit)
{
    uint64_t rest = value % per_unit;

    stk_buf_printf(out, "%" PRIu64 ".", value / per_unit);
    do {
        rest *= 10;
        stk_buf_printf(out, "%d", (int)(rest / per_unit));
        rest %= per_unit;
    } while (rest);
}

/* The name of a sample with its labels and a space. bound: of a bucket, in units of b; -1: no bucket, -2: the last one. */
enum { NO_BUCKET = -1, LAST_BUCKET = -2 };
static void begin_sample(struct stk_metrics *m, const char *suffix, const char *const *labels,
                         const struct stk_buckets *b, int64_t bound)
{
    struct stk_buf *out = &m->text;
    bool any = false;

    stk_buf_printf(out, "%s%s", m->name, suffix);
    for (; labels && *labels; labels += 2) {
        stk_buf_printf(out, "%s%s=\"", any ? "," : "{", labels[0]);
        add_escaped(out, labels[1]);
        stk_buf_add(out, "\"", 1);
        any = true;
    }
    if (bound != NO_BUCKET) {
        stk_buf_printf(out, "%sle=\"", any ? "," : "{");
        if (bound == LAST_BUCKET)
            stk_buf_add_str(out, "+Inf");
        else
            add_decimal(out, (uint64_t)bound, b->per_unit);
        stk_buf_add(out, "\"", 1);
        any = true;
    }
    stk_buf_add_str(out, any ? "} " : " ");
}

static const char *sample_suffix(const struct stk_metrics *m)
{
    return m->type == STK_COUNTER ? "_total" : "";
}

void stk_metrics_int(struct stk_metrics *m, const char *const *labels, int64_t value)
{
    begin_sample(m, sample_suffix(m), labels, NULL, NO_BUCKET);
    stk_buf_printf(&m->text, "%" PRId64 "\n", value);
}

void stk_metrics_seconds(struct stk_metrics *m, const char *const *labels, int64_t us)
{
    begin_sample(m, sample_suffix(m), labels, NULL, NO_BUCKET);
    add_decimal(&m->text, us > 0 ? (uint64_t)us : 0, 1000000);
    stk_buf_add(&m->text, "\n", 1);
}

void stk_metrics_histogram(struct stk_metrics *m, const char *const *labels, const struct stk_histogram *h)
{
    const struct stk_buckets *b = h->buckets;
    uint64_t n = 0;

    for (size_t i = 0; i <= b->n; i++) {
        n += atomic_load_explicit(&h->counts[i], memory_order_relaxed);
        begin_sample(m, "_bucket", labels, b, i < b->n ? b->at[i] : LAST_BUCKET);
        stk_buf_printf(&m->text, "%" PRIu64 "\n", n);
    }
    begin_sample(m, "_sum", labels, NULL, NO_BUCKET);
    add_decimal(&m->text, atomic_load_explicit(&h->sum, memory_order_relaxed), b->per_unit);
    stk_buf_add(&m->text, "\n", 1);
    begin_sample(m, "_count", labels, NULL, NO_BUCKET); /* not counted again: it must be what +Inf says */
    stk_buf_printf(&m->text, "%" PRIu64 "\n", n);
}

void stk_metrics_end(struct stk_metrics *m)
{
    if (m->openmetrics)
        stk_buf_add_str(&m->text, "# EOF\n");
}

void stk_metrics_one(struct stk_metrics *m, const char *name, enum stk_metric_type type, const char *help,
                     int64_t value)
{
    stk_metrics_family(m, name, type, help);
    stk_metrics_int(m, NULL, value);
}
