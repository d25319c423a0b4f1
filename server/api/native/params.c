#include "api/native/native.h"

#include "stoker/clock.h"
#include "stoker/units.h"

#include <stdio.h>
#include <string.h>

/* ---- which parameters there are */

/* How many of that name the query has before the i-th. */
static size_t seen_before(struct stk_request *r, size_t i, const char *name)
{
    size_t n = 0;

    for (size_t j = 0; j < i; j++)
        n += strcmp(stk_request_query_at(r, j, NULL), name) == 0;
    return n;
}

/* NULL: it is not one of them. *ret_many: it may come several times. */
static const char *find_name(const char *const *names, const char *name, bool *ret_many)
{
    size_t len = strlen(name);

    for (; *names; names++) {
        if (strcspn(*names, "*") != len || strncmp(*names, name, len) != 0)
            continue;
        *ret_many = (*names)[len] == '*';
        return *names;
    }
    return NULL;
}

static void unknown_parameter(struct stk_reply *reply, const char *name, const char *const *names)
{
    stk_auto_buf known = { 0 };

    for (size_t i = 0; names[i]; i++)
        stk_buf_printf(&known, "%s%.*s", i ? ", " : "", (int)strcspn(names[i], "*"), names[i]);
    stk_native_wrong(reply, name, "there is no query parameter '%.40s' here; there %s: %s", name,
                     names[0] && names[1] ? "are" : "is", known.data ? known.data : "none");
}

int stk_native_query_known(struct stk_request *r, struct stk_reply *reply, const char *const *names)
{
    for (size_t i = 0; i < stk_request_query_count(r); i++) {
        const char *name = stk_request_query_at(r, i, NULL);
        bool many;

        if (!find_name(names, name, &many)) {
            unknown_parameter(reply, name, names);
            return -1;
        }
        if (!many && seen_before(r, i, name) > 0) {
            stk_native_wrong(reply, name, "'%s' may be given once only", name);
            return -1;
        }
    }
    return 0;
}

/* ---- their values */

int stk_native_query_int(struct stk_request *r, struct stk_reply *reply, const char *name, int min, int max, int *value)
{
    const char *text = stk_request_query(r, name);
    int64_t n;

    if (!text)
        return 0;
    if (stk_parse_i64(text, min, max, &n, NULL) < 0) {
        stk_native_wrong(reply, name, "'%s' must be a whole number from %d to %d, not '%.40s'", name, min, max, text);
        return -1;
    }
    *value = (int)n;
    return 0;
}

int stk_native_query_time(struct stk_request *r, struct stk_reply *reply, const char *name, int64_t *value)
{
    const char *text = stk_request_query(r, name);

    if (!text || stk_time_parse(text, value) == 0)
        return 0;
    stk_native_wrong(
        reply, name,
        "'%s' must be a time such as 2026-01-31T12:00:00Z or 2026-01-31T14:00:00.500%%2B02:00, not '%.40s'", name,
        text);
    return -1;
}

int stk_native_query_bool(struct stk_request *r, struct stk_reply *reply, const char *name, bool *value)
{
    const char *text = stk_request_query(r, name);

    if (!text)
        return 0;
    *value = strcmp(text, "true") == 0;
    if (*value || strcmp(text, "false") == 0)
        return 0;
    stk_native_wrong(reply, name, "'%s' must be true or false, not '%.40s'", name, text);
    return -1;
}

int stk_native_query_wait(struct stk_request *r, struct stk_reply *reply, int64_t *ms)
{
    const char *text = stk_request_query(r, "wait");

    if (!text)
        return 0;
    if (stk_parse_duration_ms(text, ms) == 0 && *ms <= STK_NATIVE_WAIT_MAX_MS)
        return 0;
    stk_native_wrong(reply, "wait", "'wait' must be a time from 0 to 10min such as 30s, not '%.40s'", text);
    return -1;
}

int stk_native_query_all(struct stk_request *r, struct stk_reply *reply, const char *name, const char **values, int max)
{
    int n = 0;

    for (size_t i = 0; i < stk_request_query_count(r); i++) {
        const char *value;

        if (strcmp(stk_request_query_at(r, i, &value), name) != 0)
            continue;
        if (n == max) {
            stk_native_wrong(reply, name, "'%s' may be given %d times at most", name, max);
            return -1;
        }
        values[n++] = value;
    }
    return n;
}

/* ---- bodies */

enum { DEPTH_MAX = 48 }; /* levels: jansson takes the stack for each, and an HTTP thread has 100 KiB of it */

static bool is_too_deep(const char *text, size_t len)
{
    bool in_string = false;
    int depth = 0;

    for (size_t i = 0; i < len; i++) {
        if (in_string && text[i] == '\\')
            i++;
        else if (text[i] == '"')
            in_string = !in_string;
        else if (!in_string && (text[i] == '{' || text[i] == '[') && ++depth > DEPTH_MAX)
            return true;
        else if (!in_string && (text[i] == '}' || text[i] == ']'))
            depth--;
    }
    return false;
}

static json_t *parse(struct stk_reply *reply, const struct stk_buf *text)
{
    json_error_t error;
    json_t *body;

    if (is_too_deep(text->data, text->len)) {
        stk_native_error(reply, 400, "INVALID", "the body has more than 48 levels of objects and arrays");
        return NULL;
    }
    body = json_loadb(text->data ? text->data : "", text->len, JSON_REJECT_DUPLICATES, &error);
    if (!body) {
        char message[240];

        snprintf(message, sizeof message, "the body is not JSON: line %d, column %d: %s", error.line, error.column,
                 error.text);
        stk_native_error(reply, 400, "INVALID", message);
    } else if (!json_is_object(body)) {
        stk_native_error(reply, 400, "INVALID", "the body must be a JSON object");
        json_decref(body);
        body = NULL;
    }
    return body;
}

static int check_fields(struct stk_reply *reply, const json_t *body, const char *const *fields)
{
    stk_auto_buf known = { 0 };
    const char *key;
    json_t *value;

    for (size_t i = 0; fields[i]; i++) {
        size_t len = strcspn(fields[i], "!");
        json_t *field = json_object_getn(body, fields[i], len);

        stk_buf_printf(&known, "%s%.*s", i ? ", " : "", (int)len, fields[i]);
        if (fields[i][len] && (!json_is_string(field) || json_string_length(field) == 0)) {
            char name[32];

            snprintf(name, sizeof name, "%.*s", (int)len, fields[i]);
            stk_native_wrong(reply, name, "'%s' must be there, a text that is not empty", name);
            return -1;
        }
    }
    json_object_foreach((json_t *)(uintptr_t)body, key, value) {
        bool found = false;

        for (size_t i = 0; fields[i]; i++)
            found |= strncmp(fields[i], key, strlen(key)) == 0 && strlen(key) == strcspn(fields[i], "!");
        if (!found) {
            stk_native_wrong(reply, key, "there is no field '%.40s'; there are: %s", key, known.data);
            return -1;
        }
    }
    return 0;
}

int stk_native_body(struct stk_request *r, struct stk_reply *reply, const char *const *fields, json_t **ret)
{
    stk_auto_buf text = { 0 };
    struct stk_err err;
    json_t *body;

    if (stk_request_read_all(r, &text, &err) < 0) {
        stk_native_body_failed(reply, &err);
        return -1;
    }
    if (!(body = parse(reply, &text)))
        return -1;
    if (check_fields(reply, body, fields) < 0) {
        json_decref(body);
        return -1;
    }
    *ret = body;
    return 0;
}
