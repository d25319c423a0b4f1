/*
 * What a damaged database does to the store: every frame of the write-ahead log and every page of the database is flipped, or
 * the file is cut there, and the store is opened. Either it opens with all that was committed up to some moment, or it says
 * what is damaged; it never crashes and never shows half of a transaction.
 *
 * One transaction of the recording submits job N and moves job N - 1 to FINISHED with result N - 1. So a state is right when
 * the jobs are 1..N, all but the last FINISHED, and each has its own result.
 */
#include "stoker/store.h"

#include "stoker/clock.h"
#include "stoker/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { JOBS = 16, PAGE = 4096, WAL_HEADER = 32, FRAME = PAGE + 24 };
static const char *const names[] = { "stoker.db", "stoker.db-wal", "stoker.db-shm" };
enum { DB, WAL, SHM, FILES };

/* Copies of the three files at one moment, as kill -9 would have left them. */
struct image {
    char *bytes[FILES];
    size_t len[FILES];
    int jobs; /* acknowledged */
};

static char dir[64];
static int dir_fd;

static void run_now(void *to, struct stk_task *first)
{
    (void)to;
    for (struct stk_task *next; first; first = next) {
        next = first->next;
        first->run(first);
    }
}

static struct stk_store *open_store(struct stk_err *err)
{
    struct stk_store_options options = {
        .dir_fd = dir_fd, .dir = dir, .post = run_now, .queue_max = 1000, .gather = true
    };

    return stk_store_open(&options, err);
}

static _Atomic int committed;

static void on_done(void *arg, const struct stk_err *err)
{
    if (!err)
        committed = (int)(intptr_t)arg;
}

static struct stk_text *text(const char *s)
{
    return stk_text_new(s, strlen(s));
}

static void name_job(struct stk_job_row *row, int n)
{
    snprintf(row->id, sizeof row->id, "00000000-0000-4000-8000-%012d", n);
}

static void record(struct stk_store *s, int n)
{
    struct stk_job_row row = { .context_name = text("c"),
                               .app = text("a"),
                               .class_path = text("a.B"),
                               .set = text("s"),
                               .binaries = text("[]"),
                               .state = STK_JOB_STARTING,
                               .attempt = 1,
                               .submitted_us = n };
    char result[3000];

    name_job(&row, n);
    assert_int_equal(0, stk_store_job_submitted(s, &row, NULL, 0, NULL, NULL, NULL));
    name_job(&row, n - 1);
    row.state = STK_JOB_FINISHED;
    memset(result, '0' + (n - 1) % 10, sizeof result - 1); /* long enough for pages of its own */
    result[sizeof result - 1] = '\0';
    row.result = text(result);
    if (n > 1)
        assert_int_equal(0, stk_store_job_moved(s, &row, NULL, NULL, NULL));
    assert_int_equal(0, stk_store_process_ended(s, "none", "none", NULL));
    name_job(&row, n);
    row.state = STK_JOB_STARTING;
    stk_text_unref(row.result);
    row.result = NULL;
    assert_int_equal(0, stk_store_job_moved(s, &row, on_done, (void *)(intptr_t)n, NULL));
    stk_job_row_done(&row);
    stk_store_flush(s); /* one transaction: the writer waits for the lock until all of it is queued, or for this */
    while (committed < n)
        usleep(100);
}

static char *read_whole(const char *name, size_t *ret_len)
{
    int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
    struct stat st;
    char *bytes;

    assert_true(fd >= 0);
    assert_int_equal(0, fstat(fd, &st));
    bytes = malloc((size_t)st.st_size + 1);
    assert_non_null(bytes);
    assert_int_equal(st.st_size, pread(fd, bytes, (size_t)st.st_size, 0));
    close(fd);
    *ret_len = (size_t)st.st_size;
    return bytes;
}

static void write_whole(const char *name, const char *bytes, size_t len)
{
    int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(len, pwrite(fd, bytes, len, 0));
    close(fd);
}

static uint32_t shm_word(const struct image *image, size_t at)
{
    uint32_t n;

    memcpy(&n, image->bytes[SHM] + at, sizeof n);
    return n;
}

static void take_image(struct image *image, int jobs)
{
    for (int i = 0; i < FILES; i++)
        image->bytes[i] = read_whole(names[i], &image->len[i]);
    image->jobs = jobs;
}

static void put_image(const struct image *image)
{
    unlinkat(dir_fd, "stoker.db-wal.damaged", 0);
    for (int i = 0; i < FILES; i++)
        write_whole(names[i], image->bytes[i], image->len[i]);
}

static void free_image(struct image *image)
{
    for (int i = 0; i < FILES; i++)
        free(image->bytes[i]);
}

