/* What callers may ask of jobs: submit, wait, cancel, read. Each call is a ticket that the loop answers. */
#include "live.h"

#include "stoker/clock.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

enum {
    CLASS_MAX = 1024,              /* bytes: lists of jobs have it */
    CONFIG_ESCAPED_MAX = 63 << 20, /* a `run` has at most 64 MiB */
};

/* A call that waits in a job's list `accepted` or `ended`. */
struct call {
    struct ticket t;
    struct stk_core *core;
    char id[STK_UUID_MAX];     /* of the job that is meant; empty: of a new one */
    struct stk_job_row row;    /* what a submit brings; then, under the ticket's lock, what the caller gets back */
    enum stk_job_state before; /* its state when a cancel came */
    int64_t versions[STK_JOB_BINARIES_MAX];
    size_t n_versions;
    enum stk_job_wait wait;
};

/* A caller gets the row without its config and its webhook's secret, by reference. */
static void copy_row(struct stk_job_row *to, const struct stk_job_row *from)
{
    struct stk_job_row row = *from;

    row.config = row.webhook = NULL;
    stk_job_row_copy(to, &row);
}

static void free_call(struct ticket *t)
{
    struct call *c = (struct call *)t;

    stk_job_row_done(&c->row);
    free(c);
}

static struct call *call_new(struct stk_core *core, void (*run)(struct stk_task *task), const char *id)
{
    struct call *c = strlen(id) < STK_UUID_MAX ? calloc(1, sizeof *c) : NULL;

    if (!c)
        return NULL;
    ticket_init(&c->t, run, free_call);
    c->core = core;
    memcpy(c->id, id, strlen(id) + 1);
    return c;
}

/* It was never posted. */
static void call_drop(struct call *c)
{
    atomic_store(&c->t.refs, 1);
    ticket_unref(&c->t);
}

static void publish(struct call *c, const struct stk_job_row *row)
{
    pthread_mutex_lock(&c->t.lock);
    stk_job_row_done(&c->row);
    copy_row(&c->row, row);
    ticket_hear_locked(&c->t); /* a caller whose time is over may wait for just this */
    pthread_mutex_unlock(&c->t.lock);
}

void job_publish(struct job *job)
{
    struct ticket *t;

    STAILQ_FOREACH(t, &job->ended, link) publish((struct call *)t, &job->row);
}

void job_answer(struct job *job, struct ticket_list *list, const struct stk_err *err)
{
    struct ticket *t;

    while ((t = STAILQ_FIRST(list))) {
        STAILQ_REMOVE_HEAD(list, link);
        if (!err)
            publish((struct call *)t, &job->row);
        ticket_answer(t, err);
    }
}

/* ---- submit */

static void has_arrived(struct job *job)
{
    if (job->arriving)
        job->context->n_arriving--;
    job->arriving = false;
}

static void on_submitted(void *arg, const struct stk_err *err)
{
    struct job *job = arg;
    struct context *ctx = job->context;

    job->commits--;
    has_arrived(job);
    if (err) {
        job_answer(job, &job->accepted, err);
        job_answer(job, &job->ended, err);
        queue_remove(job);
        job_release(job);
        job->abandoned = true;
        job_tally(job);
        if (job->commits == 0)
            job_free(job);
        queue_dispatch(ctx);
        return;
    }
    job_publish(job);
    job_answer(job, &job->accepted, NULL);
    if (job->commits > 0)
        return;
    if (job->row.state == STK_JOB_QUEUED && ctx->ending && ctx->end_state != STK_CONTEXT_CREATING) {
        job_settle(job, STK_JOB_ERROR, stk_text_ref(ctx->jobs_error));
    } else if (job->row.state == STK_JOB_QUEUED) {
        queue_add(job);
        queue_dispatch(ctx);
        context_check_gone(ctx);
    } else if (job->row.state == STK_JOB_STARTING && job->worker) {
        worker_send_run(job);
    } else if (job->row.state == STK_JOB_CANCELLING) {
        cancel_worker_over(job);
    }
}

static struct context *accepting_context(struct call *c, struct stk_err *err)
{
    struct context *ctx = context_find_active(c->core, stk_text_data(c->row.context_name));

    if (c->core->stopping) {
        stk_fail(err, STK_LIMIT, "the server is stopping");
        return NULL;
    }
    if (!ctx) {
        stk_fail(err, STK_NOT_FOUND, "context %s not found", stk_text_data(c->row.context_name));
        return NULL;
    }
    if (ctx->ending) {
        stk_fail(err, STK_CONFLICT, "Context stop in progress");
        return NULL;
    }
    return ctx;
}

