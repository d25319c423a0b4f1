#include "stoker/tree.h"

#include "stoker/buf.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

/* Jobs can make folders deep enough to use up descriptors; what is deeper than this is left, and reported. */
enum { MOST_LEVELS = 256 };

static int remove_below(int dir_fd, const char *name, int level)
{
    int fd, rc = 0;
    DIR *dir;
    struct dirent *e;

    if (unlinkat(dir_fd, name, 0) == 0 || errno == ENOENT)
        return 0;
    if ((errno != EISDIR && errno != EPERM) || level >= MOST_LEVELS)
        return -1;
    fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -1;
    fchmod(fd, 0700); /* a job may have taken its own rights away */
    dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return -1;
    }
    while ((e = readdir(dir))) {
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 && remove_below(fd, e->d_name, level + 1) < 0)
            rc = -1;
    }
    closedir(dir);
    return unlinkat(dir_fd, name, AT_REMOVEDIR) < 0 && errno != ENOENT ? -1 : rc;
}

int stk_remove_tree(int dir_fd, const char *name)
{
    return remove_below(dir_fd, name, 0);
}
