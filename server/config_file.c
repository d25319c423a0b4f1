/* The reading of the configuration file: libconfig's syntax, without what it would do silently. */
#include "config_internal.h"

#include "stoker/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <libconfig.h>
#include <string.h>

enum {
    FILE_MAX_BYTES = 1024 * 1024,
    INT_MAX_DIGITS = 9,
};

static char *read_file(const char *path, struct stk_err *err)
{
    stk_auto_fd fd = open(path, O_RDONLY | O_CLOEXEC);
    stk_auto_buf b = { 0 };
    char chunk[4096];
    ssize_t n;

    if (fd < 0) {
        stk_fail_sys(err, errno, "%s", path);
        return NULL;
    }
    while ((n = read(fd, chunk, sizeof chunk)) != 0) {
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            stk_fail_sys(err, errno, "%s", path);
            return NULL;
        }
        stk_buf_add(&b, chunk, (size_t)n);
        if (b.len > FILE_MAX_BYTES) {
            stk_fail(err, STK_INVALID, "%s: longer than 1 MiB: is this a configuration file?", path);
            return NULL;
        }
    }
    if (b.len && !stk_utf8_valid(b.data, b.len)) {
        stk_fail(err, STK_INVALID, "%s: not UTF-8 text", path);
        return NULL;
    }
    char *text = stk_buf_steal(&b);
    if (!text)
        stk_fail(err, STK_INTERNAL, "out of memory");
    return text;
}

static size_t skip_string(const char *p)
{
    size_t n = 1;

    while (p[n] && p[n] != '"')
        n += p[n] == '\\' && p[n + 1] ? 2 : 1;
    return p[n] ? n + 1 : n;
}

static size_t skip_comment(const char *p)
{
    const char *end;

    if (p[0] == '#' || (p[0] == '/' && p[1] == '/'))
        return strcspn(p, "\n");
    if (p[0] == '/' && p[1] == '*')
        return (end = strstr(p + 2, "*/")) ? (size_t)(end + 2 - p) : strlen(p);
    return 0;
}

static bool is_word(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '-' ||
           c == '*';
}

/*
 * What libconfig would do silently: follow @include to other files, and wrap a number that is longer than 32 bits
 * (1.5 reads 5000000000 as 705032704).
 */
static int check_text(const char *path, const char *text, struct stk_err *err)
{
    unsigned line = 1;

    for (const char *p = text; *p;) {
        size_t n = *p == '"' ? skip_string(p) : skip_comment(p);

        if (n == 0 && strncmp(p, "@include", 8) == 0)
            return stk_fail(err, STK_INVALID, "%s:%u: @include is not supported", path, line);
        if (n == 0 && is_word(*p)) {
            while (is_word(p[n]))
                n++;
            if (*p >= '0' && *p <= '9' && n > INT_MAX_DIGITS)
                return stk_fail(
                    err, STK_INVALID,
                    "%s:%u: the number %.*s is too large; sizes and times are texts with a unit, such as \"5GiB\"",
                    path, line, (int)(n < 40 ? n : 40), p);
        }
        if (n == 0)
            n = 1;
        for (; n > 0; n--)
            line += *p++ == '\n';
    }
    return 0;
}

/* A scalar as it would be written in the file, for messages; NULL: a list or a group. */
static const char *show(const config_setting_t *s, char buf[72])
{
    const char *text;

    switch (config_setting_type(s)) {
    case CONFIG_TYPE_INT:
    case CONFIG_TYPE_INT64: snprintf(buf, 72, "%lld", config_setting_get_int64(s)); return buf;
    case CONFIG_TYPE_FLOAT: snprintf(buf, 72, "%g", config_setting_get_float(s)); return buf;
    case CONFIG_TYPE_BOOL: return config_setting_get_bool(s) ? "true" : "false";
    case CONFIG_TYPE_STRING:
        text = config_setting_get_string(s);
        text = text ? text : "";
        snprintf(buf, 72, "\"%.*s\"", (int)stk_utf8_cut(text, 56), text);
        return buf;
    case CONFIG_TYPE_GROUP: return "a group";
    default: return "a list";
    }
}

static int set_scalar(struct stk_config *c, const struct stk_key *key, const config_setting_t *s, struct stk_err *err)
{
    int type = config_setting_type(s);
    const char *text;
    char shown[72];

    if (key->kind == BOOL && type == CONFIG_TYPE_BOOL)
        return stk_key_set(c, key, show(s, shown), err);
    if (key->kind == INT && (type == CONFIG_TYPE_INT || type == CONFIG_TYPE_INT64))
        return stk_key_set(c, key, show(s, shown), err);
    if (key->kind != BOOL && key->kind != INT && type == CONFIG_TYPE_STRING) {
        text = config_setting_get_string(s);
        return stk_key_set(c, key, text ? text : "", err); /* libconfig has NULL for "" in some versions */
    }
    return stk_key_refuse(key, show(s, shown), err);
}

static int set_setting(struct stk_config *c, const struct stk_key *key, const config_setting_t *s, struct stk_err *err)
{
    bool takes_list = key->kind == LISTEN || key->kind == SPARK_CONF || key->kind == URLS || key->kind == ALLOWED;
    int n;

    stk_key_clear_list(c, key);
    if (!takes_list || (key->kind == LISTEN && config_setting_type(s) == CONFIG_TYPE_STRING))
        return set_scalar(c, key, s, err);
    if (!config_setting_is_list(s) && !config_setting_is_array(s)) {
        char shown[72];

        return stk_key_refuse(key, show(s, shown), err);
    }
    n = config_setting_length(s);
    if (n == 0 && key->kind == LISTEN)
        return stk_key_refuse(key, "an empty list", err);
    for (unsigned i = 0; i < (unsigned)n; i++)
        if (set_scalar(c, key, config_setting_get_elem(s, i), err) < 0)
            return -1;
    return 0;
}

static int load_settings(struct stk_config *c, const char *path, const config_t *file, struct stk_err *err)
{
    const config_setting_t *root = config_root_setting(file);

    for (unsigned i = 0; i < (unsigned)config_setting_length(root); i++) {
        const config_setting_t *s = config_setting_get_elem(root, i);
        const struct stk_key *key = stk_key_find(config_setting_name(s));

        if (!key ? stk_key_unknown(config_setting_name(s), err) < 0 : set_setting(c, key, s, err) < 0) {
            stk_err_prefix(err, "%s:%u", path, config_setting_source_line(s));
            return -1;
        }
    }
    return 0;
}

int stk_config_read_file(struct stk_config *c, const char *path, struct stk_err *err)
{
    stk_auto_free char *text = read_file(path, err);
    config_t file;
    int rc;

    if (!text || check_text(path, text, err) < 0)
        return -1;
    config_init(&file);
    if (config_read_string(&file, text) == CONFIG_TRUE)
        rc = load_settings(c, path, &file, err);
    else
        rc = stk_fail(err, STK_INVALID, "%s:%d: %s (a setting is written: name = value;)", path,
                      config_error_line(&file), config_error_text(&file));
    config_destroy(&file);
    return rc;
}
