/* What a scrape learns of the store. */
#include "internal.h"

#include <fcntl.h>
#include <sys/stat.h>

const struct stk_buckets stk_commit_times = {
    1000000, 13, { 100, 250, 500, 1000, 2500, 5000, 10000, 25000, 50000, 100000, 250000, 1000000, 5000000 }
};
const struct stk_buckets stk_batch_sizes = { 1, 10, { 1, 2, 4, 8, 16, 32, 64, 128, 256, 512 } };

/* -1: there is none just now. */
static int64_t file_bytes(const struct stk_store *s, const char *name)
{
    struct stat st;

    return fstatat(s->options.dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 ? (int64_t)st.st_size : -1;
}

void stk_store_metrics(struct stk_store *s, struct stk_metrics *m)
{
    uint64_t commits, commands;
    int64_t wal = file_bytes(s, STK_DATABASE "-wal");

    stk_store_counts(s, &commits, &commands);
    stk_metrics_one(m, "stoker_store_commits", STK_COUNTER, "Transactions that were committed.", (int64_t)commits);
    stk_metrics_one(m, "stoker_store_commands", STK_COUNTER, "Writes that were in them.", (int64_t)commands);
    stk_metrics_family(m, "stoker_store_commit_seconds", STK_HISTOGRAM,
                       "Time of a transaction from its begin until it is on the disk.");
    stk_metrics_histogram(m, NULL, &s->commit_us);
    stk_metrics_family(m, "stoker_store_batch_commands", STK_HISTOGRAM, "Writes that share a transaction.");
    stk_metrics_histogram(m, NULL, &s->batch);
    stk_metrics_one(m, "stoker_store_waiting_commands", STK_GAUGE, "Writes that wait for the writer.",
                    (int64_t)stk_store_backlog(s));
    stk_metrics_one(m, "stoker_store_wal_bytes", STK_GAUGE, "Size of the write-ahead log's file.", wal > 0 ? wal : 0);
    stk_metrics_one(m, "stoker_store_database_bytes", STK_GAUGE, "Size of the database's file.",
                    file_bytes(s, STK_DATABASE));
}
