/* Named objects: what the jobs of a context have left in it under a name. */
#include "api/native/native.h"

enum { ASK_MS = 10000 }; /* unless told otherwise */

static json_t *text_of(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    return json_is_string(value) ? json_string(json_string_value(value)) : json_null();
}

static json_t *number_of(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    return json_is_integer(value) ? json_integer(json_integer_value(value)) : json_null();
}

/* As the keeper says it, field by field. */
static json_t *named_object(const json_t *said)
{
    double named_at = json_number_value(json_object_get(said, "named_at"));

    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "name", text_of(said, "name"), "kind",
                     text_of(said, "kind"), "job", text_of(said, "job"), "named_at",
                     stk_native_time(named_at > 0 && named_at < 1e11 ? (int64_t)(named_at * 1e6) : 0), "storage_level",
                     text_of(said, "storage_level"), "partitions", number_of(said, "partitions"), "cached_partitions",
                     number_of(said, "cached_partitions"), "memory_bytes", number_of(said, "memory_bytes"),
                     "disk_bytes", number_of(said, "disk_bytes"));
}

/* 0: the caller may ask the keeper, for *wait_ms, and calls stk_request_wait_end() after that. -1 with the reply filled. */
static int begin(struct stk_request *r, struct stk_reply *reply, int64_t *wait_ms)
{
    static const char *const known[] = { "wait", NULL };

    *wait_ms = ASK_MS;
    if (stk_native_query_known(r, reply, known) < 0 || stk_native_query_wait(r, reply, wait_ms) < 0)
        return -1;
    if (stk_request_wait_begin(r))
        return 0;
    stk_native_too_many_waiting(reply);
    return -1;
}

void stk_native_objects_list(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const struct native *native = arg;
    json_auto_t *said = NULL;
    json_t *list, *object;
    int64_t wait_ms;
    struct stk_err err;
    size_t i;
    int rc;

    if (begin(r, reply, &wait_ms) < 0)
        return;
    rc = stk_context_objects(native->core, stk_request_param(r, "name"), wait_ms, &said, &err);
    stk_request_wait_end(r);
    if (rc < 0) {
        stk_native_failed(reply, "list named objects", &err);
        return;
    }
    list = json_array();
    json_array_foreach(said, i, object)
        json_array_append_new(list, named_object(object));
    stk_reply_json_take(reply, 200, json_pack("{s:o}", "objects", list));
}

void stk_native_objects_delete(struct stk_request *r, struct stk_reply *reply, void *arg)
{
    const struct native *native = arg;
    const char *object = stk_request_param(r, "object");
    json_auto_t *said = NULL;
    int64_t wait_ms;
    struct stk_err err;
    int rc;

    if (stk_name_check("the object's name", object, 255, &err) < 0) {
        stk_native_wrong(reply, "object", "%s", err.msg);
        return;
    }
    if (begin(r, reply, &wait_ms) < 0)
        return;
    rc = stk_context_drop_object(native->core, stk_request_param(r, "name"), object, wait_ms, &said, &err);
    stk_request_wait_end(r);
    if (rc < 0)
        stk_native_failed(reply, "drop a named object", &err);
    else
        stk_reply_json_take(reply, 200, named_object(said));
}
