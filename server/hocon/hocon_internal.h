/*
 * What the files of the HOCON parser share: one parse (struct hocon), its arena, tokens, paths and values.
 *
 *     lexer.c   text to tokens          value.c    values, objects, the merge of two values
 *     path.c    dotted keys             concat.c   value concatenation
 *     parser.c  tokens to values        resolve.c  substitutions
 *     quoted.c  quoted strings          source.c   where references are looked up
 *     arena.c   memory, errors          emit.c     values to jansson, stk_hocon_parse()
 *
 * Everything a parse makes lives in its arena and is freed with it, so nothing here has a _free of its own. While the
 * text is parsed a value has one owner and may be changed in place; from then on values are shared and immutable.
 * Functions returning a pointer give NULL, functions returning int give -1, once the error is set in struct hocon.
 */
#ifndef STOKER_HOCON_INTERNAL_H
#define STOKER_HOCON_INTERNAL_H

#include "stoker/buf.h"
#include "stoker/hocon.h"

#include <stdbool.h>
#include <stdint.h>

/* Deepest nesting whatever the limits say: walking a value recurses, and the C stack has an end. */
#define HOCON_HARD_DEPTH 1000
/* Most substitutions in one another's way (a -> b -> c ...): each costs a few C frames. Typesafe's stack holds fewer. */
#define HOCON_RESOLVE_DEPTH 3000

struct hocon_chunk;

struct hocon {
    const char *text; /* borrowed, checked to be UTF-8 without NUL */
    size_t len;
    struct stk_hocon_limits limits;
    struct stk_err *err; /* never NULL */
    struct hocon_chunk *chunks;
    size_t mem_left;   /* bytes that may still be taken, by the arena and by strings being composed */
    size_t steps_left; /* work the resolver may still do: what takes no memory has to end too */
    bool fresh;        /* still parsing: values may be merged in place */
};

/* ---- arena.c */

/* Zeroed memory until the parse ends. */
void *stk_hocon_alloc(struct hocon *h, size_t size);
/* -1 when the parse may not take so much more memory; for memory beside the arena, which is not given back. */
int stk_hocon_charge(struct hocon *h, size_t bytes);
char *stk_hocon_dup(struct hocon *h, const char *bytes, size_t len); /* with a NUL behind it */
/* A longer copy of an array with room for at least one more; *cap is updated. */
void *stk_hocon_grow(struct hocon *h, const void *items, size_t n, size_t *cap, size_t size);
void stk_hocon_done(struct hocon *h);
int stk_hocon_work(struct hocon *h, size_t steps); /* -1 once a parse has worked too long */

