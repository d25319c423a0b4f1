/* The reads: on the caller's thread, each one statement and so one short transaction, on a connection lent by the pool. */
#include "internal.h"

#include "stoker/clock.h"

#include <stdio.h>
#include <string.h>

/* ---- the pool */

static struct stk_db *borrow(struct stk_store *s)
{
    struct stk_db *db;

    pthread_mutex_lock(&s->readers_lock);
    while (!s->readers_free)
        pthread_cond_wait(&s->readers_cond, &s->readers_lock);
    db = s->readers_free;
    s->readers_free = db->next_free;
    pthread_mutex_unlock(&s->readers_lock);
    return db;
}

static void give_back(struct stk_store *s, struct stk_db *db)
{
    pthread_mutex_lock(&s->readers_lock);
    db->next_free = s->readers_free;
    s->readers_free = db;
    pthread_cond_signal(&s->readers_cond);
    pthread_mutex_unlock(&s->readers_lock);
}

struct stk_read stk_read_start(struct stk_store *s, enum stk_sql which)
{
    struct stk_db *db = borrow(s);

    return (struct stk_read){ .s = s, .db = db, .stmt = stk_db_use(db, which) };
}

void stk_read_end(struct stk_read *r)
{
    stk_db_done(r->stmt); /* ends the transaction too */
    give_back(r->s, r->db);
}

int stk_read_step(struct stk_db *db, sqlite3_stmt *stmt, struct stk_err *err)
{
    int rc = stk_db_step(db, stmt);

    if (rc >= 0)
        return rc;
    if (stk_db_trouble(db) == STK_DB_BROKEN)
        stk_db_fatal(db, "read");
    return stk_db_fail(db, err, "read");
}

/* ---- columns */

/* NULL gives NULL; *ok turns false when out of memory. */
static struct stk_text *column_text(sqlite3_stmt *stmt, int i, bool *ok)
{
    const char *bytes = (const char *)sqlite3_column_text(stmt, i);
    struct stk_text *text;

    if (!bytes) {
        *ok = *ok && sqlite3_column_type(stmt, i) == SQLITE_NULL;
        return NULL;
    }
    text = stk_text_new(bytes, (size_t)sqlite3_column_bytes(stmt, i));
    *ok = *ok && text;
    return text;
}

static void column_str(sqlite3_stmt *stmt, int i, char *to, size_t size)
{
    const char *bytes = (const char *)sqlite3_column_text(stmt, i);
    size_t len = bytes ? (size_t)sqlite3_column_bytes(stmt, i) : 0;

    if (len > size - 1)
        len = size - 1;
    if (len)
        memcpy(to, bytes, len);
    to[len] = '\0';
}

struct stk_text *stk_read_text(sqlite3_stmt *stmt, int i, bool *ok)
{
    return column_text(stmt, i, ok);
}

void stk_read_str(sqlite3_stmt *stmt, int i, char *to, size_t size)
{
    column_str(stmt, i, to, size);
}

/* A number that no version of this program has written. */
static int damaged_row(struct stk_err *err)
{
    return stk_fail(err, STK_INTERNAL,
                    "read: the database file is damaged (a state that there is not); restore it from a backup");
}

static int out_of_memory(struct stk_err *err)
{
    return stk_fail(err, STK_INTERNAL, "out of memory");
}

/* Rows of one kind, collected. fill() fills a zeroed row, also in part when it fails; done() releases one. */
struct row_kind {
    size_t size;
    int (*fill)(sqlite3_stmt *stmt, void *row, struct stk_err *err);
    void (*done)(void *row);
};

static int collect(struct stk_read *r, const struct row_kind *kind, void **ret, size_t *ret_n, struct stk_err *err)
{
    char *rows = NULL;
    size_t n = 0, room = 0;
    int more;

    while ((more = stk_read_step(r->db, r->stmt, err)) == 1) {
        if (n == room) {
            size_t wanted = room ? room * 2 : 16;
            char *grown = reallocarray(rows, wanted, kind->size);

            if (!grown) {
                more = out_of_memory(err);
                break;
            }
            rows = grown;
            room = wanted;
        }
        memset(rows + n * kind->size, 0, kind->size);
        n++; /* released below even when only half filled */
        if ((more = kind->fill(r->stmt, rows + (n - 1) * kind->size, err)) < 0)
            break;
    }
    if (more == 0) {
        *ret = rows;
        *ret_n = n;
        return 0;
    }
    while (n > 0)
        kind->done(rows + --n * kind->size);
    free(rows);
    return -1;
}

