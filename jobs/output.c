#include "stoker/output.h"

#include "live.h"

#include "stoker/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static const char *const stream_names[STK_OUTPUT_STREAMS] = { [STK_STDOUT] = "stdout", [STK_STDERR] = "stderr" };

struct stk_output {
    struct stk_core *core;
    char id[STK_UUID_MAX]; /* of the job or context */
    bool of_context;
    enum stk_output_stream stream;
    int attempt; /* 0: the newest, once there is one */
    bool pinned; /* that one and no other, because it was asked for or has been read */

    int fd;     /* -1: not open */
    bool final; /* it is the file that stays: nobody else's bytes can get into it */

    uint64_t seen; /* commits of the store when it was asked last; 0: never */
    struct stk_output_look look;
    struct stk_job_stage job;
    enum stk_context_state context;
};

static struct stk_output *output_new(struct stk_core *core, struct stk_err *err)
{
    struct stk_output *o = calloc(1, sizeof *o);

    if (!o) {
        stk_fail(err, STK_INTERNAL, "out of memory");
        return NULL;
    }
    o->core = core;
    o->fd = -1;
    return o;
}

int stk_output_of_job(struct stk_core *core, const char *id, int attempt, enum stk_output_stream stream,
                      struct stk_output **ret, struct stk_err *err)
{
    struct stk_output *o;
    struct stk_job_stage job;

    if (strlen(id) >= sizeof o->id)
        return stk_fail(err, STK_NOT_FOUND, "job %.60s not found", id);
    if (stk_store_job_stage(core->store, id, &job, err) < 0)
        return -1;
    if (attempt > job.attempt)
        return stk_fail(err, STK_NOT_FOUND, "job %s has no attempt %d; its newest is %d", id, attempt, job.attempt);
    if (!(o = output_new(core, err)))
        return -1;
    snprintf(o->id, sizeof o->id, "%s", id);
    o->stream = stream;
    o->attempt = attempt;
    o->pinned = attempt > 0;
    *ret = o;
    return 0;
}

int stk_output_of_context(struct stk_core *core, const char *name, struct stk_output **ret, struct stk_err *err)
{
    struct stk_output *o;
    struct stk_context_row row;

    if (stk_store_context_get(core->store, name, &row, err) < 0)
        return -1;
    o = output_new(core, err);
    if (o) {
        memcpy(o->id, row.id, sizeof o->id);
        o->of_context = true;
        *ret = o;
    }
    stk_context_row_done(&row);
    return o ? 0 : -1;
}

static void close_file(struct stk_output *o)
{
    if (o->fd >= 0)
        close(o->fd);
    o->fd = -1;
    o->final = false;
}

void stk_output_free(struct stk_output *o)
{
    if (!o)
        return;
    close_file(o);
    free(o);
}

/* ---- looking */

/* Asks the store, unless nothing was committed since it was asked last. */
static int ask_store(struct stk_output *o, struct stk_err *err)
{
    uint64_t commits, commands;
    int rc;

    stk_store_counts(o->core->store, &commits, &commands);
    if (o->seen == commits + 1)
        return 0;
    rc = o->of_context ? stk_store_context_stage(o->core->store, o->id, &o->context, err)
                       : stk_store_job_stage(o->core->store, o->id, &o->job, err);
    if (rc == 0)
        o->seen = commits + 1; /* read before: what came in between is asked for again */
    return rc;
}

