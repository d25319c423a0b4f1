/* Context settings, the same in all dialects (docs/dialects/sjs.md), turned into what our core starts contexts from. */
#include "stoker/api.h"
#include "stoker/core.h"
#include "stoker/log.h"
#include "stoker/units.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { LEVELS_MAX = 32, SLOTS_MAX = 1000 };

/* ---- three layers into one */

static int no_memory(struct stk_err *err)
{
    return stk_fail(err, STK_INTERNAL, "out of memory");
}

static int set_path(json_t *root, const struct stk_setting *s, struct stk_err *err)
{
    json_t *at = root;
    const char *part = s->path;

    for (int level = 0;; level++) {
        size_t len = strcspn(part, ".");
        bool last = part[len] == '\0';
        json_t *next = json_object_getn(at, part, len);

        if (len == 0 || level == LEVELS_MAX)
            return stk_fail(err, STK_INVALID, "'%.100s' is not the path of a setting", s->path);
        if (next && last == json_is_object(next))
            return stk_fail(err, STK_INVALID, "the query's setting '%.100s' clashes with another one", s->path);
        if (last)
            return json_object_setn_new(at, part, len, json_string(s->value)) < 0 ? no_memory(err) : 0;
        if (!next) {
            next = json_object();
            if (json_object_setn_new(at, part, len, next) < 0)
                return no_memory(err);
        }
        at = next;
        part += len + 1;
    }
}

json_t *stk_settings_merge(const json_t *defaults, const struct stk_setting *query, size_t n, const json_t *posted,
                           struct stk_err *err)
{
    json_auto_t *merged = json_is_object(defaults) ? json_deep_copy(defaults) : json_object();
    json_auto_t *asked = json_object();
    json_auto_t *last = json_deep_copy(posted);

    for (size_t i = 0; i < n; i++) {
        if (set_path(asked, &query[i], err) < 0)
            return NULL;
    }
    if (!merged || !asked || json_object_update_recursive(merged, asked) < 0 ||
        (json_is_object(last) && json_object_update_recursive(merged, last) < 0)) {
        no_memory(err);
        return NULL;
    }
    return json_incref(merged);
}

/* ---- values as text */

static char *value_text(const json_t *value);

static char *list_text(const json_t *list)
{
    stk_auto_buf out = { 0 };
    json_t *item;
    size_t i;

    json_array_foreach(list, i, item) {
        stk_auto_free char *text = value_text(item);

        if (!text)
            return NULL;
        stk_buf_printf(&out, "%s%s", i ? "," : "", text);
    }
    return stk_buf_steal(&out);
}

static char *value_text(const json_t *value)
{
    if (json_is_string(value))
        return strdup(json_string_value(value));
    if (json_is_array(value))
        return list_text(value);
    return stk_json_text(value, NULL);
}

/* The leaves of a tree under their dotted paths, as texts; null unsets. prefix is the path so far and grows on the way. */
static int flatten(const json_t *tree, struct stk_buf *prefix, json_t *into, struct stk_err *err)
{
    size_t len = prefix->len;
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)tree, key, value) {
        prefix->len = len;
        if (stk_buf_printf(prefix, "%s%s", len ? "." : "", key) < 0)
            return no_memory(err);
        if (json_is_object(value)) {
            if (flatten(value, prefix, into, err) < 0)
                return -1;
        } else if (json_is_null(value)) {
            json_object_del(into, prefix->data);
        } else {
            stk_auto_free char *text = value_text(value);

            if (!text || json_object_set_new(into, prefix->data, json_string(text)) < 0)
                return no_memory(err);
        }
    }
    return 0;
}

static int flatten_block(const json_t *settings, const char *key, const char *path, json_t *into, struct stk_err *err)
{
    const json_t *block = json_object_get(settings, key);
    stk_auto_buf prefix = { 0 };

    if (!block || json_is_null(block))
        return 0;
    if (!json_is_object(block))
        return stk_fail(err, STK_INVALID, "the context setting '%s' must be an object", key);
    if (stk_buf_add_str(&prefix, path) < 0)
        return no_memory(err);
    return flatten(block, &prefix, into, err);
}

/* "spark.executor.memory" = ... in quotes is one key with dots in it, and belongs to spark { } all the same. */
static int flatten_dotted(const json_t *settings, json_t *into, struct stk_err *err)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)settings, key, value) {
        stk_auto_free char *text = NULL;

        if (strncmp(key, "spark.", 6) != 0 || json_is_object(value) || json_is_null(value))
            continue;
        text = value_text(value);
        if (!text || json_object_set_new(into, key, json_string(text)) < 0)
            return no_memory(err);
    }
    return 0;
}

