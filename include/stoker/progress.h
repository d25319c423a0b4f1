/*
 * How far running jobs are in Spark: what their Spark jobs, stages and tasks come to at the last look. Of a job that has called
 * Spark and goes on; nothing of it is recorded, the next look tells the same again.
 *
 * Any thread but the loop.
 */
#ifndef STOKER_PROGRESS_H
#define STOKER_PROGRESS_H

#include "stoker/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct stk_core;

struct stk_progress_count {
    int64_t total, done, active,
        failed; /* done: tasks that were run twice count once; failed: attempts of tasks and stages */
};

struct stk_progress {
    int64_t at_us; /* wall time of the look */
    struct stk_progress_count jobs, stages, tasks;
};

/* false: it has ended, has not called Spark, or nobody has looked yet. */
bool stk_progress_get(struct stk_core *core, const char *job_id, struct stk_progress *ret);

/* A change of one job's progress; there are not more than three in two seconds. */
struct stk_progress_news {
    uint64_t version; /* rises with each that is told, of whatever job, from 1 on */
    char job_id[STK_UUID_MAX], context_id[STK_UUID_MAX];
    struct stk_text *context_name;
    int attempt;
    int64_t after_event; /* the start of the attempt is an event of at most this number */
    struct stk_progress progress;
};
void stk_progress_news_done(struct stk_progress_news *news);

uint64_t stk_progress_newest(struct stk_core *core); /* 0: none yet. Costs nothing */
/*
 * The next one behind a version, of a job that runs at this moment: an event of its end, if there is one already, has a higher
 * number than stk_event_newest() gave before this call. false: there is none. Release with stk_progress_news_done().
 */
bool stk_progress_next(struct stk_core *core, uint64_t after, struct stk_progress_news *ret);

#endif
