/* Values: making them, looking into objects, and the merge of two values given for the same key. */
#include "hocon_internal.h"

#include <string.h>

#define INDEX_FROM 8  /* fields from which on an object may have an index */
#define INDEX_AFTER 4 /* look-ups before that: many objects are copies made to be looked at once */

struct hocon_node *stk_hocon_node(struct hocon *h, enum hocon_kind kind, size_t at)
{
    struct hocon_node *v = stk_hocon_alloc(h, sizeof *v);

    if (!v)
        return NULL;
    v->kind = (uint8_t)kind;
    v->at = (uint32_t)at;
    v->resolved = kind != HOCON_REF && kind != HOCON_CONCAT && kind != HOCON_MERGE;
    v->stops = v->resolved && kind != HOCON_OBJECT;
    v->height = kind == HOCON_OBJECT || kind == HOCON_LIST;
    return v;
}

struct hocon_node *stk_hocon_string(struct hocon *h, size_t at, const char *s, size_t len)
{
    struct hocon_node *v = stk_hocon_node(h, HOCON_STRING, at);

    if (!v || !(v->s = stk_hocon_dup(h, s, len)))
        return NULL;
    v->len = len;
    v->flag = true;
    return v;
}

/* Heights are watched while values grow, so that no later walk can recurse too deep. */
static int raise(struct hocon *h, struct hocon_node *v, uint32_t height)
{
    if (height > (uint32_t)h->limits.max_depth)
        return stk_hocon_limit(h, v->at, "objects and arrays are nested more than %d deep", h->limits.max_depth);
    if (height > v->height)
        v->height = height;
    return 0;
}

struct hocon_node *stk_hocon_sequence(struct hocon *h, enum hocon_kind kind, size_t at, struct hocon_node **items,
                                      size_t n)
{
    struct hocon_node *v = stk_hocon_node(h, kind, at);

    if (!v)
        return NULL;
    v->items = items;
    v->n = n;
    for (size_t i = 0; i < n; i++) {
        if (raise(h, v, items[i]->height + (kind == HOCON_LIST)) < 0)
            return NULL;
        if (kind == HOCON_LIST && !items[i]->resolved)
            v->resolved = v->stops = false;
    }
    if (kind == HOCON_MERGE)
        v->stops = items[n - 1]->stops;
    return v;
}

/* ---- objects */

static bool key_equal(const struct hocon_key *a, const struct hocon_key *b)
{
    return a->hash == b->hash && a->len == b->len && memcmp(a->s, b->s, a->len) == 0;
}

/* Puts field i (not yet in it) into the index. */
static int index_add(struct hocon *h, struct hocon_node *o, uint32_t i)
{
    size_t slot = o->fields[i].key.hash & (o->n_slots - 1);

    for (size_t probes = 1; o->index[slot]; probes++, slot = (slot + 1) & (o->n_slots - 1))
        /* keys chosen to collide cost their sender's limit, not our time */
        if (probes > 8 && stk_hocon_work(h, 1) < 0)
            return -1;
    o->index[slot] = i + 1;
    return 0;
}

static int index_build(struct hocon *h, struct hocon_node *o)
{
    o->n_slots = 4 * INDEX_FROM;
    while (o->n_slots < (size_t)o->n_fields * 4)
        o->n_slots *= 2;
    if (!(o->index = stk_hocon_alloc(h, o->n_slots * sizeof *o->index)))
        return -1;
    for (uint32_t i = 0; i < o->n_fields; i++)
        if (index_add(h, o, i) < 0)
            return -1;
    return 0;
}

/* 1: the field is *ret. 0: there is none. -1: out of memory or work. */
static int find(struct hocon *h, struct hocon_node *o, const struct hocon_key *key, struct hocon_field **ret)
{
    size_t slot;

    if (o->n_fields < INDEX_FROM || (!o->index && o->n_looks < INDEX_AFTER)) {
        if (o->n_looks < UINT8_MAX)
            o->n_looks++;
        if (stk_hocon_work(h, o->n_fields / 8) < 0)
            return -1;
        for (uint32_t i = 0; i < o->n_fields; i++) {
            if (key_equal(&o->fields[i].key, key)) {
                *ret = &o->fields[i];
                return 1;
            }
        }
        return 0;
    }
    if (!o->index && index_build(h, o) < 0)
        return -1;
    slot = key->hash & (o->n_slots - 1);
    for (size_t probes = 1; o->index[slot]; probes++, slot = (slot + 1) & (o->n_slots - 1)) {
        if (key_equal(&o->fields[o->index[slot] - 1].key, key)) {
            *ret = &o->fields[o->index[slot] - 1];
            return 1;
        }
        if (probes > 8 && stk_hocon_work(h, 1) < 0)
            return -1;
    }
    return 0;
}

