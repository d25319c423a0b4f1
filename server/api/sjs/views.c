#include "api/sjs/sjs.h"

#include "stoker/clock.h"

#include <stdio.h>
#include <string.h>

/* ---- words */

const char *stk_sjs_job_status(enum stk_job_state state)
{
    switch (state) {
    case STK_JOB_QUEUED:
    case STK_JOB_STARTING:
    case STK_JOB_RUNNING:
    case STK_JOB_CANCELLING: return "RUNNING";
    case STK_JOB_FINISHED: return "FINISHED";
    case STK_JOB_KILLED: return "KILLED";
    case STK_JOB_ERROR:
    case STK_JOB_INVALID:
    case STK_JOB_TIMED_OUT:
    case STK_JOB_LOST: break;
    }
    return "ERROR";
}

const char *stk_sjs_context_state(enum stk_context_state state)
{
    switch (state) {
    case STK_CONTEXT_CREATING: return "STARTED";
    case STK_CONTEXT_RUNNING: return "RUNNING";
    case STK_CONTEXT_STOPPING: return "STOPPING";
    case STK_CONTEXT_STOPPED: return "FINISHED";
    case STK_CONTEXT_LOST: return "KILLED";
    case STK_CONTEXT_FAILED: break;
    }
    return "ERROR";
}

const char *stk_sjs_binary_type(enum stk_binary_type type)
{
    switch (type) {
    case STK_BINARY_EGG: return "Egg";
    case STK_BINARY_ZIP: return "Zip";
    case STK_BINARY_WHEEL: return "Wheel";
    case STK_BINARY_JAR: break;
    }
    return "Jar";
}

const char *stk_sjs_duration(char buf[40], int64_t started_us, int64_t ended_us)
{
    int64_t ms = ended_us / 1000 - started_us / 1000;
    char number[32];
    size_t len, whole;

    if (ms < 0)
        ms = 0; /* the clock was set back */
    len = (size_t)snprintf(number, sizeof number, "%04lld", (long long)ms);
    whole = len - 3;
    while (len > whole + 1 && number[len - 1] == '0')
        len--;
    if (whole < 8) {
        snprintf(buf, 40, "%.*s.%.*s secs", (int)whole, number, (int)(len - whole), number + whole);
    } else { /* Java's form from 10^7 on: 1.2345678E7 */
        while (len > 2 && number[len - 1] == '0')
            len--;
        snprintf(buf, 40, "%c.%.*sE%zu secs", number[0], (int)len - 1, number + 1, whole - 1);
    }
    return buf;
}

/* ---- objects */

static json_t *text_or_empty(const struct stk_text *t)
{
    return stk_sjs_string(stk_text_data(t));
}

/* Sets unless value is NULL, which is out of memory; then gives up on the whole object. */
static json_t *with(json_t *object, const char *key, json_t *value_take)
{
    if (object && value_take && json_object_set_new(object, key, value_take) == 0)
        return object;
    if (!object)
        json_decref(value_take);
    json_decref(object);
    return NULL;
}

json_t *stk_sjs_job(const struct stk_job_row *row, const char *status)
{
    char started[STK_TIME_MAX], duration[40] = "Job not done yet";

    stk_time_local(started, row->submitted_us);
    if (row->ended_us && !status)
        stk_sjs_duration(duration, row->submitted_us, row->ended_us);
    return json_pack("{s:s, s:s, s:o, s:o, s:s, s:s, s:s}", "jobId", row->id, "startTime", started, "classPath",
                     text_or_empty(row->class_path), "context", text_or_empty(row->context_name), "contextId",
                     row->context_id, "duration", duration, "status", status ? status : stk_sjs_job_status(row->state));
}

json_t *stk_sjs_binary(const struct stk_binary_row *row, bool with_name)
{
    char uploaded[STK_TIME_MAX];
    json_t *object = json_object();

    if (with_name)
        object = with(object, "app-name", text_or_empty(row->name));
    object = with(object, "binary-type", json_string(stk_sjs_binary_type(row->type)));
    return with(object, "upload-time", json_string(stk_time_utc(uploaded, row->uploaded_us)));
}

