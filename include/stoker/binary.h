/*
 * Binaries: uploaded archives, stored once under their SHA-256; a name has many versions, the newest is used by new jobs.
 * Thread rules as in job.h.
 */
#ifndef STOKER_BINARY_H
#define STOKER_BINARY_H

#include "stoker/buf.h"
#include "stoker/err.h"
#include "stoker/job.h"

enum stk_binary_type { STK_BINARY_EGG, STK_BINARY_ZIP, STK_BINARY_WHEEL, STK_BINARY_JAR };
#define STK_BINARY_TYPES (STK_BINARY_JAR + 1)

const char *stk_binary_type_name(enum stk_binary_type type); /* "egg", "zip", "wheel", "jar" */
int stk_binary_type_parse(const char *name, enum stk_binary_type *ret);

struct stk_binary_row {
    int64_t version; /* increases with each upload, unique over all names */
    struct stk_text *name;
    enum stk_binary_type type;
    char digest[STK_DIGEST_MAX];
    int64_t bytes;
    int64_t uploaded_us; /* strictly increasing per name, in whole milliseconds */
};
void stk_binary_row_done(struct stk_binary_row *row);
void stk_binary_rows_free(struct stk_binary_row *rows, size_t n);

/*
 * An upload: open, write the body as it comes (streamed to disk, hashed on the way), then commit or abort. One thread.
 * commit checks the archive (is it a zip, within limits, no absolute path, "..", link or special file), unpacks it, records it
 * and frees the upload; it is durable then. STK_INVALID: not a well-formed archive, or a hostile one; STK_TOO_LARGE: it is; STK_LIMIT: the store is busy;
 * STK_FULL: no space. After -1 nothing of it is left; the version before, if any, is untouched.
 */
struct stk_upload;
struct stk_upload *stk_upload_open(struct stk_core *core, struct stk_err *err);
int stk_upload_write(struct stk_upload *up, const void *bytes, size_t n, struct stk_err *err);
int stk_upload_commit(struct stk_upload *up, const char *name, enum stk_binary_type type, struct stk_binary_row *ret,
                      struct stk_err *err);
void stk_upload_abort(struct stk_upload *up); /* NULL is fine */

int stk_binary_get(struct stk_core *core, const char *name, struct stk_binary_row *ret,
                   struct stk_err *err); /* newest */

/* The newest version of each name, by name. Release with stk_binary_rows_free(). */
int stk_binary_list(struct stk_core *core, struct stk_binary_row **ret, size_t *ret_n, struct stk_err *err);

/* All versions of a name, newest first. STK_NOT_FOUND. */
int stk_binary_versions(struct stk_core *core, const char *name, struct stk_binary_row **ret, size_t *ret_n,
                        struct stk_err *err);

/*
 * Deletes all versions of a name; bytes that another name has stay. STK_NOT_FOUND. STK_CONFLICT: jobs that have not
 * ended use it, *ret_jobs (free() it) is "<id>, <id>".
 */
int stk_binary_delete(struct stk_core *core, const char *name, char **ret_jobs, struct stk_err *err);

#endif