int stk_read_rows(struct stk_read *r, size_t size, int (*fill)(sqlite3_stmt *stmt, void *row, struct stk_err *err),
                  void (*done)(void *row), void **ret, size_t *ret_n, struct stk_err *err)
{
    return collect(r, &(struct row_kind){ size, fill, done }, ret, ret_n, err);
}

/* The single row of a read that finds one by its name. */
static int one_row(struct stk_read *r, const struct row_kind *kind, void *ret, struct stk_err *err)
{
    int rc = stk_read_step(r->db, r->stmt, err);

    if (rc <= 0)
        return rc;
    memset(ret, 0, kind->size);
    if (kind->fill(r->stmt, ret, err) < 0) {
        kind->done(ret);
        memset(ret, 0, kind->size);
        return -1;
    }
    return 1;
}

/* ---- jobs */

static int fill_job(sqlite3_stmt *stmt, void *to, struct stk_err *err)
{
    struct stk_job_row *row = to;
    bool ok = true;

    column_str(stmt, STK_JOB_COL_ID, row->id, sizeof row->id);
    column_str(stmt, STK_JOB_COL_CONTEXT_ID, row->context_id, sizeof row->context_id);
    row->context_name = column_text(stmt, STK_JOB_COL_CONTEXT_NAME, &ok);
    row->app = column_text(stmt, STK_JOB_COL_APP, &ok);
    row->class_path = column_text(stmt, STK_JOB_COL_CLASS_PATH, &ok);
    row->set = column_text(stmt, STK_JOB_COL_SET, &ok);
    row->binaries = column_text(stmt, STK_JOB_COL_BINARIES, &ok);
    row->state = (enum stk_job_state)sqlite3_column_int(stmt, STK_JOB_COL_STATE);
    row->attempt = sqlite3_column_int(stmt, STK_JOB_COL_ATTEMPT);
    row->submitted_us = sqlite3_column_int64(stmt, STK_JOB_COL_SUBMITTED);
    row->started_us = sqlite3_column_int64(stmt, STK_JOB_COL_STARTED);
    row->ended_us = sqlite3_column_int64(stmt, STK_JOB_COL_ENDED);
    column_str(stmt, STK_JOB_COL_PROCESS, row->worker.process, sizeof row->worker.process);
    row->worker.pid = sqlite3_column_int(stmt, STK_JOB_COL_PID);
    row->worker.start_time = (uint64_t)sqlite3_column_int64(stmt, STK_JOB_COL_START_TIME);
    column_str(stmt, STK_JOB_COL_BOOT, row->worker.boot_id, sizeof row->worker.boot_id);
    row->result_bytes = sqlite3_column_int64(stmt, STK_JOB_COL_RESULT_BYTES);
    row->result_file = column_text(stmt, STK_JOB_COL_RESULT_FILE, &ok);
    row->terms.priority = sqlite3_column_int(stmt, STK_JOB_COL_PRIORITY);
    row->terms.queue_timeout_ms = sqlite3_column_int64(stmt, STK_JOB_COL_QUEUE_TIMEOUT);
    row->terms.run_timeout_ms = sqlite3_column_int64(stmt, STK_JOB_COL_RUN_TIMEOUT);
    row->terms.max_memory = sqlite3_column_int64(stmt, STK_JOB_COL_MAX_MEMORY);
    row->terms.isolated = sqlite3_column_int(stmt, STK_JOB_COL_ISOLATED);
    row->tags = column_text(stmt, STK_JOB_COL_TAGS, &ok);
    row->user = column_text(stmt, STK_JOB_COL_USER, &ok);
    row->error = column_text(stmt, STK_JOB_COL_ERROR, &ok);
    if ((unsigned)row->state >= STK_JOB_STATES)
        return damaged_row(err);
    return ok ? 0 : out_of_memory(err);
}

static int fill_job_result(sqlite3_stmt *stmt, void *to, struct stk_err *err)
{
    struct stk_job_row *row = to;
    bool ok = true;

    if (fill_job(stmt, to, err) < 0)
        return -1;
    row->result = column_text(stmt, STK_JOB_COL_RESULT, &ok);
    row->receipt = column_text(stmt, STK_JOB_COL_RECEIPT, &ok);
    return ok ? 0 : out_of_memory(err);
}

