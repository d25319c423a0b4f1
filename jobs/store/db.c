#include "internal.h"

#include "stoker/log.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum {
    EXIT_IO = 70, /* EX_SOFTWARE: the database cannot be trusted; the next start recovers */
};

/* Constant text per role; -wal and -shm get the mode of the database file. */
static const char *const setup[] = {
    [STK_DB_WRITER] = "PRAGMA journal_mode = WAL;"
                      "PRAGMA synchronous = FULL;"
                      "PRAGMA wal_autocheckpoint = 0;" /* writer.c chooses the moments */
                      "PRAGMA journal_size_limit = 67108864;"
                      "PRAGMA temp_store = MEMORY;"
                      "PRAGMA cache_size = -4096;",
    [STK_DB_READER] = "PRAGMA query_only = ON;"
                      "PRAGMA wal_autocheckpoint = 0;"
                      "PRAGMA temp_store = MEMORY;"
                      "PRAGMA cache_size = -512;",
};

static int configure(struct stk_db *db, enum stk_db_role role, struct stk_err *err)
{
    static const struct {
        int op, on;
    } options[] = {
        { SQLITE_DBCONFIG_DEFENSIVE, 1 }, { SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0 }, { SQLITE_DBCONFIG_ENABLE_FKEY, 1 },
        { SQLITE_DBCONFIG_DQS_DDL, 0 },   { SQLITE_DBCONFIG_DQS_DML, 0 },
    };

    for (size_t i = 0; i < STK_LEN(options); i++) {
        if (sqlite3_db_config(db->sqlite, options[i].op, options[i].on, NULL) != SQLITE_OK)
            return stk_db_fail(db, err, "configure");
    }
    /* A reader that is closed last would checkpoint: only the writer does. */
    if (role == STK_DB_READER && sqlite3_db_config(db->sqlite, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL) != SQLITE_OK)
        return stk_db_fail(db, err, "configure");
    sqlite3_busy_timeout(db->sqlite, STK_DB_BUSY_MS);
    if (sqlite3_exec(db->sqlite, setup[role], NULL, NULL, NULL) != SQLITE_OK)
        return stk_db_fail(db, err, "open");
    return 0;
}

int stk_db_open(struct stk_db *db, const char *path, enum stk_db_role role, struct stk_err *err)
{
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE | SQLITE_OPEN_PRIVATECACHE;

    if (sqlite3_open_v2(path, &db->sqlite, flags, NULL) != SQLITE_OK) {
        stk_db_fail(db, err, "open");
        stk_err_prefix(err, "%s", path);
        return -1;
    }
    if (configure(db, role, err) < 0) {
        stk_err_prefix(err, "%s", path);
        return -1;
    }
    return 0;
}

int stk_db_prepare(struct stk_db *db, enum stk_db_role role, struct stk_err *err)
{
    size_t first = role == STK_DB_WRITER ? 0 : STK_SQL_FIRST_READ;
    size_t end = role == STK_DB_WRITER ? STK_SQL_FIRST_READ : STK_SQL_COUNT;

    for (size_t i = first; i < end; i++) {
        if (sqlite3_prepare_v3(db->sqlite, stk_sql_text[i], -1, SQLITE_PREPARE_PERSISTENT, &db->stmts[i], NULL) !=
            SQLITE_OK)
            return stk_db_fail(db, err, "prepare");
    }
    return 0;
}

void stk_db_close(struct stk_db *db)
{
    for (size_t i = 0; i < STK_SQL_COUNT; i++)
        sqlite3_finalize(db->stmts[i]);
    sqlite3_close(db->sqlite);
    *db = (struct stk_db){ 0 };
}

/* ---- statements */

sqlite3_stmt *stk_db_use(struct stk_db *db, enum stk_sql which)
{
    db->bind_rc = SQLITE_OK;
    return db->stmts[which];
}

int stk_db_step(struct stk_db *db, sqlite3_stmt *stmt)
{
    int rc;

    if (db->bind_rc != SQLITE_OK)
        return -1;
    rc = sqlite3_step(stmt);
    return rc == SQLITE_ROW ? 1 : rc == SQLITE_DONE ? 0 : -1;
}

void stk_db_done(sqlite3_stmt *stmt)
{
    if (!stmt)
        return;
    sqlite3_reset(stmt);
    sqlite3_clear_bindings(stmt);
}

int stk_db_run(struct stk_db *db, sqlite3_stmt *stmt)
{
    int rc = stk_db_step(db, stmt);

    /* reset() after a failed step returns that failure again, and leaves it readable for stk_db_trouble(). */
    stk_db_done(stmt);
    return rc < 0 ? -1 : 0;
}

void stk_db_bind_int(struct stk_db *db, sqlite3_stmt *stmt, int i, int64_t value)
{
    int rc = sqlite3_bind_int64(stmt, i, value);

    if (rc != SQLITE_OK && db->bind_rc == SQLITE_OK)
        db->bind_rc = rc;
}

