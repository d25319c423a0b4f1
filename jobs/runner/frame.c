#include "stoker/frame.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct stk_frame_decoder {
    size_t max_len;
    uint8_t *data;
    size_t start; /* first byte that no frame has taken yet */
    size_t end;   /* one past the last byte fed */
    size_t cap;
    bool broken;
};

struct stk_frame_decoder *stk_frame_decoder_new(size_t max_len)
{
    struct stk_frame_decoder *d = calloc(1, sizeof *d);

    if (d)
        d->max_len = max_len;
    return d;
}

void stk_frame_decoder_free(struct stk_frame_decoder *d)
{
    if (!d)
        return;
    free(d->data);
    free(d);
}

int stk_frame_decoder_feed(struct stk_frame_decoder *d, const void *bytes, size_t n, struct stk_err *err)
{
    size_t held = d->end - d->start, need;

    if (d->start > 0 && (held == 0 || d->start >= d->cap / 2)) {
        memmove(d->data, d->data + d->start, held);
        d->start = 0;
        d->end = held;
    }
    if (__builtin_add_overflow(d->end, n, &need))
        return stk_fail(err, STK_INTERNAL, "out of memory");
    if (need > d->cap) {
        size_t cap = d->cap ? d->cap : 4096;
        uint8_t *data;

        while (cap < need)
            cap = cap > SIZE_MAX / 2 ? need : cap * 2;
        data = realloc(d->data, cap);
        if (!data)
            return stk_fail(err, STK_INTERNAL, "out of memory");
        d->data = data;
        d->cap = cap;
    }
    if (n)
        memcpy(d->data + d->end, bytes, n);
    d->end += n;
    return 0;
}

int stk_frame_decoder_next(struct stk_frame_decoder *d, struct stk_frame *ret, struct stk_err *err)
{
    const uint8_t *p = d->data + d->start;
    uint32_t len;

    if (d->broken)
        return stk_fail(err, STK_RUNNER, "the stream of frames is broken");
    if (d->end - d->start < STK_FRAME_HEADER)
        return 0;
    len = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
    if (len == 0 || len > d->max_len) {
        d->broken = true;
        return stk_fail(err, STK_RUNNER, "a frame of %lu bytes was announced; 1 to %zu are accepted",
                        (unsigned long)len, d->max_len);
    }
    if (d->end - d->start - STK_FRAME_HEADER < len)
        return 0;
    ret->payload = p + STK_FRAME_HEADER;
    ret->len = len;
    d->start += STK_FRAME_HEADER + len;
    return 1;
}

void stk_frame_header(uint8_t header[STK_FRAME_HEADER], uint32_t len)
{
    header[0] = (uint8_t)(len >> 24);
    header[1] = (uint8_t)(len >> 16);
    header[2] = (uint8_t)(len >> 8);
    header[3] = (uint8_t)len;
}
