/*
 * A state directory that was copied names processes which belong to the original: a server of the copy must neither adopt
 * nor kill them. The file `home` holds the directory's device and inode, which a copy does not share; one that was moved within its
 * file system does, and its processes follow it, since they reach it by a descriptor.
 *
 * In a copy the recorded processes get a boot id that is none, so they count as those of another boot: dead.
 */
#include "internal.h"

#include "stoker/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define HOME "home"

static int write_home(struct stk_store *s, const char *text, struct stk_err *err)
{
    stk_auto_fd fd = openat(s->options.dir_fd, HOME ".tmp", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    size_t len = strlen(text);

    if (fd < 0 || write(fd, text, len) != (ssize_t)len || fsync(fd) < 0 ||
        renameat(s->options.dir_fd, HOME ".tmp", s->options.dir_fd, HOME) < 0)
        return stk_fail_sys(err, errno, "write %s/" HOME, s->dir);
    return 0;
}

int stk_home_check(struct stk_store *s, struct stk_err *err)
{
    stk_auto_fd fd = openat(s->options.dir_fd, HOME, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    char here[64], there[64];
    struct stat st;
    ssize_t n;

    if (fstat(s->options.dir_fd, &st) < 0)
        return stk_fail_sys(err, errno, "%s", s->dir);
    snprintf(here, sizeof here, "%llu:%llu\n", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
    n = fd < 0 ? 0 : read(fd, there, sizeof there - 1);
    there[n > 0 ? n : 0] = '\0';
    if (strcmp(here, there) == 0)
        return 0;
    if (there[0]) {
        stk_warn("store", "this state directory is a copy; processes of the original are left alone", "state", s->dir);
        if (sqlite3_exec(s->writer.sqlite,
                         "BEGIN IMMEDIATE; UPDATE processes SET boot_id = NULL;"
                         "UPDATE jobs SET worker_boot = NULL WHERE state < 4; COMMIT",
                         NULL, NULL, NULL) != SQLITE_OK)
            return stk_db_fail(&s->writer, err, "disown processes");
    }
    return write_home(s, here, err); /* last: a crash before this does it all again */
}
