/*
 * A log that is read while its worker goes on to the next job, with the worker's steps at the worst moments: those between
 * two calls of jobs/output.c, which asks a store of ours.
 */
#include "stoker/store.h"

static int fake_job_stage(struct stk_store *s, const char *id, struct stk_job_stage *ret, struct stk_err *err);
static int fake_context_get(struct stk_store *s, const char *name, struct stk_context_row *ret, struct stk_err *err);
static int fake_context_stage(struct stk_store *s, const char *id, enum stk_context_state *ret, struct stk_err *err);
static void fake_counts(struct stk_store *s, uint64_t *ret_commits, uint64_t *ret_commands);

#define stk_store_job_stage fake_job_stage
#define stk_store_context_get fake_context_get
#define stk_store_context_stage fake_context_stage
#define stk_store_counts fake_counts
#include "../../jobs/output.c" /* NOLINT: its calls of the store are to be ours */

#include "stoker/tree.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

struct fixture {
    struct stk_core core;
    char dir[64];
    struct stk_job_stage stage; /* as committed */
    uint64_t commits, asked;
    void (*after_asking)(struct fixture *f); /* what happens once the store has answered */
};
static struct fixture f; /* the store's functions get no argument of ours */

static int fake_job_stage(struct stk_store *s, const char *id, struct stk_job_stage *ret, struct stk_err *err)
{
    (void)s;
    f.asked++;
    if (strcmp(id, "job") != 0)
        return stk_fail(err, STK_NOT_FOUND, "no job");
    *ret = f.stage;
    if (f.after_asking)
        f.after_asking(&f);
    return 0;
}

static int fake_context_get(struct stk_store *s, const char *name, struct stk_context_row *ret, struct stk_err *err)
{
    (void)s;
    (void)ret;
    return stk_fail(err, STK_NOT_FOUND, "no context %s", name);
}

static int fake_context_stage(struct stk_store *s, const char *id, enum stk_context_state *ret, struct stk_err *err)
{
    (void)s;
    (void)ret;
    return stk_fail(err, STK_NOT_FOUND, "no context %s", id);
}

static void fake_counts(struct stk_store *s, uint64_t *ret_commits, uint64_t *ret_commands)
{
    (void)s;
    *ret_commits = *ret_commands = f.commits;
}

