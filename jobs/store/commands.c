/* The commands: each is copied into a stk_cmd by its public function and carried out later by its run_ function. */
#include "internal.h"

#include "stoker/log.h"

#include <stdio.h>
#include <string.h>

/* ---- a command's life */

struct stk_cmd *stk_cmd_new(stk_store_done_fn *done, void *arg, size_t n_versions, struct stk_err *err)
{
    struct stk_cmd *cmd = NULL;
    size_t size;

    if (!__builtin_mul_overflow(n_versions, sizeof *cmd->versions, &size) &&
        !__builtin_add_overflow(size, sizeof *cmd, &size))
        cmd = calloc(1, size);
    if (!cmd) {
        stk_fail(err, STK_INTERNAL, "out of memory");
        return NULL;
    }
    cmd->done = done;
    cmd->arg = arg;
    cmd->n_versions = n_versions;
    return cmd;
}

void stk_cmd_free(struct stk_cmd *cmd)
{
    if (cmd->release)
        cmd->release(cmd);
    free(cmd);
}

static void copy_id(char *to, const char *from, size_t size)
{
    memcpy(to, from, strnlen(from, size - 1)); /* the rest of a new command is zero */
}

int stk_event_write(struct stk_store *s, const struct stk_cmd *cmd, const struct stk_event *event)
{
    struct stk_db *db = &s->writer;
    sqlite3_stmt *stmt = stk_db_use(db, STK_SQL_EVENT_INSERT);

    stk_db_bind_int(db, stmt, 1, cmd->at_us);
    stk_db_bind_str(db, stmt, 2, event->kind);
    stk_db_bind_str(db, stmt, 3, event->context_id);
    stk_db_bind_str(db, stmt, 4, event->job_id);
    if (event->state >= 0)
        stk_db_bind_int(db, stmt, 5, event->state);
    stk_db_bind_text(db, stmt, 6, event->data);
    stk_db_bind_text(db, stmt, 7, event->context_name);
    stk_db_bind_some(db, stmt, 8, event->attempt);
    return stk_event_run(s, stmt) < 0 ? -1 : 0;
}

int stk_event_run(struct stk_store *s, sqlite3_stmt *stmt)
{
    sqlite3 *sqlite = s->writer.sqlite;

    if (stk_db_run(&s->writer, stmt) < 0)
        return -1;
    if (sqlite3_changes(sqlite) == 0)
        return 0;
    s->written_event = sqlite3_last_insert_rowid(sqlite);
    return 1;
}

/* ---- jobs */

static void release_job(struct stk_cmd *cmd)
{
    stk_job_row_done(&cmd->job);
}

static struct stk_cmd *job_cmd(const struct stk_job_row *row, size_t n_versions, stk_store_done_fn *done, void *arg,
                               struct stk_err *err)
{
    struct stk_cmd *cmd = stk_cmd_new(done, arg, n_versions, err);

    if (!cmd)
        return NULL;
    stk_job_row_copy(&cmd->job, row);
    cmd->release = release_job;
    return cmd;
}

/* 1: all versions of a submit are there, 0: one was deleted, -1: SQLite failed. */
static int versions_exist(struct stk_db *db, const struct stk_cmd *cmd)
{
    for (size_t i = 0; i < cmd->n_versions; i++) {
        sqlite3_stmt *stmt = stk_db_use(db, STK_SQL_VERSION_EXISTS);
        int found;

        stk_db_bind_int(db, stmt, 1, cmd->versions[i]);
        found = stk_db_step(db, stmt);
        stk_db_done(stmt);
        if (found != 1)
            return found;
    }
    return 1;
}

static int insert_config(struct stk_db *db, const struct stk_text *config)
{
    sqlite3_stmt *stmt;

    if (!config || (stk_text_len(config) == 2 && memcmp(stk_text_data(config), "{}", 2) == 0))
        return 0; /* most jobs have none: their row says so by its absence */
    stmt = stk_db_use(db, STK_SQL_JOB_CONFIG_INSERT);
    stk_db_bind_int(db, stmt, 1, sqlite3_last_insert_rowid(db->sqlite));
    stk_db_bind_text(db, stmt, 2, config);
    return stk_db_run(db, stmt);
}

/* 1: a job has this key already, 0: none, -1: SQLite failed. */
static int key_is_used(struct stk_db *db, const struct stk_text *key)
{
    sqlite3_stmt *stmt;
    int found;

    if (!key)
        return 0;
    stmt = stk_db_use(db, STK_SQL_JOB_KEY_USED);
    stk_db_bind_text(db, stmt, 1, key);
    found = stk_db_step(db, stmt);
    stk_db_done(stmt);
    return found;
}

