/*
 * The core: owns every context, job and worker that is alive, on the loop thread. What callers may ask of it stands in
 * job.h, context.h and binary.h; here is how main.c makes and ends it.
 */
#ifndef STOKER_CORE_H
#define STOKER_CORE_H

#include "stoker/archive.h"
#include "stoker/context.h"
#include "stoker/err.h"
#include "stoker/loop.h"
#include "stoker/store.h"

#include <jansson.h>

struct stk_core;

/* What is kept, and for how long. 0: for ever, no limit, no reserve. */
struct stk_retention_options {
    int64_t keep_jobs_ms, keep_binaries_ms;
    int64_t max_stored_jobs;
    int64_t max_stored_results_bytes, max_stored_logs_bytes;
    int64_t disk_reserve_bytes; /* less free than this: no new work */
};

struct stk_core_options {
    const char *state_dir; /* absolute */
    int state_dir_fd;
    const char *python;         /* interpreter of the contexts */
    const char *runner_dir;     /* absolute; folder with stoker_runner */
    const char *java_home;      /* NULL: as the environment has it */
    bool class_data;            /* make and use class-data archives */
    const char *class_data_dir; /* where they lie, absolute; "": in the state directory */
    json_t *spark_conf;         /* object of strings: defaults of every context */
    int max_contexts;
    int warm_contexts;                    /* kept started ahead */
    int max_jobs;                         /* slots of a context that does not say */
    int max_queue;                        /* jobs that may wait in one context */
    struct stk_job_terms terms;           /* of jobs whose context does not say; all said */
    int64_t idle_timeout_ms, lifetime_ms; /* of contexts that do not say */
    int64_t cancel_grace_ms;
    int64_t stop_grace_ms;
    int64_t worker_idle_timeout_ms;
    int64_t max_result_bytes;
    int64_t max_log_bytes;
    struct stk_retention_options retention;
    uint64_t max_upload_bytes;
    struct stk_archive_limits archive;
};

/* Makes the folders of the state directory that are missing. Before the store is opened. */
int stk_state_dirs_make(int state_dir_fd, struct stk_err *err);

/* All pointers in options are borrowed for the core's life. */
struct stk_core *stk_core_new(struct stk_loop *loop, struct stk_store *store, const struct stk_core_options *options,
                              struct stk_err *err);

/* Adopts or settles what an earlier server left. Before the loop runs and before the first command. */
int stk_core_recover(struct stk_core *core, struct stk_err *err);

/* After the recovery, before the loop runs: contexts of this spec are started ahead, options.warm_contexts of them. */
int stk_core_keep_warm(struct stk_core *core, const struct stk_context_spec *spec, struct stk_err *err);

/* How things stand. */
struct stk_status {
    bool stopping;
    int64_t jobs[STK_JOB_STATES];     /* by state; those that have ended were counted some seconds ago */
    int contexts[STK_CONTEXT_STATES]; /* by state, of those that have not ended */
    int warm_contexts, max_contexts;
    int slots, busy_slots; /* of contexts that run */
    int64_t disk_free_bytes, disk_reserve_bytes;
    bool disk_low; /* under its reserve: new work is refused */
};
int stk_core_status(struct stk_core *core, struct stk_status *ret, struct stk_err *err); /* any thread but the loop */

/*
 * Writes what a scrape wants to know of jobs, contexts, slots, the disk and the store. Any thread but the loop, which is not asked for
 * anything: its numbers are those of the end of its last turn.
 */
struct stk_metrics;
int stk_core_metrics(struct stk_core *core, struct stk_metrics *m, struct stk_err *err);

/*
 * Ends the service, loop thread. leave_contexts false: contexts are stopped, running jobs end with SERVER_STOPPED, what has not started stays
 * QUEUED and its context is started again next time; true: everything is left alive for the next server. New commands are refused from
 * here on. stopped() is called, once, on the loop, when nothing is left to do (at most stop_grace_ms and a few seconds later), with whether
 * contexts were left; a call after that does nothing. Until then a second call can change what the first one wanted, and a second
 * one with leave_contexts false kills what is left at once.
 */
void stk_core_stop(struct stk_core *core, bool leave_contexts, void (*stopped)(void *arg, bool left), void *arg);

/* After the loop has ended. NULL is fine. */
void stk_core_free(struct stk_core *core);

#endif
