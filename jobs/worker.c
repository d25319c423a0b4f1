/* Workers: from the gateway that the keeper makes for one, over its jobs, to its end. */
#include "live.h"

#include "stoker/clock.h"
#include "stoker/log.h"

#include <stdio.h>
#include <string.h>

enum { MOST_FAILED_ATTACHES = 3, TAIL_BYTES = 4096, COMING_MAX_MS = 120000, NO_FORK_MS = 5000 };

struct worker *worker_find(struct context *ctx, const char *process)
{
    struct worker *w;

    LIST_FOREACH(w, &ctx->workers, link)
    {
        if (strcmp(w->p.id.process, process) == 0)
            return w;
    }
    return NULL;
}

static struct worker *worker_new(struct context *ctx, enum worker_state state)
{
    struct worker *w = calloc(1, sizeof *w);

    if (!w)
        return NULL;
    w->p.role = ROLE_WORKER;
    w->p.context = ctx;
    w->state = state;
    w->idle_since_ms = stk_mono_ms();
    LIST_INSERT_HEAD(&ctx->workers, w, link);
    ctx->n_workers++;
    return w;
}

void worker_free(struct worker *w)
{
    struct context *ctx = w->p.context;

    context_close_process(&w->p);
    LIST_REMOVE(w, link);
    ctx->n_workers--;
    stk_text_unref(w->set);
    free(w);
}

void worker_admit(struct worker *w)
{
    if (w->p.context->keeper.conn)
        stk_conn_send_take(w->p.context->keeper.conn,
                           json_pack("{s:s, s:s}", "type", "admit", "worker", w->p.id.process));
}

struct worker *worker_start(struct context *ctx)
{
    struct worker *w = worker_new(ctx, W_ADMITTING);
    char digits[9];

    if (!w)
        return NULL;
    stk_random_hex(digits, 4);
    snprintf(w->p.id.process, sizeof w->p.id.process, "w-%s", digits);
    worker_admit(w);
    return w;
}

struct worker *worker_adopt(struct context *ctx, const struct stk_process_id *id)
{
    struct worker *w = worker_new(ctx, W_SILENT);

    if (!w)
        return NULL;
    w->p.id = *id;
    w->p.known = true;
    context_watch(&w->p);
    return w;
}

/* It takes no more jobs. From now on it has to be gone in time. */
static void set_retiring(struct worker *w)
{
    if (w->state != W_RETIRING)
        w->idle_since_ms = stk_mono_ms();
    w->state = W_RETIRING;
}

void worker_retire(struct worker *w)
{
    set_retiring(w);
    if (w->p.conn)
        stk_conn_send_take(w->p.conn, json_pack("{s:s}", "type", "retire"));
}

/* Its keeper, its fork or its JVM hangs: it is given up, so that its place is free. */
static void give_up_if_stuck(struct worker *w, int64_t now)
{
    struct context *ctx = w->p.context;
    bool coming = w->state == W_ADMITTING || w->state == W_FORKING || w->state == W_ATTACHING;
    bool going = (w->state == W_RETIRING || w->state == W_SILENT) && !w->job && w->unrecorded == 0;

    if (!(coming || going) || now - w->idle_since_ms < COMING_MAX_MS)
        return;
    stk_warn("worker", coming ? "not ready in time" : "not gone in time", "context", ctx->row.id, "process",
             w->p.id.process);
    if (!w->p.known)
        worker_exited(w, NULL);
    else if (ctx->zygote.conn)
        stk_conn_send_take(ctx->zygote.conn, json_pack("{s:s, s:s}", "type", "kill", "process", w->p.id.process));
}

/* What could not be watched for want of a descriptor. */
static void watch_again(struct process *p)
{
    if (!p->known || p->dead || p->watch)
        return;
    context_watch(p);
    if (p->dead) /* it has ended meanwhile */
        context_process_ended(p);
}

void workers_look_after(struct stk_core *core)
{
    int64_t now = stk_mono_ms();

    for (struct context *ctx = core->contexts; ctx; ctx = ctx->hh.next) {
        struct worker *w, *next;

        watch_again(&ctx->keeper);
        watch_again(&ctx->jvm);
        watch_again(&ctx->zygote);
        for (w = LIST_FIRST(&ctx->workers); w; w = next) {
            next = LIST_NEXT(w, link);
            if (w->p.known && !w->p.dead && !w->p.watch)
                context_watch(&w->p); /* should it have ended, its zygote tells */
            if (ctx->ending || ctx->row.state != STK_CONTEXT_RUNNING)
                continue;
            if (ctx->n_queued == 0 && w->state == W_READY && w->set && !w->job &&
                now - w->idle_since_ms > core->o.worker_idle_timeout_ms)
                worker_retire(w);
            else
                give_up_if_stuck(w, now);
        }
        queue_dispatch(ctx); /* what a refused fork has put off */
    }
}

