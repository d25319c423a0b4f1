#include "http/router.h"

#include <string.h>
#include <strings.h>

/* ---- paths */

/* Decodes n bytes at from into *to and moves *to behind the NUL that ends them. Output is never longer than input. */
static int decode(const char *from, size_t n, bool plus_is_space, char **to, struct stk_err *err)
{
    char *out = *to, *start = *to;

    for (size_t i = 0; i < n; i++) {
        int high, low;

        if (from[i] == '+' && plus_is_space) {
            *out++ = ' ';
        } else if (from[i] != '%') {
            *out++ = from[i];
        } else {
            if (i + 2 >= n || (high = stk_hex_value(from[i + 1])) < 0 || (low = stk_hex_value(from[i + 2])) < 0)
                return stk_fail(err, STK_INVALID, "a '%%' is not followed by two hexadecimal digits");
            *out++ = (char)(high << 4 | low);
            i += 2;
        }
    }
    if (!stk_utf8_valid(start, (size_t)(out - start))) /* refuses NUL too */
        return stk_fail(err, STK_INVALID, "it is not valid UTF-8 text");
    *out++ = '\0';
    *to = out;
    return 0;
}

static int parse_path(const char *raw, char *store, struct stk_path *ret, struct stk_err *err)
{
    ret->n = 0;
    if (*raw != '/')
        return stk_fail(err, STK_INVALID, "it does not begin with '/'");
    for (const char *p = raw + 1; *p;) {
        size_t len = strcspn(p, "/");
        char *segment = store;

        if (decode(p, len, false, &store, err) < 0)
            return -1;
        if (strpbrk(segment, "\r\n"))
            return stk_fail(err, STK_INVALID, "it has a line break");
        if (ret->n < STK_PATH_SEGMENTS)
            ret->segment[ret->n] = segment;
        ret->n++;
        p += len;
        if (*p == '/')
            p++; /* behind the last segment it adds none */
    }
    return 0;
}

int stk_path_parse(const char *raw, char *store, struct stk_path *ret, struct stk_err *err)
{
    if (parse_path(raw, store, ret, err) == 0)
        return 0;
    stk_err_prefix(err, "The request path is malformed");
    return -1;
}

/* ---- queries */

static int parse_pairs(const char *raw, struct stk_query *q, char *text, struct stk_err *err)
{
    for (const char *p = raw; *p;) {
        size_t len = strcspn(p, "&");
        const char *equals = memchr(p, '=', len);
        size_t name_len = equals ? (size_t)(equals - p) : len;

        if (len > 0) {
            struct stk_query_pair *pair = &q->pairs[q->n];

            pair->name = text;
            if (decode(p, name_len, true, &text, err) < 0)
                return -1;
            pair->value = text;
            if (decode(p + name_len + !!equals, len - name_len - !!equals, true, &text, err) < 0)
                return -1;
            q->n++;
        }
        p += len;
        if (*p == '&')
            p++;
    }
    return 0;
}

int stk_query_parse(const char *raw, struct stk_query *ret, struct stk_err *err)
{
    struct stk_query q = { 0 };
    size_t n = 1;

    *ret = q;
    if (!raw || !*raw)
        return 0;
    for (const char *p = raw; (p = strchr(p, '&')); p++)
        n++;
    /* Each pair ends in at most two NULs; one takes the place of '=' or '&', the other of none. */
    q.pairs = malloc(n * sizeof *q.pairs + strlen(raw) + 2 * n);
    if (!q.pairs)
        return stk_fail(err, STK_INTERNAL, "out of memory");
    if (parse_pairs(raw, &q, (char *)(q.pairs + n), err) < 0) {
        stk_err_prefix(err, "The query is malformed");
        stk_query_done(&q);
        return -1;
    }
    *ret = q;
    return 0;
}

void stk_query_done(struct stk_query *q)
{
    free(q->pairs);
    *q = (struct stk_query){ 0 };
}

const char *stk_query_get(const struct stk_query *q, const char *name)
{
    for (size_t i = q->n; i-- > 0;) {
        if (strcmp(q->pairs[i].name, name) == 0)
            return q->pairs[i].value;
    }
    return NULL;
}

/* ---- methods */

const char *stk_method_find(const char *name)
{
    static const char *const known[] = {
        "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT",
    };

    for (size_t i = 0; i < STK_LEN(known); i++) {
        if (strcasecmp(name, known[i]) == 0)
            return known[i];
    }
    return NULL;
}

/* ---- routes */

struct stk_pattern {
    const struct stk_route *route;
    size_t index;
    struct {
        char *text; /* of a literal, or the name of a parameter */
        bool is_param;
    } part[STK_PATH_SEGMENTS];
    size_t n;
};

struct dialect {
    const struct stk_dialect *dialect;
    struct stk_pattern *patterns;
    size_t n;
};

struct stk_router {
    struct dialect *dialects;
    size_t n, n_routes;
};

