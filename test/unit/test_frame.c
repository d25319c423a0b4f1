#include "stoker/frame.h"

#include "stoker/buf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { MAX_LEN = 1000 };

static int new_decoder(void **state)
{
    return (*state = stk_frame_decoder_new(MAX_LEN)) ? 0 : -1;
}

static int free_decoder(void **state)
{
    stk_frame_decoder_free(*state);
    return 0;
}

static void feed(struct stk_frame_decoder *d, const void *bytes, size_t n)
{
    assert_int_equal(0, stk_frame_decoder_feed(d, bytes, n, NULL));
}

static void next_is(struct stk_frame_decoder *d, const char *want)
{
    struct stk_frame f;

    assert_int_equal(1, stk_frame_decoder_next(d, &f, NULL));
    assert_int_equal(strlen(want), f.len);
    assert_memory_equal(want, f.payload, f.len);
}

static void none_yet(struct stk_frame_decoder *d)
{
    struct stk_frame f;

    assert_int_equal(0, stk_frame_decoder_next(d, &f, NULL));
}

static void is_broken(struct stk_frame_decoder *d)
{
    struct stk_err err = { 0 };
    struct stk_frame f = { .len = 77 };

    assert_int_equal(-1, stk_frame_decoder_next(d, &f, &err));
    assert_int_equal(STK_RUNNER, err.code);
    assert_true(err.msg[0] != '\0');
    assert_int_equal(77, f.len); /* written only on success */
}

/* read(2) may cut a stream anywhere: every cut must give the same frame. */
static void frame_survives_any_split(void **state)
{
    static const uint8_t wire[] = { 0, 0, 0, 3, 'a', 'b', 'c' };

    none_yet(*state);
    for (size_t cut = 0; cut <= sizeof wire; cut++) {
        feed(*state, wire, cut);
        if (cut < sizeof wire)
            none_yet(*state);
        feed(*state, wire + cut, sizeof wire - cut);
        next_is(*state, "abc");
        none_yet(*state);
    }
}

static void byte_by_byte(void **state)
{
    static const uint8_t wire[] = { 0, 0, 0, 1, 'x', 0, 0, 0, 2, 'y', 'z' };

    for (size_t i = 0; i < sizeof wire; i++) {
        feed(*state, &wire[i], 1);
        if (i == 4)
            next_is(*state, "x");
        else if (i == 10)
            next_is(*state, "yz");
        else
            none_yet(*state);
    }
}

static void several_frames_in_one_read(void **state)
{
    static const uint8_t wire[] = { 0, 0, 0, 1, 'a', 0, 0, 0, 4, 'b', 0, 0, 'c', 0, 0, 0, 1, 'd', 0, 0, 0 };
    struct stk_frame f;

    feed(*state, wire, sizeof wire);
    next_is(*state, "a");
    assert_int_equal(1, stk_frame_decoder_next(*state, &f, NULL));
    assert_int_equal(4, f.len);
    assert_memory_equal("b\0\0c", f.payload, 4);
    next_is(*state, "d");
    none_yet(*state);
    feed(*state, "\001e", 2);
    next_is(*state, "e");
}

/* Frames are taken while the rest of an earlier read is still there: nothing is lost or repeated over a long stream. */
static void long_stream_in_odd_pieces(void **state)
{
    enum { FRAMES = 2000 };
    stk_auto_buf wire = { 0 };
    size_t taken = 0, fed = 0, piece = 1;
    struct stk_frame f;

    for (size_t i = 0; i < FRAMES; i++) {
        uint8_t header[STK_FRAME_HEADER];
        size_t len = 1 + i * 7 % MAX_LEN;

        stk_frame_header(header, (uint32_t)len);
        stk_buf_add(&wire, header, sizeof header);
        for (size_t k = 0; k < len; k++)
            stk_buf_add(&wire, &(char){ (char)(i + k) }, 1);
    }
    while (fed < wire.len) {
        size_t n = piece < wire.len - fed ? piece : wire.len - fed;

        feed(*state, wire.data + fed, n);
        fed += n;
        piece = piece * 13 % 4099 + 1;
        while (stk_frame_decoder_next(*state, &f, NULL) == 1) {
            assert_int_equal(1 + taken * 7 % MAX_LEN, f.len);
            for (size_t k = 0; k < f.len; k++)
                assert_int_equal((uint8_t)(taken + k), f.payload[k]);
            taken++;
        }
    }
    assert_int_equal(FRAMES, taken);
}

static void longest_frame_passes(void **state)
{
    static char payload[MAX_LEN + 1];
    uint8_t header[STK_FRAME_HEADER];

    memset(payload, 'p', MAX_LEN);
    stk_frame_header(header, MAX_LEN);
    feed(*state, header, sizeof header);
    feed(*state, payload, MAX_LEN);
    next_is(*state, payload);
}

static void longer_frame_is_refused_at_its_header(void **state)
{
    uint8_t header[STK_FRAME_HEADER];

    stk_frame_header(header, MAX_LEN + 1);
    feed(*state, header, sizeof header);
    is_broken(*state);
    is_broken(*state); /* and stays so */
}

static void absurd_length_is_refused(void **state)
{
    feed(*state, "\xff\xff\xff\xff{}", 6);
    is_broken(*state);
}

static void empty_frame_is_refused(void **state)
{
    feed(*state, "\0\0\0\0", 4);
    is_broken(*state);
}

static void good_frames_before_a_bad_one_count(void **state)
{
    feed(*state, "\0\0\0\001a\0\0\0\0", 9);
    next_is(*state, "a");
    is_broken(*state);
}

static void header_is_big_endian(void **state)
{
    uint8_t header[STK_FRAME_HEADER];

    (void)state;
    stk_frame_header(header, 0x01020304);
    assert_memory_equal("\001\002\003\004", header, 4);
    stk_frame_header(header, UINT32_MAX);
    assert_memory_equal("\xff\xff\xff\xff", header, 4);
}

static void freeing_nothing_is_fine(void **state)
{
    (void)state;
    stk_frame_decoder_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(frame_survives_any_split, new_decoder, free_decoder),
        cmocka_unit_test_setup_teardown(byte_by_byte, new_decoder, free_decoder),
        cmocka_unit_test_setup_teardown(several_frames_in_one_read, new_decoder, free_decoder),
        cmocka_unit_test_setup_teardown(long_stream_in_odd_pieces, new_decoder, free_decoder),
        cmocka_unit_test_setup_teardown(longest_frame_passes, new_decoder, free_decoder),
        cmocka_unit_test_setup_teardown(longer_frame_is_refused_at_its_header, new_decoder, free_decoder),
        cmocka_unit_test_setup_teardown(absurd_length_is_refused, new_decoder, free_decoder),
        cmocka_unit_test_setup_teardown(empty_frame_is_refused, new_decoder, free_decoder),
        cmocka_unit_test_setup_teardown(good_frames_before_a_bad_one_count, new_decoder, free_decoder),
        cmocka_unit_test(header_is_big_endian),
        cmocka_unit_test(freeing_nothing_is_fine),
    };

    return cmocka_run_group_tests_name("frame", tests, NULL, NULL);
}
