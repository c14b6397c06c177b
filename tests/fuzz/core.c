/* Fuzzes the native core's headers with libFuzzer, under AddressSanitizer and UBSan.
 *
 * The first byte of an input chooses the operation, the rest are its arguments; what is missing is zero. Every argument lies
 * in memory of its own that is exactly as long as the core may read. What comes out is compared with a second way to the
 * same answer: chaining written out block by block, plaintexts looked up by their nibble, one message instead of many, or
 * the inverse. An input on which the two differ ends the run.
 */
#include <stdio.h>
#include <stdlib.h>

#include "native/lrp.h"

enum { BATCH_MAX = 40, WINDOW_MAX = 4096, BLOCKS_MAX = 8 };

static const uint8_t *given;
static size_t left;
static void *lent[32];
static size_t lent_count;

/* Memory of exactly this size, returned after the input; with a size of 0 none of it may be read. */
static uint8_t *lend(size_t size)
{
    uint8_t *memory = malloc(size);
    if ((!memory && size) || lent_count == sizeof lent / sizeof *lent)
        abort();
    lent[lent_count++] = memory;
    return memory;
}

static uint8_t *take(size_t size)
{
    uint8_t *memory = lend(size);
    size_t there = size < left ? size : left;
    if (there)
        memcpy(memory, given, there);
    if (size > there)
        memset(memory + there, 0, size - there);
    given += there, left -= there;
    return memory;
}

static unsigned number(unsigned below)
{
    uint8_t *two = take(2);
    return (two[0] | (unsigned)two[1] << 8) % below;
}

static void agree(int same, const char *what)
{
    if (same)
        return;
    fprintf(stderr, "DISAGREE: %s\n", what);
    abort();
}

/* --- the second way -------------------------------------------------------------------------- */

/* One block under a key by any means that the chaining below is to use. */
typedef void (*one_block)(const void *context, const uint8_t *in, uint8_t *out);

IX_FUNCTION void block_by_aes(const void *context, const uint8_t *in, uint8_t *out)
{
    ix1_store(out, ix_lrp_once(ix1_load(context), ix1_load(in))); /* keeps no schedule, unlike the AES of CMAC */
}

static void doubled(uint8_t *block)
{
    unsigned carry = block[0] >> 7;
    for (int i = 0; i < 15; i++)
        block[i] = (uint8_t)(block[i] << 1 | block[i + 1] >> 7);
    block[15] = (uint8_t)(block[15] << 1 ^ (carry ? 0x87 : 0));
}

static void plain_cmac(one_block encrypt, const void *context, const uint8_t *message, size_t size, uint8_t *mac)
{
    uint8_t mask[16] = {0}, chain[16] = {0};
    size_t blocks = size ? (size + 15) / 16 : 1;
    encrypt(context, mask, mask);
    doubled(mask);
    if (size == 0 || size % 16)
        doubled(mask);
    for (size_t at = 0; at < 16 * blocks; at++) {
        chain[at % 16] ^= at < size ? message[at] : at == size ? 0x80 : 0;
        if (at >= 16 * (blocks - 1))
            chain[at % 16] ^= mask[at % 16];
        if (at % 16 == 15)
            encrypt(context, chain, chain);
    }
    memcpy(mac, chain, 16);
}

static void truncated(const uint8_t *mac, uint8_t *sent)
{
    for (int i = 0; i < 8; i++)
        sent[i] = mac[2 * i + 1];
}

static size_t mirrored(uint8_t *vector, size_t at, const uint8_t *uid, uint32_t counter, unsigned form)
{
    if (form & IX_HAS_UID)
        for (int i = 0; i < 7; i++)
            vector[at++] = uid[i];
    if (form & IX_HAS_COUNTER)
        for (int i = 0; i < 3; i++)
            vector[at++] = (uint8_t)(counter >> 8 * i);
    return at;
}

struct plain_lrp {
    uint8_t plaintexts[16][16], updated[IX_LRP_UPDATED][16];
};

static void plain_lrp_of(struct plain_lrp *lrp, const uint8_t *key)
{
    uint8_t h[16], five[16], ten[16];
    memset(five, 0x55, 16), memset(ten, 0xaa, 16);
    block_by_aes(key, five, h);
    for (int i = 0; i < 16; i++) {
        block_by_aes(h, ten, lrp->plaintexts[i]);
        block_by_aes(h, five, h);
    }
    block_by_aes(key, ten, h);
    for (int i = 0; i < IX_LRP_UPDATED; i++) {
        block_by_aes(h, ten, lrp->updated[i]);
        block_by_aes(h, five, h);
    }
}

