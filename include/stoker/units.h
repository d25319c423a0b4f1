/* Amounts with units, as people write them in requests. Any thread. */
#ifndef STOKER_UNITS_H
#define STOKER_UNITS_H

#include <stdint.h>

/*
 * "30s", "500 ms", "5min", "5m", "1h", "2d", "10 seconds": milliseconds, as HOCON has durations; a number alone is milliseconds.
 * -1: it is none, or longer than ten years.
 */
int stk_parse_duration_ms(const char *text, int64_t *ret);

/* "512m", "2g", "64k", "1GiB", "100 MB", as Spark has sizes (k is 1024): bytes; a number alone is bytes. -1: it is none, or over 1 EiB. */
int stk_parse_size(const char *text, int64_t *ret);

#endif
