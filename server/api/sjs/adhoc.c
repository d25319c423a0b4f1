/* A context for one job. Nothing in the core knows of it: its idle-timeout ends it, whatever becomes of the job and of us. */
#include "api/sjs/sjs.h"

#include <stdio.h>
#include <string.h>

enum {
    IDLE_MS = 1000, /* from its start to the job, which waits already, and from the job's end to its own */
    CLASS_MAX = 200,
};

/* As SJS names them. */
static void compose(char name[STK_SJS_ADHOC_MAX], const char *class_path)
{
    char id[STK_UUID_MAX];

    stk_uuid(id);
    snprintf(name, STK_SJS_ADHOC_MAX, "%s-%.*s", id, (int)stk_utf8_cut(class_path, CLASS_MAX), class_path);
}

static int make_wish(const struct sjs *sjs, const json_t *config, const char *name, struct stk_context_wish *ret,
                     struct stk_err *err)
{
    json_t *posted = json_object_get(json_object_get(config, "spark"), "context-settings");
    json_auto_t *settings = stk_settings_merge(sjs->options->context_settings, NULL, 0, posted, err);

    if (!settings || stk_settings_wish(ret, name, settings, err) < 0)
        return -1;
    json_object_set_new(ret->settings, "is-adhoc", json_string("true"));
    ret->spec.name = name;
    ret->spec.max_jobs = 1;
    ret->spec.idle_timeout_ms = IDLE_MS;
    return 0;
}

int stk_sjs_adhoc_begin(const struct sjs *sjs, struct stk_reply *reply, const json_t *config, const char *class_path,
                        char name[STK_SJS_ADHOC_MAX])
{
    struct stk_context_wish wish;
    struct stk_context_row row;
    struct stk_err err;
    int rc;

    compose(name, class_path);
    if (make_wish(sjs, config, name, &wish, &err) < 0) {
        stk_sjs_settings_failed(reply, &err);
        return -1;
    }
    rc = stk_context_create(sjs->core, &wish.spec, STK_RECORDED, sjs->options->context_create_timeout_ms, &row, NULL,
                            &err);
    stk_context_wish_done(&wish);
    if (rc < 0) {
        stk_sjs_failed(reply, "create a context for a job", &err);
        return -1;
    }
    stk_context_row_done(&row);
    return 0;
}
