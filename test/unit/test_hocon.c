/* server/hocon against the corpus (test/hocon/corpus.txt), exact messages, limits and hostile texts. */
#include "stoker/buf.h"
#include "stoker/hocon.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include <cmocka.h>

#ifndef TOP_DIR
#define TOP_DIR "."
#endif

/* ---- the corpus */

struct block {
    char *name, *expected;
    json_t *text; /* a string */
};

/* Where the next block begins, or the end. */
static char *block_start(char *from)
{
    while (*from && strncmp(from, "=== ", 4) != 0 && strncmp(from, "=j= ", 4) != 0) {
        char *eol = strchr(from, '\n');

        from = eol ? eol + 1 : from + strlen(from);
    }
    return from;
}

/* Cuts the next block out of *rest, in place. The caller owns its text. */
static bool next_block(char **rest, struct block *ret)
{
    char *start = block_start(*rest), *text, *split;

    if (!*start)
        return false;
    ret->name = start + 4;
    assert_non_null(text = strchr(start, '\n'));
    *text++ = '\0';
    for (split = text; strncmp(split, "---\n", 4) != 0; split++)
        assert_non_null(split = strchr(split, '\n'));
    ret->expected = split + 4;
    *(split > text ? split - 1 : split) = '\0';
    ret->text = start[1] == 'j' ? json_loads(text, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL) : json_string(text);
    assert_non_null(ret->text);
    *rest = block_start(ret->expected);
    if (**rest)
        (*rest)[-1] = '\0';
    return true;
}

/* 0 when the text gives the JSON, or the error position, that is expected. */
static int check_block(const struct block *b)
{
    const char *text = json_string_value(b->text);
    struct stk_err err = { 0 };
    json_auto_t *got = stk_hocon_parse(text, json_string_length(b->text), NULL, &err);
    bool refused = strncmp(b->expected, "refused ", 8) == 0;
    char position[64];

    if (refused || strncmp(b->expected, "error ", 6) == 0) {
        const char *place = b->expected + (refused ? 8 : 6);

        snprintf(position, sizeof position, "%.*s: ", (int)strcspn(place, "\n"), place);
        if (!got && err.code == STK_INVALID && strncmp(err.msg, position, strlen(position)) == 0)
            return 0;
    } else {
        json_auto_t *expected = json_loads(b->expected, 0, NULL);

        assert_non_null(expected);
        if (got && json_equal(got, expected))
            return 0;
    }
    stk_auto_free char *shown = got ? json_dumps(got, JSON_COMPACT) : NULL;
    print_error("%s:\n%s\n  expected %s\n  got      %s\n", b->name, text, b->expected, shown ? shown : err.msg);
    return -1;
}

static void corpus_is_read_as_expected(void **state)
{
    stk_auto_buf file = { 0 };
    char chunk[4096], *rest;
    struct block b;
    int blocks = 0, failures = 0;
    size_t n;
    FILE *f = fopen(TOP_DIR "/test/hocon/corpus.txt", "r");

    (void)state;
    assert_non_null(f);
    while ((n = fread(chunk, 1, sizeof chunk, f)) > 0)
        assert_int_equal(0, stk_buf_add(&file, chunk, n));
    fclose(f);
    for (rest = file.data; next_block(&rest, &b); blocks++) {
        failures += check_block(&b) < 0;
        json_decref(b.text);
    }
    assert_int_equal(0, failures);
    assert_true(blocks >= 650);
}

/* ---- cases that a file of lines cannot hold, and exact renderings */

