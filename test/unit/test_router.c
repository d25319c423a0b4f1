#include "http/edge.h"

#include "stoker/clock.h"

#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- paths */

static void path_splits_then_decodes(void **state)
{
    static const struct {
        const char *raw;
        size_t n;
        const char *segment[3];
    } cases[] = {
        { "/", 0, { 0 } },
        { "/jobs", 1, { "jobs" } },
        { "/jobs/", 1, { "jobs" } },
        { "/jobs//", 2, { "jobs", "" } },
        { "//jobs", 2, { "", "jobs" } },
        { "/data/%2Ftmp%2fx", 2, { "data", "/tmp/x" } },
        { "/a%20b/+/c%25d", 3, { "a b", "+", "c%d" } },
        { "/%C3%A9/../.", 3, { "\xc3\xa9", "..", "." } },
        { "/%2525", 1, { "%25" } },
    };
    char store[64];

    (void)state;
    for (size_t i = 0; i < STK_LEN(cases); i++) {
        struct stk_path path;

        assert_int_equal(0, stk_path_parse(cases[i].raw, store, &path, NULL));
        assert_int_equal(cases[i].n, path.n);
        for (size_t k = 0; k < path.n; k++)
            assert_string_equal(cases[i].segment[k], path.segment[k]);
    }
}

static void path_refuses(void **state)
{
    static const char *const cases[] = {
        "",       "jobs",   "*",    "/a%",  "/a%4",     "/a%4/1",     "/a%zz",   "/a%00b",
        "/a%0ab", "/a%0Db", "/%ff", "/%c3", "/%c3/%a9", "/%ed%a0%80", "/%c0%af",
    };
    char store[64];

    (void)state;
    for (size_t i = 0; i < STK_LEN(cases); i++) {
        struct stk_path path;
        struct stk_err err;

        assert_int_equal(-1, stk_path_parse(cases[i], store, &path, &err));
        assert_int_equal(STK_INVALID, err.code);
    }
}

static void path_of_many_segments_is_counted(void **state)
{
    char raw[4001], store[4001];
    struct stk_path path;

    (void)state;
    for (size_t i = 0; i < 4000; i++)
        raw[i] = i % 2 ? 'a' : '/';
    raw[4000] = '\0';
    assert_int_equal(0, stk_path_parse(raw, store, &path, NULL));
    assert_int_equal(2000, path.n);
}

/* ---- queries */

static void query_keeps_order_and_repeats(void **state)
{
    struct stk_query q;

    (void)state;
    assert_int_equal(0, stk_query_parse("a=1&&b=x+y%2B%26%3D&a=2&c&=d&e=f=g&%C3%A9=%0a", &q, NULL));
    assert_int_equal(7, q.n);
    assert_string_equal("a", q.pairs[0].name);
    assert_string_equal("1", q.pairs[0].value);
    assert_string_equal("x y+&=", q.pairs[1].value);
    assert_string_equal("2", stk_query_get(&q, "a"));
    assert_string_equal("", stk_query_get(&q, "c"));
    assert_string_equal("d", stk_query_get(&q, ""));
    assert_string_equal("f=g", stk_query_get(&q, "e"));
    assert_string_equal("\n", stk_query_get(&q, "\xc3\xa9"));
    assert_null(stk_query_get(&q, "A"));
    stk_query_done(&q);

    assert_int_equal(0, stk_query_parse(NULL, &q, NULL));
    assert_int_equal(0, q.n);
    assert_int_equal(0, stk_query_parse("", &q, NULL));
    assert_null(stk_query_get(&q, "a"));
    stk_query_done(&q);
}

static void query_refuses(void **state)
{
    static const char *const cases[] = { "a=%", "a=%1", "%zz=1", "a=%00", "a=%ff", "a=1&b=%c3&c=2" };

    (void)state;
    for (size_t i = 0; i < STK_LEN(cases); i++) {
        struct stk_query q;
        struct stk_err err;

        assert_int_equal(-1, stk_query_parse(cases[i], &q, &err));
        assert_int_equal(STK_INVALID, err.code);
        assert_null(q.pairs);
    }
}

