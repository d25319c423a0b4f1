/*
 * Substitution. The rules are Typesafe's, down to the order in which things are looked at, because that order shows in
 * the result when values refer to themselves or to each other:
 *
 * - Values are immutable; resolving gives a new value, and is remembered per value.
 * - ${a.b} is looked up in the root. Only what lies on the way (a) is resolved for that, not all of it: this is
 *   "resolving for a path", `only` below.
 * - A key given several times, with references among its values, is a HOCON_MERGE. While one of its values is resolved,
 *   the root is replaced by one in which the key has only the older values: so `path = ${path} [1]` sees what path was.
 *   To build that root, a source carries the containers between the root and the value that is being resolved.
 * - A reference met again while it is being resolved is a cycle: undefined if an enclosing reference is optional.
 */
#include "hocon_internal.h"

/*
 * A value resolved for a path only. It is remembered even if nothing came of it: a look that finds the value as it was is not
 * the same as a look that finds what it has become meanwhile.
 */
struct partial {
    struct hocon_node *v;
    struct hocon_path only;
    struct hocon_node *value;
    struct partial *next; /* in its bucket, the newest first */
};

/* Remembering is undone when a cycle is caught: what was learned inside it holds only inside. */
struct undo {
    struct hocon_node *v;    /* resolved wholly, or NULL: */
    struct partial **bucket; /* what is first in it */
};

struct resolver {
    struct hocon *h;
    struct undo *log;
    size_t n_log, log_cap;
    struct partial **partials;
    size_t n_buckets; /* a power of two */
    int depth;
};

static const struct hocon_path everything = { NULL, 0 };

static enum hocon_outcome resolve(struct resolver *r, struct hocon_node *v, struct hocon_source s,
                                  struct hocon_path only, struct hocon_node **ret);

/* ---- what is known already */

static struct partial **bucket_of(struct resolver *r, const struct hocon_node *v, struct hocon_path only)
{
    uint64_t x = (uint64_t)(uintptr_t)v;

    for (size_t i = 0; i < only.n; i++)
        x = (x ^ only.keys[i].hash) * 0x9E3779B97F4A7C15U;
    return &r->partials[x >> 32 & (r->n_buckets - 1)];
}

static bool remembered(struct resolver *r, const struct hocon_node *v, struct hocon_path only, struct hocon_node **ret)
{
    if (v->memo) {
        *ret = v->memo;
        return true;
    }
    for (const struct partial *p = only.n ? *bucket_of(r, v, only) : NULL; p; p = p->next) {
        if (p->v == v && stk_hocon_path_equal(p->only, only)) {
            *ret = p->value;
            return true;
        }
        if (stk_hocon_work(r->h, 1) < 0)
            return false; /* the next step fails as well */
    }
    return false;
}

static int remember(struct resolver *r, struct hocon_node *v, struct hocon_path only, struct hocon_node *value)
{
    struct partial **bucket = only.n ? bucket_of(r, v, only) : NULL, *p;

    if (r->n_log == r->log_cap && !(r->log = stk_hocon_grow(r->h, r->log, r->n_log, &r->log_cap, sizeof *r->log)))
        return -1;
    if (bucket) {
        if (!(p = stk_hocon_alloc(r->h, sizeof *p)))
            return -1;
        *p = (struct partial){ v, only, value, *bucket };
        *bucket = p;
    } else {
        v->memo = value;
    }
    r->log[r->n_log++] = (struct undo){ bucket ? NULL : v, bucket };
    return 0;
}

static void forget_since(struct resolver *r, size_t mark)
{
    while (r->n_log > mark) {
        const struct undo *u = &r->log[--r->n_log];

        if (u->bucket)
            *u->bucket = (*u->bucket)->next;
        else
            u->v->memo = NULL;
    }
}

/* ---- references */

/*
 * The value of a key in an object of which only some paths are resolved. For a merge of objects the newest layer that
 * has the key decides, unless an older one may have a say in it that is not known yet.
 */
