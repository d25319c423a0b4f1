/*
 * How the Spark Job Server dialect reads a request: path, route, query, config, context settings, and what a context is started
 * with. The input is "METHOD target\nbody".
 */
#include "fuzz.h"

#include "api/sjs/sjs.h"
#include "http/edge.h"
#include "stoker/hocon.h"
#include "stoker/json.h"

enum { PAIRS_MAX = 64 };

static struct stk_router *router;
static json_t *defaults;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static struct stk_api_options options = { .max_upload_bytes = 1 << 20, .max_body_bytes = 1 << 20 };
    const struct stk_dialect *dialects[] = { stk_api_sjs(NULL, &options), NULL };
    struct stk_err err = { 0 };

    (void)argc;
    fuzz_large_stack(*argv);
    router = stk_router_new(dialects, &err);
    defaults = json_loads(
        "{\"num-cpu-cores\":2,\"memory-per-node\":\"512m\",\"spark\":{\"ui\":{\"enabled\":\"false\"}}}", 0, NULL);
    FUZZ_CHECK(router && defaults, "%s", err.msg);
    return 0;
}

/* ---- paths and queries */

/* All of it escaped; decoded again, it must be what it was. */
static void add_escaped(struct stk_buf *out, const char *text)
{
    for (const char *p = text; *p; p++)
        stk_buf_printf(out, "%%%02x", (unsigned char)*p);
}

static void check_path(const struct stk_path *path)
{
    stk_auto_buf raw = { 0 };
    stk_auto_free char *store = NULL;
    struct stk_path again;

    stk_buf_add_str(&raw, "/");
    for (size_t i = 0; i < path->n && i < STK_PATH_SEGMENTS; i++) {
        const char *s = path->segment[i];

        FUZZ_CHECK(stk_utf8_valid(s, strlen(s)) && !strpbrk(s, "\r\n"));
        add_escaped(&raw, s);
        stk_buf_add_str(&raw, "/");
    }
    store = malloc(raw.len + 1);
    FUZZ_CHECK(stk_path_parse(raw.data, store, &again, NULL) == 0, "%s", raw.data);
    FUZZ_CHECK(again.n == (path->n < STK_PATH_SEGMENTS ? path->n : STK_PATH_SEGMENTS), "%s", raw.data);
    for (size_t i = 0; i < again.n; i++)
        FUZZ_CHECK(strcmp(again.segment[i], path->segment[i]) == 0, "%s", raw.data);
}

static void check_query(const struct stk_query *q)
{
    stk_auto_buf raw = { 0 };
    struct stk_query again;

    for (size_t i = 0; i < q->n; i++) {
        const struct stk_query_pair *pair = &q->pairs[i];

        FUZZ_CHECK(stk_utf8_valid(pair->name, strlen(pair->name)) && stk_utf8_valid(pair->value, strlen(pair->value)));
        FUZZ_CHECK(stk_query_get(q, pair->name));
        add_escaped(&raw, pair->name);
        stk_buf_add_str(&raw, "=");
        add_escaped(&raw, pair->value);
        stk_buf_add_str(&raw, "&");
    }
    FUZZ_CHECK(stk_query_parse(raw.data, &again, NULL) == 0);
    FUZZ_CHECK(again.n == q->n);
    for (size_t i = 0; i < again.n; i++) {
        FUZZ_CHECK(strcmp(again.pairs[i].name, q->pairs[i].name) == 0);
        FUZZ_CHECK(strcmp(again.pairs[i].value, q->pairs[i].value) == 0);
    }
    stk_query_done(&again);
}

/* ---- parameters */

static void check_reply(const struct stk_reply *reply, bool expect_error)
{
    FUZZ_CHECK(!reply->failed);
    FUZZ_CHECK((reply->status >= 400) == expect_error, "status %d", reply->status);
    if (reply->body_len)
        FUZZ_CHECK(stk_json_valid(reply->body, reply->body_len), "%.*s", (int)reply->body_len, reply->body);
}

static void check_params(struct stk_request *r)
{
    for (size_t i = 0; i < r->query.n; i++) {
        const char *name = r->query.pairs[i].name;
        struct stk_reply reply;
        bool flag = false;
        int n = 0, rc;

        stk_reply_init(&reply);
        rc = stk_sjs_query_bool(r, &reply, name, &flag);
        check_reply(&reply, rc < 0);
        stk_reply_done(&reply);

        stk_reply_init(&reply);
        rc = stk_sjs_query_int(r, &reply, name, &n);
        check_reply(&reply, rc < 0);
        stk_reply_done(&reply);

        stk_reply_init(&reply);
        rc = stk_sjs_check_name(&reply, "It", r->query.pairs[i].value);
        check_reply(&reply, rc < 0);
        stk_reply_done(&reply);
        stk_begins_with_letter(name);
    }
}

