/* AES-128 (FIPS 197) and AES-CMAC (RFC 4493, SP 800-38B) on the CPU's AES instructions.
 *
 * This is not a general-purpose AES: it has 128-bit keys only and must not be called on a CPU without the instructions
 * (see ix_cpu_has_aes). Invariants: running time depends on lengths alone, never on keys or contents; code that fills a
 * schedule wipes it on every path out. Registers and the compiler's own spill slots are beyond the reach of C and are
 * not cleared.
 */
#ifndef IXFAST_AES128_H
#define IXFAST_AES128_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include "vec_aesni.h"
#elif defined(__aarch64__) && defined(__linux__) && defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#include <sys/auxv.h>
#include "vec_armv8.h"
#else
#error "The native core needs x86-64 or AArch64 Linux. Build with IXFAST_NO_EXTENSIONS=1 to use the plain Python twin."
#endif

#define IX_FUNCTION static __attribute__((unused)) IX_TARGET
#define IX_ROUNDS 10

static const int ix_rcon[IX_ROUNDS] = {0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0x1b, 0x36};

/* Encryption round keys, the first being the key itself. */
typedef struct {
    ix1_vec round[IX_ROUNDS + 1];
} ix_aes128;

/* A key made ready for CMAC: k1 masks a full last block, k2 a padded one. */
typedef struct {
    ix_aes128 aes;
    ix1_vec k1, k2;
} ix_cmac_key;

static inline int ix_cpu_has_aes(void)
{
#if defined(__x86_64__)
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_AES) && (c & bit_SSE4_1);
#else
    return (getauxval(AT_HWCAP) & (1ul << 3)) != 0; /* HWCAP_AES */
#endif
}

/* Makes the compiler reload what is at `secret`. Without it, round keys stay in registers until their next use and
 * spill to stack slots that are never wiped; tests/native searches the stack for them. */
static inline void ix_keep_in_memory(const void *secret)
{
    __asm__ __volatile__("" : : "r"(secret) : "memory");
}

/* Overwrites secrets. As far as the compiler knows, the barrier reads them, so the stores are never removed as dead. */
static inline void ix_wipe(void *secret, size_t size)
{
    memset(secret, 0, size);
    ix_keep_in_memory(secret);
}

/* The same for a CMAC key, store by store: GCC turns a memset of this size into REP STOS, which takes 6 ns. */
IX_INLINE void ix_wipe_cmac_key(ix_cmac_key *ready)
{
#pragma GCC unroll 11
    for (int i = 0; i <= IX_ROUNDS; i++)
        *(volatile ix1_vec *)&ready->aes.round[i] = ix1_zero();
    *(volatile ix1_vec *)&ready->k1 = ix1_zero();
    *(volatile ix1_vec *)&ready->k2 = ix1_zero();
}

/* Expands the key and encrypts a block at the same time: the key schedule's latency hides that of the rounds. */
IX_INLINE ix1_vec ix_expand_and_encrypt(ix_aes128 *schedule, ix1_vec key, ix1_vec block)
{
    schedule->round[0] = key;
    block = ix1_xor(block, key);
#pragma GCC unroll 10
    for (int i = 0; i < IX_ROUNDS - 1; i++) {
        key = ix1_next_key(key, ix_rcon[i]);
        schedule->round[i + 1] = key;
        block = ix1_round(block, key);
    }
    key = ix1_next_key(key, ix_rcon[IX_ROUNDS - 1]);
    schedule->round[IX_ROUNDS] = key;
    ix_keep_in_memory(schedule);
    return ix1_last(block, key);
}

IX_INLINE ix1_vec ix_encrypt(const ix_aes128 *schedule, ix1_vec block)
{
    ix_keep_in_memory(schedule);
    block = ix1_xor(block, schedule->round[0]);
#pragma GCC unroll 10
    for (int i = 1; i < IX_ROUNDS; i++)
        block = ix1_round(block, schedule->round[i]);
    return ix1_last(block, schedule->round[IX_ROUNDS]);
}

/* Fills `schedule` from the 16 bytes at `key`. */
IX_FUNCTION void ix_aes128_expand(ix_aes128 *schedule, const uint8_t *key)
{
    (void)ix_expand_and_encrypt(schedule, ix1_load(key), ix1_zero());
}

/* Turns an encryption schedule into one for ix_aes128_decrypt, in place: reversed, inner keys through InvMixColumns. */
IX_FUNCTION void ix_aes128_invert(ix_aes128 *schedule)
{
    for (int i = 0; i < IX_ROUNDS / 2; i++) {
        ix1_vec early = schedule->round[i], late = schedule->round[IX_ROUNDS - i];
        schedule->round[i] = i ? ix1_inverse_key(late) : late;
        schedule->round[IX_ROUNDS - i] = i ? ix1_inverse_key(early) : early;
    }
    schedule->round[IX_ROUNDS / 2] = ix1_inverse_key(schedule->round[IX_ROUNDS / 2]);
}

