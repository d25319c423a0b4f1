/*
 * Replies without a known end, and long files: one thread of ours for all of them. CivetWeb has a thread for each connection, and a client that
 * follows a log for a day would hold one for a day. So the socket is taken out of its hands (another one is put in its place, which
 * it shuts down and closes when the handler is back) and served here: sends never block, sources are asked again while their
 * clients take what they give.
 *
 * A client that stops reading costs what is left of one piece and is forgotten after a while. Nobody waits for it.
 */
#include "http/edge.h"

#include "stoker/clock.h"
#include "stoker/log.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

enum {
    PIECE = 65536,
    HEAD_ROOM = 16, /* "10000\r\n" before a chunk */
    TAIL_ROOM = 2,
    PIECES_A_TURN = 8, /* then the next client; */
    TURN_MS = 5,       /* as after this time, for a source that has to look for what it gives */
    ASK_MIN_MS = 20, /* a source that had nothing is asked again after a quarter of the time that it has had nothing, */
    ASK_MAX_MS = 250,    /* within these: what comes is there quickly, and a silent log costs four looks a second */
    UNSENT_MAX = 131072, /* bytes that the kernel may hold of what the client has no room for */
};

struct client {
    int fd;
    struct stk_stream *source;
    bool chunked, ended;
    bool blocked; /* it takes nothing for now */
    bool leaving; /* it has closed its side: it gets what there is, but nothing is waited for */
    char *rest;   /* what a send() has left; NULL: nothing */
    size_t rest_at, rest_len;
    int64_t took_ms; /* when it last took something */
    int64_t gave_ms; /* when the source last had something */
    int64_t due_ms;  /* when to ask the source, unless blocked */
    struct client *next;
};

struct stk_streams {
    pthread_t thread;
    int epoll_fd, wake_fd;
    int stand_in; /* a socket that nobody listens to */
    int64_t timeout_ms;
    int max;
    atomic_int n; /* reserved and running */

    pthread_mutex_t lock; /* guards arrived, stopping */
    struct client *arrived;
    bool stopping;

    /* the thread's */
    struct client *clients;
    char piece[HEAD_ROOM + PIECE + TAIL_ROOM];
};

/* ---- one client */

static void client_free(struct stk_streams *s, struct client *c)
{
    epoll_ctl(s->epoll_fd, EPOLL_CTL_DEL, c->fd, NULL); /* close() does it later, where a fork still holds the socket */
    close(c->fd);
    c->source->free(c->source);
    free(c->rest);
    free(c);
    atomic_fetch_sub(&s->n, 1);
}

/* Sends what it takes. 1: all of it, 0: *ret_sent bytes, the socket is full; -1: the client has left. */
static int send_some(struct client *c, const char *bytes, size_t len, size_t *ret_sent)
{
    size_t sent = 0;

    while (sent < len) {
        ssize_t n = send(c->fd, bytes + sent, len - sent, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK)
            return -1;
        if (n < 0)
            break;
        sent += (size_t)n;
    }
    if (sent > 0 || !c->blocked)
        c->took_ms = stk_mono_ms();
    c->blocked = sent < len;
    *ret_sent = sent;
    return !c->blocked;
}

static int send_rest(struct client *c)
{
    size_t sent;
    int rc;

    if (!c->rest)
        return 1;
    rc = send_some(c, c->rest + c->rest_at, c->rest_len - c->rest_at, &sent);
    if (rc < 0)
        return -1;
    c->rest_at += sent;
    if (rc == 1) {
        free(c->rest);
        c->rest = NULL;
    }
    return rc;
}

/* As send_some(); what is not taken is kept. */
static int send_piece(struct client *c, const char *bytes, size_t len)
{
    size_t sent;
    int rc = send_some(c, bytes, len, &sent);

    if (rc != 0)
        return rc;
    c->rest = malloc(len - sent);
    if (!c->rest)
        return -1;
    memcpy(c->rest, bytes + sent, len - sent);
    c->rest_at = 0;
    c->rest_len = len - sent;
    return 0;
}

/* "<n>\r\n" in front of data; where it begins. */
static char *put_chunk_size(char *data, size_t n)
{
    *--data = '\n';
    *--data = '\r';
    do
        *--data = "0123456789abcdef"[n % 16];
    while (n /= 16);
    return data;
}

