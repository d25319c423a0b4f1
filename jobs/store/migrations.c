/*
 * The schema. A version, once released, is never edited: what changes is a new entry at the end, and a fixture of the old
 * version for the test that upgrades it (test/unit/fixtures/).
 */
#include "internal.h"

#include <string.h>

#define APPLICATION_ID 0x53746b72 /* "Stkr" */
#define TEXT_OF_(x) #x
#define TEXT_OF(x) TEXT_OF_(x)

/* Each sets its number itself, so that the change and the number are in one transaction. */
static const char *const migrations[] = {
    /*
     * Version 1. jobs pays for each index 18,000 times a second, so it has three: its id, and two partial ones that a job
     * which goes well enters and leaves once. Text that may be long stands last, or in a table of its own: reading a list
     * then never walks its overflow pages, and moving a job does not copy its config.
     *
     * seq is the order of arrival. It would be used again if the newest rows were deleted; retention takes the oldest and
     * leaves the newest event, whose number is a cursor of readers. A cursor of jobs has the time beside the seq.
     * binary_versions does lose its newest rows, and a version must never mean two things: AUTOINCREMENT.
     */
    "CREATE TABLE binaries ("
    "  id INTEGER PRIMARY KEY,"
    "  name TEXT NOT NULL UNIQUE"
    ") STRICT;"
    "CREATE TABLE binary_versions ("
    "  version INTEGER PRIMARY KEY AUTOINCREMENT,"
    "  binary INTEGER NOT NULL REFERENCES binaries (id),"
    "  type TEXT NOT NULL,"
    "  digest TEXT NOT NULL," /* names blobs/<digest> and unpacked/<digest> */
    "  bytes INTEGER NOT NULL,"
    "  uploaded_us INTEGER NOT NULL,"
    "  UNIQUE (binary, uploaded_us)"
    ") STRICT;"
    "CREATE INDEX binary_versions_digest ON binary_versions (digest);"

    "CREATE TABLE contexts ("
    "  seq INTEGER PRIMARY KEY,"
    "  id TEXT NOT NULL UNIQUE,"
    "  name TEXT NOT NULL,"
    "  state INTEGER NOT NULL," /* enum stk_context_state */
    "  max_jobs INTEGER NOT NULL,"
    "  started_us INTEGER NOT NULL,"
    "  ended_us INTEGER,"
    "  application_id TEXT,"
    "  ui_url TEXT,"
    "  error TEXT,"
    "  spec TEXT"
    ") STRICT;"
    "CREATE INDEX contexts_name ON contexts (name);"
    "CREATE INDEX contexts_live ON contexts (seq) WHERE state < 3;"

    /* Processes that may be alive; a row goes when its process did. */
    "CREATE TABLE processes ("
    "  context_id TEXT NOT NULL,"
    "  process TEXT NOT NULL,"
    "  role TEXT NOT NULL,"
    "  pid INTEGER NOT NULL,"
    "  start_time INTEGER NOT NULL,"
    "  boot_id TEXT,"
    "  PRIMARY KEY (context_id, process)"
    ") STRICT, WITHOUT ROWID;"

    "CREATE TABLE jobs ("
    "  seq INTEGER PRIMARY KEY,"
    "  id TEXT NOT NULL UNIQUE,"
    "  context_id TEXT,"
    "  context_name TEXT,"
    "  app TEXT,"
    "  class_path TEXT,"
    "  binary_set TEXT,"
    "  binaries TEXT,"
    "  state INTEGER NOT NULL," /* enum stk_job_state */
    "  attempt INTEGER NOT NULL,"
    "  submitted_us INTEGER NOT NULL,"
    "  started_us INTEGER,"
    "  ended_us INTEGER,"
    "  worker_process TEXT,"
    "  worker_pid INTEGER,"
    "  worker_start INTEGER,"
    "  worker_boot TEXT,"
    "  result_bytes INTEGER,"
    "  result_file TEXT,"
    "  error TEXT,"
    "  result TEXT"
    ") STRICT;"
    "CREATE INDEX jobs_live ON jobs (seq) WHERE state < 4;"
    "CREATE INDEX jobs_failed ON jobs (seq) WHERE state > 4;"

    /* No row: the config is {}. */
    "CREATE TABLE job_configs ("
    "  job INTEGER PRIMARY KEY REFERENCES jobs (seq),"
    "  config TEXT NOT NULL"
    ") STRICT;"

    /* Every transition, numbered, never changed. */
    "CREATE TABLE events ("
    "  seq INTEGER PRIMARY KEY,"
    "  at_us INTEGER NOT NULL,"
    "  kind TEXT NOT NULL,"
    "  context_id TEXT,"
    "  job_id TEXT,"
    "  state INTEGER,"
    "  data TEXT"
    ") STRICT;"

    "PRAGMA application_id = " TEXT_OF(APPLICATION_ID) ";"
                                                       "PRAGMA user_version = 1;",
    /* Version 2: terms of jobs, receipts of cancels, keys that make a submit repeatable. NULL: none, or 0. */
    "ALTER TABLE jobs ADD COLUMN priority INTEGER;"
    "ALTER TABLE jobs ADD COLUMN queue_timeout_ms INTEGER;"
    "ALTER TABLE jobs ADD COLUMN run_timeout_ms INTEGER;"
    "ALTER TABLE jobs ADD COLUMN max_memory INTEGER;"
    "ALTER TABLE jobs ADD COLUMN isolated INTEGER;"
    "ALTER TABLE jobs ADD COLUMN receipt TEXT;" /* JSON object, written with CANCELLING and with the final state */
    "ALTER TABLE jobs ADD COLUMN idempotency_key TEXT;"
    "ALTER TABLE jobs ADD COLUMN fingerprint TEXT;"
    "CREATE UNIQUE INDEX jobs_key ON jobs (idempotency_key) WHERE idempotency_key IS NOT NULL;"
    "PRAGMA user_version = 2;",
    /* Version 3: what a job has printed, to tell an empty log from one that is not kept any more. NULL: nothing. */
    "ALTER TABLE jobs ADD COLUMN stdout_bytes INTEGER;"
    "ALTER TABLE jobs ADD COLUMN stderr_bytes INTEGER;"
    "PRAGMA user_version = 3;",
    /*
     * Version 4: lists, newest first, by whatever is asked for (job_list.c). An ended job does not change any more, so it enters
     * these indexes once, with its end; the few others are found by jobs_live. submitted_us and then seq, which every index ends
     * in, are a job's place. What else may be asked for stands behind it, so that a row need not be read to see that it does not
     * fit. A tag of an ended job is a row, with the same.
     */
    "ALTER TABLE jobs ADD COLUMN tags TEXT;" /* JSON array of strings */
    "ALTER TABLE jobs ADD COLUMN user TEXT;"
    "DROP INDEX jobs_live;"
    "DROP INDEX jobs_failed;"
    "CREATE INDEX jobs_live ON jobs (submitted_us) WHERE state < 4;"
    "CREATE INDEX jobs_ended ON jobs (state, submitted_us) WHERE state >= 4;"
    "CREATE INDEX jobs_context ON jobs (context_name, state, submitted_us, seq, app, user) WHERE state >= 4;"
    "CREATE INDEX jobs_app ON jobs (app, state, submitted_us, seq, context_name, user) WHERE state >= 4;"
    "CREATE INDEX jobs_user ON jobs (user, state, submitted_us, seq, context_name, app)"
    " WHERE state >= 4 AND user IS NOT NULL;"
    "CREATE TABLE job_tags ("
    "  tag TEXT NOT NULL,"
    "  state INTEGER NOT NULL,"
    "  submitted_us INTEGER NOT NULL,"
    "  seq INTEGER NOT NULL,"
    "  context_name TEXT,"
    "  app TEXT,"
    "  user TEXT,"
    "  PRIMARY KEY (tag, state, submitted_us, seq)"
    ") STRICT, WITHOUT ROWID;"
    "PRAGMA user_version = 4;",
    /* Version 5: what an event tells of its job or context, whose row may have changed since, or be gone. */
    "ALTER TABLE events ADD COLUMN context_name TEXT;"
    "ALTER TABLE events ADD COLUMN from_state INTEGER;" /* NULL: it is new */
    "ALTER TABLE events ADD COLUMN attempt INTEGER;"
    "PRAGMA user_version = 5;",
    /*
     * Version 6: what is to be told to webhooks. The row of a job's own comes with the job and waits for its end; those of the
     * configuration come with the end. Those that are due are found by whom they go to, so that a receiver who is slow, or gone,
     * stands in nobody's way.
     */
    "CREATE TABLE deliveries ("
    "  seq INTEGER PRIMARY KEY,"
    "  id TEXT NOT NULL,"
    "  job INTEGER NOT NULL REFERENCES jobs (seq),"
    "  url TEXT NOT NULL,"
    "  origin TEXT NOT NULL,"   /* scheme, host and port of url */
    "  secret TEXT,"            /* until it is settled */
    "  form INTEGER NOT NULL,"  /* enum stk_webhook_form */
    "  state INTEGER NOT NULL," /* enum stk_delivery_state */
    "  event INTEGER,"
    "  since_us INTEGER,"
    "  due_us INTEGER,"
    "  settled_us INTEGER,"
    "  attempts INTEGER NOT NULL,"
    "  status INTEGER,"
    "  error TEXT"
    ") STRICT;"
    "CREATE INDEX deliveries_job ON deliveries (job);"
    "CREATE INDEX deliveries_due ON deliveries (origin, due_us) WHERE state = 1;"
    "CREATE INDEX deliveries_state ON deliveries (state);"
    "PRAGMA user_version = 6;",
};

