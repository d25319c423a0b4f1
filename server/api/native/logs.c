/* What a job has printed and what a context logs: as it is now, or followed while it grows. docs/dialects/native.md, Logs. */
#include "api/native/native.h"

#include "stoker/log.h"
#include "stoker/output.h"
#include "stoker/units.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { LINE_PIECE = 4096, TAIL_MAX = 100000000 };

static const char text_type[] = "text/plain; charset=utf-8";

/* ---- what is asked for */

struct ask {
    int attempt; /* 0: the newest */
    size_t n;    /* logs to show; 2: both streams, their lines labelled */
    enum stk_output_stream first;
    bool follow, has_offset, has_tail;
    uint64_t offset[STK_OUTPUT_STREAMS], tail;
};

static int wrong(struct stk_reply *reply, const char *name, const char *text, const char *should)
{
    stk_native_wrong(reply, name, "'%s' must be %s, not '%.40s'", name, should, text);
    return -1;
}

static int read_offset(struct stk_reply *reply, struct ask *ask, const char *text)
{
    const char *comma = strchr(text, ',');
    char first[24];
    int len = comma ? (int)(comma - text) : 0;

    if (ask->n == 1 && stk_parse_u64(text, 0, INT64_MAX, &ask->offset[0], NULL) < 0)
        return wrong(reply, "offset", text, "a number of bytes");
    if (ask->n == 1)
        return 0;
    if (!comma || (size_t)snprintf(first, sizeof first, "%.*s", len, text) >= sizeof first ||
        stk_parse_u64(first, 0, INT64_MAX, &ask->offset[0], NULL) < 0 ||
        stk_parse_u64(comma + 1, 0, INT64_MAX, &ask->offset[1], NULL) < 0)
        return wrong(reply, "offset", text,
                     "two numbers of bytes with stream=all, of stdout and stderr, such as 120,0");
    return 0;
}

static int read_stream(struct stk_reply *reply, struct ask *ask, const char *text)
{
    ask->n = strcmp(text, "all") == 0 ? 2 : 1;
    ask->first = strcmp(text, "stderr") == 0 ? STK_STDERR : STK_STDOUT;
    if (ask->n == 1 && ask->first == STK_STDOUT && strcmp(text, "stdout") != 0)
        return wrong(reply, "stream", text, "stdout, stderr or all");
    return 0;
}

/* known: the parameters that there are; a context has one log and no attempts. 0, or -1 with the reply filled. */
static int read_ask(struct stk_request *r, struct stk_reply *reply, const char *const *known, struct ask *ask)
{
    const char *stream = stk_request_query(r, "stream"), *attempt = stk_request_query(r, "attempt");
    const char *offset = stk_request_query(r, "offset"), *tail = stk_request_query(r, "tail");
    uint64_t n = 0;

    *ask = (struct ask){ .n = 1, .has_offset = offset != NULL, .has_tail = tail != NULL };
    if (stk_native_query_known(r, reply, known) < 0)
        return -1;
    if (offset && tail) {
        stk_native_wrong(reply, "tail", "'offset' and 'tail' exclude each other: both say where to begin");
        return -1;
    }
    if (stream && read_stream(reply, ask, stream) < 0)
        return -1;
    if (attempt && stk_parse_u64(attempt, 1, INT32_MAX, &n, NULL) < 0)
        return wrong(reply, "attempt", attempt, "a whole number from 1");
    ask->attempt = (int)n;
    if (offset && read_offset(reply, ask, offset) < 0)
        return -1;
    if (tail && stk_parse_u64(tail, 0, TAIL_MAX, &ask->tail, NULL) < 0)
        return wrong(reply, "tail", tail, "a whole number of lines from 0 to 100000000");
    return stk_native_query_bool(r, reply, "follow", &ask->follow);
}

/* ---- a log that is shown */

struct part {
    struct stk_output *output;
    const char *label; /* NULL: its lines have none */
    uint64_t at, end;  /* the next byte to send; how many are there */
    bool over;         /* no more than that will come */
};

struct log {
    struct stk_stream stream;
    struct part parts[STK_OUTPUT_STREAMS];
    size_t n;
    bool follow;
};

static void log_free(struct stk_stream *stream)
{
    struct log *log = (struct log *)stream;

    for (size_t i = 0; i < log->n; i++)
        stk_output_free(log->parts[i].output);
    free(log);
}

