/* The listening socket and the connections of runner processes. */
#include "internal.h"

#include "stoker/clock.h"
#include "stoker/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

static void free_conn(uv_handle_t *handle)
{
    struct stk_conn *c = handle->data;

    stk_frame_decoder_free(c->decoder);
    stk_buf_done(&c->out);
    free(c);
}

void stk_conn_close(struct stk_conn *c)
{
    if (c->closing)
        return;
    c->closing = true;
    LIST_REMOVE(c, link);
    if (c->dirty)
        LIST_REMOVE(c, dirty_link);
    c->dirty = false;
    uv_close((uv_handle_t *)&c->pipe, free_conn);
}

static void drop(struct stk_conn *c, const char *why)
{
    if (c->closing)
        return;
    if (why)
        stk_warn("runner", "connection dropped", "why", why);
    if (c->welcomed)
        c->runner->events.closed(c->runner->events.arg, c);
    stk_conn_close(c);
}

/* ---- sending */

struct out {
    uv_write_t req;
    char *bytes;
};

static void on_written(uv_write_t *req, int status)
{
    struct out *o = req->data;

    (void)status; /* the read side learns of a dead peer */
    free(o->bytes);
    free(o);
}

static void send_rest(struct stk_conn *c, const char *bytes, size_t n)
{
    struct out *o = calloc(1, sizeof *o);
    uv_buf_t buf;

    if (!o || !(o->bytes = malloc(n))) {
        free(o);
        drop(c, "out of memory");
        return;
    }
    memcpy(o->bytes, bytes, n);
    o->req.data = o;
    buf = uv_buf_init(o->bytes, (unsigned)n);
    if (uv_write(&o->req, (uv_stream_t *)&c->pipe, &buf, 1, on_written) < 0) {
        free(o->bytes);
        free(o);
    }
}

/* Writes what has gathered; called once per turn of the loop, before it sleeps. */
static void flush(struct stk_conn *c)
{
    uv_buf_t buf = uv_buf_init(c->out.data, (unsigned)c->out.len);
    int sent;

    if (c->dirty)
        LIST_REMOVE(c, dirty_link);
    c->dirty = false;
    if (c->closing || c->out.len == 0)
        return;
    if (c->out.failed) {
        drop(c, "out of memory");
        return;
    }
    sent = uv_try_write((uv_stream_t *)&c->pipe, &buf, 1);
    if (sent == UV_EAGAIN)
        sent = 0;
    /* any other error: the peer is gone; its end arrives on the read side, after what it still had to say */
    if (sent >= 0 && (size_t)sent < c->out.len)
        send_rest(c, c->out.data + sent, c->out.len - (size_t)sent);
    if (c->out.cap > OUT_KEPT_MAX)
        stk_buf_done(&c->out);
    c->out.len = 0;
}

static void on_turn(void *arg)
{
    struct stk_runner *r = arg;

    while (!LIST_EMPTY(&r->dirty))
        flush(LIST_FIRST(&r->dirty));
}

void stk_conn_send_take(struct stk_conn *c, json_t *msg)
{
    json_auto_t *owned = msg;
    char small[4096];
    stk_auto_free char *large = NULL;
    const char *text = small;
    uint8_t header[STK_FRAME_HEADER];
    size_t n;

    if (c->closing)
        return;
    n = json_dumpb(owned, small, sizeof small, JSON_COMPACT);
    if (n > sizeof small) {
        large = json_dumps(owned, JSON_COMPACT);
        text = large;
    }
    if (n == 0 || n > UINT32_MAX || !text) {
        stk_error("runner", "a message could not be encoded");
        return;
    }
    stk_frame_header(header, (uint32_t)n);
    stk_buf_add(&c->out, header, sizeof header);
    stk_buf_add(&c->out, text, n);
    if (!c->dirty)
        LIST_INSERT_HEAD(&c->runner->dirty, c, dirty_link);
    c->dirty = true;
}

void stk_conn_welcome(struct stk_conn *c, void *user)
{
    c->user = user;
    c->welcomed = true;
    stk_conn_send_take(
        c, json_pack("{s:s, s:i, s:i}", "type", "welcome", "protocol", STK_PROTOCOL, "server_pid", (int)getpid()));
}

