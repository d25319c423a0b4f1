#include "api/sjs/sjs.h"

#include "stoker/log.h"

#include <ctype.h>
#include <string.h>

/* ---- read */

/* Replies with object and, beside it, the job's result, which is sent as it was stored. */
static void reply_with_result(const struct sjs *sjs, struct stk_reply *reply, const struct stk_job_row *row,
                              json_t *object_take)
{
    json_t *elsewhere = stk_sjs_result_elsewhere(row);
    struct stk_err err;
    uint64_t len;
    int fd;

    if (elsewhere) {
        json_object_set_new(object_take, "result", elsewhere);
        stk_reply_json_take(reply, 200, object_take);
        return;
    }
    if (row->result) {
        stk_reply_json_splice_take(reply, 200, object_take, "result", stk_text_data(row->result),
                                   stk_text_len(row->result));
        return;
    }
    if (!row->result_file) { /* retention has removed it */
        json_object_set_new(object_take, "resultRemoved", json_true());
        stk_reply_json_take(reply, 200, object_take);
        return;
    }
    fd = stk_job_open_result(sjs->core, row, &len, &err);
    if (fd < 0 && err.code == STK_NOT_FOUND) { /* just now */
        json_object_set_new(object_take, "resultRemoved", json_true());
        stk_reply_json_take(reply, 200, object_take);
        return;
    }
    if (fd < 0) {
        json_decref(object_take);
        stk_sjs_failed(reply, "open a result", &err);
        return;
    }
    stk_reply_json_splice_file_take(reply, 200, object_take, "result", fd, len);
}

static bool has_failed(enum stk_job_state state)
{
    return stk_job_is_final(state) && state != STK_JOB_FINISHED;
}

/* The job object of a job, with its error when it ended in one. */
static json_t *job_with_error(const struct stk_job_row *row)
{
    json_t *object = stk_sjs_job(row, NULL);

    if (has_failed(row->state))
        json_object_set_new(object, "result", stk_sjs_job_error(row));
    return object;
}

static void no_such_job(struct stk_reply *reply, const char *id, const char *what, const struct stk_err *err)
{
    if (err->code == STK_NOT_FOUND)
        stk_sjs_err(reply, 404, "No such job ID %s", id);
    else
        stk_sjs_failed(reply, what, err);
}

void stk_sjs_jobs_get(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const struct sjs *sjs = arg;
    const char *id = stk_request_param(r, "id");
    struct stk_job_row row;
    struct stk_err err;

    if (stk_job_get(sjs->core, id, &row, &err) < 0) {
        no_such_job(reply, id, "get a job", &err);
        return;
    }
    if (row.state == STK_JOB_FINISHED)
        reply_with_result(sjs, reply, &row, stk_sjs_job(&row, NULL));
    else
        stk_reply_json_take(reply, 200, job_with_error(&row));
    stk_job_row_done(&row);
}

void stk_sjs_jobs_config(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const struct sjs *sjs = arg;
    const char *id = stk_request_param(r, "id");
    json_auto_t *config = NULL;
    stk_auto_text text = NULL;
    struct stk_err err;
    size_t len = 0;
    char *pretty;

    if (stk_job_config(sjs->core, id, &text, &err) < 0) {
        no_such_job(reply, id, "get a config", &err);
        return;
    }
    config = json_loadb(stk_text_data(text), stk_text_len(text), 0, NULL);
    pretty = stk_json_pretty(config, &len);
    stk_reply_bytes_take(reply, 200, "application/json", pretty, len);
}

/* The core's states that SJS calls by this name; false: none. */
static bool find_states(const char *status, bool states[STK_JOB_STATES])
{
    char upper[16];
    bool any = false;
    size_t i;

    for (i = 0; status[i] && i < sizeof upper - 1; i++)
        upper[i] = (char)toupper((unsigned char)status[i]);
    upper[i] = '\0';
    for (i = 0; i < STK_JOB_STATES; i++) {
        states[i] = !status[strlen(upper)] && strcmp(stk_sjs_job_status((enum stk_job_state)i), upper) == 0;
        any |= states[i];
    }
    return any;
}

