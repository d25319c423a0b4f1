/* Which versions of binaries nobody needs any more: for retention, which asks rarely and may take its time. */
#include "internal.h"

#include <string.h>

struct numbers {
    int64_t *at;
    size_t n, room;
};

static int add_number(struct numbers *to, int64_t number, struct stk_err *err)
{
    if (to->n == to->room) {
        size_t wanted = to->room ? to->room * 2 : 64;
        int64_t *grown = reallocarray(to->at, wanted, sizeof *grown);

        if (!grown)
            return stk_fail(err, STK_INTERNAL, "out of memory");
        to->at = grown;
        to->room = wanted;
    }
    to->at[to->n++] = number;
    return 0;
}

static int compare_numbers(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

static int read_replaced(struct stk_store *s, int64_t before_us, struct numbers *to, struct stk_err *err)
{
    stk_auto_read r = stk_read_start(s, STK_SQL_VERSIONS_REPLACED);
    int more;

    stk_db_bind_int(r.db, r.stmt, 1, before_us);
    while ((more = stk_read_step(r.db, r.stmt, err)) == 1) {
        if (add_number(to, sqlite3_column_int64(r.stmt, 0), err) < 0)
            return -1;
    }
    return more;
}

static int read_range(struct stk_store *s, int64_t *ret_first, int64_t *ret_last, struct stk_err *err)
{
    stk_auto_read r = stk_read_start(s, STK_SQL_JOB_RANGE);

    if (stk_read_step(r.db, r.stmt, err) < 0)
        return -1;
    *ret_first = sqlite3_column_int64(r.stmt, 0);
    *ret_last = sqlite3_column_int64(r.stmt, 1);
    return 0;
}

/* Takes what these jobs ran with out of the sorted candidates. */
static int strike_used(struct stk_store *s, int64_t first, int64_t last, struct numbers *from, struct stk_err *err)
{
    stk_auto_read r = stk_read_start(s, STK_SQL_VERSIONS_USED);
    int more;

    stk_db_bind_int(r.db, r.stmt, 1, first);
    stk_db_bind_int(r.db, r.stmt, 2, last);
    while ((more = stk_read_step(r.db, r.stmt, err)) == 1) {
        int64_t version = sqlite3_column_int64(r.stmt, 0);
        int64_t *found = bsearch(&version, from->at, from->n, sizeof version, compare_numbers);

        if (!found)
            continue;
        memmove(found, found + 1, (size_t)(from->at + from->n - (found + 1)) * sizeof *found);
        from->n--;
    }
    return more;
}

int stk_store_unused_versions(struct stk_store *s, int64_t replaced_before_us, const atomic_bool *stop, int64_t **ret,
                              size_t *ret_n, struct stk_err *err)
{
    enum { JOBS_AT_ONCE = 5000 }; /* a few milliseconds: a long read would keep the WAL from starting over */
    struct numbers found = { 0 };
    int64_t first = 0, last = -1;
    int rc = read_replaced(s, replaced_before_us, &found, err);

    /* Jobs that come meanwhile run with the newest version, which is none of these. */
    if (rc == 0 && found.n)
        rc = read_range(s, &first, &last, err);
    for (; rc == 0 && found.n && first <= last; first += JOBS_AT_ONCE) {
        if (atomic_load_explicit(stop, memory_order_relaxed))
            found.n = 0;
        else
            rc = strike_used(s, first, first + JOBS_AT_ONCE - 1, &found, err);
    }
    if (rc < 0) {
        free(found.at);
        return -1;
    }
    *ret = found.at;
    *ret_n = found.n;
    return 0;
}
