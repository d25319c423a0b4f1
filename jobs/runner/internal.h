/* Shared inside jobs/runner. */
#ifndef STOKER_RUNNER_INTERNAL_H
#define STOKER_RUNNER_INTERNAL_H

#include "stoker/buf.h"
#include "stoker/frame.h"
#include "stoker/runner.h"

#include <sys/queue.h>
#include <uv.h>

enum { TOKEN_HEX = 64, FRAME_IN_MAX = 1 << 20, OUT_KEPT_MAX = 64 << 10, HELLO_MS = 5000 };

struct stk_conn {
    uv_pipe_t pipe;
    struct stk_runner *runner;
    struct stk_frame_decoder *decoder;
    void *user;
    int64_t since_ms; /* monotonic: when it was accepted */
    bool welcomed, closing, dirty;
    struct stk_buf
        out; /* frames of this turn of the loop, written together: one system call, one wake-up of the peer */
    LIST_ENTRY(stk_conn) link, dirty_link;
};

struct stk_runner {
    struct stk_loop *loop;
    struct stk_runner_events events;
    uv_pipe_t listener;
    struct stk_timer *hello_timer;
    bool hello_timer_set; /* somebody has not been welcomed */
    char token[TOKEN_HEX + 1];
    LIST_HEAD(, stk_conn) conns, dirty;
};

#endif
