/*
 * The store: SQLite for what is recorded, files for blobs.
 *
 * Commands are copied into a queue that one writer thread drains into transactions (group commit, synchronous=FULL); `done` is
 * posted to the loop after the commit, in the order of the commands. Commands come from any thread. Reads are answered on
 * the caller's thread from a small pool of read-only connections and see committed rows only.
 *
 * Of errors: a full disk fails the command with STK_FULL and leaves the store usable. Any other I/O error of the database is
 * logged and ends the process with status 70: recovery at the next start is the tested path.
 */
#ifndef STOKER_STORE_H
#define STOKER_STORE_H

#include "stoker/binary.h"
#include "stoker/context.h"
#include "stoker/event.h"
#include "stoker/job.h"
#include "stoker/loop.h"
#include "stoker/webhook.h"

#include <stdatomic.h>

struct stk_store;

/* On the loop. err is NULL when committed. */
typedef void stk_store_done_fn(void *arg, const struct stk_err *err);

struct stk_store_options {
    int dir_fd;        /* the state directory, borrowed for the store's life */
    const char *dir;   /* the same as a path */
    stk_post_fn *post; /* how done callbacks reach the loop */
    void *post_to;
    size_t queue_max; /* commands that may wait before new work is refused with STK_LIMIT */
    json_t *webhooks; /* array of texts, borrowed: URLs to which the end of every job is told; NULL: none */
    bool gather; /* commands wait for stk_store_flush(), so that those of one turn of the loop share a transaction */
};

/*
 * Opens (creates, migrates) the database and sweeps what a crash left in tmp/, blobs/ and unpacked/, which it makes. A file of a
 * newer version, or a damaged one, is an error that says so. The caller holds the lock of the directory: two servers would sweep each
 * other's uploads.
 */
struct stk_store *stk_store_open(const struct stk_store_options *options, struct stk_err *err);
void stk_store_close(struct stk_store *store); /* commits and answers what is queued; no reads may be going on */

/* Lets the writer have what has been queued since the last call. For stores opened with gather; any thread. */
void stk_store_flush(struct stk_store *store);

/* ---- commands: 0 when queued (done will be called, done may be NULL); -1 with STK_LIMIT (new work only) or STK_INTERNAL */

/*
 * A new job, QUEUED or already STARTING, with its event. Fails with STK_NOT_FOUND, "appName <app> not found", when a version in
 * `versions` has been deleted meanwhile; with STK_CONFLICT when another job has its idempotency key. row is copied (texts by reference).
 */
int stk_store_job_submitted(struct stk_store *s, const struct stk_job_row *row, const int64_t *versions,
                            size_t n_versions, stk_store_done_fn *done, void *arg, struct stk_err *err);

/* A transition: state, attempt, worker, times, error and result of the row with its event. Never refused for load. */
int stk_store_job_moved(struct stk_store *s, const struct stk_job_row *row, stk_store_done_fn *done, void *arg,
                        struct stk_err *err);

int stk_store_context_created(struct stk_store *s, const struct stk_context_row *row, stk_store_done_fn *done,
                              void *arg, struct stk_err *err);
/* One that ran under no name has got one, a spec and slots. */
int stk_store_context_taken(struct stk_store *s, const struct stk_context_row *row, stk_store_done_fn *done, void *arg,
                            struct stk_err *err);
int stk_store_context_moved(struct stk_store *s, const struct stk_context_row *row, stk_store_done_fn *done, void *arg,
                            struct stk_err *err);

/* A process of a context is alive / is gone. role: "zygote", "keeper", "worker". */
int stk_store_process_started(struct stk_store *s, const char *context_id, const char *role,
                              const struct stk_process_id *process, struct stk_err *err);
int stk_store_process_ended(struct stk_store *s, const char *context_id, const char *process, struct stk_err *err);

/*
 * Records a version and, unless the digest is stored already, links `blob_tmp` (a file) as blobs/<digest> and
 * `unpacked_tmp` (a folder; NULL: none) as unpacked/<digest>; both are names in tmp/ and gone afterwards whatever happens, also
 * after -1. Both are on the disk already (fsync, stk_archive_unpack()): the writer must not wait for a large one.
 * Fills version and uploaded_us of *row before done is called; row must live until then.
 */
int stk_store_binary_added(struct stk_store *s, struct stk_binary_row *row, const char *blob_tmp,
                           const char *unpacked_tmp, stk_store_done_fn *done, void *arg, struct stk_err *err);