void stk_db_bind_some(struct stk_db *db, sqlite3_stmt *stmt, int i, int64_t value)
{
    if (value)
        stk_db_bind_int(db, stmt, i, value);
}

/* Parameters start as NULL, since every use ends with clear_bindings. Texts outlive the step: SQLITE_STATIC. */
static void bind_bytes(struct stk_db *db, sqlite3_stmt *stmt, int i, const char *text, size_t len)
{
    int rc = sqlite3_bind_text64(stmt, i, text, len, SQLITE_STATIC, SQLITE_UTF8);

    if (rc != SQLITE_OK && db->bind_rc == SQLITE_OK)
        db->bind_rc = rc;
}

void stk_db_bind_str(struct stk_db *db, sqlite3_stmt *stmt, int i, const char *text)
{
    if (text && *text)
        bind_bytes(db, stmt, i, text, strlen(text));
}

void stk_db_bind_text(struct stk_db *db, sqlite3_stmt *stmt, int i, const struct stk_text *text)
{
    if (text)
        bind_bytes(db, stmt, i, stk_text_data(text), stk_text_len(text));
}

/* ---- errors */

static int error_code(struct stk_db *db)
{
    return db->bind_rc != SQLITE_OK ? db->bind_rc : sqlite3_extended_errcode(db->sqlite);
}

static bool is_full_errno(int sys)
{
    return sys == ENOSPC || sys == EDQUOT || sys == EFBIG;
}

static int file_errno(sqlite3_file *file)
{
    int sys = 0;

    if (file && file->pMethods)
        file->pMethods->xFileControl(file, SQLITE_FCNTL_LAST_ERRNO, &sys);
    return sys;
}

/* The errno behind an I/O error, or 0. sqlite3_system_errno() misses that of a commit; the WAL's file keeps its last one. */
static int system_errno(struct stk_db *db)
{
    sqlite3_file *wal = NULL, *main_file = NULL;
    int sys;

    sqlite3_file_control(db->sqlite, "main", SQLITE_FCNTL_JOURNAL_POINTER, &wal);
    sqlite3_file_control(db->sqlite, "main", SQLITE_FCNTL_FILE_POINTER, &main_file);
    if ((sys = file_errno(wal)) || (sys = file_errno(main_file)))
        return sys;
    return sqlite3_system_errno(db->sqlite);
}

/* ENOSPC of a write comes as SQLITE_FULL; a quota, a size limit, or ENOSPC of anything else only in the errno. */
static bool is_full(struct stk_db *db, int rc)
{
    switch (rc) {
    case SQLITE_FULL: return true;
    case SQLITE_IOERR_WRITE:
    case SQLITE_IOERR_FSYNC:
    case SQLITE_IOERR_DIR_FSYNC:
    case SQLITE_IOERR_TRUNCATE:
    case SQLITE_IOERR_SHMSIZE: return is_full_errno(system_errno(db));
    default: return false;
    }
}

enum stk_db_trouble stk_db_trouble(struct stk_db *db)
{
    int rc = error_code(db);

    if (is_full(db, rc))
        return STK_DB_FULL;
    if (rc == SQLITE_IOERR_NOMEM)
        return STK_DB_REFUSED;
    switch (rc & 0xff) {
    case SQLITE_NOMEM:
    case SQLITE_TOOBIG:
    case SQLITE_CONSTRAINT:
    case SQLITE_MISMATCH:
    case SQLITE_ERROR: /* such as malformed JSON */ return STK_DB_REFUSED;
    case SQLITE_BUSY:
    case SQLITE_LOCKED: return STK_DB_BUSY;
    default: return STK_DB_BROKEN;
    }
}

int stk_db_fail(struct stk_db *db, struct stk_err *err, const char *what)
{
    int rc = db->sqlite ? error_code(db) : SQLITE_NOMEM; /* open_v2 leaves NULL only when it had no memory */
    int sys = db->sqlite ? system_errno(db) : 0;

    if (db->sqlite && is_full(db, rc))
        return stk_fail(err, STK_FULL, "%s: the disk is full", what);
    switch (rc & 0xff) {
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT:
        return stk_fail(err, STK_INTERNAL, "%s: the database file is damaged (%s); restore it from a backup", what,
                        sqlite3_errstr(rc));
    case SQLITE_CANTOPEN:
    case SQLITE_IOERR:
        if (sys)
            return stk_fail_sys(err, sys, "%s: %s", what, sqlite3_errstr(rc));
        break;
    default: break;
    }
    return stk_fail(err, STK_INTERNAL, "%s: %s", what,
                    db->sqlite && db->bind_rc == SQLITE_OK ? sqlite3_errmsg(db->sqlite) : sqlite3_errstr(rc));
}

_Noreturn void stk_db_fatal(struct stk_db *db, const char *what)
{
    struct stk_err err;

    stk_db_fail(db, &err, what);
    stk_error("store", "database failed, leaving", "reason", err.msg);
    _exit(EXIT_IO);
}
