/*
 * HOCON: parsing, substitutions and what comes out. The first byte chooses the limits, the rest is the text. What is accepted
 * is within its limits, is written as valid JSON, and means the same when that is parsed again; what is not has a message.
 */
#include "fuzz.h"

#include "stoker/hocon.h"
#include "stoker/json.h"

struct counts {
    size_t values, bytes;
    int depth;
};

static void count(const json_t *value, int depth, struct counts *c)
{
    const char *key;
    json_t *v;
    size_t i;

    c->values++;
    if (depth > c->depth)
        c->depth = depth;
    if (json_is_string(value))
        c->bytes += json_string_length(value);
    json_object_foreach((json_t *)(uintptr_t)value, key, v) {
        c->bytes += strlen(key);
        count(v, depth + 1, c);
    }
    json_array_foreach(value, i, v)
        count(v, depth + 1, c);
}

static void check_limits(const json_t *value, size_t len, const struct stk_hocon_limits *l)
{
    struct counts c = { 0 };
    size_t most_bytes = 2 * l->max_bytes;

    count(value, 0, &c);
    if (most_bytes > (1 << 20) && most_bytes > 2 * len)
        most_bytes = 2 * len > (1 << 20) ? 2 * len : 1 << 20;
    FUZZ_CHECK(len <= l->max_bytes);
    FUZZ_CHECK(c.values <= l->max_nodes && c.values <= 16384 + len, "%zu values", c.values);
    FUZZ_CHECK(c.bytes <= most_bytes, "%zu bytes", c.bytes);
    FUZZ_CHECK(c.depth <= l->max_depth, "%d levels", c.depth);
}

/* JSON is HOCON too. */
static void check_reads_back(const json_t *value)
{
    struct stk_hocon_limits wide = { .max_bytes = SIZE_MAX / 4, .max_depth = 1000, .max_nodes = SIZE_MAX / 4 };
    stk_auto_free char *text = NULL;
    json_auto_t *read = NULL, *parsed = NULL;
    struct stk_err err;
    size_t len;

    text = stk_json_text(value, &len);
    FUZZ_CHECK(text);
    FUZZ_CHECK(stk_json_valid(text, len), "%s", text);
    read = json_loadb(text, len, JSON_ALLOW_NUL, NULL);
    FUZZ_CHECK(read && json_equal(read, value), "%s", text);
    parsed = stk_hocon_parse(text, len, &wide, &err);
    FUZZ_CHECK(parsed || err.code == STK_LIMIT, "%s: %s", err.msg, text);
    FUZZ_CHECK(!parsed || json_equal(parsed, value), "%s", text);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    fuzz_large_stack(*argv);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct stk_hocon_limits small = { .max_bytes = 512, .max_depth = 6, .max_nodes = 40 };
    struct stk_hocon_limits limits = stk_hocon_default_limits;
    struct stk_err err = { 0 };
    json_auto_t *value = NULL;

    if (size == 0)
        return 0;
    if (data[0] & 1)
        limits = small;
    else
        limits.max_depth =
            data[0] & 2 ? 48 : 200; /* as for what is posted; deeper ones than 200 are parsed and not written */
    value = stk_hocon_parse((const char *)data + 1, size - 1, &limits, &err);
    if (!value) {
        FUZZ_CHECK(err.code == STK_INVALID || err.code == STK_LIMIT, "%s", err.msg);
        fuzz_check_message(&err);
        return 0;
    }
    FUZZ_CHECK(json_is_object(value));
    check_limits(value, size - 1, &limits);
    check_reads_back(value);
    return 0;
}
