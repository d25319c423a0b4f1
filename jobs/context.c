/* One context's life: its states, its processes, its end. */
#include "live.h"

#include "stoker/clock.h"
#include "stoker/log.h"
#include "stoker/tree.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

enum { KILL_AFTER_MS = 3000, RETRY_COMMIT_MS = 1000, TAIL_BYTES = 4096, LINE_BYTES = 500 };

struct context *context_find(struct stk_core *core, const char *id)
{
    struct context *ctx;

    HASH_FIND_STR(core->contexts, id, ctx);
    return ctx;
}

struct context *context_find_active(struct stk_core *core, const char *name)
{
    for (struct context *ctx = core->contexts; ctx; ctx = ctx->hh.next) {
        if (!ctx->closed && !warm_is(ctx) && strcmp(stk_text_data(ctx->row.name), name) == 0)
            return ctx;
    }
    return NULL;
}

static void on_deadline(void *arg);
static void on_clock(void *arg);

static void process_init(struct process *p, struct context *ctx, enum role role, const char *name)
{
    *p = (struct process){ .role = role, .context = ctx };
    snprintf(p->id.process, sizeof p->id.process, "%s", name);
}

struct context *context_new(struct stk_core *core)
{
    struct context *ctx = calloc(1, sizeof *ctx);

    if (!ctx)
        return NULL;
    ctx->timer = stk_timer_new(core->loop, on_deadline, ctx);
    ctx->clock = stk_timer_new(core->loop, on_clock, ctx);
    if (!ctx->timer || !ctx->clock) {
        stk_timer_free(ctx->timer);
        stk_timer_free(ctx->clock);
        free(ctx);
        return NULL;
    }
    ctx->core = core;
    process_init(&ctx->zygote, ctx, ROLE_ZYGOTE, "z");
    process_init(&ctx->keeper, ctx, ROLE_KEEPER, "k");
    process_init(&ctx->jvm, ctx, ROLE_JVM, "jvm");
    LIST_INIT(&ctx->workers);
    TAILQ_INIT(&ctx->queue);
    STAILQ_INIT(&ctx->creators);
    STAILQ_INIT(&ctx->stoppers);
    STAILQ_INIT(&ctx->asks);
    core->n_contexts++;
    return ctx;
}

void context_free(struct context *ctx)
{
    struct stk_core *core = ctx->core;

    HASH_DEL(core->contexts, ctx);
    stk_timer_free(ctx->timer);
    stk_timer_free(ctx->clock);
    stk_timer_free(ctx->look.timer);
    json_decref(ctx->phases);
    stk_context_row_done(&ctx->row);
    stk_text_unref(ctx->jobs_error);
    free(ctx);
    core->n_contexts--;
    core_check_stopped(core);
}

/* ---- transitions */

static void on_committed(void *arg, const struct stk_err *err);

static void write_down(struct context *ctx)
{
    struct stk_err err;

    if (stk_store_context_moved(ctx->core->store, &ctx->row, on_committed, ctx, &err) < 0)
        stk_error("context", "transition could not be queued", "context", ctx->row.id, "why", err.msg);
    else
        ctx->commits++;
}

void context_move(struct context *ctx, enum stk_context_state to)
{
    enum stk_context_state from = ctx->row.state;

    assert(stk_context_may_move(from, to));
    ctx->row.state = to;
    if (stk_context_is_final(to)) {
        ctx->row.ended_us = stk_wall_us();
        meter_add(&ctx->core->meters.contexts_ended[to]);
    }
    if (to == STK_CONTEXT_RUNNING && ctx->launched_ms)
        stk_histogram_observe(&ctx->core->meters.context_start_us, (stk_mono_ms() - ctx->launched_ms) * 1000);
    stk_info("context", "moved", "context", ctx->row.id, "name", stk_text_data(ctx->row.name), "from",
             stk_context_state_name(from), "to", stk_context_state_name(to));
    write_down(ctx);
}

