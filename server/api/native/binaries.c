#include "api/native/native.h"

#include <string.h>

static json_t *version_object(const struct stk_binary_row *row)
{
    return json_pack("{s:o, s:I, s:s, s:s, s:I, s:o}", "name", stk_native_text(row->name), "version",
                     (json_int_t)row->version, "type", stk_binary_type_name(row->type), "digest", row->digest, "bytes",
                     (json_int_t)row->bytes, "uploaded_at", stk_native_time(row->uploaded_us));
}

/* Takes the rows. */
static json_t *version_list(struct stk_binary_row *rows_take, size_t n)
{
    json_t *list = json_array();

    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, version_object(&rows_take[i]));
    stk_binary_rows_free(rows_take, n);
    return list;
}

void stk_native_binaries_list(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    static const char *const known[] = { NULL };
    const struct native *native = arg;
    struct stk_binary_row *rows;
    struct stk_err err;
    size_t n;

    if (stk_native_query_known(r, reply, known) < 0)
        return;
    if (stk_binary_list(native->core, &rows, &n, &err) < 0)
        stk_native_failed(reply, "list binaries", &err);
    else
        stk_reply_json_take(reply, 200, json_pack("{s:o}", "binaries", version_list(rows, n)));
}

void stk_native_binaries_get(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const struct native *native = arg;
    const char *name = stk_request_param(r, "name");
    struct stk_binary_row *rows;
    struct stk_err err;
    size_t n;

    if (stk_binary_versions(native->core, name, &rows, &n, &err) < 0)
        stk_native_failed(reply, "get a binary", &err);
    else
        stk_reply_json_take(reply, 200, json_pack("{s:s, s:o}", "name", name, "versions", version_list(rows, n)));
}

/* ---- upload */

/* By the parameter `type`, else by the header Content-Type. */
static int read_type(struct stk_request *r, struct stk_reply *reply, enum stk_binary_type *ret)
{
    const char *type = stk_request_query(r, "type"), *media = stk_request_header(r, "Content-Type");
    char text[200];

    if (type) {
        if (stk_binary_type_parse(type, ret) == 0)
            return 0;
        stk_native_wrong(reply, "type", "'type' must be one of egg, zip, wheel, jar, not '%.40s'", type);
        return -1;
    }
    if (media && stk_media_type_find(media, ret) == 0)
        return 0;
    snprintf(
        text, sizeof text,
        "the header Content-Type must be one of application/python-egg, application/python-wheel, application/zip, "
        "application/java-archive, or the parameter 'type' must say what it is");
    stk_native_error(reply, 415, "UNSUPPORTED_TYPE", text);
    return -1;
}

static int check_name(struct stk_reply *reply, const char *name)
{
    struct stk_err err;

    if (stk_name_check("the binary's name", name, 255, &err) < 0) {
        stk_native_wrong(reply, "name", "%s", err.msg);
        return -1;
    }
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) { /* clients and proxies take them out of a path */
        stk_native_wrong(reply, "name", "the binary's name must not be '%s'", name);
        return -1;
    }
    return 0;
}

void stk_native_binaries_put(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    static const char *const known[] = { "type", NULL };
    const struct native *native = arg;
    const char *name = stk_request_param(r, "name");
    enum stk_binary_type type;
    struct stk_binary_row row;
    struct stk_upload *up;
    struct stk_err err;

    if (stk_native_query_known(r, reply, known) < 0 || read_type(r, reply, &type) < 0 || check_name(reply, name) < 0)
        return;
    up = stk_upload_open(native->core, &err);
    if (up && stk_upload_receive(r, up, &err) < 0) {
        stk_upload_abort(up);
        up = NULL;
    }
    if (!up || stk_upload_commit(up, name, type, &row, &err) < 0) {
        stk_native_body_failed(reply, &err);
        return;
    }
    stk_reply_json_take(reply, 201, version_object(&row));
    stk_native_location(reply, "/v1/binaries/", name);
    stk_binary_row_done(&row);
}

/* ---- delete */

void stk_native_binaries_delete(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const struct native *native = arg;
    const char *name = stk_request_param(r, "name");
    stk_auto_free char *jobs = NULL;
    struct stk_err err;

    if (stk_binary_delete(native->core, name, &jobs, &err) == 0) {
        stk_reply_status(reply, 204);
        return;
    }
    if (err.code == STK_NOT_FOUND)
        stk_fail(&err, STK_NOT_FOUND, "binary %.100s not found", name);
    else if (err.code == STK_CONFLICT)
        stk_fail(&err, STK_CONFLICT, "it is in use by jobs that have not ended: %s", jobs ? jobs : "");
    stk_native_failed(reply, "delete a binary", &err);
}
