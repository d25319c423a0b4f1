/*
 * Value concatenation: scalars become one string, lists are joined, objects are merged. References are kept between the
 * pieces that could be joined already; the resolver joins again when they are known.
 */
#include "hocon_internal.h"

#include <errno.h>
#include <string.h>

void stk_hocon_join_done(struct hocon_joiner *j)
{
    stk_buf_done(&j->run);
}

static bool scalar_text(const struct hocon_node *v, const char **s, size_t *len)
{
    switch (v->kind) {
    case HOCON_NULL: *s = "null"; break;
    case HOCON_BOOL: *s = v->flag ? "true" : "false"; break;
    case HOCON_INT:
    case HOCON_REAL:
    case HOCON_STRING:
        *s = v->s;
        *len = v->len;
        return true;
    default: return false;
    }
    *len = strlen(*s);
    return true;
}

static int out_of_memory(struct hocon *h)
{
    return stk_fail(h->err, STK_INTERNAL, "out of memory");
}

/* References are followed while runs wait for their next piece, thousands at a time, so a run counts like arena memory. */
static int add_to_run(struct hocon_joiner *j, const char *s, size_t len)
{
    if (stk_hocon_charge(j->h, len) < 0)
        return -1;
    return len && stk_buf_add(&j->run, s, len) < 0 ? out_of_memory(j->h) : 0;
}

/* Ends a run of scalars: the last item becomes the string they form. */
static int close_run(struct hocon_joiner *j)
{
    struct hocon_node *v;

    if (!j->in_run)
        return 0;
    j->in_run = false;
    if (!(v = stk_hocon_string(j->h, j->items[j->n - 1]->at, j->run.data, j->run.len)))
        return -1;
    j->items[j->n - 1] = v;
    return 0;
}

static int push(struct hocon_joiner *j, struct hocon_node *piece, bool on_stack)
{
    if (close_run(j) < 0)
        return -1;
    if (j->n == j->cap && !(j->items = stk_hocon_grow(j->h, j->items, j->n, &j->cap, sizeof *j->items)))
        return -1;
    if (on_stack) {
        struct hocon_node *copy = stk_hocon_alloc(j->h, sizeof *copy);

        if (!copy)
            return -1;
        *copy = *piece;
        piece = copy;
    }
    j->items[j->n++] = piece;
    j->own_list = false;
    return 0;
}

static const char *kind_name(const struct hocon_node *v)
{
    switch (v->kind) {
    case HOCON_OBJECT: return "an object";
    case HOCON_LIST: return "an array";
    case HOCON_NULL: return "null";
    case HOCON_BOOL: return "a boolean";
    case HOCON_INT:
    case HOCON_REAL: return "a number";
    default: return "a string";
    }
}

static int join_scalars(struct hocon_joiner *j, const struct hocon_node *left, const struct hocon_node *right)
{
    const char *a, *b;
    size_t n_a, n_b;

    if (!scalar_text(left, &a, &n_a) || !scalar_text(right, &b, &n_b))
        return stk_hocon_fail(j->h, j->at, "expecting pieces of a value that go together but got %s and %s",
                              j->in_run ? "a string" : kind_name(left), kind_name(right));
    if (!j->in_run) {
        j->run.len = 0;
        if (add_to_run(j, a, n_a) < 0)
            return -1;
        j->in_run = true;
    }
    return add_to_run(j, b, n_b);
}

static int join_lists(struct hocon_joiner *j, const struct hocon_node *left, const struct hocon_node *right)
{
    struct hocon *h = j->h;
    struct hocon_node *joined;
    size_t n = left->n + right->n;
    struct hocon_node **items = left->items;

    if (stk_hocon_work(h, right->n) < 0)
        return -1;
    if (!j->own_list || n > j->list_cap) {
        if (stk_hocon_work(h, left->n) < 0 || !(items = stk_hocon_alloc(h, n * 2 * sizeof *items)))
            return -1;
        if (left->n)
            memcpy(items, left->items, left->n * sizeof *items);
        j->list_cap = n * 2;
    }
    if (right->n)
        memcpy(items + left->n, right->items, right->n * sizeof *items);
    if (!(joined = stk_hocon_node(h, HOCON_LIST, left->at)))
        return -1;
    joined->items = items;
    joined->n = n;
    joined->resolved = joined->stops = left->resolved && right->resolved;
    joined->height = left->height > right->height ? left->height : right->height;
    j->items[j->n - 1] = joined;
    j->own_list = true;
    return 0;
}

