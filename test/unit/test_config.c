#include "config.h"

#include "stoker/buf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* TOP_DIR: the top of the source tree. */

static char folder[] = "/tmp/stoker-config-XXXXXX";
static char file[64];

static int set_up(void **state)
{
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    snprintf(file, sizeof file, "%s/t.conf", folder);
    unsetenv("STATE_DIRECTORY");
    unsetenv("XDG_STATE_HOME");
    return setenv("HOME", "/home/someone", 1);
}

static int tear_down(void **state)
{
    (void)state;
    unlink(file);
    return rmdir(folder);
}

static void write_file(const char *bytes, size_t n)
{
    FILE *f = fopen(file, "w");

    assert_non_null(f);
    assert_int_equal(n, fwrite(bytes, 1, n, f));
    assert_int_equal(0, fclose(f));
}

static struct stk_config load(const char *text)
{
    struct stk_config c;
    struct stk_err err = { 0 };

    write_file(text, strlen(text));
    if (stk_config_load(&c, file, &err) < 0)
        fail_msg("%s", err.msg);
    return c;
}

/* want: the message, with what stands before the line number left out: "3: max-jobs: ...". */
static void refused_bytes(const char *bytes, size_t n, const char *want)
{
    struct stk_config c;
    struct stk_err err = { 0 };
    size_t prefix = strlen(file);

    write_file(bytes, n);
    assert_int_equal(-1, stk_config_load(&c, file, &err));
    assert_int_equal(STK_INVALID, err.code);
    assert_memory_equal(file, err.msg, prefix);
    assert_int_equal(':', err.msg[prefix]);
    assert_string_equal(want, err.msg + prefix + 1);
}

static void refused(const char *text, const char *want)
{
    refused_bytes(text, strlen(text), want);
}

static char *print(const struct stk_config *c)
{
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);

    assert_non_null(out);
    stk_config_print(c, out);
    assert_int_equal(0, fclose(out));
    return text;
}

static char *slurp(const char *path)
{
    stk_auto_buf b = { 0 };
    char chunk[4096];
    size_t n;
    FILE *f = fopen(path, "r");

    if (!f)
        fail_msg("%s is missing", path);
    while ((n = fread(chunk, 1, sizeof chunk, f)) > 0)
        stk_buf_add(&b, chunk, n);
    fclose(f);
    return stk_buf_steal(&b);
}

/* Calls fn with each "key = value" line of a configuration text. */
static size_t each_key(const char *text, void (*fn)(const char *line, size_t name_len, const void *arg),
                       const void *arg)
{
    size_t keys = 0;

    for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n') {
        size_t name_len = strspn(line, "abcdefghijklmnopqrstuvwxyz-");

        if (name_len > 0 && strncmp(line + name_len, " = ", 3) == 0) {
            fn(line, name_len, arg);
            keys++;
        }
    }
    return keys;
}

/* ---- defaults, conf/stoker.conf, README.md */

static void defaults_need_no_file(void **state)
{
    struct stk_config c;

    (void)state;
    assert_int_equal(0, stk_config_load(&c, NULL, NULL));
    assert_int_equal(1, c.n_listen);
    assert_string_equal("127.0.0.1:8090", c.listen[0]);
    assert_false(c.insecure);
    assert_string_equal("/home/someone/.local/state/stoker", c.state_dir);
    assert_int_equal(STK_LOG_INFO, c.log_level);
    assert_string_equal("", c.python);
    assert_int_equal(256, c.http_threads);
    assert_int_equal(160, c.max_waiting);
    assert_int_equal(128, c.max_streams);
    assert_int_equal(5 * 60 * 1000, c.stream_timeout_ms);
    assert_int_equal(30 * 1024 * 1024, c.max_body_bytes);
    assert_int_equal(2LL << 30, c.max_upload_bytes);
    assert_int_equal(4LL << 30, c.max_unpacked_bytes);
    assert_int_equal(4LL << 30, c.max_log_bytes);
    assert_int_equal(1LL << 30, c.max_result_bytes);
    assert_int_equal(100000, c.max_archive_entries);
    assert_int_equal(32, c.max_contexts);
    assert_int_equal(8, c.max_jobs);
    assert_int_equal(10000, c.max_queue);
    assert_int_equal(60000, c.context_create_timeout_ms);
    assert_int_equal(15000, c.context_delete_timeout_ms);
    assert_int_equal(1000, c.cancel_grace_ms);
    assert_int_equal(10000, c.stop_grace_ms);
    assert_int_equal(300000, c.worker_idle_timeout_ms);
    assert_string_equal("local[*]", json_string_value(json_object_get(c.spark_conf, "spark.master")));
    assert_int_equal(1, json_object_size(c.spark_conf));
    assert_int_equal(0, json_object_size(c.context_settings));
    assert_int_equal(0, stk_config_check(&c, NULL));
    stk_config_done(&c);
}

