/*
 * What the files of the store share. Nobody else includes this.
 *
 *     store.c        open and close: folders, lock, connections, threads
 *     migrations.c   the schema, version by version
 *     sql.c          every other statement, as constant text
 *     db.c           one connection: open, prepare, bind, step, errors
 *     home.c         a state directory that was copied
 *     wal.c          a damaged write-ahead log, before SQLite sees it
 *     writer.c       the queue, the writer thread, transactions, checkpoints
 *     commands.c     the commands of store.h: copied in, carried out
 *     binaries.c     the two commands that also move files
 *     deliveries.c   what is to be told to webhooks
 *     retention.c    what removes old rows
 *     blobs.c        blobs/, unpacked/, tmp/ and the thread that empties the trash
 *     readers.c      the reads of store.h
 *     job_list.c     of these, the one that lists jobs
 *     events.c       those of events
 *     unused.c       the one of versions that nobody needs
 *     metrics.c      what a scrape learns
 */
#ifndef STOKER_STORE_INTERNAL_H
#define STOKER_STORE_INTERNAL_H

#include "stoker/metrics.h"
#include "stoker/store.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>

#define STK_DATABASE "stoker.db" /* in the state directory; -wal and -shm beside it */

/* ---- statements */

enum stk_sql {
    /* the writer's */
    STK_SQL_BEGIN,
    STK_SQL_COMMIT,
    STK_SQL_ROLLBACK,
    STK_SQL_JOB_INSERT,
    STK_SQL_JOB_CONFIG_INSERT,
    STK_SQL_JOB_UPDATE,
    STK_SQL_JOB_TAGS_INSERT,
    STK_SQL_JOB_KEY_USED,
    STK_SQL_EVENT_INSERT,
    STK_SQL_JOB_MOVE_EVENT_INSERT,
    STK_SQL_CONTEXT_MOVE_EVENT_INSERT,
    STK_SQL_CONTEXT_INSERT,
    STK_SQL_CONTEXT_UPDATE,
    STK_SQL_CONTEXT_TAKE,
    STK_SQL_PROCESS_INSERT,
    STK_SQL_PROCESS_DELETE,
    STK_SQL_VERSION_EXISTS,
    STK_SQL_BINARY_INSERT,
    STK_SQL_BINARY_LAST,
    STK_SQL_VERSION_INSERT,
    STK_SQL_BINARY_DIGESTS,
    STK_SQL_VERSIONS_DELETE,
    STK_SQL_BINARY_DELETE,
    STK_SQL_DIGEST_USED,
    STK_SQL_BINARY_EVENT_INSERT,
    STK_SQL_DELIVERY_INSERT,
    STK_SQL_DELIVERIES_DUE,
    STK_SQL_DELIVERY_DUE_INSERT,
    STK_SQL_DELIVERY_TRIED,
    STK_SQL_DELIVERY_GIVE_UP,
    STK_SQL_JOB_DELIVERIES_DELETE,
    STK_SQL_JOB_NEWEST,
    STK_SQL_JOB_TIME_AFTER,
    STK_SQL_JOB_OLDEST,
    STK_SQL_JOB_CONFIG_DELETE,
    STK_SQL_JOB_TAGS_DELETE,
    STK_SQL_JOB_DELETE,
    STK_SQL_JOB_RESULT_DROP,
    STK_SQL_CONTEXT_OLDEST,
    STK_SQL_CONTEXT_DELETE,
    STK_SQL_EVENT_OLDEST,
    STK_SQL_EVENTS_DELETE,
    STK_SQL_VERSION_GET,
    STK_SQL_VERSION_NEEDED,
    STK_SQL_VERSION_DELETE,
    /* the readers' */
    STK_SQL_JOB_GET,
    STK_SQL_JOB_STAGE,
    STK_SQL_JOB_BY_KEY,
    STK_SQL_JOB_CONFIG,
    STK_SQL_JOB_WALK,
    STK_SQL_JOB_WALK_CONTEXT,
    STK_SQL_JOB_WALK_APP,
    STK_SQL_JOB_WALK_USER,
    STK_SQL_JOB_WALK_TAG,
    STK_SQL_JOB_HAS_TAG,
    STK_SQL_JOB_LISTED,
    STK_SQL_JOB_COUNTS,
    STK_SQL_JOB_LIVE,
    STK_SQL_CONTEXT_GET,
    STK_SQL_CONTEXT_STAGE,
    STK_SQL_CONTEXT_LIST,
    STK_SQL_CONTEXT_LIVE,
    STK_SQL_BINARY_GET,
    STK_SQL_BINARY_LIST,
    STK_SQL_BINARY_VERSIONS,
    STK_SQL_DELIVERY_ORIGINS,
    STK_SQL_DELIVERIES_OF,
    STK_SQL_DELIVERY_LIST,
    STK_SQL_DELIVERY_LIST_STATE,
    STK_SQL_DELIVERY_LIST_JOB,
    STK_SQL_DELIVERY_WAITS,
    STK_SQL_EVENT_LIST,
    STK_SQL_EVENT_RANGE,
    STK_SQL_EVENT_TIME,
    STK_SQL_PROCESS_LIST,
    STK_SQL_VERSIONS_REPLACED,
    STK_SQL_VERSIONS_USED,
    STK_SQL_JOB_RANGE,
    STK_SQL_KNOWS,
};
#define STK_SQL_COUNT (STK_SQL_KNOWS + 1)
#define STK_SQL_FIRST_READ STK_SQL_JOB_GET

