/*
 * The server's configuration: one table drives parsing, --print-config and the check that conf/stoker.conf and the README
 * name every key. main thread, before any other starts.
 */
#ifndef STOKER_SERVER_CONFIG_H
#define STOKER_SERVER_CONFIG_H

#include "stoker/err.h"
#include "stoker/log.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define STK_LISTEN_MAX 8

struct stk_config {
    char *listen[STK_LISTEN_MAX]; /* "127.0.0.1:8090"; port 0: a free one. "[::1]:8090" is refused where CivetWeb
                                     has no IPv6, as Debian's 1.15 */
    size_t n_listen;
    bool listen_set; /* by stk_config_set(): one more is added, it no longer replaces */
    bool insecure;   /* allow an address that is not loopback without authentication */
    char *state_dir;
    enum stk_log_level log_level;
    char *python;     /* interpreter of the contexts; "": build/venv beside the program, then python3 in PATH */
    char *runner_dir; /* folder with stoker_runner; "": found beside the program */
    char *java_home;  /* "": JAVA_HOME, then java in PATH */
    bool class_data_archive;
    char *class_data_dir; /* "": class-data in the state directory */
    int64_t http_threads;
    int64_t max_waiting;        /* HTTP threads that may wait for jobs or contexts at once; beyond: 503, Retry-After */
    int64_t max_streams;        /* logs that are followed, at once; beyond: 503, Retry-After */
    int64_t stream_timeout_ms;  /* for a client that takes nothing of its stream */
    int64_t request_timeout_ms; /* for a client to send its request */
    int64_t keep_alive_timeout_ms;
    int64_t max_body_bytes;                   /* 30 MiB */
    int64_t max_upload_bytes;                 /* 2 GiB */
    int64_t max_unpacked_bytes;               /* 4 GiB */
    int64_t max_archive_entries;              /* 100000 */
    int64_t max_contexts;                     /* 32 */
    int64_t warm_contexts;                    /* started ahead: 0 */
    int64_t max_jobs;                         /* slots per context: 8 */
    int64_t max_queue;                        /* jobs that may wait per context: 10000 */
    int64_t context_create_timeout_ms;        /* 60 s */
    int64_t context_delete_timeout_ms;        /* 15 s */
    int64_t cancel_grace_ms;                  /* from interrupt to SIGKILL: 1 s */
    int64_t stop_grace_ms;                    /* for contexts at SIGTERM: 10 s */
    int64_t worker_idle_timeout_ms;           /* 5 min */
    int64_t queue_timeout_ms, run_timeout_ms; /* of jobs; 0: none */
    int64_t idle_timeout_ms, lifetime_ms;     /* of contexts; 0: none */
    int64_t max_memory_bytes;                 /* of a job; 0: no limit */
    bool isolated;                            /* each job in a process of its own */
    int64_t max_result_bytes;                 /* 1 GiB */
    int64_t max_log_bytes;                    /* per stream of a job: 4 GiB */
    int64_t keep_jobs_ms, keep_binaries_ms;   /* 0: for ever */
    int64_t max_stored_jobs;                  /* this and the next two 0: no limit */
    int64_t max_stored_results_bytes, max_stored_logs_bytes;
    int64_t disk_reserve_bytes;
    json_t *webhooks;          /* array of texts: URLs to which the end of every job is told */
    json_t *webhook_allow;     /* array of texts: where webhooks of jobs may lead */
    char *webhook_secret_file; /* "": deliveries to webhooks without a secret of their own are not signed */
    int64_t webhook_connect_timeout_ms, webhook_timeout_ms;
    int64_t webhook_retry_ms, webhook_retry_max_ms, webhook_give_up_ms;
    int64_t webhook_max_result_bytes;
    json_t *spark_conf;       /* object of strings: defaults of every context; spark.master is "local[*]" */
    json_t *context_settings; /* object: defaults of SJS context settings */
    json_t *contexts;         /* object: name -> settings of those that start with the server */
};

/* Defaults, then the file (NULL: none). Errors name file, line, key, what was wrong and what would be right. */
int stk_config_load(struct stk_config *ret, const char *path, struct stk_err *err);
/* One --listen or --state-dir from the command line, checked in the same way. */
int stk_config_set(struct stk_config *c, const char *name, const char *value, struct stk_err *err);
/* Checks what concerns several keys at once. */
int stk_config_check(const struct stk_config *c, struct stk_err *err);
void stk_config_print(const struct stk_config *c, FILE *out); /* a valid configuration file with every key */
void stk_config_done(struct stk_config *c);

#endif
