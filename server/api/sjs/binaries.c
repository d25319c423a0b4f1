#include "api/sjs/sjs.h"

#include "stoker/log.h"

#include <string.h>

void stk_sjs_binaries_list(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const struct sjs *sjs = arg;
    struct stk_binary_row *rows;
    struct stk_err err;
    json_t *body;
    size_t n;

    (void)r;
    if (stk_binary_list(sjs->core, &rows, &n, &err) < 0) {
        stk_sjs_failed(reply, "list binaries", &err);
        return;
    }
    body = json_object();
    for (size_t i = 0; i < n; i++)
        json_object_set_new(body, stk_text_data(rows[i].name), stk_sjs_binary(&rows[i], false));
    stk_binary_rows_free(rows, n);
    stk_reply_json_take(reply, 200, body);
}

void stk_sjs_binaries_get(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const struct sjs *sjs = arg;
    const char *name = stk_request_param(r, "app");
    struct stk_binary_row row;
    struct stk_err err;

    if (stk_binary_get(sjs->core, name, &row, &err) < 0) {
        if (err.code == STK_NOT_FOUND)
            stk_sjs_err(reply, 404, "Can't find binary with name %s", name);
        else
            stk_sjs_failed(reply, "get a binary", &err);
        return;
    }
    stk_reply_json_take(reply, 200, stk_sjs_binary(&row, true));
    stk_binary_row_done(&row);
}

static void upload_failed(struct stk_reply *reply, const struct stk_err *err)
{
    if (err->code == STK_INVALID || err->code == STK_FULL) {
        stk_sjs_failed(reply, "upload", err);
    } else if (err->code == STK_LIMIT) {
        stk_sjs_err(reply, 413, "%s", err->msg);
    } else if (err->code == STK_TIMEOUT) {
        stk_sjs_body_failed(reply, err);
    } else {
        stk_error("sjs", "upload failed", "error", err->msg);
        stk_sjs_exc(reply, 500, "Storage Failure", err->msg, "java.io.IOException", "");
    }
}

void stk_sjs_binaries_post(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const struct sjs *sjs = arg;
    const char *name = stk_request_param(r, "app"), *media = stk_request_header(r, "Content-Type");
    enum stk_binary_type type;
    struct stk_binary_row row;
    struct stk_upload *up;
    struct stk_err err;

    if (!media || !*media)
        media = "application/octet-stream";
    if (stk_media_type_find(media, &type) < 0) {
        stk_sjs_err(reply, 415, "Unsupported binary type %s", media);
        return;
    }
    if (stk_sjs_check_name(reply, "the binary's name", name) < 0)
        return;
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) { /* clients and proxies take them out of a path */
        stk_sjs_err(reply, 400, "the binary's name must not be '%s'", name);
        return;
    }
    up = stk_upload_open(sjs->core, &err);
    if (!up) {
        upload_failed(reply, &err);
        return;
    }
    if (stk_upload_receive(r, up, &err) < 0) {
        stk_upload_abort(up);
        upload_failed(reply, &err);
        return;
    }
    if (stk_upload_commit(up, name, type, &row, &err) < 0) {
        upload_failed(reply, &err);
        return;
    }
    stk_binary_row_done(&row);
    stk_sjs_ok(reply, 201, NULL);
}

void stk_sjs_binaries_delete(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const struct sjs *sjs = arg;
    const char *name = stk_request_param(r, "app");
    stk_auto_free char *jobs = NULL;
    struct stk_err err;

    if (stk_binary_delete(sjs->core, name, &jobs, &err) == 0) {
        stk_sjs_ok(reply, 200, NULL);
    } else if (err.code == STK_NOT_FOUND) {
        stk_sjs_err(reply, 404, "can't find binary with name %s", name);
    } else if (err.code == STK_CONFLICT) {
        stk_sjs_err(reply, 403, "Binary is in use by job(s): %s", jobs ? jobs : "");
    } else {
        stk_error("sjs", "binary not deleted", "error", err.msg);
        stk_sjs_err(reply, 500, "Failed to delete binary due to internal error. Check logs.");
    }
}
