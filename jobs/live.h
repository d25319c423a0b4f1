/*
 * Live state, shared by the files of jobs/ and by nobody else. All of it belongs to the loop thread: no locks.
 *
 *     context --- zygote, keeper, jvm (processes)
 *        |------- workers, each with at most one job in hand
 *        |------- queue of jobs, by priority, then arrival
 *     core ------ all jobs that are not final, by id
 */
#ifndef STOKER_JOBS_LIVE_H
#define STOKER_JOBS_LIVE_H

#include "meters.h"
#include "ticket.h"

#include "stoker/buf.h"
#include "stoker/core.h"
#include "stoker/runner.h"

#include <sys/queue.h>
#include <uthash.h>

struct class_data;
struct context;
struct job;
struct progress;
struct progress_board;

enum role { ROLE_ZYGOTE, ROLE_KEEPER, ROLE_WORKER, ROLE_JVM };

/*
 * A process of a context. known: its pid was told or recorded. dead: proven by its pidfd, or by the zygote that reaped it.
 */
struct process {
    enum role role;
    struct context *context;
    struct stk_process_id id;
    struct stk_conn *conn; /* NULL: not dialled in */
    struct stk_watch *watch;
    bool known, dead;
};

/*
 * ADMITTING --admitted--> FORKING --forked--> ATTACHING --ready--> READY --retire--> RETIRING --exited--> gone
 * SILENT: recorded by an earlier server, alive, has not dialled in yet.
 */
enum worker_state { W_ADMITTING, W_FORKING, W_ATTACHING, W_READY, W_SILENT, W_RETIRING };

struct worker {
    struct process p; /* first: a connection's user pointer is the process */
    enum worker_state state;
    struct stk_text *set;  /* binary set it is bound to; NULL: none yet */
    bool isolated;         /* ran, or runs, a job that shares its process with no other */
    struct job *job;       /* the job in hand: assigned, sent or being cancelled */
    int unrecorded;        /* ends of jobs it had that are not committed yet: the next is not sent before they are */
    int interrupts;        /* sent and not yet answered: gets no job while > 0 */
    int64_t idle_since_ms; /* monotonic; while it is coming: since when */
    LIST_ENTRY(worker) link;
};
LIST_HEAD(worker_list, worker);

enum cancel_reason { CANCEL_NONE, CANCEL_USER, CANCEL_QUEUE_TIMEOUT, CANCEL_RUN_TIMEOUT, CANCEL_CONTEXT };

struct job {
    struct stk_core *core;
    struct context *context;
    struct stk_job_row row;
    struct worker *worker; /* NULL: queued, or its process is gone */
    bool queued;           /* is in context->queue */
    bool arriving;         /* will be, when its first row is committed */
    bool has_slot;
    bool sent;        /* `run` has gone out, or may have */
    bool counted;     /* in its worker's unrecorded */
    bool settled;     /* its final row is on the way to the store */
    bool abandoned;   /* it could not be recorded: nobody knows it, it is freed when the store has answered */
    int tallied;      /* the state under which the core counts it; -1: it does not */
    bool ack_exit;    /* its worker's end is acknowledged to the zygote after its last row */
    int commits;      /* store commands not answered yet */
    uint64_t arrival; /* order in the queue among equals */
    int position;     /* in the queue, while context->numbered */
    struct ticket_list accepted, ended; /* who waits for which */
    struct stk_timer *clock;            /* of its queue or run time-out; NULL: it has none */
    /* cancel */
    enum cancel_reason cancel;
    bool worker_over;          /* the worker is done with it, or gone */
    bool keeper_over;          /* the keeper has confirmed that nothing of it runs in Spark */
    bool ended_itself;         /* its end came before the interrupt reached it */
    bool spark_stopped;        /* the cancel has stopped Spark jobs or streams of it */
    bool killed;               /* the zygote was asked to kill its worker */
    json_t *outcome;           /* `done` that came while it was being cancelled */
    json_t *receipt;           /* NULL: nobody wanted to end it */
    struct progress *progress; /* in Spark; NULL: this attempt has not called it */
    struct stk_timer *grace;   /* of a cancel */
    struct stk_timer *retry;   /* of a commit that found the disk full */
    TAILQ_ENTRY(job) link;
    UT_hash_handle hh;
};
TAILQ_HEAD(job_queue, job);

