/*
 * Retention: removes what is old or too much, a little at a time.
 *
 *     rows          jobs, contexts and events: the oldest first, in short store commands; their files after the commit
 *     versions      of binaries that were replaced and that no stored job ran with
 *     files         results/ and logs/ over their limits: the oldest files first
 *     leftovers     files of jobs that are not stored, logs of workers that are gone (once, after the start: a crash between a
 *                   commit and the unlinks left them), folders of contexts that are gone
 *
 * A pass goes through these in this order, one step at a time. What takes long (reading all jobs, looking at all files) is done on
 * a helper thread and is so rare that it takes a fiftieth of one processor at most. Before each step the store's queue is looked
 * at: while others wait for the writer, retention waits too, but not for ever, since a server that is always busy fills its disk.
 *
 * What has not ended is never touched. Whether it has ended is asked of the row, in the command that removes it, and for files,
 * which have no such command, of the live state; who has ended never lives again.
 */
#include "live.h"

#include "stoker/clock.h"
#include "stoker/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum {
    FIRST_PASS_MS = 2000, /* a start has better things to do */
    PASS_MIN_MS = 1000,
    PASS_MAX_MS = 60000,
    PASSES_PER_AGE = 10, /* something that may be kept for ten minutes goes at most one minute late */
    STEP_PAUSE_MS = 10,  /* with 3 ms of a step at most: the writer keeps three quarters of its time for others */
    BACKLOG_MAX = 64,    /* commands that wait for the writer */
    BACKLOG_WAIT_MS = 50,
    BACKLOG_WAITS = 40, /* then a step is taken all the same */
    SHARE = 50,
    VICTIMS = 2048, /* files that one look at a folder finds for removal */
    DROP_MAX = 200, /* rows in one command */
    ATTEMPTS_MAX = 100,
    FOLDER_AGE_S = 3600, /* of a context nobody knows: younger ones may be about to be known */
};

/* ---- a look at a folder */

enum owner { OWNER_JOB, OWNER_CONTEXT, OWNER_WORKER };

struct victim {
    int64_t changed_ns, bytes;
    enum owner owner;
    char id[STK_UUID_MAX]; /* of a worker: its process */
    char name[96];
};

struct folder {
    const char *name;
    int64_t limit; /* 0: none */
    int64_t total;
    struct victim *victims; /* 2 * VICTIMS of room */
    size_t n;
};

enum stage { STAGE_ROWS, STAGE_VERSIONS, STAGE_VERSION, STAGE_FILES, STAGE_DROP, STAGE_UNLINK };

struct retention {
    struct stk_core *core;
    struct stk_timer *timer;
    enum stage stage;
    bool busy;           /* a command or a helper is at work */
    atomic_bool stopped; /* read by the helper too */
    int waits;           /* for a long queue of the store, in a row */
    int64_t pass_ms;
    /* a pass */
    struct stk_expiry expiry;
    size_t n_jobs, n_contexts, n_events, n_versions, n_results, n_logs; /* removed in it */
    int64_t replaced_before_us;                                         /* versions that were replaced later stay */
    int64_t *versions;
    size_t n_found, version_at;
    int64_t versions_after_ms, files_after_ms; /* monotonic: not before */
    struct folder results, logs;
    struct victim *strays; /* logs of workers, maybe dead */
    size_t n_strays;
    bool leftovers_done, look_again;
    int64_t took_ms;
    char (*drop_ids)[STK_UUID_MAX];
    size_t drop_at;
    struct stk_err err; /* of the helper */
    bool failed;
    /* since the last look: what jobs have left */
    int64_t new_results, new_logs;
    bool looked; /* the totals are known */
};

static void begin_step(void *arg);

static void later(struct retention *r, int64_t ms)
{
    if (!atomic_load(&r->stopped))
        stk_timer_set(r->timer, ms);
}

static void next_stage(struct retention *r, enum stage stage)
{
    r->stage = stage;
    later(r, 0);
}

/* The end of a command or of a helper's work. false: the server is stopping, nothing follows. */
static bool step_done(struct retention *r)
{
    r->busy = false;
    if (!atomic_load(&r->stopped))
        return true;
    core_check_stopped(r->core);
    return false;
}

