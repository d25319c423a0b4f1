/*
 * The HTTP path from the socket to a dialect's handler and back, through the CivetWeb that stokerd uses. The input is what a
 * client sends on one connection before it closes its side.
 *
 * What comes back must be a row of well-formed replies. And what the handlers were given (method, path, body) must be what a
 * second, strict reading of the same bytes gives, request by request: a request whose end two parties see in different places is
 * how requests are smuggled past a proxy. The server may refuse more than that reading does, never take more.
 */
#include "fuzz.h"

#include "http/http.h"
#include "stoker/log.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <strings.h>
#include <sys/socket.h>

enum { MAX_BODY = 4096, SMALL_BODY = 16, TAKEN_MAX = 64 };

/* ---- what handlers were given; a connection is served by one thread, and closed before anyone looks */

struct taken {
    char *method, *path;
    struct stk_buf body; /* as far as it was read */
    bool body_ended;
};

static struct {
    pthread_mutex_t lock;
    struct taken requests[TAKEN_MAX];
    size_t n;
} taken = { .lock = PTHREAD_MUTEX_INITIALIZER };

static struct taken *note(const struct stk_request *r)
{
    struct taken *t;

    pthread_mutex_lock(&taken.lock);
    FUZZ_CHECK(taken.n < TAKEN_MAX);
    t = &taken.requests[taken.n++];
    pthread_mutex_unlock(&taken.lock);
    t->method = strdup(stk_request_method(r));
    t->path = strdup(stk_request_path(r));
    return t;
}

static void forget(void)
{
    for (size_t i = 0; i < taken.n; i++) {
        free(taken.requests[i].method);
        free(taken.requests[i].path);
        stk_buf_done(&taken.requests[i].body);
    }
    memset(taken.requests, 0, sizeof taken.requests);
    taken.n = 0;
}

static void check_text(const char *text)
{
    FUZZ_CHECK(stk_utf8_valid(text, strlen(text)));
}

/* Shows all there is to show, so that each byte of it is looked at. */
static void answer(struct stk_request *r, struct stk_reply *reply)
{
    json_t *all = json_object();
    const char *name, *value, *url = stk_request_url(r);

    if (stk_request_param(r, "x")) {
        check_text(stk_request_param(r, "x"));
        json_object_set_new(all, "x", json_string(stk_request_param(r, "x")));
    }
    for (size_t i = 0; i < stk_request_query_count(r); i++) {
        name = stk_request_query_at(r, i, &value);
        check_text(name);
        check_text(value);
        json_object_set_new(all, name, json_string(value));
    }
    FUZZ_CHECK(strncmp(url, "http", 4) == 0 && !strpbrk(url, "\r\n "), "%s", url);
    stk_reply_json_take(reply, 200, all);
    stk_reply_header(reply, "Location", url);
    if (stk_request_header(r, "X-Copy"))
        stk_reply_header(reply, "X-Copy", stk_request_header(r, "X-Copy"));
}

static void get(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    (void)arg;
    note(r);
    answer(r, reply);
}

static void read_body(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    struct taken *t = note(r);
    struct stk_err err = { 0 };

    (void)arg;
    if (stk_request_read_all(r, &t->body, &err) < 0) {
        FUZZ_CHECK(err.code == STK_TOO_LARGE || err.code == STK_TIMEOUT || err.code == STK_INVALID);
        fuzz_check_message(&err);
        stk_reply_text(reply, err.code == STK_TOO_LARGE ? 413 : 400, err.msg);
        return;
    }
    t->body_ended = true;
    answer(r, reply);
}

/* Takes the first bytes of a body only. */
static void read_some(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    struct taken *t = note(r);
    char piece[3];
    ssize_t n = stk_request_read(r, piece, sizeof piece, NULL);

    (void)arg;
    if (n > 0)
        stk_buf_add(&t->body, piece, (size_t)n);
    answer(r, reply);
}

