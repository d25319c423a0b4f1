#include "stoker/buf.h"

#include "stoker/clock.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

/* ---- buffer */

void stk_buf_done(struct stk_buf *b)
{
    free(b->data);
    *b = (struct stk_buf){ 0 };
}

static int reserve(struct stk_buf *b, size_t n)
{
    size_t need, cap;
    char *data;

    if (b->failed)
        return -1;
    if (__builtin_add_overflow(b->len, n, &need) || __builtin_add_overflow(need, 1, &need)) {
        b->failed = true;
        return -1;
    }
    if (need <= b->cap)
        return 0;
    cap = b->cap < 128 ? 128 : b->cap;
    while (cap < need)
        cap = cap > SIZE_MAX / 2 ? need : cap * 2;
    data = realloc(b->data, cap);
    if (!data) {
        b->failed = true;
        return -1;
    }
    b->data = data;
    b->cap = cap;
    return 0;
}

int stk_buf_add(struct stk_buf *b, const void *bytes, size_t n)
{
    if (reserve(b, n) < 0)
        return -1;
    if (n)
        memcpy(b->data + b->len, bytes, n);
    b->len += n;
    b->data[b->len] = '\0';
    return 0;
}

int stk_buf_add_str(struct stk_buf *b, const char *text)
{
    return stk_buf_add(b, text, strlen(text));
}

int stk_buf_printf(struct stk_buf *b, const char *fmt, ...)
{
    va_list args;
    int n;

    va_start(args, fmt);
    n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0 || reserve(b, (size_t)n) < 0) {
        b->failed = true;
        return -1;
    }
    va_start(args, fmt);
    vsnprintf(b->data + b->len, (size_t)n + 1, fmt, args);
    va_end(args);
    b->len += (size_t)n;
    return 0;
}

char *stk_buf_steal(struct stk_buf *b)
{
    char *data;

    if (stk_buf_add(b, "", 0) < 0) {
        stk_buf_done(b);
        return NULL;
    }
    data = b->data;
    *b = (struct stk_buf){ 0 };
    return data;
}

/* ---- shared text */

struct stk_text {
    atomic_uint refs;
    size_t len;
    char data[];
};

struct stk_text *stk_text_new(const char *bytes, size_t len)
{
    struct stk_text *t;

    if (len > SIZE_MAX - sizeof *t - 1)
        return NULL;
    t = malloc(sizeof *t + len + 1);
    if (!t)
        return NULL;
    atomic_init(&t->refs, 1);
    t->len = len;
    if (len)
        memcpy(t->data, bytes, len);
    t->data[len] = '\0';
    return t;
}

struct stk_text *stk_text_ref(struct stk_text *t)
{
    if (t)
        atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed);
    return t;
}

void stk_text_unref(struct stk_text *t)
{
    if (t && atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel) == 1)
        free(t);
}

const char *stk_text_data(const struct stk_text *t)
{
    return t ? t->data : NULL;
}

size_t stk_text_len(const struct stk_text *t)
{
    return t ? t->len : 0;
}

/* ---- numbers */

int stk_parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *ret, struct stk_err *err)
{
    uint64_t n = 0;

    if (!*text)
        return stk_fail(err, STK_INVALID, "an empty text is not a number");
    for (const char *p = text; *p; p++) {
        if (*p < '0' || *p > '9')
            return stk_fail(err, STK_INVALID, "'%.60s' is not a whole number", text);
        if (__builtin_mul_overflow(n, (uint64_t)10, &n) || __builtin_add_overflow(n, (uint64_t)(*p - '0'), &n))
            return stk_fail(err, STK_INVALID, "%.60s is too large", text);
    }
    if (n < min || n > max)
        return stk_fail(err, STK_INVALID, "%.60s is not between %llu and %llu", text, (unsigned long long)min,
                        (unsigned long long)max);
    *ret = n;
    return 0;
}

