#include "stoker/err.h"

#include "stoker/buf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void set_message(struct stk_err *err, const char *fmt, va_list args)
{
    char text[1024];
    int n = vsnprintf(text, sizeof text, fmt, args);
    size_t len = n < 0 ? 0 : (size_t)n < sizeof text ? (size_t)n : sizeof text - 1;

    stk_utf8_mend(text); /* a precision cuts in the middle of a character */
    len = stk_utf8_cut(text, len < sizeof err->msg - 1 ? len : sizeof err->msg - 1);
    memcpy(err->msg, text, len);
    err->msg[len] = '\0';
}

int stk_fail(struct stk_err *err, enum stk_code code, const char *fmt, ...)
{
    va_list args;

    if (!err)
        return -1;
    err->code = code;
    err->sys = 0;
    va_start(args, fmt);
    set_message(err, fmt, args);
    va_end(args);
    return -1;
}

int stk_fail_sys(struct stk_err *err, int sys, const char *fmt, ...)
{
    char reason[80];
    size_t used;
    va_list args;

    if (!err)
        return -1;
    err->code = sys == ENOSPC || sys == EDQUOT ? STK_FULL : STK_INTERNAL;
    err->sys = sys;
    va_start(args, fmt);
    set_message(err, fmt, args);
    va_end(args);
    used = strlen(err->msg);
    snprintf(err->msg + used, sizeof err->msg - used, ": %s", strerror_r(sys, reason, sizeof reason));
    return -1;
}

void stk_err_prefix(struct stk_err *err, const char *fmt, ...)
{
    char old[sizeof err->msg];
    size_t used, room, len;
    va_list args;

    if (!err)
        return;
    memcpy(old, err->msg, sizeof old);
    va_start(args, fmt);
    set_message(err, fmt, args);
    va_end(args);
    used = strlen(err->msg);
    room = sizeof err->msg - used;
    if (room < 4)
        return;
    len = stk_utf8_cut(old, room - 3);
    memcpy(err->msg + used, ": ", 2);
    memcpy(err->msg + used + 2, old, len);
    err->msg[used + 2 + len] = '\0';
}

const char *stk_code_name(enum stk_code code)
{
    static const char *const names[] = {
        [STK_OK] = "ok",
        [STK_INVALID] = "invalid",
        [STK_NOT_FOUND] = "not found",
        [STK_CONFLICT] = "conflict",
        [STK_LIMIT] = "limit",
        [STK_TOO_LARGE] = "too large",
        [STK_TIMEOUT] = "timeout",
        [STK_RUNNER] = "runner",
        [STK_FULL] = "disk full",
        [STK_INTERNAL] = "internal",
    };

    return (size_t)code < STK_LEN(names) ? names[code] : "unknown";
}
