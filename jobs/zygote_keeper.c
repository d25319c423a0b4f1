/* What a context's zygote and keeper say: messages, and the hello with which they tell where they stand. */
#include "live.h"

#include "stoker/log.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

/* ---- messages */

static pid_t pid_field(json_t *msg, const char *key)
{
    json_int_t pid = json_integer_value(json_object_get(msg, key));

    return pid > 0 && pid <= INT_MAX ? (pid_t)pid : 0;
}

static void on_forked(struct context *ctx, json_t *msg)
{
    const char *process = json_string_value(json_object_get(msg, "process"));
    struct worker *w;

    if (process && strcmp(process, "k") == 0) {
        context_found(&ctx->keeper, pid_field(msg, "pid"));
        return;
    }
    w = process ? worker_find(ctx, process) : NULL;
    if (!w || !context_found(&w->p, pid_field(msg, "pid")))
        return; /* gone already: its `exited` follows */
    if (w->state == W_FORKING)
        w->state = W_ATTACHING;
}

static void keeper_is_gone(struct context *ctx, json_t *exit)
{
    bool starting = ctx->row.state == STK_CONTEXT_CREATING;
    json_t *sig = json_object_get(exit, "signal");
    char what[120];

    ctx->keeper.dead = true;
    if (ctx->zygote.conn)
        stk_conn_send_take(ctx->zygote.conn, json_pack("{s:s, s:s}", "type", "ack_exit", "process", "k"));
    spool_remove_exit(ctx->core, ctx->row.id, "k");
    if (!ctx->ending) {
        const char *reason = json_string_value(json_object_get(exit, "reason"));

        if (!json_is_integer(sig) && !json_is_integer(json_object_get(exit, "status")) && reason)
            snprintf(what, sizeof what, "the keeper process of the context could not be started: %.60s", reason);
        else if (json_is_integer(sig))
            snprintf(what, sizeof what, "the keeper process of the context was ended by signal %d",
                     (int)json_integer_value(sig));
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

    context_found(&ctx->jvm, pid_field(msg, "jvm_pid"));
    class_data_want(ctx->core, msg);
    if (ctx->ending || ctx->row.state != STK_CONTEXT_CREATING)
        return;
    stk_text_unref(ctx->row.application_id); /* of the one before, when it is started again */
    stk_text_unref(ctx->row.ui_url);
    ctx->row.application_id = app ? stk_text_new(app, strlen(app)) : NULL;
    ctx->row.ui_url = ui ? stk_text_new(ui, strlen(ui)) : NULL;
    context_phase(ctx, "running");
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
                text ? stk_text_new(text, strlen(text))
                     : context_log_error(ctx, "CONTEXT_FAILED", "Spark could not be started"),
                false);
}

static void on_admitted(struct context *ctx, json_t *msg)
{
    const char *process = json_string_value(json_object_get(msg, "worker"));
    struct worker *w = process ? worker_find(ctx, process) : NULL;

    if (!w || w->state != W_ADMITTING)
        return;
    if (!ctx->zygote.conn) { /* it is admitted again when the zygote has dialled */
        stk_debug("worker", "admitted before its zygote was there", "context", ctx->row.id, "process", process);
        return;
    }
    w->state = W_FORKING;
    stk_conn_send_take(ctx->zygote.conn, json_pack("{s:s, s:s, s:s, s:{s:O, s:O}}", "type", "fork", "process", process,
                                                   "role", "worker", "gateway", "port", json_object_get(msg, "port"),
                                                   "secret", json_object_get(msg, "secret")));
}

static void on_cancelled(struct context *ctx, json_t *msg)
{
    const char *id = json_string_value(json_object_get(msg, "job"));
    struct job *job = id ? job_find(ctx->core, id) : NULL;

    if (job && job->row.state == STK_JOB_CANCELLING &&
        json_integer_value(json_object_get(msg, "attempt")) == job->row.attempt)
        cancel_keeper_said(job, msg);
}

