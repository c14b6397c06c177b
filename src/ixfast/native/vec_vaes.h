/* Four AES blocks in an AVX-512 register: the vocabulary `ix4_*` for x86-64 with VAES, for batches only.
 *
 * The words mean the same as in vec_aesni.h, block by block; shuffles and shifts stay within a block.
 */
#ifndef IXFAST_VEC_VAES_H
#define IXFAST_VEC_VAES_H

#include "vec_aesni.h"

#define IX4_TARGET __attribute__((target("aes,sse4.1,vaes,avx512f,avx512bw")))
#define IX4_INLINE static inline __attribute__((always_inline)) IX4_TARGET

typedef __m512i ix4_vec;

IX4_INLINE ix4_vec ix4_load(const uint8_t *from) { return _mm512_loadu_si512(from); }
IX4_INLINE void ix4_store(uint8_t *to, ix4_vec a) { _mm512_storeu_si512(to, a); }
IX4_INLINE ix4_vec ix4_xor(ix4_vec a, ix4_vec b) { return _mm512_xor_si512(a, b); }
IX4_INLINE ix4_vec ix4_round(ix4_vec state, ix4_vec key) { return _mm512_aesenc_epi128(state, key); }
IX4_INLINE ix4_vec ix4_last(ix4_vec state, ix4_vec key) { return _mm512_aesenclast_epi128(state, key); }

IX4_INLINE ix4_vec ix4_next_key(ix4_vec key, int rcon)
{
    const ix4_vec rotate_last_word = _mm512_set1_epi32(0x0c0f0e0d);
    ix4_vec word = _mm512_aesenclast_epi128(_mm512_shuffle_epi8(key, rotate_last_word), _mm512_set1_epi32(rcon));
    key = _mm512_xor_si512(key, _mm512_bslli_epi128(key, 4));
    key = _mm512_xor_si512(key, _mm512_bslli_epi128(key, 8));
    return _mm512_xor_si512(key, word);
}

IX4_INLINE ix4_vec ix4_double(ix4_vec a)
{
    const __m128i carry_in_one = _mm_set_epi8((char)0x87, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1);
    const ix4_vec carry_in = _mm512_broadcast_i32x4(carry_in_one);
    ix4_vec top_bits = _mm512_movm_epi8(_mm512_movepi8_mask(a));
    ix4_vec carries = _mm512_and_si512(_mm512_alignr_epi8(top_bits, top_bits, 1), carry_in);
    return _mm512_xor_si512(_mm512_add_epi8(a, a), carries);
}

#endif
