/* The result of a job, whole or in part (RFC 9110, sections 13 and 14). docs/dialects/native.md, Results. */
#include "api/native/native.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* What is sent: of `bytes` bytes those from `from` on, `len` of them. */
struct part {
    uint64_t bytes, from, len;
};

/* Digits; moves *p behind them. false: there are none, or the number is beyond all files. */
static bool read_number(const char **p, uint64_t *ret)
{
    uint64_t n = 0;
    const char *start = *p;

    for (; **p >= '0' && **p <= '9'; (*p)++) {
        if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, (uint64_t)(**p - '0'), &n))
            n = UINT64_MAX; /* still a number: beyond the end of any file */
    }
    *ret = n;
    return *p > start;
}

/*
 * One range, "bytes=0-99", "bytes=100-" or "bytes=-20". 1: a part of it, 0: all of it, since a server may pass over what it does not
 * understand and several ranges at once are such; -1: there are no such bytes.
 */
static int parse_range(const char *text, struct part *part)
{
    uint64_t first = 0, last = UINT64_MAX;
    bool has_first, has_last;

    if (strncasecmp(text, "bytes", 5) != 0)
        return 0;
    text += 5 + strspn(text + 5, " \t");
    if (*text++ != '=')
        return 0;
    text += strspn(text, " \t");
    has_first = read_number(&text, &first);
    if (*text++ != '-')
        return 0;
    has_last = read_number(&text, &last);
    if (text[strspn(text, " \t")] || (!has_first && !has_last) || (has_first && has_last && last < first))
        return 0;
    if (!has_first) { /* the last so many */
        first = last < part->bytes ? part->bytes - last : 0;
        last = has_last && last == 0 ? 0 : UINT64_MAX;
        if (last == 0)
            return -1;
    } else if (!has_last) {
        last = UINT64_MAX;
    }
    if (first >= part->bytes)
        return -1;
    part->from = first;
    part->len = (last < part->bytes - 1 ? last : part->bytes - 1) - first + 1;
    return 1;
}

/* Whether a list of tags has this one; "*" is any. weak: W/"x" counts as "x". */
static bool has_tag(const char *list, const char *tag, bool weak)
{
    size_t len = strlen(tag);

    for (const char *p = list, *end; *(p += strspn(p, " \t,")); p = end + 1) {
        bool is_weak = strncmp(p, "W/", 2) == 0;

        if (*p == '*')
            return true;
        p += is_weak ? 2 : 0;
        end = *p == '"' ? strchr(p + 1, '"') : NULL;
        if (!end)
            return false;
        if ((weak || !is_weak) && (size_t)(end + 1 - p) == len && memcmp(p, tag, len) == 0)
            return true;
    }
    return false;
}

static void set_headers(struct stk_reply *reply, const struct stk_job_row *row, const char *tag)
{
    const struct stk_result_form *form = stk_result_form(row);
    char name[128];

    snprintf(name, sizeof name, "%s; filename=\"%s.%s\"", form == stk_result_form_at(0) ? "inline" : "attachment",
             row->id, form->ending);
    stk_reply_header(reply, "Content-Disposition", name);
    stk_reply_header(reply, "X-Content-Type-Options", "nosniff"); /* it is whatever user code has made */
    stk_reply_header(reply, "Accept-Ranges", "bytes");
    stk_reply_header(reply, "ETag", tag);
    stk_reply_header(reply, "Cache-Control", "private, no-cache"); /* it may be removed: ask, and get a 304 */
}

static void set_range(struct stk_reply *reply, const struct part *part)
{
    char text[80];

    if (part->len > 0)
        snprintf(text, sizeof text, "bytes %" PRIu64 "-%" PRIu64 "/%" PRIu64, part->from, part->from + part->len - 1,
                 part->bytes);
    else
        snprintf(text, sizeof text, "bytes */%" PRIu64, part->bytes);
    stk_reply_header(reply, "Content-Range", text);
}

/* The bytes of the part, from the database or from the file. */
static int send_part(const struct native *native, struct stk_reply *reply, int status, const struct stk_job_row *row,
                     const struct part *part, struct stk_err *err)
{
    const char *media = stk_result_form(row)->media_type;
    uint64_t bytes;
    char *copy;
    int fd;

    if (row->result) {
        copy = malloc((size_t)part->len + 1);
        if (copy)
            memcpy(copy, stk_text_data(row->result) + part->from, (size_t)part->len);
        stk_reply_bytes_take(reply, status, media, copy, (size_t)part->len);
        return 0;
    }
    fd = stk_job_open_result(native->core, row, &bytes, err);
    if (fd < 0)
        return -1;
    stk_reply_file_take(reply, status, media, fd, part->from, part->len);
    return 0;
}

static void removed(struct stk_reply *reply)
{
    stk_native_error(reply, 410, "RESULT_REMOVED",
                     "the result is not kept any more (max-stored-results); the record of the job is");
}

static void reply_result(const struct native *native, struct stk_request *r, struct stk_reply *reply,
                         const struct stk_job_row *row)
{
    const char *range = stk_request_header(r, "Range"), *if_range = stk_request_header(r, "If-Range");
    const char *none_match = stk_request_header(r, "If-None-Match"), *match = stk_request_header(r, "If-Match");
    struct part part = { .bytes = (uint64_t)row->result_bytes, .len = (uint64_t)row->result_bytes };
    struct stk_err err;
    char tag[STK_UUID_MAX + 16];
    int wants = 0;

    /* The end of a job is its last word: what an attempt has brought never changes. */
    snprintf(tag, sizeof tag, "\"%s.%d\"", row->id, row->attempt);
    if (match && !has_tag(match, tag, false)) {
        stk_native_error(reply, 412, "PRECONDITION_FAILED", "the result is not the one that If-Match names");
        return;
    }
    if (none_match && has_tag(none_match, tag, true)) {
        stk_reply_status(reply, 304);
        set_headers(reply, row, tag);
        return;
    }
    if (stk_request_is_head(r))
        range = NULL;                                       /* which is for GET only */
    if (range && (!if_range || strcmp(if_range, tag) == 0)) /* a date never fits: there is none of it */
        wants = parse_range(range, &part);
    if (wants < 0) {
        part.len = 0;
        stk_native_error(reply, 416, "RANGE_NOT_SATISFIABLE",
                         "the result has no such bytes; Content-Range says how long it is");
        set_range(reply, &part);
        return;
    }
    if (send_part(native, reply, wants ? 206 : 200, row, &part, &err) < 0) {
        if (err.code == STK_NOT_FOUND)
            removed(reply);
        else
            stk_native_failed(reply, "open a result", &err);
        return;
    }
    set_headers(reply, row, tag);
    if (wants)
        set_range(reply, &part);
}

void stk_native_jobs_result(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const struct native *native = arg;
    const char *state;
    struct stk_job_row row;
    char message[120];
    int rc = stk_native_job_wait(native, r, reply, &row);

    if (rc < 0)
        return;
    state = stk_job_state_name(row.state);
    if (!stk_job_is_final(row.state)) {
        snprintf(message, sizeof message, "the job is %s: it has no result yet", state);
        stk_native_error(reply, 409, "CONFLICT", message);
    } else if (row.state != STK_JOB_FINISHED) {
        snprintf(message, sizeof message, "the job ended as %s: it has no result, but an error", state);
        stk_native_error(reply, 404, "NOT_FOUND", message);
    } else if (!row.result && !row.result_file) {
        removed(reply);
    } else {
        reply_result(native, r, reply, &row);
    }
    stk_job_row_done(&row);
}
