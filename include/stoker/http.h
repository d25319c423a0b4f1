/*
 * What a dialect sees of HTTP: a request, a reply, and the rows of a route table. No CivetWeb types, no domain words.
 *
 * A handler runs on an HTTP thread, one per connection, and may block up to the waits that the server allows. It answers by
 * filling the reply; the edge sends it when the handler returns. One thread owns both objects.
 */
#ifndef STOKER_HTTP_H
#define STOKER_HTTP_H

#include "stoker/buf.h"
#include "stoker/err.h"
#include "stoker/json.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct stk_request;
struct stk_reply;

/* ---- request */

const char *stk_request_method(
    const struct stk_request *r);                          /* after _method and HEAD -> GET were applied: "GET", ... */
bool stk_request_is_head(const struct stk_request *r);     /* a HEAD, which handlers answer as a GET */
const char *stk_request_path(const struct stk_request *r); /* raw, as sent, without the query */
const char *stk_request_url(const struct stk_request *r);  /* absolute, with the query: for Location headers */
const char *stk_request_header(const struct stk_request *r, const char *name); /* NULL: not sent */
const char *stk_request_param(const struct stk_request *r, const char *name);  /* {name} of the route, decoded once */

/* Query parameters in order, decoded (+ is a space); repeated names stay. NULL when there is none of that name; the last one wins. */
const char *stk_request_query(const struct stk_request *r, const char *name);
size_t stk_request_query_count(const struct stk_request *r);
const char *stk_request_query_at(const struct stk_request *r, size_t i, const char **ret_value); /* returns the name */

/*
 * The body. Reads up to n bytes: > 0 bytes read, 0 at the end, -1 with STK_TOO_LARGE (longer than the route's limit), STK_TIMEOUT (the
 * client was too slow) or STK_INVALID (it ended early). A body that the handler leaves unread is dealt with by the edge.
 */
ssize_t stk_request_read(struct stk_request *r, void *buf, size_t n, struct stk_err *err);
int stk_request_read_all(struct stk_request *r, struct stk_buf *ret, struct stk_err *err);

/*
 * Around a call that waits for the core (a job's end, a context's start): the server lets only so many HTTP threads wait at
 * once, so that others stay free to answer. false: too many wait already, answer 503 with Retry-After and call no _end.
 */
bool stk_request_wait_begin(struct stk_request *r);
void stk_request_wait_end(struct stk_request *r);

/* Writes what a scrape wants to know of the server that has this request: what it has answered, by route, and what is under way. */
struct stk_metrics;
void stk_request_metrics(struct stk_request *r, struct stk_metrics *m);

/* ---- reply: 200 with an empty body unless the handler says otherwise */

void stk_reply_status(struct stk_reply *reply, int status);
int stk_reply_get_status(const struct stk_reply *reply);
void stk_reply_header(struct stk_reply *reply, const char *name, const char *value); /* replaces; CR, LF are refused */
void stk_reply_text(struct stk_reply *reply, int status, const char *text);          /* text/plain; charset=UTF-8 */
void stk_reply_json_take(struct stk_reply *reply, int status, json_t *body);         /* takes the reference; compact */
void stk_reply_bytes_take(struct stk_reply *reply, int status, const char *content_type, char *bytes, size_t len);

/*
 * {..object.., "<key>": <value>} where value is JSON text that is sent as it is, byte for byte: a result never passes through a
 * number type of ours. Takes the reference of object, copies value.
 */
void stk_reply_json_splice_take(struct stk_reply *reply, int status, json_t *object, const char *key, const char *value,
                                size_t value_len);
/* The same with the value streamed from an open file of len bytes; takes the descriptor. */
void stk_reply_json_splice_file_take(struct stk_reply *reply, int status, json_t *object, const char *key, int fd,
                                     uint64_t len);

/* len bytes of an open file, from the from-th on, streamed; takes the descriptor. */
void stk_reply_file_take(struct stk_reply *reply, int status, const char *content_type, int fd, uint64_t from,
                         uint64_t len);

/*
 * A body whose end is not known yet: it is asked for while the client takes it, on a thread that serves all streams, so none of
 * the two functions may block for more than a moment. The server sends only so many streams at once: one more is answered with 503
 * and Retry-After. A HEAD gets the headers only.
 */
struct stk_stream {
    /* Fills buf: how many bytes (at most n, which is at least 16 KiB), or one of the numbers below. */
    ssize_t (*pull)(struct stk_stream *stream, char *buf, size_t n);
    void (*free)(struct stk_stream *stream); /* any thread, once; the client may have left long before the end */
};
enum {
    STK_STREAM_IDLE = 0,    /* nothing now: ask again in a while */
    STK_STREAM_END = -1,    /* that was all */
    STK_STREAM_BROKEN = -2, /* there should be more: the client sees that the body is not whole */
};
void stk_reply_stream_take(struct stk_reply *reply, int status, const char *content_type, struct stk_stream *stream);

/* ---- routes */

typedef void stk_handler(struct stk_request *request, struct stk_reply *reply, void *arg);

struct stk_route {
    const char *method; /* "GET", ... */
    const char *path; /* "/jobs/{id}/config": {x} is exactly one segment; a trailing slash is accepted on every route */
    stk_handler *handler;
    uint64_t max_body; /* bytes; 0: the server's default */
};

/*
 * How a dialect words what the edge itself has to say: 400 (malformed), 404, 405, 408, 411, 413, 415, 417, 431, 500, 501, 503, 505. message is
 * one line of plain text. For 405 the edge adds the Allow header.
 */
typedef void stk_render_error(struct stk_reply *reply, int status, const char *message);

struct stk_dialect {
    const char *name; /* "sjs" */
    const char *const
        *prefixes; /* first path segments that are this dialect's ("jobs", ...), NULL-ended; "" is the root */
    const struct stk_route *routes; /* ended by a NULL method */
    stk_render_error *render_error;
    void *arg; /* given to the handlers */
};

#endif
