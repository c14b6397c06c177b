/* Runs the native core under Valgrind with its secrets marked as undefined: memcheck then reports every branch and every
 * address that depends on one. Prints one line per case: its name and the number of reports; 0 means constant time.
 *
 * The cases named control_* are broken on purpose, to show that the method detects leaks. Batches in 512-bit registers
 * are not covered, because Valgrind lacks their instructions; they use the same template as the covered width.
 */
#include <stdio.h>
#include <valgrind/memcheck.h>

#include "native/lrp.h"

enum { WINDOW = 40, MESSAGES = 5 };

static uint8_t key[16 * MESSAGES], mac[16 * MESSAGES], block[32], window[WINDOW], uid[7 * MESSAGES], out[64];
static volatile int verdict;

static void secret(void *at, size_t size)
{
    VALGRIND_MAKE_MEM_UNDEFINED(at, size);
}

static void publish(int right)
{
    VALGRIND_MAKE_MEM_DEFINED(&right, sizeof right); /* a verdict is public */
    verdict = right;
}

static void fresh_secrets(void)
{
    for (size_t i = 0; i < sizeof key; i++)
        key[i] = (uint8_t)(17 * i + 3), mac[i] = (uint8_t)(29 * i + 7);
    secret(key, sizeof key);
}

static void comparison(void)
{
    uint8_t expected[16] = {0};
    secret(expected, sizeof expected);
    publish(ix_equal(expected, mac, sizeof expected));
}

static void aes(void)
{
    ix_aes128 schedule;
    secret(block, 16);
    ix_aes128_expand(&schedule, key);
    ix_aes128_encrypt(&schedule, block, out);
    ix_aes128_invert(&schedule);
    ix_aes128_decrypt(&schedule, block, out);
    ix_wipe(&schedule, sizeof schedule);
}

static void aes_cmac(void)
{
    ix_cmac_key ready;
    ix_cmac_init(&ready, key);
    for (size_t size = 0; size <= WINDOW; size++)
        ix_cmac(&ready, window, size, out);
    ix_cmac_subkeys(&ready, out, out + 16, out + 32);
    ix_wipe(&ready, sizeof ready);
}

static void mact_verify(void)
{
    for (size_t size = 0; size <= WINDOW; size++)
        publish(ix_mact_verify(key, window, size, mac));
}

static void aes_verify(void)
{
    for (unsigned form = 0; form < 4; form++) {
        ix_sdm_session_key(key, IX_SV1, uid, 61, form, out);
        publish(ix_sdm_verify(key, uid, 61, form, window, WINDOW, mac));
        publish(ix_sdm_verify(key, uid, 61, form, window, 0, mac));
    }
}

static void aes_verify_batch(void)
{
    uint32_t counters[MESSAGES] = {1, 2, 3, 4, 5}, offsets[MESSAGES + 1] = {0, 0, 1, 16, 33, 40};
    uint8_t forms[MESSAGES] = {3, 3, 2, 1, 0}, verdicts[MESSAGES];
    ix_sdm_messages messages = {key, uid, (const uint8_t *)counters, window, (const uint8_t *)offsets, mac, forms,
                                MESSAGES};
    ix1_sdm_verify_batch(&messages, verdicts);
    messages.offsets = NULL;
    ix1_sdm_verify_batch(&messages, verdicts);
}

static void lrp_cmac(void)
{
    ix_lrp ready;
    ix_lrp_init_for_cmac(&ready, key);
    secret(window, WINDOW);
    for (size_t size = 0; size <= WINDOW; size += 8)
        ix_lrp_cmac(&ready, window, size, out);
    ix_wipe(&ready, sizeof ready);
    VALGRIND_MAKE_MEM_DEFINED(window, WINDOW);
}

static void lrp_verify(void)
{
    for (unsigned form = 0; form < 4; form++) {
        publish(ix_lrp_sdm_verify(key, uid, 61, form, window, WINDOW, mac));
        publish(ix_lrp_sdm_verify(key, uid, 61, form, window, 0, mac));
    }
}

static void lrp_mirror_and_file(void)
{
    ix_lrp_picc(key, uid, block, 0, out);
    ix_lrp_picc(key, uid, block, 1, out);
    ix_lrp_sdm_file(key, uid, 61, block, 2, 0, out);
    ix_lrp_sdm_file(key, uid, 61, block, 2, 1, out);
}

/* Through a pointer, because GCC turns a memcmp of known size into a comparison without branches. */
static void control_memcmp(void)
{
    int (*volatile compare)(const void *, const void *, size_t) = memcmp;
    ix_lrp ready;
    ix_lrp_init_for_cmac(&ready, key);
    ix_lrp_cmac(&ready, window, WINDOW, out);
    publish(compare(out, mac, 16) == 0);
}

static void control_early_exit(void)
{
    uint64_t expected = ix_sdm_mac(key, uid, 61, 3, window, WINDOW);
    for (size_t i = 0; i < 8; i++)
        if ((uint8_t)(expected >> 8 * i) != mac[i]) {
            verdict = 0;
            return;
        }
    verdict = 1;
}

/* The same byte by byte, and without a session key. */
static void control_early_exit_mact(void)
{
    uint64_t expected = ix_mact(key, window, WINDOW);
    size_t i = 0;
    while (i < 8 && (uint8_t)(expected >> 8 * i) == mac[i])
        i++;
    verdict = i == 8;
}

/* The plaintext looked up by nibble, as software that ignores timing would do it. */
static void control_table_index(void)
{
    ix_lrp ready;
    ix_lrp_init(&ready, key);
    secret(block, 1);
    memcpy(out, &ready.plaintext[block[0] & 15], 16);
}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    {"comparison", comparison},
    {"aes", aes},
    {"aes_cmac", aes_cmac},
    {"mact_verify", mact_verify},
    {"aes_verify", aes_verify},
    {"aes_verify_batch", aes_verify_batch},
    {"lrp_cmac", lrp_cmac},
    {"lrp_verify", lrp_verify},
    {"lrp_mirror_and_file", lrp_mirror_and_file},
    {"control_memcmp", control_memcmp},
    {"control_early_exit", control_early_exit},
    {"control_early_exit_mact", control_early_exit_mact},
    {"control_table_index", control_table_index},
};

int main(void)
{
    if (!RUNNING_ON_VALGRIND || !ix_cpu_has_aes()) {
        fprintf(stderr, "run it under valgrind, on a CPU (and a Valgrind) with AES instructions\n");
        return 2;
    }
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        unsigned long before = VALGRIND_COUNT_ERRORS;
        fresh_secrets();
        cases[i].run();
        printf("%s %lu\n", cases[i].name, VALGRIND_COUNT_ERRORS - before);
    }
    return 0;
}
