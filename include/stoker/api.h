/* One function per dialect. The dialect lives as long as the core; the caller frees nothing. */
#ifndef STOKER_API_H
#define STOKER_API_H

#include "stoker/binary.h"
#include "stoker/context.h"
#include "stoker/http.h"
#include "stoker/job.h"
#include "stoker/webhook.h"

struct stk_core;

/* What a dialect must know of the server's configuration; plain values, borrowed for the process's life. */
struct stk_api_options {
    int64_t context_create_timeout_ms;
    int64_t context_delete_timeout_ms;
    int64_t max_upload_bytes;
    int64_t max_body_bytes;
    json_t *context_settings; /* defaults for new contexts, as SJS's spark.context-settings; object */
    json_t *contexts;         /* name -> settings of those that start with the server; object */
    struct stk_webhook_rules webhooks;
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

/* Whether a client would rather not wait (RFC 7240, respond-async). */
bool stk_prefers_async(struct stk_request *r);

/*
 * What a job asks of its result, checked and put into its config, an object: result_wish.c. format, max: of the request, NULL: not said;
 * what the config says itself is checked too. STK_INVALID names what is wrong; *ret_wrong (NULL is fine) is "result-format" or
 * "max-result" when it is that of the request, else "config".
 */
int stk_result_wish(json_t *config, const char *format, const char *max, const char **ret_wrong, struct stk_err *err);

/* ---- context settings: settings.c. Pure but for the last. */

struct stk_setting {
    const char *path, *value;
};

/*
 * defaults < query < what was posted (NULL: nothing). query: n pairs, a dot in a path makes levels. A new object. STK_INVALID:
 * two of the query's paths clash, or one has an empty part.
 */
json_t *stk_settings_merge(const json_t *defaults, const struct stk_setting *query, size_t n, const json_t *posted,
                           struct stk_err *err);

/* What stk_context_create() is given; the name is the caller's. Zero-initialise, release with stk_context_wish_done(). */
struct stk_context_wish {
    struct stk_context_spec spec;
    json_t *spark_conf, *hadoop_conf, *python_paths, *settings;
};
/* STK_NOT_FOUND: the context factory is not known, err->msg is its name. STK_INVALID: another setting is wrong. */
int stk_settings_wish(struct stk_context_wish *ret, const char *name, const json_t *settings, struct stk_err *err);
void stk_context_wish_done(struct stk_context_wish *s);

/* A context's name must begin with a letter. */
bool stk_begins_with_letter(const char *name);

/* Tells the core what a create that names no setting asks for. Before the loop runs. */
int stk_settings_keep_warm(struct stk_core *core, const json_t *context_settings, struct stk_err *err);

/* Contexts that start with the server, as an object of name -> settings. STK_INVALID: a name or a setting is wrong. */
int stk_settings_check_contexts(const json_t *context_settings, const json_t *contexts, struct stk_err *err);
/*
 * Asks for those that are not there; how they start is logged by the core. Any thread but the loop; it may wait for the end of
 * those of the same names that are being stopped.
 */
void stk_settings_start_contexts(struct stk_core *core, const struct stk_api_options *options);

/* ---- uploads: upload.c */

/* By the media type of a Content-Type header, its parameters aside. -1: not one we take. */
int stk_media_type_find(const char *media, enum stk_binary_type *ret);
/* The body of a request into an upload. STK_INVALID: no zip archive (with this text, which is Spark Job Server's); STK_TOO_LARGE; STK_TIMEOUT: too slow. */
#define STK_NO_ARCHIVE "Binary is not of the right format"
int stk_upload_receive(struct stk_request *r, struct stk_upload *up, struct stk_err *err);

/* ---- the dialects */

/* What only Stoker has, under /v1 (docs/dialects/native.md). */
const struct stk_dialect *stk_api_native(struct stk_core *core, const struct stk_api_options *options);

/* Spark Job Server (docs/dialects/sjs.md). NULL when out of memory. */
const struct stk_dialect *stk_api_sjs(struct stk_core *core, const struct stk_api_options *options);

/* What they tell of a job's end. */
stk_webhook_word_fn stk_api_native_webhook, stk_api_sjs_webhook;

#endif
