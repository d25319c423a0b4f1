/*
 * The writer thread: takes what is queued, carries it out in one transaction, answers all of it with one post.
 *
 * While it waits for the disk the queue fills with the next batch, so the batch grows with the load by itself and one
 * client alone waits for nobody.
 */
#include "internal.h"

#include "stoker/clock.h"
#include "stoker/log.h"

#include <stdio.h>
#include <string.h>

enum {
    BATCH_MAX = 512, /* commands in a transaction: bounds what a failure does twice and how late an answer can be */
    IDLE_MS = 500,   /* nothing queued for so long: a good moment for a checkpoint */
    /*
     * Pages (4 KiB) in the WAL that call for a checkpoint under load. It holds up commits for 5 to 25 ms, so it is to be rare:
     * at 1000 pages one job in a hundred met one, here one in four hundred, and a fifth more jobs pass in a second.
     */
    WAL_PAGES = 4000,
    /*
     * Readers that follow each other without a gap can keep the WAL from starting over. At this size the writer waits for
     * them: they finish within a query, and new ones do not need the WAL once it was copied.
     */
    WAL_PAGES_MAX = 2 * WAL_PAGES,
    RESTART_WAIT_MS = 50,
};

struct batch {
    struct stk_cmd *first;
    size_t n;
};

/* ---- queue */

/* Caller holds queue_lock. */
static void release(struct stk_store *s)
{
    s->released = s->queued;
    pthread_cond_signal(&s->queue_cond);
}

int stk_writer_queue_take(struct stk_store *s, struct stk_cmd *cmd, bool new_work, struct stk_err *err)
{
    cmd->next = NULL;
    pthread_mutex_lock(&s->queue_lock);
    if (new_work && s->queued >= s->options.queue_max) {
        pthread_mutex_unlock(&s->queue_lock);
        stk_cmd_free(cmd);
        return stk_fail(err, STK_LIMIT, "the store is busy: %zu writes are waiting", s->options.queue_max);
    }
    cmd->at_us = stk_wall_us();
    if (cmd->at_us < s->last_at_us) /* somebody has put the clock back: events are found by their time, which rises */
        cmd->at_us = s->last_at_us;
    s->last_at_us = cmd->at_us;
    *s->last = cmd;
    s->last = &cmd->next;
    s->queued++;
    if (!s->options.gather)
        release(s);
    pthread_mutex_unlock(&s->queue_lock);
    return 0;
}

size_t stk_store_backlog(struct stk_store *s)
{
    size_t n;

    pthread_mutex_lock(&s->queue_lock);
    n = s->queued;
    pthread_mutex_unlock(&s->queue_lock);
    return n;
}

void stk_store_flush(struct stk_store *s)
{
    pthread_mutex_lock(&s->queue_lock);
    if (s->released < s->queued)
        release(s);
    pthread_mutex_unlock(&s->queue_lock);
}

/* Cuts the next batch off the queue; a command with a finish step is a batch of its own. Caller holds queue_lock. */
static struct batch cut_batch(struct stk_store *s)
{
    struct batch b = { .first = s->first };
    struct stk_cmd *end = s->first;

    for (b.n = 1; b.n < BATCH_MAX && b.n < s->released && !end->finish && !end->next->finish; b.n++)
        end = end->next;
    s->first = end->next;
    end->next = NULL;
    if (!s->first)
        s->last = &s->first;
    s->queued -= b.n;
    s->released -= b.n;
    return b;
}

static void checkpoint(struct stk_store *s);
static void retry_kept(struct stk_store *s);

/* Waits for work; n 0: stopping, and nothing is left. */
static struct batch next_batch(struct stk_store *s)
{
    struct batch b = { 0 };

    pthread_mutex_lock(&s->queue_lock);
    while (!s->released && !s->stopping) {
        if (s->wal_pages == s->wal_safe && !s->kept) {
            pthread_cond_wait(&s->queue_cond, &s->queue_lock);
            continue;
        }
        struct timespec deadline = stk_mono_deadline(IDLE_MS);

        if (pthread_cond_timedwait(&s->queue_cond, &s->queue_lock, &deadline) != 0 && !s->released && !s->stopping) {
            pthread_mutex_unlock(&s->queue_lock);
            retry_kept(s);
            if (s->wal_pages != s->wal_safe)
                checkpoint(s);
            pthread_mutex_lock(&s->queue_lock);
        }
    }
    if (s->released)
        b = cut_batch(s);
    pthread_mutex_unlock(&s->queue_lock);
    return b;
}