/* ---- context settings */

static void check_conf(const json_t *conf)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)conf, key, value)
        FUZZ_CHECK(json_is_string(value), "%s", key);
}

static void check_spec(const struct stk_context_wish *s, const char *name)
{
    static const char *const kinds[] = { "session", "spark", "sql", "hive", "custom" };
    bool known = false;
    json_t *path;
    size_t i;
    json_auto_t *all = NULL;
    stk_auto_free char *text = NULL;

    for (i = 0; i < STK_LEN(kinds); i++)
        known |= strcmp(s->spec.kind, kinds[i]) == 0;
    FUZZ_CHECK(known);
    FUZZ_CHECK(s->spec.max_jobs >= 0 && s->spec.max_jobs <= 1000);
    FUZZ_CHECK(json_is_object(s->settings));
    FUZZ_CHECK(strcmp(json_string_value(json_object_get(json_object_get(s->settings, "context"), "name")), name) == 0);
    check_conf(s->spark_conf);
    check_conf(s->hadoop_conf);
    json_array_foreach(s->python_paths, i, path)
        FUZZ_CHECK(json_string_length(path) > 0);
    /* as spec.json is written */
    all = json_pack("{s:O, s:O, s:O, s:O}", "a", s->spark_conf, "b", s->hadoop_conf, "c", s->python_paths, "d",
                    s->settings);
    text = all ? json_dumps(all, JSON_COMPACT) : NULL;
    FUZZ_CHECK(text && stk_json_valid(text, strlen(text)));
}

static void check_settings(const struct stk_query *q, const json_t *body)
{
    struct stk_setting settings[PAIRS_MAX];
    struct stk_context_wish spec = { 0 };
    struct stk_err err = { 0 };
    json_auto_t *merged = NULL;
    size_t n = 0;

    for (; n < q->n && n < PAIRS_MAX; n++)
        settings[n] = (struct stk_setting){ q->pairs[n].name, q->pairs[n].value };
    merged = stk_settings_merge(defaults, settings, n,
                                json_object_get(json_object_get(body, "spark"), "context-settings"), &err);
    if (!merged) {
        FUZZ_CHECK(err.code == STK_INVALID, "%s", err.msg);
        fuzz_check_message(&err);
        return;
    }
    if (stk_settings_wish(&spec, "name", merged, &err) < 0) {
        FUZZ_CHECK(err.code == STK_INVALID || err.code == STK_NOT_FOUND, "%s", err.msg);
        if (err.code == STK_INVALID) /* else it is the name of a context factory, which may be empty */
            fuzz_check_message(&err);
        return;
    }
    check_spec(&spec, "name");
    stk_context_wish_done(&spec);
}

/* ---- */

static json_t *parse_body(const char *text, size_t len)
{
    struct stk_hocon_limits limits = stk_hocon_default_limits;

    limits.max_depth = 48; /* params.c's */
    if (!stk_utf8_valid(text, len))
        return NULL;
    return stk_hocon_parse(text, len, &limits, NULL);
}

static void check_request(char *method, char *target, const char *body, size_t body_len)
{
    struct mg_request_info info = { .http_version = "1.1", .local_uri_raw = target };
    struct stk_request r = { .info = &info };
    char *query = strchr(target, '?');
    stk_auto_free char *store = NULL;
    struct stk_err err = { 0 };
    json_auto_t *config = NULL;

    if (query)
        *query++ = '\0';
    store = malloc(strlen(target) + 1);
    if (stk_path_parse(target, store, &r.path, &err) < 0 || stk_query_parse(query, &r.query, &err) < 0) {
        FUZZ_CHECK(err.code == STK_INVALID, "%s", err.msg);
        fuzz_check_message(&err);
        return;
    }
    check_path(&r.path);
    check_query(&r.query);
    r.method = stk_method_find(method);
    if (r.method) {
        stk_router_find(router, &r.path, r.method, &r.match);
        FUZZ_CHECK(r.match.dialect);
        FUZZ_CHECK(!r.match.route || r.path.n <= STK_PATH_SEGMENTS);
    }
    check_params(&r);
    config = parse_body(body, body_len);
    if (config)
        check_settings(&r.query, config);
    stk_query_done(&r.query);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *line = (const char *)data, *stop = size ? memchr(line, '\n', size) : NULL;
    stk_auto_free char *method = NULL;
    char *target;

    if (!stop || memchr(line, '\0', (size_t)(stop - line))) /* CivetWeb lets no NUL pass */
        return 0;
    method = strndup(line, (size_t)(stop - line));
    target = strchr(method, ' ');
    if (target) {
        *target++ = '\0';
        check_request(method, target, stop + 1, size - (size_t)(stop + 1 - line));
    }
    return 0;
}
