/* What the two dialects make of an error that an upload, or another body, has met. */
#include "api/native/native.h"
#include "api/sjs/sjs.h"
#include "http/edge.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

typedef void failed_fn(struct stk_reply *reply, const struct stk_err *err);

static int status_of(failed_fn *failed, enum stk_code code, bool *ret_retry)
{
    struct stk_reply reply;
    struct stk_err err;
    int status;

    stk_fail(&err, code, "as it is");
    stk_reply_init(&reply);
    failed(&reply, &err);
    status = stk_reply_get_status(&reply);
    *ret_retry = false;
    for (size_t i = 0; i < reply.n_headers; i++)
        *ret_retry |= strcmp(reply.headers[i].name, "Retry-After") == 0;
    stk_reply_done(&reply);
    return status;
}

/* The first may be tried again, the second never. */
static void what_is_busy_is_not_what_is_too_large(void **state)
{
    static failed_fn *const dialects[] = { stk_native_body_failed, stk_sjs_body_failed, stk_sjs_upload_failed };
    bool retry;

    (void)state;
    for (size_t i = 0; i < STK_LEN(dialects); i++) {
        assert_int_equal(503, status_of(dialects[i], STK_LIMIT, &retry));
        assert_true(retry);
        assert_int_equal(413, status_of(dialects[i], STK_TOO_LARGE, &retry));
        assert_false(retry);
        assert_int_equal(408, status_of(dialects[i], STK_TIMEOUT, &retry));
        assert_int_equal(400, status_of(dialects[i], STK_INVALID, &retry));
        assert_int_equal(507, status_of(dialects[i], STK_FULL, &retry));
        assert_int_equal(500, status_of(dialects[i], STK_INTERNAL, &retry));
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_busy_is_not_what_is_too_large),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