static enum hocon_outcome peek(struct resolver *r, struct hocon_node *object, const struct hocon_key *key,
                               struct hocon_node **ret)
{
    if (object->kind == HOCON_OBJECT) {
        *ret = stk_hocon_get(r->h, object, key);
        return HOCON_DONE;
    }
    for (size_t i = 0; i < object->n; i++) {
        struct hocon_node *layer = object->items[i];

        *ret = NULL;
        if (layer->kind != HOCON_OBJECT)
            return hocon_is_open(layer) ? stk_hocon_entangled(r->h, layer) : HOCON_DONE;
        *ret = stk_hocon_get(r->h, layer, key);
        if (*ret && (*ret)->stops)
            return HOCON_DONE;
    }
    return stk_hocon_entangled(r->h, object);
}

/* Finds what `path` names. *ret is NULL when there is nothing; ret_s is then not set. */
static enum hocon_outcome look_up(struct resolver *r, struct hocon_node *root, struct hocon_path path,
                                  struct hocon_node **ret, struct hocon_source *ret_s)
{
    struct hocon_source s = { root, NULL };
    struct hocon_node *o, *v = NULL;
    enum hocon_outcome rc = resolve(r, root, s, path, &o);

    if (rc != HOCON_DONE)
        return rc;
    s.root = o;
    for (size_t i = 0; i < path.n; i++) {
        if (stk_hocon_work(r->h, 1) < 0 || stk_hocon_enter(r->h, &s, o) < 0)
            return HOCON_FAILED;
        if ((rc = peek(r, o, &path.keys[i], &v)) != HOCON_DONE)
            return rc;
        if (i + 1 < path.n && !(v && hocon_is_object(v))) {
            v = NULL;
            break;
        }
        o = v;
    }
    *ret = v;
    *ret_s = s;
    return HOCON_DONE;
}

static enum hocon_outcome resolve_ref(struct resolver *r, struct hocon_node *ref, struct hocon_source s,
                                      struct hocon_path only, struct hocon_node **ret)
{
    char shown[HOCON_SHOW_MAX];
    struct hocon_source found_in = { NULL, NULL };
    struct hocon_node *v = NULL;
    size_t mark = r->n_log;
    enum hocon_outcome rc;

    ref->active = true;
    rc = look_up(r, s.root, ref->path, &v, &found_in);
    if (rc == HOCON_DONE && v) {
        mark = r->n_log;
        rc = resolve(r, v, found_in, only, &v);
    }
    ref->active = false;
    if (rc == HOCON_FAILED)
        return HOCON_FAILED;
    if (rc == HOCON_CYCLE) {
        forget_since(r, mark);
        v = NULL;
    }
    if (!v && !ref->flag) {
        stk_hocon_show(shown, ref->s, ref->len);
        if (rc == HOCON_CYCLE)
            stk_hocon_fail(r->h, ref->at, "expecting a value for %s but it depends on itself", shown);
        else
            stk_hocon_fail(r->h, ref->at, "expecting a value for %s but the text gives none", shown);
        return HOCON_FAILED;
    }
    *ret = v;
    return HOCON_DONE;
}

/* ---- what contains references */

static enum hocon_outcome resolve_concat(struct resolver *r, struct hocon_node *v, struct hocon_source s,
                                         struct hocon_node **ret)
{
    __attribute__((cleanup(stk_hocon_join_done))) struct hocon_joiner j = { .h = r->h };

    for (size_t i = 0; i < v->n; i++) {
        struct hocon_node *piece;
        enum hocon_outcome rc = resolve(r, v->items[i], s, everything, &piece);

        if (rc != HOCON_DONE)
            return rc;
        j.at = v->items[i]->at;
        if (piece && stk_hocon_join(&j, piece, false) < 0)
            return HOCON_FAILED;
    }
    if (stk_hocon_join_end(&j, ret) < 0)
        return HOCON_FAILED;
    return *ret && (*ret)->kind == HOCON_CONCAT ? stk_hocon_entangled(r->h, v) : HOCON_DONE;
}

/* The value of the merge without its first `skip` items; NULL when none is left. */
static enum hocon_outcome rest_of(struct resolver *r, struct hocon_node *v, size_t skip, struct hocon_node **ret)
{
    struct hocon_node *rest = skip < v->n ? v->items[skip] : NULL;

    if (rest && skip + 1 < v->n && hocon_is_open(rest)) {
        /* an open value merges with nothing before it is known, so the rest of the stack is the stack of the rest */
        rest = stk_hocon_sequence(r->h, HOCON_MERGE, rest->at, v->items + skip, v->n - skip);
        if (!rest)
            return HOCON_FAILED;
    } else {
        for (size_t i = skip + 1; i < v->n; i++)
            if (!(rest = stk_hocon_merge(r->h, rest, v->items[i])))
                return HOCON_FAILED;
    }
    *ret = rest;
    return HOCON_DONE;
}

