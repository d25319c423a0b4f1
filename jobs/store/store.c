/* Opening and closing: the order matters and stands here in one place. */
#include "internal.h"

#include "stoker/log.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

static int open_database(struct stk_store *s, struct stk_err *err)
{
    stk_auto_buf path = { 0 };
    int fd;

    stk_buf_printf(&path, "%s/" STK_DATABASE, s->dir);
    if (path.failed)
        return stk_fail(err, STK_INTERNAL, "out of memory");
    /* Made here for its mode, which -wal and -shm then take over. */
    fd = openat(s->options.dir_fd, STK_DATABASE, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return stk_fail_sys(err, errno, "open %s", path.data);
    close(fd); /* before SQLite opens it: closing later would drop SQLite's locks */

    if (stk_wal_check(s, STK_DATABASE "-wal", STK_DATABASE "-shm", err) < 0)
        return -1;
    if (stk_db_open(&s->writer, path.data, STK_DB_WRITER, err) < 0 || stk_db_migrate(&s->writer, path.data, err) < 0 ||
        stk_home_check(s, err) < 0)
        return -1;
    if (stk_db_prepare(&s->writer, STK_DB_WRITER, err) < 0)
        goto failed;
    for (size_t i = 0; i < STK_STORE_READERS; i++) {
        struct stk_db *db = &s->readers[i];

        if (stk_db_open(db, path.data, STK_DB_READER, err) < 0)
            return -1;
        if (stk_db_prepare(db, STK_DB_READER, err) < 0)
            goto failed;
        db->next_free = s->readers_free;
        s->readers_free = db;
    }
    return 0;
failed:
    stk_err_prefix(err, "%s", path.data);
    return -1;
}

static void init_threads_state(struct stk_store *s)
{
    pthread_condattr_t monotonic;

    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&s->queue_lock, NULL);
    pthread_cond_init(&s->queue_cond, &monotonic);
    pthread_mutex_init(&s->readers_lock, NULL);
    pthread_cond_init(&s->readers_cond, &monotonic);
    pthread_mutex_init(&s->counts_lock, NULL);
    pthread_mutex_init(&s->trash_lock, NULL);
    pthread_mutex_init(&s->due_lock, NULL);
    pthread_cond_init(&s->trash_cond, &monotonic);
    pthread_condattr_destroy(&monotonic);
    s->last = &s->first;
    s->commit_us.buckets = &stk_commit_times;
    s->batch.buckets = &stk_batch_sizes;
}

struct stk_store *stk_store_open(const struct stk_store_options *options, struct stk_err *err)
{
    struct stk_store *s = calloc(1, sizeof *s);

    if (!s) {
        stk_fail(err, STK_INTERNAL, "out of memory");
        return NULL;
    }
    /* Memory statistics take a lock of the whole process at every allocation. Refused once SQLite is in use: fine. */
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
    s->options = *options;
    s->tmp_fd = s->blobs_fd = s->unpacked_fd = -1;
    init_threads_state(s);
    s->dir = strdup(options->dir);
    if (!s->dir) {
        stk_fail(err, STK_INTERNAL, "out of memory");
        goto failed;
    }
    if (stk_files_open(s, err) < 0 || open_database(s, err) < 0)
        goto failed;
    if (stk_events_begin(s, err) < 0 || stk_deliveries_begin(s, err) < 0 || stk_files_sweep(s, err) < 0 ||
        stk_files_trash_start(s, err) < 0 || stk_writer_start(s, err) < 0)
        goto failed;
    return s;
failed:
    stk_store_close(s);
    return NULL;
}

void stk_store_close(struct stk_store *s)
{
    stk_writer_stop(s);
    stk_files_trash_stop(s);
    for (size_t i = 0; i < STK_STORE_READERS; i++)
        stk_db_close(&s->readers[i]);
    stk_db_close(&s->writer); /* the last one: checkpoints and removes the WAL */
    stk_files_close(s);
    pthread_mutex_destroy(&s->queue_lock);
    pthread_cond_destroy(&s->queue_cond);
    pthread_mutex_destroy(&s->readers_lock);
    pthread_mutex_destroy(&s->counts_lock);
    pthread_cond_destroy(&s->readers_cond);
    pthread_mutex_destroy(&s->trash_lock);
    pthread_mutex_destroy(&s->due_lock);
    pthread_cond_destroy(&s->trash_cond);
    free(s->dir);
    free(s);
}

void stk_store_counts(struct stk_store *s, uint64_t *ret_commits, uint64_t *ret_commands)
{
    *ret_commits = atomic_load_explicit(&s->commits, memory_order_acquire);
    *ret_commands = atomic_load_explicit(&s->commands, memory_order_relaxed);
}
