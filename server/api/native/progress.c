/* How far a job is in Spark, as clients see it. */
#include "api/native/native.h"

#include "stoker/progress.h"

static json_t *count_object(const struct stk_progress_count *count)
{
    return json_pack("{s:I, s:I, s:I, s:I}", "total", (json_int_t)count->total, "done", (json_int_t)count->done,
                     "active", (json_int_t)count->active, "failed", (json_int_t)count->failed);
}

json_t *stk_native_progress(const struct stk_progress *progress)
{
    return json_pack("{s:o, s:o, s:o, s:o}", "tasks", count_object(&progress->tasks), "stages",
                     count_object(&progress->stages), "spark_jobs", count_object(&progress->jobs), "at",
                     stk_native_time(progress->at_us));
}

char *stk_native_progress_event(const struct stk_progress_news *news, size_t *ret_len)
{
    json_auto_t *object = json_pack("{s:s, s:o, s:s, s:o, s:s, s:i, s:o}", "type", STK_NATIVE_PROGRESS, "time",
                                    stk_native_time(news->progress.at_us), "job", news->job_id, "context",
                                    stk_native_text(news->context_name), "context_id", news->context_id, "attempt",
                                    news->attempt, "progress", stk_native_progress(&news->progress));
    stk_auto_free char *json = object ? stk_json_text(object, NULL) : NULL;
    stk_auto_buf text = { 0 };

    if (!json)
        return NULL;
    stk_buf_printf(&text, "event: %s\ndata: %s\n\n", STK_NATIVE_PROGRESS, json);
    *ret_len = text.len;
    return text.failed ? NULL : stk_buf_steal(&text);
}
