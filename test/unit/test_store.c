/* The store against real files in a temporary directory. */
#include "stoker/store.h"

#include "stoker/clock.h"
#include "stoker/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#ifndef TEST_DATA_DIR
#define TEST_DATA_DIR "test/unit"
#endif

enum { WAIT_MS = 20000, SCHEMA_VERSION = 6 };

/* ---- a loop of one's own: tasks are kept until the test runs them */

struct queue {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    struct stk_task *first, **last;
    int posts;
};

static void queue_init(struct queue *q)
{
    pthread_condattr_t attr;

    memset(q, 0, sizeof *q);
    q->last = &q->first;
    pthread_mutex_init(&q->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&q->cond, &attr);
    pthread_condattr_destroy(&attr);
}

static void queue_post(void *to, struct stk_task *first)
{
    struct queue *q = to;

    pthread_mutex_lock(&q->lock);
    *q->last = first;
    while (*q->last)
        q->last = &(*q->last)->next;
    q->posts++;
    pthread_cond_signal(&q->cond);
    pthread_mutex_unlock(&q->lock);
}

/* Runs what is there, or what comes within the time; the number of tasks run. */
static int queue_run(struct queue *q)
{
    struct timespec deadline = stk_mono_deadline(WAIT_MS);
    struct stk_task *task;
    int n = 0;

    pthread_mutex_lock(&q->lock);
    while (!q->first && pthread_cond_timedwait(&q->cond, &q->lock, &deadline) == 0)
        ;
    task = q->first;
    q->first = NULL;
    q->last = &q->first;
    pthread_mutex_unlock(&q->lock);
    while (task) {
        struct stk_task *next = task->next;

        task->run(task);
        task = next;
        n++;
    }
    return n;
}

/* ---- a store in a directory of its own */

struct fixture {
    char dir[64];
    int dir_fd;
    size_t queue_max;
    struct queue queue;
    struct stk_store *store;
    sqlite3 *lock; /* hold_writer() */
};

static struct stk_store *store_open(struct fixture *f, struct stk_err *err)
{
    struct stk_store_options options = {
        .dir_fd = f->dir_fd,
        .dir = f->dir,
        .post = queue_post,
        .post_to = &f->queue,
        .queue_max = f->queue_max,
    };

    return stk_store_open(&options, err);
}

static void reopen(struct fixture *f)
{
    struct stk_err err = { 0 };

    if (f->store)
        stk_store_close(f->store);
    f->store = store_open(f, &err);
    if (!f->store)
        fail_msg("open: %s", err.msg);
}

static void close_store(struct fixture *f)
{
    stk_store_close(f->store);
    f->store = NULL;
}

static const char *path_of(struct fixture *f, const char *name)
{
    static char path[256];

    snprintf(path, sizeof path, "%s/%s", f->dir, name);
    return path;
}

/* Holds the database's write lock, so that the writer thread waits and its queue grows. */
static void hold_writer(struct fixture *f)
{
    assert_int_equal(SQLITE_OK, sqlite3_open(path_of(f, "stoker.db"), &f->lock));
    assert_int_equal(SQLITE_OK, sqlite3_exec(f->lock, "BEGIN IMMEDIATE", NULL, NULL, NULL));
}

