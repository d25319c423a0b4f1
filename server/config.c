#include "config_internal.h"

#include "stoker/buf.h"
#include "stoker/hocon.h"
#include "stoker/webhook.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pwd.h>
#include <string.h>

enum { TEXT_MAX_BYTES = 64 * 1024 }; /* one value */

#define KiB INT64_C(1024)
#define MiB (1024 * KiB)
#define GiB (1024 * MiB)
#define TiB (1024 * GiB)
#define SECOND INT64_C(1000)
#define MINUTE (60 * SECOND)
#define HOUR (60 * MINUTE)
#define DAY (24 * HOUR)

#define FIELD(name) offsetof(struct stk_config, name)

static const struct stk_key keys[] = {
    { "listen", LISTEN, FIELD(listen), "127.0.0.1:8090", 0, 0,
      "Addresses to take requests on, at most 8: [ \"127.0.0.1:8090\", \"127.0.0.1:8091\" ]. Port 0 picks a free one.\n"
      "There is no authentication yet: an address that is not loopback needs insecure = true." },
    { "insecure", BOOL, FIELD(insecure), "false", 0, 0,
      "Allow addresses that are not loopback. Whoever reaches one can run any code as this server's user." },
    { "state-dir", PATH, FIELD(state_dir), "", 0, 0,
      "Where everything is kept: database, binaries, results, logs. One server at a time. Empty: $STATE_DIRECTORY\n"
      "(systemd sets it), else $XDG_STATE_HOME/stoker, else ~/.local/state/stoker." },
    { "log-level", LEVEL, FIELD(log_level), "info", 0, 0,
      "debug, info, warn or error. The log goes to standard error." },
    { "python", COMMAND, FIELD(python), "", 0, 0,
      "The interpreter that contexts run on; it needs pyspark. Empty: the virtual environment beside the program "
      "(build/venv,\n"
      "lib/stoker/venv), then python3 in PATH." },
    { "runner-dir", PATH, FIELD(runner_dir), "", 0, 0,
      "The folder that holds stoker_runner. Empty: found beside the program." },
    { "java-home", PATH, FIELD(java_home), "", 0, 0,
      "The Java that Spark runs on, 17 or later. Empty: $JAVA_HOME, else java in PATH." },
    { "class-data-archive", BOOL, FIELD(class_data_archive), "true", 0, 0,
      "Make a class-data archive of Spark, once, in the background, when a context runs, and start later contexts with "
      "it:\nthey start in less than half the time. About 200 MB for each Java and pyspark." },
    { "class-data-dir", PATH, FIELD(class_data_dir), "", 0, 0,
      "Where these archives lie; servers of one user may share it. Empty: class-data in the state directory." },
    { "http-threads", INT, FIELD(http_threads), "256", 4, 4096, "Connections that are served at once." },
    { "max-waiting", INT, FIELD(max_waiting), "160", 1, 4095,
      "How many of them may wait for a job or a context. Beyond: 503 with Retry-After. Less than http-threads." },
    { "max-streams", INT, FIELD(max_streams), "128", 0, 65536,
      "How many logs and events may be followed, and long results read, at once; they take no thread. Beyond: 503 "
      "with\n"
      "Retry-After, and results take threads." },
    { "stream-timeout", TIME, FIELD(stream_timeout_ms), "5min", 100, 24 * HOUR,
      "How long who follows a log, or reads a long result, may take nothing of it before the connection is cut." },
    { "request-timeout", TIME, FIELD(request_timeout_ms), "30s", 100, HOUR,
      "How long a client may take to send its request, or be silent while it uploads." },
    { "keep-alive-timeout", TIME, FIELD(keep_alive_timeout_ms), "5s", 0, HOUR,
      "How long a connection stays open without a request. An open one holds a thread." },
    { "max-body", SIZE, FIELD(max_body_bytes), "30MiB", KiB, 60 * MiB,
      "The longest job or context config that is taken." },
    { "max-upload", SIZE, FIELD(max_upload_bytes), "2GiB", KiB, 64 * GiB, "The largest binary that is taken." },
    { "max-unpacked", SIZE, FIELD(max_unpacked_bytes), "4GiB", KiB, 256 * GiB,
      "The most that a binary may hold when unpacked." },
    { "max-archive-entries", INT, FIELD(max_archive_entries), "100000", 1, 10000000,
      "The most files and folders that a binary may hold." },
    { "max-contexts", INT, FIELD(max_contexts), "32", 1, 1000, "Contexts at once. Each is a JVM of 300 MB and more." },
    { "warm-contexts", INT, FIELD(warm_contexts), "0", 0, 100,
      "Contexts kept started ahead with the default settings, so that a create that asks for no others has its context "
      "at once.\n"
      "They count as contexts, and give way when max-contexts is reached. In Spark's own pages they keep the name they "
      "started with." },
    { "max-jobs", INT, FIELD(max_jobs), "8", 1, 1000,
      "Jobs that run at once in a context, unless its settings say otherwise. The others wait." },
    { "max-queue", INT, FIELD(max_queue), "10000", 0, 1000000, "Jobs that may wait in a context. Beyond: 503." },
    { "context-create-timeout", TIME, FIELD(context_create_timeout_ms), "1min", SECOND, DAY,
      "How long a request waits for its new context." },
    { "context-delete-timeout", TIME, FIELD(context_delete_timeout_ms), "15s", SECOND, DAY,
      "How long a request waits for its context to end." },
    { "cancel-grace", TIME, FIELD(cancel_grace_ms), "1s", 0, HOUR,
      "What a cancelled job gets from the interrupt to the kill." },
    { "stop-grace", TIME, FIELD(stop_grace_ms), "10s", 0, HOUR,
      "What contexts get to end when the server is stopped. At least cancel-grace." },
    { "worker-idle-timeout", TIME, FIELD(worker_idle_timeout_ms), "5min", SECOND, 365 * DAY,
      "How long a Python process that has run jobs is kept for more of them." },
    { "queue-timeout", TIME, FIELD(queue_timeout_ms), "0s", 0, 365 * DAY,
      "How long a job may wait for a slot before it ends as TIMED_OUT. 0s: for ever. Like the next five a default: a "
      "context's\n"
      "settings beat it, and what a job's request says beats these." },
    { "run-timeout", TIME, FIELD(run_timeout_ms), "0s", 0, 365 * DAY,
      "How long a job may run; then it is cancelled and ends as TIMED_OUT. 0s: for ever." },
    { "idle-timeout", TIME, FIELD(idle_timeout_ms), "0s", 0, 365 * DAY,
      "A context that had no job for so long is stopped. 0s: never." },
    { "lifetime", TIME, FIELD(lifetime_ms), "0s", 0, 365 * DAY,
      "A context of this age is stopped, with the jobs that it has then. 0s: never." },
    { "max-memory", SIZE, FIELD(max_memory_bytes), "0KiB", 0, 64 * TiB,
      "Memory that a job's Python process may take beyond what it began with. 0KiB: no limit." },
    { "isolation", ISOLATION, FIELD(isolated), "shared", 0, 0,
      "\"shared\": jobs of the same binaries run one after the other in the same Python process. \"process\": each "
      "gets a fresh one." },
    { "max-result", SIZE, FIELD(max_result_bytes), "1GiB", KiB, 64 * GiB,
      "The longest result of a job. Contexts and jobs may have lower limits." },
    { "max-log", SIZE, FIELD(max_log_bytes), "4GiB", KiB, TiB,
      "The most that a job may print, standard output and standard error each. A job that prints more is ended." },
    { "keep-jobs", TIME, FIELD(keep_jobs_ms), "30d", 0, 3650 * DAY,
      "How long a job is kept after its end: its record, result, logs and events. The same for contexts. 0s: for "
      "ever." },
    { "max-stored-jobs", INT, FIELD(max_stored_jobs), "1000000", 0, 100000000,
      "Jobs that are stored; the oldest that have ended go first, with all that belongs to them. 0: no limit." },
    { "max-stored-results", SIZE, FIELD(max_stored_results_bytes), "20GiB", 0, 1024 * TiB,
      "Results that are longer than 64KiB, together. The oldest go first; the records of their jobs stay. 0KiB: no "
      "limit." },
    { "max-stored-logs", SIZE, FIELD(max_stored_logs_bytes), "10GiB", 0, 1024 * TiB,
      "What jobs and contexts that have ended left in their logs, together. The oldest go first. 0KiB: no limit." },
    { "keep-binaries", TIME, FIELD(keep_binaries_ms), "30d", 0, 3650 * DAY,
      "How long a version of a binary is kept after a newer one of its name came, unless a stored job ran with it, "
      "or a\ncontext may still need it for what jobs have left there (named objects, views, UDFs). The newest "
      "version of a\nname is never removed. 0s: for ever." },
    { "disk-reserve", SIZE, FIELD(disk_reserve_bytes), "1GiB", 0, 1024 * TiB,
      "When the disk of state-dir has less free, new jobs, contexts and binaries are refused with 507; everything else "
      "goes\non, and needs this room. 0KiB: no reserve." },
    { "webhooks", URLS, FIELD(webhooks), "", 0, 0,
      "URLs to which the end of every job is told by a POST: [ \"https://hooks.example.org/stoker\" ]. What is sent, "
      "and "
      "how\noften, is in docs/webhooks.md. A job may name one more for itself." },
    { "webhook-secret-file", PATH, FIELD(webhook_secret_file), "", 0, 0,
      "A file whose first line is the secret with which deliveries are signed, unless their job has named one. Empty: "
      "those are\nnot signed." },
    { "webhook-allow", ALLOWED, FIELD(webhook_allow), "public", 0, 0,
      "Where the webhooks that jobs name may lead: \"public\" addresses, \"private\" ones (10.0.0.0/8 and its like), "
      "\"loopback\",\n"
      "\"link-local\", \"any\", an address or a range (\"10.1.0.0/16\"), the name of a host, whatever its address "
      "(\"hooks.example.org\",\n"
      "\"*.example.org\"). Whoever may submit jobs can have the server send requests there. Those of webhooks may lead "
      "anywhere." },
    { "webhook-connect-timeout", TIME, FIELD(webhook_connect_timeout_ms), "3s", 10, 5 * MINUTE,
      "How long it may take to connect to a webhook." },
    { "webhook-timeout", TIME, FIELD(webhook_timeout_ms), "10s", 10, HOUR,
      "How long a delivery may take, from the connect to the answer." },
    { "webhook-retry", TIME, FIELD(webhook_retry_ms), "1s", 1, HOUR,
      "The pause after the first failed attempt to deliver. It doubles with each attempt, and half of it is left to "
      "chance." },
    { "webhook-retry-max", TIME, FIELD(webhook_retry_max_ms), "1h", 1, DAY,
      "The longest pause between two attempts, also when the receiver asks for a longer one." },
    { "webhook-give-up", TIME, FIELD(webhook_give_up_ms), "1d", 0, 365 * DAY,
      "How long after the end of its job a delivery is tried. What is given up is logged, and listed by GET "
      "/v1/deliveries." },
    { "webhook-max-result", SIZE, FIELD(webhook_max_result_bytes), "16MiB", 0, GiB,
      "The longest result that is sent to a callbackUrl of Spark Job Server. Beyond, the body says how long it is." },
    { "spark-conf", SPARK_CONF, FIELD(spark_conf), "spark.master=local[*]", 0, 0,
      "Spark settings of every context, \"name=value\" each: [ \"spark.driver.memory=2g\", \"spark.executor.cores=2\" "
      "].\n"
      "What is named here beats the default, what the request for a context names beats both." },
    { "context-settings", HOCON, FIELD(context_settings), "", 0, 0,
      "Defaults of the context settings of Spark Job Server, in HOCON: \"num-cpu-cores = 2, memory-per-node = 1g\"." },
    { "contexts", HOCON, FIELD(contexts), "", 0, 0,
      "Contexts that start with the server, and again at PUT /contexts?reset=reboot, in HOCON: a name each with what "
      "its "
      "settings\nhave beside context-settings: \"reports { num-cpu-cores = 2 }, sql { context-factory = sql }\"." },
};

