/* /data: files that jobs open by their path. */
#include "api/sjs/sjs.h"

#include "stoker/data_file.h"
#include "stoker/log.h"

#include <string.h>

void stk_sjs_data_list(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const struct sjs *sjs = arg;
    struct stk_err err;
    json_t *list = stk_data_list(sjs->core, &err);

    (void)r;
    if (list)
        stk_reply_json_take(reply, 200, list);
    else
        stk_sjs_failed(reply, "list data files", &err);
}

static int receive(struct stk_request *r, struct stk_data_upload *up, struct stk_err *err)
{
    enum { PIECE = 65536 };
    stk_auto_free char *piece = malloc(PIECE);
    ssize_t n;

    if (!piece)
        return stk_fail(err, STK_INTERNAL, "out of memory");
    while ((n = stk_request_read(r, piece, PIECE, err)) > 0) {
        if (stk_data_upload_write(up, piece, (size_t)n, err) < 0)
            return -1;
    }
    return n < 0 ? -1 : 0;
}

/* "Failed to store ..." is what SJS says, whatever the cause; ours is beside it. */
static void upload_failed(struct stk_reply *reply, const char *prefix, const struct stk_err *err)
{
    stk_auto_free char *text = NULL;

    switch (err->code) {
    case STK_INVALID:
        if (asprintf(&text, "Failed to store data file '%s'.", prefix) < 0)
            text = NULL;
        stk_reply_json_take(reply, 400,
                            json_pack("{s:s, s:o, s:o}", "status", "ERROR", "result", stk_sjs_string(text), "reason",
                                      stk_sjs_string(err->msg)));
        break;
    default: stk_sjs_body_failed(reply, err); break;
    }
}

void stk_sjs_data_post(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const struct sjs *sjs = arg;
    const char *prefix = stk_request_param(r, "prefix");
    stk_auto_free char *path = NULL;
    struct stk_data_upload *up;
    struct stk_err err;

    if (stk_name_check("the file's name", prefix, 255, &err) < 0 ||
        !(up = stk_data_upload_open(sjs->core, prefix, &err))) {
        upload_failed(reply, prefix, &err);
        return;
    }
    if (receive(r, up, &err) < 0) {
        stk_data_upload_abort(up);
        upload_failed(reply, prefix, &err);
        return;
    }
    path = stk_data_upload_commit(up, &err);
    if (path)
        stk_reply_json_take(reply, 200, json_pack("{s:{s:s}}", "result", "filename", path));
    else
        upload_failed(reply, prefix, &err);
}

void stk_sjs_data_delete(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const struct sjs *sjs = arg;
    const char *path = stk_request_param(r, "path");
    struct stk_err err;

    if (stk_data_delete(sjs->core, path, &err) == 0)
        stk_sjs_ok(reply, 200, NULL);
    else if (err.code == STK_NOT_FOUND)
        stk_sjs_err(reply, 400, "Unable to delete data file '%s'.", path);
    else
        stk_sjs_failed(reply, "delete a data file", &err);
}

void stk_sjs_data_reset(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const struct sjs *sjs = arg;
    bool sync = true;
    struct stk_err err;

    if (stk_sjs_query_reset(r, reply) < 0 || stk_sjs_query_bool(r, reply, "sync", &sync) < 0)
        return;
    if (stk_data_reset(sjs->core, &err) == 0) {
        stk_sjs_ok(reply, 200, sync ? "Data reset" : "Data reset requested");
    } else {
        stk_error("sjs", "data files not deleted", "error", err.msg);
        stk_sjs_err(reply, 400, "Unable to delete data folder");
    }
}
