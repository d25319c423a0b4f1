/*
 * The core (jobs/) in a world of its own: the loop, the clock, the store, processes and connections are played here, so that one
 * input is one history. It decides what callers ask, what zygotes, keepers and workers say, when commits come back, whether
 * the disk is full, which process dies and how time goes by.
 *
 * First byte even: processes tell the truth. Then no job is run twice, no worker gets a second job, and each context ends when it is
 * told to. Odd: they may say anything; the core must live with it. Always: no move that the tables do not allow (asserts of
 * the core), and no final row but one.
 */
#include "fuzz.h"

#include "live.h"

#include "stoker/clock.h"
#include "stoker/log.h"
#include "stoker/store.h"
#include "stoker/tree.h"

#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>

enum { PROCS_MAX = 64, CMDS_MAX = 512, TIMERS_MAX = 128, OPS_MAX = 300, JOBS_MAX = 64, NAMES = 3 };

/* ---- bytes of the input */

static const uint8_t *in, *in_end;

static unsigned take(void)
{
    return in < in_end ? *in++ : 0;
}

static unsigned pick(size_t n)
{
    return n ? take() % (unsigned)n : 0;
}

static bool honest;
static struct stk_core *core;

/* ---- clock */

static int64_t now_ms;

int64_t stk_mono_ms(void)
{
    return now_ms;
}

int64_t stk_mono_us(void)
{
    return now_ms * 1000;
}

int64_t stk_wall_us(void)
{
    return 1600000000000000 + now_ms * 1000;
}

struct timespec stk_mono_deadline(int64_t ms) /* nobody waits here: there is one thread */
{
    (void)ms;
    return (struct timespec){ .tv_sec = 1 };
}

const char *stk_time_utc(char buf[STK_TIME_MAX], int64_t wall_us)
{
    snprintf(buf, STK_TIME_MAX, "%lld", (long long)wall_us);
    return buf;
}

const char *stk_time_local(char buf[STK_TIME_MAX], int64_t wall_us)
{
    return stk_time_utc(buf, wall_us);
}

/* ---- loop: tasks run at once; timers when their time has come; what is done in the background when the input says */

struct stk_loop {
    int nothing;
};

struct stk_timer {
    void (*fn)(void *arg);
    void *arg;
    int64_t due_ms; /* 0: not set */
};

static struct stk_timer *timers[TIMERS_MAX];

static struct {
    void (*work)(void *arg), (*after)(void *arg);
    void *arg;
} background[4096];
static size_t n_background;

void stk_loop_post(struct stk_loop *loop, struct stk_task *first)
{
    (void)loop;
    while (first) {
        struct stk_task *next = first->next;

        first->run(first);
        first = next;
    }
}

void stk_loop_poster(void *loop, struct stk_task *first)
{
    stk_loop_post(loop, first);
}

void stk_loop_on_turn(struct stk_loop *loop, void (*fn)(void *arg), void *arg)
{
    (void)loop;
    (void)fn;
    (void)arg;
}

void stk_loop_background(struct stk_loop *loop, void (*work)(void *arg), void (*after)(void *arg), void *arg)
{
    (void)loop;
    FUZZ_CHECK(n_background < STK_LEN(background));
    background[n_background].work = work;
    background[n_background].after = after;
    background[n_background++].arg = arg;
}

static void run_background(void)
{
    if (n_background == 0)
        return;
    typeof(background[0]) b = background[0];

    memmove(background, background + 1, --n_background * sizeof *background);
    b.work(b.arg);
    b.after(b.arg);
}

struct stk_timer *stk_timer_new(struct stk_loop *loop, void (*fn)(void *arg), void *arg)
{
    struct stk_timer *t = calloc(1, sizeof *t);

    (void)loop;
    *t = (struct stk_timer){ .fn = fn, .arg = arg };
    for (size_t i = 0; i < TIMERS_MAX; i++) {
        if (!timers[i]) {
            timers[i] = t;
            return t;
        }
    }
    FUZZ_CHECK(false, "too many timers");
    return NULL;
}

void stk_timer_set(struct stk_timer *t, int64_t ms)
{
    t->due_ms = now_ms + (ms > 0 ? ms : 0) + 1;
}

void stk_timer_clear(struct stk_timer *t)
{
    t->due_ms = 0;
}

void stk_timer_free(struct stk_timer *t)
{
    for (size_t i = 0; t && i < TIMERS_MAX; i++) {
        if (timers[i] == t)
            timers[i] = NULL;
    }
    free(t);
}

static void advance(int64_t ms)
{
    int64_t until_ms = now_ms + ms;

    for (int turns = 0; turns < 1000; turns++) {
        struct stk_timer *next = NULL;

        for (size_t i = 0; i < TIMERS_MAX; i++) {
            if (timers[i] && timers[i]->due_ms && timers[i]->due_ms <= until_ms &&
                (!next || timers[i]->due_ms < next->due_ms))
                next = timers[i];
        }
        if (!next)
            break;
        if (next->due_ms > now_ms)
            now_ms = next->due_ms;
        next->due_ms = 0;
        next->fn(next->arg);
    }
    now_ms = until_ms;
}

/* ---- processes */

struct stk_conn {
    void *user;
    struct proc *proc;
    bool welcomed;
};

struct attempt {
    char job[STK_UUID_MAX];
    int n;
};