static void *field(const struct stk_config *c, const struct stk_key *key)
{
    return (char *)(uintptr_t)c + key->offset;
}

/* ---- units */

struct unit {
    const char *name;
    int64_t factor;
};
static const struct unit size_units[] = {
    { "TiB", TiB }, { "GiB", GiB }, { "MiB", MiB }, { "KiB", KiB }, { "B", 1 }, { NULL, 0 },
};
static const struct unit time_units[] = {
    { "d", DAY }, { "h", HOUR }, { "min", MINUTE }, { "s", SECOND }, { "ms", 1 }, { NULL, 0 },
};

static const struct unit *units_of(const struct stk_key *key)
{
    return key->kind == SIZE ? size_units : time_units;
}

#define AMOUNT_MAX 32

/* In the largest unit that leaves a whole number: 90000 is "90s", 60000 "1min"; 0 in the smallest but one ("0s", "0KiB"). */
static const char *print_amount(char buf[AMOUNT_MAX], const struct unit *units, int64_t n)
{
    const struct unit *u = units;

    if (n == 0)
        while (u[2].name)
            u++;
    else
        while (n % u->factor)
            u++;
    snprintf(buf, AMOUNT_MAX, "%lld%s", (long long)(n / u->factor), u->name);
    return buf;
}

/* 0, or -1: not a whole number with one of the units, or too large for any purpose. */
static int parse_amount(const char *text, const struct unit *units, int64_t *ret)
{
    size_t digits = strspn(text, "0123456789");
    const char *unit = text + digits;
    char number[20];
    int64_t n;

    if (digits == 0 || digits >= sizeof number)
        return -1;
    memcpy(number, text, digits);
    number[digits] = '\0';
    if (stk_parse_i64(number, 0, INT64_MAX, &n, NULL) < 0)
        return -1;
    unit += *unit == ' ';
    for (; units->name; units++)
        if (strcmp(unit, units->name) == 0)
            return __builtin_mul_overflow(n, units->factor, ret) ? -1 : 0;
    return -1;
}