/* ---- what a value must be */

/* 0, or -1: should says what would be right. */
typedef int value_check(const char *text, const char **should);

static int check_count(const char *text, const char **should)
{
    int64_t n;

    *should = "a whole number from 1";
    return stk_parse_i64(text, 1, INT32_MAX, &n, NULL);
}

static int check_slots(const char *text, const char **should)
{
    int64_t n;

    *should = "a whole number from 1 to 1000"; /* SLOTS_MAX */
    return stk_parse_i64(text, 1, SLOTS_MAX, &n, NULL);
}

/* What Spark takes: a number alone is its own unit for each setting. */
static int check_memory(const char *text, const char **should)
{
    size_t n = strspn(text, "0123456789");
    const char *unit = text + n;

    *should = "a size like 512m or 2g";
    if (*unit && strchr("kKmMgGtT", *unit))
        unit++;
    if (*unit == 'b' || *unit == 'B')
        unit++;
    return n > 0 && !*unit ? 0 : -1;
}

/* The words that HOCON has for it. */
static int find_bool(const char *text, bool *ret)
{
    static const char *const words[] = { "false", "true", "no", "yes", "off", "on" };

    for (size_t i = 0; i < STK_LEN(words); i++) {
        if (strcasecmp(text, words[i]) == 0) {
            *ret = i % 2;
            return 0;
        }
    }
    return -1;
}

static int check_bool(const char *text, const char **should)
{
    bool on;

    *should = "true or false";
    return find_bool(text, &on);
}

/* Only these values are repeated to the client: the others may hold passwords. */
static int check_value(const char *prefix, const char *key, const char *text, value_check *check, struct stk_err *err)
{
    const char *should = "";

    if (check(text, &should) == 0)
        return 0;
    return stk_fail(err, STK_INVALID, "the context setting '%s%s' must be %s, not '%.40s'", prefix, key, should, text);
}

/* Looks at what a block has just put into the Spark configuration; prefix leads to its place in the settings. */
static int check_conf(const json_t *conf, const char *prefix, struct stk_err *err)
{
    static const struct {
        const char *key;
        value_check *check;
    } known[] = {
        { "spark.driver.memory", check_memory },
        { "spark.executor.memory", check_memory },
        { "spark.session.hive.enabled", check_bool },
    };

    for (size_t i = 0; i < STK_LEN(known); i++) {
        const char *text = json_string_value(json_object_get(conf, known[i].key));

        if (text && check_value(prefix, known[i].key, text, known[i].check, err) < 0)
            return -1;
    }
    return 0;
}

/* ---- the pieces of a spec */

static int copy_setting(const json_t *settings, const char *from, value_check *check, json_t *into, const char *to,
                        struct stk_err *err)
{
    const json_t *value = json_object_get(settings, from);
    stk_auto_free char *text = NULL;

    if (!value || json_is_null(value))
        return 0;
    if (json_is_object(value) || json_is_array(value))
        return stk_fail(err, STK_INVALID, "the context setting '%s' must be a number or text", from);
    text = value_text(value);
    if (!text)
        return no_memory(err);
    if (check_value("", from, text, check, err) < 0)
        return -1;
    return json_object_set_new(into, to, json_string(text)) < 0 ? no_memory(err) : 0;
}

/* Later steps beat earlier ones. */
static int make_spark_conf(struct stk_context_wish *s, const char *name, const json_t *settings, struct stk_err *err)
{
    json_t *conf = s->spark_conf;
    json_auto_t *master = NULL;

    if (json_object_set_new(conf, "spark.app.name", json_string(name)) < 0)
        return no_memory(err);
    if (copy_setting(settings, "num-cpu-cores", check_count, conf, "spark.cores.max", err) < 0 ||
        copy_setting(settings, "memory-per-node", check_memory, conf, "spark.executor.memory", err) < 0 ||
        flatten_block(settings, "launcher", "", conf, err) < 0 || check_conf(conf, "launcher.", err) < 0)
        return -1;
    master = json_incref(json_object_get(conf, "spark.master")); /* the launcher's beats every other */
    if (flatten_block(settings, "spark", "spark", conf, err) < 0 || flatten_dotted(settings, conf, err) < 0 ||
        check_conf(conf, "", err) < 0 || flatten_block(settings, "passthrough", "", conf, err) < 0 ||
        check_conf(conf, "passthrough.", err) < 0)
        return -1;
    return master && json_object_set(conf, "spark.master", master) < 0 ? no_memory(err) : 0;
}

