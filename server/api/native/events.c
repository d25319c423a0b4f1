/*
 * What happens, as it happens: GET /v1/events, server-sent events. docs/dialects/native.md, Events.
 *
 * A follower is a place in the numbered list of events. As long as the newest number is not beyond its place, a look costs nothing.
 * What is new is read and worded once for all of them (`recent`); who is far behind reads by himself.
 *
 * How far jobs are is told among the events, without a number: it is not recorded, and who comes back hears the newest state.
 */
#include "api/native/native.h"

#include "stoker/clock.h"
#include "stoker/event.h"
#include "stoker/log.h"
#include "stoker/progress.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
    RECENT = 1024,      /* events that are kept worded */
    PAGE = 256,         /* events in a read; a pull makes one at most for a follower who is behind */
    SILENCE_MS = 15000, /* then the client is told that we are there: proxies cut what is silent for half a minute */
    RETRY_MS = 1000,    /* a client that was cut comes back after this time */
    NAMES_MAX = 16,
    CODE_MAX = 64, /* bytes of an error's code and message that an event has */
    MESSAGE_MAX = 1000,
    EVENT_MAX = 12288, /* an event is shorter: names have 255 bytes, and JSON makes six of one at most */
};

/* ---- what an event is called, and what it says */

/* The move into a state that is never left has a name of its own, since it is what most are waiting for. */
static const char *type_of(const struct stk_event_row *e)
{
    if (strcmp(e->kind, "job.moved") == 0 && e->state >= 0 && stk_job_is_final((enum stk_job_state)e->state))
        return "job.ended";
    if (strcmp(e->kind, "context.moved") == 0 && e->state >= 0 &&
        stk_context_is_final((enum stk_context_state)e->state))
        return "context.ended";
    return e->kind;
}

static json_t *state_name(const struct stk_event_row *e, int state)
{
    if (state < 0)
        return json_null();
    return json_string(e->job_id[0] ? stk_job_state_name((enum stk_job_state)state)
                                    : stk_context_state_name((enum stk_context_state)state));
}

static json_t *cut_string(const json_t *string, size_t max)
{
    const char *text = json_string_value(string);

    return text ? json_stringn(text, stk_utf8_cut(text, max)) : json_null();
}

/* What is wrong, in short; the whole of it is in the job or context. */
static json_t *error_of(const struct stk_event_row *e)
{
    json_auto_t *error = stk_native_json(e->data);

    if (!json_is_object(error))
        return json_null();
    return json_pack("{s:o, s:o}", "code", cut_string(json_object_get(error, "code"), CODE_MAX), "message",
                     cut_string(json_object_get(error, "message"), MESSAGE_MAX));
}

static void add_binary(json_t *object, const struct stk_event_row *e)
{
    static const char *const fields[] = { "name", "version", "digest" };
    json_auto_t *binary = stk_native_json(e->data);

    for (size_t i = 0; i < STK_LEN(fields); i++) {
        json_t *value = json_object_get(binary, fields[i]);

        json_object_set(object, fields[i], value ? value : json_null());
    }
}

static json_t *object_of(const struct stk_event_row *e)
{
    json_t *object =
        json_pack("{s:I, s:s, s:o}", "id", (json_int_t)e->seq, "type", type_of(e), "time", stk_native_time(e->at_us));

    if (e->job_id[0])
        json_object_set_new(object, "job", json_string(e->job_id));
    if (!e->job_id[0] && !e->context_id[0]) {
        add_binary(object, e);
        return object;
    }
    json_object_set_new(object, "context",
                        stk_text_len(e->context_name) ? stk_native_text(e->context_name) : json_null());
    json_object_set_new(object, "context_id", json_string(e->context_id));
    json_object_set_new(object, "from", state_name(e, e->from_state));
    json_object_set_new(object, "state", state_name(e, e->state));
    if (e->job_id[0])
        json_object_set_new(object, "attempt", json_integer(e->attempt));
    json_object_set_new(object, "error", error_of(e));
    return object;
}