static void end_pass(struct retention *r)
{
    free(r->versions);
    r->versions = NULL;
    r->n_found = r->version_at = 0;
    char counts[6][24];
    size_t n[6] = { r->n_jobs, r->n_contexts, r->n_events, r->n_versions, r->n_results, r->n_logs }, sum = 0;

    for (size_t i = 0; i < STK_LEN(n); i++) {
        snprintf(counts[i], sizeof counts[i], "%zu", n[i]);
        sum += n[i];
    }
    if (sum)
        stk_info("retention", "removed", "jobs", counts[0], "contexts", counts[1], "events", counts[2], "versions",
                 counts[3], "results", counts[4], "logs", counts[5]);
    r->n_jobs = r->n_contexts = r->n_events = r->n_versions = r->n_results = r->n_logs = 0;
    contexts_sweep(r->core, FOLDER_AGE_S);
    spool_sweep(r->core);
    r->expiry.job_from = r->expiry.context_from = 0;
    r->stage = STAGE_ROWS;
    later(r, r->pass_ms);
}

static void give_up(struct retention *r, const struct stk_err *err)
{
    stk_warn("retention", "not everything could be removed, will be tried again", "why", err->msg);
    end_pass(r);
}

/* ---- rows */

/* On the helper thread. Most of these names do not exist. */
static void unlink_gone(void *arg)
{
    static const struct {
        const char *before, *after;
    } names[] = { { "logs/", ".stdout" }, { "logs/", ".stderr" }, { "spool/", "" } };
    const struct stk_result_form *form;
    struct retention *r = arg;
    char path[128];

    for (size_t i = 0; i < r->expiry.n_gone; i++) {
        const struct stk_gone *g = &r->expiry.gone[i];

        if (g->attempts < 0) {
            snprintf(path, sizeof path, "logs/context.%s.log", g->id);
            unlinkat(r->core->o.state_dir_fd, path, 0);
        }
        for (int a = 1; a <= g->attempts && a <= ATTEMPTS_MAX; a++) {
            for (size_t n = 0; n < STK_LEN(names); n++) {
                snprintf(path, sizeof path, "%s%s.%d%s", names[n].before, g->id, a, names[n].after);
                unlinkat(r->core->o.state_dir_fd, path, 0);
            }
            for (size_t n = 0; (form = stk_result_form_at(n)); n++) {
                snprintf(path, sizeof path, "results/%s.%d.%s", g->id, a, form->ending);
                unlinkat(r->core->o.state_dir_fd, path, 0);
            }
        }
    }
}

static void on_gone_unlinked(void *arg)
{
    struct retention *r = arg;

    if (!step_done(r))
        return;
    r->expiry.job_from = r->expiry.job_next;
    r->expiry.context_from = r->expiry.context_next;
    if (r->expiry.more)
        later(r, STEP_PAUSE_MS);
    else
        next_stage(r, STAGE_VERSIONS);
}

static void on_expired(void *arg, const struct stk_err *err)
{
    struct retention *r = arg;

    if (err) {
        if (step_done(r))
            give_up(r, err);
        return;
    }
    for (size_t i = 0; i < r->expiry.n_gone; i++) {
        if (r->expiry.gone[i].attempts < 0)
            r->n_contexts++;
        else
            r->n_jobs++;
    }
    r->n_events += r->expiry.n_events;
    if (r->expiry.n_gone) /* still busy, also when the server stops: else the files are leftovers */
        stk_loop_background(r->core->loop, unlink_gone, on_gone_unlinked, r);
    else
        on_gone_unlinked(r);
}

static void expire_rows(struct retention *r)
{
    const struct stk_retention_options *o = &r->core->o.retention;
    struct stk_err err;

    if (!o->keep_jobs_ms && !o->max_stored_jobs) {
        next_stage(r, STAGE_VERSIONS);
        return;
    }
    r->expiry.before_us = o->keep_jobs_ms ? stk_wall_us() - o->keep_jobs_ms * 1000 : 0;
    r->expiry.max_jobs = o->max_stored_jobs;
    if (stk_store_expire(r->core->store, &r->expiry, on_expired, r, &err) < 0)
        give_up(r, &err);
    else
        r->busy = true;
}

/* ---- versions of binaries */

static void find_versions(void *arg)
{
    struct retention *r = arg;
    int64_t from_ms = stk_mono_ms();

    r->failed = stk_store_unused_versions(r->core->store, r->replaced_before_us, &r->stopped, &r->versions, &r->n_found,
                                          &r->err) < 0;
    r->took_ms = stk_mono_ms() - from_ms;
}