static int fill_job_key(sqlite3_stmt *stmt, void *to, struct stk_err *err)
{
    struct stk_job_row *row = to;
    bool ok = true;

    if (fill_job_result(stmt, to, err) < 0)
        return -1;
    row->idempotency_key = column_text(stmt, STK_JOB_COL_KEY, &ok);
    row->fingerprint = column_text(stmt, STK_JOB_COL_FINGERPRINT, &ok);
    return ok ? 0 : out_of_memory(err);
}

static int fill_job_whole(sqlite3_stmt *stmt, void *to, struct stk_err *err)
{
    struct stk_job_row *row = to;
    bool ok = true;

    if (fill_job_result(stmt, to, err) < 0)
        return -1;
    row->config = column_text(stmt, STK_JOB_COL_CONFIG, &ok);
    return ok ? 0 : out_of_memory(err);
}

int stk_read_job(sqlite3_stmt *stmt, struct stk_job_row *row, struct stk_err *err)
{
    return fill_job_result(stmt, row, err);
}

static void job_done(void *row)
{
    stk_job_row_done(row);
}

static const struct row_kind got_job = { sizeof(struct stk_job_row), fill_job_result, job_done };
static const struct row_kind keyed_job = { sizeof(struct stk_job_row), fill_job_key, job_done };
static const struct row_kind live_job = { sizeof(struct stk_job_row), fill_job_whole, job_done };

int stk_store_job_get(struct stk_store *s, const char *id, struct stk_job_row *ret, struct stk_err *err)
{
    stk_auto_read r = stk_read_start(s, STK_SQL_JOB_GET);
    int rc;

    stk_db_bind_str(r.db, r.stmt, 1, id);
    rc = one_row(&r, &got_job, ret, err);
    return rc > 0 ? 0 : rc < 0 ? -1 : stk_fail(err, STK_NOT_FOUND, "job %.60s not found", id);
}

int stk_store_job_stage(struct stk_store *s, const char *id, struct stk_job_stage *ret, struct stk_err *err)
{
    stk_auto_read r = stk_read_start(s, STK_SQL_JOB_STAGE);
    int rc, state;

    stk_db_bind_str(r.db, r.stmt, 1, id);
    rc = stk_read_step(r.db, r.stmt, err);
    if (rc <= 0)
        return rc < 0 ? -1 : stk_fail(err, STK_NOT_FOUND, "job %.60s not found", id);
    state = sqlite3_column_int(r.stmt, 0);
    if ((unsigned)state >= STK_JOB_STATES)
        return damaged_row(err);
    ret->state = (enum stk_job_state)state;
    ret->attempt = sqlite3_column_int(r.stmt, 1);
    column_str(r.stmt, 2, ret->process, sizeof ret->process);
    ret->output_bytes[0] = sqlite3_column_int64(r.stmt, 3);
    ret->output_bytes[1] = sqlite3_column_int64(r.stmt, 4);
    return 0;
}

int stk_store_job_by_key(struct stk_store *s, const char *key, struct stk_job_row *ret, struct stk_err *err)
{
    stk_auto_read r = stk_read_start(s, STK_SQL_JOB_BY_KEY);
    int rc;

    stk_db_bind_str(r.db, r.stmt, 1, key);
    rc = one_row(&r, &keyed_job, ret, err);
    return rc > 0 ? 0 : rc < 0 ? -1 : stk_fail(err, STK_NOT_FOUND, "no job has this idempotency key");
}

int stk_store_job_config(struct stk_store *s, const char *id, struct stk_text **ret, struct stk_err *err)
{
    stk_auto_read r = stk_read_start(s, STK_SQL_JOB_CONFIG);
    struct stk_text *config;
    bool ok = true;
    int rc;

    stk_db_bind_str(r.db, r.stmt, 1, id);
    rc = stk_read_step(r.db, r.stmt, err);
    if (rc <= 0)
        return rc < 0 ? -1 : stk_fail(err, STK_NOT_FOUND, "job %.60s not found", id);
    config = column_text(r.stmt, 0, &ok);
    if (!config && ok)
        config = stk_text_new("{}", 2);
    if (!config)
        return out_of_memory(err);
    *ret = config;
    return 0;
}

int stk_store_live_jobs(struct stk_store *s, struct stk_job_row **ret, size_t *ret_n, struct stk_err *err)
{
    stk_auto_read r = stk_read_start(s, STK_SQL_JOB_LIVE);
    void *rows;

    if (collect(&r, &live_job, &rows, ret_n, err) < 0)
        return -1;
    *ret = rows;
    return 0;
}