int stk_parse_i64(const char *text, int64_t min, int64_t max, int64_t *ret, struct stk_err *err)
{
    bool negative = *text == '-';
    uint64_t n;
    int64_t value;

    if (stk_parse_u64(text + (*text == '-' || *text == '+'), 0, (uint64_t)INT64_MAX + negative, &n, err) < 0)
        return -1;
    value = negative ? (int64_t)(0 - n) : (int64_t)n;
    if (value < min || value > max)
        return stk_fail(err, STK_INVALID, "%.60s is not between %lld and %lld", text, (long long)min, (long long)max);
    *ret = value;
    return 0;
}

/* ---- text */

/* The bytes of the character that starts at p (n left), or 0 when none does. */
static size_t utf8_char(const unsigned char *p, size_t n)
{
    uint32_t c;
    size_t len;

    if (p[0] < 0x80)
        return p[0] ? 1 : 0;
    if (p[0] >= 0xc2 && p[0] <= 0xdf)
        len = 2;
    else if ((p[0] & 0xf0) == 0xe0)
        len = 3;
    else if (p[0] >= 0xf0 && p[0] <= 0xf4)
        len = 4;
    else
        return 0;
    if (n < len)
        return 0;
    c = p[0] & (0x7fU >> len);
    for (size_t i = 1; i < len; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (p[i] & 0x3fU);
    }
    if (len == 3 && (c < 0x800 || (c >= 0xd800 && c <= 0xdfff)))
        return 0;
    if (len == 4 && (c < 0x10000 || c > 0x10ffff))
        return 0;
    return len;
}

bool stk_utf8_valid(const char *bytes, size_t len)
{
    const unsigned char *p = (const unsigned char *)bytes;

    for (size_t i = 0; i < len;) {
        size_t n = utf8_char(p + i, len - i);

        if (!n)
            return false;
        i += n;
    }
    return true;
}

size_t stk_utf8_cut(const char *text, size_t max)
{
    size_t len = strnlen(text, max);

    if (len < max || !text[len])
        return len;
    while (len > 0 && ((unsigned char)text[len] & 0xc0) == 0x80)
        len--;
    return len;
}

void stk_utf8_mend(char *text)
{
    while (*text) {
        size_t n = 1, len = strnlen(text, 4);

        while (n <= len && !stk_utf8_valid(text, n))
            n++;
        if (n > len) {
            *text = '?';
            n = 1;
        }
        text += n;
    }
}

static void random_bytes(void *buf, size_t n)
{
    for (size_t got = 0; got < n;) {
        ssize_t r = getrandom((char *)buf + got, n - got, 0);

        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            abort(); /* ids must never repeat */
        got += (size_t)r;
    }
}

const char *stk_uuid(char buf[STK_UUID_MAX])
{
    uint64_t ms = (uint64_t)stk_wall_us() / 1000;
    unsigned char r[16];
    char *out = buf;

    random_bytes(r, sizeof r);
    for (int i = 0; i < 6; i++)
        r[i] = (unsigned char)(ms >> (40 - 8 * i));
    r[6] = (unsigned char)((r[6] & 0x0f) | 0x70);
    r[8] = (unsigned char)((r[8] & 0x3f) | 0x80);
    for (size_t i = 0; i < sizeof r; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            *out++ = '-';
        *out++ = "0123456789abcdef"[r[i] >> 4];
        *out++ = "0123456789abcdef"[r[i] & 15];
    }
    *out = '\0';
    return buf;
}

void stk_random_hex(char *buf, size_t n)
{
    unsigned char byte;

    for (size_t i = 0; i < n; i++) {
        random_bytes(&byte, 1);
        buf[2 * i] = "0123456789abcdef"[byte >> 4];
        buf[2 * i + 1] = "0123456789abcdef"[byte & 15];
    }
    buf[2 * n] = '\0';
}

int stk_hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* ---- descriptors */

int stk_write_all(int fd, const void *bytes, size_t n)
{
    const char *p = bytes;

    while (n > 0) {
        ssize_t done = write(fd, p, n);

        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return -1;
        p += done;
        n -= (size_t)done;
    }
    return 0;
}
