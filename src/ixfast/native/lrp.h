/* Leakage Resilient Primitive (AN12304) and Secure Dynamic Messaging in LRP mode (NT4H2421Gx section 9.3).
 *
 * LRP replaces one AES call by a chain: each nibble of the input chooses one of 16 plaintexts, and its encryption under
 * the key so far is the next key. A key is thus used for one or two blocks and dropped, so no schedule is stored here.
 * A chain cannot be shortened: a tap costs the latency of 136 key expansions, one after the other.
 *
 * Invariants: those of aes128.h. In particular the plaintext of a nibble is selected from all 16 with masks. Counters
 * and the first block of a message are public and could be looked up, but what a subkey masks or what is chained is
 * secret, and an index would show it to the cache; selecting costs 2 % (925 ns against 907 for 32 nibbles).
 */
#ifndef IXFAST_LRP_H
#define IXFAST_LRP_H

#include "sdm.h"

#define IX_LRP_PLAINTEXTS 16
#define IX_LRP_UPDATED 4 /* updated keys of one key; a session has two: for the MAC and for encryption */
#define IX_LRP_MAC 0
#define IX_LRP_ENC 1

/* What a key becomes. `k1` and `k2` mask the last block of a CMAC under updated key 0. */
typedef struct {
    ix1_vec plaintext[IX_LRP_PLAINTEXTS];
    ix1_vec updated[IX_LRP_UPDATED];
    ix1_vec k1, k2;
} ix_lrp;

/* One block under a key that is used for nothing else. */
IX_INLINE ix1_vec ix_lrp_once(ix1_vec key, ix1_vec block)
{
    block = ix1_xor(block, key);
#pragma GCC unroll 10
    for (int i = 0; i < IX_ROUNDS - 1; i++) {
        key = ix1_next_key(key, ix_rcon[i]);
        block = ix1_round(block, key);
    }
    return ix1_last(block, ix1_next_key(key, ix_rcon[IX_ROUNDS - 1]));
}

/* One step of a key chain, two blocks under one expansion: AA..AA gives the product, 55..55 the next key. */
IX_INLINE ix1_vec ix_lrp_step(ix1_vec *chain)
{
    ix1_vec key = *chain, next = ix1_from_u64(0x5555555555555555ull, 0x5555555555555555ull);
    ix1_vec product = ix1_from_u64(0xaaaaaaaaaaaaaaaaull, 0xaaaaaaaaaaaaaaaaull);
    next = ix1_xor(next, key);
    product = ix1_xor(product, key);
#pragma GCC unroll 10
    for (int i = 0; i < IX_ROUNDS - 1; i++) {
        key = ix1_next_key(key, ix_rcon[i]);
        next = ix1_round(next, key);
        product = ix1_round(product, key);
    }
    key = ix1_next_key(key, ix_rcon[IX_ROUNDS - 1]);
    *chain = ix1_last(next, key);
    return ix1_last(product, key);
}

/* Makes `key` ready: plaintexts and the first `updated` updated keys; with `for_cmac` also the subkeys.
 *
 * The subkeys start from the evaluation of 16 zero bytes, which is 32 times plaintext 0. That plaintext is there after
 * two steps, so the evaluation runs beside the other fifteen and hides them. */
IX_INLINE void ix_lrp_make(ix_lrp *lrp, ix1_vec key, int updated, int for_cmac)
{
    ix1_vec update = ix_lrp_step(&key), zeros = ix1_zero(); /* the first product starts the chain of updated keys */
    for (int i = 0; i < IX_LRP_PLAINTEXTS; i++) {
        lrp->plaintext[i] = ix_lrp_step(&key);
        if (i < updated)
            lrp->updated[i] = ix_lrp_step(&update);
        if (for_cmac)
            zeros = i ? ix_lrp_once(zeros, lrp->plaintext[0]) : lrp->updated[0];
    }
    if (!for_cmac)
        return;
    for (int i = IX_LRP_PLAINTEXTS - 1; i < 32; i++)
        zeros = ix_lrp_once(zeros, lrp->plaintext[0]);
    lrp->k1 = ix1_double(ix_lrp_once(zeros, ix1_zero()));
    lrp->k2 = ix1_double(lrp->k1);
}

/* Fills `lrp` from the 16 bytes at `key`: for evaluations under any updated key, for encryption, or for CMACs. */
IX_FUNCTION void ix_lrp_init(ix_lrp *lrp, const uint8_t *key)
{
    ix_lrp_make(lrp, ix1_load(key), IX_LRP_UPDATED, 0);
}

