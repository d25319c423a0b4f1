/* States of jobs and contexts: names and allowed moves (diagrams in job.h and context.h). Pure. */
#include "stoker/context.h"
#include "stoker/job.h"

#include <string.h>

static const char *const job_names[STK_JOB_STATES] = {
    [STK_JOB_QUEUED] = "QUEUED",       [STK_JOB_STARTING] = "STARTING",
    [STK_JOB_RUNNING] = "RUNNING",     [STK_JOB_CANCELLING] = "CANCELLING",
    [STK_JOB_FINISHED] = "FINISHED",   [STK_JOB_ERROR] = "ERROR",
    [STK_JOB_INVALID] = "INVALID",     [STK_JOB_KILLED] = "KILLED",
    [STK_JOB_TIMED_OUT] = "TIMED_OUT", [STK_JOB_LOST] = "LOST",
};

#define TO(state) (1U << STK_JOB_##state)
static const unsigned job_moves[STK_JOB_STATES] = {
    [STK_JOB_QUEUED] = TO(STARTING) | TO(ERROR) | TO(TIMED_OUT) | TO(KILLED),
    [STK_JOB_STARTING] = TO(QUEUED) | TO(RUNNING) | TO(CANCELLING) | TO(FINISHED) | TO(ERROR) | TO(INVALID) | TO(LOST),
    [STK_JOB_RUNNING] = TO(QUEUED) | TO(CANCELLING) | TO(FINISHED) | TO(ERROR) | TO(INVALID) | TO(LOST),
    [STK_JOB_CANCELLING] = TO(KILLED) | TO(TIMED_OUT) | TO(FINISHED) | TO(ERROR) | TO(INVALID) | TO(LOST),
};
#undef TO

static const char *const context_names[STK_CONTEXT_STATES] = {
    [STK_CONTEXT_CREATING] = "CREATING", [STK_CONTEXT_RUNNING] = "RUNNING", [STK_CONTEXT_STOPPING] = "STOPPING",
    [STK_CONTEXT_STOPPED] = "STOPPED",   [STK_CONTEXT_FAILED] = "FAILED",   [STK_CONTEXT_LOST] = "LOST",
};

/* RUNNING and STOPPING go back to CREATING when the server stops and jobs still wait for the context. */
#define TO(state) (1U << STK_CONTEXT_##state)
static const unsigned context_moves[STK_CONTEXT_STATES] = {
    [STK_CONTEXT_CREATING] = TO(RUNNING) | TO(STOPPING) | TO(FAILED) | TO(LOST),
    [STK_CONTEXT_RUNNING] = TO(STOPPING) | TO(FAILED) | TO(LOST) | TO(CREATING),
    [STK_CONTEXT_STOPPING] = TO(STOPPED) | TO(FAILED) | TO(LOST) | TO(CREATING),
};
#undef TO

static int parse(const char *const *names, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(names[i], name) == 0)
            return (int)i;
    }
    return -1;
}

const char *stk_job_state_name(enum stk_job_state state)
{
    return job_names[state];
}

int stk_job_state_parse(const char *name, enum stk_job_state *ret)
{
    int i = parse(job_names, STK_JOB_STATES, name);

    if (i < 0)
        return -1;
    *ret = (enum stk_job_state)i;
    return 0;
}

bool stk_job_is_final(enum stk_job_state state)
{
    return job_moves[state] == 0;
}

bool stk_job_may_move(enum stk_job_state from, enum stk_job_state to)
{
    return job_moves[from] & 1U << to;
}

const char *stk_context_state_name(enum stk_context_state state)
{
    return context_names[state];
}

int stk_context_state_parse(const char *name, enum stk_context_state *ret)
{
    int i = parse(context_names, STK_CONTEXT_STATES, name);

    if (i < 0)
        return -1;
    *ret = (enum stk_context_state)i;
    return 0;
}

bool stk_context_is_final(enum stk_context_state state)
{
    return context_moves[state] == 0;
}

bool stk_context_may_move(enum stk_context_state from, enum stk_context_state to)
{
    return context_moves[from] & 1U << to;
}
