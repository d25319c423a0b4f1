/*
 * A look at the write-ahead log before SQLite opens it.
 *
 * SQLite takes the frames up to the first whose checksum is wrong and says nothing of the rest. That is right for what a
 * crash has cut off, which was never acknowledged; but a frame that was committed and got damaged later
 *
 *     - takes with it all that was committed after it: a person has to know, and
 *     - gives a mixture when the pages after it had been copied into the database already: those of the log are older, and
 *       SQLite prefers them.
 *
 * The -shm file knows how many frames were committed and how many of them are in the database. It is written after the
 * log was synced, so it never claims too much; where it is gone or belongs to another log, SQLite has its way.
 */
#include "internal.h"

#include "stoker/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* https://sqlite.org/fileformat2.html#the_write_ahead_log, https://sqlite.org/walformat.html#the_wal_index_file_format */
enum {
    WAL_HEADER = 32,
    FRAME_HEADER = 24,
    WAL_MAGIC = 0x377f0682, /* + 1: checksums are big-endian */
    SHM_HEADER = 48,        /* twice, for readers without a lock */
    SHM_SIZE = 136,
};

struct sums {
    uint32_t a, b;
};

static uint32_t big_endian(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static uint32_t native(const uint8_t *p)
{
    uint32_t n;

    memcpy(&n, p, sizeof n);
    return n;
}

static void add_sums(struct sums *s, const uint8_t *p, size_t n, bool big)
{
    for (size_t i = 0; i + 8 <= n; i += 8) {
        uint32_t x = big ? big_endian(p + i) : __builtin_bswap32(big_endian(p + i));
        uint32_t y = big ? big_endian(p + i + 4) : __builtin_bswap32(big_endian(p + i + 4));

        s->a += x + s->b;
        s->b += y + s->a;
    }
}

static bool same_sums(const struct sums *s, const uint8_t *p)
{
    return s->a == big_endian(p) && s->b == big_endian(p + 4);
}

/* *ret: frames up to the last commit that SQLite will accept. false: the header is none. salt: 8 bytes, as they stand there. */
static bool count_frames(int fd, uint32_t *ret, uint8_t *salt)
{
    uint8_t header[WAL_HEADER];
    stk_auto_free uint8_t *frame = NULL;
    struct sums sums = { 0 };
    uint32_t page_size, n = 0;
    size_t size;
    bool big;

    *ret = 0;
    if (pread(fd, header, sizeof header, 0) != (ssize_t)sizeof header || (big_endian(header) & ~1U) != WAL_MAGIC)
        return false;
    big = big_endian(header) & 1;
    add_sums(&sums, header, 24, big);
    page_size = big_endian(header + 8);
    if (!same_sums(&sums, header + 24) || page_size < 512 || page_size > 65536)
        return false;
    memcpy(salt, header + 16, 8);
    size = FRAME_HEADER + page_size;
    if (!(frame = malloc(size)))
        return false;
    for (off_t at = WAL_HEADER; pread(fd, frame, size, at) == (ssize_t)size; at += (off_t)size) {
        if (memcmp(frame + 8, salt, 8) != 0)
            break;
        add_sums(&sums, frame, 8, big);
        add_sums(&sums, frame + FRAME_HEADER, page_size, big);
        if (!same_sums(&sums, frame + 16))
            break;
        n++;
        if (big_endian(frame + 4)) /* a commit */
            *ret = n;
    }
    return true;
}

/* What the -shm file says of the log. */
struct index {
    uint32_t frames;    /* committed */
    uint32_t copied;    /* of these, in the database */
    uint32_t attempted; /* or on their way there when the process died */
    uint8_t salt[8];
};

static bool read_index(int fd, struct index *ret)
{
    uint8_t shm[SHM_SIZE];

    if (fd < 0 || pread(fd, shm, sizeof shm, 0) != (ssize_t)sizeof shm ||
        memcmp(shm, shm + SHM_HEADER, SHM_HEADER) != 0 || native(shm) != 3007000 || !shm[12])
        return false;
    ret->frames = native(shm + 16);
    memcpy(ret->salt, shm + 32, sizeof ret->salt);
    ret->copied = native(shm + 96);
    ret->attempted = native(shm + 128);
    return true;
}

static int set_aside(struct stk_store *s, const char *name, struct stk_err *err)
{
    char to[64];

    snprintf(to, sizeof to, "%s.damaged", name);
    if (renameat(s->options.dir_fd, name, s->options.dir_fd, to) < 0)
        return stk_fail_sys(err, errno, "rename %s/%s", s->dir, name);
    return 0;
}

int stk_wal_check(struct stk_store *s, const char *wal_name, const char *shm_name, struct stk_err *err)
{
    stk_auto_fd wal = openat(s->options.dir_fd, wal_name, O_RDONLY | O_CLOEXEC);
    stk_auto_fd shm = openat(s->options.dir_fd, shm_name, O_RDONLY | O_CLOEXEC);
    struct index index;
    uint8_t salt[8];
    uint32_t good = 0;
    char lost[16];

    if (!read_index(shm, &index) || index.frames == 0)
        return 0;
    if (wal >= 0 && count_frames(wal, &good, salt) && memcmp(salt, index.salt, sizeof salt) != 0)
        return 0; /* the index is of another log */
    if (good >= index.frames || (wal < 0 && index.copied == index.frames))
        return 0;
    if (index.attempted > index.copied && good < index.attempted)
        return stk_fail(err, STK_INTERNAL,
                        "%s/%s is damaged, and it was being copied into the database: restore the state directory from "
                        "a backup",
                        s->dir, wal_name);
    snprintf(lost, sizeof lost, "%u", index.frames - (good > index.copied ? good : index.copied));
    stk_error("store", "the write-ahead log is damaged; what was written last is lost", "file", wal_name, "pages lost",
              lost);
    if (wal >= 0 && good < index.copied) /* the database alone is newer, and whole */
        return set_aside(s, wal_name, err);
    return 0;
}