json_t *stk_sjs_context(const struct stk_context_row *row)
{
    char started[STK_TIME_MAX], ended[STK_TIME_MAX] = "Empty";
    json_t *object;

    stk_time_utc(started, row->started_us);
    if (row->ended_us)
        stk_time_utc(ended, row->ended_us);
    object = json_pack("{s:s, s:o, s:s, s:s, s:s}", "id", row->id, "name", text_or_empty(row->name), "startTime",
                       started, "endTime", ended, "state", stk_sjs_context_state(row->state));
    if (!stk_context_is_final(row->state)) {
        if (row->application_id)
            object = with(object, "applicationId", text_or_empty(row->application_id));
        if (row->ui_url)
            object = with(object, "url", text_or_empty(row->ui_url));
    }
    if (row->error) {
        json_auto_t *error = json_loadb(stk_text_data(row->error), stk_text_len(row->error), 0, NULL);
        const char *message = json_string_value(json_object_get(error, "message"));

        object = with(object, "error", stk_sjs_string(message ? message : stk_text_data(row->error)));
    }
    return object;
}

/* ---- errors */

/* The error object of PROTOCOL.md section 7; texts are borrowed from object, NULL when absent. */
struct failure {
    json_t *object;
    const char *code, *message, *class, *raised_by, *traceback, *cause, *stderr_tail, *log_tail;
    const json_t *problems, *exit_code;
};

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text && *text ? text : NULL;
}

static struct failure failure_read(const char *text)
{
    json_t *object = text ? json_loads(text, 0, NULL) : NULL;
    const char *code = text_of(object, "code"), *message = text_of(object, "message");

    return (struct failure){
        .object = object,
        .code = code ? code : "UNKNOWN",
        .message = message ? message : "no reason was recorded",
        .class = text_of(object, "class"),
        .raised_by = text_of(object, "raised_by"),
        .traceback = text_of(object, "traceback"),
        .cause = text_of(object, "cause"),
        .stderr_tail = text_of(object, "stderr_tail"),
        .log_tail = text_of(object, "log_tail"),
        .problems = json_object_get(object, "problems"),
        .exit_code = json_object_get(object, "exit_code"),
    };
}

static bool is_code(const struct failure *f, const char *code)
{
    return strcmp(f->code, code) == 0;
}

/*
 * The method that an exception came out of, as Spark Job Server names it; NULL: out of none. Its code may say more than
 * SJS knows; only records of older versions, and what the server itself says, have nothing but that.
 */
static const char *method_of(const struct failure *f)
{
    if (f->raised_by)
        return strcmp(f->raised_by, "validate") == 0 ? "validate" : "run_job";
    return is_code(f, "USER_EXCEPTION") ? "run_job" : is_code(f, "VALIDATE_EXCEPTION") ? "validate" : NULL;
}

static json_t *error_object(const char *message, const char *class, const char *stack)
{
    return json_pack("{s:o, s:o, s:o}", "message", stk_sjs_string(message), "errorClass", stk_sjs_string(class),
                     "stack", stk_sjs_string(stack));
}

/* ValueError('Deliberate failure'), as Python's repr() shows it. */
static void add_repr(struct stk_buf *out, const char *class, const char *message)
{
    char quote = strchr(message, '\'') && !strchr(message, '"') ? '"' : '\'';

    stk_buf_printf(out, "%s(%c", class, quote);
    for (const char *p = message; *p; p++) {
        if (*p == '\n')
            stk_buf_add_str(out, "\\n");
        else if (*p == '\\' || *p == quote)
            stk_buf_printf(out, "\\%c", *p);
        else
            stk_buf_add(out, p, 1);
    }
    stk_buf_printf(out, "%c)", quote);
}

static void add_tail(struct stk_buf *out, const char *tail)
{
    size_t len = tail ? strlen(tail) : 0;

    while (len > 0 && tail[len - 1] == '\n')
        len--;
    if (len == 0)
        return;
    stk_buf_add_str(out, "\n");
    stk_buf_add(out, tail, len);
}