/* Straight to a free worker, so that the row is written once, as STARTING; else there must be room in the queue. */
static int take_place(struct job *job, struct stk_err *err)
{
    struct context *ctx = job->context;
    int waiting = ctx->n_queued + ctx->n_arriving;

    if (waiting == 0 && queue_assign(job))
        return 0;
    if (waiting >= job->core->o.max_queue)
        return stk_fail(err, STK_LIMIT, "Too many waiting jobs (%d) for job context '%s'", waiting,
                        stk_text_data(ctx->row.name));
    job->arriving = true;
    ctx->n_arriving++;
    return 0;
}

static void on_submit(struct stk_task *task)
{
    struct call *c = (struct call *)task;
    struct stk_err err;
    struct context *ctx = accepting_context(c, &err);
    struct job *job;

    if (!ctx) {
        ticket_answer(&c->t, &err);
        return;
    }
    job = job_new(c->core, ctx);
    if (!job) {
        stk_fail(&err, STK_INTERNAL, "out of memory");
        ticket_answer(&c->t, &err);
        return;
    }
    stk_job_row_copy(&job->row, &c->row);
    stk_job_terms_fill(&job->row.terms, &ctx->terms);
    memcpy(job->row.context_id, ctx->row.id, sizeof job->row.context_id);
    job->row.submitted_us = stk_wall_us();
    job->arrival = ++c->core->arrivals;
    job->row.state = STK_JOB_QUEUED;
    HASH_ADD_STR(c->core->jobs, row.id, job);
    if (take_place(job, &err) < 0 ||
        stk_store_job_submitted(c->core->store, &job->row, c->versions, c->n_versions, on_submitted, job, &err) < 0) {
        has_arrived(job);
        job_release(job);
        job_free(job);
        ticket_answer(&c->t, &err);
        return;
    }
    job->commits++;
    job_tally(job);
    meter_add(&job->core->meters.submitted);
    if (job->row.state == STK_JOB_QUEUED)
        job_set_clock(job);
    if (c->wait == STK_WAIT_FINAL)
        ticket_add(&job->ended, &c->t);
    else
        ticket_add(&job->accepted, &c->t);
}

/* ---- the binaries of a new job */

struct binaries {
    struct stk_binary_row rows[STK_JOB_BINARIES_MAX];
    size_t n;
};

static void binaries_done(struct binaries *b)
{
    while (b->n > 0)
        stk_binary_row_done(&b->rows[--b->n]);
}

static bool is_there(const struct binaries *b, const char *name)
{
    for (size_t i = 0; i < b->n; i++) {
        if (strcmp(stk_text_data(b->rows[i].name), name) == 0)
            return true;
    }
    return false;
}

/* The newest version of each. */
static int binaries_find(struct stk_core *core, const struct stk_job_spec *spec, struct binaries *ret,
                         struct stk_err *err)
{
    const char *const *names = spec->binaries ? spec->binaries : &spec->app;
    size_t n = spec->binaries ? spec->n_binaries : 1;

    for (size_t i = 0; i < n; i++) {
        if (is_there(ret, names[i]))
            continue;
        if (ret->n == STK_JOB_BINARIES_MAX)
            return stk_fail(err, STK_INVALID, "a job may have %d binaries", STK_JOB_BINARIES_MAX);
        if (stk_store_binary_get(core->store, names[i], &ret->rows[ret->n], err) < 0) {
            if (err->code == STK_NOT_FOUND)
                stk_fail(err, STK_NOT_FOUND, "appName %s not found", names[i]);
            return -1;
        }
        ret->n++;
    }
    return 0;
}

static struct stk_text *binaries_text(const struct binaries *b)
{
    json_auto_t *list = json_array();
    stk_auto_free char *text = NULL;

    for (size_t i = 0; list && i < b->n; i++) {
        const struct stk_binary_row *row = &b->rows[i];

        if (json_array_append_new(list, json_pack("{s:s, s:I, s:s, s:s}", "name", stk_text_data(row->name), "version",
                                                  (json_int_t)row->version, "digest", row->digest, "type",
                                                  stk_binary_type_name(row->type))) < 0)
            return NULL;
    }
    text = list ? json_dumps(list, JSON_COMPACT) : NULL;
    return text ? stk_text_new(text, strlen(text)) : NULL;
}

/* SHA-256 as hexadecimal digits; NULL: out of memory. */
static struct stk_text *digest_of(const struct stk_buf *b)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int len = 0;
    char hex[2 * 32 + 1];

    if (b->failed || EVP_Digest(b->data, b->len, digest, &len, EVP_sha256(), NULL) != 1 || len != 32)
        return NULL;
    for (unsigned int i = 0; i < len; i++)
        snprintf(hex + 2 * (size_t)i, 3, "%02x", digest[i]);
    return stk_text_new(hex, sizeof hex - 1);
}

