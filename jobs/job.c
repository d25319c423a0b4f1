/* One job's life: from submit to its final row, and the commands that callers give. */
#include "live.h"

#include "stoker/clock.h"
#include "stoker/json.h"
#include "stoker/log.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum {
    RETRY_COMMIT_MS = 1000,
    ACCEPT_MS = 5000, /* for a job to be recorded */
    CONFIG_ESCAPED_MAX = 63 << 20, /* a `run` has at most 64 MiB */
};

struct job *job_find(struct stk_core *core, const char *id)
{
    struct job *job;

    HASH_FIND_STR(core->jobs, id, job);
    return job;
}

struct job *job_new(struct stk_core *core, struct context *ctx)
{
    struct job *job = calloc(1, sizeof *job);

    if (!job)
        return NULL;
    job->core = core;
    job->context = ctx;
    STAILQ_INIT(&job->accepted);
    STAILQ_INIT(&job->ended);
    ctx->n_jobs++;
    return job;
}

void job_free(struct job *job)
{
    struct context *ctx = job->context;

    assert(!job->worker && !job->queued && job->commits == 0);
    if (HASH_COUNT(job->core->jobs) && job_find(job->core, job->row.id) == job)
        HASH_DEL(job->core->jobs, job);
    stk_job_row_done(&job->row);
    json_decref(job->outcome);
    stk_timer_free(job->grace);
    stk_timer_free(job->retry);
    free(job);
    ctx->n_jobs--;
    context_check_gone(ctx);
}

/* A caller gets the row without its config, by reference. */
static void copy_row(struct stk_job_row *to, const struct stk_job_row *from)
{
    *to = *from;
    to->config = NULL;
    stk_text_ref(to->context_name);
    stk_text_ref(to->app);
    stk_text_ref(to->class_path);
    stk_text_ref(to->set);
    stk_text_ref(to->binaries);
    stk_text_ref(to->error);
    stk_text_ref(to->result);
    stk_text_ref(to->result_file);
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
    stk_log(to == STK_JOB_RUNNING ? STK_LOG_DEBUG : STK_LOG_INFO, "job", "moved", "job", job->row.id, "from",
            stk_job_state_name(from), "to", stk_job_state_name(to), "worker",
            job->row.worker.process[0] ? job->row.worker.process : NULL, NULL);
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
    job_release(job);
    queue_remove(job);
    stk_timer_free(job->grace);
    job->grace = NULL;
    job->settled = true;
    stk_text_unref(job->row.error);
    job->row.error = error_take;
    if (!job->row.ended_us)
        job->row.ended_us = stk_wall_us();
    job_move(job, to);
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

/* A name in results/ comes from a process that runs user code: it must not name anything else. */
static bool is_plain_name(const char *name)
{
    return name[0] && name[0] != '.' && !strchr(name, '/') && strlen(name) < 128;
}

/* false: what came is no result. It is checked because it came from a process that runs user code, and clients get it as it is. */
static bool take_result(struct job *job, json_t *done)
{
    const char *file = json_string_value(json_object_get(done, "result_file"));
    json_t *text = json_object_get(done, "result");

    if (json_is_string(text) && stk_json_valid(json_string_value(text), json_string_length(text))) {
        job->row.result = text_field(done, "result");
        job->row.result_bytes = (int64_t)stk_text_len(job->row.result);
        return true;
    }
    if (text || !file || !is_plain_name(file))
        return false;
    job->row.result_file = stk_text_new(file, strlen(file));
    job->row.result_bytes = json_integer_value(json_object_get(done, "result_bytes"));
    return true;
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

void job_settle_done(struct job *job, json_t *done)
{
    const char *outcome = json_string_value(json_object_get(done, "outcome"));
    json_t *error = json_object_get(done, "error");
    stk_auto_free char *text = json_is_object(error) ? json_dumps(error, JSON_COMPACT) : NULL;
    struct stk_text *failure = NULL;

    if (text) {
        replace_nul_escapes(text);
        failure = stk_text_new(text, strlen(text));
    }
    job->row.started_us = wall_us_field(done, "started", job->row.started_us);
    job->row.ended_us = wall_us_field(done, "ended", stk_wall_us());
    if (outcome && strcmp(outcome, "finished") == 0) {
        stk_text_unref(failure);
        if (take_result(job, done))
            job_settle(job, STK_JOB_FINISHED, NULL);
        else
            job_settle(job, STK_JOB_ERROR,
                       failure_text("RESULT_NOT_JSON", NULL, NULL, "the job's process sent a result that is not JSON"));
    } else if (outcome && strcmp(outcome, "invalid") == 0) {
        job_settle(job, STK_JOB_INVALID, failure);
    } else {
        if (!failure)
            failure = failure_text("USER_EXCEPTION", NULL, NULL, "the job failed without saying why");
        job_settle(job, STK_JOB_ERROR, failure);
    }
}

/* ---- commits come back */

static void answer_waiters(struct job *job, struct ticket_list *list, const struct stk_err *err);

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

    answer_waiters(job, &job->accepted, NULL);
    answer_waiters(job, &job->ended, NULL);
    if (w && w->p.conn && job->row.attempt > 0)
        stk_conn_send_take(
            w->p.conn, json_pack("{s:s, s:s, s:i}", "type", "ack", "job", job->row.id, "attempt", job->row.attempt));
    if (job->row.attempt > 0)
        spool_remove(job->core, job->row.id, job->row.attempt);
    if (job->ack_exit)
        worker_ack_exit(ctx, job->row.worker.process);
    job_free(job);
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
        return;
    }
    if (job->commits > 0)
        return; /* only the newest state counts */
    if (job->abandoned)
        job_free(job);
    else if (job->settled)
        finish(job);
    else if (job->row.state == STK_JOB_STARTING && !job->sent && job->worker)
        worker_send_run(job);
    else if (job->row.state == STK_JOB_QUEUED)
        context_check_gone(job->context); /* which may have waited for this row before it forgets its queue */
    else if (job->row.state == STK_JOB_CANCELLING && !job->sent)
        cancel_worker_over(job); /* cancelled between its assignment and this commit: it never started */
}

