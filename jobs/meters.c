#include "meters.h"

/* A job may take milliseconds or hours, and wait as long. */
static const struct stk_buckets job_times = { 1000000,
                                              16,
                                              { 5000, 10000, 25000, 50000, 100000, 250000, 500000, 1000000, 2500000,
                                                5000000, 10000000, 30000000, 120000000, 600000000, 3600000000,
                                                14400000000 } };

static const struct stk_buckets start_times = {
    1000000, 10, { 50000, 100000, 500000, 1000000, 2500000, 5000000, 10000000, 30000000, 60000000, 300000000 }
};

void meters_init(struct meters *m)
{
    m->queue_wait_us.buckets = m->run_us.buckets = &job_times;
    m->context_start_us.buckets = &start_times;
    pthread_mutex_init(&m->lock, NULL);
}

void meters_done(struct meters *m)
{
    pthread_mutex_destroy(&m->lock);
}

/* A job waits once: an attempt that was not begun goes back to its place, and that is no other wait. */
void meter_job_started(struct meters *m, const struct stk_job_row *row)
{
    if (row->attempt == 1)
        stk_histogram_observe(&m->queue_wait_us, row->started_us - row->submitted_us);
}

void meter_job_ended(struct meters *m, const struct stk_job_row *row)
{
    meter_add(&m->ended[row->state]);
    if (row->started_us)
        stk_histogram_observe(&m->run_us, row->ended_us - row->started_us);
}

void meter_publish(struct meters *m, const struct stk_status *status)
{
    pthread_mutex_lock(&m->lock);
    m->status = *status;
    pthread_mutex_unlock(&m->lock);
}