static void in_conf(const char *line, size_t name_len, const void *conf)
{
    stk_auto_buf want = { 0 };

    stk_buf_add(&want, "\n", 1);
    stk_buf_add(&want, line, name_len);
    stk_buf_add_str(&want, " = ");
    if (!strstr(conf, want.data))
        fail_msg("conf/stoker.conf lacks %.*s", (int)name_len, line);
}

static void in_readme(const char *line, size_t name_len, const void *readme)
{
    stk_auto_buf want = { 0 };

    stk_buf_add_str(&want, "\n| `");
    stk_buf_add(&want, line, name_len);
    stk_buf_add_str(&want, "` |");
    if (!strstr(readme, want.data))
        fail_msg("the table in README.md lacks %.*s", (int)name_len, line);
}

static void conf_and_readme_name_every_key(void **state)
{
    stk_auto_free char *conf = slurp(TOP_DIR "/conf/stoker.conf");
    stk_auto_free char *readme = slurp(TOP_DIR "/README.md");
    stk_auto_free char *printed = NULL, *loaded = NULL;
    struct stk_config defaults, from_conf;
    struct stk_err err = { 0 };

    (void)state;
    assert_int_equal(0, stk_config_load(&defaults, NULL, NULL));
    if (stk_config_load(&from_conf, TOP_DIR "/conf/stoker.conf", &err) < 0)
        fail_msg("%s", err.msg);
    printed = print(&defaults);
    loaded = print(&from_conf);
    assert_string_equal(printed, loaded);
    assert_true(each_key(printed, in_conf, conf) >= 27);
    each_key(printed, in_readme, readme);
    stk_config_done(&defaults);
    stk_config_done(&from_conf);
}

static void prints_what_it_can_load(void **state)
{
    struct stk_config c =
        load("listen = [ \"127.0.0.1:1\", \"[::1]:0\" ];\n"
             "insecure = true; state-dir = \"/var/lib/s p \\\"q\\\" \\\\ \xc3\xa4\";\n"
             "log-level = \"debug\"; python = \"python3.12\"; http-threads = 300; max-body = \"1025B\";\n"
             "keep-alive-timeout = \"0s\"; cancel-grace = \"1500ms\"; worker-idle-timeout = \"2d\";\n"
             "spark-conf = [ \"spark.master=local[2]\", \"spark.a=b=\\\"c\\\"\" ];\n"
             "context-settings = \"a.b = [1, x], c = \\\"d\\\"\";\n");
    stk_auto_free char *first = print(&c), *second = NULL;

    (void)state;
    stk_config_done(&c);
    c = load(first);
    second = print(&c);
    assert_string_equal(first, second);
    assert_int_equal(2, c.n_listen);
    assert_string_equal("[::1]:0", c.listen[1]);
    assert_string_equal("/var/lib/s p \"q\" \\ \xc3\xa4", c.state_dir);
    assert_string_equal("python3.12", c.python);
    assert_int_equal(1025, c.max_body_bytes);
    assert_int_equal(0, c.keep_alive_timeout_ms);
    assert_int_equal(1500, c.cancel_grace_ms);
    assert_int_equal(2 * 86400000, c.worker_idle_timeout_ms);
    assert_string_equal("b=\"c\"", json_string_value(json_object_get(c.spark_conf, "spark.a")));
    assert_string_equal("d", json_string_value(json_object_get(c.context_settings, "c")));
    stk_config_done(&c);
}

/* ---- values */

static void state_dir_is_found(void **state)
{
    struct stk_config c;

    (void)state;
    setenv("XDG_STATE_HOME", "/xdg", 1);
    assert_int_equal(0, stk_config_load(&c, NULL, NULL));
    assert_string_equal("/xdg/stoker", c.state_dir);
    stk_config_done(&c);
    setenv("STATE_DIRECTORY", "/var/lib/stoker:/var/lib/other", 1);
    assert_int_equal(0, stk_config_load(&c, NULL, NULL));
    assert_string_equal("/var/lib/stoker", c.state_dir);
    stk_config_done(&c);
    c = load("state-dir = \"/else\";");
    assert_string_equal("/else", c.state_dir);
    stk_config_done(&c);
    unsetenv("STATE_DIRECTORY");
    setenv("XDG_STATE_HOME", "not/absolute", 1); /* the standard says: ignore it */
    assert_int_equal(0, stk_config_load(&c, NULL, NULL));
    assert_string_equal("/home/someone/.local/state/stoker", c.state_dir);
    stk_config_done(&c);
    unsetenv("XDG_STATE_HOME");
}

