#include "stoker/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* n digits, a number from min to max. */
static int take_number(const char **p, int n, int min, int max, int *ret)
{
    int value = 0;

    for (int i = 0; i < n; i++, (*p)++) {
        if (**p < '0' || **p > '9')
            return -1;
        value = value * 10 + (**p - '0');
    }
    *ret = value;
    return value >= min && value <= max ? 0 : -1;
}

static int take_char(const char **p, const char *one_of)
{
    if (!**p || !strchr(one_of, **p))
        return -1;
    return *(*p)++;
}

static int take_fraction(const char **p, int *ret_us)
{
    int us = 0, n = 0;

    for (; **p >= '0' && **p <= '9' && n < 6; n++, (*p)++)
        us = us * 10 + (**p - '0');
    if (n == 0)
        return -1;
    for (; n < 6; n++)
        us *= 10;
    *ret_us = us;
    return 0;
}

static int days_in(int month, int year)
{
    static const int days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };

    return days[month - 1] + (month == 2 && year % 4 == 0 && (year % 100 != 0 || year % 400 == 0));
}

int stk_time_parse(const char *text, int64_t *ret_wall_us)
{
    struct tm tm = { 0 };
    int year, month, us = 0, hours = 0, minutes = 0, sign;
    int64_t s;

    if (take_number(&text, 4, 1970, 9999, &year) < 0 || take_char(&text, "-") < 0 ||
        take_number(&text, 2, 1, 12, &month) < 0 || take_char(&text, "-") < 0 ||
        take_number(&text, 2, 1, days_in(month, year), &tm.tm_mday) < 0 || take_char(&text, "Tt ") < 0 ||
        take_number(&text, 2, 0, 23, &tm.tm_hour) < 0 || take_char(&text, ":") < 0 ||
        take_number(&text, 2, 0, 59, &tm.tm_min) < 0 || take_char(&text, ":") < 0 ||
        take_number(&text, 2, 0, 60, &tm.tm_sec) < 0)
        return -1;
    if (*text == '.') {
        text++;
        if (take_fraction(&text, &us) < 0)
            return -1;
    }
    if ((sign = take_char(&text, "Zz+-")) < 0)
        return -1;
    if ((sign == '+' || sign == '-') && (take_number(&text, 2, 0, 23, &hours) < 0 || take_char(&text, ":") < 0 ||
                                         take_number(&text, 2, 0, 59, &minutes) < 0))
        return -1;
    if (*text)
        return -1;
    tm.tm_year = year - 1900;
    tm.tm_mon = month - 1;
    s = (int64_t)timegm(&tm) - (sign == '-' ? -1 : 1) * (hours * 3600 + minutes * 60);
    *ret_wall_us = s * 1000000 + us;
    return 0;
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