bool context_message(struct process *p, const char *type, json_t *msg)
{
    static const struct {
        enum role role;
        const char *type;
        void (*fn)(struct context *ctx, json_t *msg);
    } handlers[] = {
        { ROLE_ZYGOTE, "forked", on_forked },
        { ROLE_ZYGOTE, "exited", on_exited },
        { ROLE_KEEPER, "started", on_started },
        { ROLE_KEEPER, "failed", on_broken },
        { ROLE_KEEPER, "ended", on_broken },
        { ROLE_KEEPER, "admitted", on_admitted },
        { ROLE_KEEPER, "cancelled", on_cancelled },
        { ROLE_KEEPER, "objects", objects_listed },
        { ROLE_KEEPER, "dropped", objects_dropped },
        { ROLE_KEEPER, "keeps", objects_keep },
        { ROLE_KEEPER, "progress", progress_keeper_said },
    };

    if (p->role == ROLE_KEEPER && strcmp(type, "phase") == 0) {
        const char *phase = json_string_value(json_object_get(msg, "phase"));

        if (phase && p->context->row.state == STK_CONTEXT_CREATING)
            context_phase(p->context, phase);
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

/* ---- hello */

static void fork_keeper(struct context *ctx)
{
    stk_conn_send_take(ctx->zygote.conn,
                       json_pack("{s:s, s:s, s:s}", "type", "fork", "process", "k", "role", "keeper"));
}

static bool lists_process(json_t *list, const char *process)
{
    json_t *entry;
    size_t i;

    json_array_foreach(list, i, entry) {
        const char *name =
            json_is_string(entry) ? json_string_value(entry) : json_string_value(json_object_get(entry, "process"));

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

    if (ctx->ending && !ctx->stop_waits)
        context_tell_to_stop(ctx, ctx->stop_grace_ms);
    json_array_foreach(children, i, entry) {
        const char *process = json_string_value(json_object_get(entry, "process"));

        if (process && strcmp(process, "k") != 0 && !worker_find(ctx, process))
            stk_conn_send_take(ctx->zygote.conn, json_pack("{s:s, s:s}", "type", "kill", "process", process));
        else
            on_forked(ctx, entry);
    }
    json_array_foreach(exits, i, entry)
        on_exited(ctx, entry);
    for (w = LIST_FIRST(&ctx->workers); w;
         w = next) { /* those it knows nothing of never came to be, or are long gone */
        next = LIST_NEXT(w, link);
        if (w->state == W_ADMITTING)
            worker_admit(w); /* what the keeper said to the last one may have found no zygote */
        else if (!lists_process(children, w->p.id.process))
            worker_exited(w, NULL);
    }
    for (struct job *job = ctx->core->jobs; job; job = job->hh.next) {
        if (job->context == ctx && job->killed)
            cancel_kill(job); /* it was not connected when it was to be told */
    }
    if (!ctx->ending && !ctx->keeper.known && !lists_process(exits, "k")) {
        context_phase(ctx, "python is up");
        fork_keeper(ctx);
    }
}

static void keeper_hello(struct context *ctx, json_t *hello)
{
    const char *state = json_string_value(json_object_get(hello, "state"));
    json_t *workers = json_object_get(hello, "workers"), *entry;
    struct worker *w;
    struct job *job;
    size_t i;

    ctx->keeps = json_is_true(json_object_get(hello, "keeps"));
    progress_keeper_dialled(ctx, hello);
    if (state && strcmp(state, "running") == 0)
        on_started(ctx, json_object_get(hello, "started"));
    else if (state && (strcmp(state, "failed") == 0 || strcmp(state, "ended") == 0))
        on_broken(ctx, hello);
    json_array_foreach(workers, i, entry) {
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

bool context_hello(struct context *ctx, struct stk_conn *conn, const char *role, json_t *hello,
                   const char **ret_refusal)
{
    bool is_zygote = strcmp(role, "zygote") == 0;
    struct process *p = is_zygote ? &ctx->zygote : &ctx->keeper;
    pid_t pid = pid_field(hello, "pid");

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
    if (!context_found(p, pid)) { /* the keeper may dial before the zygote has told of it */
        *ret_refusal = "no such process";
        return false;
    }
    if (p->conn)
        stk_conn_close(p->conn);
    if (!is_zygote)
        objects_give_up(ctx); /* what stood in the old connection is lost */
    p->conn = conn;
    stk_conn_welcome(conn, p);
    if (is_zygote)
        zygote_hello(ctx, hello);
    else
        keeper_hello(ctx, hello);
    return true;
}
