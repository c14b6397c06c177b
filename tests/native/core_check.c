/* Runs the native core's headers without Python: reads cases from standard input, prints what fails and a summary.
 *
 * A line is an operation and its arguments in hex, where "-" means empty:
 *   aes key plaintext ciphertext     aes_cmac key message mac     sdm key uid counter window mac valid
 *   lricb key updated-key first-counter plaintext ciphertext      lrp_cmac key message mac
 *   mact key message mac valid
 *   lrp_sdm like sdm, in LRP mode
 * (the counter of a tap is 8 hex digits, most significant first). Every sdm line also becomes part of one batch, run by
 * every variant that this CPU supports. Finally, the stack of a verification is searched for round keys, and the stack
 * of one in LRP mode for values derived from its keys.
 */
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#include "native/lrp.h"

enum { CASES_MAX = 4096, HEX_MAX = 8200, STACK_SEARCHED = 1 << 16 };

static struct {
    uint8_t keys[CASES_MAX * 16], uids[CASES_MAX * 7], macs[CASES_MAX * 8], forms[CASES_MAX], valid[CASES_MAX];
    uint8_t windows[1 << 20];
    uint32_t counters[CASES_MAX], offsets[CASES_MAX + 1];
    size_t count;
} batch;

static unsigned failures;

static void expect(int right, const char *what, unsigned long number)
{
    if (right)
        return;
    failures++;
    printf("FAILED %s, line %lu\n", what, number);
}

static size_t unhex(const char *hex, uint8_t *out)
{
    size_t size = strlen(hex) / 2;
    if (hex[0] == '-')
        return 0;
    for (size_t i = 0; i < size; i++) {
        unsigned byte;
        if (sscanf(hex + 2 * i, "%2x", &byte) != 1)
            abort();
        out[i] = (uint8_t)byte;
    }
    return size;
}

static void check_aes(const char *key_hex, const char *plain_hex, const char *cipher_hex, unsigned long line)
{
    uint8_t key[16], plain[16], cipher[16], out[16];
    ix_aes128 schedule;
    unhex(key_hex, key), unhex(plain_hex, plain), unhex(cipher_hex, cipher);
    ix_aes128_expand(&schedule, key);
    ix_aes128_encrypt(&schedule, plain, out);
    expect(memcmp(out, cipher, 16) == 0, "AES encryption", line);
    ix_aes128_invert(&schedule);
    ix_aes128_decrypt(&schedule, cipher, out);
    expect(memcmp(out, plain, 16) == 0, "AES decryption", line);
}

static void check_cmac(const char *key_hex, const char *message_hex, const char *mac_hex, unsigned long line)
{
    uint8_t key[16], message[HEX_MAX / 2], mac[16], out[16];
    ix_cmac_key ready;
    size_t size = unhex(message_hex, message);
    unhex(key_hex, key), unhex(mac_hex, mac);
    ix_cmac_init(&ready, key);
    ix_cmac(&ready, message, size, out);
    expect(ix_equal(out, mac, 16), "AES-CMAC", line);
    out[line % 16] ^= (uint8_t)(1u << line % 8);
    expect(!ix_equal(out, mac, 16), "comparison of a changed AES-CMAC", line);
}

/* The last case, whose keys are searched for. */
static struct {
    uint8_t key[16], message[HEX_MAX / 2], mac[8];
    size_t size;
} mact;

static void check_mact(char field[][HEX_MAX], unsigned long line)
{
    uint64_t made;
    unhex(field[0], mact.key);
    mact.size = unhex(field[1], mact.message);
    unhex(field[2], mact.mac);
    expect(ix_mact_verify(mact.key, mact.message, mact.size, mact.mac) == (field[3][0] == '1'),
           "verification of a truncated AES-CMAC", line);
    made = ix_mact(mact.key, mact.message, mact.size);
    expect((memcmp(&made, mact.mac, 8) == 0) == (field[3][0] == '1'), "truncated AES-CMAC", line);
}

static void check_lrp_cmac(const char *key_hex, const char *message_hex, const char *mac_hex, unsigned long line)
{
    uint8_t key[16], message[HEX_MAX / 2], mac[16], out[16];
    ix_lrp ready;
    size_t size = unhex(message_hex, message);
    unhex(key_hex, key), unhex(mac_hex, mac);
    ix_lrp_init_for_cmac(&ready, key);
    ix_lrp_cmac(&ready, message, size, out);
    expect(ix_equal(out, mac, 16), "LRP-CMAC", line);
}

static void check_lricb(char field[][HEX_MAX], unsigned long line)
{
    uint8_t key[16], first[16], counter[16], plain[HEX_MAX / 2], cipher[HEX_MAX / 2], out[HEX_MAX / 2];
    ix_lrp ready;
    int from = atoi(field[1]);
    size_t counter_size = unhex(field[2], first), size = unhex(field[3], plain);
    unhex(field[0], key), unhex(field[4], cipher);
    ix_lrp_init(&ready, key);
    memcpy(counter, first, sizeof counter);
    ix_lricb(&ready, from, counter, counter_size, plain, size / 16, 1, out);
    expect(memcmp(out, cipher, size) == 0, "LRICB encryption", line);
    memcpy(counter, first, sizeof counter);
    ix_lricb(&ready, from, counter, counter_size, cipher, size / 16, 0, out);
    expect(memcmp(out, plain, size) == 0, "LRICB decryption", line);
}

