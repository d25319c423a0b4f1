/* The public function: checks the bytes, runs the parts, turns the values into jansson's. */
#include "hocon_internal.h"

#include <math.h>
#include <string.h>

const struct stk_hocon_limits stk_hocon_default_limits = {
    .max_bytes = (size_t)4 * 1024 * 1024,
    .max_depth = 256, /* Python reads the result with a recursion limit of 1000, two frames per level */
    .max_nodes = 200000,
};

struct emitter {
    struct hocon *h;
    size_t nodes_left;
    size_t bytes_left; /* a long string may be substituted in many places */
};

static json_t *emit(struct emitter *e, const struct hocon_node *v);

static int take(struct emitter *e, size_t *left, size_t n)
{
    if (n > *left)
        return stk_fail(e->h->err, STK_LIMIT, "the text has too many values after substitution");
    *left -= n;
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

        if (take(e, &e->bytes_left, key->len) < 0 || !(value = emit(e, v->fields[i].value)))
            return NULL;
        if (json_object_set_new_nocheck(object, key->s, value) < 0) /* UTF-8 was checked as text */
            object = (json_decref(object), NULL);
    }
    return object ? json_incref(object) : NULL;
}

/* NULL without an error set means out of memory. */
static json_t *emit(struct emitter *e, const struct hocon_node *v)
{
    if (take(e, &e->nodes_left, 1) < 0)
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
    case HOCON_STRING: return take(e, &e->bytes_left, v->len) < 0 ? NULL : json_stringn_nocheck(v->s, v->len);
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

static json_t *run(struct hocon *h)
{
    struct emitter e = { .h = h, .nodes_left = h->limits.max_nodes };
    struct hocon_node *root;

    if (__builtin_mul_overflow(h->limits.max_bytes, 8, &e.bytes_left))
        e.bytes_left = SIZE_MAX;
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

/* Memory a parse may take: values for all of the text as it stands, and for what substitution makes of it. */
static size_t memory_for(const struct stk_hocon_limits *limits)
{
    size_t text, values, sum;

    if (__builtin_mul_overflow(limits->max_bytes, 8, &text) ||
        __builtin_mul_overflow(limits->max_nodes, 256, &values) || __builtin_add_overflow(text, values, &sum) ||
        __builtin_add_overflow(sum, 4 * 1024 * 1024, &sum))
        return SIZE_MAX / 4;
    return sum;
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
    h.mem_left = memory_for(&h.limits);
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
