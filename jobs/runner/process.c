/* Starting and watching processes. A pid is trusted only together with its start time and the boot it belongs to. */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

static int read_file(const char *path, char *buf, size_t size)
{
    stk_auto_fd fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n;

    if (fd < 0 || (n = read(fd, buf, size - 1)) < 0)
        return -1;
    buf[n] = '\0';
    return 0;
}

static const char *boot_id(void)
{
    static _Thread_local char id[STK_UUID_MAX]; /* the same for the life of this process; per thread to need no lock */
    char text[64];

    if (!id[0] && read_file("/proc/sys/kernel/random/boot_id", text, sizeof text) == 0) {
        text[strcspn(text, "\n")] = '\0';
        snprintf(id, sizeof id, "%.36s", text);
    }
    return id;
}

/* A process that has ended and is not reaped (a zombie) is still told from all others: if_ended says whether it will do. */
static int identify(pid_t pid, bool if_ended, struct stk_process_id *ret, struct stk_err *err)
{
    char path[48], stat[1024];
    const char *p;
    char state;
    unsigned long long start;

    snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
    if (read_file(path, stat, sizeof stat) < 0 || !(p = strrchr(stat, ')')))
        return stk_fail(err, STK_NOT_FOUND, "there is no process %ld", (long)pid);
    /* after the command's name: state is field 3, the start time field 22 */
    if (sscanf(p + 1, " %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu", &state,
               &start) != 2)
        return stk_fail(err, STK_INTERNAL, "cannot read %s", path);
    if (!if_ended && (state == 'Z' || state == 'X'))
        return stk_fail(err, STK_NOT_FOUND, "process %ld has ended", (long)pid);
    ret->pid = pid;
    ret->start_time = start;
    snprintf(ret->boot_id, sizeof ret->boot_id, "%s", boot_id());
    return 0;
}

int stk_process_identify(pid_t pid, struct stk_process_id *ret, struct stk_err *err)
{
    return identify(pid, false, ret, err);
}

/* ---- watching */

struct stk_watch {
    uv_poll_t poll;
    int fd;
    void (*fn)(void *arg);
    void *arg;
};

static void on_ended(uv_poll_t *poll, int status, int events)
{
    struct stk_watch *w = poll->data;

    (void)status;
    (void)events;
    uv_poll_stop(poll);
    w->fn(w->arg);
}

struct stk_watch *stk_watch_new(struct stk_loop *loop, const struct stk_process_id *id, void (*fn)(void *arg),
                                void *arg, struct stk_err *err)
{
    struct stk_process_id now;
    stk_auto_fd fd = -1;
    struct stk_watch *w;
    int rc;

    if (id->pid <= 0 || strcmp(id->boot_id, boot_id()) != 0) {
        stk_fail(err, STK_NOT_FOUND, "process %ld belongs to another boot", (long)id->pid);
        return NULL;
    }
    fd = (int)syscall(SYS_pidfd_open, id->pid, 0);
    if (fd < 0) {
        stk_fail(err, errno == ESRCH ? STK_NOT_FOUND : STK_INTERNAL, "process %ld: %s", (long)id->pid, strerror(errno));
        return NULL;
    }
    /* read after the open: the pid cannot be reused while the descriptor names it, unless it was reused before */
    if (stk_process_identify(id->pid, &now, err) < 0)
        return NULL;
    if (now.start_time != id->start_time) {
        stk_fail(err, STK_NOT_FOUND, "pid %ld belongs to another process now", (long)id->pid);
        return NULL;
    }
    w = calloc(1, sizeof *w);
    if (!w) {
        stk_fail(err, STK_INTERNAL, "out of memory");
        return NULL;
    }
    w->fn = fn;
    w->arg = arg;
    w->poll.data = w;
    w->fd = fd;
    if ((rc = uv_poll_init(stk_loop_uv(loop), &w->poll, fd)) < 0) {
        stk_fail(err, STK_INTERNAL, "watch process %ld: %s", (long)id->pid, uv_strerror(rc));
        free(w);
        return NULL;
    }
    stk_steal_fd(&fd);
    uv_poll_start(&w->poll, UV_READABLE, on_ended);
    return w;
}

int stk_watch_kill(struct stk_watch *w, int sig)
{
    return (int)syscall(SYS_pidfd_send_signal, w->fd, sig, NULL, 0);
}

static void free_watch(uv_handle_t *handle)
{
    struct stk_watch *w = handle->data;

    close(w->fd);
    free(w);
}

void stk_watch_free(struct stk_watch *w)
{
    if (w && !uv_is_closing((uv_handle_t *)&w->poll))
        uv_close((uv_handle_t *)&w->poll, free_watch);
}

/* ---- starting */

struct child {
    uv_process_t uv;
    void (*exited)(void *arg, int64_t status, int sig);
    void *arg;
};

static void free_child(uv_handle_t *handle)
{
    free(handle->data);
}

/* Most are watched by their pidfd, as those are that another server has started: this only reaps. */
static void on_exit_status(uv_process_t *process, int64_t status, int sig)
{
    struct child *c = process->data;

    if (c->exited)
        c->exited(c->arg, status, sig);
    uv_close((uv_handle_t *)process, free_child);
}

int stk_runner_spawn(struct stk_runner *r, const struct stk_spawn *spawn, struct stk_process_id *ret,
                     struct stk_err *err)
{
    struct child *c = calloc(1, sizeof *c);
    uv_stdio_container_t stdio[] = {
        { .flags = UV_IGNORE },
        { .flags = UV_INHERIT_FD, .data.fd = spawn->log_fd },
        { .flags = UV_INHERIT_FD, .data.fd = spawn->log_fd },
    };
    uv_process_options_t options = {
        .file = spawn->file,
        .args = (char **)(uintptr_t)spawn->argv, /* libuv does not write to them */
        .env = (char **)(uintptr_t)spawn->envp,
        .cwd = spawn->cwd,
        .flags = UV_PROCESS_DETACHED,
        .stdio = stdio,
        .stdio_count = (int)STK_LEN(stdio),
        .exit_cb = on_exit_status,
    };
    int rc;

    if (!c)
        return stk_fail(err, STK_INTERNAL, "out of memory");
    c->uv.data = c;
    c->exited = spawn->exited;
    c->arg = spawn->arg;
    if ((rc = uv_spawn(stk_loop_uv(r->loop), &c->uv, &options)) < 0) {
        uv_close((uv_handle_t *)&c->uv, free_child);
        return stk_fail(err, STK_RUNNER, "%s: %s", spawn->file, uv_strerror(rc));
    }
    uv_unref((uv_handle_t *)&c->uv);
    /* only the loop reaps: one that has ended already is still there */
    if (identify(c->uv.pid, true, ret, err) < 0) {
        c->exited = NULL; /* the caller knows by our answer */
        return -1;
    }
    return 0;
}