extern const char *const stk_sql_text[STK_SQL_COUNT];

/* Columns of the reads, in the order of the SELECTs in sql.c. */
enum stk_job_column {
    STK_JOB_COL_ID,
    STK_JOB_COL_CONTEXT_ID,
    STK_JOB_COL_CONTEXT_NAME,
    STK_JOB_COL_APP,
    STK_JOB_COL_CLASS_PATH,
    STK_JOB_COL_SET,
    STK_JOB_COL_BINARIES,
    STK_JOB_COL_STATE,
    STK_JOB_COL_ATTEMPT,
    STK_JOB_COL_SUBMITTED,
    STK_JOB_COL_STARTED,
    STK_JOB_COL_ENDED,
    STK_JOB_COL_PROCESS,
    STK_JOB_COL_PID,
    STK_JOB_COL_START_TIME,
    STK_JOB_COL_BOOT,
    STK_JOB_COL_RESULT_BYTES,
    STK_JOB_COL_RESULT_FILE,
    STK_JOB_COL_PRIORITY,
    STK_JOB_COL_QUEUE_TIMEOUT,
    STK_JOB_COL_RUN_TIMEOUT,
    STK_JOB_COL_MAX_MEMORY,
    STK_JOB_COL_ISOLATED,
    STK_JOB_COL_TAGS,
    STK_JOB_COL_USER,
    STK_JOB_COL_ERROR,
    STK_JOB_COL_RESULT, /* from here on: not in lists */
    STK_JOB_COL_RECEIPT,
    STK_JOB_COL_KEY,
    STK_JOB_COL_FINGERPRINT,
    STK_JOB_COL_CONFIG = STK_JOB_COL_KEY, /* of live jobs, whose key nobody asks for */
};

enum stk_context_column {
    STK_CONTEXT_COL_ID,
    STK_CONTEXT_COL_NAME,
    STK_CONTEXT_COL_STATE,
    STK_CONTEXT_COL_MAX_JOBS,
    STK_CONTEXT_COL_STARTED,
    STK_CONTEXT_COL_ENDED,
    STK_CONTEXT_COL_APPLICATION_ID,
    STK_CONTEXT_COL_UI_URL,
    STK_CONTEXT_COL_ERROR,
    STK_CONTEXT_COL_SPEC,
};