/* A piece of the source to the client. 1: it went, 0: not for now, -1: this is over. */
static int next_piece(struct stk_streams *s, struct client *c)
{
    char *data = s->piece + HEAD_ROOM, *chunk;
    ssize_t n = c->source->pull(c->source, data, PIECE);
    int64_t now_ms = stk_mono_ms(), wait_ms;

    if (n == STK_STREAM_IDLE) {
        if (c->leaving)
            return -1;
        wait_ms = (now_ms - c->gave_ms) / 4;
        c->due_ms = now_ms + (wait_ms < ASK_MIN_MS ? ASK_MIN_MS : wait_ms > ASK_MAX_MS ? ASK_MAX_MS : wait_ms);
        return 0;
    }
    if (n < 0 && n != STK_STREAM_END)
        return -1;
    c->gave_ms = now_ms;
    if (n == STK_STREAM_END) {
        c->ended = true;
        return c->chunked ? send_piece(c, "0\r\n\r\n", 5) : 1;
    }
    if (!c->chunked)
        return send_piece(c, data, (size_t)n);
    chunk = put_chunk_size(data, (size_t)n);
    data[n] = '\r';
    data[n + 1] = '\n';
    return send_piece(c, chunk, (size_t)(data - chunk) + (size_t)n + 2);
}

/*
 * The end as the client is to see it: it has been sent all. What it has sent us meanwhile is dropped, else the kernel would reset the
 * connection and the client might not get what is still on its way.
 */
static void say_goodbye(struct client *c)
{
    char dropped[4096];

    shutdown(c->fd, SHUT_WR);
    for (int i = 0; i < 16 && recv(c->fd, dropped, sizeof dropped, MSG_DONTWAIT) > 0; i++)
        ;
}

/* Gives it what there is and what it takes, but not for ever. false: done with it. */
static bool pump(struct stk_streams *s, struct client *c)
{
    int64_t until_ms = stk_mono_ms() + TURN_MS;
    int rc = send_rest(c);

    for (int i = 0; rc == 1 && !c->ended; i++) {
        if (i == PIECES_A_TURN || stk_mono_ms() > until_ms) {
            c->due_ms = 0; /* at once, after the others */
            return true;
        }
        rc = next_piece(s, c);
    }
    if (rc == 1)
        say_goodbye(c);
    return rc == 0;
}

/* ---- the thread */

/*
 * Who has closed his side has most likely left, and a log may be silent for hours before a send() would tell. But he may also
 * have said all and still read.
 */
static bool on_event(struct stk_streams *s, struct client *c, uint32_t events)
{
    if (events & (EPOLLERR | EPOLLHUP))
        return false;
    if (events & EPOLLRDHUP)
        c->leaving = true;
    return !(c->leaving || (c->blocked && (events & EPOLLOUT))) || pump(s, c);
}

static void drop(struct stk_streams *s, struct client *c)
{
    for (struct client **at = &s->clients; *at; at = &(*at)->next) {
        if (*at == c) {
            *at = c->next;
            break;
        }
    }
    client_free(s, c);
}

static void take_arrived(struct stk_streams *s)
{
    struct client *c, *next;
    uint64_t count;

    (void)!read(s->wake_fd, &count, sizeof count);
    pthread_mutex_lock(&s->lock);
    c = s->arrived;
    s->arrived = NULL;
    pthread_mutex_unlock(&s->lock);
    for (; c; c = next) {
        struct epoll_event event = { .events = EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c };

        next = c->next;
        if (epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, c->fd, &event) < 0) {
            stk_error("http", "stream not watched", "error", strerror(errno));
            client_free(s, c);
            continue;
        }
        c->next = s->clients;
        s->clients = c;
    }
}

/* Those whose turn it is, and those who have not read for too long. Returns until when nothing is due; -1: for ever. */
static int64_t look_after(struct stk_streams *s)
{
    int64_t due_ms = -1;
    struct client *next;

    for (struct client *c = s->clients; c; c = next) {
        int64_t now_ms = stk_mono_ms(), at_ms;

        next = c->next;
        if (c->blocked && now_ms - c->took_ms >= s->timeout_ms) {
            stk_info("http", "client of a stream cut: it does not read");
            drop(s, c);
            continue;
        }
        if (!c->blocked && c->due_ms <= now_ms && !pump(s, c)) {
            drop(s, c);
            continue;
        }
        at_ms = c->blocked ? c->took_ms + s->timeout_ms : c->due_ms;
        if (due_ms < 0 || at_ms < due_ms)
            due_ms = at_ms;
    }
    return due_ms;
}

static bool is_stopping(struct stk_streams *s)
{
    bool stopping;

    pthread_mutex_lock(&s->lock);
    stopping = s->stopping;
    pthread_mutex_unlock(&s->lock);
    return stopping;
}

