/* What callers may ask of contexts: create, delete, get, list. */
#include "live.h"

#include "stoker/clock.h"
#include "stoker/tree.h"

#include <stdio.h>
#include <string.h>

/* Callers that waited for a create get the cause with the error. */
struct create {
    struct ticket t;
    struct stk_core *core;
    struct stk_context_row row;
    enum stk_context_wait wait;
};

static void copy_row(struct stk_context_row *to, const struct stk_context_row *from)
{
    struct stk_context_row row = *from;

    row.spec = NULL;
    stk_context_row_copy(to, &row);
}

static void publish(struct context *ctx, struct create *c)
{
    pthread_mutex_lock(&c->t.lock);
    stk_context_row_done(&c->row);
    copy_row(&c->row, &ctx->row);
    pthread_cond_signal(&c->t.cond); /* a caller whose time is over may wait for just this */
    pthread_mutex_unlock(&c->t.lock);
}

static void answer_creator(struct context *ctx, struct create *c, const struct stk_err *err)
{
    publish(ctx, c);
    ticket_answer(&c->t, err);
}

void context_answer_creators(struct context *ctx, const struct stk_err *err)
{
    struct ticket *t;

    while ((t = STAILQ_FIRST(&ctx->creators))) {
        STAILQ_REMOVE_HEAD(&ctx->creators, link);
        answer_creator(ctx, (struct create *)t, err);
    }
}

/* It is recorded, which is all that some want to know. */
static void answer_recorded(struct context *ctx)
{
    struct ticket *t, *next;

    for (t = STAILQ_FIRST(&ctx->creators); t; t = next) {
        next = STAILQ_NEXT(t, link);
        if (((struct create *)t)->wait != STK_RECORDED) {
            publish(ctx, (struct create *)t);
            continue;
        }
        STAILQ_REMOVE(&ctx->creators, t, ticket, link);
        answer_creator(ctx, (struct create *)t, NULL);
    }
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
        context_answer_creators(ctx, err);
        ticket_answer_all(&ctx->stoppers, NULL);
        ctx->abandoned = true; /* somebody may have ended it meanwhile: it goes the way of all contexts */
        context_end(ctx, STK_CONTEXT_FAILED, NULL, true);
        return;
    }
    answer_recorded(ctx);
    context_launch_or_end(ctx);
}

struct context *context_begin(struct stk_core *core, const struct stk_context_row *row, struct stk_err *err)
{
    struct context *ctx = context_new(core);

    if (!ctx) {
        stk_fail(err, STK_INTERNAL, "out of memory");
        return NULL;
    }
    stk_context_row_copy(&ctx->row, row);
    context_read_spec(ctx);
    ctx->row.state = STK_CONTEXT_CREATING;
    ctx->row.started_us = stk_wall_us();
    HASH_ADD_STR(core->contexts, row.id, ctx);
    if (stk_store_context_created(core->store, &ctx->row, on_created, ctx, err) < 0) {
        context_free(ctx);
        return NULL;
    }
    ctx->commits++;
    return ctx;
}

static void on_taken(void *arg, const struct stk_err *err)
{
    struct context *ctx = arg;

    ctx->commits--;
    if (err) {
        context_answer_creators(ctx, err);
        if (ctx->n_jobs > 0) /* which found it by its name */
            context_end(ctx, STK_CONTEXT_STOPPED, NULL, false);
        else
            warm_give_back(ctx);
        return;
    }
    context_answer_creators(ctx, NULL);
    context_set_clock(ctx);
    queue_dispatch(ctx); /* its first worker */
}

/* True: a warm context serves this create. */
static bool take_warm(struct create *c)
{
    struct context *ctx = warm_take(c->core, &c->row);
    struct stk_err err;

    if (!ctx)
        return false;
    ticket_add(&ctx->creators, &c->t);
    if (stk_store_context_taken(c->core->store, &ctx->row, on_taken, ctx, &err) < 0) {
        context_answer_creators(ctx, &err);
        warm_give_back(ctx);
    } else {
        ctx->commits++;
    }
    return true;
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
    else if (take_warm(c))
        return;
    else if (core->n_contexts >= core->o.max_contexts && !warm_give_way(core))
        rc = stk_fail(&err, STK_LIMIT, "there are %d contexts, the limit 'max-contexts'", core->n_contexts);
    if (rc == 0 && (ctx = context_begin(core, &c->row, &err)))
        ticket_add(&ctx->creators, &c->t);
    else
        ticket_answer(&c->t, &err);
}

/* However short the caller's time is: who looks for it next must find it. */
static void wait_for_record(struct create *c)
{
    enum { RECORD_MS = 5000 };
    struct timespec deadline = stk_mono_deadline(RECORD_MS);

    pthread_mutex_lock(&c->t.lock);
    while (!c->row.started_us && !c->t.answered && pthread_cond_timedwait(&c->t.cond, &c->t.lock, &deadline) == 0)
        ;
    pthread_mutex_unlock(&c->t.lock);
}

