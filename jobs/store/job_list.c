/*
 * A page of the list of jobs.
 *
 * For each thing that is asked for there is an index, in the order of the list. When several are asked for at once, the walks
 * through their indexes race: by turns each takes one step, and each keeps the jobs it met that have all the rest too. The first
 * that has a page full, or comes to its end, has the answer. So the rarest of them decides what a page costs, and nobody has to
 * know beforehand which one that is.
 *
 * Where even the rarest is frequent and what fits is rare, the search stops after some steps: the page is short then, and the next one
 * goes on from there.
 */
#include "internal.h"

#include <string.h>

enum {
    WALKS_MAX = 3 + STK_JOB_TAGS_MAX,
    LOOKS_MAX = 8000,     /* what a page may look at beyond what it shows: some 15 ms */
    PAGE_BYTES = 8 << 20, /* of errors in one page, or one more */
    TAG_LOOKS = 8,        /* what it costs to read the tags of a job */
};

struct walk {
    enum stk_sql which;
    const char *name;        /* what its index begins with; NULL: nothing is asked for but states and times */
    sqlite3_stmt *stmt;      /* NULL: not open */
    bool own;                /* finalized in the end: another walk of the kind has the connection's */
    struct stk_job_place at; /* of the last job it met */
    struct stk_job_place *found;
    size_t n, room;
};

struct search {
    struct stk_db *db;
    const struct stk_job_filter *filter;
    size_t limit;
    struct walk walks[WALKS_MAX];
    size_t n_walks;
    int looks;
};

/* ---- walks */

static void add_walk(struct search *s, enum stk_sql which, const char *name)
{
    s->walks[s->n_walks++] = (struct walk){ .which = which, .name = name };
}

static void choose_walks(struct search *s)
{
    const struct stk_job_filter *f = s->filter;

    for (size_t i = 0; i < f->n_tags; i++)
        add_walk(s, STK_SQL_JOB_WALK_TAG, f->tags[i]);
    if (f->user)
        add_walk(s, STK_SQL_JOB_WALK_USER, f->user);
    if (f->context)
        add_walk(s, STK_SQL_JOB_WALK_CONTEXT, f->context);
    if (f->app)
        add_walk(s, STK_SQL_JOB_WALK_APP, f->app);
    if (s->n_walks == 0)
        add_walk(s, STK_SQL_JOB_WALK, NULL);
}

static int64_t mask_of(const struct stk_job_filter *f)
{
    int64_t mask = 0;

    for (int i = 0; i < STK_JOB_STATES; i++)
        mask |= (int64_t)(!f->states || f->states[i]) << i;
    return mask;
}

static int open_walk(struct search *s, struct walk *w, struct stk_err *err)
{
    const struct stk_job_filter *f = s->filter;
    int64_t until_us = f->until_us ? f->until_us - 1 : INT64_MAX;
    struct stk_job_place after = f->after;

    if (!after.submitted_us)
        after.submitted_us = INT64_MAX;
    if (until_us > after.submitted_us)
        until_us = after.submitted_us;
    for (const struct walk *other = s->walks; other < w; other++)
        w->own |= other->which == w->which;
    if (w->own && sqlite3_prepare_v2(s->db->sqlite, stk_sql_text[w->which], -1, &w->stmt, NULL) != SQLITE_OK)
        return stk_db_fail(s->db, err, "read");
    if (!w->own)
        w->stmt = stk_db_use(s->db, w->which);
    stk_db_bind_int(s->db, w->stmt, 1, mask_of(f));
    stk_db_bind_int(s->db, w->stmt, 2, f->since_us);
    stk_db_bind_int(s->db, w->stmt, 3, until_us);
    stk_db_bind_int(s->db, w->stmt, 4, after.submitted_us);
    stk_db_bind_int(s->db, w->stmt, 5, after.seq);
    if (w->name)
        stk_db_bind_str(s->db, w->stmt, 6, w->name);
    return 0;
}

static void close_walks(struct search *s)
{
    for (struct walk *w = s->walks; w < s->walks + s->n_walks; w++) {
        if (w->own)
            sqlite3_finalize(w->stmt);
        else
            stk_db_done(w->stmt);
        free(w->found);
    }
}

/* ---- what they meet */

enum { SEQ, SUBMITTED, STATE, CONTEXT, APP, USER }; /* columns */

static bool is_name(sqlite3_stmt *stmt, int column, const char *name)
{
    const char *text = name ? (const char *)sqlite3_column_text(stmt, column) : NULL;

    return !name || (text && strcmp(text, name) == 0);
}

/* 1: it has the tag, 0: not, -1: err. */
static int has_tag(struct search *s, int64_t seq, const char *tag, struct stk_err *err)
{
    stk_auto_stmt *stmt = stk_db_use(s->db, STK_SQL_JOB_HAS_TAG);

    s->looks += TAG_LOOKS;
    stk_db_bind_int(s->db, stmt, 1, seq);
    stk_db_bind_str(s->db, stmt, 2, tag);
    return stk_read_step(s->db, stmt, err) < 0 ? -1 : sqlite3_column_int(stmt, 0);
}