static const struct stk_route routes[] = {
    { "GET", "/get/{x}", get, 0 },
    { "DELETE", "/get/{x}", get, 0 },
    { "POST", "/read/{x}", read_body, 0 },
    { "PUT", "/read/{x}/{y}", read_body, 0 },
    { "POST", "/some/{x}", read_some, 0 },
    { "POST", "/leave/{x}", get, 0 }, /* as who answers without a look at the body */
    { "POST", "/small/{x}", read_body, SMALL_BODY },
    { "GET", "/", get, 0 },
    { NULL, NULL, NULL, 0 },
};

static void render_error(struct stk_reply *reply, int status, const char *message)
{
    FUZZ_CHECK(status >= 400 && status < 600 && message[0]);
    check_text(message);
    stk_reply_text(reply, status, message);
}

/* ---- the server */

static struct sockaddr_in server;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static const char *const prefixes[] = { "", "get", "read", "some", "leave", "small", NULL };
    static const struct stk_dialect dialect = {
        .name = "fuzz", .prefixes = prefixes, .routes = routes, .render_error = render_error
    };
    static const struct stk_dialect *const dialects[] = { &dialect, NULL };
    static const char *const listen[] = { "127.0.0.1:0" };
    struct stk_http_options options = {
        .listen = listen,
        .n_listen = 1,
        .threads = 1, /* so that a connection that is served shows the one before to be done with */
        .max_waiting = 1,
        .request_timeout_ms = 60000, /* no input waits for it: the client closes its side */
        .keep_alive_timeout_ms = 60000,
        .max_body = MAX_BODY,
        .dialects = dialects,
    };
    struct stk_err err = { 0 };
    struct stk_http *http;

    (void)argc;
    (void)argv;
    stk_log_set_level(STK_LOG_ERROR);
    http = stk_http_start(&options, &err);
    FUZZ_CHECK(http, "%s", err.msg);
    server.sin_family = AF_INET;
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    server.sin_port = htons((uint16_t)atoi(strrchr(stk_http_address(http, 0), ':') + 1));
    return 0;
}

