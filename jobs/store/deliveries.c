/* What is to be told to webhooks: rows that become due in the transaction of a job's end. */
#include "internal.h"

#include <string.h>

/* The order of DELIVERY_COLUMNS in sql.c; the secret, or NULL, follows. */
enum { SEQ, ID, JOB, URL, ORIGIN, FORM, STATE, EVENT, SINCE, DUE, SETTLED, ATTEMPTS, STATUS, ERROR, SECRET };

/* ---- in the transactions of jobs */

int stk_deliveries_begin(struct stk_store *s, struct stk_err *err)
{
    stk_auto_read r = stk_read_start(s, STK_SQL_DELIVERY_WAITS);
    int rc = stk_read_step(r.db, r.stmt, err);

    s->has_hooks = rc == 1 && sqlite3_column_int(r.stmt, 0);
    return rc < 0 ? -1 : 0;
}

int stk_delivery_insert(struct stk_store *s, int64_t job_seq, const struct stk_text *webhook)
{
    struct stk_db *db = &s->writer;
    sqlite3_stmt *stmt = stk_db_use(db, STK_SQL_DELIVERY_INSERT);
    char id[STK_UUID_MAX];

    s->has_hooks = true; /* also when this is rolled back: it only says that it is worth looking */
    stk_db_bind_str(db, stmt, 1, stk_uuid(id));
    stk_db_bind_int(db, stmt, 2, job_seq);
    stk_db_bind_text(db, stmt, 3, webhook);
    return stk_db_run(db, stmt);
}

/* Binds what both statements that make deliveries due begin with, and runs one. */
static int run_due(struct stk_store *s, const struct stk_cmd *cmd, sqlite3_stmt *stmt)
{
    struct stk_db *db = &s->writer;

    stk_db_bind_str(db, stmt, 1, cmd->job.id);
    stk_db_bind_int(db, stmt, 2, s->written_event);
    stk_db_bind_int(db, stmt, 3, cmd->at_us);
    if (stk_db_run(db, stmt) < 0)
        return -1;
    s->written_due |= sqlite3_changes(db->sqlite) > 0;
    return 0;
}

/* A URL of the configuration that is none would have been refused at the start. */
static int insert_due(struct stk_store *s, const struct stk_cmd *cmd, const char *url)
{
    stk_auto_free char *origin = NULL;
    struct stk_db *db = &s->writer;
    char id[STK_UUID_MAX];
    sqlite3_stmt *stmt;

    if (stk_webhook_url_check(url, &origin, NULL) < 0)
        return 0;
    stmt = stk_db_use(db, STK_SQL_DELIVERY_DUE_INSERT);
    stk_db_bind_str(db, stmt, 4, stk_uuid(id));
    stk_db_bind_str(db, stmt, 5, url);
    stk_db_bind_str(db, stmt, 6, origin);
    return run_due(s, cmd, stmt);
}

int stk_deliveries_due(struct stk_store *s, const struct stk_cmd *cmd)
{
    const json_t *url;
    size_t i;

    if (s->has_hooks && run_due(s, cmd, stk_db_use(&s->writer, STK_SQL_DELIVERIES_DUE)) < 0)
        return -1;
    json_array_foreach(s->options.webhooks, i, url) {
        if (insert_due(s, cmd, json_string_value(url)) < 0)
            return -1;
    }
    return 0;
}

void stk_deliveries_committed(struct stk_store *s)
{
    pthread_mutex_lock(&s->due_lock);
    if (s->due_fn)
        s->due_fn(s->due_arg);
    pthread_mutex_unlock(&s->due_lock);
}

void stk_store_on_due(struct stk_store *s, void (*fn)(void *arg), void *arg)
{
    pthread_mutex_lock(&s->due_lock);
    s->due_fn = fn;
    s->due_arg = arg;
    pthread_mutex_unlock(&s->due_lock);
}

/* ---- attempts */

static enum stk_cmd_result run_tried(struct stk_store *s, struct stk_cmd *cmd, struct stk_err *err)
{
    const struct stk_attempt *a = &cmd->attempt;
    struct stk_db *db = &s->writer;
    sqlite3_stmt *stmt = stk_db_use(db, STK_SQL_DELIVERY_TRIED);

    (void)err;
    stk_db_bind_int(db, stmt, 1, a->seq);
    stk_db_bind_int(db, stmt, 2, a->state);
    stk_db_bind_some(db, stmt, 3, a->due_us);
    stk_db_bind_some(db, stmt, 4, a->settled_us);
    stk_db_bind_some(db, stmt, 5, a->status);
    stk_db_bind_str(db, stmt, 6, a->error);
    return stk_db_run(db, stmt) < 0 ? STK_CMD_FAILED : STK_CMD_DONE;
}

int stk_store_delivery_tried(struct stk_store *s, const struct stk_attempt *attempt, stk_store_done_fn *done, void *arg,
                             struct stk_err *err)
{
    struct stk_cmd *cmd = stk_cmd_new(done, arg, 0, err);

    if (!cmd)
        return -1;
    cmd->attempt = *attempt;
    cmd->run = run_tried;
    return stk_writer_queue_take(s, cmd, false, err);
}

static enum stk_cmd_result run_give_up(struct stk_store *s, struct stk_cmd *cmd, struct stk_err *err)
{
    struct stk_db *db = &s->writer;