/* Set the error with "LINE:COL: " of the byte offset `at` in front, return -1. */
int stk_hocon_fail(struct hocon *h, size_t at, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int stk_hocon_limit(struct hocon *h, size_t at, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* A piece of the text for a message: quoted, short, on one line. */
#define HOCON_SHOW_MAX 64
const char *stk_hocon_show(char buf[HOCON_SHOW_MAX], const char *bytes, size_t len);

/* Bytes of the UTF-8 character at p, its code point in *ret; 0 when it is malformed. */
size_t stk_hocon_utf8(const char *p, const char *end, uint32_t *ret);

/* ---- path.c */

struct hocon_key {
    const char *s; /* NUL-terminated */
    uint32_t len;
    uint32_t hash;
};

struct hocon_path {
    const struct hocon_key *keys;
    size_t n;
};

/* Collects the tokens of a key or of a ${...}. Zero-initialise, stk_hocon_path_done() in the end. */
struct hocon_path_builder {
    struct stk_buf cur; /* the element that is being collected */
    bool cur_given;     /* it may be empty: there was a "" */
    struct hocon_key *keys;
    size_t n, cap;
};
void stk_hocon_path_done(struct hocon_path_builder *b);
int stk_hocon_path_quoted(struct hocon *h, struct hocon_path_builder *b, const char *s, size_t len);
int stk_hocon_path_text(struct hocon *h, struct hocon_path_builder *b, size_t at, const char *s, size_t len);
int stk_hocon_path_end(struct hocon *h, struct hocon_path_builder *b, size_t at, struct hocon_path *ret);
bool stk_hocon_path_equal(struct hocon_path a, struct hocon_path b);

/* ---- lexer.c */

enum hocon_tok {
    TOK_END,
    TOK_NEWLINE,
    TOK_COMMENT,
    TOK_COMMA,
    TOK_COLON,
    TOK_EQUALS,
    TOK_PLUS_EQUALS,
    TOK_LBRACE,
    TOK_RBRACE,
    TOK_LBRACKET,
    TOK_RBRACKET,
    TOK_SUBST, /* from here on: simple values, between which white space counts */
    TOK_TEXT,  /* from here on: what a key is made of */
    TOK_STRING,
    TOK_INT,
    TOK_REAL,
    TOK_TRUE,
    TOK_FALSE,
    TOK_NULL,
};

struct hocon_token {
    enum hocon_tok type;
    size_t at, end; /* where it lies in the text, in bytes */
    const char *s;  /* TEXT, STRING: what it says; numbers: as written */
    size_t len;
    union {
        int64_t i; /* INT */
        double d;  /* REAL */
        struct {   /* SUBST */
            struct hocon_path path;
            bool optional;
        } subst;
    } u;
};

struct hocon_lexer {
    struct hocon *h;
    size_t pos;
    bool last_simple; /* the last token was a simple value */
    bool has_held;
    struct hocon_token held; /* a token found behind white space that became a token itself */
};

/* White space that separates nothing but simple values comes as TOK_TEXT, all other is dropped. */
int stk_hocon_lex(struct hocon_lexer *lx, struct hocon_token *ret);
/* Length in bytes of the white space character at pos, newline included, else 0. */
size_t stk_hocon_space(const struct hocon *h, size_t pos);

/* quoted.c: the token that starts with the double quote at *pos. */
int stk_hocon_quoted(struct hocon *h, size_t *pos, struct hocon_token *ret);

/* ---- value.c */

enum hocon_kind {
    HOCON_NULL,
    HOCON_BOOL,
    HOCON_INT,
    HOCON_REAL,
    HOCON_STRING,
    HOCON_OBJECT,
    HOCON_LIST,
    HOCON_REF,    /* ${path} */
    HOCON_CONCAT, /* pieces of which at least one is a reference */
    HOCON_MERGE,  /* values given for one key, newest first, that cannot be merged before references are known */
};

struct hocon_node;

struct hocon_field {
    struct hocon_key key;
    struct hocon_node *value;
};

struct hocon_node {
    uint8_t kind;
    bool resolved;           /* holds no reference */
    bool stops;              /* what was given for the same key before has no say in this value */
    bool flag;               /* BOOL: its value. STRING: quoted or composed. REF: optional */
    bool active;             /* REF: it is being resolved, so meeting it again is a cycle */
    uint32_t at;             /* byte offset of its token */
    uint8_t n_looks;         /* OBJECT: look-ups so far, up to 255 */
    uint32_t height;         /* objects and lists on the longest way down, this one included */
    struct hocon_node *memo; /* resolve.c: what it was resolved to */
    union {
        struct {
            const char *s; /* STRING, INT and REAL: the text. REF: "${...}" in the source */
            size_t len;
            union {
                int64_t i;
                double d;
                struct hocon_path path;
            };
        };
        struct { /* LIST, CONCAT, MERGE */
            struct hocon_node **items;
            size_t n;
        };
        struct { /* OBJECT, in the order the keys were first given */
            struct hocon_field *fields;
            uint32_t *index; /* open-addressed: field number + 1; NULL for few fields */
            size_t n_slots;
            uint32_t n_fields, cap, n_unresolved;
            uint32_t copied_from; /* 0, or how many fields the object had of which this is Typesafe's replaceChild() */
        };
    };
};

struct hocon_node *stk_hocon_node(struct hocon *h, enum hocon_kind kind, size_t at);
struct hocon_node *stk_hocon_string(struct hocon *h, size_t at, const char *s, size_t len);
/* Takes over items (arena memory, not written again). */
struct hocon_node *stk_hocon_sequence(struct hocon *h, enum hocon_kind kind, size_t at, struct hocon_node **items,
                                      size_t n);
struct hocon_field *stk_hocon_field(struct hocon *h, struct hocon_node *object, const struct hocon_key *key);
struct hocon_node *stk_hocon_get(struct hocon *h, struct hocon_node *object, const struct hocon_key *key);
/* Gives a key of an object that nobody else has seen a value, which is merged with the one it had. */
int stk_hocon_set(struct hocon *h, struct hocon_node *object, const struct hocon_key *key, struct hocon_node *value);
/* Brings up to date what an object knows of its fields after they were written to directly; NULL: they nest too deep. */
struct hocon_node *stk_hocon_object_status(struct hocon *h, struct hocon_node *object);
struct hocon_node *stk_hocon_object_copy(struct hocon *h, const struct hocon_node *object);
/*
 * When Typesafe comes to a key as it goes through an object of n_fields keys, a java.util.HashMap: sort by it. It shows where values
 * refer to one another in a circle. copied_from: as in struct hocon_node.
 */
uint64_t stk_hocon_java_turn(const struct hocon_key *key, size_t n_fields, size_t copied_from);
/* A copy in which the value `old` (by identity) is replaced, or removed for NULL. NULL with !*found: it is not there. */
struct hocon_node *stk_hocon_object_replace(struct hocon *h, const struct hocon_node *object,
                                            const struct hocon_node *old, struct hocon_node *value, bool *found);
/* A copy in which one of the object's fields has another value, or is removed for NULL. */
struct hocon_node *stk_hocon_object_with(struct hocon *h, const struct hocon_node *object,
                                         const struct hocon_field *field, struct hocon_node *value);
/* The value of a key that is set to `over` after it was set to `under`. */
struct hocon_node *stk_hocon_merge(struct hocon *h, struct hocon_node *over, struct hocon_node *under);

static inline bool hocon_is_object(const struct hocon_node *v) /* also a merge that can only become an object */
{
    return v->kind == HOCON_OBJECT || (v->kind == HOCON_MERGE && v->items[0]->kind == HOCON_OBJECT);
}
static inline bool hocon_is_open(const struct hocon_node *v) /* may turn out to be of any kind */
{
    return v->kind == HOCON_REF || v->kind == HOCON_CONCAT || v->kind == HOCON_MERGE;
}

/* ---- concat.c: zero-initialise but for h and at, stk_hocon_join_done() in the end */

struct hocon_joiner {
    struct hocon *h;
    size_t at; /* where the piece to be joined stands in the text */
    struct hocon_node **items;
    size_t n, cap;
    bool in_run;        /* the last item is the text in run */
    struct stk_buf run; /* several scalars become one string; collected here to be linear */
    bool own_list;      /* the last item is a list made here, with room for list_cap elements */
    size_t list_cap;
};

void stk_hocon_join_done(struct hocon_joiner *j);
/* Adds a piece on the right. on_stack: the node is the caller's and has to be copied if it is kept. */
int stk_hocon_join(struct hocon_joiner *j, struct hocon_node *piece, bool on_stack);
/* 0 with the value in *ret, NULL when there was no piece at all. */
int stk_hocon_join_end(struct hocon_joiner *j, struct hocon_node **ret);

/* ---- source.c: where references are looked up */

enum hocon_outcome {
    HOCON_DONE,   /* *ret is the value, NULL for undefined */
    HOCON_CYCLE,  /* to be caught by the next reference outwards */
    HOCON_FAILED, /* the error is set */
};

/* The containers from a value (`here` is what holds it) up to the root. */
struct hocon_up {
    struct hocon_node *here;
    const struct hocon_up *next;
};

struct hocon_source {
    struct hocon_node *root;
    const struct hocon_up *path; /* NULL: not known, or the root itself is being resolved */
};

/* Typesafe gives up on some texts with an internal error. It is an error here as well. */
enum hocon_outcome stk_hocon_entangled(struct hocon *h, const struct hocon_node *v);
/* What `s` is for the values inside a container. */
int stk_hocon_enter(struct hocon *h, struct hocon_source *s, struct hocon_node *container);
/*
 * The source that results when the value `old` inside the innermost container becomes `value` (NULL: is removed), and
 * with it every container up to the root. Without a known way to the root only the root itself can be replaced. The
 * result has no path: what is resolved against it is not part of it.
 */
enum hocon_outcome stk_hocon_replace(struct hocon *h, struct hocon_source s, struct hocon_node *old,
                                     struct hocon_node *value, struct hocon_source *ret);

/* ---- parser.c, resolve.c */

struct hocon_node *stk_hocon_read(struct hocon *h);
struct hocon_node *stk_hocon_resolve(struct hocon *h, struct hocon_node *root);

#endif