struct context {
    struct stk_core *core;
    struct stk_context_row row;
    struct process zygote, keeper, jvm;
    struct worker_list workers;
    int n_workers;
    struct job_queue queue;
    int n_queued;
    bool numbered;            /* jobs in the queue know their positions */
    int n_arriving;           /* jobs that will be queued when their first row is committed */
    int busy;                 /* slots taken: jobs that are in a worker's hand */
    int n_jobs;               /* jobs that refer to this context */
    int failed_attaches;      /* in a row */
    int64_t no_fork_until_ms; /* monotonic; the machine refused a fork */
    struct ticket_list creators, stoppers;
    bool keeps;                           /* something in its JVM needs binaries that its jobs have run with */
    struct ticket_list asks;              /* of named objects, which the keeper has not answered (objects.c) */
    struct stk_job_terms terms;           /* of its jobs that do not say */
    int64_t idle_timeout_ms, lifetime_ms; /* 0: none */
    int64_t idle_since_ms;                /* monotonic; the end of its last job */
    int64_t launched_ms;                  /* monotonic; by this server; 0: it was not */
    json_t *phases;                       /* of its start, so far: array of {phase, ms} */
    struct stk_timer *clock;              /* of the two */
    struct {
        struct stk_timer *timer;      /* NULL: no job of it has called Spark yet */
        bool waits;                   /* the timer is set */
        bool able;                    /* its keeper knows the question */
        bool asked;                   /* and has not answered it */
        int64_t last_ms;              /* of the last one; monotonic */
    } look;                           /* at how far its jobs are in Spark (progress.c) */
    struct stk_timer *timer;          /* deadline of a stop; retry of the last row */
    bool stop_waits;                  /* for the commit of STOPPING, before its processes are told */
    int64_t stop_grace_ms;            /* what they will be told then */
    bool ending;                      /* being stopped or cleared away: no new work */
    enum stk_context_state end_state; /* CREATING: to be started again, its queued jobs stay QUEUED */
    struct stk_text *jobs_error;      /* what its unfinished jobs end with */
    bool closed;                      /* its processes are gone and its jobs settled; nothing finds it any more */
    bool last_row;                    /* is on the way to the store; after its commit the context is forgotten */
    bool abandoned;                   /* its first row could not be written: nobody knows it */
    int commits;                      /* store commands not answered yet */
    UT_hash_handle hh;
};

struct stk_core {
    struct stk_loop *loop;
    struct stk_store *store;
    struct stk_runner *runner;
    struct stk_core_options o;
    struct context *contexts; /* by id */
    struct job *jobs;         /* by id */
    int n_contexts;
    int tally[STK_JOB_STATES]; /* jobs that have not ended, by state */
    struct meters meters;
    struct stk_text *warm_spec;   /* of the contexts that are kept warm; NULL: none are */
    struct stk_timer *warm_timer; /* to look whether one is missing */
    uint64_t arrivals;            /* jobs that came, for their order */
    struct stk_timer *reaper;     /* of idle workers */
    struct retention *retention;
    struct disk *disk;
    struct progress_board *board;
    struct class_data *class_data; /* NULL: archives are neither made nor used */
    bool stopping;
    bool leaving;                          /* stopping, and the contexts go on without us */
    void (*stopped)(void *arg, bool left); /* NULL while stopping: it was called */
    void *stopped_arg;
};

/* ---- job.c: one job's life */

struct job *job_find(struct stk_core *core, const char *id);
struct job *job_new(struct stk_core *core, struct context *ctx); /* NULL: out of memory */
void job_free(struct job *job);
void job_move(struct job *job, enum stk_job_state to); /* the only place where a job's state changes; writes it down */
void job_settle(struct job *job, enum stk_job_state to, struct stk_text *error_take); /* a final state */
void job_note_output(struct job *job, json_t *done);                                  /* how much it has printed */
void job_settle_done(struct job *job, json_t *done); /* with what a worker said in `done` (borrowed) */
void job_release(struct job *job);                   /* takes it out of its worker's hand; the slot is free */
void job_detach(struct job *job);                    /* its worker is gone; the slot stays taken */
void job_take(struct job *job, struct worker *w);    /* puts it in a worker's hand and takes a slot */
void job_requeue(struct job *job);                   /* not run after all: back to its place in the queue */
void job_set_clock(struct job *job);                 /* of its queue or its run time, by its state */
void job_tally(struct job *job); /* puts it among its like in core->tally: whenever its state has changed */

/* ---- result.c: files of results */

/* 1: a process has written this file whole; 0: it is not there or not whole; -1: the name is not one of this attempt. */
int result_file_check(const struct job *job, const char *name, int64_t bytes);
void result_discard(const struct job *job); /* what its attempt may have begun to write */

/* ---- job_calls.c: what callers ask of jobs */

void job_publish(struct job *job); /* who waits for its end may know its row already */
void job_answer(struct job *job, struct ticket_list *list, const struct stk_err *err);

/* ---- queue.c: who runs what */

