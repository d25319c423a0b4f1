#include "api/native/native.h"

#include "stoker/clock.h"
#include "stoker/progress.h"

#include <stdio.h>
#include <string.h>

/* A limit of time and what is left of it; null when there is none. left is null while the clock does not run. */
static json_t *clock_of(int64_t limit_ms, bool runs, int64_t since_us)
{
    json_t *left = json_null();

    if (limit_ms <= 0)
        return json_null();
    if (runs) {
        int64_t ms = limit_ms - (stk_wall_us() - since_us) / 1000;

        left = json_integer(ms > 0 ? ms : 0);
    }
    return json_pack("{s:I, s:o}", "limit_ms", (json_int_t)limit_ms, "left_ms", left);
}

/* core NULL: of one that has ended. */
static json_t *progress_of(struct stk_core *core, const struct stk_job_row *row)
{
    struct stk_progress progress;

    return core && !stk_job_is_final(row->state) && stk_progress_get(core, row->id, &progress)
               ? stk_native_progress(&progress)
               : json_null();
}

/* position: -1 for a job that does not wait. */
static json_t *job_object(struct stk_core *core, const struct stk_job_row *row, int position)
{
    bool waits = row->state == STK_JOB_QUEUED;
    bool runs = row->state == STK_JOB_STARTING || row->state == STK_JOB_RUNNING;
    json_t *object =
        json_pack("{s:s, s:s, s:o, s:s, s:o, s:o, s:i}", "id", row->id, "state", stk_job_state_name(row->state),
                  "context", stk_native_text(row->context_name), "context_id", row->context_id, "app",
                  stk_native_text(row->app), "class", stk_native_text(row->class_path), "attempt", row->attempt);

    json_object_set_new(object, "user", stk_native_text(row->user));
    json_object_set_new(object, "tags", row->tags ? stk_native_json(row->tags) : json_array());
    json_object_set_new(object, "binaries", stk_native_json(row->binaries));
    json_object_set_new(object, "priority", json_integer(row->terms.priority));
    json_object_set_new(object, "position", position >= 0 ? json_integer(position) : json_null());
    json_object_set_new(object, "queue_clock", clock_of(row->terms.queue_timeout_ms, waits, row->submitted_us));
    json_object_set_new(object, "run_clock", clock_of(row->terms.run_timeout_ms, runs, row->started_us));
    json_object_set_new(object, "max_memory",
                        row->terms.max_memory ? json_integer(row->terms.max_memory) : json_null());
    json_object_set_new(object, "isolation", json_string(row->terms.isolated > 0 ? "process" : "shared"));
    json_object_set_new(object, "submitted_at", stk_native_time(row->submitted_us));
    json_object_set_new(object, "started_at", stk_native_time(row->started_us));
    json_object_set_new(object, "ended_at", stk_native_time(row->ended_us));
    json_object_set_new(object, "process",
                        row->worker.process[0]
                            ? json_pack("{s:s, s:I}", "name", row->worker.process, "pid", (json_int_t)row->worker.pid)
                            : json_null());
    json_object_set_new(object, "progress", progress_of(core, row));
    json_object_set_new(object, "result_bytes",
                        row->state == STK_JOB_FINISHED ? json_integer(row->result_bytes) : json_null());
    json_object_set_new(object, "result_format",
                        row->state == STK_JOB_FINISHED ? json_string(stk_result_form(row)->name) : json_null());
    json_object_set_new(object, "error", stk_native_short_failure(row->error, "jobs", row->id));
    json_object_set_new(object, "has_receipt", json_boolean(row->receipt != NULL));
    return object;
}

json_t *stk_native_job(const struct stk_job_row *row)
{
    return job_object(NULL, row, -1);
}

/* Replies with the job as it is now; releases the row. */
static void reply_job(const struct native *native, struct stk_reply *reply, int status, struct stk_job_row *row)
{
    int position;

    stk_job_look(native->core, row, 1, &position);
    stk_reply_json_take(reply, status, job_object(native->core, row, position));
    stk_job_row_done(row);
}

