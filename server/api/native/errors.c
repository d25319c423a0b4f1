/* The error object of a job or a context (docs/errors.md): all fields, in full, or short enough to be part of another. */
#include "api/native/native.h"

#include "stoker/buf.h"

#include <ctype.h>
#include <string.h>

enum { OBJECT_BYTES = 8192, TEXT_BYTES = 128 }; /* of the object as JSON; a text is not cut below that */

/* All fields, those first that may be cut. */
static const struct {
    const char *name;
    json_type type;
} fields[] = {
    { "traceback", JSON_STRING },    { "message", JSON_STRING },  { "cause", JSON_STRING },
    { "stderr_tail", JSON_STRING },  { "log_tail", JSON_STRING }, { "source", JSON_STRING },
    { "file", JSON_STRING },         { "class", JSON_STRING },    { "code", JSON_STRING },
    { "raised_by", JSON_STRING },    { "line", JSON_INTEGER },    { "exit_code", JSON_INTEGER },
    { "exit_status", JSON_INTEGER }, { "signal", JSON_INTEGER },  { "problems", JSON_ARRAY },
    { "retry", JSON_STRING },
};
enum { N_TEXTS = 8 };

static size_t size_of(const json_t *value)
{
    return json_dumpb(value, NULL, 0, JSON_COMPACT | JSON_ENCODE_ANY);
}

/* The beginning and the end of a text, with a note between; keep: bytes of both together. */
static json_t *cut(const char *text, size_t keep)
{
    stk_auto_buf out = { 0 };
    size_t len = strlen(text), head = stk_utf8_cut(text, keep / 2), tail = len - keep / 2;

    while (tail < len && ((unsigned char)text[tail] & 0xc0) == 0x80)
        tail++;
    stk_buf_add(&out, text, head);
    stk_buf_printf(&out, "\n... [%zu bytes cut] ...\n%s", tail - head, text + tail);
    return out.failed ? NULL : json_string(out.data);
}

/*
 * Halves the longest text, or the list of problems. whole: as it was; keep: bytes of each text that are left. False
 * when nothing is long.
 */
static bool shorten(json_t *object, const json_t *whole, size_t keep[N_TEXTS])
{
    json_t *problems = json_object_get(object, "problems");
    size_t longest = json_array_size(problems) > 1 ? size_of(problems) : 0;
    int found = -1;

    for (int i = 0; i < N_TEXTS; i++) {
        size_t size = keep[i] > TEXT_BYTES ? size_of(json_object_get(object, fields[i].name)) : 0;

        if (size > longest) {
            longest = size;
            found = i;
        }
    }
    if (longest == 0)
        return false;
    if (found < 0) {
        for (size_t left = json_array_size(problems) / 2; json_array_size(problems) > left;)
            json_array_remove(problems, json_array_size(problems) - 1);
        return true;
    }
    keep[found] /= 2;
    return json_object_set_new(object, fields[found].name,
                               cut(json_string_value(json_object_get(whole, fields[found].name)), keep[found])) == 0;
}

/* The path of the whole. Names of contexts may have any character. */
static json_t *path_of(const char *collection, const char *name)
{
    stk_auto_buf path = { 0 };

    stk_buf_printf(&path, "/v1/%s/", collection);
    for (const char *p = name; *p; p++) {
        if (isascii((unsigned char)*p) && (isalnum((unsigned char)*p) || strchr("-._~", *p)))
            stk_buf_add(&path, p, 1);
        else
            stk_buf_printf(&path, "%%%02X", (unsigned char)*p);
    }
    stk_buf_add_str(&path, "/error");
    return path.failed ? NULL : json_string(path.data);
}

/* What is of another type, from a runner that is not ours, counts as not there. */
json_t *stk_native_failure(const struct stk_text *error)
{
    json_t *object = stk_native_json(error);

    if (!json_is_object(object))
        return object;
    for (size_t i = 0; i < STK_LEN(fields); i++) {
        json_t *value = json_object_get(object, fields[i].name);

        if (!value || json_typeof(value) != fields[i].type)
            json_object_set_new(object, fields[i].name, json_null());
    }
    for (const char *const *must = (const char *const[]){ "code", "message", NULL }; *must; must++) {
        if (json_is_null(json_object_get(object, *must)))
            json_object_set_new(object, *must, json_string("UNKNOWN"));
    }
    if (json_is_null(json_object_get(object, "retry")))
        json_object_set_new(object, "retry", json_string("never"));
    return object;
}

json_t *stk_native_short_failure(const struct stk_text *error, const char *collection, const char *name)
{
    json_t *object = stk_native_failure(error);
    json_auto_t *whole = NULL;
    size_t keep[N_TEXTS];

    if (!json_is_object(object))
        return object;
    json_object_set_new(object, "full", json_null());
    if (size_of(object) <= OBJECT_BYTES)
        return object;
    json_object_set_new(object, "full", path_of(collection, name));
    whole = json_deep_copy(object);
    for (int i = 0; i < N_TEXTS; i++)
        keep[i] = json_string_length(json_object_get(whole, fields[i].name));
    while (size_of(object) > OBJECT_BYTES && shorten(object, whole, keep))
        ;
    return object;
}

static void reply_failure(struct stk_reply *reply, const struct stk_text *error, const char *without)
{
    if (error)
        stk_reply_json_take(reply, 200, stk_native_failure(error));
    else
        stk_native_error(reply, 404, "NOT_FOUND", without);
}

void stk_native_jobs_error(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const struct native *native = arg;
    struct stk_job_row row;
    struct stk_err err;

    if (stk_job_get(native->core, stk_request_param(r, "id"), &row, &err) < 0) {
        stk_native_failed(reply, "get the error of a job", &err);
        return;
    }
    reply_failure(reply, row.error, "this job has no error");
    stk_job_row_done(&row);
}

void stk_native_contexts_error(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const struct native *native = arg;
    struct stk_context_row row;
    struct stk_err err;

    if (stk_context_get(native->core, stk_request_param(r, "name"), &row, &err) < 0) {
        stk_native_failed(reply, "get the error of a context", &err);
        return;
    }
    reply_failure(reply, row.error, "this context has no error");
    stk_context_row_done(&row);
}