/* What has come since. A job that is not stored any more has ended. */
static int refresh(struct part *p)
{
    struct stk_output_look look;
    struct stk_err err = { 0 };

    if (p->over)
        return 0;
    if (stk_output_look(p->output, &look, &err) == 0) {
        p->end = look.bytes;
        p->over = look.over;
        return 0;
    }
    p->over = true;
    if (err.code == STK_NOT_FOUND)
        return 0;
    stk_error("native", "a log cannot be followed any further", "error", err.msg);
    return -1;
}

static ssize_t read_part(struct part *p, char *buf, size_t n)
{
    struct stk_err err;
    uint64_t left = p->at < p->end ? p->end - p->at : 0;
    ssize_t got = stk_output_read(p->output, p->at, buf, left < n ? (size_t)left : n, &err);

    if (got < 0)
        stk_error("native", "log not sent whole", "error", err.msg);
    return got;
}

static ssize_t take_bytes(struct part *p, char *buf, size_t n)
{
    ssize_t got = read_part(p, buf, n);

    p->at += got > 0 ? (size_t)got : 0;
    return got;
}

/*
 * Whole lines, each behind its label: "out| " or "err| ". A line that is longer than a piece, or that the log ends without ending,
 * is shown as "out+ ", which says that the line end behind it is ours.
 */
static ssize_t take_lines(struct part *p, char *buf, size_t n)
{
    char piece[LINE_PIECE];
    size_t used = 0;
    ssize_t got;

    while ((got = read_part(p, piece, sizeof piece)) > 0) {
        char *line = piece, *end = piece + got;

        while (line < end) {
            char *eol = memchr(line, '\n', (size_t)(end - line));
            size_t len = (size_t)((eol ? eol : end) - line);
            bool last = p->over && p->at + len == p->end;

            if (!eol && len < sizeof piece && !last)
                break; /* the rest of it is in the next piece, or still to come */
            if (n - used < len + 6)
                return (ssize_t)used;
            used += (size_t)snprintf(buf + used, 6, "%s%c ", p->label, eol ? '|' : '+');
            memcpy(buf + used, line, len);
            used += len;
            buf[used++] = '\n';
            len += eol != NULL;
            line += len;
            p->at += len;
        }
        if (line == piece)
            return (ssize_t)used;
    }
    return got < 0 ? got : (ssize_t)used;
}

static ssize_t log_pull(struct stk_stream *stream, char *buf, size_t n)
{
    struct log *log = (struct log *)stream;
    size_t used = 0, share = n / log->n;
    bool all_over = true;

    for (size_t i = 0; i < log->n; i++) {
        struct part *p = &log->parts[i];
        ssize_t got;

        if (refresh(p) < 0)
            return STK_STREAM_BROKEN;
        got = p->label ? take_lines(p, buf + used, share) : take_bytes(p, buf + used, share);
        if (got < 0)
            return STK_STREAM_BROKEN;
        used += (size_t)got;
        if (p->over && p->at >= p->end)
            continue;
        all_over = false;
        if (!log->follow)
            break; /* one after the other, when nobody waits for the next line */
    }
    return used > 0 ? (ssize_t)used : all_over ? STK_STREAM_END : STK_STREAM_IDLE;
}

/* ---- replies */

static void set_offset(struct stk_reply *reply, const char *name, const struct log *log, bool end)
{
    char text[48];
    uint64_t at[STK_OUTPUT_STREAMS] = { 0 };

    for (size_t i = 0; i < log->n; i++)
        at[i] = end && log->parts[i].end > log->parts[i].at ? log->parts[i].end : log->parts[i].at;
    if (log->n == 1)
        snprintf(text, sizeof text, "%" PRIu64, at[0]);
    else
        snprintf(text, sizeof text, "%" PRIu64 ",%" PRIu64, at[0], at[1]);
    stk_reply_header(reply, name, text);
}

static void set_headers(struct stk_reply *reply, const struct log *log)
{
    set_offset(reply, "Stoker-Log-From", log, false);
    if (!log->follow)
        set_offset(reply, "Stoker-Log-Next", log, true);
    stk_reply_header(reply, "X-Content-Type-Options", "nosniff"); /* it is whatever user code has printed */
    stk_reply_header(reply, "Cache-Control", "no-store");
    if (log->follow)
        stk_reply_header(reply, "X-Accel-Buffering", "no"); /* nginx keeps it back otherwise */
}

