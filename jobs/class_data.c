/*
 * The process that makes class-data archives (python-runner/stoker_runner/class_data.py says what they are). It is ours and
 * no context's: one at a time, at the lowest priority, once for each key in this server's life, ended with the server.
 *
 *     a keeper's `started` names a key --> wanted --> being made --> there, or the cause is logged
 *
 * Loop thread only, but for class_data_new().
 */
#include "live.h"

#include "stoker/log.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum {
    KEY_CHARS = 32, /* hexadecimal */
    MOST_KEYS = 16, /* each may cost a minute of an idle core and 200 MB of disk */
    KILL_AFTER_MS = 3000,
    TAIL_BYTES = 1024,
};
static const char log_path[] = "logs/class-data.log";

struct class_data {
    struct stk_core *core;
    char *dir;
    json_t *wanted;          /* key -> its settings, in order of arrival; null once it was tried */
    char key[KEY_CHARS + 1]; /* being made; "": none */
    pid_t pid;
    struct stk_timer *kill; /* of a maker that does not end when it is told */
};

static void on_kill(void *arg)
{
    struct class_data *cd = arg;

    if (cd->key[0])
        kill(-cd->pid, SIGKILL); /* it leads its group and is not reaped before on_exited() */
}

static int make_dir(struct class_data *cd, struct stk_err *err)
{
    const char *configured = cd->core->o.class_data_dir;
    struct stat st;

    if (configured && *configured ? !(cd->dir = strdup(configured))
                                  : asprintf(&cd->dir, "%s/class-data", cd->core->o.state_dir) < 0) {
        cd->dir = NULL;
        return stk_fail(err, STK_INTERNAL, "out of memory");
    }
    if (mkdir(cd->dir, 0700) < 0 && errno != EEXIST)
        return stk_fail_sys(err, errno, "cannot make the folder of class-data archives %.150s", cd->dir);
    if (stat(cd->dir, &st) < 0)
        return stk_fail_sys(err, errno, "folder of class-data archives %.150s", cd->dir);
    if (!S_ISDIR(st.st_mode))
        return stk_fail(err, STK_INVALID, "class-data-dir: %.150s is no folder", cd->dir);
    return 0;
}

int class_data_new(struct stk_core *core, struct stk_err *err)
{
    struct class_data *cd;

    if (!core->o.class_data)
        return 0;
    cd = core->class_data = calloc(1, sizeof *cd);
    if (!cd)
        return stk_fail(err, STK_INTERNAL, "out of memory");
    cd->core = core;
    cd->wanted = json_object();
    cd->kill = stk_timer_new(core->loop, on_kill, cd);
    if (!cd->wanted || !cd->kill)
        return stk_fail(err, STK_INTERNAL, "out of memory");
    return make_dir(cd, err);
}

void class_data_free(struct class_data *cd)
{
    if (!cd)
        return;
    stk_timer_free(cd->kill);
    json_decref(cd->wanted);
    free(cd->dir);
    free(cd);
}

const char *class_data_dir(const struct stk_core *core)
{
    return core->class_data ? core->class_data->dir : NULL;
}

/* ---- making */

static bool is_there(struct class_data *cd, const char *key)
{
    stk_auto_free char *path = NULL;

    if (asprintf(&path, "%s/%s.json", cd->dir, key) < 0) {
        path = NULL;
        return false;
    }
    return access(path, F_OK) == 0;
}

static void make_next(struct class_data *cd);

/* The maker's last line says why. */
static void log_failure(struct class_data *cd, int64_t status, int sig)
{
    stk_auto_free char *tail = file_tail(cd->core, log_path, TAIL_BYTES);
    char *line = tail ? tail : NULL, how[48];
    size_t len = tail ? strlen(tail) : 0;

    while (len > 0 && line[len - 1] == '\n')
        line[--len] = '\0';
    if (len > 0 && strrchr(line, '\n'))
        line = strrchr(line, '\n') + 1;
    if (sig)
        snprintf(how, sizeof how, "signal %d", sig);
    else
        snprintf(how, sizeof how, "status %lld", (long long)status);
    stk_warn("class-data", "no archive could be made; contexts start without", "key", cd->key, "ended", how, "why",
             line ? line : "", "log", log_path);
}