/* NULL when there is none. */
static int open_log(struct stk_output *o, const char *path)
{
    return openat(o->core->o.state_dir_fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
}

static bool open_final(struct stk_output *o)
{
    char path[96];
    int fd;

    if (o->of_context)
        snprintf(path, sizeof path, "logs/context.%s.log", o->id);
    else
        snprintf(path, sizeof path, "logs/%s.%d.%s", o->id, o->attempt, stream_names[o->stream]);
    fd = open_log(o, path);
    if (fd < 0)
        return false;
    close_file(o);
    o->fd = fd;
    o->final = true;
    return true;
}

/*
 * The file that is written to now. A worker renames a job's file first and opens the next one then: as long as there is no file
 * of the job's name after this one was opened, this one is the job's.
 */
static void open_current(struct stk_output *o)
{
    char path[96];

    if (o->of_context)
        snprintf(path, sizeof path, "contexts/%s/context.log", o->id);
    else
        snprintf(path, sizeof path, "logs/%s.%s", o->job.process, stream_names[o->stream]);
    o->fd = open_log(o, path);
    open_final(o);
}

static uint64_t size_of(const struct stk_output *o)
{
    struct stat st;

    return o->fd >= 0 && fstat(o->fd, &st) == 0 && S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
}

static bool is_over(const struct stk_output *o)
{
    if (o->of_context)
        return stk_context_is_final(o->context);
    return stk_job_is_final(o->job.state) || (o->attempt && o->attempt < o->job.attempt);
}

/* An attempt that was never begun, or was taken back, has printed nothing. */
static bool is_running(const struct stk_output *o)
{
    return o->of_context || (o->job.state != STK_JOB_QUEUED && o->attempt == o->job.attempt);
}

static void follow_newest(struct stk_output *o)
{
    if (o->of_context || o->pinned || o->attempt == o->job.attempt)
        return;
    close_file(o); /* the attempt before was taken back by its worker: it has printed nothing */
    o->attempt = o->job.attempt;
}

static void look_at_end(struct stk_output *o)
{
    struct stk_output_look *look = &o->look;
    uint64_t recorded = o->attempt == o->job.attempt ? (uint64_t)o->job.output_bytes[o->stream] : 0;

    if (!o->final && !open_final(o))
        close_file(o); /* another job's by now, or empty */
    look->over = true;
    look->removed = o->fd < 0 && (o->of_context || recorded > 0);
    if (size_of(o) > look->bytes)
        look->bytes = size_of(o);
}

int stk_output_look(struct stk_output *o, struct stk_output_look *ret, struct stk_err *err)
{
    uint64_t bytes = size_of(o); /* before the store is asked: see output.h */

    if (o->look.over) {
        *ret = o->look;
        return 0;
    }
    if (ask_store(o, err) < 0)
        return -1;
    follow_newest(o);
    if (is_over(o)) {
        look_at_end(o);
    } else if (is_running(o) && o->fd < 0) {
        open_current(o); /* its bytes are for the next look, which asks the store after it has seen them */
        if (o->fd >= 0)
            return stk_output_look(o, ret, err);
    } else if (is_running(o) && bytes > o->look.bytes) {
        o->look.bytes = bytes;
        o->pinned = true;
    }
    *ret = o->look;
    return 0;
}

/* ---- reading */

ssize_t stk_output_read(struct stk_output *o, uint64_t from, char *buf, size_t n, struct stk_err *err)
{
    size_t want = from >= o->look.bytes ? 0 : o->look.bytes - from < n ? (size_t)(o->look.bytes - from) : n;
    ssize_t got;

    if (want == 0)
        return 0;
    do
        got = pread(o->fd, buf, want, (off_t)from);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return stk_fail_sys(err, errno, "cannot read a log");
    if (got == 0)
        return stk_fail(err, STK_INTERNAL, "a log was cut short while it was read");
    return got;
}

int stk_output_tail(struct stk_output *o, uint64_t bytes, uint64_t lines, uint64_t *ret, struct stk_err *err)
{
    enum { BLOCK = 65536 };
    stk_auto_free char *block = malloc(BLOCK);
    uint64_t at = bytes, ends = 0; /* line ends seen, without that of the last line */

    if (!block)
        return stk_fail(err, STK_INTERNAL, "out of memory");
    while (at > 0 && lines > 0) {
        size_t n = at < BLOCK ? (size_t)at : BLOCK, got = 0;

        while (got < n) {
            ssize_t more = stk_output_read(o, at - n + got, block + got, n - got, err);

            if (more <= 0)
                return -1;
            got += (size_t)more;
        }
        for (char *end; (end = memrchr(block, '\n', n)); n = (size_t)(end - block)) {
            uint64_t after = at - got + (uint64_t)(end - block) + 1;

            if (after < bytes && ++ends == lines) {
                *ret = after;
                return 0;
            }
        }
        at -= got;
    }
    *ret = lines > 0 ? 0 : bytes;
    return 0;
}

int stk_output_fd(const struct stk_output *o)
{
    return o->look.bytes > 0 ? fcntl(o->fd, F_DUPFD_CLOEXEC, 3) : -1;
}
