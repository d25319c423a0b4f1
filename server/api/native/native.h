/* What the files of the native API share. Nobody else includes this. */
#ifndef STOKER_API_NATIVE_H
#define STOKER_API_NATIVE_H

#include "stoker/api.h"
#include "stoker/context.h"
#include "stoker/job.h"

struct native {
    struct stk_core *core;
    const struct stk_api_options *options;
    int64_t started_us, started_mono_ms;
};

/* ---- handlers (arg is a struct native) */

stk_handler stk_native_jobs_list, stk_native_jobs_get, stk_native_jobs_receipt, stk_native_jobs_post,
    stk_native_jobs_delete;
stk_handler stk_native_contexts_list, stk_native_contexts_get, stk_native_contexts_post, stk_native_contexts_delete;
stk_handler stk_native_binaries_list, stk_native_binaries_get, stk_native_binaries_put, stk_native_binaries_delete;
stk_handler stk_native_objects_list, stk_native_objects_delete;
stk_handler stk_native_server;
stk_handler stk_native_jobs_logs, stk_native_contexts_logs;
stk_handler stk_native_jobs_error, stk_native_contexts_error; /* errors.c */
stk_handler stk_native_jobs_result;                           /* results.c */
stk_handler stk_native_events;
stk_handler stk_native_metrics;
stk_handler stk_native_deliveries; /* webhooks.c */

/* ---- jobs.c */

json_t *stk_native_job(const struct stk_job_row *row); /* one that does not wait */

/* ---- webhooks.c */

/* The field `webhook` of a new job: *ret is what stk_job_spec takes, the caller's to free(); NULL: it has none. */
int stk_native_webhook(const struct native *native, struct stk_reply *reply, const json_t *body, char **ret);

/* ---- jobs.c */

/*
 * The job that the path names, as it is or as it has become within the parameter `wait`, the only one that there may be. 0 with its row
 * (release it); -1: replied.
 */
int stk_native_job_wait(const struct native *native, struct stk_request *r, struct stk_reply *reply,
                        struct stk_job_row *ret);

/* ---- render.c */

/* {"error": {"code", "message"}}, the one form of every error of this API. */
void stk_native_error(struct stk_reply *reply, int status, const char *code, const char *message);
/* 400, with the name of the query parameter or of the field of the body that is wrong. */
void stk_native_wrong(struct stk_reply *reply, const char *field, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void stk_native_failed(struct stk_reply *reply, const char *what, const struct stk_err *err);
void stk_native_render_error(struct stk_reply *reply, int status, const char *message);

/* The same of a request's body that could not be read. */
void stk_native_body_failed(struct stk_reply *reply, const struct stk_err *err);
void stk_native_too_many_waiting(struct stk_reply *reply);
/* The header Location: the folder, "/v1/contexts/", and a name in it. */
void stk_native_location(struct stk_reply *reply, const char *folder, const char *name);

/* New references; NULL gives null. */
json_t *stk_native_text(const struct stk_text *text);
json_t *stk_native_json(const struct stk_text *text); /* text that is JSON */
json_t *stk_native_time(int64_t wall_us);             /* "2026-01-31T12:00:00.000Z"; 0 gives null */

/* ---- progress.c */

struct stk_progress;
struct stk_progress_news;
json_t *stk_native_progress(const struct stk_progress *progress); /* a new reference */
/* A server-sent event without a number: it is no place to go on from. NULL when out of memory; else the caller's to free(). */
char *stk_native_progress_event(const struct stk_progress_news *news, size_t *ret_len);
#define STK_NATIVE_PROGRESS "job.progress" /* its type */

/* ---- params.c: reading requests. 0, or -1 with the reply filled. */

/*
 * Refuses query parameters that are not named here, since a filter that is passed over gives wrong answers, and those that come twice
 * unless their name ends in "*", which is no part of it. names: NULL-ended.
 */
int stk_native_query_known(struct stk_request *r, struct stk_reply *reply, const char *const *names);
/* These leave *value alone when the query does not have the name. */
int stk_native_query_int(struct stk_request *r, struct stk_reply *reply, const char *name, int min, int max,
                         int *value);
int stk_native_query_time(struct stk_request *r, struct stk_reply *reply, const char *name, int64_t *value);
/* The parameter `wait`: how long the answer may take, 0 to STK_NATIVE_WAIT_MAX_MS. */
int stk_native_query_wait(struct stk_request *r, struct stk_reply *reply, int64_t *ms);
enum {
    STK_NATIVE_WAIT_MAX_MS = 600000,
    STK_NATIVE_STOP_WAIT_MS = 30000 /* what ends something waits so long unless told otherwise */
};
/* All values of a repeatable parameter; returns how many, at most max, borrowed from the request; -1: more. */
int stk_native_query_all(struct stk_request *r, struct stk_reply *reply, const char *name, const char **values,
                         int max);

/* true or false */
int stk_native_query_bool(struct stk_request *r, struct stk_reply *reply, const char *name, bool *value);

/*
 * The body as a JSON object: a new reference. fields: NULL-ended, the names it may have; one with "!" behind it must be there, as a
 * text that is not empty.
 */
int stk_native_body(struct stk_request *r, struct stk_reply *reply, const char *const *fields, json_t **ret);
/* ---- errors.c */

/* A recorded error object with all its fields; NULL gives null. */
json_t *stk_native_failure(const struct stk_text *error);
/* The same in at most 8 KiB: long texts are cut in the middle, and `full` is the path of the whole. Of collection/name. */
json_t *stk_native_short_failure(const struct stk_text *error, const char *collection, const char *name);

#endif
