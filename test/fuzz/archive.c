/*
 * Unpacking archives. First byte odd: the rest is the file. Even: the rest says what a zip archive shall hold, made here with
 * right checksums, which no mutation of bytes would ever hit. Nothing may appear outside the target folder, nothing but plain files
 * and folders in it, no more than the limits allow, and no descriptor may stay open.
 */
#include "fuzz.h"

#include "stoker/archive.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>

static const struct stk_archive_limits limits = { .max_entries = 12,
                                                  .max_unpacked_bytes = 4096,
                                                  .max_path_bytes = 300 };

static char base[64], archive_path[80], out_path[80], canary_path[80];
static const char canary[] = "nobody may touch this";

/* ---- bytes of the input, one after the other; zeros at the end */

struct in {
    const uint8_t *p, *end;
};

static unsigned take(struct in *in)
{
    return in->p < in->end ? *in->p++ : 0;
}

static const char *take_bytes(struct in *in, size_t want, size_t *ret_n)
{
    const char *at = (const char *)in->p;

    *ret_n = want < (size_t)(in->end - in->p) ? want : (size_t)(in->end - in->p);
    in->p += *ret_n;
    return at;
}

/* ---- a zip archive as the input wants it */

static void put16(struct stk_buf *b, unsigned v)
{
    stk_buf_add(b, (unsigned char[]){ v & 0xff, v >> 8 & 0xff }, 2);
}

static void put32(struct stk_buf *b, uint32_t v)
{
    put16(b, v & 0xffff);
    put16(b, v >> 16);
}

static uint32_t crc32_of(const char *data, size_t n)
{
    uint32_t crc = 0xffffffff;

    for (size_t i = 0; i < n; i++) {
        crc ^= (unsigned char)data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
    }
    return ~crc;
}

struct entry {
    const char *name, *data, *extra;
    size_t name_len, data_len, extra_len;
    unsigned flags, method, made_by;
    uint32_t crc, size, packed, attributes;
};

static const char *const prefixes[] = { "", "../", "/", "./", "a/", "a/b/../", "a\\", "a//" };

static void take_entry(struct in *in, struct entry *e, struct stk_buf *name, struct stk_buf *data)
{
    static const uint32_t types[] = { S_IFREG | 0644,  S_IFDIR | 0755, S_IFLNK | 0777,
                                      S_IFIFO | 0644,  S_IFCHR | 0644, 0,
                                      S_IFREG | 06777, S_IFSOCK | 0600 };
    unsigned control = take(in), odd = take(in);
    size_t n, repeats;
    const char *bytes;

    *e = (struct entry){ 0 };
    stk_buf_add_str(name, prefixes[control & 7]);
    bytes = take_bytes(in, take(in) % 24, &n);
    repeats = odd & 1 ? take(in) : 1;
    for (size_t i = 0; i < repeats; i++)
        stk_buf_add(name, bytes, n);
    if (odd & 2)
        stk_buf_add_str(name, "/");
    bytes = take_bytes(in, take(in), &n);
    repeats = odd & 4 ? take(in) : 1;
    for (size_t i = 0; i < repeats; i++)
        stk_buf_add(data, bytes, n);
    e->name = name->data ? name->data : "";
    e->name_len = name->len;
    e->data = data->data ? data->data : "";
    e->data_len = data->len;
    e->attributes = types[control >> 3 & 7] << 16;
    e->made_by = (control & 0x40 ? 0u : 3u) << 8 | 20; /* DOS or Unix */
    e->flags = control & 0x80 ? 0x800 : 0;             /* the name is UTF-8 */
    e->crc = crc32_of(e->data, e->data_len);
    e->size = e->packed = (uint32_t)e->data_len;
    if (odd & 8)
        e->flags |= take(in) | take(in) << 8;
    if (odd & 16)
        e->method = take(in);
    if (odd & 32)
        e->size = take(in) | take(in) << 24;
    if (odd & 64)
        e->packed ^= take(in) | take(in) << 24;
    if (odd & 128)
        e->extra = take_bytes(in, take(in) % 64, &e->extra_len);
}

static void put_common(struct stk_buf *b, const struct entry *e)
{
    put16(b, e->flags);
    put16(b, e->method);
    put16(b, 0);
    put16(b, 0x21); /* 1980-01-01 */
    put32(b, e->crc);
    put32(b, e->packed);
    put32(b, e->size);
    put16(b, (unsigned)e->name_len);
    put16(b, (unsigned)e->extra_len);
}

static void put_local(struct stk_buf *b, const struct entry *e)
{
    put32(b, 0x04034b50);
    put16(b, 20);
    put_common(b, e);
    stk_buf_add(b, e->name, e->name_len);
    stk_buf_add(b, e->extra, e->extra_len);
    stk_buf_add(b, e->data, e->data_len);
}

static void put_central(struct stk_buf *b, const struct entry *e, uint32_t at)
{
    put32(b, 0x02014b50);
    put16(b, e->made_by);
    put16(b, 20);
    put_common(b, e);
    put16(b, 0); /* comment */
    put16(b, 0); /* disk */
    put16(b, 0);
    put32(b, e->attributes);
    put32(b, at);
    stk_buf_add(b, e->name, e->name_len);
    stk_buf_add(b, e->extra, e->extra_len);
}

