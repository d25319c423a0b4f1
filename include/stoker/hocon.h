/*
 * HOCON text to JSON, as Typesafe Config 1.4 reads it and renders it concisely (Spark Job Server parses with that and so
 * decides what people's job configs mean). Pure: no files, no environment, no includes, so it is safe on posted text.
 * Any thread.
 */
#ifndef STOKER_HOCON_H
#define STOKER_HOCON_H

#include "stoker/err.h"

#include <jansson.h>
#include <stddef.h>

/*
 * Upper limits. Exponential blow-up by substitution is stopped whatever they say, because a parse is also bounded by the text
 * itself. For len bytes of text:
 *
 *     values in the result        at most max_nodes and 16384 + len
 *     keys and strings in it      at most 2 * max_bytes and max(1 MiB, 2 * len), in bytes of UTF-8
 *     memory while it is parsed   about 8 * len + 512 * values + 4 MiB: 12 MiB for a short text
 *
 * Without substitutions the keys and strings are never longer than the text. Past a bound it is STK_LIMIT.
 */
struct stk_hocon_limits {
    size_t max_bytes; /* longest text */
    int max_depth;    /* deepest nesting of objects and arrays */
    size_t max_nodes; /* most values after substitution */
};
extern const struct stk_hocon_limits stk_hocon_default_limits;

/*
 * Parses a whole document; a missing root brace is allowed, an empty text is {}. The root must be an object. Required
 * substitutions that cannot be resolved inside the document are an error; optional ones vanish.
 *
 * Returns a new object the caller owns, or NULL with STK_INVALID and a message such as
 * "3:14: expecting a value but got '}'" (line and column, from 1; columns count characters), STK_LIMIT past a limit, or
 * STK_INTERNAL when out of memory. limits NULL: the defaults.
 */
json_t *stk_hocon_parse(const char *text, size_t len, const struct stk_hocon_limits *limits, struct stk_err *err);

#endif
