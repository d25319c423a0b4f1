/* GET /metrics, for Prometheus and what reads its text. docs/metrics.md. */
#include "api/native/native.h"

#include "stoker/core.h"
#include "stoker/metrics.h"

#include <string.h>

static const char plain_type[] = "text/plain; version=0.0.4; charset=utf-8";
static const char open_type[] = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/* Prometheus asks for both and prefers the newer; who does not name it gets the one that everything reads. */
static bool wants_openmetrics(const struct stk_request *r)
{
    const char *accept = stk_request_header(r, "Accept");

    return accept && strcasestr(accept, "application/openmetrics-text");
}

static int write_all(struct stk_request *r, const struct native *native, struct stk_metrics *m, struct stk_err *err)
{
    stk_metrics_family(m, "stoker_build_info", STK_GAUGE, "The version that runs.");
    stk_metrics_int(m, STK_LABELS("version", STOKER_VERSION), 1);
    if (stk_core_metrics(native->core, m, err) < 0)
        return -1;
    stk_request_metrics(r, m);
    stk_metrics_process(m);
    stk_metrics_end(m);
    return m->text.failed ? stk_fail(err, STK_INTERNAL, "out of memory") : 0;
}

void stk_native_metrics(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    static const char *const known[] = { NULL };
    const struct native *native = arg;
    struct stk_metrics m = { .openmetrics = wants_openmetrics(r) };
    struct stk_err err;

    if (stk_native_query_known(r, reply, known) < 0)
        return;
    if (write_all(r, native, &m, &err) < 0) {
        stk_native_failed(reply, "write metrics", &err);
    } else {
        size_t len = m.text.len;

        stk_reply_bytes_take(reply, 200, m.openmetrics ? open_type : plain_type, stk_buf_steal(&m.text), len);
        stk_reply_header(reply, "Vary", "Accept");
        stk_reply_header(reply, "Cache-Control", "no-store");
    }
    stk_buf_done(&m.text);
}