static void let_writer_go(struct fixture *f)
{
    sqlite3_exec(f->lock, "ROLLBACK", NULL, NULL, NULL);
    /* One more connection that checkpoints is what the store must not have. */
    sqlite3_db_config(f->lock, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    sqlite3_close(f->lock);
    f->lock = NULL;
}

static int setup_closed(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);

    snprintf(f->dir, sizeof f->dir, "%s", "/tmp/stoker-test-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    f->dir_fd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(f->dir_fd >= 0);
    f->queue_max = 100000;
    queue_init(&f->queue);
    *state = f;
    return 0;
}

static int setup(void **state)
{
    setup_closed(state);
    reopen(*state);
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    if (f->lock) /* a test that failed meanwhile */
        let_writer_go(f);
    if (f->store)
        stk_store_close(f->store);
    close(f->dir_fd);
    pthread_mutex_destroy(&f->queue.lock);
    pthread_cond_destroy(&f->queue.cond);
    assert_int_equal(0, stk_remove_tree(AT_FDCWD, f->dir));
    free(f);
    return 0;
}

static void sql(struct fixture *f, const char *text)
{
    sqlite3 *db;

    assert_int_equal(SQLITE_OK, sqlite3_open(path_of(f, "stoker.db"), &db));
    if (sqlite3_exec(db, text, NULL, NULL, NULL) != SQLITE_OK)
        fail_msg("%s: %s", text, sqlite3_errmsg(db));
    sqlite3_close(db);
}

static int64_t sql_number(struct fixture *f, const char *text)
{
    sqlite3_stmt *stmt;
    sqlite3 *db;
    int64_t n;

    assert_int_equal(SQLITE_OK, sqlite3_open(path_of(f, "stoker.db"), &db));
    assert_int_equal(SQLITE_OK, sqlite3_prepare_v2(db, text, -1, &stmt, NULL));
    assert_int_equal(SQLITE_ROW, sqlite3_step(stmt));
    n = sqlite3_column_int64(stmt, 0);
    sqlite3_finalize(stmt);
    sqlite3_close(db);
    return n;
}

/* ---- answers */

struct answer {
    int calls;
    int order; /* of the call among all */
    enum stk_code code;
    char msg[240];
};
static int answers; /* calls so far */

static void on_done(void *arg, const struct stk_err *err)
{
    struct answer *a = arg;

    a->calls++;
    a->order = answers++;
    a->code = err ? err->code : STK_OK;
    snprintf(a->msg, sizeof a->msg, "%s", err ? err->msg : "");
}

static void wait_for(struct fixture *f, const struct answer *a)
{
    while (!a->calls)
        assert_true(queue_run(&f->queue) > 0);
    assert_int_equal(1, a->calls);
}

static void expect_done(struct fixture *f, const struct answer *a)
{
    wait_for(f, a);
    assert_string_equal("", a->msg);
    assert_int_equal(STK_OK, a->code);
}

/* ---- rows */

static struct stk_text *text(const char *s)
{
    return stk_text_new(s, strlen(s));
}

static struct stk_job_row new_job(void)
{
    struct stk_job_row row = {
        .context_name = text("ctx"),
        .app = text("wordcount"),
        .class_path = text("app.jobs.WordCount"),
        .set = text("set-1"),
        .binaries = text("[]"),
        .config = text("{\"input\": \"a b c\"}"),
        .state = STK_JOB_QUEUED,
        .submitted_us = stk_wall_us(),
    };

    stk_uuid(row.id);
    snprintf(row.context_id, sizeof row.context_id, "%s", "7d5c1f2e-0000-4000-8000-000000000001");
    return row;
}

static void submit(struct fixture *f, const struct stk_job_row *row)
{
    struct answer a = { 0 };

    assert_int_equal(0, stk_store_job_submitted(f->store, row, NULL, 0, on_done, &a, NULL));
    expect_done(f, &a);
}

static void move(struct fixture *f, struct stk_job_row *row, enum stk_job_state state)
{
    struct answer a = { 0 };

    row->state = state;
    if (stk_job_is_final(state))
        row->ended_us = stk_wall_us();
    assert_int_equal(0, stk_store_job_moved(f->store, row, on_done, &a, NULL));
    expect_done(f, &a);
}

static void assert_text(const char *expected, const struct stk_text *t)
{
    if (!expected) {
        assert_null(t);
        return;
    }
    assert_non_null(t);
    assert_string_equal(expected, stk_text_data(t));
    assert_int_equal(strlen(expected), stk_text_len(t));
}

/* ---- opening */

static void opens_and_reopens(void **state)
{
    struct fixture *f = *state;
    struct stat st;

    assert_int_equal(SCHEMA_VERSION, sql_number(f, "PRAGMA user_version"));
    assert_int_equal(0, stat(path_of(f, "stoker.db"), &st));
    assert_int_equal(0600, st.st_mode & 0777);
    reopen(f);
    reopen(f);
    assert_int_equal(SCHEMA_VERSION, sql_number(f, "PRAGMA user_version"));
}

static void newer_version_is_refused(void **state)
{
    struct fixture *f = *state;
    struct stk_err err;

    close_store(f);
    sql(f, "PRAGMA user_version = 1000");
    assert_null(store_open(f, &err));
    assert_non_null(strstr(err.msg, "newer"));
    assert_int_equal(1000, sql_number(f, "PRAGMA user_version"));
}

static void foreign_database_is_refused(void **state)
{
    struct fixture *f = *state;
    struct stk_err err;

    sql(f, "CREATE TABLE notes (x)");
    assert_null(store_open(f, &err));
    assert_non_null(strstr(err.msg, "another program"));
}

static void write_file(const char *path, const void *bytes, size_t n, off_t at)
{
    stk_auto_fd fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(n, pwrite(fd, bytes, n, at));
}

static void damaged_file_is_refused(void **state)
{
    struct fixture *f = *state;
    struct stk_job_row row = new_job();
    struct stk_err err;
    char junk[4096];

    submit(f, &row);
    stk_job_row_done(&row);
    close_store(f);

    /* cut short, as by a copy that ran out of space */
    assert_int_equal(0, truncate(path_of(f, "stoker.db"), 3 * 4096));
    assert_null(store_open(f, &err));
    assert_non_null(strstr(err.msg, "damaged"));

    memset(junk, 'x', sizeof junk);
    write_file(path_of(f, "stoker.db"), junk, 100, 0);
    assert_null(store_open(f, &err));
    assert_non_null(strstr(err.msg, "damaged"));
    assert_non_null(strstr(err.msg, f->dir));
}

/* A flipped bit of a state must not become an index into a table of names. */
static void impossible_state_is_damage(void **state)
{
    struct fixture *f = *state;
    struct stk_job_row row = new_job(), got;
    struct stk_job_row *rows;
    struct stk_err err;
    size_t n;

    submit(f, &row);
    sql(f, "UPDATE jobs SET state = 200");
    assert_int_equal(-1, stk_store_job_get(f->store, row.id, &got, &err));
    assert_non_null(strstr(err.msg, "damaged"));
    sql(f, "UPDATE jobs SET state = -1");
    assert_int_equal(-1, stk_store_live_jobs(f->store, &rows, &n, &err));
    assert_non_null(strstr(err.msg, "damaged"));
    stk_job_row_done(&row);
}

/* Opens a database as an older version wrote it. */
static void open_old(struct fixture *f, const char *name)
{
    char path[256];
    FILE *file;
    char *script = NULL;
    size_t size = 0;

    snprintf(path, sizeof path, "%s/fixtures/%s", TEST_DATA_DIR, name);
    file = fopen(path, "re");
    assert_non_null(file);
    assert_true(getdelim(&script, &size, '\0', file) > 0);
    fclose(file);
    sql(f, script);
    free(script);
    assert_int_equal(0, mkdirat(f->dir_fd, "blobs", 0700));
    write_file(path_of(f, "blobs/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"), "zip", 3, 0);
    reopen(f);
    assert_int_equal(SCHEMA_VERSION, sql_number(f, "PRAGMA user_version"));
}

/* What both of them had is there, migrated. */
static void has_all_of_version_1(struct fixture *f)
{
    struct stk_job_row job;
    struct stk_job_stage stage;
    struct stk_context_row context;
    struct stk_binary_row binary;
    struct stk_text *config;

    assert_int_equal(0, stk_store_job_get(f->store, "11111111-1111-4111-8111-111111111111", &job, NULL));
    assert_int_equal(STK_JOB_FINISHED, job.state);
    assert_text("{\"result\": 3}", job.result);
    assert_string_equal("w-3fa9c1d2", job.worker.process);
    assert_null(job.tags);
    stk_job_row_done(&job);
    assert_int_equal(0, stk_store_job_stage(f->store, "11111111-1111-4111-8111-111111111111", &stage, NULL));
    assert_int_equal(0, stage.output_bytes[0]);
    assert_int_equal(0, stk_store_job_config(f->store, "22222222-2222-4222-8222-222222222222", &config, NULL));
    assert_text("{\"input\": \"a b\"}", config);
    stk_text_unref(config);
    assert_int_equal(0, stk_store_context_get(f->store, "ctx", &context, NULL));
    assert_int_equal(STK_CONTEXT_RUNNING, context.state);
    stk_context_row_done(&context);
    assert_int_equal(0, stk_store_binary_get(f->store, "wordcount", &binary, NULL));
    assert_int_equal(7, binary.version);
    stk_binary_row_done(&binary);
    assert_int_equal(
        0, access(path_of(f, "blobs/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"), F_OK));
}

static void version_1_is_upgraded(void **state)
{
    open_old(*state, "store-v1.sql");
    has_all_of_version_1(*state);
}

/* Its jobs are in the lists, whose indexes are newer than they are. */
static void version_2_is_upgraded(void **state)
{
    struct fixture *f = *state;
    struct stk_job_row job, *rows;
    size_t n;

    open_old(f, "store-v2.sql");
    has_all_of_version_1(f);
    assert_int_equal(0, stk_store_job_by_key(f->store, "k", &job, NULL));
    assert_int_equal(3, job.terms.priority);
    assert_int_equal(60000, job.terms.run_timeout_ms);
    stk_job_row_done(&job);
    assert_int_equal(0, stk_store_job_list(f->store,
                                           &(struct stk_job_filter){ .limit = 9, .context = "ctx", .app = "wordcount" },
                                           &rows, &n, NULL, NULL));
    assert_true(n >= 2);
    stk_job_rows_free(rows, n);
}

static const char *events(struct fixture *f, int64_t after, size_t limit);

static void version_3_is_upgraded(void **state)
{
    struct fixture *f = *state;
    struct stk_job_stage stage;

    open_old(f, "store-v3.sql");
    assert_int_equal(0, stk_store_job_stage(f->store, "11111111-1111-4111-8111-111111111111", &stage, NULL));
    assert_int_equal(7, stage.output_bytes[1]);
    assert_int_equal(3, stk_store_event_newest(f->store));
    assert_string_equal("1 job.submitted - -1>1 0 -, 2 job.moved - -1>4 0 -, 3 job.submitted - -1>0 0 -",
                        events(f, 0, 10));
}

/* The lists of its jobs, which are older than the program, too. */
static void version_4_is_upgraded(void **state)
{
    struct fixture *f = *state;
    static const char *const tags[] = { "nightly" };
    struct stk_job_filter nightly = { .limit = 9, .tags = tags, .n_tags = 1, .user = "ann" };
    struct stk_job_row *rows;
    size_t n;

    open_old(f, "store-v4.sql");
    assert_int_equal(0, stk_store_job_list(f->store, &nightly, &rows, &n, NULL, NULL));
    assert_int_equal(1, n);
    assert_string_equal("11111111-1111-4111-8111-111111111111", rows[0].id);
    assert_text("[\"nightly\"]", rows[0].tags);
    stk_job_rows_free(rows, n);
    assert_string_equal("1 job.submitted - -1>1 0 -, 2 job.moved - -1>4 0 -, 3 job.submitted - -1>0 0 -",
                        events(f, 0, 10));
}

/* Its jobs have no webhooks, and end without a word. */
static void version_5_is_upgraded(void **state)
{
    struct fixture *f = *state;
    struct stk_delivery_row *rows;
    struct stk_job_row job;
    size_t n;

    open_old(f, "store-v5.sql");
    assert_string_equal("1 job.submitted ctx -1>1 1 -, 2 job.moved ctx 1>4 1 -, 3 job.submitted ctx -1>0 1 -",
                        events(f, 0, 10));
    assert_int_equal(0, stk_store_job_get(f->store, "22222222-2222-4222-8222-222222222222", &job, NULL));
    move(f, &job, STK_JOB_KILLED);
    stk_job_row_done(&job);
    assert_int_equal(0,
                     stk_store_delivery_list(f->store, &(struct stk_delivery_filter){ .limit = 9 }, &rows, &n, NULL));
    assert_int_equal(0, n);
    stk_delivery_rows_free(rows, n);
}

/* ---- webhooks */

static void count_calls(void *arg)
{
    atomic_fetch_add((atomic_int *)arg, 1);
}

static void reopen_with_webhooks(struct fixture *f, json_t *urls)
{
    struct stk_store_options options = { .dir_fd = f->dir_fd,
                                         .dir = f->dir,
                                         .post = queue_post,
                                         .post_to = &f->queue,
                                         .queue_max = f->queue_max,
                                         .webhooks = urls };

    close_store(f);
    f->store = stk_store_open(&options, NULL);
    assert_non_null(f->store);
}

/* The one that is due to h:80, with its secret; released by the caller. */
static struct stk_delivery_row *due_delivery(struct fixture *f)
{
    struct stk_delivery_row *rows;
    size_t n;

    assert_int_equal(0, stk_store_due_deliveries(f->store, "http://h:80", 9, &rows, &n, NULL));
    assert_int_equal(1, n);
    return rows;
}

static void deliveries_are_due_from_the_end_on(void **state)
{
    struct fixture *f = *state;
    json_auto_t *urls = json_pack("[s]", "http://all/");
    struct stk_job_row row = new_job();
    struct stk_delivery_row *due;
    struct stk_due_origin *origins;
    atomic_int calls = 0;
    size_t n;

    reopen_with_webhooks(f, urls);
    row.webhook = text("{\"url\": \"http://h/x\", \"origin\": \"http://h:80\", \"secret\": \"s\", \"form\": 1}");
    submit(f, &row);
    reopen_with_webhooks(f, urls); /* what a webhook waits for may end in the hands of another server */
    stk_store_on_due(f->store, count_calls, &calls);
    move(f, &row, STK_JOB_STARTING);
    assert_int_equal(0, stk_store_due_origins(f->store, &origins, &n, NULL));
    assert_int_equal(0, n);
    stk_due_origins_free(origins, n);
    assert_int_equal(0, calls);
    move(f, &row, STK_JOB_FINISHED);
    assert_int_equal(1, calls);
    move(f, &row, STK_JOB_FINISHED); /* a row that was written twice is one end */
    assert_int_equal(0, stk_store_due_origins(f->store, &origins, &n, NULL));
    assert_int_equal(2, n);
    assert_text("http://all:80", origins[0].origin);
    assert_text("http://h:80", origins[1].origin);
    assert_true(origins[1].due_us > 0);
    stk_due_origins_free(origins, n);
    assert_int_equal(2, sql_number(f, "SELECT count(*) FROM deliveries"));

    due = due_delivery(f);
    assert_string_equal(row.id, due->job_id);
    assert_text("http://h/x", due->url);
    assert_text("s", due->secret);
    assert_int_equal(STK_WEBHOOK_SJS, due->form);
    assert_int_equal(STK_DELIVERY_DUE, due->state);
    assert_int_equal(3, due->event);
    assert_int_equal(due->since_us, due->due_us);
    stk_delivery_rows_free(due, 1);
    stk_job_row_done(&row);
}

static void record_attempt(struct fixture *f, const struct stk_attempt *attempt)
{
    struct answer a = { 0 };

    assert_int_equal(0, stk_store_delivery_tried(f->store, attempt, on_done, &a, NULL));
    expect_done(f, &a);
}

static void attempts_are_recorded_until_it_is_settled(void **state)
{
    struct fixture *f = *state;
    struct stk_job_row row = new_job();
    struct stk_delivery_row *rows;
    struct stk_attempt attempt = { .state = STK_DELIVERY_DUE, .due_us = 77, .status = 500, .error = "no" };
    size_t n;

    row.webhook = text("{\"url\": \"http://h/x\", \"origin\": \"http://h:80\", \"secret\": \"s\", \"form\": 0}");
    submit(f, &row);
    move(f, &row, STK_JOB_KILLED);
    rows = due_delivery(f);
    attempt.seq = rows->seq;
    stk_delivery_rows_free(rows, 1);
    record_attempt(f, &attempt);
    rows = due_delivery(f);
    assert_int_equal(1, rows->attempts);
    assert_int_equal(77, rows->due_us);
    assert_int_equal(500, rows->status);
    assert_text("no", rows->error);
    assert_text("s", rows->secret);
    stk_delivery_rows_free(rows, 1);
    record_attempt(f, &(struct stk_attempt){
                          .seq = attempt.seq, .state = STK_DELIVERY_DELIVERED, .settled_us = 99, .status = 200 });
    record_attempt(f, &attempt); /* too late: it is settled */
    assert_int_equal(0,
                     stk_store_delivery_list(f->store, &(struct stk_delivery_filter){ .limit = 9 }, &rows, &n, NULL));
    assert_int_equal(1, n);
    assert_int_equal(STK_DELIVERY_DELIVERED, rows[0].state);
    assert_int_equal(2, rows[0].attempts);
    assert_int_equal(99, rows[0].settled_us);
    assert_null(rows[0].error);
    stk_delivery_rows_free(rows, n);
    assert_int_equal(1, sql_number(f, "SELECT secret IS NULL FROM deliveries"));
    stk_job_row_done(&row);
}

static void what_is_too_old_is_given_up_without_an_attempt(void **state)
{
    struct fixture *f = *state;
    struct stk_job_row rows[3];
    struct stk_delivery_row *got;
    struct answer a = { 0 };
    size_t n;

    for (size_t i = 0; i < STK_LEN(rows); i++) {
        rows[i] = new_job();
        rows[i].webhook =
            text("{\"url\": \"http://h/x\", \"origin\": \"http://h:80\", \"secret\": \"s\", \"form\": 0}");
        submit(f, &rows[i]);
        move(f, &rows[i], STK_JOB_KILLED);
    }
    record_attempt(f,
                   &(struct stk_attempt){ .seq = 1, .state = STK_DELIVERY_DELIVERED, .settled_us = 99, .status = 200 });
    assert_int_equal(0, stk_store_deliveries_give_up(f->store, (int64_t[]){ 1, 2 }, 2, on_done, &a, NULL));
    expect_done(f, &a);
    assert_int_equal(0, stk_store_delivery_list(f->store, &(struct stk_delivery_filter){ .limit = 9 }, &got, &n, NULL));
    assert_int_equal(3, n);
    assert_int_equal(STK_DELIVERY_DUE, got[0].state);
    assert_int_equal(STK_DELIVERY_GIVEN_UP, got[1].state);
    assert_int_equal(0, got[1].attempts);
    assert_int_equal(0, got[1].due_us);
    assert_true(got[1].settled_us >= got[1].since_us);
    assert_text("its turn did not come before webhook-give-up", got[1].error);
    assert_int_equal(STK_DELIVERY_DELIVERED, got[2].state); /* it was settled before */
    assert_int_equal(99, got[2].settled_us);
    stk_delivery_rows_free(got, n);
    assert_int_equal(3, sql_number(f, "SELECT sum(seq) FROM deliveries WHERE secret IS NOT NULL"));
    for (size_t i = 0; i < STK_LEN(rows); i++)
        stk_job_row_done(&rows[i]);
}

/* ---- jobs */

static void job_is_kept_as_it_was_given(void **state)
{
    struct fixture *f = *state;
    struct stk_job_row row = new_job(), got;
    struct stk_job_stage stage;
    struct stk_text *config;

    submit(f, &row);
    assert_int_equal(0, stk_store_job_get(f->store, row.id, &got, NULL));
    assert_string_equal(row.id, got.id);
    assert_string_equal(row.context_id, got.context_id);
    assert_text("ctx", got.context_name);
    assert_text("wordcount", got.app);
    assert_text("app.jobs.WordCount", got.class_path);
    assert_text("set-1", got.set);
    assert_text("[]", got.binaries);
    assert_null(got.config);
    assert_null(got.error);
    assert_null(got.result);
    assert_null(got.result_file);
    assert_int_equal(STK_JOB_QUEUED, got.state);
    assert_int_equal(0, got.attempt);
    assert_string_equal("", got.worker.process);
    assert_int_equal(row.submitted_us, got.submitted_us);
    assert_int_equal(0, got.started_us);
    stk_job_row_done(&got);

    row.attempt = 2;
    snprintf(row.worker.process, sizeof row.worker.process, "%s", "w-3fa9c1d2");
    row.worker.pid = 4711;
    row.worker.start_time = 1ULL << 40;
    stk_uuid(row.worker.boot_id);
    row.started_us = 5;
    row.result = text("{\"r\": \"\xc3\xa4\"}");
    row.result_file = text("big");
    row.result_bytes = 12;
    row.error = text("{}");
    row.output_bytes[0] = INT64_C(5) << 30;
    row.output_bytes[1] = 7;
    move(f, &row, STK_JOB_FINISHED);
    reopen(f);
    assert_int_equal(0, stk_store_job_get(f->store, row.id, &got, NULL));
    assert_int_equal(STK_JOB_FINISHED, got.state);
    assert_int_equal(2, got.attempt);
    assert_memory_equal(&row.worker, &got.worker, sizeof row.worker);
    assert_int_equal(5, got.started_us);
    assert_int_equal(row.ended_us, got.ended_us);
    assert_text("{\"r\": \"\xc3\xa4\"}", got.result);
    assert_text("big", got.result_file);
    assert_int_equal(12, got.result_bytes);
    assert_text("{}", got.error);
    stk_job_row_done(&got);
    assert_int_equal(0, stk_store_job_stage(f->store, row.id, &stage, NULL));
    assert_int_equal(STK_JOB_FINISHED, stage.state);
    assert_int_equal(2, stage.attempt);
    assert_string_equal("w-3fa9c1d2", stage.process);
    assert_int_equal(INT64_C(5) << 30, stage.output_bytes[0]);
    assert_int_equal(7, stage.output_bytes[1]);

    assert_int_equal(0, stk_store_job_config(f->store, row.id, &config, NULL));
    assert_text("{\"input\": \"a b c\"}", config);
    stk_text_unref(config);
    stk_job_row_done(&row);
}

static void terms_and_receipts_are_kept(void **state)
{
    struct fixture *f = *state;
    struct stk_job_row row = new_job(), got, *live;
    size_t n;

    row.terms = (struct stk_job_terms){ -7, 1000, 2000, INT64_C(5) << 30, 1 };
    submit(f, &row);
    row.receipt = text("{\"reason\":\"user\"}");
    move(f, &row, STK_JOB_CANCELLING);
    reopen(f);
    assert_int_equal(0, stk_store_job_get(f->store, row.id, &got, NULL));
    assert_memory_equal(&row.terms, &got.terms, sizeof got.terms);
    assert_text("{\"reason\":\"user\"}", got.receipt);
    stk_job_row_done(&got);
    assert_int_equal(0, stk_store_live_jobs(f->store, &live, &n, NULL));
    assert_int_equal(1, n);
    assert_memory_equal(&row.terms, &live[0].terms, sizeof live[0].terms);
    assert_text("{\"reason\":\"user\"}", live[0].receipt);
    assert_text("{\"input\": \"a b c\"}", live[0].config);
    stk_job_rows_free(live, n);
    stk_job_row_done(&row);
}

static void a_key_belongs_to_one_job(void **state)
{
    struct fixture *f = *state;
    struct stk_job_row first = new_job(), second = new_job(), got;
    struct answer a = { 0 };
    struct stk_err err;

    assert_int_equal(-1, stk_store_job_by_key(f->store, "k", &got, &err));
    assert_int_equal(STK_NOT_FOUND, err.code);
    first.idempotency_key = text("k");
    first.fingerprint = text("f");
    second.idempotency_key = text("k");
    submit(f, &first);
    assert_int_equal(0, stk_store_job_submitted(f->store, &second, NULL, 0, on_done, &a, NULL));
    wait_for(f, &a);
    assert_int_equal(STK_CONFLICT, a.code);
    move(f, &first, STK_JOB_KILLED); /* which must not lose the key */
    reopen(f);
    assert_int_equal(0, stk_store_job_by_key(f->store, "k", &got, NULL));
    assert_string_equal(first.id, got.id);
    assert_text("f", got.fingerprint);
    stk_job_row_done(&got);
    assert_int_equal(-1, stk_store_job_get(f->store, second.id, &got, &err));
    stk_job_row_done(&first);
    stk_job_row_done(&second);
}

static void worker_can_be_taken_back(void **state)
{
    struct fixture *f = *state;
    struct stk_job_row row = new_job(), got;

    row.state = STK_JOB_STARTING;
    snprintf(row.worker.process, sizeof row.worker.process, "%s", "w-1");
    row.worker.pid = 7;
    submit(f, &row);
    memset(&row.worker, 0, sizeof row.worker);
    move(f, &row, STK_JOB_QUEUED);
    assert_int_equal(0, stk_store_job_get(f->store, row.id, &got, NULL));
    assert_string_equal("", got.worker.process);
    assert_int_equal(0, got.worker.pid);
    stk_job_row_done(&got);
    stk_job_row_done(&row);
}

static void empty_and_missing_configs_read_as_an_object(void **state)
{
    struct fixture *f = *state;
    struct stk_job_row row = new_job();
    struct stk_text *config;

    stk_text_unref(row.config);
    row.config = text("{}");
    submit(f, &row);
    assert_int_equal(0, stk_store_job_config(f->store, row.id, &config, NULL));
    assert_text("{}", config);
    stk_text_unref(config);
    assert_int_equal(0, sql_number(f, "SELECT count(*) FROM job_configs"));
    stk_job_row_done(&row);
}

static void unknown_things_are_not_found(void **state)
{
    struct fixture *f = *state;
    struct stk_job_row job = new_job();
    struct stk_context_row context = { .name = text("nope") };
    struct stk_binary_row binary;
    struct stk_text *config;
    struct stk_err err;
    struct answer a = { 0 }, b = { 0 }, c = { 0 };

    assert_int_equal(-1, stk_store_job_get(f->store, "nope", &job, &err));
    assert_int_equal(STK_NOT_FOUND, err.code);
    assert_int_equal(-1, stk_store_job_get(f->store, "", &job, &err));
    assert_int_equal(STK_NOT_FOUND, err.code);
    assert_int_equal(-1, stk_store_job_config(f->store, "nope", &config, &err));
    assert_int_equal(STK_NOT_FOUND, err.code);
    assert_int_equal(-1, stk_store_context_get(f->store, "nope", &context, &err));
    assert_int_equal(STK_NOT_FOUND, err.code);
    assert_int_equal(-1, stk_store_binary_get(f->store, "nope", &binary, &err));
    assert_int_equal(STK_NOT_FOUND, err.code);

    stk_uuid(context.id);
    assert_int_equal(0, stk_store_job_moved(f->store, &job, on_done, &a, NULL));
    assert_int_equal(0, stk_store_context_moved(f->store, &context, on_done, &b, NULL));
    assert_int_equal(0, stk_store_binary_deleted(f->store, "nope", on_done, &c, NULL));
    wait_for(f, &c);
    assert_int_equal(STK_NOT_FOUND, a.code);
    assert_int_equal(STK_NOT_FOUND, b.code);
    assert_int_equal(STK_NOT_FOUND, c.code);
    assert_int_equal(0, sql_number(f, "SELECT count(*) FROM events"));
    stk_job_row_done(&job);
    stk_context_row_done(&context);
}

/* Job i ends in a state chosen by i; the list has to give the same as a walk over the expected ones. */
static void lists_are_newest_first_and_filtered(void **state)
{
    enum { JOBS = 60 };
    struct fixture *f = *state;
    char ids[JOBS][STK_UUID_MAX];
    struct stk_job_row *rows;
    size_t n;

    for (int i = 0; i < JOBS; i++) {
        struct stk_job_row row = new_job();

        memcpy(ids[i], row.id, sizeof row.id);
        submit(f, &row);
        if (i % STK_JOB_STATES != STK_JOB_QUEUED)
            move(f, &row, (enum stk_job_state)(i % STK_JOB_STATES));
        stk_job_row_done(&row);
    }
    for (unsigned mask = 0; mask < 1U << STK_JOB_STATES; mask += mask < 16 ? 1 : 37) {
        bool states[STK_JOB_STATES];
        size_t found = 0;

        for (int i = 0; i < STK_JOB_STATES; i++)
            states[i] = mask >> i & 1;
        assert_int_equal(0, stk_store_job_list(f->store, &(struct stk_job_filter){ .states = states, .limit = 25 },
                                               &rows, &n, NULL, NULL));
        for (int i = JOBS - 1; i >= 0 && found < 25; i--) {
            if (!states[i % STK_JOB_STATES])
                continue;
            assert_true(found < n);
            assert_string_equal(ids[i], rows[found].id);
            assert_int_equal(i % STK_JOB_STATES, rows[found].state);
            assert_null(rows[found].config);
            found++;
        }
        assert_int_equal(found, n);
        stk_job_rows_free(rows, n);
    }
    assert_int_equal(
        0, stk_store_job_list(f->store, &(struct stk_job_filter){ .limit = SIZE_MAX }, &rows, &n, NULL, NULL));
    assert_int_equal(JOBS, n);
    stk_job_rows_free(rows, n);
    assert_int_equal(0, stk_store_job_list(f->store, &(struct stk_job_filter){ .limit = 0 }, &rows, &n, NULL, NULL));
    assert_int_equal(0, n);
    stk_job_rows_free(rows, n);
}

static void every_transition_has_its_event(void **state)
{
    struct fixture *f = *state;
    struct stk_job_row row = new_job();

    submit(f, &row);
    move(f, &row, STK_JOB_STARTING);
    row.error = text("{\"type\": \"ValueError\"}");
    move(f, &row, STK_JOB_ERROR);
    assert_int_equal(3, sql_number(f, "SELECT count(*) FROM events JOIN jobs ON job_id = id"));
    assert_int_equal(1, sql_number(f, "SELECT seq = 1 AND kind = 'job.submitted' AND state = 0 AND data IS NULL"
                                      " FROM events ORDER BY seq LIMIT 1"));
    assert_int_equal(1,
                     sql_number(f, "SELECT kind = 'job.moved' AND events.state = 5 AND data ->> 'type' = 'ValueError'"
                                   " AND events.context_id = jobs.context_id"
                                   " FROM events JOIN jobs ON job_id = id ORDER BY events.seq DESC LIMIT 1"));
    stk_job_row_done(&row);
}

/* ---- events */

static struct stk_context_row new_context(const char *name);
static void context_move(struct fixture *f, struct stk_context_row *row, enum stk_context_state state);

/* "seq kind context from>state attempt data", for each one behind a number. */
static const char *events(struct fixture *f, int64_t after, size_t limit)
{
    static char text[1024];
    struct stk_event_row *rows;
    size_t n, len = 0;

    assert_int_equal(0, stk_store_event_list(f->store, after, limit, &rows, &n, NULL));
    text[0] = '\0';
    for (size_t i = 0; i < n; i++) {
        const struct stk_event_row *e = &rows[i];
        const char *name = stk_text_data(e->context_name), *data = stk_text_data(e->data);

        assert_true(e->at_us > 0);
        len += (size_t)snprintf(text + len, sizeof text - len, "%s%d %s %s %d>%d %d %s", i ? ", " : "", (int)e->seq,
                                e->kind, name ? name : "-", e->from_state, e->state, e->attempt, data ? data : "-");
        assert_true(len < sizeof text);
    }
    stk_event_rows_free(rows, n);
    return text;
}

static void events_are_read_as_they_came(void **state)
{
    struct fixture *f = *state;
    struct stk_job_row job = new_job();
    struct stk_context_row context = new_context("");
    struct stk_event_row *rows;
    struct answer a = { 0 };
    size_t n;

    assert_int_equal(0, stk_store_event_newest(f->store));
    assert_string_equal("", events(f, 0, 10));
    assert_int_equal(0, stk_store_context_created(f->store, &context, on_done, &a, NULL));
    expect_done(f, &a);
    context_move(f, &context, STK_CONTEXT_RUNNING);
    stk_text_unref(context.name);
    context.name = text("a");
    a = (struct answer){ 0 };
    assert_int_equal(0, stk_store_context_taken(f->store, &context, on_done, &a, NULL));
    expect_done(f, &a);
    assert_int_equal(3, stk_store_event_newest(f->store));
    submit(f, &job);
    job.attempt = 1;
    move(f, &job, STK_JOB_STARTING);
    job.error = text("{\"code\": \"X\"}");
    move(f, &job, STK_JOB_ERROR);
    assert_string_equal("1 context.created  -1>0 0 -, 2 context.moved  0>1 0 -, 3 context.created a 1>1 0 -, "
                        "4 job.submitted ctx -1>0 0 -, 5 job.moved ctx 0>1 1 -, "
                        "6 job.moved ctx 1>5 1 {\"code\": \"X\"}",
                        events(f, 0, 10));
    assert_string_equal("4 job.submitted ctx -1>0 0 -", events(f, 3, 1));
    assert_string_equal("", events(f, 6, 10));
    assert_int_equal(0, stk_store_event_list(f->store, 5, 10, &rows, &n, NULL));
    assert_string_equal(job.id, rows[0].job_id);
    assert_string_equal(job.context_id, rows[0].context_id);
    stk_event_rows_free(rows, n);
    reopen(f);
    assert_int_equal(6, stk_store_event_newest(f->store));
    assert_string_equal("6 job.moved ctx 1>5 1 {\"code\": \"X\"}", events(f, 5, 10));
    stk_job_row_done(&job);
    stk_context_row_done(&context);
}

/* What is refused has no event, and the number of the last one is that of an event, whatever else was inserted. */
static void an_event_counts_when_it_is_committed(void **state)
{
    struct fixture *f = *state;
    struct stk_job_row row = new_job(), stranger = new_job();
    struct stk_context_row context = new_context("nobody");
    struct answer a = { 0 }, refused[2] = { { 0 }, { 0 } };

    submit(f, &row);
    hold_writer(f);
    row.state = STK_JOB_STARTING;
    assert_int_equal(0, stk_store_job_moved(f->store, &row, on_done, &a, NULL));
    assert_int_equal(0, stk_store_job_moved(f->store, &stranger, on_done, &refused[0], NULL));
    assert_int_equal(0, stk_store_context_moved(f->store, &context, on_done, &refused[1], NULL));
    assert_int_equal(1, stk_store_event_newest(f->store));
    assert_string_equal("", events(f, 1, 10));
    let_writer_go(f);
    expect_done(f, &a);
    for (size_t i = 0; i < STK_LEN(refused); i++) {
        wait_for(f, &refused[i]);
        assert_int_equal(STK_NOT_FOUND, refused[i].code);
    }
    assert_int_equal(2, stk_store_event_newest(f->store));
    sql(f, "INSERT INTO events (at_us, kind) VALUES (1, 'job.moved')"); /* committed, and not published yet */
    assert_string_equal("2 job.moved ctx 0>1 0 -", events(f, 1, 10));
    stk_job_row_done(&row);
    stk_job_row_done(&stranger);
    stk_context_row_done(&context);
}

static int64_t event_before(struct fixture *f, int64_t wall_us)
{
    int64_t seq = -1;

    assert_int_equal(0, stk_store_event_before(f->store, wall_us, &seq, NULL));
    return seq;
}

static void events_are_found_by_time(void **state)
{
    struct fixture *f = *state;
    struct stk_err err;
    struct stk_event_row *rows;
    size_t n;

    assert_int_equal(0, event_before(f, 1));
    sql(f, "WITH RECURSIVE n (i) AS (VALUES (11) UNION ALL SELECT i + 1 FROM n WHERE i < 1000)"
           "INSERT INTO events (seq, at_us, kind) SELECT i, i / 10 * 1000, 'job.moved' FROM n;");
    reopen(f);
    assert_int_equal(1000, stk_store_event_newest(f->store));
    assert_int_equal(10, event_before(f, 0)); /* what came before them is not stored any more */
    assert_int_equal(10, event_before(f, 1000));
    assert_int_equal(19, event_before(f, 1001));
    for (int64_t ms = 2; ms <= 100; ms++) {
        assert_int_equal(10 * ms - 1, event_before(f, 1000 * ms));
        assert_int_equal(10 * ms - 1, event_before(f, 1000 * ms - 999));
    }
    assert_int_equal(1000, event_before(f, 100001));
    assert_int_equal(1000, event_before(f, INT64_MAX));
    sql(f, "UPDATE events SET state = 77 WHERE seq = 500");
    assert_int_equal(-1, stk_store_event_list(f->store, 400, 100, &rows, &n, &err));
    assert_non_null(strstr(err.msg, "damaged"));
}

/* ---- answers and batches */

static void answers_come_in_order_after_the_commit(void **state)
{
    enum { N = 300 };
    struct fixture *f = *state;
    struct answer a[N] = { 0 };
    struct stk_job_row row[N];

    answers = 0;
    for (int i = 0; i < N; i++) {
        row[i] = new_job();
        if (i % 7 == 6) /* a refused one in between */
            assert_int_equal(0, stk_store_job_moved(f->store, &row[i], on_done, &a[i], NULL));
        else
            assert_int_equal(0, stk_store_job_submitted(f->store, &row[i], NULL, 0, on_done, &a[i], NULL));
    }
    wait_for(f, &a[N - 1]);
    for (int i = 0; i < N; i++) {
        struct stk_job_row got;

        assert_int_equal(1, a[i].calls);
        assert_int_equal(i, a[i].order);
        assert_int_equal(i % 7 == 6 ? STK_NOT_FOUND : STK_OK, a[i].code);
        if (i % 7 != 6) {
            assert_int_equal(0, stk_store_job_get(f->store, row[i].id, &got, NULL));
            stk_job_row_done(&got);
        }
        stk_job_row_done(&row[i]);
    }
}

static void writes_are_grouped(void **state)
{
    enum { N = 400 };
    struct fixture *f = *state;
    struct answer a[N] = { 0 };
    uint64_t commits, commands;
    int posts = f->queue.posts;

    hold_writer(f);
    for (int i = 0; i < N; i++) {
        struct stk_job_row row = new_job();

        assert_int_equal(0, stk_store_job_submitted(f->store, &row, NULL, 0, on_done, &a[i], NULL));
        stk_job_row_done(&row); /* the store has references of its own */
    }
    let_writer_go(f);
    expect_done(f, &a[N - 1]);
    stk_store_counts(f->store, &commits, &commands);
    assert_int_equal(N, commands);
    assert_in_range(commits, 1, 2); /* the first may have gone alone, before the others were queued */
    assert_in_range(f->queue.posts - posts, 1, 2);
}

/* One command that cannot be carried out costs the others nothing. */
static void bad_command_does_not_spoil_its_batch(void **state)
{
    enum { N = 20 };
    struct fixture *f = *state;
    struct answer a[N] = { 0 };
    struct stk_job_row twin = new_job();

    submit(f, &twin);
    answers = 0;
    hold_writer(f);
    for (int i = 0; i < N; i++) {
        struct stk_job_row row = new_job();

        if (i == 10)
            memcpy(row.id, twin.id, sizeof row.id);
        assert_int_equal(0, stk_store_job_submitted(f->store, &row, NULL, 0, on_done, &a[i], NULL));
        stk_job_row_done(&row);
    }
    let_writer_go(f);
    wait_for(f, &a[N - 1]);
    for (int i = 0; i < N; i++) {
        assert_int_equal(i == 10 ? STK_INTERNAL : STK_OK, a[i].code);
        assert_int_equal(i, a[i].order);
    }
    assert_int_equal(N, sql_number(f, "SELECT count(*) FROM jobs"));
    assert_int_equal(N, sql_number(f, "SELECT count(*) FROM events"));
    stk_job_row_done(&twin);
}

static void full_queue_refuses_new_work_only(void **state)
{
    struct fixture *f = *state;
    struct stk_job_row row = new_job(), other;
    struct stk_err err = { 0 };
    struct answer moved = { 0 };
    int queued = 0;

    f->queue_max = 10;
    reopen(f);
    submit(f, &row);
    hold_writer(f);
    for (;;) {
        int rc;

        other = new_job();
        rc = stk_store_job_submitted(f->store, &other, NULL, 0, NULL, NULL, &err);
        stk_job_row_done(&other);
        if (rc < 0)
            break;
        assert_true(++queued <= 20); /* the writer may have taken as many as fit in the queue */
    }
    assert_int_equal(STK_LIMIT, err.code);
    assert_true(queued >= 10);
    row.state = STK_JOB_STARTING;
    for (int i = 0; i < 50; i++)
        assert_int_equal(0, stk_store_job_moved(f->store, &row, i == 49 ? on_done : NULL, &moved, NULL));
    let_writer_go(f);
    expect_done(f, &moved);
    assert_int_equal(queued + 1, sql_number(f, "SELECT count(*) FROM jobs"));
    stk_job_row_done(&row);
}

static void close_carries_out_what_is_queued(void **state)
{
    enum { N = 1500 };
    struct fixture *f = *state;
    struct answer a = { 0 };
    struct stk_job_row row;

    for (int i = 0; i < N; i++) {
        row = new_job();
        assert_int_equal(0, stk_store_job_submitted(f->store, &row, NULL, 0, i == N - 1 ? on_done : NULL, &a, NULL));
        stk_job_row_done(&row);
    }
    close_store(f);
    expect_done(f, &a);
    assert_int_equal(N, sql_number(f, "SELECT count(*) FROM jobs"));
}

/* ---- contexts, processes, what is live */

static struct stk_context_row new_context(const char *name)
{
    struct stk_context_row row = {
        .name = text(name),
        .spec = text("{\"kind\": \"spark\"}"),
        .max_jobs = 8,
        .started_us = stk_wall_us(),
    };

    stk_uuid(row.id);
    return row;
}

static void context_move(struct fixture *f, struct stk_context_row *row, enum stk_context_state state)
{
    struct answer a = { 0 };

    row->state = state;
    assert_int_equal(0, stk_store_context_moved(f->store, row, on_done, &a, NULL));
    expect_done(f, &a);
}

static void contexts_are_found_by_name(void **state)
{
    struct fixture *f = *state;
    struct stk_context_row old = new_context("a"), new = new_context("a"), b = new_context("b"), got, *rows;
    struct answer a = { 0 };
    size_t n;

    assert_int_equal(0, stk_store_context_created(f->store, &old, NULL, NULL, NULL));
    assert_int_equal(0, stk_store_context_created(f->store, &b, on_done, &a, NULL));
    expect_done(f, &a);
    old.error = text("{}");
    old.ended_us = 9;
    context_move(f, &old, STK_CONTEXT_FAILED);
    assert_int_equal(0, stk_store_context_get(f->store, "a", &got, NULL));
    assert_string_equal(old.id, got.id);
    assert_int_equal(STK_CONTEXT_FAILED, got.state);
    assert_text("{}", got.error);
    assert_int_equal(9, got.ended_us);
    stk_context_row_done(&got);

    memset(&a, 0, sizeof a);
    assert_int_equal(0, stk_store_context_created(f->store, &new, on_done, &a, NULL));
    expect_done(f, &a);
    new.application_id = text("local-1");
    new.ui_url = text("http://127.0.0.1:4040");
    context_move(f, &new, STK_CONTEXT_RUNNING);
    reopen(f);
    assert_int_equal(0, stk_store_context_get(f->store, "a", &got, NULL));
    assert_string_equal(new.id, got.id);
    assert_text("local-1", got.application_id);
    assert_text("http://127.0.0.1:4040", got.ui_url);
    assert_text("{\"kind\": \"spark\"}", got.spec);
    assert_int_equal(8, got.max_jobs);
    assert_int_equal(new.started_us, got.started_us);
    stk_context_row_done(&got);

    assert_int_equal(0, stk_store_context_list(f->store, &rows, &n, NULL));
    assert_int_equal(2, n);
    assert_string_equal(new.id, rows[0].id);
    assert_string_equal(b.id, rows[1].id);
    assert_null(rows[0].spec);
    stk_context_rows_free(rows, n);
    assert_int_equal(0, stk_store_live_contexts(f->store, &rows, &n, NULL));
    assert_int_equal(2, n);
    assert_string_equal(b.id, rows[0].id);
    assert_text("{\"kind\": \"spark\"}", rows[0].spec);
    stk_context_rows_free(rows, n);
    assert_int_equal(3 + 2, sql_number(f, "SELECT count(*) FROM events WHERE kind LIKE 'context.%'"));
    stk_context_row_done(&old);
    stk_context_row_done(&new);
    stk_context_row_done(&b);
}

static void what_is_live_is_found_after_a_restart(void **state)
{
    struct fixture *f = *state;
    struct stk_process_id k = { .process = "k", .pid = 10, .start_time = 1234, .boot_id = "boot" }, w = k;
    struct stk_process_row *processes;
    struct stk_job_row rows[STK_JOB_STATES], *live;
    const char *context_id = "7d5c1f2e-0000-4000-8000-000000000001";
    size_t n;

    snprintf(w.process, sizeof w.process, "%s", "w-00000001");
    w.pid = 11;
    assert_int_equal(0, stk_store_process_started(f->store, context_id, "keeper", &k, NULL));
    assert_int_equal(0, stk_store_process_started(f->store, context_id, "worker", &w, NULL));
    assert_int_equal(0, stk_store_process_started(f->store, context_id, "worker", &w, NULL)); /* told twice */
    assert_int_equal(0, stk_store_process_ended(f->store, context_id, "k", NULL));
    for (int i = 0; i < STK_JOB_STATES; i++) {
        rows[i] = new_job();
        submit(f, &rows[i]);
        if (i)
            move(f, &rows[i], (enum stk_job_state)i);
    }
    reopen(f);
    assert_int_equal(0, stk_store_live_jobs(f->store, &live, &n, NULL));
    assert_int_equal(4, n);
    for (size_t i = 0; i < n; i++) {
        assert_string_equal(rows[i].id, live[i].id);
        assert_text("{\"input\": \"a b c\"}", live[i].config);
    }
    stk_job_rows_free(live, n);
    for (int i = 0; i < STK_JOB_STATES; i++)
        stk_job_row_done(&rows[i]);

    assert_int_equal(0, stk_store_live_processes(f->store, &processes, &n, NULL));
    assert_int_equal(1, n);
    assert_string_equal(context_id, processes[0].context_id);
    assert_string_equal("worker", processes[0].role);
    assert_string_equal("w-00000001", processes[0].id.process);
    assert_int_equal(11, processes[0].id.pid);
    assert_int_equal(1234, processes[0].id.start_time);
    assert_string_equal("boot", processes[0].id.boot_id);
    free(processes);
}

/* ---- binaries */

static const char digest_a[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
static const char digest_b[] = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

static bool exists(struct fixture *f, const char *folder, const char *name)
{
    char path[128];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    return faccessat(f->dir_fd, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* A blob of three bytes and a folder with a folder and a file, in tmp/. */
static void make_upload(struct fixture *f, const char *blob, const char *folder)
{
    char path[128];

    snprintf(path, sizeof path, "tmp/%s", blob);
    write_file(path_of(f, path), "zip", 3, 0);
    snprintf(path, sizeof path, "tmp/%s", folder);
    assert_int_equal(0, mkdirat(f->dir_fd, path, 0755));
    snprintf(path, sizeof path, "tmp/%s/app", folder);
    assert_int_equal(0, mkdirat(f->dir_fd, path, 0755));
    snprintf(path, sizeof path, "tmp/%s/app/jobs.py", folder);
    write_file(path_of(f, path), "x = 1", 5, 0);
}

static struct stk_binary_row add_binary(struct fixture *f, const char *name, const char *digest)
{
    struct stk_binary_row row = { .name = text(name), .type = STK_BINARY_EGG, .bytes = 3 };
    struct answer a = { 0 };

    snprintf(row.digest, sizeof row.digest, "%s", digest);
    make_upload(f, "up-1", "up-2");
    assert_int_equal(0, stk_store_binary_added(f->store, &row, "up-1", "up-2", on_done, &a, NULL));
    expect_done(f, &a);
    assert_false(exists(f, "tmp", "up-1"));
    assert_false(exists(f, "tmp", "up-2"));
    stk_text_unref(row.name);
    row.name = NULL;
    return row;
}

static void delete_binary(struct fixture *f, const char *name)
{
    struct answer a = { 0 };

    assert_int_equal(0, stk_store_binary_deleted(f->store, name, on_done, &a, NULL));
    expect_done(f, &a);
}

static void versions_follow_each_other(void **state)
{
    struct fixture *f = *state;
    struct stk_binary_row row, got, *rows;
    int64_t version = 0, uploaded_us = 0;
    size_t n;

    add_binary(f, "zeta", digest_b);
    for (int i = 0; i < 5; i++) { /* faster than one per millisecond */
        row = add_binary(f, "wordcount", i % 2 ? digest_b : digest_a);
        assert_true(row.version > version);
        assert_true(row.uploaded_us > uploaded_us);
        assert_int_equal(0, row.uploaded_us % 1000);
        version = row.version;
        uploaded_us = row.uploaded_us;
    }
    assert_int_equal(0, stk_store_binary_get(f->store, "wordcount", &got, NULL));
    assert_int_equal(version, got.version);
    assert_int_equal(uploaded_us, got.uploaded_us);
    assert_string_equal(digest_a, got.digest);
    assert_int_equal(STK_BINARY_EGG, got.type);
    assert_int_equal(3, got.bytes);
    assert_text("wordcount", got.name);
    stk_binary_row_done(&got);
    assert_int_equal(0, stk_store_binary_list(f->store, &rows, &n, NULL));
    assert_int_equal(2, n);
    assert_text("wordcount", rows[0].name);
    assert_int_equal(version, rows[0].version);
    assert_text("zeta", rows[1].name);
    stk_binary_rows_free(rows, n);

    /* even when the clock was far ahead once, and never the number of a deleted version again */
    sql(f, "UPDATE binary_versions SET uploaded_us = 9000000000000000 WHERE version = (SELECT max(version) FROM "
           "binary_versions)");
    row = add_binary(f, "wordcount", digest_a);
    assert_int_equal(9000000000001000, row.uploaded_us);
    version = row.version;
    delete_binary(f, "wordcount");
    row = add_binary(f, "wordcount", digest_a);
    assert_true(row.version > version);
    assert_int_equal(1, sql_number(f, "SELECT data ->> 'digest' LIKE 'aaaa%' FROM events WHERE kind = 'binary.added'"
                                      " ORDER BY seq DESC LIMIT 1"));
    assert_int_equal(
        1, sql_number(f, "SELECT data = '{\"name\":\"wordcount\"}' FROM events WHERE kind = 'binary.deleted'"));
}

static void bytes_stay_while_a_name_has_them(void **state)
{
    struct fixture *f = *state;

    add_binary(f, "one", digest_a);
    add_binary(f, "one", digest_b);
    add_binary(f, "two", digest_a);
    delete_binary(f, "one");
    assert_true(exists(f, "blobs", digest_a));
    assert_true(exists(f, "unpacked", digest_a));
    assert_false(exists(f, "blobs", digest_b));
    assert_false(exists(f, "unpacked", digest_b));
    delete_binary(f, "two");
    assert_false(exists(f, "blobs", digest_a));
    assert_false(exists(f, "unpacked", digest_a));
    add_binary(f, "two", digest_a);
    assert_true(exists(f, "blobs", digest_a));
    assert_true(exists(f, "unpacked", digest_a));
    reopen(f);
    assert_true(exists(f, "blobs", digest_a));
    assert_true(exists(f, "unpacked", digest_a));
}

static void bytes_stay_while_a_job_needs_them(void **state)
{
    struct fixture *f = *state;
    struct stk_job_row row = new_job();

    add_binary(f, "one", digest_a);
    stk_text_unref(row.binaries);
    row.binaries = text("[{\"name\": \"one\", \"version\": 1, \"type\": \"egg\","
                        " \"digest\": \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}]");
    submit(f, &row);
    delete_binary(f, "one");
    assert_true(exists(f, "blobs", digest_a));
    reopen(f);
    assert_true(exists(f, "blobs", digest_a));
    assert_true(exists(f, "unpacked", digest_a));
    move(f, &row, STK_JOB_FINISHED);
    reopen(f);
    assert_false(exists(f, "blobs", digest_a));
    assert_false(exists(f, "unpacked", digest_a));
    stk_job_row_done(&row);
}

static void damaged_blob_is_replaced_by_an_upload(void **state)
{
    struct fixture *f = *state;
    char path[128];
    struct stat st;

    add_binary(f, "one", digest_a);
    snprintf(path, sizeof path, "blobs/%s", digest_a);
    assert_int_equal(0, truncate(path_of(f, path), 1));
    add_binary(f, "one", digest_a);
    assert_int_equal(0, stat(path_of(f, path), &st));
    assert_int_equal(3, st.st_size);
}

static void failed_upload_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    struct stk_binary_row row = { .name = text("one"), .bytes = 3 };
    struct answer a = { 0 }, b = { 0 };
    struct stk_err err;

    snprintf(row.digest, sizeof row.digest, "%s", digest_a);
    make_upload(f, "up-1", "up-2");
    assert_int_equal(0, stk_store_binary_added(f->store, &row, "missing", "up-2", on_done, &a, NULL));
    wait_for(f, &a);
    assert_int_equal(STK_INTERNAL, a.code);
    assert_false(exists(f, "unpacked", digest_a));
    assert_false(exists(f, "tmp", "up-2"));

    snprintf(row.digest, sizeof row.digest, "%s", "../../etc/passwd");
    assert_int_equal(0, stk_store_binary_added(f->store, &row, "up-1", NULL, on_done, &b, NULL));
    wait_for(f, &b);
    assert_int_equal(STK_INTERNAL, b.code);
    assert_false(exists(f, "tmp", "up-1"));
    assert_int_equal(0, sql_number(f, "SELECT count(*) FROM binaries"));

    /* refused at the door: the files go as well */
    f->queue_max = 0;
    reopen(f);
    hold_writer(f);
    make_upload(f, "up-1", "up-2");
    assert_int_equal(-1, stk_store_binary_added(f->store, &row, "up-1", "up-2", on_done, &b, &err));
    assert_int_equal(STK_LIMIT, err.code);
    assert_false(exists(f, "tmp", "up-1"));
    assert_false(exists(f, "tmp", "up-2"));
    let_writer_go(f);
    stk_text_unref(row.name);
}

static void submit_with_a_deleted_version_is_refused(void **state)
{
    struct fixture *f = *state;
    struct stk_binary_row one = add_binary(f, "one", digest_a), two = add_binary(f, "two", digest_b);
    struct stk_job_row row = new_job();
    int64_t versions[] = { two.version, one.version };
    struct answer a = { 0 }, b = { 0 };

    assert_int_equal(0, stk_store_job_submitted(f->store, &row, versions, 2, on_done, &a, NULL));
    expect_done(f, &a);
    delete_binary(f, "one");
    stk_uuid(row.id);
    assert_int_equal(0, stk_store_job_submitted(f->store, &row, versions, 2, on_done, &b, NULL));
    wait_for(f, &b);
    assert_int_equal(STK_NOT_FOUND, b.code);
    assert_string_equal("appName wordcount not found", b.msg);
    assert_int_equal(1, sql_number(f, "SELECT count(*) FROM jobs"));
    stk_job_row_done(&row);
}

static void open_sweeps_what_a_crash_left(void **state)
{
    struct fixture *f = *state;
    char path[128];

    add_binary(f, "one", digest_a);
    close_store(f);
    snprintf(path, sizeof path, "blobs/%s", digest_b);
    write_file(path_of(f, path), "zip", 3, 0);
    snprintf(path, sizeof path, "unpacked/%s", digest_b);
    assert_int_equal(0, mkdirat(f->dir_fd, path, 0755));
    write_file(path_of(f, "blobs/README"), "not mine", 8, 0);
    make_upload(f, "up-1", "up-2");
    reopen(f);
    assert_false(exists(f, "blobs", digest_b));
    assert_false(exists(f, "unpacked", digest_b));
    assert_false(exists(f, "tmp", "up-1"));
    assert_false(exists(f, "tmp", "up-2"));
    assert_true(exists(f, "blobs", digest_a));
    assert_true(exists(f, "unpacked", digest_a));
    assert_true(exists(f, "blobs", "README"));
    close_store(f);
    assert_int_equal(0, rmdir(path_of(f, "tmp"))); /* the trash is empty */
}

/* ---- readers beside the writer */

struct race {
    struct fixture *f;
    char id[STK_UUID_MAX];
    atomic_bool stop;
};

static void *read_on(void *arg)
{
    struct race *r = arg;
    intptr_t reads = 0;

    while (!r->stop) {
        struct stk_job_row row, *rows;
        size_t n;

        if (stk_store_job_get(r->f->store, r->id, &row, NULL) < 0)
            return NULL;
        /* one row, one moment */
        if ((row.state == STK_JOB_FINISHED) != (row.result != NULL))
            return NULL;
        stk_job_row_done(&row);
        if (stk_store_job_list(r->f->store, &(struct stk_job_filter){ .limit = 5 }, &rows, &n, NULL, NULL) < 0)
            return NULL;
        stk_job_rows_free(rows, n);
        reads++;
    }
    return (void *)(reads + 1);
}

static void readers_see_committed_rows_only(void **state)
{
    struct fixture *f = *state;
    struct race race = { .f = f };
    struct stk_job_row row = new_job();
    struct stk_text *result = text("{}");
    pthread_t threads[8]; /* more than there are connections */

    memcpy(race.id, row.id, sizeof row.id);
    submit(f, &row);
    for (size_t i = 0; i < STK_LEN(threads); i++)
        assert_int_equal(0, pthread_create(&threads[i], NULL, read_on, &race));
    for (int i = 0; i < 300; i++) {
        row.result = i % 2 ? NULL : result;
        move(f, &row, i % 2 ? STK_JOB_QUEUED : STK_JOB_FINISHED);
    }
    race.stop = true;
    for (size_t i = 0; i < STK_LEN(threads); i++) {
        void *reads;

        assert_int_equal(0, pthread_join(threads[i], &reads));
        assert_non_null(reads);
    }
    row.result = result;
    stk_job_row_done(&row);
}

/* ---- crashes and full disks: in a child, whose exit status is the line that went wrong */

#define CHILD_CHECK(cond)                                                     \
    do {                                                                      \
        if (!(cond)) {                                                        \
            fprintf(stderr, "%s:%d: child: %s\n", __FILE__, __LINE__, #cond); \
            _exit(1);                                                         \
        }                                                                     \
    } while (0)

struct acknowledged {
    char id[STK_UUID_MAX];
    int state;
};

struct in_flight {
    struct stk_job_row row;
    int pipe;
    struct stk_store *store;
};

static void child_step(void *arg, const struct stk_err *err);

static void child_submit(struct in_flight *j)
{
    stk_uuid(j->row.id);
    j->row.state = STK_JOB_QUEUED;
    CHILD_CHECK(stk_store_job_submitted(j->store, &j->row, NULL, 0, child_step, j, NULL) == 0);
}

static void child_step(void *arg, const struct stk_err *err)
{
    struct in_flight *j = arg;
    struct acknowledged a = { .state = (int)j->row.state };

    CHILD_CHECK(!err);
    memcpy(a.id, j->row.id, sizeof a.id);
    CHILD_CHECK(write(j->pipe, &a, sizeof a) == sizeof a);
    if (j->row.state == STK_JOB_FINISHED) {
        child_submit(j);
        return;
    }
    j->row.state = STK_JOB_FINISHED;
    CHILD_CHECK(stk_store_job_moved(j->store, &j->row, child_step, j, NULL) == 0);
}

static void child_writes_until_killed(struct fixture *f, int pipe)
{
    static struct in_flight jobs[32];

    f->store = store_open(f, NULL);
    CHILD_CHECK(f->store);
    for (size_t i = 0; i < STK_LEN(jobs); i++) {
        jobs[i] = (struct in_flight){ .row = new_job(), .pipe = pipe, .store = f->store };
        child_submit(&jobs[i]);
    }
    while (queue_run(&f->queue) > 0)
        ;
    _exit(1);
}

static void kill_minus_nine_loses_nothing_acknowledged(void **state)
{
    enum { MOST = 20000 };
    struct fixture *f = *state;
    struct acknowledged *acks = calloc(MOST, sizeof *acks);
    size_t n = 0;

    for (int round = 0; round < 5; round++) {
        size_t enough = n + 200 + 397 * (size_t)round;
        int fds[2], status;
        pid_t pid;

        assert_int_equal(0, pipe2(fds, O_CLOEXEC));
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0)
            child_writes_until_killed(f, fds[1]);
        close(fds[1]);
        while (n < MOST && read(fds[0], &acks[n], sizeof *acks) == sizeof *acks) {
            if (++n == enough)
                kill(pid, SIGKILL); /* and read on: what it had said by then counts */
        }
        close(fds[0]);
        assert_int_equal(pid, waitpid(pid, &status, 0));
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        assert_true(n >= enough);

        reopen(f);
        for (size_t i = 0; i < n; i++) {
            struct stk_job_row row;

            assert_int_equal(0, stk_store_job_get(f->store, acks[i].id, &row, NULL));
            assert_true(row.state == STK_JOB_FINISHED || acks[i].state == STK_JOB_QUEUED);
            stk_job_row_done(&row);
        }
        close_store(f);
        assert_int_equal(1, sql_number(f, "SELECT count(*) = (SELECT count(*) FROM jobs) + (SELECT count(*) FROM jobs"
                                          " WHERE state = 4) FROM events"));
    }
    free(acks);
}

/* Uploads and deletes binaries of ever new digests; says after each that it is done. */
static void child_uploads_until_killed(struct fixture *f, int pipe, unsigned round)
{
    f->store = store_open(f, NULL);
    CHILD_CHECK(f->store);
    for (unsigned i = 0;; i++) {
        struct stk_binary_row row = { .name = text(i % 3 ? "one" : "two"), .bytes = 3 };
        struct answer added = { 0 }, deleted = { 0 };

        snprintf(row.digest, sizeof row.digest, "%064x", (round << 16) + i);
        make_upload(f, "up-1", "up-2");
        CHILD_CHECK(stk_store_binary_added(f->store, &row, "up-1", "up-2", on_done, &added, NULL) == 0);
        if (i % 4 == 3)
            CHILD_CHECK(stk_store_binary_deleted(f->store, "one", on_done, &deleted, NULL) == 0);
        while (!added.calls || (i % 4 == 3 && !deleted.calls))
            CHILD_CHECK(queue_run(&f->queue) > 0);
        CHILD_CHECK(added.code == STK_OK);
        CHILD_CHECK(write(pipe, "", 1) == 1);
        stk_text_unref(row.name);
    }
}

static int64_t names_in(struct fixture *f, const char *folder)
{
    DIR *dir = opendir(path_of(f, folder));
    int64_t n = -2; /* "." and ".." */

    assert_non_null(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

/* Every version that is recorded has its files, and there are no others. */
static void kill_minus_nine_keeps_rows_and_files_together(void **state)
{
    struct fixture *f = *state;

    for (unsigned round = 1; round <= 6; round++) {
        int fds[2];
        char byte;
        pid_t pid;
        struct stk_binary_row *rows;
        size_t n;
        int64_t digests;

        assert_int_equal(0, pipe2(fds, O_CLOEXEC));
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0)
            child_uploads_until_killed(f, fds[1], round);
        close(fds[1]);
        for (unsigned i = 0; i < 20 + 7 * round; i++)
            assert_int_equal(1, read(fds[0], &byte, 1));
        usleep(130 * round); /* somewhere in the next one */
        kill(pid, SIGKILL);
        assert_int_equal(pid, waitpid(pid, NULL, 0));
        close(fds[0]);

        reopen(f);
        assert_int_equal(0, stk_store_binary_list(f->store, &rows, &n, NULL));
        for (size_t i = 0; i < n; i++) {
            assert_true(exists(f, "blobs", rows[i].digest));
            assert_true(exists(f, "unpacked", rows[i].digest));
        }
        stk_binary_rows_free(rows, n);
        digests = sql_number(f, "SELECT count(DISTINCT digest) FROM binary_versions");
        assert_int_equal(digests, names_in(f, "blobs"));
        assert_int_equal(digests, names_in(f, "unpacked"));
        close_store(f);
        assert_int_equal(0, names_in(f, "tmp"));
    }
}

static void wait_for_child(pid_t pid, int expected)
{
    int status;

    assert_int_equal(pid, waitpid(pid, &status, 0));
    assert_true(WIFEXITED(status));
    assert_int_equal(expected, WEXITSTATUS(status));
}

/* A file size limit fails writes as a quota does. */
static void child_fills_the_disk(struct fixture *f)
{
    enum { N = 2000 };
    static struct answer a[N], after;
    struct rlimit limit = { .rlim_cur = 600 * 1024, .rlim_max = RLIM_INFINITY };
    struct stk_job_row row = new_job(), got, small = new_job();
    struct stk_text *large;
    char first[STK_UUID_MAX], filler[3000];
    size_t full = 0;

    memset(filler, 'x', sizeof filler);
    large = stk_text_new(filler, sizeof filler);
    signal(SIGXFSZ, SIG_IGN);
    f->store = store_open(f, NULL);
    CHILD_CHECK(f->store);
    memcpy(first, row.id, sizeof first);
    CHILD_CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    stk_text_unref(row.config);
    row.config = large;
    for (int i = 0; i < N; i++) {
        if (i)
            stk_uuid(row.id);
        CHILD_CHECK(stk_store_job_submitted(f->store, &row, NULL, 0, on_done, &a[i], NULL) == 0);
    }
    while (!a[N - 1].calls)
        CHILD_CHECK(queue_run(&f->queue) > 0);
    for (int i = 0; i < N; i++) {
        CHILD_CHECK(a[i].code == STK_OK || a[i].code == STK_FULL);
        full += a[i].code == STK_FULL;
    }
    CHILD_CHECK(a[0].code == STK_OK && a[N - 1].code == STK_FULL);
    CHILD_CHECK(stk_store_job_get(f->store, first, &got, NULL) == 0); /* reads go on */

    limit.rlim_cur = RLIM_INFINITY;
    CHILD_CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    CHILD_CHECK(stk_store_job_submitted(f->store, &small, NULL, 0, on_done, &after, NULL) == 0);
    while (!after.calls)
        CHILD_CHECK(queue_run(&f->queue) > 0);
    CHILD_CHECK(after.code == STK_OK);
    stk_store_close(f->store);
    CHILD_CHECK(sql_number(f, "SELECT count(*) FROM jobs") == (int64_t)(N - full + 1));
    CHILD_CHECK(sql_number(f, "SELECT count(*) FROM events") == (int64_t)(N - full + 1));
    _exit(0);
}

static void full_disk_is_survived(void **state)
{
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0)
        child_fills_the_disk(*state);
    wait_for_child(pid, 0);
}

static void child_reads_damage(struct fixture *f)
{
    static const char junk[64 * 4096];
    struct stk_job_row *rows;
    size_t n;
    struct stat st;

    CHILD_CHECK(stat(path_of(f, "stoker.db"), &st) == 0);
    f->store = store_open(f, NULL);
    CHILD_CHECK(f->store);
    for (off_t at = 4096; at < st.st_size; at += (off_t)sizeof junk) {
        off_t n_bytes = st.st_size - at < (off_t)sizeof junk ? st.st_size - at : (off_t)sizeof junk;

        write_file(path_of(f, "stoker.db"), junk, (size_t)n_bytes, at);
    }
    stk_store_job_list(f->store, &(struct stk_job_filter){ .limit = 100 }, &rows, &n, NULL, NULL);
    _exit(0);
}

static void damage_ends_the_process(void **state)
{
    struct fixture *f = *state;
    pid_t pid;

    for (int i = 0; i < 100; i++) {
        struct stk_job_row row = new_job();

        submit(f, &row);
        stk_job_row_done(&row);
    }
    close_store(f);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        child_reads_damage(f);
    wait_for_child(pid, 70);
}

/* ---- retention */

/* One step of an expiry, waited for. */
static void expire(struct fixture *f, struct stk_expiry *e)
{
    struct answer a = { 0 };

    assert_int_equal(0, stk_store_expire(f->store, e, on_done, &a, NULL));
    expect_done(f, &a);
}

/* Steps until there is nothing more to remove; how many jobs and contexts went. */
static size_t expire_all(struct fixture *f, int64_t before_us, int64_t max_jobs)
{
    struct stk_expiry e = { .before_us = before_us, .max_jobs = max_jobs };
    size_t n = 0;

    do {
        expire(f, &e);
        n += e.n_gone;
        assert_true(e.n_gone <= STK_EXPIRY_ROWS);
        assert_true(!e.more || e.n_gone || e.n_events || e.job_next > e.job_from || e.context_next > e.context_from);
        e.job_from = e.job_next;
        e.context_from = e.context_next;
    } while (e.more);
    return n;
}

static struct stk_job_row ended_job(struct fixture *f)
{
    struct stk_job_row row = new_job();

    submit(f, &row);
    row.attempt = 2;
    move(f, &row, STK_JOB_STARTING);
    move(f, &row, STK_JOB_FINISHED);
    return row;
}

static void old_jobs_go(void **state)
{
    struct fixture *f = *state;
    struct stk_job_row old = ended_job(f), live = new_job(), slow, young;
    struct stk_expiry e = { .before_us = 2000000 };
    int64_t newest;

    submit(f, &live);
    slow = ended_job(f);
    sql(f, "UPDATE jobs SET submitted_us = 1000000, ended_us = 1500000 WHERE seq <= 2;"
           "UPDATE jobs SET submitted_us = 1000000 WHERE seq = 3;" /* came long ago, ended now */
           "UPDATE events SET at_us = 1000000 WHERE seq <= 4;");
    young = ended_job(f);
    newest = sql_number(f, "SELECT max(seq) FROM events");
    expire(f, &e);
    assert_false(e.more);
    assert_int_equal(1, e.n_gone);
    assert_string_equal(old.id, e.gone[0].id);
    assert_int_equal(2, e.gone[0].attempts);
    assert_int_equal(4, e.n_events);
    assert_int_equal(3, sql_number(f, "SELECT count(*) FROM jobs"));
    assert_int_equal(3, sql_number(f, "SELECT count(*) FROM job_configs"));
    assert_int_equal(5, sql_number(f, "SELECT min(seq) FROM events"));
    assert_int_equal(newest, sql_number(f, "SELECT max(seq) FROM events"));
    assert_int_equal(0, stk_store_knows(f->store, old.id, NULL));
    assert_int_equal(1, stk_store_knows(f->store, live.id, NULL));
    assert_int_equal(1, stk_store_knows(f->store, slow.id, NULL));

    assert_int_equal(0, expire_all(f, 0, 0)); /* without limits nothing goes */
    assert_int_equal(3, sql_number(f, "SELECT count(*) FROM jobs"));
    stk_job_row_done(&old);
    stk_job_row_done(&live);
    stk_job_row_done(&slow);
    stk_job_row_done(&young);
}

/* They are found by their tags from the submit on, and leave nothing of them behind. */
static void tags_come_and_go_with_their_job(void **state)
{
    struct fixture *f = *state;
    struct stk_job_row row = new_job(), *rows;
    const char *const tags[] = { "nightly", "team=\"x\"" };
    const struct stk_job_filter filter = { .limit = 9, .tags = tags, .n_tags = 2 };
    size_t n;

    row.tags = text("[\"nightly\",\"team=\\\"x\\\"\"]");
    submit(f, &row);
    for (enum stk_job_state at = STK_JOB_QUEUED; at <= STK_JOB_FINISHED; at++) {
        if (at != STK_JOB_QUEUED)
            move(f, &row, at);
        assert_int_equal(0, stk_store_job_list(f->store, &filter, &rows, &n, NULL, NULL));
        assert_int_equal(1, n);
        assert_text(stk_text_data(row.tags), rows[0].tags);
        stk_job_rows_free(rows, n);
    }
    assert_int_equal(2, sql_number(f, "SELECT count(*) FROM job_tags"));
    assert_int_equal(1, expire_all(f, INT64_MAX, 0));
    assert_int_equal(0, sql_number(f, "SELECT count(*) FROM job_tags"));
    stk_job_row_done(&row);
}

/* More than a step takes, with live ones among them, and with rows that stay in front of those that go. */
static void many_old_jobs_go_in_steps(void **state)
{
    struct fixture *f = *state;

    sql(f, "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 2500)"
           "INSERT INTO jobs (id, state, attempt, submitted_us, ended_us)"
           " SELECT printf('job-%d', i), CASE WHEN i % 100 = 0 THEN 2 ELSE 4 END, 1, i,"
           "   CASE WHEN i <= 700 THEN 9000000 ELSE i END FROM n;"
           "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 2500)"
           "INSERT INTO events (at_us, kind) SELECT i, 'job.moved' FROM n;");
    assert_int_equal(1800 - 18, expire_all(f, 5000000, 0));
    assert_int_equal(700 + 18, sql_number(f, "SELECT count(*) FROM jobs"));
    assert_int_equal(25, sql_number(f, "SELECT count(*) FROM jobs WHERE state = 2"));
    assert_int_equal(1, sql_number(f, "SELECT count(*) FROM events"));
    assert_int_equal(2500, sql_number(f, "SELECT max(seq) FROM events"));
}

/* The newest stay, and their events. */
static void too_many_jobs_go(void **state)
{
    struct fixture *f = *state;
    struct stk_job_row rows[6];

    for (size_t i = 0; i < 6; i++)
        rows[i] = ended_job(f);
    sql(f, "UPDATE jobs SET submitted_us = seq * 1000000; UPDATE events SET at_us = (seq + 2) / 3 * 1000000");
    assert_int_equal(0, expire_all(f, 0, 6));
    assert_int_equal(4, expire_all(f, 0, 2));
    assert_int_equal(2, sql_number(f, "SELECT count(*) FROM jobs"));
    assert_int_equal(1, stk_store_knows(f->store, rows[4].id, NULL));
    assert_int_equal(1, stk_store_knows(f->store, rows[5].id, NULL));
    assert_int_equal(6, sql_number(f, "SELECT count(*) FROM events"));
    for (size_t i = 0; i < 6; i++)
        stk_job_row_done(&rows[i]);
}

/* The number of an event is a place in a stream that readers come back to. */
static void numbers_of_events_are_not_used_again(void **state)
{
    struct fixture *f = *state;
    struct stk_job_row row = ended_job(f), next;
    int64_t newest = sql_number(f, "SELECT max(seq) FROM events");

    assert_int_equal(1, expire_all(f, INT64_MAX, 0));
    assert_int_equal(0, sql_number(f, "SELECT count(*) FROM jobs"));
    assert_int_equal(newest, sql_number(f, "SELECT min(seq) FROM events"));
    next = ended_job(f);
    assert_int_equal(newest + 3, sql_number(f, "SELECT max(seq) FROM events"));
    stk_job_row_done(&row);
    stk_job_row_done(&next);
}

static void old_contexts_go(void **state)
{
    struct fixture *f = *state;
    struct stk_expiry e = { .before_us = 2000000 };

    sql(f, "INSERT INTO contexts (id, name, state, max_jobs, started_us, ended_us) VALUES"
           " ('ended', 'a', 3, 1, 1, 2), ('live', 'b', 1, 1, 1, NULL), ('slow', 'c', 4, 1, 1, 3000000),"
           " ('lost', 'd', 5, 1, 2, 3), ('young', 'e', 3, 1, 3000000, 4000000)");
    expire(f, &e);
    assert_false(e.more);
    assert_int_equal(2, e.n_gone);
    assert_string_equal("ended", e.gone[0].id);
    assert_int_equal(-1, e.gone[0].attempts);
    assert_string_equal("lost", e.gone[1].id);
    assert_int_equal(3, sql_number(f, "SELECT count(*) FROM contexts WHERE id IN ('live', 'slow', 'young')"));
}

static void dropped_results_are_forgotten_by_ended_jobs(void **state)
{
    struct fixture *f = *state;
    struct stk_job_row ended = new_job(), live = new_job(), got;
    char ids[3][STK_UUID_MAX] = { "", "", "nobody" };
    struct answer a = { 0 };

    memcpy(ids[0], ended.id, sizeof ids[0]);
    memcpy(ids[1], live.id, sizeof ids[1]);
    submit(f, &live);
    submit(f, &ended);
    live.result_file = text("live.json");
    ended.result_file = text("ended.json");
    ended.result_bytes = 100000;
    move(f, &live, STK_JOB_STARTING);
    move(f, &ended, STK_JOB_FINISHED);
    assert_int_equal(0, stk_store_results_dropped(f->store, (const char(*)[STK_UUID_MAX])ids, 3, on_done, &a, NULL));
    expect_done(f, &a);
    assert_int_equal(0, stk_store_job_get(f->store, ended.id, &got, NULL));
    assert_null(got.result_file);
    assert_int_equal(100000, got.result_bytes);
    stk_job_row_done(&got);
    assert_int_equal(0, stk_store_job_get(f->store, live.id, &got, NULL));
    assert_text("live.json", got.result_file);
    stk_job_row_done(&got);
    stk_job_row_done(&ended);
    stk_job_row_done(&live);
}

static enum stk_code expire_version(struct fixture *f, int64_t version)
{
    struct answer a = { 0 };

    assert_int_equal(0, stk_store_version_expired(f->store, version, on_done, &a, NULL));
    wait_for(f, &a);
    return a.code;
}

static void replaced_versions_go(void **state)
{
    struct fixture *f = *state;
    struct stk_binary_row first = add_binary(f, "app", digest_a), second = add_binary(f, "app", digest_b),
                          third = add_binary(f, "app", digest_b), alone = add_binary(f, "alone", digest_b);
    struct stk_job_row job = new_job();
    atomic_bool stop = false;
    int64_t *versions;
    size_t n;

    assert_int_equal(0, stk_store_unused_versions(f->store, INT64_MAX, &stop, &versions, &n, NULL));
    assert_int_equal(2, n);
    assert_int_equal(first.version, versions[0]);
    assert_int_equal(second.version, versions[1]);
    free(versions);
    /* by the time of the version that replaced it */
    assert_int_equal(0, stk_store_unused_versions(f->store, third.uploaded_us, &stop, &versions, &n, NULL));
    assert_int_equal(1, n);
    free(versions);

    stk_text_unref(job.binaries);
    job.binaries = text("[{\"name\": \"app\", \"version\": 1}, {\"name\": \"alone\", \"version\": 4}]");
    submit(f, &job);
    assert_int_equal(0, stk_store_unused_versions(f->store, INT64_MAX, &stop, &versions, &n, NULL));
    assert_int_equal(1, n);
    assert_int_equal(second.version, versions[0]);
    free(versions);
    stop = true;
    assert_int_equal(0, stk_store_unused_versions(f->store, INT64_MAX, &stop, &versions, &n, NULL));
    assert_int_equal(0, n);
    free(versions);

    assert_int_equal(STK_CONFLICT, expire_version(f, first.version)); /* a live job runs with it */
    assert_int_equal(STK_CONFLICT, expire_version(f, third.version)); /* the newest */
    assert_int_equal(STK_CONFLICT, expire_version(f, alone.version));
    assert_int_equal(STK_OK, expire_version(f, second.version));
    assert_int_equal(STK_NOT_FOUND, expire_version(f, second.version));
    assert_true(exists(f, "blobs", digest_b)); /* the third has the same bytes */
    move(f, &job, STK_JOB_FINISHED);
    assert_int_equal(STK_OK, expire_version(f, first.version));
    assert_false(exists(f, "blobs", digest_a));
    assert_false(exists(f, "unpacked", digest_a));
    assert_int_equal(1, sql_number(f, "SELECT count(*) FROM events WHERE kind = 'binary.expired'"
                                      " AND data ->> 'version' = 1 AND data ->> 'name' = 'app'"));
    assert_int_equal(2, sql_number(f, "SELECT count(*) FROM binary_versions"));
    stk_job_row_done(&job);
}

/* An expiry shares its transaction; when that fails it is carried out again, and must count once. */
static void expiry_in_a_failed_transaction_counts_once(void **state)
{
    struct fixture *f = *state;
    struct stk_job_row old = ended_job(f), twin = new_job();
    struct stk_expiry e = { .before_us = INT64_MAX };
    struct answer a = { 0 }, b = { 0 };

    submit(f, &twin);
    hold_writer(f);
    assert_int_equal(0, stk_store_expire(f->store, &e, on_done, &a, NULL));
    assert_int_equal(0, stk_store_job_submitted(f->store, &twin, NULL, 0, on_done, &b, NULL));
    assert_true(stk_store_backlog(f->store) <= 2);
    let_writer_go(f);
    wait_for(f, &b);
    expect_done(f, &a);
    assert_int_equal(STK_INTERNAL, b.code);
    assert_int_equal(1, e.n_gone);
    assert_string_equal(old.id, e.gone[0].id);
    stk_job_row_done(&old);
    stk_job_row_done(&twin);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define TEST_CLOSED(name) cmocka_unit_test_setup_teardown(name, setup_closed, teardown)
    const struct CMUnitTest tests[] = {
        TEST(opens_and_reopens),
        TEST(newer_version_is_refused),
        TEST_CLOSED(foreign_database_is_refused),
        TEST(damaged_file_is_refused),
        TEST(impossible_state_is_damage),
        TEST_CLOSED(version_1_is_upgraded),
        TEST_CLOSED(version_2_is_upgraded),
        TEST_CLOSED(version_3_is_upgraded),
        TEST_CLOSED(version_4_is_upgraded),
        TEST_CLOSED(version_5_is_upgraded),
        TEST(deliveries_are_due_from_the_end_on),
        TEST(attempts_are_recorded_until_it_is_settled),
        TEST(what_is_too_old_is_given_up_without_an_attempt),
        TEST(job_is_kept_as_it_was_given),
        TEST(terms_and_receipts_are_kept),
        TEST(a_key_belongs_to_one_job),
        TEST(worker_can_be_taken_back),
        TEST(empty_and_missing_configs_read_as_an_object),
        TEST(unknown_things_are_not_found),
        TEST(lists_are_newest_first_and_filtered),
        TEST(every_transition_has_its_event),
        TEST(events_are_read_as_they_came),
        TEST(an_event_counts_when_it_is_committed),
        TEST(events_are_found_by_time),
        TEST(answers_come_in_order_after_the_commit),
        TEST(writes_are_grouped),
        TEST(bad_command_does_not_spoil_its_batch),
        TEST(full_queue_refuses_new_work_only),
        TEST(close_carries_out_what_is_queued),
        TEST(contexts_are_found_by_name),
        TEST(what_is_live_is_found_after_a_restart),
        TEST(versions_follow_each_other),
        TEST(bytes_stay_while_a_name_has_them),
        TEST(bytes_stay_while_a_job_needs_them),
        TEST(damaged_blob_is_replaced_by_an_upload),
        TEST(failed_upload_leaves_nothing),
        TEST(submit_with_a_deleted_version_is_refused),
        TEST(old_jobs_go),
        TEST(tags_come_and_go_with_their_job),
        TEST(many_old_jobs_go_in_steps),
        TEST(too_many_jobs_go),
        TEST(numbers_of_events_are_not_used_again),
        TEST(old_contexts_go),
        TEST(dropped_results_are_forgotten_by_ended_jobs),
        TEST(replaced_versions_go),
        TEST(expiry_in_a_failed_transaction_counts_once),
        TEST(open_sweeps_what_a_crash_left),
        TEST(readers_see_committed_rows_only),
        TEST_CLOSED(kill_minus_nine_loses_nothing_acknowledged),
        TEST_CLOSED(kill_minus_nine_keeps_rows_and_files_together),
        TEST_CLOSED(full_disk_is_survived),
        TEST(damage_ends_the_process),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
