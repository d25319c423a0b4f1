#include "http/edge.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

void stk_reply_init(struct stk_reply *reply)
{
    reply->status = 200;
    reply->content_type[0] = '\0';
    reply->n_headers = 0;
    reply->body = NULL;
    reply->body_len = 0;
    reply->fd = -1;
    reply->file_from = reply->file_len = 0;
    reply->closes_object = false;
    reply->stream = NULL;
    reply->chunked = false;
    reply->failed = false;
}

static void drop_body(struct stk_reply *reply)
{
    free(reply->body);
    reply->body = NULL;
    reply->body_len = 0;
    if (reply->fd >= 0)
        close(reply->fd);
    reply->fd = -1;
    reply->file_len = 0;
    reply->closes_object = false;
    if (reply->stream)
        reply->stream->free(reply->stream);
    reply->stream = NULL;
}

void stk_reply_done(struct stk_reply *reply)
{
    drop_body(reply);
    for (size_t i = 0; i < reply->n_headers; i++)
        free(reply->headers[i].name); /* the value lies behind it */
    reply->n_headers = 0;
}

void stk_reply_status(struct stk_reply *reply, int status)
{
    reply->status = status;
}

int stk_reply_get_status(const struct stk_reply *reply)
{
    return reply->status;
}

/* Header text of ours is one line of visible characters; anything else would let a client write headers. */
static bool is_one_line(const char *text)
{
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        if (*p < 0x20 || *p == 0x7f)
            return false;
    }
    return true;
}

void stk_reply_header(struct stk_reply *reply, const char *name, const char *value)
{
    size_t name_size = strlen(name) + 1, value_size = strlen(value) + 1, i = 0;
    char *text;

    if (!*name || !is_one_line(name) || !is_one_line(value))
        return;
    while (i < reply->n_headers && strcasecmp(reply->headers[i].name, name) != 0)
        i++;
    if (i == STK_REPLY_HEADERS || !(text = malloc(name_size + value_size))) {
        reply->failed = true;
        return;
    }
    memcpy(text, name, name_size);
    memcpy(text + name_size, value, value_size);
    if (i < reply->n_headers)
        free(reply->headers[i].name);
    else
        reply->n_headers++;
    reply->headers[i].name = text;
    reply->headers[i].value = text + name_size;
}

static void set_content_type(struct stk_reply *reply, const char *type)
{
    snprintf(reply->content_type, sizeof reply->content_type, "%s",
             is_one_line(type) ? type : "application/octet-stream");
}

void stk_reply_bytes_take(struct stk_reply *reply, int status, const char *content_type, char *bytes, size_t len)
{
    drop_body(reply);
    reply->status = status;
    reply->body = bytes;
    reply->body_len = len;
    set_content_type(reply, content_type);
    if (!bytes)
        reply->failed = true;
}

void stk_reply_text(struct stk_reply *reply, int status, const char *text)
{
    stk_reply_bytes_take(reply, status, "text/plain; charset=UTF-8", strdup(text), strlen(text));
}

void stk_reply_json_take(struct stk_reply *reply, int status, json_t *body)
{
    size_t len = 0;
    char *text = stk_json_text(body, &len);

    json_decref(body);
    stk_reply_bytes_take(reply, status, "application/json", text, len);
}

/* '{..object.., "key":' into the reply's body, without the closing brace. */
static void splice_head(struct stk_reply *reply, int status, json_t *object, const char *key, struct stk_buf *out)
{
    json_auto_t *mine = object, *name = json_string(key);
    stk_auto_free char *head = stk_json_text(mine, NULL), *name_text = stk_json_text(name, NULL);

    reply->status = status;
    if (!head || !name_text) {
        out->failed = true;
        return;
    }
    stk_buf_add(out, head, strlen(head) - 1);
    if (json_object_size(mine) > 0)
        stk_buf_add(out, ",", 1);
    stk_buf_add_str(out, name_text);
    stk_buf_add(out, ":", 1);
}

static void take_buf(struct stk_reply *reply, int status, struct stk_buf *out)
{
    size_t len = out->len;

    stk_reply_bytes_take(reply, status, "application/json", stk_buf_steal(out), len);
}

void stk_reply_json_splice_take(struct stk_reply *reply, int status, json_t *object, const char *key, const char *value,
                                size_t value_len)
{
    stk_auto_buf out = { 0 };

    splice_head(reply, status, object, key, &out);
    stk_buf_add(&out, value, value_len);
    stk_buf_add(&out, "}", 1);
    take_buf(reply, status, &out);
}