/* ---- transactions */

static void begin(struct stk_store *s)
{
    while (stk_db_run(&s->writer, stk_db_use(&s->writer, STK_SQL_BEGIN)) < 0) {
        if (stk_db_trouble(&s->writer) != STK_DB_BUSY)
            stk_db_fatal(&s->writer, "begin");
        stk_warn("store", "another program holds the database's lock, waiting");
    }
}

static void rollback(struct stk_store *s)
{
    /* Some failures have rolled back already. */
    if (!sqlite3_get_autocommit(s->writer.sqlite) &&
        stk_db_run(&s->writer, stk_db_use(&s->writer, STK_SQL_ROLLBACK)) < 0)
        stk_db_fatal(&s->writer, "rollback");
}

/*
 * One transaction for the chain. 0: committed, the commands that were refused say so. -1: nothing was kept, *ret_trouble
 * and err say why; the database's failures that nobody can answer do not return.
 */
static int transact(struct stk_store *s, struct stk_cmd *first, enum stk_db_trouble *ret_trouble, struct stk_err *err)
{
    int64_t began_us = stk_mono_us();

    begin(s);
    s->written_event = 0;
    s->written_due = false;
    for (struct stk_cmd *cmd = first; cmd; cmd = cmd->next) {
        enum stk_cmd_result result = cmd->run(s, cmd, &cmd->err);

        cmd->failed = result == STK_CMD_REFUSED;
        if (result == STK_CMD_FAILED)
            goto failed;
    }
    if (stk_db_run(&s->writer, stk_db_use(&s->writer, STK_SQL_COMMIT)) == 0) {
        if (s->written_event)
            atomic_store_explicit(&s->newest_event, s->written_event, memory_order_release);
        stk_histogram_observe(&s->commit_us, stk_mono_us() - began_us);
        if (s->written_due)
            stk_deliveries_committed(s);
        return 0;
    }
failed:
    *ret_trouble = stk_db_trouble(&s->writer);
    if (*ret_trouble == STK_DB_BROKEN)
        stk_db_fatal(&s->writer, "write");
    stk_db_fail(&s->writer, err, "write");
    rollback(s);
    return -1;
}

static void count(struct stk_store *s, size_t commands)
{
    stk_histogram_observe(&s->batch, (int64_t)commands);
    atomic_fetch_add_explicit(&s->commands, commands, memory_order_relaxed);
    atomic_fetch_add_explicit(&s->commits, 1, memory_order_release); /* before anybody is told of it */
}

static void run_alone(struct stk_store *s, struct stk_cmd *cmd)
{
    struct stk_cmd *next = stk_steal_ptr(&cmd->next);
    enum stk_db_trouble trouble;
    struct stk_err err;

    if (transact(s, cmd, &trouble, &err) < 0) {
        cmd->failed = true;
        cmd->err = err;
    } else {
        count(s, 1);
    }
    if (cmd->finish)
        cmd->finish(s, cmd, !cmd->failed);
    cmd->next = next;
}

/* The commands of a transaction that failed, each for itself: what is small or in order may still pass. */
static void run_batch(struct stk_store *s, struct batch b)
{
    enum stk_db_trouble trouble;
    struct stk_err err;

    if (b.n == 1) {
        run_alone(s, b.first);
        return;
    }
    if (transact(s, b.first, &trouble, &err) == 0) {
        count(s, b.n);
        return;
    }
    for (struct stk_cmd *cmd = b.first; cmd; cmd = cmd->next)
        run_alone(s, cmd);
}

/* ---- answers */

static void answer(struct stk_task *task)
{
    struct stk_cmd *cmd = (struct stk_cmd *)task; /* its first member */

    cmd->done(cmd->arg, cmd->failed ? &cmd->err : NULL);
    stk_cmd_free(cmd);
}

