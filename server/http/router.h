/*
 * Paths, queries and the route table. Pure: text in, pointers out; nothing here knows of sockets or CivetWeb. A router is
 * immutable once made and may be used by any number of threads.
 */
#ifndef STOKER_HTTP_ROUTER_H
#define STOKER_HTTP_ROUTER_H

#include "stoker/http.h"

enum { STK_PATH_SEGMENTS = 8 }; /* more than any route has */

struct stk_path {
    const char *segment[STK_PATH_SEGMENTS]; /* decoded once; a %2F is a slash inside its segment */
    size_t n; /* how many the path has, which may be more than fit; a trailing slash adds none; "/" has none */
};

/*
 * Splits a raw path at its slashes, then decodes each segment. store takes strlen(raw) + 1 bytes and must live as long as *ret.
 * STK_INVALID: it does not begin with a slash, has a bad escape, or a segment holds NUL, CR, LF or is not UTF-8.
 */
int stk_path_parse(const char *raw, char *store, struct stk_path *ret, struct stk_err *err);

struct stk_query_pair {
    const char *name, *value; /* value "" when there is no '=' */
};
struct stk_query {
    struct stk_query_pair *pairs; /* one allocation with the text behind it */
    size_t n;
};

/* raw: without the '?', or NULL. STK_INVALID: a bad escape, a NUL, or not UTF-8. Release with stk_query_done(). */
int stk_query_parse(const char *raw, struct stk_query *ret, struct stk_err *err);
void stk_query_done(struct stk_query *q);
const char *stk_query_get(const struct stk_query *q, const char *name); /* the last of that name, or NULL */

/* The method that a name means, in capitals ("GET", ...); NULL: not one we know. */
const char *stk_method_find(const char *name);

struct stk_router;

/* dialects: NULL-ended, borrowed for the router's life. STK_INVALID: a route that makes no sense; our mistake. */
struct stk_router *stk_router_new(const struct stk_dialect *const *dialects, struct stk_err *err);
void stk_router_free(struct stk_router *r); /* NULL is fine */

struct stk_pattern;

struct stk_match {
    const struct stk_dialect *dialect; /* never NULL: the one that serves the path, else the one that words the error */
    const struct stk_route *route;     /* NULL: no such path, or not with that method */
    const struct stk_pattern *pattern; /* of route */
    char allow[64];                    /* "GET, POST": methods of the path when only the method is wrong; else "" */
};

void stk_router_find(const struct stk_router *r, const struct stk_path *path, const char *method,
                     struct stk_match *ret);

/* The segment that {name} of the matched route stands for; NULL: the route has no such parameter. */
const char *stk_match_param(const struct stk_match *m, const struct stk_path *path, const char *name);

/* Its routes have numbers from 0 on; what matched none has that of their count. */
size_t stk_router_count(const struct stk_router *r);
const struct stk_route *stk_router_route(const struct stk_router *r, size_t i);
size_t stk_match_index(const struct stk_router *r, const struct stk_match *m);

#endif
