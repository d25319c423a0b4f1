/* Every statement but the migrations. States are numbers: those of the enums in job.h and context.h. */
#include "internal.h"

/* The numbers below and in migrations.c are stored in files, so they never change their meaning. */
_Static_assert(STK_JOB_QUEUED == 0 && STK_JOB_CANCELLING == 3 && STK_JOB_FINISHED == 4 && STK_JOB_ERROR == 5 &&
                   STK_JOB_INVALID == 6 && STK_JOB_KILLED == 7 && STK_JOB_TIMED_OUT == 8 && STK_JOB_LOST == 9,
               "job states are stored by number");
_Static_assert(STK_DELIVERY_WAITING == 0 && STK_DELIVERY_DUE == 1 && STK_DELIVERY_DELIVERED == 2 &&
                   STK_DELIVERY_GIVEN_UP == 3 && STK_WEBHOOK_NATIVE == 0 && STK_WEBHOOK_SJS == 1,
               "states and forms of deliveries are stored by number");
_Static_assert(STK_CONTEXT_CREATING == 0 && STK_CONTEXT_STOPPING == 2 && STK_CONTEXT_STOPPED == 3 &&
                   STK_CONTEXT_FAILED == 4 && STK_CONTEXT_LOST == 5,
               "context states are stored by number");

/* enum stk_job_column; result and config follow */
#define JOB_COLUMNS                                                                                            \
    "id, context_id, context_name, app, class_path, binary_set, binaries, state, attempt, submitted_us,"       \
    " started_us, ended_us, worker_process, worker_pid, worker_start, worker_boot, result_bytes, result_file," \
    " priority, queue_timeout_ms, run_timeout_ms, max_memory, isolated, tags, user, error"

/* enum stk_context_column; spec follows */
#define CONTEXT_COLUMNS "id, name, state, max_jobs, started_us, ended_us, application_id, ui_url, error"

/*
 * Places of jobs, newest first, for job_list.c. ?1: bit mask of states, ?2 and ?3: first and last time of submit, ?4 and ?5: the
 * place behind which to begin, ?6: what the index begins with. One walk for each state, merged: none reads more than it gives.
 */
#define WALK_ENDED(names, table, index, is, state)                                                                 \
    "SELECT seq, submitted_us, state, " names " FROM " table index " WHERE " is "state = " state " AND state >= 4" \
    " AND (?1 >> " state ") & 1 AND submitted_us BETWEEN ?2 AND ?3 AND (submitted_us < ?4 OR seq < ?5) UNION ALL "
#define WALK(names, table, index, is)                                                                           \
    WALK_ENDED(names, table, index, is, "4")                                                                    \
    WALK_ENDED(names, table, index, is, "5")                                                                    \
    WALK_ENDED(names, table, index, is, "6")                                                                    \
    WALK_ENDED(names, table, index, is, "7")                                                                    \
    WALK_ENDED(names, table, index, is, "8")                                                                    \
    WALK_ENDED(names, table, index, is, "9")                                                                    \
    "SELECT seq, submitted_us, state, context_name, app, user FROM jobs INDEXED BY jobs_live WHERE state < 4"   \
    " AND ?1 & 15 AND (?1 >> state) & 1 AND submitted_us BETWEEN ?2 AND ?3 AND (submitted_us < ?4 OR seq < ?5)" \
    " ORDER BY submitted_us DESC, seq DESC"

#define DELIVERY_COLUMNS                                                                                 \
    "d.seq, d.id, j.id, d.url, d.origin, d.form, d.state, d.event, d.since_us, d.due_us, d.settled_us, " \
    "d.attempts, d.status, d.error"
#define DELIVERY_LIST(index, is)                                                                                  \
    "SELECT " DELIVERY_COLUMNS ", NULL FROM deliveries d " index " JOIN jobs j ON j.seq = d.job WHERE d.seq < ?1" \
    " AND d.state BETWEEN ?3 AND ?4" is " ORDER BY d.seq DESC LIMIT ?2"

#define BINARY_COLUMNS "v.version, b.name, v.type, v.digest, v.bytes, v.uploaded_us"

