/*
 * The ladder of a cancel. A job is KILLED only when both hold: its Python process is done with it or gone (worker_over),
 * and the keeper has confirmed after that that nothing of it is left in Spark (keeper_over).
 *
 *     keeper: cancel by tag, again and again, until nothing is active
 *     worker: interrupt --- done, interrupted ---------------------------------------> worker_over
 *               `-- no answer within the grace: the zygote kills its process group --> worker_over
 *     keeper: the same once more, for until now the job could start something new ---> keeper_over
 *
 * A job whose end came before the interrupt reached it keeps that end, and one that returns all the same keeps its result,
 * unless Spark jobs of it were stopped: what it made of that is not its own. The receipt (receipt.c) has each step.
 */
#include "live.h"

#include "stoker/log.h"

#include <string.h>

void cancel_kill(struct job *job)
{
    struct context *ctx = job->context;

    if (job->worker_over || !job->worker)
        return;
    if (!job->killed)
        receipt_step(job, "worker killed", NULL);
    job->killed = true;         /* said again when the zygote dials, should it be away now */
    worker_retire(job->worker); /* the job's end may cross the kill, which must not hit the next job */
    if (ctx->zygote.conn)
        stk_conn_send_take(ctx->zygote.conn,
                           json_pack("{s:s, s:s}", "type", "kill", "process", job->worker->p.id.process));
}

static void on_grace_over(void *arg)
{
    struct job *job = arg;

    stk_info("cancel", "interrupt had no effect, killing the worker", "job", job->row.id, "process",
             job->row.worker.process);
    cancel_kill(job);
}

static void send_keeper(struct job *job)
{
    if (job->keeper_over || !job->context->keeper.conn)
        return;
    receipt_step(job, job->worker_over ? "spark asked again" : "spark asked", NULL);
    stk_conn_send_take(job->context->keeper.conn,
                       json_pack("{s:s, s:s, s:s, s:i, s:b}", "type", "cancel", "worker", job->row.worker.process,
                                 "job", job->row.id, "attempt", job->row.attempt, "final", job->worker_over));
}

static void send_worker(struct job *job)
{
    struct worker *w = job->worker;

    if (job->worker_over || !w || !w->p.conn || w->interrupts > 0) /* the last: asked on this connection already */
        return;
    w->interrupts++;
    receipt_step(job, "interrupted", NULL);
    stk_conn_send_take(
        w->p.conn, json_pack("{s:s, s:s, s:i}", "type", "interrupt", "job", job->row.id, "attempt", job->row.attempt));
}

void cancel_resume(struct job *job)
{
    if (!job->sent || job->settled)
        return;
    send_worker(job);
    send_keeper(job);
    if (job->worker_over)
        return;
    if (!job->grace)
        job->grace = stk_timer_new(job->core->loop, on_grace_over, job);
    if (job->grace)
        stk_timer_set(job->grace, job->killed ? 0 : job->core->o.cancel_grace_ms);
}

void cancel_recorded(struct job *job)
{
    if (!job->sent)
        cancel_worker_over(job); /* cancelled between its assignment and this commit: it never started */
    else if (!job->grace && !job->worker_over)
        cancel_resume(job);
}

/* What a job ends with that was cancelled for this reason. */
static enum stk_job_state state_of(const struct job *job)
{
    return job->cancel == CANCEL_RUN_TIMEOUT || job->cancel == CANCEL_QUEUE_TIMEOUT ? STK_JOB_TIMED_OUT
                                                                                    : STK_JOB_KILLED;
}

static struct stk_text *error_of(const struct job *job)
{
    const struct stk_job_terms *terms = &job->row.terms;

    switch (job->cancel) {
    case CANCEL_QUEUE_TIMEOUT:
        return failure_text("QUEUE_TIMEOUT", NULL, NULL, "the job waited longer than its queue-timeout of %lld ms",
                            (long long)terms->queue_timeout_ms);
    case CANCEL_RUN_TIMEOUT:
        return failure_text("RUN_TIMEOUT", NULL, NULL, "the job ran longer than its run-timeout of %lld ms",
                            (long long)terms->run_timeout_ms);
    case CANCEL_CONTEXT: return stk_text_ref(job->context->jobs_error);
    case CANCEL_NONE:
    case CANCEL_USER: break;
    }
    return failure_text("KILLED", NULL, NULL, "Job %s killed", job->row.id);
}

