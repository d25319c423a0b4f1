/*
 * stokerd: wires the parts together.
 *
 *     main thread   reads options and configuration, then waits for signals
 *     loop thread   jobs/: everything that is alive
 *     HTTP threads  server/http, server/api
 *     writer        jobs/store
 */
#include "config.h"
#include "http/http.h"
#include "preflight.h"

#include "stoker/api.h"
#include "stoker/buf.h"
#include "stoker/core.h"
#include "stoker/log.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>

#ifndef STOKER_VERSION
#define STOKER_VERSION "0.1.0"
#endif

enum {
    EXIT_CANNOT_START = 1,
    EXIT_USAGE = 2,
    HTTP_STOP_MS = 2000,
    WEBHOOKS_STOP_MS = 2000,
    STORE_QUEUE = 65536,
    DESCRIPTORS = 65536
};

struct server {
    struct stk_config config;
    struct stk_runtime runtime;
    char state_dir[PATH_MAX];
    int state_fd, lock_fd;
    struct stk_loop *loop;
    struct stk_store *store;
    struct stk_core *core;
    struct stk_http *http;
    struct stk_webhooks *webhooks;
    char *webhook_secret; /* NULL: none */
    const struct stk_api_options *api;
    pthread_t main_thread, loop_thread, starter;
    bool starts;               /* the starter is to be joined */
    atomic_bool contexts_left; /* set when the core has stopped */
};

/* ---- command line */

static const char usage[] =
    "usage: stokerd [options]\n"
    "  --config FILE        read a configuration file (libconfig; conf/stoker.conf names every key)\n"
    "  --listen HOST:PORT   address to listen on, may be repeated; port 0 picks a free one (127.0.0.1:8090)\n"
    "  --state-dir DIR      where everything is kept\n"
    "  --print-config       print the configuration in force, as a file, and exit\n"
    "  --check-config       check the configuration and exit\n"
    "  --version, --help\n"
    "It runs in the foreground and logs to standard error. SIGTERM and SIGINT end it and its contexts; SIGUSR2 ends "
    "it\n"
    "and leaves the contexts running for the next one.\n";

struct options {
    const char *config, *state_dir, *listen[STK_LISTEN_MAX];
    size_t n_listen;
    bool print, check;
};

static int parse_options(int argc, char **argv, struct options *o)
{
    static const struct option table[] = {
        { "config", required_argument, NULL, 'c' },
        { "listen", required_argument, NULL, 'l' },
        { "state-dir", required_argument, NULL, 's' },
        { "print-config", no_argument, NULL, 'p' },
        { "check-config", no_argument, NULL, 'k' },
        { "version", no_argument, NULL, 'v' },
        { "help", no_argument, NULL, 'h' },
        { 0 },
    };
    int c;

    while ((c = getopt_long(argc, argv, "", table, NULL)) != -1) {
        switch (c) {
        case 'c': o->config = optarg; break;
        case 's': o->state_dir = optarg; break;
        case 'p': o->print = true; break;
        case 'k': o->check = true; break;
        case 'l':
            if (o->n_listen == STK_LISTEN_MAX) {
                fprintf(stderr, "stokerd: at most %d --listen\n", STK_LISTEN_MAX);
                return EXIT_USAGE;
            }
            o->listen[o->n_listen++] = optarg;
            break;
        case 'v': puts("stokerd " STOKER_VERSION); return 0;
        case 'h': fputs(usage, stdout); return 0;
        default: fputs(usage, stderr); return EXIT_USAGE;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "stokerd: '%s' is not an option\n%s", argv[optind], usage);
        return EXIT_USAGE;
    }
    return -1;
}

static int load_config(struct server *s, const struct options *o, struct stk_err *err)
{
    if (stk_config_load(&s->config, o->config, err) < 0)
        return -1;
    for (size_t i = 0; i < o->n_listen; i++) {
        if (stk_config_set(&s->config, "listen", o->listen[i], err) < 0)
            return -1;
    }
    if (o->state_dir && stk_config_set(&s->config, "state-dir", o->state_dir, err) < 0)
        return -1;
    if (stk_config_check(&s->config, err) < 0)
        return -1;
    return stk_settings_check_contexts(s->config.context_settings, s->config.contexts, err);
}

/* ---- state directory */

static int make_dirs(char *path, struct stk_err *err)
{
    for (char *p = path + 1; *p; p++) {
        if (*p != '/')
            continue;
        *p = '\0';
        if (mkdir(path, 0755) < 0 && errno != EEXIST) {
            stk_fail_sys(err, errno, "cannot make the folder %s", path);
            *p = '/';
            return -1;
        }
        *p = '/';
    }
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return stk_fail_sys(err, errno, "cannot make the state directory %s", path);
    return 0;
}