/* ---- what a key takes, in words */

#define EXPECTED_MAX 160

static const char *expected(char buf[EXPECTED_MAX], const struct stk_key *key)
{
    char min[AMOUNT_MAX], max[AMOUNT_MAX];

    switch (key->kind) {
    case BOOL: return "true or false";
    case INT:
        snprintf(buf, EXPECTED_MAX, "a whole number from %lld to %lld", (long long)key->min, (long long)key->max);
        return buf;
    case SIZE:
    case TIME:
        snprintf(buf, EXPECTED_MAX, "a %s from \"%s\" to \"%s\", with its unit (%s), such as \"%s\"",
                 key->kind == SIZE ? "size" : "time", print_amount(min, units_of(key), key->min),
                 print_amount(max, units_of(key), key->max),
                 key->kind == SIZE ? "B, KiB, MiB, GiB, TiB" : "ms, s, min, h, d", key->preset);
        return buf;
    case LEVEL: return "\"debug\", \"info\", \"warn\" or \"error\"";
    case LISTEN:
        return "a numeric address with a port, such as \"127.0.0.1:8090\" or \"[::1]:8090\", or a list of them";
    case SPARK_CONF:
        return "a list of \"name=value\" with names that begin with spark., such as [ \"spark.driver.memory=2g\" ]";
    case HOCON: return "a text in HOCON, such as \"num-cpu-cores = 2\"";
    case ISOLATION: return "\"shared\" or \"process\"";
    case URLS: return "a list of URLs, such as [ \"https://hooks.example.org/stoker\" ]";
    case ALLOWED: return "a list such as [ \"public\", \"10.0.0.0/8\", \"*.example.org\" ]";
    case PATH:
    case COMMAND: break;
    }
    return "a text in double quotes";
}