static enum stk_cmd_result run_job_submitted(struct stk_store *s, struct stk_cmd *cmd, struct stk_err *err)
{
    struct stk_db *db = &s->writer;
    const struct stk_job_row *row = &cmd->job;
    sqlite3_stmt *stmt;
    int64_t seq;

    switch (versions_exist(db, cmd)) {
    case 1: break;
    case 0:
        stk_fail(err, STK_NOT_FOUND, "appName %s not found", row->app ? stk_text_data(row->app) : "");
        return STK_CMD_REFUSED;
    default: return STK_CMD_FAILED;
    }
    switch (key_is_used(db, row->idempotency_key)) {
    case 0: break;
    case 1: stk_fail(err, STK_CONFLICT, "the idempotency key is used already"); return STK_CMD_REFUSED;
    default: return STK_CMD_FAILED;
    }
    stmt = stk_db_use(db, STK_SQL_JOB_INSERT);
    stk_db_bind_str(db, stmt, 1 + STK_JOB_COL_ID, row->id);
    stk_db_bind_str(db, stmt, 1 + STK_JOB_COL_CONTEXT_ID, row->context_id);
    stk_db_bind_text(db, stmt, 1 + STK_JOB_COL_CONTEXT_NAME, row->context_name);
    stk_db_bind_text(db, stmt, 1 + STK_JOB_COL_APP, row->app);
    stk_db_bind_text(db, stmt, 1 + STK_JOB_COL_CLASS_PATH, row->class_path);
    stk_db_bind_text(db, stmt, 1 + STK_JOB_COL_SET, row->set);
    stk_db_bind_text(db, stmt, 1 + STK_JOB_COL_BINARIES, row->binaries);
    stk_db_bind_int(db, stmt, 1 + STK_JOB_COL_STATE, row->state);
    stk_db_bind_int(db, stmt, 1 + STK_JOB_COL_ATTEMPT, row->attempt);
    stk_db_bind_int(db, stmt, 1 + STK_JOB_COL_SUBMITTED, row->submitted_us);
    stk_db_bind_some(db, stmt, 1 + STK_JOB_COL_STARTED, row->started_us);
    stk_db_bind_some(db, stmt, 1 + STK_JOB_COL_ENDED, row->ended_us);
    stk_db_bind_str(db, stmt, 1 + STK_JOB_COL_PROCESS, row->worker.process);
    stk_db_bind_some(db, stmt, 1 + STK_JOB_COL_PID, row->worker.pid);
    stk_db_bind_some(db, stmt, 1 + STK_JOB_COL_START_TIME, (int64_t)row->worker.start_time);
    stk_db_bind_str(db, stmt, 1 + STK_JOB_COL_BOOT, row->worker.boot_id);
    stk_db_bind_some(db, stmt, 1 + STK_JOB_COL_RESULT_BYTES, row->result_bytes);
    stk_db_bind_text(db, stmt, 1 + STK_JOB_COL_RESULT_FILE, row->result_file);
    stk_db_bind_text(db, stmt, 1 + STK_JOB_COL_TAGS, row->tags);
    stk_db_bind_text(db, stmt, 1 + STK_JOB_COL_USER, row->user);
    stk_db_bind_text(db, stmt, 1 + STK_JOB_COL_ERROR, row->error);
    stk_db_bind_some(db, stmt, 1 + STK_JOB_COL_PRIORITY, row->terms.priority);
    stk_db_bind_some(db, stmt, 1 + STK_JOB_COL_QUEUE_TIMEOUT, row->terms.queue_timeout_ms);
    stk_db_bind_some(db, stmt, 1 + STK_JOB_COL_RUN_TIMEOUT, row->terms.run_timeout_ms);
    stk_db_bind_some(db, stmt, 1 + STK_JOB_COL_MAX_MEMORY, row->terms.max_memory);
    stk_db_bind_some(db, stmt, 1 + STK_JOB_COL_ISOLATED, row->terms.isolated);
    stk_db_bind_text(db, stmt, 1 + STK_JOB_COL_RESULT, row->result);
    stk_db_bind_text(db, stmt, 1 + STK_JOB_COL_RECEIPT, row->receipt);
    stk_db_bind_text(db, stmt, 1 + STK_JOB_COL_KEY, row->idempotency_key);
    stk_db_bind_text(db, stmt, 1 + STK_JOB_COL_FINGERPRINT, row->fingerprint);
    if (stk_db_run(db, stmt) < 0)
        return STK_CMD_FAILED;
    seq = sqlite3_last_insert_rowid(db->sqlite);
    if (insert_config(db, row->config) < 0 || (row->webhook && stk_delivery_insert(s, seq, row->webhook) < 0) ||
        stk_event_write(s, cmd,
                        &(struct stk_event){ .kind = "job.submitted",
                                             .context_id = row->context_id,
                                             .job_id = row->id,
                                             .state = (int)row->state,
                                             .context_name = row->context_name,
                                             .attempt = row->attempt }) < 0)
        return STK_CMD_FAILED;
    return STK_CMD_DONE;
}