static void *run(void *arg)
{
    struct stk_streams *s = arg;
    struct epoll_event events[64];

    while (!is_stopping(s)) {
        int64_t due_ms = look_after(s), wait_ms = due_ms < 0 ? -1 : due_ms - stk_mono_ms();
        int n = epoll_wait(s->epoll_fd, events, STK_LEN(events),
                           due_ms < 0       ? -1
                           : wait_ms < 0    ? 0
                           : wait_ms > 1000 ? 1000
                                            : (int)wait_ms);

        for (int i = 0; i < n; i++) {
            struct client *c = events[i].data.ptr;

            if (!c)
                take_arrived(s);
            else if (!on_event(s, c, events[i].events))
                drop(s, c);
        }
    }
    take_arrived(s);
    while (s->clients) { /* the last words, if they are taken at once */
        struct client *c = s->clients;

        s->clients = c->next;
        if (!c->blocked)
            pump(s, c);
        client_free(s, c);
    }
    return NULL;
}

/* ---- for the HTTP threads */

int stk_streams_stand_in(const struct stk_streams *s)
{
    return s->stand_in;
}

bool stk_streams_reserve(struct stk_streams *s, bool modest)
{
    if (atomic_fetch_add(&s->n, 1) < s->max - (modest ? s->max / 4 : 0))
        return true;
    atomic_fetch_sub(&s->n, 1);
    return false;
}

void stk_streams_unreserve(struct stk_streams *s)
{
    atomic_fetch_sub(&s->n, 1);
}

int stk_streams_count(struct stk_streams *s)
{
    return atomic_load_explicit(&s->n, memory_order_relaxed);
}

/* A client whose machine is gone, with a log that is silent: only the kernel can find out. */
static void set_options(int fd)
{
    const struct {
        int level, name, value;
    } options[] = {
        { SOL_SOCKET, SO_KEEPALIVE, 1 },
        { IPPROTO_TCP, TCP_KEEPIDLE, 60 },
        { IPPROTO_TCP, TCP_KEEPINTVL, 15 },
        { IPPROTO_TCP, TCP_KEEPCNT, 4 },
        { IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_MAX },
    };

    for (size_t i = 0; i < STK_LEN(options); i++)
        setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof options[i].value);
}

int stk_streams_add_take(struct stk_streams *s, int fd, const char *head, size_t head_len, bool chunked,
                         struct stk_stream *source)
{
    struct client *c = calloc(1, sizeof *c);
    const uint64_t one = 1;
    bool late;

    if (!c || !(c->rest = malloc(head_len))) {
        free(c);
        close(fd);
        source->free(source);
        atomic_fetch_sub(&s->n, 1);
        return -1;
    }
    set_options(fd);
    memcpy(c->rest, head, head_len);
    c->rest_len = head_len;
    c->fd = fd;
    c->source = source;
    c->chunked = chunked;
    c->took_ms = c->gave_ms = stk_mono_ms();
    pthread_mutex_lock(&s->lock);
    late = s->stopping;
    if (!late) {
        c->next = s->arrived;
        s->arrived = c;
    }
    pthread_mutex_unlock(&s->lock);
    if (late)
        client_free(s, c);
    else
        (void)!write(s->wake_fd, &one, sizeof one);
    return late ? -1 : 0;
}

/* ---- life */

static void streams_free(struct stk_streams *s)
{
    if (s->epoll_fd >= 0)
        close(s->epoll_fd);
    if (s->wake_fd >= 0)
        close(s->wake_fd);
    if (s->stand_in >= 0)
        close(s->stand_in);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

struct stk_streams *stk_streams_start(int max, int64_t timeout_ms, struct stk_err *err)
{
    struct stk_streams *s = calloc(1, sizeof *s);
    struct epoll_event event = { .events = EPOLLIN };
    int rc;

    if (!s) {
        stk_fail(err, STK_INTERNAL, "out of memory");
        return NULL;
    }
    s->max = max;
    s->timeout_ms = timeout_ms;
    pthread_mutex_init(&s->lock, NULL);
    s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    s->stand_in = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (s->epoll_fd < 0 || s->wake_fd < 0 || s->stand_in < 0 ||
        epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, s->wake_fd, &event) < 0) {
        stk_fail_sys(err, errno, "make the descriptors of streams");
    } else if ((rc = pthread_create(&s->thread, NULL, run, s)) != 0) {
        stk_fail_sys(err, rc, "start the thread of streams");
    } else {
        return s;
    }
    streams_free(s);
    return NULL;
}

void stk_streams_stop(struct stk_streams *s)
{
    const uint64_t one = 1;

    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    pthread_mutex_unlock(&s->lock);
    (void)!write(s->wake_fd, &one, sizeof one);
    pthread_join(s->thread, NULL);
}

void stk_streams_free(struct stk_streams *s)
{
    if (s)
        streams_free(s);
}
