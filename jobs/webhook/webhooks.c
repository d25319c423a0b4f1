/*
 * The thread that delivers. It looks at what is due, to whom, and begins what fits into its limits; what ends is recorded,
 * and only when that is committed does the delivery leave its hands: until then the store still calls it due.
 *
 *     due --look()--> SENDING --on_sent()--> RECORDING --on_recorded()--> gone, or due again later
 *
 * Nothing is written before an attempt, so who dies while sending, or before it is recorded, sends again.
 */
#include "sender.h"

#include "live.h"

#include "stoker/clock.h"
#include "stoker/log.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum {
    PER_ORIGIN = 4, /* at once, to one host and port */
    TOTAL = 64,
    LOOK_GAP_MS = 10,     /* between two looks: jobs may end by thousands a second */
    LOOK_AGAIN_MS = 1000, /* after a store that could not be read, or a record that the disk had no room for */
    GONE = 410,           /* a receiver that says so means it */
};

enum flight_state { SENDING, RECORDING, RECORDED, NOT_RECORDED };

/* A delivery in our hands. */
struct flight {
    struct stk_webhooks *w;
    struct stk_delivery_row row;
    struct stk_webhook_body body;
    struct stk_attempt attempt;
    enum flight_state state; /* under lock from RECORDING on */
    int64_t record_again_ms;
    LIST_ENTRY(flight) link;
};

struct stk_webhooks {
    struct stk_webhooks_options o;
    struct stk_core *core;
    struct stk_store *store;
    struct sender *sender;
    pthread_t thread;
    LIST_HEAD(, flight) flights;
    int n_flights;
    int64_t look_ms; /* monotonic: when to look again */
    int64_t looked_ms;

    pthread_mutex_t lock; /* guards due to stop_by_ms, and states of flights */
    pthread_cond_t none_recording;
    int n_recording;
    bool due; /* something has become due, or a record was answered */
    bool stop;
    int64_t stop_by_ms;
};

