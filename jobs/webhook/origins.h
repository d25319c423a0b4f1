/* What is known of receivers while something is due to them, and whose turn it is. Pure. */
#ifndef STOKER_WEBHOOK_ORIGINS_H
#define STOKER_WEBHOOK_ORIGINS_H

#include "stoker/store.h"

struct origin {
    struct stk_text *name;
    int64_t due_us;  /* of its first */
    uint64_t served; /* when something was begun for it: a later one has a higher number; 0: never */
    bool failed;     /* the last attempt that has ended */
};

/* Zero-initialise; release with origins_done(). */
struct origins {
    struct origin *all; /* in the order of names */
    size_t n;
    uint64_t served; /* the number given last */
};
void origins_done(struct origins *o);
/* Takes over what is due now, as stk_store_due_origins() gives it: who is new is added, who is not there any more is forgotten. */
int origins_update(struct origins *o, const struct stk_due_origin *due, size_t n, struct stk_err *err);
struct origin *origins_find(const struct origins *o, const struct stk_text *name); /* NULL: it has nothing due */
/* All of them, who was served longest ago first, and of those that never were, who has waited longest. Release with free(). */
struct origin **origins_in_turn(const struct origins *o, struct stk_err *err);

#endif
