#include "sender.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/queue.h>
#include <sys/socket.h>

#ifndef STOKER_VERSION
#define STOKER_VERSION "0.1.0"
#endif

enum {
    ANSWER_MAX = 4096,       /* bytes of an answer's body that are read, to use the connection again */
    ANSWER_HEAD_MAX = 65536, /* of its headers */
    CONNECTIONS_KEPT = 32,
    PAUSE_MAX_S = 24 * 60 * 60,
};

/* ---- URLs */

static int url_parts(const char *url, char **ret_scheme, char **ret_host, char **ret_port, struct stk_err *err)
{
    CURLU *u = curl_url();
    char *user = NULL, *password = NULL;
    int rc = -1;

    *ret_scheme = *ret_host = *ret_port = NULL;
    if (!u)
        return stk_fail(err, STK_INTERNAL, "out of memory");
    if (curl_url_set(u, CURLUPART_URL, url, 0) != CURLUE_OK ||
        curl_url_get(u, CURLUPART_SCHEME, ret_scheme, 0) != CURLUE_OK ||
        curl_url_get(u, CURLUPART_HOST, ret_host, 0) != CURLUE_OK || !**ret_host ||
        curl_url_get(u, CURLUPART_PORT, ret_port, CURLU_DEFAULT_PORT) != CURLUE_OK)
        stk_fail(err, STK_INVALID, "it is no URL such as https://host/path");
    else if (strcasecmp(*ret_scheme, "http") != 0 && strcasecmp(*ret_scheme, "https") != 0)
        stk_fail(err, STK_INVALID, "it must begin with http:// or https://");
    else if (curl_url_get(u, CURLUPART_USER, &user, 0) == CURLUE_OK ||
             curl_url_get(u, CURLUPART_PASSWORD, &password, 0) == CURLUE_OK)
        stk_fail(err, STK_INVALID, "it must not hold a name or a password");
    else
        rc = 0;
    curl_free(user);
    curl_free(password);
    curl_url_cleanup(u);
    return rc;
}

static int url_read(const char *url, char **ret_origin, char **ret_host, struct stk_err *err)
{
    char *scheme, *host, *port;
    stk_auto_buf origin = { 0 };
    int rc;

    if (strlen(url) > STK_WEBHOOK_URL_MAX)
        return stk_fail(err, STK_INVALID, "it is longer than %d bytes", STK_WEBHOOK_URL_MAX);
    for (const char *p = url; *p; p++) {
        if (*p <= 0x20 || *p > 0x7e)
            return stk_fail(err, STK_INVALID, "it must be of visible ASCII characters, others as %%XX");
    }
    rc = url_parts(url, &scheme, &host, &port, err);
    if (rc == 0) {
        stk_buf_printf(&origin, "%s://%s:%s", scheme, host, port);
        for (char *p = origin.data; p && *p; p++)
            *p = *p >= 'A' && *p <= 'Z' ? (char)(*p | 0x20) : *p;
        *ret_origin = stk_buf_steal(&origin);
        if (ret_host)
            *ret_host = strdup(host);
        if (!*ret_origin || (ret_host && !*ret_host))
            rc = stk_fail(err, STK_INTERNAL, "out of memory");
    }
    curl_free(scheme);
    curl_free(host);
    curl_free(port);
    return rc;
}

int stk_webhook_url_check(const char *url, char **ret_origin, struct stk_err *err)
{
    *ret_origin = NULL;
    return url_read(url, ret_origin, NULL, err);
}

char *stk_webhook_url_shown(const char *url)
{
    const char *host = strstr(url, "://");
    size_t len = host ? (size_t)(host + 3 - url) + strcspn(host + 3, "/?#") : strcspn(url, "/?#");
    stk_auto_buf b = { 0 };

    stk_buf_add(&b, url, len);
    if (url[len] && strcmp(url + len, "/") != 0)
        stk_buf_add_str(&b, "/...");
    return stk_buf_steal(&b);
}

