#include "api/sjs/sjs.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static json_t *object(const char *text)
{
    json_t *o = json_loads(text, JSON_DECODE_ANY, NULL);

    assert_non_null(o);
    return o;
}

static void assert_json(json_t *value_take, const char *expected)
{
    char *text = stk_json_text(value_take, NULL);

    assert_non_null(text);
    assert_string_equal(expected, text);
    free(text);
    json_decref(value_take);
}

static struct stk_text *text(const char *s)
{
    return stk_text_new(s, strlen(s));
}

/* ---- words */

static void durations_print_as_in_java(void **state)
{
    static const struct {
        int64_t ms;
        const char *text;
    } cases[] = {
        { 0, "0.0 secs" },
        { 50, "0.05 secs" },
        { 1, "0.001 secs" },
        { 4685, "4.685 secs" },
        { 12000, "12.0 secs" },
        { 300000, "300.0 secs" },
        { 10, "0.01 secs" },
        { 9999999999, "9999999.999 secs" },
        { -5, "0.0 secs" },
        { 100200, "100.2 secs" },
        { 10000000000, "1.0E7 secs" },
        { 12345678900, "1.23456789E7 secs" },
        { 123456789012, "1.23456789012E8 secs" },
    };
    char buf[40];

    (void)state;
    for (size_t i = 0; i < STK_LEN(cases); i++)
        assert_string_equal(cases[i].text,
                            stk_sjs_duration(buf, 1700000000000000, 1700000000000000 + cases[i].ms * 1000));
}

static void states_have_sjs_names(void **state)
{
    (void)state;
    assert_string_equal("RUNNING", stk_sjs_job_status(STK_JOB_QUEUED));
    assert_string_equal("RUNNING", stk_sjs_job_status(STK_JOB_STARTING));
    assert_string_equal("RUNNING", stk_sjs_job_status(STK_JOB_RUNNING));
    assert_string_equal("RUNNING", stk_sjs_job_status(STK_JOB_CANCELLING));
    assert_string_equal("FINISHED", stk_sjs_job_status(STK_JOB_FINISHED));
    assert_string_equal("ERROR", stk_sjs_job_status(STK_JOB_ERROR));
    assert_string_equal("ERROR", stk_sjs_job_status(STK_JOB_INVALID));
    assert_string_equal("ERROR", stk_sjs_job_status(STK_JOB_TIMED_OUT));
    assert_string_equal("ERROR", stk_sjs_job_status(STK_JOB_LOST));
    assert_string_equal("KILLED", stk_sjs_job_status(STK_JOB_KILLED));
    assert_string_equal("STARTED", stk_sjs_context_state(STK_CONTEXT_CREATING));
    assert_string_equal("FINISHED", stk_sjs_context_state(STK_CONTEXT_STOPPED));
    assert_string_equal("ERROR", stk_sjs_context_state(STK_CONTEXT_FAILED));
    assert_string_equal("KILLED", stk_sjs_context_state(STK_CONTEXT_LOST));
    assert_string_equal("Zip", stk_sjs_binary_type(STK_BINARY_ZIP));
    assert_string_equal("Jar", stk_sjs_binary_type(STK_BINARY_JAR));
}

/* ---- objects */

static struct stk_job_row job(enum stk_job_state state, const char *error)
{
    struct stk_job_row row = {
        .id = "5453779a-f004-45fc-a11d-a39dae0f9bf4",
        .context_id = "0b5c6b0e-0d0c-4d3c-9f38-5a8a4e6a1c11",
        .context_name = text("py-ctx"),
        .class_path = text("my_pkg.Job"),
        .error = error ? text(error) : NULL,
        .state = state,
        .submitted_us = 1709285400125000,
    };

    if (stk_job_is_final(state))
        row.ended_us = row.submitted_us + 4685000;
    return row;
}