static void print(const char *file, const char *text)
{
    int fd = openat(f.core.o.state_dir_fd, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(strlen(text), write(fd, text, strlen(text)));
    close(fd);
}

static void move(const char *from, const char *to)
{
    assert_int_equal(0, renameat(f.core.o.state_dir_fd, from, f.core.o.state_dir_fd, to));
}

static void commit(enum stk_job_state state, int64_t bytes)
{
    f.stage.state = state;
    f.stage.output_bytes[STK_STDOUT] = bytes;
    f.commits++;
}

static int set_up(void **state)
{
    (void)state;
    memset(&f, 0, sizeof f);
    snprintf(f.dir, sizeof f.dir, "/tmp/stoker-test-XXXXXX");
    assert_non_null(mkdtemp(f.dir));
    f.core.o.state_dir_fd = open(f.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(0, mkdirat(f.core.o.state_dir_fd, "logs", 0700));
    f.stage = (struct stk_job_stage){ .state = STK_JOB_STARTING, .attempt = 1, .process = "w-1" };
    print("logs/w-1.stdout", "");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    close(f.core.o.state_dir_fd);
    return stk_remove_tree(AT_FDCWD, f.dir);
}

static struct stk_output *output(int attempt)
{
    struct stk_output *o;

    assert_int_equal(0, stk_output_of_job(&f.core, "job", attempt, STK_STDOUT, &o, NULL));
    return o;
}

/* "<text>", then " over" and " removed". */
static const char *seen(struct stk_output *o)
{
    static char text[256];
    struct stk_output_look look;
    size_t len = 0;

    assert_int_equal(0, stk_output_look(o, &look, NULL));
    if (!look.removed) {
        ssize_t n = stk_output_read(o, 0, text, sizeof text - 16, NULL);

        assert_int_equal(look.bytes, n);
        len = (size_t)n;
    }
    snprintf(text + len, sizeof text - len, "%s%s", look.over ? " over" : "", look.removed ? " removed" : "");
    return text;
}

static void the_job_prints_and_ends(void **state)
{
    struct stk_output *o = output(0);

    (void)state;
    assert_string_equal("", seen(o));
    print("logs/w-1.stdout", "one");
    assert_string_equal("one", seen(o));
    print("logs/w-1.stdout", " two");
    move("logs/w-1.stdout", "logs/job.1.stdout");
    print("logs/w-1.stdout", "of the next");
    assert_string_equal("one two", seen(o)); /* not committed yet */
    commit(STK_JOB_FINISHED, 7);
    assert_string_equal("one two over", seen(o));
    stk_output_free(o);
}

static void next_job_prints(struct fixture *fixture)
{
    fixture->after_asking = NULL;
    commit(STK_JOB_FINISHED, 0);
    print("logs/w-1.stdout", "of the next");
}

/* The store says that the silent job goes on; its end is committed, and the next job prints into the same file. */
static void the_next_job_prints_behind_the_answer_of_the_store(void **state)
{
    struct stk_output *o = output(0);

    (void)state;
    assert_string_equal("", seen(o));
    commit(STK_JOB_RUNNING, 0); /* so that it is asked again */
    f.after_asking = next_job_prints;
    assert_string_equal("", seen(o));
    assert_string_equal(" over", seen(o));
    stk_output_free(o);

    f.stage.state = STK_JOB_STARTING; /* the same with a reader that has not opened the file before */
    assert_int_equal(0, unlinkat(f.core.o.state_dir_fd, "logs/w-1.stdout", 0));
    print("logs/w-1.stdout", "");
    o = output(0);
    f.after_asking = next_job_prints;
    assert_string_equal(" over", seen(o));
    stk_output_free(o);
}

static void worker_opens_the_next_pair(struct fixture *fixture)
{
    fixture->after_asking = NULL;
    move("logs/w-1.stdout", "logs/job.1.stdout");
    print("logs/w-1.stdout", "late");
}

/* The job has ended, its end is not committed yet, and what is left of it prints on, before the reader has opened its file. */
static void what_is_printed_late_is_not_the_jobs(void **state)
{
    struct stk_output *o = output(0);

    (void)state;
    print("logs/w-1.stdout", "in time");
    f.after_asking = worker_opens_the_next_pair;
    assert_string_equal("in time", seen(o));
    commit(STK_JOB_FINISHED, 7);
    assert_string_equal("in time over", seen(o));
    stk_output_free(o);
}

static void a_follower_goes_on_with_the_next_attempt(void **state)
{
    struct stk_output *newest, *first = output(1);

    (void)state;
    f.stage.attempt = 0;
    commit(STK_JOB_QUEUED, 0);
    newest = output(0);
    assert_string_equal("", seen(newest));
    f.stage.attempt = 1;
    commit(STK_JOB_STARTING, 0);
    assert_string_equal("", seen(newest));
    assert_string_equal("", seen(first));
    commit(STK_JOB_QUEUED, 0); /* its worker denies it, and prints what others want */
    print("logs/w-1.stdout", "of another");
    assert_string_equal("", seen(newest));
    f.stage.attempt = 2;
    snprintf(f.stage.process, sizeof f.stage.process, "w-2");
    print("logs/w-2.stdout", "text");
    commit(STK_JOB_STARTING, 0);
    assert_string_equal("text", seen(newest));
    assert_string_equal(" over", seen(first));
    stk_output_free(newest);
    stk_output_free(first);
}

static void a_log_is_empty_or_removed(void **state)
{
    struct stk_output *o = output(0);

    (void)state;
    commit(STK_JOB_FINISHED, 0);
    assert_string_equal(" over", seen(o));
    stk_output_free(o);
    commit(STK_JOB_FINISHED, 7);
    o = output(1);
    assert_string_equal(" over removed", seen(o));
    assert_int_equal(-1, stk_output_fd(o));
    stk_output_free(o);
}

static void the_store_is_asked_when_something_was_committed(void **state)
{
    struct stk_output *o = output(0);
    uint64_t asked;

    (void)state;
    seen(o);
    asked = f.asked;
    print("logs/w-1.stdout", "text");
    for (int i = 0; i < 10; i++)
        assert_string_equal("text", seen(o));
    assert_int_equal(asked, f.asked);
    f.commits++;
    seen(o);
    assert_int_equal(asked + 1, f.asked);
    stk_output_free(o);
}

static void a_log_that_is_cut_short_is_an_error(void **state)
{
    struct stk_output *o = output(0);
    struct stk_err err;
    char buf[8], path[96];

    (void)state;
    snprintf(path, sizeof path, "%s/logs/w-1.stdout", f.dir);
    print("logs/w-1.stdout", "text");
    assert_string_equal("text", seen(o));
    assert_int_equal(2, stk_output_read(o, 2, buf, sizeof buf, &err));
    assert_int_equal(0, stk_output_read(o, 4, buf, sizeof buf, &err));
    assert_int_equal(0, stk_output_read(o, 40, buf, sizeof buf, &err));
    assert_int_equal(0, truncate(path, 2));
    assert_int_equal(-1, stk_output_read(o, 2, buf, sizeof buf, &err));
    assert_string_equal("a log was cut short while it was read", err.msg);
    stk_output_free(o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(the_job_prints_and_ends),
        TEST(the_next_job_prints_behind_the_answer_of_the_store),
        TEST(what_is_printed_late_is_not_the_jobs),
        TEST(a_follower_goes_on_with_the_next_attempt),
        TEST(a_log_is_empty_or_removed),
        TEST(the_store_is_asked_when_something_was_committed),
        TEST(a_log_that_is_cut_short_is_an_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
