/* The public function: checks the bytes, runs the parts, turns the values into jansson's. */
#include "hocon_internal.h"

#include <math.h>
#include <string.h>

const struct stk_hocon_limits stk_hocon_default_limits = {
    .max_bytes = (size_t)4 * 1024 * 1024,
    .max_depth = 256, /* Python reads the result with a recursion limit of 1000, two frames per level */
    .max_nodes = 200000,
};

/* What a short text may become by substitution; a long one may double. */
#define GROWTH_BYTES ((size_t)1024 * 1024)
#define GROWTH_VALUES ((size_t)16 * 1024)

struct emitter {
    struct hocon *h;
    size_t nodes_left;
    size_t bytes_left; /* of keys and strings: a long string may be substituted in many places */
};

static json_t *emit(struct emitter *e, const struct hocon_node *v);

static int take_node(struct emitter *e)
{
    if (e->nodes_left == 0)
        return stk_fail(e->h->err, STK_LIMIT, "the text has too many values after substitution");
    e->nodes_left--;
    return 0;
}

static int take_bytes(struct emitter *e, size_t n)
{
    if (n > e->bytes_left)
        return stk_fail(e->h->err, STK_LIMIT, "the keys and strings of the text are too long after substitution");
    e->bytes_left -= n;
    return 0;
}

static json_t *emit_list(struct emitter *e, const struct hocon_node *v)
{
    json_auto_t *list = json_array();

    for (size_t i = 0; list && i < v->n; i++) {
        json_t *item = emit(e, v->items[i]);

        if (!item)
            return NULL;
        if (json_array_append_new(list, item) < 0)
            list = (json_decref(list), NULL);
    }
    return list ? json_incref(list) : NULL;
}

static json_t *emit_object(struct emitter *e, const struct hocon_node *v)
{
    json_auto_t *object = json_object();

    for (uint32_t i = 0; object && i < v->n_fields; i++) {
        const struct hocon_key *key = &v->fields[i].key;
        json_t *value;

        if (take_bytes(e, key->len) < 0 || !(value = emit(e, v->fields[i].value)))
            return NULL;
        if (json_object_set_new_nocheck(object, key->s, value) < 0) /* UTF-8 was checked as text */
            object = (json_decref(object), NULL);
    }
    return object ? json_incref(object) : NULL;
}

/* NULL without an error set means out of memory. */
static json_t *emit(struct emitter *e, const struct hocon_node *v)
{
    if (take_node(e) < 0)
        return NULL;
    switch (v->kind) {
    case HOCON_OBJECT: return emit_object(e, v);
    case HOCON_LIST: return emit_list(e, v);
    case HOCON_BOOL: return json_boolean(v->flag);
    case HOCON_INT: return json_integer(v->i);
    case HOCON_REAL:
        if (!isfinite(v->d)) {
            stk_hocon_fail(e->h, v->at, "expecting a number that a double can hold");
            return NULL;
        }
        return json_real(v->d);
    case HOCON_STRING: return take_bytes(e, v->len) < 0 ? NULL : json_stringn_nocheck(v->s, v->len);
    default: return json_null();
    }
}

static int check_bytes(struct hocon *h)
{
    const char *p = h->text, *end = h->text + h->len;
    uint32_t cp;

    while (p < end) {
        size_t n = stk_hocon_utf8(p, end, &cp);

        if (n == 0)
            return stk_hocon_fail(h, (size_t)(p - h->text), "expecting UTF-8 but got byte 0x%02x", (unsigned char)*p);
        if (cp == 0)
            return stk_hocon_fail(h, (size_t)(p - h->text), "expecting text but got a NUL byte");
        p += n;
    }
    return 0;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/*
 * What a parse may take and make depends on the text that is there, never on what the caller would have accepted, so that a few
 * hundred bytes stay cheap. len is below 4 GiB, so no sum overflows.
 */
static size_t values_for(const struct hocon *h)
{
    return least(h->limits.max_nodes, h->len + GROWTH_VALUES);
}

static size_t output_for(const struct hocon *h)
{
    size_t most = h->limits.max_bytes > SIZE_MAX / 2 ? SIZE_MAX : 2 * h->limits.max_bytes;

    return least(most, 2 * h->len > GROWTH_BYTES ? 2 * h->len : GROWTH_BYTES);
}

/* Copies of all of the text as it stands, the values in it, and what substitution makes of them. */
static size_t memory_for(const struct hocon *h)
{
    return 8 * h->len + 512 * values_for(h) + 4 * GROWTH_BYTES;
}

static json_t *run(struct hocon *h)
{
    struct emitter e = { .h = h, .nodes_left = values_for(h), .bytes_left = output_for(h) };
    struct hocon_node *root;

    if (check_bytes(h) < 0)
        return NULL;
    h->fresh = true;
    if (!(root = stk_hocon_read(h)))
        return NULL;
    h->fresh = false;
    if (!(root = stk_hocon_resolve(h, root)))
        return NULL;
    return emit(&e, root);
}

json_t *stk_hocon_parse(const char *text, size_t len, const struct stk_hocon_limits *limits, struct stk_err *err)
{
    struct stk_err ignored, failed = { 0 };
    struct hocon h = { .text = text, .len = len, .err = &failed };
    json_t *result;

    h.limits = limits ? *limits : stk_hocon_default_limits;
    if (!err)
        err = &ignored;
    if (len > h.limits.max_bytes || len > UINT32_MAX - 1) {
        stk_fail(err, STK_LIMIT, "the text has %zu bytes, more than %zu", len, h.limits.max_bytes);
        return NULL;
    }
    if (h.limits.max_depth > HOCON_HARD_DEPTH)
        h.limits.max_depth = HOCON_HARD_DEPTH;
    h.mem_left = memory_for(&h);
    h.steps_left = h.limits.max_nodes > SIZE_MAX / 64 ? SIZE_MAX : h.limits.max_nodes * 32 + 100000;
    result = run(&h);
    stk_hocon_done(&h);
    if (!result && failed.code == STK_OK)
        stk_fail(&failed, STK_INTERNAL, "out of memory");
    if (failed.code == STK_OK)
        return result;
    json_decref(result); /* a look-up that failed counts as "not there" until here */
    *err = failed;
    return NULL;
}
