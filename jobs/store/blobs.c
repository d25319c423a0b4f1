/*
 * The files beside the database:
 *
 *     blobs/<digest>      what was uploaded           unpacked/<digest>/   the same, unpacked
 *     tmp/                uploads on their way; tmp/trash-<hex>: what is to be removed
 *
 * A file gets its place before the row that names it is committed and loses it after that row is gone, so a crash leaves
 * files that no row names, never the opposite; the next open sweeps them. Large trees are not removed where they stand but
 * renamed into the trash, which a thread of its own empties: the writer must not wait for a hundred thousand unlinks.
 */
#include "internal.h"

#include "stoker/log.h"
#include "stoker/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define TRASH "trash-"
enum { TRASH_NAME_MAX = 32, NAME_HEX_BYTES = 8 };

/* ---- folders */

static int open_folder(struct stk_store *s, const char *name, int *ret, struct stk_err *err)
{
    int fd;

    if (mkdirat(s->options.dir_fd, name, 0700) < 0 && errno != EEXIST)
        return stk_fail_sys(err, errno, "create %s/%s", s->dir, name);
    fd = openat(s->options.dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return stk_fail_sys(err, errno, "open %s/%s", s->dir, name);
    *ret = fd;
    return 0;
}

int stk_files_open(struct stk_store *s, struct stk_err *err)
{
    if (open_folder(s, "tmp", &s->tmp_fd, err) < 0 || open_folder(s, "blobs", &s->blobs_fd, err) < 0 ||
        open_folder(s, "unpacked", &s->unpacked_fd, err) < 0)
        return -1;
    if (fsync(s->options.dir_fd) < 0)
        return stk_fail_sys(err, errno, "sync %s", s->dir);
    return 0;
}

void stk_files_close(struct stk_store *s)
{
    stk_close_fd_(&s->tmp_fd);
    stk_close_fd_(&s->blobs_fd);
    stk_close_fd_(&s->unpacked_fd);
}

/* ---- the trash */

/* Takes a name away for good; that it is not there is fine. */
static void trash(struct stk_store *s, int fd, const char *name)
{
    char to[TRASH_NAME_MAX] = TRASH;

    stk_random_hex(to + strlen(TRASH), NAME_HEX_BYTES);
    if (renameat(fd, name, s->tmp_fd, to) < 0) {
        if (errno != ENOENT)
            stk_warn("store", "cannot remove", "name", name, "reason", strerrorname_np(errno));
        return;
    }
    pthread_mutex_lock(&s->trash_lock);
    s->trash_waiting = true;
    pthread_cond_signal(&s->trash_cond);
    pthread_mutex_unlock(&s->trash_lock);
}

void stk_files_discard(struct stk_store *s, const char *tmp_name)
{
    if (tmp_name)
        trash(s, s->tmp_fd, tmp_name);
}

typedef void visit_fn(struct stk_store *s, int fd, const char *name, void *arg);

/* Calls visit for each name in a folder, but "." and "..". */
static int each_name(struct stk_store *s, int folder_fd, visit_fn *visit, void *arg)
{
    int fd = openat(folder_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* its own position */
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *entry;

    if (!dir) {
        if (fd >= 0)
            close(fd);
        return -1;
    }
    while ((errno = 0, entry = readdir(dir))) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            visit(s, folder_fd, entry->d_name, arg);
    }
    closedir(dir);
    return 0;
}

static bool is_trash(const char *name)
{
    return strncmp(name, TRASH, strlen(TRASH)) == 0;
}

static void empty_one(struct stk_store *s, int fd, const char *name, void *arg)
{
    (void)s;
    (void)arg;
    if (is_trash(name) && stk_remove_tree(fd, name) < 0)
        stk_warn("store", "cannot empty the trash", "name", name, "reason", strerrorname_np(errno));
}

static void *trash_main(void *arg)
{
    struct stk_store *s = arg;

    pthread_mutex_lock(&s->trash_lock);
    for (;;) {
        while (!s->trash_waiting && !s->trash_stop)
            pthread_cond_wait(&s->trash_cond, &s->trash_lock);
        if (!s->trash_waiting)
            break;
        s->trash_waiting = false;
        pthread_mutex_unlock(&s->trash_lock);
        each_name(s, s->tmp_fd, empty_one, NULL);
        pthread_mutex_lock(&s->trash_lock);
    }
    pthread_mutex_unlock(&s->trash_lock);
    return NULL;
}

int stk_files_trash_start(struct stk_store *s, struct stk_err *err)
{
    int rc = pthread_create(&s->trash_thread, NULL, trash_main, s);

    if (rc != 0)
        return stk_fail_sys(err, rc, "start the store's sweeper");
    pthread_setname_np(s->trash_thread, "store-sweeper");
    s->trash_runs = true;
    return 0;
}

void stk_files_trash_stop(struct stk_store *s)
{
    if (!s->trash_runs)
        return;
    pthread_mutex_lock(&s->trash_lock);
    s->trash_stop = true;
    pthread_cond_signal(&s->trash_cond);
    pthread_mutex_unlock(&s->trash_lock);
    pthread_join(s->trash_thread, NULL);
    s->trash_runs = false;
}

/* ---- blobs */

static bool is_digest(const char *name)
{
    size_t hex = strspn(name, "0123456789abcdef");

    return hex == STK_DIGEST_MAX - 1 && name[hex] == '\0';
}

/* 1: a row refers to it, 0: none does, -1: SQLite failed. */
static int digest_used(struct stk_db *db, const char *digest)
{
    stk_auto_stmt *stmt = stk_db_use(db, STK_SQL_DIGEST_USED);

    stk_db_bind_str(db, stmt, 1, digest);
    if (stk_db_step(db, stmt) != 1)
        return -1;
    return sqlite3_column_int(stmt, 0) != 0;
}

void stk_files_unlink(struct stk_store *s, const char *digest)
{
    if (digest_used(&s->writer, digest) != 0)
        return; /* if it could not be asked: the next open asks again */
    trash(s, s->unpacked_fd, digest);
    trash(s, s->blobs_fd, digest);
}

/*
 * Gives a file its place; its bytes are on the disk before its name is. An upload's thread has synced it already, since that
 * one may wait and this one should not: then fsync() has nothing to do.
 */
static int link_blob(struct stk_store *s, const char *digest, int64_t bytes, const char *tmp_name, struct stk_err *err)
{
    struct stat st;
    stk_auto_fd fd = -1;

    if (fstatat(s->blobs_fd, digest, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) && st.st_size == bytes)
        return 0;
    fd = openat(s->tmp_fd, tmp_name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0)
        return stk_fail_sys(err, errno, "sync tmp/%s", tmp_name);
    if (renameat(s->tmp_fd, tmp_name, s->blobs_fd, digest) < 0)
        return stk_fail_sys(err, errno, "rename tmp/%s to blobs/%s", tmp_name, digest);
    if (fsync(s->blobs_fd) < 0)
        return stk_fail_sys(err, errno, "sync blobs/");
    return 0;
}

static int link_unpacked(struct stk_store *s, const char *digest, const char *tmp_name, struct stk_err *err)
{
    if (faccessat(s->unpacked_fd, digest, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return 0;
    if (renameat(s->tmp_fd, tmp_name, s->unpacked_fd, digest) < 0)
        return stk_fail_sys(err, errno, "rename tmp/%s to unpacked/%s", tmp_name, digest);
    if (fsync(s->unpacked_fd) < 0)
        return stk_fail_sys(err, errno, "sync unpacked/");
    return 0;
}

int stk_files_link(struct stk_store *s, const char *digest, int64_t bytes, const char *blob_tmp,
                   const char *unpacked_tmp, struct stk_err *err)
{
    if (!is_digest(digest))
        return stk_fail(err, STK_INTERNAL, "'%s' is not a digest", digest);
    if (unpacked_tmp && link_unpacked(s, digest, unpacked_tmp, err) < 0)
        return -1;
    return link_blob(s, digest, bytes, blob_tmp, err);
}

/* ---- what a crash left */

static void sweep_tmp(struct stk_store *s, int fd, const char *name, void *arg)
{
    (void)arg;
    trash(s, fd, name);
}

static void sweep_digest(struct stk_store *s, int fd, const char *name, void *arg)
{
    int *failed = arg;
    int used;

    if (!is_digest(name)) {
        stk_warn("store", "not a blob, left alone", "name", name);
        return;
    }
    used = digest_used(&s->writer, name);
    if (used < 0)
        *failed = 1;
    else if (!used)
        trash(s, fd, name);
}

int stk_files_sweep(struct stk_store *s, struct stk_err *err)
{
    int failed = 0;

    if (each_name(s, s->tmp_fd, sweep_tmp, NULL) < 0 || each_name(s, s->blobs_fd, sweep_digest, &failed) < 0 ||
        each_name(s, s->unpacked_fd, sweep_digest, &failed) < 0)
        return stk_fail_sys(err, errno, "sweep %s", s->dir);
    if (failed)
        return stk_db_fail(&s->writer, err, "sweep");
    return 0;
}
