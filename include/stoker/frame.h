/*
 * Frames between the server and one runner process (python-runner/PROTOCOL.md):
 *
 *     length: u32 big-endian | payload: length bytes of JSON
 *
 * The decoder is fed whatever read(2) returned and never blocks. It knows nothing of file descriptors, JSON or jobs, so it
 * is tested and fuzzed with byte arrays. Loop thread only.
 */
#ifndef STOKER_FRAME_H
#define STOKER_FRAME_H

#include "stoker/err.h"

#include <stddef.h>
#include <stdint.h>

#define STK_FRAME_HEADER 4

struct stk_frame_decoder;

struct stk_frame {
    const uint8_t *payload; /* borrowed: valid until the next decoder call */
    size_t len;             /* bytes, never 0 */
};

/*
 * max_len: longest payload accepted, in bytes. A peer that announces more is refused before anything is allocated for
 * it. NULL when out of memory. Free with stk_frame_decoder_free().
 */
struct stk_frame_decoder *stk_frame_decoder_new(size_t max_len);
void stk_frame_decoder_free(struct stk_frame_decoder *d); /* NULL is fine */

/* Copies n bytes in. 0, or -1 with STK_INTERNAL when out of memory. */
int stk_frame_decoder_feed(struct stk_frame_decoder *d, const void *bytes, size_t n, struct stk_err *err);

/*
 * Takes the next complete frame. 1: *ret is set. 0: more bytes are needed. -1 with STK_RUNNER: the peer broke the
 * protocol; the stream cannot be resynchronised and the runner has to go.
 */
int stk_frame_decoder_next(struct stk_frame_decoder *d, struct stk_frame *ret, struct stk_err *err);

/* Writes the header for a payload of len bytes. */
void stk_frame_header(uint8_t header[STK_FRAME_HEADER], uint32_t len);

#endif
