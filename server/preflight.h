/* What has to be there before the server can start: Python with pyspark, Java, the runner. main thread. */
#ifndef STOKER_SERVER_PREFLIGHT_H
#define STOKER_SERVER_PREFLIGHT_H

#include "stoker/err.h"

/* Found places; empty texts were not asked for. Paths are absolute. */
struct stk_runtime {
    char python[4096];
    char runner_dir[4096];
    char java_home[4096]; /* "": java is found through PATH by Spark's own scripts */
    char versions[256];   /* "Python 3.11.2, pyspark 4.3.0": for the log */
};

/*
 * python, runner_dir, java_home: from the configuration, "" to look for them: the interpreter in venv/ beside the program or above it, else
 * python3 in PATH; the runner beside the source tree or under PREFIX/lib/stoker; JAVA_HOME, else java in PATH. -1 with one line
 * that says what is missing and what to do.
 */
int stk_preflight(const char *python, const char *runner_dir, const char *java_home, struct stk_runtime *ret,
                  struct stk_err *err);

#endif
