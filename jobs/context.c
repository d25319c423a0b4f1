/* One context's life: zygote, keeper and JVM, from create to the last row. */
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

enum { KILL_AFTER_MS = 3000, RETRY_COMMIT_MS = 1000, TAIL_BYTES = 4096 };

struct context *context_find(struct stk_core *core, const char *id)
{
    struct context *ctx;

    HASH_FIND_STR(core->contexts, id, ctx);
    return ctx;
}

struct context *context_find_active(struct stk_core *core, const char *name)
{
    for (struct context *ctx = core->contexts; ctx; ctx = ctx->hh.next) {
        if (!ctx->closed && strcmp(stk_text_data(ctx->row.name), name) == 0)
            return ctx;
    }
    return NULL;
}

static void on_deadline(void *arg);

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
    if (!ctx->timer) {
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
    core->n_contexts++;
    return ctx;
}

static void context_free(struct context *ctx)
{
    struct stk_core *core = ctx->core;

    HASH_DEL(core->contexts, ctx);
    stk_timer_free(ctx->timer);
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

static void context_move(struct context *ctx, enum stk_context_state to)
{
    enum stk_context_state from = ctx->row.state;

    assert(stk_context_may_move(from, to));
    ctx->row.state = to;
    if (stk_context_is_final(to))
        ctx->row.ended_us = stk_wall_us();
    stk_info("context", "moved", "context", ctx->row.id, "name", stk_text_data(ctx->row.name), "from",
             stk_context_state_name(from), "to", stk_context_state_name(to));
    write_down(ctx);
}

/* ---- processes */

static void on_process_ended(void *arg)
{
    struct process *p = arg;
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
                    context_log_error(ctx, starting ? "CONTEXT_FAILED" : "CONTEXT_LOST", "the context's zygote process has ended"),
                    true);
    }
    context_check_gone(ctx);
}

void context_watch(struct process *p)
{
    struct stk_err err;

    p->known = true;
    stk_watch_free(p->watch);
    p->watch = stk_watch_new(p->context->core->loop, &p->id, on_process_ended, p, &err);
    if (!p->watch)
        p->dead = true;
}

void context_close_process(struct process *p)
{
    if (p->conn)
        stk_conn_close(p->conn);
    p->conn = NULL;
    stk_watch_free(p->watch);
    p->watch = NULL;
}

static void kill_process(struct process *p)
{
    if (p->watch)
        stk_watch_kill(p->watch, SIGKILL);
}

void context_kill(struct context *ctx)
{
    struct worker *w;

    kill_process(&ctx->zygote); /* keeper and workers follow it by their parent-death signal; they are named all the same */
    kill_process(&ctx->keeper);
    kill_process(&ctx->jvm);
    LIST_FOREACH(w, &ctx->workers, link) kill_process(&w->p);
}

static void on_deadline(void *arg)
{
    struct context *ctx = arg;

    if (ctx->closed) {
        write_down(ctx); /* its last row did not fit on the disk */
        return;
    }
    stk_warn("context", "not stopped in time, killing its processes", "context", ctx->row.id);
    context_kill(ctx);
    context_check_gone(ctx);
    if (!ctx->closed)
        stk_timer_set(ctx->timer, KILL_AFTER_MS);
}

/* ---- start */

static char *env_pair(const char *name, const char *value)
{
    char *pair;

    return asprintf(&pair, "%s=%s", name, value) < 0 ? NULL : pair;
}