/* Deletes all versions of a name, unlinks bytes nobody refers to. STK_NOT_FOUND: there is none. */
int stk_store_binary_deleted(struct stk_store *s, const char *name, stk_store_done_fn *done, void *arg,
                             struct stk_err *err);

/* ---- webhooks: a delivery comes with a job (stk_job_row.webhook) or with its end, and is due from the commit of its end on */

/* How an attempt to deliver went. */
struct stk_attempt {
    int64_t seq;
    enum stk_delivery_state state;     /* of the delivery now */
    int64_t due_us;                    /* of the next attempt; 0: there is none */
    int64_t settled_us;                /* 0: it is still due */
    int status;                        /* 0: no answer */
    char error[STK_ATTEMPT_ERROR_MAX]; /* "": it went well */
};
int stk_store_delivery_tried(struct stk_store *s, const struct stk_attempt *attempt, stk_store_done_fn *done, void *arg,
                             struct stk_err *err);

/* Without an attempt. seqs are borrowed until done; those that are settled stay as they are. */
int stk_store_deliveries_give_up(struct stk_store *s, const int64_t *seqs, size_t n, stk_store_done_fn *done, void *arg,
                                 struct stk_err *err);

/* fn is called on the writer's thread when a commit has made deliveries due, and must not wait. NULL: no more, also not now. */
void stk_store_on_due(struct stk_store *s, void (*fn)(void *arg), void *arg);

struct stk_due_origin {
    struct stk_text *origin;
    int64_t due_us; /* of the first that is due there, or will be */
};
/* To whom something is to be sent, in the order of strcmp(). Release with stk_due_origins_free(). */
int stk_store_due_origins(struct stk_store *s, struct stk_due_origin **ret, size_t *ret_n, struct stk_err *err);
void stk_due_origins_free(struct stk_due_origin *origins, size_t n);
/* The first ones of what is to be sent there, with their secrets. */
int stk_store_due_deliveries(struct stk_store *s, const char *origin, size_t limit, struct stk_delivery_row **ret,
                             size_t *ret_n, struct stk_err *err);
/* As stk_delivery_list(). */
int stk_store_delivery_list(struct stk_store *s, const struct stk_delivery_filter *filter,
                            struct stk_delivery_row **ret, size_t *ret_n, struct stk_err *err);

/* ---- retention: what is removed when it is old or too much (jobs/retention.c) */

/*
 * Rows in a step. Each has an entry in an index of random ids, on a page of its own: 500 rows made commits of 4 MiB, and a job beside
 * them took 50 ms in place of 2.
 */
enum { STK_EXPIRY_ROWS = 64 };

struct stk_gone {
    char id[STK_UUID_MAX];
    int attempts; /* of a job, whose files are named by them; -1: a context */
};

/* One step; the caller's, until done is called. */
struct stk_expiry {
    int64_t before_us;              /* what ended before goes; 0: nothing does for its age */
    int64_t max_jobs;               /* of the jobs, the newest so many stay; 0: all */
    int64_t job_from, context_from; /* 0 at first, then the step before's job_next, context_next */
    /* filled */
    int64_t job_next, context_next;
    bool more; /* there may be more to remove: call again */
    size_t n_events;
    size_t n_gone;
    struct stk_gone gone[STK_EXPIRY_ROWS]; /* their files may be unlinked */
};

/*
 * Removes the oldest jobs that have ended, then the oldest contexts, then the oldest events; a few of them, and no longer
 * than a few milliseconds, since everybody else's commands wait for it. A job or context that has not ended stays. The
 * newest event always stays, so that no number of an event is given twice.
 */
int stk_store_expire(struct stk_store *s, struct stk_expiry *expiry, stk_store_done_fn *done, void *arg,
                     struct stk_err *err);

/* The result files of these jobs are about to be removed: ended ones forget them. ids is the caller's until done is called. */
int stk_store_results_dropped(struct stk_store *s, const char (*ids)[STK_UUID_MAX], size_t n, stk_store_done_fn *done,
                              void *arg, struct stk_err *err);

/*
 * Deletes one version of a binary, with its bytes if nobody else refers to them. STK_CONFLICT: it is the newest of its name, or a
 * job that has not ended runs with it. STK_NOT_FOUND.
 */
int stk_store_version_expired(struct stk_store *s, int64_t version, stk_store_done_fn *done, void *arg,
                              struct stk_err *err);

