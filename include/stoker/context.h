/*
 * Contexts: one Spark application each (one JVM, one SparkContext) with its zygote, keeper and workers.
 * Thread rules as in job.h.
 */
#ifndef STOKER_CONTEXT_H
#define STOKER_CONTEXT_H

#include "stoker/buf.h"
#include "stoker/err.h"
#include "stoker/job.h"

#include <jansson.h>

/* CREATING -> RUNNING -> STOPPING -> STOPPED;  CREATING -> STOPPING | FAILED;  RUNNING, STOPPING -> LOST | FAILED */
enum stk_context_state {
    STK_CONTEXT_CREATING,
    STK_CONTEXT_RUNNING,
    STK_CONTEXT_STOPPING,
    STK_CONTEXT_STOPPED, /* by request */
    STK_CONTEXT_FAILED,  /* could not start, or the SparkContext ended by itself */
    STK_CONTEXT_LOST,    /* its processes vanished */
};
#define STK_CONTEXT_STATES (STK_CONTEXT_LOST + 1)

const char *stk_context_state_name(enum stk_context_state state);
int stk_context_state_parse(const char *name, enum stk_context_state *ret);
bool stk_context_is_final(enum stk_context_state state);
bool stk_context_may_move(enum stk_context_state from, enum stk_context_state to);

struct stk_context_row {
    char id[STK_UUID_MAX];
    struct stk_text *name;
    struct stk_text
        *spec; /* JSON: what stk_context_create() was given, completed with defaults; NULL when read by a list */
    enum stk_context_state state;
    struct stk_text *application_id; /* NULL until RUNNING */
    struct stk_text *ui_url;         /* NULL: none */
    struct stk_text *error;          /* JSON object of PROTOCOL.md section 7, for FAILED and LOST */
    int max_jobs;
    int64_t started_us, ended_us; /* ended_us 0: not yet */
};
void stk_context_row_done(struct stk_context_row *row);
void stk_context_row_copy(struct stk_context_row *to, const struct stk_context_row *from); /* texts by reference */
void stk_context_rows_free(struct stk_context_row *rows, size_t n);

struct stk_context_spec {
    const char *name;
    const char *kind;           /* "session", "spark", "sql", "hive", "custom" */
    json_t *spark_conf;         /* borrowed; object of strings, beats the server's defaults */
    json_t *hadoop_conf;        /* borrowed; object of strings, or NULL */
    json_t *python_paths;       /* borrowed; array of strings, or NULL */
    json_t *settings;           /* borrowed; what jobs see as runtime.contextConfig */
    int max_jobs;               /* 0: the server's default */
    struct stk_job_terms terms; /* of its jobs, unless they say otherwise; STK_UNSAID: the server's default */
    int64_t idle_timeout_ms,
        lifetime_ms;          /* it ends when it had no job for so long, is so old. 0: never; STK_UNSAID as above */
    int64_t max_result_bytes; /* of its jobs; the server's limit holds all the same. 0: not said */
};

/* STK_UP: until Spark runs; STK_RECORDED: until it is recorded, its start goes on by itself. */
enum stk_context_wait { STK_UP, STK_RECORDED };

/*
 * Creates a context and waits. 0: *ret (release it). STK_CONFLICT: a context of that name is there.
 * STK_LIMIT: too many contexts. STK_RUNNER: it could not be started; *ret_error, when not NULL, is the JSON error object
 * (the caller's to unref) and nothing is left behind. STK_TIMEOUT: it is recorded and goes on being created.
 */
int stk_context_create(struct stk_core *core, const struct stk_context_spec *spec, enum stk_context_wait wait,
                       int64_t timeout_ms, struct stk_context_row *ret, struct stk_text **ret_error,
                       struct stk_err *err);

/*
 * Ends a context and its jobs and waits until all its processes are gone. STK_NOT_FOUND: none of that name is up.
 * STK_TIMEOUT: it goes on being stopped. STK_LIMIT: the server is stopping, and the next one may start it again. force: SIGKILL
 * at once.
 */
int stk_context_delete(struct stk_core *core, const char *name, bool force, int64_t timeout_ms, struct stk_err *err);

/* How far the start of a living context has come: new array of {"phase", "ms" since it was asked for}; NULL: not known. */
json_t *stk_context_phases(struct stk_core *core, const char *name);

/*
 * The named objects of a context that runs, asked of its keeper: a new array of what it says (PROTOCOL.md, `objects`).
 * STK_NOT_FOUND: no such context. STK_LIMIT: it is starting or being stopped, or its keeper is not there. STK_TIMEOUT: the keeper has not
 * answered. STK_RUNNER: it could not.
 */
int stk_context_objects(struct stk_core *core, const char *name, int64_t timeout_ms, json_t **ret, struct stk_err *err);

/* Drops one and frees what it holds. *ret: a new object, what it was. Errors as above; STK_NOT_FOUND: no such object, too. */
int stk_context_drop_object(struct stk_core *core, const char *name, const char *object, int64_t timeout_ms,
                            json_t **ret, struct stk_err *err);

/* The newest context of that name, ended or not. STK_NOT_FOUND. */
int stk_context_get(struct stk_core *core, const char *name, struct stk_context_row *ret, struct stk_err *err);

/* Those that are not final, newest first. Release with stk_context_rows_free(). */
int stk_context_list(struct stk_core *core, struct stk_context_row **ret, size_t *ret_n, struct stk_err *err);

#endif
