/*
 * What a runner process sends: frames, and the JSON in them up to the events that the core gets.
 *
 * The first byte says what follows. Odd: a stream of bytes as it is. Even: lines, of which each becomes a frame (a NUL byte in
 * front of one: its header announces that much more). The second byte is where the stream is cut into pieces. However it is cut, the
 * same frames, the same events and the same end of the connection must come out, and they are those of a second, simple reading.
 */
#include "fuzz.h"

#include "stoker/frame.h"
#include "stoker/json.h"
#include "stoker/loop.h"
#include "stoker/runner.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <uv.h>

enum { FRAME_MAX = 1 << 20 };

/* In hello this is what a process reads from the state directory; the seeds have it. */
#define TOKEN "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static struct stk_loop *loop;
static struct stk_runner *runner;
static char socket_path[108];

/* ---- what is heard */

struct heard {
    struct stk_buf events; /* a line for each */
    bool closed;
};
static struct heard *hearing;

static void hear(const char *what, const json_t *msg)
{
    stk_auto_free char *text = json_dumps(msg, JSON_COMPACT | JSON_SORT_KEYS);

    stk_buf_printf(&hearing->events, "%s ", what);
    stk_buf_add_str(&hearing->events, text ? text : "(cannot be written)");
    stk_buf_add_str(&hearing->events, "\n");
}

static void on_hello(void *arg, struct stk_conn *conn, json_t *msg)
{
    (void)arg;
    hear("hello", msg);
    if (json_object_get(msg, "refuse")) /* as the core does with processes it does not know */
        stk_conn_refuse(conn, "it asked for it");
    else
        stk_conn_welcome(conn, hearing);
}

static void on_message(void *arg, struct stk_conn *conn, const char *type, json_t *msg)
{
    (void)arg;
    FUZZ_CHECK(stk_conn_user(conn) == hearing);
    FUZZ_CHECK(strcmp(type, json_string_value(json_object_get(msg, "type"))) == 0);
    hear("message", msg);
    if (json_object_get(msg, "answer"))
        stk_conn_send_take(conn, json_pack("{s:s, s:O}", "type", "answer", "to", msg));
    if (json_object_get(msg, "close")) { /* the core closes connections in the middle of what they say */
        hear("close", msg);
        stk_conn_close(conn);
    }
}

static void on_closed(void *arg, struct stk_conn *conn)
{
    (void)arg;
    FUZZ_CHECK(stk_conn_user(conn) == hearing);
    FUZZ_CHECK(!hearing->closed);
    hearing->closed = true;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    struct stk_runner_options options = {
        .events = { .hello = on_hello, .message = on_message, .closed = on_closed },
    };
    char dir[] = "/tmp/stoker-fuzz-XXXXXX";
    struct stk_err err = { 0 };
    int fd;

    (void)argc;
    (void)argv;
    FUZZ_CHECK(mkdtemp(dir));
    options.state_dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    fd = openat(options.state_dir_fd, "token", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    FUZZ_CHECK(fd >= 0 && write(fd, TOKEN, 64) == 64 && close(fd) == 0);
    loop = stk_loop_new(&err);
    runner = loop ? stk_runner_new(loop, &options, &err) : NULL;
    FUZZ_CHECK(runner, "%s", err.msg);
    /* Its folder is not needed any more: the socket is reached by another name. */
    snprintf(socket_path, sizeof socket_path, "/proc/self/fd/%d/runner.sock", options.state_dir_fd);
    return 0;
}

/* ---- the connection */

static void turn(void)
{
    uv_run(stk_loop_uv(loop), UV_RUN_NOWAIT);
}

static int dial(void)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    memcpy(address.sun_path, socket_path, sizeof socket_path);
    FUZZ_CHECK(fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof address) == 0, "%s", strerror(errno));
    turn();
    return fd;
}

/* Sends all of it; false: the server has closed the connection. */
static bool send_all(int fd, const char *bytes, size_t n)
{
    while (n > 0) {
        ssize_t sent = send(fd, bytes, n, MSG_NOSIGNAL);

        if (sent < 0 && errno != EAGAIN && errno != EINTR)
            return false;
        if (sent > 0) {
            bytes += sent;
            n -= (size_t)sent;
        }
        turn();
    }
    return true;
}

/* All that the server has sent, to its end or as far as it is there; frames of JSON like ours. */
static void check_answers(int fd)
{
    struct stk_frame_decoder *d = stk_frame_decoder_new(64 << 20);
    struct stk_frame f;
    char piece[65536];
    ssize_t n;

    while ((n = recv(fd, piece, sizeof piece, 0)) > 0) {
        FUZZ_CHECK(stk_frame_decoder_feed(d, piece, (size_t)n, NULL) == 0);
        while (stk_frame_decoder_next(d, &f, NULL) == 1)
            FUZZ_CHECK(stk_json_valid((const char *)f.payload, f.len), "%.*s", (int)f.len, f.payload);
        turn();
    }
    stk_frame_decoder_free(d);
}

static void converse(const struct stk_buf *stream, size_t cut, struct heard *ret)
{
    int fd = dial();
    bool open = true;

    *ret = (struct heard){ 0 };
    hearing = ret;
    for (size_t at = 0; open && at < stream->len; at += cut)
        open = send_all(fd, stream->data + at, stream->len - at < cut ? stream->len - at : cut);
    for (int i = 0; i < 3; i++)
        turn();
    check_answers(fd);
    close(fd);
    for (int i = 0; i < 3; i++)
        turn();
}