static void renders_as_written(void **state)
{
    static const struct {
        const char *text, *json;
    } cases[] = {
        { "", "{}" },
        { "z=1,a=2,m{q=1,b=2},a=3,m.b=4", "{\"z\":1,\"a\":3,\"m\":{\"q\":1,\"b\":4}}" }, /* order of first mention */
        { "\"a.b\"=1, a.b=2", "{\"a.b\":1,\"a\":{\"b\":2}}" },
        { "timeout = 10 s, mem = 512m", "{\"timeout\":\"10 s\",\"mem\":\"512m\"}" },
        { "a=1.50 x, b=1.50, c=1.0", "{\"a\":\"1.50 x\",\"b\":1.5,\"c\":1}" },
        { "a=9223372036854775807, b=9223372036854775808", "{\"a\":9223372036854775807,\"b\":\"9223372036854775808\"}" },
        { "a=1\r\nb=[1,\r\n2]\r\n\r\nc=x\r\n", "{\"a\":1,\"b\":[1,2],\"c\":\"x\"}" },
        { "a=x\ry", "{\"a\":\"x\\ry\"}" },
        { "a = x\001y", "{\"a\":\"x\\u0001y\"}" },
        { "\xEF\xBB\xBF{a=1}\xEF\xBB\xBF", "{\"a\":1}" },
        { "a=\"\"\"x\r\ny\"\"\"", "{\"a\":\"x\\r\\ny\"}" },
        { "a=\"\\ud83d\\ude00\"", "{\"a\":\"\xF0\x9F\x98\x80\"}" },
    };

    (void)state;
    for (size_t i = 0; i < STK_LEN(cases); i++) {
        struct stk_err err = { 0 };
        json_auto_t *got = stk_hocon_parse(cases[i].text, strlen(cases[i].text), NULL, &err);
        stk_auto_free char *shown = got ? json_dumps(got, JSON_COMPACT) : NULL;

        if (!got)
            print_error("%s: %s\n", cases[i].text, err.msg);
        assert_non_null(shown);
        assert_string_equal(cases[i].json, shown);
    }
}

/* ---- messages */

static void errors_name_position_and_token(void **state)
{
    static const struct {
        const char *text, *msg;
    } cases[] = {
        { "a = 1\n  b = }", "2:7: expecting a value but got '}'" },
        { "x=1&y=2", "1:4: '&' is not allowed outside quotes" },
        { "a", "1:2: expecting ':', '=' or '{' after a key but got end of text" },
        { "a = [1, 2", "1:10: expecting ',' or ']' but got end of text" },
        { "a { b = 1\nc", "2:2: expecting ':', '=' or '{' after a key but got end of text" },
        { "a { b = 1", "1:10: expecting ',' or '}' but got end of text" },
        { "[1]", "1:1: expecting a key or '{' but got '['" },
        { "gr\xC3\xB6\xC3\x9F"
          "e = ]",
          "1:9: expecting a value but got ']'" }, /* columns count characters */
        { "\xEF\xBB\xBF"
          "a = ]",
          "1:5: expecting a value but got ']'" }, /* and no byte order mark */
        { "a = \"x\n\"", "1:7: expecting a closing '\"' but got end of line" },
        { "a = \"x", "1:5: the string opened with '\"' here is never closed" },
        { "a = \"\"\"x\n\n", "1:5: the string opened with \"\"\" here is never closed" },
        { "a = \"\\u0000\"", "1:6: \\u0000 is not allowed in a string" },
        { "a = \"\\ud83d\"", "1:6: expecting a \\u pair of high and low surrogate, got only one of them" },
        { "a = 1e400", "1:5: expecting a number that a double can hold" },
        { "a=1\nb = x ${a.c} y", "2:7: expecting a value for '${a.c}' but the text gives none" },
        { "a = ${b}\nb = ${a}", "2:5: expecting a value for '${a}' but it depends on itself" },
        { "a = [1]\nb = ${a} x", "2:9: expecting pieces of a value that go together but got an array and a string" },
        { "a = 5\na += 1", "2:6: expecting pieces of a value that go together but got a number and an array" },
        { "a = null [1]", "1:10: expecting pieces of a value that go together but got null and an array" },
        { "a = true {}", "1:10: expecting pieces of a value that go together but got a boolean and an object" },
        { "a = 1 2 {}", "1:9: expecting pieces of a value that go together but got a string and an object" },
        { "a=1\n include \"x\"",
          "2:2: includes are switched off for posted texts (a key of that name has to be quoted)" },
        { "a = \xC3(", "1:5: expecting UTF-8 but got byte 0xc3" },
        { "a = \xED\xA0\x80", "1:5: expecting UTF-8 but got byte 0xed" },
    };

    (void)state;
    for (size_t i = 0; i < STK_LEN(cases); i++) {
        struct stk_err err = { 0 };

        assert_null(stk_hocon_parse(cases[i].text, strlen(cases[i].text), NULL, &err));
        assert_string_equal(cases[i].msg, err.msg);
        assert_int_equal(STK_INVALID, err.code);
        assert_null(stk_hocon_parse(cases[i].text, strlen(cases[i].text), NULL, NULL));
    }
}

static void nul_is_refused(void **state)
{
    struct stk_err err = { 0 };

    (void)state;
    assert_null(stk_hocon_parse("a=1\nb=\0", 7, NULL, &err));
    assert_string_equal("2:3: expecting text but got a NUL byte", err.msg);
}

