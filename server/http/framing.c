#include "http/edge.h"

#include <stddef.h>
#include <string.h>
#include <strings.h>

struct seen {
    const char *length, *encoding, *expect, *connection, *host, *upgrade, *site, *origin;
    bool twice; /* a header that says where the body ends, the host or the origin was sent twice */
};

static bool note(const struct mg_header *h, const char *name, const char **slot)
{
    if (strcasecmp(h->name, name) != 0)
        return false;
    *slot = h->value;
    return true;
}

static void note_once(const struct mg_header *h, const char *name, const char **slot, bool *twice)
{
    const char *before = *slot;

    if (note(h, name, slot) && before)
        *twice = true;
}

static void look_at(const struct mg_header *h, struct seen *s)
{
    switch (h->name[0] | 0x20) { /* the first letter rules most headers out */
    case 'c':
        note_once(h, "Content-Length", &s->length, &s->twice);
        note(h, "Connection", &s->connection);
        break;
    case 't': note_once(h, "Transfer-Encoding", &s->encoding, &s->twice); break;
    case 'h': note_once(h, "Host", &s->host, &s->twice); break;
    case 'e': note(h, "Expect", &s->expect); break;
    case 'o': note_once(h, "Origin", &s->origin, &s->twice); break;
    case 'u': note(h, "Upgrade", &s->upgrade); break;
    case 's': note(h, "Sec-Fetch-Site", &s->site); break;
    default: break;
    }
}

/*
 * CivetWeb stops reading headers, without a word, at a line that begins with a space or a colon, and after 64. A header that it
 * dropped could have said where the body ends. It puts NULs over what it has read ("value\0\0\r\0" at the end), so what
 * follows the last header it took tells whether that was the last one sent.
 */
static bool is_whole(const struct mg_request_info *info)
{
    const struct mg_header *last = info->num_headers > 0 ? &info->http_headers[info->num_headers - 1] : NULL;
    const char *p = last ? last->value + strlen(last->value) : info->http_version + strlen(info->http_version);

    if (info->num_headers >= MG_MAX_HEADERS || p + 3 - info->request_method >= STK_HEAD_MAX)
        return false;
    if (last)
        return p[1] == '\0' && p[2] == '\r' && p[3] == '\0';
    return p[1] == '\0' && p[2] == '\0' && p[3] == '\0';
}

/*
 * It skips all white space behind the request line, where others leave out a line that begins with some: one would see a
 * Content-Length there and the other not. NULs stand over that white space too, so more of it than a line end has is seen, but
 * not what it was: after a CR or LF alone one more character passes.
 */
static bool has_space_before_first(const struct mg_request_info *info)
{
    return info->num_headers > 0 &&
           info->http_headers[0].name - info->http_version != (ptrdiff_t)strlen(info->http_version) + 2;
}

/*
 * Before a request it skips any white space, but takes an empty line there for the end of the headers: the body then begins in
 * the middle of the request. One CR LF is harmless, and RFC 9112 2.2 asks for it. Where its buffer begins is not told; it
 * comes from malloc(), so what has come through to the next multiple of 16 is not seen.
 */
static bool has_lines_before(const struct mg_request_info *info)
{
    const char *method = info->request_method;
    size_t before = (size_t)((uintptr_t)method % _Alignof(max_align_t));

    return before > 0 && !(before == 2 && method[-2] == '\r' && method[-1] == '\n');
}

/*
 * CivetWeb takes "Name : value" too, where a proxy before us may see no such header: a way to smuggle requests. It puts NULs over
 * those spaces as over the colon, so more than one NUL stands between name and value.
 */
static bool has_space_before_colon(const struct mg_header *h)
{
    const char *colon = h->value - 1;

    while (*colon == ' ' || *colon == '\t')
        colon--;
    return colon[-1] == '\0';
}

/* True when the comma-separated list has the token. */
static bool has_token(const char *list, const char *token)
{
    size_t len = strlen(token);

    for (const char *p = list; *p;) {
        size_t n;

        p += strspn(p, " \t,");
        n = strcspn(p, " \t,");
        if (n == len && strncasecmp(p, token, len) == 0)
            return true;
        p += n;
    }
    return false;
}

