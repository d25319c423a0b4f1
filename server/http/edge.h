/* What the files of this folder share: the insides of a request and a reply. Nobody else includes this. */
#ifndef STOKER_HTTP_EDGE_H
#define STOKER_HTTP_EDGE_H

#include "http/http.h"
#include "http/router.h"

#include "stoker/metrics.h"

#include <civetweb.h>
#include <stdatomic.h>

enum {
    STK_HEAD_MAX = 32768,    /* bytes of request line and headers together */
    STK_REPLY_HEADERS = 8,   /* extra headers one reply may have */
    STK_PIECE = 65536,       /* the most bytes moved at once */
    STK_SMALL_PIECE = 4096,  /* the first read of a body, and those from slow clients; shorter writes are not watched */
    STK_LONG_FILE = 1 << 20, /* longer files go to clients by the thread of streams */
    STK_STATUSES = 32,       /* that replies have */
    STK_MIN_BYTES_PER_MS = 2, /* bodies and replies may be slow, not slower than this once request_timeout has passed */
};

/* ---- watchdog.c: ends reads and writes that take too long */

struct stk_watchdog;

/* One of each HTTP thread, which watches the call that the thread is in. */
struct stk_watch {
    atomic_llong until_ms; /* 0: in none */
    const struct mg_connection *conn;
    bool sending;
    struct stk_watch *next, *next_due;
};

/* It looks after the calls eight times in timeout_ms, at least once a second. */
struct stk_watchdog *stk_watchdog_start(int64_t timeout_ms, struct stk_err *err);
void stk_watchdog_stop(struct stk_watchdog *d); /* NULL is fine; no watch may be left */
void stk_watch_add(struct stk_watchdog *d, struct stk_watch *w);
void stk_watch_remove(struct stk_watchdog *d, struct stk_watch *w);

/* Around one mg_read() or mg_write() of the thread. true: it took too long and nothing can be read, or sent, any more. */
void stk_watch_begin(struct stk_watch *w, const struct mg_connection *conn, bool sending, int64_t until_ms);
bool stk_watch_end(struct stk_watch *w);

/*
 * Until when the next n bytes may take, with moved bytes done since began_ms. A client may be as slow as STK_MIN_BYTES_PER_MS and
 * pause for timeout_ms besides; having been faster before earns it no longer pause.
 */
int64_t stk_slow_until_ms(int64_t began_ms, int64_t now_ms, uint64_t moved, size_t n, int64_t timeout_ms);

/* Shuts down every connection to one of these local ports. */
void stk_sockets_shut(const uint16_t *ports, size_t n);
/*
 * Takes the socket of this request away from CivetWeb, which from here on has a duplicate of stand_in in its place and will
 * shut down and close that. By the thread of the request. -1: there is no descriptor left for it, and nothing has changed.
 */
int stk_socket_take(const struct mg_connection *conn, int stand_in);

/* ---- streams.c: replies without a known end, on a thread of their own */

struct stk_streams;

/* At most max at once; a client that takes nothing for timeout_ms is cut. */
struct stk_streams *stk_streams_start(int max, int64_t timeout_ms, struct stk_err *err);
/* Cuts all; what can be sent at once still is. Streams that are added later are refused. */
void stk_streams_stop(struct stk_streams *s);
void stk_streams_free(struct stk_streams *s); /* once stopped; NULL is fine */

int stk_streams_stand_in(const struct stk_streams *s); /* a socket for stk_socket_take() */
/*
 * A place for one more; false: there is none, or with `modest` only some, which are kept for others. It goes with
 * stk_streams_add_take() or _unreserve().
 */
bool stk_streams_reserve(struct stk_streams *s, bool modest);
void stk_streams_unreserve(struct stk_streams *s);
/* head: what is sent before the stream, copied. Takes fd, source and the place, also when it returns -1. */
int stk_streams_add_take(struct stk_streams *s, int fd, const char *head, size_t head_len, bool chunked,
                         struct stk_stream *source);

