/*
 * Loaded into stokerd by LD_PRELOAD (shim.py): counts what others can see of it, ends it by SIGKILL at a chosen one of
 * these steps, and makes calls on files of the state directory fail.
 *
 *     STOKER_SHIM_STATE   the state directory: only what lies in it, and sockets, counts
 *     STOKER_SHIM_STEPS   a file: a line "<n> <call> <path>" for each step, written before it is taken
 *     STOKER_SHIM_KILL    n: SIGKILL instead of step n
 *     STOKER_SHIM_FAIL    a file, read at every step while it is there: lines "<errno> <call or *> <part of the path> [<bytes>]";
 *                         with bytes, only writes that make a row of writes to one file longer than that
 *     STOKER_SHIM_CLOCK   a file of one int64: seconds that its monotonic clock is ahead, read each time it is asked
 *     STOKER_SHIM_HOLD    what dup3() would close stays open under another number, as in a child between fork and exec
 *
 * Writes that follow each other to one file are one step: SQLite writes a transaction page by page, and what a half
 * written one means is tested with a damaged WAL. The processes that stokerd starts are not loaded with it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static char state_dir[PATH_MAX], fail_path[PATH_MAX];
static size_t state_len;
static int steps_fd = -1;
static long kill_at, step;
static int last_fd = -1;
static size_t row_bytes; /* of the writes that follow each other */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const int64_t *ahead_s; /* shared with the test; NULL: the clock is what it is */

static void share_clock(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    void *page = fd >= 0 ? mmap(NULL, sizeof *ahead_s, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;

    if (fd >= 0)
        close(fd);
    if (page != MAP_FAILED)
        ahead_s = page;
}

__attribute__((constructor)) static void set_up(void)
{
    const char *state = getenv("STOKER_SHIM_STATE"), *steps = getenv("STOKER_SHIM_STEPS");
    const char *n = getenv("STOKER_SHIM_KILL"), *fail = getenv("STOKER_SHIM_FAIL");
    const char *clock = getenv("STOKER_SHIM_CLOCK");

    snprintf(state_dir, sizeof state_dir, "%s", state ? state : "");
    snprintf(fail_path, sizeof fail_path, "%s", fail ? fail : "");
    state_len = strlen(state_dir);
    kill_at = n ? atol(n) : 0;
    if (steps)
        steps_fd = open(steps, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (clock)
        share_clock(clock);
    unsetenv("LD_PRELOAD");
}

/* The errno that the file of faults has for this call; 0: none. */
static int wanted_error(const char *call, const char *path)
{
    char text[1024], *line, *next;
    int fd = fail_path[0] ? (int)syscall(SYS_openat, AT_FDCWD, fail_path, O_RDONLY | O_CLOEXEC) : -1;
    ssize_t n;

    if (fd < 0)
        return 0;
    n = read(fd, text, sizeof text - 1);
    close(fd);
    text[n > 0 ? n : 0] = '\0';
    for (line = text; *line; line = next) {
        char name[32], part[256];
        unsigned long bytes = 0;
        int code;

        next = line + strcspn(line, "\n");
        if (*next)
            *next++ = '\0';
        if (sscanf(line, "%d %31s %255s %lu", &code, name, part, &bytes) >= 3 &&
            (name[0] == '*' || strcmp(name, call) == 0) && strstr(path, part) && row_bytes >= bytes)
            return code;
    }
    return 0;
}

/* 0: go on; else the errno to fail with. */
static int take_step(const char *call, int fd, const char *path, size_t bytes)
{
    char line[PATH_MAX + 64];
    int error;

    if (strncmp(path, "socket:", 7) != 0) {
        if (!state_len || strncmp(path, state_dir, state_len) != 0)
            return 0;
        path += state_len;
    }
    pthread_mutex_lock(&lock);
    if (strcmp(call, "write") != 0 || fd != last_fd || path[0] == 's') {
        int n;

        step++;
        row_bytes = 0;
        n = snprintf(line, sizeof line, "%ld %s %s\n", step, call, path);
        if (steps_fd >= 0)
            syscall(SYS_write, steps_fd, line, (size_t)n);
        if (step == kill_at) {
            syscall(SYS_kill, getpid(), SIGKILL);
            for (;;)
                pause();
        }
    }
    last_fd = strcmp(call, "write") == 0 ? fd : -1;
    row_bytes += bytes;
    error = wanted_error(call, path);
    if (error)
        last_fd = -1;
    pthread_mutex_unlock(&lock);
    return error;
}

static int step_fd(const char *call, int fd, size_t bytes)
{
    char link[48], path[PATH_MAX];
    ssize_t n;

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    n = readlink(link, path, sizeof path - 1);
    if (n <= 0)
        return 0;
    path[n] = '\0';
    return take_step(call, fd, path, bytes);
}

static int step_at(const char *call, int dir, const char *name)
{
    char link[48], path[PATH_MAX];
    ssize_t n;

    if (name[0] == '/')
        return take_step(call, -1, name, 0);
    snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
    n = readlink(link, path, sizeof path - 1);
    if (n <= 0 || (size_t)n + strlen(name) + 2 > sizeof path)
        return 0;
    path[n] = '/';
    memcpy(path + n + 1, name, strlen(name) + 1);
    return take_step(call, -1, path, 0);
}

/* The real function; then the step, which may say that this call fails. */
#define REAL(type, name, ...)         \
    static type (*real)(__VA_ARGS__); \
    if (!real)                        \
    real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)
#define STEP(taken)       \
    do {                  \
        int e_ = (taken); \
        if (e_) {         \
            errno = e_;   \
            return -1;    \
        }                 \
    } while (0)

ssize_t write(int fd, const void *buf, size_t n)
{
    REAL(ssize_t, "write", int, const void *, size_t);
    STEP(step_fd("write", fd, n));
    return real(fd, buf, n);
}

ssize_t writev(int fd, const struct iovec *iov, int n)
{
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    STEP(step_fd("write", fd, 0));
    return real(fd, iov, n);
}

ssize_t pwrite(int fd, const void *buf, size_t n, off_t at)
{
    REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
    STEP(step_fd("write", fd, n));
    return real(fd, buf, n, at);
}

ssize_t pwrite64(int fd, const void *buf, size_t n, off64_t at)
{
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    STEP(step_fd("write", fd, n));
    return real(fd, buf, n, at);
}

ssize_t pread64(int fd, void *buf, size_t n, off64_t at)
{
    REAL(ssize_t, "pread64", int, void *, size_t, off64_t);
    char link[48], path[PATH_MAX];
    ssize_t len;

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    len = fail_path[0] ? readlink(link, path, sizeof path - 1) : 0;
    if (len > 0) { /* no step, but it may fail */
        path[len] = '\0';
        STEP(wanted_error("read", path));
    }
    return real(fd, buf, n, at);
}

ssize_t send(int fd, const void *buf, size_t n, int flags)
{
    REAL(ssize_t, "send", int, const void *, size_t, int);
    STEP(step_fd("write", fd, n));
    return real(fd, buf, n, flags);
}

ssize_t sendmsg(int fd, const struct msghdr *msg, int flags)
{
    REAL(ssize_t, "sendmsg", int, const struct msghdr *, int);
    STEP(step_fd("write", fd, 0));
    return real(fd, msg, flags);
}

int fsync(int fd)
{
    REAL(int, "fsync", int);
    STEP(step_fd("sync", fd, 0));
    return real(fd);
}

int fdatasync(int fd)
{
    REAL(int, "fdatasync", int);
    STEP(step_fd("sync", fd, 0));
    return real(fd);
}

int ftruncate64(int fd, off64_t n)
{
    REAL(int, "ftruncate64", int, off64_t);
    STEP(step_fd("truncate", fd, 0));
    return real(fd, n);
}

int ftruncate(int fd, off_t n)
{
    REAL(int, "ftruncate", int, off_t);
    STEP(step_fd("truncate", fd, 0));
    return real(fd, n);
}

int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
    REAL(int, "renameat", int, const char *, int, const char *);
    STEP(step_at("rename", to_dir, to));
    return real(from_dir, from, to_dir, to);
}

