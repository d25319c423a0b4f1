/* Named objects of a context. They live in its JVM, so its keeper is asked, and nothing of them is kept here. */
#include "live.h"

#include "stoker/clock.h"

#include <string.h>

/* In ctx->asks from when it is sent until it is answered, or its caller is found to have left. */
struct ask {
    struct ticket t;
    struct stk_core *core;
    char request[STK_UUID_MAX]; /* the keeper says it with its answer; no other server gives it */
    char *context;
    json_t *message; /* for the keeper; NULL once it is sent */
    json_t *answer;  /* array: all objects; object: the dropped one */
};

static void free_ask(struct ticket *t)
{
    struct ask *a = (struct ask *)t;

    json_decref(a->message);
    json_decref(a->answer);
    free(a->context);
    free(a);
}

static int send_ask(struct ask *a, struct stk_err *err)
{
    struct context *ctx = context_find_active(a->core, a->context);

    if (a->core->stopping)
        return stk_fail(err, STK_LIMIT, "the server is stopping");
    if (!ctx)
        return stk_fail(err, STK_NOT_FOUND, "there is no context %.100s that runs", a->context);
    if (ctx->ending)
        return stk_fail(err, STK_LIMIT, "context %.100s is being stopped", a->context);
    if (ctx->row.state != STK_CONTEXT_RUNNING)
        return stk_fail(err, STK_LIMIT, "context %.100s is still starting", a->context);
    if (!ctx->keeper.conn)
        return stk_fail(err, STK_LIMIT, "the keeper of context %.100s is not connected", a->context);
    ticket_add(&ctx->asks, &a->t);
    stk_conn_send_take(ctx->keeper.conn, a->message);
    a->message = NULL;
    return 0;
}

static void on_ask(struct stk_task *task)
{
    struct ask *a = (struct ask *)task;
    struct stk_err err;

    if (send_ask(a, &err) < 0)
        ticket_answer(&a->t, &err);
}

void objects_give_up(struct context *ctx)
{
    struct stk_err err;

    stk_fail(&err, STK_LIMIT, "the keeper of context %.100s went away before it answered",
             stk_text_data(ctx->row.name));
    ticket_answer_all(&ctx->asks, &err);
}

/* ---- answers */

static struct ask *find_ask(struct context *ctx, json_t *msg)
{
    const char *request = json_string_value(json_object_get(msg, "request"));
    struct ticket *t;

    STAILQ_FOREACH(t, &ctx->asks, link)
    {
        if (request && strcmp(((struct ask *)t)->request, request) == 0)
            return (struct ask *)t;
    }
    return NULL; /* one of an earlier server, or its caller has left */
}

static void answer(struct context *ctx, struct ask *a, const struct stk_err *err)
{
    STAILQ_REMOVE(&ctx->asks, &a->t, ticket, link);
    ticket_answer(&a->t, err);
}

/* True: the keeper could not do it, and the caller knows. */
static bool failed(struct context *ctx, struct ask *a, json_t *msg)
{
    const char *why = json_string_value(json_object_get(msg, "error"));
    struct stk_err err;

    if (!why)
        return false;
    stk_fail(&err, STK_RUNNER, "the keeper of context %.60s: %s", a->context, why);
    answer(ctx, a, &err);
    return true;
}

void objects_listed(struct context *ctx, json_t *msg)
{
    struct ask *a = find_ask(ctx, msg);
    json_t *list = json_object_get(msg, "objects");

    if (!a || failed(ctx, a, msg))
        return;
    if (!a->answer)
        a->answer = json_array();
    if (json_is_array(list) && json_is_array(a->answer)) {
        json_auto_t *copy = json_deep_copy(list); /* no part of the answer is seen by two threads */

        json_array_extend(a->answer, copy);
    }
    if (!json_is_true(json_object_get(msg, "more")))
        answer(ctx, a, NULL);
}

void objects_dropped(struct context *ctx, json_t *msg)
{
    struct ask *a = find_ask(ctx, msg);
    json_t *object = json_object_get(msg, "object");

    if (!a || failed(ctx, a, msg))
        return;
    json_decref(a->answer);
    a->answer = json_is_object(object) ? json_deep_copy(object) : NULL;
    answer(ctx, a, NULL);
}

/* ---- binaries that they need */

void objects_keep(struct context *ctx, json_t *msg)
{
    ctx->keeps = json_is_true(json_object_get(msg, "any"));
}

/* A job of a context can have run only with what was not replaced before the context was there. */
int64_t objects_kept_since_us(struct stk_core *core)
{
    int64_t since_us = INT64_MAX;

    for (struct context *ctx = core->contexts; ctx; ctx = ctx->hh.next) {
        bool unknown = ctx->row.state == STK_CONTEXT_RUNNING && !ctx->keeper.conn;

        if ((ctx->keeps || unknown) && !ctx->closed && ctx->row.started_us < since_us)
            since_us = ctx->row.started_us;
    }
    return since_us;
}

/* ---- calls */

/* Takes the message, to which it gives its request; *ret: the keeper's answer, a new reference or NULL. */
static int call_keeper(struct stk_core *core, const char *context, json_t *message, int64_t timeout_ms, json_t **ret,
                       struct stk_err *err)
{
    struct ask *a = calloc(1, sizeof *a);
    int rc;

    if (!a || !message || !(a->context = strdup(context))) {
        free(a);
        json_decref(message);
        return stk_fail(err, STK_INTERNAL, "out of memory");
    }
    ticket_init(&a->t, on_ask, free_ask);
    a->core = core;
    a->message = message;
    stk_uuid(a->request);
    json_object_set_new(message, "request", json_string(a->request));
    if (!ticket_call(&a->t, core->loop, timeout_ms)) {
        rc = stk_fail(err, STK_TIMEOUT, "the keeper of context %.100s has not answered within %lld ms", context,
                      (long long)timeout_ms);
    } else if ((rc = a->t.rc) < 0) {
        if (err)
            *err = a->t.err;
    } else {
        *ret = a->answer;
        a->answer = NULL;
    }
    ticket_unref(&a->t);
    return rc;
}

int stk_context_objects(struct stk_core *core, const char *name, int64_t timeout_ms, json_t **ret, struct stk_err *err)
{
    json_t *list = NULL;

    if (call_keeper(core, name, json_pack("{s:s}", "type", "objects"), timeout_ms, &list, err) < 0)
        return -1;
    *ret = list ? list : json_array();
    return *ret ? 0 : stk_fail(err, STK_INTERNAL, "out of memory");
}

int stk_context_drop_object(struct stk_core *core, const char *name, const char *object, int64_t timeout_ms,
                            json_t **ret, struct stk_err *err)
{
    json_t *dropped = NULL;

    if (call_keeper(core, name, json_pack("{s:s, s:s}", "type", "drop", "name", object), timeout_ms, &dropped, err) < 0)
        return -1;
    if (!dropped)
        return stk_fail(err, STK_NOT_FOUND, "context %.60s has no object %.120s", name, object);
    *ret = dropped;
    return 0;
}