static int read_number(struct stk_db *db, const char *sql, int64_t *ret, struct stk_err *err)
{
    sqlite3_stmt *stmt;

    if (sqlite3_prepare_v2(db->sqlite, sql, -1, &stmt, NULL) != SQLITE_OK)
        return stk_db_fail(db, err, "read the database's version");
    if (sqlite3_step(stmt) != SQLITE_ROW) {
        stk_db_fail(db, err, "read the database's version");
        sqlite3_finalize(stmt);
        return -1;
    }
    *ret = sqlite3_column_int64(stmt, 0);
    sqlite3_finalize(stmt);
    return 0;
}

static int apply(struct stk_db *db, const char *sql, struct stk_err *err)
{
    if (sqlite3_exec(db->sqlite, "BEGIN IMMEDIATE", NULL, NULL, NULL) == SQLITE_OK &&
        sqlite3_exec(db->sqlite, sql, NULL, NULL, NULL) == SQLITE_OK &&
        sqlite3_exec(db->sqlite, "COMMIT", NULL, NULL, NULL) == SQLITE_OK)
        return 0;
    stk_db_fail(db, err, "migrate");
    if (!sqlite3_get_autocommit(db->sqlite))
        sqlite3_exec(db->sqlite, "ROLLBACK", NULL, NULL, NULL);
    return -1;
}

int stk_db_migrate(struct stk_db *db, const char *path, struct stk_err *err)
{
    int64_t version = 0, application = 0, tables = 0;

    if (read_number(db, "PRAGMA user_version", &version, err) < 0 ||
        read_number(db, "PRAGMA application_id", &application, err) < 0 ||
        read_number(db, "SELECT count(*) FROM sqlite_schema", &tables, err) < 0)
        return -1;
    if (application != APPLICATION_ID && (application != 0 || version != 0 || tables != 0))
        return stk_fail(err, STK_INTERNAL, "%s is a database of another program", path);
    if (version < 0 || version > (int64_t)STK_LEN(migrations))
        return stk_fail(err, STK_INTERNAL,
                        "%s is of version %lld, newer than this program's %zu: install a newer Stoker", path,
                        (long long)version, STK_LEN(migrations));
    for (size_t i = (size_t)version; i < STK_LEN(migrations); i++) {
        if (apply(db, migrations[i], err) < 0) {
            stk_err_prefix(err, "%s: to version %zu", path, i + 1);
            return -1;
        }
    }
    return 0;
}
