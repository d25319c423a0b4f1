/*
 * The commands that remove old rows. All of them look at the oldest rows only and stop at the first that is too young, so a
 * step that finds nothing costs a look at one row of each table.
 */
#include "internal.h"

#include "stoker/clock.h"

#include <string.h>

enum {
    BUDGET_MS = 3,        /* of one step: what a submit may wait for it */
    CHECK_CLOCK_EACH = 8, /* rows */
    EVENTS = 512,         /* they lie side by side: this many are ten pages */
};

/* A row that is to go. */
struct doomed {
    int64_t seq;
    struct stk_gone gone;
};

struct found {
    struct doomed rows[STK_EXPIRY_ROWS];
    size_t n;
    int64_t last; /* seq of the last row that was looked at; 0: none */
    bool end;     /* all rows behind it stay */
};

static int read_number(struct stk_db *db, sqlite3_stmt *stmt, int64_t *ret)
{
    int rc = stk_db_step(db, stmt);

    if (rc >= 0)
        *ret = rc ? sqlite3_column_int64(stmt, 0) : 0;
    stk_db_done(stmt);
    return rc < 0 ? -1 : 0;
}

static void copy_id(char to[STK_UUID_MAX], sqlite3_stmt *stmt, int column)
{
    const char *text = (const char *)sqlite3_column_text(stmt, column);
    size_t len = text ? strnlen(text, STK_UUID_MAX - 1) : 0;

    memcpy(to, text ? text : "", len);
    to[len] = '\0';
}

/* ---- jobs */

/* Jobs up to this number are more than may be stored; 0: none. since_us: when the oldest of the others came. */
static int find_excess(struct stk_db *db, int64_t max_jobs, int64_t *ret_seq, int64_t *ret_since_us)
{
    int64_t newest = 0;
    sqlite3_stmt *stmt;

    *ret_seq = *ret_since_us = 0;
    if (!max_jobs)
        return 0;
    if (read_number(db, stk_db_use(db, STK_SQL_JOB_NEWEST), &newest) < 0)
        return -1;
    if (newest <= max_jobs)
        return 0;
    *ret_seq = newest - max_jobs;
    stmt = stk_db_use(db, STK_SQL_JOB_TIME_AFTER);
    stk_db_bind_int(db, stmt, 1, *ret_seq);
    return read_number(db, stmt, ret_since_us);
}

static int find_jobs(struct stk_db *db, const struct stk_expiry *e, int64_t excess, struct found *found)
{
    enum { SEQ, ID, STATE, ATTEMPT, SUBMITTED, ENDED };
    stk_auto_stmt *stmt = stk_db_use(db, STK_SQL_JOB_OLDEST);
    int looked = 0, rc;

    stk_db_bind_int(db, stmt, 1, e->job_from);
    stk_db_bind_int(db, stmt, 2, STK_EXPIRY_ROWS);
    while ((rc = stk_db_step(db, stmt)) == 1) {
        int64_t seq = sqlite3_column_int64(stmt, SEQ);
        bool too_many = seq <= excess;
        struct doomed *d = &found->rows[found->n];

        if (!too_many && sqlite3_column_int64(stmt, SUBMITTED) >= e->before_us)
            break;
        looked++;
        found->last = seq;
        if (!stk_job_is_final((enum stk_job_state)sqlite3_column_int(stmt, STATE)) ||
            (!too_many && sqlite3_column_int64(stmt, ENDED) >= e->before_us))
            continue;
        d->seq = seq;
        copy_id(d->gone.id, stmt, ID);
        d->gone.attempts = sqlite3_column_int(stmt, ATTEMPT);
        found->n++;
    }
    found->end = looked < STK_EXPIRY_ROWS;
    return rc < 0 ? -1 : 0;
}

static int delete_by_number(struct stk_db *db, enum stk_sql which, int64_t number)
{
    sqlite3_stmt *stmt = stk_db_use(db, which);

    stk_db_bind_int(db, stmt, 1, number);
    return stk_db_run(db, stmt);
}

static int delete_job(struct stk_db *db, int64_t seq)
{
    if (delete_by_number(db, STK_SQL_JOB_CONFIG_DELETE, seq) < 0 ||
        delete_by_number(db, STK_SQL_JOB_DELIVERIES_DELETE, seq) < 0 ||
        delete_by_number(db, STK_SQL_JOB_TAGS_DELETE, seq) < 0)
        return -1;
    return delete_by_number(db, STK_SQL_JOB_DELETE, seq);
}

/* ---- contexts */

static int find_contexts(struct stk_db *db, int64_t from, int64_t before_us, size_t room, struct found *found)
{
    enum { SEQ, ID, STATE, STARTED, ENDED };
    stk_auto_stmt *stmt = stk_db_use(db, STK_SQL_CONTEXT_OLDEST);
    size_t looked = 0;
    int rc;

    stk_db_bind_int(db, stmt, 1, from);
    stk_db_bind_int(db, stmt, 2, (int64_t)room);
    while ((rc = stk_db_step(db, stmt)) == 1) {
        struct doomed *d = &found->rows[found->n];

        if (sqlite3_column_int64(stmt, STARTED) >= before_us)
            break;
        looked++;
        found->last = sqlite3_column_int64(stmt, SEQ);
        if (!stk_context_is_final((enum stk_context_state)sqlite3_column_int(stmt, STATE)) ||
            sqlite3_column_int64(stmt, ENDED) >= before_us)
            continue;
        d->seq = found->last;
        copy_id(d->gone.id, stmt, ID);
        d->gone.attempts = -1;
        found->n++;
    }
    found->end = looked < room;
    return rc < 0 ? -1 : 0;
}

