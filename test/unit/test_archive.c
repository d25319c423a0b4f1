/* Unpacking, with archives made byte by byte: what no honest zip program writes. */
#include "stoker/archive.h"

#include "stoker/buf.h"
#include "stoker/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

/* ---- a small zip writer: everything stored, everything settable */

enum { UNIX = 3, FAT = 0, UTF8_FLAG = 0x800, ENCRYPTED_FLAG = 1 };

struct entry {
    const char *name;
    size_t name_len; /* 0: strlen(name) */
    const char *data;
    uint32_t mode; /* of Unix; 0: S_IFREG | 0644 */
    int system;    /* 0 means UNIX here, -1 FAT */
    unsigned flags;
    uint32_t crc_xor;
    uint32_t size_claimed; /* 0: the true one */
};

struct zip {
    struct stk_buf bytes, directory;
    unsigned n;
};

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

/* What local header and central directory have in common. */
static void put_common(struct stk_buf *b, const struct entry *e, size_t name_len)
{
    size_t size = e->data ? strlen(e->data) : 0;

    put16(b, e->flags);
    put16(b, 0); /* stored */
    put16(b, 0);
    put16(b, 0x21); /* 1980-01-01 */
    put32(b, crc32_of(e->data, size) ^ e->crc_xor);
    put32(b, e->size_claimed ? e->size_claimed : (uint32_t)size);
    put32(b, e->size_claimed ? e->size_claimed : (uint32_t)size);
    put16(b, (unsigned)name_len);
    put16(b, 0); /* extra */
}

static void zip_add(struct zip *z, struct entry e)
{
    size_t name_len = e.name_len ? e.name_len : strlen(e.name);
    uint32_t at = (uint32_t)z->bytes.len;

    put32(&z->bytes, 0x04034b50);
    put16(&z->bytes, 20);
    put_common(&z->bytes, &e, name_len);
    stk_buf_add(&z->bytes, e.name, name_len);
    if (e.data)
        stk_buf_add_str(&z->bytes, e.data);

    put32(&z->directory, 0x02014b50);
    put16(&z->directory, (unsigned)(e.system < 0 ? FAT : UNIX) << 8 | 20);
    put16(&z->directory, 20);
    put_common(&z->directory, &e, name_len);
    put16(&z->directory, 0); /* comment */
    put16(&z->directory, 0); /* disk */
    put16(&z->directory, 0);
    put32(&z->directory, (e.mode ? e.mode : S_IFREG | 0644) << 16);
    put32(&z->directory, at);
    stk_buf_add(&z->directory, e.name, name_len);
    z->n++;
}

static void zip_end(struct zip *z)
{
    uint32_t at = (uint32_t)z->bytes.len;

    stk_buf_add(&z->bytes, z->directory.data, z->directory.len);
    put32(&z->bytes, 0x06054b50);
    put16(&z->bytes, 0);
    put16(&z->bytes, 0);
    put16(&z->bytes, z->n);
    put16(&z->bytes, z->n);
    put32(&z->bytes, (uint32_t)z->directory.len);
    put32(&z->bytes, at);
    put16(&z->bytes, 0);
    stk_buf_done(&z->directory);
}

/* ---- a directory to unpack into, inside one that shows what got out */

struct fixture {
    char dir[64];
    int dir_fd, out_fd;
    struct stk_err err;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);

    snprintf(f->dir, sizeof f->dir, "/tmp/stoker-test-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    f->dir_fd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    f->out_fd = -1;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    close(f->dir_fd);
    if (f->out_fd >= 0)
        close(f->out_fd);
    assert_int_equal(0, stk_remove_tree(AT_FDCWD, f->dir));
    free(f);
    return 0;
}