static void paths_become_absolute(void **state)
{
    stk_auto_free char *cwd = getcwd(NULL, 0);
    stk_auto_buf want = { 0 };
    struct stk_config c = load("state-dir = \"build/state\"; python = \"venv/bin/python\";");

    (void)state;
    stk_buf_printf(&want, "%s/build/state", cwd);
    assert_string_equal(want.data, c.state_dir);
    assert_int_equal('/', c.python[0]);
    stk_config_done(&c);
}

static void addresses(void **state)
{
    struct stk_config c = load("listen = \"localhost:80\";");
    struct stk_err err = { 0 };

    (void)state;
    assert_int_equal(1, c.n_listen);
    assert_string_equal("127.0.0.1:80", c.listen[0]);

    /* the command line replaces the file, then adds to itself */
    assert_int_equal(0, stk_config_set(&c, "listen", "127.0.0.1:0", NULL));
    assert_int_equal(0, stk_config_set(&c, "listen", "[0:0:0:0:0:0:0:1]:0", NULL));
    assert_int_equal(2, c.n_listen);
    assert_string_equal("127.0.0.1:0", c.listen[0]);
    assert_string_equal("[::1]:0", c.listen[1]);

    static const char *const bad[] = {
        "",       "8090",  "127.0.0.1",      "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:80x",
        "::1:80", "[::1]", "[127.0.0.1]:80", "host:80",    "[::1:80",         "1.2.3:80",
        ":80",    "*:80",  "127.0.0.1:-1"
    };
    for (size_t i = 0; i < STK_LEN(bad); i++)
        if (stk_config_set(&c, "listen", bad[i], NULL) == 0)
            fail_msg("'%s' was taken", bad[i]);

    assert_int_equal(-1, stk_config_set(&c, "listen", "8090", &err));
    assert_string_equal("listen: expected a numeric address with a port, such as \"127.0.0.1:8090\" or \"[::1]:8090\", "
                        "or a list of them; got \"8090\"",
                        err.msg);
    for (int i = 0; i < STK_LISTEN_MAX - 2; i++)
        assert_int_equal(0, stk_config_set(&c, "listen", "127.0.0.1:0", NULL));
    assert_int_equal(-1, stk_config_set(&c, "listen", "127.0.0.1:0", &err));
    assert_string_equal("listen: at most 8 addresses", err.msg);
    stk_config_done(&c);
}

static void command_line_is_checked_too(void **state)
{
    struct stk_config c;
    struct stk_err err = { 0 };

    (void)state;
    assert_int_equal(0, stk_config_load(&c, NULL, NULL));
    assert_int_equal(0, stk_config_set(&c, "state-dir", "/x", NULL));
    assert_string_equal("/x", c.state_dir);
    assert_int_equal(-1, stk_config_set(&c, "state-dir", "", &err));
    assert_string_equal("state-dir: expected a path; got nothing", err.msg);
    assert_int_equal(-1, stk_config_set(&c, "statedir", "/x", &err));
    assert_string_equal("unknown key 'statedir'; did you mean 'state-dir'?", err.msg);
    stk_config_done(&c);
}

static void units(void **state)
{
    static const struct {
        const char *text;
        int64_t want;
    } good[] = {
        { "max-upload = \"1024B\";", 1024 },
        { "max-upload = \"5GiB\";", 5LL << 30 },
        { "max-upload = \"5 MiB\";", 5LL << 20 },
        { "max-upload = \"2048 KiB\";", 2048 * 1024 },
    };

    (void)state;
    for (size_t i = 0; i < STK_LEN(good); i++) {
        struct stk_config c = load(good[i].text);

        assert_int_equal(good[i].want, c.max_upload_bytes);
        stk_config_done(&c);
    }
    struct stk_config c = load("stop-grace = \"1h\"; cancel-grace = \"250ms\"; request-timeout = \"2min\";");
    assert_int_equal(3600000, c.stop_grace_ms);
    assert_int_equal(250, c.cancel_grace_ms);
    assert_int_equal(120000, c.request_timeout_ms);
    stk_config_done(&c);

    static const char *const bad[] = { "",
                                       "5",
                                       "GiB",
                                       "5GB",
                                       "5gib",
                                       "-5GiB",
                                       "5  GiB",
                                       "1.5GiB",
                                       "5GiB ",
                                       "5 ",
                                       "0x5GiB",
                                       "99999999999999999999GiB",
                                       "16777216TiB",
                                       "9007199254740993TiB",
                                       "100ms",
                                       "1KiB\\n" };
    for (size_t i = 0; i < STK_LEN(bad); i++) {
        stk_auto_buf text = { 0 };
        struct stk_config unused;

        stk_buf_printf(&text, "max-upload = \"%s\";", bad[i]);
        write_file(text.data, text.len);
        if (stk_config_load(&unused, file, NULL) == 0)
            fail_msg("'%s' was taken", bad[i]);
    }
}

