/*
 * stk_json_valid() against jansson, and stk_json_text() and stk_json_pretty() against both: what jansson reads is valid, what is
 * valid jansson reads (but for what it refuses on purpose), and what is written reads back as the same value.
 */
#include "fuzz.h"

#include "stoker/json.h"

/* What the grammar allows and jansson does not read: half surrogates, and numbers that fit no type of its. */
static bool jansson_may_refuse(const json_error_t *why)
{
    enum json_error_code code = json_error_code(why);

    return code == json_error_numeric_overflow || code == json_error_null_byte_in_key ||
           code == json_error_null_character || code == json_error_stack_overflow ||
           (code == json_error_invalid_syntax && strstr(why->text, "Unicode"));
}

static void check_same(const char *text, size_t len, const json_t *value)
{
    json_auto_t *again = NULL;

    FUZZ_CHECK(stk_json_valid(text, len), "%.*s", (int)len, text);
    again = json_loadb(text, len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    FUZZ_CHECK(again && json_equal(again, value), "%.*s", (int)len, text);
}

static bool deeper_than(const json_t *value, int levels)
{
    const char *key;
    json_t *v;
    size_t i;

    if (levels < 0)
        return true;
    json_object_foreach((json_t *)(uintptr_t)value, key, v) {
        if (deeper_than(v, levels - 1))
            return true;
    }
    json_array_foreach(value, i, v) {
        if (deeper_than(v, levels - 1))
            return true;
    }
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    json_error_t why;
    json_auto_t *value = NULL;
    bool valid = stk_json_valid(text, size);

    if (!stk_utf8_valid(text,
                        size)) /* stk_json_valid() is only asked of such text; jansson takes a NUL byte for its end */
        return 0;
    value = json_loadb(text, size, JSON_DECODE_ANY | JSON_ALLOW_NUL, &why);
    if (!value) {
        if (valid)
            FUZZ_CHECK(jansson_may_refuse(&why), "jansson: %s", why.text);
        return 0;
    }
    FUZZ_CHECK(valid || deeper_than(value, 1023));
    for (int pretty = 0; pretty < 2; pretty++) {
        size_t len = 0;
        stk_auto_free char *written = (pretty ? stk_json_pretty : stk_json_text)(value, &len);

        FUZZ_CHECK(written || deeper_than(value, 200));
        if (written)
            check_same(written, len, value);
    }
    return 0;
}