/* Item i of a merge: an open one sees a root in which the key has only the items below it. */
static enum hocon_outcome resolve_layer(struct resolver *r, struct hocon_node *v, size_t i, struct hocon_source s,
                                        struct hocon_path only, struct hocon_node **ret)
{
    struct hocon_node *rest;
    enum hocon_outcome rc;

    /* asked before the root is made anew: a key appended to n times would need n * n of them */
    if (remembered(r, v->items[i], only, ret))
        return HOCON_DONE;
    if (hocon_is_open(v->items[i])) {
        if ((rc = rest_of(r, v, i + 1, &rest)) != HOCON_DONE)
            return rc;
        if ((rc = stk_hocon_replace(r->h, s, v, rest, &s)) != HOCON_DONE)
            return rc;
    } else if (stk_hocon_enter(r->h, &s, v) < 0) {
        return HOCON_FAILED;
    }
    return resolve(r, v->items[i], s, only, ret);
}

static enum hocon_outcome resolve_merge(struct resolver *r, struct hocon_node *v, struct hocon_source s,
                                        struct hocon_path only, struct hocon_node **ret)
{
    struct hocon_node *merged = NULL, *layer;

    for (size_t i = 0; i < v->n; i++) {
        enum hocon_outcome rc = resolve_layer(r, v, i, s, only, &layer);

        if (rc != HOCON_DONE)
            return rc;
        if (layer && !merged)
            merged = layer;
        else if (layer && !(merged = stk_hocon_merge(r->h, merged, layer)))
            return HOCON_FAILED;
    }
    *ret = merged;
    return HOCON_DONE;
}

static enum hocon_outcome resolve_list(struct resolver *r, struct hocon_node *v, struct hocon_source s,
                                       struct hocon_node **ret)
{
    struct hocon_node **items = stk_hocon_alloc(r->h, v->n * sizeof *items);
    size_t n = 0;

    if (!items || stk_hocon_work(r->h, v->n) < 0 || stk_hocon_enter(r->h, &s, v) < 0)
        return HOCON_FAILED;
    for (size_t i = 0; i < v->n; i++) {
        enum hocon_outcome rc = resolve(r, v->items[i], s, everything, &items[n]);

        if (rc != HOCON_DONE)
            return rc;
        n += items[n] != NULL;
    }
    return (*ret = stk_hocon_sequence(r->h, HOCON_LIST, v->at, items, n)) ? HOCON_DONE : HOCON_FAILED;
}

/* Resolves only the field that leads on along the path; the value at its end is left alone. */
static enum hocon_outcome resolve_object_for(struct resolver *r, struct hocon_node *v, struct hocon_source s,
                                             struct hocon_path only, struct hocon_node **ret)
{
    const struct hocon_field *child = only.n > 1 ? stk_hocon_field(r->h, v, &only.keys[0]) : NULL;
    struct hocon_node *after;
    enum hocon_outcome rc;

    *ret = v;
    if (!child)
        return HOCON_DONE;
    if (stk_hocon_enter(r->h, &s, v) < 0)
        return HOCON_FAILED;
    rc = resolve(r, child->value, s, (struct hocon_path){ only.keys + 1, only.n - 1 }, &after);
    if (rc != HOCON_DONE || after == child->value)
        return rc;
    return (*ret = stk_hocon_object_with(r->h, v, child, after)) ? HOCON_DONE : HOCON_FAILED;
}

struct turn {
    uint64_t when;
    uint32_t field;
};

static int by_turn(const void *a, const void *b)
{
    const struct turn *x = a, *y = b;

    if (x->when != y->when)
        return x->when < y->when ? -1 : 1;
    return x->field < y->field ? -1 : x->field > y->field;
}

/* The unresolved fields in Typesafe's order: in `a = ${?b}x, b = ${?a}y` who is asked first sees the other one unset. */
static struct turn *turns_of(struct resolver *r, const struct hocon_node *o, size_t *ret_n)
{
    struct turn *turns = stk_hocon_alloc(r->h, o->n_unresolved * sizeof *turns);
    size_t n = 0;