static int unpack_limited(struct fixture *f, const void *bytes, size_t n, const struct stk_archive_limits *limits)
{
    char path[128];
    stk_auto_fd fd = openat(f->dir_fd, "a.zip", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_int_equal(n, write(fd, bytes, n));
    if (f->out_fd >= 0) {
        close(f->out_fd);
        assert_int_equal(0, stk_remove_tree(f->dir_fd, "out"));
    }
    assert_int_equal(0, mkdirat(f->dir_fd, "out", 0755));
    f->out_fd = openat(f->dir_fd, "out", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    snprintf(path, sizeof path, "%s/a.zip", f->dir);
    f->err = (struct stk_err){ 0 };
    return stk_archive_unpack(path, f->out_fd, limits, &f->err);
}

/* Ends the zip, unpacks it, and sees that nothing appeared beside the target. */
static int unpack_zip(struct fixture *f, struct zip *z, const struct stk_archive_limits *limits)
{
    int rc, names = 0;
    DIR *dir;

    zip_end(z);
    assert_false(z->bytes.failed);
    rc = unpack_limited(f, z->bytes.data, z->bytes.len, limits);
    stk_buf_done(&z->bytes);
    *z = (struct zip){ 0 };

    dir = opendir(f->dir);
    while (readdir(dir))
        names++;
    closedir(dir);
    assert_int_equal(4, names); /* ".", "..", a.zip, out */
    return rc;
}

static int unpack(struct fixture *f, struct zip *z)
{
    return unpack_zip(f, z, &stk_archive_default_limits);
}

static void expect_refused(struct fixture *f, struct entry e, const char *reason)
{
    struct zip z = { 0 };

    zip_add(&z, (struct entry){ .name = "first.py", .data = "x = 1" });
    zip_add(&z, e);
    if (unpack(f, &z) == 0)
        fail_msg("'%s', of mode %o, is not refused", e.name, e.mode);
    assert_int_equal(STK_INVALID, f->err.code);
    if (!strstr(f->err.msg, reason))
        fail_msg("'%s' is not in '%s'", reason, f->err.msg);
    assert_true(stk_utf8_valid(f->err.msg, strlen(f->err.msg)));
}

static void expect_file(struct fixture *f, const char *name, const char *data)
{
    stk_auto_fd fd = openat(f->out_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    char got[256] = "";
    struct stat st;

    if (fd < 0)
        fail_msg("%s is missing", name);
    assert_int_equal(strlen(data), read(fd, got, sizeof got - 1));
    assert_string_equal(data, got);
    assert_int_equal(0, fstat(fd, &st));
    assert_int_equal(0644, st.st_mode & 07777);
}

/* ---- honest archives */

static void files_and_folders_are_unpacked(void **state)
{
    struct fixture *f = *state;
    mode_t before = umask(077);
    struct zip z = { 0 };
    struct stat st;

    zip_add(&z, (struct entry){ .name = "app/", .mode = S_IFDIR | 0700 });
    zip_add(&z, (struct entry){ .name = "app/__init__.py" });
    zip_add(&z, (struct entry){ .name = "app/jobs.py", .data = "x = 1\n", .mode = S_IFREG | 04777 });
    zip_add(&z, (struct entry){ .name = "data/deep/er/words.txt", .data = "a b" }); /* folders nobody declared */
    zip_add(&z, (struct entry){ .name = "data/deep/", .mode = S_IFDIR | 0755 });    /* or too late */
    zip_add(&z, (struct entry){ .name = "app/more.py", .data = "y" });
    zip_add(&z, (struct entry){ .name = "./dot//twice.py", .data = "z" });
    zip_add(&z, (struct entry){ .name = "gr\xc3\xbc\xc3\x9f.py", .data = "u", .flags = UTF8_FLAG });
    zip_add(&z, (struct entry){ .name = "gr\xc3\xbc\xc3\x9f-unflagged.py", .data = "u" });
    zip_add(&z, (struct entry){ .name = "fat.py", .data = "f", .system = -1 });
    zip_add(&z, (struct entry){ .name = "..hidden..", .data = "h" });
    if (unpack(f, &z) < 0)
        fail_msg("%s", f->err.msg);
    umask(before);
    expect_file(f, "app/__init__.py", "");
    expect_file(f, "app/jobs.py", "x = 1\n");
    expect_file(f, "data/deep/er/words.txt", "a b");
    expect_file(f, "app/more.py", "y");
    expect_file(f, "dot/twice.py", "z");
    expect_file(f, "gr\xc3\xbc\xc3\x9f.py", "u");
    expect_file(f, "gr\xc3\xbc\xc3\x9f-unflagged.py", "u");
    expect_file(f, "fat.py", "f");
    expect_file(f, "..hidden..", "h");
    assert_int_equal(0, fstatat(f->out_fd, "app", &st, 0));
    assert_int_equal(0755, st.st_mode & 07777);
    assert_int_equal(0, fstatat(f->out_fd, "data/deep/er", &st, 0));
    assert_int_equal(0755, st.st_mode & 07777);
}

#define LINE_5 "x = 1\nx = 1\nx = 1\nx = 1\nx = 1\n"

/* As Python's zipfile writes it: deflated. */
static void python_archive_is_unpacked(void **state)
{
    /* clang-format off */
    static const unsigned char zip[] = {
        0x50, 0x4b, 0x03, 0x04, 0x14, 0x00, 0x00, 0x00, 0x08, 0x00, 0x00, 0x00, 0x21, 0x00, 0x0e, 0x6b, 0x7d, 0xc9,
        0x0b, 0x00, 0x00, 0x00, 0x78, 0x00, 0x00, 0x00, 0x0b, 0x00, 0x00, 0x00, 0x61, 0x70, 0x70, 0x2f, 0x6a, 0x6f,
        0x62, 0x73, 0x2e, 0x70, 0x79, 0xab, 0x50, 0xb0, 0x55, 0x30, 0xe4, 0xaa, 0xa0, 0x3b, 0x09, 0x00, 0x50, 0x4b,
        0x03, 0x04, 0x14, 0x00, 0x00, 0x00, 0x08, 0x00, 0x00, 0x00, 0x21, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x11, 0x00, 0x00, 0x00, 0x45, 0x47, 0x47, 0x2d, 0x49, 0x4e, 0x46, 0x4f,
        0x2f, 0x50, 0x4b, 0x47, 0x2d, 0x49, 0x4e, 0x46, 0x4f, 0x03, 0x00, 0x50, 0x4b, 0x01, 0x02, 0x14, 0x03, 0x14,
        0x00, 0x00, 0x00, 0x08, 0x00, 0x00, 0x00, 0x21, 0x00, 0x0e, 0x6b, 0x7d, 0xc9, 0x0b, 0x00, 0x00, 0x00, 0x78,
        0x00, 0x00, 0x00, 0x0b, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x80, 0x01, 0x00,
        0x00, 0x00, 0x00, 0x61, 0x70, 0x70, 0x2f, 0x6a, 0x6f, 0x62, 0x73, 0x2e, 0x70, 0x79, 0x50, 0x4b, 0x01, 0x02,
        0x14, 0x03, 0x14, 0x00, 0x00, 0x00, 0x08, 0x00, 0x00, 0x00, 0x21, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x11, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x80, 0x01, 0x34, 0x00, 0x00, 0x00, 0x45, 0x47, 0x47, 0x2d, 0x49, 0x4e, 0x46, 0x4f, 0x2f, 0x50, 0x4b, 0x47,
        0x2d, 0x49, 0x4e, 0x46, 0x4f, 0x50, 0x4b, 0x05, 0x06, 0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x02, 0x00, 0x78,
        0x00, 0x00, 0x00, 0x65, 0x00, 0x00, 0x00, 0x00, 0x00,
    };
    /* clang-format on */
    struct fixture *f = *state;

    assert_int_equal(0, unpack_limited(f, zip, sizeof zip, &stk_archive_default_limits));
    expect_file(f, "EGG-INFO/PKG-INFO", "");
    expect_file(f, "app/jobs.py", LINE_5 LINE_5 LINE_5 LINE_5);
}

static void empty_archive_is_refused(void **state)
{
    struct fixture *f = *state;
    struct zip z = { 0 };

    stk_buf_add(&z.bytes, "", 0);
    stk_buf_add(&z.directory, "", 0);
    assert_int_equal(-1, unpack(f, &z));
    assert_int_equal(STK_INVALID, f->err.code);
}

static void what_is_no_archive_is_refused(void **state)
{
    static const char tar[1024] = "app/jobs.py";
    struct fixture *f = *state;

    assert_int_equal(-1, unpack_limited(f, "", 0, &stk_archive_default_limits));
    assert_int_equal(STK_INVALID, f->err.code);
    assert_non_null(strstr(f->err.msg, "not a zip"));
    assert_int_equal(-1, unpack_limited(f, "PK", 2, &stk_archive_default_limits));
    assert_int_equal(STK_INVALID, f->err.code);
    assert_int_equal(-1, unpack_limited(f, tar, sizeof tar, &stk_archive_default_limits));
    assert_int_equal(STK_INVALID, f->err.code);
    assert_int_equal(-1, stk_archive_unpack("/nowhere/a.zip", f->out_fd, &stk_archive_default_limits, &f->err));
    assert_int_equal(STK_INTERNAL, f->err.code);
}

/* ---- hostile ones */

static void paths_that_lead_out_are_refused(void **state)
{
    struct fixture *f = *state;

    expect_refused(f, (struct entry){ .name = "/etc/passwd", .data = "x" }, "absolute");
    expect_refused(f, (struct entry){ .name = "//etc/passwd", .data = "x" }, "absolute");
    expect_refused(f, (struct entry){ .name = "../evil.py", .data = "x" }, "..");
    expect_refused(f, (struct entry){ .name = "app/../../evil.py", .data = "x" }, "'..'");
    expect_refused(f, (struct entry){ .name = "app/..", .data = "x" }, "'..'");
    expect_refused(f, (struct entry){ .name = "..", .data = "x" }, "'..'");
    expect_refused(f, (struct entry){ .name = "../", .mode = S_IFDIR | 0755 }, "'..'");
    expect_refused(f, (struct entry){ .name = "/", .mode = S_IFDIR | 0755 }, "absolute");
    expect_refused(f, (struct entry){ .name = "app\\..\\../evil.py", .data = "x" }, "backslash");
}

/* libarchive takes the backslashes of a name without slashes for slashes, as DOS does: they are judged as such. */
static void backslashes_are_slashes_or_refused(void **state)
{
    struct fixture *f = *state;
    struct zip z = { 0 };

    for (int system = -1; system <= 0; system++) {
        zip_add(&z, (struct entry){ .name = "app\\jobs.py", .data = "x", .system = system });
        assert_int_equal(0, unpack(f, &z));
        expect_file(f, "app/jobs.py", "x");
        expect_refused(f, (struct entry){ .name = "..\\evil.py", .data = "x", .system = system }, "'..'");
        expect_refused(f, (struct entry){ .name = "\\evil.py", .data = "x", .system = system }, "absolute");
        expect_refused(f, (struct entry){ .name = "C:\\..\\evil.py", .data = "x", .system = system }, "'..'");
    }
}

static void names_that_deceive_are_refused(void **state)
{
    struct fixture *f = *state;
    char long_name[2000];

    expect_refused(f, (struct entry){ .name = "a\nb.py", .data = "x" }, "control");
    expect_refused(f, (struct entry){ .name = "a\x1b[31m.py", .data = "x" }, "control");
    expect_refused(f, (struct entry){ .name = "a\x7f.py", .data = "x" }, "control");
    expect_refused(f, (struct entry){ .name = "a\xff\xfe.py", .data = "x" }, "entry 2");
    expect_refused(f, (struct entry){ .name = "a\xff\xfe.py", .data = "x", .flags = UTF8_FLAG }, "entry 2");
    expect_refused(f, (struct entry){ .name = "a\xc0\xaf.py", .data = "x", .flags = UTF8_FLAG },
                   "entry 2"); /* overlong "/" */
    expect_refused(f, (struct entry){ .name = "app/.", .data = "x" }, "last part");
    memset(long_name, 'a', sizeof long_name);
    long_name[300] = '\0';
    expect_refused(f, (struct entry){ .name = long_name, .data = "x" }, "255");
    for (size_t i = 0; i < 1400; i++)
        long_name[i] = i % 100 ? 'a' : '/';
    long_name[0] = 'a';
    long_name[1400] = '\0';
    expect_refused(f, (struct entry){ .name = long_name, .data = "x" }, "longer than 1024");
    for (size_t i = 0; i < 202; i++)
        long_name[i] = i % 2 ? '/' : 'a';
    long_name[202] = '\0';
    expect_refused(f, (struct entry){ .name = long_name, .mode = S_IFDIR | 0755 }, "more than 100 parts");
}

/* A name ends at its NUL, as in Python: the twin is then a duplicate. */
static void nul_ends_a_name(void **state)
{
    struct fixture *f = *state;
    struct zip z = { 0 };

    zip_add(&z, (struct entry){ .name = "a.py\0/../../evil", .name_len = 16, .data = "x" });
    if (unpack(f, &z) == 0)
        expect_file(f, "a.py", "x");
    expect_refused(f, (struct entry){ .name = "first.py\0.txt", .name_len = 13, .data = "x" }, "");
    expect_refused(f, (struct entry){ .name = "\0first.py", .name_len = 9, .data = "x" }, "");
}

static void links_are_refused(void **state)
{
    struct fixture *f = *state;
    struct zip z = { 0 };

    expect_refused(f, (struct entry){ .name = "link", .data = "/etc", .mode = S_IFLNK | 0777 }, "link");

    /* write through a link: refused at the link already */
    zip_add(&z, (struct entry){ .name = "out", .data = "..", .mode = S_IFLNK | 0777 });
    zip_add(&z, (struct entry){ .name = "out/evil.py", .data = "x" });
    assert_int_equal(-1, unpack(f, &z));
    assert_int_equal(STK_INVALID, f->err.code);
}

/* libarchive makes plain files of them. */
static void devices_are_never_made(void **state)
{
    static const uint32_t types[] = { S_IFIFO, S_IFBLK, S_IFCHR, S_IFSOCK };
    struct fixture *f = *state;

    for (size_t i = 0; i < STK_LEN(types); i++) {
        struct zip z = { 0 };

        zip_add(&z, (struct entry){ .name = "device", .data = "x", .mode = types[i] | 0666 });
        if (unpack(f, &z) == 0)
            expect_file(f, "device", "x");
    }
}

static void nothing_comes_twice(void **state)
{
    struct fixture *f = *state;
    struct zip z = { 0 };

    expect_refused(f, (struct entry){ .name = "first.py", .data = "y" }, "'first.py': it is in the archive twice");
    expect_refused(f, (struct entry){ .name = "./first.py", .data = "y" }, "twice");
    expect_refused(f, (struct entry){ .name = "first.py/evil.py", .data = "y" }, "through a file");
    expect_refused(f, (struct entry){ .name = "first.py/", .mode = S_IFDIR | 0755 }, "through a file");
    zip_add(&z, (struct entry){ .name = "app/", .mode = S_IFDIR | 0755 });
    zip_add(&z, (struct entry){ .name = "app", .data = "x" });
    assert_int_equal(-1, unpack(f, &z));
    assert_int_equal(STK_INVALID, f->err.code);
}

static void wrong_checksums_and_sizes_are_refused(void **state)
{
    struct fixture *f = *state;

    expect_refused(f, (struct entry){ .name = "bad.py", .data = "x = 1", .crc_xor = 1 }, "CRC");
    expect_refused(f, (struct entry){ .name = "bad.py", .data = "x = 1", .size_claimed = 4 }, "bad.py");
    expect_refused(f, (struct entry){ .name = "bad.py", .data = "x = 1", .size_claimed = 1 << 30 }, "");
}

static void encrypted_is_refused(void **state)
{
    expect_refused(*state, (struct entry){ .name = "secret.py", .data = "123456789012xyz", .flags = ENCRYPTED_FLAG },
                   "encrypted");
}

static void limits_hold(void **state)
{
    struct fixture *f = *state;
    struct stk_archive_limits limits = { .max_entries = 5, .max_unpacked_bytes = 10, .max_path_bytes = 8 };
    struct zip z = { 0 };
    char name[16];

    for (int n = 5; n <= 6; n++) {
        for (int i = 0; i < n; i++) {
            snprintf(name, sizeof name, "%d.py", i);
            zip_add(&z, (struct entry){ .name = name, .data = i < 2 ? "12345" : NULL });
        }
        assert_int_equal(n == 5 ? 0 : -1, unpack_zip(f, &z, &limits));
    }
    assert_int_equal(STK_TOO_LARGE, f->err.code);
    assert_non_null(strstr(f->err.msg, "more than 5 entries"));

    zip_add(&z, (struct entry){ .name = "a", .data = "12345" });
    zip_add(&z, (struct entry){ .name = "b", .data = "123456" });
    assert_int_equal(-1, unpack_zip(f, &z, &limits));
    assert_int_equal(STK_TOO_LARGE, f->err.code);
    assert_non_null(strstr(f->err.msg, "more than 10 bytes"));

    zip_add(&z, (struct entry){ .name = "123456789" });
    assert_int_equal(-1, unpack_zip(f, &z, &limits));
    assert_int_equal(STK_INVALID, f->err.code);
    assert_non_null(strstr(f->err.msg, "longer than 8 bytes"));
}

/* ---- damage */

static void make_sample(struct zip *z)
{
    zip_add(z, (struct entry){ .name = "app/", .mode = S_IFDIR | 0755 });
    zip_add(z, (struct entry){ .name = "app/jobs.py", .data = "import os\nx = 1\n" });
    zip_add(z, (struct entry){ .name = "app/gr\xc3\xbc\xc3\x9f.py", .data = "y = 2\n", .flags = UTF8_FLAG });
    zip_end(z);
}

static void truncated_is_refused(void **state)
{
    struct fixture *f = *state;
    struct zip z = { 0 };

    make_sample(&z);
    assert_int_equal(0, unpack_limited(f, z.bytes.data, z.bytes.len, &stk_archive_default_limits));
    for (size_t n = 0; n < z.bytes.len; n += 7) {
        assert_int_equal(-1, unpack_limited(f, z.bytes.data, n, &stk_archive_default_limits));
        assert_int_equal(STK_INVALID, f->err.code);
    }
    stk_buf_done(&z.bytes);
}

/* Whatever a flipped bit means, it is answered, not crashed on, and nothing leaves the folder. */
static void flipped_bits_are_survived(void **state)
{
    struct fixture *f = *state;
    struct zip z = { 0 };
    struct stat st;

    make_sample(&z);
    for (size_t at = 0; at < z.bytes.len; at++) {
        for (int bit = 0; bit < 8; bit += 3) {
            z.bytes.data[at] = (char)(z.bytes.data[at] ^ 1 << bit);
            if (unpack_limited(f, z.bytes.data, z.bytes.len, &stk_archive_default_limits) < 0) {
                assert_true(f->err.code == STK_INVALID || f->err.code == STK_TOO_LARGE);
                assert_true(f->err.msg[0] && stk_utf8_valid(f->err.msg, strlen(f->err.msg)));
            }
            z.bytes.data[at] = (char)(z.bytes.data[at] ^ 1 << bit);
        }
    }
    assert_int_equal(-1, fstatat(f->dir_fd, "app", &st, 0));
    stk_buf_done(&z.bytes);
}

/* A file full of directory entries is refused before libarchive takes it into memory; signatures may straddle reads. */
static void directory_of_millions_is_refused(void **state)
{
    struct fixture *f = *state;
    struct stk_archive_limits limits = stk_archive_default_limits;
    struct stk_buf bytes = { 0 };

    limits.max_entries = 20000;
    while (bytes.len < 20001 * 47)
        stk_buf_add(&bytes, "PK\001\002 ...........................................", 47);
    assert_int_equal(-1, unpack_limited(f, bytes.data, bytes.len, &limits));
    assert_int_equal(STK_TOO_LARGE, f->err.code);
    assert_int_equal(-1, unpack_limited(f, bytes.data, bytes.len - 47, &limits));
    assert_int_equal(STK_INVALID, f->err.code); /* few enough, but no zip */
    stk_buf_done(&bytes);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(files_and_folders_are_unpacked),
        TEST(python_archive_is_unpacked),
        TEST(empty_archive_is_refused),
        TEST(what_is_no_archive_is_refused),
        TEST(paths_that_lead_out_are_refused),
        TEST(backslashes_are_slashes_or_refused),
        TEST(names_that_deceive_are_refused),
        TEST(nul_ends_a_name),
        TEST(links_are_refused),
        TEST(devices_are_never_made),
        TEST(nothing_comes_twice),
        TEST(wrong_checksums_and_sizes_are_refused),
        TEST(encrypted_is_refused),
        TEST(limits_hold),
        TEST(truncated_is_refused),
        TEST(flipped_bits_are_survived),
        TEST(directory_of_millions_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
