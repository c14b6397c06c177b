/* One AES block in an SSE register: the vocabulary `ix1_*` for x86-64 with AES-NI.
 *
 * vec_armv8.h says the same words for ARM and vec_vaes.h for four blocks at a time (`ix4_*`). Everything above this
 * layer is written once in these words. No function here branches or indexes memory by the value of a block.
 */
#ifndef IXFAST_VEC_AESNI_H
#define IXFAST_VEC_AESNI_H

#include <immintrin.h>
#include <stdint.h>

#define IX_TARGET __attribute__((target("aes,sse4.1")))
#define IX_INLINE static inline __attribute__((always_inline)) IX_TARGET

typedef __m128i ix1_vec;

IX_INLINE ix1_vec ix1_zero(void) { return _mm_setzero_si128(); }
IX_INLINE ix1_vec ix1_load(const uint8_t *from) { return _mm_loadu_si128((const __m128i *)from); }
IX_INLINE void ix1_store(uint8_t *to, ix1_vec a) { _mm_storeu_si128((__m128i *)to, a); }
IX_INLINE ix1_vec ix1_xor(ix1_vec a, ix1_vec b) { return _mm_xor_si128(a, b); }
IX_INLINE ix1_vec ix1_from_u64(uint64_t low, uint64_t high) { return _mm_set_epi64x((long long)high, (long long)low); }

/* One encryption round (FIPS 197 section 5.1), and the last one, which has no MixColumns. */
IX_INLINE ix1_vec ix1_round(ix1_vec state, ix1_vec key) { return _mm_aesenc_si128(state, key); }
IX_INLINE ix1_vec ix1_last(ix1_vec state, ix1_vec key) { return _mm_aesenclast_si128(state, key); }
/* The same for decryption by the equivalent inverse cipher; its inner round keys pass through ix1_inverse_key. */
IX_INLINE ix1_vec ix1_unround(ix1_vec state, ix1_vec key) { return _mm_aesdec_si128(state, key); }
IX_INLINE ix1_vec ix1_unlast(ix1_vec state, ix1_vec key) { return _mm_aesdeclast_si128(state, key); }
IX_INLINE ix1_vec ix1_inverse_key(ix1_vec key) { return _mm_aesimc_si128(key); }

/* `b` where the byte of `mask` is 255, `a` where it is 0. */
IX_INLINE ix1_vec ix1_select(ix1_vec mask, ix1_vec a, ix1_vec b) { return _mm_blendv_epi8(a, b, mask); }

/* Next round key. A last round over four equal columns is SubWord, because ShiftRows then moves nothing; this takes
 * 4 cycles where AESKEYGENASSIST takes 12 and more. */
IX_INLINE ix1_vec ix1_next_key(ix1_vec key, int rcon)
{
    const ix1_vec rotate_last_word = _mm_set1_epi32(0x0c0f0e0d);
    ix1_vec word = _mm_aesenclast_si128(_mm_shuffle_epi8(key, rotate_last_word), _mm_set1_epi32(rcon));
    key = _mm_xor_si128(key, _mm_slli_si128(key, 4));
    key = _mm_xor_si128(key, _mm_slli_si128(key, 8));
    return _mm_xor_si128(key, word);
}

/* Doubling in GF(2^128), byte 0 most significant (RFC 4493 section 2.3): each byte takes the top bit of its right
 * neighbour. */
IX_INLINE ix1_vec ix1_double(ix1_vec a)
{
    const ix1_vec carry_in = _mm_set_epi8((char)0x87, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1);
    ix1_vec top_bits = _mm_cmpgt_epi8(_mm_setzero_si128(), a);
    ix1_vec carries = _mm_and_si128(_mm_alignr_epi8(top_bits, top_bits, 1), carry_in);
    return _mm_xor_si128(_mm_add_epi8(a, a), carries);
}

/* MACt: bytes 1, 3, ... 15 as one integer whose first byte in memory is byte 1. */
IX_INLINE uint64_t ix1_odd_bytes(ix1_vec a)
{
    return (uint64_t)_mm_cvtsi128_si64(_mm_shuffle_epi8(a, _mm_set_epi64x(0, 0x0f0d0b0907050301LL)));
}

#endif