int stk_streams_count(struct stk_streams *s);

/* ---- framing.c: where a request's body ends, and what else its headers say about the connection */

struct stk_framing {
    uint64_t length; /* bytes of the body when not chunked */
    bool chunked;
    bool expect;      /* the client waits for "100 Continue" */
    bool keep_alive;  /* the client would go on with this connection */
    bool cross_site;  /* a browser says that another site's page sent this */
    const char *host; /* borrowed; NULL: not sent */
};

/* 0, or the status to answer with, *err saying why: such a connection cannot be used any further. */
int stk_framing_read(const struct mg_request_info *info, struct stk_framing *ret, struct stk_err *err);

/* ---- request.c */

struct stk_http;

struct stk_request {
    struct stk_http *http;
    struct mg_connection *conn;
    const struct mg_request_info *info;
    const char *method; /* routed by: after _method and HEAD -> GET */
    bool head;
    char *path_store;
    struct stk_path path;
    struct stk_query query;
    struct stk_match match;
    struct stk_framing framing;
    atomic_int *waiting; /* the server's */
    int max_waiting;
    char *url; /* made when first asked for */

    struct stk_watch *watch; /* the thread's */
    uint64_t max_body, body_read;
    int64_t timeout_ms, body_began_ms; /* 0: nothing was read yet */
    size_t piece;                      /* bytes to ask for next; grows while the client is quick */
    bool body_ended, continued;
    struct stk_err body_err; /* code STK_OK, or why the body can't be read any further */
};

bool stk_request_body_pending(const struct stk_request *r); /* bytes of the body may still come */
/* Reads and drops up to max bytes within max_ms; true: the body's end was reached. */
bool stk_request_discard(struct stk_request *r, uint64_t max, int64_t max_ms);
void stk_request_done(struct stk_request *r);

/* ---- reply.c */

struct stk_reply {
    int status;
    char content_type[96]; /* "": none */
    struct {
        char *name, *value;
    } headers[STK_REPLY_HEADERS];
    size_t n_headers;
    char *body; /* owned; with a file: what comes before it */
    size_t body_len;
    int fd; /* -1: none; owned. file_len bytes of it, from file_from on, follow the body */
    uint64_t file_from, file_len;
    bool closes_object;        /* and then "}" */
    struct stk_stream *stream; /* NULL: none; owned. In place of a body */
    bool chunked;              /* the stream is sent in chunks, else its end is that of the connection */
    bool failed;               /* out of memory somewhere: a plain 500 is sent */
};

/* ---- file_stream.c */

bool stk_reply_is_long(const struct stk_reply *reply); /* from a file longer than STK_LONG_FILE */
/* The body of such a reply as a stream, which has it from here on. NULL: out of memory. */
struct stk_stream *stk_reply_steal_file(struct stk_reply *reply);

/* ---- reply.c: what the edge does with a reply */

void stk_reply_init(struct stk_reply *reply);
void stk_reply_done(struct stk_reply *reply);
uint64_t stk_reply_length(const struct stk_reply *reply); /* bytes of the whole body, unless it is a stream */
/* Statuses that have a name, by a number from 0 to STK_STATUSES - 1; STK_STATUSES: it is none of them. */
size_t stk_status_index(int status);
int stk_status_at(size_t i);
/* Appends status line and headers. date: as in the Date header. */
void stk_reply_head(const struct stk_reply *reply, struct stk_buf *out, const char *date, const char *connection);

/* ---- served.c: what was answered, by route, method and status. Any thread */

struct stk_served;

struct stk_served *stk_served_new(const struct stk_router *router); /* borrowed; NULL when out of memory */
void stk_served_free(struct stk_served *s);                         /* NULL is fine */
/* match NULL: of a request that did not come as far as the router. us: until its answer was sent. */
void stk_served_add(struct stk_served *s, const struct stk_match *match, int status, int64_t us);
void stk_served_metrics(const struct stk_served *s, struct stk_metrics *m);

#endif
