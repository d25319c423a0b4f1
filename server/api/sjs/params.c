#include "api/sjs/sjs.h"

#include "stoker/hocon.h"

#include <locale.h>
#include <string.h>
#include <strings.h>
#include <wchar.h>
#include <wctype.h>

enum { DEPTH_MAX = 100 }; /* levels of a posted config: what walks it must fit into an HTTP thread's stack of 100 KiB */

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

void stk_sjs_body_failed(struct stk_reply *reply, const struct stk_err *err)
{
    switch (err->code) {
    case STK_LIMIT: stk_sjs_err(reply, 413, "%s", err->msg); break;
    case STK_TIMEOUT: stk_sjs_err(reply, 408, "%s", err->msg); break;
    default: stk_sjs_failed(reply, "read the request content", err); break;
    }
}

int stk_sjs_body(struct stk_request *r, struct stk_reply *reply, json_t **ret)
{
    struct stk_hocon_limits limits = stk_hocon_default_limits;
    stk_auto_buf text = { 0 };
    struct stk_err err;

    if (stk_request_read_all(r, &text, &err) < 0) {
        stk_sjs_body_failed(reply, &err);
        return -1;
    }
    if (text.len > 0 && !stk_utf8_valid(text.data, text.len)) {
        stk_sjs_err(reply, 400, "Cannot parse config: it is not valid UTF-8 text");
        return -1;
    }
    limits.max_depth = DEPTH_MAX;
    limits.max_bytes = SIZE_MAX; /* the route's limit held already */
    *ret = text.len > 0 ? stk_hocon_parse(text.data, text.len, &limits, &err) : json_object();
    if (*ret)
        return 0;
    if (text.len > 0 && (err.code == STK_INVALID || err.code == STK_LIMIT))
        stk_sjs_err(reply, 400, "Cannot parse config: %s", err.msg);
    else
        stk_sjs_err(reply, 500, "out of memory");
    return -1;
}

int stk_sjs_check_name(struct stk_reply *reply, const char *what, const char *name)
{
    size_t len = strlen(name);

    if (len == 0 || len > 255) {
        stk_sjs_err(reply, 400, "%s must have 1 to 255 bytes, not %zu", what, len);
        return -1;
    }
    for (const unsigned char *p = (const unsigned char *)name; *p; p++) {
        /* C2 80 .. C2 9F are the control characters beyond ASCII. */
        if (*p < 0x20 || *p == 0x7f || (*p == 0xc2 && p[1] < 0xa0)) {
            stk_sjs_err(reply, 400, "%s must not have control characters", what);
            return -1;
        }
    }
    if (!stk_utf8_valid(name, len)) {
        stk_sjs_err(reply, 400, "%s is not valid UTF-8 text", what);
        return -1;
    }
    return 0;
}

/* Any letter of Unicode counts, so this needs a locale that knows them; it is only borrowed for the one question. */
bool stk_sjs_begins_with_letter(const char *name)
{
    unsigned char first = (unsigned char)name[0];
    locale_t utf8, before;
    mbstate_t state = { 0 };
    wchar_t letter;
    bool is_letter;

    if (first < 0x80)
        return (first | 0x20) >= 'a' && (first | 0x20) <= 'z';
    utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    if (!utf8)
        return true; /* a server without that locale takes any character beyond ASCII */
    before = uselocale(utf8);
    is_letter = mbrtowc(&letter, name, strlen(name), &state) <= 4 && iswalpha((wint_t)letter);
    uselocale(before);
    freelocale(utf8);
    return is_letter;
}