/* ---- routes */

static void handler(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    (void)r;
    (void)reply;
    (void)arg;
}

static const struct stk_route jobs_routes[] = {
    { "GET", "/", handler, 0 },
    { "GET", "/jobs", handler, 0 },
    { "POST", "/jobs", handler, 0 },
    { "GET", "/jobs/{id}", handler, 0 },
    { "DELETE", "/jobs/{id}", handler, 0 },
    { "GET", "/jobs/{id}/config", handler, 0 },
    { NULL, NULL, NULL, 0 },
};
static const struct stk_route other_routes[] = {
    { "GET", "/jobs/{id}/log", handler, 0 },
    { "GET", "/sessions/{s}/statements/{n}", handler, 0 },
    { NULL, NULL, NULL, 0 },
};
static const char *const jobs_prefixes[] = { "", "jobs", NULL }, *const other_prefixes[] = { "jobs", "sessions", NULL };
static const struct stk_dialect jobs_dialect = { .name = "jobs", .prefixes = jobs_prefixes, .routes = jobs_routes };
static const struct stk_dialect other_dialect = { .name = "other", .prefixes = other_prefixes, .routes = other_routes };
static const struct stk_dialect *const dialects[] = { &jobs_dialect, &other_dialect, NULL };

static char store[256];

static void find(const struct stk_router *r, const char *method, const char *raw, struct stk_path *path,
                 struct stk_match *m)
{
    assert_int_equal(0, stk_path_parse(raw, store, path, NULL));
    stk_router_find(r, path, method, m);
}

static void router_finds(void **state)
{
    struct stk_router *r = stk_router_new(dialects, NULL);
    struct stk_path path;
    struct stk_match m;

    (void)state;
    assert_non_null(r);
    find(r, "GET", "/", &path, &m);
    assert_ptr_equal(&jobs_routes[0], m.route);
    find(r, "POST", "/jobs/", &path, &m);
    assert_ptr_equal(&jobs_routes[2], m.route);
    find(r, "GET", "/jobs/a%2Fb/config/", &path, &m);
    assert_ptr_equal(&jobs_routes[5], m.route);
    assert_string_equal("a/b", stk_match_param(&m, &path, "id"));
    assert_null(stk_match_param(&m, &path, "jobs"));
    find(r, "GET", "/jobs/x/log", &path, &m);
    assert_ptr_equal(&other_routes[0], m.route);
    assert_ptr_equal(&other_dialect, m.dialect);
    find(r, "GET", "/sessions/1/statements/2", &path, &m);
    assert_string_equal("2", stk_match_param(&m, &path, "n"));
    stk_router_free(r);
}

static void router_tells_a_wrong_path_from_a_wrong_method(void **state)
{
    static const struct {
        const char *method, *path, *allow;
        const struct stk_dialect *dialect;
    } cases[] = {
        { "GET", "/nope", "", &jobs_dialect },
        { "GET", "/jobsfoo", "", &jobs_dialect },
        { "GET", "/JOBS", "", &jobs_dialect },
        { "GET", "/jobs//config", "", &jobs_dialect },
        { "GET", "/jobs/x/y", "", &jobs_dialect },
        { "GET", "/jobs/a/b/c/d/e/f/g/h/i/j", "", &jobs_dialect },
        { "GET", "/sessions", "", &other_dialect },
        { "PUT", "/jobs", "GET, POST", &jobs_dialect },
        { "POST", "/jobs/x", "GET, DELETE", &jobs_dialect },
        { "POST", "/jobs/x/log", "GET", &other_dialect },
        { "DELETE", "/", "GET", &jobs_dialect },
    };
    struct stk_router *r = stk_router_new(dialects, NULL);

    (void)state;
    for (size_t i = 0; i < STK_LEN(cases); i++) {
        struct stk_path path;
        struct stk_match m;

        find(r, cases[i].method, cases[i].path, &path, &m);
        assert_null(m.route);
        assert_string_equal(cases[i].allow, m.allow);
        assert_ptr_equal(cases[i].dialect, m.dialect);
    }
    stk_router_free(r);
}

