/*
 * How an HTTP thread asks the loop for something and sleeps until it is answered or its deadline passes.
 *
 * A ticket is embedded in the operation's own struct and has two owners, the caller and the loop; whoever lets go last frees it. What the loop
 * writes into the operation before ticket_answer() may be read by the caller after ticket_call() returned true.
 */
#ifndef STOKER_JOBS_TICKET_H
#define STOKER_JOBS_TICKET_H

#include "stoker/err.h"
#include "stoker/loop.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/queue.h>

struct ticket {
    struct stk_task task;
    atomic_int refs;
    pthread_mutex_t lock; /* guards answered, and what the loop publishes early */
    pthread_cond_t cond;
    bool heard; /* the loop has looked at it; the answer may take its time */
    bool answered;
    int rc; /* 0 or -1 with err */
    struct stk_err err;
    void (*free)(struct ticket *t);
    STAILQ_ENTRY(ticket) link; /* for the loop's lists of waiters */
};
STAILQ_HEAD(ticket_list, ticket);

/* run is called on the loop with the loop's reference; free releases the operation when both have let go. */
void ticket_init(struct ticket *t, void (*run)(struct stk_task *task), void (*free)(struct ticket *t));

/* Caller: posts and waits. true: answered, read rc and err. false: the deadline passed. Then ticket_unref(). timeout_ms < 0: no limit. */
bool ticket_call(struct ticket *t, struct stk_loop *loop, int64_t timeout_ms);
void ticket_unref(struct ticket *t);

/*
 * Caller, when its time is over: waits all the same until the loop has looked, since only the loop knows what is alive, and what it does not
 * know is answered at once. As ticket_call().
 */
bool ticket_wait_heard(struct ticket *t);

/* Loop: what the caller has asked for is on its way, or a part of the answer is there. Under the lock: ticket_hear_locked(). */
void ticket_hear(struct ticket *t);
void ticket_hear_locked(struct ticket *t);

/* Loop: behind those that wait already, of whom it drops those that have stopped waiting. */
void ticket_add(struct ticket_list *list, struct ticket *t);

/* Loop: answers and lets go. err NULL: success. */
void ticket_answer(struct ticket *t, const struct stk_err *err);
void ticket_answer_all(struct ticket_list *list, const struct stk_err *err);

#endif