/* ---- run */

/* The stored list with the places where this server keeps the bytes. */
static json_t *binaries_with_paths(const struct job *job)
{
    json_t *list = json_loadb(stk_text_data(job->row.binaries), stk_text_len(job->row.binaries), 0, NULL), *b;
    size_t i;

    json_array_foreach(list, i, b) {
        const char *digest = json_string_value(json_object_get(b, "digest"));

        if (!digest)
            continue;
        json_object_set_new(b, "path", json_sprintf("%s/blobs/%s", job->core->o.state_dir, digest));
        json_object_set_new(b, "unpacked", json_sprintf("%s/unpacked/%s", job->core->o.state_dir, digest));
    }
    return list;
}

void worker_send_run(struct job *job)
{
    json_t *run, *binaries;

    if (job->context->ending || job->worker->state != W_READY) { /* while its row was written */
        job_requeue(job);
        queue_dispatch(job->context);
        return;
    }
    if (job->worker->unrecorded > 0)
        return;       /* the disk was too full for the end of the job before: two in one hand would confuse a restart */
    job->sent = true; /* from here on it may have run, even if the connection breaks now */
    job_move(job, STK_JOB_RUNNING);
    if (!job->worker->p.conn)
        return; /* its next hello tells whether it got it */
    binaries = binaries_with_paths(job);
    run = json_pack("{s:s, s:s, s:i, s:s, s:s, s:s%, s:s, s:o, s:n, s:s}", "type", "run", "job", job->row.id, "attempt",
                    job->row.attempt, "kind", "class", "class", stk_text_data(job->row.class_path), "config",
                    stk_text_data(job->row.config), stk_text_len(job->row.config), "set", stk_text_data(job->row.set),
                    "binaries", binaries, "pool", "description", stk_text_data(job->row.class_path));
    if (run && job->row.terms.max_memory > 0)
        json_object_set_new(run, "max_memory", json_integer(job->row.terms.max_memory));
    if (run && job->row.terms.isolated > 0)
        json_object_set_new(run, "isolated", json_true());
    if (run)
        stk_conn_send_take(job->worker->p.conn, run);
    else
        job_settle(job, STK_JOB_ERROR, failure_text("LOST", NULL, NULL, "the job could not be sent to its worker"));
}

static struct job *job_in_hand(struct worker *w, json_t *msg)
{
    const char *id = json_string_value(json_object_get(msg, "job"));
    struct job *job = w->job;

    return job && id && strcmp(job->row.id, id) == 0 &&
                   json_integer_value(json_object_get(msg, "attempt")) == job->row.attempt
               ? job
               : NULL;
}

static bool has_outcome(json_t *done, const char *outcome)
{
    const char *text = json_string_value(json_object_get(done, "outcome"));

    return text && strcmp(text, outcome) == 0;
}

static void on_done(struct worker *w, json_t *msg)
{
    const char *id = json_string_value(json_object_get(msg, "job"));
    struct job *job = job_in_hand(w, msg);
    struct job *known = id ? job_find(w->p.context->core, id) : NULL;
    struct context *ctx = w->p.context;

    if (json_is_string(json_object_get(msg, "retire")))
        set_retiring(w);
    if (job)
        job_note_output(job, msg);
    if (job && job->row.state == STK_JOB_RUNNING && !ctx->ending && has_outcome(msg, "interrupted"))
        cancel_begin(job, CANCEL_USER); /* the server that asked for it died before this was written down */
    if (job && job->row.state == STK_JOB_CANCELLING) {
        cancel_worker_done(job, msg);
    } else if (job) {
        /* its end first: were a crash to come between the two rows, the worker would have two jobs in hand */
        if (ctx->ending && !has_outcome(msg, "finished") && !has_outcome(msg, "invalid"))
            job_settle(job, STK_JOB_ERROR,
                       stk_text_ref(ctx->jobs_error)); /* Spark was stopped under it: not the job's fault */
        else
            job_settle_done(job, msg);
        queue_dispatch(ctx);
    } else if (!known || known->row.attempt != json_integer_value(json_object_get(msg, "attempt"))) {
        /* committed before, or given up on: the worker may forget it */
        json_t *ack = json_pack("{s:s, s:O, s:O}", "type", "ack", "job", json_object_get(msg, "job"), "attempt",
                                json_object_get(msg, "attempt"));

        if (ack)
            stk_conn_send_take(w->p.conn, ack);
    } /* else its last row is being written; the ack follows it */
}

