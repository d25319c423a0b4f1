/* The native API: what only Stoker has, in one form for whatever dialect a job came through. docs/dialects/native.md. */
#include "api/native/native.h"

#include "stoker/clock.h"

enum { UPLOAD_ROUTE = 0 };

static struct stk_route routes[] = {
    [UPLOAD_ROUTE] = { "PUT", "/v1/binaries/{name}", stk_native_binaries_put, 0 },
    { "GET", "/v1/binaries", stk_native_binaries_list, 0 },
    { "GET", "/v1/binaries/{name}", stk_native_binaries_get, 0 },
    { "DELETE", "/v1/binaries/{name}", stk_native_binaries_delete, 0 },

    { "GET", "/v1/contexts", stk_native_contexts_list, 0 },
    { "POST", "/v1/contexts", stk_native_contexts_post, 0 },
    { "GET", "/v1/contexts/{name}", stk_native_contexts_get, 0 },
    { "DELETE", "/v1/contexts/{name}", stk_native_contexts_delete, 0 },
    { "GET", "/v1/contexts/{name}/logs", stk_native_contexts_logs, 0 },
    { "GET", "/v1/contexts/{name}/error", stk_native_contexts_error, 0 },
    { "GET", "/v1/contexts/{name}/objects", stk_native_objects_list, 0 },
    { "DELETE", "/v1/contexts/{name}/objects/{object}", stk_native_objects_delete, 0 },

    { "GET", "/v1/jobs", stk_native_jobs_list, 0 },
    { "POST", "/v1/jobs", stk_native_jobs_post, 0 },
    { "GET", "/v1/jobs/{id}", stk_native_jobs_get, 0 },
    { "DELETE", "/v1/jobs/{id}", stk_native_jobs_delete, 0 },
    { "GET", "/v1/jobs/{id}/receipt", stk_native_jobs_receipt, 0 },
    { "GET", "/v1/jobs/{id}/logs", stk_native_jobs_logs, 0 },
    { "GET", "/v1/jobs/{id}/error", stk_native_jobs_error, 0 },
    { "GET", "/v1/jobs/{id}/result", stk_native_jobs_result, 0 },

    { "GET", "/v1/events", stk_native_events, 0 },
    { "GET", "/v1/deliveries", stk_native_deliveries, 0 },

    { "GET", "/v1/server", stk_native_server, 0 },
    { "GET", "/metrics", stk_native_metrics, 0 }, /* where scrapers look for it */
    { NULL, NULL, NULL, 0 },
};

static const char *const prefixes[] = { "v1", "metrics", NULL };

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
    native = (struct native){
        .core = core, .options = options, .started_us = stk_wall_us(), .started_mono_ms = stk_mono_ms()
    };
    routes[UPLOAD_ROUTE].max_body = (uint64_t)options->max_upload_bytes;
    return &dialect;
}