/* NULL when out of memory. */
static char *word(const struct stk_event_row *e, size_t *ret_len)
{
    json_auto_t *object = object_of(e);
    stk_auto_free char *json = stk_json_text(object, NULL);
    stk_auto_buf text = { 0 };

    if (!json)
        return NULL;
    stk_buf_printf(&text, "id: %" PRId64 "\nevent: %s\ndata: %s\n\n", e->seq, type_of(e), json);
    *ret_len = text.len;
    return text.len <= EVENT_MAX ? stk_buf_steal(&text) : NULL;
}

/* ---- which ones */

struct names {
    size_t n; /* 0: all are fine */
    char *at[NAMES_MAX];
};

struct filter {
    struct names jobs, contexts, types;
};

static bool is_one_of(const struct names *names, const char *name)
{
    for (size_t i = 0; i < names->n; i++) {
        if (strcmp(names->at[i], name) == 0)
            return true;
    }
    return names->n == 0;
}

/* "job" stands for "job.moved" too. */
static bool is_of_type(const struct names *types, const char *type)
{
    size_t len = strcspn(type, ".");

    for (size_t i = 0; i < types->n; i++) {
        const char *name = types->at[i];

        if (strcmp(name, type) == 0 || (strncmp(name, type, len) == 0 && !name[len]))
            return true;
    }
    return types->n == 0;
}

static bool is_wanted(const struct filter *f, const struct stk_event_row *e)
{
    return is_one_of(&f->jobs, e->job_id) &&
           is_one_of(&f->contexts, e->context_name ? stk_text_data(e->context_name) : "") &&
           is_of_type(&f->types, type_of(e));
}

static void names_done(struct names *names)
{
    for (size_t i = 0; i < names->n; i++)
        free(names->at[i]);
}

static void filter_done(struct filter *f)
{
    names_done(&f->jobs);
    names_done(&f->contexts);
    names_done(&f->types);
}

/* ---- the newest events, worded: of the thread that sends streams, like everything that is done in a pull */

struct worded {
    struct stk_event_row row; /* row.seq 0: none */
    char *text;
    size_t len;
};

static struct {
    struct worded ring[RECENT]; /* by number */
    int64_t last;               /* those behind it have not been read yet */
} recent;

static void worded_done(struct worded *w)
{
    stk_event_row_done(&w->row);
    free(w->text);
    *w = (struct worded){ 0 };
}

/* NULL: it is older, or there is none of that number. */
static const struct worded *recent_find(int64_t seq)
{
    const struct worded *w = &recent.ring[seq % RECENT];

    return w->row.seq == seq ? w : NULL;
}

/* Takes the row, which is left empty. */
static int recent_add(struct stk_event_row *row, struct stk_err *err)
{
    struct worded *w = &recent.ring[row->seq % RECENT];

    worded_done(w);
    w->row = *row;
    *row = (struct stk_event_row){ 0 };
    w->text = word(&w->row, &w->len);
    stk_text_unref(w->row.data); /* an error may have hundreds of KiB; it is in the text as far as it is told */
    w->row.data = NULL;
    if (w->text)
        return 0;
    worded_done(w);
    return stk_fail(err, STK_INTERNAL, "out of memory");
}

/* All up to the newest one are there, but for those that the ring has no room for. */
static int recent_update(struct stk_core *core, int64_t newest, struct stk_err *err)
{
    if (recent.last < newest - RECENT)
        recent.last = newest - RECENT;
    while (recent.last < newest) {
        struct stk_event_row *rows;
        size_t n;
        int rc = 0;

        if (stk_event_list(core, recent.last, PAGE, &rows, &n, err) < 0)
            return -1;
        for (size_t i = 0; i < n && rc == 0; i++) {
            recent.last = rows[i].seq;
            rc = recent_add(&rows[i], err);
        }
        stk_event_rows_free(rows, n);
        if (rc < 0 || n == 0)
            return rc;
    }
    return 0;
}