static void long_tokens_are_shortened(void **state)
{
    stk_auto_buf text = { 0 };
    struct stk_err err = { 0 };

    (void)state;
    stk_buf_add_str(&text, "a=[1] \"");
    for (int i = 0; i < 1000; i++)
        stk_buf_add_str(&text, "\xC3\xA4");
    stk_buf_add_str(&text, "\" }");
    assert_null(stk_hocon_parse(text.data, text.len, NULL, &err));
    assert_true(stk_utf8_valid(err.msg, strlen(err.msg)));
    text.len = 0;
    stk_buf_add_str(&text, "x=${");
    for (int i = 0; i < 1000; i++)
        stk_buf_add_str(&text, "\xC3\xA4");
    stk_buf_add_str(&text, "}");
    assert_null(stk_hocon_parse(text.data, text.len, NULL, &err));
    assert_true(strlen(err.msg) < 150 && stk_utf8_valid(err.msg, strlen(err.msg)));
    assert_non_null(strstr(err.msg, "...'"));
}

/* Whatever is cut off a text, there is an answer and no overrun (the address sanitizer watches the exact copy). */
static void survives_every_cut(void **state)
{
    static const char text[] =
        "{a:[1.5e3,\"\\ud83d\\ude00\"\"\"\"r\"\"\"] ${?b.\"c\"}{x+=1} // c\n,b\xC3\xA4:true null,c=${a}}";

    (void)state;
    for (size_t from = 0; from < sizeof text; from++) {
        for (size_t len = 0; from + len < sizeof text; len++) {
            stk_auto_free char *copy = malloc(len + !len);

            assert_non_null(copy);
            memcpy(copy, text + from, len);
            json_decref(stk_hocon_parse(copy, len, NULL, NULL));
        }
    }
}

/* ---- limits */

static void repeat(struct stk_buf *b, const char *what, int n)
{
    for (int i = 0; i < n; i++)
        stk_buf_add_str(b, what);
}

static void check_code(const struct stk_buf *text, const struct stk_hocon_limits *limits, enum stk_code code)
{
    struct stk_err err = { 0 };
    json_auto_t *got = stk_hocon_parse(text->data, text->len, limits, &err);

    if (err.code != code)
        print_error("%.60s: %s\n", text->data, err.msg);
    assert_int_equal(code, err.code);
    assert_int_equal(code == STK_OK, got != NULL);
}

static void limits_are_kept(void **state)
{
    static const struct stk_hocon_limits tight = { .max_bytes = 40, .max_depth = 3, .max_nodes = 6 };
    static const struct {
        const char *text;
        enum stk_code code;
    } cases[] = {
        { "a=[[1]]", STK_OK },
        { "a=[[[]]]", STK_LIMIT },
        { "a.b.c=1", STK_OK },
        { "a.b.c.d=1", STK_LIMIT },
        { "a.b.c={}", STK_LIMIT },
        { "a=[1,2,3,4]", STK_OK }, /* with the root and the list 6 values */
        { "a=[1,2,3,4,5]", STK_LIMIT },
        { "a=[1,2,3,4,5],a=1", STK_OK }, /* what is overridden does not count */
        { "a=[1],b=${a},c=1", STK_OK },
        { "a=[1],b=${a},c=${a}", STK_LIMIT },
        { "a=[[1]],b=[${a}]", STK_LIMIT },
        { "a=1                                     ", STK_OK },
        { "a=1                                      ", STK_LIMIT },
    };

    (void)state;
    for (size_t i = 0; i < STK_LEN(cases); i++) {
        const struct stk_buf text = { .data = (char *)(uintptr_t)cases[i].text, .len = strlen(cases[i].text) };

        check_code(&text, &tight, cases[i].code);
    }
}

static void nesting_bombs_are_refused(void **state)
{
    static const struct {
        const char *prefix, *piece;
        enum stk_code code;
    } bombs[] = {
        { "", "[", STK_INVALID },      { "a=", "[", STK_LIMIT },      { "", "{", STK_INVALID },
        { "", "a{", STK_LIMIT },       { "", "a.", STK_LIMIT },       { "x=${?", "a.", STK_LIMIT },
        { "a=", "${", STK_INVALID },   { "a=", "{a=", STK_LIMIT },    { "a=", "[{a=", STK_LIMIT },
        { "a=", "${?b}[", STK_LIMIT }, { "a=", "\"\\", STK_INVALID },
    };
    const struct stk_hocon_limits deep = { .max_bytes = 1000000, .max_depth = 1000000, .max_nodes = 1000000 };

    (void)state;
    for (size_t i = 0; i < STK_LEN(bombs); i++) {
        stk_auto_buf text = { 0 };

        stk_buf_add_str(&text, bombs[i].prefix);
        repeat(&text, bombs[i].piece, 100000);
        check_code(&text, NULL, bombs[i].code);
        check_code(&text, &deep, bombs[i].code); /* a generous caller does not buy the whole C stack */
    }
}