static void on_exited(void *arg, int64_t status, int sig)
{
    struct class_data *cd = arg;

    stk_timer_clear(cd->kill);
    if (cd->core->stopping)
        stk_info("class-data", "making ended with the server", "key", cd->key);
    else if (status != 0 || sig != 0)
        log_failure(cd, status, sig);
    else
        stk_info("class-data", "archive made", "key", cd->key);
    cd->key[0] = '\0';
    make_next(cd);
    core_check_stopped(cd->core);
}

static int start_maker(struct class_data *cd, const char *key, const char *settings, struct stk_err *err)
{
    struct stk_core *core = cd->core;
    char parent[16];
    const char *argv[] = { core->o.python, "-m", "stoker_runner.class_data", cd->dir, settings, parent, NULL };
    struct stk_process_id id;
    stk_auto_fd log_fd = openat(core->o.state_dir_fd, log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    char **env;
    int rc;

    if (log_fd < 0)
        return stk_fail_sys(err, errno, "%s", log_path);
    snprintf(parent, sizeof parent, "%ld", (long)getpid());
    env = launch_env(core, NULL);
    if (!env)
        return stk_fail(err, STK_INTERNAL, "out of memory");
    rc = stk_runner_spawn(core->runner,
                          &(struct stk_spawn){ .file = core->o.python,
                                               .argv = argv,
                                               .envp = (const char *const *)env,
                                               .cwd = cd->dir,
                                               .log_fd = log_fd,
                                               .exited = on_exited,
                                               .arg = cd },
                          &id, err);
    launch_env_free(env);
    if (rc < 0)
        return -1;
    cd->pid = id.pid;
    snprintf(cd->key, sizeof cd->key, "%s", key);
    return 0;
}

/* One maker at a time: what else is wanted waits for its end. */
static void make_next(struct class_data *cd)
{
    const char *key;
    json_t *settings;

    json_object_foreach(cd->wanted, key, settings) {
        stk_auto_free char *text = NULL;
        struct stk_err err;

        if (cd->key[0] || cd->core->stopping)
            return;
        if (json_is_null(settings) || is_there(cd, key) || !(text = json_dumps(settings, JSON_COMPACT)))
            continue;
        json_object_set_new(cd->wanted, key, json_null());
        if (start_maker(cd, key, text, &err) < 0)
            stk_warn("class-data", "no archive could be made; contexts start without", "key", key, "why", err.msg);
        else
            stk_info("class-data", "making an archive in the background", "key", key);
    }
}

void class_data_want(struct stk_core *core, json_t *started)
{
    struct class_data *cd = core->class_data;
    json_t *wish = json_object_get(started, "class_data"), *settings = json_object_get(wish, "settings"), *known;
    const char *key = json_string_value(json_object_get(wish, "key"));

    if (!cd || !key || !json_is_object(settings) || strlen(key) != KEY_CHARS ||
        strspn(key, "0123456789abcdef") != KEY_CHARS)
        return;
    known = json_object_get(cd->wanted, key);
    if (json_is_null(known) || (!known && json_object_size(cd->wanted) == MOST_KEYS))
        return;
    json_object_set(cd->wanted, key, settings);
    make_next(cd);
}

/* ---- the server's end */

bool class_data_making(const struct stk_core *core)
{
    return core->class_data && core->class_data->key[0];
}

void class_data_stop(struct stk_core *core, bool now)
{
    if (!class_data_making(core))
        return;
    kill(now ? -core->class_data->pid : core->class_data->pid, now ? SIGKILL : SIGTERM);
    stk_timer_set(core->class_data->kill, KILL_AFTER_MS);
}