static void put_end(struct stk_buf *b, const struct stk_buf *directory, unsigned n)
{
    uint32_t at = (uint32_t)b->len;

    stk_buf_add(b, directory->data, directory->len);
    put32(b, 0x06054b50);
    put16(b, 0);
    put16(b, 0);
    put16(b, n);
    put16(b, n);
    put32(b, (uint32_t)directory->len);
    put32(b, at);
    put16(b, 0);
}

static void make_zip(const uint8_t *data, size_t size, struct stk_buf *ret)
{
    struct in in = { data, data + size };
    stk_auto_buf directory = { 0 };
    unsigned n = 0;

    while (in.p < in.end && n < 20) {
        stk_auto_buf name = { 0 }, content = { 0 };
        uint32_t at = (uint32_t)ret->len;
        struct entry e;

        take_entry(&in, &e, &name, &content);
        put_local(ret, &e);
        put_central(&directory, &e, at);
        n++;
    }
    put_end(ret, &directory, n);
}

/* ---- the place */

static void write_file(const char *path, const void *bytes, size_t n)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    FUZZ_CHECK(fd >= 0 && write(fd, bytes, n) == (ssize_t)n && close(fd) == 0, "%s: %s", path, strerror(errno));
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    FUZZ_CHECK(remove(path) == 0, "%s: %s", path, strerror(errno));
    return 0;
}

static void remove_base(void)
{
    nftw(base, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    /* In memory where there is such a place: an archive that is right is synced to the disk. */
    const char *where = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";

    (void)argc;
    (void)argv;
    snprintf(base, sizeof base, "%s/stoker-fuzz-XXXXXX", where);
    FUZZ_CHECK(mkdtemp(base));
    atexit(remove_base);
    snprintf(archive_path, sizeof archive_path, "%s/archive", base);
    snprintf(out_path, sizeof out_path, "%s/out", base);
    snprintf(canary_path, sizeof canary_path, "%s/canary", base);
    write_file(canary_path, canary, sizeof canary);
    umask(027);
    return 0;
}

/* ---- what was unpacked */

static struct {
    uint64_t bytes, files, beside;
} seen;

static int look_at(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    const char *name = path + ftw->base;

    (void)type;
    if (ftw->level == 0)
        return 0;
    FUZZ_CHECK(strlen(path) - strlen(out_path) - 1 <= limits.max_path_bytes);
    FUZZ_CHECK(stk_utf8_valid(name, strlen(name)), "%s", path);
    FUZZ_CHECK(!strchr(name, '\\'), "%s", path);
    for (const char *p = name; *p; p++)
        FUZZ_CHECK((unsigned char)*p >= 0x20 && *p != 0x7f, "%s", path);
    if (S_ISDIR(st->st_mode)) {
        FUZZ_CHECK((st->st_mode & 07777) == 0755, "%s: mode %o", path, st->st_mode);
    } else {
        FUZZ_CHECK(S_ISREG(st->st_mode) && (st->st_mode & 07777) == 0644, "%s: mode %o", path, st->st_mode);
        FUZZ_CHECK(st->st_nlink == 1, "%s", path);
        seen.bytes += (uint64_t)st->st_size;
        seen.files++;
    }
    return 0;
}

static int look_beside(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    if (strncmp(path, out_path, strlen(out_path)) != 0 && ftw->level > 0)
        seen.beside++;
    return 0;
}

static void check_place(void)
{
    char content[sizeof canary + 1];
    int fd = open(canary_path, O_RDONLY | O_CLOEXEC);

    FUZZ_CHECK(fd >= 0 && read(fd, content, sizeof content) == sizeof canary &&
               memcmp(content, canary, sizeof canary) == 0);
    close(fd);
    memset(&seen, 0, sizeof seen);
    nftw(out_path, look_at, 16, FTW_PHYS);
    nftw(base, look_beside, 16, FTW_PHYS);
    FUZZ_CHECK(seen.beside == 2, "%llu files beside the folder", (unsigned long long)seen.beside);
    FUZZ_CHECK(seen.bytes <= limits.max_unpacked_bytes, "%llu bytes", (unsigned long long)seen.bytes);
    FUZZ_CHECK(seen.files <= limits.max_entries, "%llu files", (unsigned long long)seen.files);
}

static int empty_out(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove_one(path, st, type, ftw);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    stk_auto_buf zip = { 0 };
    struct stk_err err = { 0 };
    int dir, rc, lowest = dup(0);

    close(lowest);
    if (size == 0)
        return 0;
    if (data[0] & 1)
        stk_buf_add(&zip, data + 1, size - 1);
    else
        make_zip(data + 1, size - 1, &zip);
    write_file(archive_path, zip.data ? zip.data : "", zip.len);
    FUZZ_CHECK(mkdir(out_path, 0755) == 0, "%s", strerror(errno));
    FUZZ_CHECK((dir = open(out_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) >= 0);
    rc = stk_archive_unpack(archive_path, dir, &limits, &err);
    close(dir);
    if (rc < 0) {
        FUZZ_CHECK(err.code == STK_INVALID || err.code == STK_TOO_LARGE, "%d: %s", (int)err.code, err.msg);
        fuzz_check_message(&err);
    }
    check_place();
    nftw(out_path, empty_out, 16, FTW_DEPTH | FTW_PHYS);
    dir = dup(0);
    FUZZ_CHECK(dir == lowest, "a descriptor stays open");
    close(dir);
    return 0;
}