IX_FUNCTION void ix_lrp_init_for_encryption(ix_lrp *lrp, const uint8_t *key)
{
    ix_lrp_make(lrp, ix1_load(key), IX_LRP_ENC + 1, 0);
}

IX_FUNCTION void ix_lrp_init_for_cmac(ix_lrp *lrp, const uint8_t *key)
{
    ix_lrp_make(lrp, ix1_load(key), IX_LRP_MAC + 1, 1);
}

/* Plaintexts (256 bytes) and all updated keys (64 bytes) of what ix_lrp_init filled. */
IX_FUNCTION void ix_lrp_export(const ix_lrp *lrp, uint8_t *plaintexts, uint8_t *updated_keys)
{
    memcpy(plaintexts, lrp->plaintext, sizeof lrp->plaintext);
    memcpy(updated_keys, lrp->updated, sizeof lrp->updated);
}

IX_INLINE ix1_vec ix_lrp_mask_of_bit(unsigned value, int bit)
{
    uint64_t mask = 0 - (uint64_t)(value >> bit & 1);
    return ix1_from_u64(mask, mask);
}

/* The plaintext of a nibble: a tree of 15 selections that reads all 16 whatever the nibble is. */
IX_INLINE ix1_vec ix_lrp_plaintext(const ix_lrp *lrp, unsigned nibble)
{
    ix1_vec kept[IX_LRP_PLAINTEXTS / 2], mask = ix_lrp_mask_of_bit(nibble, 0);
#pragma GCC unroll 8
    for (int i = 0; i < IX_LRP_PLAINTEXTS / 2; i++)
        kept[i] = ix1_select(mask, lrp->plaintext[2 * i], lrp->plaintext[2 * i + 1]);
#pragma GCC unroll 3
    for (int bit = 1, left = IX_LRP_PLAINTEXTS / 4; bit < 4; bit++, left /= 2) {
        mask = ix_lrp_mask_of_bit(nibble, bit);
#pragma GCC unroll 4
        for (int i = 0; i < left; i++)
            kept[i] = ix1_select(mask, kept[2 * i], kept[2 * i + 1]);
    }
    return kept[0];
}

/* eval of AN12304 from updated key `from` over `nibbles` nibbles of `x`, the high one of a byte first, to the 16 bytes
 * at `out`, which may be those of `x`; `final` adds the encryption of zeros. */
IX_FUNCTION void ix_lrp_eval(const ix_lrp *lrp, int from, const uint8_t *x, size_t nibbles, int final, uint8_t *out)
{
    ix1_vec chain = lrp->updated[from];
    for (size_t i = 0; i < nibbles; i++) {
        ix_keep_in_memory(lrp);
        chain = ix_lrp_once(chain, ix_lrp_plaintext(lrp, x[i / 2] >> (i % 2 ? 0 : 4) & 15u));
    }
    ix1_store(out, final ? ix_lrp_once(chain, ix1_zero()) : chain);
}

/* CMAC with the evaluation from updated key 0 in place of AES; 16 bytes to `mac`. */
IX_FUNCTION void ix_lrp_cmac(const ix_lrp *ready, const uint8_t *message, size_t size, uint8_t *mac)
{
    const uint8_t *k1 = (const uint8_t *)&ready->k1, *k2 = (const uint8_t *)&ready->k2;
    uint8_t block[16] = {0};
    for (; size > 16; message += 16, size -= 16) {
        ix1_store(block, ix1_xor(ix1_load(block), ix1_load(message)));
        ix_lrp_eval(ready, IX_LRP_MAC, block, 32, 1, block);
    }
    ix1_store(block, ix1_xor(ix1_load(block), ix_cmac_last_block(k1, k2, message, size)));
    ix_lrp_eval(ready, IX_LRP_MAC, block, 32, 1, mac);
    ix_wipe(block, sizeof block);
}

/* LRICB: each of `count` blocks under a key of its own, the evaluation of `counter` (1 to 16 bytes), which is one
 * big-endian integer, is raised with every block and wraps around. `text` and `out` may be the same. */
