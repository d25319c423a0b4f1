#include "preflight.h"

#include "stoker/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

static int copy_path(char to[4096], const char *path, struct stk_err *err)
{
    if (snprintf(to, 4096, "%s", path) >= 4096)
        return stk_fail(err, STK_INVALID, "a path is longer than 4095 bytes");
    return 0;
}

/* Looks a program up in PATH. */
static bool find_in_path(const char *name, char ret[4096])
{
    const char *path = getenv("PATH");

    while (path && *path) {
        size_t len = strcspn(path, ":");

        if (len > 0 && snprintf(ret, 4096, "%.*s/%s", (int)len, path, name) < 4096 && access(ret, X_OK) == 0)
            return true;
        path += len + (path[len] == ':');
    }
    return false;
}

/* The first of some places relative to the program's folder that exists. */
static bool find_beside(const char *const *places, int mode, char ret[4096])
{
    char program[2048];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    char *slash;

    if (n < 0)
        return false;
    program[n] = '\0';
    slash = strrchr(program, '/');
    if (!slash)
        return false;
    *slash = '\0';
    for (; *places; places++) {
        if (snprintf(ret, 4096, "%s/%s", program, *places) < 4096 && access(ret, mode) == 0)
            return true;
    }
    return false;
}

static int find_python(const char *configured, char ret[4096], struct stk_err *err)
{
    static const char *const places[] = { "venv/bin/python", "../venv/bin/python", "../lib/stoker/venv/bin/python",
                                          NULL };

    if (*configured) {
        if (strchr(configured, '/') ? access(configured, X_OK) == 0 : find_in_path(configured, ret))
            return strchr(configured, '/') ? copy_path(ret, configured, err) : 0;
        return stk_fail(err, STK_INVALID, "no Python: '%s' (setting 'python') is not a program that can be run",
                        configured);
    }
    if (find_beside(places, X_OK, ret) || find_in_path("python3", ret))
        return 0;
    return stk_fail(
        err, STK_INVALID,
        "no Python: neither build/venv nor python3 in PATH; run 'make venv' or set 'python' in the configuration");
}

static int find_runner(const char *configured, char ret[4096], struct stk_err *err)
{
    static const char *const places[] = { "../python-runner", "../../python-runner", "../lib/stoker/python-runner",
                                          NULL };
    char found[4096], probe[PATH_MAX];

    if (*configured ? copy_path(found, configured, err) < 0 : !find_beside(places, R_OK | X_OK, found))
        return stk_fail(err, STK_INVALID, "the Python runner is not there; set 'runner-dir' in the configuration");
    if (!realpath(found, ret) || snprintf(probe, sizeof probe, "%s/stoker_runner", ret) >= (int)sizeof probe ||
        access(probe, R_OK | X_OK) < 0)
        return stk_fail(err, STK_INVALID, "'%.150s' (setting 'runner-dir') holds no folder stoker_runner", found);
    return 0;
}

static int find_java(const char *configured, char ret[4096], struct stk_err *err)
{
    const char *home = *configured ? configured : getenv("JAVA_HOME");
    char java[4096];

    *ret = '\0';
    if (home && *home) {
        if (snprintf(java, sizeof java, "%s/bin/java", home) < (int)sizeof java && access(java, X_OK) == 0)
            return copy_path(ret, home, err);
        return stk_fail(err, STK_INVALID, "no Java: there is no program %.120s/bin/java (%s)", home,
                        *configured ? "setting 'java-home'" : "from JAVA_HOME");
    }
    if (find_in_path("java", java))
        return 0;
    return stk_fail(err, STK_INVALID, "no Java: java is not in PATH; install a JRE (17 or newer) or set 'java-home'");
}

/* Runs `python -m stoker_runner.check`, which prints one JSON object with versions. */
static int run_check(const struct stk_runtime *rt, char out[4096], struct stk_err *err)
{
    char *argv[] = { (char *)(uintptr_t)rt->python, (char[]){ "-m" }, (char[]){ "stoker_runner.check" }, NULL };
    posix_spawn_file_actions_t actions;
    int ends[2], status, rc;
    size_t len = 0;
    ssize_t n;
    pid_t pid;

    if (pipe2(ends, O_CLOEXEC) < 0)
        return stk_fail_sys(err, errno, "pipe");
    setenv("PYTHONPATH", rt->runner_dir, 1);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    rc = posix_spawn(&pid, rt->python, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    if (rc != 0) {
        close(ends[0]);
        return stk_fail_sys(err, rc, "no Python: %s", rt->python);
    }
    while (len < 4095 && (n = read(ends[0], out + len, 4095 - len)) > 0)
        len += (size_t)n;
    out[len] = '\0';
    close(ends[0]);
    if (waitpid(pid, &status, 0) < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return stk_fail(err, STK_INVALID, "no Python: '%.150s -m stoker_runner.check' failed", rt->python);
    return 0;
}

static int check_packages(struct stk_runtime *rt, struct stk_err *err)
{
    static const char *const needed[] = { "pyspark", "pyhocon" };
    char out[4096];
    json_auto_t *versions = NULL;

    if (run_check(rt, out, err) < 0)
        return -1;
    versions = json_loads(out, 0, NULL);
    for (size_t i = 0; i < STK_LEN(needed); i++) {
        if (!json_is_string(json_object_get(versions, needed[i])))
            return stk_fail(
                err, STK_INVALID,
                "no %s: it is not installed for %.120s; run 'make venv' or set 'python' in the configuration",
                needed[i], rt->python);
    }
    snprintf(rt->versions, sizeof rt->versions, "Python %.60s, pyspark %.60s",
             json_string_value(json_object_get(versions, "python")),
             json_string_value(json_object_get(versions, "pyspark")));
    return 0;
}

int stk_preflight(const char *python, const char *runner_dir, const char *java_home, struct stk_runtime *ret,
                  struct stk_err *err)
{
    if (find_python(python, ret->python, err) < 0 || find_runner(runner_dir, ret->runner_dir, err) < 0 ||
        find_java(java_home, ret->java_home, err) < 0)
        return -1;
    return check_packages(ret, err);
}
