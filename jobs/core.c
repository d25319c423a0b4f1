/* Making and ending the core, and handing what runner processes say to whom it concerns. */
#include "live.h"

#include "stoker/log.h"

#include <string.h>

enum { REAP_EVERY_MS = 10000 };

static void on_hello(void *arg, struct stk_conn *conn, json_t *hello)
{
    struct stk_core *core = arg;
    const char *id = json_string_value(json_object_get(hello, "context"));
    const char *role = json_string_value(json_object_get(hello, "role"));
    struct context *ctx = id ? context_find(core, id) : NULL;
    const char *refusal = "this context is not known";

    if (!ctx || ctx->closed || !role)
        stk_conn_refuse(conn, refusal);
    else if (!context_hello(ctx, conn, role, hello, &refusal))
        stk_conn_refuse(conn, refusal);
}

static void lost_connection(struct process *p)
{
    p->conn = NULL;
    if (p->role == ROLE_KEEPER)
        objects_give_up(p->context);
}

static void on_message(void *arg, struct stk_conn *conn, const char *type, json_t *msg)
{
    struct process *p = stk_conn_user(conn);
    bool known = p->role == ROLE_WORKER ? worker_message((struct worker *)p, type, msg) : context_message(p, type, msg);

    (void)arg;
    if (known)
        return;
    stk_warn("core", "connection dropped: unknown message", "type", type, "process", p->id.process);
    lost_connection(p);
    stk_conn_close(conn); /* it dials again, and its hello tells where it stands */
}

static void on_closed(void *arg, struct stk_conn *conn)
{
    struct process *p = stk_conn_user(conn);

    (void)arg;
    lost_connection(p); /* it dials again, or its end is told by the zygote or its pidfd */
}

static void on_reap(void *arg)
{
    struct stk_core *core = arg;

    workers_look_after(core);
    stk_timer_set(core->reaper, REAP_EVERY_MS);
}

/* A job's end and the next job's start are queued in one turn: they go into one commit, and wake the worker once. */
static void on_turn(void *arg)
{
    struct stk_core *core = arg;

    stk_store_flush(core->store);
    status_publish(core);
}

struct stk_core *stk_core_new(struct stk_loop *loop, struct stk_store *store, const struct stk_core_options *options,
                              struct stk_err *err)
{
    struct stk_core *core = calloc(1, sizeof *core);
    struct stk_runner_options runner = {
        .state_dir_fd = options->state_dir_fd,
        .events = { .hello = on_hello, .message = on_message, .closed = on_closed },
    };

    if (!core) {
        stk_fail(err, STK_INTERNAL, "out of memory");
        return NULL;
    }
    core->loop = loop;
    core->store = store;
    core->o = *options;
    meters_init(&core->meters);
    runner.events.arg = core;
    core->runner = stk_runner_new(loop, &runner, err);
    core->reaper = core->runner ? stk_timer_new(loop, on_reap, core) : NULL;
    if (!core->reaper || !(core->board = progress_board_new(err)) || !(core->retention = retention_new(core, err)) ||
        !(core->disk = disk_new(core, err)) || class_data_new(core, err) < 0) {
        stk_core_free(core);
        return NULL;
    }
    stk_timer_set(core->reaper, REAP_EVERY_MS);
    stk_loop_on_turn(loop, on_turn, core);
    return core;
}

void core_check_stopped(struct stk_core *core)
{
    void (*stopped)(void *arg, bool left) = core->stopped;

    if (!core->stopping || !stopped || (!core->leaving && (core->n_contexts > 0 || class_data_making(core))) ||
        retention_busy(core->retention))
        return; /* retention may be reading the store, which is closed next */
    core->stopped = NULL;
    stopped(core->stopped_arg, core->leaving);
}

/* Nobody will answer them here any more; what they wait for goes on. */
static void let_waiters_go(struct stk_core *core)
{
    struct stk_err err;

    stk_fail(&err, STK_TIMEOUT, "the server is being replaced; the work goes on");
    for (struct job *job = core->jobs; job; job = job->hh.next)
        ticket_answer_all(&job->ended, &err);
    for (struct context *ctx = core->contexts; ctx; ctx = ctx->hh.next) {
        context_answer_creators(ctx, &err); /* with the row: who has none takes the context for refused */
        ticket_answer_all(&ctx->stoppers, &err);
        objects_give_up(ctx);
    }
}

static bool has_unstarted(struct context *ctx)
{
    for (struct job *job = ctx->core->jobs; job; job = job->hh.next) {
        if (job->context == ctx && !job->settled && !job->sent &&
            (job->row.state == STK_JOB_QUEUED || job->row.state == STK_JOB_STARTING))
            return true;
    }
    return false;
}

void stk_core_stop(struct stk_core *core, bool leave_contexts, void (*stopped)(void *arg, bool left), void *arg)
{
    bool again = core->stopping && !core->leaving;
    struct context *ctx, *tmp;

    if (core->stopping && !core->stopped)
        return; /* too late: who waited for the end has been told of it */
    core->stopping = true;
    core->leaving = leave_contexts;
    core->stopped = stopped;
    core->stopped_arg = arg;
    retention_stop(core->retention);
    class_data_stop(core, again); /* when contexts are left, it ends with this process at the latest */
    if (leave_contexts) {
        let_waiters_go(core);
        core_check_stopped(core);
        return;
    }
    HASH_ITER(hh, core->contexts, ctx, tmp) {
        bool needed = has_unstarted(ctx);

        context_end(ctx, needed ? STK_CONTEXT_CREATING : STK_CONTEXT_STOPPED,
                    needed ? failure_text("SERVER_STOPPED", NULL, NULL, "the server was stopped while jobs waited")
                           : NULL,
                    again);
    }
    core_check_stopped(core);
}

/* Live state is not taken down piece by piece: either every context is gone, or the process ends and leaves them to the next one. */
void stk_core_free(struct stk_core *core)
{
    if (!core)
        return;
    warm_done(core);
    retention_free(core->retention);
    disk_free(core->disk);
    progress_board_free(core->board);
    class_data_free(core->class_data);
    stk_timer_free(core->reaper);
    stk_runner_free(core->runner);
    meters_done(&core->meters);
    free(core);
}