static void post_answers(struct stk_store *s, struct stk_cmd *cmd)
{
    struct stk_task *first = NULL, **last = &first;
    struct stk_cmd *next;

    for (; cmd; cmd = next) {
        next = cmd->next;
        if (!cmd->done && cmd->failed && cmd->keep) {
            cmd->next = NULL;
            *s->last_kept = cmd;
            s->last_kept = &cmd->next;
            continue;
        }
        if (!cmd->done) {
            if (cmd->failed) /* nobody else hears of it */
                stk_error("store", "write failed", "reason", cmd->err.msg);
            stk_cmd_free(cmd);
            continue;
        }
        cmd->task = (struct stk_task){ .run = answer };
        *last = &cmd->task;
        last = &cmd->task.next;
    }
    if (first)
        s->options.post(s->options.post_to, first);
}

/* What a full disk has refused. Before what comes next, for of one process the newest row counts. */
static void retry_kept(struct stk_store *s)
{
    struct batch b = { .first = s->kept };

    if (!b.first)
        return;
    for (struct stk_cmd *cmd = b.first; cmd; cmd = cmd->next)
        b.n++;
    s->kept = NULL;
    s->last_kept = &s->kept;
    run_batch(s, b);
    post_answers(s, b.first);
    if (!s->kept)
        stk_info("store", "rows of processes are written after all");
}

static void drop_kept(struct stk_store *s)
{
    struct stk_cmd *next;

    for (struct stk_cmd *cmd = s->kept; cmd; cmd = next) {
        next = cmd->next;
        stk_error("store", "write failed", "reason", cmd->err.msg);
        stk_cmd_free(cmd);
    }
    s->kept = NULL;
}

/* ---- checkpoints */

static int on_commit(void *arg, sqlite3 *sqlite, const char *schema, int pages)
{
    struct stk_store *s = arg;

    (void)sqlite;
    (void)schema;
    s->wal_pages = (unsigned)pages;
    if (s->wal_pages < s->wal_safe) /* the WAL started over */
        s->wal_safe = 0;
    return SQLITE_OK;
}

static void checkpoint(struct stk_store *s)
{
    int mode = s->wal_pages > WAL_PAGES_MAX ? SQLITE_CHECKPOINT_RESTART : SQLITE_CHECKPOINT_PASSIVE;
    int pages = -1, copied = -1, rc;

    sqlite3_busy_timeout(s->writer.sqlite, RESTART_WAIT_MS);
    rc = sqlite3_wal_checkpoint_v2(s->writer.sqlite, NULL, mode, &pages, &copied);
    s->writer.bind_rc = SQLITE_OK;
    if (rc != SQLITE_OK && (rc & 0xff) != SQLITE_BUSY) {
        struct stk_err err;

        if (stk_db_trouble(&s->writer) == STK_DB_BROKEN)
            stk_db_fatal(&s->writer, "checkpoint");
        stk_db_fail(&s->writer, &err, "checkpoint"); /* the WAL keeps everything: tried again later */
        stk_warn("store", "checkpoint failed", "reason", err.msg);
    }
    sqlite3_busy_timeout(s->writer.sqlite, STK_DB_BUSY_MS);
    /* Counted as done even when a reader was in the way: the next attempt comes after as many pages again. */
    s->wal_safe = s->wal_pages;
}

/* ---- the thread */

static void *writer_main(void *arg)
{
    struct stk_store *s = arg;
    struct batch b;

    while ((b = next_batch(s)).n) {
        retry_kept(s);
        run_batch(s, b);
        post_answers(s, b.first);
        if (s->wal_pages - s->wal_safe > WAL_PAGES)
            checkpoint(s);
    }
    retry_kept(s);
    drop_kept(s);
    return NULL;
}

int stk_writer_start(struct stk_store *s, struct stk_err *err)
{
    int rc;

    s->last_kept = &s->kept;
    sqlite3_wal_hook(s->writer.sqlite, on_commit, s);
    rc = pthread_create(&s->writer_thread, NULL, writer_main, s);
    if (rc != 0)
        return stk_fail_sys(err, rc, "start the store's writer");
    pthread_setname_np(s->writer_thread, "store-writer");
    s->writer_runs = true;
    return 0;
}

void stk_writer_stop(struct stk_store *s)
{
    if (!s->writer_runs)
        return;
    pthread_mutex_lock(&s->queue_lock);
    s->stopping = true;
    release(s);
    pthread_mutex_unlock(&s->queue_lock);
    pthread_join(s->writer_thread, NULL);
    s->writer_runs = false;
}