/* Whole decimal int of Java, sign allowed; negative ones do not count as positions of a list. */
static bool list_position(const struct hocon_key *key, long *ret)
{
    const char *digits = key->s + (key->s[0] == '+' || key->s[0] == '-');
    char *end;

    if (digits[0] < '0' || digits[0] > '9')
        return false;
    errno = 0;
    *ret = strtol(key->s, &end, 10);
    return !errno && end == key->s + key->len && *ret >= 0 && *ret <= INT32_MAX;
}

struct position {
    long at;
    uint32_t field;
};

static int by_position(const void *a, const void *b)
{
    const struct position *x = a, *y = b;

    if (x->at != y->at)
        return x->at < y->at ? -1 : 1;
    return x->field < y->field ? -1 : x->field > y->field;
}

/* {0: a, 1: b} beside a list counts as [a, b]; other keys are lost. An object without such keys is returned as it is. */
static struct hocon_node *as_list(struct hocon *h, struct hocon_node *object)
{
    struct position *found;
    struct hocon_node **items;
    size_t n = 0, kept = 0;

    if (object->kind != HOCON_OBJECT || object->n_fields == 0)
        return object;
    if (stk_hocon_work(h, object->n_fields) < 0 || !(found = stk_hocon_alloc(h, object->n_fields * sizeof *found)))
        return NULL;
    for (uint32_t i = 0; i < object->n_fields; i++) {
        found[n].field = i;
        n += list_position(&object->fields[i].key, &found[n].at);
    }
    if (n == 0)
        return object;
    qsort(found, n, sizeof *found, by_position);
    if (!(items = stk_hocon_alloc(h, n * sizeof *items)))
        return NULL;
    for (size_t i = 0; i < n; i++) {
        if (i && found[i].at == found[i - 1].at)
            kept--; /* "1" and "01": the later one */
        items[kept++] = object->fields[found[i].field].value;
    }
    return stk_hocon_sequence(h, HOCON_LIST, object->at, items, kept);
}

int stk_hocon_join(struct hocon_joiner *j, struct hocon_node *piece, bool on_stack)
{
    struct hocon_node *left = j->n ? j->items[j->n - 1] : NULL;

    if (!left)
        return push(j, piece, on_stack);
    if (left->kind == HOCON_OBJECT && piece->kind == HOCON_LIST) {
        if (!(left = as_list(j->h, left)))
            return -1;
    } else if (left->kind == HOCON_LIST && piece->kind == HOCON_OBJECT) {
        if (!(piece = as_list(j->h, piece)))
            return -1;
    }
    if (left->kind == HOCON_OBJECT && piece->kind == HOCON_OBJECT) {
        if (!(left = stk_hocon_merge(j->h, piece, left)))
            return -1;
        j->items[j->n - 1] = left;
        return 0;
    }
    if (left->kind == HOCON_LIST && piece->kind == HOCON_LIST)
        return join_lists(j, left, piece);
    /* meant for the white space behind a list or object; Typesafe drops any unquoted word there, and so do we */
    if ((left->kind == HOCON_LIST || left->kind == HOCON_OBJECT) && piece->kind == HOCON_STRING && !piece->flag) {
        j->items[j->n - 1] = left;
        return 0;
    }
    if (hocon_is_open(left) || hocon_is_open(piece))
        return push(j, piece, on_stack);
    return join_scalars(j, left, piece);
}

int stk_hocon_join_end(struct hocon_joiner *j, struct hocon_node **ret)
{
    struct hocon_node *v = NULL;

    if (close_run(j) < 0)
        return -1;
    if (j->n == 1)
        v = j->items[0];
    else if (j->n > 1 && !(v = stk_hocon_sequence(j->h, HOCON_CONCAT, j->items[0]->at, j->items, j->n)))
        return -1;
    *ret = v;
    return 0;
}