void stk_sjs_jobs_list(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const struct sjs *sjs = arg;
    const char *status = stk_request_query(r, "status");
    bool states[STK_JOB_STATES];
    struct stk_job_filter filter = { .states = status ? states : NULL };
    struct stk_job_row *rows = NULL;
    int limit = 50;
    size_t n = 0;
    struct stk_err err;
    json_t *body;

    if (stk_sjs_query_int(r, reply, "limit", &limit) < 0)
        return;
    filter.limit = limit > 0 ? (size_t)limit : 0;
    if (filter.limit > 0 && (!status || find_states(status, states)) &&
        stk_job_list(sjs->core, &filter, &rows, &n, NULL, &err) < 0) {
        stk_sjs_failed(reply, "list jobs", &err);
        return;
    }
    body = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(body, job_with_error(&rows[i]));
    stk_job_rows_free(rows, n);
    stk_reply_json_take(reply, 200, body);
}

/* ---- start */

struct start {
    bool sync;
    int timeout_s;
    json_t *config;
    json_t *binaries; /* names and URIs, in order */
    const char *app;  /* the one that jobs are listed by */
    const char *class_path;
    const char *context; /* NULL: one for this job alone */
    struct stk_job_terms terms;
    const char *idempotency_key;
    char *tags;
    char *webhook;
};

static void start_done(struct start *s)
{
    json_decref(s->config);
    json_decref(s->binaries);
    free(s->tags);
    free(s->webhook);
}

/* "a,b" as Spark Job Server splits it: nothing is trimmed. */
static void add_names(json_t *names, const char *list)
{
    for (const char *p = list; *p;) {
        size_t len = strcspn(p, ",");

        if (len > 0)
            json_array_append_new(names, json_stringn(p, len));
        p += len;
        if (*p == ',')
            p++;
    }
}

static void add_names_of(json_t *names, const json_t *value)
{
    const json_t *item;
    size_t i;

    if (json_is_string(value))
        add_names(names, json_string_value(value));
    json_array_foreach(value, i, item) {
        if (json_is_string(item))
            json_array_append_new(names, json_string(json_string_value(item)));
    }
}

/* A text to go by: an empty one counts as missing. */
static const char *given(const char *text)
{
    return text && *text ? text : NULL;
}

/* Checks 5 to 7 of the reference. appName with classPath is the older pair and wins over cp with mainClass. */
static int read_class(struct stk_request *r, struct stk_reply *reply, struct start *s)
{
    const char *app = given(stk_request_query(r, "appName")), *cp = stk_request_query(r, "cp");
    const json_t *posted_cp = json_object_get(s->config, "cp");

    if (app) {
        add_names_of(s->binaries, json_object_get(s->config, "dependent-jar-uris"));
        json_array_append_new(s->binaries, json_string(app));
        s->app = app;
        s->class_path = given(stk_request_query(r, "classPath"));
        if (!s->class_path)
            stk_sjs_err(reply, 400, "Cannot parse config: classPath parameter is missing!");
        return s->class_path ? 0 : -1;
    }
    if (!cp && !json_is_string(posted_cp) && !json_is_array(posted_cp)) {
        stk_sjs_err(reply, 400, "Cannot parse config: To start the job appName or cp parameters should be configured!");
        return -1;
    }
    if (cp)
        add_names(s->binaries, cp);
    else
        add_names_of(s->binaries, posted_cp);
    s->app = json_string_value(json_array_get(s->binaries, 0));
    s->class_path = given(stk_request_query(r, "mainClass"));
    if (!s->class_path)
        s->class_path = given(json_string_value(json_object_get(s->config, "mainClass")));
    if (!s->class_path)
        stk_sjs_err(reply, 400, "Cannot parse config: mainClass parameter is missing!");
    return s->class_path ? 0 : -1;
}

