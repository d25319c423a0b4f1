/* Pages of the list of jobs: whatever is asked for, against a walk over all of them; and what SQLite does for it. */
#include "store/internal.h"

#include "stoker/tree.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { JOBS = 400, CONTEXTS = 4, APPS = 3, USERS = 3, TAGS = 4, NEVER = -1 };

/* A job as it was written. */
struct made {
    int seq, state, context, app, user, tags; /* tags: a bit for each; user NEVER: none */
    int64_t submitted_us;
};

struct fixture {
    char dir[64];
    int dir_fd;
    struct stk_store *store;
    sqlite3 *db;
    unsigned random;
    struct made jobs[JOBS];
    int n;
};

static void no_post(void *to, struct stk_task *first)
{
    (void)to;
    (void)first;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct stk_err err;
    char path[128];

    snprintf(f->dir, sizeof f->dir, "%s", "/tmp/stoker-test-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    f->dir_fd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    f->store = stk_store_open(
        &(struct stk_store_options){ .dir_fd = f->dir_fd, .dir = f->dir, .post = no_post, .queue_max = 10 }, &err);
    assert_non_null(f->store);
    snprintf(path, sizeof path, "%s/stoker.db", f->dir);
    assert_int_equal(SQLITE_OK, sqlite3_open(path, &f->db));
    sqlite3_db_config(f->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    f->random = 1;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    sqlite3_close(f->db);
    stk_store_close(f->store);
    close(f->dir_fd);
    assert_int_equal(0, stk_remove_tree(AT_FDCWD, f->dir));
    free(f);
    return 0;
}

static unsigned dice(struct fixture *f, unsigned n)
{
    f->random = f->random * 1103515245 + 12345;
    return f->random / 65536 % n;
}

static void sql(struct fixture *f, const char *fmt, ...)
{
    va_list args;
    char *text;

    va_start(args, fmt);
    text = sqlite3_vmprintf(fmt, args);
    va_end(args);
    if (sqlite3_exec(f->db, text, NULL, NULL, NULL) != SQLITE_OK)
        fail_msg("%s: %s", text, sqlite3_errmsg(f->db));
    sqlite3_free(text);
}

/* The tags of an ended job are rows, as the end of a job writes them. */
static void write_tags(struct fixture *f, int seq)
{
    sql(f,
        "INSERT INTO job_tags SELECT each.value, state, submitted_us, seq, context_name, app, user FROM jobs,"
        " json_each(jobs.tags) AS each WHERE seq = %d AND state >= 4",
        seq);
}

static void make_job(struct fixture *f, int64_t submitted_us, int state)
{
    struct made *m = &f->jobs[f->n++];
    char tags[80] = "", user[16] = "NULL";

    *m = (struct made){ .seq = f->n,
                        .state = state,
                        .context = (int)dice(f, CONTEXTS),
                        .app = (int)dice(f, APPS),
                        .user = (int)dice(f, USERS + 1) - 1,
                        .tags = (int)dice(f, 1 << TAGS),
                        .submitted_us = submitted_us };
    for (int i = 0; i < TAGS; i++)
        if (m->tags >> i & 1)
            snprintf(tags + strlen(tags), sizeof tags - strlen(tags), "%s\"t%d\"", *tags ? "," : "", i);
    if (m->user >= 0)
        snprintf(user, sizeof user, "'u%d'", m->user);
    sql(f,
        "INSERT INTO jobs (seq, id, context_name, app, user, tags, state, attempt, submitted_us)"
        " VALUES (%d, 'job-%d', 'c%d', 'a%d', %s, CASE WHEN '%s' <> '' THEN '[%s]' END, %d, 1, %lld)",
        m->seq, m->seq, m->context, m->app, user, tags, tags, m->state, (long long)m->submitted_us);
    write_tags(f, m->seq);
}

/* Most ended well, some not, some have not ended; many share a time, and once the clock was set back. */
static void make_jobs(struct fixture *f)
{
    for (int i = 0; i < JOBS; i++)
        make_job(f, 1000 + i / 3 - (i > JOBS / 2 ? 40 : 0),
                 dice(f, 3) ? STK_JOB_FINISHED : (int)dice(f, STK_JOB_STATES));
}

/* ---- what is asked for, at random */

struct question {
    bool states[STK_JOB_STATES];
    char context[8], app[8], user[8], tag[TAGS][16];
    const char *tags[TAGS];
    int wants_tags;
    struct stk_job_filter filter;
};

static void ask(struct fixture *f, struct question *q)
{
    *q = (struct question){ .filter.limit = 1 + dice(f, 30) };
    for (int i = 0; i < STK_JOB_STATES; i++)
        q->states[i] = dice(f, 2);
    if (dice(f, 2))
        q->filter.states = q->states;
    snprintf(q->context, sizeof q->context, "c%u", dice(f, CONTEXTS));
    snprintf(q->app, sizeof q->app, "a%u", dice(f, APPS + 1));
    snprintf(q->user, sizeof q->user, "u%u", dice(f, USERS));
    q->filter.context = dice(f, 2) ? q->context : NULL;
    q->filter.app = dice(f, 3) == 0 ? q->app : NULL;
    q->filter.user = dice(f, 3) == 0 ? q->user : NULL;
    for (int i = 0; i < TAGS; i++) {
        if (dice(f, 4))
            continue;
        snprintf(q->tag[i], sizeof q->tag[i], "t%d", i);
        q->tags[q->filter.n_tags++] = q->tag[i];
        q->wants_tags |= 1 << i;
    }
    q->filter.tags = q->tags;
    q->filter.since_us = dice(f, 2) ? 1000 + dice(f, JOBS / 3) : 0;
    q->filter.until_us = dice(f, 2) ? 1000 + dice(f, JOBS / 3) : 0;
}

static bool is_name(const char *wanted, char letter, int number)
{
    char name[16];

    snprintf(name, sizeof name, "%c%d", letter, number);
    return !wanted || strcmp(wanted, name) == 0;
}

static bool answers(const struct question *q, const struct made *m)
{
    const struct stk_job_filter *filter = &q->filter;

    return (!filter->states || q->states[m->state]) && is_name(filter->context, 'c', m->context) &&
           is_name(filter->app, 'a', m->app) && is_name(filter->user, 'u', m->user) &&
           (m->tags & q->wants_tags) == q->wants_tags && m->submitted_us >= filter->since_us &&
           (!filter->until_us || m->submitted_us < filter->until_us);
}

static int newest_first(const void *a, const void *b)
{
    const struct made *x = a, *y = b;

    if (x->submitted_us != y->submitted_us)
        return x->submitted_us < y->submitted_us ? 1 : -1;
    return x->seq < y->seq ? 1 : -1;
}

static void any_question_gets_what_a_walk_over_all_finds(void **state)
{
    struct fixture *f = *state;
    int pages = 0, some = 0;

    make_jobs(f);
    qsort(f->jobs, JOBS, sizeof *f->jobs, newest_first);
    for (int i = 0; i < 2000; i++) {
        struct stk_job_place next;
        struct question q;
        int at = 0;

        ask(f, &q);
        do {
            struct stk_job_row *rows;
            size_t n;

            assert_int_equal(0, stk_store_job_list(f->store, &q.filter, &rows, &n, &next, NULL));
            assert_true(n <= q.filter.limit);
            for (size_t k = 0; k < n; k++, at++) {
                char id[16];

                while (at < JOBS && !answers(&q, &f->jobs[at]))
                    at++;
                assert_true(at < JOBS);
                snprintf(id, sizeof id, "job-%d", f->jobs[at].seq);
                assert_string_equal(id, rows[k].id);
                assert_int_equal(f->jobs[at].state, rows[k].state);
            }
            pages++;
            some += n > 0;
            assert_true(!next.submitted_us || n == q.filter.limit); /* these are too few for a short page */
            stk_job_rows_free(rows, n);
            q.filter.after = next;
        } while (next.submitted_us);
        while (at < JOBS)
            assert_false(answers(&q, &f->jobs[at++]));
    }
    assert_true(some > 1000 && pages > 2000);
}

/* ---- what happens between two pages */

static void pages_hold_while_jobs_come_end_and_go(void **state)
{
    struct fixture *f = *state;
    struct stk_job_filter filter = { .limit = 7 };
    bool seen[2 * JOBS + 1] = { false };
    struct stk_job_place next;

    for (int i = 0; i < 100; i++)
        make_job(f, 1000 + i, i % 2 ? STK_JOB_QUEUED : STK_JOB_FINISHED);
    for (int page = 0; page == 0 || next.submitted_us; page++) {
        struct stk_job_row *rows;
        size_t n;

        assert_true(page < 100);
        assert_int_equal(0, stk_store_job_list(f->store, &filter, &rows, &n, &next, NULL));
        for (size_t i = 0; i < n; i++) {
            int seq = atoi(rows[i].id + 4);

            assert_false(seen[seq]);
            seen[seq] = true;
        }
        stk_job_rows_free(rows, n);
        filter.after = next;
        make_job(f, 2000 + page, STK_JOB_QUEUED);
        sql(f, "UPDATE jobs SET state = 4 WHERE seq IN (%d, %d)", 100 - 7 * page, 2 * page);
        sql(f, "DELETE FROM jobs WHERE seq = %d", 100 - 7 * (page + 1)); /* where the next page may begin */
        /* the newest goes, and the next one gets its number */
        sql(f, "DELETE FROM jobs WHERE seq = %d", f->n--);
    }
    for (int seq = 1; seq <= 100; seq++)
        assert_true(seen[seq] || (100 - seq) % 7 == 0);
}

/* Two frequent things that never come together: short pages, which all the same find the few that have both. */
static void the_search_for_the_rare_among_many_goes_on(void **state)
{
    enum { ROWS = 60000 };
    struct fixture *f = *state;
    struct stk_job_filter filter = { .limit = 100, .context = "left", .app = "right" };
    struct stk_job_place next;
    int pages = 0, found = 0;

    sql(f,
        "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < %d)"
        "INSERT INTO jobs (id, context_name, app, state, attempt, submitted_us) SELECT printf('job-%%d', i),"
        " CASE WHEN i %% 2 THEN 'left' ELSE 'right' END,"
        " CASE WHEN i %% 20001 = 0 OR i %% 2 = 0 THEN 'right' ELSE 'left' END, 4, 1, i FROM n",
        ROWS);
    do {
        struct stk_job_row *rows;
        size_t n;

        assert_int_equal(0, stk_store_job_list(f->store, &filter, &rows, &n, &next, NULL));
        for (size_t i = 0; i < n; i++)
            assert_int_equal(1, atoi(rows[i].id + 4) % 2);
        stk_job_rows_free(rows, n);
        found += (int)n;
        assert_true(++pages < 20);
        assert_true(!next.submitted_us || !filter.after.submitted_us || next.submitted_us < filter.after.submitted_us);
        filter.after = next;
    } while (next.submitted_us);
    assert_int_equal(1, found); /* 20001; 40002 is even */
    assert_true(pages > 2);
}

/* However many jobs one of the two has: the other decides. */
static void a_rare_thing_is_found_at_once(void **state)
{
    struct fixture *f = *state;
    struct stk_job_filter filter = { .limit = 100, .context = "all" };
    const char *tag = "rare";

    sql(f, "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 60000)"
           "INSERT INTO jobs (id, context_name, app, state, attempt, submitted_us, tags) SELECT printf('job-%%d', i),"
           " 'all', CASE WHEN i = 7 THEN 'rare' ELSE 'usual' END, 4, 1, i,"
           " CASE WHEN i = 9 THEN '[\"rare\"]' ELSE '[\"usual\"]' END FROM n");
    write_tags(f, 9);
    for (int i = 0; i < 2; i++) {
        struct stk_job_place next;
        struct stk_job_row *rows;
        size_t n;

        filter.app = i == 0 ? "rare" : NULL;
        filter.tags = i == 0 ? NULL : &tag;
        filter.n_tags = i == 0 ? 0 : 1;
        assert_int_equal(0, stk_store_job_list(f->store, &filter, &rows, &n, &next, NULL));
        assert_int_equal(1, n);
        assert_string_equal(i == 0 ? "job-7" : "job-9", rows[0].id);
        assert_int_equal(0, next.submitted_us);
        stk_job_rows_free(rows, n);
    }
}

/* ---- what SQLite does for it */

/* Each walk is searches in indexes, merged: nothing is read to its end, nothing is sorted. */
static void walks_neither_scan_nor_sort(void **state)
{
    static const struct {
        enum stk_sql which;
        const char *index; /* what must be said of each of the six states */
    } walks[] = {
        { STK_SQL_JOB_WALK, "jobs USING COVERING INDEX jobs_ended (state=? AND submitted_us>? AND submitted_us<?)" },
        { STK_SQL_JOB_WALK_CONTEXT,
          "jobs USING COVERING INDEX jobs_context (context_name=? AND state=? AND submitted_us>? AND submitted_us<?)" },
        { STK_SQL_JOB_WALK_APP,
          "jobs USING COVERING INDEX jobs_app (app=? AND state=? AND submitted_us>? AND submitted_us<?)" },
        { STK_SQL_JOB_WALK_USER,
          "jobs USING COVERING INDEX jobs_user (user=? AND state=? AND submitted_us>? AND submitted_us<?)" },
        { STK_SQL_JOB_WALK_TAG,
          "job_tags USING PRIMARY KEY (tag=? AND state=? AND submitted_us>? AND submitted_us<?)" },
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < STK_LEN(walks); i++) {
        char *text = sqlite3_mprintf("EXPLAIN QUERY PLAN %s", stk_sql_text[walks[i].which]);
        int ended = 0, live = 0;
        sqlite3_stmt *plan;

        assert_int_equal(SQLITE_OK, sqlite3_prepare_v2(f->db, text, -1, &plan, NULL));
        while (sqlite3_step(plan) == SQLITE_ROW) {
            const char *line = (const char *)sqlite3_column_text(plan, 3);

            if (strstr(line, "SCAN") || strstr(line, "TEMP B-TREE"))
                fail_msg("walk %zu: %s", i, line);
            ended += strncmp(line, "SEARCH ", 7) == 0 && strcmp(line + 7, walks[i].index) == 0;
            live += strcmp(line, "SEARCH jobs USING INDEX jobs_live (submitted_us>? AND submitted_us<?)") == 0;
        }
        sqlite3_finalize(plan);
        sqlite3_free(text);
        assert_int_equal(6, ended);
        assert_int_equal(1, live);
    }
}

/* A job's end and a step of retention read the deliveries of their jobs only, and the look at what is due one row for each origin. */
static void deliveries_are_found_by_their_job_and_origin(void **state)
{
    static const struct {
        enum stk_sql which;
        const char *index;
    } queries[] = {
        { STK_SQL_DELIVERIES_DUE, "deliveries_job (job=?)" },
        { STK_SQL_JOB_OLDEST, "deliveries_job (job=?)" },
        { STK_SQL_DELIVERY_ORIGINS, "deliveries_due (origin>?)" },
        { STK_SQL_DELIVERY_ORIGINS, "deliveries_due (origin=?)" },
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < STK_LEN(queries); i++) {
        char *text = sqlite3_mprintf("EXPLAIN QUERY PLAN %s", stk_sql_text[queries[i].which]);
        bool found = false;
        sqlite3_stmt *plan;

        assert_int_equal(SQLITE_OK, sqlite3_prepare_v2(f->db, text, -1, &plan, NULL));
        while (sqlite3_step(plan) == SQLITE_ROW) {
            const char *line = (const char *)sqlite3_column_text(plan, 3);

            found |= strstr(line, queries[i].index) != NULL;
            if (strstr(line, "deliveries_state"))
                fail_msg("query %zu: %s", i, line);
        }
        sqlite3_finalize(plan);
        sqlite3_free(text);
        assert_true(found);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(any_question_gets_what_a_walk_over_all_finds),
        TEST(pages_hold_while_jobs_come_end_and_go),
        TEST(the_search_for_the_rare_among_many_goes_on),
        TEST(a_rare_thing_is_found_at_once),
        TEST(walks_neither_scan_nor_sort),
        TEST(deliveries_are_found_by_their_job_and_origin),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
