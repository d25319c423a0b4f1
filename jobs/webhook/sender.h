/*
 * The only user of libcurl: POSTs on their way, any number at once, none of which waits for another. One thread, but for
 * sender_wake().
 */
#ifndef STOKER_WEBHOOK_SENDER_H
#define STOKER_WEBHOOK_SENDER_H

#include "stoker/webhook.h"

struct sender;

/* How one went. */
struct outcome {
    int status;                        /* 0: there was no answer */
    bool forbidden;                    /* every address of the host is one that the rules do not allow */
    int64_t pause_s;                   /* that the receiver has asked for; 0: none */
    char error[STK_ATTEMPT_ERROR_MAX]; /* "": it was delivered */
};

struct post {
    const char *url;               /* borrowed until it is done */
    const char *headers[6];        /* borrowed for the call, NULL-ended: "Name: value" */
    bool anywhere;                 /* the rules are not for it */
    struct stk_webhook_body *body; /* borrowed until it is done */
    void *user;
};

typedef void sender_done_fn(void *arg, void *user, const struct outcome *outcome);

/* rules are borrowed. NULL: err. */
struct sender *sender_new(const struct stk_webhook_rules *rules, int64_t connect_timeout_ms, int64_t timeout_ms,
                          sender_done_fn *done, void *arg, struct stk_err *err);
void sender_free(struct sender *s); /* cuts what is on its way, without a word. NULL is fine */
/* Begins one; done is called for it, from sender_run(). -1: it was not begun. */
int sender_post(struct sender *s, const struct post *post, struct stk_err *err);
/* Moves all of them on, for at most ms while nothing happens. */
void sender_run(struct sender *s, int64_t ms);
void sender_wake(struct sender *s); /* sender_run() returns soon. Any thread */

#endif
