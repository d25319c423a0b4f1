#include "api/sjs/sjs.h"

#include "stoker/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Text from user code may hold anything: each byte that is part of no character becomes U+FFFD. */
json_t *stk_sjs_string(const char *text)
{
    stk_auto_buf fixed = { 0 };
    size_t len = text ? strlen(text) : 0;

    if (len == 0 || stk_utf8_valid(text, len))
        return json_stringn(text ? text : "", len);
    for (size_t i = 0; i < len;) {
        size_t n = 1;

        while (n <= 4 && i + n <= len && !stk_utf8_valid(text + i, n))
            n++;
        if (n > 4 || i + n > len) {
            stk_buf_add_str(&fixed, "\xef\xbf\xbd");
            n = 1;
        } else {
            stk_buf_add(&fixed, text + i, n);
        }
        i += n;
    }
    return fixed.failed ? NULL : json_stringn(fixed.data, fixed.len);
}

void stk_sjs_ok(struct stk_reply *reply, int status, const char *result)
{
    json_t *body = result ? json_pack("{s:s, s:o}", "status", "SUCCESS", "result", stk_sjs_string(result))
                          : json_pack("{s:s}", "status", "SUCCESS");

    stk_reply_json_take(reply, status, body);
}

void stk_sjs_err(struct stk_reply *reply, int status, const char *fmt, ...)
{
    stk_auto_free char *text = NULL;
    va_list args;
    int n;

    va_start(args, fmt);
    n = vasprintf(&text, fmt, args);
    va_end(args);
    if (n < 0)
        text = NULL;
    stk_reply_json_take(reply, status, json_pack("{s:s, s:o}", "status", "ERROR", "result", stk_sjs_string(text)));
}

void stk_sjs_exc(struct stk_reply *reply, int status, const char *status_text, const char *message,
                 const char *error_class, const char *stack)
{
    json_t *body =
        json_pack("{s:s, s:{s:o, s:o, s:o}}", "status", status_text, "result", "message", stk_sjs_string(message),
                  "errorClass", stk_sjs_string(error_class), "stack", stk_sjs_string(stack));

    stk_reply_json_take(reply, status, body);
}

void stk_sjs_failed(struct stk_reply *reply, const char *what, const struct stk_err *err)
{
    switch (err->code) {
    case STK_INVALID: stk_sjs_err(reply, 400, "%s", err->msg); return;
    case STK_NOT_FOUND: stk_sjs_err(reply, 404, "%s", err->msg); return;
    case STK_CONFLICT: stk_sjs_err(reply, 409, "%s", err->msg); return;
    case STK_FULL: stk_sjs_err(reply, 507, "%s", err->msg); return;
    case STK_LIMIT:
        stk_sjs_err(reply, 503, "%s", err->msg);
        stk_reply_header(reply, "Retry-After", "1");
        return;
    case STK_TOO_LARGE: stk_sjs_err(reply, 413, "%s", err->msg); return;
    case STK_TIMEOUT: stk_sjs_exc(reply, 500, "ERROR", err->msg, "akka.pattern.AskTimeoutException", ""); return;
    case STK_OK:
    case STK_RUNNER:
    case STK_INTERNAL: break;
    }
    stk_error("sjs", "request failed", "what", what, "error", err->msg);
    stk_sjs_exc(reply, 500, "ERROR", err->msg, "java.lang.RuntimeException", "");
}

void stk_sjs_too_many_waiting(struct stk_reply *reply)
{
    stk_sjs_err(reply, 503, "Too many requests wait for jobs or contexts already; try again, or use sync=false");
    stk_reply_header(reply, "Retry-After", "1");
}

void stk_sjs_render_error(struct stk_reply *reply, int status, const char *message)
{
    stk_sjs_err(reply, status, "%s", message);
}
