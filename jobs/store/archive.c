/*
 * Unpacking with libarchive's seekable zip reader: it follows the central directory, as Python does, where the streaming
 * reader would believe the local headers alone.
 *
 * What libarchive decides before it shows us an entry: a name ends at its first NUL byte (as for Python's zipfile), in a name
 * without slashes backslashes are slashes, and a device is a plain file.
 */
#include "stoker/archive.h"

#include "stoker/buf.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <locale.h>
#include <string.h>
#include <sys/stat.h>

enum {
    READ_BYTES = 256 * 1024,
    DEPTH_MAX = 100, /* parts of a path; stk_remove_tree() has to get to the ground of it again */
};

const struct stk_archive_limits stk_archive_default_limits = {
    .max_entries = 100000,
    .max_unpacked_bytes = 4ULL << 30,
    .max_path_bytes = 1024,
};

struct unpack {
    struct archive *archive;
    int dir_fd; /* borrowed */
    const struct stk_archive_limits *limits;
    uint64_t entries, bytes; /* so far */
    /* The folder of the last entry stays open: archives list their files folder by folder. */
    int folder_fd;
    char *folder; /* its path, "" for dir_fd itself */
};

/* What libarchive says: the archive's fault, unless it is the machine's. */
static int fail_archive(struct unpack *u, struct stk_err *err)
{
    int sys = archive_errno(u->archive);
    const char *reason = archive_error_string(u->archive);

    if (sys == ENOMEM || sys == EIO)
        return stk_fail_sys(err, sys, "read the archive");
    return stk_fail(err, STK_INVALID, "%s", reason ? reason : "the archive is damaged");
}

/* ---- names */

/* A file name without surprises: UTF-8, no control characters, relative, no "..", components that a file system takes. */
static int check_path(const struct unpack *u, const char *path, struct stk_err *err)
{
    size_t len = path ? strlen(path) : 0;
    int parts = 0;

    if (len == 0)
        return stk_fail(err, STK_INVALID, "it has no name, or one that is not UTF-8");
    if (len > u->limits->max_path_bytes)
        return stk_fail(err, STK_INVALID, "its name is longer than %llu bytes",
                        (unsigned long long)u->limits->max_path_bytes);
    if (!stk_utf8_valid(path, len))
        return stk_fail(err, STK_INVALID, "its name is not UTF-8");
    for (const char *p = path; *p; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return stk_fail(err, STK_INVALID, "its name holds control characters");
        if (*p == '\\')
            return stk_fail(err, STK_INVALID, "its name holds a backslash");
    }
    if (path[0] == '/')
        return stk_fail(err, STK_INVALID, "its path is absolute");
    for (const char *p = path; *p;) {
        size_t n = strcspn(p, "/");

        if (n == 2 && p[0] == '.' && p[1] == '.')
            return stk_fail(err, STK_INVALID, "its path contains '..'");
        if (++parts > DEPTH_MAX)
            return stk_fail(err, STK_INVALID, "its path has more than %d parts", DEPTH_MAX);
        if (n > NAME_MAX)
            return stk_fail(err, STK_INVALID, "its path has a part of more than %d bytes", NAME_MAX);
        p += n + (p[n] == '/');
    }
    return 0;
}

static int check_entry(const struct unpack *u, struct archive_entry *entry, struct stk_err *err)
{
    if (check_path(u, archive_entry_pathname(entry), err) < 0)
        return -1;
    if (archive_entry_is_encrypted(entry))
        return stk_fail(err, STK_INVALID, "it is encrypted");
    if (archive_entry_hardlink(entry) || archive_entry_filetype(entry) == AE_IFLNK)
        return stk_fail(err, STK_INVALID, "it is a link");
    if (archive_entry_filetype(entry) != AE_IFREG && archive_entry_filetype(entry) != AE_IFDIR)
        return stk_fail(err, STK_INVALID, "it is neither a file nor a folder");
    return 0;
}

/* ---- folders */

/* Opens the folder `name` in fd, made when it is missing. */
static int enter(int fd, const char *name, struct stk_err *err)
{
    bool made = mkdirat(fd, name, 0755) == 0;
    int next;

    if (!made && errno != EEXIST)
        return stk_fail_sys(err, errno, "create a folder");
    next = openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (next < 0 && errno == ENOTDIR)
        return stk_fail(err, STK_INVALID, "its path leads through a file");
    if (next < 0)
        return stk_fail_sys(err, errno, "open a folder");
    if (made && fchmod(next, 0755) < 0) { /* whatever the umask is */
        stk_fail_sys(err, errno, "create a folder");
        close(next);
        return -1;
    }
    return next;
}

