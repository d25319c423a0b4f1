/* One job's life: its transitions, its place in a worker's hand, its clocks, what follows its commits. */
#include "live.h"

#include "stoker/clock.h"
#include "stoker/json.h"
#include "stoker/log.h"

#include <assert.h>
#include <string.h>

enum { RETRY_COMMIT_MS = 1000 };

static struct job *find(struct stk_core *core, const char *id)
{
    struct job *job;

    HASH_FIND_STR(core->jobs, id, job);
    return job;
}

struct job *job_find(struct stk_core *core, const char *id)
{
    struct job *job = find(core, id);

    return job && !job->abandoned ? job : NULL; /* nobody would answer who waits for that one */
}

struct job *job_new(struct stk_core *core, struct context *ctx)
{
    struct job *job = calloc(1, sizeof *job);

    if (!job)
        return NULL;
    job->core = core;
    job->context = ctx;
    job->tallied = -1;
    STAILQ_INIT(&job->accepted);
    STAILQ_INIT(&job->ended);
    ctx->n_jobs++;
    return job;
}

static void tally_as(struct job *job, int state)
{
    if (job->tallied >= 0)
        job->core->tally[job->tallied]--;
    job->tallied = state;
    if (state >= 0)
        job->core->tally[state]++;
}

void job_tally(struct job *job)
{
    tally_as(job, job->abandoned || stk_job_is_final(job->row.state) ? -1 : (int)job->row.state);
}

void job_free(struct job *job)
{
    struct context *ctx = job->context;

    assert(!job->worker && !job->queued && job->commits == 0);
    if (HASH_COUNT(job->core->jobs) && find(job->core, job->row.id) == job)
        HASH_DEL(job->core->jobs, job);
    progress_forget(job);
    tally_as(job, -1);
    stk_job_row_done(&job->row);
    json_decref(job->outcome);
    json_decref(job->receipt);
    stk_timer_free(job->clock);
    stk_timer_free(job->grace);
    stk_timer_free(job->retry);
    free(job);
    if (--ctx->n_jobs == 0)
        ctx->idle_since_ms = stk_mono_ms();
    context_check_gone(ctx);
}

/* ---- clocks */

static void on_clock(void *arg)
{
    struct job *job = arg;

    if (job->row.state == STK_JOB_QUEUED)
        cancel_begin(job, CANCEL_QUEUE_TIMEOUT);
    else if (job->row.state == STK_JOB_RUNNING)
        cancel_begin(job, CANCEL_RUN_TIMEOUT);
}

/* By the wall clock, as they are recorded: the time the server was away counts. */
void job_set_clock(struct job *job)
{
    bool waits = job->row.state == STK_JOB_QUEUED;
    int64_t limit_ms = waits ? job->row.terms.queue_timeout_ms : job->row.terms.run_timeout_ms;
    int64_t left_ms;

    if (limit_ms <= 0) {
        stk_timer_free(job->clock);
        job->clock = NULL;
        return;
    }
    if (!job->clock)
        job->clock = stk_timer_new(job->core->loop, on_clock, job);
    left_ms = limit_ms - (stk_wall_us() - (waits ? job->row.submitted_us : job->row.started_us)) / 1000;
    if (left_ms > limit_ms) /* the clock was set back meanwhile */
        left_ms = limit_ms;
    if (job->clock)
        stk_timer_set(job->clock, left_ms > 0 ? left_ms : 0);
}

/* ---- transitions */

static void on_moved(void *arg, const struct stk_err *err);

static void write_down(struct job *job)
{
    struct stk_err err;

    if (stk_store_job_moved(job->core->store, &job->row, on_moved, job, &err) < 0)
        stk_error("job", "transition could not be queued", "job", job->row.id, "why", err.msg);
    else
        job->commits++;
}