/* One server at a time: the lock is held for our life and names our pid for people. */
static int lock_state_dir(struct server *s, struct stk_err *err)
{
    char pid[32];
    int n;

    s->lock_fd = openat(s->state_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (s->lock_fd < 0)
        return stk_fail_sys(err, errno, "cannot open %s/lock", s->state_dir);
    if (flock(s->lock_fd, LOCK_EX | LOCK_NB) < 0) {
        ssize_t got = pread(s->lock_fd, pid, sizeof pid - 1, 0);

        pid[got > 0 ? got : 0] = '\0';
        pid[strcspn(pid, "\n")] = '\0';
        return stk_fail(err, STK_CONFLICT, "the state directory %.150s is in use by another server (pid %s)",
                        s->state_dir, pid);
    }
    n = snprintf(pid, sizeof pid, "%ld\n", (long)getpid());
    if (ftruncate(s->lock_fd, 0) < 0 || pwrite(s->lock_fd, pid, (size_t)n, 0) != n)
        return stk_fail_sys(err, errno, "cannot write %s/lock", s->state_dir);
    return 0;
}

static int open_state_dir(struct server *s, struct stk_err *err)
{
    char path[PATH_MAX];

    if (snprintf(path, sizeof path, "%s", s->config.state_dir) >= (int)sizeof path)
        return stk_fail(err, STK_INVALID, "the state directory's path is too long");
    if (make_dirs(path, err) < 0)
        return -1;
    if (!realpath(path, s->state_dir))
        return stk_fail_sys(err, errno, "state directory %s", path);
    s->state_fd = open(s->state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s->state_fd < 0)
        return stk_fail_sys(err, errno, "state directory %s", s->state_dir);
    if (fchmod(s->state_fd, 0700) < 0)
        return stk_fail_sys(err, errno, "state directory %s", s->state_dir);
    return lock_state_dir(s, err);
}

/* ---- the parts */

static void *run_loop(void *arg)
{
    struct server *s = arg;

    stk_loop_run(s->loop);
    return NULL;
}

static int start_core(struct server *s, struct stk_err *err)
{
    const struct stk_config *c = &s->config;
    struct stk_core_options options = {
        .state_dir = s->state_dir,
        .state_dir_fd = s->state_fd,
        .python = s->runtime.python,
        .runner_dir = s->runtime.runner_dir,
        .java_home = s->runtime.java_home,
        .class_data = c->class_data_archive,
        .class_data_dir = c->class_data_dir,
        .spark_conf = c->spark_conf,
        .max_contexts = (int)c->max_contexts,
        .warm_contexts = (int)c->warm_contexts,
        .max_jobs = (int)c->max_jobs,
        .max_queue = (int)c->max_queue,
        .cancel_grace_ms = c->cancel_grace_ms,
        .stop_grace_ms = c->stop_grace_ms,
        .worker_idle_timeout_ms = c->worker_idle_timeout_ms,
        .terms = { .queue_timeout_ms = c->queue_timeout_ms,
                   .run_timeout_ms = c->run_timeout_ms,
                   .max_memory = c->max_memory_bytes,
                   .isolated = c->isolated },
        .idle_timeout_ms = c->idle_timeout_ms,
        .lifetime_ms = c->lifetime_ms,
        .max_result_bytes = c->max_result_bytes,
        .max_log_bytes = c->max_log_bytes,
        .retention = { .keep_jobs_ms = c->keep_jobs_ms,
                       .keep_binaries_ms = c->keep_binaries_ms,
                       .max_stored_jobs = c->max_stored_jobs,
                       .max_stored_results_bytes = c->max_stored_results_bytes,
                       .max_stored_logs_bytes = c->max_stored_logs_bytes,
                       .disk_reserve_bytes = c->disk_reserve_bytes },
        .max_upload_bytes = (uint64_t)c->max_upload_bytes,
        .archive = { .max_entries = (uint64_t)c->max_archive_entries,
                     .max_unpacked_bytes = (uint64_t)c->max_unpacked_bytes,
                     .max_path_bytes = stk_archive_default_limits.max_path_bytes },
    };
    struct stk_store_options store = {
        .dir_fd = s->state_fd,
        .dir = s->state_dir,
        .post = stk_loop_poster,
        .queue_max = STORE_QUEUE,
        .webhooks = c->webhooks,
        .gather = true,
    };

    if (stk_state_dirs_make(s->state_fd, err) < 0 || !(s->loop = stk_loop_new(err)))
        return -1;
    store.post_to = s->loop;
    if (!(s->store = stk_store_open(&store, err)) || !(s->core = stk_core_new(s->loop, s->store, &options, err)) ||
        stk_core_recover(s->core, err) < 0 ||
        (stk_settings_keep_warm(s->core, c->context_settings, err) < 0 && c->warm_contexts > 0))
        return -1;
    if ((errno = pthread_create(&s->loop_thread, NULL, run_loop, s)) != 0)
        return stk_fail_sys(err, errno, "cannot start the loop thread");
    return 0;
}

/* Those that start with the server; nobody waits for it. */
static void *start_contexts(void *arg)
{
    struct server *s = arg;

    stk_settings_start_contexts(s->core, s->api);
    return NULL;
}

static int start_http(struct server *s, struct stk_err *err)
{
    const struct stk_config *c = &s->config;
    static struct stk_api_options api; /* borrowed by the dialects for the process's life */
    const struct stk_dialect *dialects[3] = { NULL };
    struct stk_http_options options = {
        .listen = (const char *const *)c->listen,
        .n_listen = c->n_listen,
        .threads = (int)c->http_threads,
        .max_waiting = (int)c->max_waiting,
        .max_streams = (int)c->max_streams,
        .stream_timeout_ms = c->stream_timeout_ms,
        .request_timeout_ms = c->request_timeout_ms,
        .keep_alive_timeout_ms = c->keep_alive_timeout_ms,
        .max_body = (uint64_t)c->max_body_bytes,
        .dialects = dialects,
    };

    api = (struct stk_api_options){
        .context_create_timeout_ms = c->context_create_timeout_ms,
        .context_delete_timeout_ms = c->context_delete_timeout_ms,
        .max_upload_bytes = c->max_upload_bytes,
        .max_body_bytes = c->max_body_bytes,
        .context_settings = c->context_settings,
        .contexts = c->contexts,
        .webhooks = { .allow = c->webhook_allow, .urls = c->webhooks },
    };
    if (!(dialects[0] = stk_api_sjs(s->core, &api)) || !(dialects[1] = stk_api_native(s->core, &api)))
        return stk_fail(err, STK_INTERNAL, "out of memory");
    s->http = stk_http_start(&options, err);
    if (!s->http)
        return -1;
    s->api = &api;
    if (json_object_size(c->contexts) > 0)
        s->starts = pthread_create(&s->starter, NULL, start_contexts, s) == 0;
    return 0;
}

/* The first line of a file, not a key of the configuration: that one is printed, copied and shown around. */
static int read_webhook_secret(struct server *s, struct stk_err *err)
{
    char line[STK_WEBHOOK_SECRET_MAX + 2];
    const char *path = s->config.webhook_secret_file;
    FILE *file;
    char *got;

    if (!*path)
        return 0;
    file = fopen(path, "re");
    if (!file)
        return stk_fail_sys(err, errno, "webhook-secret-file %s", path);
    got = fgets(line, sizeof line, file);
    fclose(file);
    if (got)
        line[strcspn(line, "\r\n")] = '\0';
    if (stk_webhook_secret_check(got ? line : "", err) < 0) {
        stk_err_prefix(err, "webhook-secret-file %s", path);
        return -1;
    }
    s->webhook_secret = strdup(line);
    explicit_bzero(line, sizeof line);
    return s->webhook_secret ? 0 : stk_fail(err, STK_INTERNAL, "out of memory");
}

static int start_webhooks(struct server *s, struct stk_err *err)
{
    const struct stk_config *c = &s->config;
    struct stk_webhooks_options options = {
        .rules = { .allow = c->webhook_allow, .urls = c->webhooks },
        .secret = s->webhook_secret,
        .connect_timeout_ms = c->webhook_connect_timeout_ms,
        .timeout_ms = c->webhook_timeout_ms,
        .retry_ms = c->webhook_retry_ms,
        .retry_max_ms = c->webhook_retry_max_ms,
        .give_up_ms = c->webhook_give_up_ms,
        .max_result_bytes = c->webhook_max_result_bytes,
        .word = { [STK_WEBHOOK_NATIVE] = stk_api_native_webhook, [STK_WEBHOOK_SJS] = stk_api_sjs_webhook },
    };

    s->webhooks = stk_webhooks_start(s->core, s->store, &options, err);
    return s->webhooks ? 0 : -1;
}

/* Each context takes a dozen descriptors, each connection one: the usual soft limit of 1024 is soon reached. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    limit.rlim_cur = limit.rlim_max < DESCRIPTORS ? limit.rlim_max : DESCRIPTORS;
    setrlimit(RLIMIT_NOFILE, &limit);
}

/* ---- signals */

static void block_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
    sigaddset(set, SIGUSR2);
    sigaddset(set, SIGRTMIN);              /* "the core has stopped" */
    pthread_sigmask(SIG_BLOCK, set, NULL); /* before the first thread: they all inherit it */
    signal(SIGPIPE, SIG_IGN);
}

