/* One function per dialect. The dialect lives as long as the core; the caller frees nothing. */
#ifndef STOKER_API_H
#define STOKER_API_H

#include "stoker/http.h"

struct stk_core;

/* What a dialect must know of the server's configuration; plain values, borrowed for the process's life. */
struct stk_api_options {
    int64_t context_create_timeout_ms;
    int64_t context_delete_timeout_ms;
    int64_t max_upload_bytes;
    int64_t max_body_bytes;
    json_t *context_settings; /* defaults for new contexts, as SJS's spark.context-settings; object */
};

/* Spark Job Server (docs/dialects/sjs.md). NULL when out of memory. */
const struct stk_dialect *stk_api_sjs(struct stk_core *core, const struct stk_api_options *options);

#endif
