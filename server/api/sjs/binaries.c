#include "api/sjs/sjs.h"

#include "stoker/log.h"

#include <string.h>
#include <strings.h>

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

/* The media type without its parameters. False: not one we take. */
static bool find_type(const char *media, enum stk_binary_type *ret)
{
    static const struct {
        const char *media;
        enum stk_binary_type type;
    } known[] = {
        { "application/java-archive", STK_BINARY_JAR },
        { "application/python-egg", STK_BINARY_EGG },
        { "application/python-archive", STK_BINARY_EGG },
        { "application/python-wheel", STK_BINARY_WHEEL },
        { "application/zip", STK_BINARY_ZIP },
    };
    size_t len = strcspn(media, "; \t");

    for (size_t i = 0; i < STK_LEN(known); i++) {
        if (strlen(known[i].media) == len && strncasecmp(known[i].media, media, len) == 0) {
            *ret = known[i].type;
            return true;
        }
    }
    return false;
}

static void upload_failed(struct stk_reply *reply, const struct stk_err *err)
{
    if (err->code == STK_INVALID || err->code == STK_FULL) {
        stk_sjs_failed(reply, "upload", err);
    } else if (err->code == STK_LIMIT) {
        stk_sjs_err(reply, 413, "%s", err->msg);
    } else {
        stk_error("sjs", "upload failed", "error", err->msg);
        stk_sjs_exc(reply, 500, "Storage Failure", err->msg, "java.io.IOException", "");
    }
}

/* The body into the upload. A zip begins with a local file header, and there is more than that. */
static int receive(struct stk_request *r, struct stk_reply *reply, struct stk_upload *up)
{
    enum { PIECE = 65536 };
    stk_auto_free char *piece = malloc(PIECE);
    size_t have = 0;
    ssize_t n = 0;
    struct stk_err err = { 0 };

    if (!piece) {
        stk_fail(&err, STK_INTERNAL, "out of memory");
        upload_failed(reply, &err);
        return -1;
    }
    while (have < 5 && (n = stk_request_read(r, piece + have, PIECE - have, &err)) > 0)
        have += (size_t)n;
    if (n >= 0 && (have < 5 || memcmp(piece, "PK\003\004", 4) != 0)) {
        stk_sjs_err(reply, 400, "Binary is not of the right format");
        return -1;
    }
    while (n > 0) {
        if (stk_upload_write(up, piece, have, &err) < 0) {
            upload_failed(reply, &err);
            return -1;
        }
        n = stk_request_read(r, piece, PIECE, &err);
        have = n > 0 ? (size_t)n : 0;
    }
    if (n < 0)
        stk_sjs_body_failed(reply, &err);
    return n < 0 ? -1 : 0;
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
    if (!find_type(media, &type)) {
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
    if (receive(r, reply, up) < 0) {
        stk_upload_abort(up);
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
