/*
 * What the fuzz targets share. A target is one file with LLVMFuzzerTestOneInput(), which libFuzzer calls with ever new bytes;
 * see test/fuzz/README.md.
 */
#ifndef STOKER_FUZZ_H
#define STOKER_FUZZ_H

#include "stoker/buf.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

/* What must hold whatever the input is. libFuzzer keeps the input of a program that aborts. */
#define FUZZ_CHECK(condition, ...)                                                         \
    do {                                                                                   \
        if (!(condition)) {                                                                \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
            fprintf(stderr, "" __VA_ARGS__);                                               \
            fputc('\n', stderr);                                                           \
            abort();                                                                       \
        }                                                                                  \
    } while (0)

/*
 * For LLVMFuzzerInitialize(): starts the program again with a large stack, for texts that are followed by recursion. The server
 * gives these a thread with 32 MiB; frames are larger here, and AddressSanitizer takes its time with each large thread.
 */
static inline void fuzz_large_stack(char **argv)
{
    struct rlimit limit = { .rlim_cur = 1 };
    rlim_t want = (rlim_t)256 << 20;

    if (getrlimit(RLIMIT_STACK, &limit) < 0 || limit.rlim_cur >= want || limit.rlim_max < want)
        return;
    limit.rlim_cur = want;
    if (setrlimit(RLIMIT_STACK, &limit) == 0)
        execv("/proc/self/exe", argv);
}

/* A message for a person: one that says something, in one line of text. */
static inline void fuzz_check_message(const struct stk_err *err)
{
    FUZZ_CHECK(err->code != STK_OK);
    FUZZ_CHECK(err->msg[0] && stk_utf8_valid(err->msg, strlen(err->msg)), "message '%s'", err->msg);
}

#endif
