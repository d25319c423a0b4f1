#include "stoker/json.h"

#include "stoker/buf.h"

#include <stdio.h>
#include <string.h>

/* Deeper values are refused, not walked: HTTP threads have a stack of 100 KiB (CivetWeb decides), a level takes 0.2 KiB. */
enum { DEPTH_MAX = 200 };

struct writer {
    struct stk_buf out;
    bool pretty;
    bool too_deep;
};

static void write_value(struct writer *w, const json_t *value, int depth);

static void put(struct writer *w, const char *text)
{
    stk_buf_add_str(&w->out, text);
}

static void new_line(struct writer *w, int depth)
{
    if (!w->pretty)
        return;
    put(w, "\n");
    for (int i = 0; i < depth; i++)
        put(w, "    ");
}

/* The escape of one character, or NULL when it stands for itself. */
static const char *escape(unsigned char c, char hex[8])
{
    switch (c) {
    case '"': return "\\\"";
    case '\\': return "\\\\";
    case '\b': return "\\b";
    case '\f': return "\\f";
    case '\n': return "\\n";
    case '\r': return "\\r";
    case '\t': return "\\t";
    default: break;
    }
    if (c >= 0x20)
        return NULL;
    snprintf(hex, 8, "\\u%04X", c);
    return hex;
}

static void write_string(struct writer *w, const char *text, size_t len)
{
    const char *end = text + len, *plain = text;
    char hex[8];

    put(w, "\"");
    for (const char *p = text; p < end; p++) {
        const char *escaped = escape((unsigned char)*p, hex);

        if (!escaped)
            continue;
        stk_buf_add(&w->out, plain, (size_t)(p - plain));
        put(w, escaped);
        plain = p + 1;
    }
    stk_buf_add(&w->out, plain, (size_t)(end - plain));
    put(w, "\"");
}

/* The fewest digits that read back as the same double; a whole number keeps ".0" so that it stays a double. */
static void write_real(struct writer *w, double value)
{
    char text[40];

    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    put(w, text);
    if (!strpbrk(text, ".e"))
        put(w, ".0");
}

static void write_integer(struct writer *w, json_int_t value)
{
    char text[24];

    snprintf(text, sizeof text, "%" JSON_INTEGER_FORMAT, value);
    put(w, text);
}

static bool all_digits(const char *text)
{
    return *text && text[strspn(text, "0123456789")] == '\0';
}

/* Typesafe Config's order: keys that are numbers first and by value, then the others by text. */
static int compare_keys(const void *left, const void *right)
{
    const char *a = *(const char *const *)left, *b = *(const char *const *)right;
    bool a_number = all_digits(a), b_number = all_digits(b);

    if (a_number != b_number)
        return a_number ? -1 : 1;
    if (a_number) {
        const char *x = a + strspn(a, "0"), *y = b + strspn(b, "0");

        if (strlen(x) != strlen(y))
            return strlen(x) < strlen(y) ? -1 : 1;
        if (strcmp(x, y) != 0)
            return strcmp(x, y);
    }
    return strcmp(a, b);
}

static void write_member(struct writer *w, const char *key, const json_t *value, bool first, int depth)
{
    if (!first)
        put(w, ",");
    new_line(w, depth + 1);
    write_string(w, key, strlen(key));
    put(w, w->pretty ? " : " : ":");
    write_value(w, value, depth + 1);
}

static void write_sorted(struct writer *w, json_t *object, int depth)
{
    stk_auto_free const char **keys = calloc(json_object_size(object), sizeof *keys);
    const char *key;
    json_t *value;
    size_t n = 0;

    if (!keys) {
        w->out.failed = true;
        return;
    }
    json_object_foreach(object, key, value)
        keys[n++] = key;
    qsort(keys, n, sizeof *keys, compare_keys);
    for (size_t i = 0; i < n; i++)
        write_member(w, keys[i], json_object_get(object, keys[i]), i == 0, depth);
}

static void write_object(struct writer *w, json_t *object, int depth)
{
    const char *key;
    json_t *value;
    bool first = true;

    put(w, "{");
    if (json_object_size(object) > 0) {
        if (w->pretty) {
            write_sorted(w, object, depth);
        } else {
            json_object_foreach(object, key, value) {
                write_member(w, key, value, first, depth);
                first = false;
            }
        }
        new_line(w, depth);
    }
    put(w, "}");
}

static void write_array(struct writer *w, const json_t *array, int depth)
{
    size_t n = json_array_size(array);

    put(w, "[");
    for (size_t i = 0; i < n; i++) {
        if (i)
            put(w, ",");
        new_line(w, depth + 1);
        write_value(w, json_array_get(array, i), depth + 1);
    }
    if (n)
        new_line(w, depth);
    put(w, "]");
}

static void write_value(struct writer *w, const json_t *value, int depth)
{
    if (depth > DEPTH_MAX) {
        w->too_deep = true;
        return;
    }
    switch (json_typeof(value)) {
    case JSON_OBJECT: write_object(w, (json_t *)(uintptr_t)value, depth); break; /* jansson's iterators take no const */
    case JSON_ARRAY: write_array(w, value, depth); break;
    case JSON_STRING: write_string(w, json_string_value(value), json_string_length(value)); break;
    case JSON_INTEGER: write_integer(w, json_integer_value(value)); break;
    case JSON_REAL: write_real(w, json_real_value(value)); break;
    case JSON_TRUE: put(w, "true"); break;
    case JSON_FALSE: put(w, "false"); break;
    case JSON_NULL: put(w, "null"); break;
    }
}

static char *write_text(const json_t *value, bool pretty, size_t *ret_len)
{
    struct writer w = { .pretty = pretty };
    size_t len;
    char *text;

    if (!value)
        return NULL;
    write_value(&w, value, 0);
    if (pretty)
        put(&w, "\n");
    len = w.out.len;
    if (w.too_deep || !(text = stk_buf_steal(&w.out))) {
        stk_buf_done(&w.out);
        return NULL;
    }
    if (ret_len)
        *ret_len = len;
    return text;
}

char *stk_json_text(const json_t *value, size_t *ret_len)
{
    return write_text(value, false, ret_len);
}

char *stk_json_pretty(const json_t *value, size_t *ret_len)
{
    return write_text(value, true, ret_len);
}