static void substitution_bombs_are_refused(void **state)
{
    static const struct {
        const char *first, *link;
    } bombs[] = {
        { "a0=[1]\n", "a%d=[${a%d},${a%d}]\n" },
        { "a0=[1]\n", "a%d=${a%d} ${a%d}\n" },
        { "a0=lol\n", "a%d=${a%d}${a%d}\n" },
        { "a0{x=1}\n", "a%d{x=${a%d},y=${a%d}}\n" },
        { "a0=${?zz}\n", "a%d=${?a%d}${?a%d}\n" },
        { "a0=1\n", "a%d=[${a%d}],b%d=0\n" },
        { "", "a%d=${a%d}${?b%d}\n" },
    };

    (void)state;
    for (size_t b = 0; b < STK_LEN(bombs); b++) {
        stk_auto_buf text = { 0 };
        bool forward = !bombs[b].first[0];

        stk_buf_add_str(&text, bombs[b].first);
        for (int i = 1; i < 5000; i++) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
            stk_buf_printf(&text, bombs[b].link, i, forward ? i + 1 : i - 1, forward ? i : i - 1);
#pragma GCC diagnostic pop
        }
        if (forward)
            stk_buf_add_str(&text, "a5000=1");
        check_code(&text, NULL, STK_LIMIT);
    }
}

/* These come first among the tests: a peak that was reached before would hide theirs. */
static long peak_kib(void)
{
    struct rusage usage;

    assert_int_equal(0, getrusage(RUSAGE_SELF, &usage));
    return usage.ru_maxrss;
}

static void check_peak(long before_kib)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    (void)before_kib; /* the one keeps for a while what was freed, the other remembers who used it */
#else
    assert_in_range(peak_kib() - before_kib, 0, 48 * 1024);
#endif
}

/* As short as they are, some would fill gigabytes if the caller's limits were all that held them. */
static void short_bombs_take_little_memory(void **state)
{
    static const struct {
        const char *first, *link;
    } bombs[] = {
        { "a0=xxxxxxxxxxxxxxxx\n", "a%d=${a%d}${a%d}\n" },
        { "a0=\"xxxxxxxxxxxxxxxx\"\n", "a%d=${a%d}\" \"${a%d}\n" },
        { "a0=[xxxxxxxxxxxxxxxx]\n", "a%d=${a%d} ${a%d}\n" },
        { "a0=xxxxxxxxxxxxxxxx\n", "a%d=[${a%d},${a%d}]\n" },
        { "a0=xxxxxxxxxxxxxxxx\n", "a%d={x:${a%d},y:${a%d}}\n" },
    };
    const struct stk_hocon_limits generous[] = {
        { .max_bytes = SIZE_MAX, .max_depth = 48, .max_nodes = SIZE_MAX },
        { .max_bytes = SIZE_MAX / 2 + 1, .max_depth = 48, .max_nodes = 200000 },
        { .max_bytes = (size_t)30 << 20, .max_depth = 48, .max_nodes = 200000 },
    };
    long before_kib = peak_kib();

    (void)state;
    for (size_t b = 0; b < STK_LEN(bombs); b++) {
        for (int lines = 22; lines <= 40; lines++) {
            stk_auto_buf text = { 0 };

            stk_buf_add_str(&text, bombs[b].first);
            for (int i = 1; i < lines; i++) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
                stk_buf_printf(&text, bombs[b].link, i, i - 1, i - 1);
#pragma GCC diagnostic pop
            }
            for (size_t i = 0; i < STK_LEN(generous); i++)
                check_code(&text, &generous[i], STK_LIMIT);
        }
    }
    check_peak(before_kib);
}

/* Each of these strings waits half composed until the next one is known. */
static void strings_being_composed_count_as_memory(void **state)
{
    long before_kib = peak_kib();
    stk_auto_buf text = { 0 };

    (void)state;
    stk_buf_add_str(&text, "s=");
    repeat(&text, "x", 10000);
    stk_buf_add_str(&text, "\nt=${s}${s}${s}${s}${s}${s}${s}${s}${s}${s}\n");
    for (int i = 0; i < 900; i++)
        stk_buf_printf(&text, "a%d=${t}${t}${a%d}\n", i, i + 1);
    stk_buf_add_str(&text, "a900=1");
    check_code(&text, NULL, STK_LIMIT);
    check_peak(before_kib);
}

