/* A reply from a file as a stream: a slow reader of a long one then holds no HTTP thread. */
#include "http/edge.h"

#include "stoker/log.h"

#include <errno.h>
#include <string.h>

struct file_stream {
    struct stk_stream stream;
    char *before; /* what the reply has before the file */
    size_t before_at, before_len;
    int fd;
    uint64_t at, end; /* of the file */
    bool closes_object;
};

static ssize_t file_pull(struct stk_stream *stream, char *buf, size_t n)
{
    struct file_stream *f = (struct file_stream *)stream;
    uint64_t left = f->end - f->at;
    ssize_t got;

    if (f->before_at < f->before_len) {
        size_t len = f->before_len - f->before_at < n ? f->before_len - f->before_at : n;

        memcpy(buf, f->before + f->before_at, len);
        f->before_at += len;
        return (ssize_t)len;
    }
    if (left == 0) {
        if (!f->closes_object)
            return STK_STREAM_END;
        f->closes_object = false;
        buf[0] = '}';
        return 1;
    }
    do
        got = pread(f->fd, buf, left < n ? (size_t)left : n, (off_t)f->at);
    while (got < 0 && errno == EINTR);
    if (got <= 0) {
        stk_error("http", "file of a reply ended early", "reason", got < 0 ? strerror(errno) : "it is too short");
        return STK_STREAM_BROKEN;
    }
    f->at += (uint64_t)got;
    return got;
}

static void file_free(struct stk_stream *stream)
{
    struct file_stream *f = (struct file_stream *)stream;

    free(f->before);
    close(f->fd);
    free(f);
}

bool stk_reply_is_long(const struct stk_reply *reply)
{
    return reply->fd >= 0 && reply->file_len > STK_LONG_FILE;
}

struct stk_stream *stk_reply_steal_file(struct stk_reply *reply)
{
    struct file_stream *f = calloc(1, sizeof *f);

    if (!f)
        return NULL;
    *f = (struct file_stream){
        .stream = { .pull = file_pull, .free = file_free },
        .before = stk_steal_ptr(&reply->body),
        .before_len = reply->body_len,
        .fd = stk_steal_fd(&reply->fd),
        .at = reply->file_from,
        .end = reply->file_from + reply->file_len,
        .closes_object = reply->closes_object,
    };
    return &f->stream;
}
