/* The room on the disk: looked at now and then, asked for by every call that brings new work. What goes on is never refused. */
#include "live.h"

#include "stoker/log.h"

#include <stdatomic.h>
#include <stdio.h>
#include <sys/statvfs.h>

enum { EVERY_MS = 1000 };

struct disk {
    struct stk_core *core;
    struct stk_timer *timer;
    atomic_int_fast64_t free_bytes; /* these two are read by any thread */
    atomic_bool low;
};

static const char *amount(char buf[32], int64_t bytes)
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
    double n = (double)bytes;
    size_t u = 0;

    for (; n >= 1024 && u + 1 < STK_LEN(units); u++)
        n /= 1024;
    snprintf(buf, 32, "%.*f %s", u ? 1 : 0, n, units[u]);
    return buf;
}

static void look(void *arg)
{
    struct disk *d = arg;
    int64_t reserve = d->core->o.retention.disk_reserve_bytes, free_bytes;
    char free_text[32], reserve_text[32];
    struct statvfs fs;
    bool low;

    if (!d->core->stopping)
        stk_timer_set(d->timer, EVERY_MS);
    if (fstatvfs(d->core->o.state_dir_fd, &fs) < 0)
        return; /* what was known stays */
    if (__builtin_mul_overflow((int64_t)fs.f_bavail, (int64_t)fs.f_frsize, &free_bytes))
        free_bytes = INT64_MAX;
    low = free_bytes < reserve;
    atomic_store_explicit(&d->free_bytes, free_bytes, memory_order_relaxed);
    if (atomic_exchange(&d->low, low) == low)
        return;
    amount(free_text, free_bytes);
    amount(reserve_text, reserve);
    if (low)
        stk_error("disk", "the disk is under its reserve, new work is refused", "free", free_text, "reserve",
                  reserve_text);
    else
        stk_info("disk", "the disk has its reserve again", "free", free_text, "reserve", reserve_text);
}

int disk_check(struct stk_core *core, struct stk_err *err)
{
    struct disk *d = core->disk;
    char free_text[32], reserve_text[32];

    if (!atomic_load_explicit(&d->low, memory_order_relaxed))
        return 0;
    return stk_fail(err, STK_FULL,
                    "the server's disk has %s free, less than the %s that 'disk-reserve' keeps for what goes on: no "
                    "new work is taken",
                    amount(free_text, atomic_load_explicit(&d->free_bytes, memory_order_relaxed)),
                    amount(reserve_text, core->o.retention.disk_reserve_bytes));
}

void disk_status(struct stk_core *core, struct stk_status *ret)
{
    ret->disk_free_bytes = atomic_load_explicit(&core->disk->free_bytes, memory_order_relaxed);
    ret->disk_reserve_bytes = core->o.retention.disk_reserve_bytes;
    ret->disk_low = atomic_load_explicit(&core->disk->low, memory_order_relaxed);
}

struct disk *disk_new(struct stk_core *core, struct stk_err *err)
{
    struct disk *d = calloc(1, sizeof *d);

    if (d) {
        d->core = core;
        d->timer = stk_timer_new(core->loop, look, d);
    }
    if (!d || !d->timer) {
        free(d);
        stk_fail(err, STK_INTERNAL, "out of memory");
        return NULL;
    }
    look(d); /* known before the first request comes */
    return d;
}

void disk_free(struct disk *d)
{
    if (!d)
        return;
    stk_timer_free(d->timer);
    free(d);
}