int stk_store_job_submitted(struct stk_store *s, const struct stk_job_row *row, const int64_t *versions,
                            size_t n_versions, stk_store_done_fn *done, void *arg, struct stk_err *err)
{
    struct stk_cmd *cmd = job_cmd(row, n_versions, done, arg, err);

    if (!cmd)
        return -1;
    if (n_versions)
        memcpy(cmd->versions, versions, n_versions * sizeof *versions);
    cmd->run = run_job_submitted;
    return stk_writer_queue_take(s, cmd, true, err);
}

static int insert_tags(struct stk_db *db, const struct stk_job_row *row)
{
    sqlite3_stmt *stmt;

    if (!row->tags || !stk_job_is_final(row->state))
        return 0;
    stmt = stk_db_use(db, STK_SQL_JOB_TAGS_INSERT);
    stk_db_bind_str(db, stmt, 1, row->id);
    return stk_db_run(db, stmt);
}

/* Before the row changes: what it says so far is where the job comes from. */
static int job_moved_event(struct stk_store *s, const struct stk_cmd *cmd)
{
    struct stk_db *db = &s->writer;
    sqlite3_stmt *stmt = stk_db_use(db, STK_SQL_JOB_MOVE_EVENT_INSERT);

    stk_db_bind_int(db, stmt, 1, cmd->at_us);
    stk_db_bind_str(db, stmt, 2, "job.moved");
    stk_db_bind_str(db, stmt, 3, cmd->job.id);
    stk_db_bind_int(db, stmt, 4, cmd->job.state);
    stk_db_bind_text(db, stmt, 5, cmd->job.error);
    stk_db_bind_some(db, stmt, 6, cmd->job.attempt);
    return stk_event_run(s, stmt);
}

static enum stk_cmd_result run_job_moved(struct stk_store *s, struct stk_cmd *cmd, struct stk_err *err)
{
    struct stk_db *db = &s->writer;
    const struct stk_job_row *row = &cmd->job;
    sqlite3_stmt *stmt;

    switch (job_moved_event(s, cmd)) {
    case 1: break;
    case 0: stk_fail(err, STK_NOT_FOUND, "job %s not found", row->id); return STK_CMD_REFUSED;
    default: return STK_CMD_FAILED;
    }
    if (stk_job_is_final(row->state) && stk_deliveries_due(s, cmd) < 0)
        return STK_CMD_FAILED;
    stmt = stk_db_use(db, STK_SQL_JOB_UPDATE);
    stk_db_bind_str(db, stmt, 1, row->id);
    stk_db_bind_int(db, stmt, 2, row->state);
    stk_db_bind_int(db, stmt, 3, row->attempt);
    stk_db_bind_some(db, stmt, 4, row->started_us);
    stk_db_bind_some(db, stmt, 5, row->ended_us);
    stk_db_bind_str(db, stmt, 6, row->worker.process);
    stk_db_bind_some(db, stmt, 7, row->worker.pid);
    stk_db_bind_some(db, stmt, 8, (int64_t)row->worker.start_time);
    stk_db_bind_str(db, stmt, 9, row->worker.boot_id);
    stk_db_bind_some(db, stmt, 10, row->result_bytes);
    stk_db_bind_text(db, stmt, 11, row->result_file);
    stk_db_bind_text(db, stmt, 12, row->error);
    stk_db_bind_text(db, stmt, 13, row->result);
    stk_db_bind_text(db, stmt, 14, row->receipt);
    stk_db_bind_some(db, stmt, 15, row->output_bytes[0]);
    stk_db_bind_some(db, stmt, 16, row->output_bytes[1]);
    return stk_db_run(db, stmt) < 0 || insert_tags(db, row) < 0 ? STK_CMD_FAILED : STK_CMD_DONE;
}

int stk_store_job_moved(struct stk_store *s, const struct stk_job_row *row, stk_store_done_fn *done, void *arg,
                        struct stk_err *err)
{
    struct stk_cmd *cmd = job_cmd(row, 0, done, arg, err);