void queue_add(struct job *job);
void queue_remove(struct job *job);
int queue_position(const struct job *job); /* of one that is queued: how many leave before it */
bool queue_assign(struct job *job);        /* to a free worker that fits, at once; false: it has to wait */
void queue_dispatch(struct context *ctx);

/* ---- worker.c */

struct worker *worker_find(struct context *ctx, const char *process);
struct worker *worker_start(struct context *ctx); /* NULL: could not */
struct worker *worker_adopt(struct context *ctx, const struct stk_process_id *id);
void worker_admit(struct worker *w); /* asks the keeper for a gateway */
void worker_retire(struct worker *w);
void worker_free(struct worker *w);
bool worker_hello(struct context *ctx, struct stk_conn *conn, json_t *hello, const char **ret_refusal);
bool worker_message(struct worker *w, const char *type, json_t *msg); /* false: no such message */
/* It has ended: status, signal as the zygote said; NULL exit: nobody knows how. Frees w. */
void worker_exited(struct worker *w, json_t *exit);
void worker_ack_exit(struct context *ctx, const char *process); /* its end is written down */
void worker_send_run(struct job *job);
void workers_look_after(struct stk_core *core); /* idle ones go, stuck ones too */

/* ---- cancel.c */

void cancel_begin(struct job *job, enum cancel_reason reason);
void cancel_recorded(struct job *job); /* CANCELLING is committed, or cannot be for now */
void cancel_resume(struct job *job);   /* sends again what is open, after a reconnect */
void cancel_kill(struct job *job);     /* the last step: its worker is killed */
void cancel_worker_done(struct job *job, json_t *done);
void cancel_worker_exited(struct job *job, json_t *exit); /* as the zygote said; NULL: nobody knows how */
void cancel_worker_over(struct job *job);
void cancel_keeper_said(struct job *job, json_t *cancelled);
void cancel_keeper_gone(struct job *job);

/* ---- progress.c: how far jobs are in Spark */

struct progress_board *progress_board_new(struct stk_err *err);
void progress_board_free(struct progress_board *b); /* NULL is fine */
void progress_wanted(struct job *job);              /* its worker says that it has called Spark */
void progress_forget(struct job *job);              /* the attempt is over */
void progress_keeper_dialled(struct context *ctx, json_t *hello);
void progress_keeper_said(struct context *ctx, json_t *msg);

/* ---- receipt.c */

void receipt_begin(struct job *job);
void receipt_step(struct job *job, const char *step, json_t *detail_take); /* detail NULL: none. No receipt: nothing */
void receipt_stopped_by(struct job *job, const char *what); /* unless it is said already; no receipt: nothing */
void receipt_write(struct job *job);                        /* into its row */
void receipt_close(struct job *job, enum stk_job_state state);
void receipt_resume(struct job *job); /* after a restart, from its row; finds the reason of the cancel too */

/* ---- context.c: one context's life */

struct context *context_find(struct stk_core *core, const char *id);
struct context *context_find_active(struct stk_core *core, const char *name);
struct context *context_new(struct stk_core *core);
void context_free(struct context *ctx);
void context_move(struct context *ctx, enum stk_context_state to); /* the only place where a context's state changes */
void context_launch_or_end(struct context *ctx); /* starts its zygote; FAILED when that is not possible */
void context_tell_to_stop(struct context *ctx, int64_t grace_ms);
void context_end(struct context *ctx, enum stk_context_state state, struct stk_text *error_take, bool now);
void context_check_gone(struct context *ctx);
void context_watch(struct process *p);                      /* watches a process whose id is known */
void context_phase(struct context *ctx, const char *phase); /* the start has come so far */
void context_read_spec(struct context *ctx);                /* its limits and clocks */
void context_set_clock(struct context *ctx);                /* once it runs */
bool context_found(struct process *p, pid_t pid); /* identifies, records and watches it; false: it has ended already */
void context_process_ended(struct process *p);    /* its end was found out otherwise than by its watch */
void context_close_process(struct process *p);
void context_kill(struct context *ctx); /* SIGKILL to every process known to be alive */
struct stk_text *context_log_error(struct context *ctx, const char *code, const char *what);
void context_restart(struct context *ctx); /* what is left of it is ended, then it is started anew */

/* ---- warm.c */

bool warm_is(const struct context *ctx); /* started ahead, not anybody's yet */
int warm_count(struct stk_core *core);
/* One that fits row, with its name and spec from here on: the caller writes it down. NULL: there is none. */
struct context *warm_take(struct stk_core *core, const struct stk_context_row *row);
void warm_give_back(struct context *ctx);  /* it could not be written down */
bool warm_give_way(struct stk_core *core); /* ends one for a context that needs its place */
void warm_refill_soon(struct stk_core *core, int64_t ms);
void warm_failed(struct stk_core *core);
void warm_done(struct stk_core *core);

