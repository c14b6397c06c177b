/* Secure Dynamic Messaging in AES mode: session vectors and the truncated MAC, for one message and for many.
 *
 * Source: NT4H2421Gx section 9.3 and AN12196. The many-message form is sdm_batch.h, included once for each CPU variant.
 */
#ifndef IXFAST_SDM_H
#define IXFAST_SDM_H

#include "aes128.h"

/* The first six bytes of SV1 (encryption) and SV2 (MAC), first byte in memory lowest. */
#define IX_SV1 0x800001003cc3ull
#define IX_SV2 0x80000100c33cull

/* What is mirrored: bit 0 the UID, bit 1 the counter. */
#define IX_HAS_UID 1u
#define IX_HAS_COUNTER 2u

/* Header, UID if mirrored, counter (least significant byte first) if mirrored, zeros. `uid` is read only if
 * mirrored. */
IX_INLINE ix1_vec ix_session_vector(uint64_t header, const uint8_t *uid, uint32_t counter, unsigned form)
{
    uint64_t has_uid = form & IX_HAS_UID, first = 0, last = 0, count, body_low, body_high;
    if (has_uid) {
        memcpy(&first, uid, 4);
        memcpy(&last, uid + 3, 4);
    }
    count = form & IX_HAS_COUNTER ? counter : 0;
    first |= last << 24;
    body_low = has_uid ? first | count << 56 : count;
    body_high = has_uid ? count >> 8 : 0;
    return ix1_from_u64(header | body_low << 48, body_low >> 16 | body_high << 48);
}

/* CMAC(file key, session vector), 16 bytes to `session_key`. */
IX_FUNCTION void ix_sdm_session_key(const uint8_t *file_key, uint64_t header, const uint8_t *uid, uint32_t counter,
                                    unsigned form, uint8_t *session_key)
{
    ix_cmac_key file;
    ix_cmac_ready(&file, ix1_load(file_key));
    ix1_store(session_key, ix_encrypt(&file.aes, ix1_xor(ix_session_vector(header, uid, counter, form), file.k1)));
    ix_wipe_cmac_key(&file);
}

/* MACt of the window under the MAC session key; the first of its 8 bytes in memory is the first one mirrored. */
IX_FUNCTION uint64_t ix_sdm_mac(const uint8_t *file_key, const uint8_t *uid, uint32_t counter, unsigned form,
                                const uint8_t *window, size_t size)
{
    ix_cmac_key ready;
    ix1_vec session_key;
    uint64_t mac;
    ix_cmac_ready(&ready, ix1_load(file_key));
    session_key = ix_encrypt(&ready.aes, ix1_xor(ix_session_vector(IX_SV2, uid, counter, form), ready.k1));
    ix_cmac_ready(&ready, session_key);
    mac = ix1_odd_bytes(ix_cmac_of(&ready, window, size));
    ix_wipe_cmac_key(&ready);
    return mac;
}

/* 1 if the 8 bytes at `mac` are the message's MACt, 0 otherwise; compared as one integer, so no byte decides
 * earlier. */
IX_FUNCTION int ix_sdm_verify(const uint8_t *file_key, const uint8_t *uid, uint32_t counter, unsigned form,
                              const uint8_t *window, size_t size, const uint8_t *mac)
{
    uint64_t given;
    memcpy(&given, mac, sizeof given);
    return ix_sdm_mac(file_key, uid, counter, form, window, size) == given;
}

/* Many messages in packed arrays; `offsets` is NULL when every window is empty. Little-endian integers, any
 * alignment. */
typedef struct {
    const uint8_t *file_keys; /* 16 bytes each */
    const uint8_t *uids;      /* 7 bytes each */
    const uint8_t *counters;  /* uint32 each */
    const uint8_t *windows;   /* all of them, one after the other */
    const uint8_t *offsets;   /* count + 1 uint32: window i is windows[offsets[i] .. offsets[i + 1]] */
    const uint8_t *macs;      /* 8 bytes each */
    const uint8_t *forms;     /* IX_HAS_UID | IX_HAS_COUNTER each */
    size_t count;
} ix_sdm_messages;

typedef void (*ix_sdm_batch_function)(const ix_sdm_messages *messages, uint8_t *verdicts);

static inline uint32_t ix_u32(const uint8_t *array, size_t index)
{
    uint32_t value;
    memcpy(&value, array + 4 * index, sizeof value);
    return value;
}

/* Four messages in single-block registers: 35 ns each, where three take 40 and eight 55 because 16 registers spill. */
#define IX_BATCH_TARGET IX_TARGET
#define IX_BATCH(name) ix1_##name
#define IX_BATCH_LANES 1
#define IX_BATCH_VECTORS 4
#include "sdm_batch.h"

#if defined(__x86_64__)
/* Sixteen messages, four to a vector: 13 ns each. */
#include "vec_vaes.h"
#define IX_BATCH_TARGET IX4_TARGET
#define IX_BATCH(name) ix4_##name
#define IX_BATCH_LANES 4
#define IX_BATCH_VECTORS 4
#include "sdm_batch.h"

static inline int ix_cpu_has_vaes(void)
{
    unsigned a, b, c, d, enabled, high;
    const unsigned osxsave = 1u << 27, avx512f = 1u << 16, avx512bw = 1u << 30, vaes = 1u << 9, zmm_state = 0xe6;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & osxsave))
        return 0;
    __asm__ __volatile__("xgetbv" : "=a"(enabled), "=d"(high) : "c"(0));
    if ((enabled & zmm_state) != zmm_state || !__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return 0;
    return (b & avx512f) && (b & avx512bw) && (c & vaes);
}
#endif

typedef struct {
    const char *name;
    ix_sdm_batch_function verify_batch;
} ix_variant;

#define IX_VARIANTS_MAX 2

/* Fills `found` with what this CPU can run, best first, and answers how many; 0: the core must not be used. */
static inline int ix_variants_of_this_cpu(ix_variant *found)
{
    int count = 0;
    if (!ix_cpu_has_aes())
        return 0;
#if defined(__x86_64__)
    if (ix_cpu_has_vaes())
        found[count++] = (ix_variant){"native-vaes", ix4_sdm_verify_batch};
    found[count++] = (ix_variant){"native-aesni", ix1_sdm_verify_batch};
#else
    found[count++] = (ix_variant){"native-armv8", ix1_sdm_verify_batch};
#endif
    return count;
}

#endif
