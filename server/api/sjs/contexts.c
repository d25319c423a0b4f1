#include "api/sjs/sjs.h"

#include "stoker/clock.h"
#include "stoker/log.h"

#include <string.h>

void stk_sjs_contexts_list(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const struct sjs *sjs = arg;
    struct stk_context_row *rows;
    struct stk_err err;
    json_t *body;
    size_t n;

    (void)r;
    if (stk_context_list(sjs->core, &rows, &n, &err) < 0) {
        stk_error("sjs", "contexts not listed", "error", err.msg);
        stk_sjs_err(reply, 500, "UNEXPECTED ERROR OCCURRED");
        return;
    }
    body = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(body, stk_sjs_string(stk_text_data(rows[i].name)));
    stk_context_rows_free(rows, n);
    stk_reply_json_take(reply, 200, body);
}

void stk_sjs_contexts_get(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const struct sjs *sjs = arg;
    const char *name = stk_request_param(r, "name");
    struct stk_context_row row;
    struct stk_err err;

    if (stk_context_get(sjs->core, name, &row, &err) == 0) {
        stk_reply_json_take(reply, 200, stk_sjs_context(&row));
        stk_context_row_done(&row);
    } else if (err.code == STK_NOT_FOUND) {
        stk_sjs_err(reply, 404, "can't find context with name %s", name);
    } else {
        stk_error("sjs", "context not read", "error", err.msg);
        stk_sjs_err(reply, 500, "UNEXPECTED ERROR OCCURRED");
    }
}

/* ---- create */

/* Every query parameter is a setting, but the one that was meant for the server. */
static json_t *read_settings(const struct sjs *sjs, struct stk_request *r, const json_t *body, struct stk_err *err)
{
    size_t count = stk_request_query_count(r), n = 0;
    stk_auto_free struct stk_setting *query = calloc(count + 1, sizeof *query);

    if (!query) {
        stk_fail(err, STK_INTERNAL, "out of memory");
        return NULL;
    }
    for (size_t i = 0; i < count; i++) {
        query[n].path = stk_request_query_at(r, i, &query[n].value);
        if (strcmp(query[n].path, "_method") != 0)
            n++;
    }
    return stk_settings_merge(sjs->options->context_settings, query, n,
                              json_object_get(json_object_get(body, "spark"), "context-settings"), err);
}

void stk_sjs_settings_failed(struct stk_reply *reply, const struct stk_err *err)
{
    if (err->code == STK_NOT_FOUND)
        stk_sjs_exc(reply, 500, "CONTEXT INIT ERROR", err->msg, "java.lang.ClassNotFoundException",
                    "The context factories that are known here are spark.jobserver.python.PythonSessionContextFactory, "
                    "PythonSparkContextFactory, PythonSQLContextFactory and PythonHiveContextFactory.");
    else
        stk_sjs_failed(reply, "read context settings", err);
}

static int make_spec(const struct sjs *sjs, struct stk_request *r, struct stk_reply *reply, const char *name,
                     struct stk_context_wish *ret)
{
    json_auto_t *body = NULL, *settings = NULL;
    struct stk_err err;

    if (stk_sjs_body(r, reply, &body) < 0)
        return -1;
    settings = read_settings(sjs, r, body, &err);
    if (settings && stk_settings_wish(ret, name, settings, &err) == 0) {
        ret->spec.name = name;
        return 0;
    }
    stk_sjs_settings_failed(reply, &err);
    return -1;
}

static void create_failed(const struct sjs *sjs, struct stk_reply *reply, const char *name, const char *error_json,
                          const struct stk_err *err)
{
    char text[512];

    switch (err->code) {
    case STK_CONFLICT: stk_sjs_err(reply, 400, "%s", err->msg); return; /* "context <name> exists" */
    case STK_RUNNER:
        stk_reply_json_take(reply, 500,
                            json_pack("{s:s, s:o}", "status", "CONTEXT INIT ERROR", "result",
                                      stk_sjs_start_error(error_json, err->msg)));
        return;
    case STK_TIMEOUT:
        snprintf(text, sizeof text,
                 "Ask timed out after [%lld ms]: the context is still starting, GET /contexts/%.255s shows how it goes",
                 (long long)sjs->options->context_create_timeout_ms, name);
        stk_sjs_exc(reply, 500, "ERROR", text, "akka.pattern.AskTimeoutException", "");
        return;
    default: stk_sjs_failed(reply, "create a context", err);
    }
}