void cancel_begin(struct job *job, enum cancel_reason reason)
{
    if (job->cancel != CANCEL_NONE || job->settled)
        return;
    job->cancel = reason;
    switch (job->row.state) {
    case STK_JOB_QUEUED:
        receipt_begin(job);
        receipt_stopped_by(job, "not started");
        job_settle(job, state_of(job), error_of(job));
        break;
    case STK_JOB_STARTING: /* not sent: when its commit comes back it ends without having run */
    case STK_JOB_RUNNING:
        receipt_begin(job);
        receipt_write(job);
        job_move(job, STK_JOB_CANCELLING);
        break; /* the ladder begins when this is recorded: else a crash would leave a job that ended for no reason */
    default: job->cancel = CANCEL_NONE; break;
    }
}

static void finish_if_over(struct job *job)
{
    struct context *ctx = job->context;
    const char *outcome = json_string_value(json_object_get(job->outcome, "outcome"));

    if (job->settled || !job->worker_over || !(job->keeper_over || !job->sent))
        return;
    if (!job->sent)
        receipt_stopped_by(job, "not started");
    if (outcome && !job->spark_stopped && strcmp(outcome, "interrupted") != 0 &&
        (job->ended_itself || strcmp(outcome, "finished") == 0 || strcmp(outcome, "invalid") == 0)) {
        json_object_set_new(job->receipt, "stopped_by", json_string("itself"));
        job_settle_done(job, job->outcome);
    } else {
        result_discard(job); /* it may have finished because of the cancel */
        job_settle(job, state_of(job), error_of(job));
    }
    queue_dispatch(ctx);
}

void cancel_worker_done(struct job *job, json_t *done)
{
    if (!job->outcome) {
        job->outcome = json_incref(done);
        receipt_step(job, "python ended", json_pack("{s:O?}", "outcome", json_object_get(done, "outcome")));
        receipt_stopped_by(job, "interrupt");
    }
    if (job->worker && job->worker->interrupts == 0) /* cancelled while the server was away: nothing to wait for */
        cancel_worker_over(job);
}

void cancel_worker_exited(struct job *job, json_t *exit)
{
    json_t *detail = json_object();

    json_object_set(detail, "status", json_object_get(exit, "status"));
    json_object_set(detail, "signal", json_object_get(exit, "signal"));
    receipt_step(job, "process ended", detail);
    receipt_stopped_by(job, job->killed ? "kill" : "exit");
    cancel_worker_over(job);
}

void cancel_worker_over(struct job *job)
{
    if (!job->worker_over) {
        job->worker_over = true;
        if (job->sent && !job->settled)
            send_keeper(job);
    }
    finish_if_over(job);
}

void cancel_keeper_said(struct job *job, json_t *cancelled)
{
    static const char *const counts[] = { "jobs", "tasks", "streams", "rounds", "elapsed_ms" };
    json_t *final = json_object_get(cancelled, "final");
    bool over = final ? json_is_true(final) : job->worker_over; /* a keeper of an older server does not say it */
    json_t *spark = json_object();

    for (size_t i = 0; spark && i < STK_LEN(counts); i++)
        json_object_set(spark, counts[i], json_object_get(cancelled, counts[i]));
    receipt_step(job, over ? "spark confirmed" : "spark stopped", spark);
    if (json_integer_value(json_object_get(cancelled, "jobs")) +
            json_integer_value(json_object_get(cancelled, "streams")) >
        0)
        job->spark_stopped = true;
    if (!over)
        return;
    job->keeper_over = true;
    finish_if_over(job);
}

void cancel_keeper_gone(struct job *job)
{
    receipt_step(job, "spark gone", NULL);
    job->keeper_over = true;
    finish_if_over(job);
}