static void jobs_look_as_in_sjs(void **state)
{
    struct stk_job_row row = job(STK_JOB_RUNNING, NULL);
    json_t *o;

    (void)state;
    assert_json(
        stk_sjs_job(&row, NULL),
        "{\"jobId\":\"5453779a-f004-45fc-a11d-a39dae0f9bf4\",\"startTime\":\"2024-03-01T09:30:00.125Z\","
        "\"classPath\":\"my_pkg.Job\",\"context\":\"py-ctx\",\"contextId\":\"0b5c6b0e-0d0c-4d3c-9f38-5a8a4e6a1c11\","
        "\"duration\":\"Job not done yet\",\"status\":\"RUNNING\"}");
    row.state = STK_JOB_FINISHED;
    row.ended_us = row.submitted_us + 4685000;
    o = stk_sjs_job(&row, NULL);
    assert_string_equal("4.685 secs", json_string_value(json_object_get(o, "duration")));
    assert_string_equal("FINISHED", json_string_value(json_object_get(o, "status")));
    json_decref(o);
    stk_job_row_done(&row);
}

static void job_error_is(enum stk_job_state state, const char *error, const char *message, const char *class,
                         const char *stack)
{
    struct stk_job_row row = job(state, error);
    json_t *o = stk_sjs_job_error(&row);

    assert_int_equal(3, json_object_size(o));
    assert_string_equal(message, json_string_value(json_object_get(o, "message")));
    assert_string_equal(class, json_string_value(json_object_get(o, "errorClass")));
    assert_string_equal(stack, json_string_value(json_object_get(o, "stack")));
    json_decref(o);
    stk_job_row_done(&row);
}