static void router_refuses_bad_routes(void **state)
{
    static const struct stk_route bad[][2] = {
        { { "GET", "jobs", handler, 0 }, { NULL, NULL, NULL, 0 } },
        { { "GET", "/a//b", handler, 0 }, { NULL, NULL, NULL, 0 } },
        { { "FETCH", "/a", handler, 0 }, { NULL, NULL, NULL, 0 } },
        { { "GET", "/a", NULL, 0 }, { NULL, NULL, NULL, 0 } },
        { { "GET", "/1/2/3/4/5/6/7/8/9", handler, 0 }, { NULL, NULL, NULL, 0 } },
    };

    (void)state;
    for (size_t i = 0; i < STK_LEN(bad); i++) {
        struct stk_dialect d = { .name = "bad", .prefixes = jobs_prefixes, .routes = bad[i] };
        const struct stk_dialect *const list[] = { &d, NULL };
        struct stk_err err;

        assert_null(stk_router_new(list, &err));
        assert_int_equal(STK_INVALID, err.code);
    }
}

static void methods_have_any_case(void **state)
{
    (void)state;
    assert_string_equal("DELETE", stk_method_find("delete"));
    assert_string_equal("GET", stk_method_find("GET"));
    assert_null(stk_method_find("FETCH"));
    assert_null(stk_method_find(""));
}

/* ---- framing */

/* A request as CivetWeb leaves it: NULs over what it has read, the last line end kept in part. lines: "Name: value" each. */
static int frame(const char *version, const char *const *lines, struct stk_framing *f, struct stk_err *err)
{
    static _Alignas(max_align_t) char text[4096]; /* as CivetWeb's comes from malloc() */
    static struct mg_request_info info;
    size_t at = (size_t)snprintf(text, sizeof text, "POST") + 1;

    info = (struct mg_request_info){ .request_method = text };
    info.http_version = text + at;
    at += (size_t)snprintf(text + at, sizeof text - at, "%s", version) + 2;
    text[at - 1] = '\0';
    for (size_t i = 0; lines[i]; i++) {
        char *colon;

        at += (size_t)snprintf(text + at, sizeof text - at, "%s", lines[i]) + 2;
        text[at - 1] = '\0';
        info.http_headers[i].name = text + at - 2 - strlen(lines[i]);
        colon = strchr(info.http_headers[i].name, ':');
        info.http_headers[i].value = colon + 1 + strspn(colon + 1, " ");
        for (*colon = '\0'; colon[-1] == ' '; colon--)
            colon[-1] = '\0';
        info.num_headers++;
    }
    text[at] = info.num_headers ? '\r' : '\0';
    text[at + 1] = '\0';
    text[at + 2] = 'x'; /* the body, or the next request */
    return stk_framing_read(&info, f, err);
}

#define FRAME(version, f, ...) frame(version, (const char *const[]){ __VA_ARGS__, NULL }, f, NULL)