static void on_interrupted(struct worker *w, json_t *msg)
{
    struct job *job = job_in_hand(w, msg);

    if (w->interrupts > 0)
        w->interrupts--;
    if (job && job->row.state == STK_JOB_CANCELLING) {
        job->ended_itself = !json_is_true(json_object_get(msg, "current"));
        cancel_worker_over(job);
    }
    queue_dispatch(w->p.context);
}

/* A worker that never came to take jobs. After some in a row the context is of no use. */
static void count_failed_attach(struct context *ctx, struct stk_text *error_take)
{
    stk_warn("worker", "could not attach", "context", ctx->row.id, "error", stk_text_data(error_take));
    if (++ctx->failed_attaches >= MOST_FAILED_ATTACHES)
        context_end(ctx, STK_CONTEXT_FAILED, stk_text_ref(error_take), false);
    stk_text_unref(error_take);
}

static void on_failed(struct worker *w, json_t *msg)
{
    stk_auto_free char *text = json_dumps(json_object_get(msg, "error"), JSON_COMPACT);

    set_retiring(w);
    count_failed_attach(w->p.context, text ? stk_text_new(text, strlen(text)) : NULL);
}

bool worker_message(struct worker *w, const char *type, json_t *msg)
{
    struct context *ctx = w->p.context;

    if (strcmp(type, "done") == 0) {
        on_done(w, msg);
    } else if (strcmp(type, "interrupted") == 0) {
        on_interrupted(w, msg);
    } else if (strcmp(type, "ready") == 0) {
        ctx->failed_attaches = 0;
        if (w->state != W_RETIRING)
            w->state = W_READY;
        queue_dispatch(ctx);
    } else if (strcmp(type, "failed") == 0) {
        on_failed(w, msg);
    } else if (strcmp(type, "spark") == 0) {
        struct job *job = job_in_hand(w, msg);

        if (job)
            progress_wanted(job);
    } else {
        return false;
    }
    return true;
}

/* ---- hello */

static bool lists_attempt(json_t *list, const struct job *job)
{
    json_t *entry;
    size_t i;

    json_array_foreach(list, i, entry) {
        const char *id = json_string_value(json_object_get(entry, "job"));

        if (id && strcmp(id, job->row.id) == 0 &&
            json_integer_value(json_object_get(entry, "attempt")) == job->row.attempt)
            return true;
    }
    return false;
}

bool worker_hello(struct context *ctx, struct stk_conn *conn, json_t *hello, const char **ret_refusal)
{
    const char *process = json_string_value(json_object_get(hello, "process"));
    const char *state = json_string_value(json_object_get(hello, "state"));
    const char *set = json_string_value(json_object_get(hello, "set"));
    struct worker *w = process ? worker_find(ctx, process) : NULL;
    pid_t pid = (pid_t)json_integer_value(json_object_get(hello, "pid"));
    struct job *job;

    if (!w) {
        *ret_refusal = "this worker is not known";
        return false;
    }
    if (!context_found(&w->p, pid) || w->p.id.pid != pid) { /* it may dial before the zygote has told of it */
        *ret_refusal = "no such process";
        return false;
    }
    if (w->p.conn)
        stk_conn_close(w->p.conn);
    w->p.conn = conn;
    w->interrupts = 0; /* those sent on the old connection: answered by the list of attempts */
    stk_conn_welcome(conn, &w->p);
    if (set && !w->set)
        w->set = stk_text_new(set, strlen(set));
    if (w->state == W_RETIRING || (state && strcmp(state, "retiring") == 0))
        worker_retire(w);
    else
        w->state = state && strcmp(state, "ready") == 0 ? W_READY : W_ATTACHING;
    job = w->job;
    if (job && job->sent && !job->settled && !lists_attempt(json_object_get(hello, "attempts"), job) &&
        !lists_attempt(json_object_get(hello, "results"), job)) {
        stk_info("worker", "attempt denied", "job", job->row.id, "process", w->p.id.process);
        if (job->row.state == STK_JOB_CANCELLING)
            cancel_worker_over(job);
        else
            job_requeue(job);
    } else if (job && job->row.state == STK_JOB_CANCELLING) {
        cancel_resume(job);
    }
    queue_dispatch(ctx);
    return true;
}