static void job_errors_look_as_in_sjs(void **state)
{
    (void)state;
    job_error_is(
        STK_JOB_ERROR,
        "{\"code\":\"USER_EXCEPTION\",\"message\":\"Deliberate failure\",\"class\":\"ValueError\",\"exit_code\":4,"
        "\"traceback\":\"Traceback ...\\nValueError: Deliberate failure\\n\",\"stderr_tail\":\"a "
        "warning\\n\",\"cause\":null}",
        "Python job failed with error code 4 and standard err [Error while calling 'run_job': "
        "ValueError('Deliberate failure')\na warning]",
        "ValueError", "Traceback ...\nValueError: Deliberate failure\n");
    job_error_is(
        STK_JOB_ERROR, "{\"code\":\"VALIDATE_EXCEPTION\",\"message\":\"it's\\nso\",\"class\":\"m.E\",\"exit_code\":3}",
        "Python job failed with error code 3 and standard err [Error while calling 'validate': m.E(\"it's\\nso\")]",
        "m.E", "");
    /* an exception looks as it did before the runner told kinds of them apart */
    job_error_is(
        STK_JOB_ERROR,
        "{\"code\":\"SPARK_PARSE\",\"message\":\"m\",\"class\":\"a.B\",\"exit_code\":4,\"raised_by\":\"run_job\"}",
        "Python job failed with error code 4 and standard err [Error while calling 'run_job': a.B('m')]", "a.B", "");
    job_error_is(
        STK_JOB_ERROR,
        "{\"code\":\"INPUT_MISSING\",\"message\":\"m\",\"class\":\"a.B\",\"exit_code\":3,\"raised_by\":\"validate\"}",
        "Python job failed with error code 3 and standard err [Error while calling 'validate': a.B('m')]", "a.B", "");
    job_error_is(
        STK_JOB_ERROR,
        "{\"code\":\"DISK_FULL\",\"message\":\"m\",\"class\":\"a.B\",\"exit_code\":1,\"raised_by\":\"constructor\"}",
        "Python job failed with error code 1 and standard err [Error while calling 'run_job': a.B('m')]", "a.B", "");
    job_error_is(
        STK_JOB_ERROR,
        "{\"code\":\"CONTEXT_LOST\",\"message\":\"m\",\"class\":\"a.B\",\"exit_code\":4,\"raised_by\":\"run_job\"}",
        "Python job failed with error code 4 and standard err [Error while calling 'run_job': a.B('m')]", "a.B", "");
    job_error_is(STK_JOB_ERROR, "{\"code\":\"CONTEXT_STOPPED\",\"message\":\"m\",\"class\":\"a.B\",\"exit_code\":1}",
                 "Python job failed with error code 1 and standard err [a.B: m]", "a.B", "");
    job_error_is(STK_JOB_ERROR, "{\"code\":\"DRIVER_OUT_OF_MEMORY\",\"message\":\"x\"}",
                 "Unexpected termination of context 0b5c6b0e-0d0c-4d3c-9f38-5a8a4e6a1c11",
                 "spark.jobserver.JobManagerActor$ContextTerminatedException", "x");
    job_error_is(STK_JOB_INVALID,
                 "{\"code\":\"VALIDATION_FAILED\",\"message\":\"a; b\",\"exit_code\":1,\"problems\":[\"a\",\"b\"]}",
                 "Python job failed with error code 1 and standard err [Validation problems in job, exiting\na\nb]",
                 "sparkjobserver.api.ValidationProblem", "");
    job_error_is(STK_JOB_ERROR,
                 "{\"code\":\"IMPORT_FAILED\",\"message\":\"No module named "
                 "'x'\",\"class\":\"ModuleNotFoundError\",\"exit_code\":1}",
                 "Python job failed with error code 1 and standard err [ModuleNotFoundError: No module named 'x']",
                 "ModuleNotFoundError", "");
    job_error_is(STK_JOB_ERROR, "{\"code\":\"EXITED\",\"message\":\"the job called sys.exit(0)\",\"exit_code\":0}",
                 "Python job ran successfully but failed to write any jobOutput: the job called sys.exit(0)", "EXITED",
                 "");
    job_error_is(STK_JOB_ERROR, "{\"code\":\"SIGNALLED\",\"message\":\"ended by signal 9\",\"stderr_tail\":\"x\"}",
                 "ended by signal 9\nx", "SIGNALLED", "");
    job_error_is(STK_JOB_ERROR, "{\"code\":\"SIGNALLED\",\"message\":\"ended by signal 9\",\"exit_code\":137}",
                 "Python job failed with error code 137 and standard err [ended by signal 9]", "SIGNALLED", "");
    job_error_is(STK_JOB_KILLED, NULL, "Job 5453779a-f004-45fc-a11d-a39dae0f9bf4 killed",
                 "spark.jobserver.JobManagerActor$JobKilledException", "");
    job_error_is(STK_JOB_ERROR, "{\"code\":\"CONTEXT_STOPPED\",\"message\":\"x\"}",
                 "Context (py-ctx) for this job was terminated", "", "");
    job_error_is(STK_JOB_ERROR, "{\"code\":\"CONTEXT_LOST\",\"message\":\"x\",\"log_tail\":\"l\"}",
                 "Unexpected termination of context 0b5c6b0e-0d0c-4d3c-9f38-5a8a4e6a1c11",
                 "spark.jobserver.JobManagerActor$ContextTerminatedException", "l");
    job_error_is(STK_JOB_ERROR, NULL, "no reason was recorded", "UNKNOWN", "");
    job_error_is(STK_JOB_LOST, "not json", "no reason was recorded", "UNKNOWN", "");
}

static void contexts_look_as_in_sjs(void **state)
{
    struct stk_context_row row = {
        .id = "i",
        .name = text("n"),
        .state = STK_CONTEXT_RUNNING,
        .application_id = text("local-1337"),
        .ui_url = text("http://spark:4040"),
        .started_us = 1369785600000000,
    };

    (void)state;
    assert_json(stk_sjs_context(&row),
                "{\"id\":\"i\",\"name\":\"n\",\"startTime\":\"2013-05-29T00:00:00.000Z\",\"endTime\":\"Empty\","
                "\"state\":\"RUNNING\",\"applicationId\":\"local-1337\",\"url\":\"http://spark:4040\"}");
    row.state = STK_CONTEXT_FAILED;
    row.ended_us = row.started_us + 300000000;
    row.error = text("{\"code\":\"CONTEXT_FAILED\",\"message\":\"no java\"}");
    assert_json(stk_sjs_context(&row),
                "{\"id\":\"i\",\"name\":\"n\",\"startTime\":\"2013-05-29T00:00:00.000Z\","
                "\"endTime\":\"2013-05-29T00:05:00.000Z\",\"state\":\"ERROR\",\"error\":\"no java\"}");
    stk_context_row_done(&row);
}

