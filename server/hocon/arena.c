/* Memory, work and error reporting of one parse. */
#include "hocon_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define CHUNK_BYTES ((size_t)64 * 1024)

struct hocon_chunk {
    struct hocon_chunk *next;
    size_t used, cap;
    max_align_t data[];
};

static int too_big(struct hocon *h)
{
    return stk_fail(h->err, STK_LIMIT, "the text grows too large when its values are merged and substituted");
}

int stk_hocon_charge(struct hocon *h, size_t bytes)
{
    if (bytes > h->mem_left)
        return too_big(h);
    h->mem_left -= bytes;
    return 0;
}

static struct hocon_chunk *chunk_new(struct hocon *h, size_t cap)
{
    struct hocon_chunk *c;

    if (stk_hocon_charge(h, sizeof *c + cap) < 0)
        return NULL;
    if (!(c = calloc(1, sizeof *c + cap))) {
        stk_fail(h->err, STK_INTERNAL, "out of memory");
        return NULL;
    }
    c->cap = cap;
    return c;
}

void *stk_hocon_alloc(struct hocon *h, size_t size)
{
    struct hocon_chunk *c = h->chunks;
    void *p;

    if (size > SIZE_MAX / 2) {
        too_big(h);
        return NULL;
    }
    size = (size + sizeof(max_align_t) - 1) & ~(sizeof(max_align_t) - 1);
    if (!c || c->cap - c->used < size) {
        bool alone = size > CHUNK_BYTES / 4; /* the rest of the chunk in use stays in use */

        if (!(c = chunk_new(h, alone ? size : CHUNK_BYTES)))
            return NULL;
        if (alone && h->chunks) {
            c->next = h->chunks->next;
            h->chunks->next = c;
        } else {
            c->next = h->chunks;
            h->chunks = c;
        }
    }
    p = (char *)c->data + c->used;
    c->used += size;
    return p;
}

char *stk_hocon_dup(struct hocon *h, const char *bytes, size_t len)
{
    char *copy = stk_hocon_alloc(h, len + 1);

    if (copy && len)
        memcpy(copy, bytes, len);
    return copy;
}

void *stk_hocon_grow(struct hocon *h, const void *items, size_t n, size_t *cap, size_t size)
{
    size_t more = n < 4 ? 4 : n * 2;
    void *p = more > SIZE_MAX / 2 / size ? NULL : stk_hocon_alloc(h, more * size);

    if (!p)
        return NULL;
    if (n)
        memcpy(p, items, n * size);
    *cap = more;
    return p;
}

void stk_hocon_done(struct hocon *h)
{
    while (h->chunks) {
        struct hocon_chunk *next = h->chunks->next;

        free(h->chunks);
        h->chunks = next;
    }
}

int stk_hocon_work(struct hocon *h, size_t steps)
{
    if (steps > h->steps_left) {
        h->steps_left = 0;
        return stk_fail(h->err, STK_LIMIT, "the substitutions of the text take too much work");
    }
    h->steps_left -= steps;
    return 0;
}

/* Only a failure asks for line and column, so they are counted then and not carried along. */
static int vfail(struct hocon *h, enum stk_code code, size_t at, const char *fmt, va_list args)
{
    char msg[sizeof h->err->msg];
    size_t line = 1, col = 1;

    if (h->err->code != STK_OK)
        return -1; /* a limit that a look-up met explains more than what it made of it */
    if (at > h->len)
        at = h->len;
    for (size_t i = 0; i < at; i++) {
        if (h->text[i] == '\n') {
            line++;
            col = 1;
        } else if (((unsigned char)h->text[i] & 0xC0) != 0x80) {
            col++;
        }
    }
    /* editors do not show a byte order mark as a character */
    if (line == 1 && at >= 3 && memcmp(h->text, "\xEF\xBB\xBF", 3) == 0)
        col--;
    vsnprintf(msg, sizeof msg, fmt, args);
    return stk_fail(h->err, code, "%zu:%zu: %s", line, col, msg);
}

int stk_hocon_fail(struct hocon *h, size_t at, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vfail(h, STK_INVALID, at, fmt, args);
    va_end(args);
    return -1;
}

int stk_hocon_limit(struct hocon *h, size_t at, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vfail(h, STK_LIMIT, at, fmt, args);
    va_end(args);
    return -1;
}

const char *stk_hocon_show(char buf[HOCON_SHOW_MAX], const char *bytes, size_t len)
{
    const size_t room = HOCON_SHOW_MAX - 6; /* two quotes, "..." and NUL */
    bool cut = len > room;
    size_t n = len, out = 0;

    if (cut)
        for (n = room; n > 0 && ((unsigned char)bytes[n] & 0xC0) == 0x80; n--)
            ;
    buf[out++] = '\'';
    for (size_t i = 0; i < n; i++)
        buf[out++] = (unsigned char)bytes[i] < 0x20 || bytes[i] == 0x7F ? '?' : bytes[i];
    memcpy(buf + out, cut ? "...'" : "'", cut ? 5 : 2);
    return buf;
}

size_t stk_hocon_utf8(const char *p, const char *end, uint32_t *ret)
{
    static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
    unsigned char c = (unsigned char)*p;
    size_t n = c < 0x80 ? 1 : c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : 2;
    uint32_t cp = n == 1 ? c : n == 2 ? c & 0x1FU : n == 3 ? c & 0x0FU : c & 0x07U;

    if ((c >= 0x80 && c < 0xC2) || c > 0xF4 || (size_t)(end - p) < n)
        return 0;
    for (size_t i = 1; i < n; i++) {
        if (((unsigned char)p[i] & 0xC0) != 0x80)
            return 0;
        cp = cp << 6 | ((unsigned char)p[i] & 0x3FU);
    }
    if (cp < least[n] || cp > 0x10FFFF || (cp >= 0xD800 && cp <= 0xDFFF))
        return 0;
    *ret = cp;
    return n;
}