    if (!cmd)
        return -1;
    cmd->run = run_job_moved;
    return stk_writer_queue_take(s, cmd, false, err);
}

/* ---- contexts */

static void release_context(struct stk_cmd *cmd)
{
    stk_context_row_done(&cmd->context);
}

static struct stk_cmd *context_cmd(const struct stk_context_row *row, stk_store_done_fn *done, void *arg,
                                   struct stk_err *err)
{
    struct stk_cmd *cmd = stk_cmd_new(done, arg, 0, err);

    if (!cmd)
        return NULL;
    stk_context_row_copy(&cmd->context, row);
    cmd->release = release_context;
    return cmd;
}

/* The same of a context that is stored already. */
static int context_moved_event(struct stk_store *s, const struct stk_cmd *cmd, const char *kind)
{
    struct stk_db *db = &s->writer;
    sqlite3_stmt *stmt = stk_db_use(db, STK_SQL_CONTEXT_MOVE_EVENT_INSERT);

    stk_db_bind_int(db, stmt, 1, cmd->at_us);
    stk_db_bind_str(db, stmt, 2, kind);
    stk_db_bind_str(db, stmt, 3, cmd->context.id);
    stk_db_bind_int(db, stmt, 4, cmd->context.state);
    stk_db_bind_text(db, stmt, 5, cmd->context.error);
    return stk_event_run(s, stmt);
}

static enum stk_cmd_result run_context_created(struct stk_store *s, struct stk_cmd *cmd, struct stk_err *err)
{
    struct stk_db *db = &s->writer;
    const struct stk_context_row *row = &cmd->context;
    sqlite3_stmt *stmt = stk_db_use(db, STK_SQL_CONTEXT_INSERT);

    (void)err;
    stk_db_bind_str(db, stmt, 1 + STK_CONTEXT_COL_ID, row->id);
    stk_db_bind_text(db, stmt, 1 + STK_CONTEXT_COL_NAME, row->name);
    stk_db_bind_int(db, stmt, 1 + STK_CONTEXT_COL_STATE, row->state);
    stk_db_bind_int(db, stmt, 1 + STK_CONTEXT_COL_MAX_JOBS, row->max_jobs);
    stk_db_bind_int(db, stmt, 1 + STK_CONTEXT_COL_STARTED, row->started_us);
    stk_db_bind_some(db, stmt, 1 + STK_CONTEXT_COL_ENDED, row->ended_us);
    stk_db_bind_text(db, stmt, 1 + STK_CONTEXT_COL_APPLICATION_ID, row->application_id);
    stk_db_bind_text(db, stmt, 1 + STK_CONTEXT_COL_UI_URL, row->ui_url);
    stk_db_bind_text(db, stmt, 1 + STK_CONTEXT_COL_ERROR, row->error);
    stk_db_bind_text(db, stmt, 1 + STK_CONTEXT_COL_SPEC, row->spec);
    if (stk_db_run(db, stmt) < 0 || stk_event_write(s, cmd,
                                                    &(struct stk_event){ .kind = "context.created",
                                                                         .context_id = row->id,
                                                                         .state = (int)row->state,
                                                                         .data = row->error,
                                                                         .context_name = row->name }) < 0)
        return STK_CMD_FAILED;
    return STK_CMD_DONE;
}

int stk_store_context_created(struct stk_store *s, const struct stk_context_row *row, stk_store_done_fn *done,
                              void *arg, struct stk_err *err)
{
    struct stk_cmd *cmd = context_cmd(row, done, arg, err);

    if (!cmd)
        return -1;
    cmd->run = run_context_created;
    return stk_writer_queue_take(s, cmd, true, err);
}

static enum stk_cmd_result run_context_taken(struct stk_store *s, struct stk_cmd *cmd, struct stk_err *err)
{
    struct stk_db *db = &s->writer;
    const struct stk_context_row *row = &cmd->context;
    sqlite3_stmt *stmt = stk_db_use(db, STK_SQL_CONTEXT_TAKE);

    (void)err;
    stk_db_bind_str(db, stmt, 1, row->id);
    stk_db_bind_text(db, stmt, 2, row->name);
    stk_db_bind_int(db, stmt, 3, row->max_jobs);
    stk_db_bind_int(db, stmt, 4, row->started_us);
    stk_db_bind_text(db, stmt, 5, row->spec);
    if (stk_db_run(db, stmt) < 0 || context_moved_event(s, cmd, "context.created") < 0) /* now by its name */
        return STK_CMD_FAILED;
    return STK_CMD_DONE;
}

