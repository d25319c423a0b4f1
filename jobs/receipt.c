/*
 * The receipt of a cancel: what was done when, what stopped the job, what of it was found in Spark. It grows with the ladder
 * (cancel.c), is written with the row that says CANCELLING and with the last one, and so survives the server.
 * docs/cancel.md describes it for users.
 */
#include "live.h"

#include "stoker/clock.h"

#include <string.h>

static const char *const reasons[] = {
    [CANCEL_NONE] = "none",
    [CANCEL_USER] = "user",
    [CANCEL_QUEUE_TIMEOUT] = "queue-timeout",
    [CANCEL_RUN_TIMEOUT] = "run-timeout",
    [CANCEL_CONTEXT] = "context",
};

static void set_text(json_t *object, const char *key, const char *text)
{
    json_object_set_new(object, key, text ? json_string(text) : json_null());
}

void receipt_begin(struct job *job)
{
    char at[STK_TIME_MAX];

    if (job->receipt)
        return;
    job->receipt = json_pack("{s:s, s:i, s:s, s:I, s:[]}", "job", job->row.id, "attempt", job->row.attempt, "reason",
                             reasons[job->cancel], "requested_us", (json_int_t)stk_wall_us(), "steps");
    set_text(job->receipt, "requested_at", stk_time_utc(at, stk_wall_us()));
    set_text(job->receipt, "state", stk_job_state_name(job->row.state));
    set_text(job->receipt, "process", job->row.worker.process[0] ? job->row.worker.process : NULL);
    receipt_step(job, "requested", NULL);
}

static json_int_t since_request(const struct job *job)
{
    return (stk_wall_us() - json_integer_value(json_object_get(job->receipt, "requested_us"))) / 1000;
}

void receipt_step(struct job *job, const char *step, json_t *detail_take)
{
    json_t *entry = job->receipt ? json_pack("{s:I, s:s}", "ms", since_request(job), "step", step) : NULL;

    if (entry && detail_take)
        json_object_update_missing(entry, detail_take);
    json_array_append_new(json_object_get(job->receipt, "steps"), entry);
    json_decref(detail_take);
}

void receipt_stopped_by(struct job *job, const char *what)
{
    if (job->receipt && !json_object_get(job->receipt, "stopped_by")) /* the first word counts */
        set_text(job->receipt, "stopped_by", what);
}

void receipt_write(struct job *job)
{
    stk_auto_free char *text = job->receipt ? json_dumps(job->receipt, JSON_COMPACT) : NULL;

    if (!text)
        return;
    stk_text_unref(job->row.receipt);
    job->row.receipt = stk_text_new(text, strlen(text));
}

void receipt_close(struct job *job, enum stk_job_state state)
{
    char at[STK_TIME_MAX];

    if (!job->receipt)
        return;
    receipt_stopped_by(job, "context");
    set_text(job->receipt, "confirmed_at", stk_time_utc(at, stk_wall_us()));
    json_object_set_new(job->receipt, "elapsed_ms", json_integer(since_request(job)));
    set_text(job->receipt, "outcome", stk_job_state_name(state));
    receipt_step(job, "confirmed", NULL);
    json_object_del(job->receipt, "requested_us");
    receipt_write(job);
}

void receipt_resume(struct job *job)
{
    const char *reason;

    job->cancel = CANCEL_USER;
    if (job->row.receipt)
        job->receipt = json_loadb(stk_text_data(job->row.receipt), stk_text_len(job->row.receipt), 0, NULL);
    reason = json_string_value(json_object_get(job->receipt, "reason"));
    for (size_t i = CANCEL_USER; reason && i < STK_LEN(reasons); i++) {
        if (strcmp(reason, reasons[i]) == 0)
            job->cancel = (enum cancel_reason)i;
    }
    receipt_begin(job); /* of an older server's job, which has none */
    receipt_step(job, "server restarted", NULL);
}