void stk_sjs_contexts_post(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const struct sjs *sjs = arg;
    const char *name = stk_request_param(r, "name");
    stk_auto_text error = NULL;
    struct stk_context_wish spec;
    struct stk_context_row row;
    struct stk_err err;
    bool async = stk_prefers_async(r);
    int rc;

    if (stk_sjs_check_name(reply, "the context's name", name) < 0)
        return;
    if (!stk_begins_with_letter(name)) {
        stk_sjs_err(reply, 400, "context name must start with letters");
        return;
    }
    if (make_spec(sjs, r, reply, name, &spec) < 0)
        return;
    if (!stk_request_wait_begin(r)) {
        stk_context_wish_done(&spec);
        stk_sjs_too_many_waiting(reply);
        return;
    }
    rc = stk_context_create(sjs->core, &spec.spec, async ? STK_RECORDED : STK_UP,
                            sjs->options->context_create_timeout_ms, &row, &error, &err);
    stk_request_wait_end(r);
    stk_context_wish_done(&spec);
    if (rc < 0) {
        create_failed(sjs, reply, name, stk_text_data(error), &err);
        return;
    }
    stk_context_row_done(&row);
    if (!async) {
        stk_sjs_ok(reply, 200, "Context initialized");
        return;
    }
    stk_sjs_ok(reply, 202, "Context is starting");
    stk_reply_header(reply, "Preference-Applied", "respond-async");
    stk_reply_header(reply, "Location", stk_request_path(r));
}

/* ---- delete */

static void delete_failed(struct stk_request *r, struct stk_reply *reply, const char *name, const struct stk_err *err)
{
    switch (err->code) {
    case STK_NOT_FOUND: stk_sjs_err(reply, 404, "context %s not found", name); return;
    case STK_CONFLICT: /* it is stopping already */
    case STK_TIMEOUT:
        stk_reply_status(reply, 202);
        stk_reply_header(reply, "Location", stk_request_url(r));
        return;
    case STK_LIMIT: stk_sjs_failed(reply, "delete a context", err); return; /* the server is stopping */
    default:
        stk_error("sjs", "context not deleted", "context", name, "error", err->msg);
        stk_sjs_exc(reply, 500, "CONTEXT DELETE ERROR", err->msg, "java.lang.RuntimeException", "");
    }
}

void stk_sjs_contexts_delete(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    enum { SHORT_WAIT_MS = 1000 };
    const struct sjs *sjs = arg;
    const char *name = stk_request_param(r, "name");
    int64_t wait_ms = sjs->options->context_delete_timeout_ms;
    bool force = false, may_wait;
    struct stk_err err;
    int rc;

    if (stk_sjs_query_bool(r, reply, "force", &force) < 0)
        return;
    may_wait = stk_request_wait_begin(r); /* stopping must work when too many wait: then it waits for less */
    rc =
        stk_context_delete(sjs->core, name, force, may_wait || wait_ms < SHORT_WAIT_MS ? wait_ms : SHORT_WAIT_MS, &err);
    if (may_wait)
        stk_request_wait_end(r);
    if (rc == 0)
        stk_sjs_ok(reply, 200, "Context stopped");
    else
        delete_failed(r, reply, name, &err);
}

/* ---- reset */

/* Asks for the end of all that are up, then waits. 0, or -1 with what keeps one of them. */
static int stop_all(const struct sjs *sjs, const struct stk_context_row *rows, size_t n, int64_t wait_ms,
                    struct stk_err *err)
{
    int64_t until = stk_mono_ms() + wait_ms;
    bool asked = false;

    for (;;) { /* first all are asked, then each is waited for */
        for (size_t i = 0; i < n; i++) {
            int64_t left = asked ? until - stk_mono_ms() : 0;
            const char *name = stk_text_data(rows[i].name);

            if (stk_context_delete(sjs->core, name, false, left > 0 ? left : 0, err) == 0 ||
                err->code == STK_NOT_FOUND || (err->code == STK_TIMEOUT && !asked))
                continue;
            stk_err_prefix(err, "%.100s", name);
            return -1;
        }
        if (asked || wait_ms == 0)
            return 0;
        asked = true;
    }
}

void stk_sjs_contexts_reset(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const struct sjs *sjs = arg;
    struct stk_context_row *rows;
    bool sync = true;
    struct stk_err err;
    size_t n;
    int rc;

    if (stk_sjs_query_reset(r, reply) < 0 || stk_sjs_query_bool(r, reply, "sync", &sync) < 0)
        return;
    if (stk_context_list(sjs->core, &rows, &n, &err) < 0) {
        stk_sjs_failed(reply, "list contexts", &err);
        return;
    }
    if (sync && !stk_request_wait_begin(r)) {
        stk_context_rows_free(rows, n);
        stk_sjs_too_many_waiting(reply);
        return;
    }
    rc = stop_all(sjs, rows, n, sync ? sjs->options->context_delete_timeout_ms : 0, &err);
    stk_context_rows_free(rows, n);
    if (sync)
        stk_request_wait_end(r);
    if (sync) /* also when one does not end: the others have */
        stk_settings_start_contexts(sjs->core, sjs->options);
    if (rc < 0)
        stk_sjs_failed(reply, "reset contexts", &err);
    else
        stk_sjs_ok(reply, 200, sync ? "Context reset" : "Context reset requested");
}
