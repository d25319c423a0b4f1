/* Uploads of binaries, the same in all dialects. */
#include "stoker/api.h"

#include <string.h>
#include <strings.h>

int stk_media_type_find(const char *media, enum stk_binary_type *ret)
{
    static const struct {
        const char *media;
        enum stk_binary_type type;
    } known[] = {
        { "application/java-archive", STK_BINARY_JAR },
        { "application/python-egg", STK_BINARY_EGG },
        { "application/python-archive", STK_BINARY_EGG },
        { "application/python-wheel", STK_BINARY_WHEEL },
        { "application/zip", STK_BINARY_ZIP },
    };
    size_t len = strcspn(media, "; \t");

    for (size_t i = 0; i < STK_LEN(known); i++) {
        if (strlen(known[i].media) == len && strncasecmp(known[i].media, media, len) == 0) {
            *ret = known[i].type;
            return 0;
        }
    }
    return -1;
}

/* A zip begins with a local file header, and there is more than that. */
int stk_upload_receive(struct stk_request *r, struct stk_upload *up, struct stk_err *err)
{
    enum { PIECE = 65536 };
    stk_auto_free char *piece = malloc(PIECE);
    size_t have = 0;
    ssize_t n = 0;

    if (!piece)
        return stk_fail(err, STK_INTERNAL, "out of memory");
    while (have < 5 && (n = stk_request_read(r, piece + have, PIECE - have, err)) > 0)
        have += (size_t)n;
    if (n >= 0 && (have < 5 || memcmp(piece, "PK\003\004", 4) != 0))
        return stk_fail(err, STK_INVALID, STK_NO_ARCHIVE);
    while (n > 0) {
        if (stk_upload_write(up, piece, have, err) < 0)
            return -1;
        n = stk_request_read(r, piece, PIECE, err);
        have = n > 0 ? (size_t)n : 0;
    }
    return n < 0 ? -1 : 0;
}