static int delete_context(struct stk_db *db, int64_t seq)
{
    return delete_by_number(db, STK_SQL_CONTEXT_DELETE, seq);
}

/* ---- events */

/* Those before the time, from the oldest on. *ret_more: there may be more of them. */
static int delete_events(struct stk_db *db, int64_t before_us, size_t *ret_n, bool *ret_more)
{
    enum { SEQ, AT };
    sqlite3_stmt *stmt = stk_db_use(db, STK_SQL_EVENT_OLDEST);
    int64_t last = 0;
    size_t n = 0;
    int rc;

    stk_db_bind_int(db, stmt, 1, EVENTS);
    while ((rc = stk_db_step(db, stmt)) == 1 && sqlite3_column_int64(stmt, AT) < before_us) {
        last = sqlite3_column_int64(stmt, SEQ);
        n++;
    }
    stk_db_done(stmt);
    if (rc < 0 || (n && delete_by_number(db, STK_SQL_EVENTS_DELETE, last) < 0))
        return -1;
    *ret_n = n;
    *ret_more = n == EVENTS;
    return 0;
}

/* ---- the command */

/* Deletes what was found, as far as the time goes; *next is where the next step begins. 1: all, 0: not all, -1: failed. */
static int delete_found(struct stk_db *db, const struct found *found, int (*delete)(struct stk_db *db, int64_t seq),
                        int64_t deadline_ms, struct stk_expiry *e, int64_t *next)
{
    for (size_t i = 0; i < found->n; i++) {
        if (i % CHECK_CLOCK_EACH == CHECK_CLOCK_EACH - 1 && stk_mono_ms() > deadline_ms)
            return 0;
        if (delete (db, found->rows[i].seq) < 0)
            return -1;
        e->gone[e->n_gone++] = found->rows[i].gone;
        *next = found->rows[i].seq;
    }
    if (found->last)
        *next = found->last;
    return found->end;
}

static enum stk_cmd_result run_expire(struct stk_store *s, struct stk_cmd *cmd, struct stk_err *err)
{
    struct stk_db *db = &s->writer;
    struct stk_expiry *e = cmd->expiry;
    int64_t deadline_ms = stk_mono_ms() + BUDGET_MS, excess, since_us, before_us;
    struct found found = { 0 };
    int64_t next_job = e->job_from, next_context = e->context_from;
    int all;

    (void)err;
    /* It may have been run before, in a transaction that failed: then job_from still is what it was. */
    e->more = true;
    e->n_events = e->n_gone = 0;
    if (find_excess(db, e->max_jobs, &excess, &since_us) < 0 || find_jobs(db, e, excess, &found) < 0 ||
        (all = delete_found(db, &found, delete_job, deadline_ms, e, &next_job)) < 0)
        return STK_CMD_FAILED;
    if (all && e->n_gone < STK_EXPIRY_ROWS && stk_mono_ms() <= deadline_ms) {
        size_t room = STK_EXPIRY_ROWS - e->n_gone;

        before_us = since_us > e->before_us ? since_us : e->before_us;
        found = (struct found){ 0 };
        if (find_contexts(db, e->context_from, before_us, room, &found) < 0 ||
            (all = delete_found(db, &found, delete_context, deadline_ms, e, &next_context)) < 0)
            return STK_CMD_FAILED;
        if (all && delete_events(db, before_us, &e->n_events, &e->more) < 0)
            return STK_CMD_FAILED;
    }
    e->job_next = next_job;
    e->context_next = next_context;
    return STK_CMD_DONE;
}

int stk_store_expire(struct stk_store *s, struct stk_expiry *expiry, stk_store_done_fn *done, void *arg,
                     struct stk_err *err)
{
    struct stk_cmd *cmd = stk_cmd_new(done, arg, 0, err);

    if (!cmd)
        return -1;
    cmd->expiry = expiry;
    cmd->run = run_expire;
    return stk_writer_queue_take(s, cmd, false, err);
}

/* ---- results */

static enum stk_cmd_result run_results_dropped(struct stk_store *s, struct stk_cmd *cmd, struct stk_err *err)
{
    struct stk_db *db = &s->writer;

    (void)err;
    for (size_t i = 0; i < cmd->results.n; i++) {
        sqlite3_stmt *stmt = stk_db_use(db, STK_SQL_JOB_RESULT_DROP);

        stk_db_bind_str(db, stmt, 1, cmd->results.ids[i]);
        if (stk_db_run(db, stmt) < 0)
            return STK_CMD_FAILED;
    }
    return STK_CMD_DONE;
}

int stk_store_results_dropped(struct stk_store *s, const char (*ids)[STK_UUID_MAX], size_t n, stk_store_done_fn *done,
                              void *arg, struct stk_err *err)
{
    struct stk_cmd *cmd = stk_cmd_new(done, arg, 0, err);

    if (!cmd)
        return -1;
    cmd->results.ids = ids;
    cmd->results.n = n;
    cmd->run = run_results_dropped;
    return stk_writer_queue_take(s, cmd, false, err);
}