static void spark_settings_add_to_the_default(void **state)
{
    struct stk_config c = load("spark-conf = ( \"spark.driver.memory=2g\", \"spark.x=\" );");

    (void)state;
    assert_int_equal(3, json_object_size(c.spark_conf));
    assert_string_equal("local[*]", json_string_value(json_object_get(c.spark_conf, "spark.master")));
    assert_string_equal("", json_string_value(json_object_get(c.spark_conf, "spark.x")));
    stk_config_done(&c);
    c = load("spark-conf = [];");
    assert_int_equal(1, json_object_size(c.spark_conf));
    stk_config_done(&c);
}

/* ---- what is refused, with the exact words */

static void wrong_files(void **state)
{
    struct stk_config c;
    struct stk_err err = { 0 };

    (void)state;
    assert_int_equal(-1, stk_config_load(&c, "/no/such.conf", &err));
    assert_string_equal("/no/such.conf: No such file or directory", err.msg);
    assert_int_equal(-1, stk_config_load(&c, folder, &err));
    assert_string_equal("Is a directory", strrchr(err.msg, ':') + 2);

    refused_bytes("max-jobs = 8;\0", 14, " not UTF-8 text");
    refused("log-level = \"\xff\";", " not UTF-8 text");
    refused("max-jobs = 8;\nmax-contexts 3;\n", "2: syntax error (a setting is written: name = value;)");
    refused("max-jobs = 8;\nmax-jobs = 9;\n", "2: duplicate setting name (a setting is written: name = value;)");
    refused("/* x\n*/ # y\n@include \"other.conf\"\n", "3: @include is not supported");
    refused("log-level = \"\\xff\";", "1: log-level: not UTF-8");

    /* these are not includes, and not numbers */
    c = load("# @include \"x\"\n/* @include */ // 99999999999\ncontext-settings = \"a = \\\"\\\"\\\"\n@include "
             "99999999999\\\"\\\"\\\"\";\n"
             "max-jobs = 9; # \"\n");
    assert_int_equal(9, c.max_jobs);
    stk_config_done(&c);
    c = load("");
    assert_int_equal(8, c.max_jobs);
    stk_config_done(&c);
}

static void webhook_keys(void **state)
{
    struct stk_config c =
        load("webhooks = ( \"http://127.0.0.1:1/a\", \"https://h/b\" ); webhook-allow = [ \"10.0.0.0/8\" ];");

    (void)state;
    assert_int_equal(2, json_array_size(c.webhooks));
    assert_string_equal("https://h/b", json_string_value(json_array_get(c.webhooks, 1)));
    assert_int_equal(1, json_array_size(c.webhook_allow)); /* in place of the default */
    assert_string_equal("10.0.0.0/8", json_string_value(json_array_get(c.webhook_allow, 0)));
    stk_config_done(&c);
    c = load("webhook-allow = [];");
    assert_int_equal(0, json_array_size(c.webhook_allow));
    assert_int_equal(0, json_array_size(c.webhooks));
    stk_config_done(&c);
    refused("webhooks = [ \"ftp://h\" ];", "1: webhooks: it must begin with http:// or https://");
    refused("webhooks = \"http://h\";",
            "1: webhooks: expected a list of URLs, such as [ \"https://hooks.example.org/stoker\" ]; got \"http://h\"");
    refused("webhook-allow = [ \"10.0.0.0/64\" ];",
            "1: webhook-allow: '10.0.0.0/64' is none of public, private, loopback, link-local, any, an address, a "
            "range such as 10.0.0.0/8, the name of a host, *.example.org");
}