struct hocon_field *stk_hocon_field(struct hocon *h, struct hocon_node *object, const struct hocon_key *key)
{
    struct hocon_field *f;

    /* a failure is seen by the next step that needs memory or work, so "not there" will do here */
    return find(h, object, key, &f) == 1 ? f : NULL;
}

struct hocon_node *stk_hocon_get(struct hocon *h, struct hocon_node *object, const struct hocon_key *key)
{
    struct hocon_field *f = stk_hocon_field(h, object, key);

    return f ? f->value : NULL;
}

static void update_status(struct hocon_node *o)
{
    o->resolved = o->n_unresolved == 0;
}

struct hocon_node *stk_hocon_object_status(struct hocon *h, struct hocon_node *o)
{
    o->n_unresolved = 0;
    for (uint32_t i = 0; i < o->n_fields; i++) {
        o->n_unresolved += !o->fields[i].value->resolved;
        if (raise(h, o, o->fields[i].value->height + 1) < 0)
            return NULL;
    }
    update_status(o);
    return o;
}

static int append(struct hocon *h, struct hocon_node *o, const struct hocon_key *key, struct hocon_node *value)
{
    size_t cap = o->cap;

    if (o->n_fields == cap) {
        if (!(o->fields = stk_hocon_grow(h, o->fields, o->n_fields, &cap, sizeof *o->fields)))
            return -1;
        o->cap = (uint32_t)cap;
    }
    o->fields[o->n_fields++] = (struct hocon_field){ *key, value };
    o->n_unresolved += !value->resolved;
    if (!o->index)
        return 0;
    if ((size_t)o->n_fields * 2 > o->n_slots)
        return index_build(h, o);
    return index_add(h, o, o->n_fields - 1);
}

int stk_hocon_set(struct hocon *h, struct hocon_node *object, const struct hocon_key *key, struct hocon_node *value)
{
    struct hocon_field *f;
    int found = find(h, object, key, &f);

    if (found < 0)
        return -1;
    if (found) {
        bool was_open = !f->value->resolved; /* asked now: the merge may change that value in place */

        if (!(value = stk_hocon_merge(h, value, f->value)))
            return -1;
        object->n_unresolved += (uint32_t)!value->resolved - (uint32_t)was_open;
        f->value = value;
    } else if (append(h, object, key, value) < 0) {
        return -1;
    }
    update_status(object);
    return raise(h, object, value->height + 1);
}

struct hocon_node *stk_hocon_object_copy(struct hocon *h, const struct hocon_node *object)
{
    struct hocon_node *o = stk_hocon_node(h, HOCON_OBJECT, object->at);

    if (!o || stk_hocon_work(h, object->n_fields) < 0)
        return NULL;
    o->stops = object->stops;
    o->resolved = object->resolved;
    o->height = object->height;
    o->n_fields = o->cap = object->n_fields;
    o->n_unresolved = object->n_unresolved;
    if (!o->n_fields)
        return o;
    if (!(o->fields = stk_hocon_alloc(h, o->n_fields * sizeof *o->fields)))
        return NULL;
    memcpy(o->fields, object->fields, o->n_fields * sizeof *o->fields);
    return o;
}

static uint32_t java_hash(const struct hocon_key *key)
{
    const char *p = key->s, *end = key->s + key->len;
    uint32_t hash = 0, cp;

    for (size_t n; p < end && (n = stk_hocon_utf8(p, end, &cp)) != 0; p += n) {
        if (cp >= 0x10000) {
            hash = hash * 31 + (0xD7C0 + (cp >> 10)); /* the high surrogate */
            cp = 0xDC00 + (cp & 0x3FF);
        }
        hash = hash * 31 + cp;
    }
    return hash ^ hash >> 16;
}

/* A HashMap that was filled key by key has 16 slots or more; one that was made as a copy (up to Java 18) as few as do. */
uint64_t stk_hocon_java_turn(const struct hocon_key *key, size_t n_fields, size_t copied_from)
{
    uint32_t hash = java_hash(key), n_filled = 16, n_copied = 1;

    while (n_fields > n_filled / 4 * 3)
        n_filled *= 2;
    while (copied_from && n_copied < copied_from * 4 / 3 + 1)
        n_copied *= 2;
    return (uint64_t)(hash & (n_copied - 1)) << 32 | (hash & (n_filled - 1));
}