/*
 * Versions that a newer one of their name has replaced before that time and that no stored job ran with. Reads all jobs when
 * there are such versions: takes seconds, and gives up, with none, when *stop turns true. *ret is free()d by the caller.
 */
int stk_store_unused_versions(struct stk_store *s, int64_t replaced_before_us, const atomic_bool *stop, int64_t **ret,
                              size_t *ret_n, struct stk_err *err);

int stk_store_knows(struct stk_store *s, const char *id, struct stk_err *err); /* a job or a context: 1, 0, or -1 */

size_t stk_store_backlog(struct stk_store *s); /* commands that wait for the writer. Any thread */

/* ---- reads */

int stk_store_job_get(struct stk_store *s, const char *id, struct stk_job_row *ret, struct stk_err *err);

/* How far a job is, for readers of its log, who ask often. */
struct stk_job_stage {
    enum stk_job_state state;
    int attempt;
    char process[STK_PROCESS_MAX]; /* of that attempt */
    int64_t output_bytes[2];       /* once it has ended */
};
int stk_store_job_stage(struct stk_store *s, const char *id, struct stk_job_stage *ret, struct stk_err *err);
int stk_store_context_stage(struct stk_store *s, const char *id, enum stk_context_state *ret, struct stk_err *err);

int stk_store_job_by_key(struct stk_store *s, const char *key, struct stk_job_row *ret, struct stk_err *err);
int stk_store_job_config(struct stk_store *s, const char *id, struct stk_text **ret, struct stk_err *err);
/* As stk_job_list(). */
int stk_store_job_list(struct stk_store *s, const struct stk_job_filter *filter, struct stk_job_row **ret,
                       size_t *ret_n, struct stk_job_place *ret_next, struct stk_err *err);
/*
 * How many jobs have ended in each state; ret has STK_JOB_STATES numbers, those of other states are 0. To count a million takes a
 * tenth of a second, so the numbers may be as old as fifty times what it took.
 */
int stk_store_job_counts(struct stk_store *s, int64_t *ret, struct stk_err *err);
int stk_store_context_get(struct stk_store *s, const char *name, struct stk_context_row *ret, struct stk_err *err);
int stk_store_context_list(struct stk_store *s, struct stk_context_row **ret, size_t *ret_n, struct stk_err *err);
int stk_store_binary_get(struct stk_store *s, const char *name, struct stk_binary_row *ret, struct stk_err *err);
/* All versions of a name, newest first. STK_NOT_FOUND. */
int stk_store_binary_versions(struct stk_store *s, const char *name, struct stk_binary_row **ret, size_t *ret_n,
                              struct stk_err *err);
int stk_store_binary_list(struct stk_store *s, struct stk_binary_row **ret, size_t *ret_n, struct stk_err *err);

/*
 * The number of the newest event that is committed; 0: there is none yet. They have the numbers from 1 on, in the order of their
 * commits and without gaps; who is told of a commit sees its events counted here. Any thread, at no cost.
 */
int64_t stk_store_event_newest(struct stk_store *s);
/* As in event.h. */
int stk_store_event_list(struct stk_store *s, int64_t after, size_t limit, struct stk_event_row **ret, size_t *ret_n,
                         struct stk_err *err);
int stk_store_event_before(struct stk_store *s, int64_t wall_us, int64_t *ret, struct stk_err *err);

/* Writes what a scrape wants to know: commits, how long they take and how much they hold, what waits, files. Any thread. */
struct stk_metrics;
void stk_store_metrics(struct stk_store *s, struct stk_metrics *m);

/* ---- for the start of the server: everything that is not final, with configs and specs, oldest first */

int stk_store_live_contexts(struct stk_store *s, struct stk_context_row **ret, size_t *ret_n, struct stk_err *err);
int stk_store_live_jobs(struct stk_store *s, struct stk_job_row **ret, size_t *ret_n, struct stk_err *err);

struct stk_process_row {
    char context_id[STK_UUID_MAX];
    char role[8];
    struct stk_process_id id;
};
int stk_store_live_processes(struct stk_store *s, struct stk_process_row **ret /* free() it */, size_t *ret_n,
                             struct stk_err *err);

/*
 * Counters since the open: transactions committed and commands in them. Any thread. Who has been told of a commit sees it counted:
 * as long as the number is the same, nothing that was read has changed.
 */
void stk_store_counts(struct stk_store *s, uint64_t *ret_commits, uint64_t *ret_commands);

#endif