/* ---- one connection; one thread at a time */

struct stk_db {
    sqlite3 *sqlite;
    sqlite3_stmt *stmts[STK_SQL_COUNT];
    int bind_rc; /* the first bind of the present statement that failed, else SQLITE_OK */
    struct stk_db *next_free;
};

enum stk_db_role { STK_DB_WRITER, STK_DB_READER };

/* What a failed statement means. */
enum stk_db_trouble {
    STK_DB_FULL,    /* no space, or a quota */
    STK_DB_REFUSED, /* this statement cannot be carried out (constraint, too big, no memory); the database is fine */
    STK_DB_BUSY,    /* another program holds the lock */
    STK_DB_BROKEN,  /* I/O error or damage */
};

enum { STK_DB_BUSY_MS = 5000 }; /* another program, such as a backup, may hold the lock for a moment */

int stk_db_open(struct stk_db *db, const char *path, enum stk_db_role role, struct stk_err *err);
int stk_db_prepare(struct stk_db *db, enum stk_db_role role, struct stk_err *err);
void stk_db_close(struct stk_db *db); /* zeroed or half-open is fine */

sqlite3_stmt *stk_db_use(struct stk_db *db, enum stk_sql which); /* ready for binds; give back with stk_db_done() */
int stk_db_step(struct stk_db *db, sqlite3_stmt *stmt);          /* 1: a row, 0: the end, -1: see stk_db_trouble() */
void stk_db_done(sqlite3_stmt *stmt);                            /* reset and clear; NULL is fine */
int stk_db_run(struct stk_db *db, sqlite3_stmt *stmt);           /* to its end, and given back: 0 or -1 */
enum stk_db_trouble stk_db_trouble(struct stk_db *db);           /* of the call that just failed */
int stk_db_fail(struct stk_db *db, struct stk_err *err, const char *what); /* fills err, returns -1 */
_Noreturn void stk_db_fatal(struct stk_db *db, const char *what);          /* logs and leaves with status 70 */

static inline void stk_db_done_(sqlite3_stmt **stmt)
{
    stk_db_done(*stmt);
}
#define stk_auto_stmt __attribute__((cleanup(stk_db_done_))) sqlite3_stmt

void stk_db_bind_int(struct stk_db *db, sqlite3_stmt *stmt, int i, int64_t value);
void stk_db_bind_some(struct stk_db *db, sqlite3_stmt *stmt, int i, int64_t value);   /* 0 is stored as NULL */
void stk_db_bind_str(struct stk_db *db, sqlite3_stmt *stmt, int i, const char *text); /* "" is stored as NULL */
void stk_db_bind_text(struct stk_db *db, sqlite3_stmt *stmt, int i, const struct stk_text *text);

/* Brings the schema to this program's version. Errors say which file and what is wrong with it. */
int stk_db_migrate(struct stk_db *db, const char *path, struct stk_err *err);

/* ---- wal.c */

/*
 * Before the first connection. Logs what a damaged log has lost, and renames it to <wal_name>.damaged where the database without it is newer.
 * -1: neither of them is whole.
 */
struct stk_store;
int stk_wal_check(struct stk_store *s, const char *wal_name, const char *shm_name, struct stk_err *err);

/* ---- home.c: before the writer's thread */

int stk_home_check(struct stk_store *s, struct stk_err *err);

/* ---- reads: the caller's thread, on a connection lent by the pool (readers.c) */