static void on_versions_found(void *arg)
{
    struct retention *r = arg;

    r->versions_after_ms = stk_mono_ms() + SHARE * r->took_ms;
    r->version_at = 0;
    if (!step_done(r))
        return;
    if (r->failed)
        give_up(r, &r->err);
    else
        next_stage(r, STAGE_VERSION);
}

static void on_version_expired(void *arg, const struct stk_err *err)
{
    struct retention *r = arg;

    if (!err)
        r->n_versions++;
    if (!step_done(r))
        return;
    if (err && err->code != STK_CONFLICT && err->code != STK_NOT_FOUND)
        give_up(r, err);
    else
        later(r, STEP_PAUSE_MS);
}

static void expire_version(struct retention *r)
{
    struct stk_err err;

    if (r->version_at == r->n_found) {
        free(r->versions);
        r->versions = NULL;
        r->n_found = r->version_at = 0;
        next_stage(r, STAGE_FILES);
        return;
    }
    if (stk_store_version_expired(r->core->store, r->versions[r->version_at++], on_version_expired, r, &err) < 0)
        give_up(r, &err);
    else
        r->busy = true;
}

/* ---- files */

static bool is_uuid(const char *text, size_t len)
{
    return len == STK_UUID_MAX - 1 && strspn(text, "0123456789abcdef-") >= len;
}

/* <job>.<attempt>.<what>, context.<id>.log, w-<hex>.<stream>. false: something else, which is left alone. */
static bool parse_name(const char *name, struct victim *ret)
{
    const char *id = name, *dot;

    if (strlen(name) >= sizeof ret->name)
        return false;
    ret->owner = OWNER_JOB;
    if (strncmp(name, "context.", 8) == 0) {
        ret->owner = OWNER_CONTEXT;
        id = name + 8;
    } else if (strncmp(name, "w-", 2) == 0) {
        ret->owner = OWNER_WORKER;
    }
    dot = strchr(id, '.');
    if (!dot || (size_t)(dot - id) >= sizeof ret->id)
        return false;
    if (ret->owner != OWNER_WORKER && !is_uuid(id, (size_t)(dot - id)))
        return false;
    snprintf(ret->id, sizeof ret->id, "%.*s", (int)(dot - id), id);
    snprintf(ret->name, sizeof ret->name, "%s", name);
    return true;
}

static int older_first(const void *a, const void *b)
{
    const struct victim *x = a, *y = b;

    return (x->changed_ns > y->changed_ns) - (x->changed_ns < y->changed_ns);
}

/* Keeps the oldest ones. */
static void add_victim(struct folder *f, const struct victim *v)
{
    if (f->n == 2 * (size_t)VICTIMS) {
        qsort(f->victims, f->n, sizeof *f->victims, older_first);
        f->n = VICTIMS;
    }
    f->victims[f->n++] = *v;
}

static bool is_leftover(struct retention *r, const struct victim *v)
{
    return !r->leftovers_done && v->owner != OWNER_WORKER && stk_store_knows(r->core->store, v->id, NULL) == 0;
}

