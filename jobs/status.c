/* How things stand: counts of what is alive, and of what is recorded. */
#include "live.h"

struct ask {
    struct ticket t;
    struct stk_core *core;
    struct stk_status status;
};

static void free_ask(struct ticket *t)
{
    free(t);
}

/* Of what is alive. Contexts are few; jobs may be many, and were counted as they came. */
static struct stk_status look(struct stk_core *core)
{
    struct stk_status status = { .stopping = core->stopping, .max_contexts = core->o.max_contexts }, *s = &status;

    for (int i = 0; i < STK_JOB_STATES; i++)
        s->jobs[i] = core->tally[i];
    for (const struct context *ctx = core->contexts; ctx; ctx = ctx->hh.next) {
        if (stk_context_is_final(ctx->row.state))
            continue;
        if (warm_is(ctx)) {
            s->warm_contexts++;
            continue;
        }
        s->contexts[ctx->row.state]++;
        if (ctx->row.state != STK_CONTEXT_RUNNING)
            continue;
        s->slots += ctx->row.max_jobs;
        s->busy_slots += ctx->busy;
    }
    return status;
}

static void on_ask(struct stk_task *task)
{
    struct ask *a = (struct ask *)task;

    a->status = look(a->core);
    ticket_answer(&a->t, NULL);
}

void status_publish(struct stk_core *core)
{
    struct stk_status status = look(core);

    meter_publish(&core->meters, &status);
}

int stk_core_status(struct stk_core *core, struct stk_status *ret, struct stk_err *err)
{
    enum { ASK_MS = 5000 };
    struct stk_status status = { 0 };
    struct ask *a = calloc(1, sizeof *a);
    bool answered;

    if (!a)
        return stk_fail(err, STK_INTERNAL, "out of memory");
    ticket_init(&a->t, on_ask, free_ask);
    a->core = core;
    answered = ticket_call(&a->t, core->loop, ASK_MS);
    if (answered)
        status = a->status;
    ticket_unref(&a->t);
    if (!answered)
        return stk_fail(err, STK_TIMEOUT, "the server did not say how things stand within %d ms", ASK_MS);

    int64_t ended[STK_JOB_STATES];

    if (stk_store_job_counts(core->store, ended, err) < 0)
        return -1;
    for (int i = 0; i < STK_JOB_STATES; i++)
        status.jobs[i] += ended[i];
    disk_status(core, &status);
    *ret = status;
    return 0;
}