void context_phase(struct context *ctx, const char *phase)
{
    const json_t *last = json_array_get(ctx->phases, json_array_size(ctx->phases) - 1);
    const char *said = json_string_value(json_object_get(last, "phase"));

    if (said && strcmp(said, phase) == 0)
        return; /* a keeper that has dialled again */
    stk_info("context", "phase", "context", ctx->row.id, "phase", phase);
    if (!ctx->phases)
        ctx->phases = json_array();
    json_array_append_new(ctx->phases, json_pack("{s:s, s:I}", "phase", phase, "ms",
                                                 (json_int_t)((stk_wall_us() - ctx->row.started_us) / 1000)));
}

/* ---- clocks */

static int64_t number_of(const json_t *object, const char *key, int64_t otherwise)
{
    const json_t *value = json_object_get(object, key);

    return json_is_integer(value) ? json_integer_value(value) : otherwise;
}

void context_read_spec(struct context *ctx)
{
    json_auto_t *spec = json_loadb(stk_text_data(ctx->row.spec), stk_text_len(ctx->row.spec), 0, NULL);
    const struct stk_core_options *o = &ctx->core->o;
    json_t *terms = json_object_get(spec, "terms");

    ctx->terms = (struct stk_job_terms){
        .priority = (int)number_of(terms, "priority", o->terms.priority),
        .queue_timeout_ms = number_of(terms, "queue_timeout_ms", o->terms.queue_timeout_ms),
        .run_timeout_ms = number_of(terms, "run_timeout_ms", o->terms.run_timeout_ms),
        .max_memory = number_of(terms, "max_memory", o->terms.max_memory),
        .isolated = (int)number_of(terms, "isolated", o->terms.isolated),
    };
    ctx->idle_timeout_ms = number_of(spec, "idle_timeout_ms", o->idle_timeout_ms);
    ctx->lifetime_ms = number_of(spec, "lifetime_ms", o->lifetime_ms);
}

static int64_t min_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Set for the first moment at which it can be over; who is not idle then is looked at again. */
void context_set_clock(struct context *ctx)
{
    int64_t left = INT64_MAX;

    if (ctx->lifetime_ms)
        left = ctx->lifetime_ms - (stk_wall_us() - ctx->row.started_us) / 1000;
    if (!ctx->idle_since_ms)
        ctx->idle_since_ms = stk_mono_ms();
    if (ctx->idle_timeout_ms)
        left = min_of(left, ctx->n_jobs > 0 ? ctx->idle_timeout_ms
                                            : ctx->idle_timeout_ms - (stk_mono_ms() - ctx->idle_since_ms));
    if (left < INT64_MAX)
        stk_timer_set(ctx->clock, left > 0 ? left : 0);
}

static void on_clock(void *arg)
{
    struct context *ctx = arg;

    if (ctx->ending || ctx->core->stopping || ctx->row.state != STK_CONTEXT_RUNNING || warm_is(ctx))
        return;
    if (ctx->lifetime_ms && stk_wall_us() - ctx->row.started_us >= ctx->lifetime_ms * 1000) {
        stk_info("context", "lifetime is over", "context", ctx->row.id);
        context_end(ctx, STK_CONTEXT_STOPPED,
                    failure_text("LIFETIME", NULL, NULL, "the context reached its lifetime of %lld ms",
                                 (long long)ctx->lifetime_ms),
                    false);
    } else if (ctx->idle_timeout_ms && ctx->n_jobs == 0 && stk_mono_ms() - ctx->idle_since_ms >= ctx->idle_timeout_ms) {
        stk_info("context", "idle for too long", "context", ctx->row.id);
        context_end(ctx, STK_CONTEXT_STOPPED,
                    failure_text("IDLE_TIMEOUT", NULL, NULL, "the context had no job for its idle-timeout of %lld ms",
                                 (long long)ctx->idle_timeout_ms),
                    false);
    } else {
        context_set_clock(ctx);
    }
}

/* ---- processes */

