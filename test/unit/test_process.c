/* Starting processes that end at once, whatever their parent is doing meanwhile. */
#include "stoker/runner.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static bool late; /* whoever reads a process's /proc/PID/stat finds that it has ended */

static int open_late(const char *path, int flags, mode_t mode)
{
    static const char proc[] = "/proc/", stat[] = "/stat";
    size_t len = strlen(path);

    if (late && strncmp(path, proc, strlen(proc)) == 0 && len > strlen(stat) &&
        strcmp(path + len - strlen(stat), stat) == 0) {
        siginfo_t info;

        waitid(P_PID, (id_t)atol(path + strlen(proc)), &info, WEXITED | WNOWAIT);
    }
    return openat(AT_FDCWD, path, flags, mode);
}

/* These stand in for the C library's. */
int open(const char *path, int flags, ...)
{
    return open_late(path, flags, 0600);
}

int open64(const char *path, int flags, ...)
{
    return open_late(path, flags, 0600);
}

struct fixture {
    char dir[32];
    int dir_fd;
    struct stk_loop *loop;
    struct stk_runner *runner;
    int64_t status;
    int sig;
};

static int set_up(void **state)
{
    struct fixture *f = *state = calloc(1, sizeof *f);

    late = false;
    strcpy(f->dir, "/tmp/stoker-test-XXXXXX");
    if (!mkdtemp(f->dir) || (f->dir_fd = openat(AT_FDCWD, f->dir, O_DIRECTORY | O_CLOEXEC)) < 0)
        return -1;
    f->loop = stk_loop_new(NULL);
    f->runner =
        f->loop ? stk_runner_new(f->loop, &(struct stk_runner_options){ .state_dir_fd = f->dir_fd }, NULL) : NULL;
    f->status = f->sig = -1;
    return f->runner ? 0 : -1;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    late = false;
    stk_runner_free(f->runner);
    stk_loop_free(f->loop);
    unlinkat(f->dir_fd, "runner.sock", 0);
    unlinkat(f->dir_fd, "token", 0);
    close(f->dir_fd);
    rmdir(f->dir);
    free(f);
    return 0;
}

static void on_exited(void *arg, int64_t status, int sig)
{
    struct fixture *f = arg;

    f->status = status;
    f->sig = sig;
    stk_loop_stop(f->loop);
}

static int spawn(struct fixture *f, const char *script, struct stk_process_id *id, struct stk_err *err)
{
    const char *argv[] = { "sh", "-c", script, NULL };
    const char *env[] = { "PATH=/usr/bin:/bin", NULL };

    return stk_runner_spawn(f->runner,
                            &(struct stk_spawn){ .file = "/bin/sh",
                                                 .argv = argv,
                                                 .envp = env,
                                                 .cwd = f->dir,
                                                 .log_fd = STDERR_FILENO,
                                                 .exited = on_exited,
                                                 .arg = f },
                            id, err);
}

static void one_that_has_ended_already_says_how(void **state)
{
    struct fixture *f = *state;
    struct stk_process_id id;
    struct stk_err err = { 0 };

    late = true;
    assert_int_equal(0, spawn(f, "exit 7", &id, &err));
    assert_true(id.pid > 0 && id.start_time > 0);
    stk_loop_run(f->loop);
    assert_int_equal(7, f->status);
    assert_int_equal(0, f->sig);
}

static void nobody_can_watch_what_has_ended(void **state)
{
    struct fixture *f = *state;
    struct stk_process_id id;
    struct stk_err err = { 0 };

    late = true;
    assert_int_equal(0, spawn(f, "kill -9 $$", &id, &err));
    assert_null(stk_watch_new(f->loop, &id, NULL, NULL, &err));
    assert_int_equal(STK_NOT_FOUND, err.code);
    stk_loop_run(f->loop);
    assert_int_equal(9, f->sig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(one_that_has_ended_already_says_how, set_up, tear_down),
        cmocka_unit_test_setup_teardown(nobody_can_watch_what_has_ended, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