/* ---- list */

struct list {
    bool states[STK_JOB_STATES];   /* that are asked for */
    bool recorded[STK_JOB_STATES]; /* what they may be recorded as */
    const char *tags[STK_JOB_TAGS_MAX];
    struct stk_job_filter filter;
};

static void wrong_state(struct stk_reply *reply, const char *value)
{
    stk_auto_buf names = { 0 };

    for (int i = 0; i < STK_JOB_STATES; i++)
        stk_buf_printf(&names, "%s%s", i ? ", " : "", stk_job_state_name((enum stk_job_state)i));
    stk_native_wrong(reply, "state", "'state' must be one or more of %s with commas between them, not '%.40s'",
                     names.data, value);
}

/* "ERROR,LOST" */
static int add_states(struct stk_reply *reply, const char *value, bool states[STK_JOB_STATES])
{
    for (const char *p = value;; p++) {
        size_t len = strcspn(p, ",");
        enum stk_job_state state;
        char name[16];

        snprintf(name, sizeof name, "%.*s", (int)(len < sizeof name ? len : sizeof name - 1), p);
        if (len >= sizeof name || stk_job_state_parse(name, &state) < 0) {
            wrong_state(reply, value);
            return -1;
        }
        states[state] = true;
        p += len;
        if (!*p)
            return 0;
    }
}

static int read_states(struct stk_request *r, struct stk_reply *reply, struct list *l)
{
    enum { MAX = 16 };
    const char *values[MAX];
    int n = stk_native_query_all(r, reply, "state", values, MAX);

    for (int i = 0; i < n; i++) {
        if (add_states(reply, values[i], l->states) < 0)
            return -1;
    }
    if (n <= 0)
        return n;
    memcpy(l->recorded, l->states, sizeof l->states);
    l->recorded[STK_JOB_STARTING] |= l->states[STK_JOB_RUNNING]; /* which is not written down */
    l->filter.states = l->recorded;
    return 0;
}

/* A cursor is a job's place. Nobody but us is to read it. */
static json_t *cursor_of(const struct stk_job_place *place)
{
    char text[40];

    snprintf(text, sizeof text, "%llx.%llx", (unsigned long long)place->submitted_us, (unsigned long long)place->seq);
    return place->submitted_us ? json_string(text) : json_null();
}

static int read_cursor(struct stk_request *r, struct stk_reply *reply, struct stk_job_place *ret)
{
    const char *text = stk_request_query(r, "cursor");
    unsigned long long at[2];
    char end;

    if (!text)
        return 0;
    if (strlen(text) < 34 && text[strspn(text, "0123456789abcdef.")] == '\0' &&
        sscanf(text, "%16llx.%16llx%c", &at[0], &at[1], &end) == 2 && at[0] > 0 && at[0] <= INT64_MAX &&
        at[1] <= INT64_MAX) {
        *ret = (struct stk_job_place){ (int64_t)at[0], (int64_t)at[1] };
        return 0;
    }
    stk_native_wrong(reply, "cursor", "'cursor' must be the 'next' of the page before, not '%.40s'", text);
    return -1;
}

static int read_list(struct stk_request *r, struct stk_reply *reply, struct list *l)
{
    static const char *const known[] = { "state*", "context", "app",   "user",   "tag*",
                                         "since",  "until",   "limit", "cursor", NULL };
    int limit = 100, n_tags;

    if (stk_native_query_known(r, reply, known) < 0 || read_states(r, reply, l) < 0 ||
        stk_native_query_int(r, reply, "limit", 1, 1000, &limit) < 0 ||
        stk_native_query_time(r, reply, "since", &l->filter.since_us) < 0 ||
        stk_native_query_time(r, reply, "until", &l->filter.until_us) < 0 ||
        read_cursor(r, reply, &l->filter.after) < 0 ||
        (n_tags = stk_native_query_all(r, reply, "tag", l->tags, STK_JOB_TAGS_MAX)) < 0)
        return -1;
    if (stk_request_query(r, "until") && l->filter.until_us == 0)
        l->filter.until_us = 1; /* 0 would mean that nobody asked */
    l->filter.limit = (size_t)limit;
    l->filter.context = stk_request_query(r, "context");
    l->filter.app = stk_request_query(r, "app");
    l->filter.user = stk_request_query(r, "user");
    l->filter.tags = l->tags;
    l->filter.n_tags = (size_t)n_tags;
    return 0;
}

