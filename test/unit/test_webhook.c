/* Webhooks without a network: where they may lead, when they are tried again, how they are signed. */
#include "webhook/origins.h"

#include "stoker/webhook.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

/* ---- pauses */

static void pauses_double_up_to_the_longest(void **state)
{
    static const int64_t full[] = { 1000, 2000, 4000, 8000, 10000, 10000 };

    (void)state;
    for (int i = 0; i < (int)STK_LEN(full); i++) {
        assert_int_equal(full[i], stk_webhook_pause_ms(i + 1, 1000, 10000, 1));
        assert_int_equal(full[i] / 2, stk_webhook_pause_ms(i + 1, 1000, 10000, 0));
        assert_int_equal(full[i] * 3 / 4, stk_webhook_pause_ms(i + 1, 1000, 10000, 0.5));
    }
    assert_int_equal(10000, stk_webhook_pause_ms(INT32_MAX, 1000, 10000, 1));
    assert_int_equal(INT64_MAX / 2, stk_webhook_pause_ms(200, 1, INT64_MAX / 2, 0) * 2 + 1);
    assert_int_equal(5, stk_webhook_pause_ms(1, 1000, 5, 1));
    assert_int_equal(1, stk_webhook_pause_ms(1, 1, 1, 1));
}

/* ---- signatures */

#define KEY "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
#define SIGNATURE "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

static struct stk_webhook_body body_of(const char *head, const char *file, const char *tail)
{
    struct stk_webhook_body b = { .fd = -1 };

    stk_buf_add_str(&b.head, head);
    if (file) {
        b.fd = memfd_create("body", MFD_CLOEXEC);
        assert_int_equal(strlen(file), write(b.fd, file, strlen(file)));
        b.file_len = strlen(file);
    }
    if (tail)
        stk_buf_add_str(&b.tail, tail);
    return b;
}

/* The example of the specification's reference implementations. However the body is put together, it is the same. */
static void the_known_signature(void **state)
{
    static const char *const cuts[][3] = { { "{\"test\": 2432232314}", NULL, NULL },
                                           { "{\"test\":", " 2432232314", "}" },
                                           { "{", "\"test\": 2432232314}", NULL },
                                           { "{\"test\": 2432232314", NULL, "}" } };

    (void)state;
    for (size_t i = 0; i < STK_LEN(cuts); i++) {
        struct stk_webhook_body b = body_of(cuts[i][0], cuts[i][1], cuts[i][2]);
        char got[STK_SIGNATURE_MAX];

        assert_int_equal(0, stk_webhook_sign(KEY, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, &b, got, NULL));
        assert_string_equal(SIGNATURE, got);
        assert_int_equal(0, stk_webhook_sign(KEY, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265331, &b, got, NULL));
        assert_string_not_equal(SIGNATURE, got);
        stk_webhook_body_done(&b);
    }
}

static void a_file_that_is_shorter_than_it_was_is_not_signed(void **state)
{
    struct stk_webhook_body b = body_of("{", "12345", "}");
    char got[STK_SIGNATURE_MAX];

    (void)state;
    b.file_len = 6;
    assert_int_equal(-1, stk_webhook_sign("key", "id", 1, &b, got, NULL));
    stk_webhook_body_done(&b);
}

static void secrets(void **state)
{
    static const char *const good[] = { "x", "whsec", "whsec_AA==", "whsec_AAA=", KEY }, *const bad[] = {
        "", "whsec_", "whsec_A", "whsec_====", "whsec_a b=", "whsec_#AAA"
    };
    char long_one[STK_WEBHOOK_SECRET_MAX + 2] = "";

    (void)state;
    for (size_t i = 0; i < STK_LEN(good); i++)
        assert_int_equal(0, stk_webhook_secret_check(good[i], NULL));
    for (size_t i = 0; i < STK_LEN(bad); i++) {
        if (stk_webhook_secret_check(bad[i], NULL) == 0)
            fail_msg("%s", bad[i]);
    }
    memset(long_one, 'x', STK_WEBHOOK_SECRET_MAX);
    assert_int_equal(0, stk_webhook_secret_check(long_one, NULL));
    long_one[STK_WEBHOOK_SECRET_MAX] = 'x';
    assert_int_equal(-1, stk_webhook_secret_check(long_one, NULL));
}

/* ---- where to */

static bool allowed(const char *entry, const char *address)
{
    json_auto_t *allow = json_pack("[s]", entry);
    const struct stk_webhook_rules rules = { .allow = allow };
    struct sockaddr_in v4 = { .sin_family = AF_INET };
    struct sockaddr_in6 v6 = { .sin6_family = AF_INET6 };

    if (inet_pton(AF_INET, address, &v4.sin_addr) == 1)
        return stk_webhook_allows_address(&rules, (struct sockaddr *)&v4);
    assert_int_equal(1, inet_pton(AF_INET6, address, &v6.sin6_addr));
    return stk_webhook_allows_address(&rules, (struct sockaddr *)&v6);
}

