/*
 * The CivetWeb side: listeners, threads, one handler for everything, and the writing of replies. CivetWeb 1.15 gives each
 * connection a thread with a stack of 100 KiB; a request is read, answered and forgotten on it, unless its answer is a stream
 * (streams.c).
 */
#include "http/edge.h"

#include "stoker/clock.h"
#include "stoker/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { LISTEN_MAX = 16 };

struct stk_http {
    struct mg_context *civet;
    struct stk_router *router;
    struct stk_watchdog *watchdog;
    struct stk_streams *streams;
    struct stk_served *served;
    const struct stk_dialect *first_dialect;
    uint64_t max_body;
    int64_t request_timeout_ms, keep_alive_timeout_ms;
    int max_waiting;
    atomic_int waiting, in_flight;
    atomic_bool stopping, started;
    char *addresses[LISTEN_MAX];
    uint16_t ports[LISTEN_MAX];
    size_t n_listen;
    char start_error[200]; /* what CivetWeb said; written before any other thread runs */
    bool library;
};

/* What a CivetWeb thread keeps from one request to the next. It serves one connection at a time. */
struct worker {
    struct stk_watch watch;
    struct stk_buf out;
    int64_t idle_since_ms; /* the connection was opened, or its last reply sent */
    bool first_request;
    time_t date_s;
    char date[40];
};

/* ---- replies */

static const char *http_date(struct worker *w)
{
    static const char days[7][4] = { "Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat" };
    static const char months[12][4] = { "Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                        "Jul", "Aug", "Sep", "Oct", "Nov", "Dec" };
    time_t now = (time_t)(stk_wall_us() / 1000000);
    struct tm tm;

    if (now == w->date_s && w->date[0])
        return w->date;
    gmtime_r(&now, &tm);
    snprintf(w->date, sizeof w->date, "%s, %02d %s %d %02d:%02d:%02d GMT", days[tm.tm_wday % 7], tm.tm_mday,
             months[tm.tm_mon % 12], tm.tm_year + 1900, tm.tm_hour, tm.tm_min, tm.tm_sec);
    w->date_s = now;
    return w->date;
}

/* One reply on its way. */
struct sender {
    struct mg_connection *conn;
    struct stk_watch *watch;
    int64_t timeout_ms, began_ms;
    uint64_t sent;
};

static bool write_piece(struct sender *s, const char *bytes, size_t len)
{
    int64_t now_ms;
    int n;

    if (len <= STK_SMALL_PIECE) /* the socket takes it whole, or CivetWeb's own timeout ends it */
        return mg_write(s->conn, bytes, len) == (int)len;
    now_ms = stk_mono_ms();
    if (s->began_ms == 0)
        s->began_ms = now_ms;
    stk_watch_begin(s->watch, s->conn, true, stk_slow_until_ms(s->began_ms, now_ms, s->sent, len, s->timeout_ms));
    n = mg_write(s->conn, bytes, len);
    s->sent += len;
    return !stk_watch_end(s->watch) && n == (int)len;
}

static bool write_all(struct sender *s, const char *bytes, size_t len)
{
    for (size_t at = 0; at < len; at += STK_PIECE) {
        if (!write_piece(s, bytes + at, len - at < STK_PIECE ? len - at : STK_PIECE))
            return false;
    }
    return true;
}

/* The file in pieces, then what follows it. */
static bool write_file(struct sender *s, const struct stk_reply *reply)
{
    stk_auto_free char *piece = malloc(STK_PIECE);
    uint64_t at = reply->file_from, end = at + reply->file_len;

    if (!piece)
        return false;
    while (at < end) {
        ssize_t n = pread(reply->fd, piece, end - at < STK_PIECE ? (size_t)(end - at) : STK_PIECE, (off_t)at);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            stk_error("http", "file of a reply ended early", "reason", n < 0 ? strerror(errno) : "it is too short");
            return false;
        }
        if (!write_all(s, piece, (size_t)n))
            return false;
        at += (uint64_t)n;
    }
    return !reply->closes_object || write_all(s, "}", 1);
}

