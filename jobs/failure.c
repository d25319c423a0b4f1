/* Error objects of failures that the server itself finds; those of user code come ready-made from the worker. */
#include "live.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static struct stk_text *to_text(json_t *object_take)
{
    json_auto_t *object = object_take;
    stk_auto_free char *text = json_dumps(object, JSON_COMPACT);

    return text ? stk_text_new(text, strlen(text)) : NULL;
}

/* Whether doing the same again can help, by code; docs/errors.md has all of them. */
static const char *retry_of(const char *code)
{
    static const char *const helps[] = { "EXITED", "SIGNALLED",     "CONTEXT_LOST", "CONTEXT_STOPPED", "SERVER_STOPPED",
                                         "LOST",   "QUEUE_TIMEOUT", "IDLE_TIMEOUT", "LIFETIME",        "RESULT_LOST" };

    for (size_t i = 0; i < STK_LEN(helps); i++) {
        if (strcmp(code, helps[i]) == 0)
            return "may-help";
    }
    return strcmp(code, "DRIVER_OUT_OF_MEMORY") == 0 ? "with-more-memory" : "never";
}

struct stk_text *failure_text(const char *code, const char *tail_key, const char *tail, const char *fmt, ...)
{
    char message[1024];
    json_t *object;
    va_list args;

    va_start(args, fmt);
    vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    message[stk_utf8_cut(message, sizeof message - 4)] = '\0';
    object = json_pack("{s:s, s:s, s:s}", "code", code, "message", message, "retry", retry_of(code));
    if (object && tail && *tail)
        json_object_set_new(object, tail_key, json_string(tail));
    return to_text(object);
}

/*
 * Adds how a process ended: key (exit_status or signal) and its number, and the status as a shell says it. retry:
 * what the one who saw the end says of it, or NULL.
 */
static struct stk_text *with_end(struct stk_text *failure_take, const char *key, int number, const char *retry)
{
    stk_auto_text failure = failure_take;
    json_t *object = failure ? json_loads(stk_text_data(failure), 0, NULL) : NULL;

    json_object_set_new(object, "exit_code", json_integer(strcmp(key, "signal") == 0 ? 128 + number : number));
    json_object_set_new(object, key, json_integer(number));
    if (retry)
        json_object_set_new(object, "retry", json_string(retry));
    return to_text(object);
}

bool failure_is(const struct stk_text *failure, const char *code)
{
    json_auto_t *object = failure ? json_loads(stk_text_data(failure), 0, NULL) : NULL;
    const char *found = json_string_value(json_object_get(object, "code"));

    return found && strcmp(found, code) == 0;
}

struct stk_text *failure_exit(json_t *exit, const char *stderr_tail)
{
    json_t *status = json_object_get(exit, "status"), *sig = json_object_get(exit, "signal");
    const char *reason = json_string_value(json_object_get(exit, "reason"));
    const char *code = json_string_value(json_object_get(exit, "code"));
    const char *retry = json_string_value(json_object_get(exit, "retry"));
    const char *colon = reason ? ": " : "";

    if (!reason)
        reason = "";
    if (json_is_integer(sig) && json_integer_value(sig) > 0) {
        int n = (int)json_integer_value(sig);

        if (code && strcmp(code, "OUT_OF_MEMORY") == 0)
            return with_end(failure_text(code, "stderr_tail", stderr_tail, "%s", reason), "signal", n, retry);
        return with_end(failure_text("SIGNALLED", "stderr_tail", stderr_tail,
                                     "the job's process was ended by signal %d (%s)%s%s", n, strsignal(n), colon,
                                     reason),
                        "signal", n, retry);
    }
    if (json_is_integer(status)) {
        int n = (int)json_integer_value(status);

        return with_end(failure_text("EXITED", "stderr_tail", stderr_tail,
                                     "the job ended its own process with exit status %d%s%s", n, colon, reason),
                        "exit_status", n, NULL);
    }
    return failure_text("LOST", "stderr_tail", stderr_tail, "the job's process is gone and left no word%s%s", colon,
                        reason);
}