static void kinds_of_addresses(void **state)
{
    static const struct {
        const char *address, *kind;
    } of[] = {
        { "8.8.8.8", "public" },
        { "2606:4700::1111", "public" },
        { "127.0.0.1", "loopback" },
        { "127.255.0.1", "loopback" },
        { "::1", "loopback" },
        { "::ffff:127.0.0.1", "loopback" },
        { "64:ff9b::7f00:1", "loopback" },
        { "2002:7f00:1::", "loopback" },
        { "::127.0.0.1", "loopback" },
        { "10.0.0.1", "private" },
        { "172.16.0.1", "private" },
        { "172.31.255.255", "private" },
        { "172.32.0.0", "public" },
        { "172.15.255.255", "public" },
        { "192.168.1.1", "private" },
        { "100.64.0.1", "private" },
        { "100.128.0.1", "public" },
        { "fd00::1", "private" },
        { "::ffff:10.0.0.1", "private" },
        { "169.254.169.254", "link-local" },
        { "fe80::1", "link-local" },
        { "0.0.0.0", "none" },
        { "::", "none" },
        { "255.255.255.255", "none" },
        { "239.1.1.1", "none" },
        { "ff02::1", "none" },
        { "2001:db8::1", "none" },
    };
    static const char *const kinds[] = { "public", "private", "loopback", "link-local" };

    (void)state;
    for (size_t i = 0; i < STK_LEN(of); i++) {
        for (size_t k = 0; k < STK_LEN(kinds); k++) {
            if (allowed(kinds[k], of[i].address) != (strcmp(kinds[k], of[i].kind) == 0))
                fail_msg("%s as %s", of[i].address, kinds[k]);
        }
        assert_true(allowed("any", of[i].address));
    }
}

static void ranges_and_names(void **state)
{
    json_auto_t *allow = json_pack("[s, s, s]", "hooks.example.org", "*.inner.org", "public");
    const struct stk_webhook_rules rules = { .allow = allow };

    (void)state;
    assert_true(allowed("10.1.0.0/16", "10.1.2.3"));
    assert_false(allowed("10.1.0.0/16", "10.2.2.3"));
    assert_true(allowed("10.1.2.0/23", "10.1.3.255"));
    assert_false(allowed("10.1.2.0/23", "10.1.4.0"));
    assert_true(allowed("10.1.2.3", "::ffff:10.1.2.3"));
    assert_false(allowed("10.1.2.3", "10.1.2.4"));
    assert_true(allowed("0.0.0.0/0", "10.1.2.4"));
    assert_false(allowed("0.0.0.0/0", "fd00::1"));
    assert_true(allowed("fd00::/8", "fdff::1"));
    assert_true(allowed("::/0", "10.0.0.1"));
    assert_true(stk_webhook_allows_name(&rules, "HOOKS.example.org"));
    assert_true(stk_webhook_allows_name(&rules, "a.b.inner.org"));
    assert_false(stk_webhook_allows_name(&rules, "inner.org"));
    assert_false(stk_webhook_allows_name(&rules, ".inner.org"));
    assert_false(stk_webhook_allows_name(&rules, "xhooks.example.org"));
    assert_false(stk_webhook_allows_name(&rules, "notinner.org"));
    assert_false(stk_webhook_allows_name(&rules, "public")); /* a word of ours is no name */
}

static void entries_of_the_list(void **state)
{
    static const char *const good[] = { "public",   "any",           "10.0.0.0/8",    "::1",
                                        "fd00::/8", "a.example.org", "*.example.org", "host" },
                             *const bad[] = { "",     "*",  "10.0.0.0/33", "10.0.0", "10.0.0.256", "a b",    "http://x",
                                              "x:80", "*.", ".org",        "a..b",   "fd00::/129", "a.*.org" };

    (void)state;
    for (size_t i = 0; i < STK_LEN(good); i++)
        assert_int_equal(0, stk_webhook_allow_check(good[i], NULL));
    for (size_t i = 0; i < STK_LEN(bad); i++) {
        if (stk_webhook_allow_check(bad[i], NULL) == 0)
            fail_msg("%s", bad[i]);
    }
}

static void origins_of_urls(void **state)
{
    static const char *const of[][2] = {
        { "http://Example.org/a?b#c", "http://example.org:80" },
        { "HTTPS://example.org", "https://example.org:443" },
        { "http://[::1]:8080/", "http://[::1]:8080" },
        { "http://2130706433/", "http://127.0.0.1:80" },
    };

    (void)state;
    for (size_t i = 0; i < STK_LEN(of); i++) {
        stk_auto_free char *origin = NULL;

        assert_int_equal(0, stk_webhook_url_check(of[i][0], &origin, NULL));
        assert_string_equal(of[i][1], origin);
    }
}

