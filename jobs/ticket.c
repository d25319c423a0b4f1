#include "ticket.h"

#include "stoker/clock.h"

void ticket_init(struct ticket *t, void (*run)(struct stk_task *task), void (*free)(struct ticket *t))
{
    pthread_condattr_t attr;

    t->task = (struct stk_task){ .run = run };
    atomic_init(&t->refs, 2);
    pthread_mutex_init(&t->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&t->cond, &attr);
    pthread_condattr_destroy(&attr);
    t->heard = t->answered = false;
    t->rc = 0;
    t->err = (struct stk_err){ 0 };
    t->free = free;
}

void ticket_unref(struct ticket *t)
{
    if (atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel) != 1)
        return;
    pthread_cond_destroy(&t->cond);
    pthread_mutex_destroy(&t->lock);
    t->free(t);
}

bool ticket_call(struct ticket *t, struct stk_loop *loop, int64_t timeout_ms)
{
    struct timespec deadline = stk_mono_deadline(timeout_ms);
    bool answered;

    stk_loop_post(loop, &t->task);
    pthread_mutex_lock(&t->lock);
    while (!t->answered && pthread_cond_timedwait(&t->cond, &t->lock, &deadline) == 0)
        ;
    answered = t->answered;
    pthread_mutex_unlock(&t->lock);
    return answered;
}

bool ticket_wait_heard(struct ticket *t)
{
    enum { HEAR_MS = 5000 }; /* for the loop to look, and for a job to be recorded */
    struct timespec deadline = stk_mono_deadline(HEAR_MS);
    bool answered;

    pthread_mutex_lock(&t->lock);
    while (!t->heard && !t->answered && pthread_cond_timedwait(&t->cond, &t->lock, &deadline) == 0)
        ;
    answered = t->answered;
    pthread_mutex_unlock(&t->lock);
    return answered;
}

void ticket_hear_locked(struct ticket *t)
{
    t->heard = true;
    pthread_cond_signal(&t->cond);
}

void ticket_hear(struct ticket *t)
{
    pthread_mutex_lock(&t->lock);
    ticket_hear_locked(t);
    pthread_mutex_unlock(&t->lock);
}

void ticket_answer(struct ticket *t, const struct stk_err *err)
{
    pthread_mutex_lock(&t->lock);
    if (err) {
        t->rc = -1;
        t->err = *err;
    }
    t->answered = true;
    pthread_cond_signal(&t->cond); /* under the lock: the caller may free the ticket as soon as it is released */
    pthread_mutex_unlock(&t->lock);
    ticket_unref(t);
}

void ticket_add(struct ticket_list *list, struct ticket *t)
{
    struct ticket *old, *next;

    for (old = STAILQ_FIRST(list); old; old = next) {
        next = STAILQ_NEXT(old, link);
        if (atomic_load_explicit(&old->refs, memory_order_acquire) != 1)
            continue;
        STAILQ_REMOVE(list, old, ticket, link); /* its caller has left */
        ticket_unref(old);
    }
    STAILQ_INSERT_TAIL(list, t, link);
}

void ticket_answer_all(struct ticket_list *list, const struct stk_err *err)
{
    struct ticket *t;

    while ((t = STAILQ_FIRST(list))) {
        STAILQ_REMOVE_HEAD(list, link);
        ticket_answer(t, err);
    }
}
