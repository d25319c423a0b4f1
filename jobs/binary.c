/* Binaries: uploads come in on HTTP threads, are checked there, and are recorded through the loop. */
#include "live.h"

#include "stoker/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* ---- upload */

struct stk_upload {
    struct stk_core *core;
    int fd;
    char blob[40], folder[40]; /* names in tmp/ */
    EVP_MD_CTX *hash;
    uint64_t bytes;
};

static void in_tmp(char path[64], const char *name)
{
    snprintf(path, 64, "tmp/%s", name);
}

struct stk_upload *stk_upload_open(struct stk_core *core, struct stk_err *err)
{
    struct stk_upload *up;
    char digits[25], path[64];

    if (disk_check(core, err) < 0)
        return NULL;
    up = calloc(1, sizeof *up);
    if (!up || !(up->hash = EVP_MD_CTX_new()) || EVP_DigestInit_ex(up->hash, EVP_sha256(), NULL) != 1) {
        if (up)
            EVP_MD_CTX_free(up->hash);
        free(up);
        stk_fail(err, STK_INTERNAL, "out of memory");
        return NULL;
    }
    up->core = core;
    stk_random_hex(digits, 12);
    snprintf(up->blob, sizeof up->blob, "%s.blob", digits);
    snprintf(up->folder, sizeof up->folder, "%s.dir", digits);
    in_tmp(path, up->blob);
    up->fd = openat(core->o.state_dir_fd, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (up->fd < 0) {
        stk_fail_sys(err, errno, "cannot write the upload");
        stk_upload_abort(up);
        return NULL;
    }
    return up;
}

int stk_upload_write(struct stk_upload *up, const void *bytes, size_t n, struct stk_err *err)
{
    up->bytes += n;
    if (up->bytes > up->core->o.max_upload_bytes)
        return stk_fail(err, STK_TOO_LARGE, "the binary is larger than %llu bytes, the limit 'max-upload'",
                        (unsigned long long)up->core->o.max_upload_bytes);
    if (disk_check(up->core, err) < 0) /* a long one must not eat what the work that goes on needs */
        return -1;
    if (EVP_DigestUpdate(up->hash, bytes, n) != 1)
        return stk_fail(err, STK_INTERNAL, "SHA-256 failed");
    return stk_write_all(up->fd, bytes, n) < 0 ? stk_fail_sys(err, errno, "cannot write the upload") : 0;
}

void stk_upload_abort(struct stk_upload *up)
{
    char path[64];

    if (!up)
        return;
    if (up->fd >= 0)
        close(up->fd);
    in_tmp(path, up->blob);
    unlinkat(up->core->o.state_dir_fd, path, 0);
    in_tmp(path, up->folder);
    stk_remove_tree(up->core->o.state_dir_fd, path);
    EVP_MD_CTX_free(up->hash);
    free(up);
}

static int hex_digest(struct stk_upload *up, char ret[STK_DIGEST_MAX], struct stk_err *err)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned len;

    if (EVP_DigestFinal_ex(up->hash, digest, &len) != 1 || len != 32)
        return stk_fail(err, STK_INTERNAL, "SHA-256 failed");
    for (unsigned i = 0; i < len; i++)
        snprintf(ret + 2 * i, 3, "%02x", digest[i]);
    return 0;
}

