/*
 * Small files of the state directory. Reads and renames here happen on the loop, on rare paths (a process died, a context ends),
 * are of a few KiB that were just written, and so come from memory; anything larger is done in the background.
 */
#include "live.h"

#include "stoker/log.h"
#include "stoker/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum { SPOOL_MAX_BYTES = 2 << 20 };

int stk_state_dirs_make(int state_fd, struct stk_err *err)
{
    static const char *const names[] = { "blobs", "unpacked", "tmp", "contexts", "logs", "spool", "results", "data" };

    for (size_t i = 0; i < STK_LEN(names); i++) {
        if (mkdirat(state_fd, names[i], 0700) < 0 && errno != EEXIST)
            return stk_fail_sys(err, errno, "cannot make the folder '%s' in the state directory", names[i]);
    }
    return 0;
}

/* The last max bytes of a file; NULL when there is none or it is empty. */
static char *read_end(struct stk_core *core, const char *path, size_t max, size_t *ret_len)
{
    stk_auto_fd fd = openat(core->o.state_dir_fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    struct stat st;
    stk_auto_free char *text = NULL;
    size_t want, got = 0;

    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size == 0)
        return NULL;
    want = (size_t)st.st_size < max ? (size_t)st.st_size : max;
    text = malloc(want + 1);
    if (!text)
        return NULL;
    while (got < want) {
        ssize_t n = pread(fd, text + got, want - got, st.st_size - (off_t)want + (off_t)got);

        if (n <= 0)
            break;
        got += (size_t)n;
    }
    text[got] = '\0';
    *ret_len = got;
    return stk_steal_ptr(&text);
}

char *file_tail(struct stk_core *core, const char *path, size_t max)
{
    size_t len, start = 0;
    char *text = read_end(core, path, max, &len);

    if (!text)
        return NULL;
    if (len == max) { /* cut: begin with a whole line */
        char *line = memchr(text, '\n', len);

        start = line && line + 1 < text + len ? (size_t)(line + 1 - text) : 0;
    }
    memmove(text, text + start, len - start + 1);
    len -= start;
    for (size_t i = 0; i < len && !stk_utf8_valid(text, len); i++) { /* not text: keep what is plain */
        if ((text[i] & 0x80) || !text[i])
            text[i] = '?';
    }
    return text;
}

static json_t *read_json(struct stk_core *core, const char *path)
{
    size_t len;
    stk_auto_free char *text = read_end(core, path, SPOOL_MAX_BYTES, &len);
    json_t *value = text ? json_loadb(text, len, JSON_ALLOW_NUL, NULL) : NULL;

    if (json_is_object(value))
        return value;
    if (text)
        stk_warn("files", "not a JSON object, ignored", "file", path);
    json_decref(value);
    return NULL;
}

static void spool_path(char path[160], const char *job, int attempt)
{
    snprintf(path, 160, "spool/%s.%d", job, attempt);
}

json_t *spool_read(struct stk_core *core, const char *job, int attempt)
{
    char path[160];

    spool_path(path, job, attempt);
    return read_json(core, path);
}

void spool_remove(struct stk_core *core, const char *job, int attempt)
{
    char path[160];

    spool_path(path, job, attempt);
    unlinkat(core->o.state_dir_fd, path, 0);
}

json_t *spool_read_exit(struct stk_core *core, const char *context, const char *process)
{
    char path[160];

    snprintf(path, sizeof path, "spool/exit.%s.%s", context, process);
    return read_json(core, path);
}

void spool_remove_exit(struct stk_core *core, const char *context, const char *process)
{
    char path[160];

    snprintf(path, sizeof path, "spool/exit.%s.%s", context, process);
    unlinkat(core->o.state_dir_fd, path, 0);
}

void logs_keep(struct job *job, const char *process)
{
    static const char *const streams[] = { "stdout", "stderr" };
    int dir = job->core->o.state_dir_fd;

    for (size_t i = 0; i < STK_LEN(streams); i++) {
        char from[64], to[96];
        struct stat st;

        snprintf(from, sizeof from, "logs/%s.%s", process, streams[i]);
        snprintf(to, sizeof to, "logs/%s.%d.%s", job->row.id, job->row.attempt, streams[i]);
        /* Its worker may have come so far: what it has printed since is not the job's. */
        if (fstatat(dir, to, &st, AT_SYMLINK_NOFOLLOW) < 0)
            renameat(dir, from, dir, to);
        if (fstatat(dir, to, &st, AT_SYMLINK_NOFOLLOW) == 0)
            job->row.output_bytes[i] = st.st_size;
    }
}