/* Where to begin. 410: what is asked for is not kept any more. */
static int begin_part(struct part *p, const struct ask *ask, uint64_t offset, bool *ret_removed, struct stk_err *err)
{
    struct stk_output_look look;

    if (stk_output_look(p->output, &look, err) < 0)
        return -1;
    p->end = look.bytes;
    p->over = look.over || !ask->follow;
    p->at = ask->has_offset ? offset : 0;
    *ret_removed = *ret_removed || look.removed;
    return ask->has_tail ? stk_output_tail(p->output, look.bytes, ask->tail, &p->at, err) : 0;
}

static void reply_whole(struct stk_reply *reply, const struct log *log)
{
    const struct part *p = &log->parts[0];
    uint64_t len = p->end > p->at ? p->end - p->at : 0;
    int fd = len > 0 ? stk_output_fd(p->output) : -1;

    if (len == 0)
        stk_reply_bytes_take(reply, 200, text_type, calloc(1, 1), 0);
    else if (fd >= 0)
        stk_reply_file_take(reply, 200, text_type, fd, p->at, len);
    else
        stk_native_error(reply, 500, "INTERNAL", "no descriptor is left to send the log from");
}

/* Takes the log. */
static void reply_log(struct stk_reply *reply, struct log *log, const struct ask *ask)
{
    struct stk_err err;
    bool removed = false;

    for (size_t i = 0; i < log->n; i++) {
        if (begin_part(&log->parts[i], ask, ask->offset[i], &removed, &err) < 0) {
            stk_native_failed(reply, "read a log", &err);
            log_free(&log->stream);
            return;
        }
    }
    if (removed) {
        stk_native_error(reply, 410, "LOG_REMOVED",
                         "the log is not kept any more (max-stored-logs); the record of the job or context is");
        log_free(&log->stream);
        return;
    }
    if (!ask->follow && log->n == 1) {
        reply_whole(reply, log);
        set_headers(reply, log);
        log_free(&log->stream);
        return;
    }
    stk_reply_stream_take(reply, 200, text_type, &log->stream);
    set_headers(reply, log);
}

static struct log *log_new(const struct ask *ask, struct stk_err *err)
{
    struct log *log = calloc(1, sizeof *log);

    if (!log) {
        stk_fail(err, STK_INTERNAL, "out of memory");
        return NULL;
    }
    log->stream = (struct stk_stream){ .pull = log_pull, .free = log_free };
    log->n = ask->n;
    if (log->n > 1) {
        log->parts[STK_STDOUT].label = "out";
        log->parts[STK_STDERR].label = "err";
    }
    log->follow = ask->follow;
    return log;
}

void stk_native_jobs_logs(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    static const char *const known[] = { "stream", "attempt", "offset", "tail", "follow", NULL };
    const struct native *native = arg;
    const char *id = stk_request_param(r, "id");
    struct log *log;
    struct ask ask;
    struct stk_err err;
    int rc;

    if (read_ask(r, reply, known, &ask) < 0)
        return;
    rc = (log = log_new(&ask, &err)) ? 0 : -1;
    for (size_t i = 0; rc == 0 && i < ask.n; i++)
        rc = stk_output_of_job(native->core, id, ask.attempt, (enum stk_output_stream)((size_t)ask.first + i),
                               &log->parts[i].output, &err);
    if (rc == 0) {
        reply_log(reply, log, &ask);
        return;
    }
    if (log)
        log_free(&log->stream);
    stk_native_failed(reply, "open a job's log", &err);
}

void stk_native_contexts_logs(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    static const char *const known[] = { "offset", "tail", "follow", NULL };
    const struct native *native = arg;
    struct log *log;
    struct ask ask;
    struct stk_err err;

    if (read_ask(r, reply, known, &ask) < 0)
        return;
    if ((log = log_new(&ask, &err)) &&
        stk_output_of_context(native->core, stk_request_param(r, "name"), &log->parts[0].output, &err) == 0) {
        reply_log(reply, log, &ask);
        return;
    }
    if (log)
        log_free(&log->stream);
    stk_native_failed(reply, "open a context's log", &err);
}
