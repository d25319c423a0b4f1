/*
 * Text to tokens. Lines matter (a newline separates elements), other white space only between simple values, where it
 * becomes part of the string they form.
 */
#include "hocon_internal.h"

#include <errno.h>
#include <string.h>

/* What Java calls white space, the no-break spaces it leaves out, and the byte order mark. */
static bool is_space(uint32_t cp)
{
    if (cp < 0x80)
        return cp == ' ' || (cp >= 0x09 && cp <= 0x0D) || (cp >= 0x1C && cp <= 0x1F);
    switch (cp) {
    case 0x00A0:
    case 0x1680:
    case 0x2028:
    case 0x2029:
    case 0x202F:
    case 0x205F:
    case 0x3000:
    case 0xFEFF: return true;
    default: return cp >= 0x2000 && cp <= 0x200A;
    }
}

size_t stk_hocon_space(const struct hocon *h, size_t pos)
{
    uint32_t cp;
    size_t n = pos < h->len ? stk_hocon_utf8(h->text + pos, h->text + h->len, &cp) : 0;

    return n && is_space(cp) ? n : 0;
}

static bool is_comment(const struct hocon *h, size_t pos)
{
    return h->text[pos] == '#' || (h->text[pos] == '/' && pos + 1 < h->len && h->text[pos + 1] == '/');
}

static bool is_reserved(char c)
{
    return c && strchr("$\"{}[]:=,+#`^?!@*&\\", c);
}

static bool says(const struct hocon_token *t, const char *word)
{
    return t->len == strlen(word) && memcmp(t->s, word, t->len) == 0;
}

/* A word; true, false and null end it at once, whatever follows ("nullable" is null and "able", joined again later). */
static void lex_text(struct hocon_lexer *lx, struct hocon_token *t)
{
    const struct hocon *h = lx->h;

    t->type = TOK_TEXT;
    t->s = h->text + lx->pos;
    while (lx->pos < h->len && !is_reserved(h->text[lx->pos]) && !stk_hocon_space(h, lx->pos) &&
           !is_comment(h, lx->pos)) {
        lx->pos++;
        while (lx->pos < h->len && ((unsigned char)h->text[lx->pos] & 0xC0) == 0x80)
            lx->pos++;
        t->len = lx->pos - t->at;
        if (says(t, "true"))
            t->type = TOK_TRUE;
        else if (says(t, "false"))
            t->type = TOK_FALSE;
        else if (says(t, "null"))
            t->type = TOK_NULL;
        else
            continue;
        return;
    }
}

/* -?(1|1.|1.5|.5)(e[+-]?1)?, the part of Java's grammar of doubles that the characters of a number can spell. */
static bool is_real(const char *s, size_t len)
{
    size_t i = 0, digits = 0;

    if (i < len && s[i] == '-')
        i++;
    for (; i < len && s[i] >= '0' && s[i] <= '9'; i++)
        digits++;
    if (i < len && s[i] == '.')
        for (i++; i < len && s[i] >= '0' && s[i] <= '9'; i++)
            digits++;
    if (!digits)
        return false;
    if (i < len && (s[i] == 'e' || s[i] == 'E')) {
        i++;
        if (i < len && (s[i] == '+' || s[i] == '-'))
            i++;
        for (digits = 0; i < len && s[i] >= '0' && s[i] <= '9'; i++)
            digits++;
    }
    return digits && i == len;
}

/* A double without a fraction is an integer in Typesafe, be it written 1.0 or 1e3; beyond int64 it stays a double. */
static void set_real(struct hocon_token *t, double d)
{
    if (d >= -9223372036854775808.0 && d < 9223372036854775808.0 && d == (double)(int64_t)d) {
        t->type = TOK_INT;
        t->u.i = (int64_t)d;
    } else if (d == 9223372036854775808.0) { /* Java's (long) saturates and compares equal */
        t->type = TOK_INT;
        t->u.i = INT64_MAX;
    } else {
        t->type = TOK_REAL;
        t->u.d = d;
    }
}

/* What begins like a number is one only if all of it is: 1-2 and 127.0.0.1 are text, and so is 99999999999999999999. */
static int lex_number(struct hocon_lexer *lx, struct hocon_token *t)
{
    struct hocon *h = lx->h;
    bool real = false;
    const char *plus;
    long long i;

    for (lx->pos++; lx->pos < h->len && h->text[lx->pos] && strchr("0123456789eE+-.", h->text[lx->pos]); lx->pos++)
        real |= strchr("eE.", h->text[lx->pos]) != NULL;
    t->len = lx->pos - t->at;
    if (!(t->s = stk_hocon_dup(h, h->text + t->at, t->len)))
        return -1;
    if (real && is_real(t->s, t->len)) {
        set_real(t, strtod(t->s, NULL)); /* the server never leaves the C locale */
        return 0;
    }
    if (!real && strspn(t->s + 1, "0123456789") == t->len - 1 && (t->s[0] != '-' || t->len > 1)) {
        errno = 0;
        i = strtoll(t->s, NULL, 10);
        if (!errno) {
            t->type = TOK_INT;
            t->u.i = i;
            return 0;
        }
    }
    if ((plus = strchr(t->s, '+')) != NULL)
        return stk_hocon_fail(h, t->at + (size_t)(plus - t->s), "'+' is not allowed outside quotes");
    t->type = TOK_TEXT;
    return 0;
}

