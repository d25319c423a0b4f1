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

struct stk_hocon_limits {
    size_t max_bytes; /* longest text */
    int max_depth;    /* deepest nesting of objects and arrays */
    size_t max_nodes; /* most values after substitution; stops exponential blow-up */
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