/* ---- submit */

struct submit {
    struct ticket t;
    struct stk_core *core;
    struct stk_job_row row; /* what the caller fills; then, under the ticket's lock, what it gets back */
    int64_t version;
    enum stk_job_wait wait;
};

static void free_submit(struct ticket *t)
{
    struct submit *s = (struct submit *)t;

    stk_job_row_done(&s->row);
    free(s);
}

static void publish_row(struct submit *s, const struct stk_job_row *row)
{
    pthread_mutex_lock(&s->t.lock);
    stk_job_row_done(&s->row);
    copy_row(&s->row, row);
    pthread_cond_signal(&s->t.cond); /* a caller whose time is over may wait for just this */
    pthread_mutex_unlock(&s->t.lock);
}

struct cancel_call {
    struct ticket t;
    struct stk_core *core;
    char id[STK_UUID_MAX];
    enum stk_job_state before;
    struct stk_job_row row;
};

/* Both operations that wait for a job have their row published in the same way. */
static void on_submit(struct stk_task *task);

static void answer_waiters(struct job *job, struct ticket_list *list, const struct stk_err *err)
{
    struct ticket *t;

    while ((t = STAILQ_FIRST(list))) {
        STAILQ_REMOVE_HEAD(list, link);
        if (t->task.run == on_submit) {
            publish_row((struct submit *)t, &job->row);
        } else {
            struct cancel_call *c = (struct cancel_call *)t;

            copy_row(&c->row, &job->row);
        }
        ticket_answer(t, err);
    }
}

static void has_arrived(struct job *job)
{
    if (job->arriving)
        job->context->n_arriving--;
    job->arriving = false;
}

