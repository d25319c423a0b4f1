/* What a job may take, as all dialects name it in queries and settings. */
#include "stoker/api.h"
#include "stoker/units.h"

#include <limits.h>
#include <locale.h>
#include <string.h>
#include <strings.h>
#include <wchar.h>
#include <wctype.h>

enum { TAG_MAX = 64 };

static int wrong(const char *name, const char *text, const char *should, struct stk_err *err)
{
    return stk_fail(err, STK_INVALID, "'%s' must be %s, not '%.40s'", name, should, text);
}

static int set_priority(const char *name, const char *text, struct stk_job_terms *terms, struct stk_err *err)
{
    int64_t n;

    if (stk_parse_i64(text, STK_PRIORITY_MIN, STK_PRIORITY_MAX, &n, NULL) < 0)
        return wrong(name, text, "a whole number from -100 to 100", err);
    terms->priority = (int)n;
    return 1;
}

static int set_isolation(const char *name, const char *text, struct stk_job_terms *terms, struct stk_err *err)
{
    if (strcmp(text, "process") != 0 && strcmp(text, "shared") != 0)
        return wrong(name, text, "'shared' or 'process'", err);
    terms->isolated = strcmp(text, "process") == 0;
    return 1;
}

int stk_clock_set(const char *name, const char *text, int64_t *ret, struct stk_err *err)
{
    if (stk_parse_duration_ms(text, ret) < 0)
        return wrong(name, text, "a time such as 30s, 5min or 2h, or 0 for none", err);
    return 1;
}

/* In JSON a name has underscores where a query has dashes. */
static bool is_term(const char *name, const char *term)
{
    for (; *name && (*name == *term || (*name == '_' && *term == '-')); name++)
        term++;
    return *name == *term;
}

int stk_terms_set(struct stk_job_terms *terms, const char *name, const char *text, struct stk_err *err)
{
    if (is_term(name, "priority"))
        return set_priority(name, text, terms, err);
    if (is_term(name, "isolation"))
        return set_isolation(name, text, terms, err);
    if (is_term(name, "queue-timeout"))
        return stk_clock_set(name, text, &terms->queue_timeout_ms, err);
    if (is_term(name, "run-timeout"))
        return stk_clock_set(name, text, &terms->run_timeout_ms, err);
    if (!is_term(name, "max-memory"))
        return 0;
    if (stk_parse_size(text, &terms->max_memory) < 0)
        return wrong(name, text, "a size such as 512m or 2g, or 0 for no limit", err);
    return 1;
}

int stk_terms_query(struct stk_request *r, struct stk_job_terms *terms, struct stk_err *err)
{
    *terms = STK_TERMS_UNSAID;
    for (size_t i = 0; i < stk_request_query_count(r); i++) {
        const char *text, *name = stk_request_query_at(r, i, &text);

        if (stk_terms_set(terms, name, text, err) < 0)
            return -1;
    }
    return 0;
}

/* ---- names */

int stk_name_check(const char *what, const char *name, size_t max, struct stk_err *err)
{
    size_t len = strlen(name);

    if (len == 0 || len > max)
        return stk_fail(err, STK_INVALID, "%s must have 1 to %zu bytes, not %zu", what, max, len);
    for (const unsigned char *p = (const unsigned char *)name; *p; p++) {
        /* C2 80 .. C2 9F are the control characters beyond ASCII. */
        if (*p < 0x20 || *p == 0x7f || (*p == 0xc2 && p[1] < 0xa0))
            return stk_fail(err, STK_INVALID, "%s must not have control characters", what);
    }
    if (!stk_utf8_valid(name, len))
        return stk_fail(err, STK_INVALID, "%s is not valid UTF-8 text", what);
    return 0;
}

/* Any letter of Unicode counts, so this needs a locale that knows them; it is only borrowed for the one question. */
bool stk_begins_with_letter(const char *name)
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

/* ---- tags */

int stk_tags_add(json_t *tags, const char *tag, struct stk_err *err)
{
    const json_t *old;
    size_t i;

    if (stk_name_check("'tag'", tag, TAG_MAX, err) < 0)
        return -1;
    json_array_foreach(tags, i, old) {
        if (strcmp(json_string_value(old), tag) == 0)
            return 0;
    }
    if (json_array_size(tags) == STK_JOB_TAGS_MAX)
        return stk_fail(err, STK_INVALID, "a job may have %d tags at most", STK_JOB_TAGS_MAX);
    return json_array_append_new(tags, json_string(tag)) < 0 ? stk_fail(err, STK_INTERNAL, "out of memory") : 0;
}

int stk_tags_text(const json_t *tags, char **ret, struct stk_err *err)
{
    *ret = NULL;
    if (json_array_size(tags) == 0)
        return 0;
    *ret = json_dumps(tags, JSON_COMPACT);
    return *ret ? 0 : stk_fail(err, STK_INTERNAL, "out of memory");
}

int stk_tags_query(struct stk_request *r, char **ret, struct stk_err *err)
{
    json_auto_t *tags = json_array();

    for (size_t i = 0; i < stk_request_query_count(r); i++) {
        const char *text, *name = stk_request_query_at(r, i, &text);

        if (strcmp(name, "tag") == 0 && stk_tags_add(tags, text, err) < 0)
            return -1;
    }
    return stk_tags_text(tags, ret, err);
}

/* ---- headers */

int stk_idempotency_key(struct stk_request *r, const char **ret, struct stk_err *err)
{
    const char *key = stk_request_header(r, "Idempotency-Key");
    size_t len = key ? strlen(key) : 0;

    *ret = key;
    if (!key)
        return 0;
    if (len == 0 || len >= STK_IDEMPOTENCY_KEY_MAX)
        return stk_fail(err, STK_INVALID, "the header Idempotency-Key must have 1 to %d bytes, not %zu",
                        STK_IDEMPOTENCY_KEY_MAX - 1, len);
    for (const char *p = key; *p; p++) {
        if (*p < 0x20 || *p > 0x7e)
            return stk_fail(err, STK_INVALID, "the header Idempotency-Key must be of visible ASCII characters");
    }
    return 0;
}

/* RFC 7240: a list of preferences, of which this one has no value. */
bool stk_prefers_async(struct stk_request *r)
{
    static const char word[] = "respond-async";
    const char *p = stk_request_header(r, "Prefer");

    while (p && *p) {
        size_t len;

        p += strspn(p, " \t,");
        len = strcspn(p, " \t,;");
        if (len == sizeof word - 1 && strncasecmp(p, word, len) == 0)
            return true;
        p += len + strcspn(p + len, ",");
    }
    return false;
}