int stk_key_refuse(const struct stk_key *key, const char *got, struct stk_err *err)
{
    char buf[EXPECTED_MAX];

    if (!got)
        return stk_fail(err, STK_INVALID, "%s: expected %s", key->name, expected(buf, key));
    return stk_fail(err, STK_INVALID, "%s: expected %s; got %.*s", key->name, expected(buf, key),
                    (int)stk_utf8_cut(got, 60), got);
}

static int fail_text(const struct stk_key *key, const char *text, struct stk_err *err)
{
    char quoted[72];

    snprintf(quoted, sizeof quoted, "\"%.*s\"", (int)stk_utf8_cut(text, 56), text);
    return stk_key_refuse(key, quoted, err);
}

/* ---- setting one key from text */

static int no_memory(struct stk_err *err)
{
    return stk_fail(err, STK_INTERNAL, "out of memory");
}

static int replace(char **place, char *text, struct stk_err *err)
{
    if (!text)
        return no_memory(err);
    free(*place);
    *place = text;
    return 0;
}

/* Contexts run in folders of their own, so a path has to mean the same everywhere. Empty stays empty. */
static char *absolute(const char *path)
{
    stk_auto_free char *cwd = NULL;
    stk_auto_buf b = { 0 };

    if (*path == '/' || !*path)
        return strdup(path);
    if (!(cwd = getcwd(NULL, 0)))
        return NULL;
    stk_buf_printf(&b, "%s/%s", cwd, path);
    return stk_buf_steal(&b);
}

