#include "http/edge.h"

#include "stoker/clock.h"

#include <string.h>
#include <strings.h>

/* ---- what was asked */

const char *stk_request_method(const struct stk_request *r)
{
    return r->method;
}

bool stk_request_is_head(const struct stk_request *r)
{
    return r->head;
}

const char *stk_request_path(const struct stk_request *r)
{
    return r->info->local_uri_raw;
}

const char *stk_request_header(const struct stk_request *r, const char *name)
{
    for (int i = 0; i < r->info->num_headers; i++) {
        if (strcasecmp(r->info->http_headers[i].name, name) == 0)
            return r->info->http_headers[i].value;
    }
    return NULL;
}

const char *stk_request_param(const struct stk_request *r, const char *name)
{
    return stk_match_param(&r->match, &r->path, name);
}

const char *stk_request_query(const struct stk_request *r, const char *name)
{
    return stk_query_get(&r->query, name);
}

size_t stk_request_query_count(const struct stk_request *r)
{
    return r->query.n;
}

const char *stk_request_query_at(const struct stk_request *r, size_t i, const char **ret_value)
{
    if (i >= r->query.n)
        return NULL;
    if (ret_value)
        *ret_value = r->query.pairs[i].value;
    return r->query.pairs[i].name;
}

static bool is_host(const char *text)
{
    return text && *text &&
           text[strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]")] == '\0';
}

const char *stk_request_url(const struct stk_request *r)
{
    struct stk_request *mine = (struct stk_request *)(uintptr_t)r; /* the text is kept; nothing else changes */
    const char *scheme = stk_request_header(r, "X-Forwarded-Proto"), *query = r->info->query_string;
    stk_auto_buf url = { 0 };

    if (r->url)
        return r->url;
    stk_buf_add_str(&url, scheme && strcasecmp(scheme, "https") == 0 ? "https://" : "http://");
    if (is_host(r->framing.host))
        stk_buf_add_str(&url, r->framing.host);
    else
        stk_buf_printf(&url, "localhost:%d", r->info->server_port);
    stk_buf_add_str(&url, stk_request_path(r));
    if (query && *query)
        stk_buf_printf(&url, "?%s", query);
    mine->url = stk_buf_steal(&url);
    return mine->url ? mine->url : "/";
}

/* ---- waiting for the core */

bool stk_request_wait_begin(struct stk_request *r)
{
    if (atomic_fetch_add(r->waiting, 1) < r->max_waiting)
        return true;
    atomic_fetch_sub(r->waiting, 1);
    return false;
}

void stk_request_wait_end(struct stk_request *r)
{
    atomic_fetch_sub(r->waiting, 1);
}

/* ---- the body */

bool stk_request_body_pending(const struct stk_request *r)
{
    return !r->body_ended && (r->framing.chunked || r->framing.length > r->body_read);
}

static void begin_body(struct stk_request *r)
{
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";

    if (r->body_began_ms)
        return;
    r->body_began_ms = stk_mono_ms();
    r->piece = STK_SMALL_PIECE;
    if (r->framing.expect) {
        r->continued = true;
        mg_write(r->conn, go_on, sizeof go_on - 1); /* a failure shows when reading */
    }
}

static int body_failed(struct stk_request *r, enum stk_code code, struct stk_err *err)
{
    if (code == STK_TOO_LARGE)
        stk_fail(&r->body_err, code, "The request content is longer than the limit of %llu bytes",
                 (unsigned long long)r->max_body);
    else if (code == STK_TIMEOUT)
        stk_fail(&r->body_err, code, "The request content came too slowly");
    else
        stk_fail(&r->body_err, code, "The request content is malformed, or ended early");
    return stk_fail(err, code, "%s", r->body_err.msg);
}

/* A read returns when it has all it asked for, so little is asked of a client that may take long for it. */
static void choose_piece(struct stk_request *r, int64_t took_ms)
{
    if (took_ms > r->timeout_ms / 8)
        r->piece = STK_SMALL_PIECE;
    else if (r->piece < STK_PIECE)
        r->piece *= 2;
}

/* mg_read() says 0 for "timed out" and "all read" alike and -1 for everything else, so its answers need some reading. */
static ssize_t read_some(struct stk_request *r, void *buf, size_t n, struct stk_err *err)
{
    int64_t began_ms = stk_mono_ms(), took_ms;
    bool cut;
    int got;

    stk_watch_begin(r->watch, r->conn, false,
                    stk_slow_until_ms(r->body_began_ms, began_ms, r->body_read, n, r->timeout_ms));
    got = mg_read(r->conn, buf, n);
    cut = stk_watch_end(r->watch);
    took_ms = stk_mono_ms() - began_ms;
    if (got > 0)
        r->body_read += (uint64_t)got;
    if (cut)
        return body_failed(r, STK_TIMEOUT, err);
    if (got == 0 && r->framing.chunked) {
        r->body_ended = true;
        return 0;
    }
    if (got <= 0 || (!r->framing.chunked && (size_t)got < n && took_ms >= r->timeout_ms))
        return body_failed(r, took_ms >= r->timeout_ms ? STK_TIMEOUT : STK_INVALID, err);
    choose_piece(r, took_ms);
    return got;
}

ssize_t stk_request_read(struct stk_request *r, void *buf, size_t n, struct stk_err *err)
{
    uint64_t left = r->framing.chunked ? r->max_body + 1 - r->body_read : r->framing.length - r->body_read;
    ssize_t got;

    if (r->body_err.code)
        return stk_fail(err, r->body_err.code, "%s", r->body_err.msg);
    if (!stk_request_body_pending(r) || n == 0)
        return 0;
    if (!r->framing.chunked && r->framing.length > r->max_body)
        return body_failed(r, STK_TOO_LARGE, err);
    begin_body(r);
    if (n > left)
        n = (size_t)left;
    if (n > r->piece)
        n = r->piece;
    got = read_some(r, buf, n, err);
    if (got > 0 && r->body_read > r->max_body)
        return body_failed(r, STK_TOO_LARGE, err);
    return got;
}

int stk_request_read_all(struct stk_request *r, struct stk_buf *ret, struct stk_err *err)
{
    char piece[STK_SMALL_PIECE];
    ssize_t n;

    while ((n = stk_request_read(r, piece, sizeof piece, err)) > 0) {
        if (stk_buf_add(ret, piece, (size_t)n) < 0)
            return stk_fail(err, STK_INTERNAL, "out of memory");
    }
    return n < 0 ? -1 : 0;
}

bool stk_request_discard(struct stk_request *r, uint64_t max, int64_t max_ms)
{
    int64_t until_ms = stk_mono_ms() + max_ms;
    char piece[STK_SMALL_PIECE];

    while (stk_request_body_pending(r)) {
        int got;

        if (max < sizeof piece || stk_mono_ms() > until_ms)
            return false;
        stk_watch_begin(r->watch, r->conn, false, until_ms);
        got = mg_read(r->conn, piece, sizeof piece);
        if (stk_watch_end(r->watch) || got < 0 || (got == 0 && !r->framing.chunked))
            return false;
        if (got == 0)
            r->body_ended = true;
        r->body_read += (uint64_t)got;
        max -= (uint64_t)got;
    }
    return true;
}

void stk_request_done(struct stk_request *r)
{
    stk_query_done(&r->query);
    free(r->path_store);
    free(r->url);
}
