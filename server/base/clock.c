#include "stoker/clock.h"

#include <stdio.h>
#include <stdlib.h>

static int64_t now_us(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

int64_t stk_mono_ms(void)
{
    return now_us(CLOCK_MONOTONIC) / 1000;
}

int64_t stk_mono_us(void)
{
    return now_us(CLOCK_MONOTONIC);
}

int64_t stk_wall_us(void)
{
    return now_us(CLOCK_REALTIME);
}

struct timespec stk_mono_deadline(int64_t ms)
{
    enum { FAR_MS = 100 * 365 * 86400LL };
    int64_t us;

    if (ms < 0 || ms > (int64_t)FAR_MS * 1000)
        ms = (int64_t)FAR_MS * 1000;
    us = stk_mono_us() + ms * 1000;
    return (struct timespec){ .tv_sec = us / 1000000, .tv_nsec = (us % 1000000) * 1000 };
}

/* Whole seconds and the milliseconds after them; right for times before 1970 too. */
static int split_ms(int64_t wall_us, time_t *ret_s)
{
    int64_t ms = wall_us / 1000 - (wall_us % 1000 < 0);
    int64_t rest = ms % 1000 + (ms % 1000 < 0 ? 1000 : 0);

    *ret_s = (time_t)((ms - rest) / 1000);
    return (int)rest;
}

const char *stk_time_utc(char buf[STK_TIME_MAX], int64_t wall_us)
{
    time_t s;
    int ms = split_ms(wall_us, &s);
    struct tm tm;
    char day[24];

    gmtime_r(&s, &tm);
    strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(buf, STK_TIME_MAX, "%s.%03dZ", day, ms);
    return buf;
}

const char *stk_time_local(char buf[STK_TIME_MAX], int64_t wall_us)
{
    time_t s;
    int ms = split_ms(wall_us, &s);
    struct tm tm;
    char day[24];
    long off;

    localtime_r(&s, &tm);
    strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &tm);
    off = tm.tm_gmtoff / 60;
    if (off == 0)
        snprintf(buf, STK_TIME_MAX, "%s.%03dZ", day, ms);
    else
        snprintf(buf, STK_TIME_MAX, "%s.%03d%c%02ld:%02ld", day, ms, off < 0 ? '-' : '+', labs(off) / 60,
                 labs(off) % 60);
    return buf;
}