int unlinkat(int dir, const char *name, int flags)
{
    REAL(int, "unlinkat", int, const char *, int);
    STEP(step_at("unlink", dir, name));
    return real(dir, name, flags);
}

int unlink(const char *name)
{
    REAL(int, "unlink", const char *);
    STEP(step_at("unlink", AT_FDCWD, name));
    return real(name);
}

/* Of these only the opening of a pidfd, which may fail. */
long syscall(long number, ...)
{
    REAL(long, "syscall", long, ...);
    long a[6];
    va_list args;

    va_start(args, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(args, long);
    va_end(args);
    if (number == SYS_pidfd_open)
        STEP(wanted_error("pidfd", "pidfd"));
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

int dup3(int from, int to, int flags)
{
    if (getenv("STOKER_SHIM_HOLD"))
        fcntl(to, F_DUPFD_CLOEXEC, 500);
    return (int)syscall(SYS_dup3, from, to, flags);
}

int mkdirat(int dir, const char *name, mode_t mode)
{
    REAL(int, "mkdirat", int, const char *, mode_t);
    STEP(step_at("mkdir", dir, name));
    return real(dir, name, mode);
}

/* libuv's timers and what the server measures itself; what sleeps until then is not woken by a jump. */
int clock_gettime(clockid_t clock, struct timespec *ret)
{
    REAL(int, "clock_gettime", clockid_t, struct timespec *);
    int rc = real(clock, ret);

    if (rc == 0 && ahead_s && (clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_COARSE))
        ret->tv_sec += __atomic_load_n(ahead_s, __ATOMIC_RELAXED);
    return rc;
}