/* The last case, whose keys are searched for. */
static struct {
    uint8_t key[16], uid[7], mac[8], window[HEX_MAX / 2];
    uint32_t counter;
    unsigned form;
    size_t size;
} lrp;

static void check_lrp_sdm(char field[][HEX_MAX], unsigned long line)
{
    unhex(field[0], lrp.key);
    lrp.form = unhex(field[1], lrp.uid) ? IX_HAS_UID : 0;
    lrp.form |= field[2][0] != '-' ? IX_HAS_COUNTER : 0;
    lrp.counter = lrp.form & IX_HAS_COUNTER ? (uint32_t)strtoul(field[2], NULL, 16) : 0;
    lrp.size = unhex(field[3], lrp.window);
    unhex(field[4], lrp.mac);
    expect(ix_lrp_sdm_verify(lrp.key, lrp.uid, lrp.counter, lrp.form, lrp.window, lrp.size, lrp.mac)
               == (field[5][0] == '1'), "SDM verification in LRP mode", line);
}

static void check_sdm(char field[][HEX_MAX], unsigned long line)
{
    size_t i = batch.count++, size;
    const uint8_t *window = batch.windows + batch.offsets[i];
    if (i >= CASES_MAX - 1)
        abort();
    unhex(field[0], batch.keys + 16 * i);
    batch.forms[i] = unhex(field[1], batch.uids + 7 * i) ? IX_HAS_UID : 0;
    if (field[2][0] != '-') {
        batch.counters[i] = (uint32_t)strtoul(field[2], NULL, 16);
        batch.forms[i] |= IX_HAS_COUNTER;
    }
    size = unhex(field[3], batch.windows + batch.offsets[i]);
    batch.offsets[i + 1] = batch.offsets[i] + (uint32_t)size;
    unhex(field[4], batch.macs + 8 * i);
    batch.valid[i] = field[5][0] == '1';
    expect(ix_sdm_verify(batch.keys + 16 * i, batch.uids + 7 * i, batch.counters[i], batch.forms[i], window, size,
                         batch.macs + 8 * i) == batch.valid[i], "SDM verification", line);
}

static void check_batch(const ix_variant *variant)
{
    static uint8_t verdicts[CASES_MAX];
    ix_sdm_messages messages = {batch.keys, batch.uids, (const uint8_t *)batch.counters, batch.windows,
                                (const uint8_t *)batch.offsets, batch.macs, batch.forms, batch.count};
    for (size_t count = 0; count <= batch.count; count++) {
        messages.count = count < 40 ? count : batch.count;
        memset(verdicts, 2, sizeof verdicts);
        variant->verify_batch(&messages, verdicts);
        expect(memcmp(verdicts, batch.valid, messages.count) == 0 && verdicts[messages.count] == 2, variant->name,
               (unsigned long)messages.count);
        count = messages.count;
    }
}

/* The work whose traces are searched for runs on a stack of its own. */
static uint8_t searched[STACK_SEARCHED] __attribute__((aligned(64)));
static ucontext_t here, there;
/* 1 and above: a batch by that variant. */
enum { MACT = -4, LEAVES_LRP = -3, LRP = -2, LEAVES_KEYS = -1, ONE_MESSAGE = 0 };
static int work;

static void leave_lrp(void)
{
    ix_lrp session;
    ix_lrp_init(&session, lrp.key);
    __asm__ __volatile__("" : : "r"(&session) : "memory");
}

static void leave_keys(void)
{
    ix_aes128 schedule;
    ix_aes128_expand(&schedule, batch.keys + 16 * (batch.count - 1));
    __asm__ __volatile__("" : : "r"(&schedule) : "memory");
}

static void run_work(void)
{
    static uint8_t verdicts[CASES_MAX];
    ix_variant variants[IX_VARIANTS_MAX];
    size_t last = batch.count - 1;
    ix_sdm_messages messages = {batch.keys, batch.uids, (const uint8_t *)batch.counters, batch.windows,
                                (const uint8_t *)batch.offsets, batch.macs, batch.forms, batch.count};
    (void)ix_variants_of_this_cpu(variants);
    if (work == LEAVES_LRP)
        leave_lrp();
    else if (work == MACT)
        (void)ix_mact_verify(mact.key, mact.message, mact.size, mact.mac);
    else if (work == LRP)
        (void)ix_lrp_sdm_verify(lrp.key, lrp.uid, lrp.counter, lrp.form, lrp.window, lrp.size, lrp.mac);
    else if (work == LEAVES_KEYS)
        leave_keys();
    else if (work == ONE_MESSAGE)
        (void)ix_sdm_verify(batch.keys + 16 * last, batch.uids + 7 * last, batch.counters[last], batch.forms[last],
                            batch.windows + batch.offsets[last], batch.offsets[last + 1] - batch.offsets[last],
                            batch.macs + 8 * last);
    else
        variants[work - 1].verify_batch(&messages, verdicts);
}