struct proc {
    pid_t pid; /* 0: an unused place */
    char context[STK_UUID_MAX], name[STK_PROCESS_MAX];
    enum role role;
    bool alive, reported, refused;
    struct stk_conn *conn;
    struct attempt hand, result; /* of a worker: in flight; ended and not acknowledged */
    int interrupts;              /* not answered yet */
    bool retire, stop, running, ready;
    char asked[STK_UUID_MAX]; /* the last request for named objects */
    bool drop;                /* was to drop one */
    struct stk_watch *watches[4];
};

struct stk_watch {
    struct proc *proc;
    void (*fn)(void *arg);
    void *arg;
};

static struct proc procs[PROCS_MAX];
static pid_t last_pid;
static bool no_fork;

static struct proc *proc_new(const char *context, const char *name, enum role role)
{
    for (size_t i = 0; i < PROCS_MAX; i++) {
        struct proc *p = &procs[i];

        if (p->pid)
            continue;
        *p = (struct proc){ .pid = ++last_pid, .role = role, .alive = true };
        snprintf(p->context, sizeof p->context, "%s", context);
        snprintf(p->name, sizeof p->name, "%s", name);
        return p;
    }
    return NULL;
}

static struct proc *proc_named(const char *context, const char *name)
{
    for (size_t i = PROCS_MAX; i-- > 0;) {
        if (procs[i].pid && strcmp(procs[i].context, context) == 0 && strcmp(procs[i].name, name) == 0)
            return &procs[i];
    }
    return NULL;
}

static struct proc *proc_of_pid(pid_t pid)
{
    for (size_t i = 0; i < PROCS_MAX; i++) {
        if (procs[i].pid && procs[i].pid == pid)
            return &procs[i];
    }
    return NULL;
}

static void hang_up(struct proc *p);

static struct stk_runner_events events;

/* The kernel tells of it later. */
static void die(struct proc *p)
{
    p->alive = false;
    p->retire = false;
    for (size_t i = 0; i < PROCS_MAX; i++) { /* parent-death signals */
        struct proc *child = &procs[i];

        if (child->pid && child->alive && strcmp(child->context, p->context) == 0 &&
            (p->role == ROLE_ZYGOTE || (p->role == ROLE_KEEPER && child->role != ROLE_ZYGOTE)))
            child->alive = false;
    }
}

/* The pidfds of the dead become readable, and their connections end. */
static void tell_of_the_dead(void)
{
    for (size_t i = 0; i < PROCS_MAX; i++) {
        struct proc *p = &procs[i];

        if (!p->pid || p->alive)
            continue;
        hang_up(p);
        for (size_t w = 0; w < STK_LEN(p->watches); w++) {
            struct stk_watch *watch = p->watches[w];

            p->watches[w] = NULL;
            if (!watch)
                continue;
            watch->proc = NULL;
            watch->fn(watch->arg);
        }
    }
}

int stk_process_identify(pid_t pid, struct stk_process_id *ret, struct stk_err *err)
{
    struct proc *p = proc_of_pid(pid);

    if (!p || !p->alive)
        return stk_fail(err, STK_NOT_FOUND, "no such process");
    ret->pid = pid;
    ret->start_time = (uint64_t)pid;
    snprintf(ret->boot_id, sizeof ret->boot_id, "boot");
    return 0;
}

struct stk_watch *stk_watch_new(struct stk_loop *loop, const struct stk_process_id *id, void (*fn)(void *arg),
                                void *arg, struct stk_err *err)
{
    struct proc *p = proc_of_pid(id->pid);

    (void)loop;
    if (!p || !p->alive) {
        stk_fail(err, STK_NOT_FOUND, "no such process");
        return NULL;
    }
    for (size_t i = 0; i < STK_LEN(p->watches); i++) {
        if (p->watches[i])
            continue;
        p->watches[i] = calloc(1, sizeof *p->watches[i]);
        *p->watches[i] = (struct stk_watch){ p, fn, arg };
        return p->watches[i];
    }
    stk_fail(err, STK_INTERNAL, "no descriptors are left");
    return NULL;
}

int stk_watch_kill(struct stk_watch *w, int sig)
{
    (void)sig;
    if (!w->proc || !w->proc->alive)
        return -1;
    die(w->proc);
    return 0;
}

void stk_watch_free(struct stk_watch *w)
{
    for (size_t i = 0; w && w->proc && i < STK_LEN(w->proc->watches); i++) {
        if (w->proc->watches[i] == w)
            w->proc->watches[i] = NULL;
    }
    free(w);
}

int stk_runner_spawn(struct stk_runner *r, const struct stk_spawn *spawn, struct stk_process_id *ret,
                     struct stk_err *err)
{
    const char *id = strrchr(spawn->cwd, '/') + 1;
    struct proc *p = no_fork ? NULL : proc_new(id, "z", ROLE_ZYGOTE);

    (void)r;
    no_fork = false;
    if (!p)
        return stk_fail(err, STK_RUNNER, "cannot fork");
    return stk_process_identify(p->pid, ret, err);
}

/* ---- connections, and how processes take what they are told */

static char started[JOBS_MAX * 4][STK_UUID_MAX]; /* jobs that a worker has begun, in whatever attempt */
static size_t n_started;

static const char *text_of(const json_t *msg, const char *key)
{
    const char *text = json_string_value(json_object_get(msg, key));

    return text ? text : "";
}