IX_FUNCTION void ix_lricb(const ix_lrp *ready, int from, uint8_t *counter, size_t counter_size, const uint8_t *text,
                          size_t count, int encrypt, uint8_t *out)
{
    ix_aes128 schedule;
    uint8_t key[16];
    for (size_t i = 0; i < 16 * count; i += 16) {
        size_t place = counter_size;
        ix_lrp_eval(ready, from, counter, 2 * counter_size, 1, key);
        ix_aes128_expand(&schedule, key);
        if (encrypt) {
            ix_aes128_encrypt(&schedule, text + i, out + i);
        } else {
            ix_aes128_invert(&schedule);
            ix_aes128_decrypt(&schedule, text + i, out + i);
        }
        while (place && ++counter[--place] == 0)
            ;
    }
    ix_wipe(&schedule, sizeof schedule);
    ix_wipe(key, sizeof key);
}

/* The key of a session, 16 bytes to `master`: LRP-CMAC under the file key of the session vector, which is header, UID
 * and counter (least significant byte first) as far as mirrored, zeros, trailer. `uid` is read only if mirrored. */
IX_FUNCTION void ix_lrp_session_master(const uint8_t *file_key, const uint8_t *uid, uint32_t counter, unsigned form,
                                       uint8_t *master)
{
    ix_lrp file;
    uint8_t vector[16] = {0x00, 0x01, 0x00, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x1e, 0xe1};
    size_t at = 4;
    if (form & IX_HAS_UID) {
        memcpy(vector + at, uid, 7);
        at += 7;
    }
    if (form & IX_HAS_COUNTER) {
        vector[at] = counter & 0xff;
        vector[at + 1] = counter >> 8 & 0xff;
        vector[at + 2] = counter >> 16 & 0xff;
    }
    ix_lrp_init_for_cmac(&file, file_key);
    ix_lrp_cmac(&file, vector, sizeof vector, master);
    ix_wipe(&file, sizeof file);
}

/* MACt of the window; the first of its 8 bytes in memory is the first one mirrored. */
IX_FUNCTION uint64_t ix_lrp_sdm_mac(const uint8_t *file_key, const uint8_t *uid, uint32_t counter, unsigned form,
                                    const uint8_t *window, size_t size)
{
    ix_lrp session;
    uint8_t block[16];
    uint64_t mac;
    ix_lrp_session_master(file_key, uid, counter, form, block);
    ix_lrp_init_for_cmac(&session, block);
    ix_lrp_cmac(&session, window, size, block);
    mac = ix1_odd_bytes(ix1_load(block));
    ix_wipe(&session, sizeof session);
    ix_wipe(block, sizeof block);
    return mac;
}

/* 1 if the 8 bytes at `mac` are the message's MACt, 0 otherwise; compared as one integer. */
IX_FUNCTION int ix_lrp_sdm_verify(const uint8_t *file_key, const uint8_t *uid, uint32_t counter, unsigned form,
                                  const uint8_t *window, size_t size, const uint8_t *mac)
{
    uint64_t given;
    memcpy(&given, mac, sizeof given);
    return ix_lrp_sdm_mac(file_key, uid, counter, form, window, size) == given;
}

/* File data of a tap that mirrors UID and counter: LRICB under the session's encryption key from counter, zeros. */
IX_FUNCTION void ix_lrp_sdm_file(const uint8_t *file_key, const uint8_t *uid, uint32_t counter, const uint8_t *text,
                                 size_t count, int encrypt, uint8_t *out)
{
    ix_lrp session;
    uint8_t master[16], first[6] = {counter & 0xff, counter >> 8 & 0xff, counter >> 16 & 0xff, 0, 0, 0};
    ix_lrp_session_master(file_key, uid, counter, IX_HAS_UID | IX_HAS_COUNTER, master);
    ix_lrp_init_for_encryption(&session, master);
    ix_lricb(&session, IX_LRP_ENC, first, sizeof first, text, count, encrypt, out);
    ix_wipe(&session, sizeof session);
    ix_wipe(master, sizeof master);
}

/* The block inside PICCData under the meta key, whose random first part (8 bytes) is the counter. */
IX_FUNCTION void ix_lrp_picc(const uint8_t *meta_key, const uint8_t *random, const uint8_t *block, int encrypt,
                             uint8_t *out)
{
    ix_lrp meta;
    uint8_t counter[8];
    memcpy(counter, random, sizeof counter);
    ix_lrp_init_for_encryption(&meta, meta_key);
    ix_lricb(&meta, 0, counter, sizeof counter, block, 1, encrypt, out);
    ix_wipe(&meta, sizeof meta);
}

#endif
