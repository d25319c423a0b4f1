/*
 * Ends what a client drags out. mg_read() and mg_write() return when every byte has moved, and count their timeout from the last
 * one that did: a client that sends, or takes, a byte now and then would hold its thread for as long as it likes. So a thread
 * notes until when its call may take, and a thread of ours shuts the sockets down whose time is over: the call returns at once.
 *
 * CivetWeb shows us no sockets. They are found among our descriptors by the addresses of both their ends, which takes a while; it
 * happens only when somebody is cut, or a stream begins.
 */
#include "http/edge.h"

#include "stoker/clock.h"
#include "stoker/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>

/* Values of until_ms that are no time. Only the watchdog sets them, and only over a time; only the watched thread ends them. */
enum { IDLE = 0, CUTTING = -1, CUT = -2 };

struct stk_watchdog {
    pthread_t thread;
    pthread_mutex_t lock; /* guards first and each next, stopping */
    pthread_cond_t wake;
    struct stk_watch *first;
    bool stopping;
    int64_t tick_ms;
};

/* ---- sockets */

static bool port_of(const struct sockaddr_storage *name, uint16_t *ret)
{
    if (name->ss_family == AF_INET)
        *ret = ntohs(((const struct sockaddr_in *)name)->sin_port);
    else if (name->ss_family == AF_INET6)
        *ret = ntohs(((const struct sockaddr_in6 *)name)->sin6_port);
    else
        return false;
    return true;
}

static bool local_port(int fd, uint16_t *ret)
{
    struct sockaddr_storage name = { 0 };
    socklen_t len = sizeof name;

    return getsockname(fd, (struct sockaddr *)&name, &len) == 0 && port_of(&name, ret);
}

/* Calls f for each of our descriptors. -1: they can't be listed. */
static int each_descriptor(void (*f)(int fd, void *arg), void *arg)
{
    DIR *dir = opendir("/proc/self/fd");
    struct dirent *entry;
    uint64_t fd;

    if (!dir)
        return -1;
    while ((entry = readdir(dir))) {
        if (stk_parse_u64(entry->d_name, 3, INT32_MAX, &fd, NULL) == 0)
            f((int)fd, arg);
    }
    closedir(dir);
    return 0;
}

/* One end of a connection, as CivetWeb writes addresses. */
struct end {
    uint16_t port;
    char address[sizeof((struct mg_request_info *)NULL)->remote_addr];
};

/* What tells one connection from all others that are open. */
struct ends {
    struct end here, there;
};

static bool read_end(const struct sockaddr_storage *name, socklen_t len, struct end *ret)
{
    return port_of(name, &ret->port) && getnameinfo((const struct sockaddr *)name, len, ret->address,
                                                    sizeof ret->address, NULL, 0, NI_NUMERICHOST) == 0;
}

static bool find_ends(int fd, struct ends *ret)
{
    struct sockaddr_storage here = { 0 }, there = { 0 };
    socklen_t here_len = sizeof here, there_len = sizeof there;

    return getsockname(fd, (struct sockaddr *)&here, &here_len) == 0 &&
           getpeername(fd, (struct sockaddr *)&there, &there_len) == 0 && read_end(&here, here_len, &ret->here) &&
           read_end(&there, there_len, &ret->there);
}

/*
 * Whether this is the address that the request came to. CivetWeb tells it only as a part of a link to what was asked for,
 * "http://127.0.0.1:8090/jobs", whose path may be as long as a request's head, each byte escaped.
 */
static bool came_to(const struct mg_connection *conn, const char *address)
{
    size_t room = 3 * (size_t)STK_HEAD_MAX + 128, len;
    stk_auto_free char *link = malloc(room);
    const char *host;

    if (!link || mg_get_request_link(conn, link, room) < 0 || !(host = strstr(link, "://")))
        return false;
    host += 3;
    len = strlen(address);
    if (*host == '[') /* IPv6 */
        host++;
    return strncmp(host, address, len) == 0 && strchr(":/]", host[len]);
}

static bool has_ends(const struct mg_connection *conn, const struct ends *ends)
{
    const struct mg_request_info *info = mg_get_request_info(conn);

    return info->server_port == ends->here.port && info->remote_port == ends->there.port &&
           strcmp(info->remote_addr, ends->there.address) == 0 && came_to(conn, ends->here.address);
}

struct wanted {
    const struct mg_connection *conn;
    int fd; /* -1: not found yet */
};

static void note_if_wanted(int fd, void *arg)
{
    struct wanted *wanted = arg;
    struct ends ends;

    if (find_ends(fd, &ends) && has_ends(wanted->conn, &ends))
        wanted->fd = fd; /* it stays what it is: its thread is the one that looks for it */
}

int stk_socket_take(const struct mg_connection *conn, int stand_in)
{
    struct wanted wanted = { conn, -1 };
    stk_auto_fd fd = -1;

    each_descriptor(note_if_wanted, &wanted);
    if (wanted.fd < 0)
        return -1;
    fd = fcntl(wanted.fd, F_DUPFD_CLOEXEC, 3);
    if (fd < 0 || dup3(stand_in, wanted.fd, O_CLOEXEC) < 0)
        return -1;
    return stk_steal_fd(&fd);
}

struct ports {
    const uint16_t *port;
    size_t n;
};

static void shut_one_of_ports(int fd, void *arg)
{
    const struct ports *ports = arg;
    uint16_t port;

    if (!local_port(fd, &port))
        return;
    for (size_t i = 0; i < ports->n; i++) {
        if (ports->port[i] == port)
            shutdown(fd, SHUT_RDWR);
    }
}