static bool wants_keep_alive(const struct mg_request_info *info, const struct seen *s)
{
    if (s->upgrade) /* no protocol to change to; CivetWeb ends such connections */
        return false;
    if (s->connection)
        return has_token(s->connection, "keep-alive") && !has_token(s->connection, "close");
    return strcmp(info->http_version, "1.1") == 0;
}

static size_t len_without(const char *authority, const char *port)
{
    size_t len = strlen(authority), n = strlen(port);

    return len >= n && strcmp(authority + len - n, port) == 0 ? len - n : len;
}

/* Whether the page that sent this came from the host and port that it now talks to. "null", which hides an origin, did not. */
static bool is_own_origin(const char *origin, const char *host)
{
    const char *sep = strstr(origin, "://"), *port = "";
    size_t len;

    if (!sep || !host)
        return false;
    if (sep - origin == 4 && strncasecmp(origin, "http", 4) == 0)
        port = ":80";
    else if (sep - origin == 5 && strncasecmp(origin, "https", 5) == 0)
        port = ":443";
    len = len_without(sep + 3, port);
    return len > 0 && len == len_without(host, port) && strncasecmp(sep + 3, host, len) == 0;
}

/* Browsers send the first only to hosts they trust (https, loopback), the second with whatever may change something. */
static bool is_cross_site(const struct seen *s)
{
    return (s->site && strcasecmp(s->site, "cross-site") == 0) || (s->origin && !is_own_origin(s->origin, s->host));
}

static int body_framing(const struct seen *s, bool http_1_1, struct stk_framing *f, struct stk_err *err)
{
    if (s->twice) {
        stk_fail(err, STK_INVALID, "A header of which one is allowed was sent twice");
        return 400;
    }
    if (s->encoding && s->length) {
        stk_fail(err, STK_INVALID, "Content-Length and Transfer-Encoding exclude each other");
        return 400;
    }
    if (s->encoding) {
        if (strcasecmp(s->encoding, "chunked") != 0 || !http_1_1) {
            stk_fail(err, STK_INVALID, "This Transfer-Encoding is not supported, only chunked in HTTP/1.1");
            return 501;
        }
        f->chunked = true;
    }
    if (s->length && stk_parse_u64(s->length, 0, INT64_MAX, &f->length, NULL) < 0) {
        stk_fail(err, STK_INVALID, "Content-Length is not a number");
        return 400;
    }
    return 0;
}

int stk_framing_read(const struct mg_request_info *info, struct stk_framing *ret, struct stk_err *err)
{
    bool http_1_1 = strcmp(info->http_version, "1.1") == 0;
    struct seen s = { 0 };
    int status;

    *ret = (struct stk_framing){ 0 };
    if (has_lines_before(info)) {
        stk_fail(err, STK_INVALID, "There is white space before the request");
        return 400;
    }
    if (!is_whole(info) || has_space_before_first(info)) {
        stk_fail(err, STK_INVALID, "The headers are malformed, or more than %d", MG_MAX_HEADERS - 1);
        return 400;
    }
    for (int i = 0; i < info->num_headers; i++) {
        if (has_space_before_colon(&info->http_headers[i])) {
            stk_fail(err, STK_INVALID, "A header has a space before its colon");
            return 400;
        }
        look_at(&info->http_headers[i], &s);
    }
    if ((status = body_framing(&s, http_1_1, ret, err)))
        return status;
    if (http_1_1 && !s.host) {
        stk_fail(err, STK_INVALID, "The Host header is missing");
        return 400;
    }
    if (s.expect && strcasecmp(s.expect, "100-continue") != 0) {
        stk_fail(err, STK_INVALID, "This expectation cannot be met, only 100-continue");
        return 417;
    }
    ret->expect = s.expect && http_1_1;
    ret->keep_alive = wants_keep_alive(info, &s);
    ret->cross_site = is_cross_site(&s);
    ret->host = s.host;
    return 0;
}
