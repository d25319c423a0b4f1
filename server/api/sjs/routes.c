/*
 * The dialect of Spark Job Server, https://github.com/spark-jobserver/spark-jobserver, so that its clients need no change.
 * docs/dialects/sjs.md lists where we differ and why.
 */
#include "api/sjs/sjs.h"

#include "ui/page.h"

#include <string.h>

static void page(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    char *copy = malloc(stk_ui_page_len);

    (void)r;
    (void)arg;
    if (copy)
        memcpy(copy, stk_ui_page, stk_ui_page_len);
    stk_reply_bytes_take(reply, 200, "text/html; charset=UTF-8", copy, stk_ui_page_len);
    stk_reply_header(reply, "Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'");
    stk_reply_header(reply, "X-Content-Type-Options", "nosniff");
}

static void health(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    (void)r;
    (void)arg;
    stk_sjs_ok(reply, 200, NULL);
}

/* SJS says 404, not 405, where a method that it has elsewhere under the prefix meets a path that is not complete. */
static void not_found(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    (void)r;
    (void)arg;
    stk_sjs_err(reply, 404, "The requested resource could not be found.");
}

/* Those that take uploads. */
enum { BINARIES = 4, JARS, DATA };

static struct stk_route routes[] = {
    { "GET", "/", page, 0 },
    { "GET", "/healthz", health, 0 },

    { "GET", "/binaries", stk_sjs_binaries_list, 0 },
    { "GET", "/binaries/{app}", stk_sjs_binaries_get, 0 },
    [BINARIES] = { "POST", "/binaries/{app}", stk_sjs_binaries_post, 0 },
    [JARS] = { "POST", "/jars/{app}", stk_sjs_jars_post, 0 },
    [DATA] = { "POST", "/data/{prefix}", stk_sjs_data_post, 0 },
    { "DELETE", "/binaries/{app}", stk_sjs_binaries_delete, 0 },
    { "GET", "/jars", stk_sjs_jars_list, 0 },
    { "POST", "/binaries", not_found, 0 },
    { "DELETE", "/binaries", not_found, 0 },

    { "GET", "/contexts", stk_sjs_contexts_list, 0 },
    { "GET", "/contexts/{name}", stk_sjs_contexts_get, 0 },
    { "POST", "/contexts/{name}", stk_sjs_contexts_post, 0 },
    { "DELETE", "/contexts/{name}", stk_sjs_contexts_delete, 0 },
    { "PUT", "/contexts", stk_sjs_contexts_reset, 0 },
    { "POST", "/contexts", not_found, 0 },
    { "DELETE", "/contexts", not_found, 0 },

    { "GET", "/data", stk_sjs_data_list, 0 },
    { "DELETE", "/data/{path}", stk_sjs_data_delete, 0 },
    { "PUT", "/data", stk_sjs_data_reset, 0 },
    { "POST", "/data", not_found, 0 },
    { "DELETE", "/data", not_found, 0 },

    { "GET", "/jobs", stk_sjs_jobs_list, 0 },
    { "POST", "/jobs", stk_sjs_jobs_post, 0 },
    { "GET", "/jobs/{id}", stk_sjs_jobs_get, 0 },
    { "DELETE", "/jobs/{id}", stk_sjs_jobs_delete, 0 },
    { "GET", "/jobs/{id}/config", stk_sjs_jobs_config, 0 },
    { "DELETE", "/jobs", not_found, 0 },
    { "POST", "/jobs/{id}", not_found, 0 },
    { NULL, NULL, NULL, 0 },
};

static const char *const prefixes[] = { "", "healthz", "binaries", "contexts", "data", "jars", "jobs", NULL };

static struct sjs sjs;

static const struct stk_dialect dialect = {
    .name = "sjs",
    .prefixes = prefixes,
    .routes = routes,
    .render_error = stk_sjs_render_error,
    .arg = &sjs,
};

const struct stk_dialect *stk_api_sjs(struct stk_core *core, const struct stk_api_options *options)
{
    sjs = (struct sjs){ .core = core, .options = options };
    routes[BINARIES].max_body = routes[JARS].max_body = routes[DATA].max_body = (uint64_t)options->max_upload_bytes;
    return &dialect;
}
