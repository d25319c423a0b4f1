/*
 * Webhooks: the end of a job is told to whoever wants to know, by an HTTP POST.
 *
 * What is to be told is a row, a delivery: it is recorded with the job (its own webhook) or with its end (those of the
 * configuration), and is due from the commit of that end on, so no crash loses it. A thread sends what is due and records how
 * that went; a server that dies in between sends again: at least once, in no order.
 *
 * The functions are for any thread but the loop, unless they are pure.
 */
#ifndef STOKER_WEBHOOK_H
#define STOKER_WEBHOOK_H

#include "stoker/buf.h"
#include "stoker/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct sockaddr;
struct stk_core;
struct stk_job_row;
struct stk_store;

/* Who words the body. */
enum stk_webhook_form { STK_WEBHOOK_NATIVE, STK_WEBHOOK_SJS };
#define STK_WEBHOOK_FORMS (STK_WEBHOOK_SJS + 1)
const char *stk_webhook_form_name(enum stk_webhook_form form); /* "native", "sjs" */

enum stk_delivery_state { STK_DELIVERY_WAITING, STK_DELIVERY_DUE, STK_DELIVERY_DELIVERED, STK_DELIVERY_GIVEN_UP };
#define STK_DELIVERY_STATES (STK_DELIVERY_GIVEN_UP + 1)
const char *stk_delivery_state_name(enum stk_delivery_state state); /* "WAITING", for the job's end; "DUE", ... */
int stk_delivery_state_parse(const char *name, enum stk_delivery_state *ret);

enum { STK_ATTEMPT_ERROR_MAX = 256 }; /* bytes, of why an attempt failed */

/* Released by stk_delivery_row_done(). */
struct stk_delivery_row {
    int64_t seq;
    char id[STK_UUID_MAX]; /* the same in each attempt: how a receiver knows what it has had already */
    char job_id[STK_UUID_MAX];
    struct stk_text *url, *origin; /* origin: "http://host:port" */
    struct stk_text *secret;       /* only for who sends it; NULL: it has none of its own */
    enum stk_webhook_form form;
    enum stk_delivery_state state;
    int64_t event;                        /* number of the event that tells of the job's end; 0: it has not ended */
    int attempts;                         /* that are recorded */
    int64_t since_us, due_us, settled_us; /* the job's end, the next attempt, the end of the last one; 0: none */
    int status;                           /* HTTP's, of the last attempt; 0: no answer */
    struct stk_text *error;               /* why the last attempt failed; NULL: it did not */
};
void stk_delivery_row_done(struct stk_delivery_row *row);
void stk_delivery_rows_free(struct stk_delivery_row *rows, size_t n);

/* Which of them; what is NULL or 0 lets all pass. */
struct stk_delivery_filter {
    const char *job_id;
    const enum stk_delivery_state *state;
    int64_t before; /* seq of the last one of the page before */
    size_t limit;
};
/* Newest first, without secrets; release with stk_delivery_rows_free(). */
int stk_delivery_list(struct stk_core *core, const struct stk_delivery_filter *filter, struct stk_delivery_row **ret,
                      size_t *ret_n, struct stk_err *err);

/* ---- where to: pure */

/* Where webhooks of jobs may lead. Borrowed texts. */
struct stk_webhook_rules {
    json_t *allow; /* array of texts, each as stk_webhook_allow_check() takes it */
    json_t *urls;  /* array of texts: those of the configuration, which may lead anywhere */
};

/*
 * One entry of the list of what is allowed: "public", "private", "loopback", "link-local", "any", an address, a range such
 * as 10.0.0.0/8, a host's name, or "*.example.org". STK_INVALID says what it may be.
 */
int stk_webhook_allow_check(const char *entry, struct stk_err *err);
/* A name on the list may lead to any address. */
bool stk_webhook_allows_name(const struct stk_webhook_rules *rules, const char *host);
bool stk_webhook_allows_address(const struct stk_webhook_rules *rules, const struct sockaddr *address);

enum { STK_WEBHOOK_URL_MAX = 2048, STK_WEBHOOK_SECRET_MAX = 512 }; /* bytes */

/* http or https, with a host, without name and password. *ret_origin ("http://host:port") is the caller's to free(). */
int stk_webhook_url_check(const char *url, char **ret_origin, struct stk_err *err);
/* 1 to STK_WEBHOOK_SECRET_MAX bytes; "whsec_" and base64 is a key in bytes, any other text is the key itself. */
int stk_webhook_secret_check(const char *secret, struct stk_err *err);
/*
 * A job's webhook as stk_job_spec takes it, the caller's to free(); secret NULL: none. STK_INVALID: one of them is wrong, or the
 * rules do not let it lead there. A host's name is looked up, and its addresses checked, only when something is sent.
 */
char *stk_webhook_make(const struct stk_webhook_rules *rules, const char *url, const char *secret,
                       enum stk_webhook_form form, struct stk_err *err);
/* The URL as it may be shown: without what may be secret in its path or query. The caller's to free(). */
char *stk_webhook_url_shown(const char *url);

/* ---- what is sent */

/* head, then len bytes of a file (fd -1: none), then tail. Zero-initialise but fd; release with stk_webhook_body_done(). */
struct stk_webhook_body {
    struct stk_buf head, tail;
    int fd;
    uint64_t file_len;
};
void stk_webhook_body_done(struct stk_webhook_body *body);

/* Words the body for a job that has ended. A result longer than max_result bytes is left out, and the body says so. */
typedef int stk_webhook_word_fn(struct stk_core *core, const struct stk_delivery_row *delivery,
                                const struct stk_job_row *job, int64_t max_result, struct stk_webhook_body *ret,
                                struct stk_err *err);

/*
 * The signature of https://www.standardwebhooks.com: "v1," and the base64 of HMAC-SHA256 over "<id>.<timestamp>." and the body.
 * ret of STK_SIGNATURE_MAX bytes.
 */
enum { STK_SIGNATURE_MAX = 48 };
int stk_webhook_sign(const char *secret, const char *id, int64_t timestamp_s, const struct stk_webhook_body *body,
                     char ret[STK_SIGNATURE_MAX], struct stk_err *err);

/*
 * The pause after so many failed attempts: retry_ms, doubled with each but the first, at most max_ms, and of that the second half
 * is left to chance (0 to 1), so that those who failed together do not come back together. Pure.
 */
int64_t stk_webhook_pause_ms(int attempts, int64_t retry_ms, int64_t max_ms, double chance);

/* ---- the thread */

struct stk_webhooks_options { /* all borrowed until stk_webhooks_stop() has returned */
    struct stk_webhook_rules rules;
    const char *secret; /* for deliveries that have none of their own; NULL: those are not signed */
    int64_t connect_timeout_ms, timeout_ms;
    int64_t retry_ms, retry_max_ms, give_up_ms;
    int64_t max_result_bytes;
    stk_webhook_word_fn *word[STK_WEBHOOK_FORMS];
};
struct stk_webhooks;
/* While the loop runs. */
struct stk_webhooks *stk_webhooks_start(struct stk_core *core, struct stk_store *store,
                                        const struct stk_webhooks_options *options, struct stk_err *err);
/* Sends what is due for at most ms, cuts what is on its way then, and waits for what is to be recorded: the loop must still run. */
void stk_webhooks_stop(struct stk_webhooks *w, int64_t ms);

#endif