void stk_reply_json_splice_file_take(struct stk_reply *reply, int status, json_t *object, const char *key, int fd,
                                     uint64_t len)
{
    stk_auto_buf out = { 0 };

    splice_head(reply, status, object, key, &out);
    take_buf(reply, status, &out);
    reply->fd = fd;
    reply->file_from = 0;
    reply->file_len = len;
    reply->closes_object = true;
}

void stk_reply_file_take(struct stk_reply *reply, int status, const char *content_type, int fd, uint64_t from,
                         uint64_t len)
{
    drop_body(reply);
    reply->status = status;
    set_content_type(reply, content_type);
    reply->fd = fd;
    reply->file_from = from;
    reply->file_len = len;
}

void stk_reply_stream_take(struct stk_reply *reply, int status, const char *content_type, struct stk_stream *stream)
{
    drop_body(reply);
    reply->status = status;
    set_content_type(reply, content_type);
    reply->stream = stream;
}

uint64_t stk_reply_length(const struct stk_reply *reply)
{
    return reply->body_len + reply->file_len + reply->closes_object;
}

static const struct {
    int status;
    const char *reason;
} statuses[] = {
    { 200, "OK" },
    { 201, "Created" },
    { 202, "Accepted" },
    { 204, "No Content" },
    { 206, "Partial Content" },
    { 304, "Not Modified" },
    { 400, "Bad Request" },
    { 401, "Unauthorized" },
    { 403, "Forbidden" },
    { 404, "Not Found" },
    { 405, "Method Not Allowed" },
    { 406, "Not Acceptable" },
    { 408, "Request Timeout" },
    { 409, "Conflict" },
    { 410, "Gone" },
    { 411, "Length Required" },
    { 412, "Precondition Failed" },
    { 413, "Content Too Large" },
    { 414, "URI Too Long" },
    { 415, "Unsupported Media Type" },
    { 416, "Range Not Satisfiable" },
    { 417, "Expectation Failed" },
    { 422, "Unprocessable Content" },
    { 429, "Too Many Requests" },
    { 431, "Request Header Fields Too Large" },
    { 500, "Internal Server Error" },
    { 501, "Not Implemented" },
    { 502, "Bad Gateway" },
    { 503, "Service Unavailable" },
    { 504, "Gateway Timeout" },
    { 505, "HTTP Version Not Supported" },
    { 507, "Insufficient Storage" },
};
static_assert(STK_LEN(statuses) == STK_STATUSES, "edge.h says how many there are");

size_t stk_status_index(int status)
{
    size_t i = 0;

    while (i < STK_LEN(statuses) && statuses[i].status != status)
        i++;
    return i;
}

int stk_status_at(size_t i)
{
    return statuses[i].status;
}

static const char *reason(int status)
{
    size_t i = stk_status_index(status);

    return i < STK_LEN(statuses) ? statuses[i].reason : "Status";
}

static void add_header(struct stk_buf *out, const char *name, const char *value)
{
    stk_buf_add_str(out, "\r\n");
    stk_buf_add_str(out, name);
    stk_buf_add(out, ": ", 2);
    stk_buf_add_str(out, value);
}

static const char *decimal(char buf[24], uint64_t n)
{
    char *p = buf + 23;

    *p = '\0';
    do
        *--p = (char)('0' + n % 10);
    while (n /= 10);
    return p;
}

void stk_reply_head(const struct stk_reply *reply, struct stk_buf *out, const char *date, const char *connection)
{
    char number[24];

    stk_buf_add_str(out, "HTTP/1.1 ");
    stk_buf_add_str(out, decimal(number, (uint64_t)reply->status));
    stk_buf_add(out, " ", 1);
    stk_buf_add_str(out, reason(reply->status));
    add_header(out, "Date", date);
    if (reply->content_type[0])
        add_header(out, "Content-Type", reply->content_type);
    if (reply->stream && reply->chunked)
        add_header(out, "Transfer-Encoding", "chunked");
    else if (!reply->stream && reply->status != 204 && reply->status != 304)
        add_header(out, "Content-Length", decimal(number, stk_reply_length(reply)));
    if (connection)
        add_header(out, "Connection", connection);
    for (size_t i = 0; i < reply->n_headers; i++)
        add_header(out, reply->headers[i].name, reply->headers[i].value);
    stk_buf_add_str(out, "\r\n\r\n");
}