static int check_and_unpack(struct stk_upload *up, struct stk_err *err)
{
    stk_auto_free char *path = NULL;
    stk_auto_fd dir = -1;
    char folder[64];

    if (fsync(up->fd) < 0)
        return stk_fail_sys(err, errno, "cannot write the upload");
    in_tmp(folder, up->folder);
    if (mkdirat(up->core->o.state_dir_fd, folder, 0755) < 0)
        return stk_fail_sys(err, errno, "cannot unpack the upload");
    dir = openat(up->core->o.state_dir_fd, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return stk_fail_sys(err, errno, "cannot unpack the upload");
    if (asprintf(&path, "%s/tmp/%s", up->core->o.state_dir, up->blob) < 0)
        return stk_fail(err, STK_INTERNAL, "out of memory");
    return stk_archive_unpack(path, dir, &up->core->o.archive, err);
}

/* Recording goes through the loop only because the store answers there. */
struct add {
    struct ticket t;
    struct stk_core *core;
    struct stk_binary_row row;
    char blob[40], folder[40];
};

static void free_add(struct ticket *t)
{
    struct add *a = (struct add *)t;

    stk_binary_row_done(&a->row);
    free(a);
}

static void on_ticket_committed(void *arg, const struct stk_err *err)
{
    ticket_answer(arg, err);
}

static void on_add(struct stk_task *task)
{
    struct add *a = (struct add *)task;
    struct stk_err err;

    if (stk_store_binary_added(a->core->store, &a->row, a->blob, a->folder, on_ticket_committed, &a->t, &err) < 0)
        ticket_answer(&a->t, &err);
}

int stk_upload_commit(struct stk_upload *up, const char *name, enum stk_binary_type type, struct stk_binary_row *ret,
                      struct stk_err *err)
{
    struct add *a;
    int rc;

    *ret = (struct stk_binary_row){ 0 };
    a = calloc(1, sizeof *a);
    if (!a)
        stk_fail(err, STK_INTERNAL, "out of memory");
    if (!a || check_and_unpack(up, err) < 0) {
        free(a);
        stk_upload_abort(up);
        return -1;
    }
    ticket_init(&a->t, on_add, free_add);
    a->core = up->core;
    a->row =
        (struct stk_binary_row){ .name = stk_text_new(name, strlen(name)), .type = type, .bytes = (int64_t)up->bytes };
    memcpy(a->blob, up->blob, sizeof a->blob);
    memcpy(a->folder, up->folder, sizeof a->folder);
    rc = hex_digest(up, a->row.digest, err);
    if (rc == 0) {
        ticket_call(&a->t, up->core->loop, -1);
        rc = a->t.rc;
        if (rc < 0 && err)
            *err = a->t.err;
    } else {
        atomic_store(&a->t.refs, 1);
    }
    if (rc == 0) {
        *ret = a->row;
        stk_text_ref(ret->name);
    }
    ticket_unref(&a->t);
    stk_upload_abort(up); /* what the store took is not in tmp/ any more */
    return rc;
}

/* ---- delete */

struct delete
{
    struct ticket t;
    struct stk_core *core;
    char *name;
    struct stk_buf users;
};

static void free_delete(struct ticket *t)
{
    struct delete *d = (struct delete *)t;

    free(d->name);
    stk_buf_done(&d->users);
    free(d);
}

/* One of several: most jobs have a single one, which is their app. */
static bool is_among(const struct stk_text *binaries, const char *name)
{
    const char *text = binaries ? stk_text_data(binaries) : "", *other;
    json_auto_t *list = strstr(text, "},{") ? json_loads(text, 0, NULL) : NULL;
    json_t *binary;
    size_t i;

    json_array_foreach(list, i, binary) {
        other = json_string_value(json_object_get(binary, "name"));
        if (other && strcmp(other, name) == 0)
            return true;
    }
    return false;
}

static void on_delete(struct stk_task *task)
{
    struct delete *d = (struct delete *)task;
    struct stk_err err;

    for (struct job *job = d->core->jobs; job; job = job->hh.next) {
        if (!job->settled && !job->abandoned &&
            (strcmp(stk_text_data(job->row.app), d->name) == 0 || is_among(job->row.binaries, d->name)))
            stk_buf_printf(&d->users, "%s%s", d->users.len ? ", " : "", job->row.id);
    }
    if (d->users.len) {
        stk_fail(&err, STK_CONFLICT, "the binary is in use");
        ticket_answer(&d->t, &err);
    } else if (stk_store_binary_deleted(d->core->store, d->name, on_ticket_committed, &d->t, &err) < 0) {
        ticket_answer(&d->t, &err);
    }
}

int stk_binary_delete(struct stk_core *core, const char *name, char **ret_jobs, struct stk_err *err)
{
    struct delete *d = calloc(1, sizeof *d);
    int rc;

    if (ret_jobs)
        *ret_jobs = NULL;
    if (!d || !(d->name = strdup(name))) {
        free(d);
        return stk_fail(err, STK_INTERNAL, "out of memory");
    }
    ticket_init(&d->t, on_delete, free_delete);
    d->core = core;
    ticket_call(&d->t, core->loop, -1);
    rc = d->t.rc;
    if (rc < 0 && err)
        *err = d->t.err;
    if (rc < 0 && ret_jobs && d->users.len)
        *ret_jobs = stk_buf_steal(&d->users);
    ticket_unref(&d->t);
    return rc;
}

/* ---- reads */

int stk_binary_get(struct stk_core *core, const char *name, struct stk_binary_row *ret, struct stk_err *err)
{
    return stk_store_binary_get(core->store, name, ret, err);
}

int stk_binary_list(struct stk_core *core, struct stk_binary_row **ret, size_t *ret_n, struct stk_err *err)
{
    return stk_store_binary_list(core->store, ret, ret_n, err);
}

int stk_binary_versions(struct stk_core *core, const char *name, struct stk_binary_row **ret, size_t *ret_n,
                        struct stk_err *err)
{
    return stk_store_binary_versions(core->store, name, ret, ret_n, err);
}