/* One write for a small reply: head and body in one packet. */
static bool send_reply(struct mg_connection *conn, struct worker *w, const struct stk_reply *reply, bool head_only,
                       const char *connection)
{
    const struct stk_http *http = mg_get_user_context_data(conn);
    struct sender s = { .conn = conn, .watch = &w->watch, .timeout_ms = http->request_timeout_ms };
    bool one_write;

    w->out.len = 0;
    stk_reply_head(reply, &w->out, http_date(w), connection);
    one_write = reply->body_len <= STK_PIECE;
    if (!head_only && one_write)
        stk_buf_add(&w->out, reply->body, reply->body_len);
    if (w->out.failed || !write_all(&s, w->out.data, w->out.len))
        return false;
    if (head_only)
        return true;
    if (!one_write && !write_all(&s, reply->body, reply->body_len))
        return false;
    return reply->fd < 0 || write_file(&s, reply);
}

static void render_failure(struct stk_reply *reply, const struct stk_dialect *dialect, int status, const char *message)
{
    stk_reply_done(reply);
    stk_reply_init(reply);
    dialect->render_error(reply, status, message);
}

/* ---- requests */

struct exchange {
    struct stk_http *http;
    struct worker *worker;
    struct stk_request request;
    struct stk_reply reply;
};

static void refuse(struct exchange *x, int status, const char *message)
{
    const struct stk_dialect *d = x->request.match.dialect ? x->request.match.dialect : x->http->first_dialect;

    render_failure(&x->reply, d, status, message);
}

/* False: refused, and the reply says so. */
static bool apply_method(struct exchange *x)
{
    struct stk_request *r = &x->request;
    const char *override = stk_query_get(&r->query, "_method");
    const char *method = stk_method_find(override ? override : r->info->request_method);

    if (!method) {
        refuse(x, 501, "This HTTP method is not known");
        return false;
    }
    r->head = strcmp(r->info->request_method, "HEAD") == 0;
    r->method = strcmp(method, "HEAD") == 0 ? "GET" : method;
    return true;
}

static bool find_route(struct exchange *x)
{
    struct stk_request *r = &x->request;
    char message[120];

    stk_router_find(x->http->router, &r->path, r->method, &r->match);
    if (r->match.route)
        return true;
    if (!r->match.allow[0]) {
        refuse(x, 404, "The requested resource could not be found.");
        return false;
    }
    snprintf(message, sizeof message, "HTTP method not allowed, supported methods: %s", r->match.allow);
    refuse(x, 405, message);
    stk_reply_header(&x->reply, "Allow", r->match.allow);
    return false;
}

static bool parse(struct exchange *x)
{
    struct stk_request *r = &x->request;
    const char *raw = r->info->local_uri_raw;
    struct stk_err err;
    int status;

    if ((status = stk_framing_read(r->info, &r->framing, &err))) {
        r->framing = (struct stk_framing){ 0 }; /* closes the connection */
        r->body_ended = true;
        refuse(x, status, err.msg);
        return false;
    }
    r->path_store = malloc(strlen(raw) + 1);
    if (!r->path_store) {
        refuse(x, 500, "out of memory");
        return false;
    }
    if (stk_path_parse(raw, r->path_store, &r->path, &err) < 0 ||
        stk_query_parse(r->info->query_string, &r->query, &err) < 0) {
        refuse(x, err.code == STK_INVALID ? 400 : 500, err.msg);
        return false;
    }
    return apply_method(x) && find_route(x);
}

static bool admit(struct exchange *x)
{
    struct stk_request *r = &x->request;
    char message[120];

    r->max_body = r->match.route->max_body ? r->match.route->max_body : x->http->max_body;
    if (atomic_load_explicit(&x->http->stopping, memory_order_relaxed)) {
        refuse(x, 503, "The server is stopping.");
        stk_reply_header(&x->reply, "Retry-After", "1");
        return false;
    }
    /* A page of another site cannot read our answers, but without this it could still start and kill jobs. */
    if (r->framing.cross_site && strcmp(r->method, "GET") != 0) {
        refuse(x, 403, "Requests that change something are not taken from pages of other sites.");
        return false;
    }
    if (!r->framing.chunked && r->framing.length > r->max_body) {
        snprintf(message, sizeof message, "The request content of %llu bytes is longer than the limit of %llu bytes",
                 (unsigned long long)r->framing.length, (unsigned long long)r->max_body);
        refuse(x, 413, message);
        return false;
    }
    return true;
}