void stk_native_jobs_list(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const struct native *native = arg;
    stk_auto_free int *positions = NULL;
    struct list l = { 0 };
    struct stk_job_place next;
    struct stk_job_row *rows;
    struct stk_err err;
    json_t *jobs;
    size_t n;

    if (read_list(r, reply, &l) < 0)
        return;
    positions = calloc(l.filter.limit, sizeof *positions);
    if (!positions) {
        stk_native_error(reply, 500, "INTERNAL", "out of memory");
        return;
    }
    if (stk_job_list(native->core, &l.filter, &rows, &n, &next, &err) < 0) {
        stk_native_failed(reply, "list jobs", &err);
        return;
    }
    stk_job_look(native->core, rows, n, positions);
    jobs = json_array();
    for (size_t i = 0; i < n; i++) {
        if (!l.filter.states || l.states[rows[i].state])
            json_array_append_new(jobs, job_object(native->core, &rows[i], positions[i]));
    }
    stk_job_rows_free(rows, n);
    stk_reply_json_take(reply, 200, json_pack("{s:o, s:o}", "jobs", jobs, "next", cursor_of(&next)));
}

/* ---- one */

/* Its row as it is, or as it has become within the time. 1: it still goes on, 0: it has ended, -1: err. */
static int get_or_wait(const struct native *native, const char *id, int64_t wait_ms, struct stk_job_row *ret,
                       struct stk_err *err)
{
    if (wait_ms == 0)
        return stk_job_get(native->core, id, ret, err) < 0 ? -1 : !stk_job_is_final(ret->state);
    if (stk_job_wait(native->core, id, wait_ms, ret, err) == 0)
        return 0;
    return err->code == STK_TIMEOUT && ret->id[0] ? 1 : -1;
}

int stk_native_job_wait(const struct native *native, struct stk_request *r, struct stk_reply *reply,
                        struct stk_job_row *ret)
{
    static const char *const known[] = { "wait", NULL };
    int64_t wait_ms = 0;
    struct stk_err err;
    int rc;

    if (stk_native_query_known(r, reply, known) < 0 || stk_native_query_wait(r, reply, &wait_ms) < 0)
        return -1;
    if (wait_ms && !stk_request_wait_begin(r)) {
        stk_native_too_many_waiting(reply);
        return -1;
    }
    rc = get_or_wait(native, stk_request_param(r, "id"), wait_ms, ret, &err);
    if (wait_ms)
        stk_request_wait_end(r);
    if (rc < 0)
        stk_native_failed(reply, "get a job", &err);
    return rc < 0 ? -1 : 0;
}

void stk_native_jobs_get(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const struct native *native = arg;
    struct stk_job_row row;

    if (stk_native_job_wait(native, r, reply, &row) == 0)
        reply_job(native, reply, 200, &row);
}

/* ---- submit */

/* A term as the text that a query would have; numbers are taken too. */
static int read_term(struct stk_reply *reply, const json_t *body, const char *name, struct stk_job_terms *terms)
{
    const json_t *value = json_object_get(body, name);
    stk_auto_free char *text = NULL;
    struct stk_err err;

    if (!value || json_is_null(value))
        return 0;
    if (json_is_string(value))
        text = strdup(json_string_value(value));
    else if (json_is_integer(value))
        text = stk_json_text(value, NULL);
    else {
        stk_native_wrong(reply, name, "'%s' must be a text or a whole number", name);
        return -1;
    }
    if (!text) {
        stk_native_error(reply, 500, "INTERNAL", "out of memory");
        return -1;
    }
    if (stk_terms_set(terms, name, text, &err) >= 0)
        return 0;
    stk_native_wrong(reply, name, "%s", err.msg);
    return -1;
}

