/* The native API: what only Stoker has, in one form for whatever dialect a job came through. docs/dialects/native.md. */
#include "api/native/native.h"

static const struct stk_route routes[] = {
    { "GET", "/v1/jobs/{id}", stk_native_jobs_get, 0 },
    { "GET", "/v1/jobs/{id}/receipt", stk_native_jobs_receipt, 0 },
    { "GET", "/v1/jobs/{id}/logs", stk_native_jobs_logs, 0 },
    { "GET", "/v1/jobs/{id}/error", stk_native_jobs_error, 0 },
    { "GET", "/v1/contexts/{name}/error", stk_native_contexts_error, 0 },
    { "GET", "/v1/contexts/{name}", stk_native_contexts_get, 0 },
    { "GET", "/v1/contexts/{name}/logs", stk_native_contexts_logs, 0 },
    { NULL, NULL, NULL, 0 },
};

static const char *const prefixes[] = { "v1", NULL };

static struct native native;

static const struct stk_dialect dialect = {
    .name = "native",
    .prefixes = prefixes,
    .routes = routes,
    .render_error = stk_native_render_error,
    .arg = &native,
};

const struct stk_dialect *stk_api_native(struct stk_core *core, const struct stk_api_options *options)
{
    native = (struct native){ .core = core, .options = options };
    return &dialect;
}
