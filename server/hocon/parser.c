/*
 * Tokens to values. Keys are merged into their object as they come, so that what is left for the resolver are
 * references and what has to wait for them.
 */
#include "hocon_internal.h"

#include <string.h>

/* The keys from the root to the value that is being read: `a += 1` means `a = ${?path to a} [1]`. */
struct frame {
    const struct hocon_path *path;
    const struct frame *up;
};

struct parser {
    struct hocon *h;
    struct hocon_lexer lexer;
    struct hocon_token tok; /* the token to be looked at next */
    const struct frame *where;
    int in_list; /* lists we are in; their elements have no path, so += cannot work there */
};

static struct hocon_node *parse_object(struct parser *p, size_t at, bool braces, int depth);

static int advance(struct parser *p)
{
    return stk_hocon_lex(&p->lexer, &p->tok);
}

static int skip_lines(struct parser *p)
{
    while (p->tok.type == TOK_NEWLINE || p->tok.type == TOK_COMMENT)
        if (advance(p) < 0)
            return -1;
    return 0;
}

static int advance_over_lines(struct parser *p)
{
    return advance(p) < 0 ? -1 : skip_lines(p);
}

/* "expecting <what> but got <the token>" */
static int unexpected(struct parser *p, const char *what)
{
    const struct hocon_token *t = &p->tok;
    char shown[HOCON_SHOW_MAX];

    if (t->type == TOK_END)
        return stk_hocon_fail(p->h, t->at, "expecting %s but got end of text", what);
    if (t->type == TOK_NEWLINE || t->type == TOK_COMMENT)
        return stk_hocon_fail(p->h, t->at, "expecting %s but got end of line", what);
    return stk_hocon_fail(p->h, t->at, "expecting %s but got %s", what,
                          stk_hocon_show(shown, p->h->text + t->at, t->end - t->at));
}

static bool starts_value(const struct parser *p)
{
    return p->tok.type >= TOK_SUBST || p->tok.type == TOK_LBRACE || p->tok.type == TOK_LBRACKET;
}

/* Takes newlines, comments and one comma. *ret tells whether there was a newline or a comma. */
static int separator(struct parser *p, bool *ret)
{
    *ret = false;
    while (p->tok.type == TOK_NEWLINE || p->tok.type == TOK_COMMENT) {
        *ret |= p->tok.type == TOK_NEWLINE;
        if (advance(p) < 0)
            return -1;
    }
    if (p->tok.type != TOK_COMMA)
        return 0;
    *ret = true;
    return advance(p);
}

/* The value of a token that is a whole value, put into *v (not in the arena: most words end up in a longer string). */
static void simple_value(const struct parser *p, struct hocon_node *v)
{
    const struct hocon_token *t = &p->tok;

    *v = (struct hocon_node){ .at = (uint32_t)t->at, .resolved = true, .stops = true, .s = t->s, .len = t->len };
    switch (t->type) {
    case TOK_SUBST:
        v->kind = HOCON_REF;
        v->resolved = v->stops = false;
        v->flag = t->u.subst.optional;
        v->path = t->u.subst.path;
        v->s = p->h->text + t->at;
        v->len = t->end - t->at;
        break;
    case TOK_INT:
        v->kind = HOCON_INT;
        v->i = t->u.i;
        break;
    case TOK_REAL:
        v->kind = HOCON_REAL;
        v->d = t->u.d;
        break;
    case TOK_TRUE:
    case TOK_FALSE:
        v->kind = HOCON_BOOL;
        v->flag = t->type == TOK_TRUE;
        break;
    case TOK_NULL: v->kind = HOCON_NULL; break;
    default:
        v->kind = HOCON_STRING;
        v->flag = t->type == TOK_STRING;
        break;
    }
}

static struct hocon_node *parse_value(struct parser *p, int depth);

/* After '['. Leaves the token behind ']'. */
static int parse_elements(struct parser *p, struct hocon_node ***items, size_t *n, int depth)
{
    size_t cap = 0;
    bool separated = true;

    if (advance_over_lines(p) < 0)
        return -1;
    while (p->tok.type != TOK_RBRACKET) {
        struct hocon_node *v;

        if (!separated)
            return unexpected(p, "',' or ']'");
        if (!starts_value(p))
            return unexpected(p, "a value or ']'");
        if (!(v = parse_value(p, depth)))
            return -1;
        if (*n == cap && !(*items = stk_hocon_grow(p->h, *items, *n, &cap, sizeof **items)))
            return -1;
        (*items)[(*n)++] = v;
        if (separator(p, &separated) < 0 || skip_lines(p) < 0)
            return -1;
    }
    return advance(p);
}

