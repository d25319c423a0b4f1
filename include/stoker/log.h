/*
 * The server's log: one write(2) per line on standard error: UTC time, level, module, message, then key=value pairs.
 *
 *     2026-01-31T09:30:00.125Z info  job     moved job=5453779a-... from=QUEUED to=STARTING
 *
 * The message is a constant phrase; values go into pairs, where control characters and spaces are escaped. Secrets are
 * never logged. error: a person must act; warn: handled; info: state changes; debug: the rest. Any thread.
 */
#ifndef STOKER_LOG_H
#define STOKER_LOG_H

enum stk_log_level { STK_LOG_DEBUG, STK_LOG_INFO, STK_LOG_WARN, STK_LOG_ERROR };

void stk_log_set_level(enum stk_log_level level);                   /* before the first thread */
int stk_log_level_parse(const char *name, enum stk_log_level *ret); /* 0, or -1: not a level */

/* pairs: alternating key (const char *) and value (const char *, NULL is skipped with its key), ended by a NULL key. */
void stk_log(enum stk_log_level level, const char *module, const char *message, ... /* key, value, ..., NULL */)
    __attribute__((sentinel));

#define stk_debug(module, ...) stk_log(STK_LOG_DEBUG, module, __VA_ARGS__, NULL)
#define stk_info(module, ...) stk_log(STK_LOG_INFO, module, __VA_ARGS__, NULL)
#define stk_warn(module, ...) stk_log(STK_LOG_WARN, module, __VA_ARGS__, NULL)
#define stk_error(module, ...) stk_log(STK_LOG_ERROR, module, __VA_ARGS__, NULL)

#endif