static void start_errors_carry_the_log(void **state)
{
    (void)state;
    assert_json(stk_sjs_start_error("{\"code\":\"CONTEXT_FAILED\",\"message\":\"m\",\"class\":\"C\",\"cause\":\"j\","
                                    "\"traceback\":\"t\",\"log_tail\":\"l\\n\"}",
                                    "x"),
                "{\"message\":\"m\\nCaused by: j\",\"errorClass\":\"C\",\"stack\":\"t\\nl\"}");
    assert_json(stk_sjs_start_error(NULL, "x"),
                "{\"message\":\"x\",\"errorClass\":\"java.lang.RuntimeException\",\"stack\":\"\"}");
}

static void text_of_users_is_made_utf8(void **state)
{
    (void)state;
    assert_json(stk_sjs_string(NULL), "\"\"");
    assert_json(stk_sjs_string("\xc3\xa9"), "\"\xc3\xa9\"");
    assert_json(stk_sjs_string("a\xff\xc3(\xe2\x82"), "\"a\xef\xbf\xbd\xef\xbf\xbd(\xef\xbf\xbd\xef\xbf\xbd\"");
}

static void names_begin_with_a_letter(void **state)
{
    (void)state;
    assert_true(stk_begins_with_letter("a1"));
    assert_true(stk_begins_with_letter("Z"));
    assert_true(stk_begins_with_letter("\xc3\xa9t\xc3\xa9"));
    assert_true(stk_begins_with_letter("\xe6\xbc\xa2"));
    assert_false(stk_begins_with_letter("1a"));
    assert_false(stk_begins_with_letter("_a"));
    assert_false(stk_begins_with_letter(""));
    assert_false(stk_begins_with_letter("\xe2\x82\xac"));
}

/* ---- settings */

static void body_beats_query_beats_defaults(void **state)
{
    static const struct stk_setting query[] = { { "num-cpu-cores", "3" }, { "spark.a.b", "q" }, { "spark.a.c", "q" } };
    json_t *defaults = object("{\"num-cpu-cores\":4,\"memory-per-node\":\"512m\",\"spark\":{\"a\":{\"z\":1}}}");
    json_t *posted = object("{\"spark\":{\"a\":{\"b\":\"body\"}},\"memory-per-node\":\"1g\"}");
    char *before = stk_json_text(defaults, NULL), *after;

    (void)state;
    assert_json(
        stk_settings_merge(defaults, query, STK_LEN(query), posted, NULL),
        "{\"num-cpu-cores\":\"3\",\"memory-per-node\":\"1g\",\"spark\":{\"a\":{\"z\":1,\"b\":\"body\",\"c\":\"q\"}}}");
    after = stk_json_text(defaults, NULL); /* shared by all requests */
    assert_string_equal(before, after);
    assert_json(stk_settings_merge(NULL, NULL, 0, posted, NULL),
                "{\"spark\":{\"a\":{\"b\":\"body\"}},\"memory-per-node\":\"1g\"}");
    free(before);
    free(after);
    json_decref(defaults);
    json_decref(posted);
}

static void clashing_paths_are_refused(void **state)
{
    static const struct stk_setting cases[][2] = {
        { { "a", "1" }, { "a.b", "1" } }, { { "a.b", "1" }, { "a", "1" } }, { { "a..b", "1" }, { "x", "1" } },
        { { "", "1" }, { "x", "1" } },    { { "a.", "1" }, { "x", "1" } },  { { ".a", "1" }, { "x", "1" } },
    };
    char deep[20000];
    struct stk_setting one = { deep, "1" };
    struct stk_err err;

    (void)state;
    for (size_t i = 0; i < STK_LEN(cases); i++) {
        assert_null(stk_settings_merge(NULL, cases[i], 2, NULL, &err));
        assert_int_equal(STK_INVALID, err.code);
    }
    for (size_t i = 0; i < sizeof deep - 1; i++)
        deep[i] = i % 2 ? '.' : 'a';
    deep[sizeof deep - 1] = '\0';
    assert_null(stk_settings_merge(NULL, &one, 1, NULL, &err));
    assert_int_equal(STK_INVALID, err.code);
}

