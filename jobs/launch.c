/* Starting a context: what its processes find in spec.json and in their environment, and the zygote itself. */
#include "live.h"

#include "stoker/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Bytes of a result that travel in a frame and lie in the database; longer ones go to files. */
enum { INLINE_RESULT_BYTES = 65536 };

static json_t *terms_object(const struct stk_job_terms *t)
{
    return json_pack("{s:i, s:I, s:I, s:I, s:i}", "priority", t->priority, "queue_timeout_ms",
                     (json_int_t)t->queue_timeout_ms, "run_timeout_ms", (json_int_t)t->run_timeout_ms, "max_memory",
                     (json_int_t)t->max_memory, "isolated", t->isolated);
}

/* A new array; what is relative is so to the folder in which the server was started. NULL: not to be known. */
static json_t *absolute_paths(json_t *paths)
{
    json_t *made = json_array(), *path;
    stk_auto_free char *here = getcwd(NULL, 0);
    size_t i;

    json_array_foreach(paths, i, path) {
        const char *text = json_string_value(path);

        if (text[0] == '/')
            json_array_append(made, path);
        else if (here)
            json_array_append_new(made, json_sprintf("%s/%s", here, text));
    }
    if (json_array_size(made) == json_array_size(paths))
        return made;
    json_decref(made);
    return NULL;
}

/* What keeper and workers read: spec.json of PROTOCOL.md section 2. */
struct stk_text *context_spec_text(struct stk_core *core, const struct stk_context_spec *spec, const char *id)
{
    json_auto_t *conf = json_deep_copy(spec->spark_conf);
    json_auto_t *hadoop = spec->hadoop_conf ? json_incref(spec->hadoop_conf) : json_object();
    json_auto_t *paths = absolute_paths(spec->python_paths);
    json_auto_t *object = NULL;
    stk_auto_free char *text = NULL;
    const char *key;
    json_t *value;

    /* Copies: these are the server's, which several threads read here at once, and counting references would be a write. */
    json_object_foreach(core->o.spark_conf, key, value) {
        if (!json_object_get(conf, key))
            json_object_set_new(conf, key, json_deep_copy(value));
    }
    struct stk_job_terms terms = spec->terms;

    bool own_limit = spec->max_result_bytes > 0 && spec->max_result_bytes < core->o.max_result_bytes;

    stk_job_terms_fill(&terms, &core->o.terms);
    object = json_pack(
        "{s:s, s:s, s:s, s:O, s:O, s:O, s:O, s:i, s:I, s:s, s:I, s:i, s:i, s:o, s:I, s:I}", "context", id, "name",
        spec->name, "kind", spec->kind, "spark_conf", conf, "settings", spec->settings, "hadoop_conf", hadoop,
        "python_paths", paths, "max_result_inline", INLINE_RESULT_BYTES, "max_result",
        (json_int_t)(own_limit ? spec->max_result_bytes : core->o.max_result_bytes), "max_result_by",
        own_limit ? "context" : "server", "max_log", (json_int_t)core->o.max_log_bytes, "max_jobs_per_worker", 0,
        "max_worker_growth", 0, "terms", terms_object(&terms), "idle_timeout_ms",
        (json_int_t)(spec->idle_timeout_ms == STK_UNSAID ? core->o.idle_timeout_ms : spec->idle_timeout_ms),
        "lifetime_ms", (json_int_t)(spec->lifetime_ms == STK_UNSAID ? core->o.lifetime_ms : spec->lifetime_ms));
    text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    return text ? stk_text_new(text, strlen(text)) : NULL;
}

static char *env_pair(const char *name, const char *value)
{
    char *pair;

    return asprintf(&pair, "%s=%s", name, value) < 0 ? NULL : pair;
}

char **launch_env(const struct stk_core *core, const char *context)
{
    const char *set[][2] = {
        { "STOKER_STATE_DIR", core->o.state_dir }, { "STOKER_CONTEXT", context },
        { "PYTHONPATH", core->o.runner_dir },      { "PYTHONHASHSEED", "0" },
        { "PYSPARK_PYTHON", core->o.python },      { "PYSPARK_DRIVER_PYTHON", core->o.python },
        { "JAVA_HOME", core->o.java_home },        { "STOKER_CLASS_DATA", class_data_dir(core) },
    };
    size_t n = 0, inherited = 0;
    char **env;

    while (environ[inherited])
        inherited++;
    env = calloc(inherited + STK_LEN(set) + 1, sizeof *env);
    if (!env)
        return NULL;
    for (size_t i = 0; i < STK_LEN(set); i++) {
        if (set[i][1] && *set[i][1])
            env[n++] = env_pair(set[i][0], set[i][1]);
    }
    for (size_t i = 0; i < inherited; i++) {
        bool ours = strncmp(environ[i], "STOKER_CLASS_DATA=", 18) == 0; /* of another server, when ours has none */

        for (size_t j = 0; j < n; j++)
            ours |= env[j] && strncmp(env[j], environ[i], strcspn(env[j], "=") + 1) == 0;
        if (!ours)
            env[n++] = strdup(environ[i]);
    }
    return env;
}

void launch_env_free(char **env)
{
    for (size_t i = 0; env && env[i]; i++)
        free(env[i]);
    free(env);
}

int context_launch(struct context *ctx, struct stk_err *err)
{
    struct stk_core *core = ctx->core;
    const char *argv[] = { core->o.python, "-m", "stoker_runner.zygote", NULL };
    char dir[64], log[80];
    stk_auto_free char *cwd = NULL;
    stk_auto_fd log_fd = -1;
    char **env;
    int rc;

    snprintf(dir, sizeof dir, "contexts/%s", ctx->row.id);
    snprintf(log, sizeof log, "%s/context.log", dir);
    log_fd = openat(core->o.state_dir_fd, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_fd < 0)
        return stk_fail_sys(err, errno, "%s", log);
    env = launch_env(core, ctx->row.id);
    if (!env || asprintf(&cwd, "%s/%s", core->o.state_dir, dir) < 0) {
        launch_env_free(env);
        return stk_fail(err, STK_INTERNAL, "out of memory");
    }
    rc = stk_runner_spawn(
        core->runner,
        &(struct stk_spawn){
            .file = core->o.python, .argv = argv, .envp = (const char *const *)env, .cwd = cwd, .log_fd = log_fd },
        &ctx->zygote.id, err);
    launch_env_free(env);
    if (rc < 0)
        return -1;
    context_watch(&ctx->zygote);
    stk_info("context", "zygote started", "context", ctx->row.id, "name", stk_text_data(ctx->row.name));
    return stk_store_process_started(core->store, ctx->row.id, "zygote", &ctx->zygote.id, err);
}