/* A host that is an address, "127.0.0.1" or "[::1]". Names are only known when they are looked up, but for this one. */
static bool host_address(const char *host, struct sockaddr_storage *ret)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)ret;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)ret;
    char inner[INET6_ADDRSTRLEN];
    size_t len = strlen(host);

    memset(ret, 0, sizeof *ret);
    if (strcasecmp(host, "localhost") == 0)
        host = "127.0.0.1";
    if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        return true;
    }
    if (host[0] == '[' && len > 2 && len - 2 < sizeof inner) {
        memcpy(inner, host + 1, len - 2);
        inner[len - 2] = '\0';
        host = inner;
    }
    v6->sin6_family = AF_INET6;
    return inet_pton(AF_INET6, host, &v6->sin6_addr) == 1;
}

char *stk_webhook_make(const struct stk_webhook_rules *rules, const char *url, const char *secret,
                       enum stk_webhook_form form, struct stk_err *err)
{
    stk_auto_free char *origin = NULL, *host = NULL;
    struct sockaddr_storage address;
    json_auto_t *object = NULL;
    char *text;

    if (url_read(url, &origin, &host, err) < 0 || (secret && stk_webhook_secret_check(secret, err) < 0))
        return NULL;
    if (host_address(host, &address) && !stk_webhook_allows_name(rules, host) &&
        !stk_webhook_allows_address(rules, (const struct sockaddr *)&address)) {
        stk_fail(err, STK_INVALID, "webhooks may not lead to %.100s: see webhook-allow in the server's configuration",
                 host);
        return NULL;
    }
    object = json_pack("{s:s, s:s, s:i, s:s?}", "url", url, "origin", origin, "form", (int)form, "secret", secret);
    text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    if (!text)
        stk_fail(err, STK_INVALID, "it is not UTF-8");
    return text;
}

/* ---- one on its way */

struct transfer {
    struct sender *sender;
    CURL *easy;
    struct curl_slist *headers;
    struct stk_webhook_body *body;
    void *user;
    bool free_host;      /* any address will do */
    bool refused, tried; /* an address was refused, was tried */
    uint64_t at;         /* of the body: what has been sent */
    size_t head, answer; /* bytes that came */
    char error[CURL_ERROR_SIZE];
    LIST_ENTRY(transfer) link;
};

struct sender {
    CURLM *multi;
    const struct stk_webhook_rules *rules;
    int64_t connect_timeout_ms, timeout_ms;
    sender_done_fn *done;
    void *arg;
    LIST_HEAD(, transfer) transfers;
};

static uint64_t body_len(const struct stk_webhook_body *b)
{
    return b->head.len + b->file_len + b->tail.len;
}

static size_t copy(char *to, size_t room, const struct stk_buf *from, uint64_t at)
{
    size_t left = from->len - (size_t)at, n = left < room ? left : room;

    memcpy(to, from->data + at, n);
    return n;
}

static size_t on_read(char *to, size_t size, size_t count, void *arg)
{
    struct transfer *t = arg;
    const struct stk_webhook_body *b = t->body;
    size_t room = size * count, n = 0;

    if (t->at < b->head.len) {
        n = copy(to, room, &b->head, t->at);
    } else if (t->at < b->head.len + b->file_len) {
        uint64_t at = t->at - b->head.len, left = b->file_len - at;
        ssize_t got = pread(b->fd, to, left < room ? (size_t)left : room, (off_t)at);

        if (got <= 0)
            return CURL_READFUNC_ABORT;
        n = (size_t)got;
    } else if (b->tail.len && t->at < body_len(b)) {
        n = copy(to, room, &b->tail, t->at - b->head.len - b->file_len);
    }
    t->at += n;
    return n;
}

/* A kept connection that was closed meanwhile: libcurl begins again on a new one. */
static int on_seek(void *arg, curl_off_t offset, int origin)
{
    struct transfer *t = arg;

    if (origin != SEEK_SET || offset < 0 || (uint64_t)offset > body_len(t->body))
        return CURL_SEEKFUNC_FAIL;
    t->at = (uint64_t)offset;
    return CURL_SEEKFUNC_OK;
}

