/*
 * A follower of events, asked piece by piece, with a list of events, a clock and a retention of ours: what the thread that sends
 * streams would be given.
 */
#include "stoker/event.h"
#include "stoker/job.h"
#include "stoker/progress.h"

static int64_t fake_newest(struct stk_core *core);
static int fake_list(struct stk_core *core, int64_t after, size_t limit, struct stk_event_row **ret, size_t *ret_n,
                     struct stk_err *err);
static int64_t fake_clock(void);
static uint64_t fake_progress_newest(struct stk_core *core);
static bool fake_progress_next(struct stk_core *core, uint64_t after, struct stk_progress_news *ret);

#define stk_event_newest fake_newest
#define stk_event_list fake_list
#define stk_mono_ms fake_clock
#define stk_progress_newest fake_progress_newest
#define stk_progress_next fake_progress_next
#include "../../server/api/native/events.c" /* NOLINT: its calls of the core are to be ours */

#include <setjmp.h>
#include <stdlib.h>

#include <cmocka.h>

/* Events are made up from their numbers: of jobs a and b in turn, in context x or y. */
static struct {
    int64_t oldest, newest, now_ms;
    int reads;
    bool fails;
    const char *message;
    struct stk_progress_news progress[3]; /* by version; 0: none */
} f;

static uint64_t fake_progress_newest(struct stk_core *core)
{
    uint64_t newest = 0;

    (void)core;
    for (size_t i = 0; i < STK_LEN(f.progress); i++)
        newest = f.progress[i].version > newest ? f.progress[i].version : newest;
    return newest;
}

static bool fake_progress_next(struct stk_core *core, uint64_t after, struct stk_progress_news *ret)
{
    (void)core;
    for (size_t i = 0; i < STK_LEN(f.progress); i++) {
        if (f.progress[i].version <= after)
            continue;
        *ret = f.progress[i];
        ret->context_name = stk_text_new("x", 1);
        return true;
    }
    return false;
}

static void set_progress(size_t i, uint64_t version, const char *job, int64_t after_event)
{
    struct stk_progress_news *p = &f.progress[i];

    *p = (struct stk_progress_news){ .version = version, .attempt = 1, .after_event = after_event };
    strcpy(p->job_id, job); /* NOLINT */
    p->progress.tasks.done = (int64_t)version;
}

static int64_t fake_clock(void)
{
    return f.now_ms;
}

static int64_t fake_newest(struct stk_core *core)
{
    (void)core;
    return f.newest;
}

static void make_event(struct stk_event_row *row, int64_t seq)
{
    *row = (struct stk_event_row){ .seq = seq, .at_us = seq * 1000000, .from_state = 0, .state = 1, .attempt = 1 };
    strcpy(row->kind, "job.moved");           /* NOLINT */
    strcpy(row->job_id, seq % 2 ? "a" : "b"); /* NOLINT */
    strcpy(row->context_id, "c-1");           /* NOLINT */
    row->context_name = stk_text_new(seq % 4 < 2 ? "x" : "y", 1);
    if (f.message) {
        json_auto_t *error = json_pack("{s:s, s:s}", "code", "X", "message", f.message);
        stk_auto_free char *text = stk_json_text(error, NULL);

        row->state = STK_JOB_ERROR;
        row->data = stk_text_new(text, strlen(text));
    }
}

static int fake_list(struct stk_core *core, int64_t after, size_t limit, struct stk_event_row **ret, size_t *ret_n,
                     struct stk_err *err)
{
    int64_t first = after + 1 > f.oldest ? after + 1 : f.oldest;
    size_t n = f.newest < first ? 0 : (size_t)(f.newest - first + 1);

    (void)core;
    f.reads++;
    if (f.fails)
        return stk_fail(err, STK_INTERNAL, "the disk is gone");
    n = n < limit ? n : limit;
    *ret = calloc(n + 1, sizeof **ret);
    for (size_t i = 0; i < n; i++)
        make_event(&(*ret)[i], first + (int64_t)i);
    *ret_n = n;
    return 0;
}

static int set_up(void **state)
{
    (void)state;
    memset(&f, 0, sizeof f);
    f.oldest = 1;
    f.now_ms = 1000000;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    for (size_t i = 0; i < RECENT; i++)
        worded_done(&recent.ring[i]);
    recent.last = 0;
    return 0;
}

static struct follower *follower(int64_t at)
{
    struct follower *new = calloc(1, sizeof *new);