static const char *find_kind(const char *factory)
{
    static const char package[] = "spark.jobserver.python.";
    static const struct {
        const char *class, *kind;
    } known[] = {
        { "PythonSessionContextFactory", "session" },
        { "PythonSparkContextFactory", "spark" },
        { "PythonSQLContextFactory", "sql" },
        { "PythonHiveContextFactory", "hive" },
    };
    bool ours = strncmp(factory, package, sizeof package - 1) == 0;

    if (ours)
        factory += sizeof package - 1;
    for (size_t i = 0; i < STK_LEN(known); i++) {
        if (strcmp(factory, known[i].class) == 0 || strcmp(factory, known[i].kind) == 0)
            return known[i].kind;
    }
    /* A factory of the user's own, whose jobs build their context; one that begins like the four is a slip of the pen. */
    if (strcmp(factory, "custom") == 0 || (ours && *factory && strncmp(factory, "Python", 6) != 0))
        return "custom";
    return NULL;
}

static int make_kind(struct stk_context_wish *s, const json_t *settings, struct stk_err *err)
{
    const json_t *factory = json_object_get(settings, "context-factory");

    s->spec.kind = "session";
    if (!factory || json_is_null(factory))
        return 0;
    if (!json_is_string(factory))
        return stk_fail(err, STK_INVALID, "the context setting 'context-factory' must be text");
    s->spec.kind = find_kind(json_string_value(factory));
    if (!s->spec.kind)
        return stk_fail(err, STK_NOT_FOUND, "%s", json_string_value(factory));
    return 0;
}

/* Hive is there for those who ask for it: it costs seconds at the start and a metastore folder in the working directory. */
static int make_hive(struct stk_context_wish *s, struct stk_err *err)
{
    static const char asked_key[] = "spark.session.hive.enabled", key[] = "spark.sql.catalogImplementation";
    const char *asked = json_string_value(json_object_get(s->spark_conf, asked_key));
    bool on = false;
    int rc = 0;

    if (asked)
        find_bool(asked, &on);
    if ((on || strcmp(s->spec.kind, "hive") == 0) && !json_object_get(s->spark_conf, key))
        rc = json_object_set_new(s->spark_conf, key, json_string("hive"));
    json_object_del(s->spark_conf, asked_key);
    return rc < 0 ? no_memory(err) : 0;
}

static int make_slots(struct stk_context_wish *s, const json_t *settings, struct stk_err *err)
{
    static const char *const keys[] = { "max-jobs-per-context", "max-jobs" };
    int64_t n = 0;

    for (size_t i = 0; i < STK_LEN(keys); i++) {
        const json_t *value = json_object_get(settings, keys[i]);
        stk_auto_free char *text = value ? value_text(value) : NULL;

        if (!value || json_is_null(value))
            continue;
        if (!text)
            return no_memory(err);
        if (check_value("", keys[i], text, check_slots, err) < 0)
            return -1;
        stk_parse_i64(text, 1, SLOTS_MAX, &n, NULL);
    }
    s->spec.max_jobs = (int)n;
    return 0;
}

static int set_max_result(const char *text, int64_t *ret, struct stk_err *err)
{
    if (stk_parse_size(text, ret) == 0 && *ret > 0)
        return 0;
    return stk_fail(err, STK_INVALID, "'max-result' must be a size such as 64KiB, 512m or 2g, not '%.40s'", text);
}

/* Limits of the context's jobs and its own clocks. */
static int make_terms(struct stk_context_wish *s, const json_t *settings, struct stk_err *err)
{
    static const char *const keys[] = { "priority",  "queue-timeout", "run-timeout", "max-memory",
                                        "isolation", "idle-timeout",  "lifetime",    "max-result" };

    s->spec.terms = STK_TERMS_UNSAID;
    s->spec.idle_timeout_ms = s->spec.lifetime_ms = STK_UNSAID;
    for (size_t i = 0; i < STK_LEN(keys); i++) {
        const json_t *value = json_object_get(settings, keys[i]);
        stk_auto_free char *text = value && !json_is_null(value) ? value_text(value) : NULL;
        int rc;

        if (!value || json_is_null(value))
            continue;
        if (!text)
            return no_memory(err);
        if (strcmp(keys[i], "idle-timeout") == 0)
            rc = stk_clock_set(keys[i], text, &s->spec.idle_timeout_ms, err);
        else if (strcmp(keys[i], "lifetime") == 0)
            rc = stk_clock_set(keys[i], text, &s->spec.lifetime_ms, err);
        else if (strcmp(keys[i], "max-result") == 0)
            rc = set_max_result(text, &s->spec.max_result_bytes, err);
        else
            rc = stk_terms_set(&s->spec.terms, keys[i], text, err);
        if (rc < 0) {
            stk_err_prefix(err, "the context's settings");
            return -1;
        }
    }
    return 0;
}

