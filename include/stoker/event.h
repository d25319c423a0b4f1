/*
 * What has happened to jobs, contexts and binaries: events, numbered from 1 on in the order in which they were committed.
 *
 * Numbers have no gaps and are never given twice, so a number is a place to go on from, also after a restart. Retention removes
 * the oldest events; the newest one always stays. What is read is committed, hence durable: no crash takes it back.
 *
 * Any thread but the loop.
 */
#ifndef STOKER_EVENT_H
#define STOKER_EVENT_H

#include "stoker/buf.h"
#include "stoker/err.h"

#include <stddef.h>
#include <stdint.h>

struct stk_core;

/* Released by stk_event_row_done(). */
struct stk_event_row {
    int64_t seq;
    int64_t at_us; /* wall time when it was handed to the store */
    /* "job.submitted", "job.moved", "context.created", "context.moved", "binary.added", "binary.deleted", "binary.expired" */
    char kind[24];
    char job_id[STK_UUID_MAX], context_id[STK_UUID_MAX]; /* "": none */
    struct stk_text *context_name;                       /* NULL: none */
    int from_state, state;                               /* of the job or context; -1: none */
    int attempt;
    struct stk_text *data; /* JSON object: an error, or {name, version, digest} of a binary; NULL: none */
};
void stk_event_row_done(struct stk_event_row *row);
void stk_event_rows_free(struct stk_event_row *rows, size_t n);

/* The newest number; 0: there is none yet. Costs nothing. */
int64_t stk_event_newest(struct stk_core *core);

/* Those behind a number, the oldest first. *ret is an array of *ret_n rows; release with stk_event_rows_free(). */
int stk_event_list(struct stk_core *core, int64_t after, size_t limit, struct stk_event_row **ret, size_t *ret_n,
                   struct stk_err *err);

/* The number behind which those of that time and later begin. */
int stk_event_before(struct stk_core *core, int64_t wall_us, int64_t *ret, struct stk_err *err);

#endif
