/* What the files of the native API share. Nobody else includes this. */
#ifndef STOKER_API_NATIVE_H
#define STOKER_API_NATIVE_H

#include "stoker/api.h"
#include "stoker/context.h"
#include "stoker/job.h"

struct native {
    struct stk_core *core;
    const struct stk_api_options *options;
};

/* ---- handlers (arg is a struct native) */

stk_handler stk_native_jobs_get, stk_native_jobs_receipt;
stk_handler stk_native_contexts_get;
stk_handler stk_native_jobs_logs, stk_native_contexts_logs;
stk_handler stk_native_jobs_error, stk_native_contexts_error; /* errors.c */

/* ---- render.c */

/* {"error": {"code", "message"}}, the one form of every error of this API. */
void stk_native_error(struct stk_reply *reply, int status, const char *code, const char *message);
void stk_native_failed(struct stk_reply *reply, const char *what, const struct stk_err *err);
void stk_native_render_error(struct stk_reply *reply, int status, const char *message);

/* New references; NULL gives null. */
json_t *stk_native_text(const struct stk_text *text);
json_t *stk_native_json(const struct stk_text *text); /* text that is JSON */
json_t *stk_native_time(int64_t wall_us);             /* "2026-01-31T12:00:00.000Z"; 0 gives null */

/* ---- errors.c */

/* A recorded error object with all its fields; NULL gives null. */
json_t *stk_native_failure(const struct stk_text *error);
/* The same in at most 8 KiB: long texts are cut in the middle, and `full` is the path of the whole. Of collection/name. */
json_t *stk_native_short_failure(const struct stk_text *error, const char *collection, const char *name);

#endif