/* Makes u->folder_fd the folder at path (len bytes of it), made with all above it. */
static int go_to_folder(struct unpack *u, const char *path, size_t len, struct stk_err *err)
{
    stk_auto_free char *copy = NULL;
    stk_auto_fd fd = -1;
    char *rest;

    if (u->folder && strlen(u->folder) == len && memcmp(u->folder, path, len) == 0)
        return 0;
    copy = strndup(path, len);
    rest = copy ? strdup(copy) : NULL;
    free(u->folder);
    u->folder = rest;
    if (!rest)
        return stk_fail(err, STK_INTERNAL, "out of memory");

    fd = fcntl(u->dir_fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        return stk_fail_sys(err, errno, "open a folder");
    for (char *p = copy, *name; (name = strsep(&p, "/"));) {
        int next;

        if (name[0] == '\0' || strcmp(name, ".") == 0)
            continue;
        if ((next = enter(fd, name, err)) < 0) {
            free(u->folder);
            u->folder = NULL;
            return -1;
        }
        close(fd);
        fd = next;
    }
    stk_close_fd_(&u->folder_fd);
    u->folder_fd = stk_steal_fd(&fd);
    return 0;
}

/* ---- files */

/* Sizes in headers are claims: what is counted is what comes out. */
static int write_data(struct unpack *u, int fd, struct stk_err *err)
{
    const void *block;
    size_t n;
    la_int64_t offset, expected = 0;
    int rc;

    while ((rc = archive_read_data_block(u->archive, &block, &n, &offset)) == ARCHIVE_OK) {
        if (offset != expected)
            return stk_fail(err, STK_INVALID, "it has holes");
        if (n > u->limits->max_unpacked_bytes - u->bytes)
            return stk_fail(err, STK_TOO_LARGE, "the archive unpacks to more than %llu bytes",
                            (unsigned long long)u->limits->max_unpacked_bytes);
        u->bytes += n;
        expected += (la_int64_t)n;
        if (stk_write_all(fd, block, n) < 0)
            return stk_fail_sys(err, errno, "write");
    }
    return rc == ARCHIVE_EOF ? 0 : fail_archive(u, err); /* truncated, CRC, a size that is wrong */
}

static int unpack_file(struct unpack *u, const char *path, struct stk_err *err)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    stk_auto_fd fd = -1;

    if (name[0] == '\0' || strcmp(name, ".") == 0)
        return stk_fail(err, STK_INVALID, "its path has no last part");
    if (go_to_folder(u, path, slash ? (size_t)(slash - path) : 0, err) < 0)
        return -1;
    fd = openat(u->folder_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0 && errno == EEXIST)
        return stk_fail(err, STK_INVALID, "it is in the archive twice");
    if (fd < 0 || fchmod(fd, 0644) < 0)
        return stk_fail_sys(err, errno, "create the file");
    if (write_data(u, fd, err) < 0)
        return -1;
    if (close(stk_steal_fd(&fd)) < 0) /* some file systems tell of a full disk only here */
        return stk_fail_sys(err, errno, "write");
    return 0;
}

static int unpack_entry(struct unpack *u, struct archive_entry *entry, struct stk_err *err)
{
    const char *path;

    if (check_entry(u, entry, err) < 0)
        return -1;
    path = archive_entry_pathname(entry);
    if (archive_entry_filetype(entry) == AE_IFDIR)
        return go_to_folder(u, path, strlen(path), err);
    return unpack_file(u, path, err);
}

/* Says which entry it was, by name if that can be shown. */
static int blame(const struct unpack *u, struct archive_entry *entry, struct stk_err *err)
{
    const char *path = archive_entry_pathname(entry);

    if (check_path(u, path, NULL) == 0)
        stk_err_prefix(err, "'%.*s'", (int)stk_utf8_cut(path, 100), path);
    else
        stk_err_prefix(err, "entry %llu", (unsigned long long)u->entries);
    return -1;
}

/* ---- the archive */

/*
 * libarchive reads the whole central directory into memory before it returns the first entry, so a file full of nothing
 * else has to be refused before. Each entry has this signature; that they are counted wherever they stand keeps the bound
 * true however the file is put together.
 */
