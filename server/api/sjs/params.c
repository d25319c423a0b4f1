#include "api/sjs/sjs.h"

#include "stoker/hocon.h"

#include <pthread.h>
#include <string.h>
#include <strings.h>

enum { DEPTH_MAX = 48 }; /* levels of a posted config; a level takes up to 1 KiB of an HTTP thread's 100 KiB stack */

static bool one_of(const char *text, const char *const *words)
{
    for (size_t i = 0; words[i]; i++) {
        if (strcasecmp(text, words[i]) == 0)
            return true;
    }
    return false;
}

int stk_sjs_query_bool(struct stk_request *r, struct stk_reply *reply, const char *name, bool *value)
{
    static const char *const yes[] = { "true", "yes", "on", "1", NULL }, *const no[] = { "false", "no", "off", "0",
                                                                                         NULL };
    const char *text = stk_request_query(r, name);

    if (!text || !*text)
        return 0;
    if (!one_of(text, yes) && !one_of(text, no)) {
        stk_sjs_err(reply, 400, "The query parameter '%s' was malformed:\n'%s' is not a valid Boolean value", name,
                    text);
        return -1;
    }
    *value = one_of(text, yes);
    return 0;
}

int stk_sjs_query_int(struct stk_request *r, struct stk_reply *reply, const char *name, int *value)
{
    const char *text = stk_request_query(r, name);
    int64_t n;

    if (!text || !*text)
        return 0;
    if (stk_parse_i64(text, INT32_MIN, INT32_MAX, &n, NULL) < 0) {
        stk_sjs_err(reply, 400,
                    "The query parameter '%s' was malformed:\n'%s' is not a valid 32-bit signed integer value", name,
                    text);
        return -1;
    }
    *value = (int)n;
    return 0;
}

int stk_sjs_query_reset(struct stk_request *r, struct stk_reply *reply)
{
    const char *value = stk_request_query(r, "reset");

    if (value && strcmp(value, "reboot") == 0)
        return 0;
    if (value)
        stk_sjs_err(reply, 400, "The query parameter 'reset' was malformed:\n'%s' is not 'reboot'", value);
    else
        stk_sjs_err(reply, 404, "Request is missing required query parameter 'reset'");
    return -1;
}

void stk_sjs_body_failed(struct stk_reply *reply, const struct stk_err *err)
{
    if (err->code == STK_TIMEOUT)
        stk_sjs_err(reply, 408, "%s", err->msg);
    else
        stk_sjs_failed(reply, "read the request content", err);
}

struct parse {
    const char *text;
    size_t len;
    json_t *ret;
    struct stk_err err;
};

static void parse(struct parse *p)
{
    struct stk_hocon_limits limits = stk_hocon_default_limits;

    limits.max_depth = DEPTH_MAX;
    if (limits.max_bytes < p->len)
        limits.max_bytes = p->len; /* the route's limit held already */
    p->ret = stk_hocon_parse(p->text, p->len, &limits, &p->err);
}

static void *parse_thread(void *arg)
{
    parse(arg);
    return NULL;
}

/*
 * Substitutions that lead to one another are followed by recursion, thousands deep if the client likes, and += is one too. That
 * does not fit into an HTTP thread's stack, so a text that may have them is parsed on a large one.
 */
static void parse_with_room(struct parse *p)
{
    enum { STACK_BYTES = 32 << 20 }; /* only what is touched takes memory */
    pthread_attr_t attr;
    pthread_t thread;
    int rc;

    if (!memmem(p->text, p->len, "${", 2) && !memmem(p->text, p->len, "+=", 2)) {
        parse(p);
        return;
    }
    if ((rc = pthread_attr_init(&attr)) == 0) {
        if ((rc = pthread_attr_setstacksize(&attr, STACK_BYTES)) == 0)
            rc = pthread_create(&thread, &attr, parse_thread, p);
        pthread_attr_destroy(&attr);
    }
    if (rc == 0)
        pthread_join(thread, NULL);
    else
        stk_fail_sys(&p->err, rc, "cannot start a thread");
}

int stk_sjs_body(struct stk_request *r, struct stk_reply *reply, json_t **ret)
{
    stk_auto_buf text = { 0 };
    struct parse p = { 0 };

    if (stk_request_read_all(r, &text, &p.err) < 0) {
        stk_sjs_body_failed(reply, &p.err);
        return -1;
    }
    if (text.len == 0) {
        *ret = json_object();
        return 0;
    }
    p.text = text.data;
    p.len = text.len;
    parse_with_room(&p);
    *ret = p.ret;
    if (p.ret)
        return 0;
    if (p.err.code == STK_INVALID || p.err.code == STK_LIMIT)
        stk_sjs_err(reply, 400, "Cannot parse config: %s", p.err.msg);
    else
        stk_sjs_failed(reply, "parse a config", &p.err);
    return -1;
}

int stk_sjs_check_name(struct stk_reply *reply, const char *what, const char *name)
{
    struct stk_err err;

    if (stk_name_check(what, name, 255, &err) == 0)
        return 0;
    stk_sjs_err(reply, 400, "%s", err.msg);
    return -1;
}
