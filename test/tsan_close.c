/*
 * Part of the programs that ThreadSanitizer watches (VARIANT=tsan) only. libuv closes descriptors by syscall(SYS_close), which
 * ThreadSanitizer does not see: a file that another thread then opens under the same number would pass for libuv's socket, and
 * its closing for a race with libuv's last read. So here that call is the close() which is seen.
 */
#include <dlfcn.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

static long (*next_syscall)(long number, ...);

__attribute__((constructor)) static void find_next(void)
{
    *(void **)&next_syscall = dlsym(RTLD_NEXT, "syscall");
}

long syscall(long number, ...)
{
    long a[6];
    va_list args;

    va_start(args, number); /* as many as any call has; the kernel looks only at its own */
    for (size_t i = 0; i < sizeof a / sizeof *a; i++)
        a[i] = va_arg(args, long);
    va_end(args);
    if (number == SYS_close)
        return close((int)a[0]);
    return next_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