struct address {
    int family;
    struct in_addr in;
    struct in6_addr in6;
    uint64_t port;
};

static int parse_address(const char *text, struct address *ret)
{
    const char *colon = strrchr(text, ':');
    struct address a = { 0 };
    char host[INET6_ADDRSTRLEN];
    size_t len;

    if (!colon || stk_parse_u64(colon + 1, 0, 65535, &a.port, NULL) < 0)
        return -1;
    len = (size_t)(colon - text);
    if (len >= 2 && text[0] == '[' && text[len - 1] == ']') {
        a.family = AF_INET6;
        text++;
        len -= 2;
    } else {
        a.family = AF_INET;
    }
    if (len >= sizeof host)
        return -1;
    memcpy(host, text, len);
    host[len] = '\0';
    if (a.family == AF_INET && strcmp(host, "localhost") == 0)
        a.in.s_addr = htonl(INADDR_LOOPBACK);
    else if (inet_pton(a.family, host, a.family == AF_INET ? (void *)&a.in : (void *)&a.in6) != 1)
        return -1;
    *ret = a;
    return 0;
}

static bool is_loopback(const struct address *a)
{
    if (a->family == AF_INET)
        return ntohl(a->in.s_addr) >> 24 == 127;
    return IN6_IS_ADDR_LOOPBACK(&a->in6) || (IN6_IS_ADDR_V4MAPPED(&a->in6) && a->in6.s6_addr[12] == 127);
}

void stk_config_clear_listen(struct stk_config *c)
{
    while (c->n_listen > 0)
        free(c->listen[--c->n_listen]);
}

static int add_listen(struct stk_config *c, const struct stk_key *key, const char *text, struct stk_err *err)
{
    char host[INET6_ADDRSTRLEN];
    stk_auto_buf b = { 0 };
    struct address a;

    if (parse_address(text, &a) < 0)
        return fail_text(key, text, err);
    if (c->n_listen == STK_LISTEN_MAX)
        return stk_fail(err, STK_INVALID, "listen: at most %d addresses", STK_LISTEN_MAX);
    inet_ntop(a.family, a.family == AF_INET ? (void *)&a.in : (void *)&a.in6, host, sizeof host);
    stk_buf_printf(&b, a.family == AF_INET ? "%s:%llu" : "[%s]:%llu", host, (unsigned long long)a.port);
    if (!(c->listen[c->n_listen] = stk_buf_steal(&b)))
        return no_memory(err);
    c->n_listen++;
    return 0;
}

static int add_spark_conf(struct stk_config *c, const struct stk_key *key, const char *text, struct stk_err *err)
{
    const char *equals = strchr(text, '=');
    stk_auto_free char *name = NULL;

    if (!equals || strncmp(text, "spark.", 6) != 0 || equals == text + 6)
        return fail_text(key, text, err);
    if (!(name = strndup(text, (size_t)(equals - text))) ||
        json_object_set_new(c->spark_conf, name, json_string(equals + 1)) < 0)
        return no_memory(err);
    return 0;
}

static int set_hocon(json_t **place, const struct stk_key *key, const char *text, struct stk_err *err)
{
    json_t *settings = stk_hocon_parse(text, strlen(text), NULL, err);

    if (!settings) {
        stk_err_prefix(err, "%s", key->name);
        return -1;
    }
    json_decref(*place);
    *place = settings;
    return 0;
}

void stk_key_clear_list(struct stk_config *c, const struct stk_key *key)
{
    if (key->kind == LISTEN)
        stk_config_clear_listen(c);
    else if (key->kind == URLS || key->kind == ALLOWED)
        json_array_clear(*(json_t **)field(c, key));
}