static void run(int which)
{
    memset(searched, 0x5a, sizeof searched);
    getcontext(&there);
    there.uc_stack.ss_sp = searched;
    there.uc_stack.ss_size = sizeof searched;
    there.uc_link = &here;
    work = which;
    makecontext(&there, run_work, 0);
    swapcontext(&here, &there);
}

static int lies_on_the_stack(const void *blocks, size_t count)
{
    for (size_t i = 0; i + 16 <= sizeof searched; i++)
        for (size_t b = 0; b < count; b++)
            if (memcmp(searched + i, (const uint8_t *)blocks + 16 * b, 16) == 0)
                return 1;
    return 0;
}

/* Whether any round key of the last message's file key or MAC session key is left on the stack by the work. */
static int leaves_keys(int which)
{
    ix_aes128 schedules[2];
    uint8_t session_key[16];
    size_t last = batch.count - 1;
    const uint8_t *key = batch.keys + 16 * last; /* random, whereas the published ones are zeros like unused stack */
    run(which);
    ix_sdm_session_key(key, IX_SV2, batch.uids + 7 * last, batch.counters[last], batch.forms[last], session_key);
    ix_aes128_expand(&schedules[0], key);
    ix_aes128_expand(&schedules[1], session_key);
    return lies_on_the_stack(schedules, 2 * (IX_ROUNDS + 1));
}

/* The same for the keys of LRP mode and values derived from them: plaintexts, updated keys and subkeys. */
static int leaves_lrp(int which)
{
    ix_lrp made[4];
    uint8_t master[16];
    run(which);
    memset(made, 0xe7, sizeof made); /* unfilled parts must not match anything */
    ix_lrp_session_master(lrp.key, lrp.uid, lrp.counter, lrp.form, master);
    ix_lrp_init(&made[0], lrp.key);
    ix_lrp_init_for_cmac(&made[1], lrp.key);
    ix_lrp_init(&made[2], master);
    ix_lrp_init_for_cmac(&made[3], master);
    return lies_on_the_stack(made, sizeof made / 16) || lies_on_the_stack(master, 1);
}

static int leaves_mact(int which)
{
    ix_cmac_key made;
    run(which);
    ix_cmac_init(&made, mact.key);
    return lies_on_the_stack(&made, sizeof made / 16);
}

static int fields_of(const char *operation)
{
    if (strcmp(operation, "sdm") == 0 || strcmp(operation, "lrp_sdm") == 0)
        return 6;
    if (strcmp(operation, "mact") == 0)
        return 4;
    return strcmp(operation, "lricb") == 0 ? 5 : 3;
}

static void check(const char *operation, char field[][HEX_MAX], unsigned long line)
{
    if (strcmp(operation, "aes") == 0)
        check_aes(field[0], field[1], field[2], line);
    else if (strcmp(operation, "aes_cmac") == 0)
        check_cmac(field[0], field[1], field[2], line);
    else if (strcmp(operation, "lrp_cmac") == 0)
        check_lrp_cmac(field[0], field[1], field[2], line);
    else if (strcmp(operation, "lricb") == 0)
        check_lricb(field, line);
    else if (strcmp(operation, "mact") == 0)
        check_mact(field, line);
    else if (strcmp(operation, "lrp_sdm") == 0)
        check_lrp_sdm(field, line);
    else if (strcmp(operation, "sdm") == 0)
        check_sdm(field, line);
    else
        abort();
}

int main(void)
{
    static char field[6][HEX_MAX];
    char operation[16];
    unsigned long line = 0;
    ix_variant variants[IX_VARIANTS_MAX];
    int count = ix_variants_of_this_cpu(variants);
    for (; scanf("%15s", operation) == 1; line++) {
        for (int f = 0; f < fields_of(operation); f++)
            if (scanf("%8199s", field[f]) != 1)
                abort();
        check(operation, field, line);
    }
    for (int v = 0; v < count; v++)
        check_batch(&variants[v]);
    if (batch.count) {
        expect(leaves_keys(LEAVES_KEYS), "finding keys that were left on purpose", 0);
        for (int v = 0; v <= count; v++)
            expect(!leaves_keys(v), v ? "wiping after a batch" : "wiping after one message", (unsigned long)v);
    }
    if (mact.size)
        expect(!leaves_mact(MACT), "wiping after one message without a session key", 0);
    if (lrp.form) {
        expect(leaves_lrp(LEAVES_LRP), "finding plaintexts that were left on purpose", 0);
        expect(!leaves_lrp(LRP), "wiping after one message in LRP mode", 0);
    }
    printf("%lu cases, %u failures, variants:", line, failures);
    for (int v = 0; v < count; v++)
        printf(" %s", variants[v].name);
    printf("\n");
    return failures || !line || !count;
}