    new->stream = (struct stk_stream){ .pull = follower_pull, .free = follower_free };
    new->at = at;
    return new;
}

static void let_go(struct follower *one)
{
    one->stream.free(&one->stream);
}

/* What a pull gives, at most n bytes of it; "" when there is nothing for now. */
static const char *pull_some(struct follower *one, size_t n)
{
    static char text[65537];
    ssize_t got = one->stream.pull(&one->stream, text, n);

    assert_in_range(got, 0, n);
    text[got] = '\0';
    return text;
}

static const char *pull(struct follower *one)
{
    return pull_some(one, 65536);
}

/* Pulls until there is nothing, checks that the numbers are those from `first` on by `step`; returns how many there were. */
static int64_t pull_numbers(struct follower *one, int64_t first, int64_t step, size_t room)
{
    int64_t n = 0;

    for (const char *text = pull_some(one, room); *text; text = pull_some(one, room)) {
        for (const char *at = text; (at = strstr(at, "\"id\":")); at++, n++)
            assert_int_equal(first + n * step, strtoll(at + 5, NULL, 10));
    }
    return n;
}

static void the_first_words(void **state)
{
    struct follower *one;

    (void)state;
    f.newest = 41;
    one = follower(41);
    assert_string_equal("retry: 1000\n\n:\nid: 41\n\n", pull(one));
    assert_string_equal("", pull(one));
    assert_int_equal(0, f.reads);
    f.newest = 42;
    assert_string_equal(
        "id: 42\nevent: job.moved\ndata: {\"id\":42,\"type\":\"job.moved\",\"time\":\"1970-01-01T00:00:42.000Z\","
        "\"job\":\"b\",\"context\":\"y\",\"context_id\":\"c-1\",\"from\":\"QUEUED\",\"state\":\"STARTING\","
        "\"attempt\":1,\"error\":null}\n\n",
        pull(one));
    let_go(one);
}

/* One read for all, and none as long as nothing is new. */
static void many_followers_share_a_read(void **state)
{
    struct follower *all[50];

    (void)state;
    f.newest = 10;
    for (size_t i = 0; i < STK_LEN(all); i++) {
        all[i] = follower(10);
        pull(all[i]);
    }
    for (int turn = 1; turn <= 5; turn++) {
        f.newest += 3;
        for (size_t i = 0; i < STK_LEN(all); i++) {
            assert_int_equal(3, pull_numbers(all[i], f.newest - 2, 1, 65536));
            assert_string_equal("", pull(all[i]));
        }
        assert_int_equal(turn, f.reads);
    }
    for (size_t i = 0; i < STK_LEN(all); i++)
        let_go(all[i]);
}

/* From the store as long as it is far behind, then from what is kept; pieces of every size. */
static void who_is_far_behind_catches_up(void **state)
{
    static const size_t rooms[] = { 16384, 20000, 65536 };

    (void)state;
    f.newest = 3 * RECENT + 17;
    for (size_t i = 0; i < STK_LEN(rooms); i++) {
        struct follower *one = follower(0), *other = follower(f.newest - 5);

        assert_int_equal(5, pull_numbers(other, f.newest - 4, 1, rooms[i]));
        assert_int_equal(f.newest, pull_numbers(one, 1, 1, rooms[i]));
        let_go(one);
        let_go(other);
    }
}

/* It asks seldom, and others have moved the ring on meanwhile. */
static void a_slow_one_misses_nothing(void **state)
{
    struct follower *slow = follower(0), *quick = follower(0);
    int64_t quick_at = 0, slow_at = 0;

    (void)state;
    for (int i = 0; i < 40; i++) {
        f.newest += 97;
        quick_at += pull_numbers(quick, quick_at + 1, 1, 65536);
        assert_int_equal(f.newest, quick_at);
        if (i % 13 == 12)
            slow_at += pull_numbers(slow, slow_at + 1, 1, 16384);
    }
    slow_at += pull_numbers(slow, slow_at + 1, 1, 16384);
    assert_int_equal(f.newest, slow_at);
    let_go(slow);
    let_go(quick);
}

static void set_name(struct names *names, const char *name)
{
    assert_non_null(names->at[names->n] = strdup(name));
    names->n++;
}

