/* docs/openapi.json against the routes that the native API hands to the router: each is in the other. */
#include "stoker/api.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>

#include <cmocka.h>

static const struct stk_route *routes;
static json_t *paths;

static int setup(void **state)
{
    static const struct stk_api_options options = { .max_upload_bytes = 1 };
    json_error_t error;
    json_t *file = json_load_file(TOP_DIR "/docs/openapi.json", JSON_REJECT_DUPLICATES, &error);

    if (!file)
        fail_msg("line %d: %s", error.line, error.text);
    routes = stk_api_native(NULL, &options)->routes;
    paths = json_object_get(file, "paths");
    *state = file;
    return 0;
}

static int teardown(void **state)
{
    json_decref(*state);
    return 0;
}

static json_t *find_operation(const char *path, const char *method)
{
    const char *key;
    json_t *value;

    json_object_foreach(json_object_get(paths, path), key, value) {
        if (strcasecmp(key, method) == 0)
            return value;
    }
    return NULL;
}

static void each_route_is_in_the_file(void **state)
{
    int n = 0;

    (void)state;
    for (; routes[n].method; n++) {
        if (!find_operation(routes[n].path, routes[n].method))
            fail_msg("docs/openapi.json does not have %s %s", routes[n].method, routes[n].path);
    }
    assert_true(n > 5);
}

static bool is_route(const char *path, const char *method)
{
    for (const struct stk_route *r = routes; r->method; r++) {
        if (strcmp(r->path, path) == 0 && strcasecmp(r->method, method) == 0)
            return true;
    }
    return false;
}

static void each_operation_of_the_file_is_a_route(void **state)
{
    const char *path, *method;
    json_t *item, *operation;

    (void)state;
    json_object_foreach(paths, path, item) {
        json_object_foreach(item, method, operation) {
            if (strcmp(method, "parameters") != 0 && !is_route(path, method))
                fail_msg("docs/openapi.json has %s %s, the router has not", method, path);
        }
    }
}

static bool has_parameter(const json_t *list, const char *name, size_t len)
{
    const json_t *item;
    size_t i;

    json_array_foreach(list, i, item) {
        const char *given = json_string_value(json_object_get(item, "name"));

        if (strlen(given) == len && memcmp(given, name, len) == 0)
            return strcmp(json_string_value(json_object_get(item, "in")), "path") == 0;
    }
    return false;
}

static void each_place_in_a_path_is_a_parameter(void **state)
{
    const char *path;
    json_t *item;

    (void)state;
    json_object_foreach(paths, path, item) {
        for (const char *p = path; (p = strchr(p, '{')); p++) {
            if (!has_parameter(json_object_get(item, "parameters"), p + 1, strcspn(p + 1, "}")))
                fail_msg("docs/openapi.json does not say what %s of %s is", p, path);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_route_is_in_the_file),
        cmocka_unit_test(each_operation_of_the_file_is_a_route),
        cmocka_unit_test(each_place_in_a_path_is_a_parameter),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
