/* The thread of streams: who has much to get does not keep the others waiting. */
#include "http/edge.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include <cmocka.h>

enum { SLOW_MS = 4, TURN_MS = 5 };

/* Both are pulled by one thread only: the numbers need no lock. */
static int slow_pulls, most_between;

struct source {
    struct stk_stream stream;
    int left; /* pulls until its end */
    int seen; /* slow_pulls at the last one; -1: this is the first */
};

static void source_free(struct stk_stream *stream)
{
    (void)stream;
}

static ssize_t give(struct source *s, char *buf)
{
    if (s->left-- == 0)
        return STK_STREAM_END;
    *buf = 'x';
    return 1;
}

/* One that is far behind: each piece is found only after a while. */
static ssize_t pull_slow(struct stk_stream *stream, char *buf, size_t n)
{
    const struct timespec pause = { .tv_nsec = SLOW_MS * 1000000 };

    (void)n;
    nanosleep(&pause, NULL);
    slow_pulls++;
    return give((struct source *)stream, buf);
}

static ssize_t pull_quick(struct stk_stream *stream, char *buf, size_t n)
{
    struct source *s = (struct source *)stream;

    (void)n;
    if (s->seen >= 0 && slow_pulls - s->seen > most_between)
        most_between = slow_pulls - s->seen;
    s->seen = slow_pulls;
    return give(s, buf);
}

/* Hands one end of a socket over; the other one is returned. */
static int follow(struct stk_streams *streams, struct source *source)
{
    int pair[2];

    assert_int_equal(0, socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
    assert_true(stk_streams_reserve(streams, false));
    assert_int_equal(0, stk_streams_add_take(streams, pair[0], "head ", 5, false, &source->stream));
    return pair[1];
}

static size_t read_to_the_end(int fd)
{
    char piece[256];
    size_t all = 0;
    ssize_t n;

    while ((n = read(fd, piece, sizeof piece)) > 0)
        all += (size_t)n;
    assert_int_equal(0, n);
    close(fd);
    return all;
}

static void a_turn_is_short(void **state)
{
    enum { PULLS = 60 };
    struct source slow = { { pull_slow, source_free }, PULLS, -1 }, quick = { { pull_quick, source_free }, PULLS, -1 };
    struct stk_streams *streams = stk_streams_start(2, 10000, NULL);
    int slow_fd, quick_fd;

    (void)state;
    assert_non_null(streams);
    slow_fd = follow(streams, &slow);
    quick_fd = follow(streams, &quick);
    assert_int_equal(5 + PULLS, read_to_the_end(quick_fd));
    assert_int_equal(5 + PULLS, read_to_the_end(slow_fd));
    stk_streams_stop(streams);
    stk_streams_free(streams);
    assert_true(most_between > 0);
    assert_true(most_between <= TURN_MS / SLOW_MS + 1); /* however busy the machine is: pauses only get longer */
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_turn_is_short),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
