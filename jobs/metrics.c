/* What a scrape learns of jobs, contexts and slots: counters of the loop's, and the state that it has published last. */
#include "live.h"

#include "stoker/metrics.h"

static int64_t load(const atomic_uint_fast64_t *counter)
{
    return (int64_t)atomic_load_explicit(counter, memory_order_relaxed);
}

static void jobs_metrics(struct meters *meters, const struct stk_status *s, const int64_t *ended, struct stk_metrics *m)
{
    stk_metrics_family(m, "stoker_jobs", STK_GAUGE,
                       "Jobs that are stored, by state; ended ones as of some seconds ago.");
    for (int i = 0; i < STK_JOB_STATES; i++)
        stk_metrics_int(m, STK_LABELS("state", stk_job_state_name((enum stk_job_state)i)), s->jobs[i] + ended[i]);
    stk_metrics_one(m, "stoker_jobs_submitted", STK_COUNTER, "Jobs that were accepted.", load(&meters->submitted));
    stk_metrics_family(m, "stoker_jobs_ended", STK_COUNTER, "Jobs that have ended, by the state they ended in.");
    for (int i = 0; i < STK_JOB_STATES; i++) {
        if (stk_job_is_final((enum stk_job_state)i))
            stk_metrics_int(m, STK_LABELS("state", stk_job_state_name((enum stk_job_state)i)), load(&meters->ended[i]));
    }
    stk_metrics_family(m, "stoker_job_queue_wait_seconds", STK_HISTOGRAM,
                       "Time from a job's submit until it was handed to a process.");
    stk_metrics_histogram(m, NULL, &meters->queue_wait_us);
    stk_metrics_family(m, "stoker_job_run_seconds", STK_HISTOGRAM,
                       "Time from a job's start to its end, whatever it was.");
    stk_metrics_histogram(m, NULL, &meters->run_us);
}

static void contexts_metrics(struct meters *meters, const struct stk_status *s, struct stk_metrics *m)
{
    stk_metrics_family(m, "stoker_contexts", STK_GAUGE, "Contexts by state, of those that have not ended.");
    for (int i = 0; i < STK_CONTEXT_STATES; i++) {
        if (!stk_context_is_final((enum stk_context_state)i))
            stk_metrics_int(m, STK_LABELS("state", stk_context_state_name((enum stk_context_state)i)), s->contexts[i]);
    }
    stk_metrics_one(m, "stoker_contexts_warm", STK_GAUGE, "Contexts that were started ahead and are nobody's yet.",
                    s->warm_contexts);
    stk_metrics_one(m, "stoker_contexts_max", STK_GAUGE, "How many contexts there may be (max-contexts).",
                    s->max_contexts);
    stk_metrics_family(m, "stoker_contexts_ended", STK_COUNTER,
                       "Contexts that have ended, by the state they ended in.");
    for (int i = 0; i < STK_CONTEXT_STATES; i++) {
        if (stk_context_is_final((enum stk_context_state)i))
            stk_metrics_int(m, STK_LABELS("state", stk_context_state_name((enum stk_context_state)i)),
                            load(&meters->contexts_ended[i]));
    }
    stk_metrics_family(m, "stoker_context_start_seconds", STK_HISTOGRAM,
                       "Time from the start of a context's processes until it runs.");
    stk_metrics_histogram(m, NULL, &meters->context_start_us);
    stk_metrics_one(m, "stoker_slots", STK_GAUGE, "Jobs that contexts can run at once.", s->slots);
    stk_metrics_one(m, "stoker_slots_busy", STK_GAUGE, "Slots that jobs have taken.", s->busy_slots);
}

int stk_core_metrics(struct stk_core *core, struct stk_metrics *m, struct stk_err *err)
{
    struct meters *meters = &core->meters;
    int64_t ended[STK_JOB_STATES];
    struct stk_status s;

    if (stk_store_job_counts(core->store, ended, err) < 0)
        return -1;
    pthread_mutex_lock(&meters->lock);
    s = meters->status;
    pthread_mutex_unlock(&meters->lock);
    disk_status(core, &s);
    jobs_metrics(meters, &s, ended, m);
    contexts_metrics(meters, &s, m);
    stk_metrics_one(m, "stoker_disk_free_bytes", STK_GAUGE, "Room on the disk of the state directory.",
                    s.disk_free_bytes);
    stk_metrics_one(m, "stoker_disk_reserve_bytes", STK_GAUGE,
                    "With less room than this no new work is taken (disk-reserve).", s.disk_reserve_bytes);
    stk_store_metrics(core->store, m);
    return 0;
}
