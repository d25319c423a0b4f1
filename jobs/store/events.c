/* The reads of events: numbered rows, of which nobody is shown one before all that came before it. */
#include "internal.h"

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
    stk_read_str(stmt, KIND, row->kind, sizeof row->kind);
    stk_read_str(stmt, CONTEXT_ID, row->context_id, sizeof row->context_id);
    stk_read_str(stmt, JOB_ID, row->job_id, sizeof row->job_id);
    row->state = column_state(stmt, STATE);
    row->from_state = column_state(stmt, FROM);
    row->attempt = sqlite3_column_int(stmt, ATTEMPT);
    row->data = stk_read_text(stmt, DATA, &ok);
    row->context_name = stk_read_text(stmt, CONTEXT_NAME, &ok);
    states = row->job_id[0] ? STK_JOB_STATES : STK_CONTEXT_STATES;
    if (row->state < -1 || row->state >= states || row->from_state < -1 || row->from_state >= states)
        return stk_read_damaged(err);
    return ok ? 0 : stk_fail(err, STK_INTERNAL, "out of memory");
}

static void event_done(void *row)
{
    stk_event_row_done(row);
}

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
    if (stk_read_rows(&r, sizeof(struct stk_event_row), fill_event, event_done, &rows, ret_n, err) < 0)
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