/* `block` and `out` are 16 bytes each and may be the same. */
IX_FUNCTION void ix_aes128_encrypt(const ix_aes128 *schedule, const uint8_t *block, uint8_t *out)
{
    ix1_store(out, ix_encrypt(schedule, ix1_load(block)));
}

IX_FUNCTION void ix_aes128_decrypt(const ix_aes128 *inverted, const uint8_t *block, uint8_t *out)
{
    ix1_vec state = ix1_xor(ix1_load(block), inverted->round[0]);
    for (int i = 1; i < IX_ROUNDS; i++)
        state = ix1_unround(state, inverted->round[i]);
    ix1_store(out, ix1_unlast(state, inverted->round[IX_ROUNDS]));
}

IX_INLINE void ix_cmac_ready(ix_cmac_key *ready, ix1_vec key)
{
    ready->k1 = ix1_double(ix_expand_and_encrypt(&ready->aes, key, ix1_zero()));
    ready->k2 = ix1_double(ready->k1);
}

/* The last block of a message, masked. `tail` has 0 to 16 bytes; an empty message has one padded block. */
IX_INLINE ix1_vec ix_cmac_last_block(const uint8_t *k1, const uint8_t *k2, const uint8_t *tail, size_t size)
{
    uint8_t padded[16] = {0};
    if (size == 16)
        return ix1_xor(ix1_load(tail), ix1_load(k1));
    memcpy(padded, tail, size);
    padded[size] = 0x80;
    return ix1_xor(ix1_load(padded), ix1_load(k2));
}

IX_INLINE ix1_vec ix_cmac_of(const ix_cmac_key *ready, const uint8_t *message, size_t size)
{
    const uint8_t *k1 = (const uint8_t *)&ready->k1, *k2 = (const uint8_t *)&ready->k2;
    ix1_vec state = ix1_zero();
    if (size == 0)
        return ix_encrypt(&ready->aes, ix1_xor(ready->k2, ix1_from_u64(0x80, 0)));
    for (; size > 16; message += 16, size -= 16)
        state = ix_encrypt(&ready->aes, ix1_xor(state, ix1_load(message)));
    return ix_encrypt(&ready->aes, ix1_xor(state, ix_cmac_last_block(k1, k2, message, size)));
}

IX_FUNCTION void ix_cmac_init(ix_cmac_key *ready, const uint8_t *key)
{
    ix_cmac_ready(ready, ix1_load(key));
}

/* Writes the 16 bytes of CMAC(key, message) to `mac`. */
IX_FUNCTION void ix_cmac(const ix_cmac_key *ready, const uint8_t *message, size_t size, uint8_t *mac)
{
    ix1_store(mac, ix_cmac_of(ready, message, size));
}

/* L, K1 and K2 of RFC 4493, 16 bytes each. */
IX_FUNCTION void ix_cmac_subkeys(const ix_cmac_key *ready, uint8_t *l, uint8_t *k1, uint8_t *k2)
{
    ix1_store(l, ix_encrypt(&ready->aes, ix1_zero()));
    ix1_store(k1, ready->k1);
    ix1_store(k2, ready->k2);
}

/* MACt(CMAC(key, message)): bytes 1, 3, ..., 15 of the 16, in the order in memory in which they are sent. */
IX_FUNCTION uint64_t ix_mact(const uint8_t *key, const uint8_t *message, size_t size)
{
    ix_cmac_key ready;
    uint64_t mac;
    ix_cmac_ready(&ready, ix1_load(key));
    mac = ix1_odd_bytes(ix_cmac_of(&ready, message, size));
    ix_wipe_cmac_key(&ready);
    return mac;
}

/* 1 if the 8 bytes at `mac` are the message's MACt, 0 otherwise. They are compared as one integer, so the time does not
 * depend on which byte differs. */
IX_FUNCTION int ix_mact_verify(const uint8_t *key, const uint8_t *message, size_t size, const uint8_t *mac)
{
    uint64_t given;
    memcpy(&given, mac, sizeof given);
    return ix_mact(key, message, size) == given;
}

/* 1 if the `size` bytes are equal, 0 otherwise. Always examines all of them. */
static inline int ix_equal(const uint8_t *a, const uint8_t *b, size_t size)
{
    uint32_t difference = 0;
    for (size_t i = 0; i < size; i++)
        difference |= (uint32_t)(a[i] ^ b[i]);
    return (int)((difference - 1) >> 31);
}

#endif