/* What an answer says is nobody's concern, and may have no end. */
static size_t on_answer(char *bytes, size_t size, size_t count, void *arg)
{
    struct transfer *t = arg;

    (void)bytes;
    t->answer += size * count;
    return t->answer > ANSWER_MAX ? 0 : size * count;
}

static size_t on_header(char *bytes, size_t size, size_t count, void *arg)
{
    struct transfer *t = arg;

    (void)bytes;
    t->head += size * count;
    return t->head > ANSWER_HEAD_MAX ? 0 : size * count;
}

static bool may_reach(struct transfer *t, const struct sockaddr *address)
{
    bool may = t->free_host || stk_webhook_allows_address(t->sender->rules, address);

    t->refused |= !may;
    t->tried |= may;
    return may;
}

/* Names are checked here, by the address that is really used: what they meant a moment ago says nothing. */
static curl_socket_t on_open(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
    struct transfer *t = arg;

    if (purpose != CURLSOCKTYPE_IPCXN || !may_reach(t, &address->addr))
        return CURL_SOCKET_BAD;
    return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

/* A connection that is used again may have been opened for one who may go anywhere. */
static int on_request(void *arg, char *ip, char *own_ip, int port, int own_port)
{
    struct transfer *t = arg;
    struct sockaddr_storage address;

    (void)own_ip;
    (void)port;
    (void)own_port;
    return t->free_host || (host_address(ip, &address) && may_reach(t, (const struct sockaddr *)&address))
               ? CURL_PREREQFUNC_OK
               : CURL_PREREQFUNC_ABORT;
}

static void transfer_free(struct transfer *t)
{
    LIST_REMOVE(t, link);
    curl_multi_remove_handle(t->sender->multi, t->easy);
    curl_easy_cleanup(t->easy);
    curl_slist_free_all(t->headers);
    free(t);
}

static bool add_header(struct transfer *t, const char *line)
{
    struct curl_slist *more = curl_slist_append(t->headers, line);

    t->headers = more ? more : t->headers;
    return more;
}

static bool set_up(struct transfer *t, const struct post *post)
{
    const struct sender *s = t->sender;
    CURL *e = t->easy;
    bool ok = add_header(t, "Content-Type: application/json") && add_header(t, "Accept: */*") &&
              add_header(t, "Expect:") && add_header(t, "User-Agent: Stoker/" STOKER_VERSION);

    for (size_t i = 0; post->headers[i]; i++)
        ok = ok && add_header(t, post->headers[i]);
#define SET(option, value) ok = ok && curl_easy_setopt(e, option, value) == CURLE_OK
    SET(CURLOPT_URL, post->url);
#if LIBCURL_VERSION_NUM >= 0x075500
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
#else
    SET(CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
#if LIBCURL_VERSION_NUM >= 0x075700
    SET(CURLOPT_QUICK_EXIT, 1L); /* else the end of one waits for its slow name server, and all others with it */
#endif
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_FOLLOWLOCATION, 0L);
    SET(CURLOPT_PROXY, ""); /* one of the environment would be asked for addresses that the rules forbid */
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_CONNECTTIMEOUT_MS, (long)s->connect_timeout_ms);
    SET(CURLOPT_TIMEOUT_MS, (long)s->timeout_ms);
    SET(CURLOPT_POST, 1L);
    SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body_len(post->body));
    SET(CURLOPT_HTTPHEADER, t->headers);
    SET(CURLOPT_ERRORBUFFER, t->error);
    SET(CURLOPT_PRIVATE, t);
    SET(CURLOPT_READFUNCTION, on_read);
    SET(CURLOPT_READDATA, t);
    SET(CURLOPT_SEEKFUNCTION, on_seek);
    SET(CURLOPT_SEEKDATA, t);
    SET(CURLOPT_WRITEFUNCTION, on_answer);
    SET(CURLOPT_WRITEDATA, t);
    SET(CURLOPT_HEADERFUNCTION, on_header);
    SET(CURLOPT_HEADERDATA, t);
    SET(CURLOPT_OPENSOCKETFUNCTION, on_open);
    SET(CURLOPT_OPENSOCKETDATA, t);
    SET(CURLOPT_PREREQFUNCTION, on_request);
    SET(CURLOPT_PREREQDATA, t);