/* ---- end */

/* What the user looks for in the end of stderr. Python's fault handler ends its report with kilobytes of module names. */
static const char *last_words(char *tail)
{
    char *modules = tail ? strstr(tail, "\nExtension modules: ") : NULL;
    const char *start, *line;

    if (modules)
        modules[1] = '\0';
    if (!tail || strlen(tail) <= TAIL_BYTES)
        return tail;
    start = tail + strlen(tail) - TAIL_BYTES;
    line = strchr(start, '\n');
    if (line && line[1])
        return line + 1;
    while (((unsigned char)*start & 0xc0) == 0x80) /* not in the middle of a character */
        start++;
    return start;
}

/* The job that was in the hand of a worker that has ended. */
static void settle_orphan(struct job *job, json_t *exit)
{
    struct context *ctx = job->context;
    json_auto_t *done = spool_read(job->core, job->row.id, job->row.attempt);
    stk_auto_free char *tail = NULL;
    char path[96];

    job_detach(job);
    if (!done && !job->outcome)
        result_discard(job);
    if (job->row.state == STK_JOB_CANCELLING) {
        job->ended_itself = done != NULL; /* the spool file was written before the end */
        if (!job->outcome)
            job->outcome = json_incref(done);
        cancel_worker_exited(job, exit);
    } else if (done) {
        job_release(job);
        job_settle_done(job, done);
    } else if (!job->sent) {
        job_requeue(job);
    } else if (ctx->ending) {
        job_settle(job, STK_JOB_ERROR, stk_text_ref(ctx->jobs_error));
    } else {
        snprintf(path, sizeof path, "logs/%s.%d.stderr", job->row.id, job->row.attempt);
        tail = file_tail(job->core, path, 4 * TAIL_BYTES);
        job_settle(job, exit ? STK_JOB_ERROR : STK_JOB_LOST, failure_exit(exit, last_words(tail)));
    }
}

void worker_ack_exit(struct context *ctx, const char *process)
{
    if (ctx->zygote.conn)
        stk_conn_send_take(ctx->zygote.conn, json_pack("{s:s, s:s}", "type", "ack_exit", "process", process));
    spool_remove_exit(ctx->core, ctx->row.id, process);
}

/* Of a job whose end the disk has refused so far: until it is written, how the worker ended is all that a restart would have. */
static struct job *unrecorded_end(const struct worker *w)
{
    struct stk_core *core = w->p.context->core;

    for (struct job *job = w->unrecorded > 0 ? core->jobs : NULL; job; job = job->hh.next) {
        if (job->context == w->p.context && job->counted && job->sent &&
            strcmp(job->row.worker.process, w->p.id.process) == 0)
            return job;
    }
    return NULL;
}

void worker_exited(struct worker *w, json_t *exit)
{
    struct context *ctx = w->p.context;
    struct job *job = w->job;
    bool attached = w->state == W_READY || w->state == W_RETIRING || w->state == W_SILENT;
    bool refused = exit && !json_is_integer(json_object_get(exit, "pid")); /* there was no fork */
    json_auto_t *spooled = exit ? NULL : spool_read_exit(ctx->core, ctx->row.id, w->p.id.process);

    stk_info("worker", "ended", "context", ctx->row.id, "process", w->p.id.process, "job", job ? job->row.id : NULL);
    w->p.dead = true;
    if (job) {
        job->ack_exit = true;
        logs_keep(job, w->p.id.process);
        settle_orphan(job, exit ? exit : spooled);
    }
    if (!job || job->row.state == STK_JOB_QUEUED) {
        struct job *end = unrecorded_end(w);

        if (job)
            job->ack_exit = false; /* it goes on elsewhere */
        if (end)
            end->ack_exit = true;
        else
            worker_ack_exit(ctx, w->p.id.process);
    }
    if (w->p.known)
        stk_store_process_ended(ctx->core->store, ctx->row.id, w->p.id.process, NULL);
    if (ctx->keeper.conn)
        stk_conn_send_take(ctx->keeper.conn, json_pack("{s:s, s:s}", "type", "gone", "worker", w->p.id.process));
    worker_free(w);
    if (refused)
        ctx->no_fork_until_ms = stk_mono_ms() + NO_FORK_MS;
    else if (exit && !attached && !ctx->ending)
        count_failed_attach(
            ctx, context_log_error(ctx, "CONTEXT_FAILED", "workers of the context end before they are attached"));
    queue_dispatch(ctx);
    context_check_gone(ctx);
}