/* ---- retention.c */

struct retention *retention_new(struct stk_core *core, struct stk_err *err);
void retention_free(struct retention *r); /* NULL is fine. Not while it is busy */
void retention_stop(struct retention *r); /* begins nothing new; what is on its way calls core_check_stopped() */
bool retention_busy(const struct retention *r);
void retention_note(struct stk_core *core, json_t *done); /* a job has left a result and logs of these sizes */

/* ---- disk.c: its reserve */

struct disk *disk_new(struct stk_core *core, struct stk_err *err);
void disk_free(struct disk *d);                                  /* NULL is fine */
void disk_status(struct stk_core *core, struct stk_status *ret); /* any thread */
/* Of new work. STK_FULL when the disk has less free than its reserve. Any thread. */
int disk_check(struct stk_core *core, struct stk_err *err);

/* ---- recover.c */

void contexts_sweep(struct stk_core *core, time_t older_than_s);
/* a folder is made before its context is known */ /* directories of contexts that are gone */

/* ---- status.c */

void status_publish(struct stk_core *core); /* for scrapes */

/* ---- core.c */

void core_check_stopped(struct stk_core *core);

/* ---- zygote_keeper.c: what these two say */

bool context_message(struct process *p, const char *type, json_t *msg); /* false: no such message */
bool context_hello(struct context *ctx, struct stk_conn *conn, const char *role, json_t *hello,
                   const char **ret_refusal);

/* ---- objects.c: what its keeper says of named objects */

void objects_listed(struct context *ctx, json_t *msg);
void objects_dropped(struct context *ctx, json_t *msg);
void objects_give_up(struct context *ctx); /* the keeper is not there to answer any more */
void objects_keep(struct context *ctx, json_t *msg);
/* Wall time since when binaries were replaced that contexts keep, or may keep as far as is known; INT64_MAX: none. */
int64_t objects_kept_since_us(struct stk_core *core);

/* ---- launch.c */

int context_launch(struct context *ctx, struct stk_err *err);
struct stk_text *context_spec_text(struct stk_core *core, const struct stk_context_spec *spec,
                                   const char *id); /* spec.json */

/* Our environment with some variables set anew, NULL-ended; context NULL: for a process of no context. NULL: out of memory. */
char **launch_env(const struct stk_core *core, const char *context);
void launch_env_free(char **env); /* NULL is fine */

/* ---- class_data.c: who makes class-data archives */

int class_data_new(struct stk_core *core, struct stk_err *err);
void class_data_free(struct class_data *cd);                  /* NULL is fine */
const char *class_data_dir(const struct stk_core *core);      /* NULL: none */
void class_data_want(struct stk_core *core, json_t *started); /* a keeper's `started` may say that one is missing */
bool class_data_making(const struct stk_core *core);
void class_data_stop(struct stk_core *core, bool now); /* the maker ends; now: by SIGKILL */

/* ---- context_calls.c */

/* A new context of that id, name, spec and slots: recorded, then started. NULL: err. */
struct context *context_begin(struct stk_core *core, const struct stk_context_row *row, struct stk_err *err);
void context_answer_creators(struct context *ctx, const struct stk_err *err);

/* ---- failure.c: the error object */

/* JSON text; message by printf. tail: "stderr_tail" or "log_tail" with its text, or NULL. NULL when out of memory. */
struct stk_text *failure_text(const char *code, const char *tail_key, const char *tail, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
struct stk_text *failure_exit(json_t *exit, const char *stderr_tail);
bool failure_is(const struct stk_text *failure, const char *code); /* NULL is none */

/* ---- files.c: small files of the state directory */

char *file_tail(struct stk_core *core, const char *path,
                size_t max); /* valid UTF-8, the caller's to free(); NULL: none */
json_t *spool_read(struct stk_core *core, const char *job, int attempt); /* body of a `done`; NULL: none */
void spool_remove(struct stk_core *core, const char *job, int attempt);
json_t *spool_read_exit(struct stk_core *core, const char *context, const char *process);
void spool_remove_exit(struct stk_core *core, const char *context, const char *process);
void spool_sweep(struct stk_core *core);
void logs_keep(struct job *job, const char *process); /* a dead worker's logs get the job's name */
/* durable: synced to the disk, which the loop must not wait for. */
int context_dir_make(struct stk_core *core, const char *id, const char *spec, bool durable, struct stk_err *err);
/* In the background; keeps the log as logs/context.<id>.log. after (NULL is fine) is called on the loop. */
void context_dir_remove(struct stk_core *core, const char *id, void (*after)(void *arg), void *arg);

#endif