/* Our environment with some variables set anew; NULL when out of memory. */
static char **make_env(struct context *ctx)
{
    struct stk_core *core = ctx->core;
    const char *set[][2] = {
        { "STOKER_STATE_DIR", core->o.state_dir }, { "STOKER_CONTEXT", ctx->row.id }, { "PYTHONPATH", core->o.runner_dir },
        { "PYTHONHASHSEED", "0" },                 { "PYSPARK_PYTHON", core->o.python }, { "PYSPARK_DRIVER_PYTHON", core->o.python },
        { "JAVA_HOME", core->o.java_home },
    };
    size_t n = 0, inherited = 0;
    char **env;

    while (environ[inherited])
        inherited++;
    env = calloc(inherited + STK_LEN(set) + 1, sizeof *env);
    if (!env)
        return NULL;
    for (size_t i = 0; i < STK_LEN(set); i++) {
        if (set[i][1] && *set[i][1])
            env[n++] = env_pair(set[i][0], set[i][1]);
    }
    for (size_t i = 0; i < inherited; i++) {
        bool ours = false;

        for (size_t j = 0; j < n; j++)
            ours |= env[j] && strncmp(env[j], environ[i], strcspn(env[j], "=") + 1) == 0;
        if (!ours)
            env[n++] = strdup(environ[i]);
    }
    return env;
}

static void free_env(char **env)
{
    for (size_t i = 0; env && env[i]; i++)
        free(env[i]);
    free(env);
}

int context_launch(struct context *ctx, struct stk_err *err)
{
    struct stk_core *core = ctx->core;
    const char *argv[] = { core->o.python, "-m", "stoker_runner.zygote", NULL };
    char dir[64], log[80];
    stk_auto_free char *cwd = NULL;
    stk_auto_fd log_fd = -1;
    char **env;
    int rc;

    snprintf(dir, sizeof dir, "contexts/%s", ctx->row.id);
    snprintf(log, sizeof log, "%s/context.log", dir);
    log_fd = openat(core->o.state_dir_fd, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_fd < 0)
        return stk_fail_sys(err, errno, "%s", log);
    env = make_env(ctx);
    if (!env || asprintf(&cwd, "%s/%s", core->o.state_dir, dir) < 0) {
        free_env(env);
        return stk_fail(err, STK_INTERNAL, "out of memory");
    }
    rc = stk_runner_spawn(core->runner,
                          &(struct stk_spawn){ .file = core->o.python, .argv = argv, .envp = (const char *const *)env, .cwd = cwd,
                                               .log_fd = log_fd },
                          &ctx->zygote.id, err);
    free_env(env);
    if (rc < 0)
        return -1;
    context_watch(&ctx->zygote);
    stk_info("context", "zygote started", "context", ctx->row.id, "name", stk_text_data(ctx->row.name));
    return stk_store_process_started(core->store, ctx->row.id, "zygote", &ctx->zygote.id, err);
}

static void fork_keeper(struct context *ctx)
{
    ctx->keeper_forked = true;
    stk_conn_send_take(ctx->zygote.conn, json_pack("{s:s, s:s, s:s}", "type", "fork", "process", "k", "role", "keeper"));
}

static void launch_or_fail(struct context *ctx)
{
    struct stk_err err;

    if (!ctx->ending && context_launch(ctx, &err) < 0)
        context_end(ctx, STK_CONTEXT_FAILED, failure_text("CONTEXT_FAILED", NULL, NULL, "%s", err.msg), true);
}

struct stk_text *context_log_error(struct context *ctx, const char *code, const char *what)
{
    char path[80];
    stk_auto_free char *tail = NULL;

    snprintf(path, sizeof path, "contexts/%s/context.log", ctx->row.id);
    tail = file_tail(ctx->core, path, TAIL_BYTES);
    return failure_text(code, "log_tail", tail, "%s", what);
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

static void tell_zygote_to_stop(struct context *ctx, int64_t grace_ms)
{
    if (ctx->zygote.conn)
        stk_conn_send_take(ctx->zygote.conn, json_pack("{s:s, s:I}", "type", "stop", "grace_ms", (json_int_t)grace_ms));
    stk_timer_set(ctx->timer, grace_ms + KILL_AFTER_MS);
}

static struct stk_text *error_of_jobs(struct context *ctx, enum stk_context_state state)
{
    const char *name = stk_text_data(ctx->row.name);

