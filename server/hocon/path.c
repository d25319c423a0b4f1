/* Keys and paths: a.b."c.d" is the three keys a, b and c.d. */
#include "hocon_internal.h"

#include <string.h>

static uint32_t hash_of(const char *s, size_t len)
{
    uint32_t x = 2166136261U;

    for (size_t i = 0; i < len; i++)
        x = (x ^ (unsigned char)s[i]) * 16777619U;
    return x ^ x >> 15;
}

void stk_hocon_path_done(struct hocon_path_builder *b)
{
    stk_buf_done(&b->cur);
}

static int add(struct hocon *h, struct hocon_path_builder *b, const char *s, size_t len)
{
    if (len && stk_buf_add(&b->cur, s, len) < 0)
        return stk_fail(h->err, STK_INTERNAL, "out of memory");
    return 0;
}

static int end_element(struct hocon *h, struct hocon_path_builder *b, size_t at)
{
    struct hocon_key *key;

    if (b->cur.len == 0 && !b->cur_given)
        return stk_hocon_fail(h, at, "expecting a name on each side of '.' in a key (use \"\" for an empty one)");
    /* a path makes one object per element, and these count as nesting */
    if (b->n >= (size_t)h->limits.max_depth)
        return stk_hocon_limit(h, at, "a key has more than %d parts", h->limits.max_depth);
    if (b->n == b->cap && !(b->keys = stk_hocon_grow(h, b->keys, b->n, &b->cap, sizeof *b->keys)))
        return -1;
    key = &b->keys[b->n];
    if (!(key->s = stk_hocon_dup(h, b->cur.data, b->cur.len)))
        return -1;
    key->len = (uint32_t)b->cur.len;
    key->hash = hash_of(key->s, key->len);
    b->n++;
    b->cur.len = 0;
    b->cur_given = false;
    return 0;
}

int stk_hocon_path_quoted(struct hocon *h, struct hocon_path_builder *b, const char *s, size_t len)
{
    if (add(h, b, s, len) < 0)
        return -1;
    if (b->cur.len == 0)
        b->cur_given = true;
    return 0;
}

int stk_hocon_path_text(struct hocon *h, struct hocon_path_builder *b, size_t at, const char *s, size_t len)
{
    for (;;) {
        const char *dot = len ? memchr(s, '.', len) : NULL;
        size_t n = dot ? (size_t)(dot - s) : len;

        if (add(h, b, s, n) < 0)
            return -1;
        if (!dot)
            return 0;
        if (end_element(h, b, at) < 0)
            return -1;
        s += n + 1;
        len -= n + 1;
    }
}

int stk_hocon_path_end(struct hocon *h, struct hocon_path_builder *b, size_t at, struct hocon_path *ret)
{
    if (end_element(h, b, at) < 0)
        return -1;
    ret->keys = b->keys;
    ret->n = b->n;
    return 0;
}

bool stk_hocon_path_equal(struct hocon_path a, struct hocon_path b)
{
    if (a.n != b.n)
        return false;
    for (size_t i = 0; i < a.n; i++) {
        if (a.keys[i].hash != b.keys[i].hash || a.keys[i].len != b.keys[i].len ||
            memcmp(a.keys[i].s, b.keys[i].s, a.keys[i].len) != 0)
            return false;
    }
    return true;
}