int stk_store_context_taken(struct stk_store *s, const struct stk_context_row *row, stk_store_done_fn *done, void *arg,
                            struct stk_err *err)
{
    struct stk_cmd *cmd = context_cmd(row, done, arg, err);

    if (!cmd)
        return -1;
    cmd->run = run_context_taken;
    return stk_writer_queue_take(s, cmd, true, err);
}

static enum stk_cmd_result run_context_moved(struct stk_store *s, struct stk_cmd *cmd, struct stk_err *err)
{
    struct stk_db *db = &s->writer;
    const struct stk_context_row *row = &cmd->context;
    sqlite3_stmt *stmt;

    switch (context_moved_event(s, cmd, "context.moved")) {
    case 1: break;
    case 0: stk_fail(err, STK_NOT_FOUND, "context %s not found", row->id); return STK_CMD_REFUSED;
    default: return STK_CMD_FAILED;
    }
    stmt = stk_db_use(db, STK_SQL_CONTEXT_UPDATE);
    stk_db_bind_str(db, stmt, 1, row->id);
    stk_db_bind_int(db, stmt, 2, row->state);
    stk_db_bind_int(db, stmt, 3, row->max_jobs);
    stk_db_bind_int(db, stmt, 4, row->started_us);
    stk_db_bind_some(db, stmt, 5, row->ended_us);
    stk_db_bind_text(db, stmt, 6, row->application_id);
    stk_db_bind_text(db, stmt, 7, row->ui_url);
    stk_db_bind_text(db, stmt, 8, row->error);
    return stk_db_run(db, stmt) < 0 ? STK_CMD_FAILED : STK_CMD_DONE;
}

int stk_store_context_moved(struct stk_store *s, const struct stk_context_row *row, stk_store_done_fn *done, void *arg,
                            struct stk_err *err)
{
    struct stk_cmd *cmd = context_cmd(row, done, arg, err);

    if (!cmd)
        return -1;
    cmd->run = run_context_moved;
    return stk_writer_queue_take(s, cmd, false, err);
}

/* ---- processes */

static enum stk_cmd_result run_process_started(struct stk_store *s, struct stk_cmd *cmd, struct stk_err *err)
{
    struct stk_db *db = &s->writer;
    sqlite3_stmt *stmt = stk_db_use(db, STK_SQL_PROCESS_INSERT);

    (void)err;
    stk_db_bind_str(db, stmt, 1, cmd->process.context_id);
    stk_db_bind_str(db, stmt, 2, cmd->process.id.process);
    stk_db_bind_str(db, stmt, 3, cmd->process.role);
    stk_db_bind_int(db, stmt, 4, cmd->process.id.pid);
    stk_db_bind_int(db, stmt, 5, (int64_t)cmd->process.id.start_time);
    stk_db_bind_str(db, stmt, 6, cmd->process.id.boot_id);
    return stk_db_run(db, stmt) < 0 ? STK_CMD_FAILED : STK_CMD_DONE;
}

int stk_store_process_started(struct stk_store *s, const char *context_id, const char *role,
                              const struct stk_process_id *process, struct stk_err *err)
{
    struct stk_cmd *cmd = stk_cmd_new(NULL, NULL, 0, err);

    if (!cmd)
        return -1;
    copy_id(cmd->process.context_id, context_id, sizeof cmd->process.context_id);
    copy_id(cmd->process.role, role, sizeof cmd->process.role);
    cmd->process.id = *process;
    cmd->run = run_process_started;
    cmd->keep = true;
    return stk_writer_queue_take(s, cmd, false, err);
}

static enum stk_cmd_result run_process_ended(struct stk_store *s, struct stk_cmd *cmd, struct stk_err *err)
{
    struct stk_db *db = &s->writer;
    sqlite3_stmt *stmt = stk_db_use(db, STK_SQL_PROCESS_DELETE);

    (void)err;
    stk_db_bind_str(db, stmt, 1, cmd->process.context_id);
    stk_db_bind_str(db, stmt, 2, cmd->process.id.process);
    return stk_db_run(db, stmt) < 0 ? STK_CMD_FAILED : STK_CMD_DONE;
}

int stk_store_process_ended(struct stk_store *s, const char *context_id, const char *process, struct stk_err *err)
{
    struct stk_cmd *cmd = stk_cmd_new(NULL, NULL, 0, err);

    if (!cmd)
        return -1;
    copy_id(cmd->process.context_id, context_id, sizeof cmd->process.context_id);
    copy_id(cmd->process.id.process, process, sizeof cmd->process.id.process);
    cmd->run = run_process_ended;
    cmd->keep = true;
    return stk_writer_queue_take(s, cmd, false, err);
}