static void on_submitted(void *arg, const struct stk_err *err)
{
    struct job *job = arg;
    struct context *ctx = job->context;
    struct ticket *t;

    job->commits--;
    has_arrived(job);
    if (err) {
        ticket_answer_all(&job->accepted, err);
        ticket_answer_all(&job->ended, err);
        queue_remove(job);
        job_release(job);
        job->abandoned = true;
        if (job->commits == 0)
            job_free(job);
        queue_dispatch(ctx);
        return;
    }
    STAILQ_FOREACH(t, &job->ended, link)
    {
        if (t->task.run == on_submit) /* a cancel may wait here too */
            publish_row((struct submit *)t, &job->row);
    }
    answer_waiters(job, &job->accepted, NULL);
    if (job->commits > 0)
        return;
    if (job->row.state == STK_JOB_QUEUED && ctx->ending && ctx->end_state != STK_CONTEXT_CREATING) {
        job_settle(job, STK_JOB_ERROR, stk_text_ref(ctx->jobs_error));
    } else if (job->row.state == STK_JOB_QUEUED) {
        queue_add(job);
        queue_dispatch(ctx);
        context_check_gone(ctx);
    } else if (job->row.state == STK_JOB_STARTING && job->worker) {
        worker_send_run(job);
    } else if (job->row.state == STK_JOB_CANCELLING) {
        cancel_worker_over(job);
    }
}

static struct context *accepting_context(struct submit *s, struct stk_err *err)
{
    struct context *ctx = context_find_active(s->core, stk_text_data(s->row.context_name));

    if (s->core->stopping) {
        stk_fail(err, STK_LIMIT, "the server is stopping");
        return NULL;
    }
    if (!ctx) {
        stk_fail(err, STK_NOT_FOUND, "context %s not found", stk_text_data(s->row.context_name));
        return NULL;
    }
    if (ctx->ending) {
        stk_fail(err, STK_CONFLICT, "Context stop in progress");
        return NULL;
    }
    return ctx;
}

/* Straight to a free worker, so that the row is written once, as STARTING; else there must be room in the queue. */
static int take_place(struct job *job, struct stk_err *err)
{
    struct context *ctx = job->context;
    int waiting = ctx->n_queued + ctx->n_arriving;

    if (waiting == 0 && queue_assign(job))
        return 0;
    if (waiting >= job->core->o.max_queue)
        return stk_fail(err, STK_LIMIT, "Too many waiting jobs (%d) for job context '%s'", waiting,
                        stk_text_data(ctx->row.name));
    job->arriving = true;
    ctx->n_arriving++;
    return 0;
}

static void on_submit(struct stk_task *task)
{
    struct submit *s = (struct submit *)task;
    struct stk_err err;
    struct context *ctx = accepting_context(s, &err);
    struct job *job;

    if (!ctx) {
        ticket_answer(&s->t, &err);
        return;
    }
    job = job_new(s->core, ctx);
    if (!job) {
        stk_fail(&err, STK_INTERNAL, "out of memory");
        ticket_answer(&s->t, &err);
        return;
    }
    copy_row(&job->row, &s->row);
    job->row.config = stk_text_ref(s->row.config);
    memcpy(job->row.context_id, ctx->row.id, sizeof job->row.context_id);
    job->row.submitted_us = stk_wall_us();
    job->row.state = STK_JOB_QUEUED;
    HASH_ADD_STR(s->core->jobs, row.id, job);
    if (take_place(job, &err) < 0 ||
        stk_store_job_submitted(s->core->store, &job->row, &s->version, 1, on_submitted, job, &err) < 0) {
        has_arrived(job);
        job_release(job);
        job_free(job);
        ticket_answer(&s->t, &err);
        return;
    }
    job->commits++;
    if (s->wait == STK_WAIT_FINAL)
        STAILQ_INSERT_TAIL(&job->ended, &s->t, link);
    else
        STAILQ_INSERT_TAIL(&job->accepted, &s->t, link);
}