/* One more of a list of texts; a preset "" makes an empty one. */
static int add_webhook_text(struct stk_config *c, const struct stk_key *key, const char *text, struct stk_err *err)
{
    stk_auto_free char *origin = NULL;
    json_t **list = field(c, key);

    if (!*list && !(*list = json_array()))
        return no_memory(err);
    if (!*text && json_array_size(*list) == 0)
        return 0;
    if ((key->kind == URLS ? stk_webhook_url_check(text, &origin, err) : stk_webhook_allow_check(text, err)) < 0) {
        stk_err_prefix(err, "%s", key->name);
        return -1;
    }
    return json_array_append_new(*list, json_string(text)) < 0 ? no_memory(err) : 0;
}

int stk_key_set(struct stk_config *c, const struct stk_key *key, const char *text, struct stk_err *err)
{
    void *place = field(c, key);
    int64_t n;

    if (strlen(text) > TEXT_MAX_BYTES)
        return stk_fail(err, STK_INVALID, "%s: longer than %d bytes", key->name, TEXT_MAX_BYTES);
    if (!stk_utf8_valid(text, strlen(text)))
        return stk_fail(err, STK_INVALID, "%s: not UTF-8", key->name);

    switch (key->kind) {
    case BOOL:
        if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0)
            return stk_key_refuse(key, text, err);
        *(bool *)place = strcmp(text, "true") == 0;
        return 0;
    case INT:
        if (stk_parse_i64(text, key->min, key->max, &n, NULL) < 0)
            return stk_key_refuse(key, text, err);
        *(int64_t *)place = n;
        return 0;
    case SIZE:
    case TIME:
        if (parse_amount(text, units_of(key), &n) < 0 || n < key->min || n > key->max)
            return fail_text(key, text, err);
        *(int64_t *)place = n;
        return 0;
    case LEVEL: return stk_log_level_parse(text, place) < 0 ? fail_text(key, text, err) : 0;
    case PATH: return replace(place, absolute(text), err);
    case COMMAND: /* a bare name is looked for in PATH */
        return replace(place, strchr(text, '/') ? absolute(text) : strdup(text), err);
    case LISTEN: return add_listen(c, key, text, err);
    case SPARK_CONF: return add_spark_conf(c, key, text, err);
    case HOCON: return set_hocon(place, key, text, err);
    case ISOLATION:
        if (strcmp(text, "shared") != 0 && strcmp(text, "process") != 0)
            return fail_text(key, text, err);
        *(bool *)place = strcmp(text, "process") == 0;
        return 0;
    case URLS:
    case ALLOWED: return add_webhook_text(c, key, text, err);
    }
    return stk_fail(err, STK_INTERNAL, "%s: no such kind of key", key->name);
}

/* ---- names */

const struct stk_key *stk_key_find(const char *name)
{
    for (size_t i = 0; i < STK_LEN(keys); i++)
        if (strcmp(keys[i].name, name) == 0)
            return &keys[i];
    return NULL;
}

enum { NAME_MAX_BYTES = 40 };

/* Letters to change, add or drop to get from a to b; _ and - count as the same. */
static size_t distance(const char *a, const char *b)
{
    size_t row[NAME_MAX_BYTES + 1], len = strlen(b);

    for (size_t j = 0; j <= len; j++)
        row[j] = j;
    for (size_t i = 0; a[i]; i++) {
        size_t diagonal = row[0];

        row[0] = i + 1;
        for (size_t j = 0; j < len; j++) {
            bool same = a[i] == b[j] || (a[i] == '_' && b[j] == '-');
            size_t best = diagonal + !same;

            diagonal = row[j + 1];
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (diagonal + 1 < best)
                best = diagonal + 1;
            row[j + 1] = best;
        }
    }
    return row[len];
}

int stk_key_unknown(const char *name, struct stk_err *err)
{
    const struct stk_key *nearest = NULL;
    size_t least = 1 + strlen(name) / 3;

    if (least > 4)
        least = 4;
    for (size_t i = 0; i < STK_LEN(keys); i++) {
        size_t d = strlen(name) > NAME_MAX_BYTES ? SIZE_MAX : distance(name, keys[i].name);

        if (d < least) {
            least = d;
            nearest = &keys[i];
        }
    }
    if (nearest)
        return stk_fail(err, STK_INVALID, "unknown key '%s'; did you mean '%s'?", name, nearest->name);
    return stk_fail(err, STK_INVALID, "unknown key '%.60s'; --print-config lists all keys", name);
}

/* ---- defaults */

