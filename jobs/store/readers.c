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

struct stk_text *stk_read_text(sqlite3_stmt *stmt, int i, bool *ok)
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

void stk_read_str(sqlite3_stmt *stmt, int i, char *to, size_t size)
{
    const char *bytes = (const char *)sqlite3_column_text(stmt, i);
    size_t len = bytes ? (size_t)sqlite3_column_bytes(stmt, i) : 0;

    if (len > size - 1)
        len = size - 1;
    if (len)
        memcpy(to, bytes, len);
    to[len] = '\0';
}

int stk_read_damaged(struct stk_err *err)
{
    return stk_fail(err, STK_INTERNAL,
                    "read: the database file is damaged (a state that there is not); restore it from a backup");
}

static int out_of_memory(struct stk_err *err)
{
    return stk_fail(err, STK_INTERNAL, "out of memory");
}

/* fill() and done() as in stk_read_rows(). */
struct row_kind {
    size_t size;
    int (*fill)(sqlite3_stmt *stmt, void *row, struct stk_err *err);
    void (*done)(void *row);
};

int stk_read_rows(struct stk_read *r, size_t size, int (*fill)(sqlite3_stmt *stmt, void *row, struct stk_err *err),
                  void (*done)(void *row), void **ret, size_t *ret_n, struct stk_err *err)
{
    char *rows = NULL;
    size_t n = 0, room = 0;
    int more;

    while ((more = stk_read_step(r->db, r->stmt, err)) == 1) {
        if (n == room) {
            size_t wanted = room ? room * 2 : 16;
            char *grown = reallocarray(rows, wanted, size);

            if (!grown) {
                more = out_of_memory(err);
                break;
            }
            rows = grown;
            room = wanted;
        }
        memset(rows + n * size, 0, size);
        n++; /* released below even when only half filled */
        if ((more = fill(r->stmt, rows + (n - 1) * size, err)) < 0)
            break;
    }
    if (more == 0) {
        *ret = rows;
        *ret_n = n;
        return 0;
    }
    while (n > 0)
        done(rows + --n * size);
    free(rows);
    return -1;
}

static int collect(struct stk_read *r, const struct row_kind *kind, void **ret, size_t *ret_n, struct stk_err *err)
{
    return stk_read_rows(r, kind->size, kind->fill, kind->done, ret, ret_n, err);
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

    stk_read_str(stmt, STK_JOB_COL_ID, row->id, sizeof row->id);
    stk_read_str(stmt, STK_JOB_COL_CONTEXT_ID, row->context_id, sizeof row->context_id);
    row->context_name = stk_read_text(stmt, STK_JOB_COL_CONTEXT_NAME, &ok);
    row->app = stk_read_text(stmt, STK_JOB_COL_APP, &ok);
    row->class_path = stk_read_text(stmt, STK_JOB_COL_CLASS_PATH, &ok);
    row->set = stk_read_text(stmt, STK_JOB_COL_SET, &ok);
    row->binaries = stk_read_text(stmt, STK_JOB_COL_BINARIES, &ok);
    row->state = (enum stk_job_state)sqlite3_column_int(stmt, STK_JOB_COL_STATE);
    row->attempt = sqlite3_column_int(stmt, STK_JOB_COL_ATTEMPT);
    row->submitted_us = sqlite3_column_int64(stmt, STK_JOB_COL_SUBMITTED);
    row->started_us = sqlite3_column_int64(stmt, STK_JOB_COL_STARTED);
    row->ended_us = sqlite3_column_int64(stmt, STK_JOB_COL_ENDED);
    stk_read_str(stmt, STK_JOB_COL_PROCESS, row->worker.process, sizeof row->worker.process);
    row->worker.pid = sqlite3_column_int(stmt, STK_JOB_COL_PID);
    row->worker.start_time = (uint64_t)sqlite3_column_int64(stmt, STK_JOB_COL_START_TIME);
    stk_read_str(stmt, STK_JOB_COL_BOOT, row->worker.boot_id, sizeof row->worker.boot_id);
    row->result_bytes = sqlite3_column_int64(stmt, STK_JOB_COL_RESULT_BYTES);
    row->result_file = stk_read_text(stmt, STK_JOB_COL_RESULT_FILE, &ok);
    row->terms.priority = sqlite3_column_int(stmt, STK_JOB_COL_PRIORITY);
    row->terms.queue_timeout_ms = sqlite3_column_int64(stmt, STK_JOB_COL_QUEUE_TIMEOUT);
    row->terms.run_timeout_ms = sqlite3_column_int64(stmt, STK_JOB_COL_RUN_TIMEOUT);
    row->terms.max_memory = sqlite3_column_int64(stmt, STK_JOB_COL_MAX_MEMORY);
    row->terms.isolated = sqlite3_column_int(stmt, STK_JOB_COL_ISOLATED);
    row->tags = stk_read_text(stmt, STK_JOB_COL_TAGS, &ok);
    row->user = stk_read_text(stmt, STK_JOB_COL_USER, &ok);
    row->error = stk_read_text(stmt, STK_JOB_COL_ERROR, &ok);
    if ((unsigned)row->state >= STK_JOB_STATES)
        return stk_read_damaged(err);
    return ok ? 0 : out_of_memory(err);
}

