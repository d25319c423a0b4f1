/* JSON beside jansson: text whose numbers keep their form, and a check of text that is passed on as it is. Any thread. */
#ifndef STOKER_JSON_H
#define STOKER_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* JSON text of a value: compact, doubles in their shortest exact form, 1250.0 keeps its ".0". NULL when out of memory. */
char *stk_json_text(const json_t *value, size_t *ret_len);
/* The same, pretty: 4 spaces, "key" : value, as Typesafe Config renders. */
char *stk_json_pretty(const json_t *value, size_t *ret_len);

/*
 * Whether text is one JSON value by the grammar of RFC 8259, with white space around it. Numbers may have any size, which is
 * why jansson is not asked. At most 1024 levels deep; the text is UTF-8 already.
 */
bool stk_json_valid(const char *text, size_t len);

#endif