static bool is_uri(const char *name)
{
    size_t scheme = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+.-");

    return scheme > 1 && strncmp(name + scheme, ":/", 2) == 0;
}

/* Check 8: names that are not there; URIs are none of these. */
static int check_binaries(const struct sjs *sjs, struct stk_reply *reply, const struct start *s)
{
    const json_t *item;
    size_t i;

    json_array_foreach(s->binaries, i, item) {
        const char *name = json_string_value(item);
        struct stk_binary_row row;
        struct stk_err err;

        if (is_uri(name))
            continue;
        if (stk_binary_get(sjs->core, name, &row, &err) < 0) {
            if (err.code == STK_NOT_FOUND)
                stk_sjs_err(reply, 404, "appName %s not found", name);
            else
                stk_sjs_failed(reply, "get a binary", &err);
            return -1;
        }
        stk_binary_row_done(&row);
    }
    return 0;
}

/* Checks 10 and 12. */
static int check_context(const struct sjs *sjs, struct stk_reply *reply, const char *name)
{
    struct stk_context_row row;
    enum stk_context_state state;
    struct stk_err err;

    if (stk_context_get(sjs->core, name, &row, &err) < 0) {
        if (err.code == STK_NOT_FOUND)
            stk_sjs_err(reply, 404, "context %s not found", name);
        else
            stk_sjs_failed(reply, "get a context", &err);
        return -1;
    }
    state = row.state;
    stk_context_row_done(&row);
    if (stk_context_is_final(state))
        stk_sjs_err(reply, 404, "context %s not found", name);
    else if (state == STK_CONTEXT_STOPPING)
        stk_sjs_err(reply, 409, "Context stop in progress");
    else
        return 0;
    return -1;
}

/* Checks 13 and 14: what a job with these binaries would fail with. Only the odd cases come here, the usual one is the core's. */
static int check_uris(const struct sjs *sjs, struct stk_reply *reply, const struct start *s)
{
    size_t n = json_array_size(s->binaries), uris = 0;
    const json_t *item;
    size_t i;

    json_array_foreach(s->binaries, i, item)
        uris += is_uri(json_string_value(item));
    if (n > 0 && n <= STK_JOB_BINARIES_MAX && uris == 0)
        return 0;
    if (check_binaries(sjs, reply, s) < 0 || (s->context && check_context(sjs, reply, s->context) < 0))
        return -1;
    if (uris > 0) {
        stk_sjs_exc(reply, 400, "JOB LOADING FAILED: Malformed URL",
                    "URIs are not supported: upload the file to /binaries and name it",
                    "java.net.MalformedURLException", "");
    } else {
        char text[120];

        snprintf(text, sizeof text, "A job has 1 to %d package files! Found: %zu", STK_JOB_BINARIES_MAX, n);
        stk_sjs_exc(reply, 400, "JOB LOADING FAILED", text, "java.lang.Exception", "");
    }
    return -1;
}

static int read_start(const struct sjs *sjs, struct stk_request *r, struct stk_reply *reply, struct start *s)
{
    struct stk_err err;

    s->timeout_s = 10;
    s->context = given(stk_request_query(r, "context"));
    s->binaries = json_array();
    if (stk_sjs_query_bool(r, reply, "sync", &s->sync) < 0 || stk_sjs_query_int(r, reply, "timeout", &s->timeout_s) < 0)
        return -1;
    if (stk_terms_query(r, &s->terms, &err) < 0 || stk_idempotency_key(r, &s->idempotency_key, &err) < 0 ||
        stk_tags_query(r, &s->tags, &err) < 0) {
        stk_sjs_err(reply, 400, "%s", err.msg);
        return -1;
    }
    if (stk_sjs_body(r, reply, &s->config) < 0)
        return -1;
    if (stk_result_wish(s->config, stk_request_query(r, "result-format"), stk_request_query(r, "max-result"), NULL,
                        &err) < 0) {
        stk_sjs_err(reply, 400, "%s", err.msg);
        return -1;
    }
    if (stk_sjs_callback(sjs, r, reply, &s->webhook) < 0 || read_class(r, reply, s) < 0)
        return -1;
    if (!s->context && check_binaries(sjs, reply, s) < 0) /* before one is made */
        return -1;
    return check_uris(sjs, reply, s);
}