static void filters(void **state)
{
    struct follower *job = follower(0), *both = follower(0), *type = follower(0), *none = follower(0);

    (void)state;
    f.newest = 500;
    set_name(&job->filter.jobs, "z");
    set_name(&job->filter.jobs, "a");
    assert_int_equal(250, pull_numbers(job, 1, 2, 65536));
    set_name(&both->filter.jobs, "b");
    set_name(&both->filter.contexts, "y");
    assert_int_equal(125, pull_numbers(both, 2, 4, 65536));
    set_name(&type->filter.types, "job");
    assert_int_equal(500, pull_numbers(type, 1, 1, 65536));
    set_name(&none->filter.types, "job.ended");
    assert_int_equal(0, pull_numbers(none, 0, 0, 65536));
    assert_int_equal(500, none->at);
    let_go(job);
    let_go(both);
    let_go(type);
    let_go(none);
}

/* A follower of what is rare goes through much of what is not its: a bit at a time, and never as if there were nothing. */
static void a_long_way_to_the_next_one(void **state)
{
    struct follower *one = follower(0);
    int turns = 0;

    (void)state;
    f.newest = 10 * PAGE;
    set_name(&one->filter.jobs, "nobody");
    pull(one);
    while (one->at < f.newest) {
        int reads = f.reads;
        int64_t at = one->at;
        char id[48];

        snprintf(id, sizeof id, ":\nid: %" PRId64 "\n\n", at + PAGE);
        if (f.newest - at >= RECENT) /* else the rest is read for all at once */
            assert_string_equal(id, pull(one));
        else
            assert_string_equal("", pull(one));
        assert_in_range(f.reads - reads, 1, f.newest - at >= RECENT ? 1 : RECENT / PAGE + 1);
        turns++;
    }
    assert_in_range(turns, 5, 8);
    let_go(one);
}

static void what_is_removed_is_told(void **state)
{
    struct follower *late = follower(5), *slow = follower(0);

    (void)state;
    f.newest = 20;
    f.oldest = 11;
    assert_non_null(strstr(
        pull(late),
        "id: 10\nevent: gap\ndata: {\"id\":10,\"type\":\"gap\",\"after\":5,\"next\":11,\"reason\":\"removed\"}\n\n"
        "id: 11\n"));
    assert_int_equal(20, late->at);
    f.newest = 9 * RECENT; /* retention overtakes one that is in the middle of them */
    pull(slow);
    f.oldest = f.newest;
    assert_non_null(strstr(pull(slow), "\"reason\":\"removed\"}\n\n"));
    assert_int_equal(f.newest, slow->at);
    let_go(late);
    let_go(slow);
}

/* The database was replaced by an older one: what came between is not known, what comes now is told. */
static void a_number_that_was_never_given(void **state)
{
    struct follower *one = follower(7);

    (void)state;
    f.newest = 7;
    one->unknown = 900;
    assert_string_equal("retry: 1000\n\nid: 7\nevent: gap\ndata: "
                        "{\"id\":7,\"type\":\"gap\",\"after\":900,\"next\":8,\"reason\":\"unknown\"}\n\n",
                        pull(one));
    f.newest = 9;
    assert_int_equal(2, pull_numbers(one, 8, 1, 65536));
    let_go(one);
}

static void silence_is_broken(void **state)
{
    struct follower *one = follower(3);

    (void)state;
    f.newest = 3;
    set_name(&one->filter.jobs, "nobody");
    pull(one);
    f.now_ms += SILENCE_MS - 1;
    f.newest = 8;
    assert_string_equal("", pull(one));
    f.now_ms++;
    assert_string_equal(":\nid: 8\n\n", pull(one)); /* and if it is cut now, it has missed nothing */
    f.now_ms += SILENCE_MS - 1;
    assert_string_equal("", pull(one));
    f.now_ms++;
    assert_string_equal(":\nid: 8\n\n", pull(one));
    let_go(one);
}

/* The longest event there can be still fits into the smallest piece. */
static void long_messages_are_cut(void **state)
{
    struct follower *one = follower(0);
    stk_auto_buf message = { 0 };
    const char *text, *at;

    (void)state;
    for (int i = 0; i < 999; i++)
        stk_buf_add(&message, "\x01", 1);
    stk_buf_add_str(&message, "\xc3\xa9 and so on");
    f.message = message.data;
    f.newest = 3;
    text = pull_some(one, 16384);
    assert_non_null(strstr(text, "\"type\":\"job.ended\""));
    at = strstr(text, "\\u0001\"}}\n\n");
    assert_non_null(at);
    assert_null(strstr(text, "so on"));
    while (*pull_some(one, 16384))
        ;
    assert_int_equal(3, one->at);
    let_go(one);
}

