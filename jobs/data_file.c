/* Files that clients leave for jobs: a folder, and nothing else that could disagree with it. */
#include "stoker/data_file.h"

#include "live.h"

#include "stoker/clock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define FOLDER "data"
#define SUFFIX ".dat"

enum {
    PREFIX_MAX = 200, /* bytes; with time and suffix a name has at most 255 */
    FILE_NAME_BYTES = 256,
    TRIES = 1000, /* milliseconds that a name is moved on when others have the same */
};

struct stk_data_upload {
    struct stk_core *core;
    int fd;
    char temporary[40]; /* in the state directory; the store's next open sweeps what a crash left */
    char prefix[PREFIX_MAX + 1];
    uint64_t bytes;
};

/* It must stay one name in one folder, whatever a dialect lets through. */
static int check_prefix(const char *prefix, struct stk_err *err)
{
    if (!*prefix || strlen(prefix) > PREFIX_MAX)
        return stk_fail(err, STK_INVALID, "the file's name must have 1 to %d bytes", PREFIX_MAX);
    if (strchr(prefix, '/') || prefix[0] == '.')
        return stk_fail(err, STK_INVALID, "the file's name must not hold a '/' or begin with a '.'");
    return 0;
}

struct stk_data_upload *stk_data_upload_open(struct stk_core *core, const char *prefix, struct stk_err *err)
{
    struct stk_data_upload *up;
    char digits[25];

