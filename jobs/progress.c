/*
 * How far running jobs are in Spark.
 *
 * A worker says when its job has called Spark. As long as a context has such a job, its keeper is asked every 0.7 s, one question
 * at a time, so a keeper that is busy is asked later. No question is asked of a job that is being cancelled. What the keeper answers
 * is put on a board: it is read by GETs and by followers of events, in threads of their own, which must not cost the loop a turn each.
 */
#include "live.h"

#include "stoker/clock.h"
#include "stoker/log.h"
#include "stoker/progress.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

enum {
    LOOK_MS = 700,       /* followers look four times a second: so they know within one */
    FIRST_LOOK_MS = 200, /* many jobs are over by then */
    ATTEMPTS_MAX = 4096, /* in a question, which is to fit a frame */
};

struct progress {
    struct stk_progress_news news; /* version 0: it is not on the board */
    struct stk_progress newest;    /* the same as was told last, but for its time */
    TAILQ_ENTRY(progress) link;
    UT_hash_handle hh;
};
TAILQ_HEAD(progress_list, progress);

/* The lock guards what follows it, and the entries that are on the board. */
struct progress_board {
    _Atomic uint64_t version;
    pthread_mutex_t lock;
    struct progress *by_job;
    struct progress_list told; /* by version */
};

struct progress_board *progress_board_new(struct stk_err *err)
{
    struct progress_board *b = calloc(1, sizeof *b);

    if (!b) {
        stk_fail(err, STK_INTERNAL, "out of memory");
        return NULL;
    }
    pthread_mutex_init(&b->lock, NULL);
    TAILQ_INIT(&b->told);
    return b;
}

void progress_board_free(struct progress_board *b)
{
    if (!b)
        return;
    HASH_CLEAR(hh, b->by_job);
    pthread_mutex_destroy(&b->lock);
    free(b);
}

/* ---- the board */

static bool same_counts(const struct stk_progress *a, const struct stk_progress *b)
{
    return memcmp(&a->jobs, &b->jobs, sizeof a->jobs) == 0 && memcmp(&a->stages, &b->stages, sizeof a->stages) == 0 &&
           memcmp(&a->tasks, &b->tasks, sizeof a->tasks) == 0;
}

static void board_put(struct progress_board *b, struct progress *p, const struct stk_progress *found)
{
    bool is_new = p->news.version == 0;
    bool tell = is_new || !same_counts(found, &p->news.progress);

    pthread_mutex_lock(&b->lock);
    p->newest = *found;
    if (tell) {
        if (is_new)
            HASH_ADD_STR(b->by_job, news.job_id, p);
        else
            TAILQ_REMOVE(&b->told, p, link);
        TAILQ_INSERT_TAIL(&b->told, p, link);
        p->news.progress = *found;
        p->news.version = atomic_load_explicit(&b->version, memory_order_relaxed) + 1;
        atomic_store_explicit(&b->version, p->news.version, memory_order_release);
    }
    pthread_mutex_unlock(&b->lock);
}

void progress_forget(struct job *job)
{
    struct progress_board *b = job->core->board;
    struct progress *p = job->progress;

    if (!p)
        return;
    job->progress = NULL;
    if (p->news.version) {
        pthread_mutex_lock(&b->lock);
        HASH_DEL(b->by_job, p);
        TAILQ_REMOVE(&b->told, p, link);
        pthread_mutex_unlock(&b->lock);
    }
    stk_progress_news_done(&p->news);
    free(p);
}

bool stk_progress_get(struct stk_core *core, const char *job_id, struct stk_progress *ret)
{
    struct progress_board *b = core->board;
    struct progress *p;

    pthread_mutex_lock(&b->lock);
    HASH_FIND_STR(b->by_job, job_id, p);
    if (p)
        *ret = p->newest;
    pthread_mutex_unlock(&b->lock);
    return p != NULL;
}

uint64_t stk_progress_newest(struct stk_core *core)
{
    return atomic_load_explicit(&core->board->version, memory_order_acquire);
}

bool stk_progress_next(struct stk_core *core, uint64_t after, struct stk_progress_news *ret)
{
    struct progress_board *b = core->board;
    struct progress *p, *found = NULL;

    pthread_mutex_lock(&b->lock);
    TAILQ_FOREACH_REVERSE(p, &b->told, progress_list, link)
    {
        if (p->news.version <= after)
            break;
        found = p;
    }
    if (found) {
        *ret = found->news;
        stk_text_ref(ret->context_name);
    }
    pthread_mutex_unlock(&b->lock);
    return found != NULL;
}

void stk_progress_news_done(struct stk_progress_news *news)
{
    stk_text_unref(news->context_name);
    news->context_name = NULL;
}