/* libFuzzer's clock interrupts calls. */
static int dial(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1, why = 0;
    struct pollfd ready = { .fd = fd, .events = POLLOUT };
    socklen_t len = sizeof why;

    FUZZ_CHECK(fd >= 0, "%s", strerror(errno));
    if (connect(fd, (const struct sockaddr *)&server, sizeof server) < 0) {
        FUZZ_CHECK(errno == EINTR, "%s", strerror(errno));
        while (poll(&ready, 1, -1) < 0)
            FUZZ_CHECK(errno == EINTR, "%s", strerror(errno));
        FUZZ_CHECK(getsockopt(fd, SOL_SOCKET, SO_ERROR, &why, &len) == 0 && why == 0, "%s", strerror(why));
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

/* Sends all, closes that side, reads to the end. False: the connection was reset, so some of the answer may be missing. */
static bool exchange(const uint8_t *data, size_t size, struct stk_buf *ret)
{
    int fd = dial();
    char piece[16384];
    ssize_t n = 0;
    bool whole;

    /* far less than the buffers hold: it never blocks for long */
    while (size > 0 && (n = TEMP_FAILURE_RETRY(send(fd, data, size, MSG_NOSIGNAL))) > 0) {
        data += n;
        size -= (size_t)n;
    }
    whole = size == 0;
    shutdown(fd, SHUT_WR);
    while ((n = TEMP_FAILURE_RETRY(recv(fd, piece, sizeof piece, 0))) > 0)
        stk_buf_add(ret, piece, (size_t)n);
    whole &= n == 0;
    close(fd);
    return whole;
}

/* Until the thread is done with a connection that was reset before its end was seen: it has but one at a time. */
static void wait_for_thread(void)
{
    static const char nothing[] = "GET /nothing HTTP/1.0\r\n\r\n";
    stk_auto_buf got = { 0 };

    FUZZ_CHECK(exchange((const uint8_t *)nothing, sizeof nothing - 1, &got) && got.len > 0);
}

/* ---- replies */

/* The end of the head at p, behind its empty line; NULL: not well-formed. */
static const char *read_head(const char *p, const char *end, int *ret_status, size_t *ret_length, bool *ret_close)
{
    *ret_length = 0;
    *ret_close = false;
    if (end - p < 13 || memcmp(p, "HTTP/1.1 ", 9) != 0 || p[12] != ' ')
        return NULL;
    *ret_status = atoi(p + 9);
    for (bool first = true;; first = false) {
        const char *stop = memmem(p, (size_t)(end - p), "\r\n", 2), *colon;

        if (!stop)
            return NULL;
        for (const char *c = p; c < stop; c++) {
            if ((unsigned char)*c < 0x20 && *c != '\t')
                return NULL;
        }
        if (stop == p)
            return p + 2;
        colon = memchr(p, ':', (size_t)(stop - p));
        if (!first && (!colon || colon == p))
            return NULL;
        if (strncasecmp(p, "Content-Length: ", 16) == 0)
            *ret_length = strtoull(p + 16, NULL, 10);
        if (strncasecmp(p, "Connection: close", 17) == 0)
            *ret_close = true;
        p = stop + 2;
    }
}

static size_t check_replies(const struct stk_buf *got, bool may_be_head, bool whole)
{
    const char *p = got->data, *end = p ? p + got->len : NULL;
    size_t n = 0;
    bool closed = false;

    while (p < end) {
        int status = 0;
        size_t length;
        bool says_close;
        const char *body = read_head(p, end, &status, &length, &says_close);

        if (!body && !whole)
            break;
        FUZZ_CHECK(body, "not a reply: %.*s", (int)(end - p), p);
        FUZZ_CHECK(!closed, "a reply after the last: %.*s", (int)(end - p), p);
        p = body;
        if (status == 100)
            continue;
        n++;
        closed = says_close;
        /* Only a HEAD request's reply has a length and no body. */
        if (may_be_head && length > 0 && (p == end || memcmp(p, "HTTP/1.1", 8) == 0))
            continue;
        if (!whole && (size_t)(end - p) < length)
            break;
        FUZZ_CHECK((size_t)(end - p) >= length, "%zu bytes are missing", length - (size_t)(end - p));
        p += length;
    }
    return n;
}

/* ---- the same bytes, read strictly (RFC 9112) */

struct reading {
    const char *p, *end;
};

struct expected {
    char method[16];
    const char *target;
    size_t target_len;
    bool override; /* _method may stand in the query */
    struct stk_buf body;
    bool body_complete; /* the body came to its end */
    bool complete;      /* so did what may follow the last chunk: another request may begin */
};

/* A line without its end; false: there is none. Like CivetWeb, and as RFC 9112 2.2 allows, it takes LF alone. */
static bool take_line(struct reading *r, const char **line, size_t *len)
{
    const char *stop = memchr(r->p, '\n', (size_t)(r->end - r->p));

    if (!stop)
        return false;
    *line = r->p;
    *len = (size_t)(stop - r->p);
    if (*len && stop[-1] == '\r')
        --*len;
    r->p = stop + 1;
    return true;
}

static const char *skip(const char *p, const char *end, int (*is)(int c))
{
    while (p < end && is((unsigned char)*p))
        p++;
    return p;
}

/* Like CivetWeb this takes any white space between the words, where RFC 9112 3 has one space. */
static bool take_request_line(struct reading *r, struct expected *e, bool *http_1_1)
{
    const char *line, *word, *cr;
    size_t len;

    word = skip(r->p, r->end, isspace); /* empty lines before it may be skipped */
    r->p = skip(word, r->end, isgraph);
    if (r->p == r->end || *r->p != ' ' || r->p == word || r->p - word >= 16)
        return false;
    memcpy(e->method, word, (size_t)(r->p - word));
    e->target = skip(r->p, r->end, isspace);
    r->p = skip(e->target, r->end, isgraph);
    e->target_len = (size_t)(r->p - e->target);
    if (r->p == r->end || *r->p != ' ')
        return false;
    r->p = skip(r->p, r->end, isspace);
    if (!take_line(r, &line, &len))
        return false;
    while (len &&
           line[len - 1] == '\r') /* more of them before the end: framing.c refuses that where a header follows */
        len--;
    /* After a CR or LF alone one character of white space is skipped; framing.c says why it cannot tell. */
    if ((cr = memchr(line, '\r', len)) && cr + 1 < line + len && isspace((unsigned char)cr[1])) {
        len = (size_t)(cr - line);
        r->p = cr + 2;
    } else if (line[len] == '\n' && r->p < r->end && isspace((unsigned char)*r->p)) {
        r->p++;
    }
    if (len != 8 || memcmp(line, "HTTP/1.", 7) != 0)
        return false;
    *http_1_1 = line[7] != '0';
    return true;
}

struct headers {
    bool chunked, has_length, bad;
    unsigned long long length;
};

static void take_header(const char *line, size_t len, struct headers *h)
{
    const char *colon = memchr(line, ':', len), *value, *end = line + len;
    size_t name_len = colon ? (size_t)(colon - line) : 0;

    for (size_t i = 0; i < name_len; i++)
        h->bad |= line[i] < 33 || line[i] > 126; /* more than RFC 9110 has, and no harm */
    if (!name_len || h->bad || memchr(line, '\r', len) || memchr(line, '\0', len)) {
        h->bad = true;
        return;
    }
    for (value = colon + 1; value < end && (*value == ' ' || *value == '\t');)
        value++;
    while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    if (name_len == 14 && strncasecmp(line, "Content-Length", 14) == 0) {
        h->bad |= h->has_length || value == end;
        h->has_length = true;
        h->length = 0;
        for (; value < end; value++) {
            h->bad |= !isdigit((unsigned char)*value) || h->length > INT64_MAX / 20;
            h->length = h->length * 10 + (unsigned long long)(*value - '0');
        }
    } else if (name_len == 17 && strncasecmp(line, "Transfer-Encoding", 17) == 0) {
        h->bad |= h->chunked || end - value != 7 || strncasecmp(value, "chunked", 7) != 0;
        h->chunked = true;
    }
}

/* 1: a chunk, 0: the last one, -1: malformed or not all there. */
static int take_chunk(struct reading *r, struct stk_buf *body)
{
    const char *line;
    size_t len, digits = 0;
    unsigned long long n = 0;

    if (!take_line(r, &line, &len) || line[len] != '\r')
        return -1;
    while (digits < len && isxdigit((unsigned char)line[digits]))
        digits++;
    if (digits == 0 || digits > 15 || (digits < len && line[digits] != ';'))
        return -1;
    for (size_t i = 0; i < digits; i++)
        n = n * 16 + (unsigned)(isdigit((unsigned char)line[i]) ? line[i] - '0' : (line[i] | 0x20) - 'a' + 10);
    if (n == 0)
        return 0;
    if (n > (size_t)(r->end - r->p)) {
        stk_buf_add(body, r->p, (size_t)(r->end - r->p));
        r->p = r->end;
        return -1;
    }
    stk_buf_add(body, r->p, n);
    r->p += n;
    if (r->end - r->p < 2 || r->p[0] != '\r' || r->p[1] != '\n')
        return -1;
    r->p += 2;
    return 1;
}

static bool take_chunks(struct reading *r, struct stk_buf *body, bool *ret_body_complete)
{
    const char *line;
    size_t len;
    int rc;

    while ((rc = take_chunk(r, body)) == 1)
        ;
    *ret_body_complete = rc == 0;
    if (rc < 0)
        return false;
    while (take_line(r, &line, &len)) { /* trailers */
        if (len == 0)
            return true;
        struct headers h = { 0 };

        take_header(line, len, &h);
        if (h.bad)
            return false;
    }
    return false;
}

/* False: no request stands here, or a malformed one. */
static bool take_request(struct reading *r, struct expected *e)
{
    struct headers h = { 0 };
    const char *line;
    size_t len;
    bool http_1_1;

    memset(e, 0, sizeof *e);
    if (!take_request_line(r, e, &http_1_1))
        return false;
    for (;;) {
        if (!take_line(r, &line, &len))
            return false;
        if (len == 0)
            break;
        take_header(line, len, &h);
    }
    if (h.bad || (h.chunked && (h.has_length || !http_1_1)))
        return false;
    e->override = memmem(e->target, e->target_len, "_method", 7) || memchr(e->target, '%', e->target_len);
    if (h.chunked) {
        e->complete = take_chunks(r, &e->body, &e->body_complete);
    } else {
        e->complete = e->body_complete = h.length <= (size_t)(r->end - r->p);
        len = e->complete ? (size_t)h.length : (size_t)(r->end - r->p);
        stk_buf_add(&e->body, r->p, len);
        r->p += len;
    }
    return true;
}

static bool is_this(const struct expected *e, const struct taken *t)
{
    const char *query = memchr(e->target, '?', e->target_len);
    size_t path_len = query ? (size_t)(query - e->target) : e->target_len;
    const char *method = strcasecmp(e->method, "HEAD") == 0 ? "GET" : e->method;
    bool absolute = e->target_len && e->target[0] != '/'; /* "http://host/path" is told without its host */

    if (!e->override && strcasecmp(method, t->method) != 0)
        return false;
    if (!absolute && strlen(t->path) != path_len)
        return false;
    return strlen(t->path) <= path_len && memcmp(e->target + path_len - strlen(t->path), t->path, strlen(t->path)) == 0;
}

/* Where lines end is a matter of taste then: CivetWeb takes CR for white space here and for a line's end there. */
static bool has_lone_cr(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (data[i] == '\r' && (i + 1 == size || data[i + 1] != '\n'))
            return true;
    }
    return false;
}

static void check_taken(const uint8_t *data, size_t size)
{
    struct reading r = { (const char *)data, (const char *)data + size };
    struct expected e;
    bool complete = true;

    if (has_lone_cr(data, size))
        return;
    for (size_t i = 0; i < taken.n;) {
        const struct taken *t = &taken.requests[i];
        bool found;

        FUZZ_CHECK(complete, "request %zu begins inside of another", i);
        FUZZ_CHECK(take_request(&r, &e), "request %zu, %s %s, is none", i, t->method, t->path);
        found = is_this(&e, t); /* else it was refused before a handler saw it */
        if (found) {
            FUZZ_CHECK(t->body.len <= e.body.len, "request %zu has a longer body", i);
            FUZZ_CHECK(t->body.len == 0 || memcmp(t->body.data, e.body.data, t->body.len) == 0, "request %zu: the body",
                       i);
            FUZZ_CHECK(!t->body_ended || (e.body_complete && t->body.len == e.body.len), "request %zu: the body's end",
                       i);
            i++;
        }
        complete = e.complete;
        stk_buf_done(&e.body);
    }
}

/* ---- */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    stk_auto_buf got = { 0 };
    bool whole;
    size_t replies;

    if (size > 48 * 1024)
        return 0;
    forget();
    whole = exchange(data, size, &got);
    if (!whole)
        wait_for_thread();
    pthread_mutex_lock(&taken.lock); /* all that the other thread wrote is seen from here on */
    pthread_mutex_unlock(&taken.lock);
    replies = check_replies(&got, memmem(data, size, "HEAD", 4) != NULL, whole);
    FUZZ_CHECK(!whole || replies >= taken.n, "%zu requests, %zu replies", taken.n, replies);
    check_taken(data, size);
    return 0;
}
