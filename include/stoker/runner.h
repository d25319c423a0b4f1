/*
 * Processes and their connections: the listening socket that runner processes dial, frames in and out, starting a zygote,
 * and watching processes by pidfd. Knows the frames' form and hello's credentials (python-runner/PROTOCOL.md), nothing of jobs. Loop thread only, but
 * for stk_runner_new() and stk_process_alive().
 */
#ifndef STOKER_RUNNER_H
#define STOKER_RUNNER_H

#include "stoker/err.h"
#include "stoker/job.h"
#include "stoker/loop.h"

#include <jansson.h>

enum { STK_PROTOCOL = 1 };

struct stk_runner;
struct stk_conn; /* one process's connection; valid from hello() until closed() has returned */

struct stk_runner_events {
    /*
     * A process with our uid and token, speaking our protocol, has said hello. Answer with stk_conn_welcome() or
     * stk_conn_refuse(). msg is borrowed in all three.
     */
    void (*hello)(void *arg, struct stk_conn *conn, json_t *msg);
    void (*message)(void *arg, struct stk_conn *conn, const char *type, json_t *msg); /* only after welcome */
    void (*closed)(void *arg,
                   struct stk_conn *conn); /* only after welcome; by the peer, or because it broke the protocol */
    void *arg;
};

struct stk_runner_options {
    int state_dir_fd; /* runner.sock, token */
    struct stk_runner_events events;
};

/* Creates runner.sock (a stale one is replaced: the caller holds the lock of the state directory) and a token if there is none. */
struct stk_runner *stk_runner_new(struct stk_loop *loop, const struct stk_runner_options *options, struct stk_err *err);
void stk_runner_free(struct stk_runner *r); /* closes all connections without calling closed(); NULL is fine */

void stk_conn_welcome(struct stk_conn *c, void *user);
void stk_conn_refuse(struct stk_conn *c, const char *reason); /* sends refused and closes */
void *stk_conn_user(const struct stk_conn *c);
void stk_conn_close(struct stk_conn *c); /* closed() is not called */
/* Sends one message; takes the reference. A message to a closed connection is dropped: hello repeats what matters. */
void stk_conn_send_take(struct stk_conn *c, json_t *msg);

/* ---- processes */

/* Fills pid's start time and boot id. 0, or -1 with STK_NOT_FOUND when there is no such process (a zombie counts as none). */
int stk_process_identify(pid_t pid, struct stk_process_id *ret, struct stk_err *err);

/*
 * Watches a process until it has ended: then fn is called once, from the loop. NULL with STK_NOT_FOUND when it is gone already (or
 * its pid belongs to another process, or to another boot). Free in fn or before.
 */
struct stk_watch;
struct stk_watch *stk_watch_new(struct stk_loop *loop, const struct stk_process_id *id, void (*fn)(void *arg),
                                void *arg, struct stk_err *err);
int stk_watch_kill(struct stk_watch *w, int sig); /* to this process only; 0, or -1: it is gone */
void stk_watch_free(struct stk_watch *w);         /* NULL is fine */

struct stk_spawn {
    const char *file;        /* looked up in PATH */
    const char *const *argv; /* NULL-ended */
    const char *const *envp; /* NULL-ended */
    const char *cwd;
    int log_fd; /* standard output and error; borrowed */
    /* Called on the loop when it has ended, with its exit status or the signal that ended it (else 0). NULL: nobody cares. */
    void (*exited)(void *arg, int64_t status, int sig);
    void *arg;
};

/*
 * Starts a process in a session of its own, so that it outlives us, and reaps it when it ends. Fills pid, start_time, boot_id.
 * 0, or -1 when it could not be started; one that ends at once was started.
 */
int stk_runner_spawn(struct stk_runner *r, const struct stk_spawn *spawn, struct stk_process_id *ret,
                     struct stk_err *err);

#endif
