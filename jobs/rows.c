/* Rows of jobs, contexts and binaries as plain values, used by core and store alike. Pure. */
#include "stoker/binary.h"
#include "stoker/context.h"
#include "stoker/event.h"
#include "stoker/job.h"

#include <string.h>

void stk_job_row_done(struct stk_job_row *row)
{
    stk_text_unref(row->context_name);
    stk_text_unref(row->app);
    stk_text_unref(row->class_path);
    stk_text_unref(row->set);
    stk_text_unref(row->binaries);
    stk_text_unref(row->config);
    stk_text_unref(row->error);
    stk_text_unref(row->result);
    stk_text_unref(row->result_file);
    stk_text_unref(row->receipt);
    stk_text_unref(row->idempotency_key);
    stk_text_unref(row->fingerprint);
    stk_text_unref(row->tags);
    stk_text_unref(row->user);
    stk_text_unref(row->webhook);
    *row = (struct stk_job_row){ 0 };
}

void stk_job_row_copy(struct stk_job_row *to, const struct stk_job_row *from)
{
    *to = *from;
    stk_text_ref(to->context_name);
    stk_text_ref(to->app);
    stk_text_ref(to->class_path);
    stk_text_ref(to->set);
    stk_text_ref(to->binaries);
    stk_text_ref(to->config);
    stk_text_ref(to->error);
    stk_text_ref(to->result);
    stk_text_ref(to->result_file);
    stk_text_ref(to->receipt);
    stk_text_ref(to->idempotency_key);
    stk_text_ref(to->fingerprint);
    stk_text_ref(to->tags);
    stk_text_ref(to->user);
    stk_text_ref(to->webhook);
}

void stk_job_rows_free(struct stk_job_row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++)
        stk_job_row_done(&rows[i]);
    free(rows);
}

void stk_job_terms_fill(struct stk_job_terms *terms, const struct stk_job_terms *from)
{
    if (terms->priority == STK_UNSAID)
        terms->priority = from->priority;
    if (terms->queue_timeout_ms == STK_UNSAID)
        terms->queue_timeout_ms = from->queue_timeout_ms;
    if (terms->run_timeout_ms == STK_UNSAID)
        terms->run_timeout_ms = from->run_timeout_ms;
    if (terms->max_memory == STK_UNSAID)
        terms->max_memory = from->max_memory;
    if (terms->isolated == STK_UNSAID)
        terms->isolated = from->isolated;
}

void stk_context_row_done(struct stk_context_row *row)
{
    stk_text_unref(row->name);
    stk_text_unref(row->spec);
    stk_text_unref(row->application_id);
    stk_text_unref(row->ui_url);
    stk_text_unref(row->error);
    *row = (struct stk_context_row){ 0 };
}

void stk_context_row_copy(struct stk_context_row *to, const struct stk_context_row *from)
{
    *to = *from;
    stk_text_ref(to->name);
    stk_text_ref(to->spec);
    stk_text_ref(to->application_id);
    stk_text_ref(to->ui_url);
    stk_text_ref(to->error);
}

void stk_context_rows_free(struct stk_context_row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++)
        stk_context_row_done(&rows[i]);
    free(rows);
}

static const char *const type_names[STK_BINARY_TYPES] = {
    [STK_BINARY_EGG] = "egg",
    [STK_BINARY_ZIP] = "zip",
    [STK_BINARY_WHEEL] = "wheel",
    [STK_BINARY_JAR] = "jar",
};

const char *stk_binary_type_name(enum stk_binary_type type)
{
    return type_names[type];
}

int stk_binary_type_parse(const char *name, enum stk_binary_type *ret)
{
    for (size_t i = 0; i < STK_BINARY_TYPES; i++) {
        if (strcmp(type_names[i], name) == 0) {
            *ret = (enum stk_binary_type)i;
            return 0;
        }
    }
    return -1;
}

void stk_binary_row_done(struct stk_binary_row *row)
{
    stk_text_unref(row->name);
    *row = (struct stk_binary_row){ 0 };
}

void stk_binary_rows_free(struct stk_binary_row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++)
        stk_binary_row_done(&rows[i]);
    free(rows);
}

void stk_event_row_done(struct stk_event_row *row)
{
    stk_text_unref(row->context_name);
    stk_text_unref(row->data);
    *row = (struct stk_event_row){ 0 };
}

void stk_event_rows_free(struct stk_event_row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++)
        stk_event_row_done(&rows[i]);
    free(rows);
}
