/*
 * The thread that delivers. It looks at what is due, to whom, and begins what fits into its limits; what ends is recorded,
 * and only when that is committed does the delivery leave its hands: until then the store still calls it due.
 *
 *     due --look()--> SENDING --on_sent()--> RECORDING --on_recorded()--> gone, or due again later
 *
 * Nothing is written before an attempt, so who dies while sending, or before it is recorded, sends again.
 *
 * Receivers take turns, and one that has failed is probed by one attempt at a time. So what waits for it may wait too long: what
 * has been due for longer than deliveries are tried is given up without an attempt, many at a time.
 */
#include "origins.h"
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
    TO_FAILED = 32,       /* of them, to origins that have failed */
    SWEEP = 256,          /* given up at once: a transaction that jobs hardly notice */
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

/* What is being given up. */
struct sweep {
    struct stk_text *origin;
    int64_t seqs[SWEEP];
    size_t n;                /* 0: nothing */
    enum flight_state state; /* under lock; never SENDING but at first */
};

struct stk_webhooks {
    struct stk_webhooks_options o;
    struct stk_core *core;
    struct stk_store *store;
    struct sender *sender;
    pthread_t thread;
    LIST_HEAD(, flight) flights;
    int n_flights;
    struct origins origins;
    struct sweep sweep;
    int64_t sweep_ms; /* monotonic: not before */
    int64_t look_ms;  /* monotonic: when to look again */
    int64_t looked_ms;

    pthread_mutex_t lock; /* guards due to stop_by_ms, and states of flights and of sweep */
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
    struct origin *to = origins_find(&f->w->origins, f->row.origin);