/* The name of the set: of one binary its digest, of several the digest of theirs, in order. */
static struct stk_text *set_of(const struct binaries *b)
{
    stk_auto_buf all = { 0 };

    if (b->n == 1)
        return stk_text_new(b->rows[0].digest, strlen(b->rows[0].digest));
    for (size_t i = 0; i < b->n; i++)
        stk_buf_printf(&all, "%s\n", b->rows[i].digest);
    return digest_of(&all);
}

/* The config travels as a string inside a frame, whose length PROTOCOL.md limits. */
static size_t escaped_len(const char *text, size_t len)
{
    size_t n = 0;

    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];

        n += c < 0x20 || c == 0x7f ? 6 : c == '"' || c == '\\' ? 2 : 1;
    }
    return n;
}

static struct call *submit_new(struct stk_core *core, const struct stk_job_spec *spec, const struct binaries *b)
{
    struct call *c = call_new(core, on_submit, "");
    struct stk_job_row *row;

    if (!c)
        return NULL;
    row = &c->row;
    for (size_t i = 0; i < b->n; i++)
        c->versions[c->n_versions++] = b->rows[i].version;
    stk_uuid(row->id);
    row->terms = spec->terms;
    row->context_name = stk_text_new(spec->context, strlen(spec->context));
    row->app = stk_text_new(spec->app, strlen(spec->app));
    row->class_path = stk_text_new(spec->class_path, strlen(spec->class_path));
    row->config = stk_text_new(spec->config, spec->config_len);
    row->set = set_of(b);
    row->binaries = binaries_text(b);
    row->tags = spec->tags ? stk_text_new(spec->tags, strlen(spec->tags)) : NULL;
    row->webhook = spec->webhook ? stk_text_new(spec->webhook, strlen(spec->webhook)) : NULL;
    if ((!spec->tags || row->tags) && (!spec->webhook || row->webhook) && row->context_name && row->app &&
        row->class_path && row->config && row->set && row->binaries)
        return c;
    call_drop(c);
    return NULL;
}

static int submit(struct stk_core *core, const struct stk_job_spec *spec, struct stk_text *fingerprint,
                  enum stk_job_wait wait, int64_t timeout_ms, struct stk_job_row *ret, struct stk_err *err)
{
    struct binaries b = { 0 };
    struct call *c;
    int rc;

    if (disk_check(core, err) < 0)
        return -1;
    if (binaries_find(core, spec, &b, err) < 0) {
        binaries_done(&b);
        return -1;
    }
    c = submit_new(core, spec, &b);
    binaries_done(&b);
    if (!c)
        return stk_fail(err, STK_INTERNAL, "out of memory");
    if (fingerprint) {
        c->row.fingerprint = stk_text_ref(fingerprint);
        c->row.idempotency_key = stk_text_new(spec->idempotency_key, strlen(spec->idempotency_key));
    }
    c->wait = wait;
    if (!ticket_call(&c->t, core->loop, timeout_ms))
        ticket_wait_heard(&c->t); /* recorded: who does not learn the id would start the job again */
    pthread_mutex_lock(&c->t.lock);
    if (c->t.answered) {
        rc = c->t.rc;
        if (rc < 0)
            *err = c->t.err;
    } else {
        rc = stk_fail(err, STK_TIMEOUT, "not finished within %lld ms", (long long)timeout_ms);
    }
    if (c->row.submitted_us) /* recorded */
        copy_row(ret, &c->row);
    pthread_mutex_unlock(&c->t.lock);
    ticket_unref(&c->t);
    return rc;
}

/* Of what a client posts, not of what it means today: a retry after a new version was uploaded is still a retry. */
static struct stk_text *fingerprint_of(const struct stk_job_spec *spec)
{
    const struct stk_job_terms *t = &spec->terms;
    stk_auto_buf b = { 0 };

    stk_buf_printf(&b, "%s\n%s\n%s\n%d %lld %lld %lld %d\n", spec->adhoc ? "" : spec->context, spec->app,
                   spec->class_path, t->priority, (long long)t->queue_timeout_ms, (long long)t->run_timeout_ms,
                   (long long)t->max_memory, t->isolated);
    stk_buf_add(&b, spec->config, spec->config_len);
    /* what is not there leaves the text as it was before there were such things */
    if (spec->tags)
        stk_buf_printf(&b, "\n%s", spec->tags);
    for (size_t i = 0; spec->n_binaries > 1 && i < spec->n_binaries; i++)
        stk_buf_printf(&b, "\n%s", spec->binaries[i]);
    if (spec->webhook)
        stk_buf_printf(&b, "\nwebhook %s", spec->webhook);
    return digest_of(&b);
}

