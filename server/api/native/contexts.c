#include "api/native/native.h"

#include <string.h>

static json_t *context_object(const struct native *native, const struct stk_context_row *row)
{
    json_t *phases =
        stk_context_is_final(row->state) ? NULL : stk_context_phases(native->core, stk_text_data(row->name));

    return json_pack("{s:s, s:o, s:s, s:i, s:o, s:o, s:o, s:o, s:o, s:o}", "id", row->id, "name",
                     stk_native_text(row->name), "state", stk_context_state_name(row->state), "max_jobs", row->max_jobs,
                     "application_id", stk_native_text(row->application_id), "ui_url", stk_native_text(row->ui_url),
                     "started_at", stk_native_time(row->started_us), "ended_at", stk_native_time(row->ended_us),
                     "error",
                     stk_native_short_failure(row->error, "contexts", row->name ? stk_text_data(row->name) : ""),
                     "phases", phases ? phases : json_null());
}

/* Replies with the newest context of that name as it is now. */
static void reply_context(const struct native *native, struct stk_reply *reply, int status, const char *name)
{
    struct stk_context_row row;
    struct stk_err err;

    if (stk_context_get(native->core, name, &row, &err) < 0) {
        stk_native_failed(reply, "get a context", &err);
        return;
    }
    stk_reply_json_take(reply, status, context_object(native, &row));
    stk_context_row_done(&row);
}

void stk_native_contexts_get(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    reply_context(arg, reply, 200, stk_request_param(r, "name"));
}

void stk_native_contexts_list(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    static const char *const known[] = { NULL };
    const struct native *native = arg;
    struct stk_context_row *rows;
    struct stk_err err;
    json_t *list;
    size_t n;

    if (stk_native_query_known(r, reply, known) < 0)
        return;
    if (stk_context_list(native->core, &rows, &n, &err) < 0) {
        stk_native_failed(reply, "list contexts", &err);
        return;
    }
    list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, context_object(native, &rows[i]));
    stk_context_rows_free(rows, n);
    stk_reply_json_take(reply, 200, json_pack("{s:o}", "contexts", list));
}

/* ---- create */

static int read_wish(const struct native *native, struct stk_reply *reply, const json_t *body,
                     struct stk_context_wish *ret)
{
    const char *name = json_string_value(json_object_get(body, "name"));
    const json_t *posted = json_object_get(body, "settings");
    json_auto_t *settings = NULL;
    struct stk_err err;

    if (stk_name_check("'name'", name, 255, &err) < 0) {
        stk_native_wrong(reply, "name", "%s", err.msg);
        return -1;
    }
    if (!stk_begins_with_letter(name)) {
        stk_native_wrong(reply, "name", "'name' must begin with a letter");
        return -1;
    }
    if (posted && !json_is_object(posted)) {
        stk_native_wrong(reply, "settings", "'settings' must be an object");
        return -1;
    }
    settings = stk_settings_merge(native->options->context_settings, NULL, 0, posted, &err);
    if (settings && stk_settings_wish(ret, name, settings, &err) == 0) {
        ret->spec.name = name;
        return 0;
    }
    if (err.code == STK_NOT_FOUND)
        stk_native_wrong(reply, "settings",
                         "there is no 'context-factory' %.80s; there are: session, spark, sql, hive, custom", err.msg);
    else if (err.code == STK_INVALID)
        stk_native_wrong(reply, "settings", "%s", err.msg);
    else
        stk_native_failed(reply, "read context settings", &err);
    return -1;
}

/* The start failed, the error object of the runner says why; the context is there to be asked. */
static void start_failed(struct stk_reply *reply, const char *name, const struct stk_text *cause,
                         const struct stk_err *err)
{
    stk_reply_json_take(reply, 500,
                        json_pack("{s:{s:s, s:s, s:o}}", "error", "code", "CONTEXT_FAILED", "message", err->msg,
                                  "cause", stk_native_short_failure(cause, "contexts", name)));
}

static void create(const struct native *native, struct stk_reply *reply, const struct stk_context_spec *spec,
                   int64_t wait_ms)
{
    stk_auto_text cause = NULL;
    struct stk_context_row row;
    struct stk_err err;
    int rc;

    /* Without a wait it takes a commit, which nobody means to time out. */
    rc = stk_context_create(native->core, spec, wait_ms ? STK_UP : STK_RECORDED,
                            wait_ms ? wait_ms : native->options->context_create_timeout_ms, &row, &cause, &err);
    if (rc == 0)
        stk_context_row_done(&row);
    if (rc == 0 || err.code == STK_TIMEOUT) {
        reply_context(native, reply, rc == 0 && wait_ms ? 201 : 202, spec->name);
        stk_native_location(reply, "/v1/contexts/", spec->name);
    } else if (err.code == STK_RUNNER) {
        start_failed(reply, spec->name, cause, &err);
    } else {
        stk_native_failed(reply, "create a context", &err);
    }
}

void stk_native_contexts_post(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    static const char *const known[] = { "wait", NULL }, *const fields[] = { "name!", "settings", NULL };
    const struct native *native = arg;
    json_auto_t *body = NULL;
    struct stk_context_wish wish;
    int64_t wait_ms = 0;

    if (stk_native_query_known(r, reply, known) < 0 || stk_native_query_wait(r, reply, &wait_ms) < 0 ||
        stk_native_body(r, reply, fields, &body) < 0 || read_wish(native, reply, body, &wish) < 0)
        return;
    if (wait_ms == 0) {
        create(native, reply, &wish.spec, 0);
    } else if (stk_request_wait_begin(r)) {
        create(native, reply, &wish.spec, wait_ms);
        stk_request_wait_end(r);
    } else {
        stk_native_too_many_waiting(reply);
    }
    stk_context_wish_done(&wish);
}

/* ---- delete */

void stk_native_contexts_delete(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    static const char *const known[] = { "wait", "force", NULL };
    const struct native *native = arg;
    const char *name = stk_request_param(r, "name");
    int64_t wait_ms = STK_NATIVE_STOP_WAIT_MS;
    bool force = false;
    struct stk_err err;
    int rc;

    if (stk_native_query_known(r, reply, known) < 0 || stk_native_query_wait(r, reply, &wait_ms) < 0 ||
        stk_native_query_bool(r, reply, "force", &force) < 0)
        return;
    bool may_wait = wait_ms > 0 && stk_request_wait_begin(r); /* to stop must work when too many wait */

    rc = stk_context_delete(native->core, name, force, may_wait ? wait_ms : 0, &err);
    if (may_wait)
        stk_request_wait_end(r);
    if (rc == 0 || err.code == STK_TIMEOUT)
        reply_context(native, reply, rc == 0 ? 200 : 202, name);
    else
        stk_native_failed(reply, "delete a context", &err);
}
