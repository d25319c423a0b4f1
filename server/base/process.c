/* What the kernel knows of this process, for a scrape. */
#include "stoker/metrics.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

/* The text of a file in /proc, cut at size - 1 bytes; "" when it cannot be read. */
static const char *read_proc(const char *path, char *buf, size_t size)
{
    stk_auto_fd fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, buf, size - 1) : -1;

    buf[n > 0 ? n : 0] = '\0';
    return buf;
}

/* -1: they cannot be counted, since none is left to look with. */
static int64_t count_descriptors(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int64_t n = 0;

    if (!dir)
        return -1;
    for (const struct dirent *entry; (entry = readdir(dir));)
        n += entry->d_name[0] != '.';
    closedir(dir);
    return n - 1; /* the one that looks */
}

/* Of /proc/self/stat, by the numbers in proc(5). */
struct stat_line {
    unsigned long long utime, stime, threads, start_ticks, virtual_bytes, resident_pages;
};

/* The second field is the name of the program, in parentheses, and may hold anything. */
static bool read_stat(struct stat_line *ret)
{
    char text[1024];
    const char *end = strrchr(read_proc("/proc/self/stat", text, sizeof text), ')');

    return end &&
           sscanf(end + 1,
                  " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %*d %*d %*d %*d %llu %*d %llu %llu %llu",
                  &ret->utime, &ret->stime, &ret->threads, &ret->start_ticks, &ret->virtual_bytes,
                  &ret->resident_pages) == 6;
}

/* When the machine was started, as the kernel has it, in seconds; a clock that is set moves it. 0: not known. */
static long long boot_time_s(void)
{
    FILE *file = fopen("/proc/stat", "re");
    char line[256];
    long long s = 0;

    while (file && s == 0 && fgets(line, sizeof line, file)) /* lines of interrupts are longer: then in pieces */
        sscanf(line, "btime %lld", &s);
    if (file)
        fclose(file);
    return s;
}

void stk_metrics_process(struct stk_metrics *m)
{
    const int64_t ticks_s = sysconf(_SC_CLK_TCK), page = sysconf(_SC_PAGESIZE);
    int64_t descriptors = count_descriptors();
    long long boot_s = boot_time_s();
    struct rlimit limit;
    struct stat_line stat;

    if (descriptors >= 0)
        stk_metrics_one(m, "process_open_fds", STK_GAUGE, "Number of open file descriptors.", descriptors);
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
        stk_metrics_one(m, "process_max_fds", STK_GAUGE, "Maximum number of open file descriptors.",
                        (int64_t)limit.rlim_cur);
    if (!read_stat(&stat))
        return;
    stk_metrics_family(m, "process_cpu_seconds", STK_COUNTER, "Total user and system CPU time spent in seconds.");
    stk_metrics_seconds(m, NULL, (int64_t)(stat.utime + stat.stime) * (1000000 / ticks_s));
    stk_metrics_one(m, "process_threads", STK_GAUGE, "Number of threads.", (int64_t)stat.threads);
    stk_metrics_one(m, "process_virtual_memory_bytes", STK_GAUGE, "Virtual memory size in bytes.",
                    (int64_t)stat.virtual_bytes);
    stk_metrics_one(m, "process_resident_memory_bytes", STK_GAUGE, "Resident memory size in bytes.",
                    (int64_t)stat.resident_pages * page);
    if (boot_s) {
        stk_metrics_family(m, "process_start_time_seconds", STK_GAUGE,
                           "Start time of the process since unix epoch in seconds.");
        stk_metrics_seconds(m, NULL, boot_s * 1000000 + (int64_t)stat.start_ticks * (1000000 / ticks_s));
    }
}