    if (check_prefix(prefix, err) < 0 || disk_check(core, err) < 0)
        return NULL;
    up = calloc(1, sizeof *up);
    if (!up) {
        stk_fail(err, STK_INTERNAL, "out of memory");
        return NULL;
    }
    up->core = core;
    snprintf(up->prefix, sizeof up->prefix, "%s", prefix);
    stk_random_hex(digits, 12);
    snprintf(up->temporary, sizeof up->temporary, "tmp/%s.data", digits);
    up->fd = openat(core->o.state_dir_fd, up->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (up->fd < 0) {
        stk_fail_sys(err, errno, "cannot write the upload");
        free(up);
        return NULL;
    }
    return up;
}

int stk_data_upload_write(struct stk_data_upload *up, const void *bytes, size_t n, struct stk_err *err)
{
    up->bytes += n;
    if (up->bytes > up->core->o.max_upload_bytes)
        return stk_fail(err, STK_TOO_LARGE, "the file is larger than %llu bytes, the limit 'max-upload'",
                        (unsigned long long)up->core->o.max_upload_bytes);
    if (disk_check(up->core, err) < 0)
        return -1;
    return stk_write_all(up->fd, bytes, n) < 0 ? stk_fail_sys(err, errno, "cannot write the upload") : 0;
}

void stk_data_upload_abort(struct stk_data_upload *up)
{
    if (!up)
        return;
    close(up->fd);
    unlinkat(up->core->o.state_dir_fd, up->temporary, 0);
    free(up);
}

/* "<prefix>-2016-07-04T09_09_57.928+05_30.dat" */
static void compose(char name[FILE_NAME_BYTES], const char *prefix, int64_t wall_us)
{
    char when[STK_TIME_MAX];

    stk_time_local(when, wall_us);
    for (char *p = when; *p; p++) {
        if (*p == ':')
            *p = '_';
    }
    snprintf(name, FILE_NAME_BYTES, "%.*s-%.40s" SUFFIX, PREFIX_MAX, prefix, when);
}

static int give_name(struct stk_data_upload *up, char name[FILE_NAME_BYTES], struct stk_err *err)
{
    int state = up->core->o.state_dir_fd;
    stk_auto_fd folder = openat(state, FOLDER, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int64_t now = stk_wall_us();

    if (folder < 0)
        return stk_fail_sys(err, errno, "cannot open the folder " FOLDER "/");
    for (int i = 0; i < TRIES; i++) {
        compose(name, up->prefix, now + i * 1000);
        if (renameat2(state, up->temporary, folder, name, RENAME_NOREPLACE) == 0) {
            if (fsync(folder) == 0)
                return 0;
            stk_fail_sys(err, errno, "cannot write the upload");
            unlinkat(folder, name, 0); /* who is told that it failed uploads it again */
            return -1;
        }
        if (errno != EEXIST)
            break;
    }
    return stk_fail_sys(err, errno, "cannot name the upload");
}

static char *path_of(const struct stk_core *core, const char *name)
{
    char *path;

    return asprintf(&path, "%s/" FOLDER "/%s", core->o.state_dir, name) < 0 ? NULL : path;
}

char *stk_data_upload_commit(struct stk_data_upload *up, struct stk_err *err)
{
    char name[FILE_NAME_BYTES], *path = NULL;

    if (fsync(up->fd) < 0)
        stk_fail_sys(err, errno, "cannot write the upload");
    else if (give_name(up, name, err) == 0 && !(path = path_of(up->core, name)))
        stk_fail(err, STK_INTERNAL, "out of memory");
    stk_data_upload_abort(up); /* what has its place is not there any more */
    return path;
}

/* The folder's files; NULL with err. */
static DIR *open_folder(const struct stk_core *core, struct stk_err *err)
{
    int fd = openat(core->o.state_dir_fd, FOLDER, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);

    if (!dir) {
        stk_fail_sys(err, errno, "cannot open the folder " FOLDER "/");
        if (fd >= 0)
            close(fd);
    }
    return dir;
}

static bool is_data_file(const char *name)
{
    size_t len = strlen(name);

    return name[0] != '.' && len > strlen(SUFFIX) && strcmp(name + len - strlen(SUFFIX), SUFFIX) == 0;
}

json_t *stk_data_list(struct stk_core *core, struct stk_err *err)
{
    DIR *dir = open_folder(core, err);
    json_t *list = dir ? json_array() : NULL;
    struct dirent *entry;

    while (list && (entry = readdir(dir))) {
        stk_auto_free char *path = is_data_file(entry->d_name) ? path_of(core, entry->d_name) : NULL;

        if (path)
            json_array_append_new(list, json_string(path));
    }
    if (dir)
        closedir(dir);
    if (dir && !list)
        stk_fail(err, STK_INTERNAL, "out of memory");
    return list;
}

int stk_data_delete(struct stk_core *core, const char *path, struct stk_err *err)
{
    stk_auto_fd folder = openat(core->o.state_dir_fd, FOLDER, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    stk_auto_free char *root = path_of(core, "");
    const char *name;

    if (folder < 0 || !root)
        return stk_fail_sys(err, folder < 0 ? errno : ENOMEM, "cannot open the folder " FOLDER "/");
    name = strncmp(path, root, strlen(root)) == 0 ? path + strlen(root) : "";
    if (strchr(name, '/') || !is_data_file(name) || (unlinkat(folder, name, 0) < 0 && errno == ENOENT))
        return stk_fail(err, STK_NOT_FOUND, "there is no data file %.150s", path);
    if (faccessat(folder, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0 || fsync(folder) < 0)
        return stk_fail_sys(err, errno, "cannot delete %.150s", path);
    return 0;
}

int stk_data_reset(struct stk_core *core, struct stk_err *err)
{
    DIR *dir = open_folder(core, err);
    struct dirent *entry;
    int rc = 0;

    if (!dir)
        return -1;
    while ((entry = readdir(dir))) {
        if (is_data_file(entry->d_name) && unlinkat(dirfd(dir), entry->d_name, 0) < 0 && errno != ENOENT)
            rc = stk_fail_sys(err, errno, "cannot delete " FOLDER "/%.150s", entry->d_name);
    }
    if (rc == 0 && fsync(dirfd(dir)) < 0)
        rc = stk_fail_sys(err, errno, "cannot delete " FOLDER "/");
    closedir(dir);
    return rc;
}