static void answer(struct exchange *x)
{
    if (!parse(x) || !admit(x))
        return;
    x->request.match.route->handler(&x->request, &x->reply, x->request.match.dialect->arg);
    if (x->reply.failed) {
        stk_error("http", "no memory for a reply", "path", stk_request_path(&x->request));
        refuse(x, 500, "out of memory");
    }
}

static void refuse_stream(struct exchange *x, const char *message)
{
    refuse(x, 503, message);
    stk_reply_header(&x->reply, "Retry-After", "1");
}

/*
 * Hands the connection over to the thread of streams. false: the reply is no stream, or no longer. A long file that finds no place
 * there is sent by the HTTP thread.
 */
static bool give_stream_away(struct exchange *x)
{
    struct stk_streams *streams = x->http->streams;
    struct stk_request *r = &x->request;
    struct worker *w = x->worker;
    struct stk_stream *source;
    bool file = !x->reply.stream;
    int fd;

    if (r->head || (file && (!stk_reply_is_long(&x->reply) || stk_request_body_pending(r))))
        return false;
    if (!stk_streams_reserve(streams, file)) {
        if (!file)
            refuse_stream(x, "Too many streams are being sent (max-streams).");
        return false;
    }
    x->reply.chunked = strcmp(r->info->http_version, "1.1") == 0;
    w->out.len = 0;
    stk_reply_head(&x->reply, &w->out, http_date(w), "close");
    fd = w->out.failed ? -1 : stk_socket_take(r->conn, stk_streams_stand_in(streams));
    if (fd < 0) {
        stk_streams_unreserve(streams);
        if (!file)
            refuse_stream(x, "There is no descriptor or memory left for a stream.");
        return false;
    }
    mg_disable_connection_keep_alive(r->conn);
    source = file ? stk_reply_steal_file(&x->reply) : stk_steal_ptr(&x->reply.stream);
    if (source) {
        stk_streams_add_take(streams, fd, w->out.data, w->out.len, !file && x->reply.chunked, source);
    } else { /* too late to say so */
        stk_streams_unreserve(streams);
        close(fd);
    }
    return true;
}

/*
 * Whether the connection can serve another request. An unread body must be out of the way first: a short one is read and
 * dropped. One that the client holds back until "100 Continue" is never asked for.
 */
static bool may_keep(struct exchange *x)
{
    struct stk_request *r = &x->request;

    if (!r->framing.keep_alive || r->body_err.code || atomic_load_explicit(&x->http->stopping, memory_order_relaxed))
        return false;
    if (!stk_request_body_pending(r))
        return true;
    if (r->framing.expect && !r->continued)
        return false;
    return (r->framing.chunked || r->framing.length - r->body_read <= STK_PIECE) &&
           stk_request_discard(r, 2 * STK_PIECE, 1000);
}

/* Closing with bytes unread makes the kernel reset the connection, and the client may never see our answer. So take some. */
static void take_leave(struct exchange *x)
{
    struct stk_request *r = &x->request;

    mg_disable_connection_keep_alive(r->conn);
    if (r->body_err.code == STK_TIMEOUT || r->body_err.code == STK_INVALID || (r->framing.expect && !r->continued))
        return;
    stk_request_discard(r, 64 << 20, 3000);
}

static void finish(struct exchange *x)
{
    struct stk_request *r = &x->request;
    bool keep = may_keep(x);
    const char *connection = !keep ? "close" : strcmp(r->info->http_version, "1.0") == 0 ? "keep-alive" : NULL;

    if (!send_reply(r->conn, x->worker, &x->reply, r->head, connection))
        mg_disable_connection_keep_alive(r->conn);
    else if (!keep)
        take_leave(x);
}