struct stop_task {
    struct stk_task task;
    struct server *server;
    bool leave_contexts;
};

static void on_core_stopped(void *arg, bool left)
{
    struct server *s = arg;

    atomic_store(&s->contexts_left, left);
    pthread_kill(s->main_thread, SIGRTMIN);
}

static void on_stop(struct stk_task *task)
{
    struct stop_task *t = (struct stop_task *)task;

    stk_core_stop(t->server->core, t->leave_contexts, on_core_stopped, t->server);
}

/* Returns when the server shall end; true when contexts were left alive. */
static bool wait_for_the_end(struct server *s, const sigset_t *set)
{
    static struct stop_task tasks[2]; /* a first and a second request */
    size_t asked = 0;

    for (;;) {
        int sig = sigwaitinfo(set, NULL);

        if (sig < 0)
            continue;
        if (sig == SIGRTMIN)
            return atomic_load(&s->contexts_left);
        if (sig == SIGHUP) {
            stk_info("main", "SIGHUP: nothing is reloaded; restart the server for a new configuration");
            continue;
        }
        if (asked == STK_LEN(tasks))
            _exit(EXIT_CANNOT_START); /* asked a third time: at once, the next start settles what is left */
        stk_info("main", asked ? "asked again to stop" : "stopping", "signal", strsignal(sig));
        tasks[asked] = (struct stop_task){ .task.run = on_stop, .server = s, .leave_contexts = sig == SIGUSR2 };
        stk_loop_post(s->loop, &tasks[asked++].task);
    }
}