static void spec_of(const char *settings, struct stk_context_wish *ret)
{
    json_t *o = object(settings);
    struct stk_err err;

    if (stk_settings_wish(ret, "ctx", o, &err) < 0)
        fail_msg("%s", err.msg);
    json_decref(o);
}

static void settings_become_a_spec(void **state)
{
    struct stk_context_wish s;

    (void)state;
    spec_of("{\"num-cpu-cores\":4,\"memory-per-node\":\"512m\",\"max-jobs-per-context\":\"3\","
            "\"spark\":{\"master\":\"local[4]\",\"ui\":{\"enabled\":false},\"x\":1.5,\"l\":[1,\"a\"],\"n\":null},"
            "\"spark.quoted.key\":\"q\",\"passthrough\":{\"spark\":{\"y\":\"2\"},\"z.z\":true},"
            "\"launcher\":{\"spark\":{\"master\":\"local[1]\",\"driver\":{\"memory\":\"1g\"}}},"
            "\"hadoop\":{\"fs\":{\"a\":1}},\"python\":{\"paths\":[\"/a\",\"b\"]}}",
            &s);
    assert_json(json_incref(s.spark_conf),
                "{\"spark.app.name\":\"ctx\",\"spark.cores.max\":\"4\",\"spark.executor.memory\":\"512m\","
                "\"spark.master\":\"local[1]\",\"spark.driver.memory\":\"1g\",\"spark.ui.enabled\":\"false\",\"spark."
                "x\":\"1.5\","
                "\"spark.l\":\"1,a\",\"spark.quoted.key\":\"q\",\"spark.y\":\"2\",\"z.z\":\"true\"}");
    assert_json(json_incref(s.hadoop_conf), "{\"fs.a\":\"1\"}");
    assert_json(json_incref(s.python_paths), "[\"/a\",\"b\"]");
    assert_int_equal(3, s.spec.max_jobs);
    assert_string_equal("session", s.spec.kind);
    assert_string_equal("ctx", json_string_value(json_object_get(json_object_get(s.settings, "context"), "name")));
    assert_string_equal("false", json_string_value(json_object_get(s.settings, "is-adhoc")));
    stk_context_wish_done(&s);
}

static void factories_become_kinds(void **state)
{
    static const char *const cases[][2] = {
        { "spark.jobserver.python.PythonSessionContextFactory", "session" },
        { "spark.jobserver.python.PythonSparkContextFactory", "spark" },
        { "spark.jobserver.python.PythonSQLContextFactory", "sql" },
        { "PythonHiveContextFactory", "hive" },
        { "sql", "sql" },
        { "custom", "custom" },
        { "spark.jobserver.python.MyOwnContextFactory", "custom" },
    };
    static const char *const unknown[] = { "a.b.C", "spark.jobserver.python.PythonSesionContextFactory",
                                           "spark.jobserver.python.", "" };
    char settings[128];
    struct stk_context_wish s = { 0 };
    struct stk_err err;
    json_t *o;

    (void)state;
    for (size_t i = 0; i < STK_LEN(cases); i++) {
        snprintf(settings, sizeof settings, "{\"context-factory\":\"%s\"}", cases[i][0]);
        spec_of(settings, &s);
        assert_string_equal(cases[i][1], s.spec.kind);
        stk_context_wish_done(&s);
    }
    for (size_t i = 0; i < STK_LEN(unknown); i++) {
        snprintf(settings, sizeof settings, "{\"context-factory\":\"%s\"}", unknown[i]);
        o = object(settings);
        assert_int_equal(-1, stk_settings_wish(&s, "ctx", o, &err));
        assert_int_equal(STK_NOT_FOUND, err.code);
        assert_string_equal(unknown[i], err.msg);
        json_decref(o);
    }
}

