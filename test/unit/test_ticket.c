/* Who waits in a list: those that have left do not pile up, those that wait are answered. */
#include "ticket.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

struct call {
    struct ticket t;
    int number;
};

static int n_alive;

static void never_run(struct stk_task *task)
{
    (void)task;
    fail_msg("nobody has posted it");
}

static void free_call(struct ticket *t)
{
    n_alive--;
    free(t);
}

static struct call *call_new(int number)
{
    struct call *c = calloc(1, sizeof *c);

    assert_non_null(c);
    ticket_init(&c->t, never_run, free_call);
    c->number = number;
    n_alive++;
    return c;
}

/* A client whose time is over: its thread lets go, the loop still has the ticket in the list of a job that runs on. */
static void leave(struct call *c)
{
    ticket_unref(&c->t);
}

static void those_that_have_left_do_not_pile_up(void **state)
{
    struct ticket_list list = STAILQ_HEAD_INITIALIZER(list);

    (void)state;
    for (int i = 0; i < 1000; i++) {
        struct call *c = call_new(i);

        ticket_add(&list, &c->t);
        leave(c);
        assert_int_equal(1, n_alive); /* the newest: it goes with the next that comes, or with the answer */
    }
    ticket_answer_all(&list, NULL);
    assert_int_equal(0, n_alive);
}

static void those_that_wait_are_answered_in_order(void **state)
{
    struct ticket_list list = STAILQ_HEAD_INITIALIZER(list);
    struct call *waiting[4], *c;
    struct ticket *t;
    struct stk_err err;
    int i = 0;

    (void)state;
    for (int n = 0; n < 4; n++) { /* one leaves at the head, between two, and at the end */
        leave(c = call_new(-1));
        ticket_add(&list, &c->t);
        waiting[n] = call_new(n);
        ticket_add(&list, &waiting[n]->t);
    }
    leave(c = call_new(-1));
    ticket_add(&list, &c->t);
    assert_int_equal(5, n_alive);
    STAILQ_FOREACH(t, &list, link)
    {
        if (i < 4)
            assert_int_equal(i++, ((struct call *)t)->number);
    }
    stk_fail(&err, STK_CONFLICT, "as it is");
    ticket_answer_all(&list, &err);
    assert_int_equal(4, n_alive); /* whose callers read the answer */
    assert_true(STAILQ_EMPTY(&list));
    for (int n = 0; n < 4; n++) {
        assert_true(waiting[n]->t.answered);
        assert_int_equal(-1, waiting[n]->t.rc);
        assert_int_equal(STK_CONFLICT, waiting[n]->t.err.code);
        leave(waiting[n]);
    }
    assert_int_equal(0, n_alive);
}

/* A caller without any time, and a loop that comes later: what it says counts all the same. */
static void *hear_later(void *arg)
{
    ticket_hear(arg);
    ticket_unref(arg);
    return NULL;
}

static void *answer_later(void *arg)
{
    struct stk_err err;

    stk_fail(&err, STK_NOT_FOUND, "it is not there");
    ticket_answer(arg, &err);
    return NULL;
}

static void who_has_no_time_is_heard_all_the_same(void **state)
{
    struct call *taken = call_new(1), *refused = call_new(2);
    pthread_t loop;

    (void)state;
    assert_int_equal(0, pthread_create(&loop, NULL, hear_later, &taken->t));
    assert_false(ticket_wait_heard(&taken->t)); /* it goes on */
    assert_true(taken->t.heard);
    pthread_join(loop, NULL);
    assert_int_equal(0, pthread_create(&loop, NULL, answer_later, &refused->t));
    assert_true(ticket_wait_heard(&refused->t));
    assert_int_equal(STK_NOT_FOUND, refused->t.err.code);
    pthread_join(loop, NULL);
    leave(taken);
    leave(refused);
    assert_int_equal(0, n_alive);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(those_that_have_left_do_not_pile_up),
        cmocka_unit_test(those_that_wait_are_answered_in_order),
        cmocka_unit_test(who_has_no_time_is_heard_all_the_same),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