void stk_conn_refuse(struct stk_conn *c, const char *reason)
{
    stk_warn("runner", "process refused", "reason", reason);
    stk_conn_send_take(c, json_pack("{s:s, s:s}", "type", "refused", "reason", reason));
    flush(c);
    stk_conn_close(c);
}

void *stk_conn_user(const struct stk_conn *c)
{
    return c->user;
}

/* ---- receiving */

static bool same_token(const char *a, const char *b)
{
    unsigned char diff = 0;

    if (!a || strlen(a) != TOKEN_HEX)
        return false;
    for (size_t i = 0; i < TOKEN_HEX; i++)
        diff |= (unsigned char)(a[i] ^ b[i]);
    return diff == 0;
}

static void on_hello(struct stk_conn *c, json_t *msg)
{
    const char *type = json_string_value(json_object_get(msg, "type"));
    json_int_t protocol = json_integer_value(json_object_get(msg, "protocol"));

    if (!type || strcmp(type, "hello") != 0)
        drop(c, "the first message is not hello");
    else if (!same_token(json_string_value(json_object_get(msg, "token")), c->runner->token))
        stk_conn_refuse(c, "wrong token");
    else if (protocol < STK_PROTOCOL)
        stk_conn_refuse(c, "this server speaks a newer protocol");
    else
        c->runner->events.hello(c->runner->events.arg, c, msg);
}

static void on_frame(struct stk_conn *c, const struct stk_frame *f)
{
    json_error_t why;
    json_auto_t *msg = json_loadb((const char *)f->payload, f->len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
    const char *type;

    if (!json_is_object(msg)) {
        drop(c, msg ? "a frame is not a JSON object" : why.text);
        return;
    }
    if (!c->welcomed) {
        on_hello(c, msg);
        return;
    }
    type = json_string_value(json_object_get(msg, "type"));
    if (!type)
        drop(c, "a message has no type");
    else
        c->runner->events.message(c->runner->events.arg, c, type, msg);
}

static void on_alloc(uv_handle_t *handle, size_t hint, uv_buf_t *ret)
{
    static char shared[65536]; /* one loop thread, and a read is consumed before the next begins */

    (void)handle;
    (void)hint;
    *ret = uv_buf_init(shared, sizeof shared);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct stk_conn *c = stream->data;
    struct stk_err err;
    struct stk_frame f;
    int rc;

    if (c->closing || n == 0)
        return;
    if (n < 0) {
        drop(c, NULL);
        return;
    }
    if (stk_frame_decoder_feed(c->decoder, buf->base, (size_t)n, &err) < 0) {
        drop(c, err.msg);
        return;
    }
    while (!c->closing && (rc = stk_frame_decoder_next(c->decoder, &f, &err)) != 0) {
        if (rc < 0)
            drop(c, err.msg);
        else
            on_frame(c, &f);
    }
}

/* Who says nothing would hold a descriptor for ever. A process that was only slow dials again. */
static void on_hello_timer(void *arg)
{
    struct stk_runner *r = arg;
    int64_t now = stk_mono_ms();
    struct stk_conn *c, *next;
    bool waiting = false;

    for (c = LIST_FIRST(&r->conns); c; c = next) {
        next = LIST_NEXT(c, link);
        if (!c->welcomed && now - c->since_ms >= HELLO_MS)
            drop(c, "no hello in time");
        else
            waiting |= !c->welcomed;
    }
    if (waiting)
        stk_timer_set(r->hello_timer, HELLO_MS);
    r->hello_timer_set = waiting;
}

static bool is_our_uid(uv_pipe_t *pipe)
{
    struct ucred peer;
    socklen_t len = sizeof peer;
    uv_os_fd_t fd;

    return uv_fileno((uv_handle_t *)pipe, &fd) == 0 && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 &&
           (peer.uid == geteuid() || peer.uid == 0);
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct stk_runner *r = listener->data;
    struct stk_conn *c;

    if (status < 0) {
        stk_warn("runner", "accept failed", "why", uv_strerror(status));
        return;
    }
    c = calloc(1, sizeof *c);
    if (!c)
        return; /* out of memory; nobody dials in any more until the next start */
    uv_pipe_init(listener->loop, &c->pipe, 0);
    c->pipe.data = c;
    c->runner = r;
    LIST_INSERT_HEAD(&r->conns, c, link);
    c->decoder = stk_frame_decoder_new(FRAME_IN_MAX);
    if (!c->decoder || uv_accept(listener, (uv_stream_t *)&c->pipe) < 0) {
        stk_conn_close(c);
        return;
    }
    if (!is_our_uid(&c->pipe)) {
        drop(c, "the peer is another user's process");
        return;
    }
    uv_read_start((uv_stream_t *)&c->pipe, on_alloc, on_read);
    c->since_ms = stk_mono_ms();
    if (!r->hello_timer_set)
        stk_timer_set(r->hello_timer, HELLO_MS);
    r->hello_timer_set = true;
}

/* ---- the listener */

static int load_token(struct stk_runner *r, int dir, struct stk_err *err)
{
    stk_auto_fd fd = openat(dir, "token", O_RDONLY | O_CLOEXEC);
    ssize_t n;

    if (fd >= 0) {
        n = read(fd, r->token, TOKEN_HEX);
        if (n == TOKEN_HEX)
            return 0;
        close(stk_steal_fd(&fd)); /* torn by a crash: nobody can have it */
    }
    stk_random_hex(r->token, TOKEN_HEX / 2);
    fd = openat(dir, "token.tmp", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, r->token, TOKEN_HEX) != TOKEN_HEX || fsync(fd) < 0 ||
        renameat(dir, "token.tmp", dir, "token") < 0)
        return stk_fail_sys(err, errno, "cannot write the file 'token' in the state directory");
    return 0;
}