static void hive_is_there_when_asked_for(void **state)
{
    static const struct {
        const char *settings, *catalog;
    } cases[] = {
        { "{}", NULL },
        { "{\"spark\":{\"session\":{\"hive\":{\"enabled\":false}}}}", NULL },
        { "{\"spark\":{\"session\":{\"hive\":{\"enabled\":true}}}}", "hive" },
        { "{\"spark\":{\"session\":{\"hive\":{\"enabled\":\"true\"}}}}", "hive" },
        { "{\"context-factory\":\"hive\"}", "hive" },
        { "{\"context-factory\":\"hive\",\"spark\":{\"sql\":{\"catalogImplementation\":\"in-memory\"}}}", "in-memory" },
    };
    struct stk_context_wish s;

    (void)state;
    for (size_t i = 0; i < STK_LEN(cases); i++) {
        const char *catalog;

        spec_of(cases[i].settings, &s);
        catalog = json_string_value(json_object_get(s.spark_conf, "spark.sql.catalogImplementation"));
        if (cases[i].catalog)
            assert_string_equal(cases[i].catalog, catalog);
        else
            assert_null(catalog);
        assert_null(json_object_get(s.spark_conf, "spark.session.hive.enabled"));
        stk_context_wish_done(&s);
    }
}

static void wrong_settings_are_named_without_their_values(void **state)
{
    static const char *const cases[] = {
        "{\"max-jobs\":0}",
        "{\"max-jobs\":1.5}",
        "{\"hadoop\":\"s3cret\"}",
        "{\"python\":{\"paths\":[{\"s3cret\":1}]}}",
        "{\"num-cpu-cores\":{\"a\":\"s3cret\"}}",
        "{\"cp\":\"s3cret\"}",
        "{\"dependent-jar-uris\":[\"s3cret\"]}",
        "{\"spark\":\"s3cret\"}",
        "{\"context-factory\":[]}",
        "{\"memory-per-node\":[\"s3cret\"]}",
        "{\"python\":\"s3cret\"}",
        "{\"python\":{\"executable\":\"s3cret\"}}",
        "{\"python\":{\"paths\":\"s3cret,,b\"}}",
    };
    struct stk_context_wish s;
    struct stk_err err;

    (void)state;
    for (size_t i = 0; i < STK_LEN(cases); i++) {
        json_t *o = object(cases[i]);

        assert_int_equal(-1, stk_settings_wish(&s, "ctx", o, &err));
        assert_int_equal(STK_INVALID, err.code);
        assert_null(strstr(err.msg, "s3cret"));
        json_decref(o);
    }
}

