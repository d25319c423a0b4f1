/*
 * Checking and unpacking an uploaded archive (zip, and so egg, wheel and jar) with libarchive, under limits. Nothing is
 * written outside the target folder. Blocking; any thread but the loop.
 */
#ifndef STOKER_ARCHIVE_H
#define STOKER_ARCHIVE_H

#include "stoker/err.h"

#include <stdint.h>

struct stk_archive_limits {
    uint64_t max_entries;
    uint64_t max_unpacked_bytes;
    uint64_t max_path_bytes;
};
extern const struct stk_archive_limits stk_archive_default_limits; /* 100,000; 4 GiB; 1024 */

/*
 * Reads the whole archive at path and unpacks its files below the directory dir_fd (which is empty). STK_INVALID with the entry
 * and what is wrong with it: not a zip, or an empty one, truncated, CRC error, an absolute path, "..", an empty, over-long or
 * too deep path, a name that is not UTF-8 or holds control characters or backslashes, a link, the same file twice, encrypted.
 * STK_TOO_LARGE: past a limit, named. STK_FULL. What was unpacked so far is the caller's to remove. After 0 all of it is on the disk
 * (syncfs), as is the archive if it lies on the same file system. Files get mode 0644, folders 0755; times and owners are not
 * restored.
 */
int stk_archive_unpack(const char *path, int dir_fd, const struct stk_archive_limits *limits, struct stk_err *err);

#endif
