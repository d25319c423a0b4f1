/* Webhooks: the field of a new job, what is told of its end, and the list of deliveries. */
#include "api/native/native.h"

#include "stoker/clock.h"

#include <stdio.h>
#include <string.h>

/* ---- POST /v1/jobs */

/* Of a value that may hold a secret, nothing is repeated. */
int stk_native_webhook(const struct native *native, struct stk_reply *reply, const json_t *body, char **ret)
{
    const json_t *hook = json_object_get(body, "webhook"), *url = json_object_get(hook, "url"),
                 *secret = json_object_get(hook, "secret");
    struct stk_err err;

    *ret = NULL;
    if (!hook || json_is_null(hook))
        return 0;
    if (!json_is_object(hook) || json_object_size(hook) != (secret ? 2 : 1) || !json_is_string(url) ||
        (secret && !json_is_string(secret))) {
        stk_native_wrong(reply, "webhook",
                         "'webhook' must be an object with the text 'url', and the text 'secret' if "
                         "what is sent there is to be signed with one of its own");
        return -1;
    }
    *ret = stk_webhook_make(&native->options->webhooks, json_string_value(url), json_string_value(secret),
                            STK_WEBHOOK_NATIVE, &err);
    if (*ret)
        return 0;
    stk_native_wrong(reply, "webhook", "'webhook': %s", err.msg);
    return -1;
}

/* ---- what is sent */

int stk_api_native_webhook(struct stk_core *core, const struct stk_delivery_row *delivery,
                           const struct stk_job_row *job, int64_t max_result, struct stk_webhook_body *ret,
                           struct stk_err *err)
{
    json_auto_t *body =
        json_pack("{s:s, s:o, s:s, s:I, s:o}", "type", "job.ended", "timestamp", stk_native_time(delivery->since_us),
                  "delivery", delivery->id, "event", (json_int_t)delivery->event, "job", stk_native_job(job));
    stk_auto_free char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;

    (void)core;
    (void)max_result; /* the job's object has none: GET /v1/jobs/<id>/result */
    if (!text)
        return stk_fail(err, STK_INTERNAL, "out of memory");
    return stk_buf_add_str(&ret->head, text) < 0 ? stk_fail(err, STK_INTERNAL, "out of memory") : 0;
}

/* ---- GET /v1/deliveries */

static json_t *number_or_null(int64_t n)
{
    return n ? json_integer(n) : json_null();
}

static json_t *delivery_object(const struct stk_delivery_row *d)
{
    stk_auto_free char *url = stk_webhook_url_shown(stk_text_data(d->url));
    bool is_due = d->state == STK_DELIVERY_DUE;

    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:o, s:i, s:o, s:o, s:o, s:o, s:o}", "id", d->id, "job", d->job_id,
                     "url", url ? url : "", "form", stk_webhook_form_name(d->form), "state",
                     stk_delivery_state_name(d->state), "event", number_or_null(d->event), "attempts", d->attempts,
                     "due_since", stk_native_time(d->since_us), "next_at", stk_native_time(is_due ? d->due_us : 0),
                     "settled_at", stk_native_time(d->settled_us), "status", number_or_null(d->status), "error",
                     stk_native_text(d->error));
}

static int read_state(struct stk_request *r, struct stk_reply *reply, enum stk_delivery_state *state,
                      struct stk_delivery_filter *filter)
{
    const char *text = stk_request_query(r, "state");

    if (!text)
        return 0;
    if (stk_delivery_state_parse(text, state) < 0) {
        stk_native_wrong(reply, "state", "'state' must be WAITING, DUE, DELIVERED or GIVEN_UP, not '%.40s'", text);
        return -1;
    }
    filter->state = state;
    return 0;
}

static int read_cursor(struct stk_request *r, struct stk_reply *reply, int64_t *ret)
{
    const char *text = stk_request_query(r, "cursor");

    if (!text || stk_parse_i64(text, 1, INT64_MAX, ret, NULL) == 0)
        return 0;
    stk_native_wrong(reply, "cursor", "'cursor' must be the 'next' of the page before, not '%.40s'", text);
    return -1;
}

void stk_native_deliveries(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    static const char *const known[] = { "job", "state", "limit", "cursor", NULL };
    const struct native *native = arg;
    struct stk_delivery_filter filter = { .job_id = stk_request_query(r, "job") };
    enum stk_delivery_state state;
    struct stk_delivery_row *rows;
    json_t *list, *next = json_null();
    struct stk_err err;
    int limit = 100;
    size_t n;

    if (stk_native_query_known(r, reply, known) < 0 || read_state(r, reply, &state, &filter) < 0 ||
        stk_native_query_int(r, reply, "limit", 1, 1000, &limit) < 0 || read_cursor(r, reply, &filter.before) < 0)
        return;
    filter.limit = (size_t)limit;
    if (stk_delivery_list(native->core, &filter, &rows, &n, &err) < 0) {
        stk_native_failed(reply, "list deliveries", &err);
        return;
    }
    list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, delivery_object(&rows[i]));
    if (n == filter.limit) {
        char cursor[24];

        snprintf(cursor, sizeof cursor, "%lld", (long long)rows[n - 1].seq);
        next = json_string(cursor);
    }
    stk_delivery_rows_free(rows, n);
    stk_reply_json_take(reply, 200, json_pack("{s:o, s:o}", "deliveries", list, "next", next));
}