static int bind_socket(int dir, struct stk_err *err)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    stk_auto_fd fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return stk_fail_sys(err, errno, "socket");
    /* through the descriptor: a state directory's path may be longer than a socket address */
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/runner.sock", dir);
    if (unlinkat(dir, "runner.sock", 0) < 0 && errno != ENOENT)
        return stk_fail_sys(err, errno, "cannot replace runner.sock in the state directory");
    if (bind(fd, (const struct sockaddr *)&address, sizeof address) < 0)
        return stk_fail_sys(err, errno, "cannot make runner.sock in the state directory");
    if (fchmodat(dir, "runner.sock", 0600, 0) < 0)
        return stk_fail_sys(err, errno, "runner.sock");
    return stk_steal_fd(&fd);
}

static void free_runner(uv_handle_t *handle)
{
    free(handle->data);
}

struct stk_runner *stk_runner_new(struct stk_loop *loop, const struct stk_runner_options *options, struct stk_err *err)
{
    struct stk_runner *r = calloc(1, sizeof *r);
    int fd, rc;

    if (!r) {
        stk_fail(err, STK_INTERNAL, "out of memory");
        return NULL;
    }
    r->loop = loop;
    r->events = options->events;
    LIST_INIT(&r->conns);
    LIST_INIT(&r->dirty);
    if (!(r->hello_timer = stk_timer_new(loop, on_hello_timer, r))) {
        stk_fail(err, STK_INTERNAL, "out of memory");
        free(r);
        return NULL;
    }
    if (load_token(r, options->state_dir_fd, err) < 0 || (fd = bind_socket(options->state_dir_fd, err)) < 0) {
        stk_timer_free(r->hello_timer);
        free(r);
        return NULL;
    }
    uv_pipe_init(stk_loop_uv(loop), &r->listener, 0);
    r->listener.data = r;
    rc = uv_pipe_open(&r->listener, fd);
    if (rc == 0)
        rc = uv_listen((uv_stream_t *)&r->listener, 1024, on_connection);
    if (rc < 0) {
        stk_fail(err, STK_INTERNAL, "runner.sock: %s", uv_strerror(rc));
        stk_timer_free(r->hello_timer);
        uv_close((uv_handle_t *)&r->listener, free_runner);
        return NULL;
    }
    stk_loop_on_turn(loop, on_turn, r);
    return r;
}

void stk_runner_free(struct stk_runner *r)
{
    if (!r)
        return;
    while (!LIST_EMPTY(&r->conns))
        stk_conn_close(LIST_FIRST(&r->conns));
    stk_timer_free(r->hello_timer);
    uv_close((uv_handle_t *)&r->listener, free_runner);
}