static bool tells(const char *text, const char *job, int done)
{
    char end[80], begin[80];
    const char *at;

    snprintf(begin, sizeof begin, "\"job\":\"%s\",\"context\":\"x\"", job);
    snprintf(end, sizeof end, "\"progress\":{\"tasks\":{\"total\":0,\"done\":%d,", done);
    at = strstr(text, "event: job.progress\ndata: {\"type\":\"job.progress\"");
    at = at ? strstr(at, begin) : NULL;
    return at && strstr(at, end);
}

/* Each state once, and nothing of the place that a client comes back to. */
static void progress_is_told_between_events(void **state)
{
    struct follower *one = follower(2);
    const char *text;

    (void)state;
    f.newest = 3;
    set_progress(0, 5, "a", 3);
    text = pull(one);
    assert_true(tells(text, "a", 5));
    assert_true(strstr(text, "id: 3\n") < strstr(text, "event: job.progress"));
    assert_string_equal("", pull(one));
    set_progress(1, 6, "b", 1);
    text = pull(one);
    assert_true(tells(text, "b", 6) && !tells(text, "a", 5));
    assert_null(strstr(text, "id: "));
    assert_string_equal("", pull(one));
    assert_int_equal(3, one->at);
    let_go(one);
}

/* Who is behind hears of the job's start first: what is told then is what is newest then. */
static void progress_waits_for_the_start_of_its_job(void **state)
{
    struct follower *one = follower(0);
    bool told = false;

    (void)state;
    f.newest = 10 * PAGE;
    set_name(&one->filter.types, "job.progress"); /* there is room all the time */
    set_progress(0, 1, "a", f.newest - 1);
    for (int turns = 0; !told; turns++) {
        told = tells(pull(one), "a", 1);
        assert_int_equal(told, one->at >= f.newest - 1);
        assert_in_range(turns, 0, 100);
    }
    let_go(one);
}

static void progress_that_finds_no_room_comes_later(void **state)
{
    struct follower *one = follower(3);
    const char *text;

    (void)state;
    f.newest = 3;
    pull(one);
    set_progress(0, 1, "a", 3);
    set_progress(1, 2, "b", 3);
    text = pull_some(one, 500);
    assert_true(tells(text, "a", 1) && !strstr(text, "\"b\""));
    assert_true(tells(pull_some(one, 500), "b", 2));
    assert_string_equal("", pull(one));
    let_go(one);
}

static void progress_is_filtered(void **state)
{
    static const struct {
        const char *job, *context, *type;
        bool told;
    } cases[] = {
        { NULL, NULL, NULL, true },         { "a", NULL, NULL, true },       { "b", NULL, NULL, false },
        { NULL, "x", NULL, true },          { NULL, "y", NULL, false },      { NULL, NULL, "job", true },
        { NULL, NULL, "job.ended", false }, { NULL, NULL, "binary", false }, { "a", "x", "job.progress", true },
    };

    (void)state;
    f.newest = 3;
    set_progress(0, 1, "a", 3);
    for (size_t i = 0; i < STK_LEN(cases); i++) {
        struct follower *one = follower(3);

        if (cases[i].job)
            set_name(&one->filter.jobs, cases[i].job);
        if (cases[i].context)
            set_name(&one->filter.contexts, cases[i].context);
        if (cases[i].type)
            set_name(&one->filter.types, cases[i].type);
        assert_int_equal(cases[i].told, tells(pull(one), "a", 1));
        assert_string_equal("", pull(one));
        let_go(one);
    }
}

static void a_store_that_fails_ends_the_stream(void **state)
{
    struct follower *one = follower(0);
    char piece[16384];

    (void)state;
    f.newest = 3;
    f.fails = true;
    assert_int_equal(STK_STREAM_BROKEN, one->stream.pull(&one->stream, piece, sizeof piece));
    let_go(one);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(the_first_words),
        TEST(many_followers_share_a_read),
        TEST(who_is_far_behind_catches_up),
        TEST(a_slow_one_misses_nothing),
        TEST(filters),
        TEST(a_long_way_to_the_next_one),
        TEST(what_is_removed_is_told),
        TEST(a_number_that_was_never_given),
        TEST(silence_is_broken),
        TEST(long_messages_are_cut),
        TEST(progress_is_told_between_events),
        TEST(progress_waits_for_the_start_of_its_job),
        TEST(progress_that_finds_no_room_comes_later),
        TEST(progress_is_filtered),
        TEST(a_store_that_fails_ends_the_stream),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