static int bad_paths(struct stk_err *err)
{
    return stk_fail(err, STK_INVALID,
                    "the context setting 'python.paths' must be a list of texts, or one text with commas between the "
                    "paths, none of them empty");
}

static int add_path(struct stk_context_wish *s, const char *path, size_t len, struct stk_err *err)
{
    if (len == 0)
        return bad_paths(err);
    return json_array_append_new(s->python_paths, json_stringn(path, len)) < 0 ? no_memory(err) : 0;
}

/* "a,b": the only way to name several in a query. */
static int add_path_list(struct stk_context_wish *s, const char *list, struct stk_err *err)
{
    for (const char *p = list;; p++) {
        size_t len = strcspn(p, ",");

        if (add_path(s, p, len, err) < 0)
            return -1;
        p += len;
        if (!*p)
            return 0;
    }
}

static int make_python_paths(struct stk_context_wish *s, const json_t *settings, struct stk_err *err)
{
    const json_t *python = json_object_get(settings, "python"), *paths = json_object_get(python, "paths"), *path;
    size_t i;

    if (python && !json_is_null(python) && !json_is_object(python))
        return stk_fail(err, STK_INVALID, "the context setting 'python' must be an object");
    if (!paths || json_is_null(paths))
        return 0;
    if (json_is_string(paths))
        return add_path_list(s, json_string_value(paths), err);
    if (!json_is_array(paths))
        return bad_paths(err);
    json_array_foreach(paths, i, path) {
        if (!json_is_string(path))
            return bad_paths(err);
        if (add_path(s, json_string_value(path), json_string_length(path), err) < 0)
            return -1;
    }
    return 0;
}

/* What jobs see as runtime.contextConfig: the settings, and the two that Spark Job Server forces. */
static int make_settings(struct stk_context_wish *s, const char *name, struct stk_err *err)
{
    json_t *context = json_object_get(s->settings, "context");

    if (!json_is_object(context)) {
        context = json_object();
        if (json_object_set_new(s->settings, "context", context) < 0)
            return no_memory(err);
    }
    if (json_object_set_new(context, "name", json_string(name)) < 0 ||
        json_object_set_new(s->settings, "is-adhoc", json_string("false")) < 0)
        return no_memory(err);
    return 0;
}

/* Settings that Spark Job Server acts on and we cannot yet: better said than passed over. */
static int check_unsupported(const json_t *settings, struct stk_err *err)
{
    static const struct {
        const char *block, *key, *name, *instead;
    } known[] = {
        { NULL, "cp", "cp", "name binaries when starting jobs" },
        { NULL, "dependent-jar-uris", "dependent-jar-uris", "name binaries when starting jobs" },
        { "python", "executable", "python.executable", "the server's configuration names the interpreter" },
    };

    for (size_t i = 0; i < STK_LEN(known); i++) {
        const json_t *block = known[i].block ? json_object_get(settings, known[i].block) : settings;
        const json_t *value = json_object_get(block, known[i].key);
        bool empty = !value || json_is_null(value) || (json_is_array(value) && json_array_size(value) == 0) ||
                     (json_is_string(value) && json_string_length(value) == 0);

        if (!empty)
            return stk_fail(err, STK_INVALID, "the context setting '%s' is not supported: %s", known[i].name,
                            known[i].instead);
    }
    return 0;
}

