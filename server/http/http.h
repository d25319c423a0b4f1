/* The HTTP server: CivetWeb threads, our router, limits. The only code that includes civetweb.h is in this folder. */
#ifndef STOKER_SERVER_HTTP_H
#define STOKER_SERVER_HTTP_H

#include "stoker/http.h"

struct stk_http;

struct stk_http_options {
    const char *const *listen; /* "127.0.0.1:8090"; port 0 picks a free one */
    size_t n_listen;
    int threads;
    int max_waiting;
    int max_streams;
    int64_t request_timeout_ms, keep_alive_timeout_ms;
    int64_t stream_timeout_ms; /* for a client of a stream that takes nothing */
    uint64_t max_body;
    const struct stk_dialect *const *dialects; /* NULL-ended; the first is the one that words errors of unknown paths */
};

/* Binds and starts to answer. STK_CONFLICT with the address when it is taken. */
struct stk_http *stk_http_start(const struct stk_http_options *options, struct stk_err *err);
/* "http://127.0.0.1:8090" of the i-th listener, NULL past the end. */
const char *stk_http_address(const struct stk_http *http, size_t i);
/*
 * New requests get 503 from here on; those under way, but not streams, have wait_ms milliseconds to end. Then every connection is cut and all
 * threads are joined: a handler that waits for the core must have been woken by then, or this waits for it. NULL is fine.
 */
void stk_http_stop(struct stk_http *http, int64_t wait_ms);

#endif