static int on_request(struct mg_connection *conn)
{
    struct stk_http *http = mg_get_user_context_data(conn);
    struct worker *w = mg_get_thread_pointer(conn);
    struct exchange x = {
        .http = http,
        .worker = w,
        .request = { .http = http,
                     .conn = conn,
                     .info = mg_get_request_info(conn),
                     .watch = &w->watch,
                     .timeout_ms = http->request_timeout_ms,
                     .waiting = &http->waiting,
                     .max_waiting = http->max_waiting },
    };
    int64_t began_us = stk_mono_us();
    int status;

    if (!w) { /* its thread started without memory for it */
        mg_disable_connection_keep_alive(conn);
        return 500;
    }
    atomic_fetch_add(&http->in_flight, 1);
    stk_reply_init(&x.reply);
    answer(&x);
    if (!give_stream_away(&x))
        finish(&x);
    status = x.reply.status;
    stk_served_add(http->served, &x.request.match, status, stk_mono_us() - began_us);
    stk_reply_done(&x.reply);
    stk_request_done(&x.request);
    if (w->out.cap > 4 * (size_t)STK_PIECE)
        stk_buf_done(&w->out);
    w->out.failed = false;
    w->idle_since_ms = stk_mono_ms();
    w->first_request = false;
    atomic_fetch_sub(&http->in_flight, 1);
    return status;
}

/* ---- what CivetWeb refuses by itself */

static int own_status(const struct stk_http *http, const struct worker *w, int status, const char *text)
{
    int64_t limit_ms = w->first_request ? http->request_timeout_ms : http->keep_alive_timeout_ms;

    if (strcmp(text, "Message too large") == 0)
        return 431;
    if (status == 411) /* its answer to a Content-Length that is no number */
        return 400;
    if (status == 400 && strcmp(text, "Malformed message") == 0 && stk_mono_ms() - w->idle_since_ms >= limit_ms)
        return 408; /* it does not tell a slow request from a broken one */
    return status;
}

static const char *own_message(int status)
{
    switch (status) {
    case 400: return "The request is malformed, or its headers are longer than 32 KiB";
    case 408: return "The request came too slowly";
    case 431: return "The headers are longer than 32 KiB";
    case 505: return "Only HTTP/1.0 and HTTP/1.1 are spoken here";
    default: return status < 500 ? "The request could not be understood" : "There was an internal server error.";
    }
}

static int on_error(struct mg_connection *conn, int status, const char *text)
{
    struct stk_http *http = mg_get_user_context_data(conn);
    struct worker *w = mg_get_thread_pointer(conn);
    struct stk_reply reply;

    if (!w)
        return 1;
    status = own_status(http, w, status, text);
    stk_reply_init(&reply);
    render_failure(&reply, http->first_dialect, status, own_message(status));
    send_reply(conn, w, &reply, false, "close"); /* it closes the connection after every error of its own */
    stk_served_add(http->served, NULL, status, (stk_mono_ms() - w->idle_since_ms) * 1000);
    stk_reply_done(&reply);
    return 0;
}

static void *on_thread(const struct mg_context *civet, int type)
{
    struct stk_http *http = mg_get_user_data(civet);
    struct worker *w = type == 1 ? calloc(1, sizeof *w) : NULL;

    if (w)
        stk_watch_add(http->watchdog, &w->watch);
    return w;
}

static void on_thread_end(const struct mg_context *civet, int type, void *worker)
{
    struct stk_http *http = mg_get_user_data(civet);
    struct worker *w = worker;

    (void)type;
    if (!w)
        return;
    stk_watch_remove(http->watchdog, &w->watch);
    stk_buf_done(&w->out);
    free(w);
}

static int on_connection(const struct mg_connection *conn, void **data)
{
    struct worker *w = mg_get_thread_pointer(conn);

    *data = NULL;
    if (w) {
        w->idle_since_ms = stk_mono_ms();
        w->first_request = true;
    }
    return 0;
}

static int on_log(const struct mg_connection *conn, const char *text)
{
    struct stk_http *http = mg_get_user_context_data(conn);

    if (http && !atomic_load(&http->started)) {
        if (!http->start_error[0])
            snprintf(http->start_error, sizeof http->start_error, "%s", text);
    } else {
        stk_warn("http", "civetweb", "text", text);
    }
    return 1;
}

/* ---- start */