/* One statement in progress. */
struct stk_read {
    struct stk_store *s;
    struct stk_db *db;
    sqlite3_stmt *stmt;
};
struct stk_read stk_read_start(struct stk_store *s, enum stk_sql which);
void stk_read_end(struct stk_read *r);
#define stk_auto_read __attribute__((cleanup(stk_read_end))) struct stk_read
int stk_read_step(struct stk_db *db, sqlite3_stmt *stmt, struct stk_err *err); /* 1: a row, 0: no more, -1: err */
/* The row of a statement that gives jobs with result and receipt. *row is zeroed; it is to be released also after -1. */
int stk_read_job(sqlite3_stmt *stmt, struct stk_job_row *row, struct stk_err *err);
/* A column: NULL gives NULL; *ok turns false when out of memory. */
struct stk_text *stk_read_text(sqlite3_stmt *stmt, int i, bool *ok);
void stk_read_str(sqlite3_stmt *stmt, int i, char *to, size_t size); /* cut to its room; NULL gives "" */
/* All rows of one kind, each of that size. fill() fills a zeroed row, also in part when it fails; done() releases one. */
int stk_read_rows(struct stk_read *r, size_t size, int (*fill)(sqlite3_stmt *stmt, void *row, struct stk_err *err),
                  void (*done)(void *row), void **ret, size_t *ret_n, struct stk_err *err);
int stk_read_damaged(struct stk_err *err); /* a row has a number that no version of this program has written: -1 */

/* ---- commands */

enum stk_cmd_result {
    STK_CMD_DONE,
    STK_CMD_REFUSED, /* err says why; nothing was written, the rest of the transaction stands */
    STK_CMD_FAILED,  /* SQLite failed: the transaction has to be rolled back */
};

struct stk_cmd {
    struct stk_task task; /* first: carries the answer to the loop */
    struct stk_cmd *next;
    enum stk_cmd_result (*run)(struct stk_store *s, struct stk_cmd *cmd, struct stk_err *err);
    /* Called after the transaction, before done; ok: it is committed. NULL: none. A command that has it runs alone. */
    void (*finish)(struct stk_store *s, struct stk_cmd *cmd, bool ok);
    stk_store_done_fn *done;
    void *arg;
    int64_t at_us; /* when it was queued: the time of its event */
    bool keep;     /* nobody waits for it, and it is tried again until it is written */
    bool failed;
    struct stk_err err;
    union {
        struct stk_job_row job;
        struct stk_context_row context;
        struct {
            char context_id[STK_UUID_MAX];
            char role[8];
            struct stk_process_id id;
        } process;
        struct {
            struct stk_binary_row *row; /* the caller's; NULL for a delete */
            struct stk_binary_row copy;
            char *blob_tmp, *unpacked_tmp;
            char (*digests)[STK_DIGEST_MAX]; /* of the deleted versions */
            size_t n_digests;
        } binary;
        struct stk_attempt attempt; /* its error, "" for none, is below */
        struct {
            const int64_t *seqs; /* the caller's */
            size_t n;
        } give_up;
        struct stk_expiry *expiry; /* the caller's */
        struct {
            const char (*ids)[STK_UUID_MAX]; /* the caller's */
            size_t n;
        } results;
    };
    void (*release)(struct stk_cmd *cmd); /* what the union owns */
    size_t n_versions;
    int64_t versions[];
};

/* NULL when out of memory. n_versions as in stk_store_job_submitted(), else 0. */
struct stk_cmd *stk_cmd_new(stk_store_done_fn *done, void *arg, size_t n_versions, struct stk_err *err);
void stk_cmd_free(struct stk_cmd *cmd);

struct stk_event {
    const char *kind;
    const char *context_id; /* NULL or "": none */
    const char *job_id;
    int state; /* -1: none */
    const struct stk_text *data;
    const struct stk_text *context_name;
    int attempt;
};
int stk_event_write(struct stk_store *s, const struct stk_cmd *cmd, const struct stk_event *event);
/* Runs a statement that inserts an event, or none. 1, 0, or -1: SQLite failed. */
int stk_event_run(struct stk_store *s, sqlite3_stmt *stmt);

/* ---- the store */

enum { STK_STORE_READERS = 4 };