void context_process_ended(struct process *p)
{
    struct context *ctx = p->context;

    stk_watch_free(p->watch);
    p->watch = NULL;
    if (p->role == ROLE_WORKER && !ctx->zygote.dead)
        return; /* the zygote reaps it and tells how it ended */
    p->dead = true;
    stk_debug("context", "process ended", "context", ctx->row.id, "process", p->id.process);
    if (p->role == ROLE_ZYGOTE && !ctx->ending) {
        bool starting = ctx->row.state == STK_CONTEXT_CREATING;

        context_end(ctx, starting ? STK_CONTEXT_FAILED : STK_CONTEXT_LOST,
                    context_log_error(ctx, starting ? "CONTEXT_FAILED" : "CONTEXT_LOST",
                                      "the context's zygote process has ended"),
                    true);
    }
    context_check_gone(ctx);
}

static void on_process_ended(void *arg)
{
    context_process_ended(arg);
}

void context_watch(struct process *p)
{
    struct stk_err err;

    p->known = true;
    stk_watch_free(p->watch);
    p->watch = stk_watch_new(p->context->core->loop, &p->id, on_process_ended, p, &err);
    if (!p->watch && err.code == STK_NOT_FOUND)
        p->dead = true;
    else if (!p->watch) /* out of descriptors, say: nothing is known of it; tried again */
        stk_error("context", "cannot watch a process", "process", p->id.process, "why", err.msg);
}

bool context_found(struct process *p, pid_t pid)
{
    static const char *const roles[] = {
        [ROLE_ZYGOTE] = "zygote",
        [ROLE_KEEPER] = "keeper",
        [ROLE_WORKER] = "worker",
        [ROLE_JVM] = "jvm",
    };

    if (p->known)
        return true;
    if (stk_process_identify(pid, &p->id, NULL) < 0)
        return false;
    stk_store_process_started(p->context->core->store, p->context->row.id, roles[p->role], &p->id, NULL);
    context_watch(p);
    return true;
}

void context_close_process(struct process *p)
{
    if (p->conn)
        stk_conn_close(p->conn);
    p->conn = NULL;
    stk_watch_free(p->watch);
    p->watch = NULL;
}

static bool is_alive(const struct process *p)
{
    return p->known && !p->dead;
}

static void kill_process(struct process *p)
{
    if (p->watch)
        stk_watch_kill(p->watch, SIGKILL);
}

void context_kill(struct context *ctx)
{
    struct worker *w;

    kill_process(
        &ctx->zygote); /* keeper and workers follow it by their parent-death signal; they are named all the same */
    kill_process(&ctx->keeper);
    kill_process(&ctx->jvm);
    LIST_FOREACH(w, &ctx->workers, link) kill_process(&w->p);
}

static void on_deadline(void *arg)
{
    struct context *ctx = arg;

    if (ctx->last_row || !ctx->ending) {
        write_down(ctx); /* it did not fit on the disk */
        return;
    }
    stk_warn("context", "not stopped in time, killing its processes", "context", ctx->row.id);
    context_kill(ctx);
    context_check_gone(ctx);
    if (!ctx->closed)
        stk_timer_set(ctx->timer, KILL_AFTER_MS);
}

/* The last line that is not empty. text: NULL is fine. */
static const char *last_line(const char *text, int *ret_len)
{
    size_t end = text ? strlen(text) : 0, start;

    while (end > 0 && strchr(" \r\n", text[end - 1]))
        end--;
    for (start = end; start > 0 && text[start - 1] != '\n'; start--)
        ;
    *ret_len = (int)(end - start > LINE_BYTES ? stk_utf8_cut(text + start, LINE_BYTES) : end - start);
    return text ? text + start : "";
}

struct stk_text *context_log_error(struct context *ctx, const char *code, const char *what)
{
    char path[80];
    stk_auto_free char *tail = NULL;
    const char *last = "";
    int len = 0;