/*
 * Temporary files whose writers were killed. A writer takes milliseconds from making its file to renaming it: an older one
 * has no writer.
 */
void spool_sweep(struct stk_core *core)
{
    enum { OLD_S = 60 };
    int fd = openat(core->o.state_dir_fd, "spool", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    struct dirent *e;
    struct stat st;

    if (!dir)
        return;
    while ((e = readdir(dir))) {
        size_t len = strlen(e->d_name);

        if (len > 4 && strcmp(e->d_name + len - 4, ".tmp") == 0 &&
            fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && time(NULL) - st.st_mtime > OLD_S)
            unlinkat(fd, e->d_name, 0);
    }
    closedir(dir);
}

/* ---- a context's directory */

static int write_file(int dir, const char *name, const char *text, bool durable, struct stk_err *err)
{
    stk_auto_fd fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    size_t len = strlen(text), done = 0;

    if (fd < 0)
        return stk_fail_sys(err, errno, "cannot write %s", name);
    while (done < len) {
        ssize_t n = write(fd, text + done, len - done);

        if (n < 0 && errno != EINTR)
            return stk_fail_sys(err, errno, "cannot write %s", name);
        done += n > 0 ? (size_t)n : 0;
    }
    return durable && fsync(fd) < 0 ? stk_fail_sys(err, errno, "cannot write %s", name) : 0;
}

int context_dir_make(struct stk_core *core, const char *id, const char *spec, bool durable, struct stk_err *err)
{
    char path[64];
    stk_auto_fd dir = -1;

    snprintf(path, sizeof path, "contexts/%s", id);
    if (mkdirat(core->o.state_dir_fd, path, 0700) < 0 && errno != EEXIST)
        return stk_fail_sys(err, errno, "cannot make the context's directory");
    dir = openat(core->o.state_dir_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return stk_fail_sys(err, errno, "cannot open the context's directory");
    return write_file(dir, "spec.json", spec, durable, err);
}

struct removal {
    struct stk_core *core;
    char id[STK_UUID_MAX];
    void (*after)(void *arg);
    void *arg;
};

/* Exit statuses of the context's processes, and what a kill left half written of them. */
static void remove_exits(struct removal *r)
{
    char prefix[64];
    int fd = openat(r->core->o.state_dir_fd, "spool", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    struct dirent *e;

    if (!dir)
        return;
    snprintf(prefix, sizeof prefix, "exit.%s.", r->id);
    while ((e = readdir(dir))) {
        if (strncmp(e->d_name, prefix, strlen(prefix)) == 0)
            unlinkat(fd, e->d_name, 0);
    }
    closedir(dir);
}

static void remove_dir(void *arg)
{
    struct removal *r = arg;
    char from[80], to[64];

    remove_exits(r);
    snprintf(from, sizeof from, "contexts/%s/context.log", r->id);
    snprintf(to, sizeof to, "logs/context.%s.log", r->id);
    renameat(r->core->o.state_dir_fd, from, r->core->o.state_dir_fd, to);
    snprintf(from, sizeof from, "contexts/%s", r->id);
    if (stk_remove_tree(r->core->o.state_dir_fd, from) < 0)
        stk_warn("files", "a context's directory could not be removed whole", "folder", from);
}

static void on_removed(void *arg)
{
    struct removal *r = arg;

    if (r->after)
        r->after(r->arg);
    free(r);
}

void context_dir_remove(struct stk_core *core, const char *id, void (*after)(void *arg), void *arg)
{
    struct removal *r = calloc(1, sizeof *r);

    if (!r) { /* swept later */
        if (after)
            after(arg);
        return;
    }
    *r = (struct removal){ .core = core, .after = after, .arg = arg };
    snprintf(r->id, sizeof r->id, "%s", id);
    stk_loop_background(core->loop, remove_dir, on_removed, r);
}