static int fill_job_result(sqlite3_stmt *stmt, void *to, struct stk_err *err)
{
    struct stk_job_row *row = to;
    bool ok = true;

    if (fill_job(stmt, to, err) < 0)
        return -1;
    row->result = stk_read_text(stmt, STK_JOB_COL_RESULT, &ok);
    row->receipt = stk_read_text(stmt, STK_JOB_COL_RECEIPT, &ok);
    return ok ? 0 : out_of_memory(err);
}

static int fill_job_key(sqlite3_stmt *stmt, void *to, struct stk_err *err)
{
    struct stk_job_row *row = to;
    bool ok = true;

    if (fill_job_result(stmt, to, err) < 0)
        return -1;
    row->idempotency_key = stk_read_text(stmt, STK_JOB_COL_KEY, &ok);
    row->fingerprint = stk_read_text(stmt, STK_JOB_COL_FINGERPRINT, &ok);
    return ok ? 0 : out_of_memory(err);
}

static int fill_job_whole(sqlite3_stmt *stmt, void *to, struct stk_err *err)
{
    struct stk_job_row *row = to;
    bool ok = true;

    if (fill_job_result(stmt, to, err) < 0)
        return -1;
    row->config = stk_read_text(stmt, STK_JOB_COL_CONFIG, &ok);
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

/* The row of this id, whose first column is a state of `states` ones. what: "job", "context". */
static int read_stage(struct stk_read *r, const char *what, const char *id, int states, int *ret, struct stk_err *err)
{
    int rc;

    stk_db_bind_str(r->db, r->stmt, 1, id);
    rc = stk_read_step(r->db, r->stmt, err);
    if (rc <= 0)
        return rc < 0 ? -1 : stk_fail(err, STK_NOT_FOUND, "%s %.60s not found", what, id);
    *ret = sqlite3_column_int(r->stmt, 0);
    return *ret >= 0 && *ret < states ? 0 : stk_read_damaged(err);
}

int stk_store_job_stage(struct stk_store *s, const char *id, struct stk_job_stage *ret, struct stk_err *err)
{
    stk_auto_read r = stk_read_start(s, STK_SQL_JOB_STAGE);
    int state;

    if (read_stage(&r, "job", id, STK_JOB_STATES, &state, err) < 0)
        return -1;
    ret->state = (enum stk_job_state)state;
    ret->attempt = sqlite3_column_int(r.stmt, 1);
    stk_read_str(r.stmt, 2, ret->process, sizeof ret->process);
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
    config = stk_read_text(r.stmt, 0, &ok);
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

    stk_read_str(stmt, STK_CONTEXT_COL_ID, row->id, sizeof row->id);
    row->name = stk_read_text(stmt, STK_CONTEXT_COL_NAME, &ok);
    row->state = (enum stk_context_state)sqlite3_column_int(stmt, STK_CONTEXT_COL_STATE);
    row->max_jobs = sqlite3_column_int(stmt, STK_CONTEXT_COL_MAX_JOBS);
    row->started_us = sqlite3_column_int64(stmt, STK_CONTEXT_COL_STARTED);
    row->ended_us = sqlite3_column_int64(stmt, STK_CONTEXT_COL_ENDED);
    row->application_id = stk_read_text(stmt, STK_CONTEXT_COL_APPLICATION_ID, &ok);
    row->ui_url = stk_read_text(stmt, STK_CONTEXT_COL_UI_URL, &ok);
    row->error = stk_read_text(stmt, STK_CONTEXT_COL_ERROR, &ok);
    row->spec = stk_read_text(stmt, STK_CONTEXT_COL_SPEC, &ok);
    if ((unsigned)row->state >= STK_CONTEXT_STATES)
        return stk_read_damaged(err);
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
    int state;

    if (read_stage(&r, "context", id, STK_CONTEXT_STATES, &state, err) < 0)
        return -1;
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

/* ---- binaries */

static int fill_binary(sqlite3_stmt *stmt, void *to, struct stk_err *err)
{
    enum { VERSION, NAME, TYPE, DIGEST, BYTES, UPLOADED };
    struct stk_binary_row *row = to;
    char type[16];
    bool ok = true;

    row->version = sqlite3_column_int64(stmt, VERSION);
    row->name = stk_read_text(stmt, NAME, &ok);
    stk_read_str(stmt, TYPE, type, sizeof type);
    stk_read_str(stmt, DIGEST, row->digest, sizeof row->digest);
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
    stk_read_str(stmt, CONTEXT_ID, row->context_id, sizeof row->context_id);
    stk_read_str(stmt, ROLE, row->role, sizeof row->role);
    stk_read_str(stmt, PROCESS, row->id.process, sizeof row->id.process);
    row->id.pid = sqlite3_column_int(stmt, PID);
    row->id.start_time = (uint64_t)sqlite3_column_int64(stmt, START_TIME);
    stk_read_str(stmt, BOOT_ID, row->id.boot_id, sizeof row->id.boot_id);
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

/* ---- what there is */

int stk_store_knows(struct stk_store *s, const char *id, struct stk_err *err)
{
    stk_auto_read r = stk_read_start(s, STK_SQL_KNOWS);

    stk_db_bind_str(r.db, r.stmt, 1, id);
    return stk_read_step(r.db, r.stmt, err) < 0 ? -1 : sqlite3_column_int(r.stmt, 0);
}