    for (uint32_t i = 0; turns && i < o->n_fields; i++)
        if (!o->fields[i].value->resolved)
            turns[n++] = (struct turn){ stk_hocon_java_turn(&o->fields[i].key, o->n_fields, o->copied_from), i };
    if (n > 1)
        qsort(turns, n, sizeof *turns, by_turn);
    *ret_n = n;
    return turns;
}

static enum hocon_outcome resolve_object(struct resolver *r, struct hocon_node *v, struct hocon_source s,
                                         struct hocon_node **ret)
{
    struct hocon_node *o = stk_hocon_object_copy(r->h, v);
    size_t n_turns;
    struct turn *turns = turns_of(r, v, &n_turns);
    uint32_t n = 0;

    if (!o || !turns || stk_hocon_enter(r->h, &s, v) < 0)
        return HOCON_FAILED;
    for (size_t i = 0; i < n_turns; i++) {
        struct hocon_field *f = &o->fields[turns[i].field];
        enum hocon_outcome rc = resolve(r, f->value, s, everything, &f->value);

        if (rc != HOCON_DONE)
            return rc;
    }
    for (uint32_t i = 0; i < o->n_fields; i++)
        if (o->fields[i].value)
            o->fields[n++] = o->fields[i];
    o->n_fields = n;
    return (*ret = stk_hocon_object_status(r->h, o)) ? HOCON_DONE : HOCON_FAILED;
}

static enum hocon_outcome resolve_kind(struct resolver *r, struct hocon_node *v, struct hocon_source s,
                                       struct hocon_path only, struct hocon_node **ret)
{
    switch (v->kind) {
    case HOCON_REF: return resolve_ref(r, v, s, only, ret);
    case HOCON_CONCAT: return resolve_concat(r, v, s, ret);
    case HOCON_MERGE: return resolve_merge(r, v, s, only, ret);
    case HOCON_OBJECT: return only.n ? resolve_object_for(r, v, s, only, ret) : resolve_object(r, v, s, ret);
    default: /* HOCON_LIST, as all else is resolved; no path leads into a list */
        *ret = v;
        return only.n ? HOCON_DONE : resolve_list(r, v, s, ret);
    }
}

/* only: resolve just what has to be known to find this path below v; empty for everything. */
static enum hocon_outcome resolve(struct resolver *r, struct hocon_node *v, struct hocon_source s,
                                  struct hocon_path only, struct hocon_node **ret)
{
    struct hocon_node *after = NULL;
    enum hocon_outcome rc;

    if (v->resolved) {
        *ret = v;
        return HOCON_DONE;
    }
    if (stk_hocon_work(r->h, 1) < 0)
        return HOCON_FAILED;
    if (remembered(r, v, only, ret))
        return HOCON_DONE;
    if (v->active)
        return HOCON_CYCLE;
    if (r->depth >= HOCON_RESOLVE_DEPTH) {
        stk_hocon_limit(r->h, v->at, "substitutions lead to one another more than %d deep", HOCON_RESOLVE_DEPTH);
        return HOCON_FAILED;
    }
    r->depth++;
    rc = resolve_kind(r, v, s, only, &after);
    r->depth--;
    if (rc != HOCON_DONE)
        return rc;
    if (after && remember(r, v, after->resolved ? everything : only, after) < 0)
        return HOCON_FAILED;
    if (after && !after->resolved && !only.n)
        return stk_hocon_entangled(r->h, v);
    *ret = after;
    return HOCON_DONE;
}

struct hocon_node *stk_hocon_resolve(struct hocon *h, struct hocon_node *root)
{
    struct resolver r = { .h = h, .n_buckets = 64 };
    struct hocon_node *v = NULL;

    while (r.n_buckets < h->len / 16)
        r.n_buckets *= 2;
    if (!root->resolved && !(r.partials = stk_hocon_alloc(h, r.n_buckets * sizeof *r.partials)))
        return NULL;
    switch (resolve(&r, root, (struct hocon_source){ root, NULL }, everything, &v)) {
    case HOCON_DONE: return v;
    case HOCON_CYCLE: /* every cycle passes through a reference, which catches it */
        stk_hocon_entangled(h, root);
        return NULL;
    default: return NULL;
    }
}
