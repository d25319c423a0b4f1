/*
 * What a job prints, and a context's own log: files that grow while somebody reads them.
 *
 * A worker runs one job after another with the same pair of files, which are renamed to the job that has printed into them when
 * it has ended (PROTOCOL.md section 6). A reader never sees bytes of another job: what it is shown is what was there before the
 * store, asked afterwards, said that the job goes on, and before that is committed no other job gets into those files.
 *
 * Any thread but the loop; one thread at a time for each object.
 */
#ifndef STOKER_OUTPUT_H
#define STOKER_OUTPUT_H

#include "stoker/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct stk_core;
struct stk_output;

enum stk_output_stream { STK_STDOUT, STK_STDERR };
#define STK_OUTPUT_STREAMS (STK_STDERR + 1)

/* attempt 0: the newest, also one that is still to come. STK_NOT_FOUND: no such job or attempt. */
int stk_output_of_job(struct stk_core *core, const char *id, int attempt, enum stk_output_stream stream,
                      struct stk_output **ret, struct stk_err *err);
/* Of the newest context of that name, its JVM included. STK_NOT_FOUND. */
int stk_output_of_context(struct stk_core *core, const char *name, struct stk_output **ret, struct stk_err *err);
void stk_output_free(struct stk_output *o); /* NULL is fine */

struct stk_output_look {
    uint64_t bytes; /* so many are there; never fewer than the time before */
    bool over;      /* and no more will come */
    bool removed;   /* over, and they are not kept any more */
};

/* How it stands now. STK_NOT_FOUND: the job or context is not stored any more. */
int stk_output_look(struct stk_output *o, struct stk_output_look *ret, struct stk_err *err);

/* Of what the last look has shown: how many bytes were read, 0 at its end. -1: it cannot be read, or was cut short. */
ssize_t stk_output_read(struct stk_output *o, uint64_t from, char *buf, size_t n, struct stk_err *err);

/* Where the last `lines` lines of the first `bytes` bytes begin; what follows the last line end is a line too. */
int stk_output_tail(struct stk_output *o, uint64_t bytes, uint64_t lines, uint64_t *ret, struct stk_err *err);

/* A descriptor of its own for what the last look has shown, the caller's; -1: there is none, or no bytes. */
int stk_output_fd(const struct stk_output *o);

#endif