/* "host:port" that CivetWeb cannot misread: it takes a comma as a list, a trailing 's' as TLS, and ignores what it can't parse. */
static int check_address(const char *text, struct stk_err *err)
{
    const char *colon = strrchr(text, ':');
    size_t host = colon ? (size_t)(colon - text) : 0;
    bool v6 = host > 2 && text[0] == '[' && text[host - 1] == ']';
    uint64_t port;

    if (host == 0 || stk_parse_u64(colon + 1, 0, 65535, &port, NULL) < 0)
        return stk_fail(err, STK_INVALID, "listen on '%.80s': it must be host:port", text);
    if (v6 && !mg_check_feature(8))
        return stk_fail(err, STK_INVALID, "listen on '%.80s': this CivetWeb was built without IPv6", text);
    if (v6 ? strspn(text + 1, "0123456789abcdefABCDEF:.") != host - 2
           : strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-") != host)
        return stk_fail(err, STK_INVALID, "listen on '%.80s': the host is not a name or address", text);
    return 0;
}

static int join_addresses(struct stk_http *http, const struct stk_http_options *o, struct stk_buf *ret,
                          struct stk_err *err)
{
    if (o->n_listen == 0 || o->n_listen > LISTEN_MAX)
        return stk_fail(err, STK_INVALID, "from 1 to %d addresses to listen on are needed", LISTEN_MAX);
    for (size_t i = 0; i < o->n_listen; i++) {
        if (check_address(o->listen[i], err) < 0)
            return -1;
        stk_buf_printf(ret, "%s%s", i ? "," : "", o->listen[i]);
    }
    http->n_listen = o->n_listen;
    return ret->failed ? stk_fail(err, STK_INTERNAL, "out of memory") : 0;
}

static int note_ports(struct stk_http *http, const struct stk_http_options *o, struct stk_err *err)
{
    struct mg_server_port ports[LISTEN_MAX];

    if (mg_get_server_ports(http->civet, LISTEN_MAX, ports) != (int)o->n_listen)
        return stk_fail(err, STK_INTERNAL, "CivetWeb listens on fewer addresses than asked");
    for (size_t i = 0; i < o->n_listen; i++) {
        int host = (int)(strrchr(o->listen[i], ':') - o->listen[i]);

        http->ports[i] = (uint16_t)ports[i].port;
        if (asprintf(&http->addresses[i], "http://%.*s:%d", host, o->listen[i], ports[i].port) < 0) {
            http->addresses[i] = NULL;
            return stk_fail(err, STK_INTERNAL, "out of memory");
        }
    }
    return 0;
}

static int start_failure(const struct stk_http *http, const char *addresses, struct stk_err *err)
{
    const char *what = http->start_error[0] ? http->start_error : "no reason given";

    /* "cannot bind to 127.0.0.1:8090: 98 (Address already in use)" */
    if (strstr(what, "Address already in use")) {
        const char *from = strstr(what, "bind to ");
        int len = from ? (int)strcspn(from + 8, " ") - 1 : 0;

        if (len > 0)
            return stk_fail(err, STK_CONFLICT, "listen on %.*s: the address is already in use", len, from + 8);
        return stk_fail(err, STK_CONFLICT, "listen on %s: the address is already in use", addresses);
    }
    return stk_fail(err, STK_INTERNAL, "listen on %s: %s", addresses, what);
}

static const struct mg_callbacks callbacks = {
    .begin_request = on_request,
    .http_error = on_error,
    .init_thread = on_thread,
    .exit_thread = on_thread_end,
    .init_connection = on_connection,
    .log_message = on_log,
};

static int start_civetweb(struct stk_http *http, const struct stk_http_options *o, const char *addresses,
                          struct stk_err *err)
{
    char threads[24], request_ms[24], keep_alive_ms[24], head[24];
    /* clang-format off */
    const char *options[] = {
        "listening_ports", addresses,
        "num_threads", threads,
        "connection_queue", "256",
        "listen_backlog", "1024",
        "tcp_nodelay", "1",
        "linger_timeout_ms", "-2", /* leave SO_LINGER alone: close() returns at once and the kernel delivers what is left */
        "max_request_size", head,
        "enable_keep_alive", "yes",
        "keep_alive_timeout_ms", keep_alive_ms,
        "request_timeout_ms", request_ms,
        "decode_url", "no", /* else %2F and %00 are decoded before we route */
        "decode_query_string", "no",
        "enable_directory_listing", "no",
        "enable_auth_domain_check", "no",
        "authentication_domain", "stoker",
        "access_control_allow_origin", "", /* else any page passes a preflight */
        "access_control_allow_methods", "",
        "access_control_allow_headers", "",
        "allow_sendfile_call", "no",
        NULL,
    };
    /* clang-format on */

    snprintf(threads, sizeof threads, "%d", o->threads);
    snprintf(request_ms, sizeof request_ms, "%lld", (long long)o->request_timeout_ms);
    snprintf(keep_alive_ms, sizeof keep_alive_ms, "%lld", (long long)o->keep_alive_timeout_ms);
    snprintf(head, sizeof head, "%d", STK_HEAD_MAX);
    http->civet = mg_start(&callbacks, http, options);
    if (!http->civet)
        return start_failure(http, addresses, err);
    atomic_store(&http->started, true);
    return 0;
}

static void http_free(struct stk_http *http)
{
    stk_streams_free(http->streams);
    stk_watchdog_stop(http->watchdog);
    stk_served_free(http->served);
    stk_router_free(http->router);
    for (size_t i = 0; i < LISTEN_MAX; i++)
        free(http->addresses[i]);
    if (http->library)
        mg_exit_library();
    free(http);
}

struct stk_http *stk_http_start(const struct stk_http_options *o, struct stk_err *err)
{
    struct stk_http *http = calloc(1, sizeof *http);
    stk_auto_buf addresses = { 0 };

    if (!http) {
        stk_fail(err, STK_INTERNAL, "out of memory");
        return NULL;
    }
    http->max_body = o->max_body;
    http->max_waiting = o->max_waiting;
    http->request_timeout_ms = o->request_timeout_ms;
    http->keep_alive_timeout_ms = o->keep_alive_timeout_ms;
    http->first_dialect = o->dialects[0];
    http->library = true;
    mg_init_library(MG_FEATURES_DEFAULT); /* no TLS: Debian's 1.15 crashes with OpenSSL 3 */
    http->router = stk_router_new(o->dialects, err);
    if (http->router && !(http->served = stk_served_new(http->router)))
        stk_fail(err, STK_INTERNAL, "out of memory");
    if (!http->served || join_addresses(http, o, &addresses, err) < 0 ||
        !(http->watchdog = stk_watchdog_start(o->request_timeout_ms, err)) ||
        !(http->streams = stk_streams_start(o->max_streams, o->stream_timeout_ms, err))) {
        http_free(http);
        return NULL;
    }
    if (start_civetweb(http, o, addresses.data, err) < 0) {
        stk_streams_stop(http->streams);
        http_free(http);
        return NULL;
    }
    if (note_ports(http, o, err) < 0) {
        stk_http_stop(http, 0);
        return NULL;
    }
    return http;
}

const char *stk_http_address(const struct stk_http *http, size_t i)
{
    return i < http->n_listen ? http->addresses[i] : NULL;
}

/* ---- metrics */

void stk_request_metrics(struct stk_request *r, struct stk_metrics *m)
{
    struct stk_http *http = r->http;

    stk_served_metrics(http->served, m);
    stk_metrics_one(m, "stoker_http_requests_in_flight", STK_GAUGE, "Requests that are being answered, this one too.",
                    atomic_load(&http->in_flight));
    stk_metrics_one(m, "stoker_http_requests_waiting", STK_GAUGE,
                    "Of these, those that wait for a job or a context (max-waiting).", atomic_load(&http->waiting));
    stk_metrics_one(m, "stoker_http_streams", STK_GAUGE,
                    "Followed logs and events, and long files, that are being sent (max-streams).",
                    stk_streams_count(http->streams));
}

/* ---- stop */

void stk_http_stop(struct stk_http *http, int64_t wait_ms)
{
    const struct timespec pause = { .tv_nsec = 2000000 };
    int64_t until_ms = stk_mono_ms() + wait_ms;

    if (!http)
        return;
    atomic_store(&http->stopping, true);
    while (atomic_load(&http->in_flight) > 0 && stk_mono_ms() < until_ms)
        nanosleep(&pause, NULL);
    stk_streams_stop(http->streams);
    /*
     * CivetWeb's threads look at its stop flag only every two seconds while they wait for a socket. Shut down, every wait ends at
     * once, and mg_stop() takes milliseconds.
     */
    stk_sockets_shut(http->ports, http->n_listen);
    mg_stop(http->civet);
    http_free(http);
}