    if (ctx->core->stopping)
        return failure_text("SERVER_STOPPED", NULL, NULL, "the server was stopped while the job ran");
    if (state == STK_CONTEXT_STOPPED)
        return failure_text("CONTEXT_STOPPED", NULL, NULL, "Context (%s) for this job was terminated", name);
    return failure_text("CONTEXT_LOST", NULL, NULL, "Unexpected termination of context %s", name);
}

/*
 * Begins the end. state: what it will be when its processes are gone; error_take: why, for FAILED and LOST. now: nothing is asked any more,
 * its processes are killed. A second call can only make it faster.
 */
void context_end(struct context *ctx, enum stk_context_state state, struct stk_text *error_take, bool now)
{
    if (!ctx->ending) {
        ctx->ending = true;
        ctx->end_state = state;
        ctx->row.error = stk_text_ref(error_take);
        ctx->jobs_error = error_of_jobs(ctx, state);
        if ((state == STK_CONTEXT_STOPPED || state == STK_CONTEXT_CREATING) && ctx->row.state != STK_CONTEXT_STOPPING)
            context_move(ctx, STK_CONTEXT_STOPPING);
        if (state != STK_CONTEXT_CREATING)
            fail_queued_jobs(ctx);
        tell_zygote_to_stop(ctx, now ? 0 : ctx->core->o.stop_grace_ms);
    } else if (now) {
        tell_zygote_to_stop(ctx, 0);
    }
    stk_text_unref(error_take);
    if (now && !ctx->zygote.conn)
        context_kill(ctx);
    context_check_gone(ctx);
}

/* Its processes are gone: nobody will answer for these jobs any more. */
static void settle_what_ran(struct context *ctx)
{
    struct worker *w;
    struct job *job, *tmp;

    while ((w = LIST_FIRST(&ctx->workers)))
        worker_exited(w, NULL);
    HASH_ITER(hh, ctx->core->jobs, job, tmp)
    {
        if (job->context == ctx && !job->settled && job->row.state == STK_JOB_CANCELLING)
            cancel_keeper_over(job); /* Spark is gone, and with it all that the job had there */
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

static bool is_alive(const struct process *p)
{
    return p->known && !p->dead;
}

static void on_dir_removed(void *arg)
{
    struct context *ctx = arg;

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
        alive |= w->p.watch != NULL;
        kill_process(&w->p);
    }
    if (alive)
        return;
    ctx->closed = true; /* settling comes back here */
    settle_what_ran(ctx);
    ctx->closed = false;
    if (ctx->end_state == STK_CONTEXT_CREATING && ctx->core->stopping)
        forget_queue(ctx);
    staying = ctx->end_state == STK_CONTEXT_CREATING && !ctx->core->stopping ? ctx->n_queued : 0;
    if (ctx->n_jobs > staying)
        return; /* the last of them comes back here */
    ctx->closed = true;
    context_close_process(&ctx->zygote);
    context_close_process(&ctx->keeper);
    context_close_process(&ctx->jvm);
    stk_timer_clear(ctx->timer);
    if (ctx->end_state == STK_CONTEXT_CREATING)
        context_move(ctx, ctx->end_state);
    else
        context_dir_remove(ctx->core, ctx->row.id, on_dir_removed, ctx); /* first, so that "stopped" means that nothing is left */
}

static void restart(struct context *ctx)
{
    stk_store_process_ended(ctx->core->store, ctx->row.id, "k", NULL); /* or the next start would take it for the new one's */
    stk_store_process_ended(ctx->core->store, ctx->row.id, "jvm", NULL);
    ctx->ending = ctx->closed = ctx->keeper_forked = false;
    ctx->failed_attaches = 0;
    stk_text_unref(ctx->jobs_error);
    ctx->jobs_error = NULL;
    process_init(&ctx->zygote, ctx, ROLE_ZYGOTE, "z");
    process_init(&ctx->keeper, ctx, ROLE_KEEPER, "k");
    process_init(&ctx->jvm, ctx, ROLE_JVM, "jvm");
    launch_or_fail(ctx);
}

void context_restart(struct context *ctx)
{
    context_end(ctx, STK_CONTEXT_CREATING, NULL, true);
}

/* Callers that waited for a create get the cause with the error. */
struct create {
    struct ticket t;
    struct stk_core *core;
    struct stk_context_row row;
};

static void copy_row(struct stk_context_row *to, const struct stk_context_row *from)
{
    *to = *from;
    to->spec = NULL;
    stk_text_ref(to->name);
    stk_text_ref(to->application_id);
    stk_text_ref(to->ui_url);
    stk_text_ref(to->error);
}

static void answer_creators(struct context *ctx, const struct stk_err *err)
{
    struct ticket *t;

    STAILQ_FOREACH(t, &ctx->creators, link)
    {
        struct create *c = (struct create *)t;

        pthread_mutex_lock(&t->lock);
        stk_context_row_done(&c->row);
        copy_row(&c->row, &ctx->row);
        pthread_mutex_unlock(&t->lock);
    }
    ticket_answer_all(&ctx->creators, err);
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
    answer_creators(ctx, &err);
    ticket_answer_all(&ctx->stoppers, NULL);
    context_free(ctx);
}

static void on_committed(void *arg, const struct stk_err *err)
{
    struct context *ctx = arg;

    ctx->commits--;
    if (err) {
        stk_error("context", "transition not written, will be tried again", "context", ctx->row.id, "why", err->msg);
        if (ctx->closed)
            stk_timer_set(ctx->timer, RETRY_COMMIT_MS);
        return;
    }
    if (ctx->commits > 0)
        return;
    if (ctx->closed)
        finish(ctx);
    else if (ctx->row.state == STK_CONTEXT_RUNNING)
        answer_creators(ctx, NULL);
}

/* ---- messages of zygote and keeper */

static bool known_worker_pid(struct worker *w, json_t *msg)
{
    w->p.id.pid = (pid_t)json_integer_value(json_object_get(msg, "pid"));
    return stk_process_identify(w->p.id.pid, &w->p.id, NULL) == 0;
}

static void record_process(struct process *p, const char *role)
{
    stk_store_process_started(p->context->core->store, p->context->row.id, role, &p->id, NULL);
}

static void on_forked(struct context *ctx, json_t *msg)
{
    const char *process = json_string_value(json_object_get(msg, "process"));
    struct worker *w;

    if (process && strcmp(process, "k") == 0) {
        if (!ctx->keeper.known && stk_process_identify((pid_t)json_integer_value(json_object_get(msg, "pid")), &ctx->keeper.id, NULL) == 0) {
            record_process(&ctx->keeper, "keeper");
            context_watch(&ctx->keeper);
        }
        return;
    }
    w = process ? worker_find(ctx, process) : NULL;
    if (!w || w->p.known || !known_worker_pid(w, msg))
        return; /* gone already: its `exited` follows */
    record_process(&w->p, "worker");
    context_watch(&w->p);
    if (w->state == W_FORKING)
        w->state = W_ATTACHING;
}

static void keeper_is_gone(struct context *ctx, json_t *exit)
{
    bool starting = ctx->row.state == STK_CONTEXT_CREATING;
    json_t *sig = json_object_get(exit, "signal");
    char what[120];

    ctx->keeper.dead = true;
    stk_store_process_ended(ctx->core->store, ctx->row.id, "k", NULL);
    if (ctx->zygote.conn)
        stk_conn_send_take(ctx->zygote.conn, json_pack("{s:s, s:s}", "type", "ack_exit", "process", "k"));
    spool_remove_exit(ctx->core, ctx->row.id, "k");
    if (!ctx->ending) {
        if (json_is_integer(sig))
            snprintf(what, sizeof what, "the keeper process of the context was ended by signal %d", (int)json_integer_value(sig));
        else
            snprintf(what, sizeof what, "the keeper process of the context has ended with status %d",
                     (int)json_integer_value(json_object_get(exit, "status")));
        context_end(ctx, starting ? STK_CONTEXT_FAILED : STK_CONTEXT_LOST,
                    context_log_error(ctx, starting ? "CONTEXT_FAILED" : "CONTEXT_LOST", what), false);
    }
    context_check_gone(ctx);
}

static void on_exited(struct context *ctx, json_t *msg)
{
    const char *process = json_string_value(json_object_get(msg, "process"));
    struct worker *w = process ? worker_find(ctx, process) : NULL;

    if (w)
        worker_exited(w, msg);
    else if (process && strcmp(process, "k") == 0)
        keeper_is_gone(ctx, msg);
    else if (process)
        stk_conn_send_take(ctx->zygote.conn, json_pack("{s:s, s:s}", "type", "ack_exit", "process", process));
}

static void on_started(struct context *ctx, json_t *msg)
{
    const char *app = json_string_value(json_object_get(msg, "application_id"));
    const char *ui = json_string_value(json_object_get(msg, "ui_url"));
    pid_t jvm = (pid_t)json_integer_value(json_object_get(msg, "jvm_pid"));

    if (!ctx->jvm.known && stk_process_identify(jvm, &ctx->jvm.id, NULL) == 0) {
        record_process(&ctx->jvm, "jvm");
        context_watch(&ctx->jvm);
    }
    if (ctx->ending || ctx->row.state != STK_CONTEXT_CREATING)
        return;
    ctx->row.application_id = app ? stk_text_new(app, strlen(app)) : NULL;
    ctx->row.ui_url = ui ? stk_text_new(ui, strlen(ui)) : NULL;
    context_move(ctx, STK_CONTEXT_RUNNING);
    queue_dispatch(ctx); /* and the first spare worker */
}

static void on_broken(struct context *ctx, json_t *msg)
{
    json_t *error = json_object_get(msg, "error");
    stk_auto_free char *text = json_is_object(error) ? json_dumps(error, JSON_COMPACT) : NULL;

    if (ctx->ending)
        return;
    context_end(ctx, ctx->row.state == STK_CONTEXT_CREATING ? STK_CONTEXT_FAILED : STK_CONTEXT_LOST,
                text ? stk_text_new(text, strlen(text)) : context_log_error(ctx, "CONTEXT_FAILED", "Spark could not be started"), false);
}

static void on_admitted(struct context *ctx, json_t *msg)
{
    const char *process = json_string_value(json_object_get(msg, "worker"));
    struct worker *w = process ? worker_find(ctx, process) : NULL;

    if (!w || w->state != W_ADMITTING || !ctx->zygote.conn)
        return;
    w->state = W_FORKING;
    stk_conn_send_take(ctx->zygote.conn,
                       json_pack("{s:s, s:s, s:s, s:{s:O, s:O}}", "type", "fork", "process", process, "role", "worker", "gateway",
                                 "port", json_object_get(msg, "port"), "secret", json_object_get(msg, "secret")));
}

static void on_cancelled(struct context *ctx, json_t *msg)
{
    const char *id = json_string_value(json_object_get(msg, "job"));
    struct job *job = id ? job_find(ctx->core, id) : NULL;

    if (job && job->row.state == STK_JOB_CANCELLING && json_integer_value(json_object_get(msg, "attempt")) == job->row.attempt)
        cancel_keeper_over(job);
}

bool context_message(struct process *p, const char *type, json_t *msg)
{
    static const struct {
        enum role role;
        const char *type;
        void (*fn)(struct context *ctx, json_t *msg);
    } handlers[] = {
        { ROLE_ZYGOTE, "forked", on_forked },   { ROLE_ZYGOTE, "exited", on_exited },     { ROLE_KEEPER, "started", on_started },
        { ROLE_KEEPER, "failed", on_broken },   { ROLE_KEEPER, "ended", on_broken },      { ROLE_KEEPER, "admitted", on_admitted },
        { ROLE_KEEPER, "cancelled", on_cancelled },
    };

    if (p->role == ROLE_KEEPER && strcmp(type, "phase") == 0) {
        stk_info("context", "phase", "context", p->context->row.id, "phase", json_string_value(json_object_get(msg, "phase")));
        return true;
    }
    for (size_t i = 0; i < STK_LEN(handlers); i++) {
        if (handlers[i].role == p->role && strcmp(handlers[i].type, type) == 0) {
            handlers[i].fn(p->context, msg);
            return true;
        }
    }
    return false;
}

/* ---- hello of zygote and keeper */

static bool lists_process(json_t *list, const char *process)
{
    json_t *entry;
    size_t i;

    json_array_foreach(list, i, entry)
    {
        const char *name = json_is_string(entry) ? json_string_value(entry) : json_string_value(json_object_get(entry, "process"));

        if (name && strcmp(name, process) == 0)
            return true;
    }
    return false;
}

static void zygote_hello(struct context *ctx, json_t *hello)
{
    json_t *children = json_object_get(hello, "children"), *exits = json_object_get(hello, "exits"), *entry;
    struct worker *w, *next;
    size_t i;

    if (ctx->ending) {
        tell_zygote_to_stop(ctx, ctx->core->o.stop_grace_ms);
    }
    json_array_foreach(children, i, entry)
    {
        const char *process = json_string_value(json_object_get(entry, "process"));

        if (process && strcmp(process, "k") != 0 && !worker_find(ctx, process))
            stk_conn_send_take(ctx->zygote.conn, json_pack("{s:s, s:s}", "type", "kill", "process", process));
        else
            on_forked(ctx, entry);
    }
    json_array_foreach(exits, i, entry) on_exited(ctx, entry);
    for (w = LIST_FIRST(&ctx->workers); w; w = next) { /* those it knows nothing of never came to be, or are long gone */
        next = LIST_NEXT(w, link);
        if (w->state != W_ADMITTING && !lists_process(children, w->p.id.process))
            worker_exited(w, NULL);
    }
    for (struct job *job = ctx->core->jobs; job; job = job->hh.next) {
        if (job->context == ctx && job->killed)
            cancel_kill(job); /* it was not connected when it was to be told */
    }
    if (!ctx->ending && !ctx->keeper.known && !lists_process(exits, "k"))
        fork_keeper(ctx);
}

static void keeper_hello(struct context *ctx, json_t *hello)
{
    const char *state = json_string_value(json_object_get(hello, "state"));
    json_t *workers = json_object_get(hello, "workers"), *entry;
    struct worker *w;
    struct job *job;
    size_t i;

    if (state && strcmp(state, "running") == 0)
        on_started(ctx, json_object_get(hello, "started"));
    else if (state && (strcmp(state, "failed") == 0 || strcmp(state, "ended") == 0))
        on_broken(ctx, hello);
    json_array_foreach(workers, i, entry)
    {
        const char *process = json_string_value(entry);

        if (process && !worker_find(ctx, process))
            stk_conn_send_take(ctx->keeper.conn, json_pack("{s:s, s:s}", "type", "gone", "worker", process));
    }
    LIST_FOREACH(w, &ctx->workers, link)
    {
        if (w->state == W_ADMITTING)
            worker_admit(w);
    }
    for (job = ctx->core->jobs; job; job = job->hh.next) {
        if (job->context == ctx && job->row.state == STK_JOB_CANCELLING)
            cancel_resume(job);
    }
    queue_dispatch(ctx);
}

bool context_hello(struct context *ctx, struct stk_conn *conn, const char *role, json_t *hello, const char **ret_refusal)
{
    bool is_zygote = strcmp(role, "zygote") == 0;
    struct process *p = is_zygote ? &ctx->zygote : &ctx->keeper;
    pid_t pid = (pid_t)json_integer_value(json_object_get(hello, "pid"));

    if (strcmp(role, "worker") == 0)
        return worker_hello(ctx, conn, hello, ret_refusal);
    if (!is_zygote && strcmp(role, "keeper") != 0) {
        *ret_refusal = "unknown role";
        return false;
    }
    if (p->known && p->id.pid != pid) {
        *ret_refusal = "another process has this role";
        return false;
    }
    if (!p->known) { /* the keeper may dial before the zygote has told of it */
        if (stk_process_identify(pid, &p->id, NULL) < 0) {
            *ret_refusal = "no such process";
            return false;
        }
        record_process(p, role);
        context_watch(p);
    }
    if (p->conn)
        stk_conn_close(p->conn);
    p->conn = conn;
    stk_conn_welcome(conn, p);
    if (is_zygote)
        zygote_hello(ctx, hello);
    else
        keeper_hello(ctx, hello);
    return true;
}

/* ---- create */

static void free_create(struct ticket *t)
{
    struct create *c = (struct create *)t;

    stk_context_row_done(&c->row);
    free(c);
}

static void on_created(void *arg, const struct stk_err *err)
{
    struct context *ctx = arg;

    ctx->commits--;
    if (err) {
        answer_creators(ctx, err);
        context_dir_remove(ctx->core, ctx->row.id, NULL, NULL);
        context_free(ctx);
        return;
    }
    launch_or_fail(ctx);
}

static void on_create(struct stk_task *task)
{
    struct create *c = (struct create *)task;
    struct stk_core *core = c->core;
    const char *name = stk_text_data(c->row.name);
    struct stk_err err;
    struct context *ctx = NULL;
    int rc = 0;

    if (core->stopping)
        rc = stk_fail(&err, STK_LIMIT, "the server is stopping");
    else if (context_find_active(core, name))
        rc = stk_fail(&err, STK_CONFLICT, "context %s exists", name);
    else if (core->n_contexts >= core->o.max_contexts)
        rc = stk_fail(&err, STK_LIMIT, "there are %d contexts, the limit 'max-contexts'", core->n_contexts);
    else if (!(ctx = context_new(core)))
        rc = stk_fail(&err, STK_INTERNAL, "out of memory");
    if (rc == 0) {
        copy_row(&ctx->row, &c->row);
        ctx->row.spec = stk_text_ref(c->row.spec);
        ctx->row.state = STK_CONTEXT_CREATING;
        ctx->row.started_us = stk_wall_us();
        HASH_ADD_STR(core->contexts, row.id, ctx);
        rc = stk_store_context_created(core->store, &ctx->row, on_created, ctx, &err);
        if (rc < 0)
            context_free(ctx);
    }
    if (rc < 0) {
        ticket_answer(&c->t, &err);
        return;
    }
    ctx->commits++;
    STAILQ_INSERT_TAIL(&ctx->creators, &c->t, link);
}

/* What keeper and workers read: spec.json of PROTOCOL.md section 2. */
static struct stk_text *make_spec(struct stk_core *core, const struct stk_context_spec *spec, const char *id)
{
    json_auto_t *conf = json_deep_copy(spec->spark_conf);
    json_auto_t *hadoop = spec->hadoop_conf ? json_incref(spec->hadoop_conf) : json_object();
    json_auto_t *paths = spec->python_paths ? json_incref(spec->python_paths) : json_array();
    json_auto_t *object = NULL;
    stk_auto_free char *text = NULL;
    const char *key;
    json_t *value;

    json_object_foreach(core->o.spark_conf, key, value)
    {
        if (!json_object_get(conf, key))
            json_object_set(conf, key, value);
    }
    object = json_pack("{s:s, s:s, s:s, s:O, s:O, s:O, s:O, s:i, s:I, s:I, s:i, s:i}", "context", id, "name", spec->name, "kind",
                       spec->kind, "spark_conf", conf, "settings", spec->settings, "hadoop_conf",
                       hadoop, "python_paths", paths, "max_result_inline", 65536, "max_result",
                       (json_int_t)core->o.max_result_bytes, "max_log", (json_int_t)core->o.max_log_bytes, "max_jobs_per_worker", 0,
                       "max_worker_growth", 0);
    text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    return text ? stk_text_new(text, strlen(text)) : NULL;
}

static void remove_unused_dir(struct stk_core *core, const char *id)
{
    char path[64];

    snprintf(path, sizeof path, "contexts/%s", id);
    stk_remove_tree(core->o.state_dir_fd, path);
}

int stk_context_create(struct stk_core *core, const struct stk_context_spec *spec, int64_t timeout_ms,
                       struct stk_context_row *ret, struct stk_text **ret_error, struct stk_err *err)
{
    struct create *c = calloc(1, sizeof *c);
    int rc;

    *ret = (struct stk_context_row){ 0 };
    if (ret_error)
        *ret_error = NULL;
    if (!c)
        return stk_fail(err, STK_INTERNAL, "out of memory");
    ticket_init(&c->t, on_create, free_create);
    c->core = core;
    stk_uuid(c->row.id);
    c->row.name = stk_text_new(spec->name, strlen(spec->name));
    c->row.spec = make_spec(core, spec, c->row.id);
    c->row.max_jobs = spec->max_jobs > 0 ? spec->max_jobs : core->o.max_jobs;
    if (!c->row.name || !c->row.spec || context_dir_make(core, c->row.id, stk_text_data(c->row.spec), err) < 0) {
        atomic_store(&c->t.refs, 1);
        ticket_unref(&c->t);
        return err && err->code != STK_OK ? -1 : stk_fail(err, STK_INTERNAL, "out of memory");
    }
    if (ticket_call(&c->t, core->loop, timeout_ms)) {
        rc = c->t.rc;
        if (rc < 0 && err)
            *err = c->t.err;
        if (rc < 0 && ret_error)
            *ret_error = stk_text_ref(c->row.error);
        if (rc < 0 && !c->row.started_us) /* refused: it never was */
            remove_unused_dir(core, c->row.id);
        if (rc == 0)
            copy_row(ret, &c->row);
    } else {
        rc = stk_fail(err, STK_TIMEOUT, "the context is still starting");
    }
    ticket_unref(&c->t);
    return rc;
}

/* ---- delete */

struct delete {
    struct ticket t;
    struct stk_core *core;
    char *name;
    bool force;
};

static void free_delete(struct ticket *t)
{
    free(((struct delete *)t)->name);
    free(t);
}

static void on_delete(struct stk_task *task)
{
    struct delete *d = (struct delete *)task;
    struct context *ctx = context_find_active(d->core, d->name);
    struct stk_err err;

    if (!ctx) {
        stk_fail(&err, STK_NOT_FOUND, "context %s not found", d->name);
        ticket_answer(&d->t, &err);
        return;
    }
    STAILQ_INSERT_TAIL(&ctx->stoppers, &d->t, link);
    context_end(ctx, STK_CONTEXT_STOPPED, NULL, d->force);
}

int stk_context_delete(struct stk_core *core, const char *name, bool force, int64_t timeout_ms, struct stk_err *err)
{
    struct delete *d = calloc(1, sizeof *d);
    int rc;

    if (!d || !(d->name = strdup(name))) {
        free(d);
        return stk_fail(err, STK_INTERNAL, "out of memory");
    }
    ticket_init(&d->t, on_delete, free_delete);
    d->core = core;
    d->force = force;
    if (ticket_call(&d->t, core->loop, timeout_ms)) {
        rc = d->t.rc;
        if (rc < 0 && err)
            *err = d->t.err;
    } else {
        rc = stk_fail(err, STK_TIMEOUT, "the context is still being stopped");
    }
    ticket_unref(&d->t);
    return rc;
}

/* ---- reads */

int stk_context_get(struct stk_core *core, const char *name, struct stk_context_row *ret, struct stk_err *err)
{
    return stk_store_context_get(core->store, name, ret, err);
}

int stk_context_list(struct stk_core *core, struct stk_context_row **ret, size_t *ret_n, struct stk_err *err)
{
    return stk_store_context_list(core->store, ret, ret_n, err);
}
