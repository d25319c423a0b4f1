/* The allowed moves of jobs and contexts: exactly the diagrams of job.h and context.h. */
#include "stoker/context.h"
#include "stoker/job.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void job_moves_are_those_of_the_diagram(void **state)
{
    /* one row per state, one column per target: Q S R C F E I K T L */
    static const char *const allowed[STK_JOB_STATES] = {
        [STK_JOB_QUEUED] = ".x...x.xx.",     [STK_JOB_STARTING] = "x.xxxxx..x", [STK_JOB_RUNNING] = "x..xxxx..x",
        [STK_JOB_CANCELLING] = "....xxxxxx", [STK_JOB_FINISHED] = "..........", [STK_JOB_ERROR] = "..........",
        [STK_JOB_INVALID] = "..........",    [STK_JOB_KILLED] = "..........",   [STK_JOB_TIMED_OUT] = "..........",
        [STK_JOB_LOST] = "..........",
    };

    (void)state;
    for (int from = 0; from < STK_JOB_STATES; from++) {
        for (int to = 0; to < STK_JOB_STATES; to++)
            assert_int_equal(allowed[from][to] == 'x',
                             stk_job_may_move((enum stk_job_state)from, (enum stk_job_state)to));
        assert_int_equal(strchr(allowed[from], 'x') == NULL, stk_job_is_final((enum stk_job_state)from));
    }
}

static void context_moves_are_those_of_the_diagram(void **state)
{
    /* C R S | stopped failed lost */
    static const char *const allowed[STK_CONTEXT_STATES] = {
        [STK_CONTEXT_CREATING] = ".xx.xx", [STK_CONTEXT_RUNNING] = "x.x.xx", [STK_CONTEXT_STOPPING] = "x..xxx",
        [STK_CONTEXT_STOPPED] = "......",  [STK_CONTEXT_FAILED] = "......",  [STK_CONTEXT_LOST] = "......",
    };

    (void)state;
    for (int from = 0; from < STK_CONTEXT_STATES; from++) {
        for (int to = 0; to < STK_CONTEXT_STATES; to++)
            assert_int_equal(allowed[from][to] == 'x',
                             stk_context_may_move((enum stk_context_state)from, (enum stk_context_state)to));
        assert_int_equal(strchr(allowed[from], 'x') == NULL, stk_context_is_final((enum stk_context_state)from));
    }
}

static void names_are_read_back(void **state)
{
    enum stk_job_state job;
    enum stk_context_state context;

    (void)state;
    for (int i = 0; i < STK_JOB_STATES; i++) {
        assert_int_equal(0, stk_job_state_parse(stk_job_state_name((enum stk_job_state)i), &job));
        assert_int_equal(i, job);
    }
    for (int i = 0; i < STK_CONTEXT_STATES; i++) {
        assert_int_equal(0, stk_context_state_parse(stk_context_state_name((enum stk_context_state)i), &context));
        assert_int_equal(i, context);
    }
    assert_int_equal(-1, stk_job_state_parse("running", &job));
    assert_int_equal(-1, stk_context_state_parse("", &context));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(job_moves_are_those_of_the_diagram),
        cmocka_unit_test(context_moves_are_those_of_the_diagram),
        cmocka_unit_test(names_are_read_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