static void take_attempt(const json_t *msg, struct attempt *ret)
{
    snprintf(ret->job, sizeof ret->job, "%s", text_of(msg, "job"));
    ret->n = (int)json_integer_value(json_object_get(msg, "attempt"));
}

static bool same_attempt(const struct attempt *a, const json_t *msg)
{
    return strcmp(a->job, text_of(msg, "job")) == 0 && a->n == json_integer_value(json_object_get(msg, "attempt"));
}

static void on_run(struct proc *p, const json_t *msg)
{
    if (honest) {
        FUZZ_CHECK(!p->hand.n && !p->result.n, "%s has job %s%s and gets %s", p->name, p->hand.job, p->result.job,
                   text_of(msg, "job"));
        FUZZ_CHECK(p->interrupts == 0, "%s has not answered an interrupt yet", p->name);
        for (size_t i = 0; i < n_started; i++)
            FUZZ_CHECK(strcmp(started[i], text_of(msg, "job")) != 0, "job %s is run twice", started[i]);
        FUZZ_CHECK(n_started < STK_LEN(started));
        snprintf(started[n_started++], STK_UUID_MAX, "%s", text_of(msg, "job"));
    }
    take_attempt(msg, &p->hand);
}

/* A keeper is asked of attempts that were sent to workers of its own. */
static void on_look(const struct proc *keeper, const json_t *msg)
{
    const json_t *attempts = json_object_get(msg, "attempts"), *each;
    size_t i;

    FUZZ_CHECK(keeper->role == ROLE_KEEPER && json_array_size(attempts) > 0);
    json_array_foreach(attempts, i, each) {
        struct job *job = job_find(core, text_of(each, "job"));

        FUZZ_CHECK(job && job->row.state == STK_JOB_RUNNING && strcmp(job->row.context_id, keeper->context) == 0);
    }
}

static void told(struct proc *p, const char *type, const json_t *msg)
{
    const char *name = text_of(msg, "process");
    struct proc *other = proc_named(p->context, name);

    if (strcmp(type, "fork") == 0) {
        if (!other)
            other = proc_new(p->context, name, strcmp(name, "k") == 0 ? ROLE_KEEPER : ROLE_WORKER);
        if (other && no_fork)
            other->refused = true, other->alive = false;
        no_fork = false;
    } else if (strcmp(type, "kill") == 0) {
        if (other)
            die(other);
    } else if (strcmp(type, "ack_exit") == 0) {
        if (other && !other->alive)
            other->reported = true;
    } else if (strcmp(type, "stop") == 0) {
        p->stop = true;
    } else if (strcmp(type, "run") == 0) {
        on_run(p, msg);
    } else if (strcmp(type, "ack") == 0) {
        if (same_attempt(&p->result, msg))
            p->result.n = 0;
    } else if (strcmp(type, "interrupt") == 0) {
        p->interrupts++;
    } else if (strcmp(type, "retire") == 0) {
        p->retire = true;
    } else if (strcmp(type, "objects") == 0 || strcmp(type, "drop") == 0) {
        snprintf(p->asked, sizeof p->asked, "%s", text_of(msg, "request"));
        p->drop = type[0] == 'd';
    } else if (strcmp(type, "look") == 0) {
        on_look(p, msg);
    } else {
        FUZZ_CHECK(strcmp(type, "admit") == 0 || strcmp(type, "gone") == 0 || strcmp(type, "cancel") == 0 ||
                       strcmp(type, "welcome") == 0 || strcmp(type, "refused") == 0,
                   "the server says %s", type);
    }
}

void stk_conn_send_take(struct stk_conn *c, json_t *msg)
{
    json_auto_t *owned = msg;

    FUZZ_CHECK(owned, "a message could not be made");
    FUZZ_CHECK(c, "a message to nobody: %s", text_of(msg, "type"));
    if (c->proc && c->proc->alive)
        told(c->proc, text_of(msg, "type"), msg);
}

void stk_conn_welcome(struct stk_conn *c, void *user)
{
    c->user = user;
    c->welcomed = true;
}

void stk_conn_close(struct stk_conn *c)
{
    if (c->proc)
        c->proc->conn = NULL;
    free(c);
}

void stk_conn_refuse(struct stk_conn *c, const char *reason)
{
    FUZZ_CHECK(reason && reason[0]);
    if (honest && c->proc)
        die(c->proc); /* as the protocol says */
    stk_conn_close(c);
}

void *stk_conn_user(const struct stk_conn *c)
{
    return c->user;
}

static void hang_up(struct proc *p)
{
    struct stk_conn *c = p->conn;

    if (!c)
        return;
    p->conn = NULL;
    c->proc = NULL;
    if (c->welcomed)
        events.closed(events.arg, c);
    free(c);
}

struct stk_runner *stk_runner_new(struct stk_loop *loop, const struct stk_runner_options *options, struct stk_err *err)
{
    (void)loop;
    (void)err;
    events = options->events;
    return (struct stk_runner *)(uintptr_t)1;
}

void stk_runner_free(struct stk_runner *r)
{
    (void)r;
}

/* ---- store */

struct command {
    stk_store_done_fn *done;
    void *arg;
    bool may_fail;
};

static struct command commands[CMDS_MAX];
static size_t n_commands;

/* Rows as they are recorded; what fails is taken back. */
static struct {
    char id[STK_UUID_MAX];
    enum stk_job_state state;
} jobs[JOBS_MAX];
static size_t n_jobs;