static struct stk_text *binaries_text(const struct stk_binary_row *b)
{
    json_auto_t *list = json_pack("[{s:s, s:I, s:s, s:s}]", "name", stk_text_data(b->name), "version",
                                  (json_int_t)b->version, "digest", b->digest, "type", stk_binary_type_name(b->type));
    stk_auto_free char *text = list ? json_dumps(list, JSON_COMPACT) : NULL;

    return text ? stk_text_new(text, strlen(text)) : NULL;
}

/* The config travels as a string inside a frame, whose length PROTOCOL.md limits. */
static size_t escaped_len(const char *text, size_t len)
{
    size_t n = 0;

    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];

        n += c < 0x20 || c == 0x7f ? 6 : c == '"' || c == '\\' ? 2 : 1;
    }
    return n;
}

static struct submit *submit_new(struct stk_core *core, const struct stk_job_spec *spec, const struct stk_binary_row *b)
{
    struct submit *s = calloc(1, sizeof *s);

    if (!s)
        return NULL;
    ticket_init(&s->t, on_submit, free_submit);
    s->core = core;
    s->version = b->version;
    stk_uuid(s->row.id);
    s->row.context_name = stk_text_new(spec->context, strlen(spec->context));
    s->row.app = stk_text_new(spec->app, strlen(spec->app));
    s->row.class_path = stk_text_new(spec->class_path, strlen(spec->class_path));
    s->row.config = stk_text_new(spec->config, spec->config_len);
    s->row.set = stk_text_new(b->digest, strlen(b->digest)); /* a set of one is named by its digest */
    s->row.binaries = binaries_text(b);
    if (s->row.context_name && s->row.app && s->row.class_path && s->row.config && s->row.set && s->row.binaries)
        return s;
    atomic_store(&s->t.refs, 1);
    ticket_unref(&s->t);
    return NULL;
}

/* However short the caller's time is: who does not learn the id would start the job again. */
static void wait_for_record(struct submit *s)
{
    struct timespec deadline = stk_mono_deadline(ACCEPT_MS);

    pthread_mutex_lock(&s->t.lock);
    while (!s->row.submitted_us && !s->t.answered &&
           pthread_cond_timedwait(&s->t.cond, &s->t.lock, &deadline) == 0)
        ;
    pthread_mutex_unlock(&s->t.lock);
}

int stk_job_submit(struct stk_core *core, const struct stk_job_spec *spec, enum stk_job_wait wait, int64_t timeout_ms,
                   struct stk_job_row *ret, struct stk_err *err)
{
    struct stk_binary_row b = { 0 };
    struct submit *s;
    int rc;

    *ret = (struct stk_job_row){ 0 };
    if (escaped_len(spec->config, spec->config_len) > CONFIG_ESCAPED_MAX)
        return stk_fail(err, STK_INVALID, "the config is too long: it may have %d bytes as a JSON string", CONFIG_ESCAPED_MAX);
    if (stk_store_binary_get(core->store, spec->app, &b, err) < 0) {
        if (err && err->code == STK_NOT_FOUND)
            stk_fail(err, STK_NOT_FOUND, "appName %s not found", spec->app);
        return -1;
    }
    s = submit_new(core, spec, &b);
    stk_binary_row_done(&b);
    if (!s)
        return stk_fail(err, STK_INTERNAL, "out of memory");
    s->wait = wait;
    if (!ticket_call(&s->t, core->loop, timeout_ms))
        wait_for_record(s);
    pthread_mutex_lock(&s->t.lock);
    if (s->t.answered) {
        rc = s->t.rc;
        if (rc < 0 && err)
            *err = s->t.err;
    } else {
        rc = stk_fail(err, STK_TIMEOUT, "not finished within %lld ms", (long long)timeout_ms);
    }
    if (s->row.submitted_us) /* recorded */
        copy_row(ret, &s->row);
    pthread_mutex_unlock(&s->t.lock);
    ticket_unref(&s->t);
    return rc;
}