static struct hocon_node *parse_list(struct parser *p, int depth)
{
    size_t at = p->tok.at, n = 0;
    struct hocon_node **items = NULL;

    if (depth > p->h->limits.max_depth) {
        stk_hocon_limit(p->h, at, "objects and arrays are nested more than %d deep", p->h->limits.max_depth);
        return NULL;
    }
    p->in_list++;
    if (parse_elements(p, &items, &n, depth + 1) < 0)
        return NULL;
    p->in_list--;
    return stk_hocon_sequence(p->h, HOCON_LIST, at, items, n);
}

/* One or more pieces up to the end of the line or a separator; p->tok starts the first. */
static struct hocon_node *parse_value(struct parser *p, int depth)
{
    __attribute__((cleanup(stk_hocon_join_done))) struct hocon_joiner j = { .h = p->h };
    struct hocon_node *v = NULL;

    while (starts_value(p)) {
        struct hocon_node simple;
        bool composed = p->tok.type == TOK_LBRACE || p->tok.type == TOK_LBRACKET;

        j.at = p->tok.at;
        if (p->tok.type == TOK_LBRACE)
            v = parse_object(p, p->tok.at, true, depth);
        else if (p->tok.type == TOK_LBRACKET)
            v = parse_list(p, depth);
        else
            simple_value(p, v = &simple);
        if (!v || (!composed && advance(p) < 0) || stk_hocon_join(&j, v, !composed) < 0)
            return NULL;
    }
    return stk_hocon_join_end(&j, &v) < 0 ? NULL : v;
}

static int parse_key(struct parser *p, struct hocon_path *ret)
{
    __attribute__((cleanup(stk_hocon_path_done))) struct hocon_path_builder b = { 0 };
    size_t at = p->tok.at;

    while (p->tok.type >= TOK_TEXT) {
        int rc = p->tok.type == TOK_STRING ? stk_hocon_path_quoted(p->h, &b, p->tok.s, p->tok.len)
                                           : stk_hocon_path_text(p->h, &b, at, p->tok.s, p->tok.len);
        if (rc < 0 || advance(p) < 0)
            return -1;
    }
    return stk_hocon_path_end(p->h, &b, at, ret);
}

/* The path from the root to the key that is being read. */
static int full_path(struct parser *p, struct hocon_path *ret)
{
    size_t n = 0;
    struct hocon_key *keys;

    for (const struct frame *f = p->where; f; f = f->up)
        n += f->path->n;
    if (!(keys = stk_hocon_alloc(p->h, n * sizeof *keys)))
        return -1;
    ret->keys = keys;
    ret->n = n;
    for (const struct frame *f = p->where; f; f = f->up) {
        n -= f->path->n;
        memcpy(keys + n, f->path->keys, f->path->n * sizeof *keys);
    }
    return 0;
}

/* Turns the value v of `key += v` into ${?key} [v]. */
static struct hocon_node *appended(struct parser *p, struct hocon_node *v)
{
    struct hocon_node *ref = stk_hocon_node(p->h, HOCON_REF, v->at);
    struct hocon_node **items = stk_hocon_alloc(p->h, 3 * sizeof *items);

    if (!ref || !items || full_path(p, &ref->path) < 0)
        return NULL;
    ref->flag = true;
    ref->s = "+=";
    ref->len = 2;
    items[2] = v;
    items[0] = ref;
    items[1] = stk_hocon_sequence(p->h, HOCON_LIST, v->at, &items[2], 1);
    return items[1] ? stk_hocon_sequence(p->h, HOCON_CONCAT, v->at, items, 2) : NULL;
}

/* What stands behind the key: ':' or '=' or '+=' and a value, or an object at once. */
static struct hocon_node *parse_field_value(struct parser *p, int depth)
{
    enum hocon_tok sep = p->tok.type;
    size_t sep_at = p->tok.at;
    struct hocon_node *v;

