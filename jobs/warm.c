/*
 * Warm contexts: started ahead, nameless, with what a create that asks for nothing special would get, until a create that
 * fits takes one and gives it its name. One is made at a time, and only while no other context starts, so that they do not
 * slow down what somebody waits for. They have no workers yet: a worker reads the spec of the context it works for.
 */
#include "live.h"

#include "stoker/clock.h"
#include "stoker/log.h"

#include <string.h>

enum { LOOK_MS = 1000, AFTER_FAILURE_MS = 60000 };

static bool is_empty(const struct stk_text *text)
{
    return !text || stk_text_len(text) == 0;
}

bool warm_is(const struct context *ctx)
{
    return is_empty(ctx->row.name);
}

static json_t *load(const struct stk_text *spec)
{
    return spec ? json_loadb(stk_text_data(spec), stk_text_len(spec), 0, NULL) : NULL;
}

/* Whether Spark would be started in the same way; a name can be given later. */
static bool same_start(const struct stk_text *a, const struct stk_text *b)
{
    static const char *const parts[] = { "spark_conf", "hadoop_conf" };
    json_auto_t *first = load(a), *second = load(b);

    for (size_t i = 0; i < STK_LEN(parts); i++) {
        json_t *x = json_object_get(first, parts[i]), *y = json_object_get(second, parts[i]);

        json_object_del(x, "spark.app.name");
        json_object_del(y, "spark.app.name");
        if (!x || !y || !json_equal(x, y))
            return false;
    }
    return true;
}

int warm_count(struct stk_core *core)
{
    int n = 0;

    for (struct context *ctx = core->contexts; ctx; ctx = ctx->hh.next)
        n += warm_is(ctx) && !ctx->ending;
    return n;
}

bool warm_give_way(struct stk_core *core)
{
    for (struct context *ctx = core->contexts; ctx; ctx = ctx->hh.next) {
        if (warm_is(ctx) && !ctx->ending) {
            context_end(ctx, STK_CONTEXT_STOPPED, NULL, false);
            return true;
        }
    }
    return false;
}

/* A spec for the context of that id. */
static struct stk_text *spec_for(const char *id, const struct stk_text *spec)
{
    json_auto_t *object = load(spec);
    stk_auto_free char *text = NULL;

    json_object_set_new(object, "context", json_string(id));
    text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    return text ? stk_text_new(text, strlen(text)) : NULL;
}

struct context *warm_take(struct stk_core *core, const struct stk_context_row *row)
{
    struct context *ctx;
    struct stk_text *spec;
    struct stk_err err;

    for (ctx = core->contexts; ctx; ctx = ctx->hh.next) {
        if (warm_is(ctx) && !ctx->ending && ctx->commits == 0 && ctx->row.state == STK_CONTEXT_RUNNING &&
            same_start(ctx->row.spec, row->spec))
            break;
    }
    if (!ctx || !(spec = spec_for(ctx->row.id, row->spec)))
        return NULL;
    if (context_dir_make(core, ctx->row.id, stk_text_data(spec), false, &err) < 0) {
        stk_warn("warm", "a warm context was not taken", "why", err.msg);
        stk_text_unref(spec);
        return NULL;
    }
    stk_text_unref(ctx->row.spec);
    ctx->row.spec = spec;
    stk_text_unref(ctx->row.name);
    ctx->row.name = stk_text_ref(row->name);
    ctx->row.max_jobs = row->max_jobs;
    ctx->row.started_us = stk_wall_us();
    ctx->idle_since_ms = 0;
    context_read_spec(ctx);
    json_decref(ctx->phases);
    ctx->phases = NULL;
    context_phase(ctx, "running");
    warm_refill_soon(core, LOOK_MS);
    return ctx;
}

void warm_give_back(struct context *ctx)
{
    stk_text_unref(ctx->row.name);
    ctx->row.name = stk_text_new("", 0);
}

/* ---- refill */

static void make_one(struct stk_core *core)
{
    struct stk_context_row row = { .max_jobs = core->o.max_jobs };
    struct stk_err err = { 0 };

    stk_uuid(row.id);
    row.name = stk_text_new("", 0);
    row.spec = spec_for(row.id, core->warm_spec);
    if (row.name && row.spec && context_dir_make(core, row.id, stk_text_data(row.spec), false, &err) == 0 &&
        context_begin(core, &row, &err))
        stk_info("warm", "a warm context is started", "context", row.id);
    else
        stk_warn("warm", "cannot start a warm context", "why", err.msg);
    stk_context_row_done(&row);
}

static bool some_start(struct stk_core *core)
{
    for (struct context *ctx = core->contexts; ctx; ctx = ctx->hh.next) {
        if (ctx->row.state == STK_CONTEXT_CREATING)
            return true;
    }
    return false;
}

static void on_refill(void *arg)
{
    struct stk_core *core = arg;
    int n = warm_count(core);

    if (core->stopping || n >= core->o.warm_contexts)
        return;
    if (core->n_contexts < core->o.max_contexts && !some_start(core) && disk_check(core, NULL) == 0)
        make_one(core);
    warm_refill_soon(core, LOOK_MS);
}

void warm_refill_soon(struct stk_core *core, int64_t ms)
{
    if (core->o.warm_contexts > 0 && core->warm_timer)
        stk_timer_set(core->warm_timer, ms);
}

void warm_failed(struct stk_core *core)
{
    stk_warn("warm", "a warm context has failed; the next one is tried later", NULL);
    warm_refill_soon(core, AFTER_FAILURE_MS);
}

int stk_core_keep_warm(struct stk_core *core, const struct stk_context_spec *spec, struct stk_err *err)
{
    struct context *ctx, *tmp;

    core->warm_spec = context_spec_text(core, spec, "");
    core->warm_timer = stk_timer_new(core->loop, on_refill, core);
    if (!core->warm_spec || !core->warm_timer)
        return stk_fail(err, STK_INTERNAL, "out of memory");
    /* Those of an earlier server that are too many, or of other settings. */
    HASH_ITER(hh, core->contexts, ctx, tmp) {
        if (warm_is(ctx) && !ctx->ending &&
            (warm_count(core) > core->o.warm_contexts || !same_start(ctx->row.spec, core->warm_spec)))
            context_end(ctx, STK_CONTEXT_STOPPED, NULL, false);
    }
    warm_refill_soon(core, 0);
    return 0;
}

void warm_done(struct stk_core *core)
{
    stk_timer_free(core->warm_timer);
    stk_text_unref(core->warm_spec);
}
