/*
 * THE LOOP: one thread (libuv) that owns all live state. Other threads hand it tasks; its own code sets timers.
 *
 * A task is embedded in whatever the poster allocates and is owned by the loop from post until run() is called. Tasks
 * posted by one thread run in the order they were posted. Every task posted before stk_loop_stop() is run.
 */
#ifndef STOKER_LOOP_H
#define STOKER_LOOP_H

#include "stoker/err.h"

#include <stdint.h>

struct stk_loop;
struct uv_loop_s;

struct stk_task {
    struct stk_task *next;
    void (*run)(struct stk_task *task); /* on the loop thread; may free the task */
};

/* Post a chain of tasks (linked by next, NULL at the end), first to run first. Any thread. Never fails, never blocks. */
typedef void stk_post_fn(void *to, struct stk_task *first);

struct stk_loop *stk_loop_new(struct stk_err *err);
void stk_loop_free(struct stk_loop *loop); /* after run() has returned; closes what is left */
void stk_loop_run(struct stk_loop *loop);  /* makes the calling thread the loop thread, until stk_loop_stop() */
void stk_loop_stop(struct stk_loop *loop); /* any thread */
void stk_loop_post(struct stk_loop *loop, struct stk_task *first);
void stk_loop_poster(void *loop, struct stk_task *first); /* stk_loop_post() as a stk_post_fn */

/* fn is called at the end of each turn, before the loop sleeps; for what is better done once than often. Before run, or loop thread. */
void stk_loop_on_turn(struct stk_loop *loop, void (*fn)(void *arg), void *arg);

/* Timers: loop thread only. One-shot; fn may set the timer again. ms from now. */
struct stk_timer;
struct stk_timer *stk_timer_new(struct stk_loop *loop, void (*fn)(void *arg), void *arg); /* NULL: out of memory */
void stk_timer_set(struct stk_timer *t, int64_t ms);
void stk_timer_clear(struct stk_timer *t);
void stk_timer_free(struct stk_timer *t); /* NULL is fine; fn is not called any more */

/*
 * Blocking work (removing a tree, reading a file) on a helper thread: work() there, then after() on the loop. Loop thread
 * only. When out of memory both are called at once, on the loop.
 */
void stk_loop_background(struct stk_loop *loop, void (*work)(void *arg), void (*after)(void *arg), void *arg);

/* For jobs/runner only: the libuv loop behind it. */
struct uv_loop_s *stk_loop_uv(struct stk_loop *loop);

#endif