    snprintf(path, sizeof path, "contexts/%s/context.log", ctx->row.id);
    tail = file_tail(ctx->core, path, TAIL_BYTES);
    if (ctx->row.state == STK_CONTEXT_CREATING)
        last = last_line(tail, &len); /* a Python process that could not start has said why */
    return failure_text(code, "log_tail", tail, "%s%s%.*s", what, len > 0 ? ": " : "", len, last);
}

/* ---- end */

static void fail_queued_jobs(struct context *ctx)
{
    struct job *job, *next;

    for (job = TAILQ_FIRST(&ctx->queue); job; job = next) {
        next = TAILQ_NEXT(job, link);
        job_settle(job, STK_JOB_ERROR, stk_text_ref(ctx->jobs_error));
    }
}

/* Its jobs are stopped by stopping all: the context's end is the proof. */
static void begin_receipts(struct context *ctx)
{
    for (struct job *job = ctx->core->jobs; job; job = job->hh.next) {
        if (job->context != ctx || job->settled || job->cancel != CANCEL_NONE)
            continue;
        job->cancel = CANCEL_CONTEXT;
        receipt_begin(job);
        if (job->row.state == STK_JOB_QUEUED)
            receipt_stopped_by(job, "not started");
    }
}

/*
 * A zygote that somebody has stopped (SIGSTOP) goes on, for it alone can end the context in full: what a job has started stays among its
 * descendants, whatever it did to its group and its environment, and would be anybody's when the zygote is killed.
 */
void context_tell_to_stop(struct context *ctx, int64_t grace_ms)
{
    if (ctx->zygote.watch)
        stk_watch_kill(ctx->zygote.watch, SIGCONT);
    if (ctx->zygote.conn)
        stk_conn_send_take(ctx->zygote.conn, json_pack("{s:s, s:I}", "type", "stop", "grace_ms", (json_int_t)grace_ms));
    stk_timer_set(ctx->timer, grace_ms + KILL_AFTER_MS);
}

static struct stk_text *error_of_jobs(struct context *ctx, enum stk_context_state state)
{
    const char *name = stk_text_data(ctx->row.name);

    if (ctx->core->stopping || state == STK_CONTEXT_CREATING)
        return failure_text("SERVER_STOPPED", NULL, NULL, "the server was stopped while the job ran");
    if (state == STK_CONTEXT_STOPPED)
        return failure_text("CONTEXT_STOPPED", NULL, NULL, "Context (%s) for this job was terminated", name);
    if (ctx->row.state == STK_CONTEXT_CREATING &&
        ctx->row.error) /* jobs that waited for its start have the same cause */
        return stk_text_ref(ctx->row.error);
    if (failure_is(ctx->row.error, "DRIVER_OUT_OF_MEMORY"))
        return failure_text("DRIVER_OUT_OF_MEMORY", NULL, NULL,
                            "Unexpected termination of context %s: its driver JVM ran out of memory", name);
    return failure_text("CONTEXT_LOST", NULL, NULL, "Unexpected termination of context %s", name);
}

static void begin_stop(struct context *ctx)
{
    ctx->stop_waits = false;
    context_tell_to_stop(ctx, ctx->stop_grace_ms);
    if (ctx->stop_grace_ms == 0 && !ctx->zygote.conn && (!is_alive(&ctx->zygote) || LIST_EMPTY(&ctx->workers)))
        context_kill(ctx); /* else it is given the time to dial in: it has workers, so jobs may have left something */
}

static void set_error(struct context *ctx, struct stk_text *error)
{
    stk_text_unref(ctx->row.error);
    ctx->row.error = stk_text_ref(error);
}

/* It was to be started again, and somebody wants it gone. */
static void stop_for_good(struct context *ctx)
{
    ctx->end_state = STK_CONTEXT_STOPPED;
    set_error(ctx, NULL);
    stk_text_unref(ctx->jobs_error);
    ctx->jobs_error = error_of_jobs(ctx, STK_CONTEXT_STOPPED);
    begin_receipts(ctx);
    fail_queued_jobs(ctx);
}

