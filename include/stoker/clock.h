/* Time. Durations and deadlines are monotonic, records are wall-clock microseconds, UTC. Any thread. */
#ifndef STOKER_CLOCK_H
#define STOKER_CLOCK_H

#include <stddef.h>
#include <stdint.h>
#include <time.h>

int64_t stk_mono_ms(void);
int64_t stk_mono_us(void);
int64_t stk_wall_us(void);

/* The point ms from now as an absolute CLOCK_MONOTONIC timespec, for pthread_cond_timedwait(). ms < 0: far away. */
struct timespec stk_mono_deadline(int64_t ms);

#define STK_TIME_MAX 64

/* "2013-05-29T00:00:00.000Z"; three decimals, UTC. Returns buf. */
const char *stk_time_utc(char buf[STK_TIME_MAX], int64_t wall_us);

/*
 * The other way: "2013-05-29T00:00:00Z", with a fraction of up to six digits, with "Z" or an offset like "+02:00" (RFC 3339). The
 * years 1970 to 9999. -1: it is none.
 */
int stk_time_parse(const char *text, int64_t *ret_wall_us);

/* "2016-06-19T16:27:12.196+05:30" in the server's zone, "Z" for UTC, as Spark Job Server prints job times. Returns buf. */
const char *stk_time_local(char buf[STK_TIME_MAX], int64_t wall_us);

#endif
