/* What was answered, by route, for scrapes. Routes are known from the start, so a request costs three increments and no lock. */
#include "http/edge.h"

#include <stdio.h>

static const struct stk_buckets times = { 1000000,
                                          14,
                                          { 500, 1000, 2500, 5000, 10000, 25000, 50000, 100000, 250000, 500000, 1000000,
                                            5000000, 30000000, 120000000 } };

struct answers {
    atomic_uint_fast64_t by_status[STK_STATUSES + 1];
    struct stk_histogram us;
};

struct stk_served {
    const struct stk_router *router;
    size_t n;                 /* routes; behind them stands what matched none */
    struct answers answers[]; /* n + 1 */
};

struct stk_served *stk_served_new(const struct stk_router *router)
{
    size_t n = stk_router_count(router);
    struct stk_served *s = calloc(1, sizeof *s + (n + 1) * sizeof *s->answers);

    if (!s)
        return NULL;
    s->router = router;
    s->n = n;
    for (size_t i = 0; i <= n; i++)
        s->answers[i].us.buckets = &times;
    return s;
}

void stk_served_free(struct stk_served *s)
{
    free(s);
}

void stk_served_add(struct stk_served *s, const struct stk_match *match, int status, int64_t us)
{
    struct answers *a = &s->answers[match ? stk_match_index(s->router, match) : s->n];

    atomic_fetch_add_explicit(&a->by_status[stk_status_index(status)], 1, memory_order_relaxed);
    stk_histogram_observe(&a->us, us);
}

/* The pattern, never the path: clients could make up as many of those as they like. */
static const char *route_of(const struct stk_served *s, size_t i)
{
    return i < s->n ? stk_router_route(s->router, i)->path : "unmatched";
}

static const char *method_of(const struct stk_served *s, size_t i)
{
    return i < s->n ? stk_router_route(s->router, i)->method : "any";
}

static void write_counts(const struct stk_served *s, size_t i, struct stk_metrics *m)
{
    for (size_t k = 0; k <= STK_STATUSES; k++) {
        uint64_t n = atomic_load_explicit(&s->answers[i].by_status[k], memory_order_relaxed);
        char code[12] = "other";

        if (n == 0)
            continue;
        if (k < STK_STATUSES)
            snprintf(code, sizeof code, "%d", stk_status_at(k));
        stk_metrics_int(m, STK_LABELS("route", route_of(s, i), "method", method_of(s, i), "code", code), (int64_t)n);
    }
}

/* Routes that nobody has used are left out: they would be nine parts of ten. */
void stk_served_metrics(const struct stk_served *s, struct stk_metrics *m)
{
    stk_metrics_family(m, "stoker_http_requests", STK_COUNTER, "Requests that were answered, by route and status.");
    for (size_t i = 0; i <= s->n; i++)
        write_counts(s, i, m);
    stk_metrics_family(m, "stoker_http_request_duration_seconds", STK_HISTOGRAM,
                       "Time from a request's headers until its answer was sent, or its stream was handed over.");
    for (size_t i = 0; i <= s->n; i++) {
        if (stk_histogram_count(&s->answers[i].us) > 0)
            stk_metrics_histogram(m, STK_LABELS("route", route_of(s, i), "method", method_of(s, i)), &s->answers[i].us);
    }
}