static void look_at_file(struct retention *r, struct folder *f, int fd, const char *name)
{
    struct victim v;
    struct stat st;

    if (name[0] == '.' || fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
        return;
    f->total += st.st_size;
    if (!parse_name(name, &v))
        return;
    v.bytes = st.st_size;
    v.changed_ns = st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
    if (is_leftover(r, &v)) { /* a file of a job comes after its row: this one's row was here before it */
        unlinkat(fd, name, 0);
        f->total -= v.bytes;
    } else if (v.owner != OWNER_WORKER) {
        add_victim(f, &v);
    } else if (!r->leftovers_done && r->n_strays < VICTIMS) {
        r->strays[r->n_strays++] = v;
    }
}

static void look_at_folder(struct retention *r, struct folder *f)
{
    int fd = openat(r->core->o.state_dir_fd, f->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    struct dirent *e;
    int64_t over;
    size_t n = 0;

    f->total = 0;
    f->n = 0;
    if (!dir) {
        if (fd >= 0)
            close(fd);
        return;
    }
    while ((e = readdir(dir)) && !atomic_load_explicit(&r->stopped, memory_order_relaxed))
        look_at_file(r, f, fd, e->d_name);
    closedir(dir);
    over = f->limit ? f->total - f->limit : 0;
    if (over > 0)
        qsort(f->victims, f->n, sizeof *f->victims, older_first);
    for (; n < f->n && over > 0; n++)
        over -= f->victims[n].bytes;
    f->n = n;
    r->look_again = r->look_again || over > 0;
}

/* On the helper thread. */
static void look_at_files(void *arg)
{
    struct retention *r = arg;
    int64_t from_ms = stk_mono_ms();

    r->look_again = false;
    r->n_strays = 0;
    look_at_folder(r, &r->results);
    look_at_folder(r, &r->logs);
    r->took_ms = stk_mono_ms() - from_ms;
}

static bool worker_lives(struct stk_core *core, const char *process)
{
    for (struct context *ctx = core->contexts; ctx; ctx = ctx->hh.next) {
        if (worker_find(ctx, process))
            return true;
    }
    return false;
}

static bool lives(struct stk_core *core, const struct victim *v)
{
    switch (v->owner) {
    case OWNER_JOB: return job_find(core, v->id) != NULL;
    case OWNER_CONTEXT: return context_find(core, v->id) != NULL;
    case OWNER_WORKER: break;
    }
    return worker_lives(core, v->id);
}

static size_t without_living(struct stk_core *core, struct victim *victims, size_t n)
{
    size_t kept = 0;

    for (size_t i = 0; i < n; i++) {
        if (!lives(core, &victims[i]))
            victims[kept++] = victims[i];
    }
    return kept;
}

static void on_looked(void *arg)
{
    struct retention *r = arg;

    r->files_after_ms = stk_mono_ms() + SHARE * r->took_ms;
    if (!step_done(r))
        return;
    r->leftovers_done = r->looked = true;
    r->new_results = r->new_logs = 0;
    r->results.n = without_living(r->core, r->results.victims, r->results.n);
    r->logs.n = without_living(r->core, r->logs.victims, r->logs.n);
    r->n_strays = without_living(r->core, r->strays, r->n_strays);
    if (r->results.n + r->logs.n == 0)
        r->look_again = false;
    r->drop_at = 0;
    next_stage(r, STAGE_DROP);
}

static void on_dropped(void *arg, const struct stk_err *err)
{
    struct retention *r = arg;

    if (!step_done(r))
        return;
    if (err) { /* the files stay: their rows still name them */
        give_up(r, err);
        return;
    }
    later(r, STEP_PAUSE_MS);
}

/* The rows forget the results before the files go. */
static void drop_results(struct retention *r)
{
    size_t n = r->results.n - r->drop_at;
    struct stk_err err;

    if (n == 0) {
        next_stage(r, STAGE_UNLINK);
        return;
    }
    n = n < DROP_MAX ? n : DROP_MAX;
    for (size_t i = 0; i < n; i++)
        memcpy(r->drop_ids[i], r->results.victims[r->drop_at + i].id, STK_UUID_MAX);
    r->drop_at += n;
    if (stk_store_results_dropped(r->core->store, (const char(*)[STK_UUID_MAX])r->drop_ids, n, on_dropped, r, &err) < 0)
        give_up(r, &err);
    else
        r->busy = true;
}

static void unlink_victims(struct retention *r, const char *folder, const struct victim *victims, size_t n)
{
    stk_auto_fd fd = openat(r->core->o.state_dir_fd, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    for (size_t i = 0; fd >= 0 && i < n; i++)
        unlinkat(fd, victims[i].name, 0);
}

static void unlink_files(void *arg)
{
    struct retention *r = arg;

    unlink_victims(r, r->results.name, r->results.victims, r->results.n);
    unlink_victims(r, r->logs.name, r->logs.victims, r->logs.n);
    unlink_victims(r, r->logs.name, r->strays, r->n_strays);
}

static void on_files_unlinked(void *arg)
{
    struct retention *r = arg;

    r->n_results += r->results.n;
    r->n_logs += r->logs.n + r->n_strays;
    if (!step_done(r))
        return;
    if (r->look_again)
        next_stage(r, STAGE_FILES);
    else
        end_pass(r);
}

static void background(struct retention *r, void (*work)(void *arg), void (*after)(void *arg))
{
    r->busy = true;
    stk_loop_background(r->core->loop, work, after, r);
}

/* ---- the pass */

static bool must_wait(struct retention *r)
{
    if (stk_store_backlog(r->core->store) <= BACKLOG_MAX || r->waits >= BACKLOG_WAITS) {
        r->waits = 0;
        return false;
    }
    r->waits++;
    later(r, BACKLOG_WAIT_MS);
    return true;
}

static void look_for_versions(struct retention *r)
{
    int64_t kept_us = objects_kept_since_us(r->core);

    r->replaced_before_us = stk_wall_us() - r->core->o.retention.keep_binaries_ms * 1000;
    if (kept_us < r->replaced_before_us)
        r->replaced_before_us = kept_us;
    background(r, find_versions, on_versions_found);
}

static void begin_step(void *arg)
{
    struct retention *r = arg;

    if (r->busy || atomic_load(&r->stopped) || must_wait(r))
        return;
    switch (r->stage) {
    case STAGE_ROWS: expire_rows(r); return;
    case STAGE_VERSIONS:
        if (!r->core->o.retention.keep_binaries_ms || stk_mono_ms() < r->versions_after_ms)
            next_stage(r, STAGE_FILES);
        else
            look_for_versions(r);
        return;
    case STAGE_VERSION: expire_version(r); return;
    case STAGE_FILES:
        if (stk_mono_ms() >= r->files_after_ms)
            background(r, look_at_files, on_looked);
        else if (r->look_again)
            later(r, r->files_after_ms - stk_mono_ms());
        else
            end_pass(r);
        return;
    case STAGE_DROP: drop_results(r); return;
    case STAGE_UNLINK: background(r, unlink_files, on_files_unlinked); return;
    }
}

static int64_t size_field(json_t *done, const char *key)
{
    int64_t n = json_integer_value(json_object_get(done, key));

    return n > 0 && n < INT64_MAX / 4096 ? n : 0; /* it comes from a process that runs user code */
}

/* Between two passes the limits hold too, as well as jobs say what they leave. */
void retention_note(struct stk_core *core, json_t *done)
{
    struct retention *r = core->retention;

    if (json_object_get(done, "result_file"))
        r->new_results += size_field(done, "result_bytes");
    r->new_logs += size_field(done, "stdout_bytes") + size_field(done, "stderr_bytes");
    if (!r->looked || r->busy || r->stage != STAGE_ROWS)
        return;
    if ((r->results.limit && r->results.total + r->new_results > r->results.limit) ||
        (r->logs.limit && r->logs.total + r->new_logs > r->logs.limit)) {
        r->looked = false; /* until then once is enough */
        later(r, PASS_MIN_MS);
    }
}

/* ---- life */

static int64_t pass_interval(const struct stk_retention_options *o)
{
    int64_t ms = (int64_t)PASS_MAX_MS * PASSES_PER_AGE;

    if (o->keep_jobs_ms && o->keep_jobs_ms < ms)
        ms = o->keep_jobs_ms;
    if (o->keep_binaries_ms && o->keep_binaries_ms < ms)
        ms = o->keep_binaries_ms;
    ms /= PASSES_PER_AGE;
    return ms > PASS_MIN_MS ? ms : PASS_MIN_MS;
}

struct retention *retention_new(struct stk_core *core, struct stk_err *err)
{
    struct retention *r = calloc(1, sizeof *r);

    if (r) {
        r->core = core;
        r->pass_ms = pass_interval(&core->o.retention);
        r->results = (struct folder){ .name = "results", .limit = core->o.retention.max_stored_results_bytes };
        r->logs = (struct folder){ .name = "logs", .limit = core->o.retention.max_stored_logs_bytes };
        r->results.victims = calloc(2 * (size_t)VICTIMS, sizeof *r->results.victims);
        r->logs.victims = calloc(2 * (size_t)VICTIMS, sizeof *r->logs.victims);
        r->strays = calloc(VICTIMS, sizeof *r->strays);
        r->drop_ids = calloc(DROP_MAX, sizeof *r->drop_ids);
        r->timer = stk_timer_new(core->loop, begin_step, r);
    }
    if (!r || !r->results.victims || !r->logs.victims || !r->strays || !r->drop_ids || !r->timer) {
        stk_fail(err, STK_INTERNAL, "out of memory");
        retention_free(r);
        return NULL;
    }
    later(r, FIRST_PASS_MS);
    return r;
}

void retention_stop(struct retention *r)
{
    atomic_store(&r->stopped, true);
    stk_timer_clear(r->timer);
}

bool retention_busy(const struct retention *r)
{
    return r->busy;
}

void retention_free(struct retention *r)
{
    if (!r)
        return;
    stk_timer_free(r->timer);
    free(r->results.victims);
    free(r->logs.victims);
    free(r->strays);
    free(r->drop_ids);
    free(r->versions);
    free(r);
}