static void unknown_keys(void **state)
{
    (void)state;
    refused("max-jobs = 8;\n\nmax-job = 8;\n", "3: unknown key 'max-job'; did you mean 'max-jobs'?");
    refused("state_dir = \"/x\";", "1: unknown key 'state_dir'; did you mean 'state-dir'?");
    refused("contxt-create-timeot = \"1s\";",
            "1: unknown key 'contxt-create-timeot'; did you mean 'context-create-timeout'?");
    refused("colour = \"blue\";", "1: unknown key 'colour'; --print-config lists all keys");
    refused("a = 1;", "1: unknown key 'a'; --print-config lists all keys");
    refused("server: { max-jobs = 8; };", "1: unknown key 'server'; --print-config lists all keys");
}

static void wrong_values(void **state)
{
    (void)state;
    refused("max-jobs = \"8\";", "1: max-jobs: expected a whole number from 1 to 1000; got \"8\"");
    refused("max-jobs = 8.5;", "1: max-jobs: expected a whole number from 1 to 1000; got 8.5");
    refused("max-jobs = true;", "1: max-jobs: expected a whole number from 1 to 1000; got true");
    refused("max-jobs = { a = 1; };", "1: max-jobs: expected a whole number from 1 to 1000; got a group");
    refused("\nmax-jobs = 0;", "2: max-jobs: expected a whole number from 1 to 1000; got 0");
    refused("max-jobs = 1001;", "1: max-jobs: expected a whole number from 1 to 1000; got 1001");
    refused("max-jobs = -1;", "1: max-jobs: expected a whole number from 1 to 1000; got -1");
    refused("max-jobs = 4294967304;", /* 8 in 32 bits */
            "1: the number 4294967304 is too large; sizes and times are texts with a unit, such as \"5GiB\"");
    refused("\nmax-jobs = 4294967304L;",
            "2: the number 4294967304L is too large; sizes and times are texts with a unit, such as \"5GiB\"");
    refused("max-jobs = 0x100000008;",
            "1: the number 0x100000008 is too large; sizes and times are texts with a unit, such as \"5GiB\"");
    refused("insecure = 1;", "1: insecure: expected true or false; got 1");
    refused("insecure = \"true\";", "1: insecure: expected true or false; got \"true\"");
    refused("max-body = 1000;",
            "1: max-body: expected a size from \"1KiB\" to \"60MiB\", with its unit (B, KiB, MiB, GiB, TiB), "
            "such as \"30MiB\"; got 1000");
    refused("max-body = \"30\";",
            "1: max-body: expected a size from \"1KiB\" to \"60MiB\", with its unit (B, KiB, MiB, GiB, TiB), "
            "such as \"30MiB\"; got \"30\"");
    refused("cancel-grace = \"2h\";",
            "1: cancel-grace: expected a time from \"0s\" to \"1h\", with its unit (ms, s, min, h, d), "
            "such as \"1s\"; got \"2h\"");
    refused("log-level = \"verbose\";",
            "1: log-level: expected \"debug\", \"info\", \"warn\" or \"error\"; got \"verbose\"");
    refused("state-dir = 5;", "1: state-dir: expected a text in double quotes; got 5");
    refused("python = [ \"a\" ];", "1: python: expected a text in double quotes; got a list");
    refused("listen = [];",
            "1: listen: expected a numeric address with a port, such as \"127.0.0.1:8090\" or \"[::1]:8090\", "
            "or a list of them; got an empty list");
    refused("listen = 8090;",
            "1: listen: expected a numeric address with a port, such as \"127.0.0.1:8090\" or \"[::1]:8090\", "
            "or a list of them; got 8090");
    refused("spark-conf = \"spark.a=b\";",
            "1: spark-conf: expected a list of \"name=value\" with names that begin with spark., "
            "such as [ \"spark.driver.memory=2g\" ]; got \"spark.a=b\"");
    refused("spark-conf = [ \"spark.a=b\", \"driver.memory=2g\" ];",
            "1: spark-conf: expected a list of \"name=value\" with names that begin with spark., "
            "such as [ \"spark.driver.memory=2g\" ]; got \"driver.memory=2g\"");
    refused("spark-conf = [ \"spark.a\" ];",
            "1: spark-conf: expected a list of \"name=value\" with names that begin with spark., "
            "such as [ \"spark.driver.memory=2g\" ]; got \"spark.a\"");
    refused("context-settings = 5;",
            "1: context-settings: expected a text in HOCON, such as \"num-cpu-cores = 2\"; got 5");
}

