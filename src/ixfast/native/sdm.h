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

/* Header, UID if mirrored, counter (least significant byte first) if mirrored, zeros. `uid` is read only if mirrored. */
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
    ix_wipe(&file, sizeof file);
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
    ix_wipe(&ready, sizeof ready);
    return mac;
}

/* 1 if the 8 bytes at `mac` are the message's MACt, 0 otherwise; compared as one integer, so no byte decides earlier. */
IX_FUNCTION int ix_sdm_verify(const uint8_t *file_key, const uint8_t *uid, uint32_t counter, unsigned form,
                              const uint8_t *window, size_t size, const uint8_t *mac)
{
    uint64_t given;
    memcpy(&given, mac, sizeof given);
    return ix_sdm_mac(file_key, uid, counter, form, window, size) == given;
}

/* Many messages in packed arrays; `offsets` is NULL when every window is empty. Little-endian integers, any alignment. */
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

/* Eight messages in single-block registers: enough to fill the AES pipeline (latency 3, two a cycle). */
#define IX_BATCH_TARGET IX_TARGET
#define IX_BATCH(name) ix1_##name
#define IX_BATCH_LANES 1
#define IX_BATCH_VECTORS 8
#include "sdm_batch.h"

static inline ix_sdm_batch_function ix_sdm_batch_for_this_cpu(const char **variant)
{
    *variant = IX_VARIANT_NAME;
    return ix1_sdm_verify_batch;
}

#endif
