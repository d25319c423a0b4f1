/*
 * The start of the server: what an earlier one left is adopted by record or settled. A process counts as dead only when its
 * pid, start time and boot id say so; a live one is waited for, however long it stays silent, since a job inside a C call cannot dial.
 *
 *     zygote alive                     adopted; it, the keeper and the workers dial in by themselves
 *     zygote dead, context CREATING    what is left of it is killed, then it is started anew
 *     STOPPING                         it goes on being stopped; if that was by the stop of a server, it is started anew for its jobs
 *     zygote dead, otherwise           the context is LOST; its jobs get what the spool has, else LOST
 */
#include "live.h"

#include "stoker/log.h"

#include <assert.h>
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

static void adopt_process(struct context *ctx, const struct stk_process_row *row)
{
    struct process *p = strcmp(row->role, "zygote") == 0   ? &ctx->zygote
                        : strcmp(row->role, "keeper") == 0 ? &ctx->keeper
                        : strcmp(row->role, "jvm") == 0    ? &ctx->jvm
                                                           : NULL;

    if (!p) {
        worker_adopt(ctx, &row->id);
        return;
    }
    p->id = row->id;
    context_watch(p);
}

static int adopt_context(struct stk_core *core, struct stk_context_row *row_take, struct stk_err *err)
{
    struct context *ctx = context_new(core);

    if (!ctx)
        return stk_fail(err, STK_INTERNAL, "out of memory");
    ctx->row = *row_take;
    *row_take = (struct stk_context_row){ 0 };
    context_read_spec(ctx);
    HASH_ADD_STR(core->contexts, row.id, ctx);
    return 0;
}

/* A job whose context is not alive any more: a context's last row comes after those of its jobs, so only damage leaves one. */
static void settle_stray(struct stk_core *core, struct stk_job_row *row)
{
    row->state = STK_JOB_LOST;
    row->error = failure_text("LOST", NULL, NULL, "the job's context %s is not there any more",
                              stk_text_data(row->context_name));
    row->ended_us = row->started_us ? row->started_us : row->submitted_us;
    stk_store_job_moved(core->store, row, NULL, NULL, NULL);
    meter_job_ended(&core->meters, row);
}

/*
 * Two jobs in one worker's hand: a full disk refused the end of the one and took the start of the other, which therefore was never
 * sent (worker_send_run()).
 */
static void put_back(struct job *job)
{
    stk_info("recover", "was not sent to its worker", "job", job->row.id);
    job->sent = false;
    if (job->row.state == STK_JOB_CANCELLING)
        cancel_worker_over(job);
    else
        job_requeue(job);
}

static int adopt_job(struct stk_core *core, struct stk_job_row *row_take, struct stk_err *err)
{
    struct context *ctx = context_find(core, row_take->context_id);
    struct worker *w;
    struct job *job;

    if (!ctx) {
        settle_stray(core, row_take);
        return 0;
    }
    if (!(job = job_new(core, ctx)))
        return stk_fail(err, STK_INTERNAL, "out of memory");
    job->row = *row_take;
    *row_take = (struct stk_job_row){ 0 };
    HASH_ADD_STR(core->jobs, row.id, job);
    job_tally(job);
    job->arrival = ++core->arrivals;
    if (job->row.state == STK_JOB_QUEUED) {
        queue_add(job);
        job_set_clock(job);
        return 0;
    }
    w = worker_find(ctx, job->row.worker.process);
    if (!w && !(w = worker_adopt(ctx, &job->row.worker)))
        return stk_fail(err, STK_INTERNAL, "out of memory");
    if (job->row.state == STK_JOB_CANCELLING)
        receipt_resume(job);
    if (w->job && w->job->row.started_us > job->row.started_us)
        put_back(w->job);
    if (w->job) {
        put_back(job);
        return 0;
    }
    job_take(job, w);
    stk_text_unref(w->set);
    w->set = stk_text_ref(job->row.set);
    job->sent = true; /* perhaps; its worker's hello tells */
    if (job->row.state == STK_JOB_STARTING || job->row.state == STK_JOB_RUNNING) {
        job->row.state = STK_JOB_RUNNING;
        job_tally(job);
        job_set_clock(job);
    }
    return 0;
}

/* Not by its user: by an earlier server, which was stopped and died before the context was down. Jobs wait for it. */
static bool stopped_with_server(const struct context *ctx)
{
    return failure_is(ctx->row.error, "SERVER_STOPPED");
}

static void resume(struct context *ctx)
{
    bool zygote_alive = ctx->zygote.known && !ctx->zygote.dead;

    stk_info("recover", zygote_alive ? "context adopted" : "context has no processes", "context", ctx->row.id, "name",
             stk_text_data(ctx->row.name), "state", stk_context_state_name(ctx->row.state));
    if (ctx->row.state == STK_CONTEXT_RUNNING && !warm_is(ctx))
        context_set_clock(ctx);
    if (ctx->row.state == STK_CONTEXT_STOPPING)
        context_end(ctx, stopped_with_server(ctx) ? STK_CONTEXT_CREATING : STK_CONTEXT_STOPPED, NULL, !zygote_alive);
    else if (!zygote_alive && ctx->row.state == STK_CONTEXT_CREATING)
        context_restart(ctx);
    else if (!zygote_alive)
        context_end(ctx, STK_CONTEXT_LOST,
                    context_log_error(ctx, "CONTEXT_LOST", "the context's processes ended while the server was away"),
                    true);
}

/* Directories of contexts that ended while no server was there to remove them. */
void contexts_sweep(struct stk_core *core, time_t older_than_s)
{
    struct stat st;
    int fd = openat(core->o.state_dir_fd, "contexts", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    struct dirent *e;

    if (!dir)
        return;
    while ((e = readdir(dir))) {
        if (e->d_name[0] != '.' && strlen(e->d_name) < STK_UUID_MAX && !context_find(core, e->d_name) &&
            fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && time(NULL) - st.st_mtime >= older_than_s)
            context_dir_remove(core, e->d_name, NULL, NULL);
    }
    closedir(dir);
}

int stk_core_recover(struct stk_core *core, struct stk_err *err)
{
    struct stk_context_row *contexts = NULL;
    struct stk_job_row *jobs = NULL;
    stk_auto_free struct stk_process_row *processes = NULL;
    size_t n_contexts = 0, n_jobs = 0, n_processes = 0;
    struct context *ctx, *tmp;
    int rc = 0;

    if (stk_store_live_contexts(core->store, &contexts, &n_contexts, err) < 0 ||
        stk_store_live_processes(core->store, &processes, &n_processes, err) < 0 ||
        stk_store_live_jobs(core->store, &jobs, &n_jobs, err) < 0)
        rc = -1;
    for (size_t i = 0; rc == 0 && i < n_contexts; i++)
        rc = adopt_context(core, &contexts[i], err);
    for (size_t i = 0; rc == 0 && i < n_processes; i++) {
        ctx = context_find(core, processes[i].context_id);
        if (ctx)
            adopt_process(ctx, &processes[i]);
        else /* its context has ended: then so has it */
            stk_store_process_ended(core->store, processes[i].context_id, processes[i].id.process, NULL);
    }
    for (size_t i = 0; rc == 0 && i < n_jobs; i++)
        rc = adopt_job(core, &jobs[i], err);
    stk_context_rows_free(contexts, n_contexts);
    stk_job_rows_free(jobs, n_jobs);
    if (rc < 0)
        return -1;
    contexts_sweep(core, 0);
    spool_sweep(core);
    HASH_ITER(hh, core->contexts, ctx, tmp)
        resume(ctx);
    return 0;
}