void job_move(struct job *job, enum stk_job_state to)
{
    enum stk_job_state from = job->row.state;

    assert(stk_job_may_move(from, to));
    job->row.state = to;
    job_tally(job);
    stk_log(to == STK_JOB_RUNNING ? STK_LOG_DEBUG : STK_LOG_INFO, "job", "moved", "job", job->row.id, "from",
            stk_job_state_name(from), "to", stk_job_state_name(to), "worker",
            job->row.worker.process[0] ? job->row.worker.process : NULL, NULL);
    if (to == STK_JOB_RUNNING || to == STK_JOB_QUEUED)
        job_set_clock(job);
    if (to == STK_JOB_RUNNING) /* written with the next transition: a job costs two commits, not three */
        return;
    write_down(job);
}

void job_take(struct job *job, struct worker *w)
{
    assert(!job->worker && !w->job);
    job->worker = w;
    w->job = job;
    if (!job->has_slot)
        job->context->busy++;
    job->has_slot = true;
}

void job_detach(struct job *job)
{
    struct worker *w = job->worker;

    if (!w)
        return;
    job->worker = NULL;
    w->job = NULL;
    w->idle_since_ms = stk_mono_ms();
    if (w->isolated && w->state == W_READY)
        worker_retire(w); /* also when the job was never sent: it takes no other, and must not keep a place */
}

void job_release(struct job *job)
{
    job_detach(job);
    if (job->has_slot)
        job->context->busy--;
    job->has_slot = false;
}

void job_requeue(struct job *job)
{
    progress_forget(job);
    job_release(job);
    if (job->context->ending && job->context->end_state != STK_CONTEXT_CREATING) {
        job_settle(job, STK_JOB_ERROR, stk_text_ref(job->context->jobs_error));
        return;
    }
    job->sent = false;
    job->row.started_us = 0;
    job_move(job, STK_JOB_QUEUED);
    queue_add(job);
}

void job_settle(struct job *job, enum stk_job_state to, struct stk_text *error_take)
{
    assert(!job->settled && stk_job_is_final(to));
    progress_forget(job); /* before its end can be known */
    job->counted = job->worker;
    if (job->worker)
        job->worker->unrecorded++;
    job_release(job);
    queue_remove(job);
    stk_timer_free(job->grace);
    stk_timer_free(job->clock);
    job->grace = job->clock = NULL;
    job->settled = true;
    receipt_close(job, to);
    stk_text_unref(job->row.error);
    job->row.error = error_take;
    if (!job->row.ended_us)
        job->row.ended_us = stk_wall_us();
    job_move(job, to);
    meter_job_ended(&job->core->meters, &job->row);
}

static struct stk_text *text_field(json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);

    return json_is_string(value) ? stk_text_new(json_string_value(value), json_string_length(value)) : NULL;
}

static int64_t wall_us_field(json_t *object, const char *key, int64_t otherwise)
{
    json_t *value = json_object_get(object, key);

    double s = json_number_value(value); /* 0 for what is no number */

    return s > 0 && s < 1e10 ? (int64_t)(s * 1e6) : otherwise;
}

/* NULL, or why not. It is checked because it came from a process that runs user code, and clients get it as it is. */
static struct stk_text *take_result(struct job *job, json_t *done)
{
    const char *file = json_string_value(json_object_get(done, "result_file"));
    int64_t bytes = json_integer_value(json_object_get(done, "result_bytes"));
    json_t *text = json_object_get(done, "result");
    int whole;

    if (json_is_string(text) && stk_json_valid(json_string_value(text), json_string_length(text))) {
        job->row.result = text_field(done, "result");
        job->row.result_bytes = (int64_t)stk_text_len(job->row.result);
        return NULL;
    }
    whole = text || !file ? -1 : result_file_check(job, file, bytes);
    if (whole < 0)
        return failure_text("RESULT_NOT_JSON", NULL, NULL, "the job's process sent a result that is not JSON");
    if (whole == 0)
        return failure_text("RESULT_LOST", NULL, NULL, "the file of the result, results/%s, is not there or not whole",
                            file);
    job->row.result_file = stk_text_new(file, strlen(file));
    job->row.result_bytes = bytes;
    return NULL;
}

/* User code may put NULs into its texts; readers of the error object need not cope with them. */
static void replace_nul_escapes(char *json)
{
    for (char *p = json; *p; p++) {
        if (*p != '\\')
            continue;
        if (strncmp(p + 1, "u0000", 5) == 0)
            memcpy(p + 1, "ufffd", 5);
        p++;
    }
}