static void framing_reads(void **state)
{
    struct stk_framing f;

    (void)state;
    assert_int_equal(0, FRAME("1.1", &f, "Host: h:1", "content-length: 12", "Expect: 100-Continue"));
    assert_int_equal(12, f.length);
    assert_false(f.chunked);
    assert_true(f.expect);
    assert_true(f.keep_alive);
    assert_string_equal("h:1", f.host);
    assert_int_equal(0, FRAME("1.1", &f, "Host: h", "Transfer-Encoding: Chunked", "Sec-Fetch-Site: cross-site"));
    assert_true(f.chunked);
    assert_true(f.cross_site);
    assert_int_equal(0, FRAME("1.1", &f, "Host:h", "X:", "Y: ", "Content-Length:  7"));
    assert_int_equal(7, f.length);
    assert_int_equal(0, FRAME("1.0", &f, "X: y"));
    assert_false(f.keep_alive);
    assert_int_equal(0, frame("1.0", (const char *const[]){ NULL }, &f, NULL));
    assert_int_equal(0, FRAME("1.0", &f, "Connection: foo, Keep-Alive"));
    assert_true(f.keep_alive);
    assert_int_equal(0, FRAME("1.1", &f, "Host: h", "Connection: close"));
    assert_false(f.keep_alive);
    assert_int_equal(0, FRAME("1.1", &f, "Host: h", "Connection: keep-alive, Upgrade", "Upgrade: websocket"));
    assert_false(f.keep_alive);
}

static void framing_knows_pages_of_others(void **state)
{
    static const struct {
        const char *host, *origin;
        bool cross_site;
    } cases[] = {
        { "Host: h:1", "Origin: http://h:1", false },
        { "Host: H:1", "origin: HTTP://h:1", false },
        { "Host: h:1", "Origin: https://h:1", false },
        { "Host: h", "Origin: http://h:80", false },
        { "Host: h:443", "Origin: https://h", false },
        { "Host: [::1]:1", "Origin: http://[::1]:1", false },
        { "Host: h:1", "Origin: http://h:2", true },
        { "Host: h:1", "Origin: http://h", true },
        { "Host: h", "Origin: http://h:443", true },
        { "Host: h:1", "Origin: http://evil.example", true },
        { "Host: h:1", "Origin: http://h:1.evil.org", true },
        { "Host: h:1", "Origin: http://evil.org/h:1", true },
        { "Host: h:1", "Origin: null", true },
        { "Host: h:1", "Origin: ", true },
        { "Host: ", "Origin: http://", true },
        { "Host: h:1", "Origin: h:1", true },
    };
    struct stk_framing f;

    (void)state;
    for (size_t i = 0; i < STK_LEN(cases); i++) {
        assert_int_equal(0, FRAME("1.1", &f, cases[i].origin, cases[i].host));
        if (f.cross_site != cases[i].cross_site)
            fail_msg("%s, %s", cases[i].host, cases[i].origin);
    }
    assert_int_equal(0, FRAME("1.0", &f, "Origin: http://h"));
    assert_true(f.cross_site);
    assert_int_equal(0, FRAME("1.1", &f, "Host: h", "Origin: http://h", "Sec-Fetch-Site: cross-site"));
    assert_true(f.cross_site);
    assert_int_equal(400, FRAME("1.1", &f, "Host: h", "Origin: http://h", "Origin: http://h"));
}