#undef SET
    return ok;
}

int sender_post(struct sender *s, const struct post *post, struct stk_err *err)
{
    stk_auto_free char *origin = NULL, *host = NULL;
    struct transfer *t;

    if (url_read(post->url, &origin, &host, err) < 0)
        return -1;
    t = calloc(1, sizeof *t);
    if (!t)
        return stk_fail(err, STK_INTERNAL, "out of memory");
    t->sender = s;
    t->body = post->body;
    t->user = post->user;
    t->free_host = post->anywhere || stk_webhook_allows_name(s->rules, host);
    LIST_INSERT_HEAD(&s->transfers, t, link);
    t->easy = curl_easy_init();
    if (!t->easy || !set_up(t, post) || curl_multi_add_handle(s->multi, t->easy) != CURLM_OK) {
        transfer_free(t);
        return stk_fail(err, STK_INTERNAL, "out of memory");
    }
    return 0;
}

static struct outcome outcome_of(struct transfer *t, CURLcode code)
{
    struct outcome o = { 0 };
    curl_off_t pause = 0;
    long status = 0;

    curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(t->easy, CURLINFO_RETRY_AFTER, &pause);
    o.status = (int)status;
    o.pause_s = pause < 0 ? 0 : pause > PAUSE_MAX_S ? PAUSE_MAX_S : (int64_t)pause;
    o.forbidden = t->refused && !t->tried;
    if (status >= 200 && status < 300) /* whether the rest of the answer came does not matter */
        return o;
    if (o.forbidden)
        snprintf(o.error, sizeof o.error, "webhook-allow does not allow the address that the host has");
    else if (status)
        snprintf(o.error, sizeof o.error, "it answered with status %ld", status);
    else
        snprintf(o.error, sizeof o.error, "%s", t->error[0] ? t->error : curl_easy_strerror(code));
    stk_utf8_mend(o.error);
    return o;
}

static bool tell_what_is_done(struct sender *s)
{
    bool any = false;
    CURLMsg *msg;
    int left;

    while ((msg = curl_multi_info_read(s->multi, &left))) {
        struct transfer *t;
        struct outcome o;
        void *user;

        if (msg->msg != CURLMSG_DONE || curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, (char **)&t) != CURLE_OK)
            continue;
        o = outcome_of(t, msg->data.result);
        user = t->user;
        transfer_free(t);
        s->done(s->arg, user, &o);
        any = true;
    }
    return any;
}

void sender_run(struct sender *s, int64_t ms)
{
    int running;

    curl_multi_perform(s->multi, &running);
    if (tell_what_is_done(s)) /* some end at once, and nothing would wake the poll for them */
        return;
    curl_multi_poll(s->multi, NULL, 0, (int)(ms > INT_MAX ? INT_MAX : ms), NULL);
    curl_multi_perform(s->multi, &running);
    tell_what_is_done(s);
}

void sender_wake(struct sender *s)
{
    curl_multi_wakeup(s->multi);
}

struct sender *sender_new(const struct stk_webhook_rules *rules, int64_t connect_timeout_ms, int64_t timeout_ms,
                          sender_done_fn *done, void *arg, struct stk_err *err)
{
    struct sender *s = calloc(1, sizeof *s);

    if (!s || curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK || !(s->multi = curl_multi_init())) {
        free(s);
        stk_fail(err, STK_INTERNAL, "cannot set up libcurl");
        return NULL;
    }
    curl_multi_setopt(s->multi, CURLMOPT_MAXCONNECTS, (long)CONNECTIONS_KEPT);
    s->rules = rules;
    s->connect_timeout_ms = connect_timeout_ms;
    s->timeout_ms = timeout_ms;
    s->done = done;
    s->arg = arg;
    LIST_INIT(&s->transfers);
    return s;
}

void sender_free(struct sender *s)
{
    if (!s)
        return;
    while (!LIST_EMPTY(&s->transfers))
        transfer_free(LIST_FIRST(&s->transfers));
    curl_multi_cleanup(s->multi);
    curl_global_cleanup();
    free(s);
}