/* What Spark Job Server's own runner would have printed for it, and what ours knows beyond that. */
static void add_standard_error(struct stk_buf *out, const struct failure *f)
{
    const json_t *problem;
    size_t i;

    if (method_of(f)) {
        stk_buf_printf(out, "Error while calling '%s': ", method_of(f));
        add_repr(out, f->class ? f->class : "Exception", f->message);
    } else if (is_code(f, "VALIDATION_FAILED")) {
        stk_buf_add_str(out, "Validation problems in job, exiting");
        json_array_foreach(f->problems, i, problem) {
            if (json_is_string(problem))
                stk_buf_printf(out, "\n%s", json_string_value(problem));
        }
    } else if (f->class) {
        stk_buf_printf(out, "%s: %s", f->class, f->message);
    } else {
        stk_buf_add_str(out, f->message);
    }
    if (f->cause)
        stk_buf_printf(out, "\nCaused by: %s", f->cause);
    add_tail(out, f->stderr_tail);
}

static void add_message(struct stk_buf *out, const struct failure *f)
{
    if (json_is_integer(f->exit_code) && json_integer_value(f->exit_code) == 0) {
        stk_buf_printf(out, "Python job ran successfully but failed to write any jobOutput: %s", f->message);
        add_tail(out, f->stderr_tail);
    } else if (json_is_integer(f->exit_code)) {
        stk_buf_printf(out, "Python job failed with error code %lld and standard err [",
                       (long long)json_integer_value(f->exit_code));
        add_standard_error(out, f);
        stk_buf_add_str(out, "]");
    } else {
        add_standard_error(out, f);
    }
}

static json_t *python_error(const struct failure *f)
{
    stk_auto_buf message = { 0 };
    const char *class = f->class                          ? f->class
                        : is_code(f, "VALIDATION_FAILED") ? "sparkjobserver.api.ValidationProblem"
                                                          : f->code;

    add_message(&message, f);
    return message.failed ? NULL : error_object(message.data, class, f->traceback ? f->traceback : f->log_tail);
}

json_t *stk_sjs_job_error(const struct stk_job_row *row)
{
    struct failure f = failure_read(stk_text_data(row->error));
    json_auto_t *owner = f.object;
    const char *context = row->context_name ? stk_text_data(row->context_name) : "";
    char text[512];

    (void)owner;
    if (row->state == STK_JOB_KILLED) {
        snprintf(text, sizeof text, "Job %s killed", row->id);
        return error_object(text, "spark.jobserver.JobManagerActor$JobKilledException", f.traceback);
    }
    if (f.class)
        return python_error(
            &f); /* also of a context that ended under the job: it is the job's exception that is shown */
    if (is_code(&f, "CONTEXT_STOPPED")) {
        snprintf(text, sizeof text, "Context (%s) for this job was terminated", context);
        return error_object(text, "", "");
    }
    if (is_code(&f, "CONTEXT_LOST") || is_code(&f, "DRIVER_OUT_OF_MEMORY")) {
        snprintf(text, sizeof text, "Unexpected termination of context %s", row->context_id);
        return error_object(text, "spark.jobserver.JobManagerActor$ContextTerminatedException",
                            f.log_tail ? f.log_tail : f.message);
    }
    return python_error(&f);
}

json_t *stk_sjs_result_elsewhere(const struct stk_job_row *row)
{
    const struct stk_result_form *form = stk_result_form(row);
    stk_auto_buf path = { 0 };

    if (form == stk_result_form_at(0) || stk_buf_printf(&path, "/v1/jobs/%s/result", row->id) < 0)
        return NULL;
    return json_pack("{s:s, s:s, s:I, s:s}", "format", form->name, "mediaType", form->media_type, "bytes",
                     (json_int_t)row->result_bytes, "href", path.data);
}

json_t *stk_sjs_start_error(const char *error_json, const char *message)
{
    struct failure f = failure_read(error_json);
    json_auto_t *owner = f.object;
    stk_auto_buf text = { 0 }, stack = { 0 };

    stk_buf_add_str(&text, owner ? f.message : message);
    if (f.cause)
        stk_buf_printf(&text, "\nCaused by: %s", f.cause);
    stk_buf_add_str(&stack, f.traceback ? f.traceback : "");
    add_tail(&stack, f.log_tail);
    if (text.failed || stack.failed)
        return NULL;
    return error_object(text.data, f.class ? f.class : "java.lang.RuntimeException",
                        stack.data + (stack.data[0] == '\n'));
}