static void framing_refuses_what_can_be_read_in_two_ways(void **state)
{
    struct stk_framing f;

    (void)state;
    assert_int_equal(400, FRAME("1.1", &f, "X: no host"));
    assert_int_equal(400, FRAME("1.1", &f, "Host: h", "host: h"));
    assert_int_equal(400, FRAME("1.1", &f, "Host: h", "Content-Length: 1", "Content-Length: 1"));
    assert_int_equal(400, FRAME("1.1", &f, "Host: h", "Content-Length: 1", "Transfer-Encoding: chunked"));
    assert_int_equal(400, FRAME("1.1", &f, "Host: h", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"));
    assert_int_equal(501, FRAME("1.1", &f, "Host: h", "Transfer-Encoding: identity"));
    assert_int_equal(501, FRAME("1.0", &f, "Transfer-Encoding: chunked"));
    assert_int_equal(417, FRAME("1.1", &f, "Host: h", "Expect: tea"));
    for (const char *const *bad =
             (const char *const[]){ "+1", "-1", "1,1", "1 1", "0x1", "", "1a", "9223372036854775808", NULL };
         *bad; bad++) {
        char line[64];

        snprintf(line, sizeof line, "Content-Length: %s", *bad);
        assert_int_equal(400, FRAME("1.1", &f, "Host: h", line));
    }
}

/* A proxy before us may not know such a line for what CivetWeb takes it. */
static void framing_refuses_a_space_before_the_colon(void **state)
{
    struct stk_framing f;

    (void)state;
    for (const char *const *bad =
             (const char *const[]){ "Content-Length : 5", "Content-Length :5", "Content-Length   : 5",
                                    "Content-Length : ", "Transfer-Encoding : chunked", "X : y", "X :", NULL };
         *bad; bad++) {
        assert_int_equal(400, FRAME("1.1", &f, "Host: h", *bad));
        assert_int_equal(400, FRAME("1.1", &f, *bad, "Host: h"));
    }
}

/* CivetWeb drops what follows a folded line: the bytes after the last header it took are not the end of the headers. */
/* "POST / HTTP/1.1\r\n Content-Length: 5": a header for CivetWeb, which skips all white space there, but not for others. */
static void framing_refuses_space_before_the_first_header(void **state)
{
    static _Alignas(max_align_t) char text[] = "POST\0"
                                               "1.1\0\0\0"
                                               "Content-Length\0 5\0\0"
                                               "Host\0 h\0\0\r";
    struct mg_request_info info = { .request_method = text, .http_version = text + 5, .num_headers = 2 };
    struct stk_framing f;

    (void)state;
    info.http_headers[0].name = text + 11;
    info.http_headers[0].value = text + 27;
    info.http_headers[1].name = text + 30;
    info.http_headers[1].value = text + 36;
    assert_string_equal("h", info.http_headers[1].value);
    assert_int_equal(400, stk_framing_read(&info, &f, NULL));
    info.http_version++; /* one character less between */
    memcpy(text + 6, "1.1", 4);
    assert_int_equal(0, stk_framing_read(&info, &f, NULL));
    info.http_version++; /* a line that ends in CR or LF alone */
    memcpy(text + 7, "1.1", 4);
    assert_int_equal(400, stk_framing_read(&info, &f, NULL));
}

static void framing_sees_headers_that_civetweb_dropped(void **state)
{
    static _Alignas(max_align_t) char text[] = "GET\0\0"
                                               "1.1\0\0"
                                               "Host\0 h\0\0 folded\r\nContent-Length: 5\r\n\r";
    struct mg_request_info info = { .request_method = text, .http_version = text + 5, .num_headers = 1 };
    struct stk_framing f;

    (void)state;
    info.http_headers[0].name = text + 10;
    info.http_headers[0].value = text + 16;
    assert_string_equal("h", info.http_headers[0].value);
    assert_int_equal(400, stk_framing_read(&info, &f, NULL));
    memcpy(text + 19, "\r", 2);
    assert_int_equal(0, stk_framing_read(&info, &f, NULL));
}

/* ---- slow clients */

/* What a client may take: a pause in all, and two bytes a millisecond. What it was quicker than that is not kept for it. */
static void slow_clients_have_a_deadline(void **state)
{
    enum { KIB64 = 65536, PAUSE = 30000 };
    int64_t now;

    (void)state;
    assert_int_equal(1000 + PAUSE + 2048, stk_slow_until_ms(1000, 1000, 0, 4096, PAUSE));
    assert_int_equal(5000 + PAUSE + KIB64 / 2, stk_slow_until_ms(1000, 5000, 1 << 30, KIB64, PAUSE));
    assert_int_equal(1000 + 2048 + PAUSE + 2048, stk_slow_until_ms(1000, 60000, 4096, 4096, PAUSE));
    now = 0;
    for (uint64_t moved = 0; moved < 10 << 20; moved += 4096) { /* 2 KiB/s for as long as it takes, no pause at all */
        assert_true(now + 2000 <= stk_slow_until_ms(0, now, moved, 4096, 100));
        now += 2000;
    }
}

/* What the watchdog asks CivetWeb of a connection, answered by the test. */
struct mg_connection {
    int client, server;
    struct mg_request_info info; /* as the server sees it */
};

const struct mg_request_info *mg_get_request_info(const struct mg_connection *conn)
{
    return &conn->info;
}

int mg_get_request_link(const struct mg_connection *conn, char *buf, size_t buflen)
{
    snprintf(buf, buflen, "http://127.0.0.1:%d/a/b", conn->info.server_port);
    return 0;
}

static void connect_to(int listener, struct mg_connection *ret)
{
    struct sockaddr_in a, peer;
    socklen_t len = sizeof a, peer_len = sizeof peer;

    assert_int_equal(0, getsockname(listener, (struct sockaddr *)&a, &len));
    ret->client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(0, connect(ret->client, (struct sockaddr *)&a, len));
    ret->server = accept(listener, (struct sockaddr *)&peer, &peer_len);
    assert_true(ret->server >= 0);
    ret->info = (struct mg_request_info){
        .remote_addr = "127.0.0.1",
        .remote_port = ntohs(peer.sin_port),
        .server_port = ntohs(a.sin_port),
    };
}

/* Three threads in a call: one reads for too long, one writes for too long, one has time. */
static void watchdog_cuts_whose_time_is_over(void **state)
{
    struct stk_watchdog *d = stk_watchdog_start(10, NULL);
    struct stk_watch watches[3] = { 0 };
    struct mg_connection c[3];
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in any = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    char byte;

    (void)state;
    assert_non_null(d);
    assert_int_equal(0, bind(listener, (struct sockaddr *)&any, sizeof any));
    assert_int_equal(0, listen(listener, 3));
    for (size_t i = 0; i < 3; i++) {
        connect_to(listener, &c[i]);
        stk_watch_add(d, &watches[i]);
        stk_watch_begin(&watches[i], &c[i], i == 1, stk_mono_ms() + (i < 2 ? 1 : 3600000));
    }
    assert_int_equal(0, recv(c[0].server, &byte, 1, 0)); /* returns, though the client sent nothing */
    assert_int_equal(0, recv(c[1].client, &byte, 1, 0)); /* is told that nothing more comes */
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(i < 2, stk_watch_end(&watches[i]));
    assert_int_equal(1, send(c[0].server, "a", 1, MSG_NOSIGNAL)); /* who was slow to send is still told so */
    assert_int_equal(-1, send(c[1].server, "a", 1, MSG_NOSIGNAL));
    assert_int_equal(1, send(c[2].client, "a", 1, MSG_NOSIGNAL));
    assert_int_equal(1, recv(c[2].server, &byte, 1, 0));
    for (size_t i = 0; i < 3; i++) { /* out of the calls, nobody is cut */
        assert_false(stk_watch_end(&watches[i]));
        stk_watch_remove(d, &watches[i]);
        close(c[i].client);
        close(c[i].server);
    }
    close(listener);
    stk_watchdog_stop(d);
    stk_watchdog_stop(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(path_splits_then_decodes),
        cmocka_unit_test(path_refuses),
        cmocka_unit_test(path_of_many_segments_is_counted),
        cmocka_unit_test(query_keeps_order_and_repeats),
        cmocka_unit_test(query_refuses),
        cmocka_unit_test(router_finds),
        cmocka_unit_test(router_tells_a_wrong_path_from_a_wrong_method),
        cmocka_unit_test(router_refuses_bad_routes),
        cmocka_unit_test(methods_have_any_case),
        cmocka_unit_test(framing_reads),
        cmocka_unit_test(framing_knows_pages_of_others),
        cmocka_unit_test(framing_refuses_what_can_be_read_in_two_ways),
        cmocka_unit_test(framing_refuses_a_space_before_the_colon),
        cmocka_unit_test(framing_refuses_space_before_the_first_header),
        cmocka_unit_test(framing_sees_headers_that_civetweb_dropped),
        cmocka_unit_test(slow_clients_have_a_deadline),
        cmocka_unit_test(watchdog_cuts_whose_time_is_over),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
