/* What callers may ask of events: the store knows, nothing of them is live state. */
#include "live.h"

#include "stoker/event.h"

int64_t stk_event_newest(struct stk_core *core)
{
    return stk_store_event_newest(core->store);
}

int stk_event_list(struct stk_core *core, int64_t after, size_t limit, struct stk_event_row **ret, size_t *ret_n,
                   struct stk_err *err)
{
    return stk_store_event_list(core->store, after, limit, ret, ret_n, err);
}

int stk_event_before(struct stk_core *core, int64_t wall_us, int64_t *ret, struct stk_err *err)
{
    return stk_store_event_before(core->store, wall_us, ret, err);
}
