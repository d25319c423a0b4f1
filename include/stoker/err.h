/*
 * The error value that fallible functions fill.
 *
 * It is owned by the caller, lives on the caller's stack and holds nothing to release. `code` says what the caller can do
 * about the failure, `msg` is one line that may be shown to a client. A function that gets a NULL error still fails the
 * same way, it only keeps the reason to itself. Any thread.
 */
#ifndef STOKER_ERR_H
#define STOKER_ERR_H

#include <stddef.h>

enum stk_code {
    STK_OK,
    STK_INVALID,   /* the caller's input is wrong: say what is */
    STK_NOT_FOUND, /* no such thing */
    STK_CONFLICT,  /* the thing is in another state than the request needs */
    STK_LIMIT,     /* a limit is reached; the same request may succeed later */
    STK_TOO_LARGE, /* more than is ever taken */
    STK_TIMEOUT,   /* not known within the caller's deadline; the work goes on */
    STK_RUNNER,    /* a runner process or Spark failed */
    STK_FULL,      /* the disk is full; nothing was kept */
    STK_INTERNAL,  /* our own fault, or the machine's */
};

struct stk_err {
    enum stk_code code;
    int sys; /* errno behind it, or 0 */
    char msg[240];
};

/* Fill err (NULL is fine) and return -1, so that failing is one statement. The text is cut at a UTF-8 boundary. */
int stk_fail(struct stk_err *err, enum stk_code code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* The same with ": <strerror(sys)>" appended; ENOSPC and EDQUOT give STK_FULL, everything else STK_INTERNAL. */
int stk_fail_sys(struct stk_err *err, int sys, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Puts "<prefix>: " before the message that err already holds. */
void stk_err_prefix(struct stk_err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* "invalid", "not found", ...: for logs. */
const char *stk_code_name(enum stk_code code);

#endif