static bool same_text(const struct stk_text *a, const struct stk_text *b)
{
    return a && b && strcmp(stk_text_data(a), stk_text_data(b)) == 0;
}

/* 1: the key was used before, *ret_rc and ret are the answer; 0: it was not; -1: err. */
static int answer_again(struct stk_core *core, const struct stk_job_spec *spec, const struct stk_text *fingerprint,
                        enum stk_job_wait wait, int64_t timeout_ms, struct stk_job_row *ret, int *ret_rc,
                        struct stk_err *err)
{
    struct stk_job_row row;
    struct stk_err why;

    if (stk_store_job_by_key(core->store, spec->idempotency_key, &row, &why) < 0) {
        if (why.code == STK_NOT_FOUND)
            return 0;
        *err = why;
        return -1;
    }
    *ret_rc = 0;
    if (!same_text(row.fingerprint, fingerprint))
        *ret_rc = stk_fail(err, STK_CONFLICT,
                           "Idempotency-Key '%.80s' belongs to job %s, which was posted with other content",
                           spec->idempotency_key, row.id);
    else if (wait == STK_WAIT_FINAL && !stk_job_is_final(row.state))
        *ret_rc = stk_job_wait(core, row.id, timeout_ms, ret, err);
    else
        copy_row(ret, &row);
    stk_job_row_done(&row);
    return 1;
}

int stk_job_submit(struct stk_core *core, const struct stk_job_spec *spec, enum stk_job_wait wait, int64_t timeout_ms,
                   struct stk_job_row *ret, struct stk_err *err)
{
    stk_auto_text fingerprint = NULL;
    struct stk_err ignored;
    int rc = 0, again;

    err = err ? err : &ignored;
    *ret = (struct stk_job_row){ 0 };
    if (strlen(spec->class_path) > CLASS_MAX)
        return stk_fail(err, STK_INVALID, "the name of the class is too long: it may have %d bytes", CLASS_MAX);
    if (escaped_len(spec->config, spec->config_len) > CONFIG_ESCAPED_MAX)
        return stk_fail(err, STK_INVALID, "the config is too long: it may have %d bytes as a JSON string",
                        CONFIG_ESCAPED_MAX);
    if (!spec->idempotency_key)
        return submit(core, spec, NULL, wait, timeout_ms, ret, err);
    if (!(fingerprint = fingerprint_of(spec)))
        return stk_fail(err, STK_INTERNAL, "out of memory");
    if ((again = answer_again(core, spec, fingerprint, wait, timeout_ms, ret, &rc, err)) != 0)
        return again < 0 ? -1 : rc;
    rc = submit(core, spec, fingerprint, wait, timeout_ms, ret, err);
    if (rc < 0 && (err->code == STK_CONFLICT ||
                   err->code == STK_LIMIT)) { /* the same was posted at the same time, and was faster */
        struct stk_err refusal = *err;

        again = answer_again(core, spec, fingerprint, wait, timeout_ms, ret, &rc, err);
        if (again <= 0) {
            *err = refusal;
            rc = -1;
        }
    }
    return rc;
}

/* ---- wait */

static void on_wait(struct stk_task *task)
{
    struct call *c = (struct call *)task;
    struct job *job = job_find(c->core, c->id);
    struct stk_err err;

    if (job && !c->core->leaving) {
        ticket_add(&job->ended, &c->t);
        return;
    }
    if (job)
        stk_fail(&err, STK_TIMEOUT, "the server is being replaced; the work goes on");
    else
        stk_fail(&err, STK_NOT_FOUND, "it has ended");
    ticket_answer(&c->t, &err);
}

int stk_job_wait(struct stk_core *core, const char *id, int64_t timeout_ms, struct stk_job_row *ret,
                 struct stk_err *err)
{
    struct call *c = call_new(core, on_wait, id);

    *ret = (struct stk_job_row){ 0 };
    if (!c)
        return stk_fail(err, STK_NOT_FOUND, "no such job");
    ticket_call(&c->t, core->loop, timeout_ms);
    ticket_unref(&c->t);
    if (stk_job_get(core, id, ret, err) < 0)
        return -1;
    return stk_job_is_final(ret->state) /* one that is not alive may wait for the next server */
               ? 0
               : stk_fail(err, STK_TIMEOUT, "not finished within %lld ms", (long long)timeout_ms);
}

