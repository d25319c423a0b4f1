/*
 * The table of keys as the reading of the file (config_file.c) needs it. For config*.c only.
 */
#ifndef STOKER_SERVER_CONFIG_INTERNAL_H
#define STOKER_SERVER_CONFIG_INTERNAL_H

#include "config.h"

enum stk_key_kind { BOOL, INT, SIZE, TIME, LEVEL, PATH, COMMAND, LISTEN, SPARK_CONF, HOCON, ISOLATION, URLS, ALLOWED };

struct stk_key {
    const char *name;
    enum stk_key_kind kind;
    size_t offset;      /* of the field in struct stk_config */
    const char *preset; /* the default, as stk_key_set() takes it */
    int64_t min, max;   /* INT; SIZE in bytes; TIME in ms */
    const char *help;   /* lines for --print-config */
};

const struct stk_key *stk_key_find(const char *name); /* NULL: there is none */

/* -1 with STK_INVALID: there is no such key, and which one may be meant. */
int stk_key_unknown(const char *name, struct stk_err *err);

/* -1 with STK_INVALID: what the key takes. got: the value as it was written; NULL: nothing to show. */
int stk_key_refuse(const struct stk_key *key, const char *got, struct stk_err *err);

/* What the text says; for lists it is one element more. Any kind, from the table's defaults, a file or the command line. */
int stk_key_set(struct stk_config *c, const struct stk_key *key, const char *text, struct stk_err *err);

void stk_config_clear_listen(struct stk_config *c);
/* A list in the file replaces what is there, but for SPARK_CONF, which adds to it. */
void stk_key_clear_list(struct stk_config *c, const struct stk_key *key);

/* config_file.c: sets what the file names. Errors begin with its path and, where there is one, the line. */
int stk_config_read_file(struct stk_config *c, const char *path, struct stk_err *err);

#endif
