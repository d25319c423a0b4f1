#include "stoker/http.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void assert_text(json_t *value_take, const char *expected)
{
    size_t len = 0;
    char *text = stk_json_text(value_take, &len);

    assert_non_null(text);
    assert_string_equal(text, expected);
    assert_int_equal(len, strlen(expected));
    free(text);
    json_decref(value_take);
}

static void values_are_compact(void **state)
{
    (void)state;
    assert_text(json_null(), "null");
    assert_text(json_true(), "true");
    assert_text(json_false(), "false");
    assert_text(json_integer(INT64_MIN), "-9223372036854775808");
    assert_text(json_object(), "{}");
    assert_text(json_array(), "[]");
    assert_text(json_pack("{s:[i,s,{}],s:n}", "b", 1, "x", "a"), "{\"b\":[1,\"x\",{}],\"a\":null}");
}

/* A double stays one, and reads back as the same one. */
static void reals_are_shortest_and_exact(void **state)
{
    static const struct {
        double value;
        const char *text;
    } cases[] = {
        { 1250.0, "1250.0" },
        { 0.1, "0.1" },
        { -0.0, "-0.0" },
        { 1e21, "1e+21" },
        { 1.0 / 3, "0.3333333333333333" },
        { 5e-324, "4.94065645841247e-324" },
        { 1e22, "1e+22" },
        { 0.1 + 0.2, "0.30000000000000004" },
        { 123456789012345680.0, "1.2345678901234568e+17" },
    };

    (void)state;
    for (size_t i = 0; i < STK_LEN(cases); i++) {
        assert_text(json_real(cases[i].value), cases[i].text);
        assert_true(strtod(cases[i].text, NULL) == cases[i].value);
    }
}

static void strings_are_escaped_like_janssons(void **state)
{
    static const char all[] = "q\" b\\ /\b\f\n\r\t\x01\x1f\x7f \xc3\xa9 \xf0\x9f\x98\x80 \0!";
    json_t *text = json_stringn(all, sizeof all - 1);
    char *ours, *theirs;

    (void)state;
    assert_non_null(text);
    ours = stk_json_text(text, NULL);
    theirs = json_dumps(text, JSON_ENCODE_ANY);
    assert_string_equal(ours, theirs);
    assert_non_null(strstr(ours, "\\u0001\\u001F"));
    assert_non_null(strstr(ours, "\\u0000!"));
    free(ours);
    free(theirs);
    json_decref(text);
}

/* As Typesafe Config renders: numbers among the keys come first, by value. */
static void pretty_is_typesafe_config_s(void **state)
{
    json_t *value = json_pack("{s:i, s:{s:f, s:s}, s:[i,[],{}], s:b, s:b}", "z", 1, "input", "x", 1.5, "s", "a b",
                              "list", 1, "10", 1, "9", 0);
    char *text = stk_json_pretty(value, NULL);

    (void)state;
    assert_string_equal(text, "{\n"
                              "    \"9\" : false,\n"
                              "    \"10\" : true,\n"
                              "    \"input\" : {\n"
                              "        \"s\" : \"a b\",\n"
                              "        \"x\" : 1.5\n"
                              "    },\n"
                              "    \"list\" : [\n"
                              "        1,\n"
                              "        [],\n"
                              "        {}\n"
                              "    ],\n"
                              "    \"z\" : 1\n"
                              "}\n");
    free(text);
    json_decref(value);
}

/* The walk is recursive and HTTP threads have small stacks: what is too deep is refused. */
static void depth_is_limited(void **state)
{
    json_t *value = json_integer(1);

    (void)state;
    for (int i = 0; i < 200; i++)
        value = json_pack("[o]", value);
    free(stk_json_text(value, NULL));
    for (int i = 0; i < 10; i++)
        value = json_pack("[o]", value);
    assert_null(stk_json_text(value, NULL));
    assert_null(stk_json_text(NULL, NULL));
    json_decref(value);
}

static void valid_json_is_told_from_other_text(void **state)
{
    static const char *const good[] = {
        "null",
        " true ",
        "-0.0",
        "1e400",
        "123456789012345678901234567890",
        "2.5E-3",
        "\"\"",
        "\"a\\u0000\\n\\/\"",
        "[]",
        "{}",
        "[1,[2,{}],{\"a\":[]}]",
        "{\"a\":1,\"a\":{\"b\":[true,false,null]}}",
        "\t[ 1 , 2 ]\r\n",
    };
    static const char *const bad[] = {
        "",      " ",     "nul",      "nulls",     "01",    "1.",       ".5",      "+1",          "1e",
        "-",     "NaN",   "Infinity", "'a'",       "\"a",   "\"a\nb\"", "\"\\x\"", "\"\\u12g4\"", "[",
        "]",     "[1",    "[1,]",     "[,1]",      "[1 2]", "{",        "{\"a\"}", "{\"a\":}",    "{\"a\":1,}",
        "{a:1}", "{1:2}", "[1}",      "{\"a\":1]", "1 2",   "[] []",    "\"\\",
    };
    char deep[2050];

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        if (!stk_json_valid(good[i], strlen(good[i])))
            fail_msg("refused: %s", good[i]);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (stk_json_valid(bad[i], strlen(bad[i])))
            fail_msg("taken: %s", bad[i]);
    }
    memset(deep, '[', 1025);
    memset(deep + 1025, ']', 1025);
    assert_true(stk_json_valid(deep, 2050)); /* the innermost pair is empty and needs no level */
    assert_false(stk_json_valid("\"a\0b\"", 5));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_compact),
        cmocka_unit_test(reals_are_shortest_and_exact),
        cmocka_unit_test(strings_are_escaped_like_janssons),
        cmocka_unit_test(pretty_is_typesafe_config_s),
        cmocka_unit_test(depth_is_limited),
        cmocka_unit_test(valid_json_is_told_from_other_text),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