static int count_jobs(struct stk_store *s, int64_t counts[STK_JOB_STATES], struct stk_err *err)
{
    stk_auto_read r = stk_read_start(s, STK_SQL_JOB_COUNTS);
    int more;

    memset(counts, 0, STK_JOB_STATES * sizeof *counts);
    while ((more = stk_read_step(r.db, r.stmt, err)) == 1) {
        int64_t state = sqlite3_column_int64(r.stmt, 0);

        if (state < STK_JOB_STATES) /* else a damaged row, which is not what is asked for here */
            counts[state] = sqlite3_column_int64(r.stmt, 1);
    }
    return more;
}

int stk_store_job_counts(struct stk_store *s, int64_t *ret, struct stk_err *err)
{
    enum { WORTH = 50 };
    int64_t began_us = stk_mono_us(), counts[STK_JOB_STATES], now_us;
    bool fresh;

    pthread_mutex_lock(&s->counts_lock);
    fresh = began_us < s->counted_until_us;
    if (fresh)
        memcpy(ret, s->counts, sizeof s->counts);
    pthread_mutex_unlock(&s->counts_lock);
    if (fresh)
        return 0;
    if (count_jobs(s, counts, err) < 0)
        return -1;
    now_us = stk_mono_us();
    memcpy(ret, counts, sizeof counts);
    pthread_mutex_lock(&s->counts_lock);
    memcpy(s->counts, counts, sizeof counts);
    s->counted_until_us = now_us + WORTH * (now_us - began_us);
    pthread_mutex_unlock(&s->counts_lock);
    return 0;
}

/* ---- contexts */

static int fill_context(sqlite3_stmt *stmt, void *to, struct stk_err *err)
{
    struct stk_context_row *row = to;
    bool ok = true;

    column_str(stmt, STK_CONTEXT_COL_ID, row->id, sizeof row->id);
    row->name = column_text(stmt, STK_CONTEXT_COL_NAME, &ok);
    row->state = (enum stk_context_state)sqlite3_column_int(stmt, STK_CONTEXT_COL_STATE);
    row->max_jobs = sqlite3_column_int(stmt, STK_CONTEXT_COL_MAX_JOBS);
    row->started_us = sqlite3_column_int64(stmt, STK_CONTEXT_COL_STARTED);
    row->ended_us = sqlite3_column_int64(stmt, STK_CONTEXT_COL_ENDED);
    row->application_id = column_text(stmt, STK_CONTEXT_COL_APPLICATION_ID, &ok);
    row->ui_url = column_text(stmt, STK_CONTEXT_COL_UI_URL, &ok);
    row->error = column_text(stmt, STK_CONTEXT_COL_ERROR, &ok);
    row->spec = column_text(stmt, STK_CONTEXT_COL_SPEC, &ok);
    if ((unsigned)row->state >= STK_CONTEXT_STATES)
        return damaged_row(err);
    return ok ? 0 : out_of_memory(err);
}

static void context_done(void *row)
{
    stk_context_row_done(row);
}

static const struct row_kind context = { sizeof(struct stk_context_row), fill_context, context_done };

int stk_store_context_get(struct stk_store *s, const char *name, struct stk_context_row *ret, struct stk_err *err)
{
    stk_auto_read r = stk_read_start(s, STK_SQL_CONTEXT_GET);
    int rc;

    stk_db_bind_str(r.db, r.stmt, 1, name);
    rc = one_row(&r, &context, ret, err);
    return rc > 0 ? 0 : rc < 0 ? -1 : stk_fail(err, STK_NOT_FOUND, "context %.100s not found", name);
}

static int list_contexts(struct stk_store *s, enum stk_sql which, struct stk_context_row **ret, size_t *ret_n,
                         struct stk_err *err)
{
    stk_auto_read r = stk_read_start(s, which);
    void *rows;

    if (collect(&r, &context, &rows, ret_n, err) < 0)
        return -1;
    *ret = rows;
    return 0;
}