/* True: answered within the time, or soon after it because it was refused. */
static bool call_create(struct create *c, int64_t timeout_ms)
{
    bool answered = ticket_call(&c->t, c->core->loop, timeout_ms);

    if (answered)
        return true;
    wait_for_record(c);
    pthread_mutex_lock(&c->t.lock);
    answered = c->t.answered;
    pthread_mutex_unlock(&c->t.lock);
    return answered;
}

static void remove_unused_dir(struct stk_core *core, const char *id)
{
    char path[64];

    snprintf(path, sizeof path, "contexts/%s", id);
    stk_remove_tree(core->o.state_dir_fd, path);
}

int stk_context_create(struct stk_core *core, const struct stk_context_spec *spec, enum stk_context_wait wait,
                       int64_t timeout_ms, struct stk_context_row *ret, struct stk_text **ret_error,
                       struct stk_err *err)
{
    struct create *c = calloc(1, sizeof *c);
    char id[STK_UUID_MAX];
    int rc;

    *ret = (struct stk_context_row){ 0 };
    if (ret_error)
        *ret_error = NULL;
    if (disk_check(core, err) < 0) {
        free(c);
        return -1;
    }
    if (!c)
        return stk_fail(err, STK_INTERNAL, "out of memory");
    ticket_init(&c->t, on_create, free_create);
    c->core = core;
    c->wait = wait;
    stk_uuid(id);
    memcpy(c->row.id, id, sizeof id);
    c->row.name = stk_text_new(spec->name, strlen(spec->name));
    c->row.spec = context_spec_text(core, spec, c->row.id);
    c->row.max_jobs = spec->max_jobs > 0 ? spec->max_jobs : core->o.max_jobs;
    rc = c->row.name && c->row.spec ? context_dir_make(core, c->row.id, stk_text_data(c->row.spec), true, err)
                                    : stk_fail(err, STK_INTERNAL, "out of memory");
    if (rc < 0) {
        remove_unused_dir(core, c->row.id);
        atomic_store(&c->t.refs, 1);
        ticket_unref(&c->t);
        return -1;
    }
    if (call_create(c, timeout_ms)) {
        bool other = c->row.started_us && strcmp(id, c->row.id) != 0; /* a warm one took its place */

        rc = c->t.rc;
        if (rc < 0 && err)
            *err = c->t.err;
        if (rc < 0 && ret_error)
            *ret_error = stk_text_ref(c->row.error);
        if (other || (rc < 0 && !c->row.started_us)) /* refused: it never was */
            remove_unused_dir(core, id);
        if (rc == 0)
            copy_row(ret, &c->row);
    } else {
        rc = stk_fail(err, STK_TIMEOUT, "the context is still starting");
    }
    ticket_unref(&c->t);
    return rc;
}

/* ---- delete */

struct delete
{
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
    bool stays = ctx ? ctx->ending && ctx->end_state == STK_CONTEXT_CREATING : true; /* or it is down already */

    if (d->core->leaving ||
        (d->core->stopping && stays)) { /* a next server starts it again: "stopped" would be a lie */
        stk_fail(&err, STK_LIMIT, "the server is stopping");
        ticket_answer(&d->t, &err);
        return;
    }
    if (!ctx) {
        stk_fail(&err, STK_NOT_FOUND, "context %s not found", d->name);
        ticket_answer(&d->t, &err);
        return;
    }
    ticket_hear(&d->t);
    ticket_add(&ctx->stoppers, &d->t);
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
    if (ticket_call(&d->t, core->loop, timeout_ms) || ticket_wait_heard(&d->t)) {
        rc = d->t.rc;
        if (rc < 0 && err)
            *err = d->t.err;
    } else {
        rc = stk_fail(err, STK_TIMEOUT, "the context is still being stopped");
    }
    ticket_unref(&d->t);
    return rc;
}

/* ---- phases */

struct ask_phases {
    struct ticket t;
    struct stk_core *core;
    char *name;
    json_t *phases;
};

static void free_phases(struct ticket *t)
{
    struct ask_phases *a = (struct ask_phases *)t;

    json_decref(a->phases);
    free(a->name);
    free(a);
}

static void on_phases(struct stk_task *task)
{
    struct ask_phases *a = (struct ask_phases *)task;
    struct context *ctx = context_find_active(a->core, a->name);

    if (ctx)
        a->phases = json_deep_copy(ctx->phases); /* no part of it is seen by two threads */
    ticket_answer(&a->t, NULL);
}

json_t *stk_context_phases(struct stk_core *core, const char *name)
{
    enum { ASK_MS = 1000 };
    struct ask_phases *a = calloc(1, sizeof *a);
    json_t *phases = NULL;

    if (!a || !(a->name = strdup(name))) {
        free(a);
        return NULL;
    }
    ticket_init(&a->t, on_phases, free_phases);
    a->core = core;
    if (ticket_call(&a->t, core->loop, ASK_MS)) {
        phases = a->phases;
        a->phases = NULL;
    }
    ticket_unref(&a->t);
    return phases;
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