    if (sep == TOK_LBRACE)
        return parse_object(p, sep_at, true, depth);
    if (sep != TOK_COLON && sep != TOK_EQUALS && sep != TOK_PLUS_EQUALS) {
        unexpected(p, "':', '=' or '{' after a key");
        return NULL;
    }
    if (sep == TOK_PLUS_EQUALS && p->in_list) {
        stk_hocon_fail(p->h, sep_at, "'+=' does not work inside an array or another '+='");
        return NULL;
    }
    if (advance_over_lines(p) < 0)
        return NULL;
    if (!starts_value(p)) {
        unexpected(p, "a value");
        return NULL;
    }
    p->in_list += sep == TOK_PLUS_EQUALS;
    v = parse_value(p, depth);
    p->in_list -= sep == TOK_PLUS_EQUALS;
    return v && sep == TOK_PLUS_EQUALS ? appended(p, v) : v;
}

static int parse_field(struct parser *p, struct hocon_node *object, int depth)
{
    struct hocon_path path = { 0 };
    struct frame frame = { .path = &path, .up = p->where };
    struct hocon_node *v;
    size_t at = p->tok.at;

    if (p->tok.type == TOK_TEXT && p->tok.len == 7 && memcmp(p->tok.s, "include", 7) == 0)
        return stk_hocon_fail(p->h, at,
                              "includes are switched off for posted texts (a key of that name has to be quoted)");
    if (parse_key(p, &path) < 0 || skip_lines(p) < 0)
        return -1;
    p->where = &frame;
    v = parse_field_value(p, depth + (int)path.n);
    p->where = frame.up;
    if (!v)
        return -1;

    /* a.b.c = v is a = { b = { c = v } } */
    for (size_t i = path.n - 1; i > 0; i--) {
        struct hocon_node *o = stk_hocon_node(p->h, HOCON_OBJECT, at);

        if (!o || stk_hocon_set(p->h, o, &path.keys[i], v) < 0)
            return -1;
        v = o;
    }
    return stk_hocon_set(p->h, object, &path.keys[0], v);
}

/* The fields up to '}', or to the end of the text for a root without braces; p->tok is the first token. */
static int parse_fields(struct parser *p, struct hocon_node *object, bool braces, int depth)
{
    const enum hocon_tok end = braces ? TOK_RBRACE : TOK_END;
    bool separated = true;

    if (skip_lines(p) < 0)
        return -1;
    while (p->tok.type != end) {
        if (!separated)
            return unexpected(p, braces ? "',' or '}'" : "',' or end of text");
        if (p->tok.type < TOK_TEXT)
            return unexpected(p, braces ? "a key or '}'" : "a key");
        if (parse_field(p, object, depth) < 0 || separator(p, &separated) < 0 || skip_lines(p) < 0)
            return -1;
    }
    return 0;
}

/* depth: of this object, the root being 1. Leaves the token behind '}'. */
static struct hocon_node *parse_object(struct parser *p, size_t at, bool braces, int depth)
{
    struct hocon_node *o;

    if (depth > p->h->limits.max_depth) {
        stk_hocon_limit(p->h, at, "objects and arrays are nested more than %d deep", p->h->limits.max_depth);
        return NULL;
    }
    if (!(o = stk_hocon_node(p->h, HOCON_OBJECT, at)))
        return NULL;
    if ((braces && advance(p) < 0) || parse_fields(p, o, braces, depth) < 0 || (braces && advance(p) < 0))
        return NULL;
    return o;
}

struct hocon_node *stk_hocon_read(struct hocon *h)
{
    struct parser p = { .h = h, .lexer = { .h = h } };
    struct hocon_node *root;
    bool braces;

    if (advance_over_lines(&p) < 0)
        return NULL;
    if (p.tok.type == TOK_LBRACKET) {
        unexpected(&p, "a key or '{'");
        return NULL;
    }
    braces = p.tok.type == TOK_LBRACE;
    if (!(root = parse_object(&p, p.tok.at, braces, 1)) || skip_lines(&p) < 0)
        return NULL;
    if (p.tok.type != TOK_END) {
        unexpected(&p, "end of text after the root object");
        return NULL;
    }
    return root;
}
