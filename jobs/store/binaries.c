/* Commands about binaries. Each is a transaction of its own, since it moves files as well (see blobs.c for the order). */
#include "internal.h"

#include "stoker/clock.h"

#include <stdio.h>
#include <string.h>

static void release_binary(struct stk_cmd *cmd)
{
    stk_binary_row_done(&cmd->binary.copy);
    free(cmd->binary.blob_tmp);
    free(cmd->binary.unpacked_tmp);
    free(cmd->binary.digests);
}

/* data: {"name": ..., "version": ..., "digest": ...}, built by SQLite, which escapes what it puts in. */
static int binary_event(struct stk_store *s, const struct stk_cmd *cmd, const char *kind)
{
    struct stk_db *db = &s->writer;
    const struct stk_binary_row *row = &cmd->binary.copy;
    sqlite3_stmt *stmt = stk_db_use(db, STK_SQL_BINARY_EVENT_INSERT);

    stk_db_bind_int(db, stmt, 1, cmd->at_us);
    stk_db_bind_str(db, stmt, 2, kind);
    stk_db_bind_text(db, stmt, 3, row->name);
    stk_db_bind_some(db, stmt, 4, row->version);
    stk_db_bind_str(db, stmt, 5, row->digest);
    return stk_event_run(s, stmt) < 0 ? -1 : 0;
}

/* ---- added */

/* The id of a name, made when it is new, and the time of its newest version or 0. */
static int find_binary(struct stk_db *db, const struct stk_text *name, int64_t *ret_id, int64_t *ret_last_us)
{
    sqlite3_stmt *insert = stk_db_use(db, STK_SQL_BINARY_INSERT);

    stk_db_bind_text(db, insert, 1, name);
    if (stk_db_run(db, insert) < 0)
        return -1;

    stk_auto_stmt *last = stk_db_use(db, STK_SQL_BINARY_LAST);

    stk_db_bind_text(db, last, 1, name);
    if (stk_db_step(db, last) != 1)
        return -1;
    *ret_id = sqlite3_column_int64(last, 0);
    *ret_last_us = sqlite3_column_int64(last, 1);
    return 0;
}

static enum stk_cmd_result run_binary_added(struct stk_store *s, struct stk_cmd *cmd, struct stk_err *err)
{
    struct stk_db *db = &s->writer;
    struct stk_binary_row *row = &cmd->binary.copy;
    int64_t id, last_us, now_us = stk_wall_us();
    sqlite3_stmt *stmt;

    if (stk_files_link(s, row->digest, row->bytes, cmd->binary.blob_tmp, cmd->binary.unpacked_tmp, err) < 0)
        return STK_CMD_REFUSED;
    if (find_binary(db, row->name, &id, &last_us) < 0)
        return STK_CMD_FAILED;
    /* Clients name a version by its time in milliseconds, so two never share one, whatever the clock does. */
    row->uploaded_us = now_us - now_us % 1000;
    if (row->uploaded_us <= last_us)
        row->uploaded_us = last_us + 1000;
    stmt = stk_db_use(db, STK_SQL_VERSION_INSERT);
    stk_db_bind_int(db, stmt, 1, id);
    stk_db_bind_str(db, stmt, 2, stk_binary_type_name(row->type));
    stk_db_bind_str(db, stmt, 3, row->digest);
    stk_db_bind_int(db, stmt, 4, row->bytes);
    stk_db_bind_int(db, stmt, 5, row->uploaded_us);
    if (stk_db_run(db, stmt) < 0)
        return STK_CMD_FAILED;
    row->version = sqlite3_last_insert_rowid(db->sqlite);
    return binary_event(s, cmd, "binary.added") < 0 ? STK_CMD_FAILED : STK_CMD_DONE;
}