static int read_tags(struct stk_reply *reply, const json_t *body, char **ret)
{
    json_auto_t *tags = json_array();
    const json_t *posted = json_object_get(body, "tags"), *tag;
    struct stk_err err;
    size_t i;

    if (posted && !json_is_array(posted)) {
        stk_native_wrong(reply, "tags", "'tags' must be an array of texts");
        return -1;
    }
    json_array_foreach(posted, i, tag) {
        if (!json_is_string(tag)) {
            stk_native_wrong(reply, "tags", "'tags' must be an array of texts");
            return -1;
        }
        if (stk_tags_add(tags, json_string_value(tag), &err) < 0) {
            stk_native_wrong(reply, "tags", "%s", err.msg);
            return -1;
        }
    }
    if (stk_tags_text(tags, ret, &err) == 0)
        return 0;
    stk_native_failed(reply, "read tags", &err);
    return -1;
}

struct submit {
    json_t *body;
    char *config, *tags, *webhook;
    struct stk_job_spec spec;
    int64_t wait_ms;
};

static void submit_done(struct submit *s)
{
    json_decref(s->body);
    free(s->config);
    free(s->tags);
    free(s->webhook);
}

/* result_format and max_result, which stand in the config of the job. */
static int read_wish(struct stk_reply *reply, const json_t *body, json_t *config)
{
    static const char *const names[] = { "result_format", "max_result" };
    stk_auto_free char *bytes = NULL;
    const char *texts[STK_LEN(names)], *wrong;
    struct stk_err err;

    for (size_t i = 0; i < STK_LEN(names); i++) {
        const json_t *value = json_object_get(body, names[i]);

        texts[i] = json_string_value(value);
        if (i == 1 && json_is_integer(value))
            texts[i] = bytes = stk_json_text(value, NULL);
        if (value && !json_is_null(value) && !texts[i]) {
            stk_native_wrong(reply, names[i], "'%s' must be a text", names[i]);
            return -1;
        }
    }
    if (stk_result_wish(config, texts[0], texts[1], &wrong, &err) == 0)
        return 0;
    stk_native_wrong(reply,
                     strcmp(wrong, "result-format") == 0 ? names[0]
                     : strcmp(wrong, "max-result") == 0  ? names[1]
                                                         : wrong,
                     "%s", err.msg);
    return -1;
}

static int read_config(struct stk_reply *reply, struct submit *s)
{
    json_t *config = json_object_get(s->body, "config");

    if (config && !json_is_object(config)) {
        stk_native_wrong(reply, "config", "'config' must be an object");
        return -1;
    }
    if (!config) {
        config = json_object();
        json_object_set_new(s->body, "config", config);
    }
    if (config && read_wish(reply, s->body, config) < 0)
        return -1;
    s->config = stk_json_text(config, &s->spec.config_len);
    if (s->config)
        return 0;
    stk_native_error(reply, 500, "INTERNAL", "out of memory");
    return -1;
}

