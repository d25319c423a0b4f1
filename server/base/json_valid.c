/* A scanner of JSON's grammar. It keeps one bit per open bracket and no values, so no text can make it recurse or allocate. */
#include "stoker/json.h"

#include <string.h>

enum { MOST_LEVELS = 1024 };

struct scan {
    const char *p, *end;
    int level;
    bool is_object[MOST_LEVELS];
};

static void skip_space(struct scan *s)
{
    while (s->p < s->end && (*s->p == ' ' || *s->p == '\t' || *s->p == '\n' || *s->p == '\r'))
        s->p++;
}

static bool take(struct scan *s, char c)
{
    if (s->p == s->end || *s->p != c)
        return false;
    s->p++;
    return true;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_hex(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static bool digits(struct scan *s)
{
    const char *start = s->p;

    while (s->p < s->end && is_digit(*s->p))
        s->p++;
    return s->p > start;
}

static bool number(struct scan *s)
{
    take(s, '-');
    if (!take(s, '0') && !digits(s))
        return false;
    if (take(s, '.') && !digits(s))
        return false;
    if (take(s, 'e') || take(s, 'E')) {
        if (!take(s, '+'))
            take(s, '-');
        return digits(s);
    }
    return true;
}

static bool string(struct scan *s)
{
    if (!take(s, '"'))
        return false;
    while (s->p < s->end) {
        char c = *s->p++;

        if (c == '"')
            return true;
        if ((unsigned char)c < 0x20)
            return false;
        if (c != '\\')
            continue;
        if (s->p == s->end)
            return false;
        c = *s->p++;
        if (c == 'u') {
            for (int i = 0; i < 4; i++) {
                if (s->p == s->end || !is_hex(*s->p++))
                    return false;
            }
        } else if (!c || !strchr("\"\\/bfnrt", c)) {
            return false;
        }
    }
    return false;
}

static bool word(struct scan *s, const char *text)
{
    size_t n = strlen(text);

    if ((size_t)(s->end - s->p) < n || memcmp(s->p, text, n) != 0)
        return false;
    s->p += n;
    return true;
}

static bool key(struct scan *s)
{
    skip_space(s);
    if (!string(s))
        return false;
    skip_space(s);
    return take(s, ':');
}

/*
 * A scalar, or the opening of a bracket up to where its first value is due. *ret_due: a value is due next; else one has
 * just ended.
 */
static bool begin_value(struct scan *s, bool *ret_due)
{
    bool object;

    *ret_due = false;
    skip_space(s);
    if (s->p == s->end)
        return false;
    switch (*s->p) {
    case '{':
    case '[':
        object = *s->p++ == '{';
        skip_space(s);
        if (take(s, object ? '}' : ']'))
            return true;
        if (s->level == MOST_LEVELS)
            return false;
        s->is_object[s->level++] = object;
        *ret_due = true;
        return !object || key(s);
    case '"': return string(s);
    case 't': return word(s, "true");
    case 'f': return word(s, "false");
    case 'n': return word(s, "null");
    default: return number(s);
    }
}

/* After a value: what the brackets around it want next. */
static bool end_value(struct scan *s, bool *ret_due)
{
    *ret_due = false;
    while (s->level > 0) {
        bool object = s->is_object[s->level - 1];

        skip_space(s);
        if (take(s, ',')) {
            *ret_due = true;
            return !object || key(s);
        }
        if (!take(s, object ? '}' : ']'))
            return false;
        s->level--;
    }
    return true;
}

bool stk_json_valid(const char *text, size_t len)
{
    struct scan s = { .p = text, .end = text + len };
    bool due;

    do {
        if (!begin_value(&s, &due) || (!due && !end_value(&s, &due)))
            return false;
    } while (due);
    skip_space(&s);
    return s.p == s.end;
}