static void plain_eval(const struct plain_lrp *lrp, int from, const uint8_t *x, size_t size, uint8_t *out)
{
    uint8_t y[16], zeros[16] = {0};
    memcpy(y, lrp->updated[from], 16);
    for (size_t i = 0; i < 2 * size; i++)
        block_by_aes(y, lrp->plaintexts[i % 2 ? x[i / 2] & 15 : x[i / 2] >> 4], y);
    block_by_aes(y, zeros, out);
}

static void block_by_lrp(const void *context, const uint8_t *in, uint8_t *out)
{
    uint8_t copy[16];
    memcpy(copy, in, 16);
    plain_eval(context, 0, copy, 16, out);
}

/* --- operations ------------------------------------------------------------------------------ */

static void fuzz_aes(void)
{
    uint8_t *key = take(16), *block = take(16), *out = lend(16), other[16];
    ix_aes128 schedule;
    ix_aes128_expand(&schedule, key);
    ix_aes128_encrypt(&schedule, block, out);
    block_by_aes(key, block, other);
    agree(ix_equal(out, other, 16) == 1, "two ways of AES");
    agree(memcmp(schedule.round, key, 16) == 0, "the first round key is the key");
    ix_aes128_invert(&schedule);
    ix_aes128_decrypt(&schedule, out, out);
    agree(memcmp(out, block, 16) == 0, "AES and its inverse");
}

