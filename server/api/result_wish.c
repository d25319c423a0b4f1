/*
 * What a job asks of its result: the form, and how long it may be. It stands in the job's config, as `stoker { result-format, max-result
 * }`, whatever dialect it came through: so it is recorded with the job, and a job posted anew with that config asks for the same.
 */
#include "stoker/api.h"
#include "stoker/units.h"

#include <string.h>

static const char format_key[] = "result-format", max_key[] = "max-result";

static int no_memory(struct stk_err *err)
{
    return stk_fail(err, STK_INTERNAL, "out of memory");
}

static int check_format(const json_t *value, struct stk_err *err)
{
    const char *name = json_string_value(value);

    if (name && stk_result_form_find(name))
        return 0;
    return stk_fail(err, STK_INVALID, "'%s' must be json, csv, parquet or arrow%s%.40s%s", format_key,
                    name ? ", not '" : "", name ? name : "", name ? "'" : "");
}

/* A size becomes a number of bytes, which is what workers read. */
static int check_max(json_t *wish, const json_t *value, struct stk_err *err)
{
    const char *text = json_string_value(value);
    int64_t bytes = json_is_integer(value) ? json_integer_value(value) : 0;

    if (text && stk_parse_size(text, &bytes) < 0)
        bytes = 0;
    if (bytes <= 0)
        return stk_fail(err, STK_INVALID, "'%s' must be a size such as 64KiB, 512m or 2g%s%.40s%s", max_key,
                        text ? ", not '" : "", text ? text : "", text ? "'" : "");
    return json_object_set_new(wish, max_key, json_integer(bytes)) < 0 ? no_memory(err) : 0;
}

int stk_result_wish(json_t *config, const char *format, const char *max, const char **ret_wrong, struct stk_err *err)
{
    json_t *wish = json_object_get(config, "stoker"), *value;
    const char *key, *wrong;

    if (!ret_wrong)
        ret_wrong = &wrong;
    *ret_wrong = "config";
    if (!wish && !format && !max)
        return 0;
    if (!wish || json_is_null(wish)) {
        wish = json_object();
        if (json_object_set_new(config, "stoker", wish) < 0)
            return no_memory(err);
    }
    if (!json_is_object(wish))
        return stk_fail(err, STK_INVALID, "'stoker' in the config must be an object of result-format and max-result");
    json_object_foreach(wish, key, value) {
        if (strcmp(key, format_key) != 0 && strcmp(key, max_key) != 0)
            return stk_fail(err, STK_INVALID, "there is no 'stoker.%.40s'; there are: result-format, max-result", key);
    }
    if ((format && json_object_set_new(wish, format_key, json_string(format)) < 0) ||
        (max && json_object_set_new(wish, max_key, json_string(max)) < 0))
        return no_memory(err);
    value = json_object_get(wish, format_key);
    *ret_wrong = format ? format_key : "config";
    if (value && check_format(value, err) < 0)
        return -1;
    value = json_object_get(wish, max_key);
    *ret_wrong = max ? max_key : "config";
    return value ? check_max(wish, value, err) : 0;
}