static void output_is_bounded_by_the_text(void **state)
{
    stk_auto_buf text = { 0 };
    struct stk_hocon_limits limits = stk_hocon_default_limits;

    (void)state;
    stk_buf_add_str(&text, "a=");
    repeat(&text, "x", 100000);
    stk_buf_add_str(&text, "\nb=[${a},${a},${a},${a},${a},${a},${a},${a},${a}]\n"); /* ten times in all: below 1 MiB */
    check_code(&text, NULL, STK_OK);
    limits.max_bytes = 400000; /* 2 * max_bytes is less */
    check_code(&text, &limits, STK_LIMIT);
    stk_buf_add_str(&text, "c=${a}");
    check_code(&text, NULL, STK_LIMIT);
    stk_buf_add_str(&text, "\n#");
    repeat(&text, "x", 500000); /* a longer text may become longer */
    check_code(&text, NULL, STK_OK);
}

static void big_plain_texts_are_read(void **state)
{
    enum { LEN = 20 << 20 };
    const struct stk_hocon_limits limits = { .max_bytes = LEN + 100, .max_depth = 48, .max_nodes = 200000 };
    stk_auto_buf one = { 0 }, many = { 0 }, words = { 0 };

    (void)state;
    stk_buf_add_str(&one, "a=\"");
    repeat(&one, "0123456789abcdef", LEN / 16);
    stk_buf_add_str(&one, "\"");
    check_code(&one, &limits, STK_OK);
    for (int i = 0; many.len < LEN; i++)
        stk_buf_printf(&many, "key%d = \"%0100d\"\n", i, i);
    check_code(&many, &limits, STK_OK);
    stk_buf_add_str(&words, "a=");
    repeat(&words, "word ", LEN / 5);
    check_code(&words, &limits, STK_OK);
}

/* Small values take most memory for their length; as many as max_nodes allows have to fit. */
static void many_small_values_are_read(void **state)
{
    static const struct {
        const char *line;
        int n;
    } texts[] = {
        { "k%d=1\n", 199000 }, { "k%d={a=1}\n", 99000 }, { "k%d.a.b.c=1\n", 49000 }, { "k%d=${?x}x\n", 50000 }
    };

    (void)state;
    for (size_t t = 0; t < STK_LEN(texts); t++) {
        stk_auto_buf text = { 0 };

        for (int i = 0; i < texts[t].n; i++) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
            stk_buf_printf(&text, texts[t].line, i);
#pragma GCC diagnostic pop
        }
        check_code(&text, NULL, STK_OK);
    }
}

static void wide_texts_take_linear_time(void **state)
{
    stk_auto_buf text = { 0 };

    (void)state;
    for (int i = 0; i < 50000; i++)
        stk_buf_printf(&text, "x.k%d = ${?y.v%d} word\n", i, i);
    check_code(&text, NULL, STK_OK);
    text.len = 0;
    stk_buf_add_str(&text, "a=");
    repeat(&text, "word ", 200000);
    check_code(&text, NULL, STK_OK);
    text.len = 0;
    stk_buf_add_str(&text, "a=");
    repeat(&text, "[1]", 50000);
    check_code(&text, NULL, STK_OK);
    text.len = 0;
    repeat(&text, "a += 1\n", 800);
    check_code(&text, NULL, STK_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(short_bombs_take_little_memory),
        cmocka_unit_test(strings_being_composed_count_as_memory),
        cmocka_unit_test(corpus_is_read_as_expected),
        cmocka_unit_test(renders_as_written),
        cmocka_unit_test(errors_name_position_and_token),
        cmocka_unit_test(nul_is_refused),
        cmocka_unit_test(long_tokens_are_shortened),
        cmocka_unit_test(survives_every_cut),
        cmocka_unit_test(limits_are_kept),
        cmocka_unit_test(nesting_bombs_are_refused),
        cmocka_unit_test(substitution_bombs_are_refused),
        cmocka_unit_test(output_is_bounded_by_the_text),
        cmocka_unit_test(big_plain_texts_are_read),
        cmocka_unit_test(many_small_values_are_read),
        cmocka_unit_test(wide_texts_take_linear_time),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