static void fuzz_cmac(void)
{
    uint8_t *key = take(16), other[16], sent[8];
    size_t size = left;
    uint8_t *message = take(size), *mac = lend(16), *eight = lend(8);
    ix_cmac_key ready;
    uint64_t made = ix_mact(key, message, size);
    ix_cmac_init(&ready, key);
    ix_cmac(&ready, message, size, mac);
    plain_cmac(block_by_aes, key, message, size, other);
    agree(ix_equal(mac, other, 16) == 1, "two ways of CMAC");
    truncated(other, sent);
    memcpy(eight, sent, 8);
    agree(memcmp(&made, sent, 8) == 0, "two ways of MACt");
    agree(ix_mact_verify(key, message, size, eight) == 1, "a right MACt is taken");
    for (unsigned bit = 0; bit < 64; bit++) {
        eight[bit / 8] ^= (uint8_t)(1u << bit % 8);
        agree(ix_mact_verify(key, message, size, eight) == 0, "a wrong MACt is refused");
        eight[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

typedef struct {
    uint8_t *key, *uid, *window, *mac;
    uint32_t counter;
    unsigned form, valid;
    size_t size;
} tap;

/* A tap with the right MAC by the second way, or one with a wrong bit. */
static tap take_tap(size_t window_max, int lrp)
{
    tap t;
    uint8_t aes_vector[16] = {0x3c, 0xc3, 0x00, 0x01, 0x00, 0x80}, lrp_vector[16] = {0x00, 0x01, 0x00, 0x80};
    uint8_t session[16], mac[16];
    struct plain_lrp file, own;
    unsigned choice = number(65536);
    uint8_t *counter = take(3);
    t.form = choice & 3, t.valid = choice >> 2 & 1;
    t.key = take(16);
    t.uid = take(t.form & IX_HAS_UID ? 7 : 0);
    t.counter = counter[0] | (uint32_t)counter[1] << 8 | (uint32_t)counter[2] << 16;
    t.size = window_max ? number((unsigned)window_max + 1) : 0;
    t.window = take(t.size);
    t.mac = lend(8);
    if (lrp) {
        mirrored(lrp_vector, 4, t.uid, t.counter, t.form);
        lrp_vector[14] = 0x1e, lrp_vector[15] = 0xe1;
        plain_lrp_of(&file, t.key);
        plain_cmac(block_by_lrp, &file, lrp_vector, 16, session);
        plain_lrp_of(&own, session);
        plain_cmac(block_by_lrp, &own, t.window, t.size, mac);
    } else {
        mirrored(aes_vector, 6, t.uid, t.counter, t.form);
        plain_cmac(block_by_aes, t.key, aes_vector, 16, session);
        plain_cmac(block_by_aes, session, t.window, t.size, mac);
    }
    truncated(mac, t.mac);
    if (!t.valid)
        t.mac[choice >> 3 & 7] ^= (uint8_t)(1u << (choice >> 6 & 7));
    return t;
}

static void fuzz_single(void)
{
    tap t = take_tap(WINDOW_MAX, 0);
    agree(ix_sdm_verify(t.key, t.uid, t.counter, t.form, t.window, t.size, t.mac) == (int)t.valid, "two ways of a tap");
}

static void fuzz_single_lrp(void)
{
    tap t = take_tap(64, 1);
    agree(ix_lrp_sdm_verify(t.key, t.uid, t.counter, t.form, t.window, t.size, t.mac) == (int)t.valid,
          "two ways of a tap in LRP mode");
}

static void fuzz_lrp_texts(void)
{
    uint8_t *key = take(16), *start = take(16), out[16];
    size_t size = 1 + number(16), blocks = 1 + number(BLOCKS_MAX);
    int from = (int)number(IX_LRP_UPDATED);
    uint8_t *text = take(16 * blocks), *encrypted = lend(16 * blocks), *first = lend(size), *again = lend(size);
    struct plain_lrp plain;
    ix_lrp ready;
    ix_lrp_init(&ready, key);
    plain_lrp_of(&plain, key);
    memcpy(first, start, size), memcpy(again, start, size);
    ix_lricb(&ready, from, first, size, text, blocks, 1, encrypted);
    for (size_t b = 0; b < blocks; b++) {
        uint8_t own[16];
        size_t place = size;
        plain_eval(&plain, from, start, size, own);
        block_by_aes(own, text + 16 * b, out);
        agree(memcmp(out, encrypted + 16 * b, 16) == 0, "two ways of LRICB");
        while (place && ++start[--place] == 0)
            ;
    }
    agree(memcmp(start, first, size) == 0, "the counter after LRICB");
    ix_lricb(&ready, from, again, size, encrypted, blocks, 0, encrypted);
    agree(memcmp(encrypted, text, 16 * blocks) == 0, "LRICB and its inverse in place");
}

static void fuzz_lrp_tap(void)
{
    uint8_t *key = take(16), *uid = take(7), *random = take(8), *block = take(16), *out = lend(16), *back = lend(16);
    size_t blocks = 1 + number(BLOCKS_MAX);
    uint32_t counter = number(65536);
    uint8_t *text = take(16 * blocks), *encrypted = lend(16 * blocks), *clear = lend(16 * blocks);
    ix_lrp_picc(key, random, block, 1, out);
    ix_lrp_picc(key, random, out, 0, back);
    agree(memcmp(back, block, 16) == 0, "PICCData in LRP mode and its inverse");
    ix_lrp_sdm_file(key, uid, counter, text, blocks, 1, encrypted);
    ix_lrp_sdm_file(key, uid, counter, encrypted, blocks, 0, clear);
    agree(memcmp(clear, text, 16 * blocks) == 0, "file data in LRP mode and its inverse");
}

static void fuzz_batch(size_t window_max)
{
    ix_variant variants[IX_VARIANTS_MAX];
    int variant_count = ix_variants_of_this_cpu(variants);
    size_t count = number(BATCH_MAX + 1), total = 0;
    uint8_t *keys = lend(16 * count), *uids = lend(7 * count), *counters = lend(4 * count), *macs = lend(8 * count);
    uint8_t *forms = lend(count), *verdicts = lend(count), *offsets = lend(4 * (count + 1)), *windows;
    uint8_t valid[BATCH_MAX], texts[BATCH_MAX * 64];
    uint32_t at = 0;
    memcpy(offsets, &at, 4);
    for (size_t i = 0; i < count; i++) {
        size_t borrowed = lent_count;
        tap t = take_tap(window_max, 0);
        memcpy(keys + 16 * i, t.key, 16);
        memset(uids + 7 * i, 0xff, 7); /* what is not mirrored must not matter */
        if (t.form & IX_HAS_UID)
            memcpy(uids + 7 * i, t.uid, 7);
        memcpy(counters + 4 * i, &t.counter, 4);
        memcpy(macs + 8 * i, t.mac, 8);
        if (t.size)
            memcpy(texts + total, t.window, t.size);
        forms[i] = (uint8_t)t.form, valid[i] = (uint8_t)t.valid;
        total += t.size, at += (uint32_t)t.size;
        memcpy(offsets + 4 * (i + 1), &at, 4);
        while (lent_count > borrowed)
            free(lent[--lent_count]);
    }
    windows = lend(total);
    if (total)
        memcpy(windows, texts, total);
    for (int v = 0; v < variant_count; v++) {
        ix_sdm_messages messages = {keys, uids, counters, windows, window_max ? offsets : NULL, macs, forms, count};
        memset(verdicts, 2, count);
        variants[v].verify_batch(&messages, verdicts);
        agree(memcmp(verdicts, valid, count) == 0, variants[v].name);
    }
}

static void fuzz_batch_plain(void)
{
    fuzz_batch(0);
}

static void fuzz_batch_windows(void)
{
    fuzz_batch(64);
}

static void (*const operations[])(void) = {
    fuzz_aes,       fuzz_cmac,    fuzz_single,      fuzz_single_lrp,
    fuzz_lrp_texts, fuzz_lrp_tap, fuzz_batch_plain, fuzz_batch_windows,
};

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
    if (!size || !ix_cpu_has_aes())
        return 0;
    given = input + 1, left = size - 1;
    operations[*input % (sizeof operations / sizeof *operations)]();
    while (lent_count)
        free(lent[--lent_count]);
    return 0;
}
