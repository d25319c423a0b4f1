/* Quoted strings: "JSON escapes" and """raw text""". */
#include "hocon_internal.h"

#include <string.h>

static int out_of_memory(struct hocon *h)
{
    return stk_fail(h->err, STK_INTERNAL, "out of memory");
}

/* The four digits at pos. Typesafe lets Integer.parseInt read them, so "+041" is a number too. */
static int hex4(struct hocon *h, size_t pos, uint32_t *ret)
{
    uint32_t x = 0;

    for (size_t i = 0; i < 4; i++) {
        int digit = pos + i < h->len ? stk_hex_value(h->text[pos + i]) : -1;

        if (i == 0 && pos < h->len && h->text[pos] == '+')
            continue;
        if (digit < 0)
            return stk_hocon_fail(h, pos, "expecting four hexadecimal digits after \\u");
        x = x << 4 | (uint32_t)digit;
    }
    *ret = x;
    return 0;
}

static void put_utf8(struct stk_buf *b, uint32_t cp)
{
    char s[4];
    size_t n = 0;

    if (cp < 0x80) {
        s[n++] = (char)cp;
    } else if (cp < 0x800) {
        s[n++] = (char)(0xC0 | cp >> 6);
        s[n++] = (char)(0x80 | (cp & 0x3F));
    } else {
        if (cp < 0x10000) {
            s[n++] = (char)(0xE0 | cp >> 12);
        } else {
            s[n++] = (char)(0xF0 | cp >> 18);
            s[n++] = (char)(0x80 | (cp >> 12 & 0x3F));
        }
        s[n++] = (char)(0x80 | (cp >> 6 & 0x3F));
        s[n++] = (char)(0x80 | (cp & 0x3F));
    }
    stk_buf_add(b, s, n);
}

/* *pos is behind "\u"; takes the second half of a surrogate pair as well. */
static int unicode_escape(struct hocon *h, size_t *pos, struct stk_buf *b)
{
    size_t at = *pos - 2;
    uint32_t cp = 0, low = 0;

    if (hex4(h, *pos, &cp) < 0)
        return -1;
    *pos += 4;
    /* JSON in jansson's default reading has no NUL, so what we make of it could not be read back */
    if (cp == 0)
        return stk_hocon_fail(h, at, "\\u0000 is not allowed in a string");
    if (cp >= 0xD800 && cp <= 0xDBFF && h->len - *pos >= 6 && memcmp(h->text + *pos, "\\u", 2) == 0) {
        if (hex4(h, *pos + 2, &low) < 0)
            return -1;
        if (low >= 0xDC00 && low <= 0xDFFF) {
            *pos += 6;
            cp = 0x10000 + ((cp - 0xD800) << 10) + (low - 0xDC00);
        }
    }
    if (cp >= 0xD800 && cp <= 0xDFFF)
        return stk_hocon_fail(h, at, "expecting a \\u pair of high and low surrogate, got only one of them");
    put_utf8(b, cp);
    return 0;
}

/* *pos is behind the backslash. */
static int escape(struct hocon *h, size_t *pos, struct stk_buf *b)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *which;
    char shown[HOCON_SHOW_MAX];
    uint32_t cp;
    size_t n;

    if (*pos >= h->len)
        return stk_hocon_fail(h, *pos, "expecting a closing '\"' but got end of text");
    if (h->text[*pos] == 'u') {
        ++*pos;
        return unicode_escape(h, pos, b);
    }
    if ((which = strchr(from, h->text[*pos])) != NULL) {
        ++*pos;
        stk_buf_add(b, &to[which - from], 1);
        return 0;
    }
    n = stk_hocon_utf8(h->text + *pos, h->text + h->len, &cp);
    return stk_hocon_fail(h, *pos - 1,
                          "expecting an escape of JSON but got a backslash and %s (write \\\\ for a backslash)",
                          stk_hocon_show(shown, h->text + *pos, n));
}

/* *pos is behind the three opening quotes. The last three of a row of quotes close the string, those before belong to it. */
static int raw_string(struct hocon *h, size_t open, size_t *pos, struct hocon_token *ret)
{
    size_t start = *pos, quotes = 0, i;

    for (i = start; i < h->len; i++) {
        if (h->text[i] == '"')
            quotes++;
        else if (quotes >= 3)
            break;
        else
            quotes = 0;
    }
    if (quotes < 3)
        return stk_hocon_fail(h, open, "the string opened with \"\"\" here is never closed");
    ret->len = i - 3 - start;
    if (!(ret->s = stk_hocon_dup(h, h->text + start, ret->len)))
        return -1;
    *pos = i;
    return 0;
}

static int plain_string(struct hocon *h, size_t open, size_t *pos, struct stk_buf *b)
{
    while (*pos < h->len) {
        size_t start = *pos;
        unsigned char c = 0;

        while (*pos < h->len && (c = (unsigned char)h->text[*pos]) >= 0x20 && c != '"' && c != '\\')
            ++*pos;
        if (*pos > start)
            stk_buf_add(b, h->text + start, *pos - start);
        if (*pos == h->len)
            break;
        if (c == '"') {
            ++*pos;
            return 0;
        }
        if (c != '\\')
            return stk_hocon_fail(h, *pos, "expecting a closing '\"' but got %s",
                                  c == '\n' ? "end of line" : "a control character (use an escape)");
        ++*pos;
        if (escape(h, pos, b) < 0)
            return -1;
    }
    return stk_hocon_fail(h, open, "the string opened with '\"' here is never closed");
}

int stk_hocon_quoted(struct hocon *h, size_t *pos, struct hocon_token *ret)
{
    stk_auto_buf text = { 0 };
    size_t open = (*pos)++;

    if (h->len - *pos >= 2 && memcmp(h->text + *pos, "\"\"", 2) == 0) {
        *pos += 2;
        return raw_string(h, open, pos, ret);
    }
    if (plain_string(h, open, pos, &text) < 0)
        return -1;
    if (text.failed)
        return out_of_memory(h);
    ret->len = text.len;
    return (ret->s = stk_hocon_dup(h, text.data, text.len)) ? 0 : -1;
}