const char *const stk_sql_text[STK_SQL_COUNT] = {
    [STK_SQL_BEGIN] = "BEGIN IMMEDIATE",
    [STK_SQL_COMMIT] = "COMMIT",
    [STK_SQL_ROLLBACK] = "ROLLBACK",

    [STK_SQL_JOB_INSERT] =
        "INSERT INTO jobs (" JOB_COLUMNS ", result, receipt, idempotency_key, fingerprint)"
        " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22,"
        " ?23, ?24, ?25, ?26, ?27, ?28, ?29, ?30)",
    [STK_SQL_JOB_CONFIG_INSERT] = "INSERT INTO job_configs (job, config) VALUES (?1, ?2)",
    [STK_SQL_JOB_UPDATE] =
        "UPDATE jobs SET state = ?2, attempt = ?3, started_us = ?4, ended_us = ?5, worker_process = ?6,"
        " worker_pid = ?7, worker_start = ?8, worker_boot = ?9, result_bytes = ?10, result_file = ?11, error = ?12,"
        " result = ?13, receipt = ?14, stdout_bytes = ?15, stderr_bytes = ?16 WHERE id = ?1",
    /* An ended job that has tags is found by them. */
    [STK_SQL_JOB_TAGS_INSERT] =
        "INSERT OR IGNORE INTO job_tags (tag, state, submitted_us, seq, context_name, app, user)"
        " SELECT each.value, j.state, j.submitted_us, j.seq, j.context_name, j.app, j.user"
        " FROM jobs j, json_each(j.tags) AS each WHERE j.id = ?1",
    [STK_SQL_JOB_KEY_USED] = "SELECT id FROM jobs WHERE idempotency_key = ?1",
    [STK_SQL_EVENT_INSERT] = "INSERT INTO events (at_us, kind, context_id, job_id, state, data, context_name, attempt)"
                             " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    /* From which state is what was recorded last: what one event goes to, the next one comes from. */
    [STK_SQL_JOB_MOVE_EVENT_INSERT] =
        "INSERT INTO events (at_us, kind, context_id, job_id, state, data, context_name, from_state, attempt)"
        " SELECT ?1, ?2, context_id, id, ?4, ?5, context_name, state, ?6 FROM jobs WHERE id = ?3",
    [STK_SQL_CONTEXT_MOVE_EVENT_INSERT] =
        "INSERT INTO events (at_us, kind, context_id, state, data, context_name, from_state)"
        " SELECT ?1, ?2, id, ?4, ?5, name, state FROM contexts WHERE id = ?3",

    [STK_SQL_CONTEXT_INSERT] = "INSERT INTO contexts (" CONTEXT_COLUMNS ", spec)"
                               " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    [STK_SQL_CONTEXT_UPDATE] =
        "UPDATE contexts SET state = ?2, max_jobs = ?3, started_us = ?4, ended_us = ?5, application_id = ?6,"
        " ui_url = ?7, error = ?8 WHERE id = ?1",

    [STK_SQL_CONTEXT_TAKE] = "UPDATE contexts SET name = ?2, max_jobs = ?3, started_us = ?4, spec = ?5 WHERE id = ?1",

    [STK_SQL_PROCESS_INSERT] = "INSERT OR REPLACE INTO processes (context_id, process, role, pid, start_time, boot_id)"
                               " VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    [STK_SQL_PROCESS_DELETE] = "DELETE FROM processes WHERE context_id = ?1 AND process = ?2",

    [STK_SQL_VERSION_EXISTS] = "SELECT 1 FROM binary_versions WHERE version = ?1",
    [STK_SQL_BINARY_INSERT] = "INSERT INTO binaries (name) VALUES (?1) ON CONFLICT DO NOTHING",
    [STK_SQL_BINARY_LAST] = "SELECT b.id, max(v.uploaded_us) FROM binaries b"
                            " LEFT JOIN binary_versions v ON v.binary = b.id WHERE b.name = ?1 GROUP BY b.id",
    [STK_SQL_VERSION_INSERT] =
        "INSERT INTO binary_versions (binary, type, digest, bytes, uploaded_us) VALUES (?1, ?2, ?3, ?4, ?5)",
    [STK_SQL_BINARY_DIGESTS] = "SELECT DISTINCT v.digest FROM binaries b JOIN binary_versions v ON v.binary = b.id"
                               " WHERE b.name = ?1",
    [STK_SQL_VERSIONS_DELETE] = "DELETE FROM binary_versions WHERE binary = (SELECT id FROM binaries WHERE name = ?1)",
    [STK_SQL_BINARY_DELETE] = "DELETE FROM binaries WHERE name = ?1",

    /* A job that has not ended keeps its bytes even when every name of them is gone. */
    [STK_SQL_DIGEST_USED] = "SELECT EXISTS (SELECT 1 FROM binary_versions WHERE digest = ?1)"
                            " OR EXISTS (SELECT 1 FROM jobs INDEXED BY jobs_live,"
                            "   json_each(CASE WHEN json_valid(jobs.binaries) THEN jobs.binaries END) AS each"
                            "   WHERE jobs.state < 4 AND json_extract(each.value, '$.digest') = ?1)",

    [STK_SQL_BINARY_EVENT_INSERT] =
        "INSERT INTO events (at_us, kind, data)"
        " VALUES (?1, ?2, json_patch('{}', json_object('name', ?3, 'version', ?4, 'digest', ?5)))", /* without NULLs */

    /* ?3: as stk_webhook_make() makes it */
    [STK_SQL_DELIVERY_INSERT] =
        "INSERT INTO deliveries (id, job, url, origin, secret, form, state, attempts) VALUES (?1, ?2,"
        " json_extract(?3, '$.url'), json_extract(?3, '$.origin'), json_extract(?3, '$.secret'),"
        " json_extract(?3, '$.form'), 0, 0)",
    /* Which index is said, here and below: SQLite would take that of states, and read all that wait or are due. */
    [STK_SQL_DELIVERIES_DUE] = "UPDATE deliveries INDEXED BY deliveries_job"
                               " SET state = 1, event = ?2, since_us = ?3, due_us = ?3"
                               " WHERE job = (SELECT seq FROM jobs WHERE id = ?1) AND state = 0",
    /* Of the configuration. Before the row changes: a job ends once. */
    [STK_SQL_DELIVERY_DUE_INSERT] =
        "INSERT INTO deliveries (id, job, url, origin, form, state, event, since_us, due_us, attempts)"
        " SELECT ?4, seq, ?5, ?6, 0, 1, ?2, ?3, ?3, 0 FROM jobs WHERE id = ?1 AND state < 4",
    [STK_SQL_DELIVERY_TRIED] =
        "UPDATE deliveries SET state = ?2, due_us = ?3, settled_us = ?4, status = ?5, error = ?6,"
        " attempts = attempts + 1, secret = CASE ?2 WHEN 1 THEN secret END WHERE seq = ?1 AND state = 1",

    [STK_SQL_DELIVERY_GIVE_UP] =
        "UPDATE deliveries SET state = 3, due_us = NULL, settled_us = ?2, secret = NULL,"
        " error = coalesce(error, 'its turn did not come before webhook-give-up') WHERE seq = ?1 AND state = 1",

    /* Retention. seq is the order of arrival, and the oldest go first: no index is needed to find them. */
    [STK_SQL_JOB_NEWEST] = "SELECT max(seq) FROM jobs",
    [STK_SQL_JOB_TIME_AFTER] = "SELECT submitted_us FROM jobs WHERE seq > ?1 ORDER BY seq LIMIT 1",
    /* A job whose end is still to be told is not one that has ended. */
    [STK_SQL_JOB_OLDEST] = "SELECT seq, id, iif(EXISTS (SELECT 1 FROM deliveries d INDEXED BY deliveries_job"
                           "   WHERE d.job = jobs.seq AND d.state = 1), 0, state),"
                           " attempt, submitted_us, ended_us FROM jobs WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    [STK_SQL_JOB_DELIVERIES_DELETE] = "DELETE FROM deliveries WHERE job = ?1",
    [STK_SQL_JOB_CONFIG_DELETE] = "DELETE FROM job_configs WHERE job = ?1",
    [STK_SQL_JOB_TAGS_DELETE] = "DELETE FROM job_tags WHERE (tag, state, submitted_us, seq) IN (SELECT each.value, "
                                "j.state, j.submitted_us, j.seq"
                                " FROM jobs j, json_each(j.tags) AS each WHERE j.seq = ?1)",
    [STK_SQL_JOB_DELETE] = "DELETE FROM jobs WHERE seq = ?1",
    [STK_SQL_JOB_RESULT_DROP] = "UPDATE jobs SET result_file = NULL WHERE id = ?1 AND state >= 4",
    [STK_SQL_CONTEXT_OLDEST] =
        "SELECT seq, id, state, started_us, ended_us FROM contexts WHERE seq > ?1 ORDER BY seq LIMIT ?2",
    [STK_SQL_CONTEXT_DELETE] = "DELETE FROM contexts WHERE seq = ?1",
    [STK_SQL_EVENT_OLDEST] =
        "SELECT seq, at_us FROM events WHERE seq < (SELECT max(seq) FROM events) ORDER BY seq LIMIT ?1",
    [STK_SQL_EVENTS_DELETE] = "DELETE FROM events WHERE seq <= ?1",
    [STK_SQL_VERSION_GET] =
        "SELECT b.name, v.digest FROM binary_versions v JOIN binaries b ON b.id = v.binary WHERE v.version = ?1",
    [STK_SQL_VERSION_NEEDED] =
        "SELECT NOT EXISTS (SELECT 1 FROM binary_versions v JOIN binary_versions newer"
        "   ON newer.binary = v.binary AND newer.uploaded_us > v.uploaded_us WHERE v.version = ?1)"
        " OR EXISTS (SELECT 1 FROM jobs INDEXED BY jobs_live,"
        "   json_each(CASE WHEN json_valid(jobs.binaries) THEN jobs.binaries END) AS each"
        "   WHERE jobs.state < 4 AND json_extract(each.value, '$.version') = ?1)",
    [STK_SQL_VERSION_DELETE] = "DELETE FROM binary_versions WHERE version = ?1",

    [STK_SQL_JOB_GET] = "SELECT " JOB_COLUMNS ", result, receipt FROM jobs WHERE id = ?1",
    [STK_SQL_JOB_STAGE] = "SELECT state, attempt, worker_process, stdout_bytes, stderr_bytes FROM jobs WHERE id = ?1",
    [STK_SQL_JOB_BY_KEY] =
        "SELECT " JOB_COLUMNS ", result, receipt, idempotency_key, fingerprint FROM jobs WHERE idempotency_key = ?1",
    [STK_SQL_JOB_CONFIG] = "SELECT c.config FROM jobs j LEFT JOIN job_configs c ON c.job = j.seq WHERE j.id = ?1",
    [STK_SQL_JOB_WALK] = WALK("NULL, NULL, NULL", "jobs", " INDEXED BY jobs_ended", ""),
    [STK_SQL_JOB_WALK_CONTEXT] =
        WALK("context_name, app, user", "jobs", " INDEXED BY jobs_context", "context_name = ?6 AND "),
    [STK_SQL_JOB_WALK_APP] = WALK("context_name, app, user", "jobs", " INDEXED BY jobs_app", "app = ?6 AND "),
    [STK_SQL_JOB_WALK_USER] = WALK("context_name, app, user", "jobs", " INDEXED BY jobs_user", "user = ?6 AND "),
    [STK_SQL_JOB_WALK_TAG] = WALK("context_name, app, user", "job_tags", "", "tag = ?6 AND "),
    [STK_SQL_JOB_HAS_TAG] =
        "SELECT EXISTS (SELECT 1 FROM jobs j, json_each(j.tags) AS each WHERE j.seq = ?1 AND each.value = ?2)",
    [STK_SQL_JOB_LISTED] = "SELECT " JOB_COLUMNS ", NULL, CASE WHEN receipt IS NOT NULL THEN '{}' END FROM jobs"
                           " WHERE seq = ?1",
    [STK_SQL_JOB_COUNTS] = "SELECT state, count(*) FROM jobs INDEXED BY jobs_ended WHERE state >= 4 GROUP BY state",
    [STK_SQL_JOB_LIVE] =
        "SELECT " JOB_COLUMNS ", result, receipt, coalesce((SELECT config FROM job_configs WHERE job = seq), '{}')"
        " FROM jobs INDEXED BY jobs_live WHERE state < 4 ORDER BY seq",

    [STK_SQL_CONTEXT_GET] = "SELECT " CONTEXT_COLUMNS ", spec FROM contexts WHERE name = ?1 ORDER BY seq DESC LIMIT 1",
    [STK_SQL_CONTEXT_STAGE] = "SELECT state FROM contexts WHERE id = ?1",
    [STK_SQL_CONTEXT_LIST] = "SELECT " CONTEXT_COLUMNS ", NULL FROM contexts INDEXED BY contexts_live"
                             " WHERE state < 3 AND name <> '' ORDER BY seq DESC", /* nameless ones are kept warm */
    [STK_SQL_CONTEXT_LIVE] =
        "SELECT " CONTEXT_COLUMNS ", spec FROM contexts INDEXED BY contexts_live WHERE state < 3 ORDER BY seq",

    [STK_SQL_BINARY_GET] = "SELECT " BINARY_COLUMNS " FROM binaries b JOIN binary_versions v ON v.binary = b.id"
                           " WHERE b.name = ?1 ORDER BY v.uploaded_us DESC LIMIT 1",
    [STK_SQL_BINARY_LIST] =
        "SELECT " BINARY_COLUMNS " FROM binaries b JOIN binary_versions v ON v.version ="
        " (SELECT version FROM binary_versions WHERE binary = b.id ORDER BY uploaded_us DESC LIMIT 1)"
        " ORDER BY b.name",

    [STK_SQL_BINARY_VERSIONS] = "SELECT " BINARY_COLUMNS " FROM binaries b JOIN binary_versions v ON v.binary = b.id"
                                " WHERE b.name = ?1 ORDER BY v.uploaded_us DESC",

    /* To whom something is due, and since when: one step through the index for each. */
    [STK_SQL_DELIVERY_ORIGINS] =
        "WITH RECURSIVE o (origin) AS"
        " (SELECT min(origin) FROM deliveries INDEXED BY deliveries_due WHERE state = 1 UNION ALL"
        "  SELECT (SELECT min(origin) FROM deliveries INDEXED BY deliveries_due WHERE state = 1 AND origin > o.origin)"
        "  FROM o WHERE o.origin IS NOT NULL)"
        " SELECT origin, (SELECT min(due_us) FROM deliveries d INDEXED BY deliveries_due"
        "  WHERE d.state = 1 AND d.origin = o.origin)"
        " FROM o WHERE origin IS NOT NULL",
    [STK_SQL_DELIVERIES_OF] =
        "SELECT " DELIVERY_COLUMNS ", d.secret FROM deliveries d INDEXED BY deliveries_due"
        " JOIN jobs j ON j.seq = d.job WHERE d.state = 1 AND d.origin = ?1 ORDER BY d.due_us LIMIT ?2",
    [STK_SQL_DELIVERY_LIST] = DELIVERY_LIST("NOT INDEXED", ""),
    [STK_SQL_DELIVERY_LIST_STATE] = DELIVERY_LIST("INDEXED BY deliveries_state", " AND d.state = ?3"),
    [STK_SQL_DELIVERY_LIST_JOB] =
        DELIVERY_LIST("INDEXED BY deliveries_job", " AND d.job = (SELECT seq FROM jobs WHERE id = ?5)"),
    [STK_SQL_DELIVERY_WAITS] = "SELECT EXISTS (SELECT 1 FROM deliveries WHERE state = 0)",

    [STK_SQL_EVENT_LIST] =
        "SELECT seq, at_us, kind, context_id, job_id, state, data, context_name, from_state, attempt FROM events"
        " WHERE seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3",
    [STK_SQL_EVENT_RANGE] = "SELECT (SELECT min(seq) FROM events), (SELECT max(seq) FROM events)",
    [STK_SQL_EVENT_TIME] = "SELECT seq, at_us FROM events WHERE seq >= ?1 ORDER BY seq LIMIT 1",

    [STK_SQL_PROCESS_LIST] =
        "SELECT context_id, role, process, pid, start_time, boot_id FROM processes ORDER BY context_id, process",

    [STK_SQL_VERSIONS_REPLACED] =
        "SELECT v.version FROM binary_versions v WHERE (SELECT min(newer.uploaded_us) FROM binary_versions newer"
        " WHERE newer.binary = v.binary AND newer.uploaded_us > v.uploaded_us) < ?1 ORDER BY v.version",
    /* ?1 to ?2: a range of seq. Many jobs have the same text, so it is taken apart once. */
    [STK_SQL_VERSIONS_USED] =
        "SELECT DISTINCT json_extract(each.value, '$.version') FROM"
        " (SELECT DISTINCT binaries FROM jobs WHERE seq BETWEEN ?1 AND ?2 AND json_valid(binaries)) AS some,"
        " json_each(some.binaries) AS each",
    [STK_SQL_JOB_RANGE] = "SELECT (SELECT min(seq) FROM jobs), (SELECT max(seq) FROM jobs)",
    [STK_SQL_KNOWS] =
        "SELECT EXISTS (SELECT 1 FROM jobs WHERE id = ?1) OR EXISTS (SELECT 1 FROM contexts WHERE id = ?1)",
};