int stk_store_context_stage(struct stk_store *s, const char *id, enum stk_context_state *ret, struct stk_err *err)
{
    stk_auto_read r = stk_read_start(s, STK_SQL_CONTEXT_STAGE);
    int rc, state;

    stk_db_bind_str(r.db, r.stmt, 1, id);
    rc = stk_read_step(r.db, r.stmt, err);
    if (rc <= 0)
        return rc < 0 ? -1 : stk_fail(err, STK_NOT_FOUND, "context %.60s not found", id);
    state = sqlite3_column_int(r.stmt, 0);
    if ((unsigned)state >= STK_CONTEXT_STATES)
        return damaged_row(err);
    *ret = (enum stk_context_state)state;
    return 0;
}

int stk_store_context_list(struct stk_store *s, struct stk_context_row **ret, size_t *ret_n, struct stk_err *err)
{
    return list_contexts(s, STK_SQL_CONTEXT_LIST, ret, ret_n, err);
}

int stk_store_live_contexts(struct stk_store *s, struct stk_context_row **ret, size_t *ret_n, struct stk_err *err)
{
    return list_contexts(s, STK_SQL_CONTEXT_LIVE, ret, ret_n, err);
}

/* ---- events */

static int column_state(sqlite3_stmt *stmt, int i)
{
    return sqlite3_column_type(stmt, i) == SQLITE_NULL ? -1 : sqlite3_column_int(stmt, i);
}

static int fill_event(sqlite3_stmt *stmt, void *to, struct stk_err *err)
{
    enum { SEQ, AT, KIND, CONTEXT_ID, JOB_ID, STATE, DATA, CONTEXT_NAME, FROM, ATTEMPT };
    struct stk_event_row *row = to;
    bool ok = true;
    int states;

    row->seq = sqlite3_column_int64(stmt, SEQ);
    row->at_us = sqlite3_column_int64(stmt, AT);
    column_str(stmt, KIND, row->kind, sizeof row->kind);
    column_str(stmt, CONTEXT_ID, row->context_id, sizeof row->context_id);
    column_str(stmt, JOB_ID, row->job_id, sizeof row->job_id);
    row->state = column_state(stmt, STATE);
    row->from_state = column_state(stmt, FROM);
    row->attempt = sqlite3_column_int(stmt, ATTEMPT);
    row->data = column_text(stmt, DATA, &ok);
    row->context_name = column_text(stmt, CONTEXT_NAME, &ok);
    states = row->job_id[0] ? STK_JOB_STATES : STK_CONTEXT_STATES;
    if (row->state < -1 || row->state >= states || row->from_state < -1 || row->from_state >= states)
        return damaged_row(err);
    return ok ? 0 : out_of_memory(err);
}

static void event_done(void *row)
{
    stk_event_row_done(row);
}

static const struct row_kind event = { sizeof(struct stk_event_row), fill_event, event_done };

int64_t stk_store_event_newest(struct stk_store *s)
{
    return atomic_load_explicit(&s->newest_event, memory_order_acquire);
}

/* Not beyond the newest that is published: there may be one that is committed and not published yet. */
int stk_store_event_list(struct stk_store *s, int64_t after, size_t limit, struct stk_event_row **ret, size_t *ret_n,
                         struct stk_err *err)
{
    stk_auto_read r = stk_read_start(s, STK_SQL_EVENT_LIST);
    void *rows;

    stk_db_bind_int(r.db, r.stmt, 1, after);
    stk_db_bind_int(r.db, r.stmt, 2, stk_store_event_newest(s));
    stk_db_bind_int(r.db, r.stmt, 3, (int64_t)limit);
    if (collect(&r, &event, &rows, ret_n, err) < 0)
        return -1;
    *ret = rows;
    return 0;
}

/* A number, and a time with it, or another number. 1, 0: there is no such row, -1. */
static int event_numbers(struct stk_store *s, enum stk_sql which, int64_t from, int64_t ret[2], struct stk_err *err)
{
    stk_auto_read r = stk_read_start(s, which);
    int rc;

    if (from)
        stk_db_bind_int(r.db, r.stmt, 1, from);
    rc = stk_read_step(r.db, r.stmt, err);
    for (int i = 0; rc == 1 && i < 2; i++)
        ret[i] = sqlite3_column_int64(r.stmt, i);
    return rc;
}

int stk_events_begin(struct stk_store *s, struct stk_err *err)
{
    int64_t range[2] = { 0 }, newest[2] = { 0 };

    if (event_numbers(s, STK_SQL_EVENT_RANGE, 0, range, err) < 0)
        return -1;
    atomic_store(&s->newest_event, range[1]);
    if (range[1] > 0 && event_numbers(s, STK_SQL_EVENT_TIME, range[1], newest, err) < 0)
        return -1;
    s->last_at_us = newest[1];
    return 0;
}