static int read_submit(const struct native *native, struct stk_request *r, struct stk_reply *reply, struct submit *s)
{
    static const char *const known[] = { "wait", NULL };
    static const char *const fields[] = { "app!",      "class!",        "context!",      "config",      "tags",
                                          "webhook",   "priority",      "queue_timeout", "run_timeout", "max_memory",
                                          "isolation", "result_format", "max_result",    NULL };
    enum { FIRST_TERM = 6, N_TERMS = 5 };
    struct stk_err err;

    if (stk_native_query_known(r, reply, known) < 0 || stk_native_query_wait(r, reply, &s->wait_ms) < 0)
        return -1;
    if (stk_idempotency_key(r, &s->spec.idempotency_key, &err) < 0) {
        stk_native_wrong(reply, "Idempotency-Key", "%s", err.msg);
        return -1;
    }
    if (stk_native_body(r, reply, fields, &s->body) < 0 || read_config(reply, s) < 0 ||
        read_tags(reply, s->body, &s->tags) < 0 || stk_native_webhook(native, reply, s->body, &s->webhook) < 0)
        return -1;
    s->spec.terms = STK_TERMS_UNSAID;
    for (size_t i = FIRST_TERM; i < FIRST_TERM + N_TERMS; i++) {
        if (read_term(reply, s->body, fields[i], &s->spec.terms) < 0)
            return -1;
    }
    s->spec.app = json_string_value(json_object_get(s->body, "app"));
    s->spec.class_path = json_string_value(json_object_get(s->body, "class"));
    s->spec.context = json_string_value(json_object_get(s->body, "context"));
    s->spec.config = s->config;
    s->spec.tags = s->tags;
    s->spec.webhook = s->webhook;
    return 0;
}

static void submit(const struct native *native, struct stk_reply *reply, const struct submit *s)
{
    enum { RECORD_MS = 5000 }; /* a commit, which nobody means to time out */
    struct stk_job_row row;
    struct stk_err err;
    char id[STK_UUID_MAX];
    int rc = stk_job_submit(native->core, &s->spec, s->wait_ms ? STK_WAIT_FINAL : STK_WAIT_ACCEPTED,
                            s->wait_ms ? s->wait_ms : RECORD_MS, &row, &err);

    if (rc < 0 && (err.code != STK_TIMEOUT || !row.id[0])) {
        stk_job_row_done(&row);
        stk_native_failed(reply, "submit a job", &err);
        return;
    }
    memcpy(id, row.id, sizeof id);
    reply_job(native, reply, stk_job_is_final(row.state) ? 200 : 202, &row);
    stk_native_location(reply, "/v1/jobs/", id);
}

void stk_native_jobs_post(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const struct native *native = arg;
    struct submit s = { 0 };

    if (read_submit(native, r, reply, &s) == 0) {
        if (s.wait_ms == 0) {
            submit(native, reply, &s);
        } else if (stk_request_wait_begin(r)) {
            submit(native, reply, &s);
            stk_request_wait_end(r);
        } else {
            stk_native_too_many_waiting(reply);
        }
    }
    submit_done(&s);
}

/* ---- cancel */

void stk_native_jobs_delete(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    static const char *const known[] = { "wait", NULL };
    const struct native *native = arg;
    const char *id = stk_request_param(r, "id");
    int64_t wait_ms = STK_NATIVE_STOP_WAIT_MS;
    enum stk_job_state before;
    struct stk_job_row row;
    struct stk_err err;
    int rc;

    if (stk_native_query_known(r, reply, known) < 0 || stk_native_query_wait(r, reply, &wait_ms) < 0)
        return;
    bool may_wait = wait_ms > 0 && stk_request_wait_begin(r); /* to stop must work when too many wait */

    rc = stk_job_cancel(native->core, id, may_wait ? wait_ms : 0, &before, &row, &err);
    if (may_wait)
        stk_request_wait_end(r);
    if (rc < 0 && (err.code != STK_TIMEOUT || stk_job_get(native->core, id, &row, &err) < 0))
        stk_native_failed(reply, "cancel a job", &err);
    else
        reply_job(native, reply, rc == 0 ? 200 : 202, &row);
}

/* ---- receipt */

void stk_native_jobs_receipt(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const struct native *native = arg;
    struct stk_job_row row;
    struct stk_err err;

    if (stk_job_get(native->core, stk_request_param(r, "id"), &row, &err) < 0) {
        stk_native_failed(reply, "get a receipt", &err);
        return;
    }
    if (row.receipt)
        stk_reply_json_take(reply, 200, stk_native_json(row.receipt));
    else
        stk_native_error(reply, 404, "NOT_FOUND", "nobody has asked for the end of this job");
    stk_job_row_done(&row);
}