/* ---- the same, read simply */

static size_t frame_len(const struct stk_buf *s, size_t at)
{
    const unsigned char *p = (const unsigned char *)s->data + at;

    return (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3];
}

static bool token_is_right(const json_t *hello)
{
    const json_t *token = json_object_get(hello, "token");

    return json_string_length(token) == 64 && memcmp(json_string_value(token), TOKEN, 64) == 0;
}

/* What one frame leads to; false: the connection ends. */
static bool expect_frame(const char *payload, size_t len, bool *welcomed)
{
    json_auto_t *msg = json_loadb(payload, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    const char *type = json_string_value(json_object_get(msg, "type"));

    if (!json_is_object(msg) || !type)
        return false;
    if (!*welcomed) {
        if (strcmp(type, "hello") != 0 || !token_is_right(msg) ||
            json_integer_value(json_object_get(msg, "protocol")) < STK_PROTOCOL)
            return false;
        hear("hello", msg);
        *welcomed = true;
        if (!json_object_get(msg, "refuse"))
            return true;
        *welcomed = false; /* and nobody is told of the end */
        return false;
    }
    hear("message", msg);
    if (!json_object_get(msg, "close"))
        return true;
    hear("close", msg);
    *welcomed = false;
    return false;
}

static void expect(const struct stk_buf *s, struct heard *ret)
{
    bool welcomed = false, open = true;

    *ret = (struct heard){ 0 };
    hearing = ret;
    for (size_t at = 0; open && s->len - at >= STK_FRAME_HEADER;) {
        size_t len = frame_len(s, at);

        if (len == 0 || len > FRAME_MAX || len > s->len - at - STK_FRAME_HEADER)
            break;
        open = expect_frame(s->data + at + STK_FRAME_HEADER, len, &welcomed);
        at += STK_FRAME_HEADER + len;
    }
    ret->closed = welcomed; /* in the end the peer goes, or has done something wrong */
}

/* ---- frames alone */

static void check_decoder(const struct stk_buf *s, size_t cut)
{
    struct stk_frame_decoder *d = stk_frame_decoder_new(FRAME_MAX);
    struct stk_err err = { 0 };
    struct stk_frame f;
    size_t expected = 0; /* where the next frame begins */
    int rc = 0;

    for (size_t at = 0; rc >= 0 && at < s->len; at += cut) {
        FUZZ_CHECK(stk_frame_decoder_feed(d, s->data + at, s->len - at < cut ? s->len - at : cut, &err) == 0);
        while ((rc = stk_frame_decoder_next(d, &f, &err)) == 1) {
            FUZZ_CHECK(f.len > 0 && f.len == frame_len(s, expected));
            FUZZ_CHECK(memcmp(f.payload, s->data + expected + STK_FRAME_HEADER, f.len) == 0);
            expected += STK_FRAME_HEADER + f.len;
        }
    }
    if (rc < 0) {
        FUZZ_CHECK(err.code == STK_RUNNER);
        fuzz_check_message(&err);
        FUZZ_CHECK(frame_len(s, expected) == 0 || frame_len(s, expected) > FRAME_MAX);
        FUZZ_CHECK(stk_frame_decoder_next(d, &f, &err) < 0, "a broken stream stays broken");
    } else {
        FUZZ_CHECK(s->len - expected < STK_FRAME_HEADER ||
                   frame_len(s, expected) > s->len - expected - STK_FRAME_HEADER);
    }
    stk_frame_decoder_free(d);
}

/* ---- */

static void put_frame(struct stk_buf *stream, const char *payload, size_t len, size_t more)
{
    uint8_t header[STK_FRAME_HEADER];

    stk_frame_header(header, (uint32_t)(len + more));
    stk_buf_add(stream, header, sizeof header);
    stk_buf_add(stream, payload, len);
}

static void put_lines(struct stk_buf *stream, const char *text, size_t len)
{
    const char *end = text + len;

    while (text < end) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        size_t n = (size_t)((stop ? stop : end) - text);
        bool more = n > 0 && *text == '\0';

        put_frame(stream, text + more, n - more, more);
        text += n + 1;
    }
}

static void check_same(const struct heard *a, const struct heard *b, const char *what)
{
    FUZZ_CHECK(a->events.len == b->events.len && (a->events.len == 0 || strcmp(a->events.data, b->events.data) == 0),
               "%s:\n%s---- is not ----\n%s", what, a->events.data ? a->events.data : "",
               b->events.data ? b->events.data : "");
    FUZZ_CHECK(a->closed == b->closed, "%s: closed %d, not %d", what, a->closed, b->closed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    stk_auto_buf stream = { 0 };
    struct heard whole, pieces, expected;
    size_t cut;

    if (size < 3)
        return 0;
    cut = (size_t)data[1] + 1;
    if (data[0] & 1)
        stk_buf_add(&stream, data + 2, size - 2);
    else
        put_lines(&stream, (const char *)data + 2, size - 2);
    check_decoder(&stream, cut);
    check_decoder(&stream, stream.len + 1);
    converse(&stream, stream.len + 1, &whole);
    converse(&stream, cut, &pieces);
    expect(&stream, &expected);
    check_same(&whole, &expected, "in one piece");
    check_same(&pieces, &expected, "in pieces");
    stk_buf_done(&whole.events);
    stk_buf_done(&pieces.events);
    stk_buf_done(&expected.events);
    return 0;
}
