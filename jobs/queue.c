/*
 * Who runs what. A context has max_jobs slots; a slot is taken when a job is assigned to a worker and free again when the
 * worker has answered. Jobs go by priority, then in the order they came; a job that waits for a worker of its binary set to start may be
 * passed by later ones only as far as slots are left for it.
 *
 * A worker is bound to the set of its first job. One worker that is bound to nothing is kept attached, so that a new set does
 * not wait for fork and attach; so a context has at most max_jobs + 1 workers.
 */
#include "live.h"

#include "stoker/clock.h"

#include <string.h>

static bool is_free(const struct worker *w)
{
    return w->state == W_READY && !w->job && !w->isolated && w->interrupts == 0 && w->p.conn;
}

static bool is_coming(const struct worker *w)
{
    return w->state == W_ADMITTING || w->state == W_FORKING || w->state == W_ATTACHING;
}

static bool same_set(const struct worker *w, const struct job *job)
{
    return w->set && strcmp(stk_text_data(w->set), stk_text_data(job->row.set)) == 0;
}

static struct worker *find_worker(struct context *ctx, const struct job *job)
{
    struct worker *w, *unbound = NULL;

    LIST_FOREACH(w, &ctx->workers, link)
    {
        if (!is_free(w))
            continue;
        if (same_set(w, job) && job->row.terms.isolated <= 0)
            return w;
        if (!w->set)
            unbound = w;
    }
    return unbound;
}

static bool goes_before(const struct job *a, const struct job *b)
{
    if (a->row.terms.priority != b->row.terms.priority)
        return a->row.terms.priority > b->row.terms.priority;
    return a->arrival < b->arrival; /* one that had its turn already comes back to where it was */
}

void queue_add(struct job *job)
{
    struct context *ctx = job->context;
    struct job *before = TAILQ_LAST(&ctx->queue, job_queue);

    while (before && goes_before(job, before))
        before = TAILQ_PREV(before, job_queue, link);
    if (before)
        TAILQ_INSERT_AFTER(&ctx->queue, before, job, link);
    else
        TAILQ_INSERT_HEAD(&ctx->queue, job, link);
    job->queued = true;
    job->position = ctx->n_queued++;
    ctx->numbered = ctx->numbered && !TAILQ_NEXT(job, link);
}

void queue_remove(struct job *job)
{
    if (!job->queued)
        return;
    TAILQ_REMOVE(&job->context->queue, job, link);
    job->queued = false;
    job->context->n_queued--;
    job->context->numbered = false;
}

/* Whoever asks for one often asks for a thousand: one walk serves them all, until something leaves or pushes in. */
int queue_position(const struct job *job)
{
    struct context *ctx = job->context;
    struct job *next;
    int position = 0;

    if (!ctx->numbered) {
        TAILQ_FOREACH(next, &ctx->queue, link)
        next->position = position++;
        ctx->numbered = true;
    }
    return job->position;
}

static void assign(struct job *job, struct worker *w)
{
    queue_remove(job);
    job_take(job, w);
    job->row.worker = w->p.id;
    job->row.attempt++;
    job->row.started_us = stk_wall_us();
    meter_job_started(&job->core->meters, &job->row);
    if (!w->set)
        w->set = stk_text_ref(job->row.set);
    w->isolated = job->row.terms.isolated > 0;
}

bool queue_assign(struct job *job)
{
    struct context *ctx = job->context;
    struct worker *w;

    if (ctx->ending || ctx->busy >= ctx->row.max_jobs || !(w = find_worker(ctx, job)))
        return false;
    assign(job, w);
    job->row.state = STK_JOB_STARTING; /* its first row: written by the submit, not by a move */
    return true;
}

/* A worker of another set that has nothing to do makes room. */
static void retire_one_idle(struct context *ctx)
{
    struct worker *w, *oldest = NULL;

    LIST_FOREACH(w, &ctx->workers, link)
    {
        if (w->state == W_RETIRING)
            return; /* room is being made already */
        if (is_free(w) && w->set && (!oldest || w->idle_since_ms < oldest->idle_since_ms))
            oldest = w;
    }
    if (oldest)
        worker_retire(oldest);
}

/* Starts what the waiting jobs need and one more. */
static void start_workers(struct context *ctx, int wanted)
{
    struct worker *w;
    int coming = 0, spare = 0, most = ctx->row.max_jobs + 1;

    LIST_FOREACH(w, &ctx->workers, link)
    {
        coming += is_coming(w);
        spare += !w->set && is_free(w);
    }
    if (stk_mono_ms() < ctx->no_fork_until_ms)
        return;
    wanted += 1 - coming - spare;
    while (wanted > 0 && ctx->n_workers < most) {
        if (!worker_start(ctx))
            return;
        wanted--;
    }
    if (wanted > 1)
        retire_one_idle(ctx);
}

void queue_dispatch(struct context *ctx)
{
    struct job *job, *next;
    int passed = 0;

    if (ctx->ending || ctx->row.state != STK_CONTEXT_RUNNING || warm_is(ctx))
        return;
    for (job = TAILQ_FIRST(&ctx->queue); job && ctx->busy + passed < ctx->row.max_jobs; job = next) {
        struct worker *w = find_worker(ctx, job);

        next = TAILQ_NEXT(job, link);
        if (w) {
            assign(job, w);
            job_move(job, STK_JOB_STARTING);
        } else {
            passed++;
        }
    }
    start_workers(ctx, passed);
}
