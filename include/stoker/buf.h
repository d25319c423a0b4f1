/*
 * Bytes and text: a growable buffer, a shared immutable text, number parsing, UTF-8, and the cleanup attributes.
 * One thread at a time, except that a stk_text may be shared by any number of threads.
 */
#ifndef STOKER_BUF_H
#define STOKER_BUF_H

#include "stoker/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- a growable buffer: zero-initialise, stk_buf_done() in the end */

struct stk_buf {
    char *data; /* NUL-terminated once something was appended, else NULL */
    size_t len;
    size_t cap;
    bool failed; /* an append ran out of memory; data is still valid, what came after is missing */
};

void stk_buf_done(struct stk_buf *b);
int stk_buf_add(struct stk_buf *b, const void *bytes, size_t n); /* 0, or -1: out of memory (also in b->failed) */
int stk_buf_add_str(struct stk_buf *b, const char *text);
int stk_buf_printf(struct stk_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
char *stk_buf_steal(
    struct stk_buf *b); /* the data ("" for an empty buffer), now the caller's to free(); NULL if failed */

/* ---- immutable text shared by reference count */

struct stk_text;

struct stk_text *stk_text_new(const char *bytes, size_t len); /* copies; NULL when out of memory */
struct stk_text *stk_text_ref(struct stk_text *t);            /* NULL gives NULL */
void stk_text_unref(struct stk_text *t);                      /* NULL is fine */
const char *stk_text_data(const struct stk_text *t);          /* NUL-terminated; NULL for NULL */
size_t stk_text_len(const struct stk_text *t);                /* 0 for NULL */

/* ---- numbers: the whole text or nothing */

int stk_parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *ret, struct stk_err *err);
int stk_parse_i64(const char *text, int64_t min, int64_t max, int64_t *ret, struct stk_err *err);

/* ---- text */

bool stk_utf8_valid(const char *bytes, size_t len); /* false for surrogates, overlong forms and NUL bytes */
void stk_utf8_mend(char *text);                     /* each byte that is part of no character becomes '?' */
size_t stk_utf8_cut(const char *text, size_t max);  /* the longest whole-character prefix of at most max bytes */

/*
 * Version 7 UUID (RFC 9562), lower case; buf of 37 bytes: milliseconds, then 74 random bits. Ids of one time lie side by side in an
 * index, so that a batch of new rows touches one page of it and not one each. Aborts when the kernel has no randomness to give.
 */
#define STK_UUID_MAX 37
const char *stk_uuid(char buf[STK_UUID_MAX]);

/* n random bytes as 2n hex digits and a NUL. */
void stk_random_hex(char *buf, size_t n);

int stk_hex_value(char c); /* of a hexadecimal digit of either case; -1: it is none */

/* ---- descriptors */

int stk_write_all(int fd, const void *bytes, size_t n); /* 0, or -1 with errno: a part may have been written */

/* ---- cleanup attributes */

static inline void stk_free_ptr_(void *p)
{
    free(*(void **)p);
}
static inline void stk_close_fd_(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}
static inline void stk_text_cleanup_(struct stk_text **t)
{
    stk_text_unref(*t);
}

#define stk_auto_free __attribute__((cleanup(stk_free_ptr_)))
#define stk_auto_fd __attribute__((cleanup(stk_close_fd_))) int
#define stk_auto_buf __attribute__((cleanup(stk_buf_done))) struct stk_buf
#define stk_auto_text __attribute__((cleanup(stk_text_cleanup_))) struct stk_text *

static inline int stk_steal_fd(int *fd)
{
    int taken = *fd;

    *fd = -1;
    return taken;
}
#define stk_steal_ptr(pp)               \
    ({                                  \
        __auto_type stk_taken_ = *(pp); \
        *(pp) = NULL;                   \
        stk_taken_;                     \
    })

#define STK_LEN(array) (sizeof(array) / sizeof *(array))

#endif