void job_note_output(struct job *job, json_t *done)
{
    job->row.output_bytes[0] = json_integer_value(json_object_get(done, "stdout_bytes"));
    job->row.output_bytes[1] = json_integer_value(json_object_get(done, "stderr_bytes"));
}

void job_settle_done(struct job *job, json_t *done)
{
    const char *outcome = json_string_value(json_object_get(done, "outcome"));
    json_t *error = json_object_get(done, "error");
    stk_auto_free char *text = json_is_object(error) ? json_dumps(error, JSON_COMPACT) : NULL;
    struct stk_text *failure = NULL;

    retention_note(job->core, done);
    receipt_stopped_by(job, "itself");
    if (text) {
        replace_nul_escapes(text);
        failure = stk_text_new(text, strlen(text));
    }
    job->row.started_us = wall_us_field(done, "started", job->row.started_us);
    job->row.ended_us = wall_us_field(done, "ended", stk_wall_us());
    if (outcome && strcmp(outcome, "finished") == 0) {
        stk_text_unref(failure);
        failure = take_result(job, done);
        job_settle(job, failure ? STK_JOB_ERROR : STK_JOB_FINISHED, failure);
    } else if (outcome && strcmp(outcome, "invalid") == 0) {
        job_settle(job, STK_JOB_INVALID, failure);
    } else {
        if (!failure)
            failure = failure_text("USER_EXCEPTION", NULL, NULL, "the job failed without saying why");
        if (json_object_get(done, "retire")) /* it may have been given up while it wrote */
            result_discard(job);
        job_settle(job, STK_JOB_ERROR, failure);
    }
}

/* ---- commits come back */

static void retry_commit(void *arg)
{
    struct job *job = arg;

    write_down(job);
}

/* The row is durable: tell whoever waits, let the worker forget the result, forget the job. */
static void finish(struct job *job)
{
    struct context *ctx = job->context;
    struct worker *w = worker_find(ctx, job->row.worker.process);

    job_answer(job, &job->accepted, NULL);
    job_answer(job, &job->ended, NULL);
    if (w && w->p.conn && job->row.attempt > 0)
        stk_conn_send_take(
            w->p.conn, json_pack("{s:s, s:s, s:i}", "type", "ack", "job", job->row.id, "attempt", job->row.attempt));
    if (job->row.attempt > 0)
        spool_remove(job->core, job->row.id, job->row.attempt);
    if (job->ack_exit)
        worker_ack_exit(ctx, job->row.worker.process);
    if (w && job->counted)
        w->unrecorded--;
    job_free(job);
    if (w && w->unrecorded == 0 && w->job && w->job->row.state == STK_JOB_STARTING && !w->job->sent &&
        w->job->commits == 0)
        worker_send_run(w->job); /* it has waited for this */
}

static void on_moved(void *arg, const struct stk_err *err)
{
    struct job *job = arg;

    job->commits--;
    if (err && !job->abandoned) {
        /* no space: what runs goes on, its result stays unacknowledged with its worker, and the row is tried again */
        stk_error("job", "transition not written, will be tried again", "job", job->row.id, "why", err->msg);
        if (!job->retry)
            job->retry = stk_timer_new(job->core->loop, retry_commit, job);
        if (job->retry)
            stk_timer_set(job->retry, RETRY_COMMIT_MS);
        if (job->row.state == STK_JOB_CANCELLING && job->sent)
            cancel_recorded(job); /* a full disk is no reason not to stop it */
        return;
    }
    if (job->commits > 0)
        return; /* only the newest state counts */
    if (job->retry)
        stk_timer_clear(job->retry); /* of an older one */
    if (job->abandoned)
        job_free(job);
    else if (job->settled)
        finish(job);
    else if (job->row.state == STK_JOB_STARTING && !job->sent && job->worker)
        worker_send_run(job);
    else if (job->row.state == STK_JOB_QUEUED)
        context_check_gone(job->context); /* which may have waited for this row before it forgets its queue */
    else if (job->row.state == STK_JOB_CANCELLING)
        cancel_recorded(job);
}