int stk_settings_wish(struct stk_context_wish *ret, const char *name, const json_t *settings, struct stk_err *err)
{
    struct stk_context_wish s = {
        .spark_conf = json_object(),
        .hadoop_conf = json_object(),
        .python_paths = json_array(),
        .settings = json_deep_copy(settings),
    };

    if (!s.spark_conf || !s.hadoop_conf || !s.python_paths || !s.settings) {
        no_memory(err);
        goto failed;
    }
    if (check_unsupported(settings, err) < 0 || make_kind(&s, settings, err) < 0 ||
        make_spark_conf(&s, name, settings, err) < 0 || make_hive(&s, err) < 0 || make_slots(&s, settings, err) < 0 ||
        make_terms(&s, settings, err) < 0 || make_python_paths(&s, settings, err) < 0 ||
        flatten_block(settings, "hadoop", "", s.hadoop_conf, err) < 0 || make_settings(&s, name, err) < 0)
        goto failed;
    s.spec.spark_conf = s.spark_conf;
    s.spec.hadoop_conf = s.hadoop_conf;
    s.spec.python_paths = s.python_paths;
    s.spec.settings = s.settings;
    *ret = s;
    return 0;
failed:
    stk_context_wish_done(&s);
    return -1;
}

void stk_context_wish_done(struct stk_context_wish *s)
{
    json_decref(s->spark_conf);
    json_decref(s->hadoop_conf);
    json_decref(s->python_paths);
    json_decref(s->settings);
    *s = (struct stk_context_wish){ 0 };
}

int stk_settings_keep_warm(struct stk_core *core, const json_t *context_settings, struct stk_err *err)
{
    json_auto_t *settings = stk_settings_merge(context_settings, NULL, 0, NULL, err);
    struct stk_context_wish spec;
    int rc;

    if (!settings || stk_settings_wish(&spec, "stoker", settings, err) < 0) {
        stk_err_prefix(err, "context-settings");
        return -1;
    }
    spec.spec.name = "";
    rc = stk_core_keep_warm(core, &spec.spec, err);
    stk_context_wish_done(&spec);
    return rc;
}

/* ---- contexts that start with the server */

static int wish_named(struct stk_context_wish *ret, const json_t *context_settings, const char *name, json_t *own,
                      struct stk_err *err)
{
    json_auto_t *settings = NULL;

    if (stk_name_check("the context's name", name, 255, err) < 0)
        return -1;
    if (!stk_begins_with_letter(name))
        return stk_fail(err, STK_INVALID, "the context's name must begin with a letter");
    if (!json_is_object(own))
        return stk_fail(err, STK_INVALID, "expected its settings, such as { num-cpu-cores = 2 }");
    settings = stk_settings_merge(context_settings, NULL, 0, own, err);
    if (!settings || stk_settings_wish(ret, name, settings, err) < 0)
        return -1;
    ret->spec.name = name;
    return 0;
}

int stk_settings_check_contexts(const json_t *context_settings, const json_t *contexts, struct stk_err *err)
{
    struct stk_context_wish wish;
    const char *name;
    json_t *own;

    json_object_foreach((json_t *)(uintptr_t)contexts, name, own) {
        if (wish_named(&wish, context_settings, name, own, err) < 0) {
            if (err->code == STK_NOT_FOUND)
                stk_err_prefix(err, "no such context factory");
            stk_err_prefix(err, "contexts: %.60s", name);
            return -1;
        }
        stk_context_wish_done(&wish);
    }
    return 0;
}

static bool is_stopping(struct stk_core *core, const char *name)
{
    struct stk_context_row row;
    bool stopping;

    if (stk_context_get(core, name, &row, NULL) < 0)
        return false;
    stopping = row.state == STK_CONTEXT_STOPPING;
    stk_context_row_done(&row);
    return stopping;
}

static int begin(struct stk_core *core, const struct stk_api_options *options, const struct stk_context_wish *wish,
                 struct stk_err *err)
{
    struct stk_context_row row;

    if (stk_context_create(core, &wish->spec, STK_RECORDED, options->context_create_timeout_ms, &row, NULL, err) < 0)
        return -1;
    stk_context_row_done(&row);
    return 0;
}

void stk_settings_start_contexts(struct stk_core *core, const struct stk_api_options *options)
{
    struct stk_context_wish wish;
    struct stk_err err;
    const char *name;
    json_t *own;
    int rc;

    json_object_foreach(options->contexts, name, own) {
        if (wish_named(&wish, options->context_settings, name, own, &err) < 0)
            continue; /* it was checked at the start */
        rc = begin(core, options, &wish, &err);
        if (rc < 0 && err.code == STK_CONFLICT && is_stopping(core, name)) { /* one of an earlier server: after it */
            stk_context_delete(core, name, false, options->context_delete_timeout_ms, NULL);
            rc = begin(core, options, &wish, &err);
        }
        if (rc < 0 && (err.code != STK_CONFLICT || is_stopping(core, name)))
            stk_error("context", "not started with the server", "name", name, "why", err.msg);
        stk_context_wish_done(&wish);
    }
}
