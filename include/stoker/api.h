/* One function per dialect. The dialect lives as long as the core; the caller frees nothing. */
#ifndef STOKER_API_H
#define STOKER_API_H

#include "stoker/http.h"
#include "stoker/job.h"

struct stk_core;

/* What a dialect must know of the server's configuration; plain values, borrowed for the process's life. */
struct stk_api_options {
    int64_t context_create_timeout_ms;
    int64_t context_delete_timeout_ms;
    int64_t max_upload_bytes;
    int64_t max_body_bytes;
    json_t *context_settings; /* defaults for new contexts, as SJS's spark.context-settings; object */
};

/* ---- what dialects share: terms.c. Any thread. */

/* One of "priority", "queue-timeout", "run-timeout", "max-memory", "isolation". 1: set; 0: not a name of these; -1: STK_INVALID names it. */
int stk_terms_set(struct stk_job_terms *terms, const char *name, const char *text, struct stk_err *err);
/* A duration for "queue-timeout" and its like, in ms: 1, or -1 with STK_INVALID. */
int stk_clock_set(const char *name, const char *text, int64_t *ret, struct stk_err *err);
/* All terms that a request's query names; the others are STK_UNSAID. */
int stk_terms_query(struct stk_request *r, struct stk_job_terms *terms, struct stk_err *err);
/* The header Idempotency-Key; *ret is NULL without it, else borrowed from the request. */
int stk_idempotency_key(struct stk_request *r, const char **ret, struct stk_err *err);

/*
 * One more tag of a job: 1 to 64 bytes of text without control characters, at most STK_JOB_TAGS_MAX of them; one that is there
 * already is passed over. STK_INVALID says what is wrong.
 */
int stk_tags_add(json_t *tags, const char *tag, struct stk_err *err);
/* All parameters `tag` of a request's query. *ret is what stk_job_spec.tags takes, the caller's to free(); NULL: there is none. */
int stk_tags_query(struct stk_request *r, char **ret, struct stk_err *err);
/* The text of such a list; NULL for an empty one. */
int stk_tags_text(const json_t *tags, char **ret, struct stk_err *err);

/*
 * A name that a client gives to something: 1 to 255 bytes of UTF-8 without control characters. STK_INVALID, with what ("the
 * context's name") and what is wrong with it.
 */
int stk_name_check(const char *what, const char *name, size_t max, struct stk_err *err);

/* ---- the dialects */

/* What only Stoker has, under /v1 (docs/dialects/native.md). */
const struct stk_dialect *stk_api_native(struct stk_core *core, const struct stk_api_options *options);

/* Spark Job Server (docs/dialects/sjs.md). NULL when out of memory. */
/* Tells the core what a create that names no setting asks for. Before the loop runs. */
int stk_sjs_keep_warm(struct stk_core *core, const json_t *context_settings, struct stk_err *err);
const struct stk_dialect *stk_api_sjs(struct stk_core *core, const struct stk_api_options *options);

#endif
