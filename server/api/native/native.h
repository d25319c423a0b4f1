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

stk_handler stk_native_jobs_list, stk_native_jobs_get, stk_native_jobs_receipt;
stk_handler stk_native_contexts_get;

/* ---- render.c */

/* {"error": {"code", "message"}}, the one form of every error of this API. */
void stk_native_error(struct stk_reply *reply, int status, const char *code, const char *message);
/* 400, with the name of the query parameter or of the field of the body that is wrong. */
void stk_native_wrong(struct stk_reply *reply, const char *field, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void stk_native_failed(struct stk_reply *reply, const char *what, const struct stk_err *err);
void stk_native_render_error(struct stk_reply *reply, int status, const char *message);

/* New references; NULL gives null. */
json_t *stk_native_text(const struct stk_text *text);
json_t *stk_native_json(const struct stk_text *text); /* text that is JSON */
json_t *stk_native_time(int64_t wall_us);             /* "2026-01-31T12:00:00.000Z"; 0 gives null */

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
enum { STK_NATIVE_WAIT_MAX_MS = 600000 };
/* All values of a repeatable parameter; returns how many, at most max, borrowed from the request; -1: more. */
int stk_native_query_all(struct stk_request *r, struct stk_reply *reply, const char *name, const char **values,
                         int max);

#endif