static int default_state_dir(char **place, struct stk_err *err)
{
    const char *systemd = getenv("STATE_DIRECTORY"), *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    const struct passwd *user;
    stk_auto_buf b = { 0 };

    if (systemd && *systemd == '/') {
        stk_buf_add(&b, systemd, strcspn(systemd, ":")); /* it may list several */
    } else if (xdg && *xdg == '/') {
        stk_buf_printf(&b, "%s/stoker", xdg);
    } else {
        if ((!home || *home != '/') && (user = getpwuid(geteuid())))
            home = user->pw_dir;
        if (!home || *home != '/')
            return stk_fail(err, STK_INVALID, "state-dir: there is no home directory to put it in; name one");
        stk_buf_printf(&b, "%s/.local/state/stoker", home);
    }
    return replace(place, stk_buf_steal(&b), err);
}

int stk_config_load(struct stk_config *ret, const char *path, struct stk_err *err)
{
    struct stk_config c = { .spark_conf = json_object() };

    for (size_t i = 0; i < STK_LEN(keys); i++)
        if (stk_key_set(&c, &keys[i], keys[i].preset, err) < 0)
            goto fail;
    if (path && stk_config_read_file(&c, path, err) < 0)
        goto fail;
    if (!*c.state_dir && default_state_dir(&c.state_dir, err) < 0)
        goto fail;
    *ret = c;
    return 0;
fail:
    stk_config_done(&c);
    return -1;
}

int stk_config_set(struct stk_config *c, const char *name, const char *value, struct stk_err *err)
{
    const struct stk_key *key = stk_key_find(name);

    if (!key)
        return stk_key_unknown(name, err);
    if (key->kind == PATH && !*value)
        return stk_fail(err, STK_INVALID, "%s: expected a path; got nothing", name);
    if (key->kind == LISTEN && !c->listen_set) {
        stk_config_clear_listen(c); /* the first one replaces what the file says, the next ones are added */
        c->listen_set = true;
    }
    return stk_key_set(c, key, value, err);
}

/* ---- several keys at once */

int stk_config_check(const struct stk_config *c, struct stk_err *err)
{
    if (c->n_listen == 0)
        return stk_fail(err, STK_INVALID, "listen: no address to listen on");
    for (size_t i = 0; i < c->n_listen; i++) {
        struct address a;

        if (parse_address(c->listen[i], &a) < 0)
            return stk_fail(err, STK_INTERNAL, "listen: %s", c->listen[i]);
        if (!c->insecure && !is_loopback(&a))
            return stk_fail(err, STK_INVALID,
                            "listen: %s is not a loopback address, and whoever reaches it could run code as this user; "
                            "use 127.0.0.1, or say insecure = true",
                            c->listen[i]);
        for (size_t k = 0; k < i; k++)
            if (a.port != 0 && strcmp(c->listen[i], c->listen[k]) == 0)
                return stk_fail(err, STK_INVALID, "listen: %s is there twice", c->listen[i]);
    }
    if (c->max_waiting >= c->http_threads)
        return stk_fail(err, STK_INVALID,
                        "max-waiting (%lld) must be less than http-threads (%lld), or waiting requests stop the server",
                        (long long)c->max_waiting, (long long)c->http_threads);
    if (c->stop_grace_ms < c->cancel_grace_ms)
        return stk_fail(err, STK_INVALID, "stop-grace (%lld ms) must be at least cancel-grace (%lld ms)",
                        (long long)c->stop_grace_ms, (long long)c->cancel_grace_ms);
    if (c->webhook_connect_timeout_ms > c->webhook_timeout_ms)
        return stk_fail(err, STK_INVALID,
                        "webhook-connect-timeout (%lld ms) must not be longer than webhook-timeout (%lld ms)",
                        (long long)c->webhook_connect_timeout_ms, (long long)c->webhook_timeout_ms);
    if (c->webhook_retry_ms > c->webhook_retry_max_ms)
        return stk_fail(err, STK_INVALID, "webhook-retry (%lld ms) must not be longer than webhook-retry-max (%lld ms)",
                        (long long)c->webhook_retry_ms, (long long)c->webhook_retry_max_ms);
    if (json_string_length(json_object_get(c->spark_conf, "spark.master")) == 0)
        return stk_fail(err, STK_INVALID,
                        "spark-conf: spark.master is empty; \"spark.master=local[*]\" is the default");
    return 0;
}