/* 1: the job that the walk has met is one of those asked for, 0: it is not, -1: err. */
static int fits(struct search *s, const struct walk *w, struct stk_err *err)
{
    const struct stk_job_filter *f = s->filter;
    bool ended = stk_job_is_final((enum stk_job_state)sqlite3_column_int(w->stmt, STATE));
    int has = 1;

    if (!w->name)
        return 1;
    if (!is_name(w->stmt, CONTEXT, f->context) || !is_name(w->stmt, APP, f->app) || !is_name(w->stmt, USER, f->user))
        return 0;
    for (size_t i = 0; i < f->n_tags && has == 1; i++) {
        if (f->tags[i] != w->name || !ended) /* its own tag led it to the ended ones */
            has = has_tag(s, w->at.seq, f->tags[i], err);
    }
    return has;
}

static int keep(struct walk *w, struct stk_err *err)
{
    if (w->n == w->room) {
        size_t room = w->room ? w->room * 2 : 128;
        struct stk_job_place *grown = reallocarray(w->found, room, sizeof *grown);

        if (!grown)
            return stk_fail(err, STK_INTERNAL, "out of memory");
        w->found = grown;
        w->room = room;
    }
    w->found[w->n++] = w->at;
    return 0;
}

/* 1: there is more to see, 0: it is at its end or has one more than a page, -1: err. */
static int step(struct search *s, struct walk *w, struct stk_err *err)
{
    int more = stk_read_step(s->db, w->stmt, err), fit;

    if (more <= 0)
        return more;
    w->at = (struct stk_job_place){ sqlite3_column_int64(w->stmt, SUBMITTED), sqlite3_column_int64(w->stmt, SEQ) };
    if ((fit = fits(s, w, err)) < 0)
        return -1;
    if (!fit) {
        s->looks++;
        return 1;
    }
    if (keep(w, err) < 0)
        return -1;
    return w->n <= s->limit;
}

static bool is_older(const struct stk_job_place *a, const struct stk_job_place *b)
{
    return a->submitted_us != b->submitted_us ? a->submitted_us < b->submitted_us : a->seq < b->seq;
}

/* The walk that has the answer; NULL: err. *ret_short: it stopped in the middle. */
static struct walk *race(struct search *s, bool *ret_short, struct stk_err *err)
{
    struct walk *furthest = s->walks;

    *ret_short = false;
    while (s->looks < LOOKS_MAX) {
        for (struct walk *w = s->walks; w < s->walks + s->n_walks; w++) {
            int more = step(s, w, err);

            if (more <= 0)
                return more < 0 ? NULL : w;
        }
    }
    *ret_short = true;
    for (struct walk *w = s->walks; w < s->walks + s->n_walks; w++) {
        if (is_older(&w->at, &furthest->at))
            furthest = w;
    }
    return furthest;
}

/* ---- the page */

/* The first *n of what was found, or fewer: errors may have hundreds of KiB each. */
static int read_rows(struct search *s, const struct walk *w, size_t *n, struct stk_job_row **ret, struct stk_err *err)
{
    struct stk_job_row *rows = calloc(*n + 1, sizeof *rows);
    size_t bytes = 0;

    if (!rows)
        return stk_fail(err, STK_INTERNAL, "out of memory");
    for (size_t i = 0; i < *n; i++) {
        stk_auto_stmt *stmt = stk_db_use(s->db, STK_SQL_JOB_LISTED);

        stk_db_bind_int(s->db, stmt, 1, w->found[i].seq);
        if (stk_read_step(s->db, stmt, err) < 0 || stk_read_job(stmt, &rows[i], err) < 0) {
            stk_job_rows_free(rows, *n);
            return -1;
        }
        bytes += rows[i].error ? stk_text_len(rows[i].error) : 0;
        if (bytes > PAGE_BYTES)
            *n = i + 1;
    }
    *ret = rows;
    return 0;
}

static int find_page(struct search *s, struct stk_job_row **ret, size_t *ret_n, struct stk_job_place *ret_next,
                     struct stk_err *err)
{
    struct stk_job_place next = { 0 };
    const struct walk *w;
    bool is_short;
    size_t n;

    /* The rows are read as they were when they were met. */
    if (sqlite3_exec(s->db->sqlite, "BEGIN", NULL, NULL, NULL) != SQLITE_OK)
        return stk_db_fail(s->db, err, "read");
    for (size_t i = 0; i < s->n_walks; i++) {
        if (open_walk(s, &s->walks[i], err) < 0)
            return -1;
    }
    if (!(w = race(s, &is_short, err)))
        return -1;
    n = w->n < s->limit ? w->n : s->limit;
    if (read_rows(s, w, &n, ret, err) < 0)
        return -1;
    if (n < w->n)
        next = w->found[n - 1];
    else if (is_short)
        next = w->at;
    *ret_n = n;
    if (ret_next)
        *ret_next = next;
    return 0;
}

int stk_store_job_list(struct stk_store *store, const struct stk_job_filter *filter, struct stk_job_row **ret,
                       size_t *ret_n, struct stk_job_place *ret_next, struct stk_err *err)
{
    struct search s = { .filter = filter, .limit = filter->limit };
    int rc;

    if (filter->limit == 0) {
        *ret = NULL;
        *ret_n = 0;
        if (ret_next)
            *ret_next = (struct stk_job_place){ 0 };
        return 0;
    }
    if (filter->n_tags > STK_JOB_TAGS_MAX)
        return stk_fail(err, STK_INVALID, "at most %d tags at once", STK_JOB_TAGS_MAX);

    stk_auto_read r = stk_read_start(store, STK_SQL_JOB_WALK);

    s.db = r.db;
    choose_walks(&s);
    rc = find_page(&s, ret, ret_n, ret_next, err);
    close_walks(&s);
    sqlite3_exec(r.db->sqlite, "COMMIT", NULL, NULL, NULL);
    return rc;
}