static void finish_binary_added(struct stk_store *s, struct stk_cmd *cmd, bool ok)
{
    if (ok) {
        cmd->binary.row->version = cmd->binary.copy.version;
        cmd->binary.row->uploaded_us = cmd->binary.copy.uploaded_us;
    } else {
        stk_files_unlink(s, cmd->binary.copy.digest); /* what it linked before it failed */
    }
    stk_files_discard(s, cmd->binary.blob_tmp); /* still there when the digest was stored already */
    stk_files_discard(s, cmd->binary.unpacked_tmp);
}

static struct stk_cmd *binary_added_cmd(struct stk_binary_row *row, const char *blob_tmp, const char *unpacked_tmp,
                                        stk_store_done_fn *done, void *arg, struct stk_err *err)
{
    struct stk_cmd *cmd = stk_cmd_new(done, arg, 0, err);

    if (!cmd)
        return NULL;
    cmd->release = release_binary;
    cmd->run = run_binary_added;
    cmd->finish = finish_binary_added;
    cmd->binary.row = row;
    cmd->binary.copy = *row;
    stk_text_ref(row->name);
    cmd->binary.blob_tmp = strdup(blob_tmp);
    cmd->binary.unpacked_tmp = unpacked_tmp ? strdup(unpacked_tmp) : NULL;
    if (!cmd->binary.blob_tmp || (unpacked_tmp && !cmd->binary.unpacked_tmp)) {
        stk_cmd_free(cmd);
        stk_fail(err, STK_INTERNAL, "out of memory");
        return NULL;
    }
    return cmd;
}

int stk_store_binary_added(struct stk_store *s, struct stk_binary_row *row, const char *blob_tmp,
                           const char *unpacked_tmp, stk_store_done_fn *done, void *arg, struct stk_err *err)
{
    struct stk_cmd *cmd = binary_added_cmd(row, blob_tmp, unpacked_tmp, done, arg, err);

    if (cmd && stk_writer_queue_take(s, cmd, true, err) == 0)
        return 0;
    stk_files_discard(s, blob_tmp);
    stk_files_discard(s, unpacked_tmp);
    return -1;
}

/* ---- deleted */

/* Notes the digests of all versions of the name. 1: there are some, 0: none, -1: SQLite failed or out of memory. */
static int find_digests(struct stk_db *db, struct stk_cmd *cmd)
{
    stk_auto_stmt *stmt = stk_db_use(db, STK_SQL_BINARY_DIGESTS);
    int more;

    stk_db_bind_text(db, stmt, 1, cmd->binary.copy.name);
    while ((more = stk_db_step(db, stmt)) == 1) {
        size_t n = cmd->binary.n_digests;
        void *grown = realloc(cmd->binary.digests, (n + 1) * sizeof *cmd->binary.digests);

        if (!grown) {
            db->bind_rc = SQLITE_NOMEM;
            return -1;
        }
        cmd->binary.digests = grown;
        sqlite3_snprintf(STK_DIGEST_MAX, cmd->binary.digests[n], "%s", sqlite3_column_text(stmt, 0));
        cmd->binary.n_digests++;
    }
    return more < 0 ? -1 : cmd->binary.n_digests > 0;
}

static enum stk_cmd_result run_binary_deleted(struct stk_store *s, struct stk_cmd *cmd, struct stk_err *err)
{
    struct stk_db *db = &s->writer;
    sqlite3_stmt *stmt;

    switch (find_digests(db, cmd)) {
    case 1: break;
    case 0:
        stk_fail(err, STK_NOT_FOUND, "appName %s not found", stk_text_data(cmd->binary.copy.name));
        return STK_CMD_REFUSED;
    default: return STK_CMD_FAILED;
    }
    stmt = stk_db_use(db, STK_SQL_VERSIONS_DELETE);
    stk_db_bind_text(db, stmt, 1, cmd->binary.copy.name);
    if (stk_db_run(db, stmt) < 0)
        return STK_CMD_FAILED;
    stmt = stk_db_use(db, STK_SQL_BINARY_DELETE);
    stk_db_bind_text(db, stmt, 1, cmd->binary.copy.name);
    if (stk_db_run(db, stmt) < 0 || binary_event(s, cmd, "binary.deleted") < 0)
        return STK_CMD_FAILED;
    return STK_CMD_DONE;
}

