#include "stoker/log.h"

#include "stoker/clock.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 4096 }; /* at most PIPE_BUF, so that lines of several threads never mix in a pipe */

static enum stk_log_level threshold = STK_LOG_INFO;
static const char *const level_names[] = { "debug", "info", "warn", "error" };

void stk_log_set_level(enum stk_log_level level)
{
    threshold = level;
}

int stk_log_level_parse(const char *name, enum stk_log_level *ret)
{
    for (size_t i = 0; i < sizeof level_names / sizeof *level_names; i++) {
        if (strcmp(name, level_names[i]) == 0) {
            *ret = (enum stk_log_level)i;
            return 0;
        }
    }
    return -1;
}

struct line {
    char text[LINE_MAX_BYTES];
    size_t len;
};

static void put(struct line *l, const char *bytes, size_t n)
{
    size_t room = sizeof l->text - 1 - l->len; /* one byte is kept for the newline */

    if (n > room)
        n = room;
    memcpy(l->text + l->len, bytes, n);
    l->len += n;
}

static bool is_plain(const char *value)
{
    for (const char *p = value; *p; p++) {
        if ((unsigned char)*p <= ' ' || *p == 0x7f || *p == '"' || *p == '\\' || *p == '=')
            return false;
    }
    return value[0] != '\0';
}

/* A value with spaces, quotes or control characters is quoted, so that a line stays one line and pairs stay pairs. */
static void put_value(struct line *l, const char *value)
{
    if (is_plain(value)) {
        put(l, value, strlen(value));
        return;
    }
    put(l, "\"", 1);
    for (const char *p = value; *p; p++) {
        unsigned char c = (unsigned char)*p;
        char escaped[8];

        if (c == '"' || c == '\\')
            put(l, (char[]){ '\\', (char)c }, 2);
        else if (c == '\n')
            put(l, "\\n", 2);
        else if (c < 0x20 || c == 0x7f)
            put(l, escaped, (size_t)snprintf(escaped, sizeof escaped, "\\x%02x", c));
        else
            put(l, p, 1);
    }
    put(l, "\"", 1);
}

void stk_log(enum stk_log_level level, const char *module, const char *message, ...)
{
    struct line l = { .len = 0 };
    char when[STK_TIME_MAX], head[96];
    const char *key;
    va_list args;
    ssize_t ignored;

    if (level < threshold)
        return;
    put(&l, head,
        (size_t)snprintf(head, sizeof head, "%s %-5s %-7s ", stk_time_utc(when, stk_wall_us()), level_names[level],
                         module));
    put(&l, message, strlen(message));
    va_start(args, message);
    while ((key = va_arg(args, const char *))) {
        const char *value = va_arg(args, const char *);

        if (!value)
            continue;
        put(&l, " ", 1);
        put(&l, key, strlen(key));
        put(&l, "=", 1);
        put_value(&l, value);
    }
    va_end(args);
    l.text[l.len++] = '\n';
    ignored = write(STDERR_FILENO, l.text, l.len); /* a log that cannot be written must not stop the server */
    (void)ignored;
}
