/*
 * Jobs: what is recorded of one, its states, and what callers may ask of the core.
 *
 * The functions at the end may be called from any thread but the loop; they hand a command to the loop and sleep until it
 * answers or the deadline passes. A deadline never changes what happens to the job.
 */
#ifndef STOKER_JOB_H
#define STOKER_JOB_H

#include "stoker/buf.h"
#include "stoker/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct stk_core;

/*
 * QUEUED ----> STARTING ----> RUNNING ----> FINISHED | ERROR | INVALID
 *   |  ^          |  |           |
 *   |  +----------+  |           |     a live worker denies the attempt, or it was never sent
 *   |                v           v
 *   +--------> CANCELLING (only from STARTING, RUNNING) -> KILLED | TIMED_OUT | ERROR | FINISHED | INVALID
 *   +--------> ERROR, TIMED_OUT, KILLED
 * STARTING, RUNNING, CANCELLING -> LOST      the process is proven dead and left no word
 *
 * RUNNING is known in memory only; its row says STARTING until the next transition.
 */
enum stk_job_state {
    STK_JOB_QUEUED,
    STK_JOB_STARTING,
    STK_JOB_RUNNING,
    STK_JOB_CANCELLING,
    STK_JOB_FINISHED,
    STK_JOB_ERROR,
    STK_JOB_INVALID, /* validate() found problems */
    STK_JOB_KILLED,
    STK_JOB_TIMED_OUT,
    STK_JOB_LOST,
};
#define STK_JOB_STATES (STK_JOB_LOST + 1)

const char *stk_job_state_name(enum stk_job_state state); /* "QUEUED", ... */
int stk_job_state_parse(const char *name, enum stk_job_state *ret);
bool stk_job_is_final(enum stk_job_state state);
bool stk_job_may_move(enum stk_job_state from, enum stk_job_state to);

#define STK_PROCESS_MAX 16
#define STK_DIGEST_MAX 65 /* 64 hex digits of a SHA-256 */

/* A process, named so that a reused pid is not mistaken for it. */
struct stk_process_id {
    char process[STK_PROCESS_MAX]; /* "z", "k", "w-3fa9c1d2"; empty: none */
    pid_t pid;
    uint64_t start_time; /* clock ticks since boot, field 22 of /proc/<pid>/stat */
    char boot_id[STK_UUID_MAX];
};

/* What a job may take. A job that does not say takes what its context says, and that what the server's configuration says. */
struct stk_job_terms {
    int priority;             /* STK_PRIORITY_MIN to STK_PRIORITY_MAX; higher ones leave the queue first */
    int64_t queue_timeout_ms; /* may wait so long; 0: for ever */
    int64_t run_timeout_ms;   /* may run so long; 0: for ever */
    int64_t max_memory;       /* bytes that its processes may use beyond what they began with; 0: no limit */
    int isolated;             /* 1: in a process that has run no other job and runs none after it */
};
enum { STK_PRIORITY_MIN = -100, STK_PRIORITY_MAX = 100 };

/* Of terms: what nobody has said. Takes the place of any of the numbers above. */
#define STK_UNSAID (-1000)
#define STK_TERMS_UNSAID ((struct stk_job_terms){ STK_UNSAID, STK_UNSAID, STK_UNSAID, STK_UNSAID, STK_UNSAID })
/* Fills what terms do not say from others. */
void stk_job_terms_fill(struct stk_job_terms *terms, const struct stk_job_terms *from);

#define STK_IDEMPOTENCY_KEY_MAX 256
enum { STK_JOB_TAGS_MAX = 16 }; /* of one job */

/* One job as it is recorded. Texts may be NULL where marked. Released by stk_job_row_done(). */
struct stk_job_row {
    char id[STK_UUID_MAX];
    char context_id[STK_UUID_MAX];
    struct stk_text *context_name;
    struct stk_text *app; /* the binary's name as the client gave it */
    struct stk_text *class_path;
    struct stk_text *set;         /* name of the binary set */
    struct stk_text *binaries;    /* JSON array of {name, version, digest, type} */
    struct stk_text *config;      /* JSON object; NULL when read by a list or a get */
    struct stk_text *error;       /* JSON object of PROTOCOL.md section 7; NULL unless the state has one */
    struct stk_text *result;      /* JSON text; NULL: none, or in result_file */
    struct stk_text *result_file; /* name in results/; NULL: none */
    struct stk_text *receipt;     /* JSON object, docs/cancel.md; NULL: nobody wanted to end it */
    struct stk_text *idempotency_key, *fingerprint; /* NULL: none; the second is of what was posted with it */
    struct stk_text *tags;                          /* JSON array of strings; NULL: none */
    struct stk_text *user;                          /* who submitted it; NULL: nobody said */
    struct stk_text *webhook; /* of a new job: as stk_webhook_make() makes it; never read back. NULL: it has none */
    int64_t result_bytes;
    int64_t output_bytes[2]; /* what it has printed to stdout and stderr; written with the final state, not read back */
    struct stk_job_terms terms;
    enum stk_job_state state;
    int attempt;                                /* 0: never handed to a worker */
    struct stk_process_id worker;               /* of the last attempt */
    int64_t submitted_us, started_us, ended_us; /* wall time; 0: not yet */
};
void stk_job_row_done(struct stk_job_row *row);
void stk_job_row_copy(struct stk_job_row *to, const struct stk_job_row *from); /* texts by reference */

/* ---- commands */

enum { STK_JOB_BINARIES_MAX = 16 };
enum stk_job_wait { STK_WAIT_ACCEPTED, STK_WAIT_FINAL };