static int count_entries(int fd, uint64_t max, struct stk_err *err)
{
    static const char signature[4] = "PK\001\002";
    stk_auto_free char *buf = malloc(READ_BYTES);
    uint64_t found = 0;
    size_t kept = 0; /* bytes of the last read that may begin a signature */

    if (!buf)
        return stk_fail(err, STK_INTERNAL, "out of memory");
    for (;;) {
        ssize_t n = read(fd, buf + kept, READ_BYTES - kept);
        size_t have;

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return stk_fail_sys(err, errno, "read the archive");
        if (n == 0)
            return 0;
        have = kept + (size_t)n;
        for (char *p = buf; (p = memmem(p, have - (size_t)(p - buf), signature, sizeof signature));
             p += sizeof signature) {
            if (++found > max)
                return stk_fail(err, STK_TOO_LARGE, "the archive has more than %llu entries", (unsigned long long)max);
        }
        kept = have < sizeof signature - 1 ? have : sizeof signature - 1;
        memmove(buf, buf + have - kept, kept);
    }
}

static int open_archive(struct unpack *u, int fd, struct stk_err *err)
{
    u->archive = archive_read_new();
    if (!u->archive)
        return stk_fail(err, STK_INTERNAL, "out of memory");
    if (archive_read_support_format_zip_seekable(u->archive) != ARCHIVE_OK)
        return fail_archive(u, err);
    if (archive_read_open_fd(u->archive, fd, READ_BYTES) != ARCHIVE_OK)
        return archive_errno(u->archive) == ENOMEM ? fail_archive(u, err)
                                                   : stk_fail(err, STK_INVALID, "not a zip archive");
    return 0;
}

static int unpack_all(struct unpack *u, struct stk_err *err)
{
    struct archive_entry *entry;
    int rc;

    while ((rc = archive_read_next_header(u->archive, &entry)) == ARCHIVE_OK || rc == ARCHIVE_WARN) {
        u->entries++;
        if (u->entries > u->limits->max_entries)
            return stk_fail(err, STK_TOO_LARGE, "the archive has more than %llu entries",
                            (unsigned long long)u->limits->max_entries);
        /* A warning is a name that is not UTF-8, or two headers that contradict each other. */
        if (rc == ARCHIVE_WARN) {
            fail_archive(u, err);
            return blame(u, entry, err);
        }
        if (unpack_entry(u, entry, err) < 0)
            return blame(u, entry, err);
    }
    if (rc == ARCHIVE_EOF)
        return 0;
    fail_archive(u, err);
    if (u->entries == 0 && err && err->code == STK_INVALID) /* "Unrecognized archive format" and the like */
        return stk_fail(err, STK_INVALID, "not a zip archive, or a damaged one");
    return -1;
}

int stk_archive_unpack(const char *path, int dir_fd, const struct stk_archive_limits *limits, struct stk_err *err)
{
    struct unpack u = { .dir_fd = dir_fd, .limits = limits, .folder_fd = -1 };
    stk_auto_fd fd = open(path, O_RDONLY | O_CLOEXEC);
    locale_t utf8, before;
    int rc;

    if (fd < 0)
        return stk_fail_sys(err, errno, "open the archive");
    if (count_entries(fd, limits->max_entries, err) < 0)
        return -1;
    if (lseek(fd, 0, SEEK_SET) < 0)
        return stk_fail_sys(err, errno, "read the archive");
    /* libarchive converts names to the encoding of the locale: let that be UTF-8 in this thread, whatever the server has. */
    utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    if (!utf8)
        return stk_fail_sys(err, errno, "locale C.UTF-8");
    before = uselocale(utf8);

    rc = open_archive(&u, fd, err);
    if (rc == 0)
        rc = unpack_all(&u, err);
    /*
     * After a crash a file that is empty or missing must not pass for what was uploaded. One syncfs() here, before the caller
     * renames the folder into place, costs a few ms; an fsync() per file costs that per file, for up to 100,000 of them. It
     * also covers the archive itself, written just before on the same file system.
     */
    if (rc == 0 && syncfs(dir_fd) < 0)
        rc = stk_fail_sys(err, errno, "sync");

    uselocale(before);
    freelocale(utf8);
    archive_read_free(u.archive); /* NULL is fine */
    stk_close_fd_(&u.folder_fd);
    free(u.folder);
    return rc;
}