static void wrong_hocon_says_where(void **state)
{
    struct stk_config c;
    struct stk_err err = { 0 };
    static const char text[] = "context-settings = \"a = }\";";

    (void)state;
    write_file(text, strlen(text));
    assert_int_equal(-1, stk_config_load(&c, file, &err));
    assert_int_equal(STK_INVALID, err.code);
    assert_non_null(strstr(err.msg, ":1: context-settings: 1:5: "));
}

static void combinations(const char *text, const char *want)
{
    struct stk_config c = load(text);
    struct stk_err err = { 0 };
    int rc = stk_config_check(&c, &err);

    stk_config_done(&c);
    if (!want) {
        assert_int_equal(0, rc);
        return;
    }
    assert_int_equal(-1, rc);
    assert_int_equal(STK_INVALID, err.code);
    assert_string_equal(want, err.msg);
}

static void keys_that_do_not_go_together(void **state)
{
    (void)state;
    combinations("listen = \"0.0.0.0:8090\";",
                 "listen: 0.0.0.0:8090 is not a loopback address, and whoever reaches it could run code as this user; "
                 "use 127.0.0.1, or say insecure = true");
    combinations("listen = [ \"127.0.0.1:8090\", \"[::]:8090\" ];",
                 "listen: [::]:8090 is not a loopback address, and whoever reaches it could run code as this user; "
                 "use 127.0.0.1, or say insecure = true");
    combinations("listen = [ \"0.0.0.0:8090\", \"[::]:8090\" ]; insecure = true;", NULL);
    combinations("listen = [ \"127.1.2.3:1\", \"[::1]:1\", \"[::ffff:127.0.0.1]:1\" ];", NULL);
    combinations(
        "listen = \"[::ffff:10.0.0.1]:1\";",
        "listen: [::ffff:10.0.0.1]:1 is not a loopback address, and whoever reaches it could run code as this user; "
        "use 127.0.0.1, or say insecure = true");
    combinations("listen = [ \"127.0.0.1:1\", \"127.0.0.1:1\" ];", "listen: 127.0.0.1:1 is there twice");
    combinations("listen = [ \"127.0.0.1:0\", \"127.0.0.1:0\" ];", NULL);
    combinations("http-threads = 160;",
                 "max-waiting (160) must be less than http-threads (160), or waiting requests stop the server");
    combinations("stop-grace = \"1s\"; cancel-grace = \"2s\";",
                 "stop-grace (1000 ms) must be at least cancel-grace (2000 ms)");
    combinations("spark-conf = [ \"spark.master=\" ];",
                 "spark-conf: spark.master is empty; \"spark.master=local[*]\" is the default");
}

/* ---- the systemd unit: what keeps contexts alive while the server is replaced */

static void unit_lets_contexts_outlive_the_server(void **state)
{
    stk_auto_free char *unit = slurp(TOP_DIR "/conf/stoker.service");
    static const char *const lines[] = {
        "\nKillMode=process\n", /* systemd must not kill the contexts with the server: they are adopted at the next start */
        "\nOOMPolicy=continue\n", /* one job out of memory must not take the server and all contexts with it */
        "\nTasksMax=infinity\n",  /* JVMs have hundreds of threads; the default limit is for the whole unit */
        "\nStateDirectory=stoker\n",
        "\nStateDirectoryMode=0700\n",
        "\nExecStart=@BINDIR@/stokerd --config @SYSCONFDIR@/stoker/stoker.conf\n",
    };

    (void)state;
    for (size_t i = 0; i < STK_LEN(lines); i++)
        if (!strstr(unit, lines[i]))
            fail_msg("conf/stoker.service lacks %s", lines[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_need_no_file),
        cmocka_unit_test(conf_and_readme_name_every_key),
        cmocka_unit_test(prints_what_it_can_load),
        cmocka_unit_test(state_dir_is_found),
        cmocka_unit_test(paths_become_absolute),
        cmocka_unit_test(addresses),
        cmocka_unit_test(command_line_is_checked_too),
        cmocka_unit_test(units),
        cmocka_unit_test(spark_settings_add_to_the_default),
        cmocka_unit_test(wrong_files),
        cmocka_unit_test(webhook_keys),
        cmocka_unit_test(unknown_keys),
        cmocka_unit_test(wrong_values),
        cmocka_unit_test(wrong_hocon_says_where),
        cmocka_unit_test(keys_that_do_not_go_together),
        cmocka_unit_test(unit_lets_contexts_outlive_the_server),
    };

    return cmocka_run_group_tests_name("config", tests, set_up, tear_down);
}