/* ---- cancel */

static void free_cancel(struct ticket *t)
{
    struct cancel_call *c = (struct cancel_call *)t;

    stk_job_row_done(&c->row);
    free(c);
}

static void on_cancel(struct stk_task *task)
{
    struct cancel_call *c = (struct cancel_call *)task;
    struct job *job = job_find(c->core, c->id);
    struct stk_err err;

    if (!job) {
        stk_fail(&err, STK_NOT_FOUND, "it has ended");
        ticket_answer(&c->t, &err);
        return;
    }
    if (c->core->leaving) {
        stk_fail(&err, STK_LIMIT, "the server is stopping");
        ticket_answer(&c->t, &err);
        return;
    }
    c->before = job->row.state;
    STAILQ_INSERT_TAIL(&job->ended, &c->t, link);
    if (!job->settled)
        cancel_begin(job, CANCEL_USER);
}

int stk_job_cancel(struct stk_core *core, const char *id, int64_t timeout_ms, enum stk_job_state *ret_before,
                   struct stk_job_row *ret, struct stk_err *err)
{
    struct cancel_call *c;
    int rc = 0;

    *ret = (struct stk_job_row){ 0 };
    if (strlen(id) >= STK_UUID_MAX)
        return stk_fail(err, STK_NOT_FOUND, "no such job");
    c = calloc(1, sizeof *c);
    if (!c)
        return stk_fail(err, STK_INTERNAL, "out of memory");
    ticket_init(&c->t, on_cancel, free_cancel);
    c->core = core;
    memcpy(c->id, id, strlen(id) + 1);
    if (!ticket_call(&c->t, core->loop, timeout_ms)) {
        rc = stk_fail(err, STK_TIMEOUT, "the job is being cancelled");
    } else if (c->t.rc == 0) {
        *ret_before = c->before;
        copy_row(ret, &c->row);
    } else if (c->t.err.code != STK_NOT_FOUND) {
        rc = -1;
        if (err)
            *err = c->t.err;
    } else { /* not alive: it has ended, or never was */
        rc = stk_store_job_get(core->store, id, ret, err);
        if (rc == 0)
            *ret_before = ret->state;
    }
    ticket_unref(&c->t);
    return rc;
}

/* ---- reads */

int stk_job_get(struct stk_core *core, const char *id, struct stk_job_row *ret, struct stk_err *err)
{
    return stk_store_job_get(core->store, id, ret, err);
}

int stk_job_config(struct stk_core *core, const char *id, struct stk_text **ret, struct stk_err *err)
{
    return stk_store_job_config(core->store, id, ret, err);
}

int stk_job_list(struct stk_core *core, const struct stk_job_filter *filter, struct stk_job_row **ret, size_t *ret_n,
                 struct stk_err *err)
{
    return stk_store_job_list(core->store, filter, ret, ret_n, err);
}

int stk_job_open_result(struct stk_core *core, const struct stk_job_row *row, uint64_t *ret_len, struct stk_err *err)
{
    stk_auto_fd fd = -1;
    struct stat st;
    char path[160];

    if (!row->result_file || !is_plain_name(stk_text_data(row->result_file)))
        return stk_fail(err, STK_NOT_FOUND, "the job has no result file");
    snprintf(path, sizeof path, "results/%s", stk_text_data(row->result_file));
    fd = openat(core->o.state_dir_fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) < 0)
        return stk_fail_sys(err, errno, "%s", path);
    if (!S_ISREG(st.st_mode) || st.st_size == 0)
        return stk_fail(err, STK_INTERNAL, "%s holds no result", path);
    *ret_len = (uint64_t)st.st_size;
    return stk_steal_fd(&fd);
}