struct stk_store {
    struct stk_store_options options;
    char *dir;
    int tmp_fd, blobs_fd, unpacked_fd;
    bool writer_runs, trash_runs; /* the threads */

    struct stk_db writer;              /* the writer thread's */
    unsigned wal_pages;                /* the writer thread's: pages in the WAL after the last commit */
    unsigned wal_safe;                 /* the writer thread's: of these, copied into the database */
    struct stk_cmd *kept, **last_kept; /* the writer thread's: refused by a full disk, to be tried again */
    pthread_t writer_thread;

    pthread_mutex_t queue_lock; /* guards first..stopping */
    pthread_cond_t queue_cond;
    struct stk_cmd *first, **last;
    size_t queued;
    size_t released; /* of them: those the writer may take */
    int64_t last_at_us;
    bool stopping;

    pthread_mutex_t readers_lock; /* guards readers_free */
    pthread_cond_t readers_cond;
    struct stk_db readers[STK_STORE_READERS];
    struct stk_db *readers_free;

    pthread_mutex_t trash_lock; /* guards trash_waiting, trash_stop */
    pthread_cond_t trash_cond;
    bool trash_waiting, trash_stop;
    pthread_t trash_thread;

    atomic_uint_fast64_t commits, commands;
    struct stk_histogram commit_us, batch; /* how long a transaction took, how many commands it had */

    pthread_mutex_t counts_lock; /* guards counts, counted_until_us */
    int64_t counts[STK_JOB_STATES];
    int64_t counted_until_us;         /* monotonic: so long they are good enough */
    int64_t written_event;            /* the writer thread's: the newest of the transaction; 0: it has none */
    atomic_int_fast64_t newest_event; /* that is committed; 0: there is none */

    bool has_hooks;           /* the writer thread's: a job may have a webhook of its own */
    bool written_due;         /* the writer thread's: the transaction has made a delivery due */
    pthread_mutex_t due_lock; /* guards due_fn and due_arg, also while it is called */
    void (*due_fn)(void *arg);
    void *due_arg;
};

/* ---- deliveries.c; the writer's thread, or before it started */

int stk_deliveries_begin(struct stk_store *s, struct stk_err *err);
/* The webhook of a job that has just been inserted. */
int stk_delivery_insert(struct stk_store *s, int64_t job_seq, const struct stk_text *webhook);
/* A job ends, and its event has been written; its row says otherwise yet. */
int stk_deliveries_due(struct stk_store *s, const struct stk_cmd *cmd);
void stk_deliveries_committed(struct stk_store *s);

/* ---- writer.c */

int stk_writer_start(struct stk_store *s, struct stk_err *err);
void stk_writer_stop(struct stk_store *s); /* when all that is queued was answered */
/* Takes cmd. new_work: refused with STK_LIMIT when the queue is full; -1 frees it. */
int stk_writer_queue_take(struct stk_store *s, struct stk_cmd *cmd, bool new_work, struct stk_err *err);

/* ---- metrics.c */

extern const struct stk_buckets stk_commit_times, stk_batch_sizes;

/* ---- events.c: before the writer's thread */

int stk_events_begin(struct stk_store *s, struct stk_err *err);

/* ---- blobs.c; the writer's thread, or before it started */

int stk_files_open(struct stk_store *s, struct stk_err *err);
void stk_files_close(struct stk_store *s);
int stk_files_trash_start(struct stk_store *s, struct stk_err *err);
void stk_files_trash_stop(struct stk_store *s);
int stk_files_sweep(struct stk_store *s, struct stk_err *err);
int stk_files_link(struct stk_store *s, const char *digest, int64_t bytes, const char *blob_tmp,
                   const char *unpacked_tmp, struct stk_err *err);
void stk_files_unlink(struct stk_store *s, const char *digest);    /* unless something refers to it */
void stk_files_discard(struct stk_store *s, const char *tmp_name); /* NULL is fine; any thread */

#endif
