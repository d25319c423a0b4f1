/* What the loop counts for scrapes, which read it at any time. Nobody else writes. */
#ifndef STOKER_JOBS_METERS_H
#define STOKER_JOBS_METERS_H

#include "stoker/core.h"
#include "stoker/metrics.h"

#include <pthread.h>

struct meters {
    atomic_uint_fast64_t submitted;
    atomic_uint_fast64_t ended[STK_JOB_STATES], contexts_ended[STK_CONTEXT_STATES];
    struct stk_histogram queue_wait_us, run_us, context_start_us;
    pthread_mutex_t lock;     /* guards status */
    struct stk_status status; /* as it was at the end of the loop's last turn; of jobs only those that have not ended */
};

void meters_init(struct meters *m);
void meters_done(struct meters *m);

void meter_job_started(struct meters *m, const struct stk_job_row *row); /* handed to a worker */
void meter_job_ended(struct meters *m, const struct stk_job_row *row);
void meter_publish(struct meters *m, const struct stk_status *status);

static inline void meter_add(atomic_uint_fast64_t *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

#endif
