/*
 * Data files: what clients upload for jobs to open by its path (Spark Job Server's /data). The folder data/ of the state
 * directory is the record: a file is in the list as soon as it is there in full, and stays until somebody deletes it.
 * Any thread; all of it blocks on the disk.
 */
#ifndef STOKER_DATA_FILE_H
#define STOKER_DATA_FILE_H

#include "stoker/err.h"

#include <jansson.h>
#include <stddef.h>

struct stk_core;

/*
 * An upload: open, write the body as it comes, then commit or abort. commit gives the file the name
 * "<prefix>-<local time>.dat", makes it durable and returns its absolute path (free() it); the upload is freed either way.
 * STK_INVALID: the prefix is no name for a file; STK_TOO_LARGE: longer than 'max-upload'; STK_FULL: no space. After a failure nothing of
 * it is left.
 */
struct stk_data_upload;
struct stk_data_upload *stk_data_upload_open(struct stk_core *core, const char *prefix, struct stk_err *err);
int stk_data_upload_write(struct stk_data_upload *up, const void *bytes, size_t n, struct stk_err *err);
char *stk_data_upload_commit(struct stk_data_upload *up, struct stk_err *err);
void stk_data_upload_abort(struct stk_data_upload *up); /* NULL is fine */

/* Absolute paths, in no order: a new array of strings. */
json_t *stk_data_list(struct stk_core *core, struct stk_err *err);
/* path as an upload returned it. STK_NOT_FOUND: no data file of this server. A job that has it open keeps what it has. */
int stk_data_delete(struct stk_core *core, const char *path, struct stk_err *err);
/* Deletes all. */
int stk_data_reset(struct stk_core *core, struct stk_err *err);

#endif