/* ---- questions */

static bool is_looked_at(const struct job *job)
{
    return job && job->progress && job->row.state == STK_JOB_RUNNING;
}

static json_t *attempts_of(struct context *ctx)
{
    json_t *attempts = json_array();
    struct worker *w;

    LIST_FOREACH(w, &ctx->workers, link)
    {
        if (is_looked_at(w->job) && json_array_size(attempts) < ATTEMPTS_MAX)
            json_array_append_new(attempts,
                                  json_pack("{s:s, s:i}", "job", w->job->row.id, "attempt", w->job->row.attempt));
    }
    return attempts;
}

static void look_in(struct context *ctx, int64_t ms)
{
    if (ctx->look.timer && !ctx->look.waits) {
        ctx->look.waits = true;
        stk_timer_set(ctx->look.timer, ms);
    }
}

static void on_look(void *arg)
{
    struct context *ctx = arg;
    json_auto_t *attempts = attempts_of(ctx);

    ctx->look.waits = false;
    if (json_array_size(attempts) == 0 || ctx->ending)
        return;
    if (ctx->keeper.conn && ctx->look.able && !ctx->look.asked) {
        ctx->look.asked = true;
        ctx->look.last_ms = stk_mono_ms();
        stk_conn_send_take(ctx->keeper.conn, json_pack("{s:s, s:O}", "type", "look", "attempts", attempts));
    }
    look_in(ctx, LOOK_MS);
}

void progress_wanted(struct job *job)
{
    struct context *ctx = job->context;
    int64_t soonest_ms = ctx->look.last_ms + LOOK_MS - stk_mono_ms();
    struct progress *p;

    if (job->progress || job->row.state != STK_JOB_RUNNING || !(p = calloc(1, sizeof *p)))
        return;
    memcpy(p->news.job_id, job->row.id, sizeof p->news.job_id);
    memcpy(p->news.context_id, job->row.context_id, sizeof p->news.context_id);
    p->news.context_name = stk_text_ref(job->row.context_name);
    p->news.attempt = job->row.attempt;
    job->progress = p;
    if (!ctx->look.timer)
        ctx->look.timer = stk_timer_new(ctx->core->loop, on_look, ctx);
    look_in(ctx, soonest_ms > FIRST_LOOK_MS ? soonest_ms : FIRST_LOOK_MS);
}

void progress_keeper_dialled(struct context *ctx, json_t *hello)
{
    ctx->look.able = json_is_true(json_object_get(hello, "looks"));
    ctx->look.asked = false; /* an answer to the last one has died with its connection */
}

/* ---- answers */

/* false: the keeper speaks nonsense. */
static bool read_count(const json_t *entry, const char *kind, struct stk_progress_count *ret)
{
    const json_t *count = json_object_get(entry, kind);
    const struct {
        const char *name;
        int64_t *to;
    } fields[] = {
        { "total", &ret->total }, { "done", &ret->done }, { "active", &ret->active }, { "failed", &ret->failed }
    };

    for (size_t i = 0; i < STK_LEN(fields); i++) {
        const json_t *value = json_object_get(count, fields[i].name);

        *fields[i].to = json_integer_value(value);
        if (!json_is_integer(value) || *fields[i].to < 0)
            return false;
    }
    return true;
}

/* The job of an entry, if it is one of those that the keeper was asked of. */
static struct job *job_of(struct context *ctx, const json_t *entry)
{
    const char *id = json_string_value(json_object_get(entry, "job"));
    struct job *job = id ? job_find(ctx->core, id) : NULL;

    return job && job->context == ctx && is_looked_at(job) &&
                   json_integer_value(json_object_get(entry, "attempt")) == job->row.attempt
               ? job
               : NULL;
}

void progress_keeper_said(struct context *ctx, json_t *msg)
{
    json_t *entry;
    size_t i;

    ctx->look.asked = false;
    json_array_foreach(json_object_get(msg, "attempts"), i, entry) {
        struct stk_progress found = { .at_us = stk_wall_us() };
        struct job *job = job_of(ctx, entry);

        if (!job)
            continue; /* it has ended meanwhile */
        if (!read_count(entry, "jobs", &found.jobs) || !read_count(entry, "stages", &found.stages) ||
            !read_count(entry, "tasks", &found.tasks)) {
            stk_debug("job", "the keeper tells no progress that can be read", "job", job->row.id);
            continue;
        }
        if (!job->progress->news.version)
            job->progress->news.after_event = stk_store_event_newest(ctx->core->store);
        board_put(ctx->core->board, job->progress, &found);
    }
}