/* The field that has this value, by identity; of several the one that a copy of Typesafe's HashMap comes to first. */
static const struct hocon_field *holder(const struct hocon_node *object, const struct hocon_node *value)
{
    uint64_t turn, first = UINT64_MAX;
    const struct hocon_field *found = NULL;

    for (uint32_t i = 0; i < object->n_fields; i++) {
        if (object->fields[i].value != value)
            continue;
        turn = stk_hocon_java_turn(&object->fields[i].key, object->n_fields, object->n_fields);
        if (turn < first) {
            first = turn;
            found = &object->fields[i];
        }
    }
    return found;
}

struct hocon_node *stk_hocon_object_replace(struct hocon *h, const struct hocon_node *object,
                                            const struct hocon_node *old, struct hocon_node *value, bool *found)
{
    const struct hocon_field *field = holder(object, old);
    struct hocon_node *o;

    *found = field != NULL;
    if (!field || !(o = stk_hocon_object_with(h, object, field, value)))
        return NULL;
    o->copied_from = object->n_fields;
    return o;
}

struct hocon_node *stk_hocon_object_with(struct hocon *h, const struct hocon_node *object,
                                         const struct hocon_field *field, struct hocon_node *value)
{
    struct hocon_node *o = stk_hocon_object_copy(h, object);
    uint32_t i = (uint32_t)(field - object->fields);

    if (!o)
        return NULL;
    o->n_unresolved -= !field->value->resolved;
    if (value) {
        o->fields[i].value = value;
        o->n_unresolved += !value->resolved;
        if (raise(h, o, value->height + 1) < 0)
            return NULL;
    } else {
        memmove(&o->fields[i], &o->fields[i + 1], (--o->n_fields - i) * sizeof *o->fields);
    }
    update_status(o);
    return o;
}

/* ---- merging */

/* Whether both objects have the same keys with the same values, by identity. */
static bool same_fields(struct hocon *h, const struct hocon_node *a, struct hocon_node *b)
{
    if (a->n_fields != b->n_fields)
        return false;
    for (uint32_t i = 0; i < a->n_fields; i++)
        if (stk_hocon_get(h, b, &a->fields[i].key) != a->fields[i].value)
            return false;
    return true;
}

static struct hocon_node *merge_objects(struct hocon *h, struct hocon_node *over, struct hocon_node *under)
{
    struct hocon_node *o = h->fresh ? under : stk_hocon_object_copy(h, under);

    if (!o || stk_hocon_work(h, over->n_fields) < 0)
        return NULL;
    for (uint32_t i = 0; i < over->n_fields; i++)
        if (stk_hocon_set(h, o, &over->fields[i].key, over->fields[i].value) < 0)
            return NULL;
    /* what is known of an unresolved value is known by its identity, so one that nothing came to stays what it is */
    return !h->fresh && !over->resolved && over->stops == o->stops && same_fields(h, over, o) ? over : o;
}

/* The values a node stands for in a stack of values that wait for their merge. */
static struct hocon_node *const *stack_of(struct hocon_node *const *v, size_t *ret_n)
{
    *ret_n = (*v)->kind == HOCON_MERGE ? (*v)->n : 1;
    return (*v)->kind == HOCON_MERGE ? (*v)->items : v;
}

static struct hocon_node *delay(struct hocon *h, struct hocon_node *over, struct hocon_node *under)
{
    size_t n_over, n_under;
    struct hocon_node *const *a = stack_of(&over, &n_over), *const *b = stack_of(&under, &n_under);
    struct hocon_node **items = stk_hocon_alloc(h, (n_over + n_under) * sizeof *items);

    if (!items || stk_hocon_work(h, n_over + n_under) < 0)
        return NULL;
    memcpy(items, a, n_over * sizeof *items);
    memcpy(items + n_over, b, n_under * sizeof *items);
    return stk_hocon_sequence(h, HOCON_MERGE, over->at, items, n_over + n_under);
}

struct hocon_node *stk_hocon_merge(struct hocon *h, struct hocon_node *over, struct hocon_node *under)
{
    struct hocon_node *v = over;

    if (over->stops)
        return over;
    if (hocon_is_open(under) || over->kind != HOCON_OBJECT || (under->kind != HOCON_OBJECT && !over->resolved))
        return delay(h, over, under);
    if (under->kind == HOCON_OBJECT)
        return merge_objects(h, over, under);
    /* an object over 5: neither 5 nor anything that 5 hides can be seen any more */
    if (!h->fresh) {
        if (!(v = stk_hocon_object_copy(h, over)))
            return NULL;
        v->copied_from = over->copied_from;
    }
    v->stops = true;
    return v;
}