/* ---- printing */

static void print_text(FILE *out, const char *text)
{
    fputc('"', out);
    for (const char *p = text; *p; p++) {
        if (*p == '"' || *p == '\\')
            fprintf(out, "\\%c", *p);
        else if (*p == '\n')
            fputs("\\n", out);
        else if (*p == '\t')
            fputs("\\t", out);
        else if ((unsigned char)*p < 0x20 || *p == 0x7f)
            fprintf(out, "\\x%02x", (unsigned char)*p);
        else
            fputc(*p, out);
    }
    fputc('"', out);
}

static void print_value(FILE *out, const struct stk_config *c, const struct stk_key *key)
{
    static const char *const levels[] = { "debug", "info", "warn", "error" };
    const void *place = field(c, key);
    char amount[AMOUNT_MAX];
    const char *name;
    json_t *value;
    stk_auto_free char *text = NULL;

    switch (key->kind) {
    case BOOL: fputs(*(const bool *)place ? "true" : "false", out); return;
    case INT: fprintf(out, "%lld", (long long)*(const int64_t *)place); return;
    case SIZE:
    case TIME: fprintf(out, "\"%s\"", print_amount(amount, units_of(key), *(const int64_t *)place)); return;
    case LEVEL: fprintf(out, "\"%s\"", levels[*(const enum stk_log_level *)place]); return;
    case PATH:
    case COMMAND: print_text(out, *(char *const *)place); return;
    case LISTEN:
        for (size_t i = 0; i < c->n_listen; i++) {
            fputs(i ? ", " : "[ ", out);
            print_text(out, c->listen[i]);
        }
        fputs(" ]", out);
        return;
    case SPARK_CONF: {
        const char *before = "[ ";

        json_object_foreach(c->spark_conf, name, value) {
            stk_auto_buf pair = { 0 };

            stk_buf_printf(&pair, "%s=%s", name, json_string_value(value));
            fputs(before, out);
            print_text(out, pair.data ? pair.data : "");
            before = ", ";
        }
        fputs(" ]", out);
        return;
    }
    case HOCON:
        if (json_object_size(*(json_t *const *)place) > 0)
            text = json_dumps(*(json_t *const *)place, JSON_COMPACT);
        print_text(out, text ? text : "");
        return;
    case URLS:
    case ALLOWED: {
        size_t i;

        fputs("[", out);
        json_array_foreach(*(json_t *const *)place, i, value) {
            fputs(i ? ", " : " ", out);
            print_text(out, json_string_value(value));
        }
        fputs(" ]", out);
        return;
    }
    case ISOLATION: fputs(*(const bool *)place ? "\"process\"" : "\"shared\"", out); return;
    }
}

void stk_config_print(const struct stk_config *c, FILE *out)
{
    fputs(
        "# Configuration of stokerd. Sizes and times are texts with a unit: B, KiB, MiB, GiB, TiB; ms, s, min, h, d.\n",
        out);
    for (size_t i = 0; i < STK_LEN(keys); i++) {
        const struct stk_key *key = &keys[i];
        char min[AMOUNT_MAX], max[AMOUNT_MAX];

        fputs("\n# ", out);
        for (const char *p = key->help; *p; p++) {
            fputc(*p, out);
            if (*p == '\n')
                fputs("# ", out);
        }
        if (key->kind == INT)
            fprintf(out, "\n# %lld to %lld, default %s.", (long long)key->min, (long long)key->max, key->preset);
        if (key->kind == SIZE || key->kind == TIME)
            fprintf(out, "\n# %s to %s, default %s.", print_amount(min, units_of(key), key->min),
                    print_amount(max, units_of(key), key->max), key->preset);
        fprintf(out, "\n%s = ", key->name);
        print_value(out, c, key);
        fputs(";\n", out);
    }
}

void stk_config_done(struct stk_config *c)
{
    stk_config_clear_listen(c);
    for (size_t i = 0; i < STK_LEN(keys); i++)
        if (keys[i].kind == PATH || keys[i].kind == COMMAND)
            free(*(char **)field(c, &keys[i]));
    json_decref(c->webhooks);
    json_decref(c->webhook_allow);
    json_decref(c->spark_conf);
    json_decref(c->context_settings);
    json_decref(c->contexts);
    *c = (struct stk_config){ 0 };
}
