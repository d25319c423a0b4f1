#include "api/native/native.h"

void stk_native_contexts_get(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const struct native *native = arg;
    struct stk_context_row row;
    struct stk_err err;
    json_t *phases;

    if (stk_context_get(native->core, stk_request_param(r, "name"), &row, &err) < 0) {
        stk_native_failed(reply, "get a context", &err);
        return;
    }
    phases = stk_context_is_final(row.state) ? NULL : stk_context_phases(native->core, stk_text_data(row.name));
    stk_reply_json_take(
        reply, 200,
        json_pack("{s:s, s:o, s:s, s:i, s:o, s:o, s:o, s:o, s:o, s:o}", "id", row.id, "name", stk_native_text(row.name),
                  "state", stk_context_state_name(row.state), "max_jobs", row.max_jobs, "application_id",
                  stk_native_text(row.application_id), "ui_url", stk_native_text(row.ui_url), "started_at",
                  stk_native_time(row.started_us), "ended_at", stk_native_time(row.ended_us), "error",
                  stk_native_short_failure(row.error, "contexts", row.name ? stk_text_data(row.name) : ""), "phases",
                  phases ? phases : json_null()));
    stk_context_row_done(&row);
}