static int queue_command(stk_store_done_fn *done, void *arg)
{
    FUZZ_CHECK(n_commands < CMDS_MAX);
    commands[n_commands++] = (struct command){ .done = done, .arg = arg, .may_fail = true };
    return 0;
}

static void answer_command(bool full)
{
    struct command c = commands[0];
    struct stk_err err;

    if (n_commands == 0)
        return;
    memmove(commands, commands + 1, --n_commands * sizeof *commands);
    if (!c.done)
        return;
    if (full)
        stk_fail(&err, STK_FULL, "the disk is full");
    c.done(c.arg, full ? &err : NULL);
}

int stk_store_job_submitted(struct stk_store *s, const struct stk_job_row *row, const int64_t *versions, size_t n,
                            stk_store_done_fn *done, void *arg, struct stk_err *err)
{
    (void)s;
    (void)versions;
    (void)n;
    if (n_jobs == JOBS_MAX)
        return stk_fail(err, STK_LIMIT, "the store is busy");
    FUZZ_CHECK(row->state == STK_JOB_QUEUED || row->state == STK_JOB_STARTING);
    memcpy(jobs[n_jobs].id, row->id, STK_UUID_MAX);
    jobs[n_jobs++].state = row->state;
    return queue_command(done, arg);
}

int stk_store_job_moved(struct stk_store *s, const struct stk_job_row *row, stk_store_done_fn *done, void *arg,
                        struct stk_err *err)
{
    (void)s;
    (void)err;
    for (size_t i = 0; i < n_jobs; i++) {
        if (strcmp(jobs[i].id, row->id) != 0)
            continue;
        /* the same final row may be written again when the disk was full */
        FUZZ_CHECK(!stk_job_is_final(jobs[i].state) || jobs[i].state == row->state, "job %s ends as %s and as %s",
                   row->id, stk_job_state_name(jobs[i].state), stk_job_state_name(row->state));
        jobs[i].state = row->state;
    }
    return queue_command(done, arg);
}

int stk_store_context_created(struct stk_store *s, const struct stk_context_row *row, stk_store_done_fn *done,
                              void *arg, struct stk_err *err)
{
    (void)s;
    (void)row;
    (void)err;
    return queue_command(done, arg);
}

int stk_store_context_taken(struct stk_store *s, const struct stk_context_row *row, stk_store_done_fn *done, void *arg,
                            struct stk_err *err)
{
    return stk_store_context_created(s, row, done, arg, err);
}

int stk_store_context_moved(struct stk_store *s, const struct stk_context_row *row, stk_store_done_fn *done, void *arg,
                            struct stk_err *err)
{
    return stk_store_context_created(s, row, done, arg, err);
}

int stk_store_process_started(struct stk_store *s, const char *context_id, const char *role,
                              const struct stk_process_id *process, struct stk_err *err)
{
    (void)s;
    (void)context_id;
    (void)err;
    FUZZ_CHECK(role && process->pid > 0 && process->process[0]);
    return queue_command(NULL, NULL);
}

int stk_store_process_ended(struct stk_store *s, const char *context_id, const char *process, struct stk_err *err)
{
    (void)s;
    (void)context_id;
    (void)process;
    (void)err;
    return queue_command(NULL, NULL);
}

int stk_store_binary_get(struct stk_store *s, const char *name, struct stk_binary_row *ret, struct stk_err *err)
{
    (void)s;
    (void)err;
    *ret = (struct stk_binary_row){ .version = 1, .name = stk_text_new(name, strlen(name)) };
    memset(ret->digest, name[0], sizeof ret->digest - 1);
    return 0;
}

static int none(struct stk_err *err)
{
    return stk_fail(err, STK_NOT_FOUND, "there is none");
}

int stk_store_job_get(struct stk_store *s, const char *id, struct stk_job_row *ret, struct stk_err *err)
{
    (void)s;
    (void)id;
    (void)ret;
    return none(err);
}

int stk_store_job_by_key(struct stk_store *s, const char *key, struct stk_job_row *ret, struct stk_err *err)
{
    return stk_store_job_get(s, key, ret, err);
}

int stk_store_job_config(struct stk_store *s, const char *id, struct stk_text **ret, struct stk_err *err)
{
    (void)s;
    (void)id;
    (void)ret;
    return none(err);
}

int stk_store_context_get(struct stk_store *s, const char *name, struct stk_context_row *ret, struct stk_err *err)
{
    (void)s;
    (void)name;
    (void)ret;
    return none(err);
}