static void finish_binary_deleted(struct stk_store *s, struct stk_cmd *cmd, bool ok)
{
    for (size_t i = 0; ok && i < cmd->binary.n_digests; i++)
        stk_files_unlink(s, cmd->binary.digests[i]);
}

int stk_store_binary_deleted(struct stk_store *s, const char *name, stk_store_done_fn *done, void *arg,
                             struct stk_err *err)
{
    struct stk_cmd *cmd = stk_cmd_new(done, arg, 0, err);

    if (!cmd)
        return -1;
    cmd->release = release_binary;
    cmd->run = run_binary_deleted;
    cmd->finish = finish_binary_deleted;
    cmd->binary.copy.name = stk_text_new(name, strlen(name));
    if (!cmd->binary.copy.name) {
        stk_cmd_free(cmd);
        return stk_fail(err, STK_INTERNAL, "out of memory");
    }
    return stk_writer_queue_take(s, cmd, true, err);
}

/* ---- one version, by retention */

/* 1: it may go, 0: refused, -1: SQLite failed or out of memory. */
static int find_unneeded(struct stk_db *db, struct stk_cmd *cmd, struct stk_err *err)
{
    struct stk_binary_row *row = &cmd->binary.copy;
    stk_auto_stmt *get = stk_db_use(db, STK_SQL_VERSION_GET);
    int found;

    stk_db_bind_int(db, get, 1, row->version);
    if ((found = stk_db_step(db, get)) < 0)
        return -1;
    if (!found) {
        stk_fail(err, STK_NOT_FOUND, "there is no version %lld", (long long)row->version);
        return 0;
    }
    stk_text_unref(row->name);
    row->name = stk_text_new((const char *)sqlite3_column_text(get, 0), (size_t)sqlite3_column_bytes(get, 0));
    snprintf(row->digest, sizeof row->digest, "%s", (const char *)sqlite3_column_text(get, 1));
    if (!row->name)
        return -1;

    stk_auto_stmt *needed = stk_db_use(db, STK_SQL_VERSION_NEEDED);

    stk_db_bind_int(db, needed, 1, row->version);
    if (stk_db_step(db, needed) != 1)
        return -1;
    if (!sqlite3_column_int(needed, 0))
        return 1;
    stk_fail(err, STK_CONFLICT, "version %lld is needed", (long long)row->version);
    return 0;
}

static enum stk_cmd_result run_version_expired(struct stk_store *s, struct stk_cmd *cmd, struct stk_err *err)
{
    struct stk_db *db = &s->writer;
    sqlite3_stmt *stmt;

    switch (find_unneeded(db, cmd, err)) {
    case 1: break;
    case 0: return STK_CMD_REFUSED;
    default: return STK_CMD_FAILED;
    }
    stmt = stk_db_use(db, STK_SQL_VERSION_DELETE);
    stk_db_bind_int(db, stmt, 1, cmd->binary.copy.version);
    if (stk_db_run(db, stmt) < 0 || binary_event(s, cmd, "binary.expired") < 0)
        return STK_CMD_FAILED;
    return STK_CMD_DONE;
}

static void finish_version_expired(struct stk_store *s, struct stk_cmd *cmd, bool ok)
{
    if (ok)
        stk_files_unlink(s, cmd->binary.copy.digest);
}

int stk_store_version_expired(struct stk_store *s, int64_t version, stk_store_done_fn *done, void *arg,
                              struct stk_err *err)
{
    struct stk_cmd *cmd = stk_cmd_new(done, arg, 0, err);

    if (!cmd)
        return -1;
    cmd->release = release_binary;
    cmd->run = run_version_expired;
    cmd->finish = finish_version_expired;
    cmd->binary.copy.version = version;
    return stk_writer_queue_take(s, cmd, false, err);
}
