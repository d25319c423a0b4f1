/* callbackUrl: the outcome of a job, as Spark Job Server posts it. */
#include "api/sjs/sjs.h"

#include <string.h>
#include <strings.h>

int stk_sjs_callback(const struct sjs *sjs, struct stk_request *r, struct stk_reply *reply, char **ret)
{
    const char *url = stk_request_query(r, "callbackUrl");
    stk_auto_buf text = { 0 };
    struct stk_err err;

    *ret = NULL;
    if (!url)
        return 0;
    *ret = stk_webhook_make(&sjs->options->webhooks, url, NULL, STK_WEBHOOK_SJS, &err);
    if (*ret)
        return 0;
    if (strncasecmp(url, "http://", 7) != 0 && strncasecmp(url, "https://", 8) != 0)
        stk_buf_add_str(&text, "Callback Url has to be 'http'/'https'");
    else
        stk_buf_printf(&text, "callbackUrl: %s", err.msg);
    stk_sjs_exc(reply, 400, "ERROR", text.data, "java.net.MalformedURLException", "");
    return -1;
}

/* {"jobId": ..., "result": and }, with the result in between as it was stored. */
static int word_result(struct stk_core *core, const struct stk_job_row *job, json_t *object, int64_t max_result,
                       struct stk_webhook_body *ret, struct stk_err *err)
{
    stk_auto_free char *text = NULL;
    bool has_result = job->result || job->result_file;
    json_t *elsewhere = stk_sjs_result_elsewhere(job);

    if (elsewhere) {
        json_object_set_new(object, "result", elsewhere);
        has_result = false;
    } else if (!has_result) { /* retention has removed it */
        json_object_set_new(object, "resultRemoved", json_true());
    } else if (job->result_bytes > max_result) {
        json_object_set_new(object, "resultTooLarge", json_integer(job->result_bytes));
        has_result = false;
    }
    if (!(text = json_dumps(object, JSON_COMPACT)))
        return stk_fail(err, STK_INTERNAL, "out of memory");
    if (!has_result)
        return stk_buf_add_str(&ret->head, text);
    text[strlen(text) - 1] = '\0';
    stk_buf_printf(&ret->head, "%s,\"result\":", text);
    if (job->result)
        stk_buf_add(&ret->head, stk_text_data(job->result), stk_text_len(job->result));
    else if ((ret->fd = stk_job_open_result(core, job, &ret->file_len, err)) < 0)
        return -1;
    return stk_buf_add_str(&ret->tail, "}");
}

int stk_api_sjs_webhook(struct stk_core *core, const struct stk_delivery_row *delivery, const struct stk_job_row *job,
                        int64_t max_result, struct stk_webhook_body *ret, struct stk_err *err)
{
    json_auto_t *object = json_pack("{s:s}", "jobId", job->id);
    stk_auto_free char *text = NULL;

    (void)delivery;
    if (!object)
        return stk_fail(err, STK_INTERNAL, "out of memory");
    if (job->state == STK_JOB_FINISHED)
        return word_result(core, job, object, max_result, ret, err);
    json_object_set_new(object, "status", json_string(stk_sjs_job_status(job->state)));
    json_object_set_new(object, "result", stk_sjs_job_error(job));
    if (!(text = json_dumps(object, JSON_COMPACT)))
        return stk_fail(err, STK_INTERNAL, "out of memory");
    return stk_buf_add_str(&ret->head, text);
}