    (void)arg;
    if (to)
        to->failed = outcome->error[0];
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

static int flights_to_failed(const struct stk_webhooks *w)
{
    const struct flight *f;
    int n = 0;

    LIST_FOREACH(f, &w->flights, link)
    {
        const struct origin *to = origins_find(&w->origins, f->row.origin);

        n += to && to->failed;
    }
    return n;
}

static int room_for(const struct stk_webhooks *w, const struct origin *to)
{
    int left = TOTAL - w->n_flights, room;

    if (left <= 0)
        return 0;
    room = (to->failed ? 1 : PER_ORIGIN) - flights_to(w, stk_text_data(to->name));
    if (room > 0 && to->failed && TO_FAILED - flights_to_failed(w) < left)
        left = TO_FAILED - flights_to_failed(w);
    return room < left ? room : left;
}

/* On its way, or being given up. */
static bool in_hand(const struct stk_webhooks *w, int64_t seq)
{
    const struct flight *f;

    LIST_FOREACH(f, &w->flights, link)
    {
        if (f->row.seq == seq)
            return true;
    }
    for (size_t i = 0; i < w->sweep.n; i++) {
        if (w->sweep.seqs[i] == seq)
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
static int look_at(struct stk_webhooks *w, struct origin *to, int64_t now_ms, struct stk_err *err)
{
    int room = room_for(w, to);
    struct stk_delivery_row *rows;
    size_t n;

    if (room <= 0)
        return 0; /* the end of what is on its way looks again */
    if (stk_store_due_deliveries(w->store, stk_text_data(to->name), 2 * PER_ORIGIN, &rows, &n, err) < 0)
        return -1;
    for (size_t i = 0; i < n && room > 0; i++) {
        int64_t ms = due_in_ms(w, rows[i].due_us);

        if (in_hand(w, rows[i].seq))
            continue;
        if (ms > 0) {
            w->look_ms = sooner(w->look_ms, now_ms + ms);
            break;
        }
        to->served = ++w->origins.served;
        begin(w, &rows[i]);
        room--;
    }
    stk_delivery_rows_free(rows, n);
    return 0;
}

static int look_at_all(struct stk_webhooks *w, int64_t now_ms, struct stk_err *err)
{
    stk_auto_free struct origin **turns = NULL;
    struct stk_due_origin *due;
    size_t n;
    int rc;

    if (stk_store_due_origins(w->store, &due, &n, err) < 0)
        return -1;
    rc = origins_update(&w->origins, due, n, err);
    stk_due_origins_free(due, n);
    if (rc < 0 || !(turns = origins_in_turn(&w->origins, err)))
        return -1;
    for (size_t i = 0; i < n; i++) {
        int64_t ms = due_in_ms(w, turns[i]->due_us);

        if (ms > 0)
            w->look_ms = sooner(w->look_ms, now_ms + ms);
        else if (look_at(w, turns[i], now_ms, err) < 0)
            return -1;
    }
    return 0;
}

/* ---- what has waited too long */

/* On the loop. */
static void on_given_up(void *arg, const struct stk_err *err)
{
    struct stk_webhooks *w = arg;
    char count[16];

    snprintf(count, sizeof count, "%zu", w->sweep.n);
    if (err)
        stk_error("webhook", "cannot give up what is too old", "why", err->msg);
    else
        stk_error("webhook", "given up, their turn did not come", "to", stk_text_data(w->sweep.origin), "count", count);
    pthread_mutex_lock(&w->lock);
    w->sweep.state = err ? NOT_RECORDED : RECORDED;
    w->due = true;
    sender_wake(w->sender);
    if (--w->n_recording == 0)
        pthread_cond_signal(&w->none_recording);
    pthread_mutex_unlock(&w->lock);
}

/* The first ones there that have been due since before then. 0: there are none that are not on their way. */
static int sweep(struct stk_webhooks *w, const struct origin *to, int64_t before_us, struct stk_err *err)
{
    struct sweep *s = &w->sweep;
    struct stk_delivery_row *rows;
    struct stk_err failed;
    size_t n, found = 0;

    if (stk_store_due_deliveries(w->store, stk_text_data(to->name), SWEEP, &rows, &n, err) < 0)
        return -1;
    for (size_t i = 0; i < n; i++) {
        if (rows[i].since_us < before_us && !in_hand(w, rows[i].seq))
            s->seqs[found++] = rows[i].seq;
    }
    stk_delivery_rows_free(rows, n);
    if (!found)
        return 0;
    s->n = found;
    stk_text_unref(s->origin);
    s->origin = stk_text_ref(to->name);
    pthread_mutex_lock(&w->lock);
    s->state = RECORDING;
    w->n_recording++;
    pthread_mutex_unlock(&w->lock);
    if (stk_store_deliveries_give_up(w->store, s->seqs, s->n, on_given_up, w, &failed) < 0)
        on_given_up(w, &failed);
    stk_store_flush(w->store);
    return 1;
}

/*
 * Behind the beginning of what there is room for. Each has the time of an attempt to come to its turn, also when deliveries are not
 * to be tried again at all, or when they became old while no server ran.
 */
static int give_up_old(struct stk_webhooks *w, int64_t now_ms, struct stk_err *err)
{
    int64_t old_ms = w->o.give_up_ms > w->o.timeout_ms ? w->o.give_up_ms : w->o.timeout_ms;
    int64_t before_us = stk_wall_us() - old_ms * 1000;
    bool looked = false;

    if (w->sweep.n)
        return 0; /* its answer looks again */
    for (size_t i = 0; i < w->origins.n; i++) {
        int rc;

        if (w->origins.all[i].due_us >= before_us)
            continue;
        if (now_ms < w->sweep_ms) {
            w->look_ms = sooner(w->look_ms, w->sweep_ms);
            return 0;
        }
        looked = true;
        rc = sweep(w, &w->origins.all[i], before_us, err);
        if (rc < 0)
            return -1;
        if (rc > 0)
            break;
    }
    if (looked)
        w->sweep_ms = now_ms + LOOK_AGAIN_MS; /* unless there was something, and it could be written */
    return 0;
}

static void look(struct stk_webhooks *w)
{
    int64_t now_ms = stk_mono_ms();
    struct stk_err err;

    w->looked_ms = now_ms;
    w->look_ms = INT64_MAX;
    if (look_at_all(w, now_ms, &err) < 0 || give_up_old(w, now_ms, &err) < 0) {
        stk_error("webhook", "cannot read what is due", "why", err.msg);
        w->look_ms = now_ms + LOOK_AGAIN_MS;
    }
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
    if (w->sweep.n && w->sweep.state != RECORDING) {
        w->sweep.n = 0;
        if (w->sweep.state == RECORDED)
            w->sweep_ms = 0; /* there may be more */
    }
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
        now_ms = stk_mono_ms();
        if (stopping && now_ms >= stop_by_ms)
            return NULL; /* before anything is begun that would only be cut */
        if (w->look_ms <= now_ms)
            look(w);
        now_ms = stk_mono_ms();
        if (stopping && w->n_flights == 0 && w->look_ms > now_ms + LOOK_GAP_MS)
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
    origins_done(&w->origins);
    stk_text_unref(w->sweep.origin);
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
    w->sweep_ms = stk_mono_ms() + options->timeout_ms;
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