/* ---- a follower */

struct follower {
    struct stk_stream stream;
    struct stk_core *core;
    struct filter filter;
    int64_t at;        /* the events up to this number are dealt with */
    int64_t unknown;   /* the number it has come with and that was never given; 0: none */
    uint64_t progress; /* the version of the progress that it was told last */
    bool greeted;
    int64_t spoke_ms; /* when it was sent anything */
};

static void follower_free(struct stk_stream *stream)
{
    struct follower *f = (struct follower *)stream;

    filter_done(&f->filter);
    free(f);
}

/* What a pull fills. */
struct out {
    char *buf;
    size_t room, len;
};

/* false: no room for it any more. */
static bool out_add(struct out *out, const char *text, size_t len)
{
    if (out->room - out->len < len)
        return false;
    memcpy(out->buf + out->len, text, len);
    out->len += len;
    return true;
}

static bool out_printf(struct out *out, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static bool out_printf(struct out *out, const char *fmt, ...)
{
    char text[256];
    va_list args;
    int len;

    va_start(args, fmt);
    len = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return out_add(out, text, (size_t)len);
}

/* Events are missing: those behind `after` and before `next`. Its number is the place behind which it goes on. */
static bool tell_gap(struct follower *f, struct out *out, int64_t after, int64_t next, const char *reason)
{
    if (!out_printf(out,
                    "id: %" PRId64 "\nevent: gap\ndata: {\"id\":%" PRId64 ",\"type\":\"gap\",\"after\":%" PRId64
                    ",\"next\":%" PRId64 ",\"reason\":\"%s\"}\n\n",
                    next - 1, next - 1, after, next, reason))
        return false;
    f->at = next - 1;
    return true;
}

/* An event without data is none: a client that goes by the rules keeps its number, and comes back with it. */
static bool tell_place(const struct follower *f, struct out *out)
{
    return out_printf(out, ":\nid: %" PRId64 "\n\n", f->at);
}

static bool greet(struct follower *f, struct out *out)
{
    f->greeted = true;
    out_printf(out, "retry: %d\n\n", RETRY_MS);
    return f->unknown ? tell_gap(f, out, f->unknown, f->at + 1, "unknown") : tell_place(f, out);
}

/* The next event. text: as it is worded; NULL: not yet. 1: on to the one behind it, 0: no room is left, -1. */
static int offer(struct follower *f, const struct stk_event_row *row, const char *text, size_t len, struct out *out,
                 struct stk_err *err)
{
    stk_auto_free char *own = NULL;

    if (row->seq != f->at + 1 && !tell_gap(f, out, f->at, row->seq, "removed"))
        return 0;
    if (is_wanted(&f->filter, row)) {
        if (!text && !(own = word(row, &len)))
            return stk_fail(err, STK_INTERNAL, "out of memory");
        if (!out_add(out, text ? text : own, len))
            return 0;
    }
    f->at = row->seq;
    return 1;
}

/* A page from the store. As offer(). */
static int offer_page(struct follower *f, struct out *out, struct stk_err *err)
{
    struct stk_event_row *rows;
    size_t n;
    int rc = 1;

    if (stk_event_list(f->core, f->at, PAGE, &rows, &n, err) < 0)
        return -1;
    for (size_t i = 0; i < n && rc == 1; i++)
        rc = offer(f, &rows[i], NULL, 0, out, err);
    stk_event_rows_free(rows, n);
    return n == 0 ? 0 : rc;
}

/* What there is, as far as there is room and time for it. */
static int offer_all(struct follower *f, struct out *out, struct stk_err *err)
{
    int64_t newest = stk_event_newest(f->core);
    int rc = 1;

    if (f->at >= newest)
        return 0;
    if (newest - f->at < RECENT && recent_update(f->core, newest, err) < 0)
        return -1;
    for (bool paged = false; rc == 1 && f->at < newest && !paged;) {
        const struct worded *w = recent_find(f->at + 1);

        paged = !w;
        rc = w ? offer(f, &w->row, w->text, w->len, out, err) : offer_page(f, out, err);
    }
    if (rc == 1 && f->at < newest && out->len == 0)
        tell_place(f, out); /* much of what others want: silence would mean that it may be asked later */
    return rc < 0 ? -1 : 0;
}

static bool wants_progress(const struct filter *f, const struct stk_progress_news *news)
{
    return is_one_of(&f->jobs, news->job_id) &&
           is_one_of(&f->contexts, news->context_name ? stk_text_data(news->context_name) : "") &&
           is_of_type(&f->types, STK_NATIVE_PROGRESS);
}

/*
 * To be called when the events have been offered that there were: a job's progress is told behind its start, and never behind
 * its end. As offer().
 */
static int offer_progress(struct follower *f, struct out *out, struct stk_err *err)
{
    struct stk_progress_news news;
    int rc = 1;

    if (f->progress == stk_progress_newest(f->core))
        return 0;
    while (rc == 1 && stk_progress_next(f->core, f->progress, &news)) {
        if (news.after_event > f->at) {
            rc = 0;
        } else if (wants_progress(&f->filter, &news)) {
            size_t len;
            stk_auto_free char *text = stk_native_progress_event(&news, &len);

            rc = !text ? stk_fail(err, STK_INTERNAL, "out of memory") : out_add(out, text, len);
        }
        if (rc == 1)
            f->progress = news.version;
        stk_progress_news_done(&news);
    }
    return rc;
}

static ssize_t follower_pull(struct stk_stream *stream, char *buf, size_t n)
{
    struct follower *f = (struct follower *)stream;
    struct out out = { .buf = buf, .room = n };
    int64_t now_ms = stk_mono_ms();
    struct stk_err err;

    if (!f->greeted)
        greet(f, &out);
    if (offer_all(f, &out, &err) < 0 || offer_progress(f, &out, &err) < 0) {
        stk_error("native", "events cannot be followed any further", "error", err.msg);
        return STK_STREAM_BROKEN;
    }
    if (out.len == 0 && now_ms - f->spoke_ms >= SILENCE_MS)
        tell_place(f, &out);
    if (out.len > 0)
        f->spoke_ms = now_ms;
    return out.len > 0 ? (ssize_t)out.len : STK_STREAM_IDLE;
}

/* ---- what is asked for */

static const char *const types[] = { "job",
                                     "job.submitted",
                                     "job.moved",
                                     "job.ended",
                                     STK_NATIVE_PROGRESS,
                                     "context",
                                     "context.created",
                                     "context.moved",
                                     "context.ended",
                                     "binary",
                                     "binary.added",
                                     "binary.deleted",
                                     "binary.expired",
                                     NULL };

static bool is_type(const char *value)
{
    const char *const *t = types;

    while (*t && strcmp(*t, value) != 0)
        t++;
    return *t;
}

static int out_of_memory(struct stk_reply *reply)
{
    stk_native_error(reply, 500, "INTERNAL", "out of memory");
    return -1;
}

/* 0, or -1 with the reply filled, as those behind it. */
static int read_names(struct stk_request *r, struct stk_reply *reply, const char *name, struct names *ret)
{
    const char *values[NAMES_MAX];
    int n = stk_native_query_all(r, reply, name, values, NAMES_MAX);

    for (int i = 0; i < n; i++) {
        if (!*values[i]) {
            stk_native_wrong(reply, name, "'%s' must not be empty", name);
            return -1;
        }
        if (!(ret->at[ret->n] = strdup(values[i])))
            return out_of_memory(reply);
        ret->n++;
    }
    return n < 0 ? -1 : 0;
}

static int read_filter(struct stk_request *r, struct stk_reply *reply, struct filter *filter)
{
    static const char *const known[] = { "job*", "context*", "type*", "since", NULL };

    if (stk_native_query_known(r, reply, known) < 0 || read_names(r, reply, "job", &filter->jobs) < 0 ||
        read_names(r, reply, "context", &filter->contexts) < 0 || read_names(r, reply, "type", &filter->types) < 0)
        return -1;
    for (size_t i = 0; i < filter->types.n; i++) {
        if (!is_type(filter->types.at[i])) {
            stk_native_wrong(reply, "type", "'type' must be a type of events, such as job or job.ended, not '%.40s'",
                             filter->types.at[i]);
            return -1;
        }
    }
    return 0;
}

/* Behind what was there at a time. */
static int find_time(struct stk_core *core, struct stk_reply *reply, int64_t wall_us, int64_t *ret)
{
    struct stk_err err;

    if (stk_event_before(core, wall_us, ret, &err) == 0)
        return 0;
    stk_native_failed(reply, "find the events of a time", &err);
    return -1;
}

/* Behind what was there at a time, or behind a number. */
static int read_since(struct stk_core *core, struct stk_reply *reply, const char *text, int64_t *ret)
{
    int64_t wall_us;

    if (stk_parse_i64(text, 0, INT64_MAX - 1, ret, NULL) == 0)
        return 0;
    if (stk_time_parse(text, &wall_us) == 0)
        return find_time(core, reply, wall_us, ret);
    stk_native_wrong(reply, "since",
                     "'since' must be the number of an event or a time such as 2026-01-31T12:00:00Z, not '%.40s'",
                     text);
    return -1;
}

/* The beginning of the oldest job that is followed. 404: one of them is not known. */
static int begin_of_jobs(struct stk_core *core, struct stk_reply *reply, const struct names *jobs, int64_t *ret)
{
    int64_t first_us = INT64_MAX;

    for (size_t i = 0; i < jobs->n; i++) {
        struct stk_job_row row;
        struct stk_err err;

        if (stk_job_get(core, jobs->at[i], &row, &err) < 0) {
            stk_native_failed(reply, "follow a job", &err);
            return -1;
        }
        if (row.submitted_us < first_us)
            first_us = row.submitted_us;
        stk_job_row_done(&row);
    }
    return find_time(core, reply, first_us, ret);
}

static int read_place(struct stk_request *r, struct stk_reply *reply, struct follower *f)
{
    static const char header[] = "Last-Event-ID";
    const char *last = stk_request_header(r, header), *since = stk_request_query(r, "since");
    int64_t newest;

    f->at = stk_event_newest(f->core);
    if (last && *last) { /* it comes back: what it follows may have been removed meanwhile */
        if (stk_parse_i64(last, 0, INT64_MAX - 1, &f->at, NULL) < 0) {
            stk_native_wrong(reply, header, "'%s' must be the number of an event, not '%.40s'", header, last);
            return -1;
        }
    } else if ((f->filter.jobs.n && begin_of_jobs(f->core, reply, &f->filter.jobs, &f->at) < 0) ||
               (since && read_since(f->core, reply, since, &f->at) < 0)) {
        return -1;
    }
    newest = stk_event_newest(f->core);
    if (f->at > newest) {
        f->unknown = f->at;
        f->at = newest;
    }
    return 0;
}

void stk_native_events(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const struct native *native = arg;
    struct follower *f = calloc(1, sizeof *f);

    if (!f) {
        out_of_memory(reply);
        return;
    }
    f->stream = (struct stk_stream){ .pull = follower_pull, .free = follower_free };
    f->core = native->core;
    if (read_filter(r, reply, &f->filter) < 0 || read_place(r, reply, f) < 0) {
        follower_free(&f->stream);
        return;
    }
    stk_reply_stream_take(reply, 200, "text/event-stream", &f->stream);
    stk_reply_header(reply, "Cache-Control", "no-store");
    stk_reply_header(reply, "X-Accel-Buffering", "no"); /* nginx keeps it back otherwise */
}
