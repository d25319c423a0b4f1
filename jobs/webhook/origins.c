/* Receivers and their turns. */
#include "origins.h"

#include <stdlib.h>
#include <string.h>

static int by_name(const void *name, const void *origin)
{
    return strcmp(name, stk_text_data(((const struct origin *)origin)->name));
}

struct origin *origins_find(const struct origins *o, const struct stk_text *name)
{
    return o->n ? bsearch(stk_text_data(name), o->all, o->n, sizeof *o->all, by_name) : NULL;
}

void origins_done(struct origins *o)
{
    for (size_t i = 0; i < o->n; i++)
        stk_text_unref(o->all[i].name);
    free(o->all);
    o->all = NULL;
    o->n = 0;
}

int origins_update(struct origins *o, const struct stk_due_origin *due, size_t n, struct stk_err *err)
{
    struct origin *all = calloc(n + 1, sizeof *all);

    if (!all)
        return stk_fail(err, STK_INTERNAL, "out of memory");
    for (size_t i = 0; i < n; i++) {
        const struct origin *known = origins_find(o, due[i].origin);

        if (known)
            all[i] = *known;
        all[i].name = stk_text_ref(due[i].origin);
        all[i].due_us = due[i].due_us;
    }
    origins_done(o);
    o->all = all;
    o->n = n;
    return 0;
}

static int by_turn(const void *a, const void *b)
{
    const struct origin *x = *(struct origin *const *)a, *y = *(struct origin *const *)b;

    if (x->served != y->served)
        return x->served > y->served ? 1 : -1;
    return (x->due_us > y->due_us) - (x->due_us < y->due_us);
}

struct origin **origins_in_turn(const struct origins *o, struct stk_err *err)
{
    struct origin **turns = calloc(o->n + 1, sizeof *turns);

    if (!turns) {
        stk_fail(err, STK_INTERNAL, "out of memory");
        return NULL;
    }
    for (size_t i = 0; i < o->n; i++)
        turns[i] = &o->all[i];
    qsort(turns, o->n, sizeof(struct origin *), by_turn);
    return turns;
}