static void shut_down(struct server *s, bool contexts_left)
{
    uint64_t commits, commands;
    char counts[2][24];

    stk_http_stop(s->http, HTTP_STOP_MS);
    if (s->starts)
        pthread_join(s->starter, NULL); /* the core, which has stopped, lets nobody wait */
    stk_webhooks_stop(s->webhooks, contexts_left ? 0 : WEBHOOKS_STOP_MS); /* the next server is there at once */
    stk_loop_stop(s->loop);
    pthread_join(s->loop_thread, NULL);
    stk_store_counts(s->store, &commits, &commands);
    snprintf(counts[0], sizeof counts[0], "%llu", (unsigned long long)commits);
    snprintf(counts[1], sizeof counts[1], "%llu", (unsigned long long)commands);
    stk_store_close(s->store);
    stk_info("main", "stopped", "contexts", contexts_left ? "left running" : "none", "commits", counts[0], "commands",
             counts[1]);
    if (contexts_left)
        _exit(0); /* the loop still watches what goes on without us */
    stk_core_free(s->core);
    stk_loop_free(s->loop);
    stk_config_done(&s->config);
    free(s->webhook_secret);
    close(s->lock_fd);
    close(s->state_fd);
}

static int cannot_start(const struct stk_err *err)
{
    fprintf(stderr, "stokerd: %s\n", err->msg);
    return EXIT_CANNOT_START;
}

int main(int argc, char **argv)
{
    static struct server s = { .state_fd = -1, .lock_fd = -1 };
    struct options o = { 0 };
    struct stk_err err = { 0 };
    sigset_t signals;
    int rc = parse_options(argc, argv, &o);

    if (rc >= 0)
        return rc;
    if (load_config(&s, &o, &err) < 0)
        return cannot_start(&err);
    if (o.print)
        stk_config_print(&s.config, stdout);
    if (o.print || o.check)
        return 0;
    stk_log_set_level(s.config.log_level);
    raise_descriptor_limit();
    mallopt(M_ARENA_MAX, 2); /* hundreds of threads with an arena each would cost more than they gain */
    json_object_seed(0);
    s.main_thread = pthread_self();
    if (stk_preflight(s.config.python, s.config.runner_dir, s.config.java_home, &s.runtime, &err) < 0 ||
        read_webhook_secret(&s, &err) < 0 || open_state_dir(&s, &err) < 0)
        return cannot_start(&err);
    block_signals(&signals);
    if (start_core(&s, &err) < 0 || start_http(&s, &err) < 0 || start_webhooks(&s, &err) < 0) {
        cannot_start(&err);
        _exit(EXIT_CANNOT_START); /* threads may be running; what was adopted stays for the next start */
    }
    stk_info("main", "started", "runtime", s.runtime.versions, "state", s.state_dir);
    for (size_t i = 0; stk_http_address(s.http, i); i++)
        printf("listening on %s\n", stk_http_address(s.http, i));
    fflush(stdout);
    shut_down(&s, wait_for_the_end(&s, &signals));
    return 0;
}