#define NO_ROWS(function, type, ...)                                                                 \
    int function(struct stk_store *s, ##__VA_ARGS__, type **ret, size_t *ret_n, struct stk_err *err) \
    {                                                                                                \
        (void)s;                                                                                     \
        (void)ret;                                                                                   \
        (void)ret_n;                                                                                 \
        return none(err);                                                                            \
    }
int stk_store_job_counts(struct stk_store *s, int64_t *ret, struct stk_err *err)
{
    (void)s;
    (void)ret;
    return none(err);
}

int stk_store_binary_versions(struct stk_store *s, const char *name, struct stk_binary_row **ret, size_t *ret_n,
                              struct stk_err *err)
{
    (void)s;
    (void)name;
    (void)ret;
    (void)ret_n;
    return none(err);
}

int stk_store_job_list(struct stk_store *s, const struct stk_job_filter *filter, struct stk_job_row **ret,
                       size_t *ret_n, struct stk_job_place *ret_next, struct stk_err *err)
{
    (void)s;
    (void)filter;
    (void)ret;
    (void)ret_n;
    (void)ret_next;
    return none(err);
}

NO_ROWS(stk_store_context_list, struct stk_context_row)
NO_ROWS(stk_store_binary_list, struct stk_binary_row)
NO_ROWS(stk_store_live_contexts, struct stk_context_row)
NO_ROWS(stk_store_live_jobs, struct stk_job_row)
NO_ROWS(stk_store_live_processes, struct stk_process_row)

int stk_store_binary_added(struct stk_store *s, struct stk_binary_row *row, const char *blob_tmp,
                           const char *unpacked_tmp, stk_store_done_fn *done, void *arg, struct stk_err *err)
{
    (void)s;
    (void)row;
    (void)blob_tmp;
    (void)unpacked_tmp;
    (void)done;
    (void)arg;
    return none(err);
}

int stk_store_binary_deleted(struct stk_store *s, const char *name, stk_store_done_fn *done, void *arg,
                             struct stk_err *err)
{
    (void)s;
    (void)name;
    (void)done;
    (void)arg;
    return none(err);
}

/* Nothing is old enough to be removed. */
int stk_store_expire(struct stk_store *s, struct stk_expiry *expiry, stk_store_done_fn *done, void *arg,
                     struct stk_err *err)
{
    (void)s;
    (void)err;
    expiry->more = false;
    expiry->n_gone = expiry->n_events = 0;
    return queue_command(done, arg);
}

int stk_store_results_dropped(struct stk_store *s, const char (*ids)[STK_UUID_MAX], size_t n, stk_store_done_fn *done,
                              void *arg, struct stk_err *err)
{
    (void)s;
    (void)ids;
    (void)n;
    (void)err;
    return queue_command(done, arg);
}

int stk_store_version_expired(struct stk_store *s, int64_t version, stk_store_done_fn *done, void *arg,
                              struct stk_err *err)
{
    (void)s;
    (void)version;
    (void)err;
    return queue_command(done, arg);
}

int stk_store_unused_versions(struct stk_store *s, int64_t replaced_before_us, const atomic_bool *stop, int64_t **ret,
                              size_t *ret_n, struct stk_err *err)
{
    (void)s;
    (void)replaced_before_us;
    (void)stop;
    (void)err;
    *ret = NULL;
    *ret_n = 0;
    return 0;
}

int64_t stk_store_event_newest(struct stk_store *s)
{
    (void)s;
    return 0;
}

size_t stk_store_backlog(struct stk_store *s)
{
    (void)s;
    return n_commands;
}

int stk_store_knows(struct stk_store *s, const char *id, struct stk_err *err)
{
    (void)s;
    (void)id;
    (void)err;
    return 1;
}
void stk_store_flush(struct stk_store *s)
{
    (void)s;
}

/* ---- what callers ask */

static char state_dir[64];
static int state_fd;

static void create_context(void)
{
    static const char *const names[NAMES] = { "a", "b", "c" };
    json_auto_t *empty = json_object();
    struct stk_context_spec spec = {
        .name = names[pick(NAMES)],
        .kind = "session",
        .spark_conf = empty,
        .settings = empty,
        .max_jobs = 1 + (int)pick(3),
        .terms = STK_TERMS_UNSAID,
        .idle_timeout_ms = pick(4) ? 0 : 5000,
        .lifetime_ms = pick(4) ? 0 : 20000,
    };
    struct stk_context_row row;
    struct stk_err err;

    if (stk_context_create(core, &spec, STK_UP, 0, &row, NULL, &err) == 0)
        stk_context_row_done(&row);
}

static const char *a_context_name(void)
{
    static const char *const names[NAMES] = { "a", "b", "c" };

    return names[pick(NAMES)];
}

static void submit_job(void)
{
    unsigned how = take();
    struct stk_job_spec spec = {
        .context = a_context_name(),
        .app = how & 1 ? "one" : "two",
        .class_path = "p.C",
        .config = "{}",
        .config_len = 2,
        .terms = STK_TERMS_UNSAID,
    };
    struct stk_job_row row;
    struct stk_err err;

    if (how & 2)
        spec.terms.priority = (int)pick(3) - 1;
    if (how & 4)
        spec.terms.queue_timeout_ms = 1000;
    if (how & 8)
        spec.terms.run_timeout_ms = 1000;
    if (how & 16)
        spec.terms.isolated = 1;
    stk_job_submit(core, &spec, how & 32 ? STK_WAIT_FINAL : STK_WAIT_ACCEPTED, 0, &row, &err);
    stk_job_row_done(&row);
}

static const char *a_job_id(void)
{
    return n_jobs ? jobs[pick(n_jobs)].id : "none";
}

static void cancel_job(void)
{
    enum stk_job_state before;
    struct stk_job_row row = { 0 };
    struct stk_err err;

    if (stk_job_cancel(core, a_job_id(), 0, &before, &row, &err) == 0)
        stk_job_row_done(&row);
}

/* ---- what processes say */

static bool lies(void)
{
    return !honest && pick(4) == 0;
}

static struct proc *a_proc(bool alive)
{
    struct proc *found[PROCS_MAX];
    size_t n = 0;

    for (size_t i = 0; i < PROCS_MAX; i++) {
        if (procs[i].pid && procs[i].alive == alive)
            found[n++] = &procs[i];
    }
    return n ? found[pick(n)] : NULL;
}

static json_t *attempt_list(const struct attempt *a)
{
    return a->n ? json_pack("[{s:s, s:i}]", "job", a->job, "attempt", a->n) : json_array();
}

static json_t *exit_of(const struct proc *p)
{
    unsigned how = pick(3);

    if (p->refused)
        return json_pack("{s:s, s:s, s:s, s:n, s:n, s:n, s:s}", "type", "exited", "process", p->name, "role", "worker",
                         "pid", "status", "signal", "reason", "fork failed: no");
    return json_pack("{s:s, s:s, s:s, s:i, s:o, s:o}", "type", "exited", "process", p->name, "role",
                     p->role == ROLE_KEEPER ? "keeper" : "worker", "pid", (int)p->pid, "status",
                     how == 0 ? json_null() : json_integer(how), "signal", how == 0 ? json_integer(9) : json_null());
}

static bool is_child(const struct proc *p, const struct proc *z)
{
    return p->pid && p->role != ROLE_ZYGOTE && p->role != ROLE_JVM && strcmp(p->context, z->context) == 0;
}

static void add_children(json_t *hello, const struct proc *z)
{
    json_t *children = json_array(), *exits = json_array();

    for (size_t i = 0; i < PROCS_MAX; i++) {
        const struct proc *p = &procs[i];

        if (is_child(p, z) && p->alive)
            json_array_append_new(children, json_pack("{s:s, s:s, s:i, s:i}", "process", p->name, "role", "worker",
                                                      "pid", (int)p->pid, "start_time", (int)p->pid));
        else if (is_child(p, z) && !p->reported)
            json_array_append_new(exits, exit_of(p));
    }
    json_object_set_new(hello, "children", children);
    json_object_set_new(hello, "exits", exits);
}

static const char *const words[] = { "k", "z", "w-00000000", "", "ready", "retiring", "running", "failed", "ended" };

/* Some part of it is something else. */
static void garble(json_t *msg)
{
    static const char *const keys[] = { "process", "worker", "job",    "attempt", "pid",      "state",   "set",
                                        "exits",   "error",  "result", "outcome", "children", "started", "role" };
    const char *key = keys[pick(STK_LEN(keys))];
    struct proc *p;

    switch (pick(7)) {
    case 0: json_object_del(msg, key); break;
    case 1: json_object_set_new(msg, key, json_null()); break;
    case 2: json_object_set_new(msg, key, json_integer((json_int_t)take() - 2)); break;
    case 3: json_object_set_new(msg, key, json_string(words[pick(STK_LEN(words))])); break;
    case 4: json_object_set_new(msg, key, json_pack("[n, {}, {s:s}, s]", "process", "k", "w")); break;
    case 5: json_object_set_new(msg, key, json_string(a_job_id())); break;
    default:
        if ((p = a_proc(pick(2))))
            json_object_set_new(msg, key, pick(2) ? json_string(p->name) : json_integer(p->pid));
    }
}

static void dial(void)
{
    struct proc *p = a_proc(true);
    json_auto_t *hello = NULL;
    struct stk_conn *c;

    if (!p || p->role == ROLE_JVM)
        return;
    hang_up(p);
    hello = json_pack("{s:s, s:s, s:s, s:i}", "role",
                      p->role == ROLE_ZYGOTE   ? "zygote"
                      : p->role == ROLE_KEEPER ? "keeper"
                                               : "worker",
                      "context", p->context, "process", p->name, "pid", (int)p->pid);
    if (p->role == ROLE_ZYGOTE)
        add_children(hello, p);
    if (p->role == ROLE_KEEPER) {
        json_object_set_new(hello, "state", json_string(p->running ? "running" : "starting"));
        if (p->running)
            json_object_set_new(hello, "started", json_pack("{s:s}", "application_id", "app"));
        json_object_set_new(hello, "workers", json_array());
        if (pick(8))
            json_object_set_new(hello, "looks", json_true());
    }
    if (p->role == ROLE_WORKER) {
        json_object_set_new(hello, "attempts", attempt_list(&p->hand));
        json_object_set_new(hello, "results", attempt_list(&p->result));
        json_object_set_new(hello, "state", json_string(p->retire ? "retiring" : p->ready ? "ready" : "attaching"));
        json_object_set_new(hello, "set", json_null());
    }
    if (lies())
        garble(hello);
    p->interrupts = 0;
    c = calloc(1, sizeof *c);
    c->proc = p;
    p->conn = c;
    events.hello(events.arg, c, hello);
}

static void say(struct proc *p, json_t *msg_take)
{
    json_auto_t *msg = msg_take;

    if (lies())
        garble(msg);
    if (p->conn && p->conn->welcomed)
        events.message(events.arg, p->conn, text_of(msg, "type"), msg);
}

static void say_done(struct proc *p, const struct attempt *a)
{
    static const char *const outcomes[] = { "finished", "error", "invalid", "interrupted" };
    const char *outcome = outcomes[pick(p->interrupts ? 4 : 3)];
    json_t *done = json_pack("{s:s, s:s, s:i, s:s, s:f, s:f, s:i, s:i}", "type", "done", "job", a->job, "attempt", a->n,
                             "outcome", outcome, "started", 1.0, "ended", 2.0, "stdout_bytes", 0, "stderr_bytes", 0);

    if (strcmp(outcome, "finished") == 0)
        json_object_set_new(done, "result", json_string("1"));
    else
        json_object_set_new(done, "error", json_pack("{s:s, s:s}", "code", "USER_EXCEPTION", "message", "no"));
    if (p->retire || pick(8) == 0) {
        p->retire = true;
        json_object_set_new(done, "retire", json_string("enough"));
    }
    say(p, done);
}

static void worker_speaks(struct proc *p)
{
    if (!p->ready) {
        p->ready = true;
        say(p, pick(8) ? json_pack("{s:s, s:i}", "type", "ready", "attach_ms", 1)
                       : json_pack("{s:s, s:{s:s}}", "type", "failed", "error", "code", "X"));
        return;
    }
    if (p->hand.n && pick(2) == 1) {
        say(p, json_pack("{s:s, s:s, s:i}", "type", "spark", "job", p->hand.job, "attempt", p->hand.n));
        return;
    }
    if (p->hand.n) {
        p->result = p->hand;
        p->hand.n = 0;
        say_done(p, &p->result);
        return;
    }
    if (p->interrupts > 0 && p->conn) {
        p->interrupts--;
        say(p, json_pack("{s:s, s:s, s:i, s:b}", "type", "interrupted", "job", p->result.n ? p->result.job : a_job_id(),
                         "attempt", p->result.n ? p->result.n : 1, "current", p->result.n != 0));
        return;
    }
    if (p->result.n)
        say_done(p, &p->result); /* again, as after a welcome */
    else if (p->retire)
        die(p);
}

/* Of named objects, also such as nobody has asked for, or has asked for differently. */
static void keeper_answers(struct proc *p, unsigned what)
{
    json_t *answer = json_pack("{s:s, s:s, s:b}", "type", p->drop == (bool)(what & 1) ? "objects" : "dropped",
                               "request", p->asked, "more", (int)pick(2));

    if (what & 2)
        json_object_set_new(answer, "error", json_string("X"));
    if (what & 4)
        json_object_set_new(answer, "objects", what & 8 ? json_pack("[{s:s}]", "name", "o") : json_string("none"));
    if (what & 8)
        json_object_set_new(answer, "object", what & 4 ? json_null() : json_pack("{s:s}", "name", "o"));
    say(p, answer);
}

static json_t *some_count(void)
{
    json_t *count =
        json_pack("{s:i, s:i, s:i, s:i}", "total", (int)take(), "done", (int)take(), "active", 1, "failed", 0);

    if (lies())
        json_object_set_new(count, pick(2) ? "done" : "failed", pick(2) ? json_integer(-1) : json_string("1"));
    return count;
}

/* Of all attempts that may run: the core is to find those that it has asked about. */
static void say_progress(struct proc *p)
{
    json_t *attempts = json_array();

    for (unsigned i = 0, n = pick(4); i < n; i++) {
        struct job *job = job_find(core, a_job_id());
        json_t *entry =
            json_pack("{s:s, s:i, s:o, s:o, s:o}", "job", job ? job->row.id : "none", "attempt",
                      job ? job->row.attempt : 1, "jobs", some_count(), "stages", some_count(), "tasks", some_count());

        if (lies())
            garble(entry);
        json_array_append_new(attempts, entry);
    }
    say(p, json_pack("{s:s, s:o}", "type", "progress", "attempts", attempts));
}

static void keeper_speaks(struct proc *p)
{
    struct context *ctx = context_find(core, p->context);
    struct worker *w;
    unsigned what = take();

    if (!p->running) {
        struct proc *jvm = proc_new(p->context, "jvm", ROLE_JVM);

        p->running = true;
        say(p, pick(8) ? json_pack("{s:s, s:s, s:s, s:i}", "type", "started", "application_id", "app", "ui_url", "u",
                                   "jvm_pid", jvm ? (int)jvm->pid : 0)
                       : json_pack("{s:s, s:{s:s}}", "type", "failed", "error", "code", "X"));
        return;
    }
    if (what % 8 == 0) {
        say(p, json_pack("{s:s, s:{s:s}}", "type", "ended", "error", "code", "X"));
        die(p);
    } else if (what % 8 == 1) {
        if (p->asked[0] && what & 8)
            keeper_answers(p, what >> 4);
        else if (what & 16)
            say(p, json_pack("{s:s, s:b}", "type", "keeps", "any", (int)(what >> 5 & 1)));
        else if (what & 32)
            say_progress(p);
        else
            say(p, json_pack("{s:s, s:s}", "type", "phase", "phase", "starting"));
    } else if (what % 8 < 4 && n_jobs) {
        struct job *job = job_find(core, a_job_id());

        if (job && job->row.state == STK_JOB_CANCELLING)
            say(p, json_pack("{s:s, s:s, s:s, s:i, s:i, s:i}", "type", "cancelled", "worker", job->row.worker.process,
                             "job", job->row.id, "attempt", job->row.attempt, "jobs", 1, "elapsed_ms", 1));
    } else if (ctx) {
        LIST_FOREACH(w, &ctx->workers, link)
        {
            if (w->state == W_ADMITTING)
                break;
        }
        if (w)
            say(p, json_pack("{s:s, s:s, s:i, s:s}", "type", "admitted", "worker", w->p.id.process, "port", 1, "secret",
                             "s"));
    }
}

static void zygote_speaks(struct proc *z)
{
    struct proc *p = a_proc(pick(2));

    if (!p || !is_child(p, z)) {
        if (z->stop)
            die(z);
    } else if (p->alive) {
        say(z, json_pack("{s:s, s:s, s:s, s:i, s:i}", "type", "forked", "process", p->name, "role", "worker", "pid",
                         (int)p->pid, "start_time", (int)p->pid));
    } else if (!p->reported) {
        say(z, exit_of(p));
    }
}

static void speak(void)
{
    struct proc *p = a_proc(true);

    if (!p || !p->conn)
        return;
    switch (p->role) {
    case ROLE_ZYGOTE: zygote_speaks(p); break;
    case ROLE_KEEPER: keeper_speaks(p); break;
    case ROLE_WORKER: worker_speaks(p); break;
    default: break;
    }
}

/* The connection ends; what was on its way may be lost, which an honest worker then denies. */
static void break_connection(void)
{
    struct proc *p = a_proc(true);

    if (!p)
        return;
    if (p->hand.n && pick(2)) {
        for (size_t i = 0; i < n_started; i++) {
            if (strcmp(started[i], p->hand.job) == 0)
                started[i][0] = '\0';
        }
        p->hand.n = 0;
    }
    hang_up(p);
}

/* ---- */

static void ask_for_objects(void)
{
    json_auto_t *found = NULL;

    if (pick(2))
        stk_context_objects(core, a_context_name(), 0, &found, NULL);
    else
        stk_context_drop_object(core, a_context_name(), "o", 0, &found, NULL);
}

static void step(void)
{
    struct proc *p;

    switch (take() % 16) {
    case 0: create_context(); break;
    case 1:
    case 2: submit_job(); break;
    case 3: cancel_job(); break;
    case 4:
        switch (pick(8)) {
        case 0:
        case 1: stk_context_delete(core, a_context_name(), pick(2), 0, NULL); break;
        case 2: ask_for_objects(); break;
        default: break;
        }
        break;
    case 5: answer_command(false); break;
    case 6: answer_command(pick(4) == 0); break;
    case 7:
        while (n_commands)
            answer_command(false);
        break;
    case 8:
    case 9: dial(); break;
    case 10:
    case 11: speak(); break;
    case 12: break_connection(); break;
    case 13: advance((int64_t)take() * take()); break;
    case 14:
        if (pick(2))
            run_background();
        else
            tell_of_the_dead();
        break;
    default:
        if (pick(8) == 0)
            no_fork = true;
        else if (pick(4) == 0 && (p = a_proc(true)))
            die(p);
    }
}

static bool has_stopped;

static void on_stopped(void *arg, bool left)
{
    (void)arg;
    (void)left;
    has_stopped = true;
}

/* The server is told to end, twice; everything that is asked of the world is granted. */
static void end_all(void)
{
    stk_core_stop(core, false, on_stopped, NULL);
    for (int round = 0; round < 60 && !has_stopped; round++) {
        if (round == 20)
            stk_core_stop(core, false, on_stopped, NULL);
        for (size_t i = 0; i < PROCS_MAX; i++) {
            if (procs[i].pid && procs[i].role == ROLE_ZYGOTE && procs[i].stop)
                die(&procs[i]);
        }
        tell_of_the_dead();
        while (n_commands)
            answer_command(false);
        while (n_background)
            run_background();
        advance(1000);
    }
    if (honest)
        FUZZ_CHECK(has_stopped, "%d contexts are left", core->n_contexts);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    snprintf(state_dir, sizeof state_dir, "%s/stoker-fuzz-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    FUZZ_CHECK(mkdtemp(state_dir));
    state_fd = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    stk_log_set_level(getenv("FUZZ_LOG") ? STK_LOG_DEBUG : STK_LOG_ERROR + 1);
    return 0;
}

static void make_core(json_t *conf)
{
    static struct stk_loop loop;
    struct stk_core_options options = {
        .state_dir = state_dir,
        .state_dir_fd = state_fd,
        .python = "python",
        .runner_dir = "/",
        .spark_conf = conf,
        .max_contexts = 3,
        .max_jobs = 2,
        .max_queue = 6,
        .cancel_grace_ms = 300,
        .stop_grace_ms = 1000,
        .worker_idle_timeout_ms = 10000,
        .max_result_bytes = 1 << 20,
        .max_log_bytes = 1 << 20,
    };
    struct stk_err err = { 0 };

    FUZZ_CHECK(stk_state_dirs_make(state_fd, &err) == 0, "%s", err.msg);
    core = stk_core_new(&loop, NULL, &options, &err);
    FUZZ_CHECK(core, "%s", err.msg);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_auto_t *conf = json_object();

    if (size < 8)
        return 0;
    in = data;
    in_end = data + size;
    honest = take() % 2 == 0;
    now_ms = 1000000;
    memset(procs, 0, sizeof procs);
    n_jobs = n_started = n_commands = 0;
    no_fork = has_stopped = false;
    make_core(conf);
    create_context();
    for (int i = 0; i < OPS_MAX && in < in_end && n_jobs < JOBS_MAX - 1; i++)
        step();
    end_all();
    if (!has_stopped) { /* a world that lies may keep it from ending; nothing of it is to be seen any more */
        fprintf(stderr, "not stopped\n");
        abort();
    }
    stk_core_free(core);
    for (size_t i = 0; i < PROCS_MAX; i++)
        hang_up(&procs[i]);
    return 0;
}
