/* What the files of the Spark Job Server dialect share. Nobody else includes this. */
#ifndef STOKER_API_SJS_H
#define STOKER_API_SJS_H

#include "stoker/api.h"
#include "stoker/binary.h"
#include "stoker/context.h"
#include "stoker/job.h"

struct sjs {
    struct stk_core *core;
    const struct stk_api_options *options;
};

/* ---- handlers (arg is a struct sjs) */

stk_handler stk_sjs_binaries_list, stk_sjs_binaries_get, stk_sjs_binaries_post, stk_sjs_binaries_delete;
stk_handler stk_sjs_jars_list, stk_sjs_jars_post;
stk_handler stk_sjs_contexts_reset;
stk_handler stk_sjs_contexts_list, stk_sjs_contexts_get, stk_sjs_contexts_post, stk_sjs_contexts_delete;
stk_handler stk_sjs_data_list, stk_sjs_data_post, stk_sjs_data_delete, stk_sjs_data_reset;
stk_handler stk_sjs_jobs_list, stk_sjs_jobs_get, stk_sjs_jobs_config, stk_sjs_jobs_post, stk_sjs_jobs_delete;

/* ---- adhoc.c: jobs that name no context */

#define STK_SJS_ADHOC_MAX 256
/*
 * Begins a context for one job, which ends soon after it, with the settings in the job's config; its start goes on by itself. 0 with its
 * name, or -1 with the reply filled.
 */
int stk_sjs_adhoc_begin(const struct sjs *sjs, struct stk_reply *reply, const json_t *config, const char *class_path,
                        char name[STK_SJS_ADHOC_MAX]);

/* ---- contexts.c: what its settings lack; the answer to stk_settings_wish() or stk_settings_merge() that failed */
void stk_sjs_settings_failed(struct stk_reply *reply, const struct stk_err *err);

/* ---- render.c: reply bodies */

void stk_sjs_ok(struct stk_reply *reply, int status, const char *result); /* result NULL: none */
void stk_sjs_err(struct stk_reply *reply, int status, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* {"status": status_text, "result": {message, errorClass, stack}}; NULL texts are "". */
void stk_sjs_exc(struct stk_reply *reply, int status, const char *status_text, const char *message,
                 const char *error_class, const char *stack);
/* The answer to what no route words by itself; what is the server's own fault is logged. */
void stk_sjs_failed(struct stk_reply *reply, const char *what, const struct stk_err *err);
void stk_sjs_too_many_waiting(struct stk_reply *reply);
void stk_sjs_render_error(struct stk_reply *reply, int status, const char *message);

/* A JSON string of text that may not be UTF-8; NULL gives "". */
json_t *stk_sjs_string(const char *text);

/* ---- views.c: jobs, contexts and binaries as SJS shows them. Pure; new references, NULL when out of memory. */

const char *stk_sjs_job_status(enum stk_job_state state);
const char *stk_sjs_context_state(enum stk_context_state state);
const char *stk_sjs_binary_type(enum stk_binary_type type);
/* "4.685 secs"; buf is returned. As Java prints milliseconds / 1000.0. */
const char *stk_sjs_duration(char buf[40], int64_t started_us, int64_t ended_us);
/* status: NULL for the job's own. */
json_t *stk_sjs_job(const struct stk_job_row *row, const char *status);
/* {message, errorClass, stack} of a job that ended without a result. */
json_t *stk_sjs_job_error(const struct stk_job_row *row);
/* {format, mediaType, bytes, href} of a result that JSON cannot hold; NULL: it is JSON. */
json_t *stk_sjs_result_elsewhere(const struct stk_job_row *row);
json_t *stk_sjs_context(const struct stk_context_row *row);
json_t *stk_sjs_binary(const struct stk_binary_row *row, bool with_name);
/* The same of a PROTOCOL.md error object as text (NULL: none) for a context that could not be started. */
json_t *stk_sjs_start_error(const char *error_json, const char *message);

/* ---- callback.c */

/* The parameter callbackUrl: *ret is what stk_job_spec takes, the caller's to free(); NULL: there is none. -1: the reply is filled. */
int stk_sjs_callback(const struct sjs *sjs, struct stk_request *r, struct stk_reply *reply, char **ret);

/* ---- params.c: reading requests. 0, or -1 with the reply filled. */

int stk_sjs_query_bool(struct stk_request *r, struct stk_reply *reply, const char *name, bool *value);
int stk_sjs_query_int(struct stk_request *r, struct stk_reply *reply, const char *name, int *value);
/* reset=reboot, which whoever resets something must say. */
int stk_sjs_query_reset(struct stk_request *r, struct stk_reply *reply);
/* The body as HOCON: a new object. */
int stk_sjs_body(struct stk_request *r, struct stk_reply *reply, json_t **ret);
/* An answer to a body that could not be read. */
void stk_sjs_upload_failed(struct stk_reply *reply, const struct stk_err *err);
void stk_sjs_body_failed(struct stk_reply *reply, const struct stk_err *err);
/* 1..255 bytes of text without control characters; what names the field. */
int stk_sjs_check_name(struct stk_reply *reply, const char *what, const char *name);

#endif
