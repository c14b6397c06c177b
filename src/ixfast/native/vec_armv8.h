/* One AES block in a NEON register: the vocabulary `ix1_*` for AArch64 with the cryptography extension.
 *
 * The words mean the same as in vec_aesni.h. AESE adds the round key first and AESENC adds it last, so a round is
 * written as AESE with a zero key and then the addition; compilers fold that addition into the following AESE.
 */
#ifndef IXFAST_VEC_ARMV8_H
#define IXFAST_VEC_ARMV8_H

#include <arm_neon.h>
#include <stdint.h>

#if defined(__clang__)
#define IX_TARGET __attribute__((target("aes")))
#else
#define IX_TARGET __attribute__((target("+crypto")))
#endif
#define IX_INLINE static inline __attribute__((always_inline)) IX_TARGET

typedef uint8x16_t ix1_vec;

IX_INLINE ix1_vec ix1_zero(void) { return vdupq_n_u8(0); }
IX_INLINE ix1_vec ix1_load(const uint8_t *from) { return vld1q_u8(from); }
IX_INLINE void ix1_store(uint8_t *to, ix1_vec a) { vst1q_u8(to, a); }
IX_INLINE ix1_vec ix1_xor(ix1_vec a, ix1_vec b) { return veorq_u8(a, b); }
IX_INLINE ix1_vec ix1_from_u64(uint64_t low, uint64_t high)
{
    return vreinterpretq_u8_u64(vcombine_u64(vcreate_u64(low), vcreate_u64(high)));
}

IX_INLINE ix1_vec ix1_last(ix1_vec state, ix1_vec key) { return veorq_u8(vaeseq_u8(state, vdupq_n_u8(0)), key); }
IX_INLINE ix1_vec ix1_unlast(ix1_vec state, ix1_vec key) { return veorq_u8(vaesdq_u8(state, vdupq_n_u8(0)), key); }
IX_INLINE ix1_vec ix1_round(ix1_vec state, ix1_vec key)
{
    return veorq_u8(vaesmcq_u8(vaeseq_u8(state, vdupq_n_u8(0))), key);
}
IX_INLINE ix1_vec ix1_unround(ix1_vec state, ix1_vec key)
{
    return veorq_u8(vaesimcq_u8(vaesdq_u8(state, vdupq_n_u8(0))), key);
}
IX_INLINE ix1_vec ix1_inverse_key(ix1_vec key) { return vaesimcq_u8(key); }

IX_INLINE ix1_vec ix1_select(ix1_vec mask, ix1_vec a, ix1_vec b) { return vbslq_u8(mask, b, a); }

IX_INLINE ix1_vec ix1_next_key(ix1_vec key, int rcon)
{
    const ix1_vec zero = vdupq_n_u8(0);
    const ix1_vec rotate_last_word = vreinterpretq_u8_u32(vdupq_n_u32(0x0c0f0e0du));
    ix1_vec word = vaeseq_u8(vqtbl1q_u8(key, rotate_last_word), zero);
    word = veorq_u8(word, vreinterpretq_u8_u32(vdupq_n_u32((uint32_t)rcon)));
    key = veorq_u8(key, vextq_u8(zero, key, 12));
    key = veorq_u8(key, vextq_u8(zero, key, 8));
    return veorq_u8(key, word);
}

IX_INLINE ix1_vec ix1_double(ix1_vec a)
{
    const ix1_vec carry_in = vsetq_lane_u8(0x87, vdupq_n_u8(1), 15);
    ix1_vec top_bits = vreinterpretq_u8_s8(vshrq_n_s8(vreinterpretq_s8_u8(a), 7));
    return veorq_u8(vshlq_n_u8(a, 1), vandq_u8(vextq_u8(top_bits, top_bits, 1), carry_in));
}

IX_INLINE uint64_t ix1_odd_bytes(ix1_vec a)
{
    return vgetq_lane_u64(vreinterpretq_u64_u8(vuzp2q_u8(a, a)), 0);
}

#endif