/*
 * Begins the end. state: what it will be when its processes are gone; error_take: why, for FAILED and LOST, and for one that is to be
 * started again, until it is down (resume() reads it). now: nothing is asked any more, its processes are killed. A second call can only make it faster.
 */
void context_end(struct context *ctx, enum stk_context_state state, struct stk_text *error_take, bool now)
{
    bool again = true;

    if (!ctx->ending) {
        stk_timer_clear(ctx->timer); /* of a row that is written anew below */
        ctx->ending = true;
        ctx->end_state = state;
        set_error(ctx, error_take);
        ctx->jobs_error = error_of_jobs(ctx, state);
        if ((state == STK_CONTEXT_STOPPED || state == STK_CONTEXT_CREATING) && ctx->row.state != STK_CONTEXT_STOPPING) {
            context_move(ctx, STK_CONTEXT_STOPPING);
            ctx->stop_waits = true; /* else a crash would leave a context that ended for no reason */
        }
        if (state == STK_CONTEXT_STOPPED)
            begin_receipts(ctx);
        if (state != STK_CONTEXT_CREATING)
            fail_queued_jobs(ctx);
        ctx->stop_grace_ms = now ? 0 : ctx->core->o.stop_grace_ms;
        again = false;
    }
    if (again && state == STK_CONTEXT_STOPPED && ctx->end_state == STK_CONTEXT_CREATING && !ctx->core->stopping)
        stop_for_good(ctx);
    if (now)
        ctx->stop_grace_ms = 0;
    stk_text_unref(error_take);
    if (!ctx->stop_waits && (now || !again))
        begin_stop(ctx);
    context_check_gone(ctx);
}

/* Its processes are gone: nobody will answer for these jobs any more. */
static void settle_what_ran(struct context *ctx)
{
    struct worker *w;
    struct job *job, *tmp;

    while ((w = LIST_FIRST(&ctx->workers)))
        worker_exited(w, NULL);
    HASH_ITER(hh, ctx->core->jobs, job, tmp) {
        if (job->context == ctx && !job->settled && job->row.state == STK_JOB_CANCELLING)
            cancel_keeper_gone(job); /* Spark is gone, and with it all that the job had there */
    }
}

/* Jobs that stay QUEUED in the store for the next server. */
static void forget_queue(struct context *ctx)
{
    struct job *job, *next;
    struct stk_err stays;

    stk_fail(&stays, STK_TIMEOUT, "the server was stopped; the job stays queued and runs when it is started again");

    for (job = TAILQ_FIRST(&ctx->queue); job; job = next) {
        next = TAILQ_NEXT(job, link);
        if (job->commits > 0)
            continue; /* comes here again when it is recorded */
        queue_remove(job);
        ticket_answer_all(&job->ended, &stays);
        job_free(job);
    }
}

static void forget_process(struct process *p)
{
    context_close_process(p);
    if (p->known)
        stk_store_process_ended(p->context->core->store, p->context->row.id, p->id.process, NULL);
}

static void write_last_row(void *arg)
{
    struct context *ctx = arg;

    ctx->last_row = true;
    if (ctx->end_state == STK_CONTEXT_CREATING)
        set_error(ctx, NULL);
    context_move(ctx, ctx->end_state);
}

