/* Results: the forms they come in, and the files of those that do not lie in the database. */
#include "live.h"

#include "stoker/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

/* ---- forms */

static const struct stk_result_form forms[] = {
    { "json", "json", "application/json" },
    { "csv", "csv", "text/csv; charset=utf-8" },
    { "parquet", "parquet", "application/vnd.apache.parquet" },
    { "arrow", "arrows", "application/vnd.apache.arrow.stream" },
};

const struct stk_result_form *stk_result_form_at(size_t i)
{
    return i < STK_LEN(forms) ? &forms[i] : NULL;
}

const struct stk_result_form *stk_result_form_find(const char *name)
{
    for (size_t i = 0; i < STK_LEN(forms); i++) {
        if (strcmp(forms[i].name, name) == 0)
            return &forms[i];
    }
    return NULL;
}

static const struct stk_result_form *form_of_ending(const char *ending)
{
    for (size_t i = 0; i < STK_LEN(forms); i++) {
        if (strcmp(forms[i].ending, ending) == 0)
            return &forms[i];
    }
    return NULL;
}

const struct stk_result_form *stk_result_form(const struct stk_job_row *row)
{
    const char *ending = row->result_file ? strrchr(stk_text_data(row->result_file), '.') : NULL;
    const struct stk_result_form *form = ending ? form_of_ending(ending + 1) : NULL;

    return form ? form : &forms[0];
}

/* ---- files */

/* A name comes from a process that runs user code: it must be that of this attempt's own file. */
static bool is_own_file(const struct job *job, const char *name)
{
    char start[STK_UUID_MAX + 16];
    int len = snprintf(start, sizeof start, "%s.%d.", job->row.id, job->row.attempt);

    return strncmp(name, start, (size_t)len) == 0 && form_of_ending(name + len);
}

static void result_path(char path[160], const char *name)
{
    snprintf(path, 160, "results/%s", name);
}

int result_file_check(const struct job *job, const char *name, int64_t bytes)
{
    char path[160];
    struct stat st;

    if (!is_own_file(job, name))
        return -1;
    result_path(path, name);
    if (fstatat(job->core->o.state_dir_fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) &&
        st.st_size == bytes && bytes > 0)
        return 1;
    stk_error("job", "the file of a result is not what its process said", "job", job->row.id, "file", path);
    return 0;
}

void result_discard(const struct job *job)
{
    char path[160];

    for (size_t i = 0; i < STK_LEN(forms); i++) {
        snprintf(path, sizeof path, "results/%s.%d.%s", job->row.id, job->row.attempt, forms[i].ending);
        unlinkat(job->core->o.state_dir_fd, path, 0);
    }
}

int stk_job_open_result(struct stk_core *core, const struct stk_job_row *row, uint64_t *ret_len, struct stk_err *err)
{
    stk_auto_fd fd = -1;
    struct stat st;
    char path[160];

    if (!row->result_file || strchr(stk_text_data(row->result_file), '/') || stk_text_len(row->result_file) > 128)
        return stk_fail(err, STK_NOT_FOUND, "the job has no result file");
    result_path(path, stk_text_data(row->result_file));
    fd = openat(core->o.state_dir_fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT)
        return stk_fail(err, STK_NOT_FOUND, "the result is not kept any more");
    if (fd < 0 || fstat(fd, &st) < 0)
        return stk_fail_sys(err, errno, "%s", path);
    if (!S_ISREG(st.st_mode) || st.st_size != row->result_bytes)
        return stk_fail(err, STK_INTERNAL, "%s does not hold the result", path);
    *ret_len = (uint64_t)st.st_size;
    return stk_steal_fd(&fd);
}
