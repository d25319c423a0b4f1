#include "api/native/native.h"

#include "stoker/clock.h"
#include "stoker/core.h"

static json_t *job_counts(const struct stk_status *s)
{
    json_t *counts = json_object();

    for (int i = 0; i < STK_JOB_STATES; i++)
        json_object_set_new(counts, stk_job_state_name((enum stk_job_state)i), json_integer(s->jobs[i]));
    return counts;
}

static json_t *context_counts(const struct stk_status *s)
{
    json_t *counts = json_pack("{s:i, s:i}", "warm", s->warm_contexts, "max", s->max_contexts);

    for (int i = 0; i < STK_CONTEXT_STATES; i++) {
        if (!stk_context_is_final((enum stk_context_state)i))
            json_object_set_new(counts, stk_context_state_name((enum stk_context_state)i),
                                json_integer(s->contexts[i]));
    }
    return counts;
}

void stk_native_server(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    static const char *const known[] = { NULL };
    const struct native *native = arg;
    struct stk_status s;
    struct stk_err err;

    if (stk_native_query_known(r, reply, known) < 0)
        return;
    if (stk_core_status(native->core, &s, &err) < 0) {
        stk_native_failed(reply, "server status", &err);
        return;
    }
    stk_reply_json_take(
        reply, 200,
        json_pack("{s:s, s:s, s:o, s:I, s:o, s:o, s:{s:i, s:i}, s:{s:I, s:I, s:b}}", "version", STOKER_VERSION, "state",
                  s.stopping ? "STOPPING" : "RUNNING", "started_at", stk_native_time(native->started_us), "uptime_ms",
                  (json_int_t)(stk_mono_ms() - native->started_mono_ms), "jobs", job_counts(&s), "contexts",
                  context_counts(&s), "slots", "total", s.slots, "busy", s.busy_slots, "disk", "free_bytes",
                  (json_int_t)s.disk_free_bytes, "reserve_bytes", (json_int_t)s.disk_reserve_bytes, "low", s.disk_low));
}
