#include "api/native/native.h"

#include "stoker/clock.h"
#include "stoker/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void stk_native_error(struct stk_reply *reply, int status, const char *code, const char *message)
{
    stk_reply_json_take(reply, status, json_pack("{s:{s:s, s:s}}", "error", "code", code, "message", message));
}

void stk_native_wrong(struct stk_reply *reply, const char *field, const char *fmt, ...)
{
    struct stk_err err; /* cuts a text that is too long where a character ends */
    char text[sizeof err.msg];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    stk_fail(&err, STK_INVALID, "%s", text);
    stk_reply_json_take(
        reply, 400, json_pack("{s:{s:s, s:s, s:s}}", "error", "code", "INVALID", "message", err.msg, "field", field));
}

void stk_native_failed(struct stk_reply *reply, const char *what, const struct stk_err *err)
{
    switch (err->code) {
    case STK_INVALID: stk_native_error(reply, 400, "INVALID", err->msg); return;
    case STK_NOT_FOUND: stk_native_error(reply, 404, "NOT_FOUND", err->msg); return;
    case STK_CONFLICT: stk_native_error(reply, 409, "CONFLICT", err->msg); return;
    case STK_FULL: stk_native_error(reply, 507, "DISK_FULL", err->msg); return;
    case STK_LIMIT:
        stk_native_error(reply, 503, "LIMIT", err->msg);
        stk_reply_header(reply, "Retry-After", "1");
        return;
    case STK_TOO_LARGE: stk_native_error(reply, 413, "TOO_LARGE", err->msg); return;
    case STK_TIMEOUT: stk_native_error(reply, 504, "TIMEOUT", err->msg); return;
    case STK_OK:
    case STK_RUNNER:
    case STK_INTERNAL: break;
    }
    stk_error("native", "request failed", "what", what, "error", err->msg);
    stk_native_error(reply, 500, "INTERNAL", err->msg);
}

void stk_native_body_failed(struct stk_reply *reply, const struct stk_err *err)
{
    if (err->code == STK_TIMEOUT)
        stk_native_error(reply, 408, "TIMEOUT", err->msg);
    else
        stk_native_failed(reply, "read a body", err);
}

void stk_native_too_many_waiting(struct stk_reply *reply)
{
    stk_native_error(reply, 503, "LIMIT", "too many requests wait already; try again, or do without 'wait'");
    stk_reply_header(reply, "Retry-After", "1");
}

void stk_native_location(struct stk_reply *reply, const char *folder, const char *name)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~";
    stk_auto_buf path = { 0 };

    stk_buf_add_str(&path, folder);
    for (const char *p = name; *p; p++) {
        if (strchr(plain, *p))
            stk_buf_add(&path, p, 1);
        else
            stk_buf_printf(&path, "%%%02X", (unsigned char)*p);
    }
    if (!path.failed)
        stk_reply_header(reply, "Location", path.data);
}

void stk_native_render_error(struct stk_reply *reply, int status, const char *message)
{
    stk_native_error(reply, status,
                     status == 404   ? "NOT_FOUND"
                     : status == 405 ? "METHOD_NOT_ALLOWED"
                     : status == 408 ? "TIMEOUT"
                     : status == 413 ? "TOO_LARGE"
                     : status == 415 ? "UNSUPPORTED_TYPE"
                     : status == 503 ? "LIMIT"
                     : status >= 500 ? "INTERNAL"
                                     : "INVALID",
                     message);
}

json_t *stk_native_text(const struct stk_text *text)
{
    json_t *string = text ? json_stringn(stk_text_data(text), stk_text_len(text)) : NULL;

    return string ? string : json_null();
}

json_t *stk_native_json(const struct stk_text *text)
{
    json_t *value = text ? json_loadb(stk_text_data(text), stk_text_len(text), JSON_DECODE_ANY, NULL) : NULL;

    return value ? value : json_null();
}

json_t *stk_native_time(int64_t wall_us)
{
    char buf[STK_TIME_MAX];

    return wall_us ? json_string(stk_time_utc(buf, wall_us)) : json_null();
}
