#include "api/native/native.h"

#include "stoker/clock.h"

/* A limit of time and what is left of it; null when there is none. left is null while the clock does not run. */
static json_t *clock_of(int64_t limit_ms, bool runs, int64_t since_us)
{
    json_t *left = json_null();

    if (limit_ms <= 0)
        return json_null();
    if (runs) {
        int64_t ms = limit_ms - (stk_wall_us() - since_us) / 1000;

        left = json_integer(ms > 0 ? ms : 0);
    }
    return json_pack("{s:I, s:o}", "limit_ms", (json_int_t)limit_ms, "left_ms", left);
}

static json_t *job_object(const struct native *native, const struct stk_job_row *row)
{
    bool waits = row->state == STK_JOB_QUEUED;
    bool runs = row->state == STK_JOB_STARTING || row->state == STK_JOB_RUNNING;
    int position = waits ? stk_job_position(native->core, row->id) : -1;
    json_t *object =
        json_pack("{s:s, s:s, s:o, s:s, s:o, s:o, s:i}", "id", row->id, "state", stk_job_state_name(row->state),
                  "context", stk_native_text(row->context_name), "context_id", row->context_id, "app",
                  stk_native_text(row->app), "class", stk_native_text(row->class_path), "attempt", row->attempt);

    json_object_set_new(object, "binaries", stk_native_json(row->binaries));
    json_object_set_new(object, "priority", json_integer(row->terms.priority));
    json_object_set_new(object, "position", position >= 0 ? json_integer(position) : json_null());
    json_object_set_new(object, "queue_clock", clock_of(row->terms.queue_timeout_ms, waits, row->submitted_us));
    json_object_set_new(object, "run_clock", clock_of(row->terms.run_timeout_ms, runs, row->started_us));
    json_object_set_new(object, "max_memory",
                        row->terms.max_memory ? json_integer(row->terms.max_memory) : json_null());
    json_object_set_new(object, "isolation", json_string(row->terms.isolated > 0 ? "process" : "shared"));
    json_object_set_new(object, "submitted_at", stk_native_time(row->submitted_us));
    json_object_set_new(object, "started_at", stk_native_time(row->started_us));
    json_object_set_new(object, "ended_at", stk_native_time(row->ended_us));
    json_object_set_new(object, "process",
                        row->worker.process[0]
                            ? json_pack("{s:s, s:I}", "name", row->worker.process, "pid", (json_int_t)row->worker.pid)
                            : json_null());
    json_object_set_new(object, "result_bytes",
                        row->state == STK_JOB_FINISHED ? json_integer(row->result_bytes) : json_null());
    json_object_set_new(object, "error", stk_native_short_failure(row->error, "jobs", row->id));
    json_object_set_new(object, "has_receipt", json_boolean(row->receipt != NULL));
    return object;
}

void stk_native_jobs_get(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const struct native *native = arg;
    struct stk_job_row row;
    struct stk_err err;

    if (stk_job_get(native->core, stk_request_param(r, "id"), &row, &err) < 0) {
        stk_native_failed(reply, "get a job", &err);
        return;
    }
    stk_reply_json_take(reply, 200, job_object(native, &row));
    stk_job_row_done(&row);
}

void stk_native_jobs_receipt(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const struct native *native = arg;
    struct stk_job_row row;
    struct stk_err err;

    if (stk_job_get(native->core, stk_request_param(r, "id"), &row, &err) < 0) {
        stk_native_failed(reply, "get a receipt", &err);
        return;
    }
    if (row.receipt)
        stk_reply_json_take(reply, 200, stk_native_json(row.receipt));
    else
        stk_native_error(reply, 404, "NOT_FOUND", "nobody has asked for the end of this job");
    stk_job_row_done(&row);
}