struct stk_job_spec {
    const char *context;         /* name */
    const char *app;             /* name of an uploaded binary; its newest version is taken */
    const char *const *binaries; /* all that it runs with, by name, in the order of sys.path; NULL: app alone */
    size_t n_binaries;           /* at most STK_JOB_BINARIES_MAX; names that come again are passed over */
    const char *class_path;
    const char *config; /* JSON text of an object */
    size_t config_len;
    struct stk_job_terms terms;  /* STK_UNSAID where the client has not said */
    const char *idempotency_key; /* NULL: none. Else of 1 to STK_IDEMPOTENCY_KEY_MAX - 1 bytes */
    const char *tags;            /* JSON text of an array of strings, no two the same; NULL: none */
    bool
        adhoc; /* its context is for it alone: the same content in another one is still the same for the idempotency key */
    const char *webhook; /* as stk_webhook_make() makes it; NULL: none */
};

/*
 * Accepts a job: it is durable when this returns 0. With STK_WAIT_FINAL it returns when the job has ended, with the
 * row as it was committed. Fills *ret (release it) with config NULL.
 *
 * -1: STK_NOT_FOUND (err->msg is "appName <binary> not found" or "context <name> not found"), STK_CONFLICT (the context is
 * stopping), STK_LIMIT (queue full), STK_FULL, STK_INTERNAL: nothing was accepted. STK_TIMEOUT: the job was accepted but did not end
 * within timeout_ms (STK_WAIT_FINAL): *ret is filled too, so the caller can tell its id; ret->id is empty if not even that is known.
 *
 * A job that was accepted with the same idempotency key is answered in place of a new one, whatever became of it, also when the
 * retry comes after a restart. STK_CONFLICT: that one was posted with other content.
 */
int stk_job_submit(struct stk_core *core, const struct stk_job_spec *spec, enum stk_job_wait wait, int64_t timeout_ms,
                   struct stk_job_row *ret, struct stk_err *err);

/*
 * Cancels a job and waits until it has ended. 0: *ret_before is the state it was in when asked, *ret (release it) the row
 * it ended with; a job that was final already is returned as it is. STK_NOT_FOUND: no such job. STK_TIMEOUT: the cancel goes on. STK_LIMIT: the
 * server is stopping and has left it to the next one.
 */
int stk_job_cancel(struct stk_core *core, const char *id, int64_t timeout_ms, enum stk_job_state *ret_before,
                   struct stk_job_row *ret, struct stk_err *err);

/*
 * Waits until a job has ended: 0 with the row it ended with (release it). STK_NOT_FOUND: no such job. STK_TIMEOUT: it goes on;
 * *ret is its row as it is recorded.
 */
int stk_job_wait(struct stk_core *core, const char *id, int64_t timeout_ms, struct stk_job_row *ret,
                 struct stk_err *err);

/*
 * What only lives in memory of rows that were just read: RUNNING, where the row says STARTING, is put into them. ret_positions: n
 * numbers, how many jobs of its context leave the queue before it; -1: it does not wait. One visit of the loop, none when all
 * have ended.
 */
void stk_job_look(struct stk_core *core, struct stk_job_row *rows, size_t n, int *ret_positions);

/* ---- reads: committed rows, straight from the store; any thread */

int stk_job_get(struct stk_core *core, const char *id, struct stk_job_row *ret,
                struct stk_err *err); /* STK_NOT_FOUND */

/* The config that was posted, as JSON text; *ret is the caller's to unref. STK_NOT_FOUND. */
int stk_job_config(struct stk_core *core, const char *id, struct stk_text **ret, struct stk_err *err);

/* A job's place in lists, which never changes and is never another's: the time of its submit, then its number. */
struct stk_job_place {
    int64_t submitted_us, seq;
};

/* Which jobs; what is NULL or 0 lets all pass. */
struct stk_job_filter {
    const bool *states; /* STK_JOB_STATES flags */
    size_t limit;       /* rows; 0 is none */
    const char *context, *app, *user;
    const char *const *tags; /* it has all of these */
    size_t n_tags;
    int64_t since_us, until_us; /* submitted from the first on, before the second */
    struct stk_job_place after; /* behind this one, seen from the newest */
};

/*
 * Newest first. *ret is an array of *ret_n rows without results or configs, of receipts only whether there is one; release with
 * stk_job_rows_free(). *ret_next (NULL is fine) is where the next page begins, to be given as `after`; all 0: there is none. A
 * page may have fewer rows than its limit, even none, and a next one all the same: when two things that are asked for are frequent
 * each and rare together, the search stops after a while and goes on with the next page.
 *
 * Pages that follow each other show each job that was there all the time once, whatever is added, ends or is removed meanwhile.
 */
int stk_job_list(struct stk_core *core, const struct stk_job_filter *filter, struct stk_job_row **ret, size_t *ret_n,
                 struct stk_job_place *ret_next, struct stk_err *err);
void stk_job_rows_free(struct stk_job_row *rows, size_t n);

/*
 * Opens a result file for reading: a descriptor the caller closes, with the file's length, or -1. STK_NOT_FOUND: there is none, or
 * retention has removed it since the row was read. STK_INTERNAL: it is not what the row says.
 */
int stk_job_open_result(struct stk_core *core, const struct stk_job_row *row, uint64_t *ret_len, struct stk_err *err);

/* What a result can be. The ending of its file's name tells; one that lies in the database is JSON. */
struct stk_result_form {
    const char *name; /* "json", "csv", "parquet", "arrow": as jobs and clients ask for it */
    const char *ending, *media_type;
};
const struct stk_result_form *stk_result_form_at(size_t i);           /* NULL: there are no more; the first is JSON */
const struct stk_result_form *stk_result_form_find(const char *name); /* NULL: none */
const struct stk_result_form *stk_result_form(const struct stk_job_row *row);

#endif