/* They are numbered without gaps, and times rise with the numbers: a binary search. */
int stk_store_event_before(struct stk_store *s, int64_t wall_us, int64_t *ret, struct stk_err *err)
{
    int64_t from, end, range[2] = { 0 };

    if (event_numbers(s, STK_SQL_EVENT_RANGE, 0, range, err) < 0)
        return -1;
    from = range[0];
    end = stk_store_event_newest(s) + 1;
    while (from < end) { /* the first one of that time or later is among these, or is end */
        int64_t middle = from + (end - from) / 2, found[2] = { 0 };
        int rc = event_numbers(s, STK_SQL_EVENT_TIME, middle, found, err);

        if (rc < 0)
            return -1;
        if (rc == 0 || found[1] >= wall_us)
            end = middle;
        else
            from = found[0] + 1;
    }
    *ret = end > 0 ? end - 1 : 0;
    return 0;
}

/* ---- binaries */

static int fill_binary(sqlite3_stmt *stmt, void *to, struct stk_err *err)
{
    enum { VERSION, NAME, TYPE, DIGEST, BYTES, UPLOADED };
    struct stk_binary_row *row = to;
    char type[16];
    bool ok = true;

    row->version = sqlite3_column_int64(stmt, VERSION);
    row->name = column_text(stmt, NAME, &ok);
    column_str(stmt, TYPE, type, sizeof type);
    column_str(stmt, DIGEST, row->digest, sizeof row->digest);
    row->bytes = sqlite3_column_int64(stmt, BYTES);
    row->uploaded_us = sqlite3_column_int64(stmt, UPLOADED);
    if (!ok)
        return out_of_memory(err);
    if (stk_binary_type_parse(type, &row->type) < 0)
        return stk_fail(err, STK_INTERNAL, "version %lld has the unknown type '%s'", (long long)row->version, type);
    return 0;
}

static void binary_done(void *row)
{
    stk_binary_row_done(row);
}

static const struct row_kind binary = { sizeof(struct stk_binary_row), fill_binary, binary_done };

int stk_store_binary_get(struct stk_store *s, const char *name, struct stk_binary_row *ret, struct stk_err *err)
{
    stk_auto_read r = stk_read_start(s, STK_SQL_BINARY_GET);
    int rc;

    stk_db_bind_str(r.db, r.stmt, 1, name);
    rc = one_row(&r, &binary, ret, err);
    return rc > 0 ? 0 : rc < 0 ? -1 : stk_fail(err, STK_NOT_FOUND, "appName %.100s not found", name);
}

int stk_store_binary_list(struct stk_store *s, struct stk_binary_row **ret, size_t *ret_n, struct stk_err *err)
{
    stk_auto_read r = stk_read_start(s, STK_SQL_BINARY_LIST);
    void *rows;

    if (collect(&r, &binary, &rows, ret_n, err) < 0)
        return -1;
    *ret = rows;
    return 0;
}

int stk_store_binary_versions(struct stk_store *s, const char *name, struct stk_binary_row **ret, size_t *ret_n,
                              struct stk_err *err)
{
    stk_auto_read r = stk_read_start(s, STK_SQL_BINARY_VERSIONS);
    void *rows;

    stk_db_bind_str(r.db, r.stmt, 1, name);
    if (collect(&r, &binary, &rows, ret_n, err) < 0)
        return -1;
    if (*ret_n == 0) {
        free(rows);
        return stk_fail(err, STK_NOT_FOUND, "binary %.100s not found", name);
    }
    *ret = rows;
    return 0;
}

/* ---- processes */

static int fill_process(sqlite3_stmt *stmt, void *to, struct stk_err *err)
{
    enum { CONTEXT_ID, ROLE, PROCESS, PID, START_TIME, BOOT_ID };
    struct stk_process_row *row = to;

    (void)err;
    column_str(stmt, CONTEXT_ID, row->context_id, sizeof row->context_id);
    column_str(stmt, ROLE, row->role, sizeof row->role);
    column_str(stmt, PROCESS, row->id.process, sizeof row->id.process);
    row->id.pid = sqlite3_column_int(stmt, PID);
    row->id.start_time = (uint64_t)sqlite3_column_int64(stmt, START_TIME);
    column_str(stmt, BOOT_ID, row->id.boot_id, sizeof row->id.boot_id);
    return 0;
}

