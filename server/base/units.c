#include "stoker/units.h"

#include "stoker/buf.h"

#include <string.h>
#include <strings.h>

struct unit {
    const char *names; /* with blanks around each */
    int64_t factor;
};

static int parse(const char *text, const struct unit *units, int64_t max, int64_t *ret)
{
    size_t digits = strspn(text, "0123456789"), len;
    const char *unit = text + digits;
    char number[20], name[16];
    int64_t n;

    if (digits == 0 || digits >= sizeof number)
        return -1;
    memcpy(number, text, digits);
    number[digits] = '\0';
    unit += strspn(unit, " ");
    len = strlen(unit);
    if (stk_parse_i64(number, 0, INT64_MAX, &n, NULL) < 0 || len + 3 > sizeof name)
        return -1;
    name[0] = ' ';
    memcpy(name + 1, unit, len);
    memcpy(name + 1 + len, " ", 2);
    for (; units->names; units++) {
        if ((len == 0 || strcasestr(units->names, name)) && !strchr(unit, ' '))
            return __builtin_mul_overflow(n, units->factor, ret) || *ret > max ? -1 : 0;
    }
    return -1;
}

/* A number without unit takes the first one. */
int stk_parse_duration_ms(const char *text, int64_t *ret)
{
    static const struct unit units[] = {
        { " ms milli millis millisecond milliseconds ", 1 },
        { " s second seconds ", 1000 },
        { " m min minute minutes ", 60 * 1000 },
        { " h hour hours ", 60 * 60 * 1000 },
        { " d day days ", 24 * 60 * 60 * 1000 },
        { NULL, 0 },
    };

    return parse(text, units, INT64_C(3653) * 24 * 60 * 60 * 1000, ret);
}

int stk_parse_size(const char *text, int64_t *ret)
{
    static const struct unit units[] = {
        { " b byte bytes ", 1 },
        { " k kb kib ", INT64_C(1) << 10 },
        { " m mb mib ", INT64_C(1) << 20 },
        { " g gb gib ", INT64_C(1) << 30 },
        { " t tb tib ", INT64_C(1) << 40 },
        { NULL, 0 },
    };

    return parse(text, units, INT64_C(1) << 60, ret);
}