static void sync_ended(const struct sjs *sjs, struct stk_reply *reply, const struct stk_job_row *row)
{
    json_t *object = json_pack("{s:s}", "jobId", row->id);

    if (row->state == STK_JOB_FINISHED) {
        reply_with_result(sjs, reply, row, object);
        return;
    }
    json_object_set_new(
        object, "status",
        json_string(row->state == STK_JOB_INVALID ? "VALIDATION FAILED" : stk_sjs_job_status(row->state)));
    json_object_set_new(object, "result", stk_sjs_job_error(row));
    stk_reply_json_take(reply, row->state == STK_JOB_INVALID ? 400 : 200, object);
}

static void start_timed_out(struct stk_reply *reply, const struct stk_job_row *row)
{
    json_t *body = json_object();

    if (row->id[0])
        json_object_set_new(body, "jobId", json_string(row->id));
    json_object_set_new(body, "status", json_string("ERROR"));
    json_object_set_new(
        body, "result",
        json_string("Request timed out. Try using the /jobs/<jobID>, /jobs APIs to get status/results"));
    stk_reply_json_take(reply, 500, body);
}

static void start_failed(struct stk_reply *reply, const struct stk_err *err)
{
    if (err->code == STK_CONFLICT) {
        stk_sjs_err(reply, 409, "%s", err->msg); /* "Context stop in progress", or an Idempotency-Key used otherwise */
    } else if (err->code == STK_LIMIT) {
        stk_reply_json_take(reply, 503, json_pack("{s:s, s:s}", "status", "NO SLOTS AVAILABLE", "result", err->msg));
        stk_reply_header(reply, "Retry-After", "1");
    } else {
        stk_sjs_failed(reply, "start a job", err);
    }
}

/* The answer of a job with this Idempotency-Key, for which no other context shall start. false: there is none. */
static bool submit_again(const struct sjs *sjs, const struct stk_job_spec *spec, enum stk_job_wait wait,
                         int64_t timeout_ms, struct stk_job_row *row, int *rc, struct stk_err *err)
{
    if (!spec->adhoc || !spec->idempotency_key)
        return false;
    *rc = stk_job_submit(sjs->core, spec, wait, timeout_ms, row, err); /* there is no context without a name */
    return *rc == 0 || err->code != STK_NOT_FOUND;
}

/* 0: row, -1: err, both as stk_job_submit() says; 1: the reply is filled. */
static int submit(const struct sjs *sjs, struct stk_reply *reply, const struct start *s, struct stk_job_spec *spec,
                  int64_t timeout_ms, struct stk_job_row *row, struct stk_err *err)
{
    enum stk_job_wait wait = s->sync ? STK_WAIT_FINAL : STK_WAIT_ACCEPTED;
    char name[STK_SJS_ADHOC_MAX];
    int rc;

    if (submit_again(sjs, spec, wait, timeout_ms, row, &rc, err))
        return rc;
    if (spec->adhoc) {
        if (stk_sjs_adhoc_begin(sjs, reply, s->config, s->class_path, name) < 0)
            return 1;
        spec->context = name;
    }
    rc = stk_job_submit(sjs->core, spec, wait, timeout_ms, row, err);
    if (rc < 0 && spec->adhoc && !row->id[0])
        stk_context_delete(sjs->core, name, true, 0, NULL);
    return rc;
}

