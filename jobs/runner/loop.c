#include "stoker/loop.h"

#include <assert.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <uv.h>

enum { MOST_TURN_HOOKS = 4 };

struct stk_loop {
    uv_loop_t uv;
    uv_async_t wake;
    uv_prepare_t turn;
    struct {
        void (*fn)(void *arg);
        void *arg;
    } hooks[MOST_TURN_HOOKS];
    size_t n_hooks;
    pthread_mutex_t lock; /* guards first, last, stopping */
    struct stk_task *first, *last;
    bool stopping;
};

static void run_tasks(uv_async_t *wake)
{
    struct stk_loop *loop = wake->data;
    struct stk_task *t;
    bool stopping;

    pthread_mutex_lock(&loop->lock);
    t = loop->first;
    loop->first = loop->last = NULL;
    stopping = loop->stopping;
    pthread_mutex_unlock(&loop->lock);

    while (t) {
        struct stk_task *next = t->next;

        t->run(t);
        t = next;
    }
    if (stopping)
        uv_stop(&loop->uv);
}

static void on_turn(uv_prepare_t *turn)
{
    struct stk_loop *loop = turn->data;

    for (size_t i = 0; i < loop->n_hooks; i++)
        loop->hooks[i].fn(loop->hooks[i].arg);
}

void stk_loop_on_turn(struct stk_loop *loop, void (*fn)(void *arg), void *arg)
{
    assert(loop->n_hooks < MOST_TURN_HOOKS);
    loop->hooks[loop->n_hooks].fn = fn;
    loop->hooks[loop->n_hooks++].arg = arg;
}

struct stk_loop *stk_loop_new(struct stk_err *err)
{
    struct stk_loop *loop = calloc(1, sizeof *loop);
    int rc;

    if (!loop) {
        stk_fail(err, STK_INTERNAL, "out of memory");
        return NULL;
    }
    if ((rc = uv_loop_init(&loop->uv)) < 0) {
        stk_fail(err, STK_INTERNAL, "event loop: %s", uv_strerror(rc));
        free(loop);
        return NULL;
    }
    if ((rc = uv_async_init(&loop->uv, &loop->wake, run_tasks)) < 0) {
        stk_fail(err, STK_INTERNAL, "event loop: %s", uv_strerror(rc));
        uv_loop_close(&loop->uv);
        free(loop);
        return NULL;
    }
    loop->wake.data = loop;
    uv_prepare_init(&loop->uv, &loop->turn);
    loop->turn.data = loop;
    uv_prepare_start(&loop->turn, on_turn);
    pthread_mutex_init(&loop->lock, NULL);
    return loop;
}

void stk_loop_run(struct stk_loop *loop)
{
    uv_run(&loop->uv, UV_RUN_DEFAULT);
    run_tasks(&loop->wake); /* what was posted between the last wake-up and the stop */
    on_turn(&loop->turn);
}

void stk_loop_stop(struct stk_loop *loop)
{
    pthread_mutex_lock(&loop->lock);
    loop->stopping = true;
    pthread_mutex_unlock(&loop->lock);
    uv_async_send(&loop->wake);
}

void stk_loop_free(struct stk_loop *loop)
{
    if (!loop)
        return;
    run_tasks(&loop->wake);
    loop->n_hooks = 0; /* those behind them are gone */
    uv_close((uv_handle_t *)&loop->wake, NULL);
    uv_close((uv_handle_t *)&loop->turn, NULL);
    while (uv_run(&loop->uv, UV_RUN_NOWAIT) != 0) /* close callbacks */
        ;
    uv_loop_close(&loop->uv);
    pthread_mutex_destroy(&loop->lock);
    free(loop);
}

void stk_loop_post(struct stk_loop *loop, struct stk_task *first)
{
    struct stk_task *last = first;
    bool was_empty;

    while (last->next)
        last = last->next;
    pthread_mutex_lock(&loop->lock);
    was_empty = !loop->first;
    if (was_empty)
        loop->first = first;
    else
        loop->last->next = first;
    loop->last = last;
    pthread_mutex_unlock(&loop->lock);
    if (was_empty) /* else a wake-up is on its way already */
        uv_async_send(&loop->wake);
}

void stk_loop_poster(void *loop, struct stk_task *first)
{
    stk_loop_post(loop, first);
}

struct uv_loop_s *stk_loop_uv(struct stk_loop *loop)
{
    return &loop->uv;
}

/* ---- timers */

struct stk_timer {
    uv_timer_t uv;
    void (*fn)(void *arg);
    void *arg;
};

static void on_timer(uv_timer_t *uv)
{
    struct stk_timer *t = uv->data;

    t->fn(t->arg);
}

struct stk_timer *stk_timer_new(struct stk_loop *loop, void (*fn)(void *arg), void *arg)
{
    struct stk_timer *t = calloc(1, sizeof *t);

    if (!t)
        return NULL;
    uv_timer_init(&loop->uv, &t->uv);
    t->uv.data = t;
    t->fn = fn;
    t->arg = arg;
    return t;
}

void stk_timer_set(struct stk_timer *t, int64_t ms)
{
    uv_update_time(t->uv.loop);
    uv_timer_start(&t->uv, on_timer, ms > 0 ? (uint64_t)ms : 0, 0);
}

void stk_timer_clear(struct stk_timer *t)
{
    uv_timer_stop(&t->uv);
}

static void free_timer(uv_handle_t *uv)
{
    free(uv->data);
}

void stk_timer_free(struct stk_timer *t)
{
    if (t)
        uv_close((uv_handle_t *)&t->uv, free_timer);
}

/* ---- blocking work */

struct background {
    uv_work_t uv;
    void (*work)(void *arg);
    void (*after)(void *arg);
    void *arg;
};

static void on_work(uv_work_t *uv)
{
    struct background *b = uv->data;

    b->work(b->arg);
}

static void on_after(uv_work_t *uv, int status)
{
    struct background *b = uv->data;

    (void)status;
    b->after(b->arg);
    free(b);
}

void stk_loop_background(struct stk_loop *loop, void (*work)(void *arg), void (*after)(void *arg), void *arg)
{
    struct background *b = calloc(1, sizeof *b);

    if (b) {
        *b = (struct background){ .uv.data = b, .work = work, .after = after, .arg = arg };
        if (uv_queue_work(&loop->uv, &b->uv, on_work, on_after) == 0)
            return;
        free(b);
    }
    work(arg);
    after(arg);
}