static void process_done(void *row)
{
    (void)row;
}

static const struct row_kind process = { sizeof(struct stk_process_row), fill_process, process_done };

int stk_store_live_processes(struct stk_store *s, struct stk_process_row **ret, size_t *ret_n, struct stk_err *err)
{
    stk_auto_read r = stk_read_start(s, STK_SQL_PROCESS_LIST);
    void *rows;

    if (collect(&r, &process, &rows, ret_n, err) < 0)
        return -1;
    *ret = rows;
    return 0;
}

/* ---- retention */

struct numbers {
    int64_t *at;
    size_t n, room;
};

static int add_number(struct numbers *to, int64_t number, struct stk_err *err)
{
    if (to->n == to->room) {
        size_t wanted = to->room ? to->room * 2 : 64;
        int64_t *grown = reallocarray(to->at, wanted, sizeof *grown);

        if (!grown)
            return out_of_memory(err);
        to->at = grown;
        to->room = wanted;
    }
    to->at[to->n++] = number;
    return 0;
}

static int compare_numbers(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

static int read_replaced(struct stk_store *s, int64_t before_us, struct numbers *to, struct stk_err *err)
{
    stk_auto_read r = stk_read_start(s, STK_SQL_VERSIONS_REPLACED);
    int more;

    stk_db_bind_int(r.db, r.stmt, 1, before_us);
    while ((more = stk_read_step(r.db, r.stmt, err)) == 1) {
        if (add_number(to, sqlite3_column_int64(r.stmt, 0), err) < 0)
            return -1;
    }
    return more;
}

static int read_range(struct stk_store *s, int64_t *ret_first, int64_t *ret_last, struct stk_err *err)
{
    stk_auto_read r = stk_read_start(s, STK_SQL_JOB_RANGE);

    if (stk_read_step(r.db, r.stmt, err) < 0)
        return -1;
    *ret_first = sqlite3_column_int64(r.stmt, 0);
    *ret_last = sqlite3_column_int64(r.stmt, 1);
    return 0;
}

/* Takes what these jobs ran with out of the sorted candidates. */
static int strike_used(struct stk_store *s, int64_t first, int64_t last, struct numbers *from, struct stk_err *err)
{
    stk_auto_read r = stk_read_start(s, STK_SQL_VERSIONS_USED);
    int more;

    stk_db_bind_int(r.db, r.stmt, 1, first);
    stk_db_bind_int(r.db, r.stmt, 2, last);
    while ((more = stk_read_step(r.db, r.stmt, err)) == 1) {
        int64_t version = sqlite3_column_int64(r.stmt, 0);
        int64_t *found = bsearch(&version, from->at, from->n, sizeof version, compare_numbers);

        if (!found)
            continue;
        memmove(found, found + 1, (size_t)(from->at + from->n - (found + 1)) * sizeof *found);
        from->n--;
    }
    return more;
}

int stk_store_unused_versions(struct stk_store *s, int64_t replaced_before_us, const atomic_bool *stop, int64_t **ret,
                              size_t *ret_n, struct stk_err *err)
{
    enum { JOBS_AT_ONCE = 5000 }; /* a few milliseconds: a long read would keep the WAL from starting over */
    struct numbers found = { 0 };
    int64_t first = 0, last = -1;
    int rc = read_replaced(s, replaced_before_us, &found, err);

    /* Jobs that come meanwhile run with the newest version, which is none of these. */
    if (rc == 0 && found.n)
        rc = read_range(s, &first, &last, err);
    for (; rc == 0 && found.n && first <= last; first += JOBS_AT_ONCE) {
        if (atomic_load_explicit(stop, memory_order_relaxed))
            found.n = 0;
        else
            rc = strike_used(s, first, first + JOBS_AT_ONCE - 1, &found, err);
    }
    if (rc < 0) {
        free(found.at);
        return -1;
    }
    *ret = found.at;
    *ret_n = found.n;
    return 0;
}

int stk_store_knows(struct stk_store *s, const char *id, struct stk_err *err)
{
    stk_auto_read r = stk_read_start(s, STK_SQL_KNOWS);

    stk_db_bind_str(r.db, r.stmt, 1, id);
    return stk_read_step(r.db, r.stmt, err) < 0 ? -1 : sqlite3_column_int(r.stmt, 0);
}