    (void)err;
    for (size_t i = 0; i < cmd->give_up.n; i++) {
        sqlite3_stmt *stmt = stk_db_use(db, STK_SQL_DELIVERY_GIVE_UP);

        stk_db_bind_int(db, stmt, 1, cmd->give_up.seqs[i]);
        stk_db_bind_int(db, stmt, 2, cmd->at_us);
        if (stk_db_run(db, stmt) < 0)
            return STK_CMD_FAILED;
    }
    return STK_CMD_DONE;
}

int stk_store_deliveries_give_up(struct stk_store *s, const int64_t *seqs, size_t n, stk_store_done_fn *done, void *arg,
                                 struct stk_err *err)
{
    struct stk_cmd *cmd = stk_cmd_new(done, arg, 0, err);

    if (!cmd)
        return -1;
    cmd->give_up.seqs = seqs;
    cmd->give_up.n = n;
    cmd->run = run_give_up;
    return stk_writer_queue_take(s, cmd, false, err);
}

/* ---- reads */

static int fill_delivery(sqlite3_stmt *stmt, void *to, struct stk_err *err)
{
    struct stk_delivery_row *row = to;
    int form = sqlite3_column_int(stmt, FORM), state = sqlite3_column_int(stmt, STATE);
    bool ok = true;

    row->seq = sqlite3_column_int64(stmt, SEQ);
    stk_read_str(stmt, ID, row->id, sizeof row->id);
    stk_read_str(stmt, JOB, row->job_id, sizeof row->job_id);
    row->url = stk_read_text(stmt, URL, &ok);
    row->origin = stk_read_text(stmt, ORIGIN, &ok);
    row->secret = stk_read_text(stmt, SECRET, &ok);
    row->error = stk_read_text(stmt, ERROR, &ok);
    row->event = sqlite3_column_int64(stmt, EVENT);
    row->since_us = sqlite3_column_int64(stmt, SINCE);
    row->due_us = sqlite3_column_int64(stmt, DUE);
    row->settled_us = sqlite3_column_int64(stmt, SETTLED);
    row->attempts = sqlite3_column_int(stmt, ATTEMPTS);
    row->status = sqlite3_column_int(stmt, STATUS);
    if ((unsigned)form >= STK_WEBHOOK_FORMS || (unsigned)state >= STK_DELIVERY_STATES)
        return stk_fail(err, STK_INTERNAL, "the database file is damaged (a state or form of a delivery)");
    row->form = (enum stk_webhook_form)form;
    row->state = (enum stk_delivery_state)state;
    return ok ? 0 : stk_fail(err, STK_INTERNAL, "out of memory");
}

static void delivery_done(void *row)
{
    stk_delivery_row_done(row);
}

static int read_deliveries(struct stk_read *r, struct stk_delivery_row **ret, size_t *ret_n, struct stk_err *err)
{
    void *rows;

    if (stk_read_rows(r, sizeof **ret, fill_delivery, delivery_done, &rows, ret_n, err) < 0)
        return -1;
    *ret = rows;
    return 0;
}

int stk_store_due_deliveries(struct stk_store *s, const char *origin, size_t limit, struct stk_delivery_row **ret,
                             size_t *ret_n, struct stk_err *err)
{
    stk_auto_read r = stk_read_start(s, STK_SQL_DELIVERIES_OF);

    stk_db_bind_str(r.db, r.stmt, 1, origin);
    stk_db_bind_int(r.db, r.stmt, 2, (int64_t)limit);
    return read_deliveries(&r, ret, ret_n, err);
}

int stk_store_delivery_list(struct stk_store *s, const struct stk_delivery_filter *filter,
                            struct stk_delivery_row **ret, size_t *ret_n, struct stk_err *err)
{
    stk_auto_read r = stk_read_start(s, filter->job_id  ? STK_SQL_DELIVERY_LIST_JOB
                                        : filter->state ? STK_SQL_DELIVERY_LIST_STATE
                                                        : STK_SQL_DELIVERY_LIST);

    stk_db_bind_int(r.db, r.stmt, 1, filter->before ? filter->before : INT64_MAX);
    stk_db_bind_int(r.db, r.stmt, 2, (int64_t)filter->limit);
    stk_db_bind_int(r.db, r.stmt, 3, filter->state ? *filter->state : 0);
    stk_db_bind_int(r.db, r.stmt, 4, filter->state ? *filter->state : STK_DELIVERY_STATES);
    if (filter->job_id)
        stk_db_bind_str(r.db, r.stmt, 5, filter->job_id);
    return read_deliveries(&r, ret, ret_n, err);
}

static int fill_origin(sqlite3_stmt *stmt, void *to, struct stk_err *err)
{
    struct stk_due_origin *row = to;
    bool ok = true;

    row->origin = stk_read_text(stmt, 0, &ok);
    row->due_us = sqlite3_column_int64(stmt, 1);
    return ok ? 0 : stk_fail(err, STK_INTERNAL, "out of memory");
}

static void origin_done(void *row)
{
    stk_text_unref(((struct stk_due_origin *)row)->origin);
}

int stk_store_due_origins(struct stk_store *s, struct stk_due_origin **ret, size_t *ret_n, struct stk_err *err)
{
    stk_auto_read r = stk_read_start(s, STK_SQL_DELIVERY_ORIGINS);
    void *rows;

    if (stk_read_rows(&r, sizeof **ret, fill_origin, origin_done, &rows, ret_n, err) < 0)
        return -1;
    *ret = rows;
    return 0;
}

void stk_due_origins_free(struct stk_due_origin *origins, size_t n)
{
    for (size_t i = 0; i < n; i++)
        origin_done(&origins[i]);
    free(origins);
}