static void start(const struct sjs *sjs, struct stk_reply *reply, const struct start *s)
{
    stk_auto_free char *config = NULL;
    struct stk_job_row row = { 0 };
    struct stk_err err;
    size_t config_len = 0, n;
    int64_t timeout_ms = (int64_t)s->timeout_s * 1000;
    const char *names[STK_JOB_BINARIES_MAX];
    const json_t *item;
    int rc;

    if (timeout_ms < (s->sync ? 0 : 1000)) /* to accept a job takes a commit, which no client means to time out */
        timeout_ms = s->sync ? 0 : 1000;
    config = stk_json_text(s->config, &config_len);
    if (!config) {
        stk_sjs_err(reply, 500, "out of memory");
        return;
    }
    json_array_foreach(s->binaries, n, item)
        names[n] = json_string_value(item);
    struct stk_job_spec spec = {
        .context = s->context ? s->context : "",
        .adhoc = !s->context,
        .app = s->app,
        .binaries = names,
        .n_binaries = n,
        .class_path = s->class_path,
        .config = config,
        .config_len = config_len,
        .terms = s->terms,
        .idempotency_key = s->idempotency_key,
        .tags = s->tags,
        .webhook = s->webhook,
    };

    rc = submit(sjs, reply, s, &spec, timeout_ms, &row, &err);
    if (rc == 0 && s->sync)
        sync_ended(sjs, reply, &row);
    else if (rc == 0)
        stk_reply_json_take(reply, 202, stk_sjs_job(&row, "STARTED"));
    else if (rc < 0 && err.code == STK_TIMEOUT)
        start_timed_out(reply, &row);
    else if (rc < 0)
        start_failed(reply, &err);
    stk_job_row_done(&row);
}

void stk_sjs_jobs_post(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const struct sjs *sjs = arg;
    struct start s = { 0 };

    if (read_start(sjs, r, reply, &s) == 0) {
        if (!s.sync) {
            start(sjs, reply, &s);
        } else if (stk_request_wait_begin(r)) {
            start(sjs, reply, &s);
            stk_request_wait_end(r);
        } else {
            stk_sjs_too_many_waiting(reply);
        }
    }
    start_done(&s);
}

/* ---- kill */

static void killed(struct stk_reply *reply, const char *id, enum stk_job_state before, const struct stk_job_row *row)
{
    if (row->state == STK_JOB_KILLED && !stk_job_is_final(before)) {
        stk_reply_json_take(reply, 200, json_pack("{s:s}", "status", "KILLED"));
    } else if (row->state == STK_JOB_KILLED || row->state == STK_JOB_FINISHED) { /* also when it won the race */
        stk_sjs_err(reply, 404, "No running job with ID %s", id);
    } else {
        stk_reply_json_take(reply, 200, json_pack("{s:s, s:o}", "status", "ERROR", "ERROR", stk_sjs_job_error(row)));
    }
}

void stk_sjs_jobs_delete(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    enum { WAIT_MS = 30000, SHORT_WAIT_MS = 1000 };
    const struct sjs *sjs = arg;
    const char *id = stk_request_param(r, "id");
    enum stk_job_state before = STK_JOB_QUEUED;
    struct stk_job_row row = { 0 };
    struct stk_err err;
    bool may_wait = stk_request_wait_begin(r); /* killing must work when too many wait: then it waits for less */
    int rc = stk_job_cancel(sjs->core, id, may_wait ? WAIT_MS : SHORT_WAIT_MS, &before, &row, &err);

    if (may_wait)
        stk_request_wait_end(r);
    if (rc == 0) {
        killed(reply, id, before, &row);
        stk_job_row_done(&row);
    } else if (err.code == STK_TIMEOUT) { /* it was asked to stop and will: what SJS means by this answer */
        stk_reply_json_take(reply, 202,
                            json_pack("{s:s, s:s}", "status", "KILLED", "result", "the job is still being stopped"));
    } else {
        no_such_job(reply, id, "kill a job", &err);
    }
}