static void what_is_made_of_a_job_s_webhook(void **state)
{
    json_auto_t *allow = json_pack("[s]", "public"), *made = NULL;
    const struct stk_webhook_rules rules = { .allow = allow };
    stk_auto_free char *text = stk_webhook_make(&rules, "https://Hooks.example.org/a?b", "s", STK_WEBHOOK_SJS, NULL);
    stk_auto_free char *plain = stk_webhook_make(&rules, "https://8.8.8.8/", NULL, STK_WEBHOOK_NATIVE, NULL);
    struct stk_err err;

    (void)state;
    made = json_loads(text, 0, NULL);
    assert_string_equal("https://Hooks.example.org/a?b", json_string_value(json_object_get(made, "url")));
    assert_string_equal("https://hooks.example.org:443", json_string_value(json_object_get(made, "origin")));
    assert_string_equal("s", json_string_value(json_object_get(made, "secret")));
    assert_int_equal(STK_WEBHOOK_SJS, json_integer_value(json_object_get(made, "form")));
    assert_non_null(plain);
    assert_null(stk_webhook_make(&rules, "https://10.0.0.1/", NULL, STK_WEBHOOK_NATIVE, &err));
    assert_non_null(strstr(err.msg, "webhook-allow"));
    assert_null(stk_webhook_make(&rules, "https://8.8.8.8/", "", STK_WEBHOOK_NATIVE, &err));
    assert_null(stk_webhook_make(&rules, "https://u@8.8.8.8/", NULL, STK_WEBHOOK_NATIVE, &err));
}

static void what_is_shown_of_a_url(void **state)
{
    stk_auto_free char *plain = stk_webhook_url_shown("http://h:80/"),
                       *path = stk_webhook_url_shown("https://h/services/secret"),
                       *query = stk_webhook_url_shown("http://h?token=x#y");

    (void)state;
    assert_string_equal("http://h:80", plain);
    assert_string_equal("https://h/...", path);
    assert_string_equal("http://h/...", query);
}

/* ---- turns */

/* When that is due: the names, one behind the other, in turn. */
static void assert_turns(struct origins *o, const char *const *names, const int64_t *due_us, size_t n,
                         const char *turns)
{
    struct stk_due_origin due[4] = { 0 };
    struct origin **found;
    char got[64] = "";

    for (size_t i = 0; i < n; i++)
        due[i] = (struct stk_due_origin){ .origin = stk_text_new(names[i], strlen(names[i])), .due_us = due_us[i] };
    assert_int_equal(0, origins_update(o, due, n, NULL));
    found = origins_in_turn(o, NULL);
    assert_non_null(found);
    for (size_t i = 0; i < n; i++) {
        strcat(got, stk_text_data(found[i]->name));
        stk_text_unref(due[i].origin);
    }
    free(found);
    assert_string_equal(turns, got);
}

static struct origin *find(const struct origins *o, const char *name)
{
    stk_auto_text text = stk_text_new(name, strlen(name));

    return origins_find(o, text);
}

static void receivers_take_turns(void **state)
{
    struct origins o = { 0 };

    (void)state;
    assert_turns(&o, NULL, NULL, 0, "");
    assert_null(find(&o, "a"));
    assert_turns(&o, (const char *[]){ "a", "b", "c" }, (int64_t[]){ 3, 1, 2 }, 3, "bca");
    find(&o, "b")->served = 2;
    find(&o, "c")->served = 1;
    find(&o, "c")->failed = true;
    assert_turns(&o, (const char *[]){ "b", "bb", "c" }, (int64_t[]){ 1, 9, 1 }, 3,
                 "bbcb"); /* who is new comes first */
    assert_true(find(&o, "c")->failed && !find(&o, "b")->failed && !find(&o, "bb")->failed);
    assert_null(find(&o, "a"));
    assert_turns(&o, (const char *[]){ "bb" }, (int64_t[]){ 9 }, 1, "bb");
    assert_turns(&o, (const char *[]){ "bb", "c" }, (int64_t[]){ 9, 8 }, 2, "cbb");
    assert_false(find(&o, "c")->failed); /* it was forgotten */
    origins_done(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pauses_double_up_to_the_longest),
        cmocka_unit_test(the_known_signature),
        cmocka_unit_test(a_file_that_is_shorter_than_it_was_is_not_signed),
        cmocka_unit_test(secrets),
        cmocka_unit_test(kinds_of_addresses),
        cmocka_unit_test(ranges_and_names),
        cmocka_unit_test(entries_of_the_list),
        cmocka_unit_test(origins_of_urls),
        cmocka_unit_test(what_is_made_of_a_job_s_webhook),
        cmocka_unit_test(what_is_shown_of_a_url),
        cmocka_unit_test(receivers_take_turns),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
