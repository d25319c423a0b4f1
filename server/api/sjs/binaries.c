#include "api/sjs/sjs.h"

#include "stoker/clock.h"
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

void stk_sjs_upload_failed(struct stk_reply *reply, const struct stk_err *err)
{
    if (err->code != STK_INTERNAL) {
        stk_sjs_body_failed(reply, err);
        return;
    }
    stk_error("sjs", "upload failed", "error", err->msg);
    stk_sjs_exc(reply, 500, "Storage Failure", err->msg, "java.io.IOException", "");
}

/* The body as a new version of the name; no_archive says that it is none. 0, or -1 with the reply filled. */
static int store(const struct sjs *sjs, struct stk_request *r, struct stk_reply *reply, enum stk_binary_type type,
                 const char *no_archive)
{
    const char *name = stk_request_param(r, "app");
    struct stk_binary_row row;
    struct stk_upload *up;
    struct stk_err err;

    if (stk_sjs_check_name(reply, "the binary's name", name) < 0)
        return -1;
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) { /* clients and proxies take them out of a path */
        stk_sjs_err(reply, 400, "the binary's name must not be '%s'", name);
        return -1;
    }
    up = stk_upload_open(sjs->core, &err);
    if (up && stk_upload_receive(r, up, &err) < 0) {
        stk_upload_abort(up);
        up = NULL;
    }
    if (!up || stk_upload_commit(up, name, type, &row, &err) < 0) {
        if (strcmp(err.msg, STK_NO_ARCHIVE) == 0)
            stk_sjs_err(reply, 400, "%s", no_archive);
        else
            stk_sjs_upload_failed(reply, &err);
        return -1;
    }
    stk_binary_row_done(&row);
    return 0;
}

void stk_sjs_binaries_post(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const char *media = stk_request_header(r, "Content-Type");
    enum stk_binary_type type;

    if (!media || !*media)
        media = "application/octet-stream";
    if (stk_media_type_find(media, &type) < 0)
        stk_sjs_err(reply, 415, "Unsupported binary type %s", media);
    else if (store(arg, r, reply, type, STK_NO_ARCHIVE) == 0)
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

/* ---- /jars, which SJS had until 0.10 */

void stk_sjs_jars_list(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const struct sjs *sjs = arg;
    struct stk_binary_row *rows;
    char uploaded[STK_TIME_MAX];
    struct stk_err err;
    json_t *body;
    size_t n;

    (void)r;
    if (stk_binary_list(sjs->core, &rows, &n, &err) < 0) {
        stk_sjs_failed(reply, "list jars", &err);
        return;
    }
    body = json_object();
    for (size_t i = 0; i < n; i++) {
        if (rows[i].type == STK_BINARY_JAR)
            json_object_set_new(body, stk_text_data(rows[i].name),
                                json_string(stk_time_utc(uploaded, rows[i].uploaded_us)));
    }
    stk_binary_rows_free(rows, n);
    stk_reply_json_take(reply, 200, body);
}

void stk_sjs_jars_post(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    if (store(arg, r, reply, STK_BINARY_JAR, "Jar is not of the right format") == 0)
        stk_sjs_ok(reply, 200, "Jar uploaded");
}