static int compile(struct stk_pattern *p, const struct stk_route *route, struct stk_err *err)
{
    p->route = route;
    if (route->path[0] != '/' || !stk_method_find(route->method) || !route->handler)
        return stk_fail(err, STK_INVALID, "bad route %s %s", route->method, route->path);
    for (const char *s = route->path + 1; *s;) {
        size_t len = strcspn(s, "/");
        bool is_param = len > 2 && s[0] == '{' && s[len - 1] == '}';

        if (len == 0 || p->n == STK_PATH_SEGMENTS)
            return stk_fail(err, STK_INVALID, "bad route path %s", route->path);
        p->part[p->n].is_param = is_param;
        p->part[p->n].text = is_param ? strndup(s + 1, len - 2) : strndup(s, len);
        if (!p->part[p->n].text)
            return stk_fail(err, STK_INTERNAL, "out of memory");
        p->n++;
        s += len;
        if (*s == '/')
            s++;
    }
    return 0;
}

static int compile_dialect(struct dialect *d, size_t first, struct stk_err *err)
{
    size_t n = 0;

    while (d->dialect->routes[n].method)
        n++;
    d->patterns = calloc(n + 1, sizeof *d->patterns);
    if (!d->patterns)
        return stk_fail(err, STK_INTERNAL, "out of memory");
    d->n = n;
    for (size_t i = 0; i < n; i++) {
        d->patterns[i].index = first + i;
        if (compile(&d->patterns[i], &d->dialect->routes[i], err) < 0)
            return -1;
    }
    return 0;
}

struct stk_router *stk_router_new(const struct stk_dialect *const *dialects, struct stk_err *err)
{
    struct stk_router *r = calloc(1, sizeof *r);
    size_t n = 0;

    while (dialects[n])
        n++;
    if (!r || n == 0 || !(r->dialects = calloc(n, sizeof *r->dialects))) {
        stk_fail(err, STK_INTERNAL, n ? "out of memory" : "no dialect");
        goto failed;
    }
    for (r->n = 0; r->n < n;) {
        struct dialect *d = &r->dialects[r->n++];

        d->dialect = dialects[r->n - 1];
        if (compile_dialect(d, r->n_routes, err) < 0)
            goto failed;
        r->n_routes += d->n;
    }
    return r;
failed:
    stk_router_free(r);
    return NULL;
}

void stk_router_free(struct stk_router *r)
{
    if (!r)
        return;
    for (size_t i = 0; i < r->n; i++) {
        struct dialect *d = &r->dialects[i];

        for (size_t j = 0; d->patterns && j < d->n; j++) {
            for (size_t k = 0; k < d->patterns[j].n; k++)
                free(d->patterns[j].part[k].text);
        }
        free(d->patterns);
    }
    free(r->dialects);
    free(r);
}

static bool claims(const struct stk_dialect *d, const struct stk_path *path)
{
    const char *first = path->n > 0 ? path->segment[0] : "";

    for (size_t i = 0; d->prefixes[i]; i++) {
        if (strcmp(d->prefixes[i], first) == 0)
            return true;
    }
    return false;
}

static bool fits(const struct stk_pattern *p, const struct stk_path *path)
{
    if (p->n != path->n)
        return false;
    for (size_t i = 0; i < p->n; i++) {
        if (p->part[i].is_param ? path->segment[i][0] == '\0' : strcmp(p->part[i].text, path->segment[i]) != 0)
            return false;
    }
    return true;
}

static void add_allowed(char allow[64], const char *method)
{
    size_t used = strlen(allow), len = strlen(method);

    if (strstr(allow, method) || used + len + 3 > 64)
        return;
    if (used) {
        memcpy(allow + used, ", ", 2);
        used += 2;
    }
    memcpy(allow + used, method, len + 1);
}

/* True when a route of d fits path and method; methods of routes that fit only the path are noted. */
static bool find_in(const struct dialect *d, const struct stk_path *path, const char *method, struct stk_match *m)
{
    for (size_t i = 0; i < d->n; i++) {
        const struct stk_pattern *p = &d->patterns[i];

        if (!fits(p, path))
            continue;
        if (strcmp(p->route->method, method) == 0) {
            m->dialect = d->dialect;
            m->route = p->route;
            m->pattern = p;
            m->allow[0] = '\0';
            return true;
        }
        if (!m->allow[0])
            m->dialect = d->dialect;
        add_allowed(m->allow, p->route->method);
    }
    return false;
}

void stk_router_find(const struct stk_router *r, const struct stk_path *path, const char *method, struct stk_match *ret)
{
    bool claimed = false;

    *ret = (struct stk_match){ .dialect = r->dialects[0].dialect };
    for (size_t i = 0; i < r->n; i++) {
        const struct dialect *d = &r->dialects[i];

        if (!claims(d->dialect, path))
            continue;
        if (!claimed)
            ret->dialect = d->dialect;
        claimed = true;
        if (find_in(d, path, method, ret))
            return;
    }
}

const char *stk_match_param(const struct stk_match *m, const struct stk_path *path, const char *name)
{
    for (size_t i = 0; m->pattern && i < m->pattern->n; i++) {
        if (m->pattern->part[i].is_param && strcmp(m->pattern->part[i].text, name) == 0)
            return path->segment[i];
    }
    return NULL;
}

size_t stk_router_count(const struct stk_router *r)
{
    return r->n_routes;
}

const struct stk_route *stk_router_route(const struct stk_router *r, size_t i)
{
    const struct dialect *d = r->dialects;

    for (; i >= d->n; d++)
        i -= d->n;
    return d->patterns[i].route;
}

size_t stk_match_index(const struct stk_router *r, const struct stk_match *m)
{
    return m->pattern ? m->pattern->index : r->n_routes;
}