/* ---- look */

struct look {
    struct ticket t;
    struct stk_core *core;
    size_t n;
    struct {
        char id[STK_UUID_MAX];
        bool runs;
        int position;
    } at[];
};

static void free_look(struct ticket *t)
{
    free(t);
}

static void on_look(struct stk_task *task)
{
    struct look *l = (struct look *)task;

    for (size_t i = 0; i < l->n; i++) {
        const struct job *job = job_find(l->core, l->at[i].id);

        l->at[i].runs = job && job->row.state == STK_JOB_RUNNING;
        l->at[i].position = job && job->queued ? queue_position(job) : -1;
    }
    ticket_answer(&l->t, NULL);
}

void stk_job_look(struct stk_core *core, struct stk_job_row *rows, size_t n, int *ret_positions)
{
    enum { ASK_MS = 1000 };
    struct look *l = NULL;
    size_t live = 0;

    for (size_t i = 0; i < n; i++) {
        ret_positions[i] = -1;
        live += !stk_job_is_final(rows[i].state);
    }
    if (live == 0 || !(l = calloc(1, sizeof *l + live * sizeof *l->at)))
        return;
    ticket_init(&l->t, on_look, free_look);
    l->core = core;
    for (size_t i = 0; i < n; i++) {
        if (!stk_job_is_final(rows[i].state))
            memcpy(l->at[l->n++].id, rows[i].id, STK_UUID_MAX);
    }
    if (ticket_call(&l->t, core->loop, ASK_MS)) {
        for (size_t i = 0, k = 0; i < n; i++) {
            if (stk_job_is_final(rows[i].state))
                continue;
            if (rows[i].state == STK_JOB_STARTING && l->at[k].runs)
                rows[i].state = STK_JOB_RUNNING;
            if (rows[i].state == STK_JOB_QUEUED)
                ret_positions[i] = l->at[k].position;
            k++;
        }
    }
    ticket_unref(&l->t);
}

/* ---- cancel */

static void on_cancel(struct stk_task *task)
{
    struct call *c = (struct call *)task;
    struct job *job = job_find(c->core, c->id);
    struct stk_err err;

    if (!job) {
        stk_fail(&err, STK_NOT_FOUND, "it has ended");
        ticket_answer(&c->t, &err);
        return;
    }
    if (c->core->leaving) {
        stk_fail(&err, STK_LIMIT, "the server is stopping");
        ticket_answer(&c->t, &err);
        return;
    }
    c->before = job->row.state;
    ticket_hear(&c->t);
    ticket_add(&job->ended, &c->t);
    if (!job->settled)
        cancel_begin(job, CANCEL_USER);
}

int stk_job_cancel(struct stk_core *core, const char *id, int64_t timeout_ms, enum stk_job_state *ret_before,
                   struct stk_job_row *ret, struct stk_err *err)
{
    struct call *c = call_new(core, on_cancel, id);
    int rc = 0;

    *ret = (struct stk_job_row){ 0 };
    if (!c)
        return stk_fail(err, STK_NOT_FOUND, "no such job");
    if (!ticket_call(&c->t, core->loop, timeout_ms) && !ticket_wait_heard(&c->t)) {
        rc = stk_fail(err, STK_TIMEOUT, "the job is being cancelled");
    } else if (c->t.rc == 0) {
        *ret_before = c->before;
        copy_row(ret, &c->row);
    } else if (c->t.err.code != STK_NOT_FOUND) {
        rc = -1;
        if (err)
            *err = c->t.err;
    } else { /* not alive: it has ended, or never was */
        rc = stk_store_job_get(core->store, id, ret, err);
        if (rc == 0)
            *ret_before = ret->state;
        if (rc == 0 && !stk_job_is_final(ret->state)) { /* or waits for the next server */
            stk_job_row_done(ret);
            rc = stk_fail(err, STK_LIMIT, "the server is stopping");
        }
    }
    ticket_unref(&c->t);
    return rc;
}

/* ---- reads */

int stk_job_get(struct stk_core *core, const char *id, struct stk_job_row *ret, struct stk_err *err)
{
    return stk_store_job_get(core->store, id, ret, err);
}

int stk_job_config(struct stk_core *core, const char *id, struct stk_text **ret, struct stk_err *err)
{
    return stk_store_job_config(core->store, id, ret, err);
}

int stk_job_list(struct stk_core *core, const struct stk_job_filter *filter, struct stk_job_row **ret, size_t *ret_n,
                 struct stk_job_place *ret_next, struct stk_err *err)
{
    return stk_store_job_list(core->store, filter, ret, ret_n, ret_next, err);
}
