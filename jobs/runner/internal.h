/* Shared inside jobs/runner. */
#ifndef STOKER_RUNNER_INTERNAL_H
#define STOKER_RUNNER_INTERNAL_H

#include "stoker/buf.h"
#include "stoker/frame.h"
#include "stoker/runner.h"

#include <sys/queue.h>
#include <uv.h>

enum { TOKEN_HEX = 64, FRAME_IN_MAX = 1 << 20 };

struct stk_conn {
    uv_pipe_t pipe;
    struct stk_runner *runner;
    struct stk_frame_decoder *decoder;
    void *user;
    bool welcomed, closing;
    LIST_ENTRY(stk_conn) link;
};

struct stk_runner {
    struct stk_loop *loop;
    struct stk_runner_events events;
    uv_pipe_t listener;
    char token[TOKEN_HEX + 1];
    LIST_HEAD(, stk_conn) conns;
    bool listener_closed;
};

#endif