void context_check_gone(struct context *ctx)
{
    struct worker *w;
    bool alive = false;
    int staying;

    if (!ctx->ending || ctx->closed || is_alive(&ctx->zygote))
        return;
    if (is_alive(&ctx->keeper) || is_alive(&ctx->jvm)) {
        kill_process(&ctx->keeper); /* their parent is dead: nobody else will */
        kill_process(&ctx->jvm);
        return;
    }
    LIST_FOREACH(w, &ctx->workers, link)
    {
        if (is_alive(&w->p) && !w->p.watch)
            context_watch(&w->p); /* seen to end, and the zygote that was to tell how is dead now */
        alive |= is_alive(&w->p);
        kill_process(&w->p);
    }
    if (alive)
        return;
    ctx->closed = true; /* settling and forgetting come back here */
    settle_what_ran(ctx);
    if (ctx->end_state == STK_CONTEXT_CREATING && ctx->core->stopping)
        forget_queue(ctx);
    ctx->closed = false;
    staying = ctx->end_state == STK_CONTEXT_CREATING && !ctx->core->stopping ? ctx->n_queued : 0;
    if (ctx->n_jobs > staying)
        return; /* the last of them comes back here */
    ctx->closed = true;
    objects_give_up(ctx);
    forget_process(&ctx->zygote);
    forget_process(&ctx->keeper);
    forget_process(&ctx->jvm);
    stk_timer_clear(ctx->timer);
    if (ctx->end_state == STK_CONTEXT_CREATING)
        write_last_row(ctx);
    else
        context_dir_remove(ctx->core, ctx->row.id, write_last_row,
                           ctx); /* first, so that "stopped" means that nothing is left */
}

void context_launch_or_end(struct context *ctx)
{
    struct stk_err err;

    if (!ctx->ending)
        context_phase(ctx, "starting python");
    ctx->launched_ms = stk_mono_ms();
    if (!ctx->ending && context_launch(ctx, &err) < 0)
        context_end(ctx, STK_CONTEXT_FAILED, failure_text("CONTEXT_FAILED", NULL, NULL, "%s", err.msg), true);
}

static void restart(struct context *ctx)
{
    ctx->ending = ctx->closed = ctx->last_row = ctx->stop_waits = false;
    ctx->failed_attaches = 0;
    stk_text_unref(ctx->jobs_error);
    ctx->jobs_error = NULL;
    process_init(&ctx->zygote, ctx, ROLE_ZYGOTE, "z");
    process_init(&ctx->keeper, ctx, ROLE_KEEPER, "k");
    process_init(&ctx->jvm, ctx, ROLE_JVM, "jvm");
    context_launch_or_end(ctx);
}

void context_restart(struct context *ctx)
{
    context_end(ctx, STK_CONTEXT_CREATING, NULL, true);
}

static void finish(struct context *ctx)
{
    struct stk_err err;

    if (ctx->end_state == STK_CONTEXT_CREATING && !ctx->core->stopping) {
        restart(ctx);
        return;
    }
    if (ctx->end_state == STK_CONTEXT_STOPPED)
        stk_fail(&err, STK_CONFLICT, "the context was stopped while it started");
    else
        stk_fail(&err, STK_RUNNER, "the context could not be started");
    if (warm_is(ctx) && ctx->end_state != STK_CONTEXT_STOPPED)
        warm_failed(ctx->core);
    context_answer_creators(ctx, &err);
    ticket_answer_all(&ctx->stoppers, NULL);
    context_free(ctx);
}

static void on_committed(void *arg, const struct stk_err *err)
{
    struct context *ctx = arg;

    ctx->commits--;
    if (ctx->stop_waits && !ctx->closed && ctx->commits == 0) {
        begin_stop(ctx); /* also when it could not be recorded */
        context_check_gone(ctx);
    }
    if (err && !ctx->abandoned) {
        stk_error("context", "transition not written, will be tried again", "context", ctx->row.id, "why", err->msg);
        if (ctx->last_row || !ctx->ending)
            stk_timer_set(ctx->timer, RETRY_COMMIT_MS);
        return;
    }
    if (ctx->commits > 0)
        return;
    if (ctx->last_row) {
        finish(ctx);
        return;
    }
    if (ctx->row.state != STK_CONTEXT_RUNNING)
        return;
    context_answer_creators(ctx, NULL);
    if (ctx->n_jobs == 0)
        ctx->idle_since_ms = 0; /* from now on */
    if (!warm_is(ctx))
        context_set_clock(ctx);
    warm_refill_soon(ctx->core, 0);
}