static void wrong_numbers_sizes_and_switches_say_what_would_be_right(void **state)
{
    static const char *const cases[][2] = {
        { "{\"num-cpu-cores\":0}", "'num-cpu-cores' must be a whole number from 1, not '0'" },
        { "{\"num-cpu-cores\":\"two\"}", "'num-cpu-cores' must be a whole number from 1, not 'two'" },
        { "{\"num-cpu-cores\":\"\"}", "'num-cpu-cores' must be a whole number from 1, not ''" },
        { "{\"num-cpu-cores\":1.5}", "'num-cpu-cores' must be a whole number from 1, not '1.5'" },
        { "{\"memory-per-node\":\"\"}", "'memory-per-node' must be a size like 512m or 2g, not ''" },
        { "{\"memory-per-node\":\"1x\"}", "'memory-per-node' must be a size like 512m or 2g, not '1x'" },
        { "{\"memory-per-node\":\"g\"}", "'memory-per-node' must be" },
        { "{\"memory-per-node\":\"1 g\"}", "'memory-per-node' must be" },
        { "{\"memory-per-node\":\"1gbb\"}", "'memory-per-node' must be" },
        { "{\"memory-per-node\":\"-1g\"}", "'memory-per-node' must be" },
        { "{\"launcher\":{\"spark\":{\"driver\":{\"memory\":\"much\"}}}}",
          "'launcher.spark.driver.memory' must be a size like 512m or 2g, not 'much'" },
        { "{\"spark\":{\"driver\":{\"memory\":\"\"}}}", "'spark.driver.memory' must be" },
        { "{\"spark.executor.memory\":\"much\"}", "'spark.executor.memory' must be" },
        { "{\"passthrough\":{\"spark\":{\"executor\":{\"memory\":\"much\"}}}}",
          "'passthrough.spark.executor.memory' must be" },
        { "{\"spark\":{\"session\":{\"hive\":{\"enabled\":\"maybe\"}}}}",
          "'spark.session.hive.enabled' must be true or false, not 'maybe'" },
        { "{\"spark\":{\"session\":{\"hive\":{\"enabled\":\"\"}}}}", "must be true or false, not ''" },
        { "{\"max-jobs-per-context\":0}", "'max-jobs-per-context' must be a whole number from 1 to 1000, not '0'" },
        { "{\"python\":{\"paths\":\"\"}}", "'python.paths' must be a list of texts" },
        { "{\"python\":{\"paths\":[\"\"]}}", "'python.paths' must be a list of texts" },
        { "{\"python\":{\"executable\":\"python3\"}}", "'python.executable' is not supported" },
    };
    struct stk_context_wish s;
    struct stk_err err;

    (void)state;
    for (size_t i = 0; i < STK_LEN(cases); i++) {
        json_t *o = object(cases[i][0]);

        assert_int_equal(-1, stk_settings_wish(&s, "ctx", o, &err));
        assert_int_equal(STK_INVALID, err.code);
        if (!strstr(err.msg, cases[i][1]))
            fail_msg("%s: %s", cases[i][0], err.msg);
        json_decref(o);
    }
}

static void sizes_are_as_in_spark(void **state)
{
    static const char *const sizes[] = { "512", "1k", "512m", "512M", "2g", "2GB", "1Tb", "4096b" };
    char settings[128];
    struct stk_context_wish s;

    (void)state;
    for (size_t i = 0; i < STK_LEN(sizes); i++) {
        snprintf(settings, sizeof settings, "{\"memory-per-node\":\"%s\"}", sizes[i]);
        spec_of(settings, &s);
        assert_string_equal(sizes[i], json_string_value(json_object_get(s.spark_conf, "spark.executor.memory")));
        stk_context_wish_done(&s);
    }
}

static void python_paths_may_be_one_text(void **state)
{
    struct stk_context_wish s;

    (void)state;
    spec_of("{\"python\":{\"paths\":\"/a,/b c\",\"executable\":\"\"}}", &s);
    assert_json(json_incref(s.python_paths), "[\"/a\",\"/b c\"]");
    stk_context_wish_done(&s);
    spec_of("{\"python\":{\"paths\":[\"/a,b\"]}}", &s);
    assert_json(json_incref(s.python_paths), "[\"/a,b\"]");
    stk_context_wish_done(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(durations_print_as_in_java),
        cmocka_unit_test(states_have_sjs_names),
        cmocka_unit_test(jobs_look_as_in_sjs),
        cmocka_unit_test(job_errors_look_as_in_sjs),
        cmocka_unit_test(contexts_look_as_in_sjs),
        cmocka_unit_test(start_errors_carry_the_log),
        cmocka_unit_test(text_of_users_is_made_utf8),
        cmocka_unit_test(names_begin_with_a_letter),
        cmocka_unit_test(body_beats_query_beats_defaults),
        cmocka_unit_test(clashing_paths_are_refused),
        cmocka_unit_test(settings_become_a_spec),
        cmocka_unit_test(factories_become_kinds),
        cmocka_unit_test(hive_is_there_when_asked_for),
        cmocka_unit_test(wrong_settings_are_named_without_their_values),
        cmocka_unit_test(wrong_numbers_sizes_and_switches_say_what_would_be_right),
        cmocka_unit_test(sizes_are_as_in_spark),
        cmocka_unit_test(python_paths_may_be_one_text),
    };

    setenv("TZ", "UTC", 1);
    tzset();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