static int set_up(void **state)
{
    (void)state;
    /* in memory where there is such a place: it opens some thousand times, and what a disk does is not the question */
    snprintf(dir, sizeof dir, "%s/stoker-damage-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    assert_non_null(mkdtemp(dir));
    dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    committed = 0;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    close(dir_fd);
    return stk_remove_tree(AT_FDCWD, dir);
}

/* Runs the store and takes its files while it is alive. copied: after the log was copied into the database; else before. */
static void take_images(struct image *ret_fresh, struct image *ret_copied)
{
    struct stk_store *s = open_store(NULL);

    assert_non_null(s);
    for (int n = 1; n <= JOBS; n++)
        record(s, n);
    take_image(ret_fresh, JOBS);
    assert_int_equal(0,
                     shm_word(ret_fresh, 96)); /* nothing of it was copied: it took less than the writer's patience */
    for (;;) {                                 /* the index says so last: what is read after it is as new as that */
        take_image(ret_copied, JOBS);
        if (shm_word(ret_copied, 96) == shm_word(ret_copied, 16))
            break;
        free_image(ret_copied);
        usleep(10000);
    }
    free_image(ret_copied);
    take_image(ret_copied, JOBS);
    stk_store_close(s);
}

/* In the child. The number of jobs, or -1: the state is none that there ever was. */
static int jobs_of(struct stk_store *s)
{
    struct stk_job_row *rows;
    size_t n;

    if (stk_store_job_list(s, &(struct stk_job_filter){ .limit = 1000 }, &rows, &n, NULL, NULL) < 0)
        return -1;
    for (size_t i = 0; i < n; i++) { /* newest first */
        int number = (int)(n - i);
        struct stk_job_row expected, row;

        name_job(&expected, number);
        if (strcmp(rows[i].id, expected.id) != 0 || rows[i].submitted_us != number ||
            rows[i].state != (i == 0 ? STK_JOB_STARTING : STK_JOB_FINISHED) ||
            stk_store_job_get(s, expected.id, &row, NULL) < 0)
            return -1;
        if (i > 0 && (stk_text_len(row.result) != 2999 || stk_text_data(row.result)[1500] != '0' + number % 10))
            return -1;
        stk_job_row_done(&row);
    }
    stk_job_rows_free(rows, n);
    return (int)n;
}

enum { REFUSED = 200, IO_EXIT = 70, WRONG = 201 };

/* What became of it: a number of jobs, REFUSED with a message that says what is damaged, or IO_EXIT. */
static int outcome(void)
{
    int status;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        struct stk_err err = { 0 };
        struct stk_store *s;
        int n;

        if (freopen("/dev/null", "w", stderr) == NULL)
            _exit(WRONG);
        s = open_store(&err);
        if (!s)
            _exit(strstr(err.msg, "damaged") && strstr(err.msg, "backup") ? REFUSED : WRONG);
        n = jobs_of(s);
        if (n < 0)
            _exit(WRONG);
        if (n % 4)
            _exit(n);
        committed = n;
        record(s, n + 1); /* it works on */
        stk_store_close(s);
        s = open_store(&err);
        _exit(s && jobs_of(s) == n + 1 ? n : WRONG);
    }
    assert_int_equal(pid, waitpid(pid, &status, 0));
    if (!WIFEXITED(status))
        fail_msg("it died of signal %d", WTERMSIG(status));
    return WEXITSTATUS(status);
}

static void check(const struct image *image, int got, int least, const char *what, size_t at)
{
    if (got < least || got > image->jobs)
        fail_msg("%s at %zu: %d, of %d jobs; at least %d are expected", what, at, got, image->jobs, least);
}

/* The transactions that are whole in the first so many frames. */
static int commits_before(const struct image *image, size_t frame)
{
    int n = 0;

    for (size_t i = 0; i < frame; i++) {
        const uint8_t *head = (const uint8_t *)image->bytes[WAL] + WAL_HEADER + i * FRAME;

        n += (head[4] | head[5] | head[6] | head[7]) != 0;
    }
    return n;
}

static void sweep_log(const struct image *image, bool copied)
{
    size_t frames = (image->len[WAL] - WAL_HEADER) / FRAME;
    int schema = commits_before(image, frames) - image->jobs; /* commits that made the tables */
    static const size_t in_frame[] = { 0, 4, 8, 16, 24, 24 + 2000, 24 + PAGE - 1 };

    assert_true(frames > JOBS && schema > 0);
    for (size_t f = 0; f < frames; f++) {
        int before = commits_before(image, f) - schema;
        int least = copied ? image->jobs : before > 0 ? before : 0;
        size_t flip = WAL_HEADER + f * FRAME + in_frame[f % STK_LEN(in_frame)];
        int got;

        put_image(image);
        image->bytes[WAL][flip] ^= 1;
        write_whole(names[WAL], image->bytes[WAL], image->len[WAL]);
        image->bytes[WAL][flip] ^= 1;
        got = outcome();
        check(image, got, least, "flipped bit", flip);

        if (copied && f % 4)
            continue;
        put_image(image);
        write_whole(names[WAL], image->bytes[WAL], WAL_HEADER + f * FRAME + 7);
        got = outcome();
        check(image, got, least, "log cut", f);
    }
}

static void every_frame_of_the_log(void **state)
{
    struct image fresh, copied;

    (void)state;
    take_images(&fresh, &copied);
    put_image(&fresh);
    assert_int_equal(JOBS, outcome());
    sweep_log(&fresh, false);
    put_image(&copied);
    assert_int_equal(JOBS, outcome());
    sweep_log(&copied, true);
    free_image(&fresh);
    free_image(&copied);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(every_frame_of_the_log),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
