/* The tree that a reference looks into, and the trees that differ from it in one value. */
#include "hocon_internal.h"

enum hocon_outcome stk_hocon_entangled(struct hocon *h, const struct hocon_node *v)
{
    stk_hocon_fail(h, v->at, "the substitutions here are too entangled to be resolved");
    return HOCON_FAILED;
}

int stk_hocon_enter(struct hocon *h, struct hocon_source *s, struct hocon_node *container)
{
    struct hocon_up *u;

    if (!s->path && container != s->root)
        return 0;
    if (!(u = stk_hocon_alloc(h, sizeof *u)))
        return -1;
    *u = (struct hocon_up){ container, s->path };
    s->path = u;
    return 0;
}

/* A list or merge with one item replaced or, for NULL, removed; NULL when nothing is left. */
static enum hocon_outcome replace_item(struct hocon *h, struct hocon_node *v, struct hocon_node *old,
                                       struct hocon_node *value, struct hocon_node **ret)
{
    struct hocon_node **items;
    size_t n = 0;
    bool found = false;

    if (stk_hocon_work(h, v->n) < 0 || !(items = stk_hocon_alloc(h, v->n * sizeof *items)))
        return HOCON_FAILED;
    for (size_t i = 0; i < v->n; i++) {
        if (v->items[i] == old && !found) {
            found = true;
            if (value)
                items[n++] = value;
        } else {
            items[n++] = v->items[i];
        }
    }
    if (!found)
        return stk_hocon_entangled(h, old);
    *ret = NULL;
    if (n == 0)
        return HOCON_DONE;
    if (v->kind == HOCON_MERGE) {
        for (size_t i = 0; i < n; i++)
            if (items[i]->kind == HOCON_MERGE || (i == 0 && hocon_is_object(v) && items[i]->kind != HOCON_OBJECT))
                return stk_hocon_entangled(h, old);
    }
    return (*ret = stk_hocon_sequence(h, (enum hocon_kind)v->kind, v->at, items, n)) ? HOCON_DONE : HOCON_FAILED;
}

static enum hocon_outcome replace_child(struct hocon *h, struct hocon_node *v, struct hocon_node *old,
                                        struct hocon_node *value, struct hocon_node **ret)
{
    bool found;

    if (v->kind != HOCON_OBJECT)
        return replace_item(h, v, old, value, ret);
    if ((*ret = stk_hocon_object_replace(h, v, old, value, &found)) != NULL)
        return HOCON_DONE;
    return found ? HOCON_FAILED : stk_hocon_entangled(h, old);
}

static bool is_container(const struct hocon_node *v)
{
    return v && v->kind >= HOCON_OBJECT && v->kind != HOCON_REF;
}

enum hocon_outcome stk_hocon_replace(struct hocon *h, struct hocon_source s, struct hocon_node *old,
                                     struct hocon_node *value, struct hocon_source *ret)
{
    enum hocon_outcome rc;

    if (!s.path) {
        if (old != s.root || !is_container(value))
            return stk_hocon_entangled(h, old);
    }
    for (const struct hocon_up *u = s.path; u; u = u->next) {
        if (stk_hocon_work(h, 1) < 0)
            return HOCON_FAILED;
        if ((rc = replace_child(h, u->here, old, value, &value)) != HOCON_DONE)
            return rc;
        if (!is_container(value))
            value = NULL;
        old = u->here;
    }
    if (!value || !hocon_is_object(value))
        value = stk_hocon_node(h, HOCON_OBJECT, old->at); /* nothing is left of the root */
    *ret = (struct hocon_source){ value, NULL };
    return value ? HOCON_DONE : HOCON_FAILED;
}