static int64_t sooner(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* ---- records */

static void flight_free(struct flight *f)
{
    LIST_REMOVE(f, link);
    f->w->n_flights--;
    stk_webhook_body_done(&f->body);
    stk_delivery_row_done(&f->row);
    free(f);
}

/* On the loop. */
static void on_recorded(void *arg, const struct stk_err *err)
{
    struct flight *f = arg;
    struct stk_webhooks *w = f->w;

    if (err)
        stk_error("webhook", "attempt not recorded, will be tried again", "delivery", f->row.id, "why", err->msg);
    pthread_mutex_lock(&w->lock);
    f->state = err ? NOT_RECORDED : RECORDED; /* f is the thread's again */
    w->due = true;
    sender_wake(w->sender); /* here, since w may be gone when its lock is free and nothing is being recorded */
    if (--w->n_recording == 0)
        pthread_cond_signal(&w->none_recording);
    pthread_mutex_unlock(&w->lock);
}

static void record(struct flight *f)
{
    struct stk_webhooks *w = f->w;
    struct stk_err err;

    f->record_again_ms = stk_mono_ms() + LOOK_AGAIN_MS;
    pthread_mutex_lock(&w->lock);
    f->state = RECORDING;
    w->n_recording++;
    pthread_mutex_unlock(&w->lock);
    if (stk_store_delivery_tried(w->store, &f->attempt, on_recorded, f, &err) < 0)
        on_recorded(f, &err);
    stk_store_flush(w->store);
}

/* What became of an attempt, and when the next one is due. */
static void settle(struct flight *f, const struct outcome *o)
{
    const struct stk_webhooks_options *opt = &f->w->o;
    int64_t now_us = stk_wall_us(), pause_ms;
    struct stk_attempt *a = &f->attempt;
    int attempts = f->row.attempts + 1;
    char number[16], pause[24] = "";

    *a = (struct stk_attempt){ .seq = f->row.seq, .status = o->status };
    snprintf(a->error, sizeof a->error, "%s", o->error);
    snprintf(number, sizeof number, "%d", attempts);
    if (!o->error[0]) {
        a->state = STK_DELIVERY_DELIVERED;
        a->settled_us = now_us;
        stk_debug("webhook", "delivered", "job", f->row.job_id, "to", stk_text_data(f->row.origin), "attempts", number);
        return;
    }
    pause_ms = stk_webhook_pause_ms(attempts, opt->retry_ms, opt->retry_max_ms, (double)random() / (double)RAND_MAX);
    if (o->pause_s * 1000 > pause_ms)
        pause_ms = o->pause_s * 1000 < opt->retry_max_ms ? o->pause_s * 1000 : opt->retry_max_ms;
    if (o->forbidden || o->status == GONE || now_us + pause_ms * 1000 > f->row.since_us + opt->give_up_ms * 1000) {
        a->state = STK_DELIVERY_GIVEN_UP;
        a->settled_us = now_us;
        stk_error("webhook", "given up", "job", f->row.job_id, "delivery", f->row.id, "to",
                  stk_text_data(f->row.origin), "attempts", number, "why", a->error);
        return;
    }
    a->state = STK_DELIVERY_DUE;
    a->due_us = now_us + pause_ms * 1000;
    snprintf(pause, sizeof pause, "%lldms", (long long)pause_ms);
    stk_info("webhook", "attempt failed", "job", f->row.job_id, "to", stk_text_data(f->row.origin), "attempts", number,
             "next", pause, "why", a->error);
}

static void on_sent(void *arg, void *user, const struct outcome *outcome)
{
    struct flight *f = user;

    (void)arg;
    stk_webhook_body_done(&f->body);
    settle(f, outcome);
    record(f);
}

/* ---- attempts */

/* One of the configuration may lead anywhere. */
static bool is_configured(const struct stk_webhooks *w, const char *url)
{
    const json_t *item;
    size_t i;

    json_array_foreach(w->o.rules.urls, i, item) {
        if (strcmp(json_string_value(item), url) == 0)
            return true;
    }
    return false;
}

/* The headers of https://www.standardwebhooks.com. */
struct headers {
    char id[64], timestamp[64], signature[STK_SIGNATURE_MAX + 32];
};

static int send_it(struct flight *f, struct stk_err *err)
{
    struct stk_webhooks *w = f->w;
    const char *secret = f->row.secret ? stk_text_data(f->row.secret) : w->o.secret;
    struct stk_job_row job = { 0 };
    struct headers h;
    struct post post = { .url = stk_text_data(f->row.url),
                         .headers = { h.id, h.timestamp, secret ? h.signature : NULL, NULL },
                         .anywhere = is_configured(w, stk_text_data(f->row.url)),
                         .body = &f->body,
                         .user = f };
    int64_t now_s = stk_wall_us() / 1000000;
    int rc;

    f->body = (struct stk_webhook_body){ .fd = -1 };
    if (stk_store_job_get(w->store, f->row.job_id, &job, err) < 0)
        return -1;
    rc = w->o.word[f->row.form](w->core, &f->row, &job, w->o.max_result_bytes, &f->body, err);
    stk_job_row_done(&job);
    if (rc == 0 && (f->body.head.failed || f->body.tail.failed))
        rc = stk_fail(err, STK_INTERNAL, "out of memory");
    if (rc < 0)
        return -1;
    snprintf(h.id, sizeof h.id, "Webhook-Id: %s", f->row.id);
    snprintf(h.timestamp, sizeof h.timestamp, "Webhook-Timestamp: %lld", (long long)now_s);
    if (secret) {
        char signature[STK_SIGNATURE_MAX];

        if (stk_webhook_sign(secret, f->row.id, now_s, &f->body, signature, err) < 0)
            return -1;
        snprintf(h.signature, sizeof h.signature, "Webhook-Signature: %s", signature);
    }
    return sender_post(w->sender, &post, err);
}

static void begin(struct stk_webhooks *w, struct stk_delivery_row *row_take)
{
    struct flight *f = calloc(1, sizeof *f);
    struct outcome failed = { 0 };
    struct stk_err err;

    if (!f) { /* out of memory: it stays due */
        w->look_ms = sooner(w->look_ms, stk_mono_ms() + LOOK_AGAIN_MS);
        return;
    }
    f->w = w;
    f->row = *row_take;
    *row_take = (struct stk_delivery_row){ 0 };
    LIST_INSERT_HEAD(&w->flights, f, link);
    w->n_flights++;
    if (send_it(f, &err) == 0)
        return;
    snprintf(failed.error, sizeof failed.error, "%s", err.msg);
    on_sent(w, f, &failed);
}

/* ---- what is due */

static int flights_to(const struct stk_webhooks *w, const char *origin)
{
    const struct flight *f;
    int n = 0;

    LIST_FOREACH(f, &w->flights, link) n += strcmp(stk_text_data(f->row.origin), origin) == 0;
    return n;
}

static bool in_flight(const struct stk_webhooks *w, int64_t seq)
{
    const struct flight *f;

    LIST_FOREACH(f, &w->flights, link)
    {
        if (f->row.seq == seq)
            return true;
    }
    return false;
}

/* In how many ms; one that is later than any pause is due now, since somebody has put the clock back. */
static int64_t due_in_ms(const struct stk_webhooks *w, int64_t due_us)
{
    int64_t ms = (due_us - stk_wall_us() + 999) / 1000;

    return ms > w->o.retry_max_ms ? 0 : ms;
}

/* -1: the store cannot be read. */
static int look_at(struct stk_webhooks *w, const char *origin, int64_t now_ms)
{
    int room = PER_ORIGIN - flights_to(w, origin);
    struct stk_delivery_row *rows;
    struct stk_err err;
    size_t n;

    if (room <= 0)
        return 0; /* the end of one of them looks again */
    if (stk_store_due_deliveries(w->store, origin, 2 * PER_ORIGIN, &rows, &n, &err) < 0) {
        stk_error("webhook", "cannot read what is due", "why", err.msg);
        return -1;
    }
    for (size_t i = 0; i < n && room > 0 && w->n_flights < TOTAL; i++) {
        int64_t ms = due_in_ms(w, rows[i].due_us);

        if (in_flight(w, rows[i].seq))
            continue;
        if (ms > 0) {
            w->look_ms = sooner(w->look_ms, now_ms + ms);
            break;
        }
        begin(w, &rows[i]);
        room--;
    }
    stk_delivery_rows_free(rows, n);
    return 0;
}

static int by_due(const void *a, const void *b)
{
    int64_t x = ((const struct stk_due_origin *)a)->due_us, y = ((const struct stk_due_origin *)b)->due_us;

    return (x > y) - (x < y);
}

/* Who has waited longest comes first. */
static void look(struct stk_webhooks *w)
{
    int64_t now_ms = stk_mono_ms();
    struct stk_due_origin *origins;
    struct stk_err err;
    size_t n;
    int rc = 0;

    w->looked_ms = now_ms;
    w->look_ms = INT64_MAX;
    if (stk_store_due_origins(w->store, &origins, &n, &err) < 0) {
        stk_error("webhook", "cannot read what is due", "why", err.msg);
        w->look_ms = now_ms + LOOK_AGAIN_MS;
        return;
    }
    if (n > 1)
        qsort(origins, n, sizeof *origins, by_due);
    for (size_t i = 0; rc == 0 && i < n && w->n_flights < TOTAL; i++) {
        int64_t ms = due_in_ms(w, origins[i].due_us);

        if (ms > 0)
            w->look_ms = sooner(w->look_ms, now_ms + ms);
        else
            rc = look_at(w, stk_text_data(origins[i].origin), now_ms);
    }
    if (rc < 0)
        w->look_ms = now_ms + LOOK_AGAIN_MS;
    stk_due_origins_free(origins, n);
}

/* ---- the thread */

static void on_due(void *arg)
{
    struct stk_webhooks *w = arg;

    pthread_mutex_lock(&w->lock);
    w->due = true;
    pthread_mutex_unlock(&w->lock);
    sender_wake(w->sender);
}

static enum flight_state state_of(struct flight *f)
{
    enum flight_state state;

    pthread_mutex_lock(&f->w->lock);
    state = f->state;
    pthread_mutex_unlock(&f->w->lock);
    return state;
}

/* Lets go of what is recorded, tries again what could not be. Returns when to come back. */
static int64_t tend_flights(struct stk_webhooks *w)
{
    int64_t back_ms = INT64_MAX, now_ms = stk_mono_ms();

    for (struct flight *f = LIST_FIRST(&w->flights), *next; f; f = next) {
        enum flight_state state = state_of(f);

        next = LIST_NEXT(f, link);
        if (state == RECORDED)
            flight_free(f);
        else if (state == NOT_RECORDED && f->record_again_ms <= now_ms)
            record(f);
        else if (state == NOT_RECORDED)
            back_ms = sooner(back_ms, f->record_again_ms);
    }
    return back_ms;
}

/* Whether to stop, and until when what is due may still be sent. *ret_due: something has changed. */
static bool read_orders(struct stk_webhooks *w, bool *ret_due, int64_t *ret_stop_by_ms)
{
    bool stop;

    pthread_mutex_lock(&w->lock);
    *ret_due = w->due;
    *ret_stop_by_ms = w->stop_by_ms;
    stop = w->stop;
    w->due = false;
    pthread_mutex_unlock(&w->lock);
    return stop;
}

static void *webhooks_main(void *arg)
{
    struct stk_webhooks *w = arg;
    bool stopping = false;

    for (;;) {
        int64_t back_ms = tend_flights(w), stop_by_ms, now_ms;
        bool due, stop = read_orders(w, &due, &stop_by_ms);

        if (due)
            w->look_ms = sooner(w->look_ms, w->looked_ms + LOOK_GAP_MS);
        if (stop && !stopping)
            w->look_ms = 0; /* jobs have ended with the server */
        stopping = stop;
        if (w->look_ms <= stk_mono_ms())
            look(w);
        now_ms = stk_mono_ms();
        if (stopping && (now_ms >= stop_by_ms || (w->n_flights == 0 && w->look_ms > now_ms + LOOK_GAP_MS)))
            return NULL;
        back_ms = sooner(sooner(back_ms, w->look_ms), stopping ? stop_by_ms : INT64_MAX);
        sender_run(w->sender, back_ms > now_ms ? back_ms - now_ms : 0);
    }
}

/* The thread has ended. What is on its way is cut and stays due. */
static void webhooks_free(struct stk_webhooks *w)
{
    stk_store_on_due(w->store, NULL, NULL);
    pthread_mutex_lock(&w->lock);
    while (w->n_recording > 0)
        pthread_cond_wait(&w->none_recording, &w->lock);
    pthread_mutex_unlock(&w->lock);
    sender_free(w->sender);
    while (!LIST_EMPTY(&w->flights))
        flight_free(LIST_FIRST(&w->flights));
    pthread_cond_destroy(&w->none_recording);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

struct stk_webhooks *stk_webhooks_start(struct stk_core *core, struct stk_store *store,
                                        const struct stk_webhooks_options *options, struct stk_err *err)
{
    struct stk_webhooks *w = calloc(1, sizeof *w);
    int rc;

    if (!w) {
        stk_fail(err, STK_INTERNAL, "out of memory");
        return NULL;
    }
    w->o = *options;
    w->core = core;
    w->store = store;
    w->due = true; /* what an earlier server has left */
    w->look_ms = INT64_MAX;
    LIST_INIT(&w->flights);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->none_recording, NULL);
    w->sender = sender_new(&w->o.rules, options->connect_timeout_ms, options->timeout_ms, on_sent, w, err);
    if (!w->sender)
        goto failed;
    srandom((unsigned)stk_mono_us());
    rc = pthread_create(&w->thread, NULL, webhooks_main, w);
    if (rc != 0) {
        stk_fail_sys(err, rc, "start the thread of webhooks");
        goto failed;
    }
    pthread_setname_np(w->thread, "webhooks");
    stk_store_on_due(store, on_due, w);
    on_due(w); /* what became due in between */
    return w;
failed:
    webhooks_free(w);
    return NULL;
}

void stk_webhooks_stop(struct stk_webhooks *w, int64_t ms)
{
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    w->stop_by_ms = stk_mono_ms() + ms;
    pthread_mutex_unlock(&w->lock);
    sender_wake(w->sender);
    pthread_join(w->thread, NULL);
    webhooks_free(w);
}

int stk_delivery_list(struct stk_core *core, const struct stk_delivery_filter *filter, struct stk_delivery_row **ret,
                      size_t *ret_n, struct stk_err *err)
{
    return stk_store_delivery_list(core->store, filter, ret, ret_n, err);
}