void stk_sockets_shut(const uint16_t *ports, size_t n)
{
    struct ports all = { ports, n };

    each_descriptor(shut_one_of_ports, &all);
}

/* ---- cutting */

static void shut_if_due(int fd, void *arg)
{
    struct ends ends;

    if (!find_ends(fd, &ends))
        return; /* none of ours, or a listener, or gone: then its thread returns by itself */
    for (struct stk_watch *w = arg; w; w = w->next_due) {
        if (!has_ends(w->conn, &ends))
            continue;
        shutdown(fd, w->sending ? SHUT_RDWR : SHUT_RD); /* who was slow to send can still be told so */
        stk_info("http", "slow client cut", "client", ends.there.address, "while",
                 w->sending ? "sending" : "receiving");
    }
}

/* Those whose time is over. Their threads wait until they are done with: nothing of them changes until then. */
static struct stk_watch *take_due(struct stk_watchdog *d)
{
    int64_t now_ms = stk_mono_ms();
    struct stk_watch *due = NULL;

    for (struct stk_watch *w = d->first; w; w = w->next) {
        long long until_ms = atomic_load_explicit(&w->until_ms, memory_order_relaxed);

        if (until_ms > 0 && until_ms < now_ms && atomic_compare_exchange_strong(&w->until_ms, &until_ms, CUTTING)) {
            w->next_due = due;
            due = w;
        }
    }
    return due;
}

static void cut(struct stk_watch *due)
{
    long long then = CUT;

    if (due && each_descriptor(shut_if_due, due) < 0) {
        stk_error("http", "slow clients cannot be cut", "error", strerror(errno));
        then = stk_mono_ms() + 1000; /* no descriptor was left to look for them; try again */
    }
    while (due) {
        struct stk_watch *w = due;

        due = w->next_due; /* before w's thread goes on */
        atomic_store(&w->until_ms, then);
    }
}

static void *watch(void *arg)
{
    struct stk_watchdog *d = arg;

    pthread_mutex_lock(&d->lock);
    while (!d->stopping) {
        struct timespec until = stk_mono_deadline(d->tick_ms);
        struct stk_watch *due;

        pthread_cond_timedwait(&d->wake, &d->lock, &until);
        due = take_due(d);
        pthread_mutex_unlock(&d->lock);
        cut(due);
        pthread_mutex_lock(&d->lock);
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

/* ---- for the HTTP threads */

void stk_watch_add(struct stk_watchdog *d, struct stk_watch *w)
{
    pthread_mutex_lock(&d->lock);
    w->next = d->first;
    d->first = w;
    pthread_mutex_unlock(&d->lock);
}

void stk_watch_remove(struct stk_watchdog *d, struct stk_watch *w)
{
    pthread_mutex_lock(&d->lock);
    for (struct stk_watch **at = &d->first; *at; at = &(*at)->next) {
        if (*at == w) {
            *at = w->next;
            break;
        }
    }
    pthread_mutex_unlock(&d->lock);
}

void stk_watch_begin(struct stk_watch *w, const struct mg_connection *conn, bool sending, int64_t until_ms)
{
    w->conn = conn;
    w->sending = sending;
    atomic_store_explicit(&w->until_ms, until_ms, memory_order_release);
}

bool stk_watch_end(struct stk_watch *w)
{
    const struct timespec pause = { .tv_nsec = 1000000 };

    for (;;) {
        long long state = atomic_load(&w->until_ms);

        if (state == CUTTING) /* the socket must stay what it is until it was shut down */
            nanosleep(&pause, NULL);
        else if (atomic_compare_exchange_strong(&w->until_ms, &state, IDLE))
            return state == CUT;
    }
}

int64_t stk_slow_until_ms(int64_t began_ms, int64_t now_ms, uint64_t moved, size_t n, int64_t timeout_ms)
{
    int64_t due_ms = began_ms + (int64_t)(moved / STK_MIN_BYTES_PER_MS);

    return (due_ms < now_ms ? due_ms : now_ms) + timeout_ms + (int64_t)(n / STK_MIN_BYTES_PER_MS);
}

/* ---- life */

struct stk_watchdog *stk_watchdog_start(int64_t timeout_ms, struct stk_err *err)
{
    struct stk_watchdog *d = calloc(1, sizeof *d);
    pthread_condattr_t attr;
    int rc;

    if (!d) {
        stk_fail(err, STK_INTERNAL, "out of memory");
        return NULL;
    }
    d->tick_ms = timeout_ms / 8 < 10 ? 10 : timeout_ms / 8 > 1000 ? 1000 : timeout_ms / 8;
    pthread_mutex_init(&d->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&d->wake, &attr);
    pthread_condattr_destroy(&attr);
    if ((rc = pthread_create(&d->thread, NULL, watch, d)) != 0) {
        stk_fail_sys(err, rc, "start the thread that watches slow clients");
        pthread_cond_destroy(&d->wake);
        pthread_mutex_destroy(&d->lock);
        free(d);
        return NULL;
    }
    return d;
}

void stk_watchdog_stop(struct stk_watchdog *d)
{
    if (!d)
        return;
    pthread_mutex_lock(&d->lock);
    d->stopping = true;
    pthread_cond_signal(&d->wake);
    pthread_mutex_unlock(&d->lock);
    pthread_join(d->thread, NULL);
    pthread_cond_destroy(&d->wake);
    pthread_mutex_destroy(&d->lock);
    free(d);
}
