/*
 * Our side of the comparison (see README.md): texts on stdin, before each a line with its length in bytes; for each one line on
 * stdout, "value JSON" or "invalid MESSAGE" or "limit MESSAGE".
 */
#include "stoker/buf.h"
#include "stoker/hocon.h"
#include "stoker/json.h"

#include <stdio.h>

static const struct {
    enum stk_code code;
    const char *word;
} words[] = { { STK_INVALID, "invalid" }, { STK_LIMIT, "limit" } };

static void answer(const char *text, size_t len)
{
    struct stk_err err = { 0 };
    json_auto_t *value = stk_hocon_parse(text, len, NULL, &err);
    const char *word = "broken";

    if (value) {
        stk_auto_free char *json = stk_json_text(value, NULL);

        printf("value %s\n", json ? json : "");
        return;
    }
    for (size_t i = 0; i < STK_LEN(words); i++)
        if (words[i].code == err.code)
            word = words[i].word;
    printf("%s %s\n", word, err.msg);
}

int main(void)
{
    size_t len;
    char eol;

    while (scanf("%zu%c", &len, &eol) == 2) {
        stk_auto_free char *text = malloc(len + !len); /* exact, for the address sanitizer */

        if (!text || fread(text, 1, len, stdin) != len)
            return 1;
        answer(text, len);
        fflush(stdout);
    }
    return 0;
}