/* ${path} or ${?path}; inside, the tokens of a key are allowed. */
static int lex_subst(struct hocon_lexer *lx, struct hocon_token *t)
{
    struct hocon *h = lx->h;
    struct hocon_lexer in = { .h = h, .pos = lx->pos + 2 };
    __attribute__((cleanup(stk_hocon_path_done))) struct hocon_path_builder path = { 0 };
    struct hocon_token part = { 0 };
    int rc;

    if (lx->pos + 1 >= h->len || h->text[lx->pos + 1] != '{')
        return stk_hocon_fail(h, t->at, "expecting '{' after '$' ('$' is not allowed alone outside quotes)");
    if (in.pos < h->len && h->text[in.pos] == '?') {
        t->u.subst.optional = true;
        in.pos++;
    }
    for (;;) {
        /* a substitution in a substitution is refused before it is read: the lexer would recurse */
        size_t next = in.pos;

        for (size_t n; (n = stk_hocon_space(h, next)) != 0;)
            next += n;
        if (next < h->len && h->text[next] == '$')
            return stk_hocon_fail(h, next, "expecting '}' but got another '$' inside ${...}");
        if (stk_hocon_lex(&in, &part) < 0)
            return -1;
        if (part.type == TOK_RBRACE)
            break;
        if (part.type < TOK_TEXT) {
            char shown[HOCON_SHOW_MAX];

            if (part.type == TOK_END)
                return stk_hocon_fail(h, t->at, "the ${ here is never closed with }");
            if (part.type == TOK_NEWLINE)
                return stk_hocon_fail(h, part.at, "expecting a key or '}' inside ${...} but got end of line");
            stk_hocon_show(shown, h->text + part.at, part.end - part.at);
            return stk_hocon_fail(h, part.at, "expecting a key or '}' inside ${...} but got %s", shown);
        }
        rc = part.type == TOK_STRING ? stk_hocon_path_quoted(h, &path, part.s, part.len)
                                     : stk_hocon_path_text(h, &path, part.at, part.s, part.len);
        if (rc < 0)
            return -1;
    }
    if (path.n == 0 && path.cur.len == 0 && !path.cur_given)
        return stk_hocon_fail(h, part.at, "expecting a key inside ${...} but got '}'");
    lx->pos = in.pos;
    t->type = TOK_SUBST;
    return stk_hocon_path_end(h, &path, part.at, &t->u.subst.path);
}

/* The token at lx->pos, where no white space is. */
static int lex_raw(struct hocon_lexer *lx, struct hocon_token *t)
{
    struct hocon *h = lx->h;
    static const char punctuation[] = "\n,:={}[]";
    static const enum hocon_tok types[] = { TOK_NEWLINE, TOK_COMMA,  TOK_COLON,    TOK_EQUALS,
                                            TOK_LBRACE,  TOK_RBRACE, TOK_LBRACKET, TOK_RBRACKET };
    const char *p;
    char c;

    *t = (struct hocon_token){ .at = lx->pos };
    if (lx->pos == h->len)
        return 0; /* TOK_END */
    c = h->text[lx->pos];
    if (is_comment(h, lx->pos)) {
        const char *eol = memchr(h->text + lx->pos, '\n', h->len - lx->pos);

        t->type = TOK_COMMENT;
        lx->pos = eol ? (size_t)(eol - h->text) : h->len;
        return 0;
    }
    if ((p = strchr(punctuation, c)) != NULL) {
        t->type = types[p - punctuation];
        lx->pos++;
        return 0;
    }
    if (c == '"') {
        t->type = TOK_STRING;
        return stk_hocon_quoted(h, &lx->pos, t);
    }
    if (c == '$')
        return lex_subst(lx, t);
    if (c == '+') {
        if (lx->pos + 1 >= h->len || h->text[lx->pos + 1] != '=')
            return stk_hocon_fail(h, lx->pos, "expecting '=' after '+' ('+' is not allowed alone outside quotes)");
        t->type = TOK_PLUS_EQUALS;
        lx->pos += 2;
        return 0;
    }
    if ((c >= '0' && c <= '9') || c == '-')
        return lex_number(lx, t);
    if (is_reserved(c))
        return stk_hocon_fail(h, lx->pos, "'%c' is not allowed outside quotes", c);
    lex_text(lx, t);
    return 0;
}

static bool is_simple(const struct hocon_token *t)
{
    return t->type >= TOK_SUBST;
}

int stk_hocon_lex(struct hocon_lexer *lx, struct hocon_token *ret)
{
    struct hocon *h = lx->h;
    size_t start = lx->pos, n;
    bool text_before;

    if (lx->has_held) {
        lx->has_held = false;
        *ret = lx->held;
        return 0;
    }
    while (lx->pos < h->len && h->text[lx->pos] != '\n' && (n = stk_hocon_space(h, lx->pos)) != 0)
        lx->pos += n;
    n = lx->pos - start;
    if (lex_raw(lx, ret) < 0)
        return -1;
    ret->end = lx->pos;
    if (ret->type == TOK_TRUE || ret->type == TOK_FALSE || ret->type == TOK_NULL) {
        ret->s = h->text + ret->at;
        ret->len = ret->end - ret->at;
    }
    text_before = n > 0 && lx->last_simple && is_simple(ret);
    lx->last_simple = is_simple(ret);
    if (text_before) {
        lx->held = *ret;
        lx->has_held = true;
        *ret = (struct hocon_token){ .type = TOK_TEXT, .at = start, .end = start + n, .s = h->text + start, .len = n };
    }
    return 0;
}
