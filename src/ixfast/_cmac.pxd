# Table of contents of the native core: the declarations of the C headers, then the core's own inner functions.
#
# Other compiled modules may cimport from here. Every pointer must refer to readable (or, for results, writable)
# memory of the length in its comment. Nothing here checks lengths, holds the GIL or raises.

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef extern from "native/aes128.h" nogil:
    ctypedef struct ix_aes128:              # one expanded key, wiped by its owner
        pass
    ctypedef struct ix_cmac_key:            # an expanded key with the CMAC subkeys
        ix_aes128 aes

    void ix_wipe(void *secret, size_t size)
    bint ix_equal(const uint8_t *a, const uint8_t *b, size_t size)

    void ix_aes128_expand(ix_aes128 *schedule, const uint8_t *key)
    void ix_aes128_invert(ix_aes128 *schedule)
    void ix_aes128_encrypt(const ix_aes128 *schedule, const uint8_t *block, uint8_t *out)
    void ix_aes128_decrypt(const ix_aes128 *inverted, const uint8_t *block, uint8_t *out)

    void ix_cmac_init(ix_cmac_key *ready, const uint8_t *key)
    void ix_cmac(const ix_cmac_key *ready, const uint8_t *message, size_t size, uint8_t *mac)
    uint64_t ix_mact(const uint8_t *key, const uint8_t *message, size_t size)
    bint ix_mact_verify(const uint8_t *key, const uint8_t *message, size_t size, const uint8_t *mac)
    void ix_cmac_subkeys(const ix_cmac_key *ready, uint8_t *l, uint8_t *k1, uint8_t *k2)


cdef extern from "native/sdm.h" nogil:
    const uint64_t IX_SV1, IX_SV2           # session vector headers: encryption, MAC
    const unsigned int IX_HAS_UID, IX_HAS_COUNTER

    void ix_sdm_session_key(const uint8_t *file_key, uint64_t header, const uint8_t *uid, uint32_t counter,
                            unsigned int form, uint8_t *session_key)
    uint64_t ix_sdm_mac(const uint8_t *file_key, const uint8_t *uid, uint32_t counter, unsigned int form,
                        const uint8_t *window, size_t size)
    bint ix_sdm_verify(const uint8_t *file_key, const uint8_t *uid, uint32_t counter, unsigned int form,
                       const uint8_t *window, size_t size, const uint8_t *mac)

    ctypedef struct ix_sdm_messages:
        const uint8_t *file_keys            # 16 bytes each
        const uint8_t *uids                 # 7 bytes each
        const uint8_t *counters             # little-endian uint32 each
        const uint8_t *windows
        const uint8_t *offsets              # count + 1 little-endian uint32, or NULL: all windows empty
        const uint8_t *macs                 # 8 bytes each
        const uint8_t *forms                # 1 byte each
        size_t count

    ctypedef void (*ix_sdm_batch_function)(const ix_sdm_messages *messages, uint8_t *verdicts)
    ctypedef struct ix_variant:
        const char *name
        ix_sdm_batch_function verify_batch

    enum: IX_VARIANTS_MAX
    int ix_variants_of_this_cpu(ix_variant *found)      # best first; returns how many, 0 without AES instructions


cdef enum:
    COUNTER_MAX = 0xFFFFFF
    WINDOW_MAX = 4096                       # bytes; a URL of 2 KiB and the largest standard data file in hex both fit
    CIPHERTEXT_MAX = 4096                   # bytes


cdef inline const uint8_t *pointer(bytes value) noexcept:
    return <const uint8_t *>PyBytes_AS_STRING(value)


# Argument checks: exceptions name the argument and its required length.
cdef int check_size(bytes value, Py_ssize_t size, str name) except -1
cdef int check_window(bytes window) except -1
cdef int check_blocks(bytes text, str name) except -1
cdef int check_file_message(bytes file_key, bytes uid, object counter, bytes text, str name, uint32_t *value) except -1

# Check what a message mirrors: bits of IX_HAS_*, or -1 with an exception set.
cdef int form_of(bytes uid, object counter, uint32_t *value) except -1

# CBC under the file data session key; `count` blocks of 16 bytes from `text` to `out`.
cdef void file_cipher(const uint8_t *file_key, const uint8_t *uid, uint32_t counter, const uint8_t *text, size_t count,
                      bint encrypt, uint8_t *out) noexcept nogil
