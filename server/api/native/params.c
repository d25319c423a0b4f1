#include "api/native/native.h"

#include "stoker/clock.h"
#include "stoker/units.h"

#include <stdio.h>
#include <string.h>

/* ---- which parameters there are */

/* How many of that name the query has before the i-th. */
static size_t seen_before(struct stk_request *r, size_t i, const char *name)
{
    size_t n = 0;

    for (size_t j = 0; j < i; j++)
        n += strcmp(stk_request_query_at(r, j, NULL), name) == 0;
    return n;
}

/* NULL: it is not one of them. *ret_many: it may come several times. */
static const char *find_name(const char *const *names, const char *name, bool *ret_many)
{
    size_t len = strlen(name);

    for (; *names; names++) {
        *ret_many = (*names)[len] == '*' && !(*names)[len + 1];
        if (strncmp(*names, name, len) == 0 && (!(*names)[len] || *ret_many))
            return *names;
    }
    return NULL;
}

static void unknown_parameter(struct stk_reply *reply, const char *name, const char *const *names)
{
    stk_auto_buf known = { 0 };

    for (size_t i = 0; names[i]; i++)
        stk_buf_printf(&known, "%s%.*s", i ? ", " : "", (int)strcspn(names[i], "*"), names[i]);
    stk_native_wrong(reply, name, "there is no query parameter '%.40s' here; there %s: %s", name,
                     names[0] && names[1] ? "are" : "is", known.data ? known.data : "none");
}

int stk_native_query_known(struct stk_request *r, struct stk_reply *reply, const char *const *names)
{
    for (size_t i = 0; i < stk_request_query_count(r); i++) {
        const char *name = stk_request_query_at(r, i, NULL);
        bool many;

        if (!find_name(names, name, &many)) {
            unknown_parameter(reply, name, names);
            return -1;
        }
        if (!many && seen_before(r, i, name) > 0) {
            stk_native_wrong(reply, name, "'%s' may be given once only", name);
            return -1;
        }
    }
    return 0;
}

/* ---- their values */

int stk_native_query_int(struct stk_request *r, struct stk_reply *reply, const char *name, int min, int max, int *value)
{
    const char *text = stk_request_query(r, name);
    int64_t n;

    if (!text)
        return 0;
    if (stk_parse_i64(text, min, max, &n, NULL) < 0) {
        stk_native_wrong(reply, name, "'%s' must be a whole number from %d to %d, not '%.40s'", name, min, max, text);
        return -1;
    }
    *value = (int)n;
    return 0;
}

int stk_native_query_time(struct stk_request *r, struct stk_reply *reply, const char *name, int64_t *value)
{
    const char *text = stk_request_query(r, name);

    if (!text || stk_time_parse(text, value) == 0)
        return 0;
    stk_native_wrong(
        reply, name,
        "'%s' must be a time such as 2026-01-31T12:00:00Z or 2026-01-31T14:00:00.500%%2B02:00, not '%.40s'", name,
        text);
    return -1;
}

int stk_native_query_wait(struct stk_request *r, struct stk_reply *reply, int64_t *ms)
{
    const char *text = stk_request_query(r, "wait");

    if (!text)
        return 0;
    if (stk_parse_duration_ms(text, ms) == 0 && *ms <= STK_NATIVE_WAIT_MAX_MS)
        return 0;
    stk_native_wrong(reply, "wait", "'wait' must be a time from 0 to 10min such as 30s, not '%.40s'", text);
    return -1;
}

int stk_native_query_all(struct stk_request *r, struct stk_reply *reply, const char *name, const char **values, int max)
{
    int n = 0;

    for (size_t i = 0; i < stk_request_query_count(r); i++) {
        const char *value;

        if (strcmp(stk_request_query_at(r, i, &value), name) != 0)
            continue;
        if (n == max) {
            stk_native_wrong(reply, name, "'%s' may be given %d times at most", name, max);
            return -1;
        }
        values[n++] = value;
    }
    return n;
}
